//! Commands inside a running task: `nomad alloc exec` and script checks.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tests::{DropIn, Exit, Job, Node, SOON, Task, eventually, program_of};
use tonic::Code;

use crate::guest;

/// A task that only runs.
async fn sleeper(node: &Node) -> Task {
    node.run(Job::shell("exec sleep infinity")).await
}

// ---- Without a terminal

#[tokio::test]
async fn a_command_has_streams_of_its_own_and_its_exit_code_is_told() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let session = node.exec(&task, "echo hello stdout; echo hello stderr >&2; exit 43").await;
    assert_eq!(session.finish().await, (Exit::status(43), "hello stdout\n".into(), "hello stderr\n".into()));
    let session = node.exec(&task, "kill -USR1 $$").await;
    assert_eq!(session.finish().await.0, Exit::signal(10));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn its_output_comes_when_it_is_written() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let mut session = node.exec(&task, "echo 1; head -n1; echo 3").await;
    session.says("1\n").await;
    session.heartbeat().await;
    session.send("2\n").await;
    session.says("2\n3\n").await;
    assert_eq!(session.finish().await, (Exit::status(0), "1\n2\n3\n".into(), String::new()));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_input_reaches_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let session = node.exec(&task, "cat; echo end").await;
    session.send("a line").await;
    session.end_input().await;
    assert_eq!(session.finish().await, (Exit::status(0), "a lineend\n".into(), String::new()));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn without_a_terminal_it_has_none() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let (exit, _, errors) = node.exec(&task, "stty size").await.finish().await;
    assert_eq!(exit, Exit::status(1));
    assert!(errors.contains("Inappropriate ioctl for device"), "{errors}");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_large_output_arrives_whole_and_in_order_also_of_many_at_once() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let one = async || {
        let (exit, output, _) = node.exec(&task, "seq 1 200000").await.finish().await;
        assert_eq!(exit, Exit::status(0));
        let numbers = output.lines().enumerate();
        assert!(numbers.into_iter().all(|(at, line)| line == (at + 1).to_string()));
        output.len()
    };
    let lengths = join_all((0..8).map(|_| one())).await;
    assert_eq!(lengths, [1_288_895; 8]);
    node.destroy(&task, true).await.unwrap();
}

// ---- On a terminal

#[tokio::test]
async fn on_a_terminal_both_streams_are_one_with_the_terminals_line_ends() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let session = node.exec_on_terminal(&task, "echo hello stdout; echo hello stderr >&2; exit 43").await;
    let expected = "hello stdout\r\nhello stderr\r\n";
    assert_eq!(session.finish().await, (Exit::status(43), expected.into(), String::new()));
    let script = "test -t 0 && test -t 1 && test -t 2 && echo x > /dev/tty && tty && echo \"$TERM\"";
    let (exit, output, _) = node.exec_on_terminal(&task, script).await.finish().await;
    assert_eq!(exit, Exit::status(0), "{output}");
    assert!(output.starts_with("x\r\n/dev/pts/") && output.ends_with("\r\nxterm\r\n"), "{output}");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_terminal_has_the_last_size_that_was_sent_and_the_command_is_told_of_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut session = node.exec_on_terminal(&task, script).await;
    session.says("ready").await;
    session.resize(50, 40).await;
    session.says("50 40").await;
    session.resize(100, 101).await;
    session.says("100 101").await;
    // Also a signal that is sent at once.
    let mut session = node.exec_on_terminal(&task, "read line; stty size").await;
    session.resize(33, 44).await;
    session.send("\n").await;
    session.says("33 44").await;
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn what_is_typed_is_echoed_and_control_c_is_a_signal() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let session = node.exec_on_terminal(&task, "head -n1").await;
    session.send("typed\n").await;
    assert_eq!(session.finish().await.1, "typed\r\ntyped\r\n");
    let mut session = node.exec_on_terminal(&task, "echo ready; exec sleep infinity").await;
    session.says("ready").await;
    session.send("\u{3}").await;
    assert_eq!(session.finish().await.0, Exit::signal(2));
    let session = node.exec_on_terminal(&task, "cat").await;
    session.end_input().await;
    assert_eq!(session.finish().await.0, Exit::status(0));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn what_a_command_leaves_in_the_background_does_not_hold_its_terminal_up_and_runs_on() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let script = "(trap '' HUP; echo up; exec sleep 1000) & read line; echo from main $!";
    let mut session = node.exec_on_terminal(&task, script).await;
    session.says("up").await;
    session.send("\n").await;
    let (exit, output, _) = session.finish().await;
    assert!(exit == Exit::status(0) && output.contains("from main "), "{exit:?} {output}");
    let child = output.trim().rsplit(' ').next().unwrap().to_owned();
    let alive = Path::new("/proc").join(&child);
    assert!(alive.exists(), "as in a container");
    node.destroy(&task, true).await.unwrap();
    assert!(!alive.exists(), "but not longer than the task");
}

