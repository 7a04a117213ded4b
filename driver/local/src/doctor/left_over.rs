//! Processes and units of drivers that have exited: an agent that failed to start may leave them.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::finding::Finding;
use super::trust;
use crate::node::PLUGIN;

/// Checks below `root`. If an agent runs, it takes care of the units.
pub(super) fn findings(root: &Path, has_agent: bool) -> Vec<Finding> {
    let orphans = orphans(root);
    let processes = match orphans.first() {
        Some(pid) => Finding::warning(
            "driver processes",
            format!("{} without an agent, the first is process {pid}", orphans.len()),
            "They follow tasks that another driver process follows as well.",
            format!("kill {}", orphans.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
        ),
        None => Finding::ok("driver processes", "every one has an agent"),
    };
    vec![processes, units(has_agent)]
}

/// Plugin processes whose agent has died: their parent is PID 1.
fn orphans(root: &Path) -> Vec<u32> {
    let processes = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut orphans: Vec<u32> = pids
        .filter(|pid| {
            let process = root.join(format!("proc/{pid}"));
            let line = trust::command_line(&process);
            let mut arguments = line.iter().filter(|word| !word.is_empty());
            // The plugin itself has no arguments; the log forwarder and the commands have at least one.
            let is_plugin = arguments
                .next()
                .is_some_and(|first| Path::new(first).file_name().is_some_and(|name| name == PLUGIN))
                && arguments.next().is_none();
            is_plugin
                && trust::doubt_about_process(&process).is_none()
                && fs::read_to_string(process.join("status"))
                    .unwrap_or_default()
                    .lines()
                    .any(|line| line.strip_prefix("PPid:").is_some_and(|pid| pid.trim() == "1"))
        })
        .collect();
    orphans.sort_unstable();
    orphans
}

fn units(has_agent: bool) -> Finding {
    let listed = Command::new("systemctl")
        .args([
            "list-units",
            "--plain",
            "--no-legend",
            "--no-pager",
            "--type=service",
            "--state=active",
            "nomad-*",
        ])
        .output();
    let Ok(listed) = listed else { return Finding::ignored("units", "no systemctl") };
    let text = String::from_utf8_lossy(&listed.stdout);
    let units: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|unit| unit.starts_with("nomad-") && unit.len() > 45)
        .collect();
    match units.first() {
        Some(first) if !has_agent => Finding::warning(
            "units",
            format!("{} run without an agent, the first is {first}", units.len()),
            "Tasks go on without an agent, for as long as `lost_after` sets.",
            "Start the agent, which finds its tasks again; or end them: systemctl stop 'nomad-*.service'",
        ),
        Some(_) => Finding::ok("units", format!("{} tasks run", units.len())),
        None => Finding::ok("units", "no task runs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plugins_whose_parent_is_gone_are_orphans() {
        let root = tempfile::tempdir().unwrap();
        for (pid, line, parent) in [
            (10, "/p/nomad-driver-systemd\0", 1),
            (11, "/p/nomad-driver-systemd\0", 10),
            (12, "/p/nomad-driver-systemd\0copy\0", 1),
            (13, "/usr/bin/nomad\0agent\0", 1),
        ] {
            let process = trust::tests::process(root.path(), pid);
            fs::write(process.join("cmdline"), line).unwrap();
            let status = fs::read_to_string(process.join("status")).unwrap();
            fs::write(process.join("status"), format!("{status}PPid:\t{parent}\n")).unwrap();
        }
        assert_eq!(orphans(root.path()), [10]);
    }
}
