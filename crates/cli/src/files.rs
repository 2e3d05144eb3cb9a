//! Workflow files as the verbs take them: named on the command line, read with what the settings allow, and their problems
//! shown beside the lines they are about.
//!
//! It must never read the syntax: that is the library's. The invariant: what a file may do is said by flags and settings of
//! this process, never by the file.

use crate::cli::{Global, quoted};
use crate::cmd::questions::field_lines;
use crate::exit::{Exit, Problem};
use crate::output;
use crate::settings::{self, Origin, Settings};
use clap::Args;
use outlive::agent::model::ScriptedModel;
use outlive::agent::outbound::Outbound;
use outlive::core::{Definition, Failure, InvalidInput, ModelRequest, ModelResponse, Role, nearest, slug};
use outlive::engine::Schedule;
use outlive::{Engine, Error, File, FileProblem, FileProblemKind, FileSchedules, InvalidFile};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the files may do here.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Allowances {
    /// Take this model in place of every model of the files, for example demo or ollama:qwen3
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Let files run programs of this machine
    #[arg(long)]
    pub(crate) allow_commands: bool,
}

impl Allowances {
    /// As flags of a command, each after a space.
    pub(crate) fn flags(&self) -> String {
        let model = self.model.as_deref().map(|name| format!(" --model {}", quoted(name))).unwrap_or_default();
        format!("{model}{}", if self.allow_commands { " --allow-commands" } else { "" })
    }
}

/// The longest text that is looked at again: more than a workflow file may have.
const TEXT_BYTES_MAX: u64 = 2 << 20;

/// The files with the workflows of runs that are named by id.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Known {
    /// A file with the workflow, or a folder with some; may be given several times
    #[arg(long = "file", value_name = "FILE|DIR", conflicts_with = "server")]
    pub(crate) files: Vec<String>,
    #[command(flatten)]
    pub(crate) allowed: Allowances,
}

impl Known {
    /// What the files define, and the settings with the database that they name.
    ///
    /// # Errors
    /// As [`read_all`] and [`definitions`].
    pub(crate) fn load(&self, global: &Global) -> Result<(Vec<Arc<Definition>>, Settings), Problem> {
        let mut settings = Settings::load(global)?;
        let files = read_all(&self.files, &self.allowed, &settings)?;
        if !files.is_empty() {
            choose_store(&files, &mut settings)?;
        }
        Ok((definitions(&files)?, settings))
    }

    /// For commands about runs of these files.
    ///
    /// # Errors
    /// As [`Known::load`].
    pub(crate) fn global(&self, global: &Global) -> Result<Global, Problem> {
        match self.files.is_empty() {
            true => Ok(global.clone()),
            false => Ok(global.of_files(&self.files, &self.allowed, &self.load(global)?.1)),
        }
    }
}

/// Files that are looked at for where they keep their runs.
const FILES_MAX: usize = 50;

/// How much of what it was asked the demonstration's model says.
const ECHO_CHARS: usize = 400;

/// Whether a text on the command line names a file and not a workflow.
pub(crate) fn is_file(text: &str) -> bool {
    let path = Path::new(text);
    let is_yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    is_yaml || (text.contains(std::path::MAIN_SEPARATOR) && path.exists())
}

/// The file at this path, with what it may do.
///
/// # Errors
/// What is wrong with its shape, or with a setting.
pub(crate) fn read(path: &str, allowed: &Allowances, settings: &Settings) -> Result<File, Problem> {
    given(File::read(path)?, allowed, settings)
}

/// The same, of a file in a folder that was named.
///
/// # Errors
/// As [`read`], and when it is a link that leads out of the folder.
pub(crate) fn read_in(folder: &str, path: &str, allowed: &Allowances, settings: &Settings) -> Result<File, Problem> {
    given(File::read_in(folder, path)?, allowed, settings)
}

/// The files at these paths: a folder stands for those in it.
///
/// # Errors
/// What is wrong with their shapes, of all of them together.
pub(crate) fn read_all(paths: &[String], allowed: &Allowances, settings: &Settings) -> Result<Vec<File>, Problem> {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        let read =
            if Path::new(path).is_dir() { File::read_all(path) } else { File::read(path).map(|file| vec![file]) };
        match read {
            Ok(found) => files.extend(found),
            Err(Error::File(invalid)) => problems.extend(invalid.problems),
            Err(other) => return Err(other.into()),
        }
    }
    if !problems.is_empty() {
        return Err(InvalidFile { problems }.into());
    }
    files.into_iter().map(|file| given(file, allowed, settings)).collect()
}

