//! `outlive workflow`: what workflow files define, and what a definition means for the runs that are there.

use super::run::read_text;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::{self, Allowances};
use crate::graph;
use crate::lines::{Line, differing};
use crate::settings::Settings;
use crate::store::Store;
use crate::table::{self, Column, KEPT};
use crate::{output, style};
use clap::{Args, Subcommand, ValueEnum};
use outlive::core::port::DbError;
use outlive::core::{Definition, RunStatus, Structure};
use outlive::engine::diff::{Outlook, Prospect, diff};
use outlive::{File, FileProblem, FileProblemKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Look at workflow files, and compare a definition with its unfinished runs
#[derive(Debug, Args)]
pub(crate) struct Workflow {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Ls(Ls),
    Show(Show),
    Validate(Validate),
    Graph(Graph),
    Diff(Diff),
}

/// List the workflows of files
#[derive(Debug, Args)]
struct Ls {
    /// Workflow files, or folders with some
    #[arg(value_name = "FILE|DIR", required = true)]
    files: Vec<String>,
}

/// Show what a workflow consists of; with --json as Workflow::to_json() gives it
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    of: One,
}

/// One workflow of a file.
#[derive(Debug, Args)]
struct One {
    /// The workflow file
    #[arg(value_name = "FILE")]
    file: String,
    /// Which workflow of the file, if it has several
    #[arg(long = "workflow", value_name = "NAME")]
    name: Option<String>,
}

/// Check workflow files, and tell everything that is wrong with them
///
/// What is missing on this machine, such as a key, is told and is no mistake of the file. Exit code 0 when every file is
/// fine, 2 when one is not.
#[derive(Debug, Args)]
struct Validate {
    /// Workflow files, or folders with some
    #[arg(value_name = "FILE|DIR", required = true)]
    files: Vec<String>,
    #[command(flatten)]
    allowed: Allowances,
}

/// Draw a workflow
#[derive(Debug, Args)]
struct Graph {
    #[command(flatten)]
    of: One,
    /// mermaid, for Markdown pages, or svg
    #[arg(long, value_name = "FORMAT", default_value = "mermaid", hide_possible_values = true)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Mermaid,
    Svg,
}

/// Tell which unfinished runs can go on with a new definition, before it is deployed
///
/// The definition is a workflow file, or JSON as Workflow::to_json() gives it in your program. Runs that were accepted with
/// a file go on with its text. Of others, each unfinished run of that workflow is judged
/// by its log, as it stands now: steps it has not reached may be anything, those it has reached must be there. A run that
/// cannot go on would pause, and the first difference is named by its path; one that waits for a person would once it has
/// its answer. Nothing is changed. Exit code 0 when every run can go on, 5 when one cannot.
#[derive(Debug, Args)]
struct Diff {
    /// File with the new definition, YAML or JSON; - for JSON on standard input
    #[arg(value_name = "FILE")]
    definition: String,
    /// Which workflow of a YAML file [default: each]
    #[arg(long = "workflow", value_name = "NAME")]
    name: Option<String>,
    /// Show the lines, too, in which the definition differs from those that unfinished runs were accepted with
    #[arg(long)]
    text: bool,
}

/// The longest definition, in bytes.
const BYTES_MAX: u64 = 64 << 20;

impl Workflow {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        match &self.verb {
            Verb::Ls(ls) => ls.run(global),
            Verb::Show(show) => show.run(global),
            Verb::Validate(validate) => validate.run(global),
            Verb::Graph(graph) => graph.run(global),
            Verb::Diff(diff) => diff.run(global).await,
        }
    }
}

impl One {
    fn definition(&self, global: &Global) -> Result<Arc<Definition>, Problem> {
        let file = files::read(&self.file, &Allowances::default(), &Settings::load(global)?)?.inspect();
        files::the_workflow(&file, self.name.as_deref())
    }
}

const WORKFLOW_COLUMNS: [Column; 4] = [
    Column { head: "ID", width_min: Some(12), rank: KEPT },
    Column { head: "NAME", width_min: Some(8), rank: 1 },
    Column { head: "STEPS", width_min: None, rank: 2 },
    Column { head: "FILE", width_min: None, rank: 3 },
];

impl Ls {
    fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let settings = Settings::load(global)?;
        let found = files::read_all(&self.files, &Allowances::default(), &settings)?;
        let found: Vec<_> = found.into_iter().map(File::inspect).collect();
        files::definitions(&found)?;
        let mut listed = Vec::new();
        for file in &found {
            listed.extend(file.definitions()?.into_iter().map(|definition| (definition, file.name())));
        }
        if global.json {
            let workflow = |(definition, file): &(Arc<Definition>, &str)| {
                let Definition { id, name, description, .. } = &**definition;
                json!({ "id": id, "name": name, "description": description, "file": file })
            };
            output::json(&json!({ "workflows": listed.iter().map(workflow).collect::<Vec<_>>() }))?;
            return Ok(Exit::Done);
        }
        let row = |(definition, file): &(Arc<Definition>, &str)| {
            let name = style::line(&definition.name, 60);
            [definition.id.to_string(), name, definition.nodes.len().to_string(), style::line(file, 80)]
        };
        let rows: Vec<_> = listed.iter().map(row).collect();
        output::write(table::table(&WORKFLOW_COLUMNS, &rows, table::width()))?;
        Ok(Exit::Done)
    }
}

