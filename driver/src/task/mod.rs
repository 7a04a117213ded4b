//! ROOM 2: what a task is. No gRPC and no D-Bus here.
//!
//! ```text
//!   TaskConfig ──► TaskSpec ──► Program ──► TransientUnit ──► Handle
//!   said           meant        found       told systemd      followed
//!   config.rs      spec.rs      program.rs  unit.rs           handle.rs
//!                  guest.rs     wasm.rs     view.rs env.rs logs.rs    events.rs stats.rs exec.rs
//!                               cache.rs                              outcome.rs
//! ```
//!
//! [`Tasks`] is the table of live tasks, by Nomad's ids, and the only way to make, find and remove one.

pub mod activation;
mod beginners;
pub mod cache;
pub mod cgroup;
pub mod config;
pub mod env;
pub mod ephemeral;
pub mod events;
pub mod exec;
pub mod files;
pub mod guest;
pub mod handle;
mod identity;
mod loader;
pub mod logs;
mod lost;
mod misplaced;
pub mod options;
pub mod outcome;
mod pin;
mod place;
mod policy;
pub mod preset;
mod privilege;
pub mod program;
mod reach;
pub mod settings;
mod settled;
pub mod signal;
mod slices;
pub mod spec;
pub mod stats;
mod targets;
mod unfit;
pub mod unit;
pub mod users;
pub mod view;
pub mod wasm;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::{OnceCell, mpsc};

use handle::Beside;
pub use handle::{Exit, Handle, Phase, Saved};

use self::activation::Readiness;
use self::beginners::Beginners;
use self::cache::Lease;
use self::config::{Credential, Known, NetworkMode, PluginConfig, TaskConfig, TaskId};
use self::events::Events;
use self::exec::{Report, Session};
use self::outcome::Outcome;
use self::pin::Pins;
use self::place::Place;
use self::policy::Policy;
use self::program::Program;
use self::signal::Signal;
use self::slices::Slices;
use self::spec::{Identity, NodeSpec, Sink, TaskSpec};
use self::stats::{Stats, Usage};
use self::unit::{Command, Made, Streams};
use self::users::{OfEveryHost, OfHost};
use self::view::View;
use self::wasm::Code;
use crate::kernel;
use crate::systemd::{
    self, Assignment, Features, Manager, Stream, Systemd, TransientUnit, Unit, UnitName, Whom,
};

/// How long the copiers of a task may take over its last words: as long as Nomad's log collector waits for them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long compiled code that is opened by its path stays there at least.
const LAST_LOOK: Duration = Duration::from_secs(10);

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
    Wasm(wasm::Error),
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
    /// The shared root cannot be made.
    #[error("prepare the tasks' view of the host in {directory}")]
    View {
        /// Where.
        directory: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file of the host that the job names cannot be had.
    #[error(transparent)]
    Files(files::Error),
    /// It ended, or took too long, before it said that it is ready.
    #[error(
        "the task did not say that it is ready (`READY=1`, sd_notify(3)) {how}; it must, since its job has a {} block",
        if *serves { "`wasm.serve`" } else { "`notify`" }
    )]
    NotReady {
        /// In which way.
        how: String,
        /// Is it a guest that serves, for which the runner says it?
        serves: bool,
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
        "make mount points in {path}, which lacks them, by an overlay (is the kernel's module `overlay` there?); mount \
         elsewhere, or have the operator create them"
    )]
    Overlay {
        /// The path of the host.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A variable has a name that systemd does not pass on, and nobody else does.
    #[error(
        "`env`: wasm-shim passes on variables whose names have other characters than letters, digits and `_`"
    )]
    Carrier {
        /// What is wrong with it.
        source: wasm::Error,
    },
    /// The driver is at fault.
    #[error("the driver panicked while it read the task's configuration; please report this")]
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
            Self::Systemd(error) => error.may_pass(),
            Self::Logs(logs::Error::NoReader { .. }) | Self::View { .. } | Self::NotReady { .. } => true,
            Self::Env(error) => matches!(error, env::Error::Write { .. }),
            Self::Guest { outcome, .. } => outcome.may_pass(),
            Self::Wasm(error) => error.may_pass(),
            _ => false,
        }
    }
}

