//! Where something is mounted in a task's view: that nobody can turn a mount point into another by a link, that nothing
//! comes to lie on what the driver and systemd mount, and that a mount point is there.
//!
//! systemd makes what is missing, as root. In a root of the task's own that is fine; the operating system is the host's,
//! and nothing is made there. A task that mounts something on a path of it that is not there, such as
//! `/etc/app.conf`, sees it through an overlay: the host's directory, and above it one that holds nothing but the mount
//! points.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::task::config::settings;
use crate::task::host::view::{self, PLAIN_PATH, View};
use crate::task::host::way::is_safe;
use crate::task::spec::TaskSpec;

/// What a relative mount point is not: half of a path, or a directory that a task would look for where it begins.
const ABSOLUTE: &str = "an absolute path, such as \"/data\"; in a list of paths a blank begins another entry, unless the entry is in quotes: \"\\\"SOURCE:TARGET\\\"\"";

/// Why nothing can be mounted there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may lead anywhere.
    #[error("{}: the mount point {path:?} is not {}", settings::shown(.option), if path.is_relative() { ABSOLUTE } else { PLAIN_PATH })]
    NotPlain {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// systemd would take one of them, and not say so.
    #[error("{}: {path} is the target of two mounts (`files`, `volume_mount`); leave one out", settings::shown(.option))]
    Twice {
        /// One of the properties.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// The view mounts the host's there.
    #[error("{}: the view of the task has the host's {path} there; name a directory in it, such as {path}/x", settings::shown(.option))]
    Hidden {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// Nothing needs so many.
    #[error("{}: the task has {count} mounts and paths of `read_only_paths`, `inaccessible_paths` and the like; the limit is {MOST}", settings::shown(.option))]
    Many {
        /// One of the properties.
        option: &'static str,
        /// How many.
        count: usize,
    },
    /// A mount point behind a link of the host's: what is compared would not be what systemd mounts on.
    #[error("{}: {path} leads over a link, to {real}; name that path", settings::shown(.option))]
    HostLink {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// Where it leads to.
        real: PathBuf,
    },
    /// A mount point in a directory that tasks can change.
    #[error(
        "{}: {path} is in a directory that tasks or other users can change while something is mounted there; mount it \
         elsewhere, such as on `/data`, outside of `/local`, `/secrets` and `/alloc`", settings::shown(.option))]
    Shared {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// A mount point in what is mounted.
    #[error(
        "{}: {path} lies in {outer}, which is mounted as well, and others can put a link in its place; mount it \
         outside of {outer}", settings::shown(.option))]
    Nested {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What it lies in.
        outer: PathBuf,
    },
    /// What the driver or systemd mounts would come to lie in what is mounted.
    #[error(
        "{}: {path} would hold {inner}, where something is mounted for every task, and others can put a link in its \
         place; mount it elsewhere", settings::shown(.option))]
    Covers {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What would lie in it.
        inner: &'static str,
    },
    /// A path of the host that every task sees would come to lie in what is mounted.
    #[error("{}: {path} would hold {inner}, which the operator shows to every task; mount it elsewhere", settings::shown(.option))]
    CoversHostPath {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What would lie in it.
        inner: PathBuf,
    },
    /// It would stand in the place of what the driver or systemd mounts, or of what systemd asks the kernel through.
    #[error("{}: {path} is in {reserved}, which is systemd's and the driver's; mount it elsewhere", settings::shown(.option))]
    Reserved {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What it lies in.
        reserved: PathBuf,
    },
    /// A mount point behind a link of the task's root.
    #[error(
        "{}: {path} leads over a link in the root of the task, or a directory where others than root could put one, and \
         systemd would mount on what it leads to; name a path without links, in directories of root's", settings::shown(.option))]
    RootLink {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// A path that is mounted over itself, on a way that others can change meanwhile.
    #[error(
        "{}: {path} is in {outer}, where tasks or other users can put links while systemd looks the path up; name {outer} \
         itself, or bind the directory to a path of its own (`files.bind_paths`, such as `/alloc/data:/data`) and name that", settings::shown(.option))]
    Raced {
        /// The property.
        option: &'static str,
        /// As the job says it.
        path: PathBuf,
        /// The directory that can be changed.
        outer: PathBuf,
    },
    /// The operating system's files, to be made writable.
    #[error(
        "{}: {path} is of the operating system, which no task writes to: bind a directory of the task there (`files.bind_paths`, \
         such as `alloc/data:{path}`)", settings::shown(.option))]
    System {
        /// The property.
        option: &'static str,
        /// As the job says it.
        path: PathBuf,
    },
    /// A directory of the view that holds nothing but mount points.
    #[error(
        "{}: {path} is in the view only for what is mounted at {target}; name {target}", settings::shown(.option))]
    MadeForMount {
        /// The property.
        option: &'static str,
        /// As the job says it.
        path: PathBuf,
        /// What is mounted in it.
        target: PathBuf,
    },
    /// What an agent that starts opens, and follows links in.
    #[error(
        "{}: `/alloc` is read-only as a whole, since a Nomad agent follows the links in it: write to `/alloc/data` and `/alloc/tmp`", settings::shown(.option))]
    Alloc {
        /// The property.
        option: &'static str,
    },
    /// A path over itself in a root of which the job brings a part.
    #[error(
        "{}: {path} is in a root of which the job brings a part, and a link in that could lead elsewhere; name `/`, `/local`, \
         `/alloc`, `/secrets` or a mount point as a whole", settings::shown(.option))]
    Unseen {
        /// The property.
        option: &'static str,
        /// As the job says it.
        path: PathBuf,
    },
    /// A path through what a process has, or systemd makes.
    #[error(
        "{}: {path} leads through a process or a directory of systemd's; name the path as the task sees it, without `..`", settings::shown(.option))]
    OfProcess {
        /// The property.
        option: &'static str,
        /// As the job says it.
        path: PathBuf,
    },
    /// A mount point in what an extension is laid over.
    #[error(
        "{}: {path} is in a directory over which {} lays files, and links among them could lead it elsewhere; mount it \
         outside of `/usr`, `/opt` and `/etc`", settings::shown(.option), settings::shown(.extension))]
    InExtension {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The property of the extension.
        extension: &'static str,
    },
    /// A user namespace in a root that the job brings.
    #[error(
        "{}: the task has a user namespace (`sandbox.private_users`, the preset \"strict\", a named `user` or `allow_root = \
         \"confined\"`), which systemd sets up in files that links in it could replace; use a root directory of the operator's, \
         or do without the namespace or without further mounts", settings::shown(.option))]
    NamespaceInRoot {
        /// The property.
        option: &'static str,
    },
    /// systemd would pass it over.
    #[error(
        "{}: {path} is a directory of the task's own already (`sandbox.private_tmp`), and nothing is mounted on it; mount \
         elsewhere, and point the program there (`TMPDIR`)", settings::shown(.option))]
    Temporary {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// systemd would make a mount point on the host.
    #[error(
        "{}: {path} is not there, and cannot be made, where the task sees the host's own directories: choose a path \
         outside of them, or have the operator create it", settings::shown(.option))]
    Missing {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
}

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nothing but an empty directory.
    Empty,
    /// A path of the host's that the operator allows, or a directory that systemd keeps. Tasks may be able to write there.
    Host,
    /// A path of the host's that the operator allows, at its own place: what tasks cannot write there is what systemd wants.
    InPlace,
    /// What tasks can write: a file or directory of the task's, or a volume.
    Tasks,
}

