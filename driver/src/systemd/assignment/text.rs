//! The way back: lines of a unit file for what goes over the bus.
//!
//! The signature of a value decides how it is written, and a few names what its numbers mean.

use std::net::{Ipv4Addr, Ipv6Addr};

use zbus::Variant;

use super::grammar::{quote, to_base64};
use super::names::{self, NAMESPACES, NUMA_POLICIES, PROPAGATIONS, SECURE_BITS};

/// The lines of a unit file that say `name` and `value`, in order.
///
/// Lists that the manual writes one to a line take as many. There is none for what a unit file cannot say: a file
/// descriptor, a secret, a soft limit apart from its hard one. `%` is doubled, for unit files expand it.
pub fn lines_of(name: &str, value: &Variant<'_>) -> Vec<(String, String)> {
    let lines = match (name, value) {
        // An empty one of any kind takes back those of all kinds.
        ("Conditions", Variant::Array(all)) if all.is_empty() => {
            return vec![("ConditionPathExists".to_owned(), String::new())];
        }
        ("Asserts", Variant::Array(all)) if all.is_empty() => {
            return vec![("AssertPathExists".to_owned(), String::new())];
        }
        ("Conditions" | "Asserts", Variant::Array(all)) => {
            return all.inner().iter().filter_map(condition).collect();
        }
        ("SetCredential" | "SetCredentialEncrypted", _) => return Vec::new(),
        (_, Variant::U64(_)) if name.starts_with("Limit") && name.ends_with("Soft") => return Vec::new(),
        (_, Variant::Array(all)) if is_one_to_a_line(name) => match all.inner() {
            [] => vec![String::new()],
            all => all.iter().filter_map(|element| said(name, element)).collect(),
        },
        _ => said(name, value).into_iter().collect(),
    };
    lines.into_iter().map(|line| (in_file(name), line.replace('%', "%%"))).collect()
}

/// The one line of a unit file that says `name` and `value`, if it takes just one; see [`lines_of`].
pub fn text_of(name: &str, value: &Variant<'_>) -> Option<(String, String)> {
    match <[_; 1]>::try_from(lines_of(name, value)) {
        Ok([line]) => Some(line),
        Err(_) => None,
    }
}

/// How the manual writes the property that is `name` on the bus.
fn in_file(name: &str) -> String {
    match name {
        "CPUAffinityFromNUMA" => "CPUAffinity",
        "CPUQuotaPerSecUSec" => "CPUQuota",
        "DelegateControllers" => "Delegate",
        "EnvironmentFiles" => "EnvironmentFile",
        "RootHashPath" => "RootHash",
        "RootHashSignaturePath" => "RootHashSignature",
        _ => {
            if let Some(stem) = name.strip_suffix("USec") {
                return format!("{stem}Sec");
            }
            let stream = name.starts_with("Standard");
            let ends: &[&str] = if stream {
                &["FileDescriptorName", "FileToAppend", "FileToTruncate", "File"]
            } else {
                &["Ex", "Scale", "Symlink"]
            };
            ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
        }
    }
    .to_owned()
}

fn is_one_to_a_line(name: &str) -> bool {
    name.starts_with("Exec") && !matches!(name, "ExecPaths" | "ExecSearchPath")
        || name.starts_with("SocketBind")
        || name.starts_with("IODevice")
        || name.starts_with("IORead")
        || name.starts_with("IOWrite")
        || name.starts_with("LoadCredential")
        || name.starts_with("ImportCredential")
        || matches!(
            name,
            "BPFProgram"
                | "DeviceAllow"
                | "EnvironmentFiles"
                | "IPEgressFilterPath"
                | "IPIngressFilterPath"
                | "LogFilterPatterns"
                | "OpenFile"
        )
}

