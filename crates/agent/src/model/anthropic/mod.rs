//! The wire format of Anthropic's Messages endpoint.
//!
//! An answer with blocks that text and calls do not tell whole (thinking with its signature, what the provider's own
//! tools did) is kept as it came ([`KEPT`]) and sent back unchanged to the same model: the endpoint wants its thinking
//! back. What the prompt begins with is cached by the provider, which is asked to at two places: after the instructions,
//! and after the conversation so far.

mod blocks;
mod schema;

use super::HttpModel;
use super::http_model::{Endpoint, Settings};
use super::providers::{self, Provider};
use super::wire::turns::{CallIds, Source, call_ids, in_words, paired, replayable_arguments, replayable_name};
use super::wire::{self, Refusal, is_error};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blocks::Blocks;
use outlive_core::{Media, Message, ModelRequest, ModelResponse, OutputSchema, Role, ToolCall, ToolSpec};
use reqwest::Url;
use serde_json::{Map, Value, json};

/// The key in `provider_data` of an answer that must be sent back as it came; beside it, `model`.
const KEPT: &str = "anthropic_content";
/// Beside it: the provider has paused the answer.
const PAUSED: &str = "paused";
/// The most tokens of an answer where none are set: the endpoint wants a number.
const TOKENS_MAX: u64 = 8192;
/// The tool by which a model answers with a schema that is no format.
const ANSWER_TOOL: &str = "outlive_final_answer";
/// Its only field, for an answer that is no object.
const ANSWER_FIELD: &str = "outlive_answer";
/// The longest id of a call.
const ID_LEN_MAX: usize = 128;
/// What stands for a turn that says nothing: no turn may be empty, and the first is the user's.
const NOTHING_SAID: &str = "(no message)";
/// Models before the format for schemas.
const WITHOUT_FORMATS: [&str; 6] =
    ["claude-3", "claude-opus-4-0", "claude-opus-4-1", "claude-opus-4-2", "claude-sonnet-4-0", "claude-sonnet-4-2"];

/// A model of Anthropic: `Claude::new("claude-opus-5-5")`.
pub type Claude = HttpModel<Messages>;

/// The Messages endpoint.
pub struct Messages;

impl Claude {
    /// Has the model think before it answers, with at most this many tokens, which count as part of the answer.
    pub fn thinking_budget(mut self, tokens: u64) -> Self {
        self.settings.thinking_budget = Some(tokens);
        self
    }

    /// Whether the provider is asked to cache the prompt, as it is unless told otherwise: what it reads again of it costs
    /// less, what it writes costs more.
    pub fn prompt_cache(mut self, is_on: bool) -> Self {
        self.settings.prompt_cache = is_on;
        self
    }

    /// Asks for answers with a schema by a tool that takes them, also where the endpoint has a format for them: for
    /// servers that speak this format without it.
    pub fn schema_by_tool(mut self) -> Self {
        self.settings.schema_by_tool = true;
        self
    }
}

impl Endpoint for Messages {
    const NAME: &'static str = "Messages";
    type Collector = Blocks;

