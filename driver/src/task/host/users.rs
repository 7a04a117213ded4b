//! Looks up users and groups as the host does.

use nix::unistd::{Group, User, getgrouplist};

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostUser {
    /// The user's name.
    pub name: String,
    /// The user's UID.
    pub uid: u32,
    /// The GIDs of all groups of the user.
    pub gids: Vec<u32>,
}

/// A database of users and groups.
pub trait Accounts {
    /// The user with this name or UID, if there is one.
    fn user(&self, name: &str) -> Option<HostUser>;
    /// The GID of the group with this name or GID; `None` if no group has the name.
    fn group(&self, name: &str) -> Option<u32>;
    /// Is it certain that a user who is not in the database does not exist?
    fn is_complete(&self) -> bool {
        true
    }
}

/// The host's databases, which may be on other machines: a lookup may take long.
pub struct HostAccounts;

impl Accounts for HostAccounts {
    fn user(&self, name: &str) -> Option<HostUser> {
        find(name)
    }

    fn group(&self, name: &str) -> Option<u32> {
        group(name)
    }
}

/// What every host has: root. For a preview, which looks nothing up.
pub struct AssumedAccounts;

impl Accounts for AssumedAccounts {
    fn user(&self, name: &str) -> Option<HostUser> {
        let root = || HostUser { name: "root".to_owned(), uid: 0, gids: vec![0] };
        if name == "root" || name.parse() == Ok(0) { Some(root()) } else { None }
    }

    fn group(&self, name: &str) -> Option<u32> {
        // Any name could be the name of a group.
        Some(name.parse().unwrap_or(u32::MAX - 1))
    }

    fn is_complete(&self) -> bool {
        false
    }
}

/// The user with this name or UID, if there is one. May query other machines.
pub fn find(name: &str) -> Option<HostUser> {
    let found = match name.parse::<u32>() {
        Ok(number) => User::from_uid(number.into()),
        Err(_) => User::from_name(name),
    };
    let user = found.ok().flatten()?;
    let user_name = user.name.clone();
    let own_name = std::ffi::CString::new(user.name).ok()?;
    let groups = getgrouplist(&own_name, user.gid).unwrap_or_default();
    let gids = groups.into_iter().chain([user.gid]).map(nix::unistd::Gid::as_raw).collect();
    Some(HostUser { name: user_name, uid: user.uid.as_raw(), gids })
}

/// The GID of the group with this name or GID, if there is one.
pub fn group(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()))
}

impl HostUser {
    /// A user that exists only as a UID, with a group of the same number.
    pub fn of_number(number: u32) -> Self {
        Self { name: number.to_string(), uid: number, gids: vec![number] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number_and_nobody_else() {
        let root = find("root").unwrap();
        assert_eq!((root.uid, root.gids.contains(&0)), (0, true));
        assert_eq!(find("0").unwrap().uid, 0);
        assert_eq!(find("no-such-user"), None);
        assert_eq!((group("root"), group("7"), group("no-such-group")), (Some(0), Some(7), None));
    }
}
