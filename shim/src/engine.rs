//! The engine's configuration, in one function for compiler and runtime.
//!
//! An artifact loads only into an engine that was configured like the one that made it; whatever changes generated code
//! therefore belongs here and nowhere else.

use wasmtime::{Config, ModuleVersionStrategy, WasmBacktraceDetails};

/// [`VERSION`] as a literal, for [`concat!`].
macro_rules! version {
    () => {
        "48.0.8+shim1"
    };
}

/// What an artifact must have been made by: the full version of wasmtime and the version of [`config`].
///
/// wasmtime itself compares only its major version, and would load code from before the fix of a compiler bug. Raise
/// the number after `shim` with every change to [`config`].
pub const VERSION: &str = version!();

/// What `--version` says, example `0.1.0 (wasmtime 48.0.8+shim1)`.
pub const RELEASE: &str = concat!(env!("CARGO_PKG_VERSION"), " (wasmtime ", version!(), ")");

/// The configuration of every engine, example: `Engine::new(&config()?)`.
///
/// No epochs and no fuel: one guest is one process, and the kernel bounds its time. Memory reservation and guards stay
/// at wasmtime's defaults, which let generated code leave bounds checks to the hardware.
///
/// # Errors
/// When wasmtime refuses [`VERSION`], which is then too long.
pub fn config() -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config
        .module_version(ModuleVersionStrategy::Custom(VERSION.to_owned()))?
        // Said here because the default reads an environment variable. Functions have names in backtraces all the same;
        // files and lines would bring twice as many lines, most of them from inside of standard libraries.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    Ok(config)
}

/// Names everything that generated code depends on, as 16 hexadecimal digits, example `9f2c41d05b7e6a38`.
///
/// Covers [`VERSION`], the target, this machine's CPU features, and every setting and wasm feature. Artifacts of another
/// key do not load here; a cache keeps them apart by it.
///
/// # Errors
/// When the engine does not support this machine.
#[cfg(feature = "compile")]
pub fn key() -> wasmtime::Result<String> {
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

    let engine = wasmtime::Engine::new(&config()?)?;
    let mut hasher = Fixed(Sha256::new());
    VERSION.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_that_of_the_pinned_wasmtime() {
        let workspace =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")).unwrap();
        let (wasmtime, _) = super::VERSION.split_once('+').unwrap();
        assert!(
            workspace.contains(&format!("wasmtime = {{ version = \"={wasmtime}\"")),
            "engine::VERSION says {wasmtime}"
        );
    }

    #[cfg(feature = "compile")]
    #[test]
    fn the_key_is_the_same_each_time() {
        let key = super::key().unwrap();
        assert_eq!(key, super::key().unwrap());
        assert_eq!(key.len(), 16);
    }
}
