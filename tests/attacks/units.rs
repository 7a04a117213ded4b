//! Text of a job that becomes part of a unit: no text starts another line of the unit's file, or swallows the next one.

use tests::{Host, Job, Node, Task};

use super::{USER, refusal, version};

/// Characters that no text in a unit may contain, and the word in the error. The first three are line ends to systemd
/// or to programs that read a unit's file; a backslash at the end joins the next line to this one.
const POISON: [(&str, &str); 6] = [
    ("\nExecStopPost=+/bin/sh", "control character"),
    ("\rExecStopPost=+/bin/sh", "control character"),
    ("\u{b}x", "control character"),
    ("\u{1b}[2J", "control character"),
    ("\u{85}x", "control character"),
    ("\\", "backslash"),
];

/// Options that take a text of the job, with `POISON` in it. A row that needs a newer systemd begins with the first
/// version that supports it.
const OPTIONS: &[(u32, &str)] = &[
    (0, "work_dir = \"/localPOISON\""),
    (258, "hostname = \"xPOISON\""),
    (0, "group = \"gamesPOISON\""),
    (0, "supplementary_groups = [\"gamesPOISON\"]"),
    (0, "logging { namespace = \"xPOISON\" }"),
    (0, "properties { LoadCredential = \"x:/srv/attack/xPOISON\" }"),
    (0, "socket {\n name = \"x\"\n path = \"/alloc/xPOISON\"\n}"),
    (0, "socket {\n name = \"xPOISON\"\n path = \"/alloc/x\"\n}"),
    (0, "files { bind_paths = [\"/srv/attackPOISON\"] }"),
    (0, "files { bind_paths = [\"/srv/attack:/dataPOISON\"] }"),
    (0, "files { bind_read_only_paths = [\"/srv/attack:/dataPOISON\"] }"),
    (0, "files { temporary_file_system = [\"/dataPOISON\"] }"),
    (0, "files { temporary_file_system = [\"/data:size=1MPOISON\"] }"),
    (0, "files { read_only_paths = [\"/localPOISON\"] }"),
    (0, "files { read_write_paths = [\"/localPOISON\"] }"),
    (0, "files { inaccessible_paths = [\"/srvPOISON\"] }"),
    (248, "files { no_exec_paths = [\"/srvPOISON\"] }"),
    (248, "files { exec_paths = [\"/srvPOISON\"] }"),
    (0, "files { root_directory = \"/srv/attackPOISON\" }"),
    (0, "files { root_image = \"/srv/attackPOISON\" }"),
    (0, "files { mount_images = [\"/srv/attack:/dataPOISON\"] }"),
    (0, "files { state_directory = [\"attackPOISON\"] }"),
    (0, "files { runtime_directory = [\"attackPOISON\"] }"),
    (0, "sandbox { app_armor_profile = \"xPOISON\" }"),
    (0, "sandbox { selinux_context = \"xPOISON\" }"),
    (0, "sandbox { smack_process_label = \"xPOISON\" }"),
    (0, "properties { SyslogIdentifier = \"xPOISON\" }"),
    (0, "properties { LogExtraFields = \"A=xPOISON\" }"),
    (0, "properties { SourcePath = \"/xPOISON\" }"),
    (0, "properties { Documentation = \"man:xPOISON\" }"),
    (0, "properties { UnsetEnvironment = \"APOISON\" }"),
    (0, "properties { PassEnvironment = \"APOISON\" }"),
    (0, "properties { ConditionPathExists = \"!/xPOISON\" }"),
    (0, "properties { Wants = \"x.servicePOISON\" }"),
    (0, "properties { UtmpIdentifier = \"xPOISON\" }"),
    (0, "properties { PAMName = \"xPOISON\" }"),
    (0, "properties { EnvironmentFile = \"/srv/attack/xPOISON\" }"),
    (253, "properties { OpenFile = \"/srv/attack/x:namePOISON\" }"),
];

/// A node whose operator allows everything: the text is the only reason for a refusal.
async fn open_node(host: &Host) -> Node {
    let options = "allow_properties = [\"*\"]\nallow_host_paths = [\"/srv\", \"local\"]";
    Node::configured(host, options).await
}

