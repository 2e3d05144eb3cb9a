//! Sessions: list, read, create, rename, change, delete, and the runs in them.

use super::Table;
use super::caller::Caller;
use super::query::{self, Query};
use super::runs::session_runs;
use crate::auth::{Doc, Needs, Routes};
use crate::json::Json as Body;
use crate::names;
use crate::problem::Problem;
use crate::state::{Component, Kind};
use crate::wire::list::{self, Nulls};
use crate::wire::session::{self as shapes, SessionFacts};
use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use outlive_core::port::{
    AuditKind, NewSession, Order, RunFilter, Session, SessionFilter, SessionKind, SessionPatch, SessionSort,
};
use outlive_core::{DefinitionId, Metrics, SessionId, Timestamp, WorkflowRunOutput, content_text};
use outlive_engine::Reader;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Instant;

/// Sessions in a page unless the client says otherwise, and at most.
const LIMIT: u32 = 20;
const LIMIT_MAX: u32 = 1000;
/// Sessions that one record of the audit log names.
const NAMED_MAX: usize = 20;

pub(super) fn routes() -> Table {
    let doc = |summary| Doc { summary, tag: "sessions", ..Doc::default() };
    Routes::new()
        .get("/sessions", Needs::scope("sessions:read"), list)
        .doc(doc("The sessions"))
        .post("/sessions", Needs::scope("sessions:write"), create)
        .doc(doc("Create a session"))
        .delete("/sessions", Needs::scope("sessions:delete"), delete_many)
        .doc(doc("Delete sessions with their runs"))
        .get("/sessions/{session_id}", Needs::scope("sessions:read"), get)
        .doc(doc("A session"))
        .patch("/sessions/{session_id}", Needs::scope("sessions:write"), patch)
        .doc(doc("Change a session"))
        .delete("/sessions/{session_id}", Needs::scope("sessions:delete"), delete)
        .doc(doc("Delete a session with its runs"))
        .post("/sessions/{session_id}/rename", Needs::scope("sessions:write"), rename)
        .doc(doc("Name a session"))
        .get("/sessions/{session_id}/runs", Needs::scope("sessions:read"), runs)
        .doc(doc("The runs of a session, oldest first"))
        .get("/sessions/{session_id}/runs/{run_id}", Needs::scope("sessions:read"), run)
        .doc(doc("A run of a session"))
        .get("/sessions/{session_id}/run-previews", Needs::scope("sessions:read"), previews)
        .doc(doc("Short summaries of a session's runs"))
}

/// The query parameter `type`, of most calls.
#[derive(Debug, Default, Deserialize)]
struct TypeQuery {
    r#type: Option<String>,
}

impl TypeQuery {
    fn kind(&self) -> Result<Option<SessionKind>, Problem> {
        let kind = |name: &str| {
            let unknown = || Problem::field("enum", "query", "type", "Input should be 'agent', 'team' or 'workflow'");
            shapes::kind_named(name).ok_or_else(unknown)
        };
        self.r#type.as_deref().map(kind).transpose()
    }
}

/// The kind's name in Agno's sentences.
fn titled(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Workflow => "Workflow",
        SessionKind::Agent => "Agent",
        SessionKind::Team => "Team",
    }
}

#[derive(Debug, Default, Deserialize)]
struct ListQuery {
    r#type: Option<String>,
    component_id: Option<String>,
    user_id: Option<String>,
    session_name: Option<String>,
    limit: Option<String>,
    page: Option<String>,
    sort_by: Option<String>,
    sort_order: Option<String>,
}

