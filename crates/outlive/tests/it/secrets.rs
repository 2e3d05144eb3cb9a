//! A whole server with secrets planted everywhere, used and abused; afterwards none of them is anywhere it could be read.

use crate::world::World;
use futures::{SinkExt, StreamExt};
use outlive::agent::testing::PlannedAnswer;
use outlive::core::Secret;
use outlive::engine::SystemClock;
use outlive::prelude::*;
use outlive::serving::auth::Auth;
use outlive::serving::auth::jwt::{JwtKey, JwtVerifier};
use outlive::{Options, RunId, Server};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::sync::{Arc, Mutex};
use tokio_tungstenite::tungstenite::Message;
use tracing_subscriber::util::SubscriberInitExt;

/// Each with signs that other encodings write differently.
const OS_KEY: &str = "os-canary/4f+1d9c=&77aa";
const JWT_SECRET: &str = "jwt-canary/of+32-bytes=and&more-0123456789";
const PROVIDER_KEY: &str = "sk-canary-provider/9e+21bb=&55";
/// What clients sent where it does not belong, or where it was wrong.
const WRONG_BEARER: &str = "wrong-canary-bearer-31c5";
const IN_QUERY: &str = "query-canary-token-77d2";
const IN_COOKIE: &str = "cookie-canary-value-11f0";
const ON_SOCKET: &str = "socket-canary-token-90ab";
const IN_FIELD: &str = "field-canary-value-5c5c";

/// A text as base64, for all three places it may begin at inside of other bytes, without the signs at the edges that
/// depend on its neighbours.
fn base64_of(text: &str) -> Vec<String> {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |bytes: &[u8]| -> String {
        let bits = |at: usize| {
            (0..6).fold(0, |sign, bit| {
                let at = at * 6 + bit;
                sign << 1 | usize::from(bytes[at / 8] >> (7 - at % 8) & 1)
            })
        };
        (0..bytes.len() * 8 / 6).map(|at| char::from(SIGNS[bits(at)])).collect()
    };
    (0..3)
        .map(|before| {
            let encoded = encode(&[&b"xx"[..before], text.as_bytes()].concat());
            encoded[(before * 8).div_ceil(6)..].to_owned()
        })
        .collect()
}

fn percent_of(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Every form in which a secret could stand somewhere.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = base64_of(secret);
    let url_safe: Vec<String> = forms.iter().map(|form| form.replace('+', "-").replace('/', "_")).collect();
    forms.extend(url_safe);
    forms.extend([
        secret.to_owned(),
        percent_of(secret),
        percent_of(secret).to_lowercase(),
        secret.replace('/', "\\/"),
    ]);
    forms
}

