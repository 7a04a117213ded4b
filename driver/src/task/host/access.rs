//! Paths that a job makes inaccessible, writable or read-only: `ReadOnlyPaths=`, `InaccessiblePaths=` and the like.
//!
//! systemd mounts each of these paths over itself, as root and visible to the whole host, and looks it up twice: for
//! the mount point and for the source. Whoever can put a link in the place of a directory on the way in between has
//! another directory mounted there, such as another tenant's. So only root may be able to change the way to each path.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::look::{Seen, look};
use super::pin::Base;
use super::targets::{Error, MOST, Source, Target};
use super::view::{self, View};
use crate::systemd::Assignment;
use crate::task::spec::TaskSpec;

/// Where links lead to resources of a process, or to the root that systemd creates for it.
const OF_PROCESSES: [&str; 6] =
    ["/dev/fd", "/dev/stderr", "/dev/stdin", "/dev/stdout", "/proc/self", "/proc/thread-self"];
/// Directories of a private view that are not the host's.
const NOT_OF_HOST: [&str; 11] =
    ["/alloc", "/dev", "/local", "/proc", "/run", "/secrets", "/sys", "/tmp", "/var", "/home", "/root"];
/// Where systemd assembles the root of a unit.
const OF_SYSTEMD: &str = "/run/systemd";

/// Each path in these settings, without its prefix.
pub(crate) fn paths(settings: &[Assignment]) -> impl Iterator<Item = (&'static str, PathBuf)> {
    settings
        .iter()
        .flat_map(|line| line.paths_in_view().into_iter().map(|path| (line.name(), PathBuf::from(path))))
}

/// Can no task change the way to each path? `targets` is what is mounted for the task in addition to its directories.
///
/// `brings_links`: the job brings files of the root, such as an image, and nobody has checked them for links.
pub(crate) fn check(
    settings: &[Assignment],
    targets: &[Target],
    task: &TaskSpec,
    brings_links: bool,
) -> Result<(), Error> {
    let is_writable = |target: &&Target| !matches!(target.source, Source::Empty);
    let mounted = targets.iter().filter(is_writable).map(|target| target.path.as_path());
    let own = task.dirs.pairs().into_iter().flat_map(|(host, inside)| [host, Path::new(inside)]);
    let writable: Vec<&Path> = own.chain(mounted).collect();
    let there = targets.iter().map(|target| &target.path).collect::<Vec<_>>();
    match &task.view {
        View::Private { host_paths } => check_is_there(settings, host_paths, &there)?,
        View::Host => check_is_there(settings, &[PathBuf::from("/")], &there)?,
        View::Own => {}
    }
    let mut count = 0;
    for (option, path) in paths(settings) {
        count += 1;
        if count > MOST {
            return Err(Error::Many { option, count });
        }
        let below = writable.iter().find(|outer| path.starts_with(outer) && path != **outer);
        if let Some(outer) = below {
            return Err(Error::Raced { option, path, outer: outer.to_path_buf() });
        }
        if option == "ReadWritePaths" && path == Path::new("/alloc") {
            return Err(Error::Alloc { option });
        }
        if let View::Private { host_paths } = &task.view {
            check_is_seen(option, &path, host_paths, targets)?;
        }
        let is_whole = path.parent().is_none() || writable.contains(&path.as_path());
        if brings_links && !is_whole {
            return Err(Error::Unseen { option, path });
        }
        let of_process = path.strip_prefix("/proc").ok().and_then(|below| below.components().next());
        let is_number =
            |part: Component<'_>| part.as_os_str().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        let is_of_process =
            OF_PROCESSES.iter().any(|of| path.starts_with(of)) || of_process.is_some_and(is_number);
        let is_plain =
            path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if is_of_process || !is_plain || path.starts_with(OF_SYSTEMD) && task.view != View::Host {
            return Err(Error::OfProcess { option, path });
        }
        let others = match &task.view {
            View::Host => 0o022,
            // Directories that a group of administrators can write to are usual there: /usr/local.
            View::Private { host_paths } if host_paths.iter().any(|of| path.starts_with(of)) => 0o002,
            // Directories of the driver, and file systems of the kernel; a task's own root is checked as a whole.
            View::Private { .. } | View::Own => continue,
        };
        if let Some(outer) = changeable(&path, others) {
            return Err(Error::Raced { option, path, outer });
        }
    }
    Ok(())
}

/// Do the paths of the operating system exist? systemd accepts a missing path below one that is read-only already.
fn check_is_there(
    settings: &[Assignment],
    host_paths: &[PathBuf],
    mounted: &[&PathBuf],
) -> Result<(), Error> {
    const NEEDED: [&str; 4] = ["ExecPaths", "InaccessiblePaths", "NoExecPaths", "ReadOnlyPaths"];
    for line in settings.iter().filter(|line| NEEDED.contains(&line.name())) {
        let texts = line.texts().into_iter().filter(|text| !text.starts_with('-'));
        let paths = texts.map(|text| PathBuf::from(text.trim_start_matches('+')));
        let is_mounted =
            |path: &Path| mounted.iter().any(|target| path.starts_with(target) || target.starts_with(path));
        let is_absent = |path: &PathBuf| {
            if host_paths.iter().any(|of| path.starts_with(of)) {
                let inside = path.strip_prefix("/").unwrap_or(path);
                return matches!(look(Base::Host(Path::new("/")), inside), Ok(Seen::Missing));
            }
            // What is below these directories only systemd will know.
            let is_made = path.parent().is_none() || NOT_OF_HOST.iter().any(|of| path.starts_with(of));
            !is_made && !host_paths.iter().any(|of| of.starts_with(path))
        };
        let mut absent = paths.filter(|path| !is_mounted(path)).filter(is_absent);
        if let Some(path) = absent.next() {
            return Err(Error::Absent { option: line.name(), path });
        }
    }
    Ok(())
}

