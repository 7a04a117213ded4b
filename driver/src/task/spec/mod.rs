//! What it means: decides, once and before anything is touched, what a task will be.

pub mod activation;
mod checks;
pub mod ephemeral;
mod error;
mod etc_files;
mod exec_directories;
pub(crate) mod identity;
mod names;
mod node;
mod output;
mod resources;

use self::checks::{check_credentials, check_node, check_notify, check_preset, check_sockets};
pub(crate) use self::checks::{check_label, check_length};
pub use self::error::Error;
use self::etc_files::etc;
pub(crate) use self::names::digest;
pub use self::names::{UNIT_PREFIX, copier_of, is_run_of, unit_of};
use self::names::{is_file_name, unit_name};
pub use self::node::NodeSpec;
pub(crate) use self::node::duration;
pub(crate) use self::output::on_one_line;
pub use self::output::{ALLOC_DIR_FIELD, Output, Sink};
use self::resources::cpu_weight;
pub use self::resources::{Memory, mebibytes};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::systemd::{Assignment, Features, Manager, Role, UnitName};
use crate::task::config::{
    Credential, Device, DriverConfig, Mount, NetworkMode, Resources, Sandbox, TaskConfig,
};
use crate::task::host::dirs::TaskDirs;
use crate::task::host::env;
use crate::task::host::program::{self, Program, ProgramKind};
use crate::task::host::users::Accounts;
use crate::task::host::view::{PLAIN_PATH, View, is_plain};
use crate::task::sandbox::preset::Preset;
use crate::task::sandbox::privilege::{Facts, Standing};
use crate::task::sandbox::settled;
use crate::task::sandbox::settled::Settled;
use crate::task::spec::activation::{Listener, Readiness};
use crate::task::spec::ephemeral::{EphemeralUser, Sharing};
pub use crate::task::spec::identity::Identity;
use crate::task::wasm::guest::{self, Guest};

/// A task that can be started.
#[derive(Clone)]
pub struct TaskSpec {
    /// The name of its unit.
    pub unit: UnitName,
    /// For people who list units.
    pub description: String,
    /// Nomad's namespace of its job, example `default`.
    pub namespace: String,
    /// The job's name.
    pub job: String,
    /// Its user, if it has one of its own.
    pub ephemeral_user: EphemeralUser,
    /// Whom it runs as.
    pub identity: Identity,
    /// The number of that user, as far as it is one of the host's.
    pub uid: Option<u32>,
    /// What it sees of the host.
    pub view: View,
    /// Its directories.
    pub dirs: TaskDirs,
    /// Where it begins, as it sees it.
    pub working_directory: PathBuf,
    /// The job's `command`.
    pub command: String,
    /// The job's `args`.
    pub args: Vec<String>,
    /// Its complete environment.
    pub env: BTreeMap<String, String>,
    /// Where its output goes.
    pub output: Output,
    /// Nomad's pipe for its output.
    pub stdout_path: PathBuf,
    /// Nomad's pipe for its errors.
    pub stderr_path: PathBuf,
    /// 1 to 10000.
    pub cpu_weight: u64,
    /// The cores that are its own, such as `0,3`.
    pub cores: Option<String>,
    /// Its memory.
    pub memory: Memory,
    /// Volumes and the like.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// What network it is in.
    pub network: NetworkMode,
    /// Its own files in `/etc`, by name.
    pub etc: BTreeMap<&'static str, String>,
    /// Files handed over as credentials.
    pub credentials: Vec<Credential>,
    /// Sockets that are open before it starts.
    pub sockets: Vec<Listener>,
    /// What it says of itself.
    pub readiness: Readiness,
    /// What it is granted if it is WebAssembly.
    pub guest: Guest,
    /// Its job says which addresses it may reach.
    pub allows_addresses: bool,
    /// What its program is.
    pub kind: ProgramKind,
    /// Everything that has a name of systemd's.
    pub settings: Vec<Assignment>,
    /// It is root and confined for that, or a task like that may be in its group, to which it could pass a directory: what root
    /// alone may read is not in its view.
    pub may_meet_root: bool,
}

/// A task of which everything is known but what its program is, and so what its sandbox is.
pub struct Outline {
    /// Without its kind and its settings.
    task: TaskSpec,
    /// What the job asks for by the names of systemd's.
    requested: Vec<Assignment>,
    preset: Option<Preset>,
    standing: Standing,
    /// The number of the user that the job names.
    asked_for: Option<u32>,
}

impl TaskSpec {
    /// Would systemd have to make mount points in the root for it?
    pub fn needs_a_root_of_its_own(&self, settings: &[Assignment]) -> bool {
        !self.mounts.is_empty() || settings.iter().any(|line| !line.mount_points().is_empty())
    }

    /// What its command is looked up in. Where something else is `mounted`, only systemd will know what it holds.
    pub fn surroundings<'a>(&'a self, mounted: &'a [PathBuf]) -> program::Surroundings<'a> {
        let path = self.env.get("PATH").map(String::as_str);
        program::Surroundings { view: &self.view, dirs: &self.dirs, mounts: &self.mounts, path, mounted }
    }

