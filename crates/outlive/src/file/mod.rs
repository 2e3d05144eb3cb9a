//! Workflows in files: YAML that says what a program would say with the builders.
//!
//! ```text
//! text ─yaml─► tree with places ─fit─► JSON by the schema ─► syntax ─build─► the builders ─► definitions
//!                                        ▲ made from syntax                       │
//!                      restored from ────┴──── the text, stored with the first run ◄
//! ```
//! It owns the syntax and adds no rule of execution: what it builds is what the builders build. The invariants: every
//! problem has a place in the file, and all of them are told at once; a key is never part of what is stored.

mod build;
mod call;
mod fit;
mod mcp;
mod schedules;
mod schema;
mod secrets;
mod syntax;
mod yaml;

use crate::error::Result;
use crate::invalid::{FileProblem, FileProblemKind, InvalidFile};
use crate::workflow::Workflow;
use fit::Fitted;
pub use mcp::McpProfile;
use outlive_agent::model::ModelProfile;
use outlive_agent::model::{IntoModel, SharedModel};
use outlive_agent::outbound::Outbound;
use outlive_agent::tool::{IntoTools, Tool};
use outlive_core::port::Db;
use outlive_core::{Definition, DefinitionSource, Registry};
use outlive_engine::CreateSchedule;
pub use schedules::FileSchedules;
use secrets::Excerpts;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::to_raw_value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use syntax::{Document, Named};
use yaml::{At, Misread};

/// Problems that are told of one file.
const PROBLEMS_MAX: usize = 100;

/// A file with workflows, and what the program gives it: functions, models, permissions.
///
/// ```
/// use outlive::File;
/// use outlive::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> outlive::Result<()> {
/// let text = "
/// version: 1
/// workflows:
///   shouting:
///     steps:
///       - { step: Shout, function: shout }
/// ";
/// let shout = |_, input: std::sync::Arc<StepInput>| async move { Ok::<_, Failure>(input.text().to_uppercase()) };
/// let file = File::parse("shouting.yaml", text)?.functions(Registry::new().function("shout", shout));
/// let workflows = file.db(InMemoryDb::new()).workflows()?;
/// assert_eq!(workflows[0].run("hello").await?.text(), "HELLO");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct File {
    name: String,
    text: Arc<str>,
    document: Arc<Document>,
    node: Arc<yaml::Node>,
    settings: Settings,
    db: Option<Arc<dyn Db>>,
    /// The folder that it was found in.
    folder: Option<Arc<Path>>,
    /// What it comes to with these settings, once somebody has asked.
    built: Arc<OnceLock<Built>>,
}

/// Definitions, and what is wrong with them or missing for them.
type Built = (Vec<Arc<Definition>>, Vec<(Misread, FileProblemKind)>);

/// What the program gives a file. Shared with the definitions made of it, so that older texts are read with it too.
#[derive(Clone, Default)]
struct Settings {
    registry: Registry,
    /// Models by the names that files use.
    models: BTreeMap<String, SharedModel>,
    /// Tools by the names that files use.
    tools: BTreeMap<String, Vec<Tool>>,
    /// Models of the program's settings.
    profiles: Named<ModelProfile>,
    /// MCP servers of the program's settings.
    servers: Named<McpProfile>,
    /// Takes the place of every model.
    model: Option<String>,
    outbound: Outbound,
    allows_commands: bool,
    /// Looks at the structure alone: nothing that is missing matters.
    inspects: bool,
    /// Knows nothing of what the program gives: models and tools that the file does not have may be the program's.
    apart: bool,
}

/// What is stored of a file, under the hash of a definition.
#[derive(Serialize, Deserialize)]
struct Stored<Text> {
    /// What the workflow is called in the file.
    workflow: String,
    /// The file's name.
    file: String,
    /// Models of the program's settings that it uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    models: Named<Value>,
    /// MCP servers of the program's settings that it uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    servers: Named<McpProfile>,
    /// What took the place of every model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    text: Text,
}

/// A schedule that a file declares; [`File::declare_schedules`] creates it.
#[derive(Clone, Debug)]
pub struct FileSchedule {
    /// The workflow's definition.
    pub workflow: Arc<Definition>,
    /// What to create; the one with its name is replaced.
    pub create: CreateSchedule,
}

