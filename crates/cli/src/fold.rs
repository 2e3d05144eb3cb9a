//! A run's events folded into what people want to know about it: which steps, how they went, what they used.
//!
//! Pure: events in, a picture out. Statuses are taken from the events, never inferred.

use crate::cmd::events::answered;
use outlive::core::{EventKind, FinishReason, Follows, RunEvent, StepOutput};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

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
    /// Somebody said no, or nobody answered in time, and the run continued without it.
    LeftOut,
    /// It was at work when the run was cancelled, or what was answered about it cancelled the run.
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
            StepState::LeftOut => "skipped",
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
    /// What tells it from others of its name: the items of a ForEach.
    id: Option<Arc<str>>,
    /// It is made of other steps.
    is_container: bool,
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
    /// What somebody answered last, in words.
    pub(crate) answer: Option<String>,
    /// Whether its next start is a part of this, and no other execution.
    is_to_start: bool,
}

impl StepView {
    fn new(event: &RunEvent) -> Self {
        Self {
            name: event.origin.step_name.as_deref().unwrap_or_default().to_owned(),
            id: event.origin.step_id.clone(),
            is_container: false,
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
            answer: None,
            is_to_start: false,
        }
    }

    /// Agents and teams that a team's leader called.
    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    /// Its id, or else its name.
    pub(crate) fn key(&self) -> Arc<str> {
        self.id.clone().unwrap_or_else(|| self.name.as_str().into())
    }

    fn is_open(&self) -> bool {
        matches!(self.state, StepState::Running | StepState::Waiting)
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
            "answer": self.answer,
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
    /// How often another process took it over.
    pub(crate) resumes: u32,
    pub(crate) error: Option<String>,
    pub(crate) cancel_reason: Option<String>,
    /// Seconds from the first claim to the end, once it has ended.
    pub(crate) seconds: Option<f64>,
    /// Whether it has paused, and nobody has gone on with it since.
    is_paused: bool,
}

impl RunView {
    /// The picture that these events give.
    pub(crate) fn of<'a>(events: impl IntoIterator<Item = &'a RunEvent>) -> Self {
        let mut view = Self::default();
        events.into_iter().for_each(|event| view.apply(event));
        view
    }

    /// The step an event is about.
    pub(crate) fn step_of(&self, event: &RunEvent) -> Option<&StepView> {
        self.steps.get(self.place_of(event)?)
    }

    /// By its id; what was asked before it began may have another, and is found by name.
    fn place_of(&self, event: &RunEvent) -> Option<usize> {
        let (id, name) = (event.origin.step_id.as_ref(), event.origin.step_name.as_deref());
        let by_id = self.steps.iter().rposition(|step| id.is_some() && step.id.as_ref() == id);
        by_id.or_else(|| self.steps.iter().rposition(|step| Some(step.name.as_str()) == name))
    }

    fn step(&mut self, event: &RunEvent) -> Option<&mut StepView> {
        let place = self.place_of(event)?;
        self.steps.get_mut(place)
    }

    /// The steps at work, without what they are in.
    pub(crate) fn at_work(&self) -> impl Iterator<Item = &StepView> {
        self.steps.iter().filter(|step| step.state == StepState::Running && !step.is_container)
    }

    /// Whether the step an event is about has started and not ended.
    pub(crate) fn is_open(&self, event: &RunEvent) -> bool {
        self.step_of(event).is_some_and(|step| step.state == StepState::Running)
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
                if let Some(step) = self.step(event).filter(|step| step.is_to_start) {
                    (step.state, step.is_to_start) = (StepState::Running, false);
                } else {
                    let is_container = !matches!(event.kind, StepStarted);
                    self.steps.push(StepView { is_container, ..StepView::new(event) });
                }
            }
            StepPaused { .. } | RouterPaused { .. } => match self.step(event) {
                Some(step) if step.is_open() => step.state = StepState::Waiting,
                // It is asked about before it begins.
                _ => {
                    self.steps.push(StepView { state: StepState::Waiting, is_to_start: true, ..StepView::new(event) });
                }
            },
            StepContinued | StepExecutorContinued { .. } => {
                if let Some(step) = self.step(event) {
                    (step.state, step.is_to_start) = (StepState::Running, true);
                }
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
            StepExecutorPaused { .. } | StepOutputReview { .. } => {
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
            // What failed and is asked about has not failed yet.
            WorkflowPaused { paused_step_name, .. } => {
                self.is_paused = true;
                let paused = self.steps.iter_mut().rev().find(|step| step.name == **paused_step_name);
                if let Some(step) = paused.filter(|step| step.state == StepState::Failed) {
                    step.state = StepState::Waiting;
                }
            }
            CustomEvent { fields } => match Follows::of(&event.kind) {
                Some(follows) => self.answered(event, follows, answered(fields)),
                None => self.custom(fields, event),
            },
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
            // What begins inside a step is a workflow.
            WorkflowStarted => {
                let around = event.origin.parent_step_id.as_ref();
                for step in self.steps.iter_mut().filter(|step| around.is_some() && step.id.as_ref() == around) {
                    step.is_container = true;
                }
            }
            WorkflowCompleted(_)
            | WorkflowAgentStarted
            | WorkflowAgentCompleted { .. }
            | LoopIterationStarted { .. }
            | LoopIterationCompleted { .. }
            | StepProgress { .. }
            | PreHookStarted(_)
            | PreHookCompleted(_)
            | PostHookStarted(_)
            | PostHookCompleted(_)
            | TeamPreHookStarted(_)
            | TeamPreHookCompleted(_)
            | TeamPostHookStarted(_)
            | TeamPostHookCompleted(_)
            | RunContent(_)
            | RunContentCompleted
            | RunCompleted(_)
            | RunError(_)
            | RunPaused(_)
            | RunContinued
            | ModelRequestStarted(_)
            | ToolCallCompleted(_)
            | TeamRunContent(_)
            | TeamRunContentCompleted
            | TeamRunCompleted(_)
            | TeamRunError(_)
            | TeamRunPaused(_)
            | TeamRunContinued
            | TeamModelRequestStarted(_)
            | TeamToolCallStarted(_)
            | TeamToolCallCompleted(_) => {}
        }
    }

