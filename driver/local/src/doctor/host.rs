//! What tasks need of the machine: systemd, cgroups, the kernel.

use std::fs;
use std::path::Path;

use super::finding::Finding;

/// Checks the machine whose files are below `root`.
pub(super) fn findings(root: &Path) -> Vec<Finding> {
    let mut findings = vec![systemd(root)];
    findings.extend(cgroup(root));
    findings.extend([
        loop_devices(root),
        nss(root),
        selinux(root),
        overcommit(root),
        inotify(root),
        pids(root),
    ]);
    findings
}

fn text(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
}

fn number(root: &Path, path: &str) -> Option<u64> {
    text(root, path)?.parse().ok()
}

fn systemd(root: &Path) -> Finding {
    if root.join("run/systemd/system").is_dir() {
        return Finding::ok("systemd", "runs this machine");
    }
    Finding::failed(
        "systemd",
        "does not run this machine",
        "Every task is a unit of systemd, so none can start.",
        "Install the driver on a machine that systemd has booted; most containers have no systemd.",
    )
}

/// The controllers, and what of a job has no effect without them.
const CONTROLLERS: [(&str, &str); 5] = [
    ("cpu", "`cpu` in `resources` has no effect: tasks share processors without regard for it."),
    (
        "memory",
        "`memory` and `memory_max` in `resources` are not enforced, and no task is told to be out of memory.",
    ),
    ("cpuset", "`cores` in `resources` is not enforced."),
    ("io", "The options of `limits` for I/O are refused."),
    ("pids", "`tasks_max` in `limits` is refused."),
];

fn cgroup(root: &Path) -> Vec<Finding> {
    let Some(controllers) = text(root, "sys/fs/cgroup/cgroup.controllers") else {
        return vec![Finding::failed(
            "cgroup",
            "no cgroup v2 at /sys/fs/cgroup",
            "The driver needs the unified hierarchy and is not loaded.",
            "Add systemd.unified_cgroup_hierarchy=1 to the kernel's command line, and reboot.",
        )];
    };
    let lacking =
        CONTROLLERS.iter().filter(|(name, _)| !controllers.split_whitespace().any(|other| other == *name));
    let findings: Vec<_> = lacking
        .map(|(name, means)| {
            Finding::warning(
                "cgroup",
                format!("no controller `{name}`"),
                *means,
                format!("Enable it in the kernel (`cgroup_enable={name}` on its command line on some), or move it from cgroup v1."),
            )
        })
        .collect();
    if findings.is_empty() { vec![Finding::ok("cgroup", format!("v2 with {controllers}"))] } else { findings }
}

fn loop_devices(root: &Path) -> Finding {
    if root.join("dev/loop-control").exists() {
        return Finding::ok("loop devices", "/dev/loop-control");
    }
    Finding::warning(
        "loop devices",
        "no /dev/loop-control",
        "Tasks with images (`root_image`, `mount_images`, `extension_images`) do not start.",
        "modprobe loop",
    )
}

fn nss(root: &Path) -> Finding {
    let switch = text(root, "etc/nsswitch.conf").unwrap_or_default();
    let passwd = switch.lines().find_map(|line| line.trim().strip_prefix("passwd:"));
    if passwd.is_some_and(|sources| sources.split_whitespace().any(|source| source == "systemd")) {
        return Finding::ok("nss-systemd", "in /etc/nsswitch.conf");
    }
    Finding::warning(
        "nss-systemd",
        "/etc/nsswitch.conf has no `systemd` for passwd",
        "Ephemeral users have a number and no name: programs that ask for their own user fail.",
        "apt-get install libnss-systemd, or add `systemd` to the lines passwd and group",
    )
}

fn selinux(root: &Path) -> Finding {
    match text(root, "sys/fs/selinux/enforce").as_deref() {
        Some("1") => Finding::warning(
            "SELinux",
            "enforcing",
            "Files that the agent creates may have SELinux labels that deny services access to them.",
            "If tasks fail with permission denied, look into `ausearch -m avc`, and give volumes `selinux_label`.",
        ),
        Some(_) => Finding::ok("SELinux", "permissive"),
        None => Finding::ok("SELinux", "not used"),
    }
}

