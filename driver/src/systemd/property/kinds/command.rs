//! Command lines. A job gives none as a property: `command` and `args` are options.

use zbus::{Array, Variant};

use super::super::print::texts;

/// A command line in a unit file: `@` is for a name that is not the path.
pub(crate) fn text(path: &str, argv: &Array<'_>, flags: &Variant<'_>) -> String {
    let prefix = exec_prefix(flags);
    let mut words = texts(argv);
    let first = words.next().unwrap_or_default();
    let at = if first == path { String::new() } else { format!(" {}", command_word(first)) };
    let sign = if at.is_empty() { "" } else { "@" };
    let rest = words.fold(String::new(), |rest, word| rest + " " + &command_word(word));
    format!("{prefix}{sign}{}{at}{rest}", command_word(path))
}

/// The characters before a command line.
fn exec_prefix(flags: &Variant<'_>) -> String {
    let flags: Vec<&str> = match flags {
        Variant::Bool(true) => vec!["ignore-failure"],
        Variant::Array(flags) => texts(flags).collect(),
        _ => Vec::new(),
    };
    let signs = flags.iter().map(|flag| match *flag {
        "ignore-failure" => "-",
        "no-env-expand" => ":",
        "privileged" => "+",
        "no-setuid" => "!",
        "ambient" => "!!",
        "via-shell" => "|",
        _ => "",
    });
    signs.collect()
}

/// One word of a command line: quoted, with its control characters as escapes of C.
pub(crate) fn command_word(word: &str) -> String {
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
