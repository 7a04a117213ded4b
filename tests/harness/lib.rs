//! The vocabulary of tests: a [`Host`] with a real systemd, a [`Node`] with our plugin on it, a [`Task`] on that node.
//!
//! A test talks to the plugin as Nomad does, over its socket, through the same client that `nomad-driver-systemd run`
//! uses. Everything a test creates is removed when it ends: tasks, units, directories and the plugin itself.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on panics"
)]

mod agent;
mod desk;
mod exec;
mod host;
mod manager;
mod node;
mod user;

use std::path::PathBuf;
use std::time::Duration;

pub use agent::{Agent, Alloc, Event, Said, Second, Spec};
pub use desk::{Desk, End, Running, built_guest, end_of, within};
pub use exec::Session;
pub use host::{DropIn, Host, Need};
pub use manager::{Manager, with_sockets};
pub use node::{Events, Exit, Job, Node, Prepared, Refusal, Task};
pub use user::User;

/// The time limit for anything that should happen at once, on a busy machine or an emulated one.
pub const SOON: Duration = Duration::from_mins(1);

/// A plugin configuration in which tasks may have a `notify` block.
pub const MAY_NOTIFY: &str = r#"allow_properties = ["@confining", "NotifyAccess"]"#;

/// A plugin configuration in which tasks may be passed sockets by any systemd.
pub const MAY_LISTEN: &str = r#"allow_properties = ["@confining", "Listen*"]"#;

/// The repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// One of the programs under test. `tests/build` puts them into `target/bin`; `NOMAD_SYSTEMD_BIN` names another
/// directory, and `NOMAD_SYSTEMD_DRIVER` another driver, such as the one from a plain `cargo build`.
pub fn program(name: &str) -> PathBuf {
    let given = std::env::var_os("NOMAD_SYSTEMD_DRIVER").filter(|_| name == "nomad-driver-systemd");
    let path = repository().join(given.map_or_else(|| programs().join(name), PathBuf::from));
    assert!(path.is_file(), "{} is not there: run tests/build first", path.display());
    path.canonicalize().expect("an absolute path")
}

/// The directory of the programs under test.
pub fn programs() -> PathBuf {
    std::env::var_os("NOMAD_SYSTEMD_BIN")
        .map_or_else(|| repository().join("target/bin"), |given| repository().join(given))
}

/// WebAssembly from its text form.
pub fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the guest's text is valid")
}

/// A p1 guest that exits with this code.
pub fn exiting_guest(code: i32) -> Vec<u8> {
    wasm(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const {code}))))"#
    ))
}

/// The PID of a task's program: its main process is the init, whose first child is the program (proc_pid_children(5)).
pub fn program_of(init: &str) -> String {
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    children.split_whitespace().next().expect("the init has a child").to_owned()
}

/// Polls with short pauses until there is an answer; fails with `what` after [`SOON`].
///
/// For conditions that are not signalled to a test. Where there is a signal, wait for it.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, asking).await.unwrap_or_else(|_| panic!("waited {SOON:?} in vain: {what}"))
}
