//! Tools: what an agent may do besides talking.

use outlive_core::port::BoxFuture;
use outlive_core::{Failure, RunId, ToolEffect, ToolSpec};
use serde_json::Value;
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
