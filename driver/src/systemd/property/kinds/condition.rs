//! Conditions and assertions about the host.

use zbus::Variant;

use super::super::super::wire::{Wire, one};

/// `[|][!]TEXT`, which is sent in a list of all conditions.
pub(crate) fn parse(name: &str, text: &str) -> Wire {
    let list = if name.starts_with("Condition") { "Conditions" } else { "Asserts" };
    let mut rest = text;
    let mut has = |mark| rest.strip_prefix(mark).map(|behind| rest = behind).is_some();
    let (trigger, negate) = (has('|'), has('!'));
    let conditions =
        if text.is_empty() { Vec::new() } else { vec![(name.to_owned(), trigger, negate, rest.to_owned())] };
    one(list, conditions)
}

/// The name of the condition in a unit file, and its value.
pub(crate) fn text(condition: &Variant<'_>) -> Option<(String, String)> {
    let Variant::Structure(parts) = condition else { return None };
    let [Variant::Str(name), Variant::Bool(trigger), Variant::Bool(negate), Variant::Str(text)] =
        parts.fields()
    else {
        return None;
    };
    let marks = format!("{}{}", if *trigger { "|" } else { "" }, if *negate { "!" } else { "" });
    Some((name.to_string(), format!("{marks}{text}")))
}
