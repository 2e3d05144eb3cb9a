//! What AgentOS answered, to hold a live server against: recorded exchanges as shapes, and the comparer.
//!
//! For tests alone. It must never know how a server is reached: whoever replays sends the requests. The invariant: a
//! recording holds names, types, order and the values clients decide by, never what a person or a model wrote.
//! `recordings/README.md` describes the data.

mod agui;
mod compare;
mod sse;

pub use agui::Page;
pub use compare::{Allowed, Shape, Told, differences, stream_differences, told_value_differences, value_differences};
pub use sse::{SseEvent, parse_sse};

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Every recording by name.
const RECORDINGS: [(&str, &str); 19] = [
    ("agents_teams", include_str!("recordings/agents_teams.json")),
    ("auth_jwt", include_str!("recordings/auth_jwt.json")),
    ("auth_security_key", include_str!("recordings/auth_security_key.json")),
    ("cancel", include_str!("recordings/cancel.json")),
    ("errors", include_str!("recordings/errors.json")),
    ("hitl", include_str!("recordings/hitl.json")),
    ("hitl_loop_retry", include_str!("recordings/hitl_loop_retry.json")),
    ("meta", include_str!("recordings/meta.json")),
    ("model_unreachable", include_str!("recordings/model_unreachable.json")),
    ("resume_from_database", include_str!("recordings/resume_from_database.json")),
    ("run_background_poll", include_str!("recordings/run_background_poll.json")),
    ("run_background_stream_resume", include_str!("recordings/run_background_stream_resume.json")),
    ("run_foreground", include_str!("recordings/run_foreground.json")),
    ("session_state", include_str!("recordings/session_state.json")),
    ("sessions", include_str!("recordings/sessions.json")),
    ("step_kinds", include_str!("recordings/step_kinds.json")),
    ("store_events", include_str!("recordings/store_events.json")),
    ("websocket", include_str!("recordings/websocket.json")),
    ("workflow_agent", include_str!("recordings/workflow_agent.json")),
];

/// The names [`load`] takes.
pub fn names() -> impl Iterator<Item = &'static str> {
    RECORDINGS.iter().map(|(name, _)| *name)
}

/// The recording of this name.
///
/// # Panics
/// When there is none, or when its data cannot be read: both are mistakes in a test.
pub fn load(name: &str) -> Recording {
    let (_, text) = RECORDINGS.iter().find(|(known, _)| *known == name).expect("a recording of this name");
    serde_json::from_str(text).expect("recordings have the structure of `Recording`")
}

/// Exchanges in the order in which they were made, on one server.
#[derive(Clone, Debug, Deserialize)]
pub struct Recording {
    /// Its name.
    pub name: String,
    /// The exchanges.
    pub exchanges: Vec<Exchange>,
}

/// One request and its answer, or one socket from its opening to its end.
#[derive(Clone, Debug, Deserialize)]
pub struct Exchange {
    /// Recordings about access: what kind of credential was shown.
    pub credential: Option<String>,
    /// What was said.
    #[serde(flatten)]
    pub talk: Talk,
    /// Ids that this answer is the first to hold and later requests need: placeholder to key (`run_0` to `run_id`).
    #[serde(default)]
    pub gives: BTreeMap<String, String>,
    /// Fields of this request that send back what a paused run asked, with the answers filled in.
    #[serde(default)]
    pub answers: BTreeMap<String, Answers>,
    /// This request was sent while the exchange at this place, a later one, was under way.
    pub during: Option<usize>,
    /// The client left the stream after the last frame of the recording.
    #[serde(default)]
    pub client_leaves: bool,
}

/// What an earlier answer held about a paused run, and what was filled in before it was sent back.
#[derive(Clone, Debug, Deserialize)]
pub struct Answers {
    /// The run's placeholder.
    pub of: String,
    /// The key in the run, where it is not the name of the field.
    pub from: Option<String>,
    /// JSON pointer to value.
    pub set: BTreeMap<String, Value>,
}

impl Answers {
    /// `asked` with the answers filled in.
    ///
    /// # Panics
    /// When there is no such place in it: what a client fills in is missing.
    pub fn fill_in(&self, mut asked: Value) -> Value {
        for (pointer, value) in &self.set {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
            let parent = asked.pointer_mut(parent).and_then(Value::as_object_mut);
            parent.unwrap_or_else(|| panic!("{pointer} has no place")).insert(key.to_owned(), value.clone());
        }
        asked
    }
}

/// Over HTTP or over a socket.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Talk {
    /// HTTP.
    Http {
        /// What was sent.
        request: Request,
        /// What came back.
        response: Box<Response>,
    },
    /// A socket.
    Socket {
        /// The path.
        websocket: String,
        /// Headers of the upgrade that matter.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// What either side said, in order.
        script: Vec<Line>,
        /// Per event name every set of keys that was seen.
        keys: KeySets,
        /// The close code.
        close: Option<u16>,
    },
}

/// Per event name every set of keys that was seen, each sorted.
pub type KeySets = BTreeMap<String, Vec<Vec<String>>>;

/// A request. Texts may hold placeholders (`{run_0}`), see [`fill`].
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The fields of an urlencoded body.
    pub form: Option<BTreeMap<String, String>>,
    /// A JSON body.
    pub json: Option<Value>,
    /// Headers that matter; a credential is a placeholder (`{jwt}`, `{key}`).
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// An answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The media type.
    pub content_type: Option<String>,
    /// The shape of a body; none for an empty one and for a stream.
    pub body: Option<Shape>,
    /// The values of a body that are the same whichever model, clock or machine there is.
    pub values: Option<Value>,
    /// Such values of a stream's events, by name.
    #[serde(default)]
    pub told: BTreeMap<String, Vec<Value>>,
    /// The text under `detail` that clients show, where it is short.
    pub detail: Option<String>,
    /// A stream's event names in order.
    pub frames: Option<Vec<String>>,
    /// The keys of a stream's events.
    #[serde(default)]
    pub keys: KeySets,
}

/// One line of a socket's script.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The client sends an object.
    Send {
        /// The object.
        send: Value,
    },
    /// The client sends something that is not an object.
    SendText {
        /// The text.
        send_text: String,
    },
    /// The server sends events.
    Receive {
        /// Their names in order.
        receive: Vec<String>,
        /// Their form.
        form: Form,
    },
    /// The server ends the connection.
    Closed {
        /// Always true.
        closed: bool,
    },
}

/// The two forms of a socket's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Shaped like a Server-Sent Event.
    Sse,
    /// One JSON object.
    Bare,
}

/// `text` with its placeholders replaced by what earlier answers gave; unknown ones stay.
pub fn fill(text: &str, known: &BTreeMap<String, String>) -> String {
    known.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

impl Request {
    /// The request with its placeholders replaced.
    pub fn filled(&self, known: &BTreeMap<String, String>) -> Self {
        let all = |texts: &BTreeMap<String, String>| {
            texts.iter().map(|(name, text)| (name.clone(), fill(text, known))).collect::<BTreeMap<_, _>>()
        };
        Self {
            method: self.method.clone(),
            path: fill(&self.path, known),
            form: self.form.as_ref().map(all),
            json: self.json.as_ref().map(|json| filled_json(json, known)),
            headers: all(&self.headers),
        }
    }
}

/// A JSON value with its placeholders replaced.
pub fn filled_json(value: &Value, known: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => Value::String(fill(text, known)),
        Value::Array(items) => items.iter().map(|item| filled_json(item, known)).collect(),
        Value::Object(keys) => keys.iter().map(|(key, value)| (key.clone(), filled_json(value, known))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}