/// A mount point.
#[derive(Debug, Clone)]
pub struct Target {
    /// The property that asks for it, or `volume`.
    pub option: &'static str,
    /// Where, in the task's view.
    pub path: PathBuf,
    /// What is mounted there.
    pub source: Source,
}

/// Where nothing is mounted, whatever it is: the driver or systemd mounts there for the task (systemd 257 what
/// `/run/host/.os-release-stage` is), and makes the mount points as root.
///
/// Below `/proc` systemd writes, as root, to files by which it sets up namespaces.
const RESERVED: [&str; 6] =
    ["/.wasm", "/proc", "/run/.wasm", "/run/credentials", "/run/host", "/run/systemd/notify"];
/// Where nothing is mounted that holds anything: systemd reads, writes and mounts files there for the task, as root, or
/// links of the host's lead there. Also a path of the host that the operator allows may be one that tasks can write.
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

/// The most mount points of a task: systemd mounts each, and looks at each beside all others.
pub(super) const MOST: usize = 128;

/// The mount points that are not there, by the path of the host that lacks them. What is not there otherwise systemd makes.
pub(crate) type Missing = BTreeMap<PathBuf, Vec<PathBuf>>;

/// May systemd mount something at all of these points, each named by an option?
/// `ours` is what the driver has on the host.
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
        // Where the task sees the host as it is, so are they: what runs the task, and what the driver keeps.
        let is_ours = |ours: &&PathBuf| path.starts_with(ours) || ours.starts_with(path);
        if let (View::Host, Some(reserved)) = (&task.view, ours.iter().find(is_ours)) {
            return Err(Error::Reserved { option, path: path.clone(), reserved: reserved.clone() });
        }
        // systemd mounts the private one in their place.
        if ["/tmp", "/var/tmp"].iter().any(|temporary| path == Path::new(temporary)) {
            return Err(Error::Temporary { option, path: path.clone() });
        }
        // One that begins empty holds no link.
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
        // What is mounted there can be changed by others while systemd comes to it.
        let holds = |other: &&Target| {
            other.path != *path && path.starts_with(&other.path) && other.source != Source::Empty
        };
        if let Some(outer) = targets.iter().find(holds) {
            return Err(Error::Nested { option, path: path.clone(), outer: outer.path.clone() });
        }
    }
    Ok(missing)
}

/// Is the way there one that nobody can change? The path of the host that lacks it, if one does.
fn check_way(option: &'static str, target: &Path, task: &TaskSpec) -> Result<Option<PathBuf>, Error> {
    // Text is compared with text, so no part of it may stand for another path.
    let is_of_host = |path: &Path| match &task.view {
        View::Host => true,
        View::Private { host_paths } => host_paths.iter().any(|host_path| path.starts_with(host_path)),
        View::Own => false,
    };
    let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    if target.ancestors().any(|part| is_of_host(part) && is_link(part)) {
        // What is not there yet is below something that is.
        let there = target.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
        let real = there.map_or_else(
            || target.to_owned(),
            |(part, real)| {
                real.join(target.strip_prefix(part).unwrap_or(Path::new(""))).components().collect()
            },
        );
        return Err(Error::HostLink { option, path: target.to_owned(), real });
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
            // The one that is mounted over the others.
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
    // Others may hold such a directory open, and put a link in the place of what was looked at.
    if task.dirs.pairs().into_iter().any(|(_, inside)| target.starts_with(inside)) {
        return Err(Error::Shared { option, path: target.to_owned() });
    }
    Ok(None)
}

/// Can the mount point be laid over the directory of the host's? A directory of the same name hides a link.
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
