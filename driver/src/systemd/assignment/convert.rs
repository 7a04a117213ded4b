//! What goes over the bus for a property and its text, as `systemd-run -p` makes it.
//!
//! A list without any word is sent as an empty list, which takes back earlier ones; systemd-run does so for most lists.

use std::net::IpAddr;

use zbus::Variant;

use super::grammar::{
    self, Backslash, FIELDS, LIST, Parsed, Split, Words, boolean, fields, integer, is_space, permyriad,
    within, words,
};
use super::names::{self, Names};
use super::table::{Conv, Known, Unit};

/// Properties of the bus, in order.
pub(super) type Wire = Vec<(String, Variant<'static>)>;

/// A path that is mounted with everything below it.
const RECURSIVE: u64 = 1 << 14;
/// Fields between colons, where a backslash hides a colon or begins an escape.
const ESCAPED_FIELDS: Split =
    Split { separators: ":", quotes: false, backslash: Backslash::EscapesOrHides, each: false };
/// Words whose backslashes are read later.
const RAW_LIST: Split = Split { backslash: Backslash::Stays, ..LIST };
/// Words that quotes have no part in.
const UNQUOTED_LIST: Split = Split { quotes: false, ..LIST };

/// The properties of the bus for `text`.
#[allow(clippy::too_many_lines, reason = "one line per kind of value")]
pub(super) fn convert(property: &Known, text: &str) -> Parsed<Wire> {
    let name = property.name;
    let value: Variant<'static> = match property.conv {
        // Two properties, or one of another name.
        Conv::BoolOrEx(words) => return bool_or_ex(name, text, words),
        Conv::Condition => return Ok(condition(name, text)),
        Conv::CpuAffinity if text == "numa" => return Ok(one("CPUAffinityFromNUMA", true)),
        Conv::CpuQuota => return Ok(one("CPUQuotaPerSecUSec", cpu_quota(text)?)),
        Conv::Delegate => {
            return Ok(match boolean(text) {
                Some(on) => one("Delegate", on),
                None => one("DelegateControllers", words(text, LIST)?),
            });
        }
        Conv::Directory => return directories(name, text),
        Conv::EnvironmentFile => {
            return Ok(one("EnvironmentFiles", each(text, |text| Ok(leniently(text)))?));
        }
        Conv::Hostname => return hostname(text),
        Conv::ImportCredential => return import_credential(text),
        Conv::IoLatency => return Ok(one(in_usec(name), device(text, grammar::seconds)?)),
        Conv::Limit(unit) => return limit(name, unit, text),
        Conv::Memory(_) | Conv::Tasks if permyriad(text).is_ok() => {
            return Ok(one(format!("{name}Scale"), share(text)?));
        }
        Conv::RootHash if text.starts_with('/') => return Ok(one("RootHashPath", text.to_owned())),
        Conv::RootHashSignature if text.starts_with('/') => {
            return Ok(one("RootHashSignaturePath", text.to_owned()));
        }
        Conv::Seconds => return Ok(one(in_usec(name), grammar::seconds(text)?)),
        Conv::SecondsOrInfinity => {
            let time = if text.is_empty() { u64::MAX } else { grammar::seconds(text)? };
            return Ok(one(in_usec(name), time));
        }

        Conv::None => return Err("it is not to be set".to_owned()),
        Conv::Binds => binds(text)?.into(),
        Conv::NumaMask if text == "all" => return Err("name the nodes, such as `0-1`".to_owned()),
        Conv::BitSet | Conv::CpuAffinity | Conv::NumaMask => grammar::bit_set(text)?.into(),
        Conv::Bool => boolean(text).ok_or_else(|| "it is neither `yes` nor `no`".to_owned())?.into(),
        Conv::BpfProgram => each(text, |text| {
            text.split_once(':').map(owned).ok_or_else(|| "it is not `ATTACH_TYPE:PATH`".to_owned())
        })?
        .into(),
        Conv::Capabilities => names::capabilities(text)?.into(),
        Conv::CoredumpFilter => names::dumped(text)?.into(),
        Conv::CpuWeight if text == "idle" => 0_u64.into(),
        Conv::CpuWeight | Conv::Weight => or_unset(text, |text| within(text, 1..=10000))?.into(),
        Conv::DelegateNamespaces => namespaces(text, false)?.into(),
        Conv::DeviceAllow => each(text, device_permissions)?.into(),
        Conv::DirectoryQuota => directory_quota(text)?.into(),
        Conv::Errno => names::errno(text)?.into(),
        Conv::ExitStatus => names::exit_status(text)?.into(),
        Conv::ExtensionImages => extension_images(text)?.into(),
        Conv::Facility => names::number_or_name(text, names::FACILITIES, 127)?.into(),
        Conv::Filter => filter(name, text)?.into(),
        Conv::Ignorable => {
            let (text, ignore) = leniently(text);
            (ignore, text).into()
        }
        Conv::Integer => integer::<i32>(text)?.into(),
        Conv::IoClass => names::number_or_name(text, names::IO_CLASSES, 7)?.into(),
        Conv::IoLimit => device(text, |limit| match limit {
            "infinity" => Ok(u64::MAX),
            limit => grammar::size(limit, 1000),
        })?
        .into(),
        Conv::IoPriority => within(text, 0..=7)?.into(),
        Conv::IoWeight => device(text, integer)?.into(),
        Conv::IpFilter => addresses(text)?.into(),
        Conv::IpFilterPath => each(text, |text| Ok(text.to_owned()))?.into(),
        Conv::Level => names::number_or_name(text, names::LEVELS, 7)?.into(),
        Conv::LoadCredential => each(text, credential)?.into(),
        Conv::LogField => each(text, |text| Ok(text.as_bytes().to_vec()))?.into(),
        Conv::LogPattern => each(text, |text| Ok(unless_tilde(text)))?.into(),
        Conv::Memory(empty) => match text {
            "" => empty,
            "infinity" => u64::MAX,
            text => grammar::size(text, 1024)?,
        }
        .into(),
        Conv::Mode => grammar::mode(text)?.into(),
        Conv::MountFlag if text.is_empty() => 0_u64.into(),
        Conv::MountFlag => unsigned(names::number(text, names::PROPAGATIONS)?).into(),
        Conv::MountImages => mount_images(text)?.into(),
        Conv::Nanoseconds => grammar::nanoseconds(text)?.into(),
        Conv::NftSet => nft_sets(text)?.into(),
        Conv::Nice => within(text, -20..=19)?.into(),
        Conv::NumaPolicy => names::number(text, names::NUMA_POLICIES)?.into(),
        Conv::OpenFile => each(text, open_file)?.into(),
        Conv::Permyriad => share(text)?.into(),
        Conv::RestrictNamespaces => namespaces(text, true)?.into(),
        Conv::RootHash => match grammar::hexadecimal(text)? {
            hash if hash.len() < 16 => return Err("it is shorter than 16 bytes".to_owned()),
            hash => hash.into(),
        },
        Conv::RootHashSignature => {
            let wrong = || "it is neither an absolute path nor `base64:…`".to_owned();
            grammar::base64(text.strip_prefix("base64:").ok_or_else(wrong)?)?.into()
        }
        Conv::RootImageOptions => image_options(text)?.into(),
        Conv::Scheduler => names::number_or_name(text, names::SCHEDULERS, i32::MAX)?.into(),
        Conv::SecureBits => names::bits(text, names::SECURE_BITS, LIST)?.into(),
        Conv::Signal => names::signal(text)?.into(),
        Conv::SocketBind => each(text, socket)?.into(),
        Conv::Tasks => match text {
            "" | "infinity" => u64::MAX,
            text => integer(text)?,
        }
        .into(),
        Conv::TemporaryFileSystem => temporary_file_systems(text)?.into(),
        Conv::Text => text.to_owned().into(),
        Conv::Switch(words) => one_of(text, words, true)?.into(),
        Conv::Word(words) => one_of(text, words, false)?.into(),
        Conv::Unsigned => integer::<u32>(text)?.into(),
        Conv::Words if name == "SystemCallArchitectures" => architectures(text)?.into(),
        Conv::Words => words(text, LIST)?.into(),
        Conv::WordsOrColons => words(text, Split { separators: ": \t\n\r", ..LIST })?.into(),
        Conv::WordsUnescaped => words(text, Split { backslash: Backslash::Escapes, ..LIST })?.into(),
    };
    Ok(one(name, value))
}

