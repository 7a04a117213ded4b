//! Is the plugin where the agent looks for it, and can it be executed there? Facts from Nomad v2.0.5,
//! helper/pluginutils/loader/: every executable file of the directory is started as a plugin, by the name of its file.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::StatVfsMountFlags;

use super::agent::Agent;
use super::finding::Finding;
use super::trust::has_acl;
use crate::node::PLUGIN;

const CHECK: &str = "plugin_dir";

/// Checks the agent's plugin directory; `program` is the plugin that should be there.
pub(super) fn findings(agent: &Agent, program: &Path) -> Vec<Finding> {
    let Some(directory) = agent.plugin_directory() else {
        if !agent.unreadable.is_empty() {
            return vec![Finding::ignored(
                CHECK,
                "not looked at: the agent's configuration could not be read",
            )];
        }
        return vec![Finding::warning(
            CHECK,
            "not known",
            "Without `plugin_dir` or `data_dir` in its configuration the agent looks for no plugins.",
            "Set `plugin_dir` in the agent's configuration, or name that with --config.",
        )];
    };
    if directory.is_relative() {
        // That is a finding of its own.
        return vec![Finding::ignored(CHECK, "not looked at: the path is not absolute")];
    }
    vec![look(&directory, program, agent.uid)]
}

/// `agent`: the user of the agent, if one runs.
fn look(directory: &Path, program: &Path, agent: Option<u32>) -> Finding {
    const NOT_LOADED: &str = "The agent does not load the driver, and says nothing.";
    let there = directory.join(PLUGIN);
    let install = format!("ln -s {} {}", program.display(), there.display());
    let shown = directory.display();
    if !directory.is_dir() {
        return Finding::failed(
            CHECK,
            format!("{shown} is not there"),
            NOT_LOADED,
            format!("mkdir -p {shown} && {install}"),
        );
    }
    let metadata = match fs::metadata(&there) {
        Ok(metadata) => metadata,
        Err(_) if fs::symlink_metadata(&there).is_ok() => {
            return Finding::failed(
                CHECK,
                format!("{} is a link to nothing", there.display()),
                NOT_LOADED,
                format!("rm {} && {install}", there.display()),
            );
        }
        Err(_) => return Finding::failed(CHECK, format!("{shown} has no {PLUGIN}"), NOT_LOADED, install),
    };
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Finding::failed(
            CHECK,
            format!("{} is not executable", there.display()),
            NOT_LOADED,
            format!("chmod 755 {}", there.display()),
        );
    }
    let target = there.canonicalize().unwrap_or_else(|_| there.clone());
    if rustix::fs::statvfs(&target).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
        return Finding::failed(
            CHECK,
            format!("{} is on a file system that is mounted noexec", target.display()),
            NOT_LOADED,
            "Install the plugin elsewhere and make plugin_dir a directory there, or remount without noexec.",
        );
    }
    changeable(directory, &target, agent)
        .or_else(|| second(directory))
        .unwrap_or_else(|| Finding::ok(CHECK, there.display().to_string()))
}

/// Somebody else can put a program there: writes to the directory, to the plugin's file `target` or to its directory, or
/// owns one of them.
fn changeable(directory: &Path, target: &Path, agent: Option<u32>) -> Option<Finding> {
    // In a directory with the sticky bit nobody can exchange the plugin, but everybody can add another one.
    let ways = [(Some(directory), false), (Some(target), false), (target.parent(), true)];
    let open = ways.into_iter().find_map(|(path, sticky)| path.filter(|path| is_open(path, sticky)));
    if let Some(open) = open {
        return Some(Finding::failed(
            CHECK,
            format!("other users of this node can write to {}", open.display()),
            "Each of them can put another program there, which the agent starts with its own rights.",
            if has_acl(open) {
                format!("chmod o-w {0}; setfacl --remove-all {0} (of the package acl)", open.display())
            } else {
                format!("chmod o-w {}", open.display())
            },
        ));
    }
    let mut paths = [Some(directory), Some(target), target.parent()].into_iter().flatten();
    let (path, uid) = paths.find_map(|path| Some((path, owner_beside(path, agent)?)))?;
    Some(Finding::failed(
        CHECK,
        format!("user {uid} owns {}", path.display()),
        "The user can put another program there, which the agent starts with its own rights.",
        format!("chown root: {}", path.display()),
    ))
}

