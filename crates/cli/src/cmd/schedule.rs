//! `outlive schedule`: runs at times given by cron.

use super::run::{Detach, Input, workflow_id};
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::Known;
use crate::runs::{Role, Runs};
use crate::style::{self, DIM};
use crate::table::{self, Column, KEPT};
use crate::{output, times};
use clap::{Args, Subcommand};
use outlive::core::Timestamp;
use outlive::core::port::{ScheduleFilter, StoredTick};
use outlive::engine::{CatchUp, CreateSchedule, Overlap, Schedule, ScheduleSpec};
use serde_json::{Value, json};

/// How to name a schedule.
const SCHEDULE_HELP: &str = "Its id, or its name";

/// Schedules in one page.
const PAGE: u32 = 500;

/// Make runs of a workflow at times given by cron
///
/// Each time is taken once, by whichever process executes the workflow: your program, `outlive serve`, `outlive worker`.
#[derive(Debug, Args)]
pub(crate) struct ScheduleVerbs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Add(Box<Add>),
    Ls(Ls),
    Show(Show),
    Pause(Pause),
    Resume(Resume),
    Run(RunNow),
    #[command(visible_alias = "delete")]
    Rm(Rm),
}

/// Create a schedule; the same again is the one that is there
#[derive(Debug, Args)]
struct Add {
    /// The workflow: its id or its name; agent:ID and team:ID for what is served alone
    #[arg(value_name = "WORKFLOW")]
    workflow: String,
    /// When: minute, hour, day of the month, month, day of the week, with seconds before them if wanted; or @daily
    #[arg(value_name = "CRON")]
    cron: String,
    #[command(flatten)]
    input: Input,
    /// What to call it [default: the workflow and its times]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// By whose clocks, for example Europe/Berlin
    #[arg(long, visible_alias = "tz", value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// What becomes of times that no process was there to take: skip, one run for all of them, or all
    #[arg(long, value_name = "POLICY", default_value = "one", value_parser = catch_up)]
    catch_up: CatchUp,
    /// What happens while its run before has not come to rest: skip, queue or allow
    #[arg(long, value_name = "POLICY", default_value = "skip", value_parser = overlap)]
    overlap: Overlap,
    /// The session of its runs [default: each has its own]
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Whose it is, and its runs; a credential that names a user takes precedence
    #[arg(long, value_name = "ID", value_parser = super::user)]
    user: Option<String>,
    /// The priority of its runs
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    priority: i8,
    /// The concurrency key of its runs
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// Put it in the place of the one with its name
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    known: Known,
}

/// List schedules, those created first first
#[derive(Debug, Args)]
struct Ls {
    /// Only those of this workflow
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<String>,
}

/// Show a schedule, and what came of its last times
#[derive(Debug, Args)]
struct Show {
    #[arg(value_name = "SCHEDULE", help = SCHEDULE_HELP)]
    schedule: String,
    /// How many of its last times
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// Pause a schedule: it makes no runs until it is resumed
#[derive(Debug, Args)]
struct Pause {
    #[arg(value_name = "SCHEDULE", help = SCHEDULE_HELP)]
    schedule: String,
}

/// Resume a schedule, from its next time on
#[derive(Debug, Args)]
struct Resume {
    #[arg(value_name = "SCHEDULE", help = SCHEDULE_HELP)]
    schedule: String,
}

/// Make a run now, and show it as it happens; with -d print its id and return
#[derive(Debug, Args)]
struct RunNow {
    #[arg(value_name = "SCHEDULE", help = SCHEDULE_HELP)]
    schedule: String,
    #[command(flatten)]
    detach: Detach,
    #[command(flatten)]
    known: Known,
}

/// Delete a schedule; the runs it has made stay
#[derive(Debug, Args)]
struct Rm {
    #[arg(value_name = "SCHEDULE", help = SCHEDULE_HELP)]
    schedule: String,
}

fn catch_up(text: &str) -> Result<CatchUp, String> {
    let found = CatchUp::ALL.into_iter().find(|one| one.as_str() == text);
    found.ok_or_else(|| format!("write one of {}", CatchUp::ALL.map(CatchUp::as_str).join(", ")))
}

fn overlap(text: &str) -> Result<Overlap, String> {
    let found = Overlap::ALL.into_iter().find(|one| one.as_str() == text);
    found.ok_or_else(|| format!("write one of {}", Overlap::ALL.map(Overlap::as_str).join(", ")))
}

impl ScheduleVerbs {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        match &self.verb {
            Verb::Add(add) => add.run(global).await,
            Verb::Ls(ls) => ls.run(global).await,
            Verb::Show(show) => show.run(global).await,
            Verb::Pause(Pause { schedule }) => change(schedule, Change::Pause, global).await,
            Verb::Resume(Resume { schedule }) => change(schedule, Change::Resume, global).await,
            Verb::Run(now) => now.run(global).await,
            Verb::Rm(Rm { schedule }) => change(schedule, Change::Delete, global).await,
        }
    }
}

