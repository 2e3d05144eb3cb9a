//! The wire format of the Responses endpoint.
//!
//! The whole conversation goes out with every call. An answer that shows reasoning items is kept as the provider sent it
//! ([`REPLAYED`]), because the provider wants those items back exactly, with what followed them.

use super::{Collector, Endpoint, Refusal, Settings};
use crate::model::openai::chat::{call_ids, data_url, replayable_arguments, replayable_name};
use outlive_core::{
    FinishReason, Media, Message, ModelDelta, ModelRequest, ModelResponse, Role, ToolCall, ToolSpec, Usage,
};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The key in `provider_data` of an answer that must be replayed as it came; beside it, `model`.
const REPLAYED: &str = "responses_output";

/// The Responses endpoint.
pub struct Responses;

impl Endpoint for Responses {
    const NAME: &'static str = "Responses";
    const PREFIX: &'static str = "openai";
    const PATH: &'static [&'static str] = &["responses"];
    type Collector = Items;

    fn body(settings: &Settings, request: &ModelRequest) -> Value {
        let mut body = Map::new();
        body.insert("model".into(), json!(&*settings.id));
        body.insert("input".into(), input(settings, &request.messages));
        if !request.tools.is_empty() {
            body.insert("tools".into(), request.tools.iter().map(tool).collect());
        }
        if let Some(output) = &request.output_schema {
            let strict = is_strict(&output.schema);
            let format = json!({"type": "json_schema", "name": output.name, "schema": output.schema, "strict": strict});
            body.insert("text".into(), json!({"format": format}));
        }
        if request.stream {
            body.insert("stream".into(), json!(true));
        }
        if is_reasoning_model(&settings.id) {
            // What we must send back comes with the answer, so that nothing has to stay at the provider.
            body.insert("store".into(), json!(false));
            body.insert("include".into(), json!(["reasoning.encrypted_content"]));
        }
        let mut set = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
        set("temperature", settings.temperature.map(Value::from));
        set("top_p", settings.top_p.map(Value::from));
        set("max_output_tokens", settings.max_output_tokens.map(Value::from));
        set("parallel_tool_calls", settings.parallel_tool_calls.map(Value::from));
        set("reasoning", settings.reasoning_effort.as_ref().map(|effort| json!({"effort": effort})));
        body.extend(settings.parameters.clone());
        Value::Object(body)
    }

    fn answer(settings: &Settings, body: Value) -> Result<ModelResponse, Refusal> {
        if body.get("error").is_some_and(|error| !error.is_null()) || body["status"] == "failed" {
            return Err(Refusal::Error(body));
        }
        let Some(output) = body["output"].as_array() else {
            return Err(Refusal::Garbage("an answer without output".into()));
        };
        let content = texts(output, "message", &["content"], "");
        let reasoning = texts(output, "reasoning", &["summary", "content"], "\n\n");
        let response_id = body["id"].as_str();
        let tool_calls: Vec<_> = of_type(output, "function_call")
            .enumerate()
            .map(|(index, item)| tool_call(item, response_id.unwrap_or_default(), index))
            .collect();
        let keep = of_type(output, "reasoning").next().is_some();
        Ok(ModelResponse {
            content: Some(content).filter(|text| !text.is_empty() || tool_calls.is_empty()),
            reasoning_content: Some(reasoning).filter(|text| !text.is_empty()),
            finish_reason: finish_reason(&body, !tool_calls.is_empty()),
            usage: usage(&body["usage"]),
            model_provider_data: response_id.map(|id| json!({"response_id": id})),
            provider_data: keep.then(|| json!({"model": &*settings.id, REPLAYED: without_nulls(output)})),
            tool_calls,
            time_to_first_token: None,
            duration: None,
        })
    }
}

/// Only OpenAI's reasoning models know `include` and `store: false` with encrypted reasoning.
fn is_reasoning_model(id: &str) -> bool {
    ["gpt-5", "gpt-6", "o3", "o4"].iter().any(|family| id.starts_with(family))
}

fn tool(tool: &ToolSpec) -> Value {
    // Without `strict` this endpoint takes schemas for strict and rejects those with optional parameters.
    json!({
        "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters,
        "strict": false,
    })
}

/// Whether OpenAI's strict mode accepts the schema: every object closed, every property required.
pub(super) fn is_strict(schema: &Value) -> bool {
    match schema {
        Value::Array(parts) => parts.iter().all(is_strict),
        Value::Object(fields) => {
            let closed = match fields.get("properties").and_then(Value::as_object) {
                None => fields.get("type").is_none_or(|kind| kind != "object"),
                Some(properties) => {
                    let required = fields.get("required").and_then(Value::as_array);
                    let is_required =
                        |name: &String| required.is_some_and(|names| names.iter().any(|known| known == name));
                    fields.get("additionalProperties") == Some(&Value::Bool(false))
                        && properties.keys().all(is_required)
                }
            };
            closed && fields.values().all(is_strict)
        }
        _ => true,
    }
}

