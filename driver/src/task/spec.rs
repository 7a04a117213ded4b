//! What it means: decides, once and before anything is touched, what a task will be.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::activation::{Listener, Readiness};
use super::config::{
    Credential, Device, Dns, DriverConfig, Known, Logging, MemoryMax, Mount, NetworkMode, PluginConfig,
    Resources, Sandbox, TaskConfig, TaskId,
};
use super::ephemeral::{EphemeralUser, Sharing};
use super::guest::{self, Guest};
use super::identity;
pub use super::identity::Identity;
use super::options;
use super::policy::Policy;
use super::preset::Preset;
use super::privilege::{Facts, Standing};
use super::settled::Settled;
use super::users::Accounts;
use super::view::{self, PLAIN_PATH, TaskDirs, View, is_plain};
use super::{activation, env, reach, settled, wasm};
use crate::systemd::{self, Assignment, Features, Manager, UnitName};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator does not allow it, or the driver cannot.
    #[error("`{option}`: {reason}")]
    Refused {
        /// The option, or the property.
        option: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The value of a property.
    #[error("`{option}`")]
    Property {
        /// The option.
        option: String,
        /// What is wrong with it.
        source: systemd::AssignmentError,
    },
    /// Our own defaults cannot be read.
    #[error("the driver's defaults")]
    Defaults {
        /// What is wrong with them.
        source: Box<options::Error>,
    },
    /// This node cannot give it.
    #[error("`{option}`: not supported on this node: {reason}")]
    Node {
        /// The option.
        option: String,
        /// What it lacks.
        reason: String,
    },
    /// A variable that no process can have.
    #[error(transparent)]
    Env(env::Error),
    /// No program can have such an argument.
    #[error("`{option}` holds a NUL byte")]
    Nul {
        /// The option.
        option: &'static str,
    },
    /// The kernel takes no single argument that long (execve(2), `MAX_ARG_STRLEN`).
    #[error("`{option}` is {length} bytes long; the kernel's limit is {}", env::STRING_MAX)]
    TooLong {
        /// The option.
        option: &'static str,
        /// How long it is, in bytes.
        length: usize,
    },
    /// The allocation directory is not where Nomad puts one.
    #[error("the allocation directory `{path}` is not an absolute path")]
    AllocDir {
        /// As we got it.
        path: PathBuf,
    },
    /// A task's name that is no file name.
    #[error("the task's name `{name}` cannot be a directory's name")]
    Name {
        /// As we got it.
        name: String,
    },
    /// A value of the job's configuration.
    #[error("option `{option}`: `{value}` is not {wanted}")]
    Option {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        wanted: &'static str,
    },
    /// A value of the plugin's configuration.
    #[error("plugin option `{option}`: `{value}` is not {wanted}")]
    Plugin {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        wanted: &'static str,
    },
}

/// What the operator's configuration means.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Who runs a task whose job does not say.
    pub default_identity: Identity,
    /// Where output goes of which the job does not say it.
    pub log_sink: Sink,
    /// After this time without a question of Nomad's a task is lost; zero is never.
    pub lost_after: Duration,
    /// Whose systemd runs the tasks.
    pub manager: Manager,
    /// The same, if the operator says it.
    pub said_manager: Option<Manager>,
    /// What no job may do.
    pub policy: Policy,
    /// The sandbox of a task whose job does not say.
    pub preset: Preset,
    /// Nomad gives tasks their users.
    pub dynamic_workload_users: bool,
    /// Which tasks have an ephemeral user together.
    pub ephemeral_user: Sharing,
    /// Where our own things are that need not outlive a boot.
    pub runtime_dir: PathBuf,
    /// What tasks see of the host.
    pub view: View,
    /// The operator says where what outlives the driver is. Without it only WebAssembly needs such a place.
    pub says_state_dir: bool,
    /// Where the WebAssembly tools and their cache are.
    pub wasm: wasm::Places,
}

