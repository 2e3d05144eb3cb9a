//! The conversation with a model, in Agno's stored shape, and one model call's request and answer.
//!
//! These types are what the log keeps, so they know no provider: an adapter turns them into a wire format and back.

use crate::failure::Failure;
use crate::id::RunId;
use crate::json;
use crate::metrics::{Metrics, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions. Adapters send it as `developer` where the provider wants that.
    System,
    /// The person, or the step that asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// An image, a file, an audio or a video clip: by reference (`url`) or by value (`content`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Media {
    /// The caller's id for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where the provider can fetch it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The bytes in base64 (standard alphabet, padded).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// For example `image/png`. Needed with `content`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// A file's name as the model should see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// `low`, `high` or `auto`: how closely a model looks at an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whatever else the caller said about it (Agno's `format`, `alt_text`, `duration`, `transcript`, `metadata`),
    /// unchanged. Models do not see it.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The function a model wants called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The tool's name.
    pub name: String,
    /// The arguments as the model wrote them: JSON text, possibly malformed.
    pub arguments: String,
}

/// One tool call a model asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The id that events and results carry. With the Responses endpoint the item's id (`fc_…`), as in Agno.
    pub id: String,
    /// The id the provider pairs the result with, where it differs from `id` (`call_…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What to call.
    pub function: FunctionCall,
}

impl ToolCall {
    /// A call of `name` with JSON `arguments`.
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            call_id: None,
            kind: "function".to_owned(),
            function: FunctionCall { name: name.into(), arguments: arguments.into() },
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Derived from the run's id and the message's place, so it is the same after a recovery.
    pub id: Arc<str>,
    /// The text; absent for an assistant turn that only calls tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The model's reasoning text, if it shows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// True for a message carried over from an earlier run of the session.
    pub from_history: bool,
    /// True when the run ended with this tool's result.
    pub stop_after_tool_call: bool,
    /// Who speaks.
    pub role: Role,
    /// Assistant turns: the calls asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Tool results: the call answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Tool results: the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    /// Tool results: the arguments as parsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_args: Option<Value>,
    /// Tool results: whether the tool failed and `content` says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_error: Option<bool>,
    /// Images shown to the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Media>,
    /// Files shown to the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Media>,
    /// What the adapter needs to send this turn again as the provider knew it (reasoning items, ids).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_data: Option<Value>,
    /// Assistant turns: what the call used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Seconds since 1970.
    pub created_at: i64,
}

impl Message {
    /// The id of the message at this place of a run's conversation.
    pub fn id_at(run_id: &RunId, place: usize) -> Arc<str> {
        run_id.derive(&format!("message/{place}"))
    }

    /// A message with text and nothing else.
    pub fn new(role: Role, content: impl Into<String>, id: Arc<str>, created_at: i64) -> Self {
        Self {
            id,
            content: Some(content.into()),
            reasoning_content: None,
            from_history: false,
            stop_after_tool_call: false,
            role,
            tool_calls: Vec::new(),
            tool_call_id: None,
            tool_name: None,
            tool_args: None,
            tool_call_error: None,
            images: Vec::new(),
            files: Vec::new(),
            provider_data: None,
            metrics: None,
            created_at,
        }
    }
}

/// A tool as described to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Unique within one request.
    pub name: String,
    /// What it does and when to use it.
    pub description: String,
    /// JSON Schema of the arguments, an object schema.
    pub parameters: Value,
}

/// A JSON Schema the answer must follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputSchema {
    /// A short name, letters, digits, `_` and `-`.
    pub name: String,
    /// The schema.
    pub schema: Value,
}

/// Everything one model call needs, the whole history included: no conversation state is kept at the provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelRequest {
    /// The conversation, oldest first. Shared with the run: a long one is not copied for each call.
    pub messages: Arc<Vec<Message>>,
    /// The tools on offer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolSpec>,
    /// The shape the final answer must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<OutputSchema>,
    /// Whether to stream the answer in deltas.
    pub stream: bool,
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The answer is complete.
    Stop,
    /// It wants tools called.
    ToolCalls,
    /// It reached its token limit.
    Length,
    /// A filter of the provider stopped it.
    ContentFilter,
    /// It was cancelled at the provider.
    Cancelled,
}

impl FinishReason {
    /// Whether something other than the model ended the answer, so that its end may be missing.
    pub fn is_cut(self) -> bool {
        match self {
            FinishReason::Length | FinishReason::ContentFilter | FinishReason::Cancelled => true,
            FinishReason::Stop | FinishReason::ToolCalls => false,
        }
    }

    /// This reason, if it cut the answer short; none when the model finished it.
    pub fn if_cut(self) -> Option<Self> {
        self.is_cut().then_some(self)
    }

    /// What ended the answer, in words for people.
    pub fn as_words(self) -> &'static str {
        match self {
            FinishReason::Stop => "ended by the model",
            FinishReason::ToolCalls => "ended by the model to call tools",
            FinishReason::Length => "cut at its token limit",
            FinishReason::ContentFilter => "cut by the provider's content filter",
            FinishReason::Cancelled => "cancelled at the provider",
        }
    }
}

