//! Answers that go on at their provider while nobody listens: found again by what they began with, and ended there.
//!
//! It must never know where such answers are kept: a [`Dialect`] says so. Invariant: an answer that is found again is never
//! asked for again here; one that is not there any more is a failure of the kind
//! [`FailureKind::BadRequest`], and whoever wants an answer then asks anew.

use super::stream::{Reading, after, drained};
use super::{Dialect, answered, parsed, wording};
use crate::http;
use crate::model::ModelStream;
use futures::stream;
use outlive_core::{Failure, FailureKind, ModelRequest};
use reqwest::{Method, Url};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long ending an answer at its provider may take: nobody waits for it gladly.
const ABANDON_LIMIT: Duration = Duration::from_secs(10);

/// How an answer stands at its provider.
enum Standing {
    Underway,
    Ended,
    /// It failed, was cancelled there, or is not what it was.
    Lost(String),
}

impl Standing {
    fn of(body: &Value) -> Self {
        match body["status"].as_str() {
            Some("queued" | "in_progress") => Self::Underway,
            Some("completed" | "incomplete") => Self::Ended,
            other => Self::Lost(other.unwrap_or("unknown").to_owned()),
        }
    }
}

/// Takes up an answer that has begun, from its first token.
pub(crate) fn resume<D: Dialect>(dialect: &D, request: ModelRequest, begun: Value) -> ModelStream<'_> {
    drained(async move { open(dialect, request, &begun).await })
}

/// Finds the answer: whole, or as the rest of its stream.
async fn open<'a, D: Dialect>(dialect: &'a D, request: ModelRequest, begun: &Value) -> Result<Reading<'a, D>, Failure> {
    let started = Instant::now();
    let limit = dialect.connection().limits.whole();
    let slow = || wording(dialect).too_slow("has not answered within", limit);
    let looked = timeout_at(after(started, limit), look(dialect, begun)).await.map_err(|_| slow())??;
    let reading = |url: Url, chunks| Reading::new(dialect, request.tools, url, chunks, true);
    match looked {
        (url, Found::Whole(body)) => Ok(reading(url, Box::pin(stream::iter([Ok(body)])))),
        (url, Found::Underway) => {
            let mut url = url;
            // What comes before the first token was recorded, and has the number 0.
            url.query_pairs_mut().append_pair("stream", "true").append_pair("starting_after", "0");
            let headers = dialect.connection().headers(true, &dialect.title())?;
            let asked = answered(dialect, Method::GET, url.clone(), headers, String::new());
            let response = timeout_at(after(started, limit), asked).await.map_err(|_| slow())??;
            Ok(reading(url, super::stream::chunks(response)))
        }
    }
}

enum Found {
    Underway,
    /// Its body.
    Whole(Vec<u8>),
}

async fn look(dialect: &impl Dialect, begun: &Value) -> Result<(Url, Found), Failure> {
    let url = kept_at(dialect, begun)?;
    let headers = dialect.connection().headers(false, &dialect.title())?;
    let response = answered(dialect, Method::GET, url.clone(), headers, String::new()).await?;
    let body = http::read_body(response, super::ANSWER_LEN_MAX).await;
    let body = body.map_err(|error| wording(dialect).body(error))?;
    let value = parsed(&body).ok_or_else(|| wording(dialect).no_answer(&url, &body))?;
    match Standing::of(&value) {
        Standing::Underway => Ok((url, Found::Underway)),
        Standing::Ended => Ok((url, Found::Whole(body))),
        Standing::Lost(status) => {
            let message = format!("{} has lost an answer that had begun: it is {status}", dialect.endpoint());
            Err(Failure::new(FailureKind::BadRequest, message))
        }
    }
}

fn kept_at(dialect: &impl Dialect, begun: &Value) -> Result<Url, Failure> {
    let refuse = |problem: String| Failure::new(FailureKind::BadRequest, problem);
    let kept = dialect.kept_at(&dialect.connection().base(), begun);
    let kept = kept.ok_or_else(|| refuse(format!("{} does not keep answers", dialect.endpoint())))?;
    kept.map_err(|problem| refuse(format!("the base URL of {} {problem}", dialect.endpoint())))
}

/// Ends an answer at its provider.
pub(crate) async fn abandon(dialect: &impl Dialect, begun: &Value) {
    let end = async {
        let url = kept_at(dialect, begun)?;
        let cancel =
            http::join(url.as_str(), &["cancel"]).map_err(|problem| Failure::new(FailureKind::BadRequest, problem))?;
        let headers = dialect.connection().headers(false, &dialect.title())?;
        answered(dialect, Method::POST, cancel, headers, String::new()).await
    };
    match timeout(ABANDON_LIMIT, end).await {
        Ok(Ok(_)) => {}
        Ok(Err(failure)) => tracing::warn!(error = failure.message, "an answer goes on that nobody waits for"),
        Err(_) => tracing::warn!("an answer may go on that nobody waits for: its provider does not say that it ended"),
    }
}
