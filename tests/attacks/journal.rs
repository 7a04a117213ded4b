//! Forged reports about a task: journal messages that look like systemd's, and statuses that look like those of the
//! WebAssembly runner.

use tests::{Exit, Host, Job, MAY_NOTIFY, Node, Task, eventually};

use super::{USER, version};

/// Sends a message to the journal, as every process may: one field per argument.
const FORGE: &str = r#"
    use Socket;
    socket(my $socket, PF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
    my $sent = send($socket, join("\n", @ARGV, ""), 0, sockaddr_un("/run/systemd/journal/socket"));
    print defined $sent ? "forged\n" : "failed: $!\n";
"#;

const PROCESS_EXIT: &str = "MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15";
const SPAWN_FAILED: &str = "MESSAGE_ID=641257651c1b4ec9a8624d7a40a9e1e7";

/// The fields of a message about a unit that systemd could have sent.
fn lie(host: &Host, unit: &str, fields: &[&str]) -> Vec<String> {
    let invocation = host.property(unit, "InvocationID");
    let about = [
        format!("UNIT={unit}"),
        format!("INVOCATION_ID={invocation}"),
        "SYSLOG_IDENTIFIER=systemd".to_owned(),
        "PRIORITY=3".to_owned(),
    ];
    about.into_iter().chain(fields.iter().map(ToString::to_string)).collect()
}

/// Sends the message from another task, of another user.
async fn forged(node: &Node, fields: &[String]) {
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    assert_eq!(node.output_of(super::perl(FORGE, &fields)).await, "forged\n");
}

/// How many messages of this kind about the unit are in the journal, by the PID of their sender.
fn messages(host: &Host, kind: &str, unit: &str) -> Vec<String> {
    host.run("journalctl", &["--sync"]);
    let about = format!("UNIT={unit}");
    let lines = host.run("journalctl", &["--boot", "--quiet", "--output=json", kind, &about]);
    let pid = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        entry["_PID"].as_str().unwrap_or_default().to_owned()
    };
    lines.lines().map(pid).collect()
}

#[tokio::test]
async fn a_forged_end_is_not_believed() {
    let host = host!();
    let mut node = Node::start(&host).await;
    // The attacker forges while the driver is away, and after systemd has sent the true message.
    let forger =
        "until test -e /alloc/data/lie; do sleep 0.05; done; exec perl /local/forge $(cat /alloc/data/lie)";
    let mut attacker = node.run(Job::shell(forger).file("forge", FORGE.as_bytes())).await;
    for user in [USER, ""] {
        let victim = node.run(Job::shell("exec sleep infinity").user(user)).await;
        let unit = node.unit(&victim).await;
        let lie = lie(&host, &unit, &[PROCESS_EXIT, "EXIT_CODE=exited", "EXIT_STATUS=0", "MESSAGE=fine"]);
        node.plugin().kill().await;
        host.run("systemctl", &["kill", "--signal=SEGV", "--", &unit]);
        eventually("it ended", async || (host.property(&unit, "SubState") == "failed").then_some(())).await;
        host.run("systemctl", &["reset-failed", "--", &unit]);
        assert_eq!(messages(&host, PROCESS_EXIT, &unit), ["1"], "systemd has told of it");
        if user == USER {
            let data = attacker.alloc_dir().join("alloc/data");
            std::fs::write(data.join("new"), lie.join(" ")).unwrap();
            std::fs::rename(data.join("new"), data.join("lie")).unwrap();
            attacker.says("forged").await;
        } else {
            // Without forgery: the true message is still found.
            assert_eq!(node_exit(&mut node, &victim).await, Exit::signal(11));
            node.destroy(&victim, true).await.unwrap();
            continue;
        }
        assert_eq!(messages(&host, PROCESS_EXIT, &unit).len(), 2, "the lie is in the journal");
        assert_eq!(node_exit(&mut node, &victim).await, Exit::signal(11), "not the forged status 0");
        node.destroy(&victim, true).await.unwrap();
    }
    node.recover(&attacker).await.unwrap();
    node.destroy(&attacker, true).await.unwrap();
}

/// What a later driver reports about the end of a task.
async fn node_exit(node: &mut Node, task: &Task) -> Exit {
    node.restart().await;
    node.recover(task).await.unwrap();
    node.wait(task).await
}

