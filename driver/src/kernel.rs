//! Kernel interfaces that no library wraps safely. All of the driver's `unsafe` is in this file.
#![allow(unsafe_code, reason = "ptrace, seccomp, bpf, keyctl and personality have no safe wrappers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::time::{Duration, Instant};

use rustix::fs::SealFlags;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::Pid;

/// How long to wait until another tracer has detached from the task.
const TRACE_WAIT: Duration = Duration::from_secs(5);

/// The socket that this process inherited as descriptor `number`. `None` if no descriptor of that number is open.
pub(crate) fn inherited_socket(number: i32) -> Option<UnixStream> {
    // SAFETY: the call takes a number, whatever descriptor the number stands for.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and this function is called once, before anything else could have opened or taken
    // it.
    Some(UnixStream::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Makes sure that the command inherits stdin, stdout and stderr and no other descriptor: an agent, or whoever started
/// it, may have left some open for its children.
pub(crate) fn set_cloexec_on_descriptors() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|number: &libc::c_int| *number > libc::STDERR_FILENO) {
            // SAFETY: the call closes nothing; a descriptor that has been closed meanwhile is skipped.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Stops all processes from following symbolic links on this mount, whoever created the link (mount_setattr(2), since
/// Linux 5.14). Fails if the descriptor is not that of a mount's root.
pub(crate) fn forbid_symlinks_on(mount: BorrowedFd<'_>) -> io::Result<()> {
    /// `MOUNT_ATTR_NOSYMFOLLOW` (include/uapi/linux/mount.h).
    const NO_LINKS: u64 = 0x0020_0000;
    let attributes = libc::mount_attr { attr_set: NO_LINKS, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the kernel reads a path and a structure that exist, the structure with the size that is passed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Does the kernel accept a program that filters the packets of a cgroup? systemd's filters by cgroup need this.
pub(crate) fn supports_cgroup_bpf() -> bool {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
    /// The fields of `union bpf_attr` that the kernel reads to load a program (bpf(2)).
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 12],
    }
    // `r0 = 1; exit`: let the packet pass.
    let instructions: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_SKB,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        rest: [0; 12],
    };
    // SAFETY: the kernel reads the struct, with the size that is passed, and the memory that its two pointers lead to.
    // All of it lives until the call returns.
    let program = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    match libc::c_int::try_from(program) {
        Ok(program) if program >= 0 => {
            // SAFETY: the kernel has just created the descriptor, and nobody else knows of it.
            drop(unsafe { OwnedFd::from_raw_fd(program) });
            true
        }
        _ => false,
    }
}

/// The device and the inode of an open object: two descriptors with the same are of the same object.
pub(crate) fn identity(object: &OwnedFd) -> io::Result<(u64, u64)> {
    let found = rustix::fs::fstat(object)?;
    Ok((found.st_dev, found.st_ino))
}

/// A copy of the mount of an object, or of all mounts below, too, that is nowhere yet. To be called in the mount namespace in
/// which the object was opened: the kernel copies no mounts of another.
pub(crate) fn copy_mounts(object: &OwnedFd, with_those_below: bool) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let below = if with_those_below { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    Ok(open_tree(object, "", flags | below)?)
}

/// Is this process in the mount namespace of PID 1? An agent whose service has `PrivateMounts=`, or hides or mounts something
/// otherwise, is in one of its own, and PID 1 does not see the mounts of that namespace.
pub(crate) fn is_in_mount_namespace_of_pid1() -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/mnt"));
    // Without permission to look there, the driver is not root and does not mount.
    namespace("1").map_or(true, |theirs| namespace("self").is_ok_and(|ours| ours == theirs))
}

/// Runs `act` where PID 1 sees the mounts that it makes.
pub(crate) fn in_mount_namespace_of_pid1<T: Send>(
    act: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if is_in_mount_namespace_of_pid1() {
        return act();
    }
    in_mount_namespace(&std::fs::File::open("/proc/1/ns/mnt")?.into(), act)
}

