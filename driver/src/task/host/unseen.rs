//! Paths of the node that a job names in arguments and variables, and that its task does not see: a program that lists
//! such a directory finds nothing, and says nothing.

use std::path::Path;

use crate::systemd::Assignment;
use crate::task::host::misplaced::words;
use crate::task::host::view::View;
use crate::task::spec::{TaskKind, TaskSpec};

/// Where the files of a node are that a task does not see by itself (file-hierarchy(7)).
const OF_NODE: [&str; 10] =
    ["/home", "/media", "/mnt", "/opt", "/root", "/srv", "/var/cache", "/var/lib", "/var/log", "/var/spool"];

/// Advice about the first such path. The node is not looked at, of which a job learns nothing so.
pub(crate) fn advice(task: &TaskSpec) -> Option<String> {
    if task.kind != TaskKind::Native {
        return None;
    }
    let args = task.args.iter().map(|arg| ("`args`".to_owned(), arg));
    let own = task.env.iter().filter(|(name, _)| !name.starts_with("NOMAD_") && *name != "HOME");
    let env = own.map(|(name, value)| (format!("`env`: {name}"), value));
    args.chain(env).find_map(|(option, text)| {
        let path = words(text).find(|word| is_unseen(task, word))?;
        Some(format!(
            "{option}: the task sees no {path} of the node; `files.bind_read_only_paths` or `files.bind_paths` shows it, if the \
             operator allows the path (`allow_host_paths`), or a `volume_mount`"
        ))
    })
}

fn is_unseen(task: &TaskSpec, word: &str) -> bool {
    let View::Private { host_paths } = &task.view else { return false };
    let path = Path::new(word);
    let is_of_node = OF_NODE.iter().any(|parent| path.starts_with(parent) && path.components().count() > 2);
    let mut points = task.settings.iter().flat_map(Assignment::mount_points);
    is_of_node
        && !host_paths.iter().any(|seen| path.starts_with(seen))
        && !task.mounts.iter().any(|mount| is_about(path, &mount.target))
        && !points.any(|(_, point)| is_about(path, Path::new(&point)))
}

/// Is one of both paths in the other?
fn is_about(path: &Path, point: &Path) -> bool {
    path.starts_with(point) || point.starts_with(path)
}
