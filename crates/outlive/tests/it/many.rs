//! Many runs and `kill -9`: a batch that is killed while it is accepted and while it executes, and schedules whose process
//! dies. Each item and each time comes once.

use outlive::core::port::{Access, Clock, Order, Run, RunFilter, TickOutcome};
use outlive::core::{Definition, Timestamp};
use outlive::db::SqliteDb;
use outlive::engine::{BatchSpec, CreateBatch, CreateSchedule, Engine, ScheduleSpec};
use outlive::prelude::*;
use outlive::{CatchUp, Options, Overlap};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Set in a child process: what it does until it is killed, and on which file.
const ROLE: &str = "OUTLIVE_MANY_ROLE";
const FILE: &str = "OUTLIVE_MANY_FILE";
/// By how many seconds its clock is ahead.
const AHEAD: &str = "OUTLIVE_MANY_AHEAD";

const ITEMS: usize = 150;

/// A clock that is ahead of the system's.
struct Ahead(i64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp::from_micros(i64::try_from(now.as_micros()).unwrap() + self.0 * 1_000_000)
    }
}

async fn engine(path: &Path, ahead: i64) -> (Engine, Arc<Definition>) {
    let step = Step::function("say", |_, input: Arc<StepInput>| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        say(&format!("done {}", input.text()));
        Ok::<_, Failure>(input.text().to_uppercase())
    });
    let definition = Arc::new(Definition::builder("many").step(step).build().unwrap());
    let builder = Engine::builder(Arc::new(SqliteDb::new(path))).workflow(definition.clone());
    // So many kills in a row would make a suspect of whoever was always among those in flight.
    let builder = builder.options(Options { claims_max: 100, ..Options::default() });
    (builder.clock(Arc::new(Ahead(ahead))).start().await.unwrap(), definition)
}

/// Not `println`, which the test harness would hold back.
fn say(line: &str) {
    if std::env::var_os(ROLE).is_some() {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{line}").unwrap();
    }
}

fn inputs() -> Vec<Value> {
    (0..ITEMS).map(|number| Value::from(format!("item {number}"))).collect()
}

fn spec() -> CreateBatch {
    let spec = BatchSpec { concurrency: Some(8), ..BatchSpec::default() };
    CreateBatch { batch_id: Some("b1".to_owned()), spec, ..CreateBatch::default() }
}

/// Not a test by itself: what a child process does until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(role), Ok(path)) = (std::env::var(ROLE), std::env::var(FILE)) else { return };
    let ahead = std::env::var(AHEAD).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    let (engine, definition) = engine(Path::new(&path), ahead).await;
    match role.as_str() {
        "add" => {
            let batch = engine.create_batch(&definition.id, spec()).await.unwrap();
            for (number, some) in inputs().chunks(7).enumerate() {
                let end = batch.add(number as u64 * 7, some.to_vec()).await.unwrap();
                say(&format!("added {end}"));
            }
            batch.complete(ITEMS as u64).await.unwrap();
            say("complete");
        }
        "schedule" => {
            for policy in CatchUp::ALL {
                let spec = ScheduleSpec {
                    input: Some(Value::from(policy.as_str())),
                    catch_up: policy,
                    overlap: Overlap::Allow,
                    ..ScheduleSpec::new("* * * * * *")
                };
                let create = CreateSchedule { name: Some(policy.as_str().to_owned()), ..CreateSchedule::new(spec) };
                engine.create_schedule(&definition.id, create).await.unwrap();
            }
            say("created");
        }
        _ => say("started"),
    }
    std::future::pending::<()>().await;
}

