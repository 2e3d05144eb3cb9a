//! Questions to people in SQLite: runs without one have no row in the table.
//!
//! It never looks inside a question or an answer. The invariant: an answer is written once, together with what it does
//! to its run: one that was paused is RUNNING and free to be claimed.

use super::SqliteDb;
use super::failure::Fail;
use super::lists;
use super::reader::Reader;
use super::rows::{self, first, id, int, shown, value};
use super::tables::Tables;
use crate::rules::{self, Reception};
use outlive_core::port::{
    Access, Answering, BoxFuture, DbError, NewAnswer, QuestionFilter, QuestionPage, QuestionPatch, QuestionState,
    QuestionStore, StoredAnswer, StoredQuestion, TIMED_OUT,
};
use outlive_core::{RunId, RunStatus, Timestamp, WorkerId};
use rusqlite::{Connection, Row, params};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl QuestionStore for SqliteDb {
    fn answer(
        &self,
        access: Access,
        answers: Vec<NewAnswer>,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Answering, DbError>> {
        Box::pin(self.write(move |tables| tables.answer(&access, &answers, at)))
    }

    fn question(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredQuestion>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.question(&access, &id)))
    }

    fn questions(&self, access: Access, filter: QuestionFilter) -> BoxFuture<'_, Result<QuestionPage, DbError>> {
        Box::pin(self.read_with(move |reader| reader.questions(&access, &filter)))
    }

    fn inbox(&self, run_id: RunId) -> BoxFuture<'_, Result<Vec<StoredQuestion>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.inbox(&run_id)))
    }

    fn mail(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<RunId>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.mail(&worker)))
    }
}

/// The statements.
pub(super) struct QuestionSql {
    table: String,
    ask: String,
    record: String,
    settle: String,
    void: String,
    has_mail: String,
    next_due: String,
    late: String,
    run: String,
    wake: String,
    by_id: String,
    by_seq: String,
    inbox: String,
    mail: String,
}

/// Columns of a question, in the order [`read_row`] reads them; the last three are for its place.
const QUESTION: &str = "SELECT q.question_id, r.run_id, q.workflow_id, s.session_id, q.user_id, q.text, q.asked_at, \
    q.due_at, q.state, q.answer, q.answered_by, q.answered_at, r.status, q.seq, q.run_seq FROM {T}_questions q \
    JOIN {T}_runs r ON r.seq = q.run_seq JOIN {T} s ON s.seq = r.session_seq";