/// Runs `act` in a mount namespace, on a thread of its own: paths mean what they mean there.
pub(crate) fn in_mount_namespace<T: Send>(
    namespace: &OwnedFd,
    act: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let join = || {
        // SAFETY: the thread belongs to this function, ends after `act`, and from now on shares no working directory or
        // root with other threads. It still shares its descriptors.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS)? };
        let kind = rustix::thread::LinkNameSpaceType::Mount;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?;
        act()
    };
    std::thread::scope(|scope| {
        scope.spawn(join).join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// This process's own program, on a read-only mount that no path leads to. On a kernel that cannot create such a mount
/// (before 5.12), a sealed copy in memory.
pub(crate) fn read_only_program() -> io::Result<OwnedFd> {
    /// `struct mount_attr` of mount_setattr(2).
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = || open_tree(rustix::fs::CWD, std::env::current_exe()?, flags).map_err(io::Error::from);
    let attributes = Attributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_namespace: 0 };
    let is_ours = |tree: &OwnedFd| {
        let (found, ours) = (rustix::fs::fstat(tree)?, rustix::fs::stat("/proc/self/exe")?);
        Ok::<_, io::Error>((found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino))
    };
    // After an upgrade another program has this name, or none.
    if let Ok(tree) = clone()
        && is_ours(&tree)?
    {
        // SAFETY: the kernel reads an empty path and the struct, with the size that is passed.
        let set = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<Attributes>(),
            )
        };
        if set == 0 {
            return Ok(tree);
        }
    }
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let mut copy = std::fs::File::from(rustix::fs::memfd_create("nomad-driver-systemd", flags)?);
    io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // A file that is open for writing cannot be executed.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

/// The user namespace that a namespace belongs to (ioctl_ns(2)).
pub(crate) fn owner_of_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    related_namespace(namespace, NS_GET_USERNS)
}

/// The namespace in which a user namespace was created. An error if this process may not see it.
pub(crate) fn parent_of_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    related_namespace(namespace, NS_GET_PARENT)
}

fn related_namespace(namespace: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: neither request takes an argument; both return a new descriptor, or an error.
    let related = unsafe { libc::ioctl(namespace.as_raw_fd(), request) };
    if related < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created the descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(related) })
}

/// Sets the execution domain, for example that of 32-bit programs.
pub(crate) fn set_personality(flags: u32) -> io::Result<()> {
    // SAFETY: the call takes a number.
    if unsafe { libc::personality(flags.into()) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Leaves the agent's session keyring, whose keys this process could otherwise read.
pub(crate) fn join_new_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the call takes numbers and no name.
    let joined = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>(), 0, 0, 0)
    };
    match io::Error::last_os_error() {
        _ if joined >= 0 => Ok(()),
        // A kernel without keyrings.
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

/// The system call filters of a process, oldest first.
#[derive(Debug, Default)]
pub(super) struct Filters(Vec<Vec<libc::sock_filter>>);

/// Reads the filters of a process from the kernel (`PTRACE_SECCOMP_GET_FILTER`, ptrace(2)). They cannot be inherited
/// from it in another way, and nothing else knows all of them: systemd builds a dozen from a few settings of a unit.
///
/// The process is stopped for the time of a few system calls, as by a debugger. A process without filters is not
/// touched.
pub(crate) fn filters_of(pid: Pid, has_any: bool) -> io::Result<Filters> {
    if !has_any {
        return Ok(Filters::default());
    }
    // A process has one tracer at a time. Another command that joins the task traces it for a moment, a debugger for
    // longer.
    let began = Instant::now();
    let stopped = loop {
        match Stopped::process(pid) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && began.elapsed() < TRACE_WAIT => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => break other?,
        }
    };
    let mut filters = Vec::new();
    while let Some(filter) = stopped.filter(filters.len())? {
        filters.push(filter);
    }
    // An init cannot create processes, nor can the runner of a guest. A command alongside can.
    let plain = |filter: &Vec<libc::sock_filter>| {
        filter.iter().map(|each| (each.code, each.jt, each.jf, each.k)).collect::<Vec<_>>()
    };
    // Read while it is stopped: it may not have come to install the list of its preset.
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))?;
    let words = line.split(|byte| *byte == 0).map(|word| std::str::from_utf8(word).unwrap_or_default());
    let calls = task_init::Calls::of_command_line(words);
    let kept = task_init::of_command(filters.iter().map(plain).collect(), calls)?;
    let of_kernel = |filter: Vec<task_init::Instruction>| {
        filter.into_iter().map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect()
    };
    let filters = kept.into_iter().map(of_kernel).collect();
    Ok(Filters(filters))
}

