//! Forks: a run that goes on from where another was, and what that would do again.

use super::runs::{component, may_run, told};
use super::shape::{ForkPlace, ForkPreview, ForkRun};
use crate::json::Json as Body;
use crate::names;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::runs::{check_session, find, idempotency_key};
use axum::Json;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::response::Response;
use outlive_core::RunInfo;
use outlive_core::fork::{ForkEdit, ForkPoint};
use outlive_core::port::AuditKind;
use outlive_engine::Fork;

impl ForkRun {
    /// What is asked of the engine.
    ///
    /// # Errors
    /// When the fields do not go together.
    fn into_fork(self, caller: &Caller) -> Result<Fork, Problem> {
        names::ids(&[("run_id", self.run_id.as_deref()), ("session_id", self.session_id.as_deref())])?;
        let edit = match (self.output, self.answer) {
            (Some(_), Some(_)) => {
                let should = "An output and an answer cannot both be changed at one place";
                return Err(Problem::field("value_error", "body", "answer", should));
            }
            (Some(output), None) => ForkEdit::Output(output),
            (None, Some(answer)) => ForkEdit::Answer(answer.into_answer()?),
            (None, None) => ForkEdit::Nothing,
        };
        Ok(Fork {
            at: match self.at {
                ForkPlace::Entry(index) => ForkPoint::Entry(index),
                ForkPlace::Name(place) => ForkPoint::At(place.into()),
            },
            edit,
            input: self.input,
            by: caller.principal.user_id.clone(),
            run_id: self.run_id,
            session_id: self.session_id,
            idempotency_key: None,
        })
    }
}

/// `POST /api/runs/{run_id}/fork`.
pub(super) async fn fork(
    caller: Caller,
    Path(run_id): Path<String>,
    headers: HeaderMap,
    body: Result<Body<ForkRun>, Problem>,
) -> Result<Response, Problem> {
    let fork = asked(&caller, &run_id, body).await?;
    start(&caller, &run_id, Fork { idempotency_key: idempotency_key(&headers)?, ..fork }).await
}

/// `POST /api/runs/{run_id}/fork/preview`.
pub(super) async fn preview(
    caller: Caller,
    Path(run_id): Path<String>,
    body: Result<Body<ForkRun>, Problem>,
) -> Result<Json<ForkPreview>, Problem> {
    let fork = asked(&caller, &run_id, body).await?;
    look(&caller, &run_id, &fork).await
}

/// `POST /api/runs/{run_id}/retry`.
pub(super) async fn retry(caller: Caller, Path(run_id): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    start(&caller, &run_id, Fork { idempotency_key: idempotency_key(&headers)?, ..Fork::retry() }).await
}

/// `POST /api/runs/{run_id}/retry/preview`.
pub(super) async fn preview_retry(caller: Caller, Path(run_id): Path<String>) -> Result<Json<ForkPreview>, Problem> {
    look(&caller, &run_id, &Fork::retry()).await
}

/// What is asked of the engine. Of a run that is not the caller's nobody hears more than that, whatever they ask.
async fn asked(caller: &Caller, run_id: &str, body: Result<Body<ForkRun>, Problem>) -> Result<Fork, Problem> {
    match body.and_then(|Body(body)| body.into_fork(caller)) {
        Ok(fork) => Ok(fork),
        Err(problem) => Err(find(caller.engine().reader(), run_id).await.err().unwrap_or(problem)),
    }
}

async fn start(caller: &Caller, run_id: &str, fork: Fork) -> Result<Response, Problem> {
    let engine = caller.engine();
    let run = find(engine.reader(), run_id).await?;
    may_run(caller, &run.info.workflow_id)?;
    may_answer(caller, &run.info, &fork).await?;
    check(caller, &run.info, &fork).await?;
    let is_answer = matches!(fork.edit, ForkEdit::Answer(_));
    let handle = engine.fork(&run.info.run_id, fork).await?;
    let answer = told(&engine, &handle, None).await?;
    caller.did(AuditKind::RunFork, "accepted", run.info.run_id.as_str());
    if is_answer {
        caller.did(AuditKind::QuestionAnswer, "in a fork", handle.run_id().as_str());
    }
    Ok(answer)
}

/// Another answer takes the scope of answering, and of lifting a budget where the run has asked for that.
async fn may_answer(caller: &Caller, run: &RunInfo, fork: &Fork) -> Result<(), Problem> {
    let ForkEdit::Answer(answer) = &fork.edit else { return Ok(()) };
    caller.must_have("questions:answer")?;
    let asked = caller.engine().reader().asked_by(&run.run_id).await?;
    asked.iter().try_for_each(|asked| caller.may_answer(&asked.question, answer))
}

/// The session a fork is to belong to is one that its run could have.
async fn check(caller: &Caller, run: &RunInfo, fork: &Fork) -> Result<(), Problem> {
    let Some(session_id) = &fork.session_id else { return Ok(()) };
    let component = component(&caller.served, run.workflow_id.as_str())?;
    check_session(caller.engine().reader(), component, session_id, run.user_id.as_deref()).await
}

async fn look(caller: &Caller, run_id: &str, fork: &Fork) -> Result<Json<ForkPreview>, Problem> {
    let engine = caller.engine();
    let run = find(engine.reader(), run_id).await?;
    caller.sees(run.info.user_id.as_deref(), run.info.run_id.as_str());
    check(caller, &run.info, fork).await?;
    let preview = engine.preview_fork(&run.info.run_id, fork).await?;
    Ok(Json(ForkPreview::new(&preview)))
}
