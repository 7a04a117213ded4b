//! Why a configuration is refused, and what is checked alike for several options.

use std::path::PathBuf;
use std::time::Duration;

use crate::systemd;
use crate::task::config::options;
use crate::task::host::env;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator does not allow the option, or the driver does not support it.
    #[error("`{option}`: {reason}")]
    Refused {
        /// The option, or the property.
        option: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The value of a property is invalid.
    #[error("`{option}`")]
    Property {
        /// The option.
        option: String,
        /// What is wrong with it.
        source: systemd::AssignmentError,
    },
    /// The driver's own defaults cannot be read.
    #[error("the driver's defaults")]
    Defaults {
        /// What is wrong with them.
        source: Box<options::Error>,
    },
    /// This node does not support the option.
    #[error("`{option}`: not supported on this node: {reason}")]
    Node {
        /// The option.
        option: String,
        /// What the node lacks.
        reason: String,
    },
    /// A variable that no process can have.
    #[error(transparent)]
    Env(#[from] env::Error),
    /// An argument contains a NUL byte, which no program can have.
    #[error("`{option}` holds a NUL byte")]
    Nul {
        /// The option.
        option: &'static str,
    },
    /// The argument exceeds the kernel's limit (execve(2), `MAX_ARG_STRLEN`).
    #[error("`{option}` is {length} bytes long; the kernel's limit is {}", env::STRING_MAX)]
    TooLong {
        /// The option.
        option: &'static str,
        /// The length in bytes.
        length: usize,
    },
    /// The allocation directory is not where Nomad puts one.
    #[error("the allocation directory `{path}` is not an absolute path")]
    AllocDir {
        /// The path from Nomad.
        path: PathBuf,
    },
    /// The task's name is not a file name.
    #[error("the task's name `{name}` cannot be a directory's name")]
    Name {
        /// The name from Nomad.
        name: String,
    },
    /// An invalid value in the job's configuration.
    #[error("option `{option}`: `{value}` is not {wanted}")]
    Option {
        /// The option.
        option: &'static str,
        /// The value.
        value: String,
        /// The allowed values.
        wanted: &'static str,
    },
    /// An invalid value in the plugin's configuration.
    #[error("plugin option `{option}`: `{value}` is not {wanted}")]
    Plugin {
        /// The option.
        option: &'static str,
        /// The value.
        value: String,
        /// The allowed values.
        wanted: &'static str,
    },
}

impl Error {
    /// Refuses `option`: why, and what to do.
    pub(crate) fn refused(option: &str, reason: impl Into<String>) -> Self {
        Self::Refused { option: option.to_owned(), reason: reason.into() }
    }

    /// A value that `option` does not accept, and what it accepts.
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

/// Would the kernel accept this argument?
pub(crate) fn check_length(option: &'static str, text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::Nul { option });
    }
    if text.len() > env::STRING_MAX {
        return Err(Error::TooLong { option, length: text.len() });
    }
    Ok(())
}

/// Can this be the name of a file, and an element of a list?
pub(crate) fn check_label(option: &'static str, name: &str) -> Result<(), Error> {
    if is_label(name) && name.len() <= 64 {
        return Ok(());
    }
    let wanted = "a name of letters, digits, `-`, `_` and `.`";
    Err(Error::Option { option, value: name.to_owned(), wanted })
}

/// Does the text consist of letters, digits, `-`, `_` and `.`, and not begin with a dot?
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Parses a duration, such as `90s`, `10m` or `1h30m`; the error is what is expected.
pub(crate) fn duration(value: &str) -> Result<Duration, &'static str> {
    if value == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(value).map_err(|_| "a length of time such as \"30s\" or \"10m\"")
}
