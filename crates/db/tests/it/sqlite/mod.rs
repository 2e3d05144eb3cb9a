//! The store in one SQLite file.

#[cfg(unix)]
mod copies;
mod failures;
mod files;
mod formats;
#[cfg(unix)]
mod looking;
#[cfg(unix)]
mod lost;
mod pinned;
mod processes;
mod questions;
mod retention;
#[cfg(unix)]
mod space;
mod views;

use outlive_core::port::{
    Accepted, Access, Claim, Claimed, Commit, Db, Lease, LogStore, NewRun, NewStart, RunPatch, RunStore, SessionKind,
    SessionPolicy,
};
use outlive_core::{DefinitionId, Page, RunId, RunInfo, SessionId, Timestamp, WorkerId};
use outlive_db::{SqliteDb, conformance};
use std::sync::Arc;
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms() {
    for case in conformance::cases() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/on/the/way/runs.db");
        let (one, other) = (SqliteDb::new(&path), SqliteDb::new(&path));
        let clocks = [one.clone(), other.clone()];
        let skip: conformance::Skip = Arc::new(move |time| {
            let clocks = clocks.clone();
            Box::pin(async move {
                for clock in clocks {
                    clock.skip(time).await;
                }
            })
        });
        case.check(conformance::Stores { one: Arc::new(one), other: Arc::new(other), skip }).await;
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000)
}

fn run_id(id: &str) -> RunId {
    RunId::parse(id).unwrap()
}

fn worker_id(id: &str) -> WorkerId {
    WorkerId::parse(id).unwrap()
}

fn new_run(id: &str) -> NewRun {
    NewRun {
        info: RunInfo {
            run_id: run_id(id),
            workflow_id: DefinitionId::parse("flow").unwrap(),
            workflow_name: Arc::from("Flow"),
            session_id: SessionId::parse(&format!("session-of-{id}")).unwrap(),
            user_id: None,
        },
        input: None,
        options: None,
        definition: Arc::from("definition"),
        structure: None,
        idempotency_key: None,
        fingerprint: Arc::from("fingerprint"),
        policy: SessionPolicy::Queue,
        session_state: None,
        session_kind: SessionKind::Workflow,
        hook: None,
        start: NewStart::default(),
        at: second(0),
    }
}

fn line_page(first_index: u64, text: &str) -> Page {
    Page { first_index, count: 1, body: format!("{text}\n").into() }
}

fn append(lease: &Lease, page: Page) -> Commit {
    Commit { lease: lease.clone(), page: Some(page), patch: RunPatch::default(), session: None, at: second(1) }
}

async fn register(db: &SqliteDb, worker: &str) {
    db.heartbeat(worker_id(worker), second(0), PERIOD).await.unwrap();
}

async fn start(db: &SqliteDb, id: &str, worker: &str) -> Lease {
    match db.create_run(Access::All, new_run(id), Some(worker_id(worker))).await.unwrap() {
        Accepted::New { lease: Some(lease), .. } => lease,
        other => panic!("expected a lease, got {other:?}"),
    }
}

/// What `worker` gets from a claim at second 2, when nobody's period is over.
async fn claim(db: &SqliteDb, worker: &str) -> Claimed {
    let claim = Claim {
        worker: worker_id(worker),
        workflows: Arc::from([DefinitionId::parse("flow").unwrap()]),
        limit: 10,
        suspect_claims: 3,
        suspects: true,
        at: second(2),
    };
    db.claim(claim).await.unwrap()
}

fn claimed_ids(claimed: &Claimed) -> Vec<String> {
    claimed.runs.iter().map(|(run, _)| run.info.run_id.to_string()).collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_closing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    db.commit(append(&lease, line_page(0, "one"))).await.unwrap();
    let clone = db.clone();
    drop(db);
    clone.commit(append(&lease, line_page(1, "two"))).await.unwrap();
    drop(clone);
    let left: Vec<String> = files(directory.path());
    assert_eq!(left, ["a.db", "a.db-workers", "a.db-workers/w1"], "the log was copied and closed");

    let db = SqliteDb::new(&path);
    let pages = db.read(Access::All, run_id("r1"), 0, 1000).await.unwrap();
    assert_eq!(pages, [line_page(0, "one"), line_page(1, "two")]);
    register(&db, "w2").await;
    assert_eq!(claimed_ids(&claim(&db, "w2").await), ["r1"], "the worker went with its handle");
    assert_eq!(claim(&db, "w2").await.runs.len(), 0);
    assert!(!path.with_file_name("a.db-workers/w1").exists());
}

#[tokio::test]
async fn a_store_never_used_closes_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(directory.path().join("a.db"));
    assert!(db.location().ends_with("a.db"));
    drop(db.clone().session_table("other"));
    drop(db);
    assert!(files(directory.path()).is_empty());
}

