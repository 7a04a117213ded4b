//! Turns a task into the properties of its transient unit, one function per concern. Touches nothing.

mod calls;
mod copier;
mod mounts;
mod sockets;

use std::path::{Path, PathBuf};

use task_init::Calls;

use crate::systemd::{Assignment, Bind, Manager, Meaning, Property, Stream, TransientUnit};
use crate::task::config::NetworkMode;
use crate::task::host::env;
use crate::task::host::resources::HostResources;
use crate::task::host::runtime_dir;
use crate::task::host::view::{self, Sight, View};
use crate::task::slice_names::{RESERVE, SHARE};
use crate::task::spec::activation::Readiness;
use crate::task::spec::{Identity, Memory, Output, TaskKind, TaskSpec};

use self::calls::leave_to_shim;
pub use self::copier::copier;
use self::mounts::{images, memory_pressure, mounts};
use self::sockets::sockets;

/// Mount options of the file system for the socket that receives a program's messages to systemd.
const OF_NOTIFY: &str = "mode=0777,nosuid,nodev,noexec,size=4k,nr_inodes=8";

/// Where the runner of WebAssembly reports to systemd how a guest ended.
const NOTIFY: &str = "/run/systemd/notify";

/// What the unit of one run executes.
#[derive(Debug, Clone)]
pub struct Command {
    /// wasm-shim, on the host: the init of a native program, or the runner of a guest.
    pub shim: PathBuf,
    /// A native program, by its path in the task's view; or the compiled code of a guest, on the host.
    pub program: PathBuf,
    /// The name that the program sees as its own.
    pub name: String,
}

impl Command {
    /// The native program at this path in the view of `task`. A program that looks for itself by its name finds itself:
    /// a relative path does not begin in the working directory.
    pub fn native(shim: PathBuf, program: PathBuf, task: &TaskSpec) -> Self {
        let is_relative = task.command.contains('/') && !task.command.starts_with('/');
        let name = if is_relative { program.display().to_string() } else { task.command.clone() };
        Self { shim, program, name }
    }
}

/// What the process starts with, which only a running driver can choose, write or open.
#[derive(Debug)]
pub struct ProcessStart {
    /// The name of the task's ephemeral user, if it has one.
    pub ephemeral_user: String,
    /// The file with the task's environment.
    pub env_file: PathBuf,
    /// The null device, or where a program's init reports that the program runs.
    pub stdin: Stream,
    /// The task's stdout.
    pub stdout: Stream,
    /// The task's stderr.
    pub stderr: Stream,
}

/// The unit of `task`.
pub fn build(
    task: &TaskSpec,
    command: &Command,
    mut made: HostResources,
    begin: ProcessStart,
) -> TransientUnit {
    let calls = leave_to_shim(&mut made.settings);
    let sockets = sockets(task, &made);
    let of_view = view::Made {
        root: &made.root,
        dirs: &made.dirs,
        writable: made.writable.as_deref(),
        overlays: &made.overlays,
    };
    let concerns = [
        lifecycle(task),
        run(task, command, &made, calls),
        task.view.properties(&task.dirs, &of_view, sight(task, &made.settings)),
        made.terminals
            .map(|terminals| Property::BindPaths(vec![Bind::new(terminals, "/dev/pts")]))
            .into_iter()
            .collect(),
        identity(task, begin.ephemeral_user),
        streams(begin.stdin, begin.stdout, begin.stderr),
        journal(&task.output),
        memory(task.memory),
        vec![
            Property::CPUWeight(task.cpu_weight),
            Property::EnvironmentFile(begin.env_file),
            Property::WorkingDirectory(task.working_directory.clone()),
        ],
        task.cores.iter().map(|cores| Property::AllowedCPUs(cores.clone())).collect(),
        network(task, &made.settings, made.network, made.etc),
        mounts(task, &made.mounts),
        credentials(made.credentials, made.encrypted),
        images(&made.settings),
        memory_pressure(task, &made.settings).into_iter().collect(),
        made.settings.into_iter().map(Property::Assigned).collect(),
    ];
    let properties = concerns.into_iter().flatten().collect();
    let ready_within = task.readiness.ready_within.unwrap_or_default();
    TransientUnit { name: task.unit.clone(), properties, sockets, ready_within }
}

fn network(
    task: &TaskSpec,
    settings: &[Assignment],
    of_group: Option<PathBuf>,
    etc: Vec<(PathBuf, PathBuf)>,
) -> Vec<Property> {
    // systemd would prefer the group's namespace to the private network of a guest that is granted none.
    let is_granted_none = matches!(task.kind, TaskKind::Guest(_)) && has_own_network(settings);
    let of_group = of_group.filter(|_| !is_granted_none).map(Property::NetworkNamespacePath);
    let mut properties = Vec::from_iter(of_group);
    if !etc.is_empty() {
        let binds = etc.into_iter().map(|(source, target)| Bind::new(source, target)).collect();
        properties.push(Property::BindReadOnlyPaths(binds));
    }
    properties
}

