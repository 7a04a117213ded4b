//! The only form in which properties are sent over the bus: every string of every property has been checked.

use super::transient::Property;
use super::unit_text::{check, written};
use super::wire::Wire;

/// The longest line that the driver lets systemd write to a unit's file, in bytes.
const LINE_MAX: usize = 768 << 10;
/// The largest size of all properties of a unit, in bytes: PID 1 keeps all of them.
const UNIT_MAX: usize = 2 << 20;
/// The largest number of assignments of a unit, for the same reason as [`UNIT_MAX`].
const PROPERTIES_MAX: usize = 1024;
/// The largest number of assignments of one property. For each, systemd writes the whole list to the unit's file again,
/// and it merges some lists in cubic time (thousands of `UnsetEnvironment=` block PID 1 for a minute).
const TIMES_MAX: usize = 128;

/// Properties whose strings have all been checked.
#[derive(Debug)]
pub struct Checked(Wire);

impl Checked {
    /// Checks all strings of these properties. The error is the name of the property, and what is wrong with it.
    pub fn new(properties: Vec<Property>) -> Result<Self, (String, String)> {
        let wire: Vec<_> = properties.into_iter().flat_map(Property::into_wire).collect();
        let mut size = 0;
        for (name, value) in &wire {
            size += check(name, value).map_err(|unfit| (name.clone(), unfit.to_string()))?;
            // systemd does not read what follows a line that is too long: limits and sandbox would be lost.
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

    /// The properties as the argument of a call to systemd.
    pub fn into_wire(self) -> Wire {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        // This line would be longer than systemd reads.
        let argv = vec!["x".repeat(100_000); 12];
        assert!(Checked::new(vec![Property::ExecStart { path: "/bin/sh".into(), argv }]).is_err());
        let argv = vec!["sh".to_owned(), "-c".to_owned(), "a\nb\\".to_owned()];
        assert!(Checked::new(vec![Property::ExecStart { path: "/bin/sh".into(), argv }]).is_ok());
    }
}
