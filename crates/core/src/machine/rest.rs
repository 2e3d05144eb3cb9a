//! How a run comes to rest: completed, failed, cancelled or paused, and what a poll shows of it then and before.

use super::frame::Frame;
use super::workflow::{Open, Phase, WorkflowMachine};
use crate::event::EventKind;
use crate::failure::Failure;
use crate::history;
use crate::log::{Entry, Key, Pause, Record, Rest};
use crate::metrics::RunMetrics;
use crate::question::{self, QuestionKind};
use crate::run::{RunInfo, RunOutput, RunStatus, WorkflowRunOutput};
use crate::step::{ExecutorKind, StepOutput};
use crate::time::Timestamp;
use crate::workflow::Node;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// What the text of a step says that was being executed, by the step's id.
pub type PartialText<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why a run is cancelled.
struct Cancel<'a> {
    /// What it came to.
    content: &'a str,
    reason: &'a str,
    /// It had paused for the answer that ends it.
    was_paused: bool,
}

impl WorkflowMachine {
    /// Folds how the run came to rest. Returns what reaches the session with it.
    pub(super) fn come_to_rest(&mut self, rest: &Rest) -> Map<String, Value> {
        self.last_at = rest.at;
        self.phase = Phase::Ended(rest.status);
        let mut rest = Box::new(rest.clone());
        // Entries of the format before this one say less.
        match rest.status {
            RunStatus::Completed | RunStatus::Cancelled => self.root.results.clone_from(&rest.results),
            RunStatus::Paused => {
                rest.results = self.results_at_a_pause();
                if let Some(pause) = &rest.pause {
                    self.note_pause(pause.index, &pause.name, pause.kind.as_ref());
                }
            }
            RunStatus::Pending | RunStatus::Running | RunStatus::Error => {
                let error = rest.content.as_ref().and_then(Value::as_str).unwrap_or_default();
                rest.results = self.unfinished(None, error);
                self.root.results.clone_from(&rest.results);
            }
        }
        rest.runs = self.runs_as(rest.status);
        rest.metrics.get_or_insert_with(|| self.metrics(self.last_at));
        let state = rest.state.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
        self.rest = Some(rest);
        state
    }

    /// The outputs of the steps that ended, then of those that had begun: they failed with `error`. `failed` is the
    /// step that did, where its failure is not in the log yet.
    pub(super) fn unfinished(&self, failed: Option<(&Key, Arc<StepOutput>)>, error: &str) -> Vec<Arc<StepOutput>> {
        unfinished_in(&self.open_inside(&Key::run()), (&Key::run(), &self.root), &|key, open| match open {
            Open::Step(step) => match &failed {
                Some((failed, output)) if *failed == key => Some(output.clone()),
                _ => step.failed.clone(),
            },
            Open::Container(frame) => Some(Arc::new(broken_off(frame, error))),
            Open::Again(_) => None,
        })
    }

