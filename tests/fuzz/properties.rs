//! The grammar of properties: an accepted value can be written to a unit's file without changing its meaning.

use nomad_driver_systemd::systemd::property::{self, Assignment, Reach, lines_of};
use nomad_driver_systemd::systemd::{Property, TransientUnit, UnitName, unit_file};
use proptest::prelude::*;
use proptest::sample::select;
use zbus::Variant;

use super::corpus::{PIECES, TEXTS, text};
use super::{computing_time, for_all};

type Wire = Vec<(String, Variant<'static>)>;

/// The names of properties that a job may set.
fn names() -> Vec<&'static str> {
    let settable = property::all().filter(|property| !matches!(property.reach, Reach::Reserved(_)));
    settable.map(|property| property.name).collect()
}

fn assignments() -> impl Strategy<Value = (&'static str, String)> {
    (select(names()), text())
}

/// Some of `assignments`, which the grammar accepts.
fn for_all_accepted(name: &str, check: impl Fn(Assignment)) {
    for_all(name, 12_000, &assignments(), |(name, text)| {
        if let Ok(accepted) = Assignment::parse(name, &text) {
            check(accepted);
        }
    });
}

/// Every text in `value`, including texts that are sent as bytes.
fn texts(name: &str, value: &Variant<'_>) -> Vec<String> {
    match value {
        Variant::Str(text) => vec![text.to_string()],
        Variant::Array(bytes)
            if name == "LogExtraFields"
                && bytes.inner().iter().any(|byte| matches!(byte, Variant::U8(_))) =>
        {
            let bytes = bytes.inner().iter().filter_map(|byte| u8::try_from(byte).ok()).collect();
            vec![String::from_utf8(bytes).expect("a text of ours")]
        }
        Variant::Array(all) => all.inner().iter().flat_map(|value| texts(name, value)).collect(),
        Variant::Structure(fields) => fields.fields().iter().flat_map(|value| texts(name, value)).collect(),
        Variant::Variant(inner) => texts(name, inner),
        _ => Vec::new(),
    }
}

fn holds_no_line_end(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\t')
}

#[test]
fn whatever_is_given_is_accepted_or_refused() {
    for_all("accepted-or-refused", 12_000, &assignments(), |(name, text)| {
        match Assignment::parse(name, &text) {
            Ok(accepted) => {
                assert_eq!(accepted.text(), text);
                let _ = (accepted.meaning(), accepted.reach(), accepted.needs(), accepted.resets());
                let _ = (accepted.mount_points(), accepted.names_host_paths());
                let _ = accepted.with_host_paths(|path, _| Ok::<_, ()>(Some(path.into())));
            }
            Err(refused) => assert!(refused.to_string().contains(name), "{refused}"),
        }
    });
}

#[test]
fn a_name_that_is_unknown_is_refused_with_one_that_is_known() {
    for_all("unknown-names", 300, &text(), |name| {
        let refused = Assignment::parse(&name, "x");
        assert!(
            refused.is_err_and(|error| error.to_string().contains(&name)) || names().contains(&name.as_str())
        );
    });
}

#[test]
fn no_accepted_value_holds_a_line_end_or_continues_on_the_next_line() {
    for_all_accepted("one-line-values", |accepted| {
        for (name, value) in accepted.wire() {
            for text in texts(&name, &value) {
                assert!(holds_no_line_end(&text), "{name} has a control character: {value}");
                assert!(!text.ends_with('\\'), "{name} ends in a backslash: {value}");
            }
        }
    });
}

#[test]
fn every_accepted_value_is_one_line_of_a_unit_file_for_each_assignment() {
    for_all_accepted("one-line-files", |accepted| {
        let mut assigned = vec![(accepted.name().to_owned(), accepted.text().to_owned())];
        for (name, value) in accepted.wire() {
            assigned.extend(lines_of(&name, &value));
        }
        for (name, text) in assigned {
            assert!(holds_no_line_end(&text), "{name}={text:?}");
            assert!(!text.ends_with('\\'), "{name}={text:?} continues on the next line");
        }
        let name = UnitName::known("x.service");
        let file = unit_file(TransientUnit::new(name, vec![Property::Assigned(accepted)]));
        assert_eq!(file.lines().filter(|line| !line.is_empty()).count(), 4, "{file}");
    });
}

/// What systemd reads from a line of a unit file: spaces around the value are not part of it.
fn read(name: &str, line: &str) -> Result<Wire, property::Error> {
    let spaces: &[char] = &[' ', '\t', '\n', '\r'];
    Assignment::parse(name, line.trim_matches(spaces)).map(|read| read.wire())
}

#[test]
fn a_unit_file_says_what_goes_over_the_bus() {
    for_all_accepted("round-trip", |accepted| {
        // A unit file contains words here, and a job a single field. The spaces around a job's texts are not part of
        // them either.
        if accepted.name() == "LogExtraFields" || accepted.text().trim() != accepted.text() {
            return;
        }
        // Fields between colons, in which quotes are ordinary characters: the preview still quotes odd fields.
        if ["OpenFile", "LoadCredential", "LoadCredentialEncrypted", "ImportCredential"]
            .contains(&accepted.name())
        {
            return;
        }
        // A hard limit applies to both.
        let wire = accepted.wire();
        let sent = if accepted.name().starts_with("Limit") { &wire[..1] } else { &wire[..] };
        for (name, value) in sent {
            let lines = lines_of(name, value);
            assert!(!lines.is_empty(), "{name} {value} cannot be said");
            let read: Vec<_> = lines.iter().map(|(name, line)| read(name, line)).collect();
            let [Ok(read), ..] = read.as_slice() else {
                panic!("{name} {value} is said {lines:?}: {read:?}")
            };
            assert_eq!(lines.len(), 1, "one assignment needs one line: {lines:?}");
            assert!(
                read.first() == Some(&(name.clone(), value.clone())),
                "{name} {value} is said {lines:?}, which is {read:?}"
            );
        }
    });
}

#[test]
fn a_long_text_takes_no_longer_than_its_length() {
    const LENGTH: usize = 100_000;
    let mut slow = Vec::new();
    super::limit_memory();
    let begins = ["", "\"", "~", "/", "-", "0x", "1", "/a:", "root:"];
    let pieces = PIECES.iter().chain(TEXTS).filter(|piece| !piece.is_empty());
    let texts: Vec<String> = pieces
        .flat_map(|piece| begins.map(|begin| begin.to_owned() + &piece.repeat(LENGTH / piece.len())))
        .chain([".1s".repeat(LENGTH / 3), "0-8191 ".repeat(LENGTH / 7), "a ".repeat(LENGTH / 2)])
        .collect();
    // One property for each kind of value, in turn, so that each kind is tested with many texts.
    for (at, name) in names().into_iter().enumerate() {
        for text in texts.iter().skip(at % 97).step_by(97) {
            let time = computing_time(|| {
                if let Ok(accepted) = Assignment::parse(name, text) {
                    accepted.wire().iter().for_each(|(name, value)| drop(lines_of(name, value)));
                }
            });
            if time.as_millis() > 1000 {
                slow.push(format!("{name}={}… takes {time:?}", text.chars().take(20).collect::<String>()));
            }
        }
    }
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}

#[test]
fn a_long_name_is_refused_at_once() {
    let time = computing_time(|| assert!(Assignment::parse(&"Memory".repeat(20_000), "1").is_err()));
    assert!(time.as_millis() < 1000, "{time:?}");
}
