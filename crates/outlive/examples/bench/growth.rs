//! What must not grow with a run: its poll, each item of a `ForEach`, each turn of an agent; and what a waiting branch
//! takes. Each figure stands beside that of a small run, of the same program within the same minute.

use crate::measure::{Arguments, folder, latencies, report, rounded, rss_bytes};
use outlive::core::port::RunFilter;
use outlive::core::{Definition, DefinitionId, ModelResponse, ToolCall};
use outlive::engine::Submit;
use outlive::prelude::*;
use outlive::{ForEach, Parallel};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What a poll without results takes, of runs of that many steps: while the last step waits, and once it is over.
pub(crate) async fn polls(arguments: &Arguments) {
    let samples = arguments.number("n", 1_000);
    let sizes = arguments.numbers("steps", "3,10000");
    let gate = Gate::default();
    let definitions: Vec<_> = sizes.iter().map(|steps| Arc::new(gated_line(*steps, &gate))).collect();
    let engine = start("polls.db", &definitions).await;
    let mut runs = Vec::new();
    for (steps, definition) in sizes.iter().zip(&definitions) {
        runs.push((*steps, submit(&engine, &definition.id, Value::from("x".repeat(20))).await));
    }
    gate.are_at(sizes.len()).await;
    let mut figures = json!({ "workload": "G1" });
    polled(&engine, &runs, samples, "executing", &mut figures).await;
    gate.open(sizes.len());
    for (_, run) in &runs {
        run.wait().await.expect("the store works");
    }
    polled(&engine, &runs, samples, "ended", &mut figures).await;
    report(&figures);
    engine.shutdown().await.expect("the store works");
}

/// Polls the runs in turn, so that all of them meet the same machine.
async fn polled(engine: &Engine, runs: &[(usize, RunHandle)], samples: usize, when: &str, figures: &mut Value) {
    let mut taken = vec![Vec::with_capacity(samples); runs.len()];
    for _ in 0..samples {
        for ((_, run), taken) in runs.iter().zip(&mut taken) {
            let begun = Instant::now();
            let standing = engine.standing(run.run_id()).await.expect("the store works").expect("it was accepted");
            taken.push(begun.elapsed());
            assert_eq!(standing.is_at_rest, when == "ended");
        }
    }
    for ((steps, _), mut taken) in runs.iter().zip(taken) {
        figures[when][steps.to_string()] = latencies(&mut taken);
    }
}

/// No-op steps, of which the last waits for a permit.
fn gated_line(steps: usize, gate: &Gate) -> Definition {
    let plain = |number: usize| {
        Step::function(format!("s{number}"), |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) })
    };
    let builder = (1..steps).fold(Definition::builder(format!("line of {steps}")), |line, n| line.step(plain(n)));
    builder.step(gate.step("last".to_owned())).build().expect("the workloads are sound")
}

/// What a `ForEach` takes for an item and, at its end, in memory, by the number of items; and how soon one that was
/// killed in the middle goes on.
pub(crate) fn items(arguments: &Arguments) {
    let rounds = arguments.number("rounds", 3);
    let sizes = arguments.numbers("items", "100,10000");
    let mut figures = json!({ "workload": "G2" });
    let mut taken: HashMap<usize, Vec<Value>> = HashMap::new();
    for round in 0..rounds {
        for items in &sizes {
            let figures = map(&format!("items-{items}-{round}.db"), *items, None);
            taken.entry(*items).or_default().push(figures.expect("it ends"));
        }
    }
    for (items, mut taken) in taken {
        taken.sort_by(|a, b| {
            a["ms_per_item"].as_f64().unwrap_or(0.0).total_cmp(&b["ms_per_item"].as_f64().unwrap_or(0.0))
        });
        figures[items.to_string()] = taken.swap_remove(taken.len() / 2);
    }
    let most = sizes.into_iter().max().expect("there is a size");
    let killed = map("killed.db", most, Some(most / 2));
    assert!(killed.is_none(), "it ended before it was killed: {killed:?}");
    figures["resumed"] = map("killed.db", most, None).expect("it ends");
    report(&figures);
}

/// One `ForEach`, in a process of its own; nothing when it dies at item `dies_at`.
fn map(file: &str, items: usize, dies_at: Option<usize>) -> Option<Value> {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args(["map", "--file", file, "--items", &items.to_string()]).stderr(Stdio::null());
    if let Some(item) = dies_at {
        command.args(["--dies-at", &item.to_string()]);
    }
    let output = command.output().expect("this program starts");
    String::from_utf8_lossy(&output.stdout).lines().last().and_then(|line| serde_json::from_str(line).ok())
}

