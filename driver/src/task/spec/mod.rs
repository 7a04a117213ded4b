//! The meaning of a configuration: decides, once and before anything is touched, what a task will be.

pub mod activation;
mod checks;
pub mod ephemeral;
mod etc_files;
mod exec_directories;
pub(crate) mod identity;
mod names;
mod node;
mod output;
mod resources;

use self::checks::{check_credentials, check_node, check_notify, check_preset, check_sockets};
use self::etc_files::etc;
pub(crate) use self::names::digest;
pub use self::names::{UNIT_PREFIX, copier_of, is_run_of, unit_of};
use self::names::{is_file_name, unit_name};
pub use self::node::NodeSpec;
pub use self::output::{ALLOC_DIR_FIELD, Output, Sink};
use self::resources::cpu_weight;
pub use self::resources::{Memory, mebibytes};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::systemd::{Assignment, Features, Manager, Role, UnitName, one_line};
use crate::task::config::{
    Credential, Device, DriverConfig, Mount, NetworkMode, Resources, Sandbox, TaskConfig,
};
use crate::task::host::dirs::TaskDirs;
use crate::task::host::env;
use crate::task::host::program::{self, Program, ProgramKind};
use crate::task::host::users::Accounts;
use crate::task::host::view::{PLAIN_PATH, View, is_plain};
pub use crate::task::refusal::Error;
use crate::task::refusal::check_length;
use crate::task::sandbox::effective::{self, EffectiveSettings};
use crate::task::sandbox::preset::Preset;
use crate::task::sandbox::privilege::{Facts, Standing};
use crate::task::sandbox::requested;
use crate::task::spec::activation::{Listener, Readiness};
use crate::task::spec::ephemeral::{EphemeralUser, Sharing};
pub use crate::task::spec::identity::Identity;
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
    /// WASI grants of the task.
    pub guest: Guest,
    /// The job sets which addresses the task may reach.
    pub allows_addresses: bool,
    /// Kind of the task's program.
    pub kind: ProgramKind,
    /// The effective systemd properties.
    pub settings: Vec<Assignment>,
    /// The task is root and confined for that, or such a task may be in its group, to which it could pass a directory:
    /// files that only root may read are not in its view.
    pub hides_root_only_files: bool,
}

/// A task of which everything is known except the kind of its program, and so its sandbox.
pub struct Outline {
    /// The task, without its kind and its settings.
    task: TaskSpec,
    /// The systemd properties that the job requests.
    requested: Vec<Assignment>,
    preset: Option<Preset>,
    standing: Standing,
    /// UID of the user that the job names.
    requested_uid: Option<u32>,
}

impl TaskSpec {
    /// Would systemd have to create mount points in the task's root?
    pub fn needs_a_root_of_its_own(&self, settings: &[Assignment]) -> bool {
        !self.mounts.is_empty() || settings.iter().any(|line| !line.mount_points().is_empty())
    }

    /// Where the task's command is looked up. Only systemd will know the content of the `mounted` paths.
    pub fn surroundings<'a>(&'a self, mounted: &'a [PathBuf]) -> program::Surroundings<'a> {
        let path = self.env.get("PATH").map(String::as_str);
        program::Surroundings { view: &self.view, dirs: &self.dirs, mounts: &self.mounts, path, mounted }
    }

    /// Does the program send messages to systemd itself: has the job a `notify` block, and is the task not a guest?
    pub fn speaks(&self) -> bool {
        self.readiness.speaks && !self.is_guest()
    }

    /// Is the task WebAssembly?
    pub fn is_guest(&self) -> bool {
        self.kind == ProgramKind::Wasm
    }
}

/// Does this node allow what the blocks of the job request?
fn check_blocks(config: &TaskConfig, node: &NodeSpec, features: &Features) -> Result<(), Error> {
    // Every option is listed here, so that the compiler rejects a new option that is not handled.
    #[rustfmt::skip]
    let DriverConfig {
        command, args, credential,
        // See `requested::requested`.
        cap_add: _, cap_drop: _, files: _, group: _, hostname: _, limits: _, network: _, properties: _, sandbox: _,
        supplementary_groups: _, ulimit: _,
        // See `Outline::resolve`, `Output`, `activation` and `Guest`.
        extra_hosts: _, work_dir: _, logging: _, socket: _, notify: _, wasm: _,
    } = &config.driver;
    check_length("command", command)?;
    args.iter().try_for_each(|arg| check_length("args", arg))?;
    check_node(config, features)?;
    check_credentials(credential, node)?;
    check_notify(config, node)?;
    check_sockets(config, node, features)
}

