//! Nomad's message about a task, in our types.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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

/// What Nomad sends about a task when it starts the task, and again when it recovers the task after a restart of the
/// driver. It contains the task's secrets (`env`): never log it.
#[derive(Clone)]
pub struct TaskIdentity {
    /// This run of the task.
    pub id: TaskId,
    /// The task's name in the job.
    pub name: String,
    /// The task's allocation.
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
    /// What Nomad sends again after a restart.
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
    /// The paths of all options that the job sets in its `config` block ([`crate::task::config::options::given`]).
    pub given: Vec<(String, Option<&'static Opt>)>,
    /// The job's `user`; empty if it sets none.
    pub user: String,
    /// Where Nomad reads the task's stdout: a FIFO in the allocation, or `/dev/null`.
    pub stdout_path: PathBuf,
    /// Where Nomad reads the task's stderr.
    pub stderr_path: PathBuf,
    /// Resources that the job requests.
    pub resources: Resources,
    /// Volumes, and mounts of device plugins.
    pub mounts: Vec<Mount>,
    /// Devices of device plugins.
    pub devices: Vec<Device>,
    /// Network of the task's group.
    pub network: NetworkMode,
    /// The ports that Nomad allocated, by label.
    pub ports: BTreeMap<String, Port>,
    /// The `dns` block of the group's network.
    pub dns: Option<Dns>,
}

/// A port that Nomad allocated to the task's group.
///
/// Nomad also sets it in the environment (`NOMAD_PORT_http`), but a job can set any variable: only this is trusted.
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
    /// MHz, which Nomad treats like CPU shares of cgroup v1.
    pub cpu_shares: u64,
    /// MiB that are reserved for the task.
    pub memory_mb: u64,
    /// Memory limit of the task in MiB.
    pub memory_max_mb: MemoryMax,
    /// Cores that are reserved for the task, such as `0,3` or `2-5`; empty for a task that shares the other cores.
    pub cores: String,
}

/// A host path that is mounted for the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the task's view.
    pub target: PathBuf,
    /// The task cannot write to it.
    pub read_only: bool,
    /// Propagation of later mounts.
    pub propagation: Propagation,
}

/// Whether later mounts below a volume are visible on the other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Propagation {
    /// In neither direction.
    #[default]
    Private,
    /// Mounts of the host are visible to the task.
    HostToTask,
    /// In both directions.
    Bidirectional,
}

/// A device of a device plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the task's view.
    pub target: PathBuf,
    /// Any of `r`, `w` and `m`.
    pub permissions: String,
}

/// Network of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The host's network.
    #[default]
    Host,
    /// The network of the task's group.
    Group {
        /// File of the network namespace.
        namespace: PathBuf,
        /// Name and address of the group in its namespace.
        host: Option<(String, String)>,
    },
    /// A network with only a loopback device.
    None,
}

impl NetworkMode {
    /// The file of the group's network namespace, such as `/run/netns/5f1a7c0e`.
    pub fn namespace(&self) -> Option<&Path> {
        match self {
            Self::Group { namespace, .. } => Some(namespace),
            Self::Host | Self::None => None,
        }
    }
}

/// DNS servers and search domains of the task.
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
    /// A number of MiB.
    Mebibytes(u64),
    /// `-1`: no ceiling.
    Unlimited,
}
