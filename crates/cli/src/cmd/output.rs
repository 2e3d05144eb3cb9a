//! `outlive output`: the result and nothing else.

use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::runs::Runs;
use crate::{output, style, times};
use clap::Args;
use outlive::core::RunStatus;
use outlive::{Markdown, WorkflowRunOutput, pprint_run_response};
use serde_json::json;
use std::io::IsTerminal;

/// Print a run's result: as it is, or on a terminal with its Markdown rendered
#[derive(Debug, Args)]
pub(crate) struct Output {
    #[arg(value_name = "RUN", help = RUN_HELP)]
    run: String,
}

impl Output {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let run = runs.find(&self.run).await?;
        let result = runs.output(&run.info.run_id).await?;
        if !result.status.is_terminal() {
            let status = style::status_word(result.status);
            let problem =
                Problem::new(Exit::WrongState, "run_unfinished", format!("run {} is {status}", result.run_id));
            return Err(problem.hint(format!("follow it with: outlive events {} -f", result.run_id)));
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
            RunStatus::Error => Err(ended(&result, Exit::RunFailed, "run_failed", "failed")),
            RunStatus::Cancelled => Err(ended(&result, Exit::RunCancelled, "run_cancelled", "was cancelled")),
            RunStatus::Completed | RunStatus::Pending | RunStatus::Running | RunStatus::Paused => print(&result),
        }
    }
}

/// On a terminal for people; anywhere else the very text, for programs.
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

fn ended(result: &WorkflowRunOutput, exit: Exit, code: &'static str, how: &str) -> Problem {
    let why = style::line(&result.text(), 400);
    let message = format!("run {} {how}{}{why}", result.run_id, if why.is_empty() { "" } else { ": " });
    Problem::new(exit, code, message).hint(format!("see where: outlive show {}", result.run_id))
}
