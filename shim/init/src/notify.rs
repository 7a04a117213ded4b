//! What a program tells systemd (sd_notify(3)), passed on.
//!
//! systemd believes a unit's main process alone, unless it is told to believe all of them. That process is the init; so
//! the program gets a socket of the init's, and the init passes on what the program itself says, and nothing from others.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, bind, getsockname, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

/// The longest message, in bytes: what systemd reads of one (its NOTIFY_BUFFER_MAX).
const MESSAGE_MAX: usize = 4096;
/// How many descriptors a message may carry.
const DESCRIPTORS_MAX: usize = 16;

/// The init's socket for the program, and systemd's.
#[derive(Debug)]
pub struct Notify {
    ours: OwnedFd,
    systemd: UnixAddr,
    address: String,
}

impl Notify {
    /// Opens a socket for the program, in the place of systemd's at `systemd`, the value of `NOTIFY_SOCKET`, such as
    /// `/run/systemd/notify`.
    pub fn open(systemd: &str) -> nix::Result<Self> {
        let systemd = match systemd.strip_prefix('@') {
            Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
            None => UnixAddr::new(systemd)?,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let ours = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&ours, sockopt::PassCred, &true)?;
        // The kernel chooses a name that no other socket has.
        bind(ours.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let name: UnixAddr = getsockname(ours.as_raw_fd())?;
        let name = name.as_abstract().map(String::from_utf8_lossy).unwrap_or_default();
        Ok(Self { address: format!("@{name}"), ours, systemd })
    }

    /// What the program shall have as `NOTIFY_SOCKET`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Passes on what is there from this process.
    pub(crate) fn pass_on(&self, from: Pid) {
        while let Ok(message) = self.receive() {
            if message.sender == Some(from) && !message.text.is_empty() {
                self.send(&message);
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
                    // SAFETY: the kernel has just made them for this process, and nobody else knows of them.
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

    /// systemd is waited for: a program that tells it more than it takes in is slowed down, as it is without an init.
    fn send(&self, message: &Message) {
        let numbers: Vec<RawFd> = message.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
        let flags = SockFlag::SOCK_CLOEXEC;
        // One that systemd does not take is lost, as it is for who sends it to systemd directly.
        if let Ok(to) = socket(AddressFamily::Unix, SockType::Datagram, flags, None) {
            let text = [IoSlice::new(&message.text)];
            let _ = sendmsg(to.as_raw_fd(), &text, control, MsgFlags::MSG_NOSIGNAL, Some(&self.systemd));
        }
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

struct Message {
    text: Vec<u8>,
    sender: Option<Pid>,
    descriptors: Vec<OwnedFd>,
}
