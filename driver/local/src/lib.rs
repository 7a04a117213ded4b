//! Runs a Nomad job file locally, without an agent.
//!
//! `nomad-driver-systemd run JOB.nomad.hcl` starts the plugin as an agent would, in a process of its own, and
//! communicates with it only over the plugin's socket. What works here works under Nomad, and what fails here fails
//! there with the same message. `nomad-driver-systemd unit` stops halfway: at the request that the driver would get.
//!
//! ```text
//! job file ─► jobspec ─► Job        what was written; `${…}` of the runtime is still text
//!                         │
//!             node ───────┤        this machine as a Nomad node: processors, names, attributes
//!             allocdir ───┤        directories and log pipes of one allocation
//!             taskenv ────┤        NOMAD_… variables; interpolates what was left as text
//!             artifact ───┤        fetched and unpacked into the task's directory
//!             template ───┤        rendered into files and variables
//!             hclspec ────┘        `config` by the plugin's own schema, as MessagePack
//!                         ▼
//!             request              all of this for one task after the other, and nothing touched
//!                         ▼
//!             task_request         TaskRequest ─► the wire's TaskConfig
//!             unit                 stops here; run goes on, in the order of the job's lifecycle:
//!             plugin_client        handshake, StartTask, WaitTask, StopTask, DestroyTask
//! ```
//!
//! Nothing here knows systemd, and the plugin's library does not use this crate; the tests talk to the plugin with
//! [`plugin_client`]. The facts are those of Nomad v2.0.5 and go-plugin v1.8.0; differences are documented at the item.
#![forbid(unsafe_code)]

pub mod allocdir;
pub mod artifact;
pub mod doctor;
pub mod error;
#[cfg(test)]
mod fake;
pub mod hclspec;
pub mod jobspec;
pub mod node;
pub mod options;
pub mod plugin_client;
mod request;
pub mod run;
pub mod task_request;
pub mod taskenv;
pub mod template;
mod terminal;
pub mod unit;
mod unknown_options;
mod variables;
pub mod warm;
mod within;
