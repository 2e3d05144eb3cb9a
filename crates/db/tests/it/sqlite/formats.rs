//! Files of an older format: how they come to this one, and when they do not.

use super::{PERIOD, files, new_run, run_id, second, worker_id};
use outlive_core::RunStatus;
use outlive_core::port::{
    Access, Db, DbErrorKind, LogStore, RunFilter, RunStore, SessionFilter, SessionSort, SessionStore,
};
use outlive_db::SqliteDb;
use rusqlite::Connection;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What the last program of format 1 left: eight runs in one table set, two in another.
const FORMAT_1: &str = include_str!("../../fixtures/format_1.sql");

/// A file of format 1, as its program left it when it closed.
fn of_format_1(directory: &Path) -> PathBuf {
    let path = directory.join("a.db");
    let sql = Connection::open(&path).unwrap();
    sql.execute_batch(FORMAT_1).unwrap();
    sql.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    // The lock files of its workers, whose processes are gone, lie beside it.
    let locks = directory.join("a.db-workers");
    fs::create_dir(&locks).unwrap();
    let mut workers = sql.prepare("SELECT worker_id FROM outlive_workers WHERE is_dead = 0").unwrap();
    for worker in workers.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        File::create(locks.join(worker.unwrap())).unwrap();
    }
    path
}

fn format_of(path: &Path) -> u32 {
    Connection::open(path).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

/// The format as the file's header has it, for programs that read it without SQLite.
fn format_in_header(path: &Path) -> u8 {
    fs::read(path).unwrap()[63]
}

/// Every row of a file, as text.
fn content(path: &Path) -> Vec<String> {
    let sql = Connection::open(path).unwrap();
    let texts = |query: &str| -> Vec<String> {
        let mut statement = sql.prepare(query).unwrap();
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<String> {
            (0..columns).map(|column| Ok(format!("{:?} ", row.get_ref(column)?))).collect()
        };
        statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let schema = texts("SELECT type, name, sql FROM sqlite_schema ORDER BY name");
    let tables = sql.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let tables: Vec<String> = { tables }.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let rows = tables.iter().flat_map(|table| texts(&format!("SELECT * FROM {table}")));
    schema.into_iter().chain(rows).collect()
}

async fn statuses(db: &SqliteDb, access: Access) -> Vec<(RunStatus, u64)> {
    let filter = RunFilter { with_counts: true, ..RunFilter::default() };
    db.runs(access, filter).await.unwrap().counts.unwrap().by_status
}

/// The counts and lists that a file must have once it is of this format.
async fn check_counts(path: &Path) {
    use RunStatus::{Cancelled, Completed, Error, Paused, Pending, Running};
    let db = SqliteDb::new(path);
    let all = [(Pending, 1), (Running, 2), (Paused, 1), (Completed, 2), (Cancelled, 1), (Error, 1)];
    assert_eq!(statuses(&db, Access::All).await, all);
    let hers = [(Pending, 1), (Running, 1), (Completed, 1), (Cancelled, 1)];
    assert_eq!(statuses(&db, Access::User("ada".into())).await, hers);
    let runs = db.runs(Access::User("ada".into()), RunFilter::default()).await.unwrap().runs;
    let ids: Vec<_> = runs.iter().map(|run| run.info.run_id.as_str()).collect();
    assert_eq!(ids, ["behind", "stopped", "cancelled", "done-ada"]);
    assert_eq!(db.sessions(Access::All, SessionFilter::default()).await.unwrap().total, 6);
    assert_eq!(db.read(Access::All, run_id("stopped"), 0, usize::MAX).await.unwrap().len(), 2);
    super::check_kept_counts(path);
    let second = SqliteDb::new(path).session_table("second");
    assert_eq!(statuses(&second, Access::All).await, [(Running, 1), (Completed, 1)]);
}

#[tokio::test]
async fn an_older_file_is_brought_up_to_date_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    assert_eq!(format_in_header(&path), 1);
    // Opening one table set migrates them all.
    let db = SqliteDb::new(&path).session_table("second");
    db.open().await.unwrap();
    assert_eq!(format_in_header(&path), 2, "also while it is open");
    check_counts(&path).await;
    drop(db);
    // The tables are those of a new file.
    let new = directory.path().join("new.db");
    for table in ["outlive_sessions", "second"] {
        SqliteDb::new(&new).session_table(table).open().await.unwrap();
    }
    let schema = |path: &Path| -> Vec<String> {
        content(path).into_iter().filter(|line| line.contains("(Text([116, 97, 98,")).collect()
    };
    let normal =
        |lines: Vec<String>| lines.into_iter().map(|line| line.replace(char::is_whitespace, "")).collect::<Vec<_>>();
    assert_eq!(normal(schema(&path)), normal(schema(&new)));
    check_counts(&path).await;
}

#[tokio::test]
async fn sessions_of_an_older_file_are_in_every_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    let sql = Connection::open(&path).unwrap();
    // Accepted in this order, by clocks that disagree.
    let times = [(30, 30), (10, 10), (50, 50), (40, 40), (20, 60), (70, 70)];
    for (seq, (created, updated)) in (1..).zip(times) {
        let columns = [seq, created, updated];
        sql.execute("UPDATE outlive_sessions SET created_at = ?2, updated_at = ?3 WHERE seq = ?1", columns).unwrap();
    }
    drop(sql);
    let db = SqliteDb::new(&path);
    let ids = async |sort| {
        let mut ids = Vec::new();
        for offset in 0..6 {
            let filter = SessionFilter { sort, descending: true, limit: 1, offset, ..SessionFilter::default() };
            let page = db.sessions(Access::All, filter).await.unwrap();
            ids.extend(page.sessions.iter().map(|session| session.updated_at.as_micros()));
        }
        ids
    };
    assert_eq!(ids(SessionSort::CreatedAt).await, [70, 60, 40, 50, 10, 30]);
    assert_eq!(ids(SessionSort::UpdatedAt).await, [70, 60, 50, 40, 30, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_may_open_an_older_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    let handles: Vec<_> = (0..4).map(|_| SqliteDb::new(&path)).collect();
    let opened = handles.iter().map(|db| {
        let db = db.clone();
        tokio::spawn(async move { db.open().await })
    });
    for opened in opened.collect::<Vec<_>>() {
        opened.await.unwrap().unwrap();
    }
    check_counts(&path).await;
}

#[tokio::test]
async fn an_older_file_is_refused_while_a_worker_lives_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    let locks = directory.path().join("a.db-workers");
    let sql = Connection::open(&path).unwrap();
    sql.execute_batch("INSERT INTO outlive_workers VALUES (77, 'old-one', 'second', 1, 0)").unwrap();
    drop(sql);
    let lock = File::create(locks.join("old-one")).unwrap();
    lock.lock().unwrap();
    let before = (content(&path), files(directory.path()));
    for table in ["outlive_sessions", "second", "third"] {
        let error = SqliteDb::new(&path).session_table(table).open().await.unwrap_err();
        assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
        let message = error.to_string();
        assert!(message.contains("format 1") && message.contains("worker old-one still executes there"), "{message}");
        if cfg!(target_os = "linux") {
            assert!(message.contains(&format!("(process {})", std::process::id())), "{message}");
        }
    }
    assert_eq!((content(&path), files(directory.path())), before);
    drop(lock);
    SqliteDb::new(&path).open().await.unwrap();
    check_counts(&path).await;
}

#[tokio::test]
async fn a_worker_without_a_lock_file_lives_as_long_as_its_lease() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    let sql = Connection::open(&path).unwrap();
    sql.execute_batch("UPDATE outlive_workers SET is_dead = 1").unwrap();
    sql.execute("INSERT INTO outlive_workers VALUES (77, 'old-one', 'second', ?1, 0)", [i64::MAX]).unwrap();
    // The file is open, so it has its log: without one it would be taken for a copy.
    let error = SqliteDb::new(&path).open().await.unwrap_err();
    assert!(error.to_string().contains("wait until its lease is over"), "{error}");
    sql.execute_batch("UPDATE outlive_workers SET good_until = 5").unwrap();
    SqliteDb::new(&path).open().await.unwrap();
    assert_eq!(format_of(&path), 2);
}

