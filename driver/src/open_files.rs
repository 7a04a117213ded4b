//! What the driver may have of the kernel.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the driver open as many files as whoever started it may: each task, command and output costs one, and the soft
/// limit is what programs can bear that use `select(2)`.
pub(crate) fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