// ---- Where it runs

#[tokio::test]
async fn a_command_is_in_every_respect_where_the_task_is() {
    let host = host!();
    let node = Node::configured(&host, "allow_root = \"host\"").await;
    let script = "
        for kind in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$kind; done
        pwd; ls -A /; cat /tmp/mine; readlink /proc/self/root
        grep -E '^(Uid|Gid|Groups|Umask|Cap[PEBA]|NoNewPrivs|Seccomp)' /proc/self/status
        cat /proc/self/limits /proc/self/oom_score_adj
        cut -d ' ' -f 19 /proc/self/stat
        cat /proc/self/personality
        env | grep -v -E '^(SYSTEMD_EXEC_PID|JOURNAL_STREAM|_|SHLVL|OLDPWD|[A-Z]+_PRESSURE_.*|LANG|PATH|SHELL)=' | sort";
    // Differences between releases of systemd: PATH, a root's SHELL, and inheritable capabilities, which are not
    // capabilities by themselves.
    for user in ["", "root", "nobody"] {
        let job = Job::shell(&format!("echo own > /tmp/mine; {script}; echo ready; exec sleep infinity"));
        let mut task = node.run(job.user(user).env("GREETING", "a 'b'\n\"c\"")).await;
        let of_the_task = task.read_until("ready\n").await;
        let of_the_command = node.output_in(&task, script).await + "ready\n";
        assert_eq!(of_the_command, of_the_task, "as {user:?}");
        let unit = node.unit(&task).await;
        let cgroup = node.output_in(&task, "cat /proc/self/cgroup").await;
        assert!(cgroup.contains(&format!("{}/exec-", host.property(&unit, "ControlGroup"))), "{cgroup}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_command_is_held_by_the_filters_of_the_task() {
    let host = host!();
    let node = Node::configured(&host, "allow_root = \"host\"").await;
    let job = Job::shell("echo ready; while :; do sleep 0.05; done").user("root");
    // An administrator's drop-in, so that systemd filters this task's system calls.
    let _drop_in = DropIn::new(
        &job.request.alloc_id,
        "[Service]\nSystemCallFilter=~chmod fchmodat fchmodat2\nSystemCallErrorNumber=EUCLEAN\n\
         MemoryDenyWriteExecute=yes\nCapabilityBoundingSet=~CAP_CHOWN CAP_SYS_ADMIN\nLimitNOFILE=77\n\
         Nice=3\nOOMScoreAdjust=123\nUMask=0027\n",
    );
    let mut task = node.run(job).await;
    task.says("ready").await;
    let script = "touch /local/x; chmod 700 /local/x; chown nobody /local/x; ulimit -n; nice; umask; \
                  cat /proc/self/oom_score_adj; grep -E '^(Seccomp|CapBnd|NoNew)' /proc/self/status";
    let (_, output, errors) = node.exec(&task, script).await.finish().await;
    assert!(errors.contains("Structure needs cleaning"), "the filter of system calls: {output}{errors}");
    assert!(errors.contains("Operation not permitted"), "the missing capability: {output}{errors}");
    assert!(output.starts_with("77\n3\n0027\n123\n"), "{output}");
    // As many filters as the task, and inspecting the task does not harm it.
    let pid = node.inspect(&task).await.unwrap().driver.unwrap().attributes["pid"].clone();
    let status = std::fs::read_to_string(format!("/proc/{}/status", program_of(&pid))).unwrap();
    for line in status.lines().filter(|line| line.starts_with("Seccomp") || line.starts_with("CapBnd")) {
        assert!(output.contains(line), "{line:?} in {output}");
    }
    assert!(status.contains("Seccomp:\t2"), "{status}");
    node.stop(&task, "SIGTERM", SOON).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::signal(15));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_command_for_a_guest_runs_in_the_unit_around_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::artifact("spin.wasm", &guest("spin.wat"))).await;
    let output = node.output_in(&task, "echo $NOMAD_TASK_DIR; ls /.wasm; id -u").await;
    let uid = host.property(&node.unit(&task).await, "UID");
    assert_eq!(output, format!("/local\nguest.cwasm\nnotify\nshim\n{uid}\n"));
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_command_in_a_recovered_task_has_its_environment_as_well() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let task = node.run(Job::shell("exec sleep infinity").env("TOKEN", "kept by nomad")).await;
    node.restart().await;
    node.recover(&task).await.unwrap();
    assert_eq!(node.output_in(&task, "echo $TOKEN").await, "kept by nomad\n");
    node.destroy(&task, true).await.unwrap();
}