impl Show {
    fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let definition = self.of.definition(global)?;
        match global.json {
            true => output::json(&definition.to_json())?,
            false => output::write(style::clean(&graph::outline(&definition)))?,
        }
        Ok(Exit::Done)
    }
}

impl Graph {
    fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let definition = self.of.definition(global)?;
        let (format, text) = match self.format {
            Format::Mermaid => ("mermaid", graph::mermaid(&definition)),
            Format::Svg => ("svg", graph::svg(&definition)),
        };
        match global.json {
            true => output::json(&json!({ "id": definition.id, "format": format, "graph": text }))?,
            false => output::write(text)?,
        }
        Ok(Exit::Done)
    }
}

impl Validate {
    fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let settings = Settings::load(global)?;
        let found = files::read_all(&self.files, &self.allowed, &settings).and_then(|files| {
            let whole = files::definitions(&files);
            whole.map(|definitions| (files.len(), definitions.len()))
        });
        let problem = match found {
            Ok((files, workflows)) => {
                let (files, workflows) = (style::counted(files, "file"), style::counted(workflows, "workflow"));
                if global.json {
                    output::json(&json!({ "ok": true, "problems": [] }))?;
                } else {
                    output::line(format_args!("{files} with {workflows}: fine"))?;
                }
                return Ok(Exit::Done);
            }
            Err(problem) => problem,
        };
        let Some(invalid) = problem.invalid_file() else { return Err(problem) };
        let is_fine = invalid.is_missing();
        if global.json {
            let problems: Vec<_> = invalid.problems.iter().map(problem_json).collect();
            output::json(&json!({ "ok": is_fine, "problems": problems }))?;
        } else {
            output::line(style::clean(&files::shown(&invalid.problems)))?;
            if is_fine {
                output::note(global, "The files are fine; what is missing is missing on this machine");
            }
        }
        Ok(if is_fine { Exit::Done } else { Exit::Usage })
    }
}

fn problem_json(problem: &FileProblem) -> Value {
    let FileProblem { kind, file, line, column, message, .. } = problem;
    let kind = match kind {
        FileProblemKind::Invalid => "invalid",
        FileProblemKind::Missing => "missing",
    };
    json!({ "kind": kind, "file": file, "line": line, "column": column, "message": message })
}

impl Diff {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let structures = self.structures(global)?;
        let store = Store::look_at(Settings::load(global)?.db, global).await?;
        let mut compared = Vec::new();
        for structure in structures {
            compared.push(Compared::with(structure, self.text, &store).await?);
        }
        for Compared { unreadable, .. } in &compared {
            unreadable.iter().for_each(|problem| output::note(global, problem));
        }
        let can_go_on = compared.iter().all(Compared::can_go_on);
        match &compared[..] {
            [one] if global.json => output::json(&one.json())?,
            all if global.json => {
                let workflows: Vec<_> = all.iter().map(Compared::json).collect();
                output::json(&json!({ "ok": can_go_on, "workflows": workflows }))?;
            }
            all => all.iter().try_for_each(|compared| compared.tell(&store, global))?,
        }
        Ok(if can_go_on { Exit::Done } else { Exit::WrongState })
    }

    /// The new definitions.
    fn structures(&self, global: &Global) -> Result<Vec<Structure>, Problem> {
        let is_yaml = files::is_file(&self.definition) && !self.definition.ends_with(".json");
        let texts = match (is_yaml, &self.name) {
            (true, None) => {
                let file = files::read(&self.definition, &Allowances::default(), &Settings::load(global)?)?.inspect();
                file.definitions()?.iter().map(|definition| definition.to_json().to_string()).collect()
            }
            (true, name) => {
                let of = One { file: self.definition.clone(), name: name.clone() };
                vec![of.definition(global)?.to_json().to_string()]
            }
            (false, _) => vec![read_text(&self.definition, BYTES_MAX, "no definition has")?],
        };
        let parse = |text: &String| {
            Structure::parse(text).map_err(|invalid| {
                let problems = invalid.problems.join("\n");
                let message = format!("{} is not a definition", shown(&self.definition));
                Problem::new(Exit::Usage, "invalid_definition", message).hint(problems)
            })
        };
        texts.iter().map(parse).collect()
    }
}

/// A definition beside the unfinished runs of its workflow.
struct Compared {
    structure: Structure,
    found: Vec<Prospect>,
    unreadable: Vec<DbError>,
    /// The other texts that some of them were accepted with, each with how many were.
    texts: Vec<(String, usize)>,
}