/// `value` in the words of `name`.
fn said(name: &str, value: &Variant<'_>) -> Option<String> {
    Some(match value {
        Variant::Bool(true) if name == "CPUAffinityFromNUMA" => "numa".to_owned(),
        Variant::Bool(on) => (if *on { "yes" } else { "no" }).to_owned(),
        Variant::I32(number) => integer(name, *number),
        Variant::U32(number) => unsigned(name, *number),
        Variant::U64(number) => wide(name, *number),
        Variant::Str(text) => stream(name).to_owned() + text,
        Variant::Structure(_) => structure(name, value)?,
        Variant::Array(all) => match all.inner() {
            bytes @ [Variant::U8(_), ..] => bit_set(name, &bytes_of(bytes)),
            all => spaced(all.iter().filter_map(|element| match element {
                Variant::Str(text) => Some(word(name, text)),
                Variant::Array(bytes) => {
                    Some(quote(&String::from_utf8_lossy(&bytes_of(bytes.inner()))).into_owned())
                }
                element => said(name, element),
            })),
        },
        _ => return None,
    })
}

fn spaced(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

/// One word of a list.
fn word(name: &str, text: &str) -> String {
    match name {
        // These know the escapes of C.
        "Environment" | "PassEnvironment" | "UnsetEnvironment" => command_word(text),
        "ExecSearchPath" => quote(text).into_owned(),
        // A colon separates only where pairs are taken, and a `~` turns a list round.
        _ if text.is_empty() || text.starts_with('~') => {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        }
        _ if text.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\')) => {
            quote(text).into_owned()
        }
        _ => text.to_owned(),
    }
}

/// What a stream's text begins with.
fn stream(name: &str) -> &'static str {
    match name.strip_prefix("Standard").unwrap_or_default() {
        end if end.ends_with("FileDescriptorName") => "fd:",
        end if end.ends_with("FileToAppend") => "append:",
        end if end.ends_with("FileToTruncate") => "truncate:",
        end if end.ends_with("File") => "file:",
        _ => "",
    }
}

fn integer(name: &str, number: i32) -> String {
    let named = |names: &names::Names| names.iter().find(|(_, of)| *of == number).map(|(name, _)| *name);
    match name {
        "NUMAPolicy" => named(NUMA_POLICIES).map(str::to_owned),
        "SystemCallErrorNumber" if number == names::KILL => Some("kill".to_owned()),
        _ if name.ends_with("Signal") => named(names::SIGNALS).map(|signal| format!("SIG{signal}")),
        "SecureBits" => Some(names::named(u64::from(number.unsigned_abs()), SECURE_BITS)),
        "SuccessActionExitStatus" | "FailureActionExitStatus" if number < 0 => Some(String::new()),
        _ => None,
    }
    .unwrap_or_else(|| number.to_string())
}

fn unsigned(name: &str, number: u32) -> String {
    if name == "UMask" || name.ends_with("DirectoryMode") {
        format!("{number:04o}")
    } else if name.ends_with("Scale") || name == "ManagedOOMMemoryPressureLimit" {
        percent(scaled(number))
    } else {
        number.to_string()
    }
}

/// Hundredths of a percent of 2^32-1.
fn scaled(number: u32) -> u64 {
    (u64::from(number) * 10000 + u64::from(u32::MAX) / 2) / u64::from(u32::MAX)
}

fn percent(hundredths: u64) -> String {
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => format!("{whole}%"),
        (whole, part) => format!("{whole}.{part:02}%"),
    }
}

