//! Paths that a job makes inaccessible, accessible or read-only, and directories in which a task creates links
//! meanwhile: systemd mounts each of these paths over itself, and looks it up twice.

use std::os::unix::fs::{lchown, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, Uid, renameat_with};
use rustix::thread::set_thread_res_uid;
use tests::{Job, Node};

use super::allow_root;

const NOBODY: u32 = 65534;

const ALLOWED: &str = "allow_properties = [\"@confining\", \"ExecPaths\", \"ReadWritePaths\"]";

#[tokio::test]
async fn nothing_is_closed_where_a_task_could_put_a_link_meanwhile() {
    let host = host!();
    let node = Node::configured(&host, ALLOWED).await;
    let options = [
        ("read_only_paths", "ReadOnlyPaths"),
        ("read_write_paths", "ReadWritePaths"),
        ("inaccessible_paths", "InaccessiblePaths"),
        ("no_exec_paths", "NoExecPaths"),
        ("exec_paths", "ExecPaths"),
    ];
    let version: u32 = super::version(&host);
    for (option, property) in options {
        if version < 248 && option.contains("exec") {
            continue;
        }
        for path in [
            "/alloc/q/x",
            "/alloc/data",
            "/local/x",
            "/secrets/x",
            "/data/x",
            "/proc/self/root/alloc",
            "/proc/1/cwd/x",
            "/alloc/../alloc/q",
            "/dev/fd/0",
        ] {
            for config in [
                format!("files {{\n bind_paths = [\"alloc/data:/data\"]\n {option} = [\"-{path}\"]\n}}"),
                format!(
                    "files {{\n bind_paths = [\"alloc/data:/data\"]\n}}\nproperties {{\n {property} = \"-+{path}\"\n}}"
                ),
            ] {
                let refusal = node.try_run(Job::shell("true").config(&config)).await.expect_err(&config);
                let message = &refusal.message;
                assert!(
                    message.contains("can put links while") || message.contains("leads through"),
                    "{config}: {message}"
                );
                assert!(message.contains(option), "{config}: {message}");
            }
        }
        // As a path on the host, at which systemd assembles the root of a unit.
        let config = format!("properties {{\n {property} = \"-/run/systemd/unit-root/alloc/x\"\n}}");
        let refusal = node.try_run(Job::shell("true").config(&config)).await.expect_err(&config);
        assert!(refusal.message.contains("leads through"), "{refusal}");
    }
    // A mount point cannot be exchanged.
    let config =
        "files {\n bind_paths = [\"alloc/data:/data\"]\n read_only_paths = [\"/alloc\", \"/data\"]\n}";
    let job = Job::shell("touch /alloc/x /data/x 2>/dev/null || echo read-only; touch /local/x && echo fine");
    assert_eq!(node.output_of(job.config(config)).await, "read-only\nfine\n");
}

/// systemd would give the directory of the bus, of another service or of another tenant to the task, and remove the
/// directory when the task ends.
#[tokio::test]
async fn systemd_keeps_for_a_task_only_what_is_its_groups() {
    let host = host!();
    let node = Node::configured(
        &host,
        "allow_properties = [\"@confining\", \"StateDirectory\", \"RuntimeDirectory\", \"LogsDirectory\"]",
    )
    .await;
    let socket = || host.run("stat", &["-c", "%U %a", "/run/dbus", "/run/dbus/system_bus_socket"]);
    let before = socket();
    let config = "files {\n runtime_directory = [\"dbus\"]\n state_directory = [\"nomad-driver-systemd\", \"x\"]\n logs_directory = \
                  [\"journal\"]\n}";
    let script = "for d in $(echo $RUNTIME_DIRECTORY $STATE_DIRECTORY $LOGS_DIRECTORY | tr : ' '); do test -w $d && echo $d; done";
    let of = |namespace: &str| {
        let mut job = Job::shell(script).config(config);
        namespace.clone_into(&mut job.request.namespace);
        job
    };
    let (one, other) = (node.output_of(of("one")).await, node.output_of(of("other")).await);
    assert_eq!(one.lines().count(), 4, "{one}");
    assert!(one.lines().all(|line| line.contains("/task-")), "{one}");
    assert!(one.lines().all(|line| !other.contains(line)), "another tenant has others: {one} {other}");
    assert_eq!(socket(), before);
}

