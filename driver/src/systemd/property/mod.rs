//! Assignments of unit properties, in the syntax of systemd's manual: `MemoryHigh` and `1G`.
//!
//! ```text
//! name, text ──► table: which property ──► parse, by its kind ──► (name, value)… for the bus
//!                                                    print: the reverse, a line of a unit file
//! ```
//!
//! The grammar is that of `systemd-run -p NAME=TEXT`; tests/driver/properties compares the two.

mod definition;
mod grammar;
mod host_paths;
mod kind;
mod kinds;
mod lines;
mod names;
mod parse;
mod print;
mod reading;
mod table;

use zbus::Variant;

pub use definition::{Group, Paths, PropertyDef, Reach, Role};
pub use grammar::quote;
pub(crate) use names::{SIGNALS, step};
pub use names::{capability_mask, capability_names};
pub use print::{escaped, lines_of, text_of};
pub use reading::Meaning;

use super::unit_text::{self, check_text};
use super::wire::Wire;
use diagnostics::nearest;
use kind::{Kind, Unit};
use table::{GONE, TABLE};

/// systemd's limit of processes for a unit that sets none (`DefaultTasksMax=15%`), as a share.
const TASKS_MAX_SHARE: u32 = u32::MAX / 20 * 3 + 20;
/// The same limit of processes as a number, with the kernel's smallest `pid_max`, 32768.
const TASKS_MAX: u64 = 32_768 / 100 * 15;
/// journald's default limit of messages in an interval (journald.conf(5)).
const LOG_BURST: u32 = 10_000;
/// The length of journald's default interval, in microseconds (journald.conf(5)).
const LOG_INTERVAL: u64 = 30_000_000;

/// A unit property in the syntax of its manual: `MemoryHigh` and `1G`.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    property: &'static PropertyDef,
    text: String,
    wire: Wire,
}

/// Why an assignment is invalid. The message names the property and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// systemd has no such property.
    #[error(
        "set property `{name}`: no such systemd property; {}",
        nearest.map_or_else(
            || "systemd.exec(5), systemd.resource-control(5) and systemd.service(5) name those there are".to_owned(),
            |nearest| format!("did you mean `{nearest}`?")
        )
    )]
    Unknown {
        /// The given name.
        name: String,
        /// The most similar name, such as `MemoryMax`.
        nearest: Option<&'static str>,
    },
    /// systemd has removed the property.
    #[error("`{name}` is a name of older systemd; use {instead}")]
    Gone {
        /// The given name.
        name: String,
        /// The replacement.
        instead: &'static str,
    },
    /// The property is reserved for the driver.
    #[error("`{name}` is not for jobs to set: {reason}")]
    Ours {
        /// The name in the manual.
        name: &'static str,
        /// The reason, a whole clause.
        reason: &'static str,
    },
    /// The text does not match the property's grammar.
    #[error("set property `{name}` to `{text}`: {why}")]
    Value {
        /// The name in the manual.
        name: &'static str,
        /// The given text.
        text: String,
        /// The reason, a whole clause.
        why: String,
    },
}

/// The property with this name in the manual.
pub fn known(name: &str) -> Option<&'static PropertyDef> {
    TABLE.iter().find(|known| known.name == name)
}

/// All properties, grouped by the parts of the manual.
pub fn all() -> impl Iterator<Item = &'static PropertyDef> {
    TABLE.iter()
}

/// Splits a text into words as in a list of a unit file; each word may be quoted.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    grammar::words(text, grammar::LIST)
}

/// Parses a number of bytes in the syntax of the manual, such as `512M`.
pub fn bytes(text: &str) -> Result<u64, String> {
    grammar::size(text, 1024)
}

