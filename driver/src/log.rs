//! The driver's log records as Nomad's agent reads them: one JSON object per line on stderr, in hclog's format.
//!
//! The agent parses each line (go-plugin v1.8.0, `logStderr`) and **panics** if `@message`, `@level` or `@timestamp` is
//! present but not a string. So these three are written here and no field can replace them. The agent would cut a line
//! longer than 64 KiB, so long values are cut here. When the agent is gone, nobody reads stderr; a record that cannot
//! be written is dropped.

use std::fmt;
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

/// The longest value of one field, in bytes.
const VALUE_MAX: usize = 4096;
/// The longest record, in bytes; the agent's reader stops at 65536.
const RECORD_MAX: usize = 60_000;

/// Sends every record of this process to stderr in hclog's format.
///
/// Nomad does not tell a plugin its log level; the agent filters the records. `RUST_LOG` narrows what the driver sends.
pub fn to_stderr_as_hclog() {
    let requested = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    let ours = || Targets::new().with_default(Level::INFO).with_target("nomad_driver_systemd", Level::DEBUG);
    let filter: Targets = requested.unwrap_or_else(ours);
    // A second call, in a test, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(filter).with(Hclog));
}

/// Aborts the process on any panic, after logging the panic.
///
/// A driver that lost a part of itself would leave tasks unwatched. Nomad starts a new one, which finds all tasks.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let reason = panic.payload_as_str().unwrap_or("no reason given");
        tracing::error!(place, reason, "the driver panicked and is exiting; tasks keep running");
        std::process::abort();
    }));
}

struct Hclog;

impl<S: Subscriber> Layer<S> for Hclog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = record(*event.metadata().level(), SystemTime::now(), |fields| {
            event.record(fields);
        });
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// One log line, including the newline.
fn record(level: Level, now: SystemTime, fill: impl FnOnce(&mut Fields)) -> String {
    let mut fields = Fields::default();
    fill(&mut fields);
    let line = fields.into_line(level, now);
    if line.len() <= RECORD_MAX {
        return line;
    }
    let short = Fields { message: "a log record was too long and is left out".into(), ..Fields::default() };
    short.into_line(level, now)
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn into_line(self, level: Level, now: SystemTime) -> String {
        let mut map = self.others;
        map.insert("@level".into(), level.as_str().to_ascii_lowercase().into());
        map.insert("@message".into(), self.message.into());
        map.insert("@module".into(), "systemd".into());
        map.insert("@timestamp".into(), humantime::format_rfc3339_micros(now).to_string().into());
        let mut line = Value::Object(map).to_string();
        line.push('\n');
        line
    }

    fn put(&mut self, field: &Field, value: Value) {
        self.others.insert(field.name().replace('@', "_"), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = cut(format!("{value:?}"));
        if field.name() == "message" {
            self.message = text;
        } else {
            self.put(field, text.into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = cut(value.to_owned());
        } else {
            self.put(field, cut(value.to_owned()).into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

fn cut(mut text: String) -> String {
    if text.len() > VALUE_MAX {
        let end = (0..=VALUE_MAX).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `act` with our layer writing into a string.
    fn logged(act: impl FnOnce()) -> Value {
        struct Capture(std::sync::Arc<std::sync::Mutex<String>>);
        impl<S: Subscriber> Layer<S> for Capture {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                *self.0.lock().unwrap() =
                    record(*event.metadata().level(), SystemTime::UNIX_EPOCH, |fields| {
                        event.record(fields);
                    });
            }
        }
        let line = std::sync::Arc::default();
        let subscriber = Registry::default().with(Capture(std::sync::Arc::clone(&line)));
        tracing::subscriber::with_default(subscriber, act);
        let line = line.lock().unwrap();
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "one line: {line:?}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn a_record_has_the_three_strings_that_the_agent_relies_on() {
        let record = logged(|| tracing::warn!(unit = "a.service", pid = 7, "unit\nstarted"));
        assert_eq!(record["@level"], "warn");
        assert_eq!(record["@message"], "unit\nstarted");
        assert_eq!(record["@timestamp"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(record["unit"], "a.service");
        assert_eq!(record["pid"], 7);
    }

    #[test]
    fn no_field_can_take_the_place_of_level_or_message() {
        let record = logged(|| tracing::info!("@level" = 5, "@message" = false, "@timestamp" = 1, "hello"));
        assert_eq!(record["@level"], "info");
        assert_eq!(record["@message"], "hello");
        assert!(record["@timestamp"].is_string());
    }

    #[test]
    fn a_record_stays_below_the_length_at_which_the_agent_cuts() {
        let long = "é\"".repeat(100_000);
        let record = logged(|| tracing::error!(a = long, b = long, c = long, "{long}"));
        assert!(record.to_string().len() < 64 * 1024);
        assert!(record["@message"].is_string());
    }
}
