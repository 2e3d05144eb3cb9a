//! Whether a run can go on with a definition: its log decides.
//!
//! Steps that the run has not reached may be anything. Those it has reached must be there, under the same name and of
//! the same kind; a conversation that an agent or a team has begun is for its kind alone to end. It must never know
//! who asks: an engine that takes a run over and a person about to deploy get the same answer.

use super::workflow::{Applied, Open, WorkflowMachine};
use crate::log::{Entry, Key, Part, Record};
use crate::step::{ExecutorKind, StepType};
use crate::workflow::{Node, Path, Verdict};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The first difference between a log and a definition because of which the run cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("definition changed: {path}: was {was}, is {is}{}", At(*event_index))]
pub struct Mismatch {
    /// The first entry that does not fit; none when each fits, but not what is still in progress.
    pub event_index: Option<u64>,
    /// Where it is, in the definition that the log was written with as far as that is known.
    pub path: String,
    /// What the log says was there.
    pub was: String,
    /// What this definition has there.
    pub is: String,
    key: Key,
}

struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |index| write!(f, " (entry {index})"))
    }
}

impl Mismatch {
    /// In the words of the definition that the run was accepted with, as far as that is what the log was written with.
    fn told_by(self, accepted: &[Node]) -> Self {
        match Node::find(accepted, &self.key) {
            // The log names its step, and that is it.
            Some(node) if self.was.ends_with(&format!("{:?}", node.name())) => {
                Self { path: Path::of(accepted, &self.key).to_string(), was: node.named(), ..self }
            }
            _ => self,
        }
    }
}

/// Folds a run's log with a definition, and says whether the run can go on with it.
#[derive(Clone, Debug, Default)]
pub struct Fit {
    accepted: Option<Arc<[Node]>>,
    /// Steps inside which something was recorded, and by what.
    inside: BTreeMap<Key, ExecutorKind>,
}

impl Fit {
    /// `accepted` is the tree that the run was accepted with, if that is known and is another: differences are told in
    /// its words. It decides nothing.
    pub fn new(accepted: Option<Arc<[Node]>>) -> Self {
        Self { accepted, inside: BTreeMap::new() }
    }

    /// Applies one entry, in log order.
    ///
    /// # Errors
    /// [`Mismatch`] when it does not fit.
    pub fn apply(&mut self, machine: &mut WorkflowMachine, entry: &Entry) -> Result<Applied, Mismatch> {
        if let Some(
            Record::Intent { key, name: None }
            | Record::Reserved { key, .. }
            | Record::Result { key, .. }
            | Record::Said { key }
            | Record::Run { key, .. },
        ) = &entry.record
        {
            self.inside.extend(inside(key));
        }
        machine.apply(entry).map_err(|mismatch| self.tell(mismatch))
    }

    /// Whether what is in progress can go on, once all entries have been applied.
    ///
    /// # Errors
    /// [`Mismatch`] when it cannot.
    pub fn end(&self, machine: &WorkflowMachine) -> Result<(), Mismatch> {
        if self.inside.contains_key(&Key::leader()) {
            machine.expect_leader(None)?;
        }
        let other = machine.open.iter().find_map(|(key, open)| {
            let (Open::Step(_), Some(Node::Step(node))) = (open, machine.node(key)) else { return None };
            // What a function has named belongs to all attempts at its step.
            let was = self
                .inside
                .get(key)
                .or_else(|| self.inside.get(&key.attempt(1)).filter(|was| **was == ExecutorKind::Function));
            was.filter(|was| **was != node.executor_type).map(|was| (key, *was, node))
        });
        let Some((key, was, node)) = other else { return Ok(()) };
        let was = Node::named_as(was, &node.name);
        let mismatch = machine.mismatch(None, key, was, |node| node.map_or_else(nothing, Node::named));
        Err(self.tell(mismatch))
    }

    fn tell(&self, mismatch: Mismatch) -> Mismatch {
        match &self.accepted {
            Some(accepted) => mismatch.told_by(accepted),
            None => mismatch,
        }
    }
}

/// The step that something recorded is inside of, and what it is for.
fn inside(key: &Key) -> Option<(Key, ExecutorKind)> {
    let mut end = 0;
    for (part, text) in key.parts().zip(key.as_str().split('/')) {
        let kind = match part {
            Part::Speaker("team") => ExecutorKind::Team,
            Part::Speaker(_) => ExecutorKind::Agent,
            Part::Named(_) => ExecutorKind::Function,
            _ => {
                end += text.len() + 1;
                continue;
            }
        };
        // An agent alone is in no step.
        return end.checked_sub(1).map(|end| (Key::parse(&key.as_str()[..end]), kind));
    }
    None
}

const LED: &str = "one that leads the workflow";
const NOT_LED: &str = "none";

fn nothing() -> String {
    "nothing".to_owned()
}

impl WorkflowMachine {
    fn mismatch(
        &self,
        entry: Option<&Entry>,
        key: &Key,
        was: String,
        is: impl FnOnce(Option<&Node>) -> String,
    ) -> Mismatch {
        Mismatch {
            event_index: entry.map(|entry| entry.event.event_index.unwrap_or_default()),
            path: Path::of(&self.nodes, key).to_string(),
            was,
            is: is(self.node(key)),
            key: key.clone(),
        }
    }

    /// Whether an agent leads this definition.
    pub(super) fn expect_leader(&self, entry: Option<&Entry>) -> Result<(), Mismatch> {
        match self.is_bound && self.leader().is_none() {
            true => Err(self.led(entry, [LED, NOT_LED])),
            false => Ok(()),
        }
    }

    fn led(&self, entry: Option<&Entry>, [was, is]: [&str; 2]) -> Mismatch {
        let mismatch = self.mismatch(entry, &Key::leader(), was.to_owned(), |_| is.to_owned());
        Mismatch { path: "agent".to_owned(), ..mismatch }
    }

    /// Whether this definition has a node of this name and kind where the entry says.
    pub(super) fn expect(&self, entry: &Entry, key: &Key, name: &str, kind: StepType) -> Result<(), Mismatch> {
        // The steps of a run that is led begin when its leader calls for them.
        if self.leader().is_some() && !self.has_called() {
            return Err(self.led(Some(entry), [NOT_LED, LED]));
        }
        let is_it = |node: &Node| &**node.name() == name && node.kind() == kind;
        if !self.is_bound || self.node(key).is_some_and(is_it) {
            return Ok(());
        }
        let was = named(kind, name);
        Err(self.mismatch(Some(entry), key, was, |node| node.map_or_else(nothing, Node::named)))
    }

    /// Whether what is there could have begun with this verdict.
    pub(super) fn expect_verdict(&self, entry: &Entry, key: &Key, verdict: Option<&Verdict>) -> Result<(), Mismatch> {
        let node = self.node(key).filter(|_| self.is_bound);
        let Some((node, problem)) = node.and_then(|node| Some((node, node.admits(verdict).err()?))) else {
            return Ok(());
        };
        let was = match verdict {
            Some(Verdict::Items { .. }) => format!("a ForEach {:?}", node.name()),
            _ => named(node.kind(), node.name()),
        };
        Err(self.mismatch(Some(entry), key, was, |_| problem))
    }
}

/// What a log says of a node: less than its definition.
fn named(kind: StepType, name: &str) -> String {
    match kind {
        StepType::Step => format!("a step {name:?}"),
        StepType::Workflow => format!("a workflow step {name:?}"),
        kind => format!("a {kind:?} {name:?}"),
    }
}
