//! Runs of workflows, agents and teams: start, read, list, cancel, resume. One set of functions for all three kinds.
//!
//! Starting has one way in, [`start`], for forms and for sockets; what differs is only how a client is told.

use super::caller::Caller;
use super::query::Query;
use crate::follow::{Follow, Way};
use crate::names;
use crate::problem::{Detail, Problem};
use crate::sse::{self, Numbering, Selection};
use crate::state::{Component, Kind};
use crate::webhook::Ask;
use crate::wire::agent;
use crate::wire::form::{Fields, ResumeForm, RunForm};
use crate::wire::list::{self, Nulls};
use crate::wire::media::{self, Gathered};
use crate::wire::run::{self as shapes, Shape};
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use outlive_core::port::{AuditKind, Order, Run, RunFilter, SessionPolicy};
use outlive_core::{
    Attachments, DefinitionId, EventKind, ExecutorKind, FailureKind, Node, RunId, RunStatus, SessionId,
    WorkflowRunOutput,
};
use outlive_engine::{Engine, Error, Reader, RunHandle, Submit};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::mem::take;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait a client may ask for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Runs read at once for a list that Agno does not page.
const LIST_PAGE: u32 = 20;
/// And at most, in one answer.
const LIST_MAX: usize = 10_000;
/// And no further page after this many bytes of inputs and outputs: a session may be larger than memory.
const LIST_BYTES_MAX: usize = 32 << 20;

/// Tells which run an answer speaks of, also where Agno's body does not.
const RUN_ID: HeaderName = HeaderName::from_static("x-run-id");
/// Under which id a message waits that was sent to a run which had begun before.
pub(super) const STEERING_RUN_ID: HeaderName = HeaderName::from_static("x-steering-run-id");
/// What became of a cancel request: `requested`, `already_over` or `not_found`.
const CANCEL_OUTCOME: HeaderName = HeaderName::from_static("x-cancel-outcome");
/// Whether an `Idempotency-Key` was seen before.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replay");

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    /// The message; its JSON where the workflow has an input schema.
    pub(crate) message: String,
    pub(crate) run_id: Option<String>,
    pub(crate) session_id: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) session_state: Option<Map<String, Value>>,
    pub(crate) attachments: Attachments,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) webhook: Ask,
    pub(crate) policy: Option<SessionPolicy>,
    pub(crate) steer_to: Option<String>,
}

/// A run that was accepted.
pub(crate) struct Started {
    /// The engine as the caller sees it.
    pub(crate) reader: Reader,
    pub(crate) run_id: RunId,
    /// The idempotency key was seen before; this is that run.
    pub(crate) is_repeated: bool,
    /// The message was sent to this run, which had begun before: the id under which it waits there.
    pub(crate) steering: Option<RunId>,
}

impl Start {
    /// From a posted form.
    ///
    /// # Errors
    /// When something that came with it cannot be attached.
    fn from_form(mut form: RunForm) -> Result<Self, Problem> {
        Ok(Self {
            message: take(&mut form.message),
            run_id: form.run_id.take(),
            session_id: form.session_id.take(),
            user_id: form.user_id.take(),
            session_state: form.session_state.take(),
            idempotency_key: None,
            webhook: Ask { url: form.webhook_url.take(), events: form.webhook_events.take() },
            policy: names::session_policy(form.session_policy.take().as_deref())?,
            steer_to: form.steer_to.take(),
            attachments: form.attachments()?,
        })
    }

