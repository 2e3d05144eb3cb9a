//! The agent that leads a run: it is executed first and beside the steps, which begin when it calls for them.
//!
//! ```text
//! leader ──answers──────────────────────────────────────────► the run's result
//!    └──calls──► the run's own steps, on what it asked ──► the run's result, and the leader's to comment on
//! ```
//! It must never know what an agent is: the leader is a step without a place among the others. Invariants: the steps of
//! a run are executed once, on what the leader's first call says; while they are, the leader waits where it is, and what
//! else becomes of the run does not depend on it.

use super::workflow::{Applied, Decision, Open, OpenStep, WorkflowMachine};
use crate::event::EventKind;
use crate::failure::{Failure, FailureKind};
use crate::log::{Called, Entry, Key, Record};
use crate::run::RunOutput;
use crate::step::{StepOutput, StepType};
use crate::time::Timestamp;
use crate::workflow::Node;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The agent that leads a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Lead {
    /// None when the log is folded without a definition.
    node: Option<Arc<Node>>,
    /// The call that began the steps, and what they work on.
    pub(super) call: Option<(Key, Arc<Value>)>,
    /// It has ended, with this answer.
    pub(super) answer: Option<Value>,
    run: Option<Arc<RunOutput>>,
}

impl WorkflowMachine {
    /// Has this agent lead the run.
    #[must_use]
    pub fn with_leader(self, leader: Option<Arc<Node>>) -> Self {
        let lead = leader.map(|node| Box::new(Lead { node: Some(node), ..Lead::default() }));
        Self { lead, ..self }
    }

    pub(super) fn leader(&self) -> Option<&Node> {
        self.lead.as_ref()?.node.as_deref()
    }

    /// Whether the leader has called for the steps.
    pub(super) fn has_called(&self) -> bool {
        self.lead.as_ref().is_some_and(|lead| lead.call.is_some())
    }

    /// What the steps of the run work on, or its leader.
    pub(super) fn input_of_steps(&self, key: &Key) -> Option<&Arc<Value>> {
        match self.lead.as_deref() {
            Some(Lead { call: Some((_, asked)), .. }) if *key != Key::leader() => Some(asked),
            _ => self.input.as_ref(),
        }
    }

    /// The result of the run: what its steps came to, or the leader's answer where none was called for.
    pub(super) fn content(&self) -> Option<Value> {
        match self.lead.as_deref() {
            Some(Lead { call: None, answer, .. }) => answer.clone(),
            _ => self.root.content.clone(),
        }
    }

    /// The runs of agents and teams that ended, the leader's last.
    pub(super) fn runs_so_far(&self) -> Vec<Arc<RunOutput>> {
        let leads = self.lead.iter().filter_map(|lead| lead.run.as_ref());
        self.runs.iter().chain(leads).cloned().collect()
    }

    // Folding.

    /// The run has begun.
    pub(super) fn leader_begins(&mut self) {
        if let Some(name) = self.leader().map(|leader| leader.name().clone()) {
            self.open(&Key::leader(), Open::Step(Box::new(OpenStep::new(name, None))));
        }
    }

    /// The leader has called for the steps.
    pub(super) fn steps_called(&mut self, call: &Key, input: &Arc<Value>) {
        self.lead.get_or_insert_default().call = Some((call.clone(), input.clone()));
        self.look_at(Key::run());
    }

    /// The leader has answered.
    pub(super) fn leader_ended(
        &mut self,
        output: &StepOutput,
        run: Option<&Arc<RunOutput>>,
        session: Map<String, Value>,
    ) -> Applied {
        let (_, dropped) = self.forget(&Key::leader());
        let lead = self.lead.get_or_insert_default();
        lead.answer = Some(output.content.clone().unwrap_or_default());
        lead.run = run.cloned();
        self.look_at(Key::run());
        Applied { session, dropped }
    }

    // Deciding.

    /// The leader's call `call` has the steps executed, on `input`; the leader waits until it is
    /// [called back](Self::called_back). Nothing to say when they have begun for this call.
    ///
    /// # Errors
    /// When they cannot be executed for it.
    pub fn call_steps(&mut self, call: &Key, input: Value, at: Timestamp) -> Result<Vec<Entry>, Failure> {
        let Some(Lead { call: called, .. }) = self.lead.as_deref().filter(|_| call.is_inside(&Key::leader())) else {
            let problem = "only the agent that leads a workflow has its steps executed: give it with .agent(..)";
            return Err(Failure::new(FailureKind::Definition, problem));
        };
        let say = match called {
            Some((known, _)) if known != call => {
                let problem =
                    "the steps have been called for in this run, and are executed once: answer with what you have";
                return Err(Failure::fatal(problem));
            }
            Some(_) => Vec::new(),
            None => {
                let record = Record::Begin {
                    key: call.clone(),
                    name: self.info.workflow_name.clone(),
                    kind: StepType::Workflow,
                    verdict: None,
                    deadline: None,
                    called: Some(Box::new(Called::new(input))),
                };
                vec![Entry::recorded(self.event(EventKind::WorkflowStarted, at), record)]
            }
        };
        if !self.steps_are_over() {
            self.parks(&Key::leader());
        }
        Ok(say)
    }

    /// What the steps came to that the leader called for; none while they are executed.
    pub fn called_back(&self) -> Option<Option<Value>> {
        let is_over = self.has_called() && self.steps_are_over();
        is_over.then(|| self.root.content.clone())
    }

    /// The steps are over: the leader goes on.
    pub(super) fn call_back(&mut self) -> Decision {
        self.agenda.calls_back = true;
        let leader = Key::leader();
        // One that was not called again yet, after a crash, finds what they came to.
        if self.is_parked(&leader) { self.execute(&leader) } else { Decision::default() }
    }
}
