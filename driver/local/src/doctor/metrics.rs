//! The address of the plugin option `metrics_address`: does another program listen there?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::agent::Agent;
use super::finding::Finding;

const CHECK: &str = "metrics_address";
/// Time for an answer.
const SOON: Duration = Duration::from_secs(1);
/// The most of an answer that is read, in bytes.
const MOST: usize = 1 << 16;
/// The ports of an agent (Nomad's documentation, "Ports Used"): HTTP, RPC and Serf.
const OF_AGENTS: [u16; 3] = [4646, 4647, 4648];

/// Checks the address before a driver of this command listens there.
pub(super) fn finding(agent: &Agent) -> Option<Finding> {
    // A UNIX socket that is in use is replaced.
    let address: SocketAddr = agent.option(CHECK)?.parse().ok()?;
    let found = if OF_AGENTS.contains(&address.port()) {
        format!("{address} is a port of Nomad agents")
    } else if is_of_another(address) {
        format!("another program listens at {address}")
    } else {
        return None;
    };
    Some(Finding::warning(
        CHECK,
        found,
        "The agent and the driver, or the other program, cannot both have it: there are no metrics, or the agent does not start.",
        format!("Name a free port as `{CHECK}`, such as \"127.0.0.1:9633\", and restart the agent."),
    ))
}

/// Does something listen there that shows no metrics of ours?
fn is_of_another(address: SocketAddr) -> bool {
    let answer = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        // What does not answer is not ours, either; nor is what sends a byte at a time.
        let (began, mut answer, mut part) = (Instant::now(), Vec::new(), [0; 4096]);
        let _ = stream.write_all(request.as_bytes());
        while began.elapsed() < SOON && answer.len() < MOST {
            match stream.read(&mut part) {
                Ok(length @ 1..) => answer.extend_from_slice(&part[..length]),
                _ => break,
            }
        }
        Ok(answer)
    };
    answer().is_ok_and(|answer| !String::from_utf8_lossy(&answer).contains("nomad_systemd_"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_told_apart_by_its_answer() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(!is_of_another(nobody));
        for (answer, is_other) in [("nomad_systemd_tasks 1\n", false), ("hello", true)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let serving = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{answer}").unwrap();
            });
            assert_eq!(is_of_another(address), is_other, "{answer}");
            serving.join().unwrap();
        }
    }
}
