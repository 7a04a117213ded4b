//! What the user lets the guest touch: directories, variables, addresses.

use crate::settings::digits;
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
        let (host, rest) = said.split_once("::").unwrap_or((said, said));
        let is_pair = host.len() < said.len();
        let (guest, mode) = match rest.rsplit_once(':') {
            Some((guest, mode @ ("ro" | "rw"))) if is_pair => (guest, Some(mode)),
            _ => (rest, None),
        };
        if host.is_empty() || guest.is_empty() {
            return Err("both directories need a name: HOST::GUEST or HOST::GUEST:ro".to_owned());
        }
        // Whoever writes `/data::ro` wants a directory that is read-only, and not one of the name `ro` that is not.
        if is_pair && mode.is_none() && ["ro", "rw"].contains(&guest) {
            return Err(format!(
                "`{guest}` stands where the guest's name of the directory does; write HOST::GUEST:{guest}"
            ));
        }
        // A wrong word after the last colon would be a directory that can be written to. Names with one need `:rw`.
        if guest.contains(':') && mode != Some("rw") {
            return Err("what follows a single colon is `ro` or `rw`: HOST::GUEST:ro".to_owned());
        }
        let writable = mode != Some("ro");
        Ok(Self { host: host.to_owned(), guest: guest.to_owned(), writable })
    }
}

impl fmt::Display for Dir {
    /// As [`Dir::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, guest, writable } = self;
        write!(f, "{host}::{guest}:{}", if *writable { "rw" } else { "ro" })
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
            Some((from, to)) => digits(from).zip(digits(to)).map(|(from, to)| from..=to),
            None => digits(ports).map(|port| port..=port),
        };
        let ports = ports.filter(|ports| !ports.is_empty()).ok_or_else(|| wrong("invalid port"))?;
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
        let length = length.map_or(Some(bits), digits).filter(|length| *length <= bits);
        let length = length.ok_or_else(|| wrong("invalid prefix length"))?;
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

