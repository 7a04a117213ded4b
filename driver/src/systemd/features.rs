//! The features of systemd on this node: which manager, which version, which kernel.
//!
//! systemd silently ignores many settings that it does not support. The driver reports them before anything is started.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::property::{Assignment, Meaning};
use super::vocabulary::Vocabulary;
use crate::kernel;

/// The kinds of systemd managers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Manager {
    /// The system manager.
    #[default]
    System,
    /// The manager of the user that this process runs as.
    User,
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::User => "user",
        })
    }
}

/// The version in Debian 11. The names and types that the driver sends have not changed since.
const OLDEST: u32 = 247;
/// The oldest user manager, that of Debian 12. An older one mounts a new `/proc` for a unit with a root of its own. The
/// kernel does not permit that to a user whose `/proc` has mounts on it.
const OLDEST_OF_A_USER: u32 = 252;
/// The first user manager that accepts encrypted credentials.
const ENCRYPTED_OF_A_USER: u32 = 256;

/// The features of a manager on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// The manager.
    pub manager: Manager,
    /// The version, for example 252.
    pub version: u32,
    /// The directory of the manager's cgroup, which contains its slices.
    pub cgroup: PathBuf,
    /// The cgroup controllers that the manager may use, for example `memory`.
    pub controllers: BTreeSet<String>,
    /// Whether the kernel accepts programs that filter by cgroup, and this manager may load them.
    pub filters: bool,
    /// Whether systemd was built with what the newer of these programs need (`BPF_FRAMEWORK`).
    pub newer_filters: bool,
    /// The names that filters may contain.
    vocabulary: Arc<Vocabulary>,
}

impl Features {
    /// The features of a manager of this version, in this cgroup.
    pub(super) fn new(
        manager: Manager,
        version: &str,
        options: &str,
        cgroup: &str,
        vocabulary: Vocabulary,
    ) -> Self {
        let number: String = version.chars().take_while(char::is_ascii_digit).collect();
        let cgroup = Path::new(CGROUPS).join(cgroup.trim_start_matches('/'));
        let controllers = std::fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap_or_default();
        // A user manager does not have the rights.
        let filters = manager == Manager::System && kernel::supports_cgroup_bpf();
        Self {
            manager,
            version: number.parse().unwrap_or_default(),
            cgroup,
            controllers: controllers.split_whitespace().map(str::to_owned).collect(),
            filters,
            newer_filters: filters && options.split_whitespace().any(|option| option == "+BPF_FRAMEWORK"),
            vocabulary: Arc::new(vocabulary),
        }
    }

    /// A manager that supports everything that systemd can do, for what a job means on another machine.
    pub fn everything(manager: Manager) -> Self {
        let controllers = ["cpu", "cpuset", "io", "memory", "pids"];
        Self {
            manager,
            version: u32::MAX,
            cgroup: CGROUPS.into(),
            controllers: controllers.map(str::to_owned).into(),
            filters: true,
            newer_filters: true,
            vocabulary: Arc::new(Vocabulary::everything()),
        }
    }

    /// Why this manager cannot run tasks at all. `None` if it can.
    pub fn unsupported_reason(&self) -> Option<String> {
        let (whose, oldest) = match self.manager {
            Manager::System => ("systemd", OLDEST),
            Manager::User => ("a user's systemd of version", OLDEST_OF_A_USER),
        };
        (self.version < oldest)
            .then(|| format!("{whose} {} is too old, the driver needs {oldest} or newer", self.version))
    }

    /// Why this manager cannot decrypt credentials. `None` if it can.
    pub fn keeps_credentials_sealed(&self) -> Option<String> {
        (self.manager == Manager::User && self.version < ENCRYPTED_OF_A_USER).then(|| {
            format!(
                "a user manager needs systemd {ENCRYPTED_OF_A_USER} or newer, and this node has {}",
                self.version
            )
        })
    }

    /// Does systemd on this node know every name in a filter? systemd would ignore the others.
    pub fn check_names(&self, assignment: &Assignment) -> Result<(), String> {
        self.vocabulary.check(assignment)
    }

    fn too_old(&self, assignment: &Assignment, value: &str) -> String {
        let off = if assignment.text() == "no" { "; leave it out: it is off there" } else { "" };
        let (name, needs) = (assignment.name(), assignment.needs());
        format!("{name}{value} needs systemd {needs} or newer, and this node has {}{off}", self.version)
    }

