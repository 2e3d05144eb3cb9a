//! Room that deleted sessions leave: given back while nobody is busy, and all at once on demand.

use super::{new_run, register};
use outlive_core::SessionId;
use outlive_core::port::{Access, Db, DbErrorKind, NewRun, RunStore, SessionStore};
use outlive_db::SqliteDb;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Accepts so many runs of 100 kB, each in a session of its own.
async fn fill(db: &SqliteDb, runs: usize) -> Vec<SessionId> {
    let input: Arc<str> = format!("\"{}\"", "x".repeat(100_000)).into();
    let mut sessions = Vec::new();
    for number in 0..runs {
        let mut run = new_run(&format!("r{number}"));
        run.input = Some(input.clone());
        sessions.push(run.info.session_id.clone());
        db.create_run(Access::All, run, None).await.unwrap();
    }
    sessions
}

#[tokio::test]
async fn only_the_first_run_of_a_definition_takes_room_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut pages = Vec::new();
    for structure in [None, Some(Arc::from("x".repeat(20_000)))] {
        let path = directory.path().join(format!("{}.db", structure.is_some()));
        let db = SqliteDb::new(&path);
        for id in 0..100 {
            let run = NewRun { structure: structure.clone(), ..new_run(&format!("r{id}")) };
            db.create_run(Access::All, run, None).await.unwrap();
        }
        pages.push(number(&path, "page_count"));
    }
    assert!((5..10).contains(&(pages[1] - pages[0])), "{pages:?}");
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn number(path: &Path, pragma: &str) -> i64 {
    let sql = rusqlite::Connection::open(path).unwrap();
    sql.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_sessions_give_their_room_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    // Who watches has an idle writer wake now and then.
    db.watch(Arc::new(|_| {}));
    register(&db, "w1").await;
    let sessions = fill(&db, 200).await;
    // A reader that keeps its transaction would see the log grow instead.
    db.delete_sessions(Access::All, sessions, true).await.unwrap();
    assert!(number(&path, "freelist_count") > 4_000);
    let deadline = Instant::now() + Duration::from_secs(60);
    while len(&path) > 4 << 20 || number(&path, "freelist_count") > 300 {
        assert!(Instant::now() < deadline, "{} bytes, {} pages are free", len(&path), number(&path, "freelist_count"));
        tokio::task::yield_now().await;
    }
    // What stays is for what comes next.
    fill(&db, 1).await;
    drop(db);
    assert!(len(&path) < 4 << 20);
    assert_eq!(number(&path, "auto_vacuum"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_file_is_rewritten_once_and_then_shrinks_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    let sessions = fill(&db, 50).await;
    db.delete_sessions(Access::All, sessions, true).await.unwrap();
    drop(db);
    // As files were made before.
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch("PRAGMA auto_vacuum = NONE; PRAGMA journal_mode = DELETE; VACUUM;").unwrap();
    drop(old);
    let db = SqliteDb::new(&path);
    let sessions = fill(&db, 50).await;
    db.delete_sessions(Access::All, sessions, true).await.unwrap();
    assert!(!db.inspect().await.unwrap().is_incremental);
    let copy = directory.path().join("copy.db");
    db.backup(&copy, outlive_core::Timestamp::from_micros(1)).await.unwrap();
    assert_eq!(number(&copy, "auto_vacuum"), 2);
    let error = SqliteDb::new(&path).vacuum().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("open in another program: stop every server"), "{error}");
    drop(db);
    let vacuumed = SqliteDb::new(&path).vacuum().await.unwrap();
    assert!(vacuumed.before > 4 << 20 && vacuumed.after < 1 << 20, "{vacuumed:?}");
    assert_eq!(len(&path), vacuumed.after);
    let found = SqliteDb::new(&path).inspect().await.unwrap();
    assert!(found.is_incremental && found.free_bytes == 0 && found.faults.is_empty(), "{found:?}");
}
