//! What the driver and wasm-shim say to each other, written down once.
//!
//! ```text
//!   a job's `wasm` block ──► driver ── options: --dir Directory, --connect and --listen AddressRule, -W Proposal ──► wasm-shim
//!   task events          ◄── driver ◄── STATUS= (sd_notify(3)): Status, of a Kind, a Denial or Served; exit codes ──┘
//! ```
#![forbid(unsafe_code)]

mod address;
mod denial;
mod directory;
mod outcome;
mod proposal;
mod status;

pub use address::{AddressRule, Prefix, Protocol, digits};
pub use denial::{Act, Denial};
pub use directory::Directory;
pub use outcome::Kind;
pub use proposal::Proposal;
pub use status::{Served, Status};
