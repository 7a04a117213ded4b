//! Runs commands inside a running task, for `nomad alloc exec` and script checks.
//!
//! systemd has no call that starts another process in a running service. So the driver starts its own binary again, and
//! that child becomes the command. The child must have one thread, or the kernel would not let it change its mount
//! namespace. Therefore it is a new process and not a fork of the driver.
//!
//! ```text
//!  driver ── Plan ──► child:  the task's cgroup ─► what its main process inherited (inherited.rs)
//!                             ─► its namespaces and root (namespaces.rs) ─► its user and capabilities (identity.rs)
//!                             ─► an init like the task's own (task_init) ─► its system call filters (../kernel.rs)
//!         ◄─ Answer: Failed, or Runs and Ended ──┘                        └─► execve
//! ```
//!
//! The child stays as the init of the processes that the command leaves behind; systemd would have to reap them
//! otherwise.
//!
//! Every step takes a privilege away, or makes the child equal to the task. No step may be left out, so any failure is
//! final.
//!
//! The task may try to take over the child, which is root while it joins. So the program of the child lies on a
//! read-only mount that nobody can change (exec.rs). The child cannot be traced, and only root can look into it. The
//! child joins only the namespaces that systemd made, by descriptors. Nothing that the task controls is opened before
//! the child runs as the task's user.

mod identity;
mod inherited;
mod namespaces;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use task_init::{Ended, Init};

pub use identity::Identity;

use self::inherited::Inherited;
use self::namespaces::Namespaces;
use crate::kernel;

/// The descriptor on which the child receives its [`Plan`] and sends its [`Answer`]s.
pub const SOCKET: i32 = 3;
/// The `PATH` that systemd sets for a service on a system that keeps `/bin` and `/usr/bin` apart (systemd.exec(5)).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command to run, and the task to run it in. The plan contains the task's secrets (`env`), so it is sent over a
/// socket, never on a command line.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// The command and its arguments; the command is looked up in the task's `PATH`.
    pub argv: Vec<String>,
    /// The task's environment.
    pub env: BTreeMap<String, String>,
    /// The task's working directory, in its own view.
    pub directory: PathBuf,
    /// The task's main process.
    pub main_pid: i32,
    /// The unit's cgroup as in `/proc/PID/cgroup`, for example `/nomad_tasks.slice/nomad-….service`.
    pub unit_cgroup: String,
    /// The directory of the cgroup to join, below the unit's cgroup.
    pub cgroup: PathBuf,
    /// The user the task runs as.
    pub identity: Identity,
    /// Whether systemd has put the task into a user namespace (`PrivateUsers=`).
    pub has_user_namespace: bool,
    /// Whether stdin, stdout and stderr are one terminal, which becomes the command's own.
    pub terminal: bool,
    /// PID of the driver; the command must not outlive the driver.
    pub driver_pid: i32,
}

/// Why the command is not running.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// An error on the task's side: there is no such command.
    #[error("`{command}` cannot be run in the task: {reason}")]
    Command {
        /// The command.
        command: String,
        /// The kernel's error message.
        reason: String,
    },
    /// An error on the driver's side.
    #[error("join the task ({step}): {reason}")]
    Join {
        /// The step that failed, for example `its namespaces`.
        step: String,
        /// The kernel's error message.
        reason: String,
    },
}

/// An answer of the child, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The command does not run. This is the last answer.
    Failed(Failure),
    /// The command runs.
    Runs,
    /// The command has ended, with this wait(2) status. The child stays as long as processes of the command do.
    Ended(i32),
}

