//! Schedules in great number that are due within a minute: how late their runs begin, and that each begins once.
//!
//! Each schedule has a second of its own within the span; with a span of 0, all are due in the same second. `--processes`
//! more processes execute the workflow on the same file.

use crate::measure::{Arguments, cpu, folder, latencies, report, rounded};
use futures::StreamExt;
use outlive::core::{Definition, Failure, Step, StepInput, Timestamp};
use outlive::db::SqliteDb;
use outlive::engine::{CreateSchedule, Engine, ScheduleSpec};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where all processes write down which schedule's run begins, and when.
const BEGUN: &str = "begun.log";

pub(crate) async fn measure(arguments: &Arguments) {
    let count = arguments.number("n", 10_000);
    let span = arguments.number("seconds", 60);
    let begun = folder().join(BEGUN);
    drop(std::fs::remove_file(&begun));
    let engine = start().await;
    let helpers: Vec<Child> = (1..arguments.number("processes", 1)).map(|_| helper()).collect();
    let created = Instant::now();
    // As far ahead as creating them takes, and a little more.
    let first = now().as_seconds() + 4 + i64::try_from(count / 500).unwrap_or(60);
    let due = |number: usize| first + i64::try_from(number % span.max(1)).unwrap_or_default();
    let creating = (0..count).map(|number| create(&engine, number, due(number)));
    futures::stream::iter(creating).buffer_unordered(64).collect::<Vec<()>>().await;
    let created_s = created.elapsed().as_secs_f64();
    assert!(now().as_seconds() < first, "they were created too slowly: {created_s} s");
    let cpu_before = cpu();
    let last = first + i64::try_from(span).unwrap_or_default();
    // Three scans later, whatever is missing has been lost.
    while now().as_seconds() < last + 60 && lines(&begun).len() < count {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let spent = cpu().saturating_sub(cpu_before);
    let lines = lines(&begun);
    let mut late: Vec<Duration> = Vec::new();
    let mut times = vec![0_u32; count];
    for (number, micros) in &lines {
        times[*number] += 1;
        late.push(Timestamp::from_micros(*micros).since(Timestamp::from_seconds(due(*number))));
    }
    report(&json!({
        "workload": "T1",
        "n": count,
        "span_s": span,
        "processes": helpers.len() + 1,
        "created_s": rounded(created_s),
        "once": times.iter().filter(|times| **times == 1).count(),
        "late": latencies(&mut late),
        "cpu_ms_per_run": rounded(spent.as_secs_f64() * 1e3 / count as f64),
    }));
    for mut helper in helpers {
        helper.kill().expect("it runs");
        helper.wait().expect("it ends");
    }
    engine.shutdown().await.expect("the store works");
}

/// A process that executes what another has scheduled, until it is killed.
pub(crate) async fn helper_process() {
    let _engine = start().await;
    std::future::pending::<()>().await;
}

fn helper() -> Child {
    let program = std::env::current_exe().expect("this program has a path");
    Command::new(program).arg("ticker").stdout(Stdio::null()).spawn().expect("this program starts")
}

async fn start() -> Engine {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder().join(BEGUN));
    let log = Arc::new(Mutex::new(log.expect("the folder can be written")));
    let step = Step::function("note", move |_, input: Arc<StepInput>| {
        let line = format!("{} {}\n", input.text(), now().as_micros());
        log.lock().expect("nobody panics while writing").write_all(line.as_bytes()).expect("it can be written");
        async { Ok::<_, Failure>("noted") }
    });
    let definition = Arc::new(Definition::builder("ticks").step(step).build().expect("the workloads are sound"));
    let builder = Engine::builder(Arc::new(SqliteDb::new(folder().join("ticks.db")))).workflow(definition);
    builder.start().await.expect("the store opens")
}

async fn create(engine: &Engine, number: usize, due: i64) {
    let (hour, minute, second) = (due / 3_600 % 24, due / 60 % 60, due % 60);
    let spec = ScheduleSpec {
        input: Some(Value::from(number.to_string())),
        ..ScheduleSpec::new(format!("{second} {minute} {hour} * * *"))
    };
    let create = CreateSchedule { name: Some(format!("schedule {number}")), ..CreateSchedule::new(spec) };
    let id = outlive::core::DefinitionId::parse("ticks").expect("a good id");
    engine.create_schedule(&id, create).await.expect("it is accepted");
}

/// Which schedules' runs have begun, and when.
fn lines(begun: &std::path::Path) -> Vec<(usize, i64)> {
    let text = std::fs::read_to_string(begun).unwrap_or_default();
    let read = |line: &str| {
        let (number, micros) = line.split_once(' ')?;
        Some((number.parse().ok()?, micros.parse().ok()?))
    };
    text.lines().filter_map(read).collect()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right");
    Timestamp::from_micros(i64::try_from(since.as_micros()).expect("it is not that late"))
}
