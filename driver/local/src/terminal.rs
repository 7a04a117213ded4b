//! The terminal output: the tasks' output with the task's name before each line, and notes of our own.
//!
//! A task's stdout goes to our stdout and its stderr to ours, so that a pipe behind `run` gets the task's output; notes
//! go to stderr. A reader that has closed the pipe is not a reason to end the tasks: write errors are ignored.

use std::io::{self, IsTerminal, Write};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

/// Longer lines are broken, as a terminal would do.
const LONGEST_LINE: u64 = 64 * 1024;

/// The foreground colours of the names, used in turn: cyan, green, magenta, yellow, blue.
const COLOURS: [u8; 5] = [36, 32, 35, 33, 34];

/// One of a task's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// How lines are written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Terminal {
    /// With the name of the task before each line.
    Named {
        /// The width of the longest name.
        width: usize,
    },
    /// As they are.
    Plain,
    /// As a JSON object per line, on stdout.
    Json,
}

impl Terminal {
    /// Writes one line of a task; `bytes` may end with a line end or not.
    pub(crate) fn line(&self, task: &Name, stream: Stream, bytes: &[u8]) {
        if matches!(self, Self::Json) {
            let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
            let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(bytes));
            return object(&json!({ "task": task.name, "stream": stream, "line": text }));
        }
        match stream {
            Stream::Stdout => self.write(&mut io::stdout().lock(), io::stdout().is_terminal(), task, bytes),
            Stream::Stderr => self.write(&mut io::stderr().lock(), io::stderr().is_terminal(), task, bytes),
        }
    }

    fn write(&self, to: &mut dyn Write, terminal: bool, task: &Name, bytes: &[u8]) {
        let mut line = Vec::with_capacity(bytes.len() + 32);
        if let Self::Named { width } = *self {
            let name = format!("{:width$} | ", task.name);
            let coloured = terminal && std::env::var_os("NO_COLOR").is_none();
            let text = if coloured { format!("\x1b[{}m{name}\x1b[0m", task.colour) } else { name };
            line.extend_from_slice(text.as_bytes());
        }
        line.extend_from_slice(bytes);
        if !bytes.ends_with(b"\n") {
            line.push(b'\n');
        }
        let _ = to.write_all(&line).and_then(|()| to.flush());
    }

    /// Writes the output from a pipe, until its end.
    pub(crate) async fn pump(self, reader: pipe::Receiver, task: Name, stream: Stream) {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while matches!((&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).await, Ok(1..)) {
            // A reader that does not read holds up this thread alone.
            tokio::task::block_in_place(|| self.line(&task, stream, &line));
            line.clear();
        }
    }
}

/// Prints a JSON object on a line of stdout.
pub(crate) fn object(object: &serde_json::Value) {
    let _ = writeln!(io::stdout().lock(), "{object}");
}

/// Prints a note of our own.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A task's name with its colour.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    name: String,
    colour: u8,
}

impl Name {
    /// The colour depends on the index of the task.
    pub(crate) fn new(name: &str, number: usize) -> Self {
        Self { name: name.to_owned(), colour: COLOURS[number % COLOURS.len()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_carry_the_name_of_their_task() {
        let written = |terminal: Terminal, bytes: &[u8]| {
            let mut to = Vec::new();
            terminal.write(&mut to, false, &Name::new("db", 0), bytes);
            String::from_utf8(to).unwrap()
        };
        let named = Terminal::Named { width: 4 };
        assert_eq!(written(named, b"ready\n"), "db   | ready\n");
        assert_eq!(written(named, b"no end"), "db   | no end\n");
        assert_eq!(written(Terminal::Plain, b"ready\n"), "ready\n");
    }
}
