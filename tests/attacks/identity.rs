//! A task that runs as another task's user, or as a user of the operating system.

use tests::{Host, Job, Node, eventually};

use super::{IMPERSONATE, USER, Victim, carried_out, impersonate, perl, refusal, version};

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
        // Signals are allowed within a user; everything else of the host or the other task is not.
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
        // A process of the same user can send signals.
        let is_same = group == "web" && std::ptr::eq(node, &raw const shared);
        assert_eq!(output.contains("signalled"), is_same, "{group} {theirs} {config}: {output}");
        victim.survives(&host, node).await;
    }
}

/// The control for the test above: a process of the same user in the same namespaces reads everything.
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

/// A process of the operating system, with a user of its own.
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
    // Process 1 of its own PID namespace is not killed by its own signal.
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
    // The control: the operator's option allows the user, with everything that belongs to it.
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
    // A job that claims the range by a name that Nomad did not give it: the UID belongs to another task.
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
    // The task may use its user's own group.
    let own = Job::shell("id -gn").user(USER).config("group = \"nogroup\"");
    assert_eq!(node.output_of(own).await, "nogroup\n");
}

/// The control for the test above, and a missing group.
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
