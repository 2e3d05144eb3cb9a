//! The threads that read, each on its own connection, so that a read never queues behind a commit. A read begins after
//! it was asked for, so it sees everything acknowledged before.

use super::counts;
use super::failure::{Fail, Place};
use super::lists::{self, Query, Runs, Sessions, Statuses};
use super::mailbox::{Inbox, Mail};
use super::numbers::Numbers;
use super::rows::{self, count, first, id, int, value};
use super::schema::Sql;
use super::watchers::Watchers;
use super::workers::Locks;
use crate::rules;
use outlive_core::port::{
    Access, COUNT_MAX, CancelIntent, DbError, LivingWorker, Run, RunCounts, RunFilter, RunPage, Session, SessionFilter,
    SessionPage, Unfinished, Unreadable,
};
use outlive_core::{Page, RunId, RunStatus, SessionId, Timestamp, WorkerId};
use rusqlite::{CachedStatement, Connection, params};
use std::sync::Arc;

/// A read that waits in the mailbox; it answers its caller itself.
pub(super) type Reading = Box<dyn FnOnce(&Reader) + Send>;

/// One read connection.
pub(super) struct Reader {
    pub(super) connection: Connection,
    pub(super) sql: Arc<Sql>,
    pub(super) place: Place,
    pub(super) watchers: Arc<Watchers>,
    pub(super) numbers: Arc<Numbers>,
    /// For queries only: it holds no locks.
    pub(super) locks: Locks,
}

impl Reader {
    /// Works until every handle is gone.
    pub(super) fn serve(self, inbox: &Inbox<Reading>) {
        loop {
            match inbox.wait(None) {
                Mail::Work => inbox.take(usize::MAX).into_iter().for_each(|reading| reading(&self)),
                Mail::Idle => {}
                Mail::Closed => break,
            }
        }
        if self.watchers.has_failed() {
            super::open::keep_log_on_close(&self.connection);
        }
    }

    /// The error a caller gets.
    pub(super) fn failed(&self, fail: Fail) -> DbError {
        self.numbers.failed(usize::from(matches!(fail, Fail::Sqlite(_))));
        self.place.fail(fail)
    }

    pub(super) fn run(&self, access: &Access, run_id: &RunId) -> Result<Option<Run>, Fail> {
        self.run_with(&self.sql.run_by_id, access, run_id)
    }

    pub(super) fn run_line(&self, access: &Access, run_id: &RunId) -> Result<Option<Run>, Fail> {
        self.run_with(&self.sql.line_by_id, access, run_id)
    }

    fn run_with(&self, sql: &str, access: &Access, run_id: &RunId) -> Result<Option<Run>, Fail> {
        let columns = params![run_id.as_str(), access.user().map(|user_id| &**user_id)];
        first(&self.connection, sql, columns, rows::run)
    }

    pub(super) fn definition(&self, hash: &str) -> Result<Option<Arc<str>>, Fail> {
        value(&self.connection, &self.sql.definition, [hash])
    }

    pub(super) fn runs(&self, access: &Access, filter: &RunFilter) -> Result<RunPage, Fail> {
        // Even for nobody's runs, a cursor that came from nowhere is an error.
        rules::parse_cursor(filter)?;
        // All of it as of one moment.
        let _moment = self.connection.unchecked_transaction()?;
        let Ok(user_id) = rules::only_user(access, filter.user_id.as_ref()) else {
            let none = RunCounts { by_status: Vec::new(), is_exact: true };
            return Ok(RunPage { counts: filter.with_counts.then_some(none), ..RunPage::default() });
        };
        let (workflow_id, user) = (filter.workflow_id.as_ref().map(|id| id.as_str()), user_id.map(|id| &**id));
        let kept = counts::runs(&self.connection, &self.sql, workflow_id, user)?;
        let walk = Runs { filter, user_id, is_prefix_common: self.is_common(rules::prefix(filter))?, kept };
        let mut page = self.page(&walk)?;
        if filter.with_counts {
            page.counts = Some(self.counts(&walk)?);
        }
        Ok(page)
    }

    fn page(&self, walk: &Runs<'_>) -> Result<RunPage, Fail> {
        let limit = rules::list_limit(walk.filter);
        let mut page = RunPage::default();
        let Some(list) = walk.list(&self.sql, limit as u64 + 1)? else { return Ok(page) };
        let line = if walk.filter.with_payload { &self.sql.run_by_seq } else { &self.sql.line_by_seq };
        let mut statement = self.prepared(&list)?;
        let mut numbers = statement.raw_query();
        let (mut last, mut taken, mut bytes) = (0, 0, 0);
        while let Some(row) = numbers.next()? {
            if taken == limit || bytes > rules::LIST_BYTES_MAX {
                page.next = Some(i64::to_string(&last));
                break;
            }
            last = row.get(0)?;
            match rows::run_by_seq(&self.connection, line, last) {
                Ok(run) => {
                    bytes += rules::list_bytes(&run);
                    page.runs.push(run);
                }
                Err(Fail::Said(error)) => page.unreadable.push(error),
                Err(fail) => return Err(fail),
            }
            taken += 1;
        }
        Ok(page)
    }

