//! One step: its data, and its builder.

use super::remember::HistoryWish;
use super::{Definition, HumanReview, Node, Settings, StepHistory};
use crate::failure::{Failure, FailureKind};
use crate::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext, Tether};
use crate::retry::Retry;
use crate::step::{ExecutorKind, StepInput, StepOutput};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a failed step does to its run once its retries are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The run ends ERROR.
    #[default]
    Fail,
    /// The step's output says that it failed, and the run goes on.
    Skip,
    /// A person is asked: try it again, or go on without it?
    Pause,
}

/// A leaf of the tree: one executor and how patiently it is run.
#[derive(Clone, Debug, PartialEq)]
pub struct StepNode {
    /// The step's name, unique among its siblings.
    pub name: Arc<str>,
    /// What it is for.
    pub description: Option<Arc<str>>,
    /// What runs inside.
    pub executor_type: ExecutorKind,
    /// Its name.
    pub executor_name: Arc<str>,
    /// Whether what runs inside [must never start twice](Executor::starts_once) by itself.
    pub starts_once: bool,
    /// The id of an agent or a team.
    pub executor_id: Option<Arc<str>>,
    /// How often it is tried again.
    pub retry: Retry,
    /// Longest time for one attempt, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// What its failure does.
    pub on_error: OnError,
    /// Where it asks a person.
    pub review: Option<Arc<HumanReview>>,
    /// The workflows that calls inside it may have executed.
    pub workflows: Vec<Node>,
    /// Whether it sees the session's history; none when neither it nor its workflow says so.
    pub history: Option<StepHistory>,
}

/// An async function as an executor, under its own name; [`Step::function`] names it after its step.
///
/// ```
/// use outlive_core::{Failure, Function, Step};
/// let upper = Function::new("upper", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
/// let step = Step::new("first").executor(upper);
/// ```
pub struct Function<F> {
    name: Arc<str>,
    function: F,
}

impl<F, T, R> Function<F>
where
    F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, Failure>> + Send + 'static,
    T: Into<StepOutput> + 'static,
{
    /// The function, under the name that outputs and events give as `executor_name`.
    pub fn new(name: impl AsRef<str>, function: F) -> Self {
        Self { name: Arc::from(name.as_ref()), function }
    }
}

impl<F> fmt::Debug for Function<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F, T, R> Executor for Function<F>
where
    F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, Failure>> + Send + 'static,
    T: Into<StepOutput>,
{
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Function, name: self.name.clone(), id: None }
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        let work = (self.function)(context, input);
        Box::pin(async move { Ok(Executed::from(work.await?.into())) })
    }
}

/// A function that may block as an executor, under its own name; [`Step::blocking`] names it after its step.
pub struct Blocking<F> {
    name: Arc<str>,
    function: Arc<F>,
}

impl<F, T> Blocking<F>
where
    F: Fn(StepContext, Arc<StepInput>) -> Result<T, Failure> + Send + Sync + 'static,
    T: Into<StepOutput> + 'static,
{
    /// The function, under the name that outputs and events give as `executor_name`.
    pub fn new(name: impl AsRef<str>, function: F) -> Self {
        Self { name: Arc::from(name.as_ref()), function: Arc::new(function) }
    }
}

impl<F> fmt::Debug for Blocking<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F, T> Executor for Blocking<F>
where
    F: Fn(StepContext, Arc<StepInput>) -> Result<T, Failure> + Send + Sync + 'static,
    T: Into<StepOutput> + 'static,
{
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Function, name: self.name.clone(), id: None }
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async move {
            let effects = context.effects.clone();
            // Cut when this future is dropped: the thread then speaks to nobody.
            let (tether, _holder) = Tether::new(effects.clone());
            let context = StepContext { effects: Arc::new(tether), ..context };
            let ended = Arc::new(Mutex::new(None));
            let (function, end) = (self.function.clone(), ended.clone());
            let work = move || {
                let result = catch_unwind(AssertUnwindSafe(|| Ok((function)(context, input)?.into())));
                *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            };
            effects.on_thread(Box::new(work)).await?;
            let ended = ended.lock().unwrap_or_else(PoisonError::into_inner).take();
            match ended {
                Some(Ok(output)) => output.map(|output: StepOutput| Executed::from(output)),
                Some(Err(panic)) => resume_unwind(panic),
                None => Err(Failure::new(FailureKind::Panic, "its thread broke off")),
            }
        })
    }
}

