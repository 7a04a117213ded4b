//! `wasm-shim-compile`: compiles a WebAssembly module or component to native code for `wasm-shim`.
//!
//! When it works from stdin to stdout, it needs no privileges, no network and no files, and it should be run like this:
//! compiling takes seconds and hundreds of megabytes for large components, and the input may be hostile.
//!
//! Exit codes: 0; 1 for an invalid input, so that a retry is useless; 2 for everything else (options, reading,
//! writing). One line on stderr states the reason.
#![forbid(unsafe_code)]

use clap::Parser;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use wasm_shim::content::{Content, Format, HEAD, recognise};
use wasm_shim::engine::{self, Tuning};
use wasm_shim::exports::{self, Exports};
use wasm_shim::{imports, publish};
use wasmtime::error::Context as _;
use wasmtime::{Engine, Error, Result, bail, ensure, format_err};

/// Compiles WebAssembly to native code for wasm-shim on this machine.
#[derive(Debug, Parser)]
#[command(name = "wasm-shim-compile", version = engine::RELEASE)]
struct Args {
    /// The module or component; stdin if absent or `-`
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where to write the native code, which appears complete or not at all; stdout if absent or `-`
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// What to call the input in messages (default: FILE)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What changes code: fuel=1, epoch-interruption=y, and proposals such as simd=n, as the wasmtime CLI has them
    #[arg(short = 'W', long = "wasm", value_name = "KEY[=VALUE]", value_delimiter = ',')]
    wasm: Vec<String>,
    /// Refuse what imports something that wasm-shim does not provide
    #[arg(long)]
    check_imports: bool,
    /// Refuse what is not for this: a server as a command, or a command as a server
    #[arg(long = "for", value_name = "VERB")]
    purpose: Option<Purpose>,
    /// Accept the text form, too
    #[arg(long)]
    text: bool,
    /// Who waits for the code: without that process the compiler ends, and it takes no more than 4 GiB of memory. Where
    /// nobody does, its unit or its shell sets its limits
    #[arg(long, value_name = "PID")]
    child_of: Option<i32>,
    /// Print what the native code depends on, as a short key, and do nothing else: code of another key does not load
    #[arg(long, conflicts_with_all = ["file", "output", "name"])]
    engine_key: bool,
}

/// The purpose of the code.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Purpose {
    /// By `wasm-shim run`.
    Run,
    /// By `wasm-shim serve`.
    Serve,
}

impl Purpose {
    /// Why something with these exports does not fit the purpose; the message refers to a job's options.
    fn refuses(self, exports: Exports) -> Option<&'static str> {
        match self {
            Self::Run if exports.server && !exports.command => Some(
                "it is an HTTP server: add a block `serve` with `port = \"LABEL\"`, the label of a port of the group's \
                 `network`, to the job's `wasm` block",
            ),
            Self::Serve if exports.command && !exports.server => Some(
                "it is a command, which exports no handler of `wasi:http`: leave the block `wasm.serve` out",
            ),
            _ => None,
        }
    }
}

const BAD_INPUT: u8 = 1;
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = tuning(&args.wasm).map_err(End::from).and_then(|tuning| {
        bind_to_parent(&args)?;
        if args.engine_key { print_key(&tuning) } else { compile(&args, &tuning) }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(End { code, error }) => {
            let causes: Vec<_> = error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect();
            let _ = writeln!(io::stderr(), "wasm-shim-compile: {}", causes.join(": "));
            ExitCode::from(code)
        }
    }
}

/// Why nothing was compiled, and the exit code.
struct End {
    code: u8,
    error: Error,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self { code: FAILED, error }
    }
}

fn tuning(settings: &[String]) -> Result<Tuning> {
    let mut tuning = Tuning::default();
    for setting in settings {
        let (name, value) =
            setting.split_once('=').map_or((&**setting, None), |(name, value)| (name, Some(value)));
        let taken = tuning.take(name, value).map_err(|wrong| format_err!("`-W {wrong}`"))?;
        ensure!(taken, "`-W {name}` does not change code; see wasm-shim-compile --help");
    }
    Ok(tuning)
}

