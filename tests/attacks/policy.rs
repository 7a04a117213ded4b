//! The operator's policy: what is denied is denied in every notation, what reaches beyond a task must be allowed
//! explicitly, and what a job requests to be filtered is filtered.

use tests::{Host, Job, Node};

use super::{USER, guest, refusal, version};

// ---- What the operator denies

/// A property, and options that set it. A row that needs a newer systemd begins with the first version that supports
/// it.
const DENIED: &[(u32, &str, &str)] = &[
    (0, "Group", "group = \"daemon\""),
    (0, "Group", "group = \"games\""),
    (0, "SupplementaryGroups", "supplementary_groups = [\"shadow\"]"),
    (0, "LogNamespace", "logging { namespace = \"attack\" }"),
    (0, "LogRateLimitBurst", "logging { rate_limit_burst = 100000 }"),
    (0, "LogRateLimitIntervalSec", "logging { rate_limit_interval = \"1s\" }"),
    (0, "LogRateLimitIntervalSec", "logging { rate_limit_interval = \"0\" }"),
    (0, "StandardOutput", "logging { driver = \"journald\" }"),
    (0, "StandardOutput", "logging { driver = \"both\" }"),
    (0, "AmbientCapabilities", "cap_add = [\"net_bind_service\"]"),
    (0, "AmbientCapabilities", "sandbox { ambient_capabilities = [\"CAP_NET_BIND_SERVICE\"] }"),
    (0, "CapabilityBoundingSet", "cap_add = [\"net_bind_service\"]"),
    (0, "CapabilityBoundingSet", "cap_drop = [\"all\"]"),
    (0, "CapabilityBoundingSet", "sandbox { capability_bounding_set = [\"CAP_CHOWN\"] }"),
    (0, "NotifyAccess", "notify {\n access = \"all\"\n ready_within = \"0\"\n}"),
    (0, "WatchdogSec", "notify {\n ready_within = \"0\"\n watchdog = \"1m\"\n}"),
    (0, "TimeoutStartSec", "notify { ready_within = \"2m\" }"),
    (0, "ListenStream", "socket {\n name = \"x\"\n path = \"/alloc/x\"\n}"),
    (0, "ListenDatagram", "socket {\n name = \"x\"\n path = \"/alloc/x\"\n kind = \"datagram\"\n}"),
    (0, "SocketMode", "socket {\n name = \"x\"\n path = \"/alloc/x\"\n mode = \"0666\"\n}"),
    (0, "LoadCredential", "credential {\n name = \"x\"\n path = \"/local/x\"\n}"),
    (
        250,
        "LoadCredentialEncrypted",
        "credential {\n name = \"x\"\n path = \"/local/x\"\n encrypted = true\n}",
    ),
    (0, "WorkingDirectory", "work_dir = \"/tmp\""),
    (258, "ProtectHostname", "hostname = \"attack\""),
    (0, "LimitNOFILE", "ulimit { nofile = \"77\" }"),
    (0, "LimitCORE", "ulimit { core = \"0\" }"),
    (0, "SystemCallFilter", "sandbox { system_call_filter = [] }"),
    (0, "PrivateTmp", "sandbox { private_tmp = \"yes\" }"),
    (0, "SyslogIdentifier", "properties { SyslogIdentifier = \"sshd\" }"),
];

#[tokio::test]
async fn what_is_denied_is_denied_by_every_name() {
    let host = host!();
    let here = version(&host);
    let rows = || DENIED.iter().filter(|(since, ..)| *since <= here);
    for pattern in ["exact", "star"] {
        let mut through = Vec::new();
        for (_, property, config) in rows() {
            let pattern =
                if pattern == "exact" { (*property).to_owned() } else { format!("{}*", &property[..4]) };
            let options = format!(
                "deny_properties = [{pattern:?}]\nallow_properties = [\"@confining\", \"Group\", \"SupplementaryGroups\"]"
            );
            let node = Node::configured(&host, &options).await;
            let job = Job::shell("exec sleep infinity").user(USER).file("x", b"x").config(config);
            match node.try_run(job).await {
                Err(refusal) if refusal.message.contains("`deny_properties`") => {}
                Err(refusal) => through.push(format!("{pattern}: {config}: {refusal}")),
                Ok(task) => {
                    node.destroy(&task, true).await.unwrap();
                    through.push(format!("{pattern}: {config}: it was started"));
                }
            }
        }
        assert!(through.is_empty(), "not denied:\n{}", through.join("\n"));
    }
    let node = Node::configured(&host, "deny_properties = [\"User\"]").await;
    let message = refusal(&host, &node, Job::shell("id").user(USER)).await;
    assert!(message.contains("`deny_properties`"), "{message}");
}

