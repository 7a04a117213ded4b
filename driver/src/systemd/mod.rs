//! The client of systemd, and the only module that speaks D-Bus.
//!
//! The client starts, watches, signals and removes units, and knows nothing of Nomad. All callers share one connection
//! to systemd. One future reads it, in order, and keeps the state of each unit; answers to questions update it as well:
//!
//! ```text
//!  StartTransientUnit ──► PID 1 ──► JobRemoved ───────────► the waiter for the unit's job
//!                               └─► PropertiesChanged ────► UnitState, in a watch channel per unit
//!                               └─► UnitRemoved ──────────► UnitState::removed
//! ```
//!
//! Nothing is polled. When the connection is lost, the reader reconnects with growing pauses, subscribes again, and
//! reads once the state of every unit that is still being followed. So a unit that ended in between is not missed.

mod checked;
mod client;
mod connection;
mod error;
mod features;
mod jobs;
mod journal;
pub mod journal_writer;
mod name;
mod private;
pub mod property;
mod reload;
mod retry;
mod run_line;
mod sender;
mod start;
mod state;
mod tool;
mod transient;
mod unit_file;
mod unit_text;
mod vocabulary;
mod watch;
mod wire;

pub use checked::Checked;
pub use client::{KillWho, Systemd};
pub use error::Error;
pub use features::{Features, Manager};
pub use journal::Ended;
pub use name::UnitName;
pub use property::{
    Assignment, Error as AssignmentError, Meaning, Paths, PropertyDef, Reach, Role, all as properties, bytes,
    capability_mask, capability_names, known as property, quote as quoted, words,
};
pub(crate) use property::{SIGNALS, step as exit_step};
pub use run_line::{shell_word, systemd_run};
pub use start::Startable;
pub use state::{InvocationId, MainExit, Service, UnitState};
pub use transient::{Bind, Property, SocketUnit, Stream, TransientUnit};
pub use unit_file::unit_file;
pub use unit_text::{check_text, one_line};
pub use watch::Unit;
