//! `outlive events`: a run's log as it was written, stored events first, then live ones.

use super::questions::answer_words;
use super::{state, waiting_line};
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::runs::Runs;
use crate::style::{self, DIM};
use crate::times::TimeFormat;
use crate::{output, times};
use clap::Args;
use outlive::core::{Answer as Given, EventKind, Origin, RunEvent, RunId, Timestamp, content_text};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Print a run's events, one per line
///
/// Streamed text is one line per answer, unless --all is given. With --json each line is the event as every subscriber
/// sees it. With -f the command ends with the run.
#[derive(Debug, Args)]
pub(crate) struct Events {
    #[arg(value_name = "RUN", default_value = "@last", help = RUN_HELP)]
    run: String,
    /// Follow new events until the run ends
    #[arg(short, long)]
    follow: bool,
    /// Each piece of streamed text on its own line
    #[arg(short, long)]
    all: bool,
    /// Only events after this index
    #[arg(long, value_name = "N")]
    after: Option<u64>,
}

impl Events {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let run_id = runs.find(&self.run).await?.info.run_id;
        if self.follow {
            let exit = self.follow(&runs, &run_id, global).await;
            runs.close().await?;
            return exit;
        }
        let mut lines = self.lines(global);
        for event in runs.events(&run_id, self.after).await? {
            lines.print(&event)?;
        }
        lines.end()?;
        Ok(Exit::Done)
    }

    async fn follow(&self, runs: &Runs, run_id: &RunId, global: &Global) -> Result<Exit, Problem> {
        let again = global.command(format_args!("events {run_id} -f"));
        let told = async {
            let mut lines = self.lines(global);
            let mut events = runs.follow(run_id, self.after).await?;
            while let Some(event) = events.next().await? {
                lines.print(&event)?;
            }
            lines.end()?;
            Ok(Exit::Done)
        };
        tokio::select! {
            exit = told => exit,
            () = crate::stop::stopped() => {
                let how = left_behind(runs, run_id).await;
                output::note(global, format_args!("Detached; {how}: {again}"));
                Ok(Exit::Interrupted)
            }
            () = passed(global.timeout) => Err(unfinished(runs, run_id).await),
        }
    }
}

impl Events {
    fn lines<'a>(&self, global: &'a Global) -> Lines<'a> {
        Lines { global, folds: !(self.all || global.json), open: Vec::new() }
    }
}

/// Prints events; the pieces of one answer become one line once another event of the same run arrives.
struct Lines<'a> {
    global: &'a Global,
    folds: bool,
    open: Vec<Answer>,
}

/// Streamed text not yet printed as a line.
struct Answer {
    first: RunEvent,
    pieces: usize,
    chars: usize,
    begin: String,
}

/// How much of an answer a line shows.
const BEGIN_CHARS: usize = 80;

impl Lines<'_> {
    fn print(&mut self, event: &RunEvent) -> Result<(), Problem> {
        use EventKind::{RunContent, TeamRunContent};
        match &event.kind {
            RunContent(delta) | TeamRunContent(delta) if self.folds => {
                self.add(event, delta.content.as_deref().unwrap_or_default());
                Ok(())
            }
            _ => {
                self.end_answers(&event.origin)?;
                print(event, self.global)
            }
        }
    }

    fn add(&mut self, event: &RunEvent, text: &str) {
        let is_same = |answer: &Answer| {
            let (first, this) = (&answer.first.origin, &event.origin);
            first.run_id == this.run_id && first.step_id == this.step_id
        };
        let place = self.open.iter().position(is_same).unwrap_or_else(|| {
            self.open.push(Answer { first: event.clone(), pieces: 0, chars: 0, begin: String::new() });
            self.open.len() - 1
        });
        let answer = &mut self.open[place];
        answer.pieces += 1;
        answer.chars += text.chars().count();
        let missing = BEGIN_CHARS.saturating_sub(answer.begin.chars().count());
        answer.begin.extend(text.chars().take(missing));
    }

    /// From this agent or team; from all when the workflow itself emits text.
    fn end_answers(&mut self, origin: &Origin) -> Result<(), Problem> {
        let is_workflows = origin.agent_id.is_none() && origin.team_id.is_none();
        let is_over = |answer: &mut Answer| is_workflows || answer.first.origin.run_id == origin.run_id;
        let over: Vec<_> = self.open.extract_if(.., is_over).collect();
        over.iter().try_for_each(|answer| self.print_answer(answer))
    }

    fn print_answer(&self, answer: &Answer) -> Result<(), Problem> {
        let more = if answer.chars > BEGIN_CHARS { style::ellipsis() } else { "" };
        let pieces = style::counted(answer.pieces, "piece");
        let about = format!("{pieces}, {} characters: {}{more}", answer.chars, style::line(&answer.begin, BEGIN_CHARS));
        print_line(&answer.first, &about, self.global)
    }

    /// Prints what is left.
    fn end(&mut self) -> Result<(), Problem> {
        let open = std::mem::take(&mut self.open);
        open.iter().try_for_each(|answer| self.print_answer(answer))
    }
}

