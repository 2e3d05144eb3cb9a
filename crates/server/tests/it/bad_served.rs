//! Bad inputs to a whole server, on every way in. Each test is named after its row in `docs/bad-inputs.md`.

use crate::served::{Answer, Ask, Served, Setup, in_time};
use outlive_core::RunStatus;
use outlive_core::port::{DbErrorKind, RunFilter};
use outlive_db::{Fault, InMemoryDb, Operation};
use outlive_engine::{Options, Submit};
use outlive_server::auth::Scopes;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const RUNS: &str = "/workflows/echo/runs";

async fn open_to_everyone() -> Served {
    Served::with(Setup { with_keys: false, ..Setup::default() }).await
}

async fn runs(served: &Served) -> usize {
    let filter = RunFilter { limit: 1000, ..RunFilter::default() };
    served.engine.runs(filter).await.expect("readable").runs.len()
}

impl Served {
    async fn submit_form(&self, fields: &str) -> Answer {
        let body = format!("stream=false&background=true&{fields}");
        self.ask(Ask { method: "POST", path: RUNS, body: &body, ..Ask::default() }).await
    }

    async fn post_json(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let content_type = "application/json";
        self.ask(Ask { method: "POST", path, content_type, body: &body, ..Ask::default() }).await
    }
}

/// The place of the first field that is said to be wrong.
fn place(answer: &Answer) -> String {
    let loc = answer.json()["detail"][0]["loc"].clone();
    let loc: Vec<String> = serde_json::from_value(loc).unwrap_or_else(|_| panic!("no field: {answer:?}"));
    loc.join(".")
}

#[tokio::test]
async fn bad_a05_an_array_is_no_filter_and_no_answer() {
    let served = open_to_everyone().await;
    let run_id = served.submit("echo", "hi").await;
    let (fork, many) = (format!("/api/runs/{run_id}/fork"), ["cancel", "rerun", "retry"]);
    let mut refused = vec![
        (fork.clone(), json!({ "at": 0, "answer": ["approve"] }), "body.answer"),
        (fork, json!([0]), "body"),
        ("/api/runs".to_owned(), json!(["echo"]), "body"),
        ("/api/schedules".to_owned(), json!(["echo", "@daily"]), "body"),
    ];
    refused.extend(many.map(|verb| (format!("/api/runs/{verb}"), json!({ "filter": [] }), "body.filter")));
    for (path, body, at) in refused {
        let answer = served.post_json(&path, &body).await;
        assert_eq!((answer.status, &*place(&answer)), (422, at), "{path} {body}");
    }
    assert_eq!(runs(&served).await, 1);
}

#[tokio::test]
async fn bad_a04_a_form_has_text_and_json_that_any_store_keeps_or_is_refused() {
    let served = open_to_everyone().await;
    for fields in ["message=a%00", "message=%ff", "message=x&%00=1", "message=x&note=%C3", "message=%ed%a0%80"] {
        let answer = served.submit_form(fields).await;
        assert_eq!((answer.status, answer.json()["detail"].is_string()), (400, true), "{fields}: {answer:?}");
    }
    for json in ["{\"a\":\"\\u0000\"}", "{\"a\":99999999999999999999}", "{\"a\":1e400}", "{\"a\":\"\\ud800\"}", "{} {}"]
    {
        for field in ["session_state", "metadata", "dependencies", "factory_input"] {
            let encoded: String = json.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let answer = served.submit_form(&format!("message=x&{field}={encoded}")).await;
            assert_eq!((answer.status, place(&answer)), (422, format!("body.{field}")), "{json}");
        }
    }
    let multipart = |name: &str, text: &str| {
        format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n--b--\r\n")
    };
    for text in ["a\0b", "a\0"] {
        let body = multipart("message", text);
        let content_type = "multipart/form-data; boundary=b";
        let ask = Ask { method: "POST", path: RUNS, content_type, body: &body, ..Ask::default() };
        assert_eq!(served.ask(ask).await.status, 400, "{text:?}");
    }
    assert_eq!(runs(&served).await, 0, "no run was half made");
    let kept = served.submit_form("message=%C3%A9+%F0%9F%98%80%0A100%").await;
    let run = served.end_of(&kept.text("run_id").parse().expect("an id")).await;
    assert_eq!(run.input, Some(json!("é 😀\n100%")));
}

#[tokio::test]
async fn bad_a05_a_key_twice_is_refused_in_the_json_of_a_form_and_of_a_frame_too() {
    let served = open_to_everyone().await;
    let answer = served.submit_form("message=x&session_state=%7B%22a%22:1,%22a%22:2%7D").await;
    assert_eq!((answer.status, answer.json()["detail"][0]["type"].clone()), (422, json!("duplicate_key")));
    let mut socket = served.socket().await;
    socket.event().await;
    let twice = "{\"action\":\"start-workflow\",\"workflow_id\":\"echo\",\"message\":\"x\",\"message\":\"y\"}";
    socket.send(tokio_tungstenite::tungstenite::Message::text(twice)).await;
    assert_eq!(socket.event().await["event"], "error");
    assert_eq!(runs(&served).await, 0);
}

