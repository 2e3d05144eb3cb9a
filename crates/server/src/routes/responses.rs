//! `/v1`: runs as responses, for OpenAI's SDKs. They start, poll and follow runs of workflows, agents and teams as those of
//! models, in background mode and without.
//!
//! Starting, following and cancelling are those of the other routes; what differs is how a client is told. The invariant:
//! whoever asks for a response is shown the same one: who started it, who polls, and who followed it to its end.

use super::api::{component, may_run};
use super::caller::Caller;
use super::query::{self, Query};
use super::runs::{self, Start, find, idempotency_key};
use super::{Table, field};
use crate::auth::{Doc, Field, Needs, Routes};
use crate::follow::Follow;
use crate::json::Json as Body;
use crate::problem::{Detail, Problem};
use crate::sequence::Sequence;
use crate::sse::{self, Tongue};
use crate::state::{Component, Kind, Served};
use crate::streams::StreamSlot;
use crate::wire::openai::events::Telling;
use crate::wire::openai::request::{Create, unknown_response};
use crate::wire::openai::response::{self as shapes, Ended, Face, Standing};
use crate::wire::openai::{response_id, run_id};
use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use outlive_core::port::{AuditKind, BoxFuture, Run};
use outlive_core::{EventKind, Node, RunEvent, RunId, RunStatus, Structure};
use outlive_engine::{Error, Reader};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// How long a client that cancels waits for the run's end, which is at hand.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

const READ: Needs = Needs::scope("runs:read");
const WRITE: Needs = Needs::scope("runs:write");

const KEY: &[Field] =
    &[field("Idempotency-Key", "string", false, "Repeating the request with the same key returns the same response")];
const GET_QUERY: &[Field] = &[
    field("stream", "boolean", false, "Answer with Server-Sent Events (default false)"),
    field("starting_after", "integer", false, "With stream: events after the one with this sequence_number"),
];
const ITEMS_QUERY: &[Field] = &[field("after", "string", false, "Items after the one with this id")];

pub(super) fn routes() -> Table {
    let doc = |summary| Doc { summary, tag: "openai", ..Doc::default() };
    Routes::new()
        .post("/v1/responses", WRITE, create)
        .doc(Doc {
            headers: KEY,
            body: Some("CreateResponse"),
            answer: Some("Response"),
            ..doc("Start a run as a response: a workflow, agent or team is the model")
        })
        .get("/v1/responses/{response_id}", READ, get)
        .doc(Doc { query: GET_QUERY, answer: Some("Response"), ..doc("A response as it is now, or its events") })
        .post("/v1/responses/{response_id}/cancel", WRITE, cancel)
        .doc(Doc { answer: Some("Response"), ..doc("Cancel a response; one that is over is shown as it is") })
        .delete("/v1/responses/{response_id}", Needs::scope("runs:delete"), delete)
        .doc(doc("Delete a response that is over, and its run"))
        .get("/v1/responses/{response_id}/input_items", READ, input_items)
        .doc(Doc { query: ITEMS_QUERY, ..doc("What a response was asked") })
        .get("/v1/models", READ, models)
        .doc(doc("The workflows, agents and teams that the caller may use, as models"))
        .get("/v1/models/{model_id}", READ, model)
        .doc(doc("One of them"))
}

/// `POST /v1/responses`.
async fn create(caller: Caller, headers: HeaderMap, Body(body): Body<Map<String, Value>>) -> Result<Response, Problem> {
    let mut create = Create::parse(body)?;
    let component = component_of(&caller.served, &create.model)?;
    may_run(&caller, &component.definition.id)?;
    let conversation = match &create.previous {
        Some(previous) => Some(conversation_of(&caller, component, previous.as_str()).await?),
        None => create.conversation.take(),
    };
    // Before the run is accepted: a refusal must leave nothing behind.
    let slot = create.stream.then(|| caller.state.streams.take(&caller.principal)).transpose()?;
    let start = Start {
        message: std::mem::take(&mut create.message),
        session_id: conversation,
        user_id: create.user.take(),
        attachments: std::mem::take(&mut create.attachments),
        idempotency_key: idempotency_key(&headers)?,
        ..Start::default()
    };
    let started = runs::start(&caller, component.kind, &component.id, start).await;
    let started = started.map_err(|problem| create.rename(problem))?;
    let run = find(&started.reader, started.run_id.as_str()).await?;
    let mut answer = match slot {
        Some(slot) => stream(&caller, slot, &run, None).await?,
        None if !create.background => {
            started.reader.wait(&started.run_id).await?;
            let run = find(&started.reader, started.run_id.as_str()).await?;
            Json(response(&started.reader, &run).await?).into_response()
        }
        None if started.is_repeated => Json(response(&started.reader, &run).await?).into_response(),
        // It may have begun already; it is told as it was accepted.
        None => Json(face(&run)?.unfinished(Standing::Queued, None)).into_response(),
    };
    let headers = answer.headers_mut();
    let (name, value) = runs::run_id_header(&started.run_id);
    headers.insert(name, value);
    if started.is_repeated {
        headers.insert(runs::REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(answer)
}

/// The workflow, agent or team that a model names: by the id of its runs' workflow, as everywhere, or of an agent or a team
/// by its own, where that is nobody else's too.
fn component_of<'a>(served: &'a Served, model: &str) -> Result<&'a Component, Problem> {
    let missing = |_| {
        let detail = format!("The model '{model:.200}' does not exist: GET /v1/models lists those that do");
        Problem { code: "unknown_component", ..Problem::not_found(detail) }
    };
    component(served, model).or_else(|problem| {
        let mut named = [Kind::Agent, Kind::Team].into_iter().filter_map(|kind| served.component(kind, model).ok());
        match (named.next(), named.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(missing(problem)),
        }
    })
}

