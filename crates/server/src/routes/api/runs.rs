//! Runs: list, read, start, cancel, start again.

use super::range::{self, Payload};
use super::shape::{AcceptedRun, CancelRun, CancelledRun, CreateRun, ForkedFrom, RunDetail, RunLine, RunList};
use super::{bulk, show, steps};
use crate::json::Json as Body;
use crate::names;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query::{self, Query};
use crate::routes::runs::{REPLAYED, check_session, find, idempotency_key, submit_run, wait};
use crate::state::{Component, Kind, Served};
use crate::webhook::Ask;
use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use outlive_core::port::{Access, AuditKind, Order, RunFilter};
use outlive_core::{Attachments, DefinitionId, RunId, RunStatus, SessionId};
use outlive_engine::{Engine, RunHandle, Submit};
use serde::Deserialize;
use std::sync::Arc;

const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;
/// Where inputs and outputs have to be read, of which each may be long.
const PREVIEW_MAX: u64 = 100;

/// The query of a list. Texts, so that what is wrong with one can be said by its name.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    status: Option<String>,
    workflow_id: Option<String>,
    session_id: Option<String>,
    batch_id: Option<String>,
    user_id: Option<String>,
    q: Option<String>,
    created_from: Option<String>,
    created_to: Option<String>,
    order: Option<String>,
    preview: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

impl ListQuery {
    fn filter(&self, access: &Access) -> Result<RunFilter, Problem> {
        let invalid = |name: &str, error: outlive_core::InvalidId| {
            Problem::field("value_error", "query", name, error.to_string())
        };
        let workflow_id = self.workflow_id.as_deref().map(DefinitionId::parse).transpose();
        let session_id = self.session_id.as_deref().map(SessionId::parse).transpose();
        let has_preview = query::boolean("preview", self.preview.as_deref())?;
        let most = if has_preview { PREVIEW_MAX } else { LIMIT_MAX };
        let limit = query::number("limit", self.limit.as_deref(), 1, most)?.unwrap_or(LIMIT);
        Ok(RunFilter {
            statuses: statuses(self.status.as_deref())?,
            workflow_id: workflow_id.map_err(|error| invalid("workflow_id", error))?,
            session_id: session_id.map_err(|error| invalid("session_id", error))?,
            batch_id: self.batch_id.as_deref().map(Arc::from),
            user_id: user(self.user_id.as_deref(), access)?,
            id_prefix: self.q.clone().filter(|prefix| !prefix.is_empty()),
            created_from: query::time("created_from", self.created_from.as_deref())?,
            created_to: query::time("created_to", self.created_to.as_deref())?,
            before: None,
            order: self.order()?,
            after: self.cursor.clone(),
            limit: u32::try_from(limit).expect("the limit is at most 1000"),
            with_payload: has_preview,
            with_counts: true,
        })
    }

    fn order(&self) -> Result<Order, Problem> {
        match self.order.as_deref() {
            None | Some("newest") => Ok(Order::NewestFirst),
            Some("oldest") => Ok(Order::OldestFirst),
            Some(_) => Err(Problem::field("enum", "query", "order", "Input should be 'newest' or 'oldest'")),
        }
    }
}

/// Whose runs are meant: a user may name themselves, an administrator anyone.
pub(super) fn user(named: Option<&str>, access: &Access) -> Result<Option<Arc<str>>, Problem> {
    match named {
        Some(named) if access.user().is_some_and(|own| **own != *named) => {
            let detail = "Only an administrator can list the runs of another user";
            Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_scope", detail))
        }
        named => Ok(named.map(Arc::from)),
    }
}

/// A status in this part of a request.
pub(super) fn status(part: &'static str, word: &str) -> Result<RunStatus, Problem> {
    let known = "Input should be PENDING, RUNNING, PAUSED, COMPLETED, CANCELLED or ERROR";
    RunStatus::parse(word).ok_or_else(|| Problem::field("enum", part, "status", known))
}

/// Statuses in a query, separated by commas.
pub(super) fn statuses(text: Option<&str>) -> Result<Vec<RunStatus>, Problem> {
    query::words(text).map(|word| status("query", word)).collect()
}

