//! Turns a job's WebAssembly into machine code, once per content, before the task starts.
//!
//! The code lies in a cache that tasks can read and never write. It is native code and will be run as such, so nobody
//! but us puts anything there: `wasm-shim-compile` runs in a transient unit of its own, as an ephemeral user without
//! network, files or privileges, reads the module from its stdin and writes the code to its stdout. What it wrote is
//! published by a rename, whole or not at all.
//!
//! ```text
//!  <state_dir>/wasm/<engine key>/<SHA-256 of the module>.cwasm
//! ```
//!
//! The engine key stands for everything that the code depends on beside the module: the engine's version and settings,
//! and this machine's processor.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as AsyncMutex, OnceCell, Semaphore};

use super::preset::Preset;
use super::view::{self, View};
use crate::systemd::{
    self, Assignment, Bind, Features, MainExit, Manager, Property, Stream, Systemd, TransientUnit, UnitName,
};

/// The largest module that is taken; one of 18 MB is a large one.
const MODULE_MAX: u64 = 256 << 20;
/// How many modules are compiled at the same time, each with its own limits.
const COMPILE_AT_ONCE: usize = 2;
/// Compiling a component of 18 MB takes 350 MB.
const COMPILE_MEMORY: u64 = 2 << 30;
/// Compiling a component of 18 MB takes 10 s of a processor.
const COMPILE_TIME: Duration = Duration::from_mins(10);
/// Where the compiler stands in its unit's view.
const COMPILER: &str = view::SHIM;
/// The compiler's exit status when the module is at fault; any other is its own failure, and may pass.
const INVALID: i32 = 1;
/// How much of what the compiler says is passed on.
const REPORT_MAX: u64 = 4096;

/// Why a module cannot be had as machine code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The two programs are not there.
    #[error(
        "find wasm-shim and wasm-shim-compile in {searched}: install them there, or name their directory as `shim_dir` \
         in the driver's plugin configuration"
    )]
    NoShim {
        /// Where we looked.
        searched: String,
    },
    /// The compiler did not tell its key.
    #[error("ask {program} for its engine key: {report}")]
    EngineKey {
        /// The compiler.
        program: PathBuf,
        /// What happened.
        report: String,
    },
    /// The module's file cannot be read.
    #[error("`command`: read {name}")]
    Read {
        /// The module.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is larger than anything we would compile.
    #[error("`command`: {name} is larger than {} MiB, the most that is compiled", MODULE_MAX >> 20)]
    TooLarge {
        /// The module.
        name: String,
    },
    /// The module is not valid, or this engine cannot run it.
    #[error("`command`: {name} cannot be compiled: {report}")]
    Invalid {
        /// The module.
        name: String,
        /// What the compiler said.
        report: String,
    },
    /// The compiler itself failed.
    #[error("compile {name}: {report}")]
    Failed {
        /// The module.
        name: String,
        /// What the compiler said.
        report: String,
    },
    /// The compiler came to its limits.
    #[error("`command`: compiling {name} was stopped: {reason}")]
    Stopped {
        /// The module.
        name: String,
        /// The limit, or the signal.
        reason: String,
    },
    /// The unit of the compiler did not start.
    #[error("compile {name}")]
    Unit {
        /// The module.
        name: String,
        /// What systemd said.
        source: systemd::Error,
    },
    /// The cache cannot be written.
    #[error("write compiled code to {directory}")]
    Cache {
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// May the same module be compiled a little later?
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoShim { .. } | Self::TooLarge { .. } | Self::Invalid { .. } | Self::Stopped { .. } => {
                false
            }
            Self::Unit { source, .. } => source.may_pass(),
            Self::EngineKey { .. } | Self::Read { .. } | Self::Failed { .. } | Self::Cache { .. } => true,
        }
    }
}

/// The compiler and the code it has made on this node.
#[derive(Debug)]
pub struct Compiler {
    engine_key: OnceCell<String>,
    /// One compilation per content, however many tasks want it at the same moment.
    running: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
    places: Semaphore,
}

impl Default for Compiler {
    fn default() -> Self {
        Self {
            engine_key: OnceCell::new(),
            running: Mutex::default(),
            places: Semaphore::new(COMPILE_AT_ONCE),
        }
    }
}

/// Where things are, by the plugin's configuration.
#[derive(Debug, Clone)]
pub struct Places {
    /// Directory of `wasm-shim` and `wasm-shim-compile`.
    pub shim_dir: Option<PathBuf>,
    /// Directory of the cache.
    pub state_dir: PathBuf,
    /// What of the host the compiler sees.
    pub host_paths: Vec<PathBuf>,
    /// The root on which it sees it.
    pub root: PathBuf,
    /// Whose systemd runs it.
    pub manager: Manager,
}