impl File {
    /// Reads a file and checks its shape.
    ///
    /// # Errors
    /// [`InvalidFile`] when something is wrong with its shape, with whatever else is wrong that does not follow from that;
    /// models and tools that it does not have itself are looked up later. That the file cannot be read is told as a problem
    /// of its first line.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let text = read_text(path).map_err(|misread| invalid(&name, "", [(misread, FileProblemKind::Invalid)]))?;
        Self::parse(name, text)
    }

    /// Reads the files below a folder whose names end in `.yaml` or `.yml`, in the order of their names, as far as all of
    /// them can be read.
    ///
    /// # Errors
    /// As [`File::read`], of all files together.
    pub fn read_all(folder: impl AsRef<Path>) -> Result<Vec<Self>> {
        let folder = folder.as_ref();
        let (mut files, mut problems) = (Vec::new(), Vec::new());
        for path in yaml_files(folder).map_err(|error| unlisted(folder, &error))? {
            match Self::read_in(folder, &path) {
                Ok(file) => files.push(file),
                Err(crate::Error::File(invalid)) => problems.extend(invalid.problems),
                Err(other) => return Err(other),
            }
        }
        if files.is_empty() && problems.is_empty() {
            problems.push(wrong(folder, "it has no file that ends in .yaml or .yml".to_owned()));
        }
        if problems.is_empty() { Ok(files) } else { Err(InvalidFile { problems }.into()) }
    }

    /// The paths of the files that [`File::read_all`] reads.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        let folder = folder.as_ref();
        Ok(yaml_files(folder).map_err(|error| unlisted(folder, &error))?)
    }

    /// Reads a file as one of a folder: as [`File::read_all`] reads each.
    ///
    /// # Errors
    /// As [`File::read`], and when it is a link that leads out of the folder.
    pub fn read_in(folder: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<Self> {
        let (folder, path) = (folder.as_ref(), path.as_ref());
        let home = folder.canonicalize().ok();
        // A link may lead anywhere: to a device, or to somebody else's file.
        if path.canonicalize().ok().zip(home.as_ref()).is_none_or(|(real, home)| !real.starts_with(home)) {
            let name = folder.display();
            let problem = wrong(path, format!("it leads out of {name}: copy it there, or name it itself"));
            return Err(InvalidFile { problems: vec![problem] }.into());
        }
        let file = Self::read(path)?;
        Ok(Self { folder: home.map(Arc::from), ..file })
    }

    /// Reads a text and checks its shape; `name` is what problems call it.
    ///
    /// # Errors
    /// As [`File::read`].
    pub fn parse(name: impl Into<String>, text: impl Into<Arc<str>>) -> Result<Self> {
        let (name, text) = (name.into(), text.into());
        let of_file = |misread: Misread| (misread, FileProblemKind::Invalid);
        let (node, mut misread) = yaml::read(&text).map_err(|misread| invalid(&name, &text, [of_file(misread)]))?;
        let Fitted { value, problems, doubtful, lacks_names } = fit::fit(&node);
        misread.extend(problems);
        let out_of_place = build::out_of_place::out_of_place(&node, &text);
        // Who says more might say a secret.
        let says_more = out_of_place.is_empty() && misread.iter().all(|found| found.hides_to.is_none()) && !lacks_names;
        misread.extend(out_of_place);
        let document = Document::deserialize(value);
        match (document, misread.is_empty()) {
            (Ok(document), true) => {
                let (document, node) = (Arc::new(document), Arc::new(node));
                let settings = Settings::default();
                let (folder, built) = (None, Arc::default());
                Ok(Self { name, text, document, node, settings, db: None, folder, built })
            }
            (Ok(document), false) => {
                let rest = if says_more { build::problems_apart(&document, &node) } else { Vec::new() };
                misread.extend(rest.into_iter().filter(|problem| !doubtful.contains(&problem.at)));
                Err(invalid(&name, &text, misread.into_iter().map(of_file)).into())
            }
            (Err(error), is_fit) => {
                misread.extend(is_fit.then(|| Misread::new(At::START, error.to_string())));
                Err(invalid(&name, &text, misread.into_iter().map(of_file)).into())
            }
        }
    }

    /// Functions, agents and teams that the file names and does not have itself.
    #[must_use]
    pub fn functions(self, registry: Registry) -> Self {
        self.with(|settings| settings.registry = registry)
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        Self { built: Arc::default(), ..self }
    }

    /// A model under a name of its own: `demo`, for example.
    #[must_use]
    pub fn model(self, name: impl Into<String>, model: impl IntoModel) -> Self {
        self.with(|settings| settings.models.extend(model.into_model().ok().map(|model| (name.into(), model))))
    }

    /// A model with settings under a name of its own, as a file has them under `models`. It is stored with the runs of the
    /// workflows that use it.
    #[must_use]
    pub fn model_profile(self, name: impl Into<String>, profile: ModelProfile) -> Self {
        self.with(|settings| drop(settings.profiles.insert(name.into(), profile)))
    }

    /// An MCP server under a name of its own, which tools of the file may give as `mcp`. It is stored with the runs of the
    /// file's workflows; that it may run a program is for [`File::allow_commands`] to say, as for those in the file.
    #[must_use]
    pub fn mcp_profile(self, name: impl Into<String>, profile: McpProfile) -> Self {
        self.with(|settings| drop(settings.servers.insert(name.into(), profile)))
    }

    /// Tools under a name of their own, for agents and teams that name it.
    #[must_use]
    pub fn tools(self, name: impl Into<String>, tools: impl IntoTools) -> Self {
        self.with(|settings| drop(settings.tools.insert(name.into(), tools.into_tools())))
    }

    /// Takes the place of every model that the file names.
    #[must_use]
    pub fn every_model(self, name: impl Into<String>) -> Self {
        self.with(|settings| settings.model = Some(name.into()))
    }

    /// What is wrong with the model of [`File::every_model`], or with one that stands in for it, or missing for them here. It is
    /// no mistake of the file, so whoever named the model is to be told.
    pub fn every_model_problem(&self) -> Option<(FileProblemKind, String)> {
        let (problem, kind) = build::thinkers::replacement_problem(&self.document, &self.settings)?;
        Some((kind, problem))
    }

    /// Which addresses its HTTP calls may ask; unless set, those that [`Outbound::default`] allows.
    #[must_use]
    pub fn outbound(self, outbound: Outbound) -> Self {
        self.with(|settings| settings.outbound = outbound)
    }

    /// Lets it run programs of this machine; it must not unless set.
    #[must_use]
    pub fn allow_commands(self, allowed: bool) -> Self {
        self.with(|settings| settings.allows_commands = allowed)
    }

    /// Keeps runs here, whatever the file says.
    #[must_use]
    pub fn db(self, db: impl Db) -> Self {
        self.shared_db(Arc::new(db))
    }

    /// The same, in a shared store.
    #[must_use]
    pub fn shared_db(mut self, db: Arc<dyn Db>) -> Self {
        self.db = Some(db);
        self
    }

    /// For looking at what it defines: keys, functions and permissions may be missing, and nothing of it can be executed.
    #[must_use]
    pub fn inspect(self) -> Self {
        self.with(|settings| settings.inspects = true)
    }

    /// What it was called when it was read.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text that it was read from.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The path under `store`, relative to the file.
    pub fn store(&self) -> Option<PathBuf> {
        let path = self.document.store.as_deref()?.strip_prefix("sqlite:")?;
        Some(Path::new(&self.name).parent().unwrap_or(Path::new("")).join(path))
    }

    /// What its workflows are called in it, with their ids.
    pub fn workflow_ids(&self) -> Vec<(&str, String)> {
        let workflows = self.document.workflows.iter();
        workflows.map(|(key, workflow)| (key.as_str(), build::workflow_id(key, workflow))).collect()
    }

    /// Its workflows, in the order of what they are called in it.
    ///
    /// # Errors
    /// [`InvalidFile`] with everything that is wrong, or missing here.
    pub fn definitions(&self) -> Result<Vec<Arc<Definition>>> {
        let (built, problems) = self.whole();
        match problems.is_empty() {
            true => Ok(built.clone()),
            false => Err(invalid(&self.name, &self.text, problems.iter().cloned()).into()),
        }
    }

    /// The workflow that is called this in the file. What is wrong anywhere in the file is told; what only others need may be
    /// missing.
    ///
    /// # Errors
    /// As [`File::definitions`], and when nothing is called this.
    pub fn definition(&self, key: &str) -> Result<Arc<Definition>> {
        let (built, whole) = self.whole();
        if whole.iter().any(|(_, kind)| *kind == FileProblemKind::Invalid) {
            return Err(invalid(&self.name, &self.text, whole.iter().cloned()).into());
        }
        let place = self.document.workflows.keys().position(|known| known == key).filter(|_| whole.is_empty());
        if let Some(definition) = place.and_then(|place| built.get(place)) {
            return Ok(definition.clone());
        }
        let (mut built, mut problems) = self.build(Some(key));
        match built.pop() {
            Some(definition) if problems.is_empty() => Ok(definition),
            None if problems.is_empty() => {
                problems
                    .push((Misread::new(At::START, format!("it has no workflow {key:?}")), FileProblemKind::Invalid));
                Err(invalid(&self.name, &self.text, problems).into())
            }
            _ => Err(invalid(&self.name, &self.text, problems).into()),
        }
    }

    /// Its workflows with their database: the one that was given, or the one under `store`.
    ///
    /// # Errors
    /// As [`File::definitions`], and when there is no database.
    pub fn workflows(&self) -> Result<Vec<Workflow>> {
        let definitions = self.definitions()?;
        let db = match (&self.db, self.store()) {
            (Some(db), _) => db.clone(),
            #[cfg(feature = "sqlite")]
            (None, Some(path)) => Arc::new(outlive_db::SqliteDb::new(path)),
            _ => {
                let message = "it says nowhere to keep runs: write `store: sqlite:runs.db`, or give it a database";
                let problem = (Misread::new(At::START, message), FileProblemKind::Invalid);
                return Err(invalid(&self.name, &self.text, [problem]).into());
            }
        };
        Ok(definitions.into_iter().map(|definition| Workflow::of_definition(definition, db.clone())).collect())
    }

    /// The schedules that it declares.
    ///
    /// # Errors
    /// As [`File::definitions`].
    pub fn schedules(&self) -> Result<Vec<FileSchedule>> {
        let definitions = self.definitions()?;
        let source = Some(self.place());
        let declared = self.document.workflows.values().zip(definitions);
        let each = declared.flat_map(|(workflow, definition)| {
            let source = source.clone();
            workflow.schedules.iter().map(move |(name, schedule)| FileSchedule {
                workflow: definition.clone(),
                create: CreateSchedule { source: source.clone(), ..build::schedule(name, schedule) },
            })
        });
        Ok(each.collect())
    }

    /// The JSON Schema of workflow files, for editors and other programs.
    pub fn schema() -> Value {
        schema::published()
    }

    /// The models of the program's settings that the file names, whichever of its workflows uses them: each is stored with
    /// the same, so that it is read again as the same.
    fn used_profiles(&self) -> Named<Value> {
        let named = self.node.texts_under(&["model", "fallbacks", "summarize"]);
        let mut names: Vec<&str> = self.settings.model.as_deref().into_iter().chain(named).collect();
        let mut used = Named::new();
        while let Some(name) = names.pop() {
            let is_own = self.document.models.contains_key(name);
            let Some(profile) = self.settings.profiles.get(name).filter(|_| !is_own) else { continue };
            if used.insert(name.to_owned(), plain(profile)).is_none() {
                names.extend(profile.fallbacks.iter().map(String::as_str));
            }
        }
        used
    }

    /// The MCP servers of the program's settings that the file names.
    fn used_servers(&self) -> Named<McpProfile> {
        let named = self.document.tools.values().filter_map(|tool| match tool {
            syntax::Tool::Mcp(syntax::McpTools { mcp: syntax::Mcp::Named(name), .. }) => Some(name),
            _ => None,
        });
        named.filter_map(|name| Some((name.clone(), self.settings.servers.get(name)?.clone()))).collect()
    }

    /// All of it, built once.
    fn whole(&self) -> &Built {
        self.built.get_or_init(|| self.build(None))
    }

    fn build(&self, only: Option<&str>) -> Built {
        let (models, servers) = (self.used_profiles(), self.used_servers());
        // Each workflow has the text: it is written as JSON once.
        let text = to_raw_value(&*self.text).expect("text has JSON");
        let source = |workflow: &str| {
            let stored = Stored {
                workflow: workflow.to_owned(),
                file: short(&self.name).to_owned(),
                models: models.clone(),
                servers: servers.clone(),
                model: self.settings.model.clone(),
                text: &text,
            };
            let text = serde_json::to_string(&stored).expect("it has text for keys");
            let settings = self.settings.clone();
            DefinitionSource::new(text, move |text| restore(text, &settings))
        };
        build::build(&self.document, &self.node, &self.settings, &source, only)
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A file's name without its folder: where it is has no part in what it means.
fn short(name: &str) -> &str {
    Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or(name)
}

/// A problem of a whole file, or of a folder.
fn wrong(path: &Path, message: String) -> FileProblem {
    let kind = FileProblemKind::Invalid;
    FileProblem { kind, file: path.display().to_string(), line: 1, column: 1, message, excerpt: None }
}

fn unlisted(folder: &Path, error: &std::io::Error) -> InvalidFile {
    InvalidFile { problems: vec![wrong(folder, format!("it cannot be read: {error}"))] }
}

fn plain(profile: &ModelProfile) -> Value {
    serde_json::to_value(profile).expect("a profile has text for keys")
}

/// Reads a stored text as the definition it was, with what the process gives files now.
fn restore(text: &str, settings: &Settings) -> Result<Arc<Definition>, String> {
    let stored: Stored<String> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut file = File::parse(&*stored.file, stored.text).map_err(|error| error.to_string())?;
    let profile = |(name, value): (String, Value)| {
        Ok((name, ModelProfile::deserialize(value).map_err(|error: serde_json::Error| error.to_string())?))
    };
    let profiles = stored.models.into_iter().map(profile).collect::<Result<_, String>>()?;
    file.settings = Settings { profiles, servers: stored.servers, model: stored.model, ..settings.clone() };
    let (mut built, problems) = file.build(Some(&stored.workflow));
    match built.pop() {
        Some(definition) if problems.is_empty() => Ok(definition),
        _ => {
            let invalid = invalid(&stored.file, "", problems);
            Err(invalid.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
    }
}

/// The problems of a file with this text; what may be a secret is not repeated.
fn invalid(file: &str, text: &str, problems: impl IntoIterator<Item = (Misread, FileProblemKind)>) -> InvalidFile {
    let problems: Vec<_> = problems.into_iter().collect();
    let excerpts = Excerpts::new(text, problems.iter().map(|(misread, _)| misread));
    let problem = |(Misread { at, message, .. }, kind)| {
        let At { line, column } = at;
        let message = if secrets::is_in(&message) { secrets::MESSAGE.to_owned() } else { message };
        let excerpt = excerpts.line(line).map(str::to_owned);
        FileProblem { kind, file: file.to_owned(), line, column, message, excerpt }
    };
    let mut problems: Vec<_> = problems.into_iter().map(problem).collect();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    problems.dedup();
    let left = problems.len().saturating_sub(PROBLEMS_MAX);
    problems.truncate(PROBLEMS_MAX);
    if let (1.., Some(last)) = (left, problems.last().cloned()) {
        problems.push(FileProblem { message: format!("and {left} more problems below"), ..last });
    }
    InvalidFile { problems }
}

/// The text of a file: of a file only, for a device or a pipe may have no end.
fn read_text(path: &Path) -> Result<String, Misread> {
    let wrong = |message: String| Misread::new(At::START, message);
    let about = fs::metadata(path).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    if !about.is_file() {
        let what = if about.is_dir() { "it is a folder" } else { "it is a device or a pipe" };
        return Err(wrong(format!("{what}: name a file")));
    }
    if about.len() > yaml::BYTES_MAX as u64 {
        let (bytes, most) = (about.len(), yaml::BYTES_MAX);
        return Err(wrong(format!("definition_too_large: it has {bytes} bytes, and may have {most}: take it apart")));
    }
    let bytes = fs::read(path).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        Misread::new(At { line, column: 1 }, "this line is not UTF-8 text: save the file as UTF-8")
    })
}

fn yaml_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if is_yaml && !is_hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
