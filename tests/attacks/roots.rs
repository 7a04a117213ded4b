//! Roots and mount points that could lead systemd, which sets a task up as root, to other files.

use std::os::unix::fs::{PermissionsExt, symlink};

use tests::{Job, Node, program};

use super::refusal;

/// A user namespace, which systemd sets up by writing to files below `/proc` in the view of the task.
const NAMESPACE: &str = "sandbox {\n preset = \"off\"\n private_users = \"yes\"\n}";
const VICTIM: &str = "a file of root's\n";

#[tokio::test]
async fn systemd_writes_to_no_file_to_which_a_link_below_proc_leads() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"/srv\"]").await;
    let shared = tempfile::Builder::new().prefix("shared-").tempdir_in("/srv").unwrap();
    std::fs::set_permissions(shared.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let victim = shared.path().join("victim");
    std::fs::write(&victim, VICTIM).unwrap();
    let links = shared.path().join("links");
    std::fs::create_dir(&links).unwrap();
    for name in ["uid_map", "gid_map", "setgroups"] {
        symlink(&victim, links.join(name)).unwrap();
    }
    let path = shared.path().display();
    for (option, target) in [
        ("bind_paths", "/proc/self"),
        ("bind_read_only_paths", "/proc/self"),
        ("bind_paths", "/proc/thread-self"),
        ("bind_paths", "/proc/1"),
        ("bind_paths", "/proc"),
    ] {
        let files = format!("files {{\n {option} = [\"{path}\", \"{path}/links:{target}\"]\n}}");
        let message =
            refusal(&host, &node, Job::shell("true").config(&format!("{NAMESPACE}\n{files}"))).await;
        assert!(message.contains(target), "{target}: {message}");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), VICTIM, "by {option} at {target}");
    }
    for target in ["/proc/self", "/proc"] {
        let files = format!("files {{\n temporary_file_system = [\"{target}\"]\n}}");
        refusal(&host, &node, Job::shell("true").config(&format!("{NAMESPACE}\n{files}"))).await;
    }
}

/// The text of a path is compared, so no link of the root may be part of the path.
#[tokio::test]
async fn nothing_is_mounted_behind_a_link_of_a_root_of_the_tasks_own() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"/\"]").await;
    // On every Debian the path leads to /run, where the init of the task is mounted.
    assert!(std::fs::symlink_metadata("/var/run").unwrap().is_symlink());
    for target in ["/var/run/.wasm/shim", "/var/run/x"] {
        for option in ["bind_paths", "bind_read_only_paths"] {
            let config = format!("files {{\n root_directory = \"/\"\n {option} = [\"local/x:{target}\"]\n}}");
            let job = Job::shell("true").file("x", b"#!/bin/sh\n").config(&config);
            let message = refusal(&host, &node, job).await;
            assert!(message.contains("leads over a link"), "{target}: {message}");
        }
    }
    // The control: without a link on the path it is mounted.
    let config = "files {\n root_directory = \"/\"\n bind_paths = [\"local/x:/srv\"]\n}";
    let job = Job::shell("ls /srv; mkdir -p /local/x").config(config);
    let prepared = node.prepare(&job);
    let source = prepared.alloc_dir().join(&prepared.config.name).join("local/x");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("it"), "").unwrap();
    let task = node.begin(prepared).await.unwrap();
    assert_eq!(node.finish(task).await.1, "it\n");
}

/// Between the check and the mount, somebody else could put a link there.
#[tokio::test]
async fn nothing_is_mounted_in_a_directory_of_a_root_that_others_can_change() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"/\"]").await;
    let shared = tempfile::Builder::new().prefix("shared-").tempdir_in("/srv").unwrap();
    std::fs::create_dir(shared.path().join("there")).unwrap();
    std::fs::set_permissions(shared.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let path = shared.path().display();
    for target in [format!("{path}/there"), format!("{path}/there/x"), format!("{path}/new")] {
        for point in [
            format!("bind_paths = [\"local/x:{target}\"]"),
            format!("temporary_file_system = [\"{target}\"]"),
        ] {
            let config = format!("files {{\n root_directory = \"/\"\n {point}\n}}");
            let job = Job::shell("true").file("x", b"").config(&config);
            let message = refusal(&host, &node, job).await;
            assert!(message.contains("where others than root could put one"), "{target}: {message}");
        }
    }
}

/// The files of an extension are mounted over files that were checked.
#[tokio::test]
async fn nothing_is_mounted_where_an_extension_can_bring_links() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"/\"]").await;
    for target in ["/usr/link/.wasm/shim", "/opt/link/self", "/etc/link/x", "/usr/local/data"] {
        let files = format!(
            "root_directory = \"/\"\n extension_directories = [\"/srv\"]\n bind_paths = [\"local/x:{target}\"]"
        );
        let job = Job::shell("true").file("x", b"").config(&format!("files {{\n {files}\n}}"));
        let message = refusal(&host, &node, job).await;
        assert!(message.contains("xtension"), "{target}: {message}");
    }
}

