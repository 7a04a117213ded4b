//! The engine's configuration, in one function for compiler and runtime.
//!
//! An artifact loads only into an engine that was configured like the one that made it; whatever changes generated code
//! therefore belongs here and nowhere else.

use shim_interface::Proposal;
use std::collections::BTreeMap;
use wasmtime::{Config, ModuleVersionStrategy, WasmBacktraceDetails};

/// [`VERSION`] as a literal, for [`concat!`].
macro_rules! version {
    () => {
        "48.0.8+shim3"
    };
}

/// What an artifact must have been made by: the full version of wasmtime and the version of [`config`].
///
/// wasmtime itself compares only its major version, and would load code from before the fix of a compiler bug. Raise
/// the number after `shim` with every change to [`config`].
pub const VERSION: &str = version!();

/// What `--version` says, example `0.1.0 (wasmtime 48.0.8+shim3)`.
pub const RELEASE: &str = concat!(env!("CARGO_PKG_VERSION"), " (wasmtime ", version!(), ")");

/// What a user can say that changes generated code. The default is what most guests run with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Instructions are counted; costs 10 to 18 % of a guest's speed.
    pub fuel: bool,
    /// Loops look whether they should let others run; costs 6 to 10 %.
    pub epochs: bool,
    /// What was built for debugging is named in backtraces by file and line.
    pub details: bool,
    /// Proposals that are switched on or off, by their names in the wasmtime CLI.
    proposals: BTreeMap<Proposal, bool>,
}

/// What wasmtime calls the switch of a proposal.
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
    /// Takes the setting `name` if it is one that changes code; false if it is not. Values are those of the wasmtime
    /// CLI: `y` or `n`, nothing for `y`; for `fuel` a number, of which only matters that there is one.
    ///
    /// # Errors
    /// When `value` is neither.
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

    /// The same in the words of the command line, one setting each, example `["epoch-interruption=y", "simd=n"]`.
    pub fn settings(&self) -> Vec<String> {
        let mut said = Vec::new();
        said.extend(self.fuel.then(|| "fuel=1".to_owned()));
        said.extend(self.epochs.then(|| "epoch-interruption=y".to_owned()));
        said.extend(self.details.then(|| "backtrace-details=y".to_owned()));
        let word = |on: &bool| if *on { "y" } else { "n" };
        said.extend(self.proposals.iter().map(|(proposal, on)| format!("{}={}", proposal.name(), word(on))));
        said
    }
}

/// Reads a switch as the wasmtime CLI does: `y`, `yes`, `true` and nothing at all are yes.
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

/// The configuration of every engine, example: `Engine::new(&config(&Tuning::default())?)`.
///
/// Memory reservation and guards stay at wasmtime's defaults, which let generated code leave bounds checks to the
/// hardware.
///
/// # Errors
/// When wasmtime refuses [`VERSION`], which is then too long.
pub fn config(tuning: &Tuning) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config
        .module_version(ModuleVersionStrategy::Custom(VERSION.to_owned()))?
        .consume_fuel(tuning.fuel)
        .epoch_interruption(tuning.epochs)
        // Said here because the default reads an environment variable. Functions have names in backtraces all the same;
        // files and lines bring twice as many lines, most of them from inside of standard libraries.
        .wasm_backtrace_details(if tuning.details {
            WasmBacktraceDetails::Enable
        } else {
            WasmBacktraceDetails::Disable
        });
    for proposal in Proposal::ALL {
        // One is nothing without the other.
        let is_part = proposal == Proposal::RelaxedSimd;
        let implied = tuning.proposals.get(&Proposal::Simd).filter(|on| is_part && !**on);
        if let Some(on) = tuning.proposals.get(&proposal).or(implied) {
            switch(proposal)(&mut config, *on);
        }
    }
    Ok(config)
}

/// Names everything that generated code depends on, as 16 hexadecimal digits, example `9f2c41d05b7e6a38`.
///
/// Covers [`VERSION`], the target, this machine's CPU features, and every setting and wasm feature. Artifacts of another
/// key do not load here; a cache keeps them apart by it.
///
/// # Errors
/// When the engine does not support this machine, or not this tuning.
#[cfg(feature = "compile")]
pub fn key(tuning: &Tuning) -> wasmtime::Result<String> {
    use sha2::{Digest, Sha256};
    use std::hash::{Hash, Hasher};

    /// The standard library's own hasher may change with the toolchain; a key must not.
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
    // What is kept beside the code.
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
