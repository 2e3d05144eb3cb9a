//! `outlive batch`: many inputs, each a run of its own, and how far they have come.

use super::run::workflow_id;
use super::these::Started;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::Known;
use crate::inputs::{Format, Inputs};
use crate::runs::{Role, Runs};
use crate::style::{self, DIM};
use crate::table::{self, Column, KEPT};
use crate::{output, times};
use clap::{Args, Subcommand};
use outlive::core::port::BatchFilter;
use outlive::core::{DefinitionId, RunStatus, Timestamp};
use outlive::engine::{Batch, BatchCounts, BatchSpec, CreateBatch};
use serde_json::{Value, json};
use std::ops::Range;
use std::time::Duration;

/// How to name a batch.
const BATCH_HELP: &str = "Its id, or @last";
/// Batches in one page.
const PAGE: u32 = 500;
/// Inputs that are added together, and their letters.
const ADDED_TOGETHER: usize = 500;
const ADDED_BYTES: usize = 512 << 10;
/// How long to wait where too many runs wait already.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Start a run for each input in a file, and show how far they have come; or ls, show, results, wait, retry, cancel
///
/// Its id is told first. Whoever is interrupted gives the same command again with --id ID: what was accepted is not
/// accepted twice. With -d it prints the id once all inputs are accepted, and returns.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BatchVerbs {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    new: Option<New>,
    #[command(flatten)]
    known: Known,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Ls(Ls),
    Show(Show),
    Results(Results),
    Wait(Wait),
    Retry(Retry),
    Cancel(Cancel),
}

#[derive(Debug, Args)]
struct New {
    /// The workflow: its id or its name; agent:ID and team:ID for what is served alone
    #[arg(value_name = "WORKFLOW")]
    workflow: String,
    /// The inputs, - for standard input: .csv names its columns in the first row, .txt has a text on each line, anything
    /// else a JSON text or object
    #[arg(value_name = "FILE")]
    file: String,
    /// How they are written [default: by the file's name]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// How many runs execute at once [default: 16, or the workflow's own limit]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Its runs count together with others that have this key
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// The priority of its runs
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    priority: i8,
    /// Whose it is, and its runs; a credential that names a user takes precedence
    #[arg(long, value_name = "ID", value_parser = super::user)]
    user: Option<String>,
    /// Its id; the same again goes on with it [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Print its id once all inputs are accepted, and return; the runs continue
    #[arg(short, long)]
    detach: bool,
}

/// List batches, newest first
#[derive(Debug, Args)]
struct Ls {
    /// Only those of this workflow
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<String>,
    /// How many at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// Show how far a batch has come, and which items have failed
#[derive(Debug, Args)]
struct Show {
    #[arg(value_name = "BATCH", default_value = "@last", help = BATCH_HELP)]
    batch: String,
    /// How many failed items at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    limit: usize,
}

/// Print what each item came to, in order, as lines of JSON
#[derive(Debug, Args)]
struct Results {
    #[arg(value_name = "BATCH", default_value = "@last", help = BATCH_HELP)]
    batch: String,
}

/// Wait until no run of a batch executes or waits to
#[derive(Debug, Args)]
struct Wait {
    #[arg(value_name = "BATCH", default_value = "@last", help = BATCH_HELP)]
    batch: String,
}

/// Try the failed items of a batch again, and show how far it has come; their new runs take their places
#[derive(Debug, Args)]
struct Retry {
    #[arg(value_name = "BATCH", help = BATCH_HELP)]
    batch: String,
    /// Those that were cancelled, too
    #[arg(long)]
    cancelled: bool,
    /// Print the ids of the new runs once all are accepted, and return; the runs continue
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    known: Known,
}

/// Cancel a batch: it takes no more items, and all its runs that have not ended are cancelled
#[derive(Debug, Args)]
struct Cancel {
    #[arg(value_name = "BATCH", help = BATCH_HELP)]
    batch: String,
    /// Why, for people who read the log
    #[arg(long, value_name = "TEXT", default_value = "cancelled from the command line")]
    reason: String,
}

impl BatchVerbs {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        match (&self.verb, &self.new) {
            (Some(Verb::Ls(ls)), _) => ls.run(global).await,
            (Some(Verb::Show(show)), _) => show.run(global).await,
            (Some(Verb::Results(results)), _) => results.run(global).await,
            (Some(Verb::Wait(wait)), _) => wait.run(global).await,
            (Some(Verb::Retry(retry)), _) => retry.run(global).await,
            (Some(Verb::Cancel(cancel)), _) => cancel.run(global).await,
            (None, Some(new)) => new.run(&self.known, global).await,
            (None, None) => {
                let problem = Problem::new(Exit::Usage, "usage", "a batch needs a workflow and a file with its inputs");
                Err(problem.hint("for example: outlive batch content-creation-demo topics.txt"))
            }
        }
    }
}

