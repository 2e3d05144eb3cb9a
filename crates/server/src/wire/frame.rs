//! Frames: one event or one notice about a stream, as Server-Sent Events and as messages of a socket.
//!
//! It must never know what an event means. The invariant: a frame is one frame whatever text is in it. JSON escapes line
//! ends and control characters; the further characters that some line readers split at (U+0085, U+2028, U+2029) are
//! escaped here.

use super::run::{Shape, Standing, WorkflowRunBody, workflow_run};
use outlive_core::{EventKind, Follows, RunEvent, WorkflowRunOutput};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Value, json};
use std::io;

/// A comment that keeps an idle stream's connection alive; readers skip it.
pub const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// One event or notice.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    body: Body,
}

#[derive(Clone, Debug, PartialEq)]
enum Body {
    Event(Box<RunEvent>),
    Notice(Value),
    Run(Box<WorkflowRunOutput>),
    /// Its name is not in its data.
    Named(&'static str, Value),
}

impl Frame {
    /// A run's event, with its index when it has one.
    pub fn event(event: RunEvent) -> Self {
        Self { body: Body::Event(Box::new(event)) }
    }

    /// The event for a foreground stream, where Agno writes no index: such a stream cannot be resumed.
    pub fn foreground(event: RunEvent) -> Self {
        Self::event(RunEvent { event_index: None, ..event })
    }

    /// Anything else: an object whose `event` field names it.
    pub fn notice(body: Value) -> Self {
        Self { body: Body::Notice(body) }
    }

    /// An event of another protocol: its name, and its data as it is.
    pub fn named(name: &'static str, body: Value) -> Self {
        Self { body: Body::Named(name, body) }
    }

    /// Its name, for example `StepStarted` or `catch_up`.
    pub fn name(&self) -> &str {
        match &self.body {
            Body::Event(event) => event.name(),
            Body::Notice(body) => body.get("event").and_then(Value::as_str).unwrap_or("message"),
            // Its data does not repeat its name: clients of Agno's would take it for an event they do not know.
            Body::Run(_) => "WorkflowRunOutput",
            Body::Named(name, _) => name,
        }
    }

    /// Its place in the run's log, for events that carry it.
    pub fn index(&self) -> Option<u64> {
        match &self.body {
            Body::Event(event) => event.event_index,
            Body::Notice(body) => body.get("event_index").and_then(Value::as_u64),
            Body::Run(_) | Body::Named(..) => None,
        }
    }

    /// As one Server-Sent Event. An event with an index has it as its `id`, which Agno does not write: with it a browser
    /// resumes by itself.
    pub fn sse(&self) -> String {
        let data = self.json(Spacing::Compact);
        let name = self.name();
        match self.index() {
            Some(index) => format!("event: {name}\ndata: {data}\nid: {index}\n\n"),
            None => format!("event: {name}\ndata: {data}\n\n"),
        }
    }

    /// As the text message that a socket gets for a run it started itself: shaped like a Server-Sent Event.
    pub fn socket(&self) -> String {
        format!("event: {}\ndata: {}\n\n", self.name(), self.json(Spacing::Wide))
    }

    /// As the text message that a socket gets for notices and after a reconnect: one JSON object.
    pub fn bare(&self) -> String {
        self.json(Spacing::Compact)
    }

    /// As a JSON value.
    pub fn value(&self) -> Value {
        match &self.body {
            Body::Event(event) => serde_json::to_value(event).expect("an event has string keys only"),
            Body::Notice(body) | Body::Named(_, body) => body.clone(),
            Body::Run(run) => serde_json::to_value(run_body(run)).expect("a run has string keys only"),
        }
    }

    fn json(&self, spacing: Spacing) -> String {
        match &self.body {
            Body::Event(event) => one_line(event, spacing),
            Body::Notice(body) | Body::Named(_, body) => one_line(body, spacing),
            Body::Run(run) => one_line(&run_body(run), spacing),
        }
    }
}

/// An event of another protocol, whose data says what it is, as one Server-Sent Event.
pub fn data(body: &Value, id: Option<u64>) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("{id}data: {}\n\n", one_line(body, Spacing::Compact))
}