    /// From a socket's `start-workflow` frame.
    ///
    /// # Errors
    /// When a field has the wrong type.
    pub(crate) fn from_frame(frame: Map<String, Value>) -> Result<Self, Problem> {
        // An empty text counts as missing, as in a form.
        let text = |name: &str| match frame.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(Problem::field("string_type", "body", name, "Input should be a valid string")),
        };
        let object = |name: &str| match frame.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object.clone())),
            Some(_) => Err(Problem::field("dict_type", "body", name, "Input should be an object")),
        };
        let mut gathered = Gathered::default();
        for field in media::FIELDS {
            gathered.items(field, frame.get(field).cloned().unwrap_or_default())?;
        }
        let key = text("idempotency_key")?;
        Ok(Self {
            message: text("message")?.unwrap_or_default(),
            run_id: text("run_id")?,
            session_id: text("session_id")?,
            user_id: text("user_id")?,
            session_state: object("session_state")?,
            attachments: Attachments {
                additional_data: frame.get("additional_data").filter(|data| !data.is_null()).cloned(),
                metadata: object("metadata")?.map(Box::new),
                dependencies: object("dependencies")?.map(Box::new),
                ..gathered.into_attachments()
            },
            idempotency_key: key.map(|key| names::idempotency_key(&key, "body", "idempotency_key")).transpose()?,
            webhook: Ask { url: text("webhook_url")?, events: text("webhook_events")? },
            policy: names::session_policy(text("session_policy")?.as_deref())?,
            steer_to: text("steer_to")?,
        })
    }
}

/// Accepts a run for a caller. When this returns, the run is on stable storage.
///
/// # Errors
/// When there is no such component or session, the input does not fit, or the engine refuses.
pub(crate) async fn start(caller: &Caller, kind: Kind, id: &str, start: Start) -> Result<Started, Problem> {
    let component = caller.served.component(kind, id)?;
    names::ids(&[("run_id", start.run_id.as_deref()), ("session_id", start.session_id.as_deref())])?;
    check_media(caller, component, &start.attachments)?;
    let engine = caller.engine();
    let user_id = caller.principal.acts_for(start.user_id.as_deref())?.map(str::to_owned);
    if let Some(session_id) = &start.session_id {
        check_session(engine.reader(), component, session_id, user_id.as_deref()).await?;
    }
    // An id alone does not ask for the run that has it; a key does.
    let is_new = start.run_id.is_some() && start.idempotency_key.is_none();
    let submit = Submit {
        input: Some(Value::String(start.message)),
        run_id: start.run_id,
        session_id: start.session_id,
        user_id,
        session_state: start.session_state,
        session_kind: component.kind.session(),
        idempotency_key: start.idempotency_key,
        attachments: start.attachments,
        hook: start.webhook.accept(caller.state.webhooks.as_deref())?,
        policy: start.policy,
        steer_to: start.steer_to,
        ..Submit::default()
    };
    let handle = submit_run(caller, &engine, &component.definition.id, submit).await?;
    if is_new && handle.is_repeated() {
        let detail = format!(
            "Run {} exists already: choose another run_id, or repeat the request with its idempotency key",
            handle.run_id()
        );
        return Err(Problem::new(StatusCode::CONFLICT, "run_exists", detail));
    }
    Ok(Started {
        run_id: handle.run_id().clone(),
        is_repeated: handle.is_repeated(),
        steering: handle.steering_run_id().cloned(),
        reader: engine.reader().clone(),
    })
}

/// Media that nothing would use are refused rather than dropped: agents and teams show their models images and files,
/// and only functions can use sound. Addresses will be fetched, so they must be public.
fn check_media(caller: &Caller, component: &Component, attached: &Attachments) -> Result<(), Problem> {
    let refused = |code, field: &str, place: Option<usize>, msg: String| {
        let mut problem = Problem::field("value_error", "body", field, msg);
        if let (Detail::Fields(fields), Some(place)) = (&mut problem.detail, place) {
            fields.iter_mut().for_each(|field| field.loc.extend([place.to_string(), "url".to_owned()]));
        }
        Problem { code, ..problem }
    };
    let has_function = component.definition.nodes.iter().any(|node| node.any(&is_function));
    for (field, media) in [("audio", &attached.audio), ("videos", &attached.videos)] {
        if media.is_some() && !has_function {
            let msg = format!(
                "{} {} takes no {field}: its agents accept only images and files, and it has no function step",
                component.kind, component.id
            );
            return Err(refused("media_not_supported", field, None, msg));
        }
    }
    let kinds = [
        ("images", &attached.images),
        ("audio", &attached.audio),
        ("videos", &attached.videos),
        ("input_files", &attached.files),
    ];
    for (field, media) in kinds {
        for (place, media) in media.iter().flatten().enumerate() {
            if let Some(url) = &media.url {
                (caller.state.media_addresses)(url)
                    .map_err(|problem| refused("url_not_allowed", field, Some(place), problem))?;
            }
        }
    }
    Ok(())
}

