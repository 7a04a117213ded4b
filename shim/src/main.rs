//! `wasm-shim`: runs one WebAssembly guest and exits with its exit code, or serves HTTP with it.
#![deny(unsafe_code)]
#![cfg_attr(not(test), no_main)]

// A dynamic program, as of a debug build, has the functions of its C library.
#[cfg(all(not(test), target_feature = "crt-static"))]
mod huge_pages;
#[cfg(all(not(test), target_env = "gnu", target_feature = "crt-static"))]
mod modules;

use std::io::Write as _;
use wasm_shim::args::{Command, Guest, Http, Invocation};
use wasm_shim::outcome::{self, Outcome};
use wasm_shim::world::World;
use wasm_shim::{artifact, guest, init, inspect, process, serve};
use wasmtime::error::Context as _;
use wasmtime::{Error, Result, bail};

/// The entry point that the C library calls, in place of the standard library's; see [`process::begin`].
#[cfg_attr(not(test), expect(unsafe_code, reason = "the name must be the one that the C library calls"))]
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main() -> i32 {
    if let Some(code) = init::begin() {
        process::exit(code);
    }
    process::begin();
    outcome::report_panics_in_one_line();
    process::end_on_signals();
    let code = run().unwrap_or_else(|error| outcome::report_not_started(&error));
    // The guest's last line may lack its line end; a closed pipe is not our error.
    let _ = std::io::stdout().flush();
    process::exit(code)
}

/// Executes the command line; returns the process's exit code.
fn run() -> Result<u8> {
    let asked = match Invocation::read() {
        Ok(asked) => asked,
        Err(wrong) if wrong.use_stderr() => bail!("{}", wrong.to_string().trim_start_matches("error: ")),
        Err(help_or_version) => {
            help_or_version.print().context("write to stdout")?;
            return Ok(0);
        }
    };
    process::leave_out_backtraces();
    match asked {
        Invocation::Command(Command::Compile(args)) => artifact::compile(&args).map(|()| 0),
        Invocation::Command(Command::Inspect(args)) => {
            let text = inspect::inspect(&args.guest().map_err(Error::msg)?, args.json)?;
            std::io::stdout().write_all(text.as_bytes()).context("write to stdout")?;
            Ok(0)
        }
        Invocation::Command(Command::Run(run)) => command(&run.guest().map_err(Error::msg)?),
        Invocation::Command(Command::Serve(args)) => {
            serve::serve(args.guest().map_err(Error::msg)?, args.http)
        }
        Invocation::File(run) => either(run.guest().map_err(Error::msg)?),
    }
}

fn command(guest: &Guest) -> Result<u8> {
    let code = Box::leak(Box::new(guest::open(guest)?));
    Ok(report(&guest::run(code, guest)?, guest))
}

/// Runs or serves, depending on the guest's exports.
fn either(guest: Guest) -> Result<u8> {
    let code = Box::leak(Box::new(guest::open(&guest)?));
    match World::of(code) {
        Ok(worlds) if worlds.iter().all(|world| matches!(world, World::Server(_))) => {
            serve::serve(guest, Http::default())
        }
        _ => Ok(report(&guest::run(code, &guest)?, &guest)),
    }
}

fn report(outcome: &Outcome, guest: &Guest) -> u8 {
    outcome.report(guest.network.first_denial().as_ref())
}
