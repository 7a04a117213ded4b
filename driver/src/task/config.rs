//! What was said: the plugin's and the job's configuration, and Nomad's whole message about a task.
//!
//! Nothing is decided here. [`super::spec`] decides, once, what it all means.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::options::options;

options! {
    /// The `config` block of the agent's `plugin "nomad-driver-systemd"` block.
    pub struct PluginConfig {
        /// User of a task whose job names none, by name or number. Not given: an ephemeral user per task (`DynamicUser=`).
        pub default_user: Option<String>,
        /// `"image"`: a task sees `/local`, `/alloc`, `/secrets` and `host_paths`, nothing else of the host.
        /// `"none"`: it sees the host as it is, and Nomad tells it host paths.
        pub fs_isolation: String = "\"image\"",
        /// What of the host every task sees, read-only, under `fs_isolation = "image"`. A path that is not there is passed over.
        pub host_paths: Vec<String> = "[\"/usr\", \"/etc\", \"/bin\", \"/sbin\", \"/lib\", \"/lib32\", \"/lib64\", \"/libx32\"]",
        /// Where the output of tasks goes whose job does not say in `logging`.
        pub log_driver: String = "\"nomad\"",
        /// How long after a start of the driver a task that Nomad does not ask for is left alone. Then it is taken for lost by an agent that died at a bad moment, and is ended. `"0"`: never.
        pub lost_after: String = "\"10m\"",
        /// Directory of `wasm-shim` and `wasm-shim-compile`. Not given: beside the driver, else `/usr/local/libexec/nomad-driver-systemd`, else `/usr/libexec/nomad-driver-systemd`.
        pub shim_dir: Option<String>,
        /// Directory for what outlives the driver: the code compiled from WebAssembly.
        pub state_dir: String = "\"/var/lib/nomad-driver-systemd\"",
    }
}

options! {
    /// The `config` block of a task.
    pub struct DriverConfig {
        /// Program to run: a native binary, a script, or WebAssembly, which is told by its content. A relative path is looked up in the task's `local/`, an absolute one is taken as it is.
        pub command: String,
        /// Arguments of the program, passed as they are.
        pub args: Vec<String> = "[]",
        /// Where the task's output goes.
        pub logging: Option<Logging>,
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
    /// The job's `user`; empty when there is none.
    pub user: String,
    /// Where Nomad reads the task's output: a FIFO in the allocation, or `/dev/null`.
    pub stdout_path: PathBuf,
    /// The same for its errors.
    pub stderr_path: PathBuf,
    /// What the job asks for.
    pub resources: Resources,
    /// What the job asks for and this version of the driver cannot give, each in the job's words.
    pub beyond: Vec<String>,
}

/// The job's `resources` block.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resources {
    /// MHz, which Nomad treats like the CPU shares of old.
    pub cpu_shares: u64,
    /// MiB that the task is promised.
    pub memory_mb: u64,
    /// MiB that it may reach.
    pub memory_max_mb: MemoryMax,
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
        assert_eq!(config, DriverConfig { command: "a b".into(), args, logging: None, work_dir: None });
    }
}
