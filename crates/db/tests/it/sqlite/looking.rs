//! Looking at a file: it need not be writable, nothing is made, and what others write is seen.

use super::{append, files, line_page, new_run, register, run_id, start};
use outlive_core::port::{Access, Db, DbErrorKind, LogStore, News, RunFilter, RunStore};
use outlive_db::SqliteDb;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

async fn ids(db: &SqliteDb) -> Vec<String> {
    let filter = RunFilter { limit: 1000, order: outlive_core::port::Order::OldestFirst, ..RunFilter::default() };
    db.runs(Access::All, filter).await.unwrap().runs.iter().map(|run| run.info.run_id.to_string()).collect()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// A file system that nobody may write to, root neither.
struct ReadOnlyDisk(PathBuf);

impl ReadOnlyDisk {
    /// None where mounting is not allowed.
    fn of(path: &Path) -> Option<Self> {
        let mount = |arguments: &[&str]| {
            let status = std::process::Command::new("mount").args(arguments).arg(path).status();
            status.is_ok_and(|status| status.success())
        };
        let text = path.to_str().unwrap();
        if mount(&["--bind", text]) && mount(&["-o", "remount,ro,bind"]) {
            return Some(Self(path.to_owned()));
        }
        std::io::stderr().write_all(b"SKIPPED: needs root\n").unwrap();
        None
    }
}

impl Drop for ReadOnlyDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_on_a_disk_that_is_read_only_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (path, snapshot) = (directory.path().join("a.db"), directory.path().join("snapshot"));
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    db.commit(append(&lease, line_page(0, "one"))).await.unwrap();
    // With the log alone, with log and index, and closed.
    for (name, suffixes) in [("log", &["", "-wal"][..]), ("both", &["", "-wal", "-shm"])] {
        fs::create_dir_all(snapshot.join(name)).unwrap();
        for suffix in suffixes {
            fs::copy(beside(&path, suffix), beside(&snapshot.join(name).join("b.db"), suffix)).unwrap();
        }
    }
    drop(db);
    fs::create_dir_all(snapshot.join("closed/b.db-workers")).unwrap();
    fs::copy(&path, snapshot.join("closed/b.db")).unwrap();
    fs::write(snapshot.join("closed/b.db-workers/w1"), "").unwrap();
    let Some(_disk) = ReadOnlyDisk::of(&snapshot) else { return };
    for name in ["closed", "log", "both"] {
        let path = snapshot.join(name).join("b.db");
        let looking = SqliteDb::new(&path).read_only();
        assert_eq!(ids(&looking).await, ["r1"], "{name}");
        let pages = looking.read(Access::All, run_id("r1"), 0, 1000).await.unwrap();
        assert_eq!(pages, [line_page(0, "one")], "{name}");
        assert!(looking.inspect().await.unwrap().faults.is_empty(), "{name}");
        assert_eq!(SqliteDb::new(&path).session_tables().unwrap(), ["outlive_sessions"], "{name}");
        let error = SqliteDb::new(&path).open().await.unwrap_err();
        assert_eq!(error.kind(), DbErrorKind::ReadOnly, "{name}: {error}");
        let message = error.to_string();
        assert!(message.contains("b.db is read-only: give this user the right"), "{name}: {message}");
        // A copy of it can be made elsewhere.
        looking.backup(directory.path().join(name), outlive_core::Timestamp::from_micros(1)).await.unwrap_err();
    }
}

#[tokio::test]
async fn nobody_writes_to_a_file_that_was_made_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    SqliteDb::new(&path).create_run(Access::All, new_run("r1"), None).await.unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let error = SqliteDb::new(&path).open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::ReadOnly, "{error}");
    assert_eq!(ids(&SqliteDb::new(&path).read_only()).await, ["r1"]);
    assert_eq!(files(directory.path()), ["a.db"]);
}

#[tokio::test]
async fn looking_makes_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    SqliteDb::new(&path).create_run(Access::All, new_run("r1"), None).await.unwrap();
    let before = (fs::read(&path).unwrap(), files(directory.path()), fs::metadata(&path).unwrap().modified().unwrap());
    let looking = SqliteDb::new(&path).read_only();
    looking.watch(Arc::new(|_| {}));
    assert_eq!(ids(&looking).await, ["r1"]);
    assert_eq!(looking.session_tables().unwrap(), ["outlive_sessions"]);
    looking.inspect().await.unwrap();
    register(&looking, "w1").await;
    looking.retire(super::worker_id("w1"), super::second(1)).await.unwrap();
    for missing in ["none.db", "none/at/all.db"] {
        let error = SqliteDb::new(directory.path().join(missing)).read_only().open().await.unwrap_err();
        assert!(error.to_string().contains(missing), "{error}");
    }
    let error = SqliteDb::new(&path).read_only().session_table("other").open().await.unwrap_err();
    assert!(error.to_string().contains("no session table other: it has outlive_sessions"), "{error}");
    let after = (fs::read(&path).unwrap(), files(directory.path()), fs::metadata(&path).unwrap().modified().unwrap());
    assert!(before == after, "{:?} {:?}", before.1, after.1);
}

#[tokio::test]
async fn what_is_empty_or_foreign_is_said_and_not_shown_as_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    fs::write(&path, "").unwrap();
    let error = SqliteDb::new(&path).read_only().open().await.unwrap_err();
    assert_eq!(error.kind(), DbErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("is empty"), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    // Ours by its header, and nothing of ours in it.
    let sql = rusqlite::Connection::open(&path).unwrap();
    sql.execute_batch("PRAGMA application_id = 0x4F55544C; PRAGMA user_version = 2; CREATE TABLE theirs (x);").unwrap();
    drop(sql);
    for error in [
        SqliteDb::new(&path).read_only().open().await.unwrap_err(),
        SqliteDb::new(&path).open().await.unwrap_err(),
        SqliteDb::new(&path).session_tables().unwrap_err(),
    ] {
        assert_eq!(error.kind(), DbErrorKind::Corrupt, "{error}");
        let message = error.to_string();
        assert!(
            message.contains("outlive_meta is missing") && message.contains("restore it from a backup"),
            "{message}"
        );
        assert!(!message.contains("no such table"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_sees_what_begins_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    SqliteDb::new(&path).create_run(Access::All, new_run("r1"), None).await.unwrap();
    let looking = SqliteDb::new(&path).read_only();
    let (sender, mut news) = tokio::sync::mpsc::unbounded_channel();
    looking.watch(Arc::new(move |told| drop(sender.send(told))));
    assert_eq!(ids(&looking).await, ["r1"]);
    // Somebody begins to write, writes more, and leaves; then somebody else does.
    for round in 0..2 {
        let db = SqliteDb::new(&path);
        for number in 0..3 {
            let id = format!("r{round}-{number}");
            db.create_run(Access::All, new_run(&id), None).await.unwrap();
            assert_eq!(ids(&looking).await.last(), Some(&id));
        }
        let told = tokio::time::timeout(Duration::from_secs(20), news.recv()).await.unwrap();
        assert_eq!(told, Some(News::Anything));
        drop(db);
        assert_eq!(ids(&looking).await.len(), 4 + 3 * round);
    }
}
