//! An answer of the Messages endpoint, streamed or whole, assembled from its blocks.
//!
//! ```text
//! message_start ─► content_block_start ─► content_block_delta … ─► content_block_stop ─► message_delta ─► message_stop
//!                  └─────────────── for each block, by its index ──────────────┘        why it ended
//! ```
//! It must never know a request. Invariant: a block is kept as it came, so that its signature still fits.

use super::{ANSWER_FIELD, ANSWER_TOOL, KEPT, PAUSED, said};
use crate::model::wire::calls::{Calls, Doubt, Piece, text};
use crate::model::wire::finish::{self, End};
use crate::model::wire::turns::{counted, replayable_arguments, replayable_name};
use crate::model::wire::{Collector, Refusal, is_error};
use outlive_core::{FinishReason, ModelDelta, ModelResponse, ToolCall, Usage};
use serde_json::{Map, Value, json};

/// An answer in progress.
#[derive(Default)]
pub struct Blocks {
    model: String,
    id: Option<String>,
    blocks: Vec<Block>,
    calls: Calls,
    usage: Map<String, Value>,
    stop_reason: String,
    /// Nothing more will come.
    is_over: bool,
}

struct Block {
    index: u64,
    /// The index of the call that it is, which it has from another block where it only repeats that.
    call_index: u64,
    is_repetition: bool,
    value: Value,
    /// What its deltas gave of its input.
    input: String,
    is_stopped: bool,
}

impl Block {
    fn new(index: u64, value: Value) -> Self {
        Self { index, call_index: index, is_repetition: false, value, input: String::new(), is_stopped: false }
    }

    fn is_call(&self) -> bool {
        self.value["type"] == "tool_use"
    }
}

impl Collector for Blocks {
    fn event(&mut self, name: &str, mut event: Value) -> Result<Vec<ModelDelta>, Refusal> {
        let kind = event["type"].as_str().filter(|kind| !kind.is_empty()).unwrap_or(name).to_owned();
        if kind == "error" || is_error(&event, &["type", "message", "delta", "content_block"]) {
            return Err(Refusal::Error(event));
        }
        match kind.as_str() {
            "message_start" => Ok(self.begin(&event["message"])),
            "content_block_start" => self.open(index(&event), event["content_block"].take()),
            "content_block_delta" => self.add(index(&event), &event["delta"]),
            "content_block_stop" => self.stop(index(&event)).map(|()| Vec::new()),
            "message_delta" => {
                self.end(&event["delta"], &event["usage"]);
                Ok(Vec::new())
            }
            "message_stop" => {
                self.is_over = true;
                Ok(Vec::new())
            }
            // Pings, and events of another day.
            _ => Ok(Vec::new()),
        }
    }

    fn is_complete(&self) -> bool {
        self.is_over
    }

    fn finish(self, done: bool) -> Result<ModelResponse, Refusal> {
        if self.stop_reason == "pause_turn" {
            let model = self.model.clone();
            let mut part = self.into_response(FinishReason::Stop)?;
            // Its calls are answered first, which lets it go on as well.
            if part.tool_calls.is_empty() {
                let plain = || json!({"model": model, KEPT: Vec::from_iter(said(part.content.as_deref()))});
                let mut data = part.provider_data.take().unwrap_or_else(plain);
                data[PAUSED] = json!(true);
                part.provider_data = Some(data);
            }
            return Ok(part);
        }
        let reason = match finish::named(&self.stop_reason) {
            Some(End::Reason(reason)) => reason,
            Some(End::Failed) => return Err(Refusal::Failed { reason: self.stop_reason, beside: Value::Null }),
            None if done => FinishReason::Stop,
            Some(End::Unknown) | None => return Err(Refusal::Endless(self.stop_reason)),
        };
        self.into_response(reason)
    }
}

fn index(event: &Value) -> u64 {
    event["index"].as_u64().unwrap_or(0)
}

impl Blocks {
    pub(super) fn new(model: &str) -> Self {
        Self { model: model.to_owned(), ..Self::default() }
    }

    /// The answer that came whole.
    pub(super) fn whole(model: &str, mut message: Value) -> Result<ModelResponse, Refusal> {
        let mut blocks = Self::new(model);
        blocks.begin(&message);
        let content = message["content"].as_array_mut().map(std::mem::take).unwrap_or_default();
        for (index, block) in (0..).zip(content) {
            blocks.open(index, block)?;
            blocks.stop(index)?;
        }
        blocks.end(&message, &message["usage"]);
        blocks.finish(false)
    }

