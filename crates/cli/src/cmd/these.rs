//! The runs that a command is about: one that is named, or all that match a filter. Doing something to many is told here.

use super::ls::{self, Wanted};
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::output;
use crate::runs::{Accepted, Runs};
use crate::times;
use clap::Args;
use outlive::core::{RunId, RunStatus};
use serde_json::json;

/// All that match, instead of one that is named.
#[derive(Debug, Args)]
pub(super) struct Where {
    /// All runs that match, instead of RUN: status:…, workflow:…, session:…, user:…, since:…, as for outlive ls
    #[arg(id = "filters", long = "where", value_name = "FILTER", num_args = 1..)]
    filters: Vec<String>,
}

/// How many runs one command takes.
const RUNS_MAX: usize = 10_000;

impl Where {
    pub(super) fn is_given(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Checks the filters before anything is opened.
    pub(super) fn wanted(&self) -> Result<Wanted, Problem> {
        Wanted::parse(&self.filters)
    }

    /// The runs that match and are in one of these states, oldest first.
    pub(super) async fn find(
        runs: &Runs,
        wanted: Wanted,
        is_fit: impl Fn(RunStatus) -> bool,
        global: &Global,
    ) -> Result<Vec<RunId>, Problem> {
        let (mut found, has_more) = ls::read(RUNS_MAX, global, runs, wanted, times::now()).await?;
        if has_more {
            let message = format!("more than {RUNS_MAX} runs match");
            return Err(Problem::new(Exit::Usage, "too_many_runs", message).hint("narrow the filter, such as since:1d"));
        }
        found.retain(|run| is_fit(run.status));
        if found.is_empty() {
            output::note(global, format_args!("no such runs in {}", runs.place()));
        }
        Ok(found.into_iter().rev().map(|run| run.info.run_id).collect())
    }

    /// Starts a new run for each of these, and tells their ids. One that is refused stops no other.
    pub(super) async fn start(
        ids: &[RunId],
        start: impl AsyncFn(&RunId) -> Result<Accepted, Problem>,
        global: &Global,
    ) -> Result<Exit, Problem> {
        let (mut shown, mut refused) = (Vec::new(), None);
        for id in ids {
            match start(id).await {
                Ok(accepted) => {
                    if !global.json && !accepted.is_repeated {
                        output::line(&accepted.run_id)?;
                    }
                    shown.push(json!({ "id": accepted.run_id, "of": id, "repeated": accepted.is_repeated }));
                }
                Err(problem) => {
                    output::note(global, format_args!("{id}: {}", problem.message()));
                    refused.get_or_insert(problem);
                }
            }
        }
        if global.json {
            output::json(&json!({ "runs": shown }))?;
        }
        refused.map_or(Ok(Exit::Done), Err)
    }
}
