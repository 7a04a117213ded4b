//! Faults at random moments over a changing population of tasks, on a real systemd.
//!
//! Each task records its own life in its allocation's directory, and its end is decided before it starts. So the test
//! can check afterwards that every task ran exactly once, ended as it should, and left nothing behind.
//!
//! Every decision depends on the seed; only timing varies. A long run, as root:
//! `CHAOS_SEED=7 CHAOS_FAULTS=500 cargo test -p tests --test chaos -- --nocapture`
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod dice;
mod fate;
mod faults;
mod population;
mod run;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dice::Dice;
use population::World;
use tests::{Host, Need, Node};

/// The number of faults so far.
static FAULT: AtomicU64 = AtomicU64::new(0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_every_task_runs_once_ends_as_it_should_and_leaves_nothing() {
    let Some(host) = Host::alone(Need::Systemd).await else { return };
    let (seed, faults) = (number("CHAOS_SEED", 5), number("CHAOS_FAULTS", 15));
    eprintln!("chaos: CHAOS_SEED={seed} CHAOS_FAULTS={faults}");
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("chaos: CHAOS_SEED={seed}, at fault {}:", FAULT.load(Ordering::Relaxed));
        print(panic);
    }));

    let node = Node::configured(&host, "allow_root = \"host\"").await;
    let mut world = World { host, node, dice: Dice(seed), runs: Vec::new(), born: 0, is_shaken: false };
    while FAULT.load(Ordering::Relaxed) < faults {
        world.grow().await;
        world.age().await;
        // Every third fault is followed by the next one at once.
        for _ in 0..world.dice.one_of(&[1, 1, 2]) {
            let (count, began) = (FAULT.fetch_add(1, Ordering::Relaxed) + 1, Instant::now());
            let fault = Box::pin(world.suffer()).await;
            eprintln!("chaos: {count:4} {fault}, {} tasks, {:?}", world.runs.len(), began.elapsed());
        }
        world.come_to_rest().await;
        world.bury().await;
    }
    world.end().await;
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}
