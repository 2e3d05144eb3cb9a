//! `Parallel`: branches at the same time, and their join.
//!
//! Each branch sees the session's state as it was when the Parallel began, and its own changes. At the join the changes
//! of all branches reach the session, in the order of the definition: where two changed the same key, the later wins.

use super::container::{Container, Ending, Next, count, output_of};
use super::{Block, Node, Settings, Verdict, container_settings};
use crate::event::EventKind;
use crate::log::{Key, Place};
use crate::machine::{Branch, Frame};
use crate::metrics::Metrics;
use crate::step::{ExecutorKind, StepOutput};
use std::sync::Arc;

/// Branches at the same time, as data.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are Agno's and say it")]
pub struct ParallelNode {
    pub settings: Settings,
    pub steps: Vec<Node>,
}

/// Branches at the same time, under construction.
///
/// An agent, a team or a workflow that comes next works on what all branches gave back, each under its name. A function
/// works on what the last of them gave back, and finds the others in its input
/// ([`StepInput::output`](crate::StepInput::output)).
///
/// When one fails for good, the others are dropped and the Parallel fails; a branch that may fail is given
/// [`OnError::Skip`](crate::OnError::Skip).
#[must_use]
#[derive(Debug)]
pub struct Parallel {
    pub(super) settings: Settings,
    pub(super) steps: Vec<Block>,
}

impl Parallel {
    /// A Parallel of this name.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self { settings: Settings::new(name), steps: Vec::new() }
    }

    /// Adds a branch: a step, or a container of steps.
    pub fn step(mut self, step: impl Into<Block>) -> Self {
        self.steps.push(step.into());
        self
    }

    container_settings!();
}

impl Container for ParallelNode {
    fn begun(&self, _: Option<&Verdict>) -> EventKind {
        EventKind::ParallelExecutionStarted { parallel_step_count: count(self.steps.len()) }
    }

    fn next(&self, key: &Key, frame: &Frame) -> Next {
        if frame.own().branches.len() == self.steps.len() {
            return Next::End;
        }
        let open = frame.own().left_out.iter().copied().chain(frame.at..count(self.steps.len()));
        Next::Begin(open.map(|place| key.node(Place::Branch(place))).collect())
    }

    fn ended(&self, frame: &Frame) -> Ending {
        let outputs: Vec<_> = frame.own().branches.values().map(Branch::output).collect();
        Ending {
            event: EventKind::ParallelExecutionCompleted {
                parallel_step_count: count(self.steps.len()),
                step_results: outputs.clone(),
            },
            output: StepOutput {
                executor_type: Some(ExecutorKind::Parallel),
                executor_name: Some(self.settings.name.clone()),
                metrics: sum(&outputs),
                ..output_of(report(&outputs), &outputs)
            },
        }
    }
}

/// What the branches gave back, in Agno's words.
fn report(outputs: &[Arc<StepOutput>]) -> String {
    let mut text = "## Parallel Execution Results".to_owned();
    for output in outputs {
        let mark = if output.success { "✅ SUCCESS" } else { "❌ FAILURE" };
        let content = output.text();
        let content = if content.trim().is_empty() { "*(No content)*" } else { content.as_str() };
        text.push_str(&format!("\n\n### {mark}: {}\n{content}", output.step_name.as_deref().unwrap_or_default()));
    }
    text.trim_end().to_owned()
}

/// What the branches used together.
pub(super) fn sum(outputs: &[Arc<StepOutput>]) -> Option<Box<Metrics>> {
    let used: Vec<&Metrics> = outputs.iter().filter_map(|output| output.metrics.as_deref()).collect();
    let mut sum = (*used.first()?).clone();
    used[1..].iter().for_each(|more| sum.add(more));
    Some(Box::new(sum))
}
