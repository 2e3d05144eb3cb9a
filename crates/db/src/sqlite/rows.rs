//! From rows to the port's types, for the writer and the readers alike. Text that cannot be what was written counts as
//! damage.

use super::failure::Fail;
use super::tables::AWAITING;
use outlive_core::port::{CancelIntent, DbError, Run, RunLimit, Session, SessionKind, Unreadable};
use outlive_core::{DefinitionId, RunId, RunInfo, RunStatus, SessionId, Timestamp, WorkerId};
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, Params, Row};
use serde_json::{Map, Value};
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
    u64::try_from(column).map_err(|_| damaged(format!("{column} is not a count")))
}

/// An id as it was stored.
pub(super) fn id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Fail> {
    text.parse().map_err(|problem| damaged(format!("{problem}")))
}

/// Stored bytes differ from what was written: the error SQLite itself gives for that, so that it is handled the same.
pub(super) fn damaged(what: String) -> Fail {
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Fail::Sqlite(rusqlite::Error::SqliteFailure(corrupt, Some(what)))
}

fn small(column: i64) -> Result<u32, Fail> {
    u32::try_from(column).map_err(|_| damaged(format!("{column} is not a count")))
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

/// The error of reading a damaged row: it names what the row holds, and does not stop other rows from being read.
pub(super) fn unreadable(of: &str, fail: Fail) -> Fail {
    let problem = match fail {
        Fail::Said(error) => return Fail::Said(error),
        Fail::Sqlite(rusqlite::Error::SqliteFailure(_, Some(what))) => what,
        Fail::Sqlite(error) => error.to_string(),
    };
    DbError::from(Unreadable { part: "row", of: of.to_owned(), problem }).into()
}

/// Text for people. What is not UTF-8 in it shows as replacement characters.
pub(super) fn shown(row: &Row<'_>, column: usize) -> Result<Option<Arc<str>>, Fail> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) => Ok(Some(String::from_utf8_lossy(bytes).into())),
        _ => Ok(row.get(column)?),
    }
}

/// JSON that others will read. What is not UTF-8 becomes invalid JSON, so that they report it.
pub(super) fn json(row: &Row<'_>, column: usize) -> Result<Option<Arc<str>>, Fail> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) => Ok(Some(str::from_utf8(bytes).unwrap_or("(not UTF-8)").into())),
        _ => Ok(row.get(column)?),
    }
}

/// The accept number of a run from a row with the columns of [`Sql::run_by_id`].
fn run_seq(row: &Row<'_>) -> Result<i64, Fail> {
    Ok(row.get(21)?)
}

/// A run from a row with the columns of [`Sql::run_by_id`].
pub(super) fn run(row: &Row<'_>) -> Result<Run, Fail> {
    read_run(row).map_err(|fail| match row.get_ref(0).map(|id| id.as_str().map(id_of::<RunId>)) {
        Ok(Ok(Some(run_id))) => unreadable(&format!("run {run_id}"), fail),
        _ => unreadable(&format!("run number {}", run_seq(row).unwrap_or_default()), fail),
    })
}

fn id_of<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn read_run(row: &Row<'_>) -> Result<Run, Fail> {
    let text = |column: usize| row.get_ref(column).map_err(Fail::from)?.as_str().map_err(|e| damaged(e.to_string()));
    let needed = |column: usize| shown(row, column)?.ok_or_else(|| damaged(format!("column {column} is null")));
    let due_at: i64 = row.get(14)?;
    let cancel = match (row.get::<_, Option<i64>>(15)?, shown(row, 16)?) {
        (Some(at), reason) => Some(CancelIntent { at: time(at), reason: reason.unwrap_or_else(|| Arc::from("")) }),
        (None, _) => None,
    };
    let status = status(row.get(5)?)?;
    Ok(Run {
        info: RunInfo {
            run_id: id::<RunId>(text(0)?)?,
            workflow_id: id::<DefinitionId>(text(1)?)?,
            workflow_name: needed(2)?,
            session_id: id::<SessionId>(text(3)?)?,
            user_id: shown(row, 4)?,
        },
        status,
        options: json(row, 6)?,
        definition: needed(7)?,
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
        is_behind: (1..AWAITING).contains(&row.get(22)?) && !status.is_terminal(),
        priority: i8::try_from(row.get::<_, i64>(23)?).map_err(|error| damaged(error.to_string()))?,
        limit: limit(shown(row, 24)?, row.get(25)?)?,
        awaits_place: row.get::<_, i64>(22)? == AWAITING && !status.is_terminal() && status != RunStatus::Paused,
        cancel,
        next_index: count(row.get(17)?)?,
        progress: shown(row, 18)?,
        input: json(row, 19)?,
        output: json(row, 20)?,
    })
}

fn limit(key: Option<Arc<str>>, max: Option<i64>) -> Result<Option<Arc<RunLimit>>, Fail> {
    let Some(key) = key else { return Ok(None) };
    Ok(Some(Arc::new(RunLimit { key, max: small(max.unwrap_or_default())? })))
}

/// The run at this place in the accept order, by one of the statements that read one.
pub(super) fn run_by_seq(connection: &Connection, sql: &str, seq: i64) -> Result<Run, Fail> {
    let found = first(connection, sql, [seq], run)?;
    found.ok_or_else(|| unreadable(&format!("run number {seq}"), damaged("a part of it is missing".to_owned())))
}

/// A session from a row with the columns of [`Sql::session`].
pub(super) fn session(row: &Row<'_>) -> Result<Session, Fail> {
    read_session(row).map_err(|fail| match row.get_ref(0).map(|id| id.as_str().map(id_of::<SessionId>)) {
        Ok(Ok(Some(session_id))) => unreadable(&format!("session {session_id}"), fail),
        _ => unreadable("a session whose id is lost", fail),
    })
}

fn read_session(row: &Row<'_>) -> Result<Session, Fail> {
    let text = |column: usize| row.get_ref(column).map_err(Fail::from)?.as_str().map_err(|e| damaged(e.to_string()));
    let workflow_id = row.get_ref(4)?.as_str_or_null().map_err(|e| damaged(e.to_string()))?;
    Ok(Session {
        session_id: id(text(0)?)?,
        version: count(row.get(1)?)?,
        kind: kind(row.get(2)?)?,
        user_id: shown(row, 3)?,
        workflow_id: workflow_id.map(id).transpose()?,
        created_at: time(row.get(5)?),
        updated_at: time(row.get(6)?),
        name: shown(row, 7)?,
        metadata: metadata(row)?,
        state: state(row)?,
    })
}

/// The metadata of a session from a row with the columns of [`Sql::session`].
pub(super) fn metadata(row: &Row<'_>) -> Result<Map<String, Value>, Fail> {
    object(row, 8, "metadata")
}

/// The state of a session from a row with the columns of [`Sql::session`].
pub(super) fn state(row: &Row<'_>) -> Result<Map<String, Value>, Fail> {
    object(row, 9, "state")
}

fn object(row: &Row<'_>, column: usize, part: &'static str) -> Result<Map<String, Value>, Fail> {
    let of = format!("session {}", shown(row, 0)?.unwrap_or_default());
    let text = json(row, column)?.unwrap_or_default();
    Unreadable::read(&text, part, of).map_err(|error| DbError::from(error).into())
}
