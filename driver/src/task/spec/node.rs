//! The operator's configuration, checked and resolved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::output::Sink;
use crate::systemd::{self, Manager};
use crate::task::config::PluginConfig;
use crate::task::host::view::{self, PLAIN_PATH, View, is_plain};
use crate::task::installation::Installation;
use crate::task::refusal::{Error, duration};
use crate::task::sandbox::policy::Policy;
use crate::task::sandbox::preset::Preset;
use crate::task::spec::ephemeral::Sharing;
use crate::task::spec::identity::Identity;
use crate::telemetry;

/// The operator's configuration, checked and resolved.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// User of a task whose job sets none.
    pub default_identity: Identity,
    /// Where output goes of a task whose job does not set it.
    pub log_sink: Sink,
    /// Time without a request from Nomad after which a task is lost; zero means never.
    pub lost_after: Duration,
    /// The systemd manager that runs the tasks.
    pub manager: Manager,
    /// The manager that the operator sets, if any.
    pub configured_manager: Option<Manager>,
    /// Where metrics are shown, if the operator wants them.
    pub metrics_address: Option<telemetry::Address>,
    /// What no job may do.
    pub policy: Policy,
    /// Sandbox preset of a task whose job sets none.
    pub preset: Preset,
    /// Nomad allocates a user to each task.
    pub dynamic_workload_users: bool,
    /// Which tasks share an ephemeral user.
    pub ephemeral_user: Sharing,
    /// Directory of the driver's files that need not outlive a boot.
    pub runtime_dir: PathBuf,
    /// The view that tasks have of the host.
    pub view: View,
    /// The operator sets `state_dir`. Otherwise only WebAssembly needs that directory.
    pub sets_state_dir: bool,
    /// The installed programs, and the directories that they need.
    pub installation: Installation,
}

impl NodeSpec {
    /// Checks the values of the plugin's configuration. Touches nothing.
    pub fn resolve(config: PluginConfig) -> Result<Self, Error> {
        let policy = Policy::resolve(&config)?;
        let PluginConfig {
            allow_caps: _, // these are the policy's
            allow_host_paths: _,
            allow_properties: _,
            allow_root: _,
            deny_properties: _,
            denied_host_gids: _,
            denied_host_uids: _,
            denied_envvars: _,
            sandbox_floor: _,
            default_user,
            dynamic_workload_users,
            ephemeral_user,
            fs_isolation,
            host_paths,
            log_driver,
            lost_after,
            manager,
            metrics_address,
            sandbox,
            shim_dir,
            state_dir,
            wasm_cache_size,
        } = config;
        let host_paths =
            host_paths.iter().map(|path| plain("host_paths", path)).collect::<Result<Vec<_>, _>>()?;
        let wrong = |option, value| move |wanted| Error::Plugin { option, value, wanted };
        // A preset looser than the floor could not start.
        let preset = Preset::parse(&sandbox).map_err(wrong("sandbox", sandbox.clone()))?;
        let preset = policy.at_least(preset);
        let configured_manager = manager.map(manager_of).transpose()?;
        let manager = configured_manager.unwrap_or_default();
        let runtime_dir = view::runtime_dir(manager);
        Ok(Self {
            log_sink: Sink::parse(&log_driver).map_err(wrong("log_driver", log_driver.clone()))?,
            lost_after: duration(&lost_after).map_err(wrong("lost_after", lost_after.clone()))?,
            manager,
            configured_manager,
            metrics_address: metrics_address.as_deref().map(address).transpose()?,
            view: view_of(fs_isolation, &host_paths, &policy)?,
            policy,
            runtime_dir: runtime_dir.clone(),
            preset,
            ephemeral_user: sharing(ephemeral_user)?,
            // A user's systemd runs every task as that user.
            dynamic_workload_users: dynamic_workload_users && manager == Manager::System,
            default_identity: default_user
                .filter(|user| !user.is_empty())
                .map_or(Identity::Ephemeral, Identity::User),
            sets_state_dir: state_dir.is_some(),
            installation: Installation {
                shim_dir: shim_dir.map(|path| plain("shim_dir", &path)).transpose()?,
                state_dir: state_dir
                    .map_or_else(|| state_dir_of(manager), |path| plain("state_dir", &path))?,
                cache_size: cache_size(&wasm_cache_size)?,
                host_paths,
                manager,
                root: view::shared_root(&runtime_dir),
            },
        })
    }
}

/// The path in an option of the plugin, if it is a plain one.
fn plain(option: &'static str, path: &str) -> Result<PathBuf, Error> {
    match PathBuf::from(path) {
        path if is_plain(&path) => Ok(path),
        _ => Err(Error::Plugin { option, value: path.to_owned(), wanted: PLAIN_PATH }),
    }
}

