//! The user and groups of a task: which of them a job may request, and which not.

use std::ops::RangeInclusive;

use crate::systemd::{Assignment, Manager, Meaning, Reach};
use crate::task::config::TaskConfig;
use crate::task::host::users::{Accounts, HostUser};
use crate::task::refusal::Error;
use crate::task::sandbox::policy::how_to_allow;
use crate::task::sandbox::privilege::Standing;
use crate::task::spec::NodeSpec;
use crate::task::spec::ephemeral;

/// UIDs that Nomad gives to tasks by default (Nomad v2.0.5, `client.users.dynamic_user_min`).
const DYNAMIC: RangeInclusive<u32> = 80_000..=89_999;
/// The smallest UID that Nomad can be configured to give: those below are the operating system's.
const FIRST_DYNAMIC: u32 = 1000;
/// UIDs that stand for no user, in 16 and in 32 bits.
const NOBODYS: [u32; 3] = [65_535, u32::MAX - 1, u32::MAX];
/// Prefixes of names that are not people's and that no job may request: the ephemeral users of our own tasks, Nomad's,
/// and those of systemd's services.
const RESERVED: [&str; 3] = ["task-", "nomad-", "systemd-"];
/// Prefixes of the names of tasks' users.
const OF_TASKS: [&str; 2] = ["task-", "nomad-"];

/// The user that a task runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A user that exists as long as tasks run as that user: those of a group, or one alone.
    Ephemeral,
    /// A user of the host, by name or number.
    User(String),
    /// A dynamic user of Nomad, with a group of the same number.
    Number(u32),
    /// The driver's own user: a user's systemd knows no other.
    Driver,
}

impl Identity {
    /// How this user relates to other users of the host; `found` is the user, if the host knows it.
    pub(super) fn standing(&self, found: Option<&HostUser>) -> Standing {
        match self {
            Self::Number(0) => Standing::Root,
            Self::Ephemeral | Self::Number(_) => Standing::Unique,
            Self::Driver => Standing::OfDriver,
            Self::User(name) => {
                let is_root =
                    name == "root" || name.parse() == Ok(0) || found.is_some_and(|user| user.uid == 0);
                if is_root { Standing::Root } else { Standing::Named }
            }
        }
    }

    /// The user of the task, and what the host knows about that user. Nomad's dynamic users are numbers: `nomad-80123`
    /// is user and group 80123.
    pub fn of(
        config: &TaskConfig,
        node: &NodeSpec,
        accounts: &dyn Accounts,
    ) -> Result<(Self, Option<HostUser>), Error> {
        let user = config.user.as_str();
        if node.manager == Manager::User {
            return if user.is_empty() {
                Ok((Self::Driver, None))
            } else {
                Err(Error::refused(
                    "user",
                    "a user's own systemd runs every task as that user; leave it out of the job, or have the operator set \
                     `manager = \"system\"`"
                        .to_owned(),
                ))
            };
        }
        if !user.is_empty() {
            node.policy.check_denied("user", "User")?;
            check_user_name(user)?;
        }
        // Only where Nomad chooses them: a job could choose somebody else's.
        let number = user.strip_prefix("nomad-").filter(|_| node.dynamic_workload_users);
        let is_nomads = |number: &u32, text: &str| {
            *number >= FIRST_DYNAMIC && !ephemeral::has_number(*number) && number.to_string() == text
        };
        let number = number.and_then(|text| text.parse().ok().filter(|number| is_nomads(number, text)));
        let identity = match (user, number) {
            ("", _) => node.default_identity.clone(),
            (_, Some(number)) => Self::Number(number),
            (user, None) => Self::User(user.to_owned()),
        };
        let found = match &identity {
            Self::User(name) => accounts.user(name),
            Self::Number(number) => Some(HostUser::of_number(*number)),
            Self::Ephemeral | Self::Driver => None,
        };
        if let (Self::User(name), false) = (&identity, user.is_empty()) {
            check_reserved(name, found.as_ref())?;
        }
        // systemd would look the user up again, and might get one that the operator denies.
        if let (Self::User(name), None) = (&identity, &found)
            && accounts.is_complete()
            && name.parse::<u32>().is_err()
        {
            return Err(if user.is_empty() {
                Error::Plugin { option: "default_user", value: name.clone(), wanted: "a user of this node" }
            } else {
                Error::refused(
                    "user",
                    format!(
                        "this node has no user `{name}`; create the user on the node, name another, or leave `user` out for \
                         an ephemeral user"
                    ),
                )
            });
        }
        Ok((identity, found))
    }
}

/// Can this be the name of a user, or the UID? systemd accepts the same ("User/Group Name Syntax").
fn check_user_name(user: &str) -> Result<(), Error> {
    let is_name = user.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.')
        && user.chars().all(|c| c.is_ascii_alphanumeric() || "_-.@$".contains(c));
    if is_name {
        return Ok(());
    }
    let name = user.escape_debug();
    if user.contains("${") {
        let reason = format!(
            "`{name}`: Nomad fills in no variables there; name the user, or use a variable of the job file (`var.NAME`)"
        );
        return Err(Error::refused("user", reason));
    }
    Err(Error::refused(
        "user",
        format!(
            "`{name}` is not the name or number of a user; write one without spaces or colons (`group` is an option of its own)"
        ),
    ))
}

