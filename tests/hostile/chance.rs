//! Pseudorandom numbers for these tests, and damaged binaries.

/// Pseudorandom numbers that are the same in every run.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// One of these binaries, with a few changes of the kinds that a mutator makes.
    pub(crate) fn damage(&mut self, all: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.of(all).clone();
        for _ in 0..=self.below(3) {
            // The first eight bytes are the header.
            let at = 8 + self.below(bytes.len() - 8);
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = *self.of(&[0, 1, 0x7f, 0x80, 0xff, 0x40, 0x0b, 0x10]),
                2 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                3 => drop(bytes.remove(at)),
                4 => {
                    let part = bytes[at..(at + 1 + self.below(16)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, part);
                }
                _ if self.below(4) == 0 => bytes.truncate(at),
                _ => {
                    let other = self.of(all);
                    let from = 8 + self.below(other.len() - 8);
                    bytes.splice(at.., other[from..].iter().copied());
                }
            }
            bytes.resize(bytes.len().max(9), 0);
        }
        bytes
    }
}
