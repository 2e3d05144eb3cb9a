//! Copies of a database: making one while others use it, recognising one, and taking one into use.
//!
//! ```text
//! backup ──► a temporary file beside the target ──► marked ──► checked ──► synced ──► under its name
//! copy ──► can be looked at, takes no write ──► adopt ──► a database like any other
//! ```
//! What the unfinished runs of a copy have done since then is only in the original, so executing them here would do it
//! again. The invariant: nothing is ever overwritten, and whatever has the target's name is complete.

use super::failure::{Fail, Place};
use super::header;
use super::look::View;
use super::presence::{beside, is_read_only};
use super::rows::{count, id};
use super::workers::{Locks, private};
use super::{SqliteDb, blocking, open, schema, vacuum};
use outlive_core::port::{DbError, DbErrorKind};
use outlive_core::{Page, RunId, Timestamp, WorkerId};
use rusqlite::{Connection, OptionalExtension};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A copy that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Bytes of the file.
    pub bytes: u64,
    /// Runs in it.
    pub runs: u64,
    /// Entries of their logs.
    pub entries: u64,
}

/// What was found when a file was taken into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Whether it was a copy; otherwise nothing was changed.
    pub was_copy: bool,
    /// Unfinished runs, which go on as soon as an engine executes here.
    pub unfinished: u64,
}

const MADE: &str = "is a copy made by outlive backup";
const CUT_OFF: &str = "was copied or moved while a program had it open, without its log";

/// How often, and how far apart, a file without tables is checked again.
const TABLE_LOOKS: u32 = 20;
const TABLE_PAUSE: Duration = Duration::from_millis(5);

/// Whether the file is one that has a log while it is open, but has none. To be asked before it is opened: SQLite makes
/// one.
pub(super) fn is_bare(path: &Path) -> bool {
    // In this order: a log is made after the header mentions it.
    header::read(path).is_ok_and(|header| header.get(18) == Some(&2)) && !beside(path, "-wal").exists()
}

/// What kind of copy the file is that nobody has adopted; none when it is not one.
pub(super) fn kind(connection: &Connection, path: &Path, is_bare: bool) -> rusqlite::Result<Option<&'static str>> {
    if marked_at(connection)?.is_some() {
        return Ok(Some(MADE));
    }
    Ok((is_bare && is_without_log(connection, path)?).then_some(CUT_OFF))
}

/// Whether a bare file was separated from its log: a worker uses it that has never been where the file is, or its
/// tables were in the log. A file that was closed shows neither.
pub(super) fn is_without_log(connection: &Connection, path: &Path) -> rusqlite::Result<bool> {
    if !has_tables(connection)? {
        return Ok(true);
    }
    let locks = Locks::new(path);
    let mut statement = connection.prepare(schema::LIVING)?;
    let mut workers = statement.query_map([], |row| row.get::<_, String>(0))?;
    let is_stranger = |worker: &str| WorkerId::parse(worker).is_ok_and(|worker| !locks.know(&worker));
    workers.try_fold(false, |found, worker| Ok(found || is_stranger(&worker?)))
}

/// Whether there are tables, or another process that has just created the file makes them now.
fn has_tables(connection: &Connection) -> rusqlite::Result<bool> {
    for _ in 0..TABLE_LOOKS {
        if !schema::session_tables(connection)?.is_empty() {
            return Ok(true);
        }
        std::thread::sleep(TABLE_PAUSE);
    }
    Ok(false)
}

fn marked_at(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection.query_row(schema::COPY_MARK, [], |row| row.get(0)).optional()
}

impl SqliteDb {
    /// Copies the database to `to`, even while others use it: as it was at one moment, without free pages, readable by
    /// its owner only. The copy is checked as a whole, with the checksum of every entry, before it gets its name. It
    /// can be looked at, and takes no write until somebody adopts it ([`SqliteDb::adopt`]).
    ///
    /// # Errors
    /// `Conflict` when something already exists at `to`, `Corrupt` when the database is damaged, `Full`, and those of
    /// opening. A failure leaves `to` as it was.
    pub async fn backup(&self, to: impl Into<PathBuf>, at: Timestamp) -> Result<Backup, DbError> {
        let (path, to) = (self.path().to_owned(), to.into());
        blocking(move || back_up(&path, &to, at)).await
    }

    /// Takes a copy into use: from now on it is a database like any other. A file that is not a copy is not changed.
    ///
    /// # Errors
    /// Those of opening.
    pub async fn adopt(&self) -> Result<Adopted, DbError> {
        let path = self.path().to_owned();
        blocking(move || adopt(&path)).await
    }
}

/// A file that is removed unless it gets its name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        for suffix in ["", "-journal"] {
            // It may already have its name, or never have been made.
            drop(fs::remove_file(beside(&self.0, suffix)));
        }
    }
}

fn back_up(path: &Path, to: &Path, at: Timestamp) -> Result<Backup, DbError> {
    let target = Place::new(to);
    if to.symlink_metadata().is_ok() {
        return Err(taken(to));
    }
    let view = View::open(path)?;
    let temporary = Temporary(beside(to, &format!(".{}.part", std::process::id())));
    make_private(&temporary.0).map_err(|error| target.io("create", &error))?;
    let name =
        temporary.0.to_str().ok_or_else(|| target.refused("is not the name of a file in UTF-8: choose another"))?;
    let copy = || {
        view.connection.execute_batch("PRAGMA query_only = OFF")?;
        if !vacuum::is_incremental(&view.connection)? {
            // The copy is marked. The file itself cannot be, which is the error this ignores.
            drop(view.connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL"));
        }
        view.connection.execute("VACUUM INTO ?1", [name])
    };
    copy().map_err(|error| of_copying(&error, path, &target))?;
    let copy = finish(&temporary.0, at).map_err(|fail| target.fail(fail))?;
    publish(&temporary.0, to).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => taken(to),
        _ => target.io("write", &error),
    })?;
    Ok(copy)
}

