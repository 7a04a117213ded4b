//! What a task could do to others by its identity, and what prevents that.
//!
//! ```text
//!  who it runs as ─┐
//!  capabilities ───┼─► could it act as root?  ──yes──► the operator's `allow_root`: "no"        refused
//!  set-user-ID ────┘      │                                                       "confined"  namespaces, "standard"
//!                         no                                                      "host"      as on the host
//!                         └─► a named user: a user namespace of its own, so that the other processes of that user do
//!                             not show it the host (`/proc/PID/root`); one of the operating system's, with daemons
//!                             that it could signal: a PID namespace of its own (systemd 257), or refused
//! ```
//!
//! A user namespace alone does not confine root: it maps UID 0, and for signals, `/proc/sys` and the ownership of files
//! the kernel compares UIDs, not namespaces. So root is confined by more: a PID namespace of its own, and everything
//! that the preset "standard" write-protects.

use std::ops::RangeInclusive;

use crate::systemd::{Assignment, Features, Manager, Meaning, capability_mask, capability_names};
use crate::task::config::NetworkMode;
use crate::task::config::settings::option_of;
use crate::task::host::view::View;
use crate::task::refusal::Error;
use crate::task::sandbox::policy::{Policy, Root, how_to_allow};
use crate::task::sandbox::preset::{self, Looser, Preset};

/// Capabilities by which a task can do nothing to resources of other users.
const HARMLESS: [&str; 13] = [
    "block_suspend",
    "bpf",
    "ipc_lock",
    "net_admin",
    "net_bind_service",
    "net_broadcast",
    "net_raw",
    "perfmon",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "syslog",
    "wake_alarm",
];
/// Capabilities over a network, which a task in a user namespace of its own does not have over the host's.
const NETWORK: [&str; 4] = ["net_admin", "net_bind_service", "net_broadcast", "net_raw"];

/// UIDs of the users that daemons of the operating system run as (login.defs(5), SYS_UID_MAX).
const SYSTEM_USERS: RangeInclusive<u32> = 1..=999;

/// How a task's user relates to other users of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody else has the UID.
    Unique,
    /// A user of the host, who may have other processes.
    Named,
    /// UID 0.
    Root,
    /// A user's own systemd runs the task, and has no rights to grant.
    OfDriver,
}

/// Facts that matter in addition to the properties.
pub(crate) struct Facts<'a> {
    /// The standing of the task's user.
    pub standing: Standing,
    /// The UID of the host's user that the job requests; a user that the operator chooses is not the job's request.
    pub requested_uid: Option<u32>,
    /// `DynamicUser=`, under which systemd never lets a program gain privileges.
    pub is_ephemeral: bool,
    /// The task sends messages to systemd itself (`notify`).
    pub speaks: bool,
    /// The task's view of the host.
    pub view: &'a View,
    /// The task's network.
    pub network: &'a NetworkMode,
}

/// Adds the properties that the task's user and capabilities require, or returns why they are refused. Returns whether
/// the task is root, or could act as root, and is confined for that.
pub(crate) fn confine(
    settings: &mut Vec<Assignment>,
    facts: &Facts<'_>,
    policy: &Policy,
    features: &Features,
) -> Result<bool, Error> {
    if features.manager == Manager::User || facts.standing == Standing::OfDriver {
        return Ok(false);
    }
    match reason_for_root(settings, facts) {
        None => {
            if let Some(uid) = facts.requested_uid {
                keep_processes_apart(settings, uid, facts, policy, features)?;
            }
            if facts.standing == Standing::Named {
                keep_users_apart(settings, facts, policy)?;
            }
            Ok(false)
        }
        Some((option, reason)) => match policy.root {
            Root::No => Err(Error::refused(
                option,
                format!(
                    "{reason}; the operator of this node allows it with `allow_root = \"confined\"` (systemd 257) or \"host\" in \
                     the plugin's configuration"
                ),
            )),
            Root::Host => Ok(false),
            Root::Confined => confine_root(settings, facts, features, option).map(|()| true),
        },
    }
}

/// What a task does without a capability for the network.
const PORTS_OF_SYSTEMD: &str = "leave the capability out and have systemd open the port, also one below 1024, for a program by a \
                                `socket` block and for a guest by `wasm.serve`";

