//! What the driver and systemd look up, wait for or mount because a job names it.

use std::path::PathBuf;

use tests::{Exit, Job, Node, SOON, built_guest};

use super::refusal;

/// As root, the driver inspects a program to determine how it is run.
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
                || command.contains("..") && refusal.contains("cannot be resolved as a path");
            assert!(is_expected, "{command}: {refusal}");
        }
    };
    // The error is the same for existing and missing files.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    try_all("cannot be executed").await;
    // The control: a file that everybody can read is inspected.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let task = node.run(Job::command(&format!("{path}/x.wasm"))).await;
    assert_eq!(node.finish(task).await.0, Exit::status(0));
    let message = refusal(&host, &node, Job::command(&format!("{path}/plain"))).await;
    assert!(message.contains("neither a program") && !message.contains("secret"), "{message}");
}

/// The driver makes a script executable that an artifact has brought. In `/alloc` a neighbour can put a link in its place.
#[tokio::test]
async fn no_neighbours_link_has_the_driver_open_a_private_file_to_everybody() {
    let host = host!();
    let node = Node::start(&host).await;
    // Of a task of another user in the group: a script that only this user may read.
    let victim = Job::shell(
        "cd /alloc/data && printf '#!/bin/sh\\necho %s\\n' SECRET > key && chmod 600 key && ln -s key tool",
    );
    let victim = victim.user("nobody");
    let id = victim.request.alloc_id.clone();
    let task = node.run(victim).await;
    let alloc_dir = task.alloc_dir().to_owned();
    assert_eq!(node.wait(&task).await, Exit::status(0));
    let key = alloc_dir.join("alloc/data/key");
    let mode = || std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&key).unwrap()) & 0o7777;
    let job = || {
        Job::command("/alloc/data/tool").with(|request| {
            request.alloc_id.clone_from(&id);
            "second".clone_into(&mut request.task);
        })
    };
    let message = node.try_run(job()).await.map(drop).expect_err("a private file").message;
    assert!(!message.contains("SECRET"), "{message}");
    assert_eq!(mode(), 0o600);
    // The control: what everybody can read is made executable, and runs.
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(node.output_of(job()).await, "SECRET\n");
    node.destroy(&task, true).await.unwrap();
}

/// As root, the driver follows links to compare mount points.
#[tokio::test]
async fn no_mount_point_has_the_driver_tell_where_a_link_leads_behind_a_closed_directory() {
    let host = host!();
    let node = Node::start(&host).await;
    let directory = tempfile::Builder::new().prefix("closed-").tempdir_in("/etc").unwrap();
    let target = tempfile::Builder::new().prefix("secret-project-").tempdir_in("/srv").unwrap();
    std::os::unix::fs::symlink(target.path(), directory.path().join("link")).unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let config = format!("files {{ temporary_file_system = [\"{}/link\"] }}", directory.path().display());
    let message = refusal(&host, &node, Job::shell("true").config(&config)).await;
    assert!(!message.contains("secret-project"), "{message}");
    // The control: where everybody may look, the path is told.
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let message = refusal(&host, &node, Job::shell("true").config(&config)).await;
    assert!(message.contains("/srv/secret-project"), "{message}");
}

/// Whoever can enter the agent's directory puts a link beside `local`, before the first start of the task.
#[tokio::test]
async fn no_link_beside_local_has_the_driver_list_a_closed_directory() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let directory = tempfile::tempdir_in("/root").unwrap();
    std::fs::write(directory.path().join("secret-project"), "").unwrap();
    let prepared = node.prepare(&Job::shell("exit 1"));
    let link = prepared.alloc_dir().join("web/alloc");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    std::fs::write(prepared.alloc_dir().join("web/plain"), "").unwrap();
    let task = node.begin(prepared).await.unwrap();
    // Instead it tells of what lies beside the link.
    let event = events.until(&task, "in the task directory is not visible").await;
    assert!(!event.message.contains("secret-project") && event.message.contains("plain"), "{event:?}");
    node.destroy(&task, true).await.unwrap();
}

