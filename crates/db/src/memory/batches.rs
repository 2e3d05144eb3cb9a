//! Batches in memory, each with the runs that are its items.

use super::{InMemoryDb, Operation, Tables};
use crate::rules;
use outlive_core::port::{
    Access, BatchChange, BatchFilter, BatchPage, BatchStore, BoxFuture, CancelIntent, DbError, ItemFilter, ItemPage,
    NewBatch, NewItem, NewRun, Run, StoredBatch,
};
use outlive_core::{RunStatus, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The batches, numbered in the order in which they were created.
#[derive(Default)]
pub(super) struct Batches {
    rows: BTreeMap<u64, Row>,
    created: u64,
}

struct Row {
    batch: StoredBatch,
    /// The number of each item's run.
    items: BTreeMap<u64, u64>,
}

impl Row {
    fn takes_no_more(&self) -> bool {
        self.batch.items.is_some() || self.batch.cancelled_at.is_some()
    }
}

impl Batches {
    /// The runs of this batch.
    pub(super) fn runs_of(&self, id: &str) -> BTreeSet<u64> {
        let row = self.rows.values().find(|row| *row.batch.id == *id);
        row.map(|row| row.items.values().copied().collect()).unwrap_or_default()
    }

    /// Forgets runs that are gone, and batches of which these were the last.
    pub(super) fn retain(&mut self, is_there: impl Fn(u64) -> bool) {
        self.rows.retain(|_, row| {
            let count = row.items.len();
            row.items.retain(|_, seq| is_there(*seq));
            let has_lost_all = count > 0 && row.items.is_empty();
            !(has_lost_all && row.takes_no_more())
        });
    }
}

impl BatchStore for InMemoryDb {
    fn create_batch(&self, access: Access, batch: NewBatch) -> BoxFuture<'_, Result<StoredBatch, DbError>> {
        Box::pin(async move { self.operate(Operation::CreateBatch, |tables| tables.create_batch(&access, batch)) })
    }

    fn batch(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredBatch>, DbError>> {
        let read = move |tables: &mut Tables| {
            let number = tables.find_batch(&access, &id);
            Ok(number.map(|number| tables.counted_batch(number)))
        };
        Box::pin(async move { self.operate(Operation::Batch, read) })
    }

    fn batches(&self, access: Access, filter: BatchFilter) -> BoxFuture<'_, Result<BatchPage, DbError>> {
        Box::pin(async move { self.operate(Operation::Batches, |tables| tables.list_batches(&access, &filter)) })
    }

    fn change_batch(
        &self,
        access: Access,
        id: Arc<str>,
        change: BatchChange,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredBatch>, DbError>> {
        Box::pin(
            async move { self.operate(Operation::ChangeBatch, |tables| tables.change_batch(&access, &id, change, at)) },
        )
    }

    fn batch_items(
        &self,
        access: Access,
        id: Arc<str>,
        filter: ItemFilter,
    ) -> BoxFuture<'_, Result<ItemPage, DbError>> {
        Box::pin(
            async move { self.operate(Operation::BatchItems, |tables| Ok(tables.batch_items(&access, &id, &filter))) },
        )
    }

    fn cancel_items(
        &self,
        access: Access,
        id: Arc<str>,
        from: u64,
        limit: u32,
        cancel: CancelIntent,
    ) -> BoxFuture<'_, Result<Option<u64>, DbError>> {
        Box::pin(async move {
            let work = |tables: &mut Tables| Ok(tables.cancel_items(&access, &id, from, limit, &cancel));
            self.operate(Operation::CancelItems, work)
        })
    }
}

impl Tables {
    fn find_batch(&self, access: &Access, id: &str) -> Option<u64> {
        let is_it = |row: &Row| *row.batch.id == *id && access.sees(row.batch.user_id.as_deref());
        self.batches.rows.iter().find(|(_, row)| is_it(row)).map(|(number, _)| *number)
    }

    fn counted_batch(&self, number: u64) -> StoredBatch {
        let row = &self.batches.rows[&number];
        let having = |status| row.items.values().filter(|seq| self.runs[seq].run.status == status).count() as u64;
        StoredBatch { counts: RunStatus::ALL.map(having), ..row.batch.clone() }
    }

    fn create_batch(&mut self, access: &Access, new: NewBatch) -> Result<StoredBatch, DbError> {
        if !access.sees(new.user_id.as_deref()) {
            return Err(rules::no_batch(&new.id));
        }
        if let Some(number) = self.find_batch(&Access::All, &new.id) {
            let there = self.counted_batch(number);
            return if rules::is_same_batch(&there, &new) { Ok(there) } else { Err(rules::batch_id_taken(&new.id)) };
        }
        let batch = StoredBatch {
            id: new.id,
            workflow_id: new.workflow_id,
            user_id: new.user_id,
            text: new.text,
            items: None,
            cancelled_at: None,
            created_at: new.at,
            updated_at: new.at,
            counts: Default::default(),
        };
        self.batches.created += 1;
        self.changes += 1;
        self.batches.rows.insert(self.batches.created, Row { batch: batch.clone(), items: BTreeMap::new() });
        Ok(batch)
    }

