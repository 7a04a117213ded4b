//! go-plugin's handshake: one line on stdout, then a connection to the socket that it names.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use proto::plugin::grpc_broker_client::GrpcBrokerClient;
use proto::plugin::grpc_stdio_client::GrpcStdioClient;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::ChildStdout;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::error::{Error, START};

/// The proof that the plugin is started by Nomad (plugins/base/plugin.go).
pub(super) const COOKIE: (&str, &str) =
    ("NOMAD_PLUGIN_MAGIC_COOKIE", "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255");

pub(super) enum NoLine {
    Deadline,
    End,
}

/// The first line of stdout; the rest is read and discarded.
pub(super) async fn handshake(
    stdout: Option<ChildStdout>,
    background: &mut JoinSet<()>,
) -> Result<String, NoLine> {
    let mut reader = BufReader::new(stdout.ok_or(NoLine::End)?);
    let mut line = String::new();
    match timeout(START, reader.read_line(&mut line)).await {
        Err(_) => Err(NoLine::Deadline),
        Ok(Err(_) | Ok(0)) => Err(NoLine::End),
        Ok(Ok(_)) => {
            background.spawn(async move {
                let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
            });
            Ok(line)
        }
    }
}

/// Checks the handshake's fields; returns the address as `unix:/path` or `tcp:host:port`.
pub(super) fn address(line: &str) -> Result<String, String> {
    let fields: Vec<&str> = line.split('|').collect();
    let [core, application, network, address, rest @ ..] = fields.as_slice() else {
        return Err(format!("it has {} fields, at least 4 are required", fields.len()));
    };
    if *core != "1" {
        return Err(format!("the core protocol is `{core}`, not `1`"));
    }
    if *application != "2" {
        return Err(format!("the application protocol is `{application}`, not `2`"));
    }
    // Without this field, go-plugin assumes its older protocol.
    match rest.first().copied().unwrap_or("netrpc") {
        "grpc" => {}
        other => return Err(format!("the protocol is `{other}`, not `grpc`")),
    }
    if rest.get(1).is_some_and(|certificate| !certificate.is_empty()) {
        return Err("it holds a certificate, and we have asked for none".to_owned());
    }
    match *network {
        "unix" | "tcp" if !address.is_empty() => Ok(format!("{network}:{address}")),
        other => Err(format!("the network is `{other}` at `{address}`")),
    }
}

pub(super) async fn connect(address: &str) -> Result<Channel, Error> {
    let failed = |source| Error::Connect { address: address.to_owned(), source };
    if let Some(path) = address.strip_prefix("unix:").map(PathBuf::from) {
        let dial = move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        // The name is never looked up; go-plugin sends it as the authority.
        let endpoint = Endpoint::from_static("http://unused");
        return endpoint.connect_with_connector(tower::service_fn(dial)).await.map_err(failed);
    }
    let url = format!("http://{}", address.trim_start_matches("tcp:"));
    Endpoint::from_shared(url).map_err(failed)?.connect().await.map_err(failed)
}

/// go-plugin opens two streams for services that drivers do not need; a plugin must support them.
pub(super) fn keep_streams_open(channel: &Channel, background: &mut JoinSet<()>) {
    let (mut stdio, mut broker) =
        (GrpcStdioClient::new(channel.clone()), GrpcBrokerClient::new(channel.clone()));
    background.spawn(async move {
        if let Ok(answer) = stdio.stream_stdio(()).await {
            let mut stream = answer.into_inner();
            while let Ok(Some(_)) = stream.message().await {}
        }
    });
    background.spawn(async move {
        if let Ok(answer) = broker.start_stream(tokio_stream::pending()).await {
            let mut stream = answer.into_inner();
            while let Ok(Some(_)) = stream.message().await {}
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_checked_field_by_field() {
        assert_eq!(address("1|2|unix|/tmp/x|grpc|").unwrap(), "unix:/tmp/x");
        assert_eq!(address("1|2|tcp|127.0.0.1:1|grpc").unwrap(), "tcp:127.0.0.1:1");
        for wrong in [
            "",
            "1|2|unix",
            "2|2|unix|/x|grpc",
            "1|1|unix|/x|grpc",
            "1|2|unix|/x",
            "1|2|udp|/x|grpc",
            "1|2|unix|/x|netrpc",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