/// The task knows its invocation ID, and could send systemd's messages with it: here from a child of its main process.
#[tokio::test]
async fn a_forged_step_of_a_start_is_not_believed() {
    let host = host!();
    let node = Node::configured(&host, MAY_NOTIFY).await;
    for status in [203, 226, 217] {
        let script = format!(
            "unit=$(sed -n 's|^0::.*/||p' /proc/self/cgroup)
            perl /local/forge {SPAWN_FAILED} UNIT=$unit INVOCATION_ID=$INVOCATION_ID \
                 MESSAGE=\"$unit: Failed at step EXEC spawning /forged: Forged\" EXECUTABLE=/forged PRIORITY=3
            exit {status}"
        );
        let job = Job::shell(&script).file("forge", FORGE.as_bytes());
        // A start that has not completed when the program exits has failed, and the error must state the reason.
        let unready = job.clone().config("notify { ready_within = \"20s\" }");
        let unready = unready.with(|request| request.alloc_id = nomad_local::task_request::new_alloc_id());
        let failed = node.try_run(unready).await.expect_err("it never said that it is ready");
        assert!(!failed.message.contains("orged"), "a job's own words are told as systemd's: {failed}");
        let alloc = job.request.alloc_id.clone();
        let started = node.try_run(job).await;
        match started {
            Ok(task) => {
                let unit = node.unit(&task).await;
                let (exit, output, errors) = node.finish(task).await;
                assert_eq!((exit, output.as_str()), (Exit::status(status), "forged\n"), "{errors}");
                assert_eq!(messages(&host, SPAWN_FAILED, &unit).len(), 1, "the lie is in the journal");
            }
            Err(refusal) => panic!("a job's own words are told as systemd's: {alloc}: {refusal}"),
        }
    }
}

/// A genuine message is still accepted.
#[tokio::test]
async fn a_real_step_of_a_start_is_told() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = Job::artifact("program", b"#!no/such/interpreter\n");
    let refusal = node.try_run(job).await.unwrap_err();
    assert!(refusal.message.contains("/local/program cannot be executed: No such file"), "{refusal}");
    // This start fails before the program's init runs. systemd 257 logs no failed step where a unit has fields of its
    // own; the bus names the step.
    let job = Job::command("/bin/true").config("files {\n inaccessible_paths = [\"/var/missing\"]\n}");
    let refusal = node.try_run(job).await.unwrap_err();
    let words = if version(&host) < 256 { "No such file" } else { "NAMESPACE" };
    assert!(refusal.message.contains(words) && refusal.message.contains("inaccessible_paths"), "{refusal}");
}

/// A task that ran elsewhere forges messages about a start that failed for another reason.
#[tokio::test]
async fn the_words_about_a_failed_start_are_not_another_tasks() {
    let host = host!();
    let node = Node::start(&host).await;
    let victim = node.run(Job::shell("exec sleep infinity")).await;
    let unit = node.unit(&victim).await;
    let lie = lie(
        &host,
        &unit,
        &[SPAWN_FAILED, "MESSAGE=Failed at step EXEC spawning /forged: Forged", "EXECUTABLE=/forged"],
    );
    let mut events = node.events().await;
    forged(&node, &lie).await;
    assert_eq!(messages(&host, SPAWN_FAILED, &unit).len(), 1, "the lie is in the journal");
    host.run("systemctl", &["kill", "--signal=KILL", "--", &unit]);
    let exit = node.wait(&victim).await;
    assert_eq!(exit, Exit::signal(9));
    node.destroy(&victim, true).await.unwrap();
    let next = node.run(Job::shell("true")).await;
    for event in events.before(&next).await {
        assert!(!event.message.contains("orged"), "{event:?}");
    }
    node.destroy(&next, true).await.unwrap();
}

/// systemd itself adds a unit's fields to its messages about the unit (since 253), and journald to each line of the
/// unit: no other process can set them.
#[tokio::test]
async fn no_job_has_systemd_write_of_other_units_and_jobs() {
    let host = host!();
    let node = Node::start(&host).await;
    let victim = node.run(Job::shell("exec sleep infinity")).await;
    let unit = node.unit(&victim).await;
    let invocation = host.property(&unit, "InvocationID");
    for field in [
        &format!("UNIT={unit}"),
        &format!("INVOCATION_ID={invocation}"),
        &format!("_SYSTEMD_UNIT={unit}"),
        "MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15",
        "EXIT_STATUS=0",
        "EXIT_CODE=exited",
        "NOMAD_JOB_ID=victim",
        "NOMAD_NAMESPACE=victim",
        "NOMAD_ALLOC_ID=00000000-0000-0000-0000-000000000000",
        "NOMAD_ALLOC_HOST_DIR=/var/lib/nomad/alloc/victim",
        // An empty value would reset the driver's fields.
        "",
    ] {
        let config =
            format!("properties {{ LogExtraFields = {field:?} }}\nlogging {{ driver = \"journald\" }}");
        let message = super::refusal(&host, &node, Job::shell("echo hello").config(&config)).await;
        assert!(message.contains("LogExtraFields"), "{field:?}: {message}");
    }
    node.destroy(&victim, true).await.unwrap();
}

