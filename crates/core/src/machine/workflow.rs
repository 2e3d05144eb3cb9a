//! The workflow machine: which steps are next, and what the log says about them.
//!
//! It never trusts its memory over the log: every change goes through [`WorkflowMachine::apply`], whether the entry was
//! just made or read back after a crash, so both ways end in the same state. It folds records only; events are what it
//! says, never what it reads.
//!
//! ```text
//! records ──apply──► open nodes, by key ──next──► entries to say, tasks to start, when to wake
//!                           ▲                                      │
//!                           └────────── settle(key, result) ◄──────┘
//!
//! a step:       Intent ──► (Retry ──►)* Step | Failed
//! a container:  [verdict] Begin ──► its children ──► Step
//! ```
//! Deciding costs as much as the nodes that changed, not as the tree is large; memory follows what is open.

use super::called::{CalledEnd, CalledEnds};
use super::drift::Mismatch;
use super::frame::{Frame, NestedRun, Own, Scope};
use super::lead::Lead;
use super::people::People;
use super::rest::{add_own_metrics, metrics_of};
use crate::event::{EventKind, Origin, RunEvent, WorkflowDone};
use crate::failure::{Failure, FailureKind};
use crate::id::{RunId, WorkerId};
use crate::log::{Entry, Key, Part, Record};
use crate::metrics::{Metrics, RunMetrics};
use crate::port::{Doing, Executed, StepInfo, laid_over, merge};
use crate::question::QuestionKind;
use crate::run::{NestedWorkflow, RunInfo, RunOutput, RunStatus};
use crate::step::{Attachments, ExecutorKind, StepIndex, StepInput, StepOutput, StepType, content_type};
use crate::time::Timestamp;
use crate::workflow::{Next, Node, OnError, StepNode, Verdict, VerdictInput};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// Where the run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Nothing has been said yet.
    Fresh,
    /// It has begun.
    Going,
    /// A terminal event is in the log, or a pause.
    Ended(RunStatus),
}

/// One run of one workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkflowMachine {
    pub(super) info: Arc<RunInfo>,
    /// Who claimed the run last.
    #[serde(default)]
    pub(super) worker: Option<WorkerId>,
    pub(super) input: Option<Arc<Value>>,
    /// What the run lays over its session's state when it begins, and, once that state is known, what this changes there
    /// beyond it.
    pub(super) own_state: Map<String, Value>,
    #[serde(skip)]
    pub(super) laid: Option<Box<Map<String, Value>>>,
    pub(super) attachments: Option<Box<Attachments>>,
    pub(super) nodes: Arc<[Node]>,
    pub(super) is_bound: bool,
    pub(super) created_at: i64,
    pub(super) started_at: Option<Timestamp>,
    pub(super) last_at: Timestamp,
    pub(super) phase: Phase,
    /// The run itself, as a container.
    pub(super) root: Frame,
    /// What has begun and has not ended.
    pub(super) open: BTreeMap<Key, Open>,
    /// The agent that leads it, if one does.
    pub(super) lead: Option<Box<Lead>>,
    /// What it has asked people, if anything.
    pub(super) people: Option<Box<People>>,
    pub(super) runs: Vec<Arc<RunOutput>>,
    /// What agents and teams used so far, those too whose work came to nothing.
    #[serde(default)]
    pub(super) used: RunMetrics,
    pub(super) rest: Option<Box<crate::log::Rest>>,
    #[serde(skip)]
    pub(super) agenda: Agenda,
}

/// A node that has begun and has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Open {
    /// A step.
    Step(Box<OpenStep>),
    /// A container.
    Container(Box<Frame>),
    /// A container that failed.
    Again(Box<Again>),
}

/// A container that failed and begins again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Again {
    name: Arc<str>,
    due_at: Timestamp,
}

impl Open {
    /// When it is to be looked at, whatever happens until then.
    fn due_at(&self) -> Option<Timestamp> {
        match self {
            Open::Step(step) => step.due_at,
            Open::Container(frame) => frame.own().deadline,
            Open::Again(again) => Some(again.due_at),
        }
    }
}

/// A step that has begun and has not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OpenStep {
    pub(super) name: Arc<str>,
    /// It failed, and is executed again at this time.
    pub(super) due_at: Option<Timestamp>,
    /// It failed for good; the record of what follows from it comes next.
    pub(super) failed: Option<Arc<StepOutput>>,
    /// It is being executed, as this says. As the [`Agenda`], this does not follow from the log.
    #[serde(skip)]
    executing: Option<Arc<StepInfo>>,
    /// It waits for people where it is, and goes on there if they answer before its run leaves memory.
    #[serde(skip)]
    is_parked: bool,
    /// When what it sleeps for is due. While it is executed, what it sleeps for beside a question: its function says so.
    /// After a log was folded, all that it has slept for and may still.
    #[serde(default)]
    pub(super) sleeps: Vec<Timestamp>,
    /// It sleeps, and its function was dropped.
    #[serde(skip)]
    is_asleep: bool,
    /// The workflows that its calls have had executed, as they ended.
    pub(super) called: Option<Box<CalledEnds>>,
}

impl OpenStep {
    pub(super) fn new(name: Arc<str>, due_at: Option<Timestamp>) -> Self {
        let (sleeps, is_asleep) = (Vec::new(), false);
        Self { name, due_at, failed: None, executing: None, is_parked: false, sleeps, is_asleep, called: None }
    }

    pub(super) fn is_executing(&self) -> bool {
        self.executing.is_some() && !self.is_parked
    }
}

impl PartialEq for OpenStep {
    fn eq(&self, other: &Self) -> bool {
        let of = |step: &Self| (step.name.clone(), step.due_at, step.failed.clone(), step.called.clone());
        of(self) == of(other)
    }
}

/// What is to be looked at. It follows from the rest, so a machine that was read back makes a new one.
#[derive(Clone, Debug, Default)]
pub(super) struct Agenda {
    is_known: bool,
    /// Nodes that changed; the run itself has the empty key.
    ready: BTreeSet<Key>,
    /// When something is due.
    due: BTreeSet<(Timestamp, Key)>,
    /// Containers whose verdict is being asked for.
    asked: BTreeSet<Key>,
    /// How many steps are being executed.
    executing: u32,
    /// The step that was begun last, and where it stands: it is executed next, as a rule.
    begun: Option<Box<(Key, Origin)>>,
    /// Questions that nobody needs to answer any more.
    pub(super) void: Vec<Arc<str>>,
    /// What a call in progress had executed has ended.
    pub(super) calls_back: bool,
}

