//! A small version for every run of the tests: fails if a ratio is half as much again as it should be. Ratios hold on a busy
//! machine as well, absolute times do not.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use tests::{Desk, Host, Need, Node, built_guest, program};

use crate::floor::Floor;
use crate::tasks::timed_start;
use crate::{median, milliseconds};

const ROUNDS: usize = 25;
/// `StartTask` to the same unit without the driver, whose goal is 1.15; and a guest of p1 to a static C program, which is at
/// 1.7 to 1.8 on a quiet machine.
const START_MOST: f64 = 1.15 * 1.5;
const GUEST_MOST: f64 = 1.8 * 1.5;

/// Measures on a host with systemd; `native` is a static C program that says hello.
pub(crate) fn measure(native: &Path) {
    let results = [("StartTask", start(), START_MOST), ("p1 hello", guest(native), GUEST_MOST)];
    let mut all_well = true;
    for (what, ratio, most) in results {
        println!("{what}: {ratio:.2} times the floor, at most {most:.2}");
        all_well &= ratio <= most;
    }
    std::process::exit(i32::from(!all_well));
}

#[tokio::main]
async fn start() -> f64 {
    let host = Host::alone(Need::Systemd).await.expect("a host");
    let (node, floor) = (Node::start(&host).await, Floor::new().await);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 3 {
        let started = [timed_start(&node).await, floor.timed_start(&node).await];
        if round >= 3 {
            ours.push(milliseconds(started[0]));
            bare.push(milliseconds(started[1]));
        }
    }
    median(&mut ours) / median(&mut bare)
}

fn guest(native: &Path) -> f64 {
    let desk = Desk::new();
    let (file, code) = (built_guest("hello_p1").expect("tests/guests/build"), desk.path("hello.cwasm"));
    let compiled = Command::new(program("wasm-shim-compile")).args(["-o", &code, &file]).status();
    assert!(compiled.unwrap().success());
    let shim = program("wasm-shim");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (times, command) in [
            (&mut ours, Command::new(&shim).args(["run", "--allow-precompiled", &code])),
            (&mut bare, &mut Command::new(native)),
        ] {
            let began = Instant::now();
            assert!(command.env_clear().stdout(Stdio::null()).status().unwrap().success());
            times.push(milliseconds(began.elapsed()));
        }
    }
    median(&mut ours) / median(&mut bare)
}
