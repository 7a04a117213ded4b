//! A directory that a guest may use: `--dir` of wasm-shim, `wasm.dirs` of a job.

use std::fmt;

/// A directory that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The path for wasm-shim, such as `/srv/data`.
    pub host: String,
    /// The path for the guest, such as `/data`.
    pub guest: String,
    /// Whether the guest may write.
    pub writable: bool,
}

impl Directory {
    /// Reads `HOST`, `HOST::GUEST`, `HOST::GUEST:ro` or, for a GUEST with a colon in its name, `HOST::GUEST:rw`.
    ///
    /// # Errors
    /// When a path is empty, or the mode is neither `ro` nor `rw`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, rest) = text.split_once("::").unwrap_or((text, text));
        let is_pair = host.len() < text.len();
        let (guest, mode) = match rest.rsplit_once(':') {
            Some((guest, mode @ ("ro" | "rw"))) if is_pair => (guest, Some(mode)),
            _ => (rest, None),
        };
        if host.is_empty() || guest.is_empty() {
            return Err("both directories need a name: HOST::GUEST or HOST::GUEST:ro".to_owned());
        }
        // `/data::ro` is meant as a read-only directory, and not as a writable directory with the guest path `ro`.
        if is_pair && mode.is_none() && ["ro", "rw"].contains(&guest) {
            return Err(format!(
                "`{guest}` stands where the guest's name of the directory does; write HOST::GUEST:{guest}"
            ));
        }
        // A wrong mode after the last colon would grant a writable directory. Names with a colon need `:rw`.
        if guest.contains(':') && mode != Some("rw") {
            return Err("what follows a single colon is `ro` or `rw`: HOST::GUEST:ro".to_owned());
        }
        let writable = mode != Some("ro");
        Ok(Self { host: host.to_owned(), guest: guest.to_owned(), writable })
    }
}

impl fmt::Display for Directory {
    /// The form that [`Directory::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, guest, writable } = self;
        let mode = match writable {
            false => ":ro",
            true if guest.contains(':') || ["ro", "rw"].contains(&guest.as_str()) => ":rw",
            true => "",
        };
        write!(f, "{host}::{guest}{mode}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_read_as_in_wasmtime() {
        let dir = |host: &str, guest: &str, writable| Directory {
            host: host.into(),
            guest: guest.into(),
            writable,
        };
        for (text, expected) in [
            ("/a", dir("/a", "/a", true)),
            ("/a::/b", dir("/a", "/b", true)),
            ("/a::/b:ro", dir("/a", "/b", false)),
            ("/a::/b:ro:rw", dir("/a", "/b:ro", true)),
            ("/a::ro:rw", dir("/a", "ro", true)),
            ("/a::ro:ro", dir("/a", "ro", false)),
            ("/a:b::/b", dir("/a:b", "/b", true)),
        ] {
            assert_eq!(Directory::parse(text).as_ref(), Ok(&expected), "{text}");
            assert_eq!(Directory::parse(&expected.to_string()), Ok(expected), "{text}");
        }
        for wrong in [
            "",
            "::/b",
            "/a::",
            "/a::/b:RO",
            "/a::/b:",
            "/a::/b:ro:ro",
            "/a:ro",
            "/a:/b:ro",
            "/a::ro",
            "/a::rw",
            "/a:rw",
            ":rw",
        ] {
            assert!(Directory::parse(wrong).is_err(), "{wrong}");
        }
    }
}
