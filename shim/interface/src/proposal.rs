//! WebAssembly proposals that can be switched on or off: `-W` of wasm-shim, `wasm.proposals` of a job.

/// A WebAssembly proposal, under its name on the wasmtime command line. In the order of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the proposals of WebAssembly")]
pub enum Proposal {
    BulkMemory,
    ComponentModelAsync,
    ComponentModelErrorContext,
    ComponentModelFixedLengthLists,
    ComponentModelMap,
    CustomPageSizes,
    Exceptions,
    ExtendedConst,
    FunctionReferences,
    Gc,
    Memory64,
    MultiMemory,
    MultiValue,
    ReferenceTypes,
    RelaxedSimd,
    RelaxedSimdDeterministic,
    Simd,
    TailCall,
    Threads,
    WideArithmetic,
}

impl Proposal {
    /// The proposals that wasmtime implements, and that can be switched off without breaking another one.
    pub const ALL: [Self; 20] = [
        Self::BulkMemory,
        Self::ComponentModelAsync,
        Self::ComponentModelErrorContext,
        Self::ComponentModelFixedLengthLists,
        Self::ComponentModelMap,
        Self::CustomPageSizes,
        Self::Exceptions,
        Self::ExtendedConst,
        Self::FunctionReferences,
        Self::Gc,
        Self::Memory64,
        Self::MultiMemory,
        Self::MultiValue,
        Self::ReferenceTypes,
        Self::RelaxedSimd,
        Self::RelaxedSimdDeterministic,
        Self::Simd,
        Self::TailCall,
        Self::Threads,
        Self::WideArithmetic,
    ];

    /// The name, such as `tail-call`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BulkMemory => "bulk-memory",
            Self::ComponentModelAsync => "component-model-async",
            Self::ComponentModelErrorContext => "component-model-error-context",
            Self::ComponentModelFixedLengthLists => "component-model-fixed-length-lists",
            Self::ComponentModelMap => "component-model-map",
            Self::CustomPageSizes => "custom-page-sizes",
            Self::Exceptions => "exceptions",
            Self::ExtendedConst => "extended-const",
            Self::FunctionReferences => "function-references",
            Self::Gc => "gc",
            Self::Memory64 => "memory64",
            Self::MultiMemory => "multi-memory",
            Self::MultiValue => "multi-value",
            Self::ReferenceTypes => "reference-types",
            Self::RelaxedSimd => "relaxed-simd",
            Self::RelaxedSimdDeterministic => "relaxed-simd-deterministic",
            Self::Simd => "simd",
            Self::TailCall => "tail-call",
            Self::Threads => "threads",
            Self::WideArithmetic => "wide-arithmetic",
        }
    }

    /// The proposal of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|proposal| proposal.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_names() {
        assert!(Proposal::ALL.is_sorted_by(|one, next| one < next && one.name() < next.name()));
    }
}