/// The addresses that tools may ask.
///
/// # Errors
/// When a setting is no address.
pub(crate) fn outbound(settings: &Settings) -> Result<Outbound, Problem> {
    settings.tool_hosts.iter().try_fold(Outbound::default(), |outbound, host| {
        outbound.allow(host).map_err(|invalid| settings::configuration(format!("tool_hosts: {invalid}")))
    })
}

fn given(file: File, allowed: &Allowances, settings: &Settings) -> Result<File, Problem> {
    let outbound = outbound(settings)?;
    let mut file = file.model("demo", demo()).outbound(outbound).allow_commands(allowed.allow_commands);
    for (name, server) in &settings.servers {
        file = file.mcp_profile(name, server.clone());
    }
    for (name, profile) in &settings.models.0 {
        file = file.model_profile(name, profile.clone());
    }
    let Some(name) = &allowed.model else { return Ok(file) };
    let file = file.every_model(name);
    match file.every_model_problem() {
        None => Ok(file),
        Some((FileProblemKind::Invalid, problem)) => {
            Err(Problem::new(Exit::Usage, "invalid_model", format!("--model: {problem}")))
        }
        Some((FileProblemKind::Missing, problem)) => Err(settings::configuration(format!("--model: {problem}"))),
    }
}

/// Says back what it was asked.
fn demo() -> ScriptedModel {
    ScriptedModel::from_fn("demo", |request: &ModelRequest| {
        let said = request.messages.iter().rev().find(|message| message.role == Role::User);
        let said = said.and_then(|message| message.content.clone()).unwrap_or_default();
        let mut text: String = said.chars().take(ECHO_CHARS).collect();
        if text.len() < said.len() {
            text.push('…');
        }
        Ok::<_, Failure>(ModelResponse::text(format!("(demo, not an AI) I was asked: {text}")))
    })
}

/// Every workflow of the files.
///
/// # Errors
/// Everything that is wrong or missing, of all files together; two workflows with one id.
pub(crate) fn definitions(files: &[File]) -> Result<Vec<Arc<Definition>>, Problem> {
    let (mut built, mut problems) = (Vec::new(), Vec::new());
    let mut seen = BTreeMap::new();
    for file in files {
        match file.definitions() {
            Ok(definitions) => {
                for definition in definitions {
                    if let Some(other) = seen.insert(definition.id.clone(), file.name()) {
                        let id = definition.id.as_str();
                        let message = match other == file.name() {
                            true => "it is named twice: name it once".to_owned(),
                            false => {
                                format!("{other} has a workflow with the id {id:?} too: give one another name or id")
                            }
                        };
                        let (kind, file) = (FileProblemKind::Invalid, file.name().to_owned());
                        problems.push(FileProblem { kind, file, line: 1, column: 1, message, excerpt: None });
                    }
                    built.push(definition);
                }
            }
            Err(Error::File(invalid)) => problems.extend(invalid.problems),
            Err(other) => return Err(other.into()),
        }
    }
    problems.dedup();
    if problems.is_empty() { Ok(built) } else { Err(InvalidFile { problems }.into()) }
}

/// The workflow of a file that is meant: the only one, or the one that is named.
///
/// # Errors
/// When none is named and there are several, or none is called that.
pub(crate) fn the_workflow(file: &File, name: Option<&str>) -> Result<Arc<Definition>, Problem> {
    let known = file.workflow_ids();
    let found = match (name, &known[..]) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(name), _) => known.iter().find(|(key, id)| *key == name || *id == name || *id == slug(name)),
    };
    if let Some((key, _)) = found {
        return file.definition(key).map_err(|error| unstarted(error.into()));
    }
    let keys: Vec<_> = known.iter().map(|(key, _)| *key).collect();
    let message = match name {
        Some(name) => format!("{} has no workflow {name:?}", file.name()),
        None => format!("{} has several workflows", file.name()),
    };
    let meant = name.and_then(|name| nearest(name, keys.iter().copied()));
    let meant = meant.map(|meant| format!("did you mean {meant:?}? ")).unwrap_or_default();
    let problem = Problem::new(Exit::Usage, "workflow_not_named", message);
    Err(problem.hint(format!("{meant}name one with --workflow: {}", keys.join(", "))))
}

/// That something is missing here, with what to do about it.
fn unstarted(problem: Problem) -> Problem {
    let Some(invalid) = problem.invalid_file().filter(|invalid| invalid.is_missing()) else { return problem };
    let unset: Vec<_> = invalid.problems.iter().filter(|problem| problem.message.ends_with("set")).collect();
    let remedy = match unset.iter().any(|problem| problem.message.starts_with("model ")) {
        true => ": export the variable, or try it without a key with --model demo",
        false if !unset.is_empty() => ": export the variable",
        false => "",
    };
    problem.also(format!("No run was started{remedy}"))
}

