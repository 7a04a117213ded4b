//! A live task, for everybody who looks on: what is known of it, and what can be asked of it.
//!
//! A started and a recovered task go through the same constructor and cannot differ. Only the owner (`owner.rs`)
//! changes the phase.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use shim_interface::Served;
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;

use crate::enter::{Identity, Plan};
use crate::systemd::{Ended, Manager, Systemd, Unit, UnitName, Whom};
use crate::task::Error;
use crate::task::config::{TaskId, TaskIdentity};
use crate::task::host::dirs::TaskDirs;
use crate::task::host::env;
use crate::task::live::cgroup::Cgroup;
use crate::task::live::events::Events;
use crate::task::live::exec::{self, Report, Session};
use crate::task::live::exit::{Exit, Phase};
use crate::task::live::init_watch::InitWatch;
use crate::task::live::owner::Owner;
use crate::task::live::saved::{Saved, Traits, boot_id};
use crate::task::live::signal::Signal;
use crate::task::sandbox::policy::Policy;
use crate::task::wasm::outcome;

/// How long systemd may take to answer before a task is signalled without it.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// How long after SIGKILL a process may take to be gone; one that waits for a broken disk takes longer.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

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
        traits: Traits,
        systemd: Systemd,
        events: Events,
    ) -> Self {
        let Traits { copied, listens, speaks, serves, guest, init } = traits;
        let state = unit.state();
        let (sender, phase) = watch::channel(Phase::Running);
        if let Some(exit) = Exit::of(&state) {
            sender.send_replace(Phase::Exited(exit));
        }
        let served_before = if serves { outcome::served(&state.status_text) } else { None };
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
        let init = if init { InitWatch::of(handle.pid, handle.unit.as_str()) } else { None };
        let is_asked = Arc::clone(&handle.is_asked);
        let owner =
            Owner { identity, unit, traits, systemd, events, is_asked, phase: sender, served: served_sender };
        tokio::spawn(owner.follow(init));
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
        let exit = end.as_ref().map_or_else(Exit::removed, Exit::in_journal);
        // Nomad also asks for tasks that ended long ago and were destroyed.
        if end.is_some_and(|end| end.was_stopped) {
            let word = "Its unit was stopped by somebody else (systemctl stop?) while the driver was away";
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

    /// The directories of the task on the host.
    pub(crate) fn dirs(&self) -> TaskDirs {
        TaskDirs::new(&self.identity.alloc_dir, &self.identity.name)
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
        let is_denied = |name: &str| !env::is_name(name) || policy.denies_variable(name);
        let mut env = env::of_task(&self.identity.env, is_denied, service.dynamic_user);
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