/// Another task that has `ours` would create a link in it.
#[tokio::test]
async fn systemd_keeps_no_directory_in_one_that_another_task_may_have() {
    let host = host!();
    let kept = ["StateDirectory", "CacheDirectory", "LogsDirectory", "RuntimeDirectory"];
    let node = Node::configured(
        &host,
        &format!("allow_properties = [\"@confining\", {}]", kept.map(|name| format!("{name:?}")).join(", ")),
    )
    .await;
    for property in kept {
        for name in ["ours/x", "ours/x/y", "ours//x"] {
            let config = format!("properties {{\n {property} = \"{name}\"\n}}");
            let refusal = node.try_run(Job::shell("true").config(&config)).await.expect_err(&config);
            assert!(
                refusal.message.contains("that another task of the group may have"),
                "{config}: {refusal}"
            );
        }
    }
}

/// A task of another driver in the group, of a user that is not root, repeatedly replaces the directory of logs by a
/// link to another tenant's directory: nothing is mounted in its `/alloc`.
#[tokio::test]
async fn logs_that_are_exchanged_are_nothing_of_the_hosts() {
    let host = host!();
    let node = Node::start(&host).await;
    let secret = tempfile::Builder::new().prefix("tenant-").tempdir_in("/srv").unwrap();
    std::fs::write(secret.path().join("key"), "secret").unwrap();
    std::fs::set_permissions(secret.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (mut ran, mut exchanged) = (0, 0);
    for _ in 0..30 {
        let script = "test -e /alloc/logs/key && echo LEAKED; touch /alloc/logs/x 2>/dev/null && echo WRITABLE; echo ran";
        let prepared = node.prepare(&Job::shell(script));
        let shared = prepared.alloc_dir().join("alloc");
        let (logs, link) = (shared.join("logs"), shared.join("link"));
        symlink(secret.path(), &link).unwrap();
        lchown(&link, Some(NOBODY), None).unwrap();
        // With the modes that the agent sets.
        for directory in [&shared, &logs] {
            std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
            lchown(directory, Some(NOBODY), None).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let exchange = {
            let (stop, opened) = (Arc::clone(&stop), std::fs::File::open(&shared).unwrap());
            std::thread::spawn(move || {
                // Only for this thread.
                let user = Uid::from_raw(NOBODY);
                set_thread_res_uid(user, user, user).unwrap();
                let mut exchanged = 0;
                while !stop.load(Ordering::Relaxed) {
                    let done = renameat_with(&opened, "logs", &opened, "link", RenameFlags::EXCHANGE);
                    exchanged += u32::from(done.is_ok());
                }
                exchanged
            })
        };
        let started = node.begin(prepared).await;
        stop.store(true, Ordering::Relaxed);
        exchanged += exchange.join().unwrap();
        if let Ok(task) = started {
            if std::fs::symlink_metadata(&logs).unwrap().is_symlink() {
                renameat_with(CWD, &logs, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
            ran += 1;
            let (_, output, errors) = node.finish(task).await;
            assert_eq!(output, "ran\n", "{errors}");
        }
    }
    assert!(ran > 0, "some starts find the logs");
    assert!(exchanged > 0, "before the start it can");
}

/// No task can exchange what an agent opens, following links, when it starts.
#[tokio::test]
async fn no_task_exchanges_what_the_agent_made_in_alloc() {
    let host = host!();
    let node = Node::configured(&host, &allow_root("host")).await;
    let script = "cd /alloc; for name in data tmp logs; do mv $name old || rmdir $name; done 2>/dev/null
        touch mine 2>/dev/null && echo written; touch data/x tmp/x && ls -d *";
    for user in ["", "nobody", "root"] {
        let task = node.run(Job::shell(script).user(user)).await;
        let (_, output, errors) = node.finish(task).await;
        assert_eq!(output, "data\nlogs\ntmp\n", "{user}: {errors}");
    }
}

/// Nomad makes the directory of a task writable for everybody, and the path to it is open: a user of the node could put
/// files in `local`.
#[tokio::test]
async fn no_user_of_the_node_gets_to_the_files_of_a_task() {
    let host = host!();
    let node = Node::start(&host).await;
    let prepared = node.prepare(&Job::shell("test -w /local && echo ready; exec sleep 1000"));
    let task_dir = prepared.alloc_dir().join(&prepared.config.name);
    std::fs::set_permissions(&task_dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut task = node.begin(prepared).await.unwrap();
    task.says("ready").await;
    let found = host.run("stat", &["-c", "%U %a", task_dir.to_str().unwrap()]);
    assert_eq!(found.trim(), "root 700");
    node.destroy(&task, true).await.unwrap();
}

/// A user of the node replaces `local` by a link.
#[tokio::test]
async fn a_directory_of_the_task_that_is_a_link_is_not_followed() {
    let host = host!();
    let node = Node::start(&host).await;
    for directory in ["web/local", "web/secrets", "alloc"] {
        let prepared = node.prepare(&Job::command("/bin/ls").args(&["/local", "/secrets", "/alloc"]));
        let directory = prepared.alloc_dir().join(directory);
        std::fs::rename(&directory, directory.with_extension("old")).unwrap();
        symlink("/etc", &directory).unwrap();
        let refusal = node.begin(prepared).await.expect_err("a link");
        assert!(!refusal.message.is_empty(), "{refusal}");
    }
}

/// An attacker that can exchange a task's directory does so all the time, also between the driver's check and systemd's
/// lookup.
#[tokio::test]
async fn a_directory_that_is_exchanged_while_a_task_starts_does_not_become_the_tasks() {
    let host = host!();
    let node = Node::start(&host).await;
    let script = "test -e /local/passwd && echo the host; exit 0";
    let mut noticed = false;
    for _ in 0..200 {
        if noticed {
            break;
        }
        let prepared = node.prepare(&Job::shell(script));
        let base = prepared.alloc_dir().to_owned();
        let (own, other) = (base.join("web"), base.join("other"));
        std::fs::create_dir(&other).unwrap();
        symlink("/etc", other.join("local")).unwrap();
        std::fs::create_dir(other.join("secrets")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let swapping = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = renameat_with(CWD, &own, CWD, &other, RenameFlags::EXCHANGE);
                    std::thread::yield_now();
                }
            })
        };
        let begun = node.begin(prepared).await;
        stop.store(true, Ordering::Relaxed);
        swapping.join().unwrap();
        match begun {
            Ok(task) => {
                let (_, output, _) = node.finish(task).await;
                assert_eq!(output, "", "the task has another directory");
            }
            Err(refusal) => {
                noticed = refusal.message.contains("is not the directory that the driver prepared");
            }
        }
    }
    assert!(noticed, "no exchange came between the two looks");
}

/// A task passes a descriptor of `/alloc` to a task elsewhere, where the mount points of its own view do not exist.
#[tokio::test]
async fn nobody_exchanges_what_the_agent_made_in_alloc_by_a_descriptor_either() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut victim = node.run(Job::shell("echo ready; exec sleep infinity")).await;
    victim.says("ready").await;
    let main = host.property(&node.unit(&victim).await, "MainPID");
    // The state just after the agent has started.
    let shared = victim.alloc_dir().join("alloc");
    std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let alloc = std::fs::File::open(format!("/proc/{main}/root/alloc")).unwrap();
    let by_descriptor =
        |name: &str| format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&alloc));
    for (old, new) in [("data", "x"), ("logs", "x")] {
        let renamed = std::fs::rename(by_descriptor(old), by_descriptor(new));
        assert_eq!(renamed.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{old}");
    }
    let linked = symlink("/etc", by_descriptor("link"));
    assert_eq!(linked.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let script = "touch /alloc/data/x /alloc/tmp/x && echo written; touch /alloc/x || echo refused";
    assert_eq!(node.output_in(&victim, script).await, "written\nrefused\n");
    node.destroy(&victim, true).await.unwrap();
}
