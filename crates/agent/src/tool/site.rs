//! A web site that tools read: its address, and limits on the size and time of its answers.
//!
//! It knows no tool. A failure names what was asked for, and never an address with its query.

use crate::http::{self, BodyError};
use outlive_core::{Failure, FailureKind};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The longest answer that is read, in bytes.
const ANSWER_LEN_MAX: usize = 4 << 20;
/// The longest an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a site is found.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// Its name for people.
    pub(super) name: &'static str,
    /// The variable that overrides its address, for tests and mirrors.
    pub(super) variable: &'static str,
    /// Set by the user.
    pub(super) base_url: Option<Arc<str>>,
}

/// A page to ask for.
pub(super) struct Page<'a> {
    pub(super) method: Method,
    /// The host's address unless it is overridden.
    pub(super) host: &'static str,
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl<'a> Page<'a> {
    pub(super) fn get(host: &'static str, path: &'a [&'a str]) -> Self {
        Self { method: Method::GET, host, path, query: &[], headers: HeaderMap::new(), body: String::new() }
    }
}

impl Answer {
    /// Whether the site refuses us for now: by its status (999 is Yahoo's own), or only in words.
    pub(super) fn is_limit(&self) -> bool {
        const WORDS: &[u8] = b"too many requests";
        let beginning = self.body[..self.body.len().min(1024)].trim_ascii_start();
        let is_data = beginning.starts_with(b"{") || beginning.starts_with(b"[");
        let says_so = || beginning.windows(WORDS.len()).any(|words| words.eq_ignore_ascii_case(WORDS));
        matches!(self.status, 429 | 999) || !is_data && says_so()
    }
}

impl Site {
    /// Fetches a page, whatever its status.
    pub(super) async fn fetch(&self, page: Page<'_>) -> Result<Answer, Failure> {
        let fetched = tokio::time::timeout(TIMEOUT, self.try_fetch(page)).await;
        fetched
            .unwrap_or_else(|_| Err(self.failure(FailureKind::Timeout, format!("has not answered within {TIMEOUT:?}"))))
    }

    /// Fetches a page that must exist and be JSON.
    pub(super) async fn json(&self, page: Page<'_>) -> Result<Value, Failure> {
        self.read(&self.fetch(page).await?)
    }

    /// The JSON of an answer that must exist.
    pub(super) fn read(&self, answer: &Answer) -> Result<Value, Failure> {
        if answer.is_limit() || !(200..300).contains(&answer.status) {
            return Err(self.refused(answer));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|_| self.failure(FailureKind::BadResponse, "sent an answer that is not JSON".to_owned()))
    }

    /// The failure that a bad answer means, with the wait that the site asks for.
    pub(super) fn refused(&self, answer: &Answer) -> Failure {
        let said = answer.status;
        let (kind, what) = match said {
            _ if answer.is_limit() => (
                FailureKind::RateLimit,
                format!("answers only so many questions from one network address, and refuses more for now ({said})"),
            ),
            401 | 403 => (FailureKind::Auth, format!("answered {said}")),
            408 => (FailureKind::Timeout, format!("answered {said}")),
            425 | 500.. => (FailureKind::Unavailable, format!("answered {said}")),
            _ => (FailureKind::BadRequest, format!("answered {said}")),
        };
        let failure = self.failure(kind, what);
        match http::retry_after(&answer.headers, SystemTime::now()) {
            Some(wait) if failure.retryable => failure.retry_after(wait),
            _ => failure,
        }
    }

    pub(super) fn failure(&self, kind: FailureKind, what: String) -> Failure {
        Failure::new(kind, format!("{} {what}", self.name))
    }

    async fn try_fetch(&self, page: Page<'_>) -> Result<Answer, Failure> {
        let url = self.url(&page).map_err(|problem| Failure::new(FailureKind::BadRequest, problem))?;
        let unavailable = |what: String| self.failure(FailureKind::Unavailable, what);
        let client = http::client().map_err(unavailable)?;
        let mut request = client.request(page.method, url).headers(page.headers);
        if !page.body.is_empty() {
            request = request.header("content-type", HeaderValue::from_static("application/json")).body(page.body);
        }
        let response = request
            .send()
            .await
            .map_err(|error| unavailable(format!("cannot be reached: {}", http::root_cause(&error))))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = http::read_body(response, ANSWER_LEN_MAX).await.map_err(|error| match error {
            BodyError::TooLong { limit } => {
                self.failure(FailureKind::BadResponse, format!("sent an answer of more than {limit} bytes"))
            }
            BodyError::Broken(cause) => unavailable(format!("broke off its answer: {cause}")),
        })?;
        Ok(Answer { status, headers, body })
    }

    fn url(&self, page: &Page<'_>) -> Result<Url, String> {
        let moved = std::env::var(self.variable).ok().filter(|url| !url.trim().is_empty());
        let base = self.base_url.as_deref().or(moved.as_deref()).unwrap_or(page.host);
        let mut url =
            http::join(base, page.path).map_err(|problem| format!("the address of {} {problem}", self.name))?;
        if !page.query.is_empty() {
            url.query_pairs_mut().extend_pairs(page.query);
        }
        Ok(url)
    }
}
