//! The directory of one allocation, laid out as Nomad lays it out, and the pipes that carry a task's output.
//!
//! ```text
//! <allocation>/            0755        the `alloc_dir` that the plugin gets
//!   alloc/                 0777 nobody shared by the group: data/ logs/ tmp/
//!     logs/.web.stdout.fifo  0600      one pair of pipes per task
//!   web/                   0777 nobody one directory per task
//!     local/ secrets/ private/   0777 nobody
//!     tmp/                 1777 nobody
//! ```
//!
//! Facts from Nomad v2.0.5, client/allocdir/ and client/lib/fifo/. One difference: `secrets` and `private` are plain
//! directories here and not small file systems in memory, which only root can mount. They are removed with the
//! allocation. An unprivileged user owns everything, and so do the tasks, which run as the same user.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// The owner that Nomad gives these directories (fs_unix.go looks up `nobody`; the number is the kernel's own).
const NOBODY: u32 = 65_534;

/// Why an allocation directory or its pipes are not available.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory could not be created.
    #[error(
        "make the directory {path}; remove what is there in its place, or choose another place with `--alloc-dir`"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A pipe could not be created or opened.
    #[error("make the log pipe {path}")]
    Pipe {
        /// The pipe.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A task's output could not be read.
    #[error("read the log pipe {path}")]
    Read {
        /// The pipe.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The task has ended and another process still holds its output open.
    #[error(
        "the log pipe {path} is still open {deadline:?} after the end of the task; its output so far: {output}"
    )]
    StillOpen {
        /// The pipe.
        path: PathBuf,
        /// How long we waited.
        deadline: Duration,
        /// The output read so far.
        output: String,
    },
    /// The directory was not removed: something is mounted in it, and the removal would delete the mounted files.
    #[error("{mount} is mounted inside {path}; unmount it and remove the directory")]
    Mounted {
        /// The allocation's directory.
        path: PathBuf,
        /// The mount point.
        mount: PathBuf,
    },
}

/// An allocation's directory; removed when dropped unless [`keep`](Self::keep) was called.
#[derive(Debug)]
pub struct AllocDir {
    path: PathBuf,
    removed_on_drop: bool,
}

impl AllocDir {
    /// Creates `<base>/<alloc_id>` with its shared directories. Creates `base` if missing, with mode 0711: every user
    /// may traverse it, and no other user may list it.
    pub fn create(base: &Path, alloc_id: &str) -> Result<Self, Error> {
        if !base.exists() {
            fs::create_dir_all(base)
                .and_then(|()| fs::set_permissions(base, Permissions::from_mode(0o711)))
                .map_err(|source| Error::Directory { path: base.to_owned(), source })?;
        }
        let path = base.join(alloc_id);
        make(&path, 0o755)?;
        let alloc = Self { path, removed_on_drop: true };
        for name in ["alloc", "alloc/logs", "alloc/tmp", "alloc/data"] {
            make_for_all(&alloc.path.join(name), 0o777)?;
        }
        Ok(alloc)
    }

    /// The directory that somebody else has created and will remove: for a further task of the same allocation.
    pub fn existing(path: &Path) -> Self {
        Self { path: path.to_owned(), removed_on_drop: false }
    }

    /// The path, such as `/var/lib/nomad-driver-systemd/run-x/d2c1…`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the directory to all other users: the tasks have their directories mounted elsewhere.
    pub fn close(&self) -> Result<(), Error> {
        fs::set_permissions(&self.path, Permissions::from_mode(0o700))
            .map_err(|source| Error::Directory { path: self.path.clone(), source })
    }

    /// Creates the directories of one task.
    pub fn task(&self, name: &str) -> Result<TaskDir, Error> {
        let dir = TaskDir::below(&self.path, name);
        for path in [&dir.path, &dir.local, &dir.secrets, &dir.path.join("private")] {
            make_for_all(path, 0o777)?;
        }
        make_for_all(&dir.path.join("tmp"), 0o1777)?;
        Ok(dir)
    }

    /// Creates the pipes of one task's output and opens them for reading.
    pub fn logs(&self, task: &str) -> Result<Logs, Error> {
        let logs = self.path.join("alloc/logs");
        Ok(Logs {
            stdout: Log::create(logs.join(format!(".{task}.stdout.fifo")))?,
            stderr: Log::create(logs.join(format!(".{task}.stderr.fifo")))?,
        })
    }

    /// Keeps the directory when this value is dropped.
    pub fn keep(&mut self) {
        self.removed_on_drop = false;
    }

    /// Removes the directory now, and returns why it cannot be removed.
    pub fn remove(mut self) -> Result<(), Error> {
        self.removed_on_drop = false;
        remove(&self.path)
    }
}

impl Drop for AllocDir {
    fn drop(&mut self) {
        if self.removed_on_drop
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(error = %error, path = %self.path.display(), "allocation directory left behind");
        }
    }
}

