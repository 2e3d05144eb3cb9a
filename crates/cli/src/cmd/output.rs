//! `outlive output`: the result and nothing else.

use super::{remedy_lines, state, waiting_line};
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::runs::Runs;
use crate::{output, style, times};
use clap::Args;
use outlive::client::{QuestionSummary, RunSummary};
use outlive::core::RunStatus;
use outlive::{Markdown, WorkflowRunOutput, pprint_run_response};
use serde_json::json;
use std::io::IsTerminal;

/// Print a run's result: as it is, or on a terminal with its Markdown rendered
#[derive(Debug, Args)]
pub(crate) struct Output {
    #[arg(value_name = "RUN", default_value = "@last", help = RUN_HELP)]
    run: String,
}

impl Output {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let run = runs.find(&self.run).await?;
        let result = runs.output(&run.info.run_id).await?;
        if !result.status.is_terminal() {
            let standing = runs.standing(&run.info.run_id).await?;
            let open = runs.open_questions(&standing).await?;
            return Err(unfinished(&standing, &open, global));
        }
        if global.json {
            output::json(&json!({
                "id": result.run_id,
                "status": style::status_word(result.status),
                "content": result.content,
                "content_type": result.content_type,
                "created_at": times::rfc3339(run.created_at),
            }))?;
            return Ok(Exit::of(result.status));
        }
        match result.status {
            RunStatus::Error => Err(ended(&run, Exit::RunFailed, "run_failed", "failed", &result.text(), global)),
            RunStatus::Cancelled => {
                // Its content says only that it was cancelled.
                let why = run.cancel_reason.as_deref().unwrap_or_default();
                Err(ended(&run, Exit::RunCancelled, "run_cancelled", "was cancelled", why, global))
            }
            RunStatus::Completed | RunStatus::Pending | RunStatus::Running | RunStatus::Paused => print(&result),
        }
    }
}

/// Formatted on a terminal; the exact text anywhere else, for programs.
fn print(result: &WorkflowRunOutput) -> Result<Exit, Problem> {
    if std::io::stdout().is_terminal() {
        pprint_run_response(result, Markdown::Render);
    } else {
        use std::io::Write;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", result.text().trim_end())?;
        stdout.flush()?;
    }
    Ok(Exit::Done)
}

fn ended(run: &RunSummary, exit: Exit, code: &'static str, how: &str, why: &str, global: &Global) -> Problem {
    let (id, why) = (&run.info.run_id, style::line(why, 400));
    let message = format!("run {id} {how}{}{why}", if why.is_empty() { "" } else { ": " });
    Problem::new(exit, code, message).hint(format!("see where: {}", global.command(format_args!("show {id}"))))
}

fn unfinished(run: &RunSummary, open: &[QuestionSummary], global: &Global) -> Problem {
    let (id, (_, state)) = (&run.info.run_id, state(run));
    let why = run.waiting.as_ref().map(|waiting| format!(": {}", waiting_line(waiting, times::now())));
    let message = format!("run {id} is {state}{}", why.unwrap_or_default());
    let hint = match remedy_lines(run, open, global) {
        lines if lines.is_empty() => format!("follow it with: {}", global.command(format_args!("watch {id}"))),
        lines => lines.join("\n"),
    };
    Problem::new(Exit::WrongState, "run_unfinished", message).hint(hint)
}
