//! The programs that are installed with the driver, and its directories, as the plugin's configuration names them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::systemd::Manager;

/// A program is not installed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} is not in {searched}, or cannot be executed: install wasm-shim and wasm-shim-compile there, or name their directory as `shim_dir` in \
     the driver's plugin configuration"
)]
pub struct Missing {
    /// The missing program.
    name: String,
    /// The directories that were searched.
    searched: String,
}

/// Paths and limits, from the plugin's configuration.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Directory of `wasm-shim` and `wasm-shim-compile`.
    pub shim_dir: Option<PathBuf>,
    /// Directory of files that outlive the driver; the cache is in it.
    pub state_dir: PathBuf,
    /// Maximum size of the cache, in bytes.
    pub cache_size: u64,
    /// Host paths that tasks and the compiler see.
    pub host_paths: Vec<PathBuf>,
    /// Root of that view.
    pub root: PathBuf,
    /// The systemd manager that runs tasks and the compiler.
    pub manager: Manager,
}

impl Installation {
    /// The program that runs compiled guests, and is the init of native programs.
    pub fn shim(&self) -> Result<PathBuf, Missing> {
        self.program("wasm-shim")
    }

    /// Is the compiler installed?
    pub fn compiles(&self) -> bool {
        self.program("wasm-shim-compile").is_ok()
    }

    /// The program with this name.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf, Missing> {
        let beside_us = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let usual = ["/usr/local/libexec/nomad-driver-systemd", "/usr/libexec/nomad-driver-systemd"];
        let searched: Vec<PathBuf> = match &self.shim_dir {
            Some(directory) => vec![directory.clone()],
            None => beside_us.into_iter().chain(usual.map(PathBuf::from)).collect(),
        };
        let is_program = |path: &PathBuf| {
            path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        let found = searched.iter().map(|directory| directory.join(name)).find(is_program);
        found.ok_or_else(|| Missing {
            name: name.to_owned(),
            searched: searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }
}