impl Places {
    /// The program that runs compiled guests.
    pub fn shim(&self) -> Result<PathBuf, Error> {
        self.program("wasm-shim")
    }

    fn program(&self, name: &str) -> Result<PathBuf, Error> {
        let beside_us = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let usual = ["/usr/local/libexec/nomad-driver-systemd", "/usr/libexec/nomad-driver-systemd"];
        let searched: Vec<PathBuf> = match &self.shim_dir {
            Some(directory) => vec![directory.clone()],
            None => beside_us.into_iter().chain(usual.map(PathBuf::from)).collect(),
        };
        let found = searched.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
        found.ok_or_else(|| Error::NoShim {
            searched: searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }
}

impl Compiler {
    /// The machine code of `module`, compiled now unless it is in the cache.
    pub async fn code_of(
        &self,
        systemd: &Systemd,
        places: &Places,
        mut module: File,
        name: &str,
    ) -> Result<PathBuf, Error> {
        let program = places.program("wasm-shim-compile")?;
        let key = self.engine_key.get_or_try_init(|| engine_key(&program)).await?;
        let read_error = |source| Error::Read { name: name.to_owned(), source };
        let bytes = blocking(move || {
            let mut bytes = Vec::new();
            // A file of the task can be of any size, and grow while it is read.
            (&mut module).take(MODULE_MAX + 1).read_to_end(&mut bytes).map(|_| bytes)
        })
        .await
        .map_err(read_error)?;
        if bytes.len() as u64 > MODULE_MAX {
            return Err(Error::TooLarge { name: name.to_owned() });
        }
        let content = hex::encode(Sha256::digest(&bytes));
        let directory = places.state_dir.join("wasm").join(key);
        let code = directory.join(format!("{content}.cwasm"));
        if code.is_file() {
            return Ok(code);
        }
        let turn = self.turn(&content);
        let _turn = turn.lock().await;
        if !code.is_file() {
            let _place = self.places.acquire().await;
            self.compile(systemd, places, &program, bytes, name, &code).await?;
        }
        Ok(code)
    }

    fn turn(&self, content: &str) -> Arc<AsyncMutex<()>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds any more.
        running.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(running.entry(content.to_owned()).or_default())
    }

    async fn compile(
        &self,
        systemd: &Systemd,
        places: &Places,
        program: &Path,
        bytes: Vec<u8>,
        name: &str,
        code: &Path,
    ) -> Result<(), Error> {
        let directory = code.parent().unwrap_or(code).to_owned();
        let cache_error = |source| Error::Cache { directory: directory.clone(), source };
        let streams = {
            let directory = directory.clone();
            blocking(move || Streams::new(&directory, &bytes)).await.map_err(cache_error)?
        };
        let unit_error = |source| Error::Unit { name: name.to_owned(), source };
        let features = systemd.features().await.map_err(unit_error)?;
        let unit = compile_unit(places, &features, program, name, &streams).map_err(cache_error)?;
        let unit_name = unit.name.clone();
        tracing::info!(unit = %unit_name, module = name, "compiling WebAssembly");
        let state = systemd.start(unit).await.map_err(unit_error)?.ended().await;
        let removed = systemd.remove(&unit_name).await;
        match (state.exit(), state.result.as_str()) {
            (Some(MainExit::Status(0)), _) => {}
            (Some(MainExit::Status(INVALID)), _) => {
                return Err(Error::Invalid { name: name.to_owned(), report: streams.report() });
            }
            (Some(MainExit::Status(_)), _) => {
                return Err(Error::Failed { name: name.to_owned(), report: streams.report() });
            }
            (_, "oom-kill") => {
                let reason = format!("it needed more than {} MiB of memory", COMPILE_MEMORY >> 20);
                return Err(Error::Stopped { name: name.to_owned(), reason });
            }
            (_, "timeout") => {
                let reason = format!("it took longer than {} s", COMPILE_TIME.as_secs());
                return Err(Error::Stopped { name: name.to_owned(), reason });
            }
            (_, result) => {
                return Err(Error::Stopped {
                    name: name.to_owned(),
                    reason: format!("systemd says `{result}`"),
                });
            }
        }
        removed.map_err(unit_error)?;
        let code = code.to_owned();
        blocking(move || streams.publish(&code)).await.map_err(cache_error)
    }
}

/// The compiler's three streams.
struct Streams {
    module: File,
    code: File,
    report: File,
}

impl Streams {
    fn new(directory: &Path, bytes: &[u8]) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        let mut module = tempfile::tempfile_in(directory)?;
        module.write_all(bytes)?;
        module.rewind()?;
        let code = tempfile::tempfile_in(directory)?;
        Ok(Self { module, code, report: tempfile::tempfile_in(directory)? })
    }

