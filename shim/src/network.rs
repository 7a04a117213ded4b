//! Network access of the guest.

use shim_interface::{Act, AddressRule, Denial, Protocol};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use wasmtime_wasi::sockets::SocketAddrUse;

/// The addresses that the guest may use, and the accesses that were denied.
#[derive(Clone, Debug)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connect: Vec<AddressRule>,
    listen: Vec<AddressRule>,
    everything: bool,
    /// Senders of packets that arrived on a listening socket: the guest may answer only them.
    asked: Mutex<VecDeque<SocketAddr>>,
    denied: Mutex<Vec<Denial>>,
}

/// How many senders are remembered; answers come soon.
const ASKED: usize = 1024;
/// How many denials are logged; a guest can try forever.
const DENIALS: usize = 8;

impl Network {
    /// Allows what `connect` and `listen` cover, or `everything`.
    pub fn new(connect: Vec<AddressRule>, listen: Vec<AddressRule>, everything: bool) -> Self {
        let (asked, denied) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { connect, listen, everything, asked, denied }))
    }

    /// Whether the guest may use `address` in this way. A denial is remembered, and the first ones are logged on
    /// stderr.
    pub fn allows(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        let allowed = self.0.everything || self.grants(address, usage);
        if !allowed {
            let (protocol, act) = match usage {
                SocketAddrUse::TcpBind => (Protocol::Tcp, Act::Bind),
                SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => (Protocol::Tcp, Act::Listen),
                SocketAddrUse::TcpConnect => (Protocol::Tcp, Act::Connect),
                SocketAddrUse::UdpBind => (Protocol::Udp, Act::Bind),
                SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => (Protocol::Udp, Act::Send),
            };
            let option = act.option();
            let grant = format!("--{option} {protocol}:{address} (in a job `wasm.{option}`)");
            self.deny(Denial::Address { act, protocol, address }, &grant);
        }
        allowed
    }

    fn grants(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        let Inner { connect, listen, .. } = &*self.0;
        let covered =
            |rules: &[AddressRule], protocol| rules.iter().any(|rule| rule.covers(protocol, address));
        // Before a socket connects, sends or listens, the kernel binds it to a port of its choice; the next call is
        // checked again.
        let unbound = address.ip().to_canonical().is_unspecified() && address.port() == 0;
        let has = |rules: &[AddressRule], protocol| rules.iter().any(|rule| rule.is_for(protocol));
        match usage {
            SocketAddrUse::TcpBind => unbound || covered(listen, Protocol::Tcp),
            SocketAddrUse::TcpListen => covered(listen, Protocol::Tcp),
            // Any client may connect to a listening port.
            SocketAddrUse::TcpAccept => has(listen, Protocol::Tcp),
            SocketAddrUse::TcpConnect => covered(connect, Protocol::Tcp),
            SocketAddrUse::UdpBind if covered(listen, Protocol::Udp) => true,
            // A guest that may only listen gets only the ports it was granted: on another port it could receive
            // requests too.
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

    /// Is the guest granted no address? Then systemd may allow the process no sockets, and no address is ever checked.
    pub fn is_closed(&self) -> bool {
        let Inner { connect, listen, everything, .. } = &*self.0;
        !everything && connect.is_empty() && listen.is_empty()
    }

    /// Records that the guest was denied `what`, which `grant` would allow.
    pub fn deny(&self, what: Denial, grant: &str) {
        let mut denied = self.0.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if denied.len() < DENIALS && !denied.contains(&what) {
            crate::outcome::say(&format!("denied: {what}; {grant} would allow it"));
            denied.push(what);
        }
    }

    /// The first denial.
    pub fn first_denial(&self) -> Option<Denial> {
        self.0.denied.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::holds_for;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    #[test]
    fn connecting_does_not_let_it_listen_nor_the_other_way_round() {
        let rules = |text: &str| vec![AddressRule::parse(text).unwrap()];
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let client = Network::new(rules("*:80"), vec![], false);
        assert!(client.allows(address("0.0.0.0:0"), SocketAddrUse::TcpBind), "as the kernel does by itself");
        assert!(client.allows(address("1.1.1.1:80"), SocketAddrUse::TcpConnect));
        assert!(!client.allows(address("0.0.0.0:80"), SocketAddrUse::TcpBind));
        assert!(!client.allows(address("0.0.0.0:40000"), SocketAddrUse::TcpListen));
        let server = Network::new(vec![], rules("*:80"), false);
        assert!(server.allows(address("0.0.0.0:80"), SocketAddrUse::TcpListen));
        assert!(server.allows(address("9.9.9.9:1234"), SocketAddrUse::TcpAccept));
        assert!(!server.allows(address("1.1.1.1:80"), SocketAddrUse::TcpConnect));
        assert_eq!(server.first_denial().unwrap().to_string(), "connect to tcp:1.1.1.1:80");
    }

    #[test]
    fn who_may_listen_at_some_ports_is_not_asked_at_others() {
        let chosen: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let rule = |text: &str| vec![AddressRule::parse(text).unwrap()];
        let binds =
            |connect, listen| Network::new(connect, listen, false).allows(chosen, SocketAddrUse::UdpBind);
        assert!(!binds(vec![], rule("udp:*:53")));
        assert!(binds(rule("udp:*:53"), vec![]), "a client has a port of its own");
        assert!(binds(rule("udp:*:53"), rule("udp:*:53")));
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits)));
        let v6 = any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits)));
        let mapped = any::<Ipv4Addr>().prop_map(|v4| IpAddr::from(v4.to_ipv6_mapped()));
        prop_oneof![v4, v6, mapped]
    }

    /// The bits of the address as text.
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
            let text = format!("{prefix}{written}/{length}:{from}-{to}");
            let rule = AddressRule::parse(&text).map_err(TestCaseError::fail)?;

            // Addresses next to the prefix, and ports next to the range, are the likely mistakes.
            let ip = flip.map_or(if is_near { network } else { other }, |bit| flipped(network, bit));
            let port = if is_near {
                from.wrapping_add_signed(port.into())
            } else {
                to.wrapping_add_signed(port.into())
            };
            // An IPv4-mapped IPv6 address is the same address, and no IPv6 prefix contains it.
            let canonical = ip.to_canonical();
            let is_in_network = canonical.is_ipv4() == is_v4
                && bits(canonical)[..length.into()] == bits(network)[..length.into()];
            let expected = protocol.is_none_or(|protocol| protocol == asked)
                && (from..=to).contains(&port)
                && is_in_network;
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(rule.covers(asked, address), expected, "{} {}", text, address);

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
        let server = Network::new(vec![], vec![AddressRule::parse("udp:*:53").unwrap()], false);
        let [asker, other] = ["9.9.9.9:1234", "9.9.9.9:1235"].map(|text| text.parse().unwrap());
        assert!(!server.allows(asker, SocketAddrUse::UdpSend));
        assert!(server.allows(asker, SocketAddrUse::UdpReceive));
        assert!(server.allows(asker, SocketAddrUse::UdpSend));
        assert!(!server.allows(other, SocketAddrUse::UdpSend));
    }
}
