//! One compilation, in a unit of its own.
//!
//! What the unit may do, and why, is in `mod.rs`.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};

use super::build::CompilerBuild;
use super::report::on_one_line;
use super::{Error, MODULE_MAX, Wanted, blocking};
use crate::systemd::{
    Assignment, Bind, Features, MainExit, Manager, Property, Stream, Systemd, TransientUnit, UnitName,
    one_line,
};
use crate::task::host::drivers;
use crate::task::host::view::{self, Overlays, Sight, View};
use crate::task::installation::Installation;
use crate::task::sandbox::preset::Preset;
use crate::task::slice_names::SLICE;
use crate::task::wasm::cache::{Stamp, read_chunks};

/// Compiling a component of 18 MB takes 350 MB.
const COMPILE_MEMORY: u64 = 2 << 30;

/// Compiling a component of 18 MB takes 10 s of a processor.
const COMPILE_TIME: Duration = Duration::from_mins(10);

/// Where the compiler is in its unit's view.
const COMPILER: &str = view::SHIM;

/// The compiler's exit status if the module is at fault; any other is a failure of the compiler, which may pass.
const INVALID: i32 = 1;

/// Maximum length of the compiler's report, in bytes.
const REPORT_MAX: u64 = 4096;

/// The digest of a module, unless it is too large. A file of the task can have any size, and grow while it is read.
pub(super) fn digest(mut module: File) -> io::Result<(File, Option<[u8; 32]>)> {
    if module.metadata()?.len() > MODULE_MAX {
        return Ok((module, None));
    }
    module.rewind()?;
    let mut digest = Sha256::new();
    let size = read_chunks(&mut (&mut module).take(MODULE_MAX + 1), |piece| {
        digest.update(piece);
        Ok(())
    })?;
    Ok((module, (size <= MODULE_MAX).then(|| digest.finalize().into())))
}

/// Compiles `module` in a unit of its own.
pub(super) async fn compile(
    systemd: &Systemd,
    installation: &Installation,
    build: &CompilerBuild<'_>,
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
    let unit = compile_unit(installation, &features, build, &wanted, &streams).map_err(memory_error)?;
    let unit_name = unit.name.clone();
    tracing::info!(unit = %unit_name, module = name, "compiling WebAssembly");
    let mut unit = systemd.start(unit).await.map_err(unit_error)?;
    let state = tokio::select! {
        state = unit.ended() => Some(state),
        () = wanted.stopped.notified() => None,
    };
    // Then no process of it is left.
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
        (_, result) => return stopped(format!("systemd reports `{result}`")),
    }
    removed.map_err(unit_error)?;
    // Only this shows whether the code was compiled by the program that reported its key.
    if Stamp::of(&build.program).is_ok_and(|now| now == build.stamp) {
        Ok(streams.code)
    } else {
        Err(Error::Replaced { name: name_of() })
    }
}

/// The compiler's three streams, in memory: it has no access to the disk, and nothing is left of it there.
struct Streams {
    module: File,
    code: File,
    report: File,
}

impl Streams {
    /// The streams with a copy of the module, whose digest may be another one by now.
    fn new(module: File) -> io::Result<(Self, [u8; 32])> {
        let stream = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
        let streams = Self { module: stream("module")?, code: stream("code")?, report: stream("report")? };
        let (mut from, mut to, mut digest) = (module, &streams.module, Sha256::new());
        from.rewind()?;
        read_chunks(&mut from.take(MODULE_MAX), |piece| {
            digest.update(piece);
            to.write_all(piece)
        })?;
        to.rewind()?;
        Ok((streams, digest.finalize().into()))
    }

    /// The compiler's stderr, on one line and without characters that control a terminal.
    fn report(mut self) -> String {
        let mut report = Vec::new();
        let read = self.report.rewind().and_then(|()| self.report.take(REPORT_MAX).read_to_end(&mut report));
        let report = read.map(|_| on_one_line(&report)).unwrap_or_default();
        let report = report.trim_start_matches("wasm-shim-compile: ").to_owned();
        if report.is_empty() { "the compiler gave no reason".to_owned() } else { report }
    }
}

/// Limits of the compiler. A byte of a module results in at most two bytes of code.
const LIMITS: &[(&str, &str)] =
    &[("LimitFSIZE", "2G"), ("MemorySwapMax", "0"), ("OOMPolicy", "kill"), ("TasksMax", "64")];

fn compile_unit(
    installation: &Installation,
    features: &Features,
    build: &CompilerBuild<'_>,
    wanted: &Wanted<'_>,
    streams: &Streams,
) -> io::Result<TransientUnit> {
    let name = wanted.name;
    let fd = |file: &File| file.try_clone().map(|file| Stream::Fd(OwnedFd::from(file)));
    let mut properties =
        view::root(&installation.root, &installation.host_paths, &Overlays::new(), Sight::default());
    if installation.manager == Manager::System {
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
        format!("--for={}", if wanted.serves { "serve" } else { "run" }),
        format!("--name={}", one_line(name)),
    ];
    let argv = words.into_iter().chain(build.flags.iter().cloned()).collect();
    properties.extend([
        Property::Description(one_line(&format!("Nomad: compile {name}"))),
        Property::Type("exec"),
        Property::BindReadOnlyPaths(vec![Bind {
            source: build.program.clone(),
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
        Property::Slice(SLICE),
    ]);
    // The time distinguishes a process from an earlier one with the same PID.
    let moment = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let unique = format!("{moment:x}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let name = UnitName::service(&[UNIT, &std::process::id().to_string()], &unique);
    Ok(TransientUnit::new(name, properties))
}

/// Prefix of the names of the units that compile; the PID of the driver follows.
const UNIT: &str = "nomad-wasm-compile";

/// Distinguishes the compilations of this process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Is this the unit of a compilation whose driver no longer exists?
pub fn is_orphaned_compilation(unit: &UnitName) -> bool {
    let rest = unit.as_str().strip_prefix(UNIT).and_then(|rest| rest.strip_prefix('-'));
    let driver = rest.and_then(|rest| rest.split('-').next());
    driver.is_some_and(|pid| !drivers::is_alive(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        // A sparse file, which takes no room.
        file.set_len(MODULE_MAX + 1).unwrap();
        assert_eq!(digest(file).unwrap().1, None);
    }
}
