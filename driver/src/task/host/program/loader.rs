//! What a program needs to be started: the interpreter that a script names in its first line, or the loader that a
//! binary names. If it is missing, the kernel reports that the program itself does not exist (execve(2)).

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Maximum length of the first line of a script, in bytes (`BINPRM_BUF_SIZE`); here also of a loader's path.
const LINE: usize = 256;
/// Maximum number of segments of a program that are read.
const SEGMENTS: u16 = 64;
/// The segment that names the loader (elf(5), `PT_INTERP`).
const INTERP: u32 = 3;

/// The file that starts a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Loader {
    /// The interpreter of a script.
    Interpreter(PathBuf),
    /// The loader of a binary.
    Dynamic(PathBuf),
    /// An interpreter whose line ends with a carriage return, which the kernel takes for a part of its name.
    CarriageReturn,
}

/// The loader of the program in the file, if it names one.
pub(super) fn of(file: &File) -> Option<Loader> {
    let mut head = [0; LINE];
    let length = file.read_at(&mut head, 0).ok()?;
    let head = &head[..length];
    match head.strip_prefix(b"#!") {
        Some(line) => script(line),
        None => binary(file, head).map(Loader::Dynamic),
    }
}

fn script(line: &[u8]) -> Option<Loader> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = line.trim_ascii_start();
    let path = line.split(|byte| matches!(byte, b' ' | b'\t')).next()?;
    if path.ends_with(b"\r") {
        return Some(Loader::CarriageReturn);
    }
    (!path.is_empty()).then(|| Loader::Interpreter(std::ffi::OsStr::from_bytes(path).into()))
}

/// The loader of a 64-bit little-endian binary, as on most machines.
fn binary(file: &File, head: &[u8]) -> Option<PathBuf> {
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let long = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let short = |bytes: &[u8], at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (start, size, count) = (long(head, 32)?, short(head, 54)?, short(head, 56)?);
    for number in 0..count.min(SEGMENTS) {
        let mut segment = [0; 56];
        let at = start.checked_add(u64::from(number) * u64::from(size))?;
        file.read_exact_at(&mut segment, at).ok()?;
        if u32::from_le_bytes(segment[..4].try_into().ok()?) == INTERP {
            let (at, length) = (long(&segment, 8)?, usize::try_from(long(&segment, 32)?).ok()?);
            let mut path = vec![0; length.min(LINE)];
            file.read_exact_at(&mut path, at).ok()?;
            let path = path.split(|byte| *byte == 0).next()?;
            return (!path.is_empty()).then(|| std::ffi::OsStr::from_bytes(path).into());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn of_text(text: &str) -> Option<Loader> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        of(&file)
    }

    #[test]
    fn a_script_names_its_interpreter() {
        let interpreter = |path: &str| Some(Loader::Interpreter(path.into()));
        assert_eq!(of_text("#!/bin/sh\necho"), interpreter("/bin/sh"));
        assert_eq!(of_text("#! /usr/bin/env python3\r\n"), interpreter("/usr/bin/env"));
        assert_eq!(of_text("#!/bin/sh\r\n"), Some(Loader::CarriageReturn));
        assert_eq!(of_text("#!"), None);
        assert_eq!(of_text("plain"), None);
    }

    #[test]
    fn a_binary_names_its_loader() {
        let program = File::open("/bin/sh").unwrap();
        let Some(Loader::Dynamic(loader)) = of(&program) else { panic!("a loader is expected") };
        assert!(loader.is_file(), "{loader:?}");
        for end in [0, 20, 60, 100] {
            let mut cut = tempfile::tempfile().unwrap();
            let mut bytes = vec![0; end];
            program.read_exact_at(&mut bytes, 0).unwrap();
            cut.write_all(&bytes).unwrap();
            assert_eq!(of(&cut), None, "{end} bytes");
        }
    }
}
