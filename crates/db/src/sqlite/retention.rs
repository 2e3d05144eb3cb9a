//! Deleting runs that have ended, in SQLite: a few rows in each transaction.
//!
//! ```text
//! a run ──► its rows go, and with them as much of its log as one call may delete ──► {T}_remains: the rest, for later calls
//! a definition ──► in doubt when a run of it went ──► looked for, a window at a time ──► found, or deleted
//! ```
//! It must never choose which runs go. The invariant: what is left of a log belongs to no run, and no new run gets its
//! number.

use super::SqliteDb;
use super::counts::UNFINISHED_OF_BATCH;
use super::failure::Fail;
use super::reader::Reader;
use super::rows::{self, count, first, int, shown, value};
use super::tables::Tables;
use outlive_core::port::{
    Access, BoxFuture, DELETED_BYTES_MAX, DELETED_ROWS_MAX, DELETED_RUNS_MAX, DbError, Deleted, IDLE_SESSIONS_MAX,
    IdleSessions, Pruned, RetentionStore, TURN_MAX, Turn,
};
use outlive_core::{RunId, RunStatus, Timestamp};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Requests among which one call looks for a run of a definition.
const WINDOW: u64 = 1_000;

impl RetentionStore for SqliteDb {
    fn run_sizes(&self, access: Access, run_ids: Vec<RunId>) -> BoxFuture<'_, Result<Vec<Option<u64>>, DbError>> {
        Box::pin(self.read_with(move |reader| {
            let _moment = reader.connection.unchecked_transaction()?;
            run_ids.iter().map(|run_id| reader.run_size(&access, run_id)).collect()
        }))
    }

    fn delete_runs(
        &self,
        access: Access,
        run_ids: Vec<RunId>,
        scope: Option<Arc<str>>,
    ) -> BoxFuture<'_, Result<Deleted, DbError>> {
        Box::pin(self.write(move |tables| tables.delete_runs(&access, &run_ids, scope.as_deref())))
    }

    fn delete_idle_sessions(&self, before: Timestamp, from: u64) -> BoxFuture<'_, Result<IdleSessions, DbError>> {
        Box::pin(self.write(move |tables| tables.delete_idle_sessions(before, from)))
    }

    fn delete_batches(
        &self,
        access: Access,
        ids: Vec<Arc<str>>,
        before: Timestamp,
    ) -> BoxFuture<'_, Result<u64, DbError>> {
        Box::pin(self.write(move |tables| tables.delete_batches(&access, &ids, before)))
    }

    fn take_turn(&self, turn: Turn) -> BoxFuture<'_, Result<bool, DbError>> {
        Box::pin(self.write(move |tables| tables.take_turn(&turn)))
    }

    fn used_bytes(&self) -> BoxFuture<'_, Result<u64, DbError>> {
        Box::pin(self.read_with(|reader| {
            let pragma = |name: &str| count(value(&reader.connection, name, [])?.unwrap_or_default());
            let pages = pragma("PRAGMA page_count")?.saturating_sub(pragma("PRAGMA freelist_count")?);
            Ok(pages * pragma("PRAGMA page_size")?)
        }))
    }

    fn pruned(&self) -> BoxFuture<'_, Result<Vec<Pruned>, DbError>> {
        Box::pin(self.read_with(|reader| reader.pruned()))
    }
}

/// The statements.
pub(super) struct RetentionSql {
    deletable: String,
    size: String,
    parts: [String; 6],
    run_budgets: String,
    log: String,
    cut: String,
    remain: String,
    remains: String,
    forget_remains: String,
    number_again: [String; 2],
    add: String,
    doubt: String,
    in_doubt: String,
    window: String,
    found: String,
    delete_definition: String,
    turn: String,
    pruned: String,
    idle: String,
    last_idle: String,
}

