//! One workflow run and one agent or team run as bodies.
//!
//! It must never know where a run comes from. The invariant: keys, their order and their absence are Agno's; what we
//! add comes last, under names Agno does not use, and its clients skip it.

use outlive_core::{
    Media, Message, Metrics, RunInput, RunMetrics, RunOutput, RunStatus, StepOutput, ToolExecution, WorkflowRunOutput,
};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Which of Agno's shapes a run is shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The answer to a request that waited for the run's end: media, unless people are asked; `events` never.
    Result,
    /// The same after a continuation: `events` too.
    Continued,
    /// What a poll shows: media never, `events` always.
    Polled,
}

/// What a run's row knows beside its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing<'a> {
    /// The step it is at: `1/2 Research Step`. Shown as `progress` while the run is RUNNING, which Agno does not do.
    pub progress: Option<&'a str>,
}

/// What a background submission is answered.
pub fn accepted(run_id: &str, session_id: &str, status: RunStatus) -> Value {
    json!({ "run_id": run_id, "session_id": session_id, "status": status })
}

/// A workflow run as a body.
pub fn workflow_run<'a>(run: &'a WorkflowRunOutput, shape: Shape, standing: Standing<'a>) -> WorkflowRunBody<'a> {
    WorkflowRunBody { run, shape, standing }
}

/// See [`workflow_run`].
#[derive(Clone, Copy, Debug)]
pub struct WorkflowRunBody<'a> {
    run: &'a WorkflowRunOutput,
    shape: Shape,
    standing: Standing<'a>,
}

impl<'a> Serialize for WorkflowRunBody<'a> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { run, shape, standing } = *self;
        let has_media = shape != Shape::Polled && run.status != RunStatus::Paused;
        let has_ended = run.status.is_terminal();
        let media = |media: &'a Option<Vec<Media>>| has_media.then(|| media.as_deref().unwrap_or_default());
        let executed =
            |executor: &'a Arc<RunOutput>| executor_run(executor, shape).asking(executor_requirements(run, executor));
        WorkflowRunKeys {
            input: run.input.as_ref(),
            content: run.content.as_ref().filter(|_| has_ended),
            content_type: &run.content_type,
            workflow_id: run.workflow_id.as_str(),
            workflow_name: &run.workflow_name,
            run_id: run.run_id.as_str(),
            session_id: run.session_id.as_str(),
            user_id: run.user_id.as_deref(),
            parent_run_id: run.parent_run_id.as_ref().map(AsRef::as_ref),
            workflow_step_id: run.workflow_step_id.as_deref(),
            created_at: run.created_at,
            status: run.status,
            cancellation_stage: run.cancellation_stage.as_deref(),
            paused_step_index: run.paused_step_index,
            paused_step_name: run.paused_step_name.as_deref(),
            pause_kind: run.pause_kind.as_deref(),
            metadata: run.metadata.as_ref(),
            images: media(&run.images),
            videos: media(&run.videos),
            audio: media(&run.audio),
            files: media(&run.files),
            step_results: &run.step_results,
            step_executor_runs: run.step_executor_runs.iter().map(executed).collect(),
            workflow_agent_run: run.workflow_agent_run.as_deref().map(|leads| ExecutorRunBody {
                workflow_id: Some(run.workflow_id.as_str()),
                ..executor_run(leads, shape)
            }),
            metrics: run.metrics.as_ref(),
            events: (shape != Shape::Result).then_some(&run.events),
            step_requirements: run.step_requirements.as_deref(),
            error_requirements: run.error_requirements.as_deref(),
            progress: standing.progress.filter(|_| run.status == RunStatus::Running),
        }
        .serialize(serializer)
    }
}

#[derive(Serialize)]
struct WorkflowRunKeys<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a Value>,
    content_type: &'a str,
    workflow_id: &'a str,
    workflow_name: &'a str,
    run_id: &'a str,
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_run_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_step_id: Option<&'a str>,
    created_at: i64,
    status: RunStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancellation_stage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_step_index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_step_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<&'a [Media]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    videos: Option<&'a [Media]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio: Option<&'a [Media]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<&'a [Media]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    step_results: &'a [Arc<StepOutput>],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    step_executor_runs: Vec<ExecutorRunBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_agent_run: Option<ExecutorRunBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<&'a RunMetrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<&'a Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_requirements: Option<&'a [Value]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_requirements: Option<&'a [Value]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<&'a str>,
}

/// An agent's or team's run as a body, with its members' runs.
pub fn executor_run(run: &RunOutput, shape: Shape) -> ExecutorRunBody<'_> {
    ExecutorRunBody { run, shape, workflow_id: None, requirements: Vec::new() }
}