fn is_function(node: &Node) -> bool {
    matches!(node, Node::Step(step) if step.executor_type == ExecutorKind::Function)
}

/// Hands a run to the engine, and its hook, if it has one, to the sender.
pub(super) async fn submit_run(
    caller: &Caller,
    engine: &Engine,
    workflow_id: &DefinitionId,
    submit: Submit,
) -> Result<RunHandle, Problem> {
    let has_hook = submit.hook.is_some();
    let handle = engine.submit(workflow_id, submit).await?;
    if let Some(webhooks) = caller.state.webhooks.as_ref().filter(|_| has_hook) {
        webhooks.nudge();
    }
    Ok(handle)
}

/// A session belongs to one component and one user.
pub(super) async fn check_session(
    reader: &Reader,
    component: &Component,
    session_id: &str,
    user_id: Option<&str>,
) -> Result<(), Problem> {
    let Ok(session_id) = SessionId::parse(session_id) else { return Ok(()) };
    let Some(session) = reader.session(&session_id).await? else { return Ok(()) };
    let of_other = session.workflow_id.as_ref().is_some_and(|id| *id != component.definition.id);
    let of_another = matches!((session.user_id.as_deref(), user_id), (Some(owner), Some(user)) if owner != user);
    if of_other || of_another {
        return Err(Problem::not_found("Session not found"));
    }
    Ok(())
}

