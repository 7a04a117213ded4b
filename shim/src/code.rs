//! Maps precompiled code into the process, so that it can run.
//!
//! All code is mapped from the file, and untouched pages are never read; the tasks of one guest share the pages.
#![expect(unsafe_code, reason = "precompiled code cannot be checked, and is mapped executable")]

use crate::content::{Content, Format, HEAD, recognise};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use wasmtime::component::Component;
use wasmtime::error::Context as _;
use wasmtime::{Config, CustomCodeMemory, Engine, Module, Result, bail, ensure};

/// A guest ready to be linked, in its own engine.
pub enum Code {
    /// A core module.
    Module(Module),
    /// A component.
    Component(Component),
}

/// Loads the artifact in `file` into an engine with `config`.
///
/// # Safety
/// The file is native code and becomes a part of this process: it must have been written by a compiler that the user
/// trusts, for the content that the user requested, and nobody may change it in place during the life of the process.
///
/// # Errors
/// When it is not an artifact, is truncated, or was compiled for another version, configuration or CPU.
pub unsafe fn load(file: &Arc<File>, config: &Config) -> Result<Code> {
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0).context("read its header")?;
    let Content::Precompiled(kind) = recognise(&head)? else {
        bail!("it is not precompiled");
    };

    let mut config = config.clone();
    config.with_custom_code_memory(Some(Arc::new(ExecutableFile::new(file, &head)?)));
    let engine = Engine::new(&config)?;
    Ok(match kind {
        // SAFETY: our caller promised what this call requires.
        Format::Module => Code::Module(unsafe { Module::deserialize_open_file(&engine, file.try_clone()?)? }),
        Format::Component => {
            // Only a path is accepted here, but the path must lead to the file whose code `ExecutableFile` maps, even
            // if the original path is replaced at this moment.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            // SAFETY: as above.
            Code::Component(unsafe { Component::deserialize_file(&engine, path)? })
        }
    })
}

/// Makes the code of one artifact executable where `MemoryDenyWriteExecute=` forbids changing writable memory to
/// executable. It maps the same part of the file once more, executable from the start.
///
/// This works because artifacts have no relocations: the code in the file is the code that runs. A memory file can be
/// mapped in the same way, so that there is a single code path, and no call of mprotect makes anything executable.
struct ExecutableFile {
    /// The file that was opened and recognised, whatever its path leads to now.
    file: Arc<File>,
    /// The offset of the code in the file, in bytes; a multiple of the page size.
    offset: u64,
    /// The length of the code, in bytes.
    len: u64,
}

const PAGE: usize = 4096;

impl ExecutableFile {
    /// Finds the executable section. An artifact has one: a component keeps the code of all its modules in it. The
    /// offsets are those of a 64-bit ELF file, in this machine's byte order.
    fn new(file: &Arc<File>, head: &[u8; HEAD]) -> Result<Self> {
        const SECTION: usize = 64;
        const SHF_EXECINSTR: u64 = 4;

        let table = word(head, 40);
        let [section_size, count] = [58, 60].map(|at| u16::from_ne_bytes([head[at], head[at + 1]]));
        ensure!(usize::from(section_size) == SECTION, "its section table is damaged");
        let size = file.metadata()?.len();
        let mut sections = vec![0; usize::from(count) * SECTION];
        file.read_exact_at(&mut sections, table).context("it is truncated")?;
        let mut code = None;
        for section in sections.as_chunks::<SECTION>().0 {
            let (flags, offset, len) = (word(section, 8), word(section, 24), word(section, 32));
            if flags & SHF_EXECINSTR != 0 {
                ensure!(code.is_none(), "it has more than one executable section");
                ensure!(offset % PAGE as u64 == 0, "its code is not aligned to pages");
                ensure!(offset.checked_add(len).is_some_and(|end| end <= size), "it is truncated");
                code = Some((offset, len));
            }
        }
        let (offset, len) = code.context("it contains no code")?;
        Ok(Self { file: Arc::clone(file), offset, len })
    }

    /// Checks that `code`, which wasmtime took from the file, matches what will be mapped in its place: the same
    /// length, the same start and end. Reading all of it would cost as much as mapping saves.
    fn is_what_replaces(&self, code: &[u8]) -> Result<()> {
        ensure!(code.len() as u64 == self.len, "its code has another length than its section table says");
        let edge = code.len().min(64);
        for at in [0, code.len() - edge] {
            let mut there = [0; 64];
            let there = &mut there[..edge];
            self.file.read_exact_at(there, self.offset + at as u64).context("it is truncated")?;
            ensure!(*there == code[at..at + edge], "its code is not where its section table says");
        }
        Ok(())
    }
}

/// The 64-bit number at `at`, where the caller keeps `at` within the array.
fn word(bytes: &[u8; 64], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

impl CustomCodeMemory for ExecutableFile {
    fn required_alignment(&self) -> usize {
        PAGE
    }

    fn publish_executable(&self, start: *const u8, len: usize) -> Result<()> {
        // SAFETY: wasmtime hands us the readable range to which it mapped the code, and no longer writes to it.
        self.is_what_replaces(unsafe { std::slice::from_raw_parts(start, len) })?;
        // SAFETY: the range is aligned to pages. The bytes that are mapped over it are the same, also beyond `len` to
        // the end of its last page: the offset in the file was just checked, and the caller of `load` promised that
        // nobody changes the file. So whoever refers to the range sees no change. Its owner unmaps the range.
        let mapped = unsafe {
            libc::mmap(
                start.cast_mut().cast(),
                len,
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_FIXED,
                self.file.as_raw_fd(),
                self.offset.try_into()?,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("map its code as executable");
        }
        Ok(())
    }

    /// Called before the range is unmapped, which needs no preparation.
    fn unpublish_executable(&self, _: *const u8, _: usize) -> Result<()> {
        Ok(())
    }
}
