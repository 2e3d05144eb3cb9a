//! The wire format of the Chat Completions endpoint.
//!
//! Read leniently, because a hundred servers write it: a field that is not needed here may be missing, null or of
//! another type without harm.

use super::responses::is_strict;
use super::{Endpoint, Settings};
use crate::model::providers::{self, Address, ChatWays, Provider, Schemas};
use crate::model::wire::calls::{Calls, Doubt, Piece};
use crate::model::wire::finish::{self, End};
use crate::model::wire::text::{Said, Saying, told_apart, without_lone_close};
use crate::model::wire::turns::{
    CallIds, call_ids, counted, data_url, in_words, paired, replayable_arguments, replayable_name, short_call_ids,
};
use crate::model::wire::{self, Collector, Refusal, is_error};
use outlive_core::{
    FinishReason, Message, ModelDelta, ModelRequest, ModelResponse, OutputSchema, Role, ToolCall, ToolSpec, Usage,
};
use reqwest::Url;
use serde_json::{Map, Value, json};

/// The key in `provider_data` of an answer whose thinking or calls came with fields the format does not name; beside
/// it, `model`.
const KEPT: &str = "chat_message";

/// The Chat Completions endpoint.
pub struct Chat;

impl Endpoint for Chat {
    const NAME: &'static str = "Chat";
    type Collector = Pieces;

    fn provider() -> &'static Provider {
        &providers::OPENAI_CHAT
    }

    fn url(settings: &Settings, base: &str, _: bool) -> Result<Url, String> {
        match settings.provider.chat.address {
            Address::Plain => wire::below(base, &["chat", "completions"]),
            Address::Azure => azure_url(&settings.id, base),
        }
    }

    fn body(settings: &Settings, request: &ModelRequest) -> Result<Value, String> {
        let ways = settings.provider.chat;
        let in_words = request.output_schema.as_ref().filter(|_| has_schema_in_words(ways, request));
        let mut body = Map::new();
        body.insert("model".into(), json!(&*settings.id));
        body.insert("messages".into(), messages(settings, &request.messages, in_words));
        if !request.tools.is_empty() {
            body.insert("tools".into(), request.tools.iter().map(tool).collect());
        }
        match &request.output_schema {
            None => {}
            // Beside tools, a format that asks for JSON would forbid their calls.
            Some(_) if in_words.is_some() && !request.tools.is_empty() => {}
            Some(_) if in_words.is_some() => {
                body.insert("response_format".into(), json!({"type": "json_object"}));
            }
            Some(output) => {
                let schema = json!({"name": output.name, "schema": output.schema, "strict": is_strict(&output.schema)});
                body.insert("response_format".into(), json!({"type": "json_schema", "json_schema": schema}));
            }
        }
        if request.stream {
            body.insert("stream".into(), json!(true));
            if ways.asks_for_usage {
                body.insert("stream_options".into(), json!({"include_usage": true}));
            }
        }
        let mut set = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
        set("temperature", settings.temperature.map(Value::from));
        set("top_p", settings.top_p.map(Value::from));
        set(ways.tokens_max, settings.max_output_tokens.map(Value::from));
        set("parallel_tool_calls", settings.parallel_tool_calls.map(Value::from));
        let effort = settings.reasoning_effort.clone();
        if ways.nested_effort {
            set("reasoning", effort.map(|effort| json!({"effort": effort})));
        } else {
            set("reasoning_effort", effort.map(Value::from));
        }
        Ok(Value::Object(body))
    }

    fn answer(settings: &Settings, body: Value) -> Result<ModelResponse, Refusal> {
        let mut pieces = Self::collector(settings);
        pieces.head(&body)?;
        let Some(choice) = pieces.choice_of(&body) else {
            return Err(Refusal::Garbage("an answer without choices".into()));
        };
        pieces.take(choice)?;
        pieces.finish(true)
    }

    fn collector(settings: &Settings) -> Pieces {
        Pieces { model: settings.id.to_string(), ..Pieces::default() }
    }
}

