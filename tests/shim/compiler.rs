//! The compiler, the native code that it generates, and where that code may run.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use tests::{Desk, end_of, program};

use super::{BAD_MODULE, FAILED, TRAPPED, mode};

#[test]
fn precompiled_code_runs_only_when_allowed() {
    let desk = Desk::new();
    for guest in ["hello", "run_ok"] {
        let artifact = desk.path(&format!("{guest}.cwasm"));
        let end = desk.run(&["compile", &desk.guest(guest), "-o", &artifact]);
        assert_eq!(end.code(), 0, "{end:?}");
        assert_eq!(mode(Path::new(&artifact)), 0o444);

        let refused = desk.run(&[&artifact]);
        assert_eq!(refused.code(), BAD_MODULE);
        refused.says("is precompiled native code, which is not accepted");
        assert_eq!(desk.run(&["run", "--allow-precompiled", &artifact]).code(), 0);
    }
}

#[test]
fn damaged_precompiled_code_is_refused() {
    let desk = Desk::new();
    let artifact = desk.path("hello.cwasm");
    assert_eq!(desk.run(&["compile", &desk.guest("hello"), "-o", &artifact]).code(), 0);
    let whole = fs::read(&artifact).unwrap();
    let mut other = whole.clone();
    let version = other.windows(5).position(|bytes| bytes == b"+shim").unwrap();
    other[version] = b'-';
    for (name, content) in
        [("header", &whole[..64]), ("half", &whole[..whole.len() / 2]), ("version", &other)]
    {
        let file = desk.file(&format!("{name}.cwasm"), content);
        let end = desk.run(&["--allow-precompiled", &file]);
        assert_eq!(end.code(), FAILED, "{name}");
        end.says(&format!("load precompiled `{file}`"));
    }
}

#[test]
fn precompiled_code_that_is_not_where_its_section_table_says_is_refused() {
    const EXECUTABLE: u64 = 4;
    let desk = Desk::new();
    for guest in ["hello", "run_ok"] {
        let file = desk.path(&format!("{guest}.cwasm"));
        assert_eq!(desk.run(&["compile", &desk.guest(guest), "-o", &file]).code(), 0);
        let whole = fs::read(&file).unwrap();
        let number = |at: usize| u64::from_ne_bytes(whole[at..at + 8].try_into().unwrap());
        // The offsets of a section's flags, offset and length.
        let (table, count) = (usize::try_from(number(40)).unwrap(), usize::from(whole[60]));
        let sections = (0..count).map(|index| table + index * 64).map(|at| [at + 8, at + 24, at + 32]);
        let (code, other): (Vec<_>, Vec<_>) = sections
            .filter(|[_, offset, _]| number(*offset) > 0 && number(*offset) % 4096 == 0)
            .partition(|[flags, ..]| number(*flags) & EXECUTABLE != 0);
        let ([[code, _, len]], [[data, _, data_len], ..]) = (&code[..], &other[..]) else {
            panic!("{guest} has one section of code and one of data: {code:?} {other:?}");
        };

        let (code_as_data, data_as_code) =
            ((*code, number(*code) & !EXECUTABLE), (*data, number(*data) | EXECUTABLE));
        for (changes, verdict) in [
            (&[data_as_code][..], "it has more than one executable section"),
            (&[code_as_data], "it contains no code"),
            (&[code_as_data, data_as_code], "its code has another length than its section table says"),
            (
                &[code_as_data, data_as_code, (*data_len, number(*len))],
                "its code is not where its section table says",
            ),
        ] {
            let mut bytes = whole.clone();
            for (at, number) in changes {
                bytes[*at..*at + 8].copy_from_slice(&number.to_ne_bytes());
            }
            bytes.resize(2 * bytes.len(), 0);
            let damaged = desk.file("damaged.cwasm", &bytes);
            let end = desk.run(&["--allow-precompiled", &damaged]);
            assert_eq!(end.code(), FAILED, "{guest}: {end:?}");
            end.says(&format!("load precompiled `{damaged}`"));
            end.says(verdict);
        }
    }
}

