//! What the world sees of a run: Agno's events, their names and their fields.
//!
//! An event has three parts, flat in JSON: its *kind* (the `event` field and the fields only that kind has), its
//! *origin* (the run, agent, team and step it is about) and its place in the log (`event_index`, set when the log is
//! read). Fields without a value are left out.

use crate::failure::{Failure, Refusal};
use crate::id::{DefinitionId, RunId, SessionId};
use crate::message::{FinishReason, ToolExecution};
use crate::metrics::{Metrics, RunMetrics, Usage};
use crate::run::{RunInfo, RunInput, RunOutput};
use crate::step::{ExecutorKind, StepIndex, StepOutput, content_type};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Which run, executor and step an event is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<DefinitionId>,
    /// Workflow events only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_name: Option<Arc<str>>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// Workflow events: the workflow's run. Agent and team events: the run of that agent or team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// Agent events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<DefinitionId>,
    /// Agent events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<Arc<str>>,
    /// Team events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<DefinitionId>,
    /// Team events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_name: Option<Arc<str>>,
    /// A member's events: the team's run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_run_id: Option<RunId>,
    /// Agent and team events inside a workflow: the workflow's run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_run_id: Option<RunId>,
    /// The step; the same in all events of one step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_id: Option<Arc<str>>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_name: Option<Arc<str>>,
    /// Its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_index: Option<StepIndex>,
    /// The container the step is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_step_id: Option<Arc<str>>,
    /// 0, plus 1 for each workflow that runs as a step of another.
    pub nested_depth: u32,
}

impl Origin {
    /// The origin of a workflow's own events.
    pub fn workflow(info: &RunInfo) -> Self {
        Self {
            workflow_id: Some(info.workflow_id.clone()),
            workflow_name: Some(info.workflow_name.clone()),
            session_id: Some(info.session_id.clone()),
            run_id: Some(info.run_id.clone()),
            ..Self::default()
        }
    }
}

/// The model behind an agent or team.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its id, for example `gpt-5.2`.
    pub model: String,
    /// Its provider, for example `OpenAI`.
    pub model_provider: String,
}

/// A model call that ended. Unlike [`Usage`] elsewhere, zero counts are written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelRequestDone {
    /// Its id.
    pub model: String,
    /// Its provider.
    pub model_provider: String,
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Their sum.
    pub total_tokens: u64,
    /// Seconds to the first token, when streamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_first_token: Option<f64>,
    /// Part of the answer spent on reasoning.
    pub reasoning_tokens: u64,
    /// Part of the prompt read from a cache.
    pub cache_read_tokens: u64,
    /// Part of the prompt written to a cache.
    pub cache_write_tokens: u64,
    /// What cut the answer short; absent when the model finished it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
}

impl ModelRequestDone {
    /// From the usage of an answer.
    pub fn new(model: &ModelInfo, usage: Usage, time_to_first_token: Option<f64>) -> Self {
        Self {
            model: model.model.clone(),
            model_provider: model.model_provider.clone(),
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            total_tokens: usage.total_tokens,
            time_to_first_token,
            reasoning_tokens: usage.reasoning_tokens,
            cache_read_tokens: usage.cache_read_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            finish_reason: None,
        }
    }

    /// The same for an answer that ended for this reason.
    pub fn ended(self, reason: FinishReason) -> Self {
        Self { finish_reason: reason.if_cut(), ..self }
    }
}

/// A piece of an agent's or team's answer while it streams.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContentDelta {
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// True when a workflow's own agent speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_agent: Option<bool>,
    /// `str`.
    pub content_type: String,
    /// Reasoning text.
    pub reasoning_content: String,
    /// Ids the provider gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_provider_data: Option<Value>,
}

/// A tool call that is about to start or has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolEvent {
    /// What happened, for people; absent at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The call.
    pub tool: Box<ToolExecution>,
}

/// A tool call that failed; follows its `ToolCallCompleted`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolErrorEvent {
    /// Why.
    pub error: String,
    /// The call.
    pub tool: Box<ToolExecution>,
}

/// An agent or team run that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunDone {
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// `str`, or the schema's name.
    pub content_type: String,
    /// Ids the provider gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_provider_data: Option<Value>,
    /// Teams: the members' runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_responses: Vec<Arc<RunOutput>>,
    /// The session's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_state: Option<Value>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// The caller's own data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// What cut the last answer short; absent when the model finished it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
}