fn input(settings: &Settings, messages: &[Message]) -> Value {
    let call_ids = call_ids(messages);
    messages.iter().flat_map(|message| items(settings, message, &call_ids)).collect()
}

/// One message as input items.
fn items(settings: &Settings, message: &Message, call_ids: &HashMap<&str, &str>) -> Vec<Value> {
    let text = message.content.as_deref().unwrap_or_default();
    match message.role {
        Role::System => vec![json!({"role": settings.system_role, "content": text})],
        Role::User => vec![json!({"role": "user", "content": user_content(message, text)})],
        Role::Tool => {
            let id = message.tool_call_id.as_deref().unwrap_or_default();
            let call_id = call_ids.get(id).copied().unwrap_or(id);
            vec![json!({"type": "function_call_output", "call_id": call_id, "output": text})]
        }
        Role::Assistant => replayed(settings, message).unwrap_or_else(|| rebuilt(message, text)),
    }
}

/// The items of an answer as the provider sent them, if this very model did.
fn replayed(settings: &Settings, message: &Message) -> Option<Vec<Value>> {
    let data = message.provider_data.as_ref()?;
    let same_model = data.get("model").and_then(Value::as_str) == Some(&*settings.id);
    data.get(REPLAYED).and_then(Value::as_array).filter(|_| same_model).cloned()
}

fn rebuilt(message: &Message, text: &str) -> Vec<Value> {
    // Unlike OpenAI, llama.cpp wants the type of an assistant's message.
    let said = (!text.is_empty()).then(|| json!({"type": "message", "role": "assistant", "content": text}));
    let calls = message.tool_calls.iter().map(|call| {
        // The item's own id is left out: the provider may not know it any more.
        json!({
            "type": "function_call",
            "call_id": call.call_id.as_deref().unwrap_or(&call.id),
            "name": replayable_name(&call.function.name),
            "arguments": replayable_arguments(&call.function.arguments),
        })
    });
    said.into_iter().chain(calls).collect()
}

fn user_content(message: &Message, text: &str) -> Value {
    if message.images.is_empty() && message.files.is_empty() {
        return json!(text);
    }
    let words = (!text.is_empty()).then(|| json!({"type": "input_text", "text": text}));
    let images = message.images.iter().map(image);
    let files = message.files.iter().map(file);
    words.into_iter().chain(images).chain(files).collect()
}

fn image(image: &Media) -> Value {
    let url = image.url.clone().unwrap_or_else(|| data_url(image, "image/png"));
    json!({"type": "input_image", "image_url": url, "detail": image.detail.as_deref().unwrap_or("auto")})
}

fn file(file: &Media) -> Value {
    match &file.url {
        Some(url) => json!({"type": "input_file", "file_url": url}),
        None => json!({
            "type": "input_file",
            "filename": file.filename.as_deref().unwrap_or("file"),
            "file_data": data_url(file, "application/octet-stream"),
        }),
    }
}

fn of_type<'a>(output: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    output.iter().filter(move |item| item["type"] == kind)
}

/// The texts of all items of a type, from the first of `fields` that has any.
fn texts(output: &[Value], kind: &str, fields: &[&str], between: &str) -> String {
    let items = of_type(output, kind).map(|item| {
        let found = fields.iter().map(|field| part_texts(&item[*field]).join(between));
        found.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    });
    items.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(between)
}

fn part_texts(parts: &Value) -> Vec<&str> {
    match parts {
        Value::String(text) => vec![text],
        // A refusal is the model's own words too.
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str().or_else(|| part["refusal"].as_str())).collect()
        }
        _ => Vec::new(),
    }
}

fn tool_call(item: &Value, response_id: &str, index: usize) -> ToolCall {
    let text = |name: &str| item[name].as_str().filter(|text| !text.is_empty());
    let call_id = text("call_id");
    let id = text("id").or(call_id).map_or_else(|| format!("call_{response_id}_{index}"), str::to_owned);
    let arguments = match &item["arguments"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        // Against the format, but its meaning is clear.
        arguments => arguments.to_string(),
    };
    ToolCall {
        call_id: call_id.filter(|call_id| *call_id != id).map(str::to_owned),
        ..ToolCall::new(id, text("name").unwrap_or_default(), arguments)
    }
}

fn finish_reason(body: &Value, calls: bool) -> FinishReason {
    match body["incomplete_details"]["reason"].as_str() {
        Some("content_filter") => FinishReason::ContentFilter,
        Some(_) => FinishReason::Length,
        None if body["status"] == "incomplete" => FinishReason::Length,
        None if calls => FinishReason::ToolCalls,
        None => FinishReason::Stop,
    }
}

