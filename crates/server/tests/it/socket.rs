//! What clients do to a WebSocket, by mistake and on purpose, and that the runs behind it never notice.

use crate::served::{Answer, Ask, Heard, Raw, Served, Setup, in_time};
use outlive_core::{RunId, RunStatus};
use outlive_server::config::Limits;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
/// A text's beginning, and what follows it, when it is not the end.
const TEXT_BEGINS: u8 = 0x01;
const GOES_ON: u8 = 0x00;

async fn open_to_everyone() -> Served {
    Served::with(Setup { with_keys: false, ..Setup::default() }).await
}

async fn with(limits: Limits, with_keys: bool) -> Served {
    Served::with(Setup { limits, with_keys, ..Setup::default() }).await
}

fn reconnect(run_id: &RunId, last: Option<u64>) -> Value {
    json!({ "action": "reconnect", "run_id": run_id, "last_event_index": last })
}

#[tokio::test]
async fn bad_d01_a_page_from_elsewhere_opens_no_socket_whatever_is_asked_of_callers() {
    for served in [open_to_everyone().await, Served::start().await] {
        for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
            match served.open(origin).await {
                Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                    assert_eq!(answer.status(), 403, "{origin}")
                }
                Err(other) => panic!("{origin}: {other}"),
                Ok(_) => panic!("{origin} was let in"),
            }
        }
        let own = format!("http://{}", served.address);
        assert!(served.open("").await.is_ok() && served.open(&own).await.is_ok());
    }
}

#[tokio::test]
async fn bad_d02_who_says_nothing_of_themselves_in_time_is_closed() {
    let period = Duration::from_millis(200);
    let served = with(Limits { socket_auth_period: period, ..Limits::default() }, true).await;
    let begun = Instant::now();
    let mut known = served.socket_of(&served.user("alice").await).await;
    let mut unknown = served.socket().await;
    // What needs no credential does not buy time either.
    unknown.say(json!({ "action": "ping" })).await;
    assert_eq!(unknown.closed().await, Some(4401));
    assert!(begun.elapsed() >= period, "{:?}", begun.elapsed());
    known.say(json!({ "action": "ping" })).await;
    assert_eq!(known.event().await["event"], "pong", "who is known stays");
}

#[tokio::test]
async fn bad_d03_the_fifth_wrong_token_ends_the_socket() {
    let served = Served::start().await;
    let key = served.user("alice").await;
    let mut socket = served.socket().await;
    for n in 0..10_000 {
        socket.say(json!({ "action": "authenticate", "token": format!("wrong {n}") })).await;
        if n == 10 {
            break;
        }
    }
    let mut refused = 0;
    let code = loop {
        match socket.next().await {
            Heard::Event(event) if event["event"] == "auth_error" => refused += 1,
            Heard::Event(_) => {}
            Heard::Closed(frame) => break frame.map(|frame| u16::from(frame.code)),
        }
    };
    assert_eq!((refused, code), (5, Some(4401)));
    // Not even the right one helps behind them, and the others' failures are nobody else's.
    served.socket_of(&key).await;
}

