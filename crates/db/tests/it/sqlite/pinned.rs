//! A reader that keeps its transaction open: nobody waits for it, and it is told of once.

use super::{append, line_page, register, start};
use outlive_core::port::{Access, Db, LogStore};
use outlive_db::SqliteDb;
use std::fmt;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Every warning of this process.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Warnings;

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        WARNINGS.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

/// From now on warnings are kept; gives those about a path so far.
pub(super) fn warnings_about(path: &std::path::Path) -> Vec<String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Warnings).expect("it is the first"));
    let warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let path = path.display().to_string();
    warnings.iter().filter(|warning| warning.contains(&path)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_reader_delays_nobody_and_is_told_of_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap().join("a.db");
    assert!(warnings_about(&path).is_empty());
    let db = SqliteDb::new(&path);
    db.warn_of_readers_after(Duration::ZERO);
    db.watch(Arc::new(|_| {}));
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    let mut index = 0;
    let text = "x".repeat(400_000);
    // In this process, but as any other: a connection of its own.
    let reader = rusqlite::Connection::open(&path).unwrap();
    for held in 1..=2 {
        reader.execute_batch("BEGIN; SELECT count(*) FROM outlive_sessions;").unwrap();
        reader.query_row("SELECT count(*) FROM outlive_sessions", [], |_| Ok(())).unwrap();
        for _ in 0..100 {
            db.commit(append(&lease, line_page(index, &text))).await.unwrap();
            index += 1;
        }
        let told = warnings_about(&path);
        assert_eq!(told.len(), held, "{told:?}");
        assert!(told[held - 1].contains("open read transaction"), "{told:?}");
        if cfg!(target_os = "linux") {
            assert!(told[held - 1].contains(&format!("process {}", std::process::id())), "{told:?}");
        }
        let health = db.health();
        assert!(health.log_pinned.is_some() && health.log_bytes.unwrap() > 35_000_000, "{health:?}");
        reader.execute_batch("COMMIT").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while db.health().log_pinned.is_some() {
            assert!(Instant::now() < deadline, "the reader is gone");
            db.commit(append(&lease, line_page(index, "short"))).await.unwrap();
            index += 1;
        }
        // The log begins anew: what is written does not make it longer.
        let before = db.health().log_bytes;
        for _ in 0..20 {
            db.commit(append(&lease, line_page(index, "short"))).await.unwrap();
            index += 1;
        }
        assert_eq!(db.health().log_bytes, before);
    }
    assert_eq!(warnings_about(&path).len(), 2);
    assert_eq!(db.read(Access::All, super::run_id("r1"), index - 1, 1).await.unwrap(), [line_page(index - 1, "short")]);
}
