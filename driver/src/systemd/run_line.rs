//! A transient unit as a shell command, with which a person can start it.

use std::collections::BTreeMap;

use super::transient::{Property, TransientUnit};
use super::unit_file::lines;

/// The `systemd-run` command that starts the unit with these variables. The command runs in the foreground if possible:
/// systemd-run(1) does not wait for a unit that has sockets.
///
/// ```text
/// systemd-run --collect --wait --pipe -p MemoryMax=10M --setenv=A=b -- /bin/sh -c 'echo $$A'
/// ```
///
/// Properties that only determine how systemd keeps the unit for the driver, and where its output goes, are left out.
pub fn systemd_run(unit: TransientUnit, env: &BTreeMap<String, String>) -> String {
    // The driver treats units of this name as its own.
    let TransientUnit { name: _, properties, sockets, ready_within: _ } = unit;
    let mut words = ["systemd-run", "--collect"].map(str::to_owned).to_vec();
    if sockets.is_none() {
        words.extend(["--wait", "--pipe"].map(str::to_owned));
    }
    let mut command = Vec::new();
    for property in properties {
        match property {
            Property::RemainAfterExit(_)
            | Property::CollectMode(_)
            | Property::StandardInput(_)
            | Property::StandardOutput(_)
            | Property::StandardError(_)
            | Property::EnvironmentFile(_) => {}
            Property::ExecStart { path, argv } => {
                command.push(path.display().to_string());
                // systemd expands variables after a single `$`. The first word is the program's own name.
                command.extend(argv.into_iter().skip(1).map(|word| word.replace('$', "$$")));
            }
            // The field is written without the quotes that it has in a file.
            Property::LogExtraFields(fields) => {
                let option = |field: &String| ["-p".to_owned(), format!("LogExtraFields={field}")];
                words.extend(fields.iter().flat_map(option));
            }
            property => words.extend(as_options("-p", property)),
        }
    }
    let of_socket = sockets.into_iter().flat_map(|socket| socket.properties);
    words.extend(of_socket.flat_map(|property| as_options("--socket-property", property)));
    words.extend(env.iter().map(|(name, value)| format!("--setenv={name}={value}")));
    words.push("--".to_owned());
    words.extend(command);
    words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
}

fn as_options(option: &str, property: Property) -> Vec<String> {
    let lines = lines(property).into_iter();
    lines.flat_map(|(name, value)| [option.to_owned(), format!("{name}={value}")]).collect()
}

/// A word as sh(1) reads it. Control characters, which a terminal would obey when the word is pasted, are written as
/// numbers.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut quoted = String::from("'");
    for c in word.chars() {
        match c {
            '\'' => quoted.push_str(r"'\''"),
            '\n' | '\t' => quoted.push(c),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                let numbers = c.encode_utf8(&mut bytes).bytes().map(|byte| format!("\\{byte:03o}"));
                quoted.extend(["'\"$(printf '", &numbers.collect::<String>(), "')\"'"]);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::{SocketUnit, Stream, UnitName};

    #[test]
    fn a_word_means_the_same_to_a_shell_and_nothing_to_a_terminal() {
        for word in [
            "",
            "a b",
            "it's",
            "$HOME `id` \\",
            "\u{3} touch x\r",
            "\u{1b}]0;title\u{7}",
            "a\nb\tc",
            "\u{9b}2J",
            "100%",
        ] {
            let quoted = shell_word(word);
            assert!(!quoted.chars().any(|c| c.is_control() && !"\n\t".contains(c)), "{quoted:?}");
            let script = format!("printf %s {quoted}");
            let printed = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&printed.stdout), word, "{quoted}");
        }
    }

    fn unit() -> TransientUnit {
        let argv = ["sh", "-c", "echo $HOME"].map(str::to_owned).to_vec();
        let properties = vec![
            Property::Description("a task".into()),
            Property::RemainAfterExit(true),
            Property::ExecStart { path: "/bin/sh".into(), argv },
            Property::StandardOutput(Stream::Null),
            Property::LogExtraFields(vec!["A=b c".into()]),
            Property::MemoryMax(10),
        ];
        TransientUnit::new(UnitName::known("x.service"), properties)
    }

    #[test]
    fn a_unit_is_a_command_for_a_shell() {
        let env = BTreeMap::from([("WORD".to_owned(), "it's".to_owned())]);
        let expected = r"systemd-run --collect --wait --pipe -p 'Description=a task' -p 'LogExtraFields=A=b c' -p MemoryMax=10 '--setenv=WORD=it'\''s' -- /bin/sh -c 'echo $$HOME'";
        assert_eq!(systemd_run(unit(), &env), expected);
    }

    #[test]
    fn one_with_sockets_is_not_waited_for() {
        let socket = SocketUnit { properties: vec![Property::Listen(vec![("Stream", "/x y".into())])] };
        let line = systemd_run(TransientUnit { sockets: Some(socket), ..unit() }, &BTreeMap::new());
        assert!(
            line.contains(" --socket-property 'ListenStream=/x y'") && !line.contains("--pipe"),
            "{line}"
        );
    }
}