fn has_own_network(settings: &[Assignment]) -> bool {
    let last = Assignment::last(settings, "PrivateNetwork");
    last.is_some_and(|line| line.meaning() == Meaning::Text("yes".to_owned()))
}

fn sight(task: &TaskSpec, settings: &[Assignment]) -> Sight {
    // For systemd the namespace of a group takes precedence over a private one of the task.
    let is_of_group = matches!((&task.network, &task.kind), (NetworkMode::Group { .. }, TaskKind::Native));
    let mut targets = settings.iter().flat_map(Assignment::mount_points).map(|(_, target)| target);
    Sight {
        of_root: task.hides_root_only_files,
        of_resolver: is_of_group || !has_own_network(settings),
        has_shared_memory: targets.any(|target| target == view::SHARED_MEMORY.0),
    }
}

fn credentials(plain: Vec<(String, PathBuf)>, encrypted: Vec<(String, PathBuf)>) -> Vec<Property> {
    let mut properties = Vec::new();
    if !plain.is_empty() {
        properties.push(Property::LoadCredential(plain));
    }
    if !encrypted.is_empty() {
        properties.push(Property::LoadCredentialEncrypted(encrypted));
    }
    properties
}

/// The slice of a task.
pub fn slice_of(task: &TaskSpec) -> &'static str {
    if task.cores.is_some() { RESERVE } else { SHARE }
}

/// One run, whose exit status is kept however long nobody asks for it.
fn lifecycle(task: &TaskSpec) -> Vec<Property> {
    let Readiness { ready_within, watchdog, all, speaks } = task.readiness;
    let mut properties = vec![
        Property::Description(task.description.clone()),
        Property::Slice(slice_of(task)),
        // The start is complete when the program itself runs, so a program that cannot be executed is a failed start;
        // or when the program reports that it is ready.
        Property::Type(if ready_within.is_some() { "notify" } else { "exec" }),
        Property::RemainAfterExit(true),
        Property::CollectMode("inactive"),
    ];
    if task.kind == TaskKind::Native {
        // systemd signals the init, which passes the signal on; signalled by both, a program would exit too early.
        properties.push(Property::KillMode("mixed"));
    }
    properties.extend(ready_within.map(Property::TimeoutStart));
    properties.extend(watchdog.map(Property::Watchdog));
    if task.speaks() && !all && task.identity != Identity::Driver {
        properties.push(Property::TemporaryFileSystem(vec![(notify_directory(task), OF_NOTIFY)]));
    }
    // The runner of WebAssembly reports how a guest ended that did not exit by itself.
    if speaks || task.guest().is_some() {
        properties.push(Property::NotifyAccess(if all { "all" } else { "main" }));
        if task.view != View::Host && task.identity != Identity::Driver {
            // systemd mounts it by itself, but not yet in 247; a user's systemd has another place for it.
            properties.push(Property::BindReadOnlyPaths(vec![Bind {
                optional: true,
                ..Bind::new(NOTIFY, NOTIFY)
            }]));
        }
    }
    properties
}

/// Where the init of a program receives the program's messages to systemd: in a file system of the task's own, or in a
/// directory of the user if its tasks have none.
fn notify_directory(task: &TaskSpec) -> PathBuf {
    match task.view {
        View::Private { .. } => view::NOTIFY.into(),
        View::Own => format!("/run{}", view::NOTIFY).into(),
        View::Host => {
            let manager = if task.identity == Identity::Driver { Manager::User } else { Manager::System };
            view::runtime_dir(manager).join("notify")
        }
    }
}

fn notify_socket(task: &TaskSpec) -> String {
    let directory = notify_directory(task);
    // One directory for all tasks of a user; the end of a unit's name is unique, the whole name too long for a socket.
    let own = task.unit.as_str().trim_end_matches(".service").rsplit('-').next().unwrap_or_default();
    let name = if task.identity == Identity::Driver { own } else { "socket" };
    directory.join(name).display().to_string()
}

