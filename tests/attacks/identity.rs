//! A task that becomes somebody else: root, another task, a user of the operating system.

use tests::{Exit, Host, Job, Node};

use super::{
    IMPERSONATE, SECRET, USER, Victim, allow_root, carried_out, impersonate, perl, refusal, version,
};

/// Capabilities with which a task could act on what belongs to other users.
const REACHING: [&str; 26] = [
    "audit_control",
    "audit_read",
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "ipc_owner",
    "kill",
    "lease",
    "linux_immutable",
    "mac_admin",
    "mac_override",
    "mknod",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_admin",
    "sys_boot",
    "sys_chroot",
    "sys_module",
    "sys_pacct",
    "sys_ptrace",
    "sys_rawio",
    "sys_tty_config",
];

/// The user namespace of a process, such as `user:[4026531837]`.
const NAMESPACE: &str = "readlink /proc/self/ns/user";

// ---- Root

/// A second name for the user with number 0.
struct Alias;

impl Alias {
    const NAME: &str = "attack-toor";

    fn new(host: &Host) -> Self {
        let line = format!("{}:x:0:0::/:/bin/sh", Self::NAME);
        host.run(
            "sh",
            &["-c", &format!("grep -q ^{0}: /etc/passwd || echo {line} >> /etc/passwd", Self::NAME)],
        );
        Self
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        let expression = format!("/^{}:/d", Self::NAME);
        let _ = std::process::Command::new("sed").args(["-i", &expression, "/etc/passwd"]).status();
    }
}

#[tokio::test]
async fn no_job_is_root_without_the_operators_word() {
    // Others look users up.
    let host = host!(alone);
    let node = Node::start(&host).await;
    let _alias = Alias::new(&host);
    for user in ["root", "0", "00", Alias::NAME] {
        let native = Job::shell("id -u").user(user);
        let guest = Job::artifact("exit.wasm", &tests::exiting_guest(0)).user(user);
        let unconfined = native.clone().config("sandbox { preset = \"off\" }");
        for job in [native, guest, unconfined] {
            let message = refusal(&host, &node, job).await;
            assert!(message.contains("allow_root"), "{user:?}: {message}");
        }
    }
    for user in ["+0", "-0", " 0", "0 ", "0x0", "root ", "0:0", "4294967296", "-4294967296"] {
        let message = refusal(&host, &node, Job::shell("id -u").user(user)).await;
        assert!(message.contains("user") || message.contains("allow_root"), "{user:?}: {message}");
    }
}

#[tokio::test]
async fn a_confined_root_is_root_of_nothing_but_its_task() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("confined")).await;
    if version(&host) < 257 {
        let message = refusal(&host, &node, Job::shell("id -u").user("root")).await;
        assert!(message.contains("systemd 257") && message.contains("`allow_root = \"host\"`"), "{message}");
        return;
    }
    let victim = Victim::ephemeral(&host, &node).await;
    for preset in ["standard", "off"] {
        let script = "id -u; readlink /proc/self/ns/user /proc/self/ns/pid; echo $$";
        let sandbox = format!("sandbox {{ preset = \"{preset}\" }}");
        let output = node.output_of(Job::shell(script).user("root").config(&sandbox)).await;
        let lines: Vec<&str> = output.lines().collect();
        let theirs = host.run("readlink", &["/proc/self/ns/user", "/proc/self/ns/pid"]);
        assert_eq!((lines[0], lines[3]), ("0", "1"), "root, and the first process of its own: {output}");
        assert!(!theirs.contains(lines[1]) && !theirs.contains(lines[2]), "{output}");
        let output = carried_out(&node, impersonate(&victim).user("root").config(&sandbox)).await;
        assert!(!output.contains("leaked") && !output.contains("became user"), "{preset}: {output}");
        assert!(output.contains("kill: 3"), "there is no such process: {preset}: {output}");
        // Neither by these words of the job.
        for escape in [
            "sandbox { private_users = \"no\" }",
            "sandbox { private_pids = \"no\" }",
            "properties { PrivateUsers = \"no\" }",
        ] {
            let message = refusal(&host, &node, Job::shell("id -u").user("root").config(escape)).await;
            assert!(
                message.contains("allow_properties") || message.contains("allow_root"),
                "{escape}: {message}"
            );
        }
    }
    victim.survives(&host, &node).await;
}

