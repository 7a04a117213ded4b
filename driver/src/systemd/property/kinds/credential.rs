//! Credentials from files and from the manager.

use super::super::super::wire::{Wire, one};
use super::super::grammar::{FIELDS, Parsed, Words};

/// `NAME[:PATH]`.
pub(crate) fn parse(text: &str) -> Parsed<(String, String)> {
    let (name, path) = first_field(text)?;
    // A name alone is the name of a credential of the manager.
    Ok((name, path.filter(|path| !path.is_empty()).unwrap_or(text).to_owned()))
}

/// A credential in a unit file.
pub(crate) fn text(name: &str, path: &str) -> String {
    let end = if path.is_empty() { String::new() } else { format!(":{path}") };
    format!("{name}{end}")
}

/// `GLOB[:NAME]`.
pub(crate) fn import(text: &str) -> Parsed<Wire> {
    if text.is_empty() {
        return Ok(one("ImportCredential", Vec::<String>::new()));
    }
    Ok(match first_field(text)? {
        (glob, Some(name)) => one("ImportCredentialEx", vec![(glob, name.to_owned())]),
        (_, None) => one("ImportCredential", vec![text.to_owned()]),
    })
}

/// The text before the first colon, and the text after it.
fn first_field(text: &str) -> Parsed<(String, Option<&str>)> {
    let mut rest = Words::of(text);
    let first = rest.next(FIELDS)?.map(|word| word.text).unwrap_or_default();
    Ok((first, rest.rest()))
}
