//! A call over HTTP: an address with places for arguments, under the policy for outbound requests.
//!
//! It must never know who calls. The invariants: an argument cannot choose the host; a header's secret is read when the
//! call is made, and appears in no failure; an answer is at most a MiB long.

use super::template::Template;
use crate::http::{self, BodyError};
use crate::outbound::{NotAllowed, Outbound, Url};
use outlive_core::{Failure, FailureKind, Secret};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use std::time::SystemTime;

/// The longest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;
/// How much of a refusal is told, in characters.
const TOLD_CHARS: usize = 500;

/// A request, with places for a call's arguments.
///
/// ```
/// use outlive_agent::tool::HttpCall;
///
/// let weather = HttpCall::new("GET", "https://weather.example/{city}");
/// assert!(weather.problems().is_empty());
/// assert!(!HttpCall::new("GET", "https://{host}/").problems().is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct HttpCall {
    method: String,
    url: Template,
    headers: Vec<(String, String)>,
    outbound: Outbound,
}

impl HttpCall {
    /// A request to this address; `{name}` stands for an argument, written so that it stays one part of the path or of the
    /// query.
    pub fn new(method: impl Into<String>, url: impl AsRef<str>) -> Self {
        Self {
            method: method.into(),
            url: Template::parse(url.as_ref()),
            headers: Vec::new(),
            outbound: Outbound::default(),
        }
    }

    /// Adds a header; `${env:NAME}` in it stands for an environment variable, read when a call is made. Its value is kept
    /// as secret as a key.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Which addresses may be asked; unless set, those that [`Outbound::default`] allows.
    #[must_use]
    pub fn outbound(mut self, outbound: Outbound) -> Self {
        self.outbound = outbound;
        self
    }

    /// The arguments that its address has places for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.url.names()
    }

    /// Whether it only reads.
    pub fn is_reading(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD")
    }

    /// What would make every call fail.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.headers().err().into_iter().collect();
        problems.extend(self.method().err());
        let beginning = self.url.beginning();
        let has_host = beginning.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?']));
        let has_places = self.url.names().next().is_some();
        if has_places && !has_host {
            problems.push("an argument may not choose the host of its address: write it out".to_owned());
        } else if let Err(problem) = self.url(&Map::new()).and_then(|url| self.allowed(url)) {
            problems.push(problem);
        }
        problems
    }

    /// The values of the variables in its headers.
    pub fn secrets(&self) -> Vec<Secret> {
        let names = self.headers.iter().flat_map(|(_, value)| variables(value));
        names.filter_map(|name| std::env::var(name).ok()).map(Secret::new).collect()
    }

    /// Makes the request and returns the answer. Arguments that the address has no place for go into the query of a GET, a
    /// HEAD and a DELETE; `body` is the JSON of any other. The key is sent as `Idempotency-Key`.
    ///
    /// # Errors
    /// When the address is not allowed or cannot be reached, and when the answer is a refusal or too long.
    ///
    /// # Cancel safety
    /// Dropping the future ends the request; it may have been served.
    pub async fn call(&self, arguments: &Map<String, Value>, body: &Value, key: &str) -> Result<String, Failure> {
        let refused = |problem| Failure::new(FailureKind::BadRequest, problem);
        let (method, headers) = (self.method().map_err(refused)?, self.headers().map_err(refused)?);
        let mut url = self.url(arguments).and_then(|url| self.allowed(url)).map_err(refused)?;
        let has_body = !matches!(self.method.as_str(), "GET" | "HEAD" | "DELETE");
        if !has_body {
            let named: Vec<_> = self.url.names().collect();
            let left = arguments.iter().filter(|(name, value)| !named.contains(&name.as_str()) && !value.is_null());
            for (name, value) in left {
                url.query_pairs_mut().append_pair(name, value.as_str().unwrap_or(&value.to_string()));
            }
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let failure = |kind, what: String| Failure::new(kind, format!("{host} {what}"));
        let request = self.outbound.client()?.request(method, url).headers(headers).header("idempotency-key", key);
        let request = if has_body { request.json(body) } else { request };
        let response = request.send().await.map_err(|error| {
            failure(FailureKind::Unavailable, format!("cannot be reached: {}", http::root_cause(&error)))
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = http::read_body(response, ANSWER_MAX).await.map_err(|error| match error {
            BodyError::TooLong { limit } => {
                failure(FailureKind::BadResponse, format!("sent an answer of more than {limit} bytes"))
            }
            BodyError::Broken(cause) => failure(FailureKind::Truncated, format!("broke off its answer: {cause}")),
        })?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            return Ok(body);
        }
        let kind = match status.as_u16() {
            401 | 403 => FailureKind::Auth,
            408 => FailureKind::Timeout,
            429 => FailureKind::RateLimit,
            425 | 500.. => FailureKind::Unavailable,
            _ => FailureKind::BadRequest,
        };
        let told: String = body.chars().take(TOLD_CHARS).collect();
        let colon = if told.is_empty() { "" } else { ": " };
        let refusal = failure(kind, format!("answered {}{colon}{told}", status.as_u16()));
        Err(match http::retry_after(&headers, SystemTime::now()) {
            Some(wait) if refusal.retryable => refusal.retry_after(wait),
            _ => refusal,
        })
    }

    fn method(&self) -> Result<Method, String> {
        self.method.parse().map_err(|_| format!("{:?} is not a method of HTTP", self.method))
    }

    fn allowed(&self, url: Url) -> Result<Url, String> {
        self.outbound.check(&url).map(|()| url).map_err(|no| {
            let remedy = match no {
                NotAllowed::Unreadable | NotAllowed::Credentials { .. } => "",
                _ => "; the setting tool_hosts opens a host with its port, in a program .outbound(..)",
            };
            format!("url_not_allowed: {no}{remedy}")
        })
    }

    fn url(&self, arguments: &Map<String, Value>) -> Result<Url, String> {
        let write = |name: &str, value: String| match value.chars().all(|c| c == '.') && !value.is_empty() {
            true => Err(format!("argument {name:?} would lead elsewhere: it may not consist of dots")),
            false => Ok(encoded(&value)),
        };
        let text = self.url.fill(arguments, write)?;
        Url::parse(&text).map_err(|error| format!("its address is not valid: {error}"))
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let known: HeaderName = name.parse().map_err(|_| format!("{name:?} is not the name of a header"))?;
            let value = filled(value)?;
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| format!("the header {name:?} holds a character that headers may not have"))?;
            value.set_sensitive(true);
            headers.insert(known, value);
        }
        Ok(headers)
    }
}

/// A value as one part of a path or a query.
fn encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// The names in `${env:NAME}`.
fn variables(value: &str) -> impl Iterator<Item = &str> {
    value.split("${env:").skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}

/// With the values of variables.
fn filled(value: &str) -> Result<String, String> {
    let mut pieces = value.split("${env:");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once('}').ok_or("`${env:` is not closed: write ${env:NAME}")?;
        let found = std::env::var(name).map_err(|_| format!("it needs {name}, which is not set"))?;
        text.push_str(found.trim());
        text.push_str(rest);
    }
    Ok(text)
}
