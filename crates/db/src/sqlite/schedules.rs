//! Schedules in SQLite, and the times of them that were taken.
//!
//! It never looks inside a schedule's text. The invariant: a due time is taken once, because whoever takes it finds the
//! schedule due at that time and leaves it due at a later one, in one transaction.

use super::SqliteDb;
use super::failure::Fail;
use super::reader::Reader;
use super::rows::{self, first, id, int, shown, value};
use super::tables::Tables;
use crate::rules;
use outlive_core::port::{
    Access, BoxFuture, DbError, NewSchedule, NewTick, SCHEDULES_MAX, ScheduleChange, ScheduleFilter, SchedulePage,
    ScheduleStore, StoredSchedule, StoredTick, TICKS_MAX, TickOutcome,
};
use outlive_core::{RunId, Timestamp};
use rusqlite::{Connection, Row, params};
use std::sync::Arc;

impl ScheduleStore for SqliteDb {
    fn create_schedule(&self, access: Access, schedule: NewSchedule) -> BoxFuture<'_, Result<StoredSchedule, DbError>> {
        Box::pin(self.write(move |tables| tables.create_schedule(&access, &schedule)))
    }

    fn schedule(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredSchedule>, DbError>> {
        Box::pin(self.read_with(move |reader| {
            Ok(find(&reader.connection, &reader.sql.schedules, &access, &id)?.map(|found| found.schedule))
        }))
    }

    fn schedules(&self, access: Access, filter: ScheduleFilter) -> BoxFuture<'_, Result<SchedulePage, DbError>> {
        Box::pin(self.read_with(move |reader| reader.schedules(&access, &filter)))
    }

    fn change_schedule(
        &self,
        access: Access,
        id: Arc<str>,
        change: ScheduleChange,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredSchedule>, DbError>> {
        Box::pin(self.write(move |tables| tables.change_schedule(&access, &id, change, at)))
    }

    fn delete_schedule(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<bool, DbError>> {
        Box::pin(self.write(move |tables| tables.delete_schedule(&access, &id)))
    }

    fn tick(&self, tick: NewTick, at: Timestamp) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(self.write(move |tables| {
            let schedule = tables.due_schedule(&tick)?;
            tables.take_tick(schedule, &tick, None, at)
        }))
    }

    fn ticks(
        &self,
        access: Access,
        id: Arc<str>,
        before: Option<Timestamp>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<StoredTick>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.ticks(&access, &id, before, limit)))
    }
}

/// The statements.
pub(super) struct ScheduleSql {
    table: String,
    insert: String,
    replace: String,
    by_id: String,
    by_name: String,
    by_seq: String,
    count: String,
    pause: String,
    resume: String,
    delete: [String; 2],
    expected: String,
    take: String,
    note: String,
    keep: String,
    trim: String,
    due: String,
    not_due: String,
    ticks: String,
}

/// Columns of a schedule, in the order [`read_row`] reads them.
const SCHEDULE: &str = "SELECT c.schedule_id, c.name, c.workflow_id, c.user_id, c.text, c.next_due, c.last_due, \
    c.last_run, c.runs, c.created_at, c.updated_at, c.seq, c.source FROM {T}_schedules c";

const DUE: &str =
    "FROM {T}_schedules c INDEXED BY {T}_schedules_due WHERE c.next_due IS NOT NULL AND c.workflow_id = ?1";

