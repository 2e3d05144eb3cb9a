//! `outlive run`: starts a run, and follows it or detaches.

use super::watch::watch;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::{self, Allowances};
use crate::output;
use crate::runs::{Accepted, Role, Runs};
use crate::settings::Settings;
use clap::Args;
use outlive::core::port::SessionPolicy;
use outlive::core::{DefinitionId, WaitsFor};
use outlive::engine::Submit;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Read;
use std::time::Duration;

/// The longest text that is read; how much is taken is up to the engine or the server.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Start a run of a workflow and show it as it happens; with -d print its id and return
///
/// A workflow in a file is executed by this process, in the database that the file names. One that is named is executed
/// by a server, if one is named too; otherwise this process knows the demonstration's only: content-creation-demo. Ctrl-C
/// leaves a server's run alone; a run of this process resumes in the next process that executes: outlive worker FILE.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The workflow: a YAML file, or its id or name; agent:ID and team:ID for what is served alone
    #[arg(value_name = "FILE|NAME")]
    workflow: String,
    #[command(flatten)]
    input: Input,
    /// Which workflow of the file, if it has several
    #[arg(long = "workflow", value_name = "NAME")]
    of_file: Option<String>,
    #[command(flatten)]
    allowed: Allowances,
    #[command(flatten)]
    detach: Detach,
    /// The session it belongs to [default: a new one]
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// What to do when the session has an unfinished run: queue, reject, parallel, interrupt (cancel it) or steer (send the
    /// input to whoever works in it) [default: as the workflow says, else queue]
    #[arg(long, value_name = "POLICY", value_parser = policy)]
    session_policy: Option<SessionPolicy>,
    /// With --session-policy steer: the id of the agent or team that is to hear the input
    #[arg(long, value_name = "ID")]
    steer_to: Option<String>,
    /// Whose run it is; a credential that names a user takes precedence
    #[arg(long, value_name = "ID", value_parser = super::user)]
    user: Option<String>,
    /// Repeating the same request with the same key returns the same run
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Not to begin before this has passed, for example 30s or 2h
    #[arg(long, value_name = "DURATION", value_parser = crate::times::parse_duration)]
    delay: Option<Duration>,
    /// Of runs that wait for room, those with a higher priority go first
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    priority: i8,
    /// Where the workflow limits how many of its runs execute at once: those with the same key count together
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
}

/// What a run is to work on.
#[derive(Debug, Args)]
pub(super) struct Input {
    /// The input: text, @FILE for a file's contents, - for standard input
    #[arg(value_name = "INPUT", conflicts_with_all = ["json_input", "field"])]
    input: Option<String>,
    /// The input as JSON: text, @FILE or -
    #[arg(long, value_name = "JSON", conflicts_with = "field")]
    json_input: Option<String>,
    /// A field of the input; may be given several times. Numbers, true, false, lists and objects are read as JSON, unless
    /// the workflow is known to want text
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = super::answer::pair)]
    field: Vec<(String, String)>,
}

/// Whether to stay.
#[derive(Debug, Args)]
pub(super) struct Detach {
    /// Print the run's id and return; the run continues
    #[arg(short, long)]
    detach: bool,
}

impl Detach {
    /// What this process must be able to do.
    pub(super) fn role(&self) -> Role {
        if self.detach { Role::Accepts } else { Role::Executes }
    }

    /// Announces an accepted run, then follows it or detaches.
    pub(super) async fn go_on(&self, runs: &Runs, run: &Accepted, global: &Global) -> Result<Exit, Problem> {
        let run_id = &run.run_id;
        if let Some(steering) = &run.steering {
            output::note(
                global,
                format_args!("Sent to a run that goes on; if nobody takes it in, it becomes {steering}"),
            );
        }
        if !self.detach {
            output::note(global, format_args!("Run {run_id}"));
            return watch(runs, run_id, global).await;
        }
        if global.json {
            let mut fields = json!({ "id": run_id, "session_id": run.session_id, "repeated": run.is_repeated });
            if let Some(steering) = &run.steering {
                fields["steering_run_id"] = json!(steering);
            }
            output::json(&fields)?;
        } else {
            output::line(run_id)?;
        }
        if let Some(worker) = runs.awaited_worker(global) {
            let waiting = runs.standing(run_id).await?.waiting;
            if waiting.is_some_and(|waiting| waiting.waits_for == WaitsFor::Worker) {
                output::note(global, format_args!("Accepted; it waits for a process that executes: {worker}"));
            }
        }
        let watch = global.command(format_args!("watch {run_id}"));
        output::note(global, format_args!("Follow it with: {watch}"));
        Ok(Exit::Done)
    }
}

fn policy(word: &str) -> Result<SessionPolicy, String> {
    let words = || SessionPolicy::ALL.map(SessionPolicy::as_str).join(", ");
    SessionPolicy::parse(word).ok_or_else(|| format!("use one of {}", words()))
}

impl Run {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let (runs, workflow_id, input, global) = self.open(global).await?;
        let submit = Submit {
            input,
            session_id: self.session.clone(),
            user_id: self.user.clone(),
            idempotency_key: self.idempotency_key.clone(),
            policy: self.session_policy,
            steer_to: self.steer_to.clone(),
            start_at: self.delay.map(|delay| crate::times::now() + delay),
            priority: self.priority,
            concurrency_key: self.concurrency_key.clone(),
            ..Submit::default()
        };
        let done = async {
            let accepted = runs.submit(&workflow_id, submit).await?;
            self.detach.go_on(&runs, &accepted, &global).await
        };
        let done = done.await;
        runs.close().await?;
        done
    }
}

