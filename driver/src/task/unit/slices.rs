//! The slices of our units.

/// The slice of all our units. Nomad makes `nomad.slice` itself, behind systemd's back; this one is apart from it.
pub const SLICE: &str = "nomad_tasks.slice";
/// In it, as in Nomad's own tree, the tasks that share cores, and those that have some for themselves.
pub const SHARE: &str = "nomad_tasks-share.slice";
/// See [`SHARE`].
pub const RESERVE: &str = "nomad_tasks-reserve.slice";
