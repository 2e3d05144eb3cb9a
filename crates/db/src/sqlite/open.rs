//! Opening: what the file is, before SQLite gets to touch it; creating and migrating; the settings that make `COMMIT`
//! mean *on stable storage*, each read back.
//!
//! The invariant: a file that is refused is left exactly as it was, without a `-wal` or `-shm` beside it.

use super::failure::{Fail, Place};
use super::header::{self, HEADER_LEN, MAGIC};
use super::migrate::migrate;
use super::presence::is_read_only;
use super::schema::{self, APPLICATION_ID, Sql, USER_VERSION, user_version};
use super::workers::create_private_directory;
use super::{copy, disk};
use outlive_core::port::{DbError, DbErrorKind};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for another process's lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Files up to this size are checked in full when they are opened.
const CHECKED_BYTES_MAX: u64 = 64 << 20;

/// An open database.
pub(super) struct Opened {
    /// The file, with links resolved.
    pub(super) path: PathBuf,
    pub(super) writer: Connection,
}

/// Opens, and creates or migrates, the table set of `sql` in the database at `path`.
///
/// # Errors
/// `Refused`, `ReadOnly`, `Corrupt`, `Busy`, `Full`, `Storage`; see the port.
pub(super) fn open(path: &Path, sql: &Sql) -> Result<Opened, DbError> {
    schema::check_name(&sql.table)?;
    check_sqlite()?;
    let place = Place::new(path);
    if path.as_os_str().is_empty() || path.as_os_str() == ":memory:" {
        return Err(place.refused("is not a file: give a path, or use InMemoryDb"));
    }
    disk::check(create_directory(path, &place)?, &place)?;
    inspect(path, &place)?;
    let (path, writer) = connect_existing(path, &place)?;
    let prepared = prepare(&writer, sql, &path, &place);
    prepared.map_err(|fail| place.fail(fail))?;
    Ok(Opened { path, writer })
}

/// A connection that changes a database which exists and is ours.
pub(super) fn existing(path: &Path, place: &Place) -> Result<Connection, DbError> {
    check_sqlite()?;
    inspect_existing(path, place)?;
    Ok(connect_existing(path, place)?.1)
}

fn connect_existing(path: &Path, place: &Place) -> Result<(PathBuf, Connection), DbError> {
    let path = fs::canonicalize(path).map_err(|error| place.io("open", &error))?;
    // SQLite would read it anyway, or write with a privileged user's rights.
    if path.metadata().is_ok_and(|metadata| is_read_only(&metadata)) {
        return Err(place.read_only());
    }
    let connection = connect(&path, place)?;
    match connection.is_readonly("main") {
        Ok(false) => Ok((path, connection)),
        Ok(true) => Err(place.read_only()),
        Err(error) => Err(place.error(&error)),
    }
}

/// Versions of SQLite before 3.51.3 can damage a database when one process copies the log while another starts it
/// again; the older lines 3.50 and 3.44 were fixed as well.
pub(super) fn check_sqlite() -> Result<(), DbError> {
    if is_sound(rusqlite::version_number()) {
        return Ok(());
    }
    let message = format!(
        "SQLite {} can damage databases that several threads use (its WAL-reset bug): build outlive with the SQLite it \
         brings, or link 3.51.3 or newer",
        rusqlite::version()
    );
    Err(DbError::new(DbErrorKind::Refused, message))
}

fn is_sound(version: i32) -> bool {
    let (line, patch) = (version / 1_000, version % 1_000);
    match line {
        3_044 => patch >= 6,
        3_050 => patch >= 7,
        3_051 => patch >= 3,
        line => line > 3_051,
    }
}

/// A read-only connection.
pub(super) fn open_reader(path: &Path) -> Result<Connection, DbError> {
    let place = Place::new(path);
    let reader = connect(path, &place)?;
    let configured = reader.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -2048;");
    configured.map_err(|error| place.error(&error))?;
    Ok(reader)
}

/// A connection that copies the write-ahead log. It needs no cached pages.
pub(super) fn open_copier(path: &Path) -> Result<Connection, DbError> {
    let place = Place::new(path);
    let copier = connect(path, &place)?;
    // As safe as a commit: what is copied may be all that is left once the log starts again.
    let configured =
        copier.execute_batch("PRAGMA synchronous = FULL; PRAGMA checkpoint_fullfsync = ON; PRAGMA cache_size = 8;");
    configured.map_err(|error| place.error(&error))?;
    Ok(copier)
}

/// Changes whenever another connection commits.
pub(super) fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

