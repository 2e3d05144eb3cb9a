//! Batches as a store keeps them: many inputs under one id, each a run of its own.
//!
//! A batch executes nothing. Its runs are accepted like any others, and each says which item of which batch it is
//! ([`super::NewStart::item`]). The invariant: an item has at most one run, and the counts of a batch are those of its
//! items' runs. Where an item is tried again, the new run takes the place of the one before in the transaction that
//! accepts it. A batch that takes no more items goes with the last of its runs, and an item whose run was deleted has
//! none ever after: it is not accepted again.

use super::{Access, BoxFuture, CancelIntent, DbError, Run};
use crate::id::{DefinitionId, RunId};
use crate::run::RunStatus;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A batch to be stored.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// Its id.
    pub id: Arc<str>,
    /// The workflow of its runs.
    pub workflow_id: DefinitionId,
    /// Whose it is, and its runs.
    pub user_id: Option<Arc<str>>,
    /// What it says, as JSON text.
    pub text: Arc<str>,
    /// Now.
    pub at: Timestamp,
}

/// One batch as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredBatch {
    /// Its id.
    pub id: Arc<str>,
    /// The workflow of its runs.
    pub workflow_id: DefinitionId,
    /// Whose it is.
    pub user_id: Option<Arc<str>>,
    /// What it says, as JSON text.
    pub text: Arc<str>,
    /// How many items it has; none while more may come.
    pub items: Option<u64>,
    /// When somebody cancelled it.
    pub cancelled_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When somebody changed it last.
    pub updated_at: Timestamp,
    /// How many of its items' runs have each status, in the order of [`RunStatus::ALL`]. Runs that were deleted do not
    /// count.
    pub counts: [u64; RunStatus::ALL.len()],
}

impl StoredBatch {
    /// How many items have a run now.
    pub fn accepted(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Which item of which batch a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchItem {
    /// The batch.
    pub batch_id: Arc<str>,
    /// The place of its input, from 0.
    pub index: u64,
}

/// The item of which a run comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewItem {
    /// Which.
    pub item: BatchItem,
    /// The item's run so far, which has ended. None when it has none.
    pub replaces: Option<RunId>,
}

/// What to change in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchChange {
    /// It has this many items, all of them accepted, and no more will come.
    Complete(u64),
    /// No further item is accepted.
    Cancel,
}

/// Which batches to list. `Default` is the newest 50.
#[derive(Clone, Debug, Default)]
pub struct BatchFilter {
    /// Only those of this workflow.
    pub workflow_id: Option<DefinitionId>,
    /// Continue after this cursor, which came from a list.
    pub after: Option<String>,
    /// At most this many; 0 means 50, the most is 1000.
    pub limit: u32,
}

/// A page of batches, the newest first.
#[derive(Clone, Debug, Default)]
pub struct BatchPage {
    /// The batches.
    pub batches: Vec<StoredBatch>,
    /// Where to continue, when there is more.
    pub next: Option<String>,
}

/// Which items of a batch to list.
#[derive(Clone, Debug, Default)]
pub struct ItemFilter {
    /// Only those whose run has one of these statuses; empty means all.
    pub statuses: Vec<RunStatus>,
    /// Begin with this item.
    pub from: u64,
    /// At most this many; 0 means 50, the most is 1000. A page ends earlier once the texts of its runs exceed 16 MiB.
    pub limit: u32,
    /// Whether `input` and `output` are filled in.
    pub with_payload: bool,
}

/// A page of items, in order, each with its run.
#[derive(Clone, Debug, Default)]
pub struct ItemPage {
    /// Each with its index.
    pub items: Vec<(u64, Run)>,
    /// Where to continue, when there is more.
    pub next: Option<u64>,
    /// Items left out because their runs cannot be read, each with its index: the error names its run.
    pub unreadable: Vec<(u64, DbError)>,
}

/// The most items that a batch has.
pub const ITEMS_MAX: u64 = 1_000_000;

/// Batches. Their runs are accepted by [`super::RunStore::create_run`].
pub trait BatchStore: Send + Sync {
    /// Creates a batch. Gives back what is stored: the one that is there already if it has the same id, workflow, user
    /// and text.
    ///
    /// # Errors
    /// `NotFound` when it would belong to another user than the caller; `Conflict` when the id is taken.
    fn create_batch(&self, access: Access, batch: NewBatch) -> BoxFuture<'_, Result<StoredBatch, DbError>>;

    /// The batch, if it exists.
    ///
    /// # Errors
    /// `Unreadable` when its row is damaged.
    fn batch(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredBatch>, DbError>>;

    /// Lists batches.
    ///
    /// # Errors
    /// `Storage` when the cursor did not come from a list.
    fn batches(&self, access: Access, filter: BatchFilter) -> BoxFuture<'_, Result<BatchPage, DbError>>;

    /// Changes a batch. Gives back what is stored now; none when there is no such batch.
    ///
    /// # Errors
    /// `Conflict` when it cannot be complete with so many items: some of them have no run, there are more, or it was
    /// complete with another number.
    fn change_batch(
        &self,
        access: Access,
        id: Arc<str>,
        change: BatchChange,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredBatch>, DbError>>;

    /// The items of a batch that have a run; none when there is no such batch.
    fn batch_items(&self, access: Access, id: Arc<str>, filter: ItemFilter)
    -> BoxFuture<'_, Result<ItemPage, DbError>>;

    /// Durably records the request to end the unfinished runs of a batch, of this many items from `from` on; gives back
    /// where to continue, if there are more. Workers that execute them hear of it, and any worker ends the others.
    fn cancel_items(
        &self,
        access: Access,
        id: Arc<str>,
        from: u64,
        limit: u32,
        cancel: CancelIntent,
    ) -> BoxFuture<'_, Result<Option<u64>, DbError>>;
}