/// The process of a `ForEach`: it begins it, or resumes it.
pub(crate) async fn map_process(arguments: &Arguments) {
    let file = arguments.text("file").expect("--file names the store");
    let (items, dies_at) = (arguments.number("items", 100), arguments.number("dies-at", usize::MAX));
    let is_resumed = folder().join(file).exists();
    let (begun, first, last) = (Instant::now(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (called, at_end) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let body = {
        let (first, last, called, at_end) = (first.clone(), last.clone(), called.clone(), at_end.clone());
        Step::function("item", move |_, input: Arc<StepInput>| {
            let text = input.text();
            let now = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            let number: usize = text.parse().unwrap_or_default();
            if called.fetch_add(1, Ordering::Relaxed) == 0 {
                first.store(now, Ordering::Relaxed);
            }
            last.store(now, Ordering::Relaxed);
            if number == dies_at {
                std::process::abort();
            }
            if number + 1 == items {
                at_end.store(rss_bytes(), Ordering::Relaxed);
            }
            async move { Ok::<_, Failure>(format!("{text} {}", "x".repeat(20))) }
        })
    };
    let each = ForEach::new("all").items(move |_| (0..items).collect::<Vec<_>>()).step(body);
    let definition = Arc::new(Definition::builder("each").step(each).build().expect("the workloads are sound"));
    let engine = start(file, std::slice::from_ref(&definition)).await;
    let run = match is_resumed {
        false => submit(&engine, &definition.id, Value::from("all of them")).await,
        true => {
            let page = engine.runs(RunFilter::default()).await.expect("the store works");
            engine.attach(page.runs[0].info.run_id.clone())
        }
    };
    let ended = run.wait().await.expect("the store works");
    assert_eq!(ended.status, RunStatus::Completed);
    assert_eq!(ended.step_results[0].steps.len(), items);
    let micros = |of: &AtomicU64| of.load(Ordering::Relaxed) as f64;
    let called = called.load(Ordering::Relaxed);
    report(&json!({
        "called": called,
        "ms_per_item": rounded((micros(&last) - micros(&first)) / 1e3 / called as f64),
        "first_item_s": rounded(micros(&first) / 1e6),
        "rss_bytes_at_end": at_end.load(Ordering::Relaxed),
        "rss_bytes_after": rss_bytes(),
    }));
    engine.shutdown().await.expect("the store works");
}

/// What each of 64 branches of a Parallel takes while all of them wait, in many runs.
pub(crate) async fn branches(arguments: &Arguments) {
    let (runs, branches) = (arguments.number("n", 200), arguments.number("branches", 64));
    let gate = Gate::default();
    let branch = |number: usize| gate.step(format!("b{number}"));
    let parallel = (0..branches).fold(Parallel::new("wide"), |parallel, number| parallel.step(branch(number)));
    let definition = Arc::new(Definition::builder("wide").step(parallel).build().expect("the workloads are sound"));
    let engine = start("branches.db", std::slice::from_ref(&definition)).await;
    // What only the first run needs is there already.
    let first = submit(&engine, &definition.id, Value::from("first")).await;
    gate.open(branches);
    first.wait().await.expect("the store works");
    let base = rss_bytes();
    let mut handles = Vec::with_capacity(runs);
    for number in 0..runs {
        handles.push(submit(&engine, &definition.id, Value::from(format!("run {number}"))).await);
    }
    gate.are_at((runs + 1) * branches).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = rss_bytes();
    gate.open(runs * branches);
    for run in handles {
        assert_eq!(run.wait().await.expect("the store works").status, RunStatus::Completed);
    }
    report(&json!({
        "workload": "G3",
        "runs": runs,
        "branches": branches,
        "rss_bytes_per_branch": held.saturating_sub(base) / (runs * branches) as u64,
    }));
    engine.shutdown().await.expect("the store works");
}

/// One agent that calls a tool in each of its turns: what a turn takes, in time and in the log, early and late.
pub(crate) async fn turns(arguments: &Arguments) {
    let turns = arguments.number("turns", 500);
    let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let times = asked.clone();
    let model = ScriptedModel::from_fn("m", move |_| {
        let mut times = times.lock().expect("nobody panics while counting");
        times.push(Instant::now());
        Ok(match times.len() {
            turn if turn > turns => ModelResponse::text("That is all."),
            turn => {
                let arguments = json!({ "topic": format!("topic {turn:06}") }).to_string();
                ModelResponse::calls(vec![ToolCall::new(format!("c{turn:06}"), "search", arguments)])
            }
        })
    });
    let search =
        Tool::new("search", "Looks something up.", |topic: HashMap<String, String>, _: ToolContext| async move {
            Ok::<_, std::convert::Infallible>(format!("{:?}: {}", topic.get("topic"), "found ".repeat(30)))
        });
    let agent = Agent::new("Searcher").model(model).tool(search).turns_max(u32::MAX);
    let step = Step::new("search").agent(agent);
    let definition = Arc::new(Definition::builder("loop").step(step).build().expect("the workloads are sound"));
    let engine = start("turns.db", std::slice::from_ref(&definition)).await;
    let (early, late) = (turns / 10, turns);
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..arguments.number("rounds", 5) {
        let run = submit(&engine, &definition.id, Value::from("Search on.")).await;
        let ended = run.wait().await.expect("the store works");
        assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Completed, "That is all."));
        let asked = std::mem::take(&mut *asked.lock().expect("nobody panics while counting"));
        // Each of the ten turns that end with this one: one alone may meet whatever else the machine does.
        for (taken, turn) in took.iter_mut().zip([early, late]) {
            taken.extend((turn - 10..turn).map(|turn| asked[turn + 1] - asked[turn]));
        }
    }
    engine.shutdown().await.expect("the store works");
    drop(engine);
    let log = turn_bytes(&folder().join("turns.db"));
    assert_eq!(log.len(), turns + 1);
    let [early_ms, late_ms] = took.map(|mut taken| latencies(&mut taken)["p50_ms"].clone());
    let bytes = |turns: std::ops::Range<usize>| log[turns].iter().sum::<usize>();
    report(&json!({
        "workload": "G4",
        "turns": turns,
        "early_ms": early_ms,
        "late_ms": late_ms,
        "early_log_bytes": bytes(early..early * 2),
        "late_log_bytes": bytes(late - early..late),
    }));
}