/// A full disk is the target's.
fn of_copying(error: &rusqlite::Error, path: &Path, target: &Place) -> DbError {
    match target.error(error) {
        full if full.kind() == DbErrorKind::Full => full,
        _ => Place::new(path).error(error),
    }
}

fn taken(to: &Path) -> DbError {
    let message = format!("{} already exists and is not overwritten: choose another name", to.display());
    DbError::new(DbErrorKind::Conflict, message)
}

fn make_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    private(&mut options);
    options.open(path)
}

/// Marks the copy and checks all of it.
fn finish(path: &Path, at: Timestamp) -> Result<Backup, Fail> {
    let place = Place::new(path);
    let connection = Connection::open(path)?;
    let tables = schema::session_tables(&connection)?;
    connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;")?;
    open::transact(&connection, "IMMEDIATE", || {
        connection.execute(schema::SET_COPY_MARK, [at.as_micros().to_string()])?;
        release(&connection, &tables)
    })?;
    let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(place.corrupt(verdict.trim()).into());
    }
    let mut backup = Backup { bytes: 0, runs: 0, entries: 0 };
    for table in &tables {
        check_logs(&connection, table, &mut backup)?;
    }
    connection.close().map_err(|(_, error)| error)?;
    let metadata = File::open(path).and_then(|file| file.sync_all().and_then(|()| file.metadata()));
    backup.bytes = metadata.map_err(|error| place.io("sync", &error))?.len();
    Ok(backup)
}

/// No worker of the original is a worker of this file.
fn release(connection: &Connection, tables: &[String]) -> Result<(), Fail> {
    connection.execute(schema::BURY_ALL, [])?;
    let format = schema::user_version(connection)?;
    for table in tables {
        connection.execute(&schema::free_runs_of_the_dead(table, format), [])?;
    }
    Ok(())
}

/// Each entry has its checksum, and none is missing.
fn check_logs(connection: &Connection, table: &str, backup: &mut Backup) -> Result<(), Fail> {
    let mut statement = connection.prepare(&schema::all_pages(table))?;
    let mut rows = statement.query([])?;
    let mut log: Option<(RunId, u64, u64)> = None;
    while let Some(row) = rows.next()? {
        let run_id: RunId = id(&row.get::<_, Arc<str>>(0)?)?;
        let next = match log.take() {
            Some((before, next, _)) if before == run_id => next,
            before => {
                is_complete(before)?;
                backup.runs += 1;
                0
            }
        };
        let end = match row.get::<_, Option<i64>>(2)? {
            None => 0,
            Some(first_index) => {
                let page = Page {
                    first_index: count(first_index)?,
                    count: row.get(3)?,
                    body: row.get::<_, String>(4)?.into(),
                };
                if page.first_index != next {
                    return Err(damaged(&run_id, &format!("entry {next} is missing")));
                }
                page.check(&run_id).map_err(|error| damaged(&run_id, &error.to_string()))?;
                backup.entries += u64::from(page.count);
                page.end()
            }
        };
        log = Some((run_id, end, count(row.get(1)?)?));
    }
    is_complete(log)
}

fn is_complete(log: Option<(RunId, u64, u64)>) -> Result<(), Fail> {
    match log {
        Some((run_id, end, told)) if end != told => Err(damaged(&run_id, &format!("it has {end} entries of {told}"))),
        _ => Ok(()),
    }
}

fn damaged(run_id: &RunId, what: &str) -> Fail {
    let message = format!(
        "the log of run {run_id} is damaged ({what}), and so the copy was not kept: delete the run's session, or restore an \
         earlier backup"
    );
    DbError::new(DbErrorKind::Corrupt, message).into()
}

/// Gives the file its name durably, and never takes over an existing one.
fn publish(temporary: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, to) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
        // Not every file system has links.
        Err(_) if to.symlink_metadata().is_err() => fs::rename(temporary, to)?,
        linked => linked?,
    }
    let directory = to.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn adopt(path: &Path) -> Result<Adopted, DbError> {
    let place = Place::new(path);
    open::inspect_existing(path, &place)?;
    let path = fs::canonicalize(path).map_err(|error| place.io("open", &error))?;
    if path.metadata().is_ok_and(|metadata| is_read_only(&metadata)) {
        return Err(place.read_only());
    }
    let is_bare = is_bare(&path);
    let connection = open::existing(&path, &place)?;
    let work = || {
        open::check(&connection, &place)?;
        let tables = schema::session_tables(&connection)?;
        let was_copy = kind(&connection, &path, is_bare)?.is_some();
        if was_copy {
            connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;")?;
            open::transact(&connection, "IMMEDIATE", || {
                connection.execute(schema::CLEAR_COPY_MARK, [])?;
                release(&connection, &tables)
            })?;
            // Closed properly, it will not be taken for one without its log again.
            connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
        }
        let mut unfinished = 0;
        for table in &tables {
            unfinished += count(connection.query_row(&schema::unfinished_runs(table), [], |row| row.get(0))?)?;
        }
        Ok(Adopted { was_copy, unfinished })
    };
    work().map_err(|fail: Fail| place.fail(fail))
}
