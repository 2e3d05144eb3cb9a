//! Runs as responses of OpenAI's: started, polled, followed from every place, cancelled and deleted.

use crate::served::{Answer, Ask, Served, Setup, in_time};
use outlive_core::{RunId, RunStatus};
use outlive_db::InMemoryDb;
use outlive_engine::Options;
use outlive_server::auth::Scopes;
use outlive_server::config::Limits;
use outlive_server::testing::parse_sse;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

async fn open_to_everyone() -> Served {
    Served::with(Setup { with_keys: false, ..Setup::default() }).await
}

impl Served {
    async fn create(&self, token: Option<&str>, headers: &str, body: Value) -> Answer {
        let body = body.to_string();
        let content_type = "application/json";
        self.ask(Ask { method: "POST", path: "/v1/responses", token, headers, content_type, body: &body }).await
    }

    async fn created(&self, body: Value) -> Value {
        let answer = self.create(None, "", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    async fn response(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/responses/{id}"), "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// What is streamed after this number, to the stream's end.
    async fn streamed(&self, id: &str, after: Option<u64>) -> Vec<Value> {
        let after = after.map_or_else(String::new, |after| format!("&starting_after={after}"));
        let answer = self.get(&format!("/v1/responses/{id}?stream=true{after}"), "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        events(&answer.body)
    }
}

fn events(body: &str) -> Vec<Value> {
    let events = parse_sse(body).into_iter().map(|event| {
        let data: Value = serde_json::from_str(&event.data).expect("JSON");
        assert_eq!(Some(&*event.event), data["type"].as_str(), "an event is named by its type");
        data
    });
    events.collect()
}

fn number(event: &Value) -> u64 {
    event["sequence_number"].as_u64().unwrap_or_else(|| panic!("no number: {event}"))
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().expect("a type")).collect()
}

/// The text of a response, as OpenAI's SDKs put it together.
fn output_text(response: &Value) -> String {
    let parts = response["output"].as_array().expect("output").iter().filter_map(|item| item["content"].as_array());
    parts.flatten().filter_map(|part| part["text"].as_str()).collect()
}

/// Puts messages together from a whole stream as the SDKs do, and checks that events fit what came before them.
fn messages(events: &[Value]) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::new();
    for event in events {
        let place = || usize::try_from(event["output_index"].as_u64().expect("a place")).expect("small");
        match event["type"].as_str().expect("a type") {
            "response.output_item.added" => {
                assert_eq!(place(), messages.len(), "a message is added behind the others: {event}");
                messages.push(event["item"].clone());
            }
            "response.content_part.added" => {
                messages[place()]["content"].as_array_mut().expect("parts").push(event["part"].clone());
            }
            "response.output_text.delta" => {
                let message = &mut messages[place()];
                assert_eq!(message["id"], event["item_id"]);
                let text = [&message["content"][0]["text"], &event["delta"]]
                    .map(|text| text.as_str().expect("a text"))
                    .concat();
                message["content"][0]["text"] = json!(text);
            }
            "response.output_text.done" => assert_eq!(messages[place()]["content"][0]["text"], event["text"]),
            "response.content_part.done" => assert_eq!(messages[place()]["content"][0], event["part"]),
            "response.output_item.done" => {
                let message = &mut messages[place()];
                assert_eq!((&message["id"], &message["content"]), (&event["item"]["id"], &event["item"]["content"]));
                *message = event["item"].clone();
            }
            _ => {}
        }
    }
    messages
}

#[tokio::test]
async fn a_response_is_started_polled_and_shown_the_same_to_everyone() {
    let served = open_to_everyone().await;
    let started = served
        .created(json!({
            "model": "echo", "input": "hello", "background": true, "metadata": { "order": "7" }, "user": "ada",
            "instructions": "Be loud.",
        }))
        .await;
    assert_eq!((&started["status"], &started["object"]), (&json!("queued"), &json!("response")));
    assert_eq!((&started["background"], &started["output"]), (&json!(true), &json!([])));
    let id = started["id"].as_str().expect("an id");
    let run_id = RunId::parse(id.strip_prefix("resp_").expect("a response's id")).expect("a run's");
    served.end_of(&run_id).await;
    let done = served.response(id).await;
    assert_eq!((&done["status"], &*output_text(&done)), (&json!("completed"), "BE LOUD.\n\nHELLO"));
    let same = ["id", "created_at", "model", "metadata", "user", "instructions", "conversation", "background"];
    for key in same {
        assert_eq!(done[key], started[key], "{key}");
        assert!(!done[key].is_null(), "{key}");
    }
    assert_eq!(done["outlive"], json!({ "run_id": run_id, "status": "COMPLETED" }));
    assert_eq!(done["usage"]["total_tokens"], 0);
    assert!(done["completed_at"].as_i64() >= done["created_at"].as_i64());
    // Whoever waits is answered the same, but for who it is.
    let mut waited = served.created(json!({ "model": "echo", "input": "Be loud.\n\nhello" })).await;
    assert_eq!(waited["background"], false);
    assert_eq!(output_text(&waited), output_text(&done));
    let again = served.response(waited["id"].as_str().expect("an id")).await;
    assert_eq!(waited.take(), again);
    // A run that was started another way is a response too.
    let run_id = served.submit("echo", "elsewhere").await;
    served.end_of(&run_id).await;
    assert_eq!(output_text(&served.response(&format!("resp_{run_id}")).await), "ELSEWHERE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_every_place_a_stream_is_the_rest_of_the_whole() {
    let options = Options { park_after: Duration::from_millis(5), ..Options::default() };
    let options = Options { stream_period: Duration::from_millis(1), ..options };
    let served = Served::with(Setup { with_keys: false, options, ..Setup::default() }).await;
    for (model, input, text, messages_told) in [
        ("echo", "hello", Some("HELLO"), 1),
        ("agent:helper", "hello", Some("HELLO"), 1),
        ("team:crew", "hello", Some("HELLO"), 1),
        ("poet", "x", Some("roses are red"), 1),
        ("doubter", "x", Some("certainly"), 2),
        ("flaky", "x", Some("attempt 2 ends"), 2),
        ("sleeper", "x", Some("good morning"), 2),
        ("breaks", "x", None, 1),
        ("late", "x", None, 0),
        ("ticks", "20", Some("ticked"), 1),
    ] {
        let answer = served.create(None, "", json!({ "model": model, "input": input, "stream": true })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let whole = events(&answer.body);
        assert_eq!(types(&whole)[..2], ["response.created", "response.queued"], "{model}");
        assert_eq!((number(&whole[0]), number(&whole[1])), (0, 1), "{model}");
        assert!(whole.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])), "{model}: {whole:?}");
        let id = whole[0]["response"]["id"].as_str().expect("an id");
        let last = whole.last().expect("an end");
        // The end of the stream is what a poll shows.
        assert_eq!(last["response"], served.response(id).await, "{model}");
        let told = messages(&whole);
        match text {
            Some(text) => {
                assert_eq!(last["type"], "response.completed", "{model}: {last}");
                assert_eq!(output_text(&last["response"]), text, "{model}");
                assert_eq!(told.last().expect("a message")["content"][0]["text"], text, "{model}");
                assert_eq!(told.last().expect("a message")["status"], "completed", "{model}");
                assert_eq!(told.len(), messages_told, "{model}: {told:?}");
            }
            None => assert_ne!(last["response"]["outlive"]["status"], "RUNNING", "{model}: {last}"),
        }
        let before_last = told.len().saturating_sub(1);
        assert!(told[..before_last].iter().all(|message| message["status"] == "incomplete"), "{model}: {told:?}");
        // All numbers there are, their neighbours, and none.
        let places: BTreeSet<u64> =
            whole.iter().map(number).flat_map(|at| [at.saturating_sub(1), at, at + 1]).collect();
        assert_eq!(served.streamed(id, None).await, whole, "{model}");
        for after in places {
            let rest: Vec<Value> = whole.iter().filter(|event| number(event) > after).cloned().collect();
            assert_eq!(served.streamed(id, Some(after)).await, rest, "{model} after {after}");
        }
    }
}

#[tokio::test]
async fn text_is_told_while_it_comes() {
    let served = open_to_everyone().await;
    let started = served.created(json!({ "model": "poet", "input": "x", "stream": false })).await;
    let whole = served.streamed(started["id"].as_str().expect("an id"), None).await;
    let deltas: Vec<_> = whole.iter().filter(|event| event["type"] == "response.output_text.delta").collect();
    // What the step before it says is not the answer.
    let text: String = deltas.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(text, "roses are red");
    let end = ["response.output_text.done", "response.content_part.done", "response.output_item.done"];
    assert_eq!(types(&whole)[whole.len() - 4..], [&end[..], &["response.completed"]].concat());
    // It came before the run's last entry, from which its end is told.
    assert!(number(deltas.last().expect("a delta")) < number(whole.last().expect("an end")) / 1000 * 1000);
}

#[tokio::test]
async fn a_run_that_fails_is_a_response_that_failed() {
    let served = open_to_everyone().await;
    let failed = served.created(json!({ "model": "breaks", "input": "x" })).await;
    assert_eq!((&failed["status"], &failed["output"]), (&json!("failed"), &json!([])));
    assert_eq!(failed["error"]["code"], "server_error");
    assert!(failed["error"]["message"].as_str().is_some_and(|message| message.contains("it broke")), "{failed}");
    let whole = served.streamed(failed["id"].as_str().expect("an id"), None).await;
    let last = whole.last().expect("an end");
    assert_eq!((&last["type"], &last["response"]), (&json!("response.failed"), &failed));
    assert_eq!(messages(&whole)[0]["status"], "incomplete");
}

#[tokio::test]
async fn a_response_is_cancelled_once_and_for_all() {
    let served = open_to_everyone().await;
    let started = served.created(json!({ "model": "held", "input": "2", "background": true })).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    let cancel = format!("/v1/responses/{id}/cancel");
    let cancelled = served.post(&cancel, "", "").await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    assert_eq!(cancelled.json()["status"], "cancelled");
    assert_eq!(served.post(&cancel, "", "").await.json(), cancelled.json(), "twice is as once");
    assert_eq!(served.response(&id).await, cancelled.json());
    let whole = served.streamed(&id, None).await;
    let last = whole.last().expect("an end");
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.incomplete"), &json!("cancelled")));
    // What is over stays as it is.
    let done = served.created(json!({ "model": "echo", "input": "x" })).await;
    let path = format!("/v1/responses/{}/cancel", done["id"].as_str().expect("an id"));
    assert_eq!(served.post(&path, "", "").await.json(), done);
}

#[tokio::test]
async fn a_response_that_waits_for_people_is_in_progress_and_says_where() {
    let served = open_to_everyone().await;
    let waiting = served.created(json!({ "model": "asks", "input": "x" })).await;
    assert_eq!(waiting["status"], "in_progress");
    assert_eq!(waiting["outlive"]["status"], "PAUSED");
    assert_eq!(waiting["outlive"]["paused_step_name"], "ask");
    let id = waiting["id"].as_str().expect("an id");
    assert_eq!(served.response(id).await, waiting);
    // A stream stays open meanwhile, and goes on with the answer.
    let path = format!("/v1/responses/{id}?stream=true");
    let mut lines = BufReader::new(served.send(Ask { path: &path, ..Ask::default() }).await).lines();
    let mut seen = Vec::new();
    loop {
        let line = in_time(lines.next_line()).await.expect("open").expect("a stream that goes on");
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let event: Value = serde_json::from_str(data).expect("JSON");
        let is_pause = event["response"]["outlive"]["status"] == "PAUSED";
        seen.push(event);
        if is_pause {
            break;
        }
    }
    let run_id = RunId::parse(id.strip_prefix("resp_").expect("an id")).expect("an id");
    let open = served.get(&format!("/api/questions?run_id={run_id}"), "").await.json();
    let question = open["questions"][0]["question_id"].as_str().expect("a question").to_owned();
    let answer = Ask {
        method: "POST",
        path: &format!("/api/questions/{question}/answer"),
        content_type: "application/json",
        body: r#"{"do":"input","values":{"colour":"red"}}"#,
        ..Ask::default()
    };
    let answered = served.ask(answer).await;
    assert_eq!(answered.status, 200, "{answered:?}");
    while let Some(line) = in_time(lines.next_line()).await.expect("open") {
        seen.extend(line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).expect("JSON")));
    }
    assert_eq!(seen.last().expect("an end")["type"], "response.completed");
    assert_eq!(seen, served.streamed(id, None).await);
}

