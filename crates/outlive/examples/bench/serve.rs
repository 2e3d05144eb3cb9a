//! The server under load: many followers of one run, some of which never read; a server that idles.
//!
//! The server is a process of its own; followers are in this one. `S1` runs the same workflow in turn without and with
//! followers and compares how long the runs took, from the submit to the answer that it has ended.

use crate::measure::{Arguments, folder, latencies, report, rounded, rss_bytes_of};
use futures::{SinkExt, StreamExt};
use outlive::core::{Definition, Failure, StepInput};
use outlive::db::SqliteDb;
use outlive::serving::config::Limits;
use outlive::serving::state::{Component, Kind};
use outlive::{Engine, Options, Step};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// Tells `n` events, one every `pause_ms`, after `wait_ms`.
fn telling() -> Step {
    Step::function("tell", |context, input: Arc<StepInput>| async move {
        let asked: Value = serde_json::from_str(&input.text())?;
        let number = |name: &str| asked[name].as_u64().unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(number("wait_ms"))).await;
        for n in 0..number("n") {
            tokio::time::sleep(Duration::from_millis(number("pause_ms"))).await;
            context.progress(n.to_string(), Some(json!({ "told_at": micros() })));
        }
        Ok::<_, Failure>(String::new())
    })
}

fn micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// The server process: prints its address, and serves until it is killed.
pub(crate) async fn serve() {
    let definition = Definition::builder("tell").step(telling()).build().expect("the workload is sound");
    let definition = Arc::new(definition);
    let db = Arc::new(SqliteDb::new(folder().join("serve.db")));
    let engine = Engine::builder(db).options(Options::default()).workflow(definition.clone());
    let engine = engine.start().await.expect("the store opens");
    let component = Component {
        kind: Kind::Workflow,
        id: definition.id.to_string(),
        name: definition.name.to_string(),
        description: None,
        definition,
        details: Value::Null,
    };
    let limits = Limits { connections_per_address_max: 10_000, ..Limits::default() };
    let server = outlive::serving::Server::builder(engine).component(component).limits(limits).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    report(&json!({ "address": listener.local_addr().expect("it listens") }));
    server.serve(vec![listener], std::future::pending()).await.expect("it serves");
}

/// A server in a process of its own, until it is dropped.
pub(crate) struct Served {
    child: Child,
    address: String,
    start: Instant,
}

