//! The wire format of Google's `generateContent` and `streamGenerateContent`.
//!
//! A turn of the model is a list of parts; each may be thinking, and any may carry a signature. Where one does, the parts
//! are kept as they came ([`KEPT`]) and sent back in the same places to the same model: the endpoint refuses a call
//! without the signature that it came with. A streamed answer is a list of whole small answers, whose parts follow one
//! another.

use super::HttpModel;
use super::http_model::{Endpoint, Settings};
use super::providers::{self, Provider};
use super::wire::calls::{text, unique};
use super::wire::finish::{self, End};
use super::wire::turns::{Source, counted, in_words, replayable_arguments, replayable_name};
use super::wire::{self, Collector, Refusal, is_error};
use outlive_core::{
    FinishReason, Media, Message, ModelDelta, ModelRequest, ModelResponse, Role, ToolCall, ToolSpec, Usage,
};
use reqwest::Url;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// The key in `provider_data` of an answer that must be sent back as it came; beside it, `model`.
const KEPT: &str = "gemini_parts";
/// What the endpoint takes for the signature of a call that it did not make itself.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";
/// Models that refuse a schema for their answer beside tools, and do not sign calls.
const EARLIER: [&str; 3] = ["gemini-1", "gemini-2", "gemma"];
/// What stands for a turn that says nothing: no turn may be empty, and the first is the user's.
const NOTHING_SAID: &str = "(no message)";

/// A model of Google: `Gemini::new("gemini-3-pro-preview")`.
pub type Gemini = HttpModel<GenerateContent>;

/// The `generateContent` endpoint.
pub struct GenerateContent;

impl Gemini {
    /// Has the model think with at most this many tokens, which count as part of the answer; 0 turns thinking off where
    /// the model allows it.
    pub fn thinking_budget(mut self, tokens: u64) -> Self {
        self.settings.thinking_budget = Some(tokens);
        self
    }
}

impl Endpoint for GenerateContent {
    const NAME: &'static str = "Gemini";
    type Collector = Parts;

    fn provider() -> &'static Provider {
        &providers::GOOGLE
    }

    fn url(settings: &Settings, base: &str, is_streamed: bool) -> Result<Url, String> {
        let (place, id) = settings.id.split_once('/').unwrap_or(("models", &settings.id));
        let method = if is_streamed { "streamGenerateContent" } else { "generateContent" };
        let path = ["v1beta", place, &format!("{id}:{method}")];
        // A base that names another version means it.
        let is_versioned = base.split('?').next().is_some_and(|base| base.trim_end_matches('/').ends_with("/v1"));
        let mut url = wire::below(base, if is_versioned { &path[1..] } else { &path })?;
        if is_streamed {
            url.query_pairs_mut().append_pair("alt", "sse");
        }
        Ok(url)
    }

    fn body(settings: &Settings, request: &ModelRequest) -> Result<Value, String> {
        let is_earlier = EARLIER.iter().any(|family| settings.id.starts_with(family));
        let mut system: Vec<_> = request
            .messages
            .iter()
            .filter(|message| message.role == Role::System)
            .filter_map(|message| message.content.as_deref().filter(|text| !text.is_empty()))
            .map(text_part)
            .collect();
        let mut config = Map::new();
        if let Some(wanted) = &request.output_schema {
            if is_earlier && !request.tools.is_empty() {
                system.push(text_part(&in_words(wanted)));
            } else {
                config.insert("responseMimeType".into(), json!("application/json"));
                config.insert("responseJsonSchema".into(), without_dialect(&wanted.schema));
            }
        }
        let mut set = |name: &str, value: Option<Value>| config.extend(value.map(|value| (name.to_owned(), value)));
        set("temperature", settings.temperature.map(Value::from));
        set("topP", settings.top_p.map(Value::from));
        set("maxOutputTokens", settings.max_output_tokens.map(Value::from));
        set("thinkingConfig", thinking(settings));
        let mut body = Map::new();
        body.insert("contents".into(), contents(settings, &request.messages, !is_earlier));
        if !system.is_empty() {
            body.insert("systemInstruction".into(), json!({ "parts": system }));
        }
        if !request.tools.is_empty() {
            let tools: Vec<_> = request.tools.iter().map(tool).collect();
            body.insert("tools".into(), json!([{ "functionDeclarations": tools }]));
        }
        if !config.is_empty() {
            body.insert("generationConfig".into(), Value::Object(config));
        }
        Ok(Value::Object(body))
    }

    fn answer(settings: &Settings, body: Value) -> Result<ModelResponse, Refusal> {
        let mut parts = Self::collector(settings);
        if !body["candidates"].is_array() && !body["promptFeedback"].is_object() && !is_error(&body, &[]) {
            return Err(Refusal::Garbage("an answer without candidates".into()));
        }
        parts.event("", body)?;
        parts.finish(false)
    }

    fn collector(settings: &Settings) -> Parts {
        Parts { model: settings.id.to_string(), ..Parts::default() }
    }
}

