//! Writes a system call filter from a verdict for each number of a call.
//!
//! The kernel runs a filter for every call, and for every number when it is installed: so the filter searches in halves
//! (seccomp(2), classic BPF).

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

use crate::calls::{Calls, LAST};
use crate::filter::X32;

/// The answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    /// The call fails with this errno.
    Errno(i32),
    /// Allowed if it makes a thread, for clone(2).
    Thread,
}

/// A filter for the calls of a preset.
pub(crate) fn of_preset(calls: Calls) -> BpfProgram {
    program(&allowed(calls), Verdict::Errno(libc::EPERM), Verdict::Errno(libc::ENOSYS))
}

/// A filter for a process that makes threads, and no process: with the calls of a preset, or with all others.
pub(crate) fn of_one_process(calls: Option<Calls>) -> BpfProgram {
    let mut verdicts = calls.map(allowed).unwrap_or_default();
    let mut refused = vec![libc::SYS_execve, libc::SYS_execveat];
    #[cfg(target_arch = "x86_64")]
    refused.extend([libc::SYS_fork, libc::SYS_vfork]);
    verdicts.extend(refused.into_iter().map(|call| (call, Verdict::Errno(libc::EPERM))));
    verdicts.insert(libc::SYS_clone, Verdict::Thread);
    // It has its flags in memory, which no filter sees: without it, the C library uses `clone`.
    verdicts.insert(libc::SYS_clone3, Verdict::Errno(libc::ENOSYS));
    match calls {
        Some(_) => program(&verdicts, Verdict::Errno(libc::EPERM), Verdict::Errno(libc::ENOSYS)),
        None => program(&verdicts, Verdict::Allow, Verdict::Allow),
    }
}

fn allowed(calls: Calls) -> BTreeMap<i64, Verdict> {
    calls.numbers().into_keys().map(|number| (number, Verdict::Allow)).collect()
}

/// `others` are the other numbers up to the last that is known here, `newer` those beyond.
fn program(verdicts: &BTreeMap<i64, Verdict>, others: Verdict, newer: Verdict) -> BpfProgram {
    let known = (0..=LAST).map(|number| (number, *verdicts.get(&number).unwrap_or(&others)));
    // Calls of the x32 ABI are other calls under these numbers.
    let all = known.chain([(LAST + 1, newer), (X32, Verdict::Errno(libc::ENOSYS))]);
    // Where the verdict changes.
    let mut steps: Vec<(u32, Verdict)> = Vec::new();
    for (number, verdict) in all {
        if steps.last().is_none_or(|(_, before)| *before != verdict) {
            steps.push((u32::try_from(number).unwrap_or(u32::MAX), verdict));
        }
    }
    let mut program = vec![
        load(ARCHITECTURE_AT),
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        errno(libc::EPERM),
        load(NUMBER_AT),
    ];
    program.extend(search(&steps));
    program
}

fn search(steps: &[(u32, Verdict)]) -> BpfProgram {
    let (lower, upper) = steps.split_at(steps.len() / 2);
    match (lower, upper) {
        (_, []) => Vec::new(),
        ([], [(_, verdict), ..]) => leaf(*verdict),
        (_, [(number, _), ..]) => {
            let (lower, upper) = (search(lower), search(upper));
            let over = u32::try_from(lower.len()).unwrap_or(u32::MAX);
            // A conditional jump has a byte for its distance.
            let mut half =
                vec![jump(libc::BPF_JGE, *number, 0, 1), instruction(libc::BPF_JMP | libc::BPF_JA, over)];
            half.extend(lower);
            half.extend(upper);
            half
        }
    }
}

fn leaf(verdict: Verdict) -> BpfProgram {
    match verdict {
        Verdict::Allow => vec![allow()],
        Verdict::Errno(number) => vec![errno(number)],
        Verdict::Thread => vec![
            load(FLAGS_AT),
            jump(libc::BPF_JSET, libc::CLONE_THREAD.unsigned_abs(), 0, 1),
            allow(),
            errno(libc::EPERM),
        ],
    }
}

/// Where `struct seccomp_data` has the number, the architecture, and the lower half of the first argument.
pub(crate) const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const FLAGS_AT: u32 = 16;
/// The number of this architecture in audit(8) (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

pub(crate) fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k }
}

pub(crate) fn load(at: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

pub(crate) fn jump(kind: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { jt, jf, ..instruction(libc::BPF_JMP | kind | libc::BPF_K, k) }
}

pub(crate) fn allow() -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW)
}

pub(crate) fn errno(number: i32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | number.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a filter returns for a call with this number and first argument.
    fn answer(program: &BpfProgram, number: u32, argument: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let over = |jump| usize::from(if jump { jt } else { jf });
            match u32::from(code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    value = [number, ARCHITECTURE, 0, 0, argument][k as usize / 4];
                }
                code if code == libc::BPF_JMP | libc::BPF_JA => at += k as usize,
                code if code == libc::BPF_JMP | libc::BPF_JEQ => at += over(value == k),
                code if code == libc::BPF_JMP | libc::BPF_JGE => at += over(value >= k),
                code if code == libc::BPF_JMP | libc::BPF_JSET => at += over(value & k != 0),
                _ => return k,
            }
        }
    }

    #[test]
    fn each_number_has_the_answer_of_its_preset() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        let missing = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
        for calls in Calls::ALL {
            let (program, numbers) = (of_preset(calls), calls.numbers());
            for number in 0..600 {
                let expected = match number {
                    number if numbers.contains_key(&number) => libc::SECCOMP_RET_ALLOW,
                    ..=LAST => refused,
                    _ => missing,
                };
                assert_eq!(answer(&program, u32::try_from(number).unwrap(), 0), expected, "{number}");
            }
            assert_eq!(answer(&program, 0x4000_0000, 0), missing);
        }
    }

    #[test]
    fn one_process_makes_threads_alone() {
        let number = |call: i64| u32::try_from(call).unwrap();
        for calls in [None, Some(Calls::Wasm)] {
            let program = of_one_process(calls);
            let thread = libc::CLONE_THREAD.unsigned_abs();
            assert_eq!(answer(&program, number(libc::SYS_clone), thread), libc::SECCOMP_RET_ALLOW);
            for (call, errno) in [
                (libc::SYS_clone, libc::EPERM),
                (libc::SYS_execve, libc::EPERM),
                (libc::SYS_clone3, libc::ENOSYS),
            ] {
                let expected = libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
                assert_eq!(answer(&program, number(call), 0), expected, "{call}");
            }
            assert_eq!(answer(&program, number(libc::SYS_read), 0), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[test]
    fn the_filter_finds_each_number_in_few_steps() {
        let program = of_preset(Calls::Standard);
        assert!(program.len() < 512, "{}", program.len());
    }
}
