//! Forwards a task's output to Nomad and to the journal: copies stdin to stderr, which is Nomad's pipe, and to stdout,
//! which is the journal. This is a separate process, because it must keep running when the driver does not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

/// Copies until the task has ended or both outputs are closed.
pub fn forward() -> ExitCode {
    match copy() {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to report to: both outputs are closed, or stdin cannot be read.
        Err(_) => ExitCode::FAILURE,
    }
}

fn copy() -> io::Result<()> {
    // Files, because Rust's stdout would hold back an incomplete line.
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut places = vec![stdout, File::from(io::stderr().as_fd().try_clone_to_owned()?)];
    let mut chunk = vec![0; 64 << 10];
    while !places.is_empty() {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            // A closed output is dropped; the other output still receives everything.
            Ok(count) => places.retain_mut(|place| place.write_all(&chunk[..count]).is_ok()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::BrokenPipe.into())
}
