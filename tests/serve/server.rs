//! A server that serves while a test runs, and connections to it.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::{Desk, Manager, SOON, within};

/// How long a slow client waits for an answer before it sends another byte.
const PAUSE: Duration = Duration::from_millis(10);

/// A server that does not outlive its test.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) log: mpsc::Receiver<String>,
}

impl Server {
    pub(crate) fn with(desk: &Desk, guest: &str, line: &[&str]) -> Self {
        let shim = desk.shim(&[&["serve", "--addr", "127.0.0.1:0"], line, &[guest]].concat());
        Self::of(shim, "127.0.0.1:0".parse().unwrap())
    }

    pub(crate) fn command(desk: &Desk, line: &[&str]) -> Command {
        let web = desk.guest("web");
        desk.shim(&[&["serve", "--addr", "127.0.0.1:0"], line, &[&web]].concat())
    }

    pub(crate) fn start(desk: &Desk, line: &[&str]) -> Self {
        Self::of(Self::command(desk, line), "127.0.0.1:0".parse().unwrap())
    }

    pub(crate) fn told(desk: &Desk, line: &[&str], manager: &Manager) -> Self {
        let mut shim = Self::command(desk, line);
        manager.listen_to(&mut shim);
        Self::of(shim, "127.0.0.1:0".parse().unwrap())
    }

    /// Waits until the server serves. The address is already known if the socket was passed.
    pub(crate) fn of(mut command: Command, address: SocketAddr) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, log) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut server = Self { child, address, log };
        let line = server.says("serving on ");
        if let Some((_, rest)) = line.split_once("http://") {
            server.address = rest.trim_end_matches('/').parse().unwrap();
        }
        server
    }

    /// The most memory that the server's process had, in bytes.
    pub(crate) fn peak(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// Waits for a line of the server's log.
    #[track_caller]
    pub(crate) fn says(&mut self, part: &str) -> String {
        let end = Instant::now() + SOON;
        let mut output = Vec::new();
        loop {
            match self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => output.push(line),
                Err(over) => panic!("it does not say `{part}` ({over}), but: {output:#?}"),
            }
        }
    }

    pub(crate) fn connect(&self) -> Connection<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Connection(stream)
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.connect().get(path)
    }

    /// The answer arrives through the channel. The request has been sent when this returns.
    pub(crate) fn get_meanwhile(&self, path: &str) -> mpsc::Receiver<(u16, String)> {
        let (sender, receiver) = mpsc::channel();
        let mut connection = self.connect();
        connection.ask(path);
        thread::spawn(move || sender.send(connection.answer()));
        receiver
    }

    /// Waits until the server has a pool of instances, which takes more address space than an instance.
    pub(crate) fn has_pool(&self) {
        let status = format!("/proc/{}/status", self.child.id());
        let size = move || {
            let status = fs::read_to_string(&status).unwrap();
            let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap().trim();
            size.trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        // 4 GiB for each of the two memories that an instance in a pool has room for.
        within(SOON, "the pool", move || while size() < 8 << 20 {});
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn wait(mut self) -> Option<i32> {
        let mut child = std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap());
        within(SOON, "the end of the server", move || child.wait().unwrap()).code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if the test has waited for it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client's connection.
pub(crate) struct Connection<S>(pub(crate) S);

impl Connection<TcpStream> {
    /// Sends a byte now and then until there is an answer, and returns its status; also 408 if the connection was reset
    /// before it could be read.
    pub(crate) fn trickle(mut self) -> u16 {
        self.0.set_read_timeout(Some(PAUSE)).unwrap();
        let mut head = [0; 12];
        loop {
            let sent = self.0.write_all(b"x");
            match self.0.read_exact(&mut head) {
                Ok(()) => return std::str::from_utf8(&head[9..]).unwrap().parse().unwrap(),
                Err(error) if error.kind() == ErrorKind::WouldBlock && sent.is_ok() => {}
                Err(_) => return 408,
            }
        }
    }
}

impl<S: Read + Write> Connection<S> {
    pub(crate) fn get(&mut self, path: &str) -> (u16, String) {
        self.ask(path);
        self.answer()
    }

    pub(crate) fn ask(&mut self, path: &str) {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
    }

    /// The status and the body, with a given length or in chunks.
    pub(crate) fn answer(&mut self) -> (u16, String) {
        let mut reader = BufReader::with_capacity(1, &mut self.0);
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line.trim_end().to_ascii_lowercase()
        };
        let status = line().split(' ').nth(1).unwrap().parse().unwrap();
        let head: Vec<_> = std::iter::from_fn(|| Some(line()).filter(|line| !line.is_empty())).collect();
        let given = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let mut body = vec![0; given.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        while given.is_none() {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
            reader.read_exact(&mut chunk).unwrap();
            match chunk.strip_suffix(b"\r\n").unwrap() {
                [] => break,
                chunk => body.extend_from_slice(chunk),
            }
        }
        (status, String::from_utf8(body).unwrap())
    }
}
