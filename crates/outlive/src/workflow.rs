//! The workflow as users see it: a definition, a database, and the engine, started on first use.
//!
//! There is one path. Foreground, background and streaming all submit, let the engine execute, and read the log.

use crate::error::Result;
use crate::input;
use outlive_agent::model::IntoModel;
use outlive_agent::tool::CalledWorkflow;
use outlive_agent::{Agent, WorkflowAgent};
use outlive_core::port::{BoxFuture, Db, Executor, Observer, SessionPolicy, StepContext};
use outlive_core::{
    Answer, Block, Budget, Definition, DefinitionBuilder, Failure, InputSchema, InvalidDefinition, Media, Prices,
    Registry, Retention, RunId, RunStatus, Step, StepInput, StepOutput, Timestamp, WorkflowRunOutput,
};
use outlive_engine::{Engine, EventStream, Options, RunHandle, Submit};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// A workflow with its database. Cheap to clone; clones share one engine.
///
/// The engine starts on first use and then also takes over this workflow's unfinished runs, whichever process started
/// them. Exiting without [`Workflow::shutdown`] loses nothing.
#[derive(Clone)]
pub struct Workflow {
    inner: Arc<Inner>,
}

struct Inner {
    definition: Arc<Definition>,
    db: Arc<dyn Db>,
    observer: Option<Arc<dyn Observer>>,
    options: Options,
    engine: OnceCell<Engine>,
}

/// A workflow under construction.
#[must_use]
pub struct WorkflowBuilder {
    definition: DefinitionBuilder,
    db: Option<Arc<dyn Db>>,
    observer: Option<Arc<dyn Observer>>,
    options: Options,
}

impl WorkflowBuilder {
    /// Keeps runs here.
    pub fn db(mut self, db: impl Db) -> Self {
        self.db = Some(Arc::new(db));
        self
    }

    /// Keeps runs in a shared store.
    pub fn shared_db(mut self, db: Arc<dyn Db>) -> Self {
        self.db = Some(db);
        self
    }

    /// Gives it another name.
    pub fn name(mut self, name: impl AsRef<str>) -> Self {
        self.definition = self.definition.name(name);
        self
    }

