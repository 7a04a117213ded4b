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

/// Nomad's message about a task, in our types. It holds the task's secrets (`env`): never log it.
#[derive(Clone)]
pub struct TaskConfig {
    /// This run of the task.
    pub id: TaskId,
    /// The task's name in the job.
    pub name: String,
    /// Its allocation.
    pub alloc_id: String,
    /// The job's name, for people.
    pub job_name: String,
    /// The group's name, for people.
    pub group_name: String,
    /// The job's `config` block.
    pub driver: DriverConfig,
    /// The complete environment of the task.
    pub env: BTreeMap<String, String>,
    /// The job's `user`; empty when there is none.
    pub user: String,
    /// The allocation directory on the host, parent of the task directories.
    pub alloc_dir: PathBuf,
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
        assert_eq!(config, DriverConfig { command: "a b".into(), args: vec!["$X".into(), String::new()] });
    }
}