impl Add {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let workflow_id = workflow_id(&self.workflow)?;
        let spec = ScheduleSpec {
            time_zone: self.time_zone.clone(),
            input: self.input.given(None)?,
            session_id: self.session.clone(),
            catch_up: self.catch_up,
            overlap: self.overlap,
            priority: self.priority,
            concurrency_key: self.concurrency_key.clone(),
            ..ScheduleSpec::new(&self.cron)
        };
        let create = CreateSchedule {
            name: self.name.clone(),
            user_id: self.user.clone(),
            replaces: self.replace,
            ..CreateSchedule::new(spec)
        };
        let runs = match self.known.files.is_empty() {
            true => Runs::open_to_start(&workflow_id, Role::Accepts, global).await?,
            false => {
                let (definitions, settings) = self.known.load(global)?;
                Runs::open_for(definitions, Role::Accepts, settings).await?
            }
        };
        let created = runs.create_schedule(&workflow_id, create).await;
        runs.close().await?;
        tell(&created?, global)
    }
}

impl Ls {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let workflow_id = self.workflow.as_deref().map(workflow_id).transpose()?;
        let runs = Runs::open(global).await?;
        let mut filter = ScheduleFilter { workflow_id, limit: PAGE, ..ScheduleFilter::default() };
        let mut schedules = Vec::new();
        loop {
            let page = runs.schedules(filter.clone()).await?;
            schedules.extend(page.schedules);
            match page.next {
                Some(next) => filter.after = Some(next),
                None => break,
            }
        }
        if global.json {
            let schedules: Vec<_> = schedules.iter().map(schedule_json).collect();
            output::json(&json!({ "schedules": schedules }))?;
            return Ok(Exit::Done);
        }
        if schedules.is_empty() {
            output::note(global, format_args!("no schedule in {}", runs.place()));
            return Ok(Exit::Done);
        }
        let now = times::now();
        let rows: Vec<_> = schedules.iter().map(|schedule| row(schedule, global, now)).collect();
        output::write(table::table(&COLUMNS, &rows, table::width()))?;
        Ok(Exit::Done)
    }
}

const COLUMNS: [Column; 6] = [
    Column { head: "NAME", width_min: Some(12), rank: KEPT },
    Column { head: "WORKFLOW", width_min: Some(8), rank: 3 },
    Column { head: "WHEN", width_min: None, rank: KEPT },
    Column { head: "NEXT", width_min: None, rank: 4 },
    Column { head: "LAST", width_min: None, rank: 1 },
    Column { head: "RUNS", width_min: None, rank: 2 },
];

fn row(schedule: &Schedule, global: &Global, now: Timestamp) -> [String; 6] {
    let shown = |at: Timestamp| times::shown(at, global.time_format, now);
    [
        style::line(&schedule.name, 60),
        style::line(schedule.workflow_id.as_str(), 40),
        when(&schedule.spec),
        schedule.next_due.map_or_else(|| "paused".to_owned(), shown),
        schedule.last_due.map(shown).unwrap_or_default(),
        schedule.runs.to_string(),
    ]
}

fn when(spec: &ScheduleSpec) -> String {
    let text = if spec.time_zone == "UTC" { spec.cron.clone() } else { format!("{} {}", spec.cron, spec.time_zone) };
    style::line(&text, 80)
}

impl Show {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let schedule = runs.schedule(&self.schedule).await?;
        let ticks = runs.schedule_ticks(&schedule.id, self.limit).await?;
        if global.json {
            let mut shown = schedule_json(&schedule);
            shown["ticks"] = ticks.iter().map(tick_json).collect();
            output::json(&shown)?;
            return Ok(Exit::Done);
        }
        tell(&schedule, global)?;
        for tick in &ticks {
            let (time, outcome) = (tick.due_at.to_rfc3339(), tick.outcome.as_str());
            let about = match (&tick.run_id, &tick.note) {
                (Some(run_id), _) => style::short_id(run_id.as_str()).to_owned(),
                (None, Some(note)) => style::line(note, 200),
                (None, None) => String::new(),
            };
            output::line(format_args!("  {time}  {outcome:<9} {about}"))?;
        }
        Ok(Exit::Done)
    }
}

