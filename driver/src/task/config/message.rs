//! Nomad's message about a task, in our types.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::DriverConfig;
use super::options::Opt;

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
pub struct TaskIdentity {
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

impl fmt::Debug for TaskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskIdentity").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Nomad's message about a task, in our types.
#[derive(Clone)]
pub struct TaskConfig {
    /// What will be told again after a restart.
    pub identity: TaskIdentity,
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
    /// The paths of all options that the job gives in it ([`crate::task::config::options::given`]).
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
    /// Default: `memory` is the ceiling.
    #[default]
    Memory,
    /// So many MiB.
    Mebibytes(u64),
    /// `-1`: no ceiling.
    Unlimited,
}