/// Limits the compiler: a module of a few kilobytes can make it take hours and all memory.
fn bind_to_parent(args: &Args) -> Result<()> {
    const MEMORY: u64 = 4 << 30;
    let Some(parent) = args.child_of else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to end with the parent process")?;
    ensure!(
        getppid().map(Pid::as_raw_pid) == Some(parent),
        "process {parent}, which wants the code, has ended"
    );
    let limit = getrlimit(Resource::Data);
    let current = Some(limit.current.map_or(MEMORY, |limit| limit.min(MEMORY)));
    setrlimit(Resource::Data, Rlimit { current, ..limit }).context("limit the memory")
}

fn print_key(tuning: &Tuning) -> Result<(), End> {
    let key = engine::key(tuning).context("configure the compiler")?;
    Ok(writeln!(io::stdout(), "{key}").context("write the key")?)
}

fn compile(args: &Args, tuning: &Tuning) -> Result<(), End> {
    let input = args.file.as_deref().filter(|path| *path != Path::new("-"));
    let name = match (&args.name, input) {
        (Some(name), _) => name.clone(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => "standard input".to_owned(),
    };
    let wasm = read(input).with_context(|| format!("read `{name}`"))?;
    let engine =
        engine::config(tuning).and_then(|config| Engine::new(&config)).context("configure the compiler")?;
    let native = translate(&engine, &name, &wasm, args)
        .map_err(|error| End { code: BAD_INPUT, error: with_what_is_off(error, tuning) })?;
    Ok(write(&native, args.output.as_deref().filter(|path| *path != Path::new("-")))?)
}

/// Names the proposals that are switched off, since the error of a module that needs one names only the proposal.
fn with_what_is_off(error: Error, tuning: &Tuning) -> Error {
    let off: Vec<_> = tuning.switched_off().map(|proposal| format!("`{}`", proposal.name())).collect();
    let is_needed = format!("{error:#}").contains("not enabled");
    if off.is_empty() || !is_needed {
        return error;
    }
    error.context(format!(
        "it may need a proposal that is switched off (`wasm.proposals` of the job, `-W` of the command line): {}",
        off.join(", ")
    ))
}

fn read(input: Option<&Path>) -> io::Result<Vec<u8>> {
    let mut wasm = Vec::new();
    match input {
        Some(path) => File::open(path)?.read_to_end(&mut wasm)?,
        None => io::stdin().read_to_end(&mut wasm)?,
    };
    Ok(wasm)
}

fn translate(engine: &Engine, name: &str, wasm: &[u8], args: &Args) -> Result<Vec<u8>> {
    let head = &wasm[..wasm.len().min(HEAD)];
    match recognise(head).map_err(|verdict| format_err!("`{name}` {verdict}"))? {
        Content::Wasm(kind) => {
            let native = match kind {
                Format::Module => engine.precompile_module(wasm),
                Format::Component => engine.precompile_component(wasm),
            };
            let purpose = args.purpose.filter(|_| native.is_ok());
            if let Some(why) = purpose.and_then(|purpose| purpose.refuses(exports::of(wasm, kind))) {
                bail!("{why}");
            }
            // Only for a valid input: the error of an invalid one is more specific.
            match imports::missing(wasm, kind).filter(|_| args.check_imports && native.is_ok()) {
                Some(import) => bail!(
                    "it imports `{import}`, which wasm-shim does not have and no grant would provide; build it for \
                     wasm32-wasip1 or wasm32-wasip2, or compose it with a component that exports this"
                ),
                None => native,
            }
        }
        Content::Text if args.text => {
            let wasm = wat::parse_bytes(wasm).with_context(|| format!("read the text of `{name}`"))?;
            return translate(engine, name, &wasm, args);
        }
        Content::Text => {
            bail!("`{name}` is WebAssembly text (or another text); `wasm-tools parse` makes the binary form of WebAssembly text")
        }
        Content::Precompiled(_) => bail!("`{name}` is compiled already"),
    }
    .with_context(|| format!("compile `{name}`"))
}

fn write(native: &[u8], output: Option<&Path>) -> Result<()> {
    if let Some(path) = output {
        return publish::publish(native, path).with_context(|| format!("write `{}`", path.display()));
    }
    let mut stdout = io::stdout().lock();
    ensure!(!stdout.is_terminal(), "native code is not for a terminal; give -o OUT");
    stdout.write_all(native).and_then(|()| stdout.flush()).context("write to stdout")
}