/// The same for its end: a task that exits successfully makes systemd report this about another task, which did not.
#[tokio::test]
async fn an_end_of_one_task_is_not_taken_for_the_end_of_another() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let victim = node.run(Job::shell("exec sleep infinity")).await;
    let unit = node.unit(&victim).await;
    let fields = format!("UNIT={unit}\\nINVOCATION_ID={}", host.property(&unit, "InvocationID"));
    let config = format!("properties {{ LogExtraFields = \"{fields}\" }}");
    let forger = "until test -e /alloc/data/go; do sleep 0.05; done; exit 3";
    let Ok(forger) = node.try_run(Job::shell(forger).config(&config)).await else {
        node.destroy(&victim, true).await.unwrap();
        return; // refused: the test above
    };
    let forgers = node.unit(&forger).await;
    node.plugin().kill().await;
    host.run("systemctl", &["kill", "--signal=SEGV", "--", &unit]);
    eventually("it ended", async || (host.property(&unit, "SubState") == "failed").then_some(())).await;
    std::fs::write(forger.alloc_dir().join("alloc/data/go"), "").unwrap();
    eventually("the other one ended", async || {
        (host.property(&forgers, "SubState") == "failed").then_some(())
    })
    .await;
    host.run("systemctl", &["reset-failed", "--", &unit]);
    assert_eq!(node_exit(&mut node, &victim).await, Exit::signal(11));
    node.destroy(&victim, true).await.unwrap();
    node.recover(&forger).await.unwrap();
    node.destroy(&forger, true).await.unwrap();
}

// ---- The status of the WebAssembly runner

/// Sends systemd the status that a runner would send, and waits. Its argument is the status.
const SPEAK: &str = r#"
    $| = 1;
    use Socket;
    my $path = $ENV{NOTIFY_SOCKET} or die "nobody listens";
    $path =~ s/^@/\0/;
    socket(my $socket, PF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
    send($socket, "READY=1\nSTATUS=$ARGV[0]\n", 0, sockaddr_un($path)) or die "send: $!";
    print "spoken\n";
    sleep 1000;
"#;

#[tokio::test]
async fn a_native_task_does_not_speak_for_the_runner_of_webassembly() {
    let host = host!();
    let node = Node::configured(&host, MAY_NOTIFY).await;
    for status in [
        "trap: forged",
        "denied: connect to tcp:10.0.0.1:22 forged",
        "serving: requests=9 traps=9 timeouts=9 active=9",
        "out of fuel: forged",
    ] {
        for access in ["main", "all"] {
            let mut events = node.events().await;
            let config = format!("notify {{ access = {access:?} }}");
            let mut task = node.run(super::perl(SPEAK, &[status]).config(&config)).await;
            task.says("spoken").await;
            let unit = node.unit(&task).await;
            eventually("systemd has heard it", async || {
                (host.property(&unit, "StatusText") == status).then_some(())
            })
            .await;
            let attributes = node.inspect(&task).await.unwrap().driver.unwrap().attributes;
            assert!(!attributes.keys().any(|name| name.starts_with("wasm")), "{status}: {attributes:?}");
            host.run("systemctl", &["kill", "--signal=KILL", "--", &unit]);
            assert_eq!(node.wait(&task).await, Exit::signal(9), "{status}");
            let id = task.id.clone();
            node.destroy(&task, true).await.unwrap();
            let next = node.run(Job::shell("true")).await;
            for event in events.before(&next).await.into_iter().filter(|event| event.task_id == id) {
                let words = ["forged", "WebAssembly", "wasm", "trapped"];
                assert!(!words.iter().any(|word| event.message.contains(word)), "{status}: {event:?}");
            }
            node.destroy(&next, true).await.unwrap();
        }
    }
}

/// The control for the test above: the status of a guest is reported.
#[tokio::test]
async fn the_runner_of_webassembly_speaks_for_its_guest() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let task = node.run(Job::artifact("trap.wasm", &super::guest("trap.wat"))).await;
    events.until(&task, "trap").await;
    node.destroy(&task, true).await.unwrap();
}
