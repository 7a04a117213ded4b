//! Files in the directories of an allocation, where running tasks may create links at any time: no link is followed.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, open, openat2, renameat, unlinkat};
use rustix::io::Errno;

/// Opens the file at `path`, which is below `base`.
fn opened(base: &Path, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let below = path.strip_prefix(base).map_err(|_| io::Error::from(Errno::XDEV))?;
    let base = open(base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(base, below, flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(|error| match error {
        Errno::LOOP => io::Error::other("it is a symbolic link, or behind one, that a task may have made"),
        other => other.into(),
    })
}

/// Opens the regular file at `path`, wherever it is. A pipe does not block.
pub(crate) fn regular_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Reads the file at `path`, which is below `base`.
pub(crate) fn read(base: &Path, path: &Path) -> io::Result<String> {
    // A pipe that a task has created must not block.
    let file = File::from(opened(base, path, OFlags::RDONLY | OFlags::NONBLOCK)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    (&file).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a file with this content at `path`, which is below `base`, and replaces an existing one; creates the
/// directories on the way.
pub(crate) fn write(
    base: &Path,
    path: &Path,
    content: &str,
    mode: u32,
    (user, group): (Option<u32>, Option<u32>),
) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    make_directories(base, parent)?;
    let directory = opened(base, parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
    // The temporary file lies in the same directory, so that a task sees the old file or the new one; an existing name
    // may be a link. The name of the file itself may have the maximum length.
    let beside = format!(".template.{}", std::process::id());
    let _ = unlinkat(&directory, &beside, rustix::fs::AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(&directory, &beside, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file.write_all(content.as_bytes()).and_then(|()| {
        if user.is_some() || group.is_some() {
            fchown(file.as_fd(), user, group)?;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(renameat(&directory, &beside, &directory, name)?)
    });
    if written.is_err() {
        let _ = unlinkat(&directory, &beside, rustix::fs::AtFlags::empty());
    }
    written
}

fn make_directories(base: &Path, path: &Path) -> io::Result<()> {
    let below = path.strip_prefix(base).map_err(|_| io::Error::from(Errno::XDEV))?;
    let mut made = base.to_owned();
    for part in below.components().filter(|part| matches!(part, Component::Normal(_))) {
        let parent = if made == base {
            rustix::fs::openat(CWD, base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?
        } else {
            opened(base, &made, OFlags::PATH | OFlags::DIRECTORY)?
        };
        match mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        made.push(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_that_a_task_has_made_is_neither_read_nor_written() {
        let (base, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |path: &str| base.path().join(path);
        let treasure = outside.path().join("treasure");
        fs::write(&treasure, "gold").unwrap();
        symlink(outside.path(), path("out")).unwrap();
        symlink(&treasure, path("leaf")).unwrap();
        for link in ["out/treasure", "leaf"] {
            let error = read(base.path(), &path(link)).unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{link}: {error}");
        }
        assert!(write(base.path(), &path("out/treasure"), "lead", 0o644, (None, None)).is_err());
        assert!(write(base.path(), &path("out/new/x"), "lead", 0o644, (None, None)).is_err());
        assert!(write(base.path(), &outside.path().join("x"), "lead", 0o644, (None, None)).is_err());
        // The link itself is replaced.
        write(base.path(), &path("leaf"), "lead", 0o640, (None, None)).unwrap();
        write(base.path(), &path("new/x/y"), "text", 0o644, (None, None)).unwrap();
        let longest = "x".repeat(255);
        write(base.path(), &path(&longest), "text", 0o644, (None, None)).unwrap();
        assert_eq!(fs::read_to_string(&treasure).unwrap(), "gold");
        assert_eq!(read(base.path(), &path("leaf")).unwrap(), "lead");
        assert_eq!(fs::metadata(path("leaf")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(read(base.path(), &path("new/x/y")).unwrap(), "text");
        assert_eq!(fs::read_dir(path("new/x")).unwrap().count(), 1, "nothing is left behind");
        assert!(read(base.path(), base.path()).unwrap_err().to_string().contains("not a regular file"));
    }
}