/// `POST /{kind}/{id}/runs`.
pub(crate) async fn post(
    kind: Kind,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    // Check that the component exists before checking the form.
    caller.served.component(kind, &id)?;
    let form = RunForm::parse(Fields::read(request, &caller.state.limits).await?)?;
    let (is_streamed, is_background) = (form.stream, form.background);
    let selection = if form.stream_events { Selection::Everything } else { Selection::Milestones };
    let idempotency_key = idempotency_key(&headers)?;
    // Before the run is accepted: a refusal must leave nothing behind.
    let slot = is_streamed.then(|| caller.state.streams.take(&caller.principal)).transpose()?;
    let ask = Start { idempotency_key, ..Start::from_form(form)? };
    let started = start(&caller, kind, &id, ask).await?;
    let mut response = match (slot, is_background) {
        (Some(slot), is_background) => {
            let numbering = if is_background { Numbering::Shown } else { Numbering::Hidden };
            let follow = Follow::from_start(&started.reader, started.run_id.clone());
            sse::response(&caller, slot, caller.served.known(kind, &id)?, follow, numbering, selection).await?
        }
        (None, true) => accepted(&started).await?,
        (None, false) => {
            let component = caller.served.known(kind, &id)?;
            finished(component, &started.reader, &started.run_id, Shape::Result).await?
        }
    };
    let headers = response.headers_mut();
    headers.insert(RUN_ID, header_of(&started.run_id));
    if started.is_repeated {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    if let Some(steering) = &started.steering {
        headers.insert(STEERING_RUN_ID, header_of(steering));
    }
    Ok(response)
}

fn header_of(run_id: &RunId) -> HeaderValue {
    HeaderValue::from_str(run_id.as_str()).expect("ids are letters, digits and a few signs")
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else { return Ok(None) };
    // Of two, this server and a proxy before it could look at different ones. No key is empty.
    let key = if keys.next().is_some() { "" } else { key.to_str().unwrap_or_default() };
    names::idempotency_key(key, "header", "Idempotency-Key").map(Some)
}

async fn accepted(started: &Started) -> Result<Response, Problem> {
    let run = find(&started.reader, started.run_id.as_str()).await?;
    // A run that was just accepted may be running already; it is told as it was accepted.
    let had_begun = started.is_repeated || started.steering.is_some();
    let status = if had_begun { run.status } else { RunStatus::Pending };
    let body = shapes::accepted(started.run_id.as_str(), run.info.session_id.as_str(), status);
    Ok((StatusCode::ACCEPTED, axum::Json(body)).into_response())
}

/// The header that tells which run an answer speaks of.
pub(super) fn run_id_header(run_id: &RunId) -> (HeaderName, HeaderValue) {
    (RUN_ID, header_of(run_id))
}

/// The run once it is at rest.
pub(super) async fn finished(
    component: &Component,
    reader: &Reader,
    run_id: &RunId,
    shape: Shape,
) -> Result<Response, Problem> {
    let run = reader.wait(run_id).await?;
    if run.status == RunStatus::Error && component.kind == Kind::Workflow {
        return Err(failed(reader, run_id).await?.header(RUN_ID, header_of(run_id)));
    }
    Ok(shown(component, &run, shape, None))
}

/// A failed run as an answer to who waited for it. What a check did not let in is the client's to change, so it is told
/// why; of anything else the run has more to say.
async fn failed(reader: &Reader, run_id: &RunId) -> Result<Problem, Problem> {
    let length = reader.standing(run_id).await?.map_or(0, |standing| standing.next_index);
    Ok(match last_event(reader, run_id, length).await? {
        Some(EventKind::WorkflowError { error, error_type: Some(kind), .. })
            if kind == FailureKind::InputCheck.code() =>
        {
            Problem::new(StatusCode::BAD_REQUEST, "input_refused", error)
        }
        _ => {
            let detail = "Internal server error (StepError)";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "run_failed", detail)
        }
    })
}

/// The last event of a log of this length, which is over.
pub(super) async fn last_event(reader: &Reader, run_id: &RunId, length: u64) -> Result<Option<EventKind>, Error> {
    let last = reader.events(run_id, length.checked_sub(2)).stored().await?.pop();
    Ok(last.map(|event| event.kind))
}

/// A run in the shape of its component's kind.
fn shown(component: &Component, run: &WorkflowRunOutput, shape: Shape, progress: Option<&str>) -> Response {
    let standing = shapes::Standing { progress };
    match component.face() {
        Some(face) => axum::Json(agent::run(run, &face, shape, standing)).into_response(),
        None => axum::Json(shapes::workflow_run(run, shape, standing)).into_response(),
    }
}

pub(super) fn missing() -> Problem {
    Problem::not_found("Run not found")
}

/// The run, if it exists for this reader.
pub(super) async fn find(reader: &Reader, run_id: &str) -> Result<Run, Problem> {
    let run_id = RunId::parse(run_id).map_err(|_| missing())?;
    reader.record(&run_id).await?.ok_or_else(missing)
}

/// Finds a run of this component; one of another component is not found.
pub(super) async fn find_of(reader: &Reader, component: &Component, run_id: &str) -> Result<Run, Problem> {
    let run = find(reader, run_id).await?;
    if run.info.workflow_id != component.definition.id { Err(missing()) } else { Ok(run) }
}

/// The query of a read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ReadQuery {
    session_id: Option<String>,
    /// How long the server may wait for the run's end: `30s`, `500ms`, `2`.
    wait: Option<String>,
}

