//! Directories that systemd creates, their quotas, and files that it opens.

use super::super::super::wire::{Wire, one};
use super::super::grammar::{Backslash, FIELDS, LIST, Parsed, Split, UNQUOTED_LIST, fields, size, words};
use super::super::lines::word;
use super::super::names::{self, Names};
use super::limit::{percent, scaled, share};
use super::unsigned;

/// Options for opening a file.
const OPEN_OPTIONS: &Names = &[("read-only", 1), ("append", 2), ("truncate", 4), ("graceful", 8)];

/// `NAME[:LINK[:ro]]`.
pub(crate) fn parse(name: &str, text: &str) -> Parsed<Wire> {
    const READ_ONLY: u64 = 1;
    let (mut plain, mut linked) = (Vec::new(), Vec::new());
    for word in words(text, LIST)? {
        let parts = fields(&word, Split { quotes: true, ..FIELDS }, 3)?;
        let part = |at: usize| parts.get(at).map_or("", String::as_str);
        // systemd writes the name to the unit's file unescaped, and would read a link there after a reload.
        if [part(0), part(1)].iter().any(|name| name.contains(':')) {
            return Err(format!("`{word}` has a `:` in a name"));
        }
        // It quotes a name as a word but not as a field of that word, and a name with a link not at all.
        let is_misread = |c: char| "\"'\\".contains(c) || c.is_whitespace() && !part(1).is_empty();
        if [part(0), part(1)].iter().any(|name| name.contains(is_misread)) {
            return Err(format!("`{word}` has a quote or a backslash in a name, or a blank beside a link"));
        }
        let is_none = |name: &str| simple(name).is_empty();
        if is_none(part(0)) || !part(1).is_empty() && is_none(part(1)) {
            return Err(format!("`{word}` names no directory"));
        }
        match (part(1), part(2)) {
            ("", "") => plain.push(simple(part(0))),
            (link, "") => linked.push((simple(part(0)), simple(link), 0)),
            (link, "ro") => linked.push((simple(part(0)), simple(link), READ_ONLY)),
            (_, other) => return Err(format!("`{other}` is not `ro`")),
        }
    }
    // systemd-run puts writable directories before read-only ones.
    linked.sort_by_key(|(_, link, flags)| (*flags, link.is_empty()));
    let mut wire = Vec::new();
    if !plain.is_empty() || linked.is_empty() {
        wire.extend(one(name, plain));
    }
    if !linked.is_empty() {
        wire.extend(one(format!("{name}Symlink"), linked));
    }
    Ok(wire)
}

/// The path without duplicate and trailing slashes, and without `.` components.
fn simple(path: &str) -> String {
    let root = if path.starts_with('/') { "/" } else { "" };
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    format!("{root}{}", parts.join("/"))
}

/// `PATH[:NAME[:OPTIONS]]`.
pub(crate) fn open_file(text: &str) -> Parsed<(String, String, u64)> {
    let parts = fields(text, Split { backslash: Backslash::Escapes, ..FIELDS }, 3)?;
    let part = |at: usize| parts.get(at).map_or("", String::as_str);
    if !part(0).starts_with('/') {
        return Err(format!("`{}` is not an absolute path", part(0)));
    }
    let options = unsigned(names::bits(part(2), OPEN_OPTIONS, Split { separators: ",", ..UNQUOTED_LIST })?);
    let exclusive = options & 0b111;
    if exclusive.count_ones() > 1 {
        return Err("only one of `read-only`, `append` and `truncate` can hold".to_owned());
    }
    let name = match part(1) {
        "" => part(0).rsplit('/').next().unwrap_or_default(),
        name => name,
    };
    Ok((part(0).to_owned(), name.to_owned(), options))
}

/// A directory with a link to it, or a file to open, in a unit file.
pub(crate) fn text(name: &str, path: &str, second: &str, flags: u64) -> String {
    let options = match name {
        "OpenFile" => {
            let bits = OPEN_OPTIONS.iter().filter(|(_, bit)| flags & unsigned(*bit) != 0);
            bits.map(|(option, _)| *option).collect::<Vec<_>>().join(",")
        }
        _ => (if flags & 1 == 1 { "ro" } else { "" }).to_owned(),
    };
    let end = if options.is_empty() { String::new() } else { format!(":{options}") };
    word(name, &format!("{path}:{second}{end}"))
}

/// A size or a share of the file system, or none: bytes, share, and whether the quota is enforced.
pub(crate) fn quota(text: &str) -> Parsed<(u64, u32, String)> {
    let enforced = || "yes".to_owned();
    match text {
        "" | "off" => Ok((u64::MAX, u32::MAX, "no".to_owned())),
        text if text.ends_with('%') => Ok((u64::MAX, share(text)?, enforced())),
        text => Ok((size(text, 1024)?, u32::MAX, enforced())),
    }
}

/// A quota in a unit file.
pub(crate) fn quota_text(bytes: u64, share: u32, enforced: &str) -> String {
    match (enforced, bytes) {
        ("no", _) => "off".to_owned(),
        (_, u64::MAX) => percent(scaled(share)),
        (_, bytes) => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories_are_read_as_systemd_writes_them() {
        let is_accepted = |text: &str| parse("StateDirectory", text).is_ok();
        for text in ["a:b", "a:b:ro", "'a b'"] {
            assert!(is_accepted(text), "{text}");
        }
        for text in ["'a b:c'", "'a:b c'", "a\\'b", "a\\\\\\\\b", "a\\'b:c", "a:b\\\\\\\\c", ".", "a:.", "''"]
        {
            assert!(!is_accepted(text), "{text}");
        }
    }
}