/// An input that a workflow does not take, with what it takes.
pub(crate) fn unfit(definition: &Definition, invalid: &InvalidInput) -> Problem {
    let problem = Problem::new(Exit::Usage, "invalid_input", invalid);
    let fields: Vec<_> = definition.input_schema.iter().flat_map(|input| field_lines(&input.schema)).collect();
    match fields.is_empty() {
        true => problem,
        false => problem.hint(format!(
            "{} takes JSON, as text, @FILE or -, or --field NAME=VALUE, with\n  {}",
            definition.id,
            fields.join("\n  ")
        )),
    }
}

/// The files of this folder that have kept runs in a database of their own, each with that.
pub(crate) fn stores_here() -> Vec<(String, PathBuf)> {
    let paths = File::list(".").unwrap_or_default();
    let kept = |path: PathBuf| {
        let path = path.strip_prefix(".").map(Path::to_owned).unwrap_or(path);
        let db = File::read(&path).ok()?.store().filter(|db| db.exists())?;
        Some((path.display().to_string(), db))
    };
    paths.into_iter().take(FILES_MAX).filter_map(kept).collect()
}

/// Keeps runs where the files say, unless a flag, the environment or `outlive.toml` says otherwise.
///
/// # Errors
/// When they say different places.
pub(crate) fn choose_store(files: &[File], settings: &mut Settings) -> Result<(), Problem> {
    if !matches!(settings.origin("db"), Origin::Default | Origin::Found) {
        return Ok(());
    }
    let stores: BTreeSet<_> = files.iter().map(File::store).collect();
    let mut stores = stores.into_iter();
    match (stores.next(), stores.next()) {
        (Some(Some(path)), None) => settings.take_store(path),
        (Some(None), None) | (None, _) => settings.forget_found_db(),
        (Some(_), Some(_)) => {
            let problem = settings::configuration("the files keep their runs in different databases");
            return Err(problem.hint("say where with --db"));
        }
    }
    Ok(())
}

/// Makes the schedules of the files what the files say, and tells what that changed.
///
/// # Errors
/// The store's.
pub(crate) async fn schedule(engine: &Engine, files: &[File], global: &Global) -> Result<(), Problem> {
    let FileSchedules { created, changed, deleted } = File::declare_schedules(engine, files).await?;
    for schedule in created {
        output::note(global, format_args!("Scheduled {} of {}", schedule.name, schedule.workflow_id));
    }
    for schedule in changed {
        output::note(global, format_args!("Changed the schedule {} of {}", schedule.name, schedule.workflow_id));
    }
    for Schedule { name, workflow_id, .. } in deleted {
        output::note(
            global,
            format_args!("Deleted the schedule {name} of {workflow_id}: no file declares it any more; its runs stay"),
        );
    }
    Ok(())
}

/// The text of a file: of a file only, for a device or a pipe may have no end.
pub(crate) fn text_of(path: &str) -> Option<String> {
    let is_fine = std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() <= TEXT_BYTES_MAX);
    is_fine.then(|| std::fs::read_to_string(path).ok()).flatten()
}

/// Problems beside the lines they are about.
pub(crate) fn shown(problems: &[FileProblem]) -> String {
    let mut text = String::new();
    for problem in problems {
        text.push_str(&format!("{problem}\n"));
        let line = problem.excerpt.as_deref();
        if let Some(line) = line.filter(|line| !line.trim().is_empty() && line.chars().count() <= 200) {
            let number = problem.line;
            let before: String = line.chars().take(problem.column.saturating_sub(1)).collect();
            let space: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            text.push_str(&format!("{number:>5} | {line}\n      | {space}^\n"));
        }
    }
    text.truncate(text.trim_end().len());
    text
}

impl From<InvalidFile> for Problem {
    fn from(invalid: InvalidFile) -> Self {
        let count = invalid.problems.len();
        let files: BTreeSet<_> = invalid.problems.iter().map(|problem| problem.file.as_str()).collect();
        let files = files.into_iter().collect::<Vec<_>>().join(", ");
        let problems = if count == 1 { "problem" } else { "problems" };
        let (exit, code, what) = match invalid.is_missing() {
            true => (Exit::Configuration, "configuration", "is missing something here"),
            false => (Exit::Usage, "invalid_file", "cannot be used"),
        };
        Self::new(exit, code, format!("{files} {what}: {count} {problems}"))
            .hint(shown(&invalid.problems))
            .of_files(invalid)
    }
}
