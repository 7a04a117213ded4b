//! A real Nomad agent on the host, and the jobs that a test gives it.
//!
//! Nomad is no part of this repository: `NOMAD` names the program, `NOMAD_DRIVER` the driver of the jobs (`systemd`).
//! One agent serves all tests of a binary, and a test may have it to itself, to stop it and start it again. The server
//! that it belongs to is a process of its own, and stays. The log of both stays in `target/agent.log`.

mod alloc;
mod client;
mod service;
mod spec;

pub use alloc::{Alloc, Event};
pub use client::{Agent, Said};
pub use spec::Spec;
