//! The namespaces that systemd made for a task.
//!
//! The namespaces are opened once, so a main process that changes its own meanwhile changes nothing. Only namespaces
//! that systemd made are joined. A namespace that the task made for itself belongs to a user namespace of the task, in
//! which the task decides what every path means. This process, still root of the host, would be led into it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::kernel;

/// All kinds except user namespaces, in the order in which they are joined. The mount namespace comes last: afterwards
/// no path has its previous meaning.
const KINDS: [(&str, LinkNameSpaceType); 7] = [
    ("cgroup", LinkNameSpaceType::ControlGroup),
    ("ipc", LinkNameSpaceType::InterProcessCommunication),
    ("net", LinkNameSpaceType::Network),
    ("time", LinkNameSpaceType::Time),
    ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
    ("pid", LinkNameSpaceType::ProcessID),
    ("mnt", LinkNameSpaceType::Mount),
];

/// The namespaces of a process that this process is not in.
pub(super) struct Namespaces {
    others: Vec<(&'static str, LinkNameSpaceType, File)>,
    user: Option<File>,
    /// `/proc/self/ns`, which shows this process's namespaces even after the change of mounts.
    ours: OwnedFd,
}

impl Namespaces {
    /// Opens the namespaces of the process at `proc`. An error if the process has entered one that systemd did not
    /// make.
    pub(super) fn of(proc: &Path, has_user_namespace: bool) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let ours = rustix::fs::open("/proc/self/ns", flags, Mode::empty())?;
        let differs = |name: &str| -> io::Result<Option<File>> {
            // The kernel may be built without this kind.
            let Ok(our_own) = fs::metadata(format!("/proc/self/ns/{name}")) else { return Ok(None) };
            let theirs = File::open(proc.join("ns").join(name))?;
            Ok(Some(theirs)
                .filter(|theirs| theirs.metadata().is_ok_and(|found| found.ino() != our_own.ino())))
        };
        let mut others = Vec::new();
        for (name, kind) in KINDS {
            if let Some(file) = differs(name)? {
                others.push((name, kind, file));
            }
        }
        let user = differs("user")?;
        // Without root the task runs as the driver's user, and systemd makes all namespaces in the task's user
        // namespace.
        if rustix::process::geteuid().is_root() {
            check(&others, user.as_ref(), has_user_namespace)?;
        }
        Ok(Self { others, user, ours })
    }

    /// Joins all namespaces except the user namespace, and verifies that this process is in them.
    pub(super) fn join(&self) -> io::Result<()> {
        if !rustix::process::geteuid().is_root() {
            // The rights over the other namespaces come from the user namespace.
            self.join_user()?;
        }
        for (name, kind, file) in &self.others {
            move_into_link_name_space(file.as_fd(), Some(*kind))?;
            // For these two kinds the process stays in its own namespace; only its children are in the joined one.
            let name = match *name {
                "pid" => "pid_for_children",
                "time" => "time_for_children",
                other => other,
            };
            self.make_sure_of(name, file)?;
        }
        Ok(())
    }

    /// Joins the user namespace, in which this process no longer has rights over the host.
    pub(super) fn join_user(&self) -> io::Result<()> {
        let Some(file) = &self.user else { return Ok(()) };
        if self.make_sure_of("user", file).is_ok() {
            return Ok(());
        }
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::User))?;
        self.make_sure_of("user", file)
    }

    /// Are the children of this process in another PID namespace?
    pub(super) fn have_processes(&self) -> bool {
        self.others.iter().any(|(name, ..)| *name == "pid")
    }

    fn make_sure_of(&self, name: &str, file: &File) -> io::Result<()> {
        let found = rustix::fs::statat(&self.ours, name, rustix::fs::AtFlags::empty())?;
        if found.st_ino == file.metadata()?.ino() {
            return Ok(());
        }
        Err(io::Error::other(format!("the process is not in the {name} namespace that it joined")))
    }
}

/// Did systemd make all namespaces? systemd makes them as root of the host, so they belong to the driver's user
/// namespace, and the task's user namespace is a child of the driver's.
fn check(
    others: &[(&'static str, LinkNameSpaceType, File)],
    user: Option<&File>,
    has_user_namespace: bool,
) -> io::Result<()> {
    let ours = fs::metadata("/proc/self/ns/user")?.ino();
    let its_own = |name: &str| {
        io::Error::other(format!(
            "its main process is in a {name} namespace that systemd did not make; a command cannot be run beside it"
        ))
    };
    for (name, _, file) in others {
        let owner = kernel::owner_of_namespace(file.as_fd())?;
        if File::from(owner).metadata()?.ino() != ours {
            return Err(its_own(name));
        }
    }
    let Some(user) = user else { return Ok(()) };
    let is_child = kernel::parent_of_namespace(user.as_fd())
        .and_then(|parent| File::from(parent).metadata())
        .is_ok_and(|parent| parent.ino() == ours);
    if is_child && has_user_namespace { Ok(()) } else { Err(its_own("user")) }
}
