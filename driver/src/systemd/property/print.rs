//! Converts properties from the bus back to lines of a unit file.
//!
//! The signature of a value decides how it is written; for a few names, the name decides what its numbers mean.

use zbus::Variant;

use super::grammar::quote;
use super::kind::Kind;
use super::kinds::{
    command, condition, credential, dash, device, directory, filter, image, network, number, path, word,
};
use super::known;
use super::lines::{spaced, word};

/// The lines of a unit file that assign `value` to `name`, in order.
///
/// Lists that the manual writes one element to a line become as many lines. Values that a unit file cannot contain have
/// no line: a file descriptor, a secret, a soft limit apart from its hard limit. A `%` is literal; see [`escaped`].
pub fn lines_of(name: &str, value: &Variant<'_>) -> Vec<(String, String)> {
    let lines = match (name, value) {
        // An empty condition of any kind resets the conditions of all kinds.
        ("Conditions", Variant::Array(all)) if all.is_empty() => {
            return vec![("ConditionPathExists".to_owned(), String::new())];
        }
        ("Asserts", Variant::Array(all)) if all.is_empty() => {
            return vec![("AssertPathExists".to_owned(), String::new())];
        }
        ("Conditions" | "Asserts", Variant::Array(all)) => {
            return all.inner().iter().filter_map(condition::text).collect();
        }
        ("SetCredential" | "SetCredentialEncrypted", _) => return Vec::new(),
        (_, Variant::U64(_)) if name.starts_with("Limit") && name.ends_with("Soft") => return Vec::new(),
        (_, Variant::Array(all)) if is_one_to_a_line(name) => match all.inner() {
            [] => vec![String::new()],
            all => all.iter().filter_map(|element| print_value(name, element)).collect(),
        },
        _ => print_value(name, value).into_iter().collect(),
    };
    lines.into_iter().map(|line| (in_file(name), line)).collect()
}

/// The line of a unit file that assigns `value` to `name`, if there is exactly one; see [`lines_of`].
pub fn text_of(name: &str, value: &Variant<'_>) -> Option<(String, String)> {
    match <[_; 1]>::try_from(lines_of(name, value)) {
        Ok([line]) => Some(line),
        Err(_) => None,
    }
}

/// The text of a line as it is written in a unit file. There systemd replaces specifiers such as `%n`
/// (systemd.unit(5)), and reads `%%` as `%`, but not in shares such as `CPUQuota=150%`, nor in patterns.
pub fn escaped(name: &str, text: &str) -> String {
    let kind = known(name).map(|property| property.kind);
    let is_literal = matches!(
        kind,
        Some(Kind::CpuQuota | Kind::Memory(_) | Kind::Tasks | Kind::Permyriad | Kind::LogPattern)
    );
    if is_literal { text.to_owned() } else { text.replace('%', "%%") }
}

/// The manual's name of the property that is `name` on the bus.
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

/// `value` in the syntax of the property `name`.
fn print_value(name: &str, value: &Variant<'_>) -> Option<String> {
    Some(match value {
        Variant::Bool(true) if name == "CPUAffinityFromNUMA" => "numa".to_owned(),
        Variant::Bool(on) => (if *on { "yes" } else { "no" }).to_owned(),
        Variant::I32(number) => number::integer(name, *number),
        Variant::U32(number) => number::unsigned(name, *number),
        Variant::U64(number) => number::wide(name, *number),
        Variant::Str(text) => word::stream(name).to_owned() + text,
        Variant::Structure(_) => structure(name, value)?,
        Variant::Array(all) => match all.inner() {
            bytes @ [Variant::U8(_), ..] => number::bit_set(name, &bytes_of(bytes)),
            all => spaced(all.iter().filter_map(|element| match element {
                Variant::Str(text) => Some(word(name, text)),
                Variant::Array(bytes) => {
                    Some(quote(&String::from_utf8_lossy(&bytes_of(bytes.inner()))).into_owned())
                }
                element => print_value(name, element),
            })),
        },
        _ => return None,
    })
}

