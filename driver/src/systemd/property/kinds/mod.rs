//! The kinds of values, one file each: their syntax in the manual, and their form on the bus.
//!
//! Each file contains both directions: from the text of a job to the bus (`parse…`), and from the bus to a line of a
//! unit file (`…_text`).

pub(super) mod command;
pub(super) mod condition;
pub(super) mod credential;
pub(super) mod device;
pub(super) mod directory;
pub(super) mod filter;
pub(super) mod image;
pub(super) mod limit;
pub(super) mod network;
pub(super) mod number;
pub(super) mod path;
pub(super) mod word;

use super::grammar::Parsed;

/// A list of the one element in `text`; empty if `text` is empty.
pub(crate) fn each<T>(text: &str, read: impl FnOnce(&str) -> Parsed<T>) -> Parsed<Vec<T>> {
    if text.is_empty() { Ok(Vec::new()) } else { Ok(vec![read(text)?]) }
}

pub(crate) fn owned((first, second): (&str, &str)) -> (String, String) {
    (first.to_owned(), second.to_owned())
}

pub(crate) fn unsigned(number: i32) -> u64 {
    u64::from(number.unsigned_abs())
}

/// The text without its leading `-`, and whether there was one, which means that the path may be missing.
pub(crate) fn leniently(text: &str) -> (String, bool) {
    match text.strip_prefix('-') {
        Some(text) => (text.to_owned(), true),
        None => (text.to_owned(), false),
    }
}

/// Whether there is no leading `~`, and the text without it.
pub(crate) fn unless_tilde(text: &str) -> (bool, String) {
    match text.strip_prefix('~') {
        Some(text) => (false, text.to_owned()),
        None => (true, text.to_owned()),
    }
}

/// The mark of a path that may be missing.
pub(crate) fn dash(optional: bool) -> &'static str {
    if optional { "-" } else { "" }
}
