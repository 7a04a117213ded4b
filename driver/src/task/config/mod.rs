//! The configuration as Nomad sends it: the plugin's and the job's, and the whole message about a task.
//!
//! Nothing is decided here. [`crate::task::spec`] decides, once, what the configuration means.

mod message;
pub mod options;
pub mod settings;

use std::collections::BTreeMap;

pub use crate::task::config::message::{
    Device, Dns, MemoryMax, Mount, NetworkMode, Port, Propagation, Resources, TaskConfig, TaskId,
    TaskIdentity,
};
use crate::task::config::options::options;
pub use crate::task::config::settings::{Files, Limits, Network, Sandbox};

options! {
    /// The `config` block of the agent's `plugin "nomad-driver-systemd"` block.
    pub struct PluginConfig {
        /// Capabilities that a job may add (`cap_add`) or set in its `sandbox`; the default is that of Nomad's `exec` driver. `"all"` allows every capability.
        pub allow_caps: Vec<String> = "[\"audit_write\", \"chown\", \"dac_override\", \"fowner\", \"fsetid\", \"kill\", \"mknod\", \"net_bind_service\", \"setfcap\", \"setgid\", \"setpcap\", \"setuid\", \"sys_chroot\"]",
        /// Host paths that a job may bind, or use as a root or an image, with everything below them; `"/path:ro"` allows to read them and no more. `"local"` allows images and extensions in the task's own directories: for authors of jobs that you trust with the node, see [SECURITY.md](SECURITY.md).
        pub allow_host_paths: Vec<String> = "[]",
        /// Tasks that are root, or could act as root: with UID 0, with a capability such as `"setuid"` or `"dac_override"`, or with a named user and without `no_new_privileges`. `"no"`: refused. `"confined"`: allowed under the preset `"standard"`, in user and PID namespaces of their own (systemd 257 or newer), where a program cannot become another user; all other tasks of the node then have at least the preset `"standard"`, too. `"host"`: allowed with the rights of the host's root, limited by their capabilities and view.
        pub allow_root: String = "\"no\"",
        /// systemd properties that a job may set, as options or in `properties`: names, patterns such as `"Log*"`, and `"@confining"` for all that do not reach beyond the task. See also `sandbox_floor`.
        pub allow_properties: Vec<String> = "[\"@confining\"]",
        /// systemd properties that a job may not set, even if `allow_properties` has them.
        pub deny_properties: Vec<String> = "[]",
        /// GIDs that no task may run with, such as `"0,100-199"`.
        pub denied_host_gids: String = "\"\"",
        /// UIDs that no task may run as, whether named by the job or by `default_user`, such as `"0,1000-59999"`. Ephemeral users are not affected.
        pub denied_host_uids: String = "\"\"",
        /// Names of environment variables that are removed from every task, or patterns such as `"LD_*"`.
        pub denied_envvars: Vec<String> = "[]",
        /// User of tasks whose job sets no `user`, by name or UID. Default: an ephemeral user (`DynamicUser=`).
        pub default_user: Option<String>,
        /// `true`: Nomad allocates a UID to each task without a `user` (`users` in the agent's `client` block), in place of the ephemeral user.
        pub dynamic_workload_users: bool = "false",
        /// Tasks that share an ephemeral user: `"group"`, the tasks of a job's group in all its allocations, which can then write each other's files in `/alloc/data` and `/alloc/tmp`, on sticky disks and in volumes; or `"task"`, none.
        pub ephemeral_user: String = "\"group\"",
        /// `"image"`: a task sees `/local`, `/alloc`, `/secrets` and `host_paths`, and nothing else of the host.
        /// `"none"`: a task sees the whole host, and `NOMAD_TASK_DIR` and the like are host paths.
        pub fs_isolation: String = "\"image\"",
        /// Host paths that every task sees, read-only, with `fs_isolation = "image"`. Paths that do not exist are skipped.
        pub host_paths: Vec<String> = "[\"/usr\", \"/etc\", \"/bin\", \"/sbin\", \"/lib\", \"/lib32\", \"/lib64\", \"/libx32\"]",
        /// Log driver of tasks whose job sets no `logging.driver`.
        pub log_driver: String = "\"nomad\"",
        /// How long a running task may wait for Nomad to recover it, after the driver has started. Then the task is stopped as lost: its agent died before it stored the task's handle. `"0"`: for ever.
        pub lost_after: String = "\"10m\"",
        /// `"system"`, or `"user"` for the user manager of the user that the agent runs as. Default: `"system"`.
        pub manager: Option<String>,
        /// Where Prometheus finds the metrics of the driver (`/metrics`): a loopback address with a port, such as `"127.0.0.1:9633"`, or the path of a UNIX socket, such as `"/run/nomad-driver-systemd/metrics"`, which only the driver's user can connect to. Default: nowhere.
        pub metrics_address: Option<String>,
        /// Sandbox preset of tasks whose job sets none: `"strict"`, `"standard"` or `"off"`.
        pub sandbox: String = "\"standard\"",
        /// Preset that no task may be looser than, whatever its job sets; also the default if `sandbox` is looser.
        pub sandbox_floor: String = "\"off\"",
        /// Directory of `wasm-shim` and `wasm-shim-compile`. Default: beside the driver, else `/usr/local/libexec/nomad-driver-systemd`, else `/usr/libexec/nomad-driver-systemd`.
        pub shim_dir: Option<String>,
        /// Directory for the cache of compiled WebAssembly. Default: `/var/lib/nomad-driver-systemd`, or with `manager = "user"` the user's `~/.local/state/nomad-driver-systemd`.
        pub state_dir: Option<String>,
        /// Size of the cache of compiled WebAssembly in `state_dir`, such as `"512M"`; beyond that, the least recently used entries are evicted. `"0"`: nothing is kept.
        pub wasm_cache_size: String = "\"1G\"",
    }
}

