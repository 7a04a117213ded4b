//! Calls that no program may make, whatever its sandbox: calls that systemd's filters do not see, and calls that harm
//! others.
//!
//! - Creating a file that is set-user-ID or set-group-ID from its first moment (`O_TMPFILE`, open(2)):
//!   `RestrictSUIDSGID=` only covers files that are created by name. Whoever executes such a file on the host becomes the
//!   task's user.
//! - io_uring, whose operations bypass every system call filter.
//! - Leases (`F_SETLEASE`, fcntl(2)) and delegations (`F_SETDELEG`, Linux 6.19), which are leases of directories as
//!   well: whoever opens the file, including systemd, waits up to 45 seconds for the task.
//! - What is newer than the filters of the oldest systemd that we support (247): fchmodat2(2), which sets the same bits
//!   as `fchmodat`; and clone3(2) and openat2(2), which have their flags in memory, where no filter sees them. C libraries
//!   do without. A newer systemd answers all of them in the same way, where it has such a filter.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition as Condition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::filter::{X32, install};
use crate::verdicts::{NUMBER_AT, allow, errno, instruction, jump, load};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// `O_TMPFILE` without `O_DIRECTORY` (include/uapi/asm-generic/fcntl.h), identical on all architectures.
const TMPFILE: u64 = 0o20_000_000;
/// `F_LINUX_SPECIFIC_BASE + 16` of `linux/fcntl.h`; libc does not know it yet.
const F_SETDELEG: i32 = 1040;
const SET_ID: [u64; 2] = [0o4000, 0o2000];

/// Calls whose numbers are the same on all architectures (asm-generic/unistd.h and the tables of each).
const CLONE3: u32 = 435;
const OPENAT2: u32 = 437;
const FCHMODAT2: u32 = 452;
/// Where `struct seccomp_data` has the lower half of the third argument, the mode for `fchmodat2`.
const MODE_AT: u32 = 32;

/// The system call numbers on an architecture.
struct Calls {
    open: &'static [i64],
    openat: i64,
    fcntl: &'static [i64],
    io_uring_setup: i64,
}

/// An architecture whose programs the kernel also runs, with its number in audit(8) (linux/audit.h).
struct Other {
    audit: u32,
    calls: Calls,
}

#[cfg(target_arch = "x86_64")]
const NATIVE: Calls = Calls {
    open: &[libc::SYS_open, libc::SYS_open | X32],
    openat: libc::SYS_openat,
    fcntl: &[libc::SYS_fcntl, libc::SYS_fcntl | X32],
    io_uring_setup: libc::SYS_io_uring_setup,
};
#[cfg(not(target_arch = "x86_64"))]
const NATIVE: Calls = Calls {
    open: &[],
    openat: libc::SYS_openat,
    fcntl: &[libc::SYS_fcntl],
    io_uring_setup: libc::SYS_io_uring_setup,
};
#[cfg(target_arch = "x86_64")]
const OTHER: Other = Other {
    audit: 0x4000_0003, // i386
    calls: Calls { open: &[5], openat: 295, fcntl: &[55, 221], io_uring_setup: 425 },
};
#[cfg(not(target_arch = "x86_64"))]
const OTHER: Other = Other {
    audit: 0x4000_0028, // arm
    calls: Calls { open: &[5], openat: 322, fcntl: &[55, 221], io_uring_setup: 425 },
};

/// Makes the kernel reject these calls permanently, in all descendants of this process too. Where a program may gain
/// privileges, which the operator must have allowed by name, a process without privileges cannot install a filter.
pub(crate) fn confine() -> io::Result<()> {
    if !nix::sys::prctl::get_no_new_privs()? {
        return Ok(());
    }
    let compiled = || -> Result<[BpfProgram; 2], Error> { Ok([program(&NATIVE)?, of_other(&OTHER)?]) };
    let programs = compiled().map_err(io::Error::other)?;
    programs.iter().try_for_each(install)?;
    install(&newer_calls())
}

/// The filter for calls that are newer than the filters of an older systemd.
fn newer_calls() -> BpfProgram {
    let bits = SET_ID.into_iter().fold(0, |all, bit| all | u32::try_from(bit).unwrap_or_default());
    let without_x32 = !u32::try_from(X32).unwrap_or_default();
    vec![
        load(NUMBER_AT),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, without_x32),
        jump(libc::BPF_JEQ, CLONE3, 4, 0),
        jump(libc::BPF_JEQ, OPENAT2, 3, 0),
        jump(libc::BPF_JEQ, FCHMODAT2, 0, 3),
        load(MODE_AT),
        jump(libc::BPF_JSET, bits, 2, 1),
        errno(libc::ENOSYS),
        allow(),
        errno(libc::EPERM),
    ]
}

