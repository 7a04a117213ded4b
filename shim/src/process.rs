//! Operations of the process on itself that the standard library lacks: to end at once, and to have files in memory
//! only.
#![expect(
    unsafe_code,
    reason = "signal handlers, _exit, memfd_create and descriptors that we inherit are plain system calls"
)]

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::ffi::{CStr, c_int};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The standard library's work before `main`, which this program skips as it takes a twentieth of a short run: a broken
/// pipe is an error and not a signal, and descriptors 0 to 2 are open, so that no file of ours gets these numbers. Must
/// be called first.
pub fn begin() {
    const NONE: libc::pollfd = libc::pollfd { fd: 0, events: 0, revents: 0 };
    let mut standard = [NONE, libc::pollfd { fd: 1, ..NONE }, libc::pollfd { fd: 2, ..NONE }];
    // SAFETY: signal, poll and open get valid arguments; and nothing else reads the environment yet, as there is only
    // one thread.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        if libc::poll(standard.as_mut_ptr(), 3, 0) > 0 {
            for _ in standard.iter().filter(|stream| stream.revents & libc::POLLNVAL != 0) {
                // It takes the lowest free number.
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
        }
    }
    populate_what_every_guest_takes();
}

/// Disables backtraces: nobody sees the host's stack, and collecting it would take longer than most guests. Call this
/// after the command line has been read, because it may give the guest these variables.
pub fn leave_out_backtraces() {
    for variable in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
        // SAFETY: nothing else reads the environment, as there is still only one thread.
        unsafe { std::env::remove_var(variable) };
    }
}

/// Populates the memory that every guest takes: page by page, on first access, takes several times as long.
fn populate_what_every_guest_takes() {
    /// What a start takes of the stack below this function.
    const STACK: usize = 6 * PAGE;
    populate_of_heap(0..OF_A_MODULE);
    let local = 0u8;
    populate((&raw const local).map_addr(|local| (local & !(PAGE - 1)) - STACK), STACK);
}

/// Populates the rest of the memory that malloc requests at first, which a component takes.
pub fn populate_for_a_component() {
    populate_of_heap(OF_A_MODULE..HEAP);
}

const PAGE: usize = 4096;
/// The amount that malloc requests at first, and what of it a module takes, in pages.
const HEAP: usize = 33;
const OF_A_MODULE: usize = 22;

/// Populates these pages of what malloc requested at first.
fn populate_of_heap(pages: Range<usize>) {
    // SAFETY: sbrk(0) only returns the end of the heap.
    let end = unsafe { libc::sbrk(0) }.map_addr(|end| end & !(PAGE - 1)).cast::<u8>();
    populate(end.wrapping_byte_sub((HEAP - pages.start) * PAGE), pages.len() * PAGE);
}

fn populate(start: *const u8, bytes: usize) {
    // SAFETY: the advice changes no content. Where nothing is mapped it is an error without effect, as it is for a kernel
    // that does not know it (before Linux 5.14).
    unsafe { libc::madvise(start.cast_mut().cast(), bytes, libc::MADV_POPULATE_WRITE) };
}

/// Makes SIGTERM and SIGINT end the process at once, with the exit codes 143 and 130.
///
/// WASI has no signals to pass on. A future that waits for one would never be polled while the guest computes on the
/// only thread. Without a handler, process 1 of a PID namespace ignores the signals.
pub fn end_on_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: all zeroes are a valid sigaction, and the handler only calls functions that are safe in a handler.
        // The handler runs on the alternate stack, as the guest may have used up the other stack.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = end as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// SIGTERM and SIGINT, for a server that shuts down gracefully. tokio supports them too, but guests that do not serve
/// would pay for it at every start.
pub struct Signals(AsyncFd<SignalFd>);

impl Signals {
    fn both() -> SigSet {
        SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
    }

