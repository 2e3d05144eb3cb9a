//! Many runs at a server: batches, and what is done to all that match.

use super::connection::Answer;
use super::retry::Retry;
use super::shape::{self, instant, instant_if_any};
use super::{Client, ClientError, EARLY_PAUSE, WAIT_MAX, segment};
use outlive_core::port::BatchFilter;
use outlive_core::{DefinitionId, RunId, RunStatus, Timestamp};
use outlive_engine::{
    Batch, BatchCounts, BatchSpec, BatchesPage, Bulk, BulkOutcome, BulkRun, BulkVerb, CreateBatch, Error,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// What is done to many runs, a page of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct BulkResult {
    /// What came of it for each run that matched.
    pub runs: Vec<BulkLine>,
    /// Where to continue, when there is more.
    #[serde(rename = "next_cursor", default)]
    pub next: Option<String>,
    /// Runs left out because they are damaged: which, why, and what to do.
    #[serde(default)]
    pub unreadable: Vec<String>,
}

/// What came of it for one run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BulkLine {
    /// Which.
    pub run_id: RunId,
    /// `matches`, `requested`, `over`, `started`, `repeated` or `refused`.
    pub outcome: String,
    /// Its status, where it matches or is over.
    #[serde(default)]
    pub status: Option<RunStatus>,
    /// The run that was started.
    #[serde(default)]
    pub new_run_id: Option<RunId>,
    /// Why it was refused, for programs: `not_found`, `insufficient_scope` or another word.
    #[serde(default)]
    pub error_code: Option<String>,
    /// The same for people.
    #[serde(default)]
    pub detail: Option<String>,
}

impl BulkLine {
    /// A run to which nothing was done.
    pub fn matching(run_id: RunId, status: RunStatus) -> Self {
        Self { status: Some(status), ..Self::of(run_id, "matches") }
    }

    fn of(run_id: RunId, outcome: &str) -> Self {
        Self { run_id, outcome: outcome.to_owned(), status: None, new_run_id: None, error_code: None, detail: None }
    }
}

impl From<BulkRun> for BulkLine {
    fn from(run: BulkRun) -> Self {
        match run.outcome {
            Ok(BulkOutcome::Requested) => Self::of(run.run_id, "requested"),
            Ok(BulkOutcome::Over(status)) => Self { status: Some(status), ..Self::of(run.run_id, "over") },
            Ok(BulkOutcome::Started { run_id, is_repeated }) => {
                let outcome = if is_repeated { "repeated" } else { "started" };
                Self { new_run_id: Some(run_id), ..Self::of(run.run_id, outcome) }
            }
            Err(error) => {
                let code = match &error {
                    Error::UnknownWorkflow(_) | Error::RunNotFound(_) | Error::SessionNotFound(_) => "not_found",
                    _ => "conflict",
                };
                let (error_code, detail) = (Some(code.to_owned()), Some(error.to_string()));
                Self { error_code, detail, ..Self::of(run.run_id, "refused") }
            }
        }
    }
}

/// A page of a batch's items.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ItemList {
    /// The items, in order.
    pub items: Vec<ItemSummary>,
    /// Where to continue, when there is more.
    #[serde(rename = "next_cursor", default)]
    pub next: Option<String>,
    /// Items left out because their runs are damaged: which, why, and what to do.
    #[serde(default)]
    pub unreadable: Vec<String>,
}

/// An item of a batch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ItemSummary {
    /// The place of its input, from 0.
    pub index: u64,
    /// Its run: the last that was made of it.
    pub run_id: RunId,
    /// That run's status.
    pub status: RunStatus,
    /// What the run came to, where that was asked for.
    #[serde(default)]
    pub content: Option<Value>,
    /// Why its run cannot be read.
    #[serde(default)]
    pub error: Option<String>,
}

