//! The listening socket.

use crate::args::Http;
use crate::{process, systemd};
use std::fmt;
use std::os::fd::OwnedFd;
use tokio::net::{TcpListener, UnixListener};
use wasmtime::error::Context as _;
use wasmtime::{Result, bail};

/// A socket that clients connect to.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Opens the socket that systemd passed, or else one at `http.addr`.
    pub(super) async fn open(http: &Http) -> Result<Self> {
        let mut passed = systemd::passed_sockets();
        if let Some(name) = &http.listen_fd {
            passed.retain(|socket| socket.name == *name);
            if passed.is_empty() {
                bail!("no socket of the name `{name}` was passed (LISTEN_FDNAMES)");
            }
        }
        let Some(socket) = passed.into_iter().next() else {
            let bound = TcpListener::bind(http.addr).await;
            return Ok(Self::Tcp(bound.with_context(|| format!("listen on {}", http.addr))?));
        };
        let fd =
            process::inherited(socket.fd).with_context(|| format!("take over descriptor {}", socket.fd))?;
        let listens = socket2::SockRef::from(&fd).is_listener().unwrap_or(false);
        if !listens {
            bail!(
                "descriptor {} (`{}`), which was passed, is not a socket that listens for connections",
                socket.fd,
                socket.name
            );
        }
        Self::of(fd).context("take over the socket that was passed")
    }

    fn of(fd: OwnedFd) -> std::io::Result<Self> {
        let tcp = std::net::TcpListener::from(fd);
        tcp.set_nonblocking(true)?;
        match tcp.local_addr() {
            Ok(_) => TcpListener::from_std(tcp).map(Self::Tcp),
            // A socket of another address family.
            Err(_) => UnixListener::from_std(OwnedFd::from(tcp).into()).map(Self::Unix),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(tcp) => match tcp.local_addr() {
                Ok(address) => write!(f, "http://{address}/"),
                Err(_) => f.write_str("a TCP socket"),
            },
            Self::Unix(unix) => {
                match unix.local_addr().ok().and_then(|address| address.as_pathname().map(ToOwned::to_owned))
                {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => f.write_str("a unix socket"),
                }
            }
        }
    }
}
