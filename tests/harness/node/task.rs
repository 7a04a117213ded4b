//! A task that a test runs: its directories, its output, its end.

use std::path::Path;
use std::sync::Arc;

use nomad_local::allocdir::{AllocDir, Logs};
use proto::driver::{ExitResult, TaskConfig, TaskHandle, WaitTaskResponse};

use crate::{SOON, User};

/// A task whose directories exist and which has not been started.
#[derive(Debug)]
pub struct Prepared {
    /// The request to the plugin; a test may change it.
    pub config: TaskConfig,
    pub(super) alloc: AllocDir,
    pub(super) logs: Logs,
}

impl Prepared {
    /// The allocation's directory.
    pub fn alloc_dir(&self) -> &Path {
        self.alloc.path()
    }
}

/// A task that was started.
#[derive(Debug)]
pub struct Task {
    /// The task's id in Nomad.
    pub id: String,
    /// The task's name in the job.
    pub name: String,
    /// The handle that Nomad keeps.
    pub handle: TaskHandle,
    pub(super) alloc: AllocDir,
    pub(super) logs: Option<Logs>,
    /// The directory that contains the allocation.
    #[allow(dead_code, reason = "kept for its drop")]
    pub(super) data: Arc<tempfile::TempDir>,
    pub(super) owner: Option<User>,
}

impl Task {
    /// The allocation's directory.
    pub fn alloc_dir(&self) -> &Path {
        self.alloc.path()
    }

    /// The complete stdout and stderr of the task, after it has been destroyed.
    pub async fn output(&mut self) -> (String, String) {
        let Logs { stdout, stderr } = self.logs.take().expect("the output is read once");
        let (output, errors) = tokio::join!(stdout.output(SOON), stderr.output(SOON));
        (output.expect("stdout ends"), errors.expect("stderr ends"))
    }

    /// Closes the pipes, as if Nomad's log collector had exited.
    pub fn close_logs(&mut self) {
        self.logs = None;
    }

    /// Reads stdout until this text has arrived.
    pub async fn says(&mut self, text: &str) {
        self.read_until(text).await;
    }

    /// Reads stdout until this text has arrived; returns everything read.
    pub async fn read_until(&mut self, text: &str) -> String {
        use tokio::io::AsyncReadExt;
        let reader = &mut self.logs.as_mut().expect("the output is not read yet").stdout.reader;
        let mut output = Vec::new();
        let reading = async {
            let mut chunk = [0; 4096];
            while !String::from_utf8_lossy(&output).contains(text) {
                match reader.read(&mut chunk).await.expect("stdout can be read") {
                    0 => break,
                    count => output.extend_from_slice(&chunk[..count]),
                }
            }
        };
        let _ = tokio::time::timeout(SOON, reading).await;
        let output = String::from_utf8_lossy(&output).into_owned();
        assert!(output.contains(text), "it said {output:?}, not {text:?}");
        output
    }
}

impl Task {
    /// The task was destroyed: there is no unit to look for when this is dropped.
    #[must_use]
    pub fn ended(mut self) -> Self {
        self.handle.driver_state.clear();
        self
    }
}

impl Drop for Task {
    /// A test that failed leaves its unit; the machine should be as before.
    fn drop(&mut self) {
        // The only part of the driver's saved state that the harness reads.
        let saved: serde_json::Value = serde_json::from_slice(&self.handle.driver_state).unwrap_or_default();
        if let (Some(unit), Some(owner)) = (saved["unit"].as_str(), self.owner) {
            owner.remove(unit);
        } else if let Some(unit) = saved["unit"].as_str() {
            for action in [&["kill", "--signal=KILL"][..], &["stop"], &["reset-failed"]] {
                let _ = std::process::Command::new("systemctl").args(action).arg("--").arg(unit).output();
            }
        }
    }
}

/// How a task ended, as Nomad gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: i32,
    /// The signal that ended it, or zero.
    pub signal: i32,
    /// Whether the task was killed by the OOM killer.
    pub oom_killed: bool,
    /// Why the values above are unknown; otherwise empty.
    pub error: String,
}

impl From<WaitTaskResponse> for Exit {
    fn from(answer: WaitTaskResponse) -> Self {
        let WaitTaskResponse { result, err: error } = answer;
        let ExitResult { exit_code: code, signal, oom_killed } =
            result.expect("a result, without which Nomad crashes");
        Self { code, signal, oom_killed, error }
    }
}

impl Exit {
    /// The task exited with this status.
    pub fn status(code: i32) -> Self {
        Self { code, signal: 0, oom_killed: false, error: String::new() }
    }

    /// The task was ended by this signal.
    pub fn signal(signal: i32) -> Self {
        Self { code: 128 + signal, signal, oom_killed: false, error: String::new() }
    }
}
