//! What survives restarts of the plugin, the agent, the bus and systemd.

use std::time::Duration;

use tests::{Exit, Host, Job, MAY_NOTIFY, Need, Node, SOON, eventually};
use tonic::Code;

#[tokio::test]
async fn tasks_run_on_when_the_plugin_is_killed_and_are_found_again() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let mut task = node.run(Job::shell("trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done")).await;
    task.says("ready").await;
    let before = node.inspect(&task).await.unwrap();
    node.restart().await;
    assert_eq!(node.inspect(&task).await.unwrap_err().code, Code::NotFound);
    node.recover(&task).await.unwrap();
    node.recover(&task).await.unwrap(); // as a new agent does with a plugin that it found running
    assert_eq!(node.inspect(&task).await.unwrap(), before, "the same unit, process and start time");
    node.stop(&task, "SIGTERM", SOON).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(4));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_told_afterwards() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let ends = [
        ("exit 0", Exit::status(0)),
        ("exit 9", Exit::status(9)),
        ("kill -9 $$", Exit::signal(9)),
        ("kill $$", Exit::signal(15)),
    ];
    let mut tasks = Vec::new();
    for (end, exit) in ends {
        let script = format!("while ! test -e /local/go; do sleep 0.05; done; {end}");
        tasks.push((node.run(Job::shell(&script)).await, exit));
    }
    let units: Vec<String> = {
        let mut units = Vec::new();
        for (task, _) in &tasks {
            units.push(node.unit(task).await);
        }
        units
    };
    node.plugin().kill().await;
    for (task, _) in &tasks {
        std::fs::write(task.alloc_dir().join("web/local/go"), "").unwrap();
    }
    for unit in &units {
        eventually("it ended", async || {
            matches!(host.property(unit, "SubState").as_str(), "exited" | "failed").then_some(())
        })
        .await;
    }
    node.restart().await;
    for (task, exit) in &tasks {
        node.recover(task).await.unwrap();
        assert_eq!(node.wait(task).await, *exit);
        node.destroy(task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_unit_that_was_stopped_from_outside_is_told_from_a_reboot() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let mut task = node.run(Job::shell("exec sleep infinity")).await;
    let unit = node.unit(&task).await;
    node.plugin().kill().await;
    host.run("systemctl", &["stop", "--", &unit]);
    node.restart().await;
    node.recover(&task).await.unwrap();
    let exit = node.wait(&task).await;
    assert!(exit.code != 0 && exit.error.contains("systemctl stop"), "{exit:?}");
    node.destroy(&task, true).await.unwrap();
    // The machine has rebooted in between.
    let state = String::from_utf8(task.handle.driver_state.clone()).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    task.handle.driver_state =
        state.replace(boot.trim(), "00000000-0000-0000-0000-000000000000").into_bytes();
    assert!(node.recover(&task).await.unwrap_err().message.contains("booted"));
}

#[tokio::test]
async fn the_exit_status_survives_even_the_removal_of_the_unit_while_nobody_was_there() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let task = node.run(Job::shell("trap 'exit 7' TERM; touch go; while :; do sleep 0.05; done")).await;
    let ready = task.alloc_dir().join("web/local/go");
    eventually("it is ready", async || ready.exists().then_some(())).await;
    let unit = node.unit(&task).await;
    node.plugin().kill().await;
    host.run("systemctl", &["stop", "--", &unit]);
    host.run("systemctl", &["reset-failed", "--", &unit]);
    assert_eq!(host.property(&unit, "LoadState"), "not-found");
    node.restart().await;
    let mut events = node.events().await;
    node.recover(&task).await.unwrap();
    assert!(events.next_of(&task).await.message.contains("stopped by somebody else"));
    assert_eq!(node.wait(&task).await, Exit::status(7), "systemd wrote it into the journal");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_unit_that_failed_and_was_removed_while_nobody_was_there_has_failed() {
    let host = host!();
    let mut node = Node::start(&host).await;
    // The task treats the signal as a request, and exits successfully.
    let script = "trap 'exit 0' TERM; while ! test -e /local/go; do sleep 0.05; done; touch /local/late; while :; do sleep 0.05; done";
    let task = node.run(Job::shell(script).config("limits { runtime_max = \"3s\" }")).await;
    let unit = node.unit(&task).await;
    node.plugin().kill().await;
    eventually("it is ended", async || (host.property(&unit, "SubState") == "failed").then_some(())).await;
    host.run("systemctl", &["reset-failed", "--", &unit]);
    assert_eq!(host.property(&unit, "LoadState"), "not-found");
    node.restart().await;
    node.recover(&task).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit { code: 143, ..Exit::signal(15) });
    node.destroy(&task, true).await.unwrap();
}

