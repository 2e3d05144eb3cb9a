//! Which events of its runs a workflow shows, and where. The log always keeps all of them.

use crate::event::{EventKind, RunEvent};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which events of a workflow's runs are shown to those who follow a run, and which stand in the run itself. Agno's
/// settings of these names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSettings {
    /// Whether streams tell what the agents and teams of steps do, and not the steps alone.
    pub stream_executor_events: bool,
    /// Whether a run that is read has its events.
    pub store_events: bool,
    /// The names of events that it does not have then.
    pub events_to_skip: BTreeSet<Arc<str>>,
}

impl Default for EventSettings {
    /// Streams tell everything, and runs have no events: these are read as a stream, at any time.
    fn default() -> Self {
        Self { stream_executor_events: true, store_events: false, events_to_skip: BTreeSet::new() }
    }
}

impl EventSettings {
    /// Whether a stream tells it.
    pub fn streams(&self, event: &RunEvent) -> bool {
        self.stream_executor_events || !is_executors(event)
    }

    /// The event as it stands in the run; none if it does not. As in Agno, a step's output is not repeated there, and
    /// only events of agents and teams have their index.
    pub fn stored(&self, mut event: RunEvent) -> Option<Value> {
        let is_repeated = matches!(event.kind, EventKind::StepOutput { .. } | EventKind::WorkflowPaused { .. });
        if !self.store_events || is_repeated || self.events_to_skip.contains(event.name()) {
            return None;
        }
        event.event_index = event.event_index.filter(|_| is_executors(&event));
        serde_json::to_value(event).ok()
    }
}

/// Whether an agent or a team tells it.
fn is_executors(event: &RunEvent) -> bool {
    event.origin.agent_id.is_some() || event.origin.team_id.is_some()
}
