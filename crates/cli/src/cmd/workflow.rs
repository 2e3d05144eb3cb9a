//! `outlive workflow`: what a definition means for the runs that are there.

use super::run::read_text;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::settings::Settings;
use crate::store::Store;
use crate::table::{self, Column, KEPT};
use crate::{output, style};
use clap::{Args, Subcommand};
use outlive::core::Structure;
use outlive::engine::diff::{Outlook, Prospect, diff};
use serde_json::{Value, json};

/// Compare a workflow's definition with its unfinished runs
#[derive(Debug, Args)]
pub(crate) struct Workflow {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Diff(Diff),
}

/// Tell which unfinished runs can go on with a new definition, before it is deployed
///
/// The definition is JSON, as Workflow::to_json() gives it in your program. Each unfinished run of that workflow is judged
/// by its log, as it stands now: steps it has not reached may be anything, those it has reached must be there. A run that
/// cannot go on would pause, and the first difference is named by its path. Nothing is changed. Exit code 0 when every run
/// can go on, 5 when one cannot.
#[derive(Debug, Args)]
struct Diff {
    /// File with the new definition, - for standard input
    #[arg(value_name = "FILE")]
    definition: String,
}

/// The longest definition, in bytes.
const BYTES_MAX: u64 = 64 << 20;

impl Workflow {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        match &self.verb {
            Verb::Diff(diff) => diff.run(global).await,
        }
    }
}

impl Diff {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let text = read_text(&self.definition, BYTES_MAX, "no definition has")?;
        let structure = Structure::parse(&text).map_err(|invalid| {
            let problems = invalid.problems.join("\n");
            let message = format!("{} is no definition", shown(&self.definition));
            Problem::new(Exit::Usage, "invalid_definition", message).hint(problems)
        })?;
        let store = Store::look_at(Settings::load(global)?.db, global).await?;
        let mut found = Vec::new();
        let unreadable = diff(&*store.db, &structure, |prospect| found.push(prospect)).await?;
        unreadable.iter().for_each(|problem| output::note(global, problem));
        let can_go_on = unreadable.is_empty() && found.iter().all(|prospect| !stops(&prospect.outlook));
        if global.json {
            let runs: Vec<_> = found.iter().map(run_json).collect();
            let unreadable: Vec<_> = unreadable.iter().map(ToString::to_string).collect();
            let id = &structure.id;
            output::json(&json!({ "workflow_id": id, "ok": can_go_on, "runs": runs, "unreadable": unreadable }))?;
        } else {
            tell(&structure, &found, &store, global)?;
        }
        Ok(if can_go_on { Exit::Done } else { Exit::WrongState })
    }
}

fn shown(path: &str) -> &str {
    if path == "-" { "standard input" } else { path }
}

/// Whether the definition, or damage, keeps a run from going on.
fn stops(outlook: &Outlook) -> bool {
    match outlook {
        Outlook::Pauses(_) | Outlook::Fails(_) => true,
        Outlook::GoesOn | Outlook::StaysPaused | Outlook::IsCancelled => false,
    }
}

/// What becomes of a run: in a word for programs, and why.
fn words(outlook: &Outlook) -> (&'static str, Option<String>) {
    match outlook {
        Outlook::GoesOn => ("goes_on", None),
        Outlook::Pauses(mismatch) => ("pauses", Some(mismatch.to_string())),
        Outlook::StaysPaused => ("stays_paused", None),
        Outlook::IsCancelled => ("is_cancelled", None),
        Outlook::Fails(problem) => ("fails", Some(problem.clone())),
    }
}

fn run_json(prospect: &Prospect) -> Value {
    let (outlook, reason) = words(&prospect.outlook);
    let run = &prospect.run;
    let mut document = json!({
        "run_id": run.info.run_id,
        "status": run.status,
        "step": run.progress,
        "outlook": outlook,
        "reason": reason,
    });
    if let Outlook::Pauses(mismatch) = &prospect.outlook {
        document["path"] = json!(mismatch.path);
        document["was"] = json!(mismatch.was);
        document["is"] = json!(mismatch.is);
    }
    document
}

const COLUMNS: [Column; 4] = [
    Column { head: "RUN", width_min: Some(13), rank: KEPT },
    Column { head: "STATUS", width_min: None, rank: 1 },
    Column { head: "STEP", width_min: Some(8), rank: 2 },
    Column { head: "THEN", width_min: None, rank: KEPT },
];

fn tell(structure: &Structure, found: &[Prospect], store: &Store, global: &Global) -> Result<(), Problem> {
    let rows: Vec<_> = found.iter().filter(|prospect| prospect.outlook != Outlook::GoesOn).map(row).collect();
    if !rows.is_empty() {
        output::write(table::table(&COLUMNS, &rows, table::width()))?;
    }
    let (count, id, place) = (found.len(), structure.id.as_str(), store.path.display());
    if count == 0 {
        output::note(global, format_args!("no unfinished run of {id} in {place}"));
        return Ok(());
    }
    let runs = style::counted(count, "unfinished run");
    Ok(output::line(format_args!("{} of {runs} of {id} can go on", count - rows.len()))?)
}

fn row(prospect: &Prospect) -> [String; 4] {
    let run = &prospect.run;
    let then = match &prospect.outlook {
        Outlook::GoesOn => "goes on".to_owned(),
        Outlook::Pauses(mismatch) => format!("pauses: {mismatch}"),
        Outlook::StaysPaused => "stays paused".to_owned(),
        Outlook::IsCancelled => "is cancelled".to_owned(),
        Outlook::Fails(problem) => format!("fails: {problem}"),
    };
    [
        style::short_id(run.info.run_id.as_str()).to_owned(),
        style::status_word(run.status).to_owned(),
        style::line(run.progress.as_deref().unwrap_or_default(), 40),
        style::line(&then, 400),
    ]
}
