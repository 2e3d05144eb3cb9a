//! A run as it happens: a line when a step starts, the text as it streams, a line when the step has ended.
//! Lines are only ever added, so it looks the same in a file.

use crate::cmd::events::{answered, asked};
use crate::cmd::{step_facts, step_line};
use crate::fold::{RunView, StepState, StepView};
use crate::style::{self, DIM, Mark};
use crate::{output, times};
use outlive::core::{EventKind, RunEvent, ToolExecution, content_text};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Shows a run, event by event.
pub(crate) struct Progress {
    view: RunView,
    /// Events before this index happened before this process; they are folded but not shown.
    shown_from: u64,
    kept_shown: bool,
    is_quiet: bool,
    /// When each step began that is at work.
    since: HashMap<Arc<str>, Instant>,
    /// What steps that work side by side have said: each is shown as a whole.
    held: HashMap<Arc<str>, String>,
    /// Text is being streamed and its line is still open.
    in_text: bool,
}

impl Progress {
    /// Shows what happens from `shown_from` on.
    pub(crate) fn new(shown_from: u64, is_quiet: bool) -> Self {
        Self {
            view: RunView::default(),
            shown_from,
            kept_shown: shown_from == 0,
            is_quiet,
            since: HashMap::new(),
            held: HashMap::new(),
            in_text: false,
        }
    }

    /// Folds and shows one event.
    pub(crate) fn apply(&mut self, event: &RunEvent) -> io::Result<()> {
        let is_old = event.event_index.is_some_and(|index| index < self.shown_from);
        if !is_old && !self.kept_shown {
            self.kept_shown = true;
            self.show_kept()?;
        }
        let was_open = self.view.is_open(event);
        self.view.apply(event);
        if is_old || self.is_quiet { Ok(()) } else { self.show(event, was_open) }
    }

    /// What an earlier process did.
    fn show_kept(&mut self) -> io::Result<()> {
        self.since = self.view.at_work().map(|step| (step.key(), Instant::now())).collect();
        if self.is_quiet {
            return Ok(());
        }
        for step in self.view.steps.iter().filter(|step| step.state == StepState::Completed) {
            output::line(step_line(Mark::Kept, &step.name, "kept from before, not run again"))?;
        }
        self.view.at_work().try_for_each(|step| output::line(step_line(Mark::Active, &step.name, "goes on")))
    }

