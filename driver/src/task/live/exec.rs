//! Runs a command inside a running task, as its user, in its view and within its limits.
//!
//! The command is a child of the driver ([`crate::enter`]), in a cgroup of its own below the unit's: so the unit's limits
//! hold it, the unit's end is its end, and it can be ended alone with everything that it started. A session that is
//! dropped, because the client went away or the time is up, ends it.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use futures_util::{Stream, StreamExt};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines};
use tokio::net::{UnixStream, unix::pipe};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::enter::{self, Answer, Failure, Plan};
use crate::kernel;
use crate::systemd::{self, Manager, Systemd, UnitName};
use crate::task::live::cgroup::Cgroup;

/// How long the way into the task may take, on a busy machine.
const JOIN_DEADLINE: Duration = Duration::from_secs(20);
/// The longest piece of output that is passed on at once, in bytes.
const CHUNK: usize = 16 << 10;
/// How many of them are read after the command's end: the largest pipe of a user holds 64. Others may go on writing.
const LAST_CHUNKS: usize = 64;
/// How many commands of a task run at the same time: the driver keeps a descriptor for each, also of one that has left
/// something.
const MOST: usize = 256;
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
         WebAssembly task; check it by HTTP, or have the operator of this node add \"NotifyAccess\" to `allow_properties`"
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

/// The command's process and its cgroup. Dropping it ends both.
#[derive(Debug)]
struct Running {
    /// The end of the command's init; `None` as `group`.
    init: Option<JoinHandle<io::Result<ExitStatus>>>,
    /// What the init says.
    answers: Answers,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// `None` when what is left of the command may live on.
    group: Option<Cgroup>,
}

impl Running {
    /// Makes the process and waits until it has become the command.
    async fn start(systemd: &Systemd, plan: Plan, streams: [Stdio; 3]) -> Result<Self, Error> {
        let start = |source| Error::Start { source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(start)?;
        let group = Cgroup::at(plan.cgroup.clone());
        let beside = group.path().parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
        if beside.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)).count() >= MOST {
            return Err(Error::Many);
        }
        fs::create_dir(group.path()).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::Ended,
            _ => Error::Start { source },
        })?;
        let [stdin, stdout, stderr] = streams;
        let program = helper_program().map_err(start)?;
        let mut command = Command::new(program);
        command.arg0("nomad-driver-systemd").arg("enter").env_clear().kill_on_drop(true);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let socket = FdMapping { parent_fd: OwnedFd::from(theirs), child_fd: enter::SOCKET };
        command.fd_mappings(vec![socket]).map_err(|error| start(io::Error::other(error)))?;
        let child = command.spawn();
        // It holds our copy of the child's descriptors.
        drop(command);
        let (child, answers) = match child.and_then(|child| Ok((child, Answers::from(ours)?))) {
            Ok(made) => made,
            Err(source) => {
                group.remove_soon();
                return Err(start(source));
            }
        };
        let mut child: Child = child;
        let (pid, stdin, stdout, stderr) =
            (child.id(), child.stdin.take(), child.stdout.take(), child.stderr.take());
        let init = Some(tokio::spawn(end_what_is_left(child, group.clone())));
        let mut running = Self { init, answers, stdin, stdout, stderr, group: Some(group) };
        if let Some(pid) = pid {
            open_the_way(systemd, pid).await.map_err(|source| Error::TakenIn { source })?;
        }
        match timeout(JOIN_DEADLINE, running.answers.to(plan)).await {
            Ok(Ok(Answer::Failed(failure))) => Err(Error::Enter(failure)),
            Ok(Ok(_)) => Ok(running),
            Ok(Err(source)) => Err(Error::Start { source }),
            Err(_) => Err(Error::Stuck),
        }
    }

    /// Waits for the command's end. Dropped before, it has lost nothing.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        match (self.answers.next().await, &mut self.init) {
            (Ok(Answer::Ended(status)), _) => Ok(ExitStatus::from_raw(status)),
            // Its init was ended, and with it everything else.
            (_, Some(init)) => init.await?,
            (_, None) => Err(io::Error::other("nobody tells how the command ended")),
        }
    }

    /// The command has ended; what it left in the background runs on with the task, as long as its init does.
    fn leave_the_rest(&mut self) {
        self.init = None;
        self.group = None;
    }

    /// A command with streams has ended when it has and both its outputs have.
    async fn serve_streams(
        &mut self,
        input: impl Stream<Item = Input> + Unpin,
        output: &Sender<Output>,
    ) -> io::Result<ExitStatus> {
        let missing = || io::Error::other("a stream of the command is missing");
        let stdin = self.stdin.take().ok_or_else(missing)?;
        let stdout = self.stdout.take().ok_or_else(missing)?;
        let stderr = self.stderr.take().ok_or_else(missing)?;
        let out = async {
            pass_on(stdout, Output::Stdout, output).await;
            output.send(Output::StdoutEnd).await
        };
        let err = async {
            pass_on(stderr, Output::Stderr, output).await;
            output.send(Output::StderrEnd).await
        };
        let ended = async { tokio::join!(self.ended(), out, err).0 };
        tokio::select! {
            status = ended => status,
            never = feed(stdin, input) => match never {},
        }
    }

    /// A command with a terminal has ended when it has: what it left in the background may hold the terminal.
    async fn serve_terminal(
        &mut self,
        terminal: Terminal,
        input: impl Stream<Item = Input> + Unpin,
        output: &Sender<Output>,
    ) -> io::Result<ExitStatus> {
        let Terminal { mut reader, writer } = terminal;
        let status = tokio::select! {
            status = self.ended() => status?,
            // Nobody has the other end open any more, of which the kernel tells by an error.
            () = pass_on(&mut reader, Output::Stdout, output) => self.ended().await?,
            never = feed_terminal(writer, input) => match never {},
        };
        let mut chunk = vec![0; CHUNK];
        for _ in 0..LAST_CHUNKS {
            let Some(count) = read_now(&reader, &mut chunk) else { break };
            // A client that has gone is told nothing.
            let _ = output.send(Output::Stdout(chunk[..count].to_vec())).await;
        }
        let _ = output.send(Output::StdoutEnd).await;
        let _ = output.send(Output::StderrEnd).await;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            group.kill();
            group.remove_soon();
        }
        // One that had not come to its cgroup ends as its handle does.
        if let Some(init) = self.init.take() {
            init.abort();
        }
    }
}

