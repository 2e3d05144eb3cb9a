//! What a refusal means and how it is put into words: the one place that tells kinds of failure apart.
//!
//! No text leaves here that holds the key, and no address with its query.

use super::Refusal;
use crate::http::{self, BodyError};
use outlive_core::{Failure, FailureKind, Secret};
use reqwest::Url;
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// The longest part of a server's message that is passed on, in characters.
const MESSAGE_LEN_MAX: usize = 300;
/// Longer waits than this are a mistake of the server's clock or of ours.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// An answer with a bad status.
pub(super) struct HttpAnswer<'a> {
    pub(super) status: u16,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

/// Puts failures of one endpoint into words, without the key.
pub(super) struct Wording {
    pub(super) endpoint: String,
    /// None where none is set.
    pub(super) key: Option<Secret>,
}

/// An error object as servers write it: `{"error": {…}}`, `{"error": "text"}`, or the fields themselves.
#[derive(Default)]
struct ServerError {
    code: String,
    kind: String,
    message: String,
}

impl Wording {
    /// The server answered with a bad status.
    pub(super) fn refused(&self, answer: HttpAnswer<'_>) -> Failure {
        let error = match serde_json::from_slice(answer.body) {
            Ok(body) => ServerError::read(&body),
            Err(_) => ServerError { message: plain_text(answer.body), ..ServerError::default() },
        };
        let kind = error.kind_with(Some(answer.status));
        let failure = self.failure(kind, &format!("answered {}", answer.status), &error.message);
        match retry_after(answer.headers, SystemTime::now()) {
            Some(wait) if failure.retryable => failure.retry_after(wait),
            _ => failure,
        }
    }

    /// The server answered well, and then with an error.
    pub(super) fn refusal(&self, refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Garbage(what) => self.garbage(&what),
            Refusal::Error(error) => {
                let error = ServerError::read(&error);
                self.failure(error.kind_with(None), "ended its answer with an error", &error.message)
            }
        }
    }

    /// The request got no answer at all.
    pub(super) fn unreachable(&self, url: &Url, error: &reqwest::Error) -> Failure {
        let kind = if error.is_timeout() { FailureKind::Timeout } else { FailureKind::Unavailable };
        let doing = if error.is_connect() || error.is_timeout() {
            format!("at {} cannot be reached", shown(url))
        } else {
            format!("at {} gave no answer", shown(url))
        };
        self.failure(kind, &doing, &http::root_cause(error))
    }

    /// The answer's body could not be read.
    pub(super) fn body(&self, error: BodyError) -> Failure {
        match error {
            BodyError::Broken(cause) => self.failure(FailureKind::Truncated, "broke off its answer", &cause),
            BodyError::TooLong { limit } => self.garbage(&format!("an answer of more than {limit} bytes")),
        }
    }

    pub(super) fn cut_off(&self) -> Failure {
        self.failure(FailureKind::Truncated, "broke off its answer before the end", "")
    }

    pub(super) fn garbage(&self, what: &str) -> Failure {
        self.failure(FailureKind::BadResponse, &format!("sent {what}"), "")
    }

    pub(super) fn too_slow(&self, what: &str, limit: Duration) -> Failure {
        self.failure(FailureKind::Timeout, &format!("{what} {limit:?}"), "")
    }

    fn failure(&self, kind: FailureKind, what: &str, message: &str) -> Failure {
        let message = shorten(&redact(message, self.key.as_ref().map_or("", Secret::expose)));
        let colon = if message.is_empty() { "" } else { ": " };
        Failure::new(kind, format!("{} {what}{colon}{message}", self.endpoint))
    }
}

impl ServerError {
    fn read(body: &Value) -> Self {
        let error = match body.get("error") {
            Some(error) if !error.is_null() => error,
            _ => body,
        };
        let text = |name: &str| match error.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let message = match error {
            Value::String(message) => message.clone(),
            // Some servers built on web frameworks say `detail`.
            _ => [text("message"), text("detail")].into_iter().find(|text| !text.is_empty()).unwrap_or_default(),
        };
        Self { code: text("code"), kind: text("type"), message }
    }

