//! An agent or a team served alone, seen through the one-step workflow that it runs as.
//!
//! Clients of `/agents` and `/teams` see the run of the agent or team alone: under the id of the workflow run, because
//! that is the id by which it is found again, and without anything that speaks of the workflow. What is asked beside the
//! calls that it wants to make is shown as if it were one. It must never know where events and runs come from. The
//! invariant: every run that ends or waits for people shows an event that says so.

use super::frame::Frame;
use super::run::{Shape, Standing, executor_run, without_nulls};
use outlive_core::{
    EventKind, Follows, Origin, RunEvent, RunId, RunOutput, RunStatus, ToolCall, ToolExecution, WorkflowRunOutput,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The events every such run's log begins with and no client sees: `WorkflowStarted`, `StepStarted`.
const HIDDEN: u64 = 2;

/// What the one step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// An agent.
    Agent,
    /// A team.
    Team,
}

/// Who a client spoke to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Face {
    /// An agent or a team.
    pub voice: Voice,
    /// Its id in paths.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The model's id, when it is known.
    pub model: Option<String>,
    /// The model's provider, when it is known.
    pub model_provider: Option<String>,
}

impl Face {
    pub(super) fn id_key(&self) -> &'static str {
        match self.voice {
            Voice::Agent => "agent_id",
            Voice::Team => "team_id",
        }
    }

    fn name_key(&self) -> &'static str {
        match self.voice {
            Voice::Agent => "agent_name",
            Voice::Team => "team_name",
        }
    }

    fn event(&self, name: &str) -> String {
        match self.voice {
            Voice::Agent => name.to_owned(),
            Voice::Team => format!("Team{name}"),
        }
    }
}

/// The index in the run's log that a client means by `shown`, the index of an event it saw.
pub fn log_index(shown: u64) -> u64 {
    shown.saturating_add(HIDDEN)
}

/// The index a client sees for the event at `index` of the run's log; also the length it sees of a log that long.
pub fn shown_index(index: u64) -> u64 {
    index.saturating_sub(HIDDEN)
}

/// A run's events as a client of `/agents` or `/teams` sees them. Give it the events in order.
#[derive(Clone, Debug)]
pub struct View {
    face: Face,
    /// Runs of members, whose ids are shown as they are.
    members: BTreeSet<RunId>,
    /// The agent has said how its run ended.
    has_ended: bool,
    /// What was answered.
    answered: BTreeSet<String>,
    /// How far this has told of a pause that the agent does not tell itself.
    pause: Pause,
}

/// A pause for what is asked beside calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    No,
    Told,
    Over,
}

impl View {
    /// A view on a run of this agent or team.
    pub fn new(face: Face) -> Self {
        Self { face, members: BTreeSet::new(), has_ended: false, answered: BTreeSet::new(), pause: Pause::No }
    }

