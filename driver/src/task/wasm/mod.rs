//! WebAssembly: grants of a guest, compilation, the cache of compiled code, and how guests end.

pub mod cache;
pub mod compiler;
pub mod guest;
pub(crate) mod network;
pub mod outcome;
pub(crate) mod preopens;
pub(crate) mod server;
