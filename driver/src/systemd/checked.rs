//! The only form in which properties go over the bus: every text of every property has been looked at.

use super::transient::Property;
use super::unit_text::{check, written};
use super::wire::Wire;

/// The longest line of a unit's file that we have systemd write, in bytes.
const LINE_MAX: usize = 768 << 10;
/// The most that a unit may be made of, in bytes and in assignments: PID 1 keeps all of it.
const UNIT_MAX: usize = 2 << 20;
/// See [`UNIT_MAX`].
const PROPERTIES_MAX: usize = 1024;
/// How often a property may be assigned: systemd writes the whole list to the unit's file again each time, and merges some
/// lists in a time that grows with the third power (thousands of `UnsetEnvironment=` hold PID 1 for a minute).
const TIMES_MAX: usize = 128;

/// Properties whose texts have all been looked at.
#[derive(Debug)]
pub struct Checked(Wire);

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
        // The line of it would be longer than systemd reads.
        let argv = vec!["x".repeat(100_000); 12];
        assert!(Checked::new(vec![Property::ExecStart { path: "/bin/sh".into(), argv }]).is_err());
        let argv = vec!["sh".to_owned(), "-c".to_owned(), "a\nb\\".to_owned()];
        assert!(Checked::new(vec![Property::ExecStart { path: "/bin/sh".into(), argv }]).is_ok());
    }
}
