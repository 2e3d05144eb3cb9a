//! What runs inside a step: a function, an agent, a team, another workflow.

use super::{BoxFuture, Effects, Execution, Halt, Recall};
use crate::event::{COMMON_FIELDS, ContentDelta, EventKind, Origin};
use crate::failure::{Failure, FailureKind};
use crate::history::{HISTORY_RUNS, HistoryRun};
use crate::id::DefinitionId;
use crate::json::{self, TooDeep};
use crate::log::{Key, Record};
use crate::message::ToolEffect;
use crate::question::{Answer, Question};
use crate::run::{RunInfo, RunOutput};
use crate::secret::Secret;
use crate::step::{ExecutorKind, StepIndex, StepInput, StepOutput};
use crate::time::Timestamp;
use crate::workflow::{Definition, HumanReview};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What an executor is, for events, outputs and the definition's hash.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorInfo {
    /// Function, agent, team or workflow.
    pub kind: ExecutorKind,
    /// Its name.
    pub name: Arc<str>,
    /// Its id, for agents, teams and workflows.
    pub id: Option<DefinitionId>,
}

/// Facts about one attempt at one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepInfo {
    /// Its key: the path in the definition, and from the second attempt on `~2`, `~3` …
    pub key: Key,
    /// Its id in events.
    pub step_id: Arc<str>,
    /// Its name.
    pub step_name: Arc<str>,
    /// Its place.
    pub step_index: StepIndex,
    /// From 1; 2 or more after a failure and a retry, not after a crash.
    pub attempt: u32,
    /// What its events are about. Those of an agent or team inside it say so too.
    pub origin: Origin,
}

/// The session's state as one step, or one call of a tool, sees and changes it. Changes are recorded and applied with the
/// step's or the call's end.
#[derive(Clone, Debug, Default)]
pub struct SessionState {
    inner: Arc<Mutex<StateInner>>,
}

#[derive(Debug, Default)]
struct StateInner {
    state: Arc<Map<String, Value>>,
    patch: Map<String, Value>,
}

impl SessionState {
    /// A view of `state`, without changes yet.
    pub fn new(state: Arc<Map<String, Value>>) -> Self {
        Self { inner: Arc::new(Mutex::new(StateInner { state, patch: Map::new() })) }
    }

    /// The value under `key`, with this step's own changes.
    pub fn get(&self, key: &str) -> Option<Value> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.patch.get(key) {
            Some(Value::Null) => None,
            Some(changed) => Some(changed.clone()),
            None => inner.state.get(key).cloned(),
        }
    }

    /// Sets `key`. Null removes it.
    pub fn set(&self, key: impl Into<String>, value: impl Into<Value>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.patch.insert(key.into(), value.into());
    }

    /// The whole state, with this step's own changes.
    pub fn all(&self) -> Map<String, Value> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = (*inner.state).clone();
        merge(&mut all, &inner.patch);
        all
    }

    /// Checks what this step changed.
    ///
    /// # Errors
    /// [`TooDeep`] when a value is deeper than [`json::DEPTH_MAX`]; it is taken out.
    pub fn check(&self) -> Result<(), TooDeep> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.patch.values_mut().try_for_each(json::admit)
    }

    /// A view of the state as it is now. Changes made in it stay there until they are [applied](Self::apply) here.
    pub fn fork(&self) -> Self {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.patch.is_empty() {
            return Self::new(inner.state.clone());
        }
        drop(inner);
        Self::new(Arc::new(self.all()))
    }

    /// Takes over changes in the form that [`SessionState::patch`] returns.
    pub fn apply(&self, patch: &Value) {
        let Value::Object(patch) = patch else { return };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.patch.extend(patch.iter().map(|(key, value)| (key.clone(), value.clone())));
    }

    /// What this step changed, key by key, null for what it removed; nothing when nothing changed.
    pub fn patch(&self) -> Option<Value> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (!inner.patch.is_empty()).then(|| Value::Object(inner.patch.clone()))
    }
}

/// Applies `patch` key by key: null removes, anything else replaces.
pub fn merge(state: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => drop(state.remove(key)),
            value => drop(state.insert(key.clone(), value.clone())),
        }
    }
}

