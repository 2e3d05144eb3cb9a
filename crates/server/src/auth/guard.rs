//! Runs before every handler: who is the caller, may they do this, and only then the handler.

use super::authenticate::Auth;
use super::principal::Principal;
use super::rules::{Needs, Rule, authorize};
use crate::problem::Problem;
use axum::extract::{ConnectInfo, FromRequestParts, RawPathParams, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// The state of one route's guard.
#[derive(Clone)]
pub(super) struct Guard {
    rule: Rule,
    auth: Arc<Auth>,
}

type Pass = fn(axum::extract::State<Guard>, Request, Next) -> BoxFuture<'static, Response>;

/// The guard of one route.
pub(super) fn layer(
    rule: Rule,
    auth: Arc<Auth>,
) -> axum::middleware::FromFnLayer<Pass, Guard, (axum::extract::State<Guard>, Request)> {
    axum::middleware::from_fn_with_state(Guard { rule, auth }, pass)
}

fn pass(guard: axum::extract::State<Guard>, request: Request, next: Next) -> BoxFuture<'static, Response> {
    Box::pin(async move {
        let (mut parts, body) = request.into_parts();
        let admitted = guard.admit(&mut parts).await;
        let caller = parts.extensions.get::<Principal>().cloned();
        let mut response = match admitted {
            Ok(()) => next.run(Request::from_parts(parts, body)).await,
            Err(problem) => problem.into_response(),
        };
        // The audit layer further out needs to know whose refusal it was.
        if let Some(caller) = caller.filter(|_| response.status() == StatusCode::FORBIDDEN) {
            response.extensions_mut().insert(caller);
        }
        response
    })
}

impl Guard {
    /// Leaves the caller, once known, among the request's extensions.
    async fn admit(&self, parts: &mut Parts) -> Result<(), Problem> {
        if self.rule.needs == Needs::Open {
            if let Some(anonymous) = self.auth.anonymous() {
                parts.extensions.insert(anonymous);
            }
            return Ok(());
        }
        let peer = peer(parts);
        let principal = self.auth.authenticate_request(&parts.headers, parts.uri.query(), peer).await?;
        parts.extensions.insert(principal.clone());
        let parameters =
            RawPathParams::from_request_parts(parts, &()).await.map_err(|_| Problem::not_found("Not Found"))?;
        let parameters: Vec<(&str, &str)> = parameters.iter().collect();
        authorize(&principal, &self.rule, &parameters)
    }
}

/// The sender's address, as determined when the connection was accepted.
fn peer(parts: &Parts) -> IpAddr {
    let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip())
}
