//! Tasks, from the configuration of a job to a unit that is followed. No gRPC and no D-Bus here.
//!
//! ```text
//!   TaskConfig ──► TaskSpec ──► program, files ──► TransientUnit ──► Handle
//!   written        resolved     found, created     passed to systemd followed
//!   config/        spec/        host/  wasm/       unit/             live/
//!                    └─ sandbox/ what of it is allowed
//! ```
//!
//! `start.rs` goes through all of them.
//!
//! [`Tasks`] is the table of live tasks, by Nomad's ids, and the only way to create, find and remove a task.

mod advice;
pub mod config;
mod counted;
mod earlier;
pub mod error;
pub mod host;
mod host_effects;
mod init_report;
pub(crate) mod installation;
pub mod live;
mod output;
pub mod preview;
mod refusal;
pub mod sandbox;
mod slice_names;
pub mod spec;
mod start;
mod table;
mod turns;
pub mod unit;
pub mod warm;
pub mod wasm;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, OnceCell, mpsc};

pub use self::error::Error;
pub use self::live::exit::{Exit, Phase};
pub use self::live::handle::Handle;
pub use self::live::saved::Saved;

use self::config::{PluginConfig, TaskConfig, TaskId, TaskIdentity};
use self::host::unfit;
use self::host::users::HostAccounts;
use self::host::view::View;
use self::live::events::{Events, Kind};
use self::live::exec::{Report, Session};
use self::live::signal::Signal;
use self::live::slices::Slices;
use self::live::stats::{Stats, Usage};
use self::live::told_once::ToldOnce;
use self::live::{exec, handle, orphans, saved};
use self::spec::NodeSpec;
use self::table::{Claim, Slot, Table};
use self::turns::TurnsOf;
use self::wasm::guest::Answer;
use self::wasm::{compiler, guest};
use crate::systemd::{self, KillWho, Manager, Systemd, UnitName};
use crate::telemetry;

/// The tasks of this node, as far as this driver knows them. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

/// The installed runner and compiler, and when each was written.
type Stamps = [(PathBuf, Option<SystemTime>); 2];

struct Shared {
    systemd: Systemd,
    node: RwLock<Option<Arc<NodeSpec>>>,
    compiler: compiler::Compiler,
    /// The version that the installed programs have reported.
    runner: Mutex<Option<(Stamps, String)>>,
    table: Arc<Table>,
    events: Events,
    stats: Stats,
    slices: Slices,
    /// Where the agents that this driver serves keep their allocations; in practice one directory of one agent.
    alloc_parents: Mutex<HashSet<PathBuf>>,
    serves_an_agent: AtomicBool,
    /// Units of tasks that started before this process: some will be recovered, the others belong to nobody.
    earlier: OnceCell<Vec<UnitName>>,
    told_once: ToldOnce,
    /// Starts with many host paths, one at a time for each Nomad namespace.
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

    /// Applies the operator's configuration; refuses invalid values.
    pub fn configure(&self, config: PluginConfig) -> Result<(), Error> {
        let node = NodeSpec::resolve(config)?;
        self.shared.systemd.choose(node.manager);
        *self.shared.node.write() = Some(Arc::new(node));
        Ok(())
    }

    /// Records that an agent has chosen this process to run its tasks.
    pub fn serve(&self) {
        let Ok(node) = self.shared.node() else { return };
        if self.shared.serves_an_agent.swap(true, Ordering::Relaxed) {
            return;
        }
        if !node.lost_after.is_zero() {
            tokio::spawn(orphans::watch(Arc::downgrade(&self.shared), node.lost_after));
        }
        if let Some(address) = &node.metrics_address {
            tokio::spawn(telemetry::serve(address.clone()));
        }
    }

    /// Do tasks see the host as it is?
    pub fn see_the_host(&self) -> bool {
        self.shared.node().is_ok_and(|node| node.view == View::Host)
    }

    /// The systemd manager that runs the tasks, if the operator sets it.
    pub fn manager(&self) -> Option<Manager> {
        self.shared.node().ok().and_then(|node| node.configured_manager)
    }

    /// Why no task could start with this configuration, if it names something that is missing.
    pub async fn unfit(&self) -> Option<String> {
        let node = self.shared.node().ok()?;
        tokio::task::spawn_blocking(move || unfit::reason(&node, &HostAccounts)).await.ok()?
    }

    /// Does Nomad allocate a user to each task?
    pub fn uses_dynamic_users(&self) -> bool {
        self.shared.node().is_ok_and(|node| node.dynamic_workload_users)
    }