fn usage(usage: &Value) -> Usage {
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let (input_tokens, output_tokens) = (count("/input_tokens"), count("/output_tokens"));
    Usage {
        input_tokens,
        output_tokens,
        total_tokens: count("/total_tokens").max(input_tokens + output_tokens),
        reasoning_tokens: count("/output_tokens_details/reasoning_tokens"),
        cache_read_tokens: count("/input_tokens_details/cached_tokens"),
        cache_write_tokens: count("/input_tokens_details/cache_write_tokens"),
    }
}

/// Items come with nulls that the same endpoint refuses as input.
fn without_nulls(output: &[Value]) -> Vec<Value> {
    let mut output = output.to_vec();
    for item in output.iter_mut().filter_map(Value::as_object_mut) {
        item.retain(|_, value| !value.is_null());
    }
    output
}

/// A streamed answer. The last event repeats the whole; what came before it fills the gaps of servers that leave
/// something out.
#[derive(Default)]
pub struct Items {
    items: Vec<Item>,
    last: Option<Value>,
}

/// One output item on its way.
#[derive(Default)]
struct Item {
    id: Option<String>,
    index: Option<u64>,
    value: Value,
    text: String,
    arguments: String,
}

impl Collector for Items {
    fn event(&mut self, mut event: Value) -> Result<Vec<ModelDelta>, Refusal> {
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        let delta = event["delta"].as_str().unwrap_or_default().to_owned();
        let mut told = Vec::new();
        match kind.as_str() {
            "response.created" => {
                let id = event["response"]["id"].as_str();
                told.extend(id.map(|id| ModelDelta::Begun(json!({ "response_id": id }))));
            }
            "response.output_item.added" | "response.output_item.done" => {
                let value = event["item"].take();
                let id = value["id"].as_str().map(str::to_owned);
                let item = self.item(id, event["output_index"].as_u64());
                item.value = value;
            }
            "response.output_text.delta" | "response.refusal.delta" => {
                self.of_event(&event).text.push_str(&delta);
                told.push(ModelDelta::Content(delta));
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                told.push(ModelDelta::Reasoning(delta));
            }
            "response.function_call_arguments.delta" => self.of_event(&event).arguments.push_str(&delta),
            "response.completed" | "response.incomplete" => {
                let mut response = event["response"].take();
                if kind == "response.incomplete" && response.is_object() {
                    response["status"] = json!("incomplete");
                }
                self.last = Some(response);
            }
            "response.failed" => return Err(Refusal::Error(event["response"].take())),
            "error" => return Err(Refusal::Error(event)),
            // Some servers report an error without saying that it is one.
            "" if event.get("error").is_some_and(|error| !error.is_null()) => return Err(Refusal::Error(event)),
            _ => {}
        }
        told.retain(
            |delta| !matches!(delta, ModelDelta::Content(text) | ModelDelta::Reasoning(text) if text.is_empty()),
        );
        Ok(told)
    }

    fn is_complete(&self) -> bool {
        self.last.is_some()
    }

    fn finish(self, settings: &Settings, _done: bool) -> Option<Result<ModelResponse, Refusal>> {
        let mut response = self.last?;
        if !response.is_object() {
            return Some(Err(Refusal::Garbage("a last event without the answer".into())));
        }
        if response["output"].as_array().is_none_or(Vec::is_empty) {
            response["output"] = self.items.into_iter().map(Item::whole).collect();
        }
        Some(Responses::answer(settings, response))
    }
}

impl Items {
    fn of_event(&mut self, event: &Value) -> &mut Item {
        self.item(event["item_id"].as_str().map(str::to_owned), event["output_index"].as_u64())
    }

    /// The item with this id, else at this index; one that names neither is the newest.
    fn item(&mut self, id: Option<String>, index: Option<u64>) -> &mut Item {
        let by_id = self.items.iter().position(|item| id.is_some() && item.id == id);
        let by_index = || self.items.iter().position(|item| index.is_some() && item.index == index);
        let newest = || self.items.len().checked_sub(1).filter(|_| id.is_none() && index.is_none());
        let at = by_id.or_else(by_index).or_else(newest).unwrap_or_else(|| {
            self.items.push(Item { id, index, ..Item::default() });
            self.items.len() - 1
        });
        &mut self.items[at]
    }
}

impl Item {
    /// The item with what only its deltas said.
    fn whole(self) -> Value {
        let mut value = self.value;
        if value["type"] == "function_call" && value["arguments"].as_str().is_none_or(str::is_empty) {
            value["arguments"] = json!(self.arguments);
        }
        let silent = value.is_null() || value["content"].as_array().is_none_or(Vec::is_empty);
        if silent && !self.text.is_empty() {
            value = json!({
                "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": self.text}],
            });
        }
        value
    }
}
