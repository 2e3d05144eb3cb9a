//! A run's log as a trace: spans, for tools that draw timelines and count tokens.
//!
//! ```text
//! run ─► step ─► agent or team ─► model call
//!                       └───────► tool call ─► (a delegation) member ─► …
//! ```
//! A trace belongs to the log, not to a process: ids are made from the run's id and the keys in the log, times are
//! those of entries. So a process that takes over a run continues the trace of the one that died, and a span exported
//! by both is the same span.
//!
//! It owns what strangers may see of a run: names, numbers and kinds of failure. It must never know a prompt, an
//! argument, an answer or the text of an error, nor where spans go.
//!
//! Invariant: equal logs give equal spans, whoever folds them. Spans end inside those they belong to.

use crate::event::{EventKind, ModelInfo, ModelRequestDone, Origin};
use crate::id::RunId;
use crate::log::{Entry, Key, Record};
use crate::machine::DELEGATE_ALL_TOOL;
use crate::message::ToolExecution;
use crate::run::{RunInfo, RunStatus};
use crate::step::StepOutput;
use crate::time::Timestamp;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// `error.type` of a call whose process ended before its answer was recorded.
pub const ATTEMPT_ABORTED: &str = "attempt_aborted";
/// `error.type` of a call that was dropped because its run waits for a person.
const PAUSED: &str = "paused";
/// `error.type` of a tool that reported a failure.
const TOOL_ERROR: &str = "tool_error";
/// `error.type` when the log does not say which: the conventions' word for that.
const OTHER: &str = "_OTHER";
/// A span that ended this shortly before its process was last heard from may not have been sent.
const UNSENT_PERIOD: Duration = Duration::from_secs(60);
/// Longest name that a model or its server may have chosen, in bytes.
const GIVEN_NAME_LEN_MAX: usize = 128;

/// 16 bytes, not all zero: the run's id where that is a UUID, else derived from it. Displayed as hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(pub [u8; 16]);

/// 8 bytes, derived from what the span stands for. Displayed as hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// The trace of this run.
    ///
    /// ```
    /// use outlive_core::{RunId, trace::TraceId};
    /// let run = RunId::parse("0193e5a0-7c1d-7000-8000-0000000000aa").unwrap();
    /// assert_eq!(TraceId::of(&run).to_string(), "0193e5a07c1d700080000000000000aa");
    /// ```
    pub fn of(run: &RunId) -> Self {
        Self(run.uuid_bytes().unwrap_or_else(|| run.derive_bytes("trace")))
    }
}

impl SpanId {
    /// The span of this key and attempt; the run's own has the empty key.
    fn of(run: &RunId, key: &Key, attempt: u32) -> Self {
        let bytes = run.derive_bytes(&format!("span/{key}#{attempt}"));
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[..8]);
        Self(id)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Which side of a call a span shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Work of this program.
    Internal,
    /// A request to another one.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// A name or a word.
    Text(Arc<str>),
    /// A number.
    Number(u64),
}

/// Something that was done, from its beginning to its end. Names follow OpenTelemetry's conventions for generative AI
/// where those have one, and begin with `outlive.` where they have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The run's trace.
    pub trace_id: TraceId,
    /// This span.
    pub span_id: SpanId,
    /// The span it belongs to; the run's own has none.
    pub parent: Option<SpanId>,
    /// For people: `chat gpt-5.2`.
    pub name: String,
    /// Which side of a call.
    pub kind: SpanKind,
    /// When it began, not after its end.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Each name once.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// Why it failed, as a code ([`crate::FailureKind::code`] or a word of this module); nothing when it did not.
    pub error: Option<Arc<str>>,
}

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Run,
    Step,
    /// A run of an agent or a team.
    Agent,
    Model,
    Tool,
    /// A call that is a run of a member.
    Delegation,
}

impl Work {
    /// Whether it is a request that is made again, rather than continued, when its process ends.
    fn is_call(self) -> bool {
        match self {
            Work::Model | Work::Tool => true,
            Work::Run | Work::Step | Work::Agent | Work::Delegation => false,
        }
    }
}

