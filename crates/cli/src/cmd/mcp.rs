//! `outlive mcp`: workflows as tools of an assistant, over MCP on standard input and output.
//!
//! ```text
//! assistant ──► start_run: its id, at once ──► wait_for_run, as often as it likes, or come back tomorrow
//!                                                  └─ it asks a person? answer_question
//! ```
//! It must never start or end a run in a way of its own: each tool is what the verb of that name does. The invariants:
//! nothing but the protocol goes to standard output; the end of the conversation ends no run.

use super::questions::question_json;
use super::watch::is_pause;
use super::{answer::logged_in, run_json, state};
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::{self, Allowances};
use crate::runs::{Role, Runs};
use crate::settings::Settings;
use crate::{demo, output, stop};
use clap::Args;
use outlive::client::RunSummary;
use outlive::core::port::RunFilter;
use outlive::core::{Answer, RunId, RunStatus};
use outlive::engine::Submit;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::{ServerHandler, ServiceExt};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a wait lasts, unless it is said, in seconds: an assistant's own limit may be a minute.
const WAIT: u64 = 30;
/// The longest.
const WAIT_MAX: u64 = 600;
/// Runs in one list.
const LIST_MAX: u32 = 100;

/// Give an assistant workflows as MCP tools, on standard input and output
///
/// An assistant starts outlive mcp FILE itself: put it into its list of MCP servers. It starts runs, waits for them, comes
/// back for them, answers what they ask and cancels them. Runs are as durable as any: this process executes them, and
/// the next one, or outlive worker FILE, goes on where it ended. With --server the runs are a server's.
#[derive(Debug, Args)]
pub(crate) struct Mcp {
    /// Workflow files, or folders with some; without one, the demonstration's workflow
    #[arg(value_name = "FILE|DIR", conflicts_with = "server")]
    files: Vec<String>,
    #[command(flatten)]
    allowed: Allowances,
    /// Accept runs for other processes to execute: outlive worker
    #[arg(long, conflicts_with = "server")]
    no_execute: bool,
    /// Whose runs they are; a credential that names a user takes precedence
    #[arg(long, value_name = "ID", value_parser = super::user)]
    user: Option<String>,
}

/// How answers are written.
const ANSWERS: &str = "write {\"do\": \"approve\"}, {\"do\": \"reject\", \"feedback\": …}, {\"do\": \"input\", \"values\": {…}}, {\"do\": \
     \"edit\", \"output\": …}, {\"do\": \"choose\", \"choices\": […]}, {\"do\": \"retry\"}, {\"do\": \"skip\"} or {\"do\": \"result\", \
     \"result\": …}";

/// A workflow that can be started.
#[derive(Clone, Debug)]
struct Known {
    id: String,
    name: String,
    description: Option<String>,
    input_schema: Option<Value>,
}

impl Mcp {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let stop = stop::stop_signal()?;
        let (runs, known) = self.open(global).await?;
        runs.begin().await?;
        output::note(global, format_args!("Speaking MCP; an assistant starts this itself"));
        let desk = Desk { runs: Arc::new(runs), known: known.into(), user: self.user.clone() };
        let runs = desk.runs.clone();
        let transport = AsyncRwTransport::new_server(tokio::io::stdin(), tokio::io::stdout());
        let talk = async {
            // Whoever closes standard input before a word has been said wants nothing.
            if let Ok(service) = desk.serve(transport).await {
                let _ = service.waiting().await;
            }
        };
        tokio::select! {
            () = talk => {}
            () = stop => {}
        }
        runs.close().await?;
        Ok(Exit::Done)
    }

    /// Where runs are, and what can be started there.
    async fn open(&self, global: &Global) -> Result<(Runs, Vec<Known>), Problem> {
        let role = if self.no_execute { Role::Accepts } else { Role::Executes };
        let mut settings = Settings::load(global)?;
        if !settings.server.is_empty() && self.files.is_empty() {
            let runs = Runs::open_as(role, global).await?;
            let known = runs.served().await?;
            let known = known.into_iter().map(|served| Known {
                id: served.id,
                name: served.name,
                description: served.description,
                input_schema: None,
            });
            return Ok((runs, known.collect()));
        }
        let files = files::read_all(&self.files, &self.allowed, &settings)?;
        let definitions = files::definitions(&files)?;
        files::choose_store(&files, &mut settings)?;
        if files.is_empty() {
            let workflow = demo::workflow(Arc::new(outlive::db::InMemoryDb::new()))?.definition().clone();
            return Ok((Runs::open_to_start(&workflow.id, role, global).await?, vec![Known::of(&workflow)]));
        }
        let known = definitions.iter().map(|definition| Known::of(definition)).collect();
        Ok((Runs::open_for(definitions, role, settings).await?, known))
    }
}