    /// Is the assignment supported on this node? The error is the reason why not.
    pub fn check(&self, assignment: &Assignment) -> Result<(), String> {
        const NEWER: [&str; 4] =
            ["RestrictFileSystems", "RestrictNetworkInterfaces", "SocketBindAllow", "SocketBindDeny"];
        let (name, property) = (assignment.name(), assignment.property());
        if self.version < assignment.needs() {
            let value = if property.since < assignment.needs() {
                format!("={}", assignment.text())
            } else {
                String::new()
            };
            return Err(self.too_old(assignment, &value));
        }
        if let Some(controller) =
            property.controller.filter(|controller| !self.controllers.contains(*controller))
        {
            return Err(match self.manager {
                Manager::System => format!(
                    "{name} needs the cgroup controller `{controller}`, which systemd does not have there: it is not in \
                     /sys/fs/cgroup/cgroup.controllers; leave the option out, or enable the controller (`doctor` says how)"
                ),
                Manager::User => format!(
                    "{name} needs the cgroup controller `{controller}`, which this user's systemd was not given; an \
                     administrator may add it to `Delegate=` in a drop-in for user@.service"
                ),
            });
        }
        if self.manager == Manager::User && !property.user_manager {
            return Err(format!("{name} does not exist in a user's systemd"));
        }
        if self.manager == Manager::User && !is_for_users(name, &plain_text(assignment)) {
            return Err(format!("{name}={} does not exist in a user's systemd", assignment.text()));
        }
        if NEWER.contains(&name) && !self.newer_filters {
            return Err(format!(
                "{name} needs a systemd that was built with `+BPF_FRAMEWORK` (`systemctl --version`)"
            ));
        }
        if let Some(module) = missing_security_module(name)
            && !assignment.text().trim().is_empty()
            && !assignment.text().starts_with('-')
        {
            return Err(format!(
                "{name} needs {module}, which the kernel of this node does not enforce; with `-` before the value it may be \
                 missing"
            ));
        }
        if name == "RestrictFileSystems" && !has_bpf_security_module() {
            return Err(format!(
                "{name} needs a kernel that was started with `bpf` among its security modules (`lsm=`)"
            ));
        }
        if property.bpf && !self.filters {
            return Err(format!(
                "{name} needs a kernel with BPF programs for cgroups, and the right to load them"
            ));
        }
        Ok(())
    }
}

/// The root of the cgroup hierarchy.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The value; `yes` or `no` for every spelling of a boolean.
fn plain_text(assignment: &Assignment) -> String {
    match assignment.meaning() {
        Meaning::Text(text) => text,
        _ => assignment.text().to_owned(),
    }
}

/// Does a user manager support this value of a property, if it supports the property?
fn is_for_users(name: &str, text: &str) -> bool {
    let first = text.split(':').next().unwrap_or(text);
    match name {
        // Anything else that a user's unit hides or mounts is possible only in a user namespace of its own.
        "PrivateUsers" => ["yes", "self"].contains(&first),
        "ProtectControlGroups" => !["private", "strict"].contains(&first),
        _ => true,
    }
}

/// The security module that the property needs, if the kernel does not enforce it. systemd would leave the property
/// out.
fn missing_security_module(property: &str) -> Option<&'static str> {
    let (module, is_enforced) = match property {
        "AppArmorProfile" => {
            let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
            ("AppArmor", enabled.is_ok_and(|enabled| enabled.starts_with('Y')))
        }
        "SELinuxContext" => ("SELinux", std::path::Path::new("/sys/fs/selinux/status").exists()),
        "SmackProcessLabel" => ("SMACK", std::path::Path::new("/sys/fs/smackfs/load2").exists()),
        _ => return None,
    };
    (!is_enforced).then_some(module)
}

fn has_bpf_security_module() -> bool {
    std::fs::read_to_string("/sys/kernel/security/lsm")
        .is_ok_and(|list| list.trim().split(',').any(|name| name == "bpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_a_user(version: u32) -> Features {
        Features { version, ..Features::everything(Manager::User) }
    }

    #[test]
    fn what_a_users_manager_passes_over_in_silence_is_told() {
        let check = |line: &str| {
            let (name, text) = line.split_once('=').unwrap();
            of_a_user(260).check(&Assignment::parse(name, text).unwrap())
        };
        for line in ["PrivateUsers=yes", "PrivateUsers=self", "ProtectControlGroups=yes", "PrivateTmp=yes"] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
        for line in [
            "PrivateUsers=no",
            "PrivateUsers=identity",
            "ProtectControlGroups=strict",
            "ProtectProc=invisible",
            "AmbientCapabilities=CAP_CHOWN",
            "IPAddressDeny=any",
            "DevicePolicy=closed",
        ] {
            assert!(check(line).unwrap_err().contains("does not exist in a user's systemd"), "{line}");
        }
    }

    #[test]
    fn one_that_is_too_old_is_told() {
        assert!(
            of_a_user(251).unsupported_reason().is_some_and(|why| why.contains("251") && why.contains("252"))
        );
        assert_eq!(of_a_user(252).unsupported_reason(), None);
        let system = |version| Features { version, ..Features::everything(Manager::System) };
        assert_eq!(
            (system(247).unsupported_reason(), system(246).unsupported_reason().is_some()),
            (None, true)
        );
        assert!(of_a_user(255).keeps_credentials_sealed().is_some());
        assert_eq!(of_a_user(256).keeps_credentials_sealed(), None);
    }
}
