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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;

use crate::enter::{Identity, Plan};
use crate::systemd::{Ended, InvocationId, Manager, Systemd, Unit, UnitName, Whom};
use crate::task::Error;
use crate::task::config::{TaskId, TaskIdentity};
use crate::task::live::cgroup::Cgroup;
use crate::task::live::events::Events;
use crate::task::live::exec::{self, Report, Session};
use crate::task::live::exit::{Exit, Phase, Word, out_of_memory, word_of_the_end, word_of_trouble};
use crate::task::live::init::Init;
use crate::task::live::signal::Signal;
use crate::task::sandbox::policy::Policy;
use crate::task::wasm::outcome::{Served, Trouble};

/// How long systemd may take to answer before a task is signalled without it.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// How long after SIGKILL a process may take to be gone; one that waits for a broken disk takes longer.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// What Nomad keeps for us, to find the task again after the driver was restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "earlier drivers have written some of them")]
pub struct Saved {
    /// The unit's name.
    pub unit: String,
    /// The run of the unit that is this task.
    pub invocation: InvocationId,
    /// The boot of the machine during which it was started: units do not outlive it.
    pub boot_id: String,
    /// Its output is copied to two places, by units of their own.
    #[serde(default)]
    pub copied: bool,
    /// It has sockets that were open before it started, in a unit of their own.
    #[serde(default)]
    pub listens: bool,
    /// Its job has a `notify` block, and it is no guest.
    #[serde(default)]
    pub speaks: bool,
    /// It is a guest that serves.
    #[serde(default)]
    pub serves: bool,
    /// It is WebAssembly, so that what it says of itself is the word of its runner. Earlier drivers did not say it.
    #[serde(default)]
    pub guest: Option<bool>,
    /// Its main process is the init of its program. Earlier drivers' tasks have none.
    #[serde(default)]
    pub init: bool,
}

/// What units a task has beside its own.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "as in what is saved")]
pub(crate) struct Companions {
    /// Those that copy its output.
    pub(crate) copied: bool,
    /// That of its sockets.
    pub(crate) listens: bool,
    /// None, but it has a `notify` block, and is no guest that serves.
    pub(crate) speaks: bool,
    /// None, but it is a guest that serves.
    pub(crate) serves: bool,
    /// None, but it is WebAssembly, whose runner alone is believed when it says how a guest ended.
    pub(crate) guest: bool,
    /// None, but its main process is an init.
    pub(crate) init: bool,
}

impl Saved {
    pub(crate) fn beside(&self) -> Companions {
        let Self { copied, listens, speaks, serves, guest, init, .. } = *self;
        Companions { copied, listens, speaks, serves, guest: guest.unwrap_or(!speaks), init }
    }
}

/// A live task. Tasks of the runtime share it.
#[derive(Debug)]
pub struct Handle {
    identity: TaskIdentity,
    unit: UnitName,
    saved: Saved,
    pid: u32,
    started_at: SystemTime,
    phase: watch::Receiver<Phase>,
    /// Of a guest that serves, since it has said so.
    served: watch::Receiver<Option<Served>>,
    cgroup: OnceCell<Cgroup>,
    /// We have sent it a signal, so that it may end.
    is_asked: Arc<AtomicBool>,
    systemd: Systemd,
    events: Events,
}

