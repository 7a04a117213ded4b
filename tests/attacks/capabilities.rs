//! A task with capabilities over files and processes of other users, or that gains privileges.

use tests::{Exit, Job, Node};

use super::{
    IMPERSONATE, NAMESPACE, SECRET, USER, Victim, allow_root, carried_out, impersonate, refusal, version,
};

/// Capabilities with which a task could act on resources of other users.
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

/// How a job requests capabilities over other users.
const OVER_USERS: [&str; 4] = [
    "cap_add = [\"setuid\", \"setgid\", \"kill\"]",
    "cap_add = [\"setuid\", \"setgid\", \"kill\", \"dac_override\", \"sys_chroot\"]\nsandbox { preset = \"off\" }",
    "sandbox { ambient_capabilities = [\"CAP_SETUID\", \"CAP_SETGID\", \"CAP_KILL\"] }",
    "properties { AmbientCapabilities = \"CAP_SETUID CAP_SETGID CAP_KILL\" }",
];

#[tokio::test]
async fn capabilities_over_users_need_the_operators_word() {
    let host = host!();
    let node = Node::start(&host).await;
    for config in OVER_USERS {
        for user in [USER, ""] {
            let message = refusal(&host, &node, Job::shell("id").user(user).config(config)).await;
            assert!(message.contains("`allow_root"), "{config} as {user:?}: {message}");
        }
    }
}

#[tokio::test]
async fn confined_capabilities_over_users_hold_in_the_task_alone() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("confined")).await;
    let victim = Victim::ephemeral(&host, &node).await;
    for config in OVER_USERS {
        // Below the standard preset, no task is confined.
        let config = config.replace("\nsandbox { preset = \"off\" }", "");
        for user in [USER, ""] {
            let job = impersonate(&victim).user(user).config(&config);
            if version(&host) < 257 {
                let message = refusal(&host, &node, job).await;
                assert!(message.contains("systemd 257") && message.contains("`allow_root"), "{message}");
                continue;
            }
            let output = carried_out(&node, job).await;
            let context = format!("{config} as {user:?}: {output}");
            assert!(output.contains("setuid: 22\n") || output.contains("setuid: 1\n"), "{context}");
            assert!(!output.contains("leaked") && !output.contains("signalled"), "{context}");
        }
    }
    victim.survives(&host, &node).await;
}

/// The control for the test above.
#[tokio::test]
async fn capabilities_over_users_hold_on_the_host_where_the_operator_says_so() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("host")).await;
    let victim = Victim::ephemeral(&host, &node).await;
    let job = impersonate(&victim).user(USER);
    let output = carried_out(&node, job.config("cap_add = [\"setuid\", \"setgid\", \"kill\"]")).await;
    assert!(
        output.contains("became user") && output.contains("leaked") && output.contains("signalled"),
        "{output}"
    );
    victim.survives(&host, &node).await;
}

#[tokio::test]
async fn each_capability_over_what_is_others_needs_the_operators_word() {
    let host = host!();
    let node = Node::configured(&host, "allow_caps = [\"all\"]").await;
    for capability in REACHING {
        for config in [
            format!("cap_add = [{capability:?}]"),
            format!("sandbox {{ ambient_capabilities = [\"CAP_{}\"] }}", capability.to_uppercase()),
        ] {
            let message = refusal(&host, &node, Job::shell(NAMESPACE).config(&config)).await;
            assert!(message.contains("`allow_root"), "{config}: {message}");
        }
    }
    // The control: a capability over the machine's network is only useful in the host's user namespace.
    let job = Job::shell(NAMESPACE).config("cap_add = [\"net_bind_service\"]");
    assert_eq!(node.output_of(job).await, host.run("readlink", &["/proc/self/ns/user"]));
    // A user of the host with this capability would see the host through that user's other processes.
    let job = Job::shell(NAMESPACE).user(USER).config("cap_add = [\"net_bind_service\"]");
    let message = refusal(&host, &node, job).await;
    assert!(message.contains("`socket` block") && message.contains("`allow_properties`"), "{message}");
}

#[tokio::test]
async fn who_may_gain_privileges_needs_the_operators_word() {
    let host = host!();
    let node = Node::start(&host).await;
    for config in [
        "sandbox { no_new_privileges = false }",
        "sandbox {\n preset = \"off\"\n no_new_privileges = false\n }",
        "properties { NoNewPrivileges = \"no\" }",
    ] {
        let message = refusal(&host, &node, Job::shell("id").user(USER).config(config)).await;
        assert!(message.contains("`allow_root"), "{config}: {message}");
        // systemd itself does not let an ephemeral user gain privileges, and the job gets an error.
        let message = refusal(&host, &node, Job::shell("id").config(config)).await;
        assert!(message.contains("name a `user`"), "{config}: {message}");
    }
    // Every preset sets it.
    let job =
        Job::shell("grep NoNewPrivs /proc/self/status").user(USER).config("sandbox { preset = \"off\" }");
    assert_eq!(node.output_of(job).await, "NoNewPrivs:\t1\n");
}

/// Namespaces within a user namespace that systemd has created count against root, whose number of namespaces is
/// limited.
#[tokio::test]
async fn no_task_in_a_user_namespace_makes_others() {
    let host = host!();
    let node = Node::start(&host).await;
    let unshare = "perl -e 'print syscall(272, 0x10000000) == 0 ? \"made\\n\" : \"refused \".($!+0).\"\\n\"'";
    let off = "sandbox { preset = \"off\" }";
    // The control: namespaces of the task's own user count against that user.
    assert_eq!(node.output_of(Job::shell(unshare).config(off)).await, "made\n");
    for (user, config) in
        [(USER, off), ("", "sandbox {\n preset = \"off\"\n private_users = \"yes\"\n}"), (USER, "")]
    {
        assert_eq!(
            node.output_of(Job::shell(unshare).user(user).config(config)).await,
            "refused 1\n",
            "{user} {config}"
        );
    }
    for (user, config) in [
        ("", "sandbox {\n private_users = \"yes\"\n restrict_namespaces = \"user mnt\"\n}"),
        (USER, "properties { RestrictNamespaces = \"no\" }"),
    ] {
        let message = refusal(&host, &node, Job::shell(unshare).user(user).config(config)).await;
        assert!(
            message.contains("\"RestrictNamespaces\"") && message.contains("`allow_properties`"),
            "{config}: {message}"
        );
    }
}

#[tokio::test]
async fn no_task_writes_audit_records_without_the_operators_word() {
    let host = host!();
    let node = Node::start(&host).await;
    for user in [USER, ""] {
        let message =
            refusal(&host, &node, Job::shell("id").user(user).config("cap_add = [\"audit_write\"]")).await;
        assert!(message.contains("`allow_root") && message.contains("speak for the kernel"), "{message}");
    }
}

/// Nobody reads a task's secrets through `nomad alloc exec`.
#[tokio::test]
async fn a_command_in_a_task_is_no_more_than_the_task() {
    let host = host!();
    if version(&host) < 257 {
        return; // there no task has such rights without those of the host's root
    }
    let node = Node::configured(&host, &allow_root("confined")).await;
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
