//! The settings of `-W` and `-S`, under the names of the wasmtime CLI.

use crate::engine::{Tuning, is_yes};
use shim_interface::{STACK_MAX, digits};
use std::path::PathBuf;
use std::time::Duration;

/// The settings of one `-W` or `-S`: names, each with the value after its `=` if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said(Vec<(String, Option<String>)>);

/// Reads `KEY[=VALUE][,KEY[=VALUE]..]`. Nothing is split after `config-var=`: a value may contain commas.
///
/// # Errors
/// When a name is empty.
pub fn parse(text: &str) -> Result<Said, String> {
    let one = |part: &str| match part.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (part.to_owned(), None),
    };
    let parts: Vec<_> =
        if text.starts_with("config-var=") { vec![one(text)] } else { text.split(',').map(one).collect() };
    if parts.iter().any(|(name, _)| name.is_empty()) {
        return Err("write KEY or KEY=VALUE, several with commas between them".to_owned());
    }
    Ok(Said(parts))
}

fn each(given: &[Said]) -> impl Iterator<Item = (&str, Option<&str>)> {
    given.iter().flat_map(|one| &one.0).map(|(name, value)| (name.as_str(), value.as_deref()))
}

/// The setting of `-D`: the file for the memory of a guest that traps.
///
/// # Errors
/// When a name is unknown, or no file is named.
pub fn coredump(given: &[Said]) -> Result<Option<PathBuf>, String> {
    let mut file = None;
    for (name, value) in each(given) {
        match (name, value) {
            ("coredump", Some(path)) if !path.is_empty() => file = Some(PathBuf::from(path)),
            ("coredump", _) => {
                return Err("`-D coredump`: name a file, as in coredump=guest.coredump".to_owned());
            }
            // Debuggers of native code cannot attach here; backtraces have addresses in any case.
            ("debug-info" | "address-map", _) => {}
            _ => return Err(format!("`-D {name}` is not a known setting; see `wasm-shim run --help`")),
        }
    }
    Ok(file)
}

/// The settings of `-W`: limits of the guest below the limits of its cgroup, and features of the language.
#[derive(Clone, Debug, Default)]
pub struct Wasm {
    /// The settings that change generated code.
    pub tuning: Tuning,
    /// The number of instructions that the guest may execute, for example 1000000.
    pub fuel: Option<u64>,
    /// How long the guest may run, or answer one request.
    pub timeout: Option<Duration>,
    /// The maximum size of each memory, in bytes.
    pub max_memory_size: Option<usize>,
    /// The maximum number of elements of each table. Default: the number that fits into the maximum size of a memory,
    /// except for a server; see [`crate::serve`].
    pub max_table_elements: Option<usize>,
    /// The maximum size of the stack, in bytes. Default: 512 KiB.
    pub max_wasm_stack: Option<usize>,
    /// The maximum number of core instances.
    pub max_instances: Option<usize>,
    /// The maximum number of tables.
    pub max_tables: Option<usize>,
    /// The maximum number of memories.
    pub max_memories: Option<usize>,
    /// Whether the guest traps when it is denied memory, instead of getting an error.
    pub trap_on_grow_failure: bool,
}

impl Wasm {
    /// Combines all settings; of two values for one name, the last one wins.
    ///
    /// # Errors
    /// When a name is unknown or a value is invalid.
    pub fn resolve(given: &[Said]) -> Result<Self, String> {
        let mut wasm = Self::default();
        for (name, value) in each(given) {
            let count = || number(name, value, "-W").map(Some);
            let bytes = || size(name, value);
            let tuned = wasm.tuning.take(name, value)?;
            match name {
                "fuel" => wasm.fuel = Some(number(name, value, "-W")?),
                "timeout" => {
                    let read = duration(value.unwrap_or_default());
                    wasm.timeout = Some(read.map_err(|wrong| format!("`-W timeout`: {wrong}"))?);
                }
                "max-memory-size" => wasm.max_memory_size = Some(bytes()?),
                "max-table-elements" => wasm.max_table_elements = count()?,
                "max-wasm-stack" => wasm.max_wasm_stack = Some(stack(bytes()?)?),
                "max-instances" => wasm.max_instances = count()?,
                "max-tables" => wasm.max_tables = count()?,
                "max-memories" => wasm.max_memories = count()?,
                "trap-on-grow-failure" => wasm.trap_on_grow_failure = is_yes(name, value)?,
                _ if tuned => {}
                // Always on.
                "component-model" if is_yes(name, value)? => {}
                _ => {
                    return Err(format!("`-W {name}` is not a known setting; see `wasm-shim run --help`"));
                }
            }
        }
        Ok(wasm)
    }
}