impl Handle {
    /// Follows the unit from now on.
    pub(crate) fn follow(
        identity: TaskIdentity,
        unit: Unit,
        beside: Companions,
        systemd: Systemd,
        events: Events,
    ) -> Self {
        let Companions { copied, listens, speaks, serves, guest, init } = beside;
        let state = unit.state();
        let (sender, phase) = watch::channel(Phase::Running);
        if let Some(exit) = Exit::of(&state) {
            sender.send_replace(Phase::Exited(exit));
        }
        let served_before = if serves { Served::of(&state.status_text) } else { None };
        let (served_sender, served) = watch::channel(served_before);
        let handle = Self {
            saved: Saved {
                unit: unit.name().to_string(),
                invocation: state.invocation.clone(),
                boot_id: boot_id(),
                copied,
                listens,
                speaks,
                serves,
                guest: Some(guest),
                init,
            },
            unit: unit.name().clone(),
            pid: state.main_pid,
            started_at: state.started_at().unwrap_or_else(SystemTime::now),
            phase,
            served,
            // Asked of the kernel, so that it is known while systemd does not answer.
            cgroup: OnceCell::new_with(Cgroup::of_process(state.main_pid, unit.name().as_str())),
            is_asked: Arc::default(),
            systemd: systemd.clone(),
            events: events.clone(),
            identity: identity.clone(),
        };
        let is_asked = Arc::clone(&handle.is_asked);
        let init = if init { Init::of(handle.pid, handle.unit.as_str()) } else { None };
        let mut ended = unit;
        let unit = ended.name().clone();
        tokio::spawn(async move {
            let tell = |(message, details): Word| events.tell(&identity, message, &details);
            let mut trouble = Trouble::since(served_before.unwrap_or_default());
            let mut said = state.status_text;
            let mut rest = std::pin::pin!(Init::end_what_is_left(init));
            let mut is_ended = false;
            let state = loop {
                tokio::select! {
                    () = &mut rest, if !is_ended => is_ended = true,
                    state = ended.main_ended() => break state,
                    text = ended.says_other_than(&said), if serves => {
                        said = text;
                        if let Some(served) = Served::of(&said) {
                            trouble.note(served);
                            served_sender.send_replace(Some(served));
                        }
                    }
                    () = trouble.is_due() => {
                        if let Some(word) = trouble.tell() {
                            tell(word_of_trouble(&word, &said));
                        }
                    }
                    // Nobody looks on any more: the task was destroyed, or was never handed out.
                    () = sender.closed() => return,
                }
            };
            let kill_the_rest = async || {
                let killed = systemd.kill(&unit, Whom::All, Signal::KILL.number()).await;
                if let Err(error) = killed {
                    let error = crate::chain(&error);
                    tracing::debug!(%unit, error, "what the task left running was not ended");
                }
            };
            // Its last words may have come with its end.
            if let Some(served) = Served::of(&state.status_text).filter(|_| serves) {
                trouble.note(served);
                served_sender.send_replace(Some(served));
                if let Some(word) = trouble.tell() {
                    tell(word_of_trouble(&word, &state.status_text));
                }
            }
            // What a program leaves behind holds up the end that systemd tells when it failed, and runs on when it did
            // not, under RemainAfterExit.
            let held_up = !state.removed && state.exit().is_none();
            if held_up {
                kill_the_rest().await;
            }
            let state = ended.ended().await;
            let exit = Exit::of(&state).unwrap_or_else(Exit::removed);
            tracing::info!(%unit, code = exit.code, signal = exit.signal, oom = exit.oom_killed, "task ended");
            if exit.oom_killed {
                // As long as nobody has been told of the end, the unit is there to be asked.
                tell(out_of_memory(&systemd.service(&unit).await.unwrap_or_default()));
            }
            if let Some(word) =
                word_of_the_end(&state, &exit, guest, speaks, is_asked.load(Ordering::Relaxed))
            {
                tell(word);
            }
            sender.send_replace(Phase::Exited(exit));
            if !held_up && !state.removed {
                kill_the_rest().await;
            }
            // Of one that failed systemd has closed them.
            if listens && let Err(error) = systemd.close_sockets(&unit).await {
                tracing::debug!(%unit, error = crate::chain(&error), "the sockets of a task were not closed");
            }
        });
        handle
    }

