//! The limit: what bare SQLite does with the same file, the same durability and one thread.

use crate::measure::{cpu, folder, latencies, report, rounded};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ROW_BYTES: usize = 300;

pub(crate) fn print() {
    let folder = folder();
    let single = commits(&folder.join("raw-1.db"), 1, 6_000);
    let grouped = commits(&folder.join("raw-100.db"), 100, 1_500);
    report(&json!({ "workload": "raw", "single": single, "grouped100": grouped }));
}

/// `count` transactions of `rows` rows each, every one on stable storage before the next begins.
fn commits(path: &std::path::Path, rows: u64, count: u64) -> Value {
    let _ = std::fs::remove_file(path);
    let mut connection = Connection::open(path).expect("the folder can be written");
    let schema = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
        CREATE TABLE log (run TEXT, n INTEGER, body TEXT, PRIMARY KEY (run, n)) WITHOUT ROWID;";
    connection.execute_batch(schema).expect("the file is new");
    let body = "x".repeat(ROW_BYTES);
    let (cpu_before, start) = (cpu(), Instant::now());
    let mut samples: Vec<Duration> = Vec::new();
    for n in 0..count {
        let begin = Instant::now();
        let transaction = connection.transaction().expect("nobody else writes");
        for row in 0..rows {
            let run =
                format!("{:032x}", u128::from(n * rows + row).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
            let mut insert =
                transaction.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3)").expect("the table exists");
            insert.execute(params![run, i64::try_from(row).unwrap_or_default(), body]).expect("the row is new");
        }
        transaction.commit().expect("the disk takes it");
        samples.push(begin.elapsed());
    }
    let (wall, total) = (start.elapsed().as_secs_f64(), (count * rows) as f64);
    let mut figures = latencies(&mut samples);
    figures["rows_per_s"] = json!(rounded(total / wall));
    figures["cpu_us_per_row"] = json!(rounded((cpu() - cpu_before).as_secs_f64() * 1e6 / total));
    figures
}
