//! The same done to all runs that match a filter: cancel, start again, try again.
//!
//! A page at a time, from the newest run to the oldest, so what is started on the way is never come across. It adds no
//! rules: each run is cancelled, started or tried again as if it had been named. The invariant: one that is refused stops
//! no other.

use crate::engine::Engine;
use crate::error::Error;
use crate::fork::Fork;
use crate::submit::Submit;
use futures::StreamExt;
use outlive_core::port::{DbError, Order, Run, RunFilter};
use outlive_core::{DefinitionId, RunId, RunStatus};
use std::sync::Arc;

/// Runs of which something is done at once, where their order does not matter.
pub(crate) const SIDE_BY_SIDE: usize = 16;

/// What is done to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkVerb {
    /// It is cancelled, if it has not ended.
    Cancel,
    /// A run with its input is started in its session.
    Rerun,
    /// A run is started that goes on where it failed or was cancelled. Each run is tried again once, however often this
    /// is repeated.
    Retry,
}

impl BulkVerb {
    /// Every verb.
    pub const ALL: [BulkVerb; 3] = [Self::Cancel, Self::Rerun, Self::Retry];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Rerun => "rerun",
            Self::Retry => "retry",
        }
    }

    /// To how many runs it is done at once. What is started is accepted in the order of what it was made from: runs of one
    /// session execute in that order.
    pub fn side_by_side(self) -> usize {
        match self {
            Self::Cancel => SIDE_BY_SIDE,
            Self::Rerun | Self::Retry => 1,
        }
    }

    /// Whether it can be done to a run in this state.
    pub fn fits(self, status: RunStatus) -> bool {
        match self {
            Self::Cancel => !status.is_terminal(),
            Self::Rerun => true,
            Self::Retry => matches!(status, RunStatus::Error | RunStatus::Cancelled),
        }
    }
}

/// What to do to which runs.
#[derive(Clone, Debug)]
pub struct Bulk {
    /// What.
    pub verb: BulkVerb,
    /// To which. Of its statuses those count to whose runs that can be done; its order is not looked at.
    pub filter: RunFilter,
    /// Of RUNNING runs only those that nobody executes, or only those that somebody does; none for both.
    pub interrupted: Option<bool>,
    /// Why, where runs are cancelled.
    pub reason: Arc<str>,
    /// Where runs are started again: the same key starts each once.
    pub idempotency_key: Option<String>,
}

impl Bulk {
    /// This, to the newest 50 runs of all.
    pub fn new(verb: BulkVerb) -> Self {
        let (filter, reason) = (RunFilter::default(), Arc::from("cancelled with others"));
        Self { verb, filter, interrupted: None, reason, idempotency_key: None }
    }
}

/// The runs of a page that match, oldest first.
#[derive(Clone, Debug, Default)]
pub struct BulkMatches {
    /// The runs.
    pub runs: Vec<Run>,
    /// Where to continue, when there is more.
    pub next: Option<String>,
    /// Runs left out because their rows cannot be read: each error names its run.
    pub unreadable: Vec<DbError>,
}

/// What came of it for one run.
#[derive(Clone, Debug)]
pub struct BulkRun {
    /// Which.
    pub run_id: RunId,
    /// Its workflow.
    pub workflow_id: DefinitionId,
    /// What came of it.
    pub outcome: Result<BulkOutcome, Error>,
}

/// What was done to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BulkOutcome {
    /// The request to end it is on stable storage.
    Requested,
    /// It had ended before, with this status.
    Over(RunStatus),
    /// This run was started.
    Started {
        /// Its id.
        run_id: RunId,
        /// Whether it had been before.
        is_repeated: bool,
    },
}

/// What came of a page.
#[derive(Clone, Debug, Default)]
pub struct BulkPage {
    /// Each run that matched, oldest first.
    pub runs: Vec<BulkRun>,
    /// Where to continue, when there is more.
    pub next: Option<String>,
    /// Runs left out because their rows cannot be read: each error names its run.
    pub unreadable: Vec<DbError>,
}

impl Engine {
    /// The runs of a page to which that would be done. Changes nothing.
    ///
    /// # Errors
    /// The store's; `Storage` when the cursor did not come from here.
    pub async fn bulk_matches(&self, bulk: &Bulk) -> Result<BulkMatches, Error> {
        let asked = &bulk.filter.statuses;
        let is_asked = |status: &RunStatus| asked.is_empty() || asked.contains(status);
        let statuses: Vec<RunStatus> =
            RunStatus::ALL.into_iter().filter(|status| bulk.verb.fits(*status) && is_asked(status)).collect();
        if statuses.is_empty() {
            return Ok(BulkMatches::default());
        }
        let filter = RunFilter {
            statuses,
            order: Order::NewestFirst,
            with_payload: false,
            with_counts: false,
            ..bulk.filter.clone()
        };
        let mut page = self.reader().runs(filter).await?;
        if let Some(wanted) = bulk.interrupted {
            let waitings = self.reader().waitings(&page.runs).await?;
            let is_interrupted = |at: usize| waitings[at].as_ref().is_some_and(|waiting| waiting.is_interrupted);
            let runs = page.runs.into_iter().enumerate();
            let fits = |(at, run): &(usize, Run)| run.status != RunStatus::Running || is_interrupted(*at) == wanted;
            page.runs = runs.filter(fits).map(|(_, run)| run).collect();
        }
        page.runs.reverse();
        Ok(BulkMatches { runs: page.runs, next: page.next, unreadable: page.unreadable })
    }

    /// Does it to one run.
    pub async fn bulk_one(&self, bulk: &Bulk, run: Run) -> BulkRun {
        let outcome = self.do_to(bulk, &run.info.run_id).await;
        BulkRun { run_id: run.info.run_id, workflow_id: run.info.workflow_id, outcome }
    }

    /// Does it to a page of runs: as many as the filter's limit, from its cursor on.
    ///
    /// # Errors
    /// As [`Engine::bulk_matches`]. What is refused for one run is in its outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it may have been done to some of them. Repeating it is harmless; where runs are started
    /// again, with the same key.
    pub async fn bulk(&self, bulk: &Bulk) -> Result<BulkPage, Error> {
        let BulkMatches { runs, next, unreadable } = self.bulk_matches(bulk).await?;
        let doing = futures::stream::iter(runs.into_iter().map(|run| self.bulk_one(bulk, run)));
        Ok(BulkPage { runs: doing.buffered(bulk.verb.side_by_side()).collect().await, next, unreadable })
    }

    async fn do_to(&self, bulk: &Bulk, run_id: &RunId) -> Result<BulkOutcome, Error> {
        let handle = match bulk.verb {
            BulkVerb::Cancel => {
                let over = self.cancel(run_id, &bulk.reason).await?;
                return Ok(over.map_or(BulkOutcome::Requested, BulkOutcome::Over));
            }
            BulkVerb::Rerun => {
                let run = self.reader().record(run_id).await?.ok_or_else(|| Error::RunNotFound(run_id.clone()))?;
                let key = bulk.idempotency_key.as_ref().map(|key| format!("{key} {run_id}"));
                let submit = Submit { idempotency_key: key, ..Submit::again(&run)? };
                self.submit(&run.info.workflow_id, submit).await?
            }
            BulkVerb::Retry => {
                let idempotency_key = Some(format!("retry of {run_id}"));
                self.fork(run_id, Fork { idempotency_key, ..Fork::retry() }).await?
            }
        };
        Ok(BulkOutcome::Started { run_id: handle.run_id().clone(), is_repeated: handle.is_repeated() })
    }
}
