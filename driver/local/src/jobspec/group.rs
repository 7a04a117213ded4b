//! The `group` block: network, volumes and tasks.

use std::collections::BTreeMap;

use super::block::{Block, Error};
use super::expression::Scope;
use super::task::{Task, VolumeMount, finish_task, task};
use super::{AGENT, Notes, constraint, name, service};

/// A group of tasks that share an allocation.
#[derive(Debug, Clone)]
pub struct Group {
    /// The group's name, such as `web`.
    pub name: String,
    /// The group's `meta`.
    pub meta: BTreeMap<String, String>,
    /// The ports of the group's `network` block.
    pub ports: Vec<Port>,
    /// The `dns` block of the group's network.
    pub dns: Option<Dns>,
    /// The `mode` of the group's network.
    pub network: Network,
    /// The group's `volume` blocks.
    pub volumes: Vec<Volume>,
    /// The group's tasks; at least one.
    pub tasks: Vec<Task>,
}

/// Which network the tasks of a group have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The host's.
    Host,
    /// No network.
    None,
    /// A network that an agent creates for the group; only shown, not run.
    OfGroup,
}

/// A port of a group's network. The network is the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The label, such as `http`; part of `NOMAD_PORT_http`.
    pub label: String,
    /// The port number, or none for a dynamic port.
    pub fixed: Option<u16>,
    /// The port number inside the task, or none for the same number.
    pub to: Option<u16>,
}

/// Name resolution of a group's tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Servers, such as `192.0.2.1`.
    pub servers: Vec<String>,
    /// Search domains, such as `example.org`.
    pub searches: Vec<String>,
    /// Options, such as `ndots:2`.
    pub options: Vec<String>,
}

/// A host volume that a group may mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The label, by which tasks mount it.
    pub name: String,
    /// The node's name for it.
    pub source: String,
    /// The group mounts the volume read-only.
    pub read_only: bool,
}

