//! What was said: the plugin's and the job's configuration, and Nomad's whole message about a task.
//!
//! Nothing is decided here. [`super::spec`] decides, once, what it all means.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::options::{Opt, options};
pub use super::settings::{Files, Limits, Network, Sandbox};

options! {
    /// The `config` block of the agent's `plugin "nomad-driver-systemd"` block.
    pub struct PluginConfig {
        /// Capabilities that a job may add (`cap_add`), or have in its `sandbox`: those of Nomad's `exec` driver. `"all"` is all.
        pub allow_caps: Vec<String> = "[\"audit_write\", \"chown\", \"dac_override\", \"fowner\", \"fsetid\", \"kill\", \"mknod\", \"net_bind_service\", \"setfcap\", \"setgid\", \"setpcap\", \"setuid\", \"sys_chroot\"]",
        /// Paths of the host that a job may name, with all below them: to bind, as a root, as an image. An image in the task's own directories needs `"local"` here, since a job could have the kernel mount what an `artifact` block fetched.
        pub allow_host_paths: Vec<String> = "[]",
        /// What a task may be that is root, or could act as root: whose `user` is number 0, that has a capability such as `"setuid"` or `"dac_override"`, or that runs as a named user without `no_new_privileges`. `"no"`: it is refused. `"confined"`: it keeps the preset `"standard"`, in user and process namespaces of its own (systemd 257 or newer). `"host"`: its rights are those of the host's root, within its capabilities and view.
        pub allow_root: String = "\"no\"",
        /// Properties that a job may set, as options or under `properties`: their names, patterns such as `"Log*"`, and `"@confining"`, which is all that does not reach beyond a task. How tight it must be is another matter: `sandbox_floor`.
        pub allow_properties: Vec<String> = "[\"@confining\"]",
        /// Properties that a job may not set, whatever is allowed.
        pub deny_properties: Vec<String> = "[]",
        /// Groups that no task runs as, by number, such as `"0,100-199"`.
        pub denied_host_gids: String = "\"\"",
        /// Users that no task runs as, by number.
        pub denied_host_uids: String = "\"\"",
        /// Variables that no task has, whoever sets them.
        pub denied_envvars: Vec<String> = "[]",
        /// User of a task whose job names none, by name or number. Not given: an ephemeral user per task (`DynamicUser=`).
        pub default_user: Option<String>,
        /// `true`: Nomad gives each task without a `user` a number of its own (`users` in the agent's `client` block) instead of the ephemeral user.
        pub dynamic_workload_users: bool = "false",
        /// `"image"`: a task sees `/local`, `/alloc`, `/secrets` and `host_paths`, nothing else of the host.
        /// `"none"`: it sees the host as it is, and Nomad tells it host paths.
        pub fs_isolation: String = "\"image\"",
        /// What of the host every task sees, read-only, under `fs_isolation = "image"`. A path that is not there is passed over.
        pub host_paths: Vec<String> = "[\"/usr\", \"/etc\", \"/bin\", \"/sbin\", \"/lib\", \"/lib32\", \"/lib64\", \"/libx32\"]",
        /// Where the output of tasks goes whose job does not say in `logging`.
        pub log_driver: String = "\"nomad\"",
        /// How long after a start of the driver a task that Nomad does not ask for is left alone. Then it is taken for lost by an agent that died at a bad moment, and is ended. `"0"`: never.
        pub lost_after: String = "\"10m\"",
        /// `"system"`, or `"user"`: the systemd of the user whom the agent runs as. Not given: `"system"`.
        pub manager: Option<String>,
        /// The preset of a task whose job names none: `"strict"`, `"standard"` or `"off"`.
        pub sandbox: String = "\"standard\"",
        /// The least that every task has, whatever its job says, as the name of a preset.
        pub sandbox_floor: String = "\"off\"",
        /// Directory of `wasm-shim` and `wasm-shim-compile`. Not given: beside the driver, else `/usr/local/libexec/nomad-driver-systemd`, else `/usr/libexec/nomad-driver-systemd`.
        pub shim_dir: Option<String>,
        /// Directory for what outlives the driver: the code compiled from WebAssembly. Not given: `/var/lib/nomad-driver-systemd`, or with `manager = "user"` the user's `~/.local/state/nomad-driver-systemd`.
        pub state_dir: Option<String>,
        /// How much compiled code is kept in `state_dir`, such as `"512M"`: of more, what was not used for the longest time is removed, and made anew when a task needs it. `"0"`: none longer than a task needs it to start.
        pub wasm_cache_size: String = "\"1G\"",
    }
}

