//! A task's output, on its way to the terminal.

use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::allocdir::Logs;
use crate::terminal::{Name, Stream, Terminal};

/// How long the rest of a task's output may take after the task has ended (logmon).
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// The copying of a task's output. Dropping `open` lets the output reach its end.
pub(super) struct Output {
    open: [pipe::Sender; 2],
    pumps: [JoinHandle<()>; 2],
}

impl Output {
    /// Starts to copy the output from the pipes.
    pub(super) fn write(logs: Logs, terminal: Terminal, name: Name) -> Self {
        let Logs { stdout, stderr } = logs;
        Self {
            open: [stdout.open, stderr.open],
            pumps: [
                tokio::spawn(terminal.pump(stdout.reader, name.clone(), Stream::Stdout)),
                tokio::spawn(terminal.pump(stderr.reader, name, Stream::Stderr)),
            ],
        }
    }

    /// Waits for the output that is still in the pipes.
    pub(super) async fn finish(self) {
        let Self { open, pumps } = self;
        drop(open);
        for pump in pumps {
            let stop = pump.abort_handle();
            if timeout(LAST_OUTPUT, pump).await.is_err() {
                stop.abort();
            }
        }
    }
}
