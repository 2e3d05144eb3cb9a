//! `outlive watch`: a run as it happens, to its end. Verbs that start a run end with this too.

use super::events::{self, passed};
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::output;
use crate::progress::Progress;
use crate::runs::Runs;
use clap::Args;
use outlive::core::{EventKind, RunEvent, RunId, RunStatus};
use std::time::Instant;

/// Show a run as it happens: what it has done, then what it does, until it ends
///
/// The exit code tells how it ended. Ctrl-C leaves the run alone.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[arg(value_name = "RUN", default_value = "@last", help = RUN_HELP)]
    run: String,
}

impl Watch {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let run_id = runs.find(&self.run).await?.info.run_id;
        let done = watch(&runs, &run_id, global).await;
        runs.close().await?;
        done
    }
}

/// Shows a run to its end, and tells by the exit code how it ended.
///
/// # Errors
/// When it cannot be read, or `--timeout` passes.
pub(super) async fn watch(runs: &Runs, run_id: &RunId, global: &Global) -> Result<Exit, Problem> {
    let goes_on = if runs.is_executing() {
        format!(
            "Stopped; the run goes on in the next process that executes: outlive worker; then: outlive watch {run_id}"
        )
    } else {
        format!("Detached; the run goes on: outlive watch {run_id}")
    };
    tokio::select! {
        exit = show(runs, run_id, global) => exit,
        Ok(()) = tokio::signal::ctrl_c() => {
            output::note(global, format_args!("\n{goes_on}"));
            Ok(Exit::Interrupted)
        }
        () = passed(global.timeout) => Err(events::unfinished(run_id)),
    }
}

async fn show(runs: &Runs, run_id: &RunId, global: &Global) -> Result<Exit, Problem> {
    let started = Instant::now();
    let mut progress = Progress::new(0, global.quiet || global.json);
    let mut following = runs.follow(run_id, None).await?;
    while let Some(event) = following.next().await? {
        if global.json {
            events::print(&event, global)?;
        }
        progress.apply(&event)?;
        // An earlier pause that somebody has ended is one event among others.
        if is_pause(&event) && runs.status(run_id).await? == RunStatus::Paused {
            output::note(global, format_args!("run {run_id} waits for a person"));
            return Ok(Exit::RunPaused);
        }
    }
    let output = runs.output(run_id).await?;
    let seconds = progress.seconds().unwrap_or_else(|| started.elapsed().as_secs_f64());
    if let Some(line) = super::last_line(&output, seconds).filter(|_| !global.json) {
        output::line(line)?;
    }
    Ok(Exit::of(output.status))
}

fn is_pause(event: &RunEvent) -> bool {
    matches!(event.kind, EventKind::WorkflowPaused { .. })
}