#[tokio::test]
async fn no_option_brings_a_line_of_its_own() {
    let host = host!();
    let node = open_node(&host).await;
    host.run(
        "sh",
        &["-c", "mkdir -p /srv/attack '/srv/attack\\\\' && touch /srv/attack/x '/srv/attack/x\\\\'"],
    );
    let here = version(&host);
    let (mut through, mut named) = (Vec::new(), 0);
    for (_, option) in OPTIONS.iter().filter(|(since, _)| *since <= here) {
        for (poison, word) in POISON {
            // A line of a property's value is a single assignment.
            if option.starts_with("properties") && poison.starts_with('\n') {
                continue;
            }
            // The text of a job file after parsing.
            let config = option.replace("POISON", &poison.escape_default().to_string());
            let config = config
                .replace("\\u{b}", "\\u000b")
                .replace("\\u{1b}", "\\u001b")
                .replace("\\u{85}", "\\u0085");
            match node.try_run(Job::shell("exec sleep infinity").user(USER).config(&config)).await {
                Err(refusal) => {
                    named += usize::from(refusal.message.contains(word));
                    let came_to_systemd = ["start unit", "Failed at step", "org.freedesktop"];
                    if came_to_systemd.iter().any(|words| refusal.message.contains(words))
                        || refusal.message.contains('\n')
                    {
                        through.push(format!("{config}: {}", refusal.message.escape_debug()));
                    }
                }
                Ok(task) => {
                    // Harmless text may be accepted, such as a space at the end, which systemd ignores.
                    let unit = node.unit(&task).await;
                    let text = unit_file(&unit) + &unit_file(&unit.replace(".service", ".socket"));
                    let is_broken = |line: &str| {
                        line.starts_with("ExecStopPost")
                            || line.ends_with('\\')
                            || line.contains(char::is_control)
                    };
                    if let Some(line) = text.lines().find(|line| is_broken(line)) {
                        through.push(format!("{config}: it was started with {line:?}"));
                    }
                    node.destroy(&task, true).await.unwrap();
                }
            }
        }
    }
    assert!(through.is_empty(), "came to systemd, or was not refused at all:\n{}", through.join("\n"));
    assert!(
        named > OPTIONS.len(),
        "most are refused for what is in the text, not for another reason: {named}"
    );
}

/// systemd itself splits some values and reads escapes in them: two characters for us are a line end for systemd.
#[tokio::test]
async fn no_escape_becomes_a_line_end() {
    let host = host!();
    let node = open_node(&host).await;
    host.run(
        "sh",
        &["-c", "mkdir -p /srv/attack '/srv/attack\\\\' && touch /srv/attack/x '/srv/attack/x\\\\'"],
    );
    let here = version(&host);
    for (since, option) in [
        (0, "files { bind_paths = [\"/srv/attack:/dataESCAPE\"] }"),
        (0, "files { temporary_file_system = [\"/data:mode=0700ESCAPE\"] }"),
        (0, "files { temporary_file_system = [\"/dataESCAPE\"] }"),
        (0, "files { inaccessible_paths = [\"/srvESCAPE\"] }"),
        (0, "files { read_only_paths = [\"\\\"/srvESCAPE\\\"\"] }"),
        (0, "files { mount_images = [\"/srv/attack/x:/dataESCAPE\"] }"),
        (0, "files { mount_images = [\"/srv/attack/x:/data:root:ro,xESCAPE\"] }"),
        (0, "files { root_image_options = [\"root:ro,xESCAPE\"] }"),
        (0, "files { state_directory = [\"attackESCAPE\"] }"),
        (0, "properties { UnsetEnvironment = \"AESCAPE\" }"),
        (0, "properties { LogExtraFields = \"A=xESCAPE\" }"),
        (0, "properties { LoadCredential = \"x:/srv/attack/xESCAPE\" }"),
        (253, "properties { OpenFile = \"/srv/attack/x:nameESCAPE\" }"),
        (248, "properties { ExtensionImages = \"/srv/attack/xESCAPE\" }"),
    ] {
        if since > here {
            continue;
        }
        for escape in ["\\\\n", "\\\\x0a", "\\\\012", "\\\\u000a", "\\\\r", "\\\\x0d"] {
            let attack = format!("{escape}ExecStopPost=/bin/touch");
            let config = option.replace("ESCAPE", &attack);
            match node.try_run(Job::shell("exec sleep infinity").user(USER).config(&config)).await {
                Err(refusal) => assert!(!refusal.message.contains('\n'), "{config}: {refusal}"),
                // Characters without a meaning to systemd are harmless.
                Ok(task) => {
                    let unit = node.unit(&task).await;
                    let text = unit_file(&unit);
                    assert!(!text.lines().any(|line| line.starts_with("ExecStopPost")), "{config}: {text}");
                    node.destroy(&task, true).await.unwrap();
                }
            }
        }
    }
}