impl ScheduleSql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        Self {
            table: table.to_owned(),
            insert: sql(
                "INSERT INTO {T}_schedules (schedule_id, name, workflow_id, user_id, next_due, runs, created_at, \
                updated_at, text, source) VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?6, ?7, ?8)",
            ),
            replace: sql("UPDATE {T}_schedules SET workflow_id = ?2, next_due = iif(next_due IS NULL, NULL, ?3), \
                updated_at = ?4, text = ?5, source = ?6 WHERE seq = ?1"),
            by_id: sql(&format!("{SCHEDULE} WHERE c.schedule_id = ?1 AND (?2 IS NULL OR c.user_id = ?2)")),
            by_name: sql(&format!(
                "{SCHEDULE} WHERE c.name = ?1 AND coalesce(c.user_id, '') = coalesce(?2, '') \
                AND iif(c.source IS NULL, '', c.workflow_id) = ?3"
            )),
            by_seq: sql(&format!("{SCHEDULE} WHERE c.seq = ?1")),
            // Where fewer were ever created, nothing is counted.
            count: sql("SELECT iif((SELECT max(seq) FROM {T}_schedules) < ?2, 0, \
                (SELECT count(*) FROM {T}_schedules WHERE coalesce(user_id, '') = coalesce(?1, '')))"),
            pause: sql(
                "UPDATE {T}_schedules SET next_due = NULL, updated_at = ?2 WHERE seq = ?1 AND next_due IS NOT NULL",
            ),
            resume: sql("UPDATE {T}_schedules SET next_due = ?3, updated_at = ?2 WHERE seq = ?1 AND next_due IS NULL"),
            delete: [
                sql("DELETE FROM {T}_schedule_ticks WHERE schedule_seq = ?1"),
                sql("DELETE FROM {T}_schedules WHERE seq = ?1"),
            ],
            expected: sql("SELECT seq FROM {T}_schedules WHERE schedule_id = ?1 AND (?2 IS NULL OR next_due = ?2)"),
            take: sql("UPDATE {T}_schedules SET next_due = ?2, last_due = ?3 WHERE seq = ?1"),
            note: sql("INSERT INTO {T}_schedule_ticks (schedule_seq, due_at, at, outcome, run_id, note) \
                VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING"),
            keep: sql("UPDATE {T}_schedules SET last_run = ?2, runs = runs + 1 WHERE seq = ?1"),
            trim: sql("DELETE FROM {T}_schedule_ticks WHERE schedule_seq = ?1 AND due_at < (SELECT due_at \
                FROM {T}_schedule_ticks WHERE schedule_seq = ?1 ORDER BY due_at DESC LIMIT 1 OFFSET ?2)"),
            due: sql(&format!("SELECT c.seq, c.next_due {DUE} AND c.next_due <= ?2 ORDER BY c.next_due LIMIT ?3")),
            not_due: sql(&format!("SELECT c.next_due {DUE} AND c.next_due > ?2 ORDER BY c.next_due LIMIT 1")),
            ticks: sql("SELECT due_at, at, outcome, run_id, note FROM {T}_schedule_ticks WHERE schedule_seq = ?1 \
                AND (?2 IS NULL OR due_at < ?2) ORDER BY due_at DESC LIMIT ?3"),
        }
    }

    /// The numbers of a list, in order. Its conditions are ?1 the user, ?2 the workflow, ?3 the name; it begins after ?4
    /// and has ?5 at most.
    fn list(&self, access: &Access, filter: &ScheduleFilter) -> String {
        let (index, range) = match (&filter.name, access.user(), &filter.workflow_id) {
            (Some(_), _, _) => ("INDEXED BY {T}_schedules_by_name", "c.name = ?3"),
            (None, Some(_), _) => ("INDEXED BY {T}_schedules_by_user", "c.user_id = ?1"),
            (None, None, Some(_)) => ("INDEXED BY {T}_schedules_by_workflow", "c.workflow_id = ?2"),
            (None, None, None) => ("NOT INDEXED", "TRUE"),
        };
        let select = format!(
            "SELECT c.seq FROM {{T}}_schedules c {index} WHERE {range} AND c.seq > ?4 AND (?1 IS NULL OR c.user_id = ?1) \
             AND (?2 IS NULL OR c.workflow_id = ?2) AND (?3 IS NULL OR c.name = ?3) ORDER BY c.seq LIMIT ?5"
        );
        select.replace("{T}", &self.table)
    }
}

/// A schedule with its number.
struct Numbered {
    schedule: StoredSchedule,
    seq: i64,
}

fn read(row: &Row<'_>) -> Result<Numbered, Fail> {
    read_row(row).map_err(|fail| match shown(row, 0) {
        Ok(Some(id)) => rows::unreadable(&format!("schedule {id}"), fail),
        _ => rows::unreadable("a schedule whose id is lost", fail),
    })
}

