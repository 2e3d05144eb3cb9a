//! `Steps`: a named sequence.

use super::container::{Container, Ending, Next, count, output_of, sequence};
use super::{Block, Node, Settings, Verdict, container_settings};
use crate::event::EventKind;
use crate::log::Key;
use crate::machine::Frame;

/// A named sequence, as data.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are Agno's and say it")]
pub struct StepsNode {
    pub settings: Settings,
    pub steps: Vec<Node>,
}

/// A named sequence under construction: its steps are executed one after the other, each with what those before it gave
/// back.
#[must_use]
#[derive(Debug)]
pub struct Steps {
    pub(super) settings: Settings,
    pub(super) steps: Vec<Block>,
}

impl Steps {
    /// A sequence of this name.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self { settings: Settings::new(name), steps: Vec::new() }
    }

    /// Adds a step, or another container, after the ones before.
    pub fn step(mut self, step: impl Into<Block>) -> Self {
        self.steps.push(step.into());
        self
    }

    container_settings!();
}

impl Container for StepsNode {
    fn begun(&self, _: Option<&Verdict>) -> EventKind {
        EventKind::StepsExecutionStarted { steps_count: count(self.steps.len()) }
    }

    fn next(&self, key: &Key, frame: &Frame) -> Next {
        sequence(key, frame, self.steps.len())
    }

    fn ended(&self, frame: &Frame) -> Ending {
        let executed = frame.results.len();
        Ending {
            event: EventKind::StepsExecutionCompleted {
                steps_count: count(self.steps.len()),
                executed_steps: count(executed),
                step_results: frame.results.clone(),
            },
            output: output_of(
                format!("Steps {} completed with {executed} results", self.settings.name),
                &frame.results,
            ),
        }
    }
}
