//! `RunAgentInput`, the body of a request.
//!
//! It must never know a run. The invariant: everything in a request is used, or refused by its name.

use super::{BACKGROUND, Place};
use crate::problem::Problem;
use crate::wire::media::{FIELDS, Gathered};
use outlive_core::Attachments;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// AG-UI's request: a message to a thread, answers to what a run there has asked, or the wish to follow a run.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunAgentInput {
    /// The conversation: the session.
    #[serde(alias = "thread_id")]
    pub thread_id: String,
    /// The run's id, which the client chooses. A request with the id of a run that exists follows it.
    #[serde(alias = "run_id")]
    pub run_id: String,
    /// The version of the protocol that the client speaks, from 1.0 on.
    #[serde(default, alias = "protocol_version")]
    pub protocol_version: Option<String>,
    /// The session's state: an object, laid over what is stored when the run begins. Without one, streams tell nothing
    /// of the state.
    #[serde(default)]
    pub state: Option<Value>,
    /// The conversation as the client knows it. The last message is what is said: a user's, or results of tools that
    /// run at the client. Without any, the thread's newest run is followed.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// Tools that run at the client. The agent must have each of them as a tool that runs elsewhere.
    #[serde(default)]
    pub tools: Vec<ClientTool>,
    /// What the client knows, by description: the run's dependencies.
    #[serde(default)]
    pub context: Vec<Context>,
    /// Further data: `agnoBackground` says where a stream goes on, `user_id` whose run it is, and the rest is the run's
    /// additional data.
    #[serde(default, alias = "forwarded_props")]
    pub forwarded_props: Option<Value>,
    /// Answers to all that a run has asked.
    #[serde(default)]
    pub resume: Option<Vec<ResumeEntry>>,
}

/// A message of a conversation.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its id.
    #[serde(default)]
    pub id: String,
    /// `user`, `assistant`, `tool`, `system`, `developer`, `reasoning` or `activity`.
    pub role: String,
    /// A text, or a user's texts and media.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// Results of tools: the call.
    #[serde(default, alias = "tool_call_id", skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Results of tools: why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whatever else it has.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A tool at the client.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct ClientTool {
    /// Its name.
    pub name: String,
}

/// Something that the client knows.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Context {
    /// What it is.
    #[serde(default)]
    pub description: String,
    /// Its value; JSON in a text is read.
    #[serde(default)]
    pub value: Value,
}

/// An answer to an interrupt.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResumeEntry {
    /// The interrupt's id: the question's.
    #[serde(alias = "interrupt_id")]
    pub interrupt_id: String,
    /// Whether it was answered, or given up.
    pub status: ResumeStatus,
    /// The answer, as the interrupt's `responseSchema` says, or as `/api/questions` takes it.
    #[serde(default)]
    pub payload: Value,
}

/// What became of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResumeStatus {
    /// It was answered.
    Resolved,
    /// It was given up: a no.
    Cancelled,
}

/// What a request says last.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A message for a new run.
    Message {
        /// Its text.
        text: String,
        /// Its media.
        attachments: Box<Attachments>,
    },
    /// Results of calls that ran at the client: the call, its result, and whether that is an error.
    Results(Vec<(String, String, bool)>),
    /// Nothing.
    Nothing,
}

impl RunAgentInput {
    /// Where to go on, as `forwardedProps` says.
    ///
    /// # Errors
    /// 422 when it is no place.
    pub fn cursor(&self) -> Result<Option<Place>, Problem> {
        let Some(marker) = self.background().and_then(Value::as_object) else { return Ok(None) };
        let Some(index) = marker.get("lastEventIndex").filter(|index| !index.is_null()) else { return Ok(None) };
        let part = marker.get("lastSubIndex").map_or(Some(0), Value::as_u64);
        match (index.as_i64().filter(|index| *index >= -1), part) {
            (Some(index), Some(part)) => Ok(Some(Place { index, part })),
            _ => Err(wrong("forwardedProps", "agnoBackground should have the place of an event that was received")),
        }
    }

