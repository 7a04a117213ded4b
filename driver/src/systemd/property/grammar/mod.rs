//! The basic parts of systemd's grammar: words, numbers, times. Every error is a clause that states what is wrong.

mod numbers;
mod times;

use std::borrow::Cow;

pub(crate) use self::numbers::{bit_set, boolean, hexadecimal, integer, mode, permyriad, size, within};
pub(crate) use self::times::{microseconds, nanoseconds, seconds};

/// The parsed value, or why the text cannot be parsed.
pub(super) type Parsed<T> = Result<T, String>;

/// The characters that separate words.
pub(super) const SPACE: &str = " \t\n\r";

/// The meaning of a backslash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backslash {
    /// The backslash is a character like any other.
    Stays,
    /// The backslash removes the special meaning of the next character.
    Hides,
    /// The backslash begins an escape as in C.
    Escapes,
    /// As [`Backslash::Escapes`], and the backslash removes the special meaning of a separator.
    EscapesOrHides,
}

/// How a text is split into words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub separators: &'static str,
    /// Whether `"` and `'` keep the text between them together.
    pub quotes: bool,
    pub backslash: Backslash,
    /// Whether every separator ends a word, so that words can be empty.
    pub each: bool,
}

/// Words of a list: separated by spaces, optionally quoted.
pub(super) const LIST: Split =
    Split { separators: SPACE, quotes: true, backslash: Backslash::Hides, each: false };
/// Fields separated by colons.
pub(super) const FIELDS: Split = Split { separators: ":", quotes: false, each: true, ..LIST };

/// Fields separated by colons, where a backslash escapes a colon or begins an escape.
pub(super) const ESCAPED_FIELDS: Split =
    Split { separators: ":", quotes: false, backslash: Backslash::EscapesOrHides, each: false };
/// Words whose backslashes are interpreted later.
pub(super) const RAW_LIST: Split = Split { backslash: Backslash::Stays, ..LIST };
/// Words in which quotes have no special meaning.
pub(super) const UNQUOTED_LIST: Split = Split { quotes: false, ..LIST };

/// A text that is read word by word.
#[derive(Debug)]
pub(super) struct Words<'a> {
    rest: Option<&'a str>,
}

/// A word, and the separator after it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    pub ended_by: Option<char>,
}

impl<'a> Words<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { rest: Some(text) }
    }

    /// The text that no word has been taken from yet; `None` once the last word was taken.
    pub(super) fn rest(&self) -> Option<&'a str> {
        self.rest
    }

    /// Skips spaces.
    pub(super) fn skip_space(&mut self) {
        self.rest = self.rest.map(|rest| rest.trim_start_matches(is_space)).filter(|rest| !rest.is_empty());
    }

    /// Takes the next word.
    pub(super) fn next(&mut self, split: Split) -> Parsed<Option<Word>> {
        let separates = |c: char| split.separators.contains(c);
        let Some(mut rest) = self.rest.take() else { return Ok(None) };
        if !split.each {
            rest = rest.trim_start_matches(separates);
            if rest.is_empty() {
                return Ok(None);
            }
        }
        let (mut word, mut quote, mut ended_by) = (Vec::new(), None, None);
        while let Some(c) = pop(&mut rest) {
            if c == '\\' && split.backslash != Backslash::Stays {
                unescape(&mut rest, split, &mut word)?;
            } else if quote == Some(c) {
                quote = None;
            } else if quote.is_none() && split.quotes && matches!(c, '"' | '\'') {
                quote = Some(c);
            } else if quote.is_none() && separates(c) {
                if !split.each {
                    rest = rest.trim_start_matches(separates);
                }
                self.rest = Some(rest).filter(|rest| split.each || !rest.is_empty());
                ended_by = Some(c);
                break;
            } else {
                push(&mut word, c);
            }
        }
        if quote.is_some() {
            return Err("a quote is not closed".to_owned());
        }
        let text = String::from_utf8(word).map_err(|_| "an escape makes bytes that are not UTF-8")?;
        Ok(Some(Word { text, ended_by }))
    }
}