    /// Sets the id; by default it is made from the name (`Content Creation` becomes `content-creation`).
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.definition = self.definition.id(id);
        self
    }

    /// What the workflow is for.
    pub fn description(mut self, text: impl AsRef<str>) -> Self {
        self.definition = self.definition.description(text);
        self
    }

    /// Has an agent lead the workflow: what a run is asked comes to it first, and it answers from what the session's
    /// earlier runs came to, or has the steps work on a query of its own. Agno's `agent`.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let model = ScriptedModel::from_fn("leader", |request| {
    ///     let knows = format!("{:?}", request.messages).contains("Once there was a dog");
    ///     Ok(match knows {
    ///         true => ModelResponse::text("It was about a dog."),
    ///         false => ModelResponse::calls(vec![ToolCall::new("call-1", "run_workflow", r#"{"query": "a dog"}"#)]),
    ///     })
    /// });
    /// let write = Step::function("Write", |_, input| async move { Ok::<_, Failure>(format!("Once there was {}.", input.text())) });
    /// let workflow = Workflow::builder("Stories")
    ///     .db(InMemoryDb::new())
    ///     .agent(WorkflowAgent::new(model).num_history_runs(4))
    ///     .step(write)
    ///     .build()?;
    ///
    /// let story = workflow.run("Tell me a story about a dog").session_id("ada").await?;
    /// assert_eq!(story.text(), "Once there was a dog.");
    /// let answer = workflow.run("What was it about?").session_id("ada").await?;
    /// assert_eq!((answer.text().as_str(), answer.step_results.len()), ("It was about a dog.", 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn agent(mut self, agent: WorkflowAgent) -> Self {
        self.definition = self.definition.agent(agent);
        self
    }

    /// Adds a step or a container after the ones before.
    pub fn step(mut self, step: impl Into<Block>) -> Self {
        self.definition = self.definition.step(step);
        self
    }

    /// Adds steps after the ones before.
    pub fn steps<B: Into<Block>>(self, steps: impl IntoIterator<Item = B>) -> Self {
        steps.into_iter().fold(self, Self::step)
    }

    /// Makes the whole workflow one async function, in one step with the workflow's name.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let workflow = Workflow::builder("Shout")
    ///     .db(InMemoryDb::new())
    ///     .function(|_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) })
    ///     .build()?;
    /// assert_eq!(workflow.run("hello").await?.text(), "HELLO");
    /// # Ok(())
    /// # }
    /// ```
    pub fn function<F, T, R>(mut self, function: F) -> Self
    where
        F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Into<StepOutput> + 'static,
    {
        self.definition = self.definition.function(function);
        self
    }

    /// Whether steps see what earlier runs of their session were asked and came to, unless they say otherwise; off
    /// unless set. Agents and teams are told in front of what they are asked; functions find it in
    /// [`StepInput::workflow_history`], or ask with [`StepContext::history`].
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let count = Step::function("Count", |_, input| async move {
    ///     Ok::<_, Failure>(format!("{} before this", input.workflow_history().len()))
    /// });
    /// let workflow = Workflow::builder("Chat")
    ///     .db(InMemoryDb::new())
    ///     .add_workflow_history_to_steps(true)
    ///     .step(count)
    ///     .build()?;
    /// assert_eq!(workflow.run("Hello").session_id("ada").await?.text(), "0 before this");
    /// assert_eq!(workflow.run("Hello again").session_id("ada").await?.text(), "1 before this");
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_workflow_history_to_steps(mut self, wanted: bool) -> Self {
        self.definition = self.definition.add_workflow_history_to_steps(wanted);
        self
    }

    /// How many earlier runs steps see; 3 unless set.
    pub fn num_history_runs(mut self, runs: u32) -> Self {
        self.definition = self.definition.num_history_runs(runs);
        self
    }

    /// About how many tokens the earlier runs that a step sees may take, at four bytes each: the oldest are left out
    /// first. No limit unless set.
    pub fn history_max_tokens(mut self, tokens: u32) -> Self {
        self.definition = self.definition.history_max_tokens(tokens);
        self
    }

    /// Has this model sum up the runs that are too old to be shown, or do not fit. Its calls are recorded like those of the
    /// step that needs the summary; the summary is kept in the session's state, as `session_summary`, so that later runs add
    /// only what is new.
    pub fn summarize_history(mut self, model: impl IntoModel) -> Self {
        self.definition = self.definition.summarize_history(Agent::summarizer(model));
        self
    }

    /// Initial state of new sessions; a run's own [`RunRequest::session_state`] is laid over it. Steps read and
    /// change it through [`StepContext::state`].
    pub fn session_state(mut self, state: Map<String, Value>) -> Self {
        self.definition = self.definition.session_state(state);
        self
    }

    /// What happens to a run that does not say itself ([`RunRequest::session_policy`]), when its session has an unfinished
    /// one; it waits unless set.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # fn main() -> outlive::Result<()> {
    /// let agent = Agent::new("Writer").model(ScriptedModel::replies([]));
    /// let chat = Workflow::builder("Chat").db(InMemoryDb::new()).session_policy(SessionPolicy::Steer).step(agent).build()?;
    /// # let _ = chat;
    /// # Ok(())
    /// # }
    /// ```
    pub fn session_policy(mut self, policy: SessionPolicy) -> Self {
        self.definition = self.definition.session_policy(policy);
        self
    }

    /// The id of the agent or the team that hears what is sent to a run with [`SessionPolicy::Steer`] and does not say
    /// itself who is to hear it; the agent, or the team's leader, that executes unless set.
    pub fn steer_to(mut self, id: impl AsRef<str>) -> Self {
        self.definition = self.definition.steer_to(id);
        self
    }

    /// Inputs must deserialize as a `T`: an object, or its JSON text. Steps see `T` serialized again, with defaults
    /// filled in; any other input is refused before a run exists.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// #[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
    /// struct Topic {
    ///     topic: String,
    ///     #[serde(default)]
    ///     depth: u32,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let echo = Step::function("echo", |_, input| async move { Ok::<_, Failure>(input.input_text()) });
    /// let workflow = Workflow::builder("Echo").db(InMemoryDb::new()).input_schema::<Topic>().step(echo).build()?;
    /// assert_eq!(workflow.run(r#"{"topic": "AI"}"#).await?.text(), r#"{"depth":0,"topic":"AI"}"#);
    /// let refused = workflow.run(r#"{"depth": 3}"#).await.expect_err("it has no topic").to_string();
    /// assert_eq!(refused, "Input failed schema validation: missing field `topic`");
    /// # Ok(())
    /// # }
    /// ```
    pub fn input_schema<T: JsonSchema + DeserializeOwned + Serialize + 'static>(mut self) -> Self {
        self.definition = self.definition.input_schema(input::schema_of::<T>());
        self
    }

    /// Inputs must fit this JSON Schema: what it describes, or its JSON text. Any other input is refused before a run exists.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let schema = serde_json::json!({ "type": "object", "required": ["topic"] });
    /// let echo = Step::function("echo", |_, input| async move { Ok::<_, Failure>(input.input_text()) });
    /// let workflow = Workflow::builder("Echo").db(InMemoryDb::new()).input_schema_json(schema).step(echo).build()?;
    /// let refused = workflow.run(r#"{"depth": 3}"#).await.expect_err("it has no topic").to_string();
    /// assert_eq!(refused, "Input failed schema validation: it lacks topic");
    /// # Ok(())
    /// # }
    /// ```
    pub fn input_schema_json(mut self, schema: Value) -> Self {
        self.definition = self.definition.input_schema(InputSchema::json(schema));
        self
    }

    /// Whether streams of its runs tell what the agents and teams of its steps do, and not the steps alone; on unless
    /// set. The log keeps everything: [`RunHandle::events`] and the command line tell all of it.
    pub fn stream_executor_events(mut self, wanted: bool) -> Self {
        self.definition = self.definition.events(|events| events.stream_executor_events = wanted);
        self
    }

    /// Whether a run that is read has its events in [`WorkflowRunOutput::events`]; off unless set. They are read from the
    /// run's log, by processes that have this workflow; steps' outputs are not repeated.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let workflow = Workflow::builder("Shout")
    ///     .db(InMemoryDb::new())
    ///     .function(|_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) })
    ///     .store_events(true)
    ///     .events_to_skip(["StepStarted"])
    ///     .build()?;
    /// let run = workflow.run("hello").await?;
    /// let names: Vec<_> = run.events.iter().filter_map(|event| event["event"].as_str()).collect();
    /// assert_eq!(names, ["WorkflowStarted", "StepCompleted", "WorkflowCompleted"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn store_events(mut self, wanted: bool) -> Self {
        self.definition = self.definition.events(|events| events.store_events = wanted);
        self
    }

    /// Names of events, such as `RunContent`, that a run with [`WorkflowBuilder::store_events`] does not have.
    pub fn events_to_skip<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(|name| Arc::from(name.as_ref()));
        self.definition = self.definition.events(|events| events.events_to_skip.extend(names));
        self
    }

    /// Limits what its runs may use, beside the budgets before. A call of a model for which too little is left asks people:
    /// it may be made, the budget is raised, or the call fails. What counts against a budget of several runs is in the
    /// database, so processes share it.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # fn main() -> outlive::Result<()> {
    /// let agent = Agent::new("Researcher").model(ScriptedModel::replies([]));
    /// let workflow = Workflow::builder("Research")
    ///     .db(InMemoryDb::new())
    ///     .step(agent)
    ///     .budget(Budget::tokens(200_000).per_run())
    ///     .budget(Budget::calls(100).per_user_per_day())
    ///     .build()?;
    /// # let _ = workflow;
    /// # Ok(())
    /// # }
    /// ```
    pub fn budget(mut self, budget: Budget) -> Self {
        self.definition = self.definition.budget(budget);
        self
    }

    /// What models cost. With prices, metrics say what runs cost; a budget of money goes by them, and unless they are
    /// given by [`Prices::built_in`].
    pub fn prices(mut self, prices: impl Into<Arc<Prices>>) -> Self {
        self.definition = self.definition.prices(prices);
        self
    }

    /// Longest time for a whole run; a longer one ends ERROR.
    pub fn timeout(mut self, longest: Duration) -> Self {
        self.definition = self.definition.timeout(longest);
        self
    }

    /// At most this many of its runs execute at once, over all processes that share the database; of runs with a
    /// [`RunRequest::concurrency_key`], this many with each key. The others wait: those with a higher priority go first,
    /// then those accepted first. A run that is PAUSED has given up its place, one that backs off or sleeps has not.
    pub fn concurrency(mut self, most: u32) -> Self {
        self.definition = self.definition.concurrency(most);
        self
    }

    /// How long its runs that have ended are kept, by age and by count; without it, as long as [`Options::retention`]
    /// says. What both limit goes by the stricter.
    ///
    /// ```
    /// use outlive::prelude::*;
    /// use std::time::Duration;
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let greet = Step::function("Greet", |_, input| async move { Ok::<_, Failure>(format!("Hi, {}", input.text())) });
    /// let week = Duration::from_secs(7 * 86_400);
    /// let workflow = Workflow::builder("Greeting")
    ///     .db(InMemoryDb::new())
    ///     .step(greet)
    ///     .retention(Retention::new().max_age(week).max_runs(10_000))
    ///     .build()?;
    /// # let _ = workflow;
    /// # Ok(())
    /// # }
    /// ```
    pub fn retention(mut self, retention: Retention) -> Self {
        self.definition = self.definition.retention(retention);
        self
    }

    /// Passes every commit to this observer: for example `Otlp`, with the feature of that name.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// How the engine behaves.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Checks everything, for a workflow that only runs inside steps of others and so needs no database: see
    /// [`Step::workflow`](outlive_core::Step::workflow).
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let shout = Step::function("shout", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
    /// let inner = Workflow::builder("Shouting").step(shout).definition()?;
    /// let outer = Workflow::builder("Outer").db(InMemoryDb::new()).step(inner).build()?;
    /// assert_eq!(outer.run("hello").await?.text(), "HELLO");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Every problem at once, as [`WorkflowBuilder::build`].
    pub fn definition(self) -> Result<Arc<Definition>> {
        Ok(Arc::new(checked(self.definition)?))
    }

    /// Checks everything. Nothing is opened yet.
    ///
    /// # Errors
    /// Every problem at once: no database, no steps, duplicate names, a missing key, an empty team …
    pub fn build(self) -> Result<Workflow> {
        let missing = "it has no database: give it one with .db(SqliteDb::new(\"tmp/workflow.db\"))";
        let name = self.definition.current_name();
        let (definition, db) = match (checked(self.definition), self.db) {
            (Ok(definition), Some(db)) => (definition, db),
            (Ok(_), None) => {
                return Err(InvalidDefinition { name, problems: vec![missing.to_owned()] }.into());
            }
            (Err(invalid), Some(_)) => return Err(invalid.into()),
            (Err(mut invalid), None) => {
                invalid.problems.push(missing.to_owned());
                return Err(invalid.into());
            }
        };
        let definition = Arc::new(definition);
        let (observer, options, engine) = (self.observer, self.options, OnceCell::new());
        Ok(Workflow { inner: Arc::new(Inner { definition, db, observer, options, engine }) })
    }
}

