//! The kind of a file by its first bytes: a native program, a script, or WebAssembly.

use std::path::Path;

use super::error::Error;

/// The kind of a task's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKind {
    /// A program that the kernel runs, or a script.
    Native,
    /// A WebAssembly guest, which the runner runs.
    Wasm,
}

/// Wasmtime's `e_ident[EI_OSABI]` in an ELF header.
pub(super) const WASMTIME: u8 = 200;

/// The kind of a file with this beginning. An error shows the beginning only of a file of the task's own.
pub(super) fn kind(head: &[u8], path: &Path, is_tasks: bool) -> Result<ProgramKind, Error> {
    let begins = || if is_tasks { readable(head) } else { "something else".to_owned() };
    if head.starts_with(b"\0asm") {
        return Ok(ProgramKind::Wasm);
    }
    // wasmtime compiles a module to a file of its own "operating system" (elf(5), `e_ident[EI_OSABI]`).
    if head.starts_with(b"\x7fELF") && head.get(7) == Some(&WASMTIME) {
        return Err(Error::Precompiled { path: path.to_owned() });
    }
    if super::is_named_wasm(path) {
        return Err(Error::NotWasm { path: path.to_owned(), begins: begins() });
    }
    if let Some(theirs) = elf_machine(head) {
        let runs_here = OUR_MACHINES.contains(&theirs) || others_can_run();
        return if runs_here {
            Ok(ProgramKind::Native)
        } else {
            Err(Error::Foreign { path: path.to_owned(), theirs: machine_name(theirs) })
        };
    }
    if head.starts_with(b"#!") || others_can_run() {
        return Ok(ProgramKind::Native);
    }
    let is_text = path.extension().is_some_and(|extension| extension == "wat");
    if is_text || head.starts_with(b"(module") || head.starts_with(b"(component") {
        return Err(Error::Text { path: path.to_owned() });
    }
    Err(Error::Unknown { path: path.to_owned(), begins: begins() })
}

/// `e_machine` of an ELF header (elf(5)).
pub(super) fn elf_machine(head: &[u8]) -> Option<u16> {
    let bytes = [*head.get(18)?, *head.get(19)?];
    let big_endian = head.get(5) == Some(&2);
    head.starts_with(b"\x7fELF")
        .then(|| if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
}

/// ELF machines that a kernel of this architecture runs, including its 32-bit variant.
pub(super) const OUR_MACHINES: &[u16] = if cfg!(target_arch = "x86_64") {
    &[62, 3]
} else if cfg!(target_arch = "aarch64") {
    &[183, 40]
} else if cfg!(target_arch = "riscv64") {
    &[243]
} else if cfg!(target_arch = "powerpc64") {
    &[21]
} else if cfg!(target_arch = "s390x") {
    &[22]
} else {
    &[]
};

pub(super) fn machine_name(machine: u16) -> String {
    let name = match machine {
        3 => "x86",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        other => return format!("ELF machine {other}"),
    };
    name.to_owned()
}

/// Has the administrator registered interpreters for other formats with the kernel (binfmt_misc)?
pub(super) fn others_can_run() -> bool {
    // `register` and `status` always exist.
    std::fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|entries| entries.count() > 2)
}

pub(super) fn readable(head: &[u8]) -> String {
    if head.is_empty() {
        return "nothing, it is empty".to_owned();
    }
    let begin = &head[..head.len().min(16)];
    format!("\"{}\"{}", begin.escape_ascii(), hint(head))
}

/// Advice about a file with this beginning, if there is any.
fn hint(head: &[u8]) -> &'static str {
    if head.starts_with(b"\xef\xbb\xbf") {
        "; save it without the byte order mark (BOM) before its first line"
    } else if head.starts_with(b"\x1f\x8b")
        || head.starts_with(b"PK\x03\x04")
        || head.starts_with(b"\xfd7zXZ")
    {
        "; it is compressed, or an archive: let the `artifact` block unpack it"
    } else if !head.starts_with(b"#!")
        && head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
    {
        "; the first line of a script is `#!/bin/sh` or the like"
    } else {
        ""
    }
}
