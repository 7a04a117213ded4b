//! A transient unit as text: the file of an ordinary unit that would be the same, and the command that starts it.

use std::fmt::Write as _;

use super::assignment::{lines_of, quote};
use super::transient::{Property, SocketUnit, TransientUnit};

/// The unit as the files of ordinary units, and as a `systemd-run` line.
///
/// What goes over the bus is taken literally; in a file a `%` means something, and is written twice there.
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
    let _ = writeln!(text, "\n# {}", command_line(name.as_str(), &lines));
    text
}

/// The lines of a unit file that say the same; none for what is no text, such as a descriptor.
fn lines(property: Property) -> Vec<(String, String)> {
    if let Property::Assigned(assignment) = &property {
        let text = assignment.text();
        return vec![(assignment.name().to_owned(), text.to_owned())];
    }
    let line = |name: &str, value: String| (name.to_owned(), value);
    match property {
        // One by one, since `systemd-run` takes no more.
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
        let _ = writeln!(text, "{name}={}", value.replace('%', "%%"));
    }
}

/// The same by `systemd-run`, on one line for a shell.
fn command_line(unit: &str, lines: &[(String, String)]) -> String {
    let mut words = vec!["systemd-run".to_owned(), format!("--unit={unit}")];
    let mut command = String::new();
    for (name, value) in lines {
        match name.as_str() {
            "ExecStart" => command.clone_from(value),
            "LogExtraFields" => {
                words.push(format!("-p {}", shell_word(&format!("{name}={}", value.trim_matches('"')))));
            }
            "CollectMode" | "Description" => words.push(shell_word(&format!("--property={name}={value}"))),
            _ => words.push(format!("-p {}", shell_word(&format!("{name}={value}")))),
        }
    }
    // systemd's own quotes are a shell's, but for its `$$`.
    words.push("--".to_owned());
    words.push(command.replace("$$", "\\$"));
    words.join(" ")
}

fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:@+%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::{Stream, UnitName};

    #[test]
    fn a_unit_is_written_as_its_file_and_as_a_command() {
        let argv = vec!["sh".to_owned(), "-c".to_owned(), "echo $HOME 100%".to_owned()];
        let mut properties = vec![
            Property::Description("a task".into()),
            Property::ExecStart { path: "/bin/sh".into(), argv },
            Property::StandardOutput(Stream::Null),
        ];
        properties.extend(Property::assigned(&[("MemoryHigh", "10M")]));
        let text = unit_file(TransientUnit::new(UnitName::known("x.service"), properties));
        assert!(text.starts_with("# x.service\n[Unit]\nDescription=a task\n[Service]\n"), "{text}");
        assert!(text.contains("MemoryHigh=10M\n") && text.contains("100%%"), "{text}");
        assert!(
            text.contains("# systemd-run --unit=x.service") && text.contains("-p MemoryHigh=10M"),
            "{text}"
        );
    }
}