/// The control for the test above: the denial is the reason for the refusal.
#[tokio::test]
async fn what_is_not_denied_is_given() {
    let host = host!();
    let here = version(&host);
    let options = "allow_properties = [\"@confining\", \"Group\", \"SupplementaryGroups\", \"Log*\", \"LoadCredentialEncrypted\", \"NotifyAccess\", \"Listen*\"]";
    let node = Node::configured(&host, options).await;
    for (_, property, config) in DENIED.iter().filter(|(since, ..)| *since <= here) {
        // Options that need a readiness notification, a journal of their own or a key of the machine are tested
        // elsewhere.
        if ["TimeoutStartSec", "LogNamespace", "LoadCredentialEncrypted"].contains(property) {
            continue;
        }
        // A user of the host runs in a user namespace, where this has no effect.
        let user = if config.to_lowercase().contains("net_bind_service") { "" } else { USER };
        let job = Job::shell("exec sleep infinity").user(user).file("x", b"x").config(config);
        let task = node.try_run(job).await.unwrap_or_else(|refusal| panic!("{config}: {refusal}"));
        node.destroy(&task, true).await.unwrap();
    }
}

/// systemd opens these files as root, and connects to sockets.
#[tokio::test]
async fn no_path_that_is_allowed_has_systemd_open_a_file_as_root() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"/srv\", \"/usr/share:ro\"]").await;
    let mut properties = vec!["LoadCredential = \"x:/srv/x\"", "LoadCredential = \"x:/local/x\""];
    let here = version(&host);
    if here >= 250 {
        properties.push("LoadCredentialEncrypted = \"x:/local/x\"");
    }
    if here >= 253 {
        properties.extend(["OpenFile = \"/srv/x:x\"", "OpenFile = \"/local/x:x:read-only\""]);
    }
    for property in properties {
        let job = Job::shell("true").file("x", b"x").config(&format!("properties {{ {property} }}"));
        let message = refusal(&host, &node, job).await;
        assert!(
            message.contains("as root") && message.contains("`allow_properties`"),
            "{property}: {message}"
        );
    }
}

// ---- What reaches beyond a task

