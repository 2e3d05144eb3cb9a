//! The threads that read, each on its own connection, so that a read never queues behind a commit. A read begins after
//! it was asked for, so it sees everything acknowledged before.

use super::failure::{Fail, Place};
use super::lists::{self, Query};
use super::mailbox::{Inbox, Mail};
use super::numbers::Numbers;
use super::rows::{self, count, first, id, int};
use super::schema::Sql;
use super::watchers::Watchers;
use super::workers::Locks;
use crate::rules;
use outlive_core::port::{
    Access, CancelIntent, DbError, LivingWorker, Run, RunFilter, RunPage, Session, SessionFilter, SessionPage,
    Unfinished, Unreadable,
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
        let columns = params![run_id.as_str(), access.user().map(|user_id| &**user_id)];
        first(&self.connection, &self.sql.run_by_id, columns, rows::run)
    }

    pub(super) fn runs(&self, access: &Access, filter: &RunFilter) -> Result<RunPage, Fail> {
        let limit = rules::list_limit(filter);
        let mut statement = self.prepared(&lists::runs(&self.sql, access, filter, limit + 1)?)?;
        let mut rows = statement.raw_query();
        let mut page = RunPage::default();
        let (mut last, mut taken, mut bytes) = (0, 0, 0);
        while let Some(row) = rows.next()? {
            if taken == limit || bytes > rules::LIST_BYTES_MAX {
                page.next = Some(i64::to_string(&last));
                break;
            }
            match rows::run(row) {
                Ok(run) => {
                    bytes += rules::list_bytes(&run);
                    page.runs.push(run);
                }
                Err(Fail::Said(error)) => page.unreadable.push(error),
                Err(fail) => return Err(fail),
            }
            taken += 1;
            last = rows::run_seq(row)?;
        }
        if filter.with_counts {
            page.counts = Some(self.counts(&lists::counts(&self.sql, access, filter))?);
        }
        Ok(page)
    }

    pub(super) fn unfinished(&self, max: u64) -> Result<Unfinished, Fail> {
        let found = first(&self.connection, &self.sql.count_unfinished, [int(max)], |row| {
            Ok(Unfinished {
                queued: count(row.get(0)?)?,
                queued_since: row.get::<_, Option<i64>>(1)?.map(Timestamp::from_micros),
                running: count(row.get(2)?)?,
                paused: count(row.get(3)?)?,
            })
        })?;
        Ok(found.unwrap_or_default())
    }

    fn counts(&self, query: &Query) -> Result<Vec<(RunStatus, u64)>, Fail> {
        let mut statement = self.prepared(query)?;
        let mut rows = statement.raw_query();
        let mut counts = Vec::new();
        if let Some(row) = rows.next()? {
            for (column, status) in RunStatus::ALL.into_iter().enumerate() {
                counts.push((status, count(row.get(column)?)?));
            }
        }
        counts.retain(|(_, count)| *count > 0);
        Ok(counts)
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
            let page = Page { first_index: count(row.get(0)?)?, count: row.get(1)?, body: body.into() };
            match pages.last() {
                Some(last) if last.end() != page.first_index => {
                    let (missing, found) = (last.end(), page.first_index);
                    let problem = format!("entry {missing} is missing, entry {found} is there");
                    return Err(DbError::from(Unreadable::of_run(run_id, "log", problem)).into());
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
        let [list, total] = lists::sessions(&self.sql, access, filter);
        let mut page = SessionPage::default();
        let mut statement = self.prepared(&list)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            match rows::session(row) {
                Ok(session) => page.sessions.push(session),
                Err(Fail::Said(error)) => page.unreadable.push(error),
                Err(fail) => return Err(fail),
            }
        }
        let mut statement = self.prepared(&total)?;
        if let Some(row) = statement.raw_query().next()? {
            page.total = count(row.get(0)?)?;
        }
        Ok(page)
    }
}
