//! Runs: their status and its one transition table, and what a reader of a run gets to see.

use crate::id::{DefinitionId, RunId, SessionId};
use crate::log::Rest;
use crate::message::{FinishReason, Media, Message, ToolExecution};
use crate::metrics::{Metrics, RunMetrics};
use crate::step::{StepInput, StepOutput, content_type};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// Where a run stands, in Agno's words and spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RunStatus {
    /// Accepted and on stable storage; nobody has started it.
    Pending,
    /// Claimed at least once, and not over.
    Running,
    /// Waiting for a person; holds no worker.
    Paused,
    /// Ended with a result.
    Completed,
    /// Ended because someone cancelled it.
    Cancelled,
    /// Ended because something failed.
    Error,
}

impl RunStatus {
    /// Every status, in the order of a run's life.
    pub const ALL: [RunStatus; 6] =
        [Self::Pending, Self::Running, Self::Paused, Self::Completed, Self::Cancelled, Self::Error];

    /// The one table of legal changes. A store refuses what it forbids.
    ///
    /// ```text
    /// Pending ──► Running ◄──► Paused    (from Pending too, when the first thing a run does is to ask)
    ///    │           │            │
    ///    ├───────────┼────────────┤
    ///    ▼           ▼            ▼
    ///   Completed (not from Paused; from Pending when a run executes nothing), Cancelled, Error
    /// ```
    pub const fn next(self) -> &'static [RunStatus] {
        use RunStatus::*;
        match self {
            Pending => &[Running, Paused, Completed, Cancelled, Error],
            Running => &[Paused, Completed, Cancelled, Error],
            Paused => &[Running, Cancelled, Error],
            Completed | Cancelled | Error => &[],
        }
    }

    /// Whether a run may go from this status to `to`. Staying is always allowed.
    pub fn may_become(self, to: RunStatus) -> bool {
        self == to || self.next().contains(&to)
    }

    /// COMPLETED, CANCELLED or ERROR: nothing ever changes again.
    pub const fn is_terminal(self) -> bool {
        self.next().is_empty()
    }

    /// Agno's spelling, upper case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Completed => "COMPLETED",
            Self::Cancelled => "CANCELLED",
            Self::Error => "ERROR",
        }
    }

    /// From Agno's spelling, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Facts about a run that never change; every event and every step refers to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The run.
    pub run_id: RunId,
    /// Its workflow.
    pub workflow_id: DefinitionId,
    /// The workflow's name when the run was accepted.
    pub workflow_name: Arc<str>,
    /// Its session.
    pub session_id: SessionId,
    /// Whose run it is, if the caller said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Arc<str>>,
}

/// The input of an agent or team run, as Agno nests it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInput {
    /// The text or object.
    pub input_content: Value,
}

/// One run of an agent or of a team. A team's has `team_id`, `team_name` and `member_responses`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunOutput {
    /// This run, not the workflow's.
    pub run_id: RunId,
    /// Set for an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<DefinitionId>,
    /// Set for an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<Arc<str>>,
    /// Set for a team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<DefinitionId>,
    /// Set for a team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_name: Option<Arc<str>>,
    /// The session, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The run this one belongs to: the workflow's, or for a member the team's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_run_id: Option<RunId>,
    /// Whose run it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Arc<str>>,
    /// The answer: text, or an object when an output schema was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// `str`, or the schema's name.
    pub content_type: String,
    /// The reasoning text, if the model shows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Ids the provider gave the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_provider_data: Option<Value>,
    /// The model's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The provider, for example `OpenAI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_provider: Option<String>,
    /// The session's state as the run saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_state: Option<Value>,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Where it stands.
    pub status: RunStatus,
    /// CANCELLED only: `PENDING` (before it started) or `EXECUTING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancellation_stage: Option<String>,
    /// The step it ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_step_id: Option<Arc<str>>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Kept for Agno's shape: an empty list in a stored run, absent in events. The events are in the workflow run's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<Value>>,
    /// The conversation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The caller's own data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// The tool calls made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolExecution>,
    /// What it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<RunInput>,
    /// Teams: the members' runs, in the order of the delegations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_responses: Vec<Arc<RunOutput>>,
    /// What cut the last answer short; absent when the model finished it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// Set for a workflow inside a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Box<NestedWorkflow>>,
}