#[tokio::test]
async fn an_older_program_that_still_has_the_file_open_can_write_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    let old = Connection::open(&path).unwrap();
    let statements = [
        "INSERT INTO outlive_sessions_runs (run_id, session_seq, workflow_id, status, is_behind, epoch, worker, \
         claims, attempt, due_at, next_index, updated_at) VALUES ('new', 1, 'orders', 0, 0, 0, NULL, 0, 0, 0, 0, 1)",
        "INSERT INTO outlive_sessions (session_id, version, kind, user_id, workflow_id, created_at, updated_at, name, \
         metadata, state) VALUES ('new', 0, 0, NULL, 'orders', 1, 1, NULL, '{}', '{}')",
        "UPDATE outlive_sessions_runs SET status = 4, next_index = 8, updated_at = 1, progress = NULL, claims = 0, \
         worker = iif(1, NULL, worker), due_at = 0 WHERE seq = 1",
        "UPDATE outlive_sessions_runs SET worker = 1, epoch = epoch + 1 WHERE seq = 1",
        "DELETE FROM outlive_sessions_runs WHERE seq IN (SELECT f.seq FROM outlive_sessions_runs f \
         INDEXED BY outlive_sessions_runs_unfinished WHERE f.status < 3 AND f.session_seq = 1 AND f.worker IS NULL)",
    ];
    let mut prepared: Vec<_> = statements.iter().map(|sql| old.prepare(sql).unwrap()).collect();
    SqliteDb::new(&path).open().await.unwrap();
    for statement in &mut prepared {
        let error = statement.execute([]).unwrap_err();
        assert!(
            error.to_string().contains("no column named") || error.to_string().contains("no such column"),
            "{error}"
        );
    }
    check_counts(&path).await;
}

