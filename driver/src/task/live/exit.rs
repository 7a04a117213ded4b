//! How a task ended, and the events about it.

use std::time::SystemTime;

use crate::systemd::{Ended, MainExit, Service, UnitState};
use crate::task::live::events::Kind;
use crate::task::live::saved::Traits;
use crate::task::spec;
use crate::task::wasm::outcome::{self, Outcome};

/// The phase of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// The main process is running.
    Running,
    /// The task has ended, in this way.
    Exited(Exit),
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// The program's exit status, or 128 plus the signal that ended it, as in shells.
    pub code: i32,
    /// The signal that ended the program, or zero.
    pub signal: i32,
    /// The task exceeded its memory limit.
    pub oom_killed: bool,
    /// Why the exit status is unknown.
    pub unknown: Option<String>,
    /// Time of the end.
    pub at: SystemTime,
}

impl Exit {
    /// The end of a unit from its state; `None` while it runs.
    pub(super) fn of(state: &UnitState) -> Option<Self> {
        let at = state.exited_at().unwrap_or_else(SystemTime::now);
        Some(Self::by(state.exit()?, &state.result, state.was_stopped(), at))
    }

    /// The end of a unit that no longer exists, from the journal.
    pub(super) fn in_journal(ended: &Ended) -> Self {
        let Ended { exit, result, at, was_stopped } = ended;
        Self::by(*exit, result, *was_stopped, *at)
    }

    /// `result` is systemd's result of the unit (org.freedesktop.systemd1(5), `Result`).
    fn by(exit: MainExit, result: &str, was_stopped: bool, at: SystemTime) -> Self {
        const SIGABRT: i32 = 6;
        const SIGTERM: i32 = 15;
        // A task that had to be stopped has failed, even if it handled the signal and exited.
        let ended_by = match result {
            _ if was_stopped => None,
            "timeout" => Some(MainExit::Signal(SIGTERM)),
            "watchdog" => Some(MainExit::Signal(SIGABRT)),
            _ => None,
        };
        let (code, signal) = match (exit, ended_by) {
            (MainExit::Status(0), Some(MainExit::Signal(signal))) | (MainExit::Signal(signal), _) => {
                (128 + signal, signal)
            }
            (MainExit::Status(status), _) => (status, 0),
        };
        Self { code, signal, oom_killed: result == "oom-kill", unknown: None, at }
    }

    /// The end in a word, for metrics. `result` is systemd's result of the unit; `is_asked`: the driver sent a signal.
    pub(super) fn reason(&self, result: &str, is_asked: bool) -> &'static str {
        match (self.code, result) {
            _ if self.unknown.is_some() => "unknown",
            _ if self.oom_killed => "oom",
            _ if is_asked => "stopped",
            (_, "watchdog") => "watchdog",
            (_, "timeout") => "timeout",
            (0, _) => "success",
            _ if self.signal != 0 => "signal",
            _ => "failure",
        }
    }

    pub(super) fn removed() -> Self {
        let unknown =
            "the task's unit was removed by somebody else (systemctl stop?), and its exit status is unknown";
        Self {
            code: -1,
            signal: 0,
            oom_killed: false,
            unknown: Some(unknown.to_owned()),
            at: SystemTime::now(),
        }
    }
}

/// An event about a task: what it is about, the message for people, and the details for programs.
pub(super) type Word = (Kind, String, Vec<(&'static str, String)>);

/// Which memory limit was exceeded, and how much memory the task had used.
pub(super) fn out_of_memory(service: &Service) -> Word {
    let limit = match service.memory_max {
        Some(bytes) => format!("MemoryMax is {}", spec::mebibytes(bytes)),
        None => "it has no MemoryMax, so the machine or its slice had no more".to_owned(),
    };
    let peak = service.memory_peak.map(|bytes| format!(", it had {} at most", spec::mebibytes(bytes)));
    let details = [("memory_max", service.memory_max), ("memory_peak", service.memory_peak)];
    let details = details.into_iter().filter_map(|(name, bytes)| Some((name, bytes?.to_string())));
    (
        Kind::OutOfMemory,
        format!("Out of memory, all its processes were killed: {limit}{}", peak.unwrap_or_default()),
        details.collect(),
    )
}

/// What the exit code does not show of a task's end.
pub(super) fn end_event(state: &UnitState, exit: &Exit, traits: Traits, is_asked: bool) -> Option<Word> {
    if let Some(unknown) = &exit.unknown {
        return Some((Kind::Unknown, unknown.clone(), vec![]));
    }
    if state.was_stopped() && !is_asked {
        // systemd reports both alike.
        let itself =
            if traits.speaks { ", or the task itself announced that it stops (STOPPING=1)" } else { "" };
        return Some((
            Kind::Stopped,
            format!("Its unit was stopped by somebody else (systemctl stop?){itself}"),
            vec![],
        ));
    }
    match state.result.as_str() {
        "watchdog" => {
            let word = "Missed its watchdog deadline (WATCHDOG=1, sd_notify(3); `notify.watchdog`): stopped";
            return Some((Kind::Watchdog, word.to_owned(), vec![]));
        }
        "timeout" => {
            // systemd tells both alike.
            let word =
                "Stopped: exceeded `limits.runtime_max`, or did not end in time after its unit was stopped";
            return Some((Kind::RuntimeMax, word.to_owned(), vec![]));
        }
        _ => {}
    }
    if !traits.guest {
        return None;
    }
    // systemd accepts messages only from the runner of WebAssembly, which reports if a guest did not end by itself.
    let outcome = Outcome::of(&state.status_text)?;
    let message = format!("WebAssembly: {}", outcome.message());
    Some((
        Kind::GuestEnded,
        message,
        vec![("wasm_outcome", outcome.kind().to_owned()), ("wasm_message", outcome.text())],
    ))
}

/// The event that requests of a server failed.
pub(super) fn failed_requests_event(word: &str, text: &str) -> Word {
    let details = outcome::served(text).map(|served| outcome::attributes(&served).into()).unwrap_or_default();
    (Kind::RequestsFailed, format!("WebAssembly: {word}"), details)
}
