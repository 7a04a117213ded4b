//! What Nomad keeps of a running task, so that a later driver finds it again.

use serde::{Deserialize, Serialize};

use crate::systemd::InvocationId;

/// What Nomad keeps for us, to find the task again after the driver was restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "earlier drivers have written some of them")]
pub struct Saved {
    /// The unit's name.
    pub unit: String,
    /// The run of the unit that is this task.
    pub invocation: InvocationId,
    /// The boot of the machine during which it was started: units do not outlive it.
    pub boot_id: String,
    /// Its output is copied to two places, by units of their own.
    #[serde(default)]
    pub copied: bool,
    /// It has sockets that were open before it started, in a unit of their own.
    #[serde(default)]
    pub listens: bool,
    /// See `TaskSpec::speaks`.
    #[serde(default)]
    pub speaks: bool,
    /// It is a guest that serves.
    #[serde(default)]
    pub serves: bool,
    /// It is WebAssembly, so that what it says of itself is the word of its runner. Earlier drivers did not say it.
    #[serde(default)]
    pub guest: Option<bool>,
    /// Its main process is the init of its program. Earlier drivers' tasks have none.
    #[serde(default)]
    pub init: bool,
}

/// What a task is and has, as far as whoever follows it needs to know.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "as in what is saved")]
pub(crate) struct Traits {
    /// Has units that copy its output.
    pub(crate) copied: bool,
    /// Has a unit of its sockets.
    pub(crate) listens: bool,
    /// See `TaskSpec::speaks`.
    pub(crate) speaks: bool,
    /// Is a guest that serves.
    pub(crate) serves: bool,
    /// Is WebAssembly, whose runner alone is believed when it says how a guest ended.
    pub(crate) guest: bool,
    /// Its main process is an init.
    pub(crate) init: bool,
}

impl Saved {
    pub(crate) fn traits(&self) -> Traits {
        let Self { copied, listens, speaks, serves, guest, init, .. } = *self;
        Traits { copied, listens, speaks, serves, guest: guest.unwrap_or(!speaks), init }
    }
}

/// Which boot of the machine this is, 36 characters.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
