//! Deleting runs that have ended: how much one call does to the file, and what a crash in the middle leaves.

use super::{append, line_page, new_run, register, run_id, start};
use outlive_core::port::{
    Access, Commit, DELETED_BYTES_MAX, DELETED_ROWS_MAX, DELETED_RUNS_MAX, Deleted, Lease, LogStore, NewRun,
    RetentionStore, RunPatch, RunStore, SessionStore,
};
use outlive_core::{Page, RunId, RunStatus, SessionId};
use outlive_db::SqliteDb;
use std::path::Path;
use std::sync::Arc;

async fn end(db: &SqliteDb, lease: &Lease) {
    for status in [RunStatus::Running, RunStatus::Completed] {
        let patch = RunPatch { status: Some(status), ..RunPatch::default() };
        let commit =
            Commit { lease: lease.clone(), page: None, patch, session: None, at: outlive_core::Timestamp::default() };
        db.commit(commit).await.unwrap();
    }
}

/// A run that has ended after so many entries of so many bytes.
async fn ended(db: &SqliteDb, id: &str, entries: u64, len: usize) {
    let lease = start(db, id, "w1").await;
    let line = "x".repeat(len);
    for index in 0..entries {
        db.commit(append(&lease, line_page(index, &line))).await.unwrap();
    }
    end(db, &lease).await;
}

fn count(path: &Path, what: &str) -> u64 {
    let sql = rusqlite::Connection::open(path).unwrap();
    let count: i64 =
        sql.query_row(&format!("SELECT count(*) FROM outlive_sessions_{what}"), [], |row| row.get(0)).unwrap();
    count.unsigned_abs()
}

async fn delete(db: &SqliteDb, ids: &[&str]) -> Deleted {
    db.delete_runs(Access::All, ids.iter().map(|id| run_id(id)).collect(), None).await.unwrap()
}

/// A log as one commit could not write it, for tests of many rows.
fn write_log(path: &Path, id: &str, rows: u64, len: usize) {
    let sql = rusqlite::Connection::open(path).unwrap();
    let insert = "INSERT INTO outlive_sessions_run_events (run_seq, first_index, count, epoch, body) \
        WITH RECURSIVE row (place) AS (SELECT 0 UNION ALL SELECT place + 1 FROM row WHERE place + 1 < ?2) \
        SELECT (SELECT seq FROM outlive_sessions_runs WHERE run_id = ?1), place, 1, 1, printf('%.*c', ?3, 'x') FROM row";
    sql.execute(insert, rusqlite::params![id, rows as i64, len as i64]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_goes_bit_by_bit_while_its_run_is_gone_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    ended(&db, "long", 0, 0).await;
    let rows = DELETED_ROWS_MAX * 3 + 7;
    write_log(&path, "long", rows, 50);
    ended(&db, "short", 1, 10).await;
    let (mut left, mut calls) = (rows + 1, 0);
    loop {
        let deleted = delete(&db, &["long", "short"]).await;
        calls += 1;
        let now = count(&path, "run_events");
        assert!(left - now <= DELETED_ROWS_MAX, "{} rows in one call", left - now);
        left = now;
        assert!(db.run(Access::All, run_id("long")).await.unwrap().is_none());
        assert!(db.read(Access::All, run_id("long"), 0, usize::MAX).await.unwrap().is_empty());
        if !deleted.more {
            break;
        }
        // A process that dies here leaves this to the next, which begins with it whatever it is asked for.
        if calls == 2 {
            let next = SqliteDb::new(&path);
            assert!(delete(&next, &[]).await.more);
            left = count(&path, "run_events");
        }
    }
    assert_eq!((left, count(&path, "remains"), count(&path, "runs")), (0, 0, 0));
    assert!(calls >= 3, "{calls}");
    assert!(db.inspect().await.unwrap().faults.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_deletes_a_bounded_number_of_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    ended(&db, "big", 0, 0).await;
    write_log(&path, "big", 40, 1 << 19);
    ended(&db, "last", 0, 0).await;
    let deleted = delete(&db, &["big"]).await;
    assert!(deleted.more);
    assert!((DELETED_BYTES_MAX..DELETED_BYTES_MAX + (1 << 19)).contains(&deleted.bytes), "{deleted:?}");
    assert_eq!(count(&path, "run_events"), 40 - 8);
}

/// SQLite gives a run the number after the highest that there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_run_never_finds_what_is_left_of_another() {
    for with_session in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let db = SqliteDb::new(&path);
        register(&db, "w1").await;
        let names = ["long", "last"].map(|name| format!("{name}-{with_session}"));
        ended(&db, &names[0], 0, 0).await;
        write_log(&path, &names[0], DELETED_ROWS_MAX * 2, 50);
        ended(&db, &names[1], 1, 10).await;
        assert!(delete(&db, &[&names[0]]).await.more);
        assert_eq!(count(&path, "remains"), 1);
        if with_session {
            let session = SessionId::parse(&format!("session-of-{}", names[1])).unwrap();
            assert_eq!(db.delete_sessions(Access::All, vec![session], false).await.unwrap(), 1);
        } else {
            // The last run goes with the call that would go on.
            let mut left = delete(&db, &[&names[1]]).await;
            while db.run(Access::All, run_id(&names[1])).await.unwrap().is_some() {
                left = delete(&db, &[&names[1]]).await;
            }
            assert!(!left.more || count(&path, "remains") == 0);
        }
        assert_eq!((count(&path, "run_events"), count(&path, "remains")), (0, 0));
        let id = format!("new-{with_session}");
        let lease = start(&db, &id, "w1").await;
        db.commit(append(&lease, line_page(0, "mine"))).await.unwrap();
        let pages: Vec<Page> = db.read(Access::All, run_id(&id), 0, usize::MAX).await.unwrap();
        assert_eq!(pages, [line_page(0, "mine")]);
        end(&db, &lease).await;
        delete(&db, &[&id]).await;
    }
}

