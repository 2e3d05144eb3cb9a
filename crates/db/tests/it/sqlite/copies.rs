//! Copies: made while others write, checked, known as copies, and taken into use by name only.

use super::pinned::warnings_about;
use super::{append, claim, claimed_ids, files, line_page, new_run, register, run_id, second, start, worker_id};
use outlive_core::port::{Access, Db, DbErrorKind, Lease, LogStore, RunFilter, RunStore};
use outlive_core::{Entry, EventKind, Origin, Page, RunEvent, Timestamp};
use outlive_db::SqliteDb;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const AT: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// A page of one entry with its checksum.
fn page(index: u64) -> Page {
    let event = RunEvent { created_at: 7, kind: EventKind::StepStarted, origin: Origin::default(), event_index: None };
    Page::encode(&new_run("r1").info, index, &[Entry::event(event)])
}

/// A database with a run that a living worker holds.
async fn in_use(path: &Path) -> (SqliteDb, Lease) {
    let db = SqliteDb::new(path);
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    for index in 0..3 {
        db.commit(append(&lease, page(index))).await.unwrap();
    }
    (db, lease)
}

async fn listed(db: &SqliteDb) -> usize {
    let filter = RunFilter { limit: 1000, ..RunFilter::default() };
    db.runs(Access::All, filter).await.unwrap().runs.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_under_load_is_whole_and_of_one_moment() {
    let directory = tempfile::tempdir().unwrap();
    let (path, to) = (directory.path().join("a.db"), directory.path().join("copy.db"));
    let (db, lease) = in_use(&path).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let (writing, seen) = (db.clone(), is_over.clone());
    let writer = tokio::spawn(async move {
        let mut index = 3;
        while !seen.load(Ordering::Relaxed) {
            writing.commit(append(&lease, page(index))).await.unwrap();
            writing.create_run(Access::All, new_run(&format!("more-{index}")), None).await.unwrap();
            index += 1;
        }
    });
    // From another handle, as another process would.
    let backup = SqliteDb::new(&path).backup(&to, AT).await.unwrap();
    is_over.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(backup.runs >= 1 && backup.entries >= 3 && backup.bytes == fs::metadata(&to).unwrap().len(), "{backup:?}");
    let copy = SqliteDb::new(&to).read_only();
    assert_eq!(listed(&copy).await as u64, backup.runs);
    assert_eq!(copy.read(Access::All, run_id("r1"), 0, 1).await.unwrap(), [page(0)]);
    let run = copy.run(Access::All, run_id("r1")).await.unwrap().unwrap();
    assert_eq!((run.next_index, run.worker), (backup.entries, None), "nobody holds it in this file");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600, "keys are in it");
    }
    let left: Vec<String> = files(directory.path()).into_iter().filter(|name| name.starts_with("copy")).collect();
    assert_eq!(left, ["copy.db"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_resumes_nothing_until_it_is_adopted() {
    let directory = tempfile::tempdir().unwrap();
    let (path, to) = (directory.path().join("a.db"), directory.path().join("copy.db"));
    let (db, _) = in_use(&path).await;
    db.backup(&to, AT).await.unwrap();
    let (bytes, names) = (fs::read(&to).unwrap(), files(directory.path()));
    let error = SqliteDb::new(&to).open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::ReadOnly, "{error}");
    let message = error.to_string();
    assert!(message.contains("is a copy made by outlive backup"), "{message}");
    assert!(message.contains(&format!("outlive db adopt --db {}", to.display())), "{message}");
    let looking = SqliteDb::new(&to).read_only();
    assert_eq!(listed(&looking).await, 1);
    let error = looking.create_run(Access::All, new_run("r2"), None).await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::ReadOnly, "{error}");
    assert!(fs::read(&to).unwrap() == bytes && files(directory.path()) == names, "looking changes nothing");
    // A copy of a copy is one, too.
    let again = directory.path().join("again.db");
    looking.backup(&again, AT).await.unwrap();
    assert_eq!(SqliteDb::new(&again).open().await.unwrap_err().kind(), DbErrorKind::ReadOnly);
    drop(looking);

    let adopted = SqliteDb::new(&to).adopt().await.unwrap();
    assert_eq!((adopted.was_copy, adopted.unfinished), (true, 1));
    let copy = SqliteDb::new(&to);
    register(&copy, "w2").await;
    assert_eq!(claimed_ids(&claim(&copy, "w2").await), ["r1"], "at once: its worker is none of this file's");
    assert!(!SqliteDb::new(&to).adopt().await.unwrap().was_copy);
    // The original is not a copy, and was never touched.
    assert!(!SqliteDb::new(&path).adopt().await.unwrap().was_copy);
    assert_eq!(db.run(Access::All, run_id("r1")).await.unwrap().unwrap().worker, Some(worker_id("w1")));
}