/// A span that has not ended.
#[derive(Clone, Debug)]
struct Open {
    work: Work,
    key: Key,
    attempt: u32,
    parent: Option<SpanId>,
    name: String,
    start: Timestamp,
    /// Agents and model calls: the run that speaks.
    run_id: Option<RunId>,
    attributes: Vec<(&'static str, AttributeValue)>,
    /// Why something inside it failed.
    failed_inside: Option<Arc<str>>,
    /// Begun by a resume or a back-off, so only its end shows that it happened.
    is_supposed: bool,
}

/// Folds the log of one run into spans.
///
/// ```
/// # use outlive_core::{DefinitionId, Entry, EventKind, Origin, RunEvent, RunId, RunInfo, SessionId, WorkflowDone};
/// # use outlive_core::trace::TraceFold;
/// # use std::sync::Arc;
/// # let run = Arc::new(RunInfo {
/// #     run_id: RunId::parse("run-1").unwrap(),
/// #     workflow_id: DefinitionId::parse("greeting").unwrap(),
/// #     workflow_name: Arc::from("Greeting"),
/// #     session_id: SessionId::parse("session-1").unwrap(),
/// #     user_id: None,
/// # });
/// # let entry = |created_at, kind| {
/// #     Entry::event(RunEvent { created_at, kind, origin: Origin::workflow(&run), event_index: None })
/// # };
/// let log = [entry(1, EventKind::WorkflowStarted), entry(3, EventKind::WorkflowCompleted(Box::<WorkflowDone>::default()))];
/// let spans = TraceFold::new(run.clone()).committed(&log);
/// assert_eq!(spans[0].name, "invoke_workflow Greeting");
/// assert_eq!(spans[0].end.since(spans[0].start).as_secs(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct TraceFold {
    run: Arc<RunInfo>,
    /// Parents before their children.
    open: Vec<Open>,
    /// How often the run has been claimed.
    claims: u32,
    is_cancelled: bool,
    is_over: bool,
    /// Spans that an earlier process may not have sent.
    unsent: Vec<Span>,
}

impl TraceFold {
    /// The trace of a run whose log has not been read.
    pub fn new(run: Arc<RunInfo>) -> Self {
        Self { run, open: Vec::new(), claims: 0, is_cancelled: false, is_over: false, unsent: Vec::new() }
    }

    /// Takes in entries of earlier claims, in log order.
    pub fn replayed(&mut self, entries: &[Entry]) {
        let mut ended = std::mem::take(&mut self.unsent);
        entries.iter().for_each(|entry| self.apply(entry, &mut ended));
        if let Some(last) = entries.last() {
            // Measured from the last sign of life, not from now: the machine may have been off for a week.
            ended.retain(|span| last.time().since(span.end) <= UNSENT_PERIOD);
        }
        self.unsent = ended;
    }

    /// Takes in new entries, in log order. Returns the spans that ended with them, inner ones first, preceded at the
    /// first call by those that an earlier process may not have sent.
    pub fn committed(&mut self, entries: &[Entry]) -> Vec<Span> {
        let mut ended = std::mem::take(&mut self.unsent);
        entries.iter().for_each(|entry| self.apply(entry, &mut ended));
        ended
    }

    fn apply(&mut self, entry: &Entry, ended: &mut Vec<Span>) {
        if self.is_over {
            return;
        }
        let at = entry.time();
        if self.open.is_empty() {
            self.begin_run(at);
        }
        if let Some(Record::Claimed { attempt, .. }) = entry.record {
            self.claims = attempt;
            self.abort_calls(at, ended);
        }
        self.take(entry, at, ended);
    }