/// Does the job request what systemd ignores with an ephemeral user?
pub(crate) fn check_ephemeral(settings: &[Assignment], facts: &Facts<'_>) -> Result<(), Error> {
    if facts.is_ephemeral && text_of(settings, "NoNewPrivileges").as_deref() == Some("no") {
        let reason =
            "an ephemeral user has it whatever the job sets (`DynamicUser=`, systemd.exec(5)); name a `user`";
        return Err(Error::refused("sandbox.no_new_privileges", reason.to_owned()));
    }
    let lost = set_of(settings, "AmbientCapabilities") & mask(&NETWORK);
    let has_namespace = text_of(settings, "PrivateUsers").is_some_and(|users| users != "no");
    if facts.is_ephemeral && has_namespace && lost != 0 && *facts.network == NetworkMode::Host {
        return Err(Error::refused(
            "cap_add",
            format!(
                "in a user namespace of the task's own (`sandbox.private_users`, as in the presets \"strict\" and \"wasm\") {} \
                 has no effect on the host's network: {PORTS_OF_SYSTEMD}, or set `private_users = \"no\"` in `sandbox`",
                capability_names(lost)
            ),
        ));
    }
    Ok(())
}

/// Why the task is root, or could act as root, and the option that causes it.
fn reason_for_root(settings: &[Assignment], facts: &Facts<'_>) -> Option<(&'static str, String)> {
    if facts.standing == Standing::Root {
        return Some(("user", "UID 0 is root".to_owned()));
    }
    let beyond = set_of(settings, "AmbientCapabilities") & !mask(&HARMLESS);
    if beyond != 0 {
        let names = capability_names(beyond);
        let what = "would let the task act on what is other users', or speak for the kernel";
        return Some(("cap_add", format!("{names} {what}")));
    }
    if !facts.is_ephemeral && text_of(settings, "NoNewPrivileges").as_deref() != Some("yes") {
        let reason = "without it a set-user-ID program would make the task root";
        return Some(("sandbox.no_new_privileges", reason.to_owned()));
    }
    None
}

/// For signals and limits the kernel compares UIDs. A task that runs as a user of the operating system must not see the
/// daemons of that user. Other users keep the host's PIDs, since a process with PID 1 is not ended by signals that it
/// does not handle (pid_namespaces(7)).
fn keep_processes_apart(
    settings: &mut Vec<Assignment>,
    uid: u32,
    facts: &Facts<'_>,
    policy: &Policy,
    features: &Features,
) -> Result<(), Error> {
    let requested = text_of(settings, "PrivatePIDs");
    if !SYSTEM_USERS.contains(&uid) || requested.as_deref() == Some("yes") || policy.allows_by_name("User") {
        return Ok(());
    }
    let own = Assignment::parse("PrivatePIDs", "yes").ok();
    let own = own.filter(|line| features.check(line).is_ok() && *facts.view != View::Host);
    let (option, instead) = match (own, requested) {
        (Some(line), None) => {
            settings.push(line);
            return Ok(());
        }
        (Some(_), Some(_)) => ("sandbox.private_pids", "leave this option out"),
        (None, _) => {
            ("user", "leave `user` out, name a user of number 1000 or more, use a node with systemd 257")
        }
    };
    Err(Error::refused(
        option,
        format!(
            "user {uid} is one of the operating system's, whose daemons the task could signal and limit; {instead}, or {}",
            how_to_allow("User")
        ),
    ))
}

/// A task of a named user has the UID of other processes of the host, which see the host without the task's mounts. In
/// a user namespace of its own the task may not access them, whatever else it may do.
fn keep_users_apart(settings: &mut Vec<Assignment>, facts: &Facts<'_>, policy: &Policy) -> Result<(), Error> {
    let requested = text_of(settings, "PrivateUsers");
    if requested.as_deref() == Some("no") {
        if policy.allows_by_name("PrivateUsers") {
            return Ok(());
        }
        return Err(Error::refused(
            "sandbox.private_users",
            format!(
                "a task of a named user would reach the host through that user's other processes; leave `user` out, or {}",
                how_to_allow("PrivateUsers")
            ),
        ));
    }
    let lost = set_of(settings, "AmbientCapabilities") & mask(&NETWORK);
    if lost != 0 && *facts.network == NetworkMode::Host {
        return Err(Error::refused(
            "cap_add",
            format!(
                "a task of a named user is in a user namespace of its own, where {} has no effect on the host's network: \
                 {PORTS_OF_SYSTEMD}, or leave `user` out, or set `private_users = \"no\"` in `sandbox` and {}",
                capability_names(lost),
                how_to_allow("PrivateUsers")
            ),
        ));
    }
    if requested.is_none() {
        settings.extend(Assignment::parse("PrivateUsers", "yes").ok());
    }
    Ok(())
}

