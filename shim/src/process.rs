//! What the process does to itself that the standard library cannot: end at once, and live in memory alone.
#![expect(
    unsafe_code,
    reason = "signal handlers, _exit, memfd_create and descriptors that we inherit are plain system calls"
)]

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::ffi::{CStr, c_int};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the standard library does before `main`, which this program leaves out as it takes a twentieth of a short run: a
/// broken pipe is an error and no signal, and descriptors 0 to 2 are open, so that no file of ours gets their numbers.
/// To be called first of all.
pub fn begin() {
    const NONE: libc::pollfd = libc::pollfd { fd: 0, events: 0, revents: 0 };
    let mut standard = [NONE, libc::pollfd { fd: 1, ..NONE }, libc::pollfd { fd: 2, ..NONE }];
    // SAFETY: signal, poll and open get valid arguments; and nobody else reads the environment yet, as there is one
    // thread.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        if libc::poll(standard.as_mut_ptr(), 3, 0) > 0 {
            for _ in standard.iter().filter(|stream| stream.revents & libc::POLLNVAL != 0) {
                // It takes the lowest number that is free.
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
        }
    }
    fill_heap();
}

/// Nobody sees the host's stack; looking for it would take longer than most guests. To be called when the command line,
/// which may give the guest these variables, has been read.
pub fn leave_out_backtraces() {
    for variable in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // SAFETY: nobody else reads the environment, as there is still one thread.
        unsafe { std::env::remove_var(variable) };
    }
}

/// Lets the kernel provide at once what malloc has got from it, which is what the start of a guest takes: page by page,
/// as it is touched, takes several times as long.
fn fill_heap() {
    const PAGE: usize = 4096;
    /// How much malloc asks for at first, in bytes.
    const HEAP: usize = 33 * PAGE;
    // SAFETY: sbrk(0) only tells where the heap ends. What is below has been ours from the start or is nobody's, which is
    // an error that changes nothing, as is a kernel that does not know the advice (before Linux 5.14).
    unsafe {
        let end = libc::sbrk(0).map_addr(|end| end & !(PAGE - 1));
        libc::madvise(end.wrapping_byte_sub(HEAP), HEAP, libc::MADV_POPULATE_WRITE);
    }
}

/// Makes SIGTERM and SIGINT end the process at once, with the exit codes 143 and 130.
///
/// WASI has no signals to pass on. A future that waits for one would never be polled while the guest computes on the
/// only thread, and without a handler process 1 of a namespace ignores them.
pub fn end_on_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: all zeroes are a valid sigaction, and the handler only calls functions that are safe in a handler. It
        // runs on the alternate stack, as the guest may have used up the other one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = end as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// SIGTERM and SIGINT, for who ends in a way of its own. tokio has them, too, but its share of every start would be paid
/// by guests that serve nothing.
pub struct Signals(AsyncFd<SignalFd>);

impl Signals {
    fn both() -> SigSet {
        SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
    }

    /// Lets another thread decide what they do.
    pub fn leave_to_others() {
        // The signals exist, which is all that is asked for.
        let _ = Self::both().thread_block();
    }

    /// From now on they do nothing but to come here, if all other threads have left them to others. To be called in a
    /// runtime that waits for sockets.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub fn take_over() -> io::Result<Self> {
        Self::leave_to_others();
        let signals = SignalFd::with_flags(&Self::both(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // SAFETY: a `SignalFd` owns its descriptor, which stays the same and open as long as it lives.
        Ok(Self(unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }?))
    }

    /// Waits for the next one, and gives its name, example `SIGTERM`.
    ///
    /// # Errors
    /// When the kernel does not tell which one came.
    pub async fn next(&self) -> io::Result<&'static str> {
        let read = |signals: &SignalFd| signals.read_signal()?.ok_or_else(|| ErrorKind::WouldBlock.into());
        let came = self.0.async_io(Interest::READABLE, read).await?;
        Ok(Signal::try_from(came.ssi_signo.cast_signed()).map_or("signal", Signal::as_str))
    }
}

extern "C" fn end(signal: c_int) {
    end_saying(
        match signal {
            libc::SIGINT => b"wasm-shim: ended by SIGINT\n",
            _ => b"wasm-shim: ended by SIGTERM\n",
        },
        128 + signal,
    )
}

/// Ends the process now, whatever its threads do, with `line` on stderr if somebody takes it: a reader that is stuck must
/// not hold up the end. Safe in a signal handler.
pub fn end_saying(line: &[u8], code: c_int) -> ! {
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: poll, write and _exit are safe in a handler; `stderr` is one valid pollfd and `line` a valid buffer of its
    // length. A pipe is writable only if a line of this size fits in (pipe(7)).
    unsafe {
        if libc::poll(&raw mut stderr, 1, 0) == 1 && stderr.revents & libc::POLLOUT != 0 {
            libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
        }
        libc::_exit(code);
    }
}

/// Ends the process without taking down what the kernel removes faster: the engine, gigabytes of reserved addresses.
/// Flush the standard streams first.
pub fn exit(code: u8) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// A file without a name, which lives in memory and goes with its last user.
///
/// # Errors
/// When the kernel has no memory or no descriptor left.
pub fn memory_file() -> io::Result<File> {
    const NAME: &CStr = c"wasm-shim";
    // SAFETY: NAME ends in a zero byte, and a descriptor that memfd_create returns is ours alone.
    unsafe {
        match libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd).into()),
        }
    }
}

/// Takes over a descriptor that this process was started with, so that it is closed in time and not inherited further.
///
/// # Errors
/// When there is no such descriptor.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl only looks at the number.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it exists, and by the protocol that passed it (sd_listen_fds(3)) it is ours; we take each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How many of the bytes that were written to the socket `fd` its other end has not taken yet; 0 if that is unknown.
pub fn untaken(fd: RawFd) -> usize {
    let mut bytes: c_int = 0;
    // SAFETY: for a socket, TIOCOUTQ writes one number to where the pointer says, and it fails for what is none.
    match unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) } {
        0 => usize::try_from(bytes).unwrap_or(0),
        _ => 0,
    }
}

/// Who we are to the file system, example 1000.
pub fn user() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}
