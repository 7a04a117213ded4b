//! Why a task could not be started, found or asked.

use std::path::PathBuf;

use super::advice;
use super::config::TaskId;
use super::host::view;
use super::host::{env, files, logs, program};
use super::live::exec;
use super::live::signal;
use super::spec::{self, TaskSpec};
use super::wasm::compiler;
use super::wasm::outcome::Outcome;
use shim_interface::Same;

use crate::systemd::{self, UnitName};

/// What a script that runs systemd-notify(1) lacks.
const BY_CHILDREN: &str = "; what a child of the program says counts with `notify.access = \"all\"` only";

/// Why something could not be done with a task. The message is meant for the job's author.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job's or the operator's configuration cannot be honoured.
    #[error(transparent)]
    Spec(spec::Error),
    /// The job's `command` cannot be started.
    #[error(transparent)]
    Program(program::Error),
    /// The job's WebAssembly cannot be compiled or run.
    #[error(transparent)]
    Wasm(compiler::Error),
    /// The task's environment cannot be handed over.
    #[error(transparent)]
    Env(env::Error),
    /// The task's output cannot be collected.
    #[error(transparent)]
    Logs(logs::Error),
    /// The signal that the job or the operator names does not exist.
    #[error(transparent)]
    Signal(signal::Unknown),
    /// A command could not be run in the task.
    #[error(transparent)]
    Exec(exec::Error),
    /// Something that the task needs cannot be made on the host.
    #[error("{what} cannot be made in {directory}; has its file system room, and is it writable?")]
    Make {
        /// Such as `the root of the task's view`.
        what: &'static str,
        /// Where.
        directory: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The directories of the allocation are not as they must be.
    #[error("the directories of the task in {directory} cannot be closed to others")]
    Directories {
        /// The allocation's.
        directory: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// A file of the host that the job names cannot be had.
    #[error(transparent)]
    Files(files::Error),
    /// It ended, or took too long, before it said that it is ready.
    #[error(
        "the task did not send `READY=1` (sd_notify(3)) {how}; its job requires that by a {} block{}; what it wrote is in its log files \
         (`nomad alloc fs ALLOCATION alloc/logs`), or in the journal{}",
        if *serves { "`wasm.serve`" } else { "`notify`" },
        if *by_program { BY_CHILDREN } else { "" },
        advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default()
    )]
    NotReady {
        /// In which way.
        how: String,
        /// Is it a guest that serves, for which the runner says it?
        serves: bool,
        /// Must the program say it itself?
        by_program: bool,
        /// What else may be wrong with the job.
        advice: Option<String>,
    },
    /// A guest that serves ended before it did.
    #[error("`command`: {command} exited before it was ready to serve: {}", outcome.message())]
    Guest {
        /// As the job says it.
        command: String,
        /// How.
        outcome: Outcome,
    },
    /// systemd could not set up the process as the job wants it.
    #[error("{advice}")]
    SetUp {
        /// What to look at.
        advice: String,
        /// Which step failed.
        source: systemd::Error,
    },
    /// A port or a path that the task shall listen on cannot be had.
    #[error(
        "`{option}`: systemd cannot listen there; if another program of this node has the address, end that program, or \
         have Nomad choose the port (`port` without `static` in the group's `network`)"
    )]
    Sockets {
        /// The block.
        option: &'static str,
        /// What systemd said.
        source: systemd::Error,
    },
    /// systemd did not do what we asked.
    #[error(transparent)]
    Systemd(systemd::Error),
    /// Nomad sent the same id twice.
    #[error("task {id} is being started or runs already")]
    Duplicate {
        /// The id.
        id: TaskId,
    },
    /// We do not follow such a task.
    #[error("task not found for given id: {id}")]
    Unknown {
        /// The id.
        id: TaskId,
    },
    /// It may only be destroyed by force.
    #[error("task {id} is still running; stop it first")]
    StillRunning {
        /// The id.
        id: TaskId,
    },
    /// Not even SIGKILL ended it.
    #[error(
        "processes of unit {unit} survived SIGKILL; they may be stuck in uninterruptible I/O (see `systemctl status`)"
    )]
    Immortal {
        /// The unit.
        unit: UnitName,
    },
    /// Mount points cannot be laid over a path of the host's.
    #[error(
        "{path} lacks mount points of the job, and they cannot be laid over it (is the kernel module `overlay` loaded?); mount \
         elsewhere, or have the operator create them"
    )]
    Overlay {
        /// The path of the host.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The driver cannot be connected with a process of the task's unit.
    #[error(
        "{to} cannot be connected with the driver; has it too many files open (`LimitNOFILE=` of the agent)?"
    )]
    Connection {
        /// Such as `the task's init`.
        to: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The program has no init.
    #[error(
        "`command`: the program cannot be started, since wasm-shim, which is the init of every native task, is not to be had"
    )]
    Init {
        /// What is wrong with it.
        source: compiler::Error,
    },
    /// The driver is at fault; its panic is in the log.
    #[error(
        "the driver panicked while it started the task; please report this, with the lines of the agent's log before it"
    )]
    Panicked,
    /// The unit is not the one we started.
    #[error("task {id} is lost: {reason}")]
    Lost {
        /// The id.
        id: TaskId,
        /// What became of it.
        reason: &'static str,
    },
}

