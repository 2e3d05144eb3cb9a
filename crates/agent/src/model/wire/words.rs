//! What a refusal means and how it is worded: the one place that distinguishes kinds of failure.
//!
//! Servers write errors in a dozen shapes; all of them are read here, with the wait they ask for. No text leaves here that
//! holds a secret, and no address with its query.

use super::sse::BYTE_ORDER_MARK;
use crate::http::{self, BodyError, RETRY_AFTER_MAX, retry_after};
use outlive_core::{Failure, FailureKind, Secret};
use reqwest::Url;
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// The longest part of a server's message that is passed on, in characters.
const MESSAGE_LEN_MAX: usize = 300;
/// How deep errors inside errors are searched for.
const DEPTH_MAX: usize = 6;

/// Why an answer with a good HTTP status is not one.
#[derive(Debug)]
pub enum Refusal {
    /// The server says so: an error object.
    Error(Value),
    /// In place of the reason why its answer ended, the server says that it failed; its own word for that.
    Failed {
        /// The finish reason.
        reason: String,
        /// The provider's own name beside it.
        beside: Value,
    },
    /// It ended without a known end; what it said instead, if anything.
    Endless(String),
    /// It cannot be understood.
    Garbage(String),
}

/// An answer with a bad status.
pub(super) struct HttpAnswer<'a> {
    pub(super) url: &'a Url,
    pub(super) status: u16,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

/// Words failures of one endpoint, without the secrets it was given.
pub(crate) struct Wording {
    pub(super) endpoint: String,
    pub(super) secrets: Vec<Secret>,
}

/// An error as servers write it.
#[derive(Debug, Default, PartialEq)]
struct ServerError {
    code: String,
    kind: String,
    message: String,
    wait: Option<Duration>,
}

impl Wording {
    /// The server answered with a bad status.
    pub(super) fn refused(&self, answer: HttpAnswer<'_>) -> Failure {
        let HttpAnswer { url, status, headers, body } = answer;
        if (300..400).contains(&status) {
            return self.redirected(url, status, headers);
        }
        let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        let error = match serde_json::from_slice(body) {
            Ok(body) => ServerError::read_or_show(&body),
            Err(_) => ServerError { message: plain_text(body), ..ServerError::default() },
        };
        let kind = error.kind_with(Some(status));
        let failure = self.failure(kind, &format!("answered {status}"), &error.message);
        let now = SystemTime::now();
        match retry_after(headers, now).or(error.wait).or_else(|| reset_after(headers, now)) {
            Some(wait) if failure.retryable => failure.retry_after(wait),
            _ => failure,
        }
    }

    /// A redirect would change the request, or send the key elsewhere.
    fn redirected(&self, url: &Url, status: u16, headers: &HeaderMap) -> Failure {
        let location = headers.get("location").and_then(|value| value.to_str().ok()).and_then(|to| url.join(to).ok());
        let to = location.map_or_else(String::new, |to| format!(" to {}", shown(&to)));
        let what = format!(
            "at {} answered {status}, a redirect{to}, which is not followed: set the base URL to where the server is",
            shown(url)
        );
        Failure { retryable: false, ..self.failure(FailureKind::BadRequest, &what, "") }
    }

