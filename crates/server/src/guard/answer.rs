//! What every answer carries, and what none reveals. The invariant: an error answer has one of our own bodies.

use super::origin;
use super::request::{Identity, REQUEST_ID};
use crate::problem::{ERROR_CODE, Problem};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Headers of every answer that does not have them already.
const ALWAYS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];
/// Of every page.
const PAGES: [(HeaderName, &str); 2] = [
    (header::CONTENT_SECURITY_POLICY, "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Gives an answer its id and the headers that tell browsers what not to do with it.
pub(super) fn finish(response: &mut Response, id: &str, origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, Identity::header(id));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    add(headers, &ALWAYS);
    if has_type(headers, "text/html") {
        add(headers, &PAGES);
    }
    if let Some(origin) = origin {
        origin::open(headers, origin);
    }
}

/// Replaces the body of an error that was written by a library, which may repeat input or name types of ours.
pub(super) fn plain(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let headers = response.headers();
    if !is_error
        || headers.contains_key(ERROR_CODE)
        || has_type(headers, "application/json")
        || has_type(headers, "text/html")
    {
        return response;
    }
    let (parts, _) = response.into_parts();
    let mut replaced = standard(status).into_response();
    for (name, value) in &parts.headers {
        if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH) {
            replaced.headers_mut().append(name, value.clone());
        }
    }
    replaced
}

/// What a status says by itself.
fn standard(status: StatusCode) -> Problem {
    let code = match status {
        StatusCode::BAD_REQUEST => "bad_request",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "content_type",
        StatusCode::UNPROCESSABLE_ENTITY => "invalid_request",
        status if status.is_server_error() => "internal",
        _ => "request_refused",
    };
    Problem::new(status, code, status.canonical_reason().unwrap_or("Request refused"))
}

fn add(headers: &mut HeaderMap, fixed: &[(HeaderName, &'static str)]) {
    for (name, value) in fixed {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    kind.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted.as_bytes()))
}
