//! Teams: a leader that delegates tasks to members, which are agents or teams, and puts their answers together.
//!
//! A team is a value, and its leader works by the same loop as an agent. Members see only the task they are given; what
//! they say and use is recorded under their own keys.

use crate::agent::{Agent, run_alone, run_in_step};
use crate::describe;
use crate::driver::{Place, Task, Worker};
use crate::model::{IntoModel, SharedModel};
use crate::profile::{IntoInstructions, OutputShape, Profile, model_problems};
use crate::prompt::RosterLine;
use crate::tool::{IntoTools, Tool};
use outlive_core::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext};
use outlive_core::{DefinitionId, ExecutorKind, Failure, FinishReason, Retry, RunEvent, RunOutput, Secret, StepInput};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A member of a team.
#[derive(Clone, Debug)]
pub enum Member {
    /// An agent.
    Agent(Agent),
    /// A team itself.
    Team(Team),
}

/// What can join a team: an agent, a team, or either as a [`Member`].
pub trait IntoMember {
    /// The member.
    fn into_member(self) -> Member;
}

impl IntoMember for Agent {
    fn into_member(self) -> Member {
        Member::Agent(self)
    }
}

impl IntoMember for Team {
    fn into_member(self) -> Member {
        Member::Team(self)
    }
}

impl IntoMember for Member {
    fn into_member(self) -> Member {
        self
    }
}

impl Member {
    pub(crate) fn worker(&self) -> Worker<'_> {
        match self {
            Member::Agent(agent) => agent.worker(),
            Member::Team(team) => team.worker(),
        }
    }

    fn profile(&self) -> &Profile {
        match self {
            Member::Agent(agent) => agent.profile(),
            Member::Team(team) => &team.profile,
        }
    }

    fn model(&self) -> Result<SharedModel, String> {
        match (self, &self.profile().model) {
            (_, Some(model)) => model.clone(),
            (Member::Team(team), None) => common_model(&team.members),
            (Member::Agent(_), None) => Err(format!("its member {:?} has no model either", self.name())),
        }
    }

    fn name(&self) -> &str {
        &self.profile().name
    }

    fn secrets(&self) -> Vec<Secret> {
        match self {
            Member::Agent(agent) => Executor::secrets(agent),
            Member::Team(team) => Executor::secrets(team),
        }
    }

    pub(crate) fn describe(&self) -> Value {
        match self {
            Member::Agent(agent) => agent.describe(),
            Member::Team(team) => team.describe(),
        }
    }

    fn problems(&self) -> Vec<String> {
        match self {
            Member::Agent(agent) => agent.problems(),
            Member::Team(team) => team.problems(),
        }
    }

    /// What its leader is told about what it is good for.
    fn role(&self) -> String {
        let profile = self.profile();
        let words = profile.role.clone().or_else(|| profile.description.clone());
        match (words, self) {
            (Some(words), _) => words,
            (None, Member::Team(team)) => {
                let names: Vec<_> = team.members.iter().map(Member::name).collect();
                format!("leads a team of {}", names.join(", "))
            }
            (None, Member::Agent(_)) => profile.name.to_string(),
        }
    }
}

/// The members as their leader sees them.
///
/// # Errors
/// When one of them has no id, in words.
pub(crate) fn roster(members: &[Member]) -> Result<Vec<RosterLine>, String> {
    let line = |member: &Member| {
        let id = member.profile().id().map_err(|problem| format!("its member {:?}: {problem}", member.name()))?;
        Ok(RosterLine { id, name: member.name().to_owned(), role: member.role() })
    };
    members.iter().map(line).collect()
}

/// The model of a team that was given none: its members', if they agree.
///
/// # Errors
/// When they disagree, or have none, in words.
pub(crate) fn common_model(members: &[Member]) -> Result<SharedModel, String> {
    const REMEDY: &str = "give it one with .model(..)";
    let models: Vec<_> = members.iter().map(Member::model).collect::<Result<_, _>>()?;
    let Some(first) = models.first() else {
        return Err(format!("it has no model and no members: {REMEDY}"));
    };
    let named = |model: &SharedModel| (model.info(), model.endpoint());
    if models.iter().all(|model| named(model) == named(first)) {
        return Ok(first.clone());
    }
    let names: BTreeSet<_> = models.iter().map(|model| model.info().model).collect();
    let names: Vec<_> = names.into_iter().collect();
    Err(format!("it has no model and its members do not agree on one ({}): {REMEDY}", names.join(", ")))
}