fn one(name: impl Into<String>, value: impl Into<Variant<'static>>) -> Wire {
    vec![(name.into(), value.into())]
}

/// A list of the one element that `text` says, or of none.
fn each<T>(text: &str, read: impl FnOnce(&str) -> Parsed<T>) -> Parsed<Vec<T>> {
    if text.is_empty() { Ok(Vec::new()) } else { Ok(vec![read(text)?]) }
}

/// systemd says "not set" by the largest number.
fn or_unset(text: &str, read: impl FnOnce(&str) -> Parsed<u64>) -> Parsed<u64> {
    if text.is_empty() { Ok(u64::MAX) } else { read(text) }
}

fn owned((first, second): (&str, &str)) -> (String, String) {
    (first.to_owned(), second.to_owned())
}

fn unsigned(number: i32) -> u64 {
    u64::from(number.unsigned_abs())
}

/// `…Sec` in the manual is `…USec` on the bus.
fn in_usec(name: &str) -> String {
    name.strip_suffix("Sec").map_or_else(|| name.to_owned(), |stem| format!("{stem}USec"))
}

/// The text without its leading `-`, and whether there was one: then it may be missing.
fn leniently(text: &str) -> (String, bool) {
    match text.strip_prefix('-') {
        Some(text) => (text.to_owned(), true),
        None => (text.to_owned(), false),
    }
}