impl PartialEq for Agenda {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What the machine wants said and done.
#[derive(Debug, Default)]
pub struct Decision {
    /// Entries to append and apply first.
    pub say: Vec<Entry>,
    /// What to change in the session with them, key by key; null removes. What entries change by themselves is told
    /// when they are [applied](Applied).
    pub session: Map<String, Value>,
    /// What to start then, side by side.
    pub start: Vec<Task>,
    /// When to ask again, if nothing ends before.
    pub wake: Option<Timestamp>,
    /// The run is over, or paused.
    pub end: Option<RunStatus>,
}

impl Decision {
    /// Whether there is nothing to say or to start: wait for what is in progress, or for the time to wake.
    pub fn is_idle(&self) -> bool {
        self.say.is_empty() && self.start.is_empty() && self.end.is_none()
    }
}

/// Something to do. Its end is handed to [`WorkflowMachine::settle`] or [`WorkflowMachine::decided`].
#[derive(Debug)]
pub enum Task {
    /// Execute a step.
    Execute(Box<Execute>),
    /// Ask the code of a container for its verdict.
    Ask(Box<Ask>),
}

impl Task {
    /// Whose it is.
    pub fn key(&self) -> &Key {
        match self {
            Task::Execute(step) => &step.info.key,
            Task::Ask(ask) => &ask.key,
        }
    }
}

/// One attempt at one step.
#[derive(Debug)]
pub struct Execute {
    /// Facts for the executor.
    pub info: Arc<StepInfo>,
    /// What it is given.
    pub input: Arc<StepInput>,
    /// What was changed in the session by the branches it is in, and has not been merged.
    pub state: Map<String, Value>,
    /// Longest time for it, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// What runs inside. A function may affect the outside world as soon as it starts; agents and teams wait for
    /// durability themselves, before each call.
    pub executor_type: ExecutorKind,
    /// It was dropped while it slept, and is executed again from its beginning.
    pub resumes: bool,
}

/// A verdict to be asked for.
#[derive(Debug)]
pub struct Ask {
    /// The container.
    pub key: Key,
    /// Longest time for it, in milliseconds, where the container has not begun: afterwards the container's own time
    /// covers it.
    pub timeout_ms: Option<u64>,
    /// What it is asked. The session's state is filled in by whoever asks.
    pub given: VerdictInput,
    /// What was changed in the session by the branches it is in, and has not been merged.
    pub state: Map<String, Value>,
}

/// What an entry did beside changing the machine.
#[derive(Debug, Default)]
pub struct Applied {
    /// What it changed in the session, key by key; null removes.
    pub session: Map<String, Value>,
    /// Everything in progress inside this is to be dropped.
    pub dropped: Option<Key>,
}

impl WorkflowMachine {
    /// A run nobody has started. Without the definition's `nodes`, the log can be folded and the run ended, but no
    /// more.
    pub fn new(
        info: Arc<RunInfo>,
        nodes: Option<Arc<[Node]>>,
        input: Option<Value>,
        attachments: Attachments,
        created_at: Timestamp,
    ) -> Self {
        Self {
            root: Frame::of_run(info.workflow_name.clone()),
            info,
            input: input.map(Arc::new),
            own_state: Map::new(),
            laid: None,
            attachments: Some(attachments).filter(|given| *given != Attachments::default()).map(Box::new),
            is_bound: nodes.is_some(),
            nodes: nodes.unwrap_or_else(|| Arc::from([])),
            created_at: created_at.as_seconds(),
            started_at: None,
            last_at: created_at,
            worker: None,
            phase: Phase::Fresh,
            open: BTreeMap::new(),
            lead: None,
            people: None,
            runs: Vec::new(),
            used: RunMetrics::default(),
            rest: None,
            agenda: Agenda::default(),
        }
    }

    /// What the run lays over its session's state when it begins.
    #[must_use]
    pub fn with_session_state(self, own: Map<String, Value>) -> Self {
        Self { own_state: own, ..self }
    }

    /// This is the session's state before the run begins.
    pub fn begins_with(&mut self, session: &Map<String, Value>) {
        if self.is_fresh() {
            self.laid = Some(laid_over(session, &self.own_state)).filter(|laid| *laid != self.own_state).map(Box::new);
        }
    }

    // Folding.

    /// Applies one entry, in log order.
    ///
    /// # Errors
    /// [`Mismatch`] when the entry names a step that this definition does not have at that place.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, Mismatch> {
        let mut applied = Applied::default();
        match &entry.record {
            Some(Record::Claimed { worker, at, epoch, state, .. }) => {
                self.worker = Some(worker.clone());
                applied.session = state.as_deref().cloned().unwrap_or_default();
                // What a fork was given was done before it began.
                if *epoch > 0 {
                    self.started_at.get_or_insert(*at);
                }
                self.last_at = *at;
                let is_fresh = self.phase == Phase::Fresh;
                if matches!(self.phase, Phase::Fresh | Phase::Ended(RunStatus::Paused)) {
                    self.phase = Phase::Going;
                    self.rest = None;
                    self.look_at(Key::run());
                }
                if is_fresh {
                    self.leader_begins();
                }
            }
            Some(Record::Intent { key, name: Some(name) }) => {
                self.expect(entry, key, name, StepType::Step)?;
                self.open(key, Open::Step(Box::new(OpenStep::new(name.clone(), None))));
            }
            Some(Record::Begin { key, called: Some(called), .. }) if key.is_inside(&Key::leader()) => {
                self.expect_leader(Some(entry))?;
                self.steps_called(key, &called.input);
            }
            Some(Record::Begin { key, name, kind, called: Some(called), .. }) => {
                self.expect(entry, key, name, *kind)?;
                self.workflow_called(key, name, called);
            }
            Some(Record::Begin { key, name, kind, verdict, deadline, called: None }) => {
                self.expect(entry, key, name, *kind)?;
                self.expect_verdict(entry, key, verdict.as_ref())?;
                self.begin(key, name, *kind, verdict.clone(), *deadline);
            }
            Some(Record::Iteration { key, goes_on }) => self.iteration(key, *goes_on),
            Some(Record::Step { key, output, run, state }) => {
                let state = state.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
                if *key == Key::leader() {
                    self.expect_leader(Some(entry))?;
                    applied = self.leader_ended(output, run.as_ref(), state);
                } else {
                    self.expect(entry, key, output.step_name.as_deref().unwrap_or_default(), output.step_type)?;
                    self.runs.extend(run.clone());
                    add_own_metrics(&mut self.used, output);
                    applied = self.end(key, output, state);
                }
                self.end_waits(entry.time().max(self.last_at));
            }
            Some(Record::Failed { key, output }) => {
                if let Some(Open::Step(step)) = self.open.get_mut(key) {
                    step.failed = Some(output.clone());
                } else {
                    // Of a format in which a failure did not name the step that failed.
                    self.root.results.push(output.clone());
                }
            }
            Some(Record::Waiting { key, questions, at }) => {
                if let Some(first) = questions.first().filter(|_| *key != Key::run()) {
                    self.expect(entry, key, &first.step_name, first.step_type)?;
                }
                self.last_at = *at;
                let has_broken_off = |kind| matches!(kind, QuestionKind::Error | QuestionKind::Outcome);
                let breaks_off = questions.iter().any(|question| has_broken_off(question.kind));
                if breaks_off && self.container(key).is_some() {
                    applied.dropped = self.give_up_inside(key);
                }
                let judged = questions.iter().filter(|question| question.kind == QuestionKind::OutputReview);
                let judged = judged.filter_map(|question| question.output.as_deref());
                judged.for_each(|output| add_own_metrics(&mut self.used, output));
                self.wait_for(key, questions, *at);
                self.end_waits(*at);
            }
            Some(Record::Answered { key, answered }) => {
                self.last_at = answered.at;
                applied = self.answered(key, answered);
            }
            Some(Record::Retry { key, attempt, due_at }) => {
                applied.dropped = self.again(key, *attempt, *due_at);
                self.end_waits(entry.time().max(self.last_at));
            }
            Some(Record::Rest(rest)) => applied.session = self.come_to_rest(rest),
            // Calls inside a step.
            Some(Record::Run { key, ended }) if ended.failure.is_some() => self.count_failed(key, &ended.run),
            Some(Record::Result { key, value, sleeps: true }) => self.sleeps_until(key, value),
            Some(
                Record::Intent { name: None, .. }
                | Record::Reserved { .. }
                | Record::Result { .. }
                | Record::Said { .. }
                | Record::Run { .. },
            )
            | None => {}
        }
        Ok(applied)
    }

    /// A step's function sleeps until then, under this name.
    fn sleeps_until(&mut self, named: &Key, due_at: &RawValue) {
        let Some(first) = named.outer() else { return };
        // What a function named belongs to all attempts at its step, of which one is open.
        let key = match self.open.contains_key(&first) {
            true => Some(first),
            false => {
                let later = self.open.range(Key::parse(format!("{first}~"))..).next();
                later.map(|(key, _)| key.clone()).filter(|key| key.attempt(1) == first)
            }
        };
        let open = key.and_then(|key| self.open.get_mut(&key));
        if let (Some(Open::Step(step)), Ok(due_at)) = (open, serde_json::from_str(due_at.get())) {
            step.sleeps.push(due_at);
        }
    }

