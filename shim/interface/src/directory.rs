//! A directory that a guest is granted: `--dir` of wasm-shim, `wasm.dirs` of a job.

use std::fmt;

/// A directory that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Its path for wasm-shim, such as `/srv/data`.
    pub host: String,
    /// Its path for the guest, such as `/data`.
    pub guest: String,
    /// May the guest write?
    pub writable: bool,
}

impl Directory {
    /// Reads `HOST`, `HOST::GUEST`, `HOST::GUEST:ro` or, for a GUEST with a colon in its name, `HOST::GUEST:rw`.
    ///
    /// # Errors
    /// When one of the two is empty, or another word stands where `ro` does.
    pub fn parse(said: &str) -> Result<Self, String> {
        let (host, rest) = said.split_once("::").unwrap_or((said, said));
        let is_pair = host.len() < said.len();
        let (guest, mode) = match rest.rsplit_once(':') {
            Some((guest, mode @ ("ro" | "rw"))) if is_pair => (guest, Some(mode)),
            _ => (rest, None),
        };
        if host.is_empty() || guest.is_empty() {
            return Err("both directories need a name: HOST::GUEST or HOST::GUEST:ro".to_owned());
        }
        // Whoever writes `/data::ro` wants a directory that is read-only, and not one of the name `ro` that is not.
        if is_pair && mode.is_none() && ["ro", "rw"].contains(&guest) {
            return Err(format!(
                "`{guest}` stands where the guest's name of the directory does; write HOST::GUEST:{guest}"
            ));
        }
        // A wrong word after the last colon would be a directory that can be written to. Names with one need `:rw`.
        if guest.contains(':') && mode != Some("rw") {
            return Err("what follows a single colon is `ro` or `rw`: HOST::GUEST:ro".to_owned());
        }
        let writable = mode != Some("ro");
        Ok(Self { host: host.to_owned(), guest: guest.to_owned(), writable })
    }
}

impl fmt::Display for Directory {
    /// As [`Directory::parse`] reads it.
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
        for (said, meant) in [
            ("/a", dir("/a", "/a", true)),
            ("/a::/b", dir("/a", "/b", true)),
            ("/a::/b:ro", dir("/a", "/b", false)),
            ("/a::/b:ro:rw", dir("/a", "/b:ro", true)),
            ("/a::ro:rw", dir("/a", "ro", true)),
            ("/a::ro:ro", dir("/a", "ro", false)),
            ("/a:b::/b", dir("/a:b", "/b", true)),
        ] {
            assert_eq!(Directory::parse(said).as_ref(), Ok(&meant), "{said}");
            assert_eq!(Directory::parse(&meant.to_string()), Ok(meant), "{said}");
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