/// The text without its leading `~`, and whether there was none.
fn unless_tilde(text: &str) -> (bool, String) {
    match text.strip_prefix('~') {
        Some(text) => (false, text.to_owned()),
        None => (true, text.to_owned()),
    }
}

fn bool_or_ex(name: &str, text: &str, words: &[&str]) -> Parsed<Wire> {
    match boolean(text) {
        Some(on) => Ok(one(name, on)),
        None => Ok(one(format!("{name}Ex"), one_of(text, words, true)?)),
    }
}

/// The text, if it is one of `words`, or perhaps a yes or no. systemd passes over what it does not know.
fn one_of(text: &str, words: &[&str], or_switch: bool) -> Parsed<String> {
    if words.contains(&text) || or_switch && boolean(text).is_some() {
        return Ok(text.to_owned());
    }
    let switch = if or_switch { &["yes", "no"][..] } else { &[] };
    let words: Vec<String> = switch.iter().chain(words).map(|word| format!("`{word}`")).collect();
    Err(format!("it must be one of {}", words.join(", ")))
}

fn hostname(text: &str) -> Parsed<Wire> {
    if let Some(on) = boolean(text) {
        return Ok(one("ProtectHostname", on));
    }
    match text.split_once(':') {
        Some((_, "")) => Err("no name stands behind the colon".to_owned()),
        parts
            if parts.is_none_or(|(mode, _)| mode != "private" && boolean(mode) != Some(true))
                && text != "private" =>
        {
            Err("it must be one of `yes`, `no`, `private`, `private:NAME`".to_owned())
        }
        Some((_, name)) if !is_host_name(name) => {
            Err(format!("`{name}` is not a host name: letters, digits, `-` and `.`, at most 64"))
        }
        parts => Ok(one("ProtectHostnameEx", owned(parts.unwrap_or((text, ""))))),
    }
}

/// Is this what systemd takes as a host name (systemd, `hostname_is_valid`)?
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    name.len() <= 64 && name.split('.').all(is_label)
}