    /// Whether events are to carry their places.
    pub fn wants_places(&self) -> bool {
        match self.background() {
            Some(Value::Bool(wanted)) => *wanted,
            Some(Value::Object(marker)) => marker.get("enabled") != Some(&Value::Bool(false)),
            _ => false,
        }
    }

    fn background(&self) -> Option<&Value> {
        self.forwarded_props.as_ref()?.get(BACKGROUND)
    }

    /// The user that the request names.
    ///
    /// # Errors
    /// 422 when it is no text.
    pub fn user_id(&self) -> Result<Option<String>, Problem> {
        match self.forwarded_props.as_ref().and_then(|props| props.get("user_id")) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(user_id)) => Ok(Some(user_id.clone())),
            Some(_) => Err(wrong("forwardedProps", "user_id should be a string")),
        }
    }

    /// The state, where the client keeps one.
    ///
    /// # Errors
    /// 422 when it is no object.
    pub fn state(&self) -> Result<Option<Map<String, Value>>, Problem> {
        match &self.state {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(state)) => Ok(Some(state.clone())),
            Some(_) => Err(wrong("state", "Input should be an object")),
        }
    }

    /// What is said last. Of several user messages in a row, the last.
    ///
    /// # Errors
    /// 422 when a message cannot be read, or when the last one is nobody's who could say something.
    pub fn said(&self) -> Result<Said, Problem> {
        let results = self.messages.iter().rev().take_while(|message| message.role == "tool");
        let mut results: Vec<_> = results.map(result).collect::<Result<_, _>>()?;
        results.reverse();
        if !results.is_empty() {
            return Ok(Said::Results(results));
        }
        match self.messages.iter().rfind(|message| message.role != "activity") {
            None => Ok(Said::Nothing),
            Some(message) if message.role == "user" => {
                let (text, attachments) = self.content(message)?;
                Ok(Said::Message { text, attachments: Box::new(attachments) })
            }
            Some(_) => Ok(Said::Nothing),
        }
    }

    fn content(&self, message: &Message) -> Result<(String, Attachments), Problem> {
        let (mut texts, mut media) = (Vec::new(), Gathered::default());
        match &message.content {
            Some(Value::String(text)) => texts.push(text.clone()),
            Some(Value::Array(parts)) => {
                for part in parts {
                    match part["type"].as_str() {
                        Some("text") => match part["text"].as_str() {
                            Some(text) => texts.push(text.to_owned()),
                            None => return Err(wrong("messages", "a text of the last message is not text")),
                        },
                        Some("image" | "audio" | "video" | "document" | "binary") => attach(&mut media, part)?,
                        _ => return Err(wrong("messages", "a part of the last message has no type that is known")),
                    }
                }
            }
            _ => return Err(wrong("messages", "the last message has no content")),
        }
        let attachments = Attachments {
            additional_data: self.additional_data(),
            dependencies: self.dependencies().map(Box::new),
            ..media.into_attachments()
        };
        Ok((texts.join("\n"), attachments))
    }

    fn dependencies(&self) -> Option<Map<String, Value>> {
        let named = self.context.iter().enumerate().map(|(place, known)| {
            let name = match known.description.as_str() {
                "" => format!("context_{}", place + 1),
                description => description.to_owned(),
            };
            let read = known.value.as_str().and_then(|text| outlive_core::json::read(text).ok());
            (name, read.unwrap_or_else(|| known.value.clone()))
        });
        let named: Map<String, Value> = named.collect();
        (!named.is_empty()).then_some(named)
    }

    fn additional_data(&self) -> Option<Value> {
        let mut data = self.forwarded_props.clone()?;
        if let Some(data) = data.as_object_mut() {
            data.remove(BACKGROUND);
            data.remove("user_id");
        }
        Some(data).filter(|data| !data.is_null() && *data != json!({}))
    }

    /// Refuses tools that no agent could call: only those are offered to a model that it has, as `known` has them.
    ///
    /// # Errors
    /// 422 that names them.
    pub fn check_tools(&self, known: &BTreeSet<String>) -> Result<(), Problem> {
        let unknown: Vec<&str> = self.client_tools().filter(|name| !known.contains(*name)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "no agent has {}: give the agent a tool of that name that runs elsewhere, or leave it out",
            unknown.join(", ")
        );
        Err(wrong("tools", &problem))
    }

    /// The names of the tools at the client.
    pub fn client_tools(&self) -> impl Iterator<Item = &str> {
        self.tools.iter().map(|tool| tool.name.as_str())
    }
}

