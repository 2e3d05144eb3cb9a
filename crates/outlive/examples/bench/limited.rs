//! Runs of an agent at a model server that takes only so many calls, or tokens, in a time.

use crate::measure::{Arguments, folder, report, rounded};
use futures::StreamExt;
use futures::future::join_all;
use outlive::agent::testing::OpenAiServer;
use outlive::prelude::*;
use serde_json::json;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the server says to those it refuses.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// All runs at once: how much longer than the server needs for so many calls, and how many it had to refuse.
pub(crate) async fn run(arguments: &Arguments) {
    let (n, rate) = (arguments.number("n", 200), arguments.number("rate", 20));
    let server = OpenAiServer::start().await;
    let wait = RETRY_AFTER.as_secs().to_string();
    server.limit(rate, Duration::from_secs(1), &[("retry-after", &wait)]);
    let agent = Agent::new("A").model(OpenAIChat::new("gpt-5.2").base_url(server.url()).api_key("bench"));
    let workflow = Workflow::builder("Limited").db(SqliteDb::new(folder().join("limited.db")));
    let workflow = workflow.step(Step::new("Only").agent(agent)).build().expect("the workload is sound");
    let start = Instant::now();
    let runs = (0..n).map(|number| workflow.run(format!("run {number}")).into_future());
    let ended = join_all(runs).await;
    let wall = start.elapsed().as_secs_f64();
    let completed = ended.iter().flatten().filter(|run| run.status == RunStatus::Completed).count();
    let log = server.log();
    let refusals = log.iter().filter(|exchange| exchange.status == Some(429));
    let wave_end = refusals.filter_map(|exchange| exchange.ended).min().map(|first| first + RETRY_AFTER);
    let later: Vec<_> =
        log.iter().filter(|exchange| wave_end.is_some_and(|wave_end| exchange.started >= wave_end)).collect();
    let later_refused = later.iter().filter(|exchange| exchange.status == Some(429)).count();
    let ideal = n as f64 / rate as f64;
    report(&json!({
        "peer": "outlive",
        "workload": "L1",
        "n": n,
        "completed": completed,
        "wall_s": rounded(wall),
        "over_ideal": rounded(wall / ideal),
        "requests": log.len(),
        "first_wave": log.len() - later.len(),
        "later_refused": later_refused,
        "later_refused_percent": rounded(later_refused as f64 / later.len().max(1) as f64 * 100.0),
    }));
}

/// Processes that share what a server takes: how much of it they use together, and how often it has to refuse them. What
/// the first window brings does not count.
pub(crate) async fn shared(arguments: &Arguments) {
    let (processes, windows) = (arguments.number("processes", 4), arguments.number("windows", 2));
    let (tokens, seconds) = (arguments.number("tokens", 60_000), arguments.number("window", 60));
    let window = Duration::from_secs(seconds as u64);
    let server = OpenAiServer::start().await;
    server.limit_tokens(tokens as u64, window);
    let (url, tokens_text, window_text) = (server.url(), tokens.to_string(), seconds.to_string());
    let start = || {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.args(["R1-process", "--url", &url, "--tokens", &tokens_text, "--window", &window_text]);
        command.stdout(Stdio::null()).spawn().expect("this program starts")
    };
    let mut children: Vec<_> = (0..processes).map(|_| start()).collect();
    server.wait_until(|log| !log.is_empty()).await;
    let begun = server.log()[0].started;
    tokio::time::sleep(window * (windows as u32 + 1)).await;
    let log = server.log();
    for child in &mut children {
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    let (from, to) = (begun + window, begun + window * (windows as u32 + 1));
    let counted: Vec<_> = log.iter().filter(|exchange| (from..to).contains(&exchange.started)).collect();
    let refused = counted.iter().filter(|exchange| exchange.status == Some(429)).count();
    let taken = counted.iter().filter(|exchange| exchange.status != Some(429)).filter_map(|exchange| exchange.tokens);
    let used: u64 = taken.map(|(prompt, answer)| prompt + answer).sum();
    report(&json!({
        "peer": "outlive",
        "workload": "R1",
        "processes": processes,
        "tokens_per_window": tokens,
        "window_s": seconds,
        "windows": windows,
        "calls": counted.len(),
        "refused": refused,
        "refused_percent": rounded(refused as f64 / counted.len().max(1) as f64 * 100.0),
        "used_percent": rounded(used as f64 / (tokens * windows) as f64 * 100.0),
    }));
}

/// One of those processes: always has more to ask than it may. It is killed.
pub(crate) async fn shared_process(arguments: &Arguments) {
    let url = arguments.text("url").expect("--url names the server");
    let window = Duration::from_secs(arguments.number("window", 60) as u64);
    let model = OpenAIChat::new("gpt-5.2").base_url(url).api_key("bench").max_output_tokens(100);
    let model = model.tokens_per_minute(arguments.number("tokens", 60_000) as u64).rate_window(window);
    let workflow = Workflow::builder("Shared").db(SqliteDb::new(folder().join("shared.db")));
    let workflow = workflow.step(Agent::new("A").model(model)).build().expect("the workload is sound");
    let asks = |number: usize| {
        let (workflow, words) = (workflow.clone(), 100 + number * 37 % 300);
        async move {
            let asked = format!("{number} {} DELAY=0.3", "tides ".repeat(words));
            workflow.run(asked).await.expect("it is answered, sooner or later");
        }
    };
    futures::stream::iter((0..).map(asks)).buffer_unordered(64).collect::<()>().await;
}
