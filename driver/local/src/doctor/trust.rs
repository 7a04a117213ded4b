//! Which processes and files are believed. A root that runs `doctor` or `warm` executes programs that the agent's
//! configuration names, and every user and every task can start a process that looks like an agent.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::process::{getegid, geteuid};

/// The slice of tasks, whose processes are no agent.
const TASKS: &str = "nomad_tasks";
/// Others may write.
const OTHERS: u32 = 0o002;
/// The group may write.
const GROUP: u32 = 0o020;
/// Only the owner of an entry may exchange it.
const STICKY: u32 = 0o1000;
/// The attribute with an access control list.
const LIST: &str = "system.posix_acl_access";
/// Set-user-ID and set-group-ID: whoever starts the program chooses its arguments.
const SET_ID: u32 = 0o6000;

/// Why a process that is called `nomad agent` is not believed; `process` is its directory in `/proc`.
pub(super) fn doubt_about_process(process: &Path) -> Option<String> {
    let us = geteuid().as_raw();
    let uids = uids(process);
    let is_ours = |uid: &u32| *uid == us || *uid == 0;
    if uids.len() != 4 || !uids.iter().all(is_ours) || uids.windows(2).any(|two| two[0] != two[1]) {
        return Some(format!("it runs as user {}", uids.first().map_or("?".to_owned(), u32::to_string)));
    }
    let cgroup = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    if cgroup.contains(TASKS) {
        return Some("it is a task".to_owned());
    }
    // Root in a container of another runtime has the numbers of the host's, and another root directory.
    for name in ["ns/user", "ns/pid", "root"] {
        let place = |process: &Path| fs::metadata(process.join(name)).map(|found| (found.dev(), found.ino()));
        let is_elsewhere = match (place(process), place(Path::new("/proc/self"))) {
            (Ok(its), Ok(ours)) => its != ours,
            // Of root's processes others learn nothing.
            _ => true,
        };
        if is_elsewhere {
            return Some(format!("it is in a container, or in another namespace ({name})"));
        }
    }
    let program = process.join("exe");
    let name = fs::read_link(&program).ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let is_safe = |found: fs::Metadata| is_safe(&program, &found) && found.mode() & SET_ID == 0;
    let is_nomad =
        name.is_some_and(|name| name.contains("nomad")) && fs::metadata(&program).is_ok_and(is_safe);
    (!is_nomad).then(|| "its program is not nomad, or others can change it".to_owned())
}

/// The command line of a process. A process can make its own as long as it likes.
pub(super) fn command_line(process: &Path) -> Vec<String> {
    const MOST: u64 = 64 << 10;
    let mut line = Vec::new();
    let read =
        fs::File::open(process.join("cmdline")).and_then(|file| file.take(MOST).read_to_end(&mut line));
    if read.is_err() {
        return Vec::new();
    }
    String::from_utf8_lossy(&line).split('\0').map(str::to_owned).collect()
}

/// The real, effective, saved and file system UID of a process.
pub(super) fn uids(process: &Path) -> Vec<u32> {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    line.split_whitespace().map_while(|uid| uid.parse().ok()).collect()
}