    /// The event as the client sees it; nothing when it speaks of the workflow or its step.
    pub fn show(&mut self, event: RunEvent) -> Option<Frame> {
        let is_own = event.origin.parent_run_id.is_none();
        match &event.kind {
            EventKind::WorkflowStarted
            | EventKind::WorkflowCompleted(_)
            | EventKind::WorkflowAgentStarted
            | EventKind::WorkflowAgentCompleted { .. }
            | EventKind::StepStarted
            | EventKind::StepOutput { .. }
            | EventKind::StepCompleted { .. }
            | EventKind::StepError { .. }
            | EventKind::StepPaused { .. }
            | EventKind::StepOutputReview { .. }
            | EventKind::StepExecutorPaused { .. }
            | EventKind::StepExecutorContinued { .. }
            | EventKind::RouterPaused { .. }
            | EventKind::StepsExecutionStarted { .. }
            | EventKind::StepsExecutionCompleted { .. }
            | EventKind::ParallelExecutionStarted { .. }
            | EventKind::ParallelExecutionCompleted { .. }
            | EventKind::ConditionExecutionStarted { .. }
            | EventKind::ConditionExecutionCompleted { .. }
            | EventKind::LoopExecutionStarted { .. }
            | EventKind::LoopIterationStarted { .. }
            | EventKind::LoopIterationCompleted { .. }
            | EventKind::LoopExecutionCompleted { .. }
            | EventKind::RouterExecutionStarted { .. }
            | EventKind::RouterExecutionCompleted { .. } => return None,
            EventKind::WorkflowPaused { step_requirements, .. } => {
                return self.pauses(&event, step_requirements.as_deref().unwrap_or_default());
            }
            EventKind::StepContinued => {
                if self.pause != Pause::Told {
                    return None;
                }
                self.pause = Pause::Over;
                return Some(self.own(&event, "RunContinued", Map::new()));
            }
            EventKind::RunContinued | EventKind::TeamRunContinued
                if is_own && std::mem::replace(&mut self.pause, Pause::No) == Pause::Over =>
            {
                return None;
            }
            EventKind::CustomEvent { fields } if Follows::of(&event.kind).is_some() => {
                let id = fields.get("question_id").and_then(Value::as_str);
                self.answered.extend(id.map(str::to_owned));
            }
            EventKind::WorkflowCancelled { reason, .. } => {
                let body = self.ending(&event, "RunCancelled", "reason", reason);
                return Some(body);
            }
            EventKind::WorkflowError { error, .. } => {
                let body = self.ending(&event, "RunError", "content", error);
                return (!self.has_ended).then_some(body);
            }
            EventKind::RunStarted(_) | EventKind::TeamRunStarted(_) if is_own => self.has_ended = false,
            EventKind::RunError(_) | EventKind::TeamRunError(_) if is_own => self.has_ended = true,
            EventKind::StepProgress { .. }
            | EventKind::CustomEvent { .. }
            | EventKind::PreHookStarted(_)
            | EventKind::PreHookCompleted(_)
            | EventKind::PostHookStarted(_)
            | EventKind::PostHookCompleted(_)
            | EventKind::RunStarted(_)
            | EventKind::RunContent(_)
            | EventKind::RunContentCompleted
            | EventKind::RunCompleted(_)
            | EventKind::RunError(_)
            | EventKind::RunPaused(_)
            | EventKind::RunContinued
            | EventKind::ModelRequestStarted(_)
            | EventKind::ModelRequestCompleted(_)
            | EventKind::ToolCallStarted(_)
            | EventKind::ToolCallCompleted(_)
            | EventKind::ToolCallError(_)
            | EventKind::TeamPreHookStarted(_)
            | EventKind::TeamPreHookCompleted(_)
            | EventKind::TeamPostHookStarted(_)
            | EventKind::TeamPostHookCompleted(_)
            | EventKind::TeamRunStarted(_)
            | EventKind::TeamRunContent(_)
            | EventKind::TeamRunContentCompleted
            | EventKind::TeamRunCompleted(_)
            | EventKind::TeamRunError(_)
            | EventKind::TeamRunPaused(_)
            | EventKind::TeamRunContinued
            | EventKind::TeamModelRequestStarted(_)
            | EventKind::TeamModelRequestCompleted(_)
            | EventKind::TeamToolCallStarted(_)
            | EventKind::TeamToolCallCompleted(_)
            | EventKind::TeamToolCallError(_) => {}
        }
        let RunEvent { created_at, mut kind, origin, event_index } = event;
        if let EventKind::RunCompleted(done) | EventKind::TeamRunCompleted(done) = &mut kind {
            done.metadata = without_nothing(done.metadata.take());
            if origin.team_id.is_some() {
                done.session_state = without_nothing(done.session_state.take());
            }
        }
        let origin = self.origin(origin);
        Some(Frame::event(RunEvent { created_at, kind, origin, event_index: event_index.map(shown_index) }))
    }

    /// The same for a foreground stream: without an index.
    pub fn show_foreground(&mut self, mut event: RunEvent) -> Option<Frame> {
        event.event_index = None;
        self.show(event)
    }

    fn origin(&mut self, origin: Origin) -> Origin {
        let Origin { session_id, run_id, agent_id, agent_name, team_id, team_name, parent_run_id, .. } = origin;
        let outer = origin.workflow_run_id.or_else(|| run_id.clone());
        let (run_id, parent_run_id) = match parent_run_id {
            None => (outer, None),
            Some(parent) => {
                self.members.extend(run_id.clone());
                let parent = Some(parent).filter(|parent| self.members.contains(parent)).or(outer);
                (run_id, parent)
            }
        };
        Origin { session_id, run_id, agent_id, agent_name, team_id, team_name, parent_run_id, ..Origin::default() }
    }

    /// An end that only the workflow reported, in the agent's words.
    fn ending(&self, event: &RunEvent, name: &str, key: &str, text: &str) -> Frame {
        let error_type = match &event.kind {
            EventKind::WorkflowError { error_type, .. } => error_type.as_deref(),
            _ => None,
        };
        let fields = [(key.to_owned(), json!(text)), ("error_type".to_owned(), json!(error_type))];
        self.own(event, name, fields.into_iter().collect())
    }

    /// That the run waits for people, where the agent has not said so itself: for more than calls that it wants to make.
    fn pauses(&mut self, event: &RunEvent, steps: &[Value]) -> Option<Frame> {
        let open: Vec<Value> = requirements(steps, event.created_at)
            .into_iter()
            .filter(|asked| !asked["id"].as_str().is_some_and(|id| self.answered.contains(id)))
            .collect();
        let is_of_call = |asked: &Value| asked["tool_execution"]["tool_call_id"] != asked["id"];
        self.pause = if open.iter().all(is_of_call) { Pause::No } else { Pause::Told };
        if self.pause == Pause::No {
            return None;
        }
        let tools: Vec<&Value> = open.iter().map(|asked| &asked["tool_execution"]).collect();
        let told = tools.iter().filter_map(|tool| tool["tool_args"][MESSAGE].as_str());
        let fields = [
            ("content".to_owned(), json!(told.collect::<Vec<_>>().join("\n"))),
            ("tools".to_owned(), json!(tools)),
            ("requirements".to_owned(), json!(open)),
        ];
        Some(self.own(event, "RunPaused", fields.into_iter().collect()))
    }

