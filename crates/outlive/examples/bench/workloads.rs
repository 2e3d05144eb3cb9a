//! The workloads, on one engine over one file.

use crate::measure::{Arguments, cpu, folder, latencies, report, rounded, rss_bytes};
use crate::raw::Raw;
use futures::StreamExt;
use outlive::core::{Definition, DefinitionId};
use outlive::engine::Submit;
use outlive::prelude::*;
use outlive::{Options, RunId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const PAYLOAD_BYTES: usize = 200;

pub(crate) async fn run(arguments: &Arguments) {
    let bench = Bench::start().await;
    let figures = match arguments.workload.as_str() {
        "W1" => bench.throughput(arguments).await,
        "W2" => bench.submit_latency(arguments).await,
        "W3" => bench.poll_latency(arguments).await,
        "W4" => bench.waiting_runs(arguments).await,
        "W5" => bench.events(arguments).await,
        "W6a" => bench.runs_to_be_killed(arguments).await,
        "W6b" => bench.recovery(arguments).await,
        "W7" => bench.cold_start().await,
        "W8" => bench.pinned_log(arguments).await,
        other => panic!("no workload {other:?}; there are W1 to W5, W6a, W6b, W7, W8, raw and table"),
    };
    let mut line = figures;
    line["peer"] = json!("outlive");
    line["workload"] = json!(arguments.workload);
    report(&line);
    // What is in flight may be dropped: nothing is measured after this line.
    std::process::exit(0);
}

/// Warnings of this process.
static WARNED: AtomicU64 = AtomicU64::new(0);

/// Counts log lines and passes them on.
struct Warnings;

impl Write for Warnings {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        WARNED.fetch_add(1, Ordering::Relaxed);
        std::io::stderr().write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

struct Bench {
    engine: Engine,
}

fn workflow(name: &str, steps: impl IntoIterator<Item = Step>) -> Arc<Definition> {
    let builder = steps.into_iter().fold(Definition::builder(name), |builder, step| builder.step(step));
    Arc::new(builder.build().expect("the workloads are sound"))
}

fn sleeping(seconds: u64) -> Step {
    Step::function("sleep", move |_, input: Arc<StepInput>| async move {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok::<_, Failure>(input.text())
    })
}

fn no_op(name: &str) -> Step {
    Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) })
}

/// A half-second step that writes down when it starts and ends.
fn logged(number: u32) -> Step {
    Step::function(format!("s{number}"), move |_, input: Arc<StepInput>| async move {
        let text = input.text();
        note(&format!("start {text}/{number}"));
        tokio::time::sleep(Duration::from_millis(500)).await;
        note(&format!("end {text}/{number}"));
        Ok::<_, Failure>(text)
    })
}

fn note(line: &str) {
    static LOG: Mutex<Option<std::fs::File>> = Mutex::new(None);
    let Some(path) = std::env::var_os("STEP_LOG") else { return };
    let mut log = LOG.lock().expect("nobody panics while writing");
    let file = log.get_or_insert_with(|| {
        std::fs::OpenOptions::new().create(true).append(true).open(path).expect("STEP_LOG can be written")
    });
    file.write_all(format!("{line}\n").as_bytes()).expect("STEP_LOG can be written");
}

