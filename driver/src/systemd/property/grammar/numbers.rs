//! Numbers, sizes, shares, sets of numbers, and booleans.

use super::{LIST, Parsed, Split, is_space, words};

/// A boolean.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is(&["1", "yes", "y", "true", "t", "on"]) {
        Some(true)
    } else if is(&["0", "no", "n", "false", "f", "off"]) {
        Some(false)
    } else {
        None
    }
}

/// An integer as C writes it (`16`, `0x10`, `020`), or with `0b` and `0o`.
pub(crate) fn integer<T: TryFrom<i128>>(text: &str) -> Parsed<T> {
    let digits = text.trim_start_matches(is_space);
    let (negative, unsigned) = match digits.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let (radix, unsigned) = match unsigned.get(..2) {
        Some("0x" | "0X") => (16, &unsigned[2..]),
        Some("0b" | "0B") => (2, &unsigned[2..]),
        Some("0o" | "0O") => (8, &unsigned[2..]),
        Some(_) if unsigned.starts_with('0') => (8, &unsigned[1..]),
        _ => (10, unsigned),
    };
    // from_str_radix would accept a second sign.
    let number = unsigned.chars().all(char::is_alphanumeric).then(|| i128::from_str_radix(unsigned, radix));
    let number = number.and_then(Result::ok).ok_or_else(|| format!("`{text}` is not an integer"))?;
    let number = if negative { -number } else { number };
    T::try_from(number).map_err(|_| format!("{number} is out of range"))
}

/// An integer in `range`.
pub(crate) fn within<T>(text: &str, range: std::ops::RangeInclusive<T>) -> Parsed<T>
where
    T: TryFrom<i128> + PartialOrd + std::fmt::Display,
{
    let number = integer(text)?;
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!("{number} is not between {} and {}", range.start(), range.end()))
    }
}

/// Permissions, in octal.
pub(crate) fn mode(text: &str) -> Parsed<u32> {
    let digits = text.trim_start_matches(is_space);
    let octal = !digits.is_empty() && digits.chars().all(|c| c.is_digit(8));
    let mode = octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten();
    mode.filter(|&mode| mode <= 0o7777).ok_or_else(|| "it is not an octal number up to 7777".to_owned())
}

/// Bytes: sums of numbers with descending units, `1G 500M`. `base` is 1024 or 1000.
pub(crate) fn size(text: &str, base: u128) -> Parsed<u64> {
    const UNITS: [(&str, u32); 8] =
        [("E", 6), ("P", 5), ("T", 4), ("G", 3), ("M", 2), ("K", 1), ("B", 0), ("", 0)];
    let wrong = || format!("`{text}` is not a size such as `512M` or `1.5G`");
    let (mut rest, mut sum, mut units) = (text, 0_u128, &UNITS[..]);
    loop {
        let (whole, fraction, behind) = decimal(rest.trim_start_matches(is_space)).ok_or_else(wrong)?;
        let behind = behind.trim_start_matches(is_space);
        let at = units.iter().position(|(unit, _)| behind.starts_with(unit)).ok_or_else(wrong)?;
        let (unit, power) = units[at];
        units = &units[at + 1..];
        let unit_bytes = base.pow(power);
        sum += whole * unit_bytes + part(fraction, unit_bytes, 1_000_000_000_000);
        rest = &behind[unit.len()..];
        if rest.is_empty() {
            return u64::try_from(sum).map_err(|_| format!("`{text}` is more than 64 bits can say"));
        }
    }
}

/// Splits a decimal number off `text`: whole part, digits of the fraction, rest.
pub(crate) fn decimal(text: &str) -> Option<(u128, &str, &str)> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let (whole, rest) = digits(unsigned);
    // Any number with so many digits is too large.
    let number = if whole.len() > 20 { u128::from(u64::MAX) + 1 } else { whole.parse().ok()? };
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    Some((number, fraction, rest))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The `fraction` (digits after the point) of `unit`, counted in steps of 1/`steps` and rounded down.
pub(crate) fn part(fraction: &str, unit: u128, steps: u128) -> u128 {
    let mut place = unit * steps;
    let parts = fraction.chars().filter_map(|c| c.to_digit(10)).map(|digit| {
        place /= 10;
        u128::from(digit) * place
    });
    parts.sum::<u128>() / steps
}

/// Hundredths of a percent: `12.5%`, or with the sign for per mille or per ten thousand.
pub(crate) fn permyriad(text: &str) -> Parsed<u32> {
    let wrong = || format!("`{text}` is not a percentage such as `50%` or `12.5%`");
    let (number, places, hundredths) = if let Some(number) = text.strip_suffix('\u{2031}') {
        (number, 0, 1)
    } else if let Some(number) = text.strip_suffix('\u{2030}') {
        (number, 1, 10)
    } else {
        (text.strip_suffix('%').ok_or_else(wrong)?, 2, 100)
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, fraction)) if fraction.is_empty() || places == 0 => return Err(wrong()),
        Some(parts) => parts,
        None => (number, ""),
    };
    if fraction.len() > places || !fraction.chars().all(|c| c.is_ascii_digit()) {
        return Err(format!("`{text}` is finer than a hundredth of a percent"));
    }
    let whole: i32 = integer(whole).map_err(|_| wrong())?;
    let parts: u32 = format!("{fraction:0<places$}").parse().unwrap_or_default();
    let all = u32::try_from(whole).ok().and_then(|whole| whole.checked_mul(hundredths));
    all.and_then(|all| all.checked_add(parts)).filter(|&all| i32::try_from(all).is_ok()).ok_or_else(wrong)
}

/// Numbers and ranges, as the bytes of a bit set.
pub(crate) fn bit_set(text: &str) -> Parsed<Vec<u8>> {
    /// The largest number of CPUs that Linux can be built for.
    const MOST: u32 = 8192;
    let mut bits = Vec::new();
    for word in words(text, Split { separators: " \t\n\r,", ..LIST })? {
        let (first, last) = word.split_once('-').unwrap_or((&word, &word));
        let (first, last): (u32, u32) = (integer(first)?, integer(last)?);
        if first > last || last >= MOST {
            return Err(format!("`{word}` is not a number or range of numbers below {MOST}"));
        }
        for bit in first..=last {
            let (byte, bit) = (bit as usize / 8, bit % 8);
            // systemd counts in words of 64 bits.
            bits.resize(bits.len().max((byte / 8 + 1) * 8), 0);
            bits[byte] |= 1_u8 << bit;
        }
    }
    Ok(bits)
}

/// Bytes in hexadecimal digits.
pub(crate) fn hexadecimal(text: &str) -> Parsed<Vec<u8>> {
    let digits: String = text.chars().filter(|&c| !is_space(c)).collect();
    hex::decode(digits)
        .map_err(|_| "it is neither an absolute path nor pairs of hexadecimal digits".to_owned())
}