/// What a server says of a batch.
#[derive(Deserialize)]
struct BatchShape {
    batch_id: Arc<str>,
    workflow_id: DefinitionId,
    #[serde(default)]
    user_id: Option<Arc<str>>,
    #[serde(flatten)]
    spec: BatchSpec,
    #[serde(default)]
    items: Option<u64>,
    accepted: u64,
    counts: CountsShape,
    #[serde(default, deserialize_with = "instant_if_any")]
    cancelled_at: Option<Timestamp>,
    #[serde(deserialize_with = "instant")]
    created_at: Timestamp,
    #[serde(deserialize_with = "instant")]
    updated_at: Timestamp,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CountsShape {
    queued: u64,
    running: u64,
    paused: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
    deleted: u64,
}

impl From<BatchShape> for Batch {
    fn from(shape: BatchShape) -> Self {
        let CountsShape { queued, running, paused, completed, failed, cancelled, deleted } = shape.counts;
        Self {
            id: shape.batch_id,
            workflow_id: shape.workflow_id,
            user_id: shape.user_id,
            spec: shape.spec,
            items: shape.items,
            accepted: shape.accepted,
            counts: BatchCounts { queued, running, paused, completed, failed, cancelled, deleted },
            cancelled_at: shape.cancelled_at,
            created_at: shape.created_at,
            updated_at: shape.updated_at,
        }
    }
}

#[derive(Deserialize)]
struct BatchListShape {
    batches: Vec<BatchShape>,
    #[serde(default)]
    next_cursor: Option<String>,
}

fn batch(answer: &Answer) -> Result<Batch, ClientError> {
    Ok(answer.read::<BatchShape>()?.into())
}

/// The most inputs that one request takes.
pub const INPUTS_MAX: usize = 1000;

impl Client {
    /// Creates a batch with the first of its inputs, at most [`INPUTS_MAX`]; `is_complete` says that there are no others.
    /// They are on the server's stable storage when this returns.
    ///
    /// # Cancel safety
    /// If the future is dropped, some of it may have been accepted; create it again, with the same id.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] says which input or field is wrong and how; [`ClientError::Conflict`] when another batch
    /// has its id; [`ClientError::RateLimited`] when too many runs wait: add the rest later; [`ClientError::NotFound`] when
    /// there is no such workflow; and whatever any request can fail with.
    pub async fn create_batch(
        &self,
        workflow_id: &DefinitionId,
        create: &CreateBatch,
        inputs: &[Value],
        is_complete: bool,
    ) -> Result<Batch, ClientError> {
        let body = json!({
            "inputs": inputs,
            "complete": is_complete,
            "batch_id": create.batch_id,
            "concurrency": create.spec.concurrency,
            "concurrency_key": create.spec.concurrency_key,
            "priority": create.spec.priority,
            "user_id": create.user_id,
        });
        let path = ["api", "workflows", workflow_id.as_str(), "batches"];
        batch(&self.connection.post(&path, Some(&body), None).await?)
    }

    /// Adds inputs to a batch, as its items from `from` on, at most [`INPUTS_MAX`]; `is_complete` says that the last of
    /// them is the last of the batch. Those that are there already with the same input stay as they are.
    ///
    /// # Errors
    /// As [`Client::create_batch`].
    pub async fn add_items(
        &self,
        batch_id: &str,
        from: u64,
        inputs: &[Value],
        is_complete: bool,
    ) -> Result<Batch, ClientError> {
        let body = json!({ "from": from, "inputs": inputs, "complete": is_complete });
        let path = ["api", "batches", segment(batch_id)?, "items"];
        batch(&self.connection.post(&path, Some(&body), None).await?)
    }

    /// A page of batches, newest first. A limit above 1000 is lowered to that.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the cursor is not from a list, and the errors of any request.
    pub async fn batches(&self, filter: &BatchFilter) -> Result<BatchesPage, ClientError> {
        let mut query = vec![("limit", if filter.limit == 0 { 50 } else { filter.limit.min(1000) }.to_string())];
        query.extend(filter.workflow_id.as_ref().map(|id| ("workflow_id", id.to_string())));
        query.extend(filter.after.clone().map(|cursor| ("cursor", cursor)));
        let list: BatchListShape = self.connection.get(&["api", "batches"], &query).await?;
        Ok(BatchesPage { batches: list.batches.into_iter().map(Into::into).collect(), next: list.next_cursor })
    }

    /// A batch as it is now.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], and whatever any request can fail with, here and below.
    pub async fn batch(&self, batch_id: &str) -> Result<Batch, ClientError> {
        let path = ["api", "batches", segment(batch_id)?];
        Ok(self.connection.get::<BatchShape>(&path, &[]).await?.into())
    }

