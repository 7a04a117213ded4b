//! The plugin as a process.

use std::time::{Duration, Instant};

use tests::{Exit, Job, Node, SOON, eventually, program, programs, repository};
use tonic::Code;

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
    // From here, its stdout and stderr are broken pipes, and it is not configured again.
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
    // The rest of the description names what this host lacks.
    assert!(found.health_description.starts_with("Healthy"), "{}", found.health_description);
    let text = format!("{:?}", found.attributes);
    let version = host.run("systemctl", &["--version"]);
    let number = version.split_whitespace().nth(1).unwrap();
    assert!(text.contains(&format!("\"{number}\"")) && text.contains("driver.systemd.wasm"), "{text}");
}

#[tokio::test]
async fn a_configuration_that_cannot_work_here_is_told_by_the_node() {
    let host = host!();
    for (option, reason) in [
        (
            "default_user = \"nobody-here\"",
            "plugin option `default_user`: this node has no user `nobody-here`",
        ),
        ("shim_dir = \"/usr/share\"", "plugin option `shim_dir`: /usr/share has no wasm-shim;"),
        ("state_dir = \"/proc/state\"", "plugin option `state_dir`: /proc/state cannot be used"),
    ] {
        let mut node = Node::configured(&host, option).await;
        let found = node.plugin().fingerprint().await.unwrap();
        assert_eq!(found.health(), proto::driver::fingerprint_response::HealthState::Unhealthy, "{option}");
        assert!(found.health_description.contains(reason), "{option}: {}", found.health_description);
    }
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
async fn a_question_about_a_task_that_nobody_knows_is_answered() {
    use proto::driver as ask;
    let host = host!();
    let node = Node::start(&host).await;
    let mut driver = node.driver();
    let task_id = "00000000-0000-0000-0000-000000000000/web/00000000".to_owned();
    let command = vec!["true".to_owned()];
    let code = |answer: Result<(), tonic::Status>| answer.unwrap_err().code();
    let wait = driver.wait_task(ask::WaitTaskRequest { task_id: task_id.clone() }).await;
    assert_eq!(code(wait.map(drop)), Code::NotFound);
    let inspect = driver.inspect_task(ask::InspectTaskRequest { task_id: task_id.clone() }).await;
    assert_eq!(code(inspect.map(drop)), Code::NotFound);
    let signal = ask::SignalTaskRequest { task_id: task_id.clone(), signal: "SIGHUP".into() };
    assert_eq!(code(driver.signal_task(signal).await.map(drop)), Code::NotFound);
    let stats = ask::TaskStatsRequest { task_id: task_id.clone(), collection_interval: None };
    assert_eq!(code(driver.task_stats(stats).await.map(drop)), Code::NotFound);
    let exec = ask::ExecTaskRequest { task_id: task_id.clone(), command: command.clone(), timeout: None };
    assert_eq!(code(driver.exec_task(exec).await.map(drop)), Code::NotFound);
    let setup = ask::exec_task_streaming_request::Setup { task_id: task_id.clone(), command, tty: false };
    let frame = ask::ExecTaskStreamingRequest { setup: Some(setup), ..Default::default() };
    let exec = driver.exec_task_streaming(tokio_stream::iter([frame])).await;
    assert_eq!(code(exec.map(drop)), Code::NotFound);
    let nothing = ask::RecoverTaskRequest::default();
    assert_eq!(code(driver.recover_task(nothing).await.map(drop)), Code::InvalidArgument);
    // Nomad's requirement for both has already been met.
    let stop = ask::StopTaskRequest { task_id: task_id.clone(), timeout: None, signal: String::new() };
    driver.stop_task(stop).await.unwrap();
    driver.destroy_task(ask::DestroyTaskRequest { task_id, force: true }).await.unwrap();
}

#[tokio::test]
async fn what_the_plugin_inherited_from_the_agent_stays_with_it() {
    let host = host!();
    let mut node = Node::start(&host).await;
    // Nomad's own unit gives the agent -1000, for which a test may lack the privilege.
    std::fs::write(format!("/proc/{}/oom_score_adj", node.plugin().pid()), "500").unwrap();
    let task = node.run(Job::shell("exec sleep infinity")).await;
    let pid = node.inspect(&task).await.unwrap().driver.unwrap().attributes["pid"].clone();
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), "0\n");
    assert_eq!(
        node.output_in(&task, "cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l").await,
        "0\n4\n"
    );
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_start_that_fails_leaves_the_plugin_no_child() {
    let host = host!();
    let mut node = Node::start(&host).await;
    node.try_run(Job::shell("true").user("no-such-user")).await.expect_err("nobody of that name");
    let pid = node.plugin().pid();
    let children = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        tasks
            .map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default())
            .collect::<String>()
    };
    eventually("no child is left", async || children().is_empty().then_some(())).await;
}

