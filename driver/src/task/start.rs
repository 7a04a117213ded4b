//! The start of a task, from its configuration to a unit that is followed.

use std::fs;
use std::future;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{self, RuntimeFlavor};
use tokio::sync::Notify;

use super::Shared;
use super::advice;
use super::config::{TaskConfig, TaskId, TaskIdentity};
use super::error::{Error, not_started};
use super::host::pin::Pins;
use super::host::program::Program;
use super::host::runtime_dir::TaskRuntimeDir;
use super::host::users::HostAccounts;
use super::host::view::View;
use super::host::{dirs, env, left_files, logs, misplaced, program, resources, unseen, view};
use super::init_report::InitReport;
use super::live::events::Kind;
use super::live::handle::Handle;
use super::live::saved::Traits;
use super::spec::{self, NodeSpec, Outline, Sink, TaskKind, TaskSpec, ephemeral};
use super::turns::Turn;
use super::unit::{self, Command, ProcessStart};
use super::wasm::cache::Lease;
use super::wasm::compiler::{Code, Wanted};
use crate::systemd::{self, Features, Startable, Stream, TransientUnit, Unit, UnitName};

/// How long the lease of compiled code is kept after the start, if the runner opens the code by its path in the cache.
const LAST_LOOK: Duration = Duration::from_secs(10);

/// A compilation that takes longer is reported by an event.
const SLOW: Duration = Duration::from_secs(1);

/// Maximum number of host paths of a task that starts at the same time as others of its namespace.
const HOST_PATHS_WITHOUT_A_TURN: usize = 8;

/// The pause between two looks at what a process executes, which nobody reports.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a start continues.
enum Run {
    /// The unit that an interrupted start of this same run had created.
    Adopted(Unit),
    /// The program that a new unit will run.
    New(Program),
}

impl Shared {
    /// Starts a task. When `stopped` is notified, only a compilation that the start waits for is given up.
    pub(super) async fn start(&self, config: TaskConfig, stopped: &Notify) -> Result<Handle, Error> {
        tracing::trace!(task = %config.identity.id, "a start is requested");
        let node = self.node()?;
        self.note_agent_of(&config.identity.alloc_dir);
        let features = self.systemd.features().await?;
        if let Some(reason) = features.unsupported_reason() {
            return Err(Error::Spec(spec::Error::Node { option: "manager".to_owned(), reason }));
        }
        let (config, resolved) = {
            let (node, features) = (Arc::clone(&node), features.clone());
            // User databases may be on other machines.
            let resolve = move || {
                let resolved = resolve(&config, &node, &features);
                (config, resolved)
            };
            tokio::task::spawn_blocking(resolve).await.map_err(|_| Error::Panicked)?
        };
        let (task, program) = resolved.map_err(|error| {
            // Whatever else is wrong with the job.
            if matches!(config.identity.name.as_str(), "." | "..") {
                dirs::take_back(&config.identity.alloc_dir);
            }
            Error::Spec(error)
        })?;
        tracing::trace!(unit = %task.unit, "the job is checked");
        let run = match self.begun_before(&task).await? {
            // The program of a running unit need not exist any more.
            Some(unit) => Run::Adopted(unit),
            None => Run::New(program?),
        };
        if matches!(run, Run::New(_)) {
            self.refuse_automount(&task).await?;
        }
        let of_ports = || match task.kind {
            TaskKind::Native => advice::of_ports(&config.ports, &task.network),
            // A guest is given the port of the host.
            TaskKind::Guest(_) => None,
        };
        let advice =
            blocking(|| misplaced::advice(&task).or_else(of_ports).or_else(|| unseen::advice(&task)));
        // Nothing was changed for this task up to here.
        self.remove_earlier_runs(&config, &task.unit).await?;
        tracing::trace!(unit = %task.unit, "no earlier run is left");
        let unit = match run {
            Run::Adopted(unit) => unit,
            Run::New(program) => {
                let started = self.start_new(&task, program, &node, &config.identity, stopped).await;
                started.map_err(|error| error.with_advice(advice.as_ref()))?
            }
        };
        if let Some(advice) = advice {
            self.told_once.advise(&config.identity.id, advice);
        }
        let (systemd, events) = (self.systemd.clone(), self.events.clone());
        let handle = Handle::follow(config.identity, (unit, true), traits_of(&task), systemd, events);
        tracing::info!(unit = %handle.unit(), task = %handle.id(), pid = handle.pid(), "task started");
        Ok(handle)
    }

