//! The replay of a recording: requests in order, ids filled in, answers compared.
//!
//! Nothing here sleeps: a request about a run is sent when the engine says that the run is at its first step, the last
//! poll of it when it has ended, a request `during` another when that one has told of a step.

use super::app::App;
use super::differences::Judge;
use super::{socket, tokens};
use crate::world::World;
use outlive_server::testing::{
    Answers, Exchange, Recording, Request, Response, Shape, Talk, Told, differences, fill, load, parse_sse,
    stream_differences, told_value_differences, value_differences,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::timeout;

/// No exchange takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A recording under way.
pub(crate) struct Replay<'a> {
    pub(crate) app: &'a App,
    client: reqwest::Client,
    recording: &'a Recording,
    /// Ids and credentials by placeholder.
    pub(crate) known: BTreeMap<String, String>,
    /// What paused runs asked last, by the run's id and the key.
    asked: BTreeMap<(String, &'static str), Value>,
    /// Exchanges that were made during another.
    made: BTreeSet<usize>,
    /// Runs whose polls were passed over and not compared since.
    passed_over: BTreeSet<String>,
    judge: Judge,
}

/// The keys under which a run says what it asks.
const ASKED: [&str; 4] = ["step_requirements", "error_requirements", "requirements", "tools"];

/// What one answer was.
#[derive(Debug, Default)]
struct Answer {
    status: u16,
    content_type: Option<String>,
    body: Option<Value>,
    told: Vec<Told>,
}

/// Replays a recording and fails with every difference that is not listed.
pub(crate) async fn replay(name: &str) {
    let world = World::new().await;
    let recording = load(name);
    let mut known = BTreeMap::from([("key".to_owned(), tokens::KEY.to_owned())]);
    let mut app = App::start(&world, name).await;
    if name == "resume_from_database" {
        known.extend(runs_before(&app).await);
        app.stop().await;
        app = App::start(&world, name).await;
    }
    let judge = Judge::of(name);
    let mut replay = Replay {
        app: &app,
        client: client(),
        recording: &recording,
        known,
        asked: BTreeMap::new(),
        made: BTreeSet::new(),
        passed_over: BTreeSet::new(),
        judge,
    };
    for (index, exchange) in recording.exchanges.iter().enumerate() {
        if exchange.during.is_none() {
            let made = timeout(PATIENCE, replay.make(index, exchange)).await;
            assert!(made.is_ok(), "{name} #{index} takes longer than {PATIENCE:?}: {:?}", exchange.talk);
        }
    }
    assert!(replay.passed_over.is_empty(), "{name}: no poll shows the end of {:?}", replay.passed_over);
    let report = replay.judge.report();
    assert!(report.is_empty(), "{name}:\n{}", report.join("\n"));
    app.stop().await;
}

/// A client of its own.
pub(crate) fn client() -> reqwest::Client {
    // The models of other tests in this process may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// The runs that `resume_from_database` takes up.
async fn runs_before(app: &App) -> BTreeMap<String, String> {
    let client = client();
    let mut known = BTreeMap::new();
    let runs = [
        ("slow", "sleep=0.05", "true"),
        ("content-creation-workflow", "a question", "true"),
        ("slow", "sleep=0.05", "false"),
        ("failing", "x", "true"),
    ];
    for (index, (workflow, message, stream)) in runs.into_iter().enumerate() {
        let session = format!("db-{}", index + 1);
        let fields = [("message", message), ("stream", stream), ("background", "true"), ("session_id", &session)];
        let request = client.post(format!("http://{}/workflows/{workflow}/runs", app.address));
        let answer = self::form(request, &fields).send().await.unwrap();
        let run_id = answer.headers()["x-run-id"].to_str().unwrap().to_owned();
        answer.bytes().await.unwrap();
        app.run_ended(&run_id).await;
        known.insert(format!("before_{index}"), run_id);
    }
    known
}

/// The request with these fields as its body.
pub(crate) fn form(request: reqwest::RequestBuilder, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
    request.header("content-type", "application/x-www-form-urlencoded").body(urlencoded(fields))
}

fn urlencoded(fields: &[(&str, &str)]) -> String {
    let escaped = |text: &str| -> String {
        let escape = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        };
        text.bytes().map(escape).collect()
    };
    let pairs = fields.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

impl Replay<'_> {
    async fn make(&mut self, index: usize, exchange: &Exchange) {
        if let Some(credential) = &exchange.credential {
            self.known.insert("jwt".to_owned(), tokens::token(credential));
        }
        match &exchange.talk {
            Talk::Http { request, response } => {
                let mut filled = request.filled(&self.known);
                for (field, answered) in self.answers(index) {
                    filled.form.get_or_insert_default().insert(field, answered.to_string());
                }
                let answer = Box::pin(self.send(index, exchange, &filled, response)).await;
                self.judge(index, request, response, &answer);
            }
            Talk::Socket { websocket, headers, script, keys, .. } => {
                let headers = headers.iter().map(|(name, text)| (name.clone(), fill(text, &self.known))).collect();
                let lines = Box::pin(socket::talk(self, index, websocket, &headers, script, keys)).await;
                self.judge.see(index, websocket, lines);
            }
        }
    }

    /// Makes the exchanges that were made during this one, once their ids are known.
    pub(crate) async fn during(&mut self, index: usize) {
        let recording = self.recording;
        for (at, exchange) in recording.exchanges.iter().enumerate().filter(|(_, other)| other.during == Some(index)) {
            if !self.made.insert(at) {
                continue;
            }
            Box::pin(self.make(at, exchange)).await;
        }
    }

    /// Keeps the ids that this exchange was the first to show.
    pub(crate) fn learn(&mut self, index: usize, body: &Value) {
        for (placeholder, key) in &self.recording.exchanges[index].gives {
            if let Some(id) = body[key].as_str() {
                self.known.entry(placeholder.clone()).or_insert_with(|| id.to_owned());
            }
        }
        for key in ASKED {
            if let (Some(run_id), Some(asked)) =
                (body["run_id"].as_str(), body.get(key).filter(|asked| asked.is_array()))
            {
                self.asked.insert((run_id.to_owned(), key), asked.clone());
            }
        }
    }

    /// What this exchange sends back, by field.
    pub(crate) fn answers(&self, index: usize) -> Vec<(String, Value)> {
        let fields = self.recording.exchanges[index].answers.iter();
        fields.map(|(field, answers)| (field.clone(), self.answered(field, answers))).collect()
    }

    fn answered(&self, field: &str, answers: &Answers) -> Value {
        let key = answers.from.as_deref().unwrap_or(field);
        let run_id = &self.known[&answers.of];
        let asked = self.asked.iter().find(|((run, at), _)| run == run_id && *at == key);
        let (_, asked) = asked.unwrap_or_else(|| panic!("{} has told no {key}", answers.of));
        answers.fill_in(asked.clone())
    }

    async fn send(&mut self, index: usize, exchange: &Exchange, request: &Request, recorded: &Response) -> Answer {
        let run_id = request.path.split(['/', '?']).nth(4).unwrap_or_default();
        if self.is_last_poll(index) {
            self.app.run_ended(run_id).await;
        } else {
            self.app.run_began(run_id).await;
        }
        let url = format!("http://{}{}", self.app.address, request.path);
        let mut sent = self.client.request(request.method.parse().unwrap(), url);
        for (name, value) in &request.headers {
            sent = sent.header(name, value);
        }
        sent = match (&request.form, &request.json) {
            (Some(form), _) => {
                let fields: Vec<_> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                self::form(sent, &fields)
            }
            (None, Some(json)) => sent.json(json),
            // The recording keeps no parts; this is the one request that was sent in some.
            (None, None) if request.method == "POST" && recorded.status == 200 && request.path.ends_with("/runs") => {
                let part = |name, text| format!("--b\r\ncontent-disposition: form-data; name={name}\r\n\r\n{text}\r\n");
                let body = [part("message", "in parts"), part("stream", "false"), "--b--\r\n".to_owned()].concat();
                sent.header("content-type", "multipart/form-data; boundary=b").body(body)
            }
            (None, None) => sent,
        };
        let response = sent.send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (status, content_type) = (response.status().as_u16(), header("content-type"));
        let mut answer = Answer { status, content_type, ..Answer::default() };
        if answer.content_type.as_deref().is_some_and(|kind| kind.starts_with("text/event-stream")) {
            let most = exchange.client_leaves.then(|| recorded.frames.as_ref().map_or(0, Vec::len));
            answer.told = self.stream(index, response, most).await;
            return answer;
        }
        let text = response.text().await.unwrap();
        if !text.is_empty() {
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            self.learn(index, &body);
            answer.body = Some(body);
        }
        answer
    }

    /// Reads a stream to its end, or the first `most` events of it.
    async fn stream(&mut self, index: usize, mut response: reqwest::Response, most: Option<usize>) -> Vec<Told> {
        let mut text = Vec::new();
        let mut told: Vec<Told> = Vec::new();
        while most.is_none_or(|most| told.len() < most) {
            let Some(chunk) = response.chunk().await.unwrap() else { break };
            text.extend_from_slice(&chunk);
            let events = parse_sse(&String::from_utf8_lossy(&text));
            for event in events.into_iter().skip(told.len()) {
                let body: Value = serde_json::from_str(&event.data).unwrap();
                let named = body.get("event").is_none_or(|name| *name == *event.event);
                assert!(named, "the two names of an event are one: {body}");
                self.learn(index, &body);
                let is_at_work = event.event == "StepStarted";
                told.push(Told { name: event.event, body });
                if is_at_work {
                    self.during(index).await;
                }
            }
        }
        told.truncate(most.unwrap_or(usize::MAX));
        told
    }

    /// Whether this reads one run and the next exchange is not the same again.
    fn is_last_poll(&self, index: usize) -> bool {
        let path = |exchange: &Exchange| match &exchange.talk {
            Talk::Http { request, .. } if request.method == "GET" && request.path.contains("/runs/{") => {
                Some(request.path.clone())
            }
            _ => None,
        };
        let exchanges = &self.recording.exchanges;
        let this = path(&exchanges[index]);
        this.is_some() && exchanges.get(index + 1).and_then(path) != this
    }

    fn judge(&mut self, index: usize, request: &Request, recorded: &Response, answer: &Answer) {
        let place = format!("{} {}", request.method, request.path);
        let is_early_poll = request.method == "GET" && request.path.contains("/runs/{") && !self.is_last_poll(index);
        let is_at_rest = |body: &Value| !matches!(body["status"].as_str(), Some("PENDING" | "RUNNING"));
        let rests = ["content", "paused_step_name"];
        let was_at_rest =
            matches!(&recorded.body, Some(Shape::Object(keys)) if rests.iter().any(|key| keys.contains_key(*key)));
        if is_early_poll && answer.status == 200 && answer.body.as_ref().is_none_or(is_at_rest) != was_at_rest {
            // One server was faster than the other: the last poll compares what there is to see.
            self.passed_over.insert(request.path.clone());
            return;
        }
        self.passed_over.remove(&request.path);
        let mut found = compared(request, recorded, answer);
        if is_early_poll && !was_at_rest {
            found.retain(|line| !is_progress(line));
        }
        self.judge.see(index, &place, found);
    }
}

/// Whether a line says that a run which is not at rest was at another place than in the recording.
fn is_progress(line: &str) -> bool {
    line.starts_with("status: was \"")
}

/// Where an answer differs from the recorded one, one line each.
fn compared(request: &Request, recorded: &Response, answer: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    if recorded.status != answer.status {
        found.push(format!("status: was {}, is {}", recorded.status, answer.status));
    }
    if recorded.content_type != answer.content_type {
        let name = |kind: &Option<String>| kind.clone().unwrap_or("none".to_owned());
        found.push(format!("media type: was {}, is {}", name(&recorded.content_type), name(&answer.content_type)));
    }
    if recorded.status != answer.status {
        // Bodies of different answers have nothing in common.
        return found;
    }
    if let Some(detail) = &recorded.detail {
        let body = answer.body.as_ref().unwrap_or(&Value::Null);
        if body["detail"] != **detail {
            found.push(format!("detail: was {detail:?}, is {}", body["detail"]));
        }
    }
    match (&recorded.frames, &recorded.body, &answer.body) {
        (Some(frames), _, _) => {
            found.extend(streams(frames, &recorded.keys, &answer.told, is_partial(request)));
            found.extend(gaps(&answer.told));
            found.extend(told_value_differences(&recorded.told, &answer.told));
        }
        (None, Some(shape), body) => {
            let body = body.as_ref().unwrap_or(&Value::Null);
            found.extend(differences(shape, body, &[]));
            found.extend(recorded.values.iter().flat_map(|values| value_differences(values, body)));
        }
        (None, None, Some(body)) => found.push(format!("the body: was none, is {body}")),
        (None, None, None) => {}
    }
    found
}

/// Whether the stream begins at an index: how much of an answer's text is before it depends on its pieces.
fn is_partial(request: &Request) -> bool {
    request.form.as_ref().and_then(|form| form.get("last_event_index")).is_some_and(|index| index != "0")
}

/// As [`stream_differences`]; of a part of a stream the number of agents' events is not compared.
pub(crate) fn streams(
    frames: &[String],
    keys: &outlive_server::testing::KeySets,
    told: &[Told],
    is_partial: bool,
) -> Vec<String> {
    let (told, mut found) = without_ours(frames, told);
    found.extend(stream_differences(frames, keys, &told, &[]));
    found.retain(|line| !(is_partial && is_agents(line)));
    found
}

/// What was told without events that Agno does not have, and a line for each of their names.
fn without_ours(frames: &[String], told: &[Told]) -> (Vec<Told>, Vec<String>) {
    let mut found = Vec::new();
    let mut is_ours = |told: &Told| {
        let name = match told.name.as_str() {
            "WorkflowPaused" => "WorkflowPaused",
            "CustomEvent" => told.body["name"].as_str().unwrap_or_default(),
            _ => return false,
        };
        let is_ours = matches!(name, "QuestionAnswered" | "RunResumed")
            || name == "WorkflowPaused" && !frames.iter().any(|frame| frame == name);
        let line = format!("{name}: is new");
        if is_ours && !found.contains(&line) {
            found.push(line);
        }
        is_ours
    };
    let rest = told.iter().filter(|told| !is_ours(told)).cloned().collect();
    (rest, found)
}

/// Whether a line speaks of events of agents or teams.
fn is_agents(line: &str) -> bool {
    let name = line.strip_prefix("Team").unwrap_or(line);
    ["Run", "ModelRequest", "ToolCall"].iter().any(|prefix| name.starts_with(prefix))
}

/// Events whose index does not follow that of the one before in their session: every session here has one run at a time.
pub(crate) fn gaps(told: &[Told]) -> Vec<String> {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for (told, index) in told.iter().filter_map(|told| Some((told, told.body["event_index"].as_u64()?))) {
        let session = told.body["session_id"].as_str().unwrap_or_default();
        if let Some(before) = last.insert(session, index)
            && index != before + 1
        {
            found.push(format!("index {index} of {} follows {before}", told.name));
        }
    }
    found
}
