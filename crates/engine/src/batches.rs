//! Batches: many inputs under one id, each a run of its own.
//!
//! A batch executes nothing and decides nothing: its runs are accepted, executed, cancelled and tried again like any
//! others. Each item has an idempotency key, so whoever was interrupted while adding items adds them again. How many
//! execute at once is a limit that the runs share. The invariant: an item has one run, which is the last that was made
//! of it.

use crate::bulk::{Bulk, BulkPage, BulkRun, BulkVerb, SIDE_BY_SIDE};
use crate::engine::Engine;
use crate::error::{Error, check_given};
use crate::reader::{LOOK_PERIOD, Reader};
use crate::submit::{Beginning, Placed, Submit, check_key};
use futures::{StreamExt, TryStreamExt};
use outlive_core::port::{
    BatchChange, BatchFilter, BatchItem, CancelIntent, DbError, DbErrorKind, ITEMS_MAX, ItemFilter, ItemPage, NewBatch,
    NewItem, Run, RunLimit, StoredBatch,
};
use outlive_core::{Definition, DefinitionId, RunId, RunStatus, Timestamp, WorkflowRunOutput, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// How many runs of a batch execute at once where neither it nor its workflow says.
const CONCURRENCY: u32 = 16;

/// Items on their way to the store at once.
pub const ITEMS_SIDE_BY_SIDE: usize = 64;

/// Requests to end a run that share a transaction.
const CANCELLED_TOGETHER: u32 = 500;

/// What a batch says; what it leaves out is not written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchSpec {
    /// How many of its runs execute at once; 16 by default. A workflow that has a limit of its own keeps to that: then a
    /// batch says less only with a `concurrency_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Runs with the same key count together, also those of other batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// The priority of its runs.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i8,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(priority: &i8) -> bool {
    *priority == 0
}

impl BatchSpec {
    /// The limit that its runs share.
    fn limit(&self, definition: &Definition, batch_id: &str) -> Arc<RunLimit> {
        let key = self.concurrency_key.as_deref();
        Arc::new(match (definition.concurrency, self.concurrency) {
            (Some(max), Some(fewer)) if key.is_some() => RunLimit::of(&definition.id, key, max.min(fewer)),
            (Some(max), _) => RunLimit::of(&definition.id, key, max),
            (None, max) => {
                let own = format!("batch:{batch_id}");
                RunLimit::of(&definition.id, key.or(Some(&own)), max.unwrap_or(CONCURRENCY))
            }
        })
    }
}

/// How many of a batch's items are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchCounts {
    /// Accepted, and not begun.
    pub queued: u64,
    /// Begun.
    pub running: u64,
    /// Waiting for people.
    pub paused: u64,
    /// Completed.
    pub completed: u64,
    /// Failed: ended ERROR.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Deleted, with their runs.
    pub deleted: u64,
}

/// A batch as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its id.
    pub id: Arc<str>,
    /// The workflow of its runs.
    pub workflow_id: DefinitionId,
    /// Whose it is, and its runs.
    pub user_id: Option<Arc<str>>,
    /// What it says.
    pub spec: BatchSpec,
    /// How many items it has; none while more may come.
    pub items: Option<u64>,
    /// How many of them have a run now.
    pub accepted: u64,
    /// In which state those are.
    pub counts: BatchCounts,
    /// When somebody cancelled it.
    pub cancelled_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When somebody changed it last.
    pub updated_at: Timestamp,
}

impl Batch {
    /// Where it stands, in a word: `accepting` while items may come, `running`, `paused` when what is left waits for
    /// people, `completed` when all items have, `failed` when some have not, or `cancelled` when it was and
    /// some items with it. Items whose runs were deleted do not count: a batch goes with the last of them.
    pub fn status(&self) -> &'static str {
        let BatchCounts { queued, running, paused, failed, cancelled, .. } = self.counts;
        match () {
            () if self.items.is_none() && self.cancelled_at.is_none() => "accepting",
            () if queued + running > 0 => "running",
            () if paused > 0 => "paused",
            () if self.cancelled_at.is_some() && (cancelled > 0 || self.items.is_none()) => "cancelled",
            () if failed + cancelled > 0 => "failed",
            () => "completed",
        }
    }

    /// Whether no further item comes, and none of its runs executes or waits to: they have ended, or are PAUSED.
    pub fn is_at_rest(&self) -> bool {
        !matches!(self.status(), "accepting" | "running")
    }
}

