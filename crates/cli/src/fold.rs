//! A run's events folded into what people want to know about it: which steps, how they went, what they used.
//!
//! Pure: events in, a picture out. Statuses are taken from the events, never inferred.

use outlive::core::{EventKind, FinishReason, RunEvent, StepOutput};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A step's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepState {
    /// Its start is in the log, its end is not.
    Running,
    /// It waits for somebody to answer.
    Waiting,
    /// It ended well.
    Completed,
    /// It failed, and the run with it.
    Failed,
    /// It failed, and the run continued.
    Skipped,
    /// It was at work when the run was cancelled.
    Cancelled,
}

impl StepState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            StepState::Running => "running",
            StepState::Waiting => "waiting",
            StepState::Completed => "completed",
            StepState::Failed => "error",
            StepState::Skipped => "skipped",
            StepState::Cancelled => "cancelled",
        }
    }
}

/// A tool call that failed.
#[derive(Clone, Debug)]
pub(crate) struct ToolFailure {
    /// The agent or team that made it.
    pub(crate) who: String,
    pub(crate) tool: String,
    pub(crate) error: String,
}

/// How many failed tool calls are kept per step; further ones are only counted.
const TOOL_FAILURES_MAX: usize = 20;

/// One step.
#[derive(Clone, Debug)]
pub(crate) struct StepView {
    pub(crate) name: String,
    pub(crate) state: StepState,
    /// Seconds, once it has ended and if the log says so.
    pub(crate) seconds: Option<f64>,
    members: BTreeSet<String>,
    pub(crate) tool_calls: usize,
    pub(crate) tool_failures: Vec<ToolFailure>,
    pub(crate) model_calls: usize,
    pub(crate) tokens: u64,
    /// From 1; one more for each retry.
    pub(crate) attempts: u32,
    pub(crate) error: Option<String>,
    /// What cut off the step's newest answer, ignoring its members'.
    pub(crate) finish_reason: Option<FinishReason>,
    /// Whether a process was lost while the step was running.
    pub(crate) was_resumed: bool,
}

impl StepView {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: StepState::Running,
            seconds: None,
            members: BTreeSet::new(),
            tool_calls: 0,
            tool_failures: Vec::new(),
            model_calls: 0,
            tokens: 0,
            attempts: 1,
            error: None,
            finish_reason: None,
            was_resumed: false,
        }
    }

    /// Agents and teams that a team's leader called.
    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    fn end(&mut self, output: &StepOutput) {
        self.state = if output.success { StepState::Completed } else { StepState::Skipped };
        self.error = output.error.clone();
        if let Some(metrics) = &output.metrics {
            self.seconds = metrics.duration;
            self.tokens = self.tokens.max(metrics.usage.total_tokens);
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "status": self.state.word(),
            "duration_ms": self.seconds.map(millis),
            "members": self.members(),
            "tool_calls": self.tool_calls,
            "tool_failures": self.tool_failures.iter().map(ToolFailure::to_json).collect::<Vec<_>>(),
            "model_calls": self.model_calls,
            "tokens": self.tokens,
            "attempts": self.attempts,
            "error": self.error,
            "finish_reason": self.finish_reason,
        })
    }
}

impl ToolFailure {
    fn to_json(&self) -> Value {
        json!({ "by": self.who, "tool": self.tool, "error": self.error })
    }
}

/// Seconds as whole milliseconds.
pub(crate) fn millis(seconds: f64) -> u64 {
    // A negative or infinite duration means a broken log; it shows as 0 or the largest number.
    (seconds * 1e3).round() as u64
}

/// One run.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunView {
    pub(crate) steps: Vec<StepView>,
    /// How often another process resumed it.
    pub(crate) resumes: u32,
    pub(crate) error: Option<String>,
    pub(crate) cancel_reason: Option<String>,
    /// Seconds from the first claim to the end, once it has ended.
    pub(crate) seconds: Option<f64>,
}