impl Served {
    pub(crate) fn start() -> Self {
        let start = Instant::now();
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program).arg("serve").stdout(Stdio::piped()).spawn().expect("it starts");
        let output = child.stdout.take().expect("its output is piped");
        let line = BufReader::new(output).lines().next().expect("it prints its address").expect("it is text");
        let line: Value = serde_json::from_str(&line).expect("it is JSON");
        let address = line["address"].as_str().expect("it names the address").to_owned();
        Self { child, address, start }
    }

    fn rss_mib(&self) -> f64 {
        rounded(rss_bytes_of(self.child.id()) as f64 / 1_048_576.0)
    }

    /// One request on a connection of its own; the answer's body.
    pub(crate) async fn ask(&self, method: &str, path: &str, form: &str) -> String {
        let mut socket = TcpStream::connect(&self.address).await.expect("it accepts");
        let request = request(&self.address, method, path, form, "close");
        socket.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("it answers");
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    /// Starts a run of `tell`; its id.
    pub(crate) async fn submit(&self, ask: &Value) -> String {
        let form = format!("stream=false&background=true&message={}", escaped(&ask.to_string()));
        let body: Value = serde_json::from_str(&self.ask("POST", "/workflows/tell/runs", &form).await).expect("JSON");
        body["run_id"].as_str().expect("it is accepted").to_owned()
    }

    /// Waits for the run's end.
    pub(crate) async fn ended(&self, run_id: &str) {
        loop {
            let body = self.ask("GET", &format!("/workflows/tell/runs/{run_id}?wait=30s"), "").await;
            let run: Value = serde_json::from_str(&body).expect("JSON");
            if run["status"] == "COMPLETED" {
                return;
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(address: &str, method: &str, path: &str, form: &str, connection: &str) -> String {
    let length = form.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: {connection}\r\n\
        content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{form}"
    )
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// How late the events in this text are.
fn lateness(text: &str, late: &mut Vec<Duration>) {
    let now = micros();
    for piece in text.split("\"told_at\":").skip(1) {
        let digits = piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len());
        if let Ok(told_at) = piece[..digits].parse::<u64>() {
            late.push(Duration::from_micros(now.saturating_sub(told_at)));
        }
    }
}

/// Follows by Server-Sent Events to the end of the run; a stalled follower only connects.
async fn follow_sse(address: String, run_id: String, is_stalled: bool) -> Vec<Duration> {
    let mut socket = TcpStream::connect(&address).await.expect("it accepts");
    let path = format!("/workflows/tell/runs/{run_id}/resume");
    socket.write_all(request(&address, "POST", &path, "", "keep-alive").as_bytes()).await.expect("it reads");
    if is_stalled {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    let (mut late, mut kept, mut buffer) = (Vec::new(), String::new(), vec![0; 16 << 10]);
    while let Ok(length @ 1..) = socket.read(&mut buffer).await {
        kept.push_str(&String::from_utf8_lossy(&buffer[..length]));
        // A frame may be cut in two: only whole lines are looked at.
        let whole = kept.rfind('\n').map_or(0, |end| end + 1);
        let rest = kept.split_off(whole);
        lateness(&kept, &mut late);
        let is_over = kept.contains("event: WorkflowCompleted");
        kept = rest;
        if is_over {
            break;
        }
    }
    late
}

/// The same over a WebSocket.
async fn follow_ws(address: String, run_id: String, is_stalled: bool) -> Vec<Duration> {
    let url = format!("ws://{address}/workflows/ws");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("it upgrades");
    let ask = json!({ "action": "reconnect", "run_id": run_id }).to_string();
    socket.send(Message::text(ask)).await.expect("it reads");
    if is_stalled {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    let mut late = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            lateness(&text, &mut late);
            if text.contains("\"event\":\"WorkflowCompleted\"") {
                break;
            }
        }
    }
    late
}

/// Runs with and without followers, in turn.
pub(crate) async fn followers(arguments: &Arguments) {
    let (ws, sse) = (arguments.number("ws", 1000), arguments.number("sse", 1000));
    let stalled = arguments.number("stalled", 10);
    let (n, pause) = (arguments.number("n", 150), arguments.number("pause-ms", 50));
    let (rounds, wait_ms) = (arguments.number("rounds", 3), arguments.number("wait-ms", 5000));
    // The followers come while the run waits.
    let telling_ms = |begun: Instant| rounded(begun.elapsed().as_secs_f64() * 1e3 - wait_ms as f64);
    let served = Served::start();
    let (mut alone, mut followed, mut late, mut delivered) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        let begun = Instant::now();
        let run_id = served.submit(&json!({ "n": n, "pause_ms": pause, "wait_ms": wait_ms })).await;
        served.ended(&run_id).await;
        alone.push(telling_ms(begun));
        let begun = Instant::now();
        let run_id = served.submit(&json!({ "n": n, "pause_ms": pause, "wait_ms": wait_ms })).await;
        let is_stalled = |number: usize| number % 100 < stalled;
        let (mut readers, mut dead) = (Vec::new(), Vec::new());
        for number in 0..ws.max(sse) {
            for (is_wanted, is_ws) in [(number < ws, true), (number < sse, false)] {
                if !is_wanted {
                    continue;
                }
                let (address, run_id, is_stalled) = (served.address.clone(), run_id.clone(), is_stalled(number));
                let follower = match is_ws {
                    true => tokio::spawn(follow_ws(address, run_id, is_stalled)),
                    false => tokio::spawn(follow_sse(address, run_id, is_stalled)),
                };
                if is_stalled { dead.push(follower) } else { readers.push(follower) }
            }
            if number % 50 == 0 {
                // Connections come in waves, not all in one instant.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        served.ended(&run_id).await;
        followed.push(telling_ms(begun));
        for reader in readers {
            let seen = reader.await.expect("followers do not panic");
            delivered += seen.len();
            late.extend(seen);
        }
        dead.iter().for_each(tokio::task::JoinHandle::abort);
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (alone, followed) = (median(&mut alone), median(&mut followed));
    let readers = (ws + sse) * (100 - stalled) / 100;
    report(&json!({
        "workload": "S1",
        "followers": ws + sse,
        "stalled_percent": stalled,
        "run_alone_ms": alone,
        "run_followed_ms": followed,
        "ratio": rounded(followed / alone),
        "delivered_share": rounded(delivered as f64 / (readers * n * rounds) as f64),
        "lag": latencies(&mut late),
        "rss_mib": served.rss_mib(),
    }));
}

/// A server that idles, and how soon it accepts a run.
pub(crate) async fn idle() {
    let served = Served::start();
    served.submit(&json!({ "n": 0 })).await;
    let accepted = served.start.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    report(&json!({
        "workload": "S2",
        "accepted_ms": rounded(accepted.as_secs_f64() * 1e3),
        "rss_idle_mib": served.rss_mib(),
    }));
}