/// The path without links; the error is the part of it that somebody else can change: a directory on the way before or
/// after a link, a link that another user has made, or the file itself.
pub(super) fn unchangeable(path: &Path) -> Result<PathBuf, PathBuf> {
    const LINKS: usize = 40;
    let names = |path: &Path| -> Vec<OsString> {
        let is_name = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
        path.components().filter(is_name).map(|part| part.as_os_str().to_owned()).collect()
    };
    let is_safe = |part: &Path| fs::metadata(part).is_ok_and(|found| is_safe(part, &found));
    let mut rest = names(&std::path::absolute(path).map_err(|_| path.to_owned())?);
    rest.reverse();
    let (mut way, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = rest.pop() {
        // Who owns a file there says nothing of who chose its content.
        if way.starts_with("/proc") || way.starts_with("/sys") || !is_safe(&way) {
            return Err(way);
        }
        if name == ".." {
            way.pop();
            continue;
        }
        let next = way.join(name);
        let found = fs::symlink_metadata(&next).map_err(|_| path.to_owned())?;
        if !found.is_symlink() {
            way = next;
            continue;
        }
        links += 1;
        // In a directory with the sticky bit everybody can make one.
        if links > LINKS || ![0, geteuid().as_raw()].contains(&found.uid()) {
            return Err(next);
        }
        let target = fs::read_link(&next).map_err(|_| next)?;
        if target.is_absolute() {
            way = PathBuf::from("/");
        }
        rest.extend(names(&target).into_iter().rev());
    }
    if is_safe(&way) { Ok(way) } else { Err(way) }
}

/// Is it root's or ours, and can nobody else change it, or exchange what we have in it?
fn is_safe(path: &Path, found: &fs::Metadata) -> bool {
    let is_ours = [0, geteuid().as_raw()].contains(&found.uid());
    let is_sticky = found.is_dir() && found.mode() & STICKY != 0;
    let is_of_ours = [0, getegid().as_raw()].contains(&found.gid()) && !has_acl(path);
    let group_writes = found.mode() & GROUP != 0 && !is_of_ours;
    is_ours && (is_sticky || (found.mode() & OTHERS == 0 && !group_writes))
}

/// Are there users and groups of its own in the rights of the file (acl(5))? The bits of the group are then the most that
/// any of them may.
pub(super) fn has_acl(path: &Path) -> bool {
    rustix::fs::getxattr_query(path, LIST).is_ok_and(|length| length > 0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A process that looks like an agent of ours in every respect.
    pub(in crate::doctor) fn agent(root: &Path) -> PathBuf {
        process(root, 42)
    }

    /// A process of ours whose program is named `nomad`.
    pub(in crate::doctor) fn process(root: &Path, pid: u32) -> PathBuf {
        let process = root.join(format!("proc/{pid}"));
        fs::create_dir_all(process.join("ns")).unwrap();
        let us = geteuid().as_raw();
        fs::write(process.join("status"), format!("Name:\tnomad\nUid:\t{us}\t{us}\t{us}\t{us}\n")).unwrap();
        fs::write(process.join("cgroup"), "0::/system.slice/nomad.service\n").unwrap();
        for name in ["ns/user", "ns/pid", "root"] {
            symlink(Path::new("/proc/self").join(name), process.join(name)).unwrap();
        }
        let program = root.join("nomad");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        symlink(&program, process.join("exe")).unwrap();
        process
    }

    #[test]
    fn only_an_agent_of_ours_is_believed() {
        let root = tempfile::tempdir().unwrap();
        let process = agent(root.path());
        assert_eq!(doubt_about_process(&process), None);
        let us = geteuid().as_raw();
        for (file, text, doubt) in [
            ("status", "Uid:\t4242\t4242\t4242\t4242\n".to_owned(), "user 4242"),
            ("status", format!("Uid:\t4242\t{us}\t{us}\t{us}\n"), "user 4242"),
            ("status", String::new(), "user ?"),
            ("cgroup", "0::/nomad_tasks.slice/nomad-x.service\n".to_owned(), "a task"),
        ] {
            let usual = fs::read_to_string(process.join(file)).unwrap();
            fs::write(process.join(file), text).unwrap();
            let told = doubt_about_process(&process).unwrap();
            assert!(told.contains(doubt), "{doubt}: {told}");
            fs::write(process.join(file), usual).unwrap();
        }
        fs::set_permissions(root.path().join("nomad"), PermissionsExt::from_mode(0o4755)).unwrap();
        assert!(doubt_about_process(&process).unwrap().contains("program"));
        fs::remove_file(process.join("ns/user")).unwrap();
        symlink("/proc/self/ns/mnt", process.join("ns/user")).unwrap();
        assert!(doubt_about_process(&process).unwrap().contains("(ns/user)"));
        fs::remove_file(process.join("ns/user")).unwrap();
        symlink("/proc/self/ns/user", process.join("ns/user")).unwrap();
        // As in a container.
        fs::remove_file(process.join("root")).unwrap();
        symlink(root.path(), process.join("root")).unwrap();
        assert!(doubt_about_process(&process).unwrap().contains("(root)"));
    }

    #[test]
    fn a_file_is_believed_if_nobody_else_can_change_the_way_to_it() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a/b.hcl");
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(&file, "").unwrap();
        assert!(unchangeable(&file).is_ok(), "although /tmp is everybody's, by its sticky bit");
        fs::set_permissions(root.path().join("a"), PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(unchangeable(&file), Err(root.path().join("a").canonicalize().unwrap()));
        assert!(unchangeable(Path::new("/proc/1/root/no-such")).is_err());
    }

    #[test]
    fn a_link_is_believed_only_where_nobody_else_could_have_made_it() {
        let root = tempfile::tempdir().unwrap();
        let (open, file) = (root.path().join("open"), root.path().join("b.hcl"));
        fs::create_dir(&open).unwrap();
        fs::write(&file, "").unwrap();
        symlink("../b.hcl", open.join("link")).unwrap();
        assert_eq!(unchangeable(&open.join("link")), Ok(file.canonicalize().unwrap()));
        fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(unchangeable(&open.join("link")), Err(open.canonicalize().unwrap()));
        fs::set_permissions(&open, PermissionsExt::from_mode(0o1777)).unwrap();
        assert!(unchangeable(&open.join("link")).is_ok(), "it is ours");
        if geteuid().is_root() {
            std::os::unix::fs::lchown(open.join("link"), Some(4242), None).unwrap();
            assert_eq!(unchangeable(&open.join("link")), Err(open.canonicalize().unwrap().join("link")));
        }
    }

    #[test]
    fn a_file_that_a_list_lets_somebody_else_write_is_not_believed() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("b.hcl");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o664)).unwrap();
        assert!(unchangeable(&file).is_ok(), "the group is ours");
        // The version, and each entry: the kind, the rights and the user (acl(5), linux/posix_acl_xattr.h).
        let entries: [(u16, u16, u32); 5] =
            [(1, 6, u32::MAX), (2, 6, 4242), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (kind, rights, user) in entries {
            list.extend([&kind.to_le_bytes()[..], &rights.to_le_bytes(), &user.to_le_bytes()].concat());
        }
        rustix::fs::setxattr(&file, LIST, &list, rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(unchangeable(&file), Err(file.canonicalize().unwrap()));
    }
}
