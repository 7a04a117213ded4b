//! Why a module cannot be compiled to machine code.

use std::io;
use std::path::PathBuf;

use super::MODULE_MAX;
use crate::systemd;
use crate::task::installation::Missing;

/// Why a module cannot be compiled to machine code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compiler is not installed.
    #[error(transparent)]
    NoShim(#[from] Missing),
    /// The compiler does not support the settings of the job.
    #[error("`wasm`: the compiler of this node does not take `{flags}`: {report}")]
    Settings {
        /// The compiler's flags.
        flags: String,
        /// The compiler's report.
        report: String,
    },
    /// The compiler did not report its key.
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
        /// The kernel's error.
        source: io::Error,
    },
    /// The module was changed while it was read.
    #[error("`command`: {name} was changed while it was read; start the task again when it is complete")]
    Changed {
        /// The module.
        name: String,
    },
    /// The module exceeds the size limit.
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
        /// The compiler's report.
        report: String,
    },
    /// The compiler itself failed.
    #[error("compile {name}: {report}")]
    Failed {
        /// The module.
        name: String,
        /// The compiler's report.
        report: String,
    },
    /// The compiler reached a limit.
    #[error("`command`: compiling {name} was stopped: {reason}")]
    Stopped {
        /// The module.
        name: String,
        /// The limit, or the signal.
        reason: String,
    },
    /// Nobody waits for the compilation any more.
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
        /// systemd's error.
        source: systemd::Error,
    },
    /// The compiler was replaced meanwhile.
    #[error("compile {name}: the compiler was replaced meanwhile; start the task again")]
    Replaced {
        /// The module.
        name: String,
    },
    /// The compiler's streams cannot be created.
    #[error("compile {name}: hold it in memory")]
    Memory {
        /// The module.
        name: String,
        /// The kernel's error.
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
        /// The kernel's error.
        source: io::Error,
    },
}

impl Error {
    /// May the same module compile a little later?
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoShim(_)
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
