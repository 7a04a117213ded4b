//! The cost of tasks and guests, compared with the floor and, for guests, with wasmtime's own command line.
//!
//! Compared programs are measured in turn, so that a slower machine affects all of them. Medians and their ratios; an
//! absolute time depends more on the machine than on us.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on panics, and its tables go to stdout"
)]

mod check;
mod drivers;
mod floor;
mod hyper_server;
mod load;
mod process;
mod properties;
mod quiet;
mod results;
mod scale;
mod shim;
mod steps;
mod tasks;

use std::path::Path;
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // On a host with systemd.
        ["tasks", native] => {
            quiet::tell();
            tasks::measure(Path::new(native));
        }
        ["drivers", native] => {
            quiet::tell();
            drivers::measure(Path::new(native));
        }
        ["properties", ref presets @ ..] => {
            quiet::tell();
            properties::measure(presets);
        }
        ["steps", native] => {
            quiet::tell();
            steps::measure(Path::new(native));
        }
        ["scale", ref mounts @ ..] => {
            quiet::tell();
            scale::measure(mounts == ["mounts"]);
        }
        ["check", native] => check::measure(Path::new(native)),
        // Anywhere.
        ["shim", native] => {
            quiet::tell();
            shim::measure(Path::new(native));
        }
        ["worst", results] => results::worst(Path::new(results)),
        ["plot", results] => results::plot(Path::new(results)),
        // The servers that others are compared with.
        ["hyper", address] => hyper_server::serve(address),
        _ => {
            eprintln!(
                "usage: bench properties [PRESET]..., bench scale, bench tasks|steps|drivers|shim|check HELLO (tests/bench makes the static C program HELLO), or bench worst|plot FILE"
            );
            std::process::exit(2);
        }
    }
}

/// A p1 module that says hello.
fn hello_guest() -> Vec<u8> {
    wat::parse_file(tests::repository().join("tests/guests/hello.wat")).unwrap()
}

fn median<T: PartialOrd + Copy>(values: &mut [T]) -> T {
    values.sort_unstable_by(|one, other| one.partial_cmp(other).unwrap());
    values[values.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
