//! The host files that a task sees.
//!
//! Under [`View::Private`] all tasks share one empty root that contains nothing but mount points; systemd mounts the
//! operating system on it read-only, and the task's own three directories, in a mount namespace of the task's own:
//!
//! ```text
//!  <runtime directory>/root            usr etc bin … ◄── the host's, read-only
//!                                      alloc local secrets ◄── this allocation's
//!                                      tmp var/tmp ◄── new and empty      proc sys dev run ◄── the kernel's
//! ```
//!
//! Nothing is copied, and nothing is created on the host outside of that one directory. Measurements of other ways to
//! build the view are in tests/harness/bench/README.md. A task with more mounts (volumes, say) gets such a root of its
//! own, since systemd creates the mount points in it; so does a task with files of its own in `/etc` or with
//! credentials.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::dirs::TaskDirs;
use super::root_only;
use crate::systemd::{Assignment, Bind, Manager, Property, check_text};

/// Directory of files that need not outlive a boot; a driver that is not root has it in its user's runtime directory.
pub fn runtime_dir(manager: Manager) -> PathBuf {
    let uid = rustix::process::getuid();
    if manager == Manager::System && uid.is_root() {
        return "/run/nomad-driver-systemd".into();
    }
    // The usual `$XDG_RUNTIME_DIR`, which is not set for an agent that was not started from a session.
    format!("/run/user/{}/nomad-driver-systemd", uid.as_raw()).into()
}

/// The shared empty root.
pub fn shared_root(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("root")
}

/// Path of the WebAssembly runner in the view.
pub const SHIM: &str = "/.wasm/shim";
/// Where a program's init receives the messages of the program to systemd: a file system of the task's own, so that
/// nobody else can send there.
pub const NOTIFY: &str = "/.wasm/notify";
/// Path of the compiled guest in the view.
pub const GUEST: &str = "/.wasm/guest.cwasm";

/// Directories of the root that do not come from the host.
const OWN_DIRS: &[&str] = &[
    "alloc",
    "local",
    "secrets",
    "tmp",
    "var/tmp",
    "proc",
    "sys",
    "dev",
    "run/systemd",
    "root",
    ".wasm",
    ".wasm/notify",
];
/// Files of the root on which files are mounted.
const OWN_FILES: &[&str] = &[".wasm/shim", ".wasm/guest.cwasm", "run/systemd/notify"];
/// Where the driver and systemd mount something, so that nothing a task can write to may be mounted above.
pub const MOUNTED: &[&str] = &[
    SHIM,
    GUEST,
    "/alloc",
    "/alloc/data",
    "/alloc/logs",
    "/alloc/tmp",
    "/local",
    "/secrets",
    "/dev/shm",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc/sys",
    "/run/.wasm",
    "/run/credentials",
    "/run/host",
    "/run/netconfig",
    "/run/resolvconf",
    "/run/systemd/journal",
    "/run/systemd/notify",
    "/run/systemd/resolve",
    "/sys/fs/cgroup",
    "/tmp",
    "/var/tmp",
];
/// What a task sees of the host's /run: the sockets of the journal, by which systemd also reports why it could not set
/// up a process inside the view.
const JOURNAL: &str = "/run/systemd/journal";
/// Where /etc/resolv.conf may lead to, by systemd-resolved with its sockets, resolvconf(8) and netconfig(8). A task without
/// the host's network does not see them: it could look up names all the same.
const RESOLVERS: [&str; 3] = ["/run/systemd/resolve", "/run/resolvconf", "/run/netconfig"];
/// The agent's configuration, where Nomad's packages put it: it may contain tokens. And the journal socket for streams:
/// journald has systemd keep a descriptor for each stream, and systemd keeps 4096 for the whole host. A task's own
/// output is opened before the view is set up.
const HIDDEN: &[&str] = &[
    "-+/etc/nomad.d",
    "-+/run/systemd/journal/stdout",
    // Since systemd 262 everybody could use it to have all of the journal written to the disk, again and again.
    "-+/run/systemd/journal/io.systemd.journal",
];
/// What `ProtectHome=` hides (systemd.exec(5)).
pub const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// Named shared memory (shm_overview(7)): the host's would be shared with everybody.
pub const SHARED_MEMORY: (&str, &str) = ("/dev/shm", "mode=1777,nosuid,nodev");

