//! Checks of the strings that become text of a unit.
//!
//! systemd writes the values that it receives into the unit's file, most of them unchanged, and reads that file again
//! at the next `daemon-reload`. A line break in a value would begin another line there, such as an `ExecStopPost=` that
//! runs as root. A backslash at the end of a value would join the next line to it. So every string of every property is
//! checked here, wherever it comes from. [`super::Checked`] is the only form in which properties can be sent.

use zbus::Variant;

/// What a value must not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The value would begin another line of the unit's file, or hide one.
    #[error("it contains a line end or another control character")]
    Control,
    /// The value would join the next line of the unit's file.
    #[error("it ends in a backslash")]
    Backslash,
    /// systemd would have to keep the value, and write it to the unit's file.
    #[error("it is longer than {} KiB", TEXT_MAX >> 10)]
    Long,
}

/// The longest string of a property, in bytes. systemd's limit for a line of a file is 1 MiB (`LONG_LINE_MAX`).
const TEXT_MAX: usize = 256 << 10;

/// Can this text be a part of a unit's file, and nothing more than that part?
pub fn check_text(text: &str) -> Result<(), Unfit> {
    if text.contains(|c: char| c.is_control() && c != '\t') {
        return Err(Unfit::Control);
    }
    if text.ends_with('\\') {
        return Err(Unfit::Backslash);
    }
    if text.len() > TEXT_MAX { Err(Unfit::Long) } else { Ok(()) }
}

/// The text on one line, as it can be a part of a unit's file, for people.
pub fn one_line(text: &str) -> String {
    let line = text.replace(char::is_control, " ");
    let line = line.trim();
    // A backslash would join the next line of the unit file.
    line.strip_suffix('\\').map_or_else(|| line.to_owned(), |rest| format!("{rest}/"))
}

/// Checks all strings of one property. Returns the size of all of them, in bytes.
pub(super) fn check(name: &str, value: &Variant<'_>) -> Result<usize, Unfit> {
    match name {
        // systemd writes the arguments of a command quoted, with every special character escaped.
        "ExecStart" => check_program(value),
        // Strings that systemd takes as bytes.
        "LogExtraFields" => match value {
            Variant::Array(fields) => fields.iter().try_fold(0, |size, field| Ok(size + check_bytes(field)?)),
            _ => Ok(0),
        },
        _ => check_all(value),
    }
}

fn check_all(value: &Variant<'_>) -> Result<usize, Unfit> {
    let all = |values: &[Variant<'_>]| values.iter().try_fold(0, |size, value| Ok(size + check_all(value)?));
    match value {
        Variant::Str(text) => check_text(text).map(|()| text.len()),
        Variant::Array(values) => all(values),
        Variant::Structure(fields) => all(fields.fields()),
        Variant::Variant(value) => check_all(value),
        _ => Ok(size_of::<u64>()),
    }
}

/// Checks the path of the program like any other string; the arguments are only counted.
fn check_program(value: &Variant<'_>) -> Result<usize, Unfit> {
    let Variant::Array(commands) = value else { return Ok(0) };
    for command in commands.iter() {
        if let Variant::Structure(fields) = command
            && let Some(Variant::Str(path)) = fields.fields().first()
        {
            check_text(path)?;
        }
    }
    Ok(size_of_value(value))
}

fn check_bytes(field: &Variant<'_>) -> Result<usize, Unfit> {
    let Variant::Array(bytes) = field else { return Ok(0) };
    let bytes = bytes.iter().map(|byte| if let Variant::U8(byte) = byte { *byte } else { 0 });
    let bytes: Vec<u8> = bytes.collect();
    check_text(&String::from_utf8_lossy(&bytes)).map(|()| bytes.len())
}

/// The largest possible size of a value in the unit's file, where systemd escapes special characters and quotes words.
pub(super) fn written(value: &Variant<'_>) -> usize {
    let byte = |byte: u8| match byte {
        b'"' | b'\\' | b'%' | b'$' | b'\'' => 2,
        b' '..=b'~' => 1,
        _ => 4,
    };
    match value {
        Variant::Str(text) => text.bytes().map(byte).sum::<usize>() + 3,
        Variant::Array(values) => values.iter().map(written).sum(),
        Variant::Structure(fields) => fields.fields().iter().map(written).sum(),
        Variant::Variant(value) => written(value),
        _ => 21,
    }
}

fn size_of_all(values: &[Variant<'_>]) -> usize {
    values.iter().map(size_of_value).sum()
}

fn size_of_value(value: &Variant<'_>) -> usize {
    match value {
        Variant::Str(text) => text.len(),
        Variant::Array(values) => size_of_all(values),
        Variant::Structure(fields) => size_of_all(fields.fields()),
        Variant::Variant(value) => size_of_value(value),
        _ => size_of::<u64>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::Assignment;

    #[test]
    fn no_text_ends_a_line_or_joins_the_next_one() {
        for (text, unfit) in [
            ("a\nExecStopPost=/bin/sh", Unfit::Control),
            ("a\r", Unfit::Control),
            ("\u{85}", Unfit::Control),
            ("a\\", Unfit::Backslash),
        ] {
            assert_eq!(check_text(text), Err(unfit), "{text:?}");
        }
        assert_eq!(check_text(&"x".repeat(TEXT_MAX + 1)), Err(Unfit::Long));
        for text in ["", "a b\tc", "C:\\x", "é"] {
            assert_eq!(check_text(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn an_escape_makes_no_control_character() {
        for (name, text) in [
            ("OpenFile", "/x\\n:a"),
            ("UnsetEnvironment", "A\\nB"),
            ("MountImages", "/a\\nb:/c"),
            ("ReadOnlyPaths", "/a\\\\"),
        ] {
            assert!(Assignment::parse(name, text).is_err(), "{name}={text}");
        }
    }
}
