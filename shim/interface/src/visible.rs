//! Text of a job, a guest or a client, as people may see it.

use std::fmt::Write as _;

/// The text without what a terminal obeys or shows in another order: these characters are written as `\u001b`. Line ends
/// and tabs stay.
pub fn visible(text: &str) -> String {
    let is_obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let is_reordering = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}');
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) || is_reordering(c) {
            // Writing to a string does not fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The same in one line.
pub fn visible_line(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_it() {
        assert_eq!(visible("a\u{1b}[2J\tb\nc\u{9b}\u{202e}d é"), "a\\u001b[2J\tb\nc\\u009b\\u202ed é");
        assert_eq!(visible_line("fd\nFAKE: grants none"), "fd FAKE: grants none");
    }
}
