//! Real-world programs as guests of `wasm-shim`: the output of compilers and standard libraries of Rust, C and Python.
//!
//! `tests/guests/build` builds them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::{Desk, End, Running, SOON, built_guest, end_of, program, within};

const TRAPPED: i32 = 134;

/// The same program for each generation of WASI.
const COMMANDS: [&str; 3] = ["command_p1", "command_p2", "command_p3"];
/// The same server for both generations that support servers.
const SERVERS: [&str; 2] = ["server_p2", "server_p3"];

#[test]
fn a_command_hears_its_arguments_and_variables() {
    let desk = Desk::new();
    for command in COMMANDS.into_iter().filter_map(built_guest) {
        let end = desk.run(&["run", &command, "args", "", "a b", "☃"]);
        assert_eq!((end.code(), end.stdout().as_str()), (0, "\na b\n☃\n"), "{command}: {end:?}");

        let end = desk.run(&["run", "--env", "A=1", "--env", "B=two words", &command, "env"]);
        assert_eq!((end.code(), end.stdout().as_str()), (0, "A=1\nB=two words\n"), "{command}: {end:?}");
    }
}

#[test]
fn a_command_reads_what_comes_in_to_its_end() {
    let desk = Desk::new();
    let text = "many words, ".repeat(20_000);
    for command in COMMANDS.into_iter().filter_map(built_guest) {
        let end = fed(&mut desk.shim(&["run", &command, "stdin"]), text.clone());
        assert_eq!(end.code(), 0, "{command}: {}", end.stderr());
        assert!(end.stdout() == text.to_uppercase(), "{command}: {} bytes came back", end.stdout().len());
    }
}

#[test]
fn a_command_writes_and_reads_files_where_it_may() {
    let desk = Desk::new();
    let shared = desk.path("shared");
    fs::create_dir(&shared).unwrap();
    for command in COMMANDS.into_iter().filter_map(built_guest) {
        let on = |grant: &str, words: &[&str]| {
            desk.run(&[&["run", "--dir", &format!("{shared}::/data{grant}"), &command], words].concat())
        };
        let end = on("", &["write", "/data/greeting", "hello\n"]);
        assert_eq!(end.code(), 0, "{command}: {end:?}");
        assert_eq!(fs::read_to_string(Path::new(&shared).join("greeting")).unwrap(), "hello\n");
        assert_eq!(on(":ro", &["read", "/data/greeting"]).stdout(), "hello\n", "{command}");

        assert_eq!(on(":ro", &["write", "/data/greeting", "bye\n"]).code(), 1, "{command}");
        assert_eq!(on("", &["read", "/data/../greeting"]).code(), 1, "{command}");
        assert_eq!(on("", &["read", "/data/greeting"]).stdout(), "hello\n", "{command}");
        fs::remove_file(Path::new(&shared).join("greeting")).unwrap();
    }
}

#[test]
fn a_command_ends_with_its_code_or_a_panic_with_its_words_and_its_stack() {
    let desk = Desk::new();
    for command in COMMANDS.into_iter().filter_map(built_guest) {
        for code in [0, 42, 200, 255] {
            assert_eq!(desk.run(&["run", &command, "exit", &code.to_string()]).code(), code, "{command}");
        }
        let end = desk.run(&["run", &command, "panic", "in these words"]);
        assert_eq!(end.code(), TRAPPED, "{command}: {end:?}");
        end.says("in these words");
        end.says("wasm-shim: trap: ");
        end.says("rust_panic");
    }
}

#[test]
fn a_command_waits_as_long_as_it_wants() {
    let desk = Desk::new();
    for command in COMMANDS.into_iter().filter_map(built_guest) {
        let begun = Instant::now();
        assert_eq!(desk.run(&["run", &command, "wait", "300"]).code(), 0, "{command}");
        assert!(begun.elapsed() >= Duration::from_millis(300), "{command}: {:?}", begun.elapsed());
    }
}

/// The result that SQLite should return for the rows that `guests/sqlite.c` creates.
fn found_by_hand() -> String {
    let share = |number: u64| number * 7919 % 1000;
    let numbers = 1..=100_000;
    let sum: u64 = numbers.clone().map(|number| number * share(number)).sum();
    let lengths: usize = numbers.clone().map(|number| format!("item {number}").len()).sum();
    let sevens = numbers.clone().filter(|number| share(*number) == 7).count();
    let first = numbers.clone().min_by_key(|number| (u64::MAX - share(*number), *number)).unwrap();
    format!("{} {sum} {lengths} {sevens} item {first}\nok\n", numbers.count())
}

#[test]
fn sqlite_finds_in_memory_and_in_a_file_what_was_put_there() {
    let Some(sqlite) = built_guest("sqlite") else { return };
    let desk = Desk::new();
    let shared = desk.path("shared");
    fs::create_dir(&shared).unwrap();
    let grant = format!("{shared}::/data");

    assert_eq!(desk.run(&[&sqlite, ":memory:"]).stdout(), found_by_hand());

    let end = desk.run(&["--dir", &grant, &sqlite, "/data/items.db"]);
    assert_eq!((end.code(), end.stdout()), (0, found_by_hand()), "{end:?}");
    let database = fs::read(Path::new(&shared).join("items.db")).unwrap();
    assert!(database.starts_with(b"SQLite format 3\0") && database.len() > 3_000_000);
    let left: Vec<_> = fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["items.db"], "and no journal");

    for line in [
        &[sqlite.as_str(), "/data/more.db"][..],
        &["--dir", &format!("{grant}:ro"), &sqlite, "/data/more.db"],
    ] {
        let end = desk.run(line);
        assert_eq!((end.code(), end.stdout().as_str()), (1, ""), "{end:?}");
        end.says("sqlite: unable to open database file");
    }
}

