//! What may become text of a unit, and the only form in which properties go over the bus.
//!
//! systemd writes what it is sent into the unit's file, most of it as it is, and reads that file again at the next
//! `daemon-reload`. A line end in a value would begin another line there, such as an `ExecStopPost=` that runs as root; a
//! backslash at the end of a value would join the next line to it. So every text of every property is looked at here,
//! whoever made it, and nothing that was not looked at can be sent: only this file makes a [`Checked`].

use zbus::Variant;

use super::unit::Property;

/// What a value is not allowed to contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It would begin another line of the unit's file, or hide one.
    #[error("it contains a line end or another control character")]
    Control,
    /// It would join the next line of the unit's file.
    #[error("it ends in a backslash")]
    Backslash,
    /// systemd would have to keep it, and write it to the unit's file.
    #[error("it is longer than {} KiB", TEXT_MAX >> 10)]
    Long,
}

/// The longest text of a property, in bytes. systemd reads no longer line of a file (`LONG_LINE_MAX`, 1 MiB).
const TEXT_MAX: usize = 256 << 10;
/// The longest line of a unit's file that we have systemd write, in bytes.
const LINE_MAX: usize = 768 << 10;
/// The most that a unit may be made of, in bytes and in assignments: PID 1 keeps all of it.
const UNIT_MAX: usize = 2 << 20;
/// See [`UNIT_MAX`].
const PROPERTIES_MAX: usize = 1024;
/// How often a property may be assigned: systemd writes the whole list to the unit's file again each time, and merges some
/// lists in a time that grows with the third power (thousands of `UnsetEnvironment=` hold PID 1 for a minute).
const TIMES_MAX: usize = 128;

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

/// Properties whose texts have all been looked at.
#[derive(Debug)]
pub struct Checked(Vec<(String, Variant<'static>)>);

impl Checked {
    /// Looks at all texts of these properties. Otherwise the name of the property, and what is wrong with it.
    pub fn new(properties: Vec<Property>) -> Result<Self, (String, String)> {
        let wire: Vec<_> = properties.into_iter().flat_map(Property::into_wire).collect();
        let mut size = 0;
        for (name, value) in &wire {
            size += check(name, value).map_err(|unfit| (name.clone(), unfit.to_string()))?;
            // What stands behind a line that is too long systemd does not read: limits and sandbox would be gone.
            let line = written(value);
            if line > LINE_MAX {
                let why = format!("it takes {line} bytes in the unit's file; the limit is {LINE_MAX}");
                return Err((name.clone(), why));
            }
        }
        for (name, _) in &wire {
            let times = wire.iter().filter(|(other, _)| other == name).count();
            if times > TIMES_MAX {
                let why = format!(
                    "it is assigned {times} times; the limit is {TIMES_MAX}, and a list may stand on one line"
                );
                return Err((name.clone(), why));
            }
        }
        if wire.len() > PROPERTIES_MAX {
            return Err((
                "properties".to_owned(),
                format!("there are {} of them; the limit is {PROPERTIES_MAX}", wire.len()),
            ));
        }
        if size > UNIT_MAX {
            return Err((
                "properties".to_owned(),
                format!("all values together are {size} bytes; the limit is {UNIT_MAX}"),
            ));
        }
        Ok(Self(wire))
    }

    /// The argument of a call to systemd.
    pub fn into_wire(self) -> Vec<(String, Variant<'static>)> {
        self.0
    }
}

/// Looks at all texts of one property; the size of all of them, in bytes.
pub(super) fn check(name: &str, value: &Variant<'_>) -> Result<usize, Unfit> {
    match name {
        // systemd writes the arguments of a command quoted, with every special character escaped.
        "ExecStart" => check_program(value),
        // Texts that systemd takes as bytes.
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

/// The path of the program is looked at like any other; its arguments are only counted.
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

/// How long a value is at most in the unit's file, where systemd escapes what is special and puts quotes around words.
fn written(value: &Variant<'_>) -> usize {
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
    fn every_part_of_a_value_is_looked_at() {
        for properties in [
            vec![Property::Listen(vec![("Stream", "/x\nExecStopPost=/bin/sh".to_owned())])],
            vec![Property::WorkingDirectory("/x\\".into())],
            vec![Property::LogExtraFields(vec!["A=b\nc".to_owned()])],
            vec![Property::LoadCredential(vec![("a\n".to_owned(), "/x".into())])],
            vec![Property::RemainAfterExit(true), Property::User("a\n".into())],
        ] {
            assert!(Checked::new(properties).is_err());
        }
        // The line of it would be longer than systemd reads.
        let argv = vec!["x".repeat(100_000); 12];
        assert!(Checked::new(vec![Property::ExecStart { path: "/bin/sh".into(), argv }]).is_err());
        let argv = vec!["sh".to_owned(), "-c".to_owned(), "a\nb\\".to_owned()];
        assert!(Checked::new(vec![Property::ExecStart { path: "/bin/sh".into(), argv }]).is_ok());
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
