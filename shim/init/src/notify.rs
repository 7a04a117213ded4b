//! Forwards a program's notifications to systemd (sd_notify(3)).
//!
//! By default, systemd accepts notifications from a unit's main process only, and this process is the init. So the
//! program gets a socket of the init. The init forwards the messages of the program itself, and no others.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

/// The maximum size of a message, in bytes: what systemd reads of one message (NOTIFY_BUFFER_MAX).
const MESSAGE_MAX: usize = 4096;
/// The maximum number of descriptors in a message, which is the kernel's maximum (`SCM_MAX_FD`). With less room, the
/// other descriptors would still arrive, but with unknown numbers.
const DESCRIPTORS_MAX: usize = 253;

/// The init's socket for the program, and systemd's.
#[derive(Debug)]
pub struct Notify {
    ours: OwnedFd,
    systemd: UnixAddr,
    address: String,
}

impl Notify {
    /// Opens a socket for the program at the path `here`, in place of systemd's socket at `systemd`, which is the value
    /// of `NOTIFY_SOCKET`, such as `/run/systemd/notify`.
    ///
    /// Whoever can reach the path can send messages, and make this process close the attached descriptors: only the
    /// task may reach it.
    pub fn open(systemd: &str, here: &Path) -> io::Result<Self> {
        let systemd = match systemd.strip_prefix('@') {
            Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
            None => UnixAddr::new(systemd)?,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let ours = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&ours, sockopt::PassCred, &true)?;
        // The socket of an earlier run.
        let _ = fs::remove_file(here);
        bind(ours.as_raw_fd(), &UnixAddr::new(here)?)?;
        // The mode of systemd's socket: the program may change its user.
        fs::set_permissions(here, Permissions::from_mode(0o777))?;
        Ok(Self { address: here.to_string_lossy().into_owned(), ours, systemd })
    }

    /// The value of `NOTIFY_SOCKET` for the program.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Forwards the pending messages of this process.
    pub(crate) fn pass_on(&self, from: Pid) {
        while let Ok(message) = self.receive() {
            let text = without_main_process(&message.text);
            if message.sender == Some(from) && !text.is_empty() {
                self.send(&text, &message.descriptors);
            }
        }
    }

    fn receive(&self) -> nix::Result<Message> {
        let mut text = vec![0; MESSAGE_MAX];
        let mut space = cmsg_space!(UnixCredentials, [RawFd; DESCRIPTORS_MAX]);
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<UnixAddr>(self.ours.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let (mut sender, mut descriptors) = (None, Vec::new());
        for part in received.cmsgs()? {
            match part {
                ControlMessageOwned::ScmCredentials(who) => sender = Some(Pid::from_raw(who.pid())),
                ControlMessageOwned::ScmRights(numbers) => {
                    #[expect(unsafe_code, reason = "descriptors arrive as numbers")]
                    // SAFETY: the kernel has just created the descriptors for this process, and nothing else knows
                    // them.
                    descriptors
                        .extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                }
                _ => {}
            }
        }
        let length = received.bytes;
        text.truncate(length);
        Ok(Message { text, sender, descriptors })
    }

    /// Waits for systemd: a program that sends faster than systemd reads is slowed down, as it is without an init.
    fn send(&self, text: &[u8], descriptors: &[OwnedFd]) {
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
        let flags = SockFlag::SOCK_CLOEXEC;
        // A message that systemd does not accept is lost, as it is for a process that sends it to systemd directly.
        if let Ok(to) = socket(AddressFamily::Unix, SockType::Datagram, flags, None) {
            let text = [IoSlice::new(text)];
            let _ = sendmsg(to.as_raw_fd(), &text, control, MsgFlags::MSG_NOSIGNAL, Some(&self.systemd));
        }
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

/// The message without its lines about the main process (`MAINPID=`, `MAINPIDFDID=` and so on). The main process of the
/// unit is the init: with another one, systemd would take the end of that process for the end of the task, and commands
/// of `alloc exec` would be refused.
fn without_main_process(message: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> =
        message.split(|&byte| byte == b'\n').filter(|line| !line.starts_with(b"MAINPID")).collect();
    lines.join(&b'\n')
}

struct Message {
    text: Vec<u8>,
    sender: Option<Pid>,
    descriptors: Vec<OwnedFd>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_files() -> usize {
        fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
    }

    #[test]
    fn the_program_cannot_say_which_process_is_the_main_one() {
        let said = without_main_process(b"READY=1\nMAINPID=7\nSTATUS=MAINPID=7\nMAINPIDFDID=9");
        assert_eq!(said, b"READY=1\nSTATUS=MAINPID=7");
        assert!(without_main_process(b"MAINPID=7").is_empty());
        assert_eq!(without_main_process(b"STATUS=\xff\n"), b"STATUS=\xff\n");
    }

    #[test]
    fn nothing_that_comes_with_a_message_stays_open() -> io::Result<()> {
        let _alone = crate::DESCRIPTORS.lock();
        let directory = std::env::temp_dir().join(format!("task-init-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let notify = Notify::open("/no/such/socket", &directory.join("socket"))?;
        let to = UnixAddr::new(notify.address())?;
        let program = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let before = open_files();
        for count in [1, 16, 17, DESCRIPTORS_MAX] {
            let numbers = vec![program.as_raw_fd(); count];
            let text = [IoSlice::new(b"STATUS=x")];
            let rights = [ControlMessage::ScmRights(&numbers)];
            sendmsg(program.as_raw_fd(), &text, &rights, MsgFlags::empty(), Some(&to))?;
            notify.pass_on(Pid::this());
        }
        assert_eq!(open_files(), before);
        fs::remove_dir_all(directory)
    }
}
