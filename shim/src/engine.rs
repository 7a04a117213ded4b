//! The engine's configuration, in one function for both compiler and runtime.
//!
//! An artifact loads only into an engine with the configuration of the engine that compiled it. Every setting that
//! changes generated code therefore belongs in this module only.

use shim_interface::Proposal;
use std::collections::BTreeMap;
use wasmtime::{Config, ModuleVersionStrategy, WasmBacktraceDetails};

/// [`VERSION`] as a literal, for [`concat!`].
macro_rules! version {
    () => {
        "48.0.8+shim3"
    };
}

/// The producer that an artifact must have: the full version of wasmtime and the version of [`config`].
///
/// wasmtime itself compares only its major version, and would load code from before the fix of a compiler bug. Raise
/// the number after `shim` with every change to [`config`].
pub const VERSION: &str = version!();

/// The text of `--version`, for example `0.1.0 (wasmtime 48.0.8+shim3)`.
pub const RELEASE: &str = concat!(env!("CARGO_PKG_VERSION"), " (wasmtime ", version!(), ")");

/// The user's settings that change generated code. The default is the one that most guests run with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Instructions are counted; costs 10 to 18 % of a guest's speed.
    pub fuel: bool,
    /// Loops check whether they should yield; costs 6 to 10 %.
    pub epochs: bool,
    /// Backtraces name the file and line of code with debug information.
    pub details: bool,
    /// Proposals that are switched on or off.
    proposals: BTreeMap<Proposal, bool>,
}

/// The wasmtime function that switches a proposal.
fn switch(proposal: Proposal) -> fn(&mut Config, bool) -> &mut Config {
    match proposal {
        Proposal::BulkMemory => Config::wasm_bulk_memory,
        Proposal::ComponentModelAsync => Config::wasm_component_model_async,
        Proposal::ComponentModelErrorContext => Config::wasm_component_model_error_context,
        Proposal::ComponentModelFixedLengthLists => Config::wasm_component_model_fixed_length_lists,
        Proposal::ComponentModelMap => Config::wasm_component_model_map,
        Proposal::CustomPageSizes => Config::wasm_custom_page_sizes,
        Proposal::Exceptions => Config::wasm_exceptions,
        Proposal::ExtendedConst => Config::wasm_extended_const,
        Proposal::FunctionReferences => Config::wasm_function_references,
        Proposal::Gc => Config::wasm_gc,
        Proposal::Memory64 => Config::wasm_memory64,
        Proposal::MultiMemory => Config::wasm_multi_memory,
        Proposal::MultiValue => Config::wasm_multi_value,
        Proposal::ReferenceTypes => Config::wasm_reference_types,
        Proposal::RelaxedSimd => Config::wasm_relaxed_simd,
        Proposal::RelaxedSimdDeterministic => Config::relaxed_simd_deterministic,
        Proposal::Simd => Config::wasm_simd,
        Proposal::TailCall => Config::wasm_tail_call,
        Proposal::Threads => Config::wasm_threads,
        Proposal::WideArithmetic => Config::wasm_wide_arithmetic,
    }
}

impl Tuning {
    /// Applies the setting `name` if it changes code; returns false if it does not. Values are those of the wasmtime
    /// CLI: `y` or `n`, where no value means `y`; for `fuel` a number, whose value does not matter.
    ///
    /// # Errors
    /// When `value` is invalid.
    pub fn take(&mut self, name: &str, value: Option<&str>) -> Result<bool, String> {
        match name {
            "fuel" => self.fuel = true,
            "epoch-interruption" => self.epochs = is_yes(name, value)?,
            "backtrace-details" => self.details = is_yes(name, value)?,
            _ => {
                let Some(proposal) = Proposal::named(name) else { return Ok(false) };
                self.proposals.insert(proposal, is_yes(name, value)?);
            }
        }
        Ok(true)
    }

    /// The proposals that are switched off, for example [`Proposal::Simd`].
    pub fn switched_off(&self) -> impl Iterator<Item = Proposal> {
        self.proposals.iter().filter(|(_, on)| !**on).map(|(proposal, _)| *proposal)
    }

    /// The tuning as settings of the command line, one setting each, for example `["epoch-interruption=y", "simd=n"]`.
    pub fn settings(&self) -> Vec<String> {
        let mut list = Vec::new();
        list.extend(self.fuel.then(|| "fuel=1".to_owned()));
        list.extend(self.epochs.then(|| "epoch-interruption=y".to_owned()));
        list.extend(self.details.then(|| "backtrace-details=y".to_owned()));
        let word = |on: &bool| if *on { "y" } else { "n" };
        list.extend(self.proposals.iter().map(|(proposal, on)| format!("{}={}", proposal.name(), word(on))));
        list
    }
}

