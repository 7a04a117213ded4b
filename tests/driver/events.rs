//! What `nomad alloc status` shows of a task in addition to its start and end.

use std::time::Duration;

use tests::{Exit, Job, Node, eventually};

use crate::guest;

#[tokio::test]
async fn the_unit_and_the_process_are_told_at_the_start() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let task = node.run(Job::shell("exec sleep infinity")).await;
    let unit = node.unit(&task).await;
    let event = events.next_of(&task).await;
    let pid = host.property(&unit, "MainPID");
    assert_eq!(event.message, format!("Runs as unit {unit}, process {pid}"));
    assert_eq!((&event.annotations["unit"], &event.annotations["pid"]), (&unit, &pid));
    assert!(event.timestamp.is_some());
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_file_in_args_that_is_not_where_the_task_begins_is_told_of() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let script = b"#!/bin/sh\nexit 3\n";
    let told = |args: &[&str], more: &str| Job::artifact("run.sh", script).args(args).config(more);
    let task = node.run(told(&["local/run.sh"], "")).await;
    assert_eq!(node.wait(&task).await, Exit::status(3));
    let event = events.until(&task, "`args`: ").await;
    assert!(event.message.starts_with("`args`: local/run.sh is looked up in"), "{event:?}");
    node.destroy(&task, true).await.unwrap();
    let task = node.run(told(&[], "").env("CONF", "./local/run.sh")).await;
    let event = events.until(&task, "`env`: ").await;
    assert!(event.message.contains("CONF is ./local/run.sh") && event.message.contains("${NOMAD_TASK_DIR}"));
    node.wait(&task).await;
    node.destroy(&task, true).await.unwrap();
    for (args, more) in
        [(&["/local/run.sh"], ""), (&["local/none"], ""), (&["local/run.sh"], "work_dir = \"/\"")]
    {
        let task = node.run(told(args, more)).await;
        node.wait(&task).await;
        assert!(events.next_of(&task).await.message.contains(" as unit "));
        node.destroy(&task, true).await.unwrap();
        let next = node.run(Job::shell("true")).await;
        node.wait(&next).await;
        let others = events.before(&next).await;
        assert!(!others.iter().any(|event| event.message.contains("`args`")), "{args:?} {more}: {others:?}");
    }
}

/// A template at `/etc/app.conf`, which `exec` shows there, is rendered outside of `local`.
#[tokio::test]
async fn a_template_that_the_task_does_not_see_is_told_of() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let task = node.run(Job::shell("test ! -e /app.conf").file("../app.conf", b"a = 1\n")).await;
    assert_eq!(node.wait(&task).await, Exit::status(0));
    let event = events.until(&task, "\"app.conf\" in the task directory").await;
    assert!(event.message.contains("below `local/`"), "{event:?}");
}