/// Whether the schema of the answer is put in words for the model: its server does not take it as a format here.
fn has_schema_in_words(ways: ChatWays, request: &ModelRequest) -> bool {
    match ways.schemas {
        Schemas::Format => false,
        Schemas::FormatWithoutTools => !request.tools.is_empty(),
        Schemas::Words => true,
    }
}

/// Azure's own path: that of its version, or the one without versions.
fn azure_url(deployment: &str, base: &str) -> Result<Url, String> {
    let mut url = wire::below(base, &[])?;
    let version =
        ["AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION"].into_iter().find_map(|name| std::env::var(name).ok());
    let is_versioned = url.query_pairs().any(|(name, _)| name == "api-version");
    if let Some(version) = version.filter(|version| !is_versioned && !version.trim().is_empty()) {
        url.query_pairs_mut().append_pair("api-version", version.trim());
    }
    let path = url.path().trim_end_matches('/');
    let root = ["/openai/v1", "/openai"].iter().find_map(|end| path.strip_suffix(end)).unwrap_or(path).to_owned();
    url.set_path(&root);
    let below: &[&str] = match url.query() {
        Some(_) => &["openai", "deployments", deployment, "chat", "completions"],
        None => &["openai", "v1", "chat", "completions"],
    };
    wire::below(url.as_str(), below)
}

fn tool(tool: &ToolSpec) -> Value {
    let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters});
    json!({"type": "function", "function": function})
}

fn messages(settings: &Settings, messages: &[Message], schema: Option<&OutputSchema>) -> Value {
    let call_ids = if settings.provider.chat.short_call_ids { short_call_ids(messages) } else { call_ids(messages) };
    let mut list: Vec<_> = messages.iter().map(|one| message(settings, one, &call_ids)).collect();
    if let Some(schema) = schema {
        let after_instructions = messages.iter().take_while(|message| message.role == Role::System).count();
        let words = json!({"role": settings.system_role(), "content": in_words(schema)});
        list.insert(after_instructions, words);
    }
    Value::Array(list)
}

fn message(settings: &Settings, message: &Message, call_ids: &CallIds<'_>) -> Value {
    let text = message.content.as_deref().unwrap_or_default();
    match message.role {
        Role::System => json!({"role": settings.system_role(), "content": text}),
        Role::User => json!({"role": "user", "content": user_content(message, text)}),
        Role::Tool => {
            let id = message.tool_call_id.as_deref().unwrap_or_default();
            json!({"role": "tool", "tool_call_id": paired(call_ids, id), "content": text})
        }
        Role::Assistant => assistant(settings, message, text, call_ids),
    }
}

/// A turn of the model, with the extra fields that its server sent and wants back.
fn assistant(settings: &Settings, message: &Message, text: &str, call_ids: &CallIds<'_>) -> Value {
    let data = message.provider_data.as_ref().filter(|data| data["model"] == *settings.id);
    let kept = data.map_or(&Value::Null, |data| &data[KEPT]);
    let mut turn = Map::new();
    turn.extend(kept["fields"].as_object().cloned().unwrap_or_default());
    if let (Some(field), Some(thinking)) = (kept["reasoning"].as_str(), &message.reasoning_content) {
        turn.insert(field.to_owned(), json!(thinking));
    }
    turn.insert("role".to_owned(), json!("assistant"));
    // Next to calls, empty text is omitted: some servers refuse it.
    let is_silent = text.is_empty() && !message.tool_calls.is_empty();
    turn.insert("content".to_owned(), if is_silent { Value::Null } else { json!(text) });
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().enumerate().map(|(place, one)| {
            let id = paired(call_ids, &one.id);
            call(one, id, &kept["calls"][place])
        });
        turn.insert("tool_calls".to_owned(), calls.collect());
    }
    Value::Object(turn)
}