/// The kernel counts namespaces for the creator of their user namespace, and systemd creates that of a task as root: a
/// task that could create more in it would leave none to the services of the host (user_namespaces(7),
/// `max_mnt_namespaces`).
pub(crate) fn keep_namespaces_few(
    settings: &mut Vec<Assignment>,
    facts: &Facts<'_>,
    policy: &Policy,
    features: &Features,
) -> Result<(), Error> {
    const NAME: &str = "RestrictNamespaces";
    /// `CLONE_NEWUSER` (unshare(2)).
    const USER: u64 = 1 << 28;
    let has_namespace = text_of(settings, "PrivateUsers").is_some_and(|users| users != "no");
    let is_of_a_user = features.manager == Manager::User || facts.standing == Standing::OfDriver;
    let is_root = policy.root == Root::Host && reason_for_root(settings, facts).is_some();
    if !has_namespace || is_of_a_user || is_root || policy.allows_by_name(NAME) {
        return Ok(());
    }
    if set_of(settings, NAME) & USER != 0 {
        return Err(Error::refused(
            "sandbox.restrict_namespaces",
            format!(
                "a task in a user namespace, as of `private_users` or of a named user, could use up the namespaces of the host \
                 by others within; deny them with \"~user\", or {}",
                how_to_allow(NAME)
            ),
        ));
    }
    if !settings.iter().any(|line| line.name() == NAME) {
        settings.extend(Assignment::parse(NAME, "~user").ok());
    }
    Ok(())
}

fn confine_root(
    settings: &mut Vec<Assignment>,
    facts: &Facts<'_>,
    features: &Features,
    option: &str,
) -> Result<(), Error> {
    if *facts.view == View::Host {
        return Err(Error::refused(
            option,
            "a root that sees the host as it is (`fs_isolation = \"none\"`) cannot be confined; the operator of this node \
             allows it with `allow_root = \"host\"`"
                .to_owned(),
        ));
    }
    if facts.speaks {
        return Err(Error::refused(
            "notify",
            "systemd believes root whatever it says, also of processes that are not its own; the operator of this node \
             allows it with `allow_root = \"host\"`"
                .to_owned(),
        ));
    }
    let own = [("PrivateUsers", "yes"), ("PrivatePIDs", "yes")];
    for line in own.into_iter().filter_map(|(name, text)| Assignment::parse(name, text).ok()) {
        if let Err(reason) = features.check(&line) {
            return Err(Error::refused(
                option,
                format!(
                    "{reason}, and root without it can signal every process of the host; the operator of this node allows \
                     that with `allow_root = \"host\"`"
                ),
            ));
        }
        if text_of(settings, line.name()).is_none() {
            settings.push(line);
        }
    }
    // A file capability holds for every user namespace in which UID 0 is the host's, including the host's own.
    let files = mask(&["setfcap"]);
    if set_of(settings, "AmbientCapabilities") & files != 0 {
        return Err(Error::refused(
            option,
            "CAP_SETFCAP cannot be confined: a program that the task gives a capability has it on the host; the operator of \
             this node allows it with `allow_root = \"host\"`"
                .to_owned(),
        ));
    }
    let bounding = set_of(settings, "CapabilityBoundingSet");
    if bounding & files != 0 {
        settings.retain(|line| line.name() != "CapabilityBoundingSet");
        settings.extend(Assignment::of_capabilities("CapabilityBoundingSet", bounding & !files));
    }
    // If the view has no homes, none need be hidden.
    let is_moot = |line: &&Assignment| line.name() == "ProtectHome" && facts.view.has_no_home();
    let is_known = |line: &&Assignment| {
        features.check(line).is_ok() && line.name() != "NoNewPrivileges" && !is_moot(line)
    };
    let mut floor: Vec<Assignment> =
        Preset::Standard.assignments().iter().filter(is_known).cloned().collect();
    floor.extend(own.into_iter().filter_map(|(name, text)| Assignment::parse(name, text).ok()));
    preset::as_tight(&floor, settings).map_err(|Looser { property, floor }| {
        Error::refused(
            &option_of(property).unwrap_or_else(|| property.to_owned()),
            format!("a task that is root, or could act as root, has nothing looser than {floor} (`allow_root = \"confined\"`)"),
        )
    })
}