/// Builds a definition whose budgets this machine can count.
fn checked(builder: DefinitionBuilder) -> Result<Definition, InvalidDefinition> {
    let definition = builder.build()?;
    let problems = outlive_engine::budget_problems(&definition);
    if problems.is_empty() { Ok(definition) } else { Err(InvalidDefinition { name: definition.name, problems }) }
}

/// For [`Step::workflow`](outlive_core::Step::workflow).
impl From<&Workflow> for Arc<Definition> {
    fn from(workflow: &Workflow) -> Self {
        workflow.inner.definition.clone()
    }
}

/// For [`Step::workflow`](outlive_core::Step::workflow).
impl From<Workflow> for Arc<Definition> {
    fn from(workflow: Workflow) -> Self {
        Self::from(&workflow)
    }
}

/// For [`WorkflowTools`](outlive_agent::tool::WorkflowTools): an agent that runs alone has it run in its own database. A
/// call that is made again finds the run it has started; one that is dropped leaves its run to itself.
impl From<&Workflow> for CalledWorkflow {
    fn from(workflow: &Workflow) -> Self {
        let runs = workflow.clone();
        let called = Self::from(workflow.inner.definition.clone());
        called.with_runner(move |input, data, key| {
            let request = runs.run(input).idempotency_key(&*key);
            let request = match data {
                Some(data) => request.additional_data(data),
                None => request,
            };
            async move { request.await.map(|run| run.text()).map_err(|error| Failure::fatal(error.to_string())) }
        })
    }
}