/// The owner of the path, if it is neither root, nor the user of the agent, nor the one who runs this command.
fn owner_beside(path: &Path, agent: Option<u32>) -> Option<u32> {
    let owner = fs::metadata(path).ok()?.uid();
    let us = rustix::process::geteuid().as_raw();
    (owner != 0 && owner != us && agent != Some(owner)).then_some(owner)
}

/// An executable of ours that the agent would start as a second plugin.
fn second(directory: &Path) -> Option<Finding> {
    let (shown, other) = (directory.display(), others(directory)?);
    Some(if other == "wasm-shim" || other == "wasm-shim-compile" {
        Finding::failed(
            CHECK,
            format!("{shown} has {other}"),
            "An agent before Nomad 1.10 starts it as a plugin, and fails to start; newer ones log a warning.",
            format!(
                "mkdir -p /usr/local/libexec/nomad-driver-systemd && mv {shown}/wasm-shim* \
                 /usr/local/libexec/nomad-driver-systemd/"
            ),
        )
    } else {
        Finding::failed(
            CHECK,
            format!("{shown} has {other}, a second plugin for the driver `systemd`"),
            "Which of the two the agent uses is not defined.",
            format!("rm {shown}/{other}"),
        )
    })
}

/// Can other users write to it, or those that an ACL names? `sticky`: a directory with the sticky bit does not count.
fn is_open(path: &Path, sticky: bool) -> bool {
    const OTHERS_WRITE: u32 = 0o002;
    const GROUP_WRITES: u32 = 0o020;
    const STICKY: u32 = 0o1000;
    fs::metadata(path).is_ok_and(|found| {
        let mode = found.permissions().mode();
        let others = mode & OTHERS_WRITE != 0 || mode & GROUP_WRITES != 0 && has_acl(path);
        others && !(sticky && mode & STICKY != 0)
    })
}

/// Another executable of ours that should not be there.
fn others(directory: &Path) -> Option<String> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| {
            fs::metadata(entry.path())
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != PLUGIN && (name.starts_with(PLUGIN) || name.starts_with("wasm-shim")))
        .collect();
    names.sort();
    names.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    #[test]
    fn each_reason_why_no_plugin_is_loaded_is_told() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("plugins");
        let look = || look(&directory, Path::new("/usr/bin/nomad-driver-systemd"), None);
        let file = |name: &str, mode: u32| {
            let path = directory.join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        assert!(look().found.ends_with("plugins is not there"));
        fs::create_dir(&directory).unwrap();
        assert!(look().found.ends_with("has no nomad-driver-systemd"));
        std::os::unix::fs::symlink("/nowhere", directory.join(PLUGIN)).unwrap();
        assert!(look().found.ends_with("is a link to nothing"));
        fs::remove_file(directory.join(PLUGIN)).unwrap();
        file(PLUGIN, 0o644);
        assert!(look().found.ends_with("is not executable"));
        assert!(look().mend.starts_with("chmod 755 "));
        file(PLUGIN, 0o755);
        assert_eq!(look().status, Status::Ok);
        file("nomad-driver-systemd.old", 0o644);
        file("README", 0o755);
        assert_eq!(look().status, Status::Ok);
        file("nomad-driver-systemd.old", 0o755);
        assert!(look().found.contains("nomad-driver-systemd.old, a second plugin"));
        fs::remove_file(directory.join("nomad-driver-systemd.old")).unwrap();
        fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(look().found.contains("other users of this node can write to"));
        assert_eq!(look().mend, format!("chmod o-w {}", directory.display()));
        fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&directory, Some(4242), None).unwrap();
            assert!(look().found.starts_with("user 4242 owns "));
            std::os::unix::fs::chown(&directory, Some(0), None).unwrap();
        }
        file("wasm-shim", 0o755);
        assert!(look().found.ends_with("has wasm-shim"));
    }
}