/// Nomad recovers tasks that have ended, too.
#[tokio::test]
async fn a_task_that_had_ended_and_was_destroyed_was_not_stopped_from_outside() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let mut tasks = Vec::new();
    for code in [0, 3] {
        let task = node.run(Job::shell(&format!("exit {code}"))).await;
        assert_eq!(node.wait(&task).await, Exit::status(code));
        node.destroy(&task, true).await.unwrap();
        tasks.push((task, code));
    }
    node.restart().await;
    let mut events = node.events().await;
    for (task, code) in &tasks {
        node.recover(task).await.unwrap();
        let exit = node.wait(task).await;
        assert!(*code == 0 || exit == Exit::status(*code), "{exit:?}");
    }
    let marker = node.run(Job::shell("exec sleep infinity")).await;
    let told = events.before(&marker).await;
    let is_ours = |id: &str| tasks.iter().any(|(task, _)| task.id == id);
    assert!(told.iter().all(|event| !is_ours(&event.task_id)), "{told:?}");
    for task in tasks.iter().map(|(task, _)| task).chain([&marker]) {
        node.destroy(task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_task_that_nomad_has_lost_is_ended_after_a_while_and_no_other() {
    let host = host!();
    let options = r#"lost_after = "2s""#;
    let mut node = Node::configured(&host, options).await;
    let other_agents = Node::configured(&host, options).await;
    let sleeper = || Job::shell("exec sleep infinity");
    let (lost, kept) = (node.run(sleeper()).await, node.run(sleeper()).await);
    let others = other_agents.run(sleeper()).await;
    let (lost_unit, kept_unit) = (node.unit(&lost).await, node.unit(&kept).await);
    let others_unit = other_agents.unit(&others).await;
    node.restart().await;
    node.recover(&kept).await.unwrap();
    eventually("it is gone", async || (host.property(&lost_unit, "LoadState") == "not-found").then_some(()))
        .await;
    for unit in [&kept_unit, &others_unit] {
        assert_eq!(host.property(unit, "SubState"), "running", "{unit}");
    }
    node.destroy(&kept, true).await.unwrap();
    other_agents.destroy(&others, true).await.unwrap();
}

#[tokio::test]
async fn a_unit_that_an_administrator_stops_is_told_as_such() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("exec sleep infinity")).await;
    host.run("systemctl", &["stop", "--", &node.unit(&task).await]);
    let exit = node.wait(&task).await;
    assert!(exit == Exit::signal(15) || !exit.error.is_empty(), "{exit:?}");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_unit_without_a_handle_is_destroyed_by_its_id() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let task = node.run(Job::shell("exec sleep infinity")).await;
    let unit = node.unit(&task).await;
    node.restart().await;
    node.destroy(&task, true).await.unwrap();
    assert_eq!(host.property(&unit, "LoadState"), "not-found");
}

#[tokio::test]
async fn a_start_that_a_dying_plugin_did_not_see_through_is_gone_on_with() {
    let host = host!();
    let mut node = Node::start(&host).await;
    for (script, exit) in [
        ("echo x >> /alloc/data/starts; exec sleep infinity", None),
        ("echo x >> /alloc/data/starts; exit 201", Some(201)),
    ] {
        let prepared = node.prepare(&Job::shell(script));
        let config = prepared.config.clone();
        let task = node.begin(prepared).await.unwrap();
        let twice = proto::driver::StartTaskRequest { task: Some(config) };
        let refusal = node.driver().start_task(twice.clone()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::AlreadyExists);
        // Nomad never got the answer, and calls a new plugin again with the same id.
        node.restart().await;
        node.driver().start_task(twice).await.unwrap();
        if let Some(status) = exit {
            assert_eq!(node.wait(&task).await, Exit::status(status));
        }
        node.destroy(&task, true).await.unwrap();
        let starts = std::fs::read_to_string(task.alloc_dir().join("alloc/data/starts")).unwrap();
        assert_eq!(starts, "x\n", "no task is started twice");
    }
}

#[tokio::test]
async fn a_new_run_of_a_task_replaces_one_that_nobody_asks_for_any_more() {
    let host = host!();
    let mut node = Node::start(&host).await;
    for plugin_dies in [false, true] {
        let prepared = node.prepare(&Job::shell("exec sleep infinity"));
        let mut config = prepared.config.clone();
        let first = node.begin(prepared).await.unwrap();
        let unit = node.unit(&first).await;
        if plugin_dies {
            node.restart().await;
        }
        // The agent died before it had recorded the start: it knows the allocation and the task, and creates a new id.
        config.id.replace_range(config.id.len() - 8.., "ffffffff");
        let second = node.start_again(first, config).await.unwrap();
        assert_eq!(host.property(&unit, "LoadState"), "not-found");
        assert_eq!(host.units(&second.id[..36]).len(), 1, "one task, one unit");
        node.destroy(&second, true).await.unwrap();
    }
}

