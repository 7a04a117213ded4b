//! Words and lists in a line of a unit file.

use zbus::Variant;

use super::grammar::quote;

/// Words separated by one space.
pub(super) fn spaced(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

/// One word of a list.
pub(super) fn word(name: &str, text: &str) -> String {
    match name {
        // These properties accept the escapes of C.
        "Environment" | "PassEnvironment" | "UnsetEnvironment" => command_word(text),
        "ExecSearchPath" => quote(text).into_owned(),
        // A colon separates only in properties that take pairs, and a `~` inverts a list.
        _ if text.is_empty() || text.starts_with('~') => {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        }
        _ if text.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\')) => {
            quote(text).into_owned()
        }
        _ => text.to_owned(),
    }
}

/// One word of a command line: quoted, with its control characters as escapes of C.
pub(super) fn command_word(word: &str) -> String {
    let mut text = String::new();
    for c in word.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_ascii_control() => text.extend(format!("\\x{:02x}", u32::from(c)).chars()),
            c => text.push(c),
        }
    }
    // Alone, `;` ends a command.
    let plain = !text.is_empty() && text == word && word != ";" && !word.contains([' ', '\'']);
    if plain { text } else { format!("\"{text}\"") }
}

/// The strings of a list.
pub(super) fn texts<'a>(all: &'a zbus::Array<'_>) -> impl Iterator<Item = &'a str> {
    all.inner()
        .iter()
        .filter_map(|text| if let Variant::Str(text) = text { Some(text.as_str()) } else { None })
}
