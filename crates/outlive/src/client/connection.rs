//! One request and its answer: the address, the credential, the limits.
//!
//! It must never know what is requested, and never repeats a request. Redirects are not followed: they would take the
//! request to a place nobody sent it to.

use super::error::{ClientError, Refusal};
use outlive_agent::http::{self, BodyError};
use outlive_core::{RunStatus, Secret, json};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;

/// The longest body of a refusal that is read; what matters is at its start.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// The longest text of a refusal that is kept.
const DETAIL_CHARS_MAX: usize = 2000;
/// The longest wait a server may ask for; after that it is asked again anyway.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long and how large answers may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) answer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), idle_timeout: Duration::from_secs(45), answer_bytes_max: 64 << 20 }
    }
}

/// A server, and what is needed to send it requests.
pub(super) struct Connection {
    http: reqwest::Client,
    base: Url,
    /// The address as shown in messages.
    server: String,
    token: Option<Secret>,
    authorization: Option<HeaderValue>,
    limits: Limits,
}

/// A successful answer.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    body: Vec<u8>,
    server: String,
}

impl Answer {
    /// The body as a `T`.
    pub(super) fn read<T: DeserializeOwned + Send>(&self) -> Result<T, ClientError> {
        let read = str::from_utf8(&self.body)
            .map_err(|_| "it is not UTF-8".to_owned())
            .and_then(|text| json::read_stored(text).map_err(|error| misfit(&error)));
        read.map_err(|why| ClientError::Garbled {
            server: self.server.clone(),
            why,
            request_id: text(&self.headers, &REQUEST_ID),
        })
    }
}

/// What is wrong with the text, without repeating it.
pub(super) fn misfit(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => {
            format!("it is not what was asked for, at line {} column {}", error.line(), error.column())
        }
        _ => "it is not JSON".to_owned(),
    }
}