#[tokio::test]
async fn a_conversation_goes_on_from_the_response_before() {
    let served = open_to_everyone().await;
    let first = served.created(json!({ "model": "echo", "input": "one" })).await;
    let second = served.created(json!({ "model": "echo", "input": "two", "previous_response_id": first["id"] })).await;
    assert_eq!(second["conversation"], first["conversation"]);
    assert_eq!(second["previous_response_id"], first["id"]);
    let third =
        served.created(json!({ "model": "echo", "input": "three", "conversation": first["conversation"] })).await;
    assert_eq!(third["conversation"], first["conversation"]);
    let own = served.created(json!({ "model": "echo", "input": "x", "conversation": "my-conversation" })).await;
    assert_eq!(own["conversation"], json!({ "id": "my-conversation" }));
    let other =
        served.create(None, "", json!({ "model": "say", "input": "x", "previous_response_id": first["id"] })).await;
    assert_eq!((other.status, &other.json()["error"]["param"]), (400, &json!("previous_response_id")), "{other:?}");
    let other =
        served.create(None, "", json!({ "model": "say", "input": "x", "conversation": "my-conversation" })).await;
    assert_eq!(other.status, 404, "{other:?}");
    for unknown in ["resp_nobodys", "nobodys", "resp_", "resp_a b"] {
        let body = json!({ "model": "echo", "input": "x", "previous_response_id": unknown });
        let answer = served.create(None, "", body).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("previous_response_not_found")));
    }
}

