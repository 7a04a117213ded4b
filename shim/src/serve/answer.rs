//! One request, from its head to the last part of its answer.

use super::counts::Active;
use super::waiting::{self, Asked};
use super::{Current, Handler, Server, trace};
use crate::connections::Unanswered;
use crate::outcome;
use crate::pace::{self, Arriving, AtEnd, Contact, TooSlow};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::handler::ExpirationError;

/// The maximum number of fields in the head of a request: over HTTP/1 it is hyper's own limit, and over HTTP/2 a field can
/// be sent as a single byte and takes hundreds in memory.
const FIELDS_MAX: usize = 100;

impl Server {
    /// Answers a request with the guest's response, when it is its turn.
    pub(super) async fn answer(
        self: &Arc<Self>,
        handler: &Arc<Current>,
        request: Request<Arriving>,
        contact: &Arc<Contact>,
        unanswered: Unanswered,
    ) -> Response<WasiBody> {
        let active = self.begin();
        let over_http_2 = (request.version() == Version::HTTP_2).then_some(contact);
        // A path may contain what a terminal obeys, or shows in another order.
        let path = request.uri().path().replace(|c: char| !c.is_ascii_graphic(), "?");
        let (began, method) = (Instant::now(), request.method().clone());
        let trace = self.http.access_log.then(|| trace::id(request.headers()).map(str::to_owned)).flatten();
        // An HTTP/2 connection carries many requests, and each waiting request takes memory: the limit of waiting
        // requests is the limit of connections.
        let waiting_max = self.http.max_concurrent_connections.max(self.http.max_concurrent_requests);
        if request.headers().len() > FIELDS_MAX {
            return plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        // A guest is no proxy. What follows the head is no body, and so nothing limits it.
        if method == Method::CONNECT {
            return plain(StatusCode::NOT_IMPLEMENTED);
        }
        let place = if self.load.active() > waiting_max {
            None
        } else {
            Arc::clone(&self.requests).acquire_owned().await.ok()
        };
        let is_head = method == Method::HEAD;
        let response = match place {
            Some(place) => {
                let (request, mut too_slow) = self.limit(request);
                let (what, handler) = (format!("{method} {path}"), handler.get());
                let (client, asked) = waiting::request();
                let response = tokio::select! {
                    // A guest's answer to an incomplete body does not count.
                    biased;
                    () = poll_fn(|cx| too_slow.poll(cx)) => too_slow_to_send(&what, over_http_2.is_some()),
                    response = self.ask_guest(&handler, request, &what, asked) => response,
                };
                // These values live until the last part of the answer.
                let lasts = (active, place, unanswered);
                let end = AtEnd::new(length_of(&response, is_head), move || client.answered());
                response.map(|body| pace::taken(body, too_slow, &self.load, over_http_2, lasts, end))
            }
            None => plain(StatusCode::SERVICE_UNAVAILABLE),
        };
        self.make_pool(handler);
        if self.http.access_log {
            let took = began.elapsed().as_secs_f64() * 1000.0;
            let trace = trace.map(|id| format!(" trace={id}")).unwrap_or_default();
            outcome::say(&format!(
                "access: {method} {path} {} {took:.1}ms{trace}",
                response.status().as_u16()
            ));
        }
        response
    }

    /// The request, whose body the client must send in time, and a future that reports if it does not.
    fn limit(&self, request: Request<Arriving>) -> (Request<WasiBody>, TooSlow) {
        let (head, body) = request.into_parts();
        let (body, too_slow) = pace::sent(body, &self.load);
        (Request::from_parts(head, body), too_slow)
    }

    fn begin(self: &Arc<Self>) -> Active {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        self.load.begin();
        self.counts.changed.notify_one();
        Active(Arc::clone(self))
    }

    async fn ask_guest(
        &self,
        handler: &Handler,
        mut request: Request<WasiBody>,
        what: &str,
        asked: Asked,
    ) -> Response<WasiBody> {
        // A guest gets the fields as text.
        if request.headers().get(header::HOST).is_some_and(|host| host.to_str().is_err()) {
            return plain(StatusCode::BAD_REQUEST);
        }
        // A guest gets the requested authority, which is optional in HTTP/1.0.
        if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
            if request.version() != Version::HTTP_10 {
                return plain(StatusCode::BAD_REQUEST);
            }
            request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        }
        let began = Instant::now();
        let error = match handler.handle(asked, request).await {
            Ok(response) => return response,
            Err(error) => error,
        };
        // A guest that never yields to the engine is ended with an error that does not mention the timeout.
        let is_over = self.guest.wasm.timeout.is_some_and(|timeout| began.elapsed() >= timeout);
        if error.is::<ExpirationError>() || is_over {
            self.counts.timeouts.fetch_add(1, Ordering::Relaxed);
            outcome::say(&format!("timeout: {what} took longer than -W timeout gives it"));
            return plain(StatusCode::GATEWAY_TIMEOUT);
        }
        // The reason why the instance ended has been logged, but not the affected request.
        outcome::say(&format!("error: {what} is not answered: {}", outcome::causes(&error)));
        plain(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// How many bytes of the body go to the client, if the head of the answer says so: after these nobody asks for more.
fn length_of(response: &Response<WasiBody>, is_head: bool) -> Option<u64> {
    let is_empty = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&response.status());
    if is_head || is_empty {
        return Some(0);
    }
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// An answer of the server itself, not of the guest.
fn plain(status: StatusCode) -> Response<WasiBody> {
    let text = format!("{status}\n");
    let mut response =
        Response::new(Full::from(text).map_err(|never: Infallible| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// The answer to a client that did not send the body of its request.
fn too_slow_to_send(what: &str, over_http_2: bool) -> Response<WasiBody> {
    outcome::say(&format!("slow: {what}: its client sent too little of the body (--client-timeout)"));
    let mut response = plain(StatusCode::REQUEST_TIMEOUT);
    if !over_http_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
