//! Directories that a guest sees, and the one in which its relative paths begin.

use std::path::Path;

use crate::task::config::Mount;
use crate::task::host::view::{TaskDirs, View, is_plain};
use crate::task::spec::{Error, check_length};

/// A directory as the runner takes it.
pub(super) fn directory(said: &str) -> Result<String, Error> {
    check_length("wasm.dirs", said)?;
    let (path, name) = match said.split_once("::") {
        Some((path, name)) => (path, name.strip_suffix(":ro").unwrap_or(name)),
        None => (said, said),
    };
    // Through /proc a guest would reach the memory of its runner, and its environment.
    let of_the_system = ["/proc", "/sys", "/dev", "/run/systemd"];
    if Path::new(path).parent().is_none()
        || of_the_system.iter().any(|directory| Path::new(path).starts_with(directory))
    {
        let reason = format!(
            "`{path}` belongs to the system, and a guest could change its own runner there; grant a \
                              directory of the task's, or a volume"
        );
        return Err(Error::Refused { option: "wasm.dirs".to_owned(), reason });
    }
    // A wrong word after the last colon would be a directory that can be written to; so would `PATH::ro`.
    if is_plain(Path::new(path)) && !["", "ro", "rw"].contains(&name) && !name.contains(':') {
        return Ok(said.to_owned());
    }
    let wanted = "\"PATH\", \"PATH::NAME\" or \"PATH::NAME:ro\" with an absolute path without `..`, and no other colon";
    Err(Error::Option { option: "wasm.dirs", value: said.to_owned(), wanted })
}

/// The task's own directories under the names that its environment says, and its volumes.
pub(super) fn usual_directories(view: &View, dirs: &TaskDirs, mounts: &[Mount]) -> Vec<String> {
    // The runner follows no link; the way to the allocation is the agent's, and may have some.
    let real = dirs.alloc_dir.canonicalize().unwrap_or_else(|_| dirs.alloc_dir.clone());
    let own = dirs.pairs().map(|(host, inside)| match view {
        View::Private { .. } | View::Own => format!("{inside}::{inside}"),
        View::Host => {
            let way = host.strip_prefix(&dirs.alloc_dir).unwrap_or(host);
            format!("{}::{}", real.join(way).display(), host.display())
        }
    });
    // A plugin of devices may mount files.
    let volumes = mounts.iter().filter(|mount| !mount.source.is_file()).map(|mount| {
        let read_only = if mount.read_only { ":ro" } else { "" };
        format!("{0}::{0}{read_only}", mount.target.display())
    });
    own.into_iter().chain(volumes).collect()
}

/// The directory in which relative paths of a guest begin, `.` in WASI: where the task begins, if that is granted, and
/// with no more rights than it is granted with. None where the job says itself what `.` or `/` is.
pub(super) fn here(dirs: &[String], working_directory: &Path) -> Option<String> {
    let parts = dirs.iter().map(|dir| {
        let (path, name) = dir.split_once("::").unwrap_or((dir, dir));
        let (name, mode) = name.strip_suffix(":ro").map_or((name, ""), |name| (name, ":ro"));
        (path, name, mode)
    });
    let parts: Vec<_> = parts.collect();
    if parts.iter().any(|(_, name, _)| [".", "/"].contains(name)) {
        return None;
    }
    let within = parts.iter().filter_map(|(path, name, mode)| {
        // The name is how the task itself calls it, where the path is the runner's.
        let rest =
            working_directory.strip_prefix(path).or_else(|_| working_directory.strip_prefix(name)).ok()?;
        let here = Path::new(path).join(rest);
        Some((path.len(), format!("{}::.{mode}", here.display().to_string().trim_end_matches('/'))))
    });
    within.max_by_key(|(length, _)| *length).map(|(_, here)| here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_begin_where_the_task_does_if_that_is_granted() {
        let here = |dirs: &[&str], work_dir: &str| {
            let dirs: Vec<String> = dirs.iter().map(|dir| (*dir).to_owned()).collect();
            super::here(&dirs, Path::new(work_dir))
        };
        let usual = ["/local::/local", "/alloc::/alloc", "/srv::/srv:ro"];
        assert_eq!(here(&usual, "/local").as_deref(), Some("/local::."));
        assert_eq!(here(&usual, "/alloc/data").as_deref(), Some("/alloc/data::."));
        assert_eq!(here(&usual, "/srv/www").as_deref(), Some("/srv/www::.:ro"));
        assert_eq!(here(&usual, "/etc"), None);
        assert_eq!(here(&["/local::/data:ro"], "/local").as_deref(), Some("/local::.:ro"));
        assert_eq!(here(&["/local", "/local/x::/x:ro"], "/local/x").as_deref(), Some("/local/x::.:ro"));
        assert_eq!(here(&["/run/real/local::/a/local"], "/a/local").as_deref(), Some("/run/real/local::."));
        assert_eq!(here(&["/alloc::/", "/local"], "/local"), None);
        assert_eq!(here(&[], "/local"), None);
    }

    #[test]
    fn a_directory_is_a_path_of_the_task_with_a_name() {
        for said in ["/local", "/local::/data", "/alloc/data::.:ro", "/local::/x:ro"] {
            assert_eq!(directory(said).unwrap(), said);
        }
        for wrong in ["", "data", "::/data", "/local::", "/local/../etc", "/local:::ro"] {
            assert!(directory(wrong).unwrap_err().to_string().contains("`wasm.dirs`"), "{wrong}");
        }
    }
}
