//! An answer in the format of Anthropic's Messages endpoint, whole or as the events of a stream, also as servers that
//! speak almost like it.

use super::decide::Decision;
use super::quirk::Quirk;
use super::wire::{Draft, Written, pieces};
use serde_json::{Value, json};

/// The events of a stream, and whole blocks beside them.
struct Stream {
    events: Vec<Value>,
    content: Vec<Value>,
}

impl Stream {
    fn tell(&mut self, kind: &str, mut fields: Value) {
        fields["type"] = json!(kind);
        self.events.push(fields);
    }

    /// A block, from its beginning to its end.
    fn block(&mut self, begun: Value, deltas: Vec<Value>, whole: Value) {
        let index = self.content.len();
        self.tell("content_block_start", json!({"index": index, "content_block": begun}));
        for delta in deltas {
            self.tell("content_block_delta", json!({"index": index, "delta": delta}));
        }
        self.tell("content_block_stop", json!({"index": index}));
        self.content.push(whole);
    }

    fn thinking(&mut self, thought: &str) {
        self.block(
            json!({"type": "thinking", "thinking": "", "signature": ""}),
            vec![
                json!({"type": "thinking_delta", "thinking": thought}),
                json!({"type": "signature_delta", "signature": "signed-"}),
                json!({"type": "signature_delta", "signature": "thought"}),
            ],
            json!({"type": "thinking", "thinking": thought, "signature": "signed-thought"}),
        );
    }
}

impl Draft<'_> {
    pub(super) fn anthropic(&self) -> Written {
        let mut stream = self.begin();
        if let Some(thought) = self.thought {
            stream.thinking(thought);
        }
        match self.decision {
            Decision::Text(text) => stream.block(
                json!({"type": "text", "text": ""}),
                pieces(text, self.chunks).iter().map(|piece| json!({"type": "text_delta", "text": piece})).collect(),
                json!({"type": "text", "text": text}),
            ),
            Decision::Calls(calls) => {
                for (at, (name, arguments)) in calls.iter().enumerate() {
                    let call = |input: Value| json!({"type": "tool_use", "id": self.call_id(at), "name": name, "input": input});
                    let delta = |piece: &str| json!({"type": "input_json_delta", "partial_json": piece});
                    let written = pieces(&arguments.to_string(), 2);
                    let deltas = std::iter::once(delta("")).chain(written.iter().map(|piece| delta(piece)));
                    stream.block(call(json!({})), deltas.collect(), call(arguments.clone()));
                }
            }
        }
        let reason = match self.decision {
            Decision::Calls(_) => "tool_use",
            Decision::Text(_) if self.is_refusal => "refusal",
            Decision::Text(_) => "end_turn",
        };
        let whole = self.anthropic_message(&stream.content, Some(reason));
        self.end(&mut stream, reason);
        Written { whole, frames: stream.events.iter().map(frame).collect() }
    }

    fn call_id(&self, at: usize) -> String {
        format!("toolu_{:08}_{at}", self.number)
    }

    fn anthropic_message(&self, content: &[Value], stop_reason: Option<&str>) -> Value {
        let (input_tokens, output_tokens) = self.tokens();
        // A part of the prompt was read from a cache, another went into one.
        let usage = json!({
            "input_tokens": input_tokens, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5,
            "output_tokens": if stop_reason.is_some() { output_tokens } else { 1 },
        });
        json!({
            "id": format!("msg_{:08}", self.number), "type": "message", "role": "assistant", "content": content,
            "model": self.request["model"], "stop_reason": stop_reason, "stop_sequence": null, "usage": usage,
        })
    }

    fn begin(&self) -> Stream {
        let mut stream = Stream { events: Vec::new(), content: Vec::new() };
        stream.tell("message_start", json!({"message": self.anthropic_message(&[], None)}));
        stream.tell("ping", json!({}));
        stream
    }

    fn end(&self, stream: &mut Stream, reason: &str) {
        let delta = json!({"stop_reason": reason, "stop_sequence": null});
        stream.tell("message_delta", json!({"delta": delta, "usage": {"output_tokens": self.tokens().1}}));
        stream.tell("message_stop", json!({}));
    }
}

