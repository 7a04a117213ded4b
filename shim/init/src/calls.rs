//! The system calls that a program may make in the presets of the sandbox: systemd's `@system-service` (systemd 262) without
//! those that the preset excludes (driver/README.md, "Presets").
//!
//! systemd's own filter for such a list takes a fifth of a task's start, since libseccomp writes it anew for every task. So
//! the unit of a task only denies the groups of calls that nobody needs, and the init of a program, and the runner of a
//! guest, deny the rest themselves.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Which calls a program may make: the preset of its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// Those of the preset `standard`.
    Standard,
    /// Those of the preset `strict`.
    Strict,
    /// Those of the preset for the runner of WebAssembly.
    Wasm,
}

impl Calls {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Standard, Self::Strict, Self::Wasm];

    /// The name of the preset.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Strict => "strict",
            Self::Wasm => "wasm",
        }
    }

    /// The preset that the command line of an init or a runner names, such as `wasm-shim init --calls strict -- …`. What
    /// comes after `--` is the program's.
    pub fn of_command_line<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Self> {
        // `wasm-shim become … -- PATH wasm-shim run …`
        if words.nth(1)? == "become" {
            words.find(|word| *word == "--")?;
        }
        let mut options = words.take_while(|word| *word != "--");
        options.find(|word| *word == "--calls")?;
        options.next()?.parse().ok()
    }

    /// The calls by their numbers, each with its name.
    pub fn numbers(self) -> BTreeMap<i64, &'static str> {
        let groups: &[Group] = match self {
            Self::Standard => {
                &[WASM, WASM_OLD, PROBES, NEWER, STRICT, STRICT_OLD, EVENTS, STANDARD, STANDARD_OLD]
            }
            Self::Strict => &[WASM, WASM_OLD, PROBES, NEWER, STRICT, STRICT_OLD, EVENTS],
            Self::Wasm => &[WASM, WASM_OLD, PROBES, NEWER],
        };
        groups.iter().copied().flatten().map(|(name, number)| (*number, *name)).collect()
    }
}

impl FromStr for Calls {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|calls| calls.name() == name);
        found.ok_or_else(|| format!("`{name}` is none of standard, strict and wasm"))
    }
}

type Group = &'static [(&'static str, i64)];

