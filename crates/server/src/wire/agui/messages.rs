//! The messages that a page has after it was told events: the same fold as AG-UI's client makes.
//!
//! It must never know a run. The invariant: a snapshot of what was told, and then the rest, come to the same as all of
//! it.

use super::Event;
use serde_json::{Value, json};

/// Messages in the order in which they began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Messages(Vec<Value>);

impl Messages {
    /// These, to begin with.
    pub fn of(messages: Vec<Value>) -> Self {
        Self(messages)
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<Value> {
        self.0
    }

    /// An event was told.
    pub fn hear(&mut self, event: &Event) {
        let body = &event.body;
        let id = body["messageId"].as_str().unwrap_or_default();
        match event.kind() {
            "TEXT_MESSAGE_START" if self.find(id).is_none() => {
                let mut message = json!({ "id": id, "role": body["role"], "content": "" });
                if let Some(name) = body.get("name") {
                    message["name"] = name.clone();
                }
                self.0.push(by(body, message));
            }
            "REASONING_MESSAGE_START" if self.find(id).is_none() => {
                self.0.push(by(body, json!({ "id": id, "role": "reasoning", "content": "" })));
            }
            "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT" => {
                if let Some(message) = self.find(id) {
                    append(&mut message["content"], body["delta"].as_str().unwrap_or_default());
                }
            }
            "TEXT_MESSAGE_END" | "REASONING_MESSAGE_END" if is_dropped(body) => {
                self.0.retain(|message| message["id"] != id);
            }
            "TOOL_CALL_START" => self.call(body),
            "TOOL_CALL_ARGS" => {
                let calls = self.0.iter_mut().filter_map(calls_of).flatten();
                if let Some(call) = calls.into_iter().find(|call| call["id"] == body["toolCallId"]) {
                    append(&mut call["function"]["arguments"], body["delta"].as_str().unwrap_or_default());
                }
            }
            "TOOL_CALL_RESULT" => {
                let message = json!({
                    "id": id, "role": "tool", "toolCallId": body["toolCallId"], "content": body["content"],
                });
                self.0.push(by(body, message));
            }
            _ => {}
        }
    }

    fn find(&mut self, id: &str) -> Option<&mut Value> {
        self.0.iter_mut().find(|message| message["id"] == id)
    }

    /// A call stands with the message that it names; where there is none of that name, one begins.
    fn call(&mut self, body: &Value) {
        let call = json!({
            "id": body["toolCallId"],
            "type": "function",
            "function": { "name": body["toolCallName"], "arguments": "" },
        });
        let id = body["parentMessageId"].as_str().unwrap_or_default();
        match self.find(id) {
            Some(message) => match calls_of(message) {
                Some(calls) => calls.push(call),
                None => message["toolCalls"] = json!([call]),
            },
            None => self.0.push(by(body, json!({ "id": id, "role": "assistant", "toolCalls": [call] }))),
        }
    }
}

/// A message of the subagent whose event began it.
fn by(event: &Value, mut message: Value) -> Value {
    if let Some(id) = event.get("subagentRunId") {
        message["subagentRunId"] = id.clone();
    }
    message
}

fn calls_of(message: &mut Value) -> Option<&mut Vec<Value>> {
    message.get_mut("toolCalls").and_then(Value::as_array_mut)
}

/// Whether a message ended because its text did not count: the process that said it died.
fn is_dropped(body: &Value) -> bool {
    body["metadata"]["outlive"]["dropped"] == true
}

fn append(text: &mut Value, delta: &str) {
    match text {
        Value::String(text) => text.push_str(delta),
        text => *text = Value::from(delta),
    }
}