impl TryFrom<StoredBatch> for Batch {
    type Error = Error;

    fn try_from(stored: StoredBatch) -> Result<Self, Error> {
        let spec = serde_json::from_str(&stored.text)
            .map_err(|error| Error::DamagedBatch { id: stored.id.clone(), problem: error.to_string() })?;
        let mut counts = BatchCounts::default();
        for (status, count) in RunStatus::ALL.into_iter().zip(stored.counts) {
            *match status {
                RunStatus::Pending => &mut counts.queued,
                RunStatus::Running => &mut counts.running,
                RunStatus::Paused => &mut counts.paused,
                RunStatus::Completed => &mut counts.completed,
                RunStatus::Cancelled => &mut counts.cancelled,
                RunStatus::Error => &mut counts.failed,
            } = count;
        }
        let accepted = stored.accepted();
        counts.deleted = stored.items.map_or(0, |items| items.saturating_sub(accepted));
        Ok(Self {
            spec,
            accepted,
            counts,
            id: stored.id,
            workflow_id: stored.workflow_id,
            user_id: stored.user_id,
            items: stored.items,
            cancelled_at: stored.cancelled_at,
            created_at: stored.created_at,
            updated_at: stored.updated_at,
        })
    }
}

/// A page of batches, the newest first.
#[derive(Clone, Debug, Default)]
pub struct BatchesPage {
    /// The batches.
    pub batches: Vec<Batch>,
    /// Where to continue, when there is more.
    pub next: Option<String>,
}

/// A batch to be created.
#[derive(Clone, Debug, Default)]
pub struct CreateBatch {
    /// The caller's id for it; made when absent. The same id and the same batch again give the one that is there.
    pub batch_id: Option<String>,
    /// What it says.
    pub spec: BatchSpec,
    /// Whose it is. A restricted engine fills in its own user and refuses another.
    pub user_id: Option<String>,
}

impl Reader {
    /// The batch with this id.
    ///
    /// # Errors
    /// [`Error::BatchNotFound`], [`Error::DamagedBatch`], or the store's.
    pub async fn batch(&self, id: &str) -> Result<Batch, Error> {
        let id: Arc<str> = Arc::from(id);
        let found = self.inner.services.db.batch(self.access.clone(), id.clone()).await?;
        found.ok_or(Error::BatchNotFound(id))?.try_into()
    }

    /// Lists batches.
    ///
    /// # Errors
    /// [`Error::DamagedBatch`], or the store's; `Storage` when the cursor did not come from a list.
    pub async fn batches(&self, filter: BatchFilter) -> Result<BatchesPage, Error> {
        let page = self.inner.services.db.batches(self.access.clone(), filter).await?;
        let batches = page.batches.into_iter().map(Batch::try_from).collect::<Result<_, _>>()?;
        Ok(BatchesPage { batches, next: page.next })
    }

    /// The items of a batch, in order, each with its run. The payload of a run, when asked for, is read with
    /// [`Reader::output`].
    ///
    /// # Errors
    /// The store's.
    pub async fn batch_items(&self, id: &str, filter: ItemFilter) -> Result<ItemPage, Error> {
        Ok(self.inner.services.db.batch_items(self.access.clone(), Arc::from(id), filter).await?)
    }

    /// What the items of a batch came to, in order, as it stands when each is read. Every item is among them: of one whose
    /// run was deleted it is said that it was.
    pub fn batch_results(&self, id: &str) -> BatchResults {
        BatchResults {
            reader: self.clone(),
            id: Arc::from(id),
            batch: None,
            next: 0,
            from: Some(0),
            read: VecDeque::new(),
        }
    }

    /// What an item came to whose run was read with its payload.
    ///
    /// # Errors
    /// The store's.
    pub async fn batch_result(&self, index: u64, run: Run) -> Result<BatchResult, Error> {
        let output = match self.output(&run).await {
            Ok(output) => Ok(output),
            Err(error @ (Error::Unreadable(_) | Error::Damaged(_))) => Err(error),
            Err(error) => return Err(error),
        };
        Ok(BatchResult { index, run: Some((run.info.run_id, run.status)), output })
    }