#[tokio::test]
async fn the_unit_that_is_printed_for_a_job_is_one_that_systemd_reads() {
    let host = host!();
    let directory = tempfile::tempdir().unwrap();
    let job = r#"job "j" {
        group "g" {
            task "t" {
                driver = "systemd"
                config {
                    command = "/bin/sh"
                    args    = ["-c", "echo 100% $HOME 'a b' \"c\""]
                    limits {
                        nice        = 5
                        cpu_quota   = "150%"
                        memory_high = "50%"
                    }
                    sandbox { system_call_filter = ["~@mount", "~@clock"] }
                    properties { LogLevelMax = "info" }
                    socket {
                        name = "ctl"
                        path = "/alloc/ctl.sock"
                    }
                }
            }
        }
    }"#;
    let path = directory.path().join("j.nomad.hcl");
    std::fs::write(&path, job).unwrap();
    let driver = program("nomad-driver-systemd").display().to_string();
    let text = host.run(&driver, &["unit", path.to_str().unwrap()]);
    assert!(text.contains("Nice=5\n") && text.contains("LogLevelMax=info\n"), "{text}");
    assert!(text.contains("echo 100%% ") && text.contains("CPUQuota=150%\n"), "{text}");
    // Each unit starts with its name.
    let mut files = Vec::new();
    for unit in text.split("\n# nomad-").skip(1) {
        let (name, lines) = unit.split_once('\n').unwrap();
        let lines: Vec<&str> = lines.lines().take_while(|line| !line.starts_with("# ")).collect();
        let file = directory.path().join(format!("nomad-{name}"));
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        files.push(file.display().to_string());
    }
    assert_eq!(files.len(), 2, "a service and its socket: {text}");
    let output = std::process::Command::new("systemd-analyze").arg("verify").args(&files).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    // Mounts in the task's view do not exist on the host.
    let ours = printed
        .lines()
        .filter(|line| line.contains("nomad-") && !line.contains("/.wasm/shim is not executable"));
    let ours: Vec<&str> = ours.collect();
    assert!(ours.is_empty(), "{printed}{text}");
}

