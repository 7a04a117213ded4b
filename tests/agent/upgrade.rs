//! The driver is replaced while tasks run, and an agent that does not come up.

use std::fs;
use std::io;
use std::path::PathBuf;

use futures_util::future::join_all;
use rustix::process::Signal;
use tests::{Agent, Alloc, Spec, eventually, programs};

/// A task that runs until it is told to end.
const WAITING: &str = "echo ready; trap 'echo heard' USR1; until test -e $NOMAD_ALLOC_DIR/data/enough; do sleep 0.2; done; exit 23";

/// The programs of an earlier release, if they are named: `NOMAD_SYSTEMD_BEFORE=/directory`. Otherwise those under test,
/// so that everything but the versions is tried.
fn earlier() -> PathBuf {
    let named = std::env::var_os("NOMAD_SYSTEMD_BEFORE").map(PathBuf::from);
    if named.is_none() {
        eprintln!("without NOMAD_SYSTEMD_BEFORE both releases are the same");
    }
    named.unwrap_or_else(programs)
}

/// The process of each task.
fn processes(allocs: &[Alloc<'_>]) -> Vec<u32> {
    allocs.iter().map(|alloc| alloc.processes()[0]).collect()
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn an_upgrade_and_a_rollback_under_fifty_tasks_lose_none() {
    let before = earlier();
    let agent = ours!(Agent::alone());
    let installed = agent.installed();
    agent.install(&before);
    drop(agent);
    let agent = ours!(Agent::configured("shim_dir", installed.display().to_string().into()));
    for (was, becomes) in [(&before, &programs()), (&programs(), &before)] {
        agent.install(was);
        agent.end(Signal::INT).await;
        agent.start().await;
        let allocs = join_all((0..50).map(|_| agent.run(Spec::batch(WAITING)))).await;
        join_all(allocs.iter().map(|alloc| alloc.says("ready"))).await;
        let running = processes(&allocs);

        // Written in place the file is busy, and stays what it was.
        let in_place = fs::OpenOptions::new().write(true).open(installed.join("nomad-driver-systemd"));
        assert_eq!(in_place.unwrap_err().kind(), io::ErrorKind::ExecutableFileBusy);
        agent.install(becomes);
        assert_eq!(processes(&allocs), running, "as long as the agent runs on");
        agent.end(Signal::INT).await;
        agent.start().await;
        assert_eq!(processes(&allocs), running, "with the other release");

        // The other release has each of them: it signals it, and tells its exit status.
        for alloc in &allocs {
            alloc.was_restarted(0).await;
            alloc.order(&["signal", "-s", "SIGUSR1"]).await;
            alloc.says("heard").await;
            fs::write(alloc.shared_file("enough"), "").unwrap();
        }
        for alloc in &allocs {
            assert_eq!(alloc.end().await, (23, 0, false));
            assert_eq!(agent.host().units(alloc.id()), [""; 0]);
        }
    }
}

#[tokio::test]
#[ignore = "needs a Nomad agent: NOMAD=/path/to/nomad"]
async fn an_agent_that_does_not_come_up_leaves_no_driver_and_loses_no_task() {
    let agent = ours!(Agent::alone());
    let alloc = agent.run(Spec::batch(WAITING)).await;
    alloc.says("ready").await;
    let main = alloc.processes()[0];
    agent.end(Signal::INT).await;
    for _ in 0..2 {
        agent.fail_to_start().await;
        eventually("no driver is left", async || (!agent.has_plugin()).then_some(())).await;
        assert_eq!(alloc.processes()[0], main);
    }
    agent.start().await;
    fs::write(alloc.shared_file("enough"), "").unwrap();
    assert_eq!(alloc.end().await, (23, 0, false));
}
