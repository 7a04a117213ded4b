//! Settings of systemd that reach every task, over what the driver sets: a masked slice, and drop-ins that apply by the
//! begin of a unit's name (systemd.unit(5), "foo-.service.d", "service.d").

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::agent::Agent;
use super::finding::Finding;

/// The slices of all tasks.
const SLICES: [&str; 3] = ["nomad_tasks.slice", "nomad_tasks-share.slice", "nomad_tasks-reserve.slice"];

/// Where an operator or a distribution puts units (systemd.unit(5)), in the order in which systemd looks.
const PLACES: [&str; 7] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Checks the machine whose files are below `root`.
pub(super) fn findings(root: &Path, agent: &Agent) -> Vec<Finding> {
    let is_of_user = agent.option("manager") == Some("user");
    let mut findings = vec![masked(is_of_user)];
    // Those of a user's manager are elsewhere, and the user's own.
    if !is_of_user {
        findings.push(drop_ins(root));
    }
    findings.extend(agent.pid.and_then(|pid| mounts_of_agent(root, pid)));
    findings.extend(mounts_of_node(root));
    findings
}

/// Starts of tasks take longer with each mount of the node: systemd reads all of them about a hundred times for each.
fn mounts_of_node(root: &Path) -> Option<Finding> {
    /// By so many a start takes about twice as long (tests/harness/bench/README.md, "Many tasks on a node").
    const MANY: usize = 100;
    const CHECK: &str = "mounts of the node";
    let count = fs::read_to_string(root.join("proc/1/mountinfo")).ok()?.lines().count();
    Some(if count < MANY {
        Finding::ok(CHECK, format!("{count}"))
    } else {
        Finding::warning(
            CHECK,
            format!("{count}, such as the two that Nomad makes for each task"),
            "Every start of a task takes longer with each of them, with 1000 about ten times as long.",
            "If no other driver of this node needs Nomad's mounts (as docker and podman do), set `PrivateMounts=yes` in the unit of the \
             agent: driver/README.md, \"Many tasks on a node\".",
        )
    })
}

fn masked(is_of_user: bool) -> Finding {
    const CHECK: &str = "slices";
    let manager = if is_of_user { "--user" } else { "--system" };
    let shown =
        Command::new("systemctl").args([manager, "show", "--property=Id,LoadState"]).args(SLICES).output();
    let Some(shown) = shown.ok().filter(|shown| shown.status.success()) else {
        return Finding::ignored(CHECK, "systemctl cannot be asked");
    };
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let of_units = text.split("\n\n").filter(|unit| unit.lines().any(|line| line == "LoadState=masked"));
    let mut names = of_units.filter_map(|unit| unit.lines().find_map(|line| line.strip_prefix("Id=")));
    match names.next() {
        Some(slice) => Finding::failed(
            CHECK,
            format!("{slice} is masked"),
            "Every task is in it, so systemd starts none.",
            format!("systemctl {manager} unmask {slice}"),
        ),
        None => Finding::ok(CHECK, "of the tasks are not masked"),
    }
}

fn drop_ins(root: &Path) -> Finding {
    const CHECK: &str = "drop-ins";
    let of_tasks = ["nomad-.service.d", "service.d"].iter().flat_map(|name| files(root, name));
    let of_slices = SLICES.iter().flat_map(|slice| files(root, &format!("{slice}.d")));
    let read = |file: PathBuf| Some((fs::read_to_string(&file).ok()?, file));
    let mut sets =
        of_tasks.filter_map(read).filter_map(|(text, file)| Some((set_by(&text, |_| true)?, file)));
    // Limits of the slice are usual; what takes away devices or the network from every task is not.
    let mut takes_away = of_slices
        .filter_map(read)
        .filter_map(|(text, file)| Some((set_by(&text, takes_something_away)?, file)));
    match sets.next().or_else(|| takes_away.next()) {
        Some((properties, file)) => Finding::warning(
            CHECK,
            format!("{} sets {properties}", file.display()),
            "It applies to every task, over what the driver and the job set: tasks may fail, or be less confined.",
            format!(
                "Remove the lines, or move them to the unit that needs them, then: systemctl daemon-reload ({})",
                file.display()
            ),
        ),
        None => Finding::ok(CHECK, "none changes tasks"),
    }
}

/// The files of the directories of this name.
fn files(root: &Path, name: &str) -> Vec<PathBuf> {
    let directories = PLACES.iter().map(|place| root.join(place).join(name));
    let entries = directories.flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Is it a property of a slice by which each task loses devices or the network (systemd.resource-control(5))?
fn takes_something_away(property: &str) -> bool {
    ["Device", "IPAddress", "IPIngress", "IPEgress", "SocketBind", "RestrictNetwork", "BPFProgram"]
        .iter()
        .any(|begin| property.starts_with(begin))
}

/// The properties that a drop-in sets, but for time-outs, which some distributions set for all services.
fn set_by(text: &str, counts: impl Fn(&str) -> bool) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '[']));
    let mut names: Vec<&str> = lines.filter_map(|line| Some(line.split_once('=')?.0.trim())).collect();
    names.retain(|name| !name.starts_with("Timeout") && counts(name));
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