/// Nomad keeps ten events of a task.
#[tokio::test]
async fn a_restart_is_told_of_by_nomad_alone() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let prepared = node.prepare(&Job::shell("exit 3"));
    let mut again = prepared.config.clone();
    let mut task = node.begin(prepared).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(3));
    assert!(events.next_of(&task).await.message.contains(" as unit nomad-"));
    for run in 0..2 {
        node.destroy(&task, true).await.unwrap();
        again.id.replace_range(again.id.len() - 8.., &format!("0000000{run}"));
        task = node.start_again(task, again.clone()).await.unwrap();
        assert_eq!(node.wait(&task).await, Exit::status(3));
    }
    let marker = node.run(Job::shell("exec sleep infinity")).await;
    let told = events.before(&marker).await;
    assert!(told.iter().all(|event| !again.id.starts_with(&event.alloc_id)), "{told:?}");
    for task in [task, marker] {
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_task_that_does_not_end_in_time_is_told_of() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let mut task = node.run(Job::shell("trap '' TERM; echo ready; while :; do sleep 0.05; done")).await;
    task.says("ready").await;
    node.stop(&task, "SIGTERM", Duration::from_millis(100)).await.unwrap();
    let event = events.until(&task, "Did not end").await;
    assert_eq!(event.message, "Did not end within 100ms of SIGTERM: killed with all its processes");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_guests_trap_is_told_with_its_reason() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let task = node.run(Job::artifact("trap.wasm", &guest("trap.wat"))).await;
    let event = events.until(&task, "WebAssembly").await;
    assert!(event.message.starts_with("WebAssembly: trap: "), "{event:?}");
    assert_eq!(node.wait(&task).await, Exit::status(134));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_unit_that_an_administrator_stops_is_told_of() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let task = node.run(Job::shell("exec sleep infinity")).await;
    host.run("systemctl", &["stop", "--", &node.unit(&task).await]);
    events.until(&task, "stopped by somebody else").await;
    assert_eq!(node.wait(&task).await, Exit::signal(15));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn everybody_who_listens_hears_and_nobody_is_held_up_by_one_who_does_not() {
    let host = host!();
    let node = Node::start(&host).await;
    let (mut first, _never_reads, mut second) =
        (node.events().await, node.events().await, node.events().await);
    let task = node.run(Job::shell("exit 0")).await;
    assert_eq!(first.next_of(&task).await, second.next_of(&task).await);
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_port_of_a_network_that_the_group_has_not_is_told() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let job = Job::command("/bin/sleep").args(&["infinity"]).port("http", 23_000).port("admin", 23_456);
    let task = node.run(job.with(|request| request.ports[1].to = 8080)).await;
    let wait = node.wait(&task);
    let event = tokio::select! {
        _ = wait => panic!("it ended"),
        event = events.until(&task, "`to = 8080`") => event,
    };
    assert!(event.message.contains("nothing leads from port 23456 to 8080"), "{}", event.message);
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn the_journal_has_events_among_the_entries_of_their_unit() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::artifact("trap.wasm", &guest("trap.wat"))).await;
    let (unit, alloc) = (node.unit(&task).await, task.id[..36].to_owned());
    node.finish(task).await;
    let id = "MESSAGE_ID=ae594daf8ab249abae90088bd1b01d74";
    let line = eventually("the entry", async || {
        let found = host.run("journalctl", &["--quiet", "--output=json", "--unit", &unit, id]);
        found.lines().next().map(str::to_owned)
    })
    .await;
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (field, value) in [
        ("NOMAD_ALLOC_ID", alloc.as_str()),
        ("NOMAD_TASK_NAME", "web"),
        ("WASM_OUTCOME", "trap"),
        ("PRIORITY", "3"),
        ("SYSLOG_IDENTIFIER", "nomad-driver-systemd"),
    ] {
        assert_eq!(entry[field], value, "{field} in {entry}");
    }
    assert!(entry["MESSAGE"].as_str().unwrap().starts_with("WebAssembly: trap: "), "{entry}");
}

#[tokio::test]
async fn a_path_of_the_node_that_the_task_does_not_see_is_told_of() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"/srv\"]").await;
    let mut events = node.events().await;
    let wait = "; trap '' TERM; echo ready; while :; do sleep 0.1; done";
    for (job, told) in [
        (
            Job::shell(&format!("ls '/srv/media'/*.jpg{wait}")),
            Some("`args`: the task sees no /srv/media of the node"),
        ),
        (
            Job::shell(wait.trim_start_matches("; ")).env("WATCH", "/var/spool/in"),
            Some("`env`: WATCH: the task sees no /var/spool/in"),
        ),
        (Job::shell(&format!("true /srv/x\u{202e}y{wait}")), Some("sees no /srv/x\\u202ey of the node")),
        (Job::shell(&format!("true /srv /usr/share/x /api/opt/x{wait}")), None),
        (
            Job::shell(&format!("ls /srv/a/b{wait}"))
                .config("files {\n temporary_file_system = [\"/srv/a\"]\n}"),
            None,
        ),
    ] {
        let mut task = node.run(job).await;
        task.says("ready").await;
        let is_told = async {
            if let Some(words) = told {
                return drop(events.until(&task, words).await);
            }
            // The last event of this task.
            node.stop(&task, "SIGTERM", Duration::from_millis(300)).await.unwrap();
            loop {
                let event = events.next_of(&task).await;
                assert!(!event.message.contains("the task sees no"), "{event:?}");
                if event.message.contains("Did not end within") {
                    return;
                }
            }
        };
        tokio::select! {
            () = is_told => {}
            () = async { node.wait(&task).await; std::future::pending::<()>().await } => {}
        }
        node.destroy(&task, true).await.unwrap();
    }
}
