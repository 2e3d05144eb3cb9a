//! What a log consists of.

use super::Record;
use crate::event::RunEvent;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One entry: what happened, and what recovery needs to know of it. Its index is its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What the world sees.
    pub event: RunEvent,
    /// When, where whole seconds (the event's `created_at`) are too coarse. Pieces of streamed text have none, nor do
    /// entries older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What only recovery needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

impl Entry {
    /// An entry with an event only.
    pub fn event(event: RunEvent) -> Self {
        Self { event, at: None, record: None }
    }

    /// An entry with a record.
    pub fn recorded(event: RunEvent, record: Record) -> Self {
        Self { event, at: None, record: Some(record) }
    }

    /// The same, written down at this time.
    pub fn at(self, at: Timestamp) -> Self {
        Self { at: Some(at), ..self }
    }

    /// When it was written down, as precisely as is known.
    pub fn time(&self) -> Timestamp {
        self.at.unwrap_or_else(|| Timestamp::from_seconds(self.event.created_at))
    }
}