/// Runs the command, or answers why not. Must be called before any other thread is created.
pub fn run_command() -> ExitCode {
    let Some(mut socket) = kernel::inherited_socket(SOCKET) else {
        eprintln!("nomad-driver-systemd: `enter` is for the driver itself");
        return ExitCode::FAILURE;
    };
    let (failure, code) = match read_plan(&mut socket).and_then(|plan| enter(&plan)) {
        Ok(init) => {
            send(&mut socket, &Answer::Runs);
            let status = match init.wait(false, None) {
                Ended::Exited(code) => i32::from(code) << 8,
                Ended::Killed(signal) => signal,
            };
            send(&mut socket, &Answer::Ended(status));
            init.reap_the_rest();
            return ExitCode::SUCCESS;
        }
        Err(failure @ Failure::Command { .. }) => (failure, 127),
        Err(failure @ Failure::Join { .. }) => (failure, 125),
    };
    send(&mut socket, &Answer::Failed(failure));
    ExitCode::from(code)
}

fn send(socket: &mut UnixStream, answer: &Answer) {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    // If nobody receives the answer, nobody is waiting for it.
    let _ = socket.write_all(&line);
}

fn read_plan(socket: &mut UnixStream) -> Result<Plan, Failure> {
    let mut bytes = Vec::new();
    step("its plan", || socket.read_to_end(&mut bytes))?;
    step("its plan", || socket.shutdown(Shutdown::Read))?;
    step("its plan", || serde_json::from_slice(&bytes).map_err(io::Error::other))
}

/// Makes this process the init of the command that runs alongside the task.
fn enter(plan: &Plan) -> Result<Init, Failure> {
    // From now on only root may trace this process or look into it. A user's driver has nobody to hide the process
    // from, and could no longer write its own files in /proc.
    let hide = || {
        if rustix::process::geteuid().is_root() {
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        }
        Ok(())
    };
    step("its own protection", hide)?;
    let nothing = step("its streams", || File::options().read(true).write(true).open("/dev/null"))?;
    let task = Joined::look(plan)?;
    task.take_on(plan)?;
    let init = start(plan, &task)?;
    // The streams belong to the command, and are closed when it ends.
    step("its streams", || {
        rustix::stdio::dup2_stdin(&nothing)?;
        rustix::stdio::dup2_stdout(&nothing)?;
        Ok(rustix::stdio::dup2_stderr(&nothing)?)
    })?;
    Ok(init)
}

/// What this process takes over from the task. Everything that can be read is read before any privilege is given up.
struct Joined {
    inherited: Inherited,
    filters: kernel::Filters,
    namespaces: Namespaces,
    root: File,
}

impl Joined {
    /// Reads the state of the task's main process.
    fn look(plan: &Plan) -> Result<Self, Failure> {
        let proc = PathBuf::from(format!("/proc/{}", plan.main_pid));
        let task = Pid::from_raw(plan.main_pid)
            .ok_or_else(|| failed("its main process", &io::ErrorKind::NotFound.into()))?;
        // Stands for this process alone, whatever becomes of the PID.
        let pidfd = step("its main process", || Ok(rustix::process::pidfd_open(task, PidfdFlags::empty())?))?;
        let cgroups = step("its cgroup", || fs::read_to_string(proc.join("cgroup")))?;
        if !cgroups.lines().any(|line| line.starts_with("0::") && line.ends_with(&plan.unit_cgroup)) {
            return Err(failed("its main process", &io::Error::other("it has ended")));
        }
        let inherited = step("what it inherited", || Inherited::of(&proc, task))?;
        let is_root = rustix::process::geteuid().is_root();
        let is_filtered = inherited.is_filtered() && !inherited.is_filtered_like_every_init();
        if is_filtered && !is_root {
            let reason = "the kernel shows them to root alone, and the command must have the same; without root only a \
                          task whose system calls are not filtered can be joined (`sandbox` with `preset = \"off\"`)";
            return Err(failed("its system call filters", &io::Error::other(reason)));
        }
        let filters = step("its system call filters", || {
            kernel::filters_of(task, is_root && inherited.is_filtered() || is_filtered)
        })?;
        let namespaces = step("its namespaces", || Namespaces::of(&proc, plan.has_user_namespace))?;
        let root = step("its root directory", || File::open(proc.join("root")))?;
        // The process is alive, so everything above belongs to it and not to another process with its PID.
        step("its main process", || kernel::send_signal(&pidfd, 0))?;
        let still_there = step("its cgroup", || fs::read_to_string(proc.join("cgroup")))?;
        if still_there != cgroups {
            return Err(failed("its main process", &io::Error::other("it has ended")));
        }
        Ok(Self { inherited, filters, namespaces, root })
    }

