//! The programs of systemd that answer what its D-Bus interface does not.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The programs may lie in each of these directories, whatever the driver's own `PATH` is.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a program such as `journalctl` prints with these arguments; `None` if it fails, or does not end in this time.
pub(super) async fn output(program: &str, args: &[&str], within: Duration) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(within, output).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
