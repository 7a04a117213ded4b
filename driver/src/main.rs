//! `nomad-driver-systemd`: a plugin when Nomad starts it, and a command for people otherwise.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nomad_driver_systemd::plugin::handshake::Terms;
use nomad_driver_systemd::systemd::Systemd;
use nomad_driver_systemd::task::Tasks;
use nomad_driver_systemd::{chain, log, plugin};

/// A Nomad task driver that runs every task as a systemd transient unit.
///
/// Nomad starts it without a command.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => plugin_process(),
        Some(command) => match command {},
    }
}

/// The life of a plugin process: be recognised, serve, end. Tasks outlive it.
fn plugin_process() -> ExitCode {
    let terms = match Terms::from_env() {
        Ok(terms) => terms,
        Err(error) => {
            eprintln!("nomad-driver-systemd: {}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    log::to_stderr_as_hclog();
    let serve = async {
        let systemd = Systemd::default();
        let tasks = Tasks::new(systemd.clone());
        plugin::serve(terms, systemd, tasks).await
    };
    let served = match runtime() {
        Ok(runtime) => {
            let served = runtime.block_on(serve).map_err(|error| chain(&error));
            // Waiting calls are left as they are: Nomad asks again in the next process.
            runtime.shutdown_background();
            served
        }
        Err(error) => Err(format!("start the runtime: {error}")),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the plugin ended");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    // The work is D-Bus and gRPC; two threads keep one from waiting for the other.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}
