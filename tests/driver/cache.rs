//! The node's cache of compiled WebAssembly: compiled once, never run unless it is ours and intact, and never too
//! large.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use proto::driver::TaskState;
use tests::{Exit, Job, Node, SOON, eventually, exiting_guest};

use crate::guest;

/// All files below a directory.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

/// All files of a cache except the lease file, which stays.
pub(crate) fn entries(state_dir: &Path) -> Vec<PathBuf> {
    let mut entries = files_in(&state_dir.join("wasm"));
    entries.retain(|path| !path.ends_with("leases"));
    entries
}

/// How many compilations the plugin has started.
pub(crate) fn compilations(node: &Node) -> usize {
    node.records().iter().filter(|record| record.message == "compiling WebAssembly").count()
}

/// Runs a guest to its end.
pub(crate) async fn exit_of(node: &Node, guest: &[u8]) -> Exit {
    let task = node.run(Job::artifact("guest.wasm", guest)).await;
    node.finish(task).await.0
}

#[tokio::test]
async fn one_module_is_compiled_once_however_many_tasks_want_it() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let start = || node.run(Job::artifact("exit.wasm", &exiting_guest(9)));
    let tasks = join_all((0..8).map(|_| start())).await;
    for task in &tasks {
        assert_eq!(node.wait(task).await, Exit::status(9));
    }
    assert_eq!(compilations(&node), 1);
    let entries = entries(&node.state_dir());
    assert_eq!(entries.len(), 1, "one file, and none left from the compilation: {entries:?}");
    assert_eq!(entries[0].extension().unwrap(), "cwasm");
    node.restart().await;
    assert_eq!(exit_of(&node, &exiting_guest(9)).await, Exit::status(9));
    assert_eq!(compilations(&node), 0, "the next driver has it, too");
}

#[tokio::test]
async fn compiled_code_cannot_be_written_by_a_task_nor_seen_by_a_native_one() {
    let host = host!();
    let node = Node::start(&host).await;
    exit_of(&node, &exiting_guest(0)).await;
    let cache = node.state_dir().join("wasm").display().to_string();
    let modes = host.run("find", &[&cache, "-perm", "/022"]);
    assert_eq!(modes, "", "nothing in the cache may be written by others");
    let output = node.output_of(Job::shell("find / -name '*.cwasm' -size +0 2>/dev/null; echo done")).await;
    assert_eq!(output, "done\n");
}

/// Changes an entry; the cache also contains an entry of other content.
type Spoil = fn(&Path, &Path);

#[tokio::test]
async fn code_that_is_damaged_or_not_ours_is_made_anew_and_never_run() {
    let host = host!();
    let mut node = Node::start(&host).await;
    let (guest, other) = (exiting_guest(3), exiting_guest(4));
    assert_eq!(exit_of(&node, &guest).await, Exit::status(3));
    let entry = entries(&node.state_dir()).remove(0);
    assert_eq!(exit_of(&node, &other).await, Exit::status(4));
    let foreign = entries(&node.state_dir()).into_iter().find(|path| *path != entry).unwrap();

    let damage = |entry: &Path, _: &Path| {
        let mut bytes = fs::read(entry).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(entry, bytes).unwrap();
    };
    let truncate = |entry: &Path, _: &Path| {
        let bytes = fs::read(entry).unwrap();
        fs::write(entry, &bytes[..bytes.len() / 2]).unwrap();
    };
    // Each of the last three would end with 4 if it were run.
    let copy = |entry: &Path, foreign: &Path| {
        fs::copy(foreign, entry).unwrap();
    };
    let rename = |entry: &Path, foreign: &Path| {
        let new = entry.with_extension("new");
        fs::copy(foreign, &new).unwrap();
        fs::rename(new, entry).unwrap();
    };
    let link = |entry: &Path, foreign: &Path| {
        fs::remove_file(entry).unwrap();
        symlink(foreign, entry).unwrap();
    };
    let spoils: [(&str, Spoil); 5] =
        [("damage", damage), ("truncate", truncate), ("copy", copy), ("rename", rename), ("link", link)];
    for (what, spoil) in spoils {
        for is_another_life in [false, true] {
            if is_another_life {
                node.restart().await;
            }
            let before = compilations(&node);
            spoil(&entry, &foreign);
            assert_eq!(exit_of(&node, &guest).await, Exit::status(3), "{what}");
            assert_eq!(compilations(&node), before + 1, "{what} is noticed");
            let warned = node.records().iter().any(|record| record.message.contains("failed verification"));
            assert!(warned, "{what} is told to the operator");
        }
    }
    assert_eq!(exit_of(&node, &other).await, Exit::status(4));
    assert_eq!(entries(&node.state_dir()).len(), 2);
}

#[tokio::test]
async fn what_was_not_used_for_the_longest_time_goes_and_a_task_that_runs_it_does_not_notice() {
    let host = host!();
    let node = Node::start(&host).await;
    exit_of(&node, &exiting_guest(5)).await;
    let size = fs::metadata(&entries(&node.state_dir())[0]).unwrap().len();

    let node = Node::configured(&host, &format!("wasm_cache_size = \"{}\"", size * 3 / 2)).await;
    let spinning = node.run(Job::artifact("spin.wasm", &guest("spin.wat"))).await;
    let older = entries(&node.state_dir());
    assert_eq!(exit_of(&node, &exiting_guest(5)).await, Exit::status(5));
    let newer = entries(&node.state_dir());
    assert!(older.len() == 1 && newer.len() == 1 && older != newer, "{older:?} {newer:?}");
    assert_eq!(exit_of(&node, &exiting_guest(5)).await, Exit::status(5));
    assert_eq!(compilations(&node), 2, "what was kept is not made again");

    assert_eq!(node.state(&spinning).await, TaskState::Running);
    let again = node.run(Job::artifact("spin.wasm", &guest("spin.wat"))).await;
    assert_eq!(compilations(&node), 3);
    for task in [spinning, again] {
        node.stop(&task, "SIGTERM", SOON).await.unwrap();
        assert_eq!(node.wait(&task).await.code, 143);
    }
}

#[tokio::test]
async fn without_room_for_it_code_is_kept_no_longer_than_a_task_needs_it_to_start() {
    let host = host!();
    for isolation in ["image", "none"] {
        let options = format!("wasm_cache_size = \"0\"\nfs_isolation = \"{isolation}\"");
        let node = Node::configured(&host, &options).await;
        let tasks = join_all((0..4).map(|_| node.run(Job::artifact("exit.wasm", &exiting_guest(6))))).await;
        for task in &tasks {
            assert_eq!(node.wait(task).await, Exit::status(6), "{isolation}");
        }
        eventually("the cache is empty", async || (files_in(&node.state_dir()).len() == 1).then_some(()))
            .await;
        assert_eq!(exit_of(&node, &exiting_guest(6)).await, Exit::status(6));
    }
}

#[tokio::test]
async fn what_others_may_write_to_is_no_cache() {
    let host = host!();
    let node = Node::start(&host).await;
    let cache = node.state_dir().join("wasm");
    fs::create_dir_all(&cache).unwrap();
    host.run("chmod", &["777", cache.to_str().unwrap()]);
    let refusal = node.try_run(Job::artifact("exit.wasm", &exiting_guest(2))).await.unwrap_err();
    assert!(refusal.message.contains("others than its owner may write to it"), "{refusal}");
    assert!(refusal.message.contains("make it so"), "{refusal}");
}
