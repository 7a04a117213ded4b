//! The life of a task, over the plugin's socket, on a real systemd.
//!
//! One test on the namespace host takes a few seconds: `cargo test -p tests --test driver -- NAME` as root.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proto::driver::TaskState;
use tests::{Exit, Host, Job, Need, Node, SOON, eventually, exiting_guest, repository, wasm};
use tonic::Code;

/// The host, or the end of a test that needs one.
macro_rules! host {
    () => {
        match Host::with(Need::Systemd).await {
            Some(host) => host,
            None => return,
        }
    };
}

fn guest(name: &str) -> Vec<u8> {
    wasm(&std::fs::read_to_string(repository().join("tests/guests").join(name)).unwrap())
}

// ---- What runs

#[tokio::test]
async fn a_native_task_runs_and_its_streams_stay_apart() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("echo out; echo err >&2; exit 7")).await;
    assert_eq!(node.finish(task).await, (Exit::status(7), "out\n".into(), "err\n".into()));
}

#[tokio::test]
async fn a_command_without_a_slash_is_looked_up_in_local_and_made_executable() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = Job::artifact("serve me", b"#!/bin/sh\necho \"$0 in $(pwd) got $*\"\n")
        .args(&["a b", "$HOME", "%n", "$$"]);
    assert_eq!(node.output_of(job).await, "/local/serve me in /local got a b $HOME %n $$\n");
}

#[tokio::test]
async fn a_module_is_known_by_its_content_and_its_exit_code_is_the_tasks() {
    let host = host!();
    let node = Node::start(&host).await;
    for code in [0, 42, 200, 255] {
        let task = node.run(Job::artifact("no-ending", &exiting_guest(code))).await;
        assert_eq!(node.finish(task).await.0, Exit::status(code));
    }
}

#[tokio::test]
async fn a_component_runs_and_its_exit_code_is_the_tasks() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::artifact("ok.wasm", &guest("run_ok.wat"))).await;
    assert_eq!(node.finish(task).await.0, Exit::status(0));
    let task = node.run(Job::artifact("exit.wasm", &guest("run_exit.wat"))).await;
    assert_eq!(node.finish(task).await.0, Exit::status(200));
}

#[tokio::test]
async fn a_trap_is_told_on_stderr_and_by_an_exit_code_of_its_own() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::artifact("trap.wasm", &guest("trap.wat"))).await;
    let (exit, _, errors) = node.finish(task).await;
    assert_eq!(exit, Exit::status(134));
    assert!(errors.contains("trap"), "{errors}");
}

#[tokio::test]
async fn a_guest_gets_the_jobs_arguments_and_environment_and_nothing_else() {
    let host = host!();
    let node = Node::start(&host).await;
    let job =
        Job::artifact("echo.wasm", &guest("echo.wat")).args(&["one two", "$X"]).env("GREETING", "a \"b\"\nc");
    let output = node.output_of(job).await;
    for expected in ["echo.wasm", "one two", "$X", "GREETING=a \"b\"\nc", "NOMAD_TASK_DIR=/local"] {
        assert!(output.contains(expected), "{expected:?} in {output:?}");
    }
    for foreign in ["INVOCATION_ID", "PATH=", "SYSTEMD_EXEC_PID", "/.wasm", ".cwasm"] {
        assert!(!output.contains(foreign), "{foreign:?} in {output:?}");
    }
}

#[tokio::test]
async fn a_busy_guest_is_stopped_by_its_signal() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::artifact("spin.wasm", &guest("spin.wat"))).await;
    node.stop(&task, "SIGTERM", SOON).await.unwrap();
    let exit = node.wait(&task).await;
    assert_eq!(exit.code, 143, "{exit:?}");
}

#[tokio::test]
async fn one_module_is_compiled_once_however_many_tasks_want_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let start = || node.run(Job::artifact("exit.wasm", &exiting_guest(9)));
    let tasks = join_all((0..8).map(|_| start())).await;
    for task in &tasks {
        assert_eq!(node.wait(task).await, Exit::status(9));
    }
    let compiled = node.records().iter().filter(|record| record.message == "compiling WebAssembly").count();
    assert_eq!(compiled, 1);
    let code = host.run("find", &[&node.state_dir().display().to_string(), "-type", "f"]);
    assert_eq!(code.lines().count(), 1, "one file, and none left from the compilation: {code}");
    assert!(code.contains(".cwasm\n"), "{code}");
}