// ---- Its end, and what is refused

#[tokio::test]
async fn a_client_that_goes_away_ends_its_command_with_all_it_started_and_nothing_else() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    for terminal in [false, true] {
        let script = "sleep 1000 & (trap '' HUP TERM; setsid sleep 1000 &) ; echo ready; wait";
        let mut session =
            node.exec_command(&task, &["/bin/sh", "-c", script], terminal).await.expect("it starts");
        session.says("ready").await;
        let cgroup = format!("/sys/fs/cgroup{}", host.property(&node.unit(&task).await, "ControlGroup"));
        let sessions = || {
            let entries = std::fs::read_dir(&cgroup).unwrap().flatten().map(|entry| entry.path());
            entries.filter(|path| path.is_dir()).count()
        };
        assert_eq!(sessions(), 1);
        drop(session);
        eventually("its processes and its cgroup are gone", async || (sessions() == 0).then_some(())).await;
    }
    assert_eq!(node.state(&task).await, proto::driver::TaskState::Running);
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_plugin_that_is_killed_takes_its_commands_along() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let mut session =
        node.exec(&task, "(trap '' HUP TERM; setsid sleep 1000 &); echo $$; exec sleep 1000").await;
    session.says("\n").await;
    let command = Path::new("/proc").join(session.stdout.trim());
    assert!(command.exists());
    node.restart().await;
    eventually("the command is gone", async || (!command.exists()).then_some(())).await;
    node.recover(&task).await.unwrap();
    let cgroup = format!("/sys/fs/cgroup{}", host.property(&node.unit(&task).await, "ControlGroup"));
    let processes = || host.run("find", &[&cgroup, "-mindepth", "1", "-type", "d"]);
    eventually("what it started is gone as well", async || processes().is_empty().then_some(())).await;
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_commands_end_is_told_when_the_task_ends_first() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let mut session = node.exec(&task, "echo ready; exec sleep 1000").await;
    session.says("ready").await;
    node.stop(&task, "SIGTERM", SOON).await.unwrap();
    assert_eq!(session.finish().await.0, Exit::signal(9));
    let refusal = node.exec_command(&task, &["true"], false).await.unwrap_err();
    assert!(refusal.message.contains("no longer running"), "{refusal}");
    node.destroy(&task, true).await.unwrap();
    let refusal = node.exec_command(&task, &["true"], false).await.unwrap_err();
    assert_eq!(refusal.code, Code::NotFound);
}