options! {
    /// The `config` block of a task.
    pub struct DriverConfig {
        /// Program to run: a native binary, a script, or WebAssembly (recognized by its content, in the binary form). A relative path is looked up in the task's `local/`, a name alone also in `PATH`; an absolute path is a path in the task's view.
        pub command: String,
        /// Arguments of the program, passed unchanged.
        pub args: Vec<String> = "[]",
        /// Capabilities to add to those of the preset, such as `"net_bind_service"`. They are ambient: the task need not be root.
        pub cap_add: Vec<String> = "[]",
        /// Capabilities to drop; `"all"` drops every capability.
        pub cap_drop: Vec<String> = "[]",
        /// Credentials, as files in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredential=`).
        pub credential: Vec<Credential>,
        /// Entries of the task's `/etc/hosts`, each as `"name:address"`. The file then holds these, `localhost` and the group's name, and not the entries of the host.
        pub extra_hosts: Vec<String> = "[]",
        /// File system of the task.
        pub files: Option<Files>,
        /// Group of the task, by name or GID. Default: the user's group.
        pub group: Option<String>,
        /// Hostname that the task sees (systemd 258 or newer).
        pub hostname: Option<String>,
        /// Resource limits beyond those of the `resources` block.
        pub limits: Option<Limits>,
        /// Logging of the task's output.
        pub logging: Option<Logging>,
        /// Network access.
        pub network: Option<Network>,
        /// Readiness and watchdog messages of the task (sd_notify(3)). The operator must allow `"NotifyAccess"` (`allow_properties`).
        pub notify: Option<Notify>,
        /// Other systemd properties, with the name and value of a unit file; each line of a value is one assignment.
        pub properties: BTreeMap<String, String>,
        /// Sandbox of the task.
        pub sandbox: Option<Sandbox>,
        /// Sockets that systemd opens before the task starts and passes to it (sd_listen_fds(3)).
        pub socket: Vec<Socket>,
        /// Supplementary groups.
        pub supplementary_groups: Vec<String> = "[]",
        /// Resource limits per process, such as `nofile = "1024:4096"` (`LimitNOFILE=`).
        pub ulimit: BTreeMap<String, String>,
        /// Grants and limits of a WebAssembly task. In parentheses: the option of the wasmtime command line.
        pub wasm: Option<Wasm>,
        /// Working directory: an absolute path in the task's view. Default: the task's `local/`.
        pub work_dir: Option<String>,
    }
}

