//! `ForEach`: its body once per item of a list, several at the same time.
//!
//! Agno has no such container, and its client trips over names it does not know; so events and output call it a Parallel
//! with one branch for each item.

use super::container::{Container, Ending, Next, count, output_of};
use super::judge::{Decider, IntoVerdict};
use super::{Block, Node, Rule, Settings, Verdict, VerdictInput, container_settings};
use crate::event::EventKind;
use crate::failure::Failure;
use crate::log::{Key, Place};
use crate::machine::{Branch, Frame};
use crate::step::{ExecutorKind, StepOutput};
use serde_json::Value;
use std::sync::Arc;

/// Items in one list, at most.
const ITEMS_MAX: usize = 100_000;
/// Items at the same time when nothing else is said.
pub(super) const CONCURRENCY: u32 = 8;

/// A body for each item, as data.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields say it")]
pub struct ForEachNode {
    pub settings: Settings,
    pub items: Rule,
    pub concurrency: u32,
    /// The body, alone in its list.
    pub steps: Vec<Node>,
}

/// A body for each item, under construction. The body is a step, or a container of steps; it works on its item like a
/// step works on what the one before gave back: `input.text()` is the item, or its JSON.
///
/// When an item fails for good, the others are dropped and the `ForEach` fails; a body that may fail is given
/// [`OnError::Skip`](crate::OnError::Skip), and its item then counts as failed in the output.
///
/// ```
/// use outlive_core::{Failure, ForEach, Step};
///
/// let greet = Step::function("greet", |_, input| async move { Ok::<_, Failure>(format!("Hello {}!", input.text())) });
/// let all = ForEach::new("greetings").items(|_| ["Ada", "Grace"]).step(greet).concurrency(2);
/// ```
#[must_use]
#[derive(Debug)]
pub struct ForEach {
    pub(super) settings: Settings,
    pub(super) items: Option<Decider>,
    pub(super) concurrency: u32,
    pub(super) steps: Vec<Block>,
}

impl ForEach {
    /// A `ForEach` of this name. It needs a list: [`ForEach::items`] or one of its sisters.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self { settings: Settings::new(name), items: None, concurrency: CONCURRENCY, steps: Vec::new() }
    }

    /// The list comes from a function: a `Vec` or an array. It is recorded: a replay works on the same.
    pub fn items<A: IntoVerdict<Vec<Value>>>(self, items: impl Fn(&VerdictInput) -> A + Send + Sync + 'static) -> Self {
        self.listed_by(Decider::lists(items))
    }

    /// As [`ForEach::items`], from an async function, which may fail; its failure is the `ForEach`'s.
    pub fn items_async<F, R, A>(self, items: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, Failure>> + Send + 'static,
        A: IntoVerdict<Vec<Value>>,
    {
        self.listed_by(Decider::lists_async(items))
    }

    /// The list comes from a [CEL](crate::cel) expression. A mistake in it is a problem that `build()` reports.
    pub fn items_cel(self, expression: impl AsRef<str>) -> Self {
        self.listed_by(Decider::cel(expression))
    }

    /// The list is the content of an earlier step of this name: an array, or text that is one in JSON.
    pub fn items_of(self, step: impl AsRef<str>) -> Self {
        self.listed_by(Decider::Output(Arc::from(step.as_ref())))
    }

    fn listed_by(mut self, decider: Decider) -> Self {
        self.items = Some(decider);
        self
    }

    /// What is done with each item.
    pub fn step(mut self, step: impl Into<Block>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// How many items may have begun and not ended at the same time, from 1; 8 when not set. One that waits for an
    /// answer counts.
    pub fn concurrency(mut self, most: u32) -> Self {
        self.concurrency = most;
        self
    }

    container_settings!();
}

fn items(verdict: Option<&Verdict>) -> &[Value] {
    match verdict {
        Some(Verdict::Items { items }) => items,
        _ => &[],
    }
}

impl Container for ForEachNode {
    fn needs_verdict(&self) -> bool {
        true
    }

    fn refuse(&self, verdict: &Verdict) -> Option<String> {
        let length = items(Some(verdict)).len();
        (length > ITEMS_MAX).then(|| format!("its list has {length} items, the limit is {ITEMS_MAX}"))
    }

    fn begun(&self, verdict: Option<&Verdict>) -> EventKind {
        EventKind::ParallelExecutionStarted { parallel_step_count: count(items(verdict).len()) }
    }

    fn next(&self, key: &Key, frame: &Frame) -> Next {
        let total = count(items(frame.own().verdict.as_ref()).len());
        if frame.own().branches.len() >= items(frame.own().verdict.as_ref()).len() {
            return Next::End;
        }
        let free = self.concurrency.saturating_sub(count(frame.open_branches()));
        let open = frame.own().left_out.iter().copied().chain(frame.at..total).take(free as usize);
        Next::Begin(open.map(|item| key.node(Place::Item(item))).collect())
    }

    fn ended(&self, frame: &Frame) -> Ending {
        let outputs: Vec<_> = frame.own().branches.values().map(Branch::output).collect();
        let failed = outputs.iter().filter(|output| !output.success).count();
        let name = &self.settings.name;
        let content = match failed {
            0 => format!("ForEach {name} completed {} items", outputs.len()),
            _ => format!("ForEach {name} completed {} items, {failed} of them failed", outputs.len()),
        };
        Ending {
            event: EventKind::ParallelExecutionCompleted {
                parallel_step_count: count(outputs.len()),
                step_results: outputs.clone(),
            },
            output: StepOutput {
                executor_type: Some(ExecutorKind::Parallel),
                executor_name: Some(name.clone()),
                metrics: super::parallel::sum(&outputs),
                ..output_of(content, &outputs)
            },
        }
    }
}