    /// Counts what a step's agent or team used before it failed. A member's run is part of its team's.
    fn count_failed(&mut self, done: &Key, run: &RunOutput) {
        let step = done.outer().and_then(|speaker| speaker.outer());
        let Some(Open::Step(step)) = step.and_then(|step| self.open.get(&step)) else { return };
        let (kind, executor) = match &run.team_name {
            Some(team) => (ExecutorKind::Team, Some(team)),
            None => (ExecutorKind::Agent, run.agent_name.as_ref()),
        };
        if let (Some(executor), Some(used)) = (executor, &run.metrics) {
            self.used.count(&step.name, kind.as_str(), executor, used);
        }
    }

    fn begin(
        &mut self,
        key: &Key,
        name: &Arc<str>,
        kind: StepType,
        verdict: Option<Verdict>,
        deadline: Option<Timestamp>,
    ) {
        let scope = self.parent(key).scope_of(key);
        let run = match self.node(key) {
            Some(Node::Workflow(node)) => {
                let info = RunInfo {
                    run_id: self.run_of(key).derive_run(key.sequence("w").as_str()),
                    workflow_id: node.workflow_id.clone(),
                    workflow_name: node.workflow_name.clone(),
                    ..(*self.info).clone()
                };
                let input = scope.task().map(Arc::new).or_else(|| self.input_of(key).cloned());
                Some(Box::new(NestedRun { info: Arc::new(info), input, began: self.last_at, called: None }))
            }
            _ => None,
        };
        let forwards = matches!(self.node(key), Some(Node::Loop(node)) if node.forward_iteration_output);
        // A nested workflow sees nothing of what is around it but what it works on.
        let given = if run.is_some() { Scope { media: scope.media, ..Scope::default() } } else { scope };
        let origin = self.origin(key, name, true);
        // A Loop begins between iterations.
        let own = Own { origin, verdict, deadline, run, forwards, goes_on: Some(true), ..Own::default() };
        self.open(key, Open::Container(Box::new(Frame::new(kind, name.clone(), given, own))));
        if let Some(deadline) = deadline.filter(|_| self.agenda.is_known) {
            self.agenda.due.insert((deadline, key.clone()));
        }
    }

    fn iteration(&mut self, key: &Key, goes_on: Option<bool>) {
        let (Some(outer), Some(Part::Iteration(iteration))) = (key.outer(), key.parts().last()) else { return };
        let Some(Open::Container(frame)) = self.open.get_mut(&outer) else { return };
        match goes_on {
            None => frame.begin_iteration(iteration),
            Some(goes_on) => frame.end_iteration(goes_on),
        }
        self.look_at(outer);
    }

    /// A step or a container ended; `state` is what it changed in the session.
    pub(super) fn end(&mut self, key: &Key, output: &Arc<StepOutput>, state: Map<String, Value>) -> Applied {
        let (open, dropped) = self.forget(key);
        self.forget_people(key, false);
        let is_called = key.is_called();
        // What a failed step says about its failure does not count as content.
        let (content, mut unmerged) = match open {
            Some(Open::Container(mut frame)) => {
                let state = std::mem::take(&mut frame.own_mut().state);
                (Some(frame).filter(|_| output.error.is_none()).and_then(|frame| frame.given_on()), state)
            }
            _ => (output.content.clone().filter(|_| output.success), Map::new()),
        };
        let mut session = Map::new();
        if is_called {
            unmerged.extend(state);
            self.called_ended(key, CalledEnd { output: output.clone(), content, state: unmerged });
            return Applied { session, dropped };
        }
        if key.is_branch() {
            unmerged.extend(state);
        } else {
            session = self.merge_state(key, state);
        }
        let parent = self.parent_key(key);
        self.frame_mut(&parent).child_ended(key, output.clone(), content, unmerged);
        self.look_at(parent);
        Applied { session, dropped }
    }

    /// Changes of the session's state made by a node: they stay in the branch it is in, if it is in one. Returns what
    /// reaches the session.
    fn merge_state(&mut self, key: &Key, state: Map<String, Value>) -> Map<String, Value> {
        if state.is_empty() {
            return state;
        }
        // What a call has executed is a branch of its step's.
        let keeps = |outer: &Key| (outer.is_branch() || outer.is_called()) && self.container(outer).is_some();
        let branch = self.ancestors(key).find(keeps);
        match branch {
            Some(branch) => {
                self.frame_mut(&branch).own_mut().state.extend(state);
                Map::new()
            }
            None => state,
        }
    }

    /// A step or a container failed and is tried again: what was inside is forgotten.
    pub(super) fn again(&mut self, key: &Key, attempt: u32, due_at: Timestamp) -> Option<Key> {
        let (open, dropped) = self.forget(key);
        self.forget_people(key, true);
        let (name, sleeps) = match open {
            Some(Open::Step(step)) => (step.name, step.sleeps),
            Some(Open::Container(frame)) => (frame.name.clone(), Vec::new()),
            Some(Open::Again(again)) => (again.name, Vec::new()),
            // A container that failed before it began.
            None => (self.node(key).map_or_else(|| Arc::from(""), |node| node.name().clone()), Vec::new()),
        };
        let is_container = self.node(key).is_some_and(|node| node.container().is_some());
        let next = key.attempt(attempt + 1);
        let open = match is_container {
            true => Open::Again(Box::new(Again { name, due_at })),
            false => Open::Step(Box::new(OpenStep { sleeps, ..OpenStep::new(name, Some(due_at)) })),
        };
        self.open(&next, open);
        self.agenda.ready.remove(&next);
        if self.agenda.is_known {
            self.agenda.due.insert((due_at, next));
        }
        dropped
    }

    /// A node has begun, or will begin again.
    pub(super) fn open(&mut self, key: &Key, open: Open) {
        // The leader stands beside the steps, and what a call has executed beside those around it.
        if *key != Key::leader() && !key.is_called() {
            let parent = self.parent_key(key);
            self.frame_mut(&parent).child_begun(key);
        }
        self.open.insert(key.clone(), open);
        self.look_at(key.clone());
    }

    /// Forgets a node that ended, with everything inside. Returns what it was, and its key when something of it is to
    /// be dropped: what is in progress inside, and a verdict that is still being asked for.
    pub(super) fn forget(&mut self, key: &Key) -> (Option<Open>, Option<Key>) {
        let mut is_dropped = self.forget_inside(key);
        let closed = self.close(key);
        is_dropped |= matches!(&closed, Some(Open::Step(step)) if step.executing.is_some());
        (closed, is_dropped.then(|| key.clone()))
    }

    /// A container failed, and a person is asked what follows: what is inside ends where it is.
    fn give_up_inside(&mut self, key: &Key) -> Option<Key> {
        let is_dropped = self.forget_inside(key);
        self.forget_people(key, true);
        is_dropped.then(|| key.clone())
    }

    /// Forgets everything inside a node, and its verdict that is still being asked for. Whether there was anything.
    fn forget_inside(&mut self, key: &Key) -> bool {
        // Keys inside follow their outer key at once.
        let after = (Bound::Excluded(key), Bound::Unbounded);
        let is_inside = |inner: &&Key| inner.is_inside(key);
        let open: Vec<Key> =
            self.open.range::<Key, _>(after).map(|(key, _)| key).take_while(is_inside).cloned().collect();
        let asked: Vec<Key> = self.agenda.asked.range::<Key, _>(after).take_while(is_inside).cloned().collect();
        for inner in &asked {
            self.agenda.asked.remove(inner);
        }
        for inner in &open {
            self.close(inner);
        }
        self.agenda.asked.remove(key) || !open.is_empty() || !asked.is_empty()
    }