impl Assignment {
    /// Parses `text` in the grammar of the property `name`.
    pub fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let property = known(name).ok_or_else(|| unknown(name))?;
        if let Reach::Reserved(reason) = property.reach {
            return Err(Error::Ours { name: property.name, reason });
        }
        // Checks the text, which may be shown as a unit file, and the parsed value, since an escape can hide a line
        // break.
        let wire = check_text(text).map_err(|unfit| unfit.to_string());
        let wire = wire.and_then(|()| parse::parse(property, text)).and_then(|wire| {
            let unfit = wire.iter().find_map(|(name, value)| unit_text::check(name, value).err());
            unfit.map_or(Ok(wire), |unfit| Err(unfit.to_string()))
        });
        match wire {
            Ok(wire) => Ok(Self { property, text: text.to_owned(), wire }),
            Err(why) => Err(Error::Value { name: property.name, text: text.to_owned(), why }),
        }
    }

    /// The property's name in the manual.
    pub fn name(&self) -> &'static str {
        self.property.name
    }

    /// The capabilities of `set` as a value of a property that takes capabilities.
    pub fn of_capabilities(name: &'static str, set: u64) -> Option<Self> {
        Self::parse(name, &capability_names(set)).ok()
    }

    /// The given value.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The definition of the property.
    pub fn property(&self) -> &'static PropertyDef {
        self.property
    }

    /// The names and values that are sent over the bus, in order.
    pub fn wire(&self) -> Wire {
        self.wire.clone()
    }

    /// Whether later assignments of the property add to earlier ones.
    pub fn is_list(&self) -> bool {
        self.property.kind.is_list()
    }

    /// Whether the value is an empty list, which resets all earlier assignments of the property.
    pub fn resets(&self) -> bool {
        self.is_list() && (parse::is_blank(&self.text) || self.is_empty_filter())
    }

    /// The first version of systemd that accepts this value; 247 stands for 247 and all earlier versions.
    pub fn needs(&self) -> u32 {
        let later = self.wire.iter().map(|(name, value)| needs(name, value));
        later.fold(self.property.since, u32::max)
    }

    /// How far this value reaches.
    pub fn reach(&self) -> Reach {
        match self.property.reach {
            Reach::Confining(_) => {
                let beyond = self.wire.iter().find_map(|(name, value)| self.value_reaches(name, value));
                beyond.map_or(self.property.reach, Reach::BeyondTask)
            }
            other => other,
        }
    }

    /// Why the value reaches beyond the task although the property only confines. `None` if it does not.
    fn value_reaches(&self, name: &str, value: &Variant<'_>) -> Option<&'static str> {
        const REAL_TIME: i32 = 1;
        const PRIORITY: &str = "this value puts the task before others";
        const MORE: &str = "this value is more than every task has by default";
        const FLOOD: &str = "this value lets the task crowd other log lines out of the journal";
        let (beyond, why) = match (self.property.kind, value) {
            (Kind::Nice | Kind::OomScore, Variant::I32(number)) => (*number < 0, PRIORITY),
            // Batch and idle yield to all other policies.
            (Kind::Scheduler, Variant::I32(policy)) => (!matches!(policy, 0 | 3 | 5), PRIORITY),
            (Kind::IoClass, Variant::I32(class)) => (*class == REAL_TIME, PRIORITY),
            // 20 stands for the default priority.
            (Kind::Limit(Unit::Nice), Variant::U64(limit)) => (*limit > 20, PRIORITY),
            (Kind::Limit(_), Variant::U64(limit)) => (self.name() == "LimitRTPRIO" && *limit > 0, PRIORITY),
            // The default of all; an empty text is "not set".
            (Kind::Weight, Variant::U64(weight)) => (*weight > 100 && *weight != u64::MAX, PRIORITY),
            // Swap is not part of what Nomad has allocated, so the default is none.
            (Kind::Memory(_), Variant::U64(bytes)) => (self.name() == "MemorySwapMax" && *bytes > 0, MORE),
            (Kind::Memory(_), Variant::U32(share)) => (self.name() == "MemorySwapMax" && *share > 0, MORE),
            (Kind::Tasks, Variant::U64(count)) => (*count > TASKS_MAX, MORE),
            (Kind::Tasks, Variant::U32(share)) => (*share > TASKS_MAX_SHARE, MORE),
            (Kind::Unsigned, Variant::U32(burst)) => {
                (name == "LogRateLimitBurst" && *burst > LOG_BURST, FLOOD)
            }
            (Kind::Seconds, Variant::U64(time)) => {
                // Before 257 journald takes "infinity" for none.
                let is_none = *time < LOG_INTERVAL || *time == u64::MAX;
                (name == "LogRateLimitIntervalUSec" && is_none, FLOOD)
            }
            (Kind::Bool, Variant::Bool(false)) => match self.name() {
                "PrivateIPC" => (true, "this value shares System V objects and queues with all of the host"),
                "RestrictSUIDSGID" => {
                    (true, "with this value whoever reaches a file that the task makes can become its user")
                }
                _ => (false, ""),
            },
            (Kind::Word(_), Variant::Str(word)) => {
                const OPENS: &str = "this value opens every device of the host that the task can reach";
                const SHOWS: &str = "this value shows the processes of others, with their command lines";
                match (self.name(), word.as_str()) {
                    ("DevicePolicy", "auto") => (true, OPENS),
                    ("ProtectProc", "default") => (true, SHOWS),
                    _ => (false, ""),
                }
            }
            _ => return None,
        };
        beyond.then_some(why)
    }
}

