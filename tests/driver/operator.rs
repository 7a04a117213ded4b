//! The operator's settings: what no job may do, whatever it configures.

use tests::{Job, Node};

#[tokio::test]
async fn no_job_gets_below_the_operators_floor() {
    let host = host!();
    let node = Node::configured(&host, "sandbox = \"strict\"\nsandbox_floor = \"standard\"").await;
    assert_eq!(node.output_of(Job::shell("grep CapBnd /proc/self/status | tr -d 0")).await, "CapBnd:\t\n");
    let standard = Job::shell("echo ok").config("sandbox { preset = \"standard\" }");
    assert_eq!(node.output_of(standard).await, "ok\n");
    for config in [
        "sandbox { preset = \"off\" }",
        "sandbox { no_new_privileges = false }",
        "sandbox { system_call_filter = [] }",
        "sandbox { system_call_filter = [\"@mount\"] }",
        "sandbox { private_devices = false }",
        "sandbox { restrict_namespaces = \"user\" }",
        "properties { ProtectKernelTunables = \"no\" }",
        "properties { SystemCallFilter = \"\" }",
        "properties { RestrictAddressFamilies = \"AF_PACKET\" }",
    ] {
        let refusal = node.try_run(Job::shell("true").config(config)).await.expect_err(config);
        assert!(refusal.message.contains("`sandbox_floor = \"standard\"`"), "{config}: {refusal}");
    }
    let guest = Job::artifact("exit.wasm", &tests::exiting_guest(4));
    let task = node.run(guest).await;
    assert_eq!(node.finish(task).await.0, tests::Exit::status(4));
}

#[tokio::test]
async fn users_groups_capabilities_and_variables_have_bounds() {
    let host = host!();
    let node = Node::configured(
        &host,
        "denied_host_uids = \"0,1000-1999\"\ndenied_host_gids = \"2\"\nallow_caps = [\"chown\"]\ndenied_envvars = [\"LD_*\"]\ndynamic_workload_users = true",
    )
    .await;
    for (job, reason) in [
        (Job::shell("true").user("root"), "`denied_host_uids`"),
        (Job::shell("true").user("0"), "`denied_host_uids`"),
        (Job::shell("true").user("nomad-1234"), "`denied_host_uids`"),
        (Job::shell("true").user("task-0123456789ab"), "`user`"),
        (Job::shell("true").user("61184"), "`user`"),
        (Job::shell("true").user("bin"), "`denied_host_gids`"),
        (
            Job::shell("true").user("nobody").config("group = \"bin\""),
            "`group`: by bin the task would be in group 2",
        ),
        (
            Job::shell("true").user("nobody").config("supplementary_groups = [\"bin\"]"),
            "`supplementary_groups`: by bin",
        ),
        (Job::shell("true").config("cap_add = [\"net_bind_service\"]"), "`allow_caps`"),
        (Job::shell("true").config("cap_add = [\"all\"]"), ""),
        (Job::shell("true").config("sandbox { ambient_capabilities = [\"CAP_SYS_ADMIN\"] }"), "`allow_caps`"),
        (Job::shell("true").config("properties { AmbientCapabilities = \"CAP_SYS_ADMIN\" }"), "`allow_caps`"),
    ] {
        match node.try_run(job).await {
            Err(refusal) => assert!(refusal.message.contains(reason), "{reason}: {refusal}"),
            Ok(task) => {
                assert_eq!(reason, "", "it was started");
                node.finish(task).await;
            }
        }
    }
    let job = Job::shell("echo $A${LD_PRELOAD-not there}").env("LD_PRELOAD", "/x").env("A", "a ");
    assert_eq!(node.output_of(job).await, "a not there\n");
}