/// The session of an earlier response, which goes on with the same model.
async fn conversation_of(caller: &Caller, component: &Component, run_id: &str) -> Result<String, Problem> {
    let found = find(&caller.reader(), run_id).await;
    let previous = found.map_err(|problem| match problem.status {
        StatusCode::NOT_FOUND => unknown_response(&format!("resp_{run_id}")),
        _ => problem,
    })?;
    if previous.info.workflow_id != component.definition.id {
        let msg = format!(
            "a conversation goes on with the model it was begun with: '{}', or leave previous_response_id out",
            previous.info.workflow_id
        );
        return Err(Problem::field("value_error", "body", "previous_response_id", msg));
    }
    Ok(previous.info.session_id.to_string())
}

/// The run of a response, if it exists for this reader.
async fn find_response(reader: &Reader, id: &str) -> Result<Run, Problem> {
    let missing = || Problem::not_found(format!("Response with id '{id:.200}' not found."));
    let run_id = run_id(id).ok_or_else(missing)?;
    let found = find(reader, run_id.as_str()).await;
    found.map_err(|problem| if problem.status == StatusCode::NOT_FOUND { missing() } else { problem })
}

fn face(run: &Run) -> Result<Face, Problem> {
    Ok(Face::new(run, &run.request_options()?.attachments))
}

/// A run as it is now.
async fn response(reader: &Reader, run: &Run) -> Result<Value, Problem> {
    let face = face(run)?;
    if run.status.is_terminal() {
        return Ok(face.ended(&ended(reader, run).await?));
    }
    let paused = match run.status {
        RunStatus::Paused => reader.output(run).await?.paused_step_name,
        _ => None,
    };
    Ok(face.unfinished(Standing::of(run.status), paused.as_deref()))
}

/// How a run that is over ended.
async fn ended(reader: &Reader, run: &Run) -> Result<Ended, Error> {
    let last = match run.status {
        RunStatus::Error => runs::last_event(reader, &run.info.run_id, run.next_index).await?,
        _ => None,
    };
    let error_type = match last {
        Some(EventKind::WorkflowError { error_type, .. }) => error_type,
        _ => None,
    };
    Ok(Ended { run: reader.output(run).await?, error_type, at: run.updated_at.as_seconds() })
}

/// Follows a run as a response's events, through its pauses, to its end.
async fn stream(caller: &Caller, slot: StreamSlot, run: &Run, after: Option<Sequence>) -> Result<Response, Problem> {
    let reader = caller.reader();
    let telling = Telling::new(face(run)?, speaker(caller, run).await?, after);
    // From the first, wherever the client goes on: a text that has begun is told to its end.
    let follow = Follow::from_start(&reader, run.info.run_id.clone()).through_pauses();
    let words = Words { reader, run_id: run.info.run_id.clone(), telling };
    Ok(sse::told(caller, slot, follow, Box::new(words)))
}

/// The place of the step whose text is the run's result, where that can be said before the end: of the last step, as the
/// run was accepted.
async fn speaker(caller: &Caller, run: &Run) -> Result<Option<u32>, Problem> {
    let last = |nodes: &[Node]| match nodes.last() {
        Some(Node::Step(_)) => u32::try_from(nodes.len() - 1).ok(),
        _ => None,
    };
    let newest = caller.served.component_of(&run.info.workflow_id).map(|component| &component.definition);
    if let Some(newest) = newest.filter(|newest| newest.hash == run.definition) {
        return Ok(last(&newest.nodes).filter(|_| newest.leader.is_none()));
    }
    let accepted = caller.state.engine.db().definition(run.definition.clone()).await?;
    let accepted = accepted.and_then(|text| Structure::parse(&text).ok()).filter(|accepted| accepted.leader.is_none());
    Ok(accepted.and_then(|accepted| last(&accepted.nodes)))
}

/// A response's events.
struct Words {
    reader: Reader,
    run_id: RunId,
    telling: Telling,
}

impl Tongue for Words {
    fn opening(&mut self) -> String {
        self.telling.opening()
    }

    fn event(&mut self, event: RunEvent) -> String {
        self.telling.event(&event)
    }

