//! How to start a plugin, and what it writes to its stderr.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStderr;

/// How many of the plugin's last lines an error repeats.
const LAST_LINES: usize = 20;

/// One line that the plugin has written to its stderr.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `trace`, `debug`, `info`, `warn` or `error`; a line that is not a record counts as `debug`.
    pub level: String,
    /// The message, or the whole line if it is not a record.
    pub message: String,
    /// The record's other keys, `@module` and `@timestamp` among them.
    pub fields: BTreeMap<String, String>,
}

impl Record {
    /// Reads a line as go-plugin does: a JSON object is a record, everything else is text.
    pub fn parse(line: &str) -> Self {
        let text = Self { level: "debug".to_owned(), message: line.to_owned(), fields: BTreeMap::new() };
        let Ok(serde_json::Value::Object(mut object)) = serde_json::from_str(line) else {
            return text;
        };
        let mut take = |key: &str| object.remove(key).and_then(|value| value.as_str().map(str::to_owned));
        let (Some(level), Some(message)) = (take("@level"), take("@message")) else {
            return text;
        };
        let level = level.to_lowercase();
        let fields = object.into_iter().map(|(key, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (key, value)
        });
        Self { level, message, fields: fields.collect() }
    }
}

/// How to start a plugin.
pub struct Launch {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) records: Box<dyn FnMut(&Record) + Send>,
}

impl Launch {
    /// Starts `program` with no arguments, our environment, and its records going to `tracing`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), records: Box::new(trace) }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds a variable to our own environment, which the plugin inherits.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the function that receives the lines of the plugin's stderr.
    #[must_use]
    pub fn records(mut self, records: impl FnMut(&Record) + Send + 'static) -> Self {
        self.records = Box::new(records);
        self
    }
}

fn trace(record: &Record) {
    let Record { level, message, fields } = record;
    match level.as_str() {
        "error" => tracing::error!(target: "plugin", ?fields, "{message}"),
        "warn" => tracing::warn!(target: "plugin", ?fields, "{message}"),
        "info" => tracing::info!(target: "plugin", ?fields, "{message}"),
        _ => tracing::debug!(target: "plugin", ?fields, "{message}"),
    }
}

pub(super) type LastLines = Arc<Mutex<VecDeque<String>>>;

/// Reads stderr for as long as the plugin lives: unread output would eventually block the plugin.
pub(super) async fn read(
    stderr: ChildStderr,
    last_lines: LastLines,
    mut records: Box<dyn FnMut(&Record) + Send>,
) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(1..)) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        let record = Record::parse(&text);
        records(&record);
        let mut last = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(record.message);
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }
}

pub(super) fn joined(last_lines: &LastLines) -> String {
    let last = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_empty() { "(none)".to_owned() } else { last.iter().cloned().collect::<Vec<_>>().join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stderr_lines_are_records_or_text() {
        let record = Record::parse(r#"{"@level":"INFO","@message":"Hello","@module":"m","n":1}"#);
        assert_eq!((record.level.as_str(), record.message.as_str()), ("info", "Hello"));
        assert_eq!(record.fields["n"], "1");
        assert_eq!(Record::parse("panic: x").message, "panic: x");
        assert_eq!(Record::parse("{}").message, "{}");
    }
}