/// What a run's own state changes in its session's when it begins, as a patch for [`merge`]: objects that both have are
/// merged at every depth, and there null is a value; anything else is replaced, and null removes.
///
/// ```
/// use outlive_core::port::{laid_over, merge};
/// use serde_json::json;
///
/// let mut state = json!({ "user": { "name": "Ada", "city": "Rome" } }).as_object().unwrap().clone();
/// let own = json!({ "user": { "city": null } }).as_object().unwrap().clone();
/// let patch = laid_over(&state, &own);
/// merge(&mut state, &patch);
/// assert_eq!(state["user"], json!({ "name": "Ada", "city": null }));
/// ```
pub fn laid_over(state: &Map<String, Value>, own: &Map<String, Value>) -> Map<String, Value> {
    own.iter().map(|(key, own)| (key.clone(), overlaid(state.get(key), own))).collect()
}

fn overlaid(known: Option<&Value>, own: &Value) -> Value {
    let (Some(Value::Object(known)), Value::Object(own)) = (known, own) else { return own.clone() };
    let mut all = known.clone();
    all.extend(laid_over(known, own));
    Value::Object(all)
}

/// Everything a step may use. Cheap to clone.
#[derive(Clone)]
pub struct StepContext {
    /// The workflow run.
    pub run: Arc<RunInfo>,
    /// The step.
    pub step: Arc<StepInfo>,
    /// The session's state.
    pub state: SessionState,
    /// The world and the log.
    pub effects: Arc<dyn Effects>,
    /// What this execution has done so far.
    pub execution: Execution,
}