fn wide(name: &str, number: u64) -> String {
    match (name, number) {
        // What is not set is an empty assignment.
        (
            "CPUQuotaPerSecUSec" | "CPUWeight" | "StartupCPUWeight" | "IOWeight" | "StartupIOWeight",
            u64::MAX,
        ) => String::new(),
        ("CPUQuotaPerSecUSec", per_second) => percent(per_second / 100),
        ("CPUWeight" | "StartupCPUWeight", 0) => "idle".to_owned(),
        ("CapabilityBoundingSet" | "AmbientCapabilities", mask) => capabilities(mask),
        ("RestrictNamespaces", 0) => "yes".to_owned(),
        ("DelegateNamespaces", 0) => "no".to_owned(),
        ("RestrictNamespaces" | "DelegateNamespaces", mask) => names::named(mask, NAMESPACES),
        ("MountFlags", mask) => names::named(mask, PROPAGATIONS),
        ("CoredumpFilter", mask) => format!("{mask:#x}"),
        (_, u64::MAX) => "infinity".to_owned(),
        (_, number) if name.ends_with("USec") => time(number),
        // A number alone counts microseconds.
        (_, number) => number.to_string(),
    }
}

/// Names for what is in the mask, or for what is not if that is less. Capabilities that are newer than we are have
/// numbers; those that are not named are all in the mask, or none is.
fn capabilities(mask: u64) -> String {
    let known = (1_u64 << names::CAPABILITIES.len()) - 1;
    let words = |mask: u64| {
        let numbers = (0..u64::BITS).filter(|bit| mask & !known & (1 << bit) != 0).map(|bit| bit.to_string());
        let names = Some(names::capability_names(mask)).filter(|names| !names.is_empty());
        names.into_iter().chain(numbers).collect::<Vec<_>>().join(" ")
    };
    let (newer, is_most) = (mask & !known, (mask & known).count_ones() > known.count_ones() / 2);
    // systemd takes numbers up to 62.
    if mask & (1 << 63) != 0 && newer != !known {
        return format!("~{}", words(!mask));
    }
    match (newer == 0 || newer == !known, is_most) {
        (true, true) => format!("~{}", words(known & !mask)),
        (true, false) => words(mask & known),
        (false, _) => words(mask),
    }
}

/// A time in the largest unit that leaves no fraction.
fn time(microseconds: u64) -> String {
    match microseconds {
        u64::MAX => "infinity".to_owned(),
        0 => "0".to_owned(),
        us if us % 1_000_000 == 0 => format!("{}s", us / 1_000_000),
        us if us % 1000 == 0 => format!("{}ms", us / 1000),
        us => format!("{us}us"),
    }
}

