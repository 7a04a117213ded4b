//! What is resolved of a job before its program is found: where it is looked up, and for whom.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::activation::{self, Listener};
use super::checks::{check_credentials, check_node, check_notify, check_sockets};
use super::names::is_file_name;
use super::{Error, Identity, NodeSpec, identity};
use crate::systemd::{Assignment, Features, Role};
use crate::task::config::{DriverConfig, TaskConfig};
use crate::task::host::dirs::TaskDirs;
use crate::task::host::env;
use crate::task::host::program::{self, Program, ProgramKind};
use crate::task::host::users::{Accounts, HostUser};
use crate::task::host::view::{PLAIN_PATH, View, is_plain};
use crate::task::refusal::check_length;
use crate::task::sandbox::requested;
use crate::task::wasm::guest;

/// A job on a node, as far as it does not depend on the kind of its program. [`TaskSpec::resolve`] resolves the rest.
///
/// [`TaskSpec::resolve`]: super::TaskSpec::resolve
pub struct Outline<'a> {
    pub(super) config: &'a TaskConfig,
    pub(super) node: &'a NodeSpec,
    pub(super) features: &'a Features,
    pub(super) dirs: TaskDirs,
    pub(super) working_directory: PathBuf,
    pub(super) view: View,
    pub(super) identity: Identity,
    /// The task's user, if the host knows it.
    pub(super) user: Option<HostUser>,
    pub(super) sockets: Vec<Listener>,
    pub(super) env: BTreeMap<String, String>,
    /// The systemd properties that the job requests.
    pub(super) requested: Vec<Assignment>,
}

impl<'a> Outline<'a> {
    /// The meaning of `config` on this node, whose users and groups `accounts` knows; looking them up may take long.
    pub fn resolve(
        config: &'a TaskConfig,
        node: &'a NodeSpec,
        features: &'a Features,
        accounts: &dyn Accounts,
    ) -> Result<Self, Error> {
        node.policy.check_given(&config.given)?;
        let sockets = activation::listeners(config)?;
        check_blocks(config, node, features)?;
        let dirs = directories(config)?;
        let working_directory = working_directory(config.driver.work_dir.as_deref(), node, &dirs)?;
        let (identity, user) = Identity::of(config, node, accounts)?;
        let env = environment(config, node, &sockets, identity == Identity::Ephemeral)?;
        let requested = requested::requested(&config.driver, &node.view, &node.policy, features)?;
        identity::check_groups(&requested, user.as_ref(), config, node, accounts)?;
        let requested: Vec<Assignment> = requested.into_iter().map(|(_, line)| line).collect();
        let view = view(&requested, node)?;
        Ok(Self {
            config,
            node,
            features,
            dirs,
            working_directory,
            view,
            identity,
            user,
            sockets,
            env,
            requested,
        })
    }

    /// The program of the job's `command`.
    pub fn find_program(&self) -> Result<Program, program::Error> {
        // Only systemd will know what the mounts of the job contain.
        let mounted = program::mounted(&self.requested);
        let surroundings = program::Surroundings {
            view: &self.view,
            dirs: &self.dirs,
            mounts: &self.config.mounts,
            path: self.env.get("PATH").map(String::as_str),
            mounted: &mounted,
        };
        program::find(&self.config.driver.command, surroundings)
    }

    /// The most probable kind of a program that cannot be looked at.
    pub fn presumed_kind(&self) -> ProgramKind {
        let DriverConfig { command, wasm, .. } = &self.config.driver;
        if wasm.is_some() || program::is_named_wasm(Path::new(command)) {
            ProgramKind::Wasm
        } else {
            ProgramKind::Native
        }
    }
}