/// What the run of a workflow inside a step has, and no agent's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NestedWorkflow {
    /// The workflow.
    pub workflow_id: DefinitionId,
    /// Its name.
    pub workflow_name: Arc<str>,
    /// What it worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// Its steps.
    #[serde(default)]
    pub step_results: Vec<Arc<StepOutput>>,
    /// What they used.
    #[serde(default)]
    pub metrics: RunMetrics,
}

/// A workflow run as a poll sees it: Agno's `WorkflowRunOutput`, same keys, same order, same rules of omission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkflowRunOutput {
    /// What was asked; absent when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// The result; why it failed when `status` is ERROR; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// `str`, or the class of a structured result.
    pub content_type: String,
    /// The workflow.
    pub workflow_id: DefinitionId,
    /// Its name.
    pub workflow_name: Arc<str>,
    /// The run.
    pub run_id: RunId,
    /// Its session.
    pub session_id: SessionId,
    /// Whose run it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Arc<str>>,
    /// Nested workflow runs only: the outer run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_run_id: Option<RunId>,
    /// Nested workflow runs only: the outer step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_step_id: Option<Arc<str>>,
    /// Seconds since 1970, when it was accepted.
    pub created_at: i64,
    /// Where it stands.
    pub status: RunStatus,
    /// CANCELLED only: `PENDING` (before it started), `EXECUTING`, or `PAUSED` (ended by the answer it paused for).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancellation_stage: Option<String>,
    /// PAUSED: the step that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_step_index: Option<u32>,
    /// PAUSED: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_step_name: Option<Arc<str>>,
    /// PAUSED: `step` or `executor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_kind: Option<String>,
    /// The caller's own data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Images that its steps made, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<Media>>,
    /// Videos that its steps made, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub videos: Option<Vec<Media>>,
    /// Audio that its steps made, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<Vec<Media>>,
    /// Files that its steps made, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<Media>>,
    /// The steps that ended, in order; absent while there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub step_results: Vec<Arc<StepOutput>>,
    /// The agent and team runs behind them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub step_executor_runs: Vec<Arc<RunOutput>>,
    /// The run of the agent that leads the workflow, where one does. It is not among the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_agent_run: Option<Arc<RunOutput>>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RunMetrics>,
    /// Kept for Agno's shape; read the run's log instead.
    #[serde(default)]
    pub events: Vec<Value>,
    /// PAUSED: what a person must answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_requirements: Option<Vec<Value>>,
    /// PAUSED by an error: what a person must decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_requirements: Option<Vec<Value>>,
}

impl WorkflowRunOutput {
    /// A run nobody has started.
    pub fn pending(info: &RunInfo, input: Option<Value>, created_at: i64) -> Self {
        Self {
            input,
            content: None,
            content_type: "str".to_owned(),
            workflow_id: info.workflow_id.clone(),
            workflow_name: info.workflow_name.clone(),
            run_id: info.run_id.clone(),
            session_id: info.session_id.clone(),
            user_id: info.user_id.clone(),
            parent_run_id: None,
            workflow_step_id: None,
            created_at,
            status: RunStatus::Pending,
            cancellation_stage: None,
            paused_step_index: None,
            paused_step_name: None,
            pause_kind: None,
            metadata: Some(Value::Object(serde_json::Map::new())),
            images: None,
            videos: None,
            audio: None,
            files: None,
            step_results: Vec::new(),
            step_executor_runs: Vec::new(),
            workflow_agent_run: None,
            metrics: Some(RunMetrics::default()),
            events: Vec::new(),
            step_requirements: None,
            error_requirements: None,
        }
    }

    /// A run that came to rest.
    pub fn at_rest(info: &RunInfo, input: Option<Value>, created_at: i64, rest: Rest) -> Self {
        let (mut index, mut name, mut kind, mut requirements, mut errors) = (None, None, None, None, None);
        if let Some(pause) = rest.pause {
            // In Agno, a run that has completed does not say where it once paused.
            if rest.status != RunStatus::Completed {
                (index, name, kind) = (Some(pause.index), Some(pause.name), pause.kind);
            }
            (requirements, errors) = (pause.requirements, pause.errors);
        }
        let stage = match (rest.was_pending, rest.was_paused) {
            (true, _) => "PENDING",
            (false, true) => "PAUSED",
            (false, false) => "EXECUTING",
        };
        let mut made = StepInput::default();
        rest.results.iter().filter(|output| output.error.is_none()).for_each(|output| made.add_media_of(output));
        Self {
            images: made.images,
            videos: made.videos,
            audio: made.audio,
            files: made.files,
            content_type: content_type(rest.content.as_ref()).to_owned(),
            content: rest.content,
            status: rest.status,
            cancellation_stage: (rest.status == RunStatus::Cancelled).then(|| stage.to_owned()),
            paused_step_index: index,
            paused_step_name: name,
            pause_kind: kind,
            step_results: rest.results,
            metrics: rest.metrics,
            step_requirements: requirements,
            error_requirements: errors,
            ..Self::pending(info, input, created_at).with_runs(rest.runs)
        }
    }