/// `GET /api/runs`.
pub(super) async fn list(caller: Caller, Query(query): Query<ListQuery>) -> Result<Json<RunList>, Problem> {
    let filter = query.filter(&caller.principal.access())?;
    let (cursor, has_preview) = (filter.after.clone(), filter.with_payload);
    let reader = caller.reader();
    let page = query::page("query", cursor.as_deref(), reader.runs(filter).await)?;
    let waitings = reader.waitings(&page.runs).await?;
    let line = if has_preview { RunLine::with_preview } else { RunLine::new };
    let (counts, counts_exact) = page.counts.map_or((Vec::new(), true), |counts| (counts.by_status, counts.is_exact));
    Ok(Json(RunList {
        runs: page.runs.iter().zip(&waitings).map(|(run, waiting)| line(run, waiting.as_ref())).collect(),
        counts: counts.into_iter().map(|(status, count)| (status.as_str(), count)).collect(),
        counts_exact,
        next_cursor: page.next,
        unreadable: page.unreadable.iter().map(ToString::to_string).collect(),
    }))
}

/// The query of a run.
#[derive(Debug, Default, Deserialize)]
pub(super) struct DetailQuery {
    steps: Option<String>,
}

/// `GET /api/runs/{run_id}`. Header and steps are of the same moment: those of the event `seq`. Without steps no log is
/// read.
pub(super) async fn get(
    caller: Caller,
    Path(run_id): Path<String>,
    Query(query): Query<DetailQuery>,
) -> Result<Json<RunDetail>, Problem> {
    let has_steps = query::boolean("steps", query.steps.as_deref().or(Some("true")))?;
    let reader = caller.reader();
    let run = show(&caller, &reader, &run_id).await?;
    let steps = if has_steps { Some(steps::first(&reader, &run).await?) } else { None };
    let waiting = reader.waiting(&run).await?;
    Ok(Json(RunDetail::new(&run, waiting.as_ref(), steps)))
}

/// The query of a run's output.
#[derive(Debug, Default, Deserialize)]
pub(super) struct OutputQuery {
    wait: Option<String>,
}

/// `GET /api/runs/{run_id}/output`. What a poll inside the process would see, also while the run goes on.
pub(super) async fn output(
    caller: Caller,
    Path(run_id): Path<String>,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = caller.reader();
    let run = show(&caller, &reader, &run_id).await?;
    let run = wait(&reader, run, query.wait.as_deref()).await?;
    range::answer(Payload::json(&reader.output(&run).await?), &headers)
}

/// `POST /api/runs`.
pub(super) async fn create(
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body<CreateRun>,
) -> Result<Response, Problem> {
    let component = component(&caller.served, &body.workflow_id)?;
    names::ids(&[("run_id", body.run_id.as_deref()), ("session_id", body.session_id.as_deref())])?;
    let webhook = Ask { url: body.webhook_url, events: body.webhook_events };
    let engine = caller.engine();
    let user_id = caller.principal.acts_for(body.user_id.as_deref())?.map(str::to_owned);
    if let Some(session_id) = &body.session_id {
        check_session(engine.reader(), component, session_id, user_id.as_deref()).await?;
    }
    let submit = Submit {
        input: body.input,
        run_id: body.run_id,
        session_id: body.session_id,
        user_id,
        session_state: body.session_state,
        session_kind: component.kind.session(),
        attachments: Attachments { additional_data: body.additional_data, ..Attachments::default() },
        idempotency_key: idempotency_key(&headers)?,
        hook: webhook.accept(caller.state.webhooks.as_deref())?,
        policy: names::session_policy(body.session_policy.as_deref())?,
        steer_to: body.steer_to,
        start_at: body.start_at.as_deref().map(|text| query::instant("body", "start_at", text)).transpose()?,
        priority: body.priority,
        concurrency_key: body.concurrency_key,
        ..Submit::default()
    };
    accept(&caller, &engine, &component.definition.id, submit, None).await
}

