//! A transient unit as text: the file of the equivalent ordinary unit.

use std::fmt::Write as _;

use super::property::{escaped, lines_of, quote};
use super::transient::{Property, TransientUnit};

/// The unit as the files of ordinary units.
///
/// Values on the bus are taken literally; in a file a `%` may have a meaning.
pub fn unit_file(unit: TransientUnit) -> String {
    let (name, properties, of_sockets) = unit.bound();
    let mut text = format!("# {name}\n");
    sections(&mut text, "Service", properties);
    if let Some(properties) = of_sockets {
        let _ = writeln!(text, "\n# {}", name.socket());
        sections(&mut text, "Socket", properties);
    }
    text
}

/// The equivalent lines of a unit file; none for a value that is not text, such as a descriptor.
pub(super) fn lines(property: Property) -> Vec<(String, String)> {
    if let Property::Assigned(assignment) = &property
        // The paths of the host may by now differ from the text.
        && !assignment.names_host_paths()
    {
        let text = assignment.text();
        return vec![(assignment.name().to_owned(), text.to_owned())];
    }
    let line = |name: &str, value: String| (name.to_owned(), value);
    match property {
        // One per line, for readability.
        Property::LogExtraFields(fields) => {
            fields.iter().map(|field| line("LogExtraFields", quote(field).into_owned())).collect()
        }
        // In a file the kind is a part of the name.
        Property::Listen(addresses) => {
            addresses.into_iter().map(|(kind, address)| line(&format!("Listen{kind}"), address)).collect()
        }
        property => property.into_wire().iter().flat_map(|(name, value)| lines_of(name, value)).collect(),
    }
}

/// Writes the section that systemd.unit(5) describes, and the one that the manual of the unit's `kind` describes.
fn sections(text: &mut String, kind: &str, properties: Vec<Property>) {
    const OF_UNITS: [&str; 5] = ["After", "BindsTo", "CollectMode", "Description", "Requires"];
    let lines: Vec<(String, String)> = properties.into_iter().flat_map(lines).collect();
    let (of_unit, of_kind): (Vec<_>, Vec<_>) =
        lines.iter().partition(|(name, _)| OF_UNITS.contains(&name.as_str()));
    for (section, lines) in [("Unit", of_unit), (kind, of_kind)] {
        let _ = writeln!(text, "[{section}]");
        for (name, value) in lines {
            let _ = writeln!(text, "{name}={}", escaped(name, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::{SocketUnit, Stream, UnitName};

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
    #[test]
    fn the_sockets_of_a_unit_go_with_it() {
        let mut unit = TransientUnit::new(UnitName::known("x.service"), Vec::new());
        unit.sockets = Some(SocketUnit { properties: Vec::new() });
        let text = unit_file(unit);
        let (service, socket) = text.split_once("# x.socket\n").unwrap();
        assert!(service.contains("[Unit]\nRequires=x.socket\nAfter=x.socket\n[Service]\n"), "{service}");
        assert_eq!(socket, "[Unit]\nBindsTo=x.service\nCollectMode=inactive-or-failed\n[Socket]\n");
    }
}