    fn begin(&mut self, message: &Value) -> Vec<ModelDelta> {
        self.id = message["id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
        self.end(&Value::Null, &message["usage"]);
        self.ids().map(ModelDelta::Begun).into_iter().collect()
    }

    fn ids(&self) -> Option<Value> {
        self.id.as_ref().map(|id| json!({ "id": id }))
    }

    /// Why it ended, and what it used so far: later counts replace earlier ones.
    fn end(&mut self, delta: &Value, usage: &Value) {
        if let Some(reason) = delta["stop_reason"].as_str() {
            reason.clone_into(&mut self.stop_reason);
        }
        let counts = usage.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        self.usage.extend(counts.map(|(name, value)| (name.clone(), value.clone())));
    }

    fn open(&mut self, index: u64, block: Value) -> Result<Vec<ModelDelta>, Refusal> {
        if !block.is_object() {
            return Err(Refusal::Garbage("a block of an answer that is not an object".to_owned()));
        }
        let is_same = |known: &&Block| {
            let is = |name: &str| block[name] != "" && known.value[name] == block[name];
            known.is_call() && is("id") && is("name") && block["id"].is_string()
        };
        let known = self.blocks.iter().find(is_same).filter(|_| block["type"] == "tool_use");
        let (call_index, is_repetition) = known.map_or((index, false), |known| (known.call_index, true));
        if block["type"] == "tool_use" && !is_repetition {
            let (id, name) = (text(&block["id"]), text(&block["name"]));
            self.take(Piece { index: Some(index), id, name, ..Piece::default() })?;
        }
        let said = |name: &str| text(&block[name]);
        let told = match block["type"].as_str() {
            Some("text") => vec![ModelDelta::Content(said("text"))],
            Some("thinking") => vec![ModelDelta::Reasoning(said("thinking"))],
            _ => Vec::new(),
        };
        self.blocks.push(Block { call_index, is_repetition, ..Block::new(index, block) });
        Ok(told)
    }

    fn add(&mut self, index: u64, delta: &Value) -> Result<Vec<ModelDelta>, Refusal> {
        let kind = delta["type"].as_str().unwrap_or_default();
        if kind == "input_json_delta" {
            return self.add_input(index, text(&delta["partial_json"]));
        }
        let block = match self.blocks.iter().rposition(|block| block.index == index) {
            Some(at) => &mut self.blocks[at],
            None => {
                // Its beginning was lost, and nothing with it.
                let kind = kind.strip_suffix("_delta").unwrap_or(kind);
                let value = json!({ "type": if kind == "signature" { "thinking" } else { kind } });
                self.blocks.push(Block::new(index, value));
                let last = self.blocks.len() - 1;
                &mut self.blocks[last]
            }
        };
        for (name, value) in delta.as_object().into_iter().flatten().filter(|(name, _)| *name != "type") {
            match (name.as_str(), value) {
                ("citation", citation) => match &mut block.value["citations"] {
                    Value::Array(citations) => citations.push(citation.clone()),
                    none => *none = json!([citation]),
                },
                (_, Value::String(more)) => {
                    let known = block.value[name].as_str().unwrap_or_default();
                    block.value[name] = json!(format!("{known}{more}"));
                }
                _ => block.value[name] = value.clone(),
            }
        }
        Ok(match kind {
            "text_delta" => vec![ModelDelta::Content(text(&delta["text"]))],
            "thinking_delta" => vec![ModelDelta::Reasoning(text(&delta["thinking"]))],
            _ => Vec::new(),
        })
    }

    fn add_input(&mut self, index: u64, piece: String) -> Result<Vec<ModelDelta>, Refusal> {
        let block = self.blocks.iter_mut().rev().find(|block| block.index == index);
        match block {
            // What the provider's own tools were called with.
            Some(block) if !block.is_call() => block.input.push_str(&piece),
            Some(block) => {
                block.input.push_str(&piece);
                let index = Some(block.call_index);
                self.take(Piece { index, arguments: piece, ..Piece::default() })?;
            }
            None if piece.trim().is_empty() => {}
            None => return Err(doubtful(Doubt("arguments of a tool call that was never begun".to_owned()))),
        }
        Ok(Vec::new())
    }

    /// A block is over: without deltas, its input is the one that it began with.
    fn stop(&mut self, index: u64) -> Result<(), Refusal> {
        let block = self.blocks.iter_mut().rev().find(|block| block.index == index);
        let Some(block) = block.filter(|block| !block.is_stopped) else { return Ok(()) };
        block.is_stopped = true;
        if block.is_call() && block.input.trim().is_empty() && block.value["input"].is_object() {
            let (id, arguments) = (text(&block.value["id"]), block.value["input"].to_string());
            block.input.clone_from(&arguments);
            let index = Some(block.call_index);
            return self.take(Piece { index, id, arguments, ..Piece::default() });
        }
        Ok(())
    }

    fn take(&mut self, piece: Piece) -> Result<(), Refusal> {
        self.calls.add(vec![piece], false).map_err(doubtful)
    }

    fn into_response(self, reason: FinishReason) -> Result<ModelResponse, Refusal> {
        let ids = self.ids();
        let usage = usage(&Value::Object(self.usage));
        let mut calls = self.calls.finish(self.id.as_deref().unwrap_or_default()).calls;
        if reason.is_cut() {
            // The input that a call begins with is not what the model was about to write.
            let last = self.blocks.last().filter(|block| block.is_call() && block.input.trim() == "{}");
            if let Some(call) = calls.last_mut().filter(|_| last.is_some()) {
                call.function.arguments.clear();
            }
        }
        let said = |kind: &str, name: &str, between: &str| {
            let blocks = self.blocks.iter().filter(|block| block.value["type"] == *kind);
            let texts: Vec<_> = blocks.map(|block| text(&block.value[name])).filter(|text| !text.is_empty()).collect();
            texts.join(between)
        };
        let (mut content, thinking) = (said("text", "text", ""), said("thinking", "thinking", "\n\n"));
        let is_answer = |call: &ToolCall| call.function.name == ANSWER_TOOL;
        let answered = calls.iter().find(|call| is_answer(call)).map(|call| answer_in(&call.function.arguments));
        let is_answered = answered.is_some();
        let provider_data = (!is_answered).then(|| kept(self.blocks, &calls)).flatten();
        if let Some(answer) = answered {
            calls.retain(|call| !is_answer(call));
            content = answer;
        }
        let has_calls = !calls.is_empty();
        Ok(ModelResponse {
            content: Some(content).filter(|text| !text.is_empty() || !has_calls),
            reasoning_content: Some(thinking).filter(|text| !text.is_empty()),
            finish_reason: match reason {
                FinishReason::Stop | FinishReason::ToolCalls if has_calls => FinishReason::ToolCalls,
                FinishReason::ToolCalls if is_answered => FinishReason::Stop,
                reason => reason,
            },
            usage,
            model_provider_data: ids,
            provider_data: provider_data.map(|blocks| json!({"model": self.model, KEPT: blocks})),
            tool_calls: calls,
            time_to_first_token: None,
            duration: None,
            cost: None,
        })
    }
}

fn doubtful(Doubt(what): Doubt) -> Refusal {
    Refusal::Garbage(format!("a malformed answer: {what}"))
}

/// The answer that a call of the tool for answers holds.
fn answer_in(arguments: &str) -> String {
    match outlive_core::json::read::<Map<String, Value>>(arguments) {
        Ok(mut fields) if fields.len() == 1 && fields.contains_key(ANSWER_FIELD) => {
            fields.remove(ANSWER_FIELD).unwrap_or_default().to_string()
        }
        _ => arguments.to_owned(),
    }
}

/// The blocks as they go back, where text and calls do not tell them whole.
fn kept(blocks: Vec<Block>, calls: &[ToolCall]) -> Option<Vec<Value>> {
    let says_more = |block: &Block| match block.value["type"].as_str() {
        Some("text") => !block.value["citations"].is_null(),
        Some(kind) => kind != "tool_use",
        None => false,
    };
    if !blocks.iter().any(says_more) {
        return None;
    }
    let mut calls = calls.iter();
    let mut kept = Vec::new();
    for mut block in blocks.into_iter().filter(|block| !block.is_repetition) {
        match block.value["type"].as_str() {
            // The endpoint refuses blank text.
            Some("text") if text(&block.value["text"]).trim().is_empty() => continue,
            Some("tool_use") => {
                let call = calls.next().filter(|call| block.value["name"] == *call.function.name)?;
                block.value["id"] = json!(call.id);
                block.value["name"] = json!(replayable_name(&call.function.name));
                block.value["input"] = object(&call.function.arguments);
            }
            Some(_) if !block.input.trim().is_empty() => block.value["input"] = object(&block.input),
            Some(_) => {}
            None => continue,
        }
        if let Value::Object(fields) = &mut block.value {
            fields.retain(|_, value| !value.is_null());
        }
        kept.push(block.value);
    }
    calls.next().is_none().then_some(kept)
}

fn object(arguments: &str) -> Value {
    serde_json::from_str(replayable_arguments(arguments)).unwrap_or_default()
}

/// What was read of the prompt and what came from a cache or went into one are counted apart.
fn usage(usage: &Value) -> Usage {
    let (cache_read_tokens, cache_write_tokens) =
        (counted(usage, "/cache_read_input_tokens"), counted(usage, "/cache_creation_input_tokens"));
    let input_tokens = counted(usage, "/input_tokens") + cache_read_tokens + cache_write_tokens;
    let output_tokens = counted(usage, "/output_tokens");
    Usage {
        input_tokens,
        output_tokens,
        total_tokens: input_tokens + output_tokens,
        reasoning_tokens: counted(usage, "/output_tokens_details/thinking_tokens"),
        cache_read_tokens,
        cache_write_tokens,
        ..Usage::default()
    }
}
