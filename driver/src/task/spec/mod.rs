//! The meaning of a configuration: decides, once and before anything is touched, what a task will be.

pub mod activation;
mod checks;
pub mod ephemeral;
mod etc_files;
mod exec_directories;
pub(crate) mod identity;
mod names;
mod node;
mod outline;
mod output;
mod resources;

use std::collections::BTreeMap;
use std::path::PathBuf;

use self::activation::{Listener, Readiness};
use self::checks::check_preset;
use self::ephemeral::{EphemeralUser, Sharing};
use self::etc_files::etc;
pub use self::identity::Identity;
pub(crate) use self::names::digest;
use self::names::unit_name;
pub use self::names::{UNIT_PREFIX, copier_of, is_run_of, unit_of};
pub use self::node::NodeSpec;
pub use self::outline::Outline;
pub use self::output::{ALLOC_DIR_FIELD, Output, Sink};
use self::resources::cpu_weight;
pub use self::resources::{Memory, mebibytes};
use crate::systemd::{Assignment, Manager, UnitName, one_line};
use crate::task::config::{Credential, Device, Mount, NetworkMode, Resources, Sandbox, TaskConfig};
use crate::task::host::dirs::TaskDirs;
use crate::task::host::program::{self, ProgramKind};
use crate::task::host::view::View;
pub use crate::task::refusal::Error;
use crate::task::sandbox::effective::{self, EffectiveSettings};
use crate::task::sandbox::preset::Preset;
use crate::task::sandbox::privilege::{Facts, Standing};
use crate::task::wasm::guest::{self, Guest};

/// A task that can be started.
#[derive(Clone)]
pub struct TaskSpec {
    /// Name of the task's unit.
    pub unit: UnitName,
    /// Description of the unit, for people who list units.
    pub description: String,
    /// Nomad's namespace of the job, for example `default`.
    pub namespace: String,
    /// The job's name.
    pub job: String,
    /// The task's ephemeral user, if it has one.
    pub ephemeral_user: EphemeralUser,
    /// The user that the task runs as.
    pub identity: Identity,
    /// UID of that user, as far as it is one of the host's.
    pub uid: Option<u32>,
    /// The task's view of the host.
    pub view: View,
    /// The task's directories.
    pub dirs: TaskDirs,
    /// Working directory, in the task's view.
    pub working_directory: PathBuf,
    /// The job's `command`.
    pub command: String,
    /// The job's `args`.
    pub args: Vec<String>,
    /// The complete environment of the task.
    pub env: BTreeMap<String, String>,
    /// Where the task's output goes.
    pub output: Output,
    /// Nomad's FIFO for the task's stdout.
    pub stdout_path: PathBuf,
    /// Nomad's FIFO for the task's stderr.
    pub stderr_path: PathBuf,
    /// CPU weight, 1 to 10000.
    pub cpu_weight: u64,
    /// Cores that are reserved for the task, such as `0,3`.
    pub cores: Option<String>,
    /// The task's memory.
    pub memory: Memory,
    /// Volumes, and mounts of device plugins.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// The task's network.
    pub network: NetworkMode,
    /// Files of the task's own in `/etc`, by name.
    pub etc: BTreeMap<&'static str, String>,
    /// Files passed as credentials.
    pub credentials: Vec<Credential>,
    /// Sockets that are opened before the task starts.
    pub sockets: Vec<Listener>,
    /// What the task reports about itself.
    pub readiness: Readiness,
    /// Kind of the task.
    pub kind: TaskKind,
    /// The job sets which addresses the task may reach.
    pub allows_addresses: bool,
    /// The effective systemd properties.
    pub settings: Vec<Assignment>,
    /// The task is root and confined for that, or such a task may be in its group, to which it could pass a directory:
    /// files that only root may read are not in its view.
    pub hides_root_only_files: bool,
}

/// What runs the program of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskKind {
    /// The kernel.
    Native,
    /// wasm-shim, with these grants.
    Guest(Guest),
}

impl TaskSpec {
    /// The task of a job whose program is of this `kind`.
    pub fn resolve(outline: Outline<'_>, kind: ProgramKind) -> Result<Self, Error> {
        let Outline { config, node, .. } = outline;
        let Resources { cpu_shares, memory_mb, memory_max_mb, cores } = &config.resources;
        let memory = Memory::resolve(*memory_mb, *memory_max_mb);
        let readiness = activation::readiness(config)?;
        let kind = TaskKind::resolve(kind, &outline, &readiness, memory)?;
        let targets = program::mounted(&outline.requested);
        let etc = etc(config, &config.driver.extra_hosts, &targets)?;
        let output = Output::resolve(config, node)?;
        let EffectiveSettings { lines: settings, is_confined_root } =
            settings(&outline, &kind, &readiness, etc.get("resolv.conf"))?;
        Ok(Self {
            unit: unit_name(&config.identity.alloc_id, &config.identity.name, &config.identity.id),
            description: description(config),
            namespace: config.namespace.clone(),
            job: config.job_name.clone(),
            ephemeral_user: EphemeralUser::of(config, node.ephemeral_user),
            identity: outline.identity,
            uid: outline.user.map(|user| user.uid),
            view: outline.view,
            dirs: outline.dirs,
            working_directory: outline.working_directory,
            command: config.driver.command.clone(),
            args: config.driver.args.clone(),
            env: outline.env,
            output,
            stdout_path: config.stdout_path.clone(),
            stderr_path: config.stderr_path.clone(),
            cpu_weight: cpu_weight(*cpu_shares),
            cores: (!cores.is_empty()).then(|| cores.clone()),
            memory,
            mounts: config.mounts.clone(),
            devices: config.devices.clone(),
            network: config.network.clone(),
            etc,
            credentials: config.driver.credential.clone(),
            sockets: outline.sockets,
            readiness,
            kind,
            allows_addresses: outline.requested.iter().any(|line| line.name() == "IPAddressAllow"),
            settings,
            hides_root_only_files: is_confined_root || node.policy.confines_root(),
        })
    }

