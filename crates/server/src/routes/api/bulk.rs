//! The same done to all runs that match: cancel, start again, try again. A page in each request, told run by run.

use super::runs::{may_run, status, user};
use super::shape::{BulkFilter, BulkLine, BulkResult, BulkRuns};
use crate::json::Json as Body;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query;
use crate::routes::runs::idempotency_key;
use axum::Json;
use axum::http::HeaderMap;
use futures::StreamExt;
use outlive_core::port::{AuditKind, Run, RunFilter};
use outlive_core::{DefinitionId, InvalidId, RunStatus, SessionId};
use outlive_engine::{Bulk, BulkMatches, BulkOutcome, BulkVerb};
use std::sync::Arc;

const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;
/// Longest reason for a cancel, which is stored in an event in the log.
const REASON_CHARS_MAX: usize = 1000;
/// A status that only filters know: RUNNING, and executed by nobody.
const INTERRUPTED: &str = "INTERRUPTED";

/// `POST /api/runs/cancel`, `…/rerun` and `…/retry`.
pub(super) async fn act(
    verb: BulkVerb,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body<BulkRuns>,
) -> Result<Json<BulkResult>, Problem> {
    let bulk = bulk(verb, &caller, &headers, &body)?;
    let engine = caller.engine();
    let matches = query::page("body", body.cursor.as_deref(), engine.bulk_matches(&bulk).await)?;
    let BulkMatches { runs, next, unreadable } = matches;
    let runs = if body.dry_run {
        for run in &runs {
            caller.sees(run.info.user_id.as_deref(), run.info.run_id.as_str());
        }
        runs.iter().map(BulkLine::matching).collect()
    } else {
        do_to_all(&caller, &bulk, runs, verb.side_by_side()).await
    };
    Ok(Json(BulkResult { runs, next_cursor: next, unreadable: unreadable.iter().map(ToString::to_string).collect() }))
}

/// Does it to these runs, so many at once, and notes each in the audit log.
pub(super) async fn do_to_all(caller: &Caller, bulk: &Bulk, runs: Vec<Run>, side_by_side: usize) -> Vec<BulkLine> {
    let doing = runs.into_iter().map(|run| do_to(caller.clone(), bulk.clone(), run));
    futures::stream::iter(doing).buffered(side_by_side).collect().await
}

async fn do_to(caller: Caller, bulk: Bulk, run: Run) -> BulkLine {
    // As for a run that is named: whoever may write runs may end them, and what starts one asks for its scope.
    let starts = bulk.verb != BulkVerb::Cancel;
    if let Some(problem) = starts.then(|| may_run(&caller, &run.info.workflow_id).err()).flatten() {
        return BulkLine::refused(run.info.run_id.to_string(), &problem);
    }
    let done = caller.engine().bulk_one(&bulk, run).await;
    let target = done.run_id.as_str();
    match (&done.outcome, bulk.verb) {
        (Ok(BulkOutcome::Requested), _) => caller.did(AuditKind::RunCancel, "requested", target),
        (Ok(BulkOutcome::Started { .. }), BulkVerb::Rerun) => caller.did(AuditKind::RunRerun, "accepted", target),
        (Ok(BulkOutcome::Started { .. }), _) => caller.did(AuditKind::RunFork, "accepted", target),
        (Ok(BulkOutcome::Over(_)) | Err(_), _) => {}
    }
    BulkLine::new(done)
}

fn bulk(verb: BulkVerb, caller: &Caller, headers: &HeaderMap, body: &BulkRuns) -> Result<Bulk, Problem> {
    let (filter, interrupted) = filter(caller, &body.filter)?;
    let limit = limit(body.limit)?;
    let filter = RunFilter { after: body.cursor.clone(), limit, ..filter };
    let idempotency_key = idempotency_key(headers)?;
    Ok(Bulk { filter, interrupted, reason: reason(body.reason.as_deref())?, idempotency_key, ..Bulk::new(verb) })
}

/// How many in one request.
pub(super) fn limit(asked: Option<u64>) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(LIMIT);
    let should = format!("Input should be a whole number from 1 to {LIMIT_MAX}");
    let fits = Some(limit).filter(|limit| (1..=LIMIT_MAX).contains(limit)).and_then(|limit| u32::try_from(limit).ok());
    fits.ok_or_else(|| Problem::field("int_range", "body", "limit", should))
}

/// Why runs are cancelled.
pub(super) fn reason(text: Option<&str>) -> Result<Arc<str>, Problem> {
    let reason = text.unwrap_or("cancelled by a client");
    if !(1..=REASON_CHARS_MAX).contains(&reason.chars().count()) {
        let should = format!("Input should have 1 to {REASON_CHARS_MAX} characters");
        return Err(Problem::field("string_length", "body", "reason", should));
    }
    Ok(Arc::from(reason))
}

fn filter(caller: &Caller, asked: &BulkFilter) -> Result<(RunFilter, Option<bool>), Problem> {
    let invalid = |name: &str, error: InvalidId| Problem::field("value_error", "body", name, error.to_string());
    let time =
        |name: &str, text: &Option<String>| text.as_deref().map(|text| query::instant("body", name, text)).transpose();
    let mut statuses = Vec::new();
    for word in &asked.status {
        let is_interrupted = word == INTERRUPTED;
        statuses.push(if is_interrupted { RunStatus::Running } else { status("body", word)? });
    }
    let has = |wanted: &str| asked.status.iter().any(|word| word == wanted);
    let interrupted = match (has(INTERRUPTED), has(RunStatus::Running.as_str())) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (true, true) | (false, false) => None,
    };
    let workflow_id = asked.workflow_id.as_deref().map(DefinitionId::parse).transpose();
    let session_id = asked.session_id.as_deref().map(SessionId::parse).transpose();
    let filter = RunFilter {
        statuses,
        workflow_id: workflow_id.map_err(|error| invalid("workflow_id", error))?,
        session_id: session_id.map_err(|error| invalid("session_id", error))?,
        batch_id: asked.batch_id.as_deref().map(Arc::from),
        user_id: user(asked.user_id.as_deref(), &caller.principal.access())?,
        id_prefix: asked.q.clone().filter(|prefix| !prefix.is_empty()),
        created_from: time("created_from", &asked.created_from)?,
        created_to: time("created_to", &asked.created_to)?,
        ..RunFilter::default()
    };
    Ok((filter, interrupted))
}