fn read_row(row: &Row<'_>) -> Result<Numbered, Fail> {
    let needed = |column: usize| {
        let text = shown(row, column)?;
        text.ok_or_else(|| rows::damaged(format!("column {column} is null")))
    };
    let time = |column: usize| Ok::<_, Fail>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_micros));
    let schedule = StoredSchedule {
        id: needed(0)?,
        name: needed(1)?,
        workflow_id: id(&needed(2)?)?,
        user_id: shown(row, 3)?,
        text: rows::json(row, 4)?.unwrap_or_default(),
        next_due: time(5)?,
        last_due: time(6)?,
        last_run: shown(row, 7)?.map(|text| id(&text)).transpose()?,
        runs: rows::count(row.get(8)?)?,
        created_at: time(9)?.unwrap_or_default(),
        updated_at: time(10)?.unwrap_or_default(),
        source: shown(row, 12)?,
    };
    Ok(Numbered { schedule, seq: row.get(11)? })
}

fn read_tick(row: &Row<'_>) -> Result<StoredTick, Fail> {
    let outcome = usize::try_from(row.get::<_, i64>(2)?).ok().and_then(|place| TickOutcome::ALL.get(place));
    Ok(StoredTick {
        due_at: Timestamp::from_micros(row.get(0)?),
        at: Timestamp::from_micros(row.get(1)?),
        outcome: *outcome.ok_or_else(|| rows::damaged("a schedule's tick has no known outcome".to_owned()))?,
        run_id: shown(row, 3)?.map(|text| id(&text)).transpose()?,
        note: shown(row, 4)?,
    })
}

fn outcome_column(outcome: TickOutcome) -> i64 {
    let place = TickOutcome::ALL.iter().position(|known| *known == outcome);
    int(place.expect("ALL has every outcome") as u64)
}

fn find(connection: &Connection, sql: &ScheduleSql, access: &Access, id: &str) -> Result<Option<Numbered>, Fail> {
    first(connection, &sql.by_id, params![id, access.user().map(|user_id| &**user_id)], read)
}

