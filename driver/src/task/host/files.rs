//! Finds the host files that a job names, and checks that the job may use them.
//!
//! Every path is opened below the directory that allows it, and pinned (`pin.rs`), so that systemd uses the object that
//! was checked.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use crate::systemd::{self, Assignment, PropertyDef, Role};
use crate::task::config::settings;
use crate::task::config::{Device, Mount};
use crate::task::host::dirs::TaskDirs;
use crate::task::host::look::{self, Seen, look};
use crate::task::host::open;
use crate::task::host::pin::{Base, Pins};
use crate::task::host::targets::{self, Source, Target};
use crate::task::host::view::View;
use crate::task::sandbox::policy::Policy;
use crate::task::spec::TaskSpec;
use crate::task::spec::activation::{Address, Listener};

/// Why a file is not available.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator does not allow the path.
    #[error(
        "{}: {path} is a path of the host, and neither it nor a directory above it is in `allow_host_paths`, by which the operator \
         of this node allows paths to jobs (in the plugin's configuration){}", settings::shown(.option),
         if *in_view { "; the task sees it there without this" } else { "" })]
    NotAllowed {
        /// The property.
        option: &'static str,
        /// Where the path leads to.
        path: PathBuf,
        /// All tasks see the path.
        in_view: bool,
    },
    /// The kernel would read an image that the job brought.
    #[error(
        "{}: {path} is the task's own; the operator of this node does not let jobs mount images and extensions that they bring \
         (`allow_host_paths = [\"local\"]` in the plugin's configuration)", settings::shown(.option))]
    OwnImage {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
    },
    /// systemd would create mount points, as root, where the task can put links meanwhile.
    #[error(
        "{}: {path} is the task's own, and a directory that the task can change cannot be its root; name a directory of \
         root's that the operator allows, or a disk image (`files.root_image`)",
        settings::shown("RootDirectory")
    )]
    OwnRoot {
        /// The path that the job names.
        path: PathBuf,
    },
    /// Others can change the files at the path.
    #[error(
        "{}: {path} is shared with the other tasks of the group; of `/alloc` bind `alloc/data`, `alloc/tmp` or what is below them, with \
         `bind_paths` or `bind_read_only_paths`, or name a file or directory of the task's own `local/` (the task reads \
         its logs in `/alloc/logs`)", settings::shown(.option))]
    Shared {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
    },
    /// Another task could put a file there that the task may not read.
    #[error(
        "credential: {path} is shared with the other tasks of the group, which could put another file there; have a `template` or an \
         `artifact` put the file into `secrets/`"
    )]
    SharedCredential {
        /// The path that the job names.
        path: PathBuf,
    },
    /// Nobody knows whose file it is.
    #[error(
        "credential: {path} can be read by its owner only, and in `local/` it may be somebody else's; have the `template` or the \
         `artifact` put it into `secrets/`, or let everybody read it (`perms = \"644\"`)"
    )]
    PrivateCredential {
        /// The path that the job names.
        path: PathBuf,
    },
    /// The path contains `..`.
    #[error("{}: {path} has `..` in it; name the path that it leads to, in the task's directory such as `alloc/data` or `local/x`", settings::shown(.option))]
    Parent {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
    },
    /// Nothing can be mounted at the target.
    #[error(transparent)]
    Target(#[from] targets::Error),
    /// The path does not exist, or cannot be reached.
    #[error("{}: {path} cannot be opened{}", settings::shown(.option), advice(option, path, source))]
    Find {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// systemd would look for an operating system in the root, which contains only mount points.
    #[error(
        "{}: there must be a `/usr` of the task's own to lay it over, and the task sees the host's: give it a root of \
         its own (`files.root_directory`, `files.root_image`), or have the operator set `fs_isolation = \"none\"`", settings::shown(.option))]
    NoBase {
        /// The property.
        option: &'static str,
    },
    /// The operator allows the path only to be read.
    #[error(
        "{}: the operator of this node allows jobs to read {path}, and no more: {instead}, \
         or have the operator leave out `:ro` (`allow_host_paths` in the plugin's configuration)", settings::shown(.option))]
    ReadOnly {
        /// The property.
        option: &'static str,
        /// What to do instead.
        instead: &'static str,
        /// The path that the job names.
        path: PathBuf,
    },
    /// A link in a path that the operator allows leads to a path that the operator does not allow.
    #[error(
        "{}: {path} leads, by a link or `..`, out of the paths that the operator of this node allows to jobs \
         (`allow_host_paths` in the plugin's configuration); name the path that it leads to", settings::shown(.option))]
    LinkedAway {
        /// The property.
        option: &'static str,
        /// The path that the job names.
        path: PathBuf,
    },
}

