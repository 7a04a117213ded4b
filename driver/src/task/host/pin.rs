//! Host objects that a unit gets, held where no task can change what their path refers to.
//!
//! systemd resolves a path as root, some time after it was checked; a task that can write to a directory on the way
//! puts a link there in between. So the driver opens the object once, below the directory that it may not leave, and
//! mounts it in a directory that only root can enter. systemd gets that path:
//!
//! ```text
//!  /srv/shared/data ── openat2 below /srv ──► the object ── open_tree, move_mount ──► <runtime directory>/pins/<pid>-<number>/0/data
//! ```
//!
//! A pin is needed until the unit has started: what systemd mounted from it stays in the unit's own namespace.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_change, move_mount, unmount,
};

use crate::kernel;
use crate::task::host::drivers;

/// Maximum number of pinned paths of one task: each is a mount of systemd's while the task starts.
const MOST: usize = 256;

/// The directory that an object must lie in.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// A host directory that the operator names, reached by any links.
    Host(&'a Path),
    /// A directory of a task, reached from its allocation directory without any link: its content is not the agent's.
    Task {
        /// The allocation directory.
        alloc_dir: &'a Path,
        /// The directory in it.
        directory: &'a Path,
    },
}

impl Base<'_> {
    fn path(&self) -> &Path {
        match self {
            Self::Host(path) => path,
            Self::Task { directory, .. } => directory,
        }
    }

    /// Opens `inside` below the base, without the right to read it. A link that leads out of the base is an error.
    pub fn open(self, inside: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let base = match self {
            Self::Host(root) => {
                rustix::fs::openat2(rustix::fs::CWD, root, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?
            }
            Self::Task { alloc_dir, directory } => {
                let flags = flags | OFlags::DIRECTORY;
                let alloc = rustix::fs::open(alloc_dir, flags, Mode::empty())?;
                let way = directory.strip_prefix(alloc_dir).unwrap_or(directory);
                if way.components().any(|part| !matches!(part, Component::Normal(_))) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                rustix::fs::openat2(alloc, way, flags, Mode::empty(), resolve)?
            }
        };
        if inside.as_os_str().is_empty() {
            return Ok(base);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(base, inside, flags, Mode::empty(), resolve)?)
    }
}

/// The pins of one start. Dropping it releases all of them.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    count: usize,
}

impl Pins {
    /// No pins yet, for one start. The path of a socket is limited, so that of the pins is short.
    pub fn new(runtime_dir: &Path) -> Self {
        // Counted from the time, as an earlier driver may have had the same process number.
        static NUMBERS: LazyLock<AtomicU64> = LazyLock::new(|| {
            let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
            AtomicU64::new(u64::try_from(now).unwrap_or_default())
        });
        let name = format!("{}-{}", std::process::id(), NUMBERS.fetch_add(1, Ordering::Relaxed));
        Self { directory: directory_of(runtime_dir).join(name), count: 0 }
    }

    /// Opens `inside` below the base, has it checked, and returns the path by which systemd finds it.
    ///
    /// A driver that is not root pins nothing: its tasks run as its own user, and have nothing to gain.
    pub fn pin(
        &mut self,
        base: Base<'_>,
        inside: &Path,
        check: impl Fn(&OwnedFd) -> io::Result<()> + Sync,
    ) -> io::Result<PathBuf> {
        let open = || {
            let object = base.open(inside)?;
            check(&object)?;
            Ok(object)
        };
        match base {
            Base::Host(_) => self.pin_cloned(|| kernel::in_mount_namespace_of_pid1(|| Tree::of(&open()?))),
            Base::Task { .. } => self.pin_opened(open),
        }
    }

    /// As [`Pins::pin`], for an object in a directory of the task, which `open` opens.
    pub fn pin_opened(&mut self, open: impl Fn() -> io::Result<OwnedFd> + Sync) -> io::Result<PathBuf> {
        self.pin_cloned(|| Tree::of_task(open))
    }

    /// The path by which systemd finds what the driver finds as `base`: the same, unless the agent has a mount of its own
    /// there. Such are the `secrets` of a task, and a group's network namespace, if its service has `PrivateMounts=`.
    pub fn seen_by_systemd(&mut self, base: Base<'_>) -> io::Result<PathBuf> {
        let path = base.path().to_owned();
        if kernel::is_in_mount_namespace_of_pid1() {
            return Ok(path);
        }
        let find = || base.open(Path::new(""));
        let ours = find()?;
        let theirs = kernel::in_mount_namespace_of_pid1(|| kernel::identity(&find()?));
        let is_same = theirs.is_ok_and(|theirs| kernel::identity(&ours).is_ok_and(|ours| ours == theirs));
        if is_same { Ok(path) } else { self.pin_cloned(|| Tree::of(&ours)) }
    }