/// How a model is to think; its thoughts are shown where anything is said about them.
fn thinking(settings: &Settings) -> Option<Value> {
    let mut config = Map::new();
    let level = settings.reasoning_effort.as_ref();
    config.extend(level.map(|level| ("thinkingLevel".to_owned(), json!(level))));
    config.extend(settings.thinking_budget.map(|tokens| ("thinkingBudget".to_owned(), json!(tokens))));
    if !config.is_empty() && settings.thinking_budget != Some(0) {
        config.insert("includeThoughts".to_owned(), json!(true));
    }
    (!config.is_empty()).then_some(Value::Object(config))
}

/// The endpoint does not know the field that names a schema's dialect.
fn without_dialect(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(fields) = &mut schema {
        fields.remove("$schema");
    }
    schema
}

fn tool(tool: &ToolSpec) -> Value {
    let mut declared = json!({"name": tool.name, "description": tool.description});
    // The endpoint refuses an object without properties.
    if tool.parameters["properties"].as_object().is_some_and(|properties| !properties.is_empty()) {
        declared["parametersJsonSchema"] = without_dialect(&tool.parameters);
    }
    declared
}

fn text_part(text: &str) -> Value {
    json!({ "text": text })
}

/// The turns, each with all that one side says before the other does.
fn contents(settings: &Settings, messages: &[Message], signs_calls: bool) -> Value {
    let calls: HashMap<_, _> =
        messages.iter().flat_map(|message| &message.tool_calls).map(|call| (call.id.as_str(), call)).collect();
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in messages {
        let (role, parts) = match message.role {
            Role::System => continue,
            Role::User => ("user", user_parts(message)),
            Role::Tool => ("user", vec![result_part(message, &calls)]),
            Role::Assistant => ("model", model_parts(settings, message, signs_calls)),
        };
        // Results of calls are a turn of their own.
        let is_results = |parts: &[Value]| parts.iter().any(|part| part["functionResponse"].is_object());
        match turns.last_mut() {
            Some((last, known)) if *last == role && is_results(known) == is_results(&parts) => known.extend(parts),
            _ => turns.push((role, parts)),
        }
    }
    turns.retain(|(_, parts)| !parts.is_empty());
    if turns.first().is_none_or(|(role, _)| *role != "user") {
        turns.insert(0, ("user", vec![text_part(NOTHING_SAID)]));
    }
    turns.into_iter().map(|(role, parts)| json!({"role": role, "parts": parts})).collect()
}

fn user_parts(message: &Message) -> Vec<Value> {
    let text = message.content.as_deref().filter(|text| !text.is_empty()).map(text_part);
    let images = message.images.iter().map(|image| media_part(image, "image/png"));
    let files = message.files.iter().map(|file| media_part(file, usual_type(file)));
    text.into_iter().chain(images).chain(files).collect()
}

/// The type of a file by its name, where nothing else is said.
fn usual_type(file: &Media) -> &'static str {
    let name = file.filename.as_deref().or(file.url.as_deref()).unwrap_or_default().to_ascii_lowercase();
    if name.ends_with(".pdf") { "application/pdf" } else { "text/plain" }
}

fn media_part(media: &Media, usual: &str) -> Value {
    match Source::of(media, usual) {
        Source::Address(url) => {
            let mime_type = media.mime_type.as_deref().unwrap_or(usual);
            json!({"fileData": {"mimeType": mime_type, "fileUri": url}})
        }
        Source::Content(mime_type, data) => json!({"inlineData": {"mimeType": mime_type, "data": data}}),
    }
}

