//! `outlive show`: where a run stands, step by step.

use super::questions::question_json;
use super::{remedy_lines, run_json, state, step_facts, step_line, waiting_line};
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::fold::{RunView, StepState, StepView, ToolFailure};
use crate::runs::Runs;
use crate::style::{self, BOLD, DIM, Mark};
use crate::{output, times};
use clap::Args;
use outlive::WorkflowRunOutput;
use outlive::client::{QuestionSummary, RunSummary};
use outlive::core::{RunStatus, Waiting, WaitsFor, content_text};
use serde_json::{Value, json};

/// Show a run's state: its steps, what they used, what it is waiting for or why it failed
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[arg(value_name = "RUN", default_value = "@last", help = RUN_HELP)]
    run: String,
}

impl Show {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let found = runs.find(&self.run).await?.info.run_id;
        let mut run = runs.standing(&found).await?;
        let output = runs.output(&found).await?;
        // It may have ended between the two reads: show one consistent moment.
        if run.status != output.status {
            run.status = output.status;
            run.waiting = None;
        }
        let events = runs.events(&run.info.run_id, None).await?;
        let mut view = RunView::of(&events);
        let open = runs.open_questions(&run).await?;
        open.iter().filter(|question| question.run_id == found).for_each(|question| view.waits(&question.step_name));
        if global.json {
            output::json(&document(&run, &output, &view, &open))?;
        } else {
            output::write(page(&run, &output, &view, &open, global))?;
        }
        Ok(Exit::Done)
    }
}

fn document(run: &RunSummary, output: &WorkflowRunOutput, view: &RunView, open: &[QuestionSummary]) -> Value {
    let mut document = run_json(run);
    let is_failed = run.status == RunStatus::Error;
    document["input"] = json!(output.input);
    document["steps"] = view.steps.iter().map(StepView::to_json).collect();
    document["questions"] = open.iter().map(question_json).collect();
    document["resumes"] = json!(view.resumes);
    document["tokens"] = json!(view.tokens());
    document["duration_ms"] = json!(view.seconds.map(crate::fold::millis));
    document["content"] = if is_failed { Value::Null } else { json!(output.content) };
    document["error"] = json!(failure(output, view));
    document["cancel_reason"] = json!(view.cancel_reason.as_deref().or(run.cancel_reason.as_deref()));
    document["events"] = json!(run.next_index);
    document
}

/// Why it failed, from the log, else from its row.
fn failure(output: &WorkflowRunOutput, view: &RunView) -> Option<String> {
    let stored = || Some(output.text()).filter(|text| !text.is_empty());
    if output.status == RunStatus::Error { view.error.clone().or_else(stored) } else { None }
}

fn page(
    run: &RunSummary,
    output: &WorkflowRunOutput,
    view: &RunView,
    open: &[QuestionSummary],
    global: &Global,
) -> String {
    let mut lines = vec![head(run, global)];
    let mut fact = |name: &str, text: String| lines.push(format!("{DIM}{name:<8}{DIM:#} {text}"));
    fact("Session", style::line(run.info.session_id.as_str(), 128));
    if let Some(user) = &run.info.user_id {
        fact("User", style::line(user, 128));
    }
    if let Some(earlier) = &run.rerun_of {
        fact("Rerun", format!("of {earlier}"));
    }
    if let Some(from) = &run.forked_from {
        fact("Fork", format!("of {} at event {}", from.run_id, from.at));
    }
    if let Some((batch, item)) = run.batch_id.as_ref().zip(run.batch_item) {
        fact("Batch", format!("{}, item {item}", style::line(batch, 128)));
    }
    if let Some(input) = &output.input {
        fact("Input", style::line(&content_text(Some(input)), 200));
    }
    if let Some(reason) = &run.cancel_reason {
        fact("Cancel", format!("asked for: {}", style::line(reason, 200)));
    }
    if let Some(waiting) = &run.waiting {
        fact("Waits", format!("for {}: {}", waited_for(waiting), waiting_line(waiting, times::now())));
    }
    if view.resumes > 0 {
        let times = style::counted(view.resumes as usize, "time");
        fact("Resumed", format!("{times} by another process"));
    }
    lines.push(String::new());
    for step in &view.steps {
        lines.push(step_line(mark(step.state), &step.name, &about(step)));
        lines.extend(step.error.as_deref().map(|error| format!("     {}", style::line(error, 400))));
        lines.extend(step.tool_failures.iter().map(tool_failure));
    }
    if view.steps.is_empty() {
        lines.push(format!(" {DIM}no step has started{DIM:#}"));
    }
    lines.push(String::new());
    lines.push(foot(run, output, view, open, global));
    lines.join("\n") + "\n"
}