/// As root, the driver copies credentials and mounts what a job binds. In `/alloc` a neighbour chooses what is at a path.
#[tokio::test]
async fn no_neighbours_file_is_read_as_a_credential_or_bound_from_a_closed_directory() {
    let host = host!();
    let node = Node::start(&host).await;
    // Of a task of another user in the group: what only this user may read.
    let victim = Job::shell(
        "umask 077; cd /alloc/data && mkdir priv priv/inner && echo SECRET | tee token priv/inner/f && ln -s priv/inner way \
         && chmod 755 priv/inner && chmod 644 priv/inner/f",
    );
    let victim = victim.user("nobody");
    let id = victim.request.alloc_id.clone();
    let task = node.run(victim).await;
    assert_eq!(node.wait(&task).await, Exit::status(0));
    let job = |script: &str, config: &str| {
        Job::shell(script).config(config).with(|request| {
            request.alloc_id.clone_from(&id);
            "second".clone_into(&mut request.task);
        })
    };
    for path in ["alloc/data/token", "/alloc/data/token", "alloc/data/priv/inner/f"] {
        let config = format!("credential {{\n name = \"x\"\n path = \"{path}\"\n}}");
        let message = node.try_run(job("true", &config)).await.map(drop).expect_err(path).message;
        assert!(message.contains("`secrets/`"), "{path}: {message}");
    }
    for path in ["alloc/data/priv/inner", "/alloc/data/way", "alloc/data/priv/none"] {
        let config = format!("files {{ bind_read_only_paths = [\"{path}:/mine\"] }}");
        let message = node.try_run(job("true", &config)).await.map(drop).expect_err(path).message;
        assert!(message.contains("has closed a directory"), "{path}: {message}");
    }
    // The control: with an open way it is bound.
    let closed = task.alloc_dir().join("alloc/data/priv");
    std::fs::set_permissions(closed, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = "files { bind_read_only_paths = [\"/alloc/data/way:/mine\"] }";
    assert_eq!(node.output_of(job("cat /mine/f", config)).await, "SECRET\n");
    node.destroy(&task, true).await.unwrap();
}

/// A user of the node who can enter the agent's directory moves a private file of somebody else's into `local`, which Nomad
/// makes for everybody, before the first start of the task.
#[tokio::test]
async fn no_private_file_that_was_moved_into_local_is_read_for_the_task() {
    let host = host!();
    let node = Node::start(&host).await;
    let secret = "#!/bin/sh\necho SECRET\n";
    let begin = async |job: Job, mode: u32| {
        let prepared = node.prepare(&job);
        let path = prepared.alloc_dir().join("web/local/x");
        std::fs::write(&path, secret).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        node.begin(prepared).await
    };
    let config = "credential {\n name = \"x\"\n path = \"local/x\"\n}";
    let reads = || Job::shell("cat $CREDENTIALS_DIRECTORY/x").config(config);
    for private in [reads(), Job::command("local/x")] {
        let message = begin(private, 0o600).await.map(drop).expect_err("private").message;
        assert!(!message.contains("SECRET"), "{message}");
    }
    // The control: what everybody may read.
    for (job, output) in [(reads(), secret), (Job::command("local/x"), "SECRET\n")] {
        let task = begin(job, 0o644).await.unwrap();
        assert_eq!(node.finish(task).await, (Exit::status(0), output.to_owned(), String::new()));
    }
}

/// A path with a `-` before it may be missing. systemd would look it up again later, and by then it may exist.
#[tokio::test]
async fn a_path_that_is_not_there_yet_is_not_bound_when_it_comes() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"/srv\"]").await;
    // No process has this PID yet, and systemd creates a process with one of the next PIDs for the task.
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
    // The control: a missing path that the operator allows is skipped, and the others are there.
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
    fn new() -> Self {
        let id = nomad_local::task_request::new_alloc_id().replace('-', "");
        let (path, unit) = (format!("/mnt/{id}"), format!("/run/systemd/system/mnt-{id}.mount"));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(&unit, format!("[Mount]\nWhat=tmpfs\nWhere={path}\nType=tmpfs\n")).unwrap();
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
    let unmounted = Unmounted::new();
    let path = unmounted.0.display();
    for work_dir in [format!("{path}"), format!("{path}/deeper/down")] {
        let message =
            refusal(&host, &node, Job::shell("pwd").config(&format!("work_dir = \"{work_dir}\""))).await;
        assert!(message.contains("`work_dir`") && message.contains("not mounted"), "{message}");
        assert!(!unmounted.is_mounted(), "{work_dir} was mounted");
    }
    // Longer than the name of any unit.
    let long = format!("work_dir = \"/data/{}\"", "x".repeat(250));
    let message = refusal(&host, &node, Job::shell("pwd").config(&long)).await;
    assert!(message.contains("`work_dir`") && !message.contains("DBus"), "{message}");
    // The control: systemd mounts the file system for a process that uses the path.
    let unit = format!("work-{}", nomad_local::task_request::new_alloc_id());
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

/// Parts of the operating system are links: a path mounted at one place may lie inside another mount.
#[tokio::test]
async fn no_mount_lies_in_another_by_a_link_of_the_hosts() {
    let host = host!();
    let node = Node::start(&host).await;
    let bait = std::path::Path::new("/etc/nologin-of-an-attack");
    let links = ["/bin", "/sbin", "/lib"].map(std::path::Path::new);
    let merged = links.iter().any(|path| std::fs::symlink_metadata(path).unwrap().is_symlink());
    assert!(merged, "without a link there is nothing to attack");
    let leave = Job::shell(&format!("mkdir /alloc/data/d && ln -s {} /alloc/data/d/nologin", bait.display()));
    let alloc_id = leave.request.alloc_id.clone();
    let left = node.run(leave).await;
    assert_eq!(node.wait(&left).await, Exit::status(0));
    node.destroy(&left, true).await.unwrap();
    for binds in [
        "\"alloc/data/d:/usr/sbin\", \"f:/sbin/nologin\"",
        "\"f:/sbin/nologin\", \"alloc/data/d:/usr/sbin\"",
        "\"alloc/data/d:/sbin\", \"f:/usr/sbin/nologin\"",
        "\"f:/etc/mtab\"",
        "\"alloc/data/d:/dev/fd\"",
    ] {
        let job = Job::command("/usr/bin/true")
            .file("f", b"")
            .config(&format!("files {{ bind_paths = [{binds}] }}"));
        let job = job.with(|request| {
            request.alloc_id.clone_from(&alloc_id);
            "second".clone_into(&mut request.task);
        });
        let message = refusal(&host, &node, job).await;
        assert!(!bait.exists(), "made on the host by {binds}");
        assert!(message.contains("`files.bind_paths`"), "{binds}: {message}");
    }
}

#[tokio::test]
async fn no_job_has_systemd_mount_thousands_of_paths() {
    let host = host!();
    let node = Node::start(&host).await;
    let binds =
        |count: usize| (0..count).map(|number| format!("\"f:/d/{number}\"")).collect::<Vec<_>>().join(", ");
    for count in [129, 20_000] {
        let began = std::time::Instant::now();
        let config = format!("files {{ bind_paths = [{}] }}", binds(count));
        let message = refusal(&host, &node, Job::shell("true").file("f", b"").config(&config)).await;
        assert!(message.contains("the limit is 128") && began.elapsed() < tests::SOON, "{message}");
    }
    let config = format!("files {{ bind_paths = [{}] }}", binds(100));
    // A start that is disturbed by a reload of systemd reports this twice.
    let output = node.output_of(Job::shell("ls /d | wc -l").file("f", b"").config(&config)).await;
    assert!(output.ends_with("100\n"), "{output}");
}

/// An overlay contains the files under a mount of the host, and not the mount.
#[tokio::test]
async fn no_mount_point_uncovers_what_the_host_has_covered() {
    let host = host!();
    let node =
        Node::configured(&host, "host_paths = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/srv\"]").await;
    let directory = tempfile::Builder::new().prefix("covered-").tempdir_in("/srv").unwrap();
    let path = directory.path().to_str().unwrap();
    std::fs::write(directory.path().join("under"), super::SECRET).unwrap();
    host.run("mount", &["-t", "tmpfs", "none", path]);
    let config = "files { bind_paths = [\"f:/srv/new-of-an-attack\"] }";
    let job = Job::shell(&format!("cat {path}/under")).file("f", b"").config(config);
    let started = node.try_run(job).await;
    host.run("umount", &[path]);
    assert!(started.unwrap_err().message.contains("is mounted in it"));
}

/// A directory that others can write to contains a link by the time that systemd looks it up.
#[tokio::test]
async fn no_mount_point_lies_where_other_users_can_put_a_link() {
    let host = host!();
    let node =
        Node::configured(&host, "host_paths = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/srv\"]").await;
    let directory = tempfile::Builder::new().prefix("shared-").tempdir_in("/srv").unwrap();
    let target = directory.path().join("d/f");
    std::fs::create_dir(directory.path().join("d")).unwrap();
    std::fs::write(&target, "").unwrap();
    let config = format!("files {{ bind_paths = [\"f:{}\"] }}", target.display());
    let job = || Job::shell(&format!("cat {}", target.display())).file("f", b"mine\n").config(&config);
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(directory.path(), mode(0o777)).unwrap();
    let message = refusal(&host, &node, job()).await;
    assert!(message.contains("other users can change"), "{message}");
    // The control.
    std::fs::set_permissions(directory.path(), mode(0o755)).unwrap();
    assert_eq!(node.output_of(job()).await, "mine\n");
}

/// A mount below a home directory does not reveal another home directory that the operator exposes and the preset
/// hides.
#[tokio::test]
async fn no_mount_uncovers_the_homes_of_the_host() {
    let host = host!();
    let host_paths = "host_paths = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/home\"]";
    let node = Node::configured(&host, host_paths).await;
    let home = tempfile::Builder::new().prefix("user-").tempdir_in("/home").unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(home.path().join("secret"), super::SECRET).unwrap();
    let script = format!("cat {}/secret", home.path().display());
    for config in ["", "files { bind_paths = [\"f:/home/f\"] }"] {
        if let Ok(task) = node.try_run(Job::shell(&script).file("f", b"").config(config)).await {
            let (_, output, errors) = node.finish(task).await;
            assert!(!output.contains("secret") && errors.contains("cat"), "{config}: {output}{errors}");
        }
    }
}

/// A static program of glibc loads modules for names all the same: as nsswitch.conf says, from a path of the job's. Their
/// code would be the main process of the unit, from which systemd takes messages.
#[tokio::test]
async fn no_job_has_code_of_its_own_loaded_by_the_runner_of_a_guest() {
    let host = host!();
    let node = Node::start(&host).await;
    let Some(guest) = built_guest("command_p2") else { return };
    let job = Job::artifact("command.wasm", &std::fs::read(guest).unwrap())
        .args(&["lookup", "localhost"])
        .env("LD_LIBRARY_PATH", "/local")
        .file("nss.conf", b"hosts: evil files dns\n")
        .config(
            "wasm {\n name_lookup = true\n}\nfiles {\n bind_read_only_paths = [\"/local/nss.conf:/etc/nsswitch.conf\"]\n}",
        );
    let prepared = node.prepare(&job);
    let alloc_dir = PathBuf::from(&prepared.config.alloc_dir);
    // Nobody writes to this pipe: whoever opens it as a module waits for ever.
    let module = alloc_dir.join("web/local/libnss_evil.so.2");
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644));
    rustix::fs::mknodat(rustix::fs::CWD, &module, fifo, mode, 0).unwrap();
    let task = node.begin(prepared).await.unwrap();
    let ended = tokio::time::timeout(SOON, node.finish(task)).await;
    let (exit, output, errors) = ended.expect("the runner opens the module");
    assert_eq!(exit, Exit::status(0), "{errors}");
    assert!(output.contains("127.0.0.1"), "{output}");
}
