//! The end of the code, on a page of its own behind the last huge page.
//!
//! tests/build begins the code where a huge page may begin. The kernel maps a file by huge pages only where all of one lies in
//! the segment, so without this section its last megabyte, in which are much of wasmtime and the C library, would be mapped in
//! small pieces: a dozen page faults of every start.
#![expect(unsafe_code, reason = "a section of padding has no other syntax")]

core::arch::global_asm!(
    ".pushsection .text_end, \"axR\", @progbits",
    ".balign 0x200000",
    ".byte 0",
    ".popsection"
);
