//! The wire format of the Chat Completions endpoint.
//!
//! Read leniently, since a hundred servers write it: a field that nothing here needs may be missing, null or of another
//! type without harm.

use super::responses::is_strict;
use super::{Collector, Endpoint, Provider, Refusal, Settings};
use outlive_core::{
    FinishReason, Media, Message, ModelDelta, ModelRequest, ModelResponse, Role, ToolCall, ToolSpec, Usage,
};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The longest name of a function the format allows.
const NAME_LEN_MAX: usize = 64;

/// The Chat Completions endpoint.
pub struct Chat;

impl Endpoint for Chat {
    const NAME: &'static str = "Chat";
    const PREFIX: &'static str = "openai-chat";
    const PATH: &'static [&'static str] = &["chat", "completions"];
    type Collector = Pieces;

    fn body(settings: &Settings, request: &ModelRequest) -> Value {
        let mut body = Map::new();
        body.insert("model".into(), json!(&*settings.id));
        body.insert("messages".into(), messages(settings, &request.messages));
        if !request.tools.is_empty() {
            body.insert("tools".into(), request.tools.iter().map(tool).collect());
        }
        if let Some(output) = &request.output_schema {
            let schema = json!({"name": output.name, "schema": output.schema, "strict": is_strict(&output.schema)});
            body.insert("response_format".into(), json!({"type": "json_schema", "json_schema": schema}));
        }
        if request.stream {
            body.insert("stream".into(), json!(true));
            body.insert("stream_options".into(), json!({"include_usage": true}));
        }
        let tokens_max = match settings.provider {
            Provider::OpenAI => "max_completion_tokens",
            Provider::Ollama => "max_tokens",
        };
        let mut set = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
        set("temperature", settings.temperature.map(Value::from));
        set("top_p", settings.top_p.map(Value::from));
        set(tokens_max, settings.max_output_tokens.map(Value::from));
        set("parallel_tool_calls", settings.parallel_tool_calls.map(Value::from));
        set("reasoning_effort", settings.reasoning_effort.clone().map(Value::from));
        body.extend(settings.parameters.clone());
        Value::Object(body)
    }

    fn answer(_: &Settings, body: Value) -> Result<ModelResponse, Refusal> {
        let mut pieces = Pieces::default();
        pieces.head(&body)?;
        let Some(choice) = body["choices"].get(0) else {
            return Err(Refusal::Garbage("an answer without choices".into()));
        };
        pieces.choice(choice, "message");
        Ok(pieces.into_response())
    }
}

fn tool(tool: &ToolSpec) -> Value {
    let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters});
    json!({"type": "function", "function": function})
}

fn messages(settings: &Settings, messages: &[Message]) -> Value {
    let call_ids = call_ids(messages);
    messages.iter().map(|one| message(settings, one, &call_ids)).collect()
}

fn message(settings: &Settings, message: &Message, call_ids: &HashMap<&str, &str>) -> Value {
    let text = message.content.as_deref().unwrap_or_default();
    match message.role {
        Role::System => json!({"role": settings.system_role, "content": text}),
        Role::User => json!({"role": "user", "content": user_content(message, text)}),
        Role::Tool => {
            let id = message.tool_call_id.as_deref().unwrap_or_default();
            json!({"role": "tool", "tool_call_id": call_ids.get(id).copied().unwrap_or(id), "content": text})
        }
        Role::Assistant if message.tool_calls.is_empty() => json!({"role": "assistant", "content": text}),
        Role::Assistant => {
            let calls: Vec<_> = message.tool_calls.iter().map(call).collect();
            json!({"role": "assistant", "content": text, "tool_calls": calls})
        }
    }
}

fn call(call: &ToolCall) -> Value {
    let function = json!({
        "name": replayable_name(&call.function.name),
        "arguments": replayable_arguments(&call.function.arguments),
    });
    json!({"id": call.call_id.as_deref().unwrap_or(&call.id), "type": "function", "function": function})
}

