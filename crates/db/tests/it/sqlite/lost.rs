//! Files that are removed, replaced, cut short or made read-only while they are in use: noticed before anything is
//! acknowledged, and also when nothing is written.

use super::{append, line_page, new_run, register, run_id, start};
use outlive_core::port::{Access, Db, DbErrorKind, Lease, LogStore, News, RunStore};
use outlive_db::SqliteDb;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// What is done to the database at a path, and what is said of it.
struct Harm {
    name: &'static str,
    does: fn(&Path),
    said: &'static [&'static str],
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

fn cut(path: &Path, len: u64) {
    File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// Another file of the same content.
fn replace(path: &Path) {
    let other = beside(path, ".new");
    fs::copy(path, &other).unwrap();
    fs::rename(&other, path).unwrap();
}

/// The content of another database in the same file, as `cp` puts it there.
fn overwrite(path: &Path) {
    let other = beside(path, ".other");
    let sql = rusqlite::Connection::open(&other).unwrap();
    sql.execute_batch("PRAGMA page_size = 4096; CREATE TABLE a (x); INSERT INTO a VALUES (zeroblob(5000000));")
        .unwrap();
    drop(sql);
    let other = fs::read(&other).unwrap();
    // Not cut short in between, which would be noticed by itself.
    File::options().write(true).open(path).unwrap().write_all(&other).unwrap();
}

const HARMS: [Harm; 14] = [
    Harm { name: "removed", does: |path| fs::remove_file(path).unwrap(), said: &["a.db was removed", "backup"] },
    Harm { name: "moved", does: |path| fs::rename(path, beside(path, ".old")).unwrap(), said: &["a.db was removed"] },
    Harm { name: "replaced", does: replace, said: &["a.db was replaced by another file"] },
    Harm { name: "overwritten", does: overwrite, said: &["a.db was overwritten"] },
    Harm { name: "emptied", does: |path| drop(File::create(path).unwrap()), said: &["a.db was cut short"] },
    Harm { name: "halved", does: |path| cut(path, 8_192), said: &["a.db was cut short"] },
    Harm {
        name: "log removed",
        does: |path| fs::remove_file(beside(path, "-wal")).unwrap(),
        said: &["-wal", "removed"],
    },
    Harm { name: "log replaced", does: |path| replace(&beside(path, "-wal")), said: &["-wal", "replaced"] },
    Harm { name: "log cut", does: |path| cut(&beside(path, "-wal"), 100), said: &["-wal", "cut short"] },
    Harm { name: "log emptied", does: |path| drop(File::create(beside(path, "-wal"))), said: &["-wal", "cut short"] },
    Harm {
        name: "index removed",
        does: |path| fs::remove_file(beside(path, "-shm")).unwrap(),
        said: &["-shm", "removed"],
    },
    Harm {
        name: "locks removed",
        does: |path| fs::remove_dir_all(beside(path, "-workers")).unwrap(),
        said: &["-workers", "removed"],
    },
    Harm {
        name: "lock removed",
        does: |path| fs::remove_file(beside(path, "-workers/w1")).unwrap(),
        said: &["w1", "removed"],
    },
    Harm {
        name: "made read-only",
        does: |path| chmod(path, 0o444),
        said: &["a.db was made read-only", "make it writable"],
    },
];

fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A database with something in it and something in its log, and nobody who copies the log just now.
async fn in_use(path: &Path) -> (SqliteDb, Lease) {
    let db = SqliteDb::new(path);
    register(&db, "w0").await;
    let lease = start(&db, "r0", "w0").await;
    for index in 0..10 {
        db.commit(append(&lease, line_page(index, &"x".repeat(100_000)))).await.unwrap();
    }
    drop(db);
    let db = SqliteDb::new(path);
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    let mut next = 0;
    while db.health().copies.count == 0 {
        db.commit(append(&lease, line_page(next, "one"))).await.unwrap();
        next += 1;
    }
    // The rest is copied after the first of these was answered.
    for index in next..next + 3 {
        db.commit(append(&lease, line_page(index, "one"))).await.unwrap();
    }
    (db, lease)
}

/// The next index of what `in_use` began.
async fn next_index(db: &SqliteDb) -> u64 {
    db.run(Access::All, run_id("r1")).await.unwrap().unwrap().next_index
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_into_files_that_are_gone() {
    for Harm { name, does, said } in HARMS {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let (db, lease) = in_use(&path).await;
        let next = next_index(&db).await;
        does(&path);
        let error = db.commit(append(&lease, line_page(next, "lost"))).await.expect_err(name);
        assert_eq!(error.kind(), DbErrorKind::OutcomeUnknown, "{name}: {error}");
        let message = error.to_string();
        assert!(said.iter().all(|said| message.contains(said)), "{name}: {message}");
        assert!(message.contains("restart the process") && message.contains("a.db"), "{name}: {message}");
        let again = db.create_run(Access::All, new_run("r2"), None).await.unwrap_err();
        assert_eq!((again.kind(), again.to_string()), (DbErrorKind::OutcomeUnknown, message), "{name}");
    }
}

/// Why the store failed, once it says so.
async fn reason(news: &mut UnboundedReceiver<News>) -> Option<Arc<str>> {
    let failed = async {
        loop {
            match news.recv().await? {
                News::Failed(reason) => return Some(reason),
                News::Anything | News::Run { .. } | News::Free { .. } => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), failed).await.ok()?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_nothing_hears_of_it_too() {
    for Harm { name, does, said } in HARMS {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let (db, _) = in_use(&path).await;
        let (sender, mut news) = tokio::sync::mpsc::unbounded_channel();
        db.watch(Arc::new(move |told| drop(sender.send(told))));
        does(&path);
        let reason = reason(&mut news).await.expect(name);
        assert!(said.iter().all(|said| reason.contains(said)), "{name}: {reason}");
        let error = db.create_run(Access::All, new_run("r2"), None).await.unwrap_err();
        assert_eq!((error.kind(), &*error.to_string()), (DbErrorKind::OutcomeUnknown, &*reason), "{name}");
    }
}

/// What was acknowledged is in the log alone, and the log goes with the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removed_log_held_is_saved() {
    for is_idle in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let (db, lease) = in_use(&path).await;
        let next = next_index(&db).await;
        let (sender, mut news) = tokio::sync::mpsc::unbounded_channel();
        fs::remove_file(beside(&path, "-wal")).unwrap();
        if is_idle {
            db.watch(Arc::new(move |told| drop(sender.send(told))));
            reason(&mut news).await.expect("an idle writer looks");
        } else {
            db.commit(append(&lease, line_page(next, "lost"))).await.unwrap_err();
        }
        drop(db);
        let db = SqliteDb::new(&path);
        assert_eq!(next_index(&db).await, next, "all that was acknowledged, and no more");
    }
}

/// Where a file was put in place of the old one, closing the old one must not take the new one's log away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_file_is_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("a.db"), directory.path().join("b.db"));
    let (old, lease) = in_use(&path).await;
    let next = next_index(&old).await;
    let new = SqliteDb::new(&other);
    new.create_run(Access::All, new_run("n1"), None).await.unwrap();
    drop(new);
    fs::rename(&path, directory.path().join("old.db")).unwrap();
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(beside(&path, suffix)).unwrap();
    }
    fs::rename(&other, &path).unwrap();
    let new = SqliteDb::new(&path);
    new.create_run(Access::All, new_run("n2"), None).await.unwrap();
    old.commit(append(&lease, line_page(next, "lost"))).await.unwrap_err();
    drop(old);
    new.create_run(Access::All, new_run("n3"), None).await.unwrap();
    drop(new);
    let new = SqliteDb::new(&path);
    for id in ["n1", "n2", "n3"] {
        assert!(new.run(Access::All, run_id(id)).await.unwrap().is_some(), "{id}");
    }
    assert!(new.run(Access::All, run_id("r1")).await.unwrap().is_none());
}