impl Known {
    fn of(definition: &outlive::core::Definition) -> Self {
        Self {
            id: definition.id.to_string(),
            name: definition.name.to_string(),
            description: definition.description.as_deref().map(str::to_owned),
            input_schema: definition.input_schema.as_ref().map(|input| input.schema.clone()),
        }
    }

    fn json(&self) -> Value {
        json!({ "id": self.id, "name": self.name, "description": self.description, "input_schema": self.input_schema })
    }

    /// For the description of a tool.
    fn line(&self) -> String {
        let about = self.description.as_deref().unwrap_or(&self.name);
        let input = match &self.input_schema {
            Some(schema) => format!(" (its input: {schema})"),
            None => String::new(),
        };
        format!("- {}: {about}{input}", self.id)
    }
}

/// What an assistant talks to.
struct Desk {
    runs: Arc<Runs>,
    known: Arc<[Known]>,
    user: Option<String>,
}

/// Starts a run of a workflow in the background, and returns its id at once. The run goes on by itself, also when this
/// conversation ends: come back for it with wait_for_run or get_run.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StartRun {
    /// The workflow's id; list_workflows has them
    workflow: String,
    /// What it is to work on: text, or JSON that fits the workflow's input schema
    #[serde(default)]
    input: Option<Value>,
    /// The conversation it belongs to: runs of one session see each other, and are executed one after another; a new one
    /// unless said
    #[serde(default)]
    session_id: Option<String>,
    /// Any text that is yours: starting again with the same one returns the same run. Give one where you might repeat this
    /// call
    #[serde(default)]
    idempotency_key: Option<String>,
}

/// Waits until a run is over or asks a person something, but no longer than timeout_seconds; then says how it stands. If it
/// is still at work, wait again, or come back later: the run does not need you.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WaitForRun {
    /// The run's id
    run_id: String,
    /// At most this long; 30 unless said, 600 at most
    #[serde(default)]
    #[schemars(range(min = 0, max = 600))]
    #[serde(deserialize_with = "seconds")]
    timeout_seconds: Option<u64>,
}

/// Says how a run stands: its status, what it has come to, what it waits for, and the questions that it asks.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetRun {
    /// The run's id
    run_id: String,
}

/// Lists runs, newest first.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListRuns {
    /// Only those of this workflow, by its id
    #[serde(default)]
    workflow: Option<String>,
    /// Only those with this status
    #[serde(default)]
    #[schemars(schema_with = "status")]
    status: Option<RunStatus>,
    /// How many; 20 unless said
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    #[serde(deserialize_with = "runs")]
    limit: Option<u32>,
}

/// A status that may be left out.
fn status(_: &mut SchemaGenerator) -> Schema {
    let words = RunStatus::ALL.map(|status| json!(status));
    json_schema!({ "type": ["string", "null"], "enum": words.iter().chain([&Value::Null]).collect::<Vec<_>>() })
}

/// Answers a question that a run asks. Only with what a person has told you: the question is for them. get_run shows the
/// question and which answers it takes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AnswerQuestion {
    /// The question's id
    question_id: String,
    /// One of the answers that the question takes
    #[schemars(with = "GivenAnswer")]
    #[serde(deserialize_with = "given_answer")]
    answer: Answer,
}

/// For the schema alone: as the server takes answers.
#[derive(JsonSchema)]
#[schemars(tag = "do", rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes")]
enum GivenAnswer {
    /// Yes
    Approve,
    /// No, and why
    Reject { feedback: Option<String> },
    /// Values of the fields that are asked for
    Input { values: Map<String, Value> },
    /// Yes, but with this output instead
    Edit { output: Value },
    /// These of the choices
    Choose { choices: Vec<String> },
    /// Try it again
    Retry,
    /// Go on without it
    Skip,
    /// It happened, and this came of it
    Result { result: Value },
}

/// Cancels a run. What it has done stays done; what it is doing is ended.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CancelRun {
    /// The run's id
    run_id: String,
    /// Why, for whoever looks at it later
    #[serde(default)]
    reason: Option<String>,
}

/// Lists the workflows that start_run starts, with what they do and the input that they take.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListWorkflows {}