impl ListQuery {
    fn filter(&self) -> Result<(SessionFilter, u64, u32), Problem> {
        let kind = TypeQuery { r#type: self.r#type.clone() }.kind()?;
        let limit = self.number("limit", self.limit.as_deref(), u64::from(LIMIT))?;
        let limit = u32::try_from(limit).unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
        let page = self.number("page", self.page.as_deref(), 1)?;
        let offset = (page - 1).checked_mul(u64::from(limit)).filter(|offset| *offset <= i64::MAX.unsigned_abs());
        let too_far = || Problem::field("less_than_equal", "query", "page", "Input should be a smaller number");
        let sort = match self.sort_by.as_deref() {
            None | Some("" | "created_at") => SessionSort::CreatedAt,
            Some("updated_at") => SessionSort::UpdatedAt,
            Some("session_name") => SessionSort::Name,
            Some(_) => {
                let known = "Input should be 'created_at', 'updated_at' or 'session_name'";
                return Err(Problem::field("enum", "query", "sort_by", known));
            }
        };
        let descending = match self.sort_order.as_deref() {
            None | Some("" | "desc") => true,
            Some("asc") => false,
            Some(_) => return Err(Problem::field("enum", "query", "sort_order", "Input should be 'asc' or 'desc'")),
        };
        let filter = SessionFilter {
            kind,
            component_id: self.component_id.as_deref().map(|id| component_id(kind, id)).transpose()?,
            user_id: self.user_id.as_deref().map(Arc::from),
            name: self.session_name.clone(),
            sort,
            descending,
            limit,
            offset: offset.ok_or_else(too_far)?,
        };
        Ok((filter, page, limit))
    }

    fn number(&self, name: &str, text: Option<&str>, absent: u64) -> Result<u64, Problem> {
        let Some(text) = text else { return Ok(absent) };
        let number: i64 = text.parse().map_err(|_| {
            Problem::field("int_parsing", "query", name, "Input should be a valid integer, unable to parse string")
        })?;
        let at_least =
            || Problem::field("greater_than_equal", "query", name, "Input should be greater than or equal to 1");
        u64::try_from(number).ok().filter(|number| *number >= 1).ok_or_else(at_least)
    }
}

/// The id under which runs of a component are stored.
fn component_id(kind: Option<SessionKind>, id: &str) -> Result<DefinitionId, Problem> {
    let text = match kind {
        Some(SessionKind::Agent) => format!("agent:{id}"),
        Some(SessionKind::Team) => format!("team:{id}"),
        Some(SessionKind::Workflow) | None => id.to_owned(),
    };
    DefinitionId::parse(&text)
        .map_err(|invalid| Problem::field("value_error", "query", "component_id", invalid.to_string()))
}

async fn list(caller: Caller, Query(query): Query<ListQuery>) -> Result<Json<Value>, Problem> {
    let (filter, page, limit) = query.filter()?;
    let begun = Instant::now();
    let reader = caller.reader();
    let found = reader.sessions(filter).await?;
    let mut lines = Vec::with_capacity(found.sessions.len());
    for session in &found.sessions {
        let first = first_input(&reader, session).await?;
        lines.push(shapes::summary(SessionFacts { first_input: first.as_deref(), ..SessionFacts::new(session) }));
    }
    let took = (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    let mut body = shapes::page(lines, page, u64::from(limit), found.total, took);
    if !found.unreadable.is_empty() {
        // Sessions that are not among the lines: which, why, and what to do.
        body["meta"]["unreadable"] = found.unreadable.iter().map(ToString::to_string).collect();
    }
    Ok(Json(body))
}

/// What the first run was asked: a session's name until it is given one.
async fn first_input(reader: &Reader, session: &Session) -> Result<Option<String>, Problem> {
    if session.name.is_some() {
        return Ok(None);
    }
    let filter = RunFilter {
        session_id: Some(session.session_id.clone()),
        order: Order::OldestFirst,
        with_payload: true,
        limit: 1,
        ..RunFilter::default()
    };
    let page = reader.runs(filter).await?;
    Ok(page.runs.first().map(|run| match run.read_input() {
        Ok(input) => content_text(input.as_ref()),
        Err(unreadable) => unreadable.to_string(),
    }))
}

/// A session, to be shown to the caller.
async fn find(
    caller: &Caller,
    reader: &Reader,
    session_id: &str,
    missing: impl Fn() -> Problem,
) -> Result<Session, Problem> {
    let id = SessionId::parse(session_id).map_err(|_| missing())?;
    let session = reader.session(&id).await?.ok_or_else(missing)?;
    caller.sees(session.user_id.as_deref(), id.as_str());
    Ok(session)
}

async fn runs_of(reader: &Reader, session: &Session) -> Result<Vec<WorkflowRunOutput>, Problem> {
    session_runs(reader, RunFilter { session_id: Some(session.session_id.clone()), ..RunFilter::default() }).await
}

/// The component a session is held with, while it is served.
fn component<'a>(caller: &'a Caller, session: &Session) -> Option<&'a Component> {
    let kind = match session.kind {
        SessionKind::Workflow => Kind::Workflow,
        SessionKind::Agent => Kind::Agent,
        SessionKind::Team => Kind::Team,
    };
    let id = session.workflow_id.as_ref()?;
    caller.served.component_of(id).filter(|component| component.kind == kind)
}

