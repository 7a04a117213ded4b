//! What is said with `-W` and `-S`, under the names of the wasmtime CLI.

use crate::engine::{Tuning, is_yes};
use shim_interface::{STACK_MAX, digits};
use std::path::PathBuf;
use std::time::Duration;

/// What one `-W` or `-S` says: names, each with the value behind its `=` if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said(Vec<(String, Option<String>)>);

/// Reads `KEY[=VALUE][,KEY[=VALUE]..]`. Behind `config-var=` nothing is split: a value may contain commas.
///
/// # Errors
/// When a name is empty.
pub fn parse(said: &str) -> Result<Said, String> {
    let one = |part: &str| match part.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (part.to_owned(), None),
    };
    let parts: Vec<_> =
        if said.starts_with("config-var=") { vec![one(said)] } else { said.split(',').map(one).collect() };
    if parts.iter().any(|(name, _)| name.is_empty()) {
        return Err("write KEY or KEY=VALUE, several with commas between them".to_owned());
    }
    Ok(Said(parts))
}

fn each(said: &[Said]) -> impl Iterator<Item = (&str, Option<&str>)> {
    said.iter().flat_map(|one| &one.0).map(|(name, value)| (name.as_str(), value.as_deref()))
}

/// What `-D` says: the file for the memory of a guest that traps.
///
/// # Errors
/// When a name is unknown, or no file is named.
pub fn coredump(said: &[Said]) -> Result<Option<PathBuf>, String> {
    let mut file = None;
    for (name, value) in each(said) {
        match (name, value) {
            ("coredump", Some(path)) if !path.is_empty() => file = Some(PathBuf::from(path)),
            ("coredump", _) => {
                return Err("`-D coredump`: name a file, as in coredump=guest.coredump".to_owned());
            }
            // Debuggers of native code have nothing to attach to here; backtraces have addresses in any case.
            ("debug-info" | "address-map", _) => {}
            _ => return Err(format!("`-D {name}` is not a known setting; see `wasm-shim run --help`")),
        }
    }
    Ok(file)
}

/// Limits of the guest below those of its cgroup, and features of the language: what `-W` says.
#[derive(Clone, Debug, Default)]
pub struct Wasm {
    /// What changes generated code.
    pub tuning: Tuning,
    /// How many instructions it may execute, example 1000000.
    pub fuel: Option<u64>,
    /// How long it may run, or answer one request.
    pub timeout: Option<Duration>,
    /// How large each of its memories may become, in bytes.
    pub max_memory_size: Option<usize>,
    /// How many elements each of its tables may have. Default: as many as the size of a memory has room for, but for a
    /// server; see [`crate::serve`].
    pub max_table_elements: Option<usize>,
    /// How deep its calls may be nested, in bytes of stack. Default: 512 KiB.
    pub max_wasm_stack: Option<usize>,
    /// How many core instances it may consist of.
    pub max_instances: Option<usize>,
    /// How many tables.
    pub max_tables: Option<usize>,
    /// How many memories.
    pub max_memories: Option<usize>,
    /// Does it end when it is refused memory, instead of being told?
    pub trap_on_grow_failure: bool,
}

