//! From rows to the port's types, for the writer and the readers alike. Text that cannot be what was written is damage.

use super::failure::Fail;
use super::schema::Sql;
use outlive_core::port::{CancelIntent, Run, Session, SessionKind};
use outlive_core::{DefinitionId, RunId, RunInfo, RunStatus, SessionId, Timestamp, WorkerId};
use rusqlite::types::FromSql;
use rusqlite::{Connection, Params, Row};
use std::sync::Arc;

/// For the columns SQLite stores as signed.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A due time as it is stored: 0 for none.
pub(super) fn due_column(due_at: Option<Timestamp>) -> i64 {
    due_at.map_or(0, Timestamp::as_micros)
}

/// A status as it is stored: its place in [`RunStatus::ALL`].
pub(super) fn status_column(status: RunStatus) -> i64 {
    let place = RunStatus::ALL.iter().position(|s| *s == status);
    int(place.expect("ALL has every status") as u64)
}

/// A status as it was stored.
pub(super) fn status(column: i64) -> Result<RunStatus, Fail> {
    let status = usize::try_from(column).ok().and_then(|place| RunStatus::ALL.get(place));
    status.copied().ok_or_else(|| damaged(format!("a run has status {column}")))
}

/// A session's kind as it is stored: its place in [`SessionKind::ALL`].
pub(super) fn kind_column(kind: SessionKind) -> i64 {
    let place = SessionKind::ALL.iter().position(|k| *k == kind);
    int(place.expect("ALL has every kind") as u64)
}

fn kind(column: i64) -> Result<SessionKind, Fail> {
    let kind = usize::try_from(column).ok().and_then(|place| SessionKind::ALL.get(place));
    kind.copied().ok_or_else(|| damaged(format!("a session has kind {column}")))
}

/// A count as it was stored.
pub(super) fn count(column: i64) -> Result<u64, Fail> {
    u64::try_from(column).map_err(|_| damaged(format!("{column} is no count")))
}

/// An id as it was stored.
pub(super) fn id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Fail> {
    text.parse().map_err(|problem| damaged(format!("{problem}")))
}

/// Stored bytes are not what was written: as the error SQLite itself gives for that, so that it is handled like one.
pub(super) fn damaged(what: String) -> Fail {
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Fail::Sqlite(rusqlite::Error::SqliteFailure(corrupt, Some(what)))
}

fn small(column: i64) -> Result<u32, Fail> {
    u32::try_from(column).map_err(|_| damaged(format!("{column} is no count")))
}

fn time(column: i64) -> Timestamp {
    Timestamp::from_micros(column)
}

/// The first row's values, if there is a row.
pub(super) fn first<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, Fail>,
) -> Result<Option<T>, Fail> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// The first row's first value, if there is a row.
pub(super) fn value<T: FromSql>(connection: &Connection, sql: &str, params: impl Params) -> Result<Option<T>, Fail> {
    first(connection, sql, params, |row| Ok(row.get(0)?))
}

/// A run from a row with the columns of [`Sql::run_by_id`], and its accept number.
pub(super) fn run(row: &Row<'_>) -> Result<(Run, i64), Fail> {
    let text = |column: usize| row.get_ref(column).map_err(Fail::from)?.as_str().map_err(|e| damaged(e.to_string()));
    let due_at: i64 = row.get(14)?;
    let cancel = match (row.get::<_, Option<i64>>(15)?, row.get::<_, Option<Arc<str>>>(16)?) {
        (Some(at), reason) => Some(CancelIntent { at: time(at), reason: reason.unwrap_or_else(|| Arc::from("")) }),
        (None, _) => None,
    };
    let run = Run {
        info: RunInfo {
            run_id: id::<RunId>(text(0)?)?,
            workflow_id: id::<DefinitionId>(text(1)?)?,
            workflow_name: row.get(2)?,
            session_id: id::<SessionId>(text(3)?)?,
            user_id: row.get(4)?,
        },
        status: status(row.get(5)?)?,
        options: row.get(6)?,
        definition: row.get(7)?,
        created_at: time(row.get(8)?),
        updated_at: time(row.get(9)?),
        epoch: count(row.get(10)?)?,
        worker: row
            .get_ref(11)?
            .as_str_or_null()
            .map_err(|e| damaged(e.to_string()))?
            .map(id::<WorkerId>)
            .transpose()?,
        claims: small(row.get(12)?)?,
        attempt: small(row.get(13)?)?,
        due_at: (due_at != 0).then(|| time(due_at)),
        cancel,
        next_index: count(row.get(17)?)?,
        progress: row.get(18)?,
        input: row.get(19)?,
        output: row.get(20)?,
    };
    Ok((run, row.get(21)?))
}

/// The run at this place of the accept order.
pub(super) fn run_by_seq(connection: &Connection, sql: &Sql, seq: i64) -> Result<Run, Fail> {
    let found = first(connection, &sql.run_by_seq, [seq], run)?;
    found.map(|(run, _)| run).ok_or_else(|| damaged(format!("run number {seq} is not whole")))
}

/// A session from a row with the columns of [`Sql::session`].
pub(super) fn session(row: &Row<'_>) -> Result<Session, Fail> {
    let text = |column: usize| row.get_ref(column).map_err(Fail::from)?.as_str().map_err(|e| damaged(e.to_string()));
    let workflow_id: Option<Arc<str>> = row.get(4)?;
    Ok(Session {
        session_id: id(text(0)?)?,
        version: count(row.get(1)?)?,
        kind: kind(row.get(2)?)?,
        user_id: row.get(3)?,
        workflow_id: workflow_id.as_deref().map(id).transpose()?,
        created_at: time(row.get(5)?),
        updated_at: time(row.get(6)?),
        name: row.get(7)?,
        metadata: object(text(8)?)?,
        state: object(text(9)?)?,
    })
}

/// A session's state or metadata as it was stored.
pub(super) fn object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, Fail> {
    serde_json::from_str(text).map_err(|e| damaged(format!("a session's JSON: {e}")))
}
