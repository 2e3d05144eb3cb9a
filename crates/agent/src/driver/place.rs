//! Where a run stands and what it is asked to do: all that distinguishes one run of the loop from another.
//!
//! It must never know how a run goes. Keys and ids depend only on the place, never on the order in which things
//! happened, so that a resumed run finds its own.

use super::voice::Voice;
use crate::desk::Desk;
use crate::profile::Profile;
use outlive_core::port::{Effects, SessionState, StepContext, StepInfo};
use outlive_core::{DefinitionId, Key, Media, Origin, RunId, RunInfo, StepInput, content_text};
use serde_json::{Map, Value};

/// Where a run stands: its place in a workflow run, or alone.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    pub(crate) effects: &'a dyn Effects,
    /// Where it puts what it asks people.
    pub(super) desk: Desk,
    /// What the run's own keys begin with.
    pub(super) base: Key,
    /// The run everything is derived from: the workflow's, or its own when alone.
    pub(super) root: RunId,
    pub(super) workflow: Option<Workflow<'a>>,
    /// What the step was given, if it is in one.
    given: Option<&'a StepInput>,
    /// A member's: the team's run.
    pub(super) parent: Option<RunId>,
    /// The session's state as the run finds it. The run's changes stay in it until the run's caller takes them over.
    pub(crate) state: SessionState,
    /// A member's: what the runs around it had changed by then.
    pub(super) changed: Map<String, Value>,
}

#[derive(Clone, Copy)]
pub(super) struct Workflow<'a> {
    pub(super) run: &'a RunInfo,
    pub(super) step: &'a StepInfo,
}

impl<'a> Place<'a> {
    /// In a step; the kind of who works tells the run apart from anything else the step may record.
    pub(super) fn in_step(context: &'a StepContext, input: &'a StepInput, profile: &Profile) -> Self {
        Self {
            effects: &*context.effects,
            desk: Desk::new(),
            base: context.step.key.speaker(profile.kind().as_str()),
            root: context.run.run_id.clone(),
            workflow: Some(Workflow { run: &context.run, step: &context.step }),
            given: Some(input),
            parent: None,
            state: context.state.clone(),
            changed: Map::new(),
        }
    }

    /// Without a workflow.
    pub(super) fn alone(effects: &'a dyn Effects, root: RunId, profile: &Profile) -> Self {
        let base = Key::alone(profile.kind().as_str());
        let state = SessionState::default();
        let (desk, changed) = (Desk::new(), Map::new());
        Self { effects, desk, base, root, workflow: None, given: None, parent: None, state, changed }
    }

    pub(super) fn of_member(&self, call: &Key) -> Self {
        Self { base: call.member(), parent: Some(self.run_id()), ..self.clone() }
    }

    /// Of one of several members that the call delegates to.
    pub(super) fn of_member_of(&self, call: &Key, number: u32) -> Self {
        Self { base: call.member_of(number), parent: Some(self.run_id()), ..self.clone() }
    }

    pub(super) fn with_state(self, state: SessionState, changed: Map<String, Value>) -> Self {
        Self { state, changed, ..self }
    }

    /// What a name in instructions stands for.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        let own = self.state.get(name);
        let dependencies = || self.given?.dependencies.as_ref()?.get(name).cloned();
        let metadata = || self.given?.metadata.as_ref()?.get(name).cloned();
        let user = || self.workflow?.run.user_id.as_deref().filter(|_| name == "user_id").map(Value::from);
        let value = own.or_else(dependencies).or_else(metadata).or_else(user)?;
        Some(content_text(Some(&value)))
    }

    pub(super) fn run_id(&self) -> RunId {
        self.root.derive_run(self.base.as_str())
    }

    pub(super) fn origin(&self, profile: &Profile, id: DefinitionId) -> Origin {
        let name = profile.name.clone();
        // In a step, its events tell what the step's own do, as another run's than the workflow's.
        let around = match self.workflow {
            Some(Workflow { step, .. }) => Origin {
                workflow_name: None,
                workflow_run_id: step.origin.run_id.clone(),
                parent_step_id: None,
                ..step.origin.clone()
            },
            None => Origin::default(),
        };
        let mut origin = Origin { run_id: Some(self.run_id()), parent_run_id: self.parent.clone(), ..around };
        match Voice::of(profile) {
            Voice::Agent => (origin.agent_id, origin.agent_name) = (Some(id), Some(name)),
            Voice::Team => (origin.team_id, origin.team_name) = (Some(id), Some(name)),
        }
        origin
    }
}

/// What a run is asked to do.
#[derive(Clone, Default)]
pub(crate) struct Task {
    pub(super) content: Value,
    pub(super) images: Vec<Media>,
    pub(super) files: Vec<Media>,
    /// What the caller notes about the run.
    pub(super) metadata: Map<String, Value>,
    /// What is told before and after it.
    pub(super) around: Option<Box<Around>>,
}

/// What an agent is told beside its task.
#[derive(Clone, Default)]
pub(crate) struct Around {
    /// What earlier runs of the session were asked and came to: told before it.
    pub(super) history: Option<String>,
    /// What people have said about the step: told after it, and a part of it from then on.
    pub(super) said: Option<String>,
}

impl Task {
    pub(crate) fn new(content: impl Into<Value>) -> Self {
        Self { content: content.into(), ..Self::default() }
    }

    /// The content of the step before, for the first step the run's input, with the step's images and files.
    pub(crate) fn of_step(input: &StepInput) -> Self {
        let around = Around { history: input.workflow_history_context(), said: input.people_context() };
        Self {
            content: input.previous_step_content.as_ref().or(input.input.as_deref()).cloned().unwrap_or_default(),
            images: input.images.clone().unwrap_or_default(),
            files: input.files.clone().unwrap_or_default(),
            metadata: input.metadata.as_deref().cloned().unwrap_or_default(),
            around: (around.history.is_some() || around.said.is_some()).then(|| Box::new(around)),
        }
    }
}
