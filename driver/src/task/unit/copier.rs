//! The unit that copies a task's output to two places.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::{journal, slice_of};
use crate::systemd::{Property, Stream, TransientUnit, UnitName};
use crate::task::spec::{Identity, TaskSpec};

/// Memory of a copier, in bytes: several times what it needs.
const MEMORY: u64 = 64 << 20;

/// A process that copies what it reads from `from` both to `to` and to the journal: the driver's own `program`.
///
/// A unit of its own, since it has to outlive the driver, and the task until the last line is written.
pub fn copier(name: UnitName, task: &TaskSpec, program: PathBuf, from: OwnedFd, to: Stream) -> TransientUnit {
    let mut properties = vec![
        Property::Description(format!("{}, its output", task.description)),
        // A task that writes much takes processor time from its own share of the node.
        Property::Slice(slice_of(task)),
        Property::CPUWeight(task.cpu_weight),
        Property::MemoryMax(MEMORY),
        Property::Type("exec"),
        // Nobody reads its status.
        Property::CollectMode("inactive-or-failed"),
        Property::ExecStart { path: program, argv: vec!["nomad-driver-systemd".into(), "copy".into()] },
        Property::StandardInput(Stream::Fd(from)),
        // In this order: an error stream with the value that the output has by default would be a copy of the output,
        // whatever descriptor it was given (systemd, `setup_output`).
        Property::StandardOutput(Stream::Journal),
        Property::StandardError(to),
    ];
    let sandbox = [("NoNewPrivileges", "yes"), ("CapabilityBoundingSet", ""), ("PrivateNetwork", "yes")];
    properties.extend(Property::assigned(&sandbox));
    if task.identity == Identity::Driver {
        // Without it a user's systemd supports neither of the last two.
        properties.extend(Property::assigned(&[("PrivateUsers", "yes")]));
    }
    properties.extend(journal(&task.output));
    TransientUnit::new(name, properties)
}
