//! Continuing a paused run as Agno's clients do: all open questions are answered at once.
//!
//! `/api/questions` takes each answer by itself. One way in, [`find`] and [`answer`], for forms and for sockets. The
//! invariant: whoever only answers is shown nothing of the run.

use super::caller::Caller;
use super::runs::{self, finished, run_id_header};
use crate::follow::Follow;
use crate::problem::Problem;
use crate::sse::{self, Numbering, Selection};
use crate::state::Kind;
use crate::wire::answers::Requirements;
use crate::wire::form::{ContinueForm, Fields};
use crate::wire::run::{self as shapes, Shape};
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use outlive_core::port::{AuditKind, QuestionState, Run};
use outlive_core::{Question, RunStatus};
use outlive_engine::Error;

/// The run with this id, for a caller who answers. Of another user's run they learn no more than what it asks: it is
/// there as long as it asks something.
pub(crate) async fn find(caller: &Caller, run_id: &str) -> Result<Run, Problem> {
    let desk = caller.desk();
    let run = runs::find(desk.reader(), run_id).await?;
    let is_there = caller.reaches(&run.info) || !desk.reader().questions_of(&run.info.run_id).await?.is_empty();
    if is_there { Ok(run) } else { Err(runs::missing()) }
}

/// Answers everything that a paused run asks.
///
/// # Errors
/// 400 when something is not answered or does not fit, 409 when the run is not paused or somebody else was first.
pub(crate) async fn answer(caller: &Caller, run: &Run, given: &Requirements) -> Result<(), Problem> {
    if run.status != RunStatus::Paused {
        return not_paused(run.status);
    }
    let (desk, run_id) = (caller.desk(), &run.info.run_id);
    let asked = desk.reader().asked_by(run_id).await?;
    let open = asked.iter().filter(|asked| asked.state == QuestionState::Open);
    let open: Vec<&Question> = open.map(|asked| &asked.question).collect();
    let settled = asked.iter().map(|asked| (&asked.question, asked.answered.as_ref().map(|before| &before.answer)));
    if let Some(at) = given.disputed(&settled.collect::<Vec<_>>(), &open) {
        return Err(Error::AlreadyAnswered(Box::new(asked[at].clone())).into());
    }
    if open.is_empty() {
        // Somebody was faster.
        return not_paused(runs::find(desk.reader(), run_id.as_str()).await?.status);
    }
    let answers = given.answers(&open)?;
    open.iter().zip(&answers).try_for_each(|(question, (_, answer))| caller.may_answer(question, answer))?;
    desk.answer(answers, caller.principal.user_id.clone()).await?;
    caller.did(AuditKind::QuestionAnswer, "done", run_id.as_str());
    Ok(())
}

/// What is said of a run that asks nothing.
fn not_paused(status: RunStatus) -> Result<(), Problem> {
    let why = match status {
        RunStatus::Paused => "asks nothing",
        RunStatus::Pending | RunStatus::Running => "is already running",
        RunStatus::Completed => "is already completed",
        RunStatus::Error => "has errored",
        // Agno shows it as it is.
        RunStatus::Cancelled => return Ok(()),
    };
    Err(Problem::new(StatusCode::CONFLICT, "run_not_paused", format!("run {why}")))
}

/// `POST /{kind}/{id}/runs/{run_id}/continue`.
pub(crate) async fn post(
    kind: Kind,
    caller: Caller,
    Path((id, run_id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let component = caller.served.known(kind, &id)?;
    let form = ContinueForm::parse(Fields::read(request, &caller.state.limits).await?)?;
    let run = find(&caller, &run_id).await?;
    if run.info.workflow_id != component.definition.id {
        return Err(runs::missing());
    }
    if form.background {
        let detail = "background=true is not needed to continue a run: answer its questions at /api/questions, \
            which does not wait, or retry without background";
        return Err(Problem::new(StatusCode::CONFLICT, "background_continue", detail));
    }
    let is_shown = caller.reaches(&run.info);
    let is_streamed = form.stream && is_shown;
    let slot = is_streamed.then(|| caller.state.streams.take(&caller.principal)).transpose()?;
    answer(&caller, &run, &form.into_requirements()).await?;
    let (reader, run_id) = (caller.reader(), run.info.run_id.clone());
    let mut response = match slot {
        None if !is_shown => accepted(&run),
        Some(slot) => {
            let follow = Follow::after(&reader, run_id.clone(), run.next_index.checked_sub(1));
            sse::response(&caller, slot, component, follow, Numbering::Hidden, Selection::Everything).await?
        }
        None => finished(component, &reader, &run_id, Shape::Continued).await?,
    };
    let (name, value) = run_id_header(&run_id);
    response.headers_mut().insert(name, value);
    Ok(response)
}

/// What somebody is told who may answer, and may not see what comes of it.
fn accepted(run: &Run) -> Response {
    let body = shapes::accepted(run.info.run_id.as_str(), run.info.session_id.as_str(), RunStatus::Running);
    (StatusCode::ACCEPTED, axum::Json(body)).into_response()
}
