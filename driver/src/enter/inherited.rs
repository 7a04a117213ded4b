//! Attributes that a process passes on to its children implicitly, read from the task's main process: its limits, its
//! scheduling, its security label. A child of the driver has those of the agent instead.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit};
use rustix::thread::CpuSet;

use super::{Failure, step};
use crate::kernel;

/// The inherited attributes of a process.
pub(super) struct Inherited {
    /// The capability bounding set: capabilities that a program can still get, one bit each.
    pub(super) bounding_set: u64,
    /// Permitted capabilities. The process may have dropped some since it started, and systemd does not pass on all of
    /// them.
    permitted: u64,
    /// Whether no program may get more privileges than the process that starts it.
    pub(super) no_new_privileges: bool,
    /// The UID, and the GIDs of all groups of the user; both may have changed since the task started.
    uid: u32,
    groups: Vec<u32>,
    is_filtered: bool,
    is_filtered_like_every_init: bool,
    limits: Vec<(Resource, Rlimit)>,
    nice: i32,
    oom_score_adj: String,
    personality: u32,
    processors: CpuSet,
    umask: u32,
    label: Option<(&'static str, String)>,
}

/// The kinds of limits, by their names in `/proc/PID/limits` (proc_pid_limits(5)).
const LIMITS: [(&str, Resource); 16] = [
    ("Max cpu time", Resource::Cpu),
    ("Max file size", Resource::Fsize),
    ("Max data size", Resource::Data),
    ("Max stack size", Resource::Stack),
    ("Max core file size", Resource::Core),
    ("Max resident set", Resource::Rss),
    ("Max processes", Resource::Nproc),
    ("Max open files", Resource::Nofile),
    ("Max locked memory", Resource::Memlock),
    ("Max address space", Resource::As),
    ("Max file locks", Resource::Locks),
    ("Max pending signals", Resource::Sigpending),
    ("Max msgqueue size", Resource::Msgqueue),
    ("Max nice priority", Resource::Nice),
    ("Max realtime priority", Resource::Rtprio),
    ("Max realtime timeout", Resource::Rttime),
];

impl Inherited {
    /// Reads the attributes of the process at `proc`.
    pub(super) fn of(proc: &Path, pid: Pid) -> io::Result<Self> {
        let status = fs::read_to_string(proc.join("status"))?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim).ok_or_else(|| io::Error::other(format!("its status has no {name}")))
        };
        // The kernel reports the umask only of a process that can create files, and a process that has ended cannot.
        field("Umask").map_err(|_| io::Error::other("its main process has ended"))?;
        let number = |name: &str, radix| u64::from_str_radix(field(name)?, radix).map_err(io::Error::other);
        let numbers = |name: &str| {
            let numbers = field(name)?.split_whitespace().map(str::parse);
            numbers.collect::<Result<Vec<u32>, _>>().map_err(io::Error::other)
        };
        let limits = limits(&fs::read_to_string(proc.join("limits"))?);
        Ok(Self {
            bounding_set: number("CapBnd", 16)?,
            permitted: number("CapPrm", 16)?,
            no_new_privileges: number("NoNewPrivs", 10)? != 0 && program_can_get_no_more(proc, pid),
            uid: numbers("Uid")?.first().copied().unwrap_or(u32::MAX),
            groups: numbers("Groups")?,
            // Any mode except zero (proc_pid_status(5)).
            is_filtered: number("Seccomp", 10)? != 0,
            is_filtered_like_every_init: is_init(proc)
                && number("Seccomp_filters", 10).is_ok_and(|count| count == 1),
            limits,
            nice: rustix::process::getpriority_process(Some(pid))?,
            oom_score_adj: fs::read_to_string(proc.join("oom_score_adj"))?,
            personality: u32::from_str_radix(fs::read_to_string(proc.join("personality"))?.trim(), 16)
                .map_err(io::Error::other)?,
            processors: rustix::thread::sched_getaffinity(Some(pid))?,
            umask: u32::try_from(number("Umask", 8)?).unwrap_or(0o22),
            label: label_of(proc),
        })
    }

    /// Does the kernel filter the system calls of the process?
    pub(super) fn is_filtered(&self) -> bool {
        self.is_filtered
    }

    /// Is the process an init whose only filter is the one that every init has, and that its program does not have?
    pub(super) fn is_filtered_like_every_init(&self) -> bool {
        self.is_filtered_like_every_init
    }

    /// The groups of a task's user: those of the main process, unless the main process has changed its user.
    pub(super) fn groups_of(&self, uid: u32) -> &[u32] {
        if self.uid == uid { &self.groups } else { &[] }
    }

    /// The capabilities that a process of this user may have: no more than the main process, if both have the same
    /// user.
    pub(super) fn permitted_to(&self, uid: u32) -> u64 {
        if self.uid == uid { self.permitted } else { u64::MAX }
    }

    /// Applies the attributes to this process, except those that would block the next steps: these come with the
    /// identity.
    pub(super) fn take_on(&self) -> Result<(), Failure> {
        step("its personality", || kernel::set_personality(self.personality))?;
        step("its OOM score", || fs::write("/proc/self/oom_score_adj", self.oom_score_adj.trim()))?;
        step("its nice level", || Ok(rustix::process::setpriority_process(None, self.nice)?))?;
        step("its processors", || Ok(rustix::thread::sched_setaffinity(None, &self.processors)?))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(self.umask));
        if let Some((file, label)) = &self.label {
            step("its security label", || fs::write(file, label))?;
        }
        for (kind, limit) in &self.limits {
            step("its limits", || set(*kind, limit))?;
        }
        Ok(())
    }
}

