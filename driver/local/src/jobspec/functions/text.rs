//! Functions for strings.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hcl::Value;
use hcl::eval::FuncArgs;
use sha2::{Digest as _, Sha256};

use super::{Result, exactly, integer_of, json, list_of, string_of};

pub(super) fn base64_decode(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    let bytes = BASE64.decode(string_of(&text)?).map_err(|error| format!("not base64: {error}"))?;
    String::from_utf8(bytes).map(Value::String).map_err(|_| "what it encodes is not UTF-8 text".to_owned())
}

pub(super) fn base64_encode(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::String(BASE64.encode(string_of(&text)?)))
}

pub(super) fn chomp(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::from(string_of(&text)?.trim_end_matches(['\r', '\n'])))
}

/// Supports the verbs without flags: `%s`, `%v`, `%d`, `%q`, `%t` and `%%`.
pub(super) fn format(args: FuncArgs) -> Result {
    let mut values = args.into_values().into_iter();
    let pattern = string_of(&values.next().ok_or("a format is required")?)?;
    let mut result = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            result.push(character);
            continue;
        }
        let verb = characters.next().ok_or("the format ends with `%`")?;
        if verb == '%' {
            result.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| format!("no argument for `%{verb}`"))?;
        match verb {
            's' | 'd' | 't' => result.push_str(&string_of(&value)?),
            'v' => result.push_str(&string_of(&value).or_else(|_| json(&value))?),
            'q' => result.push_str(&json(&Value::String(string_of(&value)?))?),
            other => {
                return Err(format!("the verb `%{other}` is not known here; %s %v %d %q %t are"));
            }
        }
    }
    match values.next() {
        None => Ok(Value::String(result)),
        Some(_) => Err("more arguments than verbs".to_owned()),
    }
}

/// Indents every line but the first.
pub(super) fn indent(args: FuncArgs) -> Result {
    const WIDEST: usize = 1024;
    let [spaces, text] = exactly(args)?;
    let spaces = usize::try_from(integer_of(&spaces)?).ok().filter(|spaces| *spaces <= WIDEST);
    let spaces = spaces.ok_or_else(|| format!("a number of spaces from 0 to {WIDEST} is required"))?;
    Ok(Value::String(string_of(&text)?.replace('\n', &format!("\n{}", " ".repeat(spaces)))))
}

pub(super) fn join(args: FuncArgs) -> Result {
    let mut values = args.into_values().into_iter();
    let separator = string_of(&values.next().ok_or("a separator is required")?)?;
    let mut parts = Vec::new();
    for list in values {
        for value in list_of(list)? {
            parts.push(string_of(&value)?);
        }
    }
    Ok(Value::String(parts.join(&separator)))
}

pub(super) fn jsondecode(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    serde_json::from_str(&string_of(&text)?).map_err(|error| error.to_string())
}

pub(super) fn jsonencode(args: FuncArgs) -> Result {
    let [value] = exactly(args)?;
    json(&value).map(Value::String)
}

pub(super) fn lower(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::String(string_of(&text)?.to_lowercase()))
}

pub(super) fn replace(args: FuncArgs) -> Result {
    let [text, from, to] = exactly(args)?;
    Ok(Value::String(string_of(&text)?.replace(&string_of(&from)?, &string_of(&to)?)))
}

pub(super) fn sha256(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::String(hex::encode(Sha256::digest(string_of(&text)?))))
}

pub(super) fn split(args: FuncArgs) -> Result {
    let [separator, text] = exactly(args)?;
    let (separator, text) = (string_of(&separator)?, string_of(&text)?);
    Ok(text.split(separator.as_str()).map(Value::from).collect())
}

pub(super) fn strlen(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::from(string_of(&text)?.chars().count()))
}

pub(super) fn substr(args: FuncArgs) -> Result {
    let [text, offset, length] = exactly(args)?;
    let text: Vec<char> = string_of(&text)?.chars().collect();
    let (offset, length) = (integer_of(&offset)?, integer_of(&length)?);
    let count = i64::try_from(text.len()).map_err(|error| error.to_string())?;
    // A negative offset counts from the end, a negative length means "the rest".
    let start = if offset < 0 { (count + offset).max(0) } else { offset.min(count) };
    let end = if length < 0 { count } else { start.saturating_add(length).min(count) };
    let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
    Ok(Value::String(text[range].iter().collect()))
}

/// Writes the first letter of every word in upper case.
pub(super) fn title(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    let mut titled = String::new();
    let mut in_word = false;
    for letter in string_of(&text)?.chars() {
        if in_word {
            titled.push(letter);
        } else {
            titled.extend(letter.to_uppercase());
        }
        in_word = letter.is_alphanumeric() || matches!(letter, '_' | '\'');
    }
    Ok(Value::String(titled))
}

pub(super) fn trim(args: FuncArgs) -> Result {
    let [text, characters] = exactly(args)?;
    let (text, characters) = (string_of(&text)?, string_of(&characters)?);
    Ok(Value::from(text.trim_matches(|letter| characters.contains(letter))))
}

pub(super) fn trimprefix(args: FuncArgs) -> Result {
    let [text, prefix] = exactly(args)?;
    let (text, prefix) = (string_of(&text)?, string_of(&prefix)?);
    Ok(Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(&text)))
}

pub(super) fn trimspace(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::from(string_of(&text)?.trim()))
}

pub(super) fn trimsuffix(args: FuncArgs) -> Result {
    let [text, suffix] = exactly(args)?;
    let (text, suffix) = (string_of(&text)?, string_of(&suffix)?);
    Ok(Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(&text)))
}

pub(super) fn upper(args: FuncArgs) -> Result {
    let [text] = exactly(args)?;
    Ok(Value::String(string_of(&text)?.to_uppercase()))
}
