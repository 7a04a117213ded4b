//! Copies a task's output to two places: what it reads from stdin goes to stderr, which is Nomad's pipe, and to stdout,
//! which is the journal. A process of its own, because it must go on when the driver does not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

/// Copies until the task has ended, or nobody is left to write to.
pub fn stdin_to_both() -> ExitCode {
    match copy() {
        Ok(()) => ExitCode::SUCCESS,
        // Whom to tell? Both places are gone, or there is nothing to read.
        Err(_) => ExitCode::FAILURE,
    }
}

fn copy() -> io::Result<()> {
    // Files, because Rust's stdout would keep back a line that is not yet whole.
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut places = vec![stdout, File::from(io::stderr().as_fd().try_clone_to_owned()?)];
    let mut chunk = vec![0; 64 << 10];
    while !places.is_empty() {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            // One that went away is left out from now on; the other one still gets everything.
            Ok(count) => places.retain_mut(|place| place.write_all(&chunk[..count]).is_ok()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::BrokenPipe.into())
}
