//! Counts that are kept: how many runs of each status and sessions of each kind there are, in all, of each component
//! and of each user, and how many runs of each status a batch has, so that a list need not count its rows.
//!
//! ```text
//! each operation of a group ──► what changed, in memory ──► before COMMIT, each row that changed, once
//! ```
//! The invariant: what a transaction does to runs and sessions, it does to the counts.

use super::failure::Fail;
use super::lists::{Statuses, place};
use super::rows::{first, kind_column};
use super::schema::Sql;
use outlive_core::RunStatus;
use outlive_core::port::SessionKind;
use rusqlite::{Connection, params};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const STATUSES: usize = RunStatus::ALL.len();
const KINDS: usize = SessionKind::ALL.len();

/// What is added to a row of the table: runs by status, then sessions by kind.
type Delta = [i64; STATUSES + KINDS];

/// Whose runs and sessions they are: the component and the user.
type Owner = (Option<Arc<str>>, Option<Arc<str>>);

/// What the transaction has changed so far.
#[derive(Debug, Default)]
pub(super) struct Changes {
    of_owners: HashMap<Owner, Delta>,
    /// By the batch's number. Those without any are all there are where nobody uses batches.
    of_batches: BTreeMap<i64, Delta>,
}

/// The statements.
pub(super) struct CountSql {
    change: String,
    forget: String,
    read: String,
}

impl CountSql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        Self {
            change: sql("INSERT INTO {T}_counts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
                ON CONFLICT DO UPDATE SET pending = pending + ?4, running = running + ?5, paused = paused + ?6, \
                completed = completed + ?7, cancelled = cancelled + ?8, error = error + ?9, \
                workflow_sessions = workflow_sessions + ?10, agent_sessions = agent_sessions + ?11, \
                team_sessions = team_sessions + ?12"),
            forget: sql("DELETE FROM {T}_counts WHERE scope = ?1 AND component_id = ?2 AND user_id = ?3 \
                AND pending = 0 AND running = 0 AND paused = 0 AND completed = 0 AND cancelled = 0 AND error = 0 \
                AND workflow_sessions = 0 AND agent_sessions = 0 AND team_sessions = 0"),
            read: sql("SELECT pending, running, paused, completed, cancelled, error, workflow_sessions, \
                agent_sessions, team_sessions FROM {T}_counts WHERE scope = ?1 AND component_id = ?2 AND user_id = ?3"),
        }
    }
}

impl Changes {
    /// So many runs have, or no longer have, this status.
    pub(super) fn runs(&mut self, workflow_id: Arc<str>, user_id: Option<Arc<str>>, status: RunStatus, by: i64) {
        self.of_owners.entry((Some(workflow_id), user_id)).or_default()[place(status)] += by;
    }

    /// So many runs of the batch with this number have, or no longer have, this status.
    pub(super) fn batch(&mut self, batch: i64, status: RunStatus, by: i64) {
        self.of_batches.entry(batch).or_default()[place(status)] += by;
    }

    /// What was changed for a batch, by status.
    pub(super) fn of_batch(&self, batch: i64) -> [i64; STATUSES] {
        let delta = self.of_batches.get(&batch).copied().unwrap_or_default();
        std::array::from_fn(|place| delta[place])
    }

    /// A session was made or deleted.
    pub(super) fn session(&mut self, component_id: Option<Arc<str>>, user_id: Option<Arc<str>>, kind: i64, by: i64) {
        if let Some(place) = usize::try_from(kind).ok().filter(|kind| *kind < KINDS) {
            self.of_owners.entry((component_id, user_id)).or_default()[STATUSES + place] += by;
        }
    }

    /// Forgets what was changed, because it was undone.
    pub(super) fn clear(&mut self) {
        self.of_owners.clear();
        self.of_batches.clear();
    }

