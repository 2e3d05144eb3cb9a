//! Whose turn it is on a connection: the client's, who owes a request, or the server's, who owes an answer.
//!
//! It knows neither bytes nor times. The invariant: from the call of the service until the answer's body is dropped it
//! is the server's turn; after an upgrade it is nobody's any more.

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The client's.
    Waiting,
    /// The server's.
    Answering,
    /// It is no HTTP connection any more.
    Upgraded,
}

/// Shared by a connection's service and its socket.
#[derive(Debug, Default)]
pub(super) struct Turns {
    place: AtomicU8,
    count: AtomicUsize,
}

impl Turns {
    /// Whose turn it is.
    pub(super) fn place(&self) -> Place {
        match self.place.load(Ordering::Acquire) {
            0 => Place::Waiting,
            1 => Place::Answering,
            _ => Place::Upgraded,
        }
    }

    /// How many requests there were.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// A request arrived.
    pub(super) fn begin<B>(turns: &Arc<Self>, request: &Request<B>) -> Turn {
        turns.count.fetch_add(1, Ordering::AcqRel);
        turns.set(Place::Answering);
        // After these the screen cannot say where the next request would begin.
        let is_last = request.method() == Method::CONNECT
            || request.headers().contains_key(header::UPGRADE)
            || request.headers().contains_key(header::TRANSFER_ENCODING);
        Turn { turns: Arc::clone(turns), is_last }
    }

    fn set(&self, place: Place) {
        let place = match place {
            Place::Waiting => 0,
            Place::Answering => 1,
            Place::Upgraded => 2,
        };
        self.place.store(place, Ordering::Release);
    }
}

/// The server's turn. It ends when this is dropped.
pub(super) struct Turn {
    turns: Arc<Turns>,
    is_last: bool,
}

impl Turn {
    /// Ends with the answer's last byte.
    pub(super) fn answer(self, mut response: Response<Body>) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.turns.set(Place::Upgraded);
            return response;
        }
        if self.is_last {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| Body::new(Answer { body, _turn: self }))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.turns.place() == Place::Answering {
            self.turns.set(Place::Waiting);
        }
    }
}

/// The body of an answer, which ends the turn.
struct Answer {
    body: Body,
    _turn: Turn,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
