//! Files that a task finds with other drivers and not with this one, where the program's own error does not tell why.
//!
//! Tasks of `exec` start in the directory that contains `local`, ours in `local` itself; so `args = ["local/x"]` finds
//! no file here. That directory is also their root: a template at `/etc/app.conf` has this path there, and none here.

use std::os::fd::AsRawFd;
use std::path::Path;

use crate::task::host::dirs::TaskDirs;
use crate::task::host::look::{Seen, look};
use crate::task::host::open::exists;
use crate::task::host::pin::Base;
use crate::task::host::view::View;
use crate::task::spec::{TaskKind, TaskSpec};

/// How many words are checked: a job may have hundreds of thousands.
const LOOKED_AT: usize = 64;

/// What Nomad and the driver create in a task directory. From Nomad v2.0.5, client/allocdir/task_dir.go.
const OF_NOMAD: [&str; 5] = ["alloc", "local", "private", "secrets", "tmp"];

/// Advice about the first such file.
pub(crate) fn advice(task: &TaskSpec) -> Option<String> {
    // A guest finds "local/x" by the directory that it is granted.
    let named = match task.kind {
        TaskKind::Native => misplaced(task).or_else(|| misplaced_in_env(task)),
        TaskKind::Guest(_) => None,
    };
    named.or_else(|| hidden(task))
}

/// The first argument with a word that names an existing file, but not from the task's working directory.
fn misplaced(task: &TaskSpec) -> Option<String> {
    let args = task.args.iter().filter(|_| begins_in_local(task));
    let named = args.flat_map(|arg| words(arg)).filter(|word| task.dirs.named(Path::new(word)).is_some());
    let is_it = |word: &&str| is_misplaced(&task.dirs, word) || would_be_misplaced(&task.dirs, word);
    let word = named.take(LOOKED_AT).find(is_it)?;
    let variable = variable_of(word)?;
    let beside =
        if task.view == View::Host { "" } else { "set `work_dir = \"/\"` to begin beside `local/`, or " };
    Some(format!(
        "`args`: {word} is looked up in the working directory, the task's `local/`, and is not there; {beside}write \
         ${{{variable}}} for its directory{}",
        if is_closed(word) { ", where tasks write in `data` and `tmp` only" } else { "" }
    ))
}

/// Is this a new name directly in the directory of the group, which is read-only?
fn is_closed(word: &str) -> bool {
    let word = Path::new(word);
    word.starts_with("alloc")
        && !["alloc/data", "alloc/tmp"].iter().any(|writable| word.starts_with(writable))
}

/// The first variable of the job whose value is the path of a file that is there, and not from where the task begins.
fn misplaced_in_env(task: &TaskSpec) -> Option<String> {
    let own = task.env.iter().filter(|(name, _)| !name.starts_with("NOMAD_") && begins_in_local(task));
    let is_it = |value: &String| is_misplaced(&task.dirs, value.trim_start_matches("./"));
    let (name, path) = own.take(LOOKED_AT).find(|(_, value)| is_it(value))?;
    Some(format!(
        "`env`: {name} is {path}, which is not there in the working directory, the task's `local/`; write ${{{}}} for its directory",
        variable_of(path.trim_start_matches("./"))?
    ))
}

/// Does the task begin in its `local/`?
fn begins_in_local(task: &TaskSpec) -> bool {
    match &task.view {
        View::Private { .. } | View::Own => task.working_directory == Path::new("/local"),
        View::Host => task.working_directory == task.dirs.local,
    }
}

/// The variable for the directory in which the path begins.
fn variable_of(path: &str) -> Option<&'static str> {
    Some(match Path::new(path).components().next()?.as_os_str().to_str()? {
        "alloc" => "NOMAD_ALLOC_DIR",
        "secrets" => "NOMAD_SECRETS_DIR",
        _ => "NOMAD_TASK_DIR",
    })
}

/// A file or directory next to `local/`, which only a task in the host view sees.
fn hidden(task: &TaskSpec) -> Option<String> {
    if matches!(task.view, View::Host) {
        return None;
    }
    let task_dir = task.dirs.local.parent()?;
    // No link is followed: before the first start others may have put one there.
    let entries = |directory: &Path| -> Vec<String> {
        let base = Base::Task { alloc_dir: &task.dirs.alloc_dir, directory };
        let opened = base.open(Path::new(""));
        let listed =
            opened.and_then(|found| std::fs::read_dir(format!("/proc/self/fd/{}", found.as_raw_fd())));
        let entries = listed.into_iter().flatten().take(LOOKED_AT);
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    };
    // With other drivers `alloc` in that directory is the group's shared directory, which is elsewhere here.
    if let Some(name) = entries(&task_dir.join("alloc")).into_iter().min() {
        return Some(format!(
            "\"alloc/{name}\" in the task directory is not visible to the task: write \"${{NOMAD_ALLOC_DIR}}/{name}\" as the \
             `destination` of the `template` or `artifact`"
        ));
    }
    let name = entries(task_dir).into_iter().filter(|name| !OF_NOMAD.contains(&name.as_str())).min()?;
    Some(format!(
        "{name:?} in the task directory is not visible to the task: let the `template` or `artifact` put it below \
         `local/`, such as in `local/{name}`, and use `files.bind_paths` to show it elsewhere"
    ))
}