    /// Waits until a batch is at rest ([`Batch::is_at_rest`]).
    ///
    /// # Cancel safety
    /// Safe: waiting changes nothing.
    ///
    /// # Errors
    /// As [`Reader::batch`] and [`Reader::wait`].
    pub async fn wait_batch(&self, id: &str) -> Result<Batch, Error> {
        let mut from = 0;
        loop {
            let batch = self.batch(id).await?;
            if batch.is_at_rest() {
                return Ok(batch);
            }
            let statuses = vec![RunStatus::Pending, RunStatus::Running];
            let filter = ItemFilter { statuses, from, limit: 1, ..ItemFilter::default() };
            match self.batch_items(id, filter).await?.items.pop() {
                Some((index, run)) => {
                    from = index;
                    match self.wait(&run.info.run_id).await {
                        Ok(_) | Err(Error::RunNotFound(_) | Error::Unreadable(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                // Those before may have been tried again.
                None if from > 0 => from = 0,
                None => {
                    self.inner.check_running()?;
                    tokio::time::sleep(LOOK_PERIOD).await;
                }
            }
        }
    }
}

/// Items that are read together.
const READ_TOGETHER: u32 = 50;

/// The results of a batch, item by item. A few are held at a time, however many there are.
pub struct BatchResults {
    reader: Reader,
    id: Arc<str>,
    /// As it was at the beginning.
    batch: Option<Batch>,
    /// The one to be told next.
    next: u64,
    /// Where reading goes on.
    from: Option<u64>,
    read: VecDeque<(u64, Result<Run, DbError>)>,
}

impl fmt::Debug for BatchResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchResults({})", self.id)
    }
}

impl BatchResults {
    /// The next item, and what its run has come to so far; none after the last. One whose run was deleted or cannot be read
    /// is that error, and does not keep others from being read.
    ///
    /// # Errors
    /// [`Error::BatchNotFound`], or the store's.
    ///
    /// # Cancel safety
    /// If the future is dropped, an item may be lost.
    pub async fn next(&mut self) -> Result<Option<BatchResult>, Error> {
        let items = match &self.batch {
            Some(batch) => batch.items,
            None => self.batch.insert(self.reader.batch(&self.id).await?).items,
        };
        while self.read.is_empty()
            && let Some(from) = self.from
        {
            let filter = ItemFilter { from, limit: READ_TOGETHER, with_payload: true, ..ItemFilter::default() };
            let page = self.reader.batch_items(&self.id, filter).await?;
            self.read.extend(page.items.into_iter().map(|(index, run)| (index, Ok(run))));
            self.read.extend(page.unreadable.into_iter().map(|(index, error)| (index, Err(error))));
            self.read.make_contiguous().sort_unstable_by_key(|(index, _)| *index);
            self.from = page.next;
        }
        let index = match (items, self.read.front()) {
            (Some(items), None) if self.next >= items => return Ok(None),
            (Some(_), _) => self.next,
            // Those before it may still come.
            (None, Some((first, _))) => *first,
            (None, None) => return Ok(None),
        };
        self.next = index + 1;
        match self.read.pop_front_if(|(first, _)| *first == index) {
            Some((_, Ok(run))) => self.reader.batch_result(index, run).await.map(Some),
            Some((_, Err(error))) => Ok(Some(BatchResult { index, run: None, output: Err(error.into()) })),
            None => {
                let error = Error::ItemDeleted { batch_id: self.id.clone(), index };
                Ok(Some(BatchResult { index, run: None, output: Err(error) }))
            }
        }
    }
}

/// What an item came to.
#[derive(Debug)]
pub struct BatchResult {
    /// The place of its input, from 0.
    pub index: u64,
    /// Its run, the last that was made of it, and that run's status. None when the run was deleted, or its row cannot be
    /// read.
    pub run: Option<(RunId, RunStatus)>,
    /// What the run came to, or why it cannot be read.
    pub output: Result<WorkflowRunOutput, Error>,
}

impl Engine {
    /// Creates a batch without items; it is on stable storage when this returns. Then [`BatchHandle::add`] gives it its
    /// inputs, and [`BatchHandle::complete`] says that these are all.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`], [`Error::InvalidId`], [`Error::CannotBegin`], [`Error::UnknownWorkflow`];
    /// [`Error::Conflict`] when another batch has the id; [`Error::BatchNotFound`] when it would belong to another user
    /// than this engine's; or the store's.
    ///
    /// # Cancel safety
    /// If the future is dropped it may or may not have been created; create it again, with the same id.
    pub async fn create_batch(&self, workflow_id: &DefinitionId, create: CreateBatch) -> Result<BatchHandle, Error> {
        let inner = self.inner();
        inner.check_running()?;
        let unknown = || Error::UnknownWorkflow(workflow_id.to_shared());
        let definition = inner.newest(workflow_id).ok_or_else(unknown)?;
        let CreateBatch { batch_id, spec, user_id } = create;
        check_spec(&definition, &spec)?;
        let at = inner.services.clock.now();
        let id = match &batch_id {
            Some(text) => RunId::chosen(text)?,
            None => RunId::new(at, inner.services.chance.wide_bits()),
        };
        let id: Arc<str> = Arc::from(id.as_str());
        let user_id = user_id.map(Arc::from).or_else(|| self.access().user().cloned());
        let text = Arc::from(serde_json::json!(spec).to_string());
        let new = NewBatch { id: id.clone(), workflow_id: workflow_id.clone(), user_id, text, at };
        let stored = inner.services.db.create_batch(self.access().clone(), new).await;
        let stored = stored.map_err(|error| match error.kind() {
            DbErrorKind::NotFound => Error::BatchNotFound(id),
            _ => error.into(),
        })?;
        Ok(self.attach_batch(stored.try_into()?))
    }

    /// Checks that these inputs, from item `from` on, could be a batch's.
    ///
    /// # Errors
    /// [`Error::Item`] says which could not, and why; [`Error::InvalidBatch`] when there are too many;
    /// [`Error::UnknownWorkflow`].
    pub fn check_inputs(&self, workflow_id: &DefinitionId, from: u64, inputs: &[Value]) -> Result<(), Error> {
        let inner = self.inner();
        let unknown = || Error::UnknownWorkflow(workflow_id.to_shared());
        let definition = inner.newest(workflow_id).ok_or_else(unknown)?;
        check_inputs(&definition, from, inputs, inner.options.input_bytes_max)
    }

    /// A handle on a batch that was read.
    pub fn attach_batch(&self, batch: Batch) -> BatchHandle {
        BatchHandle { engine: self.clone(), batch }
    }

    /// The batch with this id, to be changed.
    ///
    /// # Errors
    /// As [`Reader::batch`].
    pub async fn batch(&self, id: &str) -> Result<BatchHandle, Error> {
        Ok(self.attach_batch(self.reader().batch(id).await?))
    }
}

fn check_spec(definition: &Definition, spec: &BatchSpec) -> Result<(), Error> {
    check_key(spec.concurrency_key.as_deref())?;
    let problem = match (definition.concurrency, spec.concurrency) {
        (_, Some(0)) => "Input should be 1 or more".to_owned(),
        (Some(max), Some(fewer)) if fewer < max && spec.concurrency_key.is_none() => format!(
            "the workflow lets {max} of its runs execute at once, and those of the batch count among them: leave it out, or \
             give a concurrency_key"
        ),
        _ => return Ok(()),
    };
    Err(Error::InvalidBatch { field: "concurrency", problem })
}

/// A batch, and the way to change it. It dereferences to the batch as it was when it was read; dropping it changes nothing.
#[derive(Clone)]
pub struct BatchHandle {
    engine: Engine,
    batch: Batch,
}

impl fmt::Debug for BatchHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchHandle({})", self.batch.id)
    }
}