    fn provider() -> &'static Provider {
        &providers::ANTHROPIC
    }

    fn url(_: &Settings, base: &str, _: bool) -> Result<Url, String> {
        wire::below(base, &["v1", "messages"])
    }

    fn body(settings: &Settings, request: &ModelRequest) -> Result<Value, String> {
        let mut body = Map::new();
        body.insert("model".into(), json!(&*settings.id));
        body.insert("max_tokens".into(), json!(tokens_max(settings)));
        let mut system = system(&request.messages);
        let mut messages = messages(settings, &request.messages)?;
        let mut tools: Vec<_> = request.tools.iter().map(tool).collect();
        let mut output = Map::new();
        output.extend(settings.reasoning_effort.as_ref().map(|effort| ("effort".to_owned(), json!(effort))));
        let mut tool_choice =
            settings.parallel_tool_calls.filter(|_| !tools.is_empty()).map(|_| json!({"type": "auto"}));
        if let Some(wanted) = &request.output_schema {
            match format(settings, wanted) {
                Some(schema) => {
                    output.insert("format".to_owned(), json!({"type": "json_schema", "schema": schema}));
                }
                None => {
                    tool_choice = Some(match (settings.thinking_budget, &*tools) {
                        // A model that thinks cannot be made to call a tool.
                        (Some(_), _) => json!({"type": "auto"}),
                        (None, []) => json!({"type": "tool", "name": ANSWER_TOOL}),
                        (None, _) => json!({"type": "any"}),
                    });
                    tools.push(answer_tool(wanted));
                    if settings.thinking_budget.is_some() {
                        system.push(text_block(&format!(
                            "Answer by calling the tool {ANSWER_TOOL}. {}",
                            in_words(wanted)
                        )));
                    }
                }
            }
        }
        if let (Some(choice), Some(is_allowed)) = (&mut tool_choice, settings.parallel_tool_calls) {
            choice["disable_parallel_tool_use"] = json!(!is_allowed);
        }
        if settings.prompt_cache {
            mark(system.last_mut().or(tools.last_mut()));
            let last = messages.last_mut().filter(|message| message["role"] == "user");
            mark(last.and_then(|message| message["content"].as_array_mut()).and_then(|blocks| blocks.last_mut()));
        }
        let mut list = |name: &str, values: Vec<Value>| {
            if !values.is_empty() {
                body.insert(name.to_owned(), Value::Array(values));
            }
        };
        list("system", system);
        list("messages", messages);
        list("tools", tools);
        let mut set = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
        set("tool_choice", tool_choice);
        set("output_config", (!output.is_empty()).then_some(Value::Object(output)));
        set("thinking", settings.thinking_budget.map(|tokens| json!({"type": "enabled", "budget_tokens": tokens})));
        set("temperature", settings.temperature.map(Value::from));
        set("top_p", settings.top_p.map(Value::from));
        set("stream", request.stream.then_some(Value::Bool(true)));
        Ok(Value::Object(body))
    }

    fn answer(settings: &Settings, body: Value) -> Result<ModelResponse, Refusal> {
        if is_error(&body, &["content"]) {
            return Err(Refusal::Error(body));
        }
        if !body["content"].is_array() {
            return Err(Refusal::Garbage("an answer without content".into()));
        }
        Blocks::whole(&settings.id, body)
    }

    fn collector(settings: &Settings) -> Blocks {
        Blocks::new(&settings.id)
    }

    fn max_output_tokens(settings: &Settings) -> Option<u64> {
        Some(tokens_max(settings))
    }

    const PAUSES: bool = true;

    fn is_paused(part: &ModelResponse) -> bool {
        part.provider_data.as_ref().is_some_and(|data| data[PAUSED] == true)
    }

    fn joined(before: ModelResponse, part: ModelResponse) -> ModelResponse {
        let both = |before: Option<String>, part: Option<String>, between: &str| match (before, part) {
            (Some(before), Some(part)) if !before.is_empty() => Some(before + between + &part),
            (before, part) => part.or(before),
        };
        // What goes back has to hold the beginning too.
        let rest = match part.provider_data.as_ref().and_then(|data| data[KEPT].as_array()) {
            Some(blocks) => blocks.clone(),
            None => said(part.content.as_deref()).into_iter().chain(part.tool_calls.iter().map(plain_call)).collect(),
        };
        let is_paused = Self::is_paused(&part);
        let mut provider_data = before.provider_data;
        if let Some(data) = &mut provider_data {
            data[PAUSED] = json!(is_paused);
            data[KEPT].as_array_mut().into_iter().for_each(|known| known.extend(rest.iter().cloned()));
        }
        let mut usage = before.usage;
        usage += part.usage;
        ModelResponse {
            content: both(before.content, part.content, ""),
            reasoning_content: both(before.reasoning_content, part.reasoning_content, "\n\n"),
            usage,
            provider_data,
            time_to_first_token: before.time_to_first_token,
            duration: Some(before.duration.unwrap_or_default() + part.duration.unwrap_or_default()),
            ..part
        }
    }
}

fn tokens_max(settings: &Settings) -> u64 {
    settings.max_output_tokens.unwrap_or_else(|| TOKENS_MAX.saturating_add(settings.thinking_budget.unwrap_or(0)))
}

/// The schema as the endpoint's format takes it, where it does.
fn format(settings: &Settings, wanted: &OutputSchema) -> Option<Value> {
    let has_formats = !WITHOUT_FORMATS.iter().any(|family| settings.id.starts_with(family));
    (has_formats && !settings.schema_by_tool).then(|| schema::as_format(&wanted.schema)).flatten()
}

fn tool(tool: &ToolSpec) -> Value {
    json!({"name": tool.name, "description": tool.description, "input_schema": tool.parameters})
}

fn answer_tool(wanted: &OutputSchema) -> Value {
    let description = "Takes your final answer. Call it once, when you have the answer, and write nothing else.";
    // The endpoint takes objects alone.
    let is_object = wanted.schema["type"] == "object";
    let schema = if is_object { wanted.schema.clone() } else { schema::within_object(&wanted.schema) };
    json!({"name": ANSWER_TOOL, "description": description, "input_schema": schema})
}