    /// What the compiler wrote on stderr, on one line.
    fn report(mut self) -> String {
        let mut report = String::new();
        let read =
            self.report.rewind().and_then(|()| self.report.take(REPORT_MAX).read_to_string(&mut report));
        match read {
            Ok(_) if !report.trim().is_empty() => report.split_whitespace().collect::<Vec<_>>().join(" "),
            _ => "the compiler gave no reason".to_owned(),
        }
    }

    /// Makes the code visible under its name, complete and on disk, for everybody to read. Until now it has had no name,
    /// so that nothing is left of a driver that is killed meanwhile.
    fn publish(self, path: &Path) -> io::Result<()> {
        self.code.set_permissions(fs::Permissions::from_mode(0o444))?;
        self.code.sync_all()?;
        let unnamed = format!("/proc/self/fd/{}", self.code.as_raw_fd());
        match rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW) {
            // Another driver was faster.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        File::open(path.parent().unwrap_or(path))?.sync_all()
    }
}

/// What the compiler may use. Two bytes of code are the most that a byte of a module makes.
const LIMITS: &[(&str, &str)] =
    &[("LimitFSIZE", "2G"), ("MemorySwapMax", "0"), ("OOMPolicy", "kill"), ("TasksMax", "64")];

fn compile_unit(
    places: &Places,
    features: &Features,
    program: &Path,
    name: &str,
    streams: &Streams,
) -> io::Result<TransientUnit> {
    let fd = |file: &File| file.try_clone().map(|file| Stream::Fd(OwnedFd::from(file)));
    let mut properties = view::root(&places.root, &places.host_paths);
    if places.manager == Manager::System {
        properties.push(Property::DynamicUser(true));
    }
    let view = View::Private { host_paths: Vec::new() }.assignments();
    let sandbox = view.into_iter().chain(Preset::Wasm.assignments().iter().cloned());
    let limits = LIMITS.iter().filter_map(|(name, text)| Assignment::parse(name, text).ok());
    let known = sandbox.filter(|line| features.check(line).is_ok());
    properties.extend(known.chain(limits).map(Property::Assigned));
    properties.extend([
        Property::Description(format!("Nomad: compile {name}")),
        Property::Type("exec"),
        Property::BindReadOnlyPaths(vec![Bind {
            source: program.to_owned(),
            target: COMPILER.into(),
            recursive: false,
            optional: false,
        }]),
        Property::ExecStart { path: COMPILER.into(), argv: vec!["wasm-shim-compile".to_owned()] },
        Property::RemainAfterExit(true),
        Property::StandardInput(fd(&streams.module)?),
        Property::StandardOutput(fd(&streams.code)?),
        Property::StandardError(fd(&streams.report)?),
        Property::MemoryMax(COMPILE_MEMORY),
        Property::CPUWeight(10),
        Property::RuntimeMax(COMPILE_TIME),
        Property::Slice(super::unit::SLICE),
    ]);
    // The moment keeps a process apart from an earlier one of its number.
    let moment = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let unique = format!("{moment:x}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let name = UnitName::service(&[UNIT, &std::process::id().to_string()], &unique);
    Ok(TransientUnit::new(name, properties))
}

/// The begin of the names of the units that compile; the number of the driver's process follows.
const UNIT: &str = "nomad-wasm-compile";
/// Tells the compilations of this process apart.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Is this the unit of a compilation whose driver is no more?
pub fn is_orphaned_compilation(unit: &UnitName) -> bool {
    let rest = unit.as_str().strip_prefix(UNIT).and_then(|rest| rest.strip_prefix('-'));
    let driver = rest.and_then(|rest| rest.split('-').next());
    driver.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

async fn engine_key(program: &Path) -> Result<String, Error> {
    let error = |report: String| Error::EngineKey { program: program.to_owned(), report };
    let output = tokio::process::Command::new(program)
        .arg("--engine-key")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(30), output)
        .await
        .map_err(|_| error("it did not answer within 30 s".to_owned()))?
        .map_err(|source| error(source.to_string()))?;
    let key = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || key.is_empty() || !key.chars().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(error(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(key)
}

/// Runs file work off the threads that serve calls.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
