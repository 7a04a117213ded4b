//! The unit that a task would become, without a node.

use super::error::Error;
use super::unit;

use super::config::{Credential, PluginConfig, TaskConfig};
use super::host::place::Place;
use super::host::users::OfEveryHost;
use super::host::{program, view};
use super::spec::{NodeSpec, TaskSpec};
use super::unit::{Command, Made, Streams};
use crate::systemd::{Features, Stream, TransientUnit};

/// The unit that a task would become on a machine that can do everything. Touches nothing, so what is decided by a file's
/// content is decided by its name, and paths of the host stand as the job writes them.
pub fn sketch(config: &TaskConfig, plugin: PluginConfig) -> Result<TransientUnit, Error> {
    let node = NodeSpec::resolve(plugin).map_err(Error::Spec)?;
    let features = Features::everything(node.manager);
    let task = TaskSpec::resolve(config, &node, &features, &OfEveryHost).map_err(Error::Spec)?;
    let path = program::path_in_view(&task.command, &task.view, &task.dirs);
    let is_guest =
        config.driver.wasm.is_some() || path.extension().is_some_and(|extension| extension == "wasm");
    let shim =
        node.wasm.shim().unwrap_or_else(|_| "/usr/local/libexec/nomad-driver-systemd/wasm-shim".into());
    let command = if is_guest {
        let code = node.wasm.state_dir.join("wasm/ENGINE/MODULE.cwasm");
        Command::Wasm { shim, code, name: task.command.clone() }
    } else {
        Command::Native { path, shim }
    };
    let place = Place::of(&node.runtime_dir, &task.unit);
    let settings = task.settings(is_guest).to_vec();
    let own_root = task.needs_a_root_of_its_own(&settings);
    let root = if own_root { place.root() } else { view::shared_root(&node.runtime_dir) };
    let copy = |credential: &Credential| (credential.name.clone(), place.credential_path(&credential.name));
    let of =
        |encrypted: bool| task.credentials.iter().filter(move |credential| credential.encrypted == encrypted);
    let made = Made {
        root,
        env_file: node.runtime_dir.join("env/TASK"),
        ephemeral_user: task.ephemeral_user.name().to_owned(),
        settings,
        etc: task.etc.keys().map(|name| place.etc_path(name)).collect(),
        credentials: of(false).map(copy).collect(),
        encrypted: of(true).map(copy).collect(),
        sockets: task.sockets.clone(),
        mounts: task.mounts.clone(),
        ..Made::default()
    };
    let streams = Streams { stdin: Stream::Null, stdout: Stream::Null, stderr: Stream::Null };
    Ok(unit::build(&task, &command, made, streams))
}