impl RetentionSql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        Self {
            deletable: sql(&format!(
                "SELECT r.seq, r.status, r.workflow_id, r.user_id, q.definition, \
                coalesce(octet_length(q.input), 0) + coalesce(octet_length(q.options), 0) + \
                coalesce((SELECT octet_length(o.output) FROM {{T}}_run_outputs o WHERE o.seq = r.seq), 0), \
                r.batch_seq, {UNFINISHED_OF_BATCH} FROM {{T}}_runs r JOIN {{T}}_run_requests q ON q.seq = r.seq \
                WHERE r.run_id = ?1 AND r.status >= 3 AND (?2 IS NULL OR r.user_id = ?2) \
                AND NOT EXISTS (SELECT 1 FROM {{T}}_run_hooks h WHERE h.seq = r.seq AND h.state = 0) \
                AND NOT EXISTS (SELECT 1 FROM {{T}}_batches b WHERE b.seq = r.batch_seq AND b.items IS NULL \
                AND b.cancelled_at IS NULL) \
                AND NOT EXISTS (SELECT 1 FROM {{T}}_runs u INDEXED BY {{T}}_runs_unfinished \
                WHERE u.status < 3 AND u.session_seq = r.session_seq AND u.seq > r.seq)"
            )),
            size: sql("SELECT coalesce(sum(octet_length(body)), 0) FROM {T}_run_events WHERE run_seq = ?1"),
            parts: [
                sql("DELETE FROM {T}_questions WHERE run_seq = ?1"),
                sql("DELETE FROM {T}_run_hook_deliveries WHERE run_seq = ?1"),
                sql("DELETE FROM {T}_run_hooks WHERE seq = ?1"),
                sql("DELETE FROM {T}_run_outputs WHERE seq = ?1"),
                sql("DELETE FROM {T}_run_requests WHERE seq = ?1"),
                sql("DELETE FROM {T}_runs WHERE seq = ?1"),
            ],
            run_budgets: sql("DELETE FROM {T}_budgets WHERE subject = ?1 AND per = 'run'"),
            log: sql("SELECT first_index, octet_length(body) FROM {T}_run_events WHERE run_seq = ?1 \
                ORDER BY first_index LIMIT ?2"),
            cut: sql("DELETE FROM {T}_run_events WHERE run_seq = ?1 AND first_index <= ?2"),
            remain: sql("INSERT INTO {T}_remains (run_seq) VALUES (?1) ON CONFLICT DO NOTHING"),
            remains: sql("SELECT run_seq FROM {T}_remains ORDER BY run_seq LIMIT 1"),
            forget_remains: sql("DELETE FROM {T}_remains WHERE run_seq = ?1"),
            number_again: [
                sql("DELETE FROM {T}_run_events WHERE run_seq IN (SELECT run_seq FROM {T}_remains \
                    WHERE run_seq > (SELECT coalesce(max(seq), 0) FROM {T}_runs))"),
                sql("DELETE FROM {T}_remains WHERE run_seq > (SELECT coalesce(max(seq), 0) FROM {T}_runs)"),
            ],
            add: sql("INSERT INTO {T}_retention (scope, until, runs, bytes, at) VALUES (?1, 0, ?2, ?3, 0) \
                ON CONFLICT (scope) DO UPDATE SET runs = runs + excluded.runs, bytes = bytes + excluded.bytes"),
            doubt: sql("UPDATE {T}_definitions SET first_run = -max(first_run, 1) WHERE hash = ?1 AND first_run >= 0"),
            in_doubt: sql("SELECT hash, -first_run FROM {T}_definitions WHERE first_run < 0 LIMIT 1"),
            window: sql("SELECT min(iif(definition = ?1, seq, NULL)), max(seq) FROM (SELECT seq, definition \
                FROM {T}_run_requests WHERE seq >= ?2 ORDER BY seq LIMIT ?3)"),
            found: sql("UPDATE {T}_definitions SET first_run = ?2 WHERE hash = ?1"),
            delete_definition: sql("DELETE FROM {T}_definitions WHERE hash = ?1"),
            turn: sql(
                "INSERT INTO {T}_retention (scope, worker, until, runs, bytes, at) VALUES (?1, ?2, ?3, 0, 0, ?4) \
                ON CONFLICT (scope) DO UPDATE SET worker = excluded.worker, until = excluded.until, at = excluded.at \
                WHERE worker IS NULL OR worker = excluded.worker OR until <= excluded.at OR until > ?5",
            ),
            pruned: sql("SELECT scope, runs, bytes, at FROM {T}_retention ORDER BY scope"),
            idle: sql("SELECT s.seq FROM (SELECT seq, updated_at FROM {T} WHERE seq >= ?1 ORDER BY seq LIMIT ?2) s \
                WHERE s.updated_at < ?3 \
                AND NOT EXISTS (SELECT 1 FROM {T}_runs u INDEXED BY {T}_runs_unfinished \
                WHERE u.status < 3 AND u.session_seq = s.seq) \
                AND NOT EXISTS (SELECT 1 FROM {T}_runs f INDEXED BY {T}_runs_finished \
                WHERE f.status >= 3 AND f.session_seq = s.seq)"),
            last_idle: sql(
                "SELECT max(seq), count(*) FROM (SELECT seq FROM {T} WHERE seq >= ?1 ORDER BY seq LIMIT ?2)",
            ),
        }
    }
}