/// Removes a tree. Symbolic links are removed and not followed. With a mount inside, nothing is removed, since the
/// removal would delete the mounted files.
fn remove(path: &Path) -> Result<(), Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is the mount point; spaces in it are written as \040.
    let mut points =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|text| text.replace("\\040", " "));
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(mount) = points.find(|point| Path::new(point).starts_with(&real)) {
        return Err(Error::Mounted { path: path.to_owned(), mount: PathBuf::from(mount) });
    }
    fs::remove_dir_all(path).map_err(|source| Error::Directory { path: path.to_owned(), source })
}

/// The directories of one task, as paths on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDir {
    /// The task's own directory.
    pub path: PathBuf,
    /// The task's `local`.
    pub local: PathBuf,
    /// The task's `secrets`.
    pub secrets: PathBuf,
    /// The allocation's shared directory, `alloc`.
    pub shared: PathBuf,
}

impl TaskDir {
    /// The paths; creates nothing.
    pub fn below(alloc: &Path, name: &str) -> Self {
        let path = alloc.join(name);
        Self { local: path.join("local"), secrets: path.join("secrets"), shared: alloc.join("alloc"), path }
    }
}

fn make(path: &Path, mode: u32) -> Result<(), Error> {
    // The mode is set separately, because the umask restricts the mode given at creation.
    fs::create_dir(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(|source| Error::Directory { path: path.to_owned(), source })
}

/// Creates a directory that every task may use: owned by nobody if we are root, else by us.
fn make_for_all(path: &Path, mode: u32) -> Result<(), Error> {
    // A restarted task finds its directories as it left them.
    if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        make(path, mode)?;
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))
            .map_err(|source| Error::Directory { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// Both outputs of a task.
#[derive(Debug)]
pub struct Logs {
    /// What the task writes to its file descriptor 1.
    pub stdout: Log,
    /// What the task writes to its file descriptor 2.
    pub stderr: Log,
}

/// One output of a task: a named pipe that is open for reading before the task starts, as logmon does it.
#[derive(Debug)]
pub struct Log {
    /// The path that the plugin is given.
    pub path: PathBuf,
    /// The reading end. It reports end of file when no writer is left, that is, not before `open` has been dropped.
    pub reader: pipe::Receiver,
    /// A writing end of our own, so that nothing is lost when a writer closes and reopens. Drop it when the task has
    /// ended.
    pub open: pipe::Sender,
}

impl Log {
    /// Creates the pipe with mode 0600 and opens it. Needs a tokio runtime.
    pub fn create(path: PathBuf) -> Result<Self, Error> {
        let opened = rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .or_else(|error| if is_pipe(&path) { Ok(()) } else { Err(io::Error::from(error)) })
            .and_then(|()| pipe::OpenOptions::new().open_receiver(&path))
            .and_then(|reader| Ok((reader, pipe::OpenOptions::new().open_sender(&path)?)));
        match opened {
            Ok((reader, open)) => Ok(Self { path, reader, open }),
            Err(source) => Err(Error::Pipe { path, source }),
        }
    }

    /// Everything that the task has written, for a task that has ended. Bytes that are not UTF-8 are replaced.
    pub async fn output(self, deadline: Duration) -> Result<String, Error> {
        let Self { path, mut reader, open } = self;
        drop(open);
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(deadline, reader.read_to_end(&mut bytes)).await;
        let output = String::from_utf8_lossy(&bytes).into_owned();
        match read {
            Ok(Ok(_)) => Ok(output),
            Ok(Err(source)) => Err(Error::Read { path, source }),
            Err(_) => Err(Error::StillOpen { path, deadline, output }),
        }
    }
}

/// Whether a pipe is left from an earlier start of the same task.
fn is_pipe(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Which users must be able to reach an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passable {
    /// PID 1, and users that exist only while their task runs.
    ToAll,
    /// Only us, with a systemd user manager of our own.
    ToUs,
}

/// A fresh directory for the allocations of one run; other users may traverse it, if they must, and not list it.
///
/// Root's directory lies below `/var/lib/nomad-driver-systemd`, since a task may have a `/tmp` of its own. An
/// unprivileged user's lies in `$XDG_RUNTIME_DIR`, which is in memory, if no other user must reach it; otherwise in the
/// system's temporary directory.
pub fn fresh_base(to: Passable) -> Result<tempfile::TempDir, Error> {
    let parent = match to {
        _ if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/nomad-driver-systemd"),
        Passable::ToUs => runtime_dir().unwrap_or_else(std::env::temp_dir),
        Passable::ToAll => std::env::temp_dir(),
    };
    fresh_below(&parent, to)
}

fn fresh_below(parent: &Path, to: Passable) -> Result<tempfile::TempDir, Error> {
    let mode = if to == Passable::ToUs { 0o700 } else { 0o711 };
    let wrong = |source| Error::Directory { path: parent.to_owned(), source };
    fs::create_dir_all(parent).map_err(wrong)?;
    let directory = tempfile::Builder::new().prefix("run-").tempdir_in(parent).map_err(wrong)?;
    fs::set_permissions(directory.path(), Permissions::from_mode(mode)).map_err(wrong)?;
    Ok(directory)
}

/// The runtime directory of our session; not trusted unless we own it (basedir specification).
fn runtime_dir() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let metadata = fs::metadata(&path).ok()?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    Some(path).filter(|path| path.is_absolute() && metadata.is_dir() && ours)
}

/// Whether a path lies on a file system in memory. A path that does not exist yet is judged by its parent.
pub fn is_in_memory(path: &Path) -> bool {
    // The magic number of tmpfs(5); ramfs has another, and only root can mount it.
    const TMPFS: u64 = 0x0102_1994;
    let found = path.ancestors().find_map(|path| rustix::fs::statfs(path).ok());
    found.is_some_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == TMPFS))
}