impl QuestionSql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        Self {
            table: table.to_owned(),
            ask: sql(
                "INSERT INTO {T}_questions (question_id, run_seq, workflow_id, user_id, state, asked_at, due_at, text) \
                SELECT ?2, r.seq, r.workflow_id, r.user_id, 0, ?3, ?4, ?5 FROM {T}_runs r WHERE r.seq = ?1 \
                ON CONFLICT (question_id) DO NOTHING",
            ),
            record: sql("UPDATE {T}_questions SET state = 1, answer = ?2, answered_by = ?3, answered_at = ?4 \
                WHERE seq = ?1 AND state = 0"),
            settle: sql("UPDATE {T}_questions SET state = iif(state = 0, 3, 2) \
                WHERE question_id = ?2 AND run_seq = ?1 AND state < 2"),
            void: sql("UPDATE {T}_questions SET state = 3 WHERE seq = ?1 AND state = 0"),
            has_mail: sql("SELECT 1 FROM {T}_questions q INDEXED BY {T}_questions_inbox \
                WHERE q.state = 1 AND q.run_seq = ?1 LIMIT 1"),
            next_due: sql("SELECT q.due_at FROM {T}_questions q INDEXED BY {T}_questions_due \
                WHERE q.state = 0 AND q.due_at IS NOT NULL ORDER BY q.due_at LIMIT 1"),
            late: sql("SELECT q.seq, q.run_seq, (SELECT r.status FROM {T}_runs r WHERE r.seq = q.run_seq) < 3 \
                FROM {T}_questions q INDEXED BY {T}_questions_due \
                WHERE q.state = 0 AND q.due_at IS NOT NULL AND q.due_at <= ?1 ORDER BY q.due_at LIMIT ?2"),
            run: sql("SELECT run_id, workflow_id, user_id, status, worker_seq IS NULL, batch_seq FROM {T}_runs \
                WHERE seq = ?1"),
            wake: sql("UPDATE {T}_runs SET status = iif(status = 2, 1, status), \
                due_at = iif(worker_seq IS NULL, 0, due_at), updated_at = ?2 WHERE seq = ?1"),
            by_id: sql(&format!("{QUESTION} WHERE q.question_id = ?1 AND (?2 IS NULL OR q.user_id = ?2)")),
            by_seq: sql(&format!("{QUESTION} WHERE q.seq = ?1")),
            inbox: sql("SELECT q.seq FROM {T}_questions q INDEXED BY {T}_questions_inbox \
                WHERE q.state = 1 AND q.run_seq = (SELECT seq FROM {T}_runs WHERE run_id = ?1) ORDER BY q.seq"),
            mail: sql("SELECT r.run_id FROM {T}_questions q INDEXED BY {T}_questions_inbox \
                JOIN {T}_runs r ON r.seq = q.run_seq WHERE q.state = 1 AND r.status < 3 AND r.worker_seq = \
                (SELECT seq FROM outlive_workers WHERE worker_id = ?1 AND session_table = '{T}') \
                GROUP BY q.run_seq ORDER BY q.run_seq"),
        }
    }

    /// The numbers of a list, in order. Its conditions are ?1 the user, ?2 the workflow, ?3 the run; it begins after
    /// ?4 and has ?5 at most. Ids begin with ?6: they are not less than that, and less than ?7.
    fn list(&self, access: &Access, filter: &QuestionFilter) -> String {
        let states: &[u8] = if filter.with_settled { &[0, 1, 2, 3] } else { &[0] };
        let each = |range: &str| states.iter().map(|state| format!("{range} AND q.state = {state}")).collect();
        let (index, ranges): (_, Vec<String>) = match (&filter.run_id, access.user(), &filter.workflow_id) {
            // Few ids begin alike.
            _ if rules::question_prefix(filter).is_some() => {
                let found = "SELECT p.seq FROM {T}_questions p WHERE p.question_id >= ?6 AND p.question_id < ?7";
                ("", vec![format!("q.seq IN ({found})")])
            }
            (Some(_), _, _) => ("by_run", vec!["q.run_seq = (SELECT seq FROM {T}_runs WHERE run_id = ?3)".to_owned()]),
            (None, Some(_), _) => ("by_user", each("q.user_id = ?1")),
            (None, None, Some(_)) => ("by_workflow", each("q.workflow_id = ?2")),
            (None, None, None) if filter.with_settled => ("", vec!["TRUE".to_owned()]),
            (None, None, None) => ("open", vec!["q.state = 0".to_owned()]),
        };
        let source = match index {
            "" => "{T}_questions q NOT INDEXED".to_owned(),
            index => format!("{{T}}_questions q INDEXED BY {{T}}_questions_{index}"),
        };
        // Those of a run that has ended are void, whatever their rows say.
        let open = "AND q.state = 0 AND EXISTS (SELECT 1 FROM {T}_runs r WHERE r.seq = q.run_seq AND r.status < 3)";
        let open = if filter.with_settled { "" } else { open };
        let select = |range: &String| {
            format!(
                "SELECT q.seq FROM {source} WHERE {range} AND q.seq > ?4 AND (?1 IS NULL OR q.user_id = ?1) \
                 AND (?2 IS NULL OR q.workflow_id = ?2) AND (?6 IS NULL OR q.question_id BETWEEN ?6 AND ?7) \
                 AND (?3 IS NULL OR q.run_seq = (SELECT seq FROM {{T}}_runs WHERE run_id = ?3)) {open}"
            )
        };
        let lanes: Vec<String> = ranges.iter().map(select).collect();
        format!("{} ORDER BY 1 LIMIT ?5", lanes.join(" UNION ALL ")).replace("{T}", &self.table)
    }
}

/// A question with its number and its run's.
struct Numbered {
    question: StoredQuestion,
    seq: i64,
    run_seq: i64,
}

fn read(row: &Row<'_>) -> Result<Numbered, Fail> {
    read_row(row).map_err(|fail| match shown(row, 0) {
        Ok(Some(id)) => rows::unreadable(&format!("question {id}"), fail),
        _ => rows::unreadable("a question whose id is lost", fail),
    })
}

