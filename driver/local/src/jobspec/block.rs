//! Reads one block of a job file. The caller takes the keys that it supports; `finish` accounts for every key that is
//! left. Each error names the block and its line.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use hcl::edit::Span;
use hcl::edit::structure::{Attribute, Block as Written, Body, Structure};
use hcl::{Expression, Map, Value};

use super::Notes;
use super::expression::{self, Scope};
use super::types::Type;

/// Where a key belongs that Nomad does not know.
fn place_of(key: &str) -> &'static str {
    const OF_DRIVERS: [&str; 20] = [
        "args",
        "cap_add",
        "cap_drop",
        "command",
        "credential",
        "extra_hosts",
        "files",
        "hostname",
        "image",
        "limits",
        "logging",
        "notify",
        "ports",
        "properties",
        "sandbox",
        "socket",
        "ulimit",
        "volumes",
        "wasm",
        "work_dir",
    ];
    if OF_DRIVERS.contains(&key) {
        "it is an option of a driver, and belongs in the `config` block of the task"
    } else {
        "check its spelling and its place"
    }
}

/// A block of a job file, and the bytes in it that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The block and its line, such as `task "web" (line 12)`.
    pub(super) block: String,
    /// The key, or the name of the block if the key is missing, as bytes of the file.
    pub(super) span: Option<Range<usize>>,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.block)
    }
}

/// An error in a job file, and its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not HCL.
    #[error("read the job file")]
    Parse {
        /// The parser's message with the place.
        source: hcl::edit::parser::Error,
    },
    /// Nomad supports the key, but it needs a Nomad agent.
    #[error("{place}: `{key}` is not possible without a Nomad agent: {advice}")]
    NotHere {
        /// The block.
        place: Place,
        /// The block or attribute, such as `template`.
        key: String,
        /// What to do instead.
        advice: String,
    },
    /// Nomad does not know the key either.
    #[error("{place}: `{key}` is not known in a Nomad job; {}", place_of(key))]
    Unknown {
        /// The block.
        place: Place,
        /// The key, such as `comand`.
        key: String,
    },
    /// A required key is missing.
    #[error("{place}: `{key}` is required")]
    Missing {
        /// The block.
        place: Place,
        /// The key, such as `driver`.
        key: String,
    },
    /// A value of the wrong type or out of range.
    #[error("{place}: `{key}`: {reason}")]
    Value {
        /// The block.
        place: Place,
        /// The key, such as `kill_timeout`.
        key: String,
        /// The reason, such as `a duration such as "30s" is required`.
        reason: String,
    },
    /// An expression that has no value.
    #[error("{place}: `{key}`")]
    Expression {
        /// The block.
        place: Place,
        /// The key, such as `args`.
        key: String,
        /// What was wrong with it.
        source: expression::Error,
    },
}

impl Error {
    /// The bytes of the file that this error is about.
    pub(super) fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::Parse { .. } => None,
            Self::NotHere { place, .. }
            | Self::Unknown { place, .. }
            | Self::Missing { place, .. }
            | Self::Value { place, .. }
            | Self::Expression { place, .. } => place.span.clone(),
        }
    }
}

/// One block of a job file, with the keys that have not been taken yet.
#[derive(Debug)]
pub(super) struct Block<'a> {
    /// The block and its line, such as `task "web" (line 12)`.
    place: String,
    /// The labels, such as `["web"]`.
    pub(super) labels: Vec<String>,
    text: &'a str,
    /// Where the name of the block stands in the file.
    name: Option<Range<usize>>,
    /// Where the keys stand, also those that were taken.
    keys: BTreeMap<&'a str, Range<usize>>,
    attributes: BTreeMap<&'a str, &'a Attribute>,
    blocks: Vec<&'a Written>,
}

impl<'a> Block<'a> {
    /// The whole file as a block.
    pub(super) fn file(text: &'a str, body: &'a Body) -> Self {
        Self::new("the job file".to_owned(), Vec::new(), text, None, body)
    }

    fn new(
        place: String,
        labels: Vec<String>,
        text: &'a str,
        name: Option<Range<usize>>,
        body: &'a Body,
    ) -> Self {
        let keys = BTreeMap::new();
        let mut block =
            Self { place, labels, text, name, keys, attributes: BTreeMap::new(), blocks: Vec::new() };
        for structure in body {
            let key = match structure {
                Structure::Attribute(attribute) => &attribute.key,
                Structure::Block(inner) => &inner.ident,
            };
            if let Some(span) = key.span() {
                block.keys.entry(key.as_str()).or_insert(span);
            }
            match structure {
                Structure::Attribute(attribute) => {
                    block.attributes.insert(attribute.key.as_str(), attribute);
                }
                Structure::Block(inner) => block.blocks.push(inner),
            }
        }
        block
    }

    /// The one label that this block must have.
    pub(super) fn label(&self) -> Result<&str, Error> {
        match self.labels.as_slice() {
            // The label is shown on a terminal.
            [label] if label.chars().any(char::is_control) => {
                Err(self.wrong("label", "a name without control characters is required"))
            }
            [label] if !label.is_empty() => Ok(label),
            _ => Err(self.wrong("label", "exactly one name in quotes is required")),
        }
    }