options! {
    /// The `logging` block of a task.
    pub struct Logging {
        /// `"nomad"` for `nomad alloc logs`, `"journald"` for the journal, with fields such as `NOMAD_JOB_ID` and `NOMAD_TASK_NAME`, or `"both"`. Default: the plugin's `log_driver`.
        pub driver: Option<String>,
        /// Journal namespace (`LogNamespace=`).
        pub namespace: Option<String>,
        /// Lines that the journal takes per interval (`LogRateLimitBurst=`).
        pub rate_limit_burst: Option<u32>,
        /// Length of the interval, such as `"30s"`; `"0"` disables the rate limit (`LogRateLimitIntervalSec=`).
        pub rate_limit_interval: Option<String>,
    }
}

options! {
    /// A `credential` block of a task.
    pub struct Credential {
        /// Name of the file in `$CREDENTIALS_DIRECTORY`.
        pub name: String,
        /// Source file: relative to the task's `secrets/`, `local/x` in its `local/`, or an absolute host path that the operator allows.
        pub path: String,
        /// `true`: the file is encrypted for this machine (systemd-creds(1)).
        pub encrypted: bool = "false",
    }
}

options! {
    /// The `notify` block of a task.
    pub struct Notify {
        /// Time within which the task must send `READY=1` (sd_notify(3)); StartTask waits for it. `"0"`: do not wait. At most `"10m"` for WebAssembly.
        pub ready_within: String = "\"1m\"",
        /// Watchdog interval: a task that does not send `WATCHDOG=1` at least this often is killed. Default: no watchdog.
        pub watchdog: Option<String>,
        /// Processes whose messages count: the program's own (`"main"`) or those of all processes of the task (`"all"`).
        pub access: String = "\"main\"",
    }
}

options! {
    /// A `socket` block of a task.
    pub struct Socket {
        /// Name that the task finds in `LISTEN_FDNAMES`.
        pub name: String,
        /// Label of a port that Nomad allocated to the group.
        pub port: Option<String>,
        /// Path of a UNIX socket directly in `/alloc`, `/local` or `/secrets`, in place of `port`.
        pub path: Option<String>,
        /// `"stream"` or `"datagram"`.
        pub kind: String = "\"stream\"",
        /// File mode of the path, such as `"0660"`; of several sockets of a task the first mode counts for all. Default: `"0666"`; the owner is root.
        pub mode: Option<String>,
    }
}