    /// The unit of this same run, if a driver that died meanwhile has started it: Nomad asks again with the same id,
    /// and no task is started twice.
    async fn begun_before(&self, task: &TaskSpec) -> Result<Option<Unit>, Error> {
        if !self.earlier().await?.contains(&task.unit) {
            return Ok(None);
        }
        self.adopt(task).await
    }

    pub(super) async fn adopt(&self, task: &TaskSpec) -> Result<Option<Unit>, Error> {
        match self.systemd.adopt(&task.unit, task.readiness.ready_within.unwrap_or_default()).await {
            Ok(unit) => {
                tracing::warn!(unit = %task.unit, "going on with a start that was interrupted");
                if let Ok(node) = self.node() {
                    blocking(|| TaskRuntimeDir::of(&node.runtime_dir, &task.unit).remove_credentials());
                }
                self.slices.follow(&self.systemd).await;
                Ok(Some(unit))
            }
            Err(systemd::Error::NoSuchUnit { .. }) => Ok(None),
            // Nothing of the unit remains, or it is removed as soon as systemd can be asked.
            Err(error) => {
                if let Ok(node) = self.node() {
                    blocking(|| TaskRuntimeDir::of(&node.runtime_dir, &task.unit).remove());
                }
                self.slices.release(&self.systemd).await;
                Err(not_started(error, task))
            }
        }
    }

    /// The unit of a new run.
    async fn start_new(
        &self,
        task: &TaskSpec,
        program: Program,
        node: &NodeSpec,
        identity: &TaskIdentity,
        stopped: &Notify,
    ) -> Result<Unit, Error> {
        // A compilation sees the host on this root, too.
        blocking(|| prepare_view(node))?;
        if let Ok(shim) = node.installation.shim() {
            blocking(|| program::make_unreadable(&shim));
        }
        let (command, lease) = self.command(task, program, node, identity, stopped).await?;
        tracing::trace!(unit = %task.unit, "the program is ready");
        let place = TaskRuntimeDir::of(&node.runtime_dir, &task.unit);
        let started = self.launch(&place, command, task, node, &identity.id).await;
        if started.is_ok() {
            blocking(|| place.remove_credentials());
        } else {
            blocking(|| place.remove());
            self.slices.release(&self.systemd).await;
        }
        if let (View::Host, Some(lease)) = (&task.view, lease) {
            // The runner opens the code by its path, a moment after systemd reports it as running. In other views it is
            // mounted.
            tokio::spawn(async move {
                tokio::time::sleep(LAST_LOOK).await;
                drop(lease);
            });
        }
        started
    }

