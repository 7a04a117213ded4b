//! Finds what a job names of the host's files, and makes sure that it may.
//!
//! Every path is opened below the directory that allows it, and pinned ([`super::pin`]), so that systemd means the object
//! that was checked.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::activation::{Address, Listener};
use super::config::Mount;
use super::pin::{Base, Pins};
use super::policy::Policy;
use super::program;
use super::spec::TaskSpec;
use super::view::{self, View};
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
    /// A link in a path that the operator allows leads to one that he does not.
    #[error(
        "{option}: {path} leads, by a link or `..`, out of the paths that the operator of this node allows to jobs \
         (`allow_host_paths` in the plugin's configuration); name the path that it leads to"
    )]
    LinkedAway {
        /// The property.
        option: &'static str,
        /// As the job says it.
        path: PathBuf,
    },
    /// A mount point in a directory of the group's.
    #[error(
        "{option}: {path} is shared with the other tasks of the group, which could put a link in its place; mount it in \
         `/local`, or anywhere outside of `/alloc`"
    )]
    SharedTarget {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// A mount point over a link.
    #[error(
        "{option}: the way to {path} leads over a link in the task's own directory; remove the link, or mount it elsewhere"
    )]
    LinkedTarget {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
    /// A mount point in what is mounted.
    #[error(
        "{option}: {path} lies in {outer}, which is mounted as well, and others can put a link in its place; mount it \
         outside of {outer}"
    )]
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
        "{option}: {path} would hold {inner}, where something is mounted for every task, and others can put a link in its \
         place; mount it elsewhere"
    )]
    Covers {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What would lie in it.
        inner: &'static str,
    },
    /// systemd would make a mount point on the host.
    #[error(
        "{option}: to mount something on {path}, it would have to be made on the host, where the task sees the host's own \
         directories: choose a path outside of them, or create it first"
    )]
    NoTarget {
        /// The property.
        option: &'static str,
        /// The mount point.
        path: PathBuf,
    },
}

/// The settings with every path of the host pinned.
pub fn resolve(
    settings: &[Assignment],
    task: &TaskSpec,
    policy: &Policy,
    pins: &mut Pins,
) -> Result<Vec<Assignment>, Error> {
    let mut resolved = Vec::with_capacity(settings.len());
    for line in settings {
        let extends =
            ["ExtensionImages", "ExtensionDirectories"].contains(&line.name()) && !line.text().is_empty();
        if extends && matches!(task.view, View::Private { .. }) {
            return Err(Error::NoBase { option: line.name() });
        }
        let pinned =
            line.clone().with_host_paths(|path| find(line.name(), Path::new(path), task, policy, pins))?;
        resolved.push(pinned);
    }
    Ok(resolved)
}

/// The volumes and what device plugins mount, with every source pinned.
pub fn mounts(task: &TaskSpec, pins: &mut Pins) -> Result<Vec<Mount>, Error> {
    let pin = |mount: &Mount| {
        let failed = |source| Error::Find { option: "volume", path: mount.source.clone(), source };
        let source = pins.pin(Base::Host(&mount.source), Path::new(""), |_| Ok(())).map_err(failed)?;
        Ok(Mount { source, ..mount.clone() })
    };
    task.mounts.iter().map(pin).collect()
}

