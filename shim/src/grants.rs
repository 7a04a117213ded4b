//! What the user lets the guest touch: directories, variables, addresses.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use wasmtime_wasi::sockets::SocketAddrUse;

/// A directory that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dir {
    /// Its path here, example `/srv/data`.
    pub host: String,
    /// Its path in the guest, example `/data`.
    pub guest: String,
    /// May the guest write?
    pub writable: bool,
}

impl Dir {
    /// Reads `HOST`, `HOST::GUEST`, `HOST::GUEST:ro` or, for a GUEST with a colon in its name, `HOST::GUEST:rw`.
    ///
    /// # Errors
    /// When one of the two is empty, or another word stands where `ro` does.
    pub fn parse(said: &str) -> Result<Self, String> {
        let (host, guest, writable) = match said.split_once("::") {
            None => (said, said, true),
            Some((host, rest)) => match (rest.strip_suffix(":ro"), rest.strip_suffix(":rw")) {
                (Some(guest), _) => (host, guest, false),
                (_, Some(guest)) => (host, guest, true),
                (None, None) => (host, rest, true),
            },
        };
        if host.is_empty() || guest.is_empty() {
            return Err("both directories need a name: HOST::GUEST or HOST::GUEST:ro".to_owned());
        }
        // A wrong word after the last colon would be a directory that can be written to. Names with one need `:rw`.
        if guest.contains(':') && !said.ends_with(":rw") {
            return Err("what follows a single colon is `ro` or `rw`: HOST::GUEST:ro".to_owned());
        }
        Ok(Self { host: host.to_owned(), guest: guest.to_owned(), writable })
    }
}

/// A variable for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Var {
    /// Its name, not empty and without `=`, example `RUST_LOG`.
    pub name: String,
    /// Its value, which may be empty, span lines, and contain `=`.
    pub value: String,
}

impl Var {
    /// Reads `NAME=VALUE`, or `NAME` for the variable of that name in our own environment.
    ///
    /// # Errors
    /// When the name is empty, or there is no such variable.
    pub fn parse(said: &str) -> Result<Self, String> {
        let (name, value) = match said.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (said, inherited(said)?),
        };
        if name.is_empty() {
            return Err("a variable's name is neither empty nor contains `=`; write NAME=VALUE".to_owned());
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

fn inherited(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| {
        format!("`{name}` is not in the environment of wasm-shim, or not in UTF-8; write {name}=VALUE")
    })
}

/// How an address is spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// In connections.
    Tcp,
    /// In packets.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Addresses that are granted, example `tcp:10.0.0.0/8:5432`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// One of them, or both.
    protocol: Option<Protocol>,
    /// A prefix and its length in bits, or every address.
    network: Option<(IpAddr, u8)>,
    ports: RangeInclusive<u16>,
}

impl Rule {
    /// Reads `[tcp:|udp:]ADDRESS[/PREFIX]:PORT[-PORT]`; the address in brackets if it has colons of its own, `*` for any
    /// address and any port.
    ///
    /// # Errors
    /// When it is not written like this.
    pub fn parse(said: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "{what}; write [tcp:|udp:]ADDRESS[/PREFIX]:PORT[-PORT], such as tcp:10.0.0.0/8:5432, [::1]:53 or *:443"
            )
        };
        let (protocol, rest) = match said.split_once(':') {
            Some(("tcp", rest)) => (Some(Protocol::Tcp), rest),
            Some(("udp", rest)) => (Some(Protocol::Udp), rest),
            _ => (None, said),
        };
        let (address, ports) = rest.rsplit_once(':').ok_or_else(|| wrong("a port is missing"))?;
        let ports = match ports.split_once('-') {
            _ if ports == "*" => Some(0..=u16::MAX),
            Some((from, to)) => number(from).zip(number(to)).map(|(from, to)| from..=to),
            None => number(ports).map(|port| port..=port),
        };
        let ports = ports.filter(|ports| !ports.is_empty()).ok_or_else(|| wrong("the port is no good"))?;
        if address == "*" {
            return Ok(Self { protocol, network: None, ports });
        }
        let (address, length) = match address.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (address, None),
        };
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = match bare {
            Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            None => address.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        };
        let address =
            address.ok_or_else(|| wrong("the address is neither IPv4, nor IPv6 in brackets, nor `*`"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Some(bits), number).filter(|length| *length <= bits);
        let length = length.ok_or_else(|| wrong("the length of the prefix is no good"))?;
        Ok(Self { protocol, network: Some((address, length)), ports })
    }

    fn is_for(&self, protocol: Protocol) -> bool {
        self.protocol.is_none_or(|ours| ours == protocol)
    }

    fn covers(&self, protocol: Protocol, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.is_for(protocol)
            && self.ports.contains(&address.port())
            && self.network.is_none_or(|(prefix, length)| is_in(ip, prefix, length))
    }
}