/// One model's complete answer: what the log keeps in place of the call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelResponse {
    /// The text, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The reasoning text, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls asked for, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What it used.
    pub usage: Usage,
    /// Ids for people: `{"response_id"}` or `{"id", "system_fingerprint"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_provider_data: Option<Value>,
    /// What the adapter wants back in [`Message::provider_data`] of this turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_data: Option<Value>,
    /// Seconds from the request to the first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_first_token: Option<f64>,
    /// Seconds from the request to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// What it cost, where prices are known. Adapters leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

impl ModelResponse {
    /// An answer in words.
    pub fn text(content: impl Into<String>) -> Self {
        Self {
            content: Some(content.into()),
            reasoning_content: None,
            tool_calls: Vec::new(),
            finish_reason: FinishReason::Stop,
            usage: Usage::default(),
            model_provider_data: None,
            provider_data: None,
            time_to_first_token: None,
            duration: None,
            cost: None,
        }
    }

    /// An answer that asks for tools.
    pub fn calls(tool_calls: Vec<ToolCall>) -> Self {
        Self { content: None, tool_calls, finish_reason: FinishReason::ToolCalls, ..Self::text("") }
    }
}

/// A piece of an answer while it streams.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelDelta {
    /// More text.
    Content(String),
    /// More reasoning text.
    Reasoning(String),
    /// The answer begins; ids the provider gave it.
    Begun(serde_json::Value),
}

/// What a tool gave back: text for the model, and whether it is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    /// What the model is told.
    pub content: String,
    /// The tool failed; `content` says why, and the model may try something else.
    #[serde(default)]
    pub is_error: bool,
    /// The run of the member a delegation started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child_run_id: Option<crate::id::RunId>,
    /// Seconds it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// What each member gave, where the call delegated to several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<ToolResult>,
}

impl ToolResult {
    /// A success.
    pub fn ok(content: impl Into<String>) -> Self {
        Self { content: content.into(), is_error: false, child_run_id: None, duration: None, parts: Vec::new() }
    }

    /// A failure the model is told about.
    pub fn error(content: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::ok(content) }
    }
}

/// What may be done when it is unknown whether a tool call took effect (a crash while it was in flight, no answer
/// within its limit), or when it failed for a passing reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolEffect {
    /// Changes nothing, so it may be repeated.
    Read,
    /// Repeating it with the same key is harmless, so it may be repeated with that key.
    #[default]
    Idempotent,
    /// Must never start twice: ask a person.
    Once,
}

/// One tool call in Agno's shape, in events and in a run's `tools`. Nulls are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolExecution {
    /// [`ToolCall::id`].
    pub tool_call_id: String,
    /// The tool's name.
    pub tool_name: String,
    /// The arguments as parsed; the raw text when they are not JSON.
    pub tool_args: Value,
    /// Whether it failed; null while it runs.
    pub tool_call_error: Option<bool>,
    /// What the model was told; null while it runs.
    pub result: Option<String>,
    /// `{"duration": seconds}`; null while it runs.
    pub metrics: Option<Metrics>,
    /// The run a delegation started.
    pub child_run_id: Option<String>,
    /// The run ends with this call's result.
    pub stop_after_tool_call: bool,
    /// Seconds since 1970.
    pub created_at: i64,
    /// A person must allow it.
    pub requires_confirmation: Option<bool>,
    /// The person's answer.
    pub confirmed: Option<bool>,
    /// The person's note.
    pub confirmation_note: Option<String>,
    /// A person must fill in arguments.
    pub requires_user_input: Option<bool>,
    /// The fields to fill in.
    pub user_input_schema: Option<Value>,
    /// The questions to answer.
    pub user_feedback_schema: Option<Value>,
    /// Whether they were.
    pub answered: Option<bool>,
    /// Runs outside; its result is handed in.
    pub external_execution_required: Option<bool>,
    /// The same, without a notice.
    pub external_execution_silent: Option<bool>,
    /// Kind of approval.
    pub approval_type: Option<String>,
    /// Its id.
    pub approval_id: Option<String>,
    /// The call this one belongs to.
    pub parent_tool_call_id: Option<String>,
}

impl ToolExecution {
    /// The entry of a call that is about to start.
    pub fn started(call: &ToolCall, created_at: i64) -> Self {
        Self {
            tool_call_id: call.id.clone(),
            tool_name: call.function.name.clone(),
            tool_args: json::read(&call.function.arguments)
                .unwrap_or_else(|_| Value::String(call.function.arguments.clone())),
            tool_call_error: None,
            result: None,
            metrics: None,
            child_run_id: None,
            stop_after_tool_call: false,
            created_at,
            requires_confirmation: None,
            confirmed: None,
            confirmation_note: None,
            requires_user_input: None,
            user_input_schema: None,
            user_feedback_schema: None,
            answered: None,
            external_execution_required: None,
            external_execution_silent: None,
            approval_type: None,
            approval_id: None,
            parent_tool_call_id: None,
        }
    }

    /// The same with its result.
    pub fn completed(mut self, result: &ToolResult) -> Self {
        self.tool_call_error = Some(result.is_error);
        self.result = Some(result.content.clone());
        self.metrics = Some(Metrics { duration: result.duration, ..Metrics::default() });
        self.child_run_id = result.child_run_id.as_ref().map(ToString::to_string);
        self
    }
}

/// A model call that failed: the failure is what the run sees.
pub type ModelResult = Result<ModelResponse, Failure>;
