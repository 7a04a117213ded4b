//! Tasks: what they are, from what a job says to a unit that is followed. No gRPC and no D-Bus here.
//!
//! ```text
//!   TaskConfig ──► TaskSpec ──► program, files ──► TransientUnit ──► Handle
//!   written        meant        found, made        told systemd      followed
//!   config/        spec/        host/  wasm/       unit/             live/
//!                    └─ sandbox/ what of it is allowed
//! ```
//!
//! `start.rs` is the way through all of them.
//!
//! [`Tasks`] is the table of live tasks, by Nomad's ids, and the only way to make, find and remove one.

mod advice;
pub mod config;
mod earlier;
pub mod error;
pub mod host;
mod host_effects;
mod init_report;
pub mod live;
pub mod preview;
pub mod sandbox;
pub mod spec;
mod start;
mod table;
mod turns;
pub mod unit;
pub mod wasm;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{OnceCell, mpsc};

pub use self::error::Error;
pub use self::live::exit::{Exit, Phase};
pub use self::live::handle::Handle;
pub use self::live::saved::Saved;

use self::config::{PluginConfig, TaskConfig, TaskId, TaskIdentity};
use self::host::unfit;
use self::host::users::HostAccounts;
use self::host::view::View;
use self::live::events::Events;
use self::live::exec::{Report, Session};
use self::live::signal::Signal;
use self::live::slices::Slices;
use self::live::stats::{Stats, Usage};
use self::live::told_once::ToldOnce;
use self::live::{exec, handle, lost, saved};
use self::spec::NodeSpec;
use self::table::{Claim, Slot, Table};
use self::turns::TurnsOf;
use self::wasm::{compiler, guest};
use crate::systemd::{self, Manager, Systemd, UnitName, Whom};

