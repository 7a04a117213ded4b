//! One live task: a unit, the one future that owns it, and everybody who looks on.
//!
//! ```text
//!   Tasks::start ─┐
//!                 ├─► Handle::follow ──► Running ───────────────► Exited
//!   Tasks::recover┘                        │ stop, signal: ask      ▲
//!                                          └── systemd, who tells ──┘
//! ```
//!
//! A started and a recovered task go through the same constructor and cannot differ. Only the owner changes the phase,
//! and only because systemd said so: a stop asks systemd to end the processes and then waits like everybody else.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Error;
use super::config::TaskId;
use super::signal::Signal;
use crate::systemd::{InvocationId, MainExit, Systemd, Unit, UnitName, UnitState, Whom};

/// How long after SIGKILL a process may take to be gone; one that waits for a broken disk takes longer.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// What a task is doing.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Its main process lives.
    Running,
    /// It has ended, in this way.
    Exited(Exit),
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// The program's exit status, or 128 and the signal that ended it, as shells say it.
    pub code: i32,
    /// The signal that ended it, or zero.
    pub signal: i32,
    /// It needed more memory than it may have.
    pub oom_killed: bool,
    /// Why the above cannot be known.
    pub unknown: Option<String>,
    /// When.
    pub at: SystemTime,
}

/// What Nomad keeps for us, to find the task again after the driver was restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The unit's name.
    pub unit: String,
    /// The run of the unit that is this task.
    pub invocation: InvocationId,
    /// The boot of the machine during which it was started: units do not outlive it.
    pub boot_id: String,
}

/// A live task. Tasks of the runtime share it.
#[derive(Debug)]
pub struct Handle {
    id: TaskId,
    name: String,
    unit: UnitName,
    saved: Saved,
    pid: u32,
    started_at: SystemTime,
    phase: watch::Receiver<Phase>,
    systemd: Systemd,
}

impl Handle {
    /// Follows the unit from now on.
    pub(super) fn follow(id: TaskId, name: String, unit: Unit, systemd: Systemd) -> Self {
        let state = unit.state();
        let (sender, phase) = watch::channel(Phase::Running);
        if let Some(exit) = Exit::of(&state) {
            sender.send_replace(Phase::Exited(exit));
        }
        let handle = Self {
            saved: Saved {
                unit: unit.name().to_string(),
                invocation: state.invocation.clone(),
                boot_id: boot_id(),
            },
            id,
            name,
            unit: unit.name().clone(),
            pid: state.main_pid,
            started_at: state.started_at().unwrap_or_else(SystemTime::now),
            phase,
            systemd: systemd.clone(),
        };
        let mut ended = unit;
        let unit = ended.name().clone();
        tokio::spawn(async move {
            let state = tokio::select! {
                state = ended.main_ended() => state,
                // Nobody looks on any more: the task was destroyed, or was never handed out.
                () = sender.closed() => return,
            };
            let kill_the_rest = async || {
                let killed = systemd.kill(&unit, Whom::All, Signal::KILL.number()).await;
                if let Err(error) = killed {
                    let error = crate::chain(&error);
                    tracing::debug!(%unit, error, "what the task left running was not ended");
                }
            };
            // What a program leaves behind holds up the end that systemd tells when it failed, and runs on when it did
            // not, under RemainAfterExit.
            let held_up = !state.removed && state.exit().is_none();
            if held_up {
                kill_the_rest().await;
            }
            let state = ended.ended().await;
            let exit = Exit::of(&state).unwrap_or_else(Exit::removed);
            tracing::info!(%unit, code = exit.code, signal = exit.signal, oom = exit.oom_killed, "task ended");
            sender.send_replace(Phase::Exited(exit));
            if !held_up && !state.removed {
                kill_the_rest().await;
            }
        });
        handle
    }

    /// This run of the task.
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// The task's name in the job.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The unit it runs in.
    pub fn unit(&self) -> &UnitName {
        &self.unit
    }

    /// The main process, as it was when we began to follow; zero when it had ended by then.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// When the main process was started.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// What finds the task again.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// What it is doing now.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Waits for its end. Everybody who asks gets the same answer, also long after.
    pub async fn wait(&self) -> Exit {
        let mut phase = self.phase.clone();
        loop {
            if let Phase::Exited(exit) = &*phase.borrow_and_update() {
                return exit.clone();
            }
            if phase.changed().await.is_err() {
                return Exit::removed();
            }
        }
    }

    /// Sends a signal to the main process.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.systemd.kill(&self.unit, Whom::Main, signal.number()).await.map_err(Error::Systemd)
    }

    /// Asks the task to end, and ends all its processes when it has not within `patience`.
    pub async fn stop(&self, signal: Signal, patience: Duration) -> Result<(), Error> {
        if let Phase::Exited(_) = self.phase() {
            return Ok(());
        }
        if !patience.is_zero() {
            self.signal(signal).await?;
            if timeout(patience, self.wait()).await.is_ok() {
                return Ok(());
            }
            tracing::info!(unit = %self.unit, "the task did not end in time, killing it");
        }
        self.kill().await
    }

    /// Ends all its processes at once.
    pub(super) async fn kill(&self) -> Result<(), Error> {
        self.systemd.kill(&self.unit, Whom::All, Signal::KILL.number()).await.map_err(Error::Systemd)?;
        match timeout(KILL_DEADLINE, self.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Immortal { unit: self.unit.clone() }),
        }
    }
}

impl Exit {
    /// What a unit's state says of its end; nothing while it runs.
    fn of(state: &UnitState) -> Option<Self> {
        let (code, signal) = match state.exit()? {
            MainExit::Status(status) => (status, 0),
            MainExit::Signal(signal) => (128 + signal, signal),
        };
        Some(Self {
            code,
            signal,
            oom_killed: state.result == "oom-kill",
            unknown: None,
            at: state.exited_at().unwrap_or_else(SystemTime::now),
        })
    }

    fn removed() -> Self {
        let unknown =
            "the task's unit was removed from outside (systemctl stop?), its exit status is unknown";
        Self {
            code: -1,
            signal: 0,
            oom_killed: false,
            unknown: Some(unknown.to_owned()),
            at: SystemTime::now(),
        }
    }
}

/// Which boot of the machine this is, 36 characters.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
