//! From the requested file to code that can run: recognise, look in the cache, compile, load.
//!
//! ```text
//!                 precompiled, and --allow-precompiled
//!        ┌──────────────────────────────────────────────────────┐
//! FILE ──┤                                                      ├──► Code
//!        └─ wasm ─► cache entry? ─ no or damaged ─► compile ────┘
//!                      └─ yes ──────────────────► publish entry
//! ```

use crate::args::{Compile, Guest};
use crate::cache::{self, Entry};
use crate::code::{self, Code};
use crate::content::{Content, Format, HEAD, recognise};
use crate::engine::Tuning;
use crate::outcome::Refusal;
use crate::{process, settings};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use wasmtime::error::Context as _;
use wasmtime::{Config, Error, Result, bail};

/// Native code that was recognised or compiled, and may be loaded.
pub struct Artifact(Arc<File>);

impl Artifact {
    /// Loads the code into an engine with `config`.
    ///
    /// # Errors
    /// When it was compiled for another version, configuration or CPU, or the engine cannot be created.
    pub fn load(&self, config: &Config) -> Result<Code> {
        #[expect(unsafe_code, reason = "this is where it is decided whom to trust")]
        // SAFETY: an artifact comes from our compiler, through memory or through a directory that only the user can
        // write, where files are replaced and never changed; or from the user, who vouches for it with
        // --allow-precompiled.
        unsafe {
            code::load(&self.0, config)
        }
    }
}

/// The code of `guest`, in an engine with `config`, which must be for `tuning`; and the artifact it was loaded from.
///
/// # Errors
/// When the file cannot be read, is not supported, or cannot be compiled; each message names the file.
pub fn open(guest: &Guest, tuning: &Tuning, config: &Config) -> Result<(Code, Artifact)> {
    let name = &guest.label;
    let mut file = content_of(&guest.file).with_context(|| format!("open `{}`", guest.file.display()))?;
    let mut bytes = Vec::new();
    (&mut file).take(HEAD as u64).read_to_end(&mut bytes).with_context(|| format!("read `{name}`"))?;

    match recognise(&bytes).map_err(|verdict| Refusal::bad_module(format!("`{name}` {verdict}")))? {
        Content::Precompiled(kind) if guest.allow_precompiled => {
            if kind == Format::Component {
                process::populate_for_a_component();
            }
            load(file, config).with_context(|| {
                format!(
                    "load precompiled `{}`, made by another version, with other -W, or damaged",
                    guest.label
                )
            })
        }
        Content::Precompiled(_) => Err(Refusal::bad_module(format!(
            "`{name}` is precompiled native code, which is not accepted; give the WebAssembly file it was made from, \
             or --allow-precompiled if you made it yourself"
        ))),
        Content::Wasm(_) | Content::Text => {
            file.read_to_end(&mut bytes).with_context(|| format!("read `{name}`"))?;
            compiled(guest, &bytes, tuning, config)
        }
    }
}

/// The file at the path, or the content of standard input for `-`.
fn content_of(path: &Path) -> io::Result<File> {
    if path != Path::new("-") {
        return File::open(path);
    }
    let mut whole = process::memory_file()?;
    io::copy(&mut io::stdin().lock(), &mut whole)?;
    whole.rewind()?;
    Ok(whole)
}

/// Replaces this process by `wasm-shim-compile`, which compiles as `args` request.
///
/// # Errors
/// When a setting is unknown, or the compiler cannot be started.
pub fn compile(args: &Compile) -> Result<()> {
    let wasm = settings::Wasm::resolve(&args.wasm).map_err(Error::msg)?;
    let compiler = compiler()?;
    let mut command = command(&compiler, &wasm.tuning);
    let error = command.arg("--text").arg("-o").arg(&args.output).arg("--").arg(&args.file).exec();
    Err(cannot_start(&compiler, error))
}

fn compiled(guest: &Guest, wasm: &[u8], tuning: &Tuning, config: &Config) -> Result<(Code, Artifact)> {
    cache::refuse_grants_of_it(&guest.dirs)?;
    let entry = if guest.cached { Entry::of(wasm, tuning)? } else { None };
    // An entry that does not load, for example after a change of CPU, counts as missing.
    if let Some(Ok(loaded)) = entry.as_ref().and_then(Entry::open).map(|file| load(file, config)) {
        return Ok(loaded);
    }
    let mut artifact = run_compiler(&guest.label, wasm, tuning)?;
    // The entry is preferred, as all guests that map it share its memory. But neither a full disk nor a `noexec` file
    // system may keep a guest from running.
    if let Some(entry) = entry
        && let Ok(file) = entry.put(&mut artifact)
        && let Ok(loaded) = load(file, config)
    {
        return Ok(loaded);
    }
    artifact.rewind()?;
    load(artifact, config).with_context(|| format!("load the native code of `{}`", guest.label))
}

fn load(file: File, config: &Config) -> Result<(Code, Artifact)> {
    let artifact = Artifact(Arc::new(file));
    Ok((artifact.load(config)?, artifact))
}

/// The compiler's exit code for an invalid input.
const BAD_INPUT: i32 = 1;

/// Compiles `wasm` in a child process. The bytes go through a pipe and are not read again from
/// the path, because the file may have been replaced since they were hashed.
fn run_compiler(name: &str, wasm: &[u8], tuning: &Tuning) -> Result<File> {
    let compiler = compiler()?;
    let mut artifact = process::memory_file().context("create a file in memory")?;
    let mut child = command(&compiler, tuning)
        .arg("--text")
        .args(["--child-of", &std::process::id().to_string(), "--name", name])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(artifact.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(&compiler, error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A compiler that stops reading reports the reason on its standard error.
        let _ = stdin.write_all(wasm);
    }
    let end = child.wait_with_output()?;
    if !end.status.success() {
        let text = String::from_utf8_lossy(&end.stderr);
        let text = text.trim().trim_start_matches("wasm-shim-compile: ");
        match (text, end.status.code()) {
            ("", _) | (_, None) => {
                bail!("compile `{name}`: the compiler ended with {}; did it lack memory? {text}", end.status)
            }
            (_, Some(BAD_INPUT)) => return Err(Refusal::bad_module(text)),
            _ => bail!("{text}"),
        }
    }
    artifact.rewind()?;
    Ok(artifact)
}

fn command(compiler: &Path, tuning: &Tuning) -> Command {
    let mut command = Command::new(compiler);
    command.args(tuning.settings().iter().flat_map(|setting| ["-W", setting]));
    command
}

fn compiler() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the directory of wasm-shim, for the compiler")?;
    Ok(own.with_file_name("wasm-shim-compile"))
}

fn cannot_start(compiler: &Path, error: io::Error) -> Error {
    Error::from(error)
        .context(format!("start `{}`; install the compiler beside wasm-shim", compiler.display()))
}
