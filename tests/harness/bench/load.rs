//! Clients of an HTTP server: each sends the next request as soon as it has the answer, on a connection that stays
//! open.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::milliseconds;

/// The path that the clients request.
pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

/// The result of a measurement.
#[derive(Default)]
pub(crate) struct Load {
    /// The duration of each answer, the shortest first.
    latencies: Vec<Duration>,
    /// Requests per second.
    pub rate: f64,
    /// The share of a CPU that the clients used. Near 1, the clients are measured and not the server.
    pub busy: f64,
}

impl Load {
    /// The time in milliseconds within which this percentage of answers arrived.
    pub(crate) fn within(&self, percent: usize) -> f64 {
        milliseconds(self.latencies[self.latencies.len() * percent / 100])
    }
}

/// Lets `clients` send requests to the server at `address` for this time, from this thread.
pub(crate) fn drive(address: SocketAddr, clients: usize, lasting: Duration) -> Load {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connections = Vec::new();
        for _ in 0..clients {
            let connection = TcpStream::connect(address).await.unwrap();
            connection.set_nodelay(true).unwrap();
            connections.push(connection);
        }
        let (began, used) = (Instant::now(), cpu_time());
        let end = began + lasting;
        let asking: Vec<_> = connections.into_iter().map(|one| tokio::spawn(ask_until(end, one))).collect();
        let mut load = Load::default();
        for one in asking {
            load.latencies.append(&mut one.await.unwrap());
        }
        let took = began.elapsed().as_secs_f64();
        load.rate = f64::from(u32::try_from(load.latencies.len()).unwrap()) / took;
        load.busy = (cpu_time() - used) / took;
        load.latencies.sort_unstable();
        load
    })
}

async fn ask_until(end: Instant, mut connection: TcpStream) -> Vec<Duration> {
    let (mut latencies, mut answer) = (Vec::new(), Vec::with_capacity(4096));
    loop {
        let began = Instant::now();
        if began >= end {
            return latencies;
        }
        connection.write_all(REQUEST).await.unwrap();
        answer.clear();
        while !is_complete(&answer) {
            assert_ne!(connection.read_buf(&mut answer).await.unwrap(), 0, "the server hangs up");
        }
        latencies.push(began.elapsed());
    }
}

/// Whether the answer is complete. Its status must be a success.
pub(crate) fn is_complete(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = str::from_utf8(&answer[..head]).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => answer.len() == head.len() + 4 + length.parse::<usize>().unwrap(),
        None => answer.ends_with(b"\r\n0\r\n\r\n"),
    }
}

/// The CPU time of this thread, in seconds.
fn cpu_time() -> f64 {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap().as_secs_f64()
}
