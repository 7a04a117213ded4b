//! What Nomad sends about a task that is to be started.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use proto::driver as wire;
use tonic::Status;

use super::for_a_terminal;
use crate::task::config::options::{self, Block};
use crate::task::config::{
    Device, Dns, DriverConfig, MemoryMax, Mount, NetworkMode, Port, Propagation, Resources, TaskConfig,
    TaskId, TaskIdentity,
};

/// Converts Nomad's message about a task to the driver's types.
pub(crate) fn task_config(config: wire::TaskConfig) -> Result<TaskConfig, Status> {
    let wire::TaskConfig {
        id,
        name,
        msgpack_driver_config,
        env,
        device_env: _, // repeated in `env`
        resources,
        mounts,
        devices,
        user,
        alloc_dir,
        stdout_path,
        stderr_path,
        task_group_name,
        job_name,
        alloc_id,
        network_isolation_spec,
        dns,
        job_id,
        namespace,
        node_name: _,
        node_id: _,
        parent_job_id: _,
    } = config;
    let driver = DriverConfig::decode(&msgpack_driver_config)
        .map_err(|error| Status::invalid_argument(for_a_terminal(&crate::chain(&error))))?;
    Ok(TaskConfig {
        identity: TaskIdentity {
            id: TaskId(id),
            name,
            alloc_id,
            alloc_dir: PathBuf::from(alloc_dir),
            env: env.into_iter().collect(),
        },
        job_id,
        job_name,
        namespace,
        group_name: task_group_name,
        driver,
        given: options::given(&msgpack_driver_config, DriverConfig::OPTIONS),
        user,
        stdout_path: PathBuf::from(stdout_path),
        stderr_path: PathBuf::from(stderr_path),
        ports: resources.as_ref().map(ports).transpose()?.unwrap_or_default(),
        resources: resources.map(resources_of).unwrap_or_default(),
        mounts: mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        devices: devices.into_iter().map(device).collect(),
        network: network_isolation_spec.map(network).transpose()?.unwrap_or_default(),
        dns: dns.map(|wire::DnsConfig { servers, searches, options }| Dns { servers, searches, options }),
    })
}

fn mount(mount: wire::Mount) -> Result<Mount, Status> {
    // SELinux labels are for containers' mounts; the request's name is the server's.
    let wire::Mount { task_path, host_path, readonly, propagation_mode, selinux_label: _, request_name: _ } =
        mount;
    let propagation = match propagation_mode.as_str() {
        "" | "private" => Propagation::Private,
        "host-to-task" => Propagation::HostToTask,
        "bidirectional" => Propagation::Bidirectional,
        other => {
            return Err(Status::invalid_argument(format!(
                "the volume mounted at {task_path}: its `propagation_mode` is `{other}`, we know \"private\", \
                 \"host-to-task\" and \"bidirectional\""
            )));
        }
    };
    Ok(Mount { source: host_path.into(), target: task_path.into(), read_only: readonly, propagation })
}

fn device(device: wire::Device) -> Device {
    let wire::Device { task_path, host_path, cgroup_permissions } = device;
    let permissions = if cgroup_permissions.is_empty() { "rwm".to_owned() } else { cgroup_permissions };
    Device { source: host_path.into(), target: task_path.into(), permissions }
}

fn network(spec: wire::NetworkIsolationSpec) -> Result<NetworkMode, Status> {
    use wire::network_isolation_spec::NetworkIsolationMode as Mode;
    let mode = spec.mode();
    let wire::NetworkIsolationSpec { mode: _, path, labels: _, hosts_config } = spec;
    let host = hosts_config.map(|wire::HostsConfig { hostname, address }| (hostname, address));
    match mode {
        Mode::Host => Ok(NetworkMode::Host),
        Mode::None => Ok(NetworkMode::None),
        Mode::Group => Ok(NetworkMode::Group {
            namespace: path.into(),
            host: host.filter(|(name, address)| !name.is_empty() && !address.is_empty()),
        }),
        Mode::Task => Err(Status::invalid_argument(
            "a `network` block with mode \"driver\": this driver makes no networks, use \"bridge\", \"host\" or \"none\"",
        )),
    }
}

/// The ports that Nomad allocated. Older jobs have them only in a task's networks (`resources.network`).
fn ports(resources: &wire::Resources) -> Result<BTreeMap<String, Port>, Status> {
    let networks = resources.allocated_resources.iter().flat_map(|allocated| &allocated.networks);
    let of_networks = networks.flat_map(|network| {
        let ports = network.reserved_ports.iter().chain(&network.dynamic_ports);
        ports.map(|port| (&port.label, port.value, 0, &network.ip))
    });
    let of_group = resources.ports.iter().map(|port| (&port.label, port.value, port.to, &port.host_ip));
    let port = |(label, value, to, host_ip): (&String, i32, i32, &String)| {
        let wrong = || {
            let text =
                format!("the port `{label}`: Nomad sent no usable address (`{host_ip}`, {value}, {to})");
            Status::invalid_argument(text)
        };
        let address =
            if host_ip.is_empty() { Some(Ipv4Addr::UNSPECIFIED.into()) } else { host_ip.parse().ok() };
        let value = u16::try_from(value).map_err(|_| wrong())?;
        let inside = u16::try_from(to).ok().filter(|to| *to != 0).unwrap_or(value);
        Ok((label.clone(), Port { host: SocketAddr::new(address.ok_or_else(wrong)?, value), inside }))
    };
    of_networks.chain(of_group).map(port).collect()
}

fn resources_of(resources: wire::Resources) -> Resources {
    let wire::Resources { allocated_resources, linux_resources, ports: _ } = resources;
    let memory = allocated_resources.and_then(|allocated| allocated.memory).unwrap_or_default();
    let linux = linux_resources.unwrap_or_default();
    let natural = |number: i64| u64::try_from(number).unwrap_or(0);
    Resources {
        cpu_shares: natural(linux.cpu_shares),
        memory_mb: natural(memory.memory_mb),
        memory_max_mb: match memory.memory_max_mb {
            0 => MemoryMax::Memory,
            -1 => MemoryMax::Unlimited,
            max => MemoryMax::Mebibytes(natural(max)),
        },
        cores: linux.cpuset_cpus,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_a_device_and_a_network_mean_what_nomad_means() {
        use wire::network_isolation_spec::NetworkIsolationMode as Mode;
        let mount = |mode: &str| {
            let (task_path, host_path) = ("/data".to_owned(), "/srv/data".to_owned());
            let propagation_mode = mode.to_owned();
            super::mount(wire::Mount { task_path, host_path, propagation_mode, ..Default::default() })
        };
        assert_eq!(mount("").unwrap().propagation, Propagation::Private);
        assert_eq!(mount("bidirectional").unwrap().propagation, Propagation::Bidirectional);
        assert!(mount("rshared").unwrap_err().message().contains("/data"));
        assert_eq!(device(wire::Device::default()).permissions, "rwm");
        let network = |mode: Mode| {
            network(wire::NetworkIsolationSpec {
                mode: mode.into(),
                path: "/run/netns/x".into(),
                ..Default::default()
            })
        };
        assert_eq!(network(Mode::Host).unwrap(), NetworkMode::Host);
        assert!(matches!(network(Mode::Group).unwrap(), NetworkMode::Group { host: None, .. }));
        assert!(network(Mode::Task).is_err());
    }
}
