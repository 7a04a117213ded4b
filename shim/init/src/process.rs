//! The three things about processes that no library has: to make one and learn whether it became a program, to hear of
//! every end, and to send or die of any signal. nix knows only signals that have a name, not those of real time.
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

/// Makes a process that becomes a program, and waits until it is that; or why it is not. This process must have one thread.
///
/// There is no pipe between the two: a filter of the job's may refuse pipes. The kernel holds this process up until the
/// other one is the program (`CLONE_VFORK`, clone(2)), and a number in memory that both see says what went wrong.
pub(crate) fn make(become_program: impl FnOnce() -> io::Result<Infallible>) -> io::Result<io::Result<Pid>> {
    let size = NonZero::<usize>::MIN;
    // SAFETY: new memory, which nothing else is in.
    let page = unsafe {
        mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED)?
    };
    // SAFETY: the memory is large enough, all zeroes, aligned to a page, and stays until the end of this function.
    let error = unsafe { page.cast::<AtomicI32>().as_ref() };
    let ours = std::process::id();
    // SAFETY: a fork, of a process that has one thread, as the caller promises, so that its copy can do everything.
    let process = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) };
    // A filter of system calls may answer in the kernel's place, with a zero as well.
    if process == 0 && (ours == 0 || ours == std::process::id()) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    if process == 0 {
        let Err(source) = become_program();
        error.store(source.raw_os_error().unwrap_or(libc::EIO), Ordering::SeqCst);
        // SAFETY: it ends this copy and does nothing else.
        unsafe { libc::_exit(127) }
    }
    let made = match libc::pid_t::try_from(process) {
        Ok(process) if process > 0 => Ok(match error.load(Ordering::SeqCst) {
            0 => Ok(Pid::from_raw(process)),
            number => Err(io::Error::from_raw_os_error(number)),
        }),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: nobody looks at it any more.
    let _ = unsafe { munmap(page, size.get()) };
    made
}

/// A child that has ended, and how.
pub(crate) fn reap_one() -> Option<(Pid, Ended)> {
    let mut status = 0;
    // SAFETY: the kernel writes a number where there is room for one.
    let process = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Killed(libc::WTERMSIG(status))
    } else {
        // A process keeps eight bits of its exit code.
        Ended::Exited(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    };
    (process > 0).then(|| (Pid::from_raw(process), ended))
}

/// Ends this process as the program ended; returns the exit code with which it cannot but end: of a signal that does not
/// end process 1 of a namespace, 128 and its number.
pub fn end_like(ended: Ended) -> u8 {
    let number = match ended {
        Ended::Exited(code) => return code,
        Ended::Killed(number) => number,
    };
    // The program's core, if it has left one, is the one to look at.
    let _ = prctl::set_dumpable(false);
    // SAFETY: all zeroes are a valid set, the calls read and write that one; no handler is set.
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

/// Sends a signal, also one of real time.
pub(crate) fn send(process: Pid, number: i32) {
    // SAFETY: a call with numbers; the process is our child, which is there until we have reaped it.
    unsafe { libc::kill(process.as_raw(), number) };
}
