//! How a guest ends that does not end by itself.

use std::fmt;

/// Why a guest did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its instructions are used up.
    OutOfFuel,
    /// It needed more memory than it may have.
    MemoryLimit,
    /// Its time is over.
    Deadline,
    /// It is not its fault.
    Failed,
    /// It is nothing that can be run.
    BadModule,
    /// Something that it needs is not there.
    MissingImport,
    /// It did what no guest may.
    Trap,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OutOfFuel,
        Self::MemoryLimit,
        Self::Deadline,
        Self::Failed,
        Self::BadModule,
        Self::MissingImport,
        Self::Trap,
    ];

    /// Its name, such as `out of fuel`.
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
