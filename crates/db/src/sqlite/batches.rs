//! Batches in SQLite: their rows, and the runs that are their items.
//!
//! A run's row says which item it is; how many runs of each status a batch has is counted like all counts are
//! (`counts`). The invariant: an item has one run at most, which the unique index of items ensures.

use super::SqliteDb;
use super::counts;
use super::failure::Fail;
use super::reader::Reader;
use super::rows::{self, count, first, id, int, shown};
use super::tables::Tables;
use crate::rules;
use outlive_core::port::{
    Access, BatchChange, BatchFilter, BatchPage, BatchStore, BoxFuture, CancelIntent, DbError, ItemFilter, ItemPage,
    NewBatch, NewItem, NewRun, StoredBatch,
};
use outlive_core::{RunId, RunStatus, Timestamp};
use rusqlite::{Connection, Row, params};
use std::sync::Arc;

impl BatchStore for SqliteDb {
    fn create_batch(&self, access: Access, batch: NewBatch) -> BoxFuture<'_, Result<StoredBatch, DbError>> {
        Box::pin(self.write(move |tables| tables.create_batch(&access, &batch)))
    }

    fn batch(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredBatch>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.batch(&access, &id)))
    }

    fn batches(&self, access: Access, filter: BatchFilter) -> BoxFuture<'_, Result<BatchPage, DbError>> {
        Box::pin(self.read_with(move |reader| reader.batches(&access, &filter)))
    }

    fn change_batch(
        &self,
        access: Access,
        id: Arc<str>,
        change: BatchChange,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredBatch>, DbError>> {
        Box::pin(self.write(move |tables| tables.change_batch(&access, &id, change, at)))
    }

    fn batch_items(
        &self,
        access: Access,
        id: Arc<str>,
        filter: ItemFilter,
    ) -> BoxFuture<'_, Result<ItemPage, DbError>> {
        Box::pin(self.read_with(move |reader| reader.batch_items(&access, &id, &filter)))
    }

    fn cancel_items(
        &self,
        access: Access,
        id: Arc<str>,
        from: u64,
        limit: u32,
        cancel: CancelIntent,
    ) -> BoxFuture<'_, Result<Option<u64>, DbError>> {
        Box::pin(self.write(move |tables| tables.cancel_items(&access, &id, from, limit, &cancel)))
    }
}

/// The statements.
pub(super) struct BatchSql {
    insert: String,
    by_id: String,
    of_all: String,
    of_user: String,
    of_workflow: String,
    complete: String,
    cancel: String,
    accepted: String,
    place: String,
    release: String,
    items: String,
    unfinished: String,
    delete_over: String,
    delete_unused: String,
}

/// Columns of a batch, in the order [`read_row`] reads them.
const BATCH: &str = "SELECT b.batch_id, b.workflow_id, b.user_id, b.text, b.items, b.cancelled_at, b.created_at, \
    b.updated_at, b.seq FROM {T}_batches b";

/// A batch's items, in order; ?1 is its number.
const ITEMS: &str = "FROM {T}_runs r INDEXED BY {T}_runs_by_batch WHERE r.batch_seq IS NOT NULL AND r.batch_seq = ?1";

impl BatchSql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        // What comes before ?4, the newest first, ?3 at most.
        let list = |index: &str, range: &str| {
            sql(&format!(
                "{BATCH} {index} WHERE {range} AND b.seq < ?4 AND (?1 IS NULL OR b.user_id = ?1) \
                 AND (?2 IS NULL OR b.workflow_id = ?2) ORDER BY b.seq DESC LIMIT ?3"
            ))
        };
        Self {
            insert: sql("INSERT INTO {T}_batches (batch_id, workflow_id, user_id, created_at, updated_at, text) \
                VALUES (?1, ?2, ?3, ?4, ?4, ?5)"),
            by_id: sql(&format!("{BATCH} WHERE b.batch_id = ?1 AND (?2 IS NULL OR b.user_id = ?2)")),
            of_all: list("NOT INDEXED", "TRUE"),
            of_user: list("INDEXED BY {T}_batches_by_user", "b.user_id = ?1"),
            of_workflow: list("INDEXED BY {T}_batches_by_workflow", "b.workflow_id = ?2"),
            complete: sql("UPDATE {T}_batches SET items = ?2, updated_at = ?3 WHERE seq = ?1"),
            cancel: sql(
                "UPDATE {T}_batches SET cancelled_at = coalesce(cancelled_at, ?2), updated_at = ?2 WHERE seq = ?1",
            ),
            accepted: sql(&format!("SELECT count(*), coalesce(max(r.batch_item) + 1, 0) {ITEMS}")),
            place: sql(&format!("SELECT r.seq, r.run_id, r.status {ITEMS} AND r.batch_item = ?2")),
            release: sql("UPDATE {T}_runs SET batch_seq = NULL, batch_item = NULL WHERE seq = ?1"),
            items: sql(&format!(
                "SELECT r.seq, r.status, r.batch_item {ITEMS} AND r.batch_item >= ?2 ORDER BY r.batch_item"
            )),
            unfinished: sql(&format!(
                "SELECT r.seq, r.run_id, r.worker_seq IS NULL, r.batch_item {ITEMS} AND r.batch_item >= ?2 \
                 AND r.status < 3 ORDER BY r.batch_item LIMIT ?3"
            )),
            delete_over: sql(&format!(
                "DELETE FROM {{T}}_batches WHERE seq = ?1 AND (items IS NOT NULL OR cancelled_at IS NOT NULL) \
                 AND NOT EXISTS (SELECT 1 {ITEMS})"
            )),
            delete_unused: sql(&format!(
                "DELETE FROM {{T}}_batches WHERE seq = ?1 AND updated_at < ?2 AND NOT EXISTS (SELECT 1 {ITEMS})"
            )),
        }
    }

    fn list(&self, access: &Access, filter: &BatchFilter) -> &str {
        match (access.user(), &filter.workflow_id) {
            (Some(_), _) => &self.of_user,
            (None, Some(_)) => &self.of_workflow,
            (None, None) => &self.of_all,
        }
    }
}