/// The control of the tests above: where the operator says so, it is what they look for.
#[tokio::test]
async fn root_of_the_host_is_what_the_operators_word_says() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("host")).await;
    let victim = Victim::ephemeral(&host, &node).await;
    let output = carried_out(&node, impersonate(&victim).user("root")).await;
    assert!(
        output.contains("became user") && output.contains("leaked") && output.contains("signalled"),
        "{output}"
    );
    let theirs = host.run("readlink", &["/proc/self/ns/user"]);
    assert_eq!(node.output_of(Job::shell(NAMESPACE).user("root")).await, theirs);
    victim.survives(&host, &node).await;
}

// ---- Capabilities

#[tokio::test]
async fn capabilities_over_users_hold_in_the_task_alone() {
    let host = host!();
    let node = Node::start(&host).await;
    let victim = Victim::ephemeral(&host, &node).await;
    for config in [
        "cap_add = [\"setuid\", \"setgid\", \"kill\"]",
        "cap_add = [\"setuid\", \"setgid\", \"kill\", \"dac_override\", \"sys_chroot\"]\nsandbox { preset = \"off\" }",
        "sandbox { ambient_capabilities = [\"CAP_SETUID\", \"CAP_SETGID\", \"CAP_KILL\"] }",
        "properties { AmbientCapabilities = \"CAP_SETUID CAP_SETGID CAP_KILL\" }",
    ] {
        for user in [USER, ""] {
            let output = carried_out(&node, impersonate(&victim).user(user).config(config)).await;
            let context = format!("{config} as {user:?}: {output}");
            assert!(output.contains("setuid: 22\n") || output.contains("setuid: 1\n"), "{context}");
            assert!(!output.contains("leaked") && !output.contains("signalled"), "{context}");
        }
        let no = "properties { PrivateUsers = \"no\" }";
        let job = impersonate(&victim).user(USER).config(config);
        // A block can be there once.
        if !config.contains("properties") {
            let message = refusal(&host, &node, job.config(no)).await;
            assert!(message.contains("`allow_properties`") && message.contains("PrivateUsers"), "{message}");
        }
    }
    victim.survives(&host, &node).await;
}

/// The control of the test above.
#[tokio::test]
async fn capabilities_over_users_hold_on_the_host_where_the_operator_says_so() {
    let host = host!();
    let node = Node::configured(&host, "allow_properties = [\"@confining\", \"PrivateUsers\"]").await;
    let victim = Victim::ephemeral(&host, &node).await;
    let job = impersonate(&victim).user(USER);
    let job = job.config("cap_add = [\"setuid\", \"setgid\", \"kill\"]\nsandbox { private_users = \"no\" }");
    let output = carried_out(&node, job).await;
    assert!(
        output.contains("became user") && output.contains("leaked") && output.contains("signalled"),
        "{output}"
    );
    victim.survives(&host, &node).await;
}

#[tokio::test]
async fn each_capability_over_what_is_others_comes_with_users_of_its_own() {
    let host = host!();
    let node = Node::configured(&host, "allow_caps = [\"all\"]").await;
    let theirs = host.run("readlink", &["/proc/self/ns/user"]);
    for capability in REACHING {
        for config in [
            format!("cap_add = [{capability:?}]"),
            format!("sandbox {{ ambient_capabilities = [\"CAP_{}\"] }}", capability.to_uppercase()),
        ] {
            let own = node.output_of(Job::shell(NAMESPACE).user(USER).config(&config)).await;
            assert!(own.starts_with("user:[") && own != theirs, "{config}: {own}");
        }
        let config = format!("cap_add = [{capability:?}]\nsandbox {{ private_users = \"no\" }}");
        let message = refusal(&host, &node, Job::shell(NAMESPACE).user(USER).config(&config)).await;
        assert!(
            message.contains("`allow_properties`") && message.contains("PrivateUsers"),
            "{config}: {message}"
        );
    }
    // The control: what only concerns the machine's network must be the host's to be of use.
    let job = Job::shell(NAMESPACE).user(USER).config("cap_add = [\"net_bind_service\"]");
    assert_eq!(node.output_of(job).await, theirs);
}