/// `GET /{kind}/{id}/runs/{run_id}`.
pub(crate) async fn get(
    kind: Kind,
    caller: Caller,
    Path((id, run_id)): Path<(String, String)>,
    Query(query): Query<ReadQuery>,
) -> Result<Response, Problem> {
    let component = caller.served.known(kind, &id)?;
    let reader = caller.reader();
    let run = find_of(&reader, component, &run_id).await?;
    if query.session_id.as_deref().is_some_and(|asked| asked != run.info.session_id.as_str()) {
        return Err(missing());
    }
    caller.sees(run.info.user_id.as_deref(), run.info.run_id.as_str());
    let run = wait(&reader, run, query.wait.as_deref()).await?;
    Ok(shown(component, &reader.output(&run).await?, Shape::Polled, run.progress.as_deref()))
}

/// Waits until a run is at rest, as long as was asked for and at most [`WAIT_MAX`]. At rest or not, what is stored then is
/// the answer; its status tells an end from a pause.
pub(super) async fn wait(reader: &Reader, run: Run, asked: Option<&str>) -> Result<Run, Problem> {
    match asked.map(parse_wait).transpose()? {
        Some(longest) if !run.is_at_rest() => {
            let _ = timeout(longest, reader.wait(&run.info.run_id)).await;
            find(reader, run.info.run_id.as_str()).await
        }
        _ => Ok(run),
    }
}

/// A time to wait: a number of seconds, or one with `s` or `ms` behind it.
pub(super) fn parse_wait(text: &str) -> Result<Duration, Problem> {
    let (digits, is_ms) = match text.strip_suffix("ms") {
        Some(digits) => (digits, true),
        None => (text.strip_suffix('s').unwrap_or(text), false),
    };
    let number: Option<u64> = digits.parse().ok();
    let wait = number.map(|n| if is_ms { Duration::from_millis(n) } else { Duration::from_secs(n) });
    let bad = || Problem::field("time_period", "query", "wait", "Input should be a time such as 30s or 500ms");
    Ok(wait.ok_or_else(bad)?.min(WAIT_MAX))
}

/// The query of a list.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ListQuery {
    session_id: Option<String>,
    status: Option<String>,
}

/// `GET /{kind}/{id}/runs`.
pub(crate) async fn list(
    kind: Kind,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let component = caller.served.known(kind, &id)?;
    let Some(session_id) = query.session_id else {
        return Err(Problem::field("missing", "query", "session_id", "Field required"));
    };
    let reader = caller.reader();
    let missing = || Problem::not_found("Session not found");
    let session_id = SessionId::parse(&session_id).map_err(|_| missing())?;
    let session = reader.session(&session_id).await?.ok_or_else(missing)?;
    caller.sees(session.user_id.as_deref(), session_id.as_str());
    let statuses = match query.status.as_deref() {
        None | Some("") => Vec::new(),
        Some(status) => match serde_json::from_value(json!(status)) {
            Ok(status) => vec![status],
            Err(_) => return Ok(axum::Json(json!([])).into_response()),
        },
    };
    let filter = RunFilter {
        statuses,
        workflow_id: Some(component.definition.id.clone()),
        session_id: Some(session_id),
        ..RunFilter::default()
    };
    let runs = session_runs(&reader, filter).await?;
    let listed: Vec<Value> = runs.iter().map(|run| listed(component, run)).collect();
    Ok(axum::Json(listed).into_response())
}

fn listed(component: &Component, run: &WorkflowRunOutput) -> Value {
    match component.face() {
        Some(face) => list::agent_run(run, &face, Nulls::Written),
        None => list::workflow_run(run, Nulls::Written),
    }
}

/// A run in a list. One that cannot be read says so where another says why it failed: clients show that, and the others.
async fn readable(reader: &Reader, run: &Run) -> Result<WorkflowRunOutput, Problem> {
    let unreadable = match reader.output(run).await {
        Ok(output) => return Ok(output),
        Err(Error::Unreadable(unreadable)) => unreadable.to_string(),
        Err(Error::Damaged(damaged)) => damaged.to_string(),
        Err(error) => return Err(error.into()),
    };
    tracing::error!(error = %unreadable, "a run in a list cannot be read");
    let output = WorkflowRunOutput::pending(&run.info, None, run.created_at.as_seconds());
    Ok(WorkflowRunOutput { status: RunStatus::Error, content: Some(Value::String(unreadable)), ..output })
}