/// As from a reference.
impl From<Workflow> for CalledWorkflow {
    fn from(workflow: Workflow) -> Self {
        Self::from(&workflow)
    }
}

/// A workflow as a step of another, named after it.
impl From<&Workflow> for Block {
    fn from(workflow: &Workflow) -> Self {
        Step::new(&workflow.inner.definition.name).workflow(workflow).into()
    }
}

impl Workflow {
    /// Starts building a workflow.
    pub fn builder(name: impl AsRef<str>) -> WorkflowBuilder {
        Self::building(Definition::builder(name))
    }

    /// Starts building the workflow that runs an agent or a team alone, in one step. Its name is the executor's, its id
    /// `agent:ID` or `team:ID`.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// let agent = Agent::new("Solo Agent").model(ScriptedModel::replies([]));
    /// let workflow = Workflow::of(agent).db(InMemoryDb::new()).build().unwrap();
    /// assert_eq!(workflow.definition().id.as_str(), "agent:solo-agent");
    /// ```
    pub fn of(executor: impl Executor) -> WorkflowBuilder {
        Self::building(Definition::of(executor))
    }

    /// Starts building the workflow that [`Workflow::to_json`] has described, with the code that its JSON names. What is
    /// wrong with the JSON, and all code that is missing, is told by `build()`, each with its path. Agno's `from_dict`.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # fn main() -> outlive::Result<()> {
    /// let json = serde_json::json!({ "name": "Loud", "steps": [{ "name": "shout", "executor_ref": "shout" }] });
    /// let registry = Registry::new()
    ///     .function("shout", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
    /// let workflow = Workflow::from_json(&json, &registry).db(InMemoryDb::new()).build()?;
    /// assert_eq!(workflow.definition().id.as_str(), "loud");
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_json(json: &Value, registry: &Registry) -> WorkflowBuilder {
        Self::building(DefinitionBuilder::from_json(json, registry))
    }

