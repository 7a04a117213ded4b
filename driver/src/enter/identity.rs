//! The user a task runs as, and its capabilities.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::inherited::Inherited;

/// The user of a task, as systemd resolved it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User name as the unit contains it; empty for root.
    pub user: String,
    /// UID of the user.
    pub uid: u32,
    /// GID of the user's group.
    pub gid: u32,
    /// Capabilities that a task has although it is not root, one bit each.
    pub ambient: u64,
}

/// The last capability of today's kernels is 41, `CAP_CHECKPOINT_RESTORE` (capabilities(7)).
const CAPABILITIES: u32 = 64;

/// systemd does not look up this user, which has no home directory.
const NOBODY: u32 = 65_534;

/// The most bytes that are read of the file of users.
const PASSWD_MAX: u64 = 1 << 20;

/// The task's `/etc/passwd`, read as the task's user. If the task has its own root directory, the file can be anything,
/// for example a pipe.
fn passwd() -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut text = String::new();
    if let Ok(file) = rustix::fs::open("/etc/passwd", flags, Mode::empty())
        && let file = File::from(file)
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        // A file that is not text, or cannot be read, names no user.
        let _ = file.take(PASSWD_MAX).read_to_string(&mut text);
    }
    text
}

impl Identity {
    /// The identity of this process, which has no capabilities to pass on.
    pub fn current() -> Self {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Self { user: uid.to_string(), uid, gid, ambient: 0 }
    }

    /// The environment variables that systemd sets for a service with a user. The file of users is read in the task's
    /// view.
    pub(super) fn home(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![("PATH", super::DEFAULT_PATH.to_owned())];
        if !self.user.is_empty() {
            variables.extend(self.variables(&passwd()));
        }
        variables
    }

    /// The variables that depend on the file of users. As in systemd (`USER_CREDS_CLEAN`), a home that is the root
    /// directory and a shell that is not a login shell are left out. A user that is not in the file, such as an
    /// ephemeral one, has neither.
    fn variables(&self, passwd: &str) -> Vec<(&'static str, String)> {
        let uid = self.uid.to_string();
        let entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let entry = entries.filter(|fields| fields.len() >= 7).find(|fields| fields[2] == uid);
        let (name, home, shell) =
            entry.map_or((self.user.as_str(), "", ""), |fields| (fields[0], fields[5], fields[6]));
        let is_shell = !["nologin", "false", "true"].contains(&shell.rsplit('/').next().unwrap_or_default());
        let variables = [
            ("USER", Some(name)),
            ("LOGNAME", Some(name)),
            ("HOME", Some(home).filter(|home| !home.trim_matches('/').is_empty() && self.uid != NOBODY)),
            ("SHELL", Some(shell).filter(|shell| is_shell && !shell.is_empty())),
        ];
        variables.into_iter().filter_map(|(variable, value)| Some((variable, value?.to_owned()))).collect()
    }

    /// Makes this process a member of the task's groups. No process may do so in the task's own user namespace.
    pub(super) fn join_groups(&self, inherited: &Inherited) -> io::Result<()> {
        let theirs = inherited.groups_of(self.uid);
        if !rustix::process::geteuid().is_root() {
            // Only root may leave a group.
            let ours = rustix::process::getgroups()?;
            let beyond =
                ours.iter().map(|gid| gid.as_raw()).find(|gid| *gid != self.gid && !theirs.contains(gid));
            return match beyond {
                Some(gid) => {
                    Err(io::Error::other(format!("the driver is in group {gid}, and the task is not")))
                }
                None => Ok(()),
            };
        }
        let groups: Vec<Gid> = theirs.iter().map(|gid| Gid::from_raw(*gid)).collect();
        Ok(rustix::thread::set_thread_groups(&groups)?)
    }

    /// Makes this process run as the task's user, with no right that the task cannot have.
    pub(super) fn take_on(&self, inherited: &Inherited) -> io::Result<()> {
        let bounding_set = inherited.bounding_set;
        let bits = |set: u64| (0..CAPABILITIES).filter(move |bit| set & (1 << bit) != 0);
        // Capabilities that the kernel does not know are in no process's bounding set.
        for bit in bits(!bounding_set) {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            if rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false) {
                rustix::thread::remove_capability_from_bounding_set(capability)?;
            }
        }
        let ambient = self.ambient & bounding_set;
        rustix::thread::set_keep_capabilities(ambient != 0)?;
        let (gid, uid) = (Gid::from_raw(self.gid), Uid::from_raw(self.uid));
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        // A program of root gets all capabilities of the bounding set, a program of another user those of the ambient
        // set.
        let had = rustix::thread::capabilities(None)?.permitted.bits();
        let kept =
            had & if self.uid == 0 { bounding_set & inherited.permitted_to(self.uid) } else { ambient };
        let set = CapabilitySet::from_bits_retain(kept);
        let inheritable = CapabilitySet::from_bits_retain(ambient);
        rustix::thread::set_capabilities(
            None,
            CapabilitySets { effective: set, permitted: set, inheritable },
        )?;
        for bit in bits(ambient) {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
        if inherited.no_new_privileges {
            rustix::thread::set_no_new_privs(true)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_at_home_where_the_file_says_and_an_ephemeral_one_nowhere() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nweb:x:33:33::/var/www:/usr/sbin/nologin\nbroken\n";
        let user = |user: &str, uid| {
            let variables = Identity { user: user.into(), uid, gid: uid, ambient: 0 }.variables(passwd);
            variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(user("root", 0), ["USER=root", "LOGNAME=root", "HOME=/root", "SHELL=/bin/bash"]);
        assert_eq!(user("33", 33), ["USER=web", "LOGNAME=web", "HOME=/var/www"]);
        assert_eq!(user("task-1", 61_500), ["USER=task-1", "LOGNAME=task-1"]);
    }
}
