//! A real Nomad agent on the host, and the jobs that a test gives it.
//!
//! Nomad is not part of this repository: `NOMAD` names the program, `NOMAD_DRIVER` the driver of the jobs (`systemd`).
//! One agent serves all tests of a binary, and a test may have it exclusively, to stop and restart it. The server that
//! it belongs to is a process of its own, and keeps running. The log of both is in `target/agent.log`.

mod alloc;
mod client;
mod second;
mod service;
mod spec;

pub use alloc::{Alloc, Event};
pub use client::{Agent, Said};
pub use second::Second;
pub use spec::Spec;
