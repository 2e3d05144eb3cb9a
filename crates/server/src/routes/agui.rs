//! AG-UI's endpoint: a message to a thread, answers to what a run has asked, or a run to be followed, in one call.
//!
//! Runs are always durable: who goes away comes back with the run's id. Starting, answering and following are the other
//! routes'; here it is only decided which of them a request asks for.

use super::caller::Caller;
use super::runs::{self, Start, find_of};
use super::{Table, field};
use crate::agui::{self, Ask, Since};
use crate::auth::{Doc, Field, Needs, Routes};
use crate::follow::Follow;
use crate::json::Json as Body;
use crate::names;
use crate::problem::Problem;
use crate::sequence::Sequence;
use crate::sse::Listening;
use crate::state::{Component, Kind, Served};
use crate::streams::StreamSlot;
use crate::wire::agui::Place;
use crate::wire::agui::input::{self, RunAgentInput, Said};
use crate::wire::agui::interrupts;
use crate::wire::component;
use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use outlive_core::port::{AuditKind, QuestionState, Run, RunFilter};
use outlive_core::{Answer, Answered, Attachments, EventKind, Follows, RunStatus, SessionId};
use outlive_engine::{AskedQuestion, Error, Reader};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// In how many of a thread's runs a call is looked for whose result a client sends.
const RUNS_MAX: u32 = 10;

const HEADERS: &[Field] = &[field(
    "Last-Event-ID",
    "string",
    false,
    "The id of the last event that was received: the stream goes on after it",
)];

pub(super) fn routes() -> Table {
    Routes::new()
        .merge(of(Kind::Workflow, "/workflows/{workflow_id}/agui", "/workflows/{workflow_id}/status"))
        .merge(of(Kind::Agent, "/agents/{agent_id}/agui", "/agents/{agent_id}/status"))
        .merge(of(Kind::Team, "/teams/{team_id}/agui", "/teams/{team_id}/status"))
        .post("/agui", Needs::Identity, post_only)
        .doc(doc("Talk to the one workflow, agent or team that is served, as AG-UI's clients do"))
        .get("/status", Needs::Identity, status)
        .doc(Doc { summary: "Whether AG-UI's endpoint is there", tag: "ag-ui", ..Doc::default() })
}

fn of(kind: Kind, path: &'static str, status_path: &'static str) -> Table {
    let words = super::words(kind);
    Routes::new()
        .post(path, Needs::scope(words.start), move |caller, id, headers, body| post(kind, caller, id, headers, body))
        .doc(doc("Talk to it as AG-UI's clients do, and follow the run as Server-Sent Events"))
        .get(status_path, Needs::scope(words.read), move |caller, id| status_of(kind, caller, id))
        .doc(Doc { summary: "Whether AG-UI's endpoint is there", tag: "ag-ui", ..Doc::default() })
}

const fn doc(summary: &'static str) -> Doc {
    Doc {
        summary,
        tag: "ag-ui",
        query: &[],
        headers: HEADERS,
        form: &[],
        body: Some("RunAgentInput"),
        is_body_optional: false,
        answer: None,
    }
}

async fn status() -> Json<Value> {
    Json(json!({ "status": "available" }))
}

async fn status_of(kind: Kind, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    caller.served.component(kind, &id)?;
    Ok(status().await)
}

/// `POST /{kind}/{id}/agui`.
async fn post(
    kind: Kind,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(input): Body<RunAgentInput>,
) -> Result<Response, Problem> {
    serve(&caller, caller.served.component(kind, &id)?, &headers, input).await
}

/// `POST /agui`.
async fn post_only(caller: Caller, headers: HeaderMap, Body(input): Body<RunAgentInput>) -> Result<Response, Problem> {
    let component = only(&caller.served)?;
    if !caller.may(&component.definition.id, "run") {
        let detail = format!("Insufficient permissions. Required scope(s): {}:run", component.kind.plural());
        return Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_scope", detail));
    }
    serve(&caller, component, &headers, input).await
}