fn run(task: &TaskSpec, command: &Command, made: &HostResources, calls: Option<Calls>) -> Vec<Property> {
    let same = made.same.iter().flat_map(|same| ["--same".to_owned(), same.to_string()]);
    let calls = calls.map(|calls| ["--calls".to_owned(), calls.name().to_owned()]);
    let checked = same.chain(calls.into_iter().flatten());
    let mut ours = vec![(command.shim.as_path(), view::SHIM)];
    if task.guest().is_some() {
        ours.push((&command.program, view::GUEST));
    }
    let (binds, inside) = in_view(task, &ours);
    let shim = inside[0].clone();
    let mut argv = vec!["wasm-shim".to_owned()];
    let carried = env::carrier(&task.env).map(|prefix| ["--carried".to_owned(), prefix]);
    match (&task.kind, carried) {
        (TaskKind::Native, carried) => {
            argv.push("init".to_owned());
            argv.extend(carried.into_iter().flatten());
            if task.speaks() {
                let place = if task.readiness.all { "all".to_owned() } else { notify_socket(task) };
                argv.extend(["--notify".to_owned(), place]);
            }
            argv.extend(checked);
            // The driver has only the user's rights to inspect the init.
            argv.extend((task.identity == Identity::Driver).then(|| "--inspectable".to_owned()));
            argv.extend(["--report".to_owned(), "--".to_owned(), command.program.display().to_string()]);
            argv.push(command.name.clone());
            argv.extend(task.args.iter().cloned());
        }
        (TaskKind::Guest(guest), None) => {
            argv = guest.command_line(&inside[1], &command.name, &task.args, checked);
        }
        (TaskKind::Guest(guest), Some(carried)) => {
            argv.push("become".to_owned());
            argv.extend(carried);
            argv.extend(["--".to_owned(), shim.display().to_string()]);
            argv.extend(guest.command_line(&inside[1], &command.name, &task.args, checked));
        }
    }
    let mut properties = Vec::from_iter(binds);
    if made.settings.iter().any(|line| line.name() == "NoExecPaths") {
        // The program that runs the task may be executed, whatever else may not.
        properties.push(Property::ExecPaths(vec![shim.clone()]));
    }
    properties.push(Property::ExecStart { path: shim, argv });
    properties
}

/// Mounts by which the task sees files of the driver, and the path of each file in the view. Each is given by its host
/// path and its path in a view of the task's own.
fn in_view(task: &TaskSpec, files: &[(&Path, &str)]) -> (Option<Property>, Vec<PathBuf>) {
    let (binds, inside): (Vec<_>, Vec<_>) = match task.view {
        View::Private { .. } => {
            let bind = |(file, target): &(&Path, &str)| (Bind::new(file, target), PathBuf::from(target));
            files.iter().map(bind).unzip()
        }
        // A root of the job's own may be read-only, and lacks our mount points; its /run is systemd's, and empty.
        View::Own => {
            let place = |target: &str| PathBuf::from(format!("/run{target}"));
            let bind = |(file, target): &(&Path, &str)| (Bind::new(file, place(target)), place(target));
            files.iter().map(bind).unzip()
        }
        View::Host => {
            // A task of the system manager may have its own /tmp, in which the files that run it must be found, too.
            let is_hidden = |path: &Path| {
                task.identity != Identity::Driver
                    && TEMPORARY.iter().any(|directory| path.starts_with(directory))
            };
            let hidden = files.iter().filter(|(file, _)| is_hidden(file));
            let binds = hidden.map(|(file, _)| Bind::new(file, file)).collect();
            (binds, files.iter().map(|(file, _)| (*file).to_owned()).collect())
        }
    };
    ((!binds.is_empty()).then_some(Property::BindReadOnlyPaths(binds)), inside)
}

/// The directories that `PrivateTmp=` replaces.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

fn identity(task: &TaskSpec, ephemeral_user: String) -> Vec<Property> {
    match &task.identity {
        Identity::User(user) => vec![Property::User(user.clone())],
        Identity::Number(number) => vec![Property::User(runtime_dir::user_name(*number))],
        Identity::Driver => vec![],
        Identity::Ephemeral => {
            let mut properties = vec![Property::DynamicUser(true), Property::User(ephemeral_user)];
            if task.view == View::Host {
                // An ephemeral user implies a read-only host; the task's own directories stay writable, those in
                // `alloc` as the view mounts them.
                properties
                    .push(Property::ReadWritePaths(task.dirs.own().map(|(host, _)| host.to_owned()).into()));
            }
            properties
        }
    }
}

fn streams(stdin: Stream, stdout: Stream, stderr: Stream) -> Vec<Property> {
    vec![Property::StandardInput(stdin), Property::StandardOutput(stdout), Property::StandardError(stderr)]
}

/// Fields that the journal adds to each line of the unit, also to lines that a task sends there by itself.
fn journal(output: &Output) -> Vec<Property> {
    let mut properties = vec![
        Property::SyslogIdentifier(output.identifier.clone()),
        Property::LogExtraFields(output.fields.clone()),
    ];
    properties.extend(output.namespace.clone().map(Property::LogNamespace));
    properties.extend(output.burst.map(Property::LogRateLimitBurst));
    properties.extend(output.interval.map(Property::LogRateLimitInterval));
    properties
}

fn memory(memory: Memory) -> Vec<Property> {
    let Memory { reserved, ceiling } = memory;
    reserved.map(Property::MemoryLow).into_iter().chain(ceiling.map(Property::MemoryMax)).collect()
}
