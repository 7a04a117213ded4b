//! Privileges that a program gains when it is executed, which systemd does not grant where it filters system calls.

use crate::systemd::{Assignment, Features, Meaning};
use crate::task::refusal::Error;
use crate::task::sandbox::privilege::{Facts, Standing, text_of};

/// Does the job request new privileges where systemd before 257 removes them for every user but root, since it filters
/// system calls (systemd.exec(5), `NoNewPrivileges=`)?
pub(super) fn check(settings: &[Assignment], facts: &Facts<'_>, features: &Features) -> Result<(), Error> {
    const FILTERS: [&str; 14] = [
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "PrivateDevices",
        "ProtectClock",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RestrictAddressFamilies",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "SystemCallArchitectures",
        "SystemCallFilter",
    ];
    let asks = text_of(settings, "NoNewPrivileges").as_deref() == Some("no");
    let filters = |line: &&Assignment| {
        FILTERS.contains(&line.name()) && line.meaning() != Meaning::Text("no".to_owned())
    };
    let is_lost = asks && facts.standing == Standing::Named && features.version < 257;
    match settings.iter().find(filters).filter(|_| is_lost) {
        Some(line) => Err(Error::Refused {
            option: "sandbox.no_new_privileges".to_owned(),
            reason: format!(
                "systemd before 257 gives a user other than root no new privileges where it filters system calls, as with {}; \
                 set `preset = \"off\"` in `sandbox` as well, or use a node with systemd 257",
                line.name()
            ),
        }),
        None => Ok(()),
    }
}