    /// The server answered well, and then with an error.
    pub(super) fn refusal(&self, refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Garbage(what) => self.garbage(&what),
            Refusal::Error(error) => {
                let error = ServerError::read_or_show(&error);
                let failure = self.failure(error.kind_with(None), "ended its answer with an error", &error.message);
                match error.wait {
                    Some(wait) if failure.retryable => failure.retry_after(wait),
                    _ => failure,
                }
            }
            Refusal::Failed { reason, beside } => {
                let error = ServerError::find(&beside).unwrap_or_default();
                let is_about_calls =
                    ["malformed", "tool_call"].iter().any(|word| reason.to_ascii_lowercase().contains(word));
                let kind = if is_about_calls { FailureKind::BadResponse } else { error.kind_with(None) };
                self.failure(kind, &format!("ended its answer with the failure {:?}", shorten(&reason)), &error.message)
            }
            Refusal::Endless(reason) if reason.is_empty() => self.cut_off(""),
            Refusal::Endless(reason) => {
                let what = format!("ended its answer for a reason that is not known, {:?}", shorten(&reason));
                self.failure(FailureKind::Truncated, &what, "")
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

    /// The answer broke off; the last thing the server said that was not part of it, if any.
    pub(super) fn cut_off(&self, said: &str) -> Failure {
        self.failure(FailureKind::Truncated, "broke off its answer before the end", said)
    }

    pub(super) fn garbage(&self, what: &str) -> Failure {
        self.failure(FailureKind::BadResponse, &format!("sent {what}"), "")
    }

    /// A good status with something that is neither an answer nor events. A retry would get the same page.
    pub(super) fn no_answer(&self, url: &Url, body: &[u8]) -> Failure {
        let is_page = body.trim_ascii_start().starts_with(b"<");
        let what = if is_page { "a web page" } else { "a text" };
        let doing = format!("at {} sent {what} instead of an answer; is the base URL right?", shown(url));
        let failure = self.failure(FailureKind::BadResponse, &doing, &plain_text(body));
        Failure { retryable: !is_page, ..failure }
    }

    pub(super) fn too_slow(&self, what: &str, limit: Duration) -> Failure {
        self.failure(FailureKind::Timeout, &format!("{what} {limit:?}"), "")
    }

    fn failure(&self, kind: FailureKind, what: &str, message: &str) -> Failure {
        let (what, message) = (self.redacted(what), shorten(&self.redacted(message)));
        let colon = if message.is_empty() { "" } else { ": " };
        Failure::new(kind, format!("{} {what}{colon}{message}", self.endpoint))
    }

    /// The text without the secrets, and without any word that looks like one: servers repeat what they were sent.
    fn redacted(&self, text: &str) -> String {
        let secrets = self.secrets.iter().map(Secret::expose).filter(|secret| !secret.is_empty());
        let text = secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "[redacted]"));
        let mut after_bearer = false;
        let words = text.split_inclusive(char::is_whitespace).map(|word| {
            let secret = after_bearer || looks_like_key(word);
            after_bearer = word.trim().eq_ignore_ascii_case("bearer");
            if secret { format!("[redacted]{}", &word[word.trim_end().len()..]) } else { word.to_owned() }
        });
        words.collect()
    }
}

/// Whether a piece of a stream, or a whole body, says that something went wrong although it need not say that it is an
/// error. `answers` are the fields that only a real piece has.
pub(crate) fn is_error(body: &Value, answers: &[&str]) -> bool {
    let Some(fields) = body.as_object() else { return false };
    let says = |name: &str| fields.get(name).is_some_and(|value| !value.is_null() && value != "" && value != false);
    if says("error") || ["object", "type", "status"].iter().any(|name| fields.get(*name).is_some_and(|v| v == "error"))
    {
        return true;
    }
    let complaints = ["message", "detail", "errors", "error_message", "error_msg", "errorMessage", "Message"];
    !answers.iter().any(|name| fields.contains_key(*name)) && complaints.iter().any(|name| says(name))
}

impl ServerError {
    /// The error, or the beginning of a body in which none is recognised.
    fn read_or_show(body: &Value) -> Self {
        Self::find(body).unwrap_or_else(|| {
            let is_empty = matches!(body, Value::Null) || body.as_object().is_some_and(serde_json::Map::is_empty);
            Self { message: if is_empty { String::new() } else { body.to_string() }, ..Self::default() }
        })
    }

    /// What a body says about an error, wherever it stands; none when neither words nor a code are found.
    fn find(body: &Value) -> Option<Self> {
        let mut error = Self::default();
        error.read(body, DEPTH_MAX);
        (error != Self::default()).then_some(error)
    }

