//! Devices: access permissions, and limits of I/O.

use super::super::grammar::Parsed;
use super::each;
use super::number::{time, wide};

/// A device, and whether reading, writing and creating it is allowed; systemd checks neither.
pub(crate) fn permissions(text: &str) -> Parsed<(String, String)> {
    // Spaces at the end of a line of a unit file are ignored.
    if text.trim_end().ends_with('\\') {
        return Err("it ends in a backslash".to_owned());
    }
    let (path, permissions) = text.split_once(' ').unwrap_or((text, ""));
    Ok((path.to_owned(), permissions.to_owned()))
}

/// A device and its permissions in a unit file.
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

/// A device and its value in a unit file.
pub(crate) fn text(name: &str, path: &str, value: u64) -> String {
    match name {
        "IODeviceLatencyTargetUSec" => format!("{path} {}", time(value)),
        _ => format!("{path} {}", wide("", value)),
    }
}