/// The runs of a filter, oldest first, with input and output; as many as one answer may hold. `GET /api/runs` has pages.
pub(crate) async fn session_runs(reader: &Reader, filter: RunFilter) -> Result<Vec<WorkflowRunOutput>, Problem> {
    let mut filter = RunFilter { order: Order::OldestFirst, with_payload: true, limit: LIST_PAGE, ..filter };
    let mut runs = Vec::new();
    let mut bytes = 0;
    loop {
        let page = reader.runs(filter.clone()).await?;
        if let Some(error) = page.unreadable.into_iter().next() {
            return Err(error.into());
        }
        for run in &page.runs {
            let output = readable(reader, run).await?;
            bytes += outlive_core::json::len(&output);
            runs.push(output);
            if runs.len() >= LIST_MAX || bytes >= LIST_BYTES_MAX {
                return Ok(runs);
            }
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(runs),
        }
    }
}

/// `POST /{kind}/{id}/runs/{run_id}/cancel`. Agno answers `{}` whatever becomes of it, and a client of its takes anything
/// else for a failure; what did become of it stands in a header. `/api` says it aloud.
pub(crate) async fn cancel(
    kind: Kind,
    caller: Caller,
    Path((id, run_id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let component = caller.served.known(kind, &id)?;
    let engine = caller.engine();
    let outcome = match find_of(engine.reader(), component, &run_id).await {
        Ok(found) => match engine.cancel(&found.info.run_id, "cancelled by a client").await? {
            None => {
                caller.did(AuditKind::RunCancel, "requested", found.info.run_id.as_str());
                "requested"
            }
            Some(_) => "already_over",
        },
        Err(problem) if problem.status == StatusCode::NOT_FOUND => "not_found",
        Err(problem) => return Err(problem),
    };
    let outcome = [(CANCEL_OUTCOME, HeaderValue::from_static(outcome))];
    Ok((outcome, axum::Json(json!({}))).into_response())
}

/// `POST /{kind}/{id}/runs/{run_id}/resume`.
pub(crate) async fn resume(
    kind: Kind,
    caller: Caller,
    Path((id, run_id)): Path<(String, String)>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let component = caller.served.known(kind, &id)?;
    let reader = caller.reader();
    let form = ResumeForm::parse(Fields::read(request, &caller.state.limits).await?)?;
    let after = match form.last_event_index {
        Some(index) => Some(index),
        None => last_event_id(&headers)?,
    };
    let slot = caller.state.streams.take(&caller.principal)?;
    let follow = match find_of(&reader, component, &run_id).await {
        Ok(found) => {
            caller.sees(found.info.user_id.as_deref(), found.info.run_id.as_str());
            Follow::resume(&reader, found.info.run_id, sse::inner_index(kind, after), Way::Resume).await
        }
        Err(problem) if problem.status == StatusCode::NOT_FOUND => {
            return Ok(sse::error(&format!("Run {run_id} not found in buffer or database")));
        }
        Err(problem) => return Err(problem),
    };
    match follow {
        Ok(follow) => {
            Ok(sse::response(&caller, slot, component, follow, Numbering::Shown, Selection::Everything).await?)
        }
        Err(Error::RunNotFound(_)) => Ok(sse::error(&format!("Run {run_id} not found in buffer or database"))),
        Err(error) => Err(error.into()),
    }
}

/// The `Last-Event-ID` a browser sends when it comes back by itself.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let mut values = headers.get_all("last-event-id").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    let text = value.to_str().ok().filter(digits).filter(|_| values.next().is_none());
    let index = text.and_then(|text| u64::try_from(text.parse::<i64>().ok()?).ok());
    let bad = || Problem::field("int_parsing", "header", "Last-Event-ID", "Input should be the id of an event");
    index.ok_or_else(bad).map(Some)
}
