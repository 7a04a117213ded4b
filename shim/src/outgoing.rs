//! The requests that a guest sends: HTTP/1.1, with or without TLS, to the granted addresses.
//!
//! Names are looked up here, and the grants apply to the resulting address, so that the owner of a name cannot bypass
//! them.

use crate::network::Network;
use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use rustls::pki_types::ServerName;
use shim_interface::Denial;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use wasmtime_wasi::runtime::spawn;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

/// The timeout of each step for which the guest sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(10);

/// Sends a guest's requests.
pub struct Outgoing {
    network: Network,
    lookup: bool,
}

impl Outgoing {
    /// Sends to the addresses of `network`, by name if `lookup` is set.
    pub fn new(network: Network, lookup: bool) -> Self {
        Self { network, lookup }
    }
}

/// Resolves when the rest of a message after its head has been handled.
type Rest = Box<dyn Future<Output = Result<()>> + Send>;

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Rest,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Rest)>> + Send> {
        Box::new(send(request, options.unwrap_or_default(), self.network.clone(), self.lookup))
    }
}

async fn send(
    mut request: Request<WasiBody>,
    options: RequestOptions,
    network: Network,
    lookup: bool,
) -> Result<(Response<WasiBody>, Rest)> {
    let uri = request.uri();
    let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
    let tls = uri.scheme() == Some(&Scheme::HTTPS);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });

    let connect = async {
        let stream = connect(&host, port, &network, lookup).await?;
        if !tls {
            return handshake(stream).await;
        }
        let name = ServerName::try_from(host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
        handshake(TLS.connect(name, stream).await.map_err(Error::Tls)?).await
    };
    let patience = options.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
    let (mut sender, connection) =
        timeout(patience, connect).await.map_err(|_| Error::ConnectionTimeout)??;

    // Only a proxy needs more than the path.
    let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let patience = options.first_byte_timeout.unwrap_or(DEFAULT_TIMEOUT);
    let response = timeout(patience, sender.send_request(request)).await;
    let response = response.map_err(|_| Error::ConnectionReadTimeout)??;

    let patience = options.between_bytes_timeout.unwrap_or(DEFAULT_TIMEOUT);
    let body = |body| Patient { body, patience, next: Box::pin(sleep(patience)) }.boxed_unsync();
    Ok((response.map(body), connection))
}

static TLS: LazyLock<TlsConnector> = LazyLock::new(|| {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Arc::new(config).into()
});

/// Connects to the first granted address of `host` that answers.
async fn connect(host: &str, port: u16, network: &Network, lookup: bool) -> Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![(address, port).into()],
        Err(_) if !lookup => {
            network.deny(
                Denial::Lookup { name: host.to_owned() },
                "-S allow-ip-name-lookup (in a job `wasm.name_lookup`)",
            );
            return Err(Error::HttpRequestDenied);
        }
        Err(_) => {
            let found = tokio::net::lookup_host((host, port)).await;
            found
                .map_err(|error| Error::DnsError { rcode: Some(error.to_string()), info_code: None })?
                .collect()
        }
    };
    let mut failed = Error::HttpRequestDenied;
    for address in addresses {
        if network.allows(address, SocketAddrUse::TcpConnect) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Error::Connect(error),
            }
        }
    }
    Err(failed)
}

type Sender = hyper::client::conn::http1::SendRequest<WasiBody>;

/// A connection that carries one request. The future drives the connection after the response has begun.
async fn handshake<S>(stream: S) -> Result<(Sender, Rest)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends with the task that waits for it.
    let connection = spawn(connection);
    Ok((sender, Box::new(async move { Ok(connection.await?) })))
}

/// A body that must not be silent for longer than `patience`.
struct Patient {
    body: Incoming,
    patience: Duration,
    next: Pin<Box<Sleep>>,
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let next = Instant::now() + self.patience;
            self.next.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        self.next.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
