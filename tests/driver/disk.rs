//! Disks that are full or read-only.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tests::{Exit, Host, Job, Need, Node, exiting_guest};

use super::cache::entries;

/// A small disk of its own for the driver's files.
struct Disk<'a> {
    host: &'a Host,
    path: String,
}

impl<'a> Disk<'a> {
    fn at(host: &'a Host, path: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        host.run("mount", &["-t", "tmpfs", "-o", "size=256k,nr_inodes=32,mode=755", "none", path]);
        Self { host, path: path.to_owned() }
    }

    /// Fills the disk: there is no room for a byte, and for no further file.
    fn fill(&self) -> Vec<PathBuf> {
        let paths = (0..).map(|number| Path::new(&self.path).join(format!("filler-{number}")));
        let mut filled = Vec::new();
        for path in paths {
            let Ok(mut file) = fs::File::create(&path) else { break };
            while file.write_all(&[1; 4096]).is_ok() {}
            filled.push(path);
        }
        filled
    }

    fn remount(&self, how: &str) {
        self.host.run("mount", &["-o", &format!("remount,{how}"), &self.path]);
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["--lazy", &self.path]).status();
    }
}

#[tokio::test]
async fn a_cache_that_is_full_or_read_only_is_an_error_that_says_what_to_do_and_leaves_nothing() {
    let host = host!();
    let directory = tempfile::tempdir_in("/var/lib").unwrap();
    let disk = Disk::at(&host, directory.path().to_str().unwrap());
    let mut node = Node::configured(&host, &format!("state_dir = {:?}", disk.path)).await;
    let pid = node.plugin().pid();
    let refused = async |why: &str| {
        let refusal = node.try_run(Job::artifact("exit.wasm", &exiting_guest(2))).await.unwrap_err();
        assert!(refusal.message.contains(&disk.path), "{refusal}");
        assert!(refusal.message.contains("`state_dir`") && refusal.message.contains(why), "{refusal}");
        assert!(refusal.recoverable, "it may be mended: {refusal}");
        assert_eq!(entries(Path::new(&disk.path)), Vec::<PathBuf>::new());
        assert_eq!(host.units(&format!("nomad-wasm-compile-{pid}")), Vec::<String>::new());
    };
    let filler = disk.fill();
    refused("No space left on device").await;
    disk.remount("ro");
    refused("Read-only file system").await;
    disk.remount("rw");
    for path in &filler {
        fs::remove_file(path).unwrap();
    }
    let task = node.run(Job::artifact("exit.wasm", &exiting_guest(2))).await;
    assert_eq!(node.finish(task).await.0, Exit::status(2));
}

/// The environment of a task is written there for systemd, which removes no file of ours.
#[tokio::test]
async fn a_task_starts_as_soon_as_run_has_room_again() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let disk = Disk::at(&host, "/run/nomad-driver-systemd/env");
    let node = Node::start(&host).await;
    // At its first start the driver removes what it does not know.
    assert_eq!(node.output_of(Job::shell("echo hello")).await, "hello\n");
    let filler = disk.fill();
    let refusal = node.try_run(Job::shell("true")).await.unwrap_err();
    assert!(refusal.message.contains(&disk.path) && refusal.message.contains("No space left"), "{refusal}");
    assert!(refusal.recoverable, "it may be mended: {refusal}");
    let files = || fs::read_dir(&disk.path).unwrap().count();
    assert_eq!(files(), filler.len());
    for path in &filler {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(node.output_of(Job::shell("echo hello")).await, "hello\n");
    assert_eq!(files(), 0);
}
