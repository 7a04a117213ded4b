//! Tests properties with random input: the same cases each time, or as many new ones as time allows.
//!
//! `FUZZ_SECONDS=3600 cargo test -p wasm-shim --lib fuzz_ -- --nocapture` tests each property for an hour. A failing
//! case is shrunk and printed, with the seed to reproduce it.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};
use std::time::{Duration, Instant};

/// The number of cases if no time is set.
const CASES: u32 = 500;
/// The number of cases between two looks at the clock.
const ROUND: u32 = 2000;

/// Tests `property` with values of `strategy`.
///
/// # Panics
/// When the property does not hold for one of the values.
#[track_caller]
pub(crate) fn holds_for<S: Strategy>(strategy: &S, property: impl Fn(S::Value) -> TestCaseResult) {
    let config = |cases| Config { cases, failure_persistence: None, ..Config::default() };
    let Some(seconds) = std::env::var("FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok()) else {
        let always_the_same = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(config(CASES), always_the_same);
        return runner.run(strategy, property).unwrap_or_else(|failure| panic!("{failure}"));
    };
    let (begun, mut cases) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        TestRunner::new(config(ROUND)).run(strategy, &property).unwrap_or_else(|failure| panic!("{failure}"));
        cases += ROUND;
    }
    eprintln!("{}: {cases} cases hold", std::thread::current().name().unwrap_or_default());
}
