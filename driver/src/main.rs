//! `nomad-driver-systemd`: a plugin when Nomad starts it, and a command for people otherwise.
#![forbid(unsafe_code)]

mod open_files;
#[cfg(feature = "pages")]
mod pages;
mod unit_command;
mod warm_command;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};
use nomad_driver_systemd::plugin::handshake::Terms;
use nomad_driver_systemd::systemd::Systemd;
use nomad_driver_systemd::task::Tasks;
use nomad_driver_systemd::{chain, enter, kernel, log, log_forwarder, plugin};
use nomad_local::doctor::{self, DoctorOptions};
use nomad_local::run::{self, RunOptions};
use nomad_local::warm::WarmOptions;
use shim_interface::visible;

use self::unit_command::UnitOptions;

/// A Nomad task driver that runs every task as a systemd transient unit.
///
/// Nomad starts it without a command.
#[derive(Parser)]
#[command(version = VERSION.as_str())]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a job file here and now, without Nomad, through the same plugin.
    Run(RunOptions),
    Unit(UnitOptions),
    Warm(WarmOptions),
    Doctor(DoctorOptions),
    /// Becomes a command inside a running task; the driver itself asks for it.
    #[command(hide = true)]
    Enter,
    /// Copies a task's output to Nomad and to the journal; the driver itself asks for it.
    #[command(hide = true)]
    Copy,
    /// Writes manual pages and completions to a directory, for packages.
    #[cfg(feature = "pages")]
    #[command(hide = true)]
    Pages {
        /// Where to.
        directory: std::path::PathBuf,
    },
}

/// The release, and the commit that it was built from if driver/dist/release built it: `0.1.0 (9f3c2a1b0d)`.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let release = env!("CARGO_PKG_VERSION");
    let commit = option_env!("NOMAD_SYSTEMD_COMMIT");
    commit.map_or_else(|| release.to_owned(), |commit| format!("{release} ({commit})"))
});

fn main() -> ExitCode {
    let cli = Cli::parse_from(std::env::args_os().map(as_of_nomad));
    match cli.command {
        None => plugin_process(),
        Some(Command::Run(options)) => finished(run::run(options)).map_or(ExitCode::FAILURE, ExitCode::from),
        Some(Command::Unit(options)) => unit_command::print(options),
        Some(Command::Warm(options)) => warm_command::compile(&options),
        Some(Command::Doctor(options)) => {
            finished(doctor::run(options)).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Some(Command::Enter) => enter::run_command(),
        Some(Command::Copy) => log_forwarder::forward(),
        #[cfg(feature = "pages")]
        Some(Command::Pages { directory }) => {
            match pages::write(<Cli as clap::CommandFactory>::command(), &directory) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("nomad-driver-systemd: {}: {error}", directory.display());
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// Options that are written as for the `nomad` command, with one dash, in our form.
fn as_of_nomad(word: OsString) -> OsString {
    let ours = |text: &str| {
        let (name, _) = text.split_once('=').unwrap_or((text, ""));
        ["-var", "-var-file", "-json", "-config"].contains(&name).then(|| format!("-{text}").into())
    };
    word.to_str().and_then(ours).unwrap_or(word)
}

/// Runs the plugin process: handshake, serve, exit. Tasks outlive it.
fn plugin_process() -> ExitCode {
    let terms = match Terms::from_env() {
        Ok(terms) => terms,
        Err(error) => {
            eprintln!("nomad-driver-systemd: {}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    kernel::share_heaps();
    log::to_stderr_as_hclog();
    log::abort_on_panic();
    open_files::raise_open_files();
    let serve = async {
        let systemd = Systemd::default();
        let tasks = Tasks::new(systemd.clone());
        plugin::serve(terms, systemd, tasks).await
    };
    let served = match runtime() {
        Ok(runtime) => {
            let served = runtime.block_on(serve).map_err(|error| chain(&error));
            // Pending calls are abandoned: Nomad makes them again to the next process.
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

/// Runs a command that plays Nomad's part. `None` after an error, which has been printed.
fn finished<T>(played: impl Future<Output = Result<T, nomad_local::error::Error>>) -> Option<T> {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("nomad-driver-systemd: start the runtime: {error}");
            return None;
        }
    };
    let played = runtime.block_on(played);
    runtime.shutdown_background();
    match played {
        Ok(result) => Some(result),
        Err(error) => {
            eprintln!("nomad-driver-systemd: {}", visible(&diagnostics::with_causes(&error)));
            None
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    // The work is D-Bus and gRPC; two threads keep one from waiting for the other.
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}
