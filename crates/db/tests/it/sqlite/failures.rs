//! What a failing disk does to callers: nothing is lost silently, nothing is claimed that is not known.

use super::{append, line_page, new_run, register, run_id, start};
use outlive_core::port::{Access, Db, DbErrorKind, Lease, LogStore, News, RunFilter, RunStore};
use outlive_db::{Injected, SqliteDb, Stage};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const FULL: i32 = rusqlite::ffi::SQLITE_FULL;
const BUSY: i32 = rusqlite::ffi::SQLITE_BUSY;
const BROKEN_SYNC: i32 = rusqlite::ffi::SQLITE_IOERR_FSYNC;
const BROKEN_READ: i32 = rusqlite::ffi::SQLITE_IOERR_READ;

#[tokio::test]
async fn full_and_busy_change_nothing_and_pass() {
    let directory = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(directory.path().join("a.db"));
    db.open().await.unwrap();
    for (stage, code, kind) in [
        (Stage::Begin, BUSY, DbErrorKind::Busy),
        (Stage::Work, FULL, DbErrorKind::Full),
        (Stage::Commit, FULL, DbErrorKind::Full),
        (Stage::Commit, BUSY, DbErrorKind::Busy),
    ] {
        db.inject(Injected { stage, code });
        let error = db.create_run(Access::All, new_run("r1"), None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.is_transient());
        assert!(db.run(Access::All, run_id("r1")).await.unwrap().is_none(), "{stage:?} {kind:?}");
    }
    db.create_run(Access::All, new_run("r1"), None).await.unwrap();
    super::check_kept_counts(&directory.path().join("a.db"));
}

#[tokio::test]
async fn a_worker_whose_registration_was_rolled_back_can_register_again() {
    let directory = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(directory.path().join("a.db"));
    db.open().await.unwrap();
    db.inject(Injected { stage: Stage::Commit, code: FULL });
    let beat = db.heartbeat(super::worker_id("w1"), super::second(0), super::PERIOD).await;
    assert_eq!(beat.unwrap_err().kind(), DbErrorKind::Full);
    register(&db, "w2").await;
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    db.commit(append(&lease, line_page(0, "one"))).await.unwrap();
    assert_eq!(db.run(Access::All, run_id("r1")).await.unwrap().unwrap().worker, Some(super::worker_id("w1")));
}

/// Killed at that moment, it would otherwise leave a worker that lives and has no file: the mark of a copy.
#[tokio::test]
async fn a_worker_whose_end_was_rolled_back_keeps_its_file_and_its_lock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    db.inject(Injected { stage: Stage::Commit, code: FULL });
    assert_eq!(db.retire(super::worker_id("w1"), super::second(1)).await.unwrap_err().kind(), DbErrorKind::Full);
    let file = directory.path().join("a.db-workers").join("w1");
    let lock = std::fs::File::open(&file).unwrap().try_lock_shared();
    assert!(matches!(lock, Err(std::fs::TryLockError::WouldBlock)), "{lock:?}");
    db.retire(super::worker_id("w1"), super::second(1)).await.unwrap();
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_operations_error_does_not_take_the_others_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(directory.path().join("a.db"));
    db.open().await.unwrap();
    let mut refused = 0;
    for round in 0..20 {
        db.inject(Injected { stage: Stage::Work, code: BROKEN_READ });
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let db = db.clone();
            tasks.spawn(async move { db.create_run(Access::All, new_run(&format!("r{round}-{number}")), None).await });
        }
        for result in tasks.join_all().await {
            if let Err(error) = result {
                assert_eq!(error.kind(), DbErrorKind::Storage, "{error}");
                refused += 1;
            }
        }
    }
    // An error hits a group of one, or is gone when the group is tried one by one.
    assert!(refused <= 20, "{refused} of 400 were refused by 20 errors");
    let filter = RunFilter { limit: 1000, ..RunFilter::default() };
    assert_eq!(db.runs(Access::All, filter).await.unwrap().runs.len(), 400 - refused);
    super::check_kept_counts(&directory.path().join("a.db"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_before_an_error_in_its_group_is_done_again_and_counted_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    db.create_run(Access::All, new_run("broken"), None).await.unwrap();
    let sql = rusqlite::Connection::open(&path).unwrap();
    sql.execute_batch("UPDATE outlive_sessions_runs SET next_index = -1").unwrap();
    for round in 0..20 {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let db = db.clone();
            tasks.spawn(async move {
                if number % 5 == 3 {
                    let claimed = db.claim_run(run_id("broken"), super::worker_id("w1"), super::second(1)).await;
                    assert_eq!(claimed.unwrap_err().kind(), DbErrorKind::Corrupt);
                }
                db.create_run(Access::All, new_run(&format!("r{round}-{number}")), None).await.unwrap();
            });
        }
        tasks.join_all().await;
    }
    super::check_kept_counts(&path);
}

