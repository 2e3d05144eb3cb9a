//! The stable views, over pages as the core writes them.

use super::{append, new_run, register, run_id, second, start, worker_id};
use outlive_core::port::{
    Access, LogStore, NewRun, NewSchedule, NewStart, NewTick, RunStore, ScheduleStore, TickOutcome,
};
use outlive_core::{Entry, EventKind, Key, Origin, Page, Record, RunEvent};
use outlive_db::SqliteDb;
use rusqlite::Connection;
use std::sync::Arc;

fn entry(kind: EventKind, record: Option<Record>) -> Entry {
    let origin = Origin::workflow(&new_run("r1").info);
    let event = RunEvent { created_at: 1, kind, origin, event_index: None };
    Entry { event, at: None, record }
}

fn rows(sql: &Connection, query: &str) -> Vec<String> {
    let mut statement = sql.prepare(query).unwrap();
    let columns = statement.column_count();
    let read = |row: &rusqlite::Row<'_>| {
        let text = |column| {
            row.get::<_, rusqlite::types::Value>(column).map(|value| match value {
                rusqlite::types::Value::Null => "-".to_owned(),
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => panic!("{other:?}"),
            })
        };
        Ok((0..columns).map(|column| text(column).unwrap()).collect::<Vec<_>>().join(" "))
    };
    statement.query_map([], read).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn the_views_tell_the_history_of_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    register(&db, "w1").await;
    let lease = start(&db, "r1", "w1").await;
    let claimed = |worker: &str, epoch| Record::Claimed {
        worker: worker_id(worker),
        epoch,
        attempt: 1,
        at: second(1),
        state: None,
    };
    let key = Key::parse("0");
    let state = None;
    let run = None;
    let value: Arc<serde_json::value::RawValue> = Arc::from(serde_json::value::to_raw_value("a\nb \"c\"").unwrap());
    let first = [
        entry(EventKind::WorkflowStarted, Some(claimed("w1", 1))),
        entry(EventKind::StepStarted, Some(Record::Intent { key: key.clone(), name: Some(Arc::from("first")) })),
    ];
    let call = key.turn(0);
    let second_page = [
        entry(EventKind::RunContentCompleted, Some(Record::Intent { key: call.clone(), name: None })),
        entry(EventKind::RunContentCompleted, Some(Record::Result { key: call, value, sleeps: false })),
    ];
    let third = [
        entry(EventKind::StepStarted, Some(claimed("w2", 2))),
        entry(EventKind::StepStarted, None),
        entry(EventKind::StepStarted, Some(Record::Step { key, output: Arc::default(), run, state })),
    ];
    db.commit(append(&lease, Page::encode(&new_run("r1").info, 0, &first))).await.unwrap();
    db.commit(append(&lease, Page::encode(&new_run("r1").info, 2, &second_page))).await.unwrap();
    db.retire(worker_id("w1"), second(1)).await.unwrap();
    register(&db, "w2").await;
    let (_, lease) = db.claim_run(run_id("r1"), worker_id("w2"), second(1)).await.unwrap().unwrap();
    let mut last = append(&lease, Page::encode(&new_run("r1").info, 4, &third));
    last.session = Some(serde_json::Map::from_iter([("a".to_owned(), serde_json::json!(1))]));
    db.commit(last).await.unwrap();

    let sql = Connection::open(&path).unwrap();
    let run = "r1 session-of-r1 flow PENDING 2 7 1700000000000000 fingerprint";
    assert_eq!(rows(&sql, "SELECT * FROM chk_run"), [run]);
    assert_eq!(
        rows(
            &sql,
            "SELECT run_id, event_index, step_key, kind, epoch, commit_seq FROM chk_journal ORDER BY event_index"
        ),
        ["r1 1 0 started 1 1", "r1 2 0/t0 started 1 2", "r1 3 0/t0 finished 1 2", "r1 6 0 finished 2 3"]
    );
    assert_eq!(
        rows(&sql, "SELECT run_id, idx, name, json ->> '$.workflow_id' FROM chk_event WHERE idx < 2 ORDER BY idx"),
        ["r1 0 WorkflowStarted flow", "r1 1 StepStarted flow"]
    );
    assert_eq!(rows(&sql, "SELECT count(*), count(json), max(idx) FROM chk_event"), ["7 7 6"]);
    assert_eq!(
        rows(
            &sql,
            "SELECT run_id, epoch, worker, from_index, to_index, from_seq, to_seq FROM chk_lease ORDER BY epoch"
        ),
        ["r1 1 w1 0 3 1 2", "r1 2 w2 4 6 3 3"]
    );
    assert_eq!(rows(&sql, "SELECT * FROM chk_session"), ["session-of-r1 1 {\"a\":1}"]);
    assert!(rows(&sql, "SELECT schedule_id, due_at, run_id FROM chk_tick").is_empty());
}

#[tokio::test]
async fn the_views_tell_which_times_of_a_schedule_were_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let db = SqliteDb::new(&path);
    let new = NewSchedule {
        id: Arc::from("c1"),
        name: Arc::from("nightly"),
        workflow_id: new_run("r1").info.workflow_id,
        user_id: None,
        text: Arc::from("{}"),
        source: None,
        next_due: second(10),
        replaces: false,
        at: second(1),
    };
    db.create_schedule(Access::All, new).await.unwrap();
    let tick = |expected, outcome| NewTick {
        schedule_id: Arc::from("c1"),
        expected: Some(second(expected)),
        next_due: second(expected + 10),
        due_at: second(expected),
        outcome,
        note: None,
    };
    let start = NewStart { tick: Some(Box::new(tick(10, TickOutcome::Ran))), ..NewStart::default() };
    db.create_run(Access::All, NewRun { start, ..new_run("r1") }, None).await.unwrap();
    db.tick(tick(20, TickOutcome::Missed), second(25)).await.unwrap();
    let sql = Connection::open(&path).unwrap();
    let ticks = rows(&sql, "SELECT schedule_id, due_at, run_id FROM chk_tick ORDER BY due_at");
    assert_eq!(ticks, ["c1 1700000010000000 r1", "c1 1700000020000000 -"]);
}
