//! The wire format of the Responses endpoint.
//!
//! The whole conversation goes out with every call. An answer with reasoning items is kept as the provider sent it
//! ([`REPLAYED`]), because the provider wants those items back exactly, with what followed them.

use super::{Endpoint, Settings};
use crate::model::providers::{self, Provider};
use crate::model::wire::calls::{text, unique};
use crate::model::wire::finish::{self, End};
use crate::model::wire::text::{Said, Saying, told_apart};
use crate::model::wire::turns::{CallIds, call_ids, counted, data_url, paired, replayable_arguments, replayable_name};
use crate::model::wire::{self, Collector, Refusal, is_error};
use outlive_core::{
    FinishReason, Media, Message, ModelDelta, ModelRequest, ModelResponse, Role, ToolCall, ToolSpec, Usage,
};
use reqwest::Url;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};

/// The key in `provider_data` of an answer that must be replayed exactly; beside it, `model`.
const REPLAYED: &str = "responses_output";

/// The Responses endpoint.
pub struct Responses;

impl Endpoint for Responses {
    const NAME: &'static str = "Responses";
    type Collector = Items;

    fn provider() -> &'static Provider {
        &providers::OPENAI
    }

    fn url(_: &Settings, base: &str, _: bool) -> Result<Url, String> {
        wire::below(base, &["responses"])
    }

    fn body(settings: &Settings, request: &ModelRequest) -> Result<Value, String> {
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
            // What we must send back comes with the answer, so nothing has to be kept at the provider.
            body.insert("store".into(), json!(false));
            body.insert("include".into(), json!(["reasoning.encrypted_content"]));
        }
        if settings.background {
            // Only what is stored can go on without a listener.
            body.insert("background".into(), json!(true));
            body.insert("store".into(), json!(true));
        }
        let mut set = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
        set("temperature", settings.temperature.map(Value::from));
        set("top_p", settings.top_p.map(Value::from));
        set("max_output_tokens", settings.max_output_tokens.map(Value::from));
        set("parallel_tool_calls", settings.parallel_tool_calls.map(Value::from));
        set("reasoning", settings.reasoning_effort.as_ref().map(|effort| json!({"effort": effort})));
        Ok(Value::Object(body))
    }

    fn answer(settings: &Settings, body: Value) -> Result<ModelResponse, Refusal> {
        if is_error(&body, &["output"]) || body["status"] == "failed" {
            return Err(Refusal::Error(body));
        }
        let Some(output) = body["output"].as_array() else {
            return Err(Refusal::Garbage("an answer without output".into()));
        };
        let said = said(output);
        let response_id = body["id"].as_str();
        let mut taken = HashSet::new();
        let tool_calls: Vec<_> = of_type(output, "function_call")
            .enumerate()
            .map(|(index, item)| tool_call(item, response_id.unwrap_or_default(), index, &mut taken))
            .collect();
        let finish_reason = finish_reason(&body, output, !tool_calls.is_empty())?;
        // Two calls with the same id were given different ones; the provider's own items would mix them up again.
        let is_plain = tool_calls.iter().any(|call| call.id.is_empty()) || has_one_id_twice(output);
        let keep = output.iter().any(says_more) && !is_plain;
        Ok(ModelResponse {
            content: Some(said.text).filter(|text| !text.is_empty() || tool_calls.is_empty()),
            reasoning_content: Some(said.thinking).filter(|text| !text.is_empty()),
            finish_reason,
            usage: usage(&body["usage"]),
            model_provider_data: response_id.map(|id| json!({"response_id": id})),
            provider_data: keep.then(|| json!({"model": &*settings.id, REPLAYED: replayable(output)})),
            tool_calls,
            time_to_first_token: None,
            duration: None,
            cost: None,
        })
    }

    fn kept_at(_: &Settings, base: &str, begun: &Value) -> Option<Result<Url, String>> {
        begun["response_id"].as_str().map(|id| wire::below(base, &["responses", id]))
    }

    fn collector(settings: &Settings) -> Items {
        Items { settings: Some(settings.clone()), ..Items::default() }
    }
}