/// The names of tools that run elsewhere, in the description of an agent, a team or a workflow.
pub fn external_tools(description: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(description, &mut found);
    found
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let (Some(Value::Bool(true)), Some(Value::String(name))) =
                (fields.get("external_execution"), fields.get("name"))
            {
                found.insert(name.clone());
            }
            fields.values().for_each(|value| collect(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

fn result(message: &Message) -> Result<(String, String, bool), Problem> {
    let Some(call) = message.tool_call_id.clone() else {
        return Err(wrong("messages", "a tool's message has no toolCallId"));
    };
    let is_text = |part: &Value| part["type"] == "text" && part["text"].is_string();
    let content = match &message.content {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(Value::Array(parts)) if parts.iter().all(is_text) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        Some(other) => other.to_string(),
    };
    Ok(match &message.error {
        Some(error) => (call, error.clone(), true),
        None => (call, content, false),
    })
}

/// Media as AG-UI writes it: a source with its kind and value, or, as it was before, flat.
fn attach(media: &mut Gathered, part: &Value) -> Result<(), Problem> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let source = &part["source"];
    let (url, content, media_type) = match source["type"].as_str() {
        Some("url") => (text(&source["value"]), None, text(&source["mimeType"])),
        Some("data") => (None, text(&source["value"]), text(&source["mimeType"])),
        _ => (text(&part["url"]), text(&part["data"]), text(&part["mimeType"])),
    };
    let of_type = |begin: &str| media_type.as_deref().is_some_and(|kind| kind.starts_with(begin));
    let field = match part["type"].as_str() {
        Some("image") => FIELDS[0],
        Some("audio") => FIELDS[1],
        Some("video") => FIELDS[2],
        _ if of_type("image/") => FIELDS[0],
        _ if of_type("audio/") => FIELDS[1],
        _ if of_type("video/") => FIELDS[2],
        _ => FIELDS[3],
    };
    let mut item = Map::new();
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            item.insert(name.to_owned(), Value::String(value));
        }
    };
    // Base64 may come as a data URL.
    let content = content.map(|content| match content.split_once(";base64,") {
        Some((head, bytes)) if head.starts_with("data:") => bytes.to_owned(),
        _ => content,
    });
    set("url", url);
    set("content", content);
    set("mime_type", media_type);
    set("filename", text(&part["filename"]));
    media.items(field, Value::Array(vec![Value::Object(item)]))
}