options! {
    /// The `wasm` block of a task.
    pub struct Wasm {
        /// Value of `argv[0]`, also used in messages (`--argv0`). Default: the file name.
        pub argv0: Option<String>,
        /// `true`: files and lines in backtraces, if the guest was built with debug information (`-W backtrace-details`).
        pub backtrace_details: bool = "false",
        /// Variables of `wasi:config` (`-S config-var`). Other users cannot read them.
        pub config: BTreeMap<String, String>,
        /// Addresses that the guest may connect and send to, also by HTTP, each as `"ADDRESS[/PREFIX]:PORT[-PORT]"`, optionally with the prefix `tcp:` or `udp:`, such as `"tcp:10.0.0.0/8:5432"`, `"[::1]:53"` or `"*:443"`.
        pub connect: Vec<String> = "[]",
        /// Preopened directories, each as `"PATH[::NAME[:ro]]"`, with the path in a native task's view (`--dir`). Default: `/local`, `/alloc`, `/secrets` and the volumes, read-only ones read-only.
        pub dirs: Option<Vec<String>>,
        /// Names of the task's environment variables that the guest gets (`--env`). Default: all.
        pub env: Option<Vec<String>>,
        /// Number of instructions that the guest may execute (`-W fuel`); counting costs about a tenth of the speed.
        pub fuel: Option<u64>,
        /// `true`: the guest has full access to the task's network (`-S inherit-network`).
        pub inherit_network: bool = "false",
        /// Addresses that the guest may bind and listen on, written as in `connect`.
        pub listen: Vec<String> = "[]",
        /// Maximum number of core instances (`-W max-instances`).
        pub max_instances: Option<u64>,
        /// Maximum size of each linear memory, such as `"64M"` (`-W max-memory-size`). Default: 8 MiB less than the task's `memory_max` or `memory`, if that is at least 16 MiB, so that allocations fail instead of the task being OOM-killed.
        pub max_memory: Option<String>,
        /// Maximum stack size, such as `"1M"` (`-W max-wasm-stack`).
        pub max_stack: Option<String>,
        /// Maximum number of elements of each table (`-W max-table-elements`). Default: 20000 for servers; for commands as many as `max_memory` has room for.
        pub max_table_elements: Option<u64>,
        /// `true`: the guest may look up names (`-S allow-ip-name-lookup`), in `/etc/hosts` and by DNS, and so send HTTP requests to host names.
        pub name_lookup: bool = "false",
        /// WebAssembly proposals to enable or disable, such as `simd = false` (`-W`).
        pub proposals: BTreeMap<String, String>,
        /// Runs the guest as an HTTP server (`wasi:http`) until it is stopped.
        pub serve: Option<Serve>,
        /// Maximum run time, such as `"30s"` (`-W timeout`).
        pub timeout: Option<String>,
        /// `true`: the guest traps when it cannot grow its memory, instead of getting an error (`-W trap-on-grow-failure`).
        pub trap_on_grow_failure: bool = "false",
    }
}

options! {
    /// The `serve` block of a guest.
    pub struct Serve {
        /// `true`: log each request to stderr, with its status, its time and the trace ID of its `traceparent`.
        pub access_log: bool = "false",
        /// Time that a client may stall while it sends a request's body or reads the response (`--client-timeout`). Every 500 bytes that are transferred give back one second, up to the whole time; while other requests wait, the time runs five times as fast. `"0"`: no limit.
        pub client_timeout: String = "\"30s\"",
        /// Requests that an instance handles at the same time (`--max-instance-concurrent-reuse-count`). Default: 16; with WASI 0.2 always 1.
        pub concurrency: Option<u32>,
        /// Time for which an idle instance is kept (`--idle-instance-timeout`).
        pub idle_timeout: String = "\"1s\"",
        /// Requests that are handled at the same time; others wait.
        pub max_concurrent_requests: u32 = "128",
        /// Label of the port to serve on, of those that Nomad allocated to the group. systemd opens it: it may be below 1024, and the guest needs no network access.
        pub port: Option<String>,
        /// Requests that an instance handles before it is replaced (`--max-instance-reuse-count`). Default: 1 with WASI 0.2, 128 with 0.3.
        pub reuse: Option<u32>,
        /// Time for open requests to finish after `SIGTERM` (the default of `kill_signal` here) or `SIGINT`; other signals end the server at once. Set it below the task's `kill_timeout`.
        pub shutdown_timeout: String = "\"4s\"",
        /// Name of a `socket` block to serve on, in place of `port`.
        pub socket: Option<String>,
        /// Maximum time per request, such as `"30s"`; then the response is 504 (`-W timeout`).
        pub timeout: Option<String>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::config::options::Error;

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
        assert_eq!(error.to_string(), "option `command` must be a string: integer `5`, expected a string");
        let fuel = rmpv::Value::Map(vec![("fuel".into(), (-1).into())]);
        let error = DriverConfig::decode(&msgpack(&[("command", "x".into()), ("wasm", fuel)])).unwrap_err();
        let told = "option `fuel` must be a number: integer `-1`, expected a whole number of at least 0";
        assert!(crate::chain(&error).ends_with(told), "{}", crate::chain(&error));
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