impl Deref for BatchHandle {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

/// What is done is on stable storage once the future is ready. Errors are [`Error::BatchNotFound`], and the store's.
#[expect(clippy::missing_errors_doc, reason = "said once above, for all of them")]
impl BatchHandle {
    /// Gives the batch these inputs, as its items from `from` on; gives back the index of the next one. All are checked
    /// first. Items that are there already with the same input stay as they are, so whoever was interrupted adds them
    /// again.
    ///
    /// # Errors
    /// [`Error::Item`] says which and why: as [`Engine::submit`], or because the batch was cancelled, is complete, or has
    /// that item with another input.
    ///
    /// # Cancel safety
    /// Once polled, it is carried out, also when its caller goes away.
    pub async fn add(&self, from: u64, inputs: Vec<Value>) -> Result<u64, Error> {
        let (engine, batch) = (self.engine.clone(), self.batch.clone());
        self.engine.finish(async move { add(&engine, &batch, from, inputs).await }).await
    }

    /// Says that the batch has this many items, all of which were added.
    ///
    /// # Errors
    /// [`Error::Conflict`] when some of them were not, or there are more.
    pub async fn complete(&self, items: u64) -> Result<Batch, Error> {
        self.change(BatchChange::Complete(items)).await
    }

    /// Takes no further item, and cancels all runs that have not ended.
    ///
    /// # Cancel safety
    /// Once polled, it is carried out as long as this process lives; if it dies, cancel again.
    pub async fn cancel(&self, reason: &str) -> Result<Batch, Error> {
        let (this, reason) = (self.clone(), Arc::from(reason));
        self.engine.finish(async move { cancel(&this, reason).await }).await
    }