options! {
    /// The `config` block of a task.
    pub struct DriverConfig {
        /// Program to run: a native binary, a script, or WebAssembly, which is told by its content. A relative path is looked up in the task's `local/`, an absolute one is taken as it is.
        pub command: String,
        /// Arguments of the program, passed as they are.
        pub args: Vec<String> = "[]",
        /// Capabilities beside those of the preset, such as `"net_bind_service"`; the task has them without being root, too.
        pub cap_add: Vec<String> = "[]",
        /// Capabilities that it shall not have; `"all"` is all.
        pub cap_drop: Vec<String> = "[]",
        /// Files handed over as systemd's credentials, in `$CREDENTIALS_DIRECTORY`.
        pub credential: Vec<Credential>,
        /// Lines for the task's `/etc/hosts`, each as `"name:address"`.
        pub extra_hosts: Vec<String> = "[]",
        /// What it sees of files.
        pub files: Option<Files>,
        /// Group, by name or number. Not given: its user's.
        pub group: Option<String>,
        /// Its own name of the machine.
        pub hostname: Option<String>,
        /// What it may use of the machine beside `resources`.
        pub limits: Option<Limits>,
        /// Where the task's output goes.
        pub logging: Option<Logging>,
        /// Whom it may speak with.
        pub network: Option<Network>,
        /// The task says itself when it is ready, and that it is well.
        pub notify: Option<Notify>,
        /// Any other property of a service, by the name and with the value that it has in a unit file; each line of a value is one assignment.
        pub properties: BTreeMap<String, String>,
        /// What it may do.
        pub sandbox: Option<Sandbox>,
        /// Sockets that are open before the task starts, and are passed to it (sd_listen_fds(3)).
        pub socket: Vec<Socket>,
        /// Groups beside its own.
        pub supplementary_groups: Vec<String> = "[]",
        /// Limits of each process, such as `nofile = "1024:4096"` (`LimitNOFILE=`).
        pub ulimit: BTreeMap<String, String>,
        /// What a WebAssembly guest gets, and its limits. What the wasmtime command line has for it stands in parentheses.
        pub wasm: Option<Wasm>,
        /// Working directory, an absolute path as the task sees it. Not given: the task's `local/`.
        pub work_dir: Option<String>,
    }
}

options! {
    /// The `logging` block of a task.
    pub struct Logging {
        /// `"nomad"`: `nomad alloc logs` has it. `"journald"`: the journal has it, each line with fields such as `NOMAD_JOB_ID` and `NOMAD_TASK_NAME`. `"both"`. Not given: as the plugin's `log_driver` says.
        pub driver: Option<String>,
        /// The journal's namespace (`LogNamespace=`).
        pub namespace: Option<String>,
        /// How many lines the journal takes in each interval (`LogRateLimitBurst=`).
        pub rate_limit_burst: Option<u32>,
        /// The length of the interval, such as `"30s"`; `"0"` is no limit (`LogRateLimitIntervalSec=`).
        pub rate_limit_interval: Option<String>,
    }
}

options! {
    /// A `credential` block of a task.
    pub struct Credential {
        /// The name of the file in `$CREDENTIALS_DIRECTORY`.
        pub name: String,
        /// The file: in the task's `secrets/`, or an absolute path that the operator allows.
        pub path: String,
        /// `true`: it is encrypted for this machine (systemd-creds(1)).
        pub encrypted: bool = "false",
    }
}