#[tokio::test]
async fn what_it_was_asked_is_listed() {
    let served = open_to_everyone().await;
    let image = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let started = served
        .created(json!({ "model": "mirror", "input": [{ "role": "user", "content": [
        { "type": "input_text", "text": "what is it" },
        { "type": "input_image", "image_url": image, "detail": "low" },
        { "type": "input_file", "file_data": "aGVsbG8=", "filename": "a.txt" },
    ] }] }))
        .await;
    let path = format!("/v1/responses/{}/input_items", started["id"].as_str().expect("an id"));
    let items = served.get(&path, "").await.json();
    assert_eq!((&items["object"], &items["has_more"]), (&json!("list"), &json!(false)));
    let content = &items["data"][0]["content"];
    assert_eq!(content[0], json!({ "type": "input_text", "text": "what is it" }));
    assert_eq!((&content[1]["image_url"], &content[1]["detail"]), (&json!(image), &json!("low")));
    assert_eq!(content[2]["filename"], "a.txt");
    assert!(content[2]["file_data"].as_str().is_some_and(|data| data.ends_with("base64,aGVsbG8=")), "{content}");
    let after = items["last_id"].as_str().expect("an id");
    assert_eq!(served.get(&format!("{path}?after={after}"), "").await.json()["data"], json!([]));
}

