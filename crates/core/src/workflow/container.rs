//! What a container decides, and from what. Each kind of container answers in a file of its own, beside its type and its
//! builder. The machine adds what no answer can hold: a Loop's iterations in the log, and a nested workflow's run.
//!
//! The invariant: an answer depends on the node and its frame alone, so a replay gets the same one.

use super::{Verdict, VerdictInput};
use crate::event::EventKind;
use crate::log::{Key, Place};
use crate::machine::Frame;
use crate::step::StepOutput;
use std::sync::Arc;

/// What is next in a container that has begun.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// Begin these children, if they have not begun.
    Begin(Vec<Key>),
    /// Begin this iteration.
    Iterate(u32),
    /// Ask whether this was the last iteration.
    Ask,
    /// The iteration is over; `true`: there may be another.
    EndIteration(bool),
    /// It is over.
    End,
}

/// How a container ended, for its event and its output.
pub(crate) struct Ending {
    pub(crate) event: EventKind,
    pub(crate) output: StepOutput,
}

pub(crate) trait Container {
    /// Whether a verdict must be there before it begins.
    fn needs_verdict(&self) -> bool {
        false
    }

    /// Completes what its code is asked; `iteration` is the frame of a Loop at the end of one.
    fn complete(&self, given: &mut VerdictInput, iteration: Option<&Frame>) {
        let _ = (given, iteration);
    }

    /// What is wrong with a verdict, in words for a person.
    fn refuse(&self, verdict: &Verdict) -> Option<String> {
        let _ = verdict;
        None
    }

    /// The event that says it has begun.
    fn begun(&self, verdict: Option<&Verdict>) -> EventKind;

    /// What is next.
    fn next(&self, key: &Key, frame: &Frame) -> Next;

    /// The event that says so when it is over, and its output; the machine fills in name and ids.
    fn ended(&self, frame: &Frame) -> Ending;
}

/// The next child of a sequence of `count`, at `inside` of the container.
pub(super) fn sequence(inside: &Key, frame: &Frame, count: usize) -> Next {
    let is_over = frame.is_stopped || usize::try_from(frame.at).is_ok_and(|at| at >= count);
    if is_over { Next::End } else { Next::Begin(vec![inside.node(Place::Step(frame.at))]) }
}

/// The output of a container of these children.
pub(super) fn output_of(content: String, steps: &[Arc<StepOutput>]) -> StepOutput {
    StepOutput {
        success: steps.iter().all(|step| step.success),
        stop: steps.iter().any(|step| step.stop),
        steps: steps.to_vec(),
        ..StepOutput::new(content)
    }
}

pub(super) fn count(steps: usize) -> u32 {
    u32::try_from(steps).unwrap_or(u32::MAX)
}
