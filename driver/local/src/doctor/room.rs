//! The directories that the driver and the agent write to: have they room, and are programs of allocations executed?

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};

use super::agent::Agent;
use super::finding::Finding;

/// Less room than this is as good as none, in bytes: a compiled guest takes a few MiB.
const LEAST_BYTES: u64 = 16 << 20;
/// Fewer free inodes than this are as good as none.
const LEAST_FILES: u64 = 256;

/// Checks the directories of the agent's and the plugin's configuration.
pub(super) fn findings(agent: &Agent) -> Vec<Finding> {
    let mut directories = vec![
        (
            "state_dir",
            state_dir(agent),
            "WebAssembly tasks that are not compiled yet do not start.",
            "Remove what fills the file system, or name another directory as `state_dir`.",
        ),
        (
            "/run",
            Some("/run".into()),
            "systemd cannot write units, so no task starts.",
            "Remove what fills it: `du -xs /run/*` shows what takes the room.",
        ),
    ];
    if let Some(data_dir) = &agent.data_dir {
        let means = "The agent cannot make the directories of allocations, so no task starts.";
        directories.push(("data_dir", Some(data_dir.clone()), means, "Remove what fills the file system."));
    }
    let rooms = directories.into_iter().filter_map(|(option, directory, means, mend)| {
        let directory = directory?;
        // The cache is in `wasm` of the state directory.
        let cache = Some(directory.join("wasm")).filter(|_| option == "state_dir");
        if let Some(other) = no_directory(&directory).or_else(|| no_directory(&cache?)) {
            let found = format!("{} is not a directory, or a link to nothing", other.display());
            return Some(Finding::failed(option, found, means, format!("rm {}", other.display())));
        }
        Some(room(option, &directory, &of_nearest(&directory)?, means, mend))
    });
    rooms.chain(agent.data_dir.as_deref().and_then(executes)).collect()
}

/// The driver's state directory, or `None` if it cannot be known here.
fn state_dir(agent: &Agent) -> Option<PathBuf> {
    let below = |home: PathBuf| home.join(".local/state/nomad-driver-systemd");
    match (agent.option("state_dir"), agent.option("manager")) {
        (Some(directory), _) => Some(directory.into()),
        (None, Some("user")) => std::env::home_dir().map(below),
        (None, _) => Some("/var/lib/nomad-driver-systemd".into()),
    }
}

/// The path, if there is something else than a directory.
fn no_directory(path: &Path) -> Option<PathBuf> {
    (path.symlink_metadata().is_ok() && !path.is_dir()).then(|| path.to_owned())
}

/// The file system of the directory, or of the one that the directory will be made in.
fn of_nearest(directory: &Path) -> Option<StatVfs> {
    directory.ancestors().find_map(|part| statvfs(part).ok())
}

fn room(option: &'static str, directory: &Path, mount: &StatVfs, means: &str, mend: &str) -> Finding {
    let free = mount.f_bavail.saturating_mul(mount.f_frsize);
    let directory = directory.display();
    // A file system of the kernel, such as /proc.
    if mount.f_blocks == 0 {
        return Finding::ignored(option, format!("{directory} is on a file system that counts no room"));
    }
    // Some file systems count no inodes.
    if mount.f_files > 0 && mount.f_favail < LEAST_FILES {
        return Finding::failed(
            option,
            format!("{directory} has {} free inodes", mount.f_favail),
            means,
            mend,
        );
    }
    let shown = format!("{directory} has {} MiB of room", free >> 20);
    if free < LEAST_BYTES { Finding::failed(option, shown, means, mend) } else { Finding::ok(option, shown) }
}

/// Are programs in the allocations executed?
fn executes(data_dir: &Path) -> Option<Finding> {
    let mount = of_nearest(&data_dir.join("alloc"))?;
    mount.f_flag.contains(StatVfsMountFlags::NOEXEC).then(|| {
        Finding::warning(
            "data_dir",
            format!("{} is on a file system that is mounted noexec", data_dir.join("alloc").display()),
            "Programs that a job brings along (`artifact`, `template`) do not start; WebAssembly and programs of the node do.",
            "Mount the file system without noexec, or set `alloc_dir` of the agent's `client` block to a directory elsewhere.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    #[test]
    fn a_full_file_system_is_told_by_its_bytes_and_by_its_inodes() {
        let mut mount = statvfs("/").unwrap();
        (mount.f_frsize, mount.f_bavail, mount.f_files, mount.f_favail) = (4096, 1 << 20, 1 << 20, 1 << 10);
        let verdict = |mount: &StatVfs| room("state_dir", Path::new("/x"), mount, "m", "m");
        assert_eq!(verdict(&mount).status, Status::Ok);
        mount.f_favail = 7;
        assert_eq!(verdict(&mount).found, "/x has 7 free inodes");
        mount.f_files = 0;
        assert_eq!(verdict(&mount).status, Status::Ok);
        mount.f_bavail = 256;
        assert_eq!(
            (verdict(&mount).status, verdict(&mount).found.as_str()),
            (Status::Failed, "/x has 1 MiB of room")
        );
    }

    #[test]
    fn what_is_no_directory_is_told_and_what_is_not_there_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink("/no-such/place", path("link")).unwrap();
        let told = ["file", "link", "none", "."].map(|name| no_directory(&path(name)).is_some());
        assert_eq!(told, [true, true, false, false]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_judged_by_the_one_it_will_be_made_in() {
        assert!(of_nearest(Path::new("/no-such/directory/at/all")).is_some());
    }
}
