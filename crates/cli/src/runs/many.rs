//! Many runs at once, wherever they are: batches, and what is done to all that match.

use super::{Here, Runs};
use crate::exit::Problem;
use crate::store;
use outlive::client::{BulkLine, BulkResult, ClientError, ItemList, ItemSummary};
use outlive::core::port::{AuditKind, BatchFilter, ItemFilter};
use outlive::core::{DefinitionId, RunStatus};
use outlive::engine::{Batch, BatchesPage, Bulk, BulkVerb, CreateBatch, Error};
use serde_json::Value;
use std::sync::Arc;

/// Items that are listed with what they came to in one page.
const RESULTS_PAGE: u32 = 50;
/// Items that are listed in one page.
const ITEMS_PAGE: u32 = 1000;
/// Items that are tried again in one page.
const RETRIES_PAGE: u32 = 100;

impl Runs {
    /// Does the same to a page of runs that match, or only tells which these are.
    pub(crate) async fn bulk(&self, bulk: &Bulk, is_dry_run: bool) -> Result<BulkResult, Problem> {
        match self {
            Self::Here(here) => {
                let engine = here.engine().await?;
                if is_dry_run {
                    let page = engine.bulk_matches(bulk).await?;
                    let line = |run: outlive::core::port::Run| BulkLine::matching(run.info.run_id, run.status);
                    let unreadable = page.unreadable.iter().map(ToString::to_string).collect();
                    return Ok(BulkResult {
                        runs: page.runs.into_iter().map(line).collect(),
                        next: page.next,
                        unreadable,
                    });
                }
                let page = engine.bulk(bulk).await?;
                here.told(bulk.verb, page).await
            }
            Self::There(client) => Ok(client.bulk(bulk, is_dry_run).await?),
        }
    }

    /// Creates a batch without items, or gives the one that is there.
    pub(crate) async fn create_batch(
        &self,
        workflow_id: &DefinitionId,
        create: &CreateBatch,
    ) -> Result<Batch, Problem> {
        match self {
            Self::Here(here) => {
                let batch = here.engine().await?.create_batch(workflow_id, create.clone()).await?;
                here.note_batch("created", "outlive batch", &batch).await?;
                Ok((*batch).clone())
            }
            Self::There(client) => Ok(client.create_batch(workflow_id, create, &[], false).await?),
        }
    }

    /// Adds inputs to a batch; `is_complete` says that the last of them is the last of the batch.
    pub(crate) async fn add_items(
        &self,
        batch: &Batch,
        from: u64,
        inputs: &[Value],
        is_complete: bool,
    ) -> Result<Batch, Problem> {
        match self {
            Self::Here(here) => {
                let handle = here.engine().await?.attach_batch(batch.clone());
                let end = handle.add(from, inputs.to_vec()).await?;
                Ok(if is_complete { handle.complete(end).await? } else { handle.progress().await? })
            }
            Self::There(client) => Ok(client.add_items(&batch.id, from, inputs, is_complete).await?),
        }
    }

    /// A page of batches, newest first.
    pub(crate) async fn batches(&self, filter: BatchFilter) -> Result<BatchesPage, Problem> {
        match self {
            Self::Here(here) => Ok(here.reader().batches(filter).await?),
            Self::There(client) => Ok(client.batches(&filter).await?),
        }
    }

    /// The batch that `text` names: its id, or `@last`.
    pub(crate) async fn batch(&self, text: &str) -> Result<Batch, Problem> {
        if text == "@last" {
            let newest = self.batches(BatchFilter { limit: 1, ..BatchFilter::default() }).await?.batches.pop();
            return newest.ok_or_else(|| Error::BatchNotFound(Arc::from(text)).into());
        }
        match self {
            Self::Here(here) => Ok(here.reader().batch(text).await?),
            Self::There(client) => client.batch(text).await.map_err(|error| batch_problem(text, error)),
        }
    }

    /// The batch, once it is at rest.
    pub(crate) async fn wait_batch(&self, id: &str) -> Result<Batch, Problem> {
        match self {
            Self::Here(here) => Ok(here.reader().wait_batch(id).await?),
            Self::There(client) => client.wait_batch(id).await.map_err(|error| batch_problem(id, error)),
        }
    }

