//! What recovery needs of an entry: the facts that the machines fold. Whatever an event of the same entry repeats of
//! them is made from the record, not stored beside it.

use super::Key;
use crate::budget::Spend;
use crate::event::{EventKind, RunDone, WorkflowDone};
use crate::failure::Failure;
use crate::id::WorkerId;
use crate::metrics::RunMetrics;
use crate::question::{Answered, Question};
use crate::run::{RunOutput, RunStatus};
use crate::step::{StepOutput, StepType, content_type};
use crate::time::Timestamp;
use crate::workflow::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::sync::Arc;

/// What recovery needs of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A worker took the run.
    Claimed {
        /// The worker.
        worker: WorkerId,
        /// The lease's epoch.
        epoch: u64,
        /// How often the run has been taken, this time included.
        attempt: u32,
        /// When.
        at: Timestamp,
        /// With the run's beginning: what its own state changes in its session's, key by key, where that is more than
        /// the request says. Null removes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<Box<Map<String, Value>>>,
    },
    /// A step is about to start, or a call is about to leave the process.
    Intent {
        /// Whose.
        key: Key,
        /// A step's name; calls have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Arc<str>>,
    },
    /// A call for which a budget holds a reservation is about to leave the process. For one that has begun before, by
    /// an earlier process or in an attempt that may have cost something, this is what it may use once more.
    Reserved {
        /// Whose.
        key: Key,
        /// What it may use at most.
        spend: Spend,
    },
    /// A container begins.
    Begin {
        /// Its path.
        key: Key,
        /// Its name.
        name: Arc<str>,
        /// What it is.
        kind: StepType,
        /// What was decided for it, where something decides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict: Option<Verdict>,
        /// When its time is up, where it is limited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        /// A workflow that a call has executed: what the call says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        called: Option<Box<Called>>,
    },
    /// An iteration of a Loop begins, or is over.
    Iteration {
        /// Its path.
        key: Key,
        /// When it is over: whether there may be another.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        goes_on: Option<bool>,
    },
    /// A call ended; its recorded answer replaces it for good.
    Result {
        /// Whose.
        key: Key,
        /// The answer.
        value: Arc<RawValue>,
        /// Of what a function named: it sleeps, and the answer is when that is due.
        #[serde(default, skip_serializing_if = "is_false")]
        sleeps: bool,
    },
    /// Something that must be said only once was said.
    Said {
        /// What.
        key: Key,
    },
    /// The run of an agent or a team ended.
    Run {
        /// Which: the path of its conversation, then `done`.
        key: Key,
        /// How.
        #[serde(flatten)]
        ended: Arc<RunEnded>,
    },
    /// A step ended; its output says whether it succeeded, or failed and is skipped.
    Step {
        /// Its path.
        key: Key,
        /// What came of it.
        output: Arc<StepOutput>,
        /// The agent's or team's run inside it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<Arc<RunOutput>>,
        /// What it changed in the session's state, key by key; null removes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<Value>,
    },
    /// A step failed for good, and its run with it.
    Failed {
        /// Its path.
        key: Key,
        /// What the run shows of it.
        output: Arc<StepOutput>,
    },
    /// A step failed and will be tried again. This is also the intent of the next attempt.
    Retry {
        /// Its path.
        key: Key,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// When the next may start.
        due_at: Timestamp,
    },
    /// A step, or a container that was to decide, waits for somebody to answer; what stands beside it goes on.
    Waiting {
        /// Its path.
        key: Key,
        /// What has to be answered.
        questions: Vec<Arc<Question>>,
        /// Since when.
        at: Timestamp,
    },
    /// Somebody answered; this is the answer for good.
    Answered {
        /// The question's place.
        key: Key,
        /// What, who and when.
        #[serde(flatten)]
        answered: Answered,
    },
    /// The run ended, or paused.
    Rest(Box<Rest>),
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// What a call that has a workflow executed says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Called {
    /// What it works on.
    pub input: Arc<Value>,
    /// What its steps see as `additional_data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_data: Option<Value>,
    /// What the run of the call had changed in the session's state by then, key by key; null removes.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub state: Map<String, Value>,
}

impl Called {
    /// To work on this alone.
    pub fn new(input: Value) -> Self {
        Self { input: Arc::new(input), additional_data: None, state: Map::new() }
    }
}

/// How the run of an agent or a team ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEnded {
    /// COMPLETED, or ERROR with what was done up to then.
    pub run: Arc<RunOutput>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What its tools changed in the session's state, key by key; null removes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
}

impl RunEnded {
    /// The run, if it did not fail.
    ///
    /// # Errors
    /// Why it failed.
    pub fn into_result(self) -> Result<Arc<RunOutput>, Failure> {
        match self.failure {
            None => Ok(self.run),
            Some(failure) => Err(failure),
        }
    }
}

/// How a run came to rest: all that a poll shows of it beside what its request says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rest {
    /// When.
    pub at: Timestamp,
    /// COMPLETED, CANCELLED, ERROR or PAUSED.
    pub status: RunStatus,
    /// The result, or why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// ERROR: [`crate::FailureKind::code`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// CANCELLED before anything had been said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_pending: bool,
    /// CANCELLED by an answer to what the run had paused for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_paused: bool,
    /// PAUSED: where, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// What the run used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RunMetrics>,
    /// What the caller noted about the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// The steps that ended, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<Arc<StepOutput>>,
    /// The runs of agents and teams behind them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Arc<RunOutput>>,
    /// What branches that ended had changed in the session's state, when the run ended before their join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
}

/// Where a run paused, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pause {
    /// The step's place.
    pub index: u32,
    /// Its name.
    pub name: Arc<str>,
    /// `executor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What people have to decide, and have decided before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Vec<Value>>,
    /// The same about failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<Value>>,
}