    fn take(&mut self, entry: &Entry, at: Timestamp, ended: &mut Vec<Span>) {
        use EventKind::*;
        let origin = &entry.event.origin;
        match (&entry.event.kind, &entry.record) {
            (StepStarted, Some(Record::Intent { key, .. })) => self.begin_step(key.clone(), origin, 1, at),
            (StepOutput { step_output: output }, Some(Record::Step { key, .. }))
            | (StepCompleted { step_response: output, .. }, Some(Record::Step { key, .. })) => {
                self.end_step(key, output, at, ended);
            }
            (CustomEvent { fields }, Some(Record::Retry { key, attempt, due_at })) => {
                self.end(key, at, Some(error_type(fields)), ended);
                self.begin_step(key.attempt(attempt + 1), origin, attempt + 1, at.max(*due_at));
                self.suppose();
            }
            (RunStarted(model) | TeamRunStarted(model), Some(record)) => self.begin_agent(record, model, origin, at),
            (RunCompleted(_) | TeamRunCompleted(_), Some(Record::Run { key, .. })) => {
                self.end(&outer(key), at, None, ended);
            }
            (RunError(failed) | TeamRunError(failed), Some(Record::Run { key, .. })) => {
                self.end(&outer(key), at, Some(Arc::from(&*failed.error_type)), ended);
            }
            (
                ModelRequestStarted(model) | TeamModelRequestStarted(model),
                Some(Record::Intent { key, .. } | Record::Reserved { key, .. }),
            ) => {
                self.begin_model(key.clone(), model, origin, at);
            }
            (ModelRequestCompleted(done) | TeamModelRequestCompleted(done), Some(Record::Result { key, .. })) => {
                self.count(key, done);
                self.end(key, at, None, ended);
            }
            (CustomEvent { fields }, Some(Record::Result { key, .. })) if is_named(fields, "ModelFallback") => {
                self.end(key, at, Some(error_type(fields)), ended);
            }
            (CustomEvent { fields }, None) if is_named(fields, "ModelRequestRetrying") => {
                self.retry_model(fields, origin, at, ended);
            }
            (ToolCallStarted(event) | TeamToolCallStarted(event), Some(Record::Intent { key, .. })) => {
                self.begin_tool(key.clone(), &event.tool, at);
            }
            (ToolCallCompleted(event) | TeamToolCallCompleted(event), Some(Record::Result { key, .. })) => {
                let failed = event.tool.tool_call_error == Some(true);
                self.end(key, at, failed.then(|| Arc::from(TOOL_ERROR)), ended);
            }
            (_, Some(Record::Waiting { key, .. })) => self.pause(key, at, ended),
            (WorkflowPaused { .. }, _) => self.pause(&Key::run(), at, ended),
            (WorkflowCancelled { .. }, _) => {
                self.is_cancelled = true;
                self.end_all_inside(at, RunStatus::Cancelled, ended);
            }
            (WorkflowError { error_type, .. }, _) if entry.event.is_terminal() => {
                let error = Arc::from(error_type.as_deref().unwrap_or(OTHER));
                self.end_run(at, RunStatus::Error, Some(error), ended);
            }
            (WorkflowCompleted(_), _) if entry.event.is_terminal() => {
                let status = if self.is_cancelled { RunStatus::Cancelled } else { RunStatus::Completed };
                self.end_run(at, status, None, ended);
            }
            // Text, progress reports, and what a step says about a failure before its end is recorded.
            _ => {}
        }
    }

    fn begin_run(&mut self, at: Timestamp) {
        let name = self.run.workflow_name.clone();
        let id = self.run.workflow_id.to_shared();
        let attributes = vec![
            operation("invoke_workflow"),
            text("gen_ai.workflow.name", name.clone()),
            text("outlive.workflow_id", id),
        ];
        self.begin(Work::Run, Key::run(), 1, format!("invoke_workflow {name}"), attributes, at);
    }

    fn begin_step(&mut self, key: Key, origin: &Origin, attempt: u32, at: Timestamp) {
        let name = origin.step_name.clone().unwrap_or_default();
        let mut attributes = vec![text("outlive.step.name", name.clone()), number("outlive.attempt", attempt.into())];
        attributes.extend(origin.step_id.clone().map(|id| text("outlive.step.id", id)));
        self.begin(Work::Step, key, 1, format!("step {name}"), attributes, at);
    }

    fn begin_agent(&mut self, record: &Record, model: &ModelInfo, origin: &Origin, at: Timestamp) {
        let Some(key) = record.key().map(outer) else { return };
        let name = origin.agent_name.clone().or_else(|| origin.team_name.clone()).unwrap_or_default();
        let id = origin.agent_id.as_ref().or(origin.team_id.as_ref());
        let mut attributes = vec![operation("invoke_agent"), text("gen_ai.agent.name", name.clone())];
        attributes.extend(id.map(|id| text("gen_ai.agent.id", id.to_shared())));
        attributes.extend(of_model(model));
        self.begin(Work::Agent, key, 1, format!("invoke_agent {name}"), attributes, at);
        self.speaks(origin);
    }

    fn begin_model(&mut self, key: Key, model: &ModelInfo, origin: &Origin, at: Timestamp) {
        let mut attributes = vec![operation("chat"), number("outlive.attempt", 1)];
        attributes.extend(of_model(model));
        self.begin(Work::Model, key, 1, format!("chat {}", model.model), attributes, at);
        self.speaks(origin);
    }

