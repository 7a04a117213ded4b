//! Job files, which `nomad-driver-systemd run` reads.

use std::collections::BTreeMap;
use std::path::Path;

use nomad_local::jobspec::expression::Scope;
use nomad_local::jobspec::{self, Given};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::corpus::{changed, edited, edits, piece};
use super::{computing_time, for_all};

/// Elements of the language, each perhaps repeated too often.
const LANGUAGE: &[&str] = &[
    "job \"j\" {",
    "group \"g\" {",
    "task \"t\" {",
    "driver = \"systemd\"",
    "config {",
    "}",
    "\n",
    "env {",
    "locals {",
    "variable \"v\" {",
    "default = ",
    "type = list(string)",
    "type = object({ a = number })",
    "x = ",
    "a = 1",
    "command = \"true\"",
    "network {",
    "port \"http\" {",
    "static = ",
    "resources {",
    "memory = ",
    "cpu = ",
    "kill_timeout = \"1h\"",
    "kill_timeout = \"99999999999999999999h\"",
    "meta = { a = 1 }",
    "volume_mount {",
    "artifact {",
    "source = ",
    "constraint {",
    "dynamic \"task\" {",
    "for_each = [1, 2]",
    "for_each = range(1000)",
    "iterator = each",
    "labels = [each.value]",
    "content {",
    "each.key",
    "file(\"/dev/null\")",
    "indent(1024, ",
    "slice([1], 0, ",
    "range(1, 9e18, ",
    "base64decode(",
    "var.v",
    "local.x",
    "local.a",
    "NOMAD_TASK_DIR",
    "attr.kernel.name",
    "env[\"PATH\"]",
    "null",
    "true",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "1e308",
    "1e999",
    "0.1",
    "[",
    "]",
    "{ a = ",
    "(",
    ")",
    "!",
    "-",
    "\"",
    "\"${",
    "\"%{ if true }",
    "%{ else }",
    "%{ endif }",
    "%{ for x in [1] }",
    "%{ endfor }",
    "<<EOF\n",
    "<<-EOF\n",
    "\nEOF\n",
    "$${",
    "%%{",
    "\\u0000",
    "\\U0010ffff",
    "[for x in [1, 2] : x]",
    "{ for k, v in { a = 1 } : k => v... }",
    "[*]",
    ".*",
    ".0",
    "[0]",
    "[-1]",
    "true ? 1 : 2",
    " ? ",
    " : ",
    " + ",
    " / 0",
    " % 0",
    " == ",
    " && ",
    "abs(",
    "format(\"%s %q %v\", ",
    "substr(\"häß\", ",
    "flatten([[",
    "jsondecode(\"[[[",
    "jsonencode(",
    "replace(\"aaa\", \"\", ",
    "split(\"\", ",
    "join(",
    "merge(",
    "lookup(",
    "sort(",
    "reverse(",
    "max(",
    "min(",
    "keys(",
    "length(",
    "upper(\"ß",
    "...",
    ", ",
    "# x\n",
    "// x\n",
    "/*",
    "*/",
];

fn examples() -> Vec<String> {
    let directory = std::fs::read_dir(tests::repository().join("examples")).expect("the examples");
    let paths = directory.map(|file| file.expect("an example").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "hcl")).collect();
    paths.sort();
    let examples: Vec<_> =
        paths.iter().map(|path| std::fs::read_to_string(path).expect("an example")).collect();
    assert!(examples.len() > 5);
    examples
}

