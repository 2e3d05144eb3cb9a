//! Runs that wait for people, in great number: what they take in memory while they wait, and how soon an answer shows.
//!
//! Each process has the store to itself, one after the other: one fills it, one does nothing, one answers.

use crate::measure::{Arguments, folder, latencies, report, rounded, rss_bytes};
use futures::StreamExt;
use outlive::core::port::QuestionFilter;
use outlive::core::{Answer, Definition, Failure, HumanReview, RunStatus, Step};
use outlive::db::SqliteDb;
use outlive::engine::{Engine, Submit};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Paused runs: memory of a process that has the store open, beside one with an empty store; then answers.
pub(crate) fn paused(arguments: &Arguments) {
    let (runs, answers) = (arguments.number("n", 100_000), arguments.number("answers", 500));
    let filled = desk(&["--file", "paused.db", "--fill", &runs.to_string()]);
    let none = desk(&["--file", "nobody.db"]);
    let many = desk(&["--file", "paused.db", "--answers", &answers.to_string()]);
    let of = |figures: &Value| figures["rss_bytes"].as_f64().unwrap_or(f64::NAN);
    report(&json!({
        "workload": "Q1",
        "runs": runs,
        "fill_s": filled["fill_s"],
        "rss_mib": rounded(of(&many) / f64::from(1 << 20)),
        "rss_mib_none": rounded(of(&none) / f64::from(1 << 20)),
        "ratio": rounded(of(&many) / of(&none)),
        "answer": many["answer"],
    }));
}

fn desk(words: &[&str]) -> Value {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).arg("desk").args(words).stderr(Stdio::null()).output();
    let output = output.expect("this program starts").stdout;
    let text = String::from_utf8_lossy(&output);
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).expect("it prints its figures")
}

/// One of those processes.
pub(crate) async fn desk_process(arguments: &Arguments) {
    let file = arguments.text("file").expect("--file names the store");
    let asks = Step::function("ask", |_, input| async move { Ok::<_, Failure>(input.text()) })
        .human_review(HumanReview::confirmation("May it?"));
    let definition = Arc::new(Definition::builder("asks").step(asks).build().expect("the workloads are sound"));
    let engine = Engine::builder(Arc::new(SqliteDb::new(folder().join(file)))).workflow(definition.clone());
    let engine = engine.start().await.expect("the store opens");
    let begun = Instant::now();
    let fill = arguments.number("fill", 0);
    let submits = (0..fill).map(|number| {
        let submit = Submit { input: Some(Value::from(format!("run {number}"))), ..Submit::default() };
        let (engine, id) = (engine.clone(), definition.id.clone());
        async move {
            let run = engine.submit(&id, submit).await.expect("it is accepted");
            assert_eq!(run.wait().await.expect("the store works").status, RunStatus::Paused);
        }
    });
    futures::stream::iter(submits).buffer_unordered(256).collect::<Vec<()>>().await;
    let fill_s = rounded(begun.elapsed().as_secs_f64());
    // Longer than a look around.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rss_bytes = rss_bytes();
    assert_eq!(engine.stats().runs_executing, 0, "nothing executes");
    let mut samples = Vec::new();
    let filter = QuestionFilter { limit: 1_000, ..QuestionFilter::default() };
    let open = match arguments.number("answers", 0) {
        0 => Vec::new(),
        count => {
            let mut open = engine.questions(filter).await.expect("the store works").questions;
            open.truncate(count);
            open
        }
    };
    for asked in open {
        let standing = engine.standing(&asked.run_id).await.expect("the store works").expect("the run exists");
        let start = Instant::now();
        engine.answer([(asked.id().clone(), Answer::Approve)], None).await.expect("it is open");
        let mut events = engine.events(&asked.run_id, standing.next_index.checked_sub(1));
        events.next().await.expect("the store works").expect("it goes on");
        samples.push(start.elapsed());
    }
    report(&json!({ "rss_bytes": rss_bytes, "fill_s": fill_s, "answer": latencies(&mut samples) }));
    engine.shutdown().await.expect("the store works");
}