#[tokio::test]
async fn bad_a18_a_parameter_that_is_wrong_or_given_twice_is_named() {
    let served = open_to_everyone().await;
    let run_id = served.submit_form("message=x&session_id=s").await.text("run_id");
    for (method, path, name) in [
        ("GET", "/sessions?limit=1&limit=2".to_owned(), "limit"),
        ("GET", "/api/runs?status=RUNNING&limit=1&status=PENDING".to_owned(), "status"),
        ("GET", format!("/api/runs/{run_id}/events?after=1&after=2"), "after"),
        ("GET", format!("{RUNS}/{run_id}?wait=1ms&wait=2ms"), "wait"),
        ("GET", format!("{RUNS}/{run_id}?wait=soon"), "wait"),
        ("GET", "/sessions/s/runs?created_after=abc".to_owned(), "created_after"),
        ("GET", "/sessions/s/runs?created_before=99999999999999999999".to_owned(), "created_before"),
        ("DELETE", "/sessions/s?force=maybe".to_owned(), "force"),
        ("POST", format!("/api/runs/{run_id}/webhook/redeliver?from=-1"), "from"),
    ] {
        let answer = served.ask(Ask { method, path: &path, ..Ask::default() }).await;
        assert_eq!((answer.status, place(&answer)), (422, format!("query.{name}")), "{path}");
        assert!(!answer.body.contains("maybe") && !answer.body.contains("soon"), "{answer:?}");
    }
    for fields in ["message=x&message=y", "message=x&stream=maybe", "message=x&background=1,0"] {
        assert_eq!(served.submit_form(fields).await.status, 422, "{fields}");
    }
    assert_eq!(runs(&served).await, 1);
}

#[tokio::test]
async fn bad_a22_a_list_of_sessions_is_bounded_and_says_so() {
    let served = open_to_everyone().await;
    for query in [
        "limit=-1",
        "limit=0",
        "limit=99999999999999999999",
        "page=0",
        "page=9223372036854775807",
        "sort_by=;drop",
        "sort_order=;drop",
        "type=;drop",
        "component_id=a%20b",
    ] {
        let answer = served.ask(Ask { path: &format!("/sessions?{query}"), ..Ask::default() }).await;
        let name = query.split('=').next().expect("a name");
        assert_eq!((answer.status, place(&answer)), (422, format!("query.{name}")), "{query}");
        assert!(!answer.body.contains("drop"), "{answer:?}");
    }
    let most = served.ask(Ask { path: "/sessions?limit=1000000000&page=1000000000000", ..Ask::default() }).await;
    assert_eq!((most.status, &most.json()["meta"]["limit"], &most.json()["data"]), (200, &json!(1000), &json!([])));
    let long = json!({ "session_name": "n".repeat(1025) });
    let answer = served.post_json("/sessions", &long).await;
    assert_eq!((answer.status, place(&answer)), (422, "body.session_name".to_owned()), "what a list shows is short");
}

#[tokio::test]
async fn bad_b06_a_user_that_a_request_names_obeys_the_rule_of_a_token() {
    let served = open_to_everyone().await;
    let long = "u".repeat(10 << 10);
    for user in [" ", "sa:x", "__scheduler__", "u\n1", "u\u{7f}", " u", &long] {
        let encoded: String = user.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = served.submit_form(&format!("message=x&user_id={encoded}")).await;
        assert_eq!((answer.status, place(&answer)), (422, "body.user_id".to_owned()), "{user:.20?}");
        for (path, body) in [
            ("/api/runs", json!({ "workflow_id": "echo", "user_id": user })),
            ("/sessions", json!({ "workflow_id": "echo", "user_id": user })),
        ] {
            let answer = served.post_json(path, &body).await;
            assert_eq!((answer.status, place(&answer)), (422, "body.user_id".to_owned()), "{path} {user:.20?}");
        }
        let mut socket = served.socket().await;
        socket.event().await;
        let start = json!({ "action": "start-workflow", "workflow_id": "echo", "message": "x", "user_id": user });
        socket.say(start).await;
        let event = socket.event().await;
        assert!(event["error"].as_str().is_some_and(|error| error.contains("user_id")), "{event}");
    }
    assert_eq!(runs(&served).await, 0);
}