fn bytes_of(bytes: &[Variant<'_>]) -> Vec<u8> {
    bytes.iter().filter_map(|byte| if let Variant::U8(byte) = byte { Some(*byte) } else { None }).collect()
}

fn structure(name: &str, value: &Variant<'_>) -> Option<String> {
    use Variant::{Array, Bool, I32, Str, U16, U32, U64};
    let Variant::Structure(parts) = value else { return None };
    Some(match parts.fields() {
        [Str(path), Array(argv), flags] => command::text(path, argv, flags),
        [Bool(allow), Array(all)] => filter::text(name, *allow, all),
        [Bool(mark), Str(text)] => word::marked_text(name, *mark, text),
        // A path that may be missing.
        [Str(path), Bool(optional)] => format!("{}{path}", dash(*optional)),
        [Str(source), Str(target), Bool(optional), U64(flags)] => {
            path::bind_text(source, target, *optional, *flags)
        }
        [Str(source), Str(target), Bool(optional), Array(options)] => {
            image::mounted_text(source, target, *optional, options.inner())
        }
        [Str(source), Bool(optional), Array(options)] => {
            image::extension_text(source, *optional, options.inner())
        }
        [Str(first), Str(second)] => match name {
            "DeviceAllow" => device::permissions_text(first, second),
            // Both are taken literally: what could be quoted here is not unquoted.
            "BPFProgram" | "ImportCredentialEx" => format!("{first}:{second}"),
            "LoadCredential" | "LoadCredentialEncrypted" | "ProtectHostnameEx" => {
                credential::text(first, second)
            }
            "RootImageOptions" => image::quote_fields(first, std::slice::from_ref(&parts.fields()[1])),
            _ if second.is_empty() => word(name, first),
            _ => word(name, &format!("{first}:{second}")),
        },
        [Str(path), Str(second), U64(flags)] => directory::text(name, path, second, *flags),
        [Str(path), U64(number)] => device::text(name, path, *number),
        // An address: family, bytes, length of the prefix.
        [I32(_), Array(bytes), U32(prefix)] => network::address_text(&bytes_of(bytes.inner()), *prefix)?,
        [I32(family), I32(protocol), U16(count), U16(first)] => {
            network::socket_text(*family, *protocol, *count, *first)
        }
        [I32(source), I32(family), Str(table), Str(set)] => {
            network::nft_set_text(*source, *family, table, set)?
        }
        [Array(codes), Array(signals)] => {
            number::exit_status_text(&integers_of(codes), &integers_of(signals))
        }
        // A quota: bytes, or a share of 2^32-1, if it is enforced.
        [U64(bytes), U32(share), Str(enforced)] => directory::quota_text(*bytes, *share, enforced),
        _ => return None,
    })
}

fn integers_of(all: &zbus::Array<'_>) -> Vec<i32> {
    let number = |number: &Variant<'_>| if let Variant::I32(number) = number { Some(*number) } else { None };
    all.inner().iter().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, value: impl Into<Variant<'static>>) -> String {
        let lines = lines_of(name, &value.into());
        lines.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join("\n")
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_time_is_said_in_its_largest_unit() {
        assert_eq!(file("RuntimeMaxUSec", 90_000_000_u64), "RuntimeMaxSec=90s");
        assert_eq!(file("RuntimeMaxUSec", 500_000_u64), "RuntimeMaxSec=500ms");
        assert_eq!(file("RuntimeMaxUSec", u64::MAX), "RuntimeMaxSec=infinity");
        assert_eq!(file("CPUQuotaPerSecUSec", 125_000_u64), "CPUQuota=12.50%");
    }

    #[test]
    fn a_command_is_said_with_its_prefix_and_quotes() {
        let line =
            ("/bin/sh".to_owned(), texts(&["sh", "-c", "echo 50% \"$A\"\n"]), texts(&["no-env-expand"]));
        assert_eq!(file("ExecStartEx", vec![line]), "ExecStart=:@/bin/sh sh -c \"echo 50% \\\"$A\\\"\\n\"");
        let line = ("/bin/true".to_owned(), texts(&["/bin/true"]), true);
        assert_eq!(file("ExecStopPost", vec![line]), "ExecStopPost=-/bin/true");
    }

    #[test]
    fn paths_are_said_with_their_colons_and_spaces() {
        let binds = vec![("/a:b".to_owned(), "/c d".to_owned(), true, 0_u64)];
        assert_eq!(file("BindPaths", binds), "BindPaths=-\"/a:b\":\"/c d\":norbind");
        assert_eq!(file("ReadOnlyPaths", texts(&["/a", "/b c"])), "ReadOnlyPaths=/a \"/b c\"");
        assert_eq!(file("EnvironmentFiles", vec![("/a".to_owned(), true)]), "EnvironmentFile=-/a");
    }

    #[test]
    fn masks_and_sets_are_said_by_name_and_number() {
        assert_eq!(file("CapabilityBoundingSet", 1_u64 << 12), "CapabilityBoundingSet=CAP_NET_ADMIN");
        assert_eq!(
            file("CapabilityBoundingSet", 1_u64 << 12 | 1 << 62),
            "CapabilityBoundingSet=CAP_NET_ADMIN 62"
        );
        assert_eq!(file("CapabilityBoundingSet", !(1_u64 << 62)), "CapabilityBoundingSet=~62");
        assert_eq!(file("CapabilityBoundingSet", 0_u64), "CapabilityBoundingSet=");
        assert_eq!(file("CapabilityBoundingSet", !(1_u64 << 12)), "CapabilityBoundingSet=~CAP_NET_ADMIN");
        assert_eq!(file("AllowedCPUs", vec![0b1_0111_u8]), "AllowedCPUs=0-2 4");
        assert_eq!(
            file("SystemCallFilter", (false, texts(&["@clock", "mount"]))),
            "SystemCallFilter=~@clock mount"
        );
    }

    #[test]
    fn a_list_that_is_written_one_to_a_line_takes_lines() {
        let devices = vec![("/dev/null".to_owned(), "rw".to_owned()), ("char-pts".to_owned(), String::new())];
        assert_eq!(file("DeviceAllow", devices), "DeviceAllow=/dev/null rw\nDeviceAllow=char-pts");
    }

    #[test]
    fn there_is_no_line_for_a_soft_limit_or_a_secret() {
        assert_eq!(file("LimitNOFILESoft", 5_u64), "");
        assert_eq!(file("SetCredential", vec![("a".to_owned(), vec![1_u8])]), "");
    }
}