fn user_content(message: &Message, text: &str) -> Value {
    if message.images.is_empty() && message.files.is_empty() {
        return json!(text);
    }
    let words = (!text.is_empty()).then(|| json!({"type": "text", "text": text}));
    let images = message.images.iter().map(|image| {
        let url = image.url.clone().unwrap_or_else(|| data_url(image, "image/png"));
        json!({"type": "image_url", "image_url": {"url": url, "detail": image.detail.as_deref().unwrap_or("auto")}})
    });
    let files = message.files.iter().map(|file| {
        let data = file.url.clone().unwrap_or_else(|| data_url(file, "application/octet-stream"));
        json!({"type": "file", "file": {"filename": file.filename.as_deref().unwrap_or("file"), "file_data": data}})
    });
    words.into_iter().chain(images).chain(files).collect()
}

/// From the ids that results carry to the ids that the provider pairs them by.
pub(super) fn call_ids(messages: &[Message]) -> HashMap<&str, &str> {
    let calls = messages.iter().flat_map(|message| &message.tool_calls);
    calls.map(|call| (call.id.as_str(), call.call_id.as_deref().unwrap_or(&call.id))).collect()
}

/// The content of a file or an image as an address.
pub(super) fn data_url(media: &Media, mime_type_default: &str) -> String {
    let mime_type = media.mime_type.as_deref().unwrap_or(mime_type_default);
    format!("data:{mime_type};base64,{}", media.content.as_deref().unwrap_or_default())
}