#[tokio::test]
async fn bad_b09_a_scope_for_one_workflow_opens_no_other_on_a_socket() {
    let served = Served::start().await;
    let run_id = served.submit("held", "3").await;
    served.until_length(&run_id, 5).await;
    for user in [None, Some("ada")] {
        let narrow = Scopes::parse(["workflows:echo:read", "workflows:echo:run", "agents:read", "agents:run"]);
        let (key, _) = served.key(user, narrow).await;
        let mut socket = served.socket_of(&key).await;
        for action in ["reconnect", "cancel-workflow", "continue-workflow"] {
            socket.say(json!({ "action": action, "run_id": run_id, "workflow_id": "echo" })).await;
            let event = socket.event().await;
            assert!(event["error"].as_str().is_some_and(|error| error.contains("not found")), "{action}: {event}");
        }
        socket.say(json!({ "action": "ping" })).await;
        assert_eq!(socket.event().await["event"], "pong", "nothing of the run was told");
    }
    let wide = Scopes::parse(["workflows:held:read"]);
    let mut socket = served.socket_of(&served.key(None, wide).await.0).await;
    socket.say(json!({ "action": "reconnect", "run_id": run_id })).await;
    assert_eq!(socket.event().await["event"], "catch_up", "who may read this one follows it");
    served.release();
    assert_eq!(served.end_of(&run_id).await.status, RunStatus::Completed, "nobody cancelled it");
}

#[tokio::test]
async fn bad_c01_ids_that_clients_choose_are_plain_on_every_way_in() {
    let served = open_to_everyone().await;
    let long = "x".repeat(10 << 10);
    for id in ["a b", "a/b", "%2f", "\"", "😀", "\u{202e}a", "a\n", &long] {
        let encoded: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = served.submit_form(&format!("message=x&session_id={encoded}")).await;
        assert_eq!((answer.status, place(&answer)), (422, "body.session_id".to_owned()), "{id:.20?}");
        let answer = served.post_json("/sessions", &json!({ "workflow_id": "echo", "session_id": id })).await;
        assert_eq!((answer.status, place(&answer)), (422, "body.session_id".to_owned()), "{id:.20?}");
        let mut socket = served.socket().await;
        socket.event().await;
        let start = json!({ "action": "start-workflow", "workflow_id": "echo", "message": "x", "session_id": id });
        socket.say(start).await;
        let event = socket.event().await;
        assert!(event["error"].as_str().is_some_and(|error| error.contains("session_id")), "{event}");
    }
    assert_eq!(runs(&served).await, 0);
}

#[tokio::test]
async fn bad_c03_an_idempotency_key_is_one_short_line_on_every_way_in() {
    let served = open_to_everyone().await;
    let long = format!("Idempotency-Key: {}\r\n", "k".repeat(256));
    for headers in
        ["Idempotency-Key:\r\n", "Idempotency-Key: a\tb\r\n", "Idempotency-Key: a\r\nIdempotency-Key: b\r\n", &long]
    {
        let body = "message=x&stream=false&background=true";
        let answer = served.ask(Ask { method: "POST", path: RUNS, headers, body, ..Ask::default() }).await;
        assert_eq!((answer.status, place(&answer)), (422, "header.Idempotency-Key".to_owned()), "{headers:.30}");
    }
    let mut socket = served.socket().await;
    socket.event().await;
    for key in ["a\n", "é", &"k".repeat(256)] {
        let start =
            json!({ "action": "start-workflow", "workflow_id": "echo", "message": "x", "idempotency_key": key });
        socket.say(start).await;
        assert_eq!(socket.event().await["event"], "error", "{key:.10?}");
    }
    assert_eq!(runs(&served).await, 0);
}

#[tokio::test]
async fn bad_c05_what_is_not_paused_is_not_continued() {
    let served = open_to_everyone().await;
    let running = served.submit("held", "3").await;
    served.until_length(&running, 5).await;
    let over = served.submit("echo", "x").await;
    served.end_of(&over).await;
    let mut socket = served.socket().await;
    socket.event().await;
    for (run_id, words) in [
        (json!(running), "not paused"),
        (json!(over), "not paused"),
        (json!("nothing"), "not found"),
        (json!("a b"), "not found"),
        (Value::Null, "required"),
    ] {
        socket.say(json!({ "action": "continue-workflow", "run_id": run_id, "step_requirements": [{}] })).await;
        let event = socket.event().await;
        assert!(event["error"].as_str().is_some_and(|error| error.contains(words)), "{run_id}: {event}");
    }
    served.release();
    assert_eq!(served.end_of(&running).await.status, RunStatus::Completed);
}