/// How a task sees the host's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// The task's own three directories and these host paths, read-only.
    Private {
        /// Absolute paths, in the order in which they are mounted.
        host_paths: Vec<PathBuf>,
    },
    /// The host as it is.
    Host,
    /// The task's own three directories in a root that the job names: a directory or an image.
    Own,
}

impl View {
    /// The task's working directory.
    pub fn working_directory(&self, dirs: &TaskDirs) -> PathBuf {
        match self {
            Self::Private { .. } | Self::Own => "/local".into(),
            Self::Host => dirs.local.clone(),
        }
    }

    /// Where `path`, as the task names it, lies on the host: the directory of the task that it must not leave, or
    /// `None` for the host's own, and the path. `Err` if the task cannot see it.
    pub fn locate<'a>(
        &self,
        path: &'a Path,
        dirs: &'a TaskDirs,
    ) -> Result<(Option<&'a Path>, PathBuf), NotInView> {
        if let Ok(inside) = path.strip_prefix(&dirs.alloc_dir).and_then(|_| path.strip_prefix(&dirs.local)) {
            return Ok((Some(&dirs.local), inside.to_owned()));
        }
        if *self == Self::Host {
            return Ok((None, path.to_owned()));
        }
        for (host, target) in dirs.pairs() {
            if let Ok(inside) = path.strip_prefix(target) {
                return Ok((Some(host), inside.to_owned()));
            }
        }
        match self {
            Self::Private { host_paths } if host_paths.iter().any(|visible| path.starts_with(visible)) => {
                Ok((None, path.to_owned()))
            }
            _ => Err(NotInView),
        }
    }

    /// Does the view contain neither homes of users nor their runtime directories?
    pub fn has_no_home(&self) -> bool {
        match self {
            Self::Private { host_paths } => !host_paths.iter().any(|path| {
                HOMES.iter().any(|home| path.starts_with(home) || Path::new(home).starts_with(path))
            }),
            Self::Own => true,
            Self::Host => false,
        }
    }

    /// systemd properties of the view, applied before those of the preset and the job.
    pub fn assignments(&self) -> Vec<Assignment> {
        let lines: &[(&str, &str)] = match self {
            Self::Private { .. } | Self::Own => &[
                ("MountAPIVFS", "yes"),
                // The root is shared: not even a task that runs as root may write to it.
                ("ProtectSystem", "strict"),
                ("PrivateTmp", "yes"),
                // Hides processes of other users, and what can be seen through them.
                ("ProtectProc", "invisible"),
                // System V objects and message queues, whose total number the kernel limits.
                ("PrivateIPC", "yes"),
                // Applies to every device node, created by `mknod` or in a `/dev` that is the host's.
                ("DevicePolicy", "closed"),
            ],
            Self::Host => &[],
        };
        lines.iter().filter_map(|(name, text)| Assignment::parse(name, text).ok()).collect()
    }

    /// The properties that give a unit this view of the host.
    pub fn properties(&self, dirs: &TaskDirs, made: &Made<'_>, sight: Sight) -> Vec<Property> {
        let seen = made.dirs;
        let writable = |alloc: &Path| -> Vec<Bind> {
            let names = made.writable.unwrap_or_default().iter();
            names.map(|name| bind(&seen.shared.join(name), &alloc.join(name))).collect()
        };
        let mut properties = match self {
            Self::Private { host_paths } => self::root(made.root, host_paths, made.overlays, sight),
            // The root may be the host's own.
            Self::Own => vec![Property::InaccessiblePaths(HIDDEN.iter().map(PathBuf::from).collect())],
            Self::Host => {
                let mut properties = Vec::from_iter(shared_memory(sight));
                if let (Some(_), Some(allocs)) = (made.writable, dirs.alloc_dir.parent()) {
                    // This includes other allocations.
                    properties.push(Property::ReadOnlyPaths(vec![allocs.to_owned()]));
                    let own = seen.own().into_iter().zip(dirs.own());
                    let own = own.map(|((seen, _), (host, _))| bind(seen, host));
                    let binds = own.chain(writable(&dirs.shared));
                    properties.push(Property::BindPaths(binds.collect()));
                }
                return properties;
            }
        };
        let alloc = bind(&seen.shared, Path::new("/alloc"));
        let mut binds: Vec<Bind> =
            seen.own().map(|(host, target)| bind(host, Path::new(target))).into_iter().collect();
        if made.writable.is_some() {
            properties.push(Property::BindReadOnlyPaths(vec![alloc]));
        } else {
            binds.push(alloc);
            // A task that could replace the FIFO of a later start would choose what a root process opens. The path is
            // the one in the view.
            properties.push(Property::ReadOnlyPaths(vec!["-+/alloc/logs".into()]));
        }
        binds.extend(writable(Path::new("/alloc")));
        properties.push(Property::BindPaths(binds));
        properties.extend(shared_memory(sight));
        properties
    }
}