impl Error {
    /// May the same task succeed when Nomad tries again on this node?
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Systemd(error) | Self::Sockets { source: error, .. } => error.may_pass(),
            Self::Logs(logs::Error::NoReader { .. })
            | Self::Make { .. }
            | Self::Connection { .. }
            | Self::NotReady { .. } => true,
            Self::Env(error) => matches!(error, env::Error::Write { .. }),
            Self::Guest { outcome, .. } => outcome.may_pass(),
            Self::Wasm(error) => error.may_pass(),
            _ => false,
        }
    }

    /// The same with what may be the reason, where nobody is told in another way: a task that has not started has no
    /// events.
    pub(super) fn with_advice(self, told: Option<&String>) -> Self {
        match self {
            Self::NotReady { how, serves, by_program, .. } => {
                Self::NotReady { how, serves, by_program, advice: told.cloned() }
            }
            other => other,
        }
    }
}

pub(super) fn not_started(source: systemd::Error, task: &TaskSpec) -> Error {
    match source {
        systemd::Error::NotReady { how, said, .. } => {
            let outcome = Outcome::of(&said).filter(|_| task.guest.serves);
            let command = task.command.clone();
            let serves = task.guest.serves;
            let by_program = task.readiness.speaks && !task.readiness.all;
            let not_ready = Error::NotReady { how, serves, by_program, advice: None };
            outcome.map_or(not_ready, |outcome| Error::Guest { command, outcome })
        }
        systemd::Error::Init { ref words, .. } if words.contains(Same::OTHER) => {
            Error::SetUp { advice: "the task's init did not run the program".to_owned(), source }
        }
        systemd::Error::Init { .. } => {
            let advice = "every program is started by an init, which takes a process more than the program does, and the \
                          system calls of systemd's groups `@basic-io`, `@file-system`, `@process`, `@signal` and `@io-event`: see the job's \
                          `tasks_max`, `ulimit` and `sandbox.system_call_filter`";
            Error::SetUp { advice: advice.to_owned(), source }
        }
        systemd::Error::Step { unit, status, words } => {
            // It is nothing that the job names.
            let init = "the task's init";
            let words = words.replace(&format!("/run{}", view::SHIM), init).replace(view::SHIM, init);
            let source = systemd::Error::Step { unit, status, words };
            Error::SetUp { advice: advice::of_step(status, task), source }
        }
        source @ systemd::Error::Sockets { .. } => {
            let option = if task.guest.serves { "wasm.serve" } else { "socket" };
            Error::Sockets { option, source }
        }
        // systemd names the property in its words, such as `Invalid CPUWeight setting: 0`.
        systemd::Error::Call { source: ref words, .. } if !source.may_pass() => {
            match advice::of_refusal(&words.to_string(), &task.settings) {
                Some(advice) => Error::SetUp { advice, source },
                None => Error::Systemd(source),
            }
        }
        other => Error::Systemd(other),
    }
}