/// The longest path of a socket (unix(7), `sun_path`, with its zero byte).
const SOCKET_PATH: usize = 107;

/// Advice about a missing path of the task's own: systemd creates none.
fn advice(option: &str, path: &Path, source: &io::Error) -> &'static str {
    let is_bind = systemd::property(option).and_then(PropertyDef::role).is_some_and(Role::is_bind);
    let is_missing = source.kind() == io::ErrorKind::NotFound;
    let is_own = path.is_relative() || ["/local", "/secrets"].iter().any(|own| path.starts_with(own));
    if is_missing && is_bind && (path.starts_with("alloc") || path.starts_with("/alloc")) {
        "; it must be there before the task starts: a prestart task can make it in `/alloc/data` or `/alloc/tmp`, such as \
         `alloc/data/x`; what a `template` or an `artifact` makes elsewhere in `/alloc` is root's"
    } else if is_missing && is_own && is_bind {
        "; it must be there before the task starts: make it with a `template` or an `artifact`, or bind `alloc/data`, which \
         Nomad makes; a volume of the group, by its name, is a `volume_mount`"
    } else if is_missing && is_own && option == "credential" {
        "; a relative path is looked up in the task's `secrets/` (`local/x` in its `local/`), before the task starts: a `template` \
         or an `artifact` puts it there"
    } else if option == "credential" && source.kind() == io::ErrorKind::InvalidInput {
        "; it is not a regular file"
    } else if is_missing && path.is_absolute() && is_bind {
        "; create it on the node, since systemd makes no source of a bind, or write `-` before it if it may be missing"
    } else {
        ""
    }
}

/// The settings with every host path pinned.
pub fn resolve(
    settings: &[Assignment],
    task: &TaskSpec,
    policy: &Policy,
    pins: &mut Pins,
) -> Result<Vec<Assignment>, Error> {
    let mut resolved = Vec::with_capacity(settings.len());
    for line in settings {
        let extends = line.role().is_some_and(Role::is_extension) && !line.text().is_empty();
        if extends && matches!(task.view, View::Private { .. }) {
            return Err(Error::NoBase { option: line.name() });
        }
        let Some(role) = line.role() else {
            resolved.push(line.clone());
            continue;
        };
        let pinned = line.clone().with_host_paths(|path, may_be_missing| {
            match find((line.name(), role), Path::new(path), task, policy, pins) {
                // Only for a path that the job may name: systemd would look again, and by then it may exist.
                Err(Error::Find { source, .. })
                    if may_be_missing && source.kind() == io::ErrorKind::NotFound =>
                {
                    Ok(None)
                }
                found => found.map(Some),
            }
        })?;
        resolved.extend(pinned);
    }
    Ok(resolved)
}

/// The volumes and the mounts of device plugins, with every source pinned.
pub fn mounts(task: &TaskSpec, pins: &mut Pins) -> Result<Vec<Mount>, Error> {
    let pin = |mount: &Mount| {
        let failed = |source| Error::Find { option: "volume", path: mount.source.clone(), source };
        let source = pins.pin(Base::Host(&mount.source), Path::new(""), |_| Ok(())).map_err(failed)?;
        Ok(Mount { source, ..mount.clone() })
    };
    task.mounts.iter().map(pin).collect()
}

/// Everything that these settings and the task's volumes mount for the task, beyond what every task has.
pub fn targets(settings: &[Assignment], task: &TaskSpec) -> Vec<Target> {
    let of_setting = |line: &Assignment| {
        let option = line.name();
        let target = move |(source, path): (Option<String>, String)| {
            let is_own =
                |source: &String| in_own_directory(Path::new(source), &task.dirs.local, task).is_some();
            let source = match source {
                _ if option == "TemporaryFileSystem" => Source::Empty,
                Some(source) if is_own(&source) => Source::Tasks,
                Some(source) if source == path => Source::InPlace,
                _ => Source::Host,
            };
            Target { option, path: path.into(), source }
        };
        line.mount_points().into_iter().map(target)
    };
    let volume = |mount: &Mount| Target {
        option: "volume_mount.destination",
        path: mount.target.clone(),
        source: Source::Tasks,
    };
    let device =
        |device: &Device| Target { option: "device", path: device.target.clone(), source: Source::Host };
    let of_nomad = task.mounts.iter().map(volume).chain(task.devices.iter().map(device));
    settings.iter().flat_map(of_setting).chain(of_nomad).collect()
}

