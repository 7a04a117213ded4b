//! Opens the FIFOs in which Nomad collects a task's output.
//!
//! They are in a directory that tasks of the group can write to, so their paths cannot be trusted: a task could put a
//! link to a host file in a FIFO's place (CVE-2026-6959). The driver holds the allocation directory, which only the
//! agent writes to, resolves the rest below it without following any link, and checks that it opened a FIFO.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use tokio::time::{Instant, sleep};

use crate::systemd::Stream;

/// Nomad starts the reader before the task, but does not wait until it has opened its end.
const READER_DEADLINE: Duration = Duration::from_secs(10);

/// Why a FIFO cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path from Nomad is outside of the allocation directory.
    #[error("open the log {path}: it does not lie in the allocation directory {alloc_dir}")]
    Outside {
        /// The log.
        path: PathBuf,
        /// The allocation's directory.
        alloc_dir: PathBuf,
    },
    /// The kernel refused to open the path, as it does for a link.
    #[error("open the log {path}")]
    Open {
        /// The log.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// Another file is in the FIFO's place.
    #[error("open the log {path}: it is not a FIFO, somebody put something else in its place")]
    NotAFifo {
        /// The log.
        path: PathBuf,
    },
    /// Nomad's log collector does not read the FIFO.
    #[error("open the log {path}: nobody reads it after {} s, is Nomad's log collector running?", READER_DEADLINE.as_secs())]
    NoReader {
        /// The log.
        path: PathBuf,
    },
}

/// Opens the FIFO at `path` for writing, as a stream of a unit. `/dev/null`, which Nomad passes if the job has disabled
/// its logs, and an empty path stay the null device.
pub async fn open(alloc_dir: &Path, path: &Path) -> Result<Stream, Error> {
    if path.as_os_str().is_empty() || path == Path::new("/dev/null") {
        return Ok(Stream::Null);
    }
    let inside = path
        .strip_prefix(alloc_dir)
        .map_err(|_| Error::Outside { path: path.to_owned(), alloc_dir: alloc_dir.to_owned() })?;
    let deadline = Instant::now() + READER_DEADLINE;
    let mut pause = Duration::from_millis(1);
    loop {
        match open_fifo(alloc_dir, inside) {
            Ok(Some(fifo)) => return Ok(Stream::Fd(fifo)),
            Ok(None) => {
                return Err(Error::NotAFifo { path: path.to_owned() });
            }
            // No reader yet. The kernel has no event for the arrival of a reader.
            Err(rustix::io::Errno::NXIO) if Instant::now() < deadline => {
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(rustix::io::Errno::NXIO) => {
                return Err(Error::NoReader { path: path.to_owned() });
            }
            Err(error) => {
                return Err(Error::Open { path: path.to_owned(), source: error.into() });
            }
        }
    }
}

/// Lets the task's user open the FIFO by its name, `/dev/stdout`, as many programs do that were made for containers. A
/// driver that is not root cannot do this, and its tasks run as its own user.
pub fn give_to(stream: &Stream, owner: Option<u32>) {
    if let (Stream::Fd(pipe), Some(uid)) = (stream, owner)
        && let Err(error) = rustix::fs::fchown(pipe, Some(rustix::fs::Uid::from_raw(uid)), None)
    {
        tracing::debug!(%error, uid, "the task will not be able to open its output by name");
    }
}

/// Returns `None` if the file is not a FIFO.
fn open_fifo(alloc_dir: &Path, inside: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    let base =
        rustix::fs::open(alloc_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // Checked before it is opened, since opening a device could have effects.
    let found = rustix::fs::openat2(&base, inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let found = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Fifo {
        return Ok(None);
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fifo = rustix::fs::openat2(&base, inside, flags, Mode::empty(), resolve)?;
    let opened = rustix::fs::fstat(&fifo)?;
    if (opened.st_dev, opened.st_ino) != (found.st_dev, found.st_ino) {
        return Ok(None);
    }
    // A task does not expect its writes to fail because its reader is slow.
    rustix::fs::fcntl_setfl(&fifo, rustix::fs::fcntl_getfl(&fifo)? - OFlags::NONBLOCK)?;
    Ok(Some(fifo))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{OpenOptionsExt, symlink};

    fn fifo(path: &Path) {
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }

    fn reader(path: &Path) -> File {
        File::options()
            .read(true)
            .custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap())
            .open(path)
            .unwrap()
    }

    #[tokio::test]
    async fn a_pipe_with_a_reader_is_opened_for_blocking_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fifo(&path);
        let _reader = reader(&path);
        let Stream::Fd(fd) = open(dir.path(), &path).await.unwrap() else {
            panic!("a descriptor is expected")
        };
        assert!(!rustix::fs::fcntl_getfl(&fd).unwrap().contains(OFlags::NONBLOCK));
    }

    #[tokio::test]
    async fn a_link_or_a_file_in_place_of_a_pipe_is_refused_and_stays_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let link = dir.path().join("link");
        symlink(&victim, &link).unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        fifo(&dir.path().join("real/out"));
        symlink("real", dir.path().join("logs")).unwrap();

        assert!(matches!(open(dir.path(), &link).await, Err(Error::Open { .. })));
        assert!(matches!(open(dir.path(), &dir.path().join("logs/out")).await, Err(Error::Open { .. })));
        assert!(matches!(open(dir.path(), &victim).await, Err(Error::NotAFifo { .. })));
        assert!(matches!(open(dir.path(), Path::new("/etc/passwd")).await, Err(Error::Outside { .. })));
        assert_eq!(std::fs::read_to_string(victim).unwrap(), "precious");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipe_that_nobody_reads_is_given_up_after_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fifo(&path);
        assert!(matches!(open(dir.path(), &path).await, Err(Error::NoReader { .. })));
    }

    #[tokio::test]
    async fn disabled_logs_are_the_null_device() {
        for path in ["", "/dev/null"] {
            assert!(matches!(open(Path::new("/nowhere"), Path::new(path)).await, Ok(Stream::Null)));
        }
    }
}
