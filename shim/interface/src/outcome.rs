//! How a guest was ended that did not exit by itself.

use std::fmt;

/// Why a guest did not exit by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The guest has used up its instructions.
    OutOfFuel,
    /// The guest needed more memory than its limit.
    MemoryLimit,
    /// The guest has exceeded its time.
    Deadline,
    /// The guest is not at fault.
    Failed,
    /// The file cannot be run.
    BadModule,
    /// The guest imports something that does not exist.
    MissingImport,
    /// The guest trapped.
    Trap,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::OutOfFuel,
        Self::MemoryLimit,
        Self::Deadline,
        Self::Failed,
        Self::BadModule,
        Self::MissingImport,
        Self::Trap,
    ];

    /// The name, such as `out of fuel`.
    pub fn words(self) -> &'static str {
        match self {
            Self::OutOfFuel => "out of fuel",
            Self::MemoryLimit => "memory limit",
            Self::Deadline => "deadline",
            Self::Failed => "failed",
            Self::BadModule => "bad module",
            Self::MissingImport => "missing import",
            Self::Trap => "trap",
        }
    }

    /// The exit code of wasm-shim, such as 134.
    pub fn code(self) -> u8 {
        match self {
            Self::OutOfFuel => 121,
            Self::MemoryLimit => 122,
            Self::Deadline => 124,
            Self::Failed => 125,
            Self::BadModule => 126,
            Self::MissingImport => 127,
            Self::Trap => 134,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}
