//! Tools: what an agent may do besides talking.

#[cfg(feature = "commands")]
mod command;
#[cfg(feature = "http-tools")]
mod declared;
mod function;
#[cfg(feature = "http-tools")]
mod hackernews;
#[cfg(feature = "mcp")]
mod mcp;
mod people;
#[cfg(feature = "http-tools")]
mod request;
#[cfg(feature = "http-tools")]
mod site;
mod source;
#[cfg(feature = "http-tools")]
mod template;
mod workflow_tools;
#[cfg(feature = "http-tools")]
mod yfinance;

#[cfg(feature = "commands")]
pub use command::CommandCall;
#[cfg(feature = "http-tools")]
pub use declared::Call;
#[cfg(feature = "http-tools")]
pub use hackernews::HackerNewsTools;
#[cfg(feature = "mcp")]
pub use mcp::MCPTools;
#[cfg(feature = "http-tools")]
pub use request::{HttpCall, is_lacking};
#[cfg(feature = "http-tools")]
pub use yfinance::YFinanceTools;

pub use workflow_tools::{CalledWorkflow, WorkflowTools};

pub(crate) use people::{Asker, Needs};
#[cfg(any(test, feature = "mcp"))]
pub(crate) use source::ListedTool;
pub(crate) use source::{Listing, ToolSource, orphan};

use crate::desk::Desk;

use outlive_core::port::{BoxFuture, SessionState};
use outlive_core::{Definition, EventKind, Failure, Origin, RunId, Secret, ToolCall, ToolEffect, ToolSpec, coerce};
use serde_json::{Map, Value};
use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long one call may take, unless the tool says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a tool is told besides its arguments.
#[derive(Clone, Debug)]
pub struct ToolContext {
    /// The same for every repetition of this call after a crash, and for no other call. Hand it to the service the tool
    /// talks to, so that it can recognise a repetition.
    pub idempotency_key: Arc<str>,
    /// The run of the agent that calls.
    pub run_id: RunId,
    /// The session's state, to read and to change; an agent without a workflow has one for each run.
    ///
    /// A call sees the state as it was when its turn began, and its own changes. Changes are recorded with the call's
    /// result and applied when all calls of the turn have ended, in the order the model asked for them; a call that
    /// fails changes nothing. So a call that is repeated after a crash sees the same state again, and one that is not
    /// repeated keeps its changes.
    pub session_state: SessionState,
    /// How it asks people, where an agent calls.
    pub(crate) asker: Option<Asker>,
    /// Whom it tells how far it is, where an agent calls.
    pub(crate) reporter: Option<Arc<Reporter>>,
}

impl ToolContext {
    /// A context for a call that no agent makes: it can ask nobody.
    pub fn new(idempotency_key: impl Into<Arc<str>>, run_id: RunId, session_state: SessionState) -> Self {
        Self { idempotency_key: idempotency_key.into(), run_id, session_state, asker: None, reporter: None }
    }

    /// Tells readers of the run how far the call is: `progress` of `total`, where that is known, in any unit. They see a
    /// custom event `ToolCallProgress`, at most five in a second; those that come faster are left out. Does nothing where
    /// no agent calls.
    ///
    /// ```
    /// use outlive_agent::tool::{Tool, ToolContext};
    ///
    /// let copy = Tool::new("copy", "Copies all.", |(): (), context: ToolContext| async move {
    ///     for page in 1..=3 {
    ///         context.report_progress(f64::from(page), Some(3.0), Some("copying"));
    ///     }
    ///     Ok::<_, std::convert::Infallible>("copied")
    /// });
    /// # let _ = copy;
    /// ```
    pub fn report_progress(&self, progress: f64, total: Option<f64>, message: Option<&str>) {
        if let Some(reporter) = &self.reporter {
            reporter.report(progress, total, message);
        }
    }
}

/// How often a call may say how far it is.
const REPORT_PERIOD: Duration = Duration::from_millis(200);
/// The longest text of a report, in characters.
const REPORT_CHARS: usize = 1_000;

/// Whom a call tells how far it is.
#[derive(Debug)]
pub(crate) struct Reporter {
    desk: Desk,
    origin: Origin,
    tool_call_id: String,
    tool_name: String,
    reported: Mutex<Option<Instant>>,
}

impl Reporter {
    pub(crate) fn new(desk: Desk, origin: Origin, call: &ToolCall) -> Self {
        let (tool_call_id, tool_name) = (call.id.clone(), call.function.name.clone());
        Self { desk, origin, tool_call_id, tool_name, reported: Mutex::default() }
    }

    fn report(&self, progress: f64, total: Option<f64>, message: Option<&str>) {
        let now = Instant::now();
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_some_and(|before| now.saturating_duration_since(before) < REPORT_PERIOD) {
            return;
        }
        *reported = Some(now);
        drop(reported);
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        set("name", "ToolCallProgress".into());
        set("tool_call_id", self.tool_call_id.as_str().into());
        set("tool_name", self.tool_name.as_str().into());
        set("progress", progress.into());
        if let Some(total) = total {
            set("total", total.into());
        }
        if let Some(message) = message {
            set("message", message.chars().take(REPORT_CHARS).collect::<String>().into());
        }
        self.desk.tell(EventKind::CustomEvent { fields }, self.origin.clone());
    }
}