    /// Would systemd have to create mount points in the task's root?
    pub fn needs_a_root_of_its_own(&self, settings: &[Assignment]) -> bool {
        !self.mounts.is_empty() || settings.iter().any(|line| !line.mount_points().is_empty())
    }

    /// Where the task's command is looked up, if nobody knows what is mounted for the task.
    pub fn surroundings(&self) -> program::Surroundings<'_> {
        program::Surroundings {
            view: &self.view,
            dirs: &self.dirs,
            mounts: &self.mounts,
            path: self.env.get("PATH").map(String::as_str),
            mounted: &[],
        }
    }

    /// Does the program send messages to systemd itself: has the job a `notify` block, and is the task not a guest?
    pub fn speaks(&self) -> bool {
        self.kind.speaks(&self.readiness)
    }

    /// The grants of a guest.
    pub fn guest(&self) -> Option<&Guest> {
        match &self.kind {
            TaskKind::Native => None,
            TaskKind::Guest(guest) => Some(guest),
        }
    }

    /// Is the task a guest that serves?
    pub fn serves(&self) -> bool {
        self.guest().is_some_and(|guest| guest.serves)
    }
}

impl TaskKind {
    fn resolve(
        kind: ProgramKind,
        outline: &Outline<'_>,
        readiness: &Readiness,
        memory: Memory,
    ) -> Result<Self, Error> {
        let Outline { config, view, dirs, working_directory, env, .. } = outline;
        match kind {
            ProgramKind::Native => {
                guest::check_native(config)?;
                Ok(Self::Native)
            }
            ProgramKind::Wasm => {
                let guest = Guest::resolve(config, view, dirs, working_directory, env, memory.ceiling)?;
                guest.check(readiness.speaks, readiness.all, env)?;
                Ok(Self::Guest(guest))
            }
        }
    }

    fn speaks(&self, readiness: &Readiness) -> bool {
        readiness.speaks && matches!(self, Self::Native)
    }
}

/// The effective systemd properties of a task of this `kind`, whose own `/etc/resolv.conf` is `resolver`, if it has one.
fn settings(
    outline: &Outline<'_>,
    kind: &TaskKind,
    readiness: &Readiness,
    resolver: Option<&String>,
) -> Result<EffectiveSettings, Error> {
    let Outline { config, node, features, view, identity, user, requested, .. } = outline;
    // A job that names a preset gets that one, whatever it runs; a guest has the network that it is granted with each.
    let (usual, fence) = match kind {
        TaskKind::Native => (node.preset, Vec::new()),
        TaskKind::Guest(guest) => {
            (Preset::Wasm, guest.fence(&config.network, view, resolver, &node.policy, features)?)
        }
    };
    let preset = preset(config, usual, node)?.unwrap_or(usual);
    let standing = identity.standing(user.as_ref());
    let requested_user = user.as_ref().filter(|_| standing == Standing::Named && !config.user.is_empty());
    let facts = Facts {
        standing,
        requested_uid: requested_user.map(|user| user.uid),
        is_ephemeral: *identity == Identity::Ephemeral,
        speaks: kind.speaks(readiness),
        view,
        network: &config.network,
    };
    let EffectiveSettings { lines, is_confined_root } =
        effective::effective(preset, &fence, requested, config, &facts, &node.policy, features)?;
    // A user's systemd creates directories below that user's own.
    let lines = match node.manager {
        Manager::System => {
            let group = EphemeralUser::of(config, Sharing::Group);
            // Directories of one user do not become those of another user, who may be root.
            let uid = user.as_ref().map(|user| user.uid);
            let owner = uid.map_or_else(|| group.name().to_owned(), |uid| format!("{}-{uid}", group.name()));
            exec_directories::of_group(lines, &owner)?
        }
        Manager::User => lines,
    };
    Ok(EffectiveSettings { lines, is_confined_root })
}

/// The description that systemctl shows next to the name of the unit.
fn description(config: &TaskConfig) -> String {
    one_line(&format!("Nomad: {}/{}/{}", config.job_name, config.group_name, config.identity.name))
}

/// The preset that the job names instead of the `usual` one, if it is allowed.
fn preset(config: &TaskConfig, usual: Preset, node: &NodeSpec) -> Result<Option<Preset>, Error> {
    let preset = match config.driver.sandbox.as_ref().and_then(Sandbox::preset) {
        Some(name) => Some(Preset::parse(name).map_err(|wanted| Error::Option {
            option: "sandbox.preset",
            value: name.to_owned(),
            wanted,
        })?),
        None => None,
    };
    if let Some(preset) = preset {
        check_preset(preset, usual, node)?;
    }
    Ok(preset)
}