/// Bytes of a page.
pub(super) fn page_size(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("PRAGMA page_size", [], |row| Ok(row.get::<_, i64>(0)?.unsigned_abs()))
}

/// Bytes of the database, its log included.
pub(super) fn len(connection: &Connection) -> rusqlite::Result<u64> {
    let pages = connection.query_row("PRAGMA page_count", [], |row| Ok(row.get::<_, i64>(0)?.unsigned_abs()))?;
    Ok(pages * page_size(connection)?)
}

/// After a failed sync the write-ahead log is all we can trust: the next process must find it.
pub(super) fn keep_log_on_close(connection: &Connection) {
    if let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
        tracing::warn!(%error, "cannot keep the write-ahead log");
    }
}

fn create_directory<'p>(path: &'p Path, place: &Place) -> Result<&'p Path, DbError> {
    match path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        Some(directory) => {
            create_private_directory(directory).map_err(|error| place.io("create the directory of", &error))?;
            Ok(directory)
        }
        None => Ok(Path::new(".")),
    }
}

/// Looks at the header without SQLite, and refuses what is not ours. A missing file is created.
fn inspect(path: &Path, place: &Place) -> Result<(), DbError> {
    if path.is_dir() {
        return Err(place.refused("is a directory: give the path of a file"));
    }
    let header = header::create_or_read(path).map_err(|error| place.io("open", &error))?;
    if header.is_empty() {
        return Ok(());
    }
    inspect_header(path, &header, place)
}

/// The same for a file that must exist and not be empty.
pub(super) fn inspect_existing(path: &Path, place: &Place) -> Result<(), DbError> {
    if path.is_dir() {
        return Err(place.refused("is a directory: give the path of a file"));
    }
    let header = header::read(path).map_err(|error| place.io("open", &error))?;
    if header.is_empty() {
        return Err(place.refused("is empty, not even a database: name another file, or put a backup in its place"));
    }
    inspect_header(path, &header, place)
}

fn inspect_header(path: &Path, header: &[u8], place: &Place) -> Result<(), DbError> {
    if header.len() < HEADER_LEN || !header.starts_with(MAGIC) {
        return Err(place.refused("is not a database: choose another path"));
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if number(68) != APPLICATION_ID {
        return Err(place.refused(&whose(path)));
    }
    let version = number(60);
    if version > USER_VERSION {
        return Err(place.newer(version));
    }
    Ok(())
}

/// Whose database this is, in words.
fn whose(path: &Path) -> String {
    match agno_table(path) {
        Ok(Some(table)) => {
            format!("is a database made by Agno (table {table}): outlive keeps its own file, choose another path")
        }
        // One that cannot be read is not ours either.
        Ok(None) | Err(_) => "is another application's database: choose another path".to_owned(),
    }
}

/// A table that identifies Agno's databases. `immutable` keeps SQLite from making any file.
fn agno_table(path: &Path) -> rusqlite::Result<Option<String>> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable_uri(&path), flags)?;
    let sql = "SELECT m.name FROM sqlite_schema m WHERE m.type = 'table' AND (m.name = 'agno_schema_versions' \
        OR 3 = (SELECT count(*) FROM pragma_table_info(m.name) c \
        WHERE c.name IN ('session_id', 'session_type', 'session_data'))) ORDER BY m.name LIMIT 1";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

pub(super) fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

fn connect(path: &Path, place: &Place) -> Result<Connection, DbError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connect = || {
        let connection = Connection::open_with_flags(path, flags)?;
        configure(&connection)?;
        Ok(connection)
    };
    connect().map_err(|error: rusqlite::Error| place.error(&error))
}

/// What all connections have in common.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Otherwise SQLite compiles a statement again when it is bound to other values, a fifth of the writer's time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // A checkpoint at a time the writer chooses, not inside a COMMIT that someone waits for.
    connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 0;")
}

fn prepare(writer: &Connection, sql: &Sql, path: &Path, place: &Place) -> Result<(), Fail> {
    let is_bare = copy::is_bare(path);
    let settings = "PRAGMA page_size = 4096; PRAGMA cache_size = -2048; PRAGMA journal_size_limit = 67108864; PRAGMA fullfsync = ON; \
        PRAGMA checkpoint_fullfsync = ON; PRAGMA synchronous = FULL;";
    writer.execute_batch(settings)?;
    create_shared(writer)?;
    // A newer format may so far be in the log only.
    if user_version(writer)? > USER_VERSION {
        return Err(place.newer(user_version(writer)?).into());
    }
    check(writer, place)?;
    if let Some(what) = copy::kind(writer, path, is_bare)? {
        return Err(place.copied(what).into());
    }
    enter_wal(writer, place)?;
    let synchronous: i64 = writer.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    if synchronous != 2 {
        let why = format!("does not take synchronous=FULL (it has {synchronous}): put it on another file system");
        return Err(place.refused(&why).into());
    }
    migrate(writer, path, place)?;
    create_tables(writer, sql, place)
}

