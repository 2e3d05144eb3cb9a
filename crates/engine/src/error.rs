//! What can go wrong between a caller and the engine.

use crate::asked::AskedQuestion;
use outlive_core::json::TooDeep;
use outlive_core::port::{DbError, DbErrorKind, LogError, Unreadable};
use outlive_core::{Answer, InvalidId, NotCompleted, RunId, SessionId};
use std::sync::Arc;

/// Why the engine refused or failed. Nothing happened unless the variant says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No definition of this workflow is registered with this engine.
    #[error("no workflow {0:?} is registered; register its definition, or check the id")]
    UnknownWorkflow(Arc<str>),
    /// The input does not fit the workflow's schema.
    #[error(transparent)]
    Input(#[from] outlive_core::InvalidInput),
    /// The time or the concurrency key that a run was to begin with cannot be one.
    #[error("{0}")]
    CannotBegin(String),
    /// The input is too long.
    #[error("the input has {bytes} bytes, the limit is {limit}; pass a reference to the data instead")]
    InputTooLong {
        /// Its length as JSON.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Text that cannot be an id.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// The idempotency key, or the run's or session's id, was used for another request.
    #[error("{0}")]
    Conflict(DbError),
    /// The session has an unfinished run, so it takes no other, or cannot be deleted.
    #[error("{0}")]
    SessionBusy(DbError),
    /// The limit of waiting runs is reached: accepted runs are executed, further ones are refused until some have
    /// started.
    #[error("{limit} runs are already waiting, which is the limit; try again later")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// No such run, or it is not the caller's.
    #[error("there is no run {0}")]
    RunNotFound(RunId),
    /// No such session, or it is not the caller's.
    #[error("there is no session {0}")]
    SessionNotFound(SessionId),
    /// No such question, or its run is not the caller's.
    #[error("there is no question {0}")]
    QuestionNotFound(Arc<str>),
    /// The question was answered otherwise before, or nobody needs an answer any more.
    #[error("{}", settled(.0))]
    AlreadyAnswered(Box<AskedQuestion>),
    /// This cannot be an answer to the question.
    #[error("question {id}: {problem}")]
    InvalidAnswer {
        /// The question.
        id: Arc<str>,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// This person may not answer the question: four eyes are to see it.
    #[error("question {id}: {problem}")]
    NotYoursToAnswer {
        /// The question.
        id: Arc<str>,
        /// Why, and what to do.
        problem: String,
    },
    /// A stored question cannot be read.
    #[error("question {id} is damaged: {problem}")]
    DamagedQuestion {
        /// Which.
        id: Arc<str>,
        /// What is wrong.
        problem: String,
    },
    /// No such account of a budget, or it is not the caller's.
    #[error("there is no budget {0}: it has an account from the first call on that counts against it")]
    BudgetNotFound(Arc<str>),
    /// Somebody has added to a budget since the caller has seen it.
    #[error(transparent)]
    BudgetChanged(DbError),
    /// No such schedule, or it is not the caller's.
    #[error("there is no schedule {0}")]
    ScheduleNotFound(Arc<str>),
    /// A schedule cannot be as asked.
    #[error("the schedule's {field}: {problem}")]
    InvalidSchedule {
        /// Which part of it.
        field: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A stored schedule cannot be read.
    #[error("schedule {id} is damaged: {problem}")]
    DamagedSchedule {
        /// Which.
        id: Arc<str>,
        /// What is wrong.
        problem: String,
    },
    /// No such batch, or it is not the caller's.
    #[error("there is no batch {0}")]
    BatchNotFound(Arc<str>),
    /// A batch cannot be as asked.
    #[error("the batch's {field}: {problem}")]
    InvalidBatch {
        /// Which part of it.
        field: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A stored batch cannot be read.
    #[error("batch {id} is damaged: {problem}")]
    DamagedBatch {
        /// Which.
        id: Arc<str>,
        /// What is wrong.
        problem: String,
    },
    /// An item of a batch was refused. Those before it may have been accepted; adding them again is harmless.
    #[error("item {index}: {problem}")]
    Item {
        /// Which.
        index: u64,
        /// Why.
        problem: Box<Error>,
    },
    /// An item of a batch has no run any more.
    #[error("the run of item {index} of batch {batch_id} was deleted")]
    ItemDeleted {
        /// The batch.
        batch_id: Arc<str>,
        /// Which item.
        index: u64,
    },
    /// The run cannot be forked or tried again as asked.
    #[error("{0}")]
    CannotFork(#[from] outlive_core::fork::CannotFork),
    /// What a fork would keep does not fit the workflow's definition.
    #[error("what would be kept does not fit: {0}; fork the run before that")]
    DefinitionChanged(Box<outlive_core::machine::Mismatch>),
    /// Runs cannot be deleted as asked.
    #[error("{0}")]
    CannotPrune(String),
    /// Something is nested more deeply than allowed.
    #[error("{what}: {problem}")]
    TooDeep {
        /// What: `the input`, `the session's state`.
        what: &'static str,
        /// The limit.
        problem: TooDeep,
    },
    /// Something given has a NUL in its text, which not every client and store can keep.
    #[error("{what} has a NUL character (U+0000), which not every client and store can keep: leave it out")]
    Nul {
        /// What: `the input`, `session_state`.
        what: &'static str,
    },
    /// A stored part of a run cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Stored entries of a run are damaged.
    #[error(transparent)]
    Damaged(#[from] outlive_core::log::Damaged),
    /// The engine has been shut down, or its store has failed.
    #[error("the engine has stopped: {0}")]
    Stopped(Arc<str>),
    /// The store's disk is so full that the rest is kept for runs already accepted.
    #[error("the store's disk has {free_bytes} bytes left and {needed_bytes} are kept for runs that go on: make space")]
    DiskLow {
        /// What is left.
        free_bytes: u64,
        /// What must be left.
        needed_bytes: u64,
    },
    /// A run that was awaited came to rest without a result. [`crate::RunHandle::wait`] returns such a run instead of
    /// an error.
    #[error(transparent)]
    NotCompleted(#[from] NotCompleted),
    /// The store refused or failed.
    #[error("{0}")]
    Db(DbError),
}

/// Why a question takes no answer, in words.
fn settled(asked: &AskedQuestion) -> String {
    let id = asked.id();
    let Some(answered) = &asked.answered else {
        return format!("question {id} needs no answer any more: its run has ended or gone on without one");
    };
    if answered.answer == Answer::TimedOut {
        return format!("question {id} was not answered in time: its time was up at {}", answered.at.to_rfc3339());
    }
    let by = answered.by.as_deref().map_or_else(String::new, |by| format!(" by {by}"));
    let (word, at) = (answered.answer.as_str(), answered.at.to_rfc3339());
    format!("question {id} was answered before: {word},{by} at {at}")
}

impl From<LogError> for Error {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Damaged(damaged) => Error::Damaged(damaged),
            LogError::Unreadable(unreadable) => Error::Unreadable(unreadable),
            LogError::Db(error) => error.into(),
        }
    }
}

impl From<outlive_core::machine::Mismatch> for Error {
    fn from(mismatch: outlive_core::machine::Mismatch) -> Self {
        Error::DefinitionChanged(Box::new(mismatch))
    }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        match error.kind() {
            DbErrorKind::Conflict => Error::Conflict(error),
            DbErrorKind::SessionBusy => Error::SessionBusy(error),
            DbErrorKind::Fenced
            | DbErrorKind::NotFound
            | DbErrorKind::IllegalStatus
            | DbErrorKind::CancelRequested
            | DbErrorKind::OverBudget
            | DbErrorKind::Full
            | DbErrorKind::Busy
            | DbErrorKind::OutcomeUnknown
            | DbErrorKind::Corrupt
            | DbErrorKind::Unreadable
            | DbErrorKind::Refused
            | DbErrorKind::ReadOnly
            | DbErrorKind::Storage => Error::Db(error),
        }
    }
}

/// Refuses what cannot be stored and read back by everybody.
pub(crate) fn check_given(what: &'static str, value: &serde_json::Value) -> Result<(), Error> {
    outlive_core::json::check(value).map_err(|problem| Error::TooDeep { what, problem })?;
    if outlive_core::json::has_nul(value) { Err(Error::Nul { what }) } else { Ok(()) }
}

/// The same of what its caller gives away.
pub(crate) fn admit_given(what: &'static str, value: &mut serde_json::Value) -> Result<(), Error> {
    outlive_core::json::admit(value).map_err(|problem| Error::TooDeep { what, problem })?;
    check_given(what, value)
}