/// The tasks of this node, as far as this driver knows them. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    systemd: Systemd,
    node: RwLock<Option<Arc<NodeSpec>>>,
    compiler: compiler::Compiler,
    /// The runner of WebAssembly, when it was made, and what it says of its version.
    runner: Mutex<Option<(PathBuf, SystemTime, String)>>,
    table: Arc<Table>,
    events: Events,
    stats: Stats,
    slices: Slices,
    /// Where the agents that we serve keep their allocations; in practice one directory of one agent.
    alloc_parents: Mutex<HashSet<PathBuf>>,
    serves_an_agent: AtomicBool,
    /// Units of tasks that were there before this process: some will be recovered, the others are nobody's.
    earlier: OnceCell<Vec<UnitName>>,
    told_once: ToldOnce,
    /// Starts with many paths of the host, one at a time of each namespace of Nomad's.
    turns_of_many_paths: TurnsOf<String>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new(systemd: Systemd) -> Self {
        let shared = Shared {
            systemd,
            node: RwLock::default(),
            compiler: compiler::Compiler::default(),
            runner: Mutex::default(),
            table: Arc::default(),
            events: Events::default(),
            stats: Stats::default(),
            slices: Slices::default(),
            alloc_parents: Mutex::default(),
            serves_an_agent: AtomicBool::default(),
            earlier: OnceCell::new(),
            told_once: ToldOnce::default(),
            turns_of_many_paths: TurnsOf::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes the operator's configuration; refuses values that have no meaning.
    pub fn configure(&self, config: PluginConfig) -> Result<(), Error> {
        let node = NodeSpec::resolve(config).map_err(Error::Spec)?;
        self.shared.systemd.choose(node.manager);
        *self.shared.node.write() = Some(Arc::new(node));
        Ok(())
    }

    /// Takes note that an agent has chosen this process to run its tasks.
    pub fn serve(&self) {
        let lost_after = self.shared.node().map(|node| node.lost_after).unwrap_or_default();
        if !lost_after.is_zero() && !self.shared.serves_an_agent.swap(true, Ordering::Relaxed) {
            tokio::spawn(lost::watch(Arc::downgrade(&self.shared), lost_after));
        }
    }

    /// Do tasks see the host as it is?
    pub fn see_the_host(&self) -> bool {
        self.shared.node().is_ok_and(|node| node.view == View::Host)
    }

    /// Whose systemd runs the tasks, if the operator says it.
    pub fn manager(&self) -> Option<Manager> {
        self.shared.node().ok().and_then(|node| node.said_manager)
    }

    /// Why no task could start with this configuration, if it names what is not there.
    pub async fn unfit(&self) -> Option<String> {
        let node = self.shared.node().ok()?;
        tokio::task::spawn_blocking(move || unfit::reason(&node, &HostAccounts)).await.ok()?
    }

    /// Does Nomad give each task its user?
    pub fn take_their_users_from_nomad(&self) -> bool {
        self.shared.node().is_ok_and(|node| node.dynamic_workload_users)
    }

    /// The version of wasmtime by which WebAssembly is run here, empty if its runner does not say it; nothing if there is
    /// no runner, or no compiler.
    pub async fn wasmtime(&self) -> Option<String> {
        let node = self.shared.node().ok()?;
        let shim = node.wasm.shim().ok().filter(|_| node.wasm.compiles())?;
        let made = std::fs::metadata(&shim).and_then(|metadata| metadata.modified()).ok()?;
        if let Some((.., version)) =
            self.shared.runner.lock().as_ref().filter(|(path, at, _)| (path, at) == (&shim, &made))
        {
            return Some(version.clone());
        }
        let version = guest::wasmtime(&shim).await.unwrap_or_default();
        *self.shared.runner.lock() = Some((shim, made, version.clone()));
        Some(version)
    }

    /// Starts a task, whoever asks for it waits or not: once begun, a start is finished or undone.
    pub async fn start(&self, config: TaskConfig) -> Result<Arc<Handle>, Error> {
        let this = self.clone();
        let id = config.identity.id.clone();
        let claim = Claim::new(&self.shared.table, &id)?;
        let started = tokio::spawn(async move {
            let handle = Arc::new(Box::pin(this.shared.start(config, &claim.stopped)).await?);
            claim.keep(&handle);
            Ok(handle)
        });
        started.await.unwrap_or(Err(Error::Panicked))
    }

    /// Finds a task that an earlier process of the driver started. One that we follow already is fine.
    pub async fn recover(&self, identity: TaskIdentity, saved: Saved) -> Result<(), Error> {
        let id = identity.id.clone();
        if let Some(Slot::Live(_)) = self.shared.table.lock().get(&id) {
            return Ok(());
        }
        let claim = Claim::new(&self.shared.table, &id)?;
        if saved.boot_id != saved::boot_id() {
            return Err(Error::Lost { id, reason: "the machine has rebooted since the task started" });
        }
        self.shared.note_agent_of(&identity.alloc_dir);
        // Whoever started it has told of it.
        self.shared.told_once.record(&identity);
        let (systemd, events) = (self.shared.systemd.clone(), self.shared.events.clone());
        let name = UnitName::known(&saved.unit);
        let handle = match systemd.find(&name).await {
            Ok(unit) if unit.state().invocation != saved.invocation => {
                return Err(Error::Lost { id, reason: "its unit was started again by somebody else" });
            }
            Ok(unit) => Handle::follow(identity, unit, saved.traits(), systemd, events),
            // Units do not go by themselves: somebody stopped it. What is still known of its end is better than nothing.
            Err(systemd::Error::NoSuchUnit { .. }) => {
                let end = systemd.end_in_journal(&name, &saved.invocation).await;
                Handle::of_one_that_is_gone(identity, saved, end, systemd, events)
            }
            Err(error) => return Err(Error::Systemd(error)),
        };
        let handle = Arc::new(handle);
        tracing::info!(unit = %handle.unit(), task = %handle.id(), "found a task again");
        claim.keep(&handle);
        let (slices, systemd) = (self.shared.slices.clone(), self.shared.systemd.clone());
        tokio::spawn(async move {
            slices.follow(&systemd).await;
            if let Ok(Some(cgroup)) = handle.cgroup().await {
                exec::end_those_of_earlier_drivers(&cgroup);
            }
        });
        Ok(())
    }

    /// The live task of that id.
    pub fn get(&self, id: &TaskId) -> Result<Arc<Handle>, Error> {
        match self.shared.table.lock().get(id) {
            Some(Slot::Live(handle)) => Ok(Arc::clone(handle)),
            _ => Err(Error::Unknown { id: id.clone() }),
        }
    }

    /// Ends a task. One that nobody knows has ended already, which is all the caller wants. A signal that nobody knows
    /// is no reason to leave a task running: it gets the usual one.
    pub async fn stop(&self, id: &TaskId, signal: &str, patience: Duration) -> Result<(), Error> {
        let said = match signal {
            "" => None,
            name => Signal::parse(name)
                .inspect_err(
                    |error| tracing::warn!(task = %id, %error, "kill_signal is unknown, stopping the task with the default signal"),
                )
                .ok(),
        };
        if let Ok(handle) = self.get(id) {
            return handle.stop(said.unwrap_or_else(|| handle.usual_signal()), patience).await;
        }
        // One that is still being started is not waited for: its start has failed then.
        let starting = match self.shared.table.lock().get(id) {
            Some(Slot::Starting(stopped)) => Some(Arc::clone(stopped)),
            _ => None,
        };
        if let Some(stopped) = starting {
            stopped.notify_one();
            let unit = spec::unit_of(id);
            if let Err(error) = self.shared.systemd.kill(&unit, Whom::All, Signal::KILL.number()).await {
                tracing::debug!(%unit, error = crate::chain(&error), "there was nothing to kill yet");
            }
        }
        Ok(())
    }

    /// Sends a signal to a task.
    pub async fn signal(&self, id: &TaskId, signal: &str) -> Result<(), Error> {
        let signal = Signal::parse(signal).map_err(Error::Signal)?;
        self.get(id)?.signal(signal).await
    }

    /// Starts a command in a running task, with streams or a terminal.
    pub async fn exec_streaming(
        &self,
        id: &TaskId,
        argv: Vec<String>,
        terminal: bool,
    ) -> Result<Session, Error> {
        self.get(id)?.exec(argv, terminal, &self.shared.node()?.policy).await
    }

    /// Runs a command in a running task to its end, for no longer than `limit`; zero is no limit.
    pub async fn exec(&self, id: &TaskId, argv: Vec<String>, limit: Duration) -> Result<Report, Error> {
        let (handle, node) = (self.get(id)?, self.shared.node()?);
        // Its runner is told where systemd listens, and whatever is beside it is its equal.
        if handle.saved().traits().guest
            && node.manager == Manager::System
            && !node.policy.allows_by_name("NotifyAccess")
        {
            return Err(Error::Exec(exec::Error::BesideGuest));
        }
        handle.run(argv, limit, &node.policy).await
    }

    /// What a task uses, now and then again after every such time; nothing of one that has ended.
    pub async fn usage(
        &self,
        id: &TaskId,
        every: Duration,
    ) -> Result<Option<mpsc::Receiver<(SystemTime, Usage)>>, Error> {
        let handle = self.get(id)?;
        let cgroup = handle.cgroup().await?;
        Ok(cgroup.map(|cgroup| self.shared.stats.watch(handle, cgroup, every)))
    }

    /// Waits for the end of a task. Everybody who asks gets the same answer, also long after.
    pub async fn wait(&self, id: &TaskId) -> Result<Exit, Error> {
        let handle = self.get(id)?;
        // An agent that has started asks once it has opened the directories of the allocation.
        let dirs = handle.dirs();
        tokio::task::spawn_blocking(move || host::dirs::close_again(&dirs));
        // Nomad asks once it has told of the start itself.
        let advice = self.shared.told_once.take_advice(id);
        if self.shared.told_once.record(handle.identity()) {
            handle.tell_of_its_start();
            if let Some(advice) = advice {
                handle.tell(advice, &[]);
            }
        }
        Ok(handle.wait().await)
    }

    /// What happens to tasks from now on.
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// Forgets a task and removes all that is left of it, also one that this process never saw.
    pub async fn destroy(&self, id: &TaskId, force: bool) -> Result<(), Error> {
        self.shared.told_once.take_advice(id);
        let handle = self.get(id).ok();
        let (unit, copied) = match &handle {
            Some(handle) => {
                if handle.phase() == Phase::Running {
                    if !force {
                        return Err(Error::StillRunning { id: id.clone() });
                    }
                    // Whatever comes of it, the removal ends all processes too.
                    if let Err(error) = handle.kill().await {
                        tracing::debug!(unit = %handle.unit(), error = crate::chain(&error), "not killed yet");
                    }
                }
                (handle.unit().clone(), handle.saved().copied)
            }
            None => (spec::unit_of(id), true),
        };
        let mut removal = Box::pin(self.shared.remove(&unit));
        match (tokio::time::timeout(handle::ANSWER, &mut removal).await, handle) {
            (Ok(removed), _) => removed?,
            (Err(_), handle) => {
                // What it left may be what keeps systemd busy.
                if let Some(handle) = handle {
                    handle.kill_at_once();
                }
                removal.await?;
            }
        }
        if copied {
            self.shared.end_copiers(id).await?;
        }
        self.shared.table.lock().remove(id);
        Ok(())
    }
}

impl Shared {
    fn node(&self) -> Result<Arc<NodeSpec>, Error> {
        let configured = self.node.read().clone();
        // A host that sets no configuration gets the defaults.
        configured.map_or_else(
            || {
                let defaults = PluginConfig::decode(&[])
                    .map_err(|error| Error::Spec(spec::Error::Defaults { source: Box::new(error) }))?;
                NodeSpec::resolve(defaults).map(Arc::new).map_err(Error::Spec)
            },
            Ok,
        )
    }
}