#[test]
fn a_large_component_is_compiled_once_and_then_starts_without_a_compiler() {
    let Some(python) = built_guest("python") else { return };
    let desk = Desk::new();
    let alone = desk.path("wasm-shim");
    // Not by fs::copy: a child that another test forks meanwhile would hold the file open for writing.
    assert!(Command::new("cp").arg(program("wasm-shim")).arg(&alone).status().unwrap().success());
    let start = |shim: &str| {
        let begun = Instant::now();
        let end = end_of(desk.environment(&mut Command::new(shim)).args([&python, "the cat and", "the hat"]));
        (end, begun.elapsed())
    };
    assert_ne!(start(&alone).0.code(), 0, "there is nothing in the cache");

    let counted = r#"{"and": 1, "cat": 1, "hat": 1, "the": 2}"#;
    let (end, first) = start(program("wasm-shim").to_str().unwrap());
    assert_eq!((end.code(), end.stdout().trim_end()), (0, counted), "{end:?}");
    let (end, second) = start(&alone);
    assert_eq!((end.code(), end.stdout().trim_end()), (0, counted), "{end:?}");
    assert!(second * 10 < first, "{first:?} with the compiler, {second:?} from the cache");
}

#[test]
fn a_server_answers_in_all_the_ways_that_http_knows() {
    let desk = Desk::new();
    for server in SERVERS.into_iter().filter_map(built_guest) {
        let (mut serving, address) = serve(&desk, &["--env", "A=1", "-W", "timeout=2s", &server]);
        let get = |path: &str| {
            let request = ureq::get(format!("http://{address}{path}"));
            answer(request.config().http_status_as_error(false).build().call())
        };
        let parts = (0..8).map(|number| format!("part {number}\n")).collect::<Vec<_>>().concat();
        for (path, status, text) in [
            ("/", 200, "hello\n"),
            ("/stream", 200, &parts),
            ("/env", 200, "A=1\n"),
            ("/absent", 404, "no such page\n"),
        ] {
            assert_eq!(get(path), (status, text.to_owned()), "{path} of {server}");
        }
        let begun = Instant::now();
        assert_eq!(get("/slow"), (200, "at last\n".to_owned()), "{server}");
        assert!(begun.elapsed() >= Duration::from_millis(500), "{server}");

        let text = "many words, ".repeat(100_000);
        let (status, back) = answer(ureq::post(format!("http://{address}/echo")).send(&text));
        assert!((status, &back) == (200, &text), "{server}: {status}, {} bytes", back.len());

        assert_eq!(get("/trap").0, 500, "{server}");
        assert_eq!(get("/spin").0, 504, "{server}");
        assert_eq!(get("/"), (200, "hello\n".to_owned()), "{server} goes on");

        serving.signal(Signal::TERM);
        assert_eq!(serving.wait(SOON).code(), Some(0), "{server}");
    }
}

#[test]
fn a_server_fetches_from_another_when_it_may() {
    let desk = Desk::new();
    let (Some(client), Some(server)) = (built_guest("server_p2"), built_guest("server_p3")) else { return };
    for (client, server) in [(&client, &server), (&server, &client)] {
        let (_serving, there) = serve(&desk, &[server]);
        let fetched = |grants: &[&str]| {
            let (_fetching, here) = serve(&desk, &[grants, &[client]].concat());
            let request = ureq::get(format!("http://{here}/fetch/{there}"));
            answer(request.config().http_status_as_error(false).build().call())
        };
        assert_eq!(fetched(&["--connect", &format!("tcp:{there}")]), (200, "hello\n".to_owned()), "{client}");
        let (status, why) = fetched(&[]);
        assert_eq!(status, 502, "{client}: {why}");
        assert!(
            why.contains("denied") || why.contains("Denied") || why.contains("prohibited"),
            "{client}: {why}"
        );
    }
}

/// How `command` ends with `text` as its input.
fn fed(command: &mut Command, text: String) -> End {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The guest may exit before it has read everything.
    std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    End(within(SOON, "the end of a process", move || child.wait_with_output().unwrap()))
}

/// A server on an address of its own.
fn serve(desk: &Desk, line: &[&str]) -> (Running, String) {
    let mut serving =
        Running::start_speaking(desk.shim(&[&["serve", "--addr", "127.0.0.1:0"], line].concat()));
    let output = serving.line();
    let address = output.trim_end().strip_prefix("wasm-shim: serving on http://");
    let address = address.unwrap_or_else(|| panic!("{output}")).trim_end_matches('/').to_owned();
    (serving, address)
}

fn answer(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, String) {
    let mut answer = answer.unwrap();
    let text = answer.body_mut().with_config().limit(1 << 24).read_to_string().unwrap();
    (answer.status().as_u16(), text)
}
