//! Why a run is not over yet, as data: what it waits for, on whom, and what to do about it.
//!
//! Only the vocabulary. The code that works it out reads the store, so every process gives the same answer.

use crate::id::RunId;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What an unfinished run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// An earlier run of its session has to end first.
    Session,
    /// A process that executes its workflow: none is alive, or the one that holds the run is silent.
    Worker,
    /// Room in a process that executes its workflow.
    Room,
    /// Its turn among runs that crashed their workers: they are tried one at a time.
    Suspects,
    /// A place under a limit: as many runs as may execute at once do.
    Limit,
    /// A time: it begins later, or backs off after a failure.
    Time,
    /// A person's decision: it is paused.
    Person,
    /// Someone asked to cancel it, and its end is not recorded yet.
    Cancel,
    /// A model's answer.
    Model,
    /// A tool.
    Tool,
    /// A step that executes, without more being known.
    Step,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

impl WaitsFor {
    /// The word programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Worker => "worker",
            Self::Room => "room",
            Self::Suspects => "suspects",
            Self::Limit => "limit",
            Self::Time => "time",
            Self::Person => "person",
            Self::Cancel => "cancel",
            Self::Model => "model",
            Self::Tool => "tool",
            Self::Step => "step",
            Self::Other => "other",
        }
    }

    /// Whether a process is at work on the run, so that there is nothing to do but wait.
    pub const fn is_work(self) -> bool {
        matches!(self, Self::Model | Self::Tool | Self::Step)
    }
}

/// What would end the wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Remedy {
    /// Start a process that executes the run's workflow, or one that ends it.
    StartWorker,
    /// Cancel this run: the one that waits, or the one in front of it.
    Cancel {
        /// Which.
        run_id: RunId,
    },
    /// Answer this question.
    Answer {
        /// Which.
        question_id: Arc<str>,
    },
}

/// Why a run is not over yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// What it is called, where it has a name: the run in front, the workflow nobody has, the silent worker, the tool,
    /// the model, the step.
    pub on: Option<Arc<str>>,
    /// When it goes on by itself, where that is known.
    pub until: Option<Timestamp>,
    /// Whether it was being executed and no process executes it now, whatever its status says.
    pub is_interrupted: bool,
    /// Whether people have answered what it paused for, and no process has taken it up since, whatever its status says.
    pub is_answered: bool,
    /// The whole story on one line, for people.
    pub reason: String,
    /// What would end the wait; absent when there is nothing to do but wait.
    pub remedy: Option<Remedy>,
    /// The same in words.
    pub hint: Option<String>,
}
