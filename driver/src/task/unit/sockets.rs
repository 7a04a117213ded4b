//! The unit of a task's sockets, which systemd opens before the task starts.

use super::slice_of;
use crate::systemd::{Assignment, Property, SocketUnit};
use crate::task::host::resources::HostResources;
use crate::task::spec::activation::{Address, Listener};
use crate::task::spec::{TaskKind, TaskSpec};

/// The sockets that are opened before the task starts, all in one unit: systemd passes a service those of the unit with
/// its own name. In the environment each socket has the name that its job sets.
pub(super) fn sockets(task: &TaskSpec, made: &HostResources) -> Option<SocketUnit> {
    let HostResources { sockets, settings, network, .. } = made;
    let listen = |socket: &Listener| {
        let kind = if socket.datagrams { "Datagram" } else { "Stream" };
        let address = match &socket.at {
            Address::Port(address) => address.to_string(),
            Address::Path(path) => path.display().to_string(),
        };
        (kind, address)
    };
    let mut properties = vec![
        Property::Description(format!("{}, its sockets", task.description)),
        Property::Listen(sockets.iter().map(listen).collect()),
        // The kernel filters the addresses of a socket by the cgroup in which it was created.
        Property::Slice(slice_of(task)),
    ];
    if task.kind == TaskKind::Native {
        properties.extend(address_filter(settings));
    }
    properties.extend(sockets.iter().find_map(|socket| socket.mode).map(Property::SocketMode));
    properties.extend(network.clone().map(Property::NetworkNamespacePath));
    (!sockets.is_empty()).then_some(SocketUnit { properties })
}

/// What the job configures about the addresses that its task may reach. (The runner of a guest filters connections by
/// itself, but not those that it accepts.)
fn address_filter(settings: &[Assignment]) -> impl Iterator<Item = Property> {
    let lines = settings.iter().filter(|line| matches!(line.name(), "IPAddressAllow" | "IPAddressDeny"));
    lines.cloned().map(Property::Assigned)
}
