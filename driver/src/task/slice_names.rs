//! The driver's slices.

/// The slice of all units of the driver. Nomad creates `nomad.slice` itself, without systemd; this slice is separate.
pub(crate) const SLICE: &str = "nomad_tasks.slice";
/// In [`SLICE`], as in Nomad's own tree, the tasks that share cores.
pub(crate) const SHARE: &str = "nomad_tasks-share.slice";
/// In [`SLICE`], the tasks that have reserved cores.
pub(crate) const RESERVE: &str = "nomad_tasks-reserve.slice";