fn stack(bytes: usize) -> Result<usize, String> {
    if bytes == 0 || bytes as u64 > STACK_MAX {
        return Err(format!("`-W max-wasm-stack={bytes}`: 1 to {STACK_MAX} bytes are possible"));
    }
    Ok(bytes)
}

/// The settings of `-S`: WASI grants in addition to arguments, variables and directories.
#[derive(Clone, Debug, Default)]
pub struct WasiGrants {
    /// Every address is allowed.
    pub inherit_network: bool,
    /// Name lookups are allowed.
    pub allow_ip_name_lookup: bool,
    /// The values of `wasi:config`.
    pub config: Vec<(String, String)>,
}

impl WasiGrants {
    /// Combines all settings, after the JSON in the variable `config_env`.
    ///
    /// # Errors
    /// When a name is unknown or a value is invalid.
    pub fn resolve(given: &[Said], config_env: Option<&str>) -> Result<Self, String> {
        let mut wasi =
            Self { config: config_env.map(from_env).transpose()?.unwrap_or_default(), ..Self::default() };
        for (name, value) in each(given) {
            match name {
                "inherit-network" => wasi.inherit_network = is_yes(name, value)?,
                "allow-ip-name-lookup" => wasi.allow_ip_name_lookup = is_yes(name, value)?,
                "config-var" => {
                    let var = value.and_then(|var| var.split_once('='));
                    let (name, value) = var.ok_or("`-S config-var`: write config-var=NAME=VALUE")?;
                    wasi.config.push((name.to_owned(), value.to_owned()));
                }
                // These features of the wasmtime CLI are always on here, within the grants.
                "cli" | "common" | "config" | "http" | "p3" | "tcp" | "udp" | "cli-exit-with-code"
                    if is_yes(name, value)? => {}
                "inherit-env" => {
                    return Err(
                        "`-S inherit-env`: name each variable that the guest gets, with `--env NAME`"
                            .to_owned(),
                    );
                }
                _ => {
                    return Err(format!("`-S {name}` is not a known setting; see `wasm-shim run --help`"));
                }
            }
        }
        Ok(wasi)
    }
}

fn from_env(variable: &str) -> Result<Vec<(String, String)>, String> {
    let json = std::env::var(variable).map_err(|_| {
        format!("`--config-env {variable}`: wasm-shim has no such variable in its environment")
    })?;
    let read: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).map_err(|error| {
        format!("`--config-env {variable}`: it is not a JSON object whose values are strings: {error}")
    })?;
    let text = |(name, value): (String, serde_json::Value)| match value {
        serde_json::Value::String(text) => Ok((name, text)),
        _ => Err(format!("`--config-env {variable}`: the value of `{name}` is not a text")),
    };
    read.into_iter().map(text).collect()
}

fn number<N: std::str::FromStr>(name: &str, value: Option<&str>, option: &str) -> Result<N, String> {
    let text = value.unwrap_or_default();
    digits(text)
        .ok_or_else(|| format!("`{option} {name}={text}`: a whole number is wanted, such as {name}=1000000"))
}

/// Reads a number of bytes, for example `64M`: K, M and G are powers of 1024, as in systemd; `MiB` and the like are the
/// same.
fn size(name: &str, value: Option<&str>) -> Result<usize, String> {
    let text = value.unwrap_or_default();
    let bare = text.strip_suffix("iB").unwrap_or(text);
    let units = [("K", 1_usize << 10), ("M", 1 << 20), ("G", 1 << 30)];
    let known = units.iter().find_map(|(unit, bytes)| Some((bare.strip_suffix(unit)?, *bytes)));
    let (count, unit) = known.unwrap_or((text, 1));
    let bytes = digits::<usize>(count).and_then(|count| count.checked_mul(unit));
    bytes.ok_or_else(|| {
        format!("`-W {name}={text}`: a number of bytes is wanted, such as {name}=1048576 or {name}=64M")
    })
}