/// The first version of systemd that accepts `value` under `name`, if it is later than that of the property.
fn needs(name: &str, value: &Variant<'_>) -> u32 {
    let is = |word: &str| matches!(value, Variant::Str(text) if text.as_str() == word);
    match name {
        // 0 stands for `idle`.
        "CPUWeight" | "StartupCPUWeight" if *value == Variant::U64(0) => 252,
        "PrivateUsersEx" if is("managed") => 260,
        "PrivateUsersEx" if is("full") => 258,
        "ProtectHostnameEx" => 258,
        // The empty allow list stands for `none`.
        "RestrictAddressFamilies" if is_empty_allow_list(value) => 249,
        "PrivateTmpEx" | "PrivateUsersEx" | "ProtectControlGroupsEx" | "ImportCredentialEx" => 257,
        _ if name.ends_with("DirectorySymlink") => match value {
            Variant::Array(links) if links.inner().iter().any(is_read_only) => 257,
            _ => 250,
        },
        _ => 0,
    }
}

/// Is the value a list (allowed or not, names) that allows nothing?
fn is_empty_allow_list(value: &Variant<'_>) -> bool {
    let Variant::Structure(list) = value else { return false };
    matches!(list.fields(), [Variant::Bool(true), Variant::Array(names)] if names.inner().is_empty())
}

/// Is the value a directory (name, link, flags) that the task may only read?
fn is_read_only(directory: &Variant<'_>) -> bool {
    matches!(directory, Variant::Structure(link) if link.fields().last() == Some(&Variant::U64(1)))
}