fn only(served: &Served) -> Result<&Component, Problem> {
    let mut all = [Kind::Workflow, Kind::Agent, Kind::Team].into_iter().flat_map(|kind| served.components(kind));
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        _ => {
            let detail = "Not exactly one workflow, agent or team is served: say which, as in /agents/ID/agui";
            Err(Problem { code: "unknown_component", ..Problem::not_found(detail) })
        }
    }
}

async fn serve(
    caller: &Caller,
    component: &Component,
    headers: &HeaderMap,
    input: RunAgentInput,
) -> Result<Response, Problem> {
    names::ids(&[("threadId", Some(&input.thread_id)), ("runId", Some(&input.run_id))])?;
    let cursor = cursor(&input, headers)?;
    let slot = caller.state.streams.take(&caller.principal)?;
    let is_resume = cursor.is_some() || input.resume.as_ref().is_some_and(|resume| !resume.is_empty());
    match found(caller, component, &input, cursor).await {
        Ok((run, from)) => Ok(follow(caller, component, slot, run, input, from)),
        // Who comes back is told in the stream that it is in vain: it would try again after a refused request.
        Err(problem) if is_resume && is_final(&problem) => Ok(agui::refusal(&problem, cursor, &input)),
        Err(problem) => Err(problem),
    }
}

/// Whether trying again will not help.
fn is_final(problem: &Problem) -> bool {
    problem.status.is_client_error() && problem.status != StatusCode::TOO_MANY_REQUESTS
}

/// The place after which a client wants to go on. The newer of the two that it may name is in the body: a browser does
/// not come back by itself to what it posted.
fn cursor(input: &RunAgentInput, headers: &HeaderMap) -> Result<Option<Place>, Problem> {
    if let Some(place) = input.cursor()? {
        return Ok(Some(place));
    }
    let mut values = headers.get_all("last-event-id").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let number: Option<Sequence> = value.to_str().ok().and_then(|text| text.parse().ok());
    let bad = || Problem::field("int_parsing", "header", "Last-Event-ID", "Input should be the id of an event");
    number.filter(|_| values.next().is_none()).map(agui::place_of).map(Some).ok_or_else(bad)
}

/// The run that a request asks for, begun if there is none, and from where on it is told.
async fn found(
    caller: &Caller,
    component: &Component,
    input: &RunAgentInput,
    cursor: Option<Place>,
) -> Result<(Run, Since), Problem> {
    let said = input.said()?;
    let has_answers = input.resume.as_ref().is_some_and(|resume| !resume.is_empty());
    if !has_answers && let Some(run) = existing(caller, component, input).await? {
        return follows(run, input, &said, cursor);
    }
    if has_answers || matches!(said, Said::Results(_)) {
        let given = given(caller, component, input, &said).await?;
        if let Some(place) = cursor {
            check_reached(&runs::find(&caller.reader(), given[0].0.run_id.as_str()).await?, place)?;
        }
        let (run, pause) = answer(caller, given).await?;
        return Ok((run, cursor.map_or(Since::Pause(pause), Since::After)));
    }
    if cursor.is_some() {
        return Err(Problem::not_found(format!("Run {} not found in this thread", input.run_id)));
    }
    match said {
        Said::Message { text, attachments } => start(caller, component, input, text, *attachments).await,
        Said::Nothing if input.messages.is_empty() => {
            let run = newest(caller, component, input).await?;
            let run = run.ok_or_else(|| Problem::not_found("The thread has no run"))?;
            caller.sees(run.info.user_id.as_deref(), run.info.run_id.as_str());
            let from = snapshot(&run);
            Ok((run, from))
        }
        Said::Nothing | Said::Results(_) => {
            let msg = "The last message should be a user's, or the result of a tool that a run waits for";
            Err(Problem::field("value_error", "body", "messages", msg))
        }
    }
}

fn follow(
    caller: &Caller,
    component: &Component,
    slot: StreamSlot,
    run: Run,
    input: RunAgentInput,
    from: Since,
) -> Response {
    let (name, value) = runs::run_id_header(&run.info.run_id);
    let listening = Listening::new(caller, slot, Follow::from_start(&caller.reader(), run.info.run_id.clone()));
    let settings = component.definition.events.clone();
    let mut response = agui::response(listening, Ask { run, input, settings, since: from });
    response.headers_mut().insert(name, value);
    response
}

