//! `Condition`: one of two sequences, as a verdict decides.

use super::container::{Container, Ending, Next, count, output_of, sequence};
use super::judge::{Decider, IntoVerdict};
use super::{Block, Node, Rule, Settings, Verdict, VerdictInput, container_settings};
use crate::event::EventKind;
use crate::failure::Failure;
use crate::log::Key;
use crate::machine::Frame;

/// One of two sequences, as data.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are Agno's and say it")]
pub struct ConditionNode {
    pub settings: Settings,
    pub when: Rule,
    pub steps: Vec<Node>,
    pub else_steps: Vec<Node>,
}

/// One of two sequences, under construction.
///
/// ```
/// use outlive_core::{Condition, Failure, Step};
///
/// let disclaimer = Step::function("Add disclaimer", |_, input| async move {
///     Ok::<_, Failure>(format!("{}\nNo advice.", input.text()))
/// });
/// let condition = Condition::new("Mentions money?").when(|question| question.text().contains('$')).step(disclaimer);
/// ```
#[must_use]
#[derive(Debug)]
pub struct Condition {
    pub(super) settings: Settings,
    pub(super) when: Option<Decider>,
    pub(super) steps: Vec<Block>,
    pub(super) else_steps: Vec<Block>,
}

impl Condition {
    /// A Condition of this name. It needs something that decides: [`Condition::when`] or one of its sisters.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self { settings: Settings::new(name), when: None, steps: Vec::new(), else_steps: Vec::new() }
    }

    /// Decides by a function.
    pub fn when<A: IntoVerdict<bool>>(self, holds: impl Fn(&VerdictInput) -> A + Send + Sync + 'static) -> Self {
        self.decided_by(Decider::holds(holds))
    }

    /// Decides by an async function, which may fail; its failure is the Condition's.
    pub fn when_async<F, R>(self, holds: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<bool, Failure>> + Send + 'static,
    {
        self.decided_by(Decider::holds_async(holds))
    }

    /// Decides by a [CEL](crate::cel) expression, such as `previous_step_content.contains("urgent")`. A mistake in it is
    /// a problem that `build()` reports.
    pub fn when_cel(self, expression: impl AsRef<str>) -> Self {
        self.decided_by(Decider::cel(expression))
    }

    /// Always decides like this.
    pub fn when_always(self, holds: bool) -> Self {
        self.decided_by(Decider::Always(holds))
    }

    fn decided_by(mut self, decider: Decider) -> Self {
        self.when = Some(decider);
        self
    }

    /// Adds a step to the sequence for when it holds.
    pub fn step(mut self, step: impl Into<Block>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// Adds a step to the sequence for when it does not hold. Agno's `else_steps`.
    pub fn otherwise(mut self, step: impl Into<Block>) -> Self {
        self.else_steps.push(step.into());
        self
    }

    container_settings!();
}

impl ConditionNode {
    /// The sequence that a verdict chose, by its name in keys and events; none when it chose the one that is not there.
    fn branch(&self, frame: &Frame) -> Option<(&'static str, &[Node])> {
        match frame.own().verdict {
            Some(Verdict::Is(true)) => Some(("if", &self.steps)),
            _ if self.else_steps.is_empty() => None,
            _ => Some(("else", &self.else_steps)),
        }
    }
}

impl Container for ConditionNode {
    fn needs_verdict(&self) -> bool {
        true
    }

    fn begun(&self, verdict: Option<&Verdict>) -> EventKind {
        EventKind::ConditionExecutionStarted { condition_result: verdict == Some(&Verdict::Is(true)) }
    }

    fn next(&self, key: &Key, frame: &Frame) -> Next {
        self.branch(frame).map_or(Next::End, |(name, steps)| sequence(&key.sequence(name), frame, steps.len()))
    }

    fn ended(&self, frame: &Frame) -> Ending {
        let (name, executed, branch) = (&self.settings.name, frame.results.len(), self.branch(frame));
        let content = match branch {
            Some((branch, _)) => format!("Condition {name} completed with {executed} results ({branch} branch)"),
            None => format!("Condition {name} not met - skipped {} steps", self.steps.len()),
        };
        Ending {
            event: EventKind::ConditionExecutionCompleted {
                condition_result: frame.own().verdict == Some(Verdict::Is(true)),
                executed_steps: count(executed),
                branch: branch.map(|(branch, _)| branch.to_owned()),
                step_results: frame.results.clone(),
            },
            output: output_of(content, &frame.results),
        }
    }
}