/// What the run of one of a workflow's executors asks people, or asked them.
fn executor_requirements<'a>(run: &'a WorkflowRunOutput, executor: &RunOutput) -> Vec<&'a Value> {
    fn is_of(run: &RunOutput, id: &Value) -> bool {
        id.as_str() == Some(run.run_id.as_str()) || run.member_responses.iter().any(|member| is_of(member, id))
    }
    let steps = run.step_requirements.iter().flatten();
    let asking = steps.filter(|step| is_of(executor, &step["executor_run_id"]));
    asking.filter_map(|step| step["executor_requirements"].as_array()).flatten().collect()
}

/// See [`executor_run`].
#[derive(Clone, Debug)]
pub struct ExecutorRunBody<'a> {
    run: &'a RunOutput,
    shape: Shape,
    /// The workflow that it leads.
    workflow_id: Option<&'a str>,
    requirements: Vec<&'a Value>,
}

impl<'a> ExecutorRunBody<'a> {
    /// With what it asks people.
    #[must_use]
    pub fn asking(self, requirements: Vec<&'a Value>) -> Self {
        Self { requirements, ..self }
    }
}

impl Serialize for ExecutorRunBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { run, shape, workflow_id, ref requirements } = *self;
        if let Some(workflow) = &run.workflow {
            return NestedRunKeys {
                input: workflow.input.as_ref(),
                content: run.content.as_ref(),
                content_type: &run.content_type,
                workflow_id: workflow.workflow_id.as_str(),
                workflow_name: &workflow.workflow_name,
                run_id: run.run_id.as_str(),
                session_id: run.session_id.as_ref().map(AsRef::as_ref),
                parent_run_id: run.parent_run_id.as_ref().map(AsRef::as_ref),
                user_id: run.user_id.as_deref(),
                workflow_step_id: run.workflow_step_id.as_deref(),
                created_at: run.created_at,
                status: run.status,
                images: [],
                videos: [],
                audio: [],
                files: [],
                step_results: &workflow.step_results,
                metrics: &workflow.metrics,
            }
            .serialize(serializer);
        }
        let is_team = run.team_id.is_some();
        let members: Vec<_> = run.member_responses.iter().map(|run| executor_run(run, shape)).collect();
        ExecutorRunKeys {
            run_id: run.run_id.as_str(),
            agent_id: run.agent_id.as_ref().map(AsRef::as_ref),
            agent_name: run.agent_name.as_deref(),
            team_id: run.team_id.as_ref().map(AsRef::as_ref),
            team_name: run.team_name.as_deref(),
            session_id: run.session_id.as_ref().map(AsRef::as_ref),
            parent_run_id: run.parent_run_id.as_ref().map(AsRef::as_ref),
            workflow_id,
            user_id: run.user_id.as_deref(),
            content: run.content.as_ref(),
            content_type: &run.content_type,
            reasoning_content: run.reasoning_content.as_deref(),
            model_provider_data: run.model_provider_data.as_ref(),
            model: run.model.as_deref(),
            model_provider: run.model_provider.as_deref(),
            session_state: run.session_state.as_ref(),
            created_at: run.created_at,
            status: run.status,
            cancellation_stage: run.cancellation_stage.as_deref(),
            workflow_step_id: run.workflow_step_id.as_deref(),
            metrics: run.metrics.as_ref(),
            events: run.events.as_deref().filter(|_| shape != Shape::Result),
            messages: &run.messages,
            metadata: run.metadata.as_ref(),
            tools: Some(&*run.tools).filter(|tools| shape != Shape::Polled || !tools.is_empty()),
            requirements,
            input: run.input.as_ref(),
            member_responses: is_team.then_some(members),
        }
        .serialize(serializer)
    }
}

/// The run of a workflow inside a step.
#[derive(Serialize)]
struct NestedRunKeys<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a Value>,
    content_type: &'a str,
    workflow_id: &'a str,
    workflow_name: &'a str,
    run_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_run_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_step_id: Option<&'a str>,
    created_at: i64,
    status: RunStatus,
    images: [(); 0],
    videos: [(); 0],
    audio: [(); 0],
    files: [(); 0],
    step_results: &'a [Arc<StepOutput>],
    metrics: &'a RunMetrics,
}

#[derive(Serialize)]
struct ExecutorRunKeys<'a> {
    run_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    team_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_run_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a Value>,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_provider_data: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_state: Option<&'a Value>,
    created_at: i64,
    status: RunStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancellation_stage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_step_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<&'a Metrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<&'a [Value]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    messages: &'a [Message],
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a [ToolExecution]>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    requirements: &'a [&'a Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a RunInput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member_responses: Option<Vec<ExecutorRunBody<'a>>>,
}

/// The object `key: value` pairs of a body that is put together by hand, without those that are null.
pub(crate) fn without_nulls(body: Value) -> Value {
    match body {
        Value::Object(keys) => {
            Value::Object(keys.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        }
        other => other,
    }
}
