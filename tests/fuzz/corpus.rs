//! Interesting texts, and their mutations.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Texts with a meaning for some parser.
pub(crate) const PIECES: &[&str] = &[
    "\"",
    "'",
    "\\",
    "\\\\",
    "\\n",
    "\\t",
    "\\r",
    "\\s",
    "\\x0a",
    "\\x00",
    "\\x5c",
    "\\x7f",
    "\\u000a",
    "\\U0000000a",
    "\\012",
    "\\134",
    "\\\"",
    "\\'",
    "\\:",
    "\\ ",
    "\n",
    "\r",
    "\t",
    "\0",
    "\u{1}",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{feff}",
    "é",
    "日本",
    "😀",
    "%",
    "%%",
    "%n",
    "%i",
    "$",
    "$$",
    "${",
    "${HOME}",
    "}",
    "{",
    "(",
    ")",
    "[",
    "]",
    "~",
    "!",
    "|",
    "-",
    "+",
    "@",
    ":",
    "::",
    "=",
    ";",
    ",",
    "/",
    "//",
    "/../",
    "..",
    ".",
    "*",
    "#",
    " ",
    "  ",
    "0",
    "1",
    "-1",
    "08",
    "0x10",
    "0b1",
    "0o7",
    "255",
    "256",
    "4095",
    "8191",
    "8192",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "infinity",
    "yes",
    "no",
    "K",
    "M",
    "G",
    "E",
    "ms",
    "min",
    "5%",
    "100%",
    "0.01%",
    "12.5",
    "1e9",
    "/a",
    "/dev/null",
    "rw",
    "ro",
    "root",
    "norbind",
    "rbind",
    "CAP_CHOWN",
    "62",
    "SIGTERM",
    "RTMIN+1",
    "any",
    "10.0.0.0/8",
    "::1/128",
    "tcp",
    "udp",
    "ipv4",
];

/// Texts that can be distributed among all properties: the texts that tests/driver/properties compares with
/// systemd-run, and texts that once caused errors.
pub(crate) const TEXTS: &[&str] = &[
    "",
    " ",
    "yes",
    "1G 500M",
    "1.5G",
    "12.5%",
    "infinity",
    "1min 30s",
    ".5s .5s",
    "0-3,8 10",
    "numa",
    "/dev/vda 5M",
    "/dev/null rw",
    "cpu memory",
    "10.0.0.0/8 ::1/128",
    "ipv6:udp:1-65535",
    "ingress:/sys/fs/bpf/x",
    "user:ip:a:b group:ip6:c:d",
    "-/a +/b",
    "'/a b' \"/c d\" /e\\ f",
    "/a'b c'd",
    "A=\\x41 'B=\\n' C",
    "A\\x0aExecStartPre=/bin/sh",
    "~@clock @mount",
    "read:EPERM write",
    "~cgroup net",
    "~CAP_SYS_ADMIN CAP_SYS_MODULE",
    "/a:/b:norbind -/c:/d \"/e f\":/g",
    "/a:ro /b:size=10M,mode=700",
    "/img:/mnt -/x\\:y:/z:root:ro",
    "/img:/mnt\\nExecStartPre=/bin/sh",
    "root:ro,nosuid home:noexec",
    "/var/log/x:name:read-only,graceful",
    "/a\\nb:name",
    "a:b:ro c ./d//e",
    "name:/path",
    "glob.*:name",
    "FIELD=value with spaces",
    "~pattern",
    "SIGTERM 5 TEMPFAIL RTMIN+3",
    "keep-caps no-setuid-fixup",
    "private-anonymous 0x33 all",
    "10:20",
    "+5:-5",
    "EPERM",
    "|!/a",
    "private:name",
    "word\\",
    "\\",
    "two\nlines",
    "/usr/bin/env A=b",
];

/// A mutation of a text or of bytes.
#[derive(Debug, Clone)]
pub(crate) enum Edit<T> {
    Insert(Index, Vec<T>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Cut(Index),
}

/// Applies mutations.
pub(crate) fn edited<T: Clone>(mut text: Vec<T>, edits: &[Edit<T>]) -> Vec<T> {
    const LONGEST: usize = 1 << 16;
    for edit in edits {
        let place = |at: &Index, length| at.index(length + 1);
        match edit {
            Edit::Insert(at, piece) => {
                let at = place(at, text.len());
                text.splice(at..at, piece.iter().cloned());
            }
            Edit::Remove(at, count) => {
                let at = place(at, text.len());
                text.drain(at..text.len().min(at + count));
            }
            Edit::Repeat(at, count, times) => {
                let at = place(at, text.len());
                let end = text.len().min(at + count);
                let piece = text[at..end].to_vec();
                let times = (*times).min(LONGEST.saturating_sub(text.len()) / piece.len().max(1));
                text.splice(end..end, std::iter::repeat_n(piece, times).flatten());
            }
            Edit::Cut(at) => text.truncate(place(at, text.len())),
        }
    }
    text
}

/// Some mutations, with pieces of this kind.
pub(crate) fn edits<T: Clone + std::fmt::Debug>(
    piece: impl Strategy<Value = Vec<T>>,
    most: usize,
) -> impl Strategy<Value = Vec<Edit<T>>> {
    let edit = prop_oneof![
        5 => (any::<Index>(), piece).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        2 => (any::<Index>(), 1..8_usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        1 => (any::<Index>(), 1..20_usize, 1..40_usize).prop_map(|(at, count, times)| Edit::Repeat(at, count, times)),
        1 => any::<Index>().prop_map(Edit::Cut),
    ];
    vec(edit, 0..most)
}

/// A piece of a text.
pub(crate) fn piece() -> impl Strategy<Value = Vec<char>> {
    prop_oneof![
        4 => select(PIECES).prop_map(|piece| piece.chars().collect()),
        1 => vec(any::<char>(), 1..3),
    ]
}

/// One of `seeds`, mutated and perhaps with parts of another seed.
pub(crate) fn changed<S: AsRef<str> + Clone + std::fmt::Debug + 'static>(
    seeds: Vec<S>,
    most: usize,
) -> impl Strategy<Value = String> {
    (
        select(seeds.clone()),
        proptest::option::weighted(0.3, (select(seeds), any::<Index>())),
        edits(piece(), most),
    )
        .prop_map(|(seed, other, edits)| {
            let mut text: Vec<char> = seed.as_ref().chars().collect();
            if let Some((other, at)) = other {
                let at = at.index(text.len() + 1);
                text.splice(at..at, other.as_ref().chars());
            }
            edited(text, &edits).into_iter().collect()
        })
}

/// Any text.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => changed(TEXTS.to_vec(), 6),
        3 => vec(piece(), 0..12).prop_map(|pieces| pieces.into_iter().flatten().collect()),
        1 => vec(any::<char>(), 0..40).prop_map(String::from_iter),
    ]
}
