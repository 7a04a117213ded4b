//! What tasks of a group, and jobs on the same node, could do to each other and to the host through shared resources.

use proto::driver::Mount;
use tests::{Exit, Job, MAY_LISTEN, Node};

use super::{USER, allow_root, refusal, version};

#[tokio::test]
async fn no_task_has_its_own_directories_in_the_one_that_is_shared() {
    let host = host!();
    let node = Node::start(&host).await;
    // Its `local/` would be the `local` in `/alloc`, where another task of the group can create a link.
    let job = Job::shell("ls /local/etc").with(|request| "alloc".clone_into(&mut request.task));
    let message = refusal(&host, &node, job).await;
    assert!(message.contains("another name"), "{message}");
}

/// A file system of the host below a directory that jobs may mount.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(host: &tests::Host) -> Self {
        let directory = tempfile::Builder::new().prefix("attack-").tempdir_in("/srv").unwrap();
        let below = directory.path().join("below");
        std::fs::create_dir(&below).unwrap();
        host.run("mount", &["-t", "tmpfs", "none", below.to_str().unwrap()]);
        std::fs::write(below.join("file"), "there\n").unwrap();
        Self(directory)
    }

    fn path(&self) -> String {
        self.0.path().display().to_string()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let below = self.0.path().join("below");
        let _ = std::process::Command::new("umount").arg("--lazy").arg(below).status();
    }
}

#[tokio::test]
async fn no_start_takes_away_what_the_host_has_mounted() {
    let host = host!();
    let mut node = Node::configured(&host, "allow_host_paths = [\"/srv\"]").await;
    let ours = format!("{}-", node.plugin().pid());
    let mounted = Mounted::new(&host);
    let volume = Mount { task_path: "/data".into(), host_path: mounted.path(), ..Default::default() };
    let config = format!("files {{ bind_paths = [\"{}:/data\"] }}", mounted.path());
    for job in [
        Job::shell("cat /data/below/file").with(|request| request.mounts = vec![volume]),
        Job::shell("cat /data/below/file").config(&config),
    ] {
        assert_eq!(node.output_of(job).await, "there\n");
        assert!(mounted.0.path().join("below/file").exists(), "the host has lost its mount");
        // Other tests may start tasks meanwhile.
        let pins = host.run("ls", &["-A", "/run/nomad-driver-systemd/pins"]);
        assert!(!pins.lines().any(|name| name.starts_with(&ours)), "no pin is left: {pins}");
    }
}

#[tokio::test]
async fn no_task_fills_the_kernels_tables_for_all() {
    let host = host!();
    let node = Node::start(&host).await;
    let ours = host.run("readlink", &["/proc/self/ns/ipc"]);
    let before = host.run("sh", &["-c", "ipcs -m | wc -l"]);
    // shmget(2) with a key that nobody else uses.
    let script =
        "my $made = 0; while (syscall(29, 0, 4096, 0600) >= 0) { last if ++$made >= 50 } print \"$made\\n\"";
    for user in [USER, ""] {
        let job = Job::shell(&format!("readlink /proc/self/ns/ipc; perl -e '{script}'")).user(user);
        let output = node.output_of(job).await;
        assert!(!output.contains(ours.trim()) && output.ends_with("50\n"), "{user:?}: {output}");
    }
    assert_eq!(host.run("sh", &["-c", "ipcs -m | wc -l"]), before);
}

#[tokio::test]
async fn nothing_that_is_encrypted_for_the_machine_is_decrypted_for_whoever_has_a_copy() {
    let host = host!();
    let node = Node::start(&host).await;
    let config = "credential {\n name = \"x\"\n path = \"x\"\n encrypted = true\n }";
    let message = refusal(&host, &node, Job::shell("true").config(config)).await;
    assert!(message.contains("`allow_properties`") || version(&host) < 250, "{message}");
}

