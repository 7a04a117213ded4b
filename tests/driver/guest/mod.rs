//! WebAssembly grants of a job (`wasm`), seen from inside the guest and from inside the unit around it; how a guest
//! ends; and how it serves.

use std::net::TcpListener;

use tests::{Job, built_guest};

use super::guest;

/// A component that does what its arguments request, with the standard library of Rust, with these options in `wasm`;
/// none if it could not be built.
fn command(options: &str, args: &[&str]) -> Option<Job> {
    let guest = std::fs::read(built_guest("command_p2")?).unwrap();
    Some(Job::artifact("command.wasm", &guest).args(args).config(&format!("wasm {{\n{options}\n}}")))
}

/// The same, or the end of a test that needs it.
macro_rules! command {
    ($options:expr, $args:expr) => {
        match command($options, $args) {
            Some(job) => job,
            None => return,
        }
    };
}

mod network;
mod outcome;
mod refusal;
mod serve;
mod view;

/// A guest of `tests/guests`, with these options in `wasm`.
fn with(name: &str, options: &str) -> Job {
    Job::artifact("guest.wasm", &guest(name)).config(&format!("wasm {{\n{options}\n}}"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server on a port of this machine, with these options in `serve`.
fn server(port: u16, options: &str) -> Job {
    with("web.wat", &format!("serve {{\n port = \"http\"\n{options}\n}}")).port("http", port)
}
