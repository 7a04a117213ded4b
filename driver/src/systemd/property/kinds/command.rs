//! Command lines. A job does not set them as properties: `command` and `args` are options.

use zbus::{Array, Variant};

use super::super::lines::{command_word, texts};

/// A command line in a unit file; `@` marks a name that differs from the path.
pub(crate) fn text(path: &str, argv: &Array<'_>, flags: &Variant<'_>) -> String {
    let prefix = exec_prefix(flags);
    let mut words = texts(argv);
    let first = words.next().unwrap_or_default();
    let at = if first == path { String::new() } else { format!(" {}", command_word(first)) };
    let sign = if at.is_empty() { "" } else { "@" };
    let rest = words.fold(String::new(), |rest, word| rest + " " + &command_word(word));
    format!("{prefix}{sign}{}{at}{rest}", command_word(path))
}

/// The prefix characters of a command line.
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