    /// Makes this process one of the task's, except for the system call filters.
    fn take_on(&self, plan: &Plan) -> Result<(), Failure> {
        step("nothing of the driver", kernel::set_cloexec_on_descriptors)?;
        step("its cgroup", || fs::write(plan.cgroup.join("cgroup.procs"), "0"))?;
        self.inherited.take_on()?;
        step("its groups", || plan.identity.join_groups(&self.inherited))?;
        step("its namespaces", || self.namespaces.join())?;
        step("its root directory", || {
            rustix::process::fchdir(&self.root)?;
            Ok(rustix::process::chroot(".")?)
        })?;
        step("its user namespace", || self.namespaces.join_user())?;
        step("a session of its own", || {
            rustix::process::setsid()?;
            kernel::join_new_keyring()
        })?;
        step("its user", || plan.identity.take_on(&self.inherited))?;
        // The change of user has reset it.
        step("its own protection", || {
            Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
        })
    }
}

/// Starts the command, with this process as its init.
fn start(plan: &Plan, task: &Joined) -> Result<Init, Failure> {
    let home = plan.identity.home();
    // After the change of user, which would reset it.
    step("the driver's life", || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let parent = rustix::process::getppid().map(Pid::as_raw_pid);
        if parent == Some(plan.driver_pid) { Ok(()) } else { Err(io::Error::other("it has ended")) }
    })?;
    step("its working directory", || std::env::set_current_dir(&plan.directory))?;
    let [command, arguments @ ..] = plan.argv.as_slice() else {
        let reason = "an empty command".to_owned();
        return Err(Failure::Command { command: String::new(), reason });
    };
    let mut process = Command::new(command);
    process.args(arguments).env_clear().envs(home).envs(&plan.env);
    if plan.terminal && !plan.env.contains_key("TERM") {
        process.env("TERM", "xterm");
    }
    // The PID of the command's parent. In another PID namespace the parent has no PID.
    let init = if task.namespaces.have_processes() { None } else { Some(rustix::process::getpid()) };
    let run_command = || {
        if plan.terminal {
            rustix::process::ioctl_tiocsctty(io::stdin())?;
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != init {
            return Err(io::Error::other("the driver has ended"));
        }
        // The last step: afterwards only what the task itself may do is possible.
        task.filters.install()?;
        Err(process.exec())
    };
    // The init does not get the job's filters, which could give it false answers about what is left (seccomp(2),
    // SECCOMP_RET_ERRNO).
    Init::start(None, run_command).map_err(|error| match error {
        task_init::Error::Program(error) => {
            let is_relative = error.kind() == io::ErrorKind::NotFound && !command.starts_with('/');
            let directory = plan.directory.display();
            let is_of_task = ["local/", "alloc/", "secrets/"].iter().any(|way| command.starts_with(way));
            let hint = match (is_relative, command.contains('/')) {
                (true, true) if is_of_task => format!(" (it was looked up in {directory} and in /)"),
                (true, true) => format!(" (the path is relative to {directory})"),
                (true, false) => format!(
                    " (a name alone is looked up in PATH; for a file in {directory} write ./{command})"
                ),
                (false, _) if error.kind() == io::ErrorKind::PermissionDenied => {
                    " (may the task's user execute it? a `template` makes an executable file with `perms = \"755\"`)".to_owned()
                }
                (false, _) => String::new(),
            };
            Failure::Command { command: command.clone(), reason: format!("{}{hint}", crate::chain(&error)) }
        }
        task_init::Error::Init { step, source } => failed(step, &source),
    })
}

fn step<T>(step: &str, act: impl FnOnce() -> io::Result<T>) -> Result<T, Failure> {
    act().map_err(|error| failed(step, &error))
}

fn failed(step: &str, error: &io::Error) -> Failure {
    Failure::Join { step: step.to_owned(), reason: error.to_string() }
}