impl New {
    async fn run(&self, known: &Known, global: &Global) -> Result<Exit, Problem> {
        let workflow_id = workflow_id(&self.workflow)?;
        let inputs = Inputs::open(&self.file, self.format)?;
        let runs = match known.files.is_empty() {
            true => Runs::open_to_start(&workflow_id, role(self.detach), global).await?,
            false => {
                let (definitions, settings) = known.load(global)?;
                Runs::open_for(definitions, role(self.detach), settings).await?
            }
        };
        let done = self.start(&runs, &workflow_id, inputs, &known.global(global)?).await;
        runs.close().await?;
        done
    }

    async fn start(
        &self,
        runs: &Runs,
        workflow_id: &DefinitionId,
        mut inputs: Inputs,
        global: &Global,
    ) -> Result<Exit, Problem> {
        let spec = BatchSpec {
            concurrency: self.concurrency,
            concurrency_key: self.concurrency_key.clone(),
            priority: self.priority,
        };
        let create = CreateBatch { batch_id: self.id.clone(), spec, user_id: self.user.clone() };
        let batch = runs.create_batch(workflow_id, &create).await?;
        let id = batch.id.clone();
        output::note(global, format_args!("Batch {id}"));
        let go_on = |problem: Problem| {
            let again = global.command(format_args!("batch {} {} --id {id}", self.workflow, self.file));
            problem.hint(format!("what was accepted goes on; for the rest: {again}"))
        };
        let mut from = 0;
        let batch = loop {
            let chunk = chunk(&mut inputs).map_err(go_on)?;
            if chunk.is_empty() {
                break runs.add_items(&batch, from, &[], true).await.map_err(go_on)?;
            }
            add(runs, &batch, from, &chunk).await.map_err(go_on)?;
            from += chunk.len() as u64;
            output::note(global, format_args!("{from} accepted"));
        };
        if self.detach {
            if global.json {
                output::json(&batch_json(&batch))?;
            } else {
                output::line(&batch.id)?;
            }
            return Ok(Exit::Done);
        }
        wait(runs, &batch, global).await
    }
}

/// What a process must be able to do that starts runs of a batch: whoever stays executes them.
fn role(detach: bool) -> Role {
    if detach { Role::Accepts } else { Role::Executes }
}

/// The next inputs, as many as are added together.
fn chunk(inputs: &mut Inputs) -> Result<Vec<Value>, Problem> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while chunk.len() < ADDED_TOGETHER && bytes < ADDED_BYTES {
        let Some(input) = inputs.next()? else { break };
        bytes += outlive::core::json::len(&input);
        chunk.push(input);
    }
    Ok(chunk)
}

/// Adds inputs, as soon as there is room for them.
async fn add(runs: &Runs, batch: &Batch, from: u64, inputs: &[Value]) -> Result<(), Problem> {
    loop {
        match runs.add_items(batch, from, inputs, false).await {
            Err(problem) if problem.is_queue_full() => tokio::time::sleep(FULL_PAUSE).await,
            added => return added.map(drop),
        }
    }
}

