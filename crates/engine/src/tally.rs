//! What a run's entries count as: model calls, tokens, runs that were given up.
//!
//! It reads only events and keys, and must never know a model. The invariant: an entry counts once, when the commit
//! that holds it is durable.

use outlive_core::log::{Entry, Key, Record};
use outlive_core::{EventKind, FailureKind, Usage};
use std::time::Duration;
use tokio::time::Instant;

/// The name of the event that says that a model is being asked once more.
const RETRYING: &str = "ModelRequestRetrying";

/// The name of the event that says that a model has failed and another is asked.
const FALLBACK: &str = "ModelFallback";

/// What the entries of one commit add up to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) model_calls: u64,
    pub(crate) model_retries: u64,
    pub(crate) model_times: Vec<Duration>,
    pub(crate) usage: Usage,
    pub(crate) is_poisoned: bool,
}

/// Counts one run's entries. Most runs wait most of the time, and then it holds next to nothing.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// Model calls that were begun here and have not ended.
    open: Vec<(Key, Instant)>,
    tally: Option<Box<Tally>>,
}

impl Count {
    /// An entry was appended.
    pub(crate) fn note(&mut self, entry: &Entry) {
        let key = entry.record.as_ref().and_then(Record::key);
        match &entry.event.kind {
            EventKind::ModelRequestStarted(_) | EventKind::TeamModelRequestStarted(_) => {
                if let Some(key) = key {
                    self.open.reserve_exact(1);
                    self.open.push((key.clone(), Instant::now()));
                }
                self.tally().model_calls += 1;
            }
            EventKind::ModelRequestCompleted(done) | EventKind::TeamModelRequestCompleted(done) => {
                let begun = self.open.iter().position(|(open, _)| Some(open) == key);
                let begun = begun.map(|place| self.open.swap_remove(place).1);
                let tally = self.tally();
                tally.model_times.extend(begun.map(|begun| begun.elapsed()));
                tally.usage += Usage {
                    input_tokens: done.input_tokens,
                    output_tokens: done.output_tokens,
                    total_tokens: done.total_tokens,
                    reasoning_tokens: done.reasoning_tokens,
                    cache_read_tokens: done.cache_read_tokens,
                    cache_write_tokens: done.cache_write_tokens,
                    ..Usage::default()
                };
            }
            EventKind::CustomEvent { fields } if fields.get("name").is_some_and(|name| name == RETRYING) => {
                self.tally().model_retries += 1;
            }
            // Another model is asked in its place.
            EventKind::CustomEvent { fields } if fields.get("name").is_some_and(|name| name == FALLBACK) => {
                self.open.retain(|(open, _)| Some(open) != key);
            }
            // Whatever this agent or team had asked for has failed, and was not abandoned.
            EventKind::RunError(_) | EventKind::TeamRunError(_) => {
                if let Some(conversation) = key.and_then(Key::outer) {
                    self.open.retain(|(open, _)| !open.is_inside(&conversation));
                }
            }
            EventKind::WorkflowError { error_type: Some(kind), .. } if kind == FailureKind::Poisoned.code() => {
                self.tally().is_poisoned = true;
            }
            _ => {}
        }
    }

    /// What was counted since this was last called.
    pub(crate) fn take(&mut self) -> Option<Box<Tally>> {
        self.tally.take()
    }

    /// Whatever is open inside this is given up. Returns how many calls that is.
    pub(crate) fn abandon(&mut self, outer: &Key) -> u64 {
        let before = self.open.len();
        self.open.retain(|(open, _)| !open.is_inside(outer));
        (before - self.open.len()) as u64
    }

    /// Calls that were begun here and have not ended.
    pub(crate) fn open(&self) -> u64 {
        self.open.len() as u64
    }

    fn tally(&mut self) -> &mut Tally {
        self.tally.get_or_insert_default()
    }
}