fn condition(name: &str, text: &str) -> Wire {
    let list = if name.starts_with("Condition") { "Conditions" } else { "Asserts" };
    let mut rest = text;
    let mut has = |mark| rest.strip_prefix(mark).map(|behind| rest = behind).is_some();
    let (trigger, negate) = (has('|'), has('!'));
    let conditions =
        if text.is_empty() { Vec::new() } else { vec![(name.to_owned(), trigger, negate, rest.to_owned())] };
    one(list, conditions)
}

fn cpu_quota(text: &str) -> Parsed<u64> {
    or_unset(text, |text| match permyriad(text)? {
        0 => Err("it is too little to run at all".to_owned()),
        // Microseconds of each second.
        share => Ok(u64::from(share) * 100),
    })
}

/// A share of all, as the bus counts it: 2^32-1 is all.
fn share(text: &str) -> Parsed<u32> {
    let share = Some(permyriad(text)?).filter(|&share| share <= 10000);
    let share = share.ok_or_else(|| format!("`{text}` is more than all"))?;
    u32::try_from((u64::from(share) * u64::from(u32::MAX) + 5000) / 10000).map_err(|error| error.to_string())
}

fn limit(name: &str, unit: Unit, text: &str) -> Parsed<Wire> {
    let read = |text: &str| -> Parsed<u64> {
        match unit {
            Unit::Nice => nice_limit(text),
            _ if text == "infinity" => Ok(u64::MAX),
            _ if ["-1", "unlimited"].contains(&text) => Err("write `infinity` for no limit".to_owned()),
            Unit::Count => within(text, 0..=u64::MAX - 1),
            Unit::Size => grammar::size(text, 1024).and_then(|size| match size {
                u64::MAX => Err("write `infinity` for no limit".to_owned()),
                size => Ok(size),
            }),
            Unit::Microseconds => grammar::microseconds(text),
            Unit::Seconds => grammar::seconds(text).map(|time| match time {
                u64::MAX => u64::MAX,
                time => time.div_ceil(1_000_000),
            }),
        }
    };
    let limits = fields(text, FIELDS, 2)?;
    let soft = read(limits.first().map_or("", String::as_str))?;
    let hard = limits.get(1).map_or(Ok(soft), |hard| read(hard))?;
    if soft > hard {
        return Err("the soft limit, the first one, is above the hard one".to_owned());
    }
    Ok(vec![(name.to_owned(), hard.into()), (format!("{name}Soft"), soft.into())])
}

/// With a sign the highest priority that may be asked for, without one the kernel's number for it.
fn nice_limit(text: &str) -> Parsed<u64> {
    if let Some(nice) = text.strip_prefix('+') {
        Ok(20 - within(nice, 0..=19)?)
    } else if let Some(nice) = text.strip_prefix('-') {
        Ok(20 + within(nice, 0..=20)?)
    } else {
        within(text, 0..=40)
    }
}

/// `PATH VALUE`.
/// A device, and what of reading, writing and making it is allowed; systemd looks at neither.
fn device_permissions(text: &str) -> Parsed<(String, String)> {
    // Spaces at the end of a line of a unit file do not count.
    if text.trim_end().ends_with('\\') {
        return Err("it ends in a backslash".to_owned());
    }
    let (path, permissions) = text.split_once(' ').unwrap_or((text, ""));
    Ok((path.to_owned(), permissions.to_owned()))
}

fn device(text: &str, read: impl FnOnce(&str) -> Parsed<u64>) -> Parsed<Vec<(String, u64)>> {
    each(text, |text| {
        let (path, value) = text.split_once(' ').ok_or("no value stands behind the path")?;
        Ok((path.to_owned(), read(value)?))
    })
}