#[tokio::test]
async fn a_response_that_is_over_is_deleted_with_its_run() {
    let served = open_to_everyone().await;
    let held = served.created(json!({ "model": "held", "input": "1", "background": true })).await;
    let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    let refused = served.ask(Ask { method: "DELETE", path: &path(&held), ..Ask::default() }).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.head.contains("x-should-retry: false"), "{refused:?}");
    let done = served.created(json!({ "model": "echo", "input": "x" })).await;
    let deleted = served.ask(Ask { method: "DELETE", path: &path(&done), ..Ask::default() }).await;
    assert_eq!(deleted.json(), json!({ "id": done["id"], "object": "response", "deleted": true }));
    assert_eq!(served.get(&path(&done), "").await.status, 404);
    assert_eq!(served.response(held["id"].as_str().expect("an id")).await["status"], "in_progress");
    served.release();
    // A run that has not ended may read those of its conversation.
    let read = served.created(json!({ "model": "ticks", "input": "1", "conversation": "c" })).await;
    let later = json!({ "model": "ticks", "input": "100000", "conversation": "c", "background": true });
    let later = served.created(later).await;
    let refused = served.ask(Ask { method: "DELETE", path: &path(&read), ..Ask::default() }).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (409, &json!("response_in_use")), "{refused:?}");
    served.post(&format!("{}/cancel", path(&later)), "", "").await;
    assert_eq!(served.ask(Ask { method: "DELETE", path: &path(&read), ..Ask::default() }).await.status, 200);
}