    /// Lets another thread handle the signals.
    pub fn leave_to_others() {
        // This can only fail for signals that do not exist.
        let _ = Self::both().thread_block();
    }

    /// Takes over the signals, if all other threads have left them to others: they have no other effect any longer.
    /// Must be called in a runtime that waits for sockets.
    ///
    /// # Errors
    /// When the kernel has no free descriptor.
    pub fn take_over() -> io::Result<Self> {
        Self::leave_to_others();
        let signals = SignalFd::with_flags(&Self::both(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // SAFETY: a `SignalFd` owns its descriptor, which stays the same and open as long as it lives.
        Ok(Self(unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }?))
    }

    /// Waits for the next signal, and returns its name, for example `SIGTERM`.
    ///
    /// # Errors
    /// When the kernel does not report which signal arrived.
    pub async fn next(&self) -> io::Result<&'static str> {
        let read = |signals: &SignalFd| signals.read_signal()?.ok_or_else(|| ErrorKind::WouldBlock.into());
        let came = self.0.async_io(Interest::READABLE, read).await?;
        Ok(Signal::try_from(came.ssi_signo.cast_signed()).map_or("signal", Signal::as_str))
    }
}

extern "C" fn end(signal: c_int) {
    exit_with_message(
        match signal {
            libc::SIGINT => b"wasm-shim: ended by SIGINT\n",
            _ => b"wasm-shim: ended by SIGTERM\n",
        },
        128 + signal,
    )
}

/// Ends the process now, whatever its threads do, and writes `line` to stderr if it can be written without waiting: a
/// blocked reader must not delay the exit. Safe in a signal handler.
pub fn exit_with_message(line: &[u8], code: c_int) -> ! {
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: poll, write and _exit are safe in a handler; `stderr` is one valid pollfd and `line` is a valid buffer of
    // its length. A pipe is writable only if a line of this size fits in (pipe(7)).
    unsafe {
        if libc::poll(&raw mut stderr, 1, 0) == 1 && stderr.revents & libc::POLLOUT != 0 {
            libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
        }
        libc::_exit(code);
    }
}

/// Ends the process without freeing what the kernel frees faster: the engine, gigabytes of reserved addresses.
/// Flush the standard streams first.
pub fn exit(code: u8) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// A file without a name, which lies in memory and is freed with its last user.
///
/// # Errors
/// When the kernel has no memory or no free descriptor.
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

/// Takes over a descriptor that this process was started with, so that it is closed in time and not inherited again.
///
/// # Errors
/// When there is no such descriptor.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl only uses the number.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor exists, and by the protocol that passed it (sd_listen_fds(3)) it is ours; we take each
    // number once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The number of bytes written to the socket `fd` that its peer has not read yet; 0 if unknown.
pub fn untaken(fd: RawFd) -> usize {
    let mut bytes: c_int = 0;
    // SAFETY: for a socket, TIOCOUTQ writes one number to the pointer; for other files it fails.
    match unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) } {
        0 => usize::try_from(bytes).unwrap_or(0),
        _ => 0,
    }
}

/// Has the peer of the socket `fd` closed its connection, or its sending half? What it has sent before may be unread.
pub fn has_hung_up(fd: RawFd) -> bool {
    let mut look = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: the pointer is to one entry, and a descriptor that is not open is reported in it.
    let seen = unsafe { libc::poll(&raw mut look, 1, 0) };
    seen == 1 && look.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

/// Makes the kernel ask the peer of the TCP connection `fd` whether it is still there, when it has been silent for `idle`
/// seconds: a machine that has lost its power says nothing.
pub fn keep_alive(fd: RawFd, idle: c_int) {
    let one: c_int = 1;
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, one),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, idle / 3),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
    ];
    for (level, name, value) in options {
        let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
        // SAFETY: the value has this size. Without the option a peer that vanishes is noticed later, by other limits.
        unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) };
    }
}

/// Our effective user ID, for example 1000.
pub fn user() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}