#[tokio::test]
async fn what_takes_from_others_needs_the_operators_word() {
    let host = host!();
    let node = Node::start(&host).await;
    for (property, config) in [
        ("FileDescriptorStoreMax", "properties { FileDescriptorStoreMax = \"1\" }"),
        ("FileDescriptorStoreMax", "properties { FileDescriptorStoreMax = \"100000\" }"),
        ("MemorySwapMax", "limits { memory_swap_max = \"infinity\" }"),
        ("MemorySwapMax", "limits { memory_swap_max = \"1M\" }"),
        ("MemorySwapMax", "limits { memory_swap_max = \"1%\" }"),
        ("MemorySwapMax", "properties { MemorySwapMax = \"infinity\" }"),
        ("MemorySwapMax", "properties { MemorySwapMax = \"0\\ninfinity\" }"),
        ("IOWeight", "limits { io_weight = 101 }"),
        ("IOWeight", "limits { io_weight = 10000 }"),
        ("IOWeight", "properties { IOWeight = \"200\" }"),
        ("TasksMax", "limits { tasks_max = \"infinity\" }"),
        ("TasksMax", "limits { tasks_max = \"100%\" }"),
        ("TasksMax", "limits { tasks_max = \"16%\" }"),
        ("TasksMax", "limits { tasks_max = \"4916\" }"),
        ("TasksMax", "properties { TasksMax = \"infinity\" }"),
        ("TasksMax", "properties { TasksMax = \"\" }"),
        ("NotifyAccess", "notify {}"),
        // A task that waits for its I/O can block a transaction of the file system for everybody.
        ("IOWriteBandwidthMax", "limits { io_write_bandwidth_max = [\"/ 2\"] }"),
        ("IOWriteIOPSMax", "limits { io_write_iops_max = [\"/ 2\"] }"),
        ("IOReadBandwidthMax", "properties { IOReadBandwidthMax = \"/ 2\" }"),
        ("IOReadIOPSMax", "properties { IOReadIOPSMax = \"/ 2\" }"),
        ("RemoveIPC", "sandbox { remove_ipc = true }"),
        ("RemoveIPC", "properties { RemoveIPC = \"yes\" }"),
        ("NotifyAccess", "notify {\n ready_within = \"0\"\n watchdog = \"1m\"\n}"),
    ] {
        // Neither the pattern for confining options nor another pattern allows it.
        let message = refusal(&host, &node, Job::shell("true").config(config)).await;
        assert!(message.contains("`allow_properties`") && message.contains(property), "{config}: {message}");
    }
    // systemd accepts messages from every unit with a watchdog.
    let job = Job::shell("true").config("properties { WatchdogSec = \"1h\" }");
    let message = refusal(&host, &node, job).await;
    assert!(message.contains("properties.WatchdogSec") && message.contains("`notify` block"), "{message}");
    // The control: a job may set lower values, where the node supports them at all.
    for config in [
        "limits { io_weight = 100 }",
        "limits { memory_swap_max = \"0\" }",
        "limits { tasks_max = \"64\" }",
        "limits { tasks_max = \"15%\" }",
    ] {
        if let Err(refusal) = node.try_run(Job::shell("true").config(config)).await {
            assert!(refusal.message.contains("controller"), "{config}: {refusal}");
        }
    }
}

/// Each property must be named: a pattern that matches it is not sufficient.
#[tokio::test]
async fn the_operators_word_gives_it() {
    let host = host!();
    let options = "allow_properties = [\"@confining\", \"FileDescriptorStoreMax\", \"IOWeight\", \"TasksMax\", \"Memory*\", \"Notify*\"]";
    let node = Node::configured(&host, options).await;
    for config in [
        "properties { FileDescriptorStoreMax = \"10\" }",
        "limits { io_weight = 200 }",
        "limits { tasks_max = \"infinity\" }",
        "limits { memory_swap_max = \"1M\" }",
        "notify { ready_within = \"0\" }",
    ] {
        match node.try_run(Job::shell("true").config(config)).await {
            Ok(task) => drop(node.finish(task).await),
            Err(refusal) => assert!(refusal.message.contains("controller"), "{config}: {refusal}"),
        }
    }
}

/// The operator's filter of addresses in the slice of all tasks, until this is dropped.
pub(crate) struct SliceFilter<'a>(&'a Host);

impl<'a> SliceFilter<'a> {
    pub(crate) fn set(host: &'a Host, denied: &str) -> Self {
        let denied = format!("IPAddressDeny={denied}");
        host.run("systemctl", &["set-property", "--runtime", "nomad_tasks.slice", &denied]);
        Self(host)
    }
}

impl Drop for SliceFilter<'_> {
    fn drop(&mut self) {
        self.0.run("systemctl", &["set-property", "--runtime", "nomad_tasks.slice", "IPAddressDeny="]);
    }
}

/// For systemd, what a unit allows takes precedence over what the slices above it deny.
#[tokio::test]
async fn no_job_allows_addresses_that_the_operator_denies_to_all_tasks() {
    let host = host!();
    let jobs = [
        Job::shell("true").config("network { ip_address_allow = [\"10.0.0.0/8\"] }"),
        Job::shell("true").config("properties { IPAddressAllow = \"any\" }"),
    ];
    let connecting =
        || Job::artifact("spin.wat", &guest("spin.wat")).config("wasm { connect = [\"tcp:10.0.0.0/8:80\"] }");
    let node = Node::start(&host).await;
    let can_filter = match node.try_run(jobs[0].clone()).await {
        Ok(task) => {
            node.finish(task).await;
            true
        }
        Err(refusal) => {
            assert!(refusal.message.contains("BPF"), "{refusal}");
            false
        }
    };
    let _filter = SliceFilter::set(&host, "10.0.0.0/8");
    for job in &jobs {
        let message = refusal(&host, &node, job.clone()).await;
        assert!(!can_filter || message.contains("nomad_tasks.slice"), "{message}");
    }
    let task = node.run(connecting()).await;
    let unit = node.unit(&task).await;
    assert_eq!(host.property(&unit, "IPAddressAllow"), "", "its runner filters, and the slice");
    node.destroy(&task, true).await.unwrap();
    let node = Node::configured(&host, "allow_properties = [\"@confining\", \"IPAddressAllow\"]").await;
    for job in jobs.into_iter().filter(|_| can_filter) {
        let task = node.run(job).await;
        node.finish(task).await;
    }
}

