//! Turns a task into the properties of its transient unit, one function per concern. Touches nothing.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::spec::{Identity, Memory, Output, TaskSpec};
use super::view::{self, View};
use crate::systemd::{Bind, Property, Stream, TransientUnit, UnitName};

/// The slice of all our units. Nomad makes `nomad.slice` itself, behind systemd's back; this one is apart from it.
pub const SLICE: &str = "nomad_tasks.slice";

/// Where the runner of WebAssembly tells systemd how a guest ended.
const NOTIFY: &str = "/run/systemd/notify";

/// What the unit runs.
#[derive(Debug, Clone)]
pub enum Command {
    /// A program at this path of the task's view.
    Native(PathBuf),
    /// A compiled guest and the runner for it, both on the host.
    Wasm {
        /// The runner.
        shim: PathBuf,
        /// The guest's code.
        code: PathBuf,
        /// The name the guest sees as its own.
        name: String,
    },
}

/// What only the running driver can open.
#[derive(Debug)]
pub struct Streams {
    /// The task's output.
    pub stdout: Stream,
    /// Its errors.
    pub stderr: Stream,
}

/// The unit of `task`.
pub fn build(task: &TaskSpec, command: &Command, env_file: &Path, streams: Streams) -> TransientUnit {
    let concerns = [
        lifecycle(task),
        run(task, command),
        task.view.properties(&task.dirs),
        identity(task),
        output(streams),
        journal(&task.output),
        memory(task.memory),
        vec![
            Property::CPUWeight(task.cpu_weight),
            Property::EnvironmentFile(env_file.to_owned()),
            Property::WorkingDirectory(task.working_directory.clone()),
        ],
    ];
    TransientUnit { name: task.unit.clone(), properties: concerns.into_iter().flatten().collect() }
}

/// One run, whose exit status stays to be read however long nobody asks for it.
fn lifecycle(task: &TaskSpec) -> Vec<Property> {
    vec![
        Property::Description(task.description.clone()),
        Property::Slice(SLICE),
        // The start is over when the program itself runs, so a program that cannot be run is a failed start.
        Property::Type("exec"),
        Property::RemainAfterExit(true),
        Property::CollectMode("inactive"),
        // The only difference to an ordinary process that systemd makes by default.
        Property::IgnoreSIGPIPE(false),
    ]
}

fn run(task: &TaskSpec, command: &Command) -> Vec<Property> {
    match command {
        Command::Native(path) => {
            let argv = std::iter::once(task.command.clone()).chain(task.args.iter().cloned()).collect();
            vec![Property::ExecStart { path: path.clone(), argv }]
        }
        Command::Wasm { shim, code, name } => {
            // The runner says how a guest ended that did not end by itself.
            let mut properties = vec![Property::NotifyAccess("main")];
            properties.extend(run_guest(task, shim, code, name));
            properties
        }
    }
}

fn run_guest(task: &TaskSpec, shim: &Path, code: &Path, name: &str) -> Vec<Property> {
    match task.view {
        View::Private { .. } => {
            let mount = |source: &Path, target: &str| Bind {
                source: source.to_owned(),
                target: target.into(),
                recursive: false,
                optional: false,
            };
            vec![
                Property::BindReadOnlyPaths(vec![
                    mount(shim, view::SHIM),
                    mount(code, view::GUEST),
                    // systemd puts it there by itself, but not yet in 247.
                    Bind { optional: true, ..mount(NOTIFY.as_ref(), NOTIFY) },
                ]),
                Property::ExecStart {
                    path: view::SHIM.into(),
                    argv: shim_argv(task, view::GUEST.as_ref(), name),
                },
            ]
        }
        View::Host => vec![Property::ExecStart { path: shim.to_owned(), argv: shim_argv(task, code, name) }],
    }
}

/// The shim's command line: the guest gets the task's three directories under the names that its environment says, the
/// task's variables and nothing else of the process's, and the job's arguments.
fn shim_argv(task: &TaskSpec, code: &Path, name: &str) -> Vec<String> {
    let mut argv = vec!["wasm-shim".to_owned(), "run".to_owned(), "--allow-precompiled".to_owned()];
    for (host, inside) in task.dirs.pairs() {
        let directory = match task.view {
            View::Private { .. } => inside.to_owned(),
            View::Host => host.display().to_string(),
        };
        argv.extend(["--dir".to_owned(), format!("{directory}::{directory}")]);
    }
    for variable in task.env.keys() {
        argv.extend(["--env".to_owned(), variable.clone()]);
    }
    argv.extend([format!("--argv0={name}"), "--".to_owned(), code.display().to_string()]);
    argv.extend(task.args.iter().cloned());
    argv
}

fn identity(task: &TaskSpec) -> Vec<Property> {
    match &task.identity {
        Identity::User(user) => vec![Property::User(user.clone())],
        Identity::Ephemeral => {
            // The number is made from the name: a task that is started again owns the files that it left in `local/`.
            let mut properties =
                vec![Property::DynamicUser(true), Property::User(task.ephemeral_user.clone())];
            if task.view == View::Host {
                // An ephemeral user implies a read-only host; the task's own directories stay writable.
                properties.push(Property::ReadWritePaths(
                    task.dirs.pairs().iter().map(|(host, _)| (*host).to_owned()).collect(),
                ));
            }
            properties
        }
    }
}

fn output(streams: Streams) -> Vec<Property> {
    vec![
        Property::StandardInput(Stream::Null),
        Property::StandardOutput(streams.stdout),
        Property::StandardError(streams.stderr),
    ]
}

/// What the journal writes to each line of the unit, also to what a task sends there by itself.
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

/// A process that writes what it reads from `from` both to `to` and to the journal: the driver's own `program`.
///
/// A unit of its own, since it has to outlive the driver, and the task until the last line is written.
pub fn copier(name: UnitName, task: &TaskSpec, program: PathBuf, from: OwnedFd, to: Stream) -> TransientUnit {
    let mut properties = vec![
        Property::Description(format!("{}, its output", task.description)),
        Property::Slice(SLICE),
        Property::Type("exec"),
        // Nobody asks for its status.
        Property::CollectMode("inactive-or-failed"),
        Property::ExecStart { path: program, argv: vec!["nomad-driver-systemd".into(), "copy".into()] },
        Property::StandardInput(Stream::Fd(from)),
        // This way round: an error stream with the word that the output has by default would be a copy of the output,
        // whatever descriptor that was given (systemd, `setup_output`).
        Property::StandardOutput(Stream::Journal),
        Property::StandardError(to),
        Property::NoNewPrivileges(true),
        Property::CapabilityBoundingSet(0),
    ];
    properties.extend(journal(&task.output));
    TransientUnit { name, properties }
}

/// A task that needs more than its ceiling is ended as a whole, and systemd says so (`oom-kill`).
fn memory(memory: Memory) -> Vec<Property> {
    let Memory { reserved, ceiling } = memory;
    let mut properties = vec![Property::OOMPolicy("kill")];
    properties.extend(reserved.map(Property::MemoryLow));
    if let Some(bytes) = ceiling {
        // Swap would let it pass the ceiling.
        properties.extend([Property::MemoryMax(bytes), Property::MemorySwapMax(0)]);
    }
    properties
}