/// The error for a `name` that is not in the manual, or no longer.
fn unknown(name: &str) -> Error {
    if let Some((_, instead)) = GONE.iter().find(|(gone, _)| *gone == name) {
        return Error::Gone { name: name.to_owned(), instead };
    }
    let plain = name.replace('_', "");
    let reserved = TABLE.iter().find_map(|known| match known.reach {
        Reach::Reserved(reason) if known.name.eq_ignore_ascii_case(&plain) => {
            Some(Error::Ours { name: known.name, reason })
        }
        _ => None,
    });
    // Names that would be refused next are not suggested.
    let free = TABLE.iter().filter(|known| !matches!(known.reach, Reach::Reserved(_)));
    let nearest = nearest(&plain, free.map(|known| known.name));
    reserved.unwrap_or(Error::Unknown { name: name.to_owned(), nearest })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    fn parse(name: &str, text: &str) -> Assignment {
        Assignment::parse(name, text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The only value that is sent over the bus, under the name of the property.
    fn value(name: &str, text: &str) -> Variant<'static> {
        let wire = parse(name, text).wire();
        assert_eq!(wire[0].0, name, "{text}");
        wire[0].1.clone()
    }

    fn refused(name: &str, text: &str) -> String {
        Assignment::parse(name, text).unwrap_err().to_string()
    }

    #[test]
    fn a_size_may_have_a_suffix_a_fraction_and_further_parts() {
        for (text, bytes) in
            [("5", 5), ("1K", 1024), ("1.5G", 3 << 29), ("1G 512M", 3 << 29), ("infinity", u64::MAX)]
        {
            assert_eq!(value("MemoryHigh", text), Variant::U64(bytes), "{text}");
        }
        for text in ["x", "-1", "512M 1G", "17E", "1KB", "1 k"] {
            assert!(refused("MemoryHigh", text).contains("size") || text == "17E", "{text}");
        }
    }

    #[test]
    fn a_share_of_memory_goes_to_another_property() {
        let wire = parse("MemoryHigh", "50%").wire();
        assert_eq!(wire, [("MemoryHighScale".to_owned(), Variant::U32(1 << 31))]);
    }

    #[test]
    fn a_time_is_a_sum_and_counts_seconds() {
        for (text, microseconds) in [
            ("90", 90_000_000),
            ("1min 30s", 90_000_000),
            ("5ms", 5000),
            ("infinity", u64::MAX),
            ("1.5", 1_500_000),
        ] {
            let wire = parse("RuntimeMaxSec", text).wire();
            assert_eq!(wire, [("RuntimeMaxUSec".to_owned(), Variant::U64(microseconds))], "{text}");
        }
    }

    #[test]
    fn a_limit_says_the_hard_one_first_and_the_soft_one_after_it() {
        let wire = parse("LimitNOFILE", "10:20").wire();
        let expected =
            [("LimitNOFILE".to_owned(), Variant::U64(20)), ("LimitNOFILESoft".to_owned(), Variant::U64(10))];
        assert_eq!(wire, expected);
    }

    #[test]
    fn words_may_be_quoted() {
        let words =
            |words: &[&str]| Variant::from(words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        assert_eq!(value("ReadOnlyPaths", "/a '/b c' /d\\ e"), words(&["/a", "/b c", "/d e"]));
        assert_eq!(
            refused("ReadOnlyPaths", "'/a"),
            "set property `ReadOnlyPaths` to `'/a`: a quote is not closed"
        );
        for word in ["", "a b", "a\"b", "a\\b", "a:b", "'", "é\t", "/plain"] {
            assert_eq!(value("ReadOnlyPaths", &quote(word)), words(&[word]), "{word}");
            assert_eq!(value("ExecSearchPath", &quote(word)), words(&[word]), "{word}");
        }
    }

    #[test]
    fn a_list_without_words_takes_back_all_that_were_given() {
        for name in
            ["BindPaths", "StateDirectory", "LogExtraFields", "OpenFile", "SystemCallFilter", "AllowedCPUs"]
        {
            let empty = parse(name, "");
            assert!(empty.is_list() && empty.resets(), "{name}");
        }
        assert_eq!(value("BindPaths", "").value_signature().to_string(), "a(ssbt)");
        assert!(!parse("MemoryHigh", "").resets(), "one number");
    }

    #[test]
    fn spaces_around_binds_are_no_binds() {
        assert_eq!(value("BindPaths", "  /a  /b "), value("BindPaths", "/a /b"));
    }

    #[test]
    fn a_value_may_need_a_later_systemd_than_its_property() {
        for (name, text, needs) in [
            ("CPUWeight", "50", 247),
            ("CPUWeight", "idle", 252),
            ("PrivateUsers", "yes", 247),
            ("PrivateUsers", "identity", 257),
            ("PrivateUsers", "full", 258),
            ("PrivateUsers", "managed", 260),
            ("PrivateTmp", "disconnected", 257),
            ("ManagedOOMMemoryPressureLimit", "50%", 248),
            ("StateDirectory", "a", 247),
            ("StateDirectory", "a:b", 250),
            ("StateDirectory", "a:b:ro", 257),
        ] {
            assert_eq!(parse(name, text).needs(), needs, "{name}={text}");
        }
    }

    #[test]
    fn some_values_reach_where_others_confine() {
        for (name, confines, reaches) in [
            ("Nice", "5", "-5"),
            ("OOMScoreAdjust", "100", "-100"),
            ("CPUSchedulingPolicy", "batch", "fifo"),
            ("IOSchedulingClass", "idle", "realtime"),
            ("LimitNICE", "+5", "-5"),
            ("LimitRTPRIO", "0", "5"),
            ("IOWeight", "100", "101"),
            ("MemorySwapMax", "0", "1"),
            ("MemorySwapMax", "0", "1%"),
            ("MemorySwapMax", "0", "infinity"),
            ("TasksMax", "64", "infinity"),
            ("TasksMax", "15%", "16%"),
            ("TasksMax", "4096", "5000"),
            ("LogRateLimitBurst", "100", "10001"),
            ("LogRateLimitIntervalSec", "30s", "0"),
            ("LogRateLimitIntervalSec", "1y", "infinity"),
            ("DevicePolicy", "closed", "auto"),
            ("ProtectProc", "invisible", "default"),
            ("PrivateIPC", "yes", "no"),
        ] {
            assert!(matches!(parse(name, confines).reach(), Reach::Confining(_)), "{name}={confines}");
            assert!(matches!(parse(name, reaches).reach(), Reach::BeyondTask(_)), "{name}={reaches}");
        }
        assert!(matches!(parse("BindPaths", "/a").reach(), Reach::BeyondTask(_)));
    }

    #[test]
    fn a_wrong_name_is_answered_with_a_right_one() {
        assert_eq!(
            refused("MemoryMaximum", "1G"),
            "set property `MemoryMaximum`: no such systemd property; did you mean `MemoryMax`?"
        );
        assert!(refused("memorymax", "1G").ends_with("did you mean `MemoryMax`?"));
        assert!(refused("memory_max", "1G").ends_with("did you mean `MemoryMax`?"));
        assert_eq!(refused("restart_sec", "1"), refused("RestartSec", "1"));
        assert_eq!(
            refused("MemoryLimit", "1G"),
            "`MemoryLimit` is a name of older systemd; use `memory` in the task's `resources`"
        );
        assert!(refused("ExecStart", "/bin/true").contains("the driver runs the task's `command`"));
    }

    #[test]
    fn capabilities_are_known_by_both_their_names() {
        assert_eq!(
            capability_mask(["CAP_CHOWN", "net_admin", "Cap_Checkpoint_Restore"]),
            Ok(1 | 1 << 12 | 1 << 40)
        );
        assert!(capability_mask(["CAP_FLY"]).is_err_and(|error| error.contains("`CAP_FLY`")));
        assert_eq!(capability_names(1 | 1 << 12), "CAP_CHOWN CAP_NET_ADMIN");
    }

    #[test]
    fn every_name_is_there_once_and_every_replacement_exists() {
        let mut names: Vec<_> = all().map(|known| known.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(GONE.iter().all(|(gone, instead)| known(gone).is_none()
            && (known(instead.trim_matches('`')).is_some() || *gone == "MemoryLimit")));
        for property in all() {
            assert_eq!(
                property.kind == Kind::None,
                matches!(property.reach, Reach::Reserved(_)),
                "{}",
                property.name
            );
        }
    }

    #[allow(clippy::too_many_lines, reason = "a table of texts")]
    #[test]
    fn no_text_makes_it_panic_and_each_is_read_alike_twice() {
        const PIECES: [&str; 48] = [
            "1",
            "0",
            "9",
            "-",
            "+",
            ".",
            "%",
            "‰",
            "‱",
            "K",
            "G",
            "E",
            "s",
            "min",
            "µs",
            " ",
            "\t",
            "\n",
            ":",
            ",",
            "/",
            "~",
            "!",
            "|",
            "'",
            "\"",
            "\\",
            "x",
            "0x",
            "\\x4",
            "\\u00e9",
            "\\777",
            "é",
            "infinity",
            "any",
            "ipv4",
            "tcp",
            "SIG",
            "RTMIN",
            "RTMAX",
            "base64:",
            "=",
            "AA",
            "18446744073709551615",
            "65535",
            "CAP_CHOWN",
            "yes",
            "\0",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        let properties: Vec<_> = all().collect();
        let mut taken = 0;
        for _ in 0..100_000 {
            let name = properties[random(properties.len())].name;
            let text: String = (0..random(7)).map(|_| PIECES[random(PIECES.len())]).collect();
            let once = Assignment::parse(name, &text);
            assert_eq!(once, Assignment::parse(name, &text), "{name}={text}");
            if let Ok(assignment) = once {
                taken += 1;
                assignment.reach();
                assignment.needs();
                for (name, value) in assignment.wire() {
                    lines_of(&name, &value);
                }
            }
        }
        assert!(taken > 1000, "{taken}");
    }
}