    /// What has begun inside this and has not ended, by the container it is in; branches in the order of the definition.
    fn open_inside(&self, outer: &Key) -> ByContainer<'_> {
        let mut all = ByContainer::new();
        // Keys inside follow their outer key at once.
        let inside = self.open.range::<Key, _>((Bound::Excluded(outer), Bound::Unbounded));
        let inside = inside.take_while(|(key, _)| key.is_inside(outer));
        // The leader has no output among those of the steps, nor has what a call has executed.
        for (key, open) in inside.filter(|(key, _)| **key != Key::leader() && !key.is_called()) {
            all.entry(self.parent_key(key)).or_default().push((key, open));
        }
        all.values_mut().for_each(|children| children.sort_by_key(|(key, _)| key.branch()));
        all
    }

    /// What branches that ended changed in the session, in this container and in those inside it that have not ended: it
    /// reaches the session when this one ends early.
    pub(super) fn state_of_branches(&self, outer: &Key) -> Map<String, Value> {
        state_inside(&self.open_inside(outer), outer, self.frame(outer))
    }

    /// The entries that end the run because someone asked; `partial` is what steps in progress had written so far.
    pub fn cancel(&self, reason: &str, partial: PartialText<'_>, claim: &Record, at: Timestamp) -> Vec<Entry> {
        let content = format!("Run {} was cancelled", self.info.run_id);
        self.cancelled(Cancel { content: &content, reason, was_paused: false }, partial, claim, at)
    }

    /// The entries that end the run because of an answer.
    pub(super) fn cancel_by_answer(&self, reason: &str, claim: &Record, at: Timestamp) -> Vec<Entry> {
        let cancel = Cancel { content: reason, reason, was_paused: self.paused().is_some() };
        self.cancelled(cancel, &|_| None, claim, at)
    }

    fn cancelled(&self, cancel: Cancel<'_>, partial: PartialText<'_>, claim: &Record, at: Timestamp) -> Vec<Entry> {
        let content = cancel.content.to_owned();
        let cancelled = EventKind::WorkflowCancelled { reason: cancel.reason.to_owned(), content: content.clone() };
        let error = history::INTERRUPTED;
        let results = unfinished_in(&self.open_inside(&Key::run()), (&Key::run(), &self.root), &|key, open| {
            let step = match open {
                Open::Step(_) => self.node(key),
                Open::Container(frame) => return Some(Arc::new(broken_off(frame, error))),
                Open::Again(_) => None,
            };
            let Some(Node::Step(step)) = step else { return None };
            let step_id = self.step_id(key);
            Some(Arc::new(StepOutput {
                content: partial(&step_id).map(Value::String),
                step_name: Some(step.name.clone()),
                step_id: Some(step_id),
                executor_type: Some(step.executor_type),
                executor_name: Some(step.executor_name.clone()),
                success: false,
                error: Some(error.to_owned()),
                ..StepOutput::default()
            }))
        });
        let rest = Rest {
            content: Some(Value::String(content)),
            was_pending: self.phase == Phase::Fresh,
            was_paused: cancel.was_paused,
            results,
            ..self.at_rest(RunStatus::Cancelled, at)
        };
        let first = match self.phase {
            Phase::Fresh => Entry::recorded(self.event(cancelled, at), claim.clone()),
            _ => Entry::event(self.event(cancelled, at)),
        };
        vec![first, self.completed_as(rest)]
    }

    /// The entries that end the run ERROR.
    pub fn fail(&self, failure: &Failure, at: Timestamp) -> Vec<Entry> {
        vec![self.failed_with(self.unfinished(None, &failure.message), failure, at)]
    }

    pub(super) fn failed_with(&self, results: Vec<Arc<StepOutput>>, failure: &Failure, at: Timestamp) -> Entry {
        let error_type = Some(failure.kind.code().to_owned());
        let rest = Rest {
            content: Some(Value::String(failure.message.clone())),
            error_type: error_type.clone(),
            results,
            ..self.at_rest(RunStatus::Error, at)
        };
        let error =
            EventKind::WorkflowError { error: failure.message.clone(), error_type, refusal: failure.refusal.clone() };
        Entry::recorded(self.event(error, at), Record::Rest(Box::new(rest)))
    }

    /// The entries that pause the run because its definition is not the one the log speaks of. `next_index` is the
    /// log's length: the same may be asked again later.
    pub fn pause(&self, reason: &str, next_index: u64, at: Timestamp) -> Vec<Entry> {
        let question = Arc::new(self.question_of_definition(reason, next_index));
        let pause = Pause {
            index: question.step_index,
            name: question.step_name.clone(),
            kind: Some("executor".to_owned()),
            requirements: Some(vec![question.requirement(None)]),
            errors: None,
        };
        let mut fields = Map::new();
        fields.insert("name".into(), json!("DefinitionChanged"));
        fields.insert("reason".into(), json!(reason));
        let asks = Record::Waiting { key: Key::run(), questions: vec![question], at };
        vec![Entry::recorded(self.event(EventKind::CustomEvent { fields }, at), asks), self.paused_with(pause, at)]
    }

    /// The entry that pauses the run because nothing of it goes on until somebody answers.
    pub(super) fn paused_for_answers(&self, at: Timestamp) -> Entry {
        let open = self.questions();
        let first = open.first();
        let kind = first.and_then(|question| match question.kind {
            QuestionKind::Error => None,
            QuestionKind::Outcome | QuestionKind::Definition => Some("executor".to_owned()),
            _ if question.tool.is_some() => Some("executor".to_owned()),
            _ => Some("step".to_owned()),
        });
        let (requirements, errors) = self.requirements();
        let pause = Pause {
            index: first.map_or(self.root.at, |question| question.step_index),
            name: first.map_or_else(|| Arc::from(""), |question| question.step_name.clone()),
            kind,
            requirements,
            errors,
        };
        self.paused_with(pause, at)
    }

    fn paused_with(&self, pause: Pause, at: Timestamp) -> Entry {
        let results = self.results_at_a_pause();
        let rest = Rest { pause: Some(pause), results, ..self.at_rest(RunStatus::Paused, at) };
        let event = rest.paused().expect("it says where");
        Entry::recorded(self.event(event, at), Record::Rest(Box::new(rest)))
    }

    /// The outputs of the steps that ended, and of those that are being judged.
    fn results_at_a_pause(&self) -> Vec<Arc<StepOutput>> {
        self.root.results.iter().cloned().chain(self.judged_at_top()).collect()
    }

    /// The runs of agents and teams that ended; at a pause, those too that ask before they make a call.
    fn runs_as(&self, status: RunStatus) -> Vec<Arc<RunOutput>> {
        let mut runs = self.runs_so_far();
        if status == RunStatus::Paused {
            let open = self.questions();
            let asking = open.iter().filter(|question| question.tool.is_some()).filter_map(|asked| asked.run.clone());
            for run in asking {
                // One that asks several things stands there once.
                if runs.last().is_none_or(|last| last.run_id != run.run_id) {
                    runs.push(run);
                }
            }
        }
        runs
    }

    /// Everything asked, as Agno's clients read it: what was answered, and what is open. Failures stand apart.
    fn requirements(&self) -> (Option<Vec<Value>>, Option<Vec<Value>>) {
        let mut asked = self.asked().to_vec();
        asked.sort_by(|(one, _), (other, _)| one.key.in_order(&other.key));
        let (steps, errors) = question::requirements(&asked);
        (Some(steps).filter(|all| !all.is_empty()), Some(errors).filter(|all| !all.is_empty()))
    }

    /// The run as it stands when it comes to rest.
    fn at_rest(&self, status: RunStatus, at: Timestamp) -> Rest {
        let state = if status.is_terminal() { self.state_of_branches(&Key::run()) } else { Map::new() };
        Rest {
            pause: self.pause_before(),
            metrics: Some(self.metrics(at)),
            metadata: self.metadata(),
            results: self.root.results.clone(),
            runs: self.runs_as(status),
            state: Some(state).filter(|state| !state.is_empty()).map(Value::Object),
            ..Rest::new(status, at)
        }
    }

    /// Where it paused before it ended, and what was answered then.
    fn pause_before(&self) -> Option<Pause> {
        if self.asked().is_empty() {
            return None;
        }
        let (index, name, kind) = self.paused().cloned().unwrap_or_else(|| (0, Arc::from(""), None));
        let (requirements, errors) = self.requirements();
        Some(Pause { index, name, kind, requirements, errors })
    }

    pub(super) fn completed(&self, at: Timestamp) -> Entry {
        self.completed_as(Rest { content: self.content(), ..self.at_rest(RunStatus::Completed, at) })
    }

    fn completed_as(&self, rest: Rest) -> Entry {
        let event = self.event(EventKind::WorkflowCompleted(Box::new(rest.done())), rest.at);
        Entry::recorded(event, Record::Rest(Box::new(rest)))
    }

    /// What the caller noted about the run.
    fn metadata(&self) -> Option<Value> {
        self.attachments.as_deref()?.metadata.as_deref().cloned().map(Value::Object)
    }

    /// The entry that says a run goes on after its worker was lost. On seeing it, readers drop the partial text before
    /// it.
    pub fn resumed(&self, claim: &Record, attempt: u32, at: Timestamp) -> Entry {
        let executing: Vec<(&Key, &Arc<str>)> = self
            .open
            .iter()
            .filter_map(|(key, open)| match open {
                Open::Step(_) if self.is_waiting(key) && !self.is_up(key, at) => None,
                Open::Step(step) if step.due_at.is_none_or(|due_at| due_at <= at) => Some((key, &step.name)),
                _ => None,
            })
            .collect();
        let mut fields = Map::new();
        fields.insert("name".into(), json!("RunResumed"));
        fields.insert("attempt".into(), json!(attempt));
        fields.insert("taken_over".into(), json!(self.is_taken_over(claim)));
        if let Some((_, first)) = executing.first() {
            fields.insert("paths".into(), executing.iter().map(|(key, _)| json!(key)).collect());
            fields.insert("resumed_step".into(), json!(first));
        }
        Entry::recorded(self.event(EventKind::CustomEvent { fields }, at), claim.clone())
    }

    /// Whether a claim is by another worker than the one before, which had not let the run rest.
    pub fn is_taken_over(&self, claim: &Record) -> bool {
        let Record::Claimed { worker, .. } = claim else { return false };
        self.phase == Phase::Going && self.worker.as_ref() != Some(worker)
    }

    /// Where the run stands, once it has ended or paused.
    pub fn ended(&self) -> Option<RunStatus> {
        match self.phase {
            Phase::Ended(status) => Some(status),
            _ => None,
        }
    }

    /// Whether anything has been said yet.
    pub fn is_fresh(&self) -> bool {
        self.phase == Phase::Fresh
    }

    /// Facts about the run.
    pub fn info(&self) -> &Arc<RunInfo> {
        &self.info
    }

    /// When the run was first claimed.
    pub fn started_at(&self) -> Option<Timestamp> {
        self.started_at
    }

    /// The outputs of what stands directly in the workflow and has ended.
    pub fn outputs(&self) -> &[Arc<StepOutput>] {
        &self.root.results
    }

    pub(super) fn at(&self) -> usize {
        usize::try_from(self.root.at).unwrap_or(usize::MAX)
    }

    /// What the run is at, for people: `1/2 Research Step`; inside a container, with the steps in progress:
    /// `1/2 Research: News, Prices`.
    pub fn progress(&self) -> String {
        /// Steps named one by one, at most.
        const NAMED_MAX: usize = 3;
        let (at, count) = (self.at(), self.nodes.len());
        if let Some(leader) = self.leader().filter(|_| !self.has_called()) {
            return leader.name().to_string();
        }
        let Some(node) = self.nodes.get(at) else { return format!("{count}/{count}") };
        let mut text = format!("{}/{count} {}", at + 1, node.name());
        if node.container().is_none() {
            return text;
        }
        let steps: Vec<&str> = self
            .open
            .iter()
            .filter_map(|(key, open)| match open {
                Open::Step(step) if step.is_executing() || self.is_asleep(key) => Some(&*step.name),
                _ => None,
            })
            .collect();
        if !steps.is_empty() {
            text.push_str(": ");
            text.push_str(&steps[..steps.len().min(NAMED_MAX)].join(", "));
        }
        if steps.len() > NAMED_MAX {
            text.push_str(&format!(" and {} more", steps.len() - NAMED_MAX));
        }
        text
    }

    /// How it came to rest.
    pub fn at_rest_as(&self) -> Option<&Rest> {
        self.rest.as_deref()
    }

    /// The run as a poll sees it.
    pub fn output(&self) -> WorkflowRunOutput {
        let (input, created_at) = (self.input.as_deref().cloned(), self.created_at);
        let output = match &self.rest {
            Some(rest) => WorkflowRunOutput::at_rest(&self.info, input, created_at, (**rest).clone()),
            None => WorkflowRunOutput {
                status: if self.is_fresh() { RunStatus::Pending } else { RunStatus::Running },
                step_results: self.root.results.clone(),
                metrics: Some(self.metrics(self.last_at)),
                ..WorkflowRunOutput::pending(&self.info, input, created_at).with_runs(self.runs_so_far())
            },
        };
        WorkflowRunOutput { metadata: self.metadata().or(output.metadata.clone()), ..output }
    }

    fn metrics(&self, at: Timestamp) -> RunMetrics {
        let duration = self.started_at.map(|start| at.since(start).as_secs_f64());
        RunMetrics { steps: self.used.steps.clone(), duration }
    }
}

