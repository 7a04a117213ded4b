//! Differences between the releases of `systemd-run` and a manager, and among those releases.

/// Properties that a manager accepts, and no systemd-run knows.
pub(crate) const UNHEARD_OF: [&str; 8] = [
    "AddRef",
    "Names",
    "NonBlocking",
    "StartupMemoryHigh",
    "StartupMemoryLow",
    "StartupMemoryMax",
    "StartupMemorySwapMax",
    "StartupMemoryZSwapMax",
];

/// Properties that systemd-run accepts and ignores since 258, because they are always set.
pub(crate) const DROPPED: &str = "CPUAccounting";

/// The first release whose systemd-run reads `text` as today's does, if that is newer than the property.
pub(crate) fn since(name: &str, text: &str) -> u32 {
    LATER.iter().find(|(_, at, of)| (*at, *of) == (name, text)).map_or(0, |(version, ..)| *version)
}

/// Texts whose meaning has changed.
const LATER: &[(u32, &str, &str)] = &[
    (257, "SocketBindAllow", "0"),
    (257, "StateDirectory", "a:b:ro"),
    (257, "StateDirectory", "a::ro"),
    (257, "StateDirectory", "a:b:x"),
    (257, "StateDirectory", "c:d:ro a:b"),
    (258, "ImportCredential", "a.*:b"),
    (258, "ImportCredential", "a:"),
    (258, "LogFilterPatterns", ""),
    (258, "PrivateTmp", "disconnected"),
    (258, "PrivateUsers", "identity"),
    (258, "PrivateUsers", "self"),
    (258, "ProtectControlGroups", "private"),
    (258, "ProtectControlGroups", "strict"),
    // Time namespaces were added, and a list without them excludes them.
    (258, "RestrictNamespaces", "no"),
    (258, "RestrictNamespaces", "~"),
    (258, "RestrictNamespaces", "~cgroup net"),
    (258, "RestrictNamespaces", "~user"),
    (258, "ExecSearchPath", "/a:/b /c"),
];