/// The description that systemctl shows next to the name of the unit.
fn description(config: &TaskConfig) -> String {
    one_line(&format!("Nomad: {}/{}/{}", config.job_name, config.group_name, config.identity.name))
}

/// The view of a task whose job sets these properties.
fn view(requested: &[Assignment], node: &NodeSpec) -> Result<View, Error> {
    if !requested.iter().any(|line| line.role().is_some_and(Role::is_root)) {
        return Ok(node.view.clone());
    }
    if node.view == View::Host {
        return Err(Error::Refused {
            option: "files".to_owned(),
            reason: "a root of its own needs `fs_isolation = \"image\"` in the plugin's configuration"
                .to_owned(),
        });
    }
    Ok(View::Own)
}

impl Outline {
    /// The meaning of `config` on this node, whose users and groups `accounts` knows; looking them up may take long.
    pub fn resolve(
        config: &TaskConfig,
        node: &NodeSpec,
        features: &Features,
        accounts: &dyn Accounts,
    ) -> Result<Self, Error> {
        node.policy.check_given(&config.given)?;
        let DriverConfig { command, args, work_dir, extra_hosts, credential, .. } = &config.driver;
        let sockets = activation::listeners(config)?;
        check_blocks(config, node, features)?;
        let dirs = directories(config)?;
        let working_directory = working_directory(work_dir.as_deref(), node, &dirs)?;
        let Resources { cpu_shares, memory_mb, memory_max_mb, cores } = &config.resources;
        let (identity, user) = Identity::of(config, node, accounts)?;
        let env = environment(config, node, &sockets, identity == Identity::Ephemeral)?;
        let requested = requested::requested(&config.driver, &node.view, &node.policy, features)?;
        identity::check_groups(&requested, user.as_ref(), config, node, accounts)?;
        let requested: Vec<Assignment> = requested.into_iter().map(|(_, line)| line).collect();
        let allows_addresses = requested.iter().any(|line| line.name() == "IPAddressAllow");
        let standing = identity.standing(user.as_ref());
        let preset = preset(config, node)?;
        let view = view(&requested, node)?;
        let memory = Memory::resolve(*memory_mb, *memory_max_mb);
        let etc = etc(config, extra_hosts)?;
        let guest = Guest::resolve(config, &view, &dirs, &working_directory, &env, memory.ceiling)?;
        let readiness = activation::readiness(config)?;
        let requested_uid = user.as_ref().filter(|_| standing == Standing::Named && !config.user.is_empty());
        let requested_uid = requested_uid.map(|user| user.uid);
        let task = TaskSpec {
            unit: unit_name(&config.identity.alloc_id, &config.identity.name, &config.identity.id),
            description: description(config),
            namespace: config.namespace.clone(),
            job: config.job_name.clone(),
            ephemeral_user: EphemeralUser::of(config, node.ephemeral_user),
            identity,
            uid: user.map(|user| user.uid),
            view,
            dirs,
            working_directory,
            command: command.clone(),
            args: args.clone(),
            env,
            output: Output::resolve(config, node)?,
            stdout_path: config.stdout_path.clone(),
            stderr_path: config.stderr_path.clone(),
            cpu_weight: cpu_weight(*cpu_shares),
            cores: (!cores.is_empty()).then(|| cores.clone()),
            memory,
            mounts: config.mounts.clone(),
            devices: config.devices.clone(),
            network: config.network.clone(),
            etc,
            credentials: credential.clone(),
            sockets,
            readiness,
            guest,
            allows_addresses,
            kind: ProgramKind::Native,
            settings: Vec::new(),
            hides_root_only_files: false,
        };
        Ok(Self { task, requested, preset, standing, requested_uid })
    }

    /// The program of the task's `command`.
    pub fn find_program(&self) -> Result<Program, program::Error> {
        // Only systemd will know what the mounts of the job contain.
        let mounted = program::mounted(&self.requested);
        program::find(&self.task.command, self.task.surroundings(&mounted))
    }

    /// The most probable kind of a program that does not exist any more.
    pub fn presumed_kind(&self) -> ProgramKind {
        if self.task.guest.check_native().is_ok() { ProgramKind::Native } else { ProgramKind::Wasm }
    }