/// All words of `text`.
pub(super) fn words(text: &str, split: Split) -> Parsed<Vec<String>> {
    let mut rest = Words::of(text);
    std::iter::from_fn(|| rest.next(split).transpose()).map(|word| word.map(|word| word.text)).collect()
}

/// The fields of `text`, at most `most` of them.
pub(super) fn fields(text: &str, split: Split, most: usize) -> Parsed<Vec<String>> {
    let fields = words(text, split)?;
    if fields.len() > most {
        return Err(format!(
            "it has {} parts between colons, and at most {most} have a meaning",
            fields.len()
        ));
    }
    Ok(fields)
}

/// `word` in a form that systemd's splitting into words, at spaces or colons, restores exactly.
pub fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| !is_space(c) && !matches!(c, '"' | '\'' | '\\' | ':');
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted.into()
}

/// `word` in a form that [`RAW_LIST`] restores: backslashes stay there, so a word with a quote is in quotes of the other
/// kind. No form has both kinds.
pub(super) fn raw_quote(word: String) -> String {
    let needs_quotes = |c: char| is_space(c) || matches!(c, '"' | '\'');
    match word.contains(needs_quotes) || word.is_empty() {
        true if word.contains('"') => format!("'{word}'"),
        true => format!("\"{word}\""),
        false => word,
    }
}

pub(super) fn is_space(c: char) -> bool {
    SPACE.contains(c)
}

fn pop(rest: &mut &str) -> Option<char> {
    let mut chars = rest.chars();
    let first = chars.next();
    *rest = chars.as_str();
    first
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Reads the characters after a backslash.
fn unescape(rest: &mut &str, split: Split, word: &mut Vec<u8>) -> Parsed<()> {
    let Some(c) = pop(rest) else { return Err("it ends in a backslash".to_owned()) };
    let hidden = match split.backslash {
        Backslash::Stays | Backslash::Hides => true,
        Backslash::Escapes => false,
        Backslash::EscapesOrHides => split.separators.contains(c),
    };
    if hidden {
        push(word, c);
        return Ok(());
    }
    let mut code = |length: usize, radix: u32| {
        let (digits, behind) = rest.split_at_checked(length).ok_or_else(|| format!("`\\{c}` is cut off"))?;
        *rest = behind;
        // from_str_radix would accept a sign.
        let digits = Some(digits).filter(|digits| digits.chars().all(|c| c.is_digit(radix)));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
        code.ok_or_else(|| format!("`\\{c}` is followed by no digits of a character"))
    };
    let byte = |code: u32| match u8::try_from(code) {
        Ok(byte) if byte != 0 => Ok(byte),
        _ => Err(format!("`\\{c}` begins a number that is not a byte of a text")),
    };
    let letter = |code: u32| match char::from_u32(code) {
        Some(letter) if letter != '\0' => Ok(letter),
        _ => Err(format!("`\\{c}` begins a number that is not a character")),
    };
    match c {
        'a' => word.push(0x07),
        'b' => word.push(0x08),
        'f' => word.push(0x0c),
        'n' => word.push(b'\n'),
        'r' => word.push(b'\r'),
        't' => word.push(b'\t'),
        'v' => word.push(0x0b),
        's' => word.push(b' '),
        '\\' | '"' | '\'' => push(word, c),
        'x' => word.push(byte(code(2, 16)?)?),
        'u' => push(word, letter(code(4, 16)?)?),
        'U' => push(word, letter(code(8, 16)?)?),
        '0'..='7' => word.push(byte(c.to_digit(8).unwrap_or_default() * 64 + code(2, 8)?)?),
        _ => return Err(format!("`\\{c}` is not an escape sequence")),
    }
    Ok(())
}
