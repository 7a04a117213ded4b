//! Network access of a guest: the options of the runner, and the filters of systemd.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shim_interface::{AddressRule, Prefix, Protocol};

use crate::task::config::{NetworkMode, Wasm};
use crate::task::refusal::Error;

/// Network access of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) connect: Vec<AddressRule>,
    pub(super) listen: Vec<AddressRule>,
    pub(super) everything: bool,
    pub(super) lookup: bool,
}

impl Network {
    pub(super) fn resolve(wasm: &Wasm) -> Result<Self, Error> {
        let rules = |option: &'static str, list: &[String]| {
            let rule = |text: &String| {
                let wanted = "addresses and ports such as \"tcp:10.0.0.0/8:5432\", \"[::1]:53\" or \"*:443\" (for the name of a \
                          host grant its address here, and `wasm.name_lookup`)";
                AddressRule::parse(text).map_err(|_| Error::Option { option, value: text.clone(), wanted })
            };
            list.iter().map(rule).collect::<Result<Vec<_>, _>>()
        };
        for (option, list) in [("wasm.connect", &wasm.connect), ("wasm.listen", &wasm.listen)] {
            if wasm.inherit_network && !list.is_empty() {
                let reason = "`wasm.inherit_network` grants all addresses already; leave one of the two out";
                return Err(Error::refused(option, reason));
            }
        }
        Ok(Self {
            connect: rules("wasm.connect", &wasm.connect)?,
            listen: rules("wasm.listen", &wasm.listen)?,
            everything: wasm.inherit_network,
            lookup: wasm.name_lookup,
        })
    }

    /// The rules as options of the runner.
    pub(super) fn options(&self) -> impl Iterator<Item = (&'static str, String)> {
        let wasi = |on: bool, name: &str| on.then(|| ("-S", name.to_owned()));
        let rules = |option, rules: &[AddressRule]| -> Vec<_> {
            rules.iter().map(|rule| (option, rule.to_string())).collect()
        };
        let connect = rules("--connect", &self.connect);
        let switches = [wasi(self.everything, "inherit-network"), wasi(self.lookup, "allow-ip-name-lookup")];
        connect.into_iter().chain(rules("--listen", &self.listen)).chain(switches.into_iter().flatten())
    }

    /// The rules as systemd properties of the unit, if names are looked up at these `servers`; `None` if they are not
    /// known.
    pub(super) fn fence(
        &self,
        mode: &NetworkMode,
        servers: Option<Vec<IpAddr>>,
    ) -> Vec<(&'static str, String)> {
        let Self { connect, listen, everything, lookup } = self;
        if !everything && !lookup && connect.is_empty() && listen.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![("RestrictAddressFamilies", "AF_INET AF_INET6".to_owned())];
        if *mode != NetworkMode::None {
            lines.push(("PrivateNetwork", "no".to_owned()));
        }
        if *everything {
            return lines;
        }
        // Any peer of an address that the guest listens on; for this machine's own addresses only peers on it.
        let peers = listen.iter().map(|rule| rule.prefix.filter(Prefix::is_loopback));
        let peers = connect.iter().map(|rule| rule.prefix).chain(peers);
        let servers = servers.map(|servers| servers.into_iter().map(Prefix::of).collect::<Vec<_>>());
        if let (Some(peers), Some(servers)) = (peers.collect::<Option<Vec<_>>>(), servers) {
            lines.push(("IPAddressDeny", "any".to_owned()));
            let allowed = peers.into_iter().chain(servers);
            lines.extend(allowed.map(|prefix| ("IPAddressAllow", prefix.to_string())));
        }
        // A sender of packets first binds to a port of the kernel's choice, which systemd has no word for.
        let sends = connect.iter().any(|rule| rule.protocol != Some(Protocol::Tcp));
        lines.push(("SocketBindDeny", "tcp".to_owned()));
        lines.extend((!sends).then(|| ("SocketBindDeny", "udp".to_owned())));
        lines.extend(listen.iter().map(|rule| ("SocketBindAllow", of_port(rule))));
        lines
    }
}

/// The port and protocol of a rule, without the address, as systemd's `SocketBindAllow=` has them.
fn of_port(rule: &AddressRule) -> String {
    let family = match rule.prefix {
        None => "",
        Some(prefix) if prefix.is_ipv4() => "ipv4:",
        Some(_) => "ipv6:",
    };
    let protocol = rule.protocol.map(|protocol| format!("{protocol}:")).unwrap_or_default();
    // systemd has no word for a port of the kernel's choice except for all ports.
    let (first, last) = (rule.ports.start(), rule.ports.end());
    if *first == 0 { format!("{family}{protocol}any") } else { format!("{family}{protocol}{first}-{last}") }
}

