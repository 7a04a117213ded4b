//! `wasm-shim` and `wasm-shim-compile`, driven from outside as the driver and users do. Runs anywhere, without root.
//!
//! The binaries come from the directory `$NOMAD_SYSTEMD_BIN`, or else from `target/bin` of the repository.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cache;
mod command_line;
mod compiler;
mod module;
mod outcome;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// A delay that a user notices.
const PROMPTLY: Duration = Duration::from_secs(5);

const FAILED: i32 = 125;
const BAD_MODULE: i32 = 126;
const MISSING_IMPORT: i32 = 127;
const TRAPPED: i32 = 134;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