/// An element of the language.
fn word() -> impl Strategy<Value = Vec<char>> {
    prop_oneof![
        6 => select(LANGUAGE).prop_map(|word| word.chars().collect()),
        2 => piece(),
        1 => (select(LANGUAGE), 1..300_usize).prop_map(|(word, times)| word.repeat(times).chars().collect()),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    vec(word(), 0..12).prop_map(|words| words.into_iter().flatten().collect())
}

fn job_file() -> impl Strategy<Value = String> {
    let example = || select(examples());
    let changed_example = (example(), edits(word(), 5))
        .prop_map(|(example, edits)| edited(example.chars().collect(), &edits).into_iter().collect());
    // Within a job that is valid except for the expression.
    let of_expression = expression().prop_map(|x| {
        format!("locals {{\n  x = {x}\n}}\njob \"j\" {{\n  group \"g\" {{\n    task \"t\" {{\n      driver = \"systemd\"\n      config {{\n        command = local.x\n      }}\n    }}\n  }}\n}}\n")
    });
    prop_oneof![3 => changed_example, 1 => changed(examples(), 4), 2 => expression(), 3 => of_expression]
}

/// Runs `work` on a thread with a stack as large as that of the main thread, on which job files are read.
fn on_a_main_thread(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(work).expect("a thread");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Reads a job file as `run` and `unit` do; the result is a value or an error, soon.
fn read(text: &str) {
    let variables = BTreeMap::from([("v".to_owned(), Given::Text("1".to_owned()))]);
    for variables in [BTreeMap::new(), variables] {
        let time = computing_time(|| {
            if let Err(error) = jobspec::parse(text, &variables, Path::new("/")) {
                assert!(!nomad_driver_systemd::chain(&error).is_empty());
            }
        });
        assert!(time.as_secs() < 5, "it takes {time:?}");
    }
}

#[test]
fn every_example_is_a_job() {
    for example in examples() {
        jobspec::parse(&example, &BTreeMap::new(), Path::new("/"))
            .unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
}

#[test]
fn a_job_file_is_read_or_refused() {
    on_a_main_thread(|| {
        for_all("job-files", 400, &job_file(), |text| read(&text));
    });
}

#[test]
fn a_text_with_expressions_has_a_value_or_an_error() {
    on_a_main_thread(|| {
        for_all("expressions", 1500, &expression(), |text| {
            let time = computing_time(|| {
                let _ = Scope::of_plugin().text(&text);
                let _ = Scope::of_job(hcl::Map::new(), hcl::Map::new()).text(&text);
            });
            assert!(time.as_secs() < 5, "it takes {time:?}");
        });
    });
}

#[test]
fn what_is_nested_without_end_is_refused() {
    on_a_main_thread(|| {
        for depth in [60, 200, 10_000] {
            for (open, middle, close) in [
                ("(", "1", ")"),
                ("[", "1", "]"),
                ("{ a = ", "1", "}"),
                ("!", "true", ""),
                ("-", "1", ""),
                ("- ", "1", ""),
                ("\"${", "1", "}\""),
                ("\"%{ if true }", "x", "%{ endif }\""),
                ("abs(", "1", ")"),
                ("true ? ", "1", " : 2"),
                ("true ? 1 : ", "2", ""),
                ("1 + ", "1", ""),
                ("", "x", ".a"),
                ("", "x", "[0]"),
                ("", "x", "[*]"),
                ("[for x in ", "[]", " : x]"),
                ("[for x in [] : ", "x", "]"),
                ("a { ", "", "}"),
                ("a \"b\" { ", "", "}"),
            ] {
                let nested = open.repeat(depth) + middle + &close.repeat(depth);
                read(&format!("locals {{\n  x = {nested}\n}}\n"));
                read(&nested);
                let _ = Scope::of_plugin().text(&format!("${{{nested}}}"));
            }
        }
    });
}

#[test]
fn a_decoded_text_that_is_nested_without_end_is_refused() {
    on_a_main_thread(|| {
        for depth in [100, 1000, 100_000] {
            let json = "[".repeat(depth) + &"]".repeat(depth);
            read(&format!("locals {{\n  x = flatten(jsondecode(\"{json}\"))\n}}\n"));
        }
    });
}

#[test]
fn a_long_job_file_takes_no_longer_than_its_length() {
    on_a_main_thread(|| {
        let example = &examples()[0];
        for word in LANGUAGE {
            read(&word.repeat(20_000 / word.len()));
            read(&format!("{example}{}", word.repeat(5_000 / word.len())));
            read(&format!("locals {{\n x = \"{}\"\n}}\n", word.repeat(20_000 / word.len())));
        }
        let locals: Vec<_> = (0..200).map(|number| format!("  a{number} = local.a{}", number + 1)).collect();
        read(&format!("locals {{\n{}\n  a200 = 1\n}}\n{example}", locals.join("\n")));
    });
}
