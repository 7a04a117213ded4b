//! A task that a test runs: its directories, its output, its end.

use std::path::Path;
use std::sync::Arc;

use nomad_local::allocdir::{AllocDir, Logs};
use proto::driver::{ExitResult, TaskConfig, TaskHandle, WaitTaskResponse};

use crate::{SOON, User};

/// A task whose directories are there and which has not been started.
#[derive(Debug)]
pub struct Prepared {
    /// What the plugin will be asked; a test may change it.
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
    /// Nomad's id.
    pub id: String,
    /// Its name in the job.
    pub name: String,
    /// What Nomad keeps.
    pub handle: TaskHandle,
    pub(super) alloc: AllocDir,
    pub(super) logs: Option<Logs>,
    /// The allocation lies in it.
    #[allow(dead_code, reason = "kept for its drop")]
    pub(super) data: Arc<tempfile::TempDir>,
    pub(super) owner: Option<User>,
}

impl Task {
    /// The allocation's directory.
    pub fn alloc_dir(&self) -> &Path {
        self.alloc.path()
    }

    /// Everything that it wrote to stdout and stderr, once it has been destroyed.
    pub async fn output(&mut self) -> (String, String) {
        let Logs { stdout, stderr } = self.logs.take().expect("the output is read once");
        let (output, errors) = tokio::join!(stdout.output(SOON), stderr.output(SOON));
        (output.expect("stdout ends"), errors.expect("stderr ends"))
    }

    /// Nomad's log collector goes away.
    pub fn close_logs(&mut self) {
        self.logs = None;
    }

    /// Reads stdout until this text has come.
    pub async fn says(&mut self, text: &str) {
        self.read_until(text).await;
    }

    /// Reads stdout until this text has come: all that came.
    pub async fn read_until(&mut self, text: &str) -> String {
        use tokio::io::AsyncReadExt;
        let reader = &mut self.logs.as_mut().expect("the output is not read yet").stdout.reader;
        let mut said = Vec::new();
        let reading = async {
            let mut chunk = [0; 4096];
            while !String::from_utf8_lossy(&said).contains(text) {
                match reader.read(&mut chunk).await.expect("stdout can be read") {
                    0 => break,
                    count => said.extend_from_slice(&chunk[..count]),
                }
            }
        };
        let _ = tokio::time::timeout(SOON, reading).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains(text), "it said {said:?}, not {text:?}");
        said
    }
}

impl Task {
    /// It was destroyed: there is no unit to look for when this is dropped.
    #[must_use]
    pub fn ended(mut self) -> Self {
        self.handle.driver_state.clear();
        self
    }
}

impl Drop for Task {
    /// A test that failed leaves its unit; the machine shall be as before.
    fn drop(&mut self) {
        // The one thing that the harness reads in what the driver saved.
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

/// How a task ended, as Nomad is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code.
    pub code: i32,
    /// The signal that ended it, or zero.
    pub signal: i32,
    /// It was ended for want of memory.
    pub oom_killed: bool,
    /// Not empty: why the above is not known.
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
    /// It returned this status.
    pub fn status(code: i32) -> Self {
        Self { code, signal: 0, oom_killed: false, error: String::new() }
    }

    /// This signal ended it.
    pub fn signal(signal: i32) -> Self {
        Self { code: 128 + signal, signal, oom_killed: false, error: String::new() }
    }
}
