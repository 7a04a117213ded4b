//! Addresses, ports and nftables sets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::grammar::{
    Backslash, ESCAPED_FIELDS, FIELDS, Parsed, RAW_LIST, Split, UNQUOTED_LIST, fields, integer, within, words,
};
use super::super::names::{self, Names};

const INET: i32 = libc::AF_INET;
const INET6: i32 = libc::AF_INET6;

/// Address families of the ports that a socket is bound to.
const FAMILIES: &Names = &[("ipv4", INET), ("ipv6", INET6)];
/// Protocols of these ports.
const PROTOCOLS: &Names = &[("tcp", libc::IPPROTO_TCP), ("udp", libc::IPPROTO_UDP)];
/// What is added to an nftables set.
const NFT_SOURCES: &Names = &[("cgroup", 3), ("user", 4), ("group", 5)];
/// Families of nftables tables.
const NFT_FAMILIES: &Names = &[("arp", 3), ("bridge", 7), ("inet", 1), ("ip", 2), ("ip6", 10), ("netdev", 5)];

/// `any`, `localhost`, `link-local`, `multicast`, or addresses, each with an optional prefix length.
pub(crate) fn addresses(text: &str) -> Parsed<Vec<(i32, Vec<u8>, u32)>> {
    let listed = match text {
        "any" => "0.0.0.0/0 ::/0",
        "link-local" => "169.254.0.0/16 fe80::/64",
        "multicast" => "224.0.0.0/4 ff00::/8",
        text if text.eq_ignore_ascii_case("localhost") => "127.0.0.0/8 ::1/128",
        text => text,
    };
    words(listed, UNQUOTED_LIST)?.iter().map(|word| address(word)).collect()
}

fn address(text: &str) -> Parsed<(i32, Vec<u8>, u32)> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let wrong = |_| format!("`{text}` is neither an address nor `ADDRESS/LENGTH`");
    let (family, bytes) = match address.parse().map_err(wrong)? {
        IpAddr::V4(address) => (INET, address.octets().to_vec()),
        IpAddr::V6(address) => (INET6, address.octets().to_vec()),
    };
    let longest = if family == INET { 32 } else { 128 };
    let prefix = prefix.map_or(Ok(longest), |prefix| within(prefix, 0..=longest))?;
    Ok((family, bytes, prefix))
}

/// An address with its prefix length, in a unit file.
pub(crate) fn address_text(bytes: &[u8], prefix: u32) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).to_string());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).to_string());
    Some(format!("{}/{prefix}", v4.or_else(|_| v6()).ok()?))
}

/// `[ipv4:|ipv6:][tcp:|udp:]PORTS`: family, protocol, number of ports, first port; a missing part is 0.
pub(crate) fn socket(text: &str) -> Parsed<(i32, i32, u16, u16)> {
    let fields = words(text, FIELDS)?;
    let mut fields = fields.iter().map(String::as_str).peekable();
    let mut take = |names| match fields.peek().and_then(|part| names::find(part, names)) {
        Some(number) => {
            fields.next();
            number
        }
        None => 0,
    };
    let (family, protocol) = (take(FAMILIES), take(PROTOCOLS));
    let (count, first) = match fields.next() {
        None | Some("any") => (0, 0),
        Some(ports) => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let wrong = |_| {
                format!("`{ports}` is neither a port nor a range of ports, as in `tcp:8080` or `udp:53-60`")
            };
            let (first, last): (u16, u16) = (integer(first).map_err(wrong)?, integer(last).map_err(wrong)?);
            match last.checked_sub(first) {
                // The count of all ports is one more than the number can hold; 0 stands for all.
                Some(more) => (more.wrapping_add(1), first),
                None => return Err(format!("`{ports}` ends before it begins")),
            }
        }
    };
    match fields.next() {
        None => Ok((family, protocol, count, first)),
        Some(_) => Err(format!("`{text}` is not `[ipv4:|ipv6:][tcp:|udp:]PORTS`")),
    }
}

/// Ports in a unit file.
pub(crate) fn socket_text(family: i32, protocol: i32, count: u16, first: u16) -> String {
    let of = |number, names: &Names| match name_of(number, names) {
        Some(name) => format!("{name}:"),
        None => String::new(),
    };
    let range = match count {
        0 => "any".to_owned(),
        1 => first.to_string(),
        count => format!("{first}-{}", first.saturating_add(count - 1)),
    };
    format!("{}{}{range}", of(family, FAMILIES), of(protocol, PROTOCOLS))
}

/// `SOURCE:FAMILY:TABLE:SET`.
pub(crate) fn nft_sets(text: &str) -> Parsed<Vec<(i32, i32, String, String)>> {
    let mut sets = Vec::new();
    for word in words(text, RAW_LIST)? {
        let parts = fields(&word, Split { backslash: Backslash::Escapes, ..ESCAPED_FIELDS }, 4)?;
        let [source, family, table, set] = parts.as_slice() else {
            return Err(format!("`{word}` is not `SOURCE:FAMILY:TABLE:SET`"));
        };
        let identifier = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.len() < 32
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '\\' | '_' | '.'))
        };
        if let Some(wrong) = [table, set].into_iter().find(|name| !identifier(name)) {
            return Err(format!("`{wrong}` is not a name in nftables"));
        }
        let (source, family) = (names::number(source, NFT_SOURCES)?, names::number(family, NFT_FAMILIES)?);
        sets.push((source, family, table.clone(), set.clone()));
    }
    Ok(sets)
}

/// An nftables set in a unit file.
pub(crate) fn nft_set_text(source: i32, family: i32, table: &str, set: &str) -> Option<String> {
    let (source, family) = (name_of(source, NFT_SOURCES)?, name_of(family, NFT_FAMILIES)?);
    Some(format!("{source}:{family}:{table}:{set}"))
}

fn name_of(number: i32, names: &Names) -> Option<&'static str> {
    names.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}
