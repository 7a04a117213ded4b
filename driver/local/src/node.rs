//! This machine as a Nomad node: its names, its attributes and its processors.
//!
//! Facts from Nomad v2.0.5, client/lib/numalib/ (processors) and client/fingerprint/ (attributes).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proto::base::{
    ClientTopology, ClientTopologyCore, ClientTopologySlit, CoreGrade, NomadConfig, NomadDriverConfig,
};

/// The name that a job sets as its `driver`.
pub(crate) const DRIVER: &str = "systemd";

/// The file name of the plugin, which is the label of its `plugin` block in the agent's configuration.
pub(crate) const PLUGIN: &str = "nomad-driver-systemd";

/// The signals that a node offers to jobs, in every agent for Linux (Nomad v2.0.6: consul-template's table, `signals`). A
/// job with another `kill_signal` finds no node.
pub const SIGNALS: [&str; 29] = [
    "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO",
    "SIGIOT", "SIGKILL", "SIGPIPE", "SIGPROF", "SIGQUIT", "SIGSEGV", "SIGSTOP", "SIGSYS", "SIGTERM",
    "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGXCPU",
    "SIGXFSZ",
];

/// The machine that acts as the node.
#[derive(Debug, Clone)]
pub struct Node {
    /// The node's id; fixed, since nobody else will ever see it: `00000000-…`.
    pub id: String,
    /// The host's name.
    pub name: String,
    /// What Nomad calls node attributes, such as `kernel.name` → `linux`; jobs see them as `${attr.kernel.name}`.
    pub attributes: BTreeMap<String, String>,
    /// The processors, in the form that the plugin gets.
    pub topology: ClientTopology,
}

impl Node {
    /// Reads `/proc` and `/sys`. Values that cannot be read are left out: attributes are only a convenience here.
    pub fn of_this_machine() -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| "localhost".to_owned(), |text| trimmed(&text));
        let topology = topology(Path::new("/sys/devices/system"));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| String::new(), |text| trimmed(&text));
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let attributes = [
            ("arch", arch.to_owned()),
            ("cpu.arch", arch.to_owned()),
            ("cpu.numcores", topology.cores.len().to_string()),
            ("cpu.totalcompute", total_compute(&topology).to_string()),
            ("kernel.arch", std::env::consts::ARCH.to_owned()),
            ("kernel.name", "linux".to_owned()),
            ("kernel.version", kernel),
            ("os.signals", SIGNALS.join(",")),
            ("unique.hostname", name.clone()),
            ("unique.network.ip-address", "127.0.0.1".to_owned()),
        ];
        Self {
            id: "00000000-0000-4000-8000-000000000000".to_owned(),
            name,
            attributes: attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            topology,
        }
    }

    /// The node configuration that the running instance of a plugin gets (nomad/structs: ports 14000 to 14512 by
    /// default).
    pub fn driver_config(&self) -> NomadConfig {
        NomadConfig {
            driver: Some(NomadDriverConfig {
                client_min_port: 14_000,
                client_max_port: 14_512,
                topology: Some(self.topology.clone()),
            }),
        }
    }

    /// The compute capacity of all cores together, in MHz.
    pub fn total_compute(&self) -> u64 {
        total_compute(&self.topology)
    }

    /// `count` cores after the first `taken` ones, and their MHz together, for a task that requests `cores`; none if
    /// there are fewer.
    pub fn reserve(&self, taken: u32, count: u32) -> Option<(Vec<u32>, u64)> {
        let end = usize::try_from(taken.checked_add(count)?).ok()?;
        let cores = self.topology.cores.get(usize::try_from(taken).ok()?..end)?;
        Some((cores.iter().map(|core| core.core_id).collect(), cores.iter().map(megahertz).sum()))
    }
}

fn megahertz(core: &ClientTopologyCore) -> u64 {
    let speeds = [core.base_speed, core.max_speed, core.guess_speed];
    speeds.into_iter().find(|speed| *speed > 0).unwrap_or(0)
}

fn total_compute(topology: &ClientTopology) -> u64 {
    topology.cores.iter().map(megahertz).sum()
}

/// The processors below a directory such as `/sys/devices/system`.
fn topology(system: &Path) -> ClientTopology {
    let online = fs::read_to_string(system.join("cpu/online")).unwrap_or_default();
    let nodes = numbered(&system.join("node"), "node");
    let guess = current_speed();
    let mut cores = Vec::new();
    for core_id in ranges(&online) {
        let directory = system.join(format!("cpu/cpu{core_id}"));
        let number = |file: &str| -> u64 {
            fs::read_to_string(directory.join(file))
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0)
        };
        let node_id = nodes.iter().find(|node| system.join(format!("node/node{node}/cpu{core_id}")).exists());
        cores.push(ClientTopologyCore {
            socket_id: u32::try_from(number("topology/physical_package_id")).unwrap_or(0),
            node_id: node_id.copied().unwrap_or(0),
            core_id,
            core_grade: CoreGrade::Performance.into(),
            disable: false,
            // The kernel counts kHz.
            base_speed: number("cpufreq/base_frequency") / 1000,
            max_speed: number("cpufreq/cpuinfo_max_freq") / 1000,
            guess_speed: guess,
        });
    }
    let node_ids = if nodes.is_empty() { vec![0] } else { nodes };
    let mut values = Vec::new();
    for node in &node_ids {
        let row = fs::read_to_string(system.join(format!("node/node{node}/distance"))).unwrap_or_default();
        values.extend(row.split_whitespace().filter_map(|distance| distance.parse::<u32>().ok()));
    }
    if values.len() != node_ids.len() * node_ids.len() {
        values = vec![10; node_ids.len() * node_ids.len()];
    }
    let dimension = u32::try_from(node_ids.len()).unwrap_or(1);
    ClientTopology {
        node_ids,
        distances: Some(ClientTopologySlit { dimension, values }),
        cores,
        override_total_compute: 0,
        override_withold_compute: 0,
    }
}

/// MHz from `/proc/cpuinfo`, for machines whose firmware reports nothing; 1000 if that file has no value either.
fn current_speed() -> u64 {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("cpu MHz"));
    let number = line.and_then(|line| line.split(':').nth(1)).and_then(|text| text.trim().split('.').next());
    number.and_then(|number| number.parse().ok()).filter(|number| *number > 0).unwrap_or(1000)
}

/// The numbers in the names of entries such as `node0`, sorted.
fn numbered(directory: &Path, prefix: &str) -> Vec<u32> {
    let entries =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| PathBuf::from(entry.file_name()));
    let mut numbers: Vec<u32> =
        entries.filter_map(|name| name.to_str()?.strip_prefix(prefix)?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// The kernel's list format, such as `0-3,8`.
fn ranges(text: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            numbers.extend(first..=last);
        }
    }
    numbers
}

fn trimmed(text: &str) -> String {
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(ranges("0-2,5\n"), [0, 1, 2, 5]);
        assert!(ranges("").is_empty());
    }

    #[test]
    fn this_machine_has_a_core_with_a_speed() {
        let node = Node::of_this_machine();
        assert!(!node.topology.cores.is_empty());
        assert!(node.total_compute() > 0);
        assert_eq!(node.attributes["kernel.name"], "linux");
        assert!(node.reserve(0, 1).is_some());
        assert!(node.reserve(0, u32::MAX).is_none());
    }
}