options! {
    /// The `notify` block of a task.
    pub struct Notify {
        /// How long it may take to say that it is ready (`READY=1`, sd_notify(3)); until then Nomad waits. `"0"`: it says nothing.
        pub ready_within: String = "\"1m\"",
        /// It must say that it is well (`WATCHDOG=1`) at least as often, or it is killed. Not given: it need not.
        pub watchdog: Option<String>,
        /// Who of the task may speak: `"main"` or `"all"`.
        pub access: String = "\"main\"",
    }
}

options! {
    /// A `socket` block of a task.
    pub struct Socket {
        /// Its name for the task (`LISTEN_FDNAMES`).
        pub name: String,
        /// The label of a port that Nomad allocated to the group.
        pub port: Option<String>,
        /// Or a path directly in `/alloc`, `/local` or `/secrets`.
        pub path: Option<String>,
        /// `"stream"` or `"datagram"`.
        pub kind: String = "\"stream\"",
        /// The mode of the path, such as `"0660"`.
        pub mode: Option<String>,
    }
}

options! {
    /// The `wasm` block of a task.
    pub struct Wasm {
        /// Its name for itself and in messages (`--argv0`). Not given: the file's name.
        pub argv0: Option<String>,
        /// Names and values that it may ask for (`wasi:config`, `-S config-var`). Nobody else can read them.
        pub config: BTreeMap<String, String>,
        /// Addresses that it may connect and send to, also by HTTP, each as `"ADDRESS[/PREFIX]:PORT[-PORT]"`, with `tcp:` or `udp:` before it if not both are meant, such as `"tcp:10.0.0.0/8:5432"`, `"[::1]:53"` or `"*:443"`.
        pub connect: Vec<String> = "[]",
        /// Directories that it sees, each as `"PATH[::NAME[:ro]]"`, with the path as a native task would see it (`--dir`). Not given: `/local`, `/alloc`, `/secrets` and the volumes, read-only ones as such.
        pub dirs: Option<Vec<String>>,
        /// The names of those of the task's variables that it sees (`--env`). Not given: all.
        pub env: Option<Vec<String>>,
        /// How many instructions it may execute (`-W fuel`); counting costs a tenth of its speed.
        pub fuel: Option<u64>,
        /// `true`: it may use the task's network as it likes (`-S inherit-network`).
        pub inherit_network: bool = "false",
        /// Addresses that it may bind, listen and accept on, written as in `connect`.
        pub listen: Vec<String> = "[]",
        /// How many core instances it may consist of (`-W max-instances`).
        pub max_instances: Option<u64>,
        /// How large each of its memories may become, such as `"64M"` (`-W max-memory-size`). Not given: 8 MiB less than the task's `memory_max` or `memory`, if that is at least 16 MiB, so that it is told that there is no more instead of being killed.
        pub max_memory: Option<String>,
        /// How deep its calls may be nested, as bytes of stack, such as `"1M"` (`-W max-wasm-stack`).
        pub max_stack: Option<String>,
        /// How many elements each of its tables may have (`-W max-table-elements`). Not given: 20000 for one that serves, and for others as many as `max_memory` has room for.
        pub max_table_elements: Option<u64>,
        /// `true`: it may look up the addresses of names (`-S allow-ip-name-lookup`), and with it send HTTP requests to names.
        pub name_lookup: bool = "false",
        /// Parts of the language by their names, such as `simd = false` (`-W`).
        pub proposals: BTreeMap<String, String>,
        /// It is a server of HTTP (`wasi:http`), and answers requests until it is stopped.
        pub serve: Option<Serve>,
        /// How long it may run, such as `"30s"` (`-W timeout`).
        pub timeout: Option<String>,
        /// `true`: it ends when it is refused memory, instead of being told (`-W trap-on-grow-failure`).
        pub trap_on_grow_failure: bool = "false",
    }
}

