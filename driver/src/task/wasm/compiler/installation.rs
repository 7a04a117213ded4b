//! The programs of WebAssembly on this node, and what they need of it.

use std::path::{Path, PathBuf};

use super::Error;
use crate::systemd::Manager;

/// Where things are, by the plugin's configuration.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Directory of `wasm-shim` and `wasm-shim-compile`.
    pub shim_dir: Option<PathBuf>,
    /// Directory of what outlives the driver; the cache is in it.
    pub state_dir: PathBuf,
    /// How many bytes of compiled code are kept.
    pub cache_size: u64,
    /// What of the host the compiler sees.
    pub host_paths: Vec<PathBuf>,
    /// The root on which it sees it.
    pub root: PathBuf,
    /// Whose systemd runs it.
    pub manager: Manager,
}

impl Installation {
    /// The program that runs compiled guests.
    pub fn shim(&self) -> Result<PathBuf, Error> {
        self.program("wasm-shim")
    }

    /// Is the compiler there?
    pub fn compiles(&self) -> bool {
        self.program("wasm-shim-compile").is_ok()
    }

    /// A program of this name.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf, Error> {
        let beside_us = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let usual = ["/usr/local/libexec/nomad-driver-systemd", "/usr/libexec/nomad-driver-systemd"];
        let searched: Vec<PathBuf> = match &self.shim_dir {
            Some(directory) => vec![directory.clone()],
            None => beside_us.into_iter().chain(usual.map(PathBuf::from)).collect(),
        };
        let found = searched.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
        found.ok_or_else(|| Error::NoShim {
            name: name.to_owned(),
            searched: searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }
}
