//! The task's view of the host.

use tests::{Exit, Job, Node, eventually, exiting_guest};

#[tokio::test]
async fn a_task_sees_its_own_directories_and_the_operating_system_read_only() {
    let host = host!();
    let node = Node::configured(&host, "allow_root = \"host\"").await;
    let other = node.run(Job::shell("exec sleep infinity")).await;
    let before = host.run("ls", &["-A", "/"]);
    let script = "
        for dir in /local /alloc/data /alloc/tmp /secrets /tmp /var/tmp; do echo x > $dir/file && echo \"$dir is writable\"; done
        echo x 2>/dev/null > /usr/file || echo '/usr is read-only'
        echo x 2>/dev/null > /etc/file || echo '/etc is read-only'
        echo x 2>/dev/null > /file || echo '/ is read-only'
        echo x 2>/dev/null > /alloc/file || echo '/alloc is read-only'
        echo x 2>/dev/null > /alloc/logs/file || echo '/alloc/logs is read-only'
        for path in /home/* /root/* /var/lib/apt /srv /opt /boot /run/dbus /run/nomad-driver-systemd /run/systemd/private; do
            test -e $path && echo \"$path is visible\"
        done
        find / -xdev -name '*.fifo' -not -path '/proc/*'; true";
    // What root may not do, no user may do.
    for user in ["", "root"] {
        let output = node.output_of(Job::shell(script).user(user)).await;
        let expected = "/local is writable\n/alloc/data is writable\n/alloc/tmp is writable\n/secrets is writable\n/tmp is writable\n\
                        /var/tmp is writable\n/usr is read-only\n/etc is read-only\n/ is read-only\n\
                        /alloc is read-only\n/alloc/logs is read-only\n";
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
    // `/local` is in the view of other nodes only.
    for path in ["/local", "/no/such/path"] {
        let config = format!("files {{ read_only_paths = [\"{path}\"] }}");
        let refusal = node.try_run(Job::shell("true").config(&config)).await.expect_err(path);
        assert!(refusal.message.contains("is not there in the view of the task"), "{refusal}");
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

#[tokio::test]
async fn a_file_of_the_tasks_own_is_not_the_hosts_and_every_command_in_the_task_sees_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::shell("exec sleep infinity")).await;
    let path = node.output_in(&task, "mktemp").await;
    assert!(path.starts_with("/tmp/tmp.") && !std::path::Path::new(path.trim()).exists(), "{path}");
    node.output_in(&task, &format!("echo hello > {path}")).await;
    assert_eq!(node.output_in(&task, &format!("cat {path}")).await, "hello\n");
    node.destroy(&task, true).await.unwrap();
}

#[tokio::test]
async fn a_task_begins_where_its_job_says_and_so_does_a_command_in_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node
        .run(Job::shell("pwd > /alloc/data/where; exec sleep infinity").option("work_dir", "/usr/lib"))
        .await;
    assert_eq!(node.output_in(&task, "pwd; cat /alloc/data/where").await, "/usr/lib\n/usr/lib\n");
    node.destroy(&task, true).await.unwrap();
    for (path, reason) in [
        ("lib", "`work_dir`: `lib` is not an absolute path"),
        ("/no/such", "`work_dir`: /no/such is not there"),
    ] {
        let refusal = node.try_run(Job::shell("true").option("work_dir", path)).await.unwrap_err();
        assert!(refusal.message.contains(reason), "{refusal}");
    }
}