/// Such a process. Killed when dropped.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(role: &str, path: &Path, ahead: i64) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "many::child", "--nocapture"]);
        command.env(ROLE, role).env(FILE, path).env(AHEAD, ahead.to_string());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads until it has said so many lines like this; false at its end.
    fn until(&mut self, beginning: &str, times: usize) -> bool {
        let mut said = self.lines.by_ref().map_while(Result::ok).filter(|line| line.contains(beginning));
        times == 0 || said.nth(times - 1).is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn all_runs(engine: &Engine) -> Vec<Run> {
    let mut filter = RunFilter { limit: 1_000, order: Order::OldestFirst, with_payload: true, ..RunFilter::default() };
    let mut runs = Vec::new();
    loop {
        let page = engine.db().runs(Access::All, filter.clone()).await.unwrap();
        runs.extend(page.runs);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return runs,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_killed_while_it_is_accepted_and_while_it_executes_has_each_item_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.db");
    // At one number of items and then at another, in the middle of what follows; each next process begins again.
    for added in [1, 4, 11] {
        let mut process = Process::start("add", &path, 0);
        assert!(process.until("added ", added));
    }
    let mut process = Process::start("add", &path, 0);
    assert!(process.until("complete", 1));
    drop(process);
    for done in [5, 20] {
        let mut process = Process::start("run", &path, 0);
        assert!(process.until("done item", done));
    }
    let (engine, _) = engine(&path, 0).await;
    let batch = engine.batch("b1").await.unwrap();
    let over = batch.wait().await.unwrap();
    assert_eq!((over.status(), over.items, over.counts.completed), ("completed", Some(150), 150));
    let runs = all_runs(&engine).await;
    let items: BTreeSet<u64> = runs.iter().map(|run| run.request_options().unwrap().batch.unwrap().index).collect();
    assert_eq!((runs.len(), items.len()), (ITEMS, ITEMS));
    let mut results = batch.results();
    let mut index = 0;
    while let Some(result) = results.next().await.unwrap() {
        assert_eq!((result.index, result.output.unwrap().text()), (index, format!("ITEM {index}")));
        index += 1;
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_whose_process_is_killed_has_each_time_once_whatever_it_catches_up_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.db");
    let mut process = Process::start("schedule", &path, 0);
    assert!(process.until("created", 1) && process.until("done", 4));
    drop(process);
    // Whoever comes soon takes what is late.
    for _ in 0..2 {
        let mut process = Process::start("run", &path, 0);
        assert!(process.until("done", 5));
    }
    // Whoever comes after five minutes does what the schedules say.
    let mut process = Process::start("run", &path, 300);
    assert!(process.until("done one", 2) && process.until("done skip", 2));
    drop(process);
    let (engine, definition) = engine(&path, 300).await;
    for policy in CatchUp::ALL {
        engine.schedule(policy.as_str()).await.unwrap().pause().await.unwrap();
    }
    for run in all_runs(&engine).await {
        engine.reader().wait(&run.info.run_id).await.unwrap();
    }
    let runs = all_runs(&engine).await;
    assert!(
        runs.iter().all(|run| run.status == outlive::RunStatus::Completed && run.info.workflow_id == definition.id)
    );
    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    for run in &runs {
        *made.entry(run.read_input().unwrap().unwrap().as_str().unwrap().to_owned()).or_default() += 1;
    }
    for policy in CatchUp::ALL {
        let schedule = engine.schedule(policy.as_str()).await.unwrap();
        let mut ticks = schedule.ticks(1_000).await.unwrap();
        ticks.reverse();
        let times: BTreeSet<i64> = ticks.iter().map(|tick| tick.due_at.as_seconds()).collect();
        assert_eq!(times.len(), ticks.len(), "{policy:?}: each time once");
        let ran: Vec<_> = ticks.iter().filter(|tick| tick.outcome == TickOutcome::Ran).collect();
        assert_eq!(
            (made[policy.as_str()], schedule.runs),
            (ran.len(), ran.len() as u64),
            "{policy:?}: and one run of each"
        );
        // What stands between two times is a gap only where it was told.
        let gaps: Vec<i64> = ticks
            .windows(2)
            .map(|two| (two[1].due_at.as_seconds() - two[0].due_at.as_seconds(), two[1].outcome))
            .filter(|(seconds, _)| *seconds > 1)
            .map(|(seconds, outcome)| {
                assert!(matches!(outcome, TickOutcome::Missed | TickOutcome::Ran), "{policy:?}: {outcome:?}");
                seconds
            })
            .collect();
        let missed = ticks.iter().filter(|tick| tick.outcome == TickOutcome::Missed).count();
        assert_eq!((gaps.len(), missed), (1, 1), "{policy:?}: {ticks:#?}");
        assert!(gaps[0] > 100, "{policy:?}: only what passed while the clock was put forward");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_file_take_each_time_and_each_item_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.db");
    let mut one = Process::start("schedule", &path, 0);
    assert!(one.until("created", 1));
    let mut other = Process::start("run", &path, 0);
    assert!(other.until("started", 1));
    let (engine, definition) = engine(&path, 0).await;
    let batch = engine.create_batch(&definition.id, spec()).await.unwrap();
    batch.add(0, inputs()).await.unwrap();
    batch.complete(ITEMS as u64).await.unwrap();
    assert_eq!(batch.wait().await.unwrap().counts.completed, 150);
    while engine.schedule("skip").await.unwrap().runs < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for policy in CatchUp::ALL {
        engine.schedule(policy.as_str()).await.unwrap().pause().await.unwrap();
    }
    for run in all_runs(&engine).await {
        engine.reader().wait(&run.info.run_id).await.unwrap();
    }
    let runs = all_runs(&engine).await;
    let scheduled = runs.iter().filter(|run| run.request_options().unwrap().batch.is_none()).count();
    let mut ticks = 0;
    for policy in CatchUp::ALL {
        let schedule = engine.schedule(policy.as_str()).await.unwrap();
        let taken = schedule.ticks(1_000).await.unwrap();
        assert!(taken.iter().all(|tick| tick.outcome == TickOutcome::Ran), "{taken:#?}");
        assert_eq!(schedule.runs, taken.len() as u64);
        ticks += taken.len();
    }
    assert_eq!((scheduled, runs.len()), (ticks, ticks + ITEMS));
    engine.shutdown().await.unwrap();
}