#[tokio::test]
async fn bad_c07_a_session_with_a_running_run_is_deleted_only_when_forced() {
    let served = open_to_everyone().await;
    let body = "stream=false&background=true&message=3&session_id=busy";
    let ask = Ask { method: "POST", path: "/workflows/held/runs", body, ..Ask::default() };
    let run_id = served.ask(ask).await.text("run_id").parse().expect("an id");
    served.until_length(&run_id, 5).await;
    let delete = async |path| served.ask(Ask { method: "DELETE", path, ..Ask::default() }).await;
    let refused = delete("/sessions/busy").await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.head.contains("x-error-code: session_busy"), "{refused:?}");
    assert_eq!(runs(&served).await, 1);
    assert_eq!(delete("/sessions/busy?force=true").await.status, 204);
    assert_eq!(runs(&served).await, 0);
    assert!(served.is_well().await);
}

#[tokio::test]
async fn bad_c08_a_state_over_the_limit_of_a_body_is_refused_unread() {
    let served = open_to_everyone().await;
    let head = "POST /workflows/echo/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 52428800\r\n\r\n";
    let mut stream = tokio::net::TcpStream::connect(served.address).await.expect("it listens");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    let _ = in_time(stream.read_to_end(&mut bytes)).await;
    assert_eq!(Answer::read(&bytes).status, 413);
    for body in [json!({ "session_state": [] }), json!({ "session_state": "x" }), json!({ "session_state": 7 })] {
        let answer = served.post_json("/sessions", &body).await;
        assert_eq!((answer.status, place(&answer)), (422, "body.session_state".to_owned()));
    }
    let state = json!({ "__proto__": { "admin": true }, "constructor": 1 });
    let answer = served.post_json("/sessions", &json!({ "session_id": "s", "session_state": state })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let shown = served.ask(Ask { path: "/sessions/s", ..Ask::default() }).await.json();
    assert_eq!(shown["session_state"], state, "plain data");
}

#[tokio::test]
async fn bad_c12_a_server_that_stops_accepts_nothing_and_says_when_to_come_back() {
    let served = open_to_everyone().await;
    served.engine.shutdown().await.expect("it stops");
    let answer = served.submit_form("message=x").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.contains("retry-after: "), "{answer:?}");
    let answer = served.post_json("/api/runs", &json!({ "workflow_id": "echo" })).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.contains("retry-after: "), "{answer:?}");
    assert_eq!(runs(&served).await, 0);
}

#[tokio::test]
async fn bad_c12_a_store_that_refuses_makes_no_run_and_no_promise() {
    for (fault, status) in [(DbErrorKind::Busy, 503), (DbErrorKind::Full, 507), (DbErrorKind::OutcomeUnknown, 503)] {
        let db = InMemoryDb::new();
        let served = Served::on(db.clone(), Setup { with_keys: false, ..Setup::default() }).await;
        db.faults(Arc::new(move |operation| (operation == Operation::CreateRun).then_some(Fault::Refuse(fault))));
        let answer = served.submit_form("message=x").await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.head.contains("retry-after: "), "{answer:?}");
    }
}

#[tokio::test]
async fn bad_c13_who_finds_the_queue_full_is_told_when_to_come_back() {
    let options = Options { runs_max: 1, queued_max: 1, ..Options::default() };
    let served = Served::with(Setup { with_keys: false, options, ..Setup::default() }).await;
    let held = served.submit("held", "3").await;
    let waits = served.submit_form("message=x").await;
    assert_eq!(waits.status, 202, "{waits:?}");
    for background in ["true", "false"] {
        let body = format!("stream=false&background={background}&message=x");
        let answer = served.ask(Ask { method: "POST", path: RUNS, body: &body, ..Ask::default() }).await;
        assert_eq!(answer.status, 429, "{answer:?}");
        assert!(answer.head.contains("retry-after: 1") && answer.head.contains("queue_full"), "{answer:?}");
    }
    served.release();
    assert_eq!(served.end_of(&held).await.status, RunStatus::Completed);
    let run_id = waits.text("run_id").parse().expect("an id");
    assert_eq!(served.end_of(&run_id).await.status, RunStatus::Completed, "what was accepted is executed");
}

#[tokio::test]
async fn bad_c15_a_session_larger_than_memory_is_not_read_into_it() {
    let options = Options { execute: false, ..Options::default() };
    let served = Served::with(Setup { with_keys: false, options, ..Setup::default() }).await;
    let input = Value::String("x".repeat(1_000_000));
    for _ in 0..50 {
        let submit = Submit { input: Some(input.clone()), session_id: Some("s".to_owned()), ..Submit::default() };
        served.engine.submit(&"echo".parse().expect("an id"), submit).await.expect("accepted");
    }
    let length = served.ask(Ask { path: "/sessions/s/runs", ..Ask::default() }).await.body.len() >> 20;
    assert!((32..45).contains(&length), "{length} MiB");
    let page = served.ask(Ask { path: "/api/runs?session_id=s&limit=1000", ..Ask::default() }).await.json();
    assert_eq!(page["runs"].as_array().map(Vec::len), Some(50), "all of them are listed in pages");
}