/// `--timeout` has passed.
pub(super) async fn unfinished(runs: &Runs, run_id: &RunId) -> Problem {
    let message = format!("run {run_id} is not over yet; {}", left_behind(runs, run_id).await);
    Problem::new(Exit::TimedOut, "timeout", message).hint("--timeout sets how long to wait; the run is left alone")
}

/// The state of a run that is no longer being followed.
pub(super) async fn left_behind(runs: &Runs, run_id: &RunId) -> String {
    let standing = runs.standing(run_id).await;
    match standing.as_ref().map(|run| (state(run).1, &run.waiting)) {
        Ok((word, Some(waiting))) if !waiting.waits_for.is_work() => {
            format!("the run is {word} ({})", waiting_line(waiting, times::now()))
        }
        // Even if it cannot be read: the run does not depend on its readers.
        Ok(_) | Err(_) => "the run goes on".to_owned(),
    }
}

/// Ready after this time; never without one.
pub(crate) async fn passed(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// One line about an event, or its JSON.
pub(super) fn print(event: &RunEvent, global: &Global) -> Result<(), Problem> {
    if global.json {
        let at = Timestamp::from_seconds(event.created_at);
        let mut document = serde_json::to_value(event).map_err(std::io::Error::other)?;
        document["created_at"] = json!(times::rfc3339(at));
        output::json(&document)?;
        return Ok(());
    }
    print_line(event, &about(event), global)
}

/// An event's line, with this text.
fn print_line(event: &RunEvent, about: &str, global: &Global) -> Result<(), Problem> {
    let at = Timestamp::from_seconds(event.created_at);
    let index = event.event_index.unwrap_or_default();
    // Show an event's own time: "3 min ago" in every line would say less.
    let format = if global.time_format == TimeFormat::Relative { TimeFormat::Local } else { global.time_format };
    let time = times::shown(at, format, at);
    let who = event.origin.agent_name.as_deref().or(event.origin.team_name.as_deref());
    let who = who.or(event.origin.step_name.as_deref()).unwrap_or_default();
    let line = format!("{DIM}{index:>5}  {time}{DIM:#}  {:<26} {:<24} {}", event.name(), style::line(who, 24), about);
    output::line(line.trim_end())?;
    Ok(())
}

/// What an event says, on one line.
fn about(event: &RunEvent) -> String {
    use EventKind::*;
    let text = |text: &str| style::line(text, 80);
    match &event.kind {
        WorkflowError { error, .. } | StepError { error } => text(error),
        WorkflowCancelled { reason, .. } => text(reason),
        WorkflowPaused { paused_step_name, .. } => text(paused_step_name),
        StepPaused { .. } | StepOutputReview { .. } | RouterPaused { .. } | StepExecutorPaused { .. } => {
            text(&asked(&event.kind).unwrap_or_default())
        }
        StepExecutorContinued { executor_name, .. } => text(executor_name),
        RunPaused(waits) | TeamRunPaused(waits) => text(&waits.content),
        StepProgress { content, .. } => text(content),
        CustomEvent { fields } if answered(fields).is_some() => text(&answered(fields).unwrap_or_default()),
        CustomEvent { fields } => text(fields.get("name").and_then(Value::as_str).unwrap_or_default()),
        RunContent(delta) | TeamRunContent(delta) => text(delta.content.as_deref().unwrap_or_default()),
        RunError(failed) | TeamRunError(failed) => text(&failed.content),
        RunStarted(model) | TeamRunStarted(model) | ModelRequestStarted(model) | TeamModelRequestStarted(model) => {
            text(&model.model)
        }
        ModelRequestCompleted(done) | TeamModelRequestCompleted(done) => {
            let cut = done.finish_reason.map(|reason| format!(", {}", reason.as_words())).unwrap_or_default();
            format!("{} tokens{cut}", style::short_count(done.total_tokens))
        }
        ToolCallStarted(call) | ToolCallCompleted(call) | TeamToolCallStarted(call) | TeamToolCallCompleted(call) => {
            text(&format!("{} {}", call.tool.tool_name, call.tool.tool_args))
        }
        PreHookStarted(hook) | PreHookCompleted(hook) | TeamPreHookStarted(hook) | TeamPreHookCompleted(hook) => {
            text(&hook.pre_hook_name)
        }
        PostHookStarted(hook) | PostHookCompleted(hook) | TeamPostHookStarted(hook) | TeamPostHookCompleted(hook) => {
            text(&hook.post_hook_name)
        }
        ToolCallError(call) | TeamToolCallError(call) => text(&format!("{}: {}", call.tool.tool_name, call.error)),
        StepsExecutionStarted { steps_count } => format!("{steps_count} steps"),
        ParallelExecutionStarted { parallel_step_count } => format!("{parallel_step_count} branches"),
        ConditionExecutionStarted { condition_result } => {
            if *condition_result { "it holds" } else { "it does not hold" }.to_owned()
        }
        LoopExecutionStarted { max_iterations } => format!("at most {max_iterations} iterations"),
        LoopIterationStarted { iteration, max_iterations }
        | LoopIterationCompleted { iteration, max_iterations, .. } => {
            format!("{iteration} of at most {max_iterations}")
        }
        LoopExecutionCompleted { total_iterations, .. } => format!("{total_iterations} iterations"),
        RouterExecutionStarted { selected_steps } => text(&selected_steps.join(", ")),
        WorkflowAgentCompleted { content } => text(&content_text(Some(content))),
        WorkflowStarted
        | WorkflowCompleted(_)
        | WorkflowAgentStarted
        | StepsExecutionCompleted { .. }
        | ParallelExecutionCompleted { .. }
        | ConditionExecutionCompleted { .. }
        | RouterExecutionCompleted { .. }
        | StepStarted
        | StepContinued
        | RunContinued
        | TeamRunContinued
        | StepOutput { .. }
        | StepCompleted { .. }
        | RunContentCompleted
        | RunCompleted(_)
        | TeamRunContentCompleted
        | TeamRunCompleted(_) => String::new(),
    }
}

/// What an event asks people, in words; nothing if it asks nothing.
pub(crate) fn asked(kind: &EventKind) -> Option<String> {
    use EventKind::*;
    let said = |message: &Option<std::sync::Arc<str>>, usual: &str| message.as_deref().unwrap_or(usual).to_owned();
    match kind {
        StepPaused { requires_user_input: true, user_input_message, .. } => {
            Some(said(user_input_message, "it waits for input"))
        }
        StepPaused { confirmation_message, .. } => Some(said(confirmation_message, "it waits for a confirmation")),
        StepOutputReview { output_review_message, .. } => Some(said(output_review_message, "is its output good?")),
        RouterPaused { available_choices, user_input_message, .. } => {
            let message = said(user_input_message, "which way?");
            Some(format!("{message} ({})", available_choices.join(", ")))
        }
        StepExecutorPaused { executor_requirements, .. } => {
            let first = executor_requirements.first();
            let reason = first.and_then(|first| first["reason"].as_str()).map(str::to_owned);
            let tool = || Some(format!("the call of {}", first?["tool_execution"]["tool_name"].as_str()?));
            Some(reason.or_else(tool).unwrap_or_else(|| "it waits for an answer".to_owned()))
        }
        _ => None,
    }
}

/// What somebody answered, in words: `approve by ada`. Nothing if the fields are another event's.
pub(crate) fn answered(fields: &Map<String, Value>) -> Option<String> {
    if fields.get("name")? != "QuestionAnswered" {
        return None;
    }
    let by = fields.get("by").and_then(Value::as_str);
    let answer = fields.get("answer")?;
    Some(match Given::deserialize(answer) {
        Ok(answer) => answer_words(&answer, by),
        // A newer version's.
        Err(_) => {
            let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
            style::line(&format!("{}{by}", answer["do"].as_str().unwrap_or_default()), 80)
        }
    })
}
