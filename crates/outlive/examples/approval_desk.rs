//! A payment that two people must approve, each in their own time: between two commands no process runs.
//!
//! ```text
//! cargo run --example approval_desk -- request "Laptops, 9,000 EUR"     asks finance and legal, prints the run's id
//! cargo run --example approval_desk -- desk                             what is open
//! cargo run --example approval_desk -- approve ID ada                   says yes to a question, as ada
//! cargo run --example approval_desk -- reject ID bob "not this year"    says no: the payment is cancelled
//! cargo run --example approval_desk -- wait RUN                         stays until it is paid, or is not to be
//! ```
//! The last yes pays. `APPROVAL_DB` names the file (tmp/approvals.db).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

use outlive::Result;
use outlive::core::port::QuestionFilter;
use outlive::prelude::*;
use std::process::ExitCode;
use std::time::Duration;

fn workflow() -> Result<Workflow> {
    let file = std::env::var("APPROVAL_DB").unwrap_or_else(|_| "tmp/approvals.db".to_owned());
    let asks = |who: &str| {
        let review = HumanReview::confirmation(format!("Does {who} approve?"))
            .on_reject(OnReject::Cancel)
            .timeout(Duration::from_secs(14 * 24 * 3600));
        Step::function(who, |_, input| async move { Ok::<_, Failure>(input.input_text()) }).human_review(review)
    };
    let pay = Step::function("Pay", |context: StepContext, input| async move {
        // The bank recognises a repetition by this key.
        let key = context.call_key("transfer");
        context.once("transfer", || async move { Ok(format!("paid: {} (reference {key})", input.input_text())) }).await
    });
    Workflow::builder("Payment")
        .db(SqliteDb::new(file))
        .step(Parallel::new("Approvals").step(asks("Finance")).step(asks("Legal")))
        .step(pay)
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
        ["request", what] => {
            let run = workflow.run(what).background().await?;
            run.wait().await?;
            println!("run {}", run.run_id());
        }
        ["desk"] => {
            let page = workflow.engine().await?.questions(QuestionFilter::default()).await?;
            for asked in page.questions {
                let message = asked.question.message.as_deref().unwrap_or_default();
                println!("{}  run {}  {message}", asked.id(), asked.run_id);
            }
        }
        ["approve", id, who] => answer(&workflow, id, Answer::Approve, who).await?,
        ["reject", id, who, why] => answer(&workflow, id, Answer::reject(why), who).await?,
        ["wait", run_id] => {
            let run = workflow.attach(run_id).await?;
            println!("waiting");
            let mut events = run.events(None).through_pauses();
            while events.next().await?.is_some() {}
            let run = run.wait().await?;
            println!("{}: {}", run.status, run.text());
        }
        _ => eprintln!("usage: approval_desk request WHAT | desk | approve ID WHO | reject ID WHO WHY | wait RUN"),
    }
    workflow.shutdown().await
}

/// Gives an answer, and executes the run as far as it goes then.
async fn answer(workflow: &Workflow, id: &str, given: Answer, who: &str) -> Result<()> {
    let engine = workflow.engine().await?;
    let asked = engine.answer([(id.into(), given)], Some(who.into())).await?;
    println!("noted");
    for asked in asked {
        let run = engine.attach(asked.run_id).wait().await?;
        match run.status {
            RunStatus::Paused => println!("others are still to be asked"),
            _ => println!("{}: {}", run.status, run.text()),
        }
    }
    Ok(())
}