    /// Everything but the code and the database, in the shape of Agno's `to_dict`: functions, agents and teams are named
    /// in it. [`Workflow::from_json`] reads it, and so does `outlive workflow diff`.
    pub fn to_json(&self) -> Value {
        self.inner.definition.to_json()
    }

    /// Starts building a copy, with copies of its agents and teams, the same database and an engine of its own: whatever is
    /// changed in it does not change this one. An id that was made from the name follows a new name. Agno's `deep_copy`.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # fn main() -> outlive::Result<()> {
    /// let echo = |name| Step::function(name, |_, input| async move { Ok::<_, Failure>(input.text()) });
    /// let one = Workflow::builder("One").db(InMemoryDb::new()).step(echo("a")).build()?;
    /// let two = one.deep_copy().name("Two").step(echo("b")).build()?;
    /// assert_eq!((one.definition().id.as_str(), one.definition().nodes.len()), ("one", 1));
    /// assert_eq!((two.definition().id.as_str(), two.definition().nodes.len()), ("two", 2));
    /// # Ok(())
    /// # }
    /// ```
    pub fn deep_copy(&self) -> WorkflowBuilder {
        let Inner { definition, db, observer, options, .. } = &*self.inner;
        WorkflowBuilder {
            db: Some(db.clone()),
            observer: observer.clone(),
            options: options.clone(),
            ..Self::building(definition.deep_copy())
        }
    }

