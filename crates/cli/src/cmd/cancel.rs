//! `outlive cancel`: makes the request to end runs durable, and waits a moment for the runs to end.

use super::ls::Wanted;
use super::these::{Started, Where};
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::output;
use crate::runs::{Role, Runs};
use crate::style::{self, Mark};
use clap::Args;
use outlive::client::BulkLine;
use outlive::core::{RunId, RunStatus};
use outlive::engine::BulkVerb;
use serde_json::json;
use std::time::{Duration, Instant};

/// Cancel runs: what they have done is kept, what is in flight is dropped
///
/// The request is on disk when this returns, and the process that executes the run will see it. A run that nobody
/// executes is ended at once.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[arg(value_name = "RUN", required_unless_present = "filters", conflicts_with = "filters", help = RUN_HELP)]
    runs: Vec<String>,
    #[command(flatten)]
    all: Where,
    /// Say which runs these are, and cancel none
    #[arg(long)]
    dry_run: bool,
    /// Why, for people who read the log
    #[arg(long, value_name = "TEXT", default_value = "cancelled from the command line")]
    reason: String,
}

/// How long to wait for the end by default.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cancel {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let wanted = self.all.wanted()?;
        let runs = Runs::open_as(Role::Steers, global).await?;
        let done = async {
            if self.all.is_given() && self.dry_run {
                return Where::start(&runs, wanted, BulkVerb::Cancel, true, global).await;
            }
            let ids = if self.all.is_given() {
                self.all(&runs, wanted, global).await?
            } else {
                let named = self.named(&runs).await?;
                if self.dry_run {
                    let lines = named.into_iter().map(|(id, status)| BulkLine::matching(id, status)).collect();
                    let mut shown = Started::default();
                    shown.tell(lines, &[], global)?;
                    return shown.end(global);
                }
                let ids: Vec<RunId> = named.into_iter().map(|(id, _)| id).collect();
                self.cancel(&runs, &ids).await?;
                ids
            };
            self.settle(&runs, &ids, global).await
        };
        let done = done.await;
        runs.close().await?;
        done
    }

    /// Looks up all names before anything is done.
    async fn named(&self, runs: &Runs) -> Result<Vec<(RunId, RunStatus)>, Problem> {
        let mut ids = Vec::new();
        for name in &self.runs {
            let run = runs.find(name).await?;
            if run.status.is_terminal() {
                return Err(over(&run.info.run_id, run.status));
            }
            ids.push((run.info.run_id, run.status));
        }
        Ok(ids)
    }

    /// Cancels all that match. Some may have ended meanwhile, and may be gone.
    async fn all(&self, runs: &Runs, wanted: Wanted, global: &Global) -> Result<Vec<RunId>, Problem> {
        let mut ids = Vec::new();
        let tell = |lines: Vec<BulkLine>, unreadable: &[String]| {
            unreadable.iter().for_each(|problem| output::note(global, problem));
            for line in lines {
                match line.detail {
                    Some(detail) => output::note(global, format_args!("{}: {detail}", line.run_id)),
                    None => ids.push(line.run_id),
                }
            }
            Ok(())
        };
        Where::act(runs, wanted, BulkVerb::Cancel, Some(&self.reason), false, global, tell).await?;
        Ok(ids)
    }

    async fn cancel(&self, runs: &Runs, ids: &[RunId]) -> Result<(), Problem> {
        for id in ids {
            if let Some(status) = runs.cancel(id, &self.reason).await? {
                return Err(over(id, status));
            }
        }
        Ok(())
    }

    /// Waits a moment for the runs to end, and tells of each.
    async fn settle(&self, runs: &Runs, ids: &[RunId], global: &Global) -> Result<Exit, Problem> {
        let mut exit = Exit::Done;
        let mut shown = Vec::new();
        let until = Instant::now() + global.timeout.unwrap_or(PATIENCE);
        for id in ids {
            let status = runs.settled(id, until.saturating_duration_since(Instant::now())).await?;
            if !status.is_terminal() && global.timeout.is_some() {
                exit = Exit::TimedOut;
            }
            shown.push(json!({ "id": id, "status": style::status_word(status), "cancel_requested": true }));
            if !global.json {
                let word = match status {
                    RunStatus::Cancelled => "cancelled",
                    status if status.is_terminal() => "was over before it could be cancelled",
                    _ => "will be cancelled by the process that executes it",
                };
                output::line(format_args!("{} {id} {word}", Mark::of(status).shown()))?;
            }
        }
        if global.json {
            output::json(&json!({ "runs": shown }))?;
        }
        Ok(exit)
    }
}

fn over(id: &RunId, status: RunStatus) -> Problem {
    let status = style::status_word(status);
    Problem::new(Exit::WrongState, "run_over", format!("run {id} is over already: {status}"))
}
