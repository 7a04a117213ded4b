//! Hostile guests. None of them may harm the host, the cache, or another guest.
//!
//! Every test has a [`Scene`](scene::Scene): files outside the guest's directories, a neighbour that runs all the time
//! in a directory of the same tree, and a cache that both use. The end of the scene checks that they are unchanged.
//! Memory is limited in place of the cgroup that a task has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
mod chance;
mod compiler;
mod directories;
mod limits;
mod scene;
mod sigterm;

use std::time::Duration;

/// What a user notices as a delay.
const PROMPTLY: Duration = Duration::from_secs(5);

const MEMORY_LIMIT: i32 = 122;
const DEADLINE: i32 = 124;
const FAILED: i32 = 125;
const BAD_MODULE: i32 = 126;
const MISSING_IMPORT: i32 = 127;
const TRAPPED: i32 = 134;
const STOPPED: i32 = 143;
