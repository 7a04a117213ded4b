//! Finds what a job names of the host's files, and makes sure that it may.
//!
//! Who decides what a path means is systemd, as root, when it mounts; so a path is followed here first, to its end, and
//! what systemd gets leads over no link any more.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::activation::{Address, Listener};
use super::policy::Policy;
use super::program;
use super::spec::TaskSpec;
use super::view::View;
use crate::systemd::Assignment;

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator does not allow it.
    #[error(
        "{option}: {path} is not among the paths that the operator of this node allows to jobs (`allow_host_paths` in the \
         plugin's configuration)"
    )]
    NotAllowed {
        /// The property.
        option: &'static str,
        /// Where it leads to.
        path: PathBuf,
    },
    /// The kernel would read an image that the job brought.
    #[error(
        "{option}: {path} is the task's own; the operator of this node does not let jobs mount images that they bring \
         (`allow_host_paths = [\"local\"]` in the plugin's configuration)"
    )]
    OwnImage {
        /// The property.
        option: &'static str,
        /// As the job says it.
        path: PathBuf,
    },
    /// Others can change what is there.
    #[error("{option}: {path} is shared with other tasks; it must be in the task's own `local/`")]
    Shared {
        /// The property.
        option: &'static str,
        /// As the job says it.
        path: PathBuf,
    },
    /// It is not there, or cannot be reached.
    #[error("{option}: find {path}")]
    Find {
        /// The property.
        option: &'static str,
        /// As the job says it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// systemd would look for an operating system in the root, and there are only mount points.
    #[error(
        "{option}: there must be a `/usr` of the task's own to lay it over, and the task sees the host's: give it a root of \
         its own (`files.root_directory`, `files.root_image`), or have the operator set `fs_isolation = \"none\"`"
    )]
    NoBase {
        /// The property.
        option: &'static str,
    },
    /// systemd would make a mount point on the host.
    #[error(
        "{option}: to mount something on {path}, it would have to be made on the host, where the task sees the host's own \
         directories: choose a path outside of them, or make it first"
    )]
    NoTarget {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
}

/// The settings with every path of the host followed to its end.
pub fn resolve(settings: &[Assignment], task: &TaskSpec, policy: &Policy) -> Result<Vec<Assignment>, Error> {
    let mut resolved = Vec::with_capacity(settings.len());
    for line in settings {
        let targets = line.mount_points();
        targets.iter().try_for_each(|target| check_target(line.name(), Path::new(target), task))?;
        let extends =
            ["ExtensionImages", "ExtensionDirectories"].contains(&line.name()) && !line.text().is_empty();
        if extends && matches!(task.view, View::Private { .. }) {
            return Err(Error::NoBase { option: line.name() });
        }
        resolved.push(line.clone().with_host_paths(|path| find(line.name(), Path::new(path), task, policy))?);
    }
    Ok(resolved)
}

/// May systemd mount something there? What is not there it makes, and in a directory that is the host's it would be made
/// on the host.
pub fn check_target(option: &'static str, target: &Path, task: &TaskSpec) -> Result<(), Error> {
    let is_hosts = match &task.view {
        View::Host => true,
        View::Private { host_paths } => host_paths.iter().any(|path| target.starts_with(path)),
        View::Own => false,
    };
    if is_hosts && !target.exists() {
        return Err(Error::NoTarget { option, path: target.to_owned() });
    }
    Ok(())
}

/// Where `path` leads to on the host, for a job that names it in this property.
pub fn find(option: &'static str, path: &Path, task: &TaskSpec, policy: &Policy) -> Result<PathBuf, Error> {
    let failed = |source| Error::Find { option, path: path.to_owned(), source };
    let inside = task.dirs.local.join(path);
    let dirs = &task.dirs;
    let own = dirs.pairs().into_iter().find_map(|(host, target)| {
        let below =
            if path.is_absolute() && task.view != View::Host { path.strip_prefix(target).ok() } else { None };
        below.or_else(|| inside.strip_prefix(host).ok()).map(|below| (host, below.to_owned()))
    });
    if let Some((directory, below)) = own {
        // Another task of the group could put a link there until systemd comes to it.
        if directory == dirs.shared {
            return Err(Error::Shared { option, path: path.to_owned() });
        }
        let is_image = option.ends_with("Image") || option.ends_with("Images");
        if is_image && !policy.allows_images_of_tasks() {
            return Err(Error::OwnImage { option, path: path.to_owned() });
        }
        return program::path_within(&dirs.alloc_dir, directory, &below).map_err(failed);
    }
    let real = path.canonicalize().map_err(failed)?;
    if policy.allows_path(&real) { Ok(real) } else { Err(Error::NotAllowed { option, path: real }) }
}

/// What is in a file that shall be a credential. A relative path is in the task's `secrets/`.
pub fn credential(path: &Path, task: &TaskSpec, policy: &Policy) -> Result<Vec<u8>, Error> {
    /// systemd takes no larger one.
    const LARGEST: u64 = 1 << 20;
    let option = "credential";
    let failed = |source| Error::Find { option, path: path.to_owned(), source };
    let dirs = &task.dirs;
    let in_own = |(host, target): (&Path, &'static str)| {
        let inside = path.strip_prefix(target).or_else(|_| path.strip_prefix(host)).ok()?;
        Some((host.to_owned(), inside.to_owned()))
    };
    let own = if path.is_relative() {
        Some((dirs.secrets.clone(), path.to_owned()))
    } else {
        dirs.pairs().into_iter().find_map(in_own)
    };
    let file = match own {
        Some((directory, inside)) => program::open_within(&dirs.alloc_dir, &directory, &inside),
        None => program::open_on_host(&find(option, path, task, policy)?),
    };
    let mut content = Vec::new();
    file.and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content)).map_err(failed)?;
    if content.len() as u64 > LARGEST {
        return Err(failed(io::Error::other("it is larger than 1 MiB, the most that systemd takes")));
    }
    Ok(content)
}

/// A socket with its path on the host: directly in one of the task's directories, since systemd follows the path as root,
/// and the task could put a link in the place of a directory in there.
pub fn listener(socket: &Listener, task: &TaskSpec) -> Result<Listener, Error> {
    let Address::Path(path) = &socket.at else { return Ok(socket.clone()) };
    let option = "socket.path";
    let failed = |source| Error::Find { option, path: path.clone(), source };
    let outside = || {
        failed(io::Error::other("it is not directly in `/alloc`, `/local` or `/secrets` of a private view"))
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Err(outside()) };
    let own = task.dirs.pairs().into_iter().find(|(_, target)| directory == Path::new(target));
    let (host, _) = own.filter(|_| task.view != View::Host).ok_or_else(outside)?;
    // What an earlier run left. A link there is removed, and not followed.
    program::remove_within(&task.dirs.alloc_dir, host, Path::new(name)).map_err(failed)?;
    Ok(Listener { at: Address::Path(host.join(name)), ..socket.clone() })
}
