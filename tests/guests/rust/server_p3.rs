//! A `wasi:http` server for WASI 0.3, with the same pages as the server for 0.2.

use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::wit_bindgen::StreamReader;
use wasip3::{spawn_local, wit_future, wit_stream};

/// More than the buffers between a server and a client hold.
const LINES: usize = 512;

struct Server;

wasip3::http::service::export!(Server);

impl wasip3::exports::http::handler::Guest for Server {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        Ok(match path.as_str() {
            "/" => say(200, ["hello\n"]),
            "/echo" => {
                let (_, arrived) = wit_future::new(|| Ok(()));
                answer(200, Request::consume_body(request, arrived).0)
            }
            "/count" => {
                let (_, arrived) = wit_future::new(|| Ok(()));
                let (body, end) = Request::consume_body(request, arrived);
                let text = body.collect().await;
                match end.await {
                    Ok(_) => say(200, [format!("{} bytes\n", text.len())]),
                    Err(error) => say(200, [format!("{error}\n")]),
                }
            }
            "/large" => say(200, (0..LINES).map(|_| [b'x'; 65536])),
            "/trap" => panic!("as the request wishes"),
            "/spin" => loop {
                std::hint::spin_loop();
            },
            "/slow" => {
                monotonic_clock::wait_for(500_000_000).await;
                say(200, ["at last\n"])
            }
            "/stream" => say(200, (0..8).map(|number| format!("part {number}\n"))),
            "/env" => say(200, std::env::vars().map(|(name, value)| format!("{name}={value}\n"))),
            _ => match path.strip_prefix("/fetch/") {
                Some(authority) => match fetch(authority).await {
                    Ok(text) => say(200, [text]),
                    Err(error) => say(502, [format!("{error}\n")]),
                },
                None => say(404, ["no such page\n"]),
            },
        })
    }
}

/// Answers with these parts, each sent separately.
fn say<T: Into<Vec<u8>>>(status: u16, parts: impl IntoIterator<Item = T>) -> Response {
    let parts: Vec<Vec<u8>> = parts.into_iter().map(Into::into).collect();
    let (mut writer, reader) = wit_stream::new();
    spawn_local(async move {
        for part in parts {
            // A client that closes the connection early is not an error.
            if !writer.write_all(part).await.is_empty() {
                break;
            }
        }
    });
    answer(status, reader)
}

fn answer(status: u16, body: StreamReader<u8>) -> Response {
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(Fields::new(), Some(body), trailers);
    response.set_status_code(status).expect("a valid status");
    response
}

/// The answer of the server at this address.
async fn fetch(authority: &str) -> Result<String, ErrorCode> {
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _) = Request::new(Fields::new(), None, trailers, None);
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_scheme(Some(&Scheme::Http)).map_err(invalid)?;
    request.set_authority(Some(authority)).map_err(invalid)?;
    request.set_path_with_query(Some("/")).map_err(invalid)?;
    let response = client::send(request).await?;
    let (_, arrived) = wit_future::new(|| Ok(()));
    let text = Response::consume_body(response, arrived).0.collect().await;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