    /// A task whose unit was removed while no driver was there, or by one before this, and what is known of its end.
    pub(crate) fn of_one_that_is_gone(
        identity: TaskIdentity,
        saved: Saved,
        end: Option<Ended>,
        systemd: Systemd,
        events: Events,
    ) -> Self {
        let exit = end.map_or_else(Exit::removed, |end| Exit::by(end.exit, SystemTime::now()));
        // Nomad also asks for tasks that ended long ago and were destroyed.
        if end.is_some_and(|end| end.was_stopped) {
            let word = "Its unit was stopped from outside (systemctl stop?) while the driver was away";
            events.tell(&identity, word.to_owned(), &[("unit", saved.unit.clone())]);
        }
        let (sender, phase) = watch::channel(Phase::Exited(exit));
        let (_, served) = watch::channel(None);
        // Nothing will ever change.
        drop(sender);
        Self {
            unit: UnitName::known(&saved.unit),
            identity,
            saved,
            pid: 0,
            started_at: SystemTime::now(),
            phase,
            served,
            cgroup: OnceCell::new(),
            is_asked: Arc::default(),
            systemd,
            events,
        }
    }

    /// This run of the task.
    pub fn id(&self) -> &TaskId {
        &self.identity.id
    }

    /// What Nomad told of it.
    pub fn identity(&self) -> &TaskIdentity {
        &self.identity
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

    /// The requests that it has had, if it is a guest that serves.
    pub fn served(&self) -> Option<Served> {
        *self.served.borrow()
    }

    /// The signal that asks it to end, if its job names none.
    pub(crate) fn usual_signal(&self) -> Signal {
        // The runner of a server finishes its requests then; for others it is what Nomad's own drivers send.
        if self.saved.serves { Signal::TERM } else { Signal::INT }
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

    /// Sends a signal to the main process, whose init passes it on to the program. What stops processes, and lets them go
    /// on, is sent to all of them: no process can pass on that it is stopped.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        let whom = if [Signal::STOP, Signal::CONT].contains(&signal) { Whom::All } else { Whom::Main };
        let asked = self.systemd.kill(&self.unit, whom, signal.number());
        if let Ok(answer) = timeout(ANSWER, asked).await {
            return answer.map_err(Error::Systemd);
        }
        self.signal_at_once(whom, signal);
        Ok(())
    }

    /// The same without systemd, which does not answer.
    fn signal_at_once(&self, whom: Whom, signal: Signal) {
        tracing::warn!(unit = %self.unit, %signal, "systemd does not answer, sending the signal without it");
        let processes = match whom {
            Whom::All => self.cgroup.get().map(Cgroup::processes).unwrap_or_default(),
            Whom::Main => i32::try_from(self.pid).ok().and_then(Pid::from_raw).into_iter().collect(),
        };
        let Some(signal) = rustix::process::Signal::from_named_raw(signal.number()) else { return };
        for process in processes {
            let Ok(held) = pidfd_open(process, PidfdFlags::empty()) else { continue };
            // The number may be another process's since; the descriptor is of one process.
            if Cgroup::of_process(process.as_raw_pid().unsigned_abs(), self.unit.as_str()).is_some() {
                let _ = pidfd_send_signal(held, signal);
            }
        }
    }

    /// Ends all processes without systemd, which does not answer: a task can keep it from doing so (SECURITY.md), and must
    /// not be safe by that.
    pub(crate) fn kill_at_once(&self) {
        tracing::warn!(unit = %self.unit, "systemd does not answer, killing the task without it");
        if let Some(cgroup) = self.cgroup.get() {
            cgroup.kill();
        }
    }

    /// Asks the task to end, and ends all its processes when it has not within `patience`.
    pub async fn stop(&self, signal: Signal, patience: Duration) -> Result<(), Error> {
        if let Phase::Exited(_) = self.phase() {
            return Ok(());
        }
        self.is_asked.store(true, Ordering::Relaxed);
        if !patience.is_zero() {
            self.signal(signal).await?;
            if timeout(patience, self.wait()).await.is_ok() {
                return Ok(());
            }
            tracing::info!(unit = %self.unit, "the task did not end in time, killing it");
            self.tell(
                format!("Did not end within {patience:?} of {signal}: killed with all its processes"),
                &[("signal", signal.to_string()), ("kill_timeout", format!("{patience:?}"))],
            );
        }
        self.kill().await
    }

    /// Starts a command in the task, with streams or a terminal.
    pub async fn exec(&self, argv: Vec<String>, terminal: bool, policy: &Policy) -> Result<Session, Error> {
        let plan = self.plan(argv, terminal, policy).await?;
        Session::start(&self.systemd, plan).await.map_err(Error::Exec)
    }

    /// Runs a command in the task to its end, for no longer than `limit`; zero is no limit.
    pub async fn run(&self, argv: Vec<String>, limit: Duration, policy: &Policy) -> Result<Report, Error> {
        let plan = self.plan(argv, false, policy).await?;
        exec::run(&self.systemd, plan, limit).await.map_err(Error::Exec)
    }

    /// `policy` says which variables no command has.
    async fn plan(&self, argv: Vec<String>, terminal: bool, policy: &Policy) -> Result<Plan, Error> {
        let service = self.systemd.service(&self.unit).await.map_err(Error::Systemd)?;
        let main_pid = i32::try_from(service.main_pid).ok().filter(|pid| *pid != 0);
        let (Some(main_pid), Some(cgroup)) = (main_pid, Cgroup::of_unit(&service.control_group)) else {
            return Err(Error::Exec(exec::Error::Ended));
        };
        let mut env = self.identity.env.clone();
        env.retain(|name, _| crate::task::host::env::is_name(name) && !policy.denies_variable(name));
        if service.dynamic_user {
            crate::task::host::env::give_home(&mut env);
        }
        env.entry("INVOCATION_ID".to_owned()).or_insert_with(|| self.saved.invocation.0.clone());
        Ok(Plan {
            argv,
            env,
            directory: service.working_directory,
            main_pid,
            has_user_namespace: service.private_users,
            unit_cgroup: service.control_group,
            cgroup: exec::new_group(cgroup.path()),
            identity: match self.systemd.manager() {
                Manager::System => Identity {
                    user: service.user,
                    uid: service.uid,
                    gid: service.gid,
                    ambient: service.ambient_capabilities,
                },
                Manager::User => Identity::our_own(),
            },
            terminal,
            driver_pid: rustix::process::getpid().as_raw_pid(),
        })
    }

    /// Its cgroup; none when it has ended.
    pub(crate) async fn cgroup(&self) -> Result<Option<Cgroup>, Error> {
        let ask = async || {
            let service = self.systemd.service(&self.unit).await.map_err(Error::Systemd)?;
            Cgroup::of_unit(&service.control_group).ok_or(Error::Exec(exec::Error::Ended))
        };
        match self.cgroup.get_or_try_init(ask).await {
            Ok(cgroup) => Ok(Some(cgroup.clone())),
            Err(Error::Exec(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells Nomad's users something about it.
    pub(crate) fn tell(&self, message: String, details: &[(&str, String)]) {
        self.events.tell(&self.identity, message, details);
    }

    /// Tells where it runs.
    pub(crate) fn tell_of_its_start(&self) {
        let unit = ("unit", self.unit.to_string());
        if self.pid == 0 {
            // It has ended by now.
            return self.tell(format!("Ran as unit {}", self.unit), &[unit]);
        }
        let pid = ("pid", self.pid.to_string());
        self.tell(format!("Runs as unit {}, process {}", self.unit, self.pid), &[unit, pid]);
    }

    /// Ends all its processes at once.
    pub(crate) async fn kill(&self) -> Result<(), Error> {
        self.is_asked.store(true, Ordering::Relaxed);
        match timeout(ANSWER, self.systemd.kill(&self.unit, Whom::All, Signal::KILL.number())).await {
            Ok(answer) => answer.map_err(Error::Systemd)?,
            Err(_) => self.kill_at_once(),
        }
        match timeout(KILL_DEADLINE, self.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Immortal { unit: self.unit.clone() }),
        }
    }
}

/// Which boot of the machine this is, 36 characters.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
