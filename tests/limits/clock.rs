//! The clock of the machine is set while tasks run.

use std::process::Command;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use tests::{Exit, Host, Job, Node};

/// The machine's clock, which is right again at the end.
struct Clock {
    /// How far it was set forward, in seconds.
    ahead: i64,
}

impl Clock {
    /// Sets it forward, or backward.
    fn jump(&mut self, seconds: i64) {
        let now = clock_gettime(ClockId::Realtime);
        clock_settime(ClockId::Realtime, Timespec { tv_sec: now.tv_sec + seconds, ..now }).unwrap();
        self.ahead += seconds;
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let back = -self.ahead;
        self.jump(back);
    }
}

/// Whether this is the virtual machine of the tests: nobody wants the clock of his own machine set.
fn is_emulated() -> bool {
    let virtualization = Command::new("systemd-detect-virt").output().unwrap();
    virtualization.stdout == b"qemu\n"
}

const DAY: i64 = 24 * 60 * 60;

#[tokio::test]
async fn a_clock_that_jumps_ends_no_task_and_hides_no_exit() {
    let host: Host = host!(alone);
    if !is_emulated() {
        return eprintln!("ignored: it would set the clock of this machine");
    }
    let node = Node::configured(&host, "lost_after = \"1s\"").await;
    let mut clock = Clock { ahead: 0 };
    for seconds in [-DAY, 2 * DAY, -DAY] {
        let before =
            node.run(Job::shell("trap 'exit 23' USR1; echo ready; while :; do sleep 0.1; done")).await;
        clock.jump(seconds);
        // Started on the other side of the jump, for longer than lost tasks are waited for.
        let short = node.output_of(Job::shell("sleep 2; echo hello")).await;
        assert_eq!(short, "hello\n", "{seconds} seconds");
        let job = Job::shell("exec sleep infinity").config("limits {\n runtime_max = \"1s\"\n }");
        let limited = node.run(job).await;
        assert_eq!(node.finish(limited).await.0, Exit::signal(15), "{seconds} seconds");
        assert!(node.stop(&before, "SIGUSR1", Duration::from_secs(20)).await.is_ok());
        assert_eq!(node.finish(before).await.0, Exit::status(23), "{seconds} seconds");
    }
}