/// May systemd mount something at all of these points, each named by an option? What is not there it makes, as root, by
/// whatever links it meets.
pub fn check_targets(targets: &[(&'static str, PathBuf)], task: &TaskSpec) -> Result<(), Error> {
    for (option, target) in targets {
        check_target(option, target, task)?;
        // One that begins empty holds no link.
        if *option != "TemporaryFileSystem"
            && let Some(inner) = view::MOUNTED.iter().find(|inner| {
                let inner = Path::new(inner);
                inner.starts_with(target) && inner != target
            })
        {
            return Err(Error::Covers { option, path: target.clone(), inner });
        }
        // What is mounted there can be changed by others while systemd comes to it.
        let holds = |other: &&(&'static str, PathBuf)| {
            other.1 != *target && target.starts_with(&other.1) && other.0 != "TemporaryFileSystem"
        };
        if let Some((_, outer)) = targets.iter().find(holds) {
            return Err(Error::Nested { option, path: target.clone(), outer: outer.clone() });
        }
    }
    Ok(())
}

fn check_target(option: &'static str, target: &Path, task: &TaskSpec) -> Result<(), Error> {
    let failed = |source| Error::Find { option, path: target.to_owned(), source };
    if !view::is_plain(target) {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    match &task.view {
        View::Host if !is_roots_alone(target) => {
            return Err(Error::NoTarget { option, path: target.to_owned() });
        }
        View::Private { host_paths }
            if host_paths.iter().any(|path| target.starts_with(path)) && !target.exists() =>
        {
            return Err(Error::NoTarget { option, path: target.to_owned() });
        }
        View::Host => return Ok(()),
        View::Private { .. } | View::Own => {}
    }
    let dirs = &task.dirs;
    let own =
        dirs.pairs().into_iter().find_map(|(host, inside)| Some((host, target.strip_prefix(inside).ok()?)));
    let Some((directory, below)) = own else { return Ok(()) };
    if directory == dirs.shared {
        return Err(Error::SharedTarget { option, path: target.to_owned() });
    }
    // Nobody else writes there before the task runs, so what is no link now stays none.
    match over_no_link(Base::Task { alloc_dir: &dirs.alloc_dir, directory }, below) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Err(Error::LinkedTarget { option, path: target.to_owned() })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Does the way to `inside`, as far as it is there, lead over no link?
fn over_no_link(base: Base<'_>, inside: &Path) -> io::Result<()> {
    let base = base.open(Path::new(""))?;
    if inside.as_os_str().is_empty() {
        return Ok(());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let way = inside.ancestors().filter(|part| !part.as_os_str().is_empty());
    // From the first part on: one that is missing has nothing below it.
    for part in way.collect::<Vec<_>>().into_iter().rev() {
        match rustix::fs::openat2(&base, part, flags, Mode::empty(), resolve) {
            Ok(_) => {}
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Is it there, and can nobody but root change the way to it?
fn is_roots_alone(path: &Path) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    real.ancestors().skip(1).all(|directory| {
        fs::metadata(directory).is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0)
    })
}

/// Pins what is at `path` on the host, for a job that names it in this property.
fn find(
    option: &'static str,
    path: &Path,
    task: &TaskSpec,
    policy: &Policy,
    pins: &mut Pins,
) -> Result<PathBuf, Error> {
    let failed = |source| Error::Find { option, path: path.to_owned(), source };
    let dirs = &task.dirs;
    if let Some((directory, below)) = in_own_directory(path, &dirs.local, task) {
        // What another task of the group may change while systemd or the kernel reads it.
        if directory == dirs.shared {
            return Err(Error::Shared { option, path: path.to_owned() });
        }
        let is_image = option.ends_with("Image") || option.ends_with("Images");
        if is_image && !policy.allows_images_of_tasks() {
            return Err(Error::OwnImage { option, path: path.to_owned() });
        }
        let base = Base::Task { alloc_dir: &dirs.alloc_dir, directory: &directory };
        return pins.pin(base, &below, |_| Ok(())).map_err(failed);
    }
    let (base, inside) = allowed(option, path, policy)?;
    // systemd makes mount points in the root of a task, and the kernel reads an image: nobody else may change them.
    let is_image = option.ends_with("Image") || option.ends_with("Images");
    let is_roots = option == "RootDirectory" || is_image && !policy.allows_images_of_tasks();
    pins.pin(base, inside, |object| if is_roots { check_root(object) } else { Ok(()) }).map_err(|source| {
        if source.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) {
            Error::LinkedAway { option, path: path.to_owned() }
        } else {
            failed(source)
        }
    })
}

/// Does it belong to root alone?
fn check_root(object: &OwnedFd) -> io::Result<()> {
    let found = rustix::fs::fstat(object)?;
    if found.st_uid == 0 && found.st_mode & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other(
        "as the root of a task, or an image, it must belong to root, and nobody else may write to it (such as mode 0755)",
    ))
}

/// The task's own directory in which a path lies, and where in it. A relative one is in `relative_to`.
fn in_own_directory(path: &Path, relative_to: &Path, task: &TaskSpec) -> Option<(PathBuf, PathBuf)> {
    if path.is_relative() {
        return Some((relative_to.to_owned(), path.to_owned()));
    }
    task.dirs.pairs().into_iter().find_map(|(host, target)| {
        let in_view = if task.view == View::Host { None } else { path.strip_prefix(target).ok() };
        let below = in_view.or_else(|| path.strip_prefix(host).ok())?;
        Some((host.to_owned(), below.to_owned()))
    })
}

/// The path of the operator's that allows this one, and where in it.
fn allowed<'a>(
    option: &'static str,
    path: &'a Path,
    policy: &'a Policy,
) -> Result<(Base<'a>, &'a Path), Error> {
    let allowed = policy.allowed_root(path).and_then(|root| Some((root, path.strip_prefix(root).ok()?)));
    match allowed {
        Some((root, inside)) => Ok((Base::Host(root), inside)),
        None => Err(Error::NotAllowed { option, path: path.to_owned() }),
    }
}

/// The most that systemd takes as the credentials of one unit, in bytes (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS_MAX: usize = 1 << 20;

/// What is in a file that shall be a credential, when so many bytes of others were read before. A relative path is in the
/// task's `secrets/`.
pub fn credential(path: &Path, before: usize, task: &TaskSpec, policy: &Policy) -> Result<Vec<u8>, Error> {
    let option = "credential";
    let failed = |source| Error::Find { option, path: path.to_owned(), source };
    let dirs = &task.dirs;
    let file = if let Some((directory, inside)) = in_own_directory(path, &dirs.secrets, task) {
        program::open_within(&dirs.alloc_dir, &directory, &inside)
    } else {
        let (base, inside) = allowed(option, path, policy)?;
        base.open(inside).and_then(|found| program::reopen_regular(&found))
    };
    let left = CREDENTIALS_MAX.saturating_sub(before);
    let mut content = Vec::new();
    file.and_then(|file| file.take(left as u64 + 1).read_to_end(&mut content)).map_err(failed)?;
    if content.len() > left {
        let with = if before == 0 { "" } else { ", together with the credentials before it" };
        return Err(failed(io::Error::other(format!(
            "it is larger than 1 MiB{with}, the most that systemd gives a task; put large files in `local/`"
        ))));
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