impl Compared {
    async fn with(structure: Structure, with_texts: bool, store: &Store) -> Result<Self, Problem> {
        let mut found = Vec::new();
        let unreadable = diff(&*store.db, &structure, |prospect| found.push(prospect)).await?;
        let mut counts = BTreeMap::new();
        for prospect in found.iter().filter(|prospect| with_texts && prospect.run.definition != structure.hash) {
            *counts.entry(prospect.run.definition.clone()).or_insert(0_usize) += 1;
        }
        let mut texts = Vec::new();
        for (hash, count) in counts {
            let accepted = store.db.definition(hash).await?;
            let accepted = accepted.and_then(|text| Structure::parse(&text).ok());
            texts.extend(accepted.map(|accepted| (text_of(&accepted), count)));
        }
        Ok(Self { structure, found, unreadable, texts })
    }

    fn can_go_on(&self) -> bool {
        self.unreadable.is_empty() && self.found.iter().all(|prospect| !stops(&prospect.outlook))
    }

    fn json(&self) -> Value {
        let runs: Vec<_> = self.found.iter().map(run_json).collect();
        let unreadable: Vec<_> = self.unreadable.iter().map(ToString::to_string).collect();
        let mut document = json!({
            "workflow_id": self.structure.id,
            "ok": self.can_go_on(),
            "runs": runs,
            "unreadable": unreadable,
        });
        let now = text_of(&self.structure);
        let line = |line: &Line<'_>| json!({ "sign": line.sign, "line": line.number, "text": line.text });
        let changes = self.texts.iter().map(|(text, count)| {
            json!({ "runs": count, "lines": differing(text, &now).iter().map(line).collect::<Vec<_>>() })
        });
        let changes: Vec<_> = changes.collect();
        if !changes.is_empty() {
            document["changes"] = json!(changes);
        }
        document
    }

    fn tell(&self, store: &Store, global: &Global) -> Result<(), Problem> {
        let is_plain = |prospect: &&Prospect| prospect.outlook == Outlook::GoesOn;
        let is_told = |prospect: &&Prospect| !is_plain(prospect) || prospect.run.status == RunStatus::Paused;
        let rows: Vec<_> = self.found.iter().filter(is_told).map(row).collect();
        if !rows.is_empty() {
            output::write(table::table(&COLUMNS, &rows, table::width()))?;
        }
        let (count, id, place) = (self.found.len(), self.structure.id.as_str(), store.path.display());
        if count == 0 {
            output::note(global, format_args!("no unfinished run of {id} in {place}"));
            return Ok(());
        }
        let runs = style::counted(count, "unfinished run");
        let going_on = self.found.iter().filter(is_plain).count();
        output::line(format_args!("{going_on} of {runs} of {id} can go on"))?;
        let now = text_of(&self.structure);
        for (text, count) in &self.texts {
            output::line(format_args!("{} began with another text:", style::counted(*count, "run")))?;
            for Line { sign, number, text } in differing(text, &now) {
                output::line(format_args!("{sign}{number:>5} | {}", style::clean(text)))?;
            }
        }
        Ok(())
    }
}

/// What a definition says, for people: the text of the file that it was read from, or else its JSON.
fn text_of(structure: &Structure) -> String {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let Some(source) = structure.source.as_deref().map(json) else { return format!("{:#}", json(&structure.text)) };
    let mut text = source["text"].as_str().unwrap_or_default().to_owned();
    for part in ["model", "models"] {
        if !source[part].is_null() {
            text.push_str(&format!("\n{part} of the settings: {:#}", source[part]));
        }
    }
    text
}

fn shown(path: &str) -> &str {
    if path == "-" { "standard input" } else { path }
}

/// Whether the definition, or damage, keeps a run from going on.
fn stops(outlook: &Outlook) -> bool {
    match outlook {
        Outlook::Pauses(_) | Outlook::Fails(_) => true,
        Outlook::GoesOn | Outlook::IsCancelled => false,
    }
}

/// What becomes of a run: in a word for programs, and why.
fn words(outlook: &Outlook) -> (&'static str, Option<String>) {
    match outlook {
        Outlook::GoesOn => ("goes_on", None),
        Outlook::Pauses(mismatch) => ("pauses", Some(mismatch.to_string())),
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

fn row(prospect: &Prospect) -> [String; 4] {
    let run = &prospect.run;
    let then = match &prospect.outlook {
        Outlook::GoesOn => "goes on".to_owned(),
        Outlook::Pauses(mismatch) => format!("pauses: {mismatch}"),
        Outlook::IsCancelled => "is cancelled".to_owned(),
        Outlook::Fails(problem) => format!("fails: {problem}"),
    };
    let then = match (run.status, &prospect.outlook) {
        (RunStatus::Paused, Outlook::GoesOn | Outlook::Pauses(_) | Outlook::Fails(_)) => {
            format!("waits for a person, then {then}")
        }
        _ => then,
    };
    [
        style::short_id(run.info.run_id.as_str()).to_owned(),
        style::status_word(run.status).to_owned(),
        style::line(run.progress.as_deref().unwrap_or_default(), 40),
        style::line(&then, 400),
    ]
}