impl Run {
    /// Where the run is started, of what, with what input, and what further commands about it look like.
    async fn open(&self, global: &Global) -> Result<(Runs, DefinitionId, Option<Value>, Global), Problem> {
        if !files::is_file(&self.workflow) {
            if self.of_file.is_some() || self.allowed.model.is_some() || self.allowed.allow_commands {
                let message =
                    format!("{} is not a file: --workflow, --model and --allow-commands are for files", self.workflow);
                return Err(Problem::new(Exit::Usage, "usage", message));
            }
            let workflow_id = workflow_id(&self.workflow)?;
            let input = self.input.given(None)?;
            let runs = Runs::open_to_start(&workflow_id, self.detach.role(), global).await?;
            return Ok((runs, workflow_id, input, global.clone()));
        }
        let mut settings = Settings::load(global)?;
        let file = files::read(&self.workflow, &self.allowed, &settings)?;
        let of_file = self.of_file.as_deref();
        if !settings.server.is_empty() {
            let message = format!("a file is executed here, and a server is named by {}", settings.origin("server"));
            let ids: Vec<_> = file.workflow_ids().into_iter().map(|(_, id)| id).collect();
            let hint = format!("name its workflow, if the server has it: {}; or leave the server out", ids.join(", "));
            return Err(Problem::new(Exit::Usage, "usage", message).hint(hint));
        }
        let definition = files::the_workflow(&file, of_file)?;
        let workflow_id = definition.id.clone();
        let input = self.input.given(definition.input_schema.as_ref().map(|input| &input.schema))?;
        // Before anything is opened.
        definition.accept_input(input.clone()).map_err(|invalid| files::unfit(&definition, &invalid))?;
        files::choose_store(std::slice::from_ref(&file), &mut settings)?;
        let global = global.of_files(std::slice::from_ref(&self.workflow), &self.allowed, &settings);
        Ok((Runs::open_for(vec![definition], self.detach.role(), settings).await?, workflow_id, input, global))
    }
}

/// The workflow that a text names. Text containing white space can only be a name.
pub(super) fn workflow_id(text: &str) -> Result<DefinitionId, Problem> {
    let id = DefinitionId::parse(text).or_else(|_| DefinitionId::from_name(text));
    id.map_err(|error| Problem::new(Exit::Usage, "invalid_id", error))
}

impl Input {
    /// The input that is given as text, as JSON or by its fields, if any. What the schema calls text is not read as JSON.
    ///
    /// # Errors
    /// When it cannot be read, is no JSON, or names a field twice.
    pub(super) fn given(&self, schema: Option<&Value>) -> Result<Option<Value>, Problem> {
        const TOO_LONG: &str = "no run takes as its input";
        let parsed = |text: &str| outlive::serving::json::parse(text.as_bytes());
        if let Some(given) = &self.json_input {
            let text = given_text(given, TOO_LONG)?;
            // As a server reads it: what would be rounded, or is ambiguous, is refused.
            let value = parsed(&text)
                .map_err(|problem| invalid(format!("--json-input cannot be used: {}", problem.words())))?;
            return Ok(Some(value));
        }
        if let Some(input) = &self.input {
            return Ok(Some(Value::String(given_text(input, TOO_LONG)?)));
        }
        let mut fields = Map::new();
        for (name, text) in &self.field {
            let is_text = schema.is_some_and(|schema| schema["properties"][name]["type"] == "string");
            let value = if is_text { None } else { parsed(text).ok() };
            if fields.insert(name.clone(), value.unwrap_or_else(|| Value::from(text.as_str()))).is_some() {
                return Err(invalid(format!("field {name} is given twice")));
            }
        }
        Ok(Some(Value::Object(fields)).filter(|_| !self.field.is_empty()))
    }
}

fn invalid(message: String) -> Problem {
    Problem::new(Exit::Usage, "invalid_input", message)
}

/// A text as it is given: `@FILE` for a file's contents, `-` for standard input.
///
/// # Errors
/// As [`read_text`].
pub(crate) fn given_text(given: &str, too_long: &str) -> Result<String, Problem> {
    match given.strip_prefix('@') {
        Some(path) => read(open(path)?, path, INPUT_BYTES_MAX, too_long),
        None if given == "-" => read_text("-", INPUT_BYTES_MAX, too_long),
        None => Ok(given.to_owned()),
    }
}

/// The text of a file, `-` for standard input.
///
/// # Errors
/// When it cannot be read, is not text, or is longer than `bytes_max`, which `too_long` says about.
pub(crate) fn read_text(path: &str, bytes_max: u64, too_long: &str) -> Result<String, Problem> {
    match path {
        "-" => read(std::io::stdin(), "standard input", bytes_max, too_long),
        path => read(open(path)?, path, bytes_max, too_long),
    }
}

fn open(path: &str) -> Result<File, Problem> {
    File::open(path).map_err(|error| unreadable(path, &error))
}

/// All of it, unless it is too much: a device may have no end.
fn read(source: impl Read, name: &str, bytes_max: u64, too_long: &str) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    source.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| unreadable(name, &error))?;
    if bytes.len() as u64 > bytes_max {
        let message = format!("{name} has more than {bytes_max} bytes, which {too_long}");
        return Err(Problem::new(Exit::Usage, "input_too_long", message).hint("pass a reference to it instead"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Problem::new(Exit::Other, "input_unreadable", format!("{name} cannot be read: it is not UTF-8 text"))
    })
}

fn unreadable(what: &str, error: &std::io::Error) -> Problem {
    let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Other };
    Problem::new(exit, "input_unreadable", format!("{what} cannot be read: {error}"))
}