/// A run that can be deleted.
struct Ended {
    seq: i64,
    status: i64,
    workflow_id: Arc<str>,
    user_id: Option<Arc<str>>,
    definition: Arc<str>,
    /// Of input, options and output.
    bytes: u64,
    /// The batch whose item it is, with how many of its items have not ended.
    batch: Option<(i64, i64)>,
}

fn find(connection: &Connection, sql: &RetentionSql, access: &Access, run_id: &RunId) -> Result<Option<Ended>, Fail> {
    let columns = params![run_id.as_str(), access.user().map(|user_id| &**user_id)];
    first(connection, &sql.deletable, columns, |row| {
        Ok(Ended {
            seq: row.get(0)?,
            status: row.get(1)?,
            workflow_id: row.get(2)?,
            user_id: row.get(3)?,
            definition: row.get(4)?,
            bytes: count(row.get(5)?)?,
            batch: row.get::<_, Option<i64>>(6)?.zip(row.get(7)?),
        })
    })
}

impl Reader {
    fn run_size(&self, access: &Access, run_id: &RunId) -> Result<Option<u64>, Fail> {
        let sql = &self.sql.retention;
        let found = find(&self.connection, sql, access, run_id)?;
        let Some(ended) = found.filter(|ended| ended.batch.is_none_or(|(_, unfinished)| unfinished <= 0)) else {
            return Ok(None);
        };
        let log: i64 = value(&self.connection, &sql.size, [ended.seq])?.unwrap_or_default();
        Ok(Some(ended.bytes + count(log)?))
    }

    fn pruned(&self) -> Result<Vec<Pruned>, Fail> {
        let mut statement = self.connection.prepare_cached(&self.sql.retention.pruned)?;
        let mut rows = statement.query([])?;
        let mut pruned = Vec::new();
        while let Some(row) = rows.next()? {
            pruned.push(Pruned {
                scope: shown(row, 0)?.unwrap_or_default(),
                runs: count(row.get(1)?)?,
                bytes: count(row.get(2)?)?,
                at: Timestamp::from_micros(row.get(3)?),
            });
        }
        Ok(pruned)
    }
}

/// What one call may still delete of logs.
struct Room {
    rows: u64,
    bytes: u64,
}

impl Room {
    fn is_used_up(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }
}