    /// Does its program send messages to systemd itself: has the job a `notify` block, and is it no guest?
    pub fn speaks(&self) -> bool {
        self.readiness.speaks && !self.is_guest()
    }

    /// Is it WebAssembly?
    pub fn is_guest(&self) -> bool {
        self.kind == ProgramKind::Wasm
    }
}

/// Can this node have what the blocks of the job ask for?
fn check_blocks(config: &TaskConfig, node: &NodeSpec, features: &Features) -> Result<(), Error> {
    // Every option stands here, so that the compiler asks what becomes of a new one.
    #[rustfmt::skip]
    let DriverConfig {
        command, args, credential,
        // See `settled::requested`.
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

/// What systemctl shows beside the name of the unit.
fn description(config: &TaskConfig) -> String {
    on_one_line(&format!("Nomad: {}/{}/{}", config.job_name, config.group_name, config.identity.name))
}

/// The view of a task whose job asks for these properties.
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
    /// What `config` means on this node, whose users and groups `accounts` knows; asking for them may take long.
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
        let requested = settled::requested(&config.driver, node, features)?;
        identity::check_groups(&requested, user.as_ref(), config, node, accounts)?;
        let requested: Vec<Assignment> = requested.into_iter().map(|(_, line)| line).collect();
        let allows_addresses = requested.iter().any(|line| line.name() == "IPAddressAllow");
        let standing = Standing::of(&identity, user.as_ref());
        let preset = preset(config, node)?;
        let view = view(&requested, node)?;
        let memory = Memory::resolve(*memory_mb, *memory_max_mb);
        let etc = etc(config, extra_hosts)?;
        let guest = Guest::resolve(config, &view, &dirs, &working_directory, &env, memory.ceiling)?;
        let readiness = activation::readiness(config)?;
        let asked_for = user.as_ref().filter(|_| standing == Standing::Named && !config.user.is_empty());
        let asked_for = asked_for.map(|user| user.uid);
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
            may_meet_root: false,
        };
        Ok(Self { task, requested, preset, standing, asked_for })
    }

    /// The program of the task's `command`.
    pub fn find_program(&self) -> Result<Program, program::Error> {
        // Of what is there only systemd will know what it holds.
        let mounted = program::mounted(&self.requested);
        program::find(&self.task.command, self.task.surroundings(&mounted))
    }

    /// What the program most probably is, where it is not there any more.
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
        let Self { task, requested, preset, standing, asked_for } = self;
        let is_guest = kind == ProgramKind::Wasm;
        if is_guest {
            task.guest.check(&task.readiness, &task.env)?;
        } else {
            task.guest.check_native()?;
        }
        let usual = if is_guest { Preset::Wasm } else { node.preset };
        // A job that names a preset wants that one, for whatever it runs.
        let fence = if is_guest && preset.is_none() {
            let resolver = task.etc.get("resolv.conf");
            task.guest.fence(&config.network, &task.view, resolver, &node.policy, features)?
        } else {
            Vec::new()
        };
        let facts = Facts {
            standing,
            asked_for,
            is_ephemeral: task.identity == Identity::Ephemeral,
            speaks: !is_guest && task.readiness.speaks,
            view: &task.view,
            network: &config.network,
        };
        let preset = preset.unwrap_or(usual);
        let Settled { lines: settings, is_confined_root } =
            settled::settled(preset, &fence, &requested, config, &facts, node, features)?;
        // A user's systemd makes directories below that user's own.
        let settings = match node.manager {
            Manager::System => {
                let group = EphemeralUser::of(config, Sharing::Group);
                // What one user has made does not become another's, who may be root.
                let owner =
                    task.uid.map_or_else(|| group.name().to_owned(), |uid| format!("{}-{uid}", group.name()));
                exec_directories::of_group(settings, &owner)?
            }
            Manager::User => settings,
        };
        let may_meet_root = is_confined_root || node.policy.confines_root();
        Ok(TaskSpec { kind, settings, may_meet_root, ..task })
    }
}

/// The task's directories, if they are where Nomad puts them, and its own are apart from the group's.
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

/// Where the task begins, as it sees it.
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

/// The preset that the job names, if it may.
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

/// The task's variables: Nomad's, without those that the operator denies, the names of its sockets, and what the runner
/// of a guest takes from there.
/// Variables by which systemd tells of passed sockets (sd_listen_fds(3)).
const OF_SYSTEMD: [&str; 4] = ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID"];

fn environment(
    config: &TaskConfig,
    node: &NodeSpec,
    sockets: &[Listener],
    is_ephemeral: bool,
) -> Result<BTreeMap<String, String>, Error> {
    let is_denied = |name: &str| node.policy.denies_variable(name);
    let mut env = env::of_task(&config.identity.env, is_denied, is_ephemeral);
    // What systemd passes it says itself, and the init believes it.
    env.retain(|name, _| !OF_SYSTEMD.contains(&name.as_str()));
    if !sockets.is_empty() {
        // All of them are of one unit, which would give all the same name.
        let names: Vec<&str> = sockets.iter().map(|socket| socket.name.as_str()).collect();
        env.insert("LISTEN_FDNAMES".to_owned(), names.join(":"));
    }
    env.extend(guest::variables(config));
    env::check(&env).map_err(Error::Env)?;
    Ok(env)
}