/// Where tasks see the host's file system, an extension would hide the programs of the driver.
#[tokio::test]
async fn an_extension_replaces_no_program_of_the_driver() {
    let host = host!();
    let options =
        "fs_isolation = \"none\"\nallow_host_paths = [\"/srv\"]\nstate_dir = \"/opt/nomad-driver-systemd\"";
    let node = Node::configured(&host, options).await;
    for extension in ["extension_directories = [\"local/x\"]", "extension_directories = [\"/srv\"]"] {
        let job = Job::shell("true").config(&format!("files {{\n {extension}\n}}"));
        let prepared = node.prepare(&job);
        std::fs::create_dir(prepared.alloc_dir().join(&prepared.config.name).join("local/x")).unwrap();
        let refusal = node.begin(prepared).await.unwrap_err();
        let message = &refusal.message;
        assert!(
            message.contains("over which") || message.contains("needs systemd"),
            "{extension}: {message}"
        );
    }
}

/// A link in an image leads to a path where a task creates links.
#[tokio::test]
async fn nothing_is_closed_behind_a_link_that_the_job_brings() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"local\", \"/srv\"]").await;
    for path in ["/l", "/l/q/x", "/usr/share"] {
        let config =
            format!("files {{\n root_image = \"local/root.img\"\n read_only_paths = [\"{path}\"]\n}}");
        let job = Job::shell("true").file("root.img", b"").config(&config);
        let message = refusal(&host, &node, job).await;
        assert!(message.contains("of which the job brings a part"), "{path}: {message}");
    }
}

/// The content that a job brings can contain links that are unknown until systemd follows them.
#[tokio::test]
async fn there_is_no_user_namespace_in_a_root_that_the_job_brings() {
    let host = host!();
    let node = Node::configured(&host, "allow_host_paths = [\"local\", \"/srv\"]").await;
    for root in [
        "root_directory = \"local/root\"",
        "root_image = \"local/root.img\"",
        "root_image = \"/srv/root.img\"",
        "extension_directories = [\"local/root\"]",
        "extension_images = [\"local/root.img\"]",
        "mount_images = [\"local/root.img:/data\"]",
    ] {
        let job =
            Job::shell("true").file("root.img", b"").config(&format!("{NAMESPACE}\nfiles {{\n {root}\n}}"));
        let prepared = node.prepare(&job);
        let local = prepared.alloc_dir().join(&prepared.config.name).join("local");
        std::fs::create_dir_all(local.join("root/usr")).unwrap();
        let refusal = node.begin(prepared).await.unwrap_err();
        assert!(refusal.message.contains("has a user namespace"), "{root}: {refusal}");
    }
}

/// A task of the group that holds its directory open could exchange it for a link while systemd creates a mount point
/// in it, as root: the file would be created where the link leads. This worked, also in a root that Nomad had unpacked
/// as root.
#[tokio::test]
async fn a_directory_of_the_task_is_not_its_root_whatever_the_operator_allows() {
    let host = host!();
    for allowed in ["[]", "[\"/srv\"]", "[\"local\", \"/\"]"] {
        let node = Node::configured(&host, &format!("allow_host_paths = {allowed}")).await;
        for root in ["local/root", "root", "/local/root", "/alloc/data", "ALLOC/web/local/root"] {
            let job = Job::shell("true");
            let root = root.replace("ALLOC", &node.prepare(&job).alloc_dir().display().to_string());
            let prepared = node.prepare(&job.config(&format!("files {{\n root_directory = \"{root}\"\n}}")));
            let local = prepared.alloc_dir().join(&prepared.config.name).join("local");
            for directory in ["run", "srv", "usr"] {
                std::fs::create_dir_all(local.join("root").join(directory)).unwrap();
            }
            let refusal = node.begin(prepared).await.unwrap_err();
            assert!(refusal.message.contains("cannot be its root"), "{allowed} {root}: {refusal}");
        }
    }
}

/// Where tasks see the host's file system, the programs of the driver are at their own paths.
#[tokio::test]
async fn nothing_is_mounted_over_what_runs_a_task_in_the_view_of_the_host() {
    let host = host!();
    let state = "/srv/state-of-the-driver";
    let options = format!("fs_isolation = \"none\"\nstate_dir = \"{state}\"");
    let node = Node::configured(&host, &options).await;
    let shim = program("wasm-shim");
    let above = shim.parent().unwrap();
    for target in [shim.as_path(), above, state.as_ref(), "/run/nomad-driver-systemd/env".as_ref()] {
        for option in ["bind_paths", "bind_read_only_paths"] {
            let config = format!("files {{\n {option} = [\"local/x:{}\"]\n}}", target.display());
            let job = Job::shell("true").file("x", b"#!/bin/sh\n").config(&config);
            let message = refusal(&host, &node, job).await;
            assert!(message.contains("mount it elsewhere") || message.contains("is not there"), "{message}");
        }
    }
    let config = format!("files {{\n bind_paths = [\"local/x:{}\"]\n}}", shim.display());
    let job = Job::shell("true").file("x", b"#!/bin/sh\n").config(&config);
    let message = refusal(&host, &node, job).await;
    assert!(
        message.contains("is systemd's and the driver's") || message.contains("which is systemd's"),
        "{message}"
    );
}
