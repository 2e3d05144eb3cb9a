//! The verbs, one file each. Output shared by several of them is here.

pub(crate) mod answer;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod batch;
pub(crate) mod budgets;
pub(crate) mod cancel;
pub(crate) mod chat;
pub(crate) mod complete;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod db;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod fork;
pub(crate) mod init;
mod keep;
pub(crate) mod keys;
pub(crate) mod ls;
pub(crate) mod mcp;
pub(crate) mod output;
pub(crate) mod prune;
pub(crate) mod questions;
pub(crate) mod rerun;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod show;
mod these;
pub(crate) mod version;
pub(crate) mod watch;
pub(crate) mod worker;
pub(crate) mod workflow;

use crate::cli::{Cli, Command, Global};
use crate::exit::{Exit, Problem};
use crate::fold::StepView;
use crate::log::Log;
use crate::settings::Settings;
use crate::style::Mark;
use crate::{demo as demonstration, style, times};
use outlive::client::{QuestionSummary, RunSummary};
use outlive::core::{Remedy, RunStatus, Timestamp, Waiting, WaitsFor};
use outlive::serving::auth::is_user;
use outlive::{Markdown, WorkflowRunOutput, pprint_run_response};
use serde_json::{Value, json};

/// Runs the command.
pub(crate) async fn run(cli: &Cli, log: &Log) -> Result<Exit, Problem> {
    let global = &cli.global;
    refuse_server(cli)?;
    match &cli.command {
        Command::Demo(demo) => demo.run(global).await,
        Command::Init(init) => init.run(global),
        Command::Run(run) => run.run(global).await,
        Command::Chat(chat) => chat.run(global).await,
        Command::Dev(dev) => dev.run(global, log).await,
        Command::Watch(watch) => watch.run(global).await,
        Command::Ls(ls) => ls.run(global).await,
        Command::Show(show) => show.run(global).await,
        Command::Events(events) => events.run(global).await,
        Command::Output(output) => output.run(global).await,
        Command::Batch(batch) => batch.run(global).await,
        Command::Cancel(cancel) => cancel.run(global).await,
        Command::Prune(prune) => prune.run(global).await,
        Command::Rerun(rerun) => rerun.run(global).await,
        Command::Retry(retry) => retry.run(global).await,
        Command::Fork(fork) => fork.run(global).await,
        Command::Questions(questions) => questions.run(global).await,
        Command::Approve(approve) => approve.run(global).await,
        Command::Reject(reject) => reject.run(global).await,
        Command::Answer(answer) => answer.run(global).await,
        Command::Schedule(schedule) => schedule.run(global).await,
        Command::Budgets(budgets) => budgets.run(global).await,
        Command::Serve(serve) => serve.run(global, log).await,
        Command::Worker(worker) => worker.run(global, log).await,
        Command::Mcp(mcp) => mcp.run(global).await,
        Command::Audit(audit) => audit.run(global).await,
        Command::Keys(keys) => keys.run(global).await,
        Command::Config(config) => config.run(global),
        Command::Backup(backup) => backup.run(global).await,
        Command::Db(db) => db.run(global).await,
        Command::Workflow(workflow) => workflow.run(global).await,
        Command::Schema(schema) => schema.run(),
        Command::Completions(completions) => completions.run(),
        Command::Complete(complete) => complete.run().await,
        Command::Man(man) => man.run(),
        Command::Doctor(doctor) => doctor.run(global).await,
        Command::Version(version) => version.run(global),
    }
}

/// `--server` with a verb that works on this machine is a mistake. A server named in settings is one only if the verb
/// would then read a different database from the one meant.
fn refuse_server(cli: &Cli) -> Result<(), Problem> {
    let verb = match &cli.command {
        Command::Demo(_) => "demo",
        Command::Serve(_) => "serve",
        Command::Chat(_) => "chat",
        Command::Dev(_) => "dev",
        Command::Worker(_) => "worker",
        Command::Keys(_) => "keys",
        Command::Audit(_) => "audit",
        Command::Backup(_) => "backup",
        Command::Db(_) => "db",
        Command::Workflow(_) => "workflow",
        _ => return Ok(()),
    };
    let message = format!("outlive {verb} works only on this machine, not on a server");
    let refused = Problem::new(Exit::Usage, "usage", message);
    if cli.global.server.is_some() {
        return Err(refused.hint("leave out --server"));
    }
    if matches!(cli.command, Command::Keys(_) | Command::Audit(_) | Command::Workflow(_)) {
        let settings = Settings::load(&cli.global)?;
        if !settings.server.is_empty() {
            return Err(refused.hint(format!(
                "a server is named by {}: go to its machine and name its database with --db, or unset it",
                settings.origin("server")
            )));
        }
    }
    Ok(())
}

/// The state of a run that people have answered, and that no process has taken up since.
const ANSWERED: &str = "answered";

/// A run's state in a word: its status, or why it is RUNNING but nobody executes it: it was `interrupted`, or what it
/// asked is `answered`.
pub(crate) fn state(run: &RunSummary) -> (Mark, &'static str) {
    match &run.waiting {
        Some(waiting) if waiting.is_interrupted => (Mark::Interrupted, "interrupted"),
        Some(waiting) if waiting.is_answered => (Mark::Open, ANSWERED),
        _ => (Mark::of(run.status), style::status_word(run.status)),
    }
}