/// A model may ask for a tool whose name no server accepts; the conversation must go on all the same.
pub(super) fn replayable_name(name: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = name.chars().map(|c| if legal(c) { c } else { '_' }).take(NAME_LEN_MAX).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Some servers fail on arguments in the history that are no JSON object, though a model wrote them.
pub(super) fn replayable_arguments(arguments: &str) -> &str {
    let is_object = outlive_core::json::read::<Map<String, Value>>(arguments).is_ok();
    if is_object { arguments } else { "{}" }
}

/// An answer, streamed or whole, put together from its choices.
#[derive(Default)]
pub struct Pieces {
    id: Option<String>,
    system_fingerprint: Option<String>,
    content: String,
    reasoning: String,
    calls: Vec<Call>,
    finish_reason: Option<String>,
    usage: Usage,
}

/// One tool call on its way.
#[derive(Default)]
struct Call {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl Collector for Pieces {
    fn event(&mut self, event: Value) -> Result<Vec<ModelDelta>, Refusal> {
        let was_named = self.id.is_some();
        self.head(&event)?;
        let begun = self.ids().filter(|_| !was_named && self.id.is_some()).map(ModelDelta::Begun);
        // Only one choice is ever asked for. The last event, with the usage, has none.
        let pieces = event["choices"].get(0).map(|choice| self.choice(choice, "delta")).unwrap_or_default();
        Ok(begun.into_iter().chain(pieces).collect())
    }

    fn is_complete(&self) -> bool {
        // The usage comes after the finish reason, so the end is `[DONE]` or the end of the stream.
        false
    }

    fn finish(self, _: &Settings, done: bool) -> Option<Result<ModelResponse, Refusal>> {
        (done || self.finish_reason.is_some()).then(|| Ok(self.into_response()))
    }
}

impl Pieces {
    /// What the server called this answer.
    fn ids(&self) -> Option<Value> {
        let mut ids = Map::new();
        ids.extend(self.id.as_ref().map(|id| ("id".to_owned(), json!(id))));
        ids.extend(self.system_fingerprint.as_ref().map(|print| ("system_fingerprint".to_owned(), json!(print))));
        (!ids.is_empty()).then_some(Value::Object(ids))
    }

    fn head(&mut self, body: &Value) -> Result<(), Refusal> {
        if body.get("error").is_some_and(|error| !error.is_null()) {
            return Err(Refusal::Error(body.clone()));
        }
        let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        self.id = self.id.take().or_else(|| text("id"));
        self.system_fingerprint = self.system_fingerprint.take().or_else(|| text("system_fingerprint"));
        if body["usage"].is_object() {
            self.usage = usage(&body["usage"]);
        }
        Ok(())
    }

    fn choice(&mut self, choice: &Value, field: &str) -> Vec<ModelDelta> {
        let part = &choice[field];
        let mut told = Vec::new();
        let words = |names: &[&str]| {
            names.iter().find_map(|name| part[*name].as_str()).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        if let Some(text) = words(&["reasoning_content", "reasoning"]) {
            self.reasoning.push_str(&text);
            told.push(ModelDelta::Reasoning(text));
        }
        // A refusal is the model's own words too.
        if let Some(text) = words(&["content"]).or_else(|| words(&["refusal"])) {
            self.content.push_str(&text);
            told.push(ModelDelta::Content(text));
        }
        for call in part["tool_calls"].as_array().into_iter().flatten() {
            self.call(call);
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
        told
    }

    fn call(&mut self, piece: &Value) {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            // Arguments as an object are against the format, but their meaning is clear.
            value => value.to_string(),
        };
        let (id, index) = (text(&piece["id"]), piece["index"].as_u64());
        let (name, arguments) = (text(&piece["function"]["name"]), text(&piece["function"]["arguments"]));
        let known = self.calls.iter().position(|call| match index {
            // Some servers give every call of a turn the index 0 and tell them apart by id.
            Some(_) => call.index == index && (id.is_empty() || call.id.is_empty() || call.id == id),
            None => !id.is_empty() && call.id == id,
        });
        let newest = || self.calls.len().checked_sub(1).filter(|_| index.is_none() && id.is_empty() && name.is_empty());
        let at = known.or_else(newest).unwrap_or_else(|| {
            self.calls.push(Call { index, ..Call::default() });
            self.calls.len() - 1
        });
        let call = &mut self.calls[at];
        if call.id.is_empty() {
            call.id = id;
        }
        if call.name.is_empty() {
            call.name = name;
        }
        call.arguments.push_str(&arguments);
    }

    fn into_response(self) -> ModelResponse {
        let ids = self.ids();
        let answer_id = self.id.as_deref().unwrap_or_default();
        let tool_calls: Vec<_> = self
            .calls
            .into_iter()
            .enumerate()
            .map(|(index, call)| {
                let id = if call.id.is_empty() { format!("call_{answer_id}_{index}") } else { call.id };
                ToolCall::new(id, call.name, call.arguments)
            })
            .collect();
        ModelResponse {
            content: Some(self.content).filter(|text| !text.is_empty() || tool_calls.is_empty()),
            reasoning_content: Some(self.reasoning).filter(|text| !text.is_empty()),
            finish_reason: match self.finish_reason.as_deref() {
                Some("length") => FinishReason::Length,
                Some("content_filter") => FinishReason::ContentFilter,
                // Some servers say `stop` after tool calls.
                _ if !tool_calls.is_empty() => FinishReason::ToolCalls,
                _ => FinishReason::Stop,
            },
            usage: self.usage,
            model_provider_data: ids,
            provider_data: None,
            tool_calls,
            time_to_first_token: None,
            duration: None,
        }
    }
}

fn usage(usage: &Value) -> Usage {
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let (input_tokens, output_tokens) = (count("/prompt_tokens"), count("/completion_tokens"));
    Usage {
        input_tokens,
        output_tokens,
        total_tokens: count("/total_tokens").max(input_tokens + output_tokens),
        reasoning_tokens: count("/completion_tokens_details/reasoning_tokens"),
        cache_read_tokens: count("/prompt_tokens_details/cached_tokens"),
        cache_write_tokens: count("/prompt_tokens_details/cache_write_tokens"),
    }
}
