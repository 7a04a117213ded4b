//! The requests to the driver for the tasks of a job, one after the other.
//!
//! Nothing on the node is changed: whoever runs the tasks creates directories and pipes and fetches artifacts.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;

use proto::driver::driver_capabilities::{FsIsolation, MountConfigs};
use proto::driver::network_isolation_spec::NetworkIsolationMode;
use proto::driver::{DnsConfig, DriverCapabilities, NetworkIsolationSpec};

use crate::allocdir::TaskDir;
use crate::error::Error;
use crate::jobspec::{Group, Job, Network, Port, Task};
use crate::node::Node;
use crate::options::Invocation;
use crate::plugin_client::Plugin;
use crate::task_request::TaskRequest;
use crate::taskenv::{AllocatedPort, Facts, TaskEnv};

/// The range of dynamic ports, as on an agent.
const DYNAMIC_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Builds the requests of one job. Ports and cores given to one task are given to no other.
pub(crate) struct Requests<'a> {
    plugin: &'a Plugin,
    asked: &'a Invocation,
    node: &'a Node,
    capabilities: DriverCapabilities,
    ports: Ports,
    cores_taken: u32,
}

/// What the tasks of one group share.
pub(crate) struct Allocation<'a> {
    pub(crate) group: &'a Group,
    pub(crate) id: String,
    /// The allocation's directory.
    pub(crate) path: PathBuf,
    ports: Vec<AllocatedPort>,
}

/// A task's environment, and its share of the node.
pub(crate) struct Environment {
    pub(crate) env: TaskEnv,
    cores: Vec<u32>,
    /// In MHz.
    cpu: u64,
}

impl<'a> Requests<'a> {
    pub(crate) async fn new(
        plugin: &'a Plugin,
        asked: &'a Invocation,
        node: &'a Node,
        ports: Ports,
    ) -> Result<Self, Error> {
        let capabilities =
            plugin.capabilities().await.map_err(|source| Error::Plugin { source: Box::new(source) })?;
        Ok(Self { plugin, asked, node, capabilities, ports, cores_taken: 0 })
    }

    /// Whether tasks see their directories in mount namespaces of their own, and not at the paths on the node.
    pub(crate) fn tasks_have_views(&self) -> bool {
        self.capabilities.fs_isolation() == FsIsolation::Image
    }

    /// Creates the allocation of a group, in a directory that need not exist.
    pub(crate) fn allocation<'g>(
        &mut self,
        group: &'g Group,
        id: String,
        path: PathBuf,
    ) -> Result<Allocation<'g>, Error> {
        Ok(Allocation { ports: self.ports.allocate(&group.ports)?, group, id, path })
    }

    /// Computes a task's share of the node, and its environment.
    pub(crate) fn environment(
        &mut self,
        allocation: &Allocation<'_>,
        task: &Task,
    ) -> Result<Environment, Error> {
        let (cores, cpu) = self.cores(task)?;
        let env = TaskEnv::new(&Facts {
            job: &self.asked.job,
            group: allocation.group,
            task,
            node: self.node,
            alloc_id: &allocation.id,
            dir: &TaskDir::below(&allocation.path, &task.name),
            isolation: self.capabilities.fs_isolation(),
            ports: &allocation.ports,
            cpu,
            cores: &cores,
            host: host_environment(),
        });
        Ok(Environment { env, cores, cpu })
    }

    /// The request for a task, without its output.
    pub(crate) async fn task(
        &self,
        allocation: &Allocation<'_>,
        task: &Task,
        Environment { env, cores, cpu }: &Environment,
    ) -> Result<TaskRequest, Error> {
        let Allocation { group, id: alloc_id, path, ports } = allocation;
        let (job, name) = (&self.asked.job, || task.name.clone());
        let config = self.plugin.task_config(&task.config, &env.scope()).await;
        let config = config.map_err(|source| Error::Task { task: name(), source: Box::new(source) })?;
        let mounts = self.asked.volumes.mounts(group, task, env);
        if !mounts.is_empty() && self.capabilities.mount_configs() == MountConfigs::NoMounts {
            return Err(Error::NoMounts { task: name() });
        }
        Ok(TaskRequest {
            group: group.name.clone(),
            job_id: job.id.clone(),
            job_name: job.name.clone(),
            namespace: job.namespace.clone(),
            node: (self.node.name.clone(), self.node.id.clone()),
            user: task.user.clone(),
            env: env.variables().clone(),
            config,
            cpu: *cpu,
            cpu_fraction: fraction(*cpu, self.node.total_compute()),
            cores: cores.clone(),
            memory: task.resources.memory,
            memory_max: task.resources.memory_max,
            ports: ports.clone(),
            dns: dns(group, env),
            mounts,
            network: network(group.network, alloc_id),
            ..TaskRequest::new(alloc_id, &task.name, path)
        })
    }

    /// The task's cores, if it requests reserved cores, and its MHz.
    fn cores(&mut self, task: &Task) -> Result<(Vec<u32>, u64), Error> {
        let cores = task.resources.cores;
        if cores == 0 {
            return Ok((Vec::new(), u64::try_from(task.resources.cpu).unwrap_or(0)));
        }
        let reserved = self.node.reserve(self.cores_taken, cores);
        self.cores_taken = self.cores_taken.saturating_add(cores);
        reserved.ok_or_else(|| Error::Cores { task: task.name.clone(), cores })
    }
}

