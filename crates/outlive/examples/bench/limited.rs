//! Runs of an agent at a model server that takes only so many calls a second.

use crate::measure::{Arguments, folder, report, rounded};
use futures::future::join_all;
use outlive::agent::testing::OpenAiServer;
use outlive::prelude::*;
use serde_json::json;
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
