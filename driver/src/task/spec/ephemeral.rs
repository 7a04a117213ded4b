//! The ephemeral user of a job's group: to whom the name belongs, and which UID systemd gives the name.
//!
//! Tasks of one group write to the same files: those of a prestart task in `/alloc`, those that an earlier allocation
//! left on a sticky disk, those of a volume. So the user belongs to the group and not to the task. systemd derives the
//! UID from the name (systemd, src/core/dynamic-user.c), so a group has the same UID on every node whose agent keeps its
//! allocations in the same directory, unless another user has it already; then the group takes the next of its names.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use siphasher::sip::SipHasher24;

use crate::task::config::TaskConfig;
use crate::task::spec::digest;

/// The UIDs that systemd gives to such users, first and last (systemd, "Users, Groups, UIDs and GIDs").
pub const NUMBERS: (u32, u32) = (61_184, 65_519);

/// The key with which systemd hashes names (`hash_key` in src/core/dynamic-user.c, the same since 235).
const KEY: [u8; 16] =
    [0x37, 0x53, 0x7e, 0x31, 0xcf, 0xce, 0x48, 0xf5, 0x8a, 0xbb, 0x39, 0x57, 0x8d, 0xd9, 0xec, 0x59];

/// How many names a group has. That all their UIDs are taken on a node is practically impossible before the node has
/// thousands of such users, unless the author of other jobs looks for groups that have them.
const NAMES: usize = 8;
/// How many unpredictable names are tried then: enough to find one free UID.
const OTHER_NAMES: usize = 100_000;

/// Who shares an ephemeral user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The tasks of a job's group, in all its allocations.
    Group,
    /// Nobody: each task of each allocation has its own.
    None,
}

/// The names that a task's ephemeral user can have: the first one, unless its UID is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EphemeralUser([String; NAMES]);

impl EphemeralUser {
    /// The names for the task.
    pub fn of(config: &TaskConfig, sharing: Sharing) -> Self {
        let whose = match sharing {
            Sharing::Group => {
                // Agents of other clusters may share the node: their directories differ, and their jobs may have the same
                // names. No part of it contains a zero byte, so no two groups have the same text.
                let agent = config.identity.alloc_dir.parent().unwrap_or(Path::new("/")).display();
                let job = lasting_job(&config.job_id);
                format!("{agent}\0{}\0{job}\0{}", config.namespace, config.group_name)
            }
            Sharing::None => format!("{}/{}", config.identity.alloc_id, config.identity.name),
        };
        Self(std::array::from_fn(|index| {
            let whose = if index == 0 { whose.clone() } else { format!("{whose}\0{index}") };
            name_of(&whose)
        }))
    }

    /// The first name.
    pub fn name(&self) -> &str {
        &self.0[0]
    }

    /// The name to start the task with, given the users that systemd has given UIDs to: that of running tasks of the
    /// group, else the one that owns what the group has left, else the first free one. With a name whose UID is taken,
    /// systemd would make the choice, and the task's logs would go to that other user.
    pub fn choose(&self, taken: &[(u32, String)], owner: Option<u32>) -> String {
        let runs = |name: &&String| taken.iter().any(|(_, other)| other == *name);
        let is_free = |name: &&String| !taken.iter().any(|(number, _)| *number == number_of(name));
        let is_owner = |name: &&String| owner == Some(number_of(name));
        let names = || self.0.iter();
        let found = names().find(runs).or_else(|| names().filter(is_free).find(is_owner));
        if let Some(name) = found.or_else(|| names().find(is_free)) {
            return name.clone();
        }
        let secret = RandomState::new();
        let others =
            (0..OTHER_NAMES).map(|index| name_of(&format!("{}\0{}", self.name(), secret.hash_one(index))));
        let mut others = others.filter(|name| is_free(&name));
        others.next().unwrap_or_else(|| self.name().to_owned())
    }
}

/// As long as systemd allows a user name to be: whoever finds another group with the same name is its user.
fn name_of(whose: &str) -> String {
    format!("task-{}", digest(whose, 26))
}

/// The job whose runs belong together: the id of a child of a periodic or parameterized job is the parent's id and a
/// suffix (Nomad v2.0.5, `structs.PeriodicLaunchSuffix` and `structs.DispatchLaunchSuffix`).
fn lasting_job(job_id: &str) -> &str {
    match job_id.rsplit_once('/') {
        Some((parent, run)) if run.starts_with("periodic-") || run.starts_with("dispatch-") => parent,
        _ => job_id,
    }
}

/// Is this the UID of an ephemeral user?
pub fn has_number(number: u32) -> bool {
    (NUMBERS.0..=NUMBERS.1).contains(&number)
}

/// The UID that systemd gives a name, unless it is taken.
pub fn number_of(name: &str) -> u32 {
    let mut hasher = SipHasher24::new_with_key(&KEY);
    hasher.write(name.as_bytes());
    let (first, last) = NUMBERS;
    // systemd uses the lower half.
    let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
    first + u32::from_le_bytes([a, b, c, d]) % (last - first + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> EphemeralUser {
        EphemeralUser(std::array::from_fn(|index| format!("task-{index}")))
    }

    #[test]
    fn a_name_has_the_number_that_systemd_gives_it() {
        // As systemd 247, 252 and 262 gave them.
        assert_eq!(number_of("task-0123456789ab"), 63_726);
        assert_eq!(number_of("foo"), 63_016);
    }

    #[test]
    fn no_group_can_be_found_that_has_the_name_of_another() {
        // A minute's search for two groups with the same first 48 bits.
        let [one, other] = ["prod\0shop\0web1764461", "evil\0x\0g16023971"].map(name_of);
        assert_eq!(one.get(..17), other.get(..17));
        assert_ne!(one, other);
        assert_eq!(one.len(), 31, "the longest that systemd takes");
    }

    #[test]
    fn a_group_has_one_name_as_long_as_its_number_is_free() {
        let other = |number| (number, "other".to_owned());
        let (first, second) = (number_of("task-0"), number_of("task-1"));
        assert_eq!(user().choose(&[], None), "task-0");
        assert_eq!(user().choose(&[other(first)], None), "task-1");
        assert_eq!(user().choose(&[other(first), other(second)], None), "task-2");
        let running = (second, "task-1".to_owned());
        assert_eq!(user().choose(&[running], Some(first)), "task-1", "as the others of the group");
    }

    #[test]
    fn a_group_whose_numbers_others_have_taken_gets_a_free_one_that_nobody_foresees() {
        let taken: Vec<(u32, String)> =
            (0..NAMES).map(|index| (number_of(&format!("task-{index}")), "other".to_owned())).collect();
        let [one, other] = [user().choose(&taken, None), user().choose(&taken, None)];
        for name in [&one, &other] {
            assert!(name.starts_with("task-") && !taken.iter().any(|(number, _)| *number == number_of(name)));
        }
        assert_ne!(one, other);
    }

    #[test]
    fn what_the_group_has_left_stays_its_own_as_long_as_the_number_is_free() {
        let second = number_of("task-1");
        assert_eq!(user().choose(&[], Some(second)), "task-1");
        assert_eq!(user().choose(&[(second, "other".to_owned())], Some(second)), "task-0");
        assert_eq!(user().choose(&[], Some(61_184)), "task-0", "a stranger's");
    }

    #[test]
    fn runs_of_a_periodic_or_dispatched_job_belong_together() {
        assert_eq!(lasting_job("report/periodic-1764380000"), "report");
        assert_eq!(lasting_job("a/b/dispatch-1764380000-0a1b2c3d"), "a/b");
        assert_eq!(lasting_job("a/b"), "a/b");
    }
}
