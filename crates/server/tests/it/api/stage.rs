//! A server with three workflows, two users and an administrator, and a client for each.

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, Request, StatusCode};
use futures::StreamExt;
use http_body_util::BodyExt;
use outlive_core::{Definition, Failure, RunId, Step, StepOutput, Timestamp};
use outlive_db::InMemoryDb;
use outlive_engine::{Engine, Options, SystemClock};
use outlive_server::Server;
use outlive_server::auth::key::{KeyRecord, KeyStore, MemoryKeyStore, NewKey};
use outlive_server::auth::{Auth, Scopes};
use outlive_server::config::Limits;
use outlive_server::state::{Component, Kind};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceExt;

/// Longest time anything here may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Stage {
    pub(crate) db: InMemoryDb,
    pub(crate) engine: Engine,
    pub(crate) keys: Arc<MemoryKeyStore>,
    /// Every run of the workflow `gate` waits for one permit.
    pub(crate) gate: Arc<Semaphore>,
    /// May do everything and sees everything.
    pub(crate) admin: Client,
    pub(crate) ada: Client,
    pub(crate) bob: Client,
}

#[derive(Clone)]
pub(crate) struct Client {
    router: Router,
    token: String,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).expect("text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("visible ASCII"))
    }

    /// Status and code, having checked that an error says the rest too.
    pub(crate) fn problem(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(body["request_id"], json!(self.header("x-request-id")), "{body}");
        assert_eq!(body["error_code"], json!(self.header("x-error-code")), "{body}");
        assert!(!body["detail"].is_null(), "{body}");
        (self.status.as_u16(), body["error_code"].as_str().unwrap_or_default().to_owned())
    }
}

impl Client {
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let response = self.open(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = timeout(PATIENCE, body.collect()).await.expect("the answer ends").expect("a whole body");
        Answer { status: parts.status, headers: parts.headers, bytes: bytes.to_bytes().to_vec() }
    }

    async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> axum::response::Response {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        request = request.header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let answering = self.router.clone().oneshot(request.body(body).expect("a request"));
        timeout(PATIENCE, answering).await.expect("an answer in time").expect("the router answers")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    pub(crate) async fn get_json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
        answer.json()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[], Some(body)).await
    }

    /// Starts a run and gives back its id.
    pub(crate) async fn start(&self, workflow_id: &str, input: &str) -> String {
        let answer = self.post("/api/runs", json!({ "workflow_id": workflow_id, "input": input })).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        answer.json()["run_id"].as_str().expect("a run id").to_owned()
    }

    pub(crate) async fn follow(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let response = self.open("GET", path, headers, None).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        Events { body: response.into_body().into_data_stream(), text: String::new() }
    }
}

/// A stream of Server-Sent Events.
pub(crate) struct Events {
    body: BodyDataStream,
    text: String,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) name: String,
    pub(crate) data: Value,
    pub(crate) id: Option<u64>,
}

