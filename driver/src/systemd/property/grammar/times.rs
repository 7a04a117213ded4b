//! Times.

use std::borrow::Cow;

use super::numbers::{decimal, part};
use super::{Parsed, is_space};

const US: u64 = 1000;
const S: u64 = 1_000_000 * US;
const MIN: u64 = 60 * S;
const H: u64 = 60 * MIN;
const D: u64 = 24 * H;
/// Units of time in nanoseconds. Of two units with the same beginning the longer one comes first.
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

/// The smallest time that a property can express.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tick {
    Microsecond,
    Nanosecond,
}

/// A time in ticks: sums such as `1min 30s`, or `infinity`. A number without a unit counts `default`, in nanoseconds.
fn time(text: &str, tick: Tick, default: u64) -> Parsed<u64> {
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
        // `12.34.56` is a typing error, `12 34` a sum.
        if unit.is_empty() && spaced.len() == behind.len() && !behind.is_empty() {
            return Err(wrong());
        }
        let ticks = u128::from(length / tick_length);
        sum += whole * ticks + part(fraction, ticks, 1);
        // The largest number stands for `infinity`; systemd stops one unit below it.
        if sum >= u128::from(u64::MAX) || whole >= u128::from(u64::MAX) / ticks {
            return Err(format!("`{text}` is longer than 64 bits can say"));
        }
        rest = spaced[unit.len()..].trim_start_matches(is_space);
    }
    u64::try_from(sum).map_err(|_| wrong())
}

/// A time in microseconds; numbers without a unit are seconds.
pub(crate) fn seconds(text: &str) -> Parsed<u64> {
    time(text, Tick::Microsecond, S)
}

/// A time in microseconds; numbers without a unit are microseconds.
pub(crate) fn microseconds(text: &str) -> Parsed<u64> {
    time(text, Tick::Microsecond, US)
}

/// A time in nanoseconds; numbers without a unit are nanoseconds.
pub(crate) fn nanoseconds(text: &str) -> Parsed<u64> {
    time(text, Tick::Nanosecond, 1)
}