/// A team. Cheap to clone.
///
/// ```
/// use outlive_agent::model::ScriptedModel;
/// use outlive_agent::{Agent, Team};
/// use outlive_core::{ModelResponse, ToolCall};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let call = ToolCall::new("1", "delegate_task_to_member", r#"{"member_id":"finance-agent","task":"price of ACME?"}"#);
/// let leader = ScriptedModel::replies([ModelResponse::calls(vec![call]), ModelResponse::text("ACME is at 12.")]);
/// let finance = Agent::new("Finance Agent")
///     .model(ScriptedModel::replies([ModelResponse::text("12")]))
///     .role("Knows prices");
/// let team = Team::new("Research Team").model(leader).member(finance);
/// let run = team.run("How is ACME doing?").await.unwrap_or_else(|failure| panic!("{}", failure.message));
/// assert_eq!(run.content, Some("ACME is at 12.".into()));
/// assert_eq!(run.member_responses[0].content, Some("12".into()));
/// # });
/// ```
#[derive(Clone)]
pub struct Team {
    profile: Arc<Profile>,
    members: Arc<Vec<Member>>,
}

impl Team {
    /// A team with this name, without members yet. Its id is the slug of the name unless set.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self { profile: Arc::new(Profile::new(name.as_ref())), members: Arc::default() }
    }

    fn with(mut self, change: impl FnOnce(&mut Profile)) -> Self {
        change(Arc::make_mut(&mut self.profile));
        self
    }

    /// Adds one member: an agent or a team.
    pub fn member(mut self, member: impl IntoMember) -> Self {
        Arc::make_mut(&mut self.members).push(member.into_member());
        self
    }

    /// Adds members.
    pub fn members(self, members: impl IntoIterator<Item = impl IntoMember>) -> Self {
        members.into_iter().fold(self, Team::member)
    }

    /// Sets the id: 1 to 128 bytes of text without white space. A bad one is reported by `problems()`.
    pub fn id(self, id: impl AsRef<str>) -> Self {
        self.with(|profile| profile.set_id(id.as_ref()))
    }

    /// The leader's model: a value, or a name such as `openai:gpt-5.2`. Without one it is the members', if they agree.
    pub fn model(self, model: impl IntoModel) -> Self {
        self.with(|profile| profile.set_model(model))
    }

    /// Adds one tool for the leader.
    pub fn tool(self, tool: Tool) -> Self {
        self.with(|profile| profile.tools.push(tool))
    }

    /// Adds tools for the leader: a toolkit or a list.
    pub fn tools(self, tools: impl IntoTools) -> Self {
        self.with(|profile| profile.tools.extend(tools.into_tools()))
    }

    /// What it is for, as a member of another team.
    pub fn role(self, role: impl Into<String>) -> Self {
        self.with(|profile| profile.role = Some(role.into()))
    }

    /// What the leader is told to do: one text, or a list. Further calls add to it.
    pub fn instructions(self, instructions: impl IntoInstructions) -> Self {
        self.with(|profile| profile.instructions.extend(instructions.into_instructions()))
    }

    /// What comes first in the leader's system message.
    pub fn description(self, description: impl Into<String>) -> Self {
        self.with(|profile| profile.description = Some(description.into()))
    }

    /// What the answer should look like, in words.
    pub fn expected_output(self, wish: impl Into<String>) -> Self {
        self.with(|profile| profile.expected_output = Some(wish.into()))
    }

    /// The leader's answer must be JSON that reads as a `T`; see [`Agent::output_schema`].
    pub fn output_schema<T: JsonSchema + DeserializeOwned>(self) -> Self {
        self.with(|profile| profile.output = Some(OutputShape::of::<T>()))
    }

    /// [`Team::output_schema`] from a JSON Schema; see [`Agent::output_schema_json`].
    pub fn output_schema_json(self, name: impl AsRef<str>, schema: Value) -> Self {
        self.with(|profile| profile.output = Some(OutputShape::json(name.as_ref(), schema)))
    }

    /// Whether to ask for Markdown; off unless set.
    pub fn markdown(self, wanted: bool) -> Self {
        self.with(|profile| profile.markdown = wanted)
    }

    /// Tool calls and delegations of the leader in one run, at most; no limit unless set.
    pub fn tool_call_limit(self, calls: u32) -> Self {
        self.with(|profile| profile.limits.tool_calls_max = Some(calls))
    }

    /// Model calls of the leader in one run, at most; 50 unless set.
    pub fn turns_max(self, turns: u32) -> Self {
        self.with(|profile| profile.limits.turns_max = turns)
    }

    /// Whether the leader's answer is streamed; on unless set.
    pub fn stream(self, wanted: bool) -> Self {
        self.with(|profile| profile.stream = wanted)
    }

    /// Whether the leader sees what this team was asked and answered in earlier runs of the session; off unless set.
    pub fn add_history_to_context(self, wanted: bool) -> Self {
        self.with(|profile| profile.history = wanted)
    }

    /// How many earlier runs of the session it sees; 3 unless set.
    pub fn num_history_runs(self, runs: u32) -> Self {
        self.with(|profile| profile.history_runs = runs)
    }

    /// How patiently a model call of the leader is repeated; see [`Agent::retry`].
    pub fn retry(self, retry: Retry) -> Self {
        self.with(|profile| profile.retry = retry)
    }

    /// The time limit of one attempt at a model call of the leader; none unless set.
    pub fn timeout(self, limit: Duration) -> Self {
        self.with(|profile| profile.timeout = Some(limit))
    }

    /// Fails the run when an answer of the leader ends for one of these reasons, for example
    /// `[FinishReason::Length, FinishReason::ContentFilter]`. Unless set, a cut answer is accepted and its reason is
    /// shown on the run.
    pub fn fail_on(self, reasons: impl IntoIterator<Item = FinishReason>) -> Self {
        self.with(|profile| profile.fail_on.extend(reasons))
    }

    /// How long a model call may be put off because its server asks to slow down (429), counted from the first time; 10
    /// minutes unless set. Within that time a 429 uses up no attempt of [`Team::retry`]. Calls with the same address
    /// and key wait together, in all runs of the process, and go out again as fast as the server accepts them; a call
    /// that waits for its turn has no time limit of its own, as long as others are answered.
    pub fn rate_limit_budget(self, longest: Duration) -> Self {
        self.with(|profile| profile.rate_limit_budget = longest)
    }

    /// What clients may know about it and its members: the answer to Agno's `GET /teams/{id}`, without the database.
    /// Only what was given here, never a key or an address.
    pub fn describe(&self) -> Value {
        describe::team(&self.profile, &self.members)
    }

    pub(crate) fn worker(&self) -> Worker<'_> {
        Worker { profile: &self.profile, members: Some(&self.members) }
    }

    /// Works on `input` without a store: when the process ends, so does the run.
    ///
    /// # Cancel safety
    /// Dropping the future ends the run and every call in flight.
    ///
    /// # Errors
    /// What failed: the definition (see `problems()`), the leader's model, a limit. A member's failure is told to the
    /// leader.
    pub async fn run(&self, input: impl Into<Value>) -> Result<RunOutput, Failure> {
        self.run_with(input, |_| {}).await
    }

    /// [`Team::run`], passing every event of the team and its members to `listener` as it happens.
    ///
    /// # Cancel safety
    /// Dropping the future ends the run and every call in flight.
    ///
    /// # Errors
    /// As [`Team::run`].
    pub async fn run_with(
        &self,
        input: impl Into<Value>,
        listener: impl FnMut(RunEvent) + Send,
    ) -> Result<RunOutput, Failure> {
        run_alone(self.worker(), "team", self.problems(), Task::new(input), listener).await
    }

    fn member_problems(&self) -> Vec<String> {
        if self.members.is_empty() {
            return vec!["it has no members: add some with .members([..])".to_owned()];
        }
        let mut seen: BTreeSet<DefinitionId> = BTreeSet::new();
        let ids = self.members.iter().filter_map(|member| member.profile().id().ok());
        let twice = ids.filter(|id| !seen.insert(id.clone()));
        let twice = twice.map(|id| format!("two of its members have the id {id}: give one another id or name"));
        twice.collect()
    }

    fn model_problems(&self) -> Vec<String> {
        match &self.profile.model {
            None if self.members.is_empty() => Vec::new(),
            None => common_model(&self.members).err().into_iter().collect(),
            model => model_problems(model),
        }
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { profile, members } = self;
        f.debug_struct("Team").field("name", &profile.name).field("members", members).finish_non_exhaustive()
    }
}

impl Executor for Team {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Team, name: self.profile.name.clone(), id: self.profile.id().ok() }
    }

    fn describe(&self) -> Option<Value> {
        Some(Team::describe(self))
    }

    fn problems(&self) -> Vec<String> {
        let own = [self.profile.problems(), self.member_problems(), self.model_problems()].concat();
        let titled = own.into_iter().map(|problem| format!("team {:?}: {problem}", &*self.profile.name));
        titled.chain(self.members.iter().flat_map(Member::problems)).collect()
    }

    fn secrets(&self) -> Vec<Secret> {
        self.profile.secrets().into_iter().chain(self.members.iter().flat_map(Member::secrets)).collect()
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(
            async move { run_in_step(self.worker(), Place::in_step(&context, "team"), Task::of_step(&input)).await },
        )
    }
}
