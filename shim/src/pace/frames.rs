//! The heads of the frames of a connection over HTTP/2 (RFC 9113, section 4.1), as they pass by.

/// What every client of HTTP/2 sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The type of a frame with a part of a body.
const DATA: u8 = 0;
/// A smaller part keeps much more memory than it has.
const SMALL: u32 = 4 << 10;
const HEAD: usize = 9;

/// Where in its frames a connection is.
pub(super) enum Frames {
    /// This much of the preface has come.
    Preface(usize),
    /// The client speaks HTTP/1.
    None,
    /// So many bytes of a frame are to come, and then these of the head of the next one.
    Within { left: u32, head: [u8; HEAD], filled: usize },
}

impl Default for Frames {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Frames {
    /// Does the client speak HTTP/2, as far as is known?
    pub(super) fn are_there(&self) -> bool {
        matches!(self, Self::Within { .. })
    }

    /// These bytes have come. Returns how many small parts of bodies have begun in them.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> u64 {
        let mut small = 0;
        while !bytes.is_empty() {
            bytes = match self {
                Self::None => return small,
                Self::Preface(seen) => {
                    let rest = PREFACE.get(*seen..).unwrap_or_default();
                    let count = rest.len().min(bytes.len());
                    if rest.get(..count) != bytes.get(..count) {
                        *self = Self::None;
                        return small;
                    }
                    *seen += count;
                    if *seen == PREFACE.len() {
                        *self = Self::Within { left: 0, head: [0; HEAD], filled: 0 };
                    }
                    bytes.get(count..).unwrap_or_default()
                }
                Self::Within { left, .. } if *left > 0 => {
                    let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= u32::try_from(count).unwrap_or(*left);
                    bytes.get(count..).unwrap_or_default()
                }
                Self::Within { left, head, filled } => {
                    let count = bytes.len().min(HEAD - *filled);
                    for (to, from) in head.iter_mut().skip(*filled).zip(bytes) {
                        *to = *from;
                    }
                    *filled += count;
                    if *filled == HEAD {
                        let [high, middle, low, kind, ..] = *head;
                        *left = u32::from_be_bytes([0, high, middle, low]);
                        *filled = 0;
                        small += u64::from(kind == DATA && *left < SMALL);
                    }
                    bytes.get(count..).unwrap_or_default()
                }
            };
        }
        small
    }
}

/// Is a part of a body of this length a small one?
pub(super) fn is_small(bytes: usize) -> bool {
    bytes < SMALL as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        [&[0, high, low, kind, 0, 0, 0, 0, 1][..], &vec![0; usize::from(length)]].concat()
    }

    #[test]
    fn small_parts_of_bodies_are_told_in_whatever_pieces_they_come() {
        let all = [
            PREFACE.to_vec(),
            frame(4, 0),
            frame(DATA, 1),
            frame(0xfa, 8130),
            frame(DATA, 16_000),
            frame(DATA, 4095),
            frame(1, 9),
            frame(DATA, 0),
        ]
        .concat();
        for size in [1, 2, 9, 10, 1000, all.len()] {
            let mut frames = Frames::default();
            let small: u64 = all.chunks(size).map(|piece| frames.pass(piece)).sum();
            assert_eq!((small, frames.are_there()), (3, true), "in pieces of {size}");
        }
    }

    #[test]
    fn a_client_of_http_1_has_no_frames() {
        let mut frames = Frames::default();
        assert_eq!(frames.pass(b"PR"), 0);
        assert_eq!(frames.pass(b"OPFIND / HTTP/1.1\r\n\r\n\0\0\x01\0"), 0);
        assert!(!frames.are_there());
    }
}