/// Bytes in the log of the first run from one model request to the next.
fn turn_bytes(path: &Path) -> Vec<usize> {
    let sql = rusqlite::Connection::open(path).expect("the store is there");
    let query = "SELECT body FROM outlive_sessions_run_events WHERE run_seq = 1 ORDER BY first_index";
    let mut statement = sql.prepare(query).expect("the table is there");
    let bodies = statement.query_map([], |row| row.get::<_, String>(0)).expect("it can be read");
    let log: String = bodies.map(|body| body.expect("it is text")).collect();
    let mut turns = Vec::new();
    for line in log.lines() {
        if line.contains("ModelRequestStarted") {
            turns.push(0);
        }
        if let Some(turn) = turns.last_mut() {
            *turn += line.len() + 1;
        }
    }
    turns
}

/// Where steps wait until they are let through.
#[derive(Clone)]
struct Gate {
    permits: Arc<Semaphore>,
    came: Arc<AtomicUsize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(0)), came: Arc::default() }
    }
}

impl Gate {
    /// A step that waits here.
    fn step(&self, name: String) -> Step {
        let gate = self.clone();
        Step::function(name, move |_, _: Arc<StepInput>| {
            let gate = gate.clone();
            async move {
                gate.came.fetch_add(1, Ordering::Relaxed);
                gate.permits.acquire().await.expect("it is not closed").forget();
                Ok::<_, Failure>("over")
            }
        })
    }

    /// Waits until so many steps have come, those let through included.
    async fn are_at(&self, steps: usize) {
        while self.came.load(Ordering::Relaxed) < steps {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn open(&self, steps: usize) {
        self.permits.add_permits(steps);
    }
}

async fn start(file: &str, definitions: &[Arc<Definition>]) -> Engine {
    let builder = Engine::builder(Arc::new(SqliteDb::new(folder().join(file))));
    let builder = definitions.iter().cloned().fold(builder, outlive::engine::EngineBuilder::workflow);
    builder.start().await.expect("the store opens")
}

async fn submit(engine: &Engine, id: &DefinitionId, input: Value) -> RunHandle {
    let submit = Submit { input: Some(input), ..Submit::default() };
    engine.submit(id, submit).await.expect("it is accepted")
}
