//! `outlive prune`: deletes runs that have ended, once it was said what that means.

use super::ls::Wanted;
use super::size;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::runs::{Role, Runs};
use crate::{output, style, times};
use clap::Args;
use outlive::core::Retention;
use outlive::engine::{Prune as Request, PruneReport};
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

/// Delete runs that have ended, with their logs and outputs
///
/// Says how many runs and bytes that is, and asks first, unless --yes is given. A run goes when one of the limits does not
/// keep it; with --where alone, every run that matches goes. Runs that have not ended always stay, and so do those that
/// an unfinished run of their session may read, whose webhook is still to be told, or whose batch has not ended. Sessions
/// stay; a batch goes with its last run, and with --older-than also one that has none. To have it done all
/// the time, set retention.max_age, retention.max_runs or retention.max_bytes where runs are executed.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Those that ended longer ago than this, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = times::parse_duration)]
    older_than: Option<Duration>,
    /// All but the last N that were accepted
    #[arg(long, value_name = "N")]
    keep: Option<u64>,
    /// Those accepted first, until the whole database takes no more than this, such as 2GB
    #[arg(long, value_name = "SIZE", value_parser = crate::settings::parse_size, conflicts_with = "filters")]
    max_size: Option<u64>,
    /// Only runs that match: status:…, workflow:…, session:…, batch:…, user:…, since:…, as for outlive ls
    #[arg(id = "filters", long = "where", value_name = "FILTER", num_args = 1..)]
    filters: Vec<String>,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short = 'y', long, conflicts_with = "dry_run")]
    yes: bool,
}

impl Prune {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let request = self.request()?;
        let runs = Runs::open_as(if self.dry_run { Role::Looks } else { Role::Steers }, global).await?;
        let done = self.prune(&runs, request, global).await;
        runs.close().await?;
        done
    }

    fn request(&self) -> Result<Request, Problem> {
        let filter = Wanted::parse(&self.filters)?.of_ended(times::now())?;
        let retention =
            Retention { max_age: self.older_than, max_runs: self.keep, max_bytes: self.max_size, ..Retention::new() };
        if retention.is_unlimited() && self.filters.is_empty() {
            let problem = Problem::new(Exit::Usage, "usage", "that would delete every run that has ended");
            return Err(
                problem.hint("say which: --older-than 30d, --keep 1000, --max-size 2GB or --where status:error")
            );
        }
        Ok(Request { retention, filter, ..Request::default() })
    }

    async fn prune(&self, runs: &Runs, request: Request, global: &Global) -> Result<Exit, Problem> {
        if !self.yes {
            let preview = all(runs, &Request { is_preview: true, ..request.clone() }).await?;
            if self.dry_run {
                return tell(&preview, true, runs, global);
            }
            if preview.runs + preview.batches == 0 {
                return tell(&preview, false, runs, global);
            }
            confirm(&preview, runs)?;
        }
        let report = all(runs, &request).await?;
        tell(&report, false, runs, global)
    }
}

/// All reports together.
async fn all(runs: &Runs, request: &Request) -> Result<PruneReport, Problem> {
    let (mut sum, mut after) = (PruneReport::default(), None);
    loop {
        let report = runs.prune(Request { after, ..request.clone() }).await?;
        sum.runs += report.runs;
        sum.bytes += report.bytes;
        sum.in_use += report.in_use;
        sum.batches += report.batches;
        if report.next.is_none() {
            return Ok(sum);
        }
        after = report.next;
    }
}

/// Asks whether to go on.
fn confirm(preview: &PruneReport, runs: &Runs) -> Result<(), Problem> {
    let what = format!("{} ({}) of {}", counted(preview), size(preview.bytes), runs.place());
    let refused = |message: String| Problem::new(Exit::Usage, "not_confirmed", message).hint("to delete them: --yes");
    if !std::io::stdin().is_terminal() {
        return Err(refused(format!("{what} would be deleted, and nobody is there to ask")));
    }
    let mut stderr = anstream::stderr().lock();
    write!(stderr, "Delete {what}? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(refused("nothing was deleted".to_owned())),
    }
}

fn counted(report: &PruneReport) -> String {
    let many = |count: u64, what: &str| style::counted(usize::try_from(count).unwrap_or(usize::MAX), what);
    let runs = many(report.runs, "run");
    match report.batches {
        0 => runs,
        1 => format!("{runs} and 1 batch without runs"),
        batches => format!("{runs} and {batches} batches without runs"),
    }
}

fn tell(report: &PruneReport, is_preview: bool, runs: &Runs, global: &Global) -> Result<Exit, Problem> {
    if global.json {
        output::json(&json!({
            "runs": report.runs,
            "bytes": report.bytes,
            "in_use": report.in_use,
            "batches": report.batches,
            "dry_run": is_preview,
        }))?;
        return Ok(Exit::Done);
    }
    let (what, bytes) = (counted(report), size(report.bytes));
    let verb = if is_preview { "would be deleted" } else { "deleted" };
    output::line(format_args!("{what} {verb}, {bytes}"))?;
    if report.in_use > 0 {
        let stay = if report.in_use == 1 { "1 more stays".to_owned() } else { format!("{} more stay", report.in_use) };
        output::note(
            global,
            format_args!("{stay} until an unfinished run of the session, a webhook or a batch is done with it"),
        );
    }
    if !is_preview && report.runs > 0 && runs.is_here() {
        output::note(global, "The file is made smaller by whoever has it open; at once with: outlive db vacuum");
    }
    Ok(Exit::Done)
}