options! {
    /// The `serve` block of a guest.
    pub struct Serve {
        /// `true`: a line on stderr for each request.
        pub access_log: bool = "false",
        /// How long a client may stop sending a request's body, or taking its answer, before it loses its place (`--client-timeout`). Each 500 bytes add a second, up to the whole time; while other requests wait, time counts fivefold. `"0"`: as long as it likes.
        pub client_timeout: String = "\"30s\"",
        /// How many requests an instance answers at the same time (`--max-instance-concurrent-reuse-count`). Not given: 16, and with WASI 0.2 always 1.
        pub concurrency: Option<u32>,
        /// How long an instance without requests is kept (`--idle-instance-timeout`).
        pub idle_timeout: String = "\"1s\"",
        /// How many requests it works on at the same time; others wait.
        pub max_concurrent_requests: u32 = "128",
        /// The label of the port that it serves on, of those that Nomad allocated to the group. systemd opens it, so that it may be below 1024, and the guest needs no network.
        pub port: Option<String>,
        /// How many requests an instance answers before a new one takes its place (`--max-instance-reuse-count`). Not given: 1 with WASI 0.2, 128 with 0.3.
        pub reuse: Option<u32>,
        /// How long after its `kill_signal`, which is `SIGTERM` unless the job says otherwise, the requests that it has may take to be finished. To be less than the task's `kill_timeout`.
        pub shutdown_timeout: String = "\"4s\"",
        /// Or the name of a `socket` block.
        pub socket: Option<String>,
        /// How long each request may take, such as `"30s"`, before it is answered with 504 (`-W timeout`).
        pub timeout: Option<String>,
    }
}

/// Nomad's name for one run of a task, `<allocation>/<task>/<8 hex digits>`; new at every start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskId(pub String);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What Nomad tells of a task when it starts it, and again when it gives it back to us after a restart. It holds the
/// task's secrets (`env`): never log it.
#[derive(Clone)]
pub struct Known {
    /// This run of the task.
    pub id: TaskId,
    /// The task's name in the job.
    pub name: String,
    /// Its allocation.
    pub alloc_id: String,
    /// The allocation directory on the host, parent of the task directories.
    pub alloc_dir: PathBuf,
    /// The complete environment of the task.
    pub env: BTreeMap<String, String>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Nomad's message about a task, in our types.
#[derive(Clone)]
pub struct TaskConfig {
    /// What will be told again after a restart.
    pub known: Known,
    /// The job's id.
    pub job_id: String,
    /// The job's name, for people.
    pub job_name: String,
    /// Nomad's namespace of the job.
    pub namespace: String,
    /// The group's name, for people.
    pub group_name: String,
    /// The job's `config` block.
    pub driver: DriverConfig,
    /// The paths of all options that the job gives in it ([`super::options::given`]).
    pub given: Vec<(String, Option<&'static Opt>)>,
    /// The job's `user`; empty when there is none.
    pub user: String,
    /// Where Nomad reads the task's output: a FIFO in the allocation, or `/dev/null`.
    pub stdout_path: PathBuf,
    /// The same for its errors.
    pub stderr_path: PathBuf,
    /// What the job asks for.
    pub resources: Resources,
    /// Volumes and what device plugins mount.
    pub mounts: Vec<Mount>,
    /// Devices of device plugins.
    pub devices: Vec<Device>,
    /// The network of its group.
    pub network: NetworkMode,
    /// The ports that Nomad allocated, by label.
    pub ports: BTreeMap<String, Port>,
    /// The `dns` block of the group's network.
    pub dns: Option<Dns>,
}

/// A port that Nomad allocated to the task's group.
///
/// Nomad repeats it in the environment (`NOMAD_PORT_http`), but a job can set any variable: only this is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Address and port on the host, such as `192.168.1.7:23456`.
    pub host: SocketAddr,
    /// The port inside the group's own network namespace, if the group has one.
    pub inside: u16,
}

/// The job's `resources` block.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// MHz, which Nomad treats like the CPU shares of old.
    pub cpu_shares: u64,
    /// MiB that the task is promised.
    pub memory_mb: u64,
    /// MiB that it may reach.
    pub memory_max_mb: MemoryMax,
    /// The cores that are its own, such as `0,3` or `2-5`; empty for a task that shares the others.
    pub cores: String,
}

