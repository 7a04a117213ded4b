//! Nomad's part, played at the desk.
//!
//! `nomad-driver-systemd run JOB.nomad.hcl` runs a job without a Nomad agent. It starts the plugin as an agent
//! would, as a process of its own, and speaks to it over the plugin's socket and nothing else; so what works here
//! works under Nomad, and what fails here fails there with the same words. `nomad-driver-systemd unit` goes half of that
//! way: to what the driver would be asked.
//!
//! ```text
//! job file ─► jobspec ─► Job        what was said; `${…}` of the runtime is still text
//!                         │
//!             node ───────┤        this machine as a Nomad node: processors, names, attributes
//!             allocdir ───┤        directories and log pipes of one allocation
//!             taskenv ────┤        NOMAD_… variables; interpolates what was left as text
//!             artifact ───┤        fetched and unpacked into the task's directory
//!             hclspec ────┘        `config` by the plugin's own schema, as MessagePack
//!                         ▼
//!             request ────┐        all of this for one task after the other, and nothing touched
//!                         ▼
//!             task        TaskRequest ─► the wire's TaskConfig
//!             unit        stops here and hands it over; run and desk go on:
//!             plugin      handshake, StartTask, WaitTask, StopTask, DestroyTask
//! ```
//!
//! Nothing in this folder knows systemd, and nothing outside it (but the tests) may use it. The facts are those of
//! Nomad v2.0.5 and go-plugin v1.8.0; where we differ, the item says so.

pub mod allocdir;
pub mod artifact;
mod block;
mod desk;
pub mod expression;
#[cfg(test)]
mod fake;
mod functions;
pub mod hclspec;
pub mod jobspec;
pub mod node;
pub mod options;
pub mod plugin;
mod request;
pub mod run;
pub mod task;
pub mod taskenv;
pub mod template;
mod terminal;
mod types;
pub mod unit;
mod unpack;
