//! A page that speaks AG-UI: it insists on what AG-UI's client insists on, and has the messages and the state that it
//! would have.
//!
//! Written apart from what is tested, from the protocol's description. Ids of what is open decide what may come next.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What a page has heard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The conversation.
    pub messages: Vec<Value>,
    /// The state.
    pub state: Value,
    /// What has to be answered, once the run has finished so.
    pub interrupts: Vec<Value>,
    /// The run's result.
    pub result: Value,
    /// How the run ended: `success`, `interrupt`, `cancelled`, `error`, or nothing.
    pub end: Option<String>,
    has_begun: bool,
    open: BTreeSet<(&'static str, String)>,
    /// The subagents that ended since the run began.
    over: BTreeSet<String>,
    /// Whose the open things are: a subagent's, or the run's own.
    owners: BTreeMap<(&'static str, String), Value>,
}

impl Page {
    /// A page with this conversation.
    pub fn with(messages: Vec<Value>) -> Self {
        Self { messages, ..Self::default() }
    }

    /// Hears these events.
    ///
    /// # Errors
    /// As [`Page::hear`], with the event's place.
    pub fn hear_all<'a>(&mut self, events: impl IntoIterator<Item = &'a Value>) -> Result<(), String> {
        for (place, event) in events.into_iter().enumerate() {
            self.hear(event).map_err(|problem| format!("event {place}, {event}: {problem}"))?;
        }
        Ok(())
    }

    /// Hears an event.
    ///
    /// # Errors
    /// Why AG-UI's client would not take it.
    pub fn hear(&mut self, event: &Value) -> Result<(), String> {
        let kind = event["type"].as_str().ok_or("it has no type")?;
        let text = |name: &str| match &event[name] {
            Value::String(text) => Ok(text.clone()),
            other => Err(format!("{name} is {other}, no text")),
        };
        match kind {
            "RUN_ERROR" => {}
            "RUN_STARTED" if self.has_begun && self.end.is_none() => return Err("a run is under way".to_owned()),
            "RUN_STARTED" => {}
            _ if !self.has_begun => return Err("the first event is RUN_STARTED".to_owned()),
            _ if self.end.is_some() => return Err("the run is over".to_owned()),
            _ => {}
        }
        self.check_owner(kind, event)?;
        match kind {
            "RUN_STARTED" => {
                text("threadId")?;
                text("runId")?;
                (self.has_begun, self.end) = (true, None);
                self.open.clear();
                self.owners.clear();
                self.over.clear();
            }
            "RUN_FINISHED" => {
                text("threadId")?;
                text("runId")?;
                if let Some(open) = self.open.first() {
                    return Err(format!("{open:?} is open"));
                }
                self.result = event["result"].clone();
                self.interrupts = event["outcome"]["interrupts"].as_array().cloned().unwrap_or_default();
                let end = event["outcome"]["type"].as_str().unwrap_or("success");
                if end == "interrupt" && self.interrupts.is_empty() {
                    return Err("it interrupts for nothing".to_owned());
                }
                self.end = Some(end.to_owned());
            }
            "RUN_ERROR" => {
                text("message")?;
                (self.has_begun, self.end) = (true, Some("error".to_owned()));
            }
            "STEP_STARTED" => self.opens("step", text("stepName")?)?,
            "STEP_FINISHED" => self.closes("step", text("stepName")?)?,
            "TEXT_MESSAGE_START" => {
                let id = text("messageId")?;
                self.opens("message", id.clone())?;
                self.message(&id, "assistant", event);
            }
            "TEXT_MESSAGE_CONTENT" => self.grows("message", &text("messageId")?, &text("delta")?)?,
            "TEXT_MESSAGE_END" => self.closes("message", text("messageId")?)?,
            "REASONING_START" => self.opens("span", text("messageId")?)?,
            "REASONING_END" => self.closes("span", text("messageId")?)?,
            "REASONING_MESSAGE_START" => {
                let id = text("messageId")?;
                self.opens("reasoning", id.clone())?;
                self.message(&id, "reasoning", event);
            }
            "REASONING_MESSAGE_CONTENT" => self.grows("reasoning", &text("messageId")?, &text("delta")?)?,
            "REASONING_MESSAGE_END" => self.closes("reasoning", text("messageId")?)?,
            "TOOL_CALL_START" => {
                let id = text("toolCallId")?;
                self.opens("call", id.clone())?;
                self.call(&id, &text("toolCallName")?, event)?;
            }
            "TOOL_CALL_ARGS" => {
                let (id, delta) = (text("toolCallId")?, text("delta")?);
                self.is_open("call", &id)?;
                let calls = self.messages.iter_mut().filter_map(calls_of);
                let call = calls.flatten().find(|call| call["id"] == id).ok_or("no such call")?;
                let arguments = call["function"]["arguments"].as_str().unwrap_or_default().to_owned();
                call["function"]["arguments"] = json!(arguments + &delta);
            }
            "TOOL_CALL_END" => self.closes("call", text("toolCallId")?)?,
            "TOOL_CALL_RESULT" => {
                let (id, call, content) = (text("messageId")?, text("toolCallId")?, text("content")?);
                let message = json!({ "id": id, "role": "tool", "toolCallId": call, "content": content });
                self.messages.push(owned(message, event));
            }
            "STATE_SNAPSHOT" => self.state = event.get("snapshot").cloned().ok_or("it has no snapshot")?,
            "STATE_DELTA" => self.patch(event["delta"].as_array().ok_or("it has no delta")?)?,
            "MESSAGES_SNAPSHOT" => {
                let messages = event["messages"].as_array().ok_or("it has no messages")?;
                let fields = messages.iter().filter_map(Value::as_object).flat_map(|message| message.values());
                if fields.into_iter().any(Value::is_null) {
                    return Err("a message has a field that is null".to_owned());
                }
                self.replace(messages);
            }
            "SUBAGENT_STARTED" => {
                let (id, parent) = (text("subagentRunId")?, event.get("parentSubagentRunId").and_then(Value::as_str));
                text("name")?;
                if self.over.contains(&id) {
                    return Err(format!("subagent {id} has ended"));
                }
                if let Some(parent) = parent.filter(|parent| !self.over.contains(*parent)) {
                    self.is_open("subagent", parent)?;
                }
                self.opens("subagent", id)?;
            }
            "SUBAGENT_FINISHED" | "SUBAGENT_ERROR" => {
                let id = text("subagentRunId")?;
                match (kind, event["outcome"]["type"].as_str()) {
                    ("SUBAGENT_ERROR", _) => drop(text("message")?),
                    (_, None | Some("success" | "suspended")) => {}
                    (_, Some(other)) => return Err(format!("a subagent does not end as {other}")),
                }
                self.closes("subagent", id.clone())?;
                self.over.insert(id);
            }
            "CUSTOM" => {
                text("name")?;
                event.get("value").ok_or("it has no value")?;
            }
            other => return Err(format!("{other} is no event of AG-UI's")),
        }
        Ok(())
    }

    /// What the assistant has said, message by message.
    pub fn texts(&self) -> Vec<&str> {
        let of_assistant = self.messages.iter().filter(|message| message["role"] == "assistant");
        of_assistant.filter_map(|message| message["content"].as_str()).collect()
    }

    fn opens(&mut self, kind: &'static str, id: String) -> Result<(), String> {
        let is_new = self.open.insert((kind, id.clone()));
        if is_new { Ok(()) } else { Err(format!("{kind} {id} is open already")) }
    }

    fn is_open(&self, kind: &'static str, id: &str) -> Result<(), String> {
        let is_open = self.open.contains(&(kind, id.to_owned()));
        if is_open { Ok(()) } else { Err(format!("{kind} {id} is not open")) }
    }

    fn closes(&mut self, kind: &'static str, id: String) -> Result<(), String> {
        self.is_open(kind, &id)?;
        self.open.remove(&(kind, id));
        Ok(())
    }

    /// What belongs to a subagent belongs to one that has begun, and to it alone.
    fn check_owner(&mut self, kind: &str, event: &Value) -> Result<(), String> {
        if kind.starts_with("SUBAGENT_") || kind.starts_with("RUN_") {
            return Ok(());
        }
        let owner = event.get("subagentRunId").cloned().unwrap_or_default();
        if let Some(id) = owner.as_str().filter(|id| !self.over.contains(*id)) {
            self.is_open("subagent", id)?;
        }
        let (what, name) = match kind {
            _ if kind.starts_with("STEP_") => ("step", "stepName"),
            _ if kind.starts_with("TEXT_") => ("message", "messageId"),
            _ if kind.starts_with("REASONING_") => ("reasoning", "messageId"),
            _ if kind.starts_with("TOOL_CALL_") => ("call", "toolCallId"),
            _ => return Ok(()),
        };
        let id = event[name].as_str().unwrap_or_default().to_owned();
        let own = self.owners.entry((what, id)).or_insert_with(|| owner.clone());
        if kind == "STEP_STARTED" {
            own.clone_from(&owner);
        }
        if *own == owner { Ok(()) } else { Err(format!("it is {own}'s, and not {owner}'s")) }
    }

    fn message(&mut self, id: &str, role: &str, event: &Value) {
        if !self.messages.iter().any(|message| message["id"] == id) {
            let mut message = json!({ "id": id, "role": role, "content": "" });
            if let Some(name) = event.get("name") {
                message["name"] = name.clone();
            }
            self.messages.push(owned(message, event));
        }
    }

    fn grows(&mut self, kind: &'static str, id: &str, delta: &str) -> Result<(), String> {
        self.is_open(kind, id)?;
        let message = self.messages.iter_mut().find(|message| message["id"] == id).ok_or("no such message")?;
        let content = message["content"].as_str().unwrap_or_default().to_owned();
        message["content"] = json!(content + delta);
        Ok(())
    }

    fn call(&mut self, id: &str, name: &str, event: &Value) -> Result<(), String> {
        let call = json!({ "id": id, "type": "function", "function": { "name": name, "arguments": "" } });
        let parent = event["parentMessageId"].as_str().unwrap_or(id);
        match self.messages.iter_mut().find(|message| message["id"] == parent && message["role"] == "assistant") {
            Some(message) if message["subagentRunId"] != event["subagentRunId"] => {
                return Err("its message is somebody else's".to_owned());
            }
            Some(message) => match calls_of(message) {
                Some(calls) => calls.push(call),
                None => message["toolCalls"] = json!([call]),
            },
            None => {
                let message = json!({ "id": parent, "role": "assistant", "toolCalls": [call] });
                self.messages.push(owned(message, event));
            }
        }
        Ok(())
    }

    /// A snapshot takes the place of everything but reasoning, of which it may have none.
    fn replace(&mut self, snapshot: &[Value]) {
        let has_reasoning = snapshot.iter().any(|message| message["role"] == "reasoning");
        let in_snapshot = |id: &Value| snapshot.iter().find(|message| message["id"] == *id).cloned();
        let kept = self.messages.drain(..).filter_map(|message| {
            let is_own = message["role"] == "reasoning" && !has_reasoning;
            if is_own { Some(message) } else { in_snapshot(&message["id"]) }
        });
        let mut messages: Vec<Value> = kept.collect();
        for message in snapshot {
            if !messages.iter().any(|kept| kept["id"] == message["id"]) {
                messages.push(message.clone());
            }
        }
        self.messages = messages;
    }

    /// Of JSON Patch, what changes an object's own keys.
    fn patch(&mut self, operations: &[Value]) -> Result<(), String> {
        for operation in operations {
            let path = operation["path"].as_str().unwrap_or_default();
            let key = path.strip_prefix('/').ok_or("a path begins with a slash")?.replace("~1", "/").replace("~0", "~");
            let state = self.state.as_object_mut().ok_or("the state is no object")?;
            match operation["op"].as_str() {
                Some("remove") => drop(state.remove(&key).ok_or_else(|| format!("no {key} to remove"))?),
                Some("replace") if !state.contains_key(&key) => return Err(format!("no {key} to replace")),
                Some("add" | "replace") => drop(state.insert(key, operation["value"].clone())),
                _ => return Err(format!("{operation} is no operation")),
            }
        }
        Ok(())
    }
}

/// A message of the subagent whose event began it.
fn owned(mut message: Value, event: &Value) -> Value {
    if let Some(id) = event.get("subagentRunId") {
        message["subagentRunId"] = id.clone();
    }
    message
}

fn calls_of(message: &mut Value) -> Option<&mut Vec<Value>> {
    message.get_mut("toolCalls").and_then(Value::as_array_mut)
}