#[tokio::test]
async fn properties_are_checked_before_anything_starts() {
    let host = host!();
    let node = Node::configured(
        &host,
        "allow_properties = [\"@confining\", \"Log*\", \"Nice\"]\ndeny_properties = [\"TasksMax\"]",
    )
    .await;
    for (config, reason) in [
        ("properties { Restart = \"always\" }", "Restart"),
        ("properties { ExecStartPre = \"/bin/true\" }", "ExecStartPre"),
        ("properties { Type = \"forking\" }", "Type"),
        ("properties { MemoryLimit = \"1G\" }", "`memory` in the task's `resources`"),
        ("properties { MemroyHigh = \"1G\" }", "MemoryHigh"),
        ("properties { MemoryHigh = \"a lot\" }", "a lot"),
        ("properties { TasksMax = \"5\" }", "`deny_properties`"),
        ("limits { tasks_max = \"5\" }", "`deny_properties`"),
        ("limits { cpu_scheduling_policy = \"fifo\" }", "`allow_properties`"),
        ("limits { oom_score_adjust = -500 }", "`allow_properties`"),
        ("properties { Environment = \"A=b\" }", "env"),
        ("properties { SetCredential = \"a:b\" }", "credential"),
        ("properties { OnFailure = \"reboot.target\" }", "`allow_properties`"),
    ] {
        let job = Job::shell("true").config(config);
        let alloc = job.request.alloc_id.clone();
        let refusal = node.try_run(job).await.expect_err(config);
        assert!(refusal.message.contains(reason), "{config}: {refusal}");
        assert!(!refusal.recoverable && !refusal.message.contains('\n'), "{refusal}");
        assert_eq!(host.units(&alloc), Vec::<String>::new());
    }
    assert_eq!(
        node.output_of(Job::shell("cut -d' ' -f19 /proc/self/stat").config("limits { nice = -3 }")).await,
        "-3\n"
    );
}

#[tokio::test]
async fn a_controller_that_the_node_lacks_is_told_and_never_passed_over() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
    for (controller, config) in [
        ("io", "limits { io_weight = 50 }"),
        ("cpu", "limits { cpu_quota = \"50%\" }"),
        ("memory", "limits { memory_high = \"32M\" }"),
        ("pids", "limits { tasks_max = \"50\" }"),
    ] {
        match node.try_run(Job::shell("true").config(config)).await {
            Ok(task) => {
                assert!(has(controller), "{config}");
                node.finish(task).await;
            }
            Err(refusal) => {
                assert!(!has(controller), "{refusal}");
                assert!(refusal.message.contains(&format!("controller `{controller}`")), "{refusal}");
            }
        }
    }
    let health = node.plugin().fingerprint().await.unwrap().health_description;
    assert_eq!(health.contains("memory"), !has("memory"), "{health}");
}

/// systemd's own message names no option.
#[tokio::test]
async fn a_mistake_is_told_by_the_name_of_its_option() {
    let host = host!();
    let node = Node::start(&host).await;
    for (config, told) in [
        ("files { read_only_paths = [\"local\"] }", ["`files.read_only_paths`", "`/local`"]),
        ("files { no_exec_paths = [\"-alloc\"] }", ["`files.no_exec_paths`", "`/alloc`"]),
        ("properties { InaccessiblePaths = \"local/x\" }", ["`properties.InaccessiblePaths`", "`/local/x`"]),
        ("files { bind_paths = [\":/data\"] }", ["`files.bind_paths`", "SOURCE:TARGET"]),
        (
            "files { bind_paths = [\"/local/a b:/x y\"] }",
            ["`files.bind_paths`", "a blank begins another entry"],
        ),
        (
            "files {\n bind_paths = [\"/local/a:/data\"]\n temporary_file_system = [\"/data\"]\n}",
            ["/data is the target of two mounts", "leave one out"],
        ),
        (
            "files { temporary_file_system = [\"/usr\"] }",
            ["`files.temporary_file_system`", "has the host's /usr there"],
        ),
        (
            "cap_add = [\"net_bind_service\"]\n sandbox { preset = \"strict\" }",
            ["`cap_add`", "`private_users = \"no\"`"],
        ),
        ("sandbox { private_tmp = \"no\" }", ["`sandbox.private_tmp`", "leave it out"]),
        (
            "files { bind_paths = [\"/local:/etc/hostname\"] }",
            ["`files.bind_paths`", "/etc/hostname is a file"],
        ),
        (
            "files { inaccessible_paths = [\"/usr/none\"] }",
            ["`files.inaccessible_paths`", "write \"-/usr/none\""],
        ),
        ("properties { NoExecPaths = \"/usr/none\" }", ["`files.no_exec_paths`", "write \"-/usr/none\""]),
        ("files { read_only_paths = [\"/usr/none\"] }", ["`files.read_only_paths`", "write \"-/usr/none\""]),
        ("hostname = \"web 1\"", ["`hostname`", "such as `web-1`"]),
        ("socket {\n name = \"x\"\n}", ["`socket`", "it has neither"]),
        ("socket {\n name = \"x\"\n port = \"http\"\n mode = \"0600\"\n}", ["`socket.port`", "`http`"]),
        ("sandbox { no_new_privileges = false }", ["`sandbox.no_new_privileges`", "name a `user`"]),
    ] {
        let refusal = node.try_run(Job::shell("true").config(config)).await.expect_err(config);
        let message = &refusal.message;
        assert!(told.iter().all(|part| message.contains(part)), "{config}: {message}");
    }
    let refusal = node.try_run(Job::command(" /bin/true")).await.unwrap_err();
    assert!(refusal.message.contains("without the blank"), "{refusal}");
    let floor = Node::configured(&host, "sandbox_floor = \"standard\"").await;
    let off = Job::shell("true").config("sandbox { preset = \"off\" }");
    let refusal = floor.try_run(off).await.unwrap_err();
    assert!(refusal.message.contains("(`sandbox.preset`)"), "{refusal}");
    // The preset's list, which includes what the init needs, is removed.
    let filter = "sandbox { system_call_filter = [\"\", \"read\", \"write\", \"execve\"] }";
    let refusal = node.try_run(Job::shell("true").config(filter)).await.unwrap_err();
    assert!(refusal.message.contains("`sandbox.system_call_filter`"), "{refusal}");
}

