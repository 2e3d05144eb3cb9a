//! Tools: what an agent may do besides talking.

mod function;
#[cfg(feature = "http-tools")]
mod hackernews;
#[cfg(feature = "http-tools")]
mod site;
#[cfg(feature = "http-tools")]
mod yfinance;

#[cfg(feature = "http-tools")]
pub use hackernews::HackerNewsTools;
#[cfg(feature = "http-tools")]
pub use yfinance::YFinanceTools;

use outlive_core::port::BoxFuture;
use outlive_core::{Failure, RunId, ToolEffect, ToolSpec};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// What a tool is told besides its arguments.
#[derive(Clone, Debug)]
pub struct ToolContext {
    /// The same for every repetition of this call after a crash, and for no other call. Hand it to the service the tool
    /// talks to, so that it can see a repetition.
    pub idempotency_key: Arc<str>,
    /// The run of the agent that calls.
    pub run_id: RunId,
}

/// A tool's parts are asked for by the agent loop; users make tools with [`Tool::new`].
pub trait ToolFunction: Send + Sync + 'static {
    /// Name, description and argument schema as the model is told of them.
    fn spec(&self) -> &ToolSpec;

    /// What happens when a crash leaves the outcome of a call unknown.
    fn effect(&self) -> ToolEffect {
        ToolEffect::default()
    }

    /// Does it. `arguments` is whatever JSON the model wrote.
    ///
    /// # Errors
    /// [`ToolError::Arguments`] when the arguments do not fit the schema, [`ToolError::Failed`] when the tool itself failed. The model is
    /// told either way and may try again.
    fn call(&self, arguments: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>>;
}

/// Why a tool call gave no result.
#[derive(Clone, Debug)]
pub enum ToolError {
    /// The arguments do not fit the schema: what is wrong with them.
    Arguments(String),
    /// The tool failed.
    Failed(Failure),
}

/// A tool, shared and cheap to clone.
#[derive(Clone)]
pub struct Tool(pub(crate) Arc<dyn ToolFunction>);

impl Tool {
    /// A tool with an implementation of its own.
    pub fn from_function(function: impl ToolFunction) -> Self {
        Self(Arc::new(function))
    }

    /// Name, description and argument schema as the model is told of them.
    pub fn spec(&self) -> &ToolSpec {
        self.0.spec()
    }

    /// The same tool with another answer to what happens when a crash leaves the outcome of a call unknown.
    pub fn effect(self, effect: ToolEffect) -> Self {
        Self::from_function(WithEffect { tool: self, effect })
    }

    /// Does it; see [`ToolFunction::call`].
    ///
    /// # Errors
    /// As for [`ToolFunction::call`].
    pub fn call(&self, arguments: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        self.0.call(arguments, context)
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool")
            .field("name", &self.spec().name)
            .field("effect", &self.0.effect())
            .finish_non_exhaustive()
    }
}

/// A tool whose effect the user knows better.
struct WithEffect {
    tool: Tool,
    effect: ToolEffect,
}

impl ToolFunction for WithEffect {
    fn spec(&self) -> &ToolSpec {
        self.tool.spec()
    }

    fn effect(&self) -> ToolEffect {
        self.effect
    }

    fn call(&self, arguments: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        self.tool.call(arguments, context)
    }
}

impl ToolError {
    /// What the model is told.
    pub fn message(&self) -> &str {
        match self {
            ToolError::Arguments(message) => message,
            ToolError::Failed(failure) => &failure.message,
        }
    }
}

/// What can be given as tools: one, several, or a toolkit.
pub trait IntoTools {
    /// The tools, in the order the model is told of them.
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
    let mut problems = Vec::new();
    for spec in tools.iter().map(Tool::spec) {
        problems.extend(name_problem(&spec.name));
        if !seen.insert(spec.name.as_str()) {
            problems.push(format!("two tools are named {:?}: rename one", spec.name));
        }
        if spec.parameters.get("type").is_none_or(|kind| kind != "object") {
            problems.push(format!("tool {:?} takes arguments that are no object: use a struct", spec.name));
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