#[test]
fn the_compiler_works_from_stdin_to_stdout_without_files_and_environment() {
    let desk = Desk::new();
    let mut compiler = Command::new(program("wasm-shim-compile"));
    compiler.stdin(fs::File::open(desk.guest("hello")).unwrap()).env_clear().current_dir("/");
    let end = end_of(&mut compiler);
    assert_eq!(end.code(), 0, "{end:?}");
    let artifact = desk.file("hello.cwasm", &end.0.stdout);
    assert_eq!(desk.run(&["--allow-precompiled", &artifact]).stdout(), "hello\n");
}

#[test]
fn the_engine_key_is_short_and_stable() {
    let key = || end_of(Command::new(program("wasm-shim-compile")).arg("--engine-key")).stdout();
    let first = key();
    assert_eq!(first.trim_end().len(), 16, "{first}");
    assert!(first.trim_end().bytes().all(|digit| digit.is_ascii_hexdigit()), "{first}");
    assert_eq!(first, key());
}

#[test]
fn the_shim_contains_no_compiler() {
    let mentions = |name: &str| {
        let bytes = fs::read(program(name)).unwrap();
        bytes.windows(18).filter(|part| part == b"cranelift-codegen-").count()
    };
    assert!(mentions("wasm-shim-compile") > 0, "a compiler can be told by the paths of its sources");
    assert_eq!(mentions("wasm-shim"), 0, "it was built together with the feature `compile`");
}

#[test]
fn a_guest_runs_where_memory_is_never_writable_and_executable() {
    let mut probe = Command::new("true");
    deny_executable_memory(&mut probe);
    if let Err(error) = probe.status() {
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
        eprintln!("skipped: this kernel has no PR_SET_MDWE (it came with Linux 6.3)");
        return;
    }
    make_memory_executable(&mut probe);
    let Err(refused) = probe.status() else { panic!("the rule does not hold") };
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES), "{refused}");

    let desk = Desk::new();
    let shared = desk.path("shared");
    fs::create_dir(&shared).unwrap();
    for (guest, code) in
        [("hello", 0), ("unstable", 142), ("file", 0), ("run_ok", 0), ("run_exit", 200), ("trap", TRAPPED)]
    {
        let file = desk.guest(guest);
        let artifact = desk.path(&format!("{guest}.cwasm"));
        assert_eq!(desk.run(&["compile", &file, "-o", &artifact]).code(), 0);
        // The compiler inherits the rule and can comply: it generates code and never runs it.
        for line in [&[file.as_str()][..], &["--no-cache", &file], &["--allow-precompiled", &artifact]] {
            let mut shim = desk.shim(&[&["--dir", &shared], line].concat());
            deny_executable_memory(&mut shim);
            let end = end_of(&mut shim);
            assert_eq!(end.code(), code, "{line:?}: {end:?}");
        }
    }
}

/// The effect of `MemoryDenyWriteExecute=` on the kernel.
fn deny_executable_memory(command: &mut Command) {
    const PR_SET_MDWE: libc::c_int = 65;
    const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    #[expect(unsafe_code, reason = "no safe way to set a process attribute for a child")]
    // SAFETY: prctl is safe between fork and exec, and takes no pointers here.
    unsafe {
        command.pre_exec(|| match libc::prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Does what wasmtime does by default with the code of an artifact.
fn make_memory_executable(command: &mut Command) {
    #[expect(unsafe_code, reason = "only the child is held by the rule")]
    // SAFETY: both calls are safe between fork and exec, and touch no memory but what they map.
    unsafe {
        command.pre_exec(|| {
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let memory = libc::mmap(std::ptr::null_mut(), 4096, writable, private, -1, 0);
            match libc::mprotect(memory, 4096, libc::PROT_READ | libc::PROT_EXEC) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}