impl Desk {
    fn tools(&self) -> Vec<Tool> {
        let lines: Vec<_> = self.known.iter().map(Known::line).collect();
        let known = format!("\n\nThe workflows are:\n{}", lines.join("\n"));
        let read = ToolAnnotations::new().read_only(true);
        let run = || object(&[("id", "string"), ("status", "string"), ("content", ""), ("questions", "array")]);
        let started = object(&[("run_id", "string"), ("session_id", "string"), ("status", "string")]);
        vec![
            tool::<ListWorkflows>("list_workflows", "", read.clone(), object(&[("workflows", "array")])),
            tool::<StartRun>("start_run", &known, ToolAnnotations::new().destructive(false), started),
            tool::<WaitForRun>("wait_for_run", "", read.clone(), run()),
            tool::<GetRun>("get_run", "", read.clone(), run()),
            tool::<ListRuns>("list_runs", "", read, object(&[("runs", "array"), ("more", "boolean")])),
            tool::<AnswerQuestion>("answer_question", "", ToolAnnotations::new().idempotent(true), run()),
            tool::<CancelRun>("cancel_run", "", ToolAnnotations::new().idempotent(true), run()),
        ]
    }

    async fn call(&self, name: &str, arguments: Value) -> Result<Value, Problem> {
        match name {
            "list_workflows" => {
                let ListWorkflows {} = read(arguments)?;
                Ok(json!({ "workflows": self.known.iter().map(Known::json).collect::<Vec<_>>() }))
            }
            "start_run" => self.start(read(arguments)?).await,
            "wait_for_run" => self.wait(read(arguments)?).await,
            "get_run" => {
                let GetRun { run_id } = read(arguments)?;
                self.shown(&run_id).await
            }
            "list_runs" => self.list(read(arguments)?).await,
            "answer_question" => self.answer(read(arguments)?).await,
            "cancel_run" => {
                let CancelRun { run_id, reason } = read(arguments)?;
                let run = self.find(&run_id).await?;
                let reason = reason.unwrap_or_else(|| "cancelled by an assistant".to_owned());
                self.runs.cancel(&run.info.run_id, &reason).await?;
                self.shown(run.info.run_id.as_str()).await
            }
            other => Err(Problem::new(Exit::NotFound, "tool_not_found", format!("there is no tool {other}"))),
        }
    }

    async fn start(&self, start: StartRun) -> Result<Value, Problem> {
        let StartRun { workflow, input, session_id, idempotency_key } = start;
        let workflow_id = super::run::workflow_id(&workflow)?;
        // What a server has besides is for it to say.
        if self.runs.is_here() && !self.known.iter().any(|known| known.id == workflow_id.as_str()) {
            let known: Vec<_> = self.known.iter().map(|known| known.id.as_str()).collect();
            let problem = Problem::new(Exit::NotFound, "unknown_workflow", format!("there is no workflow {workflow}"));
            return Err(problem.hint(format!("there are: {}", known.join(", "))));
        }
        let user_id = self.user.clone();
        let submit = Submit { input, session_id, idempotency_key, user_id, ..Submit::default() };
        let accepted = self.runs.submit(&workflow_id, submit).await?;
        let status = self.runs.status(&accepted.run_id).await?;
        Ok(json!({
            "run_id": accepted.run_id,
            "session_id": accepted.session_id,
            "status": status,
            "is_repeated": accepted.is_repeated,
            "hint": "it goes on by itself: wait_for_run waits for it, get_run says how it stands",
        }))
    }

    async fn wait(&self, wait: WaitForRun) -> Result<Value, Problem> {
        let run = self.find(&wait.run_id).await?;
        let run_id = run.info.run_id;
        let patience = Duration::from_secs(wait.timeout_seconds.unwrap_or(WAIT).min(WAIT_MAX));
        if !run.status.is_terminal() && run.status != RunStatus::Paused {
            // Past that, it is told how it stands.
            if let Ok(rested) = tokio::time::timeout(patience, at_rest(&self.runs, &run_id)).await {
                rested?;
            }
        }
        self.shown(run_id.as_str()).await
    }

    async fn list(&self, list: ListRuns) -> Result<Value, Problem> {
        let filter = RunFilter {
            workflow_id: list.workflow.as_deref().map(super::run::workflow_id).transpose()?,
            user_id: self.user.as_deref().map(Arc::from),
            statuses: list.status.into_iter().collect(),
            limit: list.limit.unwrap_or(20).clamp(1, LIST_MAX),
            ..RunFilter::default()
        };
        let page = self.runs.list(filter).await?;
        let runs: Vec<_> = page.runs.iter().map(run_json).collect();
        Ok(json!({ "runs": runs, "more": page.next.is_some() }))
    }

    async fn answer(&self, given: AnswerQuestion) -> Result<Value, Problem> {
        let question = self.runs.find_question(&given.question_id).await?;
        self.find(question.run_id.as_str()).await?;
        let by = if self.runs.is_here() { self.user.as_deref().map(Arc::from).or_else(logged_in) } else { None };
        let question = self.runs.answer(&question.question_id, given.answer, by, "outlive mcp").await?;
        self.shown(question.run_id.as_str()).await
    }