    fn close(&mut self, key: &Key) -> Option<Open> {
        self.agenda.ready.remove(key);
        let open = self.open.remove(key)?;
        self.agenda.executing -= u32::from(matches!(&open, Open::Step(step) if step.is_executing()));
        let sleeps = if let Open::Step(step) = &open { &step.sleeps[..] } else { &[] };
        for due_at in open.due_at().iter().chain(sleeps) {
            self.agenda.due.remove(&(*due_at, key.clone()));
        }
        Some(open)
    }

    // Looking around.

    pub(super) fn node(&self, key: &Key) -> Option<&Node> {
        if self.lead.is_some() && *key == Key::leader() { self.leader() } else { Node::find(&self.nodes, key) }
    }

    /// What a key is inside of, innermost first, the run excluded.
    pub(super) fn ancestors(&self, key: &Key) -> impl Iterator<Item = Key> {
        std::iter::successors(key.outer(), Key::outer).filter(|key| *key != Key::run())
    }

    /// The container a node is in; the run's key when it is in none.
    pub(super) fn parent_key(&self, key: &Key) -> Key {
        if key.is_top() {
            return Key::run();
        }
        let is_container = |key: &Key| matches!(self.open.get(key), Some(Open::Container(_)));
        self.ancestors(key).find(is_container).unwrap_or_else(Key::run)
    }

    fn parent(&self, key: &Key) -> &Frame {
        self.frame(&self.parent_key(key))
    }

    pub(super) fn frame(&self, key: &Key) -> &Frame {
        match self.open.get(key) {
            Some(Open::Container(frame)) => frame,
            _ => &self.root,
        }
    }

    pub(super) fn frame_mut(&mut self, key: &Key) -> &mut Frame {
        match self.open.get_mut(key) {
            Some(Open::Container(frame)) => frame,
            _ => &mut self.root,
        }
    }

    fn nested_run(&self, key: &Key) -> Option<&NestedRun> {
        if key.is_top() {
            return None;
        }
        self.ancestors(key).find_map(|outer| match self.open.get(&outer) {
            Some(Open::Container(frame)) => frame.own().run.as_deref(),
            _ => None,
        })
    }

    /// The run, or nested run, that a node belongs to.
    pub(super) fn run_of(&self, key: &Key) -> &RunId {
        self.nested_run(key).map_or(&self.info.run_id, |run| &run.info.run_id)
    }

    fn input_of(&self, key: &Key) -> Option<&Arc<Value>> {
        self.nested_run(key).map_or_else(|| self.input_of_steps(key), |run| run.input.as_ref())
    }

    /// What a node's events are about.
    pub(super) fn origin(&self, key: &Key, name: &Arc<str>, is_container: bool) -> Origin {
        if self.lead.is_some() && *key == Key::leader() {
            return Origin::workflow(&self.info);
        }
        if let Some((caller, name)) = self.caller(key) {
            return self.origin(&caller, &name, false);
        }
        let parent_key = self.parent_key(key);
        let parent = self.frame(&parent_key);
        let place = match key.parts().last() {
            Some(Part::Node { place, .. }) => place.number(),
            _ => 0,
        };
        let is_top = parent_key == Key::run();
        let outer = &parent.own().origin;
        let (mut origin, index) = match &parent.own().run {
            Some(run) => {
                let depth = outer.nested_depth + 1;
                (Origin { nested_depth: depth, ..Origin::workflow(&run.info) }, StepIndex::At(place))
            }
            None if is_top => (Origin::workflow(&self.info), StepIndex::At(place)),
            None => {
                let index = match (&outer.step_index, parent.kind) {
                    (Some(StepIndex::At(at)), StepType::Router) => StepIndex::At(*at),
                    (Some(StepIndex::At(at)), _) => StepIndex::Inside(vec![*at, place]),
                    (Some(inside), _) => inside.clone(),
                    (None, _) => StepIndex::At(place),
                };
                (outer.clone(), index)
            }
        };
        origin.parent_step_id = outer.step_id.clone();
        origin.step_id = Some(self.run_of(key).derive(&key.id_path(is_container)));
        origin.step_name = Some(name.clone());
        origin.step_index = Some(index);
        origin
    }

    /// What was changed in the session by the branches a node is in, outermost first, and has not been merged.
    fn branch_state(&self, key: &Key) -> Map<String, Value> {
        let mut state = Map::new();
        let mut outer: Vec<Key> = self.ancestors(key).collect();
        outer.reverse();
        for frame in outer.iter().filter_map(|key| match self.open.get(key) {
            Some(Open::Container(frame)) => Some(frame),
            _ => None,
        }) {
            if let Some(called) = frame.own().run.as_ref().and_then(|run| run.called.as_ref()) {
                state.extend(called.state.clone());
            }
            state.extend(frame.own().state.clone());
        }
        state
    }

    pub(super) fn step_input(&self, key: &Key) -> StepInput {
        let scope = match self.lead.is_some() && *key == Key::leader() {
            // It is given what the run was given, whatever the steps have made meanwhile.
            true => Scope::default(),
            false => self.parent(key).scope_of(key),
        };
        let mut given = self.attachments.as_deref().cloned().unwrap_or_default();
        if let Some(called) = self.called_by(key) {
            let Attachments { metadata, dependencies, .. } = given;
            let additional_data = called.additional_data.clone();
            given = Attachments { additional_data, metadata, dependencies, ..Attachments::default() };
        }
        let Attachments { additional_data, images, videos, audio, files, metadata, dependencies } = given;
        let speaks = matches!(self.node(key), Some(Node::Step(step)) if step.executor_type != ExecutorKind::Function);
        let mut input = StepInput {
            input: self.input_of(key).cloned(),
            previous_step_content: if speaks { scope.task() } else { scope.content },
            previous_step_outputs: scope.outputs,
            additional_data,
            images,
            videos,
            audio,
            files,
            metadata,
            dependencies,
            history: None,
        };
        scope.media.iter().flat_map(|media| &**media).for_each(|output| input.add_media_of(output));
        self.add_given(key, &mut input);
        input
    }

    pub(super) fn look_at(&mut self, key: Key) {
        if self.agenda.is_known {
            self.agenda.ready.insert(key);
        }
    }

    // Deciding.

    /// What is next. `claim` goes into the run's first entry; `chance` decides the jitter of a back-off.
    pub fn next(&mut self, claim: &Record, chance: u64, at: Timestamp) -> Decision {
        match &self.phase {
            Phase::Fresh => {
                let started = match &self.lead {
                    None => EventKind::WorkflowStarted,
                    Some(_) => EventKind::WorkflowAgentStarted,
                };
                let (mut claim, mut session) = (claim.clone(), Map::new());
                match (&mut claim, self.laid.take()) {
                    (Record::Claimed { state, .. }, laid @ Some(_)) => *state = laid,
                    _ => session.clone_from(&self.own_state),
                }
                let started = Entry::recorded(self.event(started, at), claim);
                return Decision { say: vec![started], session, ..Decision::default() };
            }
            Phase::Ended(status) => return Decision { end: Some(*status), ..Decision::default() },
            Phase::Going => {}
        }
        self.know_the_agenda();
        if let Some(say) = self.ended_by_answer(claim, chance, at) {
            return Decision { say, ..Decision::default() };
        }
        while let Some((_, key)) = self.agenda.due.first().filter(|(due, _)| *due <= at).cloned() {
            self.agenda.due.pop_first();
            if let Some(frame) = self.container(&key) {
                let limit = frame.own().deadline.is_some_and(|deadline| deadline <= at);
                // Waiting for people counts towards no time limit: it is put off once they have answered.
                if limit && !self.is_waiting_inside(&key) {
                    return Decision { say: self.timed_out(&key, chance, at), ..Decision::default() };
                }
            } else if self.open.contains_key(&key) {
                self.agenda.ready.insert(key);
            }
        }
        while let Some(key) = self.agenda.ready.pop_first() {
            let decision = self.look(&key, at);
            if !decision.is_idle() {
                return decision;
            }
        }
        // An empty set may hold room, and most runs wait most of the time.
        self.agenda.ready = BTreeSet::new();
        if self.only_waits() {
            return Decision { say: vec![self.paused_for_answers(at)], ..Decision::default() };
        }
        Decision { wake: self.agenda.due.first().map(|(due, _)| *due), ..Decision::default() }
    }