    /// Whether more ids begin like this than are quickly sorted.
    fn is_common(&self, prefix: Option<&str>) -> Result<bool, Fail> {
        let Some(prefix) = prefix else { return Ok(false) };
        let columns = params![prefix, lists::past(prefix), int(COUNT_MAX)];
        Ok(rows::value(&self.connection, &self.sql.have_prefix, columns)? == Some(int(COUNT_MAX)))
    }

    pub(super) fn unfinished(&self, max: u64) -> Result<Unfinished, Fail> {
        let found = first(&self.connection, &self.sql.count_unfinished, [], |row| {
            // A count that was damaged must not keep the others from being read.
            let counted =
                |column| Ok::<_, Fail>(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default().min(max));
            Ok(Unfinished {
                queued: counted(0)?,
                queued_since: row.get::<_, Option<i64>>(1)?.map(Timestamp::from_micros),
                running: counted(2)?,
                paused: counted(3)?,
            })
        })?;
        Ok(found.unwrap_or_default())
    }

    fn counts(&self, walk: &Runs<'_>) -> Result<RunCounts, Fail> {
        let (counts, is_exact) = match rules::are_counts_kept(walk.filter) {
            true => (walk.kept, true),
            false => self.counted(walk)?,
        };
        let by_status = RunStatus::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        Ok(RunCounts { by_status, is_exact })
    }

    /// What no counts are kept of, and whether that is all.
    fn counted(&self, walk: &Runs<'_>) -> Result<(Statuses, bool), Fail> {
        let mut counts = Statuses::default();
        let Some(all) = walk.all(&self.sql, COUNT_MAX + 1) else { return Ok((counts, true)) };
        let mut statement = self.prepared(&all)?;
        let mut rows = statement.raw_query();
        for _ in 0..COUNT_MAX {
            let Some(row) = rows.next()? else { return Ok((counts, true)) };
            // The row of a damaged status is reported where the run itself is read.
            if let Ok(status) = rows::status(row.get(1)?) {
                counts[lists::place(status)] += 1;
            }
        }
        Ok((counts, rows.next()?.is_none()))
    }

