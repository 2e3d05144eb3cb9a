//! The lines of the format before this one, lifted: every entry repeated all that an event says, and some facts stood in
//! events only.
//!
//! Nothing writes this format any more.

use super::stored::{Unread, parse};
use super::{Entry, Key, Pause, Record, Rest, RunEnded};
use crate::event::{EventKind, RunEvent};
use crate::id::WorkerId;
use crate::run::{RunOutput, RunStatus};
use crate::step::{StepIndex, StepOutput};
use crate::time::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

#[derive(Deserialize)]
struct OldEntry {
    event: RunEvent,
    #[serde(default)]
    at: Option<Timestamp>,
    #[serde(default)]
    record: Option<OldRecord>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OldRecord {
    Claimed {
        worker: WorkerId,
        epoch: u64,
        attempt: u32,
        at: Timestamp,
    },
    Intent {
        key: Key,
    },
    Result {
        key: Key,
        value: Arc<RawValue>,
    },
    Said {
        key: Key,
    },
    Step {
        key: Key,
        #[serde(default)]
        run: Option<Arc<RunOutput>>,
        #[serde(default)]
        state: Option<Value>,
    },
    Ended {
        at: Timestamp,
    },
    Retry {
        key: Key,
        attempt: u32,
        due_at: Timestamp,
    },
}

/// Whether a line is in this format: an event began with its time.
pub(super) fn is_old(line: &str) -> bool {
    line.starts_with("{\"event\":{\"created_at\":")
}

/// Reads a line. `before` is the line before it, where that is in the same format.
pub(super) fn read(line: &str, index: u64, before: Option<&str>) -> Result<Entry, Unread> {
    let OldEntry { mut event, at, record } = parse(line)?;
    event.event_index = Some(index);
    let time = at.unwrap_or_else(|| Timestamp::from_seconds(event.created_at));
    let record = match record {
        Some(record) => Some(lifted(record, &event, before)?),
        None => told_by_event(&event, time),
    };
    Ok(Entry { event, at, record })
}

fn lifted(record: OldRecord, event: &RunEvent, before: Option<&str>) -> Result<Record, Unread> {
    Ok(match record {
        OldRecord::Claimed { worker, epoch, attempt, at } => {
            Record::Claimed { worker, epoch, attempt, at, state: None }
        }
        OldRecord::Intent { key } => {
            let is_step = matches!(event.kind, EventKind::StepStarted);
            Record::Intent { key, name: event.origin.step_name.clone().filter(|_| is_step) }
        }
        OldRecord::Result { key, value } if is_run_end(&event.kind) => {
            let ended: RunEnded = parse(value.get())?;
            Record::Run { key, ended: Arc::new(ended) }
        }
        OldRecord::Result { key, value } => Record::Result { key, value, sleeps: false },
        OldRecord::Said { key } => Record::Said { key },
        OldRecord::Step { key, run, state } => {
            let output = match &event.kind {
                EventKind::StepOutput { step_output: output }
                | EventKind::StepCompleted { step_response: output, .. } => output.clone(),
                _ => return Err(Unread::Damaged("a step ends without an output".to_owned())),
            };
            Record::Step { key, output, run, state }
        }
        OldRecord::Retry { key, attempt, due_at } => Record::Retry { key, attempt, due_at },
        OldRecord::Ended { at } => Record::Rest(Box::new(ended(at, event, before))),
    })
}

fn is_run_end(kind: &EventKind) -> bool {
    use EventKind::{RunCompleted, RunError, TeamRunCompleted, TeamRunError};
    matches!(kind, RunCompleted(_) | RunError(_) | TeamRunCompleted(_) | TeamRunError(_))
}

fn ended(at: Timestamp, event: &RunEvent, before: Option<&str>) -> Rest {
    let rest = Rest::new(RunStatus::Error, at);
    match &event.kind {
        EventKind::WorkflowCompleted(done) => {
            // A cancel is two entries, written together; the first was also the run's first when nothing had been said.
            let cancel: Option<OldEntry> = before.and_then(|line| parse(line).ok());
            let cancel = cancel.filter(|entry| matches!(entry.event.kind, EventKind::WorkflowCancelled { .. }));
            Rest {
                status: if cancel.is_some() { RunStatus::Cancelled } else { RunStatus::Completed },
                content: done.content.clone(),
                was_pending: cancel.is_some_and(|entry| matches!(entry.record, Some(OldRecord::Claimed { .. }))),
                metrics: done.metrics.clone(),
                metadata: done.metadata.clone(),
                results: done.step_results.clone(),
                ..rest
            }
        }
        EventKind::WorkflowError { error, error_type, .. } => {
            Rest { content: Some(Value::String(error.clone())), error_type: error_type.clone(), ..rest }
        }
        _ => rest,
    }
}

/// What used to stand in events only.
fn told_by_event(event: &RunEvent, at: Timestamp) -> Option<Record> {
    match &event.kind {
        EventKind::StepError { error } => {
            let key = match event.origin.step_index {
                Some(StepIndex::At(place)) => Key::step(place),
                _ => Key::run(),
            };
            let (name, id) = (event.origin.step_name.clone(), event.origin.step_id.clone());
            Some(Record::Failed { key, output: Arc::new(StepOutput::failed(name, id, error, error)) })
        }
        EventKind::WorkflowPaused {
            paused_step_index,
            paused_step_name,
            pause_kind,
            step_requirements,
            step_results,
            metadata,
            ..
        } => Some(Record::Rest(Box::new(Rest {
            pause: Some(Pause {
                errors: None,
                index: *paused_step_index,
                name: paused_step_name.clone(),
                kind: pause_kind.clone(),
                requirements: step_requirements.clone(),
            }),
            results: step_results.clone(),
            metadata: metadata.clone(),
            ..Rest::new(RunStatus::Paused, at)
        }))),
        _ => None,
    }
}
