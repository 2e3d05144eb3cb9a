//! What earlier runs of a session were asked and came to, as a run reads it.
//!
//! A run's history is fixed by what never changes: the order in which runs were accepted, and what runs that have ended came
//! to. Only earlier runs that are still going on could make a difference between one reading and the next; they are
//! recorded with the run that asks, and are no history of it.

use crate::definitions::Definitions;
use outlive_core::port::{Access, Db, DbError, Run, RunFilter, run_output};
use outlive_core::{HistoryRun, RunId, RunInfo, RunStatus};

/// Runs that are read at once.
const PAGE: u32 = 50;
/// And at most: they are held in memory together.
const RUNS_MAX: u32 = 1_000;

/// The newest `limit` runs before this one, oldest first; `beside` are no history of it. What they were asked is told as
/// the guardrails of their workflow mask it, where this engine knows that.
pub(crate) async fn read_history(
    db: &dyn Db,
    definitions: &Definitions,
    info: &RunInfo,
    limit: u32,
    beside: &[RunId],
) -> Result<Vec<HistoryRun>, DbError> {
    let limit = limit.min(RUNS_MAX);
    if limit == 0 {
        return Ok(Vec::new());
    }
    let filter = RunFilter {
        statuses: vec![RunStatus::Completed, RunStatus::Cancelled],
        with_payload: true,
        limit: limit.min(PAGE),
        ..before(info)
    };
    let mut history = Vec::new();
    let mut pages = Pages { filter, is_last: false };
    while history.len() < limit as usize
        && let Some(runs) = pages.next(db).await?
    {
        for run in runs.iter().filter(|run| !beside.contains(&run.info.run_id)) {
            if history.len() == limit as usize {
                break;
            }
            let output = run_output(db, &Access::All, run).await.map_err(DbError::from)?;
            let definition = definitions.of_run(&run.info.workflow_id, &run.definition);
            history.extend(HistoryRun::of(output).map(|told| match &definition {
                Some(definition) => HistoryRun { input: told.input.map(|input| definition.masked(input)), ..told },
                None => told,
            }));
        }
    }
    history.reverse();
    Ok(history)
}

/// The runs of the session that were accepted before this one and have not ended.
pub(crate) async fn unfinished_before(db: &dyn Db, info: &RunInfo) -> Result<Box<[RunId]>, DbError> {
    let statuses = RunStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect();
    let mut pages = Pages { filter: RunFilter { statuses, limit: PAGE, ..before(info) }, is_last: false };
    let mut unfinished = Vec::new();
    while let Some(runs) = pages.next(db).await? {
        unfinished.extend(runs.into_iter().map(|run| run.info.run_id));
    }
    Ok(unfinished.into())
}

fn before(info: &RunInfo) -> RunFilter {
    RunFilter { session_id: Some(info.session_id.clone()), before: Some(info.run_id.clone()), ..RunFilter::default() }
}

/// A list, page by page.
struct Pages {
    filter: RunFilter,
    is_last: bool,
}

impl Pages {
    async fn next(&mut self, db: &dyn Db) -> Result<Option<Vec<Run>>, DbError> {
        if self.is_last {
            return Ok(None);
        }
        let page = db.runs(Access::All, self.filter.clone()).await?;
        if let Some(error) = page.unreadable.into_iter().next() {
            return Err(error);
        }
        self.is_last = page.next.is_none();
        self.filter.after = page.next;
        Ok(Some(page.runs))
    }
}
