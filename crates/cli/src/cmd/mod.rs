//! The verbs, one file each. What several of them say is here.

pub(crate) mod audit;
pub(crate) mod cancel;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod keys;
pub(crate) mod ls;
pub(crate) mod output;
pub(crate) mod rerun;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod show;
pub(crate) mod version;
pub(crate) mod watch;
pub(crate) mod worker;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Problem};
use crate::fold::StepView;
use crate::log::Log;
use crate::{style, times};
use outlive::WorkflowRunOutput;
use outlive::client::RunSummary;
use outlive::core::RunStatus;
use serde_json::{Value, json};

/// Does what was asked.
pub(crate) async fn run(cli: &Cli, log: &Log) -> Result<Exit, Problem> {
    let global = &cli.global;
    refuse_server(cli)?;
    match &cli.command {
        Command::Demo(demo) => demo.run(global).await,
        Command::Run(run) => run.run(global).await,
        Command::Watch(watch) => watch.run(global).await,
        Command::Ls(ls) => ls.run(global).await,
        Command::Show(show) => show.run(global).await,
        Command::Events(events) => events.run(global).await,
        Command::Output(output) => output.run(global).await,
        Command::Cancel(cancel) => cancel.run(global).await,
        Command::Rerun(rerun) => rerun.run(global).await,
        Command::Serve(serve) => serve.run(global, log).await,
        Command::Worker(worker) => worker.run(global, log).await,
        Command::Audit(audit) => audit.run(global).await,
        Command::Keys(keys) => keys.run(global).await,
        Command::Config(config) => config.run(global),
        Command::Doctor(doctor) => doctor.run(global).await,
        Command::Version(version) => version.run(global),
    }
}

/// `--server` beside a verb that works on this machine is a mistake.
fn refuse_server(cli: &Cli) -> Result<(), Problem> {
    let verb = match &cli.command {
        Command::Demo(_) => "demo",
        Command::Serve(_) => "serve",
        Command::Worker(_) => "worker",
        Command::Keys(_) => "keys",
        Command::Audit(_) => "audit",
        _ => return Ok(()),
    };
    if cli.global.server.is_none() {
        return Ok(());
    }
    let message = format!("outlive {verb} works on this machine and asks no server");
    Err(Problem::new(Exit::Usage, "usage", message).hint("leave out --server"))
}

/// A run as programs read it in a list.
fn run_json(run: &RunSummary) -> Value {
    let mut document = json!({
        "id": run.info.run_id,
        "status": style::status_word(run.status),
        "workflow_id": run.info.workflow_id,
        "workflow_name": run.info.workflow_name,
        "session_id": run.info.session_id,
        "user_id": run.info.user_id,
        "step": run.progress,
        "rerun_of": run.rerun_of,
        "attempt": run.attempt,
        "cancel_requested": run.cancel_requested_at.is_some(),
        "created_at": times::rfc3339(run.created_at),
        "updated_at": times::rfc3339(run.updated_at),
    });
    if let Some(unreadable) = &run.unreadable {
        document["unreadable"] = json!(unreadable);
    }
    document
}

/// The last line about a run that is over; nothing for one that is not.
fn last_line(output: &WorkflowRunOutput, seconds: f64) -> Option<String> {
    let took = times::span(seconds);
    match output.status {
        RunStatus::Completed => Some(format!("\nCompleted in {took}")),
        RunStatus::Error => Some(format!("\nFailed in {took}: {}", style::line(&output.text(), 400))),
        RunStatus::Cancelled => Some(format!("\nCancelled after {took}")),
        RunStatus::Pending | RunStatus::Running | RunStatus::Paused => None,
    }
}

/// `2 members · 4 tool calls · 1.9k tokens`, as far as there is any of it.
pub(crate) fn step_facts(step: &StepView) -> String {
    let mut facts = Vec::new();
    facts.extend((step.members() > 0).then(|| style::counted(step.members(), "member")));
    facts.extend((step.tool_calls > 0).then(|| style::counted(step.tool_calls, "tool call")));
    facts.extend((step.tokens > 0).then(|| format!("{} tokens", style::short_count(step.tokens))));
    facts.join(style::dot())
}

/// A line about a step: mark, name, what is to be said of it.
pub(crate) fn step_line(mark: style::Mark, name: &str, rest: &str) -> String {
    format!(" {} {:<24} {rest}", mark.shown(), style::line(name, 60)).trim_end().to_owned()
}