/// What a run is waiting for, as JSON.
fn waiting_json(waiting: &Waiting) -> Value {
    json!({
        "for": waiting.waits_for,
        "on": waiting.on,
        "is_interrupted": waiting.is_interrupted,
        "is_answered": waiting.is_answered,
        "until": waiting.until.map(times::rfc3339),
        "reason": waiting.reason,
        "remedy": waiting.remedy,
        "hint": waiting.hint,
    })
}

/// What a run is waiting for, short enough for a column; nothing if the step already says so.
fn short_waiting(waiting: &Waiting, now: Timestamp) -> String {
    let on = waiting.on.as_deref().unwrap_or_default();
    let named = |what: &str| if on.is_empty() { what.to_owned() } else { format!("{what}: {on}") };
    match waiting.waits_for {
        WaitsFor::Session if on.is_empty() => "an earlier run".to_owned(),
        WaitsFor::Session => format!("run {}", style::short_id(on)),
        WaitsFor::Worker => "a process".to_owned(),
        WaitsFor::Room => "room".to_owned(),
        WaitsFor::Suspects => "its turn as a suspect".to_owned(),
        WaitsFor::Limit => "a place".to_owned(),
        WaitsFor::Time => waiting.until.map_or_else(|| "a while".to_owned(), |until| times::ahead(until, now)),
        WaitsFor::Person => named("a person"),
        WaitsFor::Cancel => "its end".to_owned(),
        WaitsFor::Model | WaitsFor::Tool | WaitsFor::Step | WaitsFor::Other => String::new(),
    }
}

/// What a run is waiting for, in one sentence.
fn waiting_line(waiting: &Waiting, now: Timestamp) -> String {
    let reason = style::line(&waiting.reason, REASON_CHARS);
    match waiting.until.filter(|until| *until > now) {
        Some(until) => format!("{reason}, {}", times::ahead(until, now)),
        None => reason,
    }
}

/// Longest reason that is shown.
const REASON_CHARS: usize = 700;

/// How many questions are told with their answers wherever a run is told of.
const QUESTIONS_SHOWN: usize = 5;

/// What would end the wait: in words, and below them as commands where there are some. Open questions come with the
/// commands that answer them.
fn remedy_lines(run: &RunSummary, open: &[QuestionSummary], global: &Global) -> Vec<String> {
    let asks = questions::lines(open, QUESTIONS_SHOWN, global);
    let Some(waiting) = &run.waiting else { return asks };
    let command = match &waiting.remedy {
        Some(Remedy::Cancel { run_id }) => Some(global.command(format_args!("cancel {run_id}"))),
        // The only workflow this program has is the demonstration's. A worker asks no server.
        Some(Remedy::StartWorker) if demonstration::is_ours(&run.info.workflow_id) => {
            Some(Global { server: None, ..global.clone() }.command("worker"))
        }
        Some(Remedy::StartWorker | Remedy::Answer { .. }) | None => None,
    };
    let command = command.map(|command| format!("  {command}"));
    // A question says itself what would answer it.
    let is_said = matches!(waiting.remedy, Some(Remedy::Answer { .. })) && !open.is_empty();
    let hint = waiting.hint.as_deref().filter(|_| !is_said).map(|hint| style::line(hint, REASON_CHARS));
    hint.into_iter().chain(command).chain(asks).collect()
}

/// A user's id, by the rule of the server.
fn user(id: &str) -> Result<String, String> {
    let wanted = || "a user's id has 1 to 256 bytes without control characters, and is not a reserved name".to_owned();
    if is_user(id) { Ok(id.to_owned()) } else { Err(wanted()) }
}

/// `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

/// A run in a list, as JSON.
fn run_json(run: &RunSummary) -> Value {
    let mut document = json!({
        "id": run.info.run_id,
        "status": state(run).1,
        "waiting": run.waiting.as_ref().map(waiting_json),
        "workflow_id": run.info.workflow_id,
        "workflow_name": run.info.workflow_name,
        "session_id": run.info.session_id,
        "user_id": run.info.user_id,
        "step": run.progress,
        "rerun_of": run.rerun_of,
        "forked_from": run.forked_from,
        "batch_id": run.batch_id,
        "batch_item": run.batch_item,
        "priority": run.priority,
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

/// The end of a run that was shown live: on a terminal its formatted result, then how it ended.
fn tell_end(run: &WorkflowRunOutput, seconds: f64, global: &Global) -> Result<(), Problem> {
    let is_styled = anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
    if is_styled && !global.quiet && run.status == RunStatus::Completed {
        crate::output::line("")?;
        pprint_run_response(run, Markdown::Render);
    }
    last_line(run, seconds).map_or(Ok(()), |line| Ok(crate::output::line(line)?))
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

/// `2 members · 4 tool calls · 1.9k tokens`, without the parts that are zero.
pub(crate) fn step_facts(step: &StepView) -> String {
    let mut facts = Vec::new();
    facts.extend((step.members() > 0).then(|| style::counted(step.members(), "member")));
    facts.extend((step.tool_calls > 0).then(|| style::counted(step.tool_calls, "tool call")));
    facts.extend((step.tokens > 0).then(|| format!("{} tokens", style::short_count(step.tokens))));
    facts.extend(step.finish_reason.map(|reason| format!("answer {}", reason.as_words())));
    facts.join(style::dot())
}

/// A line about a step: mark, name, facts.
pub(crate) fn step_line(mark: Mark, name: &str, rest: &str) -> String {
    format!(" {} {:<24} {rest}", mark.shown(), style::line(name, 60)).trim_end().to_owned()
}
