//! Tasks under a systemd user manager: no part of the driver runs as root, and all tasks run as the same user.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use proto::driver::fingerprint_response::HealthState;
use tests::{Exit, Job, Node, SOON, User, eventually, exiting_guest, programs, repository};
use tonic::Code;

/// The first version that can run tasks.
const OLDEST: u32 = 252;

/// The host's user, or the end of the test if their systemd is too old.
macro_rules! user {
    ($host:expr) => {{
        if super::version($host) < OLDEST {
            return;
        }
        User::of($host).await
    }};
}

/// The user, and a plugin that runs as this user; or the end of the test.
macro_rules! node {
    ($host:expr) => {{
        let user = user!($host);
        (user, Node::of_user(user, "").await)
    }};
}

#[tokio::test]
async fn a_users_systemd_that_is_too_old_runs_nothing() {
    let host = host!();
    let user = User::of(&host).await;
    let version = super::version(&host);
    let mut node = Node::of_user(user, "").await;
    let found = node.plugin().fingerprint().await.unwrap();
    let started = node.try_run(Job::shell("true")).await;
    if version >= OLDEST {
        assert_eq!(found.health(), HealthState::Healthy, "{}", found.health_description);
        node.finish(started.unwrap()).await;
        return;
    }
    let why = format!("a user's systemd of version {version} is too old, the driver needs {OLDEST} or newer");
    assert_eq!((found.health(), &found.health_description), (HealthState::Undetected, &why));
    let refusal = started.unwrap_err();
    assert!(refusal.message.contains(&why), "{refusal}");
}

#[tokio::test]
async fn a_users_systemd_runs_tasks_as_that_user_and_their_output_and_ends_are_told() {
    let host = host!();
    let (user, mut node) = node!(&host);
    let uid = user.uid();
    let found = node.plugin().fingerprint().await.unwrap();
    assert!(found.health_description.starts_with("Healthy"), "{}", found.health_description);
    let manager = found.attributes["driver.systemd.manager"].value.clone();
    assert_eq!(manager, Some(proto::structs::attribute::Value::StringVal("user".to_owned())));
    let who = format!("{uid}\n{uid}\n");
    for (script, exit, stdout, stderr) in [
        ("id -u; id -g", Exit::status(0), who.as_str(), ""),
        ("echo out; echo err >&2; exit 3", Exit::status(3), "out\n", "err\n"),
        ("echo $NOMAD_TASK_DIR $GREETING", Exit::status(0), "/local hello\n", ""),
        // As systemd itself ends a process that it cannot set up.
        ("exit 203", Exit::status(203), "", ""),
        ("kill -9 $$", Exit::signal(9), "", ""),
    ] {
        let task = node.run(Job::shell(script).env("GREETING", "hello")).await;
        let unit = node.unit(&task).await;
        assert_eq!(user.units(&host, &task.id[..36]), [unit.as_str()], "{script}");
        assert_eq!(
            host.units(&task.id[..36]),
            Vec::<String>::new(),
            "the machine's systemd has no part in it"
        );
        assert_eq!(node.finish(task).await, (exit, stdout.to_owned(), stderr.to_owned()), "{script}");
        assert_eq!(user.units(&host, &unit), Vec::<String>::new(), "{script}");
    }
}

