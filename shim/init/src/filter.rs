//! An init that can create no more processes, and stays in the namespaces in which systemd has started it.
//!
//! A program may ptrace its init and make it call whatever the program chooses. Processes created that way would be
//! children of systemd again; and commands in the task join the namespaces of the init.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// The bit in which system call numbers of the x32 ABI of x86-64 differ.
pub(crate) const X32: i64 = 0x4000_0000;

/// Makes the kernel reject, permanently, every call that creates a process or ends this process's role as the parent of
/// orphans. Earlier filters stay in force and must allow prctl(2): seccomp(2) is not in systemd's `@system-service`.
pub(crate) fn make_no_more_processes() -> io::Result<()> {
    let instructions = program().map_err(io::Error::other)?;
    nix::sys::prctl::set_no_new_privs()?;
    install(&instructions)
}

/// Makes the kernel reject, permanently, every call of this process and its threads that makes a process or executes a
/// program; threads may still be made. Call it while there is one thread.
///
/// # Errors
/// When an earlier filter does not allow prctl(2).
pub fn stay_one_process() -> io::Result<()> {
    let [no_processes, no_clone3] = programs_of_one_process().map_err(io::Error::other)?;
    nix::sys::prctl::set_no_new_privs()?;
    install(&no_clone3)?;
    install(&no_processes)
}

/// `clone3` has its flags in memory, which no filter sees: without it, the C library uses `clone`.
fn programs_of_one_process() -> Result<[BpfProgram; 2], Box<dyn std::error::Error + Send + Sync>> {
    let mut calls = vec![libc::SYS_execve, libc::SYS_execveat];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_fork, libc::SYS_vfork]);
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let no_thread = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(thread), 0)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut missing: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for abi in [0, X32] {
        rules.extend(calls.iter().map(|call| (call | abi, Vec::new())));
        rules.insert(libc::SYS_clone | abi, vec![SeccompRule::new(vec![no_thread.clone()])?]);
        missing.insert(libc::SYS_clone3 | abi, Vec::new());
    }
    let program = |rules, errno: i32| -> Result<BpfProgram, Box<dyn std::error::Error + Send + Sync>> {
        let action = SeccompAction::Errno(errno.unsigned_abs());
        let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
        Ok(SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)?.try_into()?)
    };
    Ok([program(rules, libc::EPERM)?, program(missing, libc::ENOSYS)?])
}

/// Installs one more filter in this process. The filter must allow prctl(2) for the next one.
pub(crate) fn install(instructions: &BpfProgram) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(io::Error::other)?,
        filter: instructions.as_ptr().cast_mut().cast(),
    };
    let (kind, mode) = (libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER);
    #[expect(unsafe_code, reason = "prctl has no safe wrapper for it")]
    // SAFETY: the struct points to the number of instructions that it states, in the kernel's layout; the kernel copies
    // and checks them.
    match unsafe { libc::prctl(kind, mode, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One instruction of a filter: code, jt, jf and k (seccomp(2)).
pub type Instruction = (u16, u8, u8, u32);

/// The filters that an init, or the runner of a guest, has given itself in the kernel, and that a command beside its
/// program shall not have.
pub fn own_filters() -> io::Result<Vec<Vec<Instruction>>> {
    let [no_processes, no_clone3] = programs_of_one_process().map_err(io::Error::other)?;
    let programs = [program().map_err(io::Error::other)?, no_processes, no_clone3];
    let instructions = |program: &BpfProgram| -> Vec<Instruction> {
        program.iter().map(|each| (each.code, each.jt, each.jf, each.k)).collect()
    };
    Ok(programs.iter().map(instructions).collect())
}

fn program() -> Result<BpfProgram, Box<dyn std::error::Error + Send + Sync>> {
    let mut calls = vec![libc::SYS_clone, libc::SYS_clone3, libc::SYS_execve, libc::SYS_execveat];
    calls.extend([libc::SYS_unshare, libc::SYS_setns, libc::SYS_chroot, libc::SYS_pivot_root]);
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_fork, libc::SYS_vfork]);
    let subreaper = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(libc::PR_SET_CHILD_SUBREAPER.unsigned_abs()),
    )?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for abi in [0, X32] {
        rules.extend(calls.iter().map(|call| (call | abi, Vec::new())));
        rules.insert(libc::SYS_prctl | abi, vec![SeccompRule::new(vec![subreaper.clone()])?]);
    }
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn who_stays_one_process_makes_threads_and_nothing_else() {
        let tried = std::thread::spawn(|| {
            stay_one_process().unwrap();
            let thread = std::thread::spawn(|| 7).join().unwrap();
            let made = std::process::Command::new("true").status().map_err(|error| error.kind());
            (thread, made)
        });
        let (thread, made) = tried.join().unwrap();
        assert_eq!((thread, made.unwrap_err()), (7, io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn whoever_is_an_init_makes_no_process_and_stays_the_parent_of_orphans() {
        // Each thread has its own filters.
        let tried = std::thread::spawn(|| {
            make_no_more_processes().unwrap();
            let made = std::process::Command::new("true").status().map_err(|error| error.kind());
            let given_up = nix::sys::prctl::set_child_subreaper(false);
            let named = nix::sys::prctl::set_name(c"init");
            (made, given_up, named)
        });
        let (made, given_up, named) = tried.join().unwrap();
        assert_eq!(made.unwrap_err(), io::ErrorKind::PermissionDenied);
        assert_eq!((given_up, named), (Err(Errno::EPERM), Ok(())));
    }
}
