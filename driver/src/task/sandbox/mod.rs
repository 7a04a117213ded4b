//! What a task may: the presets, the operator's policy, and what comes of both for one task.

mod capabilities;
mod new_privileges;
pub(crate) mod option_properties;
pub(crate) mod policy;
pub mod preset;
pub(crate) mod privilege;
pub(crate) mod settled;
