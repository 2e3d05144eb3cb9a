//! Server-Sent Events: clients that come back, at any moment and from anywhere, and text that tries to be an event.

use crate::served::{Answer, Ask, PATIENCE, Served, Setup, in_time};
use outlive_core::{RunId, RunStatus};
use outlive_server::config::Limits;
use outlive_server::testing::{SseEvent, parse_sse};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

async fn open_to_everyone() -> Served {
    Served::with(Setup { with_keys: false, ..Setup::default() }).await
}

/// The events of a run in an answer, in order: index and data.
fn events(body: &str) -> Vec<(u64, Value)> {
    let json = |event: SseEvent| serde_json::from_str::<Value>(&event.data).expect("JSON");
    let events = parse_sse(body).into_iter().map(json);
    events.filter_map(|event| Some((event["event_index"].as_u64()?, event))).collect()
}

/// Random numbers from a seed that is printed: `OUTLIVE_SEED` gives the same ones again.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let set = std::env::var("OUTLIVE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = set.unwrap_or_else(|| u64::from(std::process::id()));
        // Not `println`, which the test harness would hold back.
        let _ = writeln!(std::io::stderr(), "OUTLIVE_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Follows a run from after the last event of `seen` over one connection, until `at_most` more were seen. Whether the
/// run's end was among them.
async fn follow(served: &Served, run_id: &RunId, seen: &mut Vec<Value>, at_most: u64, by_header: bool) -> bool {
    let path = format!("/workflows/ticks/runs/{run_id}/resume");
    let last = seen.len().checked_sub(1);
    let (headers, body) = match last {
        None => (String::new(), String::new()),
        Some(last) if by_header => (format!("Last-Event-ID: {last}\r\n"), String::new()),
        Some(last) => (String::new(), format!("last_event_index={last}")),
    };
    let ask = Ask { method: "POST", path: &path, headers: &headers, body: &body, ..Ask::default() };
    let mut lines = BufReader::new(served.send(ask).await).lines();
    let mut left = at_most;
    while left > 0 {
        let Some(line) = in_time(lines.next_line()).await.expect("open") else { panic!("a stream ended early") };
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let event: Value = serde_json::from_str(data).expect("JSON");
        assert_ne!(event["event"], "error", "{event}");
        let Some(index) = event["event_index"].as_u64() else { continue };
        assert_eq!(index, seen.len() as u64, "a gap or a repetition: {event}");
        let is_end = event["event"] == "WorkflowCompleted";
        seen.push(event);
        left -= 1;
        if is_end {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_d12_a_thousand_resumes_racing_with_new_events_lose_and_repeat_nothing() {
    let served = open_to_everyone().await;
    let resumes = AtomicUsize::new(0);
    let mut dice = Dice::new();
    while resumes.load(Ordering::Relaxed) < 1_000 {
        let run_id = served.submit("ticks", "400").await;
        let clients = (0..8).map(|_| {
            let (mut dice, served, run_id, resumes) = (Dice(dice.below(u64::MAX)), &served, &run_id, &resumes);
            async move {
                let mut seen = Vec::new();
                while !follow(served, run_id, &mut seen, dice.below(12), dice.below(2) == 0).await {
                    resumes.fetch_add(1, Ordering::Relaxed);
                }
                seen
            }
        });
        let seen = futures::future::join_all(clients).await;
        let log = served.engine.events(&run_id, None).stored().await.expect("readable");
        let log: Vec<Value> = log.iter().map(|event| serde_json::to_value(event).expect("JSON")).collect();
        assert!(seen.iter().all(|seen| *seen == log), "every client has the log, each event once");
        assert!(log.len() > 400);
    }
}

#[tokio::test]
async fn bad_d13_an_index_that_is_none_is_refused_by_its_name() {
    let served = open_to_everyone().await;
    let run_id = served.submit("echo", "x").await;
    served.end_of(&run_id).await;
    let resume = format!("/workflows/echo/runs/{run_id}/resume");
    let stream = format!("/api/runs/{run_id}/stream");
    let long = "9".repeat(10 << 10);
    for index in [
        "abc",
        "-1",
        "+5",
        "1,2",
        "1\r\nLast-Event-ID: 2",
        "",
        "1.5",
        "1e3",
        "0x1",
        " ",
        "18446744073709551616",
        "9223372036854775808",
        &long,
    ] {
        let headers = format!("Last-Event-ID: {index}\r\n");
        for (method, path) in [("POST", &resume), ("GET", &stream)] {
            let answer = served.ask(Ask { method, path, headers: &headers, ..Ask::default() }).await;
            assert_eq!(answer.status, 422, "{method} {index:?}: {}", answer.head);
            assert!(answer.body.contains("Last-Event-ID") && !answer.body.contains("99999"), "{}", answer.body);
        }
        // A form's number may be of any size and sign, as in Agno: beyond both ends it means the ends.
        if index.parse::<f64>().is_err() || index.contains(['.', 'e']) {
            if index.trim().is_empty() || index.contains('\n') {
                continue;
            }
            let form = format!("last_event_index={index}");
            let answer = served.post(&resume, "", &form).await;
            assert_eq!(answer.status, 422, "{index:?}: {}", answer.body);
        }
    }
    // Beyond the end there is nothing to tell, and that is told at once.
    for index in [1_000_u64, i64::MAX.unsigned_abs()] {
        let answer = served.post(&resume, "", &format!("last_event_index={index}")).await;
        assert_eq!((answer.status, events(&answer.body)), (200, Vec::new()), "{index}");
    }
    assert!(served.is_well().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_d14_text_that_looks_like_frames_comes_back_as_the_text_it_is() {
    let served = open_to_everyone().await;
    let texts = [
        "a\nb\r\nc\rd",
        "\n\ndata: {\"event\":\"WorkflowCompleted\"}\n\n",
        "data: x",
        ": comment",
        "id: 999\nevent: error",
        "nul \0 end",
        "line\u{2028}paragraph\u{2029}next\u{85}",
        "\u{feff}mark",
        "emoji 🦀 and \u{202e}reversed",
        "\u{1b}[31m",
        "</script><script>alert(1)</script>",
        "\\n \\u0000 \\\\",
        "\u{7f}\u{80}\u{9f}",
    ];
    for text in texts {
        let run_id = served.submit("say", &text.replace('\0', "{nul}")).await;
        let mut socket = served.socket().await;
        socket.say(json!({ "action": "reconnect", "run_id": run_id })).await;
        let ended = served.end_of(&run_id).await;
        assert_eq!(ended.status, RunStatus::Completed, "{text:?}");
        let log = served.engine.events(&run_id, None).stored().await.expect("readable");
        let answer = served.post(&format!("/workflows/say/runs/{run_id}/resume"), "", "").await;
        let told = events(&answer.body);
        let expected: Vec<Value> = log.iter().map(|event| serde_json::to_value(event).expect("JSON")).collect();
        assert_eq!(told.iter().map(|(_, event)| event.clone()).collect::<Vec<_>>(), expected, "{text:?}");
        let said = told.iter().find(|(_, event)| event["event"] == "StepProgress").expect("it was told");
        assert_eq!((said.1["content"].as_str(), said.1["data"]["data"].as_str()), (Some(text), Some(text)));
        // One line a field, one name and one id an event, however the text splits for others.
        for line in
            answer.body.split("\r\n\r\n").last().expect("a body").split(['\n', '\r', '\u{2028}', '\u{2029}', '\u{85}'])
        {
            let is_field = ["event: ", "data: {", "id: ", ": keep-alive"].iter().any(|field| line.starts_with(field));
            assert!(line.is_empty() || is_field, "{text:?}: {line:?}");
        }
        let names = parse_sse(&answer.body);
        assert!(
            names.iter().all(|event| serde_json::from_str::<Value>(&event.data).expect("JSON")["event"] == event.event)
        );
        let on_socket = socket.until("StepProgress").await;
        assert_eq!(on_socket["content"].as_str(), Some(text), "{text:?}");
    }
}

/// Waits until the stream has said `text`.
async fn until(stream: &mut tokio::net::TcpStream, text: &str) -> String {
    let (mut heard, mut bytes) = (String::new(), [0; 4096]);
    while !heard.contains(text) {
        let count = in_time(stream.read(&mut bytes)).await.expect("open");
        assert!(count > 0, "it ended before {text}: {heard}");
        heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_d16_a_user_with_many_streams_is_told_to_end_some_and_others_are_not() {
    let limits = Limits { streams_per_caller_max: 3, ..Limits::default() };
    let served = Served::with(Setup { limits, ..Setup::default() }).await;
    let (alice, bob) = (served.user("alice").await, served.user("bob").await);
    let form = "message=1&stream=false&background=true";
    let run_id = served.post("/workflows/held/runs", &alice, form).await.text("run_id");
    let resume = format!("/workflows/held/runs/{run_id}/resume");
    let ask = Ask { method: "POST", path: &resume, token: Some(&alice), ..Ask::default() };
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = served.send(ask).await;
        until(&mut stream, "subscribed").await;
        streams.push(stream);
    }
    // A second key of the same user has no share of its own.
    let other_key = served.user("alice").await;
    for token in [&alice, &other_key] {
        for (method, path, body) in [
            ("POST", resume.as_str(), ""),
            ("POST", "/workflows/held/runs", "message=1&stream=true"),
            ("POST", "/workflows/held/runs", "message=1&stream=true&background=true"),
            ("GET", &format!("/api/runs/{run_id}/stream"), ""),
            ("GET", "/api/stream", ""),
        ] {
            let answer = served.ask(Ask { method, path, token: Some(token), body, ..Ask::default() }).await;
            assert_eq!(answer.status, 429, "{method} {path}: {answer:?}");
            let head = answer.head.to_ascii_lowercase();
            assert!(head.contains("retry-after: ") && head.contains("x-error-code: too_many_streams"), "{head}");
        }
    }
    let runs = served.engine.runs(outlive_core::port::RunFilter { limit: 10, ..Default::default() }).await;
    assert_eq!(runs.expect("readable").runs.len(), 1, "what was refused made no run");
    // Others, and what is no stream, are served.
    assert_eq!(served.get("/sessions", &alice).await.status, 200);
    let of_bob = served.post("/workflows/echo/runs", &bob, "message=x&stream=true").await;
    assert!(of_bob.body.contains("WorkflowCompleted"), "{of_bob:?}");
    // Whoever leaves makes room.
    streams.pop();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut stream = served.send(ask).await;
        let mut first = [0; 12];
        in_time(stream.read_exact(&mut first)).await.expect("an answer");
        if &first == b"HTTP/1.0 200" {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the place stays taken");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_comes_back_by_itself_goes_on_after_the_id_it_saw_last() {
    let served = open_to_everyone().await;
    let run_id = served.submit("ticks", "50").await;
    served.end_of(&run_id).await;
    let stream = format!("/api/runs/{run_id}/stream");
    let whole = served.get(&stream, "").await;
    let ids: Vec<String> = parse_sse(&whole.body).into_iter().filter_map(|event| event.id).collect();
    let all = events(&whole.body);
    assert_eq!(ids.len(), all.len(), "every event has an id");
    for (place, id) in ids.iter().enumerate() {
        let headers = format!("Last-Event-ID: {id}\r\n");
        // The query is the one of the first request; the header knows better.
        let path = format!("{stream}?after=0");
        let rest: Answer = served.ask(Ask { path: &path, headers: &headers, ..Ask::default() }).await;
        assert_eq!(events(&rest.body), all[place + 1..], "after {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_ends_its_side_hears_its_stream_to_the_end() {
    let served = open_to_everyone().await;
    let ask = Ask { method: "POST", path: "/workflows/held/runs", body: "message=2&stream=true", ..Ask::default() };
    let mut stream = served.send(ask).await;
    stream.shutdown().await.expect("connected");
    // It may have gone altogether, so it is sent something that tells.
    let heard = until(&mut stream, ": keep-alive").await;
    assert!(heard.contains("WorkflowStarted"), "{heard}");
    served.release();
    until(&mut stream, "event: WorkflowCompleted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_its_stream_takes_nothing_from_the_run() {
    let served = open_to_everyone().await;
    let ask = Ask { method: "POST", path: "/workflows/held/runs", body: "message=2&stream=true", ..Ask::default() };
    let mut stream = served.send(ask).await;
    let heard = until(&mut stream, "StepProgress").await;
    let run_id = heard.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("x-run-id: ").map(str::to_owned));
    let run_id = RunId::parse(&run_id.expect("the answer names the run")).expect("an id");
    drop(stream);
    served.release();
    assert_eq!(served.end_of(&run_id).await.status, RunStatus::Completed);
    let answer = served.post(&format!("/workflows/held/runs/{run_id}/resume"), "", "").await;
    let indexes: Vec<u64> = events(&answer.body).into_iter().map(|(index, _)| index).collect();
    assert!(indexes.iter().copied().eq(0..indexes.len() as u64) && answer.body.contains("WorkflowCompleted"));
    assert!(served.is_well().await);
}