    /// After a log was folded, everything that is open is looked at once.
    fn know_the_agenda(&mut self) {
        if std::mem::replace(&mut self.agenda.is_known, true) {
            return;
        }
        self.agenda.ready.insert(Key::run());
        for (key, open) in &self.open {
            let due_at = open.due_at();
            self.agenda.due.extend(due_at.map(|due_at| (due_at, key.clone())));
            if let (Open::Step(step), true) = (open, self.is_waiting(key)) {
                self.agenda.due.extend(step.sleeps.iter().map(|due_at| (*due_at, key.clone())));
            }
            if due_at.is_none() || matches!(open, Open::Container(_)) {
                self.agenda.ready.insert(key.clone());
            }
        }
    }

    /// Whether nothing goes on until somebody answers: time limits of containers do not count meanwhile.
    fn only_waits(&self) -> bool {
        if !self.has_questions() {
            return false;
        }
        let is_due = |(key, open): (&Key, &Open)| match open {
            Open::Container(_) => false,
            Open::Step(step) if !step.sleeps.is_empty() => true,
            // What waits at a later attempt was due once.
            Open::Step(_) | Open::Again(_) => open.due_at().is_some() && !self.is_waiting(key),
        };
        !self.is_at_work() && !self.open.iter().any(is_due)
    }

    pub(super) fn container(&self, key: &Key) -> Option<&Frame> {
        match self.open.get(key) {
            Some(Open::Container(frame)) => Some(frame),
            _ => None,
        }
    }

    /// What a node that changed makes necessary.
    fn look(&mut self, key: &Key, at: Timestamp) -> Decision {
        match self.open.get(key) {
            _ if self.is_waiting(key) && !self.is_up(key, at) => Decision::default(),
            _ if *key == Key::run() => self.advance_run(at),
            Some(Open::Step(_)) => self.execute(key),
            Some(Open::Container(_)) => self.advance(key, at),
            Some(Open::Again(_)) => self.begin_child(key, at),
            None => Decision::default(),
        }
    }

    fn advance_run(&mut self, at: Timestamp) -> Decision {
        match &self.lead {
            Some(lead) if lead.answer.is_some() => {}
            // It has not called for the steps.
            Some(lead) if lead.call.is_none() => return Decision::default(),
            _ if !self.steps_are_over() => return self.begin_child(&Key::step(self.root.at), at),
            Some(_) => return self.call_back(),
            None => {}
        }
        Decision { say: vec![self.completed(at)], ..Decision::default() }
    }

    /// Whether no step of the run's own is left.
    pub(super) fn steps_are_over(&self) -> bool {
        self.root.is_stopped || usize::try_from(self.root.at).is_ok_and(|at| at >= self.nodes.len())
    }

    fn advance(&mut self, key: &Key, at: Timestamp) -> Decision {
        let (Some(frame), Some(node)) = (self.container(key), self.node(key)) else { return Decision::default() };
        let Some(container) = node.container() else { return Decision::default() };
        let origin = || frame.own().origin.clone();
        let event = |kind| RunEvent { created_at: at.as_seconds(), kind, origin: origin(), event_index: None };
        let (iteration, max_iterations) = match node {
            Node::Loop(node) => (frame.own().iteration, node.max_iterations),
            _ => (0, 0),
        };
        let say = |entry| Decision { say: vec![entry], ..Decision::default() };
        match container.next(key, frame) {
            Next::Iterate(_) if let Some(asks) = self.asks_about_iteration(key, node, frame, max_iterations, at) => {
                say(asks)
            }
            Next::Begin(children) => {
                let mut all = Decision::default();
                for child in children {
                    let one = self.begin_child(&child, at);
                    all.say.extend(one.say);
                    all.start.extend(one.start);
                }
                all
            }
            Next::Iterate(next) => {
                let kind = EventKind::LoopIterationStarted { iteration: next, max_iterations };
                say(Entry::recorded(event(kind), Record::Iteration { key: key.iteration(next), goes_on: None }))
            }
            Next::EndIteration(goes_on) => say(self.iteration_ended(key, goes_on, at)),
            Next::Ask => {
                let mut given = VerdictInput { input: self.step_input(key), ..VerdictInput::default() };
                container.complete(&mut given, Some(frame));
                let state = self.branch_state(&key.iteration(iteration));
                self.ask(key, given, state)
            }
            Next::End => Decision { say: self.ended_container(key, at), ..Decision::default() },
        }
    }

    fn iteration_ended(&self, key: &Key, goes_on: bool, at: Timestamp) -> Entry {
        let frame = self.frame(key);
        let max_iterations = match self.node(key) {
            Some(Node::Loop(node)) => node.max_iterations,
            _ => frame.own().iteration,
        };
        let kind = EventKind::LoopIterationCompleted {
            iteration: frame.own().iteration,
            max_iterations,
            should_continue: goes_on,
            iteration_results: frame.results.clone(),
        };
        let event =
            RunEvent { created_at: at.as_seconds(), kind, origin: frame.own().origin.clone(), event_index: None };
        let record = Record::Iteration { key: key.iteration(frame.own().iteration), goes_on: Some(goes_on) };
        Entry::recorded(event, record)
    }

    fn ask(&mut self, key: &Key, given: VerdictInput, state: Map<String, Value>) -> Decision {
        if !self.agenda.asked.insert(key.clone()) {
            return Decision::default();
        }
        let timeout_ms = self.node(key).and_then(Node::timeout_ms).filter(|_| self.container(key).is_none());
        let ask = Ask { key: key.clone(), timeout_ms, given, state };
        Decision { start: vec![Task::Ask(Box::new(ask))], ..Decision::default() }
    }

    /// Begins the node with this key, unless it has begun.
    fn begin_child(&mut self, key: &Key, at: Timestamp) -> Decision {
        if self.is_waiting(key) {
            return Decision::default();
        }
        let begins_again = matches!(self.open.get(key), Some(Open::Again(again)) if again.due_at <= at);
        if !begins_again && self.parent(key).has_begun(key) {
            return Decision::default();
        }
        let Some(node) = self.node(key) else { return Decision::default() };
        if let Some(asks) = self.asks_first(key, node, at) {
            return Decision { say: vec![asks], ..Decision::default() };
        }
        match node.container() {
            Some(container) if let Some(verdict) = self.given_verdict(key) => {
                let say = match container.refuse(&verdict) {
                    None => self.begun(key, Some(verdict), at),
                    // Chosen by a person among what the definition had when they were asked.
                    Some(problem) => {
                        let message = format!("{} cannot begin: {problem}", titled(node));
                        self.failed(key, &Failure::new(FailureKind::Definition, message), 0, at)
                    }
                };
                Decision { say, ..Decision::default() }
            }
            None => {
                let name = node.name().clone();
                let origin = self.origin(key, &name, false);
                self.agenda.begun = Some(Box::new((key.clone(), origin.clone())));
                let event =
                    RunEvent { created_at: at.as_seconds(), kind: EventKind::StepStarted, origin, event_index: None };
                let record = Record::Intent { key: key.clone(), name: Some(name) };
                Decision { say: vec![Entry::recorded(event, record)], ..Decision::default() }
            }
            Some(container) if container.needs_verdict() => {
                let mut given = VerdictInput { input: self.step_input(key), ..VerdictInput::default() };
                container.complete(&mut given, None);
                let state = self.branch_state(key);
                self.ask(key, given, state)
            }
            Some(_) => Decision { say: self.begun(key, None, at), ..Decision::default() },
        }
    }