#[tokio::test]
async fn repeating_a_request_with_its_key_gives_the_same_response() {
    let served = open_to_everyone().await;
    let body = json!({ "model": "echo", "input": "once", "background": true });
    let key = "Idempotency-Key: mine\r\n";
    let first = served.create(None, key, body.clone()).await;
    let second = served.create(None, key, body).await;
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert!(second.head.contains("idempotent-replay: true") && !first.head.contains("idempotent-replay"));
    let other = served.create(None, key, json!({ "model": "echo", "input": "twice", "background": true })).await;
    assert_eq!((other.status, &other.json()["error"]["code"]), (409, &json!("idempotency_mismatch")), "{other:?}");
    assert!(other.head.contains("x-should-retry: false"), "time does not change it: {other:?}");
}

#[tokio::test]
async fn refusals_are_errors_as_openais_sdks_read_them() {
    let served = Served::start().await;
    let key = served.user("ada").await;
    let of = async |token: Option<&str>, body: Value| served.create(token, "", body).await;
    let unauthenticated = of(None, json!({ "model": "echo", "input": "x" })).await;
    assert_eq!(
        (unauthenticated.status, &unauthenticated.json()["error"]["type"]),
        (401, &json!("authentication_error"))
    );
    for (body, status, param, code) in [
        (json!({ "model": "nobodys", "input": "x" }), 404, Value::Null, "model_not_found"),
        (json!({ "input": "x" }), 400, json!("model"), "missing_required_parameter"),
        (json!({ "model": "echo", "input": "x", "tools": [{}] }), 400, json!("tools"), "unsupported_parameter"),
        (json!({ "model": "echo", "input": "x", "wat": 1 }), 400, json!("wat"), "unknown_parameter"),
        (json!({ "model": "echo", "input": "x", "store": false }), 400, json!("store"), "value_error"),
        (
            json!({ "model": "echo", "input": [{ "role": "assistant", "content": "x" }] }),
            400,
            json!("input[0]"),
            "unsupported_value",
        ),
        (
            json!({ "model": "echo", "input": "x", "conversation": "a b" }),
            400,
            json!("conversation"),
            "string_pattern_mismatch",
        ),
        (json!([]), 400, json!(""), "value_error"),
    ] {
        let answer = of(Some(&key), body.clone()).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["param"], &error["code"]),
            (status, &param, &json!(code)),
            "{body}: {answer:?}"
        );
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    for path in
        ["/v1/responses/resp_nobodys", "/v1/responses/nobodys", "/v1/responses/resp_nobodys/input_items", "/v1/nothing"]
    {
        let answer = served.get(path, &key).await;
        assert_eq!((answer.status, &answer.json()["error"]["type"]), (404, &json!("invalid_request_error")), "{path}");
    }
    let done = of(Some(&key), json!({ "model": "echo", "input": "x" })).await.json();
    for after in ["-1", "x", "", "1.5", "9007199254740993"] {
        let path = format!("/v1/responses/{}?stream=true&starting_after={after}", done["id"].as_str().expect("an id"));
        let answer = served.get(&path, &key).await;
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("starting_after")), "{after:?}");
    }
    // What the SDKs ask for beside is left alone.
    let path = format!("/v1/responses/{}?stream=false&include[]=a&include[]=b", done["id"].as_str().expect("an id"));
    assert_eq!(served.get(&path, &key).await.json(), done);
    // Another user's response does not exist.
    let other = served.user("bob").await;
    let path = format!("/v1/responses/{}", done["id"].as_str().expect("an id"));
    assert_eq!(served.get(&path, &other).await.status, 404);
    // Starting asks for the scope of what is started, too.
    let scopes = Scopes::parse(["runs:read", "runs:write", "workflows:echo:run"]);
    let narrow = served.key(Some("ada"), scopes).await.0;
    assert_eq!(of(Some(&narrow), json!({ "model": "echo", "input": "x" })).await.status, 200);
    let answer = of(Some(&narrow), json!({ "model": "agent:helper", "input": "x" })).await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (403, &json!("permission_error")), "{answer:?}");
    let models = served.get("/v1/models", &narrow).await.json();
    let ids: Vec<_> = models["data"].as_array().expect("a list").iter().map(|model| model["id"].clone()).collect();
    assert_eq!(ids, [json!("echo")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_key_is_revoked_ends_with_an_error_and_the_place_to_go_on_from() {
    let limits = Limits { recheck_period: Duration::from_millis(100), ..Limits::default() };
    let served = Served::with(Setup { limits, ..Setup::default() }).await;
    for (model, input) in [("ticks", "100000"), ("held", "1")] {
        let (key, record) = served.key(Some("ada"), served.scopes_but(None)).await;
        let body = json!({ "model": model, "input": input, "background": true });
        let started = served.create(Some(&key), "", body).await.json();
        let path = format!("/v1/responses/{}?stream=true", started["id"].as_str().expect("an id"));
        let stream = served.send(Ask { path: &path, token: Some(&key), ..Ask::default() }).await;
        let mut lines = BufReader::new(stream).lines();
        let mut told: Vec<Value> = Vec::new();
        while let Some(line) = in_time(lines.next_line()).await.expect("open") {
            told.extend(line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).expect("JSON")));
            if told.len() == 3 {
                served.revoke(&record).await;
            }
        }
        let [.., before, last] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&last["type"], &last["error"]["code"]), (&json!("error"), &json!("auth_expired")), "{model}");
        assert_eq!(last["sequence_number"], before["sequence_number"], "{model}");
        let run_id = RunId::parse(started["outlive"]["run_id"].as_str().expect("an id")).expect("an id");
        let run = served.engine.get_run(&run_id).await.expect("readable").expect("there");
        assert_eq!(run.status, RunStatus::Running, "{model}: the run itself goes on");
    }
}

