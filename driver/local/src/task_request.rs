//! The request to start one task: the wire's `TaskConfig` from plain values.
//!
//! The job runner fills it from a job file; tests fill it by hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use proto::driver::{
    AllocatedCpuResources, AllocatedMemoryResources, AllocatedTaskResources, Device, DnsConfig,
    LinuxResources, Mount, NetworkIsolationSpec, PortMapping, Resources, TaskConfig,
};

use crate::taskenv::{AllocatedPort, HOST_IP};

/// The request for one task. Every field has a harmless default; set the fields that the test or job needs.
#[derive(Debug, Clone)]
pub struct TaskRequest {
    /// The allocation's id, such as `d2c1b3a4-5f60-4718-8293-a4b5c6d7e8f9`, created by [`new_alloc_id`].
    pub alloc_id: String,
    /// The task's name, such as `web`.
    pub task: String,
    /// The group's name.
    pub group: String,
    /// The job's id.
    pub job_id: String,
    /// The job's name.
    pub job_name: String,
    /// The namespace, such as `default`.
    pub namespace: String,
    /// The node's name and id.
    pub node: (String, String),
    /// The job's `user`, empty for none.
    pub user: String,
    /// The whole environment of the task.
    pub env: BTreeMap<String, String>,
    /// The `config` block, decoded by [`crate::hclspec::decode`].
    pub config: Vec<u8>,
    /// The allocation's directory on the node.
    pub alloc_dir: PathBuf,
    /// A pipe or `/dev/null`.
    pub stdout: PathBuf,
    /// A pipe or `/dev/null`.
    pub stderr: PathBuf,
    /// MHz.
    pub cpu: u64,
    /// The share of the node's MHz, between 0 and 1.
    pub cpu_fraction: f64,
    /// The reserved cores, if any.
    pub cores: Vec<u32>,
    /// MiB.
    pub memory: i64,
    /// MiB; zero for the value of `memory`, -1 for no limit.
    pub memory_max: i64,
    /// The group's ports.
    pub ports: Vec<AllocatedPort>,
    /// The group's name resolution.
    pub dns: Option<DnsConfig>,
    /// The volumes of the task.
    pub mounts: Vec<Mount>,
    /// The devices of the task.
    pub devices: Vec<Device>,
    /// The group's network namespace; none for the host's.
    pub network: Option<NetworkIsolationSpec>,
}

impl TaskRequest {
    /// A minimal task: 100 MHz, 300 MiB, no output, an empty configuration.
    pub fn new(alloc_id: &str, task: &str, alloc_dir: &Path) -> Self {
        Self {
            alloc_id: alloc_id.to_owned(),
            task: task.to_owned(),
            group: "group".to_owned(),
            job_id: "job".to_owned(),
            job_name: "job".to_owned(),
            namespace: "default".to_owned(),
            node: (String::new(), String::new()),
            user: String::new(),
            env: BTreeMap::new(),
            config: Vec::new(),
            alloc_dir: alloc_dir.to_owned(),
            stdout: PathBuf::from("/dev/null"),
            stderr: PathBuf::from("/dev/null"),
            cpu: 100,
            cpu_fraction: 0.1,
            cores: Vec::new(),
            memory: 300,
            memory_max: 0,
            ports: Vec::new(),
            dns: None,
            mounts: Vec::new(),
            devices: Vec::new(),
            network: None,
        }
    }

    /// The message of `StartTask`, with a new task id: `<allocation>/<task>/<8 hex digits>`.
    pub fn task_config(&self) -> TaskConfig {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let megahertz = i64::try_from(self.cpu).unwrap_or(i64::MAX);
        let port = |port: &AllocatedPort| PortMapping {
            label: port.label.clone(),
            value: port.value.into(),
            to: port.to.into(),
            host_ip: HOST_IP.to_owned(),
        };
        TaskConfig {
            id: format!("{}/{}/{:08x}", self.alloc_id, self.task, random() >> 96),
            name: self.task.clone(),
            msgpack_driver_config: self.config.clone(),
            env: self.env.clone().into_iter().collect(),
            device_env: std::collections::HashMap::new(),
            resources: Some(Resources {
                allocated_resources: Some(AllocatedTaskResources {
                    cpu: Some(AllocatedCpuResources { cpu_shares: megahertz }),
                    memory: Some(AllocatedMemoryResources {
                        memory_mb: self.memory,
                        memory_max_mb: self.memory_max,
                    }),
                    networks: Vec::new(),
                }),
                linux_resources: Some(LinuxResources {
                    cpu_shares: megahertz,
                    memory_limit_bytes: self.memory.max(self.memory_max) * 1024 * 1024,
                    cpuset_cpus: self.cores.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
                    percent_ticks: self.cpu_fraction,
                    ..LinuxResources::default()
                }),
                ports: self.ports.iter().map(port).collect(),
            }),
            mounts: self.mounts.clone(),
            devices: self.devices.clone(),
            user: self.user.clone(),
            alloc_dir: text(&self.alloc_dir),
            stdout_path: text(&self.stdout),
            stderr_path: text(&self.stderr),
            task_group_name: self.group.clone(),
            job_name: self.job_name.clone(),
            alloc_id: self.alloc_id.clone(),
            network_isolation_spec: self.network.clone(),
            dns: self.dns.clone(),
            job_id: self.job_id.clone(),
            namespace: self.namespace.clone(),
            node_name: self.node.0.clone(),
            node_id: self.node.1.clone(),
            parent_job_id: String::new(),
        }
    }
}

/// A new allocation id, a version 4 UUID.
pub fn new_alloc_id() -> String {
    let digits = format!("{:032x}", random());
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    format!("{}-{}-4{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

/// 128 unique bits: from the kernel if possible, otherwise from the clock and our PID, which differ between runs.
fn random() -> u128 {
    let mut bytes = [0_u8; 16];
    let read = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    if read.is_err() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        return now ^ (u128::from(std::process::id()) << 96);
    }
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_has_an_id_of_its_own() {
        let request = TaskRequest::new(&new_alloc_id(), "web", Path::new("/a"));
        let (first, second) = (request.task_config(), request.task_config());
        assert_ne!(first.id, second.id);
        assert!(first.id.starts_with(&format!("{}/web/", request.alloc_id)));
        assert_eq!(first.id.rsplit('/').next().unwrap().len(), 8);
    }

    #[test]
    fn an_alloc_id_is_a_uuid() {
        let id = new_alloc_id();
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_ne!(id, new_alloc_id());
    }

    #[test]
    fn the_memory_limit_is_the_larger_of_both() {
        let mut request = TaskRequest::new("a", "t", Path::new("/a"));
        let limit = |request: &TaskRequest| {
            request.task_config().resources.unwrap().linux_resources.unwrap().memory_limit_bytes / 1024 / 1024
        };
        (request.memory, request.memory_max) = (64, 128);
        assert_eq!(limit(&request), 128);
        request.memory_max = -1;
        assert_eq!(limit(&request), 64);
    }
}