/// The unit files that systemd keeps and reads again at the next `daemon-reload`.
fn unit_file(unit: &str) -> String {
    // A task without sockets has no socket unit.
    let mut text = std::fs::read_to_string(format!("/run/systemd/transient/{unit}")).unwrap_or_default();
    for entry in std::fs::read_dir(format!("/run/systemd/transient/{unit}.d")).into_iter().flatten().flatten()
    {
        text += &std::fs::read_to_string(entry.path()).unwrap();
    }
    text
}

/// The properties that make a unit what it is.
fn essence(host: &Host, unit: &str) -> Vec<String> {
    let names = [
        "AllowedCPUs",
        "Description",
        "ExecStart",
        "ExecStartPre",
        "ExecStopPost",
        "User",
        "DynamicUser",
        "WorkingDirectory",
        "RootDirectory",
        "BindPaths",
        "BindReadOnlyPaths",
        "NoNewPrivileges",
        "LogExtraFields",
        "SyslogIdentifier",
        "CapabilityBoundingSet",
        "SystemCallFilter",
        "EnvironmentFiles",
        "UMask",
        "Nice",
        "InaccessiblePaths",
        "PrivateUsers",
        "Slice",
        "LimitNOFILE",
        "LogNamespace",
    ];
    let shown = names.map(|name| format!("{name}={}", host.property(unit, name)));
    // Of the command, only the essential part: systemd prints its arguments differently before and after, and it runs
    // once.
    shown.into_iter().map(|line| line.split(" ; argv").next().unwrap().to_owned()).collect()
}

async fn is_the_same_after_a_reload(host: &Host, node: &Node, task: &Task) {
    let unit = node.unit(task).await;
    let before = essence(host, &unit);
    host.run("systemctl", &["daemon-reload"]);
    let differing = essence(host, &unit).into_iter().zip(before).filter(|(now, before)| now != before);
    let differing: Vec<_> = differing.collect();
    assert!(differing.is_empty(), "{differing:?}");
}

