//! AgentOS and our server on one machine, in turn: the same workflows, the same client, SQLite files at each one's own
//! default durability. AgentOS is in `agentos.py`.
//!
//! Must never know which side it measures but to start it: what is asked, and how often, is the same for both. The
//! invariant: only one side works at a time, and no process outlives the figure it was started for.

use crate::measure::{Arguments, cpu_of, folder, latencies, report, rounded, rss_bytes_of};
use futures::StreamExt;
use outlive::prelude::*;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::sleep;

/// Submits under way at once, each on a connection of its own.
const CONNECTIONS: usize = 64;
const PAYLOAD_BYTES: usize = 200;
/// Longer than any figure waits for anything.
const PATIENCE: Duration = Duration::from_secs(600);
/// What a restarted server may take to finish what a `kill -9` interrupted.
const RECOVERY: Duration = Duration::from_secs(15);

const AGNO: &str = "3.1.10";
/// What AgentOS needs, from the Python package index, with the faster event loop and parser for its web server.
const PACKAGES: &[&str] =
    &["agno==3.1.10", "fastapi", "greenlet", "python-multipart", "sqlalchemy", "uvicorn[standard]"];
const VENV: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/agno-clients/venv");
const AGENTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bench/agentos.py");

/// Our side: the workflows of `agentos.py`, at PORT, until it is killed.
pub(crate) async fn serve() {
    let no_op =
        |name: &str| Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) });
    let wait = Step::function("wait", |_, input: Arc<StepInput>| async move {
        let seconds: f64 = input.text().parse()?;
        sleep(Duration::from_secs_f64(seconds)).await;
        Ok::<_, Failure>(input.text())
    });
    let workflows = [
        Workflow::builder("noop3").steps(["s1", "s2", "s3"].map(no_op)),
        Workflow::builder("wait").step(wait),
        Workflow::builder("slow3").steps([1, 2, 3].map(slow)),
    ];
    let db = SqliteDb::new(folder().join("outlive.db"));
    let server = workflows.into_iter().fold(outlive::Server::builder(db.clone()), |server, workflow| {
        server.workflow(&workflow.db(db.clone()).build().expect("the workflows are sound"))
    });
    let port = std::env::var("PORT").expect("PORT says where to serve");
    let server = server.start().await.expect("the store opens");
    server.serve(&format!("127.0.0.1:{port}")).await.expect("it serves");
}

/// Half a second, written down when it starts and when it ends.
fn slow(number: u32) -> Step {
    Step::function(format!("s{number}"), move |_, input: Arc<StepInput>| async move {
        note(&format!("start {}/{number}", input.text()));
        sleep(Duration::from_millis(500)).await;
        note(&format!("end {}/{number}", input.text()));
        Ok::<_, Failure>(input.text())
    })
}

fn note(line: &str) {
    use std::io::Write;
    let path = std::env::var_os("STEP_LOG").expect("STEP_LOG names a file");
    let mut log = File::options().create(true).append(true).open(path).expect("STEP_LOG can be written");
    log.write_all(format!("{line}\n").as_bytes()).expect("STEP_LOG can be written");
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    AgentOs,
    Outlive,
}

impl Side {
    const BOTH: [Self; 2] = [Self::AgentOs, Self::Outlive];

    fn name(self) -> &'static str {
        match self {
            Self::AgentOs => "AgentOS",
            Self::Outlive => "outlive",
        }
    }

    /// Its server, not yet started.
    fn command(self, python: &Path) -> Command {
        match self {
            Self::AgentOs => {
                let mut command = Command::new(python);
                // By default 32 background runs execute at once and others wait; ours has no such queue.
                command.arg(AGENTOS).env("AGNO_TELEMETRY", "false").env("AGNO_BACKGROUND_MAX_CONCURRENCY", "0");
                // It would ask for this key.
                command.env_remove("OS_SECURITY_KEY");
                command
            }
            Self::Outlive => {
                let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
                command.arg("beside-serve");
                command
            }
        }
    }
}

/// One side's server process, and the client's connections to it.
struct Served {
    child: Child,
    base: String,
    start: Instant,
    client: reqwest::Client,
    folder: Arc<TempDir>,
}