#[tokio::test]
async fn no_argument_pushes_the_limits_out_of_the_units_file() {
    let host = host!();
    let node = Node::start(&host).await;
    let long = "x".repeat(100_000);
    let args: Vec<&str> = ["-c", "exec sleep infinity"].into_iter().chain([long.as_str(); 12]).collect();
    let message = refusal(&host, &node, Job::command("/bin/sh").args(&args)).await;
    assert!(message.contains("ExecStart") && message.contains("limit"), "{message}");
    // A value that is just short enough is unchanged after a reload.
    let args: Vec<&str> = ["-c", "exec sleep infinity"].into_iter().chain([long.as_str(); 7]).collect();
    let task = node.run(Job::command("/bin/sh").args(&args)).await;
    let unit = node.unit(&task).await;
    let read = || {
        ["LoadState", "MemoryMax", "DevicePolicy", "NoNewPrivileges"].map(|name| host.property(&unit, name))
    };
    let before = read();
    host.run("systemctl", &["daemon-reload"]);
    assert_eq!(read(), before);
    assert_eq!(before[0], "loaded");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn what_makes_work_for_others_needs_the_operators_word() {
    let host = host!();
    let node = Node::start(&host).await;
    for (since, config) in [
        (253, "properties { LogFilterPatterns = \"^(a+)+$\" }"),
        (0, "properties { NotifyAccess = \"all\" }"),
        (0, "properties { SystemCallLog = \"@system-service\" }"),
        (0, "properties { LogExtraFields = \"UNIT=victim\" }"),
        (248, "files { exec_paths = [\"/alloc\"] }"),
        (0, "sandbox { protect_proc = \"default\" }"),
        (248, "sandbox { private_ipc = false }"),
    ] {
        if version(&host) >= since {
            let message = refusal(&host, &node, Job::shell("true").config(config)).await;
            assert!(
                message.contains("`allow_properties`") || message.contains("`notify`"),
                "{config}: {message}"
            );
        }
    }
}

#[tokio::test]
async fn no_list_keeps_systemd_from_its_work() {
    let host = host!();
    let node = Node::start(&host).await;
    let lines = |count: usize| (0..count).map(|n| format!("X{n}")).collect::<Vec<_>>();
    let unset = |count: usize, between: &str| {
        Job::shell("true")
            .config(&format!("properties {{ UnsetEnvironment = {:?} }}", lines(count).join(between)))
    };
    let message = refusal(&host, &node, unset(2000, "\n")).await;
    assert!(message.contains("UnsetEnvironment") && message.contains("the limit is 128"), "{message}");
    let addresses: Vec<_> = (0..2000).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let job = Job::shell("true").config(&format!("network {{ ip_address_deny = {addresses:?} }}"));
    let message = refusal(&host, &node, job).await;
    assert!(message.contains("the limit is 128") || message.contains("needs a kernel"), "{message}");
    // On one line it is a single list, which systemd reads once.
    let task = node.run(unset(2000, " ")).await;
    assert_eq!(node.finish(task).await.0, Exit::status(0));
}

#[tokio::test]
async fn no_task_has_systemd_hold_more_sockets_than_a_few() {
    let host = host!();
    let node = Node::configured(&host, MAY_LISTEN).await;
    let sockets = |count: usize| {
        let block = |n| format!("{{ name = \"s{n}\", path = \"/local/s{n}\" }}");
        let blocks: Vec<_> = (0..count).map(block).collect();
        Job::shell("echo $LISTEN_FDS").config(&format!("socket = [{}]", blocks.join(", ")))
    };
    let message = refusal(&host, &node, sockets(33)).await;
    assert!(message.contains("`socket`") && message.contains("32"), "{message}");
    assert_eq!(node.output_of(sockets(32)).await, "32\n");
}

#[tokio::test]
async fn a_preset_sets_nothing_that_the_operator_denies() {
    let host = host!();
    let denied = "deny_properties = [\"RestrictNamespaces\"]";
    let node = Node::configured(&host, denied).await;
    let off = "sandbox { preset = \"off\" }";
    let message = refusal(&host, &node, Job::shell("true").config(off)).await;
    assert!(message.contains("`sandbox.preset`") && message.contains("RestrictNamespaces"), "{message}");
    // The default preset does not change this.
    let standard = Job::shell("true").config("sandbox { preset = \"standard\" }");
    let task = node.run(standard).await;
    assert_eq!(node.finish(task).await.0, Exit::status(0));
}

#[tokio::test]
async fn a_confined_root_reads_nothing_that_root_alone_may_read() {
    let host = host!(alone);
    if version(&host) < 257 {
        return; // there no root is confined
    }
    let node = Node::configured(&host, &allow_root("confined")).await;
    let secret = tempfile::Builder::new().prefix("attack-").tempdir_in("/etc").unwrap();
    let path = secret.path().display().to_string();
    std::fs::write(secret.path().join("key"), "secret\n").unwrap();
    for mode in ["700", "755"] {
        host.run("sh", &["-c", &format!("chmod {mode} {path} && chmod 600 {path}/key")]);
        let script = format!("cat {path}/key /etc/shadow 2>/dev/null; test -e /etc/passwd && echo done");
        assert_eq!(node.output_of(Job::shell(&script).user("root")).await, "done\n", "{mode}");
    }
    let script = "stat -c %a /run/systemd/journal/io.systemd.journal 2>/dev/null; echo done";
    // The file that systemd mounts in its place has mode 0, and nobody listens there.
    let output = node.output_of(Job::shell(script).user("root")).await;
    assert!(["0\ndone\n", "done\n"].contains(&output.as_str()), "{output}");
}
