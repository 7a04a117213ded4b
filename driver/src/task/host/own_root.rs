//! Root directories and images of tasks: no link in them leads systemd, which sets a task up as root, to another place.
//!
//! systemd follows links when it looks up a mount point in a root, and it sets up a user namespace by writing, as root,
//! to files below the task's `/proc`. So a link in a root may not become a mount point. A job that brings the root, or
//! files laid over it, could put links there that nobody can check beforehand: it gets no user namespace.

use std::path::{Path, PathBuf};

use super::access;
use super::targets::{Error, Target};
use super::way::is_safe;
use crate::kernel;
use crate::systemd::{Assignment, Meaning, Role};

/// Where systemd and the driver mount something for every task, and create missing mount points as root.
const OF_TASKS: [&str; 15] = [
    "/alloc",
    "/dev",
    "/etc/hosts",
    "/etc/nomad.d",
    "/etc/resolv.conf",
    "/local",
    "/proc",
    "/run/.wasm/shim",
    "/run/credentials",
    "/run/host",
    "/run/systemd/notify",
    "/secrets",
    "/sys",
    "/tmp",
    "/var/tmp",
];
/// Refuses a user namespace (`PrivateUsers=`) where the job can change the root in which systemd sets the namespace up.
/// `is_of_job` tells whether a job can change the files that a line names.
pub(crate) fn check_namespace(
    settings: &[Assignment],
    targets: &[Target],
    is_of_job: impl Fn(&Assignment) -> bool,
) -> Result<(), Error> {
    let users = Assignment::last(settings, "PrivateUsers").map(Assignment::meaning);
    let has_users = users.is_some_and(|users| users != Meaning::Text("no".to_owned()));
    // Since systemd 258 this property creates a user namespace as well.
    if !has_users && !settings.iter().any(|line| line.name() == "DelegateNamespaces") {
        return Ok(());
    }
    // The operator's image is not checked either, and every system has links, such as /var/run.
    let is_image_with_mounts = |line: &Assignment| {
        line.role() == Some(Role::RootImage) && !line.text().is_empty() && !targets.is_empty()
    };
    let brings_files = |role: Role| role.brings_files() || role == Role::RootDirectory;
    let can_lead = |line: &&Assignment| {
        line.role().is_some_and(brings_files) && is_of_job(line) || is_image_with_mounts(line)
    };
    match settings.iter().find(can_lead) {
        Some(line) => Err(Error::NamespaceInRoot { option: line.name() }),
        None => Ok(()),
    }
}

/// Does any mount point lie where an extension can bring links? systemd lays extensions over these directories.
///
/// `programs` are the driver's own, as a task in the host view sees them: an extension could replace them.
pub(crate) fn check_extensions(
    settings: &[Assignment],
    targets: &[Target],
    programs: &[PathBuf],
) -> Result<(), Error> {
    let extends =
        |line: &&Assignment| line.role().is_some_and(Role::is_extension) && !line.texts().is_empty();
    let Some(extension) = settings.iter().find(extends) else { return Ok(()) };
    let is_extended =
        |path: &Path| ["/etc", "/opt", "/usr"].iter().any(|extended| path.starts_with(extended));
    let points = targets.iter().map(|target| (target.option, target.path.clone()));
    let programs = programs.iter().map(|path| (extension.name(), path.clone()));
    match points.chain(programs).chain(access::paths(settings)).find(|(_, path)| is_extended(path)) {
        Some((option, path)) => Err(Error::InExtension { option, path, extension: extension.name() }),
        None => Ok(()),
    }
}

/// Is the way to each mount point in the root at this host path free of links, and of directories in which users other
/// than root could put a link while systemd creates mount points there?
pub(crate) fn check_ways(root: &Path, settings: &[Assignment], targets: &[Target]) -> Result<(), Error> {
    let of_tasks = OF_TASKS.iter().map(|path| ("RootDirectory", Path::new(*path)));
    let closed: Vec<_> = access::paths(settings).collect();
    let closed = closed.iter().map(|(option, path)| (*option, path.as_path()));
    let points = targets.iter().map(|target| (target.option, target.path.as_path()));
    let points: Vec<_> = points.chain(closed).chain(of_tasks).collect();
    // A pin is a mount that may be missing in the driver's own mount namespace.
    // A user's systemd has only the rights of that user, as whom all its tasks run.
    let others = rustix::process::geteuid().is_root().then_some(0o022);
    let behind = kernel::in_mount_namespace_of_pid1(|| {
        let behind = points.iter().find(|(_, path)| !is_safe(root, path, others).unwrap_or(false));
        Ok(behind.map(|(option, path)| (*option, path.to_path_buf())))
    });
    match behind {
        Ok(None) => Ok(()),
        Ok(Some((option, path))) => Err(Error::RootLink { option, path }),
        Err(_) => Err(Error::RootLink { option: "RootDirectory", path: root.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::host::targets::Source;

    #[test]
    fn what_a_job_brings_has_no_user_namespace() {
        fn line(name: &str, text: &str) -> Assignment {
            Assignment::parse(name, text).unwrap()
        }
        let check = |users: &str, name: &str, text: &str, is_of_job: bool| {
            check_namespace(&[line("PrivateUsers", users), line(name, text)], &[], |_| is_of_job).is_ok()
        };
        assert!(!check("yes", "RootImage", "/local/x", true));
        assert!(!check("identity", "ExtensionDirectories", "/local/x", true));
        assert!(check("no", "RootImage", "/local/x", true));
        assert!(check("yes", "RootImage", "/srv/x", false));
        assert!(check("yes", "BindPaths", "/local/x", true));
        let image = [line("PrivateUsers", "yes"), line("RootImage", "/srv/x")];
        let target = Target { option: "BindPaths", path: "/var/run/x".into(), source: Source::Tasks };
        assert!(check_namespace(&image, &[target], |_| false).is_err());
    }
}
