//! Rolling restarts of two servers on one file under load, scaled one to ten: calls of 0 to 3 s, a grace of 2.5 s, a lease
//! of 1.5 s. A call that fits the grace is made once; a longer one is dropped when the grace ends and repeated under its
//! key, never beside itself; one that must not be repeated pauses its run. Nothing accepted is lost.
//!
//! The servers are this test program, started again as [`the_server`].

use crate::serve_crash::{Dice, free_port, post};
use outlive::agent::tool::ToolContext;
use outlive::core::port::{Access, RunFilter, RunStore};
use outlive::core::{ModelRequest, ModelResponse, Role, ToolCall, ToolEffect};
use outlive::engine::testing::{broken_invariants, read_log};
use outlive::prelude::*;
use outlive::{Options, Server};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(120);
const RESTARTS: usize = 50;
const GRACE: Duration = Duration::from_millis(2500);
const LEASE: Duration = Duration::from_millis(1500);
/// Calls up to here end within the grace, also on a busy machine.
const SHORT_MS: usize = 1500;
const LONGEST_MS: usize = 3000;

/// What became of calls: a line each time one begins, ends or is dropped, and when, from every process, in one file.
#[derive(Clone)]
struct CallLog(PathBuf);

impl CallLog {
    fn write(&self, key: &str, what: &str) {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&self.0);
        let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        file.unwrap().write_all(format!("{what} {millis} {key}\n").as_bytes()).unwrap();
    }

    /// What happened to each call and when, in order.
    fn read(&self) -> BTreeMap<String, Vec<(String, Duration)>> {
        let mut calls: BTreeMap<String, Vec<(String, Duration)>> = BTreeMap::new();
        for line in std::fs::read_to_string(&self.0).unwrap().lines() {
            let [what, millis, key] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let at = Duration::from_millis(millis.parse().unwrap());
            calls.entry(key.to_owned()).or_default().push((what.to_owned(), at));
        }
        calls
    }
}

/// One call, until it ends or is dropped.
struct Begun {
    log: CallLog,
    key: String,
    has_ended: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.log.write(&self.key, if self.has_ended { "end" } else { "drop" });
    }
}

/// A call that takes as many milliseconds as it is told.
async fn call(log: CallLog, key: String, ms: u64) -> std::result::Result<String, Failure> {
    log.write(&key, "begin");
    let mut begun = Begun { log, key, has_ended: false };
    tokio::time::sleep(Duration::from_millis(ms)).await;
    begun.has_ended = true;
    Ok(format!("took {ms}"))
}

#[derive(schemars::JsonSchema, serde::Deserialize)]
struct Payment {
    ms: u64,
}

/// Pays once with what it is asked for, then says so.
fn script(request: &ModelRequest) -> ModelResponse {
    let asked = request.messages.iter().rev().find(|message| message.role == Role::User);
    let asked = asked.and_then(|message| message.content.clone()).unwrap_or_default();
    if request.messages.iter().any(|message| message.role == Role::Tool) {
        return ModelResponse::text("paid");
    }
    let ms: u64 = asked.trim().parse().unwrap();
    ModelResponse::calls(vec![ToolCall::new("pay-1", "pay", json!({ "ms": ms }).to_string())])
}

fn workflows(db: &SqliteDb, log: &CallLog) -> [Workflow; 2] {
    let calls = log.clone();
    let wait = Step::function("wait", move |context: StepContext, input| {
        call(calls.clone(), context.idempotency_key(), input.text().parse().unwrap())
    });
    let calls = log.clone();
    let pay = Tool::new("pay", "Pays", move |payment: Payment, context: ToolContext| {
        call(calls.clone(), context.idempotency_key.to_string(), payment.ms)
    });
    let payer = Agent::new("Payer")
        .model(ScriptedModel::from_fn("scripted", |request| Ok(script(request))))
        .tool(pay.effect(ToolEffect::Once));
    let build = |name: &str, step: Step| Workflow::builder(name).db(db.clone()).step(step).build().unwrap();
    [build("Wait", wait), build("Pay", Step::new("pay").agent(payer))]
}

/// Not a test of its own: a server process, if the environment says so.
#[test]
fn the_server() {
    let Ok(folder) = std::env::var("OUTLIVE_ROLLING_FOLDER") else { return };
    let address = std::env::var("OUTLIVE_ROLLING_ADDRESS").unwrap();
    let db = SqliteDb::new(Path::new(&folder).join("runs.db"));
    let options = Options {
        lease_period: LEASE,
        heartbeat_period: Duration::from_millis(500),
        scan_period: Duration::from_millis(100),
        shutdown_grace: GRACE,
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = CallLog(Path::new(&folder).join("calls"));
        let builder = workflows(&db, &log).iter().fold(Server::builder(db), |server, one| server.workflow(one));
        builder.options(options).start().await.unwrap().serve(&address).await.unwrap();
    });
}

