//! The init of a task (shim/src/init.rs), watched without systemd.
//!
//! A task can end its init. Then what is left of the task would be systemd's to reap, which a task can use to keep systemd
//! from everything else; so the driver ends the rest as soon as the kernel says that the init is gone.

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::unix::pipe;

use crate::task::live::cgroup::Cgroup;

/// The init of a task that runs.
#[derive(Debug)]
pub(crate) struct InitWatch {
    /// Readable when the process has ended (pidfd_open(2)), which is all that is asked of it.
    process: pipe::Receiver,
    cgroup: Cgroup,
}

impl InitWatch {
    /// The process of that number, if it is still one of that unit.
    pub(crate) fn of(pid: u32, unit: &str) -> Option<Self> {
        let process = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::NONBLOCK).ok()?;
        // Asked after it is held, so that both are about the same process.
        let cgroup = Cgroup::of_process(pid, unit)?;
        Some(Self { process: pipe::Receiver::from_owned_fd_unchecked(process).ok()?, cgroup })
    }

    /// Waits for its end, and ends what it leaves; for ever, where there is none.
    pub(crate) async fn end_what_is_left(init: Option<Self>) {
        let Some(init) = init else { return std::future::pending().await };
        if init.process.readable().await.is_ok() {
            init.cgroup.kill();
        }
    }
}
