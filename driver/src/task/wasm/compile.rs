//! Turns a job's WebAssembly into machine code, once per content, before the task starts.
//!
//! ```text
//!  module ──► SHA-256 ──► in the cache? ──yes──────────────────────────────► code
//!                             └─no──► wasm-shim-compile, in a unit ──► the cache ──┘
//! ```
//!
//! The module may be hostile and take the compiler over. So `wasm-shim-compile` runs in a transient unit of its own, as
//! an ephemeral user without network, files or privileges, reads the module from its stdin and writes the code to its
//! stdout, both of them memory. What it wrote stands for this module alone, and comes to the cache by our hand
//! ([`crate::task::wasm::cache`]), when the unit is gone.
//!
//! The engine key stands for everything that the code depends on beside the module: the engine's version and settings,
//! and this machine's processor.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, Semaphore, SemaphorePermit};

use crate::systemd::{
    self, Assignment, Bind, Features, MainExit, Manager, Property, Stream, Systemd, TransientUnit, UnitName,
};
use crate::task::host::view::{self, Overlays, Sight, View};
use crate::task::lock;
use crate::task::sandbox::preset::Preset;
use crate::task::wasm::cache::{Cache, Entry, Lease, Stamp, in_pieces};

/// The largest module that is taken; one of 18 MB is a large one.
const MODULE_MAX: u64 = 256 << 20;
/// How many modules are compiled at the same time, each with its own limits.
const COMPILE_AT_ONCE: usize = 4;
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
/// How long a module that cannot be compiled is refused without another try: one that is started again and again shall
/// not keep a processor busy.
const REFUSED_FOR: Duration = Duration::from_mins(1);
/// How many of them are remembered, and how many settings of the compiler. Jobs choose both.
const REMEMBERED: usize = 128;

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
    /// The compiler cannot do what the job asks for.
    #[error("`wasm`: the compiler of this node does not take `{flags}`: {report}")]
    Settings {
        /// What it was told.
        flags: String,
        /// What it said.
        report: String,
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
    /// Its content is another one than a moment ago.
    #[error("`command`: {name} was changed while it was read; start the task again when it is complete")]
    Changed {
        /// The module.
        name: String,
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
    /// Nobody waits for it any more.
    #[error("`command`: compiling {name} was given up, since the task was stopped")]
    Abandoned {
        /// The module.
        name: String,
    },
    /// The unit of the compiler did not start.
    #[error("compile {name}")]
    Unit {
        /// The module.
        name: String,
        /// What systemd said.
        source: systemd::Error,
    },
    /// There is another compiler now.
    #[error("compile {name}: the compiler was replaced meanwhile; start the task again")]
    Replaced {
        /// The module.
        name: String,
    },
    /// The compiler's streams cannot be made.
    #[error("compile {name}: hold it in memory")]
    Memory {
        /// The module.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cache cannot be used.
    #[error(
        "keep compiled code in {directory}: the directory must have room and be the driver's own to write; make it so, or \
         name another `state_dir` in the driver's plugin configuration"
    )]
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
            Self::NoShim { .. }
            | Self::Settings { .. }
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::Stopped { .. }
            | Self::Abandoned { .. } => false,
            Self::Unit { source, .. } => source.may_pass(),
            Self::EngineKey { .. }
            | Self::Read { .. }
            | Self::Changed { .. }
            | Self::Failed { .. }
            | Self::Replaced { .. }
            | Self::Memory { .. }
            | Self::Cache { .. } => true,
        }
    }
}

/// The compiler of this node, and what it has made.
#[derive(Debug)]
pub struct Compiler {
    cache: Mutex<Option<Arc<Cache>>>,
    keys: AsyncMutex<Keys>,
    /// One compilation per content, however many tasks want it at the same moment.
    running: Turns<Entry>,
    /// One compilation per namespace of Nomad's, so that a tenant with many that take long leaves others a place.
    namespaces: Turns<String>,
    /// In it one per job, so that a job with many has others wait for one of them at most.
    jobs: Turns<(String, String)>,
    refusals: Mutex<HashMap<Entry, (Instant, Refusal)>>,
    places: Semaphore,
}