/// The configuration of the resolver (resolv.conf(5)).
pub(super) const RESOLVER: &str = "/etc/resolv.conf";

/// The name servers in the text; without any it is this machine.
pub(super) fn name_servers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        // An address of a link names the link.
        server.split('%').next()?.parse().ok()
    });
    let servers: Vec<IpAddr> = servers.collect();
    if servers.is_empty() {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::Assignment;

    fn wasm(change: impl FnOnce(&mut Wasm)) -> Wasm {
        let mut wasm = Wasm::decode(&[]).unwrap();
        change(&mut wasm);
        wasm
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn network(connect: &[&str], listen: &[&str]) -> Network {
        Network::resolve(&wasm(|wasm| (wasm.connect, wasm.listen) = (texts(connect), texts(listen)))).unwrap()
    }

    /// The lines of a fence, each as in a unit file.
    fn fence(network: &Network, servers: Option<&[&str]>) -> Vec<String> {
        let servers = servers.map(|servers| servers.iter().map(|server| server.parse().unwrap()).collect());
        let lines = network.fence(&NetworkMode::Host, servers);
        for (name, text) in &lines {
            assert!(Assignment::parse(name, text).is_ok(), "{name}={text}");
        }
        lines.iter().map(|(name, text)| format!("{name}={text}")).collect()
    }

    #[test]
    fn systemd_is_told_of_a_rule_all_but_the_address() {
        for (said, port) in [
            ("tcp:10.0.0.0/8:5432", "ipv4:tcp:5432-5432"),
            ("[2001:db8::]/32:80-90", "ipv6:80-90"),
            ("udp:*:53", "udp:53-53"),
            ("*:*", "any"),
            ("tcp:[::1]:0-10", "ipv6:tcp:any"),
        ] {
            assert_eq!(of_port(&AddressRule::parse(said).unwrap()), port, "{said}");
        }
    }

    #[test]
    fn the_fence_lets_through_what_is_granted_and_no_more() {
        assert_eq!(fence(&network(&[], &[]), Some(&[])), Vec::<String>::new());
        let common = ["RestrictAddressFamilies=AF_INET AF_INET6", "PrivateNetwork=no"];
        let client = fence(&network(&["tcp:10.0.0.0/8:5432", "tcp:[::1]:53"], &[]), Some(&[]));
        let filters = [
            "IPAddressDeny=any",
            "IPAddressAllow=10.0.0.0/8",
            "IPAddressAllow=::1/128",
            "SocketBindDeny=tcp",
            "SocketBindDeny=udp",
        ];
        assert_eq!(client, [&common[..], &filters].concat());
        // Anybody may connect to the guest, and it binds there alone.
        let server = fence(&network(&[], &["tcp:*:80"]), Some(&[]));
        let filters = ["SocketBindDeny=tcp", "SocketBindDeny=udp", "SocketBindAllow=tcp:80-80"];
        assert_eq!(server, [&common[..], &filters].concat());
        let own = fence(&network(&[], &["127.0.0.1:80"]), Some(&[]));
        assert!(own.contains(&"IPAddressAllow=127.0.0.1/32".to_owned()), "{own:?}");
        // A sender of packets is bound to some port.
        let sender = fence(&network(&["10.0.0.1:53"], &[]), Some(&[]));
        assert!(!sender.contains(&"SocketBindDeny=udp".to_owned()), "{sender:?}");
        let everything = Network { everything: true, ..network(&["10.0.0.1:53"], &[]) };
        assert_eq!(fence(&everything, Some(&[])), common);
    }

    #[test]
    fn who_may_look_up_names_may_ask_the_servers_if_they_are_known() {
        let asks = Network { lookup: true, ..network(&["tcp:10.0.0.1:80"], &[]) };
        let known = fence(&asks, Some(&["127.0.0.53", "fe80::1"]));
        for server in ["127.0.0.53/32", "fe80::1/128", "10.0.0.1/32"] {
            assert!(known.contains(&format!("IPAddressAllow={server}")), "{server} in {known:?}");
        }
        assert!(!fence(&asks, None).iter().any(|line| line.starts_with("IPAddress")));
        let servers = |text: &str| name_servers(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            servers("# x\nsearch a\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n"),
            ["10.0.0.1", "fe80::1"]
        );
        assert_eq!(servers("options ndots:2\nnameserver\n"), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn a_group_without_a_network_stays_without_one() {
        let lines = network(&["*:80"], &[]).fence(&NetworkMode::None, Some(vec![]));
        assert!(lines.iter().all(|(name, _)| *name != "PrivateNetwork"), "{lines:?}");
    }
}
