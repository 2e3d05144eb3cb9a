//! Several processes on one file: who lives, who is dead, and what a killed one leaves.

use super::{append, claim, claimed_ids, line_page, register, run_id, second, start, worker_id};
use outlive_core::port::{Accepted, Access, CancelIntent, Cancelled, Db, DbErrorKind, Life, LogStore, RunStore};
use outlive_db::SqliteDb;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Set in the child process: the database it is to work on.
const CHILD: &str = "OUTLIVE_DB_TEST_CHILD";

/// Not a test by itself: what the child process does until it is killed.
#[tokio::test]
async fn child() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let db = SqliteDb::new(path);
    register(&db, "victim").await;
    let lease = start(&db, "r1", "victim").await;
    for index in 0.. {
        db.commit(append(&lease, line_page(index, "an entry"))).await.unwrap();
        let mut more = super::new_run(&format!("more-{index}"));
        more.info.workflow_id = "other".parse().unwrap();
        db.create_run(Access::All, more, None).await.unwrap();
        // Not `println`, which the test harness would hold back.
        writeln!(std::io::stdout(), "acknowledged {index}").unwrap();
    }
}

fn spawn(path: &std::path::Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "sqlite::processes::child", "--nocapture"]).env(CHILD, path);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_is_taken_over_at_once_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "heir").await;
    let mut child = spawn(&path);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let index = |line: &String| line.strip_prefix("acknowledged ").and_then(|index| index.parse::<u64>().ok());
    let alive = lines.by_ref().filter_map(|line| index(&line)).nth(30).unwrap();
    assert!(alive >= 30);
    assert!(claim(&db, "heir").await.runs.is_empty(), "its process lives");
    let life = async || {
        let workers = db.workers(None).await.unwrap();
        workers.into_iter().find(|known| known.worker == worker_id("victim")).map(|known| known.life)
    };
    assert_eq!(life().await, Some(Life::Lives));
    let intent = CancelIntent { at: second(1), reason: Arc::from("stop") };
    let cancelled = db.request_cancel(Access::All, run_id("r1"), intent.clone()).await.unwrap();
    assert_eq!(cancelled, Cancelled::Requested, "its process lives");

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(life().await, Some(Life::Gone), "nobody has declared it dead, and it is known all the same");
    // What it could still say before it died counts.
    let last = lines.filter_map(|line| index(&line)).last().unwrap_or(alive);

    let claimed = claim(&db, "heir").await;
    assert_eq!(claimed_ids(&claimed), ["r1"], "its period is not over, but its process is gone");
    let (run, lease) = &claimed.runs[0];
    assert_eq!((lease.epoch, run.claims, run.cancel.clone()), (2, 2, Some(intent)));
    assert!(run.next_index > last, "entry {last} was acknowledged, the log ends at {}", run.next_index);
    let mut next = 0;
    while next < run.next_index {
        for page in db.read(Access::All, run_id("r1"), next, 10_000).await.unwrap() {
            assert_eq!(page, line_page(next, "an entry"));
            next += 1;
        }
    }
    db.commit(append(lease, line_page(next, "the heir's"))).await.unwrap();
    super::check_kept_counts(&path);
    let beat = db.heartbeat(worker_id("victim"), second(3), super::PERIOD).await;
    assert_eq!(beat.unwrap_err().kind(), DbErrorKind::Fenced, "a dead worker stays dead");
}

#[tokio::test]
async fn a_cancel_finds_out_that_the_holder_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let gone = SqliteDb::new(&path);
    register(&gone, "gone").await;
    start(&gone, "r1", "gone").await;
    start(&gone, "r2", "gone").await;
    drop(gone);
    let db = SqliteDb::new(&path);
    let intent = CancelIntent { at: second(1), reason: Arc::from("stop") };
    assert_eq!(db.request_cancel(Access::All, run_id("r1"), intent).await.unwrap(), Cancelled::Unowned);
    register(&db, "w1").await;
    let claimed = db.claim_run(run_id("r2"), worker_id("w1"), second(1)).await.unwrap();
    assert_eq!(claimed.unwrap().1.epoch, 2);
}

#[tokio::test]
async fn a_worker_of_another_handle_in_this_process_lives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let (one, two) = (SqliteDb::new(&path), SqliteDb::new(&path));
    register(&one, "w1").await;
    register(&two, "w2").await;
    let lease = start(&one, "r1", "w1").await;
    for _ in 0..3 {
        assert!(claim(&two, "w2").await.runs.is_empty());
        // Renewed by the other handle, which does not hold its lock.
        register(&two, "w1").await;
    }
    one.commit(append(&lease, line_page(0, "one"))).await.unwrap();
    drop(one);
    let beat = two.heartbeat(worker_id("w1"), second(1), super::PERIOD).await;
    assert_eq!(beat.unwrap_err().kind(), DbErrorKind::Fenced, "nobody holds its lock any more");
    assert_eq!(claimed_ids(&claim(&two, "w2").await), ["r1"]);
}

#[tokio::test]
async fn a_missing_lock_file_leaves_the_lease_to_its_period() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let (one, two) = (SqliteDb::new(&path), SqliteDb::new(&path));
    register(&one, "w1").await;
    register(&two, "w2").await;
    start(&one, "r1", "w1").await;
    std::fs::remove_file(directory.path().join("a.db-workers/w1")).unwrap();
    assert!(claim(&two, "w2").await.runs.is_empty());
}

#[tokio::test]
async fn a_retired_workers_file_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    let file = directory.path().join("a.db-workers/w1");
    assert!(file.exists());
    db.retire(worker_id("w1"), second(1)).await.unwrap();
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_added_before_opening_hears_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let (one, two) = (SqliteDb::new(&path), SqliteDb::new(&path));
    let (sender, mut news) = tokio::sync::mpsc::unbounded_channel();
    one.watch(Arc::new(move |told| drop(sender.send(told))));
    one.open().await.unwrap();
    let accepted = two.create_run(Access::All, super::new_run("r1"), None).await.unwrap();
    assert!(matches!(accepted, Accepted::New { lease: None, .. }));
    let told = tokio::time::timeout(std::time::Duration::from_secs(10), news.recv()).await.unwrap();
    assert_eq!(told, Some(outlive_core::port::News::Anything));
}

/// POSIX locks are a process's: closing a file anywhere in it would free what SQLite holds elsewhere in it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn opening_again_does_not_cost_the_process_its_locks() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    db.open().await.unwrap();
    let inode = format!(":{} ", std::fs::metadata(&path).unwrap().ino());
    // The list is read in pieces, and locks of other processes come and go between them: one reading may miss a line.
    let holds_lock = || {
        (0..100).any(|_| {
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|lock| lock.contains("POSIX") && lock.contains(&inode))
        })
    };
    assert!(holds_lock(), "an open database is locked");
    for _ in 0..2 {
        SqliteDb::new(&path).open().await.unwrap();
        assert!(holds_lock(), "the first handle's lock is gone");
    }
    drop(db);
    assert!(!holds_lock());
}