fn read_row(row: &Row<'_>) -> Result<Numbered, Fail> {
    let needed = |column: usize| {
        let text = shown(row, column)?;
        text.ok_or_else(|| rows::damaged(format!("column {column} is null")))
    };
    let time = |column: usize| Ok::<_, Fail>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_micros));
    let is_over = rows::status(row.get(12)?)?.is_terminal();
    let state = match row.get(8)? {
        0 if is_over => QuestionState::Void,
        0 => QuestionState::Open,
        1 | 2 => QuestionState::Answered,
        3 => QuestionState::Void,
        other => return Err(rows::damaged(format!("it has state {other}"))),
    };
    let answer = match (rows::json(row, 9)?, time(11)?) {
        (Some(text), Some(at)) => Some(StoredAnswer { text, by: shown(row, 10)?, at }),
        _ => None,
    };
    let question = StoredQuestion {
        id: needed(0)?,
        run_id: id(&needed(1)?)?,
        workflow_id: id(&needed(2)?)?,
        session_id: id(&needed(3)?)?,
        user_id: shown(row, 4)?,
        text: rows::json(row, 5)?.unwrap_or_default(),
        asked_at: Timestamp::from_micros(row.get(6)?),
        due_at: time(7)?,
        state,
        answer,
    };
    Ok(Numbered { question, seq: row.get(13)?, run_seq: row.get(14)? })
}

fn find(connection: &Connection, sql: &QuestionSql, access: &Access, id: &str) -> Result<Option<Numbered>, Fail> {
    first(connection, &sql.by_id, params![id, access.user().map(|user_id| &**user_id)], read)
}