#[tokio::test]
async fn what_is_served_is_listed_as_models() {
    let served = open_to_everyone().await;
    let models = served.get("/v1/models", "").await.json();
    let ids: Vec<&str> =
        models["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
    for id in ["echo", "agent:helper", "team:crew"] {
        assert!(ids.contains(&id), "{ids:?}");
        let model = served.get(&format!("/v1/models/{id}"), "").await.json();
        assert_eq!((&model["id"], &model["object"]), (&json!(id), &json!("model")));
    }
    // An agent is found by its own name, too.
    let done = served.created(json!({ "model": "helper", "input": "x" })).await;
    assert_eq!(done["model"], "agent:helper");
    assert_eq!(served.get("/v1/models/nobodys", "").await.status, 404);
}

#[tokio::test]
async fn images_that_steps_made_are_items_and_other_media_stand_beside() {
    let served = open_to_everyone().await;
    let done = served.created(json!({ "model": "paints", "input": "two" })).await;
    let id = done["id"].as_str().expect("an id").to_owned();
    let output = done["output"].as_array().expect("items");
    let kinds: Vec<&Value> = output.iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["message", "image_generation_call", "image_generation_call"]);
    assert_eq!(output_text(&done), "painted");
    assert_eq!(
        output[1],
        json!({
            "id": format!("ig_{}_0", id.trim_start_matches("resp_")), "type": "image_generation_call",
            "status": "completed", "result": "aW1hZ2U=", "output_format": "png",
        })
    );
    assert_eq!((&output[2]["id"], &output[2]["output_format"]), (&json!(format!("ig_{}_1", &id[5..])), &json!("svg")));
    let own = &done["outlive"];
    assert_eq!(own["images"], json!([{ "url": "https://x.example/far.png" }]));
    assert_eq!(own["files"], json!([{ "content": "YQ==", "mime_type": "text/plain", "filename": "a.txt" }]));
    assert!(own.get("videos").is_none() && own.get("audio").is_none(), "{own}");
    assert_eq!(served.response(&id).await, done);
    // A stream tells the same, from every place on.
    let whole = served.streamed(&id, None).await;
    assert_eq!(messages(&whole), *output);
    assert_eq!(whole.last().expect("an end")["response"], done);
    for (at, event) in whole.iter().enumerate() {
        assert_eq!(served.streamed(&id, Some(number(event))).await, whole[at + 1..]);
    }
    // However many there are.
    let many = served.created(json!({ "model": "paints", "input": "many" })).await;
    assert_eq!(many["output"].as_array().map(Vec::len), Some(1 + 2000));
    let whole = served.streamed(many["id"].as_str().expect("an id"), None).await;
    assert_eq!(whole.last().expect("an end")["response"], many);
    assert!(messages(&whole).len() > 100);
}