fn bytes_of(bytes: &[Variant<'_>]) -> Vec<u8> {
    bytes.iter().filter_map(|byte| if let Variant::U8(byte) = byte { Some(*byte) } else { None }).collect()
}

/// Bytes: mostly a set of CPUs or nodes.
fn bit_set(name: &str, bytes: &[u8]) -> String {
    match name {
        "StandardInputData" => return to_base64(bytes),
        "RootHashSignature" => return format!("base64:{}", to_base64(bytes)),
        "RootHash" => return hex::encode(bytes),
        _ => {}
    }
    let is_set = |bit: &usize| bytes[bit / 8] & 1 << (bit % 8) != 0;
    let set: Vec<usize> = (0..bytes.len() * 8).filter(is_set).collect();
    let ranges = set.chunk_by(|a, b| a + 1 == *b).map(|range| match range {
        [first, .., last] => format!("{first}-{last}"),
        one => one.iter().map(usize::to_string).collect(),
    });
    spaced(ranges)
}

fn condition(condition: &Variant<'_>) -> Option<(String, String)> {
    let Variant::Structure(parts) = condition else { return None };
    let [Variant::Str(name), Variant::Bool(trigger), Variant::Bool(negate), Variant::Str(text)] =
        parts.fields()
    else {
        return None;
    };
    let marks = format!("{}{}", if *trigger { "|" } else { "" }, if *negate { "!" } else { "" });
    Some((name.to_string(), format!("{marks}{text}").replace('%', "%%")))
}

#[allow(clippy::too_many_lines, reason = "one arm per signature")]
fn structure(name: &str, value: &Variant<'_>) -> Option<String> {
    use Variant::{Array, Bool, I32, Str, U16, U32, U64};
    let Variant::Structure(parts) = value else { return None };
    Some(match parts.fields() {
        // A command line: `@` is for a name that is not the path.
        [Str(path), Array(argv), flags] => {
            let prefix = exec_prefix(flags);
            let mut words = texts(argv);
            let first = words.next().unwrap_or_default();
            let at = if first == path.as_str() { String::new() } else { format!(" {}", command_word(first)) };
            let sign = if at.is_empty() { "" } else { "@" };
            let rest = words.fold(String::new(), |rest, word| rest + " " + &command_word(word));
            format!("{prefix}{sign}{}{at}{rest}", command_word(path))
        }
        [Bool(true), Array(all)] if name == "RestrictAddressFamilies" && all.inner().is_empty() => {
            names::NO_FAMILY.to_owned()
        }
        // A filter.
        [Bool(allow), Array(all)] => {
            let words = spaced(texts(all).map(|text| word(name, text)));
            format!("{}{words}", if *allow { "" } else { "~" })
        }
        [Bool(first), Str(text)] => match (name, first) {
            ("LogFilterPatterns", false) | ("RefreshOnReload", true) => format!("~{text}"),
            ("AppArmorProfile" | "SmackProcessLabel", true) => format!("-{text}"),
            _ => text.to_string(),
        },
        // A path that may be missing.
        [Str(path), Bool(optional)] => format!("{}{path}", dash(*optional)),
        [Str(source), Str(target), Bool(optional), U64(flags)] => {
            let end = if *flags == 0 { ":norbind" } else { "" };
            format!("{}{}:{}{end}", dash(*optional), quote(source), quote(target))
        }
        [Str(source), Str(target), Bool(optional), Array(options)] => quote_fields(
            &format!("{}{}:{}", dash(*optional), colons(source), colons(target)),
            options.inner(),
        ),
        [Str(source), Bool(optional), Array(options)] => {
            quote_fields(&format!("{}{}", dash(*optional), colons(source)), options.inner())
        }
        [Str(first), Str(second)] => match name {
            "DeviceAllow" => format!("{first} {second}").trim_end().to_owned(),
            // Both are taken as they are: what could be quoted here is not unquoted.
            "BPFProgram" | "ImportCredentialEx" => format!("{first}:{second}"),
            "LoadCredential" | "LoadCredentialEncrypted" | "ProtectHostnameEx" => {
                let end = if second.is_empty() { String::new() } else { format!(":{second}") };
                format!("{first}{end}")
            }
            "RootImageOptions" => quote_fields(first, std::slice::from_ref(&parts.fields()[1])),
            _ if second.is_empty() => word(name, first),
            _ => word(name, &format!("{first}:{second}")),
        },
        // A file to open, or a directory with a link to it.
        [Str(path), Str(second), U64(flags)] => {
            let options = match name {
                "OpenFile" => {
                    let options = [(1, "read-only"), (2, "append"), (4, "truncate"), (8, "graceful")];
                    let set = options.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, option)| *option);
                    set.collect::<Vec<_>>().join(",")
                }
                _ => (if *flags & 1 == 1 { "ro" } else { "" }).to_owned(),
            };
            let end = if options.is_empty() { String::new() } else { format!(":{options}") };
            word(name, &format!("{path}:{second}{end}"))
        }
        [Str(path), U64(number)] => match name {
            "IODeviceLatencyTargetUSec" => format!("{path} {}", time(*number)),
            _ => format!("{path} {}", wide("", *number)),
        },
        // An address: family, bytes, length of the prefix.
        [I32(_), Array(bytes), U32(prefix)] => {
            let bytes = bytes_of(bytes.inner());
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(|bytes| Ipv4Addr::from(bytes).to_string());
            let v6 = || <[u8; 16]>::try_from(bytes.as_slice()).map(|bytes| Ipv6Addr::from(bytes).to_string());
            format!("{}/{prefix}", v4.or_else(|_| v6()).ok()?)
        }
        [I32(family), I32(protocol), U16(count), U16(first)] => {
            let family = match *family {
                libc::AF_INET => "ipv4:",
                libc::AF_INET6 => "ipv6:",
                _ => "",
            };
            let protocol = match *protocol {
                libc::IPPROTO_TCP => "tcp:",
                libc::IPPROTO_UDP => "udp:",
                _ => "",
            };
            let range = match *count {
                0 => "any".to_owned(),
                1 => first.to_string(),
                count => format!("{first}-{}", first.saturating_add(count - 1)),
            };
            format!("{family}{protocol}{range}")
        }
        [I32(source), I32(family), Str(table), Str(set)] => {
            let source =
                [(3, "cgroup"), (4, "user"), (5, "group")].iter().find(|(number, _)| number == source)?.1;
            let families = [(1, "inet"), (2, "ip"), (3, "arp"), (5, "netdev"), (7, "bridge"), (10, "ip6")];
            let family = families.iter().find(|(number, _)| number == family)?.1;
            format!("{source}:{family}:{table}:{set}")
        }
        [Array(codes), Array(signals)] => {
            let numbers = |all: &zbus::Array<'_>, name| -> Vec<String> {
                all.inner().iter().filter_map(|number| said(name, number)).collect()
            };
            // A signal without a name would be read as a code.
            let real_time = |signal: String| match signal.parse::<u32>() {
                Ok(number) => format!("RTMIN+{}", number.saturating_sub(34)),
                Err(_) => signal,
            };
            let signals = numbers(signals, "KillSignal").into_iter().map(real_time);
            spaced(numbers(codes, "").into_iter().chain(signals))
        }
        // A quota: bytes, or a share of 2^32-1, if it is enforced.
        [U64(bytes), U32(share), Str(enforced)] => match (enforced.as_str(), *bytes) {
            ("no", _) => "off".to_owned(),
            (_, u64::MAX) => percent(scaled(*share)),
            (_, bytes) => bytes.to_string(),
        },
        _ => return None,
    })
}

