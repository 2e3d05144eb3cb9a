//! Returning free pages to the disk: a few at a time while there is nothing else to do, or all at once in a file that
//! nobody else has open.
//!
//! The invariant: a step is a short transaction, and never waits for another process.

use super::copier;
use super::failure::{Place, Stage, Verdict, verdict};
use super::numbers::Numbers;
use super::{SqliteDb, blocking, open};
use outlive_core::port::{DbError, DbErrorKind};
use rusqlite::Connection;
use std::path::Path;
use std::time::{Duration, Instant};

/// Free pages that are kept for later writes (1 MB).
const KEPT_PAGES: u32 = 256;
/// Pages returned in one step (1 MB).
const STEP_PAGES: u32 = 256;
/// How often an idle writer checks whether pages have become free.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What the writer knows about free pages.
#[derive(Debug)]
pub(super) struct Vacuum {
    /// Files made before this existed return pages only when they are rewritten.
    is_on: bool,
    looked_at: Option<Instant>,
    /// It has returned pages since the log was last copied, which is what makes the file shorter.
    has_begun: bool,
}

/// The size of a file before and after it was rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vacuumed {
    /// Bytes before.
    pub before: u64,
    /// Bytes now.
    pub after: u64,
}

impl Vacuum {
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        Ok(Self { is_on: is_incremental(connection)?, looked_at: None, has_begun: false })
    }

    /// Returns some pages, if there are many free ones.
    pub(super) fn step(&mut self, connection: &Connection, numbers: &Numbers) -> rusqlite::Result<()> {
        let is_due = self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL);
        if !self.is_on || !(is_due || self.has_begun) {
            return Ok(());
        }
        self.looked_at = Some(Instant::now());
        let free = free_pages(connection)?;
        if free > KEPT_PAGES {
            self.has_begun = true;
            return give_back(connection, STEP_PAGES.min(free - KEPT_PAGES));
        }
        if std::mem::take(&mut self.has_begun) {
            copier::copy(connection, numbers)?;
        }
        Ok(())
    }
}

/// Whether free pages can be returned without rewriting the file.
pub(super) fn is_incremental(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA auto_vacuum", [], |row| Ok(row.get::<_, u32>(0)? == 2))
}

/// Unused pages.
pub(super) fn free_pages(connection: &Connection) -> rusqlite::Result<u32> {
    connection.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))
}

/// Another process that writes goes first.
fn give_back(connection: &Connection, pages: u32) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    // A step of the statement is a page.
    let step = |_: &rusqlite::Row<'_>| Ok(());
    let given = connection
        .prepare(&format!("PRAGMA incremental_vacuum({pages})"))
        .and_then(|mut statement| statement.query_map([], step)?.collect::<rusqlite::Result<()>>());
    connection.busy_timeout(open::BUSY_TIMEOUT)?;
    match given {
        Err(error) if verdict(Stage::Begin, &error) == Verdict::RefuseAll => Ok(()),
        given => given,
    }
}

impl SqliteDb {
    /// Rewrites the file without its free pages, so that from then on it returns free pages by itself. Takes as long as
    /// writing the file takes, and as much space again. Nobody may have it open, not even this handle.
    ///
    /// # Errors
    /// `Busy` when somebody has it open, `Full`, and those of opening.
    pub async fn vacuum(&self) -> Result<Vacuumed, DbError> {
        let path = self.path().to_owned();
        blocking(move || rewrite(&path)).await
    }
}

fn rewrite(path: &Path) -> Result<Vacuumed, DbError> {
    let place = Place::new(path);
    let connection = open::existing(path, &place)?;
    let work = || {
        // Leaving WAL mode needs exclusive use of the file.
        connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0))?;
        let before = open::len(&connection)?;
        // In memory it might not fit.
        connection.execute_batch("PRAGMA temp_store = FILE; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;")?;
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM;")?;
        Ok(Vacuumed { before, after: open::len(&connection)? })
    };
    work().map_err(|error: rusqlite::Error| match place.error(&error) {
        busy if busy.kind() == DbErrorKind::Busy => {
            let message = format!(
                "database {} is open in another program: stop every server, worker and reader of it, then try again",
                path.display()
            );
            DbError::new(DbErrorKind::Busy, message)
        }
        other => other,
    })
}