#[tokio::test]
async fn bad_d04_what_makes_no_sense_is_answered_and_after_twenty_the_socket_ends() {
    let served = open_to_everyone().await;
    let mut socket = served.socket().await;
    assert_eq!(socket.event().await["event"], "connected");
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let deep_object = format!("{}1{}", r#"{"action":"#.repeat(100), "}".repeat(100));
    let long = json!({ "action": "x".repeat(1000) }).to_string();
    let all = [
        "",
        "no json",
        "[]",
        "42",
        "null",
        "\"ping\"",
        "{}",
        r#"{"action":7}"#,
        r#"{"action":"fly"}"#,
        &deep,
        &deep_object,
        r#"{"action":"ping""#,
        "{\"action\":\"ping\"}{}",
        "\u{feff}{}",
        r#"{"action":"ping","action":"fly"}"#,
        &long,
        "{\"action\":\"\\ud800\"}",
        "NaN",
        r#"{"action":"__proto__"}"#,
        r#"{"action":null}"#,
    ];
    assert_eq!(all.len(), 20);
    for text in all {
        socket.send(Message::text(text)).await;
        let event = socket.event().await;
        assert_eq!(event["event"], "error", "{text}: {event}");
        let error = event["error"].as_str().expect("a text");
        assert!(error.len() < 300, "{text}: what was sent is not sent back: {error}");
    }
    socket.say(json!({ "action": "ping" })).await;
    assert_eq!(socket.event().await["event"], "pong", "it is still of use");
    socket.send(Message::text("once more")).await;
    assert_eq!(socket.closed().await, Some(1008));
    assert!(served.is_well().await);
}

#[tokio::test]
async fn bad_d04_fields_of_the_wrong_kind_are_answered_and_make_no_run() {
    let served = open_to_everyone().await;
    let mut socket = served.socket().await;
    assert_eq!(socket.event().await["event"], "connected");
    for frame in [
        json!({ "action": "start-workflow" }),
        json!({ "action": "start-workflow", "workflow_id": 7 }),
        json!({ "action": "start-workflow", "workflow_id": "nothing" }),
        json!({ "action": "start-workflow", "workflow_id": "echo", "message": { "a": 1 } }),
        json!({ "action": "start-workflow", "workflow_id": "echo", "session_id": ["x"] }),
        json!({ "action": "start-workflow", "workflow_id": "echo", "session_state": "x" }),
        json!({ "action": "start-workflow", "workflow_id": "echo", "session_id": "not / an id\n" }),
        json!({ "action": "reconnect" }),
        json!({ "action": "reconnect", "run_id": 7 }),
        json!({ "action": "reconnect", "run_id": "nothing" }),
        json!({ "action": "reconnect", "run_id": "x", "last_event_index": "1" }),
        json!({ "action": "reconnect", "run_id": "x", "last_event_index": -2 }),
        json!({ "action": "reconnect", "run_id": "x", "last_event_index": 1.5 }),
        json!({ "action": "reconnect", "run_id": "x", "last_event_index": u64::MAX }),
        json!({ "action": "cancel-workflow" }),
        json!({ "action": "cancel-workflow", "run_id": "nothing" }),
        json!({ "action": "continue-workflow", "run_id": "nothing" }),
    ] {
        socket.say(frame.clone()).await;
        let event = socket.event().await;
        assert_eq!(event["event"], "error", "{frame}: {event}");
    }
    let runs = served.engine.runs(outlive_core::port::RunFilter { limit: 10, ..Default::default() }).await;
    assert!(runs.expect("readable").runs.is_empty(), "no run was made");
}

#[tokio::test]
async fn bad_d05_what_is_not_text_ends_the_socket_with_the_code_for_it() {
    let served = open_to_everyone().await;
    let mut socket = served.raw().await;
    socket.say(BINARY, b"{\"action\":\"ping\"}").await;
    assert_eq!(socket.closed().await, Some(1003));
    for text in [&b"\xff\xfe"[..], b"\xc3\x28", b"\xed\xa0\x80", b"{\"action\":\"\xf0\x9f\"}"] {
        let mut socket = served.raw().await;
        socket.say(TEXT, text).await;
        assert_eq!(socket.closed().await, Some(1007), "{text:?}");
    }
    assert!(served.is_well().await);
}

#[tokio::test]
async fn bad_d06_frames_too_large_and_frames_against_the_rules_end_the_socket() {
    let served = open_to_everyone().await;
    let mut huge = served.raw().await;
    let length = (100_u64 << 20).to_be_bytes();
    huge.send(&[&[TEXT, 0x80 | 127][..], &length, &[0; 4]].concat()).await;
    assert_eq!(huge.closed().await, Some(1009), "a frame of 100 MiB");
    let mut pieces = served.raw().await;
    let piece = [b'x'; 8 << 10];
    assert!(pieces.say(TEXT_BEGINS, &piece).await);
    // It says all of it before it listens. A reset meanwhile would take the code from many a client.
    for n in 0..1_000 {
        assert!(pieces.say(GOES_ON, &piece).await, "reset at piece {n}");
    }
    assert_eq!(pieces.closed().await, Some(1009), "a message of many pieces");
    assert!(pieces.ended().await, "a reset instead of an end");
    let against_the_rules: [(&str, Vec<u8>); 6] = [
        ("a control frame in pieces", vec![0x09, 0x80, 0, 0, 0, 0]),
        ("a long control frame", [&[PING, 0x80 | 126, 0, 200, 0, 0, 0, 0][..], &[0; 200]].concat()),
        ("without a mask", vec![TEXT, 2, b'h', b'i']),
        ("compressed, which nobody agreed to", vec![0xc1, 0x82, 0, 0, 0, 0, b'h', b'i']),
        ("an unknown opcode", vec![0x83, 0x80, 0, 0, 0, 0]),
        ("a piece of nothing", vec![0x80, 0x80, 0, 0, 0, 0]),
    ];
    for (what, frame) in against_the_rules {
        let mut socket = served.raw().await;
        socket.send(&frame).await;
        assert_eq!(socket.closed().await, Some(1002), "{what}");
    }
    assert!(served.is_well().await);
}

#[tokio::test]
async fn bad_d07_compression_is_not_offered() {
    let served = open_to_everyone().await;
    let socket = served.raw().await;
    assert!(!socket.head.to_ascii_lowercase().contains("sec-websocket-extensions"), "{}", socket.head);
}

#[tokio::test]
async fn bad_d08_a_flood_of_pings_ends_the_socket() {
    let served = open_to_everyone().await;
    let mut socket = served.raw().await;
    let mut flood = Vec::new();
    for _ in 0..10_000 {
        flood.extend([PING, 0x80, 0, 0, 0, 0]);
    }
    socket.send(&flood).await;
    assert_eq!(socket.closed().await, Some(1008));
    assert!(served.is_well().await);
}

#[tokio::test]
async fn bad_d08_a_peer_that_answers_no_ping_is_cut_and_leaves_its_place() {
    // One connection at a time: the next is served when the first has left its place.
    let limits = Limits { recheck_period: Duration::from_millis(50), connections_max: 1, ..Limits::default() };
    let served = with(limits, false).await;
    let mut silent = served.raw().await;
    let mut pings = 0;
    while let Some((opcode, _)) = silent.frame().await {
        pings += usize::from(opcode == 9);
    }
    assert_eq!(pings, 2, "two chances");
    assert!(served.is_well().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_d09_a_socket_follows_256_runs_and_each_of_them_once() {
    let served = open_to_everyone().await;
    let mut runs = Vec::new();
    for _ in 0..257 {
        runs.push(served.submit("held", "0").await);
    }
    for run_id in &runs {
        served.until_length(run_id, 2).await;
    }
    let mut socket = served.socket().await;
    assert_eq!(socket.event().await["event"], "connected");
    // All at once, as a client that comes back does.
    for run_id in &runs {
        socket.say(reconnect(run_id, Some(1))).await;
    }
    let refused = socket.until("error").await;
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("256 runs")), "{refused}");
    // A run it follows already needs no further place; the later subscription takes the place of the earlier ones.
    for _ in 0..100 {
        socket.say(reconnect(&runs[0], Some(1))).await;
    }
    socket.say(json!({ "action": "ping" })).await;
    socket.until("pong").await;
    served.release();
    let mut ended = std::collections::HashMap::<String, usize>::new();
    while ended.len() < 256 {
        let event = socket.event().await;
        if event["event"] == "WorkflowCompleted" {
            *ended.entry(event["run_id"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
    }
    socket.say(json!({ "action": "ping" })).await;
    while let Heard::Event(event) = socket.next().await
        && event["event"] != "pong"
    {
        assert_ne!(event["event"], "WorkflowCompleted", "each end is told once: {event}");
    }
    assert!(ended.values().all(|count| *count == 1), "each end is told once: {ended:?}");
    assert!(!ended.contains_key(runs[256].as_str()), "the one that was refused is not followed");
    // The places are free again.
    socket.say(reconnect(&runs[256], None)).await;
    assert_eq!(socket.event().await["event"], "replay");
}

/// Everything a socket is told about a run until its end: the indexes.
async fn indexes(socket: &mut crate::served::Socket) -> Vec<u64> {
    let mut indexes = Vec::new();
    loop {
        let event = socket.event().await;
        indexes.extend(event["event_index"].as_u64());
        if event["event"] == "WorkflowCompleted" {
            return indexes;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_d10_a_client_that_stops_reading_holds_up_nobody() {
    let served = open_to_everyone().await;
    let run_id = served.submit("flood", "30").await;
    let mut stuck = served.narrow().await;
    stuck.say(TEXT, reconnect(&run_id, None).to_string().as_bytes()).await;
    let mut reading = served.socket().await;
    reading.say(reconnect(&run_id, None)).await;
    let (end, told) = tokio::join!(served.end_of(&run_id), indexes(&mut reading));
    assert_eq!(end.status, RunStatus::Completed);
    assert!(told.iter().copied().eq(0..told.len() as u64) && told.len() > 30, "the other is told everything");
    assert!(served.is_well().await);
}

#[tokio::test]
async fn bad_d10_a_client_that_stops_reading_is_cut_and_nothing_is_kept_for_it() {
    // One connection at a time: the next is served when the stuck one has left its place. No other client has so little
    // time, because one that merely waits for its turn on a busy machine would be cut as well.
    let limits = Limits { write_idle_period: Duration::from_millis(300), connections_max: 1, ..Limits::default() };
    let served = with(limits, false).await;
    let mut stuck = served.narrow().await;
    let run_id = served.submit("flood", "30").await;
    stuck.say(TEXT, reconnect(&run_id, None).to_string().as_bytes()).await;
    assert_eq!(served.end_of(&run_id).await.status, RunStatus::Completed);
    assert!(served.is_well().await);
    // Only now it reads: what its own system has kept. What the server's had is gone with the connection.
    let mut bytes = 0;
    while let Some((_, payload)) = stuck.frame().await {
        bytes += payload.len();
    }
    assert!(bytes < 1 << 20, "{bytes} bytes were kept for a client that did not read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_d10_a_client_that_reads_too_slowly_is_told_where_to_go_on() {
    let served = open_to_everyone().await;
    let run_id = served.submit("flood", "20 300").await;
    let mut slow = served.narrow().await;
    slow.say(TEXT, reconnect(&run_id, None).to_string().as_bytes()).await;
    served.end_of(&run_id).await;
    let mut next = 0;
    slow.filled().await;
    // The client's slowness, more than the second that is forgiven.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let (lagged, code) = loop {
        let (opcode, payload) = slow.frame().await.expect("it is told before it is cut");
        if opcode == 8 {
            break (None, u16::from_be_bytes([payload[0], payload[1]]));
        }
        if opcode != 1 {
            continue;
        }
        let event: Value = serde_json::from_slice(&payload).expect("JSON");
        if event["event"] == "lagged" {
            let code = slow.closed().await.expect("a close frame");
            break (event["last_event_index"].as_u64(), code);
        }
        if let Some(index) = event["event_index"].as_u64() {
            assert_eq!(index, next);
            next += 1;
        }
    };
    assert_eq!((lagged, code), (next.checked_sub(1), 1013));
    assert_eq!(served.number("outlive_subscriber_lagged_total{transport=\"websocket\"}").await, 1.0);
    // From there the rest comes, without gap or repetition.
    let form = format!("last_event_index={}", next - 1);
    let rest = served.post(&format!("/workflows/flood/runs/{run_id}/resume"), "", &form).await;
    let indexes = sse_indexes(&rest);
    assert_eq!(indexes.first(), Some(&next));
    assert!(indexes.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert!(rest.body.contains("WorkflowCompleted"));
}

fn sse_indexes(answer: &Answer) -> Vec<u64> {
    let events = outlive_server::testing::parse_sse(&answer.body);
    events.iter().filter_map(|event| serde_json::from_str::<Value>(&event.data).ok()?["event_index"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_d11_one_of_two_followers_dies_and_the_other_loses_nothing() {
    let served = open_to_everyone().await;
    let run_id = served.submit("held", "50").await;
    let mut other = served.socket().await;
    other.say(reconnect(&run_id, None)).await;
    let mut dies = served.raw().await;
    dies.say(TEXT, reconnect(&run_id, None).to_string().as_bytes()).await;
    assert!(dies.frame().await.is_some(), "it is being told");
    drop(dies);
    let mut leaves = served.socket().await;
    leaves.say(reconnect(&run_id, None)).await;
    leaves.until("StepStarted").await;
    leaves.send(Message::Close(None)).await;
    assert!(matches!(leaves.next().await, Heard::Event(_) | Heard::Closed(_)));
    served.release();
    let told = indexes(&mut other).await;
    assert!(told.iter().copied().eq(0..told.len() as u64) && told.len() > 50, "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_d15_a_connection_cut_inside_a_frame_leaves_its_place_and_the_run_goes_on() {
    let served = with(Limits { connections_max: 1, ..Limits::default() }, false).await;
    let run_id = served.submit("held", "3").await;
    for half in [&[TEXT][..], &[TEXT, 0x80 | 126, 1], &[TEXT, 0x80 | 100, 0, 0, 0, 0, b'{']] {
        let mut socket = served.raw().await;
        socket.say(TEXT, reconnect(&run_id, None).to_string().as_bytes()).await;
        assert!(socket.frame().await.is_some());
        socket.send(half).await;
        drop(socket);
        // The only place is free again.
        assert!(served.is_well().await, "{half:?}");
    }
    served.release();
    assert_eq!(served.end_of(&run_id).await.status, RunStatus::Completed);
}

fn quick() -> Limits {
    Limits { recheck_period: Duration::from_millis(100), ..Limits::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_b11_a_revoked_or_expired_key_closes_the_socket_it_opened() {
    let served = with(quick(), true).await;
    let (revoked, record) = served.key(Some("alice"), served.scopes_but(None)).await;
    let end = served.clock_now() + Duration::from_secs(3600);
    let expiring = served.mint_until(Some("alice"), end).await;
    let staying = served.user("alice").await;
    let mut sockets = Vec::new();
    for key in [&revoked, &expiring, &staying] {
        sockets.push(served.socket_of(key).await);
    }
    served.revoke(&record).await;
    assert_eq!(sockets[0].closed().await, Some(4401));
    sockets[1].say(json!({ "action": "ping" })).await;
    assert_eq!(sockets[1].event().await["event"], "pong", "its time is not over");
    served.clock.advance(Duration::from_secs(3601));
    assert_eq!(sockets[1].closed().await, Some(4401));
    sockets[2].say(json!({ "action": "ping" })).await;
    assert_eq!(sockets[2].event().await["event"], "pong", "a good key keeps its socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_b11_no_action_on_a_socket_outlives_its_key() {
    let served = Served::start().await;
    let (alice, form) = (served.user("alice").await, "message=1&stream=false&background=true");
    let run_id = served.post("/workflows/held/runs", &alice, form).await.text("run_id");
    let actions = [
        json!({ "action": "ping" }),
        json!({ "action": "start-workflow", "workflow_id": "echo", "message": "x" }),
        json!({ "action": "reconnect", "run_id": run_id }),
        json!({ "action": "cancel-workflow", "run_id": run_id }),
        json!({ "action": "continue-workflow", "run_id": run_id }),
    ];
    for action in &actions {
        // One that is revoked, and one whose time is over.
        let (revoked, record) = served.key(Some("alice"), served.scopes_but(None)).await;
        let end = served.clock_now() + Duration::from_secs(3600);
        let expiring = served.mint_until(Some("alice"), end).await;
        let mut sockets = [served.socket_of(&revoked).await, served.socket_of(&expiring).await];
        for socket in &mut sockets {
            socket.say(json!({ "action": "ping" })).await;
            assert_eq!(socket.event().await["event"], "pong");
        }
        served.revoke(&record).await;
        served.clock.advance(Duration::from_secs(3601));
        for socket in &mut sockets {
            socket.say(action.clone()).await;
            assert_eq!(socket.closed_at_once().await, Some(4401), "{action}");
        }
    }
    let runs = served.engine.runs(outlive_core::port::RunFilter { limit: 10, ..Default::default() }).await;
    let runs = runs.expect("readable").runs;
    assert_eq!(runs.len(), 1, "none was started");
    assert_eq!(runs[0].status, RunStatus::Running, "and none was cancelled");
}

#[tokio::test]
async fn a_token_on_a_socket_may_have_its_scheme_before_it() {
    let served = Served::start().await;
    let key = served.user("alice").await;
    for token in [key.clone(), format!("Bearer {key}"), format!("bearer   {key}"), format!("BEARER\t{key}")] {
        served.socket_of(&token).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_b11_a_revoked_key_ends_a_stream_also_while_there_is_much_to_tell() {
    let served = with(quick(), true).await;
    for (workflow, input) in [("ticks", "100000"), ("held", "1")] {
        let (key, record) = served.key(Some("alice"), served.scopes_but(None)).await;
        let form = format!("message={input}&stream=false&background=true");
        let run_id = served.post(&format!("/workflows/{workflow}/runs"), &key, &form).await.text("run_id");
        let path = format!("/workflows/{workflow}/runs/{run_id}/resume");
        let ask = Ask { method: "POST", path: &path, token: Some(&key), ..Ask::default() };
        let mut stream = served.send(ask).await;
        let mut heard = vec![0; 1];
        in_time(tokio::io::AsyncReadExt::read_exact(&mut stream, &mut heard)).await.expect("an answer");
        served.revoke(&record).await;
        in_time(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut heard)).await.expect("an end");
        let heard = String::from_utf8_lossy(&heard);
        let last: String = heard.chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
        assert!(last.contains("event: auth_expired"), "{workflow}: {last}");
        let run = served.engine.get_run(&RunId::parse(&run_id).expect("an id")).await.expect("readable");
        assert_eq!(run.expect("there").status, RunStatus::Running, "{workflow}: the run itself goes on");
    }
}

#[tokio::test]
async fn s07_a_token_in_the_url_is_not_looked_at_and_another_token_takes_over_an_open_socket() {
    let served = Served::start().await;
    let (alice, bob) = (served.user("alice").await, served.user("bob").await);
    let url = format!("ws://{}/workflows/ws?token={alice}", served.address);
    let (stream, _) = tokio_tungstenite::connect_async(url).await.expect("upgraded");
    let mut socket = crate::served::Socket { stream };
    assert_eq!(socket.event().await["requires_auth"], true);
    socket.say(json!({ "action": "ping" })).await;
    assert_eq!(socket.event().await["event"], "auth_required");
    for (token, user) in [(&alice, "alice"), (&bob, "bob")] {
        socket.say(json!({ "action": "authenticate", "token": token })).await;
        assert_eq!(socket.event().await["user_id"], user);
    }
    // A wrong one takes nothing away.
    socket.say(json!({ "action": "authenticate", "token": "wrong" })).await;
    assert_eq!(socket.event().await["event"], "auth_error");
    socket.say(json!({ "action": "ping" })).await;
    assert_eq!(socket.event().await["event"], "pong");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s07_who_becomes_another_user_on_a_socket_no_longer_follows_the_first_ones_runs() {
    let served = Served::start().await;
    let (alice, bob) = (served.user("alice").await, served.user("bob").await);
    let mut socket = served.socket_of(&alice).await;
    socket.say(json!({ "action": "start-workflow", "workflow_id": "held", "message": "1" })).await;
    socket.until("StepProgress").await;
    socket.say(json!({ "action": "authenticate", "token": bob })).await;
    socket.until("authenticated").await;
    served.release();
    let runs = served.engine.runs(outlive_core::port::RunFilter { limit: 10, ..Default::default() }).await;
    let run_id = runs.expect("readable").runs[0].info.run_id.clone();
    served.end_of(&run_id).await;
    // The end of alice's run has been told to whoever is to hear it; bob hears the answer to his ping alone.
    let mut alices = served.socket_of(&alice).await;
    alices.say(reconnect(&run_id, None)).await;
    alices.until("WorkflowCompleted").await;
    socket.say(json!({ "action": "ping" })).await;
    assert_eq!(socket.event().await["event"], "pong");
}

#[tokio::test]
async fn a_thousand_sockets_one_after_the_other_leave_nothing_behind() {
    let served = with(Limits { connections_per_address_max: 4, ..Limits::default() }, false).await;
    for n in 0..1_000 {
        let mut socket: Raw = served.raw().await;
        if n % 2 == 0 {
            socket.say(0x88, &[3, 232]).await;
            assert_eq!(socket.closed().await, Some(1000), "socket {n}");
            // The place is free once the server has seen the end.
            while socket.frame().await.is_some() {}
        } else {
            drop(socket);
        }
    }
    assert!(served.is_well().await);
}