/// Is the process the init of a task's program (shim/src/init.rs)?
fn is_init(proc: &Path) -> bool {
    fs::read(proc.join("cmdline")).is_ok_and(|command| command.starts_with(b"wasm-shim\0init\0"))
}

/// An init gives up more privileges than its program, which is the init's first child as long as both live. If that
/// cannot be determined, as for a guest, which has no init, the process's own setting counts.
fn program_can_get_no_more(proc: &Path, pid: Pid) -> bool {
    let children = fs::read_to_string(proc.join(format!("task/{}/children", pid.as_raw_pid())));
    let program = children.ok().and_then(|children| children.split_whitespace().next().map(str::to_owned));
    let status = program.and_then(|program| fs::read_to_string(format!("/proc/{program}/status")).ok());
    status.is_none_or(|status| !status.lines().any(|line| line == "NoNewPrivs:\t0"))
}

fn limits(text: &str) -> Vec<(Resource, Rlimit)> {
    let value = |word: &str| word.parse().ok();
    let limit = |(name, kind): &(&str, Resource)| {
        let mut words = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
        // A word that is not a number is `unlimited`.
        Some((*kind, Rlimit { current: value(words.next()?), maximum: value(words.next()?) }))
    };
    LIMITS.iter().filter_map(limit).collect()
}

/// Sets a limit, or a tighter one: a driver without `CAP_SYS_RESOURCE` cannot exceed its own limit.
fn set(kind: Resource, limit: &Rlimit) -> io::Result<()> {
    let ours = rustix::process::getrlimit(kind);
    let tighter = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
    let maximum = tighter(limit.maximum, ours.maximum);
    match rustix::process::setrlimit(kind, *limit) {
        Err(rustix::io::Errno::PERM) => Ok(rustix::process::setrlimit(
            kind,
            Rlimit { current: tighter(limit.current, maximum), maximum },
        )?),
        other => Ok(other?),
    }
}

/// The file that sets the security label of the next program, and the text to write to it. `None` if no module sets
/// labels, and for a task without a label of its own.
fn label_of(proc: &Path) -> Option<(&'static str, String)> {
    let read = |file: &str| {
        let label = fs::read_to_string(proc.join("attr").join(file)).ok()?;
        Some(label.trim_end_matches(['\0', '\n']).to_owned()).filter(|label| !label.is_empty())
    };
    if let Some(label) = read("apparmor/current") {
        let profile = label.split(" (").next().unwrap_or_default();
        return (profile != "unconfined")
            .then(|| ("/proc/self/attr/apparmor/exec", format!("exec {profile}")));
    }
    // AppArmor reports its label here too; the remaining labels are SELinux's.
    let label = read("current").filter(|label| !label.starts_with("unconfined") && label.contains(':'))?;
    Some(("/proc/self/attr/exec", label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_this_process_is_read_as_the_kernel_says_it() {
        let limits = limits(&fs::read_to_string("/proc/self/limits").unwrap());
        assert_eq!(limits.len(), LIMITS.len());
        for (kind, limit) in limits {
            assert_eq!(limit, rustix::process::getrlimit(kind), "{kind:?}");
        }
    }
}
