//! Verdicts: what code decides for a container, and what it is asked. A verdict is recorded before anything follows
//! from it, so a replay never asks again.

use crate::failure::Failure;
use crate::port::{BoxFuture, SessionState};
use crate::step::{StepInput, StepOutput};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Verdict {
    /// A Condition: whether it holds. A Loop: whether it is done.
    Is(bool),
    /// A Router: the names of its choices, in the order in which they are to be executed.
    Names(Vec<Arc<str>>),
}

/// What a verdict is asked about. As it dereferences to the [`StepInput`] that a step in the container's place would be
/// given, `question.text()` is what there is to decide on.
///
/// Code that decides must not change anything outside: it is asked again when the process dies before its answer is
/// recorded.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// What the container was given.
    pub input: StepInput,
    /// The session's state. Changes to it are not kept.
    pub state: SessionState,
    /// A Router: the names of its choices.
    pub choices: Vec<Arc<str>>,
    /// A Loop: the outputs of the iteration that has just ended, in order.
    pub outputs: Vec<Arc<StepOutput>>,
    /// A Loop: which iteration that was, from 1.
    pub iteration: u32,
    /// A Loop: how many there are at most.
    pub max_iterations: u32,
}

impl Question {
    /// A Loop: the content of the iteration's last output, as text.
    pub fn last_text(&self) -> String {
        self.outputs.last().map(|output| output.text()).unwrap_or_default()
    }
}

impl Deref for Question {
    type Target = StepInput;

    fn deref(&self) -> &StepInput {
        &self.input
    }
}

/// What a definition says about where a verdict comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// From code, which only the process has.
    Function,
    /// It is always this.
    Always(bool),
}

/// Code that decides.
pub(crate) type Judge = dyn Fn(Question) -> BoxFuture<'static, Result<Verdict, Failure>> + Send + Sync;

/// A rule and the code for it.
#[derive(Clone)]
pub(crate) struct Decider {
    pub(crate) rule: Rule,
    pub(crate) judge: Arc<Judge>,
}

impl Decider {
    pub(crate) fn always(verdict: bool) -> Self {
        let judge = move |_| -> BoxFuture<'static, _> { Box::pin(async move { Ok(Verdict::Is(verdict)) }) };
        Self { rule: Rule::Always(verdict), judge: Arc::new(judge) }
    }

    pub(crate) fn new<F, R>(decide: F) -> Self
    where
        F: Fn(Question) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Verdict, Failure>> + Send + 'static,
    {
        let judge = move |question| -> BoxFuture<'static, _> { Box::pin(decide(question)) };
        Self { rule: Rule::Function, judge: Arc::new(judge) }
    }
}

impl fmt::Debug for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Decider").field(&self.rule).finish()
    }
}