fn call(call: &ToolCall, id: &str, extra: &Value) -> Value {
    let mut fields = extra.as_object().cloned().unwrap_or_default();
    let function = json!({
        "name": replayable_name(&call.function.name),
        "arguments": replayable_arguments(&call.function.arguments),
    });
    fields.insert("id".to_owned(), json!(id));
    fields.insert("type".to_owned(), json!("function"));
    fields.insert("function".to_owned(), function);
    Value::Object(fields)
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

/// An answer, streamed or whole, assembled from its choices.
#[derive(Default)]
pub struct Pieces {
    model: String,
    id: Option<String>,
    system_fingerprint: Option<String>,
    saying: Saying,
    said: Said,
    calls: Calls,
    /// Calls have come in the field `tool_calls`.
    has_calls: bool,
    /// The index of the choice that is the answer.
    followed: Option<Value>,
    /// The field that plain thinking came in.
    reasoning_field: Option<&'static str>,
    /// Fields about thinking that the format does not name.
    fields: Map<String, Value>,
    end: Option<End>,
    /// Its raw name, when it is not a known one.
    end_name: String,
    usage: Usage,
}

impl Collector for Pieces {
    fn event(&mut self, _: &str, event: Value) -> Result<Vec<ModelDelta>, Refusal> {
        let was_named = self.id.is_some();
        self.head(&event)?;
        let begun = self.ids().filter(|_| !was_named && self.id.is_some()).map(ModelDelta::Begun);
        // The last event, with the usage, has no choice.
        let pieces = self.choice_of(&event).map(|choice| self.take(choice)).transpose()?.unwrap_or_default();
        Ok(begun.into_iter().chain(pieces).collect())
    }

    fn is_complete(&self) -> bool {
        // The usage comes after the finish reason, so the end is `[DONE]` or the end of the stream.
        false
    }

    fn finish(mut self, done: bool) -> Result<ModelResponse, Refusal> {
        let reason = match self.end {
            Some(End::Reason(reason)) => reason,
            None if done => FinishReason::Stop,
            Some(End::Unknown | End::Failed) | None => return Err(Refusal::Endless(self.end_name)),
        };
        let rest = self.saying.finish();
        self.say(rest);
        Ok(self.into_response(reason))
    }
}

impl Pieces {
    /// The server's id of this answer.
    fn ids(&self) -> Option<Value> {
        let mut ids = Map::new();
        ids.extend(self.id.as_ref().map(|id| ("id".to_owned(), json!(id))));
        ids.extend(self.system_fingerprint.as_ref().map(|print| ("system_fingerprint".to_owned(), json!(print))));
        (!ids.is_empty()).then_some(Value::Object(ids))
    }

    /// The choice that is the answer: of several, the first, or the one followed so far.
    fn choice_of<'a>(&mut self, body: &'a Value) -> Option<&'a Value> {
        let choices = body["choices"].as_array()?;
        let is_followed = |choice: &&Value| match &self.followed {
            Some(index) => choice["index"] == *index || choice["index"].is_null(),
            None => choice["index"] == 0,
        };
        let first = || choices.first().filter(|_| self.followed.is_none());
        let choice = choices.iter().find(is_followed).or_else(first)?;
        if self.followed.is_none() && !choice["index"].is_null() {
            self.followed = Some(choice["index"].clone());
        }
        Some(choice)
    }

    fn head(&mut self, body: &Value) -> Result<(), Refusal> {
        let choice = self.choice_of(body).unwrap_or(&Value::Null);
        if is_error(body, &["choices"]) && !choice["error"].is_object() {
            return Err(Refusal::Error(body.clone()));
        }
        let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        self.id = self.id.take().or_else(|| text("id"));
        self.system_fingerprint = self.system_fingerprint.take().or_else(|| text("system_fingerprint"));
        if body["usage"].is_object() {
            self.usage = usage(&body["usage"]);
        }
        self.end(choice)
    }

    /// Why the answer ended, if this says so.
    fn end(&mut self, choice: &Value) -> Result<(), Refusal> {
        let text = |name: &str| choice[name].as_str().unwrap_or_default();
        let (name, native) = (text("finish_reason"), text("native_finish_reason"));
        let end = finish::either(name, native);
        let error = &choice["error"];
        if end == Some(End::Failed) || error.is_object() || error.is_string() {
            let is_native = finish::named(native) == Some(End::Failed);
            let reason = if is_native || name.is_empty() { native } else { name };
            let beside = if error.is_null() { Value::Null } else { json!({ "error": error }) };
            let reason = if reason.is_empty() { "error" } else { reason };
            return Err(Refusal::Failed { reason: reason.to_owned(), beside });
        }
        if end.is_some() {
            self.end = end;
            self.end_name = if end == Some(End::Unknown) { name.to_owned() } else { String::new() };
        }
        Ok(())
    }

    /// Takes in the part of the answer that a choice holds.
    fn take(&mut self, choice: &Value) -> Result<Vec<ModelDelta>, Refusal> {
        // Some servers end a stream with the whole message.
        let is_whole = !choice["delta"].is_object() && choice["message"].is_object();
        let part = if is_whole { &choice["message"] } else { &choice["delta"] };
        let mut told = self.think(part, is_whole);
        let content = match Said::read(&part["content"]) {
            // A refusal is the model's own words too.
            said if said == Said::default() => Said::read(&part["refusal"]),
            said => said,
        };
        told.extend(if is_whole { self.say_whole(content) } else { self.say_piece(content) });
        let calls = self.pieces_of(part);
        let is_last = is_whole || self.end.is_some();
        let doubtful = |Doubt(what)| Refusal::Garbage(format!("a malformed answer: {what}"));
        self.calls.add(calls, is_last).map_err(doubtful)?;
        Ok(told)
    }

    /// The pieces of calls in a part of the message. `function_call` is how the format once wrote its only call; servers
    /// that write both mean the same.
    fn pieces_of(&mut self, part: &Value) -> Vec<Piece> {
        match (&part["tool_calls"], &part["function_call"]) {
            (Value::Array(pieces), _) if !pieces.is_empty() => {
                self.has_calls = true;
                pieces.iter().map(Piece::read).collect()
            }
            (piece @ Value::Object(_), _) => {
                self.has_calls = true;
                vec![Piece::read(piece)]
            }
            (_, call @ Value::Object(_)) if !self.has_calls => vec![Piece::read(&json!({ "function": call }))],
            _ => Vec::new(),
        }
    }

    fn think(&mut self, part: &Value, is_whole: bool) -> Vec<ModelDelta> {
        let plain = ["reasoning_content", "reasoning", "thinking"];
        let found = plain.into_iter().find_map(|name| {
            let said = Said::read(&part[name]);
            let text = said.text + &said.thinking;
            (!text.is_empty()).then_some((name, text))
        });
        for (name, value) in part.as_object().into_iter().flatten() {
            if goes_back(name) && !value.is_null() && !plain.contains(&name.as_str()) {
                merge(self.fields.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        let Some((name, text)) = found else { return Vec::new() };
        self.reasoning_field = Some(name);
        if is_whole && !self.said.thinking.is_empty() {
            return Vec::new();
        }
        self.say(Said { text: String::new(), thinking: text })
    }

    fn say_piece(&mut self, content: Said) -> Vec<ModelDelta> {
        let mut said = self.saying.push(&content.text);
        said.thinking.push_str(&content.thinking);
        self.say(said)
    }

    /// The content of a whole message: the part that was not streamed yet.
    fn say_whole(&mut self, content: Said) -> Vec<ModelDelta> {
        let mut said = told_apart(&content.text);
        said.thinking.push_str(&content.thinking);
        let rest = self.saying.finish();
        self.say(rest);
        let new = match said.text.strip_prefix(&*self.said.text) {
            Some(rest) => rest.to_owned(),
            None => String::new(),
        };
        let thinking = if self.said.thinking.is_empty() { said.thinking } else { String::new() };
        if !said.text.is_empty() {
            // It replaces what the pieces gave.
            self.said.text = said.text[..said.text.len() - new.len()].to_owned();
        }
        self.say(Said { text: new, thinking })
    }

    fn say(&mut self, said: Said) -> Vec<ModelDelta> {
        self.said.text.push_str(&said.text);
        self.said.thinking.push_str(&said.thinking);
        let thinking = Some(said.thinking).filter(|text| !text.is_empty()).map(ModelDelta::Reasoning);
        let text = Some(said.text).filter(|text| !text.is_empty()).map(ModelDelta::Content);
        thinking.into_iter().chain(text).collect()
    }

    fn into_response(self, reason: FinishReason) -> ModelResponse {
        let ids = self.ids();
        let whole = self.calls.finish(self.id.as_deref().unwrap_or_default());
        let said = without_lone_close(self.said);
        let mut kept = Map::new();
        if whole.extras.iter().any(|extra| !extra.is_empty()) {
            kept.insert("calls".to_owned(), json!(whole.extras));
        }
        // Next to calls the server wants back the thoughts that led to them; after an answer some refuse them.
        if let Some(field) = self.reasoning_field.filter(|_| !whole.calls.is_empty()) {
            kept.insert("reasoning".to_owned(), json!(field));
        }
        if !self.fields.is_empty() {
            kept.insert("fields".to_owned(), Value::Object(self.fields));
        }
        let has_calls = !whole.calls.is_empty();
        ModelResponse {
            content: Some(said.text).filter(|text| !text.is_empty() || !has_calls),
            reasoning_content: Some(said.thinking).filter(|text| !text.is_empty()),
            finish_reason: match reason {
                // Some servers say `stop` after tool calls.
                FinishReason::Stop if has_calls => FinishReason::ToolCalls,
                reason => reason,
            },
            usage: self.usage,
            model_provider_data: ids,
            provider_data: (!kept.is_empty()).then(|| json!({"model": self.model, KEPT: kept})),
            tool_calls: whole.calls,
            time_to_first_token: None,
            duration: None,
            cost: None,
        }
    }
}

/// Whether a field that the format does not name is about the message's thinking, and wanted back.
fn goes_back(name: &str) -> bool {
    ["reasoning", "think", "thought", "signature"].iter().any(|word| name.contains(word))
        || ["extra_content", "provider_specific_fields"].contains(&name)
}

/// Joins the pieces of one field.
fn merge(known: &mut Value, new: &Value) {
    match (known, new) {
        (_, Value::Null) => {}
        (Value::String(known), Value::String(new)) => known.push_str(new),
        (Value::Object(known), Value::Object(new)) => {
            for (name, value) in new {
                let known = known.entry(name.clone()).or_insert(Value::Null);
                // Anything but growing text is repeated whole, not continued.
                let grows = ["text", "summary", "data", "thinking", "content"].contains(&name.as_str());
                if known.is_string() && !grows { known.clone_from(value) } else { merge(known, value) }
            }
        }
        (Value::Array(known), Value::Array(new)) => {
            for value in new {
                let same = |known: &&mut Value| {
                    !value["index"].is_null() && known["index"] == value["index"] && known["type"] == value["type"]
                };
                match known.iter_mut().rev().find(same) {
                    Some(known) => merge(known, value),
                    None => known.push(value.clone()),
                }
            }
        }
        (known, new) => known.clone_from(new),
    }
}

fn usage(usage: &Value) -> Usage {
    let count = |pointer: &str| counted(usage, pointer);
    let (input_tokens, mut output_tokens) = (count("/prompt_tokens"), count("/completion_tokens"));
    let reasoning_tokens = count("/completion_tokens_details/reasoning_tokens");
    // Some servers count the reasoning apart from the answer.
    if reasoning_tokens > 0 && count("/total_tokens") == input_tokens + output_tokens + reasoning_tokens {
        output_tokens += reasoning_tokens;
    }
    let audio_input_tokens = count("/prompt_tokens_details/audio_tokens");
    let audio_output_tokens = count("/completion_tokens_details/audio_tokens");
    Usage {
        input_tokens,
        output_tokens,
        total_tokens: count("/total_tokens").max(input_tokens + output_tokens),
        reasoning_tokens,
        // The second is DeepSeek's.
        cache_read_tokens: count("/prompt_tokens_details/cached_tokens").max(count("/prompt_cache_hit_tokens")),
        cache_write_tokens: count("/prompt_tokens_details/cache_write_tokens"),
        audio_input_tokens,
        audio_output_tokens,
        audio_total_tokens: audio_input_tokens + audio_output_tokens,
    }
}