/// Among many others, a definition is looked for a window at a time; whoever submits with it meanwhile keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_is_looked_for_among_many_runs_bit_by_bit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    let with =
        |id: &str, hash: &str| NewRun { definition: Arc::from(hash), structure: Some(Arc::from(hash)), ..new_run(id) };
    let accept = async |run| drop(db.create_run(Access::All, run, None).await.unwrap());
    let finish = async |id: &str| {
        let (_, lease) = db.claim_run(run_id(id), super::worker_id("w1"), super::second(1)).await.unwrap().unwrap();
        end(&db, &lease).await;
    };
    let is_there = async |hash: &str| db.definition(Arc::from(hash)).await.unwrap().is_some();
    accept(with("old-1", "old")).await;
    finish("old-1").await;
    let others: Vec<_> = (0..2_500).map(|number| format!("other-{number}")).collect();
    let mut accepting = tokio::task::JoinSet::new();
    for id in others {
        let (db, run) = (db.clone(), with(&id, "other"));
        accepting.spawn(async move { drop(db.create_run(Access::All, run, None).await.unwrap()) });
    }
    accepting.join_all().await;
    accept(with("old-2", "old")).await;
    finish("old-2").await;

    // The other run that has it is far away.
    let mut calls = 1;
    let mut deleted = delete(&db, &["old-1"]).await;
    while deleted.more {
        calls += 1;
        deleted = delete(&db, &[]).await;
    }
    assert!((3..=4).contains(&calls), "{calls} windows");
    assert!(is_there("old").await);
    assert!(delete(&db, &["old-2"]).await.more || !is_there("old").await);
    while delete(&db, &[]).await.more {}
    assert!(!is_there("old").await && is_there("other").await);

    // One that comes back while it is looked for.
    accept(with("old-3", "old")).await;
    finish("old-3").await;
    accept(with("other-last", "other")).await;
    let deleted = delete(&db, &["old-3"]).await;
    accept(with("old-4", "old")).await;
    assert!(is_there("old").await, "{deleted:?}");
    while delete(&db, &[]).await.more {}
    assert!(is_there("old").await);
}

/// What a call costs does not follow how many runs there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_bounded_however_many_runs_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    let mut ending = tokio::task::JoinSet::new();
    for number in 0..DELETED_RUNS_MAX * 3 {
        let db = db.clone();
        ending.spawn(async move {
            let id = format!("r{number}");
            ended(&db, &id, 2, 10).await;
            run_id(&id)
        });
    }
    let ids: Vec<RunId> = ending.join_all().await;
    let (mut runs, mut logs) = (count(&path, "runs"), count(&path, "run_events"));
    loop {
        let deleted = db.delete_runs(Access::All, ids.clone(), None).await.unwrap();
        let now = (count(&path, "runs"), count(&path, "run_events"));
        assert!(runs - now.0 <= DELETED_RUNS_MAX as u64 && logs - now.1 <= DELETED_ROWS_MAX);
        (runs, logs) = now;
        if runs == 0 {
            assert!(!deleted.more || logs == 0);
            break;
        }
        assert!(deleted.more);
    }
}
