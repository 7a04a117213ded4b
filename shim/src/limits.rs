//! Limits for the part of the process's memory that the guest may use, and whether an allocation was denied.

use crate::settings::Wasm;
use wasmtime::{ResourceLimiter, Result, StoreLimits, StoreLimitsBuilder};

/// The guest's limits. wasmtime calls them before the guest grows.
pub struct Limits {
    limits: StoreLimits,
    refused: Option<String>,
}

impl Limits {
    /// The limits of `wasm`.
    pub fn new(wasm: &Wasm) -> Self {
        let mut limits = StoreLimitsBuilder::new().trap_on_grow_failure(wasm.trap_on_grow_failure);
        if let Some(bytes) = wasm.max_memory_size {
            limits = limits.memory_size(bytes);
        }
        // Tables use memory too: the size of a pointer for each element.
        let as_memory = wasm.max_memory_size.map(|bytes| bytes / size_of::<usize>());
        if let Some(elements) = wasm.max_table_elements.or(as_memory) {
            limits = limits.table_elements(elements);
        }
        if let Some(count) = wasm.max_instances {
            limits = limits.instances(count);
        }
        if let Some(count) = wasm.max_tables {
            limits = limits.tables(count);
        }
        if let Some(count) = wasm.max_memories {
            limits = limits.memories(count);
        }
        Self { limits: limits.build(), refused: None }
    }

    /// The last allocation that was denied, for example `a memory of 2097152 bytes`.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    fn note(&mut self, answer: Result<bool>, what: impl FnOnce() -> String) -> Result<bool> {
        if !matches!(answer, Ok(true)) {
            self.refused = Some(what());
        }
        answer
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        let answer = self.limits.memory_growing(current, desired, maximum);
        // Beyond the guest's own maximum, it is not the user's limit that denies.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return answer;
        }
        self.note(answer, || format!("a memory of {desired} bytes"))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        self.limits.memory_grow_failed(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        let answer = self.limits.table_growing(current, desired, maximum);
        if maximum.is_some_and(|maximum| desired > maximum) {
            return answer;
        }
        self.note(answer, || format!("a table of {desired} elements"))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        self.limits.table_grow_failed(error)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }

    fn tables(&self) -> usize {
        self.limits.tables()
    }

    fn memories(&self) -> usize {
        self.limits.memories()
    }
}
