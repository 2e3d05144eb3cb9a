//! The workflow machine: which step is next, and what the log says about it.
//!
//! It never trusts its memory over the log: every change goes through [`WorkflowMachine::apply`], whether the entry was
//! just made or read back after a crash, so both ways end in the same state.
//!
//! ```text
//!            say StepStarted                 Step recorded
//! Ready ───────────────────────► Executing ───────────────► Ready (next step) … Ended
//!   ▲                                │
//!   └──────── due ◄─── Waiting ◄─────┘ Retry recorded
//! ```

use crate::event::{EventKind, Origin, RunEvent};
use crate::failure::{Failure, FailureKind};
use crate::log::{Entry, Key, Pause, Record, Rest};
use crate::metrics::{RunMetrics, StepMetrics};
use crate::port::{Executed, StepInfo};
use crate::run::{RunInfo, RunOutput, RunStatus, WorkflowRunOutput};
use crate::step::{Attachments, ExecutorKind, Outputs, StepIndex, StepInput, StepOutput, StepType};
use crate::time::Timestamp;
use crate::workflow::{Node, OnError, StepNode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Where the run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Phase {
    /// Nothing has been said yet.
    Fresh,
    /// The step at `at` may start.
    Ready,
    /// Its start is in the log, its end is not.
    Executing,
    /// It failed and may start again at the given time.
    Waiting(Timestamp),
    /// A terminal event is in the log, or a pause.
    Ended(RunStatus),
}

/// One run of one workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkflowMachine {
    info: Arc<RunInfo>,
    input: Option<Value>,
    attachments: Attachments,
    nodes: Arc<[Node]>,
    is_bound: bool,
    created_at: i64,
    started_at: Option<Timestamp>,
    last_at: Timestamp,
    phase: Phase,
    at: usize,
    attempt: u32,
    outputs: Vec<Arc<StepOutput>>,
    /// The same by name, for the next step.
    by_name: Outputs,
    runs: Vec<Arc<RunOutput>>,
    rest: Option<Box<Rest>>,
}

/// What the machine wants said, and done after that.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Entries to append and apply first.
    pub say: Vec<Entry>,
    /// What to do once they are durable.
    pub then: Then,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Then {
    /// Execute a step and hand its end to [`WorkflowMachine::settle`].
    Execute(Box<Execute>),
    /// Wait until this time.
    Wait(Timestamp),
    /// The run is over, or paused.
    End(RunStatus),
}

/// One attempt at one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Execute {
    /// Its place in the top-level sequence.
    pub step: usize,
    /// Facts for the executor.
    pub info: Arc<StepInfo>,
    /// What it is given.
    pub input: Arc<StepInput>,
    /// Longest time for it, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// What runs inside. A function may affect the outside world as soon as it starts; agents and teams wait for
    /// durability themselves, before each call.
    pub executor_type: ExecutorKind,
}

/// The log belongs to another definition than this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("definition changed: entry {event_index} names step {found:?}, this definition has {expected} there")]
pub struct Mismatch {
    /// The first entry that does not fit.
    pub event_index: u64,
    /// The step it names.
    pub found: String,
    /// What this definition has in its place.
    pub expected: String,
}

impl WorkflowMachine {
    /// A run nobody has started. Without the definition's `nodes`, the log can be folded and the run ended, but no
    /// more.
    pub fn new(
        info: Arc<RunInfo>,
        nodes: Option<Arc<[Node]>>,
        input: Option<Value>,
        attachments: Attachments,
        created_at: Timestamp,
    ) -> Self {
        Self {
            info,
            input,
            attachments,
            is_bound: nodes.is_some(),
            nodes: nodes.unwrap_or_else(|| Arc::from([])),
            created_at: created_at.as_seconds(),
            started_at: None,
            last_at: created_at,
            phase: Phase::Fresh,
            at: 0,
            attempt: 1,
            outputs: Vec::new(),
            by_name: Outputs::new_sync(),
            runs: Vec::new(),
            rest: None,
        }
    }