#[tokio::test]
async fn a_number_that_a_response_has_not_come_to_is_refused() {
    let served = open_to_everyone().await;
    let done = served.created(json!({ "model": "echo", "input": "x" })).await;
    let held = served.created(json!({ "model": "held", "input": "1", "background": true })).await;
    for response in [&done, &held] {
        let id = response["id"].as_str().expect("an id");
        for after in ["99000", "9007199254739999"] {
            let path = format!("/v1/responses/{id}?stream=true&starting_after={after}");
            let answer = served.get(&path, "").await;
            assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("starting_after")), "{after}");
        }
    }
    // Whoever has it all is told nothing more.
    let id = done["id"].as_str().expect("an id");
    let last = served.streamed(id, None).await.last().map(number);
    assert_eq!(served.streamed(id, last).await, Vec::<Value>::new());
    served.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_server_on_the_store_goes_on_where_another_left_off() {
    let db = InMemoryDb::new();
    let setup = || Setup { with_keys: false, ..Setup::default() };
    let one = Served::on(db.clone(), setup()).await;
    let started = one.created(json!({ "model": "poet", "input": "x", "background": true })).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    let whole = one.streamed(&id, None).await;
    drop(one);
    // Which text is the response's is what it was when the run was accepted.
    let other = Served::on(db, Setup { is_updated: true, ..setup() }).await;
    let updated = other.created(json!({ "model": "poet", "input": "x" })).await;
    assert_eq!(output_text(&updated), "Roses");
    for after in whole.iter().map(number) {
        let rest: Vec<Value> = whole.iter().filter(|event| number(event) > after).cloned().collect();
        assert_eq!(other.streamed(&id, Some(after)).await, rest, "after {after}");
    }
    assert_eq!(other.response(&id).await, whole.last().expect("an end")["response"]);
}
