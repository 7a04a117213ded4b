//! Why something cannot be mounted, closed or made read-only where a job requests it.

use std::path::PathBuf;

use crate::task::config::settings;
use crate::task::host::view::PLAIN_PATH;

/// Maximum number of mount points of a task: systemd mounts each, and compares each with all others.
pub(crate) const MOST: usize = 128;

/// What a mount point must be. A relative path may be half of a path, or a directory expected in the working directory.
const ABSOLUTE: &str = "an absolute path in the task's view, such as \"/data\"";

/// Where several paths are in one text.
fn about_lists(option: &str) -> &'static str {
    match option {
        "BindPaths" | "BindReadOnlyPaths" => {
            "; write `SOURCE:TARGET`; a blank begins another entry, unless each path is in quotes: \"\\\"SOURCE\\\":\\\"TARGET\\\"\""
        }
        _ => "",
    }
}

fn kind(is_directory: bool) -> &'static str {
    if is_directory { "directory" } else { "file" }
}

/// Why nothing can be mounted at a path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path may lead anywhere.
    #[error("{}: the mount point {path:?} is not {}{}", settings::shown(.option), if path.is_relative() { ABSOLUTE } else { PLAIN_PATH }, about_lists(option))]
    NotPlain {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// systemd would use one of the two mounts without reporting it.
    #[error("{}: {path} is the target of two mounts (`files`, `volume_mount`); leave one out", settings::shown(.option))]
    Twice {
        /// One of the properties.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// The kernel mounts a file on a file, and a directory on a directory.
    #[error(
        "{}: {path} is a {}, and what is mounted there is a {}; name one of the same kind, or another target", settings::shown(.option),
        kind(!source_is_directory), kind(*source_is_directory))]
    Kinds {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// Is a directory mounted on it?
        source_is_directory: bool,
    },
    /// A path to be closed does not exist.
    #[error("{}: {path} is not there in the view of the task; write \"-{path}\" if it may be missing", settings::shown(.option))]
    Absent {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
    },
    /// The view mounts the host's directory there.
    #[error("{}: the view of the task has the host's {path} there; name a directory in it, such as {path}/x", settings::shown(.option))]
    Hidden {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// No task needs this many mount points.
    #[error("{}: the task has {count} mounts and paths of `read_only_paths`, `inaccessible_paths` and the like; the limit is {MOST}", settings::shown(.option))]
    Many {
        /// One of the properties.
        option: &'static str,
        /// Number of mounts and paths.
        count: usize,
    },
    /// A mount point behind a link of the host: systemd would not mount on the path that was compared.
    #[error("{}: the mount point {path} leads over a link{}; mount on the path that it leads to, or leave it out where the task sees it already", settings::shown(.option),
        real.as_ref().map(|real| format!(", to {}", real.display())).unwrap_or_default())]
    HostLink {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// Where it leads to, if everybody may know.
        real: Option<PathBuf>,
    },
    /// A mount point in a directory that tasks can change.
    #[error(
        "{}: {path} is in a directory that tasks or other users can change while something is mounted there; mount it \
         elsewhere, such as on `/data`, outside of `/local`, `/secrets` and `/alloc`, which are in the view of the task already", settings::shown(.option))]
    Shared {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// A mount point inside of another mount.
    #[error(
        "{}: {path} lies in {outer}, which is mounted as well, and others can put a link in its place; mount it \
         outside of {outer}", settings::shown(.option))]
    Nested {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The mount that contains it.
        outer: PathBuf,
    },
    /// A mount of the driver or of systemd would be inside of the mount.
    #[error(
        "{}: {path} would hold {inner}, where something is mounted for every task, and others can put a link in its \
         place; mount it elsewhere", settings::shown(.option))]
    Covers {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The path that would be inside.
        inner: &'static str,
    },
    /// A host path that every task sees would be inside of the mount.
    #[error("{}: {path} would hold {inner}, which the operator shows to every task; mount it elsewhere", settings::shown(.option))]
    CoversHostPath {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The path that would be inside.
        inner: PathBuf,
    },
    /// The mount would replace a mount of the driver or of systemd, or files by which systemd controls the kernel.
    #[error("{}: {path} is in {reserved}, which is systemd's and the driver's; mount it elsewhere", settings::shown(.option))]
    Reserved {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// The reserved path.
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
        /// The path that the job names.
        path: PathBuf,
        /// The directory that can be changed.
        outer: PathBuf,
    },
    /// Files of the operating system, to be made writable.
    #[error(
        "{}: {path} is of the operating system, which no task writes to: bind a directory of the task there (`files.bind_paths`, \
         such as `alloc/data:{path}`)", settings::shown(.option))]
    System {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
    },
    /// A directory of the view that contains nothing but mount points.
    #[error(
        "{}: {path} is in the view only for what is mounted at {target}; name {target}", settings::shown(.option))]
    MadeForMount {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
        /// The mount point in it.
        target: PathBuf,
    },
    /// A directory that an agent opens when it starts, and in which it follows links.
    #[error(
        "{}: `/alloc` is read-only as a whole, since a Nomad agent follows the links in it: write to `/alloc/data` and `/alloc/tmp`", settings::shown(.option))]
    Alloc {
        /// The property.
        option: &'static str,
    },
    /// A path mounted over itself in a root, a part of which the job brings.
    #[error(
        "{}: {path} is in a root of which the job brings a part, and a link in that could lead elsewhere; name `/`, `/local`, \
         `/alloc`, `/secrets` or a mount point as a whole", settings::shown(.option))]
    Unseen {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
    },
    /// A path through resources of a process, or through a directory of systemd.
    #[error(
        "{}: {path} leads through a process or a directory of systemd's; name the path as the task sees it, without `..`", settings::shown(.option))]
    OfProcess {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
    },
    /// A mount point in a directory over which an extension is laid.
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
    /// systemd would skip the mount.
    #[error(
        "{}: {path} is a directory of the task's own already (`sandbox.private_tmp`), and nothing is mounted on it; mount \
         elsewhere, and point the program there (`TMPDIR`)", settings::shown(.option))]
    Temporary {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// systemd would create a mount point on the host.
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
