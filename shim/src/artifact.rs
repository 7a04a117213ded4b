//! From the file that was asked for to code that can run: recognise, look in the cache, compile, load.
//!
//! ```text
//!                 precompiled, and --allow-precompiled
//!        ┌──────────────────────────────────────────────────────┐
//! FILE ──┤                                                      ├──► Code
//!        └─ wasm ─► cache entry? ─ no or stale ─► compile ──────┘
//!                      └─ yes ──────────────────► publish entry
//! ```
//!
//! The cache is for use by hand; below Nomad the driver keeps its own and passes precompiled files. It lives in
//! `$XDG_CACHE_HOME/wasm-shim` or `~/.cache/wasm-shim`. Whoever can write there can run code as the user, so the
//! directory must be the user's alone. An entry is named after the engine's version and the content's SHA-256, appears
//! complete or not at all, and is never changed afterwards, because running guests have it mapped. One that does not
//! load, say after a change of CPU, is replaced.

use crate::args::{Compile, Run};
use crate::code::{self, Code};
use crate::content::{Content, HEAD, Kind, recognise};
use crate::publish::publish;
use crate::{engine, process};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wasmtime::error::Context as _;
use wasmtime::{Error, Result, bail, ensure, format_err};

/// The code of the guest that `run` asks for.
///
/// # Errors
/// When the file cannot be read, is not what the shim runs, or cannot be compiled; each names the file.
pub fn open(run: &Run) -> Result<Code> {
    let path = run.file();
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("open `{name}`"))?;
    let mut bytes = Vec::new();
    (&mut file).take(HEAD as u64).read_to_end(&mut bytes).with_context(|| format!("read `{name}`"))?;

    match recognise(&bytes).map_err(|verdict| format_err!("`{name}` {verdict}"))? {
        Content::Precompiled(_) if run.allow_precompiled => load(file)
            .with_context(|| format!("load precompiled `{name}`, made by another version or damaged")),
        Content::Precompiled(_) => bail!(
            "`{name}` is precompiled native code, which is not accepted; give the WebAssembly file it was made from, \
             or --allow-precompiled if you made it yourself"
        ),
        Content::Wasm(kind) => {
            file.read_to_end(&mut bytes).with_context(|| format!("read `{name}`"))?;
            compiled(path, kind, &bytes, !run.no_cache)
        }
    }
}

/// Becomes `wasm-shim-compile` and compiles as `args` say.
///
/// # Errors
/// Returns only if the compiler cannot be started.
pub fn compile(args: &Compile) -> Result<()> {
    let compiler = compiler()?;
    let error = Command::new(&compiler).arg("-o").arg(&args.output).arg("--").arg(&args.file).exec();
    Err(cannot_start(&compiler, error))
}

fn compiled(path: &Path, kind: Kind, wasm: &[u8], cached: bool) -> Result<Code> {
    let directory = if cached { cache()? } else { None };
    let entry = directory.map(|directory| directory.join(entry(kind, wasm)));
    // A stale entry is like none.
    let from_cache = |entry: &Path| load(File::open(entry)?);
    if let Some(Ok(code)) = entry.as_deref().map(from_cache) {
        return Ok(code);
    }

    let mut artifact = run_compiler(path, wasm)?;
    // The entry is preferred, as all guests that map it share it; but a full disk must not keep one from running, nor
    // a file system from which nothing may be executed.
    if let Some(entry) = entry
        && publish(&artifact, &entry).is_ok()
        && let Ok(code) = from_cache(&entry)
    {
        return Ok(code);
    }
    artifact.rewind()?;
    load(artifact).with_context(|| format!("load the native code of `{}`", path.display()))
}

fn load(artifact: File) -> Result<Code> {
    #[expect(unsafe_code, reason = "this is where it is decided whom to trust")]
    // SAFETY: an artifact comes from our compiler, through memory or through a directory that only the user can write,
    // where it is replaced and never changed; or from the user, who vouches for it with --allow-precompiled.
    unsafe {
        code::load(artifact)
    }
}

/// The cache's directory, or none if there is no place for one.
fn cache() -> Result<Option<PathBuf>> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let Some(directory) = base.map(|base| base.join("wasm-shim")) else {
        return Ok(None);
    };
    let found = fs::symlink_metadata(&directory).or_else(|_| {
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        fs::symlink_metadata(&directory)
    });
    let Ok(found) = found else {
        return Ok(None);
    };
    ensure!(
        found.is_dir() && found.uid() == process::user() && found.mode() & 0o777 == 0o700,
        "refuse the cache `{0}`: it must be a directory that belongs to user {1} and is closed to others; \
         remove it, or `chmod 700` it, or run with --no-cache",
        directory.display(),
        process::user()
    );
    Ok(Some(directory))
}

/// The name of a cache entry, example `48.0.8+shim1-e3b0c4….mod.cwasm`.
fn entry(kind: Kind, wasm: &[u8]) -> String {
    let mut name = format!("{}-", engine::VERSION);
    for byte in Sha256::digest(wasm) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.push_str(match kind {
        Kind::Module => ".mod.cwasm",
        Kind::Component => ".cmp.cwasm",
    });
    name
}

/// Compiles `wasm` in a child process. The bytes go through a pipe, and not by `path`: the file may have been replaced
/// since they were hashed.
fn run_compiler(path: &Path, wasm: &[u8]) -> Result<File> {
    let compiler = compiler()?;
    let mut artifact = process::memory_file().context("create a file in memory")?;
    let mut child = Command::new(&compiler)
        .arg("--name")
        .arg(path)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(artifact.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(&compiler, error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A compiler that stops reading says why on its standard error.
        let _ = stdin.write_all(wasm);
    }
    let end = child.wait_with_output()?;
    if !end.status.success() {
        let said = String::from_utf8_lossy(&end.stderr);
        let said = said.trim().trim_start_matches("wasm-shim-compile: ");
        match said {
            "" => bail!(
                "compile `{}`: the compiler ended with {}; did it lack memory?",
                path.display(),
                end.status
            ),
            _ => bail!("{said}"),
        }
    }
    artifact.rewind()?;
    Ok(artifact)
}

fn compiler() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the directory of wasm-shim, for the compiler")?;
    Ok(own.with_file_name("wasm-shim-compile"))
}

fn cannot_start(compiler: &Path, error: io::Error) -> Error {
    Error::from(error)
        .context(format!("start `{}`; install the compiler beside wasm-shim", compiler.display()))
}