fn wrong(field: &str, problem: &str) -> Problem {
    Problem::field("value_error", "body", field, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(value: Value) -> RunAgentInput {
        let mut all = json!({ "threadId": "t", "runId": "r" });
        all.as_object_mut().expect("an object").extend(value.as_object().cloned().expect("an object"));
        serde_json::from_value(all).expect("an input")
    }

    #[test]
    fn what_is_said_last_is_the_message() {
        let said = |messages: Value| input(json!({ "messages": messages })).said();
        let text = |said: Said| match said {
            Said::Message { text, .. } => text,
            other => panic!("{other:?}"),
        };
        let user = |text: &str| json!({ "id": "1", "role": "user", "content": text });
        assert_eq!(text(said(json!([user("a"), user("b")])).expect("said")), "b");
        let part = |text: &str| json!({ "type": "text", "text": text });
        let parts = json!({ "id": "1", "role": "user", "content": [part("a"), part("b")] });
        assert_eq!(text(said(json!([parts])).expect("said")), "a\nb");
        let answered = json!([user("a"), { "id": "2", "role": "assistant", "content": "b" }]);
        assert_eq!(said(answered).expect("read"), Said::Nothing);
        assert_eq!(said(json!([])).expect("read"), Said::Nothing);
        let results = json!([
            { "id": "2", "role": "assistant", "toolCalls": [] },
            { "id": "3", "role": "tool", "toolCallId": "c1", "content": "one" },
            { "id": "4", "role": "tool", "toolCallId": "c2", "content": "", "error": "two" },
        ]);
        let expected = vec![("c1".to_owned(), "one".to_owned(), false), ("c2".to_owned(), "two".to_owned(), true)];
        assert_eq!(said(results).expect("read"), Said::Results(expected));
        for bad in [
            json!([{ "role": "user" }]),
            json!([{ "role": "user", "content": [{ "type": "dance" }] }]),
            json!([{ "role": "user", "content": [{ "type": "text", "text": 7 }] }]),
            json!([{ "role": "user", "content": [{ "type": "text" }] }]),
            json!([{ "role": "tool", "content": "x" }]),
        ] {
            assert_eq!(said(bad.clone()).expect_err("refused").status.as_u16(), 422, "{bad}");
        }
    }

    #[test]
    fn media_and_data_reach_the_run_under_their_names() {
        let input = input(json!({
            "messages": [{ "role": "user", "content": [
                { "type": "text", "text": "look" },
                { "type": "image", "source": { "type": "url", "value": "https://example.org/a.png" } },
                { "type": "binary", "mimeType": "text/plain", "data": "aGVsbG8=", "filename": "a.txt" },
            ] }],
            "context": [{ "description": "city", "value": "\"Rome\"" }, { "description": "", "value": "x" }],
            "forwardedProps": { "agnoBackground": { "enabled": true }, "user_id": "ada", "colour": "red" },
        }));
        let Said::Message { text, attachments } = input.said().expect("read") else { panic!("no message") };
        assert_eq!(text, "look");
        assert_eq!(attachments.images.as_ref().map(Vec::len), Some(1));
        assert_eq!(attachments.files.as_ref().map(Vec::len), Some(1));
        let dependencies = attachments.dependencies.as_deref().map(|known| Value::Object(known.clone()));
        assert_eq!(dependencies, Some(json!({ "city": "Rome", "context_2": "x" })));
        assert_eq!(attachments.additional_data, Some(json!({ "colour": "red" })));
        assert_eq!(input.user_id().expect("read").as_deref(), Some("ada"));
    }

    #[test]
    fn a_place_is_read_or_refused() {
        let cursor = |marker: Value| input(json!({ "forwardedProps": { "agnoBackground": marker } })).cursor();
        assert_eq!(cursor(json!({ "enabled": true })).expect("read"), None);
        assert_eq!(cursor(json!(true)).expect("read"), None);
        let place = cursor(json!({ "lastEventIndex": 4, "lastSubIndex": 2 })).expect("read");
        assert_eq!(place, Some(Place { index: 4, part: 2 }));
        assert_eq!(cursor(json!({ "lastEventIndex": -1 })).expect("read"), Some(Place::START));
        for bad in [json!(-2), json!(1.5), json!("4"), json!(true)] {
            assert!(cursor(json!({ "lastEventIndex": bad })).is_err(), "{bad}");
        }
        assert!(cursor(json!({ "lastEventIndex": 1, "lastSubIndex": -1 })).is_err());
    }

    #[test]
    fn a_tool_that_no_agent_has_is_refused_by_name() {
        let known = external_tools(&json!({
            "tools": { "tools": [{ "name": "now" }, { "name": "paint", "external_execution": true }] },
            "members": [{ "tools": { "tools": [{ "name": "sing", "external_execution": true }] } }],
        }));
        assert_eq!(known.iter().map(String::as_str).collect::<Vec<_>>(), ["paint", "sing"]);
        let of = |name: &str| input(json!({ "tools": [{ "name": name, "description": "", "parameters": {} }] }));
        assert!(of("paint").check_tools(&known).is_ok());
        let refused = of("now").check_tools(&known).expect_err("it runs here");
        assert!(refused.words().contains("now"), "{}", refused.words());
    }
}