/// What is done to a schedule.
#[derive(Clone, Copy)]
enum Change {
    Pause,
    Resume,
    Delete,
}

async fn change(name: &str, change: Change, global: &Global) -> Result<Exit, Problem> {
    let runs = Runs::open_as(Role::Steers, global).await?;
    let done = async {
        match change {
            Change::Pause => runs.pause_schedule(name).await.map(Some),
            Change::Resume => runs.resume_schedule(name).await.map(Some),
            Change::Delete => delete(&runs, name, global).await.map(|()| None),
        }
    };
    let done = done.await;
    runs.close().await?;
    match done? {
        Some(schedule) => tell(&schedule, global),
        None if global.json => {
            output::json(&json!({ "deleted": name }))?;
            Ok(Exit::Done)
        }
        None => {
            output::note(global, format_args!("Deleted {name:?}; the runs it has made stay"));
            Ok(Exit::Done)
        }
    }
}

/// Deletes a schedule. One that a file declares comes back, which is told.
async fn delete(runs: &Runs, name: &str, global: &Global) -> Result<(), Problem> {
    let source = runs.schedule(name).await?.source;
    runs.delete_schedule(name).await?;
    if let Some(source) = source {
        let source = style::line(&source, 200);
        output::note(global, format_args!("{source} declares it: it comes back when a process loads that file"));
    }
    Ok(())
}

impl RunNow {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open_knowing(self.detach.role(), &self.known, global).await?;
        let done = async {
            let accepted = runs.trigger_schedule(&self.schedule).await?;
            self.detach.go_on(&runs, &accepted, &self.known.global(global)?).await
        };
        let done = done.await;
        runs.close().await?;
        done
    }
}

/// Says what a schedule is.
fn tell(schedule: &Schedule, global: &Global) -> Result<Exit, Problem> {
    if global.json {
        output::json(&schedule_json(schedule))?;
        return Ok(Exit::Done);
    }
    let Schedule { id, name, workflow_id, spec, .. } = schedule;
    output::line(style::line(name, 200))?;
    output::line(format_args!("  {DIM}id{DIM:#}        {id}"))?;
    output::line(format_args!("  {DIM}workflow{DIM:#}  {workflow_id}"))?;
    output::line(format_args!("  {DIM}when{DIM:#}      {}", when(spec)))?;
    let next = schedule.next_due.map_or_else(|| "never: it is paused".to_owned(), Timestamp::to_rfc3339);
    output::line(format_args!("  {DIM}next{DIM:#}      {next}"))?;
    let (catch_up, overlap) = (spec.catch_up.as_str(), spec.overlap.as_str());
    output::line(format_args!("  {DIM}policies{DIM:#}  catch-up {catch_up}, overlap {overlap}"))?;
    output::line(format_args!("  {DIM}runs{DIM:#}      {}", schedule.runs))?;
    if let Some(source) = &schedule.source {
        output::line(format_args!("  {DIM}source{DIM:#}    {}", style::line(source, 200)))?;
    }
    Ok(Exit::Done)
}

fn schedule_json(schedule: &Schedule) -> Value {
    let spec = &schedule.spec;
    json!({
        "id": schedule.id,
        "name": schedule.name,
        "workflow_id": schedule.workflow_id,
        "user_id": schedule.user_id,
        "cron": spec.cron,
        "time_zone": spec.time_zone,
        "input": spec.input,
        "session_id": spec.session_id,
        "catch_up": spec.catch_up.as_str(),
        "overlap": spec.overlap.as_str(),
        "priority": spec.priority,
        "concurrency_key": spec.concurrency_key,
        "source": schedule.source,
        "is_paused": schedule.is_paused(),
        "next_due": schedule.next_due.map(times::rfc3339),
        "last_due": schedule.last_due.map(times::rfc3339),
        "last_run": schedule.last_run,
        "runs": schedule.runs,
        "created_at": times::rfc3339(schedule.created_at),
        "updated_at": times::rfc3339(schedule.updated_at),
    })
}

fn tick_json(tick: &StoredTick) -> Value {
    json!({
        "due_at": times::rfc3339(tick.due_at),
        "at": times::rfc3339(tick.at),
        "outcome": tick.outcome.as_str(),
        "run": tick.run_id,
        "note": tick.note,
    })
}