/// A directory on the way that other users cannot traverse, if there is one; a task of another user would not start.
pub fn impassable(path: &Path) -> Option<PathBuf> {
    let mut parents = path.ancestors();
    parents
        .find(|parent| fs::metadata(parent).is_ok_and(|metadata| metadata.mode() & 0o001 == 0))
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_layout_is_nomads() {
        let base = tempfile::tempdir().unwrap();
        let alloc = AllocDir::create(base.path(), "id").unwrap();
        let task = alloc.task("web").unwrap();
        assert_eq!(mode(alloc.path()), 0o755);
        for path in [
            "alloc",
            "alloc/logs",
            "alloc/data",
            "alloc/tmp",
            "web",
            "web/local",
            "web/secrets",
            "web/private",
        ] {
            assert_eq!(mode(&alloc.path().join(path)), 0o777, "{path}");
        }
        assert_eq!(mode(&task.path.join("tmp")), 0o1777);
        let path = alloc.path().to_owned();
        drop(alloc);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_second_start_finds_its_directories_and_pipes() {
        let base = tempfile::tempdir().unwrap();
        let first = AllocDir::create(base.path(), "id").unwrap();
        assert!(AllocDir::create(base.path(), "id").is_err());
        let again = AllocDir::existing(first.path());
        for alloc in [&first, &again] {
            alloc.task("web").unwrap();
            alloc.logs("web").unwrap();
        }
        drop(again);
        assert!(first.path().exists());
    }

    #[test]
    fn the_place_of_a_run_is_as_open_as_its_tasks_need() {
        let parent = std::env::temp_dir();
        let all = fresh_below(&parent, Passable::ToAll).unwrap();
        assert_eq!((mode(all.path()), impassable(all.path())), (0o711, None));
        let ours = fresh_below(&parent, Passable::ToUs).unwrap();
        assert_eq!((mode(ours.path()), impassable(ours.path())), (0o700, Some(ours.path().to_owned())));
    }

    #[test]
    fn memory_is_told_from_disk() {
        assert!(!is_in_memory(Path::new("/proc/no/such")));
        assert!(is_in_memory(Path::new("/dev/shm/no/such")));
    }

    #[test]
    fn removal_does_not_follow_links() {
        let base = tempfile::tempdir().unwrap();
        let treasure = base.path().join("treasure");
        fs::write(&treasure, "gold").unwrap();
        let alloc = AllocDir::create(base.path(), "id").unwrap();
        std::os::unix::fs::symlink(base.path(), alloc.path().join("alloc/data/link")).unwrap();
        alloc.remove().unwrap();
        assert!(treasure.exists());
    }

    #[tokio::test]
    async fn output_of_several_writers_arrives_whole() {
        let base = tempfile::tempdir().unwrap();
        let alloc = AllocDir::create(base.path(), "id").unwrap();
        let log = alloc.logs("web").unwrap().stdout;
        assert_eq!(mode(&log.path), 0o600);
        for text in ["one\n", "two\n"] {
            let mut writer = pipe::OpenOptions::new().open_sender(&log.path).unwrap();
            writer.write_all(text.as_bytes()).await.unwrap();
        }
        assert_eq!(log.output(Duration::from_secs(5)).await.unwrap(), "one\ntwo\n");
    }

    #[tokio::test]
    async fn a_writer_that_stays_is_reported_after_the_deadline() {
        let base = tempfile::tempdir().unwrap();
        let alloc = AllocDir::create(base.path(), "id").unwrap();
        let log = alloc.logs("web").unwrap().stderr;
        let _writer = pipe::OpenOptions::new().open_sender(&log.path).unwrap();
        let error = log.output(Duration::from_millis(10)).await.unwrap_err();
        assert!(matches!(error, Error::StillOpen { .. }), "{error}");
    }
}