    /// Waits until a batch is at rest ([`Batch::is_at_rest`]). Continues through lost connections, like
    /// [`Client::follow`].
    ///
    /// # Cancel safety
    /// Safe: waiting changes nothing.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub async fn wait_batch(&self, batch_id: &str) -> Result<Batch, ClientError> {
        let mut retry = Retry::new(self.give_up_after);
        let period = WAIT_MAX.min(self.connection.idle_timeout() / 2);
        let path = ["api", "batches", segment(batch_id)?];
        loop {
            let asked = Instant::now();
            match self.connection.get_after::<BatchShape>(&path, period).await.map(Batch::from) {
                Ok(batch) if batch.is_at_rest() => return Ok(batch),
                Ok(_) => {
                    retry.succeeded();
                    // A server that is about to stop does not delay answers.
                    if asked.elapsed() < period / 2 {
                        tokio::time::sleep(EARLY_PAUSE).await;
                    }
                }
                Err(error) => retry.pause(error).await?,
            }
        }
    }

    /// A page of a batch's items, in order, of these statuses if any are given; with what their runs came to if asked for,
    /// then at most 50.
    ///
    /// # Errors
    /// As [`Client::batch`].
    pub async fn batch_items(
        &self,
        batch_id: &str,
        statuses: &[RunStatus],
        with_content: bool,
        after: Option<&str>,
    ) -> Result<ItemList, ClientError> {
        let mut query = vec![("limit", if with_content { "50" } else { "1000" }.to_owned())];
        if !statuses.is_empty() {
            let statuses: Vec<_> = statuses.iter().map(|status| status.as_str()).collect();
            query.push(("status", statuses.join(",")));
        }
        query.extend(with_content.then(|| ("content", "true".to_owned())));
        query.extend(after.map(|cursor| ("cursor", cursor.to_owned())));
        self.connection.get(&["api", "batches", segment(batch_id)?, "items"], &query).await
    }

    /// Cancels a batch: it takes no more items, and all its runs that have not ended are cancelled.
    ///
    /// # Errors
    /// As [`Client::batch`].
    pub async fn cancel_batch(&self, batch_id: &str, reason: &str) -> Result<Batch, ClientError> {
        let path = ["api", "batches", segment(batch_id)?, "cancel"];
        batch(&self.connection.post(&path, Some(&json!({ "reason": reason })), None).await?)
    }

    /// Tries a page of a batch's failed items again, and those that were cancelled if asked for.
    ///
    /// # Errors
    /// As [`Client::batch`].
    pub async fn retry_batch(
        &self,
        batch_id: &str,
        cancelled: bool,
        after: Option<&str>,
    ) -> Result<BulkResult, ClientError> {
        let path = ["api", "batches", segment(batch_id)?, "retry"];
        let body = json!({ "cancelled": cancelled, "cursor": after });
        self.connection.post(&path, Some(&body), None).await?.read()
    }

    /// Does the same to a page of runs that match: cancels, starts again or tries again. With `is_dry_run` it only tells
    /// which runs these are.
    ///
    /// # Cancel safety
    /// If the future is dropped, it may have been done to some of them. Repeating it is harmless; where runs are started
    /// again, with the same idempotency key.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the cursor is not from such a request, and the errors of any request. What is refused
    /// for one run is told with it.
    pub async fn bulk(&self, bulk: &Bulk, is_dry_run: bool) -> Result<BulkResult, ClientError> {
        let mut body = json!({
            "filter": filter(bulk),
            "dry_run": is_dry_run,
            "limit": if bulk.filter.limit == 0 { 50 } else { bulk.filter.limit.min(1000) },
            "cursor": bulk.filter.after,
        });
        if bulk.verb == BulkVerb::Cancel {
            body["reason"] = json!(bulk.reason);
        }
        let path = ["api", "runs", bulk.verb.as_str()];
        self.connection.post(&path, Some(&body), bulk.idempotency_key.as_deref()).await?.read()
    }
}

fn filter(bulk: &Bulk) -> Value {
    let mut filter = shape::filter(&bulk.filter);
    if bulk.interrupted == Some(true) {
        let is_other = |status: &&RunStatus| **status != RunStatus::Running;
        let others = bulk.filter.statuses.iter().filter(is_other).map(|status| status.as_str());
        filter["status"] = others.chain(["INTERRUPTED"]).collect();
    }
    filter
}