/// What is served under this id: a workflow, or the workflow around an agent or team.
pub(in crate::routes) fn component<'a>(served: &'a Served, workflow_id: &str) -> Result<&'a Component, Problem> {
    let found = DefinitionId::parse(workflow_id).ok().and_then(|id| served.starting(&id));
    found.map_or_else(|| served.component(Kind::Workflow, workflow_id), Ok)
}

/// Starting through `/api` asks for the same scope as the component's own route.
pub(in crate::routes) fn may_run(caller: &Caller, workflow_id: &DefinitionId) -> Result<(), Problem> {
    if caller.may(workflow_id, "run") {
        return Ok(());
    }
    let kind = caller.served.component_of(workflow_id).map_or(Kind::Workflow, |component| component.kind);
    let detail = format!("Insufficient permissions. Required scope(s): {}:run", kind.plural());
    Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_scope", detail))
}

async fn accept(
    caller: &Caller,
    engine: &Engine,
    workflow_id: &DefinitionId,
    submit: Submit,
    rerun_of: Option<String>,
) -> Result<Response, Problem> {
    may_run(caller, workflow_id)?;
    let handle = submit_run(caller, engine, workflow_id, submit).await?;
    told(engine, &handle, rerun_of).await
}

/// The answer about a run that was accepted.
pub(super) async fn told(engine: &Engine, handle: &RunHandle, rerun_of: Option<String>) -> Result<Response, Problem> {
    let run_id = handle.run_id().as_str();
    let run = find(engine.reader(), run_id).await?;
    // A run that was just accepted may be running already; it is told as it was accepted.
    let (code, status) = match handle.steering_run_id() {
        _ if handle.is_repeated() => (StatusCode::OK, run.status),
        Some(_) => (StatusCode::ACCEPTED, run.status),
        None => (StatusCode::ACCEPTED, RunStatus::Pending),
    };
    let body = AcceptedRun {
        run_id: run_id.to_owned(),
        session_id: run.info.session_id.to_string(),
        status: status.as_str(),
        rerun_of,
        steering_run_id: handle.steering_run_id().map(ToString::to_string),
        forked_from: run.forked_from()?.as_ref().map(ForkedFrom::new),
    };
    let mut response = (code, Json(body)).into_response();
    if let Ok(place) = HeaderValue::from_str(&format!("/api/runs/{run_id}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    if handle.is_repeated() {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// `POST /api/runs/{run_id}/cancel`.
pub(super) async fn cancel(
    caller: Caller,
    Path(run_id): Path<String>,
    body: Option<Body<CancelRun>>,
) -> Result<Json<CancelledRun>, Problem> {
    let engine = caller.engine();
    let run_id = RunId::parse(&run_id).map_err(|_| Problem::not_found("Run not found"))?;
    let reason = bulk::reason(body.and_then(|Body(body)| body.reason).as_deref())?;
    let (outcome, status) = match engine.cancel(&run_id, &reason).await? {
        None => {
            caller.did(AuditKind::RunCancel, "requested", run_id.as_str());
            let run = find(engine.reader(), run_id.as_str()).await?;
            ("requested", run.status)
        }
        Some(RunStatus::Cancelled) => ("cancelled", RunStatus::Cancelled),
        Some(over) => {
            let detail = format!("The run has ended: its status is {over}");
            let problem = Problem::new(StatusCode::CONFLICT, "already_over", detail);
            return Err(problem.state(over.as_str()));
        }
    };
    Ok(Json(CancelledRun { run_id: run_id.to_string(), outcome, status: status.as_str() }))
}

/// `POST /api/runs/{run_id}/rerun`.
pub(super) async fn rerun(caller: Caller, Path(run_id): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let engine = caller.engine();
    let run = find(engine.reader(), &run_id).await?;
    let submit = Submit { idempotency_key: idempotency_key(&headers)?, ..Submit::again(&run)? };
    let answer = accept(&caller, &engine, &run.info.workflow_id, submit, Some(run.info.run_id.to_string())).await?;
    caller.did(AuditKind::RunRerun, "accepted", run.info.run_id.as_str());
    Ok(answer)
}