impl Tables<'_> {
    fn create_schedule(&mut self, access: &Access, new: &NewSchedule) -> Result<StoredSchedule, Fail> {
        let sql = &self.sql().schedules;
        let user_id = new.user_id.as_deref();
        if !access.sees(user_id) {
            return Err(rules::no_schedule(&new.id).into());
        }
        let namespace = rules::schedule_namespace(new.source.as_deref(), &new.workflow_id);
        let named = first(self.connection(), &sql.by_name, params![&*new.name, user_id, namespace], read)?;
        let count = value::<Option<i64>>(self.connection(), &sql.count, params![user_id, int(SCHEDULES_MAX)])?;
        let count = count.flatten().unwrap_or_default();
        let seq = match named {
            Some(Numbered { schedule, .. }) if rules::is_same_schedule(&schedule, new) => return Ok(schedule),
            Some(Numbered { seq, .. }) if new.replaces => {
                let (next_due, at) = (new.next_due.as_micros(), new.at.as_micros());
                let columns = params![seq, new.workflow_id.as_str(), next_due, at, &*new.text, new.source.as_deref()];
                self.execute(&sql.replace, columns)?;
                seq
            }
            Some(Numbered { schedule, .. }) => return Err(rules::schedule_name_taken(&schedule).into()),
            None if count >= int(SCHEDULES_MAX) => return Err(rules::too_many_schedules().into()),
            None => {
                let columns = params![
                    &*new.id,
                    &*new.name,
                    new.workflow_id.as_str(),
                    user_id,
                    new.next_due.as_micros(),
                    new.at.as_micros(),
                    &*new.text,
                    new.source.as_deref()
                ];
                self.execute_and_number(&sql.insert, columns)?
            }
        };
        let stored = first(self.connection(), &self.sql().schedules.by_seq, [seq], read)?;
        self.freed(None);
        Ok(stored.ok_or_else(|| rows::damaged(format!("schedule {} is not where it was put", new.id)))?.schedule)
    }

    fn change_schedule(
        &mut self,
        access: &Access,
        id: &str,
        change: ScheduleChange,
        at: Timestamp,
    ) -> Result<Option<StoredSchedule>, Fail> {
        let sql = &self.sql().schedules;
        let Some(Numbered { seq, .. }) = find(self.connection(), sql, access, id)? else { return Ok(None) };
        match change {
            ScheduleChange::Pause => self.execute(&sql.pause, params![seq, at.as_micros()])?,
            ScheduleChange::Resume(next) => {
                self.execute(&sql.resume, params![seq, at.as_micros(), next.as_micros()])?;
                self.freed(None);
            }
        }
        Ok(first(self.connection(), &self.sql().schedules.by_seq, [seq], read)?.map(|found| found.schedule))
    }

    fn delete_schedule(&mut self, access: &Access, id: &str) -> Result<bool, Fail> {
        let sql = &self.sql().schedules;
        // One whose row is damaged can be deleted all the same.
        let columns = params![id, access.user().map(|user_id| &**user_id)];
        let Some(seq) = first(self.connection(), &sql.by_id, columns, |row| Ok(row.get::<_, i64>(11)?))? else {
            return Ok(false);
        };
        sql.delete.iter().try_for_each(|sql| self.execute(sql, [seq]))?;
        Ok(true)
    }

    /// The number of the schedule whose time this is.
    ///
    /// # Errors
    /// `Fenced` when it is not due then any more.
    pub(super) fn due_schedule(&self, tick: &NewTick) -> Result<i64, Fail> {
        let columns = params![&*tick.schedule_id, tick.expected.map(Timestamp::as_micros)];
        let found = value(self.connection(), &self.sql().schedules.expected, columns)?;
        found.ok_or_else(|| rules::tick_taken(tick).into())
    }

    /// Takes a time of the schedule with this number, which [`Tables::due_schedule`] has found.
    pub(super) fn take_tick(
        &self,
        schedule: i64,
        tick: &NewTick,
        run_id: Option<&RunId>,
        at: Timestamp,
    ) -> Result<(), Fail> {
        let sql = &self.sql().schedules;
        let due_at = tick.due_at.as_micros();
        if tick.expected.is_some() {
            self.execute(&sql.take, params![schedule, tick.next_due.as_micros(), due_at])?;
        }
        let run_id = run_id.map(RunId::as_str);
        let is_new = {
            let columns =
                params![schedule, due_at, at.as_micros(), outcome_column(tick.outcome), run_id, tick.note.as_deref()];
            self.connection().prepare_cached(&sql.note)?.execute(columns)? > 0
        };
        if is_new && run_id.is_some() {
            self.execute(&sql.keep, params![schedule, run_id])?;
        }
        self.execute(&sql.trim, params![schedule, TICKS_MAX - 1])
    }

    /// Adds the schedules of this workflow that are due at `at`, at most this many, each with its time and its number; gives
    /// when the next one is.
    pub(super) fn due_schedules(
        &self,
        workflow: &str,
        at: Timestamp,
        max: usize,
        found: &mut Vec<(i64, i64)>,
    ) -> Result<Option<i64>, Fail> {
        let (sql, at) = (&self.sql().schedules, at.as_micros());
        let mut statement = self.connection().prepare_cached(&sql.due)?;
        let mut rows = statement.query(params![workflow, at, int(max as u64)])?;
        while let Some(row) = rows.next()? {
            found.push((row.get(1)?, row.get(0)?));
        }
        value(self.connection(), &sql.not_due, params![workflow, at])
    }

    pub(super) fn schedule_by_seq(&self, seq: i64) -> Result<Option<StoredSchedule>, Fail> {
        Ok(first(self.connection(), &self.sql().schedules.by_seq, [seq], read)?.map(|found| found.schedule))
    }
}

