//! Resources of a task: its CPU weight, and its memory.

use crate::task::config::MemoryMax;

/// Memory of a task, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Reserved memory.
    pub reserved: Option<u64>,
    /// Memory limit; a task that needs more is killed.
    pub ceiling: Option<u64>,
}

impl Memory {
    /// Nomad's two numbers: without `memory_max`, `memory` is the limit; with it, `memory` is reserved.
    pub(super) fn resolve(memory_mb: u64, memory_max: MemoryMax) -> Self {
        let bytes = |mebibytes: u64| (mebibytes != 0).then(|| mebibytes.saturating_mul(1 << 20));
        match memory_max {
            MemoryMax::Memory => Self { reserved: None, ceiling: bytes(memory_mb) },
            MemoryMax::Mebibytes(max) => {
                Self { reserved: bytes(memory_mb), ceiling: bytes(max.max(memory_mb)) }
            }
            MemoryMax::Unlimited => Self { reserved: bytes(memory_mb), ceiling: None },
        }
    }
}

/// `64 MiB`, or in bytes if it is not a whole number of MiB.
pub fn mebibytes(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}

/// The weight that Nomad 1.11 and later give a cgroup for so many CPU shares, so that our tasks and those of its other
/// drivers can be compared: 2 shares are weight 1, 1024 are 100, 262144 are 10000, a parabola of the logarithms between
/// (opencontainers/cgroups v0.0.7, `ConvertCPUSharesToCgroupV2Value`).
pub(super) fn cpu_weight(shares: u64) -> u64 {
    const MAX: u64 = 262_144;
    if shares >= MAX {
        return 10_000;
    }
    if shares <= 2 {
        return 1;
    }
    let shares = u32::try_from(shares).map_or(f64::MAX, f64::from);
    let log = shares.log2();
    let weight = 10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil();
    // Between 1 and 10000 by the two bounds above.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number from 1 to 10000"
    )]
    let weight = weight as u64;
    weight.clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_nomads_other_drivers() {
        for (shares, weight) in
            [(0, 1), (2, 1), (100, 17), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(cpu_weight(shares), weight, "{shares} shares");
        }
    }

    #[test]
    fn memory_is_a_ceiling_and_with_memory_max_a_promise() {
        const MIB: u64 = 1 << 20;
        let memory = Memory::resolve;
        assert_eq!(memory(10, MemoryMax::Memory), Memory { reserved: None, ceiling: Some(10 * MIB) });
        assert_eq!(
            memory(10, MemoryMax::Mebibytes(20)),
            Memory { reserved: Some(10 * MIB), ceiling: Some(20 * MIB) }
        );
        assert_eq!(memory(10, MemoryMax::Unlimited), Memory { reserved: Some(10 * MIB), ceiling: None });
        assert_eq!(memory(u64::MAX, MemoryMax::Memory).ceiling, Some(u64::MAX));
    }
}