/// A session whole, in the shape of its kind.
async fn detail(caller: &Caller, reader: &Reader, session: &Session) -> Result<Value, Problem> {
    let runs = runs_of(reader, session).await?;
    let first = runs.first().map(|run| content_text(run.input.as_ref()));
    let usage = usage(&runs);
    let facts = SessionFacts { session, first_input: first.as_deref(), usage: usage.as_ref() };
    let component = component(caller, session);
    Ok(match session.kind {
        SessionKind::Workflow => {
            let definition = component.filter(|_| !runs.is_empty()).map(|component| &*component.definition);
            shapes::workflow_detail(facts, definition)
        }
        SessionKind::Agent | SessionKind::Team => {
            let executors = runs.iter().flat_map(WorkflowRunOutput::executor_runs);
            let messages: Vec<_> = executors.flat_map(|run| run.messages.iter().cloned()).collect();
            shapes::agent_detail(facts, component.map(|component| &component.details), &messages)
        }
    })
}

/// What the runs used together; nothing when none of them used a model.
fn usage(runs: &[WorkflowRunOutput]) -> Option<Metrics> {
    let totals = runs.iter().filter_map(WorkflowRunOutput::used);
    totals.reduce(|mut sum, total| {
        sum.absorb(&total);
        sum
    })
}

async fn get(caller: Caller, Path(id): Path<String>, Query(query): Query<TypeQuery>) -> Result<Json<Value>, Problem> {
    let kind = query.kind()?.unwrap_or_default();
    let missing = || Problem::not_found(format!("{} Session with id '{id}' not found", titled(kind)));
    let reader = caller.reader();
    let session = find(&caller, &reader, &id, missing).await?;
    Ok(Json(detail(&caller, &reader, &session).await?))
}

#[derive(Debug, Default, Deserialize)]
struct RunsQuery {
    status: Option<String>,
    created_after: Option<String>,
    created_before: Option<String>,
}

async fn runs(caller: Caller, Path(id): Path<String>, Query(query): Query<RunsQuery>) -> Result<Json<Value>, Problem> {
    let from = query::integer("created_after", query.created_after.as_deref())?;
    let to = query::integer("created_before", query.created_before.as_deref())?;
    let reader = caller.reader();
    let session = find(&caller, &reader, &id, || Problem::not_found(format!("Session with ID {id} not found"))).await?;
    let runs = runs_of(&reader, &session).await?;
    let is_wanted = |run: &&WorkflowRunOutput| {
        query.status.as_deref().is_none_or(|status| status == run.status.to_string())
            && from.is_none_or(|from| run.created_at >= from)
            && to.is_none_or(|to| run.created_at <= to)
    };
    let component = component(&caller, &session);
    Ok(Json(runs.iter().filter(is_wanted).map(|run| shown(component, run, Nulls::LeftOut)).collect()))
}

/// A run in a list, in the shape of its component's kind.
fn shown(component: Option<&Component>, run: &WorkflowRunOutput, nulls: Nulls) -> Value {
    match component.and_then(Component::face) {
        Some(face) => list::agent_run(run, &face, nulls),
        None => list::workflow_run(run, nulls),
    }
}

async fn run(caller: Caller, Path((id, run_id)): Path<(String, String)>) -> Result<Json<Value>, Problem> {
    let reader = caller.reader();
    let session = find(&caller, &reader, &id, || Problem::not_found(format!("Session with ID {id} not found"))).await?;
    let missing = || Problem::not_found(format!("Run with ID {run_id} not found in session {id}"));
    let parsed = outlive_core::RunId::parse(&run_id).map_err(|_| missing())?;
    let run = reader.get_run(&parsed).await?.filter(|run| run.session_id == session.session_id).ok_or_else(missing)?;
    Ok(Json(shown(component(&caller, &session), &run, Nulls::Written)))
}

async fn previews(caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let reader = caller.reader();
    let session = find(&caller, &reader, &id, || Problem::not_found(format!("Session with ID {id} not found"))).await?;
    let face = component(&caller, &session).and_then(Component::face);
    let runs = runs_of(&reader, &session).await?;
    Ok(Json(runs.iter().map(|run| list::preview(run, face.as_ref())).collect()))
}

#[derive(Debug, Default, Deserialize)]
struct CreateBody {
    session_id: Option<String>,
    session_name: Option<String>,
    user_id: Option<String>,
    workflow_id: Option<String>,
    agent_id: Option<String>,
    team_id: Option<String>,
    session_state: Option<Map<String, Value>>,
    metadata: Option<Map<String, Value>>,
}