    fn pin_cloned(&mut self, clone: impl FnOnce() -> io::Result<Tree>) -> io::Result<PathBuf> {
        if self.count >= MOST {
            return Err(io::Error::other(format!(
                "a task can have {MOST} paths of the host, and this is one more"
            )));
        }
        let tree = clone()?;
        let Some(mounts) = tree.mounts else { return Ok(tree.path) };
        let place = self.directory.join(self.count.to_string());
        let pinned = kernel::in_mount_namespace_of_pid1(|| {
            self.prepare()?;
            fs::create_dir(&place)?;
            let path = place.join(plain_name(tree.path.file_name()));
            attach(&mounts, tree.is_directory, &path)?;
            Ok(path)
        });
        self.count += 1;
        pinned
    }

    /// Creates a separate file system of terminals (devpts, pty(7)), and returns the path by which systemd finds it;
    /// `None` if the driver is not root.
    pub fn terminals(&mut self) -> io::Result<Option<PathBuf>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let place = self.directory.join(self.count.to_string());
        let made = kernel::in_mount_namespace_of_pid1(|| {
            self.prepare()?;
            fs::create_dir(&place)?;
            let terminals = place.join("pts");
            fs::create_dir(&terminals)?;
            // With the options that systemd uses for the host's; 5 is the group `tty` wherever that has a fixed GID.
            let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
            mount(c"devpts", &terminals, c"devpts", flags, c"newinstance,ptmxmode=0666,mode=0620,gid=5")?;
            Ok(terminals)
        });
        self.count += 1;
        made.map(Some)
    }

    /// Lays one directory over another, read-only, and returns the path by which systemd finds the combined directory.
    pub fn overlay(&mut self, above: &Path, below: &Path) -> io::Result<PathBuf> {
        let place = self.directory.join(self.count.to_string());
        let laid = kernel::in_mount_namespace_of_pid1(|| {
            // The overlay would not contain that mount, but what it hides.
            if let Some(inner) = mounts_below(below)? {
                return Err(io::Error::other(format!("{} is mounted in it", inner.display())));
            }
            let flags = rustix::fs::statvfs(below)?.f_flag & INHERITED;
            let flags =
                MountFlags::RDONLY | MountFlags::from_bits_truncate(u32::try_from(flags.bits()).unwrap_or(0));
            self.prepare()?;
            fs::create_dir(&place)?;
            let both = place.join("object");
            fs::create_dir(&both)?;
            // By their descriptors: in a path a colon, a comma or a backslash would have a special meaning.
            let flags_of_layers = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let layer = |path: &Path| rustix::fs::open(path, flags_of_layers, Mode::empty());
            let (above, below) = (layer(above)?, layer(below)?);
            let of = |layer: &OwnedFd| format!("/proc/self/fd/{}", layer.as_raw_fd());
            let options = CString::new(format!("lowerdir={}:{}", of(&above), of(&below)))?;
            mount(c"overlay", &both, c"overlay", flags, options.as_c_str())?;
            Ok(both)
        });
        self.count += 1;
        laid
    }

    /// Creates the directories. The directory of all pins is a file system of its own from which no mount propagates:
    /// otherwise every process of the host with a mount namespace would get each pin.
    fn prepare(&self) -> io::Result<()> {
        let all = self.directory.parent().unwrap_or(&self.directory);
        make_private(all)?;
        match fs::create_dir(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.count > 0 {
            let released = kernel::in_mount_namespace_of_pid1(|| release(&self.directory));
            if let Err(error) = released {
                tracing::warn!(path = %self.directory.display(), %error, "failed to release pinned host paths");
            }
        }
    }
}

/// Releases pins that killed drivers left.
pub(crate) fn sweep(runtime_dir: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let swept = kernel::in_mount_namespace_of_pid1(|| {
        for entry in fs::read_dir(directory_of(runtime_dir)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
            let is_ours = pid == std::process::id().to_string();
            if !is_ours && !drivers::is_alive(pid) {
                release(&entry.path())?;
            }
        }
        Ok(())
    });
    if let Err(error) = swept {
        tracing::warn!(%error, "failed to release the pinned host paths of an earlier driver");
    }
}

/// Flags of the host's mount that also apply to what is laid over it; they have the same bits as those of mount(2).
const INHERITED: StatVfsMountFlags =
    StatVfsMountFlags::NOSUID.union(StatVfsMountFlags::NODEV).union(StatVfsMountFlags::NOEXEC);

/// A mount point below the directory, if there is one.
fn mounts_below(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
    // The fifth field; spaces are escaped (proc_pid_mountinfo(5)), which does not matter for our prefix.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut below = points.filter(|point| point.starts_with(directory) && *point != directory);
    Ok(below.next().map(Path::to_owned))
}

fn directory_of(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("pins")
}

