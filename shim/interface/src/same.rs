//! A directory of a task that must be the one that the driver prepared: `--same` of wasm-shim.
//!
//! systemd looks up what it mounts by its path, a moment after the driver has. Whoever could exchange a directory on the way
//! in between would have given the task another one; so what starts the program, or the guest, compares.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// A directory, known by the numbers of its file system and of its inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Same {
    /// Where the task sees it, such as `/local`.
    pub path: String,
    /// Its file system (`st_dev`, stat(2)).
    pub device: u64,
    /// Its number there (`st_ino`).
    pub inode: u64,
}

impl Same {
    /// What a message says of a directory that is another one.
    pub const OTHER: &str = "is not the directory that the driver prepared";

    /// Reads `DEVICE:INODE:PATH`.
    ///
    /// # Errors
    /// When that is not what it is.
    pub fn parse(said: &str) -> Result<Self, String> {
        let read = || {
            let (device, rest) = said.split_once(':')?;
            let (inode, path) = rest.split_once(':')?;
            Some(Self { path: path.to_owned(), device: device.parse().ok()?, inode: inode.parse().ok()? })
        };
        read().ok_or_else(|| "write DEVICE:INODE:PATH".to_owned())
    }

    /// Is it still the one?
    ///
    /// # Errors
    /// When another directory is at the path, or none; the message says what to do.
    pub fn check(&self) -> Result<(), String> {
        let found = match fs::metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(format!(
                    "{} cannot be looked at: {error} (by a filter of system calls, `sandbox.system_call_filter`?)",
                    self.path
                ));
            }
            Err(error) => return Err(format!("{} {}: {error}", self.path, Self::OTHER)),
        };
        if (found.dev(), found.ino()) == (self.device, self.inode) {
            return Ok(());
        }
        Err(format!(
            "{} {}: it was exchanged on the node while the task started; see who can write to the allocation's directory there",
            self.path,
            Self::OTHER
        ))
    }
}

impl fmt::Display for Same {
    /// As [`Same::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.device, self.inode, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_same_by_its_numbers_and_not_by_its_path() {
        let found = fs::metadata("/proc").unwrap();
        let same = Same { path: "/proc".to_owned(), device: found.dev(), inode: found.ino() };
        assert_eq!(Same::parse(&same.to_string()), Ok(same.clone()));
        assert_eq!(same.check(), Ok(()));
        let other = Same { path: "/".to_owned(), ..same.clone() };
        assert!(other.check().unwrap_err().starts_with("/ is not the directory"));
        assert!(Same { path: "/no-such".to_owned(), ..same }.check().is_err());
        for wrong in ["", "1", "1:2", "1:x:/local", ":1:/local"] {
            assert!(Same::parse(wrong).is_err(), "{wrong}");
        }
    }
}