/// Does this node allow what the blocks of the job request?
fn check_blocks(config: &TaskConfig, node: &NodeSpec, features: &Features) -> Result<(), Error> {
    // Every option is listed here, so that the compiler rejects a new option that is not handled.
    #[rustfmt::skip]
    let DriverConfig {
        command, args, credential,
        // See `requested::requested`.
        cap_add: _, cap_drop: _, files: _, group: _, hostname: _, limits: _, network: _, properties: _, sandbox: _,
        supplementary_groups: _, ulimit: _,
        // See `Outline`, `TaskSpec`, `Output`, `activation` and `Guest`.
        extra_hosts: _, work_dir: _, logging: _, socket: _, notify: _, wasm: _,
    } = &config.driver;
    check_length("command", command)?;
    args.iter().try_for_each(|arg| check_length("args", arg))?;
    check_node(config, features)?;
    check_credentials(credential, node)?;
    check_notify(config, node)?;
    check_sockets(config, node, features)
}

/// The view of a task whose job sets these properties.
fn view(requested: &[Assignment], node: &NodeSpec) -> Result<View, Error> {
    if !requested.iter().any(|line| line.role().is_some_and(Role::is_root)) {
        return Ok(node.view.clone());
    }
    let roots: Vec<&str> = requested
        .iter()
        .filter(|line| ["RootDirectory", "RootImage"].contains(&line.name()))
        .map(Assignment::name)
        .collect();
    if roots.contains(&"RootDirectory") && roots.contains(&"RootImage") {
        let reason = "`files.root_directory` is set, too, and a task has one root; leave one of the two out";
        return Err(Error::refused("files.root_image", reason));
    }
    if node.view == View::Host {
        return Err(Error::Refused {
            option: "files".to_owned(),
            reason: "a root of its own needs `fs_isolation = \"image\"` in the plugin's configuration"
                .to_owned(),
        });
    }
    Ok(View::Own)
}

/// The task's directories, if they are where Nomad puts them, and if its own are separate from the group's.
fn directories(config: &TaskConfig) -> Result<TaskDirs, Error> {
    if !is_plain(&config.identity.alloc_dir) {
        return Err(Error::AllocDir { path: config.identity.alloc_dir.clone() });
    }
    if !is_file_name(&config.identity.name) {
        return Err(Error::Name { name: config.identity.name.clone() });
    }
    let dirs = TaskDirs::new(&config.identity.alloc_dir, &config.identity.name);
    if dirs.local.starts_with(&dirs.shared) {
        return Err(Error::Refused {
            option: "task".to_owned(),
            reason: format!(
                "a task named `{}` has its own directories in the one that the group shares, where other tasks can put \
                 links in their place; give the task another name",
                config.identity.name
            ),
        });
    }
    Ok(dirs)
}

/// Working directory, in the task's view.
fn working_directory(work_dir: Option<&str>, node: &NodeSpec, dirs: &TaskDirs) -> Result<PathBuf, Error> {
    match work_dir {
        None => Ok(node.view.working_directory(dirs)),
        Some(path) if is_plain(Path::new(path)) => Ok(PathBuf::from(path)),
        Some(path) => {
            let is_absolute = Path::new(path).is_absolute();
            let wanted =
                if is_absolute { PLAIN_PATH } else { "an absolute path, such as \"/local/x\" or \"/\"" };
            Err(Error::Option { option: "work_dir", value: path.to_owned(), wanted })
        }
    }
}

/// Variables by which systemd announces passed sockets (sd_listen_fds(3)).
const OF_SYSTEMD: [&str; 4] = ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID"];

/// The task's variables: Nomad's, without those that the operator denies, the names of its sockets, and what the runner
/// of a guest takes from there.
fn environment(
    config: &TaskConfig,
    node: &NodeSpec,
    sockets: &[Listener],
    is_ephemeral: bool,
) -> Result<BTreeMap<String, String>, Error> {
    let is_denied = |name: &str| node.policy.denies_variable(name);
    let mut env = env::of_task(&config.identity.env, is_denied, is_ephemeral);
    // systemd sets these itself when it passes sockets, and the init trusts them.
    env.retain(|name, _| !OF_SYSTEMD.contains(&name.as_str()));
    if !sockets.is_empty() {
        // All of them are in one unit, which would give all the same name.
        let names: Vec<&str> = sockets.iter().map(|socket| socket.name.as_str()).collect();
        env.insert("LISTEN_FDNAMES".to_owned(), names.join(":"));
    }
    env.extend(guest::variables(config));
    env::check(&env)?;
    Ok(env)
}