/// A batch with its number.
struct Numbered {
    batch: StoredBatch,
    seq: i64,
}

fn read(row: &Row<'_>) -> Result<Numbered, Fail> {
    read_row(row).map_err(|fail| match shown(row, 0) {
        Ok(Some(id)) => rows::unreadable(&format!("batch {id}"), fail),
        _ => rows::unreadable("a batch whose id is lost", fail),
    })
}

fn read_row(row: &Row<'_>) -> Result<Numbered, Fail> {
    let needed = |column: usize| {
        let text = shown(row, column)?;
        text.ok_or_else(|| rows::damaged(format!("column {column} is null")))
    };
    let time = |column: usize| Ok::<_, Fail>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_micros));
    let batch = StoredBatch {
        id: needed(0)?,
        workflow_id: id(&needed(1)?)?,
        user_id: shown(row, 2)?,
        text: rows::json(row, 3)?.unwrap_or_default(),
        items: row.get::<_, Option<i64>>(4)?.map(count).transpose()?,
        cancelled_at: time(5)?,
        created_at: time(6)?.unwrap_or_default(),
        updated_at: time(7)?.unwrap_or_default(),
        counts: Default::default(),
    };
    Ok(Numbered { batch, seq: row.get(8)? })
}

fn find(connection: &Connection, sql: &BatchSql, access: &Access, id: &str) -> Result<Option<Numbered>, Fail> {
    first(connection, &sql.by_id, params![id, access.user().map(|user_id| &**user_id)], read)
}

/// Where a run is to be put in its batch.
pub(super) struct Place {
    pub(super) batch: i64,
    pub(super) item: i64,
    /// The run that is there, and its status.
    replaces: Option<(i64, RunStatus)>,
}

