//! Why a configuration means no task.

use std::path::PathBuf;

use crate::systemd;
use crate::task::config::options;
use crate::task::host::env;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator does not allow it, or the driver cannot.
    #[error("`{option}`: {reason}")]
    Refused {
        /// The option, or the property.
        option: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The value of a property.
    #[error("`{option}`")]
    Property {
        /// The option.
        option: String,
        /// What is wrong with it.
        source: systemd::AssignmentError,
    },
    /// Our own defaults cannot be read.
    #[error("the driver's defaults")]
    Defaults {
        /// What is wrong with them.
        source: Box<options::Error>,
    },
    /// This node cannot give it.
    #[error("`{option}`: not supported on this node: {reason}")]
    Node {
        /// The option.
        option: String,
        /// What it lacks.
        reason: String,
    },
    /// A variable that no process can have.
    #[error(transparent)]
    Env(env::Error),
    /// No program can have such an argument.
    #[error("`{option}` holds a NUL byte")]
    Nul {
        /// The option.
        option: &'static str,
    },
    /// The kernel takes no single argument that long (execve(2), `MAX_ARG_STRLEN`).
    #[error("`{option}` is {length} bytes long; the kernel's limit is {}", env::STRING_MAX)]
    TooLong {
        /// The option.
        option: &'static str,
        /// How long it is, in bytes.
        length: usize,
    },
    /// The allocation directory is not where Nomad puts one.
    #[error("the allocation directory `{path}` is not an absolute path")]
    AllocDir {
        /// As we got it.
        path: PathBuf,
    },
    /// A task's name that is no file name.
    #[error("the task's name `{name}` cannot be a directory's name")]
    Name {
        /// As we got it.
        name: String,
    },
    /// A value of the job's configuration.
    #[error("option `{option}`: `{value}` is not {wanted}")]
    Option {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        wanted: &'static str,
    },
    /// A value of the plugin's configuration.
    #[error("plugin option `{option}`: `{value}` is not {wanted}")]
    Plugin {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        wanted: &'static str,
    },
}

impl Error {
    /// Why the job may not have what `option` says, and what to do.
    pub(crate) fn refused(option: &str, reason: impl Into<String>) -> Self {
        Self::Refused { option: option.to_owned(), reason: reason.into() }
    }

    /// A value that `option` does not take, and what it takes.
    pub(crate) fn option(option: &'static str, value: &str, wanted: &'static str) -> Self {
        Self::Option { option, value: value.to_owned(), wanted }
    }

    /// The number, which must not be 0.
    pub(crate) fn at_least_one<N: Into<u64>>(
        option: &'static str,
        number: Option<N>,
    ) -> Result<Option<u64>, Self> {
        match number.map(Into::into) {
            Some(0) => Err(Self::option(option, "0", "a number of at least 1")),
            number => Ok(number),
        }
    }
}
