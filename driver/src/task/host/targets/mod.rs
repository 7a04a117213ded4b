//! Mount points in a task's view: nobody can redirect a mount point by a link, no mount hides a mount of the driver or
//! of systemd, and each mount point exists.
//!
//! systemd creates missing mount points, as root. In a root of the task's own that is fine; the operating system is the
//! host's, and nothing is created there. A task that mounts something on a missing path of the operating system, such
//! as `/etc/app.conf`, sees it through an overlay: the host's directory, and above it a directory that contains only
//! the mount points.

mod error;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use self::error::Error;
pub(crate) use self::error::MOST;
use crate::task::host::look::{Seen, look};
use crate::task::host::pin::Base;
use crate::task::host::view::{self, View};
use crate::task::host::way::is_safe;
use crate::task::spec::TaskSpec;

/// The source of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An empty directory.
    Empty,
    /// A host path that the operator allows, or a directory that systemd keeps. Tasks may be able to write there.
    Host,
    /// A host path that the operator allows, at its own place: where tasks cannot write, it is what systemd expects.
    InPlace,
    /// Files that tasks can write: a file or directory of the task, or a volume.
    Tasks,
}

/// A mount point.
#[derive(Debug, Clone)]
pub struct Target {
    /// The property that requests the mount, or `volume`.
    pub option: &'static str,
    /// Path in the task's view.
    pub path: PathBuf,
    /// What is mounted there.
    pub source: Source,
}

/// Paths on which nothing may be mounted: the driver or systemd mounts there for the task (systemd 257 the file
/// `/run/host/.os-release-stage`), and creates the mount points as root.
///
/// Below `/proc` systemd writes, as root, to files by which it sets up namespaces.
const RESERVED: [&str; 6] =
    ["/.wasm", "/proc", "/run/.wasm", "/run/credentials", "/run/host", "/run/systemd/notify"];
/// Paths on which only empty directories may be mounted: systemd reads, writes and mounts files there for the task, as
/// root, or links of the host lead there. Tasks may also be able to write to a host path that the operator allows.
const RESERVED_FROM_FILES: [&str; 11] = [
    "/sys",
    "/run/systemd",
    "/dev/core",
    "/dev/fd",
    "/dev/log",
    "/dev/stderr",
    "/dev/stdin",
    "/dev/stdout",
    "/var/cache/private",
    "/var/lib/private",
    "/var/log/private",
];

/// Missing mount points, by the host path that lacks them. systemd creates all other missing mount points.
pub(crate) type Missing = BTreeMap<PathBuf, Vec<PathBuf>>;

/// May systemd mount something on all of these mount points, each named by an option? `ours` are the driver's paths on
/// the host.
pub(crate) fn check(targets: &[Target], task: &TaskSpec, ours: &[PathBuf]) -> Result<Missing, Error> {
    if let Some(target) = targets.get(MOST) {
        return Err(Error::Many { option: target.option, count: targets.len() });
    }
    if let Some(Target { option, path, .. }) = targets.iter().find(|target| !view::is_plain(&target.path)) {
        return Err(Error::NotPlain { option, path: path.clone() });
    }
    let mut missing = Missing::new();
    for target in targets {
        let Target { option, path, source } = target;
        if let Some(host_path) = check_way(option, path, task)? {
            missing.entry(host_path).or_default().push(path.clone());
        }
        let is_other = !matches!(source, Source::Empty | Source::InPlace);
        let from_files = RESERVED_FROM_FILES.iter().filter(|_| is_other);
        if let Some(reserved) = RESERVED.iter().chain(from_files).find(|reserved| path.starts_with(reserved))
        {
            return Err(Error::Reserved { option, path: path.clone(), reserved: reserved.into() });
        }
        // Where the task sees the host, it also sees the programs that run it, and the files of the driver.
        let is_ours = |ours: &&PathBuf| path.starts_with(ours) || ours.starts_with(path);
        if let (View::Host, Some(reserved)) = (&task.view, ours.iter().find(is_ours)) {
            return Err(Error::Reserved { option, path: path.clone(), reserved: reserved.clone() });
        }
        // systemd mounts the private directory in their place.
        if ["/tmp", "/var/tmp"].iter().any(|temporary| path == Path::new(temporary)) {
            return Err(Error::Temporary { option, path: path.clone() });
        }
        // An empty directory contains no link.
        let covered = |inner: &&&str| {
            let inner = Path::new(**inner);
            *source != Source::Empty && inner.starts_with(path) && inner != path
        };
        if let Some(inner) = view::MOUNTED.iter().find(covered) {
            return Err(Error::Covers { option, path: path.clone(), inner });
        }
        let is_other_there = |other: &&Target| other.path == *path && !std::ptr::eq(*other, target);
        if targets.iter().any(|other| is_other_there(&other)) {
            return Err(Error::Twice { option, path: path.clone() });
        }
        if let (View::Private { host_paths }, Source::Empty) = (&task.view, source)
            && host_paths.contains(path)
        {
            return Err(Error::Hidden { option, path: path.clone() });
        }
        // Others can change the files that are mounted there while systemd looks up the path.
        let holds = |other: &&Target| {
            other.path != *path && path.starts_with(&other.path) && other.source != Source::Empty
        };
        if let Some(outer) = targets.iter().find(holds) {
            return Err(Error::Nested { option, path: path.clone(), outer: outer.path.clone() });
        }
    }
    Ok(missing)
}