    /// How long the run took, once it is over and if the log says so.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.view.seconds
    }

    fn show(&mut self, event: &RunEvent, was_open: bool) -> io::Result<()> {
        use EventKind::*;
        let name = event.origin.step_name.as_deref().unwrap_or_default();
        match &event.kind {
            StepStarted => {
                self.since.insert(key_of(event), Instant::now());
                self.end_text()?;
                output::line(step_line(Mark::Active, name, ""))
            }
            RunContent(delta) | TeamRunContent(delta) if event.origin.parent_run_id.is_none() => {
                self.says(event, delta.content.as_deref().unwrap_or_default())
            }
            // A delegation is shown through what its member does.
            ToolCallCompleted(call) | TeamToolCallCompleted(call) if call.tool.child_run_id.is_none() => {
                self.show_held(event)?;
                let origin = &event.origin;
                let who = origin.agent_name.as_deref().or(origin.team_name.as_deref()).unwrap_or(name);
                output::line(tool_line(who, &call.tool))
            }
            // A function step emits its output and then its end.
            StepCompleted { .. } | StepOutput { .. } | StepError { .. } if was_open => {
                self.show_held(event)?;
                self.step_ended(event)
            }
            StepPaused { .. } | StepOutputReview { .. } | RouterPaused { .. } | StepExecutorPaused { .. } => {
                self.show_held(event)?;
                let asks = asked(&event.kind).unwrap_or_default();
                output::line(step_line(Mark::Paused, name, &format!("asks: {}", style::line(&asks, 200))))
            }
            CustomEvent { fields } if answered(fields).is_some() => {
                self.end_text()?;
                output::line(step_line(Mark::Kept, name, &answered(fields).unwrap_or_default()))
            }
            CustomEvent { fields } if retried(fields).is_some() => {
                // What was said so far does not count.
                self.show_held(event)?;
                let why = style::line(retried(fields).unwrap_or_default(), 200);
                output::line(format_args!("   {DIM}again: {why}{DIM:#}"))
            }
            WorkflowError { error, .. } => {
                self.show_all_held()?;
                output::line(format_args!("{} {}", Mark::Failed.shown(), style::line(error, 400)))
            }
            WorkflowCancelled { reason, .. } => {
                self.show_all_held()?;
                output::line(format_args!("{} {}", Mark::Cancelled.shown(), style::line(reason, 400)))
            }
            _ => Ok(()),
        }
    }

    fn step_ended(&mut self, event: &RunEvent) -> io::Result<()> {
        let since = self.since.remove(&key_of(event));
        let Some(step) = self.view.step_of(event) else { return Ok(()) };
        let mark = if step.state == StepState::Completed { Mark::Done } else { Mark::Failed };
        output::line(step_line(mark, &step.name, &about(step, since)))
    }

    /// What a step says. While others work beside it, it is held until the step ends.
    fn says(&mut self, event: &RunEvent, text: &str) -> io::Result<()> {
        if self.view.at_work().nth(1).is_some() {
            self.held.entry(key_of(event)).or_default().push_str(text);
            return Ok(());
        }
        self.show_said(event)?;
        self.text(text)
    }

    fn show_said(&mut self, event: &RunEvent) -> io::Result<()> {
        match self.held.remove(&key_of(event)) {
            Some(said) if !said.is_empty() => {
                self.end_text()?;
                self.text(&said)
            }
            _ => Ok(()),
        }
    }

    /// Shows what the step of an event has said, and ends its line.
    fn show_held(&mut self, event: &RunEvent) -> io::Result<()> {
        self.show_said(event)?;
        self.end_text()
    }

    fn show_all_held(&mut self) -> io::Result<()> {
        let keys: Vec<_> = self.view.steps.iter().map(StepView::key).collect();
        for said in keys.iter().filter_map(|key| self.held.remove(key)).collect::<Vec<_>>() {
            self.end_text()?;
            self.text(&said)?;
        }
        self.end_text()
    }

    /// More of an answer, three columns in. A line is indented by its first character, so that empty ones stay empty.
    fn text(&mut self, text: &str) -> io::Result<()> {
        let mut shown = String::new();
        for c in style::clean(text).chars() {
            if c != '\n' && !self.in_text {
                shown.push_str("   ");
            }
            self.in_text = c != '\n';
            shown.push(c);
        }
        output::write(shown)
    }

    /// Ends the line of the streamed text.
    pub(crate) fn end_text(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.in_text) { output::write("\n") } else { Ok(()) }
    }
}

/// Why something is tried again, if an event says so.
fn retried(fields: &Map<String, Value>) -> Option<&str> {
    let is_again =
        |name: &str| ["ModelRequestRetrying", "ToolCallRetrying", "StepRetrying", "ModelFallback"].contains(&name);
    fields.get("name").and_then(Value::as_str).filter(|name| is_again(name))?;
    fields.get("error").and_then(Value::as_str)
}

/// What tells an event's step from others.
fn key_of(event: &RunEvent) -> Arc<str> {
    let origin = &event.origin;
    origin.step_id.clone().or_else(|| origin.step_name.clone()).unwrap_or_default()
}

fn about(step: &StepView, since: Option<Instant>) -> String {
    // The log knows best, but the duration it gives for an interrupted step is not the time anyone waited.
    let told = step.seconds.filter(|_| !step.was_resumed);
    let took = told.or_else(|| since.map(|since| since.elapsed().as_secs_f64())).map(times::span).unwrap_or_default();
    let facts = if step.was_resumed { "the call in flight was repeated".to_owned() } else { step_facts(step) };
    format!("{took:>6}   {facts}")
}

/// `   Finance Agent: get_price {"symbol":"NVDA"} → {"price":131.2}   0.3 s`.
fn tool_line(who: &str, tool: &ToolExecution) -> String {
    let (who, name) = (style::line(who, 60), style::line(&tool.tool_name, 60));
    let arguments = match &tool.tool_args {
        Value::Object(none) if none.is_empty() => String::new(),
        arguments => format!(" {}", style::line(&content_text(Some(arguments)), 60)),
    };
    let result = style::line(tool.result.as_deref().unwrap_or_default(), 60);
    let result = match tool.tool_call_error {
        Some(true) => format!("{} {result}", Mark::Failed.shown()),
        Some(false) | None => format!("{} {result}", style::arrow()),
    };
    let took = tool.metrics.as_ref().and_then(|metrics| metrics.duration).map(times::span);
    let took = took.map(|took| format!("   {took}")).unwrap_or_default();
    format!("   {DIM}{who}: {name}{arguments}{DIM:#} {result}{DIM}{took}{DIM:#}")
}