#[tokio::test]
async fn compiled_code_cannot_be_written_by_a_task_nor_seen_by_a_native_one() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::artifact("exit.wasm", &exiting_guest(0))).await;
    node.wait(&task).await;
    let cache = node.state_dir().join("wasm").display().to_string();
    let modes = host.run("find", &[&cache, "-perm", "/022"]);
    assert_eq!(modes, "", "nothing in the cache may be written by others");
    let output = node.output_of(Job::shell("find / -name '*.cwasm' -size +0 2>/dev/null; echo done")).await;
    assert_eq!(output, "done\n");
}

#[tokio::test]
async fn odd_task_names_work() {
    let host = host!();
    let node = Node::start(&host).await;
    let long = "x".repeat(200);
    for name in ["two words", "per%cent", "qu\"ote's", "ünïcode", "new\nline", "-dash", "a.b_c:d@e\\f", &long]
    {
        let job = Job::shell("cat /proc/self/cgroup").with(|request| name.clone_into(&mut request.task));
        let task = match node.try_run(job).await {
            Ok(task) => task,
            // systemd 257 trips over quotes and line ends in a path, 262 over quotes: the start fails, and not the task.
            Err(refusal)
                if name.contains(['"', '\n']) && refusal.message.contains("before it ran the program") =>
            {
                continue;
            }
            Err(refusal) => panic!("{name:?}: {refusal}"),
        };
        let (exit, output, errors) = node.finish(task).await;
        assert!(exit == Exit::status(0) && output.contains("nomad-"), "{name:?}: {exit:?} {output} {errors}");
    }
}

// ---- Whom it runs as

#[tokio::test]
async fn tasks_without_a_user_run_as_ephemeral_ones_of_their_own() {
    let host = host!();
    let node = Node::start(&host).await;
    let first: u32 = node.output_of(Job::shell("id -u")).await.trim().parse().unwrap();
    let second: u32 = node.output_of(Job::shell("id -u")).await.trim().parse().unwrap();
    // The range that systemd keeps for such users (systemd.exec(5), "DynamicUser=").
    assert!((61184..=65519).contains(&first) && (61184..=65519).contains(&second), "{first} {second}");
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_restarted_task_owns_what_it_left() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = Job::shell("umask 077; if test -e secret; then cat secret; else echo mine > secret; fi");
    let prepared = node.prepare(&job);
    let mut again = prepared.config.clone();
    let task = node.begin(prepared).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(0));
    node.destroy(&task, true).await.unwrap();
    // As Nomad does it: a new id, the same directories.
    again.id.replace_range(again.id.len() - 8.., "00000000");
    let task = node.start_again(task, again).await.unwrap();
    assert_eq!(node.finish(task).await, (Exit::status(0), "mine\n".into(), String::new()));
}

#[tokio::test]
async fn a_task_runs_as_the_jobs_user_by_name_and_by_number() {
    let host = host!();
    let node = Node::start(&host).await;
    let number = host.run("id", &["-u", "nobody"]);
    assert_eq!(node.output_of(Job::shell("id -u").user("nobody")).await, number);
    assert_eq!(node.output_of(Job::shell("id -u").user(number.trim())).await, number);
    assert_eq!(node.output_of(Job::shell("id -u").user("root")).await, "0\n");
}

