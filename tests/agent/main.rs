//! What every task driver must do, tested through a real Nomad agent.
//!
//! `NOMAD=/path/to/nomad NOMAD_DRIVER=raw_exec cargo test -p tests --test agent` runs the same tests with another
//! driver; without `NOMAD_DRIVER` the driver is ours, and without `NOMAD` the tests are ignored. [`DIFFERENCES`]
//! describes where a driver differs, and the test then expects that behaviour.
//!
//! Not tested here, because Nomad alone cannot do it: script checks, which need Consul.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use tests::{Agent, Event};

/// The agent, or the end of a test if there is none.
macro_rules! agent {
    () => {
        agent!(shared)
    };
    ($kind:ident) => {
        match Agent::$kind().await {
            Some(agent) => agent,
            None => return,
        }
    };
}

/// The same, for features that only our driver has.
macro_rules! ours {
    ($agent:expr) => {
        match $agent.await {
            Some(agent) if agent.driver() == "systemd" => agent,
            Some(agent) => return eprintln!("skipped: {} has no such options", agent.driver()),
            None => return,
        }
    };
}

mod end;
mod exec;
mod fleet;
mod logs;
mod options;
mod recovery;
mod resources;
mod start;
mod upgrade;
mod view;

/// A behaviour in which drivers may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matter {
    /// Whether children in sessions of their own end with the task where there are no cgroup controllers.
    Strays,
    /// Whether Nomad is told that a task was killed by the OOM killer.
    OutOfMemory,
    /// Whether a command runs in the cgroup of the task itself.
    Group,
}

/// The driver, the behaviour, and a description of the difference and its reason.
const DIFFERENCES: &[(&str, Matter, &str)] = &[
    (
        "raw_exec",
        Matter::Strays,
        "it has cgroups only where Nomad finds controllers; without them it kills by process group, and a child in \
         another one gets away",
    ),
    (
        "raw_exec",
        Matter::OutOfMemory,
        "it does not ask the cgroup why its task was killed: that is a SIGKILL like any other",
    ),
    (
        "systemd",
        Matter::Group,
        "a command has a group of its own below the task's, so that it can be ended with all that it started",
    ),
];

/// Whether the driver under test differs in this behaviour; if so, prints the reason.
fn differs(agent: &Agent, matter: Matter) -> bool {
    let found = DIFFERENCES.iter().find(|(driver, what, _)| *driver == agent.driver() && *what == matter);
    found.inspect(|(driver, _, reason)| eprintln!("{driver} differs: {reason}")).is_some()
}

/// A script that runs until it is stopped, and handles signals at once, as its traps define.
fn waiting(script: &str) -> String {
    format!("{script}\necho ready\nwhile :; do sleep 0.1; done")
}

fn has_controller(name: &str) -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    controllers.split_whitespace().any(|controller| controller == name)
}

/// Exit code and signal of every exit of a task, in order.
fn ends(events: &[Event]) -> Vec<(i32, i32)> {
    let ends = events.iter().filter(|event| event.kind == "Terminated");
    ends.map(|event| (event.end.0, event.end.1)).collect()
}

/// Serves one file to every client, as long as the test runs; returns its address.
fn served(name: &str, content: impl AsRef<[u8]> + Send + 'static) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("http://{}/{name}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let head = BufReader::new(&connection).lines().map_while(Result::ok);
            let _ = head.take_while(|line| !line.is_empty()).count();
            let length = content.as_ref().len();
            let _ = write!(connection, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let _ = connection.write_all(content.as_ref());
        }
    });
    address
}