    /// The task, now that its program is known to be of this `kind`.
    pub fn with_program(
        self,
        kind: ProgramKind,
        config: &TaskConfig,
        node: &NodeSpec,
        features: &Features,
    ) -> Result<TaskSpec, Error> {
        let Self { task, requested, preset, standing, requested_uid } = self;
        let is_guest = kind == ProgramKind::Wasm;
        if is_guest {
            task.guest.check(task.readiness.speaks, task.readiness.all, &task.env)?;
        } else {
            task.guest.check_native()?;
        }
        let usual = if is_guest { Preset::Wasm } else { node.preset };
        // A job that names a preset gets that one, whatever it runs.
        let fence = if is_guest && preset.is_none() {
            let resolver = task.etc.get("resolv.conf");
            task.guest.fence(&config.network, &task.view, resolver, &node.policy, features)?
        } else {
            Vec::new()
        };
        let facts = Facts {
            standing,
            requested_uid,
            is_ephemeral: task.identity == Identity::Ephemeral,
            speaks: !is_guest && task.readiness.speaks,
            view: &task.view,
            network: &config.network,
        };
        let preset = preset.unwrap_or(usual);
        let EffectiveSettings { lines: settings, is_confined_root } =
            effective::effective(preset, &fence, &requested, config, &facts, &node.policy, features)?;
        // A user's systemd creates directories below that user's own.
        let settings = match node.manager {
            Manager::System => {
                let group = EphemeralUser::of(config, Sharing::Group);
                // Directories of one user do not become those of another user, who may be root.
                let owner =
                    task.uid.map_or_else(|| group.name().to_owned(), |uid| format!("{}-{uid}", group.name()));
                exec_directories::of_group(settings, &owner)?
            }
            Manager::User => settings,
        };
        let hides_root_only_files = is_confined_root || node.policy.confines_root();
        Ok(TaskSpec { kind, settings, hides_root_only_files, ..task })
    }
}

/// The task's directories, if they are where Nomad puts them, and if its own are separate from the group's.
fn directories(config: &TaskConfig) -> Result<TaskDirs, Error> {
    if !is_plain(&config.identity.alloc_dir) {
        return Err(Error::AllocDir { path: config.identity.alloc_dir.clone() });
    }
    if !is_file_name(&config.identity.name) {
        return Err(Error::Name { name: config.identity.name.clone() });
    }
    let dirs = TaskDirs::new(&config.identity.alloc_dir, &config.identity.name);
    if dirs.local.starts_with(&dirs.shared) {
        return Err(Error::Refused {
            option: "task".to_owned(),
            reason: format!(
                "a task named `{}` has its own directories in the one that the group shares, where other tasks can put \
                 links in their place; give the task another name",
                config.identity.name
            ),
        });
    }
    Ok(dirs)
}

/// Working directory, in the task's view.
fn working_directory(work_dir: Option<&str>, node: &NodeSpec, dirs: &TaskDirs) -> Result<PathBuf, Error> {
    match work_dir {
        None => Ok(node.view.working_directory(dirs)),
        Some(path) if is_plain(Path::new(path)) => Ok(PathBuf::from(path)),
        Some(path) => {
            let is_absolute = Path::new(path).is_absolute();
            let wanted =
                if is_absolute { PLAIN_PATH } else { "an absolute path, such as \"/local/x\" or \"/\"" };
            Err(Error::Option { option: "work_dir", value: path.to_owned(), wanted })
        }
    }
}

/// The preset that the job names, if it is allowed.
fn preset(config: &TaskConfig, node: &NodeSpec) -> Result<Option<Preset>, Error> {
    let preset = match config.driver.sandbox.as_ref().and_then(Sandbox::preset) {
        Some(name) => Some(Preset::parse(name).map_err(|wanted| Error::Option {
            option: "sandbox.preset",
            value: name.to_owned(),
            wanted,
        })?),
        None => None,
    };
    if let Some(preset) = preset {
        check_preset(preset, node)?;
    }
    Ok(preset)
}

/// Variables by which systemd announces passed sockets (sd_listen_fds(3)).
const OF_SYSTEMD: [&str; 4] = ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID"];

/// The task's variables: Nomad's, without those that the operator denies, the names of its sockets, and what the runner
/// of a guest takes from there.
fn environment(
    config: &TaskConfig,
    node: &NodeSpec,
    sockets: &[Listener],
    is_ephemeral: bool,
) -> Result<BTreeMap<String, String>, Error> {
    let is_denied = |name: &str| node.policy.denies_variable(name);
    let mut env = env::of_task(&config.identity.env, is_denied, is_ephemeral);
    // systemd sets these itself when it passes sockets, and the init trusts them.
    env.retain(|name, _| !OF_SYSTEMD.contains(&name.as_str()));
    if !sockets.is_empty() {
        // All of them are in one unit, which would give all the same name.
        let names: Vec<&str> = sockets.iter().map(|socket| socket.name.as_str()).collect();
        env.insert("LISTEN_FDNAMES".to_owned(), names.join(":"));
    }
    env.extend(guest::variables(config));
    env::check(&env)?;
    Ok(env)
}