#[tokio::test]
async fn a_hostile_job_gets_no_further_than_a_refusal() {
    let host = host!();
    let node = Node::configured(
        &host,
        "sandbox_floor = \"standard\"\ndenied_host_gids = \"0-1\"\nallow_properties = [\"@confining\", \"ListenStream\"]",
    )
    .await;
    for (config, reason) in [
        // A line end would start another line of the unit's file, which systemd reads as root at the next
        // daemon-reload.
        ("properties { SyslogIdentifier = \"x\\rExecStopPost=+/bin/sh\" }", "control character"),
        ("files { inaccessible_paths = [\"/x\\nExecStopPost=+/bin/sh\"] }", "control character"),
        ("hostname = \"x\\nExecStopPost=+/bin/sh\"", "control character"),
        // systemd follows links: the task could put one there.
        ("files { read_write_paths = [\"-/alloc/x\"] }", "`allow_properties`"),
        ("socket {\n name = \"x\"\n path = \"/alloc/data/passwd\"\n}", "not directly in `/alloc`"),
        ("credential {\n name = \"../../x\"\n path = \"x\"\n}", "`credential.name`"),
        // The prefix of every path.
        ("files { bind_paths = [\"local/x:/x\", \"x:\"] }", "mount point"),
        // A disguised empty list, and a denied property that is allowed again.
        ("properties { SystemCallFilter = \"~\" }", "`sandbox_floor"),
        ("properties { RestrictAddressFamilies = \"~\" }", "`sandbox_floor"),
        ("properties { SystemCallArchitectures = \"x86\\nnative\" }", "`sandbox_floor"),
        ("properties { DisableControllers = \"memory\" }", "the driver's"),
        ("properties { AllowedCPUs = \"0-7\" }", "`allow_properties`"),
        ("group = \"0\"", "`denied_host_gids`"),
        ("group = \"1\"", "`denied_host_gids`"),
    ] {
        let job = Job::shell("true").config(config);
        let alloc = job.request.alloc_id.clone();
        let refusal = node.try_run(job).await.expect_err(config);
        assert!(refusal.message.contains(reason), "{config}: {refusal}");
        assert_eq!(host.units(&alloc), Vec::<String>::new());
    }
    assert!(!std::path::Path::new("/etc/nologin").exists());
    let refusal = node.try_run(Job::shell("true").user("nomad-0")).await.unwrap_err();
    assert!(refusal.message.contains("`nomad-0` is not a user that a job can ask for"), "{refusal}");
    // A pipe does not block the driver.
    let job = Job::shell("true").config("credential {\n name = \"x\"\n path = \"/local/pipe\"\n}");
    let prepared = node.prepare(&job);
    host.run("mkfifo", &[prepared.alloc_dir().join("web/local/pipe").to_str().unwrap()]);
    let refusal = node.begin(prepared).await.expect_err("a pipe is no file");
    assert!(refusal.message.contains("/local/pipe"), "{refusal}");
}
