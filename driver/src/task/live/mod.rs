//! Tasks that run: their handles, commands in them, statistics, events and signals.

pub(crate) mod beginners;
pub mod cgroup;
pub mod events;
pub mod exec;
pub(crate) mod exit;
pub mod handle;
mod init;
pub(crate) mod lost;
mod owner;
pub mod saved;
pub mod signal;
pub(crate) mod slices;
pub mod stats;
