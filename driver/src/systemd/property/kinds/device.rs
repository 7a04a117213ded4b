//! Devices: who may use them, and limits of their I/O.

use super::super::grammar::Parsed;
use super::each;
use super::number::{time, wide};

/// A device, and what of reading, writing and making it is allowed; systemd looks at neither.
pub(crate) fn permissions(text: &str) -> Parsed<(String, String)> {
    // Spaces at the end of a line of a unit file do not count.
    if text.trim_end().ends_with('\\') {
        return Err("it ends in a backslash".to_owned());
    }
    let (path, permissions) = text.split_once(' ').unwrap_or((text, ""));
    Ok((path.to_owned(), permissions.to_owned()))
}

/// The same in a unit file.
pub(crate) fn permissions_text(path: &str, permissions: &str) -> String {
    format!("{path} {permissions}").trim_end().to_owned()
}

/// `PATH VALUE`.
pub(crate) fn parse(text: &str, read: impl FnOnce(&str) -> Parsed<u64>) -> Parsed<Vec<(String, u64)>> {
    each(text, |text| {
        let (path, value) = text.split_once(' ').ok_or("no value stands behind the path")?;
        Ok((path.to_owned(), read(value)?))
    })
}

/// The same in a unit file.
pub(crate) fn text(name: &str, path: &str, value: u64) -> String {
    match name {
        "IODeviceLatencyTargetUSec" => format!("{path} {}", time(value)),
        _ => format!("{path} {}", wide("", value)),
    }
}