impl Tables<'_> {
    fn create_batch(&mut self, access: &Access, new: &NewBatch) -> Result<StoredBatch, Fail> {
        let user_id = new.user_id.as_deref();
        if !access.sees(user_id) {
            return Err(rules::no_batch(&new.id).into());
        }
        let sql = &self.sql().batches;
        let seq = match find(self.connection(), sql, &Access::All, &new.id)? {
            Some(there) if rules::is_same_batch(&there.batch, new) => there.seq,
            Some(_) => return Err(rules::batch_id_taken(&new.id).into()),
            None => {
                let (workflow_id, at) = (new.workflow_id.as_str(), new.at.as_micros());
                self.execute_and_number(&sql.insert, params![&*new.id, workflow_id, user_id, at, &*new.text])?
            }
        };
        self.counted_batch(&new.id, seq)
    }

    /// The batch with its counts, those of this transaction among them.
    fn counted_batch(&self, id: &str, seq: i64) -> Result<StoredBatch, Fail> {
        let found = find(self.connection(), &self.sql().batches, &Access::All, id)?;
        let found = found.ok_or_else(|| rows::damaged(format!("batch {id} is not where it was put")))?;
        let mut counts = counts::batch(self.connection(), self.sql(), seq)?;
        for (count, change) in counts.iter_mut().zip(self.changed().of_batch(seq)) {
            *count = count.saturating_add_signed(change);
        }
        Ok(StoredBatch { counts, ..found.batch })
    }

    fn change_batch(
        &mut self,
        access: &Access,
        id: &str,
        change: BatchChange,
        at: Timestamp,
    ) -> Result<Option<StoredBatch>, Fail> {
        let sql = &self.sql().batches;
        let Some(Numbered { batch, seq }) = find(self.connection(), sql, access, id)? else { return Ok(None) };
        match change {
            BatchChange::Complete(items) => {
                let read = |row: &Row<'_>| Ok((count(row.get(0)?)?, count(row.get(1)?)?));
                let (accepted, end) = first(self.connection(), &sql.accepted, [seq], read)?.unwrap_or_default();
                rules::complete_batch(&batch, items, accepted, end)?;
                if batch.items.is_none() {
                    self.execute(&sql.complete, params![seq, int(items), at.as_micros()])?;
                }
            }
            BatchChange::Cancel => self.execute(&sql.cancel, params![seq, at.as_micros()])?,
        }
        self.counted_batch(id, seq).map(Some)
    }

    /// Where the run is to be put in its batch, if it is an item of one. Nothing is written.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it cannot be put there.
    pub(super) fn batch_place(&self, new: &NewRun) -> Result<Option<Place>, Fail> {
        let Some(NewItem { item, replaces }) = new.start.item.as_deref() else { return Ok(None) };
        let sql = &self.sql().batches;
        let found = find(self.connection(), sql, &Access::All, &item.batch_id)?;
        let Some(Numbered { batch, seq }) = rules::batch_of(found, replaces.is_some(), item)? else { return Ok(None) };
        let index = int(item.index);
        let there = first(self.connection(), &sql.place, params![seq, index], |row| {
            Ok((row.get::<_, i64>(0)?, id::<RunId>(&row.get::<_, Arc<str>>(1)?)?, rows::status(row.get(2)?)?))
        })?;
        let standing = there.as_ref().map(|(_, run_id, status)| (run_id, *status));
        rules::enter_batch(&batch, new, item, replaces.as_ref(), standing)?;
        let replaces = there.map(|(old, _, status)| (old, status));
        Ok(Some(Place { batch: seq, item: index, replaces }))
    }

    /// Makes room at that place, and counts the run that comes there.
    pub(super) fn enter_batch(&mut self, place: &Place) -> Result<(), Fail> {
        if let Some((old, status)) = place.replaces {
            self.execute(&self.sql().batches.release, [old])?;
            self.changes().batch(place.batch, status, -1);
        }
        self.changes().batch(place.batch, RunStatus::Pending, 1);
        Ok(())
    }

    /// Deletes a batch whose last run is gone, if no more will come. What a run leaves behind counts as nothing.
    pub(super) fn delete_batch_that_is_over(&self, batch: i64) -> Result<bool, Fail> {
        let mut statement = self.connection().prepare_cached(&self.sql().batches.delete_over)?;
        Ok(statement.execute([batch])? > 0)
    }

    /// Deletes batches without runs.
    pub(super) fn delete_batches(&self, access: &Access, ids: &[Arc<str>], before: Timestamp) -> Result<u64, Fail> {
        let sql = &self.sql().batches;
        let mut deleted = 0;
        for id in ids {
            let Some(Numbered { seq, .. }) = find(self.connection(), sql, access, id)? else { continue };
            let mut statement = self.connection().prepare_cached(&sql.delete_unused)?;
            deleted += statement.execute(params![seq, before.as_micros()])? as u64;
        }
        Ok(deleted)
    }

    fn cancel_items(
        &mut self,
        access: &Access,
        id: &str,
        from: u64,
        limit: u32,
        cancel: &CancelIntent,
    ) -> Result<Option<u64>, Fail> {
        let Some(Numbered { seq, .. }) = find(self.connection(), &self.sql().batches, access, id)? else {
            return Ok(None);
        };
        let limit = limit.max(1) as usize;
        let mut found: Vec<(i64, RunId, bool, i64)> = Vec::new();
        {
            let mut statement = self.connection().prepare_cached(&self.sql().batches.unfinished)?;
            let mut rows = statement.query(params![seq, int(from), int(limit as u64 + 1)])?;
            while let Some(row) = rows.next()? {
                let run_id = rows::id(&row.get::<_, Arc<str>>(1)?)?;
                found.push((row.get(0)?, run_id, row.get(2)?, row.get(3)?));
            }
        }
        let next = found.get(limit).map(|(.., item)| count(*item)).transpose()?;
        for (run, run_id, is_free, _) in found.into_iter().take(limit) {
            self.execute(&self.sql().set_cancel, params![run, cancel.at.as_micros(), &*cancel.reason])?;
            self.ran(&run_id, None);
            if is_free {
                self.freed(None);
            }
        }
        Ok(next)
    }
}

impl Reader {
    fn batch(&self, access: &Access, id: &str) -> Result<Option<StoredBatch>, Fail> {
        let _moment = self.connection.unchecked_transaction()?;
        find(&self.connection, &self.sql.batches, access, id)?.map(|found| self.with_counts(found)).transpose()
    }