/// The path of a command that is written as for drivers whose tasks begin in the task directory, such as `local/x`, if that
/// file exists and no file of that name in `local/`; `has_view`: the task has a view of its own.
pub(crate) fn command(dirs: &TaskDirs, command: &str, has_view: bool) -> Option<String> {
    let word = command.trim_start_matches("./");
    let (host, inside, below) = dirs.named(Path::new(word)).filter(|_| is_misplaced(dirs, word))?;
    let directory = if has_view { Path::new(inside) } else { host };
    directory.join(below).to_str().map(str::to_owned)
}

/// The words of an argument, which may be a script.
pub(super) fn words(arg: &str) -> impl Iterator<Item = &str> {
    let ends = |letter: char| letter.is_whitespace() || "'\"`;|&()<>=,".contains(letter);
    arg.split(ends).map(|word| word.trim_start_matches("./")).filter(|word| !word.is_empty())
}

/// Is there such a file, but not from the task's `local/`?
fn is_misplaced(dirs: &TaskDirs, word: &str) -> bool {
    let Some((host, _, below)) = dirs.named(Path::new(word)) else { return false };
    is_there(dirs, host, below) && !exists(&dirs.local, Path::new(word))
}

/// Is the path there, in a directory of the task? Of what neighbours close to others in `/alloc` nothing is told.
fn is_there(dirs: &TaskDirs, directory: &Path, below: &Path) -> bool {
    if directory != dirs.shared {
        return exists(directory, below);
    }
    !below.as_os_str().is_empty() && matches!(look(Base::Host(directory), below), Ok(Seen::There(_)))
}

/// Can such a file be made in a directory that is there, but not from the task's `local/`?
fn would_be_misplaced(dirs: &TaskDirs, word: &str) -> bool {
    let Some((host, _, below)) = dirs.named(Path::new(word)) else { return false };
    let (Some(inside), Some(from_local)) = (below.parent(), Path::new(word).parent()) else { return false };
    // The directory of the group is always there.
    let is_in_shared = host == dirs.shared && inside.as_os_str().is_empty();
    (is_in_shared || is_there(dirs, host, inside)) && !exists(&dirs.local, from_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_by_its_name_in_the_task_directory() {
        let alloc = tempfile::tempdir().unwrap();
        let dirs = TaskDirs::new(alloc.path(), "web");
        std::fs::create_dir_all(&dirs.local).unwrap();
        std::fs::write(dirs.local.join("x.sh"), "").unwrap();
        assert_eq!(command(&dirs, "local/x.sh", true).as_deref(), Some("/local/x.sh"));
        let on_host = dirs.local.join("x.sh").display().to_string();
        assert_eq!(command(&dirs, "./local/x.sh", false), Some(on_host));
        for other in ["x.sh", "local/none", "/local/x.sh", "sh"] {
            assert_eq!(command(&dirs, other, true), None, "{other}");
        }
    }

    #[test]
    fn only_what_is_there_under_the_other_name_is_misplaced() {
        let alloc = tempfile::tempdir().unwrap();
        let dirs = TaskDirs::new(alloc.path(), "web");
        for directory in [dirs.local.join("local"), dirs.shared.join("data"), dirs.secrets.clone()] {
            std::fs::create_dir_all(directory).unwrap();
        }
        for file in [dirs.local.join("x.sh"), dirs.local.join("local/y"), dirs.shared.join("data/z")] {
            std::fs::write(file, "").unwrap();
        }
        std::fs::write(dirs.local.join("y"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dirs.local.join("link")).unwrap();
        assert!(would_be_misplaced(&dirs, "alloc/data/new") && would_be_misplaced(&dirs, "alloc/new"));
        assert!(is_closed("alloc/new") && !is_closed("alloc/data/new") && !is_closed("secrets/new"));
        for word in ["local/new", "secrets/new", "alloc/none/new", "data/new", "local", "/alloc/data/new"] {
            assert!(!would_be_misplaced(&dirs, word), "{word}");
        }
        let is_misplaced = |arg: &str| words(arg).any(|word| super::is_misplaced(&dirs, word));
        for arg in ["local/x.sh", "./local/x.sh", "set -e; cat 'local/x.sh' >o", "--file=alloc/data/z"] {
            assert!(is_misplaced(arg), "{arg}");
        }
        for arg in [
            "x.sh",
            "local/y",
            "local/none",
            "local",
            "/local/x.sh",
            "local/link",
            "local/../x.sh",
            "mylocal/x.sh",
        ] {
            assert!(!is_misplaced(arg), "{arg}");
        }
    }
}
