//! A live task: what is known about it, and the operations on it.
//!
//! A started and a recovered task are created by the same constructor and cannot differ. Only the owner (`owner.rs`)
//! changes the phase.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use shim_interface::Served;
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;

use crate::enter::{Identity, Plan};
use crate::kernel;
use crate::systemd::{Ended, KillWho, Manager, Systemd, Unit, UnitName};
use crate::task::Error;
use crate::task::config::{TaskId, TaskIdentity};
use crate::task::host::dirs::TaskDirs;
use crate::task::host::{env, misplaced};
use crate::task::live::cgroup::Cgroup;
use crate::task::live::events::{Events, Kind};
use crate::task::live::exec::{self, Report, Session};
use crate::task::live::exit::{Exit, Phase};
use crate::task::live::init_watch::InitWatch;
use crate::task::live::owner::Owner;
use crate::task::live::saved::{Saved, Traits, boot_id};
use crate::task::live::signal::Signal;
use crate::task::sandbox::policy::Policy;
use crate::task::wasm::outcome;

/// Time for systemd to answer before a task is signalled without systemd.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// Time for a process to exit after SIGKILL; a process that waits for a broken disk takes longer.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// A live task, shared by tasks of the async runtime.
#[derive(Debug)]
pub struct Handle {
    identity: Arc<TaskIdentity>,
    unit: UnitName,
    saved: Saved,
    pid: u32,
    started_at: SystemTime,
    phase: watch::Receiver<Phase>,
    /// Requests of a guest that serves, once it has reported them.
    served: Arc<Mutex<Option<Served>>>,
    cgroup: OnceCell<Cgroup>,
    /// The driver has sent the task a signal, so that it may end.
    is_asked: Arc<AtomicBool>,
    systemd: Systemd,
    events: Events,
}

impl Handle {
    /// Follows the unit from now on. `is_new`: this process has started it.
    pub(crate) fn follow(
        identity: TaskIdentity,
        (unit, is_new): (Unit, bool),
        traits: Traits,
        systemd: Systemd,
        events: Events,
    ) -> Self {
        let Traits { serves, init, .. } = traits;
        let state = unit.state();
        let (sender, phase) = watch::channel(Phase::Running);
        if let Some(exit) = Exit::of(&state) {
            sender.send_replace(Phase::Exited(exit));
        }
        let served_before = if serves { outcome::served(&state.status_text) } else { None };
        let (identity, served) = (Arc::new(identity), Arc::new(Mutex::new(served_before)));
        let handle = Self {
            saved: Saved {
                unit: unit.name().to_string(),
                invocation: state.invocation.clone(),
                boot_id: boot_id(),
                traits,
            },
            unit: unit.name().clone(),
            pid: state.main_pid,
            started_at: state.started_at().unwrap_or_else(SystemTime::now),
            phase,
            served: Arc::clone(&served),
            // Read from the kernel, so that it is known while systemd does not answer.
            cgroup: OnceCell::new_with(Cgroup::of_process(state.main_pid, unit.name().as_str())),
            is_asked: Arc::default(),
            systemd: systemd.clone(),
            events: events.clone(),
            identity: Arc::clone(&identity),
        };
        let init = if init { InitWatch::of(handle.pid, handle.unit.as_str()) } else { None };
        let is_asked = Arc::clone(&handle.is_asked);
        let phase = sender;
        let owner = Owner { identity, unit, is_new, traits, systemd, events, is_asked, phase, served };
        tokio::spawn(Box::new(owner).follow(init));
        handle
    }