// ---- Lists

/// Each word of a list is one element, however many words an element has: for a job file, and for a script in the task.
#[tokio::test]
async fn a_list_means_what_it_means_in_a_unit_file() {
    let host = host!();
    let node = Node::start(&host).await;
    // The owner of a file may always set himself as its owner, unless the system call is filtered.
    let chown = "perl -e 'open F, \">\", \"f\"; print chown($<, $(+0, \"f\") ? \"done\\n\" : \"refused \".($!+0).\"\\n\"'";
    // shmget(2)
    let ipc = "perl -e 'print defined shmget(0, 4096, 0600) ? \"done\\n\" : \"refused \".($!+0).\"\\n\"'";
    let socket = |family: u32| {
        format!(
            "perl -MSocket -e 'print socket(S, {family}, SOCK_DGRAM, 0) ? \"done\\n\" : \"refused \".($!+0).\"\\n\"'"
        )
    };
    let (inet, inet6, unix) = (socket(2), socket(10), socket(1));
    let hidden = "ls /usr/share /usr/games >/dev/null 2>&1 && echo seen; ls /usr/share 2>&1 | grep -c denied; ls /usr/games 2>&1 | grep -c denied";
    let fixed = "for d in /alloc /secrets; do touch $d/x 2>/dev/null || echo refused; done";
    for (config, script, expected) in [
        ("", chown, "done\n"),
        ("", ipc, "done\n"),
        ("sandbox { system_call_filter = [\"~@chown @ipc @setuid\"] }", chown, "refused 1\n"),
        ("sandbox { system_call_filter = [\"~@chown @ipc @setuid\"] }", ipc, "refused 1\n"),
        ("sandbox { system_call_filter = [\"~@chown\", \"~@ipc\"] }", ipc, "refused 1\n"),
        ("sandbox { system_call_filter = [\"~chown fchown fchownat lchown\"] }", chown, "refused 1\n"),
        ("sandbox { system_call_filter = [\"~ @chown\"] }", chown, "refused 1\n"),
        ("sandbox { system_call_filter = [\"~@chown:EACCES @ipc\"] }", chown, "refused 13\n"),
        ("properties { SystemCallFilter = \"~@chown @ipc\" }", chown, "refused 1\n"),
        ("properties { SystemCallFilter = \"~@chown\\n~@ipc\" }", ipc, "refused 1\n"),
        ("sandbox { restrict_address_families = [\"\", \"AF_INET AF_INET6\"] }", &inet6, "done\n"),
        ("sandbox { restrict_address_families = [\"\", \"AF_INET AF_INET6\"] }", &unix, "refused 97\n"),
        ("sandbox { restrict_address_families = [\"AF_INET\", \"none\"] }", &inet, "refused 97\n"),
        ("sandbox { restrict_address_families = [\"~AF_INET AF_INET6\"] }", &inet, "refused 97\n"),
        ("sandbox { restrict_address_families = [\"~AF_INET AF_INET6\"] }", &inet6, "refused 97\n"),
        ("files { inaccessible_paths = [\"/usr/share /usr/games\"] }", hidden, "1\n1\n"),
        ("files { read_only_paths = [\"/alloc /secrets\"] }", fixed, "refused\nrefused\n"),
    ] {
        let task = node.try_run(Job::shell(script).config(config)).await;
        let task = task.unwrap_or_else(|refusal| panic!("{config}: {refusal}"));
        let (_, output, errors) = node.finish(task).await;
        assert_eq!(output, expected, "{config}: {script}: {errors}");
    }
}