impl Events {
    /// The next event; nothing at the stream's end.
    pub(crate) async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if event.starts_with(':') {
                    continue;
                }
                return Some(read(&event));
            }
            let chunk = timeout(PATIENCE, self.body.next()).await.expect("something within the time")?;
            self.text.push_str(std::str::from_utf8(&chunk.expect("a chunk")).expect("text"));
        }
    }

    pub(crate) async fn rest(mut self) -> Vec<Sent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn read(event: &str) -> Sent {
    let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Sent {
        name: line("event").unwrap_or_default().to_owned(),
        data: serde_json::from_str(line("data").unwrap_or("null")).expect("JSON"),
        id: line("id").map(|id| id.parse().expect("a number")),
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default(), Limits::default()).await
    }

    /// Looks at the credential of a stream again after every such time.
    pub(crate) async fn rechecking(recheck_period: Duration) -> Self {
        Self::with(Options::default(), Limits { recheck_period, ..Limits::default() }).await
    }

    /// Runs are accepted and never executed.
    pub(crate) async fn idle() -> Self {
        Self::with(Options { execute: false, ..Options::default() }, Limits::default()).await
    }

    async fn with(options: Options, limits: Limits) -> Self {
        let db = InMemoryDb::new();
        let gate = Arc::new(Semaphore::new(0));
        let definitions = [echo(), gated(gate.clone()), broken()];
        let builder = Engine::builder(Arc::new(db.clone())).options(options);
        let builder = definitions.iter().fold(builder, |builder, definition| builder.workflow(definition.clone()));
        let engine = builder.start().await.expect("an engine");
        let keys = Arc::new(MemoryKeyStore::default());
        let mut tokens = Vec::new();
        for (user_id, scopes) in [
            (None, "agent_os:admin"),
            (Some("ada"), "runs:read runs:write workers:read workflows:run"),
            (Some("bob"), "runs:read runs:write workers:read workflows:run"),
        ] {
            let key = NewKey {
                scopes: Scopes::parse(scopes.split(' ')),
                user_id: user_id.map(Arc::from),
                ..NewKey::default()
            };
            let (secret, record) = KeyRecord::mint(key, Timestamp::default());
            keys.add(record).await.expect("a key");
            tokens.push(secret.expose().to_owned());
        }
        let auth = Auth::new(Arc::new(SystemClock)).keys(keys.clone());
        let router = serving(&engine, definitions).auth(auth).limits(limits).build().router();
        let client = |token: &String| Client { router: router.clone(), token: token.clone() };
        let (admin, ada, bob) = (client(&tokens[0]), client(&tokens[1]), client(&tokens[2]));
        Self { db, engine, keys, gate, admin, ada, bob }
    }

    /// The same engine behind a server that asks for no credentials.
    pub(crate) fn open_client(&self) -> Client {
        let definitions = [echo(), gated(self.gate.clone()), broken()];
        Client { router: serving(&self.engine, definitions).build().router(), token: String::new() }
    }

    /// Another process on the same store, which executes nothing, behind a server that asks for no credentials.
    pub(crate) async fn reader(&self) -> Client {
        let options = Options { execute: false, ..Options::default() };
        let db = Arc::new(self.db.another_process());
        let engine = Engine::builder(db).options(options).start().await.expect("an engine");
        let definitions = [echo(), gated(self.gate.clone()), broken()];
        Client { router: serving(&engine, definitions).build().router(), token: String::new() }
    }

    /// Waits for the run's end.
    pub(crate) async fn ended(&self, run_id: &str) {
        let waiting = self.engine.attach(RunId::parse(run_id).expect("an id"));
        timeout(PATIENCE, waiting.wait()).await.expect("the run ends").expect("the run is there");
    }

    /// Waits until the run is inside the gate.
    pub(crate) async fn begun(&self, run_id: &str) {
        let mut events = self.engine.events(&RunId::parse(run_id).expect("an id"), None);
        loop {
            let event = timeout(PATIENCE, events.next()).await.expect("the step begins").expect("the store works");
            if event.expect("the run goes on").name() == "StepStarted" {
                return;
            }
        }
    }
}

/// A client of a server of this one workflow, which asks for no credentials, and its engine.
pub(crate) async fn serving_one(definition: Arc<Definition>) -> (Engine, Client) {
    let builder = Engine::builder(Arc::new(InMemoryDb::new())).workflow(definition.clone());
    let engine = builder.start().await.expect("an engine");
    let router = serving(&engine, [definition]).build().router();
    (engine, Client { router, token: String::new() })
}

fn serving<const N: usize>(engine: &Engine, definitions: [Arc<Definition>; N]) -> outlive_server::ServerBuilder {
    definitions.into_iter().fold(Server::builder(engine.clone()), |server, definition| {
        server.component(Component {
            kind: Kind::Workflow,
            id: definition.id.to_string(),
            name: definition.name.to_string(),
            description: None,
            definition,
            details: Value::Null,
        })
    })
}

fn built(step: impl IntoIterator<Item = Step>, name: &str) -> Arc<Definition> {
    let builder = step.into_iter().fold(Definition::builder(name), |builder, step| builder.step(step));
    Arc::new(builder.build().expect("a definition"))
}

fn echo() -> Arc<Definition> {
    let step = |name: &'static str| {
        Step::function(name, move |_, input| async move { Ok::<_, Failure>(format!("{} {name}", input.text())) })
    };
    built([step("first"), step("second")], "Echo")
}

fn gated(gate: Arc<Semaphore>) -> Arc<Definition> {
    let wait = Step::function("wait", move |_, input| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.expect("the gate stays").forget();
            Ok::<_, Failure>(StepOutput::new(input.text()))
        }
    });
    built([wait], "Gate")
}

fn broken() -> Arc<Definition> {
    let fail =
        Step::function("fail", |_, _| async { Err::<StepOutput, _>(Failure::fatal("no such city\nsecond line")) });
    built([fail], "Broken")
}
