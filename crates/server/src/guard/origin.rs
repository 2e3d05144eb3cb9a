//! Which web pages may use this server.
//!
//! A browser says in `Origin` which page makes a request; other programs say nothing and are let in here, because they
//! act for nobody but their user. The invariant: a page whose origin is neither this server nor listed changes nothing,
//! opens no WebSocket and reads no answer.

use super::{METHODS_TEXT, single};
use crate::problem::Problem;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// How long a browser may remember what it was told, in seconds.
const PREFLIGHT_SECONDS: &str = "600";
/// The headers of answers that a listed page may read.
const EXPOSED: &str = "x-request-id, x-error-code, retry-after, www-authenticate";

/// The listed origins; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

/// An invalid origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an origin; write scheme, host and, if needed, port, like https://runs.example:8443")]
pub struct InvalidOrigin(String);

impl Origins {
    /// Exactly these, as browsers write them: `https://runs.example`. There is no wildcard.
    ///
    /// # Errors
    /// [`InvalidOrigin`] names the first invalid one.
    pub fn new<'a>(origins: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidOrigin> {
        let checked = |origin: &str| normal(origin).ok_or_else(|| InvalidOrigin(origin.to_owned()));
        origins.into_iter().map(checked).collect::<Result<_, _>>().map(Self)
    }

    /// The request's origin, if it is listed: its page may read the answer.
    pub(super) fn listed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        headers.get(header::ORIGIN).filter(|origin| self.has(origin)).cloned()
    }

    /// 403 for what another page's request would change or open.
    pub(super) fn admit(&self, parts: &Parts) -> Result<(), Problem> {
        let reads = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        if reads && !parts.headers.contains_key(header::UPGRADE) {
            return Ok(());
        }
        let refused = || Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", "Origin not allowed");
        match single(parts, &header::ORIGIN).map_err(|()| refused())? {
            Some(origin) if !self.has(origin) && !is_own(origin, parts) => Err(refused()),
            _ => Ok(()),
        }
    }

    /// The answer to a browser's preflight request. `None`: it is not one.
    pub(super) fn preflight(&self, parts: &Parts) -> Option<Response> {
        let asks = parts.method == Method::OPTIONS
            && parts.headers.contains_key(header::ORIGIN)
            && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !asks {
            return None;
        }
        if self.listed(&parts.headers).is_none() {
            let refused = Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", "Disallowed CORS origin");
            return Some(refused.into_response());
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS_TEXT));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_SECONDS));
        if let Some(wanted) = parts.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        Some(response)
    }

    fn has(&self, origin: &HeaderValue) -> bool {
        self.0.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
    }
}

/// Lets the page of a listed origin read the answer.
pub(super) fn open(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
}

/// Whether the page came from this server, under the name the request uses. The host's name has been checked before.
fn is_own(origin: &HeaderValue, parts: &Parts) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), parts.headers.get(header::HOST).map(HeaderValue::to_str))
    else {
        return false;
    };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// As a browser writes it.
fn normal(origin: &str) -> Option<String> {
    let uri: Uri = origin.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str());
    let is_web = matches!(scheme, "http" | "https") && !authority.contains(['@', '*']);
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    (is_web && is_bare).then(|| format!("{scheme}://{authority}").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_listed_as_browsers_write_them() {
        let origins = Origins::new(["HTTPS://Runs.Example/", "http://localhost:3000"]).expect("two origins");
        assert_eq!(origins.0, ["https://runs.example", "http://localhost:3000"]);
    }

    #[test]
    fn there_is_no_wildcard() {
        for origin in ["*", "https://*", "https://*.example", "null", "runs.example", "https://x/path", "file:///x", ""]
        {
            assert!(Origins::new([origin]).is_err(), "{origin}");
        }
    }
}