#[tokio::test]
async fn a_copy_overwrites_nothing_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let (db, _) = in_use(&path).await;
    let taken = directory.path().join("notes.txt");
    fs::write(&taken, "a note").unwrap();
    std::os::unix::fs::symlink("nowhere", directory.path().join("link")).unwrap();
    for name in ["notes.txt", "link", "a.db"] {
        let error = db.backup(directory.path().join(name), AT).await.unwrap_err();
        assert_eq!(error.kind(), DbErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("is not overwritten"), "{error}");
    }
    let error = db.backup(directory.path().join("no/such/copy.db"), AT).await.unwrap_err();
    assert!(error.to_string().contains("copy.db"), "{error}");
    assert_eq!(fs::read_to_string(&taken).unwrap(), "a note");
    assert!(!files(directory.path()).iter().any(|name| name.ends_with(".part")));
}

#[tokio::test]
async fn what_is_damaged_is_found_before_a_copy_has_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let (path, to) = (directory.path().join("a.db"), directory.path().join("copy.db"));
    let (db, lease) = in_use(&path).await;
    db.commit(append(&lease, line_page(3, "00000000 {}"))).await.unwrap();
    let error = db.backup(&to, AT).await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("entry 3 of run r1 is damaged"), "{error}");
    let sql = rusqlite::Connection::open(&path).unwrap();
    sql.execute_batch("DELETE FROM outlive_sessions_run_events WHERE first_index IN (1, 3)").unwrap();
    let error = db.backup(&to, AT).await.unwrap_err();
    assert!(error.to_string().contains("entry 1 is missing"), "{error}");
    sql.execute_batch("DELETE FROM outlive_sessions_run_events WHERE first_index > 0").unwrap();
    let error = db.backup(&to, AT).await.unwrap_err();
    assert!(error.to_string().contains("it has 1 entries of 4"), "{error}");
    assert!(!files(directory.path()).iter().any(|name| name.starts_with("copy")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_without_its_log_is_told_from_an_empty_database() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().canonicalize().unwrap();
    let path = place.join("a.db");
    let empty = place.join("empty.db");
    assert!(warnings_about(&path).is_empty());
    // A process that is about to begin: its tables are in its log.
    let db = SqliteDb::new(&path);
    db.open().await.unwrap();
    fs::copy(&path, &empty).unwrap();
    let error = SqliteDb::new(&empty).read_only().open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("copied with cp") && error.to_string().contains("outlive backup"), "{error}");
    let error = SqliteDb::new(&empty).open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::ReadOnly, "{error}");
    assert!(error.to_string().contains("without its log") && error.to_string().contains("db adopt"), "{error}");

    // One that has written: the file itself soon has its tables and its worker, but not the newest runs.
    register(&db, "w1").await;
    start(&db, "r1", "w1").await;
    while db.health().copies.count == 0 {
        db.heartbeat(worker_id("w1"), second(1), super::PERIOD).await.unwrap();
    }
    start(&db, "r2", "w1").await;
    let cut = place.join("cut.db");
    fs::copy(&path, &cut).unwrap();
    let copy = SqliteDb::new(&cut).read_only();
    copy.open().await.unwrap();
    let told = warnings_about(&cut);
    assert!(told.len() == 1 && told[0].contains("the newest runs are missing"), "{told:?}");
    let error = SqliteDb::new(&cut).open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::ReadOnly, "{error}");
    // With its log it is whole: nothing is to be said.
    let whole = place.join("whole.db");
    fs::copy(&path, &whole).unwrap();
    fs::copy(place.join("a.db-wal"), place.join("whole.db-wal")).unwrap();
    assert_eq!(listed(&SqliteDb::new(&whole).read_only()).await, 2);
    assert!(warnings_about(&whole).is_empty());
    drop(copy);
    let adopted = SqliteDb::new(&cut).adopt().await.unwrap();
    assert!(adopted.was_copy);
    SqliteDb::new(&cut).open().await.unwrap();
    SqliteDb::new(&empty).adopt().await.unwrap();
    SqliteDb::new(&empty).open().await.unwrap();
}

#[tokio::test]
async fn a_file_that_was_closed_or_whose_process_was_killed_is_no_copy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let (db, _) = in_use(&path).await;
    // As if killed: nobody retired, and its files stay.
    drop(db);
    SqliteDb::new(&path).open().await.unwrap();
    let db = SqliteDb::new(&path);
    db.retire(worker_id("w1"), second(1)).await.unwrap();
    drop(db);
    let moved = directory.path().join("moved.db");
    fs::rename(&path, &moved).unwrap();
    SqliteDb::new(&moved).open().await.unwrap();
}