impl Tables<'_> {
    /// Stores what a run asks, and what it needs no answer to any more.
    pub(super) fn patch_questions(&self, run_seq: i64, patch: &QuestionPatch, at: Timestamp) -> Result<(), Fail> {
        let sql = &self.sql().questions;
        for asked in &patch.asked {
            let due_at = asked.due_at.map(Timestamp::as_micros);
            self.execute(&sql.ask, params![run_seq, &*asked.id, at.as_micros(), due_at, &*asked.text])?;
        }
        patch.settled.iter().try_for_each(|id| self.execute(&sql.settle, params![run_seq, &**id]))
    }

    /// Whether a run has answers that its log does not have.
    pub(super) fn has_mail(&self, run_seq: i64) -> Result<bool, Fail> {
        Ok(value::<i64>(self.connection(), &self.sql().questions.has_mail, [run_seq])?.is_some())
    }

    /// Answers open questions whose time is up, as many as one call may. Gives when the next one's is.
    pub(super) fn time_out(&mut self, at: Timestamp) -> Result<Option<i64>, Fail> {
        let next_due = value::<i64>(self.connection(), &self.sql().questions.next_due, [])?;
        if next_due.is_none_or(|due| due > at.as_micros()) {
            return Ok(next_due);
        }
        let mut runs = BTreeSet::new();
        for (seq, run_seq, is_needed) in self.late(at)? {
            if is_needed {
                self.record(seq, TIMED_OUT, None, at)?;
                runs.insert(run_seq);
            } else {
                self.execute(&self.sql().questions.void, [seq])?;
            }
        }
        runs.into_iter().try_for_each(|run_seq| self.wake(run_seq, at))?;
        value(self.connection(), &self.sql().questions.next_due, [])
    }

    /// Open questions whose time is up, each with its run and whether that is unfinished.
    fn late(&self, at: Timestamp) -> Result<Vec<(i64, i64, bool)>, Fail> {
        let mut statement = self.connection().prepare_cached(&self.sql().questions.late)?;
        let columns = params![at.as_micros(), rules::TIMED_OUT_MAX];
        let late = statement.query_map(columns, |row| {
            let is_needed = row.get::<_, Option<bool>>(2)?.unwrap_or_default();
            Ok((row.get(0)?, row.get(1)?, is_needed))
        })?;
        Ok(late.collect::<Result<_, _>>()?)
    }

    fn record(&self, seq: i64, text: &str, by: Option<&str>, at: Timestamp) -> Result<(), Fail> {
        self.execute(&self.sql().questions.record, params![seq, text, by, at.as_micros()])
    }

    /// Makes a run that got an answer RUNNING if it was paused, and free to be claimed if nobody holds it.
    fn wake(&mut self, run_seq: i64, at: Timestamp) -> Result<(), Fail> {
        // What is damaged in its row is reported where the run is read: here it would hold up others.
        let read = |row: &Row<'_>| {
            let is_paused = row.get::<_, i64>(3)? == rows::status_column(RunStatus::Paused);
            let (workflow_id, user_id) = (shown(row, 1)?.unwrap_or_default(), shown(row, 2)?);
            Ok((
                shown(row, 0)?.unwrap_or_default(),
                workflow_id,
                user_id,
                is_paused,
                row.get::<_, bool>(4)?,
                row.get::<_, Option<i64>>(5)?,
            ))
        };
        let found = first(self.connection(), &self.sql().questions.run, [run_seq], read)?;
        let Some((run_id, workflow_id, user_id, is_paused, is_free, batch)) = found else { return Ok(()) };
        self.execute(&self.sql().questions.wake, params![run_seq, at.as_micros()])?;
        if is_paused {
            self.changes().runs(workflow_id.clone(), user_id.clone(), RunStatus::Paused, -1);
            self.changes().runs(workflow_id, user_id, RunStatus::Running, 1);
            if let Some(batch) = batch {
                self.changes().batch(batch, RunStatus::Paused, -1);
                self.changes().batch(batch, RunStatus::Running, 1);
            }
        }
        if let Ok(run_id) = run_id.parse() {
            self.ran(&run_id, None);
        }
        if is_free {
            self.freed(None);
        }
        Ok(())
    }

    /// Answers a question of a run that begins with it.
    pub(super) fn give(&mut self, answer: &NewAnswer, at: Timestamp) -> Result<(), Fail> {
        let found = find(self.connection(), &self.sql().questions, &Access::All, &answer.id)?;
        found.map_or(Ok(()), |found| self.record(found.seq, &answer.text, answer.by.as_deref(), at))
    }

    fn answer(&mut self, access: &Access, answers: &[NewAnswer], at: Timestamp) -> Result<Answering, Fail> {
        let asked = |tables: &Self, answer: &NewAnswer| {
            let found = find(tables.connection(), &tables.sql().questions, access, &answer.id)?;
            found.ok_or_else(|| Fail::from(rules::no_question(&answer.id)))
        };
        let mut late = Vec::new();
        for answer in answers {
            let found = asked(self, answer)?;
            if rules::is_late(&found.question, at) {
                late.push((found.seq, found.run_seq));
            }
        }
        // What nobody has noticed yet is over all the same.
        for (seq, run_seq) in late {
            self.record(seq, TIMED_OUT, None, at)?;
            self.wake(run_seq, at)?;
        }
        let mut given: BTreeMap<i64, (i64, &NewAnswer)> = BTreeMap::new();
        for answer in answers {
            let Numbered { question, seq, run_seq } = asked(self, answer)?;
            let before = given.get(&seq).map(|(_, before)| *before);
            match rules::reception(&question, answer, before) {
                Reception::Recorded => drop(given.insert(seq, (run_seq, answer))),
                Reception::Repeated => {}
                Reception::Refused => return Ok(Answering::Refused(Box::new(question))),
            }
        }
        for (seq, (_, answer)) in &given {
            self.record(*seq, &answer.text, answer.by.as_deref(), at)?;
        }
        let runs: BTreeSet<i64> = given.into_values().map(|(run_seq, _)| run_seq).collect();
        runs.into_iter().try_for_each(|run_seq| self.wake(run_seq, at))?;
        Ok(Answering::Accepted)
    }
}

impl Reader {
    fn question(&self, access: &Access, id: &str) -> Result<Option<StoredQuestion>, Fail> {
        Ok(find(&self.connection, &self.sql.questions, access, id)?.map(|found| found.question))
    }

    fn questions(&self, access: &Access, filter: &QuestionFilter) -> Result<QuestionPage, Fail> {
        let cursor = rules::parse_question_cursor(filter)?.unwrap_or_default();
        // All of it as of one moment.
        let _moment = self.connection.unchecked_transaction()?;
        let limit = rules::question_limit(filter);
        let columns = params![
            access.user().map(|user_id| &**user_id),
            filter.workflow_id.as_ref().map(|workflow_id| workflow_id.as_str()),
            filter.run_id.as_ref().map(|run_id| run_id.as_str()),
            int(cursor),
            int(limit as u64 + 1),
            rules::question_prefix(filter),
            rules::question_prefix(filter).map(lists::past),
        ];
        let mut statement = self.connection.prepare_cached(&self.sql.questions.list(access, filter))?;
        let mut numbers = statement.query(columns)?;
        let mut page = QuestionPage::default();
        let (mut last, mut taken, mut bytes) = (0, 0, 0);
        while let Some(row) = numbers.next()? {
            if taken == limit || bytes > rules::LIST_BYTES_MAX {
                page.next = Some(i64::to_string(&last));
                break;
            }
            last = row.get(0)?;
            match first(&self.connection, &self.sql.questions.by_seq, [last], read) {
                Ok(Some(found)) => {
                    bytes += rules::question_bytes(&found.question);
                    page.questions.push(found.question);
                }
                Ok(None) => {}
                // Others must not wait for it.
                Err(Fail::Said(error)) => tracing::error!(%error, "a question is left out of a list"),
                Err(fail) => return Err(fail),
            }
            taken += 1;
        }
        Ok(page)
    }

