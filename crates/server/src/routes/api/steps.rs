//! The steps of a run, folded from its log, and what one of them gave back.

use super::range::{self, Payload};
use super::shape::{StepLine, StepPage, event_time};
use super::show;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query::{self, Query};
use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use outlive_core::log::{Part, Place};
use outlive_core::port::Run;
use outlive_core::{Entry, EventKind, Follows, Key, Record, RunEvent, RunStatus, StepOutput};
use outlive_engine::Reader;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Events held in memory at once.
const WINDOW: u64 = 512;

/// Steps on a page, and in the answer about a run.
const LIMIT: u64 = 100;
const LIMIT_MAX: usize = 1_000;

const STATUSES: [&str; 6] = ["running", "waiting", "completed", "error", "cancelled", "skipped"];

#[derive(Debug, Default, Deserialize)]
pub(super) struct StepsQuery {
    parent: Option<String>,
    status: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// `GET /api/runs/{run_id}/steps`.
pub(super) async fn list(
    caller: Caller,
    Path(run_id): Path<String>,
    Query(query): Query<StepsQuery>,
) -> Result<Json<StepPage>, Problem> {
    let limit = query::number("limit", query.limit.as_deref(), 1, LIMIT_MAX as u64)?.unwrap_or(LIMIT);
    let from = query::index("cursor", query.cursor.as_deref())?.unwrap_or_default();
    let statuses: Vec<&str> = query::words(query.status.as_deref()).collect();
    if statuses.iter().any(|status| !STATUSES.contains(status)) {
        let known = "Input should be running, waiting, completed, error, cancelled or skipped";
        return Err(Problem::field("enum", "query", "status", known));
    }
    let reader = caller.reader();
    let run = show(&caller, &reader, &run_id).await?;
    let mut steps = lines(&reader, &run).await?;
    if let Some(parent) = query.parent.as_deref() {
        if !parent.is_empty() && steps.iter().all(|step| step.step_id != parent) {
            return Err(Problem::not_found("Step not found"));
        }
        steps.retain(|step| step.parent_step_id.as_deref().unwrap_or_default() == parent);
    }
    let mut counts = BTreeMap::new();
    steps.iter().for_each(|step| *counts.entry(step.status).or_insert(0) += 1);
    let is_asked_for = |step: &StepLine| statuses.is_empty() || statuses.contains(&step.status);
    // A step keeps its place: what starts later comes after it.
    let mut found = (0_u64..).zip(steps).filter(|(place, step)| *place >= from && is_asked_for(step)).peekable();
    let mut page = Vec::new();
    while let Some((_, step)) = found.next_if(|_| (page.len() as u64) < limit) {
        page.push(step);
    }
    let next_cursor = found.peek().map(|(place, _)| place.to_string());
    Ok(Json(StepPage { steps: page, counts, next_cursor }))
}

/// The first steps as of the moment `run` was read, and where the others begin, if there are any.
pub(super) async fn first(reader: &Reader, run: &Run) -> Result<(Vec<StepLine>, Option<String>), Problem> {
    let mut steps = lines(reader, run).await?;
    let next = (steps.len() > LIMIT_MAX).then(|| LIMIT_MAX.to_string());
    steps.truncate(LIMIT_MAX);
    Ok((steps, next))
}

/// The steps as of the moment `run` was read.
async fn lines(reader: &Reader, run: &Run) -> Result<Vec<StepLine>, Problem> {
    let mut fold = Fold::default();
    let mut from = 0;
    while from < run.next_index {
        let count = usize::try_from(WINDOW.min(run.next_index - from)).unwrap_or(usize::MAX);
        let entries = reader.stored_entries(&run.info.run_id, from, count).await?;
        if entries.is_empty() {
            break;
        }
        from += entries.len() as u64;
        for entry in &entries {
            fold.apply(&entry.event);
            fold.note_item(entry);
        }
    }
    Ok(fold.finish(run.status))
}

/// Which item of a list this is.
fn item(key: &Key) -> Option<u32> {
    match key.parts().last() {
        Some(Part::Node { place: Place::Item(item), .. }) => Some(item),
        _ => None,
    }
}

/// Steps by their events.
#[derive(Default)]
struct Fold {
    steps: Vec<StepLine>,
    places: HashMap<String, usize>,
}

impl Fold {
    fn apply(&mut self, event: &RunEvent) {
        let Some(step_id) = event.origin.step_id.as_deref() else { return };
        match &event.kind {
            EventKind::StepStarted
            | EventKind::StepsExecutionStarted { .. }
            | EventKind::ParallelExecutionStarted { .. }
            | EventKind::ConditionExecutionStarted { .. }
            | EventKind::LoopExecutionStarted { .. }
            | EventKind::RouterExecutionStarted { .. } => self.begin(step_id, event),
            EventKind::StepsExecutionCompleted { .. }
            | EventKind::ParallelExecutionCompleted { .. }
            | EventKind::ConditionExecutionCompleted { .. }
            | EventKind::LoopExecutionCompleted { .. }
            | EventKind::RouterExecutionCompleted { .. } => {
                if let Some(container) = self.step(step_id) {
                    container.status = "completed";
                    container.ended_at = Some(event_time(event));
                }
            }
            EventKind::StepOutput { step_output } => self.end(step_id, step_output, event),
            EventKind::StepCompleted { step_response, .. } => self.end(step_id, step_response, event),
            EventKind::StepError { error } => {
                if let Some(step) = self.step(step_id) {
                    (step.status, step.error) = ("error", Some(error.clone()));
                    step.ended_at = Some(event_time(event));
                }
            }
            EventKind::StepPaused { .. }
            | EventKind::RouterPaused { .. }
            | EventKind::StepOutputReview { .. }
            | EventKind::StepExecutorPaused { .. } => self.wait(step_id, event),
            EventKind::CustomEvent { fields } => {
                if let (Some(step), Some(follows)) = (self.step(step_id), Follows::of(&event.kind)) {
                    step.answered(follows, fields.get("answer"), event);
                }
            }
            EventKind::StepContinued | EventKind::StepExecutorContinued { .. } => {
                if let Some(step) = self.step(step_id) {
                    (step.status, step.ended_at, step.error) = ("running", None, None);
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, step_id: &str) -> Option<&mut StepLine> {
        self.places.get(step_id).map(|place| &mut self.steps[*place])
    }

    /// A step of a list says where it stands there.
    fn note_item(&mut self, entry: &Entry) {
        let Some(Record::Intent { key, name: Some(_) } | Record::Begin { key, .. } | Record::Waiting { key, .. }) =
            &entry.record
        else {
            return;
        };
        let origin = &entry.event.origin;
        // A nested workflow begins inside its step.
        let step_id = match entry.event.kind {
            EventKind::WorkflowStarted => origin.parent_step_id.as_deref(),
            _ => origin.step_id.as_deref(),
        };
        if let (Some(item), Some(step)) = (item(key), step_id.and_then(|step_id| self.step(step_id))) {
            step.item = Some(item);
        }
    }

    fn begin(&mut self, step_id: &str, event: &RunEvent) {
        self.note(step_id, event);
        if let Some(step) = self.step(step_id) {
            step.attempt += 1;
            (step.status, step.ended_at, step.error) = ("running", None, None);
        }
    }

    /// A step may be asked about before it begins.
    fn wait(&mut self, step_id: &str, event: &RunEvent) {
        self.note(step_id, event);
        if let Some(step) = self.step(step_id) {
            step.status = "waiting";
        }
    }

    fn note(&mut self, step_id: &str, event: &RunEvent) {
        if self.places.contains_key(step_id) {
            return;
        }
        self.places.insert(step_id.to_owned(), self.steps.len());
        let origin = &event.origin;
        self.steps.push(StepLine {
            step_id: step_id.to_owned(),
            name: origin.step_name.as_deref().unwrap_or_default().to_owned(),
            index: json!(origin.step_index),
            item: None,
            parent_step_id: origin.parent_step_id.as_deref().map(str::to_owned),
            nested_depth: origin.nested_depth,
            status: "running",
            executor_type: None,
            executor_name: None,
            started_at: event_time(event),
            ended_at: None,
            attempt: 0,
            error: None,
            has_output: false,
            first_seq: event.event_index.unwrap_or_default(),
        });
    }

    fn end(&mut self, step_id: &str, output: &StepOutput, event: &RunEvent) {
        let Some(step) = self.step(step_id) else { return };
        step.status = if output.success { "completed" } else { "error" };
        step.ended_at = Some(event_time(event));
        step.executor_type = output.executor_type.map(|kind| kind.as_str());
        step.executor_name = output.executor_name.as_deref().map(str::to_owned);
        step.error = output.error.clone();
        step.has_output = true;
    }

    /// A step that is open in a run that is over ended with it.
    fn finish(mut self, status: RunStatus) -> Vec<StepLine> {
        let ended = match status {
            RunStatus::Cancelled => "cancelled",
            RunStatus::Error | RunStatus::Completed => "error",
            RunStatus::Pending | RunStatus::Running | RunStatus::Paused => return self.steps,
        };
        for step in self.steps.iter_mut().filter(|step| matches!(step.status, "running" | "waiting")) {
            step.status = ended;
        }
        self.steps
    }
}

impl StepLine {
    /// Somebody answered, or nobody did in time: what follows as far as the log has not said more.
    fn answered(&mut self, follows: Follows, answer: Option<&Value>, event: &RunEvent) {
        self.status = match follows {
            Follows::GoesOn => "running",
            Follows::Heard => return,
            Follows::Done => "completed",
            Follows::Skipped | Follows::LeftOut => "skipped",
            Follows::Failed => "error",
            Follows::Cancelled => "cancelled",
        };
        if matches!(follows, Follows::LeftOut | Follows::Cancelled) {
            let text = |name| answer.and_then(|answer| answer.get(name)).and_then(Value::as_str);
            let why = if text("do") == Some("timed_out") { Some("nobody answered in time") } else { text("feedback") };
            (self.error, self.ended_at) = (why.map(str::to_owned), Some(event_time(event)));
        }
        if follows != Follows::GoesOn {
            self.ended_at.get_or_insert_with(|| event_time(event));
        }
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct OutputQuery {
    format: Option<String>,
}

/// `GET /api/runs/{run_id}/steps/{step_id}/output`.
pub(super) async fn output(
    caller: Caller,
    Path((run_id, step_id)): Path<(String, String)>,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = caller.reader();
    let run = show(&caller, &reader, &run_id).await?;
    let format = query.format.as_deref().unwrap_or("json");
    if !matches!(format, "json" | "md" | "text") {
        return Err(Problem::field("enum", "query", "format", "Input should be 'json', 'md' or 'text'"));
    }
    let output = match finished_output(&reader, &run, &step_id).await {
        Some(output) => output,
        None => logged_output(&reader, &run, &step_id).await?,
    };
    let payload = match format {
        "json" => Payload::json(&output),
        "md" => Payload::file(output.text(), "text/markdown; charset=utf-8", "output.md"),
        _ => Payload::file(output.text(), "text/plain; charset=utf-8", "output.txt"),
    };
    range::answer(payload, &headers)
}

/// From the result of a run that has one.
async fn finished_output(reader: &Reader, run: &Run, step_id: &str) -> Option<StepOutput> {
    fn find<'a>(outputs: &'a [Arc<StepOutput>], step_id: &str) -> Option<&'a StepOutput> {
        outputs.iter().find_map(|output| {
            let is_it = output.step_id.as_deref() == Some(step_id);
            if is_it { Some(&**output) } else { find(&output.steps, step_id) }
        })
    }
    run.output.as_ref()?;
    // The log has it too, and says so itself when it cannot be read.
    let result = reader.output(run).await.ok()?;
    find(&result.step_results, step_id).cloned()
}

/// From the log of a run that is under way, or has ended before the step counted.
async fn logged_output(reader: &Reader, run: &Run, step_id: &str) -> Result<StepOutput, Problem> {
    let (mut from, mut found, mut has_begun) = (0, None, false);
    while from < run.next_index {
        let events =
            reader.stored_events(&run.info.run_id, from, usize::try_from(WINDOW).unwrap_or(usize::MAX)).await?;
        if events.is_empty() {
            break;
        }
        from += events.len() as u64;
        for event in events.into_iter().filter(|event| event.origin.step_id.as_deref() == Some(step_id)) {
            has_begun = true;
            match event.kind {
                EventKind::StepOutput { step_output: output }
                | EventKind::StepCompleted { step_response: output, .. } => {
                    found = Some(output);
                }
                _ => {}
            }
        }
    }
    match found {
        Some(output) => Ok((*output).clone()),
        None if has_begun => Err(Problem::new(StatusCode::NOT_FOUND, "output_missing", "The step has no output yet")),
        None => Err(Problem::not_found("Step not found")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::{ExecutorKind, Origin};

    #[test]
    fn a_step_is_what_followed_from_the_answer() {
        let event = |kind| {
            let origin = Origin { step_id: Some("one".into()), ..Origin::default() };
            RunEvent { created_at: 0, kind, origin, event_index: None }
        };
        for (follows, status, error) in [
            (Follows::GoesOn, "running", None),
            (Follows::Heard, "waiting", None),
            (Follows::Done, "completed", None),
            (Follows::Skipped, "skipped", None),
            (Follows::LeftOut, "skipped", Some("nobody answered in time")),
            (Follows::Failed, "error", None),
            (Follows::Cancelled, "cancelled", Some("nobody answered in time")),
        ] {
            let told = json!({ "name": Follows::EVENT, "kind": "output_review", "answer": { "do": "timed_out" },
                "follows": follows });
            let asks = EventKind::StepOutputReview { output_review_message: None, requires_output_review: true };
            let answered = EventKind::CustomEvent { fields: told.as_object().cloned().unwrap_or_default() };
            let mut fold = Fold::default();
            [EventKind::StepStarted, asks, answered].map(event).iter().for_each(|event| fold.apply(event));
            let step = &fold.steps[0];
            assert_eq!((step.status, step.error.as_deref()), (status, error), "{follows:?}");
            assert_eq!(step.ended_at.is_some(), !matches!(status, "running" | "waiting"), "{follows:?}");
        }
    }

    #[test]
    fn a_step_that_waits_for_an_answer_says_so_until_the_run_is_over() {
        let event = |kind| {
            let origin = Origin { step_id: Some("one".into()), ..Origin::default() };
            RunEvent { created_at: 0, kind, origin, event_index: None }
        };
        let asks = EventKind::StepExecutorPaused {
            executor_id: None,
            executor_run_id: None,
            executor_name: "pay".into(),
            executor_type: ExecutorKind::Function,
            executor_requirements: Vec::new(),
        };
        for (status, expected) in [
            (RunStatus::Running, "waiting"),
            (RunStatus::Paused, "waiting"),
            (RunStatus::Error, "error"),
            (RunStatus::Cancelled, "cancelled"),
        ] {
            let mut fold = Fold::default();
            [EventKind::StepStarted, asks.clone()].map(event).iter().for_each(|event| fold.apply(event));
            assert_eq!(fold.finish(status)[0].status, expected);
        }
    }
}