    /// The kind by what the error calls itself, else by the status: that of the answer, or the one some servers give as
    /// the code.
    fn kind_with(&self, status: Option<u16>) -> FailureKind {
        let is = |names: &[&str]| names.iter().any(|name| self.code == *name || self.kind == *name);
        if is(&["insufficient_quota", "billing_hard_limit_reached", "billing_not_active"]) {
            return FailureKind::Quota;
        }
        if is(&["context_length_exceeded", "exceed_context_size_error"]) || self.speaks_of_context() {
            return FailureKind::ContextLength;
        }
        let status = status.or_else(|| self.code.parse().ok().filter(|code| (400..600).contains(code)));
        match status {
            Some(status) => kind_of_status(status),
            None if is(&["rate_limit_exceeded", "rate_limit_error"]) => FailureKind::RateLimit,
            None if is(&["invalid_api_key", "authentication_error"]) => FailureKind::Auth,
            None if is(&["invalid_request_error", "invalid_prompt"]) => FailureKind::BadRequest,
            None => FailureKind::Unavailable,
        }
    }

    /// Servers without a code of their own for it say it in much the same words.
    fn speaks_of_context(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        ["maximum context length", "exceeds the available context size", "context window"]
            .iter()
            .any(|words| message.contains(words))
    }
}

fn kind_of_status(status: u16) -> FailureKind {
    match status {
        401 | 403 => FailureKind::Auth,
        408 => FailureKind::Timeout,
        // A conflict or a request that came too early passes when it is tried again.
        409 | 425 => FailureKind::Unavailable,
        429 => FailureKind::RateLimit,
        500.. => FailureKind::Unavailable,
        _ => FailureKind::BadRequest,
    }
}

/// `retry-after-ms`, or `Retry-After` in seconds (possibly with a fraction) or as a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds =
        |text: &str, unit: f64| text.parse::<f64>().ok().and_then(|n| Duration::try_from_secs_f64(n * unit).ok());
    let wait = text("retry-after-ms").and_then(|text| seconds(text, 0.001)).or_else(|| {
        let text = text("retry-after")?;
        let until = || httpdate::parse_http_date(text).ok().map(|date| date.duration_since(now).unwrap_or_default());
        seconds(text, 1.0).or_else(until)
    })?;
    Some(wait.min(RETRY_AFTER_MAX))
}

/// An error page as text: its first lines, or nothing if it is markup.
fn plain_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if text.trim_start().starts_with('<') { String::new() } else { text.into_owned() }
}

/// The address without user, password, query and fragment: what an error may show.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Both fail only for addresses that cannot have a user at all.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.to_string()
}

fn shorten(message: &str) -> String {
    let one_line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(MESSAGE_LEN_MAX) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}

/// The text without the key and without any word that looks like one: servers repeat what they were sent.
fn redact(message: &str, key: &str) -> String {
    let without_key = if key.is_empty() { message.to_owned() } else { message.replace(key, "[redacted]") };
    let mut after_bearer = false;
    let words = without_key.split_inclusive(char::is_whitespace).map(|word| {
        let secret = after_bearer || looks_like_key(word);
        after_bearer = word.trim().eq_ignore_ascii_case("bearer");
        if secret { format!("[redacted]{}", &word[word.trim_end().len()..]) } else { word.to_owned() }
    });
    words.collect()
}

fn looks_like_key(word: &str) -> bool {
    let start = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    start.starts_with("sk-") || word.contains("=sk-") || word.contains(":sk-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn wait(name: &'static str, value: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        // 1994-11-06T08:49:37Z
        retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        assert_eq!(wait("retry-after-ms", "10"), Some(Duration::from_millis(10)));
        assert_eq!(wait("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(wait("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(wait("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("retry-after", "99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait("retry-after", "soon"), None);
        assert_eq!(wait("retry-after", "-1"), None);
    }

    #[test]
    fn a_key_is_redacted_wherever_it_stands() {
        let text = redact("key my-secret, Bearer abc.def and 'sk-proj-12' or (sk-***z).", "my-secret");
        assert_eq!(text, "key [redacted], Bearer [redacted] and [redacted] or [redacted]");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let short = shorten(&"ä ".repeat(400));
        assert_eq!(short.chars().count(), MESSAGE_LEN_MAX + 1);
    }
}
