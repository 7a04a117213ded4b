//! How a task ends, by itself and by others.

use std::path::Path;
use std::time::{Duration, Instant};

use proto::driver::TaskState;
use tests::{Exit, Job, Node, SOON, eventually};
use tonic::Code;

#[tokio::test]
async fn a_signal_that_ends_a_task_is_told() {
    let host = host!();
    let node = Node::start(&host).await;
    for (name, number) in [("KILL", 9), ("SEGV", 11), ("TERM", 15), ("PIPE", 13), ("USR1", 10)] {
        let task = node.run(Job::shell(&format!("kill -{name} $$"))).await;
        assert_eq!(node.wait(&task).await, Exit::signal(number), "{name}");
        assert_eq!(node.state(&task).await, TaskState::Exited);
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn everybody_who_waits_gets_the_same_answer_also_long_after() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("while ! test -e go; do sleep 0.05; done; exit 5")).await;
    let go = task.alloc_dir().join("web/local/go");
    let (first, second, ()) = tokio::join!(node.wait(&task), node.wait(&task), async {
        std::fs::write(&go, "").unwrap();
    });
    assert_eq!((&first, &second), (&Exit::status(5), &Exit::status(5)));
    assert_eq!(node.wait(&task).await, first);
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn stop_sends_the_jobs_signal_and_the_task_may_end_in_its_own_way() {
    let host = host!();
    let node = Node::start(&host).await;
    for (signal, trapped) in [("SIGTERM", "TERM"), ("sigusr1", "USR1"), ("HUP", "HUP"), ("", "INT")] {
        let script = format!("trap 'echo bye; exit 3' {trapped}; echo ready; while :; do sleep 0.05; done");
        let mut task = node.run(Job::shell(&script)).await;
        task.says("ready").await;
        node.stop(&task, signal, SOON).await.unwrap();
        assert_eq!(node.finish(task).await.0, Exit::status(3), "{signal:?}");
    }
}

#[tokio::test]
async fn a_task_that_ignores_its_signal_is_killed_with_all_its_children() {
    let host = host!();
    let node = Node::start(&host).await;
    let script = "trap '' TERM; (trap '' TERM; echo child; exec sleep infinity) & echo ready; while :; do sleep 0.05; done";
    let mut task = node.run(Job::shell(script)).await;
    task.says("ready").await;
    let cgroup = host.property(&node.unit(&task).await, "ControlGroup");
    node.stop(&task, "SIGTERM", Duration::from_millis(200)).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::signal(9));
    eventually("no process is left", async || {
        let left =
            std::fs::read_to_string(format!("/sys/fs/cgroup{cgroup}/cgroup.procs")).unwrap_or_default();
        left.is_empty().then_some(())
    })
    .await;
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn children_do_not_outlive_the_main_process() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("sleep infinity & echo $! > /alloc/data/child; exit 0")).await;
    assert_eq!(node.wait(&task).await, Exit::status(0));
    let child = std::fs::read_to_string(task.alloc_dir().join("alloc/data/child")).unwrap();
    let proc = format!("/proc/{}", child.trim());
    eventually("the child is gone", async || (!Path::new(&proc).exists()).then_some(())).await;
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_signal_reaches_the_task() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut task =
        node.run(Job::shell("trap 'echo reloaded' HUP; echo ready; while :; do sleep 0.05; done")).await;
    task.says("ready").await;
    node.signal(&task, "SIGHUP").await.unwrap();
    task.says("reloaded").await;
    let refusal = node.signal(&task, "SIGNOPE").await.unwrap_err();
    assert!(refusal.code == Code::InvalidArgument && refusal.message.contains("`SIGNOPE`"), "{refusal:?}");
    assert_eq!(node.state(&task).await, TaskState::Running);
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_task_is_stopped_by_every_name_of_a_signal_and_in_spite_of_a_wrong_one() {
    let host = host!();
    let node = Node::start(&host).await;
    for (name, exit) in
        [("SIGIOT", Exit::signal(6)), ("SIGUSR2", Exit::signal(12)), ("SIGNOPE", Exit::signal(2))]
    {
        let task = node.run(Job::shell("exec perl -e 'sleep 1000'")).await;
        node.stop(&task, name, SOON).await.unwrap();
        assert_eq!(node.wait(&task).await, exit, "{name}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn destroy_leaves_nothing() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut left = Vec::new();
    for script in ["exit 0", "exit 1", "kill -9 $$", "exec sleep infinity"] {
        let task = node.run(Job::shell(script)).await;
        let unit = node.unit(&task).await;
        if script.contains("sleep") {
            let refusal = node.destroy(&task, false).await.unwrap_err();
            assert!(refusal.message.contains("still running"), "{refusal}");
            assert_eq!(node.state(&task).await, TaskState::Running);
        } else {
            node.wait(&task).await;
        }
        node.destroy(&task, true).await.unwrap();
        assert_eq!(host.property(&unit, "LoadState"), "not-found", "{script}");
        assert_eq!(node.inspect(&task).await.unwrap_err().code, Code::NotFound);
        node.destroy(&task, true).await.unwrap(); // again, as Nomad may
        node.stop(&task, "SIGTERM", SOON).await.unwrap();
        let alloc = &task.id[..36];
        assert_eq!(host.units(alloc), Vec::<String>::new(), "no unit is left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(alloc), "no mount is left: {mounts}");
        left.push(unit);
    }
    for unit in left {
        // systemd's own file for journald stays until journald has read the last lines.
        let files = || host.run("find", &["/run", "/tmp", "/var/tmp", "-name", &format!("*{unit}*")]);
        eventually("no file is left", async || files().is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn the_end_of_a_task_is_not_held_up_by_children_that_ignore_their_signal() {
    let host = host!();
    let node = Node::start(&host).await;
    let began = Instant::now();
    let task = node.run(Job::shell("(trap '' TERM; exec sleep infinity) & exit 5")).await;
    assert_eq!(node.wait(&task).await, Exit::status(5));
    assert!(began.elapsed() < SOON, "systemd's own patience is 90 s: {:?}", began.elapsed());
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_stop_without_patience_kills_at_once_whatever_group_the_processes_are_in() {
    let host = host!();
    let node = Node::start(&host).await;
    let script = "setsid sh -c 'trap \"\" TERM INT; echo $$; while :; do sleep 0.05; done' & wait";
    let mut task = node.run(Job::shell(script)).await;
    let grandchild = task.read_until("\n").await;
    node.stop(&task, "SIGINT", Duration::ZERO).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::signal(9));
    let left = Path::new("/proc").join(grandchild.trim());
    eventually("the grandchild is gone", async || (!left.exists()).then_some(())).await;
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_program_that_does_nothing_about_its_signal_is_ended_by_it() {
    let host = host!();
    let node = Node::start(&host).await;
    for (signal, number) in [("", 2), ("SIGINT", 2), ("SIGTERM", 15), ("SIGQUIT", 3)] {
        let task = node.run(Job::command("/bin/sleep").args(&["infinity"])).await;
        node.stop(&task, signal, SOON).await.unwrap();
        assert_eq!(node.wait(&task).await, Exit::signal(number), "{signal:?}");
        assert_eq!(node.state(&task).await, TaskState::Exited);
        node.stop(&task, signal, SOON).await.unwrap(); // a task that has ended is stopped
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_stop_and_a_destroy_during_the_start_leave_nothing() {
    let host = host!();
    let node = Node::start(&host).await;
    for _ in 0..5 {
        let prepared = node.prepare(&Job::shell("exec sleep infinity"));
        let (id, alloc) = (prepared.config.id.clone(), prepared.config.alloc_id.clone());
        let destroy = async {
            let request = proto::driver::DestroyTaskRequest { task_id: id.clone(), force: true };
            node.driver().destroy_task(request).await
        };
        let (started, destroyed) = tokio::join!(node.begin(prepared), destroy);
        destroyed.unwrap();
        // Whichever comes first, Nomad's next call ends it.
        if let Ok(task) = started {
            node.stop(&task, "SIGTERM", SOON).await.unwrap();
            node.destroy(&task, true).await.unwrap();
        }
        assert_eq!(host.units(&alloc), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_waiter_that_gives_up_does_not_touch_the_task() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("while ! test -e go; do sleep 0.05; done; exit 6")).await;
    let patience = Duration::from_millis(100);
    assert!(tokio::time::timeout(patience, node.wait(&task)).await.is_err());
    assert_eq!(node.state(&task).await, TaskState::Running);
    std::fs::write(task.alloc_dir().join("web/local/go"), "").unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(6));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_task_whose_log_collector_died_gets_a_broken_pipe_as_any_process_does() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut task = node.run(Job::shell("echo ready; while :; do echo more; sleep 0.05; done")).await;
    task.says("ready").await;
    task.close_logs();
    assert_eq!(node.wait(&task).await, Exit::signal(13));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn the_allocation_can_be_deleted_as_soon_as_its_task_is_destroyed() {
    let host = host!();
    let node = Node::start(&host).await;
    for _ in 0..5 {
        let task = node.run(Job::shell("echo x > /alloc/data/x; exec sleep infinity")).await;
        let directory = task.alloc_dir().to_owned();
        node.destroy(&task, true).await.unwrap();
        // Nomad deletes all files that it finds, also below a mount that was left there.
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(Path::new("/usr/bin/env").exists() && Path::new("/etc/passwd").exists());
    }
}