#[tokio::test]
async fn names_and_arguments_that_nomad_allows_add_no_line_and_swallow_none() {
    // systemd is reloaded.
    let host = host!(alone);
    let node = Node::start(&host).await;
    for poison in [
        "\nExecStopPost=+/bin/touch /srv/attack",
        "\r\nNice=-20",
        "\\",
        " \\",
        "%n %H %%",
        "$HOME",
        "\"",
        "'",
        ";",
    ] {
        let script = format!("printf '<%s>' \"$1\" \"$A\"; echo ready; exec sleep infinity # {poison}");
        let job = Job::command("/bin/sh")
            .args(&["-c", &script, "sh", poison, poison])
            .env("A", poison)
            .config("limits { nice = 5 }\nulimit { nofile = \"77\" }")
            .with(|request| {
                for name in
                    [&mut request.job_name, &mut request.job_id, &mut request.group, &mut request.namespace]
                {
                    name.push_str(poison);
                }
            });
        let mut task = node.run(job).await;
        // Nothing was lost on the way either.
        assert_eq!(task.read_until("ready").await, format!("<{poison}><{poison}>ready\n"), "{poison:?}");
        is_the_same_after_a_reload(&host, &node, &task).await;
        node.destroy(&task, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_working_directory_swallows_no_limit() {
    // systemd is reloaded.
    let host = host!(alone);
    let node = Node::start(&host).await;
    for work_dir in ["/local/a\\", "/alloc/data/\\"] {
        let config = format!("work_dir = {work_dir:?}\nlimits {{ nice = 5 }}");
        let prepared = node.prepare(&Job::shell("exec sleep infinity").config(&config));
        for directory in ["web/local/a\\", "alloc/data/\\"] {
            std::fs::create_dir(prepared.alloc_dir().join(directory)).unwrap();
        }
        match node.begin(prepared).await {
            Err(refusal) => {
                let message = refusal.message;
                assert!(message.contains("work_dir") && message.contains("backslash"), "{message}");
            }
            Ok(task) => {
                is_the_same_after_a_reload(&host, &node, &task).await;
                panic!("{work_dir} was taken: {}", unit_file(&node.unit(&task).await));
            }
        }
    }
    // A backslash elsewhere is an ordinary character of a name.
    let job = Job::shell("echo ready; exec sleep infinity")
        .config("work_dir = \"/alloc/data\"\nlimits { nice = 5 }");
    let mut task = node.run(job).await;
    task.says("ready").await;
    is_the_same_after_a_reload(&host, &node, &task).await;
    node.destroy(&task, true).await.unwrap();
}

/// A refusal is an event of the task: `nomad alloc status` prints it to the operator's terminal.
#[tokio::test]
async fn no_refusal_speaks_to_the_terminal_of_its_reader() {
    let host = host!();
    let node = open_node(&host).await;
    for text in ["\u{1b}]0;attack\u{7}", "\u{1b}[2J", "\rall is well", "\u{9b}2J", "\u{85}"] {
        let jobs =
            [Job::shell("true").user(&format!("games{text}")), Job::command(&format!("/no/such{text}"))];
        for job in jobs {
            let message = refusal(&host, &node, job).await;
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
}

/// `user` is not an option of the `config` block, but still becomes part of the unit.
#[tokio::test]
async fn the_name_of_a_user_is_a_name() {
    let host = host!();
    let node = open_node(&host).await;
    for (poison, _) in POISON {
        let user = format!("{USER}{poison}");
        let message = refusal(&host, &node, Job::shell("true").user(&user)).await;
        assert!(message.contains("user") && !message.contains('\n'), "{message}");
    }
    for user in ["%m", "games%n", "%i", "-games", "../games", "games:games", "a b", ""] {
        if user.is_empty() {
            continue;
        }
        let message = refusal(&host, &node, Job::shell("true").user(user)).await;
        assert!(message.contains("user"), "{message}");
    }
}

/// The path of a volume comes from the job too (`volume_mount.destination`).
#[tokio::test]
async fn the_destination_of_a_volume_is_a_path() {
    let host = host!();
    let node = Node::start(&host).await;
    host.run("mkdir", &["-p", "/srv/attack"]);
    for (poison, word) in POISON {
        let mount = proto::driver::Mount {
            task_path: format!("/data{poison}"),
            host_path: "/srv/attack".into(),
            ..Default::default()
        };
        let job = Job::shell("true").with(|request| request.mounts = vec![mount]);
        let message = refusal(&host, &node, job).await;
        let is_named = message.contains(word) || message.contains("volume");
        assert!(is_named && !message.contains('\n'), "{poison:?}: {message:?}");
    }
}

/// A volume contains files that an earlier job left in it: a link could lead a mount of systemd to files of the host.
#[tokio::test]
async fn no_volume_holds_what_is_mounted_for_every_task() {
    let host = host!();
    let node = Node::start(&host).await;
    let volume = tempfile::Builder::new().prefix("volume-").tempdir_in("/srv").unwrap();
    let prize = tempfile::Builder::new().prefix("prize-").tempdir_in("/srv").unwrap();
    for name in ["shim", "guest.cwasm", "tmp", "hosts", "notify", "logs", "shm"] {
        std::os::unix::fs::symlink(prize.path().join(name), volume.path().join(name)).unwrap();
    }
    for target in ["/", "/.wasm", "/var", "/etc", "/run", "/run/systemd", "/alloc", "/dev", "/sys", "/proc"] {
        for job in [Job::shell("true"), Job::artifact("x.wasm", &tests::exiting_guest(0))] {
            let mount = proto::driver::Mount {
                task_path: target.into(),
                host_path: volume.path().display().to_string(),
                ..Default::default()
            };
            let job = job.with(|request| request.mounts = vec![mount]);
            let message = refusal(&host, &node, job).await;
            assert!(message.contains("volume") && message.contains(target), "{target}: {message}");
        }
    }
    assert_eq!(std::fs::read_dir(prize.path()).unwrap().count(), 0, "a file of the host was made");
}

/// systemd merges variables in a time that grows with the square of their number.
#[tokio::test]
async fn no_number_of_variables_holds_up_systemd() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = |count: usize| (0..count).fold(Job::shell("true"), |job, at| job.env(&format!("V{at}"), "x"));
    let message = refusal(&host, &node, job(20_000)).await;
    assert!(message.contains("`env`") && message.contains("limit"), "{message}");
    let task = node.run(job(1900)).await;
    node.finish(task).await;
}

/// Through /proc, a guest could reach its own runner.
#[tokio::test]
async fn no_directory_of_the_system_is_granted_to_a_guest() {
    let host = host!();
    let node = Node::start(&host).await;
    for granted in [
        "/proc::/p",
        "/proc/self::/p:ro",
        "/::/r",
        "/::/r:ro",
        "//::/r",
        "/./::/r",
        "//proc/./self::/p",
        "/sys::/s",
        "/dev::/d",
    ] {
        let job = Job::artifact("web.wasm", &super::guest("web.wat"))
            .config(&format!("wasm {{ dirs = [{granted:?}] }}"));
        let message = refusal(&host, &node, job).await;
        assert!(message.contains("wasm.dirs"), "{granted}: {message}");
    }
}