    fn prepared(&self, query: &Query) -> Result<CachedStatement<'_>, Fail> {
        let mut statement = self.connection.prepare_cached(&query.text)?;
        for (place, value) in query.values.iter().enumerate() {
            statement.raw_bind_parameter(place + 1, value)?;
        }
        Ok(statement)
    }

    pub(super) fn held(&self, worker: &WorkerId) -> Result<Vec<(RunId, u64)>, Fail> {
        let mut statement = self.connection.prepare_cached(&self.sql.held)?;
        let mut rows = statement.query([worker.as_str()])?;
        let mut held = Vec::new();
        while let Some(row) = rows.next()? {
            held.push((id(&row.get::<_, Arc<str>>(0)?)?, count(row.get(1)?)?));
        }
        Ok(held)
    }

    pub(super) fn cancels(&self, worker: &WorkerId) -> Result<Vec<(RunId, CancelIntent)>, Fail> {
        let mut statement = self.connection.prepare_cached(&self.sql.cancels)?;
        let mut rows = statement.query([worker.as_str()])?;
        let mut cancels = Vec::new();
        while let Some(row) = rows.next()? {
            let cancel = CancelIntent { at: Timestamp::from_micros(row.get(1)?), reason: row.get(2)? };
            cancels.push((id(&row.get::<_, Arc<str>>(0)?)?, cancel));
        }
        Ok(cancels)
    }

    pub(super) fn steering(&self, run_id: &RunId) -> Result<Vec<Run>, Fail> {
        // All of it as of one moment.
        let _moment = self.connection.unchecked_transaction()?;
        let mut statement = self.connection.prepare_cached(&self.sql.steering)?;
        let mut numbers = statement.query([run_id.as_str()])?;
        let mut steering = Vec::new();
        while let Some(row) = numbers.next()? {
            match rows::run_by_seq(&self.connection, &self.sql.run_by_seq, row.get(0)?) {
                Ok(run) => steering.push(run),
                // Others must not wait for it.
                Err(Fail::Said(error)) => tracing::error!(%error, "a message to a run cannot be read"),
                Err(fail) => return Err(fail),
            }
        }
        Ok(steering)
    }

    pub(super) fn workers(&self, counted: Option<&Access>) -> Result<Vec<LivingWorker>, Fail> {
        let mut statement = self.connection.prepare_cached(&self.sql.workers)?;
        let user_id = counted.and_then(Access::user).map(|user_id| &**user_id);
        let mut rows = statement.query(params![user_id, counted.is_some()])?;
        let mut workers = Vec::new();
        while let Some(row) = rows.next()? {
            let worker = id(&row.get::<_, Arc<str>>(0)?)?;
            let (good_until, runs) = (Timestamp::from_micros(row.get(1)?), count(row.get(2)?)?);
            let workflows: Option<Arc<str>> = row.get(3)?;
            let workflows =
                workflows.map(|ids| ids.split_whitespace().map(id).collect::<Result<_, _>>()).transpose()?;
            let life = self.locks.life(&worker);
            workers.push(LivingWorker { worker, good_until, runs, workflows, life });
        }
        Ok(workers)
    }

    pub(super) fn pages(
        &self,
        access: &Access,
        run_id: &RunId,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Page>, Fail> {
        let user_id = access.user().map(|user_id| &**user_id);
        let mut statement = self.connection.prepare_cached(&self.sql.pages)?;
        let mut rows = statement.query(params![run_id.as_str(), int(from), user_id])?;
        let mut pages: Vec<Page> = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            // What is not UTF-8 is replaced, and then the checksums there do not match.
            let body = row.get_ref(2)?.as_bytes().map_err(|e| rows::damaged(e.to_string()))?;
            bytes += body.len();
            let body = String::from_utf8_lossy(body);
            if bytes > bytes_max && !pages.is_empty() {
                break;
            }
            let unreadable = |problem| Fail::from(DbError::from(Unreadable::of_run(run_id, "log", problem)));
            let number =
                |column: i64| u32::try_from(column).map_err(|_| unreadable(format!("{column} is not a count")));
            let first_index: i64 = row.get(0)?;
            let first_index =
                u64::try_from(first_index).map_err(|_| unreadable(format!("{first_index} is not an index")))?;
            let page = Page { first_index, count: number(row.get(1)?)?, body: body.into() };
            match pages.last() {
                Some(last) if last.end() != page.first_index => {
                    let (missing, found) = (last.end(), page.first_index);
                    return Err(unreadable(format!("entry {missing} is missing, entry {found} is there")));
                }
                // The page before `from` may be the log's last, and then ends before it.
                None if page.end() <= from => continue,
                _ => pages.push(page),
            }
        }
        Ok(pages)
    }

    pub(super) fn session(&self, access: &Access, session_id: &SessionId) -> Result<Option<Session>, Fail> {
        let columns = params![session_id.as_str(), access.user().map(|user_id| &**user_id)];
        first(&self.connection, &self.sql.session, columns, rows::session)
    }

    pub(super) fn sessions(&self, access: &Access, filter: &SessionFilter) -> Result<SessionPage, Fail> {
        let mut page = SessionPage { sessions: Vec::new(), unreadable: Vec::new(), total: 0, is_total_exact: true };
        let Ok(user_id) = rules::only_user(access, filter.user_id.as_ref()) else { return Ok(page) };
        let _moment = self.connection.unchecked_transaction()?;
        let (component_id, user) = (filter.component_id.as_ref().map(|id| id.as_str()), user_id.map(|id| &**id));
        let kept = counts::sessions(&self.connection, &self.sql, component_id, user, filter.kind)?;
        let walk = Sessions { filter, user_id, kept };
        let Some(list) = walk.list(&self.sql) else { return Ok(page) };
        let mut statement = self.prepared(&list)?;
        let mut numbers = statement.raw_query();
        while let Some(row) = numbers.next()? {
            match first(&self.connection, &self.sql.session_by_seq, [row.get::<_, i64>(0)?], rows::session) {
                Ok(session) => page.sessions.extend(session),
                Err(Fail::Said(error)) => page.unreadable.push(error),
                Err(fail) => return Err(fail),
            }
        }
        if rules::part_of_name(filter).is_some() {
            let most = rules::session_count_max(filter);
            let query = walk.count(&self.sql, most);
            let mut statement = self.prepared(&query)?;
            if let Some(row) = statement.raw_query().next()? {
                page.total = count(row.get(0)?)?;
            }
            page.is_total_exact = page.total < most;
        } else {
            page.total = kept;
        }
        Ok(page)
    }
}