/// The group's network. For a group without a network, an agent creates an empty namespace, which only root can do;
/// here the driver is requested to do so. The host's network has no specification.
fn network(network: Network, alloc_id: &str) -> Option<NetworkIsolationSpec> {
    let (mode, path) = match network {
        Network::Host => return None,
        Network::None => (NetworkIsolationMode::None, String::new()),
        // The path at which an agent creates the namespace (client/lib/nsutil).
        Network::OfGroup => (NetworkIsolationMode::Group, format!("/var/run/netns/{alloc_id}")),
    };
    Some(NetworkIsolationSpec { mode: mode.into(), path, ..NetworkIsolationSpec::default() })
}

/// Our own environment; values that are not UTF-8 cannot be sent to a plugin.
fn host_environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

fn dns(group: &Group, env: &TaskEnv) -> Option<DnsConfig> {
    let dns = group.dns.as_ref()?;
    let replaced = |list: &[String]| list.iter().map(|text| env.replace(text)).collect();
    Some(DnsConfig {
        servers: replaced(&dns.servers),
        searches: replaced(&dns.searches),
        options: replaced(&dns.options),
    })
}

/// A share between 0 and 1; both are far below what a double holds exactly.
#[allow(clippy::cast_precision_loss, reason = "MHz of one machine")]
fn fraction(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Port numbers for a job. No number is given twice.
pub(crate) struct Ports {
    candidates: Box<dyn Iterator<Item = u16> + Send>,
    is_free: fn(u16) -> bool,
}

impl Ports {
    /// Free ports, found by binding them; the start differs between runs.
    pub(crate) fn free(job: &Job) -> Self {
        let start = u16::try_from(std::process::id() % 6000).unwrap_or(0) * 2;
        Self::from(job, start, |port| TcpListener::bind(("0.0.0.0", port)).is_ok())
    }

    /// Always the same ports, free or not.
    pub(crate) fn example(job: &Job) -> Self {
        Self::from(job, 0, |_| true)
    }

    fn from(job: &Job, start: u16, is_free: fn(u16) -> bool) -> Self {
        let ports = job.groups.iter().flat_map(|group| &group.ports);
        let fixed: Vec<u16> = ports.filter_map(|port| port.fixed).collect();
        let all = DYNAMIC_PORTS.cycle().skip(start.into()).take(DYNAMIC_PORTS.len());
        Self { candidates: Box::new(all.filter(move |port| !fixed.contains(port))), is_free }
    }

    fn allocate(&mut self, ports: &[Port]) -> Result<Vec<AllocatedPort>, Error> {
        let mut number = |Port { label, fixed, to }: &Port| {
            let value = fixed.or_else(|| self.candidates.find(|port| (self.is_free)(*port)));
            let value = value.ok_or_else(|| Error::Port { label: label.clone() })?;
            Ok(AllocatedPort { label: label.clone(), value, to: to.unwrap_or(0) })
        };
        ports.iter().map(&mut number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobspec;

    #[test]
    fn ports_are_fixed_or_free_and_differ_between_groups_too() {
        let group = |name: &str, ports: &str| {
            format!(
                "group \"{name}\" {{\n network {{\n{ports}\n }}\n task \"t\" {{\n driver = \"systemd\"\n }}\n}}\n"
            )
        };
        let first = group("a", "port \"a\" {}\n port \"b\" {\n static = 80\n }\n port \"c\" {}");
        let second = group("b", "port \"a\" {}\n port \"b\" {\n static = 20001\n }");
        let job = jobspec::parse(
            &format!("job \"j\" {{\n{first}{second}}}\n"),
            &BTreeMap::new(),
            std::path::Path::new("/"),
        )
        .unwrap();
        let allocated = |mut ports: Ports| -> Vec<u16> {
            let groups = job.groups.iter().flat_map(|group| ports.allocate(&group.ports).unwrap());
            groups.map(|port| port.value).collect()
        };
        assert_eq!(allocated(Ports::example(&job)), [20_000, 80, 20_002, 20_003, 20_001]);
        let free = allocated(Ports::free(&job));
        assert_eq!((free[1], free[4]), (80, 20_001));
        assert!(
            DYNAMIC_PORTS.contains(&free[0])
                && free[0] != free[2]
                && free[2] != free[3]
                && free[0] != free[3]
        );
    }
}