/// Can a job change the files that this line names: in the task's directories, or in an image that nobody vouches for?
pub(crate) fn is_of_job(line: &Assignment, task: &TaskSpec, policy: &Policy) -> bool {
    let is_own = |path: &PathBuf| in_own_directory(path, &task.dirs.local, task).is_some();
    line.role().is_some_and(Role::brings_files) && policy.allows_images_of_tasks()
        || line.host_paths().iter().any(is_own)
}

/// Pins the object at `path` on the host, for a job that names it in this property.
fn find(
    (option, role): (&'static str, Role),
    path: &Path,
    task: &TaskSpec,
    policy: &Policy,
    pins: &mut Pins,
) -> Result<PathBuf, Error> {
    let failed = |source| Error::Find { option, path: path.to_owned(), source };
    let dirs = &task.dirs;
    check_no_parent(option, path)?;
    if let Some((directory, below)) = in_own_directory(path, &dirs.local, task) {
        if role == Role::RootDirectory {
            return Err(Error::OwnRoot { path: path.to_owned() });
        }
        if directory == dirs.shared {
            return shared((option, role), path, &below, task, pins);
        }
        if role.brings_files() && !policy.allows_images_of_tasks() {
            return Err(Error::OwnImage { option, path: path.to_owned() });
        }
        let base = Base::Task { alloc_dir: &dirs.alloc_dir, directory: &directory };
        return pins.pin(base, &below, |_| Ok(())).map_err(failed);
    }
    let (base, inside) = allowed((option, role), path, &task.view, policy)?;
    // systemd creates mount points in the root of a task, and the kernel reads an image: nobody else may change them.
    let is_roots = role == Role::RootDirectory || role.brings_files() && !policy.allows_images_of_tasks();
    pins.pin(base, inside, |object| if is_roots { check_root(object) } else { Ok(()) }).map_err(|source| {
        if source.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) {
            Error::LinkedAway { option, path: path.to_owned() }
        } else {
            failed(source)
        }
    })
}

/// Pins an object in the group's shared directory, to be mounted at another path. In any other use systemd or the
/// kernel would read files that another task may change meanwhile.
fn shared(
    (option, role): (&'static str, Role),
    path: &Path,
    below: &Path,
    task: &TaskSpec,
    pins: &mut Pins,
) -> Result<PathBuf, Error> {
    let mut parts = below.components();
    // Under another path the log FIFOs, which root opens, could be replaced.
    let first = parts.next().filter(|first| first.as_os_str() != "logs" && role.is_bind());
    let Some(first) = first else { return Err(Error::Shared { option, path: path.to_owned() }) };
    let directory = task.dirs.shared.join(first);
    let failed = |source| Error::Find { option, path: path.to_owned(), source };
    // No link leads from there to the logs, nor to what another task has closed.
    let base = Base::Task { alloc_dir: &task.dirs.alloc_dir, directory: &directory };
    let open = || match look(base, parts.as_path())? {
        Seen::There(object) => Ok(object),
        Seen::Missing => Err(io::ErrorKind::NotFound.into()),
        Seen::Hidden => Err(io::Error::other(
            "another user has closed a directory on the way; open it to everybody (such as mode 0755)",
        )),
    };
    pins.pin_opened(open).map_err(failed)
}

/// Does the object belong to root alone?
fn check_root(object: &OwnedFd) -> io::Result<()> {
    let found = rustix::fs::fstat(object)?;
    if found.st_uid == 0 && found.st_mode & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other(
        "as the root of a task, or an image, it must belong to root, and nobody else may write to it (such as mode 0755)",
    ))
}

/// Does the path lead down only? By `..` it could leave the directory that its first components name.
fn check_no_parent(option: &'static str, path: &Path) -> Result<(), Error> {
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::Parent { option, path: path.to_owned() });
    }
    Ok(())
}

/// The task's own directory that contains a path, and the path in it. A relative path is in `relative_to`.
fn in_own_directory(path: &Path, relative_to: &Path, task: &TaskSpec) -> Option<(PathBuf, PathBuf)> {
    if path.is_relative() {
        let of_task = task.dirs.named(path).and_then(|(host, _, below)| {
            let base = Base::Task { alloc_dir: &task.dirs.alloc_dir, directory: relative_to };
            let is_in_usual = base.open(Path::new(path.components().next()?.as_os_str())).is_ok();
            (!is_in_usual).then(|| (host.to_owned(), below.to_owned()))
        });
        return Some(of_task.unwrap_or_else(|| (relative_to.to_owned(), path.to_owned())));
    }
    task.dirs.pairs().into_iter().find_map(|(host, target)| {
        let in_view = if task.view == View::Host { None } else { path.strip_prefix(target).ok() };
        let below = in_view.or_else(|| path.strip_prefix(host).ok())?;
        Some((host.to_owned(), below.to_owned()))
    })
}