#[tokio::test]
async fn who_may_gain_privileges_gains_them_in_the_task_alone() {
    let host = host!();
    let node = Node::start(&host).await;
    let theirs = host.run("readlink", &["/proc/self/ns/user"]);
    let program = tempfile::Builder::new().prefix("attack-").tempfile_in("/usr/bin").unwrap();
    let path = program.into_temp_path();
    std::fs::copy("/usr/bin/perl", &path).unwrap();
    host.run("chmod", &["4755", path.to_str().unwrap()]);
    // A program of the operating system that makes whoever runs it root, as many do.
    let script = format!(
        "{NAMESPACE}; {} -e 'open(F, \"<\", \"/etc/shadow\") ? print \"leaked $>\\n\" : print \"no: $>\\n\"'",
        path.display()
    );
    for config in [
        "sandbox { no_new_privileges = false }",
        "sandbox { preset = \"off\" }",
        "properties { NoNewPrivileges = \"no\" }",
    ] {
        let output = node.output_of(Job::shell(&script).user(USER).config(config)).await;
        assert!(output.contains("leaked") || output.contains("no: "), "{output}");
        assert!(!output.contains(theirs.trim()), "{config}: {output}");
        let no = format!(
            "{config}\n{}",
            if config.contains("properties") {
                "sandbox { private_users = \"no\" }"
            } else {
                "properties { PrivateUsers = \"no\" }"
            }
        );
        let message = refusal(&host, &node, Job::shell(&script).user(USER).config(&no)).await;
        assert!(
            message.contains("`allow_properties`") && message.contains("PrivateUsers"),
            "{no}: {message}"
        );
    }
}

// ---- Other tasks' users

#[tokio::test]
async fn no_job_runs_as_the_user_of_another_task() {
    let host = host!();
    let node = Node::start(&host).await;
    let victim = Victim::ephemeral(&host, &node).await;
    assert!(victim.user.starts_with("task-"), "{}", victim.user);
    for user in
        [victim.user.clone(), victim.uid.clone(), format!("0{}", victim.uid), format!("+{}", victim.uid)]
    {
        let message = refusal(&host, &node, impersonate(&victim).user(&user)).await;
        assert!(message.contains("`user`"), "{user}: {message}");
    }
    for gid in [victim.user.clone(), victim.gid.clone()] {
        for config in [
            format!("group = {gid:?}"),
            format!("supplementary_groups = [{gid:?}]"),
            format!("properties {{ Group = {gid:?} }}"),
            format!("properties {{ SupplementaryGroups = {gid:?} }}"),
        ] {
            let message = refusal(&host, &node, impersonate(&victim).user(USER).config(&config)).await;
            assert!(
                message.contains("`allow_properties`") || message.contains("`user`"),
                "{config}: {message}"
            );
        }
    }
    victim.survives(&host, &node).await;
}

/// The control of the test above: who is the same user reads everything.
#[tokio::test]
async fn whoever_runs_as_the_same_user_is_the_same_user() {
    let host = host!();
    let node = Node::start(&host).await;
    let victim = Victim::start(&host, &node, Victim::job().user(USER)).await;
    let output =
        carried_out(&node, perl(IMPERSONATE, &[&victim.pid, &victim.uid, &victim.gid]).user(USER)).await;
    assert!(output.contains("leaked") && output.contains("signalled"), "{output}");
    victim.survives(&host, &node).await;
}

#[tokio::test]
async fn numbers_and_names_that_belong_to_systemd_and_nomad_are_nobodys_to_name() {
    let host = host!();
    let node = Node::start(&host).await;
    let users = [
        "61184",
        "65519",
        "63000",
        "65534",
        "65535",
        "4294967295",
        "4294967294",
        "80000",
        "84000",
        "89999",
        "nobody",
        "nomad-80123",
        "nomad-0",
        "nomad-5",
        "task-0123456789ab",
        "systemd-network",
        "systemd-journal-remote",
    ];
    for user in users {
        let message = refusal(&host, &node, Job::shell("id -u").user(user)).await;
        assert!(message.contains("`user`"), "{user}: {message}");
    }
}

