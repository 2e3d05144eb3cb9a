//! Which files are opened, how they are made, and that a refused one is left alone.

use super::{files, new_run, register, run_id};
use outlive_core::port::{Access, Db, DbErrorKind, RunFilter, RunStore};
use outlive_db::SqliteDb;
use rusqlite::Connection;
use std::fs;
use std::path::Path;

/// Opens a file that must be refused, checks that nothing changed, and gives back the message.
async fn refusal(path: &Path) -> String {
    let directory = path.parent().unwrap();
    let (bytes, names) = (fs::read(path).unwrap(), files(directory));
    let db = SqliteDb::new(path);
    let error = db.open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
    let error = db.run(Access::All, run_id("r1")).await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
    drop(db);
    assert!(fs::read(path).unwrap() == bytes, "a refused file was changed");
    assert_eq!(files(directory), names, "something was made beside a refused file");
    let message = error.to_string();
    assert!(message.contains(&path.display().to_string()), "{message}");
    message
}

fn made_with(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let long = "a letter to a friend, long enough to have a header's length. ".repeat(10);
    for (name, text) in [("short", "hello"), ("long", long.as_str()), ("cut", "SQLite format 3\0")] {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        let message = refusal(&path).await;
        assert!(message.contains("is not a database: choose another path"), "{message}");
    }
}

#[tokio::test]
async fn a_database_of_agno_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    for (name, sql, table) in [
        ("odd name?#%.db", "CREATE TABLE agno_schema_versions (version TEXT);", "agno_schema_versions"),
        (
            "b.db",
            "CREATE TABLE workflow_session (session_id TEXT, session_type TEXT, session_data TEXT, more TEXT);",
            "workflow_session",
        ),
        (
            "wal.db",
            "PRAGMA journal_mode = WAL; CREATE TABLE agno_schema_versions (version TEXT);",
            "agno_schema_versions",
        ),
    ] {
        let path = directory.path().join(name);
        made_with(&path, sql);
        let message = refusal(&path).await;
        assert!(message.contains("made by Agno") && message.contains(table), "{message}");
    }
}

#[tokio::test]
async fn another_applications_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, sql) in [
        ("a.db", "CREATE TABLE users (id INTEGER);"),
        ("b.db", "PRAGMA application_id = 77; CREATE TABLE outlive_sessions (id INTEGER);"),
    ] {
        let path = directory.path().join(name);
        made_with(&path, sql);
        let message = refusal(&path).await;
        assert!(message.contains("another application's database"), "{message}");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    SqliteDb::new(&path).open().await.unwrap();
    made_with(&path, "PRAGMA user_version = 4711;");
    let message = refusal(&path).await;
    assert!(message.contains("newer outlive") && message.contains("4711"), "{message}");
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path(), Path::new(""), Path::new(":memory:")] {
        let error = SqliteDb::new(path).open().await.unwrap_err();
        assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
    }
    assert!(files(directory.path()).is_empty());
    assert!(!Path::new(":memory:").exists());
}

#[tokio::test]
async fn an_empty_file_and_a_missing_one_are_fine() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("empty.db");
    fs::write(&path, "").unwrap();
    SqliteDb::new(&path).open().await.unwrap();
    let path = directory.path().join("deep/er/missing.db");
    SqliteDb::new(&path).open().await.unwrap();
    assert!(path.is_file());
}

#[tokio::test]
async fn a_store_that_was_refused_opens_once_the_way_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    fs::write(&path, "a note").unwrap();
    let db = SqliteDb::new(&path);
    db.open().await.unwrap_err();
    fs::remove_file(&path).unwrap();
    db.open().await.unwrap();
    db.create_run(Access::All, new_run("r1"), None).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_made_is_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let given = directory.path().join("given");
    fs::create_dir(&given).unwrap();
    fs::set_permissions(&given, fs::Permissions::from_mode(0o755)).unwrap();
    let path = given.join("made/a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&given), 0o755, "what was there stays as it is");
    let mut seen = Vec::new();
    for name in files(&given) {
        let path = given.join(&name);
        assert_eq!(mode(&path), if path.is_dir() { 0o700 } else { 0o600 }, "{name}");
        seen.push(name);
    }
    let expected = ["made", "made/a.db", "made/a.db-shm", "made/a.db-wal", "made/a.db-workers", "made/a.db-workers/w1"];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_header_says_whose_the_file_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    db.open().await.unwrap();
    // While it is open, the database file itself must say so, not only the write-ahead log.
    let header = fs::read(&path).unwrap();
    assert_eq!(&header[68..72], b"OUTL");
    assert_eq!(&header[60..64], [0, 0, 0, 2]);
    let sql = Connection::open(&path).unwrap();
    let mode: String = sql.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_who_creates_the_file_at_once_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let path = directory.path().join(format!("{round}.db"));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..6 {
            let db = SqliteDb::new(&path).session_table(if number % 2 == 0 { "even" } else { "odd" });
            tasks.spawn(async move {
                db.open().await.unwrap();
                db.create_run(Access::All, new_run(&format!("r{number}")), None).await.unwrap();
            });
        }
        tasks.join_all().await;
        let even = SqliteDb::new(&path).session_table("even");
        assert_eq!(even.runs(Access::All, RunFilter::default()).await.unwrap().runs.len(), 3);
    }
}