    fn read(&mut self, body: &Value, depth: usize) {
        if depth == 0 {
            return;
        }
        match body {
            Value::String(text) => self.read_text(text, depth),
            Value::Array(parts) => parts.iter().for_each(|part| self.read(part, depth - 1)),
            Value::Object(fields) => {
                let text = |names: &[&str]| names.iter().find_map(|name| code(fields.get(*name)?)).unwrap_or_default();
                let keep = |known: &mut String, new: String| {
                    if known.is_empty() {
                        *known = new;
                    }
                };
                // The innermost is the most precise: a gateway wraps what its provider said.
                for name in ["error", "errors", "response", "metadata", "innererror"] {
                    self.read(fields.get(name).unwrap_or(&Value::Null), depth - 1);
                }
                self.read(fields.get("raw").unwrap_or(&Value::Null), depth - 1);
                let words = ["message", "detail", "msg", "error_message", "error_msg", "errorMessage", "Message"];
                for name in words.into_iter().chain(["error_description", "title", "reason"]) {
                    let is_named = fields.get("error").is_some_and(Value::is_string);
                    if self.message.is_empty() || name == "detail" || is_named && name == "message" {
                        self.read(fields.get(name).unwrap_or(&Value::Null), depth - 1);
                    }
                }
                keep(&mut self.code, text(&["code", "status_code", "status", "error_code"]));
                keep(&mut self.kind, text(&["type", "error_type"]).trim().to_owned());
                self.wait = self.wait.or_else(|| wait_in(fields));
                if let Some(place) = fields.get("loc").and_then(Value::as_array) {
                    let place: Vec<_> = place.iter().filter_map(code).collect();
                    self.message = format!("{} (at {})", self.message, place.join("."));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// A message may itself be the JSON of the error behind it.
    fn read_text(&mut self, text: &str, depth: usize) {
        let inner =
            text.trim_start().starts_with(['{', '[']).then(|| serde_json::from_str::<Value>(text).ok()).flatten();
        if let Some(inner) = inner {
            let before = self.message.len();
            self.read(&inner, depth - 1);
            if self.message.len() > before {
                return;
            }
        }
        if self.message.contains(text.trim()) {
            return;
        }
        if !self.message.is_empty() {
            self.message.push_str("; ");
        }
        self.message.push_str(text.trim());
        self.wait = self.wait.or_else(|| wait_in_words(text));
    }

    /// The kind by the error's own name, or else by the status: that of the answer, or the one some servers give as the
    /// code.
    fn kind_with(&self, status: Option<u16>) -> FailureKind {
        let is = |names: &[&str]| {
            names.iter().any(|name| self.code.eq_ignore_ascii_case(name) || self.kind.eq_ignore_ascii_case(name))
        };
        if is(&["insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"])
            || self.says(&["credit balance is too low", "insufficient balance"])
        {
            return FailureKind::Quota;
        }
        if is(&["context_length_exceeded", "exceed_context_size_error"]) || self.speaks_of_context() {
            return FailureKind::ContextLength;
        }
        if self.says(&["api key not valid", "api_key_invalid"]) {
            return FailureKind::Auth;
        }
        let status = status.or_else(|| self.code.parse().ok().filter(|code| (400..600).contains(code)));
        match status {
            Some(status) => kind_of_status(status),
            None if is(&["rate_limit_exceeded", "rate_limit_error", "resource_exhausted", "too_many_requests"]) => {
                FailureKind::RateLimit
            }
            None if is(&[
                "invalid_api_key",
                "authentication_error",
                "permission_error",
                "unauthenticated",
                "permission_denied",
            ]) =>
            {
                FailureKind::Auth
            }
            None if is(&[
                "invalid_request_error",
                "invalid_prompt",
                "invalid_argument",
                "not_found_error",
                "request_too_large",
            ]) =>
            {
                FailureKind::BadRequest
            }
            None => FailureKind::Unavailable,
        }
    }

    /// Servers without a code for it use much the same words.
    fn speaks_of_context(&self) -> bool {
        self.says(&[
            "maximum context length",
            "maximum prompt length",
            "exceeds the available context size",
            "exceeds the maximum number of tokens",
            "exceed context limit",
            "context window",
            "prompt is too long",
        ])
    }

    /// Whether its message has any of these words, which are in lower case.
    fn says(&self, words: &[&str]) -> bool {
        let message = self.message.to_ascii_lowercase();
        words.iter().any(|words| message.contains(words))
    }
}

/// A word or a number.
fn code(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn kind_of_status(status: u16) -> FailureKind {
    match status {
        401 | 403 => FailureKind::Auth,
        402 => FailureKind::Quota,
        408 => FailureKind::Timeout,
        // A conflict, or a request that came too early, passes on a retry.
        409 | 425 => FailureKind::Unavailable,
        429 => FailureKind::RateLimit,
        500.. => FailureKind::Unavailable,
        _ => FailureKind::BadRequest,
    }
}

fn seconds(text: &str, unit: f64) -> Option<Duration> {
    let wait = Duration::try_from_secs_f64(text.trim().parse::<f64>().ok()? * unit).ok()?;
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The wait that an error object asks for: Google's `details[].retryDelay`, or a number of seconds or milliseconds.
fn wait_in(fields: &serde_json::Map<String, Value>) -> Option<Duration> {
    let of = |name: &str, unit: f64| fields.get(name).and_then(code).and_then(|text| seconds(&text, unit));
    let delay = |details: &Value| details.get("retryDelay").and_then(code).and_then(|text| span(&text));
    of("retry_after_ms", 0.001)
        .or_else(|| of("retry_after", 1.0))
        .or_else(|| of("retry_after_seconds", 1.0))
        .or_else(|| fields.get("retryDelay").and_then(code).and_then(|text| span(&text)))
        .or_else(|| fields.get("details").and_then(Value::as_array)?.iter().find_map(delay))
}

/// Until the limits that are used up begin anew, as their own headers say: a date, or a span of time.
fn reset_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let until = |reset: &str| {
        let date = reset.parse::<jiff::Timestamp>().ok().map(SystemTime::from);
        date.map(|date| date.duration_since(now).unwrap_or_default()).or_else(|| span(reset))
    };
    let counted = ["requests", "tokens", "input-tokens", "output-tokens"];
    let resets = counted.into_iter().flat_map(|what| {
        let anthropic = ("anthropic-ratelimit-", format!("{what}-remaining"), format!("{what}-reset"));
        let others = ("x-ratelimit-", format!("remaining-{what}"), format!("reset-{what}"));
        [anthropic, others].map(|(prefix, left, reset)| {
            let is_used_up = text(&format!("{prefix}{left}")) == Some("0");
            text(&format!("{prefix}{reset}")).filter(|_| is_used_up).and_then(until)
        })
    });
    resets.flatten().max().map(|wait| wait.min(RETRY_AFTER_MAX))
}

/// The wait that a message asks for: `Please try again in 1.5s`, `retry after 20 seconds`.
fn wait_in_words(message: &str) -> Option<Duration> {
    let message = message.to_ascii_lowercase();
    let asks = ["try again in ", "retry in ", "retry after ", "try again after "];
    let rest = asks.iter().find_map(|words| message.split_once(words).map(|(_, rest)| rest))?;
    let rest = rest.trim_start();
    let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, unit) = rest.split_at(number_len);
    let unit = if unit.starts_with(' ') { unit.split_whitespace().next().unwrap_or_default() } else { unit };
    if unit.starts_with(|c: char| c.is_ascii_alphabetic()) {
        span(&format!("{}{unit}", number.trim_end_matches('.')))
    } else {
        None
    }
}

/// A span of time with its units: `7s`, `250ms`, `1m2.5s`; a bare number is seconds.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    let mut found = false;
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let unit = match unit {
            "ms" | "milliseconds" | "millisecond" => 0.001,
            "" | "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3600.0,
            _ => break,
        };
        total = total.saturating_add(seconds(number.trim_end_matches('.'), unit)?);
        found = true;
        rest = after;
    }
    found.then_some(total.min(RETRY_AFTER_MAX))
}

/// A body that is not JSON, as text: for a page, its title or first heading.
fn plain_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if !text.trim_start().starts_with('<') {
        return text.into_owned();
    }
    let lower = text.to_ascii_lowercase();
    let inside = |tag: &str| {
        let open = lower.find(&format!("<{tag}"))?;
        let start = open + lower[open..].find('>')? + 1;
        let end = start + lower[start..].find("</")?;
        Some(text[start..end].trim().to_owned()).filter(|title| !title.is_empty())
    };
    inside("title").or_else(|| inside("h1")).unwrap_or_default()
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

fn looks_like_key(word: &str) -> bool {
    let start = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let begins = ["sk-", "gsk_", "xai-", "AIza"];
    begins.iter().any(|key| start.starts_with(key)) || word.contains("=sk-") || word.contains(":sk-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wait_is_found_in_the_body_too() {
        let found = |body: Value| ServerError::find(&body).and_then(|error| error.wait).map(|wait| wait.as_millis());
        let google = json!([{"error": {"message": "quota", "details": [{"@type": "x"}, {"retryDelay": "7s"}]}}]);
        assert_eq!(found(google), Some(7000));
        assert_eq!(found(json!({"error": {"message": "Rate limited. Please try again in 1m2.5s."}})), Some(62_500));
        assert_eq!(found(json!({"message": "retry after 20 seconds"})), Some(20_000));
        assert_eq!(found(json!({"error": {"message": "no", "retry_after": 3}})), Some(3000));
        assert_eq!(found(json!({"error": {"message": "try again in 250ms"}})), Some(250));
        assert_eq!(found(json!({"error": {"message": "try again in a moment"}})), None);
        assert_eq!(found(json!({"error": {"message": "try again in 3 apples"}})), None);
    }

    #[test]
    fn a_limit_that_is_used_up_says_when_it_begins_anew() {
        let found = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            // 2023-11-14T22:13:20Z
            reset_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        };
        let reset = ("anthropic-ratelimit-requests-reset", "2023-11-14T22:13:27Z");
        assert_eq!(found(&[reset, ("anthropic-ratelimit-requests-remaining", "0")]), Some(Duration::from_secs(7)));
        assert_eq!(found(&[reset, ("anthropic-ratelimit-requests-remaining", "5")]), None);
        let later = ("anthropic-ratelimit-input-tokens-reset", "2023-11-14T22:14:20Z");
        let used_up =
            [("anthropic-ratelimit-requests-remaining", "0"), ("anthropic-ratelimit-input-tokens-remaining", "0")];
        assert_eq!(found(&[reset, later, used_up[0], used_up[1]]), Some(Duration::from_secs(60)));
        let spans = [("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "1m2.5s")];
        assert_eq!(found(&spans), Some(Duration::from_millis(62_500)));
        assert_eq!(found(&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "soon")]), None);
    }

    #[test]
    fn the_words_of_an_error_are_found_in_every_shape() {
        let cases = [
            (json!({"error": {"message": "no", "type": "t", "code": 7}}), "no"),
            (json!([{"error": {"code": 400, "message": "bad key", "status": "INVALID_ARGUMENT"}}]), "bad key"),
            (json!({"error": "no"}), "no"),
            (json!({"error": "not_found", "message": "no such model"}), "not_found; no such model"),
            (json!({"detail": "no"}), "no"),
            (
                json!({"detail": [{"loc": ["body", "messages", 0], "msg": "Field required", "type": "missing"}]}),
                "Field required (at body.messages.0)",
            ),
            (json!({"message": "no"}), "no"),
            (json!({"errors": ["no", "never"]}), "no; never"),
            (json!({"success": false, "errors": [{"code": 7009, "message": "no"}]}), "no"),
            (json!({"object": "error", "message": "CUDA out of memory", "code": 500}), "CUDA out of memory"),
            (
                json!({"error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": "{\"error\":{\"message\":\"overloaded\"}}"}}}),
                "overloaded",
            ),
            (json!({"error": {"message": "{\"message\":\"inner\"}"}}), "inner"),
            (json!({"title": "Bad", "detail": "too long", "status": 400}), "too long"),
            (json!({"hello": 1}), "{\"hello\":1}"),
            (json!({}), ""),
        ];
        for (body, expected) in cases {
            let message = ServerError::read_or_show(&body).message;
            assert!(message.contains(expected) && message.is_empty() == expected.is_empty(), "{body}: {message}");
        }
    }

    #[test]
    fn what_says_that_something_went_wrong_is_an_error() {
        for error in [
            json!({"error": {"message": "no"}}),
            json!({"object": "error", "message": "no"}),
            json!({"type": "error"}),
            json!({"detail": "no"}),
            json!({"errors": ["no"]}),
        ] {
            assert!(is_error(&error, &["choices"]), "{error}");
        }
        for fine in [
            json!({"choices": [], "error": null}),
            json!({"choices": [], "message": "hello"}),
            json!({}),
            json!({"type": "ping"}),
            json!([1]),
            json!({"usage": {}}),
        ] {
            assert!(!is_error(&fine, &["choices"]), "{fine}");
        }
    }

    #[test]
    fn a_secret_is_redacted_wherever_it_stands() {
        let wording = Wording { endpoint: "X".to_owned(), secrets: ["my-secret", "other"].map(Secret::from).to_vec() };
        let text = wording.redacted("key my-secret, Bearer abc.def and 'sk-proj-12' or (sk-***z), other.");
        assert_eq!(text, "key [redacted], Bearer [redacted] and [redacted] or [redacted] [redacted].");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let short = shorten(&"ä ".repeat(400));
        assert_eq!(short.chars().count(), MESSAGE_LEN_MAX + 1);
    }

    #[test]
    fn a_page_is_its_title() {
        assert_eq!(plain_text(b"<!doctype html><html><head><TITLE>Sign in</TITLE>"), "Sign in");
        assert_eq!(plain_text(b"<html><body><h1 class=a>502 Bad Gateway</h1>"), "502 Bad Gateway");
        assert_eq!(plain_text(b"<html><body>nothing"), "");
        assert_eq!(plain_text(b"plain"), "plain");
    }
}