/// In one transaction and with a rollback journal, so that the header on disk always tells the truth: the file is
/// either empty or marked as ours. When several processes do this at once, the first creates the file and the others
/// find it done.
///
/// The tables are made later, in the log: a copy of the file without its log then shows what it lacks.
fn create_shared(writer: &Connection) -> Result<(), Fail> {
    if user_version(writer)? != 0 {
        return Ok(());
    }
    // For a new file this takes effect when it is compiled. Executed, it would write the header at once, before it is
    // marked as ours.
    drop(writer.prepare("PRAGMA auto_vacuum = INCREMENTAL")?);
    transact(writer, "EXCLUSIVE", || match user_version(writer)? {
        0 => Ok(writer.execute_batch(&schema::create_shared())?),
        _ => Ok(()),
    })
}

fn create_tables(writer: &Connection, sql: &Sql, place: &Place) -> Result<(), Fail> {
    let table = &sql.table;
    let registered = format!("SELECT count(*) FROM outlive_meta WHERE name = 'tables:{table}' COLLATE NOCASE");
    let count = |sql: &str| writer.query_row(sql, [], |row| row.get::<_, u32>(0));
    if count(&registered)? > 0 {
        return Ok(());
    }
    transact(writer, "IMMEDIATE", || {
        if count(&registered)? > 0 {
            return Ok(());
        }
        refuse_taken(writer, table, 0, place)?;
        let number = count("SELECT count(*) + 1 FROM outlive_meta WHERE name LIKE 'tables:%'")?;
        Ok(writer.execute_batch(&schema::create_tables(table, number))?)
    })
}

/// Refuses to take a table set from format `from` to the newest if there is a table with the name of one that this
/// makes.
pub(super) fn refuse_taken(writer: &Connection, table: &str, from: u32, place: &Place) -> Result<(), Fail> {
    let names: Vec<String> = schema::made_tables(table, from).map(|name| format!("'{name}'")).collect();
    let taken = format!("SELECT name FROM sqlite_schema WHERE name COLLATE NOCASE IN ({}) LIMIT 1", names.join(", "));
    match writer.query_row(&taken, [], |row| row.get::<_, String>(0)).optional()? {
        None => Ok(()),
        Some(name) => {
            let why = format!(
                "has another table {name}, whose name session table {table} needs: rename it, or choose another session \
                 table"
            );
            Err(place.refused(&why).into())
        }
    }
}

pub(super) fn transact(writer: &Connection, kind: &str, work: impl FnOnce() -> Result<(), Fail>) -> Result<(), Fail> {
    writer.execute_batch(&format!("BEGIN {kind}"))?;
    let done = work().and_then(|()| Ok(writer.execute_batch("COMMIT")?));
    if done.is_err() && !writer.is_autocommit() {
        writer.execute_batch("ROLLBACK")?;
    }
    done
}

/// Never repairs anything.
pub(super) fn check(writer: &Connection, place: &Place) -> Result<(), Fail> {
    let verdict: String = if len(writer)? <= CHECKED_BYTES_MAX {
        writer.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?
    } else {
        // Reading the schema reads the header and the first pages.
        writer.query_row("SELECT iif(count(*) > 0, 'ok', 'no schema') FROM sqlite_schema", [], |row| row.get(0))?
    };
    match verdict.as_str() {
        "ok" => Ok(()),
        problem => Err(place.corrupt(problem.trim()).into()),
    }
}

/// Changing the journal mode needs exclusive use of the file and does not wait for it by itself, so this does.
fn enter_wal(writer: &Connection, place: &Place) -> Result<(), Fail> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let entered = writer.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
        match entered {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let why = format!("does not take journal_mode=WAL (it has {mode}): put it on a local file system");
                return Err(place.refused(&why).into());
            }
            Err(error) if place.error(&error).kind() == DbErrorKind::Busy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_of_sqlite_that_damages_databases_is_not_used() {
        for unsound in [3_007_000, 3_043_002, 3_044_005, 3_045_003, 3_050_006, 3_051_002] {
            assert!(!is_sound(unsound), "{unsound}");
        }
        for sound in [3_044_006, 3_050_007, 3_051_003, 3_052_000, 3_054_001, 4_000_000] {
            assert!(is_sound(sound), "{sound}");
        }
        check_sqlite().expect("ours is sound");
    }
}