/// A server process that is restarted in turn with another.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    async fn start(folder: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["rolling::the_server", "--exact", "--nocapture", "--test-threads=1"])
            .env("OUTLIVE_ROLLING_FOLDER", folder)
            .env("OUTLIVE_ROLLING_ADDRESS", &address)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Self { child: command.spawn().unwrap(), address };
        let listening = async {
            while TcpStream::connect(&process.address).await.is_err() {
                assert_eq!(process.child.try_wait().unwrap(), None, "the server ended before it listened");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, listening).await.expect("the server listens");
        process
    }

    /// SIGTERM, and waits until it has ended.
    async fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ending = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let status = tokio::time::timeout(PATIENCE, ending).await.expect("the server stops");
        assert!(status.success(), "a server that is told to stop ends well: {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Submits under a key until somebody says that it is accepted; the run's id. A server that stops says so, or is not there.
async fn submit(addresses: &[std::sync::Mutex<String>; 2], workflow: &str, ms: usize, number: usize) -> String {
    for attempt in number.. {
        let address = addresses[attempt % 2].lock().unwrap().clone();
        let form = format!("message={ms}&background=true&stream=false&idempotency_key=key-{number}");
        if let Ok((status, mut answer)) = post(&address, &format!("/workflows/{workflow}/runs"), &form).await {
            let mut body = String::new();
            assert!(matches!(status, 202 | 503), "a run under load and restarts is answered with {status}");
            if answer.read_to_string(&mut body).await.is_ok()
                && status == 202
                && let Ok(body) = serde_json::from_str::<Value>(&body)
            {
                return body["run_id"].as_str().unwrap().to_owned();
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("numbers do not end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_restarts_of_two_servers_in_turn_lose_nothing_and_make_no_call_beside_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice::new();
    let mut processes = [Process::start(folder.path()).await, Process::start(folder.path()).await];
    let addresses = [0, 1].map(|place: usize| std::sync::Mutex::new(processes[place].address.clone()));
    let (restarted, submitted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut durations = BTreeMap::new();
    let load = async {
        while !restarted.load(Ordering::Relaxed) {
            let number = submitted.fetch_add(1, Ordering::Relaxed);
            let is_payment = number % 5 == 4;
            let (ms, workflow) = (dice.below(LONGEST_MS), if is_payment { "pay" } else { "wait" });
            let submitting = submit(&addresses, workflow, ms, number);
            let run_id = tokio::time::timeout(PATIENCE, submitting).await.expect("it is accepted");
            durations.insert(run_id, (ms, is_payment));
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
    };
    let restarts = async {
        for restart in 0..RESTARTS {
            let place = restart % 2;
            let new = Process::start(folder.path()).await;
            let address = new.address.clone();
            let old = std::mem::replace(&mut processes[place], new);
            *addresses[place].lock().unwrap() = address;
            old.stop().await;
        }
        restarted.store(true, Ordering::Relaxed);
    };
    tokio::join!(load, restarts);

    let db = SqliteDb::new(folder.path().join("runs.db"));
    let observer = Options { execute: false, ..Options::default() };
    let engine = outlive::Engine::builder(std::sync::Arc::new(db.clone())).options(observer).start().await.unwrap();
    let mut paused = BTreeSet::new();
    for (run_id, (_, is_payment)) in &durations {
        let run_id = outlive::RunId::parse(run_id).unwrap();
        let ended = tokio::time::timeout(PATIENCE, engine.attach(run_id.clone()).wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("run {run_id} does not come to rest")).unwrap();
        match ended.status {
            RunStatus::Completed => {
                let log = read_log(&db, &run_id).await;
                assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
            }
            RunStatus::Paused if *is_payment => drop(paused.insert(run_id.to_string())),
            other => panic!("run {run_id} is {other}: {}", ended.text()),
        }
    }
    let all = db.runs(Access::All, RunFilter { limit: 1000, ..RunFilter::default() }).await.unwrap().runs;
    assert_eq!(all.len(), durations.len(), "what was accepted, and each of it once");

    let calls = CallLog(folder.path().join("calls")).read();
    let mut pauses = Vec::new();
    for (key, happened) in &calls {
        let (run_id, _) = key.split_once('/').unwrap();
        let (ms, is_payment) = durations[run_id];
        let begun = happened.iter().filter(|(what, _)| what == "begin").count();
        let is_begin = |(what, _): &(String, Duration)| what == "begin";
        let in_turn = happened.chunks(2).all(|pair| is_begin(&pair[0]) && !pair.get(1).is_some_and(is_begin));
        assert!(in_turn, "{key} was made beside itself: {happened:?}");
        assert_eq!(
            happened.iter().filter(|(what, _)| what == "end").count(),
            usize::from(!paused.contains(run_id)),
            "{key}"
        );
        assert!(ms > SHORT_MS || begun == 1, "{key} fits the grace and was made {begun} times: {happened:?}");
        assert!(!is_payment || begun == 1, "{key} must not be repeated: {happened:?}");
        // Each restart may meet a call that is longer than the grace.
        assert!(ms as u128 > GRACE.as_millis() || begun <= 2, "{key} was dropped twice: {happened:?}");
        pauses.extend(happened.windows(2).filter(|two| is_begin(&two[1])).map(|two| two[1].1.saturating_sub(two[0].1)));
    }
    // A machine that stalls may hold some up; a lease that is not given back would hold up all of them.
    let repeated = pauses.len();
    let [at_once, soon] = [LEASE / 2, LEASE].map(|limit| pauses.iter().filter(|pause| **pause < limit).count());
    assert!(at_once * 2 >= repeated && soon * 10 >= repeated * 9, "a lease was waited for: {pauses:?}");
    // One whose intent was stored as the server stopped, before the call could begin, pauses too: nobody can tell.
    let begun: BTreeSet<&str> = calls.keys().filter_map(|key| Some(key.split_once('/')?.0)).collect();
    let never = durations.keys().filter(|run_id| !begun.contains(run_id.as_str()) && !paused.contains(*run_id));
    assert_eq!((calls.len(), never.count()), (begun.len(), 0), "one call a run");
    crate::serve_crash::say(format_args!(
        "{RESTARTS} restarts, {} runs, {repeated} calls repeated, {} paused",
        durations.len(),
        paused.len()
    ));
    engine.shutdown().await.unwrap();
}
