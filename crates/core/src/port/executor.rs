//! What runs inside a step: a function, an agent, a team, another workflow.

use super::{BoxFuture, Effects};
use crate::event::{COMMON_FIELDS, EventKind, Origin};
use crate::failure::Failure;
use crate::id::DefinitionId;
use crate::json::{self, TooDeep};
use crate::log::Key;
use crate::run::{RunInfo, RunOutput};
use crate::secret::Secret;
use crate::step::{ExecutorKind, StepIndex, StepInput, StepOutput};
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, PoisonError};

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
}

impl StepContext {
    /// A key to hand to other services so that they can recognise a repetition: the same for every attempt after a
    /// crash.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.run.run_id, self.step.key)
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

    /// What clients may know about it, in Agno's shape; none where there is nothing to tell. Never a secret.
    fn describe(&self) -> Option<Value> {
        None
    }

    /// Problems that would make every run fail, in words for a person: a missing key, an empty team. Asked once, at
    /// `build()`.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// The secrets it works with, which must not be stored: keys of models. Asked for when a definition is registered.
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
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
