//! Runs a command inside a running task, as its user, in its view and within its limits.
//!
//! The command is a child of the driver ([`crate::enter`]), in a cgroup of its own below the unit's. So the unit's
//! limits apply to it, it ends with the unit, and it can be killed alone with everything that it started. A session
//! that is dropped, because the client disconnected or the time is up, kills it.

mod process;
mod streams;

use std::collections::VecDeque;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use self::process::{JOIN_DEADLINE, MOST, Running};
pub(crate) use self::process::{end_those_of_earlier_drivers, new_group};
use self::streams::{CHUNK, LAST_CHUNKS, Terminal, read_now};
use crate::enter::{Failure, Plan};
use crate::systemd::{self, Systemd};
use crate::task::sandbox::policy::how_to_allow;

/// Maximum output that is kept of a command that nobody watches, in bytes: as in Nomad's own drivers.
const TAIL: usize = 4096;

/// Why a command was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver could not create the process.
    #[error("start a process for the command")]
    Start {
        /// The kernel's error.
        source: io::Error,
    },
    /// The task's systemd did not accept the process.
    #[error("join the task (its systemd)")]
    TakenIn {
        /// systemd's error.
        source: systemd::Error,
    },
    /// The process could not execute the command.
    #[error(transparent)]
    Enter(#[from] Failure),
    /// The process did not answer.
    #[error("the task could not be joined within {} s", JOIN_DEADLINE.as_secs())]
    Stuck,
    /// The processes of the command ended without a report.
    #[error("the command ended and its exit status is not known; the task may have ended meanwhile")]
    Lost {
        /// What the kernel said.
        source: io::Error,
    },
    /// The command exceeded its time limit; it was killed with everything that it had started.
    #[error("`{command}` did not end within {limit:?} and was killed")]
    TimedOut {
        /// The command.
        command: String,
        /// The time limit.
        limit: Duration,
    },
    /// The task is WebAssembly, and the command is configured by its job.
    #[error(
        "a command of the job's (a script check, or `change_mode = \"script\"`) could send messages to systemd in the unit of a \
         WebAssembly task; check it by HTTP, or {}",
        how_to_allow("NotifyAccess")
    )]
    BesideGuest,
    /// Too many commands run in the task, or have left processes.
    #[error("{MOST} commands of this task run, or have left processes; end some of them first")]
    Many,
    /// The task has no processes to join.
    #[error("the task is no longer running")]
    Ended,
}

/// What a client sends to a command.
#[derive(Debug)]
pub enum Input {
    /// Data for stdin.
    Data(Vec<u8>),
    /// End of stdin.
    End,
    /// The client's terminal now has this many rows and columns.
    Size(u16, u16),
}

/// What a command sends to its client.
#[derive(Debug)]
pub enum Output {
    /// Data from stdout, or from the terminal.
    Stdout(Vec<u8>),
    /// Data from stderr.
    Stderr(Vec<u8>),
    /// End of stdout.
    StdoutEnd,
    /// End of stderr.
    StderrEnd,
    /// The command has exited with this status; always the last output.
    Exited(ExitStatus),
}

/// The result of a command that nobody watches.
#[derive(Debug)]
pub struct Report {
    /// The end of what the command wrote to stdout and stderr, in order of arrival.
    pub output: Vec<u8>,
    /// Exit status of the command.
    pub status: ExitStatus,
}

/// A running command, with streams or a terminal.
#[derive(Debug)]
pub struct Session {
    command: Running,
    terminal: Option<Terminal>,
}

impl Session {
    /// Starts the command.
    pub(crate) async fn start(systemd: &Systemd, plan: Plan) -> Result<Self, Error> {
        let start = |source| Error::Start { source };
        if !plan.terminal {
            let streams = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
            return Ok(Self { command: Running::start(systemd, plan, streams).await?, terminal: None });
        }
        let (terminal, [stdin, stdout, stderr]) = Terminal::open().map_err(start)?;
        let streams = [stdin.into(), stdout.into(), stderr.into()];
        Ok(Self { command: Running::start(systemd, plan, streams).await?, terminal: Some(terminal) })
    }

    /// Forwards data in both directions, until the command has ended or nobody reads its output any more.
    pub async fn serve(self, input: impl Stream<Item = Input> + Send + Unpin, output: Sender<Output>) {
        let Self { mut command, terminal } = self;
        let ended = tokio::select! {
            status = async {
                match terminal {
                    None => command.serve_streams(input, &output).await,
                    Some(terminal) => command.serve_terminal(terminal, input, &output).await,
                }
            } => status,
            () = output.closed() => return,
        };
        match ended {
            Ok(status) => {
                command.leave_the_rest();
                // A client that has disconnected is sent nothing.
                let _ = output.send(Output::Exited(status)).await;
            }
            Err(error) => tracing::warn!(error = crate::chain(&error), "a command in a task was lost"),
        }
    }
}

/// Runs a command that nobody watches, for at most `limit`; zero means no limit.
pub(crate) async fn run(systemd: &Systemd, plan: Plan, limit: Duration) -> Result<Report, Error> {
    let command = plan.argv.first().cloned().unwrap_or_default();
    let start = |source| Error::Start { source };
    let (reader, writer) = io::pipe().map_err(start)?;
    let second = writer.try_clone().map_err(start)?;
    let mut running = Running::start(systemd, plan, [Stdio::null(), writer.into(), second.into()]).await?;
    let mut reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(start)?;
    let mut tail = Tail::default();
    let ended = async {
        let status = tokio::select! {
            status = running.ended() => status,
            // Both ends of the pipe are closed, and the command is still running.
            Err(error) = tail.fill(&mut reader) => Err(error),
        }?;
        // Output of the command is in the pipe; later output of its children is not waited for.
        for _ in 0..LAST_CHUNKS {
            let Some(count) = read_now(&reader, &mut tail.chunk) else { break };
            tail.take(count);
        }
        Ok(status)
    };
    let limit_or_ever = if limit.is_zero() { Duration::MAX } else { limit };
    match timeout(limit_or_ever, ended).await {
        Ok(Ok(status)) => {
            running.leave_the_rest();
            Ok(Report { output: tail.kept.into(), status })
        }
        Ok(Err(source)) => Err(Error::Lost { source }),
        Err(_) => Err(Error::TimedOut { command, limit }),
    }
}

/// The last bytes of a stream.
struct Tail {
    kept: VecDeque<u8>,
    chunk: Box<[u8]>,
}

impl Default for Tail {
    fn default() -> Self {
        Self { kept: VecDeque::new(), chunk: vec![0; CHUNK].into() }
    }
}

impl Tail {
    fn take(&mut self, count: usize) {
        self.kept.extend(&self.chunk[..count]);
        let excess = self.kept.len().saturating_sub(TAIL);
        self.kept.drain(..excess);
    }

    /// Reads until an error; after the end of the stream it waits for ever.
    async fn fill(&mut self, reader: &mut pipe::Receiver) -> io::Result<()> {
        loop {
            match reader.read(&mut self.chunk).await? {
                0 => return std::future::pending().await,
                count => self.take(count),
            }
        }
    }
}