impl NodeSpec {
    /// Checks the values of the plugin's configuration. Touches nothing.
    pub fn resolve(config: PluginConfig) -> Result<Self, Error> {
        let policy = Policy::resolve(&config)?;
        let PluginConfig {
            allow_caps: _, // these are the policy's
            allow_host_paths: _,
            allow_properties: _,
            allow_root: _,
            deny_properties: _,
            denied_host_gids: _,
            denied_host_uids: _,
            denied_envvars: _,
            sandbox_floor: _,
            default_user,
            dynamic_workload_users,
            ephemeral_user,
            fs_isolation,
            host_paths,
            log_driver,
            lost_after,
            manager,
            sandbox,
            shim_dir,
            state_dir,
            wasm_cache_size,
        } = config;
        let plain = |option, path: &str| match PathBuf::from(path) {
            path if is_plain(&path) => Ok(path),
            _ => Err(Error::Plugin { option, value: path.to_owned(), wanted: PLAIN_PATH }),
        };
        let host_paths: Vec<PathBuf> =
            host_paths.iter().map(|path| plain("host_paths", path)).collect::<Result<_, _>>()?;
        if let Some(root) = host_paths.iter().find(|path| path.parent().is_none()) {
            let value = root.display().to_string();
            let wanted = "a part of the host (for all of it set `fs_isolation = \"none\"`)";
            return Err(Error::Plugin { option: "host_paths", value, wanted });
        }
        let view = match fs_isolation.as_str() {
            "image" => View::Private { host_paths: host_paths.clone() },
            "none" => View::Host,
            _ => {
                let wanted = "one of \"image\" and \"none\"";
                return Err(Error::Plugin { option: "fs_isolation", value: fs_isolation, wanted });
            }
        };
        let wrong = |option, value| move |wanted| Error::Plugin { option, value, wanted };
        let lost_after = duration(&lost_after).map_err(wrong("lost_after", lost_after.clone()))?;
        let wanted = "a size such as \"512M\" or \"1G\"";
        let cache_size = systemd::bytes(&wasm_cache_size)
            .map_err(|_| wrong("wasm_cache_size", wasm_cache_size.clone())(wanted))?;
        let log_sink = Sink::parse(&log_driver).map_err(wrong("log_driver", log_driver.clone()))?;
        let ephemeral_user = match ephemeral_user.as_str() {
            "group" => Sharing::Group,
            "task" => Sharing::None,
            _ => {
                let wanted = "one of \"group\" and \"task\"";
                return Err(Error::Plugin { option: "ephemeral_user", value: ephemeral_user, wanted });
            }
        };
        // Nothing looser than the floor could start.
        let preset = Preset::parse(&sandbox).map_err(wrong("sandbox", sandbox.clone()))?;
        let preset = policy.at_least(preset);
        let said_manager = match manager.as_deref() {
            None => None,
            Some("system") => Some(Manager::System),
            Some("user") => Some(Manager::User),
            Some(other) => return Err(wrong("manager", other.to_owned())("one of \"system\" and \"user\"")),
        };
        let manager = said_manager.unwrap_or_default();
        let runtime_dir = view::runtime_dir(manager);
        let says_state_dir = state_dir.is_some();
        let state_dir = state_dir.map_or_else(|| state_dir_of(manager), |path| plain("state_dir", &path))?;
        Ok(Self {
            log_sink,
            lost_after,
            manager,
            said_manager,
            policy,
            runtime_dir: runtime_dir.clone(),
            preset,
            ephemeral_user,
            // A user's systemd runs every task as that user.
            dynamic_workload_users: dynamic_workload_users && manager == Manager::System,
            default_identity: match default_user {
                Some(user) if !user.is_empty() => Identity::User(user),
                _ => Identity::Ephemeral,
            },
            view,
            says_state_dir,
            wasm: wasm::Places {
                shim_dir: shim_dir.map(|path| plain("shim_dir", &path)).transpose()?,
                state_dir,
                cache_size,
                host_paths,
                manager,
                root: view::shared_root(&runtime_dir),
            },
        })
    }
}

/// Where a manager's driver keeps what outlives a boot (file-hierarchy(7)).
fn state_dir_of(manager: Manager) -> Result<PathBuf, Error> {
    let state = match manager {
        Manager::System => Some(PathBuf::from("/var/lib")),
        Manager::User => {
            let own = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
            own.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".local/state")))
        }
    };
    let missing = || Error::Plugin {
        option: "state_dir",
        value: String::new(),
        wanted: "to be found: this process has no `HOME`, so it must be set",
    };
    Ok(state.ok_or_else(missing)?.join("nomad-driver-systemd"))
}