/// Are the first `length` bits the same?
fn is_in(ip: IpAddr, prefix: IpAddr, length: u8) -> bool {
    let (ip, prefix, bits) = match (ip, prefix) {
        (IpAddr::V4(ip), IpAddr::V4(prefix)) => (u128::from(ip.to_bits()), u128::from(prefix.to_bits()), 32),
        (IpAddr::V6(ip), IpAddr::V6(prefix)) => (ip.to_bits(), prefix.to_bits(), 128),
        _ => return false,
    };
    // Shifting by all bits is not defined.
    (ip ^ prefix).checked_shr(bits - u32::from(length)).unwrap_or(0) == 0
}

/// Whom the guest may speak with, and whom it tried to.
#[derive(Clone, Debug)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connect: Vec<Rule>,
    listen: Vec<Rule>,
    everything: bool,
    /// Those whose packets came in on a socket that listens: an answer goes to them alone.
    asked: Mutex<VecDeque<SocketAddr>>,
    denied: Mutex<Vec<String>>,
}

/// A number in digits alone: Rust would take a sign, too.
fn number<N: std::str::FromStr>(said: &str) -> Option<N> {
    said.starts_with(|c: char| c.is_ascii_digit()).then(|| said.parse().ok()).flatten()
}

/// How many that asked are remembered; an answer is given soon.
const ASKED: usize = 1024;
/// How many denials are said; a guest can try for ever.
const DENIALS: usize = 8;

