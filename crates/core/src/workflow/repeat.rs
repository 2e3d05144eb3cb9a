//! `Loop`: a sequence repeated until a verdict, or a number of times.

use super::container::{Container, Ending, Next, count, output_of, sequence};
use super::judge::{Decider, IntoVerdict};
use super::{Block, Node, Rule, Settings, Verdict, VerdictInput, container_settings};
use crate::event::EventKind;
use crate::failure::Failure;
use crate::log::Key;
use crate::machine::Frame;
use std::sync::Arc;

/// How often a Loop repeats at most when nothing else is said, as in Agno.
pub(super) const MAX_ITERATIONS: u32 = 3;

/// A repeated sequence, as data.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are Agno's and say it")]
pub struct LoopNode {
    pub settings: Settings,
    pub max_iterations: u32,
    pub until: Option<Rule>,
    pub forward_iteration_output: bool,
    pub steps: Vec<Node>,
}

/// A repeated sequence under construction.
///
/// ```
/// use outlive_core::{Failure, Loop, Step};
///
/// let draft = Step::function("Draft", |_, input| async move { Ok::<_, Failure>(format!("{}!", input.text())) });
/// let polish = Loop::new("Polish").step(draft).until(|question| question.last_text().ends_with("!!!")).max_iterations(5);
/// ```
#[must_use]
#[derive(Debug)]
pub struct Loop {
    pub(super) settings: Settings,
    pub(super) max_iterations: u32,
    pub(super) until: Option<Decider>,
    pub(super) forward: bool,
    pub(super) steps: Vec<Block>,
}

impl Loop {
    /// A Loop of this name, of three iterations at most.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self {
            settings: Settings::new(name),
            max_iterations: MAX_ITERATIONS,
            until: None,
            forward: false,
            steps: Vec::new(),
        }
    }

    /// Adds a step to the sequence.
    pub fn step(mut self, step: impl Into<Block>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// How many iterations there are at most, from 1.
    pub fn max_iterations(mut self, most: u32) -> Self {
        self.max_iterations = most;
        self
    }

    /// Ends after an iteration for which this holds. Agno's `end_condition`.
    pub fn until<A: IntoVerdict<bool>>(self, is_done: impl Fn(&VerdictInput) -> A + Send + Sync + 'static) -> Self {
        self.decided_by(Decider::holds(is_done))
    }

    /// As [`Loop::until`], by an async function, which may fail; its failure is the Loop's.
    pub fn until_async<F, R>(self, is_done: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<bool, Failure>> + Send + 'static,
    {
        self.decided_by(Decider::holds_async(is_done))
    }

    /// As [`Loop::until`], by a [CEL](crate::cel) expression, such as `last_step_content.contains("DONE")`. A mistake in
    /// it is a problem that `build()` reports.
    pub fn until_cel(self, expression: impl AsRef<str>) -> Self {
        self.decided_by(Decider::cel(expression))
    }

    fn decided_by(mut self, decider: Decider) -> Self {
        self.until = Some(decider);
        self
    }

    /// Whether an iteration starts with what the one before gave back; otherwise each starts with what the Loop was
    /// given.
    pub fn forward_iteration_output(mut self, forwards: bool) -> Self {
        self.forward = forwards;
        self
    }

    container_settings!();
}

impl Container for LoopNode {
    fn complete(&self, given: &mut VerdictInput, iteration: Option<&Frame>) {
        if let Some(frame) = iteration {
            given.outputs.clone_from(&frame.results);
            given.iteration = frame.own().iteration;
        }
        given.max_iterations = self.max_iterations;
    }

    fn begun(&self, _: Option<&Verdict>) -> EventKind {
        EventKind::LoopExecutionStarted { max_iterations: self.max_iterations }
    }

    fn next(&self, key: &Key, frame: &Frame) -> Next {
        let is_last = frame.own().iteration >= self.max_iterations || frame.is_stopped;
        match frame.own().goes_on {
            // Between two iterations.
            Some(goes_on) if goes_on && !is_last => Next::Iterate(frame.own().iteration + 1),
            Some(_) => Next::End,
            None => match sequence(&key.iteration(frame.own().iteration), frame, self.steps.len()) {
                Next::End if frame.is_stopped => Next::EndIteration(false),
                Next::End if self.until.is_some() => Next::Ask,
                Next::End => Next::EndIteration(true),
                next => next,
            },
        }
    }

    fn ended(&self, frame: &Frame) -> Ending {
        let all: Vec<Arc<_>> = frame.own().rounds.iter().flatten().cloned().collect();
        let (name, iterations) = (&self.settings.name, frame.own().rounds.len());
        Ending {
            event: EventKind::LoopExecutionCompleted {
                total_iterations: count(iterations),
                max_iterations: self.max_iterations,
                all_results: frame.own().rounds.clone(),
            },
            output: output_of(
                format!("Loop {name} completed {iterations} iterations with {} total steps", all.len()),
                &all,
            ),
        }
    }
}
