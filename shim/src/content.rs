//! Recognises a file by its first bytes, never by its name.

use wasmtime::{Result, bail};

/// How many bytes [`recognise`] needs of a file, unless the file is shorter.
pub const HEAD: usize = 64;

/// The two formats of a WebAssembly program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A core module, for WASI 0.1 (`wasm32-wasip1`).
    Module,
    /// A component, for WASI 0.2 (`wasm32-wasip2`) or 0.3.
    Component,
}

/// The inputs that the shim and its compiler support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// WebAssembly in binary form.
    Wasm(Format),
    /// Native code from `wasm-shim-compile` (or from another build of wasmtime; loading it reveals that).
    Precompiled(Format),
    /// The text format, or another text; parsing it reveals that.
    Text,
}

const MAGIC: &[u8] = b"\0asm";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const ELF: &[u8] = b"\x7fELF";
/// `e_ident[EI_OSABI]` of wasmtime's artifacts.
const OSABI_WASMTIME: u8 = 200;

/// Recognises a file by `head`, which contains its first [`HEAD`] bytes, or the whole file if it is shorter.
///
/// # Errors
/// When it is anything else; the message completes "`x.wasm` ..." and tells the user what to do.
pub fn recognise(head: &[u8]) -> Result<Content> {
    if head.starts_with(ELF) {
        return elf(head);
    }
    if head.starts_with(MODULE) {
        return Ok(Content::Wasm(Format::Module));
    }
    if head.starts_with(COMPONENT) {
        return Ok(Content::Wasm(Format::Component));
    }
    if let Some(archive) = archive(head) {
        bail!("is {archive}, not WebAssembly; unpack it first");
    }
    match head {
        [] => bail!("is empty; was it built or downloaded completely?"),
        _ if MAGIC.starts_with(head) || (head.starts_with(MAGIC) && head.len() < MODULE.len()) => {
            bail!("is truncated after {} bytes; was it built or downloaded completely?", head.len())
        }
        [0, b'a', b's', b'm', a, b, c, d, ..] => {
            bail!(
                "has the unsupported wasm version {a:02x} {b:02x} {c:02x} {d:02x}; build it for wasm32-wasip1 or wasm32-wasip2"
            )
        }
        [b'#', b'!', ..] => bail!("is a script, not WebAssembly"),
        _ if is_text(head) => Ok(Content::Text),
        _ => {
            let start: Vec<_> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            bail!("is not WebAssembly: it starts with {}", start.join(" "))
        }
    }
}

fn elf(head: &[u8]) -> Result<Content> {
    if head.get(7) != Some(&OSABI_WASMTIME) {
        bail!("is a native ELF executable, not WebAssembly; run it without wasm-shim");
    }
    // `e_flags` of a 64-bit header, in which wasmtime sets one bit.
    match head.get(48) {
        Some(flags) if flags & 1 != 0 => Ok(Content::Precompiled(Format::Module)),
        Some(flags) if flags & 2 != 0 => Ok(Content::Precompiled(Format::Component)),
        _ => bail!("is a damaged precompiled artifact; compile it again"),
    }
}

fn archive(head: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "a gzip archive"),
        (b"PK\x03\x04", "a zip archive"),
        (b"BZh", "a bzip2 archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
        (b"\xfd7zXZ\0", "an xz archive"),
    ];
    KNOWN.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

/// Whether the file starts with an expression, a comment, or white space before either.
fn is_text(head: &[u8]) -> bool {
    let start = head.trim_ascii_start();
    start.is_empty() || start.starts_with(b"(") || start.starts_with(b";;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(head: &[u8]) -> String {
        recognise(head).unwrap_err().to_string()
    }

    fn artifact(flags: u8) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[..4].copy_from_slice(ELF);
        head[7] = OSABI_WASMTIME;
        head[48] = flags;
        head
    }

    #[test]
    fn modules_components_and_artifacts_are_told_apart() {
        assert_eq!(recognise(MODULE).unwrap(), Content::Wasm(Format::Module));
        assert_eq!(recognise(COMPONENT).unwrap(), Content::Wasm(Format::Component));
        assert_eq!(recognise(&artifact(1)).unwrap(), Content::Precompiled(Format::Module));
        assert_eq!(recognise(&artifact(2)).unwrap(), Content::Precompiled(Format::Component));
    }

    #[cfg(feature = "run")]
    #[test]
    fn fuzz_native_code_is_told_from_everything_else() {
        use proptest::prelude::*;
        let begun = prop_oneof![
            Just(ELF.to_vec()),
            Just(MODULE.to_vec()),
            Just(COMPONENT.to_vec()),
            Just(artifact(1)),
            Just(artifact(2)),
            Just(b"(module".to_vec()),
            Just(Vec::new()),
        ];
        let damage = (any::<(prop::sample::Index, u8)>(), any::<Vec<u8>>(), 0..=HEAD);
        crate::fuzz::holds_for(&(begun, damage), |(mut head, ((at, byte), more, length))| {
            head.extend(more);
            if !head.is_empty() {
                let at = at.index(head.len());
                head[at] = byte;
            }
            head.truncate(length);
            let is_native = head.starts_with(ELF) && head.get(7) == Some(&OSABI_WASMTIME);
            match recognise(&head) {
                Ok(Content::Precompiled(_)) => prop_assert!(is_native),
                Ok(Content::Wasm(Format::Module)) => prop_assert!(head.starts_with(MODULE)),
                Ok(Content::Wasm(Format::Component)) => prop_assert!(head.starts_with(COMPONENT)),
                Ok(Content::Text) => prop_assert!(!head.contains(&0x7f) || !head.starts_with(ELF)),
                Err(why) => prop_assert!(!why.to_string().contains('\n')),
            }
            Ok(())
        });
    }

    #[test]
    fn text_is_told_by_how_it_begins() {
        for head in [&b"(module)"[..], b";; a comment", b" \n\t(component)"] {
            assert_eq!(recognise(head).unwrap(), Content::Text);
        }
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let table: [(&[u8], &str); 11] = [
            (b"", "is empty"),
            (b"\0as", "truncated after 3 bytes"),
            (b"\0asm\x01\0", "truncated after 6 bytes"),
            (b"\0asm\x02\0\0\0", "version 02 00 00 00"),
            (b"\x7fELF\x02\x01\x01\0\0\0", "native ELF"),
            (&artifact(0), "damaged precompiled"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"PK\x03\x04", "zip"),
            (b"BZh9", "bzip2"),
            (b"\x28\xb5\x2f\xfd\0", "zstd"),
            (b"MZ\x90", "starts with 4d 5a 90"),
        ];
        for (head, part) in table {
            assert!(complaint(head).contains(part), "{head:02x?}: {}", complaint(head));
        }
    }
}