    /// The run that is named, if it may be seen: of a user's, only that user's.
    async fn find(&self, run_id: &str) -> Result<RunSummary, Problem> {
        let run = self.runs.find(run_id).await?;
        match self.user.as_deref() {
            Some(user) if run.info.user_id.as_deref() != Some(user) => {
                let message = format!("there is no run {run_id} of the user {user}");
                Err(Problem::new(Exit::NotFound, "run_not_found", message))
            }
            _ => Ok(run),
        }
    }

    /// How a run stands.
    async fn shown(&self, run_id: &str) -> Result<Value, Problem> {
        let run = self.find(run_id).await?;
        let output = self.runs.output(&run.info.run_id).await?;
        let open = self.runs.open_questions(&run).await?;
        let mut shown = run_json(&run);
        // The word of the protocol's other tools and of Agno, not that of this program's lists.
        let (_, word) = state(&run);
        shown["status"] = json!(run.status);
        shown["state"] = json!(word);
        shown["content"] = if run.status == RunStatus::Pending { Value::Null } else { json!(output.content) };
        shown["questions"] = open.iter().map(question_json).collect();
        Ok(shown)
    }
}

impl ServerHandler for Desk {
    fn get_info(&self) -> ServerConfig {
        let about = Implementation::new("outlive", env!("CARGO_PKG_VERSION"));
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build()).with_server_info(about).with_instructions(
            "Workflows that take long, and go on by themselves once they are started. Start one with start_run, which \
             returns its id at once; tell the user the id, so that they can ask for it in another conversation. Wait with \
             wait_for_run. A run may ask a person something: show the question to the user, and answer with what they say.",
        )
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let called = tokio::select! {
            called = self.call(&request.name, arguments) => called,
            // Whoever asked waits no more; a run goes on.
            () = context.ct.cancelled() => return Err(ErrorData::internal_error("cancelled", None)),
        };
        let result = match called {
            Ok(value) => CallToolResult::structured(value),
            Err(problem) => CallToolResult::error(vec![ContentBlock::text(problem.text())]),
        };
        Ok(result.into())
    }
}

/// A tool that takes these arguments: the words of the type describe it.
fn tool<T: JsonSchema>(name: &'static str, more: &str, hints: ToolAnnotations, output: Map<String, Value>) -> Tool {
    let mut schema = match SchemaGenerator::default().into_root_schema_for::<T>().to_value() {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    let about = schema.remove("description");
    let about = about.as_ref().and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
    schema.remove("title");
    Tool::new(name, format!("{about}{more}"), schema).with_annotations(hints).with_raw_output_schema(Arc::new(output))
}

/// The schema of an object with these fields, and more.
fn object(fields: &[(&str, &str)]) -> Map<String, Value> {
    let field = |(name, kind): &(&str, &str)| {
        let schema = if kind.is_empty() { json!({}) } else { json!({ "type": kind }) };
        ((*name).to_owned(), schema)
    };
    let required: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> = fields.iter().map(field).collect();
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    schema.as_object().cloned().unwrap_or_default()
}

/// An answer, also by its name alone where that is all of it.
fn given_answer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Answer, D::Error> {
    let given = match Value::deserialize(deserializer)? {
        Value::String(name) => json!({ "do": name }),
        given => given,
    };
    Answer::deserialize(given).map_err(|error| D::Error::custom(format!("answer: {error}: {ANSWERS}")))
}

/// A number of seconds, if any.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    whole(deserializer, "timeout_seconds", 0, WAIT_MAX)
}

/// A number of runs, if any.
fn runs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let count = whole(deserializer, "limit", 1, u64::from(LIST_MAX))?;
    Ok(count.map(|count| u32::try_from(count).unwrap_or(u32::MAX)))
}

fn whole<'de, D: Deserializer<'de>>(given: D, name: &str, least: u64, most: u64) -> Result<Option<u64>, D::Error> {
    let given = Value::deserialize(given)?;
    match given.as_u64() {
        _ if given.is_null() => Ok(None),
        Some(count) => Ok(Some(count)),
        None => Err(D::Error::custom(format!("{name} is {given}: write a whole number from {least} to {most}"))),
    }
}

/// The arguments of a call.
fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, Problem> {
    serde_json::from_value(arguments)
        .map_err(|error| Problem::new(Exit::Usage, "invalid_arguments", format!("the arguments do not fit: {error}")))
}

/// The run's status once nothing of it goes on by itself.
async fn at_rest(runs: &Runs, run_id: &RunId) -> Result<RunStatus, Problem> {
    let mut following = runs.follow(run_id, None).await?;
    while let Some(event) = following.next().await? {
        // A pause that has since ended is just another event.
        if is_pause(&event) && runs.status(run_id).await? == RunStatus::Paused {
            return Ok(RunStatus::Paused);
        }
    }
    runs.status(run_id).await
}
