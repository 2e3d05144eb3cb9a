//! An answer in OpenAI's wire formats, whole or as the events of a stream; in those of others:
//! [`super::anthropic`] and [`super::gemini`].

use super::decide::Decision;
use serde_json::{Value, json};

/// Which endpoint was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Responses,
    Chat,
    Anthropic,
    Gemini,
}

/// One answer in every form.
pub(super) struct Written {
    pub(super) whole: Value,
    /// The frames of the stream, without the blank line that ends each.
    pub(super) frames: Vec<String>,
}

/// What an answer is made from.
pub(super) struct Draft<'a> {
    pub(super) request: &'a Value,
    pub(super) decision: &'a Decision,
    /// Ids are made from it. It depends on the request alone: the same request always gets the same answer.
    pub(super) number: u64,
    /// Pieces of a streamed text.
    pub(super) chunks: usize,
    /// What it thinks first.
    pub(super) thought: Option<&'a str>,
    /// Its text is a refusal.
    pub(super) is_refusal: bool,
}

impl Draft<'_> {
    pub(super) fn write(&self, format: Format) -> Written {
        match format {
            Format::Responses => self.responses(),
            Format::Chat => self.chat(),
            Format::Anthropic => self.anthropic(),
            Format::Gemini => self.gemini(),
        }
    }

    /// Tokens of the prompt and of the answer.
    pub(super) fn tokens(&self) -> (usize, usize) {
        let answer = match self.decision {
            Decision::Text(text) => text.len(),
            Decision::Calls(calls) => {
                calls.iter().map(|(name, arguments)| name.len() + arguments.to_string().len()).sum()
            }
        };
        (self.request.to_string().len() / 4 + 1, answer / 4 + 1)
    }

    fn responses(&self) -> Written {
        let mut events = Events::default();
        events.tell("response.created", json!({"response": self.response("in_progress", &[])}));
        events.tell("response.in_progress", json!({"response": self.response("in_progress", &[])}));
        let mut output: Vec<_> =
            self.thought.map(|thought| Self::reasoning(thought, &mut events)).into_iter().collect();
        let first = output.len();
        match self.decision {
            Decision::Text(text) => output.push(self.message(first, text, &mut events)),
            Decision::Calls(calls) => {
                output.extend(calls.iter().enumerate().map(|(at, call)| self.call(first + at, call, &mut events)));
            }
        }
        let whole = self.response("completed", &output);
        events.tell("response.completed", json!({"response": whole}));
        Written { whole, frames: events.frames }
    }

    fn response(&self, status: &str, output: &[Value]) -> Value {
        let (input_tokens, output_tokens) = self.tokens();
        let usage = json!({
            "input_tokens": input_tokens, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output_tokens, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens,
        });
        json!({
            "id": format!("resp_{:08}", self.number), "object": "response", "created_at": 1_700_000_000, "status": status,
            "background": false, "error": null, "incomplete_details": null, "instructions": null,
            "max_output_tokens": null, "model": self.request["model"], "output": output, "parallel_tool_calls": true,
            "previous_response_id": null, "reasoning": {"effort": null, "summary": null}, "store": false,
            "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto",
            "tools": self.request.get("tools").cloned().unwrap_or(json!([])), "top_p": 1.0, "truncation": "disabled",
            "usage": if status == "completed" { usage } else { Value::Null }, "user": null, "metadata": {},
        })
    }

    fn reasoning(thought: &str, events: &mut Events) -> Value {
        let place = json!({"item_id": "rs_1", "output_index": 0, "summary_index": 0, "delta": thought});
        let item = json!({
            "id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": thought}],
            "encrypted_content": "signed-thought",
        });
        let begun = json!({"id": "rs_1", "type": "reasoning", "summary": []});
        events.tell("response.output_item.added", json!({"output_index": 0, "item": begun}));
        events.tell("response.reasoning_summary_text.delta", place);
        events.tell("response.output_item.done", json!({"output_index": 0, "item": item}));
        item
    }

    fn message(&self, at: usize, text: &str, events: &mut Events) -> Value {
        let id = format!("msg_{:08}", self.number);
        let part = |text: &str| match self.is_refusal {
            true => json!({"type": "refusal", "refusal": text}),
            false => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
        };
        let item = |status: &str, content: Value| json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content});
        let place = json!({"item_id": id, "output_index": at, "content_index": 0});
        let with = |name: &str, value: Value| {
            let mut fields = place.clone();
            fields[name] = value;
            fields
        };
        events.tell("response.output_item.added", json!({"output_index": at, "item": item("in_progress", json!([]))}));
        events.tell("response.content_part.added", with("part", part("")));
        let (kind, field) = if self.is_refusal { ("refusal", "refusal") } else { ("output_text", "text") };
        for piece in pieces(text, self.chunks) {
            events.tell(&format!("response.{kind}.delta"), with("delta", json!(piece)));
        }
        events.tell(&format!("response.{kind}.done"), with(field, json!(text)));
        events.tell("response.content_part.done", with("part", part(text)));
        let whole = item("completed", json!([part(text)]));
        events.tell("response.output_item.done", json!({"output_index": at, "item": whole}));
        whole
    }

    fn call(&self, at: usize, (name, arguments): &(String, Value), events: &mut Events) -> Value {
        let id = format!("fc_{:08}_{at}", self.number);
        let arguments = arguments.to_string();
        let item = |status: &str, arguments: &str| {
            let call_id = format!("call_{:08}_{at}", self.number);
            json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name,
                "arguments": arguments,
            })
        };
        events.tell("response.output_item.added", json!({"output_index": at, "item": item("in_progress", "")}));
        for piece in pieces(&arguments, 2) {
            let delta = json!({"item_id": id, "output_index": at, "delta": piece});
            events.tell("response.function_call_arguments.delta", delta);
        }
        let done = json!({"item_id": id, "output_index": at, "name": name, "arguments": arguments});
        events.tell("response.function_call_arguments.done", done);
        let whole = item("completed", &arguments);
        events.tell("response.output_item.done", json!({"output_index": at, "item": whole}));
        whole
    }

    fn chat(&self) -> Written {
        let (input_tokens, output_tokens) = self.tokens();
        let usage = json!({
            "prompt_tokens": input_tokens, "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        });
        let wants_usage = self.request["stream_options"]["include_usage"] == true;
        // Mistral counts without being asked, in the event with the end.
        let is_mistral = self.request["model"].as_str().is_some_and(|model| model.starts_with("mistral"));
        let body = |object: &str, choices: Value| {
            json!({
                "id": format!("chatcmpl-{:08}", self.number), "object": object, "created": 1_700_000_000,
                "model": self.request["model"], "service_tier": "default", "system_fingerprint": "fp_test",
                "choices": choices,
            })
        };
        let mut frames = Vec::new();
        let mut tell = |delta: Value, finish: Option<&str>| {
            let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
            let mut chunk = body("chat.completion.chunk", json!([choice]));
            if is_mistral && finish.is_some() {
                chunk["usage"] = usage.clone();
            } else if wants_usage {
                chunk["usage"] = Value::Null;
            }
            frames.push(format!("data: {chunk}"));
        };
        let (message, finish) = match self.decision {
            Decision::Text(text) => {
                tell(json!({"role": "assistant", "content": "", "refusal": null}), None);
                self.thought.iter().for_each(|thought| tell(json!({"reasoning_content": thought}), None));
                let field = if self.is_refusal { "refusal" } else { "content" };
                pieces(text, self.chunks).iter().for_each(|piece| tell(json!({ field: piece }), None));
                let mut message = json!({"role": "assistant", "content": null, "refusal": null, "annotations": []});
                message[field] = json!(text);
                (message, "stop")
            }
            Decision::Calls(calls) => {
                tell(json!({"role": "assistant", "content": null, "refusal": null}), None);
                self.thought.iter().for_each(|thought| tell(json!({"reasoning_content": thought}), None));
                let calls: Vec<_> =
                    calls.iter().enumerate().map(|(at, call)| self.chat_call(at, call, &mut tell)).collect();
                let message = json!({
                    "role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": calls,
                });
                (message, "tool_calls")
            }
        };
        tell(json!({}), Some(finish));
        if wants_usage {
            let mut last = body("chat.completion.chunk", json!([]));
            last["usage"] = usage.clone();
            frames.push(format!("data: {last}"));
        }
        frames.push("data: [DONE]".to_owned());
        let mut message = message;
        if let Some(thought) = self.thought {
            message["reasoning_content"] = json!(thought);
        }
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish});
        let mut whole = body("chat.completion", json!([choice]));
        whole["usage"] = usage;
        Written { whole, frames }
    }

    fn chat_call(
        &self,
        at: usize,
        (name, arguments): &(String, Value),
        tell: &mut impl FnMut(Value, Option<&str>),
    ) -> Value {
        let (id, arguments) = (format!("call_{:08}_{at}", self.number), arguments.to_string());
        let call =
            |arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let mut first = call("");
        first["index"] = json!(at);
        tell(json!({"tool_calls": [first]}), None);
        for piece in pieces(&arguments, 2) {
            tell(json!({"tool_calls": [{"index": at, "function": {"arguments": piece}}]}), None);
        }
        call(&arguments)
    }
}