/// The view of tasks under this `fs_isolation` and these `host_paths`.
fn view_of(fs_isolation: String, host_paths: &[PathBuf], policy: &Policy) -> Result<View, Error> {
    if fs_isolation == "none" && policy.has_floor() {
        let wanted = "\"image\" beside a `sandbox_floor`, or `allow_root = \"confined\"`, which is one: with \"none\" no task is \
                      kept from homes, as every floor asks";
        return Err(Error::Plugin { option: "fs_isolation", value: fs_isolation, wanted });
    }
    if let Some(root) = host_paths.iter().find(|path| path.parent().is_none()) {
        let value = root.display().to_string();
        let wanted = "a part of the host (for all of it set `fs_isolation = \"none\"`)";
        return Err(Error::Plugin { option: "host_paths", value, wanted });
    }
    if let Some(path) = host_paths.iter().find(|path| path.to_string_lossy().ends_with(":ro")) {
        let value = path.display().to_string();
        return Err(Error::Plugin {
            option: "host_paths",
            value,
            wanted: "without `:ro`: tasks see all of them read-only",
        });
    }
    match fs_isolation.as_str() {
        "image" => Ok(View::Private { host_paths: host_paths.to_vec() }),
        "none" => Ok(View::Host),
        _ => {
            let wanted = "one of \"image\" and \"none\"";
            Err(Error::Plugin { option: "fs_isolation", value: fs_isolation, wanted })
        }
    }
}

/// The number of bytes in this `wasm_cache_size`.
fn cache_size(text: &str) -> Result<u64, Error> {
    let wanted = "a size such as \"512M\" or \"1G\"";
    let wrong = |_| Error::Plugin { option: "wasm_cache_size", value: text.to_owned(), wanted };
    systemd::bytes(text).map_err(wrong)
}

/// The address in this `metrics_address`.
fn address(text: &str) -> Result<telemetry::Address, Error> {
    let wrong =
        || Error::Plugin { option: "metrics_address", value: text.to_owned(), wanted: telemetry::WANTED };
    telemetry::Address::parse(text).ok_or_else(wrong)
}

/// The systemd manager with this name.
fn manager_of(manager: String) -> Result<Manager, Error> {
    match manager.as_str() {
        "system" => Ok(Manager::System),
        "user" => Ok(Manager::User),
        _ => {
            let wanted = "one of \"system\" and \"user\"";
            Err(Error::Plugin { option: "manager", value: manager, wanted })
        }
    }
}

/// Who shares an ephemeral user under this `ephemeral_user`.
fn sharing(ephemeral_user: String) -> Result<Sharing, Error> {
    match ephemeral_user.as_str() {
        "group" => Ok(Sharing::Group),
        "task" => Ok(Sharing::None),
        _ => {
            let wanted = "one of \"group\" and \"task\"";
            Err(Error::Plugin { option: "ephemeral_user", value: ephemeral_user, wanted })
        }
    }
}

/// Where the driver of a manager keeps files that outlive a boot (file-hierarchy(7)).
pub(super) fn state_dir_of(manager: Manager) -> Result<PathBuf, Error> {
    let state = match manager {
        Manager::System => Some(PathBuf::from("/var/lib")),
        Manager::User => {
            let own = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
            own.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".local/state")))
        }
    };
    let missing = || Error::Plugin {
        option: "state_dir",
        value: String::new(),
        wanted: "an absolute path, which must be set: neither `XDG_STATE_HOME` nor `HOME` is set, so there is no default",
    };
    Ok(state.ok_or_else(missing)?.join("nomad-driver-systemd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_mistake_is_named() {
        let config = |change: fn(&mut PluginConfig)| {
            let mut config = PluginConfig::decode(&[]).unwrap();
            change(&mut config);
            NodeSpec::resolve(config)
        };
        assert!(config(|_| {}).is_ok());
        let error = config(|c| c.fs_isolation = "chroot".into()).unwrap_err().to_string();
        assert!(error.contains("`fs_isolation`") && error.contains("chroot"), "{error}");
        let error = config(|c| c.host_paths = vec!["usr".into()]).unwrap_err().to_string();
        assert!(error.contains("`host_paths`"), "{error}");
        let error = config(|c| c.metrics_address = Some("0.0.0.0:80".into())).unwrap_err().to_string();
        assert!(error.contains("`metrics_address`") && error.contains("loopback"), "{error}");
        let error = config(|c| c.host_paths = vec!["/".into()]).unwrap_err().to_string();
        assert!(error.contains("fs_isolation"), "{error}");
    }
}
