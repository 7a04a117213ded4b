//! Prints a greeting, and with an argument then waits for an hour: the smallest program with the standard library.

use std::time::Duration;
use std::{env, thread};

fn main() {
    println!("hello");
    if env::args().count() > 1 {
        thread::sleep(Duration::from_hours(1));
    }
}