impl RunDone {
    /// The end of this run.
    pub fn of(run: &RunOutput) -> Self {
        Self {
            content: run.content.clone(),
            content_type: run.content_type.clone(),
            model_provider_data: run.model_provider_data.clone(),
            member_responses: run.member_responses.clone(),
            session_state: run.session_state.clone(),
            metrics: run.metrics.clone(),
            metadata: run.metadata.clone(),
            finish_reason: run.finish_reason,
        }
    }

    /// Whether it is the end of this run.
    pub(crate) fn is_of(&self, run: &RunOutput) -> bool {
        let members = self.member_responses.iter().zip(&run.member_responses);
        self.content == run.content
            && self.content_type == run.content_type
            && self.model_provider_data == run.model_provider_data
            && self.member_responses.len() == run.member_responses.len()
            && members.into_iter().all(|(one, other)| Arc::ptr_eq(one, other) || one == other)
            && self.session_state == run.session_state
            && self.metrics == run.metrics
            && self.metadata == run.metadata
            && self.finish_reason == run.finish_reason
    }
}

/// An agent or team run that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFailed {
    /// Why.
    pub content: String,
    /// [`crate::FailureKind::code`].
    pub error_type: String,
    /// What a check refused.
    #[serde(flatten)]
    pub refusal: Option<Box<Refusal>>,
}

impl RunFailed {
    /// A run that ended with this failure.
    pub fn of(failure: &Failure) -> Self {
        Self {
            content: failure.message.clone(),
            error_type: failure.kind.code().to_owned(),
            refusal: failure.refusal.clone(),
        }
    }
}

/// A hook before a run that begins, or has let the run's input pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreHookEvent {
    /// Its name.
    pub pre_hook_name: Arc<str>,
    /// The input as all hooks have left it, at the end of the last; absent elsewhere, and when it is as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_input: Option<RunInput>,
}

/// A hook after a run that begins, or has let the run's output pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PostHookEvent {
    /// Its name.
    pub post_hook_name: Arc<str>,
}

/// An agent or team run that waits for somebody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunWaits {
    /// What for, in words.
    pub content: String,
    /// The calls it wants to make.
    pub tools: Vec<ToolExecution>,
    /// What has to be answered, as Agno's clients read it.
    pub requirements: Vec<Value>,
}

/// A workflow run that ended well, or was cancelled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkflowDone {
    /// The result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// `str`, or the class of a structured result.
    pub content_type: String,
    /// The caller's own data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RunMetrics>,
    /// The steps.
    #[serde(default)]
    pub step_results: Vec<Arc<StepOutput>>,
    /// The agent and team runs behind the steps, where a stream carries them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_executor_runs: Option<Vec<Arc<RunOutput>>>,
}

/// The names reserved in every event's JSON: [`RunEvent`]'s and [`Origin`]'s.
pub(crate) const COMMON_FIELDS: [&str; 18] = [
    "event",
    "created_at",
    "event_index",
    "workflow_id",
    "workflow_name",
    "session_id",
    "run_id",
    "agent_id",
    "agent_name",
    "team_id",
    "team_name",
    "parent_run_id",
    "workflow_run_id",
    "step_id",
    "step_name",
    "step_index",
    "parent_step_id",
    "nested_depth",
];