fn head(run: &RunSummary, global: &Global) -> String {
    let (mark, word) = state(run);
    let name = style::line(&run.info.workflow_name, 80);
    let started = times::shown(run.created_at, global.time_format, times::now());
    let status = format!("{} {word}", mark.shown());
    format!("{DIM}{:<8}{DIM:#} {}   {status}   {BOLD}{name}{BOLD:#}   {started}", "Run", run.info.run_id)
}

fn mark(state: StepState) -> Mark {
    match state {
        StepState::Running => Mark::Active,
        StepState::Waiting => Mark::Paused,
        StepState::Completed => Mark::Done,
        StepState::Failed | StepState::Skipped => Mark::Failed,
        StepState::Cancelled | StepState::LeftOut => Mark::Cancelled,
    }
}

fn about(step: &StepView) -> String {
    let mut parts = Vec::new();
    parts.extend(step.seconds.map(times::span));
    parts.extend((step.attempts > 1).then(|| style::counted(step.attempts as usize, "attempt")));
    parts.extend((step.state == StepState::Skipped).then(|| "failed, the run continued".to_owned()));
    parts.extend((step.state == StepState::LeftOut).then(|| StepState::LeftOut.word().to_owned()));
    parts.extend(step.answer.as_deref().map(|answer| style::line(answer, 200)));
    parts.extend(Some(step_facts(step)).filter(|facts| !facts.is_empty()));
    parts.join("   ")
}

/// What a run is waiting for, in a word or two.
fn waited_for(waiting: &Waiting) -> String {
    match waiting.waits_for {
        WaitsFor::Session => "an earlier run".to_owned(),
        WaitsFor::Worker => "a process".to_owned(),
        WaitsFor::Suspects => "its turn".to_owned(),
        WaitsFor::Limit => "a place".to_owned(),
        WaitsFor::Person => "a person".to_owned(),
        WaitsFor::Cancel => "its end".to_owned(),
        WaitsFor::Time => "a time".to_owned(),
        WaitsFor::Model => "a model".to_owned(),
        WaitsFor::Tool => "a tool".to_owned(),
        WaitsFor::Step => "a step".to_owned(),
        WaitsFor::Room => "room".to_owned(),
        WaitsFor::Other => "something this version does not know".to_owned(),
    }
}

fn tool_failure(failure: &ToolFailure) -> String {
    let (who, tool) = (style::line(&failure.who, 60), style::line(&failure.tool, 60));
    format!("     {} {who}: {tool}: {}", Mark::Failed.shown(), style::line(&failure.error, 400))
}

fn foot(
    run: &RunSummary,
    output: &WorkflowRunOutput,
    view: &RunView,
    open: &[QuestionSummary],
    global: &Global,
) -> String {
    let id = style::short_id(run.info.run_id.as_str());
    let took = view.seconds.map(|seconds| format!(" in {}", times::span(seconds))).unwrap_or_default();
    match run.status {
        RunStatus::Pending | RunStatus::Running | RunStatus::Paused => {
            let lines = remedy_lines(run, open, global);
            if lines.is_empty() {
                format!("follow it: {}", global.command(format_args!("watch {id}")))
            } else {
                lines.join("\n")
            }
        }
        RunStatus::Completed => format!("completed{took}; the result: outlive output {id}"),
        RunStatus::Cancelled => {
            let reason = view.cancel_reason.as_deref().map(|reason| format!(": {}", style::line(reason, 200)));
            format!("cancelled{took}{}", reason.unwrap_or_default())
        }
        RunStatus::Error => {
            let why = failure(output, view).unwrap_or_else(|| "no reason is stored".to_owned());
            format!("failed{took}: {}", style::line(&why, 400))
        }
    }
}