#[tokio::test]
async fn closing_finishes_what_was_submitted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    db.open().await.unwrap();
    for number in 0..100 {
        let mut accepted = Box::pin(db.create_run(Access::All, new_run(&format!("r{number}")), None));
        // Polled once: submitted, and then forgotten by its caller.
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(accepted.as_mut().poll(context))).await;
        drop(polled);
    }
    drop(db);
    let db = SqliteDb::new(&path);
    for number in 0..100 {
        assert!(db.run(Access::All, run_id(&format!("r{number}"))).await.unwrap().is_some(), "run {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_sets_of_one_file_do_not_mix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let one = SqliteDb::new(&path).session_table("one");
    let two = SqliteDb::new(&path).session_table("two");
    register(&one, "w").await;
    register(&two, "w").await;
    let lease = start(&one, "r1", "w").await;
    start(&two, "r1", "w").await;
    one.commit(append(&lease, line_page(0, "one"))).await.unwrap();
    assert!(two.read(Access::All, run_id("r1"), 0, 1000).await.unwrap().is_empty());
    one.retire(worker_id("w"), second(1)).await.unwrap();
    assert_eq!(two.run(Access::All, run_id("r1")).await.unwrap().unwrap().worker, Some(worker_id("w")));
    two.heartbeat(worker_id("w"), second(1), PERIOD).await.unwrap();
    let sql = rusqlite::Connection::open(&path).unwrap();
    let count = |view: &str| sql.query_row(&format!("SELECT count(*) FROM {view}"), [], |row| row.get::<_, i64>(0));
    assert_eq!((count("chk_run").unwrap(), count("chk_event").unwrap()), (1, 1));
    assert_eq!((count("chk_run_two").unwrap(), count("chk_event_two").unwrap()), (1, 0));
}

/// Compares the counts that are kept with the rows they count.
#[track_caller]
fn check_kept_counts(path: &std::path::Path) {
    let sql = rusqlite::Connection::open(path).unwrap();
    let numbers = |query: &str| {
        let read =
            |row: &rusqlite::Row<'_>| (0..9).map(|column| row.get(column)).collect::<rusqlite::Result<Vec<i64>>>();
        sql.query_row(query, [], read).unwrap()
    };
    let kept = "SELECT pending, running, paused, completed, cancelled, error, workflow_sessions, agent_sessions, \
        team_sessions FROM outlive_sessions_counts WHERE scope = 0";
    let of_runs = |status| format!("(SELECT count(*) FROM outlive_sessions_runs WHERE status = {status})");
    let of_sessions = |kind| format!("(SELECT count(*) FROM outlive_sessions WHERE kind = {kind})");
    let columns: Vec<String> = (0..6).map(of_runs).chain((0..3).map(of_sessions)).collect();
    assert_eq!(numbers(kept), numbers(&format!("SELECT {}", columns.join(", "))));
}

/// Every path below, relative and sorted.
fn files(directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(current) = open.pop() {
        for entry in std::fs::read_dir(current).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(directory).unwrap().display().to_string());
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Each page is a part of the time that a submit takes: see `docs/decisions/007-commit-groups-and-checkpoints.md`.
#[tokio::test]
async fn accepting_a_run_writes_few_pages() {
    let directory = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(directory.path().join("a.db"));
    register(&db, "w1").await;
    let log_len = || std::fs::metadata(directory.path().join("a.db-wal")).unwrap().len();
    // Run, request, session, counts; run id, session id, the unfinished runs, the sessions by component; a user's sessions.
    for (user_id, expected) in [(None, 8), (Some("ada"), 9)] {
        let mut counts = Vec::new();
        for number in 0..31 {
            let mut run = new_run(&format!("r{number}-{expected}"));
            run.info.user_id = user_id.map(Arc::from);
            let before = log_len();
            db.create_run(Access::All, run, Some(worker_id("w1"))).await.unwrap();
            counts.push((log_len() - before) / (4096 + 24));
        }
        // A log that begins anew does not grow until it is as long as it was. Now and then a full page becomes two.
        counts.retain(|grown| *grown > 0);
        counts.sort_unstable();
        assert_eq!(counts[counts.len() / 2], expected, "{counts:?}");
    }
}

#[tokio::test]
async fn a_commit_that_only_extends_the_log_leaves_indexes_of_runs_alone() {
    let directory = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(directory.path().join("a.db"));
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    let log_len = || std::fs::metadata(directory.path().join("a.db-wal")).unwrap().len();
    // Enough to fill a log that begins anew meanwhile: until then it does not grow.
    let mut counts = Vec::new();
    for index in 0..60 {
        let before = log_len();
        db.commit(append(&lease, line_page(index, "entry"))).await.unwrap();
        counts.push((log_len() - before) / (4096 + 24));
    }
    // The run, its entries, their index.
    assert_eq!(counts.iter().max(), Some(&3), "{counts:?}");
}
