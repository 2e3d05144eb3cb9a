//! Deleting runs that have ended, as the caller may.

use super::runs::status;
use super::shape::{PruneRuns, PrunedRuns};
use crate::json::Json as Body;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query;
use axum::Json;
use outlive_core::port::{AuditKind, RunFilter};
use outlive_core::{DefinitionId, Retention, SessionId};
use outlive_engine::Prune;
use std::time::Duration;

/// `POST /api/prune`.
pub(super) async fn prune(caller: Caller, Body(body): Body<PruneRuns>) -> Result<Json<PrunedRuns>, Problem> {
    let is_preview = body.dry_run;
    let request = request(&caller, body)?;
    let report = caller.engine().prune(request).await?;
    if !is_preview && report.runs + report.batches > 0 {
        caller.did(AuditKind::RunPrune, "done", &report.to_string());
    }
    Ok(Json(PrunedRuns {
        runs: report.runs,
        bytes: report.bytes,
        in_use: report.in_use,
        batches: report.batches,
        dry_run: is_preview,
        next_cursor: report.next,
    }))
}

fn request(caller: &Caller, body: PruneRuns) -> Result<Prune, Problem> {
    let invalid = |name: &'static str, error: String| Problem::field("value_error", "body", name, error);
    let workflow_id = body.workflow_id.as_deref().map(DefinitionId::parse).transpose();
    let session_id = body.session_id.as_deref().map(SessionId::parse).transpose();
    let time =
        |name: &'static str, text: Option<&String>| text.map(|text| query::instant("body", name, text)).transpose();
    let filter = RunFilter {
        statuses: body.status.iter().map(|word| status("body", word)).collect::<Result<_, _>>()?,
        workflow_id: workflow_id.map_err(|error| invalid("workflow_id", error.to_string()))?,
        session_id: session_id.map_err(|error| invalid("session_id", error.to_string()))?,
        // Another user's runs are not there for a caller who is one.
        user_id: body.user_id.map(Into::into),
        batch_id: body.batch_id.map(Into::into),
        id_prefix: body.q,
        created_from: time("created_from", body.created_from.as_ref())?,
        created_to: time("created_to", body.created_to.as_ref())?,
        ..RunFilter::default()
    };
    if body.max_bytes.is_some() && caller.principal.access().user().is_some() {
        let problem = "a size is that of the whole database: it takes a credential that sees all users' runs";
        return Err(invalid("max_bytes", problem.to_owned()));
    }
    let retention = Retention {
        max_age: body.max_age_seconds.map(Duration::from_secs),
        max_runs: body.max_runs,
        max_bytes: body.max_bytes,
        sessions_max_age: None,
    };
    Ok(Prune { retention, filter, is_preview: body.dry_run, after: body.cursor })
}
