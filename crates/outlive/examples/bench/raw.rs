//! The limit: what bare SQLite does with the same file, the same durability and one thread.

use crate::measure::{cpu, folder, latencies, report, rounded};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ROW_BYTES: usize = 300;

pub(crate) fn print() {
    let single = commits("raw-1.db", 1, 6_000);
    let grouped = commits("raw-100.db", 100, 1_500);
    report(&json!({ "workload": "raw", "single": single, "grouped100": grouped }));
}

/// `count` transactions of `rows` rows each, every one on stable storage before the next begins.
fn commits(name: &str, rows: u64, count: u64) -> Value {
    let mut raw = Raw::new(name);
    let (cpu_before, start) = (cpu(), Instant::now());
    let mut samples: Vec<Duration> = (0..count).map(|_| raw.commit(rows)).collect();
    let (wall, total) = (start.elapsed().as_secs_f64(), (count * rows) as f64);
    let mut figures = latencies(&mut samples);
    figures["rows_per_s"] = json!(rounded(total / wall));
    figures["cpu_us_per_row"] = json!(rounded((cpu() - cpu_before).as_secs_f64() * 1e6 / total));
    figures
}

/// A file with one table, in the folder for data.
pub(crate) struct Raw {
    path: PathBuf,
    connection: Connection,
    rows: u64,
    body: String,
}

impl Raw {
    pub(crate) fn new(name: &str) -> Self {
        let path = folder().join(name);
        let _ = std::fs::remove_file(&path);
        let connection = Connection::open(&path).expect("the folder can be written");
        let schema = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
            CREATE TABLE log (run TEXT, n INTEGER, body TEXT, PRIMARY KEY (run, n)) WITHOUT ROWID;";
        connection.execute_batch(schema).expect("the file is new");
        Self { path, connection, rows: 0, body: "x".repeat(ROW_BYTES) }
    }

    /// One transaction of so many rows: how long it takes until it is on stable storage.
    pub(crate) fn commit(&mut self, rows: u64) -> Duration {
        let begin = Instant::now();
        let transaction = self.connection.transaction().expect("nobody else writes");
        for row in 0..rows {
            let number = u128::from(self.rows + row);
            let run = format!("{:032x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
            let mut insert =
                transaction.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3)").expect("the table exists");
            insert.execute(params![run, i64::try_from(row).unwrap_or_default(), self.body]).expect("the row is new");
        }
        transaction.commit().expect("the disk takes it");
        self.rows += rows;
        begin.elapsed()
    }

    /// Commits until the log begins anew: from then on, commits overwrite it.
    pub(crate) fn fill_log(&mut self) {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let len = || std::fs::metadata(&log).map_or(0, |file| file.len());
        loop {
            let before = len();
            self.commit(1);
            if len() == before {
                break;
            }
        }
    }
}