    /// Tries again the items whose runs have failed: each goes on where it failed, as a new run that takes the place of
    /// the one before. One that is refused stops no other.
    pub async fn retry_failed(&self) -> Result<Vec<BulkRun>, Error> {
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(index) = from {
            let filter =
                ItemFilter { statuses: vec![RunStatus::Error], from: index, limit: 1_000, ..ItemFilter::default() };
            let page = self.retry_items(filter).await?;
            all.extend(page.runs);
            from = page.next.and_then(|next| next.parse().ok());
        }
        Ok(all)
    }

    /// The same for one page of items, whose runs have failed or were cancelled.
    pub async fn retry_items(&self, filter: ItemFilter) -> Result<BulkPage, Error> {
        let page = self.engine.reader().batch_items(&self.batch.id, filter).await?;
        let bulk = Bulk::new(BulkVerb::Retry);
        let runs = futures::stream::iter(page.items.into_iter().map(|(_, run)| self.engine.bulk_one(&bulk, run)));
        Ok(BulkPage {
            runs: runs.buffered(SIDE_BY_SIDE).collect().await,
            next: page.next.map(|next| next.to_string()),
            unreadable: page.unreadable.into_iter().map(|(_, error)| error).collect(),
        })
    }

    /// The batch as it stands now.
    pub async fn progress(&self) -> Result<Batch, Error> {
        self.engine.reader().batch(&self.batch.id).await
    }

    /// Its items, in order, each with its run.
    pub async fn items(&self, filter: ItemFilter) -> Result<ItemPage, Error> {
        self.engine.reader().batch_items(&self.batch.id, filter).await
    }

    /// What its items came to, in order, as it stands when each is read.
    pub fn results(&self) -> BatchResults {
        self.engine.reader().batch_results(&self.batch.id)
    }

    /// Waits until it is at rest; see [`Reader::wait_batch`].
    pub async fn wait(&self) -> Result<Batch, Error> {
        self.engine.reader().wait_batch(&self.batch.id).await
    }