/// A path of the host that the task shall see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the task's view.
    pub target: PathBuf,
    /// The task cannot write to it.
    pub read_only: bool,
    /// Whose later mounts reach whom.
    pub propagation: Propagation,
}

/// Whether mounts that are made below a volume later on are seen on the other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Propagation {
    /// On neither.
    #[default]
    Private,
    /// The task sees those of the host.
    HostToTask,
    /// And the other way round.
    Bidirectional,
}

/// A device of a device plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// On the host.
    pub source: PathBuf,
    /// In the task's view.
    pub target: PathBuf,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// What network a task is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The host's.
    #[default]
    Host,
    /// That of its group.
    Group {
        /// The network namespace's file.
        namespace: PathBuf,
        /// The name and address of the group in it.
        host: Option<(String, String)>,
    },
    /// None but a loopback device.
    None,
}

/// Who is asked for the addresses of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of servers.
    pub servers: Vec<String>,
    /// Domains to search.
    pub searches: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// The job's `memory_max`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryMax {
    /// Not given: `memory` is the ceiling.
    #[default]
    Memory,
    /// So many MiB.
    Mebibytes(u64),
    /// `-1`: no ceiling.
    Unlimited,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::options::Error;

    fn msgpack(pairs: &[(&str, rmpv::Value)]) -> Vec<u8> {
        let map = pairs.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &rmpv::Value::Map(map)).unwrap();
        bytes
    }

    #[test]
    fn options_that_were_not_given_have_their_defaults() {
        let nothing = PluginConfig::decode(&[]).unwrap();
        assert_eq!(nothing.fs_isolation, "image");
        assert_eq!(nothing.default_user, None);
        assert!(nothing.host_paths.contains(&"/usr".to_owned()));
        let nil = msgpack(&[("fs_isolation", rmpv::Value::Nil), ("default_user", rmpv::Value::Nil)]);
        assert_eq!(PluginConfig::decode(&nil).unwrap(), nothing);
    }

    #[test]
    fn a_missing_command_is_refused_by_its_name() {
        let error =
            DriverConfig::decode(&msgpack(&[("args", rmpv::Value::Array(vec!["x".into()]))])).unwrap_err();
        assert!(matches!(error, Error::Missing { option: "command", .. }), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_by_its_name() {
        let error = DriverConfig::decode(&msgpack(&[("command", 5.into())])).unwrap_err();
        assert_eq!(error.to_string(), "option `command` must be a string");
    }

    #[test]
    fn a_mistake_in_a_block_is_named_with_the_block() {
        let logging = |value| DriverConfig::decode(&msgpack(&[("command", "x".into()), ("logging", value)]));
        let map = rmpv::Value::Map(vec![("driver".into(), "both".into())]);
        assert_eq!(logging(map).unwrap().logging.unwrap().driver.unwrap(), "both");
        let error = logging(rmpv::Value::Map(vec![("rate_limit_burst".into(), "x".into())])).unwrap_err();
        assert_eq!(crate::chain(&error).split(": ").next(), Some("in `logging`"));
        assert!(crate::chain(&error).contains("`rate_limit_burst` must be a number"));
    }

    #[test]
    fn bytes_that_are_no_block_are_refused() {
        for bytes in [&[0x93, 1][..], b"text"] {
            assert!(matches!(DriverConfig::decode(bytes), Err(Error::Unreadable)), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_given_is_taken_as_it_is() {
        let bytes =
            msgpack(&[("command", "a b".into()), ("args", rmpv::Value::Array(vec!["$X".into(), "".into()]))]);
        let config = DriverConfig::decode(&bytes).unwrap();
        let args = vec!["$X".into(), String::new()];
        assert_eq!((config.command.as_str(), config.args), ("a b", args));
    }
}