/// A length of time, such as `90s`, `10m` or `1h30m`; otherwise what it should be.
pub(super) fn duration(value: &str) -> Result<Duration, &'static str> {
    if value == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(value).map_err(|_| "a length of time such as \"30s\" or \"10m\"")
}

/// Where a task's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Into Nomad's pipes.
    Nomad,
    /// Into the journal.
    Journal,
    /// Into both.
    Both,
}

impl Sink {
    fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "nomad" => Ok(Self::Nomad),
            "journald" => Ok(Self::Journal),
            "both" => Ok(Self::Both),
            _ => Err("one of \"nomad\", \"journald\" and \"both\""),
        }
    }
}

/// What becomes of a task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it goes.
    pub sink: Sink,
    /// The journal's namespace.
    pub namespace: Option<String>,
    /// How many lines the journal takes.
    pub burst: Option<u32>,
    /// In how long.
    pub interval: Option<Duration>,
    /// What the journal writes to each line, such as `NOMAD_JOB_ID=web`.
    pub fields: Vec<String>,
    /// Who speaks, in the journal.
    pub identifier: String,
}

impl Output {
    fn resolve(config: &TaskConfig, node: &NodeSpec) -> Result<Self, Error> {
        let nothing =
            Logging { driver: None, namespace: None, rate_limit_burst: None, rate_limit_interval: None };
        let Logging { driver, namespace, rate_limit_burst: burst, rate_limit_interval } =
            config.driver.logging.clone().unwrap_or(nothing);
        let wrong = |option, value: &str| {
            let value = value.to_owned();
            move |wanted| Error::Option { option, value, wanted }
        };
        let sink =
            driver.map(|name| Sink::parse(&name).map_err(wrong("logging.driver", &name))).transpose()?;
        let interval = rate_limit_interval
            .map(|time| duration(&time).map_err(wrong("logging.rate_limit_interval", &time)))
            .transpose()?;
        // systemd passes an interval of zero over, so that journald's own limit would hold.
        let (burst, interval) = match interval {
            Some(Duration::ZERO) => (Some(NO_RATE_LIMIT), Some(Duration::from_secs(1))),
            other => (burst, other),
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if let Some(name) = namespace.as_deref().filter(|name| !is_name(name)) {
            let wanted = "a name of letters, digits, `-`, `_` and `.`";
            return Err(wrong("logging.namespace", name)(wanted));
        }
        let Known { id: _, name, alloc_id, alloc_dir, env: _ } = &config.known;
        let alloc_dir = alloc_dir.display().to_string();
        let fields = [
            ("NOMAD_ALLOC_ID", alloc_id),
            ("NOMAD_JOB_ID", &config.job_id),
            ("NOMAD_JOB_NAME", &config.job_name),
            ("NOMAD_GROUP_NAME", &config.group_name),
            ("NOMAD_TASK_NAME", name),
            ("NOMAD_NAMESPACE", &config.namespace),
            (ALLOC_DIR_FIELD, &alloc_dir),
        ];
        let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
        Ok(Self {
            sink: sink.unwrap_or(node.log_sink),
            namespace,
            burst,
            interval,
            fields: fields.map(|(name, value)| format!("{name}={}", in_one_word(value))).collect(),
            identifier: name.replace(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c), "_"),
        })
    }
}

/// As many lines a second as nothing writes; journald multiplies it by up to six.
const NO_RATE_LIMIT: u32 = u32::MAX / 8;

/// The journal field of a unit that says where its allocation's directory is on the host.
pub const ALLOC_DIR_FIELD: &str = "NOMAD_ALLOC_HOST_DIR";

/// The text as a value of a journal field. After a `daemon-reload` systemd reads what stands behind a space as a field of
/// its own, so that a job's name could be another job's field.
fn in_one_word(text: &str) -> String {
    let means_something = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\'' | '\\');
    text.replace(means_something, "_")
}

/// The text as it can stand in a unit, for people.
pub(super) fn on_one_line(text: &str) -> String {
    let line = text.replace(char::is_control, " ");
    let line = line.trim();
    // It would join the next line of the unit's file.
    line.strip_suffix('\\').map_or_else(|| line.to_owned(), |rest| format!("{rest}/"))
}

