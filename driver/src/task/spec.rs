//! What it means: decides, once and before anything is touched, what a task will be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config::{DriverConfig, Known, Logging, MemoryMax, PluginConfig, Resources, TaskConfig, TaskId};
use super::view::{TaskDirs, View, is_plain};
use super::{env, wasm};
use crate::systemd::UnitName;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job asks for something that this version does not have.
    #[error("this version of the driver cannot honour {what}; remove it from the job or use another driver")]
    Beyond {
        /// In the job's words.
        what: String,
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
    #[error("`{option}` holds a text of {length} bytes, the kernel takes {} at most", env::STRING_MAX)]
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
    /// What tasks see of the host.
    pub view: View,
    /// Where the WebAssembly tools and their cache are.
    pub wasm: wasm::Places,
}

impl NodeSpec {
    /// Checks the values of the plugin's configuration. Touches nothing.
    pub fn resolve(config: PluginConfig) -> Result<Self, Error> {
        let PluginConfig {
            default_user,
            fs_isolation,
            host_paths,
            log_driver,
            lost_after,
            shim_dir,
            state_dir,
        } = config;
        let plain = |option, path: &str| match PathBuf::from(path) {
            path if is_plain(&path) => Ok(path),
            _ => {
                Err(Error::Plugin { option, value: path.to_owned(), wanted: "an absolute path without `..`" })
            }
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
        let log_sink = Sink::parse(&log_driver).map_err(wrong("log_driver", log_driver.clone()))?;
        Ok(Self {
            log_sink,
            lost_after,
            default_identity: match default_user {
                Some(user) if !user.is_empty() => Identity::User(user),
                _ => Identity::Ephemeral,
            },
            view,
            wasm: wasm::Places {
                shim_dir: shim_dir.map(|path| plain("shim_dir", &path)).transpose()?,
                state_dir: plain("state_dir", &state_dir)?,
                host_paths,
            },
        })
    }
}

/// A length of time, such as `90s`, `10m` or `1h30m`; otherwise what it should be.
fn duration(value: &str) -> Result<Duration, &'static str> {
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
            fields: fields.map(|(name, value)| format!("{name}={}", on_one_line(value))).collect(),
            identifier: name.replace(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c), "_"),
        })
    }
}

/// As many lines a second as nothing writes; journald multiplies it by up to six.
const NO_RATE_LIMIT: u32 = u32::MAX / 8;

/// The journal field of a unit that says where its allocation's directory is on the host.
pub const ALLOC_DIR_FIELD: &str = "NOMAD_ALLOC_HOST_DIR";

fn on_one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Whom a task runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A user that exists as long as the task does, never the same for two tasks at a time.
    Ephemeral,
    /// A user of the host, by name or number.
    User(String),
}

/// A task that can be started, once its program is found.
#[derive(Clone)]
pub struct TaskSpec {
    /// The name of its unit.
    pub unit: UnitName,
    /// For people who list units.
    pub description: String,
    /// A short name of the task in its allocation, the same at every start.
    pub ephemeral_user: String,
    /// Whom it runs as.
    pub identity: Identity,
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
    /// Its memory.
    pub memory: Memory,
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
    /// What `config` means on this node.
    pub fn resolve(config: &TaskConfig, node: &NodeSpec) -> Result<Self, Error> {
        if let Some(what) = config.beyond.first() {
            return Err(Error::Beyond { what: what.clone() });
        }
        let mut env = config.known.env.clone();
        if node.view == View::Host {
            // Nomad adds the agent's own environment then, whose odd names (`BASH_FUNC_x%%`) are not the job's fault.
            env.retain(|name, _| env::is_name(name));
        }
        env::check(&env).map_err(Error::Env)?;
        let DriverConfig { command, args, logging: _, work_dir } = &config.driver;
        for (option, text) in [("command", command)].into_iter().chain(args.iter().map(|arg| ("args", arg))) {
            if text.contains('\0') {
                return Err(Error::Nul { option });
            }
            if text.len() > env::STRING_MAX {
                return Err(Error::TooLong { option, length: text.len() });
            }
        }
        if !is_plain(&config.known.alloc_dir) {
            return Err(Error::AllocDir { path: config.known.alloc_dir.clone() });
        }
        if !is_file_name(&config.known.name) {
            return Err(Error::Name { name: config.known.name.clone() });
        }
        let dirs = TaskDirs::new(&config.known.alloc_dir, &config.known.name);
        let working_directory = match work_dir.as_deref() {
            None => node.view.working_directory(&dirs),
            Some(path) if is_plain(Path::new(path)) => PathBuf::from(path),
            Some(path) => {
                let wanted = "an absolute path without `..`";
                return Err(Error::Option { option: "work_dir", value: path.to_owned(), wanted });
            }
        };
        let Resources { cpu_shares, memory_mb, memory_max_mb } = config.resources;
        Ok(Self {
            unit: unit_name(&config.known.alloc_id, &config.known.name, &config.known.id),
            description: format!("Nomad: {}/{}/{}", config.job_name, config.group_name, config.known.name),
            ephemeral_user: format!(
                "task-{}",
                digest(&format!("{}/{}", config.known.alloc_id, config.known.name), 12)
            ),
            identity: match config.user.as_str() {
                "" => node.default_identity.clone(),
                user => Identity::User(user.to_owned()),
            },
            view: node.view.clone(),
            dirs,
            working_directory,
            command: command.clone(),
            args: args.clone(),
            env,
            output: Output::resolve(config, node)?,
            stdout_path: config.stdout_path.clone(),
            stderr_path: config.stderr_path.clone(),
            cpu_weight: cpu_weight(cpu_shares),
            memory: Memory::resolve(memory_mb, memory_max_mb),
        })
    }
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

fn digest(text: &str, digits: usize) -> String {
    use sha2::{Digest, Sha256};
    let mut hex = hex::encode(Sha256::digest(text));
    hex.truncate(digits);
    hex
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && Path::new(name).file_name().is_some()
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
