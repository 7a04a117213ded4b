//! Runs one WebAssembly guest as one process, and compiles guests for that.
//!
//! Two binaries share this library, so that what one writes the other can load:
//!
//! * `wasm-shim` runs a guest. It contains no compiler: that makes it small, quick to start, and able to run where
//!   memory may never be writable and executable.
//! * `wasm-shim-compile` turns a guest into native code, once per content, outside of the limits of the task.
//!
//! ```text
//! args ──► artifact ──► code ──► guest ──► outcome
//!  what     content,     map it    wasi: what   exit code,
//!  was      cache,       into an   the guest    what was
//!  asked    compiler     engine    may touch    said on stderr
//! ```
//!
//! Unsafe code is allowed in two modules: `code`, because precompiled code cannot be checked, and `process`, because
//! the standard library has no signal handlers. `artifact` calls the one unsafe function, where it decides whose code
//! to trust.

#[cfg(feature = "run")]
pub mod args;
#[cfg(feature = "run")]
pub mod artifact;
#[cfg(feature = "run")]
pub mod code;
pub mod content;
pub mod engine;
#[cfg(feature = "run")]
pub mod guest;
#[cfg(feature = "run")]
pub mod outcome;
#[cfg(feature = "run")]
pub mod process;
pub mod publish;
#[cfg(feature = "run")]
pub mod wasi;