/// Waits for the end of a command's init, and ends what is left of the command, which is its to reap. It ends by itself
/// when nothing is; in any other case the task has ended it, at whatever moment.
async fn end_what_is_left(mut init: Child, group: Cgroup) -> io::Result<ExitStatus> {
    let status = init.wait().await;
    if status.as_ref().is_ok_and(ExitStatus::success) {
        group.remove_if_empty();
    } else {
        group.kill();
        group.remove_soon();
    }
    status
}

/// The driver's own binary as nobody can change it, however the process that runs it is found: on a mount of its own, which
/// is read-only, and which nothing but our descriptor keeps.
fn helper_program() -> io::Result<PathBuf> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    if !rustix::process::geteuid().is_root() {
        // The tasks are our own user's.
        return Ok("/proc/self/exe".into());
    }
    let path = |program: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), program.as_raw_fd()).into();
    if let Some(program) = PROGRAM.get() {
        return Ok(path(program));
    }
    // Two at once make two; one of them is kept.
    let program = kernel::read_only_program()?;
    Ok(path(PROGRAM.get_or_init(|| program)))
}

/// Makes sure that this child of ours can join a unit's cgroup. A user may move processes only within what the user's
/// own systemd was given, where a driver that an agent has started from a session is not; systemd itself can get the
/// child there, as it does for `systemd-run --user --scope`.
async fn open_the_way(systemd: &Systemd, pid: u32) -> Result<(), systemd::Error> {
    if systemd.manager() == Manager::System {
        return Ok(());
    }
    let theirs = systemd.features().await?.cgroup;
    if Cgroup::of_us().is_some_and(|ours| ours.path().starts_with(theirs)) {
        return Ok(());
    }
    systemd.start_scope(&UnitName::known(format!("nomad_exec-{pid}.scope")), pid).await
}

/// What the child says.
#[derive(Debug)]
struct Answers(Lines<BufReader<UnixStream>>);