    /// An event of the agent's, in place of one that speaks of the workflow.
    fn own(&self, event: &RunEvent, name: &str, fields: Map<String, Value>) -> Frame {
        let mut body = Map::new();
        body.insert("created_at".to_owned(), json!(event.created_at));
        body.insert("event".to_owned(), json!(self.face.event(name)));
        body.insert(self.face.id_key().to_owned(), json!(self.face.id));
        body.insert(self.face.name_key().to_owned(), json!(self.face.name));
        body.insert("run_id".to_owned(), json!(event.origin.run_id));
        body.insert("session_id".to_owned(), json!(event.origin.session_id));
        body.insert("nested_depth".to_owned(), json!(0));
        body.extend(fields);
        body.insert("event_index".to_owned(), json!(event.event_index.map(shown_index)));
        Frame::notice(without_nulls(Value::Object(body)))
    }
}

/// A run of an agent or team as a body.
pub fn run(run: &WorkflowRunOutput, face: &Face, shape: Shape, standing: Standing<'_>) -> Value {
    let asked = requirements(run.step_requirements.as_deref().unwrap_or_default(), run.created_at);
    let mut body = match own_run(run) {
        Some(own) => {
            let own = executor_run(&own, shape).asking(asked.iter().collect());
            serde_json::to_value(own).expect("a run has string keys only")
        }
        None => unfinished(run, face, shape, asked),
    };
    if let (Some(progress), RunStatus::Running) = (standing.progress, run.status) {
        body["progress"] = json!(progress);
    }
    body
}

/// The run of the agent or team itself, as its clients know it; nothing before it has ended.
pub fn own_run(run: &WorkflowRunOutput) -> Option<RunOutput> {
    let mut own = RunOutput::clone(run.step_executor_runs.last()?);
    for member in own.member_responses.iter_mut().map(Arc::make_mut) {
        member.parent_run_id = Some(run.run_id.clone());
        member.metadata = without_nothing(member.metadata.take());
    }
    if own.team_id.is_some() {
        own.session_state = without_nothing(own.session_state);
    }
    own.run_id = run.run_id.clone();
    own.parent_run_id = None;
    own.workflow_step_id = None;
    own.metadata = without_nothing(run.metadata.clone());
    own.status = run.status;
    own.cancellation_stage = run.cancellation_stage.clone();
    if run.status != RunStatus::Completed {
        own.content = run.content.clone().or(own.content);
    }
    Some(own)
}

/// The argument of a question that is shown as a call.
const MESSAGE: &str = "message";

/// What an agent or a team asks people, or asked them, as its clients answer it: about the calls that it wants to make,
/// and of whatever else it asks as if that were a call whose id is the question's.
fn requirements(steps: &[Value], at: i64) -> Vec<Value> {
    let of_step = |step: &Value| match step["executor_requirements"].as_array() {
        Some(calls) => calls.clone(),
        None => as_call(step, at).into_iter().collect(),
    };
    steps.iter().flat_map(of_step).collect()
}

fn as_call(step: &Value, at: i64) -> Option<Value> {
    let id = step["question_id"].as_str()?;
    let is_input = step["requires_user_input"] == true;
    let message = ["user_input_message", "confirmation_message", "reason"].iter().find_map(|name| step[name].as_str());
    let call = ToolCall::new(id, "ask", json!({ MESSAGE: message.unwrap_or_default() }).to_string());
    let call = ToolExecution {
        requires_confirmation: (!is_input).then_some(true),
        confirmed: step["confirmed"].as_bool(),
        confirmation_note: step["rejection_feedback"].as_str().map(str::to_owned),
        requires_user_input: is_input.then_some(true),
        user_input_schema: step.get("user_input_schema").cloned(),
        answered: step["user_input"].is_object().then_some(true),
        ..ToolExecution::started(&call, at)
    };
    let confirmation = step["confirmed"].clone();
    Some(without_nulls(json!({ "id": id, "tool_execution": call, "confirmation": confirmation })))
}

/// An object that holds something. Agno leaves empty ones out here, and writes them for the runs of a workflow's steps.
fn without_nothing(object: Option<Value>) -> Option<Value> {
    object.filter(|object| *object != json!({}))
}

/// A run that has not ended, or ended before the agent had anything to say.
fn unfinished(run: &WorkflowRunOutput, face: &Face, shape: Shape, asked: Vec<Value>) -> Value {
    let mut body = json!({
        "run_id": run.run_id,
        "session_id": run.session_id,
        "user_id": run.user_id,
        "content": run.content,
        "content_type": run.content_type,
        "model": face.model,
        "model_provider": face.model_provider,
        "created_at": run.created_at,
        "status": run.status,
        "cancellation_stage": run.cancellation_stage,
        "metrics": {},
        "metadata": without_nothing(run.metadata.clone()),
        "input": { "input_content": run.input },
    });
    body[face.id_key()] = json!(face.id);
    body[face.name_key()] = json!(face.name);
    if shape != Shape::Result {
        body["events"] = json!(run.events);
    }
    if !asked.is_empty() {
        body["requirements"] = Value::Array(asked);
    }
    if face.voice == Voice::Team {
        body["member_responses"] = json!([]);
    }
    without_nulls(body)
}