fn make_private(all: &Path) -> io::Result<()> {
    let parent = all.parent().unwrap_or(all);
    fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(all) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let is_mounted = || Ok::<_, io::Error>(fs::metadata(all)?.dev() != fs::metadata(parent)?.dev());
    if is_mounted()? {
        return Ok(());
    }
    // One driver at a time: a second mount would hide the pins on the first. Nobody else may hold the lock.
    let mut options = fs::OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600).open(parent.join("pins.lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if !is_mounted()? {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(c"tmpfs", all, c"tmpfs", flags, c"mode=0700")?;
        mount_change(all, MountPropagationFlags::PRIVATE)?;
    }
    Ok(())
}

/// An object, with all mounts below it.
struct Tree {
    path: PathBuf,
    is_directory: bool,
    /// A copy of the mounts, which are nowhere yet; `None` if the driver is not root.
    mounts: Option<OwnedFd>,
}

impl Tree {
    /// To be called in the mount namespace in which the object was opened.
    fn of(object: &OwnedFd) -> io::Result<Self> {
        let path = fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
        let is_directory = FileType::from_raw_mode(rustix::fs::fstat(object)?.st_mode) == FileType::Directory;
        let is_root = rustix::process::geteuid().is_root();
        let mounts = is_root.then(|| kernel::copy_mounts(object, is_directory)).transpose()?;
        Ok(Self { path, is_directory, mounts })
    }

    /// Of an object in a directory of a task. An agent may have mounts of its own there, which only the driver sees; without
    /// such, what systemd sees there has the flags that a task expects.
    fn of_task(open: impl Fn() -> io::Result<OwnedFd> + Sync) -> io::Result<Self> {
        let object = open()?;
        if kernel::is_in_mount_namespace_of_pid1() {
            return Self::of(&object);
        }
        let ours = kernel::identity(&object)?;
        let of_systemd = kernel::in_mount_namespace_of_pid1(|| {
            let object = open()?;
            if kernel::identity(&object)? == ours { Self::of(&object).map(Some) } else { Ok(None) }
        });
        of_systemd.ok().flatten().map_or_else(|| Self::of(&object), Ok)
    }
}

/// Mounts this at a path that does not exist yet.
fn attach(mounts: &OwnedFd, is_directory: bool, path: &Path) -> io::Result<()> {
    if is_directory {
        fs::create_dir(path)?;
    } else {
        fs::File::create_new(path)?;
    }
    move_mount(mounts, "", rustix::fs::CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    // Later mounts of the host still arrive, but releasing the pin does not unmount the host's own mounts.
    Ok(mount_change(path, MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

/// Unmounts what is in a directory of pins, and removes the mount points. Nothing is removed recursively: what is still
/// mounted is the host's, and a mount point cannot be removed.
fn release(directory: &Path) -> io::Result<()> {
    for place in fs::read_dir(directory).into_iter().flatten().flatten() {
        for pin in fs::read_dir(place.path())?.flatten() {
            let path = pin.path();
            // Nothing is mounted on a pin that was not finished.
            let _ = unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            if fs::symlink_metadata(&path)?.is_dir() {
                fs::remove_dir(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
        fs::remove_dir(place.path())?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The name of the object, which matters for extension images, unless it has characters that are special to systemd.
fn plain_name(name: Option<&OsStr>) -> &str {
    let is_plain = |name: &&str| {
        !name.starts_with('.')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
    };
    name.and_then(OsStr::to_str).filter(is_plain).unwrap_or("object")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_leads_out_of_a_base() {
        let directory = tempfile::tempdir().unwrap();
        let (allowed, outside) = (directory.path().join("allowed"), directory.path().join("outside"));
        fs::create_dir_all(allowed.join("inner")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink("inner", allowed.join("near")).unwrap();
        symlink(&outside, allowed.join("away")).unwrap();
        symlink("../outside", allowed.join("up")).unwrap();
        symlink("/proc/self/root", allowed.join("magic")).unwrap();
        let open = |inside: &str| Base::Host(&allowed).open(Path::new(inside));
        for inside in ["", "inner", "near"] {
            assert!(open(inside).is_ok(), "{inside}");
        }
        for inside in ["away", "up", "..", "../outside", "magic", "magic/etc", "missing"] {
            assert!(open(inside).is_err(), "{inside}");
        }
    }

    #[test]
    fn the_directory_of_a_task_is_reached_over_no_link() {
        let alloc = tempfile::tempdir().unwrap();
        let local = alloc.path().join("web/local");
        fs::create_dir_all(alloc.path().join("other/local")).unwrap();
        symlink("other", alloc.path().join("web")).unwrap();
        let base = Base::Task { alloc_dir: alloc.path(), directory: &local };
        assert!(base.open(Path::new("")).is_err());
    }

    #[test]
    fn only_a_name_that_means_nothing_to_systemd_is_kept() {
        let name = |name: &str| plain_name(Some(OsStr::new(name))).to_owned();
        assert_eq!(name("my-ext_1.0.raw"), "my-ext_1.0.raw");
        for odd in ["a b", "a:b", "a\"b", "a\\", ".hidden", "é", "%n", "$x"] {
            assert_eq!(name(odd), "object", "{odd}");
        }
    }
}