impl Tables<'_> {
    fn delete_runs(&mut self, access: &Access, run_ids: &[RunId], scope: Option<&str>) -> Result<Deleted, Fail> {
        let mut room = Room { rows: DELETED_ROWS_MAX, bytes: DELETED_BYTES_MAX };
        let mut deleted = Deleted { bytes: self.delete_remains(&mut room)?, ..Deleted::default() };
        let (mut definitions, mut batches) = (BTreeSet::new(), BTreeSet::new());
        for run_id in run_ids {
            if deleted.runs == DELETED_RUNS_MAX as u64 || room.is_used_up() {
                deleted.more = true;
                break;
            }
            // What is already gone was deleted by an earlier call, or by somebody else.
            let Some(ended) = self.deletable(access, run_id)? else { continue };
            deleted.bytes += self.delete_run(run_id, &ended, &mut room)?;
            deleted.runs += 1;
            definitions.insert(ended.definition);
            batches.extend(ended.batch.map(|(batch, _)| batch));
        }
        if deleted.runs > 0 {
            self.deleted();
        }
        for batch in batches {
            deleted.batches += u64::from(self.delete_batch_that_is_over(batch)?);
        }
        self.delete_what_numbers_could_mean()?;
        let sql = &self.sql().retention;
        definitions.iter().try_for_each(|hash| self.execute(&sql.doubt, [&**hash]))?;
        self.settle_doubt()?;
        let is_left = value::<i64>(self.connection(), &sql.remains, [])?.is_some()
            || first(self.connection(), &sql.in_doubt, [], |_| Ok(()))?.is_some();
        if let Some(scope) = scope.filter(|_| deleted.runs > 0 || deleted.bytes > 0) {
            self.execute(&sql.add, params![scope, int(deleted.runs), int(deleted.bytes)])?;
        }
        deleted.more |= is_left;
        Ok(deleted)
    }

    /// The run, if it can be deleted by what this transaction has written so far.
    fn deletable(&self, access: &Access, run_id: &RunId) -> Result<Option<Ended>, Fail> {
        let found = find(self.connection(), &self.sql().retention, access, run_id)?;
        Ok(found.filter(|ended| match ended.batch {
            Some((batch, unfinished)) => {
                let changed = RunStatus::ALL.into_iter().zip(self.changed().of_batch(batch));
                let changed = changed.filter(|(status, _)| !status.is_terminal()).map(|(_, by)| by);
                unfinished + changed.sum::<i64>() <= 0
            }
            None => true,
        }))
    }

    /// Deletes a run with as much of its log as there is room for; gives the bytes.
    fn delete_run(&mut self, run_id: &RunId, ended: &Ended, room: &mut Room) -> Result<u64, Fail> {
        let sql = &self.sql().retention;
        let (log, is_all) = self.delete_log(ended.seq, room)?;
        if !is_all {
            self.execute(&sql.remain, [ended.seq])?;
        }
        self.execute(&sql.run_budgets, [run_id.as_str()])?;
        sql.parts.iter().try_for_each(|sql| self.execute(sql, [ended.seq]))?;
        // A run with a damaged status can be deleted all the same.
        if let Ok(status) = rows::status(ended.status) {
            self.changes().runs(ended.workflow_id.clone(), ended.user_id.clone(), status, -1);
            ended.batch.into_iter().for_each(|(batch, _)| self.changes().batch(batch, status, -1));
        }
        self.ran(run_id, None);
        Ok(ended.bytes + log)
    }

    /// Deletes the beginning of a log; gives its bytes, and whether it was all there was.
    fn delete_log(&self, run_seq: i64, room: &mut Room) -> Result<(u64, bool), Fail> {
        let sql = &self.sql().retention;
        let (mut last, mut bytes, mut is_all) = (None, 0, true);
        {
            let mut statement = self.connection().prepare_cached(&sql.log)?;
            let mut rows = statement.query(params![run_seq, int(room.rows + 1)])?;
            while let Some(row) = rows.next()? {
                if room.is_used_up() {
                    is_all = false;
                    break;
                }
                last = Some(row.get::<_, i64>(0)?);
                let len = count(row.get(1)?)?;
                bytes += len;
                *room = Room { rows: room.rows - 1, bytes: room.bytes.saturating_sub(len) };
            }
        }
        if let Some(last) = last {
            self.execute(&sql.cut, params![run_seq, last])?;
        }
        Ok((bytes, is_all))
    }

    /// Goes on deleting logs whose runs are gone.
    fn delete_remains(&self, room: &mut Room) -> Result<u64, Fail> {
        let sql = &self.sql().retention;
        let mut bytes = 0;
        while !room.is_used_up()
            && let Some(run_seq) = value::<i64>(self.connection(), &sql.remains, [])?
        {
            let (log, is_all) = self.delete_log(run_seq, room)?;
            bytes += log;
            if is_all {
                self.execute(&sql.forget_remains, [run_seq])?;
            }
        }
        Ok(bytes)
    }

    /// SQLite gives the next run the number after the highest there is: nothing may be left under it.
    pub(super) fn delete_what_numbers_could_mean(&self) -> Result<(), Fail> {
        self.sql().retention.number_again.iter().try_for_each(|sql| self.execute(sql, []))
    }

    /// Looks a little further for a run of a definition in doubt. A run that is accepted meanwhile takes the doubt away.
    fn settle_doubt(&self) -> Result<(), Fail> {
        let sql = &self.sql().retention;
        let found: Option<(Arc<str>, i64)> =
            first(self.connection(), &sql.in_doubt, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Some((hash, from)) = found else { return Ok(()) };
        let columns = params![&*hash, from, int(WINDOW)];
        let window: Option<(Option<i64>, Option<i64>)> =
            first(self.connection(), &sql.window, columns, |row| Ok((row.get(0)?, row.get(1)?)))?;
        match window.unwrap_or_default() {
            (Some(run), _) => self.execute(&sql.found, params![&*hash, run]),
            (None, Some(last)) => self.execute(&sql.found, params![&*hash, -(last + 1)]),
            (None, None) => self.execute(&sql.delete_definition, [&*hash]),
        }
    }

    fn delete_idle_sessions(&mut self, before: Timestamp, from: u64) -> Result<IdleSessions, Fail> {
        let sql = &self.sql().retention;
        let most = i64::from(IDLE_SESSIONS_MAX);
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, i64>(1)?));
        let seen = first(self.connection(), &sql.last_idle, params![int(from), most], read)?;
        let idle: Vec<i64> = {
            let mut statement = self.connection().prepare_cached(&sql.idle)?;
            let found = statement.query_map(params![int(from), most, before.as_micros()], |row| row.get(0))?;
            found.collect::<Result<_, _>>()?
        };
        idle.iter().try_for_each(|seq| self.delete_session(*seq))?;
        let next = seen.filter(|(_, count)| *count == most).and_then(|(last, _)| last);
        Ok(IdleSessions { deleted: idle.len() as u64, next: next.map(|last| count(last + 1)).transpose()? })
    }

    fn take_turn(&self, turn: &Turn) -> Result<bool, Fail> {
        let (at, until, latest) = (turn.at, turn.at + turn.length, turn.at + TURN_MAX);
        let columns =
            params![&*turn.scope, turn.worker.as_str(), until.as_micros(), at.as_micros(), latest.as_micros()];
        Ok(self.connection().prepare_cached(&self.sql().retention.turn)?.execute(columns)? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;

    #[test]
    fn what_is_deleted_is_found_by_an_index_and_never_sorted() {
        let connection = Connection::open_in_memory().expect("memory is there");
        let tables = [schema::create_shared(), schema::create_tables("outlive_sessions", 1)];
        tables.iter().for_each(|sql| connection.execute_batch(sql).expect("the schema is good"));
        let sql = RetentionSql::new("outlive_sessions");
        let by_number = [&sql.size, &sql.run_budgets, &sql.log, &sql.cut, &sql.deletable];
        for statement in by_number.into_iter().chain(&sql.parts) {
            let lines = schema::plan(&connection, "runs", statement);
            let is_found = |line: &String| !line.starts_with("SCAN") && !line.contains("TEMP B-TREE");
            assert!(lines.iter().all(is_found), "{statement}: {lines:#?}");
        }
        // A window is walked and no further.
        for statement in [&sql.window, &sql.idle, &sql.last_idle] {
            let lines = schema::plan(&connection, "runs", statement);
            let is_range = |line: &String| line.contains("INTEGER PRIMARY KEY (rowid>?)");
            assert!(lines.iter().any(is_range), "{statement}: {lines:#?}");
            assert!(!lines.iter().any(|line| line.contains("TEMP B-TREE")), "{statement}: {lines:#?}");
        }
    }
}
