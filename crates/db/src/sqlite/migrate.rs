//! From an older format to this program's: all table sets of a file, in one transaction, forward only.
//!
//! A worker of an older program would go on writing the old format. So while one lives, the file is refused; and one
//! that has the file open but no worker finds that its statements no longer fit the tables. The invariant: a file has
//! one format, and a migration that did not end has changed nothing.

use super::failure::{Fail, Place};
use super::rows::id;
use super::schema::{self, USER_VERSION, user_version};
use super::workers::Locks;
use super::{SqliteDb, blocking, copy, open, pin};
use outlive_core::WorkerId;
use outlive_core::port::{DbError, Life};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The format of a file before and after it was migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The format it had.
    pub from: u32,
    /// The format it has, which is this program's.
    pub to: u32,
}

impl SqliteDb {
    /// Brings the file, which must exist, to this program's format, as opening it to write does. Older programs cannot
    /// use it any more; what they left unfinished goes on.
    ///
    /// # Errors
    /// `Refused` while a worker of an older program lives on it, and those of opening.
    pub async fn migrate(&self) -> Result<Migrated, DbError> {
        let path = self.path().to_owned();
        blocking(move || migrate_file(&path)).await
    }
}

fn migrate_file(path: &Path) -> Result<Migrated, DbError> {
    let place = Place::new(path);
    let is_bare = copy::is_bare(path);
    let connection = open::existing(path, &place)?;
    let work = || {
        open::check(&connection, &place)?;
        if let Some(what) = copy::kind(&connection, path, is_bare)? {
            return Err(place.copied(what).into());
        }
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;")?;
        let from = user_version(&connection)?;
        migrate(&connection, path, &place)?;
        Ok(Migrated { from, to: USER_VERSION })
    };
    work().map_err(|fail: Fail| place.fail(fail))
}

/// Brings the open file to this program's format.
///
/// # Errors
/// `Refused` while a worker lives on it.
pub(super) fn migrate(connection: &Connection, path: &Path, place: &Place) -> Result<(), Fail> {
    let from = user_version(connection)?;
    if from == USER_VERSION {
        return Ok(());
    }
    let begun = Instant::now();
    // Indexes are sorted before they are written, which may take more memory than there is.
    connection.execute_batch("PRAGMA temp_store = FILE")?;
    let done = open::transact(connection, "IMMEDIATE", || {
        // Another process may have been quicker.
        let from = user_version(connection)?;
        if from == USER_VERSION {
            return Ok(());
        }
        refuse_the_living(connection, path, place, from)?;
        for (number, table) in schema::session_tables(connection)?.iter().enumerate() {
            open::refuse_taken(connection, table, from, place)?;
            let number = u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1);
            connection.execute_batch(&schema::migrate_tables(table, number, from))?;
        }
        Ok(connection.execute_batch(&schema::set_user_version())?)
    });
    connection.execute_batch("PRAGMA temp_store = MEMORY")?;
    done?;
    // So that the file's header tells its format, not only its log. Whatever reads the old one meanwhile may go on.
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    let took = begun.elapsed();
    tracing::info!(from, to = USER_VERSION, ?took, "database {} has a new format", path.display());
    Ok(())
}

fn refuse_the_living(connection: &Connection, path: &Path, place: &Place, from: u32) -> Result<(), Fail> {
    let locks = Locks::new(path);
    let mut statement = connection.prepare(schema::LIVING)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let worker: WorkerId = id(&row.get::<_, Arc<str>>(0)?)?;
        let is_good = row.get::<_, i64>(1)? > now();
        let what = match locks.life(&worker) {
            Life::Gone => continue,
            Life::Unknown if !is_good => continue,
            Life::Unknown => "stop its program, or wait until its lease is over".to_owned(),
            Life::Lives => match pin::holders(&locks.file(&worker)).as_str() {
                "" => "stop its program".to_owned(),
                process => format!("stop {process}"),
            },
        };
        return Err(place.in_use(&worker, from, &what).into());
    }
    Ok(())
}

/// Microseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Refuses a file that was opened for reading only and has another format.
pub(super) fn refuse_other(connection: &Connection, place: &Place) -> Result<(), DbError> {
    match user_version(connection) {
        Ok(USER_VERSION) => Ok(()),
        Ok(other) if other > USER_VERSION => Err(place.newer(other)),
        Ok(other) => Err(place.older(other)),
        Err(error) => Err(place.error(&error)),
    }
}