/// Calls by the names of their constants in `libc`.
macro_rules! group {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Calls that the runner of WebAssembly may make, and so every program.
const WASM: Group = group! {
        SYS_accept SYS_accept4 SYS_bind SYS_brk SYS_capget SYS_chdir SYS_clock_getres SYS_clock_gettime
        SYS_clock_nanosleep SYS_clone SYS_clone3 SYS_close SYS_close_range SYS_connect SYS_copy_file_range
        SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2
        SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64
        SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fcntl SYS_fdatasync SYS_fgetxattr
        SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync
        SYS_ftruncate SYS_futex SYS_futex_waitv SYS_get_mempolicy SYS_get_robust_list SYS_getcpu SYS_getcwd
        SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getpeername SYS_getpgid
        SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrusage
        SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr
        SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_ioctl SYS_ioprio_get SYS_kcmp
        SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr
        SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr
        SYS_madvise SYS_membarrier SYS_mkdirat SYS_mknodat SYS_mmap SYS_mprotect SYS_mremap SYS_mseal
        SYS_msync SYS_munmap SYS_name_to_handle_at SYS_nanosleep SYS_newfstatat SYS_open_tree SYS_openat
        SYS_openat2 SYS_personality SYS_pidfd_open SYS_pidfd_send_signal SYS_ppoll SYS_prctl SYS_pread64
        SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read
        SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages
        SYS_removexattr SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending
        SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
        SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity
        SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval
        SYS_sched_yield SYS_seccomp SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list
        SYS_set_tid_address SYS_setfsgid SYS_setns SYS_setpgid SYS_setsid SYS_setsockopt SYS_setxattr
        SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socket SYS_socketpair SYS_splice SYS_statfs
        SYS_statx SYS_symlinkat SYS_sync SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_tkill SYS_truncate
        SYS_umask SYS_uname SYS_unlinkat SYS_unshare SYS_userfaultfd SYS_utimensat SYS_vmsplice SYS_wait4
        SYS_waitid SYS_write SYS_writev
};
/// Those that only older architectures have.
#[cfg(target_arch = "x86_64")]
const WASM_OLD: Group = group! {
        SYS_access SYS_arch_prctl SYS_chmod SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_ctl_old
        SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat SYS_get_thread_area
        SYS_getdents SYS_getpgrp SYS_getrlimit SYS_inotify_init SYS_link SYS_lstat SYS_mkdir SYS_mknod
        SYS_open SYS_pause SYS_poll SYS_readlink SYS_rename SYS_renameat SYS_rmdir SYS_select
        SYS_set_thread_area SYS_signalfd SYS_stat SYS_symlink SYS_sync_file_range SYS_time SYS_unlink
        SYS_utime SYS_utimes SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
const WASM_OLD: Group = &[];

/// On top of that, what programs may make with `strict`.
const STRICT: Group = group! {
        SYS_getitimer SYS_io_cancel SYS_io_destroy SYS_io_getevents SYS_io_setup SYS_io_submit
        SYS_memfd_create SYS_mlock SYS_mlock2 SYS_mlockall SYS_mq_getsetattr SYS_mq_notify SYS_mq_open
        SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd
        SYS_munlock SYS_munlockall SYS_pipe2 SYS_process_madvise SYS_process_vm_readv SYS_process_vm_writev
        SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_setgid SYS_setitimer SYS_setregid SYS_setresgid
        SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_timer_create SYS_timer_delete SYS_timer_getoverrun
        SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime
        SYS_times
};
/// Those that only older architectures have.
#[cfg(target_arch = "x86_64")]
const STRICT_OLD: Group = group! {
        SYS_alarm SYS_pipe
};
#[cfg(not(target_arch = "x86_64"))]
const STRICT_OLD: Group = &[];

/// On top of that, what programs may make with `standard`.
const STANDARD: Group = group! {
        SYS_capset SYS_fchown SYS_fchownat SYS_ioprio_set SYS_mbind SYS_migrate_pages SYS_move_pages
        SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_set_mempolicy
        SYS_set_mempolicy_home_node SYS_setfsuid SYS_setgroups SYS_setpriority SYS_setresuid SYS_setreuid
        SYS_setuid
};
/// Those that only older architectures have.
#[cfg(target_arch = "x86_64")]
const STANDARD_OLD: Group = group! {
        SYS_chown SYS_lchown SYS_setrlimit
};
#[cfg(not(target_arch = "x86_64"))]
const STANDARD_OLD: Group = &[];

/// Calls that `libc` does not know yet (asm-generic/unistd.h); the numbers are those of every architecture.
const NEWER: Group = &[
    ("SYS_fchmodat2", 452),
    ("SYS_statmount", 457),
    ("SYS_listmount", 458),
    ("SYS_lsm_get_self_attr", 459),
    ("SYS_lsm_list_modules", 461),
    ("SYS_setxattrat", 463),
    ("SYS_getxattrat", 464),
    ("SYS_listxattrat", 465),
    ("SYS_removexattrat", 466),
    ("SYS_file_getattr", 468),
    ("SYS_file_setattr", 469),
];
/// What the kernel has a program call that is traced by probes.
#[cfg(target_arch = "x86_64")]
const PROBES: Group = &[("SYS_uretprobe", 335)];
#[cfg(not(target_arch = "x86_64"))]
const PROBES: Group = &[];

/// With `strict`, under the numbers of this architecture.
#[cfg(target_arch = "x86_64")]
const EVENTS: Group = &[("SYS_io_pgetevents", 333)];
#[cfg(not(target_arch = "x86_64"))]
const EVENTS: Group = &[("SYS_io_pgetevents", 292)];

/// The highest number of a call that is known here: programs are told that higher ones do not exist, as by a kernel that
/// does not have them, and take another way.
pub(crate) const LAST: i64 = 472;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_preset_allows_less_than_the_one_before_and_none_what_only_root_needs() {
        let [standard, strict, wasm] = Calls::ALL.map(Calls::numbers);
        assert!(strict.keys().all(|number| standard.contains_key(number)) && strict.len() < standard.len());
        assert!(wasm.keys().all(|number| strict.contains_key(number)) && wasm.len() < strict.len());
        for denied in
            [libc::SYS_mount, libc::SYS_bpf, libc::SYS_io_uring_setup, libc::SYS_add_key, libc::SYS_ptrace]
        {
            assert!(!standard.contains_key(&denied), "{denied}");
        }
        assert!(standard.keys().all(|number| *number <= LAST));
    }

    #[test]
    fn a_command_line_names_its_preset_before_the_program_alone() {
        let named = |line: &str| Calls::of_command_line(line.split(' '));
        assert_eq!(named("wasm-shim init --calls strict --report -- /bin/sh sh"), Some(Calls::Strict));
        assert_eq!(
            named("wasm-shim run --allow-precompiled --calls wasm --argv0=x -- /x"),
            Some(Calls::Wasm)
        );
        let become_runner = "wasm-shim become --carried A -- /s wasm-shim serve --calls standard -- /x";
        assert_eq!(named(become_runner), Some(Calls::Standard));
        for line in ["wasm-shim init --report -- sh sh --calls wasm", "wasm-shim", "sh -c x"] {
            assert_eq!(named(line), None, "{line}");
        }
    }

    #[test]
    fn a_preset_is_found_by_its_name() {
        for calls in Calls::ALL {
            assert_eq!(calls.name().parse(), Ok(calls));
        }
        assert!("off".parse::<Calls>().is_err());
    }
}
