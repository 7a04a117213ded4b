//! Says hello, and with an argument waits for an hour then: as little as a program of the standard library can be.

use std::time::Duration;
use std::{env, thread};

fn main() {
    println!("hello");
    if env::args().count() > 1 {
        thread::sleep(Duration::from_hours(1));
    }
}