/// Reads a switch as the wasmtime CLI does: `y`, `yes`, `true` and no value mean yes.
///
/// # Errors
/// When it is neither yes nor no.
pub fn is_yes(name: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("y" | "yes" | "true") => Ok(true),
        Some("n" | "no" | "false") => Ok(false),
        Some(other) => Err(format!("`{name}={other}`: write {name}=y or {name}=n")),
    }
}

/// The configuration of every engine, for example `Engine::new(&config(&Tuning::default())?)`.
///
/// Memory reservation and guards stay at wasmtime's defaults, with which generated code leaves bounds checks to the
/// hardware.
///
/// # Errors
/// When wasmtime rejects [`VERSION`], because it is too long.
pub fn config(tuning: &Tuning) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config
        .module_version(ModuleVersionStrategy::Custom(VERSION.to_owned()))?
        .consume_fuel(tuning.fuel)
        .epoch_interruption(tuning.epochs)
        // Set explicitly because the default reads an environment variable. Backtraces contain function names in any
        // case. Files and lines double the number of lines, most of them inside standard libraries.
        .wasm_backtrace_details(if tuning.details {
            WasmBacktraceDetails::Enable
        } else {
            WasmBacktraceDetails::Disable
        });
    for proposal in Proposal::ALL {
        // Each of the two requires the other.
        let is_part = proposal == Proposal::RelaxedSimd;
        let implied = tuning.proposals.get(&Proposal::Simd).filter(|on| is_part && !**on);
        if let Some(on) = tuning.proposals.get(&proposal).or(implied) {
            switch(proposal)(&mut config, *on);
        }
    }
    Ok(config)
}

/// Names everything that generated code depends on, as 16 hexadecimal digits, for example `9f2c41d05b7e6a38`.
///
/// Covers [`VERSION`], the target, this machine's CPU features, and every setting and wasm feature. Artifacts with
/// another key do not load here; a cache uses the key to keep them apart.
///
/// # Errors
/// When the engine does not support this machine, or not this tuning.
#[cfg(feature = "compile")]
pub fn key(tuning: &Tuning) -> wasmtime::Result<String> {
    use sha2::{Digest, Sha256};
    use std::hash::{Hash, Hasher};

    /// The hash function of the standard library may change with the toolchain; a key must not.
    struct Fixed(Sha256);
    impl Hasher for Fixed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let digest = self.0.clone().finalize();
            digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
        }
    }

    let engine = wasmtime::Engine::new(&config(tuning)?)?;
    let mut hasher = Fixed(Sha256::new());
    VERSION.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    // Debug data that is stored next to the code.
    tuning.details.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_pinned_wasmtime() {
        let workspace =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")).unwrap();
        let (wasmtime, _) = VERSION.split_once('+').unwrap();
        assert!(
            workspace.contains(&format!("wasmtime = {{ version = \"={wasmtime}\"")),
            "engine::VERSION says {wasmtime}"
        );
    }

    #[test]
    fn what_changes_code_is_taken_and_said_again() {
        let mut tuning = Tuning::default();
        for (name, value) in
            [("fuel", Some("99")), ("simd", Some("n")), ("gc", None), ("epoch-interruption", Some("yes"))]
        {
            assert!(tuning.take(name, value).unwrap(), "{name}");
        }
        assert!(!tuning.take("max-memory-size", Some("1")).unwrap());
        assert!(tuning.take("simd", Some("perhaps")).unwrap_err().contains("simd=y or simd=n"));
        assert_eq!(tuning.settings(), ["fuel=1", "epoch-interruption=y", "gc=y", "simd=n"]);

        let mut again = Tuning::default();
        for setting in tuning.settings() {
            let (name, value) = setting.split_once('=').unwrap();
            assert!(again.take(name, Some(value)).unwrap());
        }
        assert_eq!(again, tuning);
    }

    #[cfg(feature = "compile")]
    #[test]
    fn the_key_is_the_same_each_time_and_another_for_other_code() {
        let plain = key(&Tuning::default()).unwrap();
        assert_eq!(plain, key(&Tuning::default()).unwrap());
        assert_eq!(plain.len(), 16);
        for (name, value) in [("fuel", "1"), ("epoch-interruption", "y"), ("simd", "n"), ("tail-call", "n")] {
            let mut tuning = Tuning::default();
            tuning.take(name, Some(value)).unwrap();
            assert_ne!(key(&tuning).unwrap(), plain, "{name}");
        }
    }
}
