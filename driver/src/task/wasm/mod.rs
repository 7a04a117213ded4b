//! WebAssembly: grants of a guest, compilation, the cache of compiled code, and how guests end.

pub mod cache;
pub mod compile;
pub mod guest;
pub mod outcome;