    /// Applies one entry, in log order.
    ///
    /// # Errors
    /// [`Mismatch`] when the entry names a step that this definition does not have at that place.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Mismatch> {
        match &entry.record {
            Some(Record::Claimed { at, .. }) => {
                self.started_at.get_or_insert(*at);
                self.last_at = *at;
                if self.phase == Phase::Fresh {
                    self.phase = Phase::Ready;
                }
            }
            Some(Record::Intent { name: Some(name), .. }) => {
                self.expect_step(entry, name)?;
                self.phase = Phase::Executing;
            }
            Some(Record::Step { output, run, .. }) => {
                self.expect_step(entry, output.step_name.as_deref().unwrap_or_default())?;
                self.runs.extend(run.clone());
                self.outputs.push(output.clone());
                if let Some(name) = &output.step_name {
                    self.by_name.insert_mut(name.clone(), output.clone());
                }
                self.at = if output.stop { self.nodes.len() } else { self.at + 1 };
                self.attempt = 1;
                self.phase = Phase::Ready;
            }
            Some(Record::Failed { output, .. }) => self.outputs.push(output.clone()),
            Some(Record::Retry { attempt, due_at, .. }) => {
                self.attempt = attempt + 1;
                self.phase = Phase::Waiting(*due_at);
            }
            Some(Record::Rest(rest)) => self.rest(rest),
            // Calls inside a step.
            Some(
                Record::Intent { name: None, .. } | Record::Result { .. } | Record::Said { .. } | Record::Run { .. },
            )
            | None => {}
        }
        Ok(())
    }

    fn rest(&mut self, rest: &Rest) {
        self.last_at = rest.at;
        self.phase = Phase::Ended(rest.status);
        let mut rest = Box::new(rest.clone());
        // Entries of the format before this one say less.
        match rest.status {
            RunStatus::Completed | RunStatus::Cancelled => self.outputs.clone_from(&rest.results),
            _ => rest.results.clone_from(&self.outputs),
        }
        rest.runs.clone_from(&self.runs);
        rest.metrics.get_or_insert_with(|| self.metrics(self.last_at));
        self.rest = Some(rest);
    }

    fn expect_step(&self, entry: &Entry, found: &str) -> Result<(), Mismatch> {
        let node = self.nodes.get(self.at).map(|node| &**node.name());
        if node == Some(found) || !self.is_bound {
            return Ok(());
        }
        Err(Mismatch {
            event_index: entry.event.event_index.unwrap_or_default(),
            found: found.to_owned(),
            expected: node.map_or_else(|| "no step".to_owned(), |name| format!("step {name:?}")),
        })
    }

    /// What is next. `claim` goes into the run's first entry.
    pub fn next(&self, claim: &Record, at: Timestamp) -> Decision {
        match &self.phase {
            Phase::Fresh => {
                let started = Entry::recorded(self.event(EventKind::WorkflowStarted, at), claim.clone());
                let mut decision = self.start_step(at);
                decision.say.insert(0, started);
                decision
            }
            Phase::Ready => self.start_step(at),
            Phase::Waiting(due) if *due > at => Decision { say: Vec::new(), then: Then::Wait(*due) },
            Phase::Executing | Phase::Waiting(_) => {
                let node = self.step().expect("a step whose start is in the log exists: expect_step has seen it");
                Decision { say: Vec::new(), then: self.execute(node) }
            }
            Phase::Ended(status) => Decision { say: Vec::new(), then: Then::End(*status) },
        }
    }

    /// The entries that end the attempt in progress.
    ///
    /// `state` is what the step changed in the session; `chance` decides the jitter of a back-off.
    pub fn settle(
        &self,
        result: Result<Executed, Failure>,
        state: Option<Value>,
        chance: u64,
        at: Timestamp,
    ) -> Vec<Entry> {
        let Some(node) = self.step() else { return Vec::new() };
        let key = self.step_key();
        match result {
            Ok(executed) => self.succeeded(node, executed, state, key, at),
            Err(failure) if failure.retryable && self.attempt <= node.retry.times => {
                let due_at = at + node.retry.wait(self.attempt, failure.retry_after_ms, chance);
                let mut fields = Map::new();
                fields.insert("name".into(), json!("StepRetrying"));
                fields.insert("error".into(), json!(failure.message));
                fields.insert("error_type".into(), json!(failure.kind.code()));
                fields.insert("failed_attempt".into(), json!(self.attempt));
                fields.insert("due_at".into(), json!(due_at.as_seconds()));
                let event = self.step_event(node, EventKind::CustomEvent { fields }, at);
                vec![Entry::recorded(event, Record::Retry { key, attempt: self.attempt, due_at })]
            }
            Err(failure) if failure.kind == FailureKind::OutcomeUnknown => vec![self.paused(node, &failure, at)],
            Err(failure) if node.on_error == OnError::Skip => {
                let content = format!("Step skipped due to error: {}", failure.message);
                let output = Arc::new(self.failed(node, &content, &failure));
                let event = self.step_event(node, EventKind::StepOutput { step_output: output.clone() }, at);
                vec![Entry::recorded(event, Record::Step { key, output, run: None, state: None })]
            }
            Err(failure) => {
                let error = EventKind::StepError { error: failure.message.clone() };
                let output = Arc::new(self.failed(node, &failure.message, &failure));
                let mut results = self.outputs.clone();
                results.push(output.clone());
                vec![
                    Entry::recorded(self.step_event(node, error, at), Record::Failed { key, output }),
                    self.failed_with(results, &failure, at),
                ]
            }
        }
    }

    fn succeeded(
        &self,
        node: &StepNode,
        executed: Executed,
        state: Option<Value>,
        key: Key,
        at: Timestamp,
    ) -> Vec<Entry> {
        let origin = self.step_origin(node);
        let output = Arc::new(StepOutput {
            step_name: origin.step_name.clone(),
            step_id: origin.step_id.clone(),
            step_type: StepType::Step,
            executor_type: Some(node.executor_type),
            executor_name: Some(node.executor_name.clone()),
            ..executed.output
        });
        let record = Record::Step { key, output: output.clone(), run: executed.run, state };
        let event = |kind| RunEvent { created_at: at.as_seconds(), kind, origin: origin.clone(), event_index: None };
        let said = event(EventKind::StepOutput { step_output: output.clone() });
        if output.stop {
            return vec![Entry::recorded(said, record)];
        }
        let completed = event(EventKind::step_completed(output));
        match node.executor_type {
            ExecutorKind::Function => vec![Entry::recorded(said, record), Entry::event(completed)],
            _ => vec![Entry::recorded(completed, record)],
        }
    }

    fn failed(&self, node: &StepNode, content: &str, failure: &Failure) -> StepOutput {
        StepOutput::failed(Some(node.name.clone()), Some(self.step_id()), content, &failure.message)
    }

    /// The entries that end the run because someone asked; `partial` is what the step in progress had written so far.
    pub fn cancel(&self, reason: &str, partial: Option<String>, claim: &Record, at: Timestamp) -> Vec<Entry> {
        let content = format!("Run {} was cancelled", self.info.run_id);
        let cancelled = EventKind::WorkflowCancelled { reason: reason.to_owned(), content: content.clone() };
        let mut step_results = self.outputs.clone();
        if let (Phase::Executing | Phase::Waiting(_), Some(node)) = (&self.phase, self.step()) {
            step_results.push(Arc::new(StepOutput {
                content: partial.map(Value::String),
                step_name: Some(node.name.clone()),
                step_id: Some(self.step_id()),
                executor_type: Some(node.executor_type),
                executor_name: Some(node.executor_name.clone()),
                success: false,
                error: Some("Cancelled during execution".to_owned()),
                ..StepOutput::default()
            }));
        }
        let rest = Rest {
            content: Some(Value::String(content)),
            was_pending: self.phase == Phase::Fresh,
            results: step_results,
            ..self.at_rest(RunStatus::Cancelled, at)
        };
        let first = match self.phase {
            Phase::Fresh => Entry::recorded(self.event(cancelled, at), claim.clone()),
            _ => Entry::event(self.event(cancelled, at)),
        };
        vec![first, self.completed_as(rest)]
    }

    /// The entries that end the run ERROR.
    pub fn fail(&self, failure: &Failure, at: Timestamp) -> Vec<Entry> {
        vec![self.failed_with(self.outputs.clone(), failure, at)]
    }

    fn failed_with(&self, results: Vec<Arc<StepOutput>>, failure: &Failure, at: Timestamp) -> Entry {
        let error_type = Some(failure.kind.code().to_owned());
        let rest = Rest {
            content: Some(Value::String(failure.message.clone())),
            error_type: error_type.clone(),
            results,
            ..self.at_rest(RunStatus::Error, at)
        };
        let error = EventKind::WorkflowError { error: failure.message.clone(), error_type };
        Entry::recorded(self.event(error, at), Record::Rest(Box::new(rest)))
    }

    /// The entry that pauses the run because its definition is not the one the log speaks of.
    pub fn pause(&self, reason: &str, at: Timestamp) -> Entry {
        let name = self.step().map_or_else(|| Arc::from(""), |node| node.name.clone());
        self.paused_at(name, FailureKind::Definition, reason, at)
    }

    fn paused(&self, node: &StepNode, failure: &Failure, at: Timestamp) -> Entry {
        self.paused_at(node.name.clone(), failure.kind, &failure.message, at)
    }

    fn paused_at(&self, name: Arc<str>, kind: FailureKind, reason: &str, at: Timestamp) -> Entry {
        let pause = Pause {
            index: u32::try_from(self.at).unwrap_or(u32::MAX),
            name,
            kind: Some("executor".to_owned()),
            requirements: Some(vec![json!({ "reason": reason, "error_type": kind.code() })]),
        };
        let rest = Rest { pause: Some(pause), ..self.at_rest(RunStatus::Paused, at) };
        let event = rest.paused().expect("it says where");
        Entry::recorded(self.event(event, at), Record::Rest(Box::new(rest)))
    }

    /// The run as it stands when it comes to rest.
    fn at_rest(&self, status: RunStatus, at: Timestamp) -> Rest {
        Rest {
            metrics: Some(self.metrics(at)),
            metadata: self.metadata(),
            results: self.outputs.clone(),
            runs: self.runs.clone(),
            ..Rest::new(status, at)
        }
    }

    fn completed_as(&self, rest: Rest) -> Entry {
        let event = self.event(EventKind::WorkflowCompleted(Box::new(rest.done())), rest.at);
        Entry::recorded(event, Record::Rest(Box::new(rest)))
    }

    /// What the caller noted about the run.
    fn metadata(&self) -> Option<Value> {
        self.attachments.metadata.as_deref().cloned().map(Value::Object)
    }

    /// The entry that says a run goes on after its worker was lost. On seeing it, readers drop the partial text before
    /// it.
    pub fn resumed(&self, claim: &Record, attempt: u32, at: Timestamp) -> Entry {
        let mut fields = Map::new();
        fields.insert("name".into(), json!("RunResumed"));
        fields.insert("attempt".into(), json!(attempt));
        if let (Phase::Executing, Some(node)) = (&self.phase, self.step()) {
            fields.insert("paths".into(), json!([self.step_key()]));
            fields.insert("resumed_step".into(), json!(node.name));
        }
        Entry::recorded(self.event(EventKind::CustomEvent { fields }, at), claim.clone())
    }

    /// Where the run stands, once it has ended or paused.
    pub fn ended(&self) -> Option<RunStatus> {
        match self.phase {
            Phase::Ended(status) => Some(status),
            _ => None,
        }
    }

    /// Whether anything has been said yet.
    pub fn is_fresh(&self) -> bool {
        self.phase == Phase::Fresh
    }

    /// Facts about the run.
    pub fn info(&self) -> &Arc<RunInfo> {
        &self.info
    }

    /// When the run was first claimed.
    pub fn started_at(&self) -> Option<Timestamp> {
        self.started_at
    }

    /// The steps that ended so far.
    pub fn outputs(&self) -> &[Arc<StepOutput>] {
        &self.outputs
    }

    /// The step the run is at, for people: `1/2 Research Step`.
    pub fn progress(&self) -> String {
        match self.nodes.get(self.at) {
            Some(node) => format!("{}/{} {}", self.at + 1, self.nodes.len(), node.name()),
            None => format!("{0}/{0}", self.nodes.len()),
        }
    }

    /// How it came to rest.
    pub fn at_rest_as(&self) -> Option<&Rest> {
        self.rest.as_deref()
    }

    /// The run as a poll sees it.
    pub fn output(&self) -> WorkflowRunOutput {
        let (input, created_at) = (self.input.clone(), self.created_at);
        match &self.rest {
            Some(rest) => WorkflowRunOutput::at_rest(&self.info, input, created_at, (**rest).clone()),
            None => WorkflowRunOutput {
                status: if self.is_fresh() { RunStatus::Pending } else { RunStatus::Running },
                step_results: self.outputs.clone(),
                step_executor_runs: self.runs.clone(),
                metrics: Some(self.metrics(self.last_at)),
                ..WorkflowRunOutput::pending(&self.info, input, created_at)
            },
        }
    }

    fn metrics(&self, at: Timestamp) -> RunMetrics {
        let mut metrics = RunMetrics::default();
        for output in &self.outputs {
            let (Some(name), Some(kind), Some(executor)) =
                (&output.step_name, output.executor_type, &output.executor_name)
            else {
                continue;
            };
            if matches!(kind, ExecutorKind::Agent | ExecutorKind::Team) {
                let line = StepMetrics {
                    step_name: name.clone(),
                    executor_type: kind.as_str().to_owned(),
                    executor_name: executor.clone(),
                    metrics: output.metrics.clone(),
                };
                metrics.steps.insert(name.to_string(), line);
            }
        }
        metrics.duration = self.started_at.map(|start| at.since(start).as_secs_f64());
        metrics
    }

    fn completed(&self, at: Timestamp) -> Entry {
        self.completed_as(Rest { content: self.last_content(), ..self.at_rest(RunStatus::Completed, at) })
    }

    fn start_step(&self, at: Timestamp) -> Decision {
        match self.step() {
            Some(node) => Decision { say: vec![self.step_started(node, at)], then: self.execute(node) },
            None => Decision { say: vec![self.completed(at)], then: Then::End(RunStatus::Completed) },
        }
    }

    /// The content of the last step that succeeded: what a skipped step says about its failure does not count as
    /// content.
    fn last_content(&self) -> Option<Value> {
        self.outputs.iter().rfind(|output| output.success).and_then(|output| output.content.clone())
    }

    fn step(&self) -> Option<&StepNode> {
        match self.nodes.get(self.at)? {
            Node::Step(step) => Some(step),
            Node::Steps { .. }
            | Node::Parallel { .. }
            | Node::Loop { .. }
            | Node::Condition { .. }
            | Node::Router { .. }
            | Node::Workflow { .. } => unreachable!("build() makes sequences of steps only"),
        }
    }

    fn step_key(&self) -> Key {
        Key::step(u32::try_from(self.at).unwrap_or(u32::MAX)).attempt(self.attempt)
    }

    fn step_id(&self) -> Arc<str> {
        self.info.run_id.derive(&self.at.to_string())
    }

    fn step_index(&self) -> StepIndex {
        StepIndex::At(u32::try_from(self.at).unwrap_or(u32::MAX))
    }

    fn execute(&self, node: &StepNode) -> Then {
        let info = StepInfo {
            key: self.step_key(),
            step_id: self.step_id(),
            step_name: node.name.clone(),
            step_index: self.step_index(),
            attempt: self.attempt,
            origin: self.step_origin(node),
        };
        let input = StepInput {
            input: self.input.clone(),
            previous_step_outputs: self.by_name.clone(),
            previous_step_content: self.last_content(),
            additional_data: self.attachments.additional_data.clone(),
            images: self.attachments.images.clone(),
            videos: self.attachments.videos.clone(),
            audio: self.attachments.audio.clone(),
            files: self.attachments.files.clone(),
            metadata: self.attachments.metadata.clone(),
            dependencies: self.attachments.dependencies.clone(),
        };
        Then::Execute(Box::new(Execute {
            step: self.at,
            info: Arc::new(info),
            input: Arc::new(input),
            timeout_ms: node.timeout_ms,
            executor_type: node.executor_type,
        }))
    }

    fn step_started(&self, node: &StepNode, at: Timestamp) -> Entry {
        let event = self.step_event(node, EventKind::StepStarted, at);
        Entry::recorded(event, Record::Intent { key: self.step_key(), name: Some(node.name.clone()) })
    }

    fn event(&self, kind: EventKind, at: Timestamp) -> RunEvent {
        let origin = Origin::workflow(&self.info);
        RunEvent { created_at: at.as_seconds(), kind, origin, event_index: None }
    }

    fn step_event(&self, node: &StepNode, kind: EventKind, at: Timestamp) -> RunEvent {
        RunEvent { created_at: at.as_seconds(), kind, origin: self.step_origin(node), event_index: None }
    }

    fn step_origin(&self, node: &StepNode) -> Origin {
        Origin {
            step_id: Some(self.step_id()),
            step_name: Some(node.name.clone()),
            step_index: Some(self.step_index()),
            ..Origin::workflow(&self.info)
        }
    }
}
