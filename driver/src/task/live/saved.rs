//! What Nomad stores about a running task, so that a later driver can recover it.

use serde::{Deserialize, Serialize};

use crate::systemd::InvocationId;
use crate::telemetry::Kind;

/// What Nomad stores for the driver, to recover the task after the driver was restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The name of the unit.
    pub unit: String,
    /// The invocation of the unit that is this task.
    pub invocation: InvocationId,
    /// The boot during which the task was started: units do not outlive it.
    pub boot_id: String,
    /// Properties of the task.
    #[serde(flatten)]
    pub traits: Traits,
}

/// Properties of a task that its owner needs to know. A property that an earlier driver did not store is `false`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, and saved under its name")]
pub struct Traits {
    /// Units of their own copy the task's output to two places.
    pub copied: bool,
    /// A unit of its own opened the task's sockets before it started.
    pub listens: bool,
    /// The program sends messages to systemd itself, see `TaskSpec::speaks`.
    pub speaks: bool,
    /// The task is a guest that serves.
    pub serves: bool,
    /// The task is WebAssembly: only the report of its runner on how a guest ended is trusted.
    pub guest: bool,
    /// Its main process is an init.
    pub init: bool,
}

impl Traits {
    /// What the task runs.
    pub(crate) fn kind(self) -> Kind {
        match (self.guest, self.serves) {
            (false, _) => Kind::Native,
            (true, false) => Kind::Wasm,
            (true, true) => Kind::WasmServer,
        }
    }
}

/// The boot id of the machine, 36 characters.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