fn is_of_this_machine(base: &Url) -> bool {
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl Connection {
    pub(super) fn new(server: &str, token: Option<Secret>, limits: Limits) -> Result<Self, ClientError> {
        // Do not repeat the text: it may contain a credential.
        let unusable = |why: &str| ClientError::Unusable { what: "the server's address", why: why.to_owned() };
        let base = http::join(server.trim(), &[])
            .map_err(|why| unusable(&format!("it {why}; write one like http://127.0.0.1:7878")))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(unusable("it holds a credential; give that as the token"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(unusable("it has a query or a fragment"));
        }
        let authorization = token.as_ref().map(bearer).transpose()?;
        let builder = http::builder();
        // Requests to this machine bypass any proxy: the credential goes to no other address.
        let builder = if is_of_this_machine(&base) { builder.no_proxy() } else { builder };
        let client = builder
            .redirect(redirect::Policy::none())
            .referer(false)
            .read_timeout(limits.idle_timeout)
            .build()
            .map_err(|error| ClientError::Unusable { what: "HTTP", why: http::not_set_up(&error) })?;
        let server = base.as_str().trim_end_matches('/').to_owned();
        Ok(Self { http: client, base, server, token, authorization, limits })
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        self.limits.idle_timeout
    }

    /// Reads something.
    pub(super) async fn get<T: DeserializeOwned + Send>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, ClientError> {
        self.answer(self.request(Method::GET, path, query), self.limits.timeout).await?.read()
    }

    /// Reads something that the server may delay for as long as `wait`.
    pub(super) async fn get_after<T: DeserializeOwned + Send>(
        &self,
        path: &[&str],
        wait: Duration,
    ) -> Result<T, ClientError> {
        let query = [("wait", format!("{}ms", wait.as_millis()))];
        self.answer(self.request(Method::GET, path, &query), self.limits.timeout + wait).await?.read()
    }

    /// Changes something.
    pub(super) async fn post(
        &self,
        path: &[&str],
        body: Option<&impl Serialize>,
        idempotency_key: Option<&str>,
    ) -> Result<Answer, ClientError> {
        let mut request = self.request(Method::POST, path, &[]);
        if let Some(key) = idempotency_key {
            let unusable = |_| ClientError::Unusable { what: "the idempotency key", why: NO_HEADER.to_owned() };
            request = request.header(IDEMPOTENCY_KEY, HeaderValue::from_str(key).map_err(unusable)?);
        }
        if let Some(body) = body {
            let unusable =
                |error: serde_json::Error| ClientError::Unusable { what: "the body", why: error.to_string() };
            let body = serde_json::to_vec(body).map_err(unusable)?;
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        self.answer(request, self.limits.timeout).await
    }

    /// Deletes something.
    pub(super) async fn delete(&self, path: &[&str]) -> Result<(), ClientError> {
        self.answer(self.request(Method::DELETE, path, &[]), self.limits.timeout).await.map(drop)
    }

    /// Opens an event stream. Its head must arrive in time; how long it lasts depends on the run.
    pub(super) async fn open(&self, path: &[&str], query: &[(&str, String)]) -> Result<Response, ClientError> {
        let request = self.request(Method::GET, path, query).header(ACCEPT, "text/event-stream");
        let sending = tokio::time::timeout(self.limits.timeout, self.send(request));
        let response = sending.await.unwrap_or_else(|_| Err(self.unreachable("timed out")))?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(self.garbled("it is not an event stream", response.headers()));
        }
        Ok(response)
    }

    /// More of a stream; nothing at its end.
    pub(super) async fn chunk(&self, response: &mut Response) -> Result<Option<Vec<u8>>, ClientError> {
        let chunk = response.chunk().await.map_err(|error| self.unreachable(http::root_cause(&error)))?;
        Ok(chunk.map(Into::into))
    }

    /// The longest event.
    pub(super) fn answer_bytes_max(&self) -> usize {
        self.limits.answer_bytes_max
    }

    pub(super) fn unreachable(&self, why: impl Into<String>) -> ClientError {
        ClientError::Unreachable { server: self.server.clone(), why: why.into() }
    }

    pub(super) fn garbled(&self, why: impl Into<String>, headers: &HeaderMap) -> ClientError {
        let request_id = text(headers, &REQUEST_ID);
        ClientError::Garbled { server: self.server.clone(), why: self.shown(&why.into()), request_id }
    }

    fn request(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization.clone()),
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder, longest: Duration) -> Result<Answer, ClientError> {
        let response = self.send(request.timeout(longest)).await?;
        let headers = response.headers().clone();
        let body = http::read_body(response, self.limits.answer_bytes_max).await.map_err(|error| match error {
            BodyError::TooLong { limit } => self.garbled(format!("it has more than {limit} bytes"), &headers),
            BodyError::Broken(why) => self.unreachable(why),
        })?;
        Ok(Answer { headers, body, server: self.server.clone() })
    }

    /// Sends it and waits for the head of a successful answer.
    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.unreachable(http::root_cause(&error)))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    async fn refused(&self, response: Response) -> ClientError {
        let (status, headers) = (response.status(), response.headers().clone());
        // A body that is broken or too long still has its status.
        let body = http::read_body(response, REFUSAL_BYTES_MAX).await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let code = text(&headers, &ERROR_CODE).unwrap_or_default();
        let is_ours = !code.is_empty();
        let refusal = Box::new(Refusal {
            status: status.as_u16(),
            code,
            detail: self.shown(&detail(&body).unwrap_or_else(|| format!("the server says {status}"))),
            request_id: text(&headers, &REQUEST_ID),
            retry_after: retry_after(&headers),
            run_status: body["status"].as_str().and_then(RunStatus::parse),
        });
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ClientError::NotAllowed(refusal),
            // Another server's 404 says nothing about a run.
            StatusCode::NOT_FOUND if is_ours => ClientError::NotFound(refusal),
            StatusCode::NOT_FOUND => {
                self.garbled("it does not know this request (404): is it another server?", &headers)
            }
            StatusCode::CONFLICT => ClientError::Conflict(refusal),
            StatusCode::TOO_MANY_REQUESTS => ClientError::RateLimited(refusal),
            status if status.is_client_error() => ClientError::Invalid(refusal),
            status if status.is_server_error() => ClientError::Failed(refusal),
            status => self.garbled(format!("it redirects ({status})"), &headers),
        }
    }

    /// Text from the server: shortened, and without the credential in case the server repeats it.
    fn shown(&self, text: &str) -> String {
        let text = match &self.token {
            Some(token) => text.replace(token.expose(), "[redacted]"),
            None => text.to_owned(),
        };
        text.chars().take(DETAIL_CHARS_MAX).collect()
    }
}

const NO_HEADER: &str = "it has characters that no header can carry";

fn bearer(token: &Secret) -> Result<HeaderValue, ClientError> {
    let unusable = |_| ClientError::Unusable { what: "the token", why: NO_HEADER.to_owned() };
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(unusable)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A header's text, if it can be shown.
fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?;
    (1..=128).contains(&text.len()).then(|| text.to_owned())
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The refusal's message: one sentence, or what is wrong with which fields.
fn detail(body: &Value) -> Option<String> {
    let field = |field: &Value| {
        let place = field["loc"].as_array()?.iter().map(|part| part.as_str().unwrap_or("?"));
        Some(format!("{}: {}", place.collect::<Vec<_>>().join("."), field["msg"].as_str()?))
    };
    match &body["detail"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(fields) => Some(fields.iter().filter_map(field).collect::<Vec<_>>().join("; ")),
        _ => None,
    }
    .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_asked_without_a_proxy() {
        let is_own = |text: &str| is_of_this_machine(&http::join(text, &[]).unwrap());
        for own in ["http://127.0.0.1:7878", "http://127.8.9.1", "http://[::1]:7878", "http://localhost/below"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["http://10.0.0.1", "https://localhost.example", "http://[2001:db8::1]", "https://runs.example"] {
            assert!(!is_own(other), "{other}");
        }
    }
}
