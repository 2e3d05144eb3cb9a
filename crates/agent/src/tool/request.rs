//! A call over HTTP: an address with places for arguments, under the policy for outbound requests.
//!
//! It must never know who calls. The invariants: an argument cannot choose the host; a header's secret is read when the
//! call is made, and appears in no failure; an answer is at most a MiB long.

use super::template::Template;
use crate::http::{self, BodyError};
use crate::outbound::{self, NotAllowed, Outbound, Url};
use outlive_core::{Failure, FailureKind, Secret};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::time::SystemTime;

/// The longest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;
/// How much of a refusal is told, in characters.
const TOLD_CHARS: usize = 500;
/// What some write before text, and nobody means.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Headers that a request has of itself: another value would make it say something else to those on its way.
const OWN_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

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
        let mut problems = header_map(&self.headers).err().unwrap_or_default();
        problems.extend(self.method().err());
        problems.extend(self.home().and_then(|url| self.allowed(url)).err());
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
    /// When the address is not allowed or cannot be reached, and when the answer is a refusal or too long;
    /// [`FailureKind::Truncated`] when the connection is lost after that, so that the call may have been served.
    ///
    /// # Cancel safety
    /// Dropping the future ends the request; it may have been served.
    pub async fn call(&self, arguments: &Map<String, Value>, body: &Value, key: &str) -> Result<String, Failure> {
        let refused = |problem| Failure::new(FailureKind::BadRequest, problem);
        let method = self.method().map_err(refused)?;
        let headers = header_map(&self.headers).map_err(|problems| refused(problems.join("; ")))?;
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
        let request =
            self.outbound.client()?.request(method, url.clone()).headers(headers).header("idempotency-key", key);
        let request = if has_body { request.json(body) } else { request };
        let response = request.send().await.map_err(|error| match error.is_connect() || error.is_builder() {
            true => outbound::unreachable(&url, &error),
            false => failure(FailureKind::Truncated, format!("broke off: {}", http::root_cause(&error))),
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)).into_owned();
        if status.is_success() {
            let body = http::read_body(response, ANSWER_MAX).await;
            return body.map(|body| text(&body)).map_err(|error| match error {
                BodyError::TooLong { limit } => {
                    failure(FailureKind::BadResponse, format!("sent an answer of more than {limit} bytes"))
                }
                BodyError::Broken(cause) => failure(FailureKind::Truncated, format!("broke off its answer: {cause}")),
            });
        }
        let body = text(&http::read_start(response, 4 * TOLD_CHARS).await);
        let kind = match status.as_u16() {
            401 | 403 => FailureKind::Auth,
            408 => FailureKind::Timeout,
            429 => FailureKind::RateLimit,
            425 | 500.. => FailureKind::Unavailable,
            _ => FailureKind::BadRequest,
        };
        let told: String = body.chars().take(TOLD_CHARS).collect();
        let colon = if told.is_empty() { "" } else { ": " };
        let place = headers.get(LOCATION).filter(|_| status.is_redirection());
        let place = place.and_then(|place| self.home().ok()?.join(place.to_str().ok()?).ok());
        let answered = match place.as_ref().and_then(Url::host_str) {
            Some(next) => format!("answered {}: it sends on to {next}, and no call follows", status.as_u16()),
            None => format!("answered {}{colon}{told}", status.as_u16()),
        };
        let refusal = failure(kind, answered);
        Err(match http::retry_after(&headers, SystemTime::now()) {
            Some(wait) if refusal.retryable => refusal.retry_after(wait),
            _ => refusal,
        })
    }

    fn method(&self) -> Result<Method, String> {
        self.method.parse().map_err(|_| format!("{:?} is not a method of HTTP", self.method))
    }

    fn allowed(&self, url: Url) -> Result<Url, String> {
        allowed(&self.outbound, url)
    }

    /// An address of this call, whatever its arguments are: all of them have the same host.
    fn home(&self) -> Result<Url, String> {
        let [one, other] = ["1", "2"].map(|text| parsed(&self.filled_with(text)));
        match (one, other) {
            (Ok(one), Ok(other)) if origin(&one) == origin(&other) => Ok(one),
            (Err(problem), _) if self.url.names().next().is_none() => Err(problem),
            _ => Err("an argument may not choose the host of its address: write it out".to_owned()),
        }
    }

    fn filled_with(&self, text: &str) -> String {
        let filled = self.url.fill(&Map::new(), |_, _| Ok::<_, Infallible>(text.to_owned()));
        filled.unwrap_or_else(|never| match never {})
    }

    /// Why an address that is filled in leads elsewhere than the one that was written.
    fn leads_elsewhere(&self, text: &str) -> Option<&'static str> {
        let given = self.filled_with("1");
        let changed = parts(text).zip(parts(&given)).filter(|(part, given)| part != given);
        changed.into_iter().find_map(|(part, _)| match part.to_ascii_lowercase().replace("%2e", ".").as_str() {
            "" => Some("a part of the path may not be empty"),
            "." | ".." => Some("a part of the path may not consist of dots"),
            _ => None,
        })
    }

    fn url(&self, arguments: &Map<String, Value>) -> Result<Url, String> {
        let home = self.home()?;
        let text = self.url.fill(arguments, |_, value| Ok::<_, String>(encoded(&value)))?;
        if let Some(problem) = self.leads_elsewhere(&text) {
            let alone = |only: &&str| {
                let write =
                    |name: &str, value: String| Ok::<_, Infallible>(if name == *only { value } else { "1".to_owned() });
                let text = self.url.fill(arguments, |name, value| write(name, encoded(&value)));
                self.leads_elsewhere(&text.unwrap_or_else(|never| match never {})).is_some()
            };
            let names: Vec<_> = self.url.names().collect();
            let mut guilty: Vec<_> = names.iter().copied().filter(alone).collect();
            guilty.dedup();
            let names = if guilty.is_empty() { names } else { guilty };
            return Err(format!("argument {:?} would lead elsewhere: {problem}", names.join(", ")));
        }
        parsed(&text).and_then(|url| match origin(&url) == origin(&home) {
            true => Ok(url),
            false => Err("an argument may not choose the host of its address".to_owned()),
        })
    }
}

