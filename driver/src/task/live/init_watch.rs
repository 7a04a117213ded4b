//! The init of a task (shim/src/init.rs), watched without systemd.
//!
//! A task can kill its init. Then systemd would have to reap the rest of the task, by which a task can keep systemd
//! from everything else; so the driver kills the rest as soon as the kernel reports that the init is gone.

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::unix::pipe;

use crate::task::live::cgroup::Cgroup;

/// The init of a running task.
#[derive(Debug)]
pub(crate) struct InitWatch {
    /// Readable when the process has exited (pidfd_open(2)); used for nothing else.
    process: pipe::Receiver,
    cgroup: Cgroup,
}

impl InitWatch {
    /// The process with this PID, if it still belongs to this unit.
    pub(crate) fn of(pid: u32, unit: &str) -> Option<Self> {
        let process = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::NONBLOCK).ok()?;
        // Looked up after the process is held, so that both refer to the same process.
        let cgroup = Cgroup::of_process(pid, unit)?;
        Some(Self { process: pipe::Receiver::from_owned_fd_unchecked(process).ok()?, cgroup })
    }

    /// Waits for the init's exit, and kills what it leaves; waits for ever if there is no init.
    pub(crate) async fn end_what_is_left(init: Option<Self>) {
        let Some(init) = init else { return std::future::pending().await };
        if init.process.readable().await.is_ok() {
            init.cgroup.kill();
        }
    }
}