#[tokio::test]
async fn the_commands_of_a_job_start_its_tasks_without_the_driver() {
    let host = host!();
    // The driver creates the view.
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("exit 0")).await;
    node.finish(task).await;
    let directory = tempfile::tempdir().unwrap();
    let driver = program("nomad-driver-systemd").display().to_string();
    let config = format!("shim_dir = {:?}", programs().display().to_string());
    let commands = |task: &str| {
        let path = directory.path().join("j.nomad.hcl");
        let task = format!("task \"t\" {{\n driver = \"systemd\"\n {task}\n }}");
        std::fs::write(&path, format!("job \"j\" {{\n group \"g\" {{\n {task}\n }}\n}}\n")).unwrap();
        host.run(&driver, &["unit", "--systemd-run", "--plugin-config", &config, path.to_str().unwrap()])
    };
    let said_by = |commands: &str| {
        let text = host.run("sh", &["-ec", commands]);
        std::fs::remove_dir_all("/var/lib/nomad/alloc/00000000-0000-4000-8000-000000000000").unwrap();
        text
    };
    let program = commands(
        r#"env = {
            WORD       = "it's $HOME 100% \"quoted\""
            "odd.name" = "odd value"
        }
        config {
            command = "sh"
            args    = ["-c", "echo \"$WORD, $(grep -ao 'odd.name=odd value' /proc/$$/environ), $1\"; id -u", "sh", "a  b"]
        }"#,
    );
    let text = said_by(&program);
    assert!(text.starts_with("it's $HOME 100% \"quoted\", odd.name=odd value, a  b\n6"), "{text}{program}");

    let module = directory.path().join("said.wasm");
    std::fs::write(&module, wat::parse_file(repository().join("tests/guests/echo.wat")).unwrap()).unwrap();
    let guest = commands("config {\n command = \"said.wasm\"\n args = [\"said\", \"$WORD\"]\n }");
    let put = format!("cp {} /var/lib/nomad/alloc/*/t/local/", module.display());
    let text = said_by(&guest.replace("# Put the task's artifacts and templates there.", &put));
    assert!(text.contains("said\0$WORD\0"), "{text}{guest}");
}

#[tokio::test]
async fn a_printed_unit_names_files_of_the_task_by_their_paths_on_the_host() {
    let host = host!();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("j.nomad.hcl");
    let files = "files {\n bind_paths = [\"local/x:/x\", \"alloc/data:/data\", \"/local/y:/y\"]\n }";
    let config = format!("config {{\n command = \"true\"\n {files}\n }}");
    let task = format!("task \"t\" {{\n driver = \"systemd\"\n {config}\n }}");
    std::fs::write(&path, format!("job \"j\" {{\n group \"g\" {{\n {task}\n }}\n}}\n")).unwrap();
    let driver = program("nomad-driver-systemd").display().to_string();
    let text = host.run(&driver, &["unit", path.to_str().unwrap()]);
    for bind in ["/t/local/x:/x", "/alloc/data:/data", "/t/local/y:/y"] {
        let alloc = "/var/lib/nomad/alloc/00000000-0000-4000-8000-000000000000";
        assert!(text.contains(&format!("{alloc}{bind}")), "{bind}: {text}");
    }
    assert!(
        text.contains(
            "ExecStart=@/.wasm/shim wasm-shim init --calls standard --report -- /usr/bin/true true"
        ),
        "{text}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&host.run(&driver, &["unit", "--json", path.to_str().unwrap()])).unwrap();
    assert_eq!(json[0]["task"], "j/g/t");
    assert!(text.trim_end().ends_with(json[0]["file"].as_str().unwrap().trim_end()), "{json}");
}

#[tokio::test]
async fn what_systemd_has_of_an_allocation_is_printed_by_its_id() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("exec sleep infinity")).await;
    let unit = node.unit(&task).await;
    host.run("systemctl", &["set-property", "--runtime", &unit, "CPUWeight=77"]);
    let driver = program("nomad-driver-systemd").display().to_string();
    let id = task.alloc_dir().file_name().unwrap().to_str().unwrap().to_owned();
    let text = host.run(&driver, &["unit", "--alloc", &id[..8]]);
    assert!(text.starts_with(&format!("# {unit}: active (running)\n# ")), "{text}");
    assert!(text.contains("sleep infinity") && text.contains("CPUWeight=77"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&host.run(&driver, &["unit", "--json", "--alloc", &id[..8]])).unwrap();
    assert_eq!((&json[0]["unit"], &json[0]["state"]), (&unit.into(), &"active (running)".into()));
    assert!(json[0]["file"].as_str().unwrap().contains("CPUWeight=77"), "{json}");
    node.destroy(&task, true).await.unwrap();
    let gone = std::process::Command::new(&driver).args(["unit", "--alloc", &id]).output().unwrap();
    let printed = String::from_utf8(gone.stderr).unwrap();
    assert!(!gone.status.success() && printed.contains("systemd has no unit of allocation"), "{printed}");
}