/// What a job can do about a path that it may only read, as the continuation of a sentence.
fn instead_of(role: Role) -> &'static str {
    match role {
        Role::Bind => "bind it with `files.bind_read_only_paths`",
        Role::OpenFile => "bind it with `files.bind_read_only_paths` and open it in the task",
        _ => "name another path",
    }
}

/// The operator's path that allows this path, and the rest of the path.
fn allowed<'a>(
    (option, role): (&'static str, Role),
    path: &'a Path,
    view: &View,
    policy: &'a Policy,
) -> Result<(Base<'a>, &'a Path), Error> {
    let in_view = role != Role::Credential
        && matches!(view, View::Private { host_paths }
            if path == Path::new("/dev/log") || host_paths.iter().any(|seen| path.starts_with(seen)));
    let refused = || Error::NotAllowed { option, path: path.to_owned(), in_view };
    let root = policy.allowed_root(path).ok_or_else(refused)?;
    if root.read_only && !role.only_reads() {
        return Err(Error::ReadOnly { option, instead: instead_of(role), path: path.to_owned() });
    }
    let inside = path.strip_prefix(&root.path).map_err(|_| refused())?;
    Ok((Base::Host(&root.path), inside))
}

/// systemd's limit for the credentials of one unit, in bytes (systemd.exec(5), `LoadCredential=`).
const CREDENTIALS_MAX: usize = 1 << 20;

/// The content of a file for a credential, after `before` bytes of other credentials were read. A relative path is in
/// the task's `secrets/`.
pub fn credential(path: &Path, before: usize, task: &TaskSpec, policy: &Policy) -> Result<Vec<u8>, Error> {
    let option = "credential";
    let failed = |source| Error::Find { option, path: path.to_owned(), source };
    let dirs = &task.dirs;
    check_no_parent(option, path)?;
    let file = if let Some((directory, inside)) = in_own_directory(path, &dirs.secrets, task) {
        if directory == dirs.shared {
            return Err(Error::SharedCredential { path: path.to_owned() });
        }
        let file = open::open_within(&dirs.alloc_dir, &directory, &inside);
        if directory != dirs.secrets && file.as_ref().is_ok_and(|file| !is_of_everybody_or(file, task.uid)) {
            return Err(Error::PrivateCredential { path: path.to_owned() });
        }
        file
    } else {
        let (base, inside) = allowed((option, Role::Credential), path, &task.view, policy)?;
        base.open(inside).and_then(|found| open::reopen_regular(&found))
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

/// May everybody read the file, or is it the task's own? Others could have put a private file of theirs, or of a third
/// one's, into `local`, before the task started for the first time.
fn is_of_everybody_or(file: &File, uid: Option<u32>) -> bool {
    let is_own = || rustix::fs::fstat(file).is_ok_and(|found| Some(found.st_uid) == uid);
    look::is_readable(file).unwrap_or(false) || is_own()
}

/// A socket with its path on the host. The path must be directly in one of the task's directories: systemd follows it
/// as root, and the task could put a link in the place of a directory in there.
pub fn listener(socket: &Listener, task: &TaskSpec, seen: &TaskDirs) -> Result<Listener, Error> {
    let Address::Path(path) = &socket.at else { return Ok(socket.clone()) };
    let option = "socket.path";
    let failed = |source| Error::Find { option, path: path.clone(), source };
    let outside = || {
        failed(io::Error::other("it is not directly in `/alloc`, `/local` or `/secrets` of a private view"))
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Err(outside()) };
    let by_systemd = seen.pairs().map(|(host, _)| host);
    let mut own = task.dirs.pairs().into_iter().zip(by_systemd);
    let own = own.find(|((_, target), _)| directory == Path::new(target));
    let ((host, _), by_systemd) = own.filter(|_| task.view != View::Host).ok_or_else(outside)?;
    let length = by_systemd.join(name).as_os_str().len();
    if length > SOCKET_PATH {
        let reason = format!(
            "on this node it is {length} characters long, with the directory of the allocation and the task's name, and the path of a \
             socket has {SOCKET_PATH} at most; choose a shorter name"
        );
        return Err(failed(io::Error::other(reason)));
    }
    // Left by an earlier run. A link there is removed, and not followed.
    open::remove_within(&task.dirs.alloc_dir, host, Path::new(name)).map_err(failed)?;
    Ok(Listener { at: Address::Path(by_systemd.join(name)), ..socket.clone() })
}