impl Reader {
    fn schedules(&self, access: &Access, filter: &ScheduleFilter) -> Result<SchedulePage, Fail> {
        let cursor = rules::parse_schedule_cursor(filter)?.unwrap_or_default();
        // All of it as of one moment.
        let _moment = self.connection.unchecked_transaction()?;
        let limit = rules::schedule_limit(filter);
        let columns = params![
            access.user().map(|user_id| &**user_id),
            filter.workflow_id.as_ref().map(|workflow_id| workflow_id.as_str()),
            filter.name.as_deref(),
            int(cursor),
            int(limit as u64 + 1),
        ];
        let mut statement = self.connection.prepare_cached(&self.sql.schedules.list(access, filter))?;
        let mut numbers = statement.query(columns)?;
        let mut page = SchedulePage::default();
        let (mut last, mut taken, mut bytes) = (0, 0, 0);
        while let Some(row) = numbers.next()? {
            if taken == limit || bytes > rules::LIST_BYTES_MAX {
                page.next = Some(i64::to_string(&last));
                break;
            }
            last = row.get(0)?;
            match first(&self.connection, &self.sql.schedules.by_seq, [last], read) {
                Ok(Some(found)) => {
                    bytes += found.schedule.text.len();
                    page.schedules.push(found.schedule);
                }
                Ok(None) => {}
                // Others must not wait for it.
                Err(Fail::Said(error)) => tracing::error!(%error, "a schedule is left out of a list"),
                Err(fail) => return Err(fail),
            }
            taken += 1;
        }
        Ok(page)
    }

    fn ticks(&self, access: &Access, id: &str, before: Option<Timestamp>, limit: u32) -> Result<Vec<StoredTick>, Fail> {
        let _moment = self.connection.unchecked_transaction()?;
        let Some(Numbered { seq, .. }) = find(&self.connection, &self.sql.schedules, access, id)? else {
            return Ok(Vec::new());
        };
        let mut statement = self.connection.prepare_cached(&self.sql.schedules.ticks)?;
        let mut rows = statement.query(params![seq, before.map(Timestamp::as_micros), limit.min(TICKS_MAX)])?;
        let mut ticks = Vec::new();
        while let Some(row) = rows.next()? {
            ticks.push(read_tick(row)?);
        }
        Ok(ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;
    use outlive_core::DefinitionId;

    const TABLE: &str = "outlive_sessions";

    #[test]
    fn schedules_are_found_by_an_index_and_never_sorted() {
        let connection = Connection::open_in_memory().expect("memory is there");
        let tables = [schema::create_shared(), schema::create_tables(TABLE, 1)];
        tables.iter().for_each(|sql| connection.execute_batch(sql).expect("the schema is good"));
        let sql = ScheduleSql::new(TABLE);
        let mut expected = vec![
            (sql.due.clone(), "INDEX due (workflow_id=? AND next_due>? AND next_due<?)"),
            (sql.not_due.clone(), "INDEX due (workflow_id=? AND next_due>?)"),
            (sql.by_name.clone(), "INDEX by_name (name=? AND <expr>=? AND <expr>=?)"),
            (sql.ticks.clone(), "PRIMARY KEY (schedule_seq=?)"),
        ];
        for bits in 0..8 {
            let access = if bits & 1 > 0 { Access::User(Arc::from("ann")) } else { Access::All };
            let filter = ScheduleFilter {
                workflow_id: (bits & 2 > 0).then(|| DefinitionId::parse("flow").expect("a good id")),
                name: (bits & 4 > 0).then(|| Arc::from("nightly")),
                ..ScheduleFilter::default()
            };
            let index = match bits {
                0 => "INTEGER PRIMARY KEY (rowid>?)",
                2 => "INDEX by_workflow (workflow_id=? AND rowid>?)",
                1 | 3 => "INDEX by_user (user_id=? AND rowid>?)",
                _ => "INDEX by_name (name=?)",
            };
            expected.push((sql.list(&access, &filter), index));
        }
        for (statement, index) in expected {
            let lines = schema::plan(&connection, "schedules", &statement);
            assert!(lines.iter().any(|line| line.contains(index)), "{statement}: {lines:#?}");
            let is_sorted = lines.iter().any(|line| line.contains("TEMP B-TREE"));
            // Those with one name are few: one for each user.
            assert!(!is_sorted || index.contains("by_name"), "{statement}: {lines:#?}");
        }
    }
}