/// By a program and what it is told: its engine key, and how the program was when it told it.
type Keys = HashMap<(PathBuf, Vec<String>), (Stamp, String)>;

/// Who does something that only one may do at the same time; the others wait for their turn.
type Turns<K> = Mutex<HashMap<K, Arc<AsyncMutex<()>>>>;

fn turn<K: Clone + Eq + Hash>(turns: &Turns<K>, of: &K) -> Arc<AsyncMutex<()>> {
    let mut turns = lock(turns);
    // Those that nobody holds any more.
    turns.retain(|_, turn| Arc::strong_count(turn) > 1);
    Arc::clone(turns.entry(of.clone()).or_default())
}

impl Default for Compiler {
    fn default() -> Self {
        Self {
            cache: Mutex::default(),
            keys: AsyncMutex::default(),
            running: Turns::default(),
            namespaces: Turns::default(),
            jobs: Turns::default(),
            refusals: Mutex::default(),
            places: Semaphore::new(COMPILE_AT_ONCE),
        }
    }
}

/// A module as machine code.
#[derive(Debug)]
pub struct Code {
    /// Where it is. It may be gone when the lease is.
    pub path: PathBuf,
    /// To be kept until whoever runs the code has opened it.
    pub lease: Lease,
}

/// What is to be compiled, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Nomad's namespace of the task that waits, such as `default`.
    pub namespace: &'a String,
    /// Its job, such as `web`.
    pub job: &'a String,
    /// The module, as the job names it.
    pub name: &'a str,
    /// What the compiler is told, such as `-W` and `epoch-interruption`.
    pub flags: &'a [String],
    /// Told when nobody waits any more.
    pub stopped: &'a Notify,
}

impl Wanted<'_> {
    fn abandoned(&self) -> Error {
        Error::Abandoned { name: self.name.to_owned() }
    }
}

/// A place at a compiler: while it is held, nobody else compiles the same.
struct Place<'a> {
    _turns: [OwnedMutexGuard<()>; 3],
    _place: Option<SemaphorePermit<'a>>,
}

/// A program that compiles in a certain way.
#[derive(Debug)]
struct Made<'a> {
    program: PathBuf,
    /// As it was when it told its key.
    stamp: Stamp,
    flags: &'a [String],
    key: String,
}

/// Why a module would not be compiled the next time either.
#[derive(Debug, Clone)]
enum Refusal {
    Invalid(String),
    Stopped(String),
}

impl Refusal {
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Invalid { report, .. } => Some(Self::Invalid(report.clone())),
            Error::Stopped { reason, .. } => Some(Self::Stopped(reason.clone())),
            _ => None,
        }
    }

    /// The same, of a file of this name.
    fn error(self, name: &str) -> Error {
        let name = name.to_owned();
        match self {
            Self::Invalid(report) => Error::Invalid { name, report },
            Self::Stopped(reason) => Error::Stopped { name, reason },
        }
    }
}

