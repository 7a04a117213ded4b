//! Properties in systemd's notation: our parser reads them as `systemd-run` does.

mod cases;
mod releases;
mod systemd_run;

use cases::cases;
use nomad_driver_systemd::systemd::property::{self, Assignment, Reach};
use releases::{DROPPED, UNHEARD_OF, since};
use systemd_run::{Manager, Property};

/// Values that we reject although systemd-run sends them.
const STRICTER: [&str; 8] = [
    "control character",
    "ends in a backslash",
    "it must be one of",
    "is not one name",
    "is not an architecture",
    "is not an address family",
    "is not between -1000 and 1000",
    "is not between 0 and 99",
];

/// The number of assignments that one `systemd-run` gets.
const AT_ONCE: usize = 40;

#[allow(clippy::too_many_lines, reason = "a table of properties")]
#[tokio::test]
async fn an_assignment_is_read_as_systemd_run_reads_it() {
    let _host = host!();
    let manager = Manager::start().await;
    let (mut taken, mut refused, mut later, mut wrong) = (Vec::new(), 0, 0, Vec::new());
    // systemd-run rounds percentages differently there, and rejects texts that are accepted today: the kinds of values
    // stay.
    let coarse = manager.version < 252;
    let passed_over = |name| UNHEARD_OF.contains(&name) || manager.version >= 258 && name == DROPPED;
    for (name, text) in cases().into_iter().filter(|(name, _)| !passed_over(*name)) {
        match Assignment::parse(name, text) {
            Ok(ours) if ours.needs().max(since(name, text)) > manager.version => {
                later += 1;
                // Some clients accept a value that their manager does not know yet.
                let theirs = manager.sent(&[(name, text)]).await;
                if !coarse
                    && theirs
                        .is_ok_and(|theirs| since(name, text) <= manager.version && theirs != ours.wire())
                {
                    wrong.push(format!("{name}={text} differs though it needs {}", ours.needs()));
                }
            }
            Ok(ours) => taken.push(((name, text), ours.wire())),
            Err(property::Error::Value { why, .. }) => {
                // systemd-run sends values that systemd rejects or ignores, or that would change on the way to its
                // file.
                let is_stricter = STRICTER.iter().any(|words| why.contains(words));
                if !coarse
                    && !is_stricter
                    && since(name, text) <= manager.version
                    && manager.sent(&[(name, text)]).await.is_ok()
                {
                    wrong.push(format!("{name}={text} is taken, and we say: {why}"));
                }
                refused += 1;
            }
            Err(other) => wrong.push(other.to_string()),
        }
    }
    for batch in taken.chunks(AT_ONCE) {
        let assignments: Vec<_> = batch.iter().map(|(assignment, _)| *assignment).collect();
        let ours: Vec<_> = batch.iter().flat_map(|(_, wire)| wire.clone()).collect();
        if manager.sent(&assignments).await.as_ref() == Ok(&ours) {
            continue;
        }
        for ((name, text), ours) in batch {
            let theirs = manager.sent(&[(name, text)]).await;
            if coarse && theirs.as_ref().map_or(true, |theirs| kinds(theirs) == kinds(ours)) {
                continue;
            }
            if theirs.as_ref() != Ok(ours) {
                wrong.push(format!(
                    "{name}={text}\n    ours   {}\n    theirs {}",
                    described(ours),
                    match &theirs {
                        Ok(theirs) => described(theirs),
                        Err(complaint) => complaint.clone(),
                    }
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} are wrong beside {} that are taken, {refused} refused and {later} for releases later than {}:\n{}",
        wrong.len(),
        taken.len(),
        manager.version,
        wrong.join("\n")
    );
}

fn kinds(wire: &[Property]) -> Vec<(&str, String)> {
    wire.iter().map(|(name, value)| (name.as_str(), value.value_signature().to_string())).collect()
}

fn described(wire: &[Property]) -> String {
    let texts = wire.iter().map(|(name, value)| format!("{name} {} {value}", value.value_signature()));
    texts.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn every_property_is_known_to_systemd_run() {
    let _host = host!();
    let manager = Manager::start().await;
    let mut wrong = Vec::new();
    for property in property::all().filter(|property| property.since <= manager.version) {
        if UNHEARD_OF.contains(&property.name) {
            continue;
        }
        let taken = manager.sent(&[(property.name, "\u{1}")]).await;
        if taken.is_err_and(|complaint| complaint.contains("Unknown assignment")) {
            wrong.push(property.name);
        }
    }
    assert!(wrong.is_empty(), "systemd {} does not know {wrong:?}", manager.version);
}

#[test]
fn every_property_that_is_not_ours_is_compared() {
    let cases = cases();
    let missing: Vec<_> = property::all()
        .filter(|property| !matches!(property.reach, Reach::Reserved(_)))
        .filter(|property| !cases.iter().any(|(name, _)| *name == property.name))
        .map(|property| property.name)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_goes_over_the_bus_can_be_said_in_a_unit_file() {
    let mut wrong = Vec::new();
    for (name, text) in cases() {
        let Ok(ours) = Assignment::parse(name, text) else { continue };
        // A unit file contains words here, and systemd-run a single field.
        if name == "LogExtraFields" {
            continue;
        }
        let wire = ours.wire();
        // The hard limit applies to both.
        let one = |wire: &[Property]| wire[0].clone();
        let (sent, value) = one(&wire);
        let Some((name, said)) = property::text_of(&sent, &value) else {
            wrong.push(format!("{sent} {value} cannot be said"));
            continue;
        };
        let again = Assignment::parse(&name, &said);
        if again.as_ref().map(|again| one(&again.wire())).ok() != Some((sent, value)) {
            wrong.push(format!("{name}={text} is said {name}={said}, which is {again:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