/// systemd ignores an unknown name with a line in its log, and filters nothing.
#[tokio::test]
async fn a_word_that_means_nothing_is_refused_by_name() {
    let host = host!();
    let node = Node::configured(&host, "allow_properties = [\"*\"]").await;
    for (config, word) in [
        ("sandbox { system_call_filter = [\"~chmodd\"] }", "chmodd"),
        ("sandbox { system_call_filter = [\"@netwrok\"] }", "@netwrok"),
        ("sandbox { system_call_filter = [\"~@chown @nosuch\"] }", "@nosuch"),
        ("sandbox { system_call_filter = [\"~@chown,@ipc\"] }", "@chown,@ipc"),
        ("sandbox { system_call_filter = [\"~chown:EPREM\"] }", "EPREM"),
        ("properties { SystemCallFilter = \"~@chown chmodd\" }", "chmodd"),
        ("sandbox { system_call_log = [\"chmodd\"] }", "chmodd"),
        ("sandbox { restrict_address_families = [\"AF_INETT\"] }", "AF_INETT"),
        ("sandbox { restrict_address_families = [\"AF_INET AF_INETT\"] }", "AF_INETT"),
        ("sandbox { system_call_architectures = [\"nativ\"] }", "nativ"),
        ("sandbox { system_call_error_number = \"EPREM\" }", "EPREM"),
        ("sandbox { restrict_namespaces = \"user nmt\" }", "nmt"),
        ("sandbox { capability_bounding_set = [\"CAP_CHOWN CAP_FLY\"] }", "CAP_FLY"),
        ("sandbox { secure_bits = [\"norot\"] }", "norot"),
        ("sandbox { protect_proc = \"invisble\" }", "invisble"),
        ("sandbox { proc_subset = \"pids\" }", "pids"),
        ("sandbox { keyring_mode = \"privat\" }", "privat"),
        ("sandbox { protect_system = \"strct\" }", "strct"),
        ("sandbox { protect_home = \"readonly\" }", "readonly"),
        ("sandbox { protect_control_groups = \"yess\" }", "yess"),
        ("sandbox { protect_hostname = \"yess\" }", "yess"),
        ("sandbox { private_tmp = \"yess\" }", "yess"),
        ("sandbox { private_users = \"selff\" }", "selff"),
        ("sandbox { device_policy = \"close\" }", "close"),
        ("sandbox { personality = \"x68\" }", "x68"),
        ("sandbox { mount_flags = \"slav\" }", "slav"),
        ("limits { oom_policy = \"kil\" }", "kil"),
        ("limits { managed_oom_swap = \"kil\" }", "kil"),
        ("limits { cpu_scheduling_policy = \"bach\" }", "bach"),
        ("limits { numa_policy = \"bnd\" }", "bnd"),
        ("properties { ProtectProc = \"invisble\" }", "invisble"),
        ("properties { RestrictAddressFamilies = \"AF_INETT\" }", "AF_INETT"),
    ] {
        let message = refusal(&host, &node, Job::shell("true").user(USER).config(config)).await;
        assert!(message.contains(word), "{config}: {message}");
        let is_raw = message.contains("org.freedesktop")
            || message.contains("Invalid argument")
            || message.contains('\n');
        assert!(!is_raw, "the words of D-Bus: {config}: {message}");
    }
}

/// Every example that names system calls to be filtered really filters them.
#[tokio::test]
async fn the_filters_of_the_examples_filter() {
    let host = host!();
    let node = Node::start(&host).await;
    let chown = "perl -e 'open F, \">\", \"/tmp/f\"; print chown($<, $(+0, \"/tmp/f\") ? \"done\\n\" : \"refused\\n\"'";
    let mut filters = 0;
    for entry in std::fs::read_dir(tests::repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for line in text.lines().filter(|line| line.contains("system_call_filter") && line.contains("@chown"))
        {
            let job = Job::shell(chown).config(&format!("sandbox {{\n{line}\n}}"));
            assert_eq!(node.output_of(job).await, "refused\n", "{}: {line}", path.display());
            filters += 1;
        }
    }
    assert!(filters > 0, "no example filters @chown: look for another one");
}
