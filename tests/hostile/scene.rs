//! What a guest may not harm: files, a neighbour and a cache, next to the guest.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use tests::{Desk, End, Running, SOON, end_of, program, within};

/// The amount of memory that `wasm-shim` and its compiler may write to, in place of a cgroup's limit.
pub(crate) const MEMORY: &str = "1073741824";
pub(crate) const SECRET: &str = "the neighbour's secret";

/// A module for WASI 0.1 with these parts, which does this at its start.
pub(crate) fn module(parts: &str, start: &str) -> String {
    format!("(module {parts} (func (export \"_start\") {start}))")
}

/// What a guest may not harm, and the guest's own two directories: `first` and `second`.
pub(crate) struct Scene {
    pub(crate) desk: Desk,
    neighbour: Running,
    before: BTreeMap<String, String>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let desk = Desk::new();
        for directory in ["outside/empty", "neighbour", "first/inner/deep", "first/inner/empty", "second/box"]
        {
            fs::create_dir_all(desk.path(directory)).unwrap();
        }
        for (file, text) in
            [("outside/secret", SECRET), ("first/inner/file", "inner"), ("second/kept", "kept")]
        {
            desk.file(file, text.as_bytes());
        }
        for (target, link) in [
            ("..", "first/up"),
            (&desk.path("outside/secret"), "first/secret"),
            ("/proc/self", "first/process"),
            ("secret", "outside/link"),
            ("../outside/secret", "second/out"),
        ] {
            symlink(target, desk.path(link)).unwrap();
        }
        let grant = format!("{}::/", desk.path("neighbour"));
        let neighbour = Running::start_speaking(desk.shim(&[
            "run",
            "--dir",
            &grant,
            &desk.guest("life"),
            "alive",
            " and well",
            "7",
        ]));
        let before = seen(&desk.path("outside"));
        Self { desk, neighbour, before }
    }

    /// The path of the guest with this text.
    pub(crate) fn text(&self, name: &str, text: &str) -> String {
        self.desk.file(&format!("{name}.wasm"), &wat::parse_str(text).unwrap())
    }

    /// The result of the guest with this text.
    pub(crate) fn run(&self, name: &str, text: &str) -> End {
        end_of(&mut self.limited(MEMORY, &[&self.text(name, text)]))
    }

    /// `wasm-shim run` with these arguments, with this memory limit for it and its compiler.
    pub(crate) fn limited(&self, memory: &str, line: &[&str]) -> Command {
        let mut shim = Command::new("prlimit");
        self.desk.environment(&mut shim);
        shim.args([&format!("--data={memory}"), "--core=0", "--"])
            .arg(program("wasm-shim"))
            .arg("run")
            .args(line);
        shim
    }

    /// The answers of one of the guests `paths_*` to these requests. The grant of its first directory ends with
    /// `grant`.
    pub(crate) fn ask(&self, guest: &str, grant: &str, requests: &str) -> Vec<String> {
        let dirs = [
            format!("{}::/first{grant}", self.desk.path("first")),
            format!("{}::/second", self.desk.path("second")),
        ];
        let end = self.start(guest, &dirs, requests);
        assert_eq!((end.code(), end.stderr().as_str()), (0, ""));
        let answers: Vec<_> = end.stdout().lines().map(str::to_owned).collect();
        assert_eq!(answers.len(), requests.lines().count());
        answers
    }

    /// The result of one of the guests `paths_*` with two directories and these requests.
    pub(crate) fn start(&self, guest: &str, dirs: &[String; 2], requests: &str) -> End {
        let mut shim = self.desk.shim(&["run", "--dir", &dirs[0], "--dir", &dirs[1], guest]);
        let mut child =
            shim.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stdin, text) = (child.stdin.take().unwrap(), requests.to_owned());
        // A guest that does not start reads nothing.
        let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let end = End(within(SOON, "the answers", move || child.wait_with_output().unwrap()));
        let written = writing.join().unwrap();
        assert!(written.is_ok() || end.code() != 0, "{written:?}");
        end
    }

    /// The files outside are unchanged, the neighbour runs to its end, and the cache holds code that runs.
    pub(crate) fn must_be_as_it_was(mut self) {
        assert_eq!(self.before, seen(&self.desk.path("outside")));
        self.desk.file("neighbour/go", b"");
        // Empty, if the neighbour ends as it should.
        let output = self.neighbour.line();
        assert_eq!(self.neighbour.wait(SOON).code(), Some(7), "the neighbour says: {output}");
        assert_eq!(fs::read_to_string(self.desk.path("neighbour/life")).unwrap(), "alive and well");
        for entry in self.desk.entries() {
            let complete = entry.extension().is_some_and(|extension| extension == "cwasm");
            assert!(
                complete && fs::metadata(&entry).unwrap().mode() & 0o777 == 0o444,
                "in the cache: {}",
                entry.display()
            );
        }
        assert_eq!(self.desk.run(&["run", &self.desk.guest("exit"), "42"]).code(), 42, "another guest");
    }
}

/// The exit code of a process that exited by itself, and printed only the usual messages of `wasm-shim`.
#[track_caller]
pub(crate) fn tidy(end: &End) -> i32 {
    for line in end.stderr().lines() {
        assert!(line.starts_with("wasm-shim: ") && !line.contains("bug in wasm-shim"), "{end:?}");
    }
    end.code()
}

/// Everything that is visible of a file or directory and its content, except for access times.
pub(crate) fn seen(path: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![Path::new(path).to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = match () {
            () if metadata.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            () if metadata.is_dir() => {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            () => fs::read(&path).unwrap().escape_ascii().to_string(),
        };
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let seen = format!("{:o} {} {times:?} {content}", metadata.mode(), metadata.nlink());
        all.insert(path.display().to_string(), seen);
    }
    all
}
