//! The host's files that a job may request: volumes, binds, images, devices, directories.

use proto::driver::{Device, Mount};
use tests::{Job, Node, eventually};

/// A directory of the host, with a file in it.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("shared-").tempdir_in("/srv").unwrap();
        std::fs::write(directory.path().join("greeting"), "hello\n").unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory.path(), open).unwrap();
        Self(directory)
    }

    fn path(&self) -> String {
        self.0.path().display().to_string()
    }

    fn mounted(&self, target: &str) -> Mount {
        Mount { task_path: target.into(), host_path: self.path(), ..Default::default() }
    }
}

#[tokio::test]
async fn a_volume_is_mounted_as_nomad_says() {
    let host = host!();
    let node = Node::start(&host).await;
    let (volume, before) = (Shared::new(), host.run("ls", &["-A", "/", "/run/nomad-driver-systemd/root"]));
    let script = "cat /data/greeting; echo x > /data/new && echo written; cat /fixed/greeting; echo x > /fixed/new || echo refused";
    let job = Job::shell(&format!("({script}) 2>/dev/null")).with(|request| {
        request.mounts = vec![volume.mounted("/data"), Mount { readonly: true, ..volume.mounted("/fixed") }];
    });
    assert_eq!(node.output_of(job).await, "hello\nwritten\nhello\nrefused\n");
    assert!(volume.0.path().join("new").exists());
    let after = host.run("ls", &["-A", "/", "/run/nomad-driver-systemd/root"]);
    assert_eq!(after, before, "no mount point is left on the host, or in what other tasks see");
}

