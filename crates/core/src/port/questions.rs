//! Questions to people as a store keeps them: beside their runs, so that they can be listed and answered while nobody
//! executes those.
//!
//! A store never looks inside a question or an answer. An answer is given once: of two, one wins. It is then in the
//! run's inbox until the run's log has it.

use super::{Access, BoxFuture, DbError};
use crate::id::{DefinitionId, RunId, SessionId};
use crate::question::{Answer, Answered, Question};
use crate::time::Timestamp;
use std::sync::Arc;

/// What a store puts in place of an answer when a question's time is up: the JSON of [`Answer::TimedOut`].
pub const TIMED_OUT: &str = r#"{"do":"timed_out"}"#;

/// What a commit does to its run's questions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuestionPatch {
    /// Asked with it.
    pub asked: Vec<NewQuestion>,
    /// Their answers are in the log now, or nobody needs one any more.
    pub settled: Vec<Arc<str>>,
}

/// A question to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewQuestion {
    /// Its id.
    pub id: Arc<str>,
    /// Until when it can be answered.
    pub due_at: Option<Timestamp>,
    /// The [`Question`] as JSON text.
    pub text: Arc<str>,
}

/// Where a question stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum QuestionState {
    /// Nobody has answered.
    #[default]
    Open,
    /// Somebody has, or its time was up.
    Answered,
    /// Nobody needs an answer any more: the run ended, or went on without one.
    Void,
}

impl QuestionState {
    /// The word programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Answered => "answered",
            Self::Void => "void",
        }
    }
}

/// An answer as a store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredAnswer {
    /// The [`Answer`] as JSON text.
    pub text: Arc<str>,
    /// Who gave it, as far as the caller was known.
    pub by: Option<Arc<str>>,
    /// When.
    pub at: Timestamp,
}

/// One question as it is stored.
#[derive(Clone, Debug)]
pub struct StoredQuestion {
    /// Its id.
    pub id: Arc<str>,
    /// The run that waits.
    pub run_id: RunId,
    /// Its workflow.
    pub workflow_id: DefinitionId,
    /// Its session.
    pub session_id: SessionId,
    /// Whose run it is.
    pub user_id: Option<Arc<str>>,
    /// The [`Question`] as JSON text.
    pub text: Arc<str>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Until when it can be answered.
    pub due_at: Option<Timestamp>,
    /// Where it stands.
    pub state: QuestionState,
    /// What was answered.
    pub answer: Option<StoredAnswer>,
}

impl StoredQuestion {
    /// What was asked.
    ///
    /// # Errors
    /// When the text is damaged.
    pub fn question(&self) -> Result<Question, serde_json::Error> {
        serde_json::from_str(&self.text)
    }

    /// What was answered, if anything.
    ///
    /// # Errors
    /// When the text is damaged.
    pub fn answered(&self) -> Result<Option<Answered>, serde_json::Error> {
        let Some(stored) = &self.answer else { return Ok(None) };
        let answer: Answer = serde_json::from_str(&stored.text)?;
        Ok(Some(Answered { answer, by: stored.by.clone(), at: stored.at }))
    }
}

/// An answer to be given.
#[derive(Clone, Debug)]
pub struct NewAnswer {
    /// To which question.
    pub id: Arc<str>,
    /// The [`Answer`] as JSON text.
    pub text: Arc<str>,
    /// Who gives it.
    pub by: Option<Arc<str>>,
}

/// The answer to [`QuestionStore::answer`].
#[derive(Clone, Debug)]
pub enum Answering {
    /// All are on stable storage, now or from an earlier call with the same.
    Accepted,
    /// None was given: this one was answered otherwise before, its time was up, or nobody needs an answer any more.
    Refused(Box<StoredQuestion>),
}

/// Which questions to list. `Default` is the oldest 50 that are open.
#[derive(Clone, Debug, Default)]
pub struct QuestionFilter {
    /// Only those of this run.
    pub run_id: Option<RunId>,
    /// Only those of this workflow.
    pub workflow_id: Option<DefinitionId>,
    /// Only ids with this prefix.
    pub id_prefix: Option<String>,
    /// Those that were answered or are void, too.
    pub with_settled: bool,
    /// Continue after this cursor, which came from a list.
    pub after: Option<String>,
    /// At most this many; 0 means 50, the most is 1000. A page ends earlier, with a cursor, once its texts exceed 16 MiB.
    pub limit: u32,
}

/// A page of questions, those asked first first.
#[derive(Clone, Debug, Default)]
pub struct QuestionPage {
    /// The questions.
    pub questions: Vec<StoredQuestion>,
    /// Where to continue, when there is more.
    pub next: Option<String>,
}

/// Questions to people, and the inboxes of runs.
pub trait QuestionStore: Send + Sync {
    /// Gives answers, all of them or none. A PAUSED run that gets one is RUNNING from then on, and free to be claimed; one
    /// that waits for a time waits no longer. Whoever is late finds that the time was up, whether or not a worker noticed.
    ///
    /// # Errors
    /// `NotFound` when there is no such question, or its run is not the caller's.
    fn answer(
        &self,
        access: Access,
        answers: Vec<NewAnswer>,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Answering, DbError>>;

    /// The question, if it exists.
    fn question(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredQuestion>, DbError>>;

    /// Lists questions.
    ///
    /// # Errors
    /// `Storage` when the cursor did not come from a list.
    fn questions(&self, access: Access, filter: QuestionFilter) -> BoxFuture<'_, Result<QuestionPage, DbError>>;

    /// The questions of a run whose answers its log does not have yet, in the order in which they were asked.
    fn inbox(&self, run_id: RunId) -> BoxFuture<'_, Result<Vec<StoredQuestion>, DbError>>;

    /// The runs this worker holds that have something in their inbox, or are [steered](super::RunStore::steering).
    fn mail(&self, worker: crate::id::WorkerId) -> BoxFuture<'_, Result<Vec<RunId>, DbError>>;
}
