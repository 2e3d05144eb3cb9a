//! What can be said to an agent and to a team alike: how each is built, run and executed as a step.
//!
//! Both are a [`Profile`], so all this is written once. It must never know which of the two it is: what only one of
//! them can do stands in its own file.

use crate::agent::Agent;
use crate::describe::describe;
use crate::driver;
use crate::hooks::Hook;
use crate::model::IntoModel;
use crate::profile::{IntoInstructions, Profile, Shape};
use crate::team::Team;
use crate::tool::{IntoTools, Tool};
use outlive_core::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext};
use outlive_core::{
    Block, Definition, Failure, FinishReason, Retry, RunEvent, RunOutput, Secret, Step, StepInput, ToolEffect,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Gives a type that holds a profile its methods, and makes it an executor.
macro_rules! methods {
    ($Type:ident) => {
        /// Of a team, these are its leader's.
        impl $Type {
            pub(crate) fn with(mut self, change: impl FnOnce(&mut Profile)) -> Self {
                change(Arc::make_mut(&mut self.profile));
                self
            }

            /// A copy, of a team with copies of its members: whatever is changed in it does not change this one. Models
            /// and tools, which keep nothing of a run, are shared. An id that was made from the name follows a new name.
            /// Agno's `deep_copy`.
            ///
            /// ```
            /// use outlive_agent::Agent;
            ///
            /// let writer = Agent::new("Writer").instructions("Write plainly");
            /// let poet = writer.deep_copy().name("Poet").instructions("Write in rhymes");
            /// assert_eq!(poet.describe()["id"], "poet");
            /// assert_eq!(writer.describe()["id"], "writer");
            /// ```
            #[must_use]
            pub fn deep_copy(&self) -> Self {
                Self { profile: Arc::new(self.profile.deep_copy()) }
            }

            /// Gives it another name.
            pub fn name(self, name: impl AsRef<str>) -> Self {
                self.with(|profile| profile.set_name(name.as_ref()))
            }

            /// Sets the id: 1 to 128 bytes of text without white space. A bad one is reported by `problems()`.
            pub fn id(self, id: impl AsRef<str>) -> Self {
                self.with(|profile| profile.set_id(id.as_ref()))
            }

            /// The model: a value, or a name such as `openai:gpt-5.2`. A name that is not a model's is reported by
            /// `problems()`. A team that is given none has its members', if they agree.
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

            /// What it is for; the leader of a team that it is a member of reads it too.
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

            /// Its input must be an object that fits the schema of `T` and reads as one, or the JSON text of one. The run
            /// of any other input ends ERROR before a model is asked, says where it does not fit, and has the `error_id`
            /// `validation_failed`.
            pub fn input_schema<T: JsonSchema + DeserializeOwned>(self) -> Self {
                self.with(|profile| profile.input = Some(Shape::of::<T>()))
            }

            /// [`Self::input_schema`] from a JSON Schema; [`outlive_core::check`] says what of it is checked.
            pub fn input_schema_json(self, name: impl AsRef<str>, schema: Value) -> Self {
                self.with(|profile| profile.input = Some(Shape::json(name.as_ref(), schema)))
            }

            /// The answer must be JSON that fits the schema of `T` and reads as one; the run's content is then that value
            /// and its `content_type` the schema's name. Any other answer is sent back to be corrected, as often as
            /// [`Self::output_retries`] allows; then the run ends ERROR, and says where the last one does not fit.
            pub fn output_schema<T: JsonSchema + DeserializeOwned>(self) -> Self {
                self.with(|profile| profile.output = Some(Shape::of::<T>()))
            }

            /// [`Self::output_schema`] from a JSON Schema; [`outlive_core::check`] says what of it is checked.
            pub fn output_schema_json(self, name: impl AsRef<str>, schema: Value) -> Self {
                self.with(|profile| profile.output = Some(Shape::json(name.as_ref(), schema)))
            }

            /// How often an answer that does not fit the output schema is sent back to be corrected, each time as a model
            /// call of its own; twice unless set.
            pub fn output_retries(self, times: u32) -> Self {
                self.with(|profile| profile.output_retries = times)
            }

            /// Adds a hook or guardrail before each run, after those that were added before: it is asked whether the
            /// run's input may pass, before the model is. As a member's, it is asked about the member's task.
            pub fn pre_hook(self, hook: impl Into<Hook>) -> Self {
                self.with(|profile| profile.pre_hooks.push(hook.into()))
            }

            /// [`Self::pre_hook`] for several.
            pub fn pre_hooks<H: Into<Hook>>(self, hooks: impl IntoIterator<Item = H>) -> Self {
                self.with(|profile| profile.pre_hooks.extend(hooks.into_iter().map(Into::into)))
            }

            /// Adds a hook or guardrail after each run, after those that were added before: it is asked whether the
            /// run's output may pass, before anybody sees it. The answer's text is shown in one piece once all have let
            /// it pass, unless they [stream](Hook::stream). A store keeps what the model wrote, as every model call.
            pub fn post_hook(self, hook: impl Into<Hook>) -> Self {
                self.with(|profile| profile.post_hooks.push(hook.into()))
            }

            /// [`Self::post_hook`] for several.
            pub fn post_hooks<H: Into<Hook>>(self, hooks: impl IntoIterator<Item = H>) -> Self {
                self.with(|profile| profile.post_hooks.extend(hooks.into_iter().map(Into::into)))
            }

            /// Whether to ask for Markdown; off unless set.
            pub fn markdown(self, wanted: bool) -> Self {
                self.with(|profile| profile.markdown = wanted)
            }

            /// Tool calls in one run, at most; no limit unless set. Further calls are refused, and the model is told to
            /// answer. A delegation to a member is a tool call.
            pub fn tool_call_limit(self, calls: u32) -> Self {
                self.with(|profile| profile.limits.tool_calls_max = Some(calls))
            }

            /// Tool calls of one answer that are made at once, at most; 32 unless set. The others begin in their order, as
            /// calls end. A delegation to a member is a tool call; one that waits for people keeps its place.
            pub fn tool_calls_at_once(self, most: u32) -> Self {
                self.with(|profile| profile.calls_at_once = most as usize)
            }

            /// Model calls in one run, at most; 50 unless set. Members count for themselves.
            pub fn turns_max(self, turns: u32) -> Self {
                self.with(|profile| profile.limits.turns_max = turns)
            }

            /// Whether the answer is streamed; on unless set.
            pub fn stream(self, wanted: bool) -> Self {
                self.with(|profile| profile.stream = wanted)
            }

            /// Whether `{name}` in what it is told to do and to be is replaced when a run begins: by what the session's
            /// state has under that name, else the run's dependencies, else its metadata; `{user_id}` by the user's.
            /// Text stands as it is, other values as JSON. A name that none of them has is left alone, and so are the
            /// braces of JSON. On unless set. What the model is told is recorded, so that a resumed run says the same.
            pub fn resolve_in_context(self, wanted: bool) -> Self {
                self.with(|profile| profile.resolves = wanted)
            }

            /// Whether its system message ends with the session's whole state as JSON, as it is when a run begins; off
            /// unless set.
            pub fn add_session_state_to_context(self, wanted: bool) -> Self {
                self.with(|profile| profile.shows_state = wanted)
            }

            /// Whether the model sees what this agent or team was asked and answered in earlier runs of the session;
            /// off unless set.
            pub fn add_history_to_context(self, wanted: bool) -> Self {
                self.with(|profile| profile.history = wanted)
            }

            /// How many earlier runs of the session it sees; 3 unless set.
            pub fn num_history_runs(self, runs: u32) -> Self {
                self.with(|profile| profile.history_runs = runs)
            }

            /// A model that is asked when its own has failed, after those that were added before: when that server cannot
            /// be reached, is broken or overloaded (5xx), refuses for longer than [`Self::rate_limit_budget`] (429), has no
            /// quota left, or gives no whole answer in time, each time after the attempts of [`Self::retry`]. A request that
            /// a server rejects, and an answer that cannot be used, would fare no better with another. Each turn begins
            /// with its own model again.
            pub fn fallback(self, model: impl IntoModel) -> Self {
                self.with(|profile| profile.fallbacks.push(model.into_model()))
            }

            /// How patiently a model call is repeated when it was refused for a passing reason, was cut off or came
            /// back empty; 3 times after 1 s, 2 s and 4 s unless set, later when the provider asks for it.
            pub fn retry(self, retry: Retry) -> Self {
                self.with(|profile| profile.retry = retry)
            }

            /// The time limit of one attempt at a model call; none unless set.
            pub fn timeout(self, limit: Duration) -> Self {
                self.with(|profile| profile.timeout = Some(limit))
            }

            /// Fails the run when an answer ends for one of these reasons, for example
            /// `[FinishReason::Length, FinishReason::ContentFilter]`. Unless set, a cut answer is accepted and its
            /// reason is shown on the run.
            pub fn fail_on(self, reasons: impl IntoIterator<Item = FinishReason>) -> Self {
                self.with(|profile| profile.fail_on.extend(reasons))
            }

            /// How long a model call may be put off because its server asks to slow down (429), counted from the first
            /// time; 10 minutes unless set. Within that time a 429 uses up no attempt of [`Self::retry`]. Calls with
            /// the same address and key wait together, in all runs of the process, and go out again as fast as the
            /// server accepts them; a call that waits for its turn has no time limit of its own, as long as others are
            /// answered.
            pub fn rate_limit_budget(self, longest: Duration) -> Self {
                self.with(|profile| profile.rate_limit_budget = longest)
            }

            /// What clients may know about it, and about a team's members: the answer to Agno's `GET /agents/{id}` or
            /// `GET /teams/{id}`, without the database. Only what was given here, never a key or an address.
            pub fn describe(&self) -> Value {
                describe(&self.profile)
            }

            /// Works on `input` without a store: when the process ends, so does the run.
            ///
            /// # Cancel safety
            /// Dropping the future ends the run and every call in flight.
            ///
            /// # Errors
            /// What failed: the definition (see `problems()`), the model, a limit. A member's failure is told to its
            /// leader.
            pub async fn run(&self, input: impl Into<Value>) -> Result<RunOutput, Failure> {
                self.run_with(input, |_| {}).await
            }

            /// [`Self::run`], passing every event, also of members, to `listener` as it happens.
            ///
            /// # Cancel safety
            /// Dropping the future ends the run and every call in flight.
            ///
            /// # Errors
            /// As [`Self::run`].
            pub async fn run_with(
                &self,
                input: impl Into<Value>,
                listener: impl FnMut(RunEvent) + Send,
            ) -> Result<RunOutput, Failure> {
                driver::run_alone(&self.profile, input.into(), listener).await
            }
        }

        impl fmt::Debug for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.profile.fmt(f)
            }
        }

        /// As a step, named after itself.
        impl From<$Type> for Block {
            fn from(executor: $Type) -> Self {
                Step::new(&executor.profile.name).executor(executor).into()
            }
        }

        impl Executor for $Type {
            fn info(&self) -> ExecutorInfo {
                let Profile { name, .. } = &*self.profile;
                ExecutorInfo { kind: self.profile.kind(), name: name.clone(), id: self.profile.id().ok() }
            }

            fn describe(&self) -> Option<Value> {
                Some($Type::describe(self))
            }

            fn problems(&self) -> Vec<String> {
                self.profile.problems()
            }

            fn tool_effect(&self, tool: &str) -> Option<ToolEffect> {
                self.profile.tool_effect(tool)
            }

            fn masked(&self, input: Value) -> Value {
                self.profile.masked(input)
            }

            fn models(&self) -> Vec<String> {
                self.profile.models()
            }

            fn secrets(&self) -> Vec<Secret> {
                self.profile.secrets()
            }

            fn workflows(&self) -> Vec<Arc<Definition>> {
                self.profile.workflows()
            }

            fn deep_copy(&self) -> Option<Arc<dyn Executor>> {
                Some(Arc::new($Type::deep_copy(self)))
            }

            fn execute<'a>(
                &'a self,
                context: StepContext,
                input: Arc<StepInput>,
            ) -> BoxFuture<'a, Result<Executed, Failure>> {
                Box::pin(async move { driver::run_in_step(&self.profile, &context, &input).await })
            }
        }
    };
}

methods!(Agent);
methods!(Team);
