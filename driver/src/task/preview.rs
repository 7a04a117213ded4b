//! The unit that a task would become, without a node.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};

use super::config::{Credential, PluginConfig, TaskConfig};
use super::error::Error;
use super::host::resources::HostResources;
use super::host::runtime_dir::TaskRuntimeDir;
use super::host::users::AssumedAccounts;
use super::host::{dirs, env, program, view};
use super::spec::{NodeSpec, Outline, TaskKind, TaskSpec};
use super::unit::{self, Command, ProcessStart};
use crate::systemd::{Features, Manager, Property, Stream, TransientUnit};

/// A task as the driver would start it on a machine that supports everything.
pub struct Sketch {
    node: NodeSpec,
    task: TaskSpec,
}

/// The steps by which a person starts a task without the driver.
pub struct ByHand {
    /// Directories of the allocation, which every user may write to, as Nomad creates them.
    pub directories: Vec<PathBuf>,
    /// The command that compiles a guest's module.
    pub compile: Option<Vec<String>>,
    /// The root on which tasks see the host, which the driver creates when it starts the first task after a boot.
    pub view: PathBuf,
    /// The task's unit.
    pub unit: TransientUnit,
    /// The task's variables.
    pub env: BTreeMap<String, String>,
    /// The driver creates a root for this task alone, without which the unit cannot start.
    pub needs_a_root: bool,
}

impl Sketch {
    /// Touches nothing. So a file's name decides what otherwise its content decides, and host paths are kept as the job
    /// writes them.
    pub fn new(config: &TaskConfig, plugin: PluginConfig) -> Result<Self, Error> {
        let node = NodeSpec::resolve(plugin)?;
        let features = Features::everything(node.manager);
        let outline = Outline::resolve(config, &node, &features, &AssumedAccounts)?;
        program::check_command(&config.driver.command)?;
        let kind = outline.presumed_kind();
        let task = TaskSpec::resolve(outline, kind)?;
        Ok(Self { node, task })
    }

    /// The task's unit.
    pub fn unit(&self) -> TransientUnit {
        self.unit_with(self.node.installation.state_dir.join("wasm/ENGINE/MODULE.cwasm"))
    }

    /// The steps to start the same task without the driver.
    pub fn by_hand(&self) -> ByHand {
        let dirs = &self.task.dirs;
        let code = dirs.alloc_dir.join(format!("{}.cwasm", self.task.unit));
        let surroundings = self.task.surroundings();
        let module = surroundings.on_host(&program::guess(&self.task.command, surroundings));
        let compile = self.task.guest().map(|guest| {
            let files = ["-o".to_owned(), code.display().to_string(), module.display().to_string()];
            let command = [self.shim().display().to_string(), "compile".to_owned()];
            command.into_iter().chain(guest.flags.iter().cloned()).chain(files).collect()
        });
        let mut unit = self.unit_with(code);
        for property in &mut unit.properties {
            if let Property::ExecStart { argv, .. } = property
                && let Some(at) =
                    argv.iter().take_while(|word| *word != "--").position(|word| word == "--report")
            {
                // Nobody reads the report.
                argv.remove(at);
            }
        }
        ByHand {
            directories: [dirs.local.clone(), dirs.secrets.clone()]
                .into_iter()
                .chain(dirs::WRITABLE.map(|name| dirs.shared.join(name)))
                .collect(),
            compile,
            view: view::shared_root(&self.node.runtime_dir),
            unit,
            env: env::carried(&self.task.env),
            needs_a_root: self.task.needs_a_root_of_its_own(&self.task.settings),
        }
    }

    fn shim(&self) -> PathBuf {
        let usual = Path::new("/usr/local/libexec/nomad-driver-systemd/wasm-shim");
        self.node.installation.shim().unwrap_or_else(|_| usual.to_owned())
    }

    /// The unit, with the code of a guest in this file.
    fn unit_with(&self, code: PathBuf) -> TransientUnit {
        let Self { node, task } = self;
        let command = match task.kind {
            TaskKind::Native => {
                let program = program::guess(&task.command, task.surroundings());
                Command::native(self.shim(), program, task)
            }
            TaskKind::Guest(_) => Command { shim: self.shim(), program: code, name: task.command.clone() },
        };
        let place = TaskRuntimeDir::of(&node.runtime_dir, &task.unit);
        let surroundings = task.surroundings();
        let on_host = |path: &str, _| {
            let path = Path::new(path);
            let named = task.dirs.named(path).map(|(directory, _, below)| directory.join(below));
            Ok::<_, Infallible>(Some(named.unwrap_or_else(|| surroundings.on_host(path))))
        };
        let lines = task.settings.iter().cloned();
        let settings: Vec<_> =
            lines.flat_map(|line| line.with_host_paths(on_host).into_iter().flatten()).collect();
        let own_root = task.needs_a_root_of_its_own(&settings);
        let root = if own_root { place.root() } else { view::shared_root(&node.runtime_dir) };
        let copy =
            |credential: &Credential| (credential.name.clone(), place.credential_path(&credential.name));
        let of = |encrypted: bool| {
            task.credentials.iter().filter(move |credential| credential.encrypted == encrypted)
        };
        let made = HostResources {
            root,
            settings,
            etc: task.etc.keys().map(|name| place.etc_path(name)).collect(),
            credentials: of(false).map(copy).collect(),
            encrypted: of(true).map(copy).collect(),
            writable: (node.manager == Manager::System).then(|| dirs::WRITABLE.to_vec()),
            ..HostResources::of(task)
        };
        let begin = ProcessStart {
            ephemeral_user: task.ephemeral_user.name().to_owned(),
            env_file: node.runtime_dir.join("env/TASK"),
            stdin: Stream::Null,
            stdout: Stream::Null,
            stderr: Stream::Null,
        };
        unit::build(task, &command, made, begin)
    }
}
