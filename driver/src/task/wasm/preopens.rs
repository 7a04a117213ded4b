//! Directories that a guest sees, and its working directory.

use std::path::Path;

use shim_interface::Directory;

use crate::task::config::Mount;
use crate::task::host::dirs::TaskDirs;
use crate::task::host::view::{View, is_plain};
use crate::task::refusal::{Error, check_length};

/// The directories that the job names, each under a name of its own.
pub(super) fn directories(texts: &[String]) -> Result<Vec<Directory>, Error> {
    let mut granted: Vec<Directory> = Vec::new();
    for text in texts {
        let new = directory(text)?;
        if granted.iter().any(|other| other.guest == new.guest) {
            let wanted = "a directory under a name that no other directory of the list has: \"PATH::NAME\"";
            return Err(Error::Option { option: "wasm.dirs", value: text.clone(), wanted });
        }
        granted.push(new);
    }
    Ok(granted)
}

/// A directory that the job names, in the runner's form.
fn directory(text: &str) -> Result<Directory, Error> {
    check_length("wasm.dirs", text)?;
    let wanted = "\"PATH\", \"PATH::NAME\" or \"PATH::NAME:ro\" with an absolute path without `..`, and no other colon";
    let wrong = || Error::Option { option: "wasm.dirs", value: text.to_owned(), wanted };
    let directory = Directory::parse(text).map_err(|_| wrong())?;
    let path = Path::new(&directory.host);
    // Through /proc a guest would reach the memory and the environment of its runner.
    let of_the_system = ["/proc", "/sys", "/dev", "/run/systemd"];
    if path.parent().is_none() || of_the_system.iter().any(|directory| path.starts_with(directory)) {
        let reason = format!(
            "`{}` belongs to the system, and a guest could change its own runner there; grant a \
                              directory of the task's, or a volume",
            path.display()
        );
        return Err(Error::Refused { option: "wasm.dirs".to_owned(), reason });
    }
    if is_plain(path) { Ok(directory) } else { Err(wrong()) }
}

/// The task's own directories under the names in its environment, and its volumes.
pub(super) fn usual_directories(view: &View, dirs: &TaskDirs, mounts: &[Mount]) -> Vec<Directory> {
    // The runner follows no link; the way to the allocation belongs to the agent, and may have some.
    let real = dirs.alloc_dir.canonicalize().unwrap_or_else(|_| dirs.alloc_dir.clone());
    let granted = |host: &Path, guest: &Path, writable| Directory {
        host: host.display().to_string(),
        guest: guest.display().to_string(),
        writable,
    };
    let own = dirs.pairs().map(|(host, inside)| match view {
        View::Private { .. } | View::Own => granted(Path::new(inside), Path::new(inside), true),
        View::Host => granted(&real.join(host.strip_prefix(&dirs.alloc_dir).unwrap_or(host)), host, true),
    });
    // A device plugin may mount files.
    let volumes = mounts.iter().filter(|mount| !mount.source.is_file());
    let volumes = volumes.map(|mount| granted(&mount.target, &mount.target, !mount.read_only));
    own.into_iter().chain(volumes).collect()
}

/// The directory in which relative paths of a guest begin, `.` in WASI: the task's working directory, if it is granted,
/// and with no more rights than it is granted with. `None` if the job itself defines `.` or `/`.
pub(super) fn here(dirs: &[Directory], working_directory: &Path) -> Option<Directory> {
    if dirs.iter().any(|dir| [".", "/"].contains(&dir.guest.as_str())) {
        return None;
    }
    let within = dirs.iter().filter_map(|Directory { host, guest, writable }| {
        // The name is the path as the task itself uses it, while the path is the runner's.
        let rest =
            working_directory.strip_prefix(host).or_else(|_| working_directory.strip_prefix(guest)).ok()?;
        let here = Path::new(host).join(rest).display().to_string();
        let host_of_here = here.trim_end_matches('/').to_owned();
        Some((host.len(), Directory { host: host_of_here, guest: ".".to_owned(), writable: *writable }))
    });
    within.max_by_key(|(length, _)| *length).map(|(_, here)| here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_have_not_one_name() {
        let granted =
            |texts: &[&str]| directories(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(granted(&["/srv/a::/a", "/srv/a::/b:ro"]).unwrap().len(), 2);
        let error = granted(&["/srv/a::/a", "/srv/b::/a:ro"]).unwrap_err().to_string();
        assert!(error.contains("`wasm.dirs`: `/srv/b::/a:ro`"), "{error}");
    }

    #[test]
    fn relative_paths_begin_where_the_task_does_if_that_is_granted() {
        let here = |dirs: &[&str], work_dir: &str| {
            let dirs: Vec<Directory> = dirs.iter().map(|dir| Directory::parse(dir).unwrap()).collect();
            super::here(&dirs, Path::new(work_dir)).map(|here| here.to_string())
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
        for text in ["/local::/local", "/local::/data", "/alloc/data::.:ro", "/local::/x:ro"] {
            assert_eq!(directory(text).unwrap().to_string(), text);
        }
        assert_eq!(directory("/local").unwrap().to_string(), "/local::/local");
        for wrong in ["", "data", "::/data", "/local::", "/local/../etc", "/local:::ro"] {
            assert!(directory(wrong).unwrap_err().to_string().contains("`wasm.dirs`"), "{wrong}");
        }
    }
}
