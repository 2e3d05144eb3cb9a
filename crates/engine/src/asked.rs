//! A question as the engine shows it: what was asked, by which run, and what was answered.
//!
//! Only data. It must never know how it is answered.

use outlive_core::port::{QuestionState, StoredQuestion};
use outlive_core::{Answered, DefinitionId, Question, RunId, SessionId, Timestamp};
use std::sync::Arc;

/// A question that a run asks, or has asked.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedQuestion {
    /// What is asked.
    pub question: Question,
    /// The run that waits.
    pub run_id: RunId,
    /// Its workflow.
    pub workflow_id: DefinitionId,
    /// Its session.
    pub session_id: SessionId,
    /// Whose run it is, if that was said.
    pub user_id: Option<Arc<str>>,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Where it stands.
    pub state: QuestionState,
    /// What was answered, by whom and when.
    pub answered: Option<Answered>,
}

impl AskedQuestion {
    /// Its id: names it alone, without its run.
    pub fn id(&self) -> &Arc<str> {
        &self.question.id
    }

    /// # Errors
    /// When a text is damaged.
    pub(crate) fn read(stored: &StoredQuestion) -> Result<Self, serde_json::Error> {
        Ok(Self {
            question: stored.question()?,
            run_id: stored.run_id.clone(),
            workflow_id: stored.workflow_id.clone(),
            session_id: stored.session_id.clone(),
            user_id: stored.user_id.clone(),
            asked_at: stored.asked_at,
            state: stored.state,
            answered: stored.answered()?,
        })
    }
}
