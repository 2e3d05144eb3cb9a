//! What can go wrong, as data: a failure is recorded in the log, so it must survive being written down.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// Text from outside that is not a valid id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}: {remedy}")]
pub struct InvalidId {
    pub(crate) what: &'static str,
    pub(crate) problem: String,
    pub(crate) remedy: &'static str,
}

/// Why a step, a model call or a tool call failed, classified by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The user's own function or tool reported a failure.
    Function,
    /// The user's own code panicked.
    Panic,
    /// A model server refused the credential (401, 403).
    Auth,
    /// A model server asked to slow down (429); waits, then tries again.
    RateLimit,
    /// The account has no quota left; waiting does not help.
    Quota,
    /// The conversation is longer than the model's context.
    ContextLength,
    /// A request the other side will never accept (other 4xx).
    BadRequest,
    /// The other side is broken or overloaded (5xx), or cannot be reached.
    Unavailable,
    /// No answer in time.
    Timeout,
    /// A streamed answer ended before it was complete.
    Truncated,
    /// An answer that cannot be understood.
    BadResponse,
    /// A check before a run did not let its input pass.
    InputCheck,
    /// A check after a run did not let its output pass.
    OutputCheck,
    /// A limit of the definition was reached: model turns, tool calls, repairs.
    Limit,
    /// A budget has too little left, and a person has not allowed the call.
    Budget,
    /// A tool declared `once` was in flight at a crash: nobody knows whether it ran.
    OutcomeUnknown,
    /// The run crashed its worker too often without progress.
    Poisoned,
    /// The definition has changed, or no process has it.
    Definition,
    /// The run was cancelled.
    Cancelled,
}

impl FailureKind {
    /// Whether trying again unchanged can help.
    pub fn is_retryable(self) -> bool {
        use FailureKind::*;
        match self {
            Function | Panic | RateLimit | Unavailable | Timeout | Truncated | BadResponse => true,
            Auth | Quota | ContextLength | BadRequest | InputCheck | OutputCheck | Limit | Budget | OutcomeUnknown
            | Poisoned | Definition | Cancelled => false,
        }
    }

    /// The stable code of this kind: the value of `error_type` on the wire.
    pub fn code(self) -> &'static str {
        use FailureKind::*;
        match self {
            Function => "function_error",
            Panic => "panic",
            Auth => "model_authentication_error",
            RateLimit => "model_rate_limit_error",
            Quota => "model_quota_error",
            ContextLength => "context_window_exceeded_error",
            BadRequest => "bad_request_error",
            Unavailable => "provider_unavailable_error",
            Timeout => "timeout_error",
            Truncated => "truncated_stream_error",
            BadResponse => "bad_response_error",
            InputCheck => "input_check_error",
            OutputCheck => "output_check_error",
            Limit => "limit_error",
            Budget => "budget_exceeded",
            OutcomeUnknown => "tool_outcome_unknown",
            Poisoned => "poisoned",
            Definition => "definition_error",
            Cancelled => "cancelled",
        }
    }
}

/// One failure: its kind, a message for people (lower case, no full stop, never a secret), and when to try again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What failed and what to do about it.
    pub message: String,
    /// Whether trying again may help; starts as [`FailureKind::is_retryable`].
    pub retryable: bool,
    /// The other side's `Retry-After`, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What a check refused, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Box<Refusal>>,
}

/// What a check refused, for programs; people read the failure's message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// What set the check off, in a word: `prompt_injection`, `pii_detected`, `input_not_allowed` …
    pub error_id: String,
    /// What the check adds to that; never what it found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_data: Option<Value>,
}

/// A function failed, and did not say how.
impl Default for Failure {
    fn default() -> Self {
        Self::new(FailureKind::Function, "it failed")
    }
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let retryable = kind.is_retryable();
        Self { kind, message: message.into(), retryable, retry_after_ms: None, refusal: None }
    }

    /// Something that must never start twice has started, and broken off for this reason.
    pub fn outcome_unknown(why: impl fmt::Display) -> Self {
        let remedy = "look, then try it again or go on without it";
        Self::new(FailureKind::OutcomeUnknown, format!("{why}, and nobody knows whether it took effect: {remedy}"))
    }

    /// The user's function failed; tried again if the step has retries left.
    pub fn function(message: impl fmt::Display) -> Self {
        Self::new(FailureKind::Function, message.to_string())
    }

    /// The user's function failed for good: retries are skipped.
    pub fn fatal(message: impl fmt::Display) -> Self {
        Self { retryable: false, ..Self::function(message) }
    }

    /// Asks to wait this long before the next try.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// The message, prefixed with what was being done.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

// `Failure` is deliberately neither `Display` nor `Error`: that is what lets `?` turn any error of a user's function
// into one (`anyhow::Error` makes the same trade).
impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::function(error)
    }
}