    /// The version of wasmtime that runs WebAssembly here, empty if its runner does not report it in time; `None` if there
    /// is no compiler that runs.
    ///
    /// # Errors
    /// If wasm-shim does not run: no task starts without it.
    pub async fn wasmtime(&self) -> Result<Option<String>, String> {
        let Some((shim, compiler)) = self.programs() else { return Ok(None) };
        let made = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
        let stamps = [&shim, &compiler].map(|path| (path.clone(), made(path)));
        let known = self.shared.runner.lock().clone();
        if let Some((_, version)) = known.filter(|(asked, _)| *asked == stamps) {
            return Ok(Some(version));
        }
        let version = match guest::answer_of(&shim).await {
            Answer::Version(version) => version,
            Answer::Silence => {
                tracing::warn!(shim = %shim.display(), "wasm-shim did not answer `--version` in time; asking again later");
                return Ok(Some(String::new()));
            }
            Answer::Failure(why) => {
                return Err(format!(
                    "{} does not run ({why}), and no task starts without it; install the three programs of one release anew",
                    shim.display()
                ));
            }
        };
        let version = match guest::answer_of(&compiler).await {
            Answer::Failure(why) => {
                tracing::warn!(compiler = %compiler.display(), why, "wasm-shim-compile does not run, so no WebAssembly task does");
                return Ok(None);
            }
            Answer::Version(_) | Answer::Silence => version,
        };
        *self.shared.runner.lock() = Some((stamps, version.clone()));
        Ok(Some(version))
    }

    /// The installed runner and compiler, if both are there.
    fn programs(&self) -> Option<(PathBuf, PathBuf)> {
        let node = self.shared.node().ok()?;
        let program = |name| node.installation.program(name).ok();
        Some((program("wasm-shim")?, program("wasm-shim-compile")?))
    }

    /// Starts a task. Once begun, a start is finished or undone, whether the caller waits or not.
    pub async fn start(&self, config: TaskConfig) -> Result<Arc<Handle>, Error> {
        let this = self.clone();
        let id = config.identity.id.clone();
        let claim = Claim::new(&self.shared.table, &id)?;
        let started = tokio::spawn(async move {
            let stopped = Arc::clone(&claim.stopped);
            let began = Instant::now();
            let started = Box::pin(this.shared.start(config, &stopped)).await;
            counted::note_start(&started, began.elapsed());
            let handle = Arc::new(started?);
            claim.keep(&handle);
            if was_stopped(&stopped)
                && let Err(error) = handle.kill().await
            {
                tracing::warn!(unit = %handle.unit(), error = crate::chain(&error), "a task that was stopped during its start was not killed");
            }
            Ok(handle)
        });
        started.await.unwrap_or(Err(Error::Panicked))
    }

    /// Recovers a task that an earlier process of the driver started. A task that is followed already is fine.
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
        // The driver that started the task has reported the start.
        self.shared.told_once.record(&identity);
        let (systemd, events) = (self.shared.systemd.clone(), self.shared.events.clone());
        let name = UnitName::known(&saved.unit);
        let handle = match systemd.find(&name).await {
            Ok(unit) if unit.state().invocation != saved.invocation => {
                return Err(Error::Lost { id, reason: "its unit was started again by somebody else" });
            }
            Ok(unit) => Handle::follow(identity, (unit, false), saved.traits, systemd, events),
            // Units do not go away by themselves: somebody stopped it. What is known of its end is better than nothing.
            Err(systemd::Error::NoSuchUnit { .. }) => {
                let end = systemd.end_in_journal(&name, &saved.invocation).await;
                Handle::of_removed_unit(identity, saved, end, systemd, events)
            }
            Err(error) => return Err(Error::Systemd(error)),
        };
        let handle = Arc::new(handle);
        tracing::info!(unit = %handle.unit(), task = %handle.id(), "found a task again");
        // Before Nomad looks for the task's secrets.
        if let Err(error) =
            start::blocking(|| host::secrets::give_back(&handle.dirs(), handle.unit(), handle.pid()))
        {
            tracing::warn!(task = %handle.id(), %error, "what Nomad writes to the task's secrets may not reach the task");
        }
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

    /// The live task with this id.
    pub fn get(&self, id: &TaskId) -> Result<Arc<Handle>, Error> {
        match self.shared.table.lock().get(id) {
            Some(Slot::Live(handle)) => Ok(Arc::clone(handle)),
            _ => Err(Error::Unknown { id: id.clone() }),
        }
    }

