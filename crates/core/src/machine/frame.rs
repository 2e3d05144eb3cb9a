//! Containers in progress: what each knows of its children, and what it gives the next one.
//!
//! Memory follows what is open: a child that ended is its output alone. The invariant: a frame is the fold of the
//! records inside its container.

use super::branch::Branch;
use crate::event::Origin;
use crate::log::{Called, Key};
use crate::outputs::Outputs;
use crate::run::RunInfo;
use crate::step::{StepOutput, StepType};
use crate::time::Timestamp;
use crate::workflow::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

/// What the next child is given of those before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scope {
    /// Outputs by step name.
    pub(crate) outputs: Outputs,
    /// The content of the last one that succeeded.
    pub(crate) content: Option<Value>,
    /// The output with that content.
    pub(crate) last: Option<Arc<StepOutput>>,
    /// Those that made images, videos, audio or files, in order.
    #[serde(default)]
    pub(crate) media: Option<Arc<Vec<Arc<StepOutput>>>>,
}

impl Scope {
    /// What an agent, a team or a workflow works on. After a Parallel it is what all branches gave back, each under its
    /// name; a function, which can look for them in the outputs, is given the content of the last one.
    pub(crate) fn task(&self) -> Option<Value> {
        self.last.as_deref().and_then(StepOutput::joined).map(Value::String).or_else(|| self.content.clone())
    }
}

/// A container that has begun and has not ended; the run itself is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Frame {
    pub(crate) kind: StepType,
    pub(crate) name: Arc<str>,
    /// What its next child is given.
    pub(crate) scope: Scope,
    /// What it gives on: the content of the last child of a sequence that succeeded, or what a person made of it.
    pub(crate) content: Option<Value>,
    /// A sequence: its child has begun and has not ended.
    has_child: bool,
    /// Which child of a sequence is next, from 0; of a Parallel or a ForEach, the first after all that have begun.
    pub(crate) at: u32,
    /// A child said that the workflow ends here.
    pub(crate) is_stopped: bool,
    /// Outputs of a sequence; of a Loop, those of the iteration.
    pub(crate) results: Vec<Arc<StepOutput>>,
    /// What the run itself does not need: of most runs there is nothing else in memory.
    own: Option<Box<Own>>,
}

/// What only containers inside a run have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Own {
    /// What its own events are about.
    pub(crate) origin: Origin,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) deadline: Option<Timestamp>,
    /// What it was given.
    pub(crate) given: Scope,
    /// A Parallel or a ForEach: those before the next that have not begun.
    pub(crate) left_out: BTreeSet<u32>,
    /// A Parallel or a ForEach: its branches that ended, by place.
    pub(crate) branches: BTreeMap<u32, Branch>,
    /// A Loop: the iteration, from 1; 0 before the first.
    pub(crate) iteration: u32,
    /// A Loop between iterations: whether there may be another.
    pub(crate) goes_on: Option<bool>,
    /// A Loop: outputs of the iterations that are over.
    pub(crate) rounds: Vec<Vec<Arc<StepOutput>>>,
    /// A Loop: whether an iteration starts with what the one before gave back.
    pub(crate) forwards: bool,
    /// A branch: what was changed in the session inside it.
    pub(crate) state: Map<String, Value>,
    /// A nested workflow: its run, and what it works on.
    pub(crate) run: Option<Box<NestedRun>>,
}

/// The run of a nested workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NestedRun {
    pub(crate) info: Arc<RunInfo>,
    pub(crate) input: Option<Arc<Value>>,
    pub(crate) began: Timestamp,
    /// A call has it executed, and says this.
    pub(crate) called: Option<Box<Called>>,
}

impl Frame {
    /// The run itself.
    pub(super) fn of_run(name: Arc<str>) -> Self {
        Self {
            kind: StepType::Workflow,
            name,
            scope: Scope::default(),
            content: None,
            has_child: false,
            at: 0,
            is_stopped: false,
            results: Vec::new(),
            own: None,
        }
    }

    /// A container inside it.
    pub(super) fn new(kind: StepType, name: Arc<str>, given: Scope, own: Own) -> Self {
        let own = Some(Box::new(Own { given: given.clone(), ..own }));
        Self { kind, scope: given, own, ..Self::of_run(name) }
    }

    /// What only containers inside a run have; the run itself has nothing of it.
    pub(crate) fn own(&self) -> &Own {
        static NONE: LazyLock<Own> = LazyLock::new(Own::default);
        self.own.as_deref().unwrap_or(&NONE)
    }

    pub(super) fn own_mut(&mut self) -> &mut Own {
        self.own.get_or_insert_default()
    }

    /// A child has begun, or will begin again.
    pub(super) fn child_begun(&mut self, key: &Key) {
        let Some(place) = key.branch() else {
            self.has_child = true;
            return;
        };
        let at = self.at;
        let left_out = &mut self.own_mut().left_out;
        left_out.remove(&place);
        if place >= at {
            left_out.extend(at..place);
            self.at = place + 1;
        }
    }

