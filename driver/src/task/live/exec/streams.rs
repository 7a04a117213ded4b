//! The streams and the terminal of a command, between it and its client.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;

use futures_util::{Stream, StreamExt};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc::Sender;

use super::process::Running;
use super::{Input, Output};

/// Maximum size of a piece of output that is forwarded at once, in bytes.
pub(super) const CHUNK: usize = 16 << 10;
/// How many pieces are read after the command's end: the largest pipe of a user holds 64. Others may keep writing.
pub(super) const LAST_CHUNKS: usize = 64;

impl Running {
    /// A command with streams has ended when its process has exited and both outputs have ended.
    pub(super) async fn serve_streams(
        &mut self,
        input: impl Stream<Item = Input> + Unpin,
        output: &Sender<Output>,
    ) -> io::Result<ExitStatus> {
        let missing = || io::Error::other("a stream of the command is missing");
        let stdin = self.stdin.take().ok_or_else(missing)?;
        let stdout = self.stdout.take().ok_or_else(missing)?;
        let stderr = self.stderr.take().ok_or_else(missing)?;
        let out = async {
            pass_on(stdout, Output::Stdout, output).await;
            output.send(Output::StdoutEnd).await
        };
        let err = async {
            pass_on(stderr, Output::Stderr, output).await;
            output.send(Output::StderrEnd).await
        };
        let ended = async { tokio::join!(self.ended(), out, err).0 };
        tokio::select! {
            status = ended => status,
            never = feed(stdin, input) => match never {},
        }
    }

    /// A command with a terminal has ended when its process has exited: background processes may hold the terminal.
    pub(super) async fn serve_terminal(
        &mut self,
        terminal: Terminal,
        input: impl Stream<Item = Input> + Unpin,
        output: &Sender<Output>,
    ) -> io::Result<ExitStatus> {
        let Terminal { mut reader, writer } = terminal;
        let status = tokio::select! {
            status = self.ended() => status?,
            // Nobody has the other end open any more, which the kernel reports as an error.
            () = pass_on(&mut reader, Output::Stdout, output) => self.ended().await?,
            never = feed_terminal(writer, input) => match never {},
        };
        let mut chunk = vec![0; CHUNK];
        for _ in 0..LAST_CHUNKS {
            let Some(count) = read_now(&reader, &mut chunk) else { break };
            // A client that has disconnected is sent nothing.
            let _ = output.send(Output::Stdout(chunk[..count].to_vec())).await;
        }
        let _ = output.send(Output::StdoutEnd).await;
        let _ = output.send(Output::StderrEnd).await;
        Ok(status)
    }
}

/// Forwards output until the end of the stream. Cancel safe: no output that was read is lost.
async fn pass_on(mut from: impl AsyncRead + Unpin, piece: fn(Vec<u8>) -> Output, to: &Sender<Output>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(room) = to.reserve().await {
        match from.read(&mut chunk).await {
            Ok(count @ 1..) => room.send(piece(chunk[..count].to_vec())),
            _ => return,
        }
    }
}

/// Reads only what is available already. Asks the kernel, since tokio may not have been notified yet.
pub(super) fn read_now(from: &pipe::Receiver, chunk: &mut [u8]) -> Option<usize> {
    rustix::io::read(from, chunk).ok().filter(|count| *count > 0)
}

/// Writes until the client ends the input, and then waits for ever: only the command's end ends the session.
async fn feed(
    stdin: impl AsyncWrite + Unpin,
    mut input: impl Stream<Item = Input> + Unpin,
) -> std::convert::Infallible {
    let mut stdin = Some(stdin);
    while let Some(input) = input.next().await {
        match (input, &mut stdin) {
            (Input::Data(data), Some(open)) => {
                // A command need not read its input.
                if open.write_all(&data).await.is_err() {
                    stdin = None;
                }
            }
            (Input::End, _) => stdin = None,
            (Input::Size(..), _) | (Input::Data(_), None) => {}
        }
    }
    std::future::pending().await
}

/// The driver's end of a terminal. It is read and written like a pipe, which is all that tokio needs to know.
#[derive(Debug)]
pub(super) struct Terminal {
    reader: pipe::Receiver,
    writer: pipe::Sender,
}

impl Terminal {
    /// Opens a new terminal, with three descriptors of the command's end.
    pub(super) fn open() -> io::Result<(Self, [OwnedFd; 3])> {
        let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&ours)?;
        rustix::pty::unlockpt(&ours)?;
        // By descriptor: its path refers to another terminal in another view.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
        let ends = [theirs.try_clone()?, theirs.try_clone()?, theirs];
        rustix::io::ioctl_fionbio(&ours, true)?;
        let writer = pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?;
        Ok((Self { reader: pipe::Receiver::from_owned_fd_unchecked(ours)?, writer }, ends))
    }
}

/// Writes for ever: only the command's end ends the session.
async fn feed_terminal(
    mut terminal: pipe::Sender,
    mut input: impl Stream<Item = Input> + Unpin,
) -> std::convert::Infallible {
    /// The character that a person types to end the input of a program.
    const END_OF_TRANSMISSION: &[u8] = b"\x04";
    while let Some(input) = input.next().await {
        // If nobody has the other end open, the command has ended, which is reported elsewhere.
        let _ = match input {
            Input::Data(data) => terminal.write_all(&data).await,
            Input::End => terminal.write_all(END_OF_TRANSMISSION).await,
            Input::Size(rows, columns) => {
                let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                rustix::termios::tcsetwinsize(&terminal, size).map_err(io::Error::from)
            }
        };
    }
    std::future::pending().await
}