    /// Creates what the unit needs on the host, and starts it.
    async fn launch(
        &self,
        place: &TaskRuntimeDir,
        command: Command,
        task: &TaskSpec,
        node: &NodeSpec,
        id: &TaskId,
    ) -> Result<Unit, Error> {
        // Each path is a mount that PID 1 sees, and mounts are copied for every unit that starts meanwhile.
        let takes_a_turn = count_host_paths(task) > HOST_PATHS_WITHOUT_A_TURN;
        let turn =
            if takes_a_turn { Some(self.turns_of_many_paths.take(&task.namespace).await) } else { None };
        let mut pins = Pins::new(&node.runtime_dir);
        let mut made = blocking(|| resources::make(place, task, node, &mut pins))?;
        self.drop_or_refuse_addresses(task, &node.policy, &mut made.settings).await?;
        let (mut owner, mut ephemeral_user) = (task.uid, String::new());
        if task.identity == spec::Identity::Ephemeral {
            let taken = self.systemd.ephemeral_users().await?;
            let before = blocking(|| left_files::owner(&task.dirs));
            ephemeral_user = task.ephemeral_user.choose(&taken, before);
            owner = Some(ephemeral::number_of(&ephemeral_user));
        }
        tracing::trace!(unit = %task.unit, "files and mount sources are made");
        let (stdout, stderr) = tokio::try_join!(
            self.stream(task, id, "stdout", &task.stdout_path),
            self.stream(task, id, "stderr", &task.stderr_path),
        )?;
        for stream in [&stdout, &stderr] {
            logs::give_to(stream, owner);
        }
        let env_file = blocking(|| env::write(&task.env, &node.runtime_dir))?;
        tracing::trace!(unit = %task.unit, "output and variables are open");
        let _promise = self.slices.prepare(&self.systemd, task).await?;
        let (report, stdin) = match task.kind {
            TaskKind::Native => {
                let (report, stdin) = InitReport::new()
                    .map_err(|source| Error::Connection { to: "the task's init", source })?;
                (Some((report, command.program.display().to_string())), stdin)
            }
            TaskKind::Guest(_) => (None, Stream::Null),
        };
        let env_path = env_file.path().to_owned();
        let begin = ProcessStart { ephemeral_user, env_file: env_path, stdin, stdout, stderr };
        let unit = unit::build(task, &command, made, begin);
        tracing::trace!(unit = %task.unit, "the unit is described");
        // Both are held until the mounts are made, or the start is over.
        match self.start_unit(unit, report, (pins, turn)).await {
            // The driver that died had requested it, and systemd has only now processed the request.
            Err(error @ systemd::Error::Exists { .. }) => {
                self.adopt(task).await?.ok_or_else(|| not_started(error, task))
            }
            started => started.map_err(|error| not_started(error, task)),
        }
    }

    /// Starts the unit, and has the init of a native program, if there is one, report that the program runs. `held` is
    /// dropped as soon as the process has its mounts: a task may wait long until it is ready.
    async fn start_unit(
        &self,
        unit: TransientUnit,
        report: Option<(InitReport, String)>,
        held: (Pins, Option<Turn>),
    ) -> Result<Unit, systemd::Error> {
        let (name, startable) = (unit.name.clone(), Startable::new(unit)?);
        // Where it has reloaded, systemd may start the process a second time, which needs the mounts again.
        let (is_final, has_reloaded) = (!startable.may_start_again(), self.systemd.watch_reloads());
        let has_mounts = async {
            match &report {
                Some((report, _)) => report.arrived().await,
                None => self.runs_shim(&name).await,
            }
        };
        let mut start = std::pin::pin!(self.systemd.run(startable));
        let started = tokio::select! {
            started = &mut start => started,
            () = has_mounts => {
                tracing::trace!(unit = %name, "the program runs");
                let mut needed = Some(held);
                if is_final || !has_reloaded() {
                    blocking(|| drop(needed.take()));
                }
                let started = start.await;
                drop(needed);
                started
            }
        };
        match &started {
            Ok(_) => tracing::trace!(unit = %name, "systemd has started the unit"),
            Err(error) => tracing::trace!(unit = %name, %error, "systemd has not started the unit"),
        }
        let Some((report, program)) = report else { return started };
        match started {
            Ok(unit) => match report.failure_of(&unit, &program).await {
                None => Ok(unit),
                Some(failure) => {
                    self.systemd.remove_eventually(unit.name()).await;
                    Err(failure)
                }
            },
            Err(error @ systemd::Error::Exists { .. }) => Err(error),
            Err(error) => Err(report.failure_so_far(&name, &program).unwrap_or(error)),
        }
    }

