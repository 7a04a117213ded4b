//! The properties of a unit in systemd.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;
use tests::Host;

/// The properties of a unit, by name.
pub(crate) type Properties = BTreeMap<String, Value>;

/// All properties of a unit, over the bus.
pub(crate) fn properties(host: &Host, unit: &str) -> Properties {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for byte in unit.bytes() {
        if byte.is_ascii_alphanumeric() {
            path.push(byte.into());
        } else {
            write!(path, "_{byte:02x}").unwrap();
        }
    }
    let interface = "org.freedesktop.DBus.Properties";
    let words = ["--json=short", "call", "org.freedesktop.systemd1", &path, interface, "GetAll", "s", ""];
    let answer: Value = serde_json::from_str(&host.run("busctl", &words)).unwrap();
    let all = answer["data"][0].as_object().unwrap();
    all.iter().map(|(name, value)| (name.clone(), value["data"].clone())).collect()
}

/// Properties of a unit's state, and not of its definition.
fn is_state(name: &str) -> bool {
    const ENDS: [&str; 8] =
        ["Timestamp", "TimestampMonotonic", "Bytes", "Packets", "Operations", "Current", "Peak", "NSec"];
    const NAMES: [&str; 11] = [
        // The usage of the unit, and what other units leave to it.
        "MemoryAvailable",
        "EffectiveMemoryMax",
        "EffectiveMemoryHigh",
        "EffectiveTasksMax",
        // A file that was read again is newer than the unit, and no longer than that.
        "NeedDaemonReload",
        "Job",
        // systemd 252 sets it again at the next change of the cgroup.
        "ControlGroupId",
        "Markers",
        "NRestarts",
        // systemd holds the unit only as long as a client waits for its start.
        "Refs",
        "StateChangeTimestamp",
    ];
    name != "TimerSlackNSec" && ENDS.iter().any(|end| name.ends_with(end)) || NAMES.contains(&name)
}

/// The parts to compare: of a command its path, words and flags, and not when it ran.
fn configured(name: &str, value: &Value) -> Value {
    match value {
        Value::Array(commands) if name.starts_with("Exec") && commands.iter().all(Value::is_array) => {
            let parts = |command: &Value| command.as_array().unwrap().iter().take(3).cloned().collect();
            commands.iter().map(|command| Value::Array(parts(command))).collect()
        }
        // Of a condition everything except its result, which is no longer known.
        Value::Array(all) if ["Conditions", "Asserts"].contains(&name) => {
            let parts = |condition: &Value| condition.as_array().unwrap().iter().take(4).cloned().collect();
            all.iter().map(|condition| Value::Array(parts(condition))).collect()
        }
        // Texts that the bus carries as bytes.
        Value::Array(all) if name == "LogExtraFields" => {
            all.iter().map(|bytes| Value::from(text_of(bytes))).collect()
        }
        // The order in which units are listed has no meaning.
        Value::Array(all) if is_set(name) => {
            let mut sorted: Vec<_> = all.iter().map(ToString::to_string).collect();
            sorted.sort();
            sorted.into_iter().map(Value::from).collect()
        }
        value => value.clone(),
    }
}

fn text_of(bytes: &Value) -> String {
    let bytes = bytes.as_array().unwrap().iter().map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}

fn is_set(name: &str) -> bool {
    const UNITS: [&str; 9] = [
        "Requires",
        "Wants",
        "After",
        "Before",
        "Conflicts",
        "TriggeredBy",
        "Triggers",
        "BindsTo",
        "BoundBy",
    ];
    UNITS.contains(&name) || name.ends_with("MountsFor")
}

/// Whether systemd writes such a value in a form that it cannot read, whoever sends it. Seen on 252, 257 and 262.
///
/// A running task still has the values that were sent, and its unit is never started a second time.
fn is_lost(name: &str, sent: &Value) -> bool {
    let has = |found: &dyn Fn(&str) -> bool| texts(name, sent).iter().any(|text| found(text));
    let special = |text: &str| text.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\'));
    match name {
        // Nothing is written for an empty set, which means all.
        "RestrictNamespaces" => sent.as_u64() == Some(0),
        // `$` is written as `\$` or twice, `;` as `\;`.
        "ExecStart" | "ExecStartEx" => has(&|text| text.contains(['$', ';'])),
        // `%` is not written twice.
        "DeviceAllow" | "Documentation" => has(&|text| special(text) || text.contains('%')),
        "BindPaths" | "BindReadOnlyPaths" => has(&|text| special(text) || text.contains(':')),
        // These are separate lines, and these are written with escapes.
        "Conditions" | "Asserts" | "EnvironmentFiles" | "UnsetEnvironment" => false,
        // Words without quotes, or in quotes and without escapes.
        _ => sent.is_array() && has(&special),
    }
}

fn texts(name: &str, value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(all) if name == "LogExtraFields" && all.iter().all(Value::is_array) => {
            all.iter().map(text_of).collect()
        }
        Value::Array(all) => all.iter().flat_map(|value| texts(name, value)).collect(),
        _ => Vec::new(),
    }
}

/// The names of properties whose values systemd cannot keep in a file.
pub(crate) fn lost(sent: &Properties) -> Vec<&str> {
    sent.iter().filter(|(name, value)| is_lost(name, value)).map(|(name, _)| name.as_str()).collect()
}

/// The names of properties that have changed, and their values.
pub(crate) fn differences(before: &Properties, after: &Properties) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut differences = Vec::new();
    let lost = lost(before);
    for name in names.into_iter().filter(|name| !is_state(name) && !lost.contains(&name.as_str())) {
        let of = |all: &Properties| all.get(name).map(|value| configured(name, value));
        let (before, after) = (of(before), of(after));
        if before != after {
            let shown = |value: Option<Value>, other: &Option<Value>| match (value, other) {
                (Some(Value::Array(all)), Some(Value::Array(others))) => {
                    Value::Array(all.into_iter().filter(|one| !others.contains(one)).collect()).to_string()
                }
                (value, _) => value.map_or("nothing".to_owned(), |value| value.to_string()),
            };
            differences.push(format!(
                "{name} was {}, and is {}",
                shown(before.clone(), &after),
                shown(after, &before)
            ));
        }
    }
    if after.get("LoadState").and_then(Value::as_str) != Some("loaded") {
        differences.push("the unit is not loaded".to_owned());
    }
    differences
}