/// What happened. The variant's name is Agno's event name, which the `event` field holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
#[expect(missing_docs, reason = "the names are Agno's; the payloads document themselves")]
pub enum EventKind {
    WorkflowStarted,
    WorkflowCompleted(Box<WorkflowDone>),
    WorkflowError {
        error: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error_type: Option<String>,
        #[serde(flatten)]
        refusal: Option<Box<Refusal>>,
    },
    WorkflowCancelled {
        reason: String,
        content: String,
    },
    WorkflowPaused {
        status: String,
        paused_step_index: u32,
        paused_step_name: Arc<str>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pause_kind: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step_requirements: Option<Vec<Value>>,
        step_results: Vec<Arc<StepOutput>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step_executor_runs: Option<Vec<Arc<RunOutput>>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Value>,
    },
    /// The agent that leads the run begins.
    WorkflowAgentStarted,
    /// It has answered; `content` is its answer, which is the run's result where no step was needed.
    WorkflowAgentCompleted {
        content: Value,
    },
    StepStarted,
    StepOutput {
        step_output: Arc<StepOutput>,
    },
    StepCompleted {
        content: Value,
        content_type: String,
        step_response: Arc<StepOutput>,
    },
    StepError {
        error: String,
    },
    StepPaused {
        requires_confirmation: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirmation_message: Option<Arc<str>>,
        requires_user_input: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_input_message: Option<Arc<str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_input_schema: Option<Vec<Value>>,
    },
    StepContinued,
    StepOutputReview {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_review_message: Option<Arc<str>>,
        requires_output_review: bool,
    },
    StepExecutorPaused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        executor_id: Option<Arc<str>>,
        executor_name: Arc<str>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        executor_run_id: Option<Arc<str>>,
        executor_type: ExecutorKind,
        executor_requirements: Vec<Value>,
    },
    StepExecutorContinued {
        executor_name: Arc<str>,
        executor_type: ExecutorKind,
    },
    RouterPaused {
        available_choices: Vec<Arc<str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_input_message: Option<Arc<str>>,
        allow_multiple_selections: bool,
    },
    StepProgress {
        attempt: u32,
        content: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Value>,
    },
    StepsExecutionStarted {
        steps_count: u32,
    },
    StepsExecutionCompleted {
        steps_count: u32,
        executed_steps: u32,
        step_results: Vec<Arc<StepOutput>>,
    },
    ParallelExecutionStarted {
        parallel_step_count: u32,
    },
    ParallelExecutionCompleted {
        parallel_step_count: u32,
        step_results: Vec<Arc<StepOutput>>,
    },
    ConditionExecutionStarted {
        condition_result: bool,
    },
    ConditionExecutionCompleted {
        condition_result: bool,
        executed_steps: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<String>,
        step_results: Vec<Arc<StepOutput>>,
    },
    LoopExecutionStarted {
        max_iterations: u32,
    },
    LoopIterationStarted {
        iteration: u32,
        max_iterations: u32,
    },
    LoopIterationCompleted {
        iteration: u32,
        max_iterations: u32,
        should_continue: bool,
        iteration_results: Vec<Arc<StepOutput>>,
    },
    LoopExecutionCompleted {
        total_iterations: u32,
        max_iterations: u32,
        all_results: Vec<Vec<Arc<StepOutput>>>,
    },
    RouterExecutionStarted {
        selected_steps: Vec<Arc<str>>,
    },
    RouterExecutionCompleted {
        selected_steps: Vec<Arc<str>>,
        executed_steps: u32,
        step_results: Vec<Arc<StepOutput>>,
    },
    /// An event of the user's own, or of ours that Agno has no name for: `fields` lie flat beside the common ones.
    CustomEvent {
        #[serde(flatten, deserialize_with = "own_fields")]
        fields: Map<String, Value>,
    },
    PreHookStarted(PreHookEvent),
    PreHookCompleted(PreHookEvent),
    PostHookStarted(PostHookEvent),
    PostHookCompleted(PostHookEvent),
    RunStarted(ModelInfo),
    RunContent(ContentDelta),
    RunContentCompleted,
    RunCompleted(Box<RunDone>),
    RunError(RunFailed),
    RunPaused(RunWaits),
    RunContinued,
    ModelRequestStarted(ModelInfo),
    ModelRequestCompleted(ModelRequestDone),
    ToolCallStarted(ToolEvent),
    ToolCallCompleted(ToolEvent),
    ToolCallError(ToolErrorEvent),
    TeamPreHookStarted(PreHookEvent),
    TeamPreHookCompleted(PreHookEvent),
    TeamPostHookStarted(PostHookEvent),
    TeamPostHookCompleted(PostHookEvent),
    TeamRunStarted(ModelInfo),
    TeamRunContent(ContentDelta),
    TeamRunContentCompleted,
    TeamRunCompleted(Box<RunDone>),
    TeamRunError(RunFailed),
    TeamRunPaused(RunWaits),
    TeamRunContinued,
    TeamModelRequestStarted(ModelInfo),
    TeamModelRequestCompleted(ModelRequestDone),
    TeamToolCallStarted(ToolEvent),
    TeamToolCallCompleted(ToolEvent),
    TeamToolCallError(ToolErrorEvent),
}

/// The fields of a custom event without the common ones. Both lie flat in one object, so serde offers the common ones
/// here too; kept, they would be written twice.
fn own_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let mut fields = Map::deserialize(deserializer)?;
    fields.retain(|name, _| !COMMON_FIELDS.contains(&name.as_str()));
    Ok(fields)
}

impl EventKind {
    /// A step that succeeded with this output.
    pub(crate) fn step_completed(output: Arc<StepOutput>) -> Self {
        Self::StepCompleted {
            content: output.content.clone().unwrap_or(Value::Null),
            content_type: content_type(output.content.as_ref()).to_owned(),
            step_response: output,
        }
    }