fn frame(event: &Value) -> String {
    format!("event: {}\ndata: {event}", event["type"].as_str().unwrap_or_default())
}

/// The events as a server with this quirk sends them; none for a quirk that this format has no room for.
pub(super) fn quirky(quirk: Quirk, draft: &Draft<'_>) -> Option<Vec<Value>> {
    let mut stream = draft.begin();
    let mut reason = "end_turn";
    match draft.decision {
        Decision::Text(_) => {
            let text = |piece: &Value| json!({"type": "text_delta", "text": piece});
            let said = quirk.pieces(draft);
            match quirk {
                Quirk::ThinkTags => return None,
                Quirk::Parts => {
                    let Decision::Text(whole) = draft.decision else { return None };
                    stream.thinking("Let me see.");
                    for half in pieces(whole, 2) {
                        stream.block(json!({"type": "text", "text": ""}), vec![text(&json!(half))], Value::Null);
                    }
                }
                Quirk::AllReasoning => {
                    let said: String = said.iter().filter_map(Value::as_str).collect();
                    stream.thinking(&said);
                }
                Quirk::TextAtTheEnd => {
                    let said: String = said.iter().filter_map(Value::as_str).collect();
                    stream.block(json!({"type": "text", "text": said}), Vec::new(), Value::Null);
                }
                _ => {
                    let some = if quirk == Quirk::EmptyReason || quirk == Quirk::ErrorEvent { 1 } else { said.len() };
                    let deltas = said.iter().take(some).map(text).collect();
                    stream.block(json!({"type": "text", "text": ""}), deltas, Value::Null);
                }
            }
        }
        Decision::Calls(calls) => {
            reason = "tool_use";
            if matches!(quirk, Quirk::ChangingIds) {
                return None;
            }
            if quirk == Quirk::Signed {
                stream.thinking("I must buy.");
            }
            for (at, (name, arguments)) in calls.iter().enumerate() {
                let lost = quirk == Quirk::LostArguments || quirk == Quirk::CutCall && at + 1 == calls.len();
                let mut begun = json!({"type": "tool_use", "id": draft.call_id(at), "name": name, "input": {}});
                match quirk {
                    Quirk::LostArguments => {
                        begun.as_object_mut().map(|begun| begun.remove("input"));
                    }
                    Quirk::ArgumentsAtTheEnd => begun["input"] = arguments.clone(),
                    _ => {}
                }
                let written = if lost || quirk == Quirk::ArgumentsAtTheEnd {
                    Vec::new()
                } else {
                    pieces(&arguments.to_string(), 2)
                };
                let deltas = written.iter().map(|piece| json!({"type": "input_json_delta", "partial_json": piece}));
                stream.block(begun, deltas.collect(), Value::Null);
            }
            if quirk == Quirk::RepeatedCalls {
                for (at, (name, arguments)) in calls.iter().enumerate() {
                    let begun = json!({"type": "tool_use", "id": draft.call_id(at), "name": name, "input": arguments});
                    stream.block(begun, Vec::new(), Value::Null);
                }
            }
        }
    }
    if quirk == Quirk::NamelessCall {
        stream.events.retain(|event| event["content_block"]["type"] != "tool_use");
    }
    if quirk == Quirk::OneIndex {
        stream.events.iter_mut().filter(|event| event["index"].is_u64()).for_each(|event| event["index"] = json!(0));
    }
    match quirk {
        Quirk::EmptyReason => return Some(stream.events),
        Quirk::ErrorEvent => {
            stream.tell("error", json!({"error": {"type": "api_error", "message": "CUDA out of memory"}}));
            return Some(stream.events);
        }
        Quirk::FailureBeside => {
            stream.tell("error", json!({"error": {"type": "api_error", "message": "network_error"}}));
            return Some(stream.events);
        }
        Quirk::FailureReason => reason = "network_error",
        Quirk::UnknownReason => reason = "banana",
        Quirk::Length | Quirk::CutCall => reason = "max_tokens",
        Quirk::ContentFilter => reason = "refusal",
        Quirk::Cancelled => reason = "cancelled",
        _ => {}
    }
    draft.end(&mut stream, reason);
    Some(stream.events)
}