impl StepContext {
    /// A key to hand to other services so that they can recognise a repetition: the same however often the step is
    /// executed again, after a crash or a failed attempt. In a container that is tried again it is another.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.run.run_id, self.step.key.attempt(1))
    }

    /// Makes a call whose result is recorded under `name`: after a crash, a [sleep](StepContext::sleep) or a failed
    /// attempt at the step, the function is executed again from its beginning, and the call gives back what it gave
    /// then, without being made. Everything else in the function is repeated. A call in flight at a crash is made again,
    /// so it hands on [`StepContext::call_key`] where the other side can recognise a repetition; an error is not
    /// recorded. A container that is tried again makes its calls anew.
    ///
    /// ```
    /// use outlive_core::port::StepContext;
    /// use outlive_core::Failure;
    ///
    /// async fn order(context: StepContext) -> Result<String, Failure> {
    ///     let key = context.call_key("charge");
    ///     let receipt: String = context.once("charge", || async { Ok(format!("charged under {key}")) }).await?;
    ///     context.sleep("cooling off", std::time::Duration::from_secs(24 * 3600)).await?;
    ///     Ok(receipt)
    /// }
    /// ```
    ///
    /// # Errors
    /// What the call returns. [`FailureKind::Definition`] when the name is empty, longer than 128 bytes or used before in
    /// this execution, or when what was recorded is no `T`; [`FailureKind::Limit`] when the result cannot be kept.
    ///
    /// # Cancel safety
    /// The call may have been made without having been recorded, as after a crash.
    pub async fn once<T, F, R>(&self, name: &str, call: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> R,
        R: Future<Output = Result<T, Failure>>,
    {
        let key = self.named(name)?;
        match self.effects.recall(&key) {
            Recall::Done(value) => return recorded(name, value.get()),
            Recall::Nothing => {
                self.effects.tell(self.about("FunctionCallStarted", name, None), &self.origin(), Some(intent(&key)));
            }
            Recall::Started | Recall::Run(_) => {}
        }
        let _calling = self.execution.calling();
        self.durable().await?;
        let result = call().await?;
        let unkept =
            |problem: String| Failure::new(FailureKind::Limit, format!("what {name:?} gave cannot be kept: {problem}"));
        let mut value = serde_json::to_value(&result).map_err(|error| unkept(error.to_string()))?;
        json::admit(&mut value).map_err(|too_deep| unkept(too_deep.to_string()))?;
        let value = serde_json::value::to_raw_value(&value).map_err(|error| unkept(error.to_string()))?;
        let record = Record::Result { key, value: Arc::from(value), sleeps: false };
        self.effects.tell(self.about("FunctionCallCompleted", name, None), &self.origin(), Some(record));
        Ok(result)
    }

    /// Waits for this long, across crashes: when it is due is recorded under `name`. A long sleep costs no memory: the
    /// function is dropped, and executed again from its beginning when it is due, as after a crash. The step's time
    /// limit then begins anew. Beside a [call](StepContext::once) that is being made, the function sleeps where it is;
    /// of several sleeps the first that is due counts, and beside a [question](StepContext::ask) the answer, if it comes
    /// before.
    ///
    /// # Errors
    /// [`FailureKind::Definition`] when the name is empty, longer than 128 bytes or used before in this execution.
    ///
    /// # Cancel safety
    /// Nothing is lost if dropped: the same sleep ends when it would have.
    pub async fn sleep(&self, name: &str, wait: Duration) -> Result<(), Failure> {
        let key = self.named(name)?;
        let due_at = match self.effects.recall(&key) {
            Recall::Done(value) => recorded(name, value.get())?,
            _ => {
                let _recording = self.execution.calling();
                let due_at = self.effects.now() + wait;
                let value = serde_json::value::to_raw_value(&due_at).expect("a time is a number");
                let record = Record::Result { key, value: Arc::from(value), sleeps: true };
                self.effects.tell(self.about("StepSleeping", name, Some(due_at)), &self.origin(), Some(record));
                self.durable().await?;
                due_at
            }
        };
        let now = self.effects.now();
        if due_at > now {
            // Whoever drives the step sees this, and may drop the function here.
            let _sleeping = self.execution.sleeping(due_at);
            self.effects.sleep(due_at.since(now)).await;
            // Much may have happened meanwhile.
            self.durable().await?;
        }
        Ok(())
    }

    /// Asks a person, and waits for the answer as long as it takes: days, while the process is down. The question is asked
    /// once under `name`, and so is its answer: when the function is executed again from its beginning, as after a crash
    /// or a long wait, it gets the same. What is asked is a confirmation, or fields to fill in, with their time limit;
    /// what follows from the answer is the function's to decide, but for a time-out that cancels the run.
    ///
    /// Beside a [sleep](StepContext::sleep), it waits for whatever comes first. A question that the function waits for no
    /// more stays open until the step ends.
    ///
    /// ```
    /// use outlive_core::port::StepContext;
    /// use outlive_core::{Answer, Failure, HumanReview};
    ///
    /// async fn pay(context: StepContext) -> Result<&'static str, Failure> {
    ///     match context.ask("large sum", HumanReview::confirmation("Pay 9,000?")).await? {
    ///         Answer::Approve => Ok("paid"),
    ///         _ => Ok("not paid"),
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// [`FailureKind::Definition`] when the name is empty, longer than 128 bytes or used before in this execution, when
    /// nothing is asked, or when nobody can be asked here.
    ///
    /// # Cancel safety
    /// The question stays asked.
    pub async fn ask(&self, name: &str, review: HumanReview) -> Result<Answer, Failure> {
        let key = self.named(name)?;
        let limit = review.timeout_ms.map(Duration::from_millis);
        let due_at = limit.map(|limit| self.effects.now() + limit);
        let question = Question { key, due_at, ..Question::of_review(name, review)? };
        let asking = Asking::begun(self);
        let answers = self.effects.ask(&self.step.key, vec![question]).await;
        drop(asking);
        let answered = answers.inspect_err(|failure| {
            if failure.kind == FailureKind::Cancelled {
                self.execution.halt();
            }
        })?;
        answered.into_iter().next().map(|answered| answered.answer).ok_or_else(Failure::default)
    }

    /// Waits for one of the above in a function that blocks ([`Step::blocking`](crate::Step::blocking)), on its own
    /// thread. Anywhere else it would hold up the whole run.
    ///
    /// A function that asks keeps its thread while something else of its run executes. Once nothing does, the run leaves
    /// memory, and the wait ends here with an error that the function hands on; when there is an answer, it is called
    /// again from its beginning.
    ///
    /// ```
    /// use outlive_core::{Answer, Failure, HumanReview, Step};
    ///
    /// let pay = Step::blocking("Pay", |context, _| {
    ///     match context.block_on(context.ask("large sum", HumanReview::confirmation("Pay 9,000?")))? {
    ///         Answer::Approve => Ok("paid"),
    ///         _ => Err(Failure::fatal("not paid")),
    ///     }
    /// });
    /// # let _ = pay;
    /// ```
    pub fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        super::block_on(call)
    }

    /// What the newest earlier runs of this session were asked and came to, oldest first: this many of them, 1,000 at most,
    /// 3 when none is said. Runs that failed are left out; those that were cancelled on the way are marked. It is the same
    /// however often it is asked, and in whichever process; runs that are deleted meanwhile are missing.
    ///
    /// A step with [`Step::add_workflow_history`](crate::Step::add_workflow_history) finds them in its
    /// [input](StepInput::workflow_history).
    ///
    /// ```
    /// use outlive_core::{Failure, Step};
    ///
    /// let compare = Step::function("Compare", |context, input| async move {
    ///     let before = context.history(5).await?;
    ///     let is_new = before.iter().all(|run| run.input_text() != input.input_text());
    ///     Ok::<_, Failure>(if is_new { "new" } else { "asked before" })
    /// });
    /// ```
    ///
    /// # Errors
    /// When the session cannot be read.
    pub async fn history(&self, num_runs: impl Into<Option<u32>>) -> Result<Vec<HistoryRun>, Failure> {
        self.effects.history(num_runs.into().unwrap_or(HISTORY_RUNS)).await
    }

    /// Waits until everything said so far is on stable storage.
    async fn durable(&self) -> Result<(), Failure> {
        self.effects.durable().await.map_err(|Halt| {
            self.execution.halt();
            Failure::new(FailureKind::Cancelled, "the run is stopping here")
        })
    }

    /// The key under which a [call](StepContext::once) of this name is recorded, to hand to other services: the same in
    /// every repetition, also by another attempt at the step.
    pub fn call_key(&self, name: &str) -> String {
        format!("{}/{}", self.run.run_id, self.step.key.attempt(1).named(name))
    }

    /// The key of a name that this execution has not used yet.
    fn named(&self, name: &str) -> Result<Key, Failure> {
        self.execution.take_name(name)?;
        Ok(self.step.key.attempt(1).named(name))
    }

    fn about(&self, what: &str, name: &str, due_at: Option<Timestamp>) -> EventKind {
        let mut fields = Map::new();
        fields.insert("name".to_owned(), what.into());
        fields.insert("call".to_owned(), name.into());
        if let Some(due_at) = due_at {
            fields.insert("due_at".to_owned(), due_at.as_seconds().into());
        }
        EventKind::CustomEvent { fields }
    }

    /// Says a piece of the step's text: readers are told at once, as when an agent answers (a `RunContent` event), and all
    /// pieces together are the content of the output, unless the function returns content of its own. After a crash or a
    /// [sleep](StepContext::sleep) the function says them again, and those it had said before do not count: readers drop
    /// them on a `CustomEvent` named `RunResumed` or, about the step, `StepResumed`.
    ///
    /// ```
    /// use outlive_core::{Failure, Step};
    ///
    /// let count = Step::function("Count", |context, _| async move {
    ///     for word in ["one", "two", "three"] {
    ///         context.say(format!("{word} "));
    ///     }
    ///     Ok::<_, Failure>(())
    /// });
    /// ```
    pub fn say(&self, text: impl Into<String>) {
        let text = text.into();
        if text.is_empty() {
            return;
        }
        self.execution.say(&text);
        let piece = ContentDelta {
            content: Some(text),
            workflow_agent: Some(false),
            content_type: "str".to_owned(),
            ..ContentDelta::default()
        };
        self.effects.stream(EventKind::RunContent(piece), &self.origin());
    }

    /// Tells readers how far the step has come (a `StepProgress` event). It is durable with the next commit; a step
    /// that reports a lot awaits [`Effects::durable`] now and then, so that it cannot outrun the disk.
    ///
    /// Data deeper than [`json::DEPTH_MAX`] is replaced by a text that says so.
    pub fn progress(&self, content: impl Into<String>, mut data: Option<Value>) {
        data.iter_mut().for_each(bound);
        let kind = EventKind::StepProgress { attempt: self.step.attempt, content: content.into(), data };
        self.effects.tell(kind, &self.origin(), None);
    }

    /// Sends readers an event of the step's own (a `CustomEvent`): `fields` lie flat beside the common ones, so a field
    /// with the name of a common one (`event`, `created_at`, `event_index`, or one of [`Origin`]'s) is left out. It is
    /// durable like [`StepContext::progress`].
    pub fn event(&self, mut fields: Map<String, Value>) {
        fields.retain(|name, _| !COMMON_FIELDS.contains(&name.as_str()));
        fields.values_mut().for_each(bound);
        // Agno's custom events name the step by its id alone. That they name the run is ours: without it nobody could
        // tell whose they are where several runs share a connection.
        let origin = Origin { step_name: None, step_index: None, ..self.origin() };
        self.effects.tell(EventKind::CustomEvent { fields }, &origin, None);
    }

    /// The origin of this step's own events.
    pub fn origin(&self) -> Origin {
        self.step.origin.clone()
    }
}