fn mask(names: &[&str]) -> u64 {
    names.iter().filter_map(|name| capability_mask([*name]).ok()).fold(0, |mask, bit| mask | bit)
}

fn set_of(settings: &[Assignment], name: &str) -> u64 {
    match Assignment::last(settings, name).map(Assignment::meaning) {
        Some(Meaning::Number(set)) => set,
        _ => 0,
    }
}

/// The value of the last line with this name, if it is one text.
pub(super) fn text_of(settings: &[Assignment], name: &str) -> Option<String> {
    match Assignment::last(settings, name)?.meaning() {
        Meaning::Text(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::config::PluginConfig;

    fn policy(root: &str, allowed: &[&str]) -> Policy {
        let mut config = PluginConfig::decode(&[]).unwrap();
        root.clone_into(&mut config.allow_root);
        config.allow_properties.extend(allowed.iter().map(ToString::to_string));
        Policy::resolve(&config).unwrap()
    }

    static VIEW: View = View::Private { host_paths: Vec::new() };
    static NETWORK_OF_HOST: NetworkMode = NetworkMode::Host;

    fn facts(standing: Standing) -> Facts<'static> {
        let is_ephemeral = standing == Standing::Unique;
        Facts {
            standing,
            is_ephemeral,
            requested_uid: None,
            speaks: false,
            view: &VIEW,
            network: &NETWORK_OF_HOST,
        }
    }

    /// The properties afterwards, one on a line, or the refusal.
    fn confined(
        facts: &Facts<'_>,
        policy: &Policy,
        version: u32,
        lines: &[(&str, &str)],
    ) -> Result<String, String> {
        let ours = [("NoNewPrivileges", "yes")].iter().chain(lines);
        let ours = ours.map(|(name, text)| Assignment::parse(name, text).unwrap());
        let mut settings = Assignment::folded(Preset::Standard.assignments().iter().cloned().chain(ours));
        let mut features = Features::everything(Manager::System);
        features.version = version;
        confine(&mut settings, facts, policy, &features).map_err(|error| error.to_string())?;
        let lines: Vec<_> = settings.iter().map(|line| format!("{}={}", line.name(), line.text())).collect();
        Ok(lines.join("\n") + "\n")
    }

    #[test]
    fn root_by_any_way_needs_the_operators_word() {
        let no = policy("no", &[]);
        let root = facts(Standing::Root);
        assert!(confined(&root, &no, 257, &[]).unwrap_err().contains("`allow_root"));
        for capability in
            ["CAP_SETUID", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_KILL", "CAP_SYS_PTRACE", "CAP_MKNOD"]
        {
            let refusal =
                confined(&facts(Standing::Unique), &no, 257, &[("AmbientCapabilities", capability)]);
            let refusal = refusal.unwrap_err();
            assert!(refusal.contains("`allow_root") && refusal.contains(capability), "{refusal}");
        }
        let set_user_id = [("NoNewPrivileges", "no")];
        assert!(
            confined(&facts(Standing::Named), &no, 257, &set_user_id).unwrap_err().contains("`allow_root")
        );
        // systemd itself lets no ephemeral user gain privileges.
        assert!(confined(&facts(Standing::Unique), &no, 257, &set_user_id).is_ok());
        let harmless = [("AmbientCapabilities", "CAP_NET_BIND_SERVICE")];
        assert!(confined(&facts(Standing::Unique), &no, 257, &harmless).is_ok());
        assert!(confined(&root, &policy("host", &[]), 252, &[]).is_ok());
    }

    #[test]
    fn confined_root_is_in_namespaces_of_its_own_and_keeps_the_standard_preset() {
        let allowed = policy("confined", &[]);
        let root = facts(Standing::Root);
        let settings = confined(&root, &allowed, 257, &[]).unwrap();
        assert!(
            settings.contains("PrivateUsers=yes\n") && settings.contains("PrivatePIDs=yes\n"),
            "{settings}"
        );
        let usual = [("CapabilityBoundingSet", "CAP_CHOWN CAP_SETFCAP")];
        let settings = confined(&root, &allowed, 257, &usual).unwrap();
        assert!(settings.contains("CapabilityBoundingSet=CAP_CHOWN\n"), "{settings}");
        let refusal = confined(&root, &allowed, 252, &[]).unwrap_err();
        assert!(refusal.contains("systemd 257") && refusal.contains("allow_root = \"host\""), "{refusal}");
        for looser in [
            ("PrivateUsers", "no"),
            ("PrivateUsers", "identity"),
            ("PrivatePIDs", "no"),
            ("ProtectKernelTunables", "no"),
            ("ProtectControlGroups", "no"),
            ("RestrictNamespaces", "no"),
        ] {
            let refusal = confined(&root, &allowed, 257, &[looser]).unwrap_err();
            assert!(refusal.contains(looser.0), "{looser:?}: {refusal}");
        }
        assert!(
            confined(&Facts { speaks: true, ..root }, &allowed, 257, &[]).unwrap_err().contains("`notify`")
        );
        let host = Facts { view: &View::Host, ..facts(Standing::Root) };
        assert!(confined(&host, &allowed, 257, &[]).unwrap_err().contains("allow_root = \"host\""));
    }

    #[test]
    fn a_user_of_the_operating_systems_does_not_reach_its_daemons() {
        let usual = policy("no", &[]);
        let asking = |uid| Facts { requested_uid: Some(uid), ..facts(Standing::Named) };
        let pids = "PrivatePIDs=yes\n";
        // systemd 257 gives a task a PID namespace.
        for uid in [1, 33, 999] {
            assert!(confined(&asking(uid), &usual, 257, &[]).unwrap().contains(pids));
        }
        for facts in [facts(Standing::Named), asking(1000), asking(65_534)] {
            assert!(!confined(&facts, &usual, 257, &[]).unwrap().contains(pids));
        }
        let seeing = [("PrivatePIDs", "no")];
        let refusal = confined(&asking(33), &usual, 257, &seeing).unwrap_err();
        assert!(refusal.contains("`sandbox.private_pids`") && refusal.contains("\"User\""), "{refusal}");
        assert!(confined(&asking(1000), &usual, 257, &seeing).is_ok());
        let host = Facts { view: &View::Host, ..asking(33) };
        assert!(confined(&host, &usual, 257, &[]).unwrap_err().contains("`user`"));
        // An older systemd cannot.
        for uid in [1, 33, 999] {
            let refusal = confined(&asking(uid), &usual, 252, &[]).unwrap_err();
            assert!(refusal.contains("`user`") && refusal.contains("systemd 257"), "{refusal}");
            assert!(confined(&asking(uid), &policy("no", &["User"]), 252, &[]).is_ok());
        }
        assert!(confined(&asking(1000), &usual, 252, &[]).is_ok());
        assert!(confined(&asking(65_534), &usual, 252, &[]).is_ok());
    }

    #[test]
    fn a_named_user_does_not_see_the_host_through_other_processes_of_that_user() {
        let usual = policy("no", &[]);
        let named = facts(Standing::Named);
        assert!(confined(&named, &usual, 252, &[]).unwrap().contains("PrivateUsers=yes\n"));
        let apart = [("PrivateUsers", "no")];
        assert!(confined(&named, &usual, 252, &apart).unwrap_err().contains("`allow_properties`"));
        assert!(confined(&named, &policy("no", &["PrivateUsers"]), 252, &apart).is_ok());
        let low_port = [("AmbientCapabilities", "CAP_NET_BIND_SERVICE")];
        assert!(confined(&named, &usual, 252, &low_port).unwrap_err().contains("`socket` block"));
        assert!(!confined(&facts(Standing::Unique), &usual, 252, &[]).unwrap().contains("PrivateUsers"));
    }
}