impl Answers {
    fn from(socket: std::os::unix::net::UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(BufReader::new(UnixStream::from_std(socket)?).lines()))
    }

    /// Tells the child what to do, and hears what became of it.
    async fn to(&mut self, plan: Plan) -> io::Result<Answer> {
        let socket = self.0.get_mut().get_mut();
        socket.write_all(&serde_json::to_vec(&plan)?).await?;
        socket.shutdown().await?;
        self.next().await
    }

    /// The next answer. Dropped before, it has lost nothing.
    async fn next(&mut self) -> io::Result<Answer> {
        let line = self.0.next_line().await?;
        Ok(serde_json::from_str(&line.ok_or(io::ErrorKind::UnexpectedEof)?)?)
    }
}

/// Reads until the end; dropped at any moment, it has lost nothing that it read.
async fn pass_on(mut from: impl AsyncRead + Unpin, piece: fn(Vec<u8>) -> Output, to: &Sender<Output>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(room) = to.reserve().await {
        match from.read(&mut chunk).await {
            Ok(count @ 1..) => room.send(piece(chunk[..count].to_vec())),
            _ => return,
        }
    }
}

/// Reads what is there already, and no more. The kernel is asked: tokio may not have heard of it yet.
fn read_now(from: &pipe::Receiver, chunk: &mut [u8]) -> Option<usize> {
    rustix::io::read(from, chunk).ok().filter(|count| *count > 0)
}

/// Writes until the client says that it is enough, and then waits for ever: only the command's end is an end.
async fn feed(
    stdin: impl AsyncWrite + Unpin,
    mut input: impl Stream<Item = Input> + Unpin,
) -> std::convert::Infallible {
    let mut stdin = Some(stdin);
    while let Some(input) = input.next().await {
        match (input, &mut stdin) {
            (Input::Data(data), Some(open)) => {
                // A command need not read what it is sent.
                if open.write_all(&data).await.is_err() {
                    stdin = None;
                }
            }
            (Input::End, _) => stdin = None,
            (Input::Size(..), _) | (Input::Data(_), None) => {}
        }
    }
    std::future::pending().await
}

/// The driver's end of a terminal. It is read and written like a pipe, which is all that tokio needs to know of it.
#[derive(Debug)]
struct Terminal {
    reader: pipe::Receiver,
    writer: pipe::Sender,
}

impl Terminal {
    /// A new terminal, and the command's end of it three times.
    fn open() -> io::Result<(Self, [OwnedFd; 3])> {
        let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&ours)?;
        rustix::pty::unlockpt(&ours)?;
        // By descriptor: its path means something else in another view.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
        let ends = [theirs.try_clone()?, theirs.try_clone()?, theirs];
        rustix::io::ioctl_fionbio(&ours, true)?;
        let writer = pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?;
        Ok((Self { reader: pipe::Receiver::from_owned_fd_unchecked(ours)?, writer }, ends))
    }
}

/// Writes for ever: only the command's end is an end.
async fn feed_terminal(
    mut terminal: pipe::Sender,
    mut input: impl Stream<Item = Input> + Unpin,
) -> std::convert::Infallible {
    /// What a person types to end the input of a program.
    const END_OF_TRANSMISSION: &[u8] = b"\x04";
    while let Some(input) = input.next().await {
        // Nobody at the other end is the command's end, of which others tell.
        let _ = match input {
            Input::Data(data) => terminal.write_all(&data).await,
            Input::End => terminal.write_all(END_OF_TRANSMISSION).await,
            Input::Size(rows, columns) => {
                let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                rustix::termios::tcsetwinsize(&terminal, size).map_err(io::Error::from)
            }
        };
    }
    std::future::pending().await
}

/// The name of a cgroup for one more command in the unit whose cgroup is `unit`.
pub(crate) fn new_group(unit: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    unit.join(format!("{PREFIX}{}-{number}", std::process::id()))
}

const PREFIX: &str = "exec-";

/// Ends the commands that drivers before this one left in a unit: with them their clients were lost.
pub(crate) fn end_those_of_earlier_drivers(unit: &Cgroup) {
    let ours = format!("{PREFIX}{}-", std::process::id());
    for group in unit.children() {
        let name = group.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(PREFIX) && !name.starts_with(&ours) {
            group.kill();
            group.remove_soon();
        }
    }
}