/// Where things are, by the plugin's configuration.
#[derive(Debug, Clone)]
pub struct Places {
    /// Directory of `wasm-shim` and `wasm-shim-compile`.
    pub shim_dir: Option<PathBuf>,
    /// Directory of what outlives the driver; the cache is in it.
    pub state_dir: PathBuf,
    /// How many bytes of compiled code are kept.
    pub cache_size: u64,
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
        module: File,
        wanted: Wanted<'_>,
    ) -> Result<Code, Error> {
        let Wanted { name, flags, stopped, .. } = wanted;
        let made = self.key(places.program("wasm-shim-compile")?, flags).await?;
        let read_error = |source| Error::Read { name: name.to_owned(), source };
        let (module, digest) = blocking(move || digest(module)).await.map_err(read_error)?;
        let Some(content) = digest else {
            return Err(Error::TooLarge { name: name.to_owned() });
        };
        let entry = Entry { key: made.key.clone(), content };
        let cache = self.cache(places);
        let directory = directory_of(places);
        let cache_error = |source| Error::Cache { directory: directory.clone(), source };
        let look = async || {
            let (cache, entry) = (Arc::clone(&cache), entry.clone());
            let look = move || {
                let lease = cache.lease(entry)?;
                lease.find().map(|found| (lease, found))
            };
            blocking(look).await.map_err(cache_error)
        };
        if let (lease, Some(path)) = look().await? {
            return Ok(Code { path, lease });
        }
        let _place = tokio::select! {
            place = self.place(&wanted, &entry) => place,
            () = stopped.notified() => return Err(wanted.abandoned()),
        };
        if let Some(refusal) = self.refusal_of(&entry) {
            return Err(refusal.error(name));
        }
        let (lease, found) = look().await?;
        if let Some(path) = found {
            return Ok(Code { path, lease });
        }
        let mut code =
            compile(systemd, places, &made, module, wanted, &content).await.inspect_err(|error| {
                if let Some(refusal) = Refusal::of(error) {
                    self.remember(entry, refusal);
                }
            })?;
        let publish = move || lease.publish(&mut code).map(|path| Code { path, lease });
        blocking(publish).await.map_err(cache_error)
    }

    /// Waits for a place at a compiler.
    async fn place(&self, wanted: &Wanted<'_>, entry: &Entry) -> Place<'_> {
        // In this order: who holds the turn of a content is compiling it, or about to. Nobody of another namespace can
        // hold it while waiting behind a queue of its own.
        let of_job = turn(&self.jobs, &(wanted.namespace.clone(), wanted.job.clone())).lock_owned().await;
        let of_namespace = turn(&self.namespaces, wanted.namespace).lock_owned().await;
        // Nobody closes the semaphore.
        let place = self.places.acquire().await.ok();
        let of_content = turn(&self.running, entry).lock_owned().await;
        Place { _turns: [of_content, of_namespace, of_job], _place: place }
    }

    /// Asks a compiler for its key, once for each way of compiling; and again when it is another one under the same name,
    /// as after an upgrade.
    async fn key<'a>(&self, program: PathBuf, flags: &'a [String]) -> Result<Made<'a>, Error> {
        let error =
            |source: io::Error| Error::EngineKey { program: program.clone(), report: source.to_string() };
        let stamp = Stamp::of(&program).map_err(error)?;
        let mut keys = self.keys.lock().await;
        let asked = (program.clone(), flags.to_owned());
        let key = match keys.get(&asked) {
            Some((then, key)) if *then == stamp => key.clone(),
            _ => {
                let key = engine_key(&program, flags).await?;
                if keys.len() >= REMEMBERED {
                    keys.clear();
                }
                keys.insert(asked, (stamp, key.clone()));
                key
            }
        };
        Ok(Made { program, stamp, flags, key })
    }

    /// The cache that the configuration speaks of.
    fn cache(&self, places: &Places) -> Arc<Cache> {
        let (directory, size) = (directory_of(places), places.cache_size);
        let mut cache = lock(&self.cache);
        match &*cache {
            Some(cache) if cache.is_of(&directory, size) => Arc::clone(cache),
            _ => Arc::clone(cache.insert(Arc::new(Cache::new(directory, size)))),
        }
    }

    fn refusal_of(&self, entry: &Entry) -> Option<Refusal> {
        let mut refusals = lock(&self.refusals);
        refusals.retain(|_, (since, _)| since.elapsed() < REFUSED_FOR);
        refusals.get(entry).map(|(_, refusal)| refusal.clone())
    }

    fn remember(&self, entry: Entry, refusal: Refusal) {
        let mut refusals = lock(&self.refusals);
        if refusals.len() >= REMEMBERED {
            refusals.clear();
        }
        refusals.insert(entry, (Instant::now(), refusal));
    }
}

fn directory_of(places: &Places) -> PathBuf {
    places.state_dir.join("wasm")
}

