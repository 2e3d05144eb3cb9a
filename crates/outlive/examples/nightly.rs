//! A report that is made every night at three, Berlin time, by whichever process is there; one night that was missed is made
//! up for.
//!
//! ```text
//! cargo run --example nightly                 creates the schedule and makes reports until Ctrl-C
//! cargo run --example nightly -- now          makes one now
//! cargo run --example nightly -- log          the last nights, and what became of each
//! ```
//! `NIGHTLY_DB` names the file (tmp/nightly.db), `NIGHTLY_CRON` other times: "*/10 * * * * *" is every ten seconds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

use outlive::Result;
use outlive::prelude::*;
use std::process::ExitCode;

const NAME: &str = "nightly report";

fn workflow() -> Result<Workflow> {
    let file = std::env::var("NIGHTLY_DB").unwrap_or_else(|_| "tmp/nightly.db".to_owned());
    let report = Step::function("Report", |_, input| async move {
        let report = format!("{}: all is well", input.input_text());
        println!("{report}");
        Ok::<_, Failure>(report)
    });
    Workflow::builder("Nightly").db(SqliteDb::new(file)).step(report).build()
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
    let cron = std::env::var("NIGHTLY_CRON").unwrap_or_else(|_| "0 3 * * *".to_owned());
    let schedule = workflow
        .schedule(cron)
        .name(NAME)
        .time_zone("Europe/Berlin")
        .input("the shop")
        .catch_up(CatchUp::One)
        .overlap(Overlap::Skip)
        .replace()
        .await?;
    match *words {
        [] => {
            let next = schedule.next_due.map(|time| time.to_rfc3339());
            println!("next: {}", next.as_deref().unwrap_or("never"));
            // The engine of the workflow takes the times.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        ["now"] => println!("{}", schedule.trigger().await?.await?.text()),
        ["log"] => {
            for tick in schedule.ticks(10).await? {
                println!("{}  {}", tick.due_at.to_rfc3339(), tick.outcome.as_str());
            }
        }
        _ => eprintln!("usage: nightly | nightly now | nightly log"),
    }
    workflow.shutdown().await
}
