//! A task that becomes somebody else: root, another task, a user of the operating system.

use tests::{Exit, Host, Job, Node, eventually};

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
    for preset in ["standard", "strict"] {
        let script = "id -u; readlink /proc/self/ns/user /proc/self/ns/pid; echo $PPID";
        let sandbox = format!("sandbox {{ preset = \"{preset}\" }}");
        let output = node.output_of(Job::shell(script).user("root").config(&sandbox)).await;
        let lines: Vec<&str> = output.lines().collect();
        let theirs = host.run("readlink", &["/proc/self/ns/user", "/proc/self/ns/pid"]);
        assert_eq!(
            (lines[0], lines[3]),
            ("0", "1"),
            "root, and the child of the first process of its own: {output}"
        );
        assert!(!theirs.contains(lines[1]) && !theirs.contains(lines[2]), "{output}");
        let output = carried_out(&node, impersonate(&victim).user("root").config(&sandbox)).await;
        assert!(!output.contains("leaked") && !output.contains("became user"), "{preset}: {output}");
        assert!(output.contains("kill: 3"), "there is no such process: {preset}: {output}");
        // Neither by these words of the job.
        for escape in [
            "sandbox { private_users = \"no\" }",
            "sandbox { private_pids = \"no\" }",
            "properties { PrivateUsers = \"no\" }",
            "sandbox { private_users = \"identity\" }",
            "sandbox { preset = \"off\" }",
            "sandbox { protect_kernel_tunables = false }",
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
    // systemd 257 takes CAP_SETUID from a root that it is told by name; what the capability does there is tried below.
    if version(&host) < 257 {
        assert!(
            output.contains("became user") && output.contains("leaked") && output.contains("signalled"),
            "{output}"
        );
    }
    let theirs = host.run("readlink", &["/proc/self/ns/user"]);
    assert_eq!(node.output_of(Job::shell(NAMESPACE).user("root")).await, theirs);
    victim.survives(&host, &node).await;
}

// ---- Capabilities

/// How a job asks for capabilities over other users.
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
        // Below the standard preset nobody is confined.
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

/// The control of the test above.
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
    // The control: what only concerns the machine's network must be the host's to be of use.
    let job = Job::shell(NAMESPACE).config("cap_add = [\"net_bind_service\"]");
    assert_eq!(node.output_of(job).await, host.run("readlink", &["/proc/self/ns/user"]));
    // A user of the host with it would see the host through that user's other processes.
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
        // systemd itself does not let an ephemeral user gain any, and a job is told so.
        let message = refusal(&host, &node, Job::shell("id").config(config)).await;
        assert!(message.contains("name a `user`"), "{config}: {message}");
    }
    // No preset leaves it out.
    let job =
        Job::shell("grep NoNewPrivs /proc/self/status").user(USER).config("sandbox { preset = \"off\" }");
    assert_eq!(node.output_of(job).await, "NoNewPrivs:\t1\n");
}

/// The kernel counts namespaces within a user namespace that systemd made as root's, of which there are only so many.
#[tokio::test]
async fn no_task_in_a_user_namespace_makes_others() {
    let host = host!();
    let node = Node::start(&host).await;
    let unshare = "perl -e 'print syscall(272, 0x10000000) == 0 ? \"made\\n\" : \"refused \".($!+0).\"\\n\"'";
    let off = "sandbox { preset = \"off\" }";
    // The control: its own user's namespaces are that user's to count.
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
                message.contains("`allow_properties`") || message.contains("belongs to another task"),
                "{config}: {message}"
            );
        }
    }
    victim.survives(&host, &node).await;
}

#[tokio::test]
async fn nobody_looks_into_another_task_of_the_same_user() {
    let host = host!();
    let node = Node::start(&host).await;
    let victim = Victim::start(&host, &node, Victim::job().user(USER)).await;
    let attack = || perl(IMPERSONATE, &[&victim.pid, &victim.uid, &victim.gid]).user(USER);
    for config in ["", "sandbox { preset = \"off\" }"] {
        let output = carried_out(&node, attack().config(config)).await;
        // Signals are a user's own; what else the host or the other task has is not.
        assert!(output.contains("signalled") && !output.contains("leaked"), "{config}: {output}");
    }
    let no = "sandbox { private_users = \"no\" }";
    let message = refusal(&host, &node, attack().config(no)).await;
    assert!(message.contains("`allow_properties`") && message.contains("PrivateUsers"), "{message}");
    victim.survives(&host, &node).await;
}