impl Record {
    /// The key this record is about.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Record::Claimed { .. } | Record::Rest(_) => None,
            Record::Intent { key, .. }
            | Record::Reserved { key, .. }
            | Record::Begin { key, .. }
            | Record::Iteration { key, .. }
            | Record::Result { key, .. }
            | Record::Said { key }
            | Record::Run { key, .. }
            | Record::Step { key, .. }
            | Record::Failed { key, .. }
            | Record::Retry { key, .. }
            | Record::Waiting { key, .. }
            | Record::Answered { key, .. } => Some(key),
        }
    }

    pub(crate) fn key_mut(&mut self) -> Option<&mut Key> {
        match self {
            Record::Claimed { .. } | Record::Rest(_) => None,
            Record::Intent { key, .. }
            | Record::Reserved { key, .. }
            | Record::Begin { key, .. }
            | Record::Iteration { key, .. }
            | Record::Result { key, .. }
            | Record::Said { key }
            | Record::Run { key, .. }
            | Record::Step { key, .. }
            | Record::Failed { key, .. }
            | Record::Retry { key, .. }
            | Record::Waiting { key, .. }
            | Record::Answered { key, .. } => Some(key),
        }
    }

    /// Whether this shows that the run made progress (which resets the poison count).
    pub fn is_progress(&self) -> bool {
        match self {
            Record::Iteration { goes_on, .. } => goes_on.is_some(),
            Record::Result { .. }
            | Record::Run { .. }
            | Record::Step { .. }
            | Record::Retry { .. }
            | Record::Waiting { .. }
            | Record::Answered { .. } => true,
            Record::Rest(rest) => rest.status.is_terminal(),
            Record::Claimed { .. }
            | Record::Intent { .. }
            | Record::Reserved { .. }
            | Record::Begin { .. }
            | Record::Said { .. }
            | Record::Failed { .. } => false,
        }
    }

    /// Whether the event says nothing that this record does not.
    pub(super) fn tells(&self, kind: &EventKind) -> bool {
        match (self, kind) {
            (Record::Step { output, .. }, EventKind::StepOutput { step_output }) => same(output, step_output),
            (Record::Step { output, .. }, EventKind::StepCompleted { content, content_type: kind, step_response }) => {
                let is_content = output.content.as_ref().unwrap_or(&Value::Null) == content;
                same(output, step_response) && is_content && content_type(output.content.as_ref()) == kind
            }
            (Record::Run { ended, .. }, EventKind::RunCompleted(done) | EventKind::TeamRunCompleted(done)) => {
                done.is_of(&ended.run)
            }
            (Record::Rest(rest), EventKind::WorkflowCompleted(done)) => rest.is_told_by(done),
            (Record::Rest(rest), EventKind::WorkflowPaused { .. }) => rest.paused().as_ref() == Some(kind),
            _ => false,
        }
    }

    /// The event of this name that says what this record says; none when the record says something else.
    pub(super) fn told(&self, name: &str) -> Option<EventKind> {
        Some(match (self, name) {
            (Record::Step { output, .. }, "StepOutput") => EventKind::StepOutput { step_output: output.clone() },
            (Record::Step { output, .. }, "StepCompleted") => EventKind::step_completed(output.clone()),
            (Record::Run { ended, .. }, "RunCompleted") => EventKind::RunCompleted(Box::new(RunDone::of(&ended.run))),
            (Record::Run { ended, .. }, "TeamRunCompleted") => {
                EventKind::TeamRunCompleted(Box::new(RunDone::of(&ended.run)))
            }
            (Record::Rest(rest), "WorkflowCompleted") => EventKind::WorkflowCompleted(Box::new(rest.done())),
            (Record::Rest(rest), "WorkflowPaused") => rest.paused()?,
            _ => return None,
        })
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        let text = |record: &Record| serde_json::to_string(record).ok();
        text(self) == text(other)
    }
}

fn same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

fn all_same<T: PartialEq>(ones: &[Arc<T>], others: &[Arc<T>]) -> bool {
    ones.len() == others.len() && ones.iter().zip(others).all(|(one, other)| same(one, other))
}

impl Rest {
    /// A run that came to rest like this, about which nothing else is known.
    pub fn new(status: RunStatus, at: Timestamp) -> Self {
        Self {
            at,
            status,
            content: None,
            error_type: None,
            was_pending: false,
            was_paused: false,
            pause: None,
            metrics: None,
            metadata: None,
            results: Vec::new(),
            runs: Vec::new(),
            state: None,
        }
    }

    fn is_told_by(&self, done: &WorkflowDone) -> bool {
        self.content == done.content
            && content_type(self.content.as_ref()) == done.content_type
            && self.metadata == done.metadata
            && self.metrics == done.metrics
            && all_same(&self.results, &done.step_results)
            && done.step_executor_runs.is_none()
    }

    /// The event that ends the run.
    pub(crate) fn done(&self) -> WorkflowDone {
        WorkflowDone {
            content: self.content.clone(),
            content_type: content_type(self.content.as_ref()).to_owned(),
            metadata: self.metadata.clone(),
            metrics: self.metrics.clone(),
            step_results: self.results.clone(),
            step_executor_runs: None,
        }
    }

    /// The event that pauses the run.
    pub(crate) fn paused(&self) -> Option<EventKind> {
        let pause = self.pause.as_ref()?;
        Some(EventKind::WorkflowPaused {
            status: self.status.as_str().to_owned(),
            paused_step_index: pause.index,
            paused_step_name: pause.name.clone(),
            pause_kind: pause.kind.clone(),
            step_requirements: pause.requirements.clone(),
            step_results: self.results.clone(),
            step_executor_runs: None,
            metadata: self.metadata.clone(),
        })
    }
}