    fn rest(&mut self) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(async {
            if !self.telling.has_ended() {
                return Ok(String::new());
            }
            let missing = || Error::RunNotFound(self.run_id.clone());
            let run = self.reader.record(&self.run_id).await?.ok_or_else(missing)?;
            Ok(self.telling.ended(&ended(&self.reader, &run).await?))
        })
    }

    fn broken(&mut self, why: &Problem) -> String {
        self.telling.broken(why)
    }
}

/// The query of a read.
#[derive(Debug, Default, Deserialize)]
struct ReadQuery {
    stream: Option<String>,
    starting_after: Option<String>,
}

/// `GET /v1/responses/{response_id}`.
async fn get(caller: Caller, Path(id): Path<String>, Query(query): Query<ReadQuery>) -> Result<Response, Problem> {
    let is_streamed = query::boolean("stream", query.stream.as_deref())?;
    let bad = || {
        let msg = "Input should be the sequence_number of an event of this response";
        Problem::field("int_parsing", "query", "starting_after", msg)
    };
    let after: Option<Sequence> = query.starting_after.map(|text| text.parse().map_err(|_| bad())).transpose()?;
    let reader = caller.reader();
    let run = find_response(&reader, &id).await?;
    caller.sees(run.info.user_id.as_deref(), run.info.run_id.as_str());
    if !is_streamed {
        return Ok(Json(response(&reader, &run).await?).into_response());
    }
    // Of another response: nothing would be told until this one has come as far.
    if after.and_then(Sequence::index).is_some_and(|index| index >= run.next_index) {
        let msg = "This response has not come to that event: leave starting_after out to be told all of them";
        return Err(Problem::field("value_error", "query", "starting_after", msg));
    }
    let slot = caller.state.streams.take(&caller.principal)?;
    stream(&caller, slot, &run, after).await
}

/// `POST /v1/responses/{response_id}/cancel`.
async fn cancel(caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let engine = caller.engine();
    let reader = engine.reader();
    let run = find_response(reader, &id).await?;
    let run_id = &run.info.run_id;
    if engine.cancel(run_id, "cancelled by a client").await?.is_none() {
        caller.did(AuditKind::RunCancel, "requested", run_id.as_str());
        // Until then what is stored is the answer: its end comes with the next poll.
        let _ = timeout(CANCEL_PATIENCE, reader.wait(run_id)).await;
    }
    let run = find_response(reader, &id).await?;
    Ok(Json(response(reader, &run).await?))
}

/// `DELETE /v1/responses/{response_id}`.
async fn delete(caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let engine = caller.engine();
    let run = find_response(engine.reader(), &id).await?;
    let stays = |why: &str| {
        let detail = Detail::Text(format!("Response {id} cannot be deleted: {why}"));
        Problem { detail, ..Problem::new(StatusCode::CONFLICT, "response_in_use", "") }
    };
    if !run.status.is_terminal() {
        return Err(stays("it is not over; cancel it first"));
    }
    if !engine.delete_run(&run.info.run_id).await? {
        return Err(stays("a run of its conversation may still read it, or a webhook is still to be told of it"));
    }
    caller.did(AuditKind::RunPrune, "done", run.info.run_id.as_str());
    Ok(Json(shapes::deleted(&response_id(&run.info.run_id))))
}

/// The query of the list of items; all of them are on one page.
#[derive(Debug, Default, Deserialize)]
struct ItemsQuery {
    after: Option<String>,
}

/// `GET /v1/responses/{response_id}/input_items`.
async fn input_items(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<ItemsQuery>,
) -> Result<Json<Value>, Problem> {
    let run = find_response(&caller.reader(), &id).await?;
    caller.sees(run.info.user_id.as_deref(), run.info.run_id.as_str());
    if query.after.is_some() {
        return Ok(Json(shapes::list(Vec::new())));
    }
    let given = run.request_options()?.attachments;
    Ok(Json(shapes::input_items(&run.info.run_id, run.read_input()?.as_ref(), &given)))
}

/// The models that the caller may use.
fn usable(caller: &Caller) -> impl Iterator<Item = &Component> {
    let kinds = [Kind::Workflow, Kind::Agent, Kind::Team].into_iter();
    let all = kinds.flat_map(|kind| caller.served.components(kind));
    all.filter(|component| may_run(caller, &component.definition.id).is_ok())
}

fn shown(caller: &Caller, component: &Component) -> Value {
    shapes::model(component.definition.id.as_str(), caller.state.started_at.as_seconds())
}

/// `GET /v1/models`.
async fn models(caller: Caller) -> Json<Value> {
    let models: Vec<Value> = usable(&caller).map(|component| shown(&caller, component)).collect();
    Json(json!({ "object": "list", "data": models }))
}

/// `GET /v1/models/{model_id}`.
async fn model(caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let component = component_of(&caller.served, &id)?;
    may_run(&caller, &component.definition.id)?;
    Ok(Json(shown(&caller, component)))
}