/// The tasks of a group have one ephemeral user, unless the operator or the job keeps them apart.
#[tokio::test]
async fn an_ephemeral_task_is_looked_into_by_its_group_at_most() {
    let host = host!();
    let shared = Node::start(&host).await;
    let apart = Node::configured(&host, "ephemeral_user = \"task\"").await;
    let own = "sandbox { private_users = \"yes\" }";
    for (node, group, theirs, config, is_open) in [
        // The control: a neighbour.
        (&shared, "web", "", "", true),
        (&shared, "web", own, "", false),
        (&shared, "web", "", own, false),
        (&shared, "other", "", "", false),
        (&shared, "other", "", "sandbox { preset = \"off\" }", false),
        (&apart, "web", "", "", false),
    ] {
        let in_group = |job: Job, group: &str| job.with(|request| group.clone_into(&mut request.group));
        let victim = Victim::start(&host, node, in_group(Victim::job(), "web").config(theirs)).await;
        let attack = in_group(impersonate(&victim), group).config(config);
        let output = carried_out(node, attack).await;
        assert_eq!(output.contains("leaked"), is_open, "{group} {theirs} {config}: {output}");
        // Signals reach whoever is the same user.
        let is_same = group == "web" && std::ptr::eq(node, &raw const shared);
        assert_eq!(output.contains("signalled"), is_same, "{group} {theirs} {config}: {output}");
        victim.survives(&host, node).await;
    }
}

/// The control of the test above: who is the same user in the same namespace reads everything.
#[tokio::test]
async fn whoever_runs_as_the_same_user_is_the_same_user_where_the_operator_says_so() {
    let host = host!();
    let node = Node::configured(&host, "allow_properties = [\"@confining\", \"PrivateUsers\"]").await;
    let no = "sandbox { private_users = \"no\" }";
    let victim = Victim::start(&host, &node, Victim::job().user(USER).config(no)).await;
    let job = perl(IMPERSONATE, &[&victim.pid, &victim.uid, &victim.gid]).user(USER).config(no);
    let output = carried_out(&node, job).await;
    assert!(output.contains("leaked") && output.contains("signalled"), "{output}");
    victim.survives(&host, &node).await;
}

/// A process of the operating system's, of a user of its own.
struct SystemDaemon<'a>(&'a Host);

impl<'a> SystemDaemon<'a> {
    const UNIT: &'static str = "attacked-daemon.service";
    const USER: &'static str = "daemon";

    fn start(host: &'a Host) -> Self {
        let user = format!("--uid={}", Self::USER);
        host.run("systemd-run", &["--quiet", "--unit", Self::UNIT, &user, "sleep", "infinity"]);
        Self(host)
    }

    fn is_running(&self) -> bool {
        self.0.property(Self::UNIT, "ActiveState") == "active"
    }
}

impl Drop for SystemDaemon<'_> {
    fn drop(&mut self) {
        self.0.run(
            "sh",
            &["-c", &format!("systemctl stop {0}; systemctl reset-failed {0} || true", Self::UNIT)],
        );
    }
}

#[tokio::test]
async fn no_job_signals_daemons_of_the_operating_system_by_running_as_their_user() {
    let host = host!();
    let daemon = SystemDaemon::start(&host);
    let node = Node::start(&host).await;
    let uid = host.run("id", &["-u", SystemDaemon::USER]);
    // One that counts as process 1 of its own namespace is not hit by its own signal.
    let attack = |user: &str| Job::shell("trap '' TERM; kill -TERM -1; kill -KILL -1; echo done").user(user);
    for user in [SystemDaemon::USER, uid.trim()] {
        if version(&host) < 257 {
            let message = refusal(&host, &node, attack(user)).await;
            assert!(message.contains("`user`") && message.contains("\"User\""), "{message}");
        } else {
            assert_eq!(node.output_of(attack(user)).await, "done\n", "the attack did not come to its end");
            let seeing = attack(user).config("sandbox { private_pids = \"no\" }");
            let message = refusal(&host, &node, seeing).await;
            assert!(message.contains("`sandbox.private_pids`") && message.contains("\"User\""), "{message}");
        }
        assert!(daemon.is_running(), "{user}");
    }
    // The control: the operator's word gives the user with all that belongs to it.
    let node = Node::configured(&host, "allow_properties = [\"@confining\", \"User\"]").await;
    let task = node.run(attack(SystemDaemon::USER)).await;
    node.finish(task).await;
    eventually("the daemon is hit", async || (!daemon.is_running()).then_some(())).await;
}

#[tokio::test]
async fn numbers_and_names_that_belong_to_systemd_and_nomad_are_nobodys_to_name() {
    let host = host!();
    let node = Node::start(&host).await;
    let users = [
        "61184",
        "65519",
        "63000",
        "65535",
        "4294967295",
        "4294967294",
        "80000",
        "84000",
        "89999",
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
    let own = Job::shell("id -gn").user(USER).config("group = \"nogroup\"");
    assert_eq!(node.output_of(own).await, "nogroup\n");
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
