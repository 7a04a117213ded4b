//! What the driver and systemd look at, wait for or mount because a job names it.

use std::path::PathBuf;

use tests::{Exit, Host, Job, Node};

use super::refusal;

/// The driver looks at a program as root, to know how it is run.
#[tokio::test]
async fn no_command_has_the_driver_read_what_the_task_cannot() {
    let host = host!();
    let node = Node::start(&host).await;
    let directory = tempfile::Builder::new().prefix("closed-").tempdir_in("/etc").unwrap();
    std::fs::write(directory.path().join("plain"), super::SECRET).unwrap();
    std::fs::write(directory.path().join("x.wasm"), tests::exiting_guest(0)).unwrap();
    let path = directory.path().display().to_string();
    let try_all = async |expected: &str| {
        for command in [
            format!("{path}/plain"),
            format!("{path}/x.wasm"),
            format!("/usr/..{path}/plain"),
            format!("../..{path}/plain"),
            format!("/usr/..{path}/no-such-file"),
        ] {
            let refusal = node.try_run(Job::command(&command)).await.map(drop).expect_err(&command).message;
            assert!(!refusal.contains("secret"), "{command}: {refusal}");
            let is_expected = refusal.contains(expected)
                || command.contains("..") && refusal.contains("no path that can be followed");
            assert!(is_expected, "{command}: {refusal}");
        }
    };
    // What is there, and what is not, is told alike.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    try_all("cannot be executed").await;
    // The control: what everybody can read is looked at.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let task = node.run(Job::command(&format!("{path}/x.wasm"))).await;
    assert_eq!(node.finish(task).await.0, Exit::status(0));
    let message = refusal(&host, &node, Job::command(&format!("{path}/plain"))).await;
    assert!(message.contains("neither a program") && !message.contains("secret"), "{message}");
}

/// A path with a `-` before it may be missing. systemd would look again later, and by then it may be there.
#[tokio::test]
async fn a_path_that_is_not_there_yet_is_not_bound_when_it_comes() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"/srv\"]").await;
    // No process has this number yet, and what systemd makes for the task has one of those that come.
    let ahead = |offset: u32| {
        let last = std::fs::read_to_string("/proc/loadavg").unwrap();
        let last: u32 = last.split_whitespace().last().unwrap().parse().unwrap();
        let binds = (last + offset..last + offset + 60).map(|pid| format!("\"-/proc/{pid}/root:/h{pid}\""));
        format!("files {{ bind_paths = [{}] }}", binds.collect::<Vec<_>>().join(", "))
    };
    for offset in [20, 40, 80] {
        let message = refusal(&host, &node, Job::shell("ls -d /h*/srv").config(&ahead(offset))).await;
        assert!(message.contains("allow_host_paths"), "{message}");
    }
    // The control: one that the operator allows is left out, and the others are there.
    let config = "files { bind_paths = [\"-/srv/no-such-file:/no\", \"-/srv:/yes\", \"/local:/mine\"] }";
    assert_eq!(
        node.output_of(Job::shell("ls -d /no /yes /mine 2>/dev/null; true").config(config)).await,
        "/mine\n/yes\n"
    );
    let config = "files { bind_paths = [\"-/srv/no-such-file\"] }";
    assert_eq!(node.output_of(Job::shell("touch /local/x && echo whole").config(config)).await, "whole\n");
}

/// A mount unit of the host's that is not started.
struct Unmounted(PathBuf, PathBuf);

impl Unmounted {
    fn new(host: &Host) -> Self {
        let id = nomad_driver_systemd::nomad::task::new_alloc_id().replace('-', "");
        let (path, unit) = (format!("/mnt/{id}"), format!("/run/systemd/system/mnt-{id}.mount"));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(&unit, format!("[Mount]\nWhat=tmpfs\nWhere={path}\nType=tmpfs\n")).unwrap();
        host.run("systemctl", &["daemon-reload"]);
        Self(path.into(), unit.into())
    }

    fn is_mounted(&self) -> bool {
        std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(self.0.to_str().unwrap())
    }
}

impl Drop for Unmounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
        let _ = (std::fs::remove_file(&self.1), std::fs::remove_dir(&self.0));
    }
}

#[tokio::test]
async fn no_working_directory_mounts_file_systems_of_the_host() {
    let host = host!();
    let node = Node::start(&host).await;
    let unmounted = Unmounted::new(&host);
    let path = unmounted.0.display();
    for work_dir in [format!("{path}"), format!("{path}/deeper/down")] {
        let message =
            refusal(&host, &node, Job::shell("pwd").config(&format!("work_dir = \"{work_dir}\""))).await;
        assert!(message.contains("`work_dir`") && message.contains("not mounted"), "{message}");
        assert!(!unmounted.is_mounted(), "{work_dir} was mounted");
    }
    // The control: systemd mounts for whoever works there.
    let unit = format!("work-{}", nomad_driver_systemd::nomad::task::new_alloc_id());
    host.run(
        "systemd-run",
        &["--quiet", "--wait", "--unit", &unit, "-p", &format!("WorkingDirectory={path}"), "true"],
    );
    assert!(unmounted.is_mounted());
    for work_dir in ["/", "/tmp", "/usr/share", "/alloc/data"] {
        let output = node.output_of(Job::shell("pwd").config(&format!("work_dir = \"{work_dir}\""))).await;
        assert_eq!(output, format!("{work_dir}\n"));
    }
}