fn shared_memory(sight: Sight) -> Option<Property> {
    let (path, options) = SHARED_MEMORY;
    (!sight.has_shared_memory).then(|| Property::TemporaryFileSystem(vec![(path.into(), options)]))
}

/// Does the path exist in the private view of a task, apart from the host paths, only if something is mounted in it?
pub(crate) fn is_made_for_mounts(path: &Path) -> bool {
    !OWN_DIRS.iter().any(|own| {
        let own = Path::new("/").join(own);
        path.starts_with(&own) || own.starts_with(path)
    })
}

/// What was created on the host for the view of one task.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// Root on which the view is mounted ([`prepare`]).
    pub root: &'a Path,
    /// The task's directories, by paths that systemd finds.
    pub dirs: &'a TaskDirs,
    /// Directories in `/alloc` that the task may write to; `None` for all of it.
    pub writable: Option<&'a [&'static str]>,
    /// What the task sees in place of host paths.
    pub overlays: &'a Overlays,
}

/// What a task sees less, or more, than other tasks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sight {
    /// The task is root, or may get directories from a task that is not root: it does not see the files of the
    /// operating system that only root may read.
    pub of_root: bool,
    /// The task's network is the host's, or leads there: the task sees the resolver.
    pub of_resolver: bool,
    /// The job configures what is mounted at `/dev/shm`, such as a tmpfs of another size.
    pub has_shared_memory: bool,
}

/// The path is not in the task's view.
#[derive(Debug, PartialEq, Eq)]
pub struct NotInView;

/// What a task sees in place of host paths, see `targets`.
pub type Overlays = BTreeMap<PathBuf, PathBuf>;

/// Properties of a unit with this root, and `host_paths` on it.
pub fn root(root: &Path, host_paths: &[PathBuf], overlays: &Overlays, sight: Sight) -> Vec<Property> {
    let source = |path: &PathBuf| overlays.get(path).unwrap_or(path).clone();
    let mut system: Vec<Bind> = host_paths
        .iter()
        .filter(|path| !is_symlink(path) && !is_missing_directory(path))
        .map(|path| Bind { optional: true, ..bind(&source(path), path) })
        .collect();
    // A node has one of them.
    let resolvers = RESOLVERS.into_iter().filter(|path| sight.of_resolver && Path::new(path).is_dir());
    let runtime = std::iter::once(JOURNAL).chain(resolvers);
    system.extend(runtime.map(|path| Bind { optional: true, ..bind(path.as_ref(), path.as_ref()) }));
    let mut hidden: Vec<PathBuf> = HIDDEN.iter().map(PathBuf::from).collect();
    if sight.of_root {
        let of_root = root_only::of(host_paths).into_iter().filter(|path| is_plain(path));
        hidden.extend(of_root.map(|path| PathBuf::from(format!("-+{}", path.display()))));
    }
    vec![
        Property::RootDirectory(root.to_owned()),
        Property::BindReadOnlyPaths(system),
        Property::InaccessiblePaths(hidden),
    ]
}

