//! What a compiler says, for people.

/// What a compiler says, on one line and without anything that a terminal would obey.
pub(super) fn on_one_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let words = said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
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
