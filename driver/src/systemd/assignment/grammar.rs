//! The small parts of systemd's grammar: words, numbers, times, sizes. Every failure is a clause that says what is wrong.

use std::borrow::Cow;

/// What was read, or why it cannot be read.
pub(super) type Parsed<T> = Result<T, String>;

/// What stands between words.
pub(super) const SPACE: &str = " \t\n\r";

/// What a backslash does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backslash {
    /// It is a character like any other.
    Stays,
    /// It takes away the meaning of the character behind it.
    Hides,
    /// It begins an escape as in C.
    Escapes,
    /// As [`Backslash::Escapes`], and it takes away the meaning of a separator.
    EscapesOrHides,
}

/// How a text falls into words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub separators: &'static str,
    /// `"` and `'` keep together what stands between them.
    pub quotes: bool,
    pub backslash: Backslash,
    /// Every separator ends a word, so there can be empty ones.
    pub each: bool,
}

/// Words of a list: between spaces, perhaps quoted.
pub(super) const LIST: Split =
    Split { separators: SPACE, quotes: true, backslash: Backslash::Hides, each: false };
/// Fields between colons.
pub(super) const FIELDS: Split = Split { separators: ":", quotes: false, each: true, ..LIST };

/// A text that is taken apart word by word.
#[derive(Debug)]
pub(super) struct Words<'a> {
    rest: Option<&'a str>,
}

/// A word, and the separator behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    pub ended_by: Option<char>,
}

impl<'a> Words<'a> {
    pub fn of(text: &'a str) -> Self {
        Self { rest: Some(text) }
    }

    /// What no word has been taken from yet; `None` once the last word was taken.
    pub fn rest(&self) -> Option<&'a str> {
        self.rest
    }

    /// Passes over spaces.
    pub fn skip_space(&mut self) {
        self.rest = self.rest.map(|rest| rest.trim_start_matches(is_space)).filter(|rest| !rest.is_empty());
    }

    /// Takes the next word.
    pub fn next(&mut self, split: Split) -> Parsed<Option<Word>> {
        let separates = |c: char| split.separators.contains(c);
        let Some(mut rest) = self.rest.take() else { return Ok(None) };
        if !split.each {
            rest = rest.trim_start_matches(separates);
            if rest.is_empty() {
                return Ok(None);
            }
        }
        let (mut word, mut quote, mut ended_by) = (Vec::new(), None, None);
        while let Some(c) = pop(&mut rest) {
            if c == '\\' && split.backslash != Backslash::Stays {
                unescape(&mut rest, split, &mut word)?;
            } else if quote == Some(c) {
                quote = None;
            } else if quote.is_none() && split.quotes && matches!(c, '"' | '\'') {
                quote = Some(c);
            } else if quote.is_none() && separates(c) {
                if !split.each {
                    rest = rest.trim_start_matches(separates);
                }
                self.rest = Some(rest).filter(|rest| split.each || !rest.is_empty());
                ended_by = Some(c);
                break;
            } else {
                push(&mut word, c);
            }
        }
        if quote.is_some() {
            return Err("a quote is not closed".to_owned());
        }
        let text = String::from_utf8(word).map_err(|_| "an escape makes bytes that are not UTF-8")?;
        Ok(Some(Word { text, ended_by }))
    }
}

/// All words of `text`.
pub(super) fn words(text: &str, split: Split) -> Parsed<Vec<String>> {
    let mut rest = Words::of(text);
    std::iter::from_fn(|| rest.next(split).transpose()).map(|word| word.map(|word| word.text)).collect()
}

/// The fields of `text`, at most `most`.
pub(super) fn fields(text: &str, split: Split, most: usize) -> Parsed<Vec<String>> {
    let fields = words(text, split)?;
    if fields.len() > most {
        return Err(format!(
            "it has {} parts between colons, and at most {most} have a meaning",
            fields.len()
        ));
    }
    Ok(fields)
}

/// `word` in a form that systemd's splitting into words, at spaces or colons, gives exactly back.
pub fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| !is_space(c) && !matches!(c, '"' | '\'' | '\\' | ':');
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted.into()
}

pub(super) fn is_space(c: char) -> bool {
    SPACE.contains(c)
}