/// The agent loop calls these methods; users make tools with [`Tool::new`].
pub trait ToolFunction: Send + Sync + 'static {
    /// Name, description and argument schema as the model sees them.
    fn spec(&self) -> &ToolSpec;

    /// What to do when the outcome of a call is unknown, after a crash or past its limit.
    fn effect(&self) -> ToolEffect {
        ToolEffect::default()
    }

    /// How long one call may take; 60 seconds unless set, no limit with `None`.
    fn timeout(&self) -> Option<Duration> {
        Some(TIMEOUT)
    }

    /// Says what is wrong with arguments, before a person is asked about a call with them; [`ToolFunction::call`] says it
    /// too.
    ///
    /// # Errors
    /// What is wrong with them.
    fn check(&self, arguments: &Value) -> Result<(), String> {
        let _ = arguments;
        Ok(())
    }

    /// What would make every call fail, in words for a person. Asked for once, before a run exists.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// What must not be stored: its keys.
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }

    /// The workflow that the tool stands for, if it does. In a run it is executed inside that, and
    /// [`ToolFunction::call`] is not called.
    fn workflow(&self) -> Option<Arc<Definition>> {
        None
    }

    /// What arguments ask of that workflow: its input, and what its steps see as `additional_data`.
    ///
    /// # Errors
    /// What is wrong with them.
    fn asks_workflow(&self, arguments: &Value) -> Result<(Value, Option<Value>), String> {
        Ok((arguments.clone(), None))
    }

    /// Runs the tool. `arguments` is what the model wrote, fitted to the schema as [`coerce`] does.
    ///
    /// # Errors
    /// [`ToolError::Arguments`] when the arguments do not fit the schema, [`ToolError::Failed`] when the tool itself failed.
    /// The model is told either way and may try again.
    fn call(&self, arguments: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>>;
}

/// Why a tool call has no result.
#[derive(Clone, Debug)]
pub enum ToolError {
    /// The arguments do not fit the schema: what is wrong with them.
    Arguments(String),
    /// The tool failed.
    ///
    /// An agent calls a tool again by itself, under the same idempotency key, when its failure is a passing one:
    /// `RateLimit`, `Unavailable`, `Timeout` or `Truncated`, or any other with [`Failure::retry_after`]. It does so up
    /// to three times, after the wait the failure names or a second or two, as long as that fits into
    /// [`Tool::timeout`]; never for a tool that is [`ToolEffect::Once`]. The model is told the last failure.
    Failed(Failure),
    /// Nobody knows whether the call took effect: a connection was lost before the answer came. What happened, in words
    /// that follow "it": `lost its connection`. Where the tool is [`ToolEffect::Once`], its run pauses and a person is
    /// asked, as after a crash; any other is called again, as after a failure that passes.
    OutcomeUnknown(String),
}

/// A tool, shared and cheap to clone.
#[derive(Clone)]
pub struct Tool {
    function: Arc<dyn ToolFunction>,
    /// What the model sees, if a person fills in arguments.
    shown: Option<Arc<ToolSpec>>,
    pub(crate) effect: ToolEffect,
    is_effect_chosen: bool,
    pub(crate) needs: Needs,
    pub(crate) timeout: Option<Duration>,
    /// It stands for the tools of this one, which are listed when an agent begins.
    pub(crate) source: Option<Arc<dyn ToolSource>>,
}

impl Tool {
    /// A tool with your own implementation.
    pub fn from_function(function: impl ToolFunction) -> Self {
        let (effect, timeout) = (function.effect(), function.timeout());
        let (shown, needs, source) = (None, Needs::default(), None);
        Self { function: Arc::new(function), shown, effect, is_effect_chosen: false, needs, timeout, source }
    }

    /// What stands for all the tools of a source.
    #[cfg(any(test, feature = "mcp"))]
    pub(crate) fn of_source(source: Arc<impl ToolFunction + ToolSource>) -> Self {
        let function: Arc<dyn ToolFunction> = source.clone();
        let (effect, timeout) = (function.effect(), function.timeout());
        let (shown, needs, is_effect_chosen) = (None, Needs::default(), false);
        Self { function, shown, effect, is_effect_chosen, needs, timeout, source: Some(source) }
    }

    /// Name, description and argument schema as the model sees them.
    pub fn spec(&self) -> &ToolSpec {
        self.shown.as_deref().unwrap_or_else(|| self.function.spec())
    }

    /// The same tool with another choice of what to do when the outcome of a call is unknown: after a crash, or past
    /// its limit. See [`ToolEffect`].
    pub fn effect(mut self, effect: ToolEffect) -> Self {
        self.effect = effect;
        self.is_effect_chosen = true;
        self
    }