impl Filters {
    /// Installs the filters in this process permanently; all of its children inherit them.
    pub(crate) fn install(&self) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        // Without it the kernel accepts filters from privileged processes only; systemd requires it as well.
        rustix::thread::set_no_new_privs(true)?;
        for filter in &self.0 {
            let program = libc::sock_fprog {
                len: u16::try_from(filter.len()).map_err(io::Error::other)?,
                filter: filter.as_ptr().cast_mut(),
            };
            // SAFETY: the program points to as many instructions as `len` states; the kernel copies and checks them.
            let installed = unsafe {
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
            };
            if installed != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// Has all threads share two heaps. By default glibc gives each thread one, up to eight per processor, and none is
/// returned: with 1000 tasks a fifth of the driver's memory was in heaps of threads that had waited for a file
/// (mallopt(3), `M_ARENA_MAX`).
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: changes a setting of the allocator, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Sends a signal to the process of this descriptor, also a real-time signal, which rustix does not know
/// (pidfd_send_signal(2)). Signal 0 only asks whether the process is alive.
pub(crate) fn send_signal(process: impl AsFd, signal: i32) -> io::Result<()> {
    let (process, info) = (process.as_fd().as_raw_fd(), ptr::null::<libc::siginfo_t>());
    // SAFETY: without information about the signal the kernel reads no memory of ours.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process, signal, info, 0) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A process that stays stopped while this value lives.
struct Stopped(libc::pid_t);

impl Stopped {
    fn process(pid: Pid) -> io::Result<Self> {
        let pid = pid.as_raw_pid();
        // SAFETY: neither request reads or writes memory of this process. The traced process is not killed, and keeps
        // running however this process ends.
        unsafe {
            check(libc::ptrace(libc::PTRACE_SEIZE, pid, ptr::null_mut::<libc::c_void>(), 0))?;
            let stopped = Self(pid);
            check(libc::ptrace(libc::PTRACE_INTERRUPT, pid, ptr::null_mut::<libc::c_void>(), 0))?;
            let mut status = 0;
            while libc::waitpid(pid, &raw mut status, libc::__WALL) < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            if libc::WIFSTOPPED(status) { Ok(stopped) } else { Err(io::Error::other("it has ended")) }
        }
    }

    /// The filter with this number, counted from the oldest (kernel/seccomp.c, `get_nth_filter`; ptrace(2) states
    /// otherwise). `None` after the newest.
    fn filter(&self, number: usize) -> io::Result<Option<Vec<libc::sock_filter>>> {
        const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
        let request = |into: *mut libc::sock_filter| {
            // SAFETY: with a null pointer the kernel only counts; otherwise there is room for as many instructions as
            // it counted.
            unsafe { libc::ptrace(PTRACE_SECCOMP_GET_FILTER, self.0, number, into) }
        };
        let length = match check(request(ptr::null_mut())) {
            Ok(length) => usize::try_from(length).unwrap_or_default(),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let empty = libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
        let mut filter = vec![empty; length];
        check(request(filter.as_mut_ptr()))?;
        Ok(Some(filter))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: lets the process continue; a process that has ended needs nothing.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, ptr::null_mut::<libc::c_void>(), 0) };
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
