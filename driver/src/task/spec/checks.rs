//! What a job may not request on this node, option by option.

use super::node::NodeSpec;
use crate::systemd::{Assignment, Features, Manager};
use crate::task::config::{Credential, DriverConfig, NetworkMode, TaskConfig};
use crate::task::refusal::{Error, check_label};
use crate::task::sandbox::policy::how_to_allow;
use crate::task::sandbox::preset::Preset;

/// Checks an option that the operator must allow by the property's name; a user's own systemd is that user's affair.
pub(super) fn check_word(option: &str, property: &str, why: &str, node: &NodeSpec) -> Result<(), Error> {
    if node.manager != Manager::System || node.policy.allows_by_name(property) {
        return Ok(());
    }
    Err(Error::Refused {
        option: option.to_owned(),
        reason: format!("{why}; leave it out, or {}", how_to_allow(property)),
    })
}

/// Maximum number of credentials of a task: each is a file in memory while the task starts.
pub(super) const CREDENTIALS_MAX: usize = 64;

/// Can a task have these credentials, and may a job have systemd decrypt a file?
pub(super) fn check_credentials(credential: &[Credential], node: &NodeSpec) -> Result<(), Error> {
    if credential.len() > CREDENTIALS_MAX {
        return Err(Error::Refused {
            option: "credential".to_owned(),
            reason: format!(
                "a task can have {CREDENTIALS_MAX} credentials, and here are {}; put further files in `local/` or `secrets/`",
                credential.len()
            ),
        });
    }
    credential.iter().try_for_each(|credential| check_label("credential.name", &credential.name))?;
    let is_second =
        |(at, one): &(usize, &Credential)| credential[..*at].iter().any(|other| other.name == one.name);
    if let Some((_, Credential { name, .. })) = credential.iter().enumerate().find(is_second) {
        return Err(Error::refused(
            "credential.name",
            format!("two credentials have the name `{name}`; give each its own"),
        ));
    }
    if !credential.iter().any(|credential| credential.encrypted) {
        return Ok(());
    }
    let why = "systemd decrypts whatever was encrypted for this machine, also for others";
    check_word("credential.encrypted", "LoadCredentialEncrypted", why, node)
}

/// May a program of the job send messages to systemd? The runner of a guest is not the job's.
pub(super) fn check_notify(config: &TaskConfig, node: &NodeSpec) -> Result<(), Error> {
    if config.driver.notify.is_none() || config.driver.wasm.is_some() {
        return Ok(());
    }
    let why = "a task that sends messages to systemd without end slows all of the node";
    check_word("notify", "NotifyAccess", why, node)
}

/// The first systemd that limits how often it polls a socket (systemd.socket(5), `PollLimitIntervalSec=`).
pub(super) const LIMITS_POLLING: u32 = 255;

/// May a program of the job also hold a socket that systemd listens on? One that it connects elsewhere is readable for
/// ever: once the task has failed, an older systemd polls nothing else. The runner of a guest does not do that.
pub(super) fn check_sockets(config: &TaskConfig, node: &NodeSpec, features: &Features) -> Result<(), Error> {
    let DriverConfig { socket, wasm, .. } = &config.driver;
    if socket.is_empty() || wasm.is_some() || features.version >= LIMITS_POLLING {
        return Ok(());
    }
    let why = "with a socket that it was passed a task can stop a systemd older than 255";
    check_word("socket", "ListenStream", why, node)
}

/// Does the preset that a job names leave unchanged what jobs may not set?
pub(super) fn check_preset(preset: Preset, usual: Preset, node: &NodeSpec) -> Result<(), Error> {
    let of = |preset: Preset, name: &str| -> Vec<String> {
        let lines = preset.assignments().iter().filter(|line| line.name() == name);
        lines.map(|line| line.text().to_owned()).collect()
    };
    let lines = usual.assignments().iter().chain(preset.assignments());
    let mut changed = lines.map(Assignment::name).filter(|name| of(preset, name) != of(usual, name));
    changed.try_for_each(|name| node.policy.check_denied("sandbox.preset", name))
}

/// Does this node support what the job requests in addition to properties?
pub(super) fn check_node(config: &TaskConfig, features: &Features) -> Result<(), Error> {
    let lacks = |option: &str, reason: String| Err(Error::Node { option: option.to_owned(), reason });
    let is_encrypted = config.driver.credential.iter().any(|credential| credential.encrypted);
    if is_encrypted && features.version < ENCRYPTED_CREDENTIALS {
        let here = features.version;
        let reason = format!(
            "LoadCredentialEncrypted needs systemd {ENCRYPTED_CREDENTIALS} or newer, and this node has {here}"
        );
        return lacks("credential.encrypted", reason);
    }
    if !config.resources.cores.is_empty() && !features.controllers.contains("cpuset") {
        return lacks("cores", "it needs the cgroup controller `cpuset`".to_owned());
    }
    match features.manager {
        Manager::System => Ok(()),
        Manager::User => check_for_users(config, features),
    }
}

/// The first systemd with encrypted credentials.
pub(super) const ENCRYPTED_CREDENTIALS: u32 = 250;

/// Does a user's systemd support everything that the job requests in addition to systemd properties? It would silently
/// ignore most of the rest.
pub(super) fn check_for_users(config: &TaskConfig, features: &Features) -> Result<(), Error> {
    let driver = &config.driver;
    let has_namespace = driver.logging.as_ref().is_some_and(|logging| logging.namespace.is_some());
    let sealed = features.keeps_credentials_sealed();
    let lacks = [
        (
            "network",
            matches!(config.network, NetworkMode::Group { .. }),
            "the network namespace of a group is root's, and a user's systemd cannot join it; use `mode = \"host\"` or \"none\"",
        ),
        ("device", !config.devices.is_empty(), "a user's systemd cannot give devices"),
        ("logging.namespace", has_namespace, "a user's systemd cannot reach the journal's namespaces"),
        ("cap_add", !driver.cap_add.is_empty(), "a user's systemd has no capabilities to give"),
        (
            "credential.encrypted",
            sealed.is_some() && driver.credential.iter().any(|credential| credential.encrypted),
            sealed.as_deref().unwrap_or_default(),
        ),
    ];
    match lacks.into_iter().find(|(_, asked, _)| *asked) {
        Some((option, _, reason)) => {
            Err(Error::Node { option: option.to_owned(), reason: reason.to_owned() })
        }
        None => Ok(()),
    }
}
