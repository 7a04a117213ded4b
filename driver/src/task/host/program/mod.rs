//! Finds the program that a job's `command` names, and determines its kind by its content.
//!
//! A task can write to its own directories, so files there are opened without ever following a link out of them, and
//! everything is decided on the open file.

mod content;
mod error;
mod loader;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

pub use self::content::ProgramKind;
use self::content::kind;
pub use self::error::Error;
use self::loader::Loader;
use crate::systemd::Assignment;
use crate::task::config::Mount;
use crate::task::host::dirs::TaskDirs;
use crate::task::host::look::{self, Seen, look};
use crate::task::host::open::{self, is_link_out, open_within, reopen_regular};
use crate::task::host::pin::Base;
use crate::task::host::view::{View, is_plain};

/// A program that can be started.
#[derive(Debug)]
pub enum Program {
    /// A program that the kernel can run.
    Native {
        /// Path in the task's view.
        path: PathBuf,
        /// The open file, if it is in a directory of the task or of its group: it is made executable before it is started.
        own: Option<File>,
    },
    /// WebAssembly, to be run by wasm-shim.
    Wasm {
        /// The open file.
        module: File,
        /// Name of the file, which the guest sees as its own name.
        name: String,
    },
}

impl Program {
    /// A program that is not the task's own, or whose kind only systemd will know.
    fn elsewhere(path: PathBuf) -> Self {
        Self::Native { path, own: None }
    }

    /// The kind of the program.
    pub fn kind(&self) -> ProgramKind {
        match self {
            Self::Native { .. } => ProgramKind::Native,
            Self::Wasm { .. } => ProgramKind::Wasm,
        }
    }
}

/// Makes wasm-shim unreadable to all users except root. The kernel then lets no process of the task's user access a
/// process that executes it (ptrace(2), "dumpable"), from the first moment: the init of a task is confined, and
/// confines, before other processes of the same user can stop it and write to its memory.
pub fn make_unreadable(shim: &Path) {
    const READ_BY_OTHERS: u32 = 0o044;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Ok(found) = std::fs::metadata(shim) else { return };
    if found.mode() & READ_BY_OTHERS != 0 {
        let mode = std::fs::Permissions::from_mode(found.mode() & 0o7777 & !READ_BY_OTHERS);
        if let Err(error) = std::fs::set_permissions(shim, mode) {
            tracing::warn!(
                path = %shim.display(), %error,
                "wasm-shim can be read by everybody, so tasks of one user can change each other's init; run `chmod go-r` on it"
            );
        }
    }
}

/// Makes the task's own program executable, if nobody may execute it: downloads of an `artifact` block are not.
pub fn make_executable(path: &Path, own: Option<&File>) -> Result<(), Error> {
    let made = own.map_or(Ok(()), open::make_executable);
    made.map_err(|source| Error::Open { path: path.to_owned(), source })
}

/// Where a command is looked up.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The task's view of the host.
    pub view: &'a View,
    /// The task's directories.
    pub dirs: &'a TaskDirs,
    /// The task's volumes.
    pub mounts: &'a [Mount],
    /// The task's `PATH`, if the job sets one.
    pub path: Option<&'a str>,
    /// Where something else is mounted for the task, see [`mounted`].
    pub mounted: &'a [PathBuf],
}

/// Where these properties mount something. Only systemd will know what it contains.
pub fn mounted(settings: &[Assignment]) -> Vec<PathBuf> {
    let extends = |line: &Assignment| line.name().starts_with("Extension").then(|| PathBuf::from("/usr"));
    let points = |line: &Assignment| line.mount_points().into_iter().map(|(_, target)| PathBuf::from(target));
    settings.iter().flat_map(|line| points(line).chain(extends(line))).collect()
}

/// Maximum number of directories of a `PATH` that are searched.
const SEARCHED: usize = 64;

