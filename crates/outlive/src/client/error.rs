//! Why a request to a server failed.
//!
//! The variants differ in what a caller can do about them. Invariant: no text contains the credential, even if the
//! server repeats it, and none is excessively long.

use outlive_core::RunStatus;
use std::fmt;
use std::time::Duration;

/// Why there is no answer, or not the desired one.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address, the token or a key cannot be sent. Nothing was sent.
    #[error("{what} cannot be used: {why}")]
    Unusable {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No connection, or it broke, or it took too long. The request may have taken effect.
    #[error("the server at {server} cannot be reached: {why}")]
    Unreachable {
        /// Its address.
        server: String,
        /// The cause.
        why: String,
    },
    /// The server requires a credential, or a different one (401, 403).
    #[error("not allowed: {0}")]
    NotAllowed(Box<Refusal>),
    /// No such run, question or workflow, or not this caller's (404).
    #[error("not found: {0}")]
    NotFound(Box<Refusal>),
    /// The current state does not allow it (409): [`Refusal::code`] says why, [`Refusal::run_status`] the run's status.
    #[error("not possible: {0}")]
    Conflict(Box<Refusal>),
    /// The server rejects the request as invalid (any other 4xx).
    #[error("refused: {0}")]
    Invalid(Box<Refusal>),
    /// Too many requests (429): [`Refusal::retry_after`] says when to come back.
    #[error("too many requests: {0}")]
    RateLimited(Box<Refusal>),
    /// The server failed, or cannot serve at the moment (5xx).
    #[error("the server failed: {0}")]
    Failed(Box<Refusal>),
    /// The answer is too long, or not one that an outlive server gives.
    #[error("the answer from {server} cannot be understood: {why}")]
    Garbled {
        /// The server's address.
        server: String,
        /// What is wrong with it.
        why: String,
        /// The request's id, if the server named it.
        request_id: Option<String>,
    },
}

impl ClientError {
    /// The server's refusal, if there was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::NotAllowed(refusal)
            | Self::NotFound(refusal)
            | Self::Conflict(refusal)
            | Self::Invalid(refusal)
            | Self::RateLimited(refusal)
            | Self::Failed(refusal) => Some(refusal),
            Self::Unusable { .. } | Self::Unreachable { .. } | Self::Garbled { .. } => None,
        }
    }

    /// The request's id in the server's log, if the server named it.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Garbled { request_id, .. } => request_id.as_deref(),
            error => error.refusal()?.request_id.as_deref(),
        }
    }

    /// Whether the same request may succeed later without any change.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::RateLimited(_) => true,
            // 500 means a bug or damage; the others are transient.
            Self::Failed(refusal) => !matches!(refusal.status, 500 | 501),
            Self::Unusable { .. }
            | Self::NotAllowed(_)
            | Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Invalid(_)
            | Self::Garbled { .. } => false,
        }
    }
}

/// What a server says when it refuses or fails.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// For programs: lower case words joined by underscores; empty when the server gave none.
    pub code: String,
    /// For people. Fields that are wrong are named.
    pub detail: String,
    /// The request, as the server's log names it.
    pub request_id: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The status of the run that does not allow it.
    pub run_status: Option<RunStatus>,
}

impl Refusal {
    /// What a server would say.
    pub(super) fn of(status: u16, code: &str, detail: &str) -> Box<Self> {
        Box::new(Self {
            status,
            code: code.to_owned(),
            detail: detail.to_owned(),
            request_id: None,
            retry_after: None,
            run_status: None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}