fn pop(rest: &mut &str) -> Option<char> {
    let mut chars = rest.chars();
    let first = chars.next();
    *rest = chars.as_str();
    first
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Reads what stands behind a backslash.
fn unescape(rest: &mut &str, split: Split, word: &mut Vec<u8>) -> Parsed<()> {
    let Some(c) = pop(rest) else { return Err("it ends in a backslash".to_owned()) };
    let hidden = match split.backslash {
        Backslash::Stays | Backslash::Hides => true,
        Backslash::Escapes => false,
        Backslash::EscapesOrHides => split.separators.contains(c),
    };
    if hidden {
        push(word, c);
        return Ok(());
    }
    let mut code = |length: usize, radix: u32| {
        let (digits, behind) = rest.split_at_checked(length).ok_or_else(|| format!("`\\{c}` is cut off"))?;
        *rest = behind;
        // from_str_radix would take a sign.
        let digits = Some(digits).filter(|digits| digits.chars().all(|c| c.is_digit(radix)));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
        code.ok_or_else(|| format!("`\\{c}` is followed by no digits of a character"))
    };
    let byte = |code: u32| match u8::try_from(code) {
        Ok(byte) if byte != 0 => Ok(byte),
        _ => Err(format!("`\\{c}` begins a number that is no byte of a text")),
    };
    let letter = |code: u32| match char::from_u32(code) {
        Some(letter) if letter != '\0' => Ok(letter),
        _ => Err(format!("`\\{c}` begins a number that is no character")),
    };
    match c {
        'a' => word.push(0x07),
        'b' => word.push(0x08),
        'f' => word.push(0x0c),
        'n' => word.push(b'\n'),
        'r' => word.push(b'\r'),
        't' => word.push(b'\t'),
        'v' => word.push(0x0b),
        's' => word.push(b' '),
        '\\' | '"' | '\'' => push(word, c),
        'x' => word.push(byte(code(2, 16)?)?),
        'u' => push(word, letter(code(4, 16)?)?),
        'U' => push(word, letter(code(8, 16)?)?),
        '0'..='7' => word.push(byte(c.to_digit(8).unwrap_or_default() * 64 + code(2, 8)?)?),
        _ => return Err(format!("`\\{c}` is no escape")),
    }
    Ok(())
}

/// A yes or a no.
pub(super) fn boolean(text: &str) -> Option<bool> {
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
pub(super) fn integer<T: TryFrom<i128>>(text: &str) -> Parsed<T> {
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
    // from_str_radix would take a second sign.
    let number = unsigned.chars().all(char::is_alphanumeric).then(|| i128::from_str_radix(unsigned, radix));
    let number = number.and_then(Result::ok).ok_or_else(|| format!("`{text}` is not an integer"))?;
    let number = if negative { -number } else { number };
    T::try_from(number).map_err(|_| format!("{number} is out of range"))
}

/// An integer of `range`.
pub(super) fn within<T>(text: &str, range: std::ops::RangeInclusive<T>) -> Parsed<T>
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
pub(super) fn mode(text: &str) -> Parsed<u32> {
    let digits = text.trim_start_matches(is_space);
    let octal = !digits.is_empty() && digits.chars().all(|c| c.is_digit(8));
    let mode = octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten();
    mode.filter(|&mode| mode <= 0o7777).ok_or_else(|| "it is not an octal number up to 7777".to_owned())
}

/// Bytes: sums of numbers with falling units, `1G 500M`. `base` is 1024 or 1000.
pub(super) fn size(text: &str, base: u128) -> Parsed<u64> {
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
fn decimal(text: &str) -> Option<(u128, &str, &str)> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let (whole, rest) = digits(unsigned);
    // Saturated or not, it is too large.
    let number = if whole.len() > 20 { u128::from(u64::MAX) + 1 } else { whole.parse().ok()? };
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    Some((number, fraction, rest))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The `fraction` (digits behind the point) of `unit`, counted in steps of 1/`steps` and rounded down.
fn part(fraction: &str, unit: u128, steps: u128) -> u128 {
    let mut place = unit * steps;
    let parts = fraction.chars().filter_map(|c| c.to_digit(10)).map(|digit| {
        place /= 10;
        u128::from(digit) * place
    });
    parts.sum::<u128>() / steps
}

const US: u64 = 1000;
const S: u64 = 1_000_000 * US;
const MIN: u64 = 60 * S;
const H: u64 = 60 * MIN;
const D: u64 = 24 * H;
/// Units of time in nanoseconds; of two that begin alike the longer one comes first.
const UNITS_OF_TIME: [(&str, u64); 32] = [
    ("seconds", S),
    ("second", S),
    ("sec", S),
    ("s", S),
    ("minutes", MIN),
    ("minute", MIN),
    ("min", MIN),
    ("months", MONTH),
    ("month", MONTH),
    ("M", MONTH),
    ("msec", 1000 * US),
    ("ms", 1000 * US),
    ("m", MIN),
    ("hours", H),
    ("hour", H),
    ("hr", H),
    ("h", H),
    ("days", D),
    ("day", D),
    ("d", D),
    ("weeks", 7 * D),
    ("week", 7 * D),
    ("w", 7 * D),
    ("years", YEAR),
    ("year", YEAR),
    ("y", YEAR),
    ("usec", US),
    ("us", US),
    ("\u{3bc}s", US),
    ("\u{b5}s", US),
    ("nsec", 1),
    ("ns", 1),
];
/// A year of 365.25 days, and a twelfth of it.
const YEAR: u64 = 31_557_600 * S;
const MONTH: u64 = 2_629_800 * S;

/// The smallest time that a property can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tick {
    Microsecond,
    Nanosecond,
}

/// A time in ticks: sums such as `1min 30s`, or `infinity`. A number alone counts `default`, in nanoseconds.
pub(super) fn time(text: &str, tick: Tick, default: u64) -> Parsed<u64> {
    let wrong = || format!("`{text}` is not a time such as `90s` or `1min 30s`");
    if text.trim_matches(is_space) == "infinity" {
        return Ok(u64::MAX);
    }
    let tick_length = if tick == Tick::Nanosecond { 1 } else { US };
    let mut rest = text.trim_start_matches(is_space);
    let mut sum = 0_u128;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let with_zero = if rest.starts_with('.') { Cow::from(format!("0{rest}")) } else { rest.into() };
        let (whole, fraction, behind) = decimal(&with_zero).ok_or_else(wrong)?;
        let number = &with_zero[..with_zero.len() - behind.len()];
        if number.ends_with('.') {
            return Err(wrong());
        }
        let behind = &rest[rest.len() - behind.len()..];
        let spaced = behind.trim_start_matches(is_space);
        let units = UNITS_OF_TIME.iter().filter(|(_, length)| *length >= tick_length);
        let unit = units.into_iter().find(|(unit, _)| spaced.starts_with(unit));
        let (unit, length) = unit.copied().unwrap_or(("", default));
        // `12.34.56` is a slip of the pen, `12 34` a sum.
        if unit.is_empty() && spaced.len() == behind.len() && !behind.is_empty() {
            return Err(wrong());
        }
        let ticks = u128::from(length / tick_length);
        sum += whole * ticks + part(fraction, ticks, 1);
        // The largest number stands for `infinity`, and systemd stops a unit short of it.
        if sum >= u128::from(u64::MAX) || whole >= u128::from(u64::MAX) / ticks {
            return Err(format!("`{text}` is longer than 64 bits can say"));
        }
        rest = spaced[unit.len()..].trim_start_matches(is_space);
    }
    u64::try_from(sum).map_err(|_| wrong())
}

/// A time whose numbers are seconds, in microseconds.
pub(super) fn seconds(text: &str) -> Parsed<u64> {
    time(text, Tick::Microsecond, S)
}

/// A time whose numbers are microseconds, in microseconds.
pub(super) fn microseconds(text: &str) -> Parsed<u64> {
    time(text, Tick::Microsecond, US)
}

/// A time whose numbers are nanoseconds, in nanoseconds.
pub(super) fn nanoseconds(text: &str) -> Parsed<u64> {
    time(text, Tick::Nanosecond, 1)
}

/// Hundredths of a percent: `12.5%`, or with the signs for a thousandth and a ten-thousandth.
pub(super) fn permyriad(text: &str) -> Parsed<u32> {
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
pub(super) fn bit_set(text: &str) -> Parsed<Vec<u8>> {
    /// As many CPUs as Linux can be built for.
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
pub(super) fn hexadecimal(text: &str) -> Parsed<Vec<u8>> {
    let digits: String = text.chars().filter(|&c| !is_space(c)).collect();
    hex::decode(digits)
        .map_err(|_| "it is neither an absolute path nor pairs of hexadecimal digits".to_owned())
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes in base64.
pub(super) fn base64(text: &str) -> Parsed<Vec<u8>> {
    let wrong = || "it is not base64".to_owned();
    let digits: Vec<u8> = text.bytes().filter(|&byte| !is_space(byte.into())).collect();
    let used = digits.len() - digits.iter().rev().take_while(|&&byte| byte == b'=').count();
    if !digits.len().is_multiple_of(4) || digits.len() - used > 2 {
        return Err(wrong());
    }
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for digit in &digits[..used] {
        let value = BASE64.iter().position(|known| known == digit).ok_or_else(wrong)?;
        bits = bits << 6 | u32::try_from(value).unwrap_or_default();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.extend(u8::try_from(bits >> held & 0xff));
        }
        bits &= (1 << held) - 1;
    }
    if bits == 0 { Ok(bytes) } else { Err(wrong()) }
}

/// `bytes` in base64.
pub(super) fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain(&[0, 0]).take(3).fold(0_u32, |sum, &byte| sum << 8 | u32::from(byte));
        for place in 0..4 {
            let digit = BASE64[(group >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { digit.into() } else { '=' });
        }
    }
    text
}