/// Where a path of a task's view is on the host.
enum Spot<'a> {
    /// In a directory of the task alone, at this path.
    Task(&'a Path, PathBuf),
    /// In the directory that the tasks of the group share, at this path.
    Shared(&'a Path, PathBuf),
    /// In this host directory, such as a volume, which is not the task's own.
    Host(&'a Path, PathBuf),
}

/// Default `PATH` of units (systemd.exec(5), `ExecSearchPath=`).
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most probable meaning of `command` where no allocation exists: a program of this machine for a name alone,
/// otherwise a file of the task.
pub fn guess(command: &str, surroundings: Surroundings<'_>) -> PathBuf {
    let candidates = surroundings.candidates(command);
    let of_machine = candidates.iter().skip(1).find(|path| path.is_file());
    let of_task = if command.contains('/') { candidates.last() } else { candidates.first() };
    of_machine.or(of_task).cloned().unwrap_or_default()
}

impl<'a> Surroundings<'a> {
    fn is_mounted_over(self, path: &Path) -> bool {
        self.mounted.iter().any(|target| path.starts_with(target))
    }

    fn spot(self, path: &'a Path) -> Option<Spot<'a>> {
        // The mount that hides the others. No mount replaces the whole root, see `crate::task::host::targets`.
        let mounts = self.mounts.iter().filter(|mount| mount.target.parent().is_some());
        let volumes = mounts.filter_map(|mount| Some((mount, path.strip_prefix(&mount.target).ok()?)));
        if let Some((mount, inside)) = volumes.max_by_key(|(mount, _)| mount.target.components().count()) {
            return Some(Spot::Host(&mount.source, inside.to_owned()));
        }
        if let (Some(directory), inside) = self.view.locate(path, self.dirs).ok()? {
            let is_shared = directory.starts_with(&self.dirs.shared);
            return Some(if is_shared {
                Spot::Shared(directory, inside)
            } else {
                Spot::Task(directory, inside)
            });
        }
        let base = match self.view {
            View::Private { host_paths } => {
                let bases = host_paths.iter().filter(|base| path.starts_with(base));
                bases.max_by_key(|base| base.components().count())?
            }
            View::Host | View::Own => Path::new("/"),
        };
        Some(Spot::Host(base, path.strip_prefix(base).ok()?.to_owned()))
    }

    /// The host path of a file of the task; a host path is returned unchanged.
    pub fn on_host(self, path: &Path) -> PathBuf {
        match self.spot(path) {
            Some(
                Spot::Task(directory, inside)
                | Spot::Shared(directory, inside)
                | Spot::Host(directory, inside),
            ) => directory.join(inside),
            None => path.to_owned(),
        }
    }

    /// Is this the name of `local`, `secrets` or `alloc`?
    fn is_own_directory(self, command: &str) -> bool {
        self.dirs.named(Path::new(command)).is_some_and(|(.., below)| below.as_os_str().is_empty())
    }

    /// Is this a file of the task directory that only drivers show which have it as their root?
    fn is_beside_local(self, command: &str) -> bool {
        let is_hidden = *self.view != View::Host && !Path::new(command).is_absolute();
        let task_dir = self.dirs.local.parent().filter(|_| is_hidden);
        task_dir.is_some_and(|task_dir| open::exists(task_dir, Path::new(command)))
    }

    /// The paths that `command` can mean, in order: an absolute path, a file in the task's directories, and for a name
    /// alone a program of the task's `PATH`.
    fn candidates(self, command: &str) -> Vec<PathBuf> {
        let local = self.view.working_directory(self.dirs);
        let mut candidates = vec![local.join(command)];
        if Path::new(command).is_absolute() {
            return candidates;
        }
        // The name of a directory alone does not name a program.
        let of_task = self.dirs.named(Path::new(command)).filter(|(.., below)| !below.as_os_str().is_empty());
        candidates.extend(of_task.map(|(host, inside, below)| {
            let directory = if *self.view == View::Host { host } else { Path::new(inside) };
            directory.join(below)
        }));
        // The content of a root of the task's own is not known here.
        if !command.contains('/') && *self.view != View::Own {
            let path = self.path.unwrap_or(USUAL_PATH).split(':').take(SEARCHED);
            candidates
                .extend(path.map(Path::new).filter(|dir| dir.is_absolute()).map(|dir| dir.join(command)));
        }
        candidates
    }
}

/// Can `command` name a program?
pub fn check_command(command: &str) -> Result<(), Error> {
    if command.is_empty() {
        return Err(Error::Empty);
    }
    // A path such as `/usr/../root` is not in `/usr`.
    if is_plain(&Path::new("/").join(command)) {
        Ok(())
    } else {
        Err(Error::NotPlain { command: command.to_owned() })
    }
}

/// Finds `command` and makes sure that it can run here, without changing anything.
pub fn find(command: &str, surroundings: Surroundings<'_>) -> Result<Program, Error> {
    check_command(command)?;
    let candidates = surroundings.candidates(command);
    let (last, others) = candidates.split_last().ok_or(Error::Empty)?;
    for path in others {
        match at(path, surroundings) {
            Err(Error::Missing { .. } | Error::NotInView { .. }) => {}
            found => return found,
        }
    }
    match at(last, surroundings) {
        Err(Error::Missing { .. } | Error::NotInView { .. }) if command.trim() != command => {
            Err(Error::Blank { command: command.to_owned() })
        }
        Err(Error::Missing { .. } | Error::NotInView { .. }) if command.contains(' ') => {
            Err(Error::WithArguments { command: command.to_owned() })
        }
        Err(Error::Missing { .. } | Error::NotInView { .. }) if surroundings.is_own_directory(command) => {
            Err(Error::NotAFile { path: command.into() })
        }
        Err(Error::Missing { .. } | Error::NotInView { .. }) if surroundings.is_beside_local(command) => {
            Err(Error::BesideLocal { command: command.to_owned() })
        }
        Err(Error::Missing { .. } | Error::NotInView { .. }) if !others.is_empty() => {
            let searched =
                candidates.iter().filter_map(|path| path.parent()).map(|dir| dir.display().to_string());
            Err(Error::NotFound {
                command: command.to_owned(),
                searched: format!("in none of {}", searched.collect::<Vec<_>>().join(", ")),
            })
        }
        Err(Error::Missing { path }) if !Path::new(command).is_absolute() => {
            let directory = path.parent().unwrap_or(&path).display().to_string();
            let more = if *surroundings.view == View::Own && !command.contains('/') {
                ", and `PATH` is not searched in a root that the job names: write a path in it, such as `/usr/bin/env`"
            } else {
                ""
            };
            Err(Error::NotFound {
                command: command.to_owned(),
                searched: format!("not in {directory}{more}"),
            })
        }
        found => found,
    }
}

/// Is this the name of a guest's file? Its content decides, where that can be read.
pub(crate) fn is_named_wasm(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm")
}

/// A program in what the job mounts. The driver reads a guest before there is a view of the task. What is mounted over the
/// task's own directories is refused later.
fn in_mount(path: PathBuf, surroundings: Surroundings<'_>) -> Result<Program, Error> {
    let is_own = surroundings.dirs.pairs().iter().any(|(_, inside)| path.starts_with(inside));
    if is_named_wasm(&path) && !is_own {
        Err(Error::GuestInMount { path })
    } else {
        Ok(Program::elsewhere(path))
    }
}

/// A regular file that everybody may reach, in a directory to which others can write; `None` if it lies in one that is
/// closed.
fn open_of_others(base: Base<'_>, inside: &Path) -> io::Result<Option<File>> {
    match look(base, inside)? {
        Seen::There(found) => reopen_regular(&found).map(Some),
        Seen::Missing => Err(io::ErrorKind::NotFound.into()),
        Seen::Hidden => Ok(None),
    }
}

/// The file at this `path` of the view; `None` if only the task itself may look at it, or will find it.
fn open_spot(spot: &Spot<'_>, path: &Path, alloc_dir: &Path) -> Result<Option<File>, Error> {
    let (Spot::Task(_, inside) | Spot::Shared(_, inside) | Spot::Host(_, inside)) = spot;
    if inside.as_os_str().is_empty() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let opened = match spot {
        Spot::Task(directory, inside) => open_within(alloc_dir, directory, inside).map(Some),
        // The driver can read files that the task's user may not: it must not tell the author what is there, nor run it.
        Spot::Shared(directory, inside) => open_of_others(Base::Task { alloc_dir, directory }, inside),
        Spot::Host(base, inside) => open_of_others(Base::Host(base), inside),
    };
    let path = path.to_owned();
    match opened {
        // A link of the task leads to the operating system: it is followed in the task's view, and not here.
        Err(error) if is_link_out(&error) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(Error::NotAFile { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing { path }),
        Err(source) => Err(Error::Open { path, source }),
        Ok(file) => Ok(file),
    }
}

/// The program at this path of the view.
fn at(path: &Path, surroundings: Surroundings<'_>) -> Result<Program, Error> {
    let path = path.to_owned();
    if surroundings.is_mounted_over(&path) {
        return in_mount(path, surroundings);
    }
    let spot = match surroundings.spot(&path) {
        Some(spot) => spot,
        // Only systemd will know what is in there.
        None if *surroundings.view == View::Own => return Ok(Program::elsewhere(path)),
        None => return Err(Error::NotInView { path }),
    };
    let Some(mut file) = open_spot(&spot, &path, &surroundings.dirs.alloc_dir)? else {
        return Ok(Program::elsewhere(path));
    };
    let metadata = file.metadata().map_err(|source| Error::Open { path: path.clone(), source })?;
    if !metadata.is_file() {
        return Err(Error::NotAFile { path });
    }
    let is_tasks = !matches!(spot, Spot::Host(..));
    // Others may have put a private file there, even into the task's own directory before its first start.
    if !look::is_readable(&file).unwrap_or(false) {
        return if is_named_wasm(&path) {
            Err(Error::PrivateGuest { path })
        } else {
            Ok(Program::elsewhere(path))
        };
    }
    let mut head = [0; 64];
    let read = file.read(&mut head).and_then(|read| file.rewind().map(|()| read));
    let head = match read {
        Ok(length) => &head[..length],
        Err(source) => return Err(Error::Open { path, source }),
    };
    match kind(head, &path, is_tasks)? {
        ProgramKind::Wasm => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(Program::Wasm { module: file, name })
        }
        ProgramKind::Native if is_noexec(&file) => Err(Error::NoExec { path }),
        ProgramKind::Native => {
            match loader::of(&file) {
                Some(Loader::CarriageReturn) => return Err(Error::CarriageReturn { path }),
                Some(Loader::Interpreter(loader) | Loader::Dynamic(loader))
                    if is_missing(&loader, surroundings) =>
                {
                    return Err(Error::NoLoader { path, loader });
                }
                _ => {}
            }
            Ok(Program::Native { path, own: is_tasks.then_some(file) })
        }
    }
}

/// Does the kernel execute nothing of the file system that has this file?
fn is_noexec(file: &File) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Is it certain that the task will not find anything at this path of its view?
fn is_missing(path: &Path, surroundings: Surroundings<'_>) -> bool {
    // A relative path is relative to the task's later working directory.
    if !is_plain(path) || surroundings.is_mounted_over(path) {
        return false;
    }
    let not_found = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    match surroundings.spot(path) {
        None => *surroundings.view != View::Own,
        Some(Spot::Task(directory, inside)) => {
            open_within(&surroundings.dirs.alloc_dir, directory, &inside).is_err_and(not_found)
        }
        Some(Spot::Shared(directory, inside)) => {
            let alloc_dir = &surroundings.dirs.alloc_dir;
            matches!(look(Base::Task { alloc_dir, directory }, &inside), Ok(Seen::Missing))
        }
        Some(Spot::Host(base, inside)) => matches!(look(Base::Host(base), &inside), Ok(Seen::Missing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Task {
        dir: tempfile::TempDir,
        dirs: TaskDirs,
    }

    impl Task {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let dirs = TaskDirs::new(dir.path(), "web");
            std::fs::create_dir_all(&dirs.local).unwrap();
            Self { dir, dirs }
        }

        fn with(self, name: &str, content: &[u8]) -> Self {
            std::fs::write(self.dirs.local.join(name), content).unwrap();
            self
        }

        fn find(&self, command: &str) -> Result<Program, Error> {
            self.find_with(command, &[], None)
        }

        fn find_with(&self, command: &str, mounts: &[Mount], path: Option<&str>) -> Result<Program, Error> {
            let host_paths = ["/usr", "/bin", "/lib", "/lib64"].map(PathBuf::from).into();
            let view = View::Private { host_paths };
            find(command, Surroundings { view: &view, dirs: &self.dirs, mounts, path, mounted: &[] })
        }
    }

    fn elf(machine: u8) -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(64, 0);
        head[18] = machine;
        head
    }

    #[test]
    fn a_script_in_local_is_found_and_made_executable_no_sooner_than_it_is_started() {
        let task = Task::new().with("run", b"#!/bin/sh\n");
        let mode = || std::fs::metadata(task.dirs.local.join("run")).unwrap().permissions().mode() & 0o111;
        let Ok(Program::Native { path, own }) = task.find("run") else { panic!("it is native") };
        assert_eq!((path.as_path(), mode()), (Path::new("/local/run"), 0));
        make_executable(&path, own.as_ref()).unwrap();
        assert_eq!(mode(), 0o111);
    }

    #[test]
    fn wasm_is_told_by_content_and_not_by_name() {
        let task = Task::new().with("plain-name", b"\0asm\x01\0\0\0").with("text.wasm", b"(module)");
        assert!(matches!(task.find("plain-name"), Ok(Program::Wasm { name, .. }) if name == "plain-name"));
        let error = task.find("text.wasm").unwrap_err().to_string();
        assert!(error.contains("not WebAssembly") && error.contains("(module)"), "{error}");
    }

    #[test]
    fn code_that_wasmtime_has_compiled_is_refused_whatever_its_name() {
        let mut code = elf(if cfg!(target_arch = "aarch64") { 183 } else { 62 });
        code[7] = 200;
        for name in ["x.cwasm", "x.wasm", "server"] {
            let error = Task::new().with(name, &code).find(name).unwrap_err().to_string();
            assert!(error.contains("not accepted from jobs") && error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_program_for_another_machine_is_refused_by_name() {
        let foreign = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
        let error = Task::new().with("server", &elf(foreign)).find("server").unwrap_err().to_string();
        assert!(error.contains("is a program for") && error.contains(std::env::consts::ARCH), "{error}");
    }

    fn path_of(found: Result<Program, Error>) -> String {
        match found {
            Ok(Program::Native { path, .. }) => path.display().to_string(),
            Ok(Program::Wasm { name, .. }) => name,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_does_not_exist_is_refused_with_where_it_was_looked_for() {
        let error = path_of(Task::new().find("no-such-program"));
        assert!(error.contains("none of /local, /usr/local/sbin, /usr/local/bin"), "{error}");
        let error = path_of(Task::new().find("bin/no-such-program"));
        assert!(error.contains("is not in /local/bin;"), "{error}");
        let error = path_of(Task::new().find("local/"));
        assert!(error.contains("is not a regular file"), "{error}");
        let task = Task::new();
        let surroundings =
            Surroundings { view: &View::Own, dirs: &task.dirs, mounts: &[], path: None, mounted: &[] };
        let error = path_of(find("sh", surroundings));
        assert!(error.contains("`PATH` is not searched"), "{error}");
        let error = path_of(Task::new().find("/usr/bin/no-such-program"));
        assert!(error.contains("/usr/bin/no-such-program does not exist"), "{error}");
    }

    #[test]
    fn a_command_that_only_other_drivers_find_is_told_of() {
        let task = Task::new();
        let task_dir = task.dirs.local.parent().unwrap();
        std::fs::create_dir_all(task_dir.join("bin")).unwrap();
        std::fs::write(task_dir.join("bin/run"), b"#!/bin/sh\n").unwrap();
        let error = path_of(task.find("bin/run"));
        assert!(error.contains("such as in `local/bin/run`"), "{error}");
        let error = path_of(task.find("$NOMAD_TASK_DIR/run"));
        assert!(error.contains("write `${NOMAD_TASK_DIR}/run`"), "{error}");
        let error = path_of(task.find("~/run"));
        assert!(error.contains("no shell reads `~`"), "{error}");
    }

    #[test]
    fn a_name_is_looked_up_in_local_and_then_in_the_path() {
        let task = Task::new();
        assert_eq!(path_of(task.find("env")), "/usr/bin/env");
        assert!(
            path_of(task.find_with("env", &[], Some("/usr/sbin:relative")))
                .contains("none of /local, /usr/sbin;")
        );
        assert_eq!(path_of(task.with("env", b"#!/bin/sh\n").find("env")), "/local/env");
    }

    #[test]
    fn a_path_from_the_tasks_directory_is_understood_unless_local_has_it() {
        let task = Task::new().with("run", b"#!/bin/sh\n");
        assert_eq!(path_of(task.find("local/run")), "/local/run");
        std::fs::create_dir_all(task.dirs.shared.join("bin")).unwrap();
        std::fs::write(task.dirs.shared.join("bin/x"), b"#!/bin/sh\n").unwrap();
        assert_eq!(path_of(task.find("alloc/bin/x")), "/alloc/bin/x");
        std::fs::create_dir(task.dirs.local.join("local")).unwrap();
        std::fs::write(task.dirs.local.join("local/run"), b"#!/bin/sh\n").unwrap();
        assert_eq!(path_of(task.find("local/run")), "/local/local/run");
    }

    #[test]
    fn a_program_in_a_volume_is_found_and_left_as_it_is() {
        let (task, volume) = (Task::new(), tempfile::tempdir().unwrap());
        let program = volume.path().join("run");
        std::fs::write(&program, b"#!/bin/sh\n").unwrap();
        symlink("/etc/hostname", volume.path().join("away")).unwrap();
        let mounts = [Mount {
            source: volume.path().to_owned(),
            target: "/opt/tools".into(),
            read_only: true,
            propagation: crate::task::config::Propagation::Private,
        }];
        let find = |command: &str| task.find_with(command, &mounts, None);
        assert_eq!(path_of(find("/opt/tools/run")), "/opt/tools/run");
        let mode = std::fs::metadata(&program).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0, "it is not the task's");
        assert_eq!(
            path_of(find("/opt/tools/away")),
            "/opt/tools/away",
            "where that leads to is the view's affair"
        );
        assert!(path_of(find("/opt/tools/no")).contains("does not exist"));
    }

    #[test]
    fn the_text_form_of_webassembly_is_named() {
        let error = path_of(Task::new().with("x.wat", b"(module)").find("x.wat"));
        assert!(error.contains("text form"), "{error}");
    }

    #[test]
    fn a_path_outside_the_view_is_refused() {
        assert!(matches!(Task::new().find("/home/me/x"), Err(Error::NotInView { .. })));
        assert!(matches!(Task::new().find(""), Err(Error::Empty)));
        assert!(matches!(Task::new().find("/local"), Err(Error::NotAFile { .. })));
    }

    #[test]
    fn what_only_root_may_read_is_left_to_the_tasks_own_rights() {
        let task = Task::new();
        let secret = task.dir.path().join("secret");
        std::fs::write(&secret, "root:$6$salt").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o640)).unwrap();
        let surroundings =
            Surroundings { view: &View::Host, dirs: &task.dirs, mounts: &[], path: None, mounted: &[] };
        let found = find(secret.to_str().unwrap(), surroundings);
        assert!(matches!(&found, Ok(Program::Native { path, .. }) if *path == secret), "{found:?}");
    }

    #[test]
    fn what_lies_behind_a_closed_directory_is_neither_read_nor_missed() {
        let (task, volume) = (Task::new(), tempfile::tempdir().unwrap());
        let closed = volume.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::write(closed.join("plain"), "password=hunter2").unwrap();
        std::fs::write(closed.join("x.wasm"), b"\0asm\x01\0\0\0").unwrap();
        let mounts = [Mount {
            source: volume.path().to_owned(),
            target: "/data".into(),
            read_only: true,
            propagation: crate::task::config::Propagation::Private,
        }];
        let find = |command: &str| path_of(task.find_with(command, &mounts, None));
        for (mode, is_open) in [(0o755, true), (0o700, false), (0o754, false)] {
            std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(mode)).unwrap();
            for command in ["/data/closed/plain", "/data/closed/x.wasm", "/data/closed/no/such"] {
                assert_eq!(find(command) == command, !is_open, "{mode:o}: {}", find(command));
                assert!(!find(command).contains("hunter2"), "{}", find(command));
            }
        }
    }

    #[test]
    fn a_private_file_that_a_neighbour_names_is_neither_read_nor_changed() {
        let task = Task::new();
        let data = task.dirs.shared.join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("key"), "#!password=hunter2").unwrap();
        std::fs::write(data.join("key.wasm"), b"\0asm\x01\0\0\0").unwrap();
        for name in ["key", "key.wasm"] {
            std::fs::set_permissions(data.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        symlink("key", data.join("tool")).unwrap();
        let found = task.find("/alloc/data/tool").unwrap();
        assert!(matches!(found, Program::Native { own: None, .. }), "{found:?}");
        assert!(matches!(task.find("/alloc/data/key.wasm"), Err(Error::PrivateGuest { .. })));
        std::fs::set_permissions(data.join("key"), PermissionsExt::from_mode(0o644)).unwrap();
        let found = task.find("/alloc/data/tool").unwrap();
        assert!(matches!(found, Program::Native { own: Some(_), .. }), "{found:?}");
    }

    #[test]
    fn a_path_that_leads_back_is_refused() {
        for command in ["/usr/../etc/passwd", "../../etc/passwd", "/local/../secrets/x", "a/../../b", "x\n"] {
            assert!(matches!(Task::new().find(command), Err(Error::NotPlain { .. })), "{command}");
        }
    }

    #[test]
    fn a_link_out_of_the_task_is_left_to_the_view_and_never_opened() {
        let task = Task::new();
        let outside = task.dir.path().join("outside");
        std::fs::write(&outside, "secret").unwrap();
        symlink(&outside, task.dirs.local.join("link")).unwrap();
        assert!(
            matches!(task.find("link"), Ok(Program::Native { path, .. }) if path == Path::new("/local/link"))
        );
    }
}