#[tokio::test]
async fn a_session_tables_name_is_checked_and_must_be_free() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let error = SqliteDb::new(&path).session_table("a; DROP TABLE b").open().await.unwrap_err();
    assert!(error.to_string().contains("letters, digits and _ only"), "{error}");
    assert!(!path.exists());

    SqliteDb::new(&path).session_table("mine").open().await.unwrap();
    made_with(&path, "CREATE TABLE theirs (id INTEGER); INSERT INTO theirs VALUES (7);");
    for name in ["theirs", "mine_runs", "THEIRS"] {
        let error = SqliteDb::new(&path).session_table(name).open().await.unwrap_err();
        assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
    }
    SqliteDb::new(&path).session_table("mine").open().await.unwrap();
    let sql = Connection::open(&path).unwrap();
    let kept: i64 = sql.query_row("SELECT id FROM theirs", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 7);
}

#[tokio::test]
async fn a_damaged_file_is_named_and_not_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    for number in 0..200 {
        db.create_run(Access::All, new_run(&format!("r{number}")), None).await.unwrap();
    }
    drop(db);
    let whole = fs::read(&path).unwrap();
    let mut scribbled = whole.clone();
    let middle = whole.len() / 2;
    scribbled[middle..middle + 6000].fill(0xA5);
    let cut = whole[..whole.len() / 2].to_vec();
    for damaged in [scribbled, cut] {
        fs::write(&path, &damaged).unwrap();
        let error = SqliteDb::new(&path).open().await.unwrap_err();
        assert_eq!(error.kind(), DbErrorKind::Corrupt, "{error}");
        let message = error.to_string();
        assert!(message.contains("a.db") && message.contains("restore it from a backup"), "{message}");
        assert!(fs::read(&path).unwrap() == damaged);
    }
}

#[tokio::test]
async fn the_audit_log_refuses_to_be_changed() {
    use outlive_core::port::{Access, AuditFilter, AuditKind, AuditRecord, AuditStore};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    for table in ["outlive_sessions", "second"] {
        let db = SqliteDb::new(&path).session_table(table);
        let record = AuditRecord {
            at: outlive_core::Timestamp::from_micros(1),
            kind: AuditKind::KeyMint,
            outcome: "done".into(),
            actor: None,
            user_id: None,
            address: None,
            request_id: None,
            action: "outlive keys mint".into(),
            target: None,
        };
        db.append_audit(vec![record.clone(), record]).await.unwrap();
        let before = db.audit(Access::All, AuditFilter::default()).await.unwrap();
        let sql = rusqlite::Connection::open(&path).unwrap();
        for change in [
            format!("UPDATE {table}_audit SET outcome = 'denied' WHERE seq = 1"),
            format!("DELETE FROM {table}_audit WHERE seq = 1"),
            format!("DELETE FROM {table}_audit"),
            format!(
                "INSERT OR REPLACE INTO {table}_audit (seq, at, kind, outcome, action) VALUES (1, 1, 'x', 'x', 'x')"
            ),
        ] {
            let error = sql.execute(&change, []).expect_err(&change);
            assert!(error.to_string().contains("append-only"), "{change}: {error}");
        }
        assert_eq!(db.audit(Access::All, AuditFilter::default()).await.unwrap(), before);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    for path in [&*pipe, Path::new("/dev/null"), Path::new("/dev/full")] {
        for db in [SqliteDb::new(path), SqliteDb::new(path).read_only()] {
            let error = db.open().await.unwrap_err().to_string();
            assert!(error.contains("it is not a regular file") && error.contains(&*path.to_string_lossy()), "{error}");
        }
    }
}