/// A function waits for people until this is dropped.
struct Asking<'a>(&'a StepContext);

impl<'a> Asking<'a> {
    fn begun(context: &'a StepContext) -> Self {
        context.execution.asks(context.effects.now());
        Self(context)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.execution.is_answered(self.0.effects.now());
    }
}

fn intent(key: &Key) -> Record {
    Record::Intent { key: key.clone(), name: None }
}

/// What was recorded under a name.
fn recorded<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::new(FailureKind::Definition, format!("what was recorded under {name:?} is of another type: {error}"))
    })
}

/// A report beside the work must not fail the work, and what could not be read back must not get into the log.
fn bound(value: &mut Value) {
    if let Err(too_deep) = json::admit(value) {
        *value = Value::String(format!("left out: {too_deep}"));
    }
}

/// What an executor gives back: the step's output, and the agent's or team's run behind it.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The output. Names and ids are filled in by the machine.
    pub output: StepOutput,
    /// The run behind it.
    pub run: Option<Arc<RunOutput>>,
}

impl From<StepOutput> for Executed {
    fn from(output: StepOutput) -> Self {
        Self { output, run: None }
    }
}

/// Runs one step.
pub trait Executor: Send + Sync + 'static {
    /// What this is.
    fn info(&self) -> ExecutorInfo;

    /// What it is, in a word for people.
    fn word(&self) -> &'static str {
        self.info().kind.as_str()
    }

    /// What clients may know about it, in Agno's shape; none where there is nothing to tell. Never a secret.
    fn describe(&self) -> Option<Value> {
        None
    }

    /// Problems that would make every run fail, in words for a person: a missing key, an empty team. Asked once, at
    /// `build()`.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// What may be done when it is unknown whether a call of this tool took effect; none where there is no such tool.
    fn tool_effect(&self, tool: &str) -> Option<ToolEffect> {
        let _ = tool;
        None
    }

    /// The ids of the models it asks, so that their prices can be looked up. Asked for once, at `build()`.
    fn models(&self) -> Vec<String> {
        Vec::new()
    }

    /// The secrets it works with, which must not be stored: keys of models. Asked for when a definition is registered.
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }

    /// Whether its work must never start twice by itself. Where it is dropped unfinished, at a time limit for example, it
    /// is not tried again: people are asked what came of it. Asked for once, at `build()`.
    fn starts_once(&self) -> bool {
        false
    }

    /// What it may be asked, with everything masked that its guardrails would mask. What runs of a workflow were asked is
    /// told to later runs, and to whoever sums them up, as all its executors mask it.
    fn masked(&self, input: Value) -> Value {
        input
    }

    /// The workflows that its calls may have executed: see [`Effects::run_workflow`]. Asked once, at `build()`; they
    /// belong to the definition.
    fn workflows(&self) -> Vec<Arc<Definition>> {
        Vec::new()
    }

    /// A copy that shares nothing with this that can change; none when there is nothing to copy, and this can be shared.
    fn deep_copy(&self) -> Option<Arc<dyn Executor>> {
        None
    }

    /// Does the step's work. Every call that leaves the process goes through `context.effects`.
    ///
    /// # Cancel safety
    /// The future is dropped when the run is cancelled, times out or loses its lease.
    ///
    /// # Errors
    /// A [`Failure`] that says what failed and whether trying again may help.
    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>>;
}