/// Reads a length of time as the wasmtime CLI does: `2` and `2s` are two seconds; `ms`, `us` and `ns` are known too.
///
/// # Errors
/// When it is anything else.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1_000_000), ("us", 1_000), ("ns", 1), ("s", 1_000_000_000)];
    let known = units.iter().find_map(|(unit, nanos)| Some((text.strip_suffix(unit)?, *nanos)));
    let (count, nanos) = known.unwrap_or((text, 1_000_000_000));
    match digits::<u64>(count).and_then(|count| count.checked_mul(nanos)) {
        Some(0) | None => Err(format!("`{text}` is not a length of time, such as `2s` or `100ms`")),
        Some(nanos) => Ok(Duration::from_nanos(nanos)),
    }
}

/// As [`duration`], or `0` for no limit.
///
/// # Errors
/// The errors of [`duration`].
pub fn duration_or_0(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::holds_for;
    use proptest::prelude::*;

    fn wasm(given: &[&str]) -> Result<Wasm, String> {
        Wasm::resolve(&given.iter().map(|one| parse(one).unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn settings_are_separated_by_commas_or_said_one_by_one() {
        let wasm = wasm(&["fuel=5,timeout=100ms,simd=n", "max-memory-size=65536", "fuel=7"]).unwrap();
        assert_eq!((wasm.fuel, wasm.timeout), (Some(7), Some(Duration::from_millis(100))));
        assert_eq!(wasm.max_memory_size, Some(65536));
        assert_eq!(wasm.tuning.settings(), ["fuel=1", "simd=n"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (given, part) in [
            ("fule=5", "`-W fule`"),
            ("fuel", "fuel="),
            ("fuel=-1", "`-W fuel=-1`"),
            ("timeout=soon", "`-W timeout`"),
            ("timeout=0", "`-W timeout`"),
            ("max-wasm-stack=0", "max-wasm-stack=0"),
            ("simd=maybe", "simd=y"),
        ] {
            assert!(wasm(&[given]).unwrap_err().contains(part), "{given}: {}", wasm(&[given]).unwrap_err());
        }
        assert!(parse("fuel=1,,x").is_err() && parse("").is_err() && parse("=3").is_err());
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("65536", 65536), ("64K", 1 << 16), ("3M", 3 << 20), ("2GiB", 2 << 30), ("1MiB", 1 << 20)]
        {
            assert_eq!(wasm(&[&format!("max-memory-size={text}")]).unwrap().max_memory_size, Some(bytes));
        }
        for text in ["", "M", "iB", "1 M", "1m", "1MB", "-1K", "99999999999G", "1TiB"] {
            let wrong = wasm(&[&format!("max-memory-size={text}")]).unwrap_err();
            assert!(wrong.contains(&format!("max-memory-size={text}`: a number of bytes")), "{wrong}");
        }
    }

    #[test]
    fn what_the_wasmtime_cli_switches_on_and_is_there_anyway_is_taken() {
        let given = ["cli,http,tcp=y,udp,config", "common=yes"].map(|one| parse(one).unwrap());
        let wasi = WasiGrants::resolve(&given, None).unwrap();
        assert!(!wasi.inherit_network && !wasi.allow_ip_name_lookup);
        assert!(wasm(&["component-model"]).is_ok());
        for wrong in ["tcp=n", "inherit-env", "nn"] {
            assert!(
                WasiGrants::resolve(&[parse(wrong).unwrap()], None)
                    .unwrap_err()
                    .contains(wrong.split('=').next().unwrap())
            );
        }
    }

    #[test]
    fn configuration_keeps_its_commas_and_equal_signs() {
        let wasi = WasiGrants::resolve(&[parse("config-var=list=a,b=c").unwrap()], None).unwrap();
        assert_eq!(wasi.config, [("list".to_owned(), "a,b=c".to_owned())]);
        assert!(WasiGrants::resolve(&[parse("config-var=x").unwrap()], None).is_err());
        assert!(WasiGrants::resolve(&[parse("inherit-netwrok").unwrap()], None).is_err());
    }

    #[test]
    fn fuzz_a_length_of_time_is_what_its_digits_and_its_unit_say() {
        let text = prop_oneof!["[+-]?[0-9]{0,21}(s|ms|us|ns|m|h|S| s|)?", any::<String>()];
        holds_for(&text, |text| {
            let Ok(read) = duration(&text) else { return Ok(()) };
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            let unit = match &text[digits.len()..] {
                "" | "s" => 1_000_000_000,
                "ms" => 1_000_000,
                "us" => 1_000,
                "ns" => 1,
                other => return Err(TestCaseError::fail(format!("{text:?} has the unit {other:?}"))),
            };
            let count: u128 =
                digits.parse().map_err(|_| TestCaseError::fail(format!("{text:?} has no digits")))?;
            prop_assert_eq!(read.as_nanos(), count * unit);
            prop_assert!(!read.is_zero());
            prop_assert_eq!(duration(&format!("{}ns", read.as_nanos())), Ok(read));
            prop_assert_eq!(duration_or_0(&text), Ok(read));
            Ok(())
        });
    }

    #[test]
    fn fuzz_settings_are_what_is_written_and_none_is_lost() {
        let name =
            "fuel|timeout|simd|max-memory-size|max-wasm-stack|max-tables|trap-on-grow-failure|threads|gc|x|";
        let value = "=(y|n|yes|[0-9]{1,20}|[+-]?[0-9]{1,3}|[0-9]{1,3}(s|K|MiB)|=|a=b)?|";
        let pattern = format!("({name})({value})(,({name})({value})){{0,3}}");
        let text = prop_oneof![proptest::string::string_regex(&pattern).unwrap(), any::<String>()];
        holds_for(&text, |text| {
            let Ok(read) = parse(&text) else { return Ok(()) };
            let print = |(name, value): (&str, Option<&str>)| {
                value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}"))
            };
            let printed: Vec<_> = each(std::slice::from_ref(&read)).map(print).collect();
            prop_assert_eq!(&printed.join(","), &text);
            let has = |option: &str| text.split(',').any(|one| one.split('=').next() == Some(option));
            if let Ok(wasm) = Wasm::resolve(std::slice::from_ref(&read)) {
                prop_assert_eq!(wasm.fuel.is_some(), has("fuel"));
                prop_assert_eq!(wasm.timeout.is_some(), has("timeout"));
                prop_assert_eq!(wasm.max_memory_size.is_some(), has("max-memory-size"));
                prop_assert_eq!(wasm.max_wasm_stack.is_some(), has("max-wasm-stack"));
                prop_assert!(
                    wasm.max_wasm_stack.is_none_or(|bytes| (1..=STACK_MAX).contains(&(bytes as u64)))
                );
                prop_assert!(!text.contains('+'), "numbers are digits alone");
                // The settings for the compiler have the same tuning.
                let compiled: Vec<_> = wasm
                    .tuning
                    .settings()
                    .iter()
                    .map(|one| parse(one))
                    .collect::<Result<_, _>>()
                    .map_err(TestCaseError::fail)?;
                prop_assert_eq!(Wasm::resolve(&compiled).map(|again| again.tuning), Ok(wasm.tuning));
            }
            if let Ok(wasi) = WasiGrants::resolve(std::slice::from_ref(&read), None) {
                prop_assert!(!wasi.inherit_network || has("inherit-network"));
                prop_assert!(!wasi.allow_ip_name_lookup || has("allow-ip-name-lookup"));
            }
            Ok(())
        });
    }

    #[test]
    fn fuzz_what_a_guest_may_of_wasi_is_what_is_written() {
        let given =
            "(inherit-network|allow-ip-name-lookup|config-var)(=(y|n|no|yes|true|false|a=b|a,b=c|=|))?";
        holds_for(&proptest::collection::vec(given, 0..4), |given| {
            let read: Vec<_> =
                given.iter().map(|one| parse(one)).collect::<Result<_, _>>().map_err(TestCaseError::fail)?;
            let Ok(wasi) = WasiGrants::resolve(&read, None) else { return Ok(()) };
            // The last value wins.
            let last = |option: &str| {
                let is_yes =
                    |one: &String| !one.ends_with("=n") && !one.ends_with("=no") && !one.ends_with("=false");
                given.iter().rfind(|one| one.split('=').next() == Some(option)).is_some_and(is_yes)
            };
            prop_assert_eq!(wasi.inherit_network, last("inherit-network"));
            prop_assert_eq!(wasi.allow_ip_name_lookup, last("allow-ip-name-lookup"));
            let vars: Vec<_> = given.iter().filter_map(|one| one.strip_prefix("config-var=")).collect();
            let read: Vec<_> = wasi.config.iter().map(|(name, value)| format!("{name}={value}")).collect();
            prop_assert_eq!(vars, read);
            Ok(())
        });
    }
}
