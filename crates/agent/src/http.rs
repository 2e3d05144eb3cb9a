//! The one HTTP client of the process, for models and tools alike, and how much of an answer it reads. Clients of other
//! kinds are built on the same base: [`crate::outbound`] for strangers' requests, and a server's own client.
//!
//! It must never know what is asked or answered: no provider, no credential. It never retries.

use reqwest::header::HeaderMap;
use reqwest::{Client, ClientBuilder, Response, Url};
use std::error::Error;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A wait longer than this is a mistake of the server's clock or of ours.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why a body could not be read to the end.
#[derive(Debug)]
pub enum BodyError {
    /// It is longer than the caller is prepared to keep.
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection broke.
    Broken(String),
}

/// The shared client: connections to one host are reused by all callers.
///
/// # Errors
/// When TLS cannot be set up on this machine, in words.
pub fn client() -> Result<Client, String> {
    // A client holds a connection pool; one for each model would reconnect with every clone.
    static CLIENT: OnceLock<Result<Client, String>> = OnceLock::new();
    CLIENT.get_or_init(build).clone()
}

fn build() -> Result<Client, String> {
    builder().build().map_err(|error| not_set_up(&error))
}

/// What every client of this process has in common: TLS, a name, and the time limit for connecting.
pub fn builder() -> ClientBuilder {
    // Fails when the program has installed its own provider, which then serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().user_agent(concat!("outlive/", env!("CARGO_PKG_VERSION"))).connect_timeout(CONNECT_TIMEOUT)
}

/// Why a client could not be built, in words.
pub fn not_set_up(error: &reqwest::Error) -> String {
    format!("the HTTP client cannot be set up: {}", root_cause(error))
}

/// Reads a body of at most `limit` bytes, counted after decompression.
///
/// # Errors
/// [`BodyError`], as soon as it is clear.
pub async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| BodyError::Broken(root_cause(&error)))? {
        if body.len() + chunk.len() > limit {
            return Err(BodyError::TooLong { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The beginning of a body, as far as it comes: what matters in a refusal is at its start.
pub async fn read_start(mut response: Response, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < limit
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]);
    }
    body
}

/// The innermost cause of an error: `reqwest`'s own text names the URL, whose query may hold secrets.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => "timed out".to_owned(),
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    }
}

/// Parses a base address and adds `path` to it; a query of the base stays.
///
/// # Errors
/// When it is not an absolute `http` or `https` address, in words.
pub fn join(base: &str, path: &[&str]) -> Result<Url, String> {
    let mut url = Url::parse(base).map_err(|error| format!("is not a valid address: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("is not an http or https address".to_owned());
    }
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    Ok(url)
}

/// The wait an answer asks for: `retry-after-ms`, or `Retry-After` in seconds (possibly with a fraction) or as a date.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
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
}
