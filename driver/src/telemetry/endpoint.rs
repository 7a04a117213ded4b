//! The HTTP server for Prometheus: `GET /metrics` on a loopback address or on a UNIX socket.
//!
//! Tasks in the host's network reach a loopback address. So a client can take few places, and none for long.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

/// What the option must be.
pub const WANTED: &str =
    "a loopback address with a port, such as \"127.0.0.1:9633\", or the absolute path of a UNIX socket";

/// How many clients are answered at once.
const CLIENTS: usize = 8;
/// How long a client may take, from its connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before an address that is in use is tried again: an earlier process of the driver may have it.
const AGAIN: Duration = Duration::from_secs(5);

/// Where metrics are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A port of a loopback address, such as `127.0.0.1:9633`.
    Loopback(SocketAddr),
    /// A UNIX socket that only the driver's user can connect to, such as `/run/nomad-driver-systemd/metrics`.
    Socket(PathBuf),
}

impl Address {
    /// The address in this text.
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') {
            let path = PathBuf::from(text);
            return path.file_name().is_some().then_some(Self::Socket(path));
        }
        let address: SocketAddr = text.parse().ok()?;
        (address.ip().is_loopback() && address.port() != 0).then_some(Self::Loopback(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => address.fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// Shows the metrics at this address, as long as this process runs. Tasks do not depend on it: an address that cannot
/// be had is reported once, and tried again.
pub async fn serve(address: Address) {
    let mut is_told = false;
    loop {
        let served = match &address {
            Address::Loopback(port) => serve_port(*port).await,
            Address::Socket(path) => serve_socket(path).await,
        };
        if let Err(error) = served
            && !std::mem::replace(&mut is_told, true)
        {
            let error = crate::chain(&error);
            tracing::warn!(%address, error, "plugin option `metrics_address`: metrics cannot be shown there; trying again");
        }
        sleep(AGAIN).await;
    }
}

async fn serve_port(port: SocketAddr) -> io::Result<()> {
    answer_all(TcpListenerStream::new(TcpListener::bind(port).await?)).await
}

async fn serve_socket(path: &Path) -> io::Result<()> {
    remove_left(path)?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    answer_all(UnixListenerStream::new(listener)).await
}

/// Answers all of these clients, as many at once as there are places. Ends when one of them cannot be accepted.
async fn answer_all<S>(mut clients: impl Stream<Item = io::Result<S>> + Unpin) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let Some(stream) = clients.next().await.transpose()? else { return Ok(()) };
        tokio::spawn(async move {
            answer(stream).await;
            drop(place);
        });
    }
}

/// Removes the socket of a process that has ended.
fn remove_left(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Answers one client, once.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), service_fn(respond));
    // A client that goes or is slow gets no answer.
    let _ = timeout(PATIENCE, connection).await;
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let plain = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let mut response = Response::new(Full::from(super::text()));
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        }
        (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        _ => plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_stay_on_the_node() {
        let port = |text: &str| Address::parse(text).map(|address| address.to_string());
        for text in ["127.0.0.1:9633", "[::1]:9633", "127.8.8.8:1", "/run/x/metrics"] {
            assert_eq!(port(text).as_deref(), Some(text));
        }
        for text in [
            "0.0.0.0:9633",
            "[::]:9633",
            "10.0.0.1:9633",
            "127.0.0.1:0",
            "127.0.0.1",
            "localhost:9633",
            "",
            "x",
            "/",
        ] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
