//! The key of a cache entry, and how to recognize by the kernel's metadata that a file is unchanged.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Distinguishes a seal from any other digest of the same bytes.
const SEAL: &[u8] = b"nomad-driver-systemd: code made of WebAssembly, 1\n";
/// Suffix of the name of an entry.
const ENDING: &str = ".cwasm";

/// Identifies code: by its module, and by how it was compiled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Everything that the code depends on except the module, in hexadecimal digits.
    pub key: String,
    /// The SHA-256 of the module.
    pub content: [u8; 32],
}

impl Entry {
    /// The start of the entry's seal: what the code must have been compiled for.
    pub(super) fn seal(&self) -> Sha256 {
        Sha256::new().chain_update(SEAL).chain_update(&self.key).chain_update([0]).chain_update(self.content)
    }

    /// The byte of the lease file that stands for the entry. The bytes need not exist.
    pub(super) fn byte(&self) -> i64 {
        // Two bits less than the first eight bytes of a digest have, so that the range has an end.
        self.content.iter().take(8).fold(0, |at, byte| (at << 8) | i64::from(*byte)) & (i64::MAX >> 1)
    }

    /// File name of the entry.
    pub(super) fn file_name(&self) -> String {
        hex::encode(self.content) + ENDING
    }
}

/// The entry with this file name, if it is the name of an entry.
pub(super) fn entry_at(key: &str, path: &Path) -> Option<Entry> {
    let digits = path.file_name()?.to_str()?.strip_suffix(ENDING)?;
    let mut content = [0; 32];
    hex::decode_to_slice(digits, &mut content).ok()?;
    Some(Entry { key: key.to_owned(), content })
}

/// Can the text be an engine's key?
pub(super) fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|digit| digit.is_ascii_hexdigit())
}

/// What the kernel reports about a file. It differs when the file was changed or another has taken its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of the file to which `path` leads.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Is it the same file, which has only been used since?
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