    fn with_counts(&self, found: Numbered) -> Result<StoredBatch, Fail> {
        Ok(StoredBatch { counts: counts::batch(&self.connection, &self.sql, found.seq)?, ..found.batch })
    }

    fn batches(&self, access: &Access, filter: &BatchFilter) -> Result<BatchPage, Fail> {
        let cursor = rules::parse_batch_cursor(filter)?.map_or(i64::MAX, int);
        // All of it as of one moment.
        let _moment = self.connection.unchecked_transaction()?;
        let limit = rules::batch_limit(filter.limit);
        let user_id = access.user().map(|user_id| &**user_id);
        let workflow_id = filter.workflow_id.as_ref().map(|workflow_id| workflow_id.as_str());
        let mut statement = self.connection.prepare_cached(self.sql.batches.list(access, filter))?;
        let mut rows = statement.query(params![user_id, workflow_id, int(limit as u64 + 1), cursor])?;
        let (mut page, mut last, mut taken) = (BatchPage::default(), 0_i64, 0);
        while let Some(row) = rows.next()? {
            if taken == limit {
                page.next = Some(last.to_string());
                break;
            }
            taken += 1;
            last = row.get(8)?;
            match read(row).and_then(|found| self.with_counts(found)) {
                Ok(batch) => page.batches.push(batch),
                // Others must not wait for it.
                Err(Fail::Said(error)) => tracing::error!(%error, "a batch is left out of a list"),
                Err(fail) => return Err(fail),
            }
        }
        Ok(page)
    }

    fn batch_items(&self, access: &Access, id: &str, filter: &ItemFilter) -> Result<ItemPage, Fail> {
        let _moment = self.connection.unchecked_transaction()?;
        let mut page = ItemPage::default();
        let Some(Numbered { seq, .. }) = find(&self.connection, &self.sql.batches, access, id)? else {
            return Ok(page);
        };
        let limit = rules::batch_limit(filter.limit);
        let line = if filter.with_payload { &self.sql.run_by_seq } else { &self.sql.line_by_seq };
        let wanted: Vec<i64> = filter.statuses.iter().map(|status| rows::status_column(*status)).collect();
        let mut statement = self.connection.prepare_cached(&self.sql.batches.items)?;
        let mut rows = statement.query(params![seq, int(filter.from)])?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            if !wanted.is_empty() && !wanted.contains(&row.get(1)?) {
                continue;
            }
            let index = count(row.get(2)?)?;
            if page.items.len() + page.unreadable.len() == limit || bytes > rules::LIST_BYTES_MAX {
                page.next = Some(index);
                break;
            }
            match rows::run_by_seq(&self.connection, line, row.get(0)?) {
                Ok(run) => {
                    bytes += rules::list_bytes(&run);
                    page.items.push((index, run));
                }
                Err(Fail::Said(error)) => page.unreadable.push((index, error)),
                Err(fail) => return Err(fail),
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;

    const TABLE: &str = "outlive_sessions";

    #[test]
    fn batches_and_their_items_are_found_by_an_index_and_never_sorted() {
        let connection = Connection::open_in_memory().expect("memory is there");
        let tables = [schema::create_shared(), schema::create_tables(TABLE, 1)];
        tables.iter().for_each(|sql| connection.execute_batch(sql).expect("the schema is good"));
        let sql = BatchSql::new(TABLE);
        let expected = [
            (&sql.of_all, "batches", "INTEGER PRIMARY KEY (rowid<?)"),
            (&sql.of_user, "batches", "INDEX by_user (user_id=? AND rowid<?)"),
            (&sql.of_workflow, "batches", "INDEX by_workflow (workflow_id=? AND rowid<?)"),
            (&sql.place, "runs", "INDEX by_batch (batch_seq=? AND batch_item=?)"),
            (&sql.items, "runs", "INDEX by_batch (batch_seq=? AND batch_item>?)"),
            (&sql.unfinished, "runs", "INDEX by_batch (batch_seq=? AND batch_item>?)"),
            (&sql.accepted, "runs", "COVERING INDEX by_batch (batch_seq=?)"),
            (&sql.delete_over, "batches", "INTEGER PRIMARY KEY (rowid=?)"),
            (&sql.delete_over, "runs", "COVERING INDEX by_batch (batch_seq=?)"),
            (&sql.delete_unused, "runs", "COVERING INDEX by_batch (batch_seq=?)"),
        ];
        for (statement, part, index) in expected {
            let lines = schema::plan(&connection, part, statement);
            assert!(lines.iter().any(|line| line.contains(index)), "{statement}: {lines:#?}");
            assert!(!lines.iter().any(|line| line.contains("TEMP B-TREE")), "{statement}: {lines:#?}");
        }
    }
}