    /// The workflow of a definition that was checked.
    #[cfg(feature = "files")]
    pub(crate) fn of_definition(definition: Arc<Definition>, db: Arc<dyn Db>) -> Self {
        let (observer, options, engine) = (None, Options::default(), OnceCell::new());
        Self { inner: Arc::new(Inner { definition, db, observer, options, engine }) }
    }

    fn building(definition: DefinitionBuilder) -> WorkflowBuilder {
        WorkflowBuilder { definition, db: None, observer: None, options: Options::default() }
    }

    /// Where its runs are kept.
    #[cfg(feature = "server")]
    pub(crate) fn db(&self) -> &Arc<dyn Db> {
        &self.inner.db
    }

    /// The workflow's definition, for an [`Engine`] shared by several workflows.
    pub fn definition(&self) -> &Arc<Definition> {
        &self.inner.definition
    }

    /// The engine, started by the first call.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub async fn engine(&self) -> Result<&Engine> {
        let inner = &self.inner;
        let start = || async {
            let builder = Engine::builder(inner.db.clone()).options(inner.options.clone());
            let builder = match &inner.observer {
                Some(observer) => builder.observer(observer.clone()),
                None => builder,
            };
            builder.workflow(inner.definition.clone()).start().await
        };
        Ok(inner.engine.get_or_try_init(start).await?)
    }

    /// A run of this workflow. Await it for the result, or call `.background()` or `.stream()`.
    ///
    /// Awaiting returns the run if it is COMPLETED. A run that failed, was cancelled or is PAUSED has no result:
    /// awaiting it returns [`Error::NotCompleted`](crate::Error::NotCompleted), which holds the run.
    /// `.background().await?.wait().await?` returns the run however it ended.
    ///
    /// ```
    /// use outlive::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> outlive::Result<()> {
    /// let fails = |_, _| async { Err::<String, _>(Failure::fatal("the kitchen is on fire")) };
    /// let workflow = Workflow::builder("Kitchen").db(InMemoryDb::new()).function(fails).build()?;
    ///
    /// let Err(outlive::Error::NotCompleted(failed)) = workflow.run("soup").await else { panic!("it cannot succeed") };
    /// assert_eq!(failed.status(), RunStatus::Error);
    /// assert!(failed.to_string().contains("the kitchen is on fire"));
    ///
    /// let run = workflow.run("soup").background().await?.wait().await?;
    /// assert_eq!(run.status, RunStatus::Error);
    /// # Ok(())
    /// # }
    /// ```
    pub fn run(&self, input: impl Into<Value>) -> RunRequest {
        let input = Some(input.into()).filter(|input| !input.is_null());
        RunRequest { workflow: self.clone(), submit: Submit { input, ..Submit::default() } }
    }

    /// The run as stored, whichever process executes it; `None` when there is no such run.
    ///
    /// # Errors
    /// When the text is not a valid id, or the database fails.
    pub async fn get_run(&self, run_id: impl AsRef<str>) -> Result<Option<WorkflowRunOutput>> {
        Ok(self.engine().await?.reader().get_run(&parse(run_id)?).await?)
    }

    /// A handle to any process's run, from its id alone.
    ///
    /// # Errors
    /// When the text is not a valid id, or the database cannot be opened.
    pub async fn attach(&self, run_id: impl AsRef<str>) -> Result<RunHandle> {
        Ok(self.engine().await?.attach(parse(run_id)?))
    }

    /// Answers what a run asks people, all of it or some; the run goes on by itself, here or in another process that
    /// executes its workflow. Each answer goes with its question's id ([`RunHandle::questions`]); `by` is kept with them.
    ///
    /// ```
    /// # use outlive::prelude::*;
    /// # async fn example(workflow: Workflow, run_id: &str) -> outlive::Result<()> {
    /// let open = workflow.attach(run_id).await?.questions().await?;
    /// let answers = open.iter().map(|question| (question.id().clone(), Answer::Approve));
    /// let run = workflow.continue_run(run_id, answers, Some("ada")).await?;
    /// println!("{}", run.wait().await?.status);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a question does not exist, was answered before, or cannot be answered like this; then none is answered. Or
    /// when the database fails.
    pub async fn continue_run(
        &self,
        run_id: impl AsRef<str>,
        answers: impl IntoIterator<Item = (Arc<str>, Answer)>,
        by: Option<&str>,
    ) -> Result<RunHandle> {
        let (engine, run_id) = (self.engine().await?, parse(run_id)?);
        engine.answer(answers, by.map(Arc::from)).await?;
        Ok(engine.attach(run_id))
    }

    /// Cancels a run; returns its status if it was over already. The request is durable when this returns.
    ///
    /// # Errors
    /// When there is no such run, or the database fails.
    pub async fn cancel_run(&self, run_id: impl AsRef<str>, reason: &str) -> Result<Option<RunStatus>> {
        Ok(self.engine().await?.cancel(&parse(run_id)?, reason).await?)
    }

    /// Stops executing: calls in flight may finish, then unfinished runs are released at once for the next process.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn shutdown(&self) -> Result<()> {
        match self.inner.engine.get() {
            Some(engine) => Ok(engine.shutdown().await?),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Workflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workflow").field("id", &self.inner.definition.id).finish_non_exhaustive()
    }
}

