//! Mounts of a task beyond its view: volumes, devices, images.

use crate::systemd::{Assignment, Bind, Meaning, Property};
use crate::task::config::{Mount, Propagation};
use crate::task::host::view::View;
use crate::task::slice_names::SLICE;
use crate::task::spec::TaskSpec;
use crate::task::unit::slice_of;

/// Volumes and devices, as Nomad mounts them for its other drivers: with all mounts below.
pub(super) fn mounts(task: &TaskSpec, mounts: &[Mount]) -> Vec<Property> {
    const MS_PRIVATE: u64 = 1 << 18;
    const MS_SLAVE: u64 = 1 << 19;
    const MS_SHARED: u64 = 1 << 20;
    let mut properties = Vec::new();
    let bind = |mount: &Mount| Bind { recursive: true, ..Bind::new(&mount.source, &mount.target) };
    let (read_only, writable): (Vec<_>, Vec<_>) = mounts.iter().partition(|mount| mount.read_only);
    if !writable.is_empty() {
        properties.push(Property::BindPaths(writable.into_iter().map(bind).collect()));
    }
    if !read_only.is_empty() {
        properties.push(Property::BindReadOnlyPaths(read_only.into_iter().map(bind).collect()));
    }
    // For all mounts of a unit: systemd supports no propagation of a single mount.
    match task.mounts.iter().map(|mount| mount.propagation).max() {
        Some(Propagation::Bidirectional) => properties.push(Property::MountFlags(MS_SHARED)),
        Some(Propagation::HostToTask) => properties.push(Property::MountFlags(MS_SLAVE)),
        Some(Propagation::Private) => properties.push(Property::MountFlags(MS_PRIVATE)),
        None => {}
    }
    if !task.devices.is_empty() {
        let nodes = task.devices.iter().map(|device| Bind::new(&device.source, &device.target)).collect();
        let allowed = task.devices.iter().map(|device| (device.source.clone(), device.permissions.clone()));
        properties.extend([Property::BindPaths(nodes), Property::DeviceAllow(allowed.collect())]);
    }
    properties
}

/// The file that notifies a task of memory pressure, on request; writable in the task's own root as well: systemd looks
/// it up on the host (257, `ReadWritePaths=` in systemd.exec(5)), and `ProtectControlGroups=` makes all others
/// read-only.
pub(super) fn memory_pressure(task: &TaskSpec, settings: &[Assignment]) -> Option<Property> {
    let asked = Assignment::last(settings, "MemoryPressureWatch")?;
    if task.view == View::Host || ["off", "skip"].contains(&asked.text()) {
        return None;
    }
    let slice = slice_of(task);
    let file = format!("-+/sys/fs/cgroup/{SLICE}/{slice}/{}/memory.pressure", task.unit);
    Some(Property::ReadWritePaths(vec![file.into()]))
}

/// The devices by which systemd mounts images, where the devices of the task are restricted. systemd adds them by
/// itself, but up to 252 not for extensions.
pub(super) fn images(settings: &[Assignment]) -> Vec<Property> {
    let value_is = |name: &str, test: &dyn Fn(&str) -> bool| {
        let last = Assignment::last(settings, name);
        last.is_some_and(|line| {
            if let Meaning::Text(text) = line.meaning() { test(&text) } else { !line.text().is_empty() }
        })
    };
    let has_extensions = value_is("ExtensionImages", &|text| !text.is_empty());
    let confined = value_is("PrivateDevices", &|text| text == "yes")
        || value_is("DevicePolicy", &|text| text != "auto")
        || value_is("DeviceAllow", &|text| !text.is_empty());
    if !has_extensions || !confined {
        return Vec::new();
    }
    let devices =
        ["/dev/loop-control", "/dev/mapper/control", "block-loop", "block-blkext", "block-device-mapper"];
    vec![Property::DeviceAllow(devices.map(|device| (device.into(), "rwm".to_owned())).into())]
}