    /// Agno's name of this event.
    pub fn name(&self) -> &'static str {
        use EventKind::*;
        match self {
            WorkflowStarted => "WorkflowStarted",
            WorkflowCompleted(_) => "WorkflowCompleted",
            WorkflowError { .. } => "WorkflowError",
            WorkflowCancelled { .. } => "WorkflowCancelled",
            WorkflowPaused { .. } => "WorkflowPaused",
            WorkflowAgentStarted => "WorkflowAgentStarted",
            WorkflowAgentCompleted { .. } => "WorkflowAgentCompleted",
            StepStarted => "StepStarted",
            StepOutput { .. } => "StepOutput",
            StepCompleted { .. } => "StepCompleted",
            StepError { .. } => "StepError",
            StepPaused { .. } => "StepPaused",
            StepContinued => "StepContinued",
            StepOutputReview { .. } => "StepOutputReview",
            StepExecutorPaused { .. } => "StepExecutorPaused",
            StepExecutorContinued { .. } => "StepExecutorContinued",
            RouterPaused { .. } => "RouterPaused",
            StepProgress { .. } => "StepProgress",
            StepsExecutionStarted { .. } => "StepsExecutionStarted",
            StepsExecutionCompleted { .. } => "StepsExecutionCompleted",
            ParallelExecutionStarted { .. } => "ParallelExecutionStarted",
            ParallelExecutionCompleted { .. } => "ParallelExecutionCompleted",
            ConditionExecutionStarted { .. } => "ConditionExecutionStarted",
            ConditionExecutionCompleted { .. } => "ConditionExecutionCompleted",
            LoopExecutionStarted { .. } => "LoopExecutionStarted",
            LoopIterationStarted { .. } => "LoopIterationStarted",
            LoopIterationCompleted { .. } => "LoopIterationCompleted",
            LoopExecutionCompleted { .. } => "LoopExecutionCompleted",
            RouterExecutionStarted { .. } => "RouterExecutionStarted",
            RouterExecutionCompleted { .. } => "RouterExecutionCompleted",
            CustomEvent { .. } => "CustomEvent",
            PreHookStarted(_) => "PreHookStarted",
            PreHookCompleted(_) => "PreHookCompleted",
            PostHookStarted(_) => "PostHookStarted",
            PostHookCompleted(_) => "PostHookCompleted",
            RunStarted(_) => "RunStarted",
            RunContent(_) => "RunContent",
            RunContentCompleted => "RunContentCompleted",
            RunCompleted(_) => "RunCompleted",
            RunError(_) => "RunError",
            RunPaused(_) => "RunPaused",
            RunContinued => "RunContinued",
            ModelRequestStarted(_) => "ModelRequestStarted",
            ModelRequestCompleted(_) => "ModelRequestCompleted",
            ToolCallStarted(_) => "ToolCallStarted",
            ToolCallCompleted(_) => "ToolCallCompleted",
            ToolCallError(_) => "ToolCallError",
            TeamPreHookStarted(_) => "TeamPreHookStarted",
            TeamPreHookCompleted(_) => "TeamPreHookCompleted",
            TeamPostHookStarted(_) => "TeamPostHookStarted",
            TeamPostHookCompleted(_) => "TeamPostHookCompleted",
            TeamRunStarted(_) => "TeamRunStarted",
            TeamRunContent(_) => "TeamRunContent",
            TeamRunContentCompleted => "TeamRunContentCompleted",
            TeamRunCompleted(_) => "TeamRunCompleted",
            TeamRunError(_) => "TeamRunError",
            TeamRunPaused(_) => "TeamRunPaused",
            TeamRunContinued => "TeamRunContinued",
            TeamModelRequestStarted(_) => "TeamModelRequestStarted",
            TeamModelRequestCompleted(_) => "TeamModelRequestCompleted",
            TeamToolCallStarted(_) => "TeamToolCallStarted",
            TeamToolCallCompleted(_) => "TeamToolCallCompleted",
            TeamToolCallError(_) => "TeamToolCallError",
        }
    }
}

/// One event of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEvent {
    /// Seconds since 1970.
    pub created_at: i64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
    /// Where.
    #[serde(flatten)]
    pub origin: Origin,
    /// Its place in the run's log, from 0 without a gap. Not stored: the log knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_index: Option<u64>,
}

impl RunEvent {
    /// Agno's name of this event.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// The terminal event of its run: nothing follows it.
    pub fn is_terminal(&self) -> bool {
        let ends = matches!(self.kind, EventKind::WorkflowCompleted(_) | EventKind::WorkflowError { .. });
        ends && self.origin.nested_depth == 0
    }
}
