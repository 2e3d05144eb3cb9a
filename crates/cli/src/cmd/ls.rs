//! `outlive ls`: runs, newest first.

use super::{ANSWERED, run_json, short_waiting, state};
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::runs::Runs;
use crate::table::{self, Column, KEPT};
use crate::{output, style, times};
use clap::Args;
use outlive::client::RunSummary;
use outlive::core::port::RunFilter;
use outlive::core::{DefinitionId, Remedy, RunId, RunStatus, SessionId, Timestamp};
use outlive::engine::{Bulk, BulkVerb};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// List runs, newest first
///
/// Filters: status:running, status:error,cancelled, workflow:NAME, session:ID, batch:ID, user:ID, since:1d. A run must match
/// all of them. A run that had started and that nobody executes now is status:interrupted. One whose questions are
/// answered, and that waits for a process to go on, is shown as answered and found as status:running.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Which runs: status:…, workflow:…, session:…, batch:…, user:…, since:…
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// How many runs at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: u32,
}

/// RUNNING in the store, but executed by nobody.
const INTERRUPTED: &str = "interrupted";
/// Runs in one page.
const PAGE: u32 = 200;

impl Ls {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let wanted = Wanted::parse(&self.filters)?;
        let found = Runs::open(global).await?;
        let now = times::now();
        let (runs, has_more) = read(self.limit as usize, global, &found, wanted, now).await?;
        if global.json {
            let runs: Vec<_> = runs.iter().map(run_json).collect();
            output::json(&json!({ "runs": runs, "more": has_more }))?;
            return Ok(Exit::Done);
        }
        if runs.is_empty() {
            output::note(global, format_args!("no such runs in {}", found.place()));
            if let Some(remark) = found.remark_on_nothing(global)? {
                output::note(global, remark);
            }
            return Ok(Exit::Done);
        }
        output::write(table(&runs, global, now))?;
        let asking = runs.iter().filter(|run| is_asking(run)).count();
        if asking > 0 {
            let all = global.command("questions");
            output::note(global, format_args!("{} for a person: {all}", counted(asking)));
        }
        if has_more {
            output::note(global, format_args!("more with: -n {}", self.limit.saturating_mul(5)));
        }
        Ok(Exit::Done)
    }
}

/// The newest of the wanted runs, as many as `limit`, and whether there are more.
async fn read(
    limit: usize,
    global: &Global,
    found: &Runs,
    wanted: Wanted,
    now: Timestamp,
) -> Result<(Vec<RunSummary>, bool), Problem> {
    let is_recent = |run: &RunSummary| wanted.since.is_none_or(|since| now.since(run.created_at) <= since);
    let is_wanted = |run: &RunSummary| {
        let word = Some(state(run).1).filter(|word| *word != ANSWERED);
        wanted.states.is_empty() || wanted.states.contains(&word.unwrap_or(style::status_word(run.status)))
    };
    let mut filter = wanted.filter;
    let mut runs = Vec::new();
    loop {
        // Ask for one more than needed to see whether there are more.
        let missing = u32::try_from(limit + 1 - runs.len()).unwrap_or(u32::MAX);
        // Interrupted runs can be told from working ones only after reading them.
        filter.limit = if wanted.states.is_empty() { missing.min(PAGE) } else { PAGE };
        let page = found.list(filter.clone()).await?;
        let damaged = page.runs.iter().filter_map(|run| run.unreadable.as_ref());
        page.unreadable.iter().chain(damaged).for_each(|problem| output::note(global, problem));
        let is_end = page.next.is_none() || !page.runs.iter().all(is_recent);
        runs.extend(page.runs.into_iter().filter(|run| is_recent(run) && is_wanted(run)));
        if is_end || runs.len() > limit {
            let has_more = runs.len() > limit;
            runs.truncate(limit);
            return Ok((runs, has_more));
        }
        filter.after = page.next;
    }
}

fn counted(asking: usize) -> String {
    if asking == 1 { "1 run waits".to_owned() } else { format!("{asking} runs wait") }
}

fn is_asking(run: &RunSummary) -> bool {
    run.waiting.as_ref().is_some_and(|waiting| matches!(waiting.remedy, Some(Remedy::Answer { .. })))
}

