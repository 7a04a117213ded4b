//! Addresses that a guest may use: `--connect` and `--listen` of wasm-shim, `wasm.connect` and `wasm.listen` of a job.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// The transport protocol of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP connections.
    Tcp,
    /// UDP packets.
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

/// An address and the length of its prefix, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix that contains only this address.
    pub fn of(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether the prefix is IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether the prefix contains only loopback addresses.
    pub fn is_loopback(&self) -> bool {
        self.address.is_loopback() && self.length >= if self.address.is_ipv4() { 8 } else { 128 }
    }

    /// Whether the prefix contains the address. Convert an IPv4-mapped IPv6 address to IPv4 first.
    fn contains(&self, ip: IpAddr) -> bool {
        let (ip, prefix, bits) = match (ip, self.address) {
            (IpAddr::V4(ip), IpAddr::V4(prefix)) => {
                (u128::from(ip.to_bits()), u128::from(prefix.to_bits()), 32)
            }
            (IpAddr::V6(ip), IpAddr::V6(prefix)) => (ip.to_bits(), prefix.to_bits(), 128),
            _ => return false,
        };
        // A shift by all bits is undefined.
        (ip ^ prefix).checked_shr(bits - u32::from(self.length)).unwrap_or(0) == 0
    }
}

impl fmt::Display for Prefix {
    /// The form that systemd's `IPAddressAllow=` reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Addresses that a guest may use, such as `tcp:10.0.0.0/8:5432`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRule {
    /// The protocol, or none for both.
    pub protocol: Option<Protocol>,
    /// The addresses, or none for every address.
    pub prefix: Option<Prefix>,
    /// The ports; never empty.
    pub ports: RangeInclusive<u16>,
}

impl AddressRule {
    /// Reads `[tcp:|udp:]ADDRESS[/PREFIX]:PORT[-PORT]`; the address is in brackets if it contains colons, `*` means any
    /// address and any port.
    ///
    /// # Errors
    /// When the syntax is different; the message has an example.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "{what}; write [tcp:|udp:]ADDRESS[/PREFIX]:PORT[-PORT], such as tcp:10.0.0.0/8:5432, [::1]:53 or *:443"
            )
        };
        let (protocol, rest) = match text.split_once(':') {
            Some(("tcp", rest)) => (Some(Protocol::Tcp), rest),
            Some(("udp", rest)) => (Some(Protocol::Udp), rest),
            _ => (None, text),
        };
        let (address, ports) = rest.rsplit_once(':').ok_or_else(|| wrong("a port is missing"))?;
        let ports = match ports.split_once('-') {
            _ if ports == "*" => Some(0..=u16::MAX),
            Some((from, to)) => digits(from).zip(digits(to)).map(|(from, to)| from..=to),
            None => digits(ports).map(|port| port..=port),
        };
        let ports = ports.filter(|ports| !ports.is_empty()).ok_or_else(|| wrong("invalid port"))?;
        if address == "*" {
            return Ok(Self { protocol, prefix: None, ports });
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
        let bits = Prefix::of(address).length;
        let length = length.map_or(Some(bits), digits).filter(|length| *length <= bits);
        let length = length.ok_or_else(|| wrong("invalid prefix length"))?;
        Ok(Self { protocol, prefix: Some(Prefix { address, length }), ports })
    }

    /// Whether the rule applies to this protocol.
    pub fn is_for(&self, protocol: Protocol) -> bool {
        self.protocol.is_none_or(|ours| ours == protocol)
    }

    /// Whether the rule covers the address.
    pub fn covers(&self, protocol: Protocol, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.is_for(protocol)
            && self.ports.contains(&address.port())
            && self.prefix.is_none_or(|prefix| prefix.contains(ip))
    }
}

impl fmt::Display for AddressRule {
    /// The form that [`AddressRule::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}:")?;
        }
        match self.prefix {
            None => f.write_str("*")?,
            Some(prefix) if prefix.is_ipv4() => write!(f, "{prefix}")?,
            Some(Prefix { address, length }) => write!(f, "[{address}]/{length}")?,
        }
        write!(f, ":{}-{}", self.ports.start(), self.ports.end())
    }
}

/// Parses a number that consists of digits only: Rust would also accept a sign.
pub fn digits<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rule_covers_its_addresses_and_no_others() {
        for (rule, inside, outside) in [
            ("tcp:10.0.0.0/8:5432", "10.255.0.1:5432", "11.0.0.1:5432"),
            ("10.0.0.1:80-90", "10.0.0.1:90", "10.0.0.1:91"),
            ("[::1]:53", "[::1]:53", "[::2]:53"),
            ("[2001:db8::]/32:*", "[2001:db8:1::]:1", "[2001:db9::]:1"),
            ("*:443", "[::7]:443", "1.2.3.4:444"),
            ("0.0.0.0/0:80", "9.9.9.9:80", "[2001::9]:80"),
            // An IPv4-mapped IPv6 address is the same address.
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", "[::1]:80"),
        ] {
            let rule = AddressRule::parse(rule).unwrap();
            assert!(rule.covers(Protocol::Tcp, inside.parse().unwrap()), "{rule:?} {inside}");
            assert!(!rule.covers(Protocol::Tcp, outside.parse().unwrap()), "{rule:?} {outside}");
        }
        let tcp = AddressRule::parse("tcp:*:*").unwrap();
        assert!(!tcp.covers(Protocol::Udp, "1.2.3.4:5".parse().unwrap()));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_an_example() {
        for text in [
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
            "1.2.3.4:+1",
            "1.2.3.4/+8:1",
            "[1.2.3.4]:1",
            "[::1]/129:1",
            "*/8:1",
            "*:",
            "*: 80",
        ] {
            assert!(AddressRule::parse(text).unwrap_err().contains("tcp:10.0.0.0/8:5432"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_rule_means_the_same_when_it_is_printed(
            protocol in prop_oneof![Just(""), Just("tcp:"), Just("udp:")],
            address in any::<IpAddr>(),
            length in 0..=32_u8,
            ports in any::<(u16, u16)>(),
        ) {
            let address = if address.is_ipv4() { address.to_string() } else { format!("[{address}]") };
            let (from, to) = (ports.0.min(ports.1), ports.0.max(ports.1));
            let rule = AddressRule::parse(&format!("{protocol}{address}/{length}:{from}-{to}"));
            let rule = rule.map_err(TestCaseError::fail)?;
            prop_assert_eq!(AddressRule::parse(&rule.to_string()), Ok(rule));
        }
    }
}
