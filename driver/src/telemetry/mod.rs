//! Metrics of this driver process, for Prometheus: what `metrics_address` shows.
//!
//! Numbers are about the node: no label names a job, a task or an allocation, so that the number of time series is
//! bounded, and that who may read metrics learns nothing about who runs what. Statistics of each task go to Nomad.
//!
//! All counters begin at 0 with the process, as Prometheus expects it.

mod endpoint;

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use shim_interface::Served;

pub use self::endpoint::{Address, WANTED, serve};

/// The prefix of all names.
const PREFIX: &str = "nomad_systemd";
/// The buckets of a start, in seconds.
const STARTS: [f64; 12] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0];
/// The buckets of a compilation, in seconds.
const COMPILATIONS: [f64; 9] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0];

/// What a task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A native program.
    Native,
    /// A WebAssembly command.
    Wasm,
    /// A WebAssembly HTTP server.
    WasmServer,
}

impl Kind {
    fn label(self) -> OfKind {
        let kind = match self {
            Self::Native => "native",
            Self::Wasm => "wasm",
            Self::WasmServer => "wasm_server",
        };
        OfKind { kind }
    }
}

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The task runs.
    Running,
    /// The job asks for what this node does not give, or is wrong.
    Refused,
    /// Something failed.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct End {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultOf {
    result: &'static str,
}

struct Telemetry {
    registry: Registry,
    tasks: Family<OfKind, Gauge>,
    starts: Family<ResultOf, Counter>,
    start_seconds: Family<OfKind, Histogram>,
    ends: Family<End, Counter>,
    guest_ends: Family<Reason, Counter>,
    requests: Counter,
    request_traps: Counter,
    request_timeouts: Counter,
    cache: Family<ResultOf, Counter>,
    compilations: Family<ResultOf, Counter>,
    compile_seconds: Histogram,
}

static TELEMETRY: LazyLock<Telemetry> = LazyLock::new(Telemetry::new);

impl Telemetry {
    fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("driver", "The driver's version", version);
        let this = Self {
            tasks: Family::default(),
            starts: Family::default(),
            start_seconds: Family::new_with_constructor(|| Histogram::new(STARTS)),
            ends: Family::default(),
            guest_ends: Family::default(),
            requests: Counter::default(),
            request_traps: Counter::default(),
            request_timeouts: Counter::default(),
            cache: Family::default(),
            compilations: Family::default(),
            compile_seconds: Histogram::new(COMPILATIONS),
            registry,
        };
        this.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("tasks", "Tasks whose main process runs", self.tasks.clone());
        registry.register("task_starts", "Starts of tasks", self.starts.clone());
        registry.register_with_unit(
            "task_start",
            "Time from StartTask to the running program, with compilation and readiness",
            Unit::Seconds,
            self.start_seconds.clone(),
        );
        registry.register("task_ends", "Ends of tasks", self.ends.clone());
        registry.register("guest_ends", "WebAssembly that did not exit by itself", self.guest_ends.clone());
        registry.register("guest_requests", "HTTP requests to WebAssembly servers", self.requests.clone());
        let traps = "HTTP requests during which a WebAssembly server trapped";
        registry.register("guest_request_traps", traps, self.request_traps.clone());
        let timeouts = "HTTP requests to WebAssembly servers that exceeded their time";
        registry.register("guest_request_timeouts", timeouts, self.request_timeouts.clone());
        let cache = "Searches for compiled WebAssembly in the cache";
        registry.register("cache_lookups", cache, self.cache.clone());
        registry.register("compilations", "Compilations of WebAssembly", self.compilations.clone());
        let took = "Duration of compilations that succeeded";
        registry.register_with_unit("compilation", took, Unit::Seconds, self.compile_seconds.clone());
        self
    }
}

