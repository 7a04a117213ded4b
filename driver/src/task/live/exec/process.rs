//! The process of a command and its cgroup: created outside the task, joined to it, killed with everything it started.

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
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Error;
use crate::enter::{self, Answer, Plan};
use crate::kernel;
use crate::systemd::{self, Manager, Systemd, UnitName};
use crate::task::live::cgroup::Cgroup;

/// Time to join the task, on a busy machine.
pub(super) const JOIN_DEADLINE: Duration = Duration::from_secs(20);
/// Maximum number of commands of a task at the same time: the driver keeps a descriptor for each, also for a command
/// that has left processes.
pub(super) const MOST: usize = 256;

/// The command's process and its cgroup. Dropping it kills both.
#[derive(Debug)]
pub(super) struct Running {
    /// The exit of the command's init; `None` like `group`.
    init: Option<JoinHandle<io::Result<ExitStatus>>>,
    /// What the init reports.
    answers: Answers,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
    /// `None` if processes left by the command may keep running.
    group: Option<Cgroup>,
}

impl Running {
    /// Creates the process and waits until it executes the command.
    pub(super) async fn start(systemd: &Systemd, plan: Plan, streams: [Stdio; 3]) -> Result<Self, Error> {
        let start = |source| Error::Start { source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(start)?;
        let group = Cgroup::at(plan.cgroup.clone());
        let siblings = group.path().parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
        if siblings.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)).count() >= MOST {
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
        // `command` holds our copies of the child's descriptors.
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

    /// Waits for the command's end. Cancel safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        match (self.answers.next().await, &mut self.init) {
            (Ok(Answer::Ended(status)), _) => Ok(ExitStatus::from_raw(status)),
            // The init was killed, and everything else with it.
            (_, Some(init)) => init.await?,
            (_, None) => Err(io::Error::other("nobody tells how the command ended")),
        }
    }

    /// Lets processes that the command left in the background run on with the task, as long as the command's init does.
    pub(super) fn leave_the_rest(&mut self) {
        self.init = None;
        self.group = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            group.kill();
            group.remove_soon();
        }
        // A process that had not joined its cgroup ends with its handle.
        if let Some(init) = self.init.take() {
            init.abort();
        }
    }
}

/// Waits for the exit of a command's init, and kills what is left of the command, which the init reaps. The init exits
/// by itself when nothing is left; in any other case the task has killed it, at any moment.
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

/// The driver's own binary, protected against changes however the process that runs it is found: on a read-only mount
/// of its own, which only our descriptor keeps.
fn helper_program() -> io::Result<PathBuf> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    if !rustix::process::geteuid().is_root() {
        // The tasks run as our own user.
        return Ok("/proc/self/exe".into());
    }
    let path = |program: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), program.as_raw_fd()).into();
    if let Some(program) = PROGRAM.get() {
        return Ok(path(program));
    }
    // Two calls at once create two; one of them is kept.
    let program = kernel::read_only_program()?;
    Ok(path(PROGRAM.get_or_init(|| program)))
}

/// Makes sure that this child of ours can join a unit's cgroup. A user may move processes only within the cgroup that
/// is delegated to the user's own systemd. A driver that an agent has started from a session is outside of it; systemd
/// itself can move the child there, as for `systemd-run --user --scope`.
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

/// What the child reports.
#[derive(Debug)]
struct Answers(Lines<BufReader<UnixStream>>);

impl Answers {
    fn from(socket: std::os::unix::net::UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(BufReader::new(UnixStream::from_std(socket)?).lines()))
    }

    /// Sends the plan to the child, and returns its answer.
    async fn to(&mut self, plan: Plan) -> io::Result<Answer> {
        let socket = self.0.get_mut().get_mut();
        socket.write_all(&serde_json::to_vec(&plan)?).await?;
        socket.shutdown().await?;
        self.next().await
    }

    /// The next answer. Cancel safe.
    async fn next(&mut self) -> io::Result<Answer> {
        let line = self.0.next_line().await?;
        Ok(serde_json::from_str(&line.ok_or(io::ErrorKind::UnexpectedEof)?)?)
    }
}

/// Name of a cgroup for another command in the unit whose cgroup is `unit`.
pub(crate) fn new_group(unit: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    unit.join(format!("{PREFIX}{}-{number}", std::process::id()))
}

const PREFIX: &str = "exec-";

/// Kills the commands that earlier drivers left in a unit: their clients were lost with the drivers.
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