/// Only the database is put in the old one's place. Read with the old one's log it would be neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_belongs_to_no_file_is_not_read_with_another() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("a.db"), directory.path().join("b.db"));
    let (old, lease) = in_use(&path).await;
    let next = next_index(&old).await;
    let new = SqliteDb::new(&other);
    new.create_run(Access::All, new_run("n1"), None).await.unwrap();
    drop(new);
    let away = directory.path().join("old.db");
    fs::rename(&path, &away).unwrap();
    fs::rename(&other, &path).unwrap();
    old.commit(append(&lease, line_page(next, "lost"))).await.unwrap_err();
    drop(old);
    let new = SqliteDb::new(&path);
    assert!(new.run(Access::All, run_id("n1")).await.unwrap().is_some());
    assert!(new.run(Access::All, run_id("r1")).await.unwrap().is_none());
    assert!(new.inspect().await.unwrap().faults.is_empty());
    // What was moved away has all that was acknowledged, and what nobody knows of.
    let sql = rusqlite::Connection::open(&away).unwrap();
    let length = "SELECT next_index FROM outlive_sessions_runs WHERE run_id = 'r1'";
    let length: i64 = sql.query_row(length, [], |row| row.get(0)).unwrap();
    assert_eq!(length.unsigned_abs(), next + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_that_shortens_the_log_or_the_file_is_no_loss() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let (db, lease) = in_use(&path).await;
    db.watch(Arc::new(|_| {}));
    let other = rusqlite::Connection::open(&path).unwrap();
    let next = next_index(&db).await;
    for index in next..next + 20 {
        other.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (zeroblob(2000000));").unwrap();
        other.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
        other.execute_batch(if index % 2 == 0 { "DROP TABLE theirs; VACUUM;" } else { "DROP TABLE theirs;" }).unwrap();
        other.query_row("PRAGMA wal_checkpoint(TRUNCATE);", [], |_| Ok(())).unwrap();
        db.commit(append(&lease, line_page(index, "kept"))).await.unwrap();
    }
}

/// Runs wait, and go on by themselves when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_heals() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path()) else { return };
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    let filler = directory.path().join("filler");
    fs::write(&filler, vec![0; 2 << 20]).unwrap();
    let text = "x".repeat(50_000);
    let mut index = 0;
    let error = loop {
        match db.commit(append(&lease, line_page(index, &text))).await {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
        assert!(index < 1_000, "8 MiB have room for everything");
    };
    assert_eq!(error.kind(), DbErrorKind::Full, "{error}");
    assert!(error.is_transient() && error.to_string().contains("make space"), "{error}");
    fs::remove_file(&filler).unwrap();
    db.commit(append(&lease, line_page(index, &text))).await.unwrap();
    let pages = db.read(Access::All, run_id("r1"), 0, usize::MAX).await.unwrap();
    assert_eq!(pages.len() as u64, index + 1);
    drop(db);
    drop(disk);
}

/// A file system of 8 MiB in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where mounting is not allowed.
    fn mount(path: &Path) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(path).status();
        if status.is_ok_and(|status| status.success()) {
            return Some(Self(path.to_owned()));
        }
        std::io::stderr().write_all(b"SKIPPED: needs root\n").unwrap();
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}