/// The frames of a Responses stream, numbered.
#[derive(Default)]
struct Events {
    frames: Vec<String>,
}

impl Events {
    fn tell(&mut self, kind: &str, mut fields: Value) {
        fields["type"] = json!(kind);
        fields["sequence_number"] = json!(self.frames.len());
        self.frames.push(format!("event: {kind}\ndata: {fields}"));
    }
}

/// The frame by which a stream says that it has failed.
pub(super) fn error_frame(format: Format) -> String {
    match format {
        Format::Responses => {
            let error =
                json!({"type": "error", "code": "server_error", "message": "scripted stream failure", "param": null});
            format!("event: error\ndata: {error}")
        }
        Format::Chat => {
            let error =
                json!({"message": "scripted stream failure", "type": "server_error", "param": null, "code": null});
            format!("data: {}", json!({"error": error}))
        }
        Format::Anthropic => {
            let body = error_body(format, 529, None, "scripted stream failure");
            format!("event: error\ndata: {body}")
        }
        Format::Gemini => format!("data: {}", error_body(format, 503, None, "scripted stream failure")),
    }
}

/// An error body.
pub(super) fn error_body(format: Format, status: u16, code: Option<&str>, message: &str) -> Value {
    let is_context = code == Some("context_length_exceeded");
    match format {
        Format::Responses | Format::Chat => {
            let (kind, usual_code) = match status {
                401 => ("invalid_request_error", Some("invalid_api_key")),
                429 => ("requests", Some("rate_limit_exceeded")),
                400..500 => ("invalid_request_error", None),
                _ => ("server_error", None),
            };
            json!({"error": {"message": message, "type": kind, "param": null, "code": code.or(usual_code)}})
        }
        Format::Anthropic => {
            let kind = match status {
                401 => "authentication_error",
                403 => "permission_error",
                404 => "not_found_error",
                413 => "request_too_large",
                429 => "rate_limit_error",
                400..500 => "invalid_request_error",
                529 => "overloaded_error",
                _ => "api_error",
            };
            let message = if is_context { "prompt is too long: 210000 tokens > 200000 maximum" } else { message };
            json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_test"})
        }
        Format::Gemini => {
            let name = match status {
                401 => "UNAUTHENTICATED",
                403 => "PERMISSION_DENIED",
                404 => "NOT_FOUND",
                429 => "RESOURCE_EXHAUSTED",
                400..500 => "INVALID_ARGUMENT",
                503 => "UNAVAILABLE",
                _ => "INTERNAL",
            };
            let context = "The input token count (1300000) exceeds the maximum number of tokens allowed (1048576).";
            let message = if is_context { context } else { message };
            json!({"error": {"code": status, "message": message, "status": name}})
        }
    }
}

pub(super) fn pieces(text: &str, count: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let size = characters.len().div_ceil(count.max(1)).max(1);
    characters.chunks(size).map(|piece| piece.iter().collect()).collect()
}
