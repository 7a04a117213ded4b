//! Why a module cannot be had as machine code.

use std::io;
use std::path::PathBuf;

use super::MODULE_MAX;
use crate::systemd;

/// Why a module cannot be had as machine code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The two programs are not there.
    #[error(
        "{name} is not in {searched}: install wasm-shim and wasm-shim-compile there, or name their directory as `shim_dir` in \
         the driver's plugin configuration"
    )]
    NoShim {
        /// The one that is missing.
        name: String,
        /// Where we looked.
        searched: String,
    },
    /// The compiler cannot do what the job asks for.
    #[error("`wasm`: the compiler of this node does not take `{flags}`: {report}")]
    Settings {
        /// What it was told.
        flags: String,
        /// What it said.
        report: String,
    },
    /// The compiler did not tell its key.
    #[error("ask {program} for its engine key: {report}")]
    EngineKey {
        /// The compiler.
        program: PathBuf,
        /// What happened.
        report: String,
    },
    /// The module's file cannot be read.
    #[error("`command`: read {name}")]
    Read {
        /// The module.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its content is another one than a moment ago.
    #[error("`command`: {name} was changed while it was read; start the task again when it is complete")]
    Changed {
        /// The module.
        name: String,
    },
    /// It is larger than anything we would compile.
    #[error("`command`: {name} is larger than {} MiB, the most that is compiled", MODULE_MAX >> 20)]
    TooLarge {
        /// The module.
        name: String,
    },
    /// The module is not valid, or this engine cannot run it.
    #[error("`command`: {name} cannot be used: {report}")]
    Invalid {
        /// The module.
        name: String,
        /// What the compiler said.
        report: String,
    },
    /// The compiler itself failed.
    #[error("compile {name}: {report}")]
    Failed {
        /// The module.
        name: String,
        /// What the compiler said.
        report: String,
    },
    /// The compiler came to its limits.
    #[error("`command`: compiling {name} was stopped: {reason}")]
    Stopped {
        /// The module.
        name: String,
        /// The limit, or the signal.
        reason: String,
    },
    /// Nobody waits for it any more.
    #[error("`command`: compiling {name} was given up, since the task was stopped")]
    Abandoned {
        /// The module.
        name: String,
    },
    /// The unit of the compiler did not start.
    #[error("compile {name}")]
    Unit {
        /// The module.
        name: String,
        /// What systemd said.
        source: systemd::Error,
    },
    /// There is another compiler now.
    #[error("compile {name}: the compiler was replaced meanwhile; start the task again")]
    Replaced {
        /// The module.
        name: String,
    },
    /// The compiler's streams cannot be made.
    #[error("compile {name}: hold it in memory")]
    Memory {
        /// The module.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cache cannot be used.
    #[error(
        "keep compiled code in {directory}: the directory must have room and be the driver's own to write; make it so, or \
         name another `state_dir` in the driver's plugin configuration"
    )]
    Cache {
        /// The directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// May the same module be compiled a little later?
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoShim { .. }
            | Self::Settings { .. }
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::Stopped { .. }
            | Self::Abandoned { .. } => false,
            Self::Unit { source, .. } => source.may_pass(),
            Self::EngineKey { .. }
            | Self::Read { .. }
            | Self::Changed { .. }
            | Self::Failed { .. }
            | Self::Replaced { .. }
            | Self::Memory { .. }
            | Self::Cache { .. } => true,
        }
    }
}
