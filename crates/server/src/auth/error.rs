//! Why a credential was refused.

use crate::problem::Problem;
use axum::http::{HeaderValue, StatusCode, header};
use std::time::Duration;

/// Why, told apart by what a client can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthErrorKind {
    /// No credential was sent, or it was in the query string, where it is not accepted: send it as a header.
    Missing,
    /// The credential is unknown or no longer valid.
    Invalid,
    /// It was good once: get a new one.
    Expired,
    /// Too many wrong credentials from this address or for this key: wait.
    Throttled {
        /// How long.
        retry_after: Duration,
    },
    /// The store of keys does not answer: try again.
    Unavailable,
}

const INVALID_TOKEN: &str = "Invalid token: ";

/// A refused credential. Never holds a piece of it. Prints what a WebSocket client reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct AuthError {
    kind: AuthErrorKind,
    reason: String,
    detail: String,
}

impl AuthError {
    /// With what an HTTP client reads.
    pub(super) fn new(kind: AuthErrorKind, detail: &str) -> Self {
        Self { kind, reason: detail.to_owned(), detail: detail.to_owned() }
    }

    /// A key that is wrong.
    pub(super) fn invalid_key() -> Self {
        let detail = "Invalid authentication token".to_owned();
        Self { kind: AuthErrorKind::Invalid, reason: "Invalid token".to_owned(), detail }
    }

    /// A token that is wrong, and why.
    #[cfg(feature = "jwt")]
    pub(super) fn invalid_token(reason: &str) -> Self {
        let detail = format!("{INVALID_TOKEN}{reason}");
        Self { kind: AuthErrorKind::Invalid, reason: reason.to_owned(), detail }
    }

    /// Why.
    pub fn kind(&self) -> AuthErrorKind {
        self.kind
    }

    /// What an HTTP client reads.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What a WebSocket client of Agno's finds in `error_type`; keys have none.
    pub fn error_type(&self) -> Option<&'static str> {
        match self.kind {
            AuthErrorKind::Expired => Some("expired_token"),
            AuthErrorKind::Invalid => self.detail.starts_with(INVALID_TOKEN).then_some("invalid_token"),
            AuthErrorKind::Missing | AuthErrorKind::Throttled { .. } | AuthErrorKind::Unavailable => None,
        }
    }

    /// The code for programs.
    pub fn code(&self) -> &'static str {
        match self.kind {
            AuthErrorKind::Missing => "unauthenticated",
            AuthErrorKind::Invalid => "invalid_credential",
            AuthErrorKind::Expired => "auth_expired",
            AuthErrorKind::Throttled { .. } => "too_many_failures",
            AuthErrorKind::Unavailable => "auth_unavailable",
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let problem = |status| Problem::new(status, error.code(), error.detail());
        match error.kind {
            AuthErrorKind::Missing | AuthErrorKind::Invalid | AuthErrorKind::Expired => {
                problem(StatusCode::UNAUTHORIZED).header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            }
            AuthErrorKind::Throttled { retry_after } => problem(StatusCode::TOO_MANY_REQUESTS).retry_after(retry_after),
            AuthErrorKind::Unavailable => problem(StatusCode::SERVICE_UNAVAILABLE).retry_after(Duration::from_secs(1)),
        }
    }
}
