//! Agents: a model with a role, instructions and tools, that works on a task until it answers in words.
//!
//! An agent is a value. It must never know a store or a workflow: as a step it is an [`Executor`]; on its own it runs
//! with effects that keep nothing. Either way the same loop does the work.

use crate::describe;
use crate::driver::{Place, Task, Worker, drive};
use crate::model::IntoModel;
use crate::profile::{IntoInstructions, OutputShape, Profile, model_problems};
use crate::solo::Solo;
use crate::tool::{IntoTools, Tool};
use outlive_core::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext};
use outlive_core::{
    ExecutorKind, Failure, FailureKind, FinishReason, Retry, RunEvent, RunOutput, Secret, StepInput, StepOutput,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An agent. Cheap to clone.
///
/// ```
/// use outlive_agent::Agent;
/// use outlive_agent::model::ScriptedModel;
/// use outlive_core::ModelResponse;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let agent = Agent::new("Greeter")
///     .model(ScriptedModel::replies([ModelResponse::text("Hello, Ada.")]))
///     .instructions("Greet people by name");
/// let run = agent.run("I am Ada").await.unwrap_or_else(|failure| panic!("{}", failure.message));
/// assert_eq!(run.content, Some("Hello, Ada.".into()));
/// # });
/// ```
#[derive(Clone)]
pub struct Agent {
    profile: Arc<Profile>,
}

impl Agent {
    /// An agent with this name, without a model yet. Its id is the slug of the name unless set.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self { profile: Arc::new(Profile::new(name.as_ref())) }
    }

    fn with(mut self, change: impl FnOnce(&mut Profile)) -> Self {
        change(Arc::make_mut(&mut self.profile));
        self
    }

    /// Sets the id: 1 to 128 bytes of text without white space. A bad one is reported by `problems()`.
    pub fn id(self, id: impl AsRef<str>) -> Self {
        self.with(|profile| profile.set_id(id.as_ref()))
    }

    /// The model: a value, or a name such as `openai:gpt-5.2`. A name that is not a model's is reported by
    /// `problems()`.
    pub fn model(self, model: impl IntoModel) -> Self {
        self.with(|profile| profile.set_model(model))
    }

    /// Adds one tool.
    pub fn tool(self, tool: Tool) -> Self {
        self.with(|profile| profile.tools.push(tool))
    }

    /// Adds tools: a toolkit or a list.
    pub fn tools(self, tools: impl IntoTools) -> Self {
        self.with(|profile| profile.tools.extend(tools.into_tools()))
    }

    /// What it is for; a team's leader reads it too.
    pub fn role(self, role: impl Into<String>) -> Self {
        self.with(|profile| profile.role = Some(role.into()))
    }

    /// What it is told to do: one text, or a list. Further calls add to it.
    pub fn instructions(self, instructions: impl IntoInstructions) -> Self {
        self.with(|profile| profile.instructions.extend(instructions.into_instructions()))
    }

    /// What comes first in its system message.
    pub fn description(self, description: impl Into<String>) -> Self {
        self.with(|profile| profile.description = Some(description.into()))
    }

    /// What the answer should look like, in words.
    pub fn expected_output(self, wish: impl Into<String>) -> Self {
        self.with(|profile| profile.expected_output = Some(wish.into()))
    }

    /// The answer must be JSON that reads as a `T`; the run's content is then that value and its `content_type` the
    /// schema's name. Any other answer is sent back to be corrected, twice at most.
    pub fn output_schema<T: JsonSchema + DeserializeOwned>(self) -> Self {
        self.with(|profile| profile.output = Some(OutputShape::of::<T>()))
    }

    /// [`Agent::output_schema`] from a JSON Schema. The answer is only checked to be JSON, to be an object where the
    /// schema says so, and to have the keys the schema requires at the top level.
    pub fn output_schema_json(self, name: impl AsRef<str>, schema: Value) -> Self {
        self.with(|profile| profile.output = Some(OutputShape::json(name.as_ref(), schema)))
    }

    /// Whether to ask for Markdown; off unless set.
    pub fn markdown(self, wanted: bool) -> Self {
        self.with(|profile| profile.markdown = wanted)
    }

    /// Tool calls in one run, at most; no limit unless set. Further calls are refused, and the model is told to answer.
    pub fn tool_call_limit(self, calls: u32) -> Self {
        self.with(|profile| profile.limits.tool_calls_max = Some(calls))
    }

    /// Model calls in one run, at most; 50 unless set.
    pub fn turns_max(self, turns: u32) -> Self {
        self.with(|profile| profile.limits.turns_max = turns)
    }

    /// Whether the answer is streamed; on unless set.
    pub fn stream(self, wanted: bool) -> Self {
        self.with(|profile| profile.stream = wanted)
    }

    /// Whether the model sees what this agent was asked and answered in earlier runs of the session; off unless set.
    pub fn add_history_to_context(self, wanted: bool) -> Self {
        self.with(|profile| profile.history = wanted)
    }

    /// How many earlier runs of the session it sees; 3 unless set.
    pub fn num_history_runs(self, runs: u32) -> Self {
        self.with(|profile| profile.history_runs = runs)
    }

    /// How patiently a model call is repeated when it was refused for a passing reason, was cut off or came back empty;
    /// 3 times after 1 s, 2 s and 4 s unless set, later when the provider asks for it.
    pub fn retry(self, retry: Retry) -> Self {
        self.with(|profile| profile.retry = retry)
    }

    /// The time limit of one attempt at a model call; none unless set.
    pub fn timeout(self, limit: Duration) -> Self {
        self.with(|profile| profile.timeout = Some(limit))
    }

    /// Fails the run when an answer ends for one of these reasons, for example
    /// `[FinishReason::Length, FinishReason::ContentFilter]`. Unless set, a cut answer is accepted and its reason is
    /// shown on the run.
    pub fn fail_on(self, reasons: impl IntoIterator<Item = FinishReason>) -> Self {
        self.with(|profile| profile.fail_on.extend(reasons))
    }

    /// How long a model call may be put off because its server asks to slow down (429), counted from the first time; 10
    /// minutes unless set. Within that time a 429 uses up no attempt of [`Agent::retry`]. Calls with the same address
    /// and key wait together, in all runs of the process, and go out again as fast as the server accepts them; a call
    /// that waits for its turn has no time limit of its own, as long as others are answered.
    pub fn rate_limit_budget(self, longest: Duration) -> Self {
        self.with(|profile| profile.rate_limit_budget = longest)
    }

    /// What clients may know about it: the answer to Agno's `GET /agents/{id}`, without the database. Only what was
    /// given here, never a key or an address.
    pub fn describe(&self) -> Value {
        describe::agent(&self.profile)
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(crate) fn worker(&self) -> Worker<'_> {
        Worker { profile: &self.profile, members: None }
    }

    /// Works on `input` without a store: when the process ends, so does the run.
    ///
    /// # Cancel safety
    /// Dropping the future ends the run and every call in flight.
    ///
    /// # Errors
    /// What failed: the definition (see `problems()`), the model, a limit.
    pub async fn run(&self, input: impl Into<Value>) -> Result<RunOutput, Failure> {
        self.run_with(input, |_| {}).await
    }

    /// [`Agent::run`], passing every event to `listener` as it happens.
    ///
    /// # Cancel safety
    /// Dropping the future ends the run and every call in flight.
    ///
    /// # Errors
    /// As [`Agent::run`].
    pub async fn run_with(
        &self,
        input: impl Into<Value>,
        listener: impl FnMut(RunEvent) + Send,
    ) -> Result<RunOutput, Failure> {
        run_alone(self.worker(), "agent", self.problems(), Task::new(input), listener).await
    }
}

