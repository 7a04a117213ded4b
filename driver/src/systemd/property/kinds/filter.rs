//! Allow and deny lists: system calls, address families, architectures, namespaces.

use zbus::Array;

use super::super::grammar::{LIST, Parsed, UNQUOTED_LIST, boolean, is_space, words};
use super::super::lines::{spaced, texts, word};
use super::super::names;
use super::{unless_tilde, unsigned};

/// `[~]NAME…`, where `~` denies.
pub(crate) fn parse(name: &str, text: &str) -> Parsed<(bool, Vec<String>)> {
    let (allow, text) = unless_tilde(text);
    let words = words(&text, LIST)?;
    if name == "RestrictAddressFamilies" && allow {
        match words.as_slice() {
            // On the bus an empty list stands for this word, which is not an address family.
            [only] if only == names::NO_FAMILY => return Ok((true, Vec::new())),
            [] => return Ok((false, Vec::new())),
            _ => {}
        }
    }
    // systemd drops a name that it does not know from the list, and only logs it. The node is asked which system calls
    // and file systems exist (`systemd::vocabulary`).
    let unknown = words.iter().find(|word| match name {
        "RestrictAddressFamilies" => !names::is_address_family(word),
        // `mkdir:ENOSPC` is a system call and the error that it returns.
        "SystemCallFilter" if word.split_once(':').is_some_and(|(_, error)| names::errno(error).is_err()) => {
            true
        }
        _ => word.is_empty() || word.contains(is_space) || word.starts_with('~'),
    });
    match unknown {
        Some(word) if name == "RestrictAddressFamilies" => Err(format!(
            "`{word}` is not an address family such as `AF_INET`, nor is it `none` and nothing else"
        )),
        Some(word) => Err(format!("`{word}` is not one name; `~` stands once, before all names")),
        None => Ok((allow, words)),
    }
}

/// A filter in a unit file.
pub(crate) fn text(name: &str, allow: bool, all: &Array<'_>) -> String {
    if name == "RestrictAddressFamilies" && allow && all.inner().is_empty() {
        return names::NO_FAMILY.to_owned();
    }
    let words = spaced(texts(all).map(|text| word(name, text)));
    format!("{}{words}", if allow { "" } else { "~" })
}

/// Architectures, by systemd's names.
pub(crate) fn architectures(text: &str) -> Parsed<Vec<String>> {
    let words = words(text, LIST)?;
    match words.iter().find(|word| !names::ARCHITECTURES.contains(&word.as_str())) {
        Some(word) => Err(format!("`{word}` is not an architecture such as `native` or `x86-64`")),
        None => Ok(words),
    }
}

/// The namespaces that are named, or with `restrict` those that stay allowed.
pub(crate) fn namespaces(text: &str, restrict: bool) -> Parsed<u64> {
    let user = if restrict { 0 } else { names::find("user", names::NAMESPACES).unwrap_or_default() };
    let all = unsigned(names::NAMESPACES.iter().fold(0, |all, (_, bit)| all | bit) & !user);
    if let Some(on) = boolean(text) {
        return Ok(if on == restrict { 0 } else { all });
    }
    let (not_inverted, text) = unless_tilde(text);
    let named = unsigned(names::bits(&text, names::NAMESPACES, UNQUOTED_LIST)?);
    Ok(if not_inverted { named } else { all & !named })
}