    /// All blocks of this name, in their order.
    pub(super) fn blocks(&mut self, name: &str) -> Vec<Block<'a>> {
        let (taken, left) =
            std::mem::take(&mut self.blocks).into_iter().partition(|block| block.ident.as_str() == name);
        self.blocks = left;
        let taken: Vec<&'a Written> = taken;
        taken.into_iter().map(|block| self.inner(block)).collect()
    }

    /// The block of this name, if there is one; a second one is an error.
    pub(super) fn block(&mut self, name: &str) -> Result<Option<Block<'a>>, Error> {
        let mut blocks = self.blocks(name);
        match blocks.len() {
            0 | 1 => Ok(blocks.pop()),
            _ => Err(self.repeated(name, blocks.get(1).and_then(|second| second.name.clone()))),
        }
    }

    /// The error for a second block of this name, which stands at `span`.
    fn repeated(&self, name: &str, span: Option<Range<usize>>) -> Error {
        let place = Place { block: self.place.clone(), span };
        Error::Value { place, key: name.to_owned(), reason: "only one such block is allowed".to_owned() }
    }

    fn inner(&self, written: &'a Written) -> Block<'a> {
        Self::of(self.text, written)
    }

    /// A block that was found in the file of this `text`.
    pub(super) fn of(text: &'a str, written: &'a Written) -> Self {
        let labels: Vec<String> = written.labels.iter().map(|label| label.as_str().to_owned()).collect();
        let named = labels.iter().map(|label| format!(" {label:?}"));
        let line = |offset| text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1;
        let line = written.span().map(|span| format!(" (line {})", line(span.start)));
        let place = [written.ident.to_string()].into_iter().chain(named).chain(line).collect();
        Block::new(place, labels, text, written.ident.span(), &written.body)
    }

    /// The expression of an attribute, not evaluated.
    pub(super) fn expression(&mut self, key: &str) -> Option<Expression> {
        self.attributes.remove(key).map(|attribute| Expression::from(attribute.value.clone()))
    }

    /// All remaining attributes, not evaluated.
    pub(super) fn expressions(&mut self) -> Vec<(String, Expression)> {
        let left = std::mem::take(&mut self.attributes);
        left.into_iter().map(|(key, attribute)| (key.to_owned(), attribute.value.clone().into())).collect()
    }

    /// The value of an attribute; null counts as not set.
    pub(super) fn value(&mut self, key: &str, scope: &Scope) -> Result<Option<Value>, Error> {
        let Some(expression) = self.expression(key) else {
            return Ok(None);
        };
        let value = scope.value(&expression);
        let value = value.map_err(|source| self.expression_error(key, source))?;
        Ok(Some(value).filter(|value| !value.is_null()))
    }

    /// A string.
    pub(super) fn string(&mut self, key: &str, scope: &Scope) -> Result<Option<String>, Error> {
        match self.converted(key, &Type::String, scope)? {
            Some(Value::String(text)) => Ok(Some(text)),
            _ => Ok(None),
        }
    }

    /// A whole number.
    pub(super) fn integer(&mut self, key: &str, scope: &Scope) -> Result<Option<i64>, Error> {
        let Some(value) = self.converted(key, &Type::Number, scope)? else {
            return Ok(None);
        };
        value.as_i64().map(Some).ok_or_else(|| self.wrong(key, "a whole number is required"))
    }

    /// True or false.
    pub(super) fn bool(&mut self, key: &str, scope: &Scope) -> Result<Option<bool>, Error> {
        Ok(self.converted(key, &Type::Bool, scope)?.and_then(|value| value.as_bool()))
    }

    /// A list of strings.
    pub(super) fn strings(&mut self, key: &str, scope: &Scope) -> Result<Vec<String>, Error> {
        let kind = Type::List(Box::new(Type::String));
        let Some(Value::Array(list)) = self.converted(key, &kind, scope)? else {
            return Ok(Vec::new());
        };
        Ok(list.into_iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
    }

    /// A duration as Go writes it, such as `"1m30s"`, or a number of nanoseconds.
    pub(super) fn duration(&mut self, key: &str, scope: &Scope) -> Result<Option<Duration>, Error> {
        let duration = match self.value(key, scope)? {
            None => return Ok(None),
            Some(Value::String(text)) => parse_duration(&text),
            Some(other) => other.as_u64().map(Duration::from_nanos),
        };
        duration
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a duration such as \"30s\" or \"1m30s\" is required"))
    }

    /// A map of strings, written as a block or as an attribute.
    pub(super) fn map(&mut self, key: &str, scope: &Scope) -> Result<BTreeMap<String, String>, Error> {
        let mut values = Map::new();
        if let Some(mut block) = self.block(key)? {
            for (name, expression) in block.expressions() {
                let value =
                    scope.value(&expression).map_err(|source| block.expression_error(&name, source))?;
                values.insert(name, value);
            }
            block.finish(&[], &[], &mut Notes::default())?;
        }
        match self.converted(key, &Type::Map(Box::new(Type::String)), scope)? {
            Some(Value::Object(map)) if values.is_empty() => values = map,
            Some(_) => return Err(self.wrong(key, "is given both as a block and as an attribute")),
            None => {}
        }
        let kind = Type::String;
        let entries = values.into_iter().filter_map(|(name, value)| match kind.convert(value) {
            Ok(Value::String(text)) => Some(Ok((name, text))),
            Ok(_) => None,
            Err(reason) => Some(Err(self.wrong(&format!("{key}.{name}"), &reason))),
        });
        entries.collect()
    }

    /// A block of free form, evaluated as [`Scope::body`] does.
    pub(super) fn free(&mut self, key: &str, scope: &Scope) -> Result<Map<String, Value>, Error> {
        let mut found = self.blocks.iter().copied().filter(|block| block.ident.as_str() == key);
        let (first, second) = (found.next(), found.next());
        if let Some(second) = second {
            return Err(self.repeated(key, second.ident.span()));
        }
        let Some(written) = first else {
            return Ok(Map::new());
        };
        self.blocks.retain(|block| block.ident.as_str() != key);
        let place = self.inner(written).place;
        scope.body(&hcl::Body::from(written.body.clone())).map_err(|source| {
            // The evaluator does not say where: the first attribute that has no value.
            let span = failing(&written.body, scope).or_else(|| self.keys.get(key).cloned());
            Error::Expression { place: Place { block: self.place.clone(), span }, key: place, source }
        })
    }

    fn converted(&mut self, key: &str, kind: &Type, scope: &Scope) -> Result<Option<Value>, Error> {
        let Some(value) = self.value(key, scope)? else {
            return Ok(None);
        };
        kind.convert(value).map(Some).map_err(|reason| self.wrong(key, &reason))
    }

    /// Accounts for the remaining keys: `ignored` ones are noted, `refused` ones (with their advice) are errors, all
    /// others are unknown.
    pub(super) fn finish(
        self,
        ignored: &[&str],
        refused: &[(&str, &str)],
        notes: &mut Notes,
    ) -> Result<(), Error> {
        let blocks = self.blocks.iter().map(|block| block.ident.as_str());
        for key in self.attributes.keys().copied().chain(blocks) {
            if let Some((_, advice)) = refused.iter().find(|(name, _)| *name == key) {
                notes.need_agent(self.not_here(key, advice))?;
                continue;
            }
            if !ignored.contains(&key) {
                return Err(Error::Unknown { place: self.at(key), key: key.to_owned() });
            }
            notes.ignore(key);
        }
        Ok(())
    }

    /// The place of a key of this block, or of a part of its value, such as `env.PATH`.
    fn at(&self, key: &str) -> Place {
        let (name, _) = key.split_once('.').unwrap_or((key, ""));
        let span = self.keys.get(name).or(self.name.as_ref()).cloned();
        Place { block: self.place.clone(), span }
    }

    /// The error for a feature that needs an agent.
    pub(super) fn not_here(&self, key: &str, advice: &str) -> Error {
        Error::NotHere { place: self.at(key), key: key.to_owned(), advice: advice.to_owned() }
    }

    /// After all keys of the block were taken: the error for one that is left, which may be a required one that is misspelt.
    pub(super) fn misspelt(&self, ignored: &[&str]) -> Option<Error> {
        let left = self.attributes.keys().find(|left| !ignored.contains(left))?;
        Some(Error::Unknown { place: self.at(left), key: (*left).to_owned() })
    }

    /// The error for a missing key.
    pub(super) fn missing(&self, key: &str) -> Error {
        Error::Missing { place: self.at(key), key: key.to_owned() }
    }

    /// The error for a value.
    pub(super) fn wrong(&self, key: &str, reason: &str) -> Error {
        Error::Value { place: self.at(key), key: key.to_owned(), reason: reason.to_owned() }
    }

    /// The error for an expression.
    pub(super) fn expression_error(&self, key: &str, source: expression::Error) -> Error {
        Error::Expression { place: self.at(key), key: key.to_owned(), source }
    }
}

/// Where the first attribute stands that has no value, in this body or in its blocks.
fn failing(body: &Body, scope: &Scope) -> Option<Range<usize>> {
    body.iter().find_map(|structure| match structure {
        Structure::Attribute(attribute) => {
            let expression = Expression::from(attribute.value.clone());
            scope.value(&expression).err().and_then(|_| attribute.key.span())
        }
        Structure::Block(block) => failing(&block.body, scope),
    })
}

/// A duration as Go's `time.ParseDuration` reads it, without a sign: `300ms`, `1.5h`, `2h45m`, `0`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let end =
            rest.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(rest.len());
        let unit = match rest.get(..end)? {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number * unit;
        rest = rest.get(end..)?;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        let cases = [
            ("5s", Some(5_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("300ms", Some(300)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("5x", None),
            ("-1s", None),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text}");
        }
    }
}
