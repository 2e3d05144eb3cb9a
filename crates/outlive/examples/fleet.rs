//! A fleet: as many processes as you like, on one file. Together they keep to a budget for the day, and to the tokens that
//! the model's key may use in a minute.
//!
//! ```text
//! cargo run --example fleet -- 20 "A haiku about tides"   puts in 20 runs, and works until none is left to do
//! cargo run --example fleet -- 0                          works on what others have put in
//! ```
//! `OPENAI_API_KEY` is the key. `FLEET_DB` names the file (tmp/fleet.db), `FLEET_BUDGET` the dollars of a day (5),
//! `FLEET_TOKENS` the tokens in a minute (60000), `FLEET_WINDOW_MS` another time to count them over, `FLEET_ANSWER` the most
//! tokens of an answer (500), and `FLEET_AT_ONCE` how many runs execute at a time (8).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

use outlive::Result;
use outlive::core::port::RunFilter;
use outlive::prelude::*;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

/// How often it looks whether anything is left to do.
const LOOK: Duration = Duration::from_millis(50);

fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn workflow() -> Result<Workflow> {
    let window = Duration::from_millis(setting("FLEET_WINDOW_MS", 60_000));
    let model = OpenAIResponses::new("gpt-5.2")
        .max_output_tokens(setting("FLEET_ANSWER", 500))
        .tokens_per_minute(setting("FLEET_TOKENS", 60_000))
        .rate_window(window);
    Workflow::builder("Fleet")
        .db(SqliteDb::new(setting("FLEET_DB", "tmp/fleet.db".to_owned())))
        .step(Agent::new("Writer").model(model))
        .concurrency(setting("FLEET_AT_ONCE", 8))
        .budget(Budget::usd(setting("FLEET_BUDGET", 5.0)).per_day())
        .build()
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let asked = words.first().and_then(|count| count.parse().ok());
    let (Some(count), topic) = (asked, words.get(1).map_or("A haiku", String::as_str)) else {
        eprintln!("usage: fleet COUNT [TOPIC]");
        return ExitCode::FAILURE;
    };
    match work(count, topic).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn work(count: u32, topic: &str) -> Result<()> {
    let workflow = workflow()?;
    let engine = workflow.engine().await?;
    for number in 1..=count {
        workflow.run(format!("{topic} ({number})")).background().await?;
    }
    println!("{count} put in");
    let with = async |statuses: &[RunStatus]| {
        let filter = RunFilter { statuses: statuses.to_vec(), limit: 1_000, ..RunFilter::default() };
        Ok::<_, outlive::Error>(engine.runs(filter).await?.runs.len())
    };
    while with(&[RunStatus::Pending, RunStatus::Running]).await? > 0 {
        tokio::time::sleep(LOOK).await;
    }
    let (completed, failed) = (with(&[RunStatus::Completed]).await?, with(&[RunStatus::Error]).await?);
    println!("{completed} completed, {failed} failed, {} wait for a larger budget", with(&[RunStatus::Paused]).await?);
    workflow.shutdown().await
}