/// Waits until the batch is at rest, and tells how it ended.
async fn wait(runs: &Runs, batch: &Batch, global: &Global) -> Result<Exit, Problem> {
    let rest = runs.wait_batch(&batch.id);
    let (batch, is_late) = match global.timeout {
        Some(patience) => match tokio::time::timeout(patience, rest).await {
            Ok(batch) => (batch?, false),
            Err(_) => (runs.batch(&batch.id).await?, true),
        },
        None => (rest.await?, false),
    };
    tell(&batch, global)?;
    Ok(match batch.status() {
        _ if is_late => Exit::TimedOut,
        "failed" => Exit::RunFailed,
        "cancelled" => Exit::RunCancelled,
        "paused" => Exit::RunPaused,
        _ => Exit::Done,
    })
}

impl Ls {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let workflow_id = self.workflow.as_deref().map(workflow_id).transpose()?;
        let runs = Runs::open(global).await?;
        let mut filter = BatchFilter { workflow_id, limit: PAGE, ..BatchFilter::default() };
        let mut batches = Vec::new();
        while batches.len() <= self.limit {
            let page = runs.batches(filter.clone()).await?;
            batches.extend(page.batches);
            match page.next {
                Some(next) => filter.after = Some(next),
                None => break,
            }
        }
        let has_more = batches.len() > self.limit;
        batches.truncate(self.limit);
        if global.json {
            let batches: Vec<_> = batches.iter().map(batch_json).collect();
            output::json(&json!({ "batches": batches, "more": has_more }))?;
            return Ok(Exit::Done);
        }
        if batches.is_empty() {
            output::note(global, format_args!("no batch in {}", runs.place()));
            return Ok(Exit::Done);
        }
        let now = times::now();
        let rows: Vec<_> = batches.iter().map(|batch| row(batch, global, now)).collect();
        output::write(table::table(&COLUMNS, &rows, table::width()))?;
        if has_more {
            output::note(global, format_args!("more with: -n {}", self.limit.saturating_mul(5)));
        }
        Ok(Exit::Done)
    }
}

const COLUMNS: [Column; 5] = [
    Column { head: "BATCH", width_min: Some(36), rank: KEPT },
    Column { head: "STATUS", width_min: None, rank: KEPT },
    Column { head: "WORKFLOW", width_min: Some(8), rank: 1 },
    Column { head: "ITEMS", width_min: None, rank: 3 },
    Column { head: "CREATED", width_min: None, rank: 2 },
];

fn row(batch: &Batch, global: &Global, now: Timestamp) -> [String; 5] {
    let BatchCounts { completed, failed, .. } = batch.counts;
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    [
        style::line(&batch.id, 60),
        batch.status().to_owned(),
        style::line(batch.workflow_id.as_str(), 40),
        format!("{completed} of {}{failed}", batch.items.unwrap_or(batch.accepted)),
        times::shown(batch.created_at, global.time_format, now),
    ]
}

impl Show {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let batch = runs.batch(&self.batch).await?;
        let page = runs.batch_items(&batch.id, &[RunStatus::Error], false, None).await?;
        let failed: Vec<_> = page.items.iter().take(self.limit).collect();
        if global.json {
            let mut shown = batch_json(&batch);
            shown["failed_items"] =
                failed.iter().map(|item| json!({ "index": item.index, "run": item.run_id })).collect();
            output::json(&shown)?;
            return Ok(Exit::Done);
        }
        tell(&batch, global)?;
        for item in &failed {
            output::line(format_args!("  item {} failed: run {}", item.index, item.run_id))?;
        }
        if batch.counts.failed > 0 {
            let again = global.command(format_args!("batch retry {}", batch.id));
            output::note(global, format_args!("try the failed ones again with: {again}"));
        }
        Ok(Exit::Done)
    }
}