pub(super) fn group(block: &mut Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Group, Error> {
    let name = name(block)?;
    match block.integer("count", scope)? {
        None | Some(1) => {}
        Some(count) => {
            let advice = format!("one instance runs here, not {count}; set it to 1 or {AGENT}");
            notes.need_agent(block.not_here("count", &advice))?;
        }
    }
    let (mut ports, mut dns, mut of_group) = (Vec::new(), None, Network::Host);
    if let Some(mut network) = block.block("network")? {
        of_group = mode(&mut network, scope, notes)?;
        (ports, dns) = self::network(&mut network, scope, notes)?;
        network.finish(
            &["mbits"],
            &[
                ("hostname", "the network is the host's; remove it or submit the job to a Nomad agent"),
                ("cni", AGENT),
                ("device", AGENT),
                ("cidr", AGENT),
            ],
            notes,
        )?;
    }
    let volumes = volumes(block, scope, notes)?;
    let mut tasks: Vec<Task> = Vec::new();
    for mut inner in block.blocks("task") {
        let task = task(&mut inner, scope, notes)?;
        check_mounts(&inner, &task, &volumes)?;
        if tasks.iter().any(|other| other.name == task.name) {
            return Err(block.wrong("task", &format!("two tasks are named `{}`", task.name)));
        }
        tasks.push(task);
        finish_task(inner, notes)?;
    }
    if tasks.is_empty() {
        return Err(block.missing("task"));
    }
    for inner in block.blocks("constraint") {
        // Within one group of one instance, nothing can be kept apart.
        constraint(inner, scope, 1, notes)?;
    }
    for inner in block.blocks("service") {
        service(inner, notes)?;
    }
    Ok(Group { name, meta: block.map("meta", scope)?, ports, dns, network: of_group, volumes, tasks })
}

/// The group's `volume` blocks (nomad/structs/volumes.go).
fn volumes(block: &mut Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Vec<Volume>, Error> {
    let mut volumes: Vec<Volume> = Vec::new();
    for mut inner in block.blocks("volume") {
        let name = inner.label()?.to_owned();
        match inner.string("type", scope)?.ok_or_else(|| inner.missing("type"))?.as_str() {
            "host" => {}
            "csi" => {
                let advice = format!("a CSI volume needs Nomad's servers; use \"host\" or {AGENT}");
                notes.need_agent(inner.not_here("type", &advice))?;
            }
            other => return Err(inner.wrong("type", &format!("`{other}` is neither host nor csi"))),
        }
        let mut source = inner
            .string("source", scope)?
            .filter(|source| !source.is_empty())
            .ok_or_else(|| inner.missing("source"))?;
        if inner.bool("per_alloc", scope)?.unwrap_or(false) {
            // There is one allocation per group, the first.
            source.push_str("[0]");
        }
        if volumes.iter().any(|other| other.name == name) {
            return Err(inner.wrong("label", &format!("two volumes are named `{name}`")));
        }
        volumes.push(Volume { name, source, read_only: inner.bool("read_only", scope)?.unwrap_or(false) });
        inner.finish(
            &["sticky", "access_mode", "attachment_mode"],
            &[("mount_options", "a host volume has none; remove it")],
            notes,
        )?;
    }
    Ok(volumes)
}

/// Checks that a mount names a volume of its group.
pub(super) fn check_mounts(block: &Block<'_>, task: &Task, volumes: &[Volume]) -> Result<(), Error> {
    let unknown = |mount: &&VolumeMount| !volumes.iter().any(|volume| volume.name == mount.volume);
    match task.volume_mounts.iter().find(unknown) {
        Some(VolumeMount { volume, .. }) => {
            let reason =
                format!("the group has no volume `{volume}`; add `volume \"{volume}\"` to the group");
            Err(block.wrong("volume_mount", &reason))
        }
        None => Ok(()),
    }
}

/// The network's mode.
fn mode(block: &mut Block<'_>, scope: &Scope, notes: &mut Notes) -> Result<Network, Error> {
    match block.string("mode", scope)?.as_deref() {
        None | Some("" | "host") => Ok(Network::Host),
        Some("none") => Ok(Network::None),
        // The driver does not create networks, not even under an agent.
        Some("driver") => Err(block
            .wrong("mode", "Nomad makes the networks of this driver's tasks; use \"host\" or \"bridge\"")),
        Some(mode) => {
            let advice =
                format!("`{mode}` needs Nomad's network plugins; use \"host\" to run it here, or {AGENT}");
            notes.need_agent(block.not_here("mode", &advice))?;
            Ok(Network::OfGroup)
        }
    }
}

fn network(
    block: &mut Block<'_>,
    scope: &Scope,
    notes: &mut Notes,
) -> Result<(Vec<Port>, Option<Dns>), Error> {
    let mut ports = Vec::new();
    for mut port in block.blocks("port") {
        let label = port.label()?.to_owned();
        let mut number = |key: &str| match port.integer(key, scope)? {
            // -1 means the host's number, as when nothing is given.
            None | Some(-1 | 0) => Ok(None),
            Some(given) => match u16::try_from(given) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(port.wrong(key, &format!("{given} is not a port number"))),
            },
        };
        let (fixed, to) = (number("static")?, number("to")?);
        let ignores_collision = port.bool("ignore_collision", scope)?.unwrap_or(false);
        if ports.iter().any(|other: &Port| other.label == label) {
            return Err(port.wrong("label", &format!("two ports are named `{label}`")));
        }
        let is_taken = ports.iter().any(|other| fixed.is_some() && other.fixed == fixed);
        if is_taken && !ignores_collision {
            return Err(port.wrong("static", "another port of the group has the same number"));
        }
        ports.push(Port { label, fixed, to });
        port.finish(&[], &[("host_network", AGENT)], notes)?;
    }
    let mut dns = None;
    if let Some(mut inner) = block.block("dns")? {
        dns = Some(Dns {
            servers: inner.strings("servers", scope)?,
            searches: inner.strings("searches", scope)?,
            options: inner.strings("options", scope)?,
        });
        inner.finish(&[], &[], &mut Notes::default())?;
    }
    Ok((ports, dns))
}