#[tokio::test]
async fn mounts_that_the_host_makes_later_reach_a_volume_that_wants_them() {
    let host = host!();
    let node = Node::start(&host).await;
    for (mode, seen) in [("private", false), ("host-to-task", true), ("bidirectional", true)] {
        let volume = Shared::new();
        let below = volume.0.path().join("below");
        std::fs::create_dir(&below).unwrap();
        let mount = Mount { propagation_mode: mode.into(), ..volume.mounted("/data") };
        let task =
            node.run(Job::shell("exec sleep infinity").with(|request| request.mounts = vec![mount])).await;
        let path = below.to_str().unwrap();
        host.run("mount", &["-t", "tmpfs", "none", path]);
        std::fs::write(below.join("late"), "").unwrap();
        let found = node.output_in(&task, "ls /data/below").await;
        assert_eq!(found.contains("late"), seen, "{mode}: {found}");
        host.run("umount", &["-R", path]);
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_device_of_a_plugin_is_there_and_no_other() {
    let host = host!();
    let node = Node::configured(&host, "allow_root = \"host\"").await;
    let device = |task_path: &str, permissions: &str| Device {
        task_path: task_path.into(),
        host_path: "/dev/full".into(),
        cgroup_permissions: permissions.into(),
    };
    let script = "head -c 2 /dev/gpu0 | wc -c; (echo x | cat > /dev/gpu0) 2>&1 | grep -o 'No space\\|denied\\|permitted'; ls /dev | grep -c loop";
    let task = node
        .run(
            Job::shell(script)
                .user("root")
                .with(|request| request.devices = vec![device("/dev/gpu0", "rwm")]),
        )
        .await;
    let (_, output, errors) = node.finish(task).await;
    assert_eq!(output, "2\nNo space\n0\n", "{errors}");
    let read_only =
        Job::shell(script).user("root").with(|request| request.devices = vec![device("/dev/gpu0", "r")]);
    let task = node.run(read_only).await;
    let (_, output, errors) = node.finish(task).await;
    // `full` is a device that every service may use; the path to it must be the allowed one.
    assert!(output.starts_with("2\n"), "{output}{errors}");
}

#[allow(clippy::too_many_lines, reason = "a table of options")]
#[tokio::test]
async fn a_job_sees_the_files_that_it_asks_for() {
    let host = host!();
    let leave = r#"allow_host_paths = ["/srv"]
        allow_properties = ["@confining", "*Directory", "*DirectoryMode", "ReadWritePaths"]"#;
    let node = Node::configured(&host, leave).await;
    let shared = Shared::new();
    let path = shared.path();
    let bind = |options: &str| format!("files {{\n {options}\n }}").replace("SRV", &path);
    for (options, script, expected) in [
        (
            "bind_paths = [\"SRV:/data\"]",
            "cat /data/greeting; touch /data/x && echo written",
            "hello\nwritten\n",
        ),
        (
            "bind_read_only_paths = [\"SRV\"]",
            "cat SRV/greeting; touch SRV/y 2>/dev/null || echo refused",
            "hello\nrefused\n",
        ),
        ("bind_paths = [\".:/again\"]", "touch /local/here; ls /again", "here\n"),
        (
            "temporary_file_system = [\"/scratch:size=1M,mode=1777\"]",
            "df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /scratch/x && echo written",
            "1024\nwritten\n",
        ),
        (
            "read_only_paths = [\"/alloc\"]",
            "touch /alloc/x 2>/dev/null || echo refused; touch /local/x && echo written",
            "refused\nwritten\n",
        ),
        // The directory that is compared before a program runs is not made inaccessible by its job.
        ("inaccessible_paths = [\"/alloc\"]", "ls /alloc 2>/dev/null || echo hidden", "hidden\n"),
        ("inaccessible_paths = [\"/usr/share\"]", "ls /usr/share 2>/dev/null || echo hidden", "hidden\n"),
        // A plus in a name is not systemd's prefix of a path.
        (
            "inaccessible_paths = [\"/usr/share/doc/libstdc++6\"]",
            "ls -d /usr/share/doc/libstdc++6; ls /usr/share/doc/libstdc++6 2>/dev/null || echo hidden",
            "/usr/share/doc/libstdc++6\nhidden\n",
        ),
        (
            "bind_paths = [\"/alloc/data:/data\"]\n read_only_paths = [\"/\", \"/alloc\"]\n read_write_paths = [\"/data\"]",
            "touch /data/x && echo written; touch /alloc/data/y 2>/dev/null || echo refused",
            "written\nrefused\n",
        ),
        ("no_exec_paths = [\"/local\"]", "cp /bin/true t; ./t 2>/dev/null || echo refused", "refused\n"),
        (
            "state_directory = [\"ours\"]\n state_directory_mode = \"0750\"",
            "touch $STATE_DIRECTORY/x; stat -c %a $STATE_DIRECTORY; echo $STATE_DIRECTORY | sed s/task-[0-9a-f]*/GROUP/",
            "750\n/var/lib/GROUP-ours\n",
        ),
        (
            "runtime_directory = [\"ours-r\"]",
            "test -w $RUNTIME_DIRECTORY && echo $RUNTIME_DIRECTORY | sed s/task-[0-9a-f]*/GROUP/",
            "/run/GROUP-ours-r\n",
        ),
        (
            "cache_directory = [\"ours-c\"]",
            "test -w $CACHE_DIRECTORY && echo $CACHE_DIRECTORY | sed s/task-[0-9a-f]*/GROUP/",
            "/var/cache/GROUP-ours-c\n",
        ),
    ] {
        let config = bind(options);
        let started = node.try_run(Job::shell(&script.replace("SRV", &path)).config(&config)).await;
        if options.starts_with("no_exec_paths") && super::version(&host) < 248 {
            assert!(started.err().unwrap().message.contains("needs systemd 248"));
            continue;
        }
        let task = started.unwrap_or_else(|refusal| panic!("{config}: {refusal}"));
        let (_, output, errors) = node.finish(task).await;
        assert_eq!(output, expected.replace("SRV", &path), "{config}: {errors}");
    }
    host.run("sh", &["-c", "rm -r /var/lib/private/task-*-ours /var/cache/private/task-*-ours-c"]);
}

#[tokio::test]
async fn a_path_of_the_host_is_followed_to_its_end_before_it_is_allowed() {
    let host = host!();
    let node = Node::configured(&host, r#"allow_host_paths = ["/srv"]"#).await;
    let shared = Shared::new();
    std::os::unix::fs::symlink("/etc", shared.0.path().join("link")).unwrap();
    let link = format!("{}/link", shared.path());
    for (source, reason) in [
        (link.as_str(), "out of the paths that the operator"),
        ("/etc", "/etc is a path of the host, and neither it nor a directory above it"),
        ("/srv/../etc", "has `..` in it"),
        ("/srv/no-such-file", "/srv/no-such-file cannot be opened"),
        ("../secrets", "has `..` in it"),
        ("/proc/1/root", "neither it nor a directory above it"),
    ] {
        let config = format!("files {{ bind_paths = [\"{source}:/data\"] }}");
        let refusal = node.try_run(Job::shell("true").config(&config)).await.expect_err(source);
        assert!(refusal.message.contains(reason), "{source}: {refusal}");
    }
    // A directory that the task itself has created, in an earlier run.
    let job = Job::shell("ln -s /etc /local/link; ln -s /etc/shadow /secrets/token");
    let prepared = node.prepare(&job);
    let task = node.begin(prepared).await.unwrap();
    eventually("it has written", async || task.alloc_dir().join("web/local/link").is_symlink().then_some(()))
        .await;
    let again = |config: &str| {
        let alloc_id = task.handle.config.as_ref().unwrap().alloc_id.clone();
        Job::shell("true").config(config).with(|request| request.alloc_id = alloc_id)
    };
    node.wait(&task).await;
    for config in [
        "files { bind_paths = [\"link:/data\"] }",
        "files { bind_paths = [\"/local/link:/data\"] }",
        "credential {\n name = \"token\"\n path = \"token\"\n }",
    ] {
        let refusal = node.try_run(again(config)).await.expect_err(config);
        assert!(refusal.message.contains("cannot be opened"), "{config}: {refusal}");
    }
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn without_the_operators_leave_a_job_reaches_no_path_of_the_host() {
    let host = host!();
    let node = Node::start(&host).await;
    for config in [
        "files { bind_paths = [\"/srv:/data\"] }",
        "files { root_directory = \"/srv\" }",
        "files { root_image = \"root.raw\" }",
        "properties { BindPaths = \"/srv:/data\" }",
        "properties { LoadCredential = \"x:/etc/shadow\" }",
        "properties { OpenFile = \"/etc/shadow\" }",
        "credential {\n name = \"x\"\n path = \"/etc/shadow\"\n }",
    ] {
        let refusal = node.try_run(Job::shell("true").config(config)).await.expect_err(config);
        assert!(
            ["allow_host_paths", "allow_properties", "systemd 253"]
                .iter()
                .any(|word| refusal.message.contains(word)),
            "{config}: {refusal}"
        );
        assert!(!refusal.recoverable, "{refusal}");
    }
}

#[tokio::test]
async fn a_root_of_its_own_holds_the_tasks_directories_and_nothing_of_the_host() {
    let host = host!();
    let node = Node::configured(&host, r#"allow_host_paths = ["/srv"]"#).await;
    let root = Shared::new();
    // If it is open to others, it is refused: systemd creates mount points in it.
    let config = format!("files {{ root_directory = \"{}\" }}", root.path());
    let refusal = node.try_run(Job::shell("true").config(&config)).await.unwrap_err();
    assert!(refusal.message.contains("must belong to root"), "{refusal}");
    host.run("chmod", &["755", &root.path()]);
    // A shell, a program and their libraries, and the mount points that every root needs.
    let fill = "cd $0 && mkdir -p usr etc proc sys dev run tmp var/tmp && for file in /bin/sh /bin/ls $(ldd /bin/sh /bin/ls | \
        grep -o '/[^ ]*' | tr -d ':'); do mkdir -p .$(dirname $file) && cp -aL $file .$file; done";
    host.run("sh", &["-c", fill, &root.path()]);
    let job = Job::command("/bin/sh").args(&[
        "-c",
        "echo hello > /local/x; /bin/ls /local; /bin/ls /home /usr/share 2>/dev/null || echo empty",
    ]);
    let config = format!("files {{ root_directory = \"{}\" }}", root.path());
    let task = node.run(job.config(&config)).await;
    let (_, output, errors) = node.finish(task).await;
    assert_eq!(output, "x\nempty\n", "{errors}");
}

// ---- Files of the task itself under other paths

/// The task's view of its file at this path.
const READ: &str = "cat $TARGET; test -w $TARGET && echo writable; ls /etc/hostname";

#[tokio::test]
async fn a_task_sees_a_file_of_its_own_wherever_its_job_says() {
    let host = host!();
    let node = Node::start(&host).await;
    let before = host.run("ls", &["-A", "/", "/etc", "/usr", "/run/nomad-driver-systemd/root"]);
    for (option, source, target, seen) in [
        ("bind_paths", "/local/app.conf", "/etc/app.conf", "mine\n/etc/hostname\n"),
        ("bind_paths", "local/app.conf", "/etc/hostname", "mine\n/etc/hostname\n"),
        ("bind_paths", "app.conf", "/etc/ssl/new/app.conf", "mine\n/etc/hostname\n"),
        ("bind_paths", "app.conf", "/usr/share/new/app.conf", "mine\n/etc/hostname\n"),
        ("bind_read_only_paths", "app.conf", "/opt/app.conf", "mine\n/etc/hostname\n"),
        ("bind_paths", "/secrets/app.conf", "/app.conf", "mine\n/etc/hostname\n"),
    ] {
        let config = format!("files {{ {option} = [\"{source}:{target}\"] }}");
        let prepared = node.prepare(&Job::shell(READ).env("TARGET", target).config(&config));
        for directory in ["local", "secrets"] {
            let file = prepared.alloc_dir().join("web").join(directory).join("app.conf");
            std::fs::write(&file, "mine\n").unwrap();
        }
        let task = node.begin(prepared).await.unwrap_or_else(|refusal| panic!("{config}: {refusal}"));
        let (_, output, errors) = node.finish(task).await;
        assert_eq!(output, seen, "{config}: {errors}");
    }
    let after = host.run("ls", &["-A", "/", "/etc", "/usr", "/run/nomad-driver-systemd/root"]);
    assert_eq!(after, before, "no mount point is left on the host, or in what other tasks see");
}

#[tokio::test]
async fn mount_points_are_made_for_a_task_of_any_name() {
    let host = host!();
    let node = Node::start(&host).await;
    for name in ["my task", "a:b", "a,b", "a%n", "\u{fc}"] {
        let job = Job::shell(READ).env("TARGET", "/etc/app.conf");
        let job = job.config("files { bind_paths = [\"local/app.conf:/etc/app.conf\"] }");
        let prepared = node.prepare(&job.with(|request| request.task = name.to_owned()));
        std::fs::write(prepared.alloc_dir().join(name).join("local/app.conf"), "mine\n").unwrap();
        let task = node.begin(prepared).await.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let (_, output, errors) = node.finish(task).await;
        assert_eq!(output, "mine\n/etc/hostname\n", "{name}: {errors}");
    }
}

#[tokio::test]
async fn a_volume_is_mounted_where_the_operating_system_has_nothing() {
    let host = host!();
    let node = Node::start(&host).await;
    let volume = Shared::new();
    let job = Job::shell(
        "cat /etc/app/greeting; echo x > /etc/app/new && echo written; touch /etc/x || echo refused",
    )
    .with(|request| request.mounts = vec![volume.mounted("/etc/app")]);
    let (_, output, errors) = node.finish(node.run(job).await).await;
    assert_eq!(output, "hello\nwritten\nrefused\n", "{errors}");
    assert!(!std::path::Path::new("/etc/app").exists());
}

#[tokio::test]
async fn a_directory_that_is_laid_over_the_hosts_shows_no_more_of_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let closed = tempfile::Builder::new().prefix("closed-").tempdir_in("/etc").unwrap();
    std::fs::write(closed.path().join("listed"), "").unwrap();
    let owners = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(closed.path(), owners).unwrap();
    let path = closed.path().display();
    let config = format!("files {{ bind_paths = [\"/local/f:{path}/f\", \"/local/f:/etc/control\"] }}");
    let script = format!("cat /etc/control; ls {path} 2>/dev/null || echo refused; stat -c '%a %u' {path}");
    let job = Job::shell(&script).file("f", b"mine\n").config(&config);
    assert_eq!(node.output_of(job).await, "mine\nrefused\n700 0\n");
}

#[tokio::test]
async fn what_the_group_shares_is_seen_under_other_paths_but_for_its_logs() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = |source: &str| {
        Job::shell("echo x > /data/x && cat /alloc/data/x")
            .config(&format!("files {{ bind_paths = [\"{source}:/data\"] }}"))
    };
    for source in ["/alloc/data", "alloc/data"] {
        assert_eq!(node.output_of(job(source)).await, "x\n", "{source}");
    }
    for source in ["/alloc", "/alloc/logs", "alloc/logs"] {
        let refusal = node.try_run(job(source)).await.expect_err(source);
        assert!(refusal.message.contains("bind `alloc/data`"), "{source}: {refusal}");
    }
}

#[tokio::test]
async fn a_host_path_that_the_operator_allows_to_read_is_not_written() {
    let host = host!();
    let shared = Shared::new();
    let path = shared.path();
    let node =
        Node::configured(&host, &format!("allow_host_paths = [\"{path}:ro\", \"/proc:ro\", \"/:ro\"]")).await;
    let script = "cat /data/greeting; touch /data/x 2>/dev/null || echo refused";
    let bind = format!("files {{ bind_read_only_paths = [\"{path}:/data\"] }}");
    assert_eq!(node.output_of(Job::shell(script).config(&bind)).await, "hello\nrefused\n");
    let credential = format!("credential {{\n name = \"x\"\n path = \"{path}/greeting\"\n}}");
    let read = Job::shell("cat $CREDENTIALS_DIRECTORY/x").config(&credential);
    assert_eq!(node.output_of(read).await, "hello\n", "a copy writes nothing");
    for (config, instead) in [
        (format!("files {{ bind_paths = [\"{path}:/data\"] }}"), "`files.bind_read_only_paths`"),
        (format!("files {{ root_directory = \"{path}\" }}"), "name another path"),
    ] {
        let refusal = node.try_run(Job::shell(script).config(&config)).await.expect_err(&config);
        assert!(refusal.message.contains(instead), "{config}: {refusal}");
    }
    // The options of a monitoring agent that inspects the host.
    let agent = "files { bind_read_only_paths = [\"/proc:/host/proc\", \"/:/host/root\"] }";
    let script =
        "cat /host/proc/1/comm; test -d /host/root/etc && echo root; touch /host/root/etc/x || echo refused";
    let (_, output, errors) = node.finish(node.run(Job::shell(script).config(agent)).await).await;
    assert_eq!(output, format!("{}root\nrefused\n", host.run("cat", &["/proc/1/comm"])), "{errors}");
}

#[tokio::test]
async fn shared_memory_has_the_size_that_its_job_says_and_a_private_tmp_is_not_said_twice() {
    let host = host!();
    let node = Node::start(&host).await;
    let script = "df -B1 /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /dev/shm/x && echo written";
    let config = "files { temporary_file_system = [\"/dev/shm:size=12M,mode=1777\"] }";
    for preset in ["", "sandbox { preset = \"off\" }", "sandbox { preset = \"strict\" }"] {
        let output = node.output_of(Job::shell(script).config(&format!("{config}\n{preset}"))).await;
        assert_eq!(output, "12582912\nwritten\n", "{preset}");
    }
    for config in ["temporary_file_system = [\"/tmp:size=1M\"]", "bind_paths = [\"/local:/var/tmp\"]"] {
        let config = format!("files {{ {config} }}");
        let refusal = node.try_run(Job::shell("true").config(&config)).await.expect_err(&config);
        assert!(refusal.message.contains("`files.") && refusal.message.contains("TMPDIR"), "{refusal}");
    }
}

#[tokio::test]
async fn what_a_job_mounts_in_a_home_is_seen_and_no_home_of_the_host() {
    let host = host!();
    let node = Node::configured(&host, "sandbox_floor = \"standard\"").await;
    let script = "touch /root/x && echo written; ls -A /home 2>/dev/null; true";
    for user in ["", "nobody"] {
        let own = Job::shell(script).user(user).config("files { bind_paths = [\"alloc/data:/root\"] }");
        match node.try_run(own).await {
            Ok(task) => assert_eq!(node.finish(task).await.1, "written\n", "{user}"),
            Err(refusal) => {
                assert!(user.is_empty() && refusal.message.contains("/root/data"), "{user}: {refusal}");
            }
        }
        let below = Job::shell("touch /root/.cache/x && echo written").user(user);
        let below = below.config("files { bind_paths = [\"alloc/data:/root/.cache\"] }");
        assert_eq!(node.output_of(below).await, "written\n", "{user}");
    }
    let volume = Shared::new();
    let script =
        "cat /home/app/greeting; touch /home/app/new && echo written; cat /home/x.conf; ls -A /home /root";
    for preset in ["", "sandbox { preset = \"strict\" }"] {
        let job = Job::shell(script)
            .file("x.conf", b"mine\n")
            .config(&format!("files {{ bind_paths = [\"x.conf:/home/x.conf\"] }}\n{preset}"))
            .with(|request| request.mounts = vec![volume.mounted("/home/app")]);
        let (_, output, errors) = node.finish(node.run(job).await).await;
        assert!(
            output.starts_with("hello\nwritten\nmine\n/home:\napp\nx.conf\n"),
            "{preset}: {output}{errors}"
        );
    }
}
