//! How large a request's body may be and how fast it must come.
//!
//! It never looks inside. The invariant: no body is read beyond its limit, and none is waited for longer than its grace
//! period plus the time its bytes have earned.

use crate::config::Limits;
use crate::problem::Problem;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    /// More bytes than allowed.
    #[error("request body is too large")]
    TooLarge,
    /// Fewer bytes than expected in this time.
    #[error("request body came too slowly")]
    TooSlow,
}

/// What became of a body, once its reader is done.
#[derive(Debug)]
pub(super) struct Verdict(Arc<OnceLock<Fault>>);

impl Verdict {
    /// 413 or 408, and the connection closes, because the rest of the body is not read.
    pub(super) fn problem(&self) -> Option<Problem> {
        self.0.get().map(|fault| match fault {
            Fault::TooLarge => too_large(),
            Fault::TooSlow => {
                let slow = Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "Request body came too slowly");
                closing(slow)
            }
        })
    }
}

/// Refuses what can be refused without reading: 413, 415, 417.
pub(super) fn admit(headers: &HeaderMap, limits: &Limits) -> Result<(), Problem> {
    let coded = headers.get_all(header::CONTENT_ENCODING).iter().any(|coding| coding != "identity");
    if coded {
        let detail = "Content-Encoding is not supported; send the body uncompressed";
        return Err(closing(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", detail)));
    }
    let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !headers.get_all(header::EXPECT).iter().all(expects) {
        return Err(closing(Problem::new(StatusCode::EXPECTATION_FAILED, "expectation", "Expectation failed")));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max(headers, limits)) { Err(too_large()) } else { Ok(()) }
}

/// The body within its limits, and what will have become of it.
pub(super) fn bounded(body: Body, headers: &HeaderMap, limits: &Limits) -> (Body, Verdict) {
    let fault = Arc::new(OnceLock::new());
    let verdict = Verdict(Arc::clone(&fault));
    if body.is_end_stream() {
        return (body, verdict);
    }
    let bounded = Bounded {
        body,
        bytes_max: bytes_max(headers, limits),
        bytes: 0,
        pace: Pace { idle: limits.body_idle_period, grace: limits.body_grace, rate_min: limits.body_rate_min },
        waited: Duration::ZERO,
        waiting: None,
        fault,
    };
    (Body::new(bounded), verdict)
}

fn bytes_max(headers: &HeaderMap, limits: &Limits) -> u64 {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is_multipart = kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
    (if is_multipart { limits.multipart_bytes_max } else { limits.body_bytes_max }) as u64
}

fn too_large() -> Problem {
    closing(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Request body is too large"))
}

fn closing(problem: Problem) -> Problem {
    problem.header(header::CONNECTION, HeaderValue::from_static("close"))
}

/// How fast a body must come.
#[derive(Clone, Copy, Debug)]
struct Pace {
    idle: Duration,
    grace: Duration,
    rate_min: u64,
}

impl Pace {
    /// How long to wait for more, after `bytes` for which there was a wait of `waited` in all.
    fn patience(&self, bytes: u64, waited: Duration) -> Duration {
        let Some(earned) = bytes.saturating_mul(1000).checked_div(self.rate_min) else { return self.idle };
        self.grace.saturating_add(Duration::from_millis(earned)).saturating_sub(waited).min(self.idle)
    }
}

/// A body that ends with an error where its limits are.
struct Bounded {
    body: Body,
    bytes_max: u64,
    bytes: u64,
    pace: Pace,
    /// Only the time in which a reader had to wait: a slow reader is not the client's fault.
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    fault: Arc<OnceLock<Fault>>,
}

impl Bounded {
    fn fail(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let fault = *self.fault.get_or_init(|| fault);
        Poll::Ready(Some(Err(axum::Error::new(fault))))
    }

    /// Ready when there was no progress for too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self.pace.patience(self.bytes, self.waited);
        let (_, sleep) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(patience))));
        sleep.as_mut().poll(cx)
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Some(fault) = this.fault.get() {
            return this.fail(*fault);
        }
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            ready!(this.wait(cx));
            return this.fail(Fault::TooSlow);
        };
        if let Some((since, _)) = this.waiting.take() {
            this.waited += since.elapsed();
        }
        let come = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        this.bytes += come as u64;
        if this.bytes > this.bytes_max { this.fail(Fault::TooLarge) } else { Poll::Ready(frame) }
    }

    fn is_end_stream(&self) -> bool {
        self.fault.get().is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;
    use std::time::Duration;

    #[test]
    fn bytes_earn_time() {
        let seconds = Duration::from_secs;
        let pace = Pace { idle: seconds(30), grace: seconds(10), rate_min: 1024 };
        assert_eq!(pace.patience(0, seconds(0)), seconds(10));
        assert_eq!(pace.patience(10, seconds(10)), Duration::from_millis(9));
        assert_eq!(pace.patience(5 * 1024, seconds(10)), seconds(5));
        assert_eq!(pace.patience(100 * 1024, seconds(10)), seconds(30), "an idle body is not waited for longer");
        assert_eq!(pace.patience(0, seconds(11)), seconds(0));
        assert_eq!(Pace { rate_min: 0, ..pace }.patience(0, seconds(99)), seconds(30));
    }
}