/// The run of this id, if there is one in the thread.
async fn existing(caller: &Caller, component: &Component, input: &RunAgentInput) -> Result<Option<Run>, Problem> {
    match find_of(&caller.reader(), component, &input.run_id).await {
        Ok(run) if run.info.session_id.as_str() == input.thread_id => {
            caller.sees(run.info.user_id.as_deref(), run.info.run_id.as_str());
            Ok(Some(run))
        }
        Ok(_) => {
            let detail = format!("Run {} exists already, in another thread: choose another runId", input.run_id);
            Err(Problem::new(StatusCode::CONFLICT, "run_exists", detail))
        }
        Err(problem) if problem.status == StatusCode::NOT_FOUND => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// A run that exists is followed. One that was asked something else is not meant.
fn follows(run: Run, input: &RunAgentInput, said: &Said, cursor: Option<Place>) -> Result<(Run, Since), Problem> {
    if let Some(place) = cursor {
        check_reached(&run, place)?;
        return Ok((run, Since::After(place)));
    }
    let asked: Option<Value> = run.input.as_deref().and_then(|text| outlive_core::json::read_stored(text).ok());
    if let (Said::Message { text, .. }, Some(Value::String(asked))) = (said, asked)
        && *text != asked
    {
        let detail = format!("Run {} exists already and was asked something else: choose another runId", input.run_id);
        return Err(Problem::new(StatusCode::CONFLICT, "run_exists", detail));
    }
    let from = snapshot(&run);
    Ok((run, from))
}

/// A client has no place from a run that the run has not reached: it is another run's, and nothing would be told until this
/// one is as long.
fn check_reached(run: &Run, place: Place) -> Result<(), Problem> {
    if u64::try_from(place.index).is_ok_and(|index| index >= run.next_index) {
        let detail = format!(
            "Run {} has not come to the place {place}: go on after an event of this run, or leave the place out to be told \
             what it has said so far",
            run.info.run_id
        );
        return Err(Problem::new(StatusCode::BAD_REQUEST, "unknown_place", detail));
    }
    Ok(())
}

fn snapshot(run: &Run) -> Since {
    if run.next_index == 0 { Since::Start } else { Since::Snapshot(run.next_index) }
}

/// The thread's newest run.
async fn newest(caller: &Caller, component: &Component, input: &RunAgentInput) -> Result<Option<Run>, Problem> {
    let reader = caller.reader();
    let filter = RunFilter { limit: 1, ..thread(component, input)? };
    match reader.runs(filter).await?.runs.first() {
        // A list has no inputs.
        Some(run) => Ok(reader.record(&run.info.run_id).await?),
        None => Ok(None),
    }
}

/// The thread's runs, the newest first.
fn thread(component: &Component, input: &RunAgentInput) -> Result<RunFilter, Problem> {
    let session_id = SessionId::parse(&input.thread_id).map_err(|_| Problem::not_found("Session not found"))?;
    Ok(RunFilter {
        session_id: Some(session_id),
        workflow_id: Some(component.definition.id.clone()),
        ..RunFilter::default()
    })
}

async fn start(
    caller: &Caller,
    component: &Component,
    input: &RunAgentInput,
    text: String,
    attachments: Attachments,
) -> Result<(Run, Since), Problem> {
    input.check_tools(&external_tools(caller, component))?;
    refuse_while_asking(caller, component, input).await?;
    let ask = Start {
        message: text,
        run_id: Some(input.run_id.clone()),
        session_id: Some(input.thread_id.clone()),
        user_id: input.user_id()?,
        session_state: input.state()?.filter(|state| !state.is_empty()),
        attachments,
        ..Start::default()
    };
    match runs::start(caller, component.kind, &component.id, ask).await {
        Ok(started) => {
            let run = runs::find(&started.reader, started.run_id.as_str()).await?;
            Ok((run, Since::Start))
        }
        // Somebody was faster, perhaps the same client.
        Err(problem) if problem.code == "run_exists" => match existing(caller, component, input).await? {
            Some(run) => {
                let from = snapshot(&run);
                Ok((run, from))
            }
            None => Err(problem),
        },
        Err(problem) => Err(problem),
    }
}

fn external_tools(caller: &Caller, component: &Component) -> BTreeSet<String> {
    match component.kind {
        Kind::Workflow => {
            let db_id = &caller.state.presentation.db_id;
            input::external_tools(&component::workflow_detail(&component.definition, db_id))
        }
        Kind::Agent | Kind::Team => input::external_tools(&component.details),
    }
}

/// A message to a thread whose run waits for answers would wait behind them.
async fn refuse_while_asking(caller: &Caller, component: &Component, input: &RunAgentInput) -> Result<(), Problem> {
    let reader = caller.reader();
    let filter = RunFilter { statuses: vec![RunStatus::Paused], limit: 1, ..thread(component, input)? };
    let paused = reader.runs(filter).await?.runs;
    let Some(run) = paused.first() else { return Ok(()) };
    let open = reader.questions_of(&run.info.run_id).await?;
    let ids: Vec<&str> = open.iter().map(|asked| &**asked.id()).collect();
    let detail = format!(
        "Run {} of this thread waits for answers: send them in resume, to the interrupts {}",
        run.info.run_id,
        ids.join(", ")
    );
    Err(Problem::new(StatusCode::CONFLICT, "interrupts_pending", detail))
}

// Answers.

/// A question, and what a client answers to it.
type Given = (AskedQuestion, Answer);

/// The answers in a request: to interrupts, or else the results of calls.
async fn given(
    caller: &Caller,
    component: &Component,
    input: &RunAgentInput,
    said: &Said,
) -> Result<Vec<Given>, Problem> {
    let reader = caller.reader();
    let unknown = |id: &str| Problem::not_found(format!("Interrupt {id} not found in this thread"));
    let invalid = |asked: &AskedQuestion, problem: String| {
        let detail = format!("Interrupt {}: {problem}", asked.id());
        Problem::new(StatusCode::BAD_REQUEST, "invalid_answer", detail)
    };
    let mut given = Vec::new();
    for entry in input.resume.iter().flatten() {
        let asked = reader.question(&entry.interrupt_id).await?.ok_or_else(|| unknown(&entry.interrupt_id))?;
        let is_here = asked.workflow_id == component.definition.id && asked.session_id.as_str() == input.thread_id;
        let asked = Some(asked).filter(|_| is_here).ok_or_else(|| unknown(&entry.interrupt_id))?;
        let answer = interrupts::answer(&asked.question, entry).map_err(|problem| invalid(&asked, problem))?;
        given.push((asked, answer));
    }
    if let (true, Said::Results(results)) = (given.is_empty(), said) {
        let asked = asked_about_calls(&reader, component, input).await?;
        for (call, content, is_error) in results {
            // The client may know it by a longer id.
            let is_of = |asked: &&AskedQuestion| {
                asked.question.tool.as_ref().is_some_and(|tool| {
                    let rest = call.strip_prefix(&tool.execution.tool_call_id);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
                })
            };
            let fitting: Vec<&AskedQuestion> = asked.iter().filter(is_of).collect();
            let open = fitting.iter().filter(|asked| asked.state == QuestionState::Open).copied();
            let asked = match open.collect::<Vec<_>>()[..] {
                [one] => one,
                // It may be a repetition, of what was asked last.
                [] => *fitting.first().ok_or_else(|| {
                    Problem::not_found(format!("No run of this thread waits for the result of the call {call}"))
                })?,
                ref several => {
                    let ids: Vec<&str> = several.iter().map(|asked| &**asked.id()).collect();
                    let detail = format!(
                        "Several calls of this thread have the id {call} and wait: answer the interrupts {} in resume",
                        ids.join(" and ")
                    );
                    return Err(Problem::new(StatusCode::BAD_REQUEST, "ambiguous_call", detail));
                }
            };
            let answer = interrupts::of_result(&asked.question, content, *is_error);
            given.push((asked.clone(), answer.map_err(|problem| invalid(asked, problem))?));
        }
    }
    Ok(given)
}

/// What the thread's newest runs have asked about calls, those asked last first.
async fn asked_about_calls(
    reader: &Reader,
    component: &Component,
    input: &RunAgentInput,
) -> Result<Vec<AskedQuestion>, Problem> {
    let mut asked = Vec::new();
    let runs = RunFilter { limit: RUNS_MAX, ..thread(component, input)? };
    for run in reader.runs(runs).await?.runs {
        let of_run = reader.asked_by(&run.info.run_id).await?;
        asked.extend(of_run.into_iter().rev().filter(|asked| asked.question.tool.is_some()));
    }
    Ok(asked)
}

/// Gives the answers, all of them or none, once. The run, and the pause whose questions they answer.
async fn answer(caller: &Caller, given: Vec<Given>) -> Result<(Run, u64), Problem> {
    let run_id = given[0].0.run_id.clone();
    if given.iter().any(|(asked, _)| asked.run_id != run_id) {
        let detail = "The interrupts are of several runs: answer each run's in a request of its own";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_answer", detail));
    }
    let engine = caller.engine();
    let ids: BTreeSet<Arc<str>> = given.iter().map(|(asked, _)| asked.id().clone()).collect();
    let mut new: Vec<Given> = Vec::new();
    for (asked, answer) in given {
        match asked.state {
            QuestionState::Open => new.push((asked, answer)),
            _ => check_same(&asked, &answer)?,
        }
    }
    new.iter().try_for_each(|(asked, answer)| caller.may_answer(&asked.question, answer))?;
    if !new.is_empty() {
        let open = engine.questions_of(&run_id).await?;
        let missing: Vec<&str> = open.iter().map(|asked| &**asked.id()).filter(|id| !ids.contains(*id)).collect();
        if !missing.is_empty() {
            let detail = format!("The run has asked more: answer the interrupts {} too", missing.join(", "));
            return Err(Problem::new(StatusCode::BAD_REQUEST, "unresolved_interrupts", detail));
        }
        let answers = new.iter().map(|(asked, answer)| (asked.id().clone(), answer.clone()));
        match engine.answer(answers, caller.principal.user_id.clone()).await {
            Ok(_) => caller.did(AuditKind::QuestionAnswer, "done", run_id.as_str()),
            // The same request may have come twice.
            Err(Error::AlreadyAnswered(_)) => {
                for (asked, answer) in &new {
                    let asked = engine.question(asked.id()).await?;
                    asked.map_or(Ok(()), |asked| check_same(&asked, answer))?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    let run = runs::find(engine.reader(), run_id.as_str()).await?;
    let pause = pause(engine.reader(), &run, &ids).await?;
    let missing = || Problem::new(StatusCode::CONFLICT, "run_not_paused", "The run has not paused for these questions");
    Ok((run, pause.ok_or_else(missing)?))
}

/// An answer that was given before is the same, or it is refused.
fn check_same(asked: &AskedQuestion, answer: &Answer) -> Result<(), Problem> {
    match &asked.answered {
        Some(Answered { answer: before, .. }) if before == answer => Ok(()),
        Some(Answered { answer: before, .. }) => {
            let detail = format!("Interrupt {} was answered before: {}", asked.id(), before.as_str());
            Err(Problem::new(StatusCode::CONFLICT, "already_answered", detail))
        }
        None => {
            let detail = format!("Interrupt {} needs no answer any more", asked.id());
            Err(Problem::new(StatusCode::CONFLICT, "already_answered", detail))
        }
    }
}

/// The last pause before the first of these answers, or, while none of them stands in the log, the last of all.
async fn pause(reader: &Reader, run: &Run, ids: &BTreeSet<Arc<str>>) -> Result<Option<u64>, Problem> {
    let mut events = reader.events(&run.info.run_id, None);
    let (mut pause, mut index) = (None, 0);
    // All of them are stored, so this waits for none.
    while index < run.next_index {
        let Some(event) = events.next().await? else { break };
        index = event.event_index.map_or(index, |index| index + 1);
        match &event.kind {
            EventKind::WorkflowPaused { .. } => pause = event.event_index,
            EventKind::CustomEvent { fields } if fields.get("name") == Some(&json!(Follows::EVENT)) => {
                let id = fields.get("question_id").and_then(Value::as_str);
                if id.is_some_and(|id| ids.contains(id)) {
                    break;
                }
            }
            _ => {}
        }
    }
    Ok(pause)
}