/// A start has ended after this time.
pub(crate) fn note_start(result: Started, running: Option<(Kind, Duration)>) {
    let result = match result {
        Started::Running => "running",
        Started::Refused => "refused",
        Started::Failed => "failed",
    };
    TELEMETRY.starts.get_or_create(&ResultOf { result }).inc();
    if let Some((kind, took)) = running {
        TELEMETRY.start_seconds.get_or_create(&kind.label()).observe(took.as_secs_f64());
    }
}

/// A running task; it counts as one until this value is dropped.
#[derive(Debug)]
pub(crate) struct Running(Kind);

impl Running {
    /// One more task of this kind.
    pub(crate) fn new(kind: Kind) -> Self {
        TELEMETRY.tasks.get_or_create(&kind.label()).inc();
        Self(kind)
    }

    /// The task has ended, such as by `oom`; `guest` says how a guest did that did not exit by itself, such as `trap`.
    pub(crate) fn note_end(&self, reason: &'static str, guest: Option<&'static str>) {
        TELEMETRY.ends.get_or_create(&End { kind: self.0.label().kind, reason }).inc();
        if let Some(reason) = guest {
            TELEMETRY.guest_ends.get_or_create(&Reason { reason }).inc();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        TELEMETRY.tasks.get_or_create(&self.0.label()).dec();
    }
}

/// A guest that serves has reported these numbers, and `before` the last time.
pub(crate) fn note_requests(before: Served, now: Served) {
    for (counter, before, now) in [
        (&TELEMETRY.requests, before.requests, now.requests),
        (&TELEMETRY.request_traps, before.traps, now.traps),
        (&TELEMETRY.request_timeouts, before.timeouts, now.timeouts),
    ] {
        counter.inc_by(now.saturating_sub(before));
    }
}

/// Compiled code was searched for.
pub(crate) fn note_cache_lookup(is_found: bool) {
    let result = if is_found { "hit" } else { "miss" };
    TELEMETRY.cache.get_or_create(&ResultOf { result }).inc();
}

/// A compilation has ended after this time.
pub(crate) fn note_compilation(has_succeeded: bool, took: Duration) {
    let result = if has_succeeded { "compiled" } else { "failed" };
    TELEMETRY.compilations.get_or_create(&ResultOf { result }).inc();
    if has_succeeded {
        TELEMETRY.compile_seconds.observe(took.as_secs_f64());
    }
}

/// All metrics, in the text format of OpenMetrics 1.0.
fn text() -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &TELEMETRY.registry);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_in_the_text() {
        note_start(Started::Running, Some((Kind::WasmServer, Duration::from_millis(30))));
        note_start(Started::Refused, None);
        let running = Running::new(Kind::Native);
        let before = Served { requests: 3, traps: 1, ..Served::default() };
        note_requests(before, Served { requests: 10, traps: 1, timeouts: 2, ..before });
        note_cache_lookup(true);
        note_compilation(true, Duration::from_secs(3));
        running.note_end("oom", Some("trap"));
        let told = text();
        for line in [
            r#"nomad_systemd_task_starts_total{result="refused"} 1"#,
            r#"nomad_systemd_task_start_seconds_bucket{le="0.05",kind="wasm_server"} 1"#,
            r#"nomad_systemd_tasks{kind="native"} 1"#,
            r#"nomad_systemd_task_ends_total{kind="native",reason="oom"} 1"#,
            r#"nomad_systemd_guest_ends_total{reason="trap"} 1"#,
            "nomad_systemd_guest_requests_total 7",
            "nomad_systemd_guest_request_traps_total 0",
            "nomad_systemd_guest_request_timeouts_total 2",
            r#"nomad_systemd_cache_lookups_total{result="hit"} 1"#,
            "nomad_systemd_compilation_seconds_sum 3.0",
            "# EOF",
        ] {
            assert!(told.contains(line), "{line} is not in:\n{told}");
        }
        let readme = include_str!("../../README.md");
        for line in told.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap();
            assert!(readme.contains(&format!("| `{name}")), "README.md has no {name}");
        }
        drop(running);
        assert!(text().contains(r#"nomad_systemd_tasks{kind="native"} 0"#));
    }
}