/// The result of a call, by the name that was called; ids come along where the endpoint gave them.
fn result_part(message: &Message, calls: &HashMap<&str, &ToolCall>) -> Value {
    let id = message.tool_call_id.as_deref().unwrap_or_default();
    let call = calls.get(id);
    let name = call.map(|call| call.function.name.as_str()).or(message.tool_name.as_deref()).unwrap_or_default();
    let field = if message.tool_call_error == Some(true) { "error" } else { "result" };
    let response = json!({ field: message.content.as_deref().unwrap_or_default() });
    let mut part = json!({"functionResponse": {"name": replayable_name(name), "response": response}});
    if let Some(id) = call.and_then(|call| call.call_id.as_deref()) {
        part["functionResponse"]["id"] = json!(id);
    }
    part
}

/// A turn of the model: as it came, if this same model wrote it.
fn model_parts(settings: &Settings, message: &Message, signs_calls: bool) -> Vec<Value> {
    let data = message.provider_data.as_ref().filter(|data| data["model"] == *settings.id);
    if let Some(parts) = data.and_then(|data| data[KEPT].as_array()) {
        return parts.clone();
    }
    let text = message.content.as_deref().filter(|text| !text.is_empty()).map(text_part);
    let calls = message.tool_calls.iter().enumerate().map(|(place, call)| {
        let function = &call.function;
        let args = serde_json::from_str::<Value>(replayable_arguments(&function.arguments)).unwrap_or_default();
        let mut part = json!({"functionCall": {"name": replayable_name(&function.name), "args": args}});
        if let Some(id) = &call.call_id {
            part["functionCall"]["id"] = json!(id);
        }
        // The first call of a turn has the signature of all.
        if signs_calls && place == 0 {
            part["thoughtSignature"] = json!(NO_SIGNATURE);
        }
        part
    });
    text.into_iter().chain(calls).collect()
}

/// An answer in progress.
#[derive(Default)]
pub struct Parts {
    model: String,
    id: Option<String>,
    parts: Vec<Value>,
    usage: Value,
    finish_reason: String,
    /// Why the prompt was not answered at all.
    block_reason: Option<String>,
}

impl Collector for Parts {
    fn event(&mut self, _: &str, mut event: Value) -> Result<Vec<ModelDelta>, Refusal> {
        if is_error(&event, &["candidates", "promptFeedback", "usageMetadata", "responseId"]) {
            return Err(Refusal::Error(event));
        }
        let was_named = self.id.is_some();
        self.id =
            self.id.take().or_else(|| event["responseId"].as_str().filter(|id| !id.is_empty()).map(str::to_owned));
        let begun = self.ids().filter(|_| !was_named).map(ModelDelta::Begun);
        if event["usageMetadata"].is_object() {
            self.usage = event["usageMetadata"].take();
        }
        let blocked = event["promptFeedback"]["blockReason"].as_str().filter(|reason| !reason.is_empty());
        self.block_reason = blocked.map(str::to_owned).or(self.block_reason.take());
        let reason = event.pointer("/candidates/0/finishReason").and_then(Value::as_str).unwrap_or_default();
        if !reason.is_empty() {
            reason.clone_into(&mut self.finish_reason);
            if finish::named(reason) == Some(End::Failed) {
                let message = event.pointer("/candidates/0/finishMessage");
                return Err(Refusal::Failed { reason: reason.to_owned(), beside: json!({ "message": message }) });
            }
        }
        let parts = event.pointer_mut("/candidates/0/content/parts").and_then(Value::as_array_mut);
        let mut parts = parts.map(std::mem::take).unwrap_or_default();
        // The last event of some servers has all calls once more.
        if !self.finish_reason.is_empty() && self.has_calls_of(&parts) {
            parts.retain(|part| !part["functionCall"].is_object());
        }
        Ok(begun.into_iter().chain(parts.into_iter().filter_map(|part| self.take(part))).collect())
    }

    fn is_complete(&self) -> bool {
        // Counts may come after the end.
        false
    }

    fn finish(self, done: bool) -> Result<ModelResponse, Refusal> {
        let reason = match (finish::named(&self.finish_reason), &self.block_reason) {
            (Some(End::Reason(reason)), _) => reason,
            (None, Some(_)) => FinishReason::ContentFilter,
            (None, None) if done => FinishReason::Stop,
            _ => return Err(Refusal::Endless(self.finish_reason)),
        };
        Ok(self.into_response(reason))
    }
}

impl Parts {
    fn ids(&self) -> Option<Value> {
        self.id.as_ref().map(|id| json!({"response_id": id}))
    }

