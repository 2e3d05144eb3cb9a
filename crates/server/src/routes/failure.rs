//! How the engine's errors are shown to a client.

use crate::problem::{Detail, Problem};
use axum::http::StatusCode;
use outlive_core::port::{DbError, DbErrorKind, Unreadable};
use outlive_engine::Error;
use std::time::Duration;

/// When to retry a server that cannot serve at the moment.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(30);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::UnknownWorkflow(_) => Problem::not_found("Workflow not found"),
            Error::RunNotFound(_) => Problem::not_found("Run not found"),
            Error::SessionNotFound(_) => Problem::not_found("Session not found"),
            Error::Input(invalid) => Problem::new(StatusCode::BAD_REQUEST, "input_invalid", invalid.to_string()),
            Error::InputTooLong { limit, .. } => {
                let detail = format!("The input is longer than {limit} bytes: pass a reference to the data instead");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "input_too_long", detail)
            }
            Error::CannotBegin(_) => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", error.to_string())
            }
            Error::InvalidId(invalid) => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_id", invalid.to_string())
            }
            Error::Conflict(error) => Problem::new(StatusCode::CONFLICT, "idempotency_mismatch", error.to_string()),
            Error::SessionBusy(error) => Problem::new(StatusCode::CONFLICT, "session_busy", error.to_string()),
            Error::QueueFull { .. } => {
                let detail = "Too many runs are waiting already: try again later";
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", detail).retry_after(SOON)
            }
            Error::Stopped(_) => {
                let detail = "The server is stopping and accepts no more runs";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail).retry_after(LATER)
            }
            Error::DiskLow { .. } => {
                let detail = "The server's disk is nearly full: accepted runs continue, new ones are refused";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "disk_low", detail).retry_after(LATER)
            }
            Error::CannotFork(_) => Problem::new(StatusCode::CONFLICT, "cannot_fork", error.to_string()),
            Error::CannotPrune(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "cannot_prune", error.to_string()),
            Error::DefinitionChanged(_) => Problem::new(StatusCode::CONFLICT, "definition_changed", error.to_string()),
            Error::Nul { .. } => Problem::new(StatusCode::BAD_REQUEST, "json_invalid", error.to_string()),
            Error::TooDeep { .. } => Problem::new(StatusCode::BAD_REQUEST, "json_too_deep", error.to_string()),
            Error::Damaged(damaged) => {
                tracing::error!(error = %damaged, "stored entries are damaged");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "journal_corrupt", damaged.to_string())
            }
            Error::Unreadable(unreadable) => DbError::from(unreadable).into(),
            Error::BudgetNotFound(_) => Problem::not_found("Budget not found"),
            Error::BudgetChanged(error) => Problem::new(StatusCode::CONFLICT, "budget_changed", error.to_string()),
            Error::ScheduleNotFound(_) => Problem::not_found("Schedule not found"),
            Error::InvalidSchedule { field, problem } => Problem::field("value_error", "body", field, problem),
            Error::BatchNotFound(_) => Problem::not_found("Batch not found"),
            Error::ItemDeleted { .. } => Problem::not_found("The item's run was deleted"),
            Error::InvalidBatch { field, problem } => Problem::field("value_error", "body", field, problem),
            Error::Item { index, problem } => {
                let told = match *problem {
                    // No idempotency key of the caller's is in play.
                    Error::Conflict(error) => Self::from(error),
                    problem => Self::from(problem),
                };
                Self { detail: Detail::Text(format!("Item {index}: {}", told.words())), ..told }
            }
            Error::QuestionNotFound(_) => Problem::not_found("Question not found"),
            Error::AlreadyAnswered(_) => Problem::new(StatusCode::CONFLICT, "already_answered", error.to_string()),
            Error::InvalidAnswer { .. } => Problem::new(StatusCode::BAD_REQUEST, "invalid_answer", error.to_string()),
            Error::NotYoursToAnswer { .. } => Problem::new(StatusCode::FORBIDDEN, "four_eyes", error.to_string()),
            Error::DamagedQuestion { .. } | Error::DamagedSchedule { .. } | Error::DamagedBatch { .. } => {
                tracing::error!(%error, "what is stored cannot be read");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", error.to_string())
            }
            Error::NotCompleted(run) => Problem::new(StatusCode::CONFLICT, "run_not_completed", run.to_string()),
            Error::Db(error) => error.into(),
        }
    }
}

impl From<Unreadable> for Problem {
    fn from(unreadable: Unreadable) -> Self {
        DbError::from(unreadable).into()
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        let new = |status, code, detail: &str| Problem::new(status, code, detail);
        match error.kind() {
            DbErrorKind::NotFound => Problem::not_found("Not Found"),
            DbErrorKind::Full => {
                let detail = "The server's disk is full: nothing was accepted";
                new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", detail).retry_after(LATER)
            }
            DbErrorKind::Busy => {
                new(StatusCode::SERVICE_UNAVAILABLE, "database_busy", "The database is busy: try again")
                    .retry_after(SOON)
            }
            DbErrorKind::OutcomeUnknown => {
                let detail = "Whether this was stored is unknown: repeat the request with the same idempotency key";
                new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", detail).retry_after(LATER)
            }
            DbErrorKind::ReadOnly => {
                let detail = "The server's database cannot be written: nothing was accepted";
                new(StatusCode::SERVICE_UNAVAILABLE, "database_read_only", detail).retry_after(LATER)
            }
            DbErrorKind::Conflict => Problem::new(StatusCode::CONFLICT, "conflict", error.to_string()),
            DbErrorKind::SessionBusy => Problem::new(StatusCode::CONFLICT, "session_busy", error.to_string()),
            DbErrorKind::Unreadable => {
                tracing::error!(%error, "what is stored cannot be read");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", error.to_string())
            }
            DbErrorKind::IllegalStatus
            | DbErrorKind::OverBudget
            | DbErrorKind::CancelRequested
            | DbErrorKind::Fenced
            | DbErrorKind::Corrupt
            | DbErrorKind::Refused
            | DbErrorKind::Storage => {
                tracing::error!(%error, "a request failed at the database");
                new(StatusCode::INTERNAL_SERVER_ERROR, "storage_error", "Internal server error (storage)")
            }
        }
    }
}