fn program(calls: &Calls) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let is_set_id = |flags: u8, mode: u8| -> Result<Vec<SeccompRule>, Error> {
        let rule = |bit| -> Result<SeccompRule, Error> {
            let has = |argument, bits| Condition::new(argument, Length::Dword, Compare::MaskedEq(bits), bits);
            Ok(SeccompRule::new(vec![has(flags, TMPFILE)?, has(mode, bit)?])?)
        };
        SET_ID.into_iter().map(rule).collect()
    };
    for call in calls.open {
        rules.insert(*call, is_set_id(1, 2)?);
    }
    for call in calls.fcntl {
        let leases = [libc::F_SETLEASE, F_SETDELEG].map(|command| {
            let is_it = Condition::new(1, Length::Dword, Compare::Eq, u64::from(command.unsigned_abs()))?;
            SeccompRule::new(vec![is_it])
        });
        rules.insert(*call, leases.into_iter().collect::<Result<_, _>>()?);
    }
    for abi in if calls.open == NATIVE.open { &[0, X32][..] } else { &[0] } {
        rules.insert(calls.openat | abi, is_set_id(2, 3)?);
        rules.insert(calls.io_uring_setup | abi, Vec::new());
    }
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()?;
    *verdict_on_others(&mut program)? = libc::SECCOMP_RET_ALLOW;
    Ok(program)
}

/// seccompiler knows native architectures only: calls of the other architecture have the actions of this one under
/// other numbers.
fn of_other(other: &Other) -> Result<BpfProgram, Error> {
    let mut program = program(&other.calls)?;
    verdict_on_others(&mut program)?;
    program[1].k = other.audit;
    Ok(program)
}

/// The action for calls of another architecture: the third instruction, after the architecture's number was loaded and
/// compared.
fn verdict_on_others(program: &mut BpfProgram) -> Result<&mut u32, Error> {
    match program.get_mut(2) {
        Some(verdict) if [libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_ALLOW].contains(&verdict.k) => {
            Ok(&mut verdict.k)
        }
        _ => Err("the filter does not begin with the architecture".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_program_makes_no_file_that_is_set_user_id_from_its_first_moment_and_takes_no_lease() {
        let _alone = crate::DESCRIPTORS.lock();
        let directory = std::env::temp_dir();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        // Each thread has its own filters.
        let tried = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            confine().unwrap();
            let unnamed = |mode| {
                let mut options = std::fs::OpenOptions::new();
                let opened = options.write(true).mode(mode).custom_flags(libc::O_TMPFILE).open(&directory);
                opened.map(drop).map_err(|error| error.raw_os_error().unwrap())
            };
            #[expect(unsafe_code, reason = "fcntl and io_uring_setup as a program calls them")]
            // SAFETY: neither call gets a pointer.
            let (lease, ring) = unsafe {
                use std::os::fd::AsRawFd;
                let lease = libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK);
                let lease = (lease, Errno::last());
                assert_eq!((libc::fcntl(file.as_raw_fd(), F_SETDELEG, 0), Errno::last()), (-1, Errno::EPERM));
                (lease, (libc::syscall(libc::SYS_io_uring_setup, 1, 0), Errno::last()))
            };
            (unnamed(0o600), unnamed(0o4755), unnamed(0o2755), lease, ring)
        });
        let (usual, set_user, set_group, lease, ring) = tried.join().unwrap();
        assert_ne!(usual, Err(libc::EPERM));
        assert_eq!((set_user, set_group), (Err(libc::EPERM), Err(libc::EPERM)));
        assert_eq!((lease, ring), ((-1, Errno::EPERM), (-1, Errno::EPERM)));
    }

    #[test]
    fn calls_that_an_older_systemd_does_not_filter_are_refused() {
        let directory = tempdir();
        let path =
            std::ffi::CString::new(directory.join("file").into_os_string().into_encoded_bytes()).unwrap();
        std::fs::write(directory.join("file"), "").unwrap();
        let tried = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            confine().unwrap();
            let call = |number: u32, arguments: [libc::c_long; 3]| {
                let [one, two, three] = arguments;
                Errno::clear();
                #[expect(unsafe_code, reason = "calls as a program makes them")]
                // SAFETY: the only pointer is that of a string that lives on; the others are null.
                let done = unsafe { libc::syscall(number.into(), one, two, three, 0) };
                (done, Errno::last())
            };
            let chmod = |mode| call(FCHMODAT2, [libc::AT_FDCWD.into(), path.as_ptr() as libc::c_long, mode]);
            let thread = std::thread::spawn(|| 7).join().unwrap();
            (
                [CLONE3, OPENAT2].map(|number| call(number, [0, 0, 0])),
                [0o644, 0o4755, 0o2755].map(chmod),
                thread,
            )
        });
        let (without, chmod, thread) = tried.join().unwrap();
        std::fs::remove_dir_all(directory).unwrap();
        assert_eq!(without, [(-1, Errno::ENOSYS), (-1, Errno::ENOSYS)]);
        // A kernel before Linux 6.6 does not know the call.
        assert!(chmod[0] == (0, Errno::UnknownErrno) || chmod[0] == (-1, Errno::ENOSYS), "{chmod:?}");
        assert_eq!(chmod[1..], [(-1, Errno::EPERM), (-1, Errno::EPERM)]);
        assert_eq!(thread, 7);
    }

    fn tempdir() -> std::path::PathBuf {
        let directory = std::env::temp_dir().join(format!("program-filter-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn calls_of_the_other_architecture_are_told_by_its_number() {
        let (native, other) = (program(&NATIVE).unwrap(), of_other(&OTHER).unwrap());
        assert_ne!(native[1].k, other[1].k);
        assert_eq!(other[1].k, OTHER.audit);
        assert!([&native, &other].iter().all(|program| program[2].k == libc::SECCOMP_RET_ALLOW));
    }
}
