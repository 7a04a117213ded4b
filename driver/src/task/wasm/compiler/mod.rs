//! Turns a job's WebAssembly into machine code, once per content, before the task starts.
//!
//! ```text
//!  module ──► SHA-256 ──► in the cache? ──yes──────────────────────────────► code
//!                             └─no──► wasm-shim-compile, in a unit ──► the cache ──┘
//! ```
//!
//! The module may be hostile and take over the compiler. So `wasm-shim-compile` runs in a transient unit of its own, as
//! an ephemeral user without network, files or privileges. It reads the module from stdin and writes the code to
//! stdout, which are both in memory. The code is used for this module alone, and the driver writes it to the cache
//! ([`crate::task::wasm::cache`]) when the unit is gone.
//!
//! The engine key stands for everything that the code depends on except the module: the engine's version and settings,
//! and this machine's processor.

mod build;
mod compilation;
mod error;
mod refusals;
mod report;
mod turns;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::build::Keys;
pub use self::compilation::is_orphaned_compilation;
use self::compilation::{compile, digest};
pub use self::error::Error;
use self::refusals::{Refusal, Refusals};
use self::turns::Turns;
use crate::systemd::Systemd;
use crate::task::installation::Installation;
use crate::task::wasm::cache::{Cache, Entry, Lease};
use crate::telemetry;

/// Maximum size of a module; 18 MB is a large one.
const MODULE_MAX: u64 = 256 << 20;
/// How many refused modules are remembered, and how many settings of the compiler. Jobs choose both.
const REMEMBERED: usize = 128;

/// The compiler of this node, and its results.
#[derive(Debug, Default)]
pub struct Compiler {
    cache: Mutex<Option<Arc<Cache>>>,
    keys: Keys,
    turns: Turns,
    refusals: Refusals,
}

/// A module as machine code.
#[derive(Debug)]
pub struct Code {
    /// Path of the code. The file may be removed when the lease is.
    pub path: PathBuf,
    /// Must be kept until the process that runs the code has opened it.
    pub lease: Lease,
}

/// What is to be compiled, and for which task.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Nomad's namespace of the waiting task, such as `default`.
    pub namespace: &'a String,
    /// The job of the task, such as `web`.
    pub job: &'a String,
    /// The module, as the job names it.
    pub name: &'a str,
    /// The compiler's flags, such as `-W` and `epoch-interruption`.
    pub flags: &'a [String],
    /// The module shall answer HTTP requests.
    pub serves: bool,
    /// Notified when nobody waits any more.
    pub stopped: &'a Notify,
}

impl Wanted<'_> {
    fn abandoned(&self) -> Error {
        Error::Abandoned { name: self.name.to_owned() }
    }
}

impl Compiler {
    /// The machine code of `module`, compiled now unless it is in the cache.
    pub async fn code_of(
        &self,
        systemd: &Systemd,
        installation: &Installation,
        module: File,
        wanted: Wanted<'_>,
    ) -> Result<Code, Error> {
        let Wanted { name, flags, stopped, .. } = wanted;
        let build = self.keys.ask(installation.program("wasm-shim-compile")?, flags).await?;
        let read_error = |source| Error::Read { name: name.to_owned(), source };
        let (module, digest) = blocking(move || digest(module)).await.map_err(read_error)?;
        let Some(content) = digest else {
            return Err(Error::TooLarge { name: name.to_owned() });
        };
        let entry = Entry { key: build.key.clone(), content };
        let cache = self.cache(installation);
        let directory = directory_of(installation);
        let cache_error = |source| Error::Cache { directory: directory.clone(), source };
        let look = async || {
            let (cache, entry) = (Arc::clone(&cache), entry.clone());
            let look = move || {
                let lease = cache.lease(entry)?;
                lease.find().map(|found| (lease, found))
            };
            blocking(look).await.map_err(cache_error)
        };
        let (lease, found) = look().await?;
        telemetry::note_cache_lookup(found.is_some());
        if let Some(path) = found {
            return Ok(Code { path, lease });
        }
        drop(lease);
        let _place = tokio::select! {
            place = self.turns.place(&wanted, &entry) => place,
            () = stopped.notified() => return Err(wanted.abandoned()),
        };
        if let Some(refusal) = self.refusals.of(&entry) {
            return Err(refusal.error(name));
        }
        let (lease, found) = look().await?;
        if let Some(path) = found {
            return Ok(Code { path, lease });
        }
        let began = Instant::now();
        let compiled = compile(systemd, installation, &build, module, wanted, &content).await;
        telemetry::note_compilation(compiled.is_ok(), began.elapsed());
        let mut code = compiled.inspect_err(|error| {
            if let Some(refusal) = Refusal::of(error) {
                self.refusals.remember(entry, refusal);
            }
        })?;
        let publish = move || lease.publish(&mut code).map(|path| Code { path, lease });
        blocking(publish).await.map_err(cache_error)
    }

    /// The cache of this configuration.
    fn cache(&self, installation: &Installation) -> Arc<Cache> {
        let (directory, size) = (directory_of(installation), installation.cache_size);
        let mut cache = self.cache.lock();
        match &*cache {
            Some(cache) if cache.is_of(&directory, size) => Arc::clone(cache),
            _ => Arc::clone(cache.insert(Arc::new(Cache::new(directory, size)))),
        }
    }
}

fn directory_of(installation: &Installation) -> PathBuf {
    installation.state_dir.join("wasm")
}

/// Runs file operations off the threads that serve calls.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