#[derive(Clone)]
struct Run {
    workflow: &'static str,
    run_id: String,
    session_id: String,
}

impl Served {
    /// Starts a server with its data in this folder. It may not listen yet.
    fn start(side: Side, python: &Path, folder: Arc<TempDir>) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a port is free").port();
        let log = File::options().create(true).append(true).open(folder.path().join("server.log"));
        let log = log.expect("the folder can be written");
        let mut command = side.command(python);
        command.env("PORT", port.to_string()).env("PEER_DIR", folder.path()).env("STEP_LOG", step_log(&folder));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("the client is sound");
        let start = Instant::now();
        let child = command.spawn().expect("the server starts");
        Self { child, base: format!("http://127.0.0.1:{port}"), start, client, folder }
    }

    /// The same on an empty folder, once it answers and every connection has been used.
    async fn warm(side: Side, python: &Path) -> Self {
        let mut served = Self::start(side, python, empty());
        served.answers().await;
        let (runs, _) = served.submit_all("noop3", CONNECTIONS, |_| payload()).await;
        served.ended(&runs).await;
        served
    }

    async fn answers(&mut self) {
        while self.client.get(format!("{}/health", self.base)).send().await.is_err() {
            self.check();
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// That the server is there at all, and that this does not last for ever.
    fn check(&mut self) {
        let is_over = self.child.try_wait().expect("it can be asked for").is_some();
        if is_over || self.start.elapsed() > PATIENCE {
            let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
            panic!("the server does not answer; it said: {log}");
        }
    }

    /// Starts a run; `Err` is what the server or the connection says against it.
    async fn post(&self, workflow: &'static str, input: &str, session_id: String, mode: &str) -> Result<Run, String> {
        let form = format!("message={input}&stream=false&{mode}&session_id={session_id}");
        let request = self.client.post(format!("{}/workflows/{workflow}/runs", self.base)).body(form);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.send().await.map_err(|e| e.to_string())?;
        let is_accepted = answer.status().is_success();
        let text = answer.text().await.map_err(|e| e.to_string())?;
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        match body["run_id"].as_str() {
            Some(run_id) if is_accepted => Ok(Run { workflow, run_id: run_id.to_owned(), session_id }),
            _ => Err(text),
        }
    }

    /// Submits `n` background runs, each in a session of its own; those accepted, and how many were refused.
    async fn submit_all(&self, workflow: &'static str, n: usize, input: impl Fn(usize) -> String) -> (Vec<Run>, usize) {
        let submits = futures::stream::iter(0..n).map(|number| {
            let (input, session_id) = (input(number), format!("{workflow}-{number}-of-{n}"));
            async move { self.post(workflow, &input, session_id, "background=true").await }
        });
        let answers: Vec<_> = submits.buffer_unordered(CONNECTIONS).collect().await;
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        (answers.into_iter().flatten().collect(), refused)
    }

    /// What a poll says of a run.
    async fn status(&self, run: &Run) -> String {
        let Run { workflow, run_id, session_id } = run;
        let url = format!("{}/workflows/{workflow}/runs/{run_id}?session_id={session_id}", self.base);
        let read = async { self.client.get(url).send().await?.bytes().await };
        let body: Value = read.await.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        body["status"].as_str().unwrap_or("no answer").to_owned()
    }

    /// Waits for the end of all. Polls are load too: there are few, and the run accepted last is asked for first.
    async fn ended(&self, runs: &[Run]) -> Ended {
        let begun = Instant::now();
        let mut ended = Ended { at: begun, cpu: self.cpu(), completed: 0 };
        for run in runs.iter().rev() {
            let mut status = self.status(run).await;
            while matches!(status.as_str(), "PENDING" | "RUNNING") {
                assert!(begun.elapsed() < PATIENCE, "a run of {} does not end", run.workflow);
                sleep((begun.elapsed() / 50).max(Duration::from_millis(2))).await;
                status = self.status(run).await;
                (ended.at, ended.cpu) = (Instant::now(), self.cpu());
            }
            ended.completed += usize::from(status == "COMPLETED");
        }
        ended
    }

    fn cpu(&self) -> Duration {
        cpu_of(self.child.id())
    }

    fn rss_bytes(&self) -> u64 {
        rss_bytes_of(self.child.id())
    }

    fn steps(&self) -> String {
        std::fs::read_to_string(step_log(&self.folder)).unwrap_or_default()
    }
}

/// The end of many runs.
struct Ended {
    /// When the last of those that had to be waited for was seen to be over.
    at: Instant,
    /// The server's CPU time then.
    cpu: Duration,
    completed: usize,
}

impl Drop for Served {
    fn drop(&mut self) {
        // SIGKILL. It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn empty() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir_in(folder()).expect("the folder can be written"))
}

fn step_log(folder: &TempDir) -> PathBuf {
    folder.path().join("steps.log")
}

fn payload() -> String {
    "x".repeat(PAYLOAD_BYTES)
}

/// Runs that do nothing, submitted as fast as they are accepted.
async fn throughput(served: &Served, arguments: &Arguments) -> Value {
    let n = arguments.number("n", 1000);
    let (begun, cpu) = (Instant::now(), served.cpu());
    let (runs, refused) = served.submit_all("noop3", n, |_| payload()).await;
    let accepted = begun.elapsed();
    let ended = served.ended(&runs).await;
    json!({
        "n": n,
        "refused": refused,
        "completed": ended.completed,
        "submits_per_s": rounded(runs.len() as f64 / accepted.as_secs_f64()),
        "runs_per_s": rounded(ended.completed as f64 / (ended.at - begun).as_secs_f64()),
        "cpu_ms_per_run": rounded((ended.cpu - cpu).as_secs_f64() * 1e3 / n as f64),
    })
}

/// Runs that sleep in a step. They are not waited for.
async fn memory(served: &Served, arguments: &Arguments) -> Value {
    let (n, seconds) = (arguments.number("waiting", 1000), arguments.number("waiting-s", 60));
    let settle = Duration::from_secs(1);
    sleep(settle).await;
    let before = served.rss_bytes();
    let begun = Instant::now();
    let (runs, refused) = served.submit_all("wait", n, |_| seconds.to_string()).await;
    let accepted = begun.elapsed();
    sleep(settle).await;
    let grown = served.rss_bytes().saturating_sub(before);
    let mut is_in_flight = refused == 0;
    for run in runs.first().into_iter().chain(runs.last()) {
        is_in_flight &= served.status(run).await == "RUNNING";
    }
    // With the first of them over, or some still in a queue, this would be the memory of something else.
    let per_run = is_in_flight.then(|| grown / n.max(1) as u64);
    json!({
        "n": n,
        "refused": refused,
        "accept_s": rounded(accepted.as_secs_f64()),
        "all_in_flight": is_in_flight,
        "rss_before_mib": rounded(before as f64 / 1_048_576.0),
        "rss_bytes_per_run": per_run,
    })
}

/// From the start of the process to the answer to the first submit.
async fn cold_start(side: Side, python: &Path) -> Value {
    let mut served = Served::start(side, python, empty());
    while served.post("noop3", &payload(), "first".to_owned(), "background=true").await.is_err() {
        served.check();
        sleep(Duration::from_millis(1)).await;
    }
    json!({ "accepted_ms": rounded(served.start.elapsed().as_secs_f64() * 1e3) })
}

/// Runs of three half-second steps, killed in their midst; a second process has [`RECOVERY`] to finish them.
async fn killed(side: Side, python: &Path, arguments: &Arguments) -> Value {
    let n = arguments.number("killed", 50);
    let mut served = Served::start(side, python, empty());
    served.answers().await;
    let (runs, refused) = served.submit_all("slow3", n, |number| format!("r{number}")).await;
    // A third of the steps have ended, the next are under way.
    while count(&served.steps(), "end ", "") < runs.len() {
        served.check();
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_millis(200)).await;
    let folder = served.folder.clone();
    drop(served);
    let before = std::fs::read_to_string(step_log(&folder)).unwrap_or_default();
    let served = Served::start(side, python, folder);
    let mut completed = 0;
    let mut open = runs.clone();
    while !open.is_empty() && served.start.elapsed() < RECOVERY {
        let mut left = Vec::new();
        for run in open {
            match served.status(&run).await.as_str() {
                "COMPLETED" => completed += 1,
                _ => left.push(run),
            }
        }
        open = left;
        sleep(Duration::from_millis(50)).await;
    }
    let last_s = open.is_empty().then(|| rounded(served.start.elapsed().as_secs_f64()));
    let all = served.steps();
    let after = all.get(before.len()..).unwrap_or_default();
    let ended: Vec<_> = before.lines().filter_map(|line| line.strip_prefix("end ")).collect();
    let again = after.lines().filter_map(|line| line.strip_prefix("start ")).filter(|step| ended.contains(step));
    json!({
        "n": n,
        "refused": refused,
        "completed_before_kill": count(&before, "end ", "/3"),
        "steps_ended_before_kill": ended.len(),
        "completed_after_kill": completed,
        "stuck": open.len(),
        "steps_repeated": again.count(),
        "all_completed_s": last_s,
    })
}

fn count(log: &str, beginning: &str, end: &str) -> usize {
    log.lines().filter(|line| line.starts_with(beginning) && line.ends_with(end)).count()
}

/// Polls of the newest run of a session, by the number of its past runs. A history is made once for each side, by real
/// runs one after the other; then the sides are polled in turn.
async fn polls(python: &Path, arguments: &Arguments, figures: &mut Figures) {
    let samples = arguments.number("polls", 200);
    let mut sides = Vec::new();
    for side in Side::BOTH {
        sides.push((side, Served::warm(side, python).await, Vec::new()));
    }
    for past in arguments.numbers("past", "1,1000") {
        for (side, served, runs) in &mut sides {
            let begun = Instant::now();
            while runs.len() < past {
                let run = served.post("noop3", &payload(), "history".to_owned(), "background=false").await;
                runs.push(run.expect("it runs to its end"));
            }
            let fill = rounded(begun.elapsed().as_secs_f64());
            report(&json!({ "figures": "history", "side": side.name(), "past": past, "fill_s": fill }));
        }
        for round in 0..arguments.number("rounds", 3) {
            for (side, served, runs) in &sides {
                let run: &Run = runs.last().expect("there is at least one run");
                let mut waits = Vec::with_capacity(samples);
                for _ in 0..samples {
                    let begun = Instant::now();
                    assert_eq!(served.status(run).await, "COMPLETED");
                    waits.push(begun.elapsed());
                }
                let found = latencies(&mut waits);
                let named = |share: &str| format!("past{past}_{share}");
                let line = json!({ (named("p50_ms")): found["p50_ms"], (named("p99_ms")): found["p99_ms"] });
                figures.add("polls", *side, round, line);
            }
        }
    }
}

/// Every line reported so far.
#[derive(Default)]
struct Figures(Vec<(Side, Value)>);

impl Figures {
    fn add(&mut self, name: &str, side: Side, round: usize, mut line: Value) {
        line["figures"] = json!(name);
        line["side"] = json!(side.name());
        line["round"] = json!(round);
        report(&line);
        self.0.push((side, line));
    }

    /// The median over the rounds; `None` when no round has it.
    fn median(&self, side: Side, key: &str) -> Option<f64> {
        let lines = self.0.iter().filter(|(of, _)| *of == side);
        let mut found: Vec<f64> = lines.filter_map(|(_, line)| line[key].as_f64()).collect();
        found.sort_by(f64::total_cmp);
        found.get(found.len() / 2).copied()
    }

    #[expect(clippy::print_stdout, reason = "the table is this program's output")]
    fn print(&self, arguments: &Arguments) {
        println!("| figure | AgentOS | outlive | ratio |\n| --- | --- | --- | --- |");
        for Row { figure, key, better } in rows(arguments) {
            let [theirs, ours] = Side::BOTH.map(|side| self.median(side, &key));
            let ratio = match better {
                Better::More => quotient(ours, theirs),
                Better::Less => quotient(theirs, ours),
                Better::Neither => None,
            };
            let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{} ×", shown(Some(ratio))));
            println!("| {figure} | {} | {} | {ratio} |", shown(theirs), shown(ours));
        }
    }
}

/// A line of the table.
struct Row {
    figure: String,
    key: String,
    better: Better,
}

/// Which way round the ratio is: above 1 it speaks for us.
enum Better {
    More,
    Less,
    /// A count, which may be zero.
    Neither,
}

fn rows(arguments: &Arguments) -> Vec<Row> {
    let row = |figure: String, key: &str, better| Row { figure, key: key.to_owned(), better };
    let mut rows = vec![
        row(format!("submits/s, {CONNECTIONS} connections"), "submits_per_s", Better::More),
        row("runs/s, three no-op steps".into(), "runs_per_s", Better::More),
        row("server's CPU per run, ms".into(), "cpu_ms_per_run", Better::Less),
        row("memory per in-flight run, B".into(), "rss_bytes_per_run", Better::Less),
        row("memory before them, MiB".into(), "rss_before_mib", Better::Less),
    ];
    for past in arguments.numbers("past", "1,1000") {
        for share in ["p50", "p99"] {
            let noun = if past == 1 { "past run" } else { "past runs" };
            rows.push(row(
                format!("poll, {past} {noun}, {share}, ms"),
                &format!("past{past}_{share}_ms"),
                Better::Less,
            ));
        }
    }
    let killed = arguments.number("killed", 50);
    let seconds = RECOVERY.as_secs();
    rows.extend([
        row("process start to first accepted run, ms".into(), "accepted_ms", Better::Less),
        row(
            format!("`kill -9` amid {killed} runs: completed {seconds} s later"),
            "completed_after_kill",
            Better::Neither,
        ),
        row("– of them before the kill".into(), "completed_before_kill", Better::Neither),
        row("– stuck".into(), "stuck", Better::Neither),
        row("– steps finished before the kill".into(), "steps_ended_before_kill", Better::Neither),
        row("– of them repeated".into(), "steps_repeated", Better::Neither),
    ]);
    rows
}

fn quotient(above: Option<f64>, below: Option<f64>) -> Option<f64> {
    above.zip(below).filter(|(above, below)| *above > 0.0 && *below > 0.0).map(|(above, below)| above / below)
}

/// Three digits.
fn shown(figure: Option<f64>) -> String {
    match figure {
        None => "–".to_owned(),
        Some(figure) if figure == 0.0 || figure.abs() >= 100.0 => format!("{figure:.0}"),
        Some(figure) => {
            let scale = 10_f64.powf(2.0 - figure.abs().log10().floor());
            format!("{}", (figure * scale).round() / scale)
        }
    }
}

/// Both sides, in turn, and the table.
pub(crate) async fn compare(arguments: &Arguments) {
    // The client wants one, though nothing here is encrypted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let python = environment();
    let wanted = arguments.text("figures").unwrap_or("throughput,memory,polls,start,kill");
    let mut figures = Figures::default();
    for round in 0..arguments.number("rounds", 3) {
        for name in wanted.split(',').filter(|name| *name != "polls") {
            for side in Side::BOTH {
                let line = match name {
                    "throughput" => throughput(&Served::warm(side, &python).await, arguments).await,
                    "memory" => memory(&Served::warm(side, &python).await, arguments).await,
                    "start" => cold_start(side, &python).await,
                    "kill" => killed(side, &python, arguments).await,
                    other => panic!("no figures {other:?}; there are throughput, memory, polls, start and kill"),
                };
                figures.add(name, side, round, line);
            }
        }
    }
    if wanted.split(',').any(|name| name == "polls") {
        polls(&python, arguments, &mut figures).await;
    }
    figures.print(arguments);
}

/// A Python with AgentOS: that of `cargo xtask agno-clients`, or made in its place.
fn environment() -> PathBuf {
    let python = Path::new(VENV).join("bin").join("python");
    if !python.exists() {
        assert!(succeeds(Command::new("python3").args(["-m", "venv", VENV])), "python3 cannot make {VENV}");
    }
    let check = format!(
        "from importlib.metadata import version; import agno.os, greenlet, httptools, multipart, uvicorn, uvloop; \
        assert version('agno') == '{AGNO}'"
    );
    let is_there = succeeds(Command::new(&python).args(["-c", &check]).stderr(Stdio::null()));
    if !is_there {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
        assert!(succeeds(&mut pip), "pip cannot install {PACKAGES:?}");
    }
    python
}

fn succeeds(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}