/// Has the provider cache the prompt up to here.
fn mark(block: Option<&mut Value>) {
    if let Some(block) = block {
        block["cache_control"] = json!({"type": "ephemeral"});
    }
}

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// A text, unless it is blank, which the endpoint refuses.
fn said(text: Option<&str>) -> Option<Value> {
    text.filter(|text| !text.trim().is_empty()).map(text_block)
}

fn system(messages: &[Message]) -> Vec<Value> {
    let instructions = messages.iter().filter(|message| message.role == Role::System);
    instructions.filter_map(|message| said(message.content.as_deref())).collect()
}

/// The turns, each with all that one side says before the other does.
fn messages(settings: &Settings, messages: &[Message]) -> Result<Vec<Value>, String> {
    let call_ids = call_ids(messages);
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in messages {
        let (role, blocks) = match message.role {
            Role::System => continue,
            Role::User => ("user", user_blocks(message)?),
            Role::Tool => ("user", vec![tool_result(message, &call_ids)]),
            Role::Assistant => ("assistant", assistant_blocks(settings, message, &call_ids)),
        };
        match turns.last_mut() {
            Some((last, known)) if *last == role => known.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    turns.retain(|(_, blocks)| !blocks.is_empty());
    if turns.first().is_none_or(|(role, _)| *role != "user") {
        turns.insert(0, ("user", vec![text_block(NOTHING_SAID)]));
    }
    Ok(turns.into_iter().map(|(role, blocks)| json!({"role": role, "content": blocks})).collect())
}

fn user_blocks(message: &Message) -> Result<Vec<Value>, String> {
    let images = message.images.iter().map(|image| Ok(image_block(image)));
    let files = message.files.iter().map(document);
    images.chain(files).chain(said(message.content.as_deref()).map(Ok)).collect()
}

fn image_block(image: &Media) -> Value {
    let source = match Source::of(image, "image/png") {
        Source::Address(url) => json!({"type": "url", "url": url}),
        Source::Content(mime_type, data) => json!({"type": "base64", "media_type": mime_type, "data": data}),
    };
    json!({"type": "image", "source": source})
}

fn document(file: &Media) -> Result<Value, String> {
    let name = file.filename.as_deref().unwrap_or_default().to_ascii_lowercase();
    let usual = if name.ends_with(".pdf") { "application/pdf" } else { "text/plain" };
    let source = match Source::of(file, usual) {
        Source::Address(url) => json!({"type": "url", "url": url}),
        Source::Content(mime_type, _) if mime_type.starts_with("image/") => return Ok(image_block(file)),
        Source::Content("application/pdf", data) => {
            json!({"type": "base64", "media_type": "application/pdf", "data": data})
        }
        Source::Content(mime_type, data) => {
            let text = STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let refusal = || format!("takes files that are PDF or text, and was given one of the type {mime_type:?}");
            json!({"type": "text", "media_type": "text/plain", "data": text.ok_or_else(refusal)?})
        }
    };
    let mut block = json!({"type": "document", "source": source});
    if let Some(name) = &file.filename {
        block["title"] = json!(name);
    }
    Ok(block)
}

fn tool_result(message: &Message, call_ids: &CallIds<'_>) -> Value {
    let id = message.tool_call_id.as_deref().unwrap_or_default();
    let mut block = json!({"type": "tool_result", "tool_use_id": legal_id(paired(call_ids, id))});
    if let Some(text) = message.content.as_deref().filter(|text| !text.is_empty()) {
        block["content"] = json!(text);
    }
    if message.tool_call_error == Some(true) {
        block["is_error"] = json!(true);
    }
    block
}

/// A turn of the model: as it came, if this same model wrote it.
fn assistant_blocks(settings: &Settings, message: &Message, call_ids: &CallIds<'_>) -> Vec<Value> {
    let data = message.provider_data.as_ref().filter(|data| data["model"] == *settings.id);
    if let Some(blocks) = data.and_then(|data| data[KEPT].as_array()) {
        return blocks.clone();
    }
    let calls = message.tool_calls.iter().map(|call| {
        let mut block = plain_call(call);
        block["id"] = json!(legal_id(paired(call_ids, &call.id)));
        block
    });
    said(message.content.as_deref()).into_iter().chain(calls).collect()
}

/// A call by its own id.
fn plain_call(call: &ToolCall) -> Value {
    let input = serde_json::from_str::<Value>(replayable_arguments(&call.function.arguments)).unwrap_or_default();
    json!({"type": "tool_use", "id": legal_id(&call.id), "name": replayable_name(&call.function.name), "input": input})
}

/// An id as the endpoint takes it, which another provider may have given.
fn legal_id(id: &str) -> String {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let id: String = id.chars().map(|c| if is_legal(c) { c } else { '_' }).take(ID_LEN_MAX).collect();
    if id.is_empty() { "unknown".to_owned() } else { id }
}