fn filter(name: &str, text: &str) -> Parsed<(bool, Vec<String>)> {
    let (allow, text) = unless_tilde(text);
    let words = words(&text, LIST)?;
    if name == "RestrictAddressFamilies" && allow {
        match words.as_slice() {
            // Over the bus a list of none stands for this word, which is none of its families.
            [only] if only == names::NO_FAMILY => return Ok((true, Vec::new())),
            [] => return Ok((false, Vec::new())),
            _ => {}
        }
    }
    // A name that systemd does not know it drops from the list, with nothing but a line in the log. What system calls and
    // file systems there are the node is asked for (`super::super::vocabulary`).
    let unknown = words.iter().find(|word| match name {
        "RestrictAddressFamilies" => !names::is_address_family(word),
        // `mkdir:ENOSPC` is a system call and what it gives.
        "SystemCallFilter" if word.split_once(':').is_some_and(|(_, error)| names::errno(error).is_err()) => {
            true
        }
        _ => word.is_empty() || word.contains(is_space) || word.starts_with('~'),
    });
    match unknown {
        Some(word) if name == "RestrictAddressFamilies" => Err(format!(
            "`{word}` is not an address family such as `AF_INET`, nor is it `none` and nothing else"
        )),
        Some(word) => Err(format!("`{word}` is not one name; `~` stands once, before all names")),
        None => Ok((allow, words)),
    }
}

/// Architectures by systemd's names for them.
fn architectures(text: &str) -> Parsed<Vec<String>> {
    let words = words(text, LIST)?;
    match words.iter().find(|word| !names::ARCHITECTURES.contains(&word.as_str())) {
        Some(word) => Err(format!("`{word}` is not an architecture such as `native` or `x86-64`")),
        None => Ok(words),
    }
}

/// The namespaces that are named, or with `restrict` those that stay allowed.
fn namespaces(text: &str, restrict: bool) -> Parsed<u64> {
    let user = if restrict { 0 } else { names::find("user", names::NAMESPACES).unwrap_or_default() };
    let all = unsigned(names::NAMESPACES.iter().fold(0, |all, (_, bit)| all | bit) & !user);
    if let Some(on) = boolean(text) {
        return Ok(if on == restrict { 0 } else { all });
    }
    let (as_said, text) = unless_tilde(text);
    let named = unsigned(names::bits(&text, names::NAMESPACES, UNQUOTED_LIST)?);
    Ok(if as_said { named } else { all & !named })
}

fn binds(text: &str) -> Parsed<Vec<(String, String, bool, u64)>> {
    let part = Split { separators: ": \t\n\r", each: true, ..LIST };
    let mut binds = Vec::new();
    let mut rest = Words::of(text);
    loop {
        rest.skip_space();
        let Some(source) = rest.next(part)? else { return Ok(binds) };
        let (from, optional) = leniently(&source.text);
        let (mut to, mut flags) = (from.clone(), RECURSIVE);
        if source.ended_by == Some(':') {
            let target = rest.next(part)?.ok_or("nothing stands behind the colon")?;
            to = target.text;
            if target.ended_by == Some(':') {
                flags = match rest.next(LIST)?.map(|word| word.text).as_deref() {
                    None | Some("" | "rbind") => RECURSIVE,
                    Some("norbind") => 0,
                    Some(other) => {
                        return Err(format!(
                            "`{other}` is neither `rbind` nor `norbind` (for a read-only mount there is `BindReadOnlyPaths`, option \
                             `bind_read_only_paths`)"
                        ));
                    }
                };
            }
        }
        binds.push((from, to, optional, flags));
    }
}

fn temporary_file_systems(text: &str) -> Parsed<Vec<(String, String)>> {
    let split = |word: String| owned(word.split_once(':').unwrap_or((&word, "")));
    let mounts: Vec<(String, String)> = words(text, LIST)?.into_iter().map(split).collect();
    let sizes = mounts.iter().flat_map(|(_, options)| options.split(','));
    // systemd hands them to the kernel as they are, whose refusal names no option.
    let wrong = sizes.filter_map(|option| option.strip_prefix("size=")).find(|size| !is_size_of_tmpfs(size));
    match wrong {
        Some(size) => Err(format!("`{size}` is not a size of a tmpfs such as `64M` or `10%` (tmpfs(5))")),
        None => Ok(mounts),
    }
}