/// A run without a workflow.
pub(crate) async fn run_alone(
    worker: Worker<'_>,
    part: &str,
    problems: Vec<String>,
    task: Task,
    listener: impl FnMut(RunEvent) + Send,
) -> Result<RunOutput, Failure> {
    if !problems.is_empty() {
        return Err(Failure::new(FailureKind::Definition, problems.join("; ")));
    }
    let effects = Solo::new(listener);
    let place = Place::alone(&effects, effects.run_id(), part);
    let ended = drive(worker, place, task).await?;
    Arc::unwrap_or_clone(ended).into_result().map(Arc::unwrap_or_clone)
}

/// A run as a step.
pub(crate) async fn run_in_step(worker: Worker<'_>, place: Place<'_>, task: Task) -> Result<Executed, Failure> {
    let state = place.state.clone();
    let ended = drive(worker, place, task).await?;
    let changed = ended.state.clone();
    let run = Arc::unwrap_or_clone(ended).into_result()?;
    if let Some(changed) = changed {
        state.apply(&changed);
    }
    let output = StepOutput {
        content: run.content.clone(),
        step_run_id: Some(run.run_id.to_shared()),
        metrics: run.metrics.clone(),
        ..StepOutput::default()
    };
    Ok(Executed { output, run: Some(run) })
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("name", &self.profile.name).finish_non_exhaustive()
    }
}

impl Executor for Agent {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Agent, name: self.profile.name.clone(), id: self.profile.id().ok() }
    }

    fn describe(&self) -> Option<Value> {
        Some(Agent::describe(self))
    }

    fn problems(&self) -> Vec<String> {
        let problems = self.profile.problems().into_iter().chain(model_problems(&self.profile.model));
        problems.map(|problem| format!("agent {:?}: {problem}", &*self.profile.name)).collect()
    }

    fn secrets(&self) -> Vec<Secret> {
        self.profile.secrets()
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(
            async move { run_in_step(self.worker(), Place::in_step(&context, "agent"), Task::of_step(&input)).await },
        )
    }
}