/// Can nobody change the way to the mount point? Returns the host path that lacks it, if there is one.
fn check_way(option: &'static str, target: &Path, task: &TaskSpec) -> Result<Option<PathBuf>, Error> {
    // Paths are compared as text, so no component may stand for another path.
    let is_of_host = |path: &Path| match &task.view {
        View::Host => true,
        View::Private { host_paths } => host_paths.iter().any(|host_path| path.starts_with(host_path)),
        View::Own => false,
    };
    let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    if target.ancestors().any(|part| is_of_host(part) && is_link(part)) {
        // A missing path is below an existing one.
        let there = target.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
        let real = there.map_or_else(
            || target.to_owned(),
            |(part, real)| {
                real.join(target.strip_prefix(part).unwrap_or(Path::new(""))).components().collect()
            },
        );
        // Behind a closed directory, and in /proc, not everybody may know.
        let inside = target.strip_prefix("/").unwrap_or(target);
        let is_hidden = matches!(look(Base::Host(Path::new("/")), inside), Ok(Seen::Hidden) | Err(_));
        return Err(Error::HostLink { option, path: target.to_owned(), real: (!is_hidden).then_some(real) });
    }
    match &task.view {
        View::Host if !target.exists() || !is_safe(Path::new("/"), target, Some(0o022)).unwrap_or(false) => {
            return Err(Error::Missing { option, path: target.to_owned() });
        }
        View::Host => return Ok(None),
        View::Private { host_paths } => {
            if let Some(inner) = host_paths.iter().find(|path| path.starts_with(target) && *path != target) {
                let (path, inner) = (target.to_owned(), inner.clone());
                return Err(Error::CoversHostPath { option, path, inner });
            }
            // The host path that is mounted over the others.
            let around = host_paths.iter().filter(|path| target.starts_with(path));
            let host_path = around.max_by_key(|path| path.components().count());
            let safe = || is_safe(Path::new("/"), target, Some(0o002)).unwrap_or(false);
            if host_path.is_some() && !safe() {
                return Err(Error::Shared { option, path: target.to_owned() });
            }
            if let Some(host_path) = host_path.filter(|_| !target.exists()) {
                return if can_be_laid_over(host_path, target) {
                    Ok(Some(host_path.clone()))
                } else {
                    Err(Error::Missing { option, path: target.to_owned() })
                };
            }
        }
        View::Own => {}
    }
    // Others may hold such a directory open, and put a link in the place of what was checked.
    if task.dirs.pairs().into_iter().any(|(_, inside)| target.starts_with(inside)) {
        return Err(Error::Shared { option, path: target.to_owned() });
    }
    Ok(None)
}

/// Can the mount point be laid over the host directory? A directory of the same name hides a link.
fn can_be_laid_over(host_path: &Path, target: &Path) -> bool {
    let is_named_plainly = !host_path.to_string_lossy().contains([',', ':', '\\']);
    let ways = target.ancestors().skip(1).take_while(|way| way.starts_with(host_path));
    let is_directory = |way: &Path| match fs::symlink_metadata(way) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) => error.kind() == io::ErrorKind::NotFound && way != host_path,
    };
    let is_link = fs::symlink_metadata(target).is_ok();
    rustix::process::geteuid().is_root() && is_named_plainly && !is_link && ways.into_iter().all(is_directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_mount_point_is_laid_over_directories_and_over_no_link() {
        let host = tempfile::tempdir().unwrap();
        let etc = host.path();
        fs::create_dir(etc.join("app")).unwrap();
        fs::write(etc.join("file"), "").unwrap();
        symlink("app", etc.join("link")).unwrap();
        symlink("nowhere", etc.join("dangling")).unwrap();
        let can = |inside: &str| can_be_laid_over(etc, &etc.join(inside));
        let is_root = rustix::process::geteuid().is_root();
        for inside in ["x.conf", "app/x.conf", "new/deep/x.conf"] {
            assert_eq!(can(inside), is_root, "{inside}");
        }
        for inside in ["link/x.conf", "file/x.conf", "dangling", "dangling/x"] {
            assert!(!can(inside), "{inside}");
        }
        assert!(!can_be_laid_over(&etc.join("missing"), &etc.join("missing/x")));
    }
}