    /// Writes what was changed, and forgets it.
    pub(super) fn write(&mut self, connection: &Connection, sql: &CountSql) -> Result<(), rusqlite::Error> {
        let batches: Vec<(String, Delta)> =
            self.of_batches.iter().map(|(batch, delta)| (batch.to_string(), *delta)).collect();
        let mut rows: BTreeMap<(i64, &str, &str), Delta> = BTreeMap::new();
        for (batch, delta) in &batches {
            rows.insert((OF_BATCH, batch.as_str(), ""), *delta);
        }
        for ((component_id, user_id), delta) in &self.of_owners {
            for row in scopes(component_id.as_deref(), user_id.as_deref()) {
                let sum = rows.entry(row).or_default();
                sum.iter_mut().zip(delta).for_each(|(sum, change)| *sum += change);
            }
        }
        for ((scope, component_id, user_id), by) in rows.into_iter().filter(|(_, by)| *by != Delta::default()) {
            let [a, b, c, d, e, f, g, h, i] = by;
            let columns = params![scope, component_id, user_id, a, b, c, d, e, f, g, h, i];
            connection.prepare_cached(&sql.change)?.execute(columns)?;
            // Only a deletion takes away more than it adds.
            if by[..STATUSES].iter().sum::<i64>() < 0 || by[STATUSES..].iter().sum::<i64>() < 0 {
                connection.prepare_cached(&sql.forget)?.execute(params![scope, component_id, user_id])?;
            }
        }
        self.clear();
        Ok(())
    }
}

/// The scope of a batch's row.
const OF_BATCH: i64 = 4;

/// How many runs of the batch of `r` have not ended, as it was counted last.
pub(super) const UNFINISHED_OF_BATCH: &str = "coalesce((SELECT c.pending + c.running + c.paused FROM {T}_counts c \
    WHERE c.scope = 4 AND c.component_id = CAST(r.batch_seq AS TEXT) AND c.user_id = ''), 0)";

/// The rows that count what belongs to this component and user.
fn scopes<'a>(
    component_id: Option<&'a str>,
    user_id: Option<&'a str>,
) -> impl Iterator<Item = (i64, &'a str, &'a str)> {
    let of_component = component_id.map(|component_id| (1, component_id, ""));
    let of_user = user_id.map(|user_id| (2, "", user_id));
    let of_both = component_id.zip(user_id).map(|(component_id, user_id)| (3, component_id, user_id));
    [Some((0, "", "")), of_component, of_user, of_both].into_iter().flatten()
}

/// The counts kept for this component and user; for any where there is none.
fn read(
    connection: &Connection,
    sql: &CountSql,
    component_id: Option<&str>,
    user_id: Option<&str>,
) -> Result<[u64; STATUSES + KINDS], Fail> {
    read_row(connection, sql, scopes(component_id, user_id).last().unwrap_or_default())
}

fn read_row(connection: &Connection, sql: &CountSql, row: (i64, &str, &str)) -> Result<[u64; STATUSES + KINDS], Fail> {
    let found = first(connection, &sql.read, params![row.0, row.1, row.2], |row| {
        let mut counts = [0; STATUSES + KINDS];
        for (column, count) in counts.iter_mut().enumerate() {
            // A count that was damaged must not keep a list from being read.
            *count = u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default();
        }
        Ok(counts)
    })?;
    Ok(found.unwrap_or_default())
}

/// The runs of this workflow and user, by status.
pub(super) fn runs(
    connection: &Connection,
    sql: &Sql,
    workflow_id: Option<&str>,
    user_id: Option<&str>,
) -> Result<Statuses, Fail> {
    let counts = read(connection, &sql.counts, workflow_id, user_id)?;
    Ok(std::array::from_fn(|place| counts[place]))
}

/// The runs of the batch with this number, by status.
pub(super) fn batch(connection: &Connection, sql: &Sql, batch: i64) -> Result<Statuses, Fail> {
    let counts = read_row(connection, &sql.counts, (OF_BATCH, &batch.to_string(), ""))?;
    Ok(std::array::from_fn(|place| counts[place]))
}

/// The sessions of this component and user, of one kind or all.
pub(super) fn sessions(
    connection: &Connection,
    sql: &Sql,
    component_id: Option<&str>,
    user_id: Option<&str>,
    kind: Option<SessionKind>,
) -> Result<u64, Fail> {
    let counts = read(connection, &sql.counts, component_id, user_id)?;
    let is_wanted = |place: usize| kind.is_none_or(|kind| usize::try_from(kind_column(kind)) == Ok(place));
    Ok((0..KINDS).filter(|place| is_wanted(*place)).map(|place| counts[STATUSES + place]).sum())
}