    /// A task whose unit was removed by an earlier driver or while none was running, and what is known of its end.
    pub(crate) fn of_removed_unit(
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
            events.tell(&identity, Kind::Stopped, word.to_owned(), &[("unit", saved.unit.clone())]);
        }
        let (sender, phase) = watch::channel(Phase::Exited(exit));
        // The phase never changes any more.
        drop(sender);
        Self {
            unit: UnitName::known(&saved.unit),
            identity: Arc::new(identity),
            saved,
            pid: 0,
            started_at: SystemTime::now(),
            phase,
            served: Arc::default(),
            cgroup: OnceCell::new(),
            is_asked: Arc::default(),
            systemd,
            events,
        }
    }

    /// The id of this run of the task.
    pub fn id(&self) -> &TaskId {
        &self.identity.id
    }

    /// What Nomad sent about the task.
    pub fn identity(&self) -> &TaskIdentity {
        &self.identity
    }

    /// The directories of the task on the host.
    pub(crate) fn dirs(&self) -> TaskDirs {
        TaskDirs::new(&self.identity.alloc_dir, &self.identity.name)
    }

    /// The unit of the task.
    pub fn unit(&self) -> &UnitName {
        &self.unit
    }

    /// PID of the main process when the driver began to follow it; zero if the process had exited by then.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Start time of the main process.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// The data by which a later driver recovers the task.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// The requests of the task, if it is a guest that serves.
    pub fn served(&self) -> Option<Served> {
        *self.served.lock()
    }

    /// The signal that stops the task, if its job sets none.
    pub(crate) fn usual_signal(&self) -> Signal {
        // On it the runner of a server finishes its requests; other tasks get the signal of Nomad's own drivers.
        if self.saved.traits.serves { Signal::TERM } else { Signal::INT }
    }

    /// Waits for the task's end. All callers get the same answer, also long after.
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

    /// Sends a signal to the main process, whose init passes it on to the program. SIGSTOP and SIGCONT are sent to all
    /// processes: no process can pass on a signal that stops it.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        let whom = if [Signal::STOP, Signal::CONT].contains(&signal) { KillWho::All } else { KillWho::Main };
        let asked = self.systemd.kill(&self.unit, whom, signal.number());
        if let Ok(answer) = timeout(ANSWER, asked).await {
            return answer.map_err(Error::Systemd);
        }
        self.signal_at_once(whom, signal);
        Ok(())
    }

    /// Sends a signal without systemd, which does not answer.
    fn signal_at_once(&self, whom: KillWho, signal: Signal) {
        tracing::warn!(unit = %self.unit, %signal, "systemd does not answer, sending the signal without it");
        let processes = match whom {
            KillWho::All => self.cgroup.get().map(Cgroup::processes).unwrap_or_default(),
            KillWho::Main => i32::try_from(self.pid).ok().and_then(Pid::from_raw).into_iter().collect(),
        };
        for process in processes {
            let Ok(held) = pidfd_open(process, PidfdFlags::empty()) else { continue };
            // The PID may belong to another process by now; the descriptor refers to one process.
            if Cgroup::of_process(process.as_raw_pid().unsigned_abs(), self.unit.as_str()).is_some() {
                let _ = kernel::send_signal(&held, signal.number());
            }
        }
    }

    /// Kills all processes without systemd, which does not answer: a task can keep systemd from answering
    /// (SECURITY.md), and must not be safe by that.
    pub(crate) fn kill_at_once(&self) {
        tracing::warn!(unit = %self.unit, "systemd does not answer, killing the task without it");
        if let Some(cgroup) = self.cgroup.get() {
            cgroup.kill();
        }
    }

    /// Sends the task a signal to stop, and kills all its processes if it has not ended within `kill_timeout`.
    pub async fn stop(&self, signal: Signal, kill_timeout: Duration) -> Result<(), Error> {
        if let Phase::Exited(_) = self.phase() {
            return Ok(());
        }
        self.is_asked.store(true, Ordering::Relaxed);
        if !kill_timeout.is_zero() {
            self.signal(signal).await?;
            if timeout(kill_timeout, self.wait()).await.is_ok() {
                return Ok(());
            }
            tracing::info!(unit = %self.unit, "the task did not end in time, killing it");
            // The signal of Nomad's drivers, which shells ignore while they wait for a program.
            let advice = if signal.to_string() == "SIGINT" {
                "; a shell that waits for a program does not end by it: write `exec` before the program, or set `kill_signal = \"SIGTERM\"`"
            } else {
                ""
            };
            self.tell(
                Kind::KillTimeout,
                format!(
                    "Did not end within {kill_timeout:?} of {signal}: killed with all its processes{advice}"
                ),
                &[("signal", signal.to_string()), ("kill_timeout", format!("{kill_timeout:?}"))],
            );
        }
        self.kill().await
    }

    /// Starts a command in the task, with streams or a terminal.
    pub async fn exec(&self, argv: Vec<String>, terminal: bool, policy: &Policy) -> Result<Session, Error> {
        let plan = self.plan(argv, terminal, policy).await?;
        Session::start(&self.systemd, plan).await.map_err(Error::Exec)
    }

    /// Runs a command in the task to its end, for at most `limit`; zero means no limit.
    pub async fn run(&self, argv: Vec<String>, limit: Duration, policy: &Policy) -> Result<Report, Error> {
        let plan = self.plan(argv, false, policy).await?;
        exec::run(&self.systemd, plan, limit).await.map_err(Error::Exec)
    }

    /// `policy` determines which variables no command has.
    async fn plan(&self, mut argv: Vec<String>, terminal: bool, policy: &Policy) -> Result<Plan, Error> {
        // A task with a view of its own has these variables from the driver, other tasks from Nomad.
        let has_view = self.identity.env.get("NOMAD_TASK_DIR").is_none_or(|path| path == "/local");
        if let Some(first) = argv.first_mut() {
            let (dirs, command) = (self.dirs(), first.clone());
            let found = tokio::task::spawn_blocking(move || misplaced::command(&dirs, &command, has_view));
            if let Ok(Some(path)) = found.await {
                *first = path;
            }
        }
        let service = self.systemd.service(&self.unit).await?;
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
                Manager::User => Identity::current(),
            },
            terminal,
            driver_pid: rustix::process::getpid().as_raw_pid(),
        })
    }

    /// The cgroup of the task; `None` if it has ended.
    pub(crate) async fn cgroup(&self) -> Result<Option<Cgroup>, Error> {
        let ask = async || {
            let service = self.systemd.service(&self.unit).await?;
            Cgroup::of_unit(&service.control_group).ok_or(Error::Exec(exec::Error::Ended))
        };
        match self.cgroup.get_or_try_init(ask).await {
            Ok(cgroup) => Ok(Some(cgroup.clone())),
            Err(Error::Exec(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends Nomad an event about the task.
    pub(crate) fn tell(&self, kind: Kind, message: String, details: &[(&str, String)]) {
        self.events.tell(&self.identity, kind, message, details);
    }

    /// Sends an event that names the task's unit and PID.
    pub(crate) fn send_start_event(&self) {
        let unit = ("unit", self.unit.to_string());
        if self.pid == 0 {
            // The task has ended by now.
            return self.tell(Kind::Start, format!("Ran as unit {}", self.unit), &[unit]);
        }
        let pid = ("pid", self.pid.to_string());
        self.tell(Kind::Start, format!("Runs as unit {}, process {}", self.unit, self.pid), &[unit, pid]);
    }

    /// Kills all processes of the task at once.
    pub(crate) async fn kill(&self) -> Result<(), Error> {
        self.is_asked.store(true, Ordering::Relaxed);
        match timeout(ANSWER, self.systemd.kill(&self.unit, KillWho::All, Signal::KILL.number())).await {
            Ok(answer) => answer?,
            Err(_) => self.kill_at_once(),
        }
        match timeout(KILL_DEADLINE, self.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Immortal { unit: self.unit.clone() }),
        }
    }
}