#[cfg(unix)]
#[tokio::test]
async fn looking_at_an_older_file_changes_nothing_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    let before = (fs::read(&path).unwrap(), files(directory.path()));
    let error = SqliteDb::new(&path).read_only().open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
    let message = error.to_string();
    assert!(message.contains("format 1") && message.contains("open it once to write"), "{message}");
    assert_eq!(SqliteDb::new(&path).session_tables().unwrap(), ["outlive_sessions", "second"]);
    assert!((fs::read(&path).unwrap(), files(directory.path())) == before);
    SqliteDb::new(&path).open().await.unwrap();
    SqliteDb::new(&path).read_only().open().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_copy_of_an_older_file_is_older_until_it_is_adopted_and_opened() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (of_format_1(directory.path()), directory.path().join("copy.db"));
    let backup = SqliteDb::new(&path).backup(&copy, second(1)).await.unwrap();
    assert_eq!((backup.runs, backup.entries), (10, 60));
    assert_eq!((format_of(&path), format_of(&copy)), (1, 1), "its own program can still use it");
    let error = SqliteDb::new(&copy).open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::ReadOnly, "{error}");
    assert_eq!(format_of(&copy), 1);
    let adopted = SqliteDb::new(&copy).adopt().await.unwrap();
    assert_eq!((adopted.was_copy, adopted.unfinished), (true, 5));
    check_counts(&copy).await;
    assert_eq!((format_of(&path), format_of(&copy)), (1, 2));
}

#[tokio::test]
async fn a_migration_that_fails_half_way_has_changed_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    // In the way of the second table set, when the first is done.
    let sql = Connection::open(&path).unwrap();
    sql.execute_batch("CREATE TABLE second_counts (theirs)").unwrap();
    drop(sql);
    let before = content(&path);
    let error = SqliteDb::new(&path).open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("second_counts"), "{error}");
    assert_eq!(content(&path), before);
    Connection::open(&path).unwrap().execute_batch("DROP TABLE second_counts").unwrap();
    check_counts(&path).await;
}

#[tokio::test]
async fn a_migration_that_was_killed_begins_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    let before = content(&path);
    let migration = include_str!("../../../migrations/sqlite/0002_tables.sql").replace("{T}", "outlive_sessions");
    let sql = Connection::open(&path).unwrap();
    // So that what is not committed is on disk all the same.
    sql.execute_batch("PRAGMA cache_size = 10; PRAGMA cache_spill = 10; BEGIN IMMEDIATE;").unwrap();
    sql.execute_batch(&migration.replace("{V}", "")).unwrap();
    sql.execute_batch("PRAGMA user_version = 2").unwrap();
    // What the disk has when the process dies here.
    let after = directory.path().join("after");
    fs::create_dir_all(&after).unwrap();
    for name in ["a.db", "a.db-wal"] {
        fs::copy(directory.path().join(name), after.join(name)).unwrap();
    }
    fs::rename(directory.path().join("a.db-workers"), after.join("a.db-workers")).unwrap();
    let path = after.join("a.db");
    assert!(fs::metadata(after.join("a.db-wal")).unwrap().len() > 20_000, "some of it is on disk");
    assert_eq!(content(&path), before);
    check_counts(&path).await;
    assert_eq!(format_of(&path), 2);
}

#[tokio::test]
async fn a_newer_format_that_is_only_in_the_log_is_refused_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    SqliteDb::new(&path).open().await.unwrap();
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA user_version = 4711;").unwrap();
    assert_eq!(format_in_header(&path), 2);
    for db in [SqliteDb::new(&path), SqliteDb::new(&path).read_only()] {
        let error = db.open().await.unwrap_err();
        assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("newer outlive (format 4711"), "{error}");
    }
}

#[tokio::test]
async fn runs_go_on_in_a_file_that_was_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = of_format_1(directory.path());
    let db = SqliteDb::new(&path);
    db.heartbeat(worker_id("w1"), second(0), PERIOD).await.unwrap();
    db.create_run(Access::All, new_run("new"), Some(worker_id("w1"))).await.unwrap();
    let claimed = db.claim_run(run_id("stopped"), worker_id("w1"), second(1)).await.unwrap();
    let (run, lease) = claimed.unwrap();
    assert_eq!((run.next_index, lease.epoch, run.info.user_id.as_deref()), (5, 2, Some("ada")));
    assert_eq!(statuses(&db, Access::All).await[0], (RunStatus::Pending, 2));
}