    async fn change(&self, change: BatchChange) -> Result<Batch, Error> {
        let (services, id) = (&self.engine.inner().services, self.batch.id.clone());
        let at = services.clock.now();
        let changed = services.db.change_batch(self.engine.access().clone(), id.clone(), change, at).await?;
        changed.ok_or(Error::BatchNotFound(id))?.try_into()
    }
}

async fn add(engine: &Engine, batch: &Batch, from: u64, inputs: Vec<Value>) -> Result<u64, Error> {
    let inner = engine.inner();
    let unknown = || Error::UnknownWorkflow(batch.workflow_id.to_shared());
    let definition = inner.newest(&batch.workflow_id).ok_or_else(unknown)?;
    check_inputs(&definition, from, &inputs, inner.options.input_bytes_max)?;
    let end = from + inputs.len() as u64;
    let limit = batch.spec.limit(&definition, &batch.id);
    let adding = (from..).zip(inputs).map(|(index, input)| {
        let input = given(input);
        let (definition, limit) = (&definition, Some(limit.clone()));
        let item = NewItem { item: BatchItem { batch_id: batch.id.clone(), index }, replaces: None };
        let submit = Submit {
            input,
            user_id: batch.user_id.as_deref().map(str::to_owned),
            priority: batch.spec.priority,
            idempotency_key: Some(format!("batch:{}:{index}", batch.id)),
            ..Submit::default()
        };
        async move {
            let beginning = Beginning::Item(Box::new(Placed { item, limit }));
            let accepted = inner.accept(engine.access(), definition, submit, beginning).await;
            accepted.map(drop).map_err(|error| refused(batch, index, error))
        }
    });
    futures::stream::iter(adding).buffered(ITEMS_SIDE_BY_SIDE).try_collect::<()>().await?;
    Ok(end)
}

fn check_inputs(definition: &Definition, from: u64, inputs: &[Value], limit: usize) -> Result<(), Error> {
    let end = from.saturating_add(inputs.len() as u64);
    if end > ITEMS_MAX {
        let problem = format!("a batch has at most {ITEMS_MAX}, not {end}: put the others into another one");
        return Err(Error::InvalidBatch { field: "items", problem });
    }
    (from..).zip(inputs).try_for_each(|(index, input)| {
        let refused = |problem| Error::Item { index, problem: Box::new(problem) };
        check_input(definition, given(input.clone()), limit).map_err(refused)
    })
}

/// Null is no input.
fn given(input: Value) -> Option<Value> {
    Some(input).filter(|input| !input.is_null())
}

fn check_input(definition: &Definition, input: Option<Value>, limit: usize) -> Result<(), Error> {
    if let Some(input) = &input {
        check_given("the input", input)?;
    }
    let bytes = definition.accept_input(input)?.as_ref().map_or(0, json::len);
    if bytes > limit { Err(Error::InputTooLong { bytes, limit }) } else { Ok(()) }
}

/// Why an item was not accepted, in the words of batches.
fn refused(batch: &Batch, index: u64, error: Error) -> Error {
    let problem = match error {
        Error::SessionNotFound(_) => Error::BatchNotFound(batch.id.clone()),
        Error::Db(error) if error.kind() == DbErrorKind::NotFound => Error::BatchNotFound(batch.id.clone()),
        Error::Conflict(error) if error.to_string().contains("idempotency key") => {
            let message = "it was accepted with another input: add the same inputs again, or create another batch";
            Error::Conflict(outlive_core::port::DbError::new(DbErrorKind::Conflict, message))
        }
        error => error,
    };
    match problem {
        gone @ Error::BatchNotFound(_) => gone,
        problem => Error::Item { index, problem: Box::new(problem) },
    }
}

async fn cancel(handle: &BatchHandle, reason: Arc<str>) -> Result<Batch, Error> {
    let (engine, id) = (&handle.engine, &handle.batch.id);
    handle.change(BatchChange::Cancel).await?;
    let services = &engine.inner().services;
    let mut from = Some(0);
    while let Some(index) = from {
        let cancel = CancelIntent { at: services.clock.now(), reason: reason.clone() };
        let (access, limit) = (engine.access().clone(), CANCELLED_TOGETHER);
        from = services.db.cancel_items(access, id.clone(), index, limit, cancel).await?;
    }
    // Whoever executes runs ends them all. Where nobody does, that is left to do here.
    if !engine.inner().options.execute {
        end_items(handle, &reason).await?;
    }
    handle.progress().await
}

async fn end_items(handle: &BatchHandle, reason: &Arc<str>) -> Result<(), Error> {
    let mut from = Some(0);
    while let Some(index) = from {
        let statuses = RunStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect();
        let page = handle.items(ItemFilter { statuses, from: index, limit: 1_000, ..ItemFilter::default() }).await?;
        let ending = page.items.into_iter().map(|(_, run)| {
            let (engine, reason) = (handle.engine.clone(), reason.clone());
            async move {
                match engine.cancel(&run.info.run_id, &reason).await {
                    Ok(_) | Err(Error::RunNotFound(_)) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        });
        futures::stream::iter(ending).buffer_unordered(SIDE_BY_SIDE).try_collect::<()>().await?;
        from = page.next;
    }
    Ok(())
}