fn overcommit(root: &Path) -> Finding {
    match number(root, "proc/sys/vm/overcommit_memory") {
        Some(2) => Finding::warning(
            "overcommit",
            "vm.overcommit_memory = 2",
            "Guests reserve address space that they do not use, and fail to start.",
            "sysctl vm.overcommit_memory=0, or more vm.overcommit_ratio",
        ),
        Some(mode) => Finding::ok("overcommit", format!("vm.overcommit_memory = {mode}")),
        None => Finding::ignored("overcommit", "cannot be read"),
    }
}

fn inotify(root: &Path) -> Finding {
    let means =
        "The instances of all tasks in user namespaces count together: one task can take all of them.";
    let mend = "On a shared node: sysctl fs.inotify.max_user_instances=8192";
    at_least(root, "inotify", "fs.inotify.max_user_instances", 1024, means, mend)
}

fn pids(root: &Path) -> Finding {
    let means = "All processes and threads of the node share this limit.";
    at_least(root, "processes", "kernel.pid_max", 4096, means, "sysctl kernel.pid_max=4194304")
}

/// A setting of the kernel that should not be lower.
fn at_least(root: &Path, check: &'static str, key: &str, least: u64, means: &str, mend: &str) -> Finding {
    let Some(value) = number(root, &format!("proc/sys/{}", key.replace('.', "/"))) else {
        return Finding::ignored(check, format!("{key} cannot be read"));
    };
    let found = format!("{key} = {value}");
    if value < least { Finding::warning(check, found, means, mend) } else { Finding::ok(check, found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    const HEALTHY: [(&str, &str); 8] = [
        ("run/systemd/system/x", ""),
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
        ("dev/loop-control", ""),
        ("etc/nsswitch.conf", "passwd: files systemd\n"),
        ("proc/sys/vm/overcommit_memory", "0\n"),
        ("proc/sys/fs/inotify/max_user_instances", "8192\n"),
        ("proc/sys/kernel/pid_max", "4194304\n"),
        ("sys/fs/selinux/enforce", "0"),
    ];

    /// The findings on a healthy machine on which `path` has another content, or none.
    fn with(path: &str, content: Option<&str>) -> Vec<(String, Status)> {
        let root = tempfile::tempdir().unwrap();
        for (name, usual) in HEALTHY {
            let content = if name.starts_with(path) { content } else { Some(usual) };
            let file = root.path().join(name);
            if let Some(content) = content {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, content).unwrap();
            }
        }
        let findings = findings(root.path()).into_iter().filter(|finding| finding.status != Status::Ok);
        findings
            .inspect(|finding| assert!(!finding.means.is_empty() && !finding.mend.is_empty(), "{finding:?}"))
            .map(|finding| (format!("{}: {}", finding.check, finding.found), finding.status))
            .collect()
    }

    #[test]
    fn each_thing_that_is_broken_is_found_alone() {
        assert_eq!(with("none", None), []);
        for (path, content, found, status) in [
            ("run/systemd/system", None, "systemd: does not run this machine", Status::Failed),
            ("sys/fs/cgroup", None, "cgroup: no cgroup v2 at /sys/fs/cgroup", Status::Failed),
            ("sys/fs/cgroup", Some("cpuset cpu io pids"), "cgroup: no controller `memory`", Status::Warning),
            ("dev/loop-control", None, "loop devices: no /dev/loop-control", Status::Warning),
            (
                "etc/nsswitch.conf",
                Some("passwd: files\ngroup: files systemd"),
                "nss-systemd: /etc/nsswitch.conf has no `systemd` for passwd",
                Status::Warning,
            ),
            ("sys/fs/selinux/enforce", Some("1"), "SELinux: enforcing", Status::Warning),
            ("proc/sys/vm", Some("2"), "overcommit: vm.overcommit_memory = 2", Status::Warning),
            ("proc/sys/fs", Some("128"), "inotify: fs.inotify.max_user_instances = 128", Status::Warning),
            ("proc/sys/kernel", Some("1000"), "processes: kernel.pid_max = 1000", Status::Warning),
        ] {
            assert_eq!(with(path, content), [(found.to_owned(), status)], "{path}");
        }
    }
}