    /// What has begun and has not ended ends with the run.
    fn end_open(&mut self, state: StepState) {
        self.steps.iter_mut().filter(|step| step.is_open()).for_each(|step| step.state = state);
    }

    /// A step of this name waits, as the questions that are open say.
    pub(crate) fn waits(&mut self, name: &str) {
        if self.steps.iter().any(|step| step.name == name && step.state == StepState::Waiting) {
            return;
        }
        if let Some(step) = self.steps.iter_mut().rev().find(|step| step.name == name) {
            step.state = StepState::Waiting;
        }
    }

    /// Somebody answered, or nobody did in time. If the step goes on, the next event says so.
    fn answered(&mut self, event: &RunEvent, follows: Follows, words: Option<String>) {
        let Some(step) = self.step(event) else { return };
        step.answer = words;
        step.state = match follows {
            Follows::GoesOn => StepState::Running,
            Follows::Heard => step.state,
            Follows::Done => StepState::Completed,
            Follows::Skipped => StepState::Skipped,
            Follows::LeftOut => StepState::LeftOut,
            Follows::Failed => StepState::Failed,
            Follows::Cancelled => StepState::Cancelled,
        };
    }

    fn custom(&mut self, fields: &Map<String, Value>, event: &RunEvent) {
        let name = fields.get("name").and_then(Value::as_str);
        let was_paused = self.is_paused;
        self.is_paused &= name != Some("RunResumed");
        match name {
            // What was kept of another run.
            Some("RunForked") => self.resumes = 0,
            // The first process that executes a fork.
            Some("RunResumed") if fields.get("attempt").and_then(Value::as_u64) == Some(1) => {}
            // It had left by itself, or the same process goes on with it.
            Some("RunResumed") if !is_taken_over(fields, was_paused) => {}
            Some("RunResumed") => {
                self.resumes += 1;
                for step in self.steps.iter_mut().filter(|step| step.state == StepState::Running) {
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

/// Whether a run was taken over from another process. Older versions did not say, and of theirs all count that did not
/// follow a pause.
fn is_taken_over(fields: &Map<String, Value>, was_paused: bool) -> bool {
    fields.get("taken_over").and_then(Value::as_bool).unwrap_or(!was_paused)
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
            executor_id: None,
            executor_name: "asks".into(),
            executor_run_id: None,
            executor_type: ExecutorKind::Function,
            executor_requirements: Vec::new(),
        };
        let failed = EventKind::WorkflowError { error: "no".to_owned(), error_type: None, refusal: None };
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
    fn a_run_was_resumed_by_whoever_took_it_over() {
        let custom = |fields: Value| RunEvent {
            created_at: 0,
            kind: EventKind::CustomEvent { fields: fields.as_object().cloned().unwrap_or_default() },
            origin: Origin::default(),
            event_index: None,
        };
        let resumed =
            |taken_over: Value| custom(json!({ "name": "RunResumed", "attempt": 2, "taken_over": taken_over }));
        let paused = json!({
            "event": "WorkflowPaused", "status": "PAUSED", "paused_step_index": 0, "paused_step_name": "Send",
            "step_results": [],
        });
        let paused = RunEvent { kind: serde_json::from_value(paused).expect("it is one"), ..custom(json!({})) };
        let resumes = |events: &[&RunEvent]| RunView::of(events.iter().copied()).resumes;
        let (by_another, by_itself) = (resumed(true.into()), resumed(false.into()));
        assert_eq!(resumes(&[&by_another, &by_itself, &paused, &by_itself, &by_another]), 2);
        // An older version's, which does not say.
        let resumed = custom(json!({ "name": "RunResumed", "attempt": 2 }));
        assert_eq!(resumes(&[&resumed, &paused, &resumed, &resumed]), 2);
    }

    #[test]
    fn steps_of_one_name_are_told_apart() {
        let event = |kind: EventKind, id: &str| RunEvent {
            created_at: 0,
            kind,
            origin: Origin { step_name: Some("Translate".into()), step_id: Some(id.into()), ..Origin::default() },
            event_index: None,
        };
        let done = |text: &str| EventKind::StepCompleted {
            content: json!(text),
            content_type: "str".to_owned(),
            step_response: std::sync::Arc::new(outlive::StepOutput::new(text)),
        };
        let used = || EventKind::ModelRequestCompleted(ModelRequestDone { total_tokens: 7, ..Default::default() });
        let events = [
            event(EventKind::StepStarted, "first"),
            event(EventKind::StepStarted, "second"),
            event(used(), "first"),
            event(done("dansk"), "first"),
        ];
        let view = RunView::of(&events);
        let told: Vec<_> = view.steps.iter().map(|step| (step.state, step.tokens)).collect();
        assert_eq!(told, [(StepState::Completed, 7), (StepState::Running, 0)]);
        assert_eq!(view.at_work().map(|step| step.key()).collect::<Vec<_>>(), ["second".into()]);
        assert!(!view.is_open(&events[0]) && view.is_open(&events[1]));
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

    #[test]
    fn a_step_that_is_asked_about_waits_goes_on_or_is_left_out() {
        use EventKind::*;
        let event = |kind: EventKind| RunEvent {
            created_at: 0,
            kind,
            origin: Origin { step_name: Some("Send".into()), ..Origin::default() },
            event_index: None,
        };
        let answered = |kind: &str, word: &str| {
            let fields = json!({ "name": "QuestionAnswered", "kind": kind, "answer": { "do": word }, "by": "ada" });
            event(CustomEvent { fields: fields.as_object().cloned().unwrap_or_default() })
        };
        let asks = || {
            event(StepPaused {
                requires_confirmation: true,
                confirmation_message: None,
                requires_user_input: false,
                user_input_message: None,
                user_input_schema: None,
            })
        };
        let judged = || event(StepOutputReview { output_review_message: None, requires_output_review: true });
        let done = || {
            let step_response = std::sync::Arc::new(outlive::StepOutput::new("sent"));
            event(StepCompleted { content: json!("sent"), content_type: "str".to_owned(), step_response })
        };
        let failed = || event(StepError { error: "no".to_owned() });
        let (started, goes_on) = (|| event(StepStarted), || event(StepContinued));
        let pause = || {
            let paused = json!({
                "event": "WorkflowPaused", "status": "PAUSED", "paused_step_index": 0, "paused_step_name": "Send",
                "step_results": [],
            });
            event(serde_json::from_value(paused).expect("it is one"))
        };
        let cases = [
            (vec![asks()], StepState::Waiting),
            (vec![asks(), answered("confirmation", "approve"), goes_on(), started()], StepState::Running),
            (vec![asks(), answered("confirmation", "reject")], StepState::LeftOut),
            (vec![asks(), answered("confirmation", "reject"), goes_on(), asks()], StepState::Waiting),
            (vec![started(), done(), judged()], StepState::Waiting),
            (vec![started(), done(), judged(), answered("output_review", "edit")], StepState::Completed),
            (vec![started(), done(), judged(), answered("output_review", "reject"), goes_on()], StepState::Running),
            (vec![started(), failed(), pause()], StepState::Waiting),
            (vec![started(), failed(), pause(), answered("error", "skip")], StepState::Skipped),
            (vec![started(), failed(), pause(), answered("error", "reject")], StepState::Failed),
            (vec![started(), asks(), answered("confirmation", "approve"), goes_on()], StepState::Running),
        ];
        for (events, state) in cases {
            let view = RunView::of(&events);
            let names: Vec<_> = events.iter().map(RunEvent::name).collect();
            assert_eq!((view.steps.len(), view.steps[0].state), (1, state), "{names:?}");
            let is_answered = names.contains(&"CustomEvent");
            assert_eq!(
                view.steps[0].answer.as_deref().is_some_and(|answer| answer.ends_with(" by ada")),
                is_answered,
                "{names:?}"
            );
        }
        // What is asked about again in another round is another execution.
        let again = [asks(), answered("confirmation", "approve"), goes_on(), started(), done(), asks()];
        let states: Vec<_> = RunView::of(&again).steps.iter().map(|step| step.state).collect();
        assert_eq!(states, [StepState::Completed, StepState::Waiting]);
    }
}
