//! Resource limits, and shares of the machine's resources.

use super::super::super::wire::Wire;
use super::super::grammar::{self, FIELDS, Parsed, fields, permyriad, within};
use super::super::kind::Unit;

/// `SOFT[:HARD]`.
pub(crate) fn parse(name: &str, unit: Unit, text: &str) -> Parsed<Wire> {
    let read = |text: &str| -> Parsed<u64> {
        match unit {
            Unit::Nice => nice_limit(text),
            _ if text == "infinity" => Ok(u64::MAX),
            _ if ["-1", "unlimited"].contains(&text) => Err("write `infinity` for no limit".to_owned()),
            Unit::Count => within(text, 0..=u64::MAX - 1),
            Unit::Size => grammar::size(text, 1024).and_then(|size| match size {
                u64::MAX => Err("write `infinity` for no limit".to_owned()),
                size => Ok(size),
            }),
            Unit::Microseconds => grammar::microseconds(text),
            Unit::Seconds => grammar::seconds(text).map(|time| match time {
                u64::MAX => u64::MAX,
                time => time.div_ceil(1_000_000),
            }),
        }
    };
    let limits = fields(text, FIELDS, 2)?;
    let soft = read(limits.first().map_or("", String::as_str))?;
    let hard = limits.get(1).map_or(Ok(soft), |hard| read(hard))?;
    if soft > hard {
        return Err("the soft limit, the first one, is above the hard one".to_owned());
    }
    Ok(vec![(name.to_owned(), hard.into()), (format!("{name}Soft"), soft.into())])
}

/// With a sign the highest priority that may be requested, without a sign the kernel's number for it.
fn nice_limit(text: &str) -> Parsed<u64> {
    if let Some(nice) = text.strip_prefix('+') {
        Ok(20 - within(nice, 0..=19)?)
    } else if let Some(nice) = text.strip_prefix('-') {
        Ok(20 + within(nice, 0..=20)?)
    } else {
        within(text, 0..=40)
    }
}

/// A share of one processor: microseconds of each second.
pub(crate) fn cpu_quota(text: &str) -> Parsed<u64> {
    or_unset(text, |text| match permyriad(text)? {
        0 => Err("it is too little to run at all".to_owned()),
        // Microseconds of each second.
        share => Ok(u64::from(share) * 100),
    })
}

/// systemd expresses "not set" by the largest number.
pub(crate) fn or_unset(text: &str, read: impl FnOnce(&str) -> Parsed<u64>) -> Parsed<u64> {
    if text.is_empty() { Ok(u64::MAX) } else { read(text) }
}

/// A share as the bus encodes it: 2^32-1 is everything.
pub(crate) fn share(text: &str) -> Parsed<u32> {
    let share = Some(permyriad(text)?).filter(|&share| share <= 10000);
    let share = share.ok_or_else(|| format!("`{text}` is more than all"))?;
    u32::try_from((u64::from(share) * u64::from(u32::MAX) + 5000) / 10000).map_err(|error| error.to_string())
}

/// The share that this number on the bus encodes, in hundredths of a percent.
pub(crate) fn scaled(number: u32) -> u64 {
    (u64::from(number) * 10000 + u64::from(u32::MAX) / 2) / u64::from(u32::MAX)
}

/// Hundredths of a percent, as a unit file writes them.
pub(crate) fn percent(hundredths: u64) -> String {
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => format!("{whole}%"),
        (whole, part) => format!("{whole}.{part:02}%"),
    }
}