impl Results {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let batch = runs.batch(&self.batch).await?;
        let (mut after, mut told): (Option<String>, u64) = (None, 0);
        loop {
            let page = runs.batch_items(&batch.id, &[], true, after.as_deref()).await?;
            page.unreadable.iter().for_each(|problem| output::note(global, problem));
            for item in page.items {
                lacking(&batch, told..item.index)?;
                told = item.index + 1;
                let mut line = json!({
                    "index": item.index,
                    "run": item.run_id,
                    "status": style::status_word(item.status),
                    "content": item.content,
                });
                if let Some(error) = item.error {
                    line["error"] = json!(error);
                }
                output::json(&line)?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        lacking(&batch, told..batch.items.unwrap_or(told))?;
        Ok(Exit::Done)
    }
}

/// A line for each item without a run that can be read. While more may come, there are none to tell of.
fn lacking(batch: &Batch, items: Range<u64>) -> Result<(), Problem> {
    for index in items.filter(|_| batch.items.is_some()) {
        let error = "its run was deleted, or cannot be read";
        output::json(&json!({ "index": index, "run": null, "status": null, "content": null, "error": error }))?;
    }
    Ok(())
}

impl Wait {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let batch = runs.batch(&self.batch).await?;
        wait(&runs, &batch, global).await
    }
}

impl Retry {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open_knowing(role(self.detach), &self.known, global).await?;
        let done = self.start(&runs, &self.known.global(global)?).await;
        runs.close().await?;
        done
    }

    async fn start(&self, runs: &Runs, global: &Global) -> Result<Exit, Problem> {
        let batch = runs.batch(&self.batch).await?;
        let mut started = if self.detach { Started::default() } else { Started::followed() };
        let mut after: Option<String> = None;
        loop {
            let page = runs.retry_batch(&batch.id, self.cancelled, after.as_deref()).await?;
            started.tell(page.runs, &page.unreadable, global)?;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        if !self.detach {
            output::note(global, format_args!("{} of batch {} tried again", started.count(), batch.id));
            let exit = wait(runs, &batch, global).await?;
            return started.refused().map_or(Ok(exit), Err);
        }
        let ended = started.end(global)?;
        if let Some(worker) = runs.awaited_worker(global) {
            output::note(global, format_args!("A process that executes takes them: {worker}"));
        }
        Ok(ended)
    }
}

impl Cancel {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open_as(Role::Steers, global).await?;
        let done = async {
            let batch = runs.batch(&self.batch).await?;
            runs.cancel_batch(&batch.id, &self.reason).await
        };
        let done = done.await;
        runs.close().await?;
        tell(&done?, global)?;
        Ok(Exit::Done)
    }
}

/// Says how far a batch has come.
fn tell(batch: &Batch, global: &Global) -> Result<(), Problem> {
    if global.json {
        output::json(&batch_json(batch))?;
        return Ok(());
    }
    let BatchCounts { queued, running, paused, completed, failed, cancelled, deleted } = batch.counts;
    let counts = [
        (completed, "completed"),
        (running, "running"),
        (queued, "queued"),
        (paused, "paused"),
        (failed, "failed"),
        (cancelled, "cancelled"),
        (deleted, "deleted"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    let counts = counts.collect::<Vec<_>>().join(style::dot());
    let items = match batch.items {
        Some(items) => items.to_string(),
        None => format!("{} so far", batch.accepted),
    };
    output::line(&batch.id)?;
    output::line(format_args!("  {DIM}workflow{DIM:#}  {}", batch.workflow_id))?;
    output::line(format_args!("  {DIM}status{DIM:#}    {}", batch.status()))?;
    output::line(format_args!("  {DIM}items{DIM:#}     {items}"))?;
    if !counts.is_empty() {
        output::line(format_args!("  {DIM}of them{DIM:#}   {counts}"))?;
    }
    Ok(())
}

fn batch_json(batch: &Batch) -> Value {
    json!({
        "id": batch.id,
        "workflow_id": batch.workflow_id,
        "user_id": batch.user_id,
        "status": batch.status(),
        "items": batch.items,
        "accepted": batch.accepted,
        "counts": batch.counts,
        "concurrency": batch.spec.concurrency,
        "concurrency_key": batch.spec.concurrency_key,
        "priority": batch.spec.priority,
        "cancelled_at": batch.cancelled_at.map(times::rfc3339),
        "created_at": times::rfc3339(batch.created_at),
        "updated_at": times::rfc3339(batch.updated_at),
    })
}
