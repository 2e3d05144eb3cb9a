//! What every provider's wire has in common: the connection, the reader of streams, and the wording of failures.
//!
//! This module owns one request and its one answer. It must never know a provider's format: that is a [`Dialect`], a thin
//! file over this one. It never retries, follows no redirect that would change the request, and its secrets (the key, the
//! values of headers) appear in no error, log or debug text.
//!
//! ```text
//! ModelRequest --Dialect::body--> JSON --Connection--> JSON -------------Dialect::answer--> ModelResponse
//!                                                 \--> sse::Reader --> Collector::event, finish--/
//! ```

mod background;
pub(crate) mod calls;
mod connection;
pub(crate) mod finish;
#[cfg(test)]
mod fuzz;
mod pauses;
mod sse;
mod stream;
pub(crate) mod text;
pub(crate) mod turns;
mod words;

pub(crate) use background::{abandon, resume};
pub(crate) use connection::{Connection, Credential, Home, Limits};
pub(crate) use pauses::{respond_whole, stream_whole};
pub(crate) use stream::{Collector, collected, respond, stream};
pub(crate) use words::{Refusal, is_error, span};

use crate::http;
use outlive_core::{Failure, FailureKind, ModelRequest, ModelResponse};
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, Url};
use serde_json::Value;
use words::{HttpAnswer, Wording};

/// The longest answer that is accepted, in bytes on the wire.
const ANSWER_LEN_MAX: usize = 64 << 20;
/// The longest error body that is read.
const ERROR_LEN_MAX: usize = 64 << 10;

/// One provider's format.
pub(crate) trait Dialect: Send + Sync {
    /// Assembles a streamed answer.
    type Collector: Collector;

    /// Where to ask, and with which credentials.
    fn connection(&self) -> &Connection;

    /// The provider and its endpoint, as failures name them.
    fn endpoint(&self) -> String;

    /// The model as a person names it: `openai:gpt-5.2`.
    fn title(&self) -> String;

    /// Where a request goes, below this base address.
    ///
    /// # Errors
    /// When the base is not an address, in words that follow it.
    fn url(&self, base: &str, is_streamed: bool) -> Result<Url, String>;

    /// Where an answer that has begun is found again, below this base address; none where answers are not kept.
    ///
    /// # Errors
    /// When the base is not an address, in words that follow it.
    fn kept_at(&self, base: &str, begun: &Value) -> Option<Result<Url, String>> {
        let _ = (base, begun);
        None
    }

    /// The request on the wire.
    ///
    /// # Errors
    /// When it holds what the provider cannot take, in words.
    fn body(&self, request: &ModelRequest) -> Result<Value, String>;

    /// Reads a whole answer.
    fn answer(&self, body: Value) -> Result<ModelResponse, Refusal>;

    /// A new collector for a streamed answer.
    fn collector(&self) -> Self::Collector;

    /// Whether the provider has paused the answer, to be asked to go on.
    fn is_paused(&self, part: &ModelResponse) -> bool {
        let _ = part;
        false
    }

    /// Two parts of an answer as one.
    fn joined(&self, before: ModelResponse, part: ModelResponse) -> ModelResponse {
        let _ = before;
        part
    }

    /// The answer as this model's settings want it.
    fn settle(&self, answer: ModelResponse) -> ModelResponse {
        answer
    }
}

/// The wording of failures of this dialect.
fn wording(dialect: &impl Dialect) -> Wording {
    Wording { endpoint: dialect.endpoint(), secrets: dialect.connection().secrets() }
}

/// Sends the request, and waits for the head of a good answer.
async fn send(dialect: &impl Dialect, request: &ModelRequest) -> Result<Response, Failure> {
    let connection = dialect.connection();
    let refuse = |problem: String| Failure::new(FailureKind::BadRequest, problem);
    let url = url(dialect, request.stream).map_err(refuse)?;
    let headers = connection.headers(request.stream, &dialect.title())?;
    connection.check_media(request)?;
    let body =
        dialect.body(request).map_err(|problem| refuse(format!("{} {problem}", dialect.endpoint())))?.to_string();
    answered(dialect, Method::POST, url, headers, body).await
}

/// Sends this, and waits for the head of a good answer.
async fn answered(
    dialect: &impl Dialect,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: String,
) -> Result<Response, Failure> {
    let client = connection::client().map_err(|problem| Failure::new(FailureKind::Unavailable, problem))?;
    let wording = wording(dialect);
    let sent = client.request(method, url.clone()).headers(headers).body(body).send().await;
    let response = sent.map_err(|error| wording.unreachable(&url, &error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let (status, headers, url) = (response.status().as_u16(), response.headers().clone(), response.url().clone());
    let body = http::read_start(response, ERROR_LEN_MAX).await;
    Err(wording.refused(HttpAnswer { url: &url, status, headers: &headers, body: &body }))
}

/// Where requests go.
///
/// # Errors
/// When there is no base address, or it is not one, in words.
pub(crate) fn url(dialect: &impl Dialect, is_streamed: bool) -> Result<Url, String> {
    let connection = dialect.connection();
    match connection.missing_base(&dialect.title()) {
        Some(problem) => Err(problem),
        None => dialect
            .url(&connection.base(), is_streamed)
            .map_err(|problem| format!("the base URL of {} {problem}", dialect.endpoint())),
    }
}

/// The address of this path below a base. Bases end with the version that a path begins with, or with all of it, or do
/// not.
///
/// # Errors
/// When the base is not an address, in words that follow it.
pub(crate) fn below(base: &str, path: &[&str]) -> Result<Url, String> {
    let known = http::join(base, &[])?;
    let segments: Vec<_> = known.path_segments().into_iter().flatten().filter(|segment| !segment.is_empty()).collect();
    let is_there = |count: &usize| segments.ends_with(&path[..*count]);
    let there = (1..=path.len()).rev().find(is_there).unwrap_or(0);
    http::join(base, &path[there..])
}

/// What would make every request fail, in words.
pub(crate) fn problems(dialect: &impl Dialect) -> Vec<String> {
    let mut problems = dialect.connection().problems(&dialect.title());
    problems.extend(url(dialect, false).err());
    problems
}

/// The single value that a body is, if it is JSON.
fn parsed(body: &[u8]) -> Option<Value> {
    let body = body.strip_prefix(sse::BYTE_ORDER_MARK).unwrap_or(body);
    text::parse_json(&String::from_utf8_lossy(body)).ok()
}

/// The answer in a complete body.
fn answer(dialect: &impl Dialect, mut body: Value) -> Result<ModelResponse, Failure> {
    text::Halves::join_all(&mut body);
    // Some servers put their error into a list.
    if let Value::Array(values) = body {
        body = values.into_iter().next().unwrap_or_default();
    }
    dialect.answer(body).map_err(|refusal| wording(dialect).refusal(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_may_end_with_the_beginning_of_a_path_or_all_of_it() {
        let chat = |base: &str| below(base, &["chat", "completions"]).map(String::from);
        let messages = |base: &str| below(base, &["v1", "messages"]).map(String::from);
        for base in ["http://h/v1", "http://h/v1/", "http://h/v1/chat/completions", "http://h/v1/chat/completions/"] {
            assert_eq!(chat(base).as_deref(), Ok("http://h/v1/chat/completions"), "{base}");
        }
        for base in ["http://h", "http://h/", "http://h/v1", "http://h/v1/messages"] {
            assert_eq!(messages(base).as_deref(), Ok("http://h/v1/messages"), "{base}");
        }
        assert_eq!(chat("http://h/v1?version=1").as_deref(), Ok("http://h/v1/chat/completions?version=1"));
    }
}
