//! Why a task could not be started, found or queried.

use std::path::PathBuf;

use super::advice;
use super::config::TaskId;
use super::host::view;
use super::host::{env, files, logs, program};
use super::installation;
use super::live::exec;
use super::live::signal;
use super::spec::{self, TaskSpec};
use super::wasm::compiler;
use super::wasm::outcome::Outcome;
use shim_interface::Same;

use crate::systemd::{self, UnitName};

/// Advice for a script that runs systemd-notify(1).
const BY_CHILDREN: &str = "; what a child of the program says counts with `notify.access = \"all\"` only";

/// Why an operation on a task failed. The message is for the author of the job.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job's or the operator's configuration cannot be honoured.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// The job's `command` cannot be started.
    #[error(transparent)]
    Program(#[from] program::Error),
    /// The job's WebAssembly cannot be compiled or run.
    #[error(transparent)]
    Wasm(#[from] compiler::Error),
    /// The task's environment cannot be passed to it.
    #[error(transparent)]
    Env(#[from] env::Error),
    /// The task's output cannot be collected.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// The signal that the job or the operator names does not exist.
    #[error(transparent)]
    Signal(#[from] signal::Unknown),
    /// A command could not be run in the task.
    #[error(transparent)]
    Exec(#[from] exec::Error),
    /// Something that the task needs cannot be created on the host.
    #[error("{what} cannot be made in {directory}; has its file system room, and is it writable?")]
    Make {
        /// Such as `the root of the task's view`.
        what: &'static str,
        /// The directory.
        directory: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The directories of the allocation cannot be closed to others.
    #[error("the directories of the task in {directory} cannot be closed to others")]
    Directories {
        /// The allocation directory.
        directory: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// A host file that the job names is not available.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// The task exited, or took too long, before it reported that it is ready.
    #[error(
        "the task did not send `READY=1` (sd_notify(3)) {how}; its job requires that by a {} block{}; what it wrote is in its log files \
         (`nomad alloc fs ALLOCATION alloc/logs`), or in the journal{}",
        if *serves { "`wasm.serve`" } else { "`notify`" },
        if *by_program { BY_CHILDREN } else { "" },
        advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default()
    )]
    NotReady {
        /// How the task failed.
        how: String,
        /// Is the task a guest that serves, for which the runner reports readiness?
        serves: bool,
        /// Must the program itself report readiness?
        by_program: bool,
        /// What else may be wrong with the job.
        advice: Option<String>,
    },
    /// A guest that serves exited before it was ready.
    #[error("`command`: {command} exited before it was ready to serve: {}", outcome.message())]
    Guest {
        /// The job's `command`.
        command: String,
        /// How the guest ended.
        outcome: Outcome,
    },
    /// systemd could not set up the process as the job configures it.
    #[error("{advice}")]
    SetUp {
        /// What to check.
        advice: String,
        /// The failed step.
        source: systemd::Error,
    },
    /// systemd cannot listen on a port or a path of the task.
    #[error(
        "`{option}`: systemd cannot listen there; if another program of this node has the address, end that program, or \
         have Nomad choose the port (`port` without `static` in the group's `network`)"
    )]
    Sockets {
        /// The block.
        option: &'static str,
        /// systemd's error.
        source: systemd::Error,
    },
    /// systemd did not do what the driver requested.
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
    /// Nomad sent the same id twice.
    #[error("task {id} is being started or runs already")]
    Duplicate {
        /// The id.
        id: TaskId,
    },
    /// The driver does not know a task with this id.
    #[error("task not found for given id: {id}")]
    Unknown {
        /// The id.
        id: TaskId,
    },
    /// A running task can only be destroyed by force.
    #[error("task {id} is still running; stop it first")]
    StillRunning {
        /// The id.
        id: TaskId,
    },
    /// Processes of the task survived SIGKILL.
    #[error(
        "processes of unit {unit} survived SIGKILL; they may be stuck in uninterruptible I/O (see `systemctl status`)"
    )]
    Immortal {
        /// The unit.
        unit: UnitName,
    },
    /// Mount points cannot be laid over a host path.
    #[error(
        "{path} lacks mount points of the job, and they cannot be laid over it (is the kernel module `overlay` loaded?); mount \
         elsewhere, or have the operator create them"
    )]
    Overlay {
        /// The host path.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A process of the task's unit cannot be connected to the driver.
    #[error(
        "{to} cannot be connected with the driver; has it too many files open (`LimitNOFILE=` of the agent)?"
    )]
    Connection {
        /// Such as `the task's init`.
        to: &'static str,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The init of the program is not available.
    #[error(
        "`command`: the program cannot be started, since wasm-shim, which is the init of every native task, is not to be had"
    )]
    Init {
        /// Why the init is not available.
        source: installation::Missing,
    },
    /// Compiled code that the cache has no room for.
    #[error(
        "the code has {} MiB, and the cache of this node keeps {} MiB (plugin option `wasm_cache_size`): nothing was kept",
        .size.div_ceil(1 << 20),
        .cache >> 20
    )]
    NotKept {
        /// The size of the code, in bytes.
        size: u64,
        /// The size of the cache, in bytes.
        cache: u64,
    },
    /// The driver panicked; the panic is in the log.
    #[error(
        "the driver panicked while it started the task; please report this, with the lines of the agent's log before it"
    )]
    Panicked,
    /// The unit is not the unit that the driver started.
    #[error("task {id} is lost: {reason}")]
    Lost {
        /// The id.
        id: TaskId,
        /// What happened to the task.
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

    /// This error with advice about the possible cause. A task that has not started has no events that could contain
    /// the advice.
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
            let outcome = Outcome::of(&said).filter(|_| task.serves());
            let command = task.command.clone();
            let serves = task.serves();
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
            // The job does not name this path.
            let init = "the task's init";
            let words = words.replace(&format!("/run{}", view::SHIM), init).replace(view::SHIM, init);
            let source = systemd::Error::Step { unit, status, words };
            Error::SetUp { advice: advice::of_step(status, task), source }
        }
        source @ systemd::Error::Sockets { .. } => {
            let option = if task.serves() { "wasm.serve" } else { "socket" };
            Error::Sockets { option, source }
        }
        // systemd's message names the property, such as `Invalid CPUWeight setting: 0`.
        systemd::Error::Call { source: ref words, .. } if !source.may_pass() => {
            match advice::of_refusal(&words.to_string(), &task.settings) {
                Some(advice) => Error::SetUp { advice, source },
                None => Error::Systemd(source),
            }
        }
        other => Error::Systemd(other),
    }
}
