//! The threads that read, each on a connection of its own, so that a read never queues behind a commit. A read begins
//! after it was asked for, hence sees everything acknowledged before.

use super::failure::{Fail, Place};
use super::mailbox::{Inbox, Mail};
use super::rows::{self, count, first, id, int, status_column};
use super::schema::Sql;
use super::watchers::Watchers;
use crate::rules;
use outlive_core::port::{CancelIntent, Run, RunFilter, RunPage, Session};
use outlive_core::{Page, RunId, SessionId, Timestamp, WorkerId};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use std::sync::Arc;

/// A read that waits in the mailbox; it answers its caller itself.
pub(super) type Reading = Box<dyn FnOnce(&Reader) + Send>;

/// One read connection.
pub(super) struct Reader {
    pub(super) connection: Connection,
    pub(super) sql: Arc<Sql>,
    pub(super) place: Place,
    pub(super) watchers: Arc<Watchers>,
}

impl Reader {
    /// Works until every handle is gone.
    pub(super) fn serve(self, inbox: &Inbox<Reading>) {
        loop {
            match inbox.wait(None) {
                Mail::Work(reading) => reading(&self),
                Mail::Idle => {}
                Mail::Closed => break,
            }
        }
        if self.watchers.has_failed() {
            super::open::keep_log_on_close(&self.connection);
        }
    }

    pub(super) fn run(&self, run_id: &RunId) -> Result<Option<Run>, Fail> {
        let found = first(&self.connection, &self.sql.run_by_id, [run_id.as_str()], rows::run)?;
        Ok(found.map(|(run, _)| run))
    }

    pub(super) fn runs(&self, filter: &RunFilter) -> Result<RunPage, Fail> {
        let limit = rules::list_limit(filter);
        let (conditions, values) = conditions(&self.sql, filter)?;
        let sql = self.sql.list_where(&conditions, limit + 1);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut page = RunPage::default();
        let mut last = 0;
        while let Some(row) = rows.next()? {
            if page.runs.len() == limit {
                page.next = Some(i64::to_string(&last));
                break;
            }
            let (run, seq) = rows::run(row)?;
            page.runs.push(run);
            last = seq;
        }
        Ok(page)
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

    pub(super) fn pages(&self, run_id: &RunId, from: u64, bytes_max: usize) -> Result<Vec<Page>, Fail> {
        let mut statement = self.connection.prepare_cached(&self.sql.pages)?;
        let mut rows = statement.query(params![run_id.as_str(), int(from)])?;
        let mut pages: Vec<Page> = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let body = row.get_ref(2)?.as_str().map_err(|e| rows::damaged(e.to_string()))?;
            bytes += body.len();
            if bytes > bytes_max && !pages.is_empty() {
                break;
            }
            let page = Page { first_index: count(row.get(0)?)?, count: row.get(1)?, body: body.into() };
            match pages.last() {
                Some(last) if last.end() != page.first_index => {
                    let (missing, found) = (last.end(), page.first_index);
                    let what = format!("entry {missing} of run {run_id} is missing, entry {found} is there");
                    return Err(self.place.corrupt(&what).into());
                }
                // The page before `from` may be the log's last, and then ends before it.
                None if page.end() <= from => continue,
                _ => pages.push(page),
            }
        }
        Ok(pages)
    }

    pub(super) fn session(&self, session_id: &SessionId) -> Result<Option<Session>, Fail> {
        first(&self.connection, &self.sql.session, [session_id.as_str()], rows::session)
    }
}

/// The filter as conditions and the values of their parameters.
fn conditions(sql: &Sql, filter: &RunFilter) -> Result<(Vec<String>, Vec<Value>), Fail> {
    let mut conditions = Vec::new();
    let mut values = Vec::new();
    let mut add = |condition: &str, value: Value| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("?{}", values.len())));
    };
    let before = rules::parse_cursor(filter)?.map_or(i64::MAX, int);
    add("r.seq < ?", Value::Integer(before));
    if let Some(workflow_id) = &filter.workflow_id {
        add("r.workflow_id = ?", Value::Text(workflow_id.to_string()));
    }
    if let Some(session_id) = &filter.session_id {
        add(&sql.in_session, Value::Text(session_id.to_string()));
    }
    if let Some(user_id) = &filter.user_id {
        add("q.user_id = ?", Value::Text(user_id.to_string()));
    }
    if let Some(prefix) = filter.id_prefix.as_ref().filter(|prefix| !prefix.is_empty()) {
        add("r.run_id >= ?", Value::Text(prefix.clone()));
        add("r.run_id < ?", Value::Text(format!("{prefix}{}", char::MAX)));
    }
    if !filter.statuses.is_empty() {
        let statuses: Vec<String> = filter.statuses.iter().map(|s| status_column(*s).to_string()).collect();
        conditions.push(format!("r.status IN ({})", statuses.join(", ")));
    }
    Ok((conditions, values))
}