/// The tasks of this node, as far as this driver knows them. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    systemd: Systemd,
    node: RwLock<Option<Arc<NodeSpec>>>,
    compiler: wasm::Compiler,
    /// The runner of WebAssembly, when it was made, and what it says of its version.
    runner: Mutex<Option<(PathBuf, SystemTime, String)>>,
    table: Mutex<HashMap<TaskId, Slot>>,
    events: Events,
    stats: Stats,
    slices: Slices,
    /// Where the agents that we serve keep their allocations; in practice one directory of one agent.
    alloc_parents: Mutex<HashSet<PathBuf>>,
    serves_an_agent: AtomicBool,
    /// Units of tasks that were there before this process: some will be recovered, the others are nobody's.
    earlier: OnceCell<Vec<UnitName>>,
    beginners: Beginners,
}

/// A row of the table.
enum Slot {
    /// The id is taken, the task is not there yet.
    Starting,
    Live(Arc<Handle>),
}

impl Tasks {
    /// No tasks yet.
    pub fn new(systemd: Systemd) -> Self {
        let shared = Shared {
            systemd,
            node: RwLock::default(),
            compiler: wasm::Compiler::default(),
            runner: Mutex::default(),
            table: Mutex::default(),
            events: Events::default(),
            stats: Stats::default(),
            slices: Slices::default(),
            alloc_parents: Mutex::default(),
            serves_an_agent: AtomicBool::default(),
            earlier: OnceCell::new(),
            beginners: Beginners::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes the operator's configuration; refuses values that have no meaning.
    pub fn configure(&self, config: PluginConfig) -> Result<(), Error> {
        let node = NodeSpec::resolve(config).map_err(Error::Spec)?;
        self.shared.systemd.choose(node.manager);
        *self.shared.node.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(node));
        Ok(())
    }

    /// Takes note that an agent has chosen this process to run its tasks.
    pub fn serve(&self) {
        let lost_after = self.node().map(|node| node.lost_after).unwrap_or_default();
        if !lost_after.is_zero() && !self.shared.serves_an_agent.swap(true, Ordering::Relaxed) {
            tokio::spawn(lost::watch(Arc::downgrade(&self.shared), lost_after));
        }
    }

    /// Do tasks see the host as it is?
    pub fn see_the_host(&self) -> bool {
        self.node().is_ok_and(|node| node.view == View::Host)
    }

    /// Whose systemd runs the tasks, if the operator says it.
    pub fn manager(&self) -> Option<Manager> {
        self.node().ok().and_then(|node| node.said_manager)
    }

    /// Why no task could start with this configuration, if it names what is not there.
    pub async fn unfit(&self) -> Option<String> {
        let node = self.node().ok()?;
        tokio::task::spawn_blocking(move || unfit::reason(&node, &OfHost)).await.ok()?
    }

    /// Does Nomad give each task its user?
    pub fn take_their_users_from_nomad(&self) -> bool {
        self.node().is_ok_and(|node| node.dynamic_workload_users)
    }

    /// The version of wasmtime by which WebAssembly is run here, empty if its runner does not say it; nothing if there is
    /// no runner.
    pub async fn wasmtime(&self) -> Option<String> {
        let shim = self.node().ok()?.wasm.shim().ok()?;
        let made = std::fs::metadata(&shim).and_then(|metadata| metadata.modified()).ok()?;
        if let Some((.., version)) =
            lock(&self.shared.runner).as_ref().filter(|(path, at, _)| (path, at) == (&shim, &made))
        {
            return Some(version.clone());
        }
        let version = guest::wasmtime(&shim).await.unwrap_or_default();
        *lock(&self.shared.runner) = Some((shim, made, version.clone()));
        Some(version)
    }

    /// Starts a task, whoever asks for it waits or not: once begun, a start is finished or undone.
    pub async fn start(&self, config: TaskConfig) -> Result<Arc<Handle>, Error> {
        let this = self.clone();
        let id = config.known.id.clone();
        let claim = Claim::new(&self.shared, &id)?;
        let started = tokio::spawn(async move {
            let handle = Arc::new(Box::pin(this.shared.start(config)).await?);
            claim.keep(&handle);
            Ok(handle)
        });
        started.await.unwrap_or(Err(Error::Unknown { id }))
    }

    /// Finds a task that an earlier process of the driver started. One that we follow already is fine.
    pub async fn recover(&self, known: Known, saved: Saved) -> Result<(), Error> {
        let id = known.id.clone();
        if let Some(Slot::Live(_)) = lock(&self.shared.table).get(&id) {
            return Ok(());
        }
        let claim = Claim::new(&self.shared, &id)?;
        if saved.boot_id != handle::boot_id() {
            return Err(Error::Lost { id, reason: "the machine has rebooted since the task started" });
        }
        self.shared.serves(&known.alloc_dir);
        // Whoever started it has told of it.
        self.shared.beginners.are_first(&known);
        let (systemd, events) = (self.shared.systemd.clone(), self.shared.events.clone());
        let name = UnitName::known(&saved.unit);
        let handle = match systemd.find(&name).await {
            Ok(unit) if unit.state().invocation != saved.invocation => {
                return Err(Error::Lost { id, reason: "its unit was started again by somebody else" });
            }
            Ok(unit) => Handle::follow(known, unit, saved.beside(), systemd, events),
            // Units do not go by themselves: somebody stopped it. What is still known of its end is better than nothing.
            Err(systemd::Error::NoSuchUnit { .. }) => {
                let end = systemd.end_in_journal(&name, &saved.invocation).await;
                Handle::of_one_that_is_gone(known, saved, end, systemd, events)
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
        match lock(&self.shared.table).get(id) {
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
                    |error| tracing::warn!(task = %id, %error, "stopping the task with the usual signal"),
                )
                .ok(),
        };
        if let Ok(handle) = self.get(id) {
            return handle.stop(said.unwrap_or_else(|| handle.usual_signal()), patience).await;
        }
        // One that is still being started is not waited for: its start has failed then.
        if matches!(lock(&self.shared.table).get(id), Some(Slot::Starting)) {
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
    pub async fn exec(&self, id: &TaskId, argv: Vec<String>, terminal: bool) -> Result<Session, Error> {
        self.get(id)?.exec(argv, terminal, &self.node()?.policy).await
    }

    /// Runs a command in a running task to its end, for no longer than `limit`; zero is no limit.
    pub async fn run(&self, id: &TaskId, argv: Vec<String>, limit: Duration) -> Result<Report, Error> {
        let (handle, node) = (self.get(id)?, self.node()?);
        // Its runner is told where systemd listens, and whatever is beside it is its equal.
        if handle.saved().beside().guest
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
        // Nomad asks once it has told of the start itself.
        let advice = self.shared.beginners.take_advice(id);
        if self.shared.beginners.are_first(handle.known()) {
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
        self.shared.beginners.take_advice(id);
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
        lock(&self.shared.table).remove(id);
        Ok(())
    }

    fn node(&self) -> Result<Arc<NodeSpec>, Error> {
        self.shared.node()
    }
}

impl Shared {
    fn node(&self) -> Result<Arc<NodeSpec>, Error> {
        let configured = self.node.read().unwrap_or_else(PoisonError::into_inner).clone();
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

    async fn start(&self, config: TaskConfig) -> Result<Handle, Error> {
        let node = self.node()?;
        self.serves(&config.known.alloc_dir);
        let features = self.systemd.features().await.map_err(Error::Systemd)?;
        if let Some(reason) = features.shortfall() {
            return Err(Error::Spec(spec::Error::Node { option: "manager".to_owned(), reason }));
        }
        let (config, task) = {
            let node = Arc::clone(&node);
            // The databases of users may be far away.
            let resolve = move || {
                let task = TaskSpec::resolve(&config, &node, &features, &OfHost);
                (config, task)
            };
            tokio::task::spawn_blocking(resolve).await.map_err(|_| Error::Panicked)?
        };
        let task = task.map_err(Error::Spec)?;
        self.remove_earlier_runs(&config, &task.unit).await?;
        let advice = misplaced::advice(&task);
        let (unit, is_guest) = match self.begun_before(&task).await? {
            Some(unit) => {
                let program =
                    program::find(&task.command, sight_of(&task, &program::mounted(task.settings(false))));
                (unit, matches!(program, Ok(Program::Wasm { .. })))
            }
            None => self.begin(&task, &node, &config.known).await?,
        };
        if let Some(advice) = advice {
            self.beginners.advise(&config.known.id, advice);
        }
        let beside = Beside {
            copied: task.output.sink == Sink::Both,
            listens: !task.sockets.is_empty(),
            speaks: task.readiness != Readiness::default() && !task.guest.serves,
            serves: task.guest.serves,
            guest: is_guest,
        };
        let (systemd, events) = (self.systemd.clone(), self.events.clone());
        let handle = Handle::follow(config.known, unit, beside, systemd, events);
        tracing::info!(unit = %handle.unit(), task = %handle.id(), pid = handle.pid(), "task started");
        Ok(handle)
    }

    /// The unit of this very run, if a driver that died meanwhile has started it: Nomad asks again by the same id, and
    /// no task is started twice.
    async fn begun_before(&self, task: &TaskSpec) -> Result<Option<Unit>, Error> {
        if !self.earlier().await?.contains(&task.unit) {
            return Ok(None);
        }
        self.adopt(task).await
    }

    async fn adopt(&self, task: &TaskSpec) -> Result<Option<Unit>, Error> {
        match self.systemd.adopt(&task.unit, task.readiness.ready_within.unwrap_or_default()).await {
            Ok(unit) => {
                tracing::warn!(unit = %task.unit, "going on with a start that was interrupted");
                Ok(Some(unit))
            }
            Err(systemd::Error::NoSuchUnit { .. }) => Ok(None),
            Err(error) => Err(not_started(error, task)),
        }
    }

    /// The unit of a new run, and whether it runs WebAssembly.
    async fn begin(&self, task: &TaskSpec, node: &NodeSpec, known: &Known) -> Result<(Unit, bool), Error> {
        let failed = |source| Error::View { directory: node.runtime_dir.clone(), source };
        // A compilation sees the host on it, too.
        view::prepare(&node.wasm.root, &node.wasm.host_paths).map_err(failed)?;
        let (command, lease) = self.command(task, node, known).await?;
        let is_guest = matches!(command, Command::Wasm { .. });
        let place = Place::of(&node.runtime_dir, &task.unit);
        let started = self.begin_at(&place, command, task, node, &known.id).await;
        if started.is_ok() {
            place.forget_credentials();
        } else {
            place.remove();
            self.slices.release(&self.systemd).await;
        }
        if let (View::Host, Some(lease)) = (&task.view, lease) {
            // The runner opens the code by its path, a moment after systemd says that it runs. Elsewhere it is mounted.
            tokio::spawn(async move {
                tokio::time::sleep(LAST_LOOK).await;
                drop(lease);
            });
        }
        started.map(|unit| (unit, is_guest))
    }

    async fn begin_at(
        &self,
        place: &Place,
        command: Command,
        task: &TaskSpec,
        node: &NodeSpec,
        id: &TaskId,
    ) -> Result<Unit, Error> {
        // Until the unit has started, or has not.
        let mut pins = Pins::new(&node.runtime_dir, &task.unit);
        let mut made = make(place, task, node, matches!(command, Command::Wasm { .. }), &mut pins)?;
        self.leave_addresses_to_the_operator(task, &node.policy, &mut made.settings).await?;
        self.mount_nothing_on_the_host(task).await?;
        let mut owner = task.uid;
        if task.identity == spec::Identity::Ephemeral {
            let chosen = ephemeral::choose(&task.ephemeral_user, &task.dirs, &self.systemd).await;
            made.ephemeral_user = chosen.map_err(Error::Systemd)?;
            owner = Some(ephemeral::number_of(&made.ephemeral_user));
        }
        let (stdout, stderr) = tokio::try_join!(
            self.stream(task, id, "stdout", &task.stdout_path),
            self.stream(task, id, "stderr", &task.stderr_path),
        )?;
        for stream in [&stdout, &stderr] {
            logs::give_to(stream, owner);
        }
        let env_file = env::write(&task.env, &node.runtime_dir).map_err(Error::Env)?;
        env_file.path().clone_into(&mut made.env_file);
        let _promise = self.slices.prepare(&self.systemd, task).await.map_err(Error::Systemd)?;
        let unit = unit::build(task, &command, made, Streams { stdout, stderr });
        match self.systemd.start(unit).await {
            Ok(unit) => Ok(unit),
            // The driver that died had asked for it, and systemd came to it only now.
            Err(error @ systemd::Error::Exists { .. }) => {
                self.adopt(task).await?.ok_or_else(|| not_started(error, task))
            }
            Err(error) => Err(not_started(error, task)),
        }
    }

    /// systemd mounts what is missing at a unit's working directory, and means the host's (systemd.exec(5),
    /// `WorkingDirectory=`): a job may not do that.
    async fn mount_nothing_on_the_host(&self, task: &TaskSpec) -> Result<(), Error> {
        let path = &task.working_directory;
        if *path == task.view.working_directory(&task.dirs) || self.systemd.manager() == Manager::User {
            return Ok(());
        }
        match self.systemd.unmounted(path).await.map_err(Error::Systemd)? {
            Some(mount) => Err(Error::Spec(spec::Error::Refused {
                option: "work_dir".to_owned(),
                reason: format!(
                    "systemd would mount the host's file system at {} for it, which is not mounted; choose a directory below \
                     `/local`, or have the operator mount the file system",
                    mount.display()
                ),
            })),
            None => Ok(()),
        }
    }

    /// A task whose unit allows addresses reaches them whatever the operator denies in the slices above it: a job may not
    /// do that, and a guest is filtered by its runner alone.
    async fn leave_addresses_to_the_operator(
        &self,
        task: &TaskSpec,
        policy: &Policy,
        settings: &mut Vec<Assignment>,
    ) -> Result<(), Error> {
        if !settings.iter().any(|line| line.name() == "IPAddressAllow")
            || policy.allows_by_name("IPAddressAllow")
        {
            return Ok(());
        }
        let denying = Slices::that_denies_addresses(&self.systemd, task).await.map_err(Error::Systemd)?;
        match denying {
            Some(slice) if task.allows_addresses => Err(Error::Spec(spec::Error::Refused {
                option: "network.ip_address_allow".to_owned(),
                reason: format!(
                    "it would count more than the addresses that the operator of this node denies to all tasks in {slice}; \
                     the operator allows that with \"IPAddressAllow\" in `allow_properties` in the plugin's configuration"
                ),
            })),
            Some(_) => {
                settings.retain(|line| !["IPAddressAllow", "IPAddressDeny"].contains(&line.name()));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Removes a unit and all that was made for it.
    async fn remove(&self, unit: &UnitName) -> Result<(), Error> {
        self.systemd.remove(unit).await.map_err(Error::Systemd)?;
        if let Ok(node) = self.node() {
            Place::of(&node.runtime_dir, unit).remove();
        }
        self.slices.release(&self.systemd).await;
        Ok(())
    }

    /// One stream of the task. Where it shall reach two places, a copier is started for it, which ends when the last
    /// writer of the stream does.
    async fn stream(&self, task: &TaskSpec, id: &TaskId, name: &str, path: &Path) -> Result<Stream, Error> {
        if task.output.sink == Sink::Journal {
            return Ok(Stream::Journal);
        }
        let fifo = logs::open(&task.dirs.alloc_dir, path).await.map_err(Error::Logs)?;
        match (task.output.sink, fifo) {
            (Sink::Both, Stream::Fd(fifo)) => {
                let failed = |source| Error::View { directory: PathBuf::from("/proc/self"), source };
                let (reader, writer) = std::io::pipe().map_err(failed)?;
                let program = own_program().map_err(failed)?;
                let unit = spec::copier_of(id, name);
                // One that an interrupted start of this very task left would write to the same pipe.
                self.systemd.remove(&unit).await.map_err(Error::Systemd)?;
                let copier = unit::copier(unit, task, program, reader.into(), Stream::Fd(fifo));
                self.systemd.start(copier).await.map_err(Error::Systemd)?;
                Ok(Stream::Fd(writer.into()))
            }
            // Nomad's own collection is disabled.
            (Sink::Both, _) => Ok(Stream::Journal),
            (_, fifo) => Ok(fifo),
        }
    }

    /// Waits until the copiers of a task that is no more have written its last words, and ends those that do not.
    async fn end_copiers(&self, id: &TaskId) -> Result<(), Error> {
        for stream in ["stdout", "stderr"] {
            let name = spec::copier_of(id, stream);
            if let Ok(mut unit) = self.systemd.find(&name).await {
                // Late or not: what follows ends it.
                let _ = tokio::time::timeout(LAST_WORDS, unit.gone()).await;
            }
            self.systemd.remove(&name).await.map_err(Error::Systemd)?;
        }
        Ok(())
    }

    /// Removes every other run of the same task in the same allocation.
    ///
    /// An agent that died before it had noted a start asks for the task by a new id, and nobody will ever ask for the
    /// old one. Runs of this process are in the table; of those before, systemd is asked once.
    async fn remove_earlier_runs(&self, config: &TaskConfig, unit: &UnitName) -> Result<(), Error> {
        let is_earlier = |other: &UnitName| {
            other != unit && spec::is_run_of(other, &config.known.alloc_id, &config.known.name)
        };
        let earlier = self.earlier().await?.iter().filter(|other| is_earlier(other)).cloned();
        let ours: Vec<Arc<Handle>> = {
            let table = lock(&self.table);
            let live = table.values().filter_map(|slot| match slot {
                Slot::Live(handle) => Some(Arc::clone(handle)),
                Slot::Starting => None,
            });
            live.filter(|handle| is_earlier(handle.unit())).collect()
        };
        let units: HashSet<UnitName> =
            earlier.chain(ours.iter().map(|handle| handle.unit().clone())).collect();
        for unit in units {
            tracing::warn!(%unit, "removing a run of the task that nobody asks for any more");
            self.remove(&unit).await?;
        }
        for handle in ours {
            lock(&self.table).remove(handle.id());
        }
        Ok(())
    }

    /// The units of tasks that were there before this process. Compilations that died with their driver are not: they
    /// are removed.
    async fn earlier(&self) -> Result<&Vec<UnitName>, Error> {
        let ask = async || {
            let (orphans, units) = self
                .systemd
                .list(spec::UNIT_PREFIX)
                .await?
                .into_iter()
                .partition::<Vec<_>, _>(wasm::is_orphaned_compilation);
            for unit in &orphans {
                self.systemd.remove(unit).await?;
            }
            // Those that copy output among them.
            self.systemd.sweep("nomad");
            if let Ok(node) = self.node() {
                place::sweep(&node.runtime_dir, &units.iter().map(UnitName::as_str).collect());
                pin::sweep(&node.runtime_dir);
            }
            Ok(units)
        };
        self.earlier.get_or_try_init(ask).await.map_err(Error::Systemd)
    }

    /// Compiles, and tells of it if that is not done at once.
    async fn told_of_when_slow<T>(&self, compiling: impl Future<Output = T>, name: &str, known: &Known) -> T {
        let mut compiling = std::pin::pin!(compiling);
        if let Ok(code) = tokio::time::timeout(SLOW, &mut compiling).await {
            return code;
        }
        let message = format!("Compiling {name} to machine code, once for this node");
        self.events.tell(known, message, &[("module", name.to_owned())]);
        compiling.await
    }

    /// What the unit will run, and the lease of compiled code, to be kept until it does. Everything that can be known to
    /// be wrong with it is an error now.
    async fn command(
        &self,
        task: &TaskSpec,
        node: &NodeSpec,
        known: &Known,
    ) -> Result<(Command, Option<Lease>), Error> {
        match program::find(&task.command, sight_of(task, &program::mounted(task.settings(false))))
            .map_err(Error::Program)?
        {
            Program::Native(path) => {
                task.guest.check_native().map_err(Error::Spec)?;
                let carry = |_| node.wasm.shim().map_err(|source| Error::Carrier { source });
                let shim = env::carrier(&task.env).map(carry).transpose()?;
                Ok((Command::Native { path, shim }, None))
            }
            Program::Wasm { module, name } => {
                task.guest.check(task).map_err(Error::Spec)?;
                let shim = node.wasm.shim().map_err(Error::Wasm)?;
                let flags = &task.guest.flags;
                let code = self.compiler.code_of(
                    &self.systemd,
                    &node.wasm,
                    (&task.namespace, &task.job),
                    module,
                    &name,
                    flags,
                );
                let code = self.told_of_when_slow(code, &name, known).await;
                let Code { path: code, lease } = code.map_err(Error::Wasm)?;
                Ok((Command::Wasm { shim, code, name }, Some(lease)))
            }
        }
    }
}

/// After this time somebody may wonder what a task waits for.
const SLOW: Duration = Duration::from_secs(1);

/// The unit that a task would become on a machine that can do everything. Touches nothing, so what is decided by a file's
/// content is decided by its name, and paths of the host stand as the job writes them.
pub fn sketch(config: &TaskConfig, plugin: PluginConfig) -> Result<TransientUnit, Error> {
    let node = NodeSpec::resolve(plugin).map_err(Error::Spec)?;
    let features = Features::everything(node.manager);
    let task = TaskSpec::resolve(config, &node, &features, &OfEveryHost).map_err(Error::Spec)?;
    let path = program::path_in_view(&task.command, &task.view, &task.dirs);
    let is_guest =
        config.driver.wasm.is_some() || path.extension().is_some_and(|extension| extension == "wasm");
    let shim =
        node.wasm.shim().unwrap_or_else(|_| "/usr/local/libexec/nomad-driver-systemd/wasm-shim".into());
    let command = if is_guest {
        let code = node.wasm.state_dir.join("wasm/ENGINE/MODULE.cwasm");
        Command::Wasm { shim, code, name: task.command.clone() }
    } else {
        Command::Native { path, shim: env::carrier(&task.env).map(|_| shim) }
    };
    let place = Place::of(&node.runtime_dir, &task.unit);
    let settings = task.settings(is_guest).to_vec();
    let own_root = task.needs_a_root_of_its_own(&settings);
    let root = if own_root { place.root() } else { view::shared_root(&node.runtime_dir) };
    let copy = |credential: &Credential| (credential.name.clone(), place.credential_path(&credential.name));
    let of =
        |encrypted: bool| task.credentials.iter().filter(move |credential| credential.encrypted == encrypted);
    let made = Made {
        root,
        env_file: node.runtime_dir.join("env/TASK"),
        ephemeral_user: task.ephemeral_user.name().to_owned(),
        settings,
        etc: task.etc.keys().map(|name| place.etc_path(name)).collect(),
        credentials: of(false).map(copy).collect(),
        encrypted: of(true).map(copy).collect(),
        sockets: task.sockets.clone(),
        mounts: task.mounts.clone(),
        ..Made::default()
    };
    let streams = Streams { stdout: Stream::Null, stderr: Stream::Null };
    Ok(unit::build(&task, &command, made, streams))
}

/// What a task's command is looked up in.
fn sight_of<'a>(task: &'a TaskSpec, mounted: &'a [PathBuf]) -> program::Sight<'a> {
    let path = task.env.get("PATH").map(String::as_str);
    program::Sight { view: &task.view, dirs: &task.dirs, mounts: &task.mounts, path, mounted }
}

/// Makes what the task needs on the host beside its allocation.
fn make(
    place: &Place,
    task: &TaskSpec,
    node: &NodeSpec,
    is_guest: bool,
    pins: &mut Pins,
) -> Result<Made, Error> {
    let said = task.settings(is_guest);
    let missing = targets::check(&files::targets(said, task), task)
        .map_err(|error| Error::Files(files::Error::Target(error)))?;
    let settings = files::resolve(said, task, &node.policy, pins).map_err(Error::Files)?;
    let mounts = files::mounts(task, pins).map_err(Error::Files)?;
    let failed = |source| Error::View { directory: node.runtime_dir.clone(), source };
    let overlays = overlays(place, &missing, &settings, &mounts, pins)?;
    let mut root = node.wasm.root.clone();
    if matches!(task.view, View::Private { .. }) && task.needs_a_root_of_its_own(&settings) {
        root = place.root();
        place.make().map_err(failed)?;
        view::prepare(&root, &node.wasm.host_paths).map_err(failed)?;
    }
    if let Identity::Number(number) = task.identity {
        place.tell_of_user(number).map_err(failed)?;
        if users::find(&place::user_name(number)).is_none() {
            return Err(Error::Spec(spec::Error::Node {
                option: "user".to_owned(),
                reason: format!(
                    "users that Nomad makes up, such as {}, are known to the host by systemd 249 or newer and `systemd` in \
                     /etc/nsswitch.conf (package libnss-systemd); without it have the operator set \
                     `dynamic_workload_users = false`",
                    place::user_name(number)
                ),
            }));
        }
    }
    let etc = if task.etc.is_empty() { Vec::new() } else { place.etc(&task.etc).map_err(failed)? };
    let sockets = task.sockets.iter().map(|socket| files::listener(socket, task)).collect::<Result<_, _>>();
    let sockets = sockets.map_err(Error::Files)?;
    let mut made = Made { root, settings, etc, sockets, mounts, overlays, ..Made::default() };
    let mut read = 0;
    for Credential { name, path, encrypted } in &task.credentials {
        let content = files::credential(Path::new(path), read, task, &node.policy).map_err(Error::Files)?;
        read += content.len();
        let copy = (name.clone(), place.credential(name, &content).map_err(failed)?);
        if *encrypted { made.encrypted.push(copy) } else { made.credentials.push(copy) }
    }
    Ok(made)
}

/// Makes the mount points that the operating system lacks, each as what is mounted there.
fn overlays(
    place: &Place,
    missing: &targets::Missing,
    settings: &[Assignment],
    mounts: &[config::Mount],
    pins: &mut Pins,
) -> Result<view::Overlays, Error> {
    let of_settings = settings.iter().flat_map(Assignment::mount_points);
    let of_settings = of_settings.map(|(source, target)| (source.map(PathBuf::from), PathBuf::from(target)));
    let of_volumes = mounts.iter().map(|mount| (Some(mount.source.clone()), mount.target.clone()));
    let sources: HashMap<PathBuf, Option<PathBuf>> =
        of_settings.chain(of_volumes).map(|(source, target)| (target, source)).collect();
    let is_file = |point: &PathBuf| {
        let source = sources.get(point).and_then(Option::as_ref);
        source.is_some_and(|source| std::fs::metadata(source).is_ok_and(|metadata| !metadata.is_dir()))
    };
    let kinds = |points: &Vec<PathBuf>| points.iter().map(|point| (point.clone(), !is_file(point))).collect();
    let lay = |(host_path, points): (&PathBuf, &Vec<PathBuf>)| {
        let failed = |source| Error::Overlay { path: host_path.clone(), source };
        // Pins are mounts that the driver's own namespace need not have.
        let points: Vec<_> = kernel::in_the_mounts_of_systemd(|| Ok(kinds(points))).map_err(failed)?;
        let above = place.points(host_path, &points).map_err(failed)?;
        let both = pins.overlay(&above, host_path).map_err(failed)?;
        Ok((host_path.clone(), both))
    };
    missing.iter().map(lay).collect()
}

fn not_started(source: systemd::Error, task: &TaskSpec) -> Error {
    match source {
        systemd::Error::NotReady { how, said, .. } => {
            let outcome = Outcome::of(&said).filter(|_| task.guest.serves);
            let command = task.command.clone();
            let not_ready = Error::NotReady { how, serves: task.guest.serves };
            outcome.map_or(not_ready, |outcome| Error::Guest { command, outcome })
        }
        systemd::Error::Step { status, .. } => Error::SetUp { advice: advice(status, task), source },
        other => Error::Systemd(other),
    }
}

/// The driver's own binary. One that was replaced meanwhile is still there under its name, and newer.
fn own_program() -> std::io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => Ok(path.into()),
        None => Ok(path),
    }
}

/// What the author of a job can do about a step of systemd's that failed (systemd.exec(5), "Process Exit Codes").
fn advice(status: i32, task: &TaskSpec) -> String {
    match (status, &task.identity) {
        (203, _) => format!(
            "`command`: {} cannot be executed; is the interpreter after `#!` or the program's loader in the task's \
             view, and may the task's user execute it?",
            task.command
        ),
        (216 | 217, Identity::User(user)) => {
            format!(
                "`user`: this node has no user `{user}`, or it may not be used; create it or name another"
            )
        }
        (200, _) => format!(
            "`work_dir`: {} is not there in the task's view, or its user may not enter it",
            task.working_directory.display()
        ),
        (225, _) => match &task.network {
            NetworkMode::Group { namespace, .. } => {
                format!(
                    "`network`: the network namespace of the group, {}, is not there",
                    namespace.display()
                )
            }
            _ => "the task's network cannot be made".to_owned(),
        },
        (226, _) if task.view == View::Own => {
            "the root that the job names lacks a directory on which something is mounted: `/local`, `/alloc`, `/secrets`, `/dev`, \
             `/proc`, `/sys`, `/run`, `/tmp`, `/var/tmp` and the targets of binds and volumes must be there"
                .to_owned()
        }
        (226, _) => {
            format!("the task's view of the host cannot be made from {}", task.dirs.alloc_dir.display())
        }
        _ => "systemd could not set up the task's process".to_owned(),
    }
}

/// A row that is taken while a task is being started, and free again unless it was.
struct Claim {
    shared: Arc<Shared>,
    id: TaskId,
}

impl Claim {
    fn new(shared: &Arc<Shared>, id: &TaskId) -> Result<Self, Error> {
        match lock(&shared.table).entry(id.clone()) {
            Entry::Occupied(_) => Err(Error::Duplicate { id: id.clone() }),
            Entry::Vacant(row) => {
                row.insert(Slot::Starting);
                Ok(Self { shared: Arc::clone(shared), id: id.clone() })
            }
        }
    }

    fn keep(self, handle: &Arc<Handle>) {
        lock(&self.shared.table).insert(self.id.clone(), Slot::Live(Arc::clone(handle)));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = lock(&self.shared.table);
        if let Some(Slot::Starting) = table.get(&self.id) {
            table.remove(&self.id);
        }
    }
}

/// The table is never left half changed, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
