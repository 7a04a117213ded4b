//! Runs a command inside a running task, as its user, in its view and within its limits.
//!
//! The command is a child of the driver ([`crate::enter`]), in a cgroup of its own below the unit's: so the unit's limits
//! hold it, the unit's end is its end, and it can be ended alone with everything that it started. A session that is
//! dropped, because the client went away or the time is up, ends it.

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

/// How much of its output a command may have that nobody watches, in bytes: what Nomad's own drivers keep.
const TAIL: usize = 4096;

/// Why a command was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver could not make the process.
    #[error("start a process for the command")]
    Start {
        /// What the kernel said.
        source: io::Error,
    },
    /// The task's systemd did not take the process over.
    #[error("join the task (its systemd)")]
    TakenIn {
        /// What it said.
        source: systemd::Error,
    },
    /// The process could not become the command.
    #[error(transparent)]
    Enter(Failure),
    /// The process did not answer.
    #[error("the task could not be joined within {} s", JOIN_DEADLINE.as_secs())]
    Stuck,
    /// The command took longer than it may; it was ended with all that it had started.
    #[error("`{command}` did not end within {limit:?} and was killed")]
    TimedOut {
        /// The command.
        command: String,
        /// How long it had.
        limit: Duration,
    },
    /// The task is WebAssembly, and the command one of its job's.
    #[error(
        "a command of the job's (a script check, or `change_mode = \"script\"`) could send messages to systemd in the unit of a \
         WebAssembly task; check it by HTTP, or {}",
        how_to_allow("NotifyAccess")
    )]
    BesideGuest,
    /// Too many of them run, or have left something that runs.
    #[error("{MOST} commands of this task run, or have left processes; end some of them first")]
    Many,
    /// The task has no processes that one could join.
    #[error("the task is no longer running")]
    Ended,
}

/// What a client sends to a command.
#[derive(Debug)]
pub enum Input {
    /// For its stdin.
    Data(Vec<u8>),
    /// There will be no more of it.
    End,
    /// The client's terminal has so many rows and columns now.
    Size(u16, u16),
}

/// What a command sends to its client.
#[derive(Debug)]
pub enum Output {
    /// From its stdout, or its terminal.
    Stdout(Vec<u8>),
    /// From its stderr.
    Stderr(Vec<u8>),
    /// There will be no more from its stdout.
    StdoutEnd,
    /// There will be no more from its stderr.
    StderrEnd,
    /// It has ended like this, the last of all.
    Exited(ExitStatus),
}

/// A command that nobody watches has ended.
#[derive(Debug)]
pub struct Report {
    /// The end of what it wrote to stdout and stderr, in the order in which it came.
    pub output: Vec<u8>,
    /// How it ended.
    pub status: ExitStatus,
}

/// A command that runs, with streams or a terminal.
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

    /// Passes on what comes from either side, until the command has ended or nobody takes its output any more.
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
                // A client that has gone is told nothing.
                let _ = output.send(Output::Exited(status)).await;
            }
            Err(error) => tracing::warn!(error = crate::chain(&error), "a command in a task was lost"),
        }
    }
}

/// Runs a command that nobody watches, for no longer than `limit`; zero is no limit.
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
            // Both ends of the pipe closed, the command still there.
            Err(error) = tail.fill(&mut reader) => Err(error),
        }?;
        // What it wrote is in the pipe; what its children may yet write is not waited for.
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
        Ok(Err(source)) => Err(start(source)),
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

    /// Reads until it fails; after the end of the stream it waits for ever.
    async fn fill(&mut self, reader: &mut pipe::Receiver) -> io::Result<()> {
        loop {
            match reader.read(&mut self.chunk).await? {
                0 => return std::future::pending().await,
                count => self.take(count),
            }
        }
    }
}
