//! The program, its user and its environment; and what is rejected.

use std::os::unix::fs::PermissionsExt;

use tests::{Exit, Job, Node, SOON, exiting_guest, wasm};

use crate::guest;

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
async fn a_refused_job_has_not_made_its_program_executable() {
    let host = host!();
    let node = Node::start(&host).await;
    let program = || Job::artifact("run", b"#!/bin/sh\n");
    for (job, wrong) in [
        (program().config("wasm {\n fuel = 5\n}"), "`wasm`"),
        (program().option("cap_add", "[\"sys_admin\"]"), "sys_admin"),
        (program().block("sandbox", &[("protect_system", "\"full\"")]), "ProtectSystem"),
    ] {
        let prepared = node.prepare(&job);
        let path = prepared.alloc_dir().join(&prepared.config.name).join("local/run");
        let file = std::fs::File::open(path).unwrap();
        let refusal = node.begin(prepared).await.unwrap_err();
        assert!(refusal.message.contains(wrong), "{refusal:?}");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o111, 0, "{wrong}");
    }
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

/// Variables that the runner itself would use.
#[tokio::test]
async fn a_guest_gets_variables_that_mean_something_to_its_runner() {
    let host = host!();
    let node = Node::start(&host).await;
    let job =
        Job::artifact("echo.wasm", &guest("echo.wat")).env("RUST_BACKTRACE", "1").env("RUST_LOG", "debug");
    let output = node.output_of(job).await;
    assert!(output.contains("RUST_BACKTRACE=1") && output.contains("RUST_LOG=debug"), "{output}");
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
async fn odd_task_names_work() {
    let host = host!();
    let node = Node::start(&host).await;
    let long = "x".repeat(200);
    for name in ["two words", "per%cent", "qu\"ote's", "ünïcode", "-dash", "a.b_c:d@e\\f", &long] {
        let job = Job::shell("cat /proc/self/cgroup").with(|request| name.clone_into(&mut request.task));
        let task = match node.try_run(job).await {
            Ok(task) => task,
            // systemd 257 and 262 fail on quotes in a path: the start fails, and not the task.
            Err(refusal) if name.contains('"') && refusal.message.contains("before it ran the program") => {
                continue;
            }
            Err(refusal) => panic!("{name:?}: {refusal}"),
        };
        let (exit, output, errors) = node.finish(task).await;
        assert!(exit == Exit::status(0) && output.contains("nomad-"), "{name:?}: {exit:?} {output} {errors}");
    }
    // systemd would write it to the unit's file unchanged.
    let job = Job::shell("true").with(|request| "new\nline".clone_into(&mut request.task));
    let refusal = node.try_run(job).await.unwrap_err();
    assert!(refusal.message.contains("cannot be a directory's name"), "{refusal}");
}

// ---- The user of the task

#[tokio::test]
async fn a_task_runs_as_the_jobs_user_by_name_and_by_number() {
    let host = host!();
    let node = Node::configured(&host, "allow_root = \"host\"").await;
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

// ---- The environment of the task

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

/// Nomad creates such names from port labels and meta keys, and systemd drops them.
const ODD_NAMES: [&str; 5] =
    ["NOMAD_ALLOC_PORT_http-admin", "NOMAD_META_team.name", "discovery.type", "1", "a b\u{1b}č"];

/// A job with all these names.
fn with_odd_names(job: Job) -> Job {
    ODD_NAMES.iter().fold(job, |job, name| job.env(name, "x=\"y\"\n"))
}

#[tokio::test]
async fn variables_of_any_name_reach_a_task_and_its_commands() {
    let host = host!();
    // A shell itself does not pass these names on.
    let script =
        "cat /proc/$$/environ; echo; cat /proc/$$/comm; echo $0; grep -a SigIgn /proc/$$/status | tail -c 9";
    let usual = Node::start(&host).await.output_of(Job::shell(script)).await;
    let end = usual.rsplit_once('\0').unwrap().1;
    for (options, config) in [
        ("", ""),
        ("", "sandbox { preset = \"strict\" }"),
        ("", "sandbox { preset = \"off\" }"),
        ("", "sandbox { system_call_filter = [\"~@privileged\"] }"),
        ("fs_isolation = \"none\"", ""),
    ] {
        let node = Node::configured(&host, options).await;
        let job =
            with_odd_names(Job::shell(&format!("{script}; echo ready; exec sleep infinity")).config(config));
        let mut task = node.run(job).await;
        let output = task.read_until("ready\n").await;
        let command = node.output_in(&task, script).await;
        for name in ODD_NAMES {
            let line = format!("\0{name}=x=\"y\"\n\0");
            assert!(format!("\0{output}").contains(&line), "{options}{config}: {name}: {output:?}");
            assert!(format!("\0{command}").contains(&line), "{options}{config}: {name}: {command:?}");
        }
        assert!(
            !output.contains("CARRIED") && output.contains(end),
            "{options}{config}: {output:?}, {end:?}"
        );
        let unit = node.unit(&task).await;
        let shown = host.run("systemctl", &["show", "--all", &unit]);
        assert!(!shown.contains("http-admin"), "{shown}");
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn variables_of_any_name_reach_a_guest() {
    let host = host!();
    let node = Node::start(&host).await;
    let output = node.output_of(with_odd_names(Job::artifact("env.wasm", &guest("echo.wat")))).await;
    for name in ODD_NAMES {
        assert!(output.contains(&format!("{name}=x=")), "{name}: {output}");
    }
    assert!(!output.contains("CARRIED"), "{output}");
}

#[tokio::test]
async fn a_command_that_cannot_be_executed_behind_odd_names_is_a_failed_start() {
    let host = host!();
    let node = Node::start(&host).await;
    // Only root can read the file, so the driver does not look for its interpreter.
    let refusal = node.try_run(with_odd_names(Job::command("/etc/shadow"))).await.unwrap_err();
    assert!(refusal.message.contains("/etc/shadow cannot be executed: Permission denied (203)"), "{refusal}");
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
    // systemd has read the file: it is removed.
    let found = std::process::Command::new("grep")
        .args(["-r", secret, "/run/nomad-driver-systemd"])
        .output()
        .unwrap();
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let logged = format!("{:?}", node.records());
    assert!(!logged.contains(secret), "the plugin's log must not hold it");
    node.destroy(&task, true).await.unwrap();
}

// ---- What is rejected

#[allow(clippy::too_many_lines, reason = "a table of jobs")]
#[tokio::test]
async fn what_cannot_run_is_refused_with_the_option_the_thing_and_advice() {
    let host = host!();
    let node = Node::start(&host).await;
    let truncated = &exiting_guest(0)[..20];
    let mut foreign = std::fs::read("/bin/true").unwrap();
    foreign[18] = if foreign[18] == 183 { 62 } else { 183 };
    let cases = vec![
        (Job::command(""), "`command` is empty"),
        (Job::command("missing"), "missing is in none of /local, /usr/local/sbin"),
        (Job::command("bin/missing"), "bin/missing is not in /local/bin;"),
        (Job::command("/usr/bin/missing"), "/usr/bin/missing does not exist"),
        (Job::command("/home/me/x"), "not in the task's view"),
        (Job::command("/local"), "not a regular file"),
        (Job::artifact("cut.wasm", truncated), "cut.wasm cannot be used"),
        (Job::artifact("four.wasm", b"\0asm"), "four.wasm cannot be used"),
        (
            Job::artifact("guest.wasm", &wasm(include_str!("../guests/missing_import.wat"))),
            "it imports `env::launch`, which",
        ),
        (
            Job::artifact("guest.wasm", &wasm(include_str!("../guests/component_import.wat"))),
            "it imports `acme:rocket/engine",
        ),
        (Job::artifact("text.wasm", b"(module)"), "not WebAssembly"),
        (Job::artifact("empty.wasm", b""), "it is empty"),
        (Job::artifact("page", b"<html>404</html>"), "neither a program"),
        (Job::artifact("foreign", &foreign), "is a program for"),
        (
            Job::artifact("script", b"#!/no/such/interpreter\n"),
            "started by /no/such/interpreter, which is not",
        ),
        (
            Job::artifact("script", b"#!/usr/bin/no-such-interpreter\n"),
            "started by /usr/bin/no-such-interpreter",
        ),
        (Job::artifact("script", b"#!/bin/sh\r\ntrue\r\n"), "ends with a carriage return"),
        (Job::command("/bin/sh -c true"), "put its arguments into `args`"),
        (Job::artifact("x.wat", b";; a remark\n(module)"), "text form"),
        (Job::shell("true").user("no-such-user"), "`user`: this node has no user `no-such-user`"),
        (Job::shell("true").env("A=B", "x"), "`A=B` cannot be the name of a variable"),
        (Job::shell("true").env("A", "x\0y"), "NUL"),
        (Job::command("/bin/echo").args(&["a\0b"]), "`args` holds a NUL"),
        (Job::command("/etc/shadow").user("nobody"), "cannot be executed"),
        (Job::command("/bin/echo").args(&[&"x".repeat(200_000)]), "`args` is 200000 bytes long"),
        (Job::shell("true").env("BIG", &"x".repeat(200_000)), "`env`: `BIG` is longer than"),
        (Job::shell("true").config("limits { oom_score_adjust = 2000 }"), "between -1000 and 1000"),
        (
            Job::shell("true").config("limits { cpu_affinity = \"4000\" }"),
            "`limits.cpu_affinity` (CPUAffinity) is `4000`: has the node these processors?",
        ),
        (
            Job::shell("true").config("limits { \n numa_policy = \"bind\"\n numa_mask = \"60\"\n }"),
            "`limits.numa_policy` (NUMAPolicy) is `bind`, `limits.numa_mask` (NUMAMask) is `60`: has the node",
        ),
    ];
    for (job, reason) in cases {
        let (what, alloc) = (job.command.clone(), job.request.alloc_id.clone());
        let refusal = node.try_run(job).await.expect_err(reason);
        assert!(refusal.message.contains(reason), "{what:?}: {refusal}");
        assert!(!refusal.recoverable, "trying again does not help: {refusal}");
        assert!(!refusal.message.contains('\n'), "one line: {refusal}");
        assert_eq!(host.units(&alloc), Vec::<String>::new(), "{what:?} leaves no unit");
    }
}

#[tokio::test]
async fn an_operators_mistake_is_refused_when_the_agent_starts() {
    let _host = host!();
    for (options, reason) in [
        (r#"fs_isolation = "chroot""#, "chroot"),
        (r#"host_paths = ["usr"]"#, "host_paths"),
        (r#"default_usr = "x""#, "default_usr"),
        (r#"state_dir = "relative""#, "state_dir"),
        (r#"wasm_cache_size = "much""#, "`wasm_cache_size`"),
        (r#"sandbox = "tight""#, "`sandbox`"),
        (r#"sandbox_floor = "wasm""#, "`sandbox_floor`"),
        (r#"manager = "mine""#, "`manager`"),
        (r#"allow_caps = ["flying"]"#, "flying"),
        (r#"allow_host_paths = ["/srv/../etc"]"#, "`allow_host_paths`"),
        (r#"allow_host_paths = ["/srv/*"]"#, "there are no patterns"),
        (r#"denied_envvars = ["A=B"]"#, "without a value"),
        (r#"denied_host_uids = "0-x""#, "`denied_host_uids`"),
    ] {
        let refusal = Node::refusal(options).await;
        assert!(refusal.contains(reason), "{options}: {refusal}");
    }
}

#[tokio::test]
async fn a_command_that_is_a_pipe_or_leads_out_through_a_link_is_refused_and_holds_nobody_up() {
    let host = host!();
    let node = Node::configured(&host, r#"fs_isolation = "none""#).await;
    let pipe = node.state_dir().with_file_name("pipe");
    host.run("mkfifo", &[pipe.to_str().unwrap()]);
    let refusal = node.try_run(Job::command(pipe.to_str().unwrap())).await.unwrap_err();
    assert!(refusal.message.contains("not a regular file"), "{refusal}");
    // The task owns its directory: it may replace `local` by a link.
    let prepared = node.prepare(&Job::command("shadow"));
    let local = prepared.alloc_dir().join("web/local");
    std::fs::remove_dir(&local).unwrap();
    std::os::unix::fs::symlink("/etc", &local).unwrap();
    let refusal = node.begin(prepared).await.expect_err("the link is not followed");
    assert!(!refusal.message.contains("root:"), "{refusal}");
}
