//! What a task may do: the presets, the operator's policy, and the effective settings of one task.

mod capabilities;
pub(crate) mod effective;
mod new_privileges;
pub(crate) mod option_properties;
pub(crate) mod policy;
pub mod preset;
pub(crate) mod privilege;
pub(crate) mod requested;
