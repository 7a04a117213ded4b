//! The driver's own limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the driver's limit of open files to the hard limit. Each task, command and output needs a file, and the soft
/// limit is what programs that use `select(2)` can handle.
pub(crate) fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