/// The texts of a list.
fn texts<'a>(all: &'a zbus::Array<'_>) -> impl Iterator<Item = &'a str> {
    all.inner()
        .iter()
        .filter_map(|text| if let Variant::Str(text) = text { Some(text.as_str()) } else { None })
}

fn dash(optional: bool) -> &'static str {
    if optional { "-" } else { "" }
}

/// A field between colons.
fn colons(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

/// An image's fields, and behind them pairs of a partition and its options, as one word.
///
/// Within quotes backslashes stay, so that there is nothing left to escape but a quote, which no path should have.
fn quote_fields(begin: &str, options: &[Variant<'_>]) -> String {
    let mut text = begin.to_owned();
    let fields = options.iter().flat_map(|option| match option {
        Variant::Structure(pair) => pair.fields(),
        alone => std::slice::from_ref(alone),
    });
    for field in fields {
        if let Variant::Str(field) = field {
            text = text + ":" + &colons(field);
        }
    }
    if text.contains(char::is_whitespace) { format!("\"{text}\"") } else { text }
}

/// The characters before a command line.
fn exec_prefix(flags: &Variant<'_>) -> String {
    let flags: Vec<&str> = match flags {
        Variant::Bool(true) => vec!["ignore-failure"],
        Variant::Array(flags) => texts(flags).collect(),
        _ => Vec::new(),
    };
    let signs = flags.iter().map(|flag| match *flag {
        "ignore-failure" => "-",
        "no-env-expand" => ":",
        "privileged" => "+",
        "no-setuid" => "!",
        "ambient" => "!!",
        "via-shell" => "|",
        _ => "",
    });
    signs.collect()
}

/// One word of a command line: quoted, with its control characters as escapes of C.
fn command_word(word: &str) -> String {
    let mut text = String::new();
    for c in word.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_ascii_control() => text.extend(format!("\\x{:02x}", u32::from(c)).chars()),
            c => text.push(c),
        }
    }
    // Alone, `;` ends a command.
    let plain = !text.is_empty() && text == word && word != ";" && !word.contains([' ', '\'']);
    if plain { text } else { format!("\"{text}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, value: impl Into<Variant<'static>>) -> String {
        let lines = lines_of(name, &value.into());
        lines.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join("\n")
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_time_is_said_in_its_largest_unit() {
        assert_eq!(said("RuntimeMaxUSec", 90_000_000_u64), "RuntimeMaxSec=90s");
        assert_eq!(said("RuntimeMaxUSec", 500_000_u64), "RuntimeMaxSec=500ms");
        assert_eq!(said("RuntimeMaxUSec", u64::MAX), "RuntimeMaxSec=infinity");
        assert_eq!(said("CPUQuotaPerSecUSec", 125_000_u64), "CPUQuota=12.50%%");
    }

    #[test]
    fn a_command_is_said_with_its_prefix_and_quotes() {
        let line =
            ("/bin/sh".to_owned(), texts(&["sh", "-c", "echo 50% \"$A\"\n"]), texts(&["no-env-expand"]));
        assert_eq!(said("ExecStartEx", vec![line]), "ExecStart=:@/bin/sh sh -c \"echo 50%% \\\"$A\\\"\\n\"");
        let line = ("/bin/true".to_owned(), texts(&["/bin/true"]), true);
        assert_eq!(said("ExecStopPost", vec![line]), "ExecStopPost=-/bin/true");
    }

    #[test]
    fn paths_are_said_with_their_colons_and_spaces() {
        let binds = vec![("/a:b".to_owned(), "/c d".to_owned(), true, 0_u64)];
        assert_eq!(said("BindPaths", binds), "BindPaths=-\"/a:b\":\"/c d\":norbind");
        assert_eq!(said("ReadOnlyPaths", texts(&["/a", "/b c"])), "ReadOnlyPaths=/a \"/b c\"");
        assert_eq!(said("EnvironmentFiles", vec![("/a".to_owned(), true)]), "EnvironmentFile=-/a");
    }

    #[test]
    fn masks_and_sets_are_said_by_name_and_number() {
        assert_eq!(said("CapabilityBoundingSet", 1_u64 << 12), "CapabilityBoundingSet=CAP_NET_ADMIN");
        assert_eq!(
            said("CapabilityBoundingSet", 1_u64 << 12 | 1 << 62),
            "CapabilityBoundingSet=CAP_NET_ADMIN 62"
        );
        assert_eq!(said("CapabilityBoundingSet", !(1_u64 << 62)), "CapabilityBoundingSet=~62");
        assert_eq!(said("CapabilityBoundingSet", 0_u64), "CapabilityBoundingSet=");
        assert_eq!(said("CapabilityBoundingSet", !(1_u64 << 12)), "CapabilityBoundingSet=~CAP_NET_ADMIN");
        assert_eq!(said("AllowedCPUs", vec![0b1_0111_u8]), "AllowedCPUs=0-2 4");
        assert_eq!(
            said("SystemCallFilter", (false, texts(&["@clock", "mount"]))),
            "SystemCallFilter=~@clock mount"
        );
    }

    #[test]
    fn a_list_that_is_written_one_to_a_line_takes_lines() {
        let devices = vec![("/dev/null".to_owned(), "rw".to_owned()), ("char-pts".to_owned(), String::new())];
        assert_eq!(said("DeviceAllow", devices), "DeviceAllow=/dev/null rw\nDeviceAllow=char-pts");
    }

    #[test]
    fn there_is_no_line_for_a_soft_limit_or_a_secret() {
        assert_eq!(said("LimitNOFILESoft", 5_u64), "");
        assert_eq!(said("SetCredential", vec![("a".to_owned(), vec![1_u8])]), "");
    }
}