    /// With these runs of agents and teams: the leader's, which is in no step, is the last.
    pub(crate) fn with_runs(self, mut runs: Vec<Arc<RunOutput>>) -> Self {
        let leads = runs.pop_if(|last| last.workflow_step_id.is_none() && last.agent_id.is_some());
        Self { step_executor_runs: runs, workflow_agent_run: leads, ..self }
    }

    /// The runs of all agents and teams, the leader's too.
    pub fn executor_runs(&self) -> impl Iterator<Item = &Arc<RunOutput>> {
        self.step_executor_runs.iter().chain(&self.workflow_agent_run)
    }

    /// The tokens of all its agents and teams, the leader's too, together and for each model; without times. Nothing when
    /// none of them used a model.
    pub fn used(&self) -> Option<Metrics> {
        let steps = self.metrics.as_ref().and_then(RunMetrics::total);
        let leader = self.workflow_agent_run.as_ref().and_then(|run| run.metrics.clone());
        steps.into_iter().chain(leader).reduce(|mut sum, used| {
            sum.absorb(&used);
            sum
        })
    }

    /// Whether the run is over: COMPLETED, ERROR or CANCELLED.
    ///
    /// Agno's method of this name leaves CANCELLED out, which makes its polling loop wait for ever on a cancelled run.
    pub fn has_completed(&self) -> bool {
        self.status.is_terminal()
    }

    /// The content as text: a string as it is, anything else as JSON, nothing as the empty string. For a run that
    /// failed it is the error; [`WorkflowRunOutput::into_result`] tells the two apart.
    pub fn text(&self) -> String {
        content_text(self.content.as_ref())
    }

    /// The content as a `T`, for an agent's `output_schema`.
    ///
    /// # Errors
    /// When the content is not a `T`, and always when the run is not COMPLETED.
    pub fn content_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        let content = self.content.as_ref().filter(|_| self.status == RunStatus::Completed);
        T::deserialize(content.unwrap_or(&Value::Null))
    }

    /// The run if it is COMPLETED, and so has a result; otherwise an error that holds the run.
    ///
    /// # Errors
    /// [`NotCompleted`] for every other status.
    pub fn into_result(self) -> Result<Self, NotCompleted> {
        if self.status == RunStatus::Completed { Ok(self) } else { Err(NotCompleted { run: Box::new(self) }) }
    }
}

/// A run without a result: it failed, was cancelled, is PAUSED, or is not over yet. Nothing is lost: the run is inside.
#[derive(Clone, PartialEq)]
pub struct NotCompleted {
    /// The run as it stands.
    pub run: Box<WorkflowRunOutput>,
}

impl NotCompleted {
    /// Its status: any but COMPLETED.
    pub fn status(&self) -> RunStatus {
        self.run.status
    }

    /// Whether the run waits for a person: it has neither failed nor ended.
    pub fn is_paused(&self) -> bool {
        self.run.status == RunStatus::Paused
    }
}

impl fmt::Display for NotCompleted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.run.run_id;
        let why = match self.run.text() {
            text if text.is_empty() => String::new(),
            text => format!(": {text}"),
        };
        match self.run.status {
            RunStatus::Error => write!(f, "run {id} failed{why}"),
            RunStatus::Cancelled => write!(f, "run {id} was cancelled"),
            RunStatus::Paused => write!(f, "run {id} is paused and waits for a person{why}"),
            status @ (RunStatus::Pending | RunStatus::Running | RunStatus::Completed) => {
                write!(f, "run {id} has no result yet ({status})")
            }
        }
    }
}

/// As [`fmt::Display`]: a `main` that returns the error shows it this way.
impl fmt::Debug for NotCompleted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for NotCompleted {}

/// Content as text: a string as it is, anything else as JSON, nothing as the empty string.
pub fn content_text(content: Option<&Value>) -> String {
    match content {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
