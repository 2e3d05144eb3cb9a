//! A research run with a budget of six calls: past it, it asks for more, and leaves memory until somebody answers.
//!
//! ```text
//! cargo run --example research_budget -- start "tidal power"   begins, prints the run's id and what it asks
//! cargo run --example research_budget -- raise RUN 3 ada       three calls more, says ada
//! cargo run --example research_budget -- stop RUN ada          enough: the run ends as it is
//! ```
//! `RESEARCH_DB` names the file (tmp/research.db). The model is a script, so that it needs no key.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

use outlive::Result;
use outlive::core::{ModelRequest, Role, ToolCall};
use outlive::prelude::*;
use std::process::ExitCode;

/// How many sources it wants to read.
const SOURCES: usize = 8;

#[derive(schemars::JsonSchema, serde::Deserialize)]
struct Read {
    /// Which one, from 1.
    source: usize,
}

/// Reads one source after the other, and sums up.
fn model() -> ScriptedModel {
    ScriptedModel::from_fn("reader", |request: &ModelRequest| {
        let read = request.messages.iter().filter(|message| message.role == Role::Tool).count();
        Ok(match read < SOURCES {
            true => {
                let arguments = serde_json::json!({ "source": read + 1 }).to_string();
                ModelResponse::calls(vec![ToolCall::new(format!("call-{read}"), "read", arguments)])
            }
            false => ModelResponse::text(format!("what {read} sources say")),
        })
    })
}

fn workflow() -> Result<Workflow> {
    let file = std::env::var("RESEARCH_DB").unwrap_or_else(|_| "tmp/research.db".to_owned());
    let read = Tool::new("read", "Reads a source.", |read: Read, _| async move {
        Ok::<_, Failure>(format!("the contents of source {}", read.source))
    });
    Workflow::builder("Research")
        .db(SqliteDb::new(file))
        .step(Agent::new("Researcher").model(model()).tool(read))
        .budget(Budget::calls(6).per_run())
        .build()
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match obey(&words).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn obey(words: &[&str]) -> Result<()> {
    let workflow = workflow()?;
    match *words {
        ["start", topic] => {
            let run = workflow.run(topic).background().await?;
            println!("run {}", run.run_id());
            show(&run).await?;
        }
        ["raise", run_id, calls, who] if let Ok(calls) = calls.parse::<u64>() => {
            answer(&workflow, run_id, &Answer::input([("raise_by", calls.into())]), who).await?;
        }
        ["stop", run_id, who] => answer(&workflow, run_id, &Answer::reject("enough"), who).await?,
        _ => eprintln!("usage: research_budget start TOPIC | raise RUN CALLS WHO | stop RUN WHO"),
    }
    workflow.shutdown().await
}

/// Answers what the run asks, and waits for what comes of it.
async fn answer(workflow: &Workflow, run_id: &str, given: &Answer, who: &str) -> Result<()> {
    let run = workflow.attach(run_id).await?;
    for question in run.questions().await? {
        question.by(who).answer(given.clone()).await?;
    }
    show(&run).await
}

/// Says what a run at rest asks, or how it ended.
async fn show(run: &RunHandle) -> Result<()> {
    let output = run.wait().await?;
    if output.status != RunStatus::Paused {
        println!("{}: {}", output.status, output.text());
    }
    for question in run.questions().await? {
        println!("asks: {}", question.question.message.as_deref().unwrap_or_default());
    }
    Ok(())
}