    /// Whether these parts have all calls so far, in order, and no other.
    fn has_calls_of(&self, parts: &[Value]) -> bool {
        let calls = |parts: &[Value]| -> Vec<[Value; 2]> {
            let calls = parts.iter().map(|part| &part["functionCall"]).filter(|call| call.is_object());
            calls.map(|call| [call["name"].clone(), call["args"].clone()]).collect()
        };
        let new = calls(parts);
        !new.is_empty() && new == calls(&self.parts)
    }

    /// Takes in a part. Text goes on in the part before it, unless that has its signature.
    fn take(&mut self, part: Value) -> Option<ModelDelta> {
        let more = part["text"].as_str().map(str::to_owned);
        let is_thought = part["thought"] == true;
        let told = more.clone().filter(|text| !text.is_empty()).map(|text| match is_thought {
            true => ModelDelta::Reasoning(text),
            false => ModelDelta::Content(text),
        });
        let is_only_text = |part: &Value| {
            part.as_object()
                .is_some_and(|fields| fields.keys().all(|name| ["text", "thought"].contains(&name.as_str())))
        };
        let goes_on =
            |last: &&mut Value| is_only_text(last) && is_only_text(&part) && last["thought"] == part["thought"];
        match (self.parts.last_mut().filter(goes_on), more) {
            (Some(last), Some(more)) => last["text"] = json!(text(&last["text"]) + &more),
            _ => self.parts.push(part),
        }
        told
    }

    fn said(&self, is_thought: bool) -> String {
        let parts = self.parts.iter().filter(|part| (part["thought"] == true) == is_thought);
        parts.filter_map(|part| part["text"].as_str()).collect()
    }

    fn into_response(mut self, reason: FinishReason) -> ModelResponse {
        let ids = self.ids();
        let (content, thinking) = (self.said(false), self.said(true));
        let mut taken = HashSet::new();
        let mut tool_calls = Vec::new();
        for part in self.parts.iter_mut().filter(|part| part["functionCall"].is_object()) {
            let function = &mut part["functionCall"];
            let given = function["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
            let made_up = || format!("call_{}_{}", self.id.as_deref().unwrap_or_default(), tool_calls.len());
            let id = unique(given.clone().unwrap_or_else(made_up), &mut taken);
            let call = ToolCall::new(id, text(&function["name"]).trim(), text(&function["args"]));
            function["name"] = json!(replayable_name(&call.function.name));
            function["args"] = serde_json::from_str(replayable_arguments(&call.function.arguments)).unwrap_or_default();
            tool_calls.push(ToolCall { call_id: given, ..call });
        }
        let known = ["text", "functionCall"];
        let says_more = |part: &Value| {
            part.as_object().is_some_and(|fields| fields.keys().any(|name| !known.contains(&name.as_str())))
        };
        // Thoughts are for people; what follows from them has the signature.
        let is_thought = |part: &Value| part["thought"] == true && part["thoughtSignature"].is_null();
        let kept = self.parts.iter().any(|part| says_more(part) && !is_thought(part)).then(|| {
            let is_blank =
                |part: &Value| part["text"] == "" && part.as_object().is_some_and(|fields| fields.len() == 1);
            self.parts.retain(|part| !is_thought(part) && !is_blank(part));
            json!({"model": self.model, KEPT: self.parts})
        });
        let has_calls = !tool_calls.is_empty();
        ModelResponse {
            content: Some(content).filter(|text| !text.is_empty() || !has_calls),
            reasoning_content: Some(thinking).filter(|text| !text.is_empty()),
            finish_reason: if reason == FinishReason::Stop && has_calls { FinishReason::ToolCalls } else { reason },
            usage: usage(&self.usage),
            model_provider_data: ids,
            provider_data: kept,
            tool_calls,
            time_to_first_token: None,
            duration: None,
            cost: None,
        }
    }
}

/// Thinking is counted apart from the answer, and what tools put into the prompt apart from the prompt.
fn usage(usage: &Value) -> Usage {
    let reasoning_tokens = counted(usage, "/thoughtsTokenCount");
    let input_tokens = counted(usage, "/promptTokenCount") + counted(usage, "/toolUsePromptTokenCount");
    let output_tokens = counted(usage, "/candidatesTokenCount") + reasoning_tokens;
    Usage {
        input_tokens,
        output_tokens,
        total_tokens: counted(usage, "/totalTokenCount").max(input_tokens + output_tokens),
        reasoning_tokens,
        cache_read_tokens: counted(usage, "/cachedContentTokenCount"),
        ..Usage::default()
    }
}
