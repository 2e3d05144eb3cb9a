//! Lists over HTTP, in a file with many runs. One run is executed; the others are copies of its rows, which takes
//! seconds where executing them would take minutes: a tenth of them ERROR, half of them of one user in a thousand.

use crate::measure::{Arguments, folder, latencies, report};
use crate::serve::Served;
use serde_json::{Value, json};
use std::time::Instant;

/// The lists, by what they ask for.
const LISTS: [&str; 8] = [
    "/api/runs?limit=50",
    "/api/runs?limit=50&status=ERROR",
    "/api/runs?limit=50&workflow_id=tell&status=COMPLETED&order=oldest",
    "/api/runs?limit=50&user_id=user-7",
    "/api/runs?limit=50&status=RUNNING",
    "/sessions",
    "/sessions?type=workflow&component_id=tell&sort_order=asc",
    "/sessions?user_id=user-7",
];

/// Copies of session, run, request, output and log, numbered after the first; `?1` is how many.
const COPIES: [&str; 5] = [
    "INSERT INTO outlive_sessions SELECT i + 1, printf('s-%07d', i), version, kind, iif(i % 2, 'user-' || (i % 1000), NULL), \
     component_id, created_at + i, updated_at + i, name, metadata, state, lag FROM copy, outlive_sessions WHERE seq = 1",
    "INSERT INTO outlive_sessions_runs (seq, run_id, session_seq, workflow_id, status, is_behind, epoch, claims, attempt, \
     due_at, next_index, updated_at, progress, user_id) SELECT i + 1, printf('r-%07d', i), i + 1, workflow_id, \
     iif(i % 10, status, 5), 0, epoch, claims, attempt, 0, next_index, updated_at + i, progress, \
     iif(i % 2, 'user-' || (i % 1000), NULL) FROM copy, outlive_sessions_runs WHERE seq = 1",
    "INSERT INTO outlive_sessions_run_requests SELECT i + 1, workflow_name, iif(i % 2, 'user-' || (i % 1000), NULL), \
     definition, fingerprint, NULL, created_at + i, options, input FROM copy, outlive_sessions_run_requests WHERE seq = 1",
    "INSERT INTO outlive_sessions_run_outputs SELECT i + 1, output FROM copy, outlive_sessions_run_outputs WHERE seq = 1",
    "INSERT INTO outlive_sessions_run_events (run_seq, first_index, count, epoch, body) \
     SELECT i + 1, first_index, count, epoch, body FROM copy, outlive_sessions_run_events WHERE run_seq = 1",
];

pub(crate) async fn measure(arguments: &Arguments) {
    let (runs, samples) = (arguments.number("runs", 350_000), arguments.number("n", 200));
    let served = Served::start();
    let run_id = served.submit(&json!({ "n": 0 })).await;
    served.ended(&run_id).await;
    drop(served);
    fill(runs as i64 - 1);
    let served = Served::start();
    let mut figures = json!({ "workload": "S3", "runs": runs });
    for list in LISTS {
        let answer: Value = serde_json::from_str(&served.ask("GET", list, "").await).expect("JSON");
        let lines = answer["runs"].as_array().or(answer["data"].as_array());
        assert!(lines.is_some_and(|lines| list.contains("RUNNING") || lines.len() >= 20), "{list}: {answer}");
        let mut taken = Vec::with_capacity(samples);
        for _ in 0..samples {
            let begun = Instant::now();
            served.ask("GET", list, "").await;
            taken.push(begun.elapsed());
        }
        figures[list] = latencies(&mut taken);
    }
    report(&figures);
}

fn fill(copies: i64) {
    let sql = rusqlite::Connection::open(folder().join("serve.db")).expect("the store is there");
    sql.execute_batch("PRAGMA synchronous = OFF; BEGIN").expect("nobody else writes");
    for copy in COPIES {
        let numbers = "WITH RECURSIVE copy (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM copy WHERE i < ?1)";
        sql.execute(&format!("{numbers} {copy}"), [copies]).expect("the tables are as they are here");
    }
    // Counted as a migration counts them.
    let migration = include_str!("../../../db/migrations/sqlite/0002_tables.sql").replace("{T}", "outlive_sessions");
    let count = migration.split_once("INSERT INTO outlive_sessions_counts").expect("it fills the table").1;
    let count = count.split_once(';').expect("the statement ends").0;
    let count = format!("DELETE FROM outlive_sessions_counts; INSERT INTO outlive_sessions_counts{count}");
    sql.execute_batch(&count).expect("it did so before");
    sql.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").expect("there is room");
}
