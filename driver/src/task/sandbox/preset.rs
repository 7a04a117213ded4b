//! The sandbox presets, as lines of a unit file, and what it means for settings to be as tight as a preset.

use std::fmt;
use std::sync::LazyLock;

use crate::systemd::{Assignment, Meaning};

/// A named sandbox. The score of each in `systemd-analyze security` is in driver/README.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preset {
    /// Nothing except the view and the user.
    Off,
    /// Restrictions that a program does not notice if it is not part of the operating system.
    Standard,
    /// Restrictions that an ordinary network service can live with.
    Strict,
    /// What the runner of WebAssembly needs, and nothing else.
    Wasm,
}

/// The capabilities that a task may have at all are the operator's choice (`allow_caps`).
const STANDARD: &[(&str, &str)] = &[
    ("NoNewPrivileges", "yes"),
    ("KeyringMode", "private"),
    ("LockPersonality", "yes"),
    ("PrivateDevices", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHome", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectProc", "invisible"),
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallErrorNumber", "EPERM"),
    ("SystemCallFilter", "@system-service"),
    // io_uring bypasses system call filters, such as those of `RestrictSUIDSGID=` and of address families. Kernel keys of a
    // user outlive its tasks, and the next task with the same UID reads them: `KeyringMode=` covers the session's alone.
    ("SystemCallFilter", "~@keyring io_uring_enter io_uring_register io_uring_setup"),
];

/// On top of [`STANDARD`].
const STRICT: &[(&str, &str)] = &[
    ("CapabilityBoundingSet", ""),
    ("DevicePolicy", "closed"),
    ("MemoryDenyWriteExecute", "yes"),
    ("PrivateIPC", "yes"),
    ("PrivateUsers", "yes"),
    ("ProcSubset", "pid"),
    ("SystemCallFilter", "~@privileged @resources"),
    ("UMask", "0077"),
];

/// On top of [`STRICT`].
const WASM: &[(&str, &str)] = &[
    ("PrivateNetwork", "yes"),
    ("RestrictAddressFamilies", ""),
    // The runner reports to systemd how a guest ended.
    ("RestrictAddressFamilies", "AF_UNIX"),
    ("SystemCallFilter", "~@aio @chown @ipc @memlock @setuid @timer"),
    ("LimitCORE", "0"),
    ("LimitMSGQUEUE", "0"),
    ("LimitRTPRIO", "0"),
    ("TasksMax", "16"),
];

impl Preset {
    /// The preset with this name, if a job or an operator may name it.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "off" => Ok(Self::Off),
            "standard" => Ok(Self::Standard),
            "strict" => Ok(Self::Strict),
            _ => Err("one of \"strict\", \"standard\" and \"off\""),
        }
    }

    /// The assignments of the preset.
    pub fn assignments(self) -> &'static [Assignment] {
        static ALL: LazyLock<[Vec<Assignment>; 3]> = LazyLock::new(|| {
            let of = |layers: &[&[(&str, &str)]]| -> Vec<Assignment> {
                let lines = layers.iter().flat_map(|layer| layer.iter());
                // A test makes sure that all of them are parsed.
                Assignment::folded(lines.filter_map(|(name, text)| Assignment::parse(name, text).ok()))
            };
            [of(&[STANDARD]), of(&[STANDARD, STRICT]), of(&[STANDARD, STRICT, WASM])]
        });
        match self {
            Self::Off => &[],
            Self::Standard => &ALL[0],
            Self::Strict => &ALL[1],
            Self::Wasm => &ALL[2],
        }
    }
}

/// The table in driver/README.md of what the presets set: a property once for each value that it has in a preset.
pub fn table() -> String {
    let presets = [Preset::Standard, Preset::Strict, Preset::Wasm];
    let mut lines =
        vec!["| property | `standard` | `strict` | `wasm` |".to_owned(), "|---|---|---|---|".to_owned()];
    let mut names: Vec<&str> = Preset::Wasm.assignments().iter().map(Assignment::name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let cell = |preset: &Preset| {
            let lines = preset.assignments().iter().filter(|line| line.name() == name);
            let values = lines.map(|line| match line.text() {
                "" => "empty".to_owned(),
                text => format!("`{text}`"),
            });
            values.collect::<Vec<_>>().join(", ")
        };
        lines.push(format!("| `{name}=` | {} |", presets.iter().map(cell).collect::<Vec<_>>().join(" | ")));
    }
    lines.join("\n")
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Standard => "standard",
            Self::Strict => "strict",
            Self::Wasm => "wasm",
        })
    }
}

/// A property that is looser than it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looser {
    /// Name of the property.
    pub property: &'static str,
    /// The loosest value that is allowed.
    pub floor: String,
}

/// Properties whose values are words, from the loosest to the tightest.
const LADDERS: &[(&str, &[&str])] = &[
    ("DevicePolicy", &["auto", "closed", "strict"]),
    ("KeyringMode", &["inherit", "shared", "private"]),
    ("PrivateUsers", &["no", "full", "identity", "managed", "self", "yes"]),
    ("ProcSubset", &["all", "pid"]),
    ("ProtectControlGroups", &["no", "private", "yes", "strict"]),
    ("ProtectHome", &["no", "read-only", "yes"]),
    ("ProtectProc", &["default", "noaccess", "invisible", "ptraceable"]),
];

