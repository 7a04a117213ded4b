//! Running tasks: their handles, commands in them, statistics, events and signals.

pub mod cgroup;
pub mod events;
pub mod exec;
pub(crate) mod exit;
pub mod handle;
mod init_watch;
pub(crate) mod orphans;
mod owner;
pub mod saved;
pub mod signal;
pub(crate) mod slices;
pub mod stats;
pub(crate) mod told_once;
