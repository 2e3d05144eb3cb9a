//! Workflows that calls inside a step have executed, as an agent's tool does: each is a container under its call's key.
//!
//! ```text
//! step ─► call ──begins──► workflow ──ends──► what the call gave; the step's output has the workflow's inside
//! ```
//! It must never know what a call is. Invariants: a call has one workflow executed, once; what fails in it fails it and
//! nothing around it; what it changes in the session is the call's to hand on.

use super::frame::{Frame, NestedRun, Own, Scope};
use super::workflow::{Open, WorkflowMachine};
use crate::event::{EventKind, Origin, RunEvent};
use crate::failure::{Failure, FailureKind};
use crate::log::{Called, Entry, Key, Place, Record};
use crate::run::RunInfo;
use crate::step::{StepOutput, StepType};
use crate::time::Timestamp;
use crate::workflow::{Definition, Node, WorkflowNode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a workflow that a call had executed came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalledEnd {
    /// Its output, with those of its steps; it says whether it failed, and why.
    pub output: Arc<StepOutput>,
    /// Its result.
    pub content: Option<Value>,
    /// What it changed in the session's state, key by key; null removes.
    pub state: Map<String, Value>,
}

/// The same of every workflow that the calls of a step had executed. Hardly any step has some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct CalledEnds(BTreeMap<Key, CalledEnd>);

impl WorkflowMachine {
    /// The step whose call has this workflow executed, and the step's name; none of anything else.
    pub(super) fn caller(&self, key: &Key) -> Option<(Key, Arc<str>)> {
        if !key.is_called() {
            return None;
        }
        self.ancestors(key).find_map(|outer| match self.open.get(&outer) {
            Some(Open::Step(step)) => Some((outer, step.name.clone())),
            _ => None,
        })
    }

    /// What the call said inside whose workflow this is.
    pub(super) fn called_by(&self, key: &Key) -> Option<&Called> {
        if !key.as_str().contains("/t") {
            return None;
        }
        self.ancestors(key).find_map(|outer| self.container(&outer)?.own().run.as_ref()?.called.as_deref())
    }

    /// The outputs of the workflows that the calls of a step have had executed; none when there were none.
    pub(super) fn called_outputs(&self, step: &Key) -> Option<Vec<Arc<StepOutput>>> {
        let Some(Open::Step(step)) = self.open.get(step) else { return None };
        let mut ended: Vec<_> = step.called.as_ref()?.0.iter().collect();
        ended.sort_by(|(one, _), (other, _)| one.in_order(other));
        Some(ended.into_iter().map(|(_, end)| end.output.clone()).collect())
    }

    // Folding.

    /// A call has this workflow executed.
    pub(super) fn workflow_called(&mut self, key: &Key, name: &Arc<str>, called: &Called) {
        let origin = self.origin(key, name, true);
        let run = match self.node(key) {
            Some(Node::Workflow(node)) => {
                let (input, called) = (Some(called.input.clone()), Some(Box::new(called.clone())));
                let info = Arc::new(self.info_of(key, node));
                Some(Box::new(NestedRun { info, input, began: self.last_at, called }))
            }
            _ => None,
        };
        let own = Own { origin, run, ..Own::default() };
        let frame = Frame::new(StepType::Workflow, name.clone(), Scope::default(), own);
        self.open(key, Open::Container(Box::new(frame)));
    }

    fn info_of(&self, key: &Key, node: &WorkflowNode) -> RunInfo {
        RunInfo {
            run_id: self.run_of(key).derive_run(key.sequence("w").as_str()),
            workflow_id: node.workflow_id.clone(),
            workflow_name: node.workflow_name.clone(),
            ..(*self.info).clone()
        }
    }

    /// It has ended: its step goes on.
    pub(super) fn called_ended(&mut self, key: &Key, end: CalledEnd) {
        let Some((caller, _)) = self.caller(key) else { return };
        if let Some(Open::Step(step)) = self.open.get_mut(&caller) {
            step.called.get_or_insert_default().0.insert(key.clone(), end);
        }
        self.agenda.calls_back = true;
        self.look_at(caller);
    }

    // Deciding.

    /// The call `call` of the step `step` has a workflow executed. Gives back the key under which it ends, and what is
    /// to be said: nothing when it has begun for this call.
    ///
    /// # Errors
    /// When it is none of those that the step's executor has named.
    pub fn call_workflow(
        &self,
        step: &Key,
        call: &Key,
        workflow: &Definition,
        called: Called,
        at: Timestamp,
    ) -> Result<(Key, Vec<Entry>), Failure> {
        let is_it = |node: &Node| match node {
            Node::Workflow(node) => node.workflow_id == workflow.id && node.steps == *workflow.nodes,
            _ => false,
        };
        let known = self.node(step).map_or(&[][..], Node::workflows);
        let Some(place) = known.iter().position(is_it).filter(|_| call.is_inside(step)) else {
            let problem = format!("the workflow {} is not among those that its step has named", workflow.id);
            return Err(Failure::new(FailureKind::Definition, problem));
        };
        let key = call.node(Place::Choice(u32::try_from(place).unwrap_or(u32::MAX)));
        if self.open.contains_key(&key) || self.called_end(step, &key).is_some() {
            return Ok((key, Vec::new()));
        }
        let Node::Workflow(node) = &known[place] else { return Ok((key, Vec::new())) };
        let event = RunEvent {
            created_at: at.as_seconds(),
            kind: EventKind::WorkflowStarted,
            origin: self.origin_inside(&key, node),
            event_index: None,
        };
        let record = Record::Begin {
            key: key.clone(),
            name: node.settings.name.clone(),
            kind: StepType::Workflow,
            verdict: None,
            deadline: None,
            called: Some(Box::new(called)),
        };
        Ok((key, vec![Entry::recorded(event, record)]))
    }

    /// What a workflow under this key came to; none while it is executed.
    pub fn called_end(&self, step: &Key, key: &Key) -> Option<&CalledEnd> {
        match self.open.get(step)? {
            Open::Step(step) => step.called.as_ref()?.0.get(key),
            _ => None,
        }
    }

    /// Whether what calls in progress have had executed has ended since the last call of this.
    pub fn calls_back(&mut self) -> bool {
        std::mem::take(&mut self.agenda.calls_back)
    }

    /// A step does nothing but wait for workflows that it has had executed. Whether that is so.
    pub fn rests(&mut self, step: &Key) -> bool {
        let waits = self.open.keys().any(|key| key.is_inside(step) && key.is_called());
        waits && !self.is_parked(step) && self.parks(step)
    }

    /// What its own events are about.
    fn origin_inside(&self, key: &Key, node: &WorkflowNode) -> Origin {
        let outer = self.origin(key, &node.settings.name, true);
        Origin {
            parent_step_id: outer.step_id.clone(),
            nested_depth: outer.nested_depth + 1,
            ..Origin::workflow(&self.info_of(key, node))
        }
    }

    /// The entry that ends one in which something has failed for good.
    pub(super) fn called_failed(&self, key: &Key, node: &Node, failure: &Failure, at: Timestamp) -> Entry {
        let output = Arc::new(self.failed_output(key, node, &failure.message, failure));
        let origin = match node {
            Node::Workflow(node) => self.origin_inside(key, node),
            _ => Origin::workflow(&self.info),
        };
        let kind = EventKind::WorkflowError {
            error: failure.message.clone(),
            error_type: Some(failure.kind.code().to_owned()),
            refusal: failure.refusal.clone(),
        };
        let event = RunEvent { created_at: at.as_seconds(), kind, origin, event_index: None };
        Entry::recorded(event, Record::Step { key: key.clone(), output, run: None, state: None })
    }
}