/// Is every property in `ours` at least as tight as in `floor`? Both are folded ([`Assignment::folded`]).
pub fn as_tight(floor: &[Assignment], ours: &[Assignment]) -> Result<(), Looser> {
    for line in floor {
        let name = line.name();
        let of = |lines: &[Assignment]| -> Vec<Meaning> {
            lines.iter().filter(|line| line.name() == name).map(Assignment::meaning).collect()
        };
        let (wanted, given) = (of(floor), of(ours));
        if !is_as_tight(name, &wanted, &given) {
            let floor = floor.iter().filter(|line| line.name() == name);
            let floor = floor.map(|line| format!("{name}={}", line.text())).collect::<Vec<_>>().join(", ");
            return Err(Looser { property: name, floor });
        }
    }
    Ok(())
}

fn is_as_tight(name: &str, wanted: &[Meaning], given: &[Meaning]) -> bool {
    // The result of a denied system call does not affect tightness.
    if name == "SystemCallErrorNumber" {
        return true;
    }
    match (wanted.last(), given.last()) {
        (Some(Meaning::Filter { .. }), _) => filter_is_as_tight(wanted, given),
        (Some(Meaning::Words(_)), _) => {
            let all = |lines: &[Meaning]| -> Vec<String> {
                let words = lines.iter().filter_map(|line| {
                    if let Meaning::Words(words) = line { Some(words.clone()) } else { None }
                });
                words.flatten().collect()
            };
            let (wanted, given) = (all(wanted), all(given));
            !given.is_empty() && given.iter().all(|word| wanted.contains(word))
        }
        // For capabilities and namespaces the remaining bits count; for a umask the removed ones.
        (Some(Meaning::Number(wanted)), Some(Meaning::Number(given))) if name == "UMask" => {
            wanted & !given == 0
        }
        (Some(Meaning::Number(wanted)), Some(Meaning::Number(given))) => given & !wanted == 0,
        (Some(Meaning::Text(wanted)), given) => {
            let ladder =
                LADDERS.iter().find(|(of, _)| *of == name).map_or(&["no", "yes"][..], |(_, ladder)| ladder);
            // An empty file system hides homes as well, and a host name of the task's own is nobody else's.
            let is_as_good = |word: &str| {
                matches!((name, word), ("ProtectHome", "tmpfs") | ("ProtectHostname", "private"))
            };
            let step = |word: &str| {
                let word = if is_as_good(word) { "yes" } else { word };
                ladder.iter().position(|step| *step == word)
            };
            let given = match given {
                Some(Meaning::Text(word)) => step(word.split(':').next().unwrap_or(word)),
                _ => None,
            };
            given.unwrap_or(0) >= step(wanted).unwrap_or(0)
        }
        _ => wanted == given,
    }
}

/// An allow list may contain no more than the floor's, and what the floor denies must stay denied.
fn filter_is_as_tight(wanted: &[Meaning], given: &[Meaning]) -> bool {
    let names = |lines: &[Meaning], allowed: bool| -> Vec<String> {
        let of = lines.iter().filter_map(|line| match line {
            Meaning::Filter { allow, names } if *allow == allowed => Some(names.clone()),
            _ => None,
        });
        of.flatten().collect()
    };
    let is_allow_list =
        |lines: &[Meaning]| matches!(lines.first(), Some(Meaning::Filter { allow: true, .. }));
    let (allowed, denied) = (names(wanted, true), names(wanted, false));
    // A system call that is allowed after it was denied is allowed again.
    let last_allowed = given.iter().rposition(|line| matches!(line, Meaning::Filter { allow: true, .. }));
    let (ours_allowed, ours_denied) =
        (names(given, true), names(&given[last_allowed.map_or(0, |at| at + 1)..], false));
    (!is_allow_list(wanted) || is_allow_list(given))
        && ours_allowed.iter().all(|name| allowed.contains(name) && !denied.contains(name))
        && denied.iter().all(|name| ours_denied.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Assignment {
        let (name, text) = text.split_once('=').unwrap();
        Assignment::parse(name, text).unwrap()
    }

    #[test]
    fn every_line_of_every_preset_is_a_property() {
        for (name, text) in [STANDARD, STRICT, WASM].into_iter().flatten() {
            assert!(Assignment::parse(name, text).is_ok(), "{name}={text}");
        }
    }

    #[test]
    fn each_preset_is_as_tight_as_those_before_it_and_not_the_other_way_round() {
        let all = [Preset::Off, Preset::Standard, Preset::Strict, Preset::Wasm].map(Preset::assignments);
        for (at, tighter) in all.iter().enumerate() {
            for looser in &all[..=at] {
                assert_eq!(as_tight(looser, tighter), Ok(()));
            }
            for looser in &all[..at] {
                assert!(as_tight(tighter, looser).is_err());
            }
        }
    }

    #[test]
    fn what_is_looser_is_named() {
        let floor = Preset::Strict.assignments();
        let with = |text: &str| Assignment::folded(floor.iter().cloned().chain([line(text)]));
        for looser in [
            "NoNewPrivileges=no",
            "CapabilityBoundingSet=CAP_SYS_ADMIN",
            "SystemCallFilter=@mount",
            "SystemCallFilter=@resources",
            "SystemCallFilter=",
            "SystemCallFilter=~",
            "SystemCallFilter=@system-service",
            "RestrictNamespaces=user",
            "RestrictAddressFamilies=AF_PACKET",
            "SystemCallArchitectures=x86",
            "UMask=0022",
            "ProcSubset=all",
            "ProtectHome=read-only",
            "PrivateUsers=no",
        ] {
            let name = looser.split('=').next().unwrap();
            let found = as_tight(floor, &with(looser)).map_err(|looser| looser.property);
            assert_eq!(found, Err(name), "{looser}");
        }
        for tighter in ["SystemCallFilter=~@clock", "UMask=0177", "PrivateNetwork=yes", "DevicePolicy=strict"]
        {
            assert_eq!(as_tight(floor, &with(tighter)), Ok(()), "{tighter}");
        }
    }
}
