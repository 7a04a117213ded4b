//! How a guest ends: exit codes, events, limits, and proposals that are switched on or off.

use shim_interface::Proposal;
use tests::{Exit, Job, Node, exiting_guest, program, wasm};

use super::{command, with};

/// Grows a table until this is refused, and gives up.
const TABLES: &str = r#"(module
    (table $table 1 funcref)
    (func (export "_start")
        (loop $more
            (br_if $more (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))))
        unreachable))"#;

/// Imports an existing interface, and from it a function that does not exist.
const NO_FUNCTION: &str = r#"(component
    (import "wasi:cli/environment@0.2.0" (instance (export "get-rocket" (func))))
    (core module $m (func (export "run") (result i32) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#;

#[tokio::test]
async fn each_way_in_which_a_guest_can_end_has_its_exit_code_and_an_event_of_its_own() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    let tables = |options: &str| {
        Job::artifact("tables.wasm", &wasm(TABLES)).config(&format!("wasm {{\n{options}\n}}"))
    };
    for (job, code, outcome, word) in [
        (with("spin.wat", "fuel = 100000"), 121, "out of fuel", "`wasm.fuel`"),
        (with("spin.wat", "timeout = \"100ms\""), 124, "deadline", "`wasm.timeout`"),
        (tables("max_table_elements = 5000"), 122, "memory limit", "`wasm.max_table_elements`"),
        (with("deep.wat", "max_stack = \"64K\""), 134, "trap", "stack"),
        (with("trap.wat", ""), 134, "trap", "out of bounds"),
        (Job::artifact("guest.wasm", &wasm(NO_FUNCTION)), 127, "missing import", "get-rocket"),
        (with("no_start.wat", ""), 126, "bad module", "_start"),
        (with("hello.wat", "dirs = [\"/no/such\"]"), 125, "failed", "/no/such"),
    ] {
        let what = format!("{:?}", job.options);
        let task = node.run(job).await;
        let event = events.until(&task, "WebAssembly: ").await;
        assert!(event.message.starts_with(&format!("WebAssembly: {outcome}: ")), "{what}: {event:?}");
        assert!(event.message.contains(word), "{what}: {event:?}");
        assert_eq!(event.annotations["wasm_outcome"], outcome);
        assert!(event.message.contains(&event.annotations["wasm_message"]), "{event:?}");
        let (exit, _, errors) = node.finish(task).await;
        assert_eq!(exit, Exit::status(code), "{what}: {errors}");
    }
}

#[tokio::test]
async fn a_guest_is_refused_memory_before_the_task_is_killed_for_it() {
    let host = host!();
    let node = Node::start(&host).await;
    let mut events = node.events().await;
    for (options, memory, asks, refused) in [
        ("max_memory = \"16M\"", 256, "50000000", true),
        ("max_memory = \"128M\"", 256, "50000000", false),
        ("", 64, "60000000", true),
        ("", 64, "40000000", false),
    ] {
        let job = command!(options, &["memory", asks]).with(|request| request.memory = memory);
        let task = node.run(job).await;
        if refused {
            let event = events.until(&task, "WebAssembly: memory limit: ").await;
            assert!(event.message.contains("`wasm.max_memory`"), "{event:?}");
        }
        let (exit, _, errors) = node.finish(task).await;
        let expected = Exit::status(if refused { 122 } else { 0 });
        assert_eq!(exit, expected, "{options}, {memory} MiB, {asks}: {errors}");
    }
}

#[tokio::test]
async fn a_guest_that_was_built_for_debugging_shows_the_lines_where_it_trapped() {
    let host = host!();
    let node = Node::start(&host).await;
    let source = tests::repository().join("tests/guests/trap.wat");
    let guest = wat::Parser::new().generate_dwarf(wat::GenerateDwarf::Lines).parse_file(source).unwrap();
    for (options, has_lines) in [("backtrace_details = true", true), ("", false)] {
        let job = Job::artifact("trap.wasm", &guest).config(&format!("wasm {{\n{options}\n}}"));
        let task = node.run(job).await;
        let (_, _, errors) = node.finish(task).await;
        assert_eq!(errors.contains("trap.wat:"), has_lines, "{options}: {errors}");
    }
}

#[tokio::test]
async fn an_exit_code_of_the_guests_own_is_no_outcome() {
    let host = host!();
    let node = Node::start(&host).await;
    for code in [121, 122, 124, 125, 126, 127, 134] {
        let mut events = node.events().await;
        let task = node.run(Job::artifact("exit.wasm", &exiting_guest(code))).await;
        assert_eq!(node.wait(&task).await, Exit::status(code));
        let next = node.run(Job::shell("true")).await;
        let told = events.before(&next).await;
        assert_eq!(told.len(), 1, "that it runs, and no more: {told:?}");
        for task in [task, next] {
            node.destroy(&task, true).await.unwrap();
        }
    }
}

/// Uses a vector.
const VECTOR: &str = r#"(module (func (export "_start") (drop (i32x4.splat (i32.const 1)))))"#;

#[tokio::test]
async fn parts_of_the_language_can_be_switched_and_code_is_not_shared_between_ways_of_compiling() {
    let host = host!();
    let node = Node::start(&host).await;
    let job = |options: &str| {
        Job::artifact("vector.wasm", &wasm(VECTOR)).config(&format!("wasm {{\n{options}\n}}"))
    };
    for options in ["", "proposals = { simd = \"true\" }", "fuel = 1000", "fuel = 2000"] {
        let task = node.run(job(options)).await;
        let (exit, _, errors) = node.finish(task).await;
        assert_eq!(exit, Exit::status(0), "{options}: {errors}");
    }
    let without = job("proposals = { simd = \"false\", relaxed_simd = \"false\" }");
    let refusal = node.try_run(without).await.unwrap_err();
    assert!(refusal.message.contains("SIMD") && !refusal.recoverable, "{refusal}");
    let compiled = node.records().iter().filter(|record| record.message == "compiling WebAssembly").count();
    assert!((3..=4).contains(&compiled), "it depends on fuel, and not on how much: {compiled}");
}

#[tokio::test]
async fn every_proposal_that_a_job_may_name_is_one_that_the_compiler_knows() {
    let _host = host!();
    for name in Proposal::ALL.map(Proposal::name) {
        let mut compiler = std::process::Command::new(program("wasm-shim-compile"));
        let output = compiler.args(["--engine-key", "-W", &format!("{name}=y")]).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