fn hits(place: &str, bytes: &[u8]) -> Vec<String> {
    let all = [OS_KEY, JWT_SECRET, PROVIDER_KEY, WRONG_BEARER, IN_QUERY, IN_COOKIE, ON_SOCKET, IN_FIELD];
    let text = String::from_utf8_lossy(bytes);
    let is_in = |form: &String| text.contains(form);
    let found = all.into_iter().flat_map(forms).filter(is_in);
    found.map(|form| format!("{place} holds {form}")).collect()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

/// What a tool reads somewhere and hands to the model.
fn leaking_tool() -> Tool {
    let text = [
        format!("OS_SECURITY_KEY={OS_KEY}\nAuthorization: Bearer {PROVIDER_KEY}"),
        format!("https://x.example/?key={}&jwt={}", percent_of(PROVIDER_KEY), percent_of(JWT_SECRET)),
        json!({ "headers": { "x-api-key": PROVIDER_KEY, "cookie": IN_COOKIE } }).to_string(),
        format!("{} {}", base64_of(OS_KEY)[0], base64_of(PROVIDER_KEY)[1]),
    ];
    Tool::new("read_config", "Reads the configuration.", move |_: Nothing, _: ToolContext| {
        let text = text.join("\n");
        async move { Ok::<_, Failure>(text) }
    })
}

fn leaky(world: &World, model: OpenAIResponses) -> Workflow {
    let agent = Agent::new("Reader").model(model).tool(leaking_tool());
    let tells = Step::function("tells", |context, _: Arc<StepInput>| async move {
        context.progress(format!("key {OS_KEY}"), Some(json!({ "authorization": format!("Bearer {PROVIDER_KEY}") })));
        context.event(Map::from_iter([("note".to_owned(), Value::from(PROVIDER_KEY)), (OS_KEY.to_owned(), json!(1))]));
        context.state.set("token", JWT_SECRET);
        Ok::<_, Failure>(json!({ "x-api-key": PROVIDER_KEY, "text": format!("it is {OS_KEY}") }))
    });
    let fails = Step::function("fails", |_, _: Arc<StepInput>| async move {
        Err::<String, _>(Failure::function(format!(
            "cannot log in with {OS_KEY} at https://u:{PROVIDER_KEY}@x.example"
        )))
    });
    Workflow::builder("Leaky")
        .db(world.db())
        .step(Step::new("reads").agent(agent))
        .step(tells)
        .step(fails.on_error(OnError::Skip))
        .build()
        .unwrap()
}

/// Answers of the model server that hold the key they were asked with.
fn treacherous_answers() -> Vec<PlannedAnswer> {
    let error = json!({ "error": {
        "message": format!("Incorrect API key provided: {PROVIDER_KEY}. You sent Authorization: Bearer {PROVIDER_KEY}"),
        "type": "invalid_request_error", "code": format!("bad {PROVIDER_KEY}"), "param": PROVIDER_KEY,
    } });
    let html = |status| PlannedAnswer {
        status,
        headers: vec![
            ("content-type".to_owned(), "text/html".to_owned()),
            ("x-key".to_owned(), PROVIDER_KEY.to_owned()),
        ],
        body: format!("<html>Bearer {PROVIDER_KEY}</html>").into_bytes(),
        cut: false,
    };
    vec![
        PlannedAnswer::json(401, &error),
        PlannedAnswer::json(400, &error),
        PlannedAnswer::json(200, &error),
        html(200),
        html(403),
        PlannedAnswer::events(format!("event: error\ndata: {error}\n\n")),
        PlannedAnswer::events(format!("data: {PROVIDER_KEY}\n\n")),
    ]
}

/// A client that keeps every byte it is told.
struct Client {
    http: reqwest::Client,
    base: String,
    heard: Vec<(String, Vec<u8>)>,
}

impl Client {
    async fn send(&mut self, name: &str, request: reqwest::RequestBuilder) -> (u16, String) {
        let answer = request.send().await.unwrap();
        let (status, head) = (answer.status().as_u16(), format!("{:?}", answer.headers()));
        let body = answer.bytes().await.unwrap();
        self.heard.push((format!("the head of {name}"), head.into_bytes()));
        self.heard.push((name.to_owned(), body.to_vec()));
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn get(&mut self, path: &str) -> (u16, String) {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(OS_KEY);
        self.send(path, request).await
    }

    async fn post(&mut self, path: &str, form: &str) -> (u16, String) {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(OS_KEY);
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form.to_owned());
        self.send(path, request).await
    }

    /// What it sends where it does not belong.
    async fn misbehave(&mut self) {
        let (http, base) = (self.http.clone(), self.base.clone());
        let url = |path: &str| format!("{base}{path}");
        let json = "application/json";
        let wrong = format!("{:?} {{\"{IN_FIELD}\":", json!({ "session_name": IN_FIELD }));
        for (name, request) in [
            ("a wrong bearer", http.get(url("/config")).bearer_auth(WRONG_BEARER)),
            ("a wrong scheme", http.get(url("/config")).header("authorization", format!("Basic {WRONG_BEARER}"))),
            (
                "a token that is none",
                http.get(url("/config")).bearer_auth(format!("eyJhbGciOiJub25lIn0.{WRONG_BEARER}.")),
            ),
            ("a token in the query", http.get(url(&format!("/config?token={IN_QUERY}"))).bearer_auth(OS_KEY)),
            ("a cookie", http.get(url("/config")).header("cookie", format!("session={IN_COOKIE}")).bearer_auth(OS_KEY)),
            ("no route", http.get(url("/nothing")).header("cookie", IN_COOKIE).header("x-api-key", WRONG_BEARER)),
            (
                "a body that is no JSON",
                http.post(url("/sessions")).bearer_auth(OS_KEY).header("content-type", json).body(wrong),
            ),
            (
                "a field of the wrong kind",
                http.post(url("/sessions")).bearer_auth(OS_KEY).json(&json!({ "session_state": IN_FIELD })),
            ),
            (
                "an index that is none",
                http.post(url("/workflows/leaky/runs/x/resume")).bearer_auth(OS_KEY).header("last-event-id", IN_FIELD),
            ),
            (
                "a sort that is none",
                http.get(url(&format!("/sessions?sort_by={IN_FIELD}&limit={IN_FIELD}"))).bearer_auth(OS_KEY),
            ),
        ] {
            let (status, body) = self.send(name, request).await;
            assert!((200..500).contains(&status), "{name}: {status} {body}");
        }
        let address = base.trim_start_matches("http://");
        let url = format!("ws://{address}/workflows/ws?token={IN_QUERY}");
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let wrong = json!({ "action": "authenticate", "token": ON_SOCKET }).to_string();
        for text in [wrong, json!({ "action": "reconnect", "token": ON_SOCKET }).to_string(), ON_SOCKET.to_owned()] {
            socket.send(Message::text(text)).await.unwrap();
        }
        for _ in 0..4 {
            let told = socket.next().await.unwrap().unwrap();
            self.heard.push(("a socket".to_owned(), told.into_data().to_vec()));
        }
    }
}

#[tokio::test]
async fn s15_s16_no_planted_secret_is_found_in_files_logs_events_errors_or_answers() {
    let log = Log::default();
    let writer = log.clone();
    let _catching = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .set_default();
    let world = World::new().await;
    let model = || OpenAIResponses::new("gpt-5.2").base_url(world.models.url()).api_key(PROVIDER_KEY);
    let jwt = JwtVerifier::new(vec![JwtKey::new("HS256", &Secret::new(JWT_SECRET)).unwrap()]);
    let auth = Auth::new(Arc::new(SystemClock)).security_key(&Secret::new(OS_KEY)).jwt(jwt);
    let server = Server::builder(world.db())
        .workflow(&leaky(&world, model()))
        .agent(&Agent::new("Helper").id("helper").model(model()))
        .auth(auth)
        .secret(Secret::new(OS_KEY))
        .secret(Secret::new(JWT_SECRET))
        .start()
        .await
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn({
        let server = server.clone();
        async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve_on(vec![listener], stopped).await
        }
    });
    // Another test may have installed it already; all install the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut client = Client { http, base, heard: Vec::new() };

    let (status, body) = client.post("/workflows/leaky/runs", "message=go&stream=true&background=true").await;
    assert!(status == 200 && body.contains("WorkflowCompleted"), "{status} {body}");
    let (status, body) = client.post("/workflows/leaky/runs", "message=go&stream=false&session_id=kept").await;
    assert_eq!(status, 200, "{body}");
    let mut failures = 0;
    for answer in treacherous_answers() {
        for stream in ["true", "false"] {
            world.models.answer_next(answer.clone());
            let (_, body) =
                client.post("/agents/helper/runs", &format!("message=go&session_id=kept-2&stream={stream}")).await;
            failures += usize::from(body.contains("ERROR") || body.contains("RunError"));
        }
    }
    assert!(failures >= 8, "only {failures} answers were failures");
    client.misbehave().await;

    let (_, runs) = client.get("/api/runs?preview=true").await;
    let runs: Value = serde_json::from_str(&runs).unwrap();
    let ids: Vec<String> =
        runs["runs"].as_array().unwrap().iter().map(|run| run["run_id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.len() >= 10, "{runs}");
    for id in &ids {
        for path in [
            format!("/api/runs/{id}"),
            format!("/api/runs/{id}/output"),
            format!("/api/runs/{id}/events?limit=1000"),
            format!("/workflows/leaky/runs/{id}"),
        ] {
            client.get(&path).await;
        }
        let events = server.engine().events(&RunId::parse(id).unwrap(), None).stored().await.unwrap();
        client.heard.push((format!("the events of {id}"), serde_json::to_vec(&events).unwrap()));
    }
    for path in [
        "/",
        "/health",
        "/ready",
        "/info",
        "/config",
        "/openapi.json",
        "/metrics",
        "/workflows",
        "/workflows/leaky",
        "/agents",
        "/agents/helper",
        "/sessions?limit=100",
        "/sessions/kept",
        "/sessions/kept/runs",
        "/sessions/kept/run-previews",
        "/sessions/kept-2?type=agent",
        "/sessions/kept-2/runs",
        "/api/workers",
    ] {
        let (status, body) = client.get(path).await;
        assert!(status == 200, "{path}: {status} {body}");
    }
    let files = |when: &str| -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![world.folder.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push((format!("{} {when}", path.display()), std::fs::read(&path).unwrap()));
                }
            }
        }
        found
    };
    let mut places = files("while it is open");
    assert!(
        places.iter().any(|(name, bytes)| name.contains("-wal") && !bytes.is_empty()),
        "there is a write-ahead log"
    );
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    places.extend(files("afterwards"));
    let log = log.0.lock().unwrap().clone();
    assert!(String::from_utf8_lossy(&log).contains("a credential was refused"), "the log was caught");
    places.push(("the log".to_owned(), log));
    places.append(&mut client.heard);

    // That the search finds what it is to find.
    assert_eq!(hits("x", format!("..{OS_KEY}..").as_bytes()).len(), 1);
    assert!(!hits("x", base64_of(JWT_SECRET)[2].as_bytes()).is_empty());
    // What was redacted was there.
    let told = |text: &str| places.iter().any(|(_, bytes)| String::from_utf8_lossy(bytes).contains(text));
    assert!(told("[redacted]") && told("read_config") && told("cannot log in with"), "the scenario was played");
    let mut found: Vec<String> = places.iter().flat_map(|(place, bytes)| hits(place, bytes)).collect();
    found.sort();
    found.dedup();
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn s16_a_secret_that_a_model_streams_in_pieces_is_stored_in_none() {
    use outlive::core::{EventKind, ModelResponse};
    let token = "olv_0123456789abcdefghijklmnopqrstuvwxyz0123456";
    let answer = format!("The key is {PROVIDER_KEY}, the token {token}; and the rest is plain, so it ends with os-can");
    let world = World::new().await;
    let length = answer.chars().count();
    for pieces in [1, 3, 7, 20, length] {
        let model = ScriptedModel::replies([ModelResponse::text(answer.clone())]).chunks(pieces);
        let workflow = Workflow::builder("Whispers")
            .db(world.db())
            .options(Options { secrets: vec![Secret::new(PROVIDER_KEY), Secret::new(OS_KEY)], ..Options::default() })
            .step(Step::new("whispers").agent(Agent::new("A").model(model)))
            .build()
            .unwrap();
        let run = workflow.run("go").background().await.unwrap();
        let run_id = run.run_id().clone();
        run.await.unwrap();
        let events = workflow.engine().await.unwrap().events(&run_id, None).stored().await.unwrap();
        let mut told = String::new();
        for event in &events {
            if let EventKind::RunContent(delta) = &event.kind {
                told.push_str(delta.content.as_deref().unwrap_or_default());
            }
        }
        let expected = "The key is [redacted], the token [redacted]; and the rest is plain, so it ends with os-can";
        assert_eq!(told, expected, "in {pieces} pieces");
        let stored = serde_json::to_string(&events).unwrap();
        assert!(
            !stored.contains("canary-provider") && !stored.contains("0123456789abc"),
            "in {pieces} pieces: {stored}"
        );
        workflow.shutdown().await.unwrap();
    }
}
