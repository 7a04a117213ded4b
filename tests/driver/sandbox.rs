//! What a task may do: each option is tested from inside the task.

use std::collections::BTreeSet;

use task_init::Calls;
use tests::{Exit, Host, Job, Node, exiting_guest, program};

/// An option, a script, and the output of the script when the option is in force. A row that needs a newer systemd
/// begins with the first version that supports it.
const OPTIONS: &[(u32, &str, &str, &str)] = &[
    (0, "", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
    (
        0,
        "sandbox {\n preset = \"off\"\n private_users = \"no\"\n }",
        "perl -e 'print syscall(101, 0, 0, 0, 0) == 0 ? \"traced\\n\" : \"refused\\n\"'",
        "traced\n",
    ),
    (0, "sandbox { preset = \"off\" }", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
    (
        0,
        "sandbox {\n preset = \"off\"\n no_new_privileges = false\n }",
        "grep NoNewPrivs /proc/self/status",
        "NoNewPrivs:\t0\n",
    ),
    (0, "sandbox { preset = \"strict\" }", "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000000\n"),
    (
        0,
        "cap_drop = [\"all\"]\ncap_add = [\"net_bind_service\"]\nsandbox { private_users = \"no\" }",
        "grep -E 'Cap(Eff|Bnd)' /proc/self/status",
        "CapEff:\t0000000000000400\nCapBnd:\t0000000000000400\n",
    ),
    (0, "cap_drop = [\"all\"]", "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000000\n"),
    (
        0,
        "cap_add = [\"net_bind_service\"]\nsandbox { private_users = \"no\" }",
        "grep CapEff /proc/self/status",
        "CapEff:\t0000000000000400\n",
    ),
    (
        0,
        "sandbox { capability_bounding_set = [\"\", \"CAP_CHOWN\", \"CAP_KILL\"] }",
        "grep CapBnd /proc/self/status",
        "CapBnd:\t0000000000000021\n",
    ),
    (
        0,
        "sandbox { ambient_capabilities = [\"CAP_CHOWN\"] }",
        "grep CapAmb /proc/self/status",
        "CapAmb:\t0000000000000001\n",
    ),
    (
        249,
        "sandbox { restrict_address_families = [\"none\"] }",
        "perl -MSocket -e 'socket(S, 2, SOCK_DGRAM, 0); print $!+0; socket(S, 1, SOCK_DGRAM, 0); print $!+0'",
        "9797",
    ),
    (
        0,
        "sandbox { system_call_filter = [\"~sethostname\", \"~@clock\", \"~mkdir\", \"~mkdirat\"] }",
        "perl -e 'mkdir \"x\"; print $!+0'",
        "1",
    ),
    (
        0,
        "sandbox {\n system_call_filter = [\"~mkdir\", \"~mkdirat\"]\n system_call_error_number = \"ENOSPC\"\n }",
        "perl -e 'mkdir \"x\"; print $!+0'",
        "28",
    ),
    (0, "", "unshare -m true 2>&1", "unshare: unshare failed: Operation not permitted\n"),
    (
        0,
        "sandbox { restrict_namespaces = \"uts\" }",
        "unshare -m true 2>&1",
        "unshare: unshare failed: Operation not permitted\n",
    ),
    (
        0,
        "sandbox { restrict_suid_sgid = true }",
        "touch f; chmod u+s f 2>&1",
        "chmod: changing permissions of 'f': Operation not permitted\n",
    ),
    (0, "sandbox { umask = \"0027\" }", "umask", "0027\n"),
    (0, "sandbox { preset = \"strict\" }", "umask", "0077\n"),
    (0, "", "test -e /dev/null && ls /dev | grep -c -e kmsg -e loop", "0\n"),
    (0, "", "(echo x > /proc/sys/kernel/printk_ratelimit) 2>/dev/null || echo refused", "refused\n"),
    (0, "sandbox { proc_subset = \"pid\" }", "test -e /proc/meminfo || echo hidden", "hidden\n"),
    (0, "", "test -d /proc/1 || echo invisible", "invisible\n"),
    (0, "sandbox { protect_proc = \"default\" }", "test -d /proc/1 && echo visible", "visible\n"),
    (0, "sandbox { private_users = \"yes\" }", "wc -l < /proc/self/uid_map", "2\n"),
    (
        257,
        "sandbox { private_users = \"identity\" }",
        "cut -c-40 /proc/self/uid_map | tr -s ' '",
        " 0 0 65536\n",
    ),
    // The init is the first process there.
    (257, "sandbox { private_pids = \"yes\" }", "test $$ -lt 10 && echo few", "few\n"),
    (258, "hostname = \"web-1\"", "cat /proc/sys/kernel/hostname", "web-1\n"),
    (258, "hostname = \"web-1\"", "grep web-1 /etc/hosts", "127.0.1.1 web-1\n"),
    (0, "sandbox { keyring_mode = \"private\" }", "cat /proc/keys | wc -l > /dev/null; echo ok", "ok\n"),
    (0, "sandbox { coredump_filter = \"0x33\" }", "cat /proc/self/coredump_filter", "00000033\n"),
    (0, "sandbox { personality = \"x86\" }", "uname -m", "i686\n"),
    (0, "sandbox { private_mounts = true }", "echo ok", "ok\n"),
    (0, "limits { nice = 7 }", "cut -d' ' -f19 /proc/self/stat", "7\n"),
    (0, "limits { oom_score_adjust = 300 }", "cat /proc/self/oom_score_adj", "300\n"),
    (
        0,
        "limits { cpu_affinity = \"0\" }",
        "grep Cpus_allowed_list /proc/self/status",
        "Cpus_allowed_list:\t0\n",
    ),
    (
        0,
        "limits { cpu_scheduling_policy = \"batch\" }",
        "chrt -p $$ | head -1 | grep -o SCHED.*",
        "SCHED_BATCH\n",
    ),
    (0, "limits { io_scheduling_class = \"idle\" }", "ionice", "idle\n"),
    (0, "limits { timer_slack = \"3ms\" }", "cat /proc/self/timerslack_ns", "3000000\n"),
    (0, "ulimit { nofile = \"77:99\" }", "ulimit -Sn; ulimit -Hn", "77\n99\n"),
    (0, "ulimit { core = \"0\" }", "ulimit -Hc", "0\n"),
    (
        0,
        "properties { LimitNPROC = \"4321\" }",
        "grep processes /proc/self/limits | tr -s ' '",
        "Max processes 4321 4321 processes \n",
    ),
    (
        0,
        "properties {\n UMask = \"0013\"\n Nice = \"3\"\n }",
        "umask; cut -d' ' -f19 /proc/self/stat",
        "0013\n3\n",
    ),
    (
        0,
        "properties { SystemCallFilter = \"~mkdir\\n~mkdirat\" }",
        "mkdir x 2>/dev/null || echo refused",
        "refused\n",
    ),
];

#[tokio::test]
async fn each_option_is_in_force_or_refused_with_the_version_that_has_it() {
    let host = host!();
    let node = Node::configured(
        &host,
        "allow_root = \"host\"\nallow_properties = [\"@confining\", \"PrivateUsers\", \"ProtectProc\"]",
    )
    .await;
    let here = super::version(&host);
    for (since, config, script, expected) in OPTIONS {
        // Not as an ephemeral user, for which systemd enables a sandbox by itself.
        let job = Job::shell(script).config(config).user("nobody");
        if *since > here {
            let refusal = node.try_run(job).await.expect_err(config);
            assert!(refusal.message.contains(&format!("needs systemd {since}")), "{config}: {refusal}");
            continue;
        }
        let task = node.run(job).await;
        let (_, output, errors) = node.finish(task).await;
        assert_eq!(output, *expected, "{config}: {errors}");
    }
}

/// io_uring operations bypass system call filters.
#[tokio::test]
async fn no_task_has_io_uring() {
    let host = host!();
    let node = Node::start(&host).await;
    // io_uring_setup(2) with a bad pointer: 1 is EPERM, of the filter; 14 is EFAULT, of the kernel; 38 of one without it.
    let script = "perl -e 'my $r = syscall(425, 1, 0); print $! + 0, \"\\n\"'";
    for config in
        ["", "sandbox { system_call_filter = [\"io_uring_setup\"] }", "sandbox { preset = \"off\" }"]
    {
        assert_eq!(node.output_of(Job::shell(script).config(config)).await, "1\n", "{config}");
    }
}

#[tokio::test]
async fn memory_that_is_written_is_not_executed_under_the_strict_preset() {
    let host = host!();
    let node = Node::start(&host).await;
    let script = "perl -e 'use POSIX; my $r = syscall(9, 0, 4096, 7, 0x22, -1, 0); print $r == -1 ? \"refused\\n\" : \"mapped\\n\"'";
    assert_eq!(
        node.output_of(Job::shell(script)).await,
        "mapped\n",
        "just-in-time compilers work by default"
    );
    assert_eq!(
        node.output_of(Job::shell(script).config("sandbox { preset = \"strict\" }")).await,
        "refused\n"
    );
}

#[tokio::test]
async fn a_task_that_is_root_has_not_the_rights_to_get_around_its_view() {
    let host = host!();
    let node = Node::configured(&host, "allow_root = \"host\"").await;
    let script = "id -u; mount -t tmpfs none /tmp 2>/dev/null || echo no mounts
        chroot /proc/1/root true 2>/dev/null || echo no other root
        cat /proc/1/environ 2>/dev/null || echo no other process
        mknod /tmp/sda b 8 0 2>/dev/null && dd if=/tmp/sda of=/dev/null count=1 2>/dev/null || echo no device";
    let output = node.output_of(Job::shell(script).user("root")).await;
    assert_eq!(output, "0\nno mounts\nno other root\nno other process\nno device\n");
}

#[tokio::test]
async fn an_empty_list_takes_back_what_the_preset_says() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = Job::shell("grep Seccomp_filters /proc/self/status").user("nobody");
    let all = node.output_of(job.clone()).await;
    let fewer = node.output_of(job.config("sandbox { system_call_filter = [] }")).await;
    assert_ne!(all, fewer);
}

#[tokio::test]
async fn a_guest_has_a_preset_of_its_own() {
    let host = host!();
    let node = Node::start(&host).await;
    let task = node.run(Job::artifact("wait.wasm", &super::guest("spin.wat"))).await;
    let unit = node.unit(&task).await;
    for (property, value) in [
        ("MemoryDenyWriteExecute", "yes"),
        ("PrivateNetwork", "yes"),
        ("CapabilityBoundingSet", ""),
        ("RestrictAddressFamilies", "AF_UNIX"),
        ("PrivateUsers", "yes"),
    ] {
        assert_eq!(host.property(&unit, property), value, "{property}");
    }
    node.destroy(&task, true).await.unwrap();
    let job = Job::artifact("exit.wasm", &exiting_guest(3)).config("sandbox { preset = \"off\" }");
    let task = node.run(job).await;
    assert_eq!(node.finish(task).await.0, Exit::status(3));
}

/// The result of `systemd-analyze security` for a task under each preset, in tenths; driver/README.md has the table.
#[tokio::test]
async fn each_preset_has_the_score_that_is_published() {
    let host = host!();
    let page = std::fs::read_to_string(tests::repository().join("driver/README.md")).unwrap();
    let (_, presets) = page.split_once("### Presets").unwrap();
    if super::version(&host) != 252 {
        return; // the weights of the tool differ from release to release; the table names its release
    }
    let node = Node::start(&host).await;
    let guest = super::guest("spin.wat");
    for preset in ["off", "standard", "strict", "wasm"] {
        let job = match preset {
            "wasm" => Job::artifact("spin.wasm", &guest),
            _ => Job::shell("exec sleep infinity").config(&format!("sandbox {{ preset = \"{preset}\" }}")),
        };
        let task = node.run(job).await;
        let unit = node.unit(&task).await;
        let output = host.run("systemd-analyze", &["--no-pager", "security", &unit]);
        let score = output
            .lines()
            .last()
            .unwrap()
            .split_whitespace()
            .find_map(|word| word.parse::<f32>().ok())
            .unwrap();
        let row =
            presets.lines().find(|line| line.starts_with(&format!("| `{preset}` |"))).unwrap_or_default();
        assert!(
            row.contains(&format!("| {score:.1} |")),
            "{preset}: {score:.1}, driver/README.md says: {row}"
        );
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn what_may_not_be_executed_does_not_keep_a_task_from_its_init() {
    let host = host!();
    let node = Node::configured(
        &host,
        "fs_isolation = \"none\"\nallow_properties = [\"@confining\", \"ExecPaths\"]",
    )
    .await;
    let files = "files {\n no_exec_paths = [\"/\"]\n exec_paths = [\"/usr\"]\n}";
    // Another program in addition to the init may not do it.
    let script = format!("{} --version 2> /dev/null; echo $?", program("wasm-shim-compile").display());
    assert_eq!(node.output_of(Job::shell(&script).config(files)).await, "126\n");
}

/// What a group of system calls of systemd's contains, with the groups in it.
fn calls_of(host: &Host, group: &str) -> BTreeSet<String> {
    let listed = host.run("systemd-analyze", &["--no-pager", "syscall-filter", group]);
    let words = listed.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (groups, calls): (Vec<_>, Vec<_>) =
        words.filter(|word| *word != group).partition(|word| word.starts_with('@'));
    let inner = groups.iter().flat_map(|group| calls_of(host, group));
    calls.iter().map(|call| (*call).to_owned()).chain(inner).collect()
}

/// The driver has lists of its own of what a preset allows: no program is refused what it could do by systemd's list,
/// and nothing is allowed but what a newer systemd allows.
#[tokio::test]
async fn the_calls_of_each_preset_are_those_of_systemds_list() {
    let host = host!();
    let io_uring = ["io_uring_enter", "io_uring_register", "io_uring_setup"].map(str::to_owned);
    let mut expected = calls_of(&host, "@system-service");
    expected.retain(|call| !io_uring.contains(call));
    let less = [
        (Calls::Standard, &["@keyring"][..]),
        (Calls::Strict, &["@privileged", "@resources"]),
        (Calls::Wasm, &["@aio", "@chown", "@ipc", "@memlock", "@setuid", "@timer"]),
    ];
    for (calls, groups) in less {
        for group in groups {
            let without = calls_of(&host, group);
            expected.retain(|call| !without.contains(call));
        }
        let ours: BTreeSet<_> =
            calls.numbers().into_values().map(|name| name["SYS_".len()..].to_owned()).collect();
        let added: Vec<_> = ours.difference(&expected).collect();
        // Of later releases of systemd, up to 262.
        let newer = [
            "cachestat",
            "epoll_pwait2",
            "fchmodat2",
            "file_getattr",
            "file_setattr",
            "futex_waitv",
            "getxattrat",
            "landlock_add_rule",
            "landlock_create_ruleset",
            "landlock_restrict_self",
            "listmount",
            "listxattrat",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "mseal",
            "open_tree",
            "process_madvise",
            "removexattrat",
            "seccomp",
            "set_mempolicy_home_node",
            "setxattrat",
            "statmount",
            "uretprobe",
        ];
        assert!(added.iter().all(|call| newer.contains(&call.as_str())), "{calls:?}: {added:?}");
        // systemd names calls of all architectures; those that `standard` has are calls of this one.
        let known: BTreeSet<_> =
            Calls::Standard.numbers().into_values().map(|name| name["SYS_".len()..].to_owned()).collect();
        let lost: Vec<_> = expected.difference(&ours).filter(|call| known.contains(*call)).collect();
        assert!(lost.is_empty(), "{calls:?}: {lost:?}");
    }
}
