//! Hooks in SQLite: runs without one have no row in the table and no entry in the index.

use super::SqliteDb;
use super::failure::Fail;
use super::reader::Reader;
use super::rows::{self, count, first, id, int};
use super::tables::Tables;
use crate::rules;
use outlive_core::port::{
    Access, BoxFuture, DELIVERIES_MAX, DbError, Delivery, DeliveryOutcome, DueHooks, Failing, Hook, HookEvents,
    HookHistory, HookMove, HookState, HookStore, NewHook,
};
use outlive_core::{RunId, Timestamp};
use rusqlite::{Connection, Row, params};
use std::sync::Arc;
use std::time::Duration;

impl HookStore for SqliteDb {
    fn due_hooks(&self, at: Timestamp, limit: u32) -> BoxFuture<'_, Result<DueHooks, DbError>> {
        Box::pin(self.read_with(move |reader| reader.due_hooks(at, limit)))
    }

    fn claim_hook(
        &self,
        run_id: RunId,
        at: Timestamp,
        period: Duration,
    ) -> BoxFuture<'_, Result<Option<Hook>, DbError>> {
        Box::pin(self.write(move |tables| tables.claim_hook(&run_id, at, period)))
    }

    fn move_hook(&self, step: HookMove) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(self.write(move |tables| tables.move_hook(&step)))
    }

    fn hook(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<HookHistory>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.hook(&access, &run_id)))
    }

    fn rewind_hook(&self, access: Access, run_id: RunId, from: u64) -> BoxFuture<'_, Result<Option<Hook>, DbError>> {
        Box::pin(self.write(move |tables| tables.rewind_hook(&access, &run_id, from)))
    }
}

/// The statements.
pub(super) struct HookSql {
    insert: String,
    due: String,
    ahead: String,
    claim: String,
    one: String,
    advance: String,
    log: String,
    forget: String,
    rewind: String,
    deliveries: String,
}

/// Columns of a hook, in the order [`read_hook`] reads them; the last two are its numbers.
const HOOK: &str = "SELECT r.run_id, h.url, h.events, h.state, h.next_index, h.attempts, h.failing_since, h.not_before, \
    h.epoch, h.seq, h.deliveries FROM {T}_run_hooks h JOIN {T}_runs r ON r.seq = h.seq";

impl HookSql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        Self {
            insert: sql("INSERT INTO {T}_run_hooks (seq, url, events, state, next_index, attempts, failing_since, \
                not_before, epoch, deliveries) VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0, 0)"),
            due: sql("SELECT r.run_id FROM {T}_run_hooks h INDEXED BY {T}_run_hooks_open \
                JOIN {T}_runs r ON r.seq = h.seq WHERE h.state = 0 AND h.not_before <= ?1 \
                AND (r.status >= 3 OR (r.next_index > h.next_index \
                AND (h.events = 1 OR (r.status = 2 AND r.worker_seq IS NULL)))) ORDER BY h.not_before LIMIT ?2"),
            ahead: sql("SELECT (SELECT min(not_before) FROM {T}_run_hooks WHERE state = 0 AND not_before > ?1), \
                EXISTS (SELECT 1 FROM {T}_run_hooks WHERE state = 0)"),
            claim: sql("UPDATE {T}_run_hooks SET epoch = epoch + 1, not_before = ?3 \
                WHERE seq = (SELECT seq FROM {T}_runs WHERE run_id = ?1) AND state = 0 AND not_before <= ?2"),
            one: sql(&format!("{HOOK} WHERE r.run_id = ?1 AND (?2 IS NULL OR r.user_id = ?2)")),
            advance: sql("UPDATE {T}_run_hooks SET next_index = ?2, attempts = ?3, failing_since = ?4, state = ?5, \
                not_before = ?6, deliveries = ?7 WHERE seq = ?1"),
            log: sql("INSERT INTO {T}_run_hook_deliveries \
                (run_seq, number, event_index, attempt, at, took_ms, status, error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
            forget: sql("DELETE FROM {T}_run_hook_deliveries WHERE run_seq = ?1 AND number <= ?2"),
            rewind: sql("UPDATE {T}_run_hooks SET next_index = min(next_index, ?2), epoch = epoch + 1, attempts = 0, \
                failing_since = 0, state = 0, not_before = 0 WHERE seq = ?1"),
            deliveries: sql("SELECT event_index, attempt, at, took_ms, status, error FROM {T}_run_hook_deliveries \
                WHERE run_seq = ?1 ORDER BY number DESC"),
        }
    }
}

/// A hook with its run's number and the number of its deliveries.
struct Numbered {
    hook: Hook,
    seq: i64,
    deliveries: i64,
}

fn read_hook(row: &Row<'_>) -> Result<Numbered, Fail> {
    let events = match row.get(2)? {
        0 => HookEvents::End,
        1 => HookEvents::All,
        other => return Err(rows::damaged(format!("a hook has events {other}"))),
    };
    let state: i64 = row.get(3)?;
    let state = usize::try_from(state).ok().and_then(|place| HookState::ALL.get(place));
    let attempts: u32 = row.get(5)?;
    let not_before: i64 = row.get(7)?;
    let since = Timestamp::from_micros(row.get(6)?);
    let hook = Hook {
        run_id: id(&row.get::<_, Arc<str>>(0)?)?,
        url: row.get(1)?,
        events,
        state: *state.ok_or_else(|| rows::damaged("a hook has an unknown state".to_owned()))?,
        next_index: count(row.get(4)?)?,
        failing: (attempts > 0).then_some(Failing { attempts, since }),
        not_before: (not_before != 0).then(|| Timestamp::from_micros(not_before)),
        epoch: count(row.get(8)?)?,
    };
    Ok(Numbered { hook, seq: row.get(9)?, deliveries: row.get(10)? })
}

