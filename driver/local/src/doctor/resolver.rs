//! Does /etc/resolv.conf lead to a file that tasks see?

use std::fs;
use std::path::Path;

use super::agent::Agent;
use super::finding::Finding;
use super::plugin::list;

/// Directories that tasks see, whatever the plugin's configuration says.
const SEEN: [&str; 3] = ["/run/systemd/resolve", "/run/resolvconf", "/run/netconfig"];
/// Of the default of `host_paths`, where the file may be.
const USUAL: [&str; 2] = ["/etc", "/usr"];

/// Checks the machine whose files are below `root`.
pub(super) fn finding(root: &Path, agent: &Agent) -> Option<Finding> {
    const CHECK: &str = "resolv.conf";
    if agent.option("fs_isolation") == Some("none") {
        return None;
    }
    let file = root.join("etc/resolv.conf");
    let target = fs::canonicalize(&file).ok()?;
    let target = Path::new("/").join(target.strip_prefix(root).ok()?);
    let shown = agent.plugin.as_ref().and_then(|config| list(config, "host_paths"));
    let shown = shown.unwrap_or_else(|| USUAL.to_vec());
    let mut seen = SEEN.into_iter().chain(shown);
    if seen.any(|path| target.starts_with(path)) {
        return None;
    }
    let directory = target.parent()?.display().to_string();
    Some(Finding::warning(
        CHECK,
        format!("/etc/resolv.conf leads to {}, which tasks do not see", target.display()),
        "Tasks with the host's network resolve no names.",
        format!(
            "Add \"{directory}\" to the plugin option `host_paths` (with the paths of its default), or give the groups a `dns` block \
             in `network`."
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_tasks_do_not_see_is_told_of() {
        for (target, is_told) in [
            ("run/systemd/resolve/stub-resolv.conf", false),
            ("run/NetworkManager/resolv.conf", true),
            ("etc/other", false),
        ] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(target);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::create_dir_all(root.path().join("etc")).unwrap();
            fs::write(&path, "").unwrap();
            symlink(&path, root.path().join("etc/resolv.conf")).unwrap();
            assert_eq!(finding(root.path(), &Agent::default()).is_some(), is_told, "{target}");
        }
    }
}