    /// A page of a batch's items, of these statuses if any are given.
    pub(crate) async fn batch_items(
        &self,
        id: &str,
        statuses: &[RunStatus],
        with_content: bool,
        after: Option<&str>,
    ) -> Result<ItemList, Problem> {
        match self {
            Self::Here(here) => here.items(id, statuses, with_content, after).await,
            Self::There(client) => {
                let items = client.batch_items(id, statuses, with_content, after).await;
                items.map_err(|error| batch_problem(id, error))
            }
        }
    }

    /// Cancels a batch.
    pub(crate) async fn cancel_batch(&self, id: &str, reason: &str) -> Result<Batch, Problem> {
        match self {
            Self::Here(here) => {
                let batch = here.engine().await?.batch(id).await?;
                let cancelled = batch.cancel(reason).await?;
                here.note_batch("cancelled", "outlive batch cancel", &cancelled).await?;
                Ok(cancelled)
            }
            Self::There(client) => client.cancel_batch(id, reason).await.map_err(|error| batch_problem(id, error)),
        }
    }

    /// Tries a page of a batch's failed items again.
    pub(crate) async fn retry_batch(
        &self,
        id: &str,
        cancelled: bool,
        after: Option<&str>,
    ) -> Result<BulkResult, Problem> {
        match self {
            Self::Here(here) => {
                let batch = here.engine().await?.batch(id).await?;
                let more = cancelled.then_some(RunStatus::Cancelled);
                let statuses = [RunStatus::Error].into_iter().chain(more).collect();
                let filter = ItemFilter { statuses, from: from(after), limit: RETRIES_PAGE, with_payload: false };
                here.told(BulkVerb::Retry, batch.retry_items(filter).await?).await
            }
            Self::There(client) => {
                let retried = client.retry_batch(id, cancelled, after).await;
                retried.map_err(|error| batch_problem(id, error))
            }
        }
    }
}

/// The item that a cursor of ours stands for.
fn from(after: Option<&str>) -> u64 {
    after.and_then(|cursor| cursor.parse().ok()).unwrap_or_default()
}

impl Here {
    /// What was done, noted where a server would note it.
    async fn told(&self, verb: BulkVerb, page: outlive::engine::BulkPage) -> Result<BulkResult, Problem> {
        let (kind, outcome, action) = match verb {
            BulkVerb::Cancel => (AuditKind::RunCancel, "requested", "outlive cancel"),
            BulkVerb::Rerun => (AuditKind::RunRerun, "accepted", "outlive rerun"),
            BulkVerb::Retry => (AuditKind::RunFork, "accepted", "outlive retry"),
        };
        let unreadable = page.unreadable.iter().map(ToString::to_string).collect();
        let mut runs = Vec::with_capacity(page.runs.len());
        for run in page.runs {
            let line = BulkLine::from(run);
            if matches!(line.outcome.as_str(), "requested" | "started" | "repeated") {
                self.note(kind, outcome, action, &line.run_id).await?;
            }
            runs.push(line);
        }
        Ok(BulkResult { runs, next: page.next, unreadable })
    }

    async fn items(
        &self,
        id: &str,
        statuses: &[RunStatus],
        with_content: bool,
        after: Option<&str>,
    ) -> Result<ItemList, Problem> {
        let limit = if with_content { RESULTS_PAGE } else { ITEMS_PAGE };
        let filter = ItemFilter { statuses: statuses.to_vec(), from: from(after), limit, with_payload: with_content };
        let page = self.reader().batch_items(id, filter).await?;
        let mut items = Vec::with_capacity(page.items.len());
        for (index, run) in page.items {
            let (run_id, status) = (run.info.run_id.clone(), run.status);
            let (content, error) = match with_content {
                false => (None, None),
                true => match self.reader().batch_result(index, run).await?.output {
                    Ok(output) => (Some(serde_json::json!(output.content)), None),
                    Err(error) => (None, Some(error.to_string())),
                },
            };
            items.push(ItemSummary { index, run_id, status, content, error });
        }
        let next = page.next.map(|next| next.to_string());
        Ok(ItemList { items, next, unreadable: page.unreadable.iter().map(|(_, error)| error.to_string()).collect() })
    }

    async fn note_batch(&self, outcome: &str, action: &str, batch: &Batch) -> Result<(), Problem> {
        Ok(store::note(&*self.store.db, AuditKind::BatchChange, outcome, action, &batch.id).await?)
    }
}

/// The same as where there is no server.
fn batch_problem(id: &str, error: ClientError) -> Problem {
    match error {
        ClientError::NotFound(refusal) if refusal.code != "unknown_component" => {
            Error::BatchNotFound(Arc::from(id)).into()
        }
        error => error.into(),
    }
}