/// What has begun and has not ended, by the container it is in.
type ByContainer<'a> = BTreeMap<Key, Vec<(&'a Key, &'a Open)>>;

/// The outputs of a container's children that ended, then what `partial` makes of those that have begun, with their own
/// children inside.
fn unfinished_in(
    open: &ByContainer<'_>,
    (key, frame): (&Key, &Frame),
    partial: &dyn Fn(&Key, &Open) -> Option<Arc<StepOutput>>,
) -> Vec<Arc<StepOutput>> {
    let mut outputs = frame.outputs();
    for (key, child) in open.get(key).into_iter().flatten() {
        let Some(output) = partial(key, child) else { continue };
        let steps = match child {
            Open::Container(frame) => unfinished_in(open, (key, frame), partial),
            _ => Vec::new(),
        };
        outputs.push(if steps.is_empty() { output } else { Arc::new(StepOutput { steps, ..(*output).clone() }) });
    }
    outputs
}

/// What branches that ended changed in the session, in a container and in those inside it; in the order of the definition,
/// so that the later branch wins.
fn state_inside(open: &ByContainer<'_>, outer: &Key, frame: &Frame) -> Map<String, Value> {
    let ended = frame.own().branches.iter();
    let ended = ended.filter_map(|(place, branch)| Some((Some(*place), branch.state()?.clone())));
    let begun = open.get(outer).into_iter().flatten().filter_map(|(key, child)| match child {
        Open::Container(frame) => Some((key.branch(), state_inside(open, key, frame))),
        _ => None,
    });
    let by_place: BTreeMap<Option<u32>, Map<String, Value>> = ended.chain(begun).collect();
    by_place.into_values().flatten().collect()
}

