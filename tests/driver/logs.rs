//! Where a task's output goes.

use tests::{Exit, Host, Job, Node, eventually};
use tonic::Code;

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

// ---- In the journal

/// The messages in the journal with this field, once there are this many.
async fn journal(host: &Host, field: &str, count: usize) -> Vec<String> {
    eventually("the journal has it", async || {
        // Since version 257, systemd adds the same fields to its own messages about a unit.
        let output = host.run("journalctl", &["--quiet", "--output=cat", "_TRANSPORT=stdout", field]);
        let lines: Vec<_> = output.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

fn job_id() -> String {
    format!("web-{}", &nomad_local::task_request::new_alloc_id()[..8])
}

#[tokio::test]
async fn a_task_may_log_to_the_journal_where_it_is_found_by_the_words_of_nomad() {
    let host = host!();
    let node = Node::start(&host).await;
    let id = job_id();
    let script = "echo to stdout; echo to stderr >&2; logger -t own sent || true; exit 3";
    let job = Job::shell(script).block("logging", &[("driver", "journald")]);
    let task = node.run(job.with(|request| id.clone_into(&mut request.job_id))).await;
    let alloc = task.id[..36].to_owned();
    assert_eq!(host.units(&alloc).len(), 1, "the task's unit and no other process for its output");
    let (exit, output, errors) = node.finish(task).await;
    // Nomad's log collector gets nothing.
    assert_eq!((exit, output, errors), (Exit::status(3), String::new(), String::new()));
    for field in [format!("NOMAD_JOB_ID={id}"), format!("NOMAD_ALLOC_ID={alloc}")] {
        let lines = journal(&host, &field, 2).await;
        assert_eq!(lines[..2], ["to stdout", "to stderr"], "{field}");
    }
    let field = format!("NOMAD_JOB_ID={id}");
    let all = host.run("journalctl", &["--quiet", "--output=json", "_TRANSPORT=stdout", &field]);
    let entry: serde_json::Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    for (field, value) in [
        ("NOMAD_TASK_NAME", "web"),
        ("NOMAD_GROUP_NAME", "group"),
        ("NOMAD_NAMESPACE", "default"),
        ("SYSLOG_IDENTIFIER", "web"),
    ] {
        assert_eq!(entry[field], value, "{field} in {entry}");
    }
}

#[tokio::test]
async fn a_task_may_log_to_both_and_every_byte_reaches_nomad() {
    let host = host!();
    let mut node = Node::configured(&host, "allow_properties = [\"@confining\", \"Log*\"]").await;
    let id = job_id();
    let script = "echo first; echo error >&2; while ! test -e go; do sleep 0.05; done; seq 1 30000; printf 'no line end'";
    let job = Job::shell(script)
        .block("logging", &[("driver", "both"), ("rate_limit_interval", "0")])
        .with(|request| id.clone_into(&mut request.job_id));
    let mut task = node.run(job).await;
    let field = format!("NOMAD_JOB_ID={id}");
    let mut lines = journal(&host, &field, 2).await;
    lines.sort();
    assert_eq!(lines, ["error", "first"]);
    // What copies has a share of the node as the task has.
    for copier in host.units("nomad_log") {
        assert_eq!(host.property(&copier, "Slice"), "nomad_tasks-share.slice");
        assert_eq!(host.property(&copier, "CPUWeight"), host.property(&node.unit(&task).await, "CPUWeight"));
    }
    // Neither depends on the driver.
    node.plugin().kill().await;
    std::fs::write(task.alloc_dir().join("web/local/go"), "").unwrap();
    node.restart().await;
    node.recover(&task).await.unwrap();
    let output = task.read_until("no line end").await;
    let (exit, rest, errors) = node.finish(task).await;
    assert_eq!((exit, rest.as_str(), errors.as_str()), (Exit::status(0), "", "error\n"));
    let lines: Vec<&str> = output.lines().collect();
    assert!((lines[0], lines.len()) == ("first", 30_002) && output.ends_with("\n30000\nno line end"));
    assert!((1..=30_000).all(|number| lines[number] == number.to_string()), "every line, in order");
    let lines = journal(&host, &field, 30_003).await;
    assert_eq!(lines.last().map(String::as_str), Some("no line end"));
    // Messages of other tests as well.
    eventually("the copiers to be gone", async || host.units("nomad_log").is_empty().then_some(())).await;
}

#[tokio::test]
async fn the_operator_may_send_all_output_to_the_journal_and_a_job_may_differ() {
    let host = host!();
    let node = Node::configured(&host, r#"log_driver = "journald""#).await;
    let id = job_id();
    let job = |script: &str| Job::shell(script).with(|request| id.clone_into(&mut request.job_id));
    let task = node.run(job("echo for the journal")).await;
    assert_eq!(node.finish(task).await.1, "");
    assert_eq!(journal(&host, &format!("NOMAD_JOB_ID={id}"), 1).await, ["for the journal"]);
    let task = node.run(job("echo for nomad").block("logging", &[("driver", "nomad")])).await;
    assert_eq!(node.finish(task).await.1, "for nomad\n");
}

#[tokio::test]
async fn a_journal_namespace_and_its_rate_limit_are_the_jobs_choice_where_the_operator_lets_it() {
    let host = host!();
    let node = Node::configured(&host, "allow_properties = [\"@confining\", \"LogNamespace\"]").await;
    let mut job = Job::shell("seq 1 1000").block("logging", &[]);
    job.options[0].1 = rmpv::Value::Map(vec![
        ("driver".into(), "journald".into()),
        ("namespace".into(), "web".into()),
        ("rate_limit_burst".into(), 20.into()),
        ("rate_limit_interval".into(), "1h".into()),
    ]);
    let task = node.run(job).await;
    let unit = node.unit(&task).await;
    assert_eq!(host.property(&unit, "LogRateLimitBurst"), "20");
    assert_eq!(host.property(&unit, "LogRateLimitIntervalUSec"), "1h");
    assert_eq!(node.finish(task).await.0, Exit::status(0));
    eventually("its lines come", async || {
        let unit = format!("_SYSTEMD_UNIT={unit}");
        let all = host.run("journalctl", &["--quiet", "--output=cat", "--namespace=web", &unit]);
        (all.lines().count() >= 20).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_mistake_in_the_logging_block_is_refused_by_name() {
    let host = host!();
    let node = Node::configured(&host, "allow_properties = [\"@confining\", \"Log*\"]").await;
    for (option, value) in [("driver", "syslog"), ("namespace", "a/b"), ("rate_limit_interval", "soon")] {
        let refusal =
            node.try_run(Job::shell("true").block("logging", &[(option, value)])).await.unwrap_err();
        let named = format!("`logging.{option}`: `{value}` is not");
        assert!(refusal.message.contains(&named), "{refusal}");
    }
}

// ---- By name

#[tokio::test]
async fn a_task_opens_its_output_by_name() {
    let host = host!();
    let node = Node::configured(&host, "allow_root = \"confined\"").await;
    let script = "echo out > /dev/stdout; echo err > /dev/stderr; echo more >> /proc/self/fd/1";
    let both = "logging { driver = \"both\" }";
    let strict = "sandbox { preset = \"strict\" }";
    for (user, config) in [("", ""), ("", strict), ("", both), ("nobody", ""), ("nobody", both), ("root", "")]
    {
        let job = Job::shell(script).user(user).config(config);
        let task = match node.try_run(job).await {
            Ok(task) => task,
            Err(refusal) => {
                assert!(user == "root" && refusal.message.contains("systemd 257"), "{refusal}");
                continue;
            }
        };
        let (exit, output, errors) = node.finish(task).await;
        let actual = (exit, output.as_str(), errors.as_str());
        assert_eq!(actual, (Exit::status(0), "out\nmore\n", "err\n"), "{user:?} {config}");
    }
}