/// What opens an address that is closed here.
const OPENS: &str = "the setting tool_hosts opens a host with its port, in a program .outbound(..)";

/// Whether such a problem is about what this process lacks, a variable or an open host, and not about the call itself.
pub fn is_lacking(problem: &str) -> bool {
    problem.ends_with("is not set") || problem.ends_with(OPENS)
}

/// An address, if it may be asked.
pub(super) fn allowed(outbound: &Outbound, url: Url) -> Result<Url, String> {
    outbound.check(&url).map(|()| url).map_err(|no| match &no {
        NotAllowed::Unreadable | NotAllowed::Credentials { .. } => format!("url_not_allowed: {no}"),
        NotAllowed::Scheme { scheme } if scheme != "http" => format!("url_not_allowed: {no}"),
        _ => format!("url_not_allowed: {no}; {OPENS}"),
    })
}

/// Headers with the values of their variables, each a secret; or all that is wrong with them.
pub(super) fn header_map(headers: &[(String, String)]) -> Result<HeaderMap, Vec<String>> {
    let (mut map, mut problems) = (HeaderMap::new(), Vec::new());
    for (name, value) in headers {
        match header(name, value) {
            Ok((known, _)) if map.contains_key(&known) => {
                problems.push(format!("the header {name:?} is there twice: leave one out"));
            }
            Ok((known, value)) => drop(map.insert(known, value)),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(map) } else { Err(problems) }
}

fn parsed(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| format!("its address is not valid: {error}"))
}

fn origin(url: &Url) -> (&str, Option<&str>, Option<u16>) {
    (url.scheme(), url.host_str(), url.port())
}

/// The parts of an address's path, as they are written.
fn parts(text: &str) -> impl Iterator<Item = String> {
    let text: String = text.chars().filter(|c| !matches!(c, '\t' | '\n' | '\r')).collect();
    let path = text.split(['?', '#']).next().unwrap_or_default().to_owned();
    path.split(['/', '\\']).map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// A header with the values of its variables, or all that is wrong with it.
fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Vec<String>> {
    let known: HeaderName = name.parse().map_err(|_| vec![format!("{name:?} is not the name of a header")])?;
    if OWN_HEADERS.contains(&known.as_str()) {
        return Err(vec![format!("the header {name:?} is the request's own: leave it out")]);
    }
    if let Some(place) = Template::parse(value).names().next() {
        let remedy = "arguments go into the address and the body only";
        return Err(vec![format!("the header {name:?} has a place for `{place}`: {remedy}")]);
    }
    let mut value = HeaderValue::from_str(&filled(value)?)
        .map_err(|_| vec![format!("the header {name:?} holds a character that headers may not have")])?;
    value.set_sensitive(true);
    Ok((known, value))
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
pub(super) fn variables(value: &str) -> impl Iterator<Item = &str> {
    value.split("${env:").skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}

/// With the values of variables, or all that is wrong with them.
fn filled(value: &str) -> Result<String, Vec<String>> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    let mut pieces = value.split("${env:");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    let mut problems = Vec::new();
    for piece in pieces {
        match piece.split_once('}') {
            Some((name, rest)) if is_name(name) => {
                match std::env::var(name) {
                    Ok(found) => text.push_str(found.trim()),
                    Err(_) => problems.push(format!("it needs {name}, which is not set")),
                }
                text.push_str(rest);
            }
            _ => problems.push("`${env:` names no variable: write ${env:NAME}".to_owned()),
        }
    }
    if problems.is_empty() { Ok(text) } else { Err(problems) }
}