    /// The entries that begin a container.
    fn begun(&self, key: &Key, verdict: Option<Verdict>, at: Timestamp) -> Vec<Entry> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let Some(container) = node.container() else { return Vec::new() };
        let origin = self.origin(key, node.name(), true);
        let event = |kind, origin| RunEvent { created_at: at.as_seconds(), kind, origin, event_index: None };
        let kind = container.begun(verdict.as_ref());
        let record = Record::Begin {
            key: key.clone(),
            name: node.name().clone(),
            kind: node.kind(),
            verdict,
            deadline: node.timeout_ms().map(|limit| at + Duration::from_millis(limit)),
            called: None,
        };
        match node {
            Node::Workflow(nested) => {
                let inner = Origin {
                    workflow_id: Some(nested.workflow_id.clone()),
                    workflow_name: Some(nested.workflow_name.clone()),
                    session_id: origin.session_id.clone(),
                    run_id: Some(self.run_of(key).derive_run(key.sequence("w").as_str())),
                    parent_step_id: origin.step_id.clone(),
                    nested_depth: origin.nested_depth + 1,
                    ..Origin::default()
                };
                let step = Entry::event(event(EventKind::StepStarted, origin));
                vec![step, Entry::recorded(event(kind, inner), record)]
            }
            _ => vec![Entry::recorded(event(kind, origin), record)],
        }
    }

    /// The entries that end a container whose children have all ended.
    fn ended_container(&self, key: &Key, at: Timestamp) -> Vec<Entry> {
        let (Some(frame), Some(node)) = (self.container(key), self.node(key)) else { return Vec::new() };
        let Some(container) = node.container() else { return Vec::new() };
        let ending = container.ended(frame);
        let event = |kind, origin| RunEvent { created_at: at.as_seconds(), kind, origin, event_index: None };
        let own_id = frame.own().origin.step_id.clone();
        // In Agno, a Parallel's output has an id of its own.
        let step_id = match frame.kind {
            StepType::Parallel => Some(self.run_of(key).derive(&format!("{}/output", key.id_path(true)))),
            _ => own_id,
        };
        let mut output =
            StepOutput { step_name: Some(node.name().clone()), step_id, step_type: node.kind(), ..ending.output };
        let state = Some(frame.joined_state()).filter(|state| !state.is_empty()).map(Value::Object);
        let (mut say, mut nested) = (Vec::new(), None);
        let kind = match &frame.own().run {
            Some(run) => {
                nested = Some(Arc::new(nested_run(frame, run, at)));
                output.step_run_id = Some(run.info.run_id.to_shared());
                let (inner, done, used) = nested_done(frame, run, at);
                output.metrics = Some(Box::new(used));
                say.push(Entry::event(event(EventKind::WorkflowCompleted(Box::new(done)), inner)));
                EventKind::step_completed(Arc::new(output.clone()))
            }
            None => ending.event,
        };
        if key.is_called() {
            // It is in no step of its own: its end is all there is to tell.
            let told = say.pop().map(|completed| completed.event);
            let record = Record::Step { key: key.clone(), output: Arc::new(output), run: nested, state };
            return told.into_iter().map(|event| Entry::recorded(event, record.clone())).collect();
        }
        let record = Record::Step { key: key.clone(), output: Arc::new(output), run: nested, state };
        say.push(Entry::recorded(event(kind, frame.own().origin.clone()), record));
        say
    }

    pub(super) fn step_id(&self, key: &Key) -> Arc<str> {
        self.run_of(key).derive(&key.id_path(false))
    }

    pub(super) fn execute(&mut self, key: &Key) -> Decision {
        let Some(Node::Step(node)) = self.node(key) else { return Decision::default() };
        let (timeout_ms, executor_type, name) = (node.timeout_ms, node.executor_type, node.name.clone());
        match self.open.get(key) {
            Some(Open::Step(step)) if step.is_parked => {
                self.unparks(key);
                return Decision::default();
            }
            Some(Open::Step(step)) if !step.is_executing() => {}
            _ => return Decision::default(),
        }
        self.forget_sleeps(key);
        let begun = self.agenda.begun.take().filter(|begun| begun.0 == *key);
        let origin = begun.map_or_else(|| self.origin(key, &name, false), |begun| begun.1);
        let info = StepInfo {
            key: key.clone(),
            step_id: origin.step_id.clone().unwrap_or_else(|| Arc::from("")),
            step_name: name,
            step_index: origin.step_index.clone().unwrap_or(StepIndex::At(0)),
            attempt: key.attempt_number(),
            origin,
        };
        let info = Arc::new(info);
        let Some(Open::Step(step)) = self.open.get_mut(key) else { return Decision::default() };
        step.executing = Some(info.clone());
        let resumes = std::mem::take(&mut step.is_asleep);
        self.agenda.executing += 1;
        let step = Execute {
            info,
            input: Arc::new(self.step_input(key)),
            state: self.branch_state(key),
            timeout_ms,
            executor_type,
            resumes,
        };
        Decision { start: vec![Task::Execute(Box::new(step))], ..Decision::default() }
    }

    // What came of it.

    /// The entries that end an attempt at a step.
    ///
    /// `state` is what the step changed in the session; `chance` decides the jitter of a back-off.
    pub fn settle(
        &mut self,
        key: &Key,
        result: Result<Executed, Failure>,
        state: Option<Value>,
        chance: u64,
        at: Timestamp,
    ) -> Vec<Entry> {
        let Some(info) = self.lands(key) else { return Vec::new() };
        let Some(Node::Step(node)) = self.node(key) else { return Vec::new() };
        match result {
            Ok(executed) => {
                let known = info.map(|info| Arc::unwrap_or_clone(info).origin);
                let origin = known.unwrap_or_else(|| self.origin(key, &node.name, false));
                self.succeeded(node, origin, executed, state, key, at)
            }
            Err(failure) => self.failed(key, &failure, chance, at),
        }
    }

    /// A step is in flight no more. None when it is not open; then what it was told when it began.
    fn lands(&mut self, key: &Key) -> Option<Option<Arc<StepInfo>>> {
        let Some(Open::Step(step)) = self.open.get_mut(key) else { return None };
        self.agenda.executing -= u32::from(step.is_executing());
        step.is_parked = false;
        Some(step.executing.take())
    }

    /// A step waits for people where it is. False when it is not open.
    pub(super) fn parks(&mut self, key: &Key) -> bool {
        let Some(Open::Step(step)) = self.open.get_mut(key) else { return false };
        self.agenda.executing -= u32::from(step.is_executing());
        step.is_parked = true;
        true
    }

    /// The function of a step is doing this now. Whether that is news.
    pub fn is_doing(&mut self, key: &Key, doing: Doing) -> bool {
        let waits = self.is_waiting(key);
        let Some(Open::Step(step)) = self.open.get(key) else { return false };
        if step.executing.is_none() {
            return false;
        }
        let was = (step.is_parked, step.sleeps.clone());
        self.forget_sleeps(key);
        match doing {
            Doing::Works => self.unparks(key),
            // Whoever has an answer goes on, and has only not noticed it yet.
            Doing::Asks | Doing::AsksUntil(_) if !waits => {}
            Doing::Asks => {
                self.parks(key);
            }
            Doing::AsksUntil(due_at) => {
                self.parks(key);
                self.sleeps(key, due_at);
            }
        }
        matches!(self.open.get(key), Some(Open::Step(step)) if (step.is_parked, &step.sleeps) != (was.0, &was.1))
    }

    /// The function of a step sleeps, and was dropped: it is executed again when it is due, or when what it has asked is
    /// answered.
    pub fn falls_asleep(&mut self, key: &Key, due_at: Timestamp) {
        if self.lands(key).is_none() {
            return;
        }
        self.forget_sleeps(key);
        self.sleeps(key, due_at);
        if let Some(Open::Step(step)) = self.open.get_mut(key) {
            step.is_asleep = true;
        }
    }

    fn sleeps(&mut self, key: &Key, due_at: Timestamp) {
        let Some(Open::Step(step)) = self.open.get_mut(key) else { return };
        step.sleeps.push(due_at);
        self.agenda.due.insert((due_at, key.clone()));
    }

    fn forget_sleeps(&mut self, key: &Key) {
        let Some(Open::Step(step)) = self.open.get_mut(key) else { return };
        for due_at in step.sleeps.drain(..) {
            self.agenda.due.remove(&(due_at, key.clone()));
        }
    }

    /// Whether a step that waits for people is to be executed all the same: it slept beside that, and has slept enough.
    pub(super) fn is_up(&self, key: &Key, at: Timestamp) -> bool {
        let Some(Open::Step(step)) = self.open.get(key) else { return false };
        step.executing.is_none() && step.sleeps.iter().any(|due_at| *due_at <= at)
    }

    /// Whether it sleeps, for whatever, and its function was dropped.
    pub(super) fn is_asleep(&self, key: &Key) -> bool {
        matches!(self.open.get(key), Some(Open::Step(step)) if step.is_asleep && !self.is_waiting(key))
    }

    fn unparks(&mut self, key: &Key) {
        let Some(Open::Step(step)) = self.open.get_mut(key) else { return };
        self.agenda.executing += u32::from(step.is_parked);
        step.is_parked = false;
    }

    pub(super) fn is_parked(&self, key: &Key) -> bool {
        matches!(self.open.get(key), Some(Open::Step(step)) if step.is_parked)
    }

    /// How many steps wait where they are: for people, or for what they have had executed.
    pub fn parked(&self) -> usize {
        let is_parked = |open: &&Open| matches!(open, Open::Step(step) if step.is_parked);
        self.open.values().filter(is_parked).count()
    }

    /// Whether anything is being executed or decided, people left out.
    fn is_at_work(&self) -> bool {
        self.agenda.executing > 0 || !self.agenda.asked.is_empty()
    }

    /// The questions that have become void since the last call: nothing follows from an answer any more.
    pub fn take_void(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.agenda.void)
    }

    /// A container has this much more time.
    pub(super) fn postpone(&mut self, key: &Key, by: Duration) {
        let Some(Open::Container(frame)) = self.open.get_mut(key) else { return };
        let Some(deadline) = frame.own().deadline else { return };
        frame.own_mut().deadline = Some(deadline + by);
        if self.agenda.is_known {
            self.agenda.due.remove(&(deadline, key.clone()));
            self.agenda.due.insert((deadline + by, key.clone()));
        }
    }

    /// The entries that follow from a verdict.
    pub fn decided(&mut self, key: &Key, verdict: Result<Verdict, Failure>, chance: u64, at: Timestamp) -> Vec<Entry> {
        // What ended, or is tried again, meanwhile has no use for it.
        if !self.agenda.asked.remove(key) {
            return Vec::new();
        }
        let Some(node) = self.node(key) else { return Vec::new() };
        let Some(container) = node.container() else { return Vec::new() };
        let verdict = verdict.and_then(|verdict| match container.refuse(&verdict) {
            Some(problem) => Err(Failure::new(FailureKind::Definition, problem)),
            None => Ok(verdict),
        });
        match (verdict, self.container(key)) {
            (Err(failure), _) => {
                let message = format!("{} could not decide: {}", titled(node), failure.message);
                self.failed(key, &Failure { message, ..failure }, chance, at)
            }
            (Ok(Verdict::Is(is_done)), Some(_)) => vec![self.iteration_ended(key, !is_done, at)],
            (Ok(verdict), None) => self.begun(key, Some(verdict), at),
            (Ok(Verdict::Names(_) | Verdict::Items { .. }), Some(_)) => Vec::new(),
        }
    }

    fn succeeded(
        &self,
        node: &StepNode,
        origin: Origin,
        executed: Executed,
        state: Option<Value>,
        key: &Key,
        at: Timestamp,
    ) -> Vec<Entry> {
        let output = Arc::new(StepOutput {
            step_name: origin.step_name.clone(),
            step_id: origin.step_id.clone(),
            step_type: StepType::Step,
            executor_type: Some(node.executor_type),
            executor_name: Some(node.executor_name.clone()),
            steps: self.called_outputs(key).unwrap_or_else(|| executed.output.steps.clone()),
            ..executed.output.clone()
        });
        let event = |kind| RunEvent { created_at: at.as_seconds(), kind, origin: origin.clone(), event_index: None };
        if *key == Key::leader() {
            let content = output.content.clone().unwrap_or_default();
            let record = Record::Step { key: key.clone(), output, run: executed.run, state };
            return vec![Entry::recorded(event(EventKind::WorkflowAgentCompleted { content }), record)];
        }
        let completed = || event(EventKind::step_completed(output.clone()));
        if let Some(asks) = self.asks_about(key, &executed, &output, &state, at) {
            let is_told = self.parent(key).kind == StepType::Workflow && node.executor_type == ExecutorKind::Function;
            let said = is_told.then(|| Entry::event(event(EventKind::StepOutput { step_output: output.clone() })));
            return said.into_iter().chain([Entry::event(completed()), asks]).collect();
        }
        let record = Record::Step { key: key.clone(), output: output.clone(), run: executed.run, state };
        // Only what stands directly in a workflow tells its output by itself.
        if self.parent(key).kind != StepType::Workflow {
            return vec![Entry::recorded(completed(), record)];
        }
        let said = event(EventKind::StepOutput { step_output: output.clone() });
        if output.stop {
            return vec![Entry::recorded(said, record)];
        }
        match node.executor_type {
            ExecutorKind::Function => vec![Entry::recorded(said, record), Entry::event(completed())],
            _ => vec![Entry::recorded(completed(), record)],
        }
    }

    fn timed_out(&self, key: &Key, chance: u64, at: Timestamp) -> Vec<Entry> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let limit_ms = node.timeout_ms().unwrap_or_default();
        let message = format!("{} took longer than its limit of {limit_ms} ms", titled(node));
        self.failed(key, &Failure::new(FailureKind::Timeout, message), chance, at)
    }

    /// The entries that follow from a failure of a node: it is tried again, or skipped, or what it is in fails too.
    fn failed(&self, key: &Key, failure: &Failure, chance: u64, at: Timestamp) -> Vec<Entry> {
        // Only a person can say what came of it.
        if failure.kind == FailureKind::OutcomeUnknown
            && let Some(node) = self.node(key)
        {
            return vec![self.asks_what_came(key, node, failure, at)];
        }
        let asks = self.node(key).filter(|node| Self::asks_on_error(node));
        let is_tried = asks.is_some_and(|node| failure.retryable && self.failures(key) <= node.retry().times);
        if let Some(node) = asks.filter(|_| !is_tried) {
            return vec![self.asks_after(key, node, failure, at)];
        }
        self.failed_for_good(key, failure, chance, at)
    }

    /// How often this node has failed, this time included.
    fn failures(&self, key: &Key) -> u32 {
        key.attempt_number().saturating_sub(self.refused(key))
    }

    /// As [`Self::failed`], without asking anybody.
    pub(super) fn failed_for_good(&self, key: &Key, failure: &Failure, chance: u64, at: Timestamp) -> Vec<Entry> {
        if *key == Key::leader() {
            return vec![self.failed_with(self.unfinished(None, &failure.message), failure, at)];
        }
        let mut say = Vec::new();
        let mut failed = key.clone();
        while let Some(node) = self.node(&failed) {
            let (retry, attempt) = (node.retry(), failed.attempt_number());
            let origin = self.origin(&failed, node.name(), node.container().is_some());
            let event =
                |kind| RunEvent { created_at: at.as_seconds(), kind, origin: origin.clone(), event_index: None };
            let failures = self.failures(&failed);
            if failure.retryable && failures <= retry.times {
                if let Some(step) = self.started_once_inside(&failed) {
                    let why = format!("{}; that broke off step {step:?}", failure.message);
                    say.push(self.asks_what_came(&failed, node, &Failure::outcome_unknown(why), at));
                    return say;
                }
                let due_at = at + retry.wait(failures, failure.retry_after_ms, chance);
                let mut fields = Map::new();
                fields.insert("name".into(), json!("StepRetrying"));
                fields.insert("error".into(), json!(failure.message));
                fields.insert("error_type".into(), json!(failure.kind.code()));
                fields.insert("failed_attempt".into(), json!(attempt));
                fields.insert("due_at".into(), json!(due_at.as_seconds()));
                let record = Record::Retry { key: failed, attempt, due_at };
                say.push(Entry::recorded(event(EventKind::CustomEvent { fields }), record));
                return say;
            }
            if node.on_error() == OnError::Skip {
                let content = format!("Step skipped due to error: {}", failure.message);
                let output = Arc::new(self.failed_output(&failed, node, &content, failure));
                let state = self.container(&failed).map(|_| self.state_of_branches(&failed));
                let state = state.filter(|state| !state.is_empty());
                let kind = EventKind::StepOutput { step_output: output.clone() };
                let record = Record::Step { key: failed, output, run: None, state: state.map(Value::Object) };
                say.push(Entry::recorded(event(kind), record));
                return say;
            }
            if failed != *key && Self::asks_on_error(node) {
                say.push(self.asks_after(&failed, node, &self.told(key, failure), at));
                return say;
            }
            if failed == *key {
                let error = event(EventKind::StepError { error: failure.message.clone() });
                say.push(match node {
                    Node::Step(_) => {
                        let output = Arc::new(self.failed_output(&failed, node, &failure.message, failure));
                        Entry::recorded(error, Record::Failed { key: failed.clone(), output })
                    }
                    _ => Entry::event(error),
                });
            }
            if failed.is_called() {
                let leaf = self.node(key).filter(|node| node.container().is_none());
                let failure = leaf.map_or_else(|| failure.clone(), |step| of_step(step.name(), failure));
                say.push(self.called_failed(&failed, node, &failure, at));
                return say;
            }
            failed = self.parent_key(&failed);
        }
        let leaf = self.node(key).filter(|node| node.container().is_none());
        let failed = leaf.map(|node| (key, Arc::new(self.failed_output(key, node, &failure.message, failure))));
        // The run's own error stands apart from the step's.
        let failure = self.told(key, failure);
        say.push(self.failed_with(self.unfinished(failed, &failure.message), &failure, at));
        say
    }

    /// A step inside that has started what must [never start twice](crate::port::Executor::starts_once), and has not ended.
    fn started_once_inside(&self, outer: &Key) -> Option<&str> {
        let after = (Bound::Excluded(outer), Bound::Unbounded);
        let inside = self.open.range::<Key, _>(after).take_while(|(key, _)| key.is_inside(outer));
        inside.filter(|(key, _)| !self.is_waiting(key) || self.is_outcome_asked(key)).find_map(|(key, open)| {
            let has_started = matches!(open, Open::Step(step) if step.due_at.is_none() && step.failed.is_none());
            match self.node(key) {
                Some(Node::Step(step)) if has_started && step.starts_once => Some(&*step.name),
                _ => None,
            }
        })
    }

    /// A failure as told of what is around the node that failed: a step is named.
    fn told(&self, key: &Key, failure: &Failure) -> Failure {
        match self.node(key).filter(|node| node.container().is_none()) {
            Some(step) => of_step(step.name(), failure),
            None => failure.clone(),
        }
    }

    pub(super) fn failed_output(&self, key: &Key, node: &Node, content: &str, failure: &Failure) -> StepOutput {
        let origin = self.origin(key, node.name(), node.container().is_some());
        let steps = self.container(key).map(Frame::outputs).unwrap_or_default();
        StepOutput {
            step_type: node.kind(),
            steps,
            ..StepOutput::failed(Some(node.name().clone()), origin.step_id, content, &failure.message)
        }
    }

    pub(super) fn event(&self, kind: EventKind, at: Timestamp) -> RunEvent {
        let origin = Origin::workflow(&self.info);
        RunEvent { created_at: at.as_seconds(), kind, origin, event_index: None }
    }
}