    /// Stops a task. An unknown task has ended already, which is all the caller wants. An unknown signal must not
    /// keep a task running: the task gets the default signal.
    pub async fn stop(&self, id: &TaskId, signal: &str, kill_timeout: Duration) -> Result<(), Error> {
        let requested = match signal {
            "" => None,
            name => Signal::parse(name)
                .inspect_err(
                    |error| tracing::warn!(task = %id, %error, "kill_signal is unknown, stopping the task with the default signal"),
                )
                .ok(),
        };
        let found = match self.shared.table.lock().get(id) {
            Some(Slot::Live(handle)) => Ok(Arc::clone(handle)),
            Some(Slot::Starting(stopped)) => Err(Arc::clone(stopped)),
            None => return Ok(()),
        };
        match found {
            Ok(handle) => handle.stop(requested.unwrap_or_else(|| handle.usual_signal()), kill_timeout).await,
            // A start is not waited for: a compilation is given up, and what runs already is killed.
            Err(stopped) => {
                stopped.notify_one();
                let unit = spec::unit_of(id);
                if let Err(error) = self.shared.systemd.kill(&unit, KillWho::All, Signal::KILL.number()).await
                {
                    tracing::warn!(%unit, error = crate::chain(&error), "systemd could not be asked to kill the unit of a start that was stopped; it is killed when it has started");
                }
                Ok(())
            }
        }
    }

    /// Sends a signal to a task.
    pub async fn signal(&self, id: &TaskId, signal: &str) -> Result<(), Error> {
        let signal = Signal::parse(signal)?;
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

    /// Runs a command in a running task to its end, for at most `limit`; zero means no limit.
    pub async fn exec(&self, id: &TaskId, argv: Vec<String>, limit: Duration) -> Result<Report, Error> {
        let (handle, node) = (self.get(id)?, self.shared.node()?);
        // The runner knows where systemd listens, and other processes in its unit have the same rights.
        if handle.saved().traits.guest
            && node.manager == Manager::System
            && !node.policy.allows_by_name("NotifyAccess")
        {
            return Err(Error::Exec(exec::Error::BesideGuest));
        }
        handle.run(argv, limit, &node.policy).await
    }

    /// Resource usage of a task, now and after every interval; nothing for a task that has ended.
    pub async fn usage(
        &self,
        id: &TaskId,
        every: Duration,
    ) -> Result<Option<mpsc::Receiver<(SystemTime, Usage)>>, Error> {
        let handle = self.get(id)?;
        let cgroup = handle.cgroup().await?;
        Ok(cgroup.map(|cgroup| self.shared.stats.watch(handle, cgroup, every)))
    }

    /// Waits for a task's end. All callers get the same answer, also long after.
    pub async fn wait(&self, id: &TaskId) -> Result<Exit, Error> {
        let handle = self.get(id)?;
        // An agent that has started asks after it has opened the directories of the allocation.
        let dirs = handle.dirs();
        tokio::task::spawn_blocking(move || host::dirs::close_again(&dirs));
        // Nomad asks after it has reported the start itself.
        let advice = self.shared.told_once.take_advice(id);
        if self.shared.told_once.record(handle.identity()) {
            handle.send_start_event();
            if let Some(advice) = advice {
                handle.tell(Kind::Advice, advice, &[]);
            }
        }
        Ok(handle.wait().await)
    }

    /// The events of tasks from now on.
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// Forgets a task and removes everything that is left of it, also a task that this process never saw.
    pub async fn destroy(&self, id: &TaskId, force: bool) -> Result<(), Error> {
        self.shared.told_once.take_advice(id);
        let handle = self.get(id).ok();
        let (unit, copied) = match &handle {
            Some(handle) => {
                if handle.phase() == Phase::Running {
                    if !force {
                        return Err(Error::StillRunning { id: id.clone() });
                    }
                    // Whatever the result, the removal kills all processes as well.
                    if let Err(error) = handle.kill().await {
                        tracing::debug!(unit = %handle.unit(), error = crate::chain(&error), "not killed yet");
                    }
                }
                (handle.unit().clone(), handle.saved().traits.copied)
            }
            None => (spec::unit_of(id), true),
        };
        let mut removal = Box::pin(self.shared.remove(&unit));
        match (tokio::time::timeout(handle::ANSWER, &mut removal).await, handle) {
            (Ok(removed), _) => removed?,
            (Err(_), handle) => {
                // The processes that the task left may be what keeps systemd busy.
                if let Some(handle) = handle {
                    handle.kill_at_once();
                }
                removal.await?;
            }
        }
        if copied {
            self.shared.end_copiers(id).await?;
        }
        let mut rows = self.shared.table.lock();
        // The row of a start that is under way is its own.
        if !matches!(rows.get(id), Some(Slot::Starting(_))) {
            rows.remove(id);
        }
        Ok(())
    }
}

/// Was the start asked to end? Only the first who asks is told.
fn was_stopped(stopped: &Notify) -> bool {
    stopped.notified().now_or_never().is_some()
}

impl Shared {
    fn node(&self) -> Result<Arc<NodeSpec>, Error> {
        let configured = self.node.read().clone();
        // Without a configuration the defaults apply.
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