    fn inbox(&self, run_id: &RunId) -> Result<Vec<StoredQuestion>, Fail> {
        let _moment = self.connection.unchecked_transaction()?;
        let sql = &self.sql.questions;
        let mut statement = self.connection.prepare_cached(&sql.inbox)?;
        let mut numbers = statement.query([run_id.as_str()])?;
        let mut inbox = Vec::new();
        while let Some(row) = numbers.next()? {
            let found = first(&self.connection, &sql.by_seq, [row.get::<_, i64>(0)?], read)?;
            inbox.extend(found.map(|found| found.question));
        }
        Ok(inbox)
    }

    fn mail(&self, worker: &WorkerId) -> Result<Vec<RunId>, Fail> {
        let mut mail = Vec::new();
        for sql in [&self.sql.questions.mail, &self.sql.steered] {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([worker.as_str()])?;
            while let Some(row) = rows.next()? {
                mail.push(id(&row.get::<_, Arc<str>>(0)?)?);
            }
        }
        mail.sort_unstable();
        mail.dedup();
        Ok(mail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;
    use outlive_core::DefinitionId;

    const TABLE: &str = "outlive_sessions";

    #[test]
    fn questions_are_found_by_an_index_and_never_sorted() {
        let connection = Connection::open_in_memory().expect("memory is there");
        let tables = [schema::create_shared(), schema::create_tables(TABLE, 1)];
        tables.iter().for_each(|sql| connection.execute_batch(sql).expect("the schema is good"));
        let sql = QuestionSql::new(TABLE);

        let mut expected = vec![
            (sql.has_mail.clone(), "INDEX inbox (run_seq=?)"),
            (sql.next_due.clone(), "INDEX due"),
            (sql.late.clone(), "INDEX due (due_at>? AND due_at<?)"),
            (sql.inbox.clone(), "INDEX inbox (run_seq=?)"),
            (sql.mail.clone(), "INDEX inbox"),
        ];
        let flow = DefinitionId::parse("flow").expect("a good id");
        let run = RunId::parse("r1").expect("a good id");
        for bits in 0..32 {
            let access = if bits & 1 > 0 { Access::User(Arc::from("ann")) } else { Access::All };
            let filter = QuestionFilter {
                workflow_id: (bits & 2 > 0).then(|| flow.clone()),
                run_id: (bits & 4 > 0).then(|| run.clone()),
                with_settled: bits & 8 > 0,
                id_prefix: (bits & 16 > 0).then(|| "0193".to_owned()),
                ..QuestionFilter::default()
            };
            let index = match bits & 7 {
                _ if filter.id_prefix.is_some() => "INTEGER PRIMARY KEY (rowid=?)",
                0 if filter.with_settled => "INTEGER PRIMARY KEY (rowid>?)",
                0 => "INDEX open (state=? AND rowid>?)",
                1 | 3 => "INDEX by_user (user_id=? AND state=? AND rowid>?)",
                2 => "INDEX by_workflow (workflow_id=? AND state=? AND rowid>?)",
                _ => "INDEX by_run (run_seq=? AND rowid>?)",
            };
            expected.push((sql.list(&access, &filter), index));
        }
        for (statement, index) in expected {
            let lines = schema::plan(&connection, "questions", &statement);
            let is_walk = |line: &&String| line.starts_with("SCAN q") || line.starts_with("SEARCH q");
            assert!(lines.iter().any(|line| is_walk(&line)), "{statement}: {lines:#?}");
            assert!(lines.iter().filter(is_walk).all(|line| line.contains(index)), "{statement}: {lines:#?}");
            assert!(!lines.iter().any(|line| line.contains("TEMP B-TREE")), "{statement}: {lines:#?}");
        }
    }
}