/// A step under construction: a name, one executor, and how patiently it is run.
///
/// A step whose output is stored is never executed again. A function step that was in flight at a crash is executed
/// again (at least once), so a side effect in it should carry [`StepContext::idempotency_key`], or be a call that is
/// recorded on its own ([`StepContext::once`]). Inside an agent or team step every model call and every tool call is
/// recorded on its own, so a crash repeats one call, not the conversation.
#[must_use]
pub struct Step {
    pub(super) name: Arc<str>,
    pub(super) description: Option<Arc<str>>,
    pub(super) executors: Vec<Arc<dyn Executor>>,
    pub(super) workflows: Vec<Arc<Definition>>,
    pub(super) retry: Retry,
    pub(super) timeout: Option<Duration>,
    pub(super) on_error: OnError,
    pub(super) review: Option<Arc<HumanReview>>,
    pub(super) history: HistoryWish,
}

impl StepNode {
    /// What it has in common with containers.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            name: self.name.clone(),
            description: self.description.clone(),
            retry: self.retry,
            timeout_ms: self.timeout_ms,
            on_error: self.on_error,
            review: self.review.clone(),
        }
    }
}

impl Step {
    /// A step of this name. Give it an agent, a team or a function.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self {
            name: Arc::from(name.as_ref()),
            description: None,
            executors: Vec::new(),
            workflows: Vec::new(),
            retry: Retry::default(),
            timeout: None,
            on_error: OnError::default(),
            review: None,
            history: HistoryWish::default(),
        }
    }

    /// A step that runs an async function over the step's context and input.
    ///
    /// ```
    /// use outlive_core::{Failure, Step};
    /// let shout = Step::function("shout", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
    /// ```
    pub fn function<F, T, R>(name: impl AsRef<str>, function: F) -> Self
    where
        F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Into<StepOutput> + 'static,
    {
        let name: Arc<str> = Arc::from(name.as_ref());
        Self::new(&name).executor(Function { name, function })
    }

    /// A step that runs a function which may block: it waits for a file, a lock or a service, or computes for long. It is
    /// called on a thread of its own, of which there are as many as the engine's options say; further calls wait until
    /// one is free.
    ///
    /// A thread cannot be stopped. When the run is cancelled, goes over its time or moves to another process, nobody
    /// waits for the function any more: what it still says and returns is thrown away.
    ///
    /// ```
    /// use outlive_core::Step;
    ///
    /// let count = Step::blocking("Count lines", |context, input| {
    ///     context.progress("reading", None);
    ///     let text = std::fs::read_to_string(input.text())?;
    ///     Ok(text.lines().count().to_string())
    /// });
    /// ```
    pub fn blocking<F, T>(name: impl AsRef<str>, function: F) -> Self
    where
        F: Fn(StepContext, Arc<StepInput>) -> Result<T, Failure> + Send + Sync + 'static,
        T: Into<StepOutput> + 'static,
    {
        Self::new(&name).executor(Blocking::new(&name, function))
    }

    /// What the step is for.
    pub fn description(mut self, text: impl AsRef<str>) -> Self {
        self.description = Some(Arc::from(text.as_ref()));
        self
    }

    /// Runs this agent.
    pub fn agent(self, agent: impl Executor) -> Self {
        self.executor(agent)
    }

    /// Runs this team.
    pub fn team(self, team: impl Executor) -> Self {
        self.executor(team)
    }

    /// Runs another workflow: a run inside the run, with its own id and events, in the same session. It works on what
    /// the step is given, and sees nothing else of the workflow around it. Its database, schema and time limit are not
    /// used.
    pub fn workflow(mut self, workflow: impl Into<Arc<Definition>>) -> Self {
        self.workflows.push(workflow.into());
        self
    }

    /// Runs anything that can be run.
    pub fn executor(mut self, executor: impl Executor) -> Self {
        self.executors.push(Arc::new(executor));
        self
    }

    /// As [`Step::executor`], one that others run too.
    pub fn shared_executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executors.push(executor);
        self
    }

    /// How often a failed attempt is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Longest time for one attempt; a longer one fails with a timeout, which counts as retryable.
    pub fn timeout(mut self, longest: Duration) -> Self {
        self.timeout = Some(longest);
        self
    }

    /// What the step's failure does to the run.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// Whether it sees what earlier runs of its session were asked and came to, whatever its workflow says. Not for a step
    /// that runs a workflow, whose steps say so themselves.
    pub fn add_workflow_history(mut self, wanted: bool) -> Self {
        self.history.add = Some(wanted);
        self
    }

    /// How many earlier runs it sees; as many as its workflow says, or 3, unless set.
    pub fn num_history_runs(mut self, runs: u32) -> Self {
        self.history.num_runs = Some(runs);
        self
    }

    /// About how many tokens the earlier runs that it sees may take, at four bytes each: the oldest are left out first.
    pub fn history_max_tokens(mut self, tokens: u32) -> Self {
        self.history.max_tokens = Some(tokens);
        self
    }

    /// Where it asks a person: before it begins, or about its output.
    pub fn human_review(mut self, review: HumanReview) -> Self {
        self.review = Some(Arc::new(review));
        self
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("name", &self.name).finish_non_exhaustive()
    }
}
