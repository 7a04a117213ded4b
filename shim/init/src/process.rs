//! Three operations on processes that no library has: to create a process and learn whether it became a program, to
//! reap every child, and to send or die of any signal. nix knows only named signals, not real-time signals.
#![expect(unsafe_code, reason = "clone, waitpid, kill and raise are plain system calls here")]

use std::convert::Infallible;
use std::io;
use std::num::NonZero;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::prctl;
use nix::unistd::Pid;

use crate::Ended;

/// Creates a process that becomes a program, and waits until it has, or until it has failed. This process must be
/// single-threaded.
///
/// There is no pipe between the two, because a filter of the job may reject pipes. The kernel suspends this process
/// until the other one has executed the program (`CLONE_VFORK`, clone(2)), and an error number in shared memory tells
/// what went wrong.
pub(crate) fn make(become_program: impl FnOnce() -> io::Result<Infallible>) -> io::Result<io::Result<Pid>> {
    let size = NonZero::<usize>::MIN;
    // SAFETY: new memory, which nothing else uses.
    let page = unsafe {
        mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED)?
    };
    // SAFETY: the memory is large enough, zeroed, page-aligned, and stays mapped until the end of this function.
    let error = unsafe { page.cast::<AtomicI32>().as_ref() };
    let ours = std::process::id();
    // SAFETY: a fork of a single-threaded process, as the caller promises, so that its copy may call anything.
    let process = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) };
    // A system call filter may answer in the kernel's place, and may return zero.
    if process == 0 && (ours == 0 || ours == std::process::id()) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    if process == 0 {
        let Err(source) = become_program();
        error.store(source.raw_os_error().unwrap_or(libc::EIO), Ordering::SeqCst);
        // SAFETY: the call ends this copy and does nothing else.
        unsafe { libc::_exit(127) }
    }
    let made = match libc::pid_t::try_from(process) {
        Ok(process) if process > 0 => Ok(match error.load(Ordering::SeqCst) {
            0 => Ok(Pid::from_raw(process)),
            number => Err(io::Error::from_raw_os_error(number)),
        }),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: nothing refers to the memory any longer.
    let _ = unsafe { munmap(page, size.get()) };
    made
}

/// A child that has ended, and how it ended.
pub(crate) fn reap_one() -> Option<(Pid, Ended)> {
    let mut status = 0;
    // SAFETY: the kernel writes one number into memory for one number.
    let process = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Killed(libc::WTERMSIG(status))
    } else {
        // The kernel keeps eight bits of an exit code.
        Ended::Exited(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    };
    (process > 0).then(|| (Pid::from_raw(process), ended))
}

/// Ends this process in the way in which the program ended. Returns an exit code for the case that the signal cannot
/// end process 1 of a PID namespace: 128 and the signal's number.
pub fn end_like(ended: Ended) -> u8 {
    let number = match ended {
        Ended::Exited(code) => return code,
        Ended::Killed(number) => number,
    };
    // Only the program's core dump, if there is one, is of interest.
    let _ = prctl::set_dumpable(false);
    // SAFETY: all zeroes are a valid set, the calls read and write only this set, and no handler is set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, number);
        libc::signal(number, libc::SIG_DFL);
        libc::raise(number);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
    }
    u8::try_from(128 + number).unwrap_or(u8::MAX)
}

/// Sends a signal, including real-time signals.
pub(crate) fn send(process: Pid, number: i32) {
    // SAFETY: a call with numbers; the process is our child, which exists until we have reaped it.
    unsafe { libc::kill(process.as_raw(), number) };
}
