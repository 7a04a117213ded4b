//! An init that can create no more processes, and stays in the namespaces in which systemd has started it.
//!
//! A program may ptrace its init and make it call whatever the program chooses. Processes created that way would be
//! children of systemd again; and commands in the task join the namespaces of the init.

use std::collections::BTreeMap;
use std::io;

use crate::calls::Calls;
use crate::verdicts;
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
/// program, and every call that is not in `calls`; threads may still be made. Call it while there is one thread.
///
/// # Errors
/// When an earlier filter does not allow prctl(2).
pub fn stay_one_process(calls: Option<Calls>) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    install(&verdicts::of_one_process(calls))
}

/// Makes the kernel reject every call that is not in `calls`, for this process and all that it makes.
pub(crate) fn allow_only(calls: Calls) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    install(&verdicts::of_preset(calls))
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

/// The filters of a process that a command beside the program of its task shall have: those of the init, or of the runner
/// of a guest, without what these have given up for themselves, and the list of `calls` ([`Calls::of_command_line`]) even if
/// the process has not installed it yet.
///
/// # Errors
/// When no filter can be written for this architecture.
pub fn of_command(
    mut filters: Vec<Vec<Instruction>>,
    calls: Option<Calls>,
) -> io::Result<Vec<Vec<Instruction>>> {
    let instructions = |program: &BpfProgram| -> Vec<Instruction> {
        program.iter().map(|each| (each.code, each.jt, each.jf, each.k)).collect()
    };
    let of_init = instructions(&program().map_err(io::Error::other)?);
    let of_runner = [None].into_iter().chain(Calls::ALL.map(Some));
    let of_runner: Vec<_> =
        of_runner.map(|calls| (calls, instructions(&verdicts::of_one_process(calls)))).collect();
    while let Some(last) = filters.last() {
        let runner = of_runner.iter().find(|(_, program)| program == last);
        if runner.is_none() && *last != of_init {
            break;
        }
        filters.pop();
        if let Some((Some(calls), _)) = runner {
            // The calls of the preset are for the whole task.
            filters.push(instructions(&verdicts::of_preset(*calls)));
            break;
        }
    }
    let list = calls.map(|calls| instructions(&verdicts::of_preset(calls)));
    filters.extend(list.filter(|list| !filters.contains(list)));
    Ok(filters)
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
            stay_one_process(None).unwrap();
            let thread = std::thread::spawn(|| 7).join().unwrap();
            let made = std::process::Command::new("true").status().map_err(|error| error.kind());
            (thread, made)
        });
        let (thread, made) = tried.join().unwrap();
        assert_eq!((thread, made.unwrap_err()), (7, io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn a_command_has_the_calls_of_the_preset_and_may_make_processes() {
        let plain = |program: &BpfProgram| -> Vec<Instruction> {
            program.iter().map(|each| (each.code, each.jt, each.jf, each.k)).collect()
        };
        let (earlier, listed) = (vec![(6, 0, 0, 0)], plain(&verdicts::of_preset(Calls::Wasm)));
        let runner = vec![earlier.clone(), plain(&verdicts::of_one_process(Some(Calls::Wasm)))];
        assert_eq!(of_command(runner, Some(Calls::Wasm)).unwrap(), [earlier.clone(), listed.clone()]);
        let init = vec![earlier.clone(), listed.clone(), plain(&program().unwrap())];
        assert_eq!(of_command(init, None).unwrap(), [earlier.clone(), listed.clone()]);
        let alone = vec![earlier.clone(), plain(&verdicts::of_one_process(None))];
        assert_eq!(of_command(alone, None).unwrap(), vec![earlier.clone()]);
        // It has been executed, and has not come to install the list.
        assert_eq!(of_command(vec![earlier.clone()], Some(Calls::Wasm)).unwrap(), [earlier, listed]);
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
