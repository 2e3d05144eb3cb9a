//! AG-UI: what a page sends and is told when it speaks the Agent-User Interaction protocol.
//!
//! ```text
//! RunAgentInput ──► input                       RunEvent ──► teller ──► AG-UI's events ──► messages
//!                   interrupts ──► answers      Question ──► interrupts                    (what a page shows)
//! ```
//! It must never ask the engine. The invariant: the events follow from the run's log and from the request alone, each
//! with a place that is the same in every stream, and are in an order that AG-UI's client accepts.

pub mod input;
pub mod interrupts;
pub mod messages;
pub mod teller;

use serde_json::{Value, json};
use std::fmt;

/// Where a request and its events speak of resuming: a key of `forwardedProps`, and of the events' `metadata`. Agno's
/// client has this word.
pub const BACKGROUND: &str = "agnoBackground";

/// The place of an event: the entry of the run's log that it tells of, and its part of what is told there, from 0. What
/// is told before the log's first entry is at index -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The index of the entry.
    pub index: i64,
    /// The part.
    pub part: u64,
}

impl Place {
    /// Before the log's first entry.
    pub const START: Self = Self { index: -1, part: 0 };

    /// As an event's metadata has it.
    pub fn cursor(self) -> Value {
        json!({ BACKGROUND: { "eventIndex": self.index, "subIndex": self.part } })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.part)
    }
}

/// One event of AG-UI: an object with a `type`.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Where it stands.
    pub place: Place,
    /// What is sent. A `STATE_SNAPSHOT` without a snapshot and a `MESSAGES_SNAPSHOT` without messages are to be filled
    /// in by whoever can read the session.
    pub body: Value,
}

impl Event {
    /// Its type.
    pub fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default()
    }

    /// Whether it ends a run for the client.
    pub fn is_end(&self) -> bool {
        matches!(self.kind(), "RUN_FINISHED" | "RUN_ERROR")
    }
}

/// A run that could not be begun or followed, as an event.
pub fn error(message: &str, code: &str) -> Value {
    json!({ "type": "RUN_ERROR", "message": message, "code": code })
}
