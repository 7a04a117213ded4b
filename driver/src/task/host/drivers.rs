//! Other processes of the driver, whose numbers stand in what they made on the host.

use std::path::Path;

/// Is the process of this number there, such as `4711`? A driver that was killed leaves its files to the next one. Another
/// process that got the number since only delays that.
pub(crate) fn is_alive(pid: &str) -> bool {
    !pid.is_empty() && Path::new("/proc").join(pid).join("stat").exists()
}