/// A container that had begun.
fn broken_off(frame: &Frame, error: &str) -> StepOutput {
    StepOutput {
        content: None,
        step_type: frame.kind,
        ..StepOutput::failed(Some(frame.name.clone()), frame.own().origin.step_id.clone(), "", error)
    }
}

/// What steps, and those inside them, used.
pub(super) fn metrics_of<'a>(
    outputs: impl IntoIterator<Item = &'a Arc<StepOutput>>,
    duration: Option<f64>,
) -> RunMetrics {
    let mut metrics = RunMetrics { duration, ..RunMetrics::default() };
    outputs.into_iter().for_each(|output| add_metrics(&mut metrics, output));
    metrics
}

fn add_metrics(metrics: &mut RunMetrics, output: &StepOutput) {
    output.steps.iter().for_each(|step| add_metrics(metrics, step));
    add_own_metrics(metrics, output);
}

/// What the agent or team of a step used, without what is inside it.
pub(super) fn add_own_metrics(metrics: &mut RunMetrics, output: &StepOutput) {
    let (Some(name), Some(kind), Some(executor)) = (&output.step_name, output.executor_type, &output.executor_name)
    else {
        return;
    };
    if let (ExecutorKind::Agent | ExecutorKind::Team, Some(used)) = (kind, output.metrics.as_deref()) {
        metrics.count(name, kind.as_str(), executor, used);
    }
}
