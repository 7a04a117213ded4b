//! A directory of a task that must be the one that the driver prepared: `--same` of wasm-shim.
//!
//! systemd looks up what it mounts by path, a moment after the driver. Whoever could replace a directory on the path in
//! between would have given the task another one. So the process that starts the program or the guest compares the
//! directories.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// A directory, identified by its device and its inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Same {
    /// The path at which the task sees the directory, such as `/local`.
    pub path: String,
    /// The device of its file system (`st_dev`, stat(2)).
    pub device: u64,
    /// The inode number (`st_ino`).
    pub inode: u64,
}

impl Same {
    /// The message for a directory that is another one.
    pub const OTHER: &str = "is not the directory that the driver prepared";

    /// Reads `DEVICE:INODE:PATH`.
    ///
    /// # Errors
    /// When the text has another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let read = || {
            let (device, rest) = text.split_once(':')?;
            let (inode, path) = rest.split_once(':')?;
            Some(Self { path: path.to_owned(), device: device.parse().ok()?, inode: inode.parse().ok()? })
        };
        read().ok_or_else(|| "write DEVICE:INODE:PATH".to_owned())
    }

    /// Checks that the path still leads to the same directory.
    ///
    /// # Errors
    /// When another directory or none is at the path; the message names the remedy.
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
            "{} {}: it was exchanged on the node while the task started, or the agent sees other directories than systemd: see who can write to the allocation's directory, and that nomad.service has no PrivateTmp=, ProtectHome= or the like",
            self.path,
            Self::OTHER
        ))
    }
}

impl fmt::Display for Same {
    /// The form that [`Same::parse`] reads.
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