fn find(connection: &Connection, sql: &HookSql, access: &Access, run_id: &RunId) -> Result<Option<Numbered>, Fail> {
    let columns = params![run_id.as_str(), access.user().map(|user_id| &**user_id)];
    first(connection, &sql.one, columns, read_hook)
}

fn state_column(state: HookState) -> i64 {
    let place = HookState::ALL.iter().position(|s| *s == state);
    int(place.expect("ALL has every state") as u64)
}

impl Tables<'_> {
    pub(super) fn insert_hook(&self, seq: i64, hook: &NewHook) -> Result<(), Fail> {
        let events = match hook.events {
            HookEvents::End => 0,
            HookEvents::All => 1,
        };
        self.execute(&self.sql().hooks.insert, params![seq, &*hook.url, events])
    }

    fn claim_hook(&mut self, run_id: &RunId, at: Timestamp, period: Duration) -> Result<Option<Hook>, Fail> {
        let columns = params![run_id.as_str(), at.as_micros(), (at + period).as_micros()];
        let claimed = self.connection().prepare_cached(&self.sql().hooks.claim)?.execute(columns)?;
        if claimed == 0 {
            return Ok(None);
        }
        Ok(find(self.connection(), &self.sql().hooks, &Access::All, run_id)?.map(|found| found.hook))
    }

    fn move_hook(&mut self, step: &HookMove) -> Result<(), Fail> {
        let sql = &self.sql().hooks;
        let found = find(self.connection(), sql, &Access::All, &step.run_id)?;
        let found = found.ok_or_else(|| rules::no_run(&step.run_id))?;
        if found.hook.epoch != step.epoch {
            return Err(rules::hook_fenced(step).into());
        }
        let deliveries = found.deliveries + i64::from(step.delivery.is_some());
        let columns = params![
            found.seq,
            int(step.next_index),
            step.failing.map_or(0, |failing| failing.attempts),
            step.failing.map_or(0, |failing| failing.since.as_micros()),
            state_column(step.state),
            rows::due_column(step.not_before),
            deliveries,
        ];
        self.execute(&sql.advance, columns)?;
        match &step.delivery {
            Some(delivery) => self.log_delivery(found.seq, deliveries, delivery),
            None => Ok(()),
        }
    }

    fn log_delivery(&self, seq: i64, number: i64, delivery: &Delivery) -> Result<(), Fail> {
        let sql = &self.sql().hooks;
        let (status, error) = match &delivery.outcome {
            DeliveryOutcome::Answered(status) => (Some(*status), None),
            DeliveryOutcome::Failed(error) => (None, Some(&**error)),
        };
        let took_ms = i64::try_from(delivery.took.as_millis()).unwrap_or(i64::MAX);
        let columns = params![
            seq,
            number,
            int(delivery.event_index),
            delivery.attempt,
            delivery.at.as_micros(),
            took_ms,
            status,
            error,
        ];
        self.execute(&sql.log, columns)?;
        self.execute(&sql.forget, params![seq, number - int(DELIVERIES_MAX as u64)])
    }

    fn rewind_hook(&mut self, access: &Access, run_id: &RunId, from: u64) -> Result<Option<Hook>, Fail> {
        let sql = &self.sql().hooks;
        let Some(found) = find(self.connection(), sql, access, run_id)? else { return Ok(None) };
        self.execute(&sql.rewind, params![found.seq, int(from)])?;
        Ok(find(self.connection(), sql, access, run_id)?.map(|found| found.hook))
    }
}

impl Reader {
    fn due_hooks(&self, at: Timestamp, limit: u32) -> Result<DueHooks, Fail> {
        let sql = &self.sql.hooks;
        let ahead = |row: &Row<'_>| Ok((row.get::<_, Option<i64>>(0)?, row.get(1)?));
        let (next_due, has_open) =
            first(&self.connection, &sql.ahead, [at.as_micros()], ahead)?.unwrap_or((None, false));
        let mut due = DueHooks { next_due: next_due.map(Timestamp::from_micros), has_open, ..DueHooks::default() };
        if has_open {
            let mut statement = self.connection.prepare_cached(&sql.due)?;
            let mut rows = statement.query(params![at.as_micros(), limit])?;
            while let Some(row) = rows.next()? {
                due.run_ids.push(id(&row.get::<_, Arc<str>>(0)?)?);
            }
        }
        Ok(due)
    }

    fn hook(&self, access: &Access, run_id: &RunId) -> Result<Option<HookHistory>, Fail> {
        let sql = &self.sql.hooks;
        let Some(found) = find(&self.connection, sql, access, run_id)? else { return Ok(None) };
        let mut statement = self.connection.prepare_cached(&sql.deliveries)?;
        let mut rows = statement.query([found.seq])?;
        let mut deliveries = Vec::new();
        while let Some(row) = rows.next()? {
            let outcome = match (row.get(4)?, row.get::<_, Option<Arc<str>>>(5)?) {
                (Some(status), _) => DeliveryOutcome::Answered(status),
                (None, error) => DeliveryOutcome::Failed(error.unwrap_or_else(|| Arc::from("unknown"))),
            };
            deliveries.push(Delivery {
                event_index: count(row.get(0)?)?,
                attempt: row.get(1)?,
                at: Timestamp::from_micros(row.get(2)?),
                took: Duration::from_millis(count(row.get(3)?)?),
                outcome,
            });
        }
        Ok(Some((found.hook, deliveries)))
    }
}