impl Wasm {
    /// What all of `said` says together; of two values for one name the last one.
    ///
    /// # Errors
    /// When a name is unknown or a value no good.
    pub fn resolve(said: &[Said]) -> Result<Self, String> {
        let mut wasm = Self::default();
        for (name, value) in each(said) {
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
                // On in any case.
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

/// What of WASI the guest has beside its arguments, variables and directories: what `-S` says.
#[derive(Clone, Debug, Default)]
pub struct WasiGrants {
    /// Every address is granted.
    pub inherit_network: bool,
    /// Names may be looked up.
    pub allow_ip_name_lookup: bool,
    /// The values behind `wasi:config`.
    pub config: Vec<(String, String)>,
}

impl WasiGrants {
    /// What all of `said` says together, and the JSON in the variable `config_env` before it.
    ///
    /// # Errors
    /// When a name is unknown or a value no good.
    pub fn resolve(said: &[Said], config_env: Option<&str>) -> Result<Self, String> {
        let mut wasi =
            Self { config: config_env.map(from_env).transpose()?.unwrap_or_default(), ..Self::default() };
        for (name, value) in each(said) {
            match name {
                "inherit-network" => wasi.inherit_network = is_yes(name, value)?,
                "allow-ip-name-lookup" => wasi.allow_ip_name_lookup = is_yes(name, value)?,
                "config-var" => {
                    let var = value.and_then(|var| var.split_once('='));
                    let (name, value) = var.ok_or("`-S config-var`: write config-var=NAME=VALUE")?;
                    wasi.config.push((name.to_owned(), value.to_owned()));
                }
                // What the wasmtime CLI switches on with them is there in any case, within the grants.
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
    let said = std::env::var(variable).map_err(|_| {
        format!("`--config-env {variable}`: wasm-shim has no such variable in its environment")
    })?;
    let read: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&said).map_err(|error| {
        format!("`--config-env {variable}`: it is not a JSON object whose values are strings: {error}")
    })?;
    let text = |(name, value): (String, serde_json::Value)| match value {
        serde_json::Value::String(text) => Ok((name, text)),
        _ => Err(format!("`--config-env {variable}`: the value of `{name}` is not a text")),
    };
    read.into_iter().map(text).collect()
}

fn number<N: std::str::FromStr>(name: &str, value: Option<&str>, option: &str) -> Result<N, String> {
    let said = value.unwrap_or_default();
    digits(said)
        .ok_or_else(|| format!("`{option} {name}={said}`: a whole number is wanted, such as {name}=1000000"))
}

/// Reads a number of bytes, example `64M`: K, M and G are powers of 1024, as in systemd; `MiB` and the like are the same.
fn size(name: &str, value: Option<&str>) -> Result<usize, String> {
    let said = value.unwrap_or_default();
    let bare = said.strip_suffix("iB").unwrap_or(said);
    let units = [("K", 1_usize << 10), ("M", 1 << 20), ("G", 1 << 30)];
    let known = units.iter().find_map(|(unit, bytes)| Some((bare.strip_suffix(unit)?, *bytes)));
    let (count, unit) = known.unwrap_or((said, 1));
    let bytes = digits::<usize>(count).and_then(|count| count.checked_mul(unit));
    bytes.ok_or_else(|| {
        format!("`-W {name}={said}`: a number of bytes is wanted, such as {name}=1048576 or {name}=64M")
    })
}

/// Reads a length of time as the wasmtime CLI does: `2` and `2s` are two seconds; `ms`, `us` and `ns` are known too.
///
/// # Errors
/// When it is anything else.
pub fn duration(said: &str) -> Result<Duration, String> {
    let units = [("ms", 1_000_000), ("us", 1_000), ("ns", 1), ("s", 1_000_000_000)];
    let known = units.iter().find_map(|(unit, nanos)| Some((said.strip_suffix(unit)?, *nanos)));
    let (count, nanos) = known.unwrap_or((said, 1_000_000_000));
    match digits::<u64>(count).and_then(|count| count.checked_mul(nanos)) {
        Some(0) | None => Err(format!("`{said}` is not a length of time, such as `2s` or `100ms`")),
        Some(nanos) => Ok(Duration::from_nanos(nanos)),
    }
}

/// As [`duration`], or `0`, which is no limit.
///
/// # Errors
/// As [`duration`].
pub fn duration_or_0(said: &str) -> Result<Duration, String> {
    if said == "0" { Ok(Duration::ZERO) } else { duration(said) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::holds_for;
    use proptest::prelude::*;

    fn wasm(said: &[&str]) -> Result<Wasm, String> {
        Wasm::resolve(&said.iter().map(|one| parse(one).unwrap()).collect::<Vec<_>>())
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
        for (said, part) in [
            ("fule=5", "`-W fule`"),
            ("fuel", "fuel="),
            ("fuel=-1", "`-W fuel=-1`"),
            ("timeout=soon", "`-W timeout`"),
            ("timeout=0", "`-W timeout`"),
            ("max-wasm-stack=0", "max-wasm-stack=0"),
            ("simd=maybe", "simd=y"),
        ] {
            assert!(wasm(&[said]).unwrap_err().contains(part), "{said}: {}", wasm(&[said]).unwrap_err());
        }
        assert!(parse("fuel=1,,x").is_err() && parse("").is_err() && parse("=3").is_err());
    }

    #[test]
    fn sizes_have_units() {
        for (said, bytes) in
            [("65536", 65536), ("64K", 1 << 16), ("3M", 3 << 20), ("2GiB", 2 << 30), ("1MiB", 1 << 20)]
        {
            assert_eq!(wasm(&[&format!("max-memory-size={said}")]).unwrap().max_memory_size, Some(bytes));
        }
        for said in ["", "M", "iB", "1 M", "1m", "1MB", "-1K", "99999999999G", "1TiB"] {
            let wrong = wasm(&[&format!("max-memory-size={said}")]).unwrap_err();
            assert!(wrong.contains(&format!("max-memory-size={said}`: a number of bytes")), "{wrong}");
        }
    }

    #[test]
    fn what_the_wasmtime_cli_switches_on_and_is_there_anyway_is_taken() {
        let said = ["cli,http,tcp=y,udp,config", "common=yes"].map(|one| parse(one).unwrap());
        let wasi = WasiGrants::resolve(&said, None).unwrap();
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
        let said = prop_oneof!["[+-]?[0-9]{0,21}(s|ms|us|ns|m|h|S| s|)?", any::<String>()];
        holds_for(&said, |said| {
            let Ok(read) = duration(&said) else { return Ok(()) };
            let digits: String = said.chars().take_while(char::is_ascii_digit).collect();
            let unit = match &said[digits.len()..] {
                "" | "s" => 1_000_000_000,
                "ms" => 1_000_000,
                "us" => 1_000,
                "ns" => 1,
                other => return Err(TestCaseError::fail(format!("{said:?} has the unit {other:?}"))),
            };
            let count: u128 =
                digits.parse().map_err(|_| TestCaseError::fail(format!("{said:?} has no digits")))?;
            prop_assert_eq!(read.as_nanos(), count * unit);
            prop_assert!(!read.is_zero());
            prop_assert_eq!(duration(&format!("{}ns", read.as_nanos())), Ok(read));
            prop_assert_eq!(duration_or_0(&said), Ok(read));
            Ok(())
        });
    }

    #[test]
    fn fuzz_settings_are_what_is_written_and_none_is_lost() {
        let name =
            "fuel|timeout|simd|max-memory-size|max-wasm-stack|max-tables|trap-on-grow-failure|threads|gc|x|";
        let value = "=(y|n|yes|[0-9]{1,20}|[+-]?[0-9]{1,3}|[0-9]{1,3}(s|K|MiB)|=|a=b)?|";
        let pattern = format!("({name})({value})(,({name})({value})){{0,3}}");
        let said = prop_oneof![proptest::string::string_regex(&pattern).unwrap(), any::<String>()];
        holds_for(&said, |said| {
            let Ok(read) = parse(&said) else { return Ok(()) };
            let print = |(name, value): (&str, Option<&str>)| {
                value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}"))
            };
            let printed: Vec<_> = each(std::slice::from_ref(&read)).map(print).collect();
            prop_assert_eq!(&printed.join(","), &said);
            let has = |option: &str| said.split(',').any(|one| one.split('=').next() == Some(option));
            if let Ok(wasm) = Wasm::resolve(std::slice::from_ref(&read)) {
                prop_assert_eq!(wasm.fuel.is_some(), has("fuel"));
                prop_assert_eq!(wasm.timeout.is_some(), has("timeout"));
                prop_assert_eq!(wasm.max_memory_size.is_some(), has("max-memory-size"));
                prop_assert_eq!(wasm.max_wasm_stack.is_some(), has("max-wasm-stack"));
                prop_assert!(
                    wasm.max_wasm_stack.is_none_or(|bytes| (1..=STACK_MAX).contains(&(bytes as u64)))
                );
                prop_assert!(!said.contains('+'), "numbers are digits alone");
                // What the compiler is told makes the same code.
                let told: Vec<_> = wasm
                    .tuning
                    .settings()
                    .iter()
                    .map(|one| parse(one))
                    .collect::<Result<_, _>>()
                    .map_err(TestCaseError::fail)?;
                prop_assert_eq!(Wasm::resolve(&told).map(|again| again.tuning), Ok(wasm.tuning));
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
        let said =
            "(inherit-network|allow-ip-name-lookup|config-var)(=(y|n|no|yes|true|false|a=b|a,b=c|=|))?";
        holds_for(&proptest::collection::vec(said, 0..4), |said| {
            let read: Vec<_> =
                said.iter().map(|one| parse(one)).collect::<Result<_, _>>().map_err(TestCaseError::fail)?;
            let Ok(wasi) = WasiGrants::resolve(&read, None) else { return Ok(()) };
            // The last one counts.
            let last = |option: &str| {
                let is_yes =
                    |one: &String| !one.ends_with("=n") && !one.ends_with("=no") && !one.ends_with("=false");
                said.iter().rfind(|one| one.split('=').next() == Some(option)).is_some_and(is_yes)
            };
            prop_assert_eq!(wasi.inherit_network, last("inherit-network"));
            prop_assert_eq!(wasi.allow_ip_name_lookup, last("allow-ip-name-lookup"));
            let vars: Vec<_> = said.iter().filter_map(|one| one.strip_prefix("config-var=")).collect();
            let read: Vec<_> = wasi.config.iter().map(|(name, value)| format!("{name}={value}")).collect();
            prop_assert_eq!(vars, read);
            Ok(())
        });
    }
}