/// What the kernel reads as `size=` of a tmpfs: a number with a suffix of its `memparse`, or a share of the memory.
fn is_size_of_tmpfs(text: &str) -> bool {
    let digits = text.strip_suffix(|last: char| "kKmMgGtTpPeE%".contains(last)).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// `[PARTITION:]OPTIONS`.
fn image_options(text: &str) -> Parsed<Vec<(String, String)>> {
    let mut options = Vec::new();
    for word in words(text, RAW_LIST)? {
        options.extend(options_of(&fields(&word, ESCAPED_FIELDS, 2)?));
    }
    let is_name = |name: &str| name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
    match options.iter().find(|(partition, _)| !is_name(partition)) {
        Some((partition, _)) => {
            Err(format!("`{partition}` is not the name of a partition such as `root` or `usr`"))
        }
        None => Ok(options),
    }
}

/// Pairs of a partition and its options; options alone are for the root.
fn options_of(fields: &[String]) -> Vec<(String, String)> {
    let pairs = fields.chunks(2).map(|pair| match pair {
        [partition, options] => (partition.clone(), options.clone()),
        alone => ("root".to_owned(), alone.concat()),
    });
    pairs.collect()
}

/// From where, to where, whether it may be missing, and options by partition.
type Image = (String, String, bool, Vec<(String, String)>);
/// From where, whether it may be missing, and options by partition.
type Extension = (String, bool, Vec<(String, String)>);

fn mount_images(text: &str) -> Parsed<Vec<Image>> {
    let mut images = Vec::new();
    for word in words(text, RAW_LIST)? {
        let fields = words(&word, ESCAPED_FIELDS)?;
        let [source, target, options @ ..] = fields.as_slice() else {
            return Err(format!("`{word}` does not say where to mount: `IMAGE:PATH`"));
        };
        let (source, optional) = leniently(source);
        images.push((source, target.clone(), optional, options_of(options)));
    }
    Ok(images)
}

fn extension_images(text: &str) -> Parsed<Vec<Extension>> {
    let mut images = Vec::new();
    for word in words(text, RAW_LIST)? {
        let fields = words(&word, ESCAPED_FIELDS)?;
        if let [source, options @ ..] = fields.as_slice() {
            let (source, optional) = leniently(source);
            images.push((source, optional, options_of(options)));
        }
    }
    Ok(images)
}

/// `NAME[:LINK[:ro]]`.
fn directories(name: &str, text: &str) -> Parsed<Wire> {
    const READ_ONLY: u64 = 1;
    let (mut plain, mut linked) = (Vec::new(), Vec::new());
    for word in words(text, LIST)? {
        let parts = fields(&word, Split { quotes: true, ..FIELDS }, 3)?;
        let part = |at: usize| parts.get(at).map_or("", String::as_str);
        // systemd writes it to the unit's file as it is, and would read a link there after a reload.
        if [part(0), part(1)].iter().any(|name| name.contains(':')) {
            return Err(format!("`{word}` has a `:` in a name"));
        }
        match (part(1), part(2)) {
            ("", "") => plain.push(simple(part(0))),
            (link, "") => linked.push((simple(part(0)), simple(link), 0)),
            (link, "ro") => linked.push((simple(part(0)), simple(link), READ_ONLY)),
            (_, other) => return Err(format!("`{other}` is not `ro`")),
        }
    }
    // systemd-run puts what may be written before what may not.
    linked.sort_by_key(|(_, link, flags)| (*flags, link.is_empty()));
    let mut wire = Vec::new();
    if !plain.is_empty() || linked.is_empty() {
        wire.extend(one(name, plain));
    }
    if !linked.is_empty() {
        wire.extend(one(format!("{name}Symlink"), linked));
    }
    Ok(wire)
}

/// A path without doubled and trailing slashes, and without `.`.
fn simple(path: &str) -> String {
    let root = if path.starts_with('/') { "/" } else { "" };
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    format!("{root}{}", parts.join("/"))
}

fn directory_quota(text: &str) -> Parsed<(u64, u32, String)> {
    let enforced = || "yes".to_owned();
    match text {
        "" | "off" => Ok((u64::MAX, u32::MAX, "no".to_owned())),
        text if text.ends_with('%') => Ok((u64::MAX, share(text)?, enforced())),
        text => Ok((grammar::size(text, 1024)?, u32::MAX, enforced())),
    }
}

fn credential(text: &str) -> Parsed<(String, String)> {
    let (name, path) = first_field(text)?;
    // Alone it is the name of a credential of the manager.
    Ok((name, path.filter(|path| !path.is_empty()).unwrap_or(text).to_owned()))
}

fn import_credential(text: &str) -> Parsed<Wire> {
    if text.is_empty() {
        return Ok(one("ImportCredential", Vec::<String>::new()));
    }
    Ok(match first_field(text)? {
        (glob, Some(name)) => one("ImportCredentialEx", vec![(glob, name.to_owned())]),
        (_, None) => one("ImportCredential", vec![text.to_owned()]),
    })
}

/// What stands before the first colon, and what stands behind it.
fn first_field(text: &str) -> Parsed<(String, Option<&str>)> {
    let mut rest = Words::of(text);
    let first = rest.next(FIELDS)?.map(|word| word.text).unwrap_or_default();
    Ok((first, rest.rest()))
}

/// `PATH[:NAME[:OPTIONS]]`.
fn open_file(text: &str) -> Parsed<(String, String, u64)> {
    const OPTIONS: &Names = &[("read-only", 1), ("append", 2), ("truncate", 4), ("graceful", 8)];
    let parts = fields(text, Split { backslash: Backslash::Escapes, ..FIELDS }, 3)?;
    let part = |at: usize| parts.get(at).map_or("", String::as_str);
    if !part(0).starts_with('/') {
        return Err(format!("`{}` is not an absolute path", part(0)));
    }
    let options = unsigned(names::bits(part(2), OPTIONS, Split { separators: ",", ..UNQUOTED_LIST })?);
    let exclusive = options & 0b111;
    if exclusive.count_ones() > 1 {
        return Err("only one of `read-only`, `append` and `truncate` can hold".to_owned());
    }
    let name = match part(1) {
        "" => part(0).rsplit('/').next().unwrap_or_default(),
        name => name,
    };
    Ok((part(0).to_owned(), name.to_owned(), options))
}

/// `SOURCE:FAMILY:TABLE:SET`.
fn nft_sets(text: &str) -> Parsed<Vec<(i32, i32, String, String)>> {
    const SOURCES: &Names = &[("cgroup", 3), ("user", 4), ("group", 5)];
    const FAMILIES: &Names = &[("arp", 3), ("bridge", 7), ("inet", 1), ("ip", 2), ("ip6", 10), ("netdev", 5)];
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
            return Err(format!("`{wrong}` is no name of nftables"));
        }
        let (source, family) = (names::number(source, SOURCES)?, names::number(family, FAMILIES)?);
        sets.push((source, family, table.clone(), set.clone()));
    }
    Ok(sets)
}

const INET: i32 = libc::AF_INET;
const INET6: i32 = libc::AF_INET6;

/// `any`, `localhost`, `link-local`, `multicast`, or addresses, each perhaps with the length of its prefix.
fn addresses(text: &str) -> Parsed<Vec<(i32, Vec<u8>, u32)>> {
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

/// `[ipv4:|ipv6:][tcp:|udp:]PORTS`: family, protocol, number of ports, first port; nothing is 0.
fn socket(text: &str) -> Parsed<(i32, i32, u16, u16)> {
    const FAMILIES: &Names = &[("ipv4", INET), ("ipv6", INET6)];
    const PROTOCOLS: &Names = &[("tcp", libc::IPPROTO_TCP), ("udp", libc::IPPROTO_UDP)];
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
            let (first, last): (u16, u16) = (integer(first)?, integer(last)?);
            match last.checked_sub(first) {
                // All of them are one more than the number can say, and 0 stands for all.
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

/// Is there nothing but spaces?
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(is_space)
}