#[tokio::test]
async fn its_tasks_see_their_own_directories_and_not_the_host() {
    let host = host!();
    let (user, node) = node!(&host);
    let script = format!(
        "for dir in /local /alloc /secrets /tmp /var/tmp; do echo x > $dir/file && echo \"$dir is writable\"; done
        for file in /usr/file /etc/file /file /alloc/logs/file; do echo x 2>/dev/null > $file || echo \"$file is refused\"; done
        for path in /home/* {run}/bus {run}/systemd/private {run}/nomad-driver-systemd /var/lib/dpkg; do
            test -e $path && echo \"$path is visible\"
        done; pwd",
        run = user.runtime_dir().display()
    );
    let expected = "/local is writable\n/alloc is writable\n/secrets is writable\n/tmp is writable\n\
                    /var/tmp is writable\n/usr/file is refused\n/etc/file is refused\n/file is refused\n\
                    /alloc/logs/file is refused\n/local\n";
    for preset in ["off", "standard", "strict"] {
        let job = Job::shell(&script).block("sandbox", &[("preset", preset)]);
        assert_eq!(node.output_of(job).await, expected, "{preset}");
    }
    let plain = Node::of_user(user, "fs_isolation = \"none\"").await;
    assert_eq!(plain.output_of(Job::shell("test -d /var/lib/dpkg && echo host")).await, "host\n");
}

/// An option, a script, and what it prints when the option is in force.
const IN_FORCE: &[(&str, &str, &str)] = &[
    (
        "sandbox { preset = \"off\" }",
        "grep NoNewPrivs /proc/self/status; perl -e 'print syscall(101, 0, 0, 0, 0) == 0 ? \"traced\\n\" : \"refused\\n\"'",
        "NoNewPrivs:\t1\ntraced\n",
    ),
    ("", "grep -e NoNewPrivs -e Seccomp: /proc/self/status", "NoNewPrivs:\t1\nSeccomp:\t2\n"),
    ("sandbox { preset = \"strict\" }", "grep -e CapBnd /proc/self/status", "CapBnd:\t0000000000000000\n"),
    ("cap_drop = [\"all\"]", "grep -e CapBnd /proc/self/status", "CapBnd:\t0000000000000000\n"),
    ("", "unshare -U true 2>/dev/null || echo refused", "refused\n"),
    ("", "test -e /dev/null && ls /dev | grep -e kmsg -e loop || echo none", "none\n"),
    (
        "",
        "mkdir $(find /sys/fs/cgroup -name 'nomad_tasks.slice' | head -n1)/x 2>/dev/null || echo refused",
        "refused\n",
    ),
    ("sandbox { umask = \"0027\" }", "umask", "0027\n"),
    ("limits { nice = 19 }", "cut -d' ' -f19 /proc/self/stat", "19\n"),
    ("logging { driver = \"both\" }", "echo to both", "to both\n"),
    ("extra_hosts = [\"db:10.0.0.5\"]", "grep db /etc/hosts", "10.0.0.5 db\n"),
];

#[tokio::test]
async fn what_a_users_systemd_can_do_is_in_force() {
    let host = host!();
    let (_, node) = node!(&host);
    for (options, script, printed) in IN_FORCE {
        assert_eq!(node.output_of(Job::shell(script).config(options)).await, *printed, "{options}: {script}");
    }
    let ours = host.run("readlink", &["/proc/self/ns/net", "/proc/self/ns/ipc"]);
    let job = Job::shell("readlink /proc/self/ns/net /proc/self/ns/ipc");
    // The network is the host's, and System V objects belong to nobody else; the job may change both.
    let usual = node.output_of(job.clone()).await;
    assert!(usual.lines().next() == ours.lines().next() && usual != ours, "{ours}{usual}");
    let theirs =
        node.output_of(job.config("sandbox { private_ipc = true }\nnetwork { private = true }")).await;
    assert!(ours.lines().zip(theirs.lines()).all(|(ours, theirs)| ours != theirs), "{ours}{theirs}");
}

/// Options that are rejected, and the part of them that the error names.
const NOT_THERE: &[(&str, &str)] = &[
    ("sandbox { protect_proc = \"invisible\" }", "ProtectProc does not exist in a user's systemd"),
    ("sandbox { proc_subset = \"pid\" }", "ProcSubset does not exist"),
    ("sandbox { private_users = \"no\" }", "PrivateUsers=no does not exist"),
    ("sandbox { ambient_capabilities = [\"CAP_CHOWN\"] }", "AmbientCapabilities does not exist"),
    ("cap_add = [\"net_bind_service\"]", "`cap_add`: not supported on this node"),
    ("properties = { IPAddressDeny = \"any\" }", "IPAddressDeny does not exist"),
    ("properties = { DevicePolicy = \"strict\" }", "DevicePolicy does not exist"),
    ("properties = { LogNamespace = \"x\" }", "LogNamespace"),
    ("logging { namespace = \"x\" }", "`logging.namespace`: not supported on this node"),
    ("group = \"adm\"", "Group does not exist"),
    ("supplementary_groups = [\"adm\"]", "SupplementaryGroups does not exist"),
];

#[tokio::test]
async fn what_it_cannot_do_is_refused_by_name() {
    let host = host!();
    let (_, node) = node!(&host);
    for (options, words) in NOT_THERE {
        let refusal = node.try_run(Job::shell("true").config(options)).await.expect_err(options);
        assert!(refusal.message.contains(words), "{options}: {refusal}");
        assert!(!refusal.recoverable, "{options}");
    }
    let refusal = node.try_run(Job::shell("true").user("nobody")).await.unwrap_err();
    assert!(
        refusal.message.contains("`user`: a user's own systemd runs every task as that user"),
        "{refusal}"
    );
    let refusal = node.try_run(Job::command("/local/no-such")).await.unwrap_err();
    assert!(refusal.message.contains("/local/no-such"), "{refusal}");
    let refusal = node.try_run(Job::artifact("x", b"#!no/such\n")).await.unwrap_err();
    assert!(refusal.message.contains("cannot be executed"), "{refusal}");
}

#[tokio::test]
async fn stopped_and_destroyed_it_leaves_nothing() {
    let host = host!();
    let (user, node) = node!(&host);
    let ready = "echo ready; while :; do sleep 0.05; done";
    for (script, exit) in [
        (format!("trap 'exit 4' TERM; {ready}"), Exit::status(4)),
        (format!("trap '' TERM; {ready}"), Exit::signal(9)),
    ] {
        let mut task = node.run(Job::shell(&script).config("extra_hosts = [\"db:10.0.0.5\"]")).await;
        task.says("ready").await;
        node.stop(&task, "SIGTERM", Duration::from_secs(1)).await.unwrap();
        assert_eq!(node.wait(&task).await, exit, "{script}");
        node.destroy(&task, false).await.unwrap();
    }
    let task = node.run(Job::shell("sleep 1000 & exec sleep 1000")).await;
    assert_eq!(node.destroy(&task, false).await.unwrap_err().code, Code::FailedPrecondition);
    let cgroup = user.run(
        &host,
        &["systemctl", "--user", "show", "--property=ControlGroup", "--value", &node.unit(&task).await],
    );
    node.destroy(&task, true).await.unwrap();
    eventually("its cgroup is gone", async || {
        (!Path::new(&format!("/sys/fs/cgroup{}", cgroup.trim())).exists()).then_some(())
    })
    .await;
    assert_eq!(user.units(&host, &task.id[..36]), Vec::<String>::new());
    let places = user.runtime_dir().join("nomad-driver-systemd/tasks");
    let left = host.run("find", &[places.to_str().unwrap(), "-name", &format!("*{}*", &task.id[..8])]);
    assert_eq!(left, "");
}

#[tokio::test]
async fn it_runs_webassembly_and_says_how_a_guest_ended() {
    let host = host!();
    let (_, node) = node!(&host);
    let task = node.run(Job::artifact("exit.wasm", &exiting_guest(7))).await;
    let (exit, _, errors) = node.finish(task).await;
    assert_eq!(exit, Exit::status(7), "{errors}");
    let mut events = node.events().await;
    let task = node.run(Job::artifact("trap.wasm", &super::guest("trap.wat"))).await;
    let event = events.until(&task, "WebAssembly: trap: ").await;
    assert_eq!(event.task_name, "web");
    node.wait(&task).await;
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn credentials_and_sockets_reach_its_tasks() {
    let host = host!();
    let (_, node) = node!(&host);
    let script = "cat $CREDENTIALS_DIRECTORY/token; echo $LISTEN_FDS $LISTEN_FDNAMES";
    let job = Job::shell(script)
        .file("../secrets/token", b"s3cret\n")
        .config("credential {\n name = \"token\"\n path = \"token\"\n}\nsocket {\n name = \"ctl\"\n path = \"/alloc/ctl\"\n}");
    assert_eq!(node.output_of(job).await, "s3cret\n1 ctl\n");
}

#[tokio::test]
async fn it_runs_on_without_the_plugin_and_is_found_again() {
    let host = host!();
    let (_, mut node) = node!(&host);
    let wait = "while ! test -e go; do sleep 0.05; done; exit";
    let mut tasks = Vec::new();
    for code in [0, 4] {
        tasks.push((node.run(Job::shell(&format!("{wait} {code}"))).await, code));
    }
    let before = node.inspect(&tasks[0].0).await.unwrap();
    node.restart().await;
    node.recover(&tasks[0].0).await.unwrap();
    assert_eq!(node.inspect(&tasks[0].0).await.unwrap(), before);
    node.plugin().kill().await;
    for (task, _) in &tasks {
        std::fs::write(task.alloc_dir().join("web/local/go"), "").unwrap();
    }
    node.restart().await;
    for (task, code) in &tasks {
        node.recover(task).await.unwrap();
        assert_eq!(node.wait(task).await, Exit::status(*code));
        node.destroy(task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_command_joins_a_task_whose_system_calls_are_not_filtered() {
    let host = host!();
    let user = user!(&host);
    for user in [user, user.with_the_agent_as_a_unit()] {
        let node = Node::of_user(user, "").await;
        let options = "sandbox { preset = \"off\" }\nnetwork { private = true }\ncap_drop = [\"all\"]";
        let script = "readlink /proc/self/ns/net > /tmp/mine; echo ready; exec sleep infinity";
        let mut task = node.run(Job::shell(script).config(options)).await;
        task.says("ready").await;
        let script = "id -u; ls /home 2>/dev/null; readlink /proc/self/ns/net | diff - /tmp/mine; \
                      grep CapBnd /proc/self/status; grep -o 'nomad-.*service' /proc/self/cgroup; echo $NOMAD_TASK_DIR $USER";
        let (uid, unit) = (user.uid(), node.unit(&task).await);
        let expected = format!("{uid}\nCapBnd:\t0000000000000000\n{unit}\n/local tasker\n");
        assert_eq!(node.output_in(&task, script).await, expected);
        assert_eq!(
            node.check(&task, "echo checked; exit 1", SOON).await.unwrap(),
            (1, b"checked\n".to_vec())
        );

        let mut session = node.exec_on_terminal(&task, "tty; read line; echo got $line; exit 5").await;
        session.says("/dev/pts/").await;
        session.send("word\n").await;
        session.says("got word").await;
        assert_eq!(session.finish().await.0, Exit::status(5));

        let mut session = node.exec(&task, "echo pid $$.; exec sleep infinity").await;
        session.says(".").await;
        let pid = session.stdout.trim().trim_start_matches("pid ").trim_end_matches('.').to_owned();
        drop(session);
        eventually("the command has ended with its client", async || {
            (!Path::new("/proc").join(&pid).exists()).then_some(())
        })
        .await;
        eventually("nothing is left of the way in", async || {
            user.units(&host, "nomad_exec").is_empty().then_some(())
        })
        .await;
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_command_does_not_join_a_task_whose_filters_it_could_not_have() {
    let host = host!();
    let (_, node) = node!(&host);
    let task = node.run(Job::shell("exec sleep infinity")).await;
    let refusal = node.exec_command(&task, &["/bin/true"], false).await.unwrap_err();
    assert!(
        refusal.message.contains("its system call filters") && refusal.message.contains("\"off\""),
        "{refusal}"
    );
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_job_runs_at_the_desk_of_whoever_is_not_root() {
    let host = host!();
    let user = user!(&host);
    let examples = repository().join("examples");
    let module = format!(
        "job \"m\" {{\n type = \"batch\"\n group \"g\" {{\n task \"t\" {{\n driver = \"systemd\"\n artifact {{\n source = \
         \"{}\"\n }}\n config {{\n command = \"echo.wasm\"\n args = [\"hello from a module\"]\n }}\n }}\n }}\n}}\n",
        examples.join("guests/echo.wasm").display()
    );
    let file = user.home().join("module.nomad.hcl");
    std::fs::write(&file, module).unwrap();
    let driver = tests::program("nomad-driver-systemd");
    let config = format!("shim_dir = {:?}", programs().display().to_string());
    let run = |job: &Path| -> Output {
        let args =
            [driver.to_str().unwrap(), "run", "--plain", "--plugin-config", &config, job.to_str().unwrap()];
        user.command(&args).output().unwrap()
    };
    let hello = format!("Hello from hello, I am user {}\n", user.uid());
    for (job, text) in [(examples.join("hello.nomad.hcl"), hello.as_str()), (file, "hello from a module")] {
        let Output { status, stdout, stderr } = run(&job);
        let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert!(status.success() && stdout.contains(text), "{stdout}{stderr}");
        assert!(stderr.contains("`manager = \"user\"`"), "{stderr}");
    }
    assert_eq!(user.units(&host, "nomad-hello"), Vec::<String>::new());
}
