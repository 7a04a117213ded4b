//! Arbitrary input for every parser of foreign data: properties, configurations, job files, cached code.
//!
//! Each property is tested with some hundreds of inputs, the same ones at every run. `FUZZ_SECONDS=60` tests each for a
//! minute instead, with new inputs:
//!
//! ```text
//! FUZZ_SECONDS=60 cargo test -p tests --test fuzz -- --test-threads 1 --nocapture NAME
//! ```
//!
//! A failing input is shrunk to a minimal one and printed. If the process itself dies, `target/tmp/fuzz-NAME` contains
//! the input.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod cached_code;
mod configuration;
mod corpus;
mod job_files;
mod properties;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// No input needs this much memory, whatever lengths it declares. A process that requests more is ended.
const MEMORY: u64 = 2 << 30;

/// Requires that `check` returns for all `inputs`. `check` panics if a property does not hold.
fn for_all<I: Strategy<Value: Debug>>(name: &str, cases: u32, inputs: &I, check: impl Fn(I::Value)) {
    limit_memory();
    let asked = std::env::var("FUZZ_SECONDS").ok();
    let seconds: Option<u64> = asked.map(|text| text.parse().expect("FUZZ_SECONDS is a number"));
    let last_input = format!("{}/fuzz-{name}", env!("CARGO_TARGET_TMPDIR"));
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or_default());
    let mut tried = 0;
    loop {
        let config =
            Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
        let mut runner = match seconds {
            Some(_) => TestRunner::new(config),
            None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::XorShift)),
        };
        let result = runner.run(inputs, |input| {
            if seconds.is_some() {
                std::fs::write(&last_input, format!("{input:?}")).expect("room for an input");
            }
            check(input);
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{name}: {failure}");
        }
        tried += cases;
        if Instant::now() >= end {
            break;
        }
    }
    eprintln!("{name}: {tried} inputs");
}

/// Limits the memory of this process, once for all tests.
fn limit_memory() {
    let Rlimit { maximum, .. } = getrlimit(Resource::As);
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum }).expect("less than before");
}

/// The CPU time that this thread needs for `work`, independent of the load of the machine.
fn computing_time(work: impl FnOnce()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("no time before zero");
    let begin = now();
    work();
    now().saturating_sub(begin)
}