impl RunView {
    /// The picture that these events give.
    pub(crate) fn of<'a>(events: impl IntoIterator<Item = &'a RunEvent>) -> Self {
        let mut view = Self::default();
        events.into_iter().for_each(|event| view.apply(event));
        view
    }

    /// The step an event is about.
    fn step(&mut self, event: &RunEvent) -> Option<&mut StepView> {
        let name = event.origin.step_name.as_deref()?;
        self.steps.iter_mut().rev().find(|step| step.name == name)
    }

    /// The running step.
    pub(crate) fn active(&self) -> Option<&StepView> {
        self.steps.last().filter(|step| step.state == StepState::Running)
    }

    /// Whether the step an event is about has started and not ended.
    pub(crate) fn is_open(&self, event: &RunEvent) -> bool {
        let name = event.origin.step_name.as_deref();
        let step = self.steps.iter().rev().find(|step| Some(step.name.as_str()) == name);
        step.is_some_and(|step| step.state == StepState::Running)
    }

    /// Tokens of all steps.
    pub(crate) fn tokens(&self) -> u64 {
        self.steps.iter().map(|step| step.tokens).sum()
    }

    /// Folds one more event.
    pub(crate) fn apply(&mut self, event: &RunEvent) {
        use EventKind::*;
        match &event.kind {
            StepStarted
            | StepsExecutionStarted { .. }
            | ParallelExecutionStarted { .. }
            | ConditionExecutionStarted { .. }
            | LoopExecutionStarted { .. }
            | RouterExecutionStarted { .. } => {
                let name = event.origin.step_name.as_deref().unwrap_or_default();
                self.steps.push(StepView::new(name));
            }
            StepsExecutionCompleted { .. }
            | ParallelExecutionCompleted { .. }
            | ConditionExecutionCompleted { .. }
            | LoopExecutionCompleted { .. }
            | RouterExecutionCompleted { .. } => {
                if let Some(container) = self.step(event) {
                    container.state = StepState::Completed;
                }
            }
            StepCompleted { step_response, .. } => {
                if let Some(step) = self.step(event) {
                    step.end(step_response);
                }
            }
            StepOutput { step_output } => {
                if let Some(step) = self.step(event) {
                    step.end(step_output);
                }
            }
            StepError { error } => {
                if let Some(step) = self.step(event) {
                    step.state = StepState::Failed;
                    step.error = Some(error.clone());
                }
            }
            StepExecutorPaused { .. } => {
                if let Some(step) = self.step(event) {
                    step.state = StepState::Waiting;
                }
            }
            WorkflowError { error, .. } => {
                self.error = Some(error.clone());
                self.end_open(StepState::Failed);
            }
            WorkflowCancelled { reason, .. } => {
                self.cancel_reason = Some(reason.clone());
                self.end_open(StepState::Cancelled);
            }
            // The end of a nested workflow is the end of its step.
            WorkflowCompleted(done) if event.origin.nested_depth == 0 => {
                self.seconds = done.metrics.as_ref().and_then(|metrics| metrics.duration);
            }
            CustomEvent { fields } => self.custom(fields.get("name").and_then(Value::as_str), event),
            RunStarted(_) | TeamRunStarted(_) => {
                let member = event.origin.parent_run_id.as_ref().and(event.origin.run_id.as_ref());
                if let (Some(member), Some(step)) = (member.map(ToString::to_string), self.step(event)) {
                    step.members.insert(member);
                }
            }
            ToolCallStarted(_) => {
                if let Some(step) = self.step(event) {
                    step.tool_calls += 1;
                }
            }
            ToolCallError(failed) | TeamToolCallError(failed) => {
                let origin = &event.origin;
                let who = origin.agent_name.as_deref().or(origin.team_name.as_deref()).unwrap_or_default().to_owned();
                if let Some(step) = self.step(event)
                    && step.tool_failures.len() < TOOL_FAILURES_MAX
                {
                    let (tool, error) = (failed.tool.tool_name.clone(), failed.error.clone());
                    step.tool_failures.push(ToolFailure { who, tool, error });
                }
            }
            ModelRequestCompleted(done) | TeamModelRequestCompleted(done) => {
                if let Some(step) = self.step(event) {
                    step.model_calls += 1;
                    step.tokens += done.total_tokens;
                    if event.origin.parent_run_id.is_none() {
                        step.finish_reason = done.finish_reason;
                    }
                }
            }
            WorkflowStarted
            | WorkflowCompleted(_)
            | LoopIterationStarted { .. }
            | LoopIterationCompleted { .. }
            | WorkflowPaused { .. }
            | StepProgress { .. }
            | RunContent(_)
            | RunContentCompleted
            | RunCompleted(_)
            | RunError(_)
            | ModelRequestStarted(_)
            | ToolCallCompleted(_)
            | TeamRunContent(_)
            | TeamRunContentCompleted
            | TeamRunCompleted(_)
            | TeamRunError(_)
            | TeamModelRequestStarted(_)
            | TeamToolCallStarted(_)
            | TeamToolCallCompleted(_) => {}
        }
    }

    /// What has begun and has not ended ends with the run.
    fn end_open(&mut self, state: StepState) {
        let is_open = |step: &&mut StepView| matches!(step.state, StepState::Running | StepState::Waiting);
        self.steps.iter_mut().filter(is_open).for_each(|step| step.state = state);
    }

    fn custom(&mut self, name: Option<&str>, event: &RunEvent) {
        match name {
            Some("RunResumed") => {
                self.resumes += 1;
                if let Some(step) = self.steps.last_mut().filter(|step| step.state == StepState::Running) {
                    step.was_resumed = true;
                }
            }
            Some("StepRetrying") => {
                if let Some(step) = self.step(event) {
                    step.attempts += 1;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive::core::{ExecutorKind, ModelRequestDone, Origin, RunId};

    #[test]
    fn what_is_at_work_and_what_waits_ends_with_the_run() {
        let event = |kind: EventKind, step: &str| RunEvent {
            created_at: 0,
            kind,
            origin: Origin { step_name: Some(step.into()), ..Origin::default() },
            event_index: None,
        };
        let asks = EventKind::StepExecutorPaused {
            executor_name: "asks".into(),
            executor_type: ExecutorKind::Function,
            executor_requirements: Vec::new(),
        };
        let failed = EventKind::WorkflowError { error: "no".to_owned(), error_type: None };
        let events = [
            event(EventKind::StepStarted, "asks"),
            event(EventKind::StepStarted, "works"),
            event(asks, "asks"),
            event(failed, ""),
        ];
        let states =
            |count: usize| RunView::of(&events[..count]).steps.iter().map(|step| step.state).collect::<Vec<_>>();
        assert_eq!(states(3), [StepState::Waiting, StepState::Running]);
        assert_eq!(states(4), [StepState::Failed; 2]);
    }

    #[test]
    fn a_step_says_what_cut_its_own_last_answer() {
        let event = |kind: EventKind, parent: Option<&str>| RunEvent {
            created_at: 0,
            kind,
            origin: Origin {
                step_name: Some("research".into()),
                parent_run_id: parent.and_then(|id| RunId::parse(id).ok()),
                ..Origin::default()
            },
            event_index: None,
        };
        let answered = |reason| EventKind::ModelRequestCompleted(ModelRequestDone::default().ended(reason));
        let begun = event(EventKind::StepStarted, None);
        let own = event(answered(FinishReason::Length), None);
        let of_member = event(answered(FinishReason::ContentFilter), Some("team"));
        let reason = |events: &[&RunEvent]| RunView::of(events.iter().copied()).steps[0].finish_reason;
        assert_eq!(reason(&[&begun, &own, &of_member]), Some(FinishReason::Length));
        assert_eq!(reason(&[&begun, &own, &event(answered(FinishReason::Stop), None)]), None);
        let step = &RunView::of([&begun, &own]).steps[0];
        assert_eq!(step.to_json()["finish_reason"], "length");
        assert!(crate::cmd::step_facts(step).contains("answer cut at its token limit"));
    }
}