/// `Condition "Long?"`, for errors.
fn titled(node: &Node) -> String {
    match node {
        // Events call it a Parallel.
        Node::ForEach(_) => format!("ForEach {:?}", node.name()),
        _ => format!("{:?} {:?}", node.kind(), node.name()),
    }
}

/// A step's failure, named after it.
fn of_step(name: &str, failure: &Failure) -> Failure {
    let title = format!("step {name:?}");
    if failure.message.starts_with(&title) { failure.clone() } else { failure.clone().context(title) }
}

/// The state a step sees: the session's, with what its branches changed.
pub fn with_branches(session: &Arc<Map<String, Value>>, branches: &Map<String, Value>) -> Arc<Map<String, Value>> {
    if branches.is_empty() {
        return session.clone();
    }
    let mut all = (**session).clone();
    merge(&mut all, branches);
    Arc::new(all)
}

/// The origin of a nested workflow's own events, and its end with what it used.
fn nested_done(frame: &Frame, run: &NestedRun, at: Timestamp) -> (Origin, WorkflowDone, Metrics) {
    let origin = Origin {
        parent_step_id: frame.own().origin.step_id.clone(),
        nested_depth: frame.own().origin.nested_depth + 1,
        ..Origin::workflow(&run.info)
    };
    let duration = Some(at.since(run.began).as_secs_f64());
    let done = WorkflowDone {
        content: frame.content.clone(),
        content_type: content_type(frame.content.as_ref()).to_owned(),
        metrics: Some(metrics_of(&frame.results, duration)),
        step_results: frame.results.clone(),
        ..WorkflowDone::default()
    };
    (origin, done, Metrics { duration, ..Metrics::default() })
}

