//! The interface between the driver and wasm-shim, defined once.
//!
//! ```text
//!   a job's `wasm` block ──► driver ── options: --dir Directory, --connect and --listen AddressRule, -W Proposal ──► wasm-shim
//!   its directories       ──► driver ── --same Same, for the runner and for the init ─────────────────────────────────► wasm-shim
//!   task events          ◄── driver ◄── STATUS= (sd_notify(3)): Status, of a Kind, a Denial or Served; exit codes ──┘
//! ```
#![forbid(unsafe_code)]

mod address;
mod denial;
mod directory;
mod outcome;
mod proposal;
mod same;
mod status;
mod visible;

/// The deepest stack that wasm-shim can give a guest, in bytes (`-W max-wasm-stack`): deeper stacks exceed the memory
/// reserved for guest stacks.
pub const STACK_MAX: u64 = 1 << 30;

pub use address::{AddressRule, Prefix, Protocol, digits};
pub use denial::{Act, Denial};
pub use directory::Directory;
pub use outcome::Kind;
pub use proposal::Proposal;
pub use same::Same;
pub use status::{Served, Status};
pub use visible::{visible, visible_line};
