//! A Nomad task driver that runs every task as a systemd transient unit.
//!
//! Three modules with one-way dependencies. `run` and `unit`, which speak to a plugin process as an agent does, are the
//! crate `nomad-local`, which only `main` uses:
//!
//! ```text
//! main ──► plugin ──► task ──► systemd        proto, tonic: only plugin
//!   └────► nomad-local                        zbus: only systemd
//! ```
#![deny(unsafe_code)] // kernel.rs alone may

pub mod enter;
pub mod kernel;
pub mod log;
pub mod log_forwarder;
pub mod plugin;
pub mod systemd;
pub mod task;
pub mod telemetry;

pub use diagnostics::chain;