/// A task that can be started, once its program is found.
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
    /// Everything that has a name of systemd's, for a native program.
    settings: Settled,
    /// The same for WebAssembly, whose runner needs less.
    guest_settings: Settled,
}

/// Bytes that a task may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// It is promised so many.
    pub reserved: Option<u64>,
    /// It is ended when it needs more.
    pub ceiling: Option<u64>,
}

impl TaskSpec {
    /// Would systemd have to make mount points in the root for it?
    pub fn needs_a_root_of_its_own(&self, settings: &[Assignment]) -> bool {
        !self.mounts.is_empty() || settings.iter().any(|line| !line.mount_points().is_empty())
    }

    /// Everything that has a name of systemd's.
    pub fn settings(&self, is_guest: bool) -> &[Assignment] {
        &self.settled(is_guest).lines
    }

    /// Is it root, or could it act as root, and is it confined for that?
    pub fn is_confined_root(&self, is_guest: bool) -> bool {
        self.settled(is_guest).is_confined_root
    }

    fn settled(&self, is_guest: bool) -> &Settled {
        if is_guest { &self.guest_settings } else { &self.settings }
    }

    /// What `config` means on this node, whose users and groups `accounts` knows; asking for them may take long.
    pub fn resolve(
        config: &TaskConfig,
        node: &NodeSpec,
        features: &Features,
        accounts: &dyn Accounts,
    ) -> Result<Self, Error> {
        reach::check_denied(&config.given, &node.policy)?;
        let DriverConfig { command, args, work_dir, extra_hosts, credential, .. } = &config.driver;
        let sockets = activation::listeners(config)?;
        check_length("command", command)?;
        args.iter().try_for_each(|arg| check_length("args", arg))?;
        let dirs = directories(config)?;
        let working_directory = working_directory(work_dir.as_deref(), node, &dirs)?;
        let Resources { cpu_shares, memory_mb, memory_max_mb, cores } = &config.resources;
        check_node(config, features)?;
        check_credentials(credential, node)?;
        check_notify(config, node)?;
        check_sockets(config, node, features)?;
        let (identity, user) = Identity::of(config, node, accounts)?;
        let mut env = environment(config, node, &sockets)?;
        if identity == Identity::Ephemeral {
            env::give_home(&mut env);
        }
        let requested = settled::requested(&config.driver, node, features)?;
        identity::check_groups(&requested, user.as_ref(), node, accounts)?;
        let said: Vec<Assignment> = requested.into_iter().map(|(_, line)| line).collect();
        let allows_addresses = said.iter().any(|line| line.name() == "IPAddressAllow");
        let standing = Standing::of(&identity, user.as_ref());
        let preset = preset(config, node)?;
        let has_own_root = said.iter().any(|line| ["RootDirectory", "RootImage"].contains(&line.name()));
        let view = if has_own_root { View::Own } else { node.view.clone() };
        if has_own_root && node.view == View::Host {
            return Err(Error::Refused {
                option: "files".to_owned(),
                reason: "a root of its own needs `fs_isolation = \"image\"` in the plugin's configuration"
                    .to_owned(),
            });
        }
        let memory = Memory::resolve(*memory_mb, *memory_max_mb);
        let etc = etc(config, extra_hosts)?;
        let guest = Guest::resolve(config, &view, &dirs, &working_directory, &env, memory.ceiling)?;
        // A job that names a preset wants that one, for whatever it runs.
        let fence = match preset {
            Some(_) => Vec::new(),
            None => guest.fence(&config.network, &view, etc.get("resolv.conf"), &node.policy, features)?,
        };
        let readiness = activation::readiness(config)?;
        let settle = |preset, fence: &[_], is_guest: bool| {
            let facts = Facts {
                standing,
                asked_for: user
                    .as_ref()
                    .filter(|_| standing == Standing::Named && !config.user.is_empty())
                    .map(|user| user.uid),
                is_ephemeral: identity == Identity::Ephemeral,
                speaks: !is_guest && readiness != Readiness::default(),
                view: &view,
                network: &config.network,
            };
            settled::settled(preset, fence, &said, config, &facts, node, features)
        };
        Ok(Self {
            unit: unit_name(&config.known.alloc_id, &config.known.name, &config.known.id),
            description: on_one_line(&format!(
                "Nomad: {}/{}/{}",
                config.job_name, config.group_name, config.known.name
            )),
            namespace: config.namespace.clone(),
            job: config.job_name.clone(),
            ephemeral_user: EphemeralUser::of(config, node.ephemeral_user),
            settings: settle(preset.unwrap_or(node.preset), &[], false)?,
            guest_settings: settle(preset.unwrap_or(Preset::Wasm), &fence, true)?,
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
        })
    }
}

