//! Converts a property and its text to the form on the bus, as `systemd-run -p` does.
//!
//! A list without any word is sent as an empty list, which resets earlier ones; systemd-run does so for most lists.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zbus::Variant;

use super::super::wire::{Wire, one};
use super::definition::PropertyDef;
use super::grammar::{
    self, Backslash, LIST, Parsed, Split, boolean, integer, is_space, permyriad, within, words,
};
use super::kind::Kind;
use super::kinds::{
    condition, credential, device, directory, each, filter, image, leniently, limit, network, owned, path,
    unless_tilde, unsigned, word,
};
use super::names;

/// The properties on the bus for `text`.
#[allow(clippy::too_many_lines, reason = "one line per kind of value")]
pub(super) fn parse(property: &PropertyDef, text: &str) -> Parsed<Wire> {
    let name = property.name;
    let value: Variant<'static> = match property.kind {
        // Two properties, or one with another name.
        Kind::BoolOrEx(words) => return word::bool_or_ex(name, text, words),
        Kind::Condition => return Ok(condition::parse(name, text)),
        Kind::CpuAffinity if text == "numa" => return Ok(one("CPUAffinityFromNUMA", true)),
        Kind::CpuQuota => return Ok(one("CPUQuotaPerSecUSec", limit::cpu_quota(text)?)),
        Kind::Delegate => {
            return Ok(match boolean(text) {
                Some(on) => one("Delegate", on),
                None => one("DelegateControllers", words(text, LIST)?),
            });
        }
        Kind::Directory => return directory::parse(name, text),
        Kind::EnvironmentFile => {
            return Ok(one("EnvironmentFiles", each(text, |text| Ok(leniently(text)))?));
        }
        Kind::Hostname => return word::hostname(text),
        Kind::ImportCredential => return credential::import(text),
        Kind::IoLatency => return Ok(one(in_usec(name), device::parse(text, grammar::seconds)?)),
        Kind::Limit(unit) => return limit::parse(name, unit, text),
        Kind::Memory(_) | Kind::Tasks if permyriad(text).is_ok() => {
            return Ok(one(format!("{name}Scale"), limit::share(text)?));
        }
        Kind::RootHash if text.starts_with('/') => return Ok(one("RootHashPath", text.to_owned())),
        Kind::RootHashSignature if text.starts_with('/') => {
            return Ok(one("RootHashSignaturePath", text.to_owned()));
        }
        Kind::Seconds => return Ok(one(in_usec(name), grammar::seconds(text)?)),
        Kind::SecondsOrInfinity => {
            let time = if text.is_empty() { u64::MAX } else { grammar::seconds(text)? };
            return Ok(one(in_usec(name), time));
        }

        Kind::None => return Err("it is not to be set".to_owned()),
        Kind::Binds => path::binds(text)?.into(),
        Kind::NumaMask if text == "all" => return Err("name the nodes, such as `0-1`".to_owned()),
        Kind::BitSet | Kind::CpuAffinity | Kind::NumaMask => grammar::bit_set(text)?.into(),
        Kind::Bool => boolean(text).ok_or_else(|| "it is neither `yes` nor `no`".to_owned())?.into(),
        Kind::BpfProgram => each(text, |text| {
            text.split_once(':').map(owned).ok_or_else(|| "it is not `ATTACH_TYPE:PATH`".to_owned())
        })?
        .into(),
        Kind::Capabilities => names::capabilities(text)?.into(),
        Kind::CoredumpFilter => names::dumped(text)?.into(),
        Kind::CpuWeight if text == "idle" => 0_u64.into(),
        Kind::CpuWeight | Kind::Weight => limit::or_unset(text, |text| within(text, 1..=10000))?.into(),
        Kind::DelegateNamespaces => filter::namespaces(text, false)?.into(),
        Kind::DeviceAllow => each(text, device::permissions)?.into(),
        Kind::DirectoryQuota => directory::quota(text)?.into(),
        Kind::Errno => names::errno(text)?.into(),
        Kind::ExitStatus => names::exit_status(text)?.into(),
        Kind::ExtensionImages => image::extensions(text)?.into(),
        Kind::Facility => names::number_or_name(text, names::FACILITIES, 127)?.into(),
        Kind::Filter => filter::parse(name, text)?.into(),
        Kind::Ignorable => {
            let (text, ignore) = leniently(text);
            (ignore, text).into()
        }
        Kind::IoClass => names::number_or_name(text, names::IO_CLASSES, 7)?.into(),
        Kind::IoLimit => device::parse(text, |limit| match limit {
            "infinity" => Ok(u64::MAX),
            limit => grammar::size(limit, 1000),
        })?
        .into(),
        Kind::IoPriority => within(text, 0..=7)?.into(),
        Kind::IoWeight => device::parse(text, integer)?.into(),
        Kind::IpFilter => network::addresses(text)?.into(),
        Kind::IpFilterPath => each(text, |text| Ok(text.to_owned()))?.into(),
        Kind::Level => names::number_or_name(text, names::LEVELS, 7)?.into(),
        Kind::LoadCredential => each(text, credential::parse)?.into(),
        Kind::LogField => each(text, |text| Ok(text.as_bytes().to_vec()))?.into(),
        Kind::LogPattern => each(text, |text| Ok(unless_tilde(text)))?.into(),
        Kind::Memory(empty) => match text {
            "" => empty,
            "infinity" => u64::MAX,
            text => grammar::size(text, 1024)?,
        }
        .into(),
        Kind::Mode => grammar::mode(text)?.into(),
        Kind::MountFlag if text.is_empty() => 0_u64.into(),
        Kind::MountFlag => unsigned(names::number(text, names::PROPAGATIONS)?).into(),
        Kind::MountImages => image::mounted(text)?.into(),
        Kind::Nanoseconds => grammar::nanoseconds(text)?.into(),
        Kind::NftSet => network::nft_sets(text)?.into(),
        Kind::Nice => within(text, -20..=19)?.into(),
        Kind::NumaPolicy => names::number(text, names::NUMA_POLICIES)?.into(),
        Kind::OomScore => within(text, -1000..=1000)?.into(),
        Kind::OpenFile => each(text, directory::open_file)?.into(),
        Kind::Permyriad => limit::share(text)?.into(),
        Kind::RealTimePriority => within(text, 0..=99)?.into(),
        Kind::RestrictNamespaces => filter::namespaces(text, true)?.into(),
        Kind::RootHash => match grammar::hexadecimal(text)? {
            hash if hash.len() < 16 => return Err("it is shorter than 16 bytes".to_owned()),
            hash => hash.into(),
        },
        Kind::RootHashSignature => {
            let wrong = || "it is neither an absolute path nor `base64:…`".to_owned();
            let digits = text.strip_prefix("base64:").ok_or_else(wrong)?.replace(grammar::is_space, "");
            BASE64.decode(digits).map_err(|_| "it is not base64".to_owned())?.into()
        }
        Kind::RootImageOptions => image::root_options(text)?.into(),
        Kind::Scheduler => names::number_or_name(text, names::SCHEDULERS, i32::MAX)?.into(),
        Kind::SecureBits => names::bits(text, names::SECURE_BITS, LIST)?.into(),
        Kind::Signal => names::signal(text)?.into(),
        Kind::SocketBind => each(text, network::socket)?.into(),
        Kind::Tasks => match text {
            "" | "infinity" => u64::MAX,
            text => integer(text)?,
        }
        .into(),
        Kind::TemporaryFileSystem => path::temporary_file_systems(text)?.into(),
        Kind::Text => text.to_owned().into(),
        Kind::Switch(words) => word::one_of(text, words, true)?.into(),
        Kind::Word(words) => word::one_of(text, words, false)?.into(),
        Kind::Unsigned => integer::<u32>(text)?.into(),
        Kind::Words if name == "SystemCallArchitectures" => filter::architectures(text)?.into(),
        Kind::Words => words(text, LIST)?.into(),
        Kind::WordsOrColons => words(text, Split { separators: ": \t\n\r", ..LIST })?.into(),
        Kind::WordsUnescaped => words(text, Split { backslash: Backslash::Escapes, ..LIST })?.into(),
    };
    Ok(one(name, value))
}

/// `…Sec` in the manual is `…USec` on the bus.
fn in_usec(name: &str) -> String {
    name.strip_suffix("Sec").map_or_else(|| name.to_owned(), |stem| format!("{stem}USec"))
}

/// Does the text contain only spaces?
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(is_space)
}