/// Only OpenAI's reasoning models know `include` and `store: false` with encrypted reasoning.
fn is_reasoning_model(id: &str) -> bool {
    ["gpt-5", "gpt-6", "o3", "o4"].iter().any(|family| id.starts_with(family))
}

fn tool(tool: &ToolSpec) -> Value {
    // Without `strict` this endpoint treats schemas as strict and rejects those with optional parameters.
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
fn items(settings: &Settings, message: &Message, call_ids: &CallIds<'_>) -> Vec<Value> {
    let text = message.content.as_deref().unwrap_or_default();
    match message.role {
        Role::System => vec![json!({"role": settings.system_role(), "content": text})],
        Role::User => vec![json!({"role": "user", "content": user_content(message, text)})],
        Role::Tool => {
            let id = message.tool_call_id.as_deref().unwrap_or_default();
            vec![json!({"type": "function_call_output", "call_id": paired(call_ids, id), "output": text})]
        }
        Role::Assistant => replayed(settings, message).unwrap_or_else(|| rebuilt(message, text)),
    }
}

/// The items of an answer as the provider sent them, if this same model did.
fn replayed(settings: &Settings, message: &Message) -> Option<Vec<Value>> {
    let data = message.provider_data.as_ref()?;
    let same_model = data.get("model").and_then(Value::as_str) == Some(&*settings.id);
    data.get(REPLAYED).and_then(Value::as_array).filter(|_| same_model).cloned()
}

fn rebuilt(message: &Message, text: &str) -> Vec<Value> {
    // Unlike OpenAI, llama.cpp wants the type of an assistant's message.
    let said = (!text.is_empty()).then(|| json!({"type": "message", "role": "assistant", "content": text}));
    let calls = message.tool_calls.iter().map(|call| {
        // The item's own id is left out: the provider may no longer know it.
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

/// The text of all messages, and the thinking of messages and reasoning items.
fn said(output: &[Value]) -> Said {
    let mut said = Said::default();
    for message in of_type(output, "message") {
        let part = Said::read(&message["content"]);
        said.text.push_str(&part.text);
        said.thinking.push_str(&part.thinking);
    }
    let tagged = told_apart(&said.text);
    let thoughts = of_type(output, "reasoning").map(|item| {
        let fields = ["summary", "content"].map(|field| thoughts(&item[field]));
        fields.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    });
    let thinking: Vec<_> = thoughts.chain([said.thinking, tagged.thinking]).filter(|text| !text.is_empty()).collect();
    Said { text: tagged.text, thinking: thinking.join("\n\n") }
}

fn thoughts(parts: &Value) -> String {
    let read = |part: &Value| {
        let said = Said::read(part);
        said.text + &said.thinking
    };
    match parts {
        Value::Array(parts) => parts.iter().map(read).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n"),
        other => read(other),
    }
}

fn tool_call(item: &Value, response_id: &str, index: usize, taken: &mut HashSet<String>) -> ToolCall {
    let given = |name: &str| item[name].as_str().filter(|text| !text.is_empty());
    let call_id = given("call_id");
    let id = given("id").or(call_id).map_or_else(|| format!("call_{response_id}_{index}"), str::to_owned);
    let id = unique(id, taken);
    ToolCall {
        call_id: call_id.filter(|call_id| *call_id != id).map(|call_id| unique(call_id.to_owned(), taken)),
        ..ToolCall::new(id, given("name").unwrap_or_default().trim(), text(&item["arguments"]))
    }
}

fn has_one_id_twice(output: &[Value]) -> bool {
    let mut taken = HashSet::new();
    of_type(output, "function_call").any(|item| !taken.insert(text(&item["call_id"])) && !item["call_id"].is_null())
}

fn finish_reason(body: &Value, output: &[Value], has_calls: bool) -> Result<FinishReason, Refusal> {
    let status = body["status"].as_str().unwrap_or_default();
    let details = body["incomplete_details"]["reason"].as_str().unwrap_or_default();
    let end = match (finish::named(details), finish::named(status)) {
        (Some(end), _) => end,
        (None, _) if status == "incomplete" => End::Reason(FinishReason::Length),
        (None, end) => end.unwrap_or(End::Reason(FinishReason::Stop)),
    };
    let cut_call = || of_type(output, "function_call").any(|item| item["status"] == "incomplete");
    match end {
        End::Reason(FinishReason::Stop | FinishReason::ToolCalls) if has_calls && cut_call() => {
            Ok(FinishReason::Length)
        }
        End::Reason(FinishReason::Stop | FinishReason::ToolCalls) if has_calls => Ok(FinishReason::ToolCalls),
        End::Reason(FinishReason::ToolCalls) => Ok(FinishReason::Stop),
        End::Reason(reason) => Ok(reason),
        End::Failed => Err(Refusal::Failed { reason: format!("{details}{status}"), beside: body["error"].clone() }),
        End::Unknown => Err(Refusal::Endless(if details.is_empty() { status } else { details }.to_owned())),
    }
}

fn usage(usage: &Value) -> Usage {
    let count = |pointer: &str| counted(usage, pointer);
    let (input_tokens, output_tokens) = (count("/input_tokens"), count("/output_tokens"));
    let audio_input_tokens = count("/input_tokens_details/audio_tokens");
    let audio_output_tokens = count("/output_tokens_details/audio_tokens");
    Usage {
        input_tokens,
        output_tokens,
        total_tokens: count("/total_tokens").max(input_tokens + output_tokens),
        reasoning_tokens: count("/output_tokens_details/reasoning_tokens"),
        cache_read_tokens: count("/input_tokens_details/cached_tokens"),
        cache_write_tokens: count("/input_tokens_details/cache_write_tokens"),
        audio_input_tokens,
        audio_output_tokens,
        audio_total_tokens: audio_input_tokens + audio_output_tokens,
    }
}

/// Whether an item holds more than what its text or its call would rebuild.
fn says_more(item: &Value) -> bool {
    let known: &[&str] = match item["type"].as_str() {
        Some("message") => &["id", "type", "status", "role", "content"],
        Some("function_call") => &["id", "type", "status", "call_id", "name", "arguments"],
        _ => return item["type"].is_string(),
    };
    item.as_object().into_iter().flatten().any(|(name, value)| !value.is_null() && !known.contains(&name.as_str()))
}

/// The items as the same endpoint takes them back: without the nulls that it refuses as input, and only calls that are
/// really calls.
fn replayable(output: &[Value]) -> Vec<Value> {
    let mut output = output.to_vec();
    for item in output.iter_mut().filter_map(Value::as_object_mut) {
        item.retain(|_, value| !value.is_null());
        if item.get("type").is_some_and(|kind| kind == "function_call") {
            let written = |name: &str| text(item.get(name).unwrap_or(&Value::Null));
            let (name, arguments) = (replayable_name(&written("name")), written("arguments"));
            item.insert("name".to_owned(), json!(name));
            item.insert("arguments".to_owned(), json!(replayable_arguments(&arguments)));
        }
    }
    output
}

/// A streamed answer. The last event repeats the whole; what came before it fills the gaps for servers that leave
/// something out.
#[derive(Default)]
pub struct Items {
    settings: Option<Settings>,
    items: Vec<Item>,
    begun: bool,
    last: Option<Value>,
    /// What could not be attributed; it does not matter if the last event says everything itself.
    doubt: Option<Refusal>,
}

/// One output item in progress.
#[derive(Default)]
struct Item {
    id: Option<String>,
    index: Option<u64>,
    value: Value,
    /// Its own end has come: `value` is complete.
    is_done: bool,
    texts: BTreeMap<u64, String>,
    thoughts: BTreeMap<u64, String>,
    saying: Saying,
    told: String,
    arguments: String,
    /// The end of its arguments has come: these are all of them.
    has_all_arguments: bool,
}

/// What an event says about the item it belongs to.
struct Place {
    id: Option<String>,
    index: Option<u64>,
}

impl Place {
    fn of(event: &Value) -> Self {
        let id = event["item_id"].as_str().or_else(|| event["item"]["id"].as_str());
        Self { id: id.filter(|id| !id.is_empty()).map(str::to_owned), index: event["output_index"].as_u64() }
    }
}

impl Collector for Items {
    fn event(&mut self, name: &str, mut event: Value) -> Result<Vec<ModelDelta>, Refusal> {
        if is_error(&event, &["type", "response", "item", "delta"]) {
            return Err(Refusal::Error(event));
        }
        // Some servers give the event's name only on the stream.
        let kind = event["type"].as_str().filter(|kind| !kind.is_empty()).unwrap_or(name).to_owned();
        let told = match kind.as_str() {
            "response.created" | "response.in_progress" | "response.queued" => self.begin(&event),
            "response.output_item.added" => self.open(event),
            "response.output_item.done" => self.close(event),
            "response.output_text.delta" | "response.refusal.delta" => self.words(&event, "delta", false),
            "response.output_text.done" => self.words(&event, "text", true),
            "response.refusal.done" => self.words(&event, "refusal", true),
            "response.content_part.done" => {
                let part = Said::read(&event["part"]).text;
                event["part"] = json!(part);
                self.words(&event, "part", true)
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" | "response.reasoning.delta" => {
                self.think(&event)
            }
            "response.reasoning_summary_text.done" | "response.reasoning_text.done" => self.thought(&event),
            "response.function_call_arguments.delta" => self.arguments(&event, "delta", false),
            "response.function_call_arguments.done" => self.arguments(&event, "arguments", true),
            "response.completed" | "response.incomplete" | "response.cancelled" | "response.done" => {
                self.end(event["response"].take(), &kind)
            }
            "response.failed" | "response.error" => return Err(Refusal::Error(event["response"].take())),
            _ => Vec::new(),
        };
        Ok(told.into_iter().filter(|delta| !is_empty(delta)).collect())
    }

    fn is_complete(&self) -> bool {
        self.last.is_some()
    }

    fn finish(self, _: bool) -> Result<ModelResponse, Refusal> {
        let (Some(mut response), Some(settings)) = (self.last, self.settings) else {
            return Err(Refusal::Endless(String::new()));
        };
        let last = response["output"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let is_told = |item: &Item| {
            let kind = &item.value["type"];
            let ended = self.items.iter().filter(|item| item.is_done && item.value["type"] == *kind).count();
            let known = last.iter().filter(|other| other["type"] == *kind).count();
            item.value.is_null() || known >= ended.max(1)
        };
        let output = if last.iter().all(is_filled) && self.items.iter().all(is_told) && !last.is_empty() {
            last
        } else if let Some(doubt) = self.doubt {
            return Err(doubt);
        } else {
            let ended: Vec<_> = self.items.iter().map(|item| item.is_done).collect();
            let streamed = self.items.into_iter().map(Item::whole).collect::<Result<Vec<_>, _>>()?;
            completed(last, streamed.into_iter().zip(ended).collect())
        };
        response["output"] = Value::Array(output);
        Responses::answer(&settings, response)
    }
}

/// Whether an item of the last event says everything itself.
fn is_filled(item: &Value) -> bool {
    match item["type"].as_str() {
        Some("function_call") => !text(&item["arguments"]).trim().is_empty(),
        Some("message") => Said::read(&item["content"]) != Said::default(),
        _ => true,
    }
}

fn is_empty(delta: &ModelDelta) -> bool {
    matches!(delta, ModelDelta::Content(text) | ModelDelta::Reasoning(text) if text.is_empty())
}

impl Items {
    fn begin(&mut self, event: &Value) -> Vec<ModelDelta> {
        let id = event["response"]["id"].as_str().filter(|id| !id.is_empty() && !self.begun);
        self.begun |= id.is_some();
        id.map(|id| ModelDelta::Begun(json!({ "response_id": id }))).into_iter().collect()
    }

    /// The answer is over. Whoever was told nothing of it gets its text in one piece.
    fn end(&mut self, mut response: Value, kind: &str) -> Vec<ModelDelta> {
        let output = response["output"].as_array().filter(|_| self.items.is_empty());
        let told = output.map(|output| ModelDelta::Content(self::said(output).text));
        let said = kind.trim_start_matches("response.");
        if !response.is_object() {
            response = json!({});
        }
        if said != "completed" && said != "done" {
            response["status"] = json!(said);
        }
        self.last = Some(response);
        told.into_iter().collect()
    }

    /// An item begins: a new one, unless its id shows that it has already begun.
    fn open(&mut self, mut event: Value) -> Vec<ModelDelta> {
        let place = Place::of(&event);
        let value = event["item"].take();
        let known = self.items.iter_mut().rfind(|item| place.id.is_some() && item.id == place.id);
        match known {
            Some(item) if !item.is_done => item.value = value,
            Some(_) => {}
            None => self.items.push(Item { id: place.id, index: place.index, value, ..Item::default() }),
        }
        Vec::new()
    }

    /// An item is complete; its value now is all of it.
    fn close(&mut self, mut event: Value) -> Vec<ModelDelta> {
        let place = Place::of(&event);
        let value = event["item"].take();
        let by_id = self.items.iter().rposition(|item| item.id.is_some() && item.id == place.id);
        let fits = |item: &Item| {
            // An item of which only text was received has not said what it is.
            let same = |name: &str| item.value.is_null() || item.value[name] == value[name];
            !item.is_done && same("type") && same("name") && (item.value["call_id"].is_null() || same("call_id"))
        };
        let in_place = |item: &Item| place.index.is_none() || item.index.is_none() || item.index == place.index;
        let at = by_id.or_else(|| self.items.iter().position(|item| fits(item) && in_place(item)));
        let at = at.unwrap_or_else(|| {
            self.items.push(Item { id: place.id, index: place.index, ..Item::default() });
            self.items.len() - 1
        });
        let item = &mut self.items[at];
        let text = Said::read(&value["content"]).text;
        let told = if value["type"] == "message" { item.tell_rest(&text) } else { Vec::new() };
        item.value = value;
        item.is_done = true;
        told
    }

    /// The item an event continues: by its id, by its index, and otherwise the newest.
    fn find(&self, place: &Place, is_fit: impl Fn(&Item) -> bool) -> Option<usize> {
        let known_as = |item: &Item, id: &str| item.id.as_deref() == Some(id) || item.value["call_id"] == *id;
        let by_id = place.id.as_deref().and_then(|id| self.items.iter().rposition(|item| known_as(item, id)));
        if by_id.is_some() {
            return by_id;
        }
        let mut of_index = self.items.iter().enumerate().filter(|(_, item)| item.index == place.index);
        let newest = of_index.next_back().filter(|(_, item)| is_fit(item));
        match (newest, &place.id) {
            // An unknown id may be another name of the only item at this index, and of no other.
            (Some((at, item)), Some(_)) => (item.id.is_none() || of_index.next_back().is_none()).then_some(at),
            (Some((at, _)), None) => Some(at),
            (None, None) if place.index.is_none() => self.items.iter().rposition(is_fit),
            (None, _) => None,
        }
    }

    fn words(&mut self, event: &Value, field: &str, is_all: bool) -> Vec<ModelDelta> {
        let words = event[field].as_str().unwrap_or_default();
        let place = Place::of(event);
        let is_fit = |item: &Item| item.value.is_null() || item.value["type"] == "message";
        let at = self.find(&place, is_fit).unwrap_or_else(|| {
            self.items.push(Item { id: place.id, index: place.index, ..Item::default() });
            self.items.len() - 1
        });
        let item = &mut self.items[at];
        let text = item.texts.entry(event["content_index"].as_u64().unwrap_or(0)).or_default();
        if !is_all {
            text.push_str(words);
            return item.tell(words);
        }
        if words.is_empty() {
            return Vec::new();
        }
        words.clone_into(text);
        let all: String = item.texts.values().map(String::as_str).collect();
        item.tell_rest(&all)
    }

    fn think(&mut self, event: &Value) -> Vec<ModelDelta> {
        let thought = event["delta"].as_str().unwrap_or_default();
        if let Some(known) = self.thoughts(event) {
            known.push_str(thought);
        }
        vec![ModelDelta::Reasoning(thought.to_owned())]
    }

    /// A whole part of the reasoning; passed on if its pieces were not.
    fn thought(&mut self, event: &Value) -> Vec<ModelDelta> {
        let whole = event["text"].as_str().unwrap_or_default();
        let Some(known) = self.thoughts(event).filter(|_| !whole.is_empty()) else { return Vec::new() };
        let rest = whole.strip_prefix(&**known).unwrap_or_default().to_owned();
        whole.clone_into(known);
        vec![ModelDelta::Reasoning(rest)]
    }

    /// The part of the reasoning that an event is about.
    fn thoughts(&mut self, event: &Value) -> Option<&mut String> {
        let place = Place::of(event);
        let is_fit = |item: &Item| item.value.is_null() || item.value["type"] == "reasoning";
        let at =
            self.find(&place, is_fit).filter(|at| self.items[*at].value["type"] == "reasoning").unwrap_or_else(|| {
                let value = json!({"type": "reasoning", "summary": []});
                self.items.push(Item { id: place.id, index: place.index, value, ..Item::default() });
                self.items.len() - 1
            });
        let part = event["summary_index"].as_u64().or_else(|| event["content_index"].as_u64()).unwrap_or(0);
        Some(self.items.get_mut(at)?.thoughts.entry(part).or_default())
    }

    fn arguments(&mut self, event: &Value, field: &str, is_all: bool) -> Vec<ModelDelta> {
        if let Err(doubt) = self.add_arguments(event, field, is_all) {
            self.doubt.get_or_insert(doubt);
        }
        Vec::new()
    }

    fn add_arguments(&mut self, event: &Value, field: &str, is_all: bool) -> Result<(), Refusal> {
        let arguments = text(&event[field]);
        let place = Place::of(event);
        let is_call = |item: &Item| item.value["type"] == "function_call";
        let found = self.find(&place, is_call).filter(|at| is_call(&self.items[*at]));
        let name = event["name"].as_str().filter(|name| !name.is_empty());
        // A name opens a call where there is none, or where the open one has another name.
        let is_other = |at: &usize| name.is_some_and(|name| self.items[*at].value["name"] != *name);
        let at = match (found.filter(|at| !is_other(at)), name) {
            (Some(at), _) => at,
            (None, Some(name)) => {
                let value = json!({"type": "function_call", "name": name, "call_id": event["call_id"]});
                self.items.push(Item { id: place.id, index: place.index, value, ..Item::default() });
                self.items.len() - 1
            }
            (None, None) if arguments.trim().is_empty() => return Ok(()),
            (None, None) => return Err(doubt("arguments of a tool call that was never begun")),
        };
        let item = &mut self.items[at];
        match (is_all, item.has_all_arguments) {
            _ if item.is_done => {}
            (true, true) if !same_json(&item.arguments, &arguments) => {
                return Err(doubt("two ends of the arguments of one tool call"));
            }
            (true, _) if arguments.trim().is_empty() => {}
            (true, _) => {
                item.arguments = arguments;
                item.has_all_arguments = true;
            }
            (false, true) if !arguments.trim().is_empty() => {
                return Err(doubt("more arguments for a tool call that was already whole"));
            }
            (false, _) => item.arguments.push_str(&arguments),
        }
        Ok(())
    }
}

fn doubt(what: &str) -> Refusal {
    Refusal::Garbage(format!("a malformed answer: {what}"))
}

fn same_json(one: &str, other: &str) -> bool {
    let parse = |text: &str| outlive_core::json::read::<Value>(text).ok();
    one == other || parse(one).is_some_and(|one| parse(other) == Some(one))
}

impl Item {
    fn tell(&mut self, words: &str) -> Vec<ModelDelta> {
        self.told.push_str(words);
        let said = self.saying.push(words);
        vec![ModelDelta::Reasoning(said.thinking), ModelDelta::Content(said.text)]
    }

    /// The part of a whole text that was not streamed yet. What was streamed differently cannot be taken back.
    fn tell_rest(&mut self, all: &str) -> Vec<ModelDelta> {
        match all.strip_prefix(&*self.told) {
            Some(rest) => self.tell(rest),
            None => Vec::new(),
        }
    }

    /// The item, with what only its events said.
    fn whole(self) -> Result<Value, Refusal> {
        let mut value = self.value;
        if value["type"] == "function_call" {
            let written = text(&value["arguments"]);
            // Its end takes precedence over the pieces, and pieces over what it began with.
            let is_given = self.is_done && !written.trim().is_empty();
            if !is_given && !self.arguments.trim().is_empty() {
                let is_object = |text: &str| outlive_core::json::read::<Map<String, Value>>(text).is_ok();
                // Some servers begin every call with an empty object.
                let is_given = is_object(&written) && !same_json(&written, "{}");
                if is_given && is_object(&self.arguments) && !same_json(&written, &self.arguments) {
                    return Err(doubt("two sets of arguments for one tool call"));
                }
                if !is_given {
                    value["arguments"] = json!(self.arguments);
                }
            }
        }
        let text: String = self.texts.into_values().collect();
        let is_silent = value.is_null() || value["type"] == "message" && Said::read(&value["content"]).text.is_empty();
        if is_silent && !text.is_empty() {
            let content = json!([{"type": "output_text", "text": text}]);
            if value.is_null() {
                value = json!({"type": "message", "role": "assistant"});
            }
            value["content"] = content;
        }
        if value["type"] == "reasoning" && !self.thoughts.is_empty() {
            let is_silent = ["summary", "content"].iter().all(|field| thoughts(&value[*field]).is_empty());
            if is_silent {
                let parts = self.thoughts.into_values().map(|text| json!({"type": "summary_text", "text": text}));
                value["summary"] = parts.collect();
            }
        }
        Ok(value)
    }
}

/// The items of the last event, completed from those that were streamed, each with whether its own end came.
fn completed(last: Vec<Value>, streamed: Vec<(Value, bool)>) -> Vec<Value> {
    let streamed: Vec<_> = streamed.into_iter().filter(|(item, _)| item["type"].is_string()).collect();
    if last.is_empty() {
        return streamed.into_iter().map(|(item, _)| item).collect();
    }
    let mut output = last;
    let kinds: HashSet<String> = output.iter().map(|item| text(&item["type"])).collect();
    for kind in &kinds {
        let pairs: Vec<_> = streamed.iter().map(|(item, _)| item).filter(|item| item["type"] == **kind).collect();
        for (place, item) in output.iter_mut().filter(|item| item["type"] == **kind).enumerate() {
            let same = |other: &&&Value| {
                ["id", "call_id"].iter().any(|name| item[*name].is_string() && item[*name] == other[*name])
            };
            // Where ids are missing, items of a kind come in the same order.
            let by_place = || pairs.get(place).filter(|other| item["id"].is_null() || other["id"].is_null());
            let Some(other) = pairs.iter().find(same).or_else(by_place) else { continue };
            let is_same_call = item["name"] == other["name"];
            if kind == "function_call" && is_same_call && text(&item["arguments"]).trim().is_empty() {
                item["arguments"] = other["arguments"].clone();
            }
            if kind == "message" && Said::read(&item["content"]).text.is_empty() {
                item["content"] = other["content"].clone();
            }
        }
    }
    let known = output.len();
    for (item, is_done) in streamed {
        let kind = text(&item["type"]);
        let is_left_out = || is_done && is_filled(&item) && !output[..known].iter().any(|other| says(other, &item));
        if !kinds.contains(&kind) || is_left_out() {
            output.push(item);
        }
    }
    output
}

/// Whether an item of the last event is this streamed one, or says as much.
fn says(item: &Value, streamed: &Value) -> bool {
    let is_same = |name: &str| item[name].is_string() && item[name] == streamed[name];
    let says_as_much = || match streamed["type"].as_str() {
        Some("function_call") => {
            item["name"] == streamed["name"] && same_json(&text(&item["arguments"]), &text(&streamed["arguments"]))
        }
        Some("message") => Said::read(&item["content"]).text.contains(&Said::read(&streamed["content"]).text),
        _ => true,
    };
    item["type"] == streamed["type"] && (is_same("id") || is_same("call_id") || says_as_much())
}
