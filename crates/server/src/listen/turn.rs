//! Whose turn it is on a connection: the client's, who owes a request, or the server's, who owes an answer.
//!
//! It knows neither bytes nor times. The invariant: from the call of the service until the answer's body is dropped it
//! is the server's turn; after an upgrade it is nobody's any more. A client that has ended its side and only listens may
//! have gone altogether; an event stream finds out by a comment.

use super::slots::Share;
use crate::wire::frame;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::mem::take;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    only_listens: AtomicBool,
    /// Of the client whose socket this has become.
    share: Mutex<Option<Share>>,
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

    /// The client has said all it will say.
    pub(super) fn only_listens(&self) {
        self.only_listens.store(true, Ordering::Release);
    }

    /// A request arrived, which may count as one of its client's.
    pub(super) fn begin<B>(turns: &Arc<Self>, request: &Request<B>, share: Option<Share>) -> Turn {
        turns.count.fetch_add(1, Ordering::AcqRel);
        turns.set(Place::Answering);
        // After these the screen cannot say where the next request would begin.
        let is_last = request.method() == Method::CONNECT
            || request.headers().contains_key(header::UPGRADE)
            || request.headers().contains_key(header::TRANSFER_ENCODING);
        Turn { turns: Arc::clone(turns), is_last, share }
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
    share: Option<Share>,
}

impl Turn {
    /// Ends with the answer's last byte.
    pub(super) fn answer(mut self, mut response: Response<Body>) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            *self.turns.share.lock().unwrap_or_else(PoisonError::into_inner) = self.share.take();
            self.turns.set(Place::Upgraded);
            return response;
        }
        if self.is_last {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let media_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let may_ask = media_type.is_some_and(|media_type| media_type.starts_with(b"text/event-stream"));
        response.map(|body| Body::new(Answer { body, may_ask, turn: self }))
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
    /// A comment may be put between its frames, once.
    may_ask: bool,
    turn: Turn,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        // A system whose program has closed the connection, not only its side of it, resets it when more comes.
        if frame.is_pending() && this.turn.turns.only_listens.load(Ordering::Acquire) && take(&mut this.may_ask) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(frame::KEEP_ALIVE.as_bytes())))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