    /// Whether a child has begun: of a sequence the one whose turn it is, for there is no other.
    pub(super) fn has_begun(&self, key: &Key) -> bool {
        match key.branch() {
            Some(place) => place < self.at && !self.own().left_out.contains(&place),
            None => self.has_child,
        }
    }

    /// How many branches have begun and have not ended.
    pub(crate) fn open_branches(&self) -> usize {
        usize::try_from(self.at).unwrap_or(usize::MAX) - self.own().left_out.len() - self.own().branches.len()
    }

    /// What a child is given.
    pub(super) fn scope_of(&self, key: &Key) -> Scope {
        let item = match (&self.own().verdict, key.branch()) {
            (Some(Verdict::Items { items }), Some(place)) => usize::try_from(place).ok().and_then(|at| items.get(at)),
            _ => None,
        };
        match item {
            Some(item) => Scope { content: Some(item.clone()), last: None, ..self.scope.clone() },
            None => self.scope.clone(),
        }
    }

    /// A child ended. `content` is what it gives on, `state` what was changed inside it and has not been merged.
    pub(super) fn child_ended(
        &mut self,
        key: &Key,
        output: Arc<StepOutput>,
        content: Option<Value>,
        state: Map<String, Value>,
    ) {
        if let Some(place) = key.branch() {
            // One that failed before it began, and is skipped, counts as begun.
            self.child_begun(key);
            self.is_stopped |= output.stop;
            self.own_mut().branches.insert(place, Branch::new(output, content, state));
            return;
        }
        self.has_child = false;
        if output.error.is_none() && output.has_media() {
            Arc::make_mut(self.scope.media.get_or_insert_default()).push(output.clone());
        }
        if let Some(name) = &output.step_name {
            self.scope.outputs.insert_mut(name.clone(), output.clone());
        }
        if content.is_some() {
            self.scope.content.clone_from(&content);
            self.scope.last = Some(output.clone());
            self.content = content;
        }
        self.at += 1;
        self.is_stopped |= output.stop;
        self.results.push(output);
    }

    /// A child has no part in the run: it has no output.
    pub(super) fn child_left_out(&mut self, key: &Key) {
        let Some(place) = key.branch() else {
            self.has_child = false;
            self.at += 1;
            return;
        };
        self.child_begun(key);
        let output = Arc::new(StepOutput::default());
        self.own_mut().branches.insert(place, Branch::new(output, None, Map::new()));
    }

    /// A Loop's iteration begins.
    pub(super) fn begin_iteration(&mut self, iteration: u32) {
        let own = self.own_mut();
        (own.iteration, own.goes_on) = (iteration, None);
        let given = (!own.forwards).then(|| own.given.clone());
        self.at = 0;
        if let Some(given) = given {
            self.scope = given;
        }
    }

    /// It is over.
    pub(super) fn end_iteration(&mut self, goes_on: bool) {
        let round = std::mem::take(&mut self.results);
        let own = self.own_mut();
        own.goes_on = Some(goes_on);
        own.rounds.push(round);
    }

    /// What it gives on, once it is over: of branches the content of the last in the order of the definition, whichever
    /// ended last.
    pub(super) fn given_on(self) -> Option<Value> {
        let Self { content, own, .. } = self;
        let branches = own.iter().flat_map(|own| own.branches.values().rev());
        content.or_else(|| branches.into_iter().find_map(Branch::content).cloned())
    }

    /// What the branches that ended changed in the session, in the order of the definition.
    pub(super) fn joined_state(&self) -> Map<String, Value> {
        self.own().branches.values().filter_map(Branch::state).flat_map(Map::clone).collect()
    }

    /// The outputs of its children that ended.
    pub(super) fn outputs(&self) -> Vec<Arc<StepOutput>> {
        let branches = self.own().branches.values().map(Branch::output);
        self.own().rounds.iter().flatten().chain(&self.results).cloned().chain(branches).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Place;
    use crate::machine::branch::looks;
    use serde_json::json;

    /// Each item that ends is put away without a look at those before it; they are looked at once, at the end.
    #[test]
    fn what_is_given_on_is_looked_for_once() {
        const COUNT: u32 = 1_000;
        for succeeds in [None, Some(0), Some(COUNT / 2)] {
            let own = Own { verdict: Some(Verdict::Items { items: vec![json!(0); COUNT as usize] }), ..Own::default() };
            let mut frame = Frame::new(StepType::Parallel, Arc::from("each"), Scope::default(), own);
            let before = looks();
            // In the order in which they end, which is not that of the list.
            for place in (0..COUNT).rev() {
                let is_it = succeeds == Some(place);
                let output =
                    StepOutput { success: is_it, content: is_it.then(|| json!(place)), ..StepOutput::default() };
                let content = output.content.clone();
                frame.child_ended(&Key::step(0).node(Place::Item(place)), Arc::new(output), content, Map::new());
            }
            assert_eq!(frame.given_on(), succeeds.map(|place| json!(place)));
            assert!(looks() - before <= COUNT as usize, "{} looks at {COUNT} items", looks() - before);
        }
    }
}