/// Is a path that systemd mounts over itself in the private view more than a directory that is created for a mount
/// point below it? systemd would look for the path before it exists.
///
/// Files of the operating system are read-only, whatever the job configures.
fn check_is_seen(
    option: &'static str,
    path: &Path,
    host_paths: &[PathBuf],
    targets: &[Target],
) -> Result<(), Error> {
    let is_of_system = host_paths.iter().any(|of| path.starts_with(of));
    if option == "ReadWritePaths" && is_of_system {
        return Err(Error::System { option, path: path.to_owned() });
    }
    // A path that is only made read-only may be created later.
    let is_looked_for = option != "ReadOnlyPaths";
    let below = targets.iter().find(|target| target.path.starts_with(path) && target.path != path);
    match below.filter(|_| is_looked_for) {
        Some(target) if !is_of_system && path.parent().is_some() && view::is_made_for_mounts(path) => {
            Err(Error::MadeForMount { option, path: path.to_owned(), target: target.path.clone() })
        }
        _ => Ok(()),
    }
}

/// The settings, where a setting for `/alloc` also applies to the mount points in it, which systemd would leave out.
pub(crate) fn of_all_alloc(settings: Vec<Assignment>, writable: &[&str]) -> Vec<Assignment> {
    let with_its_mount_points = |line: Assignment| {
        let texts = if line.paths_in_view().is_empty() { Vec::new() } else { line.texts() };
        let alloc = texts.into_iter().find(|text| text.trim_start_matches(['-', '+']) == "/alloc");
        let more = alloc.and_then(|alloc| {
            let alloc = alloc.trim_start_matches('-');
            let paths: Vec<_> = writable.iter().map(|name| format!("-{alloc}/{name}")).collect();
            Assignment::parse(line.name(), &paths.join(" ")).ok()
        });
        std::iter::once(line).chain(more.filter(|_| !writable.is_empty()))
    };
    settings.into_iter().flat_map(with_its_mount_points).collect()
}

/// The directory on the way to `path`, or to the target of links on the way, in which a user other than root, or a user
/// whom the mode bits `others` allow to, could put another link.
fn changeable(path: &Path, others: u32) -> Option<PathBuf> {
    let can_be_changed = |directory: &&Path| {
        let found = fs::symlink_metadata(directory);
        found.is_ok_and(|found| found.uid() != 0 || !found.is_symlink() && found.mode() & others != 0)
    };
    let on_the_way = |path: &Path| path.ancestors().skip(1).find(can_be_changed).map(Path::to_owned);
    let there = path.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    on_the_way(path).or_else(|| {
        let (part, real) = there?;
        // A missing path could be created in an existing directory.
        on_the_way(&if part == path { real } else { real.join("x") })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_alloc_holds_for_the_mount_points_in_it() {
        let line = |name, text| Assignment::parse(name, text).unwrap();
        let lines = vec![line("ReadOnlyPaths", "/usr +/alloc"), line("NoExecPaths", "/local")];
        let all = of_all_alloc(lines.clone(), &["data", "tmp"]);
        assert_eq!(
            all,
            [lines[0].clone(), line("ReadOnlyPaths", "-+/alloc/data -+/alloc/tmp"), lines[1].clone()]
        );
        assert_eq!(of_all_alloc(lines.clone(), &[]), lines);
    }
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_way_that_others_can_change_is_found_also_behind_a_link() {
        if !rustix::process::geteuid().is_root() {
            // The user who runs this test can change all of it.
            let base = tempfile::tempdir().unwrap();
            assert!(changeable(&base.path().join("x/y"), 0o022).is_some());
            return;
        }
        // The usual directory for temporary files is writable by everybody.
        let base = tempfile::tempdir_in("/run").unwrap();
        for directory in ["open/deep", "closed/deep"] {
            fs::create_dir_all(base.path().join(directory)).unwrap();
        }
        fs::set_permissions(base.path().join("open"), PermissionsExt::from_mode(0o1777)).unwrap();
        symlink("open", base.path().join("link")).unwrap();
        let changeable = |path: &str| changeable(&base.path().join(path), 0o022);
        for path in ["closed", "closed/deep", "closed/deep/new", "open", "link"] {
            assert_eq!(changeable(path), None, "{path}");
        }
        for path in ["open/deep", "open/new", "link/deep", "link/new"] {
            assert_eq!(changeable(path), Some(base.path().join("open")), "{path}");
        }
    }
}