    /// How long one call may take, including its retries: 60 seconds unless set, no limit with `None`.
    ///
    /// A call past its limit is dropped and the model is told, and may try something else. When the tool is
    /// [`ToolEffect::Once`], it is then unknown whether the call took effect: its run pauses, and a person is asked. No
    /// time passes while people are asked.
    ///
    /// ```
    /// use outlive_agent::tool::{Tool, ToolContext};
    /// use std::{convert::Infallible, time::Duration};
    ///
    /// let look = Tool::new("look", "Looks.", |(): (), _: ToolContext| async { Ok::<_, Infallible>("nothing") });
    /// let patient = look.clone().timeout(Duration::from_secs(600));
    /// let endless = look.timeout(None);
    /// # let _ = (patient, endless);
    /// ```
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.timeout = limit.into();
        self
    }

    /// What must not be stored.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        self.function.secrets()
    }

    /// The workflow that it stands for, if it does.
    pub(crate) fn workflow(&self) -> Option<Arc<Definition>> {
        self.function.workflow()
    }

    /// What arguments ask of that workflow.
    pub(crate) fn asks_workflow(&self, arguments: Value) -> Result<(Value, Option<Value>), String> {
        let arguments = coerce(arguments, &self.function.spec().parameters).map_err(|misfit| misfit.to_string())?;
        self.function.asks_workflow(&arguments)
    }

    /// Runs the tool, once and without a limit, with the arguments fitted to the schema; see [`ToolFunction::call`].
    ///
    /// # Errors
    /// As for [`ToolFunction::call`].
    pub fn call(&self, arguments: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        match coerce(arguments, &self.function.spec().parameters) {
            Ok(arguments) => self.function.call(arguments, context),
            Err(misfit) => Box::pin(async move { Err(ToolError::Arguments(misfit.to_string())) }),
        }
    }
}

impl Tool {
    /// Whether a call with the model's arguments can be made, as far as that can be known before a person fills in others.
    pub(crate) fn check(&self, arguments: Value) -> Result<(), String> {
        let arguments = coerce(arguments, &self.spec().parameters).map_err(|misfit| misfit.to_string())?;
        if self.needs.user_input { Ok(()) } else { self.function.check(&arguments) }
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool")
            .field("name", &self.spec().name)
            .field("effect", &self.effect)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl ToolError {
    /// What the model is told.
    pub fn message(&self) -> &str {
        match self {
            ToolError::Arguments(message) => message,
            ToolError::Failed(failure) => &failure.message,
            ToolError::OutcomeUnknown(what) => what,
        }
    }
}

/// What the model is told about a panic.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    format!("the tool panicked: {said}")
}

/// What can be given as tools: one, several, or a toolkit.
pub trait IntoTools {
    /// The tools, in the order the model sees them.
    fn into_tools(self) -> Vec<Tool>;
}

impl IntoTools for Tool {
    fn into_tools(self) -> Vec<Tool> {
        vec![self]
    }
}

impl IntoTools for Vec<Tool> {
    fn into_tools(self) -> Vec<Tool> {
        self
    }
}

impl<const N: usize> IntoTools for [Tool; N] {
    fn into_tools(self) -> Vec<Tool> {
        self.into()
    }
}

/// The longest name of a tool, in characters.
pub const NAME_LEN_MAX: usize = 64;

/// What no model server would accept about these tools together, in words for a person; empty when all is well.
pub fn problems(tools: &[Tool]) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut sources = HashSet::new();
    let mut problems = Vec::new();
    for tool in tools {
        let spec = tool.spec();
        if let Some(source) = &tool.source {
            let name = source.name();
            problems.extend(tool.function.problems().iter().map(|problem| format!("tools of {name:?}: {problem}")));
            if !sources.insert(name) {
                problems.push(format!("two servers of tools are named {name:?}: rename one"));
            }
            continue;
        }
        problems.extend(tool.people_problems());
        problems.extend(tool.function.problems().iter().map(|problem| format!("tool {:?}: {problem}", spec.name)));
        problems.extend(name_problem(&spec.name));
        if !seen.insert(spec.name.as_str()) {
            problems.push(format!("two tools are named {:?}: rename one", spec.name));
        }
        if spec.parameters.get("type").is_none_or(|kind| kind != "object") {
            problems.push(format!("tool {:?} takes arguments that are not an object: use a struct", spec.name));
        }
    }
    problems
}

/// What is wrong with the name of a tool: it needs 1 to [`NAME_LEN_MAX`] letters, digits, `_` and `-` of ASCII.
pub fn name_problem(name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let good = !name.is_empty() && name.len() <= NAME_LEN_MAX && name.chars().all(legal);
    (!good).then(|| format!("tool name {name:?} is not allowed: use 1 to {NAME_LEN_MAX} letters, digits, _ and -"))
}