/// The digest of a module, if it is not too large. A file of the task can be of any size, and grow while it is read.
fn digest(mut module: File) -> io::Result<(File, Option<[u8; 32]>)> {
    if module.metadata()?.len() > MODULE_MAX {
        return Ok((module, None));
    }
    module.rewind()?;
    let mut digest = Sha256::new();
    let size = in_pieces(&mut (&mut module).take(MODULE_MAX + 1), |piece| {
        digest.update(piece);
        Ok(())
    })?;
    Ok((module, (size <= MODULE_MAX).then(|| digest.finalize().into())))
}

/// Compiles `module` in a unit of its own.
async fn compile(
    systemd: &Systemd,
    places: &Places,
    made: &Made<'_>,
    module: File,
    wanted: Wanted<'_>,
    content: &[u8; 32],
) -> Result<File, Error> {
    let name = wanted.name;
    let name_of = || name.to_owned();
    let memory_error = |source| Error::Memory { name: name_of(), source };
    let (streams, copied) = blocking(move || Streams::new(module)).await.map_err(memory_error)?;
    if copied != *content {
        return Err(Error::Changed { name: name_of() });
    }
    let unit_error = |source| Error::Unit { name: name_of(), source };
    let features = systemd.features().await.map_err(unit_error)?;
    let unit = compile_unit(places, &features, made, name, &streams).map_err(memory_error)?;
    let unit_name = unit.name.clone();
    tracing::info!(unit = %unit_name, module = name, "compiling WebAssembly");
    let mut unit = systemd.start(unit).await.map_err(unit_error)?;
    let state = tokio::select! {
        state = unit.ended() => Some(state),
        () = wanted.stopped.notified() => None,
    };
    // No process of it is left then.
    let removed = systemd.remove(&unit_name).await;
    let state = state.ok_or_else(|| wanted.abandoned())?;
    let stopped = |reason| Err(Error::Stopped { name: name_of(), reason });
    match (state.exit(), state.result.as_str()) {
        (Some(MainExit::Status(0)), _) => {}
        (Some(MainExit::Status(INVALID)), _) => {
            return Err(Error::Invalid { name: name_of(), report: streams.report() });
        }
        (Some(MainExit::Status(_)), _) => {
            return Err(Error::Failed { name: name_of(), report: streams.report() });
        }
        (_, "oom-kill") => {
            return stopped(format!(
                "it was killed for want of memory: it may have {} MiB, unless the slice of all tasks has less left",
                COMPILE_MEMORY >> 20
            ));
        }
        (_, "timeout") => return stopped(format!("it took longer than {} s", COMPILE_TIME.as_secs())),
        (_, result) => return stopped(format!("systemd says `{result}`")),
    }
    removed.map_err(unit_error)?;
    // Whether it was made by the one that told its key is not known otherwise.
    if Stamp::of(&made.program).is_ok_and(|now| now == made.stamp) {
        Ok(streams.code)
    } else {
        Err(Error::Replaced { name: name_of() })
    }
}

/// The compiler's three streams, in memory: it has no part in what is on disk, and nothing is left of it there.
struct Streams {
    module: File,
    code: File,
    report: File,
}

impl Streams {
    /// With a copy of the module, whose digest may be another one by now.
    fn new(module: File) -> io::Result<(Self, [u8; 32])> {
        let stream = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
        let streams = Self { module: stream("module")?, code: stream("code")?, report: stream("report")? };
        let (mut from, mut to, mut digest) = (module, &streams.module, Sha256::new());
        from.rewind()?;
        in_pieces(&mut from.take(MODULE_MAX), |piece| {
            digest.update(piece);
            to.write_all(piece)
        })?;
        to.rewind()?;
        Ok((streams, digest.finalize().into()))
    }

    /// What the compiler wrote on stderr, on one line and without anything that a terminal would obey.
    fn report(mut self) -> String {
        let mut report = Vec::new();
        let read = self.report.rewind().and_then(|()| self.report.take(REPORT_MAX).read_to_end(&mut report));
        let report = read.map(|_| on_one_line(&report)).unwrap_or_default();
        let report = report.trim_start_matches("wasm-shim-compile: ").to_owned();
        if report.is_empty() { "the compiler gave no reason".to_owned() } else { report }
    }
}