/// An agent in a mount namespace of its own. The driver passes what this agent mounts for an allocation on to systemd; it
/// cannot do so for directories of the node that the agent has instead of the node's (`PrivateTmp=`, `ProtectHome=`).
fn mounts_of_agent(root: &Path, pid: u32) -> Option<Finding> {
    const CHECK: &str = "mounts of the agent";
    const PLACES: [&str; 9] = ["tmp", "var/tmp", "home", "root", "srv", "opt", "var", "etc", "run"];
    let namespace = |process: &str| fs::read_link(root.join(format!("proc/{process}/ns/mnt"))).ok();
    let (of_agent, of_systemd) = (namespace(&pid.to_string())?, namespace("1")?);
    if of_agent == of_systemd {
        return None;
    }
    let found = |process: u32, place: &str| {
        let found = fs::metadata(root.join(format!("proc/{process}/root/{place}")));
        found.map(|found| (found.dev(), found.ino())).ok()
    };
    Some(match PLACES.into_iter().find(|place| found(pid, place) != found(1, place)) {
        None => {
            Finding::ok(CHECK, format!("process {pid} has some of its own, and the directories of the node"))
        }
        Some(place) => Finding::warning(
            CHECK,
            format!("process {pid} sees another /{place} than systemd, which starts the tasks"),
            format!("What a job names in /{place}, or an allocation has there, is not there for its tasks."),
            "Remove `PrivateTmp=`, `ProtectHome=` and other settings of mounts from the unit of the agent; `PrivateMounts=yes` may stay.",
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::doctor::finding::Status;

    #[test]
    fn what_reaches_every_task_is_told_and_time_outs_are_not() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "usr/lib/systemd/system/service.d/10-timeout.conf",
            "[Service]\nTimeoutStopFailureMode=abort\n",
        );
        write("etc/systemd/system.control/nomad_tasks.slice.d/50-MemoryMax.conf", "[Slice]\nMemoryMax=1G\n");
        write("etc/systemd/system/nomad-web.service.d/x.conf", "[Service]\nUser=x\n");
        assert_eq!(drop_ins(root.path()).status, Status::Ok);
        write(
            "etc/systemd/system/nomad_tasks.slice.d/x.conf",
            "[Slice]\nMemoryMax=1G\nDevicePolicy=strict\n",
        );
        let found = drop_ins(root.path());
        assert!(found.found.ends_with("nomad_tasks.slice.d/x.conf sets DevicePolicy"), "{found:?}");
        write(
            "etc/systemd/system/nomad-.service.d/x.conf",
            "# why\n[Service]\nUser = nobody\nEnvironment=A=1\n",
        );
        let found = drop_ins(root.path());
        assert!(
            found.status == Status::Warning && found.found.ends_with("x.conf sets User, Environment"),
            "{found:?}"
        );
    }

    #[test]
    fn an_agent_with_mounts_of_its_own_is_told_of() {
        let root = tempfile::tempdir().unwrap();
        let node = tempfile::tempdir().unwrap();
        for (pid, namespace) in [("1", "mnt:[1]"), ("7", "mnt:[1]"), ("8", "mnt:[2]"), ("9", "mnt:[3]")] {
            let process = root.path().join("proc").join(pid);
            fs::create_dir_all(process.join("ns")).unwrap();
            symlink(namespace, process.join("ns/mnt")).unwrap();
            if pid == "9" {
                // As with `PrivateTmp=`.
                fs::create_dir_all(process.join("root/tmp")).unwrap();
            } else {
                symlink(node.path(), process.join("root")).unwrap();
            }
        }
        fs::create_dir(node.path().join("tmp")).unwrap();
        assert!(mounts_of_agent(root.path(), 7).is_none());
        assert_eq!(mounts_of_agent(root.path(), 8).unwrap().status, Status::Ok);
        let found = mounts_of_agent(root.path(), 9).unwrap();
        assert!(found.status == Status::Warning && found.found.contains("another /tmp"), "{found:?}");
        assert!(mounts_of_agent(root.path(), 10).is_none());
    }

    #[test]
    fn a_node_with_many_mounts_is_told_of() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/1")).unwrap();
        for (count, status) in [(30, Status::Ok), (1000, Status::Warning)] {
            fs::write(root.path().join("proc/1/mountinfo"), "1 1 0:1 / / rw - ext4 x rw\n".repeat(count))
                .unwrap();
            assert_eq!(mounts_of_node(root.path()).unwrap().status, status);
        }
        assert!(mounts_of_node(Path::new("/no/such")).is_none());
    }
}
