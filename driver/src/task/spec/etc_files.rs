//! Files of a task's own in `/etc`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::systemd::one_line;
use crate::task::config::{Dns, NetworkMode, TaskConfig};
use crate::task::refusal::Error;

/// The files of the task's own in `/etc`. Where the job itself mounts a file, at one of these `targets`, that one is seen.
pub(super) fn etc(
    config: &TaskConfig,
    extra_hosts: &[String],
    targets: &[PathBuf],
) -> Result<BTreeMap<&'static str, String>, Error> {
    let mut files = BTreeMap::new();
    if let Some(Dns { servers, searches, options }) = &config.dns {
        let mut lines: Vec<String> = servers.iter().map(|server| format!("nameserver {server}")).collect();
        for (word, values) in [("search", searches), ("options", options)] {
            if !values.is_empty() {
                lines.push(format!("{word} {}", values.join(" ")));
            }
        }
        files.insert("resolv.conf", lines.iter().map(|line| one_line(line) + "\n").collect());
    }
    let group = match &config.network {
        NetworkMode::Group { host, .. } => host.as_ref(),
        NetworkMode::Host | NetworkMode::None => None,
    };
    let hostname = config.driver.hostname.as_ref();
    if group.is_some() || hostname.is_some() || !extra_hosts.is_empty() {
        let mut lines =
            vec!["127.0.0.1 localhost".to_owned(), "::1 localhost ip6-localhost ip6-loopback".to_owned()];
        lines.extend(group.map(|(name, address)| format!("{address} {name}")));
        // As on Debian: the name leads to this machine, whatever its addresses are.
        lines.extend(hostname.map(|name| format!("127.0.1.1 {name}")));
        for host in extra_hosts {
            // An IPv6 address has colons, a name has none.
            let pair = host.split_once(':').filter(|(name, _)| !name.is_empty());
            let parsed = pair.and_then(|(name, address)| {
                Some((name, address.trim_matches(['[', ']']).parse::<IpAddr>().ok()?))
            });
            let Some((name, address)) = parsed.filter(|(name, _)| !name.contains(char::is_whitespace)) else {
                let wanted = if host.ends_with(":host-gateway") {
                    "a name and an address: `host-gateway` is a word of Docker's; write the address of the node, \
                     `${attr.unique.network.ip-address}`"
                } else {
                    "a name and an address such as \"db:10.0.0.5\""
                };
                return Err(Error::Option { option: "extra_hosts", value: host.clone(), wanted });
            };
            lines.push(format!("{address} {name}"));
        }
        files.insert("hosts", lines.iter().map(|line| one_line(line) + "\n").collect());
    }
    let is_mounted = |name: &str| targets.iter().any(|target| *target == Path::new("/etc").join(name));
    if !extra_hosts.is_empty() && is_mounted("hosts") {
        let reason = "the job mounts a file of its own on /etc/hosts; write the names into that file, or leave one of the two out";
        return Err(Error::refused("extra_hosts", reason));
    }
    files.retain(|name, _| !is_mounted(name));
    Ok(files)
}
