//! Numbers, masks and sets in a unit file, by the names that they have there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::super::lines::spaced;
use super::super::names::{self, NAMESPACES, NUMA_POLICIES, PROPAGATIONS, SECURE_BITS};
use super::limit::{percent, scaled};

pub(crate) fn integer(name: &str, number: i32) -> String {
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

pub(crate) fn unsigned(name: &str, number: u32) -> String {
    if name == "UMask" || name.ends_with("DirectoryMode") {
        format!("{number:04o}")
    } else if name.ends_with("Scale") || name == "ManagedOOMMemoryPressureLimit" {
        percent(scaled(number))
    } else {
        number.to_string()
    }
}

pub(crate) fn wide(name: &str, number: u64) -> String {
    match (name, number) {
        // A value that is not set is an empty assignment.
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
        // A number without a unit counts microseconds.
        (_, number) => number.to_string(),
    }
}

/// The names of the capabilities in the mask, or of those not in it if they are fewer. Capabilities that are newer than
/// the driver are written as numbers. Those that are not listed are either all in the mask, or none is.
fn capabilities(mask: u64) -> String {
    let known = (1_u64 << names::CAPABILITIES.len()) - 1;
    let words = |mask: u64| {
        let numbers = (0..u64::BITS).filter(|bit| mask & !known & (1 << bit) != 0).map(|bit| bit.to_string());
        let names = Some(names::capability_names(mask)).filter(|names| !names.is_empty());
        names.into_iter().chain(numbers).collect::<Vec<_>>().join(" ")
    };
    let (newer, is_most) = (mask & !known, (mask & known).count_ones() > known.count_ones() / 2);
    // systemd accepts numbers up to 62.
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
pub(crate) fn time(microseconds: u64) -> String {
    match microseconds {
        u64::MAX => "infinity".to_owned(),
        0 => "0".to_owned(),
        us if us % 1_000_000 == 0 => format!("{}s", us / 1_000_000),
        us if us % 1000 == 0 => format!("{}ms", us / 1000),
        us => format!("{us}us"),
    }
}

/// Bytes, usually a set of CPUs or nodes.
pub(crate) fn bit_set(name: &str, bytes: &[u8]) -> String {
    match name {
        "StandardInputData" => return BASE64.encode(bytes),
        "RootHashSignature" => return format!("base64:{}", BASE64.encode(bytes)),
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

/// Codes and signals that count as success.
pub(crate) fn exit_status_text(codes: &[i32], signals: &[i32]) -> String {
    // A signal without a name would be read as a code.
    let signal = |number: &i32| {
        let name = integer("KillSignal", *number);
        name.parse::<u32>().map_or(name, |number| format!("RTMIN+{}", number.saturating_sub(34)))
    };
    spaced(codes.iter().map(|code| integer("", *code)).chain(signals.iter().map(signal)))
}
