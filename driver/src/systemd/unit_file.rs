//! A transient unit as text: the file of an ordinary unit that would be the same.

use std::fmt::Write as _;

use super::property::{escaped, lines_of, quote};
use super::transient::{Property, SocketUnit, TransientUnit};

/// The unit as the files of ordinary units.
///
/// What goes over the bus is taken literally; in a file a `%` may mean something.
pub fn unit_file(unit: TransientUnit) -> String {
    let TransientUnit { name, properties, sockets, patience: _ } = unit;
    let lines: Vec<(String, String)> = properties.into_iter().flat_map(lines).collect();
    let mut text = format!("# {name}\n");
    let is_unit = |name: &str| ["Description", "CollectMode"].contains(&name);
    let socket = name.socket();
    let extra = sockets
        .is_some()
        .then(|| vec![("Requires".to_owned(), socket.clone()), ("After".to_owned(), socket.clone())]);
    section(&mut text, "Unit", lines.iter().filter(|(name, _)| is_unit(name)).chain(extra.iter().flatten()));
    section(&mut text, "Service", lines.iter().filter(|(name, _)| !is_unit(name)));
    if let Some(SocketUnit { properties }) = sockets {
        let lines: Vec<(String, String)> = properties.into_iter().flat_map(self::lines).collect();
        let bound = [("BindsTo".to_owned(), name.to_string())];
        let _ = writeln!(text, "\n# {socket}");
        section(&mut text, "Unit", lines.iter().filter(|(name, _)| is_unit(name)).chain(&bound));
        section(&mut text, "Socket", lines.iter().filter(|(name, _)| !is_unit(name)));
    }
    text
}

/// The lines of a unit file that say the same; none for what is no text, such as a descriptor.
pub(super) fn lines(property: Property) -> Vec<(String, String)> {
    if let Property::Assigned(assignment) = &property
        // Those may be others by now than the text says.
        && !assignment.names_host_paths()
    {
        let text = assignment.text();
        return vec![(assignment.name().to_owned(), text.to_owned())];
    }
    let line = |name: &str, value: String| (name.to_owned(), value);
    match property {
        // One by one, to be read.
        Property::LogExtraFields(fields) => {
            fields.iter().map(|field| line("LogExtraFields", quote(field).into_owned())).collect()
        }
        // The kind is a part of the name in a file.
        Property::Listen(addresses) => {
            addresses.into_iter().map(|(kind, address)| line(&format!("Listen{kind}"), address)).collect()
        }
        property => property.into_wire().iter().flat_map(|(name, value)| lines_of(name, value)).collect(),
    }
}

fn section<'a>(text: &mut String, name: &str, lines: impl Iterator<Item = &'a (String, String)>) {
    let _ = writeln!(text, "[{name}]");
    for (name, value) in lines {
        let _ = writeln!(text, "{name}={}", escaped(name, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::{Stream, UnitName};

    #[test]
    fn a_unit_is_written_as_its_file() {
        let argv = vec!["sh".to_owned(), "-c".to_owned(), "echo $HOME 100%".to_owned()];
        let mut properties = vec![
            Property::Description("a task".into()),
            Property::ExecStart { path: "/bin/sh".into(), argv },
            Property::StandardOutput(Stream::Null),
        ];
        properties.extend(Property::assigned(&[("MemoryHigh", "10M"), ("CPUQuota", "150%")]));
        properties.extend(Property::assigned(&[("ConditionPathExists", "/50%")]));
        let text = unit_file(TransientUnit::new(UnitName::known("x.service"), properties));
        assert!(text.starts_with("# x.service\n[Unit]\nDescription=a task\n[Service]\n"), "{text}");
        for line in ["MemoryHigh=10M", "CPUQuota=150%", "ConditionPathExists=/50%%"] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.contains(" 100%%\"\n"), "{text}");
    }
}