fn on_one_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let words = said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// What the compiler may use. Two bytes of code are the most that a byte of a module makes.
const LIMITS: &[(&str, &str)] =
    &[("LimitFSIZE", "2G"), ("MemorySwapMax", "0"), ("OOMPolicy", "kill"), ("TasksMax", "64")];

fn compile_unit(
    places: &Places,
    features: &Features,
    made: &Made<'_>,
    name: &str,
    streams: &Streams,
) -> io::Result<TransientUnit> {
    let fd = |file: &File| file.try_clone().map(|file| Stream::Fd(OwnedFd::from(file)));
    let mut properties = view::root(&places.root, &places.host_paths, &Overlays::new(), Sight::default());
    if places.manager == Manager::System {
        properties.push(Property::DynamicUser(true));
    }
    let view = View::Private { host_paths: Vec::new() }.assignments();
    let sandbox = view.into_iter().chain(Preset::Wasm.assignments().iter().cloned());
    let limits = LIMITS.iter().filter_map(|(name, text)| Assignment::parse(name, text).ok());
    let known = sandbox.filter(|line| features.check(line).is_ok());
    properties.extend(known.chain(limits).map(Property::Assigned));
    let words = [
        "wasm-shim-compile".to_owned(),
        "--check-imports".to_owned(),
        format!("--name={}", crate::task::spec::on_one_line(name)),
    ];
    let argv = words.into_iter().chain(made.flags.iter().cloned()).collect();
    properties.extend([
        Property::Description(crate::task::spec::on_one_line(&format!("Nomad: compile {name}"))),
        Property::Type("exec"),
        Property::BindReadOnlyPaths(vec![Bind {
            source: made.program.clone(),
            target: COMPILER.into(),
            recursive: false,
            optional: false,
        }]),
        Property::ExecStart { path: COMPILER.into(), argv },
        Property::RemainAfterExit(true),
        Property::StandardInput(fd(&streams.module)?),
        Property::StandardOutput(fd(&streams.code)?),
        Property::StandardError(fd(&streams.report)?),
        Property::MemoryMax(COMPILE_MEMORY),
        Property::CPUWeight(10),
        Property::RuntimeMax(COMPILE_TIME),
        Property::Slice(crate::task::unit::SLICE),
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

async fn engine_key(program: &Path, flags: &[String]) -> Result<String, Error> {
    let error = |report: String| Error::EngineKey { program: program.to_owned(), report };
    let output = tokio::process::Command::new(program)
        .arg("--engine-key")
        .args(flags)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(30), output)
        .await
        .map_err(|_| error("it did not answer within 30 s".to_owned()))?
        .map_err(|source| error(source.to_string()))?;
    let report = on_one_line(&output.stderr);
    let key = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.code() {
        Some(0) if !key.is_empty() && key.chars().all(|digit| digit.is_ascii_hexdigit()) => Ok(key),
        Some(1..) if !flags.is_empty() => Err(Error::Settings { flags: flags.join(" "), report }),
        _ => Err(error(report)),
    }
}

/// Runs file work off the threads that serve calls.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A compiler whose key is said by its text and by what it is told; each question leaves a line in `asked`.
    fn install(directory: &Path, text: &str) {
        let script = format!(
            "#!/bin/sh\n# {text}\ncd {0:?}\necho \"$*\" >>asked\n\
             case $* in *refuse*) echo 'no  such\nproposal' >&2; exit 2;; esac\n\
             {{ cat wasm-shim-compile; echo \"$*\"; }} | sha256sum | head -c 16\n",
            directory.display().to_string()
        );
        // By another process: while one of ours has it open for writing, it cannot be run.
        let to = directory.join("new");
        let mut writer = std::process::Command::new("/bin/sh")
            .args(["-c", "cat >\"$0\" && chmod 755 \"$0\" && mv \"$0\" \"${0%new}wasm-shim-compile\""])
            .arg(to)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
    }

    #[tokio::test]
    async fn the_engine_key_is_asked_once_for_each_way_of_compiling_and_again_after_an_upgrade() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("wasm-shim-compile");
        let compiler = Compiler::default();
        let flags = |flags: &[&str]| flags.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (plain, epochs) = (flags(&[]), flags(&["-W", "epoch-interruption"]));
        let key = async |flags: &[String]| compiler.key(program.clone(), flags).await.map(|made| made.key);
        let asked = || std::fs::read_to_string(directory.path().join("asked")).unwrap();

        install(directory.path(), "one");
        let (first, second) = (key(&plain).await.unwrap(), key(&epochs).await.unwrap());
        assert!(first.len() == 16 && first != second, "{first} {second}");
        assert_eq!(key(&plain).await.unwrap(), first);
        assert_eq!(key(&epochs).await.unwrap(), second);
        assert_eq!(asked(), "--engine-key\n--engine-key -W epoch-interruption\n");

        install(directory.path(), "two");
        let upgraded = key(&plain).await.unwrap();
        assert_ne!(upgraded, first);
        assert_eq!(key(&plain).await.unwrap(), upgraded);
        assert_eq!(asked().lines().count(), 3);

        let refused = key(&flags(&["-W", "refuse=y"])).await.unwrap_err();
        assert!(!refused.may_pass(), "{refused}");
        let said = refused.to_string();
        assert!(said.contains("`-W refuse=y`") && said.ends_with("no such proposal"), "{said}");
    }

    #[test]
    fn what_cannot_be_compiled_is_remembered_by_its_content_and_not_for_ever() {
        let compiler = Compiler::default();
        let entry = |content: usize| Entry {
            key: "0".to_owned(),
            content: Sha256::digest(content.to_string()).into(),
        };
        let name = || "a.wasm".to_owned();
        let invalid = Error::Invalid { name: name(), report: "no memory".to_owned() };
        compiler.remember(entry(0), Refusal::of(&invalid).unwrap());
        let again = compiler.refusal_of(&entry(0)).unwrap().error("b.wasm");
        assert_eq!(again.to_string(), "`command`: b.wasm cannot be compiled: no memory");
        assert!(compiler.refusal_of(&entry(1)).is_none());
        assert!(Refusal::of(&Error::Failed { name: name(), report: "disk".to_owned() }).is_none());

        for content in 1..1000 {
            compiler.remember(entry(content), Refusal::of(&invalid).unwrap());
        }
        assert!(lock(&compiler.refusals).len() <= REMEMBERED);
        let old = Instant::now().checked_sub(REFUSED_FOR).unwrap();
        for (since, _) in lock(&compiler.refusals).values_mut() {
            *since = old;
        }
        assert!(compiler.refusal_of(&entry(999)).is_none());
    }

    #[test]
    fn the_compiler_gets_what_was_hashed_or_it_is_noticed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"module").unwrap();
        let (file, hashed) = digest(file).unwrap();
        let (mut streams, copied) = Streams::new(file.try_clone().unwrap()).unwrap();
        assert_eq!(hashed, Some(copied));
        let mut module = String::new();
        streams.module.read_to_string(&mut module).unwrap();
        assert_eq!(module, "module");
        (&file).write_all(b", longer").unwrap();
        assert_ne!(hashed, Some(Streams::new(file).unwrap().1));
    }

    #[test]
    fn a_module_that_is_too_large_is_not_hashed_to_its_end() {
        let file = tempfile::tempfile().unwrap();
        // Of nothing, which takes no room.
        file.set_len(MODULE_MAX + 1).unwrap();
        assert_eq!(digest(file).unwrap().1, None);
    }

    #[test]
    fn what_the_compiler_says_is_one_line_that_no_terminal_obeys() {
        assert_eq!(on_one_line(b"bad\n\tmodule \x1b[2J\xff\0.\r\n"), "bad module [2J\u{fffd} .");
    }
}