fn parse(run_id: impl AsRef<str>) -> Result<RunId> {
    RunId::parse(run_id.as_ref()).map_err(|error| outlive_engine::Error::from(error).into())
}

/// A run to start: with its session, user and state, in the foreground, in the background or as a stream.
#[must_use = "a run starts when this is awaited, or with .background() or .stream()"]
pub struct RunRequest {
    workflow: Workflow,
    submit: Submit,
}

impl RunRequest {
    /// The session the run belongs to; a new one by default.
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.submit.session_id = Some(id.into());
        self
    }

    /// The user the run belongs to.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.submit.user_id = Some(id.into());
        self
    }

    /// What is laid over the session's state when the run begins: objects are merged at every depth, anything else is
    /// replaced. Null removes; inside an object it is a value.
    pub fn session_state(mut self, state: Map<String, Value>) -> Self {
        self.submit.session_state = Some(state);
        self
    }

    /// The caller's own data; steps see it as `additional_data`.
    pub fn additional_data(mut self, data: impl Into<Value>) -> Self {
        self.submit.attachments.additional_data = Some(data.into());
        self
    }

    /// The caller's notes about the run, shown on it and on its last event.
    pub fn metadata(mut self, metadata: Map<String, Value>) -> Self {
        self.submit.attachments.metadata = Some(Box::new(metadata));
        self
    }

    /// What steps may need besides their input: functions see it as `dependencies`, and `{name}` in instructions stands
    /// for what it has under that name, unless the session's state has it.
    pub fn dependencies(mut self, dependencies: Map<String, Value>) -> Self {
        self.submit.attachments.dependencies = Some(Box::new(dependencies));
        self
    }

    /// Images that the agents of every step are shown.
    pub fn images(mut self, images: impl IntoIterator<Item = Media>) -> Self {
        self.submit.attachments.images.get_or_insert_default().extend(images);
        self
    }

    /// Videos; functions see them.
    pub fn videos(mut self, videos: impl IntoIterator<Item = Media>) -> Self {
        self.submit.attachments.videos.get_or_insert_default().extend(videos);
        self
    }

    /// Audio clips; functions see them.
    pub fn audio(mut self, audio: impl IntoIterator<Item = Media>) -> Self {
        self.submit.attachments.audio.get_or_insert_default().extend(audio);
        self
    }

    /// Files that the agents of every step are given.
    pub fn files(mut self, files: impl IntoIterator<Item = Media>) -> Self {
        self.submit.attachments.files.get_or_insert_default().extend(files);
        self
    }

    /// Sets the run's id.
    pub fn run_id(mut self, id: impl Into<String>) -> Self {
        self.submit.run_id = Some(id.into());
        self
    }

    /// Repeating the same request with the same key returns the same run.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.submit.idempotency_key = Some(key.into());
        self
    }

    /// What to do when the session has an unfinished run: as [`WorkflowBuilder::session_policy`] says (the default), wait, refuse, run beside it, or what
    /// [`RunRequest::interrupt`] and [`RunRequest::steer`] say.
    pub fn session_policy(mut self, policy: SessionPolicy) -> Self {
        self.submit.policy = Some(policy);
        self
    }

    /// Cancels the session's unfinished runs and begins when they have ended. Both are one transaction. What they had said
    /// by then is kept, and is history to this run.
    pub fn interrupt(self) -> Self {
        self.session_policy(SessionPolicy::Interrupt)
    }

    /// Sends the input to the session's unfinished run, if it has one of this workflow: the agent, or the leader of the
    /// team, that executes there hears it after its next tool results. The handle is then that run's, and
    /// [`RunHandle::steering_run_id`] says under which id the input waits; if that run ends without having heard it, it is a
    /// run of its own and the session's next.
    pub fn steer(self) -> Self {
        self.session_policy(SessionPolicy::Steer)
    }

    /// As [`RunRequest::steer`], to the agent, team or member with this id.
    pub fn steer_to(mut self, id: impl Into<String>) -> Self {
        self.submit.steer_to = Some(id.into());
        self.steer()
    }

    /// Not to begin before this time. It is accepted at once, and can be cancelled while it waits; it takes its place in
    /// its session's queue now.
    pub fn start_at(mut self, time: Timestamp) -> Self {
        self.submit.start_at = Some(time);
        self
    }

    /// Not to begin before this has passed since it was accepted, as [`RunRequest::start_at`].
    pub fn delay(mut self, wait: Duration) -> Self {
        self.submit.delay = Some(wait);
        self
    }

    /// Of runs that wait for a process with room, those with a higher priority go first; 0 by default. Among equals, those
    /// accepted first. Waiting raises no priority.
    pub fn priority(mut self, priority: i8) -> Self {
        self.submit.priority = priority;
        self
    }

    /// Which runs it counts with where the workflow has a [limit](WorkflowBuilder::concurrency).
    pub fn concurrency_key(mut self, key: impl Into<String>) -> Self {
        self.submit.concurrency_key = Some(key.into());
        self
    }

    /// Starts the run; it is on stable storage when the future is ready, and continues whatever happens to the handle.
    ///
    /// # Errors
    /// When the run was refused or could not be stored; then there is no run.
    pub async fn background(self) -> Result<RunHandle> {
        let engine = self.workflow.engine().await?;
        Ok(engine.submit(&self.workflow.inner.definition.id, self.submit).await?)
    }

    /// Starts the run and follows its events from the first, those that [`WorkflowBuilder::stream_executor_events`] lets it
    /// tell.
    ///
    /// # Errors
    /// As [`RunRequest::background`].
    pub async fn stream(self) -> Result<EventStream> {
        let settings = self.workflow.inner.definition.events.clone();
        Ok(self.background().await?.events(None).telling(settings))
    }
}

impl IntoFuture for RunRequest {
    type Output = Result<WorkflowRunOutput>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.background().await?.await?) })
    }
}