    fn begin_tool(&mut self, key: Key, tool: &ToolExecution, at: Timestamp) {
        let work = if is_delegation(tool) { Work::Delegation } else { Work::Tool };
        let name = given(&tool.tool_name);
        let attributes = vec![
            operation("execute_tool"),
            number("outlive.attempt", 1),
            text("gen_ai.tool.name", name.clone()),
            text("gen_ai.tool.call.id", given(&tool.tool_call_id)),
        ];
        self.begin(work, key, 1, format!("execute_tool {name}"), attributes, at);
    }

    fn begin(
        &mut self,
        work: Work,
        key: Key,
        attempt: u32,
        name: String,
        attributes: Vec<(&'static str, AttributeValue)>,
        start: Timestamp,
    ) {
        let parent = self.around(&key).map(|place| &self.open[place]);
        let parent = parent.map(|parent| SpanId::of(&self.run.run_id, &parent.key, parent.attempt));
        self.open.push(Open {
            work,
            key,
            attempt,
            parent,
            name,
            start,
            run_id: None,
            attributes,
            failed_inside: None,
            is_supposed: false,
        });
    }

    /// What was begun last is a run's, or a call of that run.
    fn speaks(&mut self, origin: &Origin) {
        if let Some(open) = self.open.last_mut() {
            open.run_id.clone_from(&origin.run_id);
        }
    }

    fn suppose(&mut self) {
        if let Some(open) = self.open.last_mut() {
            open.is_supposed = true;
        }
    }

    /// The index of the innermost span around a key. Nothing happens inside a call to a model or a tool.
    fn around(&self, key: &Key) -> Option<usize> {
        let around = self.open.iter().enumerate();
        let around = around.filter(|(_, open)| !open.work.is_call() && key.is_inside(&open.key));
        around.max_by_key(|(_, open)| open.key.as_str().len()).map(|(place, _)| place)
    }

    /// Ends the span of a key and, with the same outcome, whatever is still open inside it.
    fn end(&mut self, key: &Key, at: Timestamp, error: Option<Arc<str>>, ended: &mut Vec<Span>) {
        if let Some(open) = self.open.iter_mut().find(|open| open.key == *key) {
            open.is_supposed = false;
        }
        let is_meant = |open: &Open| open.key == *key || open.key.is_inside(key);
        self.end_those(is_meant, at, error.as_ref(), ended);
        if let (Some(error), Some(around)) = (error, self.around(key)) {
            self.open[around].failed_inside = Some(error);
        }
    }

    fn end_those(
        &mut self,
        is_meant: impl Fn(&Open) -> bool,
        at: Timestamp,
        error: Option<&Arc<str>>,
        ended: &mut Vec<Span>,
    ) -> Vec<Open> {
        let (meant, left) = std::mem::take(&mut self.open).into_iter().partition(is_meant);
        self.open = left;
        ended.extend(meant.iter().rev().filter_map(|open: &Open| self.span(open, at, error.cloned())));
        meant
    }

    fn end_step(&mut self, key: &Key, output: &StepOutput, at: Timestamp, ended: &mut Vec<Span>) {
        let step = self.open.iter().find(|open| open.key == *key);
        let reason = step.and_then(|step| step.failed_inside.clone());
        let error = (!output.success).then(|| reason.unwrap_or_else(|| Arc::from(OTHER)));
        self.end(key, at, error, ended);
    }

    fn end_all_inside(&mut self, at: Timestamp, status: RunStatus, ended: &mut Vec<Span>) {
        let error = Arc::from(status.as_str().to_ascii_lowercase());
        self.end_those(|open| open.work != Work::Run, at, Some(&error), ended);
    }

    fn end_run(&mut self, at: Timestamp, status: RunStatus, error: Option<Arc<str>>, ended: &mut Vec<Span>) {
        let claims = self.claims.max(1);
        if let Some(run) = self.open.first_mut() {
            run.attributes
                .extend([number("outlive.attempt", claims.into()), text("outlive.status", Arc::from(status.as_str()))]);
        }
        self.end(&Key::run(), at, error, ended);
        self.is_over = true;
    }

    /// The run continues after its process ended: calls without an answer are made again.
    fn abort_calls(&mut self, at: Timestamp, ended: &mut Vec<Span>) {
        let aborted = self.end_those(|open| open.work.is_call(), at, Some(&Arc::from(ATTEMPT_ABORTED)), ended);
        self.open.extend(aborted.into_iter().map(|open| open.again(at)));
    }

    fn retry_model(&mut self, fields: &Map<String, Value>, origin: &Origin, at: Timestamp, ended: &mut Vec<Span>) {
        let is_meant = |open: &Open| open.work == Work::Model && open.run_id == origin.run_id;
        let due_at = fields.get("due_at").and_then(Value::as_i64).map_or(at, Timestamp::from_seconds);
        let failed = self.end_those(is_meant, at, Some(&error_type(fields)), ended);
        self.open.extend(failed.into_iter().map(|open| open.again(at.max(due_at))));
    }

    /// Calls in flight inside this are dropped. One that the resume assumed would be made again was not: that is why it
    /// waits.
    fn pause(&mut self, key: &Key, at: Timestamp, ended: &mut Vec<Span>) {
        let is_meant = |open: &Open| open.work.is_call() && open.key.is_inside(key);
        self.open.retain(|open| !(is_meant(open) && open.is_supposed));
        self.end_those(is_meant, at, Some(&Arc::from(PAUSED)), ended);
    }

    fn count(&mut self, key: &Key, done: &ModelRequestDone) {
        if let Some(call) = self.open.iter_mut().find(|open| open.key == *key) {
            call.attributes.push(number("gen_ai.usage.input_tokens", done.input_tokens));
            call.attributes.push(number("gen_ai.usage.output_tokens", done.output_tokens));
        }
    }

    /// The span of something that ended; nothing when its time had not come.
    fn span(&self, open: &Open, at: Timestamp, error: Option<Arc<str>>) -> Option<Span> {
        if open.is_supposed && open.start > at {
            return None;
        }
        let mut attributes = open.attributes.clone();
        attributes.push(text("outlive.run_id", self.run.run_id.to_shared()));
        attributes.push(text("gen_ai.conversation.id", self.run.session_id.to_shared()));
        attributes.extend(error.clone().map(|error| text("error.type", error)));
        Some(Span {
            trace_id: TraceId::of(&self.run.run_id),
            span_id: SpanId::of(&self.run.run_id, &open.key, open.attempt),
            parent: open.parent,
            name: open.name.clone(),
            kind: if open.work == Work::Model { SpanKind::Client } else { SpanKind::Internal },
            // Two processes may disagree about the time.
            start: open.start.min(at),
            end: at,
            attributes,
            error,
        })
    }
}

impl Open {
    /// The next attempt at a call.
    fn again(self, start: Timestamp) -> Self {
        let mut next = Self { attempt: self.attempt + 1, start, is_supposed: true, ..self };
        for (name, value) in &mut next.attributes {
            if *name == "outlive.attempt" {
                *value = AttributeValue::Number(next.attempt.into());
            }
        }
        next
    }
}

fn text(name: &'static str, value: Arc<str>) -> (&'static str, AttributeValue) {
    (name, AttributeValue::Text(value))
}

fn number(name: &'static str, value: u64) -> (&'static str, AttributeValue) {
    (name, AttributeValue::Number(value))
}

fn operation(name: &str) -> (&'static str, AttributeValue) {
    text("gen_ai.operation.name", Arc::from(name))
}

/// The conventions have lower-case names for providers, and an older name for the same thing.
fn of_model(model: &ModelInfo) -> [(&'static str, AttributeValue); 3] {
    let provider: Arc<str> = Arc::from(model.model_provider.to_lowercase().replace(' ', "_"));
    [
        text("gen_ai.request.model", Arc::from(&*model.model)),
        text("gen_ai.provider.name", provider.clone()),
        text("gen_ai.system", provider),
    ]
}

/// A name that a model or its server may have made up: only a plain name is passed on.
fn given(name: &str) -> Arc<str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/@+".contains(c);
    let is_name = !name.is_empty() && name.len() <= GIVEN_NAME_LEN_MAX && name.chars().all(is_plain);
    Arc::from(if is_name { name } else { "unnamed" })
}

fn error_type(fields: &Map<String, Value>) -> Arc<str> {
    given(fields.get("error_type").and_then(Value::as_str).unwrap_or(OTHER))
}

/// Whether members work inside this call.
fn is_delegation(tool: &ToolExecution) -> bool {
    let is_of_several = || matches!(tool.tool_name.as_str(), DELEGATE_ALL_TOOL | "execute_tasks_parallel");
    tool.child_run_id.is_some() || is_of_several()
}

fn is_named(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get("name").and_then(Value::as_str) == Some(name)
}

/// The key of the run whose beginning or end a record is.
fn outer(key: &Key) -> Key {
    key.outer().unwrap_or_else(Key::run)
}