/// Whether an event belongs in a workflow's stream that requested `stream_events=false`: the run's own beginning and
/// end, those of the agent that leads it, and the outputs of its function steps.
pub fn is_milestone(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::WorkflowStarted
            | EventKind::WorkflowCompleted(_)
            | EventKind::WorkflowError { .. }
            | EventKind::WorkflowCancelled { .. }
            | EventKind::WorkflowPaused { .. }
            | EventKind::WorkflowAgentStarted
            | EventKind::WorkflowAgentCompleted { .. }
            | EventKind::StepOutput { .. }
    )
}

/// The same for the stream of an agent or team: what it and its members write, what tools tell, and an end that is not
/// the answer's.
pub fn is_speech(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::RunContent(_)
            | EventKind::TeamRunContent(_)
            | EventKind::CustomEvent { .. }
            | EventKind::StepProgress { .. }
            | EventKind::RunPaused(_)
            | EventKind::TeamRunPaused(_)
            | EventKind::RunError(_)
            | EventKind::TeamRunError(_)
            | EventKind::WorkflowError { .. }
            | EventKind::WorkflowCancelled { .. }
            | EventKind::WorkflowPaused { .. }
    )
}

/// Whether an event says what somebody answered, or that the run goes on with it.
pub fn is_of_answers(kind: &EventKind) -> bool {
    let EventKind::CustomEvent { fields } = kind else { return false };
    matches!(fields.get("name").and_then(Value::as_str), Some(Follows::EVENT | "RunResumed"))
}

/// The first message on a socket.
pub fn connected(requires_auth: bool) -> Value {
    let message =
        if requires_auth { "Connected to AgentOS. Please authenticate to continue." } else { "Connected to AgentOS." };
    json!({ "event": "connected", "message": message, "requires_auth": requires_auth })
}

/// The token was right.
pub fn authenticated(user_id: Option<&str>) -> Value {
    let mut body = json!({
        "event": "authenticated",
        "message": "Authentication successful. You can now send commands.",
    });
    if let Some(user_id) = user_id {
        body["user_id"] = json!(user_id);
    }
    body
}

/// The token was wrong; `kind` tells programs how (`invalid_token`, `token_expired`).
pub fn auth_error(error: &str, kind: Option<&str>) -> Value {
    let mut body = json!({ "event": "auth_error", "error": error });
    if let Some(kind) = kind {
        body["error_type"] = json!(kind);
    }
    body
}

/// Something was asked before the token was shown; `credential` is what to show (`bearer token`, `JWT`).
pub fn auth_required(credential: &str) -> Value {
    let error = format!("Authentication required. Send authenticate action with valid {credential}.");
    json!({ "event": "auth_required", "error": error })
}

/// The answer to `ping`.
pub fn pong() -> Value {
    json!({ "event": "pong" })
}

/// A refusal.
pub fn error(error: &str) -> Value {
    json!({ "event": "error", "error": error })
}

/// A run that asks people, after the events that led there.
pub fn run(run: WorkflowRunOutput) -> Frame {
    Frame { body: Body::Run(Box::new(run)) }
}

fn run_body(run: &WorkflowRunOutput) -> WorkflowRunBody<'_> {
    workflow_run(run, Shape::Continued, Standing::default())
}

/// A run that was accepted and waits for its turn.
pub fn queued(run_id: &str, session_id: &str) -> Value {
    json!({ "event": "queued", "run_id": run_id, "session_id": session_id })
}

#[derive(Clone, Copy)]
enum Spacing {
    Compact,
    /// A space after every comma and colon.
    Wide,
}

fn one_line(value: &impl Serialize, spacing: Spacing) -> String {
    let mut bytes = Vec::new();
    let written = value.serialize(&mut Serializer::with_formatter(&mut bytes, OneLine(spacing)));
    written.expect("frames have string keys only and memory takes every write");
    String::from_utf8(bytes).expect("JSON of text is text")
}

struct OneLine(Spacing);

impl OneLine {
    fn comma(&self) -> &'static [u8] {
        match self.0 {
            Spacing::Compact => b",",
            Spacing::Wide => b", ",
        }
    }
}

impl Formatter for OneLine {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.comma()) }
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.comma()) }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        match self.0 {
            Spacing::Compact => writer.write_all(b":"),
            Spacing::Wide => writer.write_all(b": "),
        }
    }

    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['\u{85}', '\u{2028}', '\u{2029}']) {
            let (before, from) = rest.split_at(at);
            let mut chars = from.chars();
            let code = chars.next().map_or(0, u32::from);
            writer.write_all(before.as_bytes())?;
            write!(writer, "\\u{code:04x}")?;
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}