    fn change_batch(
        &mut self,
        access: &Access,
        id: &str,
        change: BatchChange,
        at: Timestamp,
    ) -> Result<Option<StoredBatch>, DbError> {
        let Some(number) = self.find_batch(access, id) else { return Ok(None) };
        let Row { batch, items } = self.batches.rows.get_mut(&number).expect("it was found");
        match change {
            BatchChange::Complete(count) => {
                let end = items.last_key_value().map_or(0, |(last, _)| last + 1);
                rules::complete_batch(batch, count, items.len() as u64, end)?;
                if batch.items.is_none() {
                    (batch.items, batch.updated_at) = (Some(count), at);
                }
            }
            BatchChange::Cancel => {
                batch.cancelled_at.get_or_insert(at);
                batch.updated_at = at;
            }
        }
        self.changes += 1;
        Ok(Some(self.counted_batch(number)))
    }

    fn list_batches(&self, access: &Access, filter: &BatchFilter) -> Result<BatchPage, DbError> {
        let cursor = rules::parse_batch_cursor(filter)?.unwrap_or(u64::MAX);
        let fits = |batch: &StoredBatch| {
            access.sees(batch.user_id.as_deref())
                && filter.workflow_id.as_ref().is_none_or(|workflow_id| *workflow_id == batch.workflow_id)
        };
        let mut fitting = self.batches.rows.range(..cursor).rev().filter(|(_, row)| fits(&row.batch));
        let numbers: Vec<u64> =
            fitting.by_ref().take(rules::batch_limit(filter.limit)).map(|(number, _)| *number).collect();
        let next = fitting.next().and(numbers.last()).map(u64::to_string);
        Ok(BatchPage { batches: numbers.into_iter().map(|number| self.counted_batch(number)).collect(), next })
    }

    fn batch_items(&self, access: &Access, id: &str, filter: &ItemFilter) -> ItemPage {
        let Some(number) = self.find_batch(access, id) else { return ItemPage::default() };
        let items = self.batches.rows[&number].items.range(filter.from..);
        let has_status = |run: &Run| filter.statuses.is_empty() || filter.statuses.contains(&run.status);
        let mut fitting = items.filter(|(_, seq)| has_status(&self.runs[seq].run));
        let (mut page, mut bytes) = (ItemPage::default(), 0);
        for (index, seq) in fitting.by_ref() {
            if page.items.len() == rules::batch_limit(filter.limit) || bytes > rules::LIST_BYTES_MAX {
                page.next = Some(*index);
                break;
            }
            let run = self.shown(*seq, &self.runs[seq]);
            let run = if filter.with_payload { run } else { Run { input: None, output: None, ..run } };
            bytes += rules::list_bytes(&run);
            page.items.push((*index, run));
        }
        page
    }

    fn cancel_items(&mut self, access: &Access, id: &str, from: u64, limit: u32, cancel: &CancelIntent) -> Option<u64> {
        let number = self.find_batch(access, id)?;
        let is_open = |seq: &u64| !self.runs[seq].run.status.is_terminal();
        let items = self.batches.rows[&number].items.range(from..).filter(|(_, seq)| is_open(seq));
        let found: Vec<(u64, u64)> = items.take(limit.max(1) as usize + 1).map(|(index, seq)| (*index, *seq)).collect();
        found.iter().take(limit.max(1) as usize).for_each(|(_, seq)| self.wish_end(*seq, cancel));
        found.get(limit.max(1) as usize).map(|(index, _)| *index)
    }

    /// The number of the batch that the run enters, if it is an item of one. Nothing is changed.
    pub(super) fn check_item(&self, new: &NewRun) -> Result<Option<u64>, DbError> {
        let Some(NewItem { item, replaces }) = new.start.item.as_deref() else { return Ok(None) };
        let found = self.find_batch(&Access::All, &item.batch_id);
        let Some(number) = rules::batch_of(found, replaces.is_some(), item)? else { return Ok(None) };
        let row = &self.batches.rows[&number];
        let there = row.items.get(&item.index).map(|seq| &self.runs[seq].run);
        let there = there.map(|run| (&run.info.run_id, run.status));
        rules::enter_batch(&row.batch, new, item, replaces.as_ref(), there)?;
        Ok(Some(number))
    }

    /// Whether the run is an item of a batch that takes more, or of which some have not ended.
    pub(super) fn is_of_unfinished_batch(&self, seq: u64) -> bool {
        let is_open = |row: &Row| {
            let mut runs = row.items.values().map(|seq| self.runs[seq].run.status);
            !row.takes_no_more() || runs.any(|status| !status.is_terminal())
        };
        self.batches.rows.values().any(|row| row.items.values().any(|item| *item == seq) && is_open(row))
    }

    /// Takes a run that goes out of its batch; the batch goes with its last.
    pub(super) fn leave_batch(&mut self, seq: u64) -> u64 {
        let count = self.batches.rows.len();
        self.batches.retain(|item| item != seq);
        (count - self.batches.rows.len()) as u64
    }

    /// Deletes batches without runs.
    pub(super) fn delete_batches(&mut self, access: &Access, ids: &[Arc<str>], before: Timestamp) -> u64 {
        let found: BTreeSet<u64> = ids.iter().filter_map(|id| self.find_batch(access, id)).collect();
        let count = self.batches.rows.len();
        let is_unused = |row: &Row| row.items.is_empty() && row.batch.updated_at < before;
        self.batches.rows.retain(|number, row| !(found.contains(number) && is_unused(row)));
        let deleted = (count - self.batches.rows.len()) as u64;
        self.changes += deleted;
        deleted
    }

    /// Makes run `seq` this item of a batch.
    pub(super) fn enter_batch(&mut self, number: u64, index: u64, seq: u64) {
        if let Some(row) = self.batches.rows.get_mut(&number) {
            row.items.insert(index, seq);
        }
    }
}