#[tokio::test]
async fn after_a_failed_sync_the_store_takes_no_more_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    let told = Arc::new(Mutex::new(Vec::new()));
    let list = told.clone();
    db.watch(Arc::new(move |news| list.lock().unwrap().push(news)));
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    db.commit(append(&lease, line_page(0, "kept"))).await.unwrap();

    db.inject(Injected { stage: Stage::Commit, code: BROKEN_SYNC });
    let error = db.commit(append(&lease, line_page(1, "unknown"))).await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::OutcomeUnknown);
    assert!(error.to_string().contains("restart the process"), "{error}");
    for id in ["r2", "r3"] {
        let error = db.create_run(Access::All, new_run(id), None).await.unwrap_err();
        assert_eq!(error.kind(), DbErrorKind::OutcomeUnknown);
    }
    let kept = News::Run { run_id: run_id("r1"), by: Some(super::worker_id("w1")) };
    let told = told.lock().unwrap().clone();
    let [one, two, News::Failed(reason)] = &told[..] else { panic!("{told:?}") };
    assert_eq!([one, two], [&kept, &kept], "nothing is told of what was refused");
    assert!(reason.contains("restart the process"), "{reason}");
    let read = db.read(Access::All, run_id("r1"), 0, 1000).await.unwrap();
    assert_eq!(read, [line_page(0, "kept")], "reads go on");
    drop(db);

    let db = SqliteDb::new(&path);
    assert_eq!(db.read(Access::All, run_id("r1"), 0, 1000).await.unwrap(), [line_page(0, "kept")]);
    db.create_run(Access::All, new_run("r2"), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_how_it_does() {
    let directory = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(directory.path().join("a.db"));
    assert_eq!(db.health().groups.count, 0, "nothing was written before it is opened");
    db.open().await.unwrap();
    register(&db, "w").await;
    let lease = start(&db, "a", "w").await;
    let before = db.health();
    assert!(before.groups.count > 0 && before.groups.sum >= before.groups.count, "{before:?}");
    assert_eq!(before.errors, 0);
    let room = before.room.expect("the system tells how much room there is");
    assert!(room.free_bytes > 0 && room.free_bytes <= room.total_bytes, "{room:?}");

    db.inject(Injected { stage: Stage::Commit, code: FULL });
    db.commit(append(&lease, line_page(0, "lost"))).await.unwrap_err();
    assert_eq!(db.health().errors, before.errors + 1);
    // What the port's rules refuse is no error of the storage.
    let stale = Lease { epoch: 7, ..lease.clone() };
    db.commit(append(&stale, line_page(0, "late"))).await.unwrap_err();
    assert_eq!(db.health().errors, before.errors + 1);

    // So much that the log is copied, again and again.
    let text = "x".repeat(1 << 20);
    let mut index = 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while db.health().copies.count <= before.copies.count + 3 {
        assert!(std::time::Instant::now() < deadline, "nothing was copied after {index} MiB");
        db.commit(append(&lease, line_page(index, &text))).await.unwrap();
        index += 1;
    }
    let after = db.health();
    assert!(after.log_bytes > before.log_bytes && after.copies.sum > Duration::ZERO, "{after:?}");
    assert!(after.groups.count > before.groups.count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_few_write_the_log_stays_short() {
    let directory = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(directory.path().join("a.db"));
    db.open().await.unwrap();
    register(&db, "w").await;
    let lease = start(&db, "a", "w").await;
    // 12 MB, less than what is copied at once while many write. Each commit is alone.
    let text = "x".repeat(20_000);
    for index in 0..600 {
        db.commit(append(&lease, line_page(index, &text))).await.unwrap();
    }
    let health = db.health();
    assert!(health.copies.count > 0 && health.log_bytes.expect("there is a log") < 8 << 20, "{health:?}");
}