impl Network {
    /// What `connect` and `listen` grant, or `everything`.
    pub fn new(connect: Vec<Rule>, listen: Vec<Rule>, everything: bool) -> Self {
        let (asked, denied) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { connect, listen, everything, asked, denied }))
    }

    /// May the guest use `address` so? A no is remembered, and the first ones are said on stderr.
    pub fn allows(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        let allowed = self.0.everything || self.grants(address, usage);
        if !allowed {
            let (protocol, act, option) = match usage {
                SocketAddrUse::TcpBind => (Protocol::Tcp, "bind", "listen"),
                SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => (Protocol::Tcp, "listen on", "listen"),
                SocketAddrUse::TcpConnect => (Protocol::Tcp, "connect to", "connect"),
                SocketAddrUse::UdpBind => (Protocol::Udp, "bind", "listen"),
                SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => (Protocol::Udp, "send to", "connect"),
            };
            self.deny(format!("{act} {protocol}:{address}"), &format!("--{option} {protocol}:{address}"));
        }
        allowed
    }

    fn grants(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        let Inner { connect, listen, .. } = &*self.0;
        let covered = |rules: &[Rule], protocol| rules.iter().any(|rule| rule.covers(protocol, address));
        // Before a socket connects, sends or listens, the kernel binds it to a port of its choice; it is asked again then.
        let unbound = address.ip().to_canonical().is_unspecified() && address.port() == 0;
        let has = |rules: &[Rule], protocol| rules.iter().any(|rule| rule.is_for(protocol));
        match usage {
            SocketAddrUse::TcpBind => unbound || covered(listen, Protocol::Tcp),
            SocketAddrUse::TcpListen => covered(listen, Protocol::Tcp),
            // Whoever comes to where it may listen.
            SocketAddrUse::TcpAccept => has(listen, Protocol::Tcp),
            SocketAddrUse::TcpConnect => covered(connect, Protocol::Tcp),
            SocketAddrUse::UdpBind if covered(listen, Protocol::Udp) => true,
            // Who may only listen has the ports that it was given: at another one it could be asked, too.
            SocketAddrUse::UdpBind => unbound && (has(connect, Protocol::Udp) || !has(listen, Protocol::Udp)),
            SocketAddrUse::UdpSend => covered(connect, Protocol::Udp) || self.has_asked(address),
            SocketAddrUse::UdpReceive if covered(connect, Protocol::Udp) => true,
            SocketAddrUse::UdpReceive if has(listen, Protocol::Udp) => {
                self.remember(address);
                true
            }
            SocketAddrUse::UdpReceive => false,
        }
    }

    fn has_asked(&self, address: SocketAddr) -> bool {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }

    fn remember(&self, address: SocketAddr) {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.contains(&address) {
            asked.push_front(address);
            asked.truncate(ASKED);
        }
    }

    /// Notes that the guest was denied `what`, which `grant` would allow.
    pub fn deny(&self, what: String, grant: &str) {
        let mut denied = self.0.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if denied.len() < DENIALS && !denied.contains(&what) {
            crate::outcome::say(&format!("denied: {what}; {grant} would allow it"));
            denied.push(what);
        }
    }

    /// What it was denied first, example `connect to tcp:10.0.0.1:80`.
    pub fn first_denial(&self) -> Option<String> {
        self.0.denied.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_read_as_in_wasmtime() {
        let dir =
            |host: &str, guest: &str, writable| Dir { host: host.into(), guest: guest.into(), writable };
        assert_eq!(Dir::parse("/a").unwrap(), dir("/a", "/a", true));
        assert_eq!(Dir::parse("/a::/b").unwrap(), dir("/a", "/b", true));
        assert_eq!(Dir::parse("/a::/b:ro").unwrap(), dir("/a", "/b", false));
        assert_eq!(Dir::parse("/a::/b:ro:rw").unwrap(), dir("/a", "/b:ro", true));
        assert_eq!(Dir::parse("/a:b::/b").unwrap(), dir("/a:b", "/b", true));
        for wrong in ["::/b", "/a::", "/a::/b:RO", "/a::/b:", "/a::/b:ro:ro", "/a:ro", "/a:/b:ro"] {
            assert!(Dir::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_keep_their_value_exactly() {
        let var = |name: &str, value: &str| Var { name: name.into(), value: value.into() };
        assert_eq!(Var::parse("A=").unwrap(), var("A", ""));
        assert_eq!(Var::parse("A=b=\"c\"\nd").unwrap(), var("A", "b=\"c\"\nd"));
        assert!(Var::parse("=A=b").is_err());
        assert!(Var::parse("").is_err());
        assert!(Var::parse("WASM_SHIM_TEST_SURELY_UNSET").is_err());
    }

    #[test]
    fn a_rule_covers_its_addresses_and_no_others() {
        for (rule, inside, outside) in [
            ("tcp:10.0.0.0/8:5432", "10.255.0.1:5432", "11.0.0.1:5432"),
            ("10.0.0.1:80-90", "10.0.0.1:90", "10.0.0.1:91"),
            ("[::1]:53", "[::1]:53", "[::2]:53"),
            ("[2001:db8::]/32:*", "[2001:db8:1::]:1", "[2001:db9::]:1"),
            ("*:443", "[::7]:443", "1.2.3.4:444"),
            ("0.0.0.0/0:80", "9.9.9.9:80", "[2001::9]:80"),
            // An IPv4 address is the same one in the clothes of IPv6.
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", "[::1]:80"),
        ] {
            let rule = Rule::parse(rule).unwrap();
            assert!(rule.covers(Protocol::Tcp, inside.parse().unwrap()), "{rule:?} {inside}");
            assert!(!rule.covers(Protocol::Tcp, outside.parse().unwrap()), "{rule:?} {outside}");
        }
        let tcp = Rule::parse("tcp:*:*").unwrap();
        assert!(!tcp.covers(Protocol::Udp, "1.2.3.4:5".parse().unwrap()));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_an_example() {
        for said in [
            "",
            "tcp",
            "80",
            "::1:80",
            "1.2.3.4",
            "1.2.3.4/33:1",
            "host:80",
            "1.2.3.4:9-1",
            "1.2.3.4:70000",
            "sctp:*:1",
        ] {
            assert!(Rule::parse(said).unwrap_err().contains("tcp:10.0.0.0/8:5432"), "{said}");
        }
    }

    #[test]
    fn connecting_does_not_let_it_listen_nor_the_other_way_round() {
        let rules = |said: &str| vec![Rule::parse(said).unwrap()];
        let address = |said: &str| said.parse::<SocketAddr>().unwrap();
        let client = Network::new(rules("*:80"), vec![], false);
        assert!(client.allows(address("0.0.0.0:0"), SocketAddrUse::TcpBind), "as the kernel does by itself");
        assert!(client.allows(address("1.1.1.1:80"), SocketAddrUse::TcpConnect));
        assert!(!client.allows(address("0.0.0.0:80"), SocketAddrUse::TcpBind));
        assert!(!client.allows(address("0.0.0.0:40000"), SocketAddrUse::TcpListen));
        let server = Network::new(vec![], rules("*:80"), false);
        assert!(server.allows(address("0.0.0.0:80"), SocketAddrUse::TcpListen));
        assert!(server.allows(address("9.9.9.9:1234"), SocketAddrUse::TcpAccept));
        assert!(!server.allows(address("1.1.1.1:80"), SocketAddrUse::TcpConnect));
        assert_eq!(server.first_denial().unwrap(), "connect to tcp:1.1.1.1:80");
    }

    #[test]
    fn who_may_listen_at_some_ports_is_not_asked_at_others() {
        let chosen: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let rule = |text: &str| vec![Rule::parse(text).unwrap()];
        let binds =
            |connect, listen| Network::new(connect, listen, false).allows(chosen, SocketAddrUse::UdpBind);
        assert!(!binds(vec![], rule("udp:*:53")));
        assert!(binds(rule("udp:*:53"), vec![]), "a client has a port of its own");
        assert!(binds(rule("udp:*:53"), rule("udp:*:53")));
    }

    #[test]
    fn a_server_answers_by_packet_those_who_asked_and_no_others() {
        let server = Network::new(vec![], vec![Rule::parse("udp:*:53").unwrap()], false);
        let [asker, other] = ["9.9.9.9:1234", "9.9.9.9:1235"].map(|said| said.parse().unwrap());
        assert!(!server.allows(asker, SocketAddrUse::UdpSend));
        assert!(server.allows(asker, SocketAddrUse::UdpReceive));
        assert!(server.allows(asker, SocketAddrUse::UdpSend));
        assert!(!server.allows(other, SocketAddrUse::UdpSend));
    }
}