#[tokio::test]
async fn a_command_is_found_by_its_path_in_the_task_directory() {
    let host = host!();
    let node = Node::start(&host).await;
    let script = "#!/bin/sh\necho found\n".as_bytes();
    let task = node.run(Job::shell("exec sleep 1000").file("reload.sh", script)).await;
    host.run("chmod", &["755", task.alloc_dir().join("web/local/reload.sh").to_str().unwrap()]);
    for command in ["local/reload.sh", "./local/reload.sh", "./reload.sh", "/local/reload.sh"] {
        let session = node.exec_command(&task, &[command], false).await.unwrap();
        assert_eq!(session.finish().await.1, "found\n", "{command}");
    }
}

#[tokio::test]
async fn what_cannot_be_run_in_a_task_is_refused_by_name() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    for (command, reason) in [
        (&["no-such-command"][..], "`no-such-command` cannot be run in the task"),
        (&["no-such-command"], "for a file in /local write ./no-such-command"),
        (&["no/such"], "(the path is relative to /local)"),
        (&["/home/me/x"], "`/home/me/x` cannot be run in the task"),
        (&["/etc/passwd"], "Permission denied"),
        (&[], "empty command"),
    ] {
        for terminal in [false, true] {
            let (exit, output, errors) =
                node.exec_command(&task, command, terminal).await.unwrap().finish().await;
            assert_eq!(exit, Exit::status(127), "as from a shell");
            let printed = if terminal { output } else { errors };
            assert!(printed.contains(reason), "{command:?}: {printed}");
        }
    }
    let without_setup = tokio_stream::iter([proto::driver::ExecTaskStreamingRequest::default()]);
    let refusal = node.driver().exec_task_streaming(without_setup).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    let cgroup = format!("/sys/fs/cgroup{}", host.property(&node.unit(&task).await, "ControlGroup"));
    let left = || host.run("find", &[&cgroup, "-mindepth", "1", "-type", "d"]);
    eventually("no cgroup is left", async || left().is_empty().then_some(())).await;
    node.destroy(&task, true).await.unwrap();
}

// ---- Script checks

#[tokio::test]
async fn a_check_tells_its_exit_code_and_the_end_of_what_it_wrote() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let (code, output) = node.check(&task, "echo out; echo err >&2; exit 1", SOON).await.unwrap();
    assert_eq!((code, String::from_utf8(output).unwrap().as_str()), (1, "out\nerr\n"));
    let (code, output) = node.check(&task, "seq 1 100000", SOON).await.unwrap();
    assert_eq!((code, output.len()), (0, 4096));
    assert!(output.ends_with(b"\n99999\n100000\n"));
    let (code, _) = node.check(&task, "sleep 1000 & exit 0", SOON).await.unwrap();
    assert_eq!(code, 0, "what it leaves in the background does not hold it up");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_check_that_takes_too_long_is_killed_with_all_it_started() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = sleeper(&node).await;
    let script = "(trap '' HUP TERM; setsid sleep 1000 &); sleep 1000";
    let refusal = node.check(&task, script, Duration::from_millis(300)).await.unwrap_err();
    assert!(refusal.code == Code::DeadlineExceeded && refusal.message.contains("300ms"), "{refusal}");
    let cgroup = format!("/sys/fs/cgroup{}", host.property(&node.unit(&task).await, "ControlGroup"));
    let left = || host.run("find", &[&cgroup, "-mindepth", "1", "-type", "d"]);
    eventually("nothing of it is left", async || left().is_empty().then_some(())).await;
    assert_eq!(node.state(&task).await, proto::driver::TaskState::Running);
    node.destroy(&task, true).await.unwrap();
}
