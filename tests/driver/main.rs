//! The life of a task, over the plugin's socket, on a real systemd.
//!
//! One test on the namespace host takes a few seconds: `cargo test -p tests --test driver -- NAME` as root.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

/// The host, or the end of a test if the machine is not suitable.
macro_rules! host {
    () => {
        match tests::Host::with(tests::Need::Systemd).await {
            Some(host) => host,
            None => return,
        }
    };
}

mod cache;
mod compiler;
mod disk;
mod doctor;
mod end;
mod ephemeral;
mod events;
mod exec;
mod files;
mod guest;
mod identity;
mod logs;
mod network;
mod operator;
mod plugin;
mod polkit;
mod private_mounts;
mod properties;
mod recovery;
mod run;
mod sandbox;
mod socket;
mod start;
mod stats;
mod telemetry;
mod user;
mod view;
mod warm;

/// A guest of `tests/guests`, from its text.
fn guest(name: &str) -> Vec<u8> {
    tests::wasm(&std::fs::read_to_string(tests::repository().join("tests/guests").join(name)).unwrap())
}

/// The release of the host's systemd, such as 252.
fn version(host: &tests::Host) -> u32 {
    let output = host.run("systemctl", &["--version"]);
    let number = output.split_whitespace().nth(1).unwrap();
    number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}
