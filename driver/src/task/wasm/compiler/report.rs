//! The output of a compiler, for people.

/// The output of a compiler, on one line and without characters that control a terminal.
pub(super) fn on_one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_compiler_says_is_one_line_that_no_terminal_obeys() {
        assert_eq!(on_one_line(b"bad\n\tmodule \x1b[2J\xff\0.\r\n"), "bad module [2J\u{fffd} .");
    }
}
