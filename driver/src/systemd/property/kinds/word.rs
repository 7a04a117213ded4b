//! Words from a fixed set, booleans, and properties that take either.

use super::super::super::wire::{Wire, one};
use super::super::grammar::{Parsed, boolean};
use super::owned;

/// A boolean, or one of these words, which are sent as another property, whose name has the suffix `Ex`.
pub(crate) fn bool_or_ex(name: &str, text: &str, words: &[&str]) -> Parsed<Wire> {
    match boolean(text) {
        Some(on) => Ok(one(name, on)),
        None => Ok(one(format!("{name}Ex"), one_of(text, words, true)?)),
    }
}

/// The text, if it is one of `words`, or with `or_switch` a boolean. systemd ignores other values.
pub(crate) fn one_of(text: &str, words: &[&str], or_switch: bool) -> Parsed<String> {
    if words.contains(&text) || or_switch && boolean(text).is_some() {
        return Ok(text.to_owned());
    }
    let switch = if or_switch { &["yes", "no"][..] } else { &[] };
    let words: Vec<String> = switch.iter().chain(words).map(|word| format!("`{word}`")).collect();
    Err(format!("it must be one of {}", words.join(", ")))
}

/// `ProtectHostname`: a boolean, or `private[:NAME]`.
pub(crate) fn hostname(text: &str) -> Parsed<Wire> {
    if let Some(on) = boolean(text) {
        return Ok(one("ProtectHostname", on));
    }
    match text.split_once(':') {
        Some((_, "")) => Err("no name stands behind the colon".to_owned()),
        parts
            if parts.is_none_or(|(mode, _)| mode != "private" && boolean(mode) != Some(true))
                && text != "private" =>
        {
            Err("it must be one of `yes`, `no`, `private`, `private:NAME`".to_owned())
        }
        Some((_, name)) if !is_host_name(name) => Err(format!(
            "`{name}` is not a host name: letters, digits, `-`, `_` and `.`, at most 64, such as `web-1`"
        )),
        parts => Ok(one("ProtectHostnameEx", owned(parts.unwrap_or((text, ""))))),
    }
}

/// Does systemd accept this as a host name (systemd, `hostname_is_valid`)?
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    name.len() <= 64 && name.split('.').all(is_label)
}

/// A text with a mark, in a unit file.
pub(crate) fn marked_text(name: &str, mark: bool, text: &str) -> String {
    match (name, mark) {
        ("LogFilterPatterns", false) | ("RefreshOnReload", true) => format!("~{text}"),
        ("AppArmorProfile" | "SmackProcessLabel", true) => format!("-{text}"),
        _ => text.to_owned(),
    }
}

/// The prefix of a stream's value in a unit file.
pub(crate) fn stream(name: &str) -> &'static str {
    match name.strip_prefix("Standard").unwrap_or_default() {
        end if end.ends_with("FileDescriptorName") => "fd:",
        end if end.ends_with("FileToAppend") => "append:",
        end if end.ends_with("FileToTruncate") => "truncate:",
        end if end.ends_with("File") => "file:",
        _ => "",
    }
}
