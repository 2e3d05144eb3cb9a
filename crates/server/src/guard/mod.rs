//! The checks every request passes before it is routed, and every answer on its way out.
//!
//! ```text
//! request ──► form ──► host ──► origin ──► size ──► router
//!             414,     400,     403        413,       │
//!             400,     421                 415        │
//!             405                                     │
//! answer  ◄── id, security headers, CORS, no internals┘
//! ```
//! It knows no route, no credential and no run. The invariant: a web page of another origin can make this server do
//! nothing, and no answer says more about an error than a status, our own words and a request's id.

mod answer;
mod body;
mod host;
mod origin;
mod path;
pub mod request;

use crate::config::Limits;
use crate::listen::Proxies;
use crate::problem::Problem;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
pub use host::{Hosts, InvalidHost};
pub use origin::{InvalidOrigin, Origins};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// The methods any route may have.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// The same, as `allow` has them.
const METHODS_TEXT: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What is let in. The default lets in what comes from this machine.
#[derive(Clone, Debug, Default)]
pub struct GuardConfig {
    /// Sizes and times. The guard keeps those of URIs and bodies.
    pub limits: Limits,
    /// The names this server answers to.
    pub hosts: Hosts,
    /// The web pages that may use it from elsewhere.
    pub origins: Origins,
    /// The proxies trusted to say who their clients are.
    pub proxies: Proxies,
}

/// Puts the guard around `router`, also around its fallbacks. Call it last: routes added later are not guarded.
///
/// Bodies are bounded here, so axum's own limit is off.
pub fn guarded(router: Router, config: GuardConfig) -> Router {
    router.layer(DefaultBodyLimit::disable()).layer(from_fn_with_state(Arc::new(config), watch_over))
}

/// One request and its answer.
async fn watch_over(State(config): State<Arc<GuardConfig>>, request: Request, next: Next) -> Response {
    let origin = config.origins.listed(request.headers());
    let identity = request::Identity::new(request.uri().path());
    let id = identity.id.clone();
    let mut response = request::scope(identity, config.answer(request, next)).await;
    answer::finish(&mut response, &id, origin);
    response
}

impl GuardConfig {
    async fn answer(&self, request: Request, next: Next) -> Response {
        let (parts, body) = request.into_parts();
        if let Err(problem) = self.admit(&parts) {
            return answer::plain(problem.into_response());
        }
        if let Some(preflight) = self.origins.preflight(&parts) {
            return preflight;
        }
        let (body, verdict) = body::bounded(body, &parts.headers, &self.limits);
        let handled = AssertUnwindSafe(next.run(Request::from_parts(parts, body))).catch_unwind().await;
        // Whatever the handler made of the error it read, this is what went wrong.
        if let Some(problem) = verdict.problem() {
            return problem.into_response();
        }
        match handled {
            Ok(response) => answer::plain(response),
            Err(_panic) => {
                tracing::error!("a request's handler panicked");
                internal().into_response()
            }
        }
    }

    /// Whether the head of a request is in order.
    fn admit(&self, parts: &Parts) -> Result<(), Problem> {
        self.admit_target(parts)?;
        self.hosts.admit(parts)?;
        self.origins.admit(parts)?;
        body::admit(&parts.headers, &self.limits)
    }

    fn admit_target(&self, parts: &Parts) -> Result<(), Problem> {
        let target = &parts.uri;
        if parts.version > Version::HTTP_11 {
            return Err(Problem::new(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "http_version",
                "Only HTTP/1.1 is supported",
            ));
        }
        if !METHODS.contains(&parts.method) {
            let allow = (header::ALLOW, HeaderValue::from_static(METHODS_TEXT));
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method Not Allowed");
            return Err(problem.header(allow.0, allow.1));
        }
        if target.to_string().len() > self.limits.uri_bytes_max {
            return Err(Problem::new(StatusCode::URI_TOO_LONG, "uri_too_long", "URI too long"));
        }
        path::admit(target.path(), target.query().unwrap_or_default())
    }
}

/// 500 without details.
fn internal() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal server error")
}

/// The only value of a header. Several are none, and a problem of their own.
fn single<'a>(parts: &'a Parts, name: &HeaderName) -> Result<Option<&'a HeaderValue>, ()> {
    let mut values = parts.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(()),
    }
}