/// Is this a user that no job may request?
fn check_reserved(name: &str, found: Option<&HostUser>) -> Result<(), Error> {
    let taken = |whose: &str| {
        Err(Error::refused(
            "user",
            format!(
                "`{name}` is not a user that a job can ask for: {whose}; leave `user` out for a user of the task's own"
            ),
        ))
    };
    let names = [Some(name), found.map(|user| user.name.as_str())];
    if names.into_iter().flatten().any(|name| RESERVED.iter().any(|begin| name.starts_with(begin))) {
        return taken("the name belongs to another task or to a service of systemd's");
    }
    let number = found.map(|user| user.uid).or_else(|| name.parse().ok());
    match number {
        None if name.chars().all(|c| c.is_ascii_digit()) => taken("the number stands for no user"),
        Some(number) if NOBODYS.contains(&number) => taken("the number stands for no user"),
        Some(number) if ephemeral::has_number(number) => {
            taken("systemd gives the numbers 61184 to 65519 to other tasks and services")
        }
        // A user of the host may have such a UID.
        Some(number) if found.is_none() && DYNAMIC.contains(&number) => {
            taken("Nomad gives the numbers 80000 to 89999 to other tasks")
        }
        _ => Ok(()),
    }
}

/// May the task run as this user, whom the job or the plugin's configuration names, and in the groups that its job
/// names in any way? A user's own groups come with the user.
pub(crate) fn check_groups(
    lines: &[(String, Assignment)],
    found: Option<&HostUser>,
    config: &TaskConfig,
    node: &NodeSpec,
    accounts: &dyn Accounts,
) -> Result<(), Error> {
    let option_of_user = if config.user.is_empty() { "default_user" } else { "user" };
    let own = found.map(|user| user.gids.clone()).unwrap_or_default();
    let mut beyond_own = Vec::new();
    for (option, line) in lines {
        if !["Group", "SupplementaryGroups"].contains(&line.name()) {
            continue;
        }
        node.policy.check_denied(option, line.name())?;
        let names = match line.meaning() {
            Meaning::Words(names) => names,
            // The text as it is written: a name may look like a yes or no.
            _ => vec![line.text().to_owned()],
        };
        for name in names.iter().filter(|name| !name.is_empty()) {
            let Some(gid) = accounts.group(name) else {
                return Err(Error::refused(
                    option,
                    format!("this node has no group `{name}`; create it on the node, or name another"),
                ));
            };
            // Groups of the operating system, such as `systemd-journal`, have the GIDs of the operating system.
            if OF_TASKS.iter().any(|begin| name.starts_with(begin)) || ephemeral::has_number(gid) {
                return Err(Error::refused(
                    option,
                    format!(
                        "`{name}` is not a group that a job can ask for: it belongs to another task or service"
                    ),
                ));
            }
            beyond_own.push((option, line, name.clone(), gid));
        }
    }
    if let Some(user) = found {
        node.policy.check_user(option_of_user, &user.name, user.uid)?;
        own.iter().try_for_each(|gid| node.policy.check_group(option_of_user, &user.name, *gid))?;
    }
    beyond_own.iter().try_for_each(|(option, _, name, gid)| node.policy.check_group(option, name, *gid))?;
    let beyond = beyond_own
        .iter()
        .find(|(_, line, _, gid)| !own.contains(gid) && !node.policy.allows_by_name(line.name()));
    match beyond.map(|(option, line, name, _)| (option, line, name, line.reach())) {
        Some((option, line, name, Reach::BeyondTask(why))) => Err(Error::refused(
            option,
            format!(
                "{property}={name} reaches beyond the task: {why}; leave it out, or {}",
                how_to_allow(line.name()),
                property = line.name()
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, found: Option<(&str, u32)>) -> Result<(), String> {
        let found = found.map(|(name, uid)| HostUser { name: name.to_owned(), uid, gids: vec![uid] });
        check_reserved(name, found.as_ref()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_user_of_another_task_cannot_be_asked_for_by_name_or_number() {
        for (name, found) in [
            ("task-0123456789ab", None),
            ("task-0123456789ab", Some(("task-0123456789ab", 64_000))),
            ("64000", Some(("task-0123456789ab", 64_000))),
            ("64000", None),
            ("064000", None),
            ("nomad-80001", None),
            ("80001", None),
            ("systemd-network", Some(("systemd-network", 998))),
            ("998", Some(("systemd-network", 998))),
        ] {
            let refusal = check(name, found).unwrap_err();
            assert!(refusal.contains("`user`") && refusal.contains(name), "{refusal}");
        }
        for (name, found) in [
            ("web", Some(("web", 1000))),
            ("taskmaster", Some(("taskmaster", 1001))),
            ("nobody", Some(("nobody", 65_534))),
            ("80001", Some(("anna", 80_001))),
            ("no-such-user", None),
        ] {
            assert_eq!(check(name, found), Ok(()), "{name}");
        }
    }
}
