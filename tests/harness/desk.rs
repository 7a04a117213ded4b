//! The environment of a test of `wasm-shim` alone: a [`Desk`] with the guests and the cache of one test, and how a
//! process in it [ended](End).

use std::io::{BufRead, BufReader, PipeReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, thread};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::{SOON, program, repository};

/// One test's files: guests, cache, whatever the test creates. They are removed with this value.
#[derive(Debug)]
pub struct Desk {
    directory: TempDir,
}

impl Desk {
    /// An empty directory.
    #[allow(clippy::new_without_default, reason = "it is no value but a place")]
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// The path of this name in the directory.
    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file.
    pub fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The path of the guest `guests/<name>.wat`, translated.
    pub fn guest(&self, name: &str) -> String {
        let source = repository().join("tests/guests").join(name).with_extension("wat");
        let path = format!("{}.wasm", Path::new(name).file_name().unwrap().display());
        self.file(&path, &wat::parse_file(source).unwrap())
    }

    /// `wasm-shim` with these arguments, in this directory and with nothing else in its environment.
    pub fn shim(&self, line: &[&str]) -> Command {
        let mut shim = Command::new(program("wasm-shim"));
        self.environment(&mut shim).args(line);
        shim
    }

    /// Restricts the environment of `shim` to this directory.
    pub fn environment<'a>(&self, shim: &'a mut Command) -> &'a mut Command {
        shim.env_clear()
            .env("XDG_CACHE_HOME", self.directory.path().join("cache"))
            .current_dir(&self.directory)
    }

    /// The result of `wasm-shim` with these arguments.
    pub fn run(&self, line: &[&str]) -> End {
        end_of(&mut self.shim(line))
    }

    /// The directory of the cache.
    pub fn cache(&self) -> PathBuf {
        self.directory.path().join("cache/wasm-shim")
    }

    /// The entries of the cache.
    pub fn entries(&self) -> Vec<PathBuf> {
        fs::read_dir(self.cache())
            .map_or_else(|_| Vec::new(), |all| all.map(|one| one.unwrap().path()).collect())
    }

    /// The only entry of the cache.
    pub fn entry(&self) -> PathBuf {
        let mut entries = self.entries();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }
}

/// How a process ended, and its output.
#[derive(Debug)]
pub struct End(pub Output);

impl End {
    /// The exit code; the process must have exited with one.
    #[track_caller]
    pub fn code(&self) -> i32 {
        self.0.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    /// The stdout of the process.
    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    /// The stderr of the process.
    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Fails unless the output contains this.
    #[track_caller]
    pub fn says(&self, part: &str) {
        assert!(self.stderr().contains(part), "no `{part}` in: {}", self.stderr());
    }
}

/// A process that does not outlive its test.
#[derive(Debug)]
pub struct Running {
    child: Child,
    heard: Option<BufReader<PipeReader>>,
}

impl Running {
    /// Starts `command`, whose output is read by lines.
    pub fn start(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        Self::heard(reader, command.stdout(writer).stderr(Stdio::null()))
    }

    /// Starts `command`, whose stderr is read by lines.
    pub fn start_speaking(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        Self::heard(reader, command.stdout(Stdio::null()).stderr(writer))
    }

    fn heard(reader: PipeReader, command: &mut Command) -> Self {
        let child = command.spawn().unwrap();
        // Otherwise the end would not be visible: our own copy of the pipe's other end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self { child, heard: Some(BufReader::new(reader)) }
    }

    /// The PID of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line.
    pub fn line(&mut self) -> String {
        let mut heard = self.heard.take().unwrap();
        let (heard, line) = within(SOON, "a line", move || {
            let mut line = String::new();
            heard.read_line(&mut line).unwrap();
            (heard, line)
        });
        self.heard = Some(heard);
        line
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The end is visible in the output, which is closed then, and needs no polling.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let mut heard = self.heard.take().unwrap();
        within(patience, "the end of a process", move || heard.read_to_end(&mut Vec::new()).unwrap());
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if the test has waited for it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of the guest `target/guests/<name>.wasm` that `tests/guests/build` made, or none, with a message, if it
/// could not be built; under CI that is a failure, unless the script reports that this machine's Rust cannot build
/// guests.
pub fn built_guest(name: &str) -> Option<String> {
    let path = repository().join("target/guests").join(name).with_extension("wasm");
    if path.exists() {
        return Some(path.to_str().unwrap().to_owned());
    }
    let lack = format!("{} is not there: run tests/guests/build first", path.display());
    let excused = path.with_file_name("no-rust").exists() && !matches!(name, "sqlite" | "python");
    assert!(excused || std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{lack}");
    eprintln!("skipped: {lack}");
    None
}

/// The result of `command`, within the time limit of a test.
pub fn end_of(command: &mut Command) -> End {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    End(within(SOON, "the end of a process", move || child.wait_with_output().unwrap()))
}

/// The result of `work`, if it returns in time.
pub fn within<T: Send + 'static>(
    patience: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(patience).unwrap_or_else(|_| panic!("waited {patience:?} for {what}"))
}