#[tokio::test]
async fn no_job_runs_as_the_user_that_nomad_gave_another_task() {
    let host = host!();
    if version(&host) < 249 {
        return; // there Nomad cannot give any
    }
    let node = Node::configured(&host, "dynamic_workload_users = true").await;
    let victim = Victim::start(&host, &node, Victim::job().user("nomad-80321")).await;
    assert_eq!(victim.uid, "80321");
    for user in [
        "80321",
        "080321",
        "+80321",
        "80322",
        "nomad-080321",
        "nomad-+80321",
        "nomad-5",
        "nomad-0",
        "nomad-61184",
    ] {
        let message = refusal(&host, &node, impersonate(&victim).user(user)).await;
        assert!(message.contains("user"), "{user}: {message}");
    }
    // A job that has the range to itself by a name that Nomad did not give it: the number is another task's.
    let second = node.try_run(impersonate(&victim).user("nomad-80321")).await;
    assert!(second.is_err(), "two tasks have the user that Nomad gave to one of them");
    victim.survives(&host, &node).await;
}

// ---- Groups

#[tokio::test]
async fn no_job_chooses_groups_that_its_user_is_not_in() {
    let host = host!();
    let node = Node::start(&host).await;
    for group in ["shadow", "disk", "root", "0", "42", "6"] {
        for (config, property) in [
            (format!("group = {group:?}"), "Group"),
            (format!("supplementary_groups = [{group:?}]"), "SupplementaryGroups"),
            (format!("supplementary_groups = [\"games {group}\"]"), "SupplementaryGroups"),
            (format!("properties {{ Group = {group:?} }}"), "Group"),
            (format!("properties {{ SupplementaryGroups = {group:?} }}"), "SupplementaryGroups"),
        ] {
            for user in [USER, ""] {
                let job = Job::shell("cat /etc/shadow").user(user).config(&config);
                let message = refusal(&host, &node, job).await;
                assert!(
                    message.contains("`allow_properties`") && message.contains(property),
                    "{config}: {message}"
                );
            }
        }
    }
    // Its own group is its own.
    let own = Job::shell("id -gn").user(USER).config("group = \"games\"");
    assert_eq!(node.output_of(own).await, "games\n");
}

/// The control of the test above, and of what is missing.
#[tokio::test]
async fn groups_that_the_operator_allows_are_given_and_one_that_is_missing_is_named() {
    let host = host!();
    let options = "allow_properties = [\"@confining\", \"Group\", \"SupplementaryGroups\"]";
    let node = Node::configured(&host, options).await;
    let shadow = host.run("sh", &["-c", "grep -c . /etc/shadow"]);
    for config in ["group = \"shadow\"", "supplementary_groups = [\"shadow\"]"] {
        let job = Job::shell("grep -c . /etc/shadow").user(USER).config(config);
        assert_eq!(node.output_of(job).await, shadow, "{config}");
    }
    for config in ["group = \"no-such-group\"", "supplementary_groups = [\"adm\", \"no-such-group\"]"] {
        let message = refusal(&host, &node, Job::shell("id").user(USER).config(config)).await;
        assert!(message.contains("no-such-group"), "{config}: {message}");
    }
}

/// Nobody reads a task's secrets by the way in that Nomad has.
#[tokio::test]
async fn a_command_in_a_task_is_no_more_than_the_task() {
    let host = host!();
    let node = Node::start(&host).await;
    let victim = Victim::ephemeral(&host, &node).await;
    let config = "cap_add = [\"setuid\", \"setgid\", \"kill\"]";
    let task = node.run(Job::shell("exec sleep infinity").user(USER).config(config)).await;
    let command = ["/usr/bin/perl", "-e", IMPERSONATE, &victim.pid, &victim.uid, &victim.gid];
    let (exit, output, errors) = node.exec_command(&task, &command, false).await.unwrap().finish().await;
    assert_eq!(exit, Exit::status(0), "{output}{errors}");
    assert!(
        output.contains("done") && !output.contains("leaked") && !output.contains("signalled"),
        "{output}"
    );
    assert!(!output.contains(SECRET));
    node.destroy(&task, true).await.unwrap();
    victim.survives(&host, &node).await;
}
