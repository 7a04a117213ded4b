//! ROOM 2: what a task is. No gRPC and no D-Bus here.
//!
//! ```text
//!   TaskConfig ──► TaskSpec ──► Program ──► TransientUnit ──► Handle
//!   said           meant        found       told systemd      followed
//!   config.rs      spec.rs      program.rs  unit.rs           handle.rs
//!                               wasm.rs     view.rs env.rs logs.rs
//! ```
//!
//! [`Tasks`] is the table of live tasks, by Nomad's ids, and the only way to make, find and remove one.

pub mod config;
pub mod env;
pub mod handle;
pub mod logs;
pub mod options;
pub mod program;
pub mod signal;
pub mod spec;
pub mod unit;
pub mod view;
pub mod wasm;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::OnceCell;

pub use handle::{Exit, Handle, Phase, Saved};

use self::config::{PluginConfig, TaskConfig, TaskId};
use self::program::Program;
use self::signal::Signal;
use self::spec::{Identity, NodeSpec, TaskSpec};
use self::unit::{Command, Streams};
use self::view::View;
use crate::systemd::{self, Systemd, Unit, UnitName};

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
    /// The shared root cannot be made.
    #[error("prepare the tasks' view of the host in {}", view::RUNTIME_DIR)]
    View {
        /// What the kernel said.
        source: std::io::Error,
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
        "processes of unit {unit} do not end, not even by SIGKILL; they may wait for a device (`systemctl status`)"
    )]
    Immortal {
        /// The unit.
        unit: UnitName,
    },
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
            Self::Logs(logs::Error::NoReader { .. }) | Self::View { .. } => true,
            Self::Env(error) => matches!(error, env::Error::Write { .. }),
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
    table: Mutex<HashMap<TaskId, Slot>>,
    /// Units of tasks that were there before this process: some will be recovered, the others are nobody's.
    earlier: OnceCell<Vec<UnitName>>,
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
            table: Mutex::default(),
            earlier: OnceCell::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes the operator's configuration; refuses values that have no meaning.
    pub fn configure(&self, config: PluginConfig) -> Result<(), Error> {
        let node = NodeSpec::resolve(config).map_err(Error::Spec)?;
        *self.shared.node.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(node));
        Ok(())
    }

    /// Do tasks see the host as it is?
    pub fn see_the_host(&self) -> bool {
        self.node().is_ok_and(|node| node.view == View::Host)
    }

    /// Can WebAssembly be run here?
    pub fn can_run_wasm(&self) -> bool {
        self.node().is_ok_and(|node| node.wasm.shim().is_ok())
    }

    /// Starts a task, whoever asks for it waits or not: once begun, a start is finished or undone.
    pub async fn start(&self, config: TaskConfig) -> Result<Arc<Handle>, Error> {
        let this = self.clone();
        let claim = Claim::new(&self.shared, &config.id)?;
        let id = config.id.clone();
        let started = tokio::spawn(async move {
            let handle = Arc::new(this.shared.start(config).await?);
            claim.keep(&handle);
            Ok(handle)
        });
        started.await.unwrap_or(Err(Error::Unknown { id }))
    }

    /// Finds a task that an earlier process of the driver started. One that we follow already is fine.
    pub async fn recover(&self, id: TaskId, name: String, saved: Saved) -> Result<(), Error> {
        if let Some(Slot::Live(_)) = lock(&self.shared.table).get(&id) {
            return Ok(());
        }
        let claim = Claim::new(&self.shared, &id)?;
        if saved.boot_id != handle::boot_id() {
            return Err(Error::Lost { id, reason: "the machine was booted since it was started" });
        }
        let unit = self.shared.systemd.find(&UnitName::known(&saved.unit)).await.map_err(Error::Systemd)?;
        if unit.state().invocation != saved.invocation {
            return Err(Error::Lost { id, reason: "its unit was started again by somebody else" });
        }
        let handle = Arc::new(Handle::follow(id, name, unit, self.shared.systemd.clone()));
        tracing::info!(unit = %handle.unit(), task = %handle.id(), "found a task again");
        claim.keep(&handle);
        Ok(())
    }

    /// The live task of that id.
    pub fn get(&self, id: &TaskId) -> Result<Arc<Handle>, Error> {
        match lock(&self.shared.table).get(id) {
            Some(Slot::Live(handle)) => Ok(Arc::clone(handle)),
            _ => Err(Error::Unknown { id: id.clone() }),
        }
    }

    /// Ends a task. One that nobody knows has ended already, which is all the caller wants.
    pub async fn stop(&self, id: &TaskId, signal: &str, patience: Duration) -> Result<(), Error> {
        let signal = match signal {
            "" => Signal::INT,
            name => Signal::parse(name).map_err(Error::Signal)?,
        };
        match self.get(id) {
            Ok(handle) => handle.stop(signal, patience).await,
            Err(_) => Ok(()),
        }
    }

    /// Sends a signal to a task.
    pub async fn signal(&self, id: &TaskId, signal: &str) -> Result<(), Error> {
        let signal = Signal::parse(signal).map_err(Error::Signal)?;
        self.get(id)?.signal(signal).await
    }

    /// Forgets a task and removes all that is left of it, also one that this process never saw.
    pub async fn destroy(&self, id: &TaskId, force: bool) -> Result<(), Error> {
        let unit = match self.get(id) {
            Ok(handle) => {
                if handle.phase() == Phase::Running {
                    if !force {
                        return Err(Error::StillRunning { id: id.clone() });
                    }
                    handle.kill().await?;
                }
                handle.unit().clone()
            }
            Err(_) => spec::unit_of(id),
        };
        self.shared.systemd.remove(&unit).await.map_err(Error::Systemd)?;
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
                    .map_err(|_| Error::View { source: std::io::ErrorKind::Other.into() })?;
                NodeSpec::resolve(defaults).map(Arc::new).map_err(Error::Spec)
            },
            Ok,
        )
    }

    async fn start(&self, config: TaskConfig) -> Result<Handle, Error> {
        let node = self.node()?;
        let task = TaskSpec::resolve(&config, &node).map_err(Error::Spec)?;
        self.remove_earlier_runs(&config, &task.unit).await?;
        view::prepare(&node.wasm.host_paths).map_err(|source| Error::View { source })?;
        let command = self.command(&task, &node).await?;
        let (stdout, stderr) = tokio::try_join!(
            logs::open(&task.dirs.alloc_dir, &task.stdout_path),
            logs::open(&task.dirs.alloc_dir, &task.stderr_path),
        )
        .map_err(Error::Logs)?;
        let env_file = env::write(&task.env).map_err(Error::Env)?;
        let unit = self.start_unit(&task, &command, env_file.path(), Streams { stdout, stderr }).await?;
        let handle = Handle::follow(config.id, config.name, unit, self.systemd.clone());
        tracing::info!(unit = %handle.unit(), task = %handle.id(), pid = handle.pid(), "task started");
        Ok(handle)
    }

    /// Removes every other run of the same task in the same allocation.
    ///
    /// An agent that died before it had noted a start asks for the task by a new id, and nobody will ever ask for the
    /// old one. Runs of this process are in the table; of those before, systemd is asked once.
    async fn remove_earlier_runs(&self, config: &TaskConfig, unit: &UnitName) -> Result<(), Error> {
        let is_earlier =
            |other: &UnitName| other != unit && spec::is_run_of(other, &config.alloc_id, &config.name);
        let earlier = self.earlier.get_or_try_init(|| self.systemd.list(spec::UNIT_PREFIX)).await;
        let earlier = earlier.map_err(Error::Systemd)?.iter().filter(|other| is_earlier(other)).cloned();
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
            self.systemd.remove(&unit).await.map_err(Error::Systemd)?;
        }
        for handle in ours {
            lock(&self.table).remove(handle.id());
        }
        Ok(())
    }

    /// What the unit will run. Everything that can be known to be wrong with it is an error now.
    async fn command(&self, task: &TaskSpec, node: &NodeSpec) -> Result<Command, Error> {
        match program::find(&task.command, &task.view, &task.dirs).map_err(Error::Program)? {
            Program::Native(path) => Ok(Command::Native(path)),
            Program::Wasm { module, name } => {
                let shim = node.wasm.shim().map_err(Error::Wasm)?;
                let code = self.compiler.code_of(&self.systemd, &node.wasm, module, &name).await;
                Ok(Command::Wasm { shim, code: code.map_err(Error::Wasm)?, name })
            }
        }
    }

    async fn start_unit(
        &self,
        task: &TaskSpec,
        command: &Command,
        env_file: &Path,
        streams: Streams,
    ) -> Result<Unit, Error> {
        let spare = streams.try_clone().map_err(|source| Error::View { source })?;
        let started = match self.systemd.start(unit::build(task, command, env_file, streams)).await {
            // A driver that died while it started this very task left its unit behind; Nomad asks again by the same id.
            Err(systemd::Error::Exists { unit }) => {
                tracing::warn!(%unit, "removing what an interrupted start left behind");
                self.systemd.remove(&unit).await.map_err(Error::Systemd)?;
                self.systemd.start(unit::build(task, command, env_file, spare)).await
            }
            other => other,
        };
        started.map_err(|source| match source {
            systemd::Error::Step { status, .. } => Error::SetUp { advice: advice(status, task), source },
            other => Error::Systemd(other),
        })
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
        (200, _) => "the task's working directory cannot be entered by its user".to_owned(),
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
