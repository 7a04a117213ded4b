//! Runs one WebAssembly guest as one process, and compiles guests for it.
//!
//! Two binaries share this library, so that one can load what the other writes:
//!
//! * `wasm-shim` runs a guest, or serves HTTP with it. It contains no compiler: that makes it small, quick to start, and
//!   able to run where memory may never be writable and executable.
//! * `wasm-shim-compile` turns a guest into native code, once per content, outside of the limits of the task.
//!
//! ```text
//! args ──► artifact ──► code ──► world ──► guest ──► outcome
//! settings  content,    map it    what     serve      exit code,
//! env       cache,      into an   it is      │        messages
//!   what    compiler    engine    for        ▼        on stderr
//!   was                                    wasi, network, outgoing, limits:
//!   asked                                  what the guest may touch
//! ```
//!
//! In addition, `init` runs a program that is not a guest, as its init.
//!
//! Unsafe code is allowed in four modules:
//!
//! * `code` maps precompiled code, which cannot be checked;
//! * `artifact` calls the one unsafe function of `code`, where it decides whose code to trust;
//! * `process` installs handlers of signals, which the standard library does not support;
//! * `init` takes one descriptor by its number.

#[cfg(feature = "run")]
pub mod args;
#[cfg(feature = "run")]
pub mod artifact;
#[cfg(feature = "run")]
pub mod cache;
#[cfg(feature = "run")]
pub mod carried;
#[cfg(feature = "run")]
pub mod code;
#[cfg(feature = "run")]
pub mod connections;
pub mod content;
pub mod engine;
#[cfg(feature = "run")]
pub mod env;
#[cfg(any(feature = "compile", test))]
pub mod exports;
#[cfg(all(test, feature = "run"))]
mod fuzz;
#[cfg(feature = "run")]
pub mod guest;
#[cfg(any(feature = "compile", test))]
pub mod imports;
#[cfg(feature = "run")]
pub mod init;
#[cfg(feature = "run")]
pub mod inspect;
#[cfg(feature = "run")]
pub mod invoke;
#[cfg(feature = "run")]
pub mod limits;
#[cfg(feature = "run")]
pub mod network;
#[cfg(feature = "run")]
pub mod outcome;
#[cfg(feature = "run")]
pub mod outgoing;
#[cfg(feature = "run")]
pub mod pace;
#[cfg(feature = "run")]
pub mod preopens;
#[cfg(feature = "run")]
pub mod process;
pub mod publish;
#[cfg(feature = "run")]
pub mod serve;
#[cfg(feature = "run")]
pub mod settings;
#[cfg(feature = "run")]
pub mod sockets;
#[cfg(feature = "run")]
pub mod systemd;
#[cfg(feature = "run")]
pub mod wasi;
#[cfg(feature = "run")]
pub mod world;