#[tokio::test]
async fn the_loss_of_the_bus_loses_no_exit() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let node = Node::start(&host).await;
    let long = node.run(Job::shell("while ! test -e /local/go; do sleep 0.05; done; exit 6")).await;
    host.run("systemctl", &["kill", "--signal=KILL", "dbus.service"]);
    std::fs::write(long.alloc_dir().join("web/local/go"), "").unwrap();
    assert_eq!(node.wait(&long).await, Exit::status(6));
    let after =
        eventually("a task starts again", async || node.try_run(Job::shell("exit 8")).await.ok()).await;
    assert_eq!(node.wait(&after).await, Exit::status(8));
    for task in [&long, &after] {
        node.destroy(task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_task_is_stopped_also_while_systemd_does_not_answer() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let node = Node::start(&host).await;
    // One exits on its signal, the other has to be killed, with its child.
    for (trap, end) in [("exit 3", Exit::status(3)), ("", Exit::signal(9))] {
        let script = format!("trap '{trap}' INT; sleep 1000 & echo ready; while :; do wait; done");
        let mut task = node.run(Job::shell(&script)).await;
        task.says("ready").await;
        let pid = host.property(&node.unit(&task).await, "MainPID");
        host.run("systemctl", &["kill", "--signal=STOP", "dbus.service"]);
        let stopped = node.stop(&task, "SIGINT", std::time::Duration::from_secs(2));
        let freed = async {
            let process = format!("/proc/{pid}/cwd");
            eventually("the task has ended", async || std::fs::metadata(&process).is_err().then_some(()))
                .await;
            host.run("systemctl", &["kill", "--signal=CONT", "dbus.service"]);
        };
        tokio::join!(stopped, freed).0.unwrap();
        assert_eq!(node.wait(&task).await, end);
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_start_survives_the_loss_of_the_bus_before_systemd_hears_of_it() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let node = Node::over_the_bus(&host).await;
    // The second task finds its slice and everything else prepared, so that only the request for its unit is lost.
    for status in [3, 4] {
        host.run("systemctl", &["kill", "--signal=STOP", "dbus.service"]);
        let job = Job::shell(&format!("echo begin >>/local/life; exit {status}"));
        let mut started = Box::pin(node.try_run(job));
        let answered = tokio::time::timeout(Duration::from_millis(200), &mut started).await;
        assert!(answered.is_err(), "the bus is frozen");
        host.run("systemctl", &["kill", "--signal=KILL", "dbus.service"]);
        let task = started.await.unwrap();
        assert_eq!(node.wait(&task).await, Exit::status(status));
        let life = std::fs::read_to_string(task.alloc_dir().join("web/local/life")).unwrap();
        assert_eq!(life, "begin\n", "it ran once");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_start_survives_the_loss_of_the_bus_while_systemd_works_at_it() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let node = Node::configured(&host, MAY_NOTIFY).await;
    let script = "echo begin >>/local/life; while ! test -e /local/go; do sleep 0.05; done; \
         systemd-notify --ready; exec sleep infinity";
    let job = Job::shell(script).config("notify {\n access = \"all\"\n ready_within = \"30s\"\n}");
    let prepared = node.prepare(&job);
    let local = prepared.config.alloc_dir.clone() + "/web/local";
    let (life, go) = (format!("{local}/life"), format!("{local}/go"));
    let mut started = Box::pin(node.begin(prepared));
    let begins = eventually("the task begins", async || std::path::Path::new(&life).exists().then_some(()));
    tokio::select! {
        () = begins => {}
        _ = &mut started => panic!("it is not ready"),
    }
    host.run("systemctl", &["kill", "--signal=KILL", "dbus.service"]);
    std::fs::write(go, "").unwrap();
    let task = started.await.unwrap();
    assert_eq!(std::fs::read_to_string(life).unwrap(), "begin\n", "it ran once");
    node.destroy(&task, true).await.unwrap();
}

/// A unit that systemd reads from its own file before it starts it has lost quotes, and the descriptors of its output.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_of_systemd_in_the_middle_of_a_start_changes_no_command() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    // A host path is pinned for the start, and for the second one too.
    let shared = tempfile::tempdir_in("/var/lib").unwrap();
    std::fs::set_permissions(shared.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(shared.path().join("code"), "5").unwrap();
    let shared = shared.path().display();
    let node = Node::configured(&host, &format!("allow_host_paths = [\"{shared}\"]")).await;
    let files = format!("files {{\n bind_read_only_paths = [\"{shared}:/mnt\"]\n}}");
    for _ in 0..6 {
        let job = || Job::shell("x='a;b'; echo \"$x $((1 + 2))\"; exit $(cat /mnt/code)").config(&files);
        let starts = futures_util::future::join_all((0..20).map(|_| node.run(job())));
        let reloads = async { tokio::task::block_in_place(|| host.run("systemctl", &["daemon-reload"])) };
        for task in tokio::join!(starts, reloads).0 {
            let (exit, output, errors) = node.finish(task).await;
            // A process that was started from a misread file is ended, but it may have written output.
            assert_eq!(exit, Exit::status(5), "{output}{errors}");
            assert_eq!(output.lines().filter(|line| *line == "a;b 3").count(), 1, "{output}{errors}");
        }
    }
}

#[tokio::test]
async fn a_reexec_of_systemd_loses_nothing() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("while ! test -e /local/go; do sleep 0.05; done; exit 6")).await;
    host.run("systemctl", &["daemon-reexec"]);
    // systemd reads its own file of the unit again.
    assert_eq!(host.property(&node.unit(&task).await, "LoadState"), "loaded");
    std::fs::write(task.alloc_dir().join("web/local/go"), "").unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(6));
    node.destroy(&task, true).await.unwrap();
}
