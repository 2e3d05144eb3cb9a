//! What comes with a run beside its message: on every way in, it is what it is called, or it is refused.

use crate::served::{Answer, Ask, Served, Setup};
use outlive_core::port::RunFilter;
use serde_json::{Value, json};

/// A small PNG in base64.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUg==";
const WAV: &str = "UklGRiQAAABXQVZFZm10IA==";
const MP4: &str = "AAAAGGZ0eXBpc29tAAA=";
const PDF: &str = "JVBERi0xLjcK";

async fn open_to_everyone() -> Served {
    Served::with(Setup { with_keys: false, ..Setup::default() }).await
}

/// The fields of a run with one of everything.
fn fields() -> Vec<(&'static str, Value)> {
    vec![
        ("images", json!([{ "id": "i", "content": PNG, "mime_type": "image/png", "alt_text": "a dot" }])),
        ("audio", json!([{ "content": WAV, "format": "wav" }])),
        ("videos", json!([{ "content": MP4, "mime_type": "video/mp4" }])),
        ("input_files", json!([{ "content": PDF, "mime_type": "application/pdf", "filename": "a.pdf" }])),
        ("additional_data", json!({ "colour": "red", "deep": { "n": 1 } })),
        ("metadata", json!({ "source": "test" })),
        ("dependencies", json!({ "price": 7 })),
    ]
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// As a body of that media type.
fn body(content_type: &str, fields: &[(&str, String)]) -> String {
    if content_type.starts_with("multipart") {
        let part = |(name, text): &(&str, String)| {
            format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
        };
        return fields.iter().map(part).collect::<String>() + "--b--\r\n";
    }
    fields.iter().map(|(name, text)| format!("{name}={}", encoded(text))).collect::<Vec<_>>().join("&")
}

async fn post(served: &Served, path: &str, content_type: &str, fields: &[(&str, String)]) -> Answer {
    let body = body(content_type, fields);
    served.ask(Ask { method: "POST", path, content_type, body: &body, ..Ask::default() }).await
}

fn is_all_there(seen: &Value) {
    assert_eq!(seen["images"][0]["content"], PNG, "{seen}");
    assert_eq!((&seen["images"][0]["id"], &seen["images"][0]["alt_text"]), (&json!("i"), &json!("a dot")));
    assert_eq!((&seen["audio"][0]["content"], &seen["audio"][0]["mime_type"]), (&json!(WAV), &json!("audio/wav")));
    assert_eq!((&seen["videos"][0]["content"], &seen["videos"][0]["mime_type"]), (&json!(MP4), &json!("video/mp4")));
    assert_eq!((&seen["files"][0]["content"], &seen["files"][0]["filename"]), (&json!(PDF), &json!("a.pdf")));
    assert_eq!(seen["additional_data"], json!({ "colour": "red", "deep": { "n": 1 } }));
    assert_eq!((&seen["metadata"], &seen["dependencies"]), (&json!({ "source": "test" }), &json!({ "price": 7 })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_given_in_a_form_reaches_the_steps_as_what_it_is() {
    let served = open_to_everyone().await;
    for content_type in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"] {
        for (component, id) in [("workflows", "mirror"), ("agents", "mirror-agent"), ("teams", "mirror-team")] {
            let run_id = format!("{id}-{}", content_type.len());
            let mut form: Vec<(&str, String)> = fields().into_iter().map(|(n, value)| (n, value.to_string())).collect();
            form.extend([("message", "x".to_owned()), ("stream", "false".to_owned()), ("run_id", run_id.clone())]);
            let answer = post(&served, &format!("/{component}/{id}/runs"), content_type, &form).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let run = answer.json();
            assert_eq!(run["run_id"], run_id, "the id is the client's");
            assert_eq!(run["metadata"], json!({ "source": "test" }), "{component}");
            is_all_there(&run["content"]);
            // The same id again is somebody's mistake, whatever stands beside it.
            let again = post(&served, &format!("/{component}/{id}/runs"), content_type, &form).await;
            assert_eq!((again.status, again.json()["detail"].is_string()), (409, true), "{again:?}");
            // A poll and the list show what was noted, and so does the last event.
            let session_id = run["session_id"].as_str().expect("an id");
            let poll = served.get(&format!("/{component}/{id}/runs/{run_id}?session_id={session_id}"), "").await;
            assert_eq!(poll.json()["metadata"], json!({ "source": "test" }), "{component}");
            let log = served.get(&format!("/api/runs/{run_id}/events"), "").await;
            let ends = |event: &&Value| event["event"] == "WorkflowCompleted";
            let end = log.json()["events"].as_array().and_then(|events| events.iter().find(ends).cloned());
            assert_eq!(end.expect("an end")["metadata"], json!({ "source": "test" }), "{component}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_given_on_a_socket_reaches_the_steps_as_what_it_is() {
    let served = open_to_everyone().await;
    let mut socket = served.socket().await;
    let mut frame = json!({ "action": "start-workflow", "workflow_id": "mirror", "message": "x", "run_id": "mine" });
    for (name, value) in fields() {
        frame[name] = value;
    }
    socket.say(frame.clone()).await;
    let begun = socket.event().await;
    let begun = if begun["event"] == "connected" { socket.event().await } else { begun };
    assert_eq!(begun["event"], "WorkflowStarted", "{begun}");
    let end = socket.until("WorkflowCompleted").await;
    assert_eq!((&end["run_id"], &end["metadata"]), (&json!("mine"), &json!({ "source": "test" })));
    is_all_there(&end["content"]);
    socket.say(frame).await;
    assert!(socket.until("error").await["error"].as_str().is_some_and(|error| error.contains("exists")));
    for (name, value) in [
        ("images", json!([{ "filepath": "/etc/passwd" }])),
        ("images", json!("text")),
        ("metadata", json!([])),
        ("dependencies", json!("x")),
        ("run_id", json!("not / an id")),
    ] {
        let mut frame = json!({ "action": "start-workflow", "workflow_id": "mirror", "message": "x" });
        frame[name] = value;
        socket.say(frame.clone()).await;
        assert_eq!(socket.event().await["event"], "error", "{frame}");
    }
}

#[tokio::test]
async fn bad_c04_a_clients_run_id_is_plain_and_nobody_elses() {
    let served = Served::start().await;
    let (alice, bob) = (served.user("alice").await, served.user("bob").await);
    let form = "message=x&stream=false&run_id=one";
    assert_eq!(served.post("/workflows/echo/runs", &alice, form).await.status, 200);
    let taken = served.post("/workflows/echo/runs", &bob, form).await;
    assert_eq!(taken.status, 409, "{taken:?}");
    assert!(!taken.body.contains("alice"), "{taken:?}");
    for id in ["a%20b", "a%2Fb", "%C3%A4", &"x".repeat(200)] {
        let refused = served.post("/workflows/echo/runs", &alice, &format!("message=x&run_id={id}")).await;
        assert_eq!(refused.status, 422, "{id}: {refused:?}");
        assert!(refused.body.contains("\"run_id\""), "{refused:?}");
    }
    // Repeated with its key, a request with an id is that run.
    let ask = Ask {
        method: "POST",
        path: "/workflows/echo/runs",
        token: Some(&alice),
        headers: "Idempotency-Key: k\r\n",
        body: "message=x&stream=false&run_id=two",
        ..Ask::default()
    };
    for _ in 0..2 {
        let answer = served.ask(ask).await;
        assert_eq!((answer.status, answer.text("run_id")), (200, "two".to_owned()));
    }
}

#[tokio::test]
async fn bad_a16_what_is_refused_makes_no_run() {
    let served = open_to_everyone().await;
    for (component, id) in [("workflows", "mirror"), ("agents", "mirror-agent"), ("teams", "mirror-team")] {
        for items in [r#"[{"filepath":"/etc/passwd"}]"#, r#"[{"content":"!"}]"#, "[7]", "{", r#"[{"url":"ftp://x/"}]"#]
        {
            let form = [("message", "x".to_owned()), ("images", items.to_owned())];
            let answer = post(&served, &format!("/{component}/{id}/runs"), Ask::default().content_type, &form).await;
            assert_eq!(answer.status, 422, "{component} {items}: {answer:?}");
            assert!(answer.body.contains("\"images\""), "{answer:?}");
        }
    }
    let runs = served.engine.runs(RunFilter { limit: 10, ..RunFilter::default() }).await;
    assert!(runs.expect("readable").runs.is_empty());
}