/// A nested workflow's run, as it stands beside those of agents and teams.
fn nested_run(frame: &Frame, run: &NestedRun, at: Timestamp) -> RunOutput {
    let duration = Some(at.since(run.began).as_secs_f64());
    RunOutput {
        run_id: run.info.run_id.clone(),
        agent_id: None,
        agent_name: None,
        team_id: None,
        team_name: None,
        session_id: Some(run.info.session_id.clone()),
        parent_run_id: frame.own().origin.run_id.clone(),
        user_id: run.info.user_id.clone(),
        content: frame.content.clone(),
        content_type: content_type(frame.content.as_ref()).to_owned(),
        reasoning_content: None,
        model_provider_data: None,
        model: None,
        model_provider: None,
        session_state: None,
        created_at: run.began.as_seconds(),
        status: RunStatus::Completed,
        cancellation_stage: None,
        workflow_step_id: frame.own().origin.step_id.clone(),
        metrics: None,
        events: None,
        messages: Vec::new(),
        metadata: None,
        tools: Vec::new(),
        input: None,
        member_responses: Vec::new(),
        finish_reason: None,
        workflow: Some(Box::new(NestedWorkflow {
            workflow_id: run.info.workflow_id.clone(),
            workflow_name: run.info.workflow_name.clone(),
            input: run.input.as_deref().cloned(),
            step_results: frame.results.clone(),
            metrics: metrics_of(&frame.results, duration),
        })),
    }
}
