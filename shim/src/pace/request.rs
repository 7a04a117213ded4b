//! The body of a request, which its client must send.

use super::{Arriving, Clock, Load};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use wasmtime_wasi_http::{Error, WasiBody};

/// Reports whether the client of a request was too slow to send its body. Becomes ready at most once.
pub struct TooSlow(Option<oneshot::Receiver<()>>);

impl TooSlow {
    /// Becomes ready once the client was too slow.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(receiver) = &mut self.0 else { return Poll::Pending };
        match Pin::new(receiver).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.0 = None;
                if result.is_ok() { Poll::Ready(()) } else { Poll::Pending }
            }
        }
    }
}

/// The body of a request.
struct Sent {
    body: Arriving,
    clock: Clock,
    tell: Option<oneshot::Sender<()>>,
}

/// The body of a request for the guest. If the client is too slow, an error follows in the body, and the second value
/// becomes ready.
pub fn sent(body: Arriving, load: &Arc<Load>) -> (WasiBody, TooSlow) {
    match Clock::new(load).filter(|_| !body.is_end_stream()) {
        None => (body.map_err(Into::into).boxed_unsync(), TooSlow(None)),
        Some(clock) => {
            let (tell, receiver) = oneshot::channel();
            (Sent { body, clock, tell: Some(tell) }.boxed_unsync(), TooSlow(Some(receiver)))
        }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()).map_or(0, length);
            self.clock.goes_on(bytes);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        self.clock.poll(cx).map(|()| {
            if let Some(tell) = self.tell.take() {
                // A server that has already answered no longer listens.
                let _ = tell.send(());
            }
            Some(Err(Error::ConnectionReadTimeout))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The number of data bytes in a frame.
pub(super) fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}
