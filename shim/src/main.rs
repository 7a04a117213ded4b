//! `wasm-shim`: runs one WebAssembly guest and ends with its exit code.
#![forbid(unsafe_code)]

use clap::Parser;
use std::io::Write as _;
use wasm_shim::args::{Cli, Command};
use wasm_shim::outcome::{self, Outcome};
use wasm_shim::{artifact, guest, process};
use wasmtime::error::Context as _;
use wasmtime::{Result, bail};

fn main() {
    outcome::report_panics_in_one_line();
    process::end_on_signals();
    let code = match run() {
        Ok(outcome) => outcome.report(),
        Err(error) => outcome::report_not_started(&error),
    };
    // The guest's last line may lack its end; and a closed pipe is the guest's affair.
    let _ = std::io::stdout().flush();
    process::exit(code)
}

fn run() -> Result<Outcome> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(wrong) if wrong.use_stderr() => bail!("{}", wrong.to_string().trim_start_matches("error: ")),
        Err(help_or_version) => {
            help_or_version.print().context("write to stdout")?;
            return Ok(Outcome::Exit(0));
        }
    };
    let run = match cli.command {
        Some(Command::Compile(args)) => return artifact::compile(&args).map(|()| Outcome::Exit(0)),
        Some(Command::Run(run)) => run,
        None => cli.run,
    };
    let code = Box::leak(Box::new(artifact::open(&run)?));
    guest::run(code, &run)
}
