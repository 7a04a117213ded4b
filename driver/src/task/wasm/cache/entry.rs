//! What an entry stands for, and how the kernel tells whether a file is still the same.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// What tells a seal from any other digest of the same bytes.
const SEAL: &[u8] = b"nomad-driver-systemd: code made of WebAssembly, 1\n";
/// The end of the name of an entry.
const ENDING: &str = ".cwasm";

/// Which code: of what, and made how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Everything that the code depends on beside the module, in hexadecimal digits.
    pub key: String,
    /// The SHA-256 of the module.
    pub content: [u8; 32],
}

impl Entry {
    /// The begin of its seal: what the code must have been made for.
    pub(super) fn seal(&self) -> Sha256 {
        Sha256::new().chain_update(SEAL).chain_update(&self.key).chain_update([0]).chain_update(self.content)
    }

    /// The byte of the file of leases that stands for it. The bytes need not be there.
    pub(super) fn byte(&self) -> i64 {
        // Two bits less than a digest's first eight bytes have, so that it has an end.
        self.content.iter().take(8).fold(0, |at, byte| (at << 8) | i64::from(*byte)) & (i64::MAX >> 1)
    }

    /// Its file's name.
    pub(super) fn file_name(&self) -> String {
        hex::encode(self.content) + ENDING
    }
}

/// The entry that stands under this name, if it is the name of one.
pub(super) fn entry_at(key: &str, path: &Path) -> Option<Entry> {
    let digits = path.file_name()?.to_str()?.strip_suffix(ENDING)?;
    let mut content = [0; 32];
    hex::decode_to_slice(digits, &mut content).ok()?;
    Some(Entry { key: key.to_owned(), content })
}

/// Can it be an engine's key?
pub(super) fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|digit| digit.is_ascii_hexdigit())
}

/// What the kernel says of a file. It does not stay the same when the file is changed or another takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of the file to which `path` leads.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Has it only been used since?
    pub(super) fn is_of_the_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode, self.size) == (other.device, other.inode, other.size)
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