#[tokio::test]
async fn the_operator_may_name_the_user_of_jobs_that_name_none() {
    let host = host!();
    let node = Node::configured(&host, r#"default_user = "daemon""#).await;
    assert_eq!(node.output_of(Job::shell("id -un")).await, "daemon\n");
    assert_eq!(node.output_of(Job::shell("id -un").user("nobody")).await, "nobody\n");
}

// ---- Its environment

#[tokio::test]
async fn the_environment_arrives_byte_for_byte() {
    let host = host!();
    let node = Node::start(&host).await;
    let values = [
        "",
        " ",
        "plain",
        "a \"b\" 'c'",
        "\\ \\\\ \\n",
        "$HOME ${HOME} $$",
        "%n %% %i",
        "`date`",
        "#x ; y",
        "line one\nline two\n",
        "tab\there",
        "cr\rhere",
        "\u{1b}[0m\u{7}\u{1}",
        "žluťoučký 🐎",
        " lead and trail ",
        "A=B",
        "=",
        "\u{feff}bom",
        "back\\\nslash newline",
        "a\u{2028}b",
    ];
    let mut job = Job::shell("cat /proc/self/environ");
    for (number, value) in values.iter().enumerate() {
        job = job.env(&format!("V{number}"), value);
    }
    let output = node.output_of(job).await;
    for (number, value) in values.iter().enumerate() {
        let line = format!("\0V{number}={value}\0");
        assert!(format!("\0{output}").contains(&line), "{value:?} in {output:?}");
    }
}

#[tokio::test]
async fn nobody_else_on_the_machine_can_read_the_environment() {
    let host = host!();
    let node = Node::start(&host).await;
    let secret = "s3cr3t-0123456789";
    let mut task = node.run(Job::shell("echo ready; exec sleep infinity").env("TOKEN", secret)).await;
    task.says("ready").await;
    let unit = node.unit(&task).await;
    let as_nobody = |program: &str, args: &[&str]| {
        let mut all = vec!["--reuid=nobody", "--clear-groups", program];
        all.extend(args);
        host.run("setpriv", &all)
    };
    let shown = as_nobody("systemctl", &["show", "--", &unit]);
    assert!(shown.contains("EnvironmentFiles=") && !shown.contains(secret), "{shown}");
    assert!(!as_nobody("systemctl", &["cat", "--", &unit]).contains(secret));
    // systemd has read it: the file is gone.
    let found = std::process::Command::new("grep")
        .args(["-r", secret, "/run/nomad-driver-systemd"])
        .output()
        .unwrap();
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let logged = format!("{:?}", node.records());
    assert!(!logged.contains(secret), "the plugin's log must not hold it");
    node.destroy(&task, true).await.unwrap();
}

// ---- What it sees

#[tokio::test]
async fn a_task_sees_its_own_directories_and_the_operating_system_read_only() {
    let host = host!();
    let node = Node::start(&host).await;
    let other = node.run(Job::shell("exec sleep infinity")).await;
    let before = host.run("ls", &["-A", "/"]);
    let script = "
        for dir in /local /alloc /secrets /tmp /var/tmp; do echo x > $dir/file && echo \"$dir is writable\"; done
        echo x 2>/dev/null > /usr/file || echo '/usr is read-only'
        echo x 2>/dev/null > /etc/file || echo '/etc is read-only'
        echo x 2>/dev/null > /file || echo '/ is read-only'
        echo x 2>/dev/null > /alloc/logs/file || echo '/alloc/logs is read-only'
        for path in /home/* /root/* /var/lib /srv /opt /boot /run/dbus /run/nomad-driver-systemd /run/systemd/private; do
            test -e $path && echo \"$path is visible\"
        done
        find / -xdev -name '*.fifo' -not -path '/proc/*'; true";
    // What root may not do, nobody may.
    for user in ["", "root"] {
        let output = node.output_of(Job::shell(script).user(user)).await;
        let expected = "/local is writable\n/alloc is writable\n/secrets is writable\n/tmp is writable\n\
                        /var/tmp is writable\n/usr is read-only\n/etc is read-only\n/ is read-only\n\
                        /alloc/logs is read-only\n";
        assert_eq!(output, expected, "as {user:?}");
    }
    let names = node.output_of(Job::shell("find / -name '*.fifo' 2>/dev/null; ls /")).await;
    assert!(!names.contains(&other.id[..8]), "the other allocation must not be seen: {names}");
    assert_eq!(host.run("ls", &["-A", "/"]), before, "nothing is made on the host's root");
    node.destroy(&other, true).await.unwrap();
}

#[tokio::test]
async fn tasks_of_a_group_share_alloc_and_nothing_else() {
    let host = host!();
    let node = Node::start(&host).await;
    let first =
        node.run(Job::shell("echo hello > /alloc/data/greeting; echo own > own; exec sleep infinity")).await;
    let path = first.alloc_dir().join("web/local/own");
    eventually("it has written", async || path.exists().then_some(())).await;
    let neighbour = Job::shell("cat /alloc/data/greeting; ls /local").with(|request| {
        first.handle.config.as_ref().unwrap().alloc_id.clone_into(&mut request.alloc_id);
        "neighbour".clone_into(&mut request.task);
    });
    assert_eq!(node.output_of(neighbour).await, "hello\n");
    node.destroy(&first, true).await.unwrap();
}

#[tokio::test]
async fn names_are_looked_up_as_on_the_host() {
    let host = host!();
    let node = Node::start(&host).await;
    assert!(node.output_of(Job::shell("getent hosts localhost")).await.contains("localhost"));
    let resolver = host.run("cat", &["/etc/resolv.conf"]);
    assert_eq!(node.output_of(Job::shell("cat /etc/resolv.conf")).await, resolver);
}

#[tokio::test]
async fn the_plain_view_shows_the_host_and_its_paths() {
    let host = host!();
    let mut node = Node::configured(&host, r#"fs_isolation = "none""#).await;
    let capabilities = node.plugin().capabilities().await.unwrap();
    assert_eq!(capabilities.fs_isolation(), proto::driver::driver_capabilities::FsIsolation::None);
    for user in ["", "nobody"] {
        let output = node
            .output_of(
                Job::shell("pwd; test -d /var/lib/dpkg && echo host; echo x > file && echo ok").user(user),
            )
            .await;
        let lines: Vec<&str> = output.lines().collect();
        assert!(lines[0].ends_with("/web/local"), "{output}");
        assert_eq!(lines[1..], ["host", "ok"]);
    }
    let task = node.run(Job::artifact("exit.wasm", &exiting_guest(5)).user("nobody")).await;
    let (exit, _, errors) = node.finish(task).await;
    assert_eq!(exit, Exit::status(5), "{errors}");
}

#[tokio::test]
async fn more_of_the_host_is_seen_where_the_operator_says_so() {
    let host = host!();
    let paths =
        r#"host_paths = ["/usr", "/etc", "/bin", "/lib", "/lib64", "/var/lib/dpkg", "/no/such/path"]"#;
    let node = Node::configured(&host, paths).await;
    let script =
        "test -e /var/lib/dpkg/status && echo seen; test -w /var/lib/dpkg || echo read-only; ls /sbin 2>&1";
    let output = node.output_of(Job::shell(script)).await;
    assert!(output.starts_with("seen\nread-only\n"), "{output}");
}

// ---- Its end

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
    let task = node.run(Job::shell("sleep infinity & echo $! > /alloc/child; exit 0")).await;
    assert_eq!(node.wait(&task).await, Exit::status(0));
    let child = std::fs::read_to_string(task.alloc_dir().join("alloc/child")).unwrap();
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
async fn destroy_leaves_nothing() {
    let host = host!();
    let node = Node::start(&host).await;
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
        let files = host.run("find", &["/run", "/tmp", "/var/tmp", "-name", &format!("*{unit}*")]);
        assert_eq!(files, "", "no file is left");
    }
}

// ---- What outlives the plugin

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
async fn a_task_whose_unit_is_gone_cannot_be_recovered_and_can_be_destroyed() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let mut task = node.run(Job::shell("exec sleep infinity")).await;
    let unit = node.unit(&task).await;
    node.plugin().kill().await;
    host.run("systemctl", &["stop", "--", &unit]);
    node.restart().await;
    let refusal = node.recover(&task).await.unwrap_err();
    assert!(refusal.message.contains(&unit), "{refusal}");
    node.destroy(&task, true).await.unwrap();
    // The machine was booted in between.
    let state = String::from_utf8(task.handle.driver_state.clone()).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    task.handle.driver_state =
        state.replace(boot.trim(), "00000000-0000-0000-0000-000000000000").into_bytes();
    assert!(node.recover(&task).await.unwrap_err().message.contains("booted"));
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
async fn a_start_that_a_dying_plugin_left_behind_is_begun_anew() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let prepared = node.prepare(&Job::shell("echo $$ > /alloc/pid; exec sleep infinity"));
    let config = prepared.config.clone();
    let task = node.begin(prepared).await.unwrap();
    let first = node.inspect(&task).await.unwrap().driver.unwrap().attributes["pid"].clone();
    let twice = proto::driver::StartTaskRequest { task: Some(config) };
    let refusal = node.plugin().driver().start_task(twice.clone()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::AlreadyExists);
    // Nomad asks a new plugin once more by the same id.
    node.restart().await;
    node.plugin().driver().start_task(twice).await.unwrap();
    let second = node.inspect(&task).await.unwrap().driver.unwrap().attributes["pid"].clone();
    assert_ne!(first, second);
    assert!(!Path::new(&format!("/proc/{first}")).exists(), "the first one does not run beside the second");
    node.destroy(&task, true).await.unwrap();
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
        // The agent died before it had noted the start: it knows the allocation and the task, and makes a new id.
        config.id.replace_range(config.id.len() - 8.., "ffffffff");
        let second = node.start_again(first, config).await.unwrap();
        assert_eq!(host.property(&unit, "LoadState"), "not-found");
        assert_eq!(host.units(&second.id[..36]).len(), 1, "one task, one unit");
        node.destroy(&second, true).await.unwrap();
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
async fn without_systemd_the_node_says_so_and_so_does_a_start() {
    let host = host!();
    let mut node = Node::without_systemd(&host).await;
    let found = node.plugin().fingerprint().await.unwrap();
    assert_eq!(found.health(), proto::driver::fingerprint_response::HealthState::Unhealthy);
    assert!(found.health_description.contains("systemd on the system bus"), "{found:?}");
    let refusal = node.try_run(Job::shell("true")).await.unwrap_err();
    assert!(refusal.message.contains("systemd on the system bus") && refusal.recoverable, "{refusal:?}");
}

#[tokio::test]
async fn a_command_that_is_a_pipe_or_leads_out_through_a_link_is_refused_and_holds_nobody_up() {
    let host = host!();
    let node = Node::configured(&host, r#"fs_isolation = "none""#).await;
    let pipe = node.state_dir().with_file_name("pipe");
    host.run("mkfifo", &[pipe.to_str().unwrap()]);
    let refusal = node.try_run(Job::command(pipe.to_str().unwrap())).await.unwrap_err();
    assert!(refusal.message.contains("not a regular file"), "{refusal}");
    // The task's directory is the task's: it may put a link in the place of `local`.
    let prepared = node.prepare(&Job::command("shadow"));
    let local = prepared.alloc_dir().join("web/local");
    std::fs::remove_dir(&local).unwrap();
    std::os::unix::fs::symlink("/etc", &local).unwrap();
    let refusal = node.begin(prepared).await.expect_err("the link is not followed");
    assert!(!refusal.message.contains("root:"), "{refusal}");
}

#[tokio::test]
async fn the_loss_of_the_bus_loses_no_exit() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let node = Node::start(&host).await;
    let long = node.run(Job::shell("while ! test -e /local/go; do sleep 0.05; done; exit 6")).await;
    host.run("systemctl", &["kill", "--signal=KILL", "--kill-whom=main", "dbus.service"]);
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
async fn a_reexec_of_systemd_loses_nothing() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("while ! test -e /local/go; do sleep 0.05; done; exit 6")).await;
    host.run("systemctl", &["daemon-reexec"]);
    std::fs::write(task.alloc_dir().join("web/local/go"), "").unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(6));
    node.destroy(&task, true).await.unwrap();
}

// ---- The plugin as a process

#[tokio::test]
async fn the_plugin_ends_at_once_when_told_however_many_wait() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut node = node;
    let task = node.run(Job::shell("exec sleep infinity")).await;
    let unit = node.unit(&task).await;
    let driver = node.plugin().driver();
    for _ in 0..100 {
        let (mut driver, task_id) = (driver.clone(), task.id.clone());
        tokio::spawn(async move { driver.wait_task(proto::driver::WaitTaskRequest { task_id }).await });
    }
    let mut controller =
        proto::plugin::grpc_controller_client::GrpcControllerClient::new(node.plugin().channel());
    let begun = Instant::now();
    controller.shutdown(proto::plugin::Empty {}).await.unwrap();
    assert!(node.plugin().ended(Duration::from_secs(2)).await, "{:?}", begun.elapsed());
    assert_eq!(host.property(&unit, "SubState"), "running", "its tasks run on");
}

#[tokio::test]
async fn a_killed_plugin_leaves_no_socket_once_another_runs() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let socket = node.plugin().socket().unwrap().to_owned();
    let directory = socket.parent().unwrap();
    node.plugin().kill().await;
    host.run("touch", &["-d", "2 minutes ago", directory.to_str().unwrap()]);
    node.restart().await;
    let living = node.plugin().socket().unwrap().to_owned();
    eventually("the dead one's socket is gone", async || (!directory.exists()).then_some(())).await;
    let _other = Node::start(&host).await;
    assert!(living.exists(), "that of a living one stays");
}

#[tokio::test]
async fn the_plugin_outlives_an_agent_that_was_killed_and_serves_the_next() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("while ! test -e go; do sleep 0.05; done; exit 3")).await;
    // Its stdout and stderr are broken pipes from now on, and nobody configures it again.
    let node = node.after_the_agents_death().await;
    node.recover(&task).await.unwrap();
    let other = node.run(Job::shell("exit 4")).await;
    assert_eq!(node.wait(&other).await, Exit::status(4));
    std::fs::write(task.alloc_dir().join("web/local/go"), "").unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(3));
    for task in [&task, &other] {
        node.destroy(task, true).await.unwrap();
    }
}

#[tokio::test]
async fn ctrl_c_on_the_agent_does_not_end_the_plugin() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let pid = node.plugin().pid().to_string();
    host.run("kill", &["-INT", &pid]);
    node.plugin().capabilities().await.unwrap();
    host.run("kill", &["-TERM", &pid]);
    assert!(node.plugin().ended(SOON).await);
}

#[tokio::test]
async fn a_task_inherits_nothing_of_the_plugin() {
    let host = host!();
    let node = Node::start(&host).await;
    let output = node.output_of(Job::shell("ls -l /proc/self/fd | grep -v /proc; env; ulimit -n")).await;
    assert!(!output.contains("NOMAD_PLUGIN_MAGIC_COOKIE") && !output.contains("socket:"), "{output}");
    let descriptors = output.lines().filter(|line| line.contains(" -> ")).count();
    assert_eq!(descriptors, 3, "stdin, stdout, stderr: {output}");
}

#[tokio::test]
async fn a_node_says_what_it_is() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let found = node.plugin().fingerprint().await.unwrap();
    assert_eq!(found.health_description, "Healthy");
    let text = format!("{:?}", found.attributes);
    let version = host.run("systemctl", &["--version"]);
    let number = version.split_whitespace().nth(1).unwrap();
    assert!(text.contains(&format!("\"{number}\"")) && text.contains("driver.systemd.wasm"), "{text}");
}

// ---- What is refused

#[tokio::test]
async fn what_cannot_run_is_refused_with_the_option_the_thing_and_advice() {
    let host = host!();
    let node = Node::start(&host).await;
    let truncated = &exiting_guest(0)[..20];
    let mut foreign = std::fs::read("/bin/true").unwrap();
    foreign[18] = if foreign[18] == 183 { 62 } else { 183 };
    let cases = [
        (Job::command(""), "`command` is empty"),
        (Job::command("missing"), "/local/missing does not exist"),
        (Job::command("/usr/bin/missing"), "/usr/bin/missing does not exist"),
        (Job::command("/home/me/x"), "not in the task's view"),
        (Job::command("/local"), "not a regular file"),
        (Job::artifact("cut.wasm", truncated), "cut.wasm cannot be compiled"),
        (Job::artifact("four.wasm", b"\0asm"), "four.wasm cannot be compiled"),
        (Job::artifact("text.wasm", b"(module)"), "not WebAssembly"),
        (Job::artifact("empty.wasm", b""), "it is empty"),
        (Job::artifact("page", b"<html>404</html>"), "neither a program"),
        (Job::artifact("foreign", &foreign), "is a program for"),
        (Job::artifact("script", b"#!/no/such/interpreter\n"), "cannot be executed"),
        (Job::shell("true").user("no-such-user"), "`user`: this node has no user `no-such-user`"),
        (Job::shell("true").env("A-B", "x"), "variable name `A-B`"),
        (Job::shell("true").env("A", "x\0y"), "NUL"),
        (Job::command("/bin/echo").args(&["a\0b"]), "`args` holds a NUL"),
        (Job::command("/etc/shadow").user("nobody"), "cannot be executed"),
        (Job::command("/bin/echo").args(&[&"x".repeat(200_000)]), "`args` holds a text of 200000 bytes"),
        (Job::shell("true").env("BIG", &"x".repeat(200_000)), "`env`: `BIG` is longer than"),
    ];
    for (job, reason) in cases {
        let (what, alloc) = (job.command.clone(), job.request.alloc_id.clone());
        let refusal = node.try_run(job).await.expect_err(reason);
        assert!(refusal.message.contains(reason), "{what:?}: {refusal}");
        assert!(!refusal.recoverable, "trying again does not help: {refusal}");
        assert!(!refusal.message.contains('\n'), "one line: {refusal}");
        assert_eq!(host.units(&alloc), Vec::<String>::new(), "{what:?} leaves no unit");
    }
    let left = host.run("find", &[&node.state_dir().display().to_string(), "-type", "f"]);
    assert_eq!(left, "", "a module that cannot be compiled leaves no file");
}

#[tokio::test]
async fn what_this_version_cannot_honour_is_refused_and_not_dropped() {
    let host = host!();
    let node = Node::start(&host).await;
    let mount =
        proto::driver::Mount { task_path: "/data".into(), host_path: "/srv".into(), ..Default::default() };
    let job = Job::shell("true").with(|request| request.mounts.push(mount));
    assert!(node.try_run(job).await.unwrap_err().message.contains("`/data`"));
    let job = Job::shell("true").with(|request| request.cores = vec![0]);
    assert!(node.try_run(job).await.unwrap_err().message.contains("`cores`"));
}

#[tokio::test]
async fn an_operators_mistake_is_refused_when_the_agent_starts() {
    let _host = host!();
    for (options, reason) in [
        (r#"fs_isolation = "chroot""#, "chroot"),
        (r#"host_paths = ["usr"]"#, "host_paths"),
        (r#"default_usr = "x""#, "default_usr"),
        (r#"state_dir = "relative""#, "state_dir"),
    ] {
        let refusal = Node::refusal(options).await;
        assert!(refusal.contains(reason), "{options}: {refusal}");
    }
}

#[tokio::test]
async fn a_log_pipe_that_is_a_link_is_not_followed() {
    let host = host!();
    let node = Node::start(&host).await;
    let victim = node.state_dir();
    std::fs::create_dir_all(&victim).unwrap();
    let victim = victim.join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let prepared = node.prepare(&Job::shell("echo owned"));
    let pipe = prepared.config.stdout_path.clone();
    std::fs::remove_file(&pipe).unwrap();
    std::os::unix::fs::symlink(&victim, &pipe).unwrap();
    let refusal = node.begin(prepared).await.expect_err("a link is refused");
    assert!(refusal.message.contains("open the log"), "{refusal}");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}

#[tokio::test]
async fn a_task_with_its_logs_disabled_runs() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let mut prepared = node.prepare(&Job::shell("echo nobody reads this; exit 2"));
    (prepared.config.stdout_path, prepared.config.stderr_path) = ("/dev/null".into(), String::new());
    let task = node.begin(prepared).await.unwrap();
    assert_eq!(node.wait(&task).await, Exit::status(2));
    let unknown = proto::driver::WaitTaskRequest { task_id: "no/such/task".into() };
    let refusal = node.plugin().driver().wait_task(unknown).await.unwrap_err();
    assert_eq!(refusal.code(), Code::NotFound);
    node.destroy(&task, true).await.unwrap();
}