/// The task's directories, if they are where Nomad puts them, and its own are apart from the group's.
fn directories(config: &TaskConfig) -> Result<TaskDirs, Error> {
    if !is_plain(&config.known.alloc_dir) {
        return Err(Error::AllocDir { path: config.known.alloc_dir.clone() });
    }
    if !is_file_name(&config.known.name) {
        return Err(Error::Name { name: config.known.name.clone() });
    }
    let dirs = TaskDirs::new(&config.known.alloc_dir, &config.known.name);
    if dirs.local.starts_with(&dirs.shared) {
        return Err(Error::Refused {
            option: "task".to_owned(),
            reason: format!(
                "a task named `{}` has its own directories in the one that the group shares, where other tasks can put \
                 links in their place; give the task another name",
                config.known.name
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

/// A job asks for what the operator must allow by the property's name; a user's own systemd is that user's affair.
fn check_word(option: &str, property: &str, why: &str, node: &NodeSpec) -> Result<(), Error> {
    if node.manager != Manager::System || node.policy.allows_by_name(property) {
        return Ok(());
    }
    Err(Error::Refused {
        option: option.to_owned(),
        reason: format!(
            "{why}; the operator of this node allows it with \"{property}\" in `allow_properties` in the plugin's \
             configuration"
        ),
    })
}

/// The most credentials of a task: each is a file in memory while the task starts.
const CREDENTIALS_MAX: usize = 64;

/// Are these credentials that a task can have, and may a job have systemd decrypt a file?
fn check_credentials(credential: &[Credential], node: &NodeSpec) -> Result<(), Error> {
    if credential.len() > CREDENTIALS_MAX {
        return Err(Error::Refused {
            option: "credential".to_owned(),
            reason: format!(
                "a task can have {CREDENTIALS_MAX} credentials, and here are {}; put further files in `local/` or `secrets/`",
                credential.len()
            ),
        });
    }
    credential.iter().try_for_each(|credential| check_name("credential.name", &credential.name))?;
    if !credential.iter().any(|credential| credential.encrypted) {
        return Ok(());
    }
    let why = "systemd decrypts whatever was encrypted for this machine, also for others";
    check_word("credential.encrypted", "LoadCredentialEncrypted", why, node)
}

/// May a program of the job's send messages to systemd? The runner of a guest is not the job's.
fn check_notify(config: &TaskConfig, node: &NodeSpec) -> Result<(), Error> {
    if config.driver.notify.is_none() || config.driver.wasm.is_some() {
        return Ok(());
    }
    let why = "a task that sends messages to systemd without end slows all of the node";
    check_word("notify", "NotifyAccess", why, node)
}

/// The first systemd that limits how often it looks at a socket (systemd.socket(5), `PollLimitIntervalSec=`).
const LIMITS_POLLING: u32 = 255;

/// May a program of the job's hold a socket that systemd listens on, too? One that it connects elsewhere is readable for
/// ever: once the task has failed, an older systemd looks at nothing else. The runner of a guest does not do that.
fn check_sockets(config: &TaskConfig, node: &NodeSpec, features: &Features) -> Result<(), Error> {
    let DriverConfig { socket, wasm, .. } = &config.driver;
    if socket.is_empty() || wasm.is_some() || features.version >= LIMITS_POLLING {
        return Ok(());
    }
    let why = "with a socket that it was passed a task can stop a systemd older than 255";
    check_word("socket", "ListenStream", why, node)
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

/// Does the preset that a job names leave as it is what jobs may not set?
fn check_preset(preset: Preset, node: &NodeSpec) -> Result<(), Error> {
    let of = |preset: Preset, name: &str| -> Vec<String> {
        let lines = preset.assignments().iter().filter(|line| line.name() == name);
        lines.map(|line| line.text().to_owned()).collect()
    };
    let lines = node.preset.assignments().iter().chain(preset.assignments());
    let mut changed = lines.map(Assignment::name).filter(|name| of(preset, name) != of(node.preset, name));
    changed.try_for_each(|name| node.policy.check_denied("sandbox.preset", name))
}

/// The task's variables: Nomad's, without those that the operator denies, the names of its sockets, and what the runner
/// of a guest takes from there.
fn environment(
    config: &TaskConfig,
    node: &NodeSpec,
    sockets: &[Listener],
) -> Result<BTreeMap<String, String>, Error> {
    let mut env = config.known.env.clone();
    env.retain(|name, _| !node.policy.denies_variable(name));
    if !sockets.is_empty() {
        // All of them are of one unit, which would give all the same name.
        let names: Vec<&str> = sockets.iter().map(|socket| socket.name.as_str()).collect();
        env.insert("LISTEN_FDNAMES".to_owned(), names.join(":"));
    }
    env.extend(guest::variables(config));
    env::check(&env).map_err(Error::Env)?;
    Ok(env)
}

/// Would the kernel take such an argument?
pub(super) fn check_length(option: &'static str, text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::Nul { option });
    }
    if text.len() > env::STRING_MAX {
        return Err(Error::TooLong { option, length: text.len() });
    }
    Ok(())
}

/// Is this a name that can be a file's, and stand in a list?
pub(super) fn check_name(option: &'static str, name: &str) -> Result<(), Error> {
    let is_name = (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if is_name {
        return Ok(());
    }
    let wanted = "a name of letters, digits, `-`, `_` and `.`";
    Err(Error::Option { option, value: name.to_owned(), wanted })
}

/// Can this node give what the job asks for beside properties?
fn check_node(config: &TaskConfig, features: &Features) -> Result<(), Error> {
    let lacks = |option: &str, reason: String| Err(Error::Node { option: option.to_owned(), reason });
    let is_encrypted = config.driver.credential.iter().any(|credential| credential.encrypted);
    if is_encrypted && features.version < ENCRYPTED_CREDENTIALS {
        let here = features.version;
        let reason =
            format!("LoadCredentialEncrypted needs systemd {ENCRYPTED_CREDENTIALS}, and here is {here}");
        return lacks("credential.encrypted", reason);
    }
    if !config.resources.cores.is_empty() && !features.controllers.contains("cpuset") {
        return lacks("cores", "it needs the cgroup controller `cpuset`".to_owned());
    }
    match features.manager {
        Manager::System => Ok(()),
        Manager::User => check_for_users(config, features),
    }
}

/// The first systemd that has them.
const ENCRYPTED_CREDENTIALS: u32 = 250;

/// Is there nothing in it that a user's systemd cannot give, beside what has a name of systemd's? It would pass most of
/// it over in silence.
fn check_for_users(config: &TaskConfig, features: &Features) -> Result<(), Error> {
    let driver = &config.driver;
    let has_namespace = driver.logging.as_ref().is_some_and(|logging| logging.namespace.is_some());
    let sealed = features.keeps_credentials_sealed();
    let lacks = [
        (
            "network",
            matches!(config.network, NetworkMode::Group { .. }),
            "the network namespace of a group is root's, and a user's systemd cannot join it; use `mode = \"host\"` or \"none\"",
        ),
        ("device", !config.devices.is_empty(), "a user's systemd cannot give devices"),
        ("logging.namespace", has_namespace, "a user's systemd cannot reach the journal's namespaces"),
        ("cap_add", !driver.cap_add.is_empty(), "a user's systemd has no capabilities to give"),
        (
            "credential.encrypted",
            sealed.is_some() && driver.credential.iter().any(|credential| credential.encrypted),
            sealed.as_deref().unwrap_or_default(),
        ),
    ];
    match lacks.into_iter().find(|(_, asked, _)| *asked) {
        Some((option, _, reason)) => {
            Err(Error::Node { option: option.to_owned(), reason: reason.to_owned() })
        }
        None => Ok(()),
    }
}

/// The files of the task's own in `/etc`.
fn etc(config: &TaskConfig, extra_hosts: &[String]) -> Result<BTreeMap<&'static str, String>, Error> {
    let mut files = BTreeMap::new();
    if let Some(Dns { servers, searches, options }) = &config.dns {
        let mut lines: Vec<String> = servers.iter().map(|server| format!("nameserver {server}")).collect();
        for (word, values) in [("search", searches), ("options", options)] {
            if !values.is_empty() {
                lines.push(format!("{word} {}", values.join(" ")));
            }
        }
        files.insert("resolv.conf", lines.iter().map(|line| on_one_line(line) + "\n").collect());
    }
    let group = match &config.network {
        NetworkMode::Group { host, .. } => host.as_ref(),
        NetworkMode::Host | NetworkMode::None => None,
    };
    if group.is_some() || !extra_hosts.is_empty() {
        let mut lines =
            vec!["127.0.0.1 localhost".to_owned(), "::1 localhost ip6-localhost ip6-loopback".to_owned()];
        lines.extend(group.map(|(name, address)| format!("{address} {name}")));
        for host in extra_hosts {
            // An address of IPv6 has colons, a name has none.
            let pair = host.split_once(':').filter(|(name, _)| !name.is_empty());
            let parsed = pair.and_then(|(name, address)| {
                Some((name, address.trim_matches(['[', ']']).parse::<IpAddr>().ok()?))
            });
            let Some((name, address)) = parsed.filter(|(name, _)| !name.contains(char::is_whitespace)) else {
                let wanted = "a name and an address such as \"db:10.0.0.5\"";
                return Err(Error::Option { option: "extra_hosts", value: host.clone(), wanted });
            };
            lines.push(format!("{address} {name}"));
        }
        files.insert("hosts", lines.iter().map(|line| on_one_line(line) + "\n").collect());
    }
    Ok(files)
}

impl Memory {
    /// Nomad's two numbers: without `memory_max`, `memory` is the ceiling; with it, `memory` is promised.
    fn resolve(memory_mb: u64, memory_max: MemoryMax) -> Self {
        let bytes = |mebibytes: u64| (mebibytes != 0).then(|| mebibytes.saturating_mul(1 << 20));
        match memory_max {
            MemoryMax::Memory => Self { reserved: None, ceiling: bytes(memory_mb) },
            MemoryMax::Mebibytes(max) => {
                Self { reserved: bytes(memory_mb), ceiling: bytes(max.max(memory_mb)) }
            }
            MemoryMax::Unlimited => Self { reserved: bytes(memory_mb), ceiling: None },
        }
    }
}

/// The begin of the name of every task's unit.
pub const UNIT_PREFIX: &str = "nomad-";

/// The unit of one run of a task. It can be found again from the id alone, as [`unit_of`] does.
fn unit_name(alloc_id: &str, task: &str, id: &TaskId) -> UnitName {
    UnitName::service(&["nomad", alloc_id, task], &digest(&id.0, RUN_DIGITS))
}

/// How many hex digits tell the runs of a task apart.
const RUN_DIGITS: usize = 8;

/// Is this the unit of some run of that task?
///
/// Not known, and so answered with no, for a task whose name is too long to stand in the unit's name as a whole.
pub fn is_run_of(unit: &UnitName, alloc_id: &str, task: &str) -> bool {
    let some_run = unit_name(alloc_id, task, &TaskId(String::new()));
    let same = some_run.as_str().len() - RUN_DIGITS - ".service".len();
    let (ours, theirs) = (some_run.as_str().as_bytes(), unit.as_str().as_bytes());
    some_run.is_whole() && ours.len() == theirs.len() && ours[..same] == theirs[..same]
}

/// The unit that copies a stream of a task into the journal and into Nomad's pipe; `stream` is `stdout` or `stderr`.
pub fn copier_of(id: &TaskId, stream: &str) -> UnitName {
    UnitName::service(&["nomad_log", &digest(&id.0, 32)], stream)
}

/// The unit of a task of which nothing but the id is known.
pub fn unit_of(id: &TaskId) -> UnitName {
    let mut parts = id.0.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(alloc_id), Some(task), Some(_)) => unit_name(alloc_id, task, id),
        _ => unit_name(&id.0, "", id),
    }
}

/// `64 MiB`, or in bytes what is no whole number of them.
pub fn mebibytes(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}

/// The first hex digits of a hash of the text.
pub(super) fn digest(text: &str, digits: usize) -> String {
    use sha2::{Digest, Sha256};
    let mut hex = hex::encode(Sha256::digest(text));
    hex.truncate(digits);
    hex
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(|c: char| c == '/' || c.is_control())
        && Path::new(name).file_name().is_some()
}

/// The weight that Nomad 1.11 and later give a cgroup for so many CPU shares, so that our tasks and those of its other
/// drivers can be compared: 2 shares are weight 1, 1024 are 100, 262144 are 10000, a parabola of the logarithms between
/// (opencontainers/cgroups v0.0.7, `ConvertCPUSharesToCgroupV2Value`).
fn cpu_weight(shares: u64) -> u64 {
    const MAX: u64 = 262_144;
    if shares >= MAX {
        return 10_000;
    }
    if shares <= 2 {
        return 1;
    }
    let shares = u32::try_from(shares).map_or(f64::MAX, f64::from);
    let log = shares.log2();
    let weight = 10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil();
    // Between 1 and 10000 by the two bounds above.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number from 1 to 10000"
    )]
    let weight = weight as u64;
    weight.clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_nomads_other_drivers() {
        for (shares, weight) in
            [(0, 1), (2, 1), (100, 17), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(cpu_weight(shares), weight, "{shares} shares");
        }
    }

    #[test]
    fn memory_is_a_ceiling_and_with_memory_max_a_promise() {
        const MIB: u64 = 1 << 20;
        let memory = Memory::resolve;
        assert_eq!(memory(10, MemoryMax::Memory), Memory { reserved: None, ceiling: Some(10 * MIB) });
        assert_eq!(
            memory(10, MemoryMax::Mebibytes(20)),
            Memory { reserved: Some(10 * MIB), ceiling: Some(20 * MIB) }
        );
        assert_eq!(memory(10, MemoryMax::Unlimited), Memory { reserved: Some(10 * MIB), ceiling: None });
        assert_eq!(memory(u64::MAX, MemoryMax::Memory).ceiling, Some(u64::MAX));
    }

    #[test]
    fn a_unit_is_found_again_from_the_id_alone_and_never_shared() {
        let id = |suffix: &str| TaskId(format!("5a5b5c5d-0000-1111-2222-333344445555/my task/{suffix}"));
        let name = unit_name("5a5b5c5d-0000-1111-2222-333344445555", "my task", &id("0a1b2c3d"));
        assert_eq!(unit_of(&id("0a1b2c3d")), name);
        assert_ne!(unit_of(&id("0a1b2c3e")), name);
        let alloc = "5a5b5c5d-0000-1111-2222-333344445555";
        assert!(is_run_of(&name, alloc, "my task"));
        let other = unit_name(alloc, "my task-2", &id("0a1b2c3d"));
        assert!(!is_run_of(&other, alloc, "my task") && !is_run_of(&name, alloc, "my task-2"));
        let long = "x".repeat(200);
        assert!(!is_run_of(&unit_name(alloc, &long, &id("0a1b2c3d")), alloc, &long), "it cannot be told");
        let odd = TaskId("no slashes at all".into());
        assert_eq!(unit_of(&odd), unit_of(&odd));
    }

    #[test]
    fn an_operators_mistake_is_named() {
        let config = |change: fn(&mut PluginConfig)| {
            let mut config = PluginConfig::decode(&[]).unwrap();
            change(&mut config);
            NodeSpec::resolve(config)
        };
        assert!(config(|_| {}).is_ok());
        let error = config(|c| c.fs_isolation = "chroot".into()).unwrap_err().to_string();
        assert!(error.contains("`fs_isolation`") && error.contains("chroot"), "{error}");
        let error = config(|c| c.host_paths = vec!["usr".into()]).unwrap_err().to_string();
        assert!(error.contains("`host_paths`"), "{error}");
        let error = config(|c| c.host_paths = vec!["/".into()]).unwrap_err().to_string();
        assert!(error.contains("fs_isolation"), "{error}");
    }
}
