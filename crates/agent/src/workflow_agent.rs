//! An agent that leads a workflow: it is asked first, and answers itself or has the steps executed.
//!
//! It must never know the steps. It is an agent like any other, but for what it is told, and for the one call it can make.

use crate::driver;
use crate::model::IntoModel;
use crate::profile::{IntoInstructions, Profile};
use outlive_core::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext};
use outlive_core::{Failure, FinishReason, Retry, Secret, StepInput, ToolEffect};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Earlier runs that it is shown unless set.
const HISTORY_RUNS: u32 = 5;

/// An agent that leads a workflow. What a run is asked comes to it first. It answers at once where what the session's
/// earlier runs came to is answer enough; otherwise it calls its tool `run_workflow` with a query of its own, and the
/// workflow's steps work on that. Then the run's result is theirs, and what the agent says about it is in the run's
/// `workflow_agent_run`. The steps are executed once in a run.
///
/// Each of its model calls is recorded, and so is what it decided: a crash repeats the call in flight at most.
///
/// ```
/// use outlive_agent::WorkflowAgent;
/// use outlive_agent::model::ScriptedModel;
///
/// let leader = WorkflowAgent::new(ScriptedModel::replies([]))
///     .instructions("You lead the making of short stories")
///     .num_history_runs(4);
/// # let _ = leader;
/// ```
#[derive(Clone)]
pub struct WorkflowAgent {
    profile: Arc<Profile>,
}

impl WorkflowAgent {
    /// A leader with this model: a value, or a name such as `openai:gpt-5.2`. It is named `Workflow Agent`, and sees the
    /// last 5 runs of the session, unless set.
    pub fn new(model: impl IntoModel) -> Self {
        let mut profile = Profile::new("Workflow Agent");
        profile.set_model(model);
        profile.leads = Some(HISTORY_RUNS);
        Self { profile: Arc::new(profile) }
    }

    fn with(mut self, change: impl FnOnce(&mut Profile)) -> Self {
        change(Arc::make_mut(&mut self.profile));
        self
    }

    /// Gives it another name.
    pub fn name(self, name: impl AsRef<str>) -> Self {
        self.with(|profile| profile.set_name(name.as_ref()))
    }

    /// Sets the id: 1 to 128 bytes of text without white space. A bad one is reported when the workflow is built.
    pub fn id(self, id: impl AsRef<str>) -> Self {
        self.with(|profile| profile.set_id(id.as_ref()))
    }

    /// What it is told beside how to lead: one text, or a list. Further calls add to it. `{name}` stands for what the
    /// session's state has under that name, as with any agent.
    pub fn instructions(self, instructions: impl IntoInstructions) -> Self {
        self.with(|profile| profile.instructions.extend(instructions.into_instructions()))
    }

    /// Whether it sees what earlier runs of the session were asked and came to; on unless set.
    pub fn add_workflow_history(self, wanted: bool) -> Self {
        let runs = if wanted { self.profile.leads.filter(|runs| *runs > 0).unwrap_or(HISTORY_RUNS) } else { 0 };
        self.num_history_runs(runs)
    }

    /// How many earlier runs of the session it sees, the newest; 5 unless set.
    pub fn num_history_runs(self, runs: u32) -> Self {
        self.with(|profile| profile.leads = Some(runs))
    }

    /// Model calls in one run, at most; 50 unless set.
    pub fn turns_max(self, turns: u32) -> Self {
        self.with(|profile| profile.limits.turns_max = turns)
    }

    /// Whether its answer is streamed; on unless set.
    pub fn stream(self, wanted: bool) -> Self {
        self.with(|profile| profile.stream = wanted)
    }

    /// How patiently a model call is repeated: as an agent's.
    pub fn retry(self, retry: Retry) -> Self {
        self.with(|profile| profile.retry = retry)
    }

    /// The time limit of one attempt at a model call; none unless set.
    pub fn timeout(self, limit: Duration) -> Self {
        self.with(|profile| profile.timeout = Some(limit))
    }

    /// Fails the run when an answer ends for one of these reasons.
    pub fn fail_on(self, reasons: impl IntoIterator<Item = FinishReason>) -> Self {
        self.with(|profile| profile.fail_on.extend(reasons))
    }

    /// How long a model call may be put off because its server asks to slow down: as an agent's.
    pub fn rate_limit_budget(self, longest: Duration) -> Self {
        self.with(|profile| profile.rate_limit_budget = longest)
    }
}

impl fmt::Debug for WorkflowAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.profile.fmt(f)
    }
}

impl Executor for WorkflowAgent {
    fn info(&self) -> ExecutorInfo {
        let Profile { name, .. } = &*self.profile;
        ExecutorInfo { kind: self.profile.kind(), name: name.clone(), id: self.profile.id().ok() }
    }

    fn describe(&self) -> Option<Value> {
        Some(crate::describe::describe(&self.profile))
    }

    fn problems(&self) -> Vec<String> {
        self.profile.problems()
    }

    fn masked(&self, input: Value) -> Value {
        self.profile.masked(input)
    }

    fn models(&self) -> Vec<String> {
        self.profile.models()
    }

    fn tool_effect(&self, tool: &str) -> Option<ToolEffect> {
        self.profile.tool_effect(tool)
    }

    fn secrets(&self) -> Vec<Secret> {
        self.profile.secrets()
    }

    fn deep_copy(&self) -> Option<Arc<dyn Executor>> {
        Some(Arc::new(Self { profile: Arc::new(self.profile.deep_copy()) }))
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async move { driver::run_in_step(&self.profile, &context, &input).await })
    }
}