/// A step that tells `n` events: as fast as the log takes them, or one every two milliseconds with the time in it.
fn telling() -> Step {
    Step::function("tell", |context, input: Arc<StepInput>| async move {
        let asked: Value = serde_json::from_str(&input.text())?;
        let count = asked["n"].as_u64().unwrap_or(0);
        for n in 0..count {
            if asked["paced"] == true {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            context.progress(n.to_string(), Some(json!({ "told_at": micros() })));
            if n % 256 == 255 && context.effects.durable().await.is_err() {
                break;
            }
        }
        Ok::<_, Failure>("told")
    })
}

/// Microseconds since this process began to ask.
fn micros() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Bench {
    async fn start() -> Self {
        let db = SqliteDb::new(folder().join("bench.db"));
        let definitions = [
            workflow("noop3", [no_op("s1"), no_op("s2"), no_op("s3")]),
            workflow("sleep1", [sleeping(1)]),
            workflow("sleep10", [sleeping(10)]),
            workflow("sleep20", [sleeping(20)]),
            workflow("rec3", [logged(1), logged(2), logged(3)]),
            workflow("tell", [telling()]),
        ];
        let builder = Engine::builder(Arc::new(db)).options(Options { runs_max: 200_000, ..Options::default() });
        let builder = definitions.into_iter().fold(builder, outlive::engine::EngineBuilder::workflow);
        Self { engine: builder.start().await.expect("the store opens") }
    }

    async fn submit(&self, workflow: &str, input: String) -> RunHandle {
        let id = DefinitionId::parse(workflow).expect("the workloads' names are ids");
        let submit = Submit { input: Some(Value::String(input)), ..Submit::default() };
        self.engine.submit(&id, submit).await.expect("the run is accepted")
    }

    /// Submits `n` runs from `clients` callers at once; gives the handles and each submit's latency.
    async fn submit_all(&self, workflow: &'static str, n: usize, clients: usize) -> (Vec<RunHandle>, Vec<Duration>) {
        let gate = Arc::new(Semaphore::new(clients));
        let mut tasks = Vec::with_capacity(n);
        for number in 0..n {
            let (gate, bench) = (gate.clone(), Bench { engine: self.engine.clone() });
            let input = if workflow == "rec3" { format!("r{number}") } else { payload() };
            tasks.push(tokio::spawn(async move {
                let _turn = gate.acquire_owned().await;
                let start = Instant::now();
                (bench.submit(workflow, input).await, start.elapsed())
            }));
        }
        let mut submitted = (Vec::with_capacity(n), Vec::with_capacity(n));
        for task in tasks {
            let (handle, latency) = task.await.expect("submitting does not panic");
            submitted.0.push(handle);
            submitted.1.push(latency);
        }
        submitted
    }

    async fn throughput(&self, arguments: &Arguments) -> Value {
        let n = arguments.number("n", 20_000);
        wait(self.submit_all("noop3", 100, 100).await.0).await;
        let (cpu_before, start) = (cpu(), Instant::now());
        let (handles, _) = self.submit_all("noop3", n, arguments.number("clients", 100_000)).await;
        let accepted = start.elapsed();
        wait(handles).await;
        let wall = start.elapsed();
        json!({
            "n": n,
            "runs_per_s": rounded(n as f64 / wall.as_secs_f64()),
            "wall_s": rounded(wall.as_secs_f64()),
            "accept_per_s": rounded(n as f64 / accepted.as_secs_f64()),
            "cpu_ms_per_run": rounded((cpu() - cpu_before).as_secs_f64() * 1e3 / n as f64),
            // WorkflowStarted, three times StepStarted, StepOutput, StepCompleted, WorkflowCompleted.
            "entries_per_s": rounded(11.0 * n as f64 / wall.as_secs_f64()),
        })
    }

    async fn submit_latency(&self, arguments: &Arguments) -> Value {
        let (mut idle, mut paced, mut idle_raw) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.number("n", 100) {
            let start = Instant::now();
            let handle = self.submit("noop3", payload()).await;
            idle.push(start.elapsed());
            wait(vec![handle]).await;
        }
        let mut raw = Raw::new("raw-beside.db");
        raw.fill_log();
        for _ in 0..arguments.number("n", 100) {
            let start = Instant::now();
            let handle = self.submit("noop3", payload()).await;
            paced.push(start.elapsed());
            wait(vec![handle]).await;
            // At the same pace, so that disk and processors are as warm for it as for a submit.
            idle_raw.push(raw.commit(1));
        }
        let load = arguments.number("load", 1000);
        let start = Instant::now();
        let (mut handles, _) = self.submit_all("sleep20", load, 100_000).await;
        let accepted = start.elapsed();
        let mut held = Vec::new();
        for _ in 0..100 {
            let start = Instant::now();
            handles.push(self.submit("noop3", payload()).await);
            held.push(start.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        wait(handles).await;
        let bench = Bench { engine: self.engine.clone() };
        let burst = tokio::spawn(async move { bench.submit_all("sleep1", load, 100_000).await });
        let (mut probes, mut probed) = (Vec::new(), Vec::new());
        while probes.len() < 50 || (probes.len() < 200 && !burst.is_finished()) {
            let start = Instant::now();
            probed.push(self.submit("noop3", payload()).await);
            probes.push(start.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (handles, mut each) = burst.await.expect("submitting does not panic");
        wait(handles).await;
        wait(probed).await;
        json!({
            "idle": latencies(&mut idle),
            "paced": latencies(&mut paced),
            "idle_raw": latencies(&mut idle_raw),
            "held1000": latencies(&mut held),
            "accept1000_s": rounded(accepted.as_secs_f64()),
            "burst1000_probe": latencies(&mut probes),
            "burst1000_each": latencies(&mut each),
        })
    }

    /// A submit every ten milliseconds, for a while without and for a while with a reader that keeps its transaction open.
    async fn pinned_log(&self, arguments: &Arguments) -> Value {
        let time = Duration::from_secs(arguments.number("seconds", 60) as u64);
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(|| Warnings).init();
        let mut free = self.paced_submits(time).await;
        let reader = rusqlite::Connection::open(folder().join("bench.db")).expect("the store is there");
        let query = "SELECT count(*) FROM outlive_sessions_runs";
        reader.execute_batch("BEGIN").expect("nobody is asked");
        let _: i64 = reader.query_row(query, [], |row| row.get(0)).expect("the table is there");
        let mut held = self.paced_submits(time).await;
        let health = self.engine.db().health();
        let (free, held) = (latencies(&mut free), latencies(&mut held));
        let p99 = |figures: &Value| figures["p99_ms"].as_f64().unwrap_or(f64::NAN);
        json!({
            "seconds": time.as_secs(),
            "ratio": rounded(p99(&held) / p99(&free)),
            "free": free,
            "held": held,
            "log_mib": rounded(health.log_bytes.unwrap_or(0) as f64 / f64::from(1 << 20)),
            "warnings": WARNED.load(Ordering::Relaxed),
        })
    }

    async fn paced_submits(&self, time: Duration) -> Vec<Duration> {
        let (begun, mut latencies, mut handles) = (Instant::now(), Vec::new(), Vec::new());
        while begun.elapsed() < time {
            let start = Instant::now();
            handles.push(self.submit("noop3", payload()).await);
            latencies.push(start.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        wait(handles).await;
        latencies
    }

    async fn poll_latency(&self, arguments: &Arguments) -> Value {
        let mut figures = json!({});
        let mut finished = 0;
        let mut last: Option<RunId> = None;
        for past in arguments.numbers("past", "1,100,1000") {
            let start = Instant::now();
            let (handles, _) = self.submit_all("noop3", past - finished, 100_000).await;
            last = handles.last().map(|handle| handle.run_id().clone()).or(last);
            wait(handles).await;
            finished = past;
            let fill = start.elapsed();
            let run_id = last.as_ref().expect("there is at least one run");
            let mut samples = Vec::new();
            for _ in 0..1000 {
                let start = Instant::now();
                let found = self.engine.get_run(run_id).await.expect("the store works").expect("the run exists");
                samples.push(start.elapsed());
                assert!(found.has_completed());
            }
            figures[past.to_string()] = latencies(&mut samples);
            figures[past.to_string()]["fill_s"] = json!(rounded(fill.as_secs_f64()));
        }
        figures
    }

    async fn waiting_runs(&self, arguments: &Arguments) -> Value {
        let n = arguments.number("n", 10_000);
        wait(vec![self.submit("noop3", payload()).await]).await;
        let base = rss_bytes();
        let peak = Arc::new(AtomicU64::new(base));
        let seen = peak.clone();
        tokio::spawn(async move {
            loop {
                seen.fetch_max(rss_bytes(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let start = Instant::now();
        let handles = match arguments.number("callers", 0) {
            0 => self.submit_all("sleep10", n, 100_000).await.0,
            callers => {
                let submits = futures::stream::iter(0..n).map(|_| self.submit("sleep10", payload()));
                submits.buffered(callers).collect().await
            }
        };
        let accepted = start.elapsed();
        wait(handles).await;
        let wall = start.elapsed();
        let peak = peak.load(Ordering::Relaxed);
        let mib = |bytes: u64| rounded(bytes as f64 / 1_048_576.0);
        json!({
            "n": n,
            "wall_s": rounded(wall.as_secs_f64()),
            "over_ideal_s": rounded(wall.as_secs_f64() - 10.0),
            "accept_s": rounded(accepted.as_secs_f64()),
            "rss_base_mb": mib(base),
            "rss_peak_mb": mib(peak),
            "rss_bytes_per_run": (peak - base) / n.max(1) as u64,
        })
    }

    async fn events(&self, arguments: &Arguments) -> Value {
        let n = arguments.number("n", 40_000) as u64;
        let start = Instant::now();
        let (told, _) = self.follow(json!({ "n": n })).await;
        let rate = told as f64 / start.elapsed().as_secs_f64();
        let (_, mut latency) = self.follow(json!({ "n": 1000, "paced": true })).await;
        json!({ "n": n, "events_per_s": rounded(rate), "latency": latencies(&mut latency) })
    }

    /// Follows one run of `tell` to its end: how many events came, and how late each was.
    async fn follow(&self, ask: Value) -> (u64, Vec<Duration>) {
        let handle = self.submit("tell", ask.to_string()).await;
        let mut events = handle.events(None);
        let (mut told, mut late) = (0, Vec::new());
        while let Some(event) = events.next().await.expect("the log can be read") {
            told += 1;
            if let outlive::core::EventKind::StepProgress { data: Some(data), .. } = &event.kind {
                let told_at = data["told_at"].as_u64().unwrap_or_default();
                late.push(Duration::from_micros(micros().saturating_sub(told_at)));
            }
        }
        (told, late)
    }

    async fn runs_to_be_killed(&self, arguments: &Arguments) -> Value {
        let (handles, _) = self.submit_all("rec3", arguments.number("n", 200), 100_000).await;
        let ids: Vec<_> = handles.iter().map(|handle| handle.run_id().to_string()).collect();
        report(&json!({ "ids": ids }));
        wait(handles).await;
        json!({ "unexpected": "finished before it was killed" })
    }

    async fn recovery(&self, arguments: &Arguments) -> Value {
        let text = std::fs::read_to_string(arguments.text("ids").expect("--ids names a file")).expect("it can be read");
        let listed: Value = serde_json::from_str(&text).expect("it is JSON");
        let ids: Vec<RunId> = listed["ids"].as_array().expect("it lists ids").iter().map(run_id).collect();
        let limit = Duration::from_secs(arguments.number("limit", 40) as u64);
        let start = Instant::now();
        let (mut done, mut last_done, mut first_progress) = (0, Duration::ZERO, None);
        let before = self.entries(&ids).await;
        loop {
            let mut states: BTreeMap<String, usize> = BTreeMap::new();
            for id in &ids {
                let found = self.engine.get_run(id).await.expect("the store works");
                let status = found.map_or_else(|| "MISSING".to_owned(), |run| run.status.to_string());
                *states.entry(status).or_default() += 1;
            }
            if first_progress.is_none() && self.entries(&ids).await > before {
                first_progress = Some(start.elapsed());
            }
            let completed = states.get("COMPLETED").copied().unwrap_or(0);
            if completed != done {
                (done, last_done) = (completed, start.elapsed());
            }
            if done == ids.len() || start.elapsed() > limit {
                return json!({
                    "completed": done,
                    "of": ids.len(),
                    "t_last_done_s": rounded(last_done.as_secs_f64()),
                    "t_first_progress_s": first_progress.map(|t| rounded(t.as_secs_f64())),
                    "states": states,
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Entries in the logs of these runs.
    async fn entries(&self, ids: &[RunId]) -> u64 {
        let mut entries = 0;
        for id in ids {
            entries += self.engine.standing(id).await.expect("the store works").map_or(0, |run| run.next_index);
        }
        entries
    }

    async fn cold_start(&self) -> Value {
        let handle = self.submit("noop3", payload()).await;
        report(&json!({ "accepted": true }));
        wait(vec![handle]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        json!({ "rss_idle_mb": rounded(rss_bytes() as f64 / 1_048_576.0) })
    }
}

fn run_id(text: &Value) -> RunId {
    RunId::parse(text.as_str().unwrap_or_default()).expect("the file lists run ids")
}

fn payload() -> String {
    "x".repeat(PAYLOAD_BYTES)
}

async fn wait(handles: Vec<RunHandle>) {
    for handle in handles {
        let run = handle.await.expect("the store works");
        assert_eq!(run.status, RunStatus::Completed);
    }
}