/// Creates such a root, or completes it. Every process of the driver may do so at any time.
pub fn prepare(root: &Path, host_paths: &[PathBuf]) -> io::Result<()> {
    let parent = root.parent().unwrap_or(root);
    directory(parent)?;
    // Where a task that sees the host has a file system for it.
    directory(&parent.join("notify"))?;
    directory(root)?;
    for name in OWN_DIRS {
        directory(&root.join(name))?;
    }
    for name in OWN_FILES {
        fs::OpenOptions::new().create(true).append(true).open(root.join(name))?;
    }
    for path in host_paths {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            continue;
        };
        let inside = root.join(path.strip_prefix("/").unwrap_or(path));
        if metadata.is_symlink() {
            // As on the host, where /bin leads to usr/bin.
            match symlink(fs::read_link(path)?, &inside) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        } else if metadata.is_dir() {
            directory(&inside)?;
        } else {
            if let Some(parent) = inside.parent() {
                directory(parent)?;
            }
            fs::OpenOptions::new().create(true).append(true).open(&inside)?;
        }
    }
    Ok(())
}

/// What [`is_plain`] requires.
pub const PLAIN_PATH: &str = "an absolute path without `..`, without control characters, and with neither a backslash nor a space at its end";

/// Is this a valid path for `host_paths`: absolute, and without `..`?
pub fn is_plain(path: &Path) -> bool {
    let text = path.to_string_lossy();
    path.is_absolute()
        && check_text(&text).is_ok()
        // A parser of unit files removes it.
        && !text.ends_with(char::is_whitespace)
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Creates a directory that everybody may enter, whatever the umask.
fn directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    let wanted = fs::Permissions::from_mode(0o755);
    if fs::metadata(path)?.permissions().mode() & 0o7777 != wanted.mode() {
        fs::set_permissions(path, wanted)?;
    }
    Ok(())
}

/// Is it a top-level directory that this system does not have, such as /lib32? systemd reads all mounts twice for each bind,
/// also for one whose source is missing. A path further down may be missing in the driver's own mount namespace only.
fn is_missing_directory(path: &Path) -> bool {
    path.parent() == Some(Path::new("/")) && !path.try_exists().unwrap_or(true)
}

fn is_symlink(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

fn bind(source: &Path, target: &Path) -> Bind {
    Bind { recursive: true, ..Bind::new(source, target) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs() -> TaskDirs {
        TaskDirs::new(Path::new("/data/alloc/ab12"), "web")
    }

    #[test]
    fn a_path_of_the_task_is_found_in_its_directory() {
        let view = View::Private { host_paths: vec!["/usr".into()] };
        let dirs = dirs();
        let local = Path::new("/data/alloc/ab12/web/local");
        assert_eq!(view.locate(Path::new("/local/bin/x"), &dirs), Ok((Some(local), "bin/x".into())));
        assert_eq!(view.locate(Path::new("/usr/bin/env"), &dirs), Ok((None, "/usr/bin/env".into())));
        assert_eq!(view.locate(Path::new("/home/me/x"), &dirs), Err(NotInView));
        assert_eq!(View::Host.locate(Path::new("/home/me/x"), &dirs), Ok((None, "/home/me/x".into())));
        assert_eq!(View::Host.locate(&local.join("x"), &dirs), Ok((Some(local), "x".into())));
    }

    #[test]
    fn a_top_level_directory_that_the_system_lacks_is_no_bind() {
        let paths = ["/usr", "/no-such-directory", "/usr/no-such-directory"].map(PathBuf::from);
        let properties = root(Path::new("/r"), &paths, &Overlays::new(), Sight::default());
        let bound = properties.iter().find_map(|property| match property {
            Property::BindReadOnlyPaths(binds) => Some(binds),
            _ => None,
        });
        let journal = Bind { optional: true, ..bind(JOURNAL.as_ref(), JOURNAL.as_ref()) };
        let expected = [&paths[0], &paths[2]].map(|path| Bind { optional: true, ..bind(path, path) });
        assert_eq!(*bound.unwrap(), [&expected[..], &[journal]].concat());
    }

    #[test]
    fn host_paths_are_absolute_and_lead_nowhere_else() {
        assert!(is_plain(Path::new("/opt/java")));
        for path in ["opt", "/opt/../root", ""] {
            assert!(!is_plain(Path::new(path)), "{path}");
        }
    }
}