async fn create(
    caller: Caller,
    Query(query): Query<TypeQuery>,
    Body(body): Body<CreateBody>,
) -> Result<Response, Problem> {
    let kind = query.kind()?.unwrap_or_default();
    let component = match kind {
        SessionKind::Workflow => body.workflow_id,
        SessionKind::Agent => body.agent_id,
        SessionKind::Team => body.team_id,
    };
    let engine = caller.engine();
    names::ids(&[("session_id", body.session_id.as_deref())])?;
    let session_id =
        body.session_id.map(|id| SessionId::chosen(&id)).transpose().map_err(outlive_engine::Error::from)?;
    let new = NewSession {
        session_id: session_id.unwrap_or_else(|| engine.new_session_id()),
        kind,
        name: body.session_name.as_deref().map(names::session_name).transpose()?.map(Arc::from),
        user_id: caller.principal.acts_for(body.user_id.as_deref())?.map(Arc::from),
        workflow_id: component.map(|id| component_id(Some(kind), &id)).transpose()?,
        state: body.session_state.unwrap_or_default(),
        metadata: body.metadata.unwrap_or_default(),
        at: Timestamp::default(),
    };
    let session = engine.create_session(new).await?;
    Ok((StatusCode::CREATED, Json(detail(&caller, engine.reader(), &session).await?)).into_response())
}

#[derive(Debug, Deserialize)]
struct RenameBody {
    session_name: String,
}

async fn rename(caller: Caller, Path(id): Path<String>, Body(body): Body<RenameBody>) -> Result<Json<Value>, Problem> {
    let patch = SessionPatch { name: Some(names::session_name(&body.session_name)?.into()), ..SessionPatch::default() };
    change(&caller, &id, patch).await
}

#[derive(Debug, Default, Deserialize)]
struct PatchBody {
    session_name: Option<String>,
    session_state: Option<Map<String, Value>>,
    metadata: Option<Map<String, Value>>,
}

async fn patch(caller: Caller, Path(id): Path<String>, Body(body): Body<PatchBody>) -> Result<Json<Value>, Problem> {
    let name = body.session_name.as_deref().map(names::session_name).transpose()?.map(Arc::from);
    change(&caller, &id, SessionPatch { name, state: body.session_state, metadata: body.metadata }).await
}

async fn change(caller: &Caller, id: &str, patch: SessionPatch) -> Result<Json<Value>, Problem> {
    let missing = || Problem::not_found(format!("Session with id '{id}' not found"));
    let engine = caller.engine();
    let parsed = SessionId::parse(id).map_err(|_| missing())?;
    let session = engine.update_session(&parsed, patch).await?.ok_or_else(missing)?;
    let mut body = detail(caller, engine.reader(), &session).await?;
    if session.kind == SessionKind::Workflow {
        // Agno writes this one null here, and leaves it out where a session is read.
        body["workflow_name"] = Value::Null;
    }
    Ok(Json(body))
}

#[derive(Debug, Default, Deserialize)]
struct DeleteQuery {
    force: Option<String>,
}

impl DeleteQuery {
    fn is_forced(&self) -> Result<bool, Problem> {
        query::boolean("force", self.force.as_deref())
    }
}

async fn delete(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, Problem> {
    remove(&caller, vec![id], query.is_forced()?).await
}

#[derive(Debug, Deserialize)]
struct DeleteBody {
    session_ids: Vec<String>,
}

async fn delete_many(
    caller: Caller,
    Query(query): Query<DeleteQuery>,
    Body(body): Body<DeleteBody>,
) -> Result<StatusCode, Problem> {
    remove(&caller, body.session_ids, query.is_forced()?).await
}

/// Deletes the sessions that exist and ignores the others.
async fn remove(caller: &Caller, ids: Vec<String>, force: bool) -> Result<StatusCode, Problem> {
    let ids: Vec<_> = ids.iter().filter_map(|id| SessionId::parse(id).ok()).collect();
    let (asked, named) = (ids.len() as u64, named(&ids));
    let deleted = caller.engine().delete_sessions(ids, force).await?;
    if deleted > 0 {
        caller.did(AuditKind::SessionDelete, if deleted == asked { "deleted" } else { "deleted_some" }, &named);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Sessions in few words.
fn named(ids: &[SessionId]) -> String {
    let (shown, rest) = ids.split_at(ids.len().min(NAMED_MAX));
    let shown = shown.iter().map(SessionId::as_str).collect::<Vec<_>>().join(" ");
    if rest.is_empty() { shown } else { format!("{shown} and {} more", rest.len()) }
}
