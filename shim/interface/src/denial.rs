//! An action of a guest that was denied, and the option that would allow it.

use std::fmt;
use std::net::SocketAddr;

use crate::Protocol;

/// The action of a guest on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// bind(2).
    Bind,
    /// listen(2).
    Listen,
    /// connect(2).
    Connect,
    /// sendto(2).
    Send,
}

impl Act {
    const ALL: [Self; 4] = [Self::Bind, Self::Listen, Self::Connect, Self::Send];

    fn words(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Listen => "listen on",
            Self::Connect => "connect to",
            Self::Send => "send to",
        }
    }

    /// The option of wasm-shim that allows the action, without its dashes; also the option of the job's `wasm` block.
    pub fn option(self) -> &'static str {
        match self {
            Self::Bind | Self::Listen => "listen",
            Self::Connect | Self::Send => "connect",
        }
    }
}

/// An action that a guest was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The use of an address: `connect to tcp:10.0.0.1:80`.
    Address {
        /// The action.
        act: Act,
        /// The protocol.
        protocol: Protocol,
        /// The address.
        address: SocketAddr,
    },
    /// The lookup of a name: `look up example.org`.
    Lookup {
        /// The name, such as `example.org`.
        name: String,
    },
    /// A socket, of a guest that is granted no address: `open a socket for tcp`.
    Socket {
        /// The protocol.
        protocol: Protocol,
    },
}

/// The text before the protocol.
const OPEN: &str = "open a socket for ";
/// The text before the name.
const LOOK_UP: &str = "look up ";

impl Denial {
    /// Reads the form that `Display` prints.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix(LOOK_UP) {
            return Some(Self::Lookup { name: name.to_owned() });
        }
        let protocol_of =
            |text: &str| [Protocol::Tcp, Protocol::Udp].into_iter().find(|known| known.to_string() == text);
        if let Some(protocol) = text.strip_prefix(OPEN) {
            return Some(Self::Socket { protocol: protocol_of(protocol)? });
        }
        let of = |act: Act| Some((act, text.strip_prefix(act.words())?.strip_prefix(' ')?));
        let (act, rest) = Act::ALL.into_iter().find_map(of)?;
        let (protocol, address) = rest.split_once(':')?;
        Some(Self::Address { act, protocol: protocol_of(protocol)?, address: address.parse().ok()? })
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { act, protocol, address } => write!(f, "{} {protocol}:{address}", act.words()),
            Self::Lookup { name } => write!(f, "{LOOK_UP}{name}"),
            Self::Socket { protocol } => write!(f, "{OPEN}{protocol}"),
        }
    }
}