    /// Waits until the main process of the unit is wasm-shim: until then it is systemd's, which makes the mounts.
    async fn runs_shim(&self, unit: &UnitName) {
        let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        let shim =
            self.node().ok().and_then(|node| node.installation.shim().ok()).and_then(|path| inode(&path));
        let Some(shim) = shim else { return future::pending().await };
        let process = self.systemd.main_process(unit).await;
        let program = PathBuf::from(format!("/proc/{process}/exe"));
        while inode(&program) != Some(shim) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Compiles, and reports it by an event if it takes long.
    async fn told_of_when_slow<T>(
        &self,
        compiling: impl Future<Output = T>,
        name: &str,
        identity: &TaskIdentity,
    ) -> T {
        let mut compiling = std::pin::pin!(compiling);
        if let Ok(code) = tokio::time::timeout(SLOW, &mut compiling).await {
            return code;
        }
        let message = format!(
            "Compiling {name} to machine code, once for this node (modules of other tasks may come first)"
        );
        self.events.tell(identity, Kind::Compiling, message, &[("module", name.to_owned())]);
        compiling.await
    }

    /// The command of the unit, and the lease of compiled code, which must be kept until the command runs.
    async fn command(
        &self,
        task: &TaskSpec,
        program: Program,
        node: &NodeSpec,
        identity: &TaskIdentity,
        stopped: &Notify,
    ) -> Result<(Command, Option<Lease>), Error> {
        match program {
            Program::Native { path, own } => {
                let shim = node.installation.shim().map_err(|source| Error::Init { source })?;
                blocking(|| program::make_executable(&path, own.as_ref()))?;
                Ok((Command::native(shim, path, task), None))
            }
            Program::Wasm { module, name } => {
                let shim = node.installation.shim().map_err(|missing| Error::Wasm(missing.into()))?;
                let wanted = Wanted {
                    namespace: &task.namespace,
                    job: &task.job,
                    name: &name,
                    flags: task.guest().map_or(&[], |guest| guest.flags.as_slice()),
                    serves: task.serves(),
                    stopped,
                };
                let code = self.compiler.code_of(&self.systemd, &node.installation, module, wanted);
                let code = self.told_of_when_slow(code, &name, identity).await;
                let Code { path: program, lease } = code?;
                Ok((Command { shim, program, name }, Some(lease)))
            }
        }
    }
}

fn traits_of(task: &TaskSpec) -> Traits {
    Traits {
        copied: task.output.sink == Sink::Both,
        listens: !task.sockets.is_empty(),
        speaks: task.speaks(),
        serves: task.serves(),
        guest: task.guest().is_some(),
        init: task.kind == TaskKind::Native,
    }
}

/// The task of a job on this node, and its program, which need not exist any more if the task runs.
fn resolve(
    config: &TaskConfig,
    node: &NodeSpec,
    features: &Features,
) -> Result<(TaskSpec, Result<Program, program::Error>), spec::Error> {
    let outline = Outline::resolve(config, node, features, &HostAccounts)?;
    let program = outline.find_program();
    let kind = program.as_ref().map_or_else(|_| outline.presumed_kind(), Program::kind);
    Ok((TaskSpec::resolve(outline, kind)?, program))
}

/// Makes the root on which tasks, and the compiler of guests, see the host.
pub(super) fn prepare_view(node: &NodeSpec) -> Result<(), Error> {
    let what = "the root of the tasks' view of the host";
    let made = view::prepare(&node.installation.root, &node.installation.host_paths);
    made.map_err(|source| Error::Make { what, directory: node.runtime_dir.clone(), source })
}

/// Number of host paths that are pinned for the start of the task.
fn count_host_paths(task: &TaskSpec) -> usize {
    let of_settings = task.settings.iter().map(|line| line.host_paths().len());
    of_settings.chain([task.mounts.len()]).sum()
}

/// Runs work that may wait for a file system, and moves this thread's other work to another thread.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match runtime::Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        // The runtime has no other thread.
        _ => work(),
    }
}