impl fmt::Display for Rule {
    /// As [`Rule::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}:")?;
        }
        match self.network {
            None => f.write_str("*")?,
            Some((IpAddr::V4(address), length)) => write!(f, "{address}/{length}")?,
            Some((IpAddr::V6(address), length)) => write!(f, "[{address}]/{length}")?,
        }
        write!(f, ":{}-{}", self.ports.start(), self.ports.end())
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
            let grant = format!("--{option} {protocol}:{address} (in a job `wasm.{option}`)");
            self.deny(format!("{act} {protocol}:{address}"), &grant);
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
    use crate::fuzz::holds_for;
    use proptest::prelude::*;

    #[test]
    fn directories_are_read_as_in_wasmtime() {
        let dir =
            |host: &str, guest: &str, writable| Dir { host: host.into(), guest: guest.into(), writable };
        assert_eq!(Dir::parse("/a").unwrap(), dir("/a", "/a", true));
        assert_eq!(Dir::parse("/a::/b").unwrap(), dir("/a", "/b", true));
        assert_eq!(Dir::parse("/a::/b:ro").unwrap(), dir("/a", "/b", false));
        assert_eq!(Dir::parse("/a::/b:ro:rw").unwrap(), dir("/a", "/b:ro", true));
        assert_eq!(Dir::parse("/a::ro:rw").unwrap(), dir("/a", "ro", true));
        assert_eq!(Dir::parse("/a::ro:ro").unwrap(), dir("/a", "ro", false));
        assert_eq!(Dir::parse("/a:b::/b").unwrap(), dir("/a:b", "/b", true));
        for wrong in [
            "::/b",
            "/a::",
            "/a::/b:RO",
            "/a::/b:",
            "/a::/b:ro:ro",
            "/a:ro",
            "/a:/b:ro",
            "/a::ro",
            "/a::rw",
            "/a:rw",
            ":rw",
        ] {
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

    /// What is only just a grant, and what is only just none.
    fn nearly(pattern: &'static str) -> impl Strategy<Value = String> {
        prop_oneof![pattern, any::<String>()]
    }

    #[test]
    fn fuzz_a_directory_is_the_one_that_is_written_and_is_not_writable_by_mistake() {
        holds_for(&nearly("(/|a|b|::|:|ro|rw|RO| |\\.\\.|\n|é){0,12}"), |said| {
            let Ok(dir) = Dir::parse(&said) else { return Ok(()) };
            prop_assert_eq!(Dir::parse(&dir.to_string()), Ok(dir.clone()), "{}", dir);
            // Another way to read it: words between colons.
            let (host, rest) = said.split_once("::").unwrap_or((&said, &said));
            prop_assert_eq!(&dir.host, host);
            prop_assert!(rest.starts_with(&dir.guest), "{dir:?}");
            let word = &rest[dir.guest.len()..];
            prop_assert!(["", ":ro", ":rw"].contains(&word), "{dir:?}");
            prop_assert_eq!(dir.writable, word != ":ro");
            prop_assert!(!(said.contains("::") && said.ends_with(":ro") && dir.writable), "{dir:?}");
            // A colon is in a name only if what follows the last one says that it is.
            prop_assert!(!dir.guest.contains(':') || word == ":rw", "{dir:?}");
            Ok(())
        });
    }

    #[test]
    fn fuzz_a_variable_is_the_text_before_the_first_equals_sign() {
        holds_for(&nearly("(A|=|b|\n|\\x00|é){0,8}=(A|=|b|\n|\\x00|é){0,8}"), |said| {
            let Ok(var) = Var::parse(&said) else { return Ok(()) };
            prop_assert!(!var.name.is_empty() && !var.name.contains('='));
            if said.contains('=') {
                prop_assert_eq!([var.name, var.value].join("="), said);
            }
            Ok(())
        });
    }

    #[test]
    fn fuzz_whatever_is_a_rule_means_the_same_when_it_is_printed() {
        let part = "((tcp|udp|sctp|TCP|):)?(\\*|\\[?[0-9a-f:.]{0,12}\\]?|[0-9]{1,3}(\\.[0-9]{1,3}){3}|\\[::1\\])\
                    (/[0-9+-]{0,4})?(:(\\*|[0-9+ -]{0,12}))?";
        holds_for(&nearly(part), |said| {
            let Ok(rule) = Rule::parse(&said) else { return Ok(()) };
            prop_assert_eq!(Rule::parse(&rule.to_string()), Ok(rule.clone()), "{}", rule);
            prop_assert!(!said.contains(['+', ' ']), "numbers are digits alone");
            Ok(())
        });
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits)));
        let v6 = any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits)));
        let mapped = any::<Ipv4Addr>().prop_map(|v4| IpAddr::from(v4.to_ipv6_mapped()));
        prop_oneof![v4, v6, mapped]
    }

    /// The address in bits, written out.
    fn bits(address: IpAddr) -> String {
        match address {
            IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
            IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
        }
    }

    /// `address` with one bit flipped, counted from the left.
    fn flipped(address: IpAddr, bit: u8) -> IpAddr {
        match address {
            IpAddr::V4(v4) => Ipv4Addr::from(v4.to_bits() ^ (1 << 31 >> (bit % 32))).into(),
            IpAddr::V6(v6) => Ipv6Addr::from(v6.to_bits() ^ (1 << 127 >> (bit % 128))).into(),
        }
    }

    #[test]
    fn fuzz_a_grant_allows_what_its_text_says_and_nothing_else() {
        let protocol = prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Udp))];
        let asked = (prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)], any::<Option<u8>>(), address());
        let near = (any::<bool>(), any::<i8>());
        let all = (protocol, address(), any::<u8>(), any::<(u16, u16)>(), asked, near);
        holds_for(&all, |(protocol, network, length, (a, b), (asked, flip, other), (is_near, port))| {
            let (is_v4, from, to) = (network.is_ipv4(), a.min(b), a.max(b));
            let length = length % if is_v4 { 33 } else { 129 };
            let written = if is_v4 { network.to_string() } else { format!("[{network}]") };
            let prefix = protocol.map(|protocol| format!("{protocol}:")).unwrap_or_default();
            let said = format!("{prefix}{written}/{length}:{from}-{to}");
            let rule = Rule::parse(&said).map_err(TestCaseError::fail)?;

            // Addresses beside the prefix, and ports beside the range, are where mistakes would be.
            let ip = flip.map_or(if is_near { network } else { other }, |bit| flipped(network, bit));
            let port = if is_near {
                from.wrapping_add_signed(port.into())
            } else {
                to.wrapping_add_signed(port.into())
            };
            // An IPv4 address is the same one when it is written as IPv6, and a prefix of IPv6 has none of them.
            let canonical = ip.to_canonical();
            let is_in_network = canonical.is_ipv4() == is_v4
                && bits(canonical)[..length.into()] == bits(network)[..length.into()];
            let expected = protocol.is_none_or(|protocol| protocol == asked)
                && (from..=to).contains(&port)
                && is_in_network;
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(rule.covers(asked, address), expected, "{} {}", said, address);

            let (connect, send) = (SocketAddrUse::TcpConnect, SocketAddrUse::UdpSend);
            let usage = if asked == Protocol::Tcp { connect } else { send };
            let grants = |connect, listen, usage| Network::new(connect, listen, false).grants(address, usage);
            prop_assert_eq!(grants(vec![rule.clone()], vec![], usage), expected);
            prop_assert!(!grants(vec![], vec![rule.clone()], usage), "to listen is not to connect");
            let is_tcp = rule.covers(Protocol::Tcp, address);
            prop_assert_eq!(grants(vec![], vec![rule.clone()], SocketAddrUse::TcpListen), is_tcp);
            prop_assert!(
                !grants(vec![rule], vec![], SocketAddrUse::TcpListen),
                "to connect is not to listen"
            );
            Ok(())
        });
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