/// The parsed filter words.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    filter: RunFilter,
    since: Option<Duration>,
    /// The requested states, as `ls` names them.
    states: Vec<&'static str>,
}

impl Wanted {
    pub(super) fn parse(words: &[String]) -> Result<Self, Problem> {
        let mut wanted = Self::default();
        for word in words {
            let (name, value) = word.split_once(':').unwrap_or((word, ""));
            wanted.add(name, value).map_err(|problem| {
                let problem = Problem::new(Exit::Usage, "filter_unknown", format!("filter {word:?}: {problem}"));
                problem.hint(
                    "filters are status:, workflow:, session:, batch:, user: and since:, for example status:error",
                )
            })?;
        }
        Ok(wanted)
    }

    /// The same for runs that have ended.
    pub(super) fn of_ended(self, now: Timestamp) -> Result<RunFilter, Problem> {
        if self.filter.statuses.iter().any(|status| !status.is_terminal()) {
            let problem = Problem::new(Exit::Usage, "usage", "only runs that have ended can be deleted");
            return Err(problem.hint("cancel the others first: outlive cancel --where status:paused"));
        }
        let since = |since: Duration| {
            let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
            Timestamp::from_micros(now.as_micros().saturating_sub(micros))
        };
        Ok(RunFilter { created_from: self.since.map(since), ..self.filter })
    }

    /// What is to be done to all of them.
    pub(super) fn bulk(self, verb: BulkVerb, now: Timestamp) -> Bulk {
        let back = self.since.map(|since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        let created_from = back.map(|back| Timestamp::from_micros(now.as_micros().saturating_sub(back)));
        let has = |word: &str| self.states.contains(&word);
        let interrupted = match (has(INTERRUPTED), has(style::status_word(RunStatus::Running))) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            (true, true) | (false, false) => None,
        };
        Bulk { filter: RunFilter { created_from, ..self.filter }, interrupted, ..Bulk::new(verb) }
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "status" => {
                for word in value.split(',') {
                    let is_interrupted = word.eq_ignore_ascii_case(INTERRUPTED);
                    let status = if is_interrupted { Some(RunStatus::Running) } else { RunStatus::parse(word) };
                    let status = status.ok_or_else(|| format!("there is no status {word:?}"))?;
                    self.filter.statuses.push(status);
                    self.states.push(if is_interrupted { INTERRUPTED } else { style::status_word(status) });
                }
            }
            "workflow" => {
                let id = DefinitionId::from_name(value).map_err(|error| error.to_string())?;
                self.filter.workflow_id = Some(id);
            }
            "session" => self.filter.session_id = Some(SessionId::parse(value).map_err(|error| error.to_string())?),
            "batch" => {
                let id = RunId::parse(value).map_err(|error| error.to_string())?;
                self.filter.batch_id = Some(Arc::from(id.as_str()));
            }
            "user" => self.filter.user_id = Some(value.into()),
            "since" => self.since = Some(times::parse_duration(value)?),
            _ => return Err("there is no such filter".to_owned()),
        }
        Ok(())
    }
}

const COLUMNS: [Column; 6] = [
    Column { head: "RUN", width_min: Some(13), rank: KEPT },
    Column { head: "STATUS", width_min: None, rank: KEPT },
    Column { head: "WORKFLOW", width_min: Some(8), rank: 2 },
    Column { head: "STEP", width_min: Some(8), rank: 1 },
    Column { head: "WAITS FOR", width_min: Some(9), rank: 4 },
    Column { head: "STARTED", width_min: None, rank: 3 },
];

/// The runs as a table that fits the terminal.
fn table(runs: &[RunSummary], global: &Global, now: Timestamp) -> String {
    let row = |run: &RunSummary| {
        let (mark, word) = state(run);
        [
            style::short_id(run.info.run_id.as_str()).to_owned(),
            format!("{} {word}", mark.text(style::has_utf8())),
            style::line(&run.info.workflow_name, 40),
            style::line(run.progress.as_deref().unwrap_or_default(), 40),
            run.waiting.as_ref().map(|waiting| style::line(&short_waiting(waiting, now), 40)).unwrap_or_default(),
            times::shown(run.created_at, global.time_format, now),
        ]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    table::table(&COLUMNS, &rows, table::width())
}
