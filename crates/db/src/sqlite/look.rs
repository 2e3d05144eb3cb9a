//! Opening a database only to look at it: nothing is changed, nothing is made beside it, and it works without
//! permission to write to the file or its directory.
//!
//! ```text
//! no log beside it ──► the file cannot change under us: no locks, until a log appears
//! log and index    ──► somebody has it open, or was killed: as one reader among others
//! log, no index    ──► a copy of both: the index is made in memory
//! ```
//! The invariant: a reader sees everything that was acknowledged before, or gets an error that says it is missing.

use super::failure::Place;
use super::mailbox::{Inbox, Mail};
use super::presence::{Identity, beside};
use super::reader::{Reader, Reading};
use super::schema::{self, Sql};
use super::writer::NEWS_INTERVAL;
use super::{copy, migrate, open};
use outlive_core::port::{DbError, News};
use rusqlite::{Connection, OpenFlags};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

/// How a file can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nobody has it open.
    Still,
    /// Along with others, by their locks.
    Shared,
    /// Nobody else can have it open, but it has a log.
    Private,
}

/// What the files looked like when they were opened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sight {
    way: Way,
    database: Option<Mark>,
    /// Present only where it must not change.
    log: Option<Mark>,
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark(Identity, Option<(u64, Option<SystemTime>)>);

impl Mark {
    fn of(metadata: &Metadata, is_still: bool) -> Self {
        Self(Identity::of(metadata), is_still.then(|| (metadata.len(), metadata.modified().ok())))
    }
}

impl Sight {
    fn of(path: &Path) -> Self {
        let metadata = |suffix: &str| std::fs::metadata(beside(path, suffix)).ok();
        let (log, has_index) = (metadata("-wal"), metadata("-shm").is_some());
        let is_half_done = metadata("-journal").is_some_and(|journal| journal.len() > 0);
        let way = match &log {
            // SQLite says what to do about it.
            _ if is_half_done => Way::Shared,
            Some(_) if has_index => Way::Shared,
            Some(log) if log.len() > 0 => Way::Private,
            _ => Way::Still,
        };
        let is_still = way != Way::Shared;
        let database = metadata("").map(|metadata| Mark::of(&metadata, is_still));
        let log = log.filter(|_| way == Way::Private).map(|metadata| Mark::of(&metadata, true));
        Self { way, database, log }
    }
}

/// A database opened only to look at it.
pub(super) struct View {
    pub(super) connection: Connection,
    eye: Eye,
}

/// What was last seen of a file, without links.
pub(super) struct Eye {
    path: PathBuf,
    sight: Sight,
}

impl View {
    /// Opens the database at `path`, which is ours and intact.
    ///
    /// # Errors
    /// `Refused`, `Corrupt`, `Busy`, `Storage`; see the port.
    pub(super) fn open(path: &Path) -> Result<Self, DbError> {
        open::check_sqlite()?;
        let place = Place::new(path);
        open::inspect_existing(path, &place)?;
        let path = std::fs::canonicalize(path).map_err(|error| place.io("open", &error))?;
        let sight = Sight::of(&path);
        let connection = connect(&path, sight.way).map_err(|error| place.error(&error))?;
        Ok(Self { connection, eye: Eye { path, sight } })
    }

    /// The same for a table set that must exist.
    pub(super) fn of_tables(path: &Path, sql: &Sql) -> Result<Self, DbError> {
        schema::check_name(&sql.table)?;
        let view = Self::open(path)?;
        let place = Place::new(path);
        open::check(&view.connection, &place).map_err(|fail| place.fail(fail))?;
        migrate::refuse_other(&view.connection, &place)?;
        let tables = schema::session_tables(&view.connection).map_err(|error| place.error(&error))?;
        if tables.is_empty() {
            let why = "has no runs and no tables for them: it is new, or it was copied with cp while a program had the \
                original open, which leaves out its log; copy with: outlive backup FILE";
            return Err(place.refused(why));
        }
        if !tables.iter().any(|table| table.eq_ignore_ascii_case(&sql.table)) {
            let why = format!("has no session table {}: it has {}", sql.table, tables.join(", "));
            return Err(place.refused(&why));
        }
        let is_bare = view.eye.sight.way == Way::Still && copy::is_bare(&view.eye.path);
        if is_bare && copy::is_without_log(&view.connection, &view.eye.path).map_err(|error| place.error(&error))? {
            tracing::warn!(
                "{} was copied or moved while a program had it open, without its log ({0}-wal): the newest runs are \
                 missing; copy with: outlive backup FILE",
                view.eye.path.display()
            );
        }
        Ok(view)
    }
}

fn connect(path: &Path, way: Way) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match way {
        Way::Still => Connection::open_with_flags(open::immutable_uri(path), flags | OpenFlags::SQLITE_OPEN_URI)?,
        Way::Shared => Connection::open_with_flags(path, flags)?,
        // Without locks, which a file system that denies writing does not give; then the index is in memory.
        Way::Private if cfg!(unix) => Connection::open_with_flags_and_vfs(path, flags, c"unix-none")?,
        Way::Private => Connection::open_with_flags(path, flags)?,
    };
    if way == Way::Private && cfg!(unix) {
        connection.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
    }
    open::configure(&connection)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -2048;")?;
    // Whether it can be read shows only at the first read.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// The only thread of a store that is only looked at: it reads, and notices when others write.
pub(super) struct Looker {
    eye: Eye,
    reader: Reader,
    data_version: i64,
    looked_at: Instant,
}

impl Looker {
    /// Looks at what `view` opened; `reader` makes a reader from its connection.
    pub(super) fn new(view: View, reader: impl FnOnce(Connection) -> Reader) -> Self {
        Self { eye: view.eye, reader: reader(view.connection), data_version: 0, looked_at: Instant::now() }
    }

    /// Works until every handle is gone.
    pub(super) fn serve(mut self, inbox: &Inbox<Reading>) {
        loop {
            let limit = self.reader.watchers.has_any().then_some(NEWS_INTERVAL);
            match inbox.wait(limit) {
                Mail::Work => {
                    for reading in inbox.take(usize::MAX) {
                        self.refresh();
                        reading(&self.reader);
                    }
                }
                Mail::Idle => {}
                Mail::Closed => return,
            }
            self.look_for_news();
        }
    }

    /// Opens the file again if the way it was opened no longer holds; returns whether it was reopened.
    fn refresh(&mut self) -> bool {
        let sight = Sight::of(&self.eye.path);
        if sight == self.eye.sight {
            return false;
        }
        match connect(&self.eye.path, sight.way) {
            Ok(connection) => (self.reader.connection, self.eye.sight) = (connection, sight),
            // It is being opened, closed or replaced just now: the next check comes soon.
            Err(error) => tracing::debug!(%error, "cannot look anew"),
        }
        true
    }

    fn look_for_news(&mut self) {
        if !self.reader.watchers.has_any() || self.looked_at.elapsed() < NEWS_INTERVAL / 2 {
            return;
        }
        self.looked_at = Instant::now();
        let is_new = self.refresh();
        let version = open::data_version(&self.reader.connection).unwrap_or(self.data_version);
        if is_new || version != self.data_version {
            self.data_version = version;
            self.reader.watchers.tell(&News::Anything);
        }
    }
}
