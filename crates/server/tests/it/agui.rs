//! AG-UI's endpoint: runs are begun, followed from any place, interrupted and resumed, and whatever does not fit is
//! said.

use crate::served::{Answer, Ask, Served, Setup, in_time};
use outlive_core::{RunId, RunStatus};
use outlive_server::auth::Scopes;
use outlive_server::testing::{Page, parse_sse};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

async fn open_to_everyone() -> Served {
    Served::with(Setup { with_keys: false, ..Setup::default() }).await
}

/// A request with one message.
fn says(thread: &str, run: &str, text: &str) -> Value {
    json!({ "threadId": thread, "runId": run, "messages": [{ "id": "u1", "role": "user", "content": text }] })
}

/// The request with these fields too.
fn and(mut request: Value, fields: Value) -> Value {
    request.as_object_mut().expect("an object").extend(fields.as_object().cloned().expect("an object"));
    request
}

/// The request of a client that wants the places of events, and has them up to this one.
fn after(request: Value, place: Option<(i64, u64)>) -> Value {
    let mut marker = Map::from_iter([("enabled".to_owned(), json!(true))]);
    if let Some((index, part)) = place {
        marker.extend([("lastEventIndex".to_owned(), json!(index)), ("lastSubIndex".to_owned(), json!(part))]);
    }
    and(request, json!({ "forwardedProps": { "agnoBackground": marker } }))
}

async fn ask(served: &Served, path: &str, token: Option<&str>, headers: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let ask = Ask { method: "POST", path, token, headers, content_type: "application/json", body: &body };
    served.ask(ask).await
}

async fn talk(served: &Served, workflow: &str, body: &Value) -> Vec<Value> {
    let answer = ask(served, &format!("/workflows/{workflow}/agui"), None, "", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    events(&answer.body)
}

fn events(body: &str) -> Vec<Value> {
    parse_sse(body).into_iter().map(|event| serde_json::from_str(&event.data).expect("JSON")).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().expect("a type")).collect()
}

fn place(event: &Value) -> (i64, u64) {
    let marker = &event["metadata"]["agnoBackground"];
    let index = marker["eventIndex"].as_i64().unwrap_or_else(|| panic!("no place: {event}"));
    (index, marker["subIndex"].as_u64().expect("a part"))
}

fn page(events: &[Value]) -> Page {
    page_of("hi", events)
}

/// The page of somebody who has said this.
fn page_of(text: &str, events: &[Value]) -> Page {
    let mut page = Page::with(vec![json!({ "id": "u1", "role": "user", "content": text })]);
    page.hear_all(events).expect("AG-UI's client takes it");
    page
}

/// Reads until the stream has begun.
async fn begun(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.windows(11).any(|window| window == b"RUN_STARTED") {
        assert!(in_time(stream.read_buf(&mut bytes)).await.expect("connected") > 0, "it ended");
    }
    bytes
}

/// What the stream tells, from its beginning to its end.
async fn ended(mut stream: TcpStream, mut bytes: Vec<u8>) -> Vec<Value> {
    in_time(stream.read_to_end(&mut bytes)).await.expect("an end");
    events(&Answer::read(&bytes).body)
}

/// The code of the one event that says no.
fn refusal(answer: &Answer) -> (u16, String) {
    let told = events(&answer.body);
    assert_eq!(kinds(&told), ["RUN_ERROR"], "{answer:?}");
    (answer.status, told[0]["code"].as_str().expect("a code").to_owned())
}

fn code(answer: &Answer) -> String {
    let line = answer
        .head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("x-error-code: ").map(str::to_owned));
    line.unwrap_or_else(|| panic!("no code: {answer:?}"))
}

#[tokio::test]
async fn a_message_begins_a_run_under_the_clients_names_and_its_result_is_a_message() {
    let served = open_to_everyone().await;
    let told = talk(&served, "echo", &says("thread-1", "run-1", "hello")).await;
    assert_eq!(
        kinds(&told),
        [
            "RUN_STARTED",
            "STEP_STARTED",
            "STEP_FINISHED",
            "TEXT_MESSAGE_START",
            "TEXT_MESSAGE_CONTENT",
            "TEXT_MESSAGE_END",
            "RUN_FINISHED"
        ]
    );
    assert_eq!((&told[0]["threadId"], &told[0]["runId"]), (&json!("thread-1"), &json!("run-1")));
    assert_eq!(told[1]["stepName"], "shout");
    assert!(told.iter().all(|event| event.get("metadata").is_none()), "nobody asked for places");
    let page = page(&told);
    assert_eq!((page.texts(), &page.result, page.end.as_deref()), (vec!["HELLO"], &json!("HELLO"), Some("success")));
    let run = served.get("/workflows/echo/runs/run-1", "").await.json();
    assert_eq!((&run["session_id"], &run["status"]), (&json!("thread-1"), &json!("COMPLETED")));
    // As the agent or the team alone is asked, too.
    for path in ["/agents/helper/agui", "/teams/crew/agui"] {
        let run = path.replace('/', ".");
        let answer = ask(&served, path, None, "", &says(&format!("t{run}"), &format!("r{run}"), "x")).await;
        assert_eq!(
            (answer.status, events(&answer.body).last().map(|end| end["result"].clone())),
            (200, Some(json!("X")))
        );
    }
}

#[tokio::test]
async fn from_any_place_on_a_stream_is_the_rest_of_the_whole_by_cursor_and_by_id() {
    let served = open_to_everyone().await;
    for (workflow, text) in
        [("talks", "one two three"), ("branches", "a b"), ("ticks", "5"), ("say", "x"), ("mirror", "y")]
    {
        let request = and(says(workflow, &format!("run-{workflow}"), text), json!({ "state": { "k": 1 } }));
        let path = format!("/workflows/{workflow}/agui");
        let whole = ask(&served, &path, None, "", &after(request.clone(), None)).await;
        let ids: Vec<String> = parse_sse(&whole.body).into_iter().map(|event| event.id.expect("an id")).collect();
        let all = events(&whole.body);
        page(&all);
        let places: Vec<_> = all.iter().map(place).collect();
        assert!(places.is_sorted() && places.iter().collect::<BTreeSet<_>>().len() == places.len(), "{places:?}");
        let numbers: Vec<u64> = ids.iter().map(|id| id.parse().expect("a number")).collect();
        assert!(numbers.is_sorted_by(|one, other| one < other), "{numbers:?}");
        for (at, (place, id)) in places.iter().zip(&ids).enumerate() {
            let rest = ask(&served, &path, None, "", &after(request.clone(), Some(*place))).await;
            assert_eq!(events(&rest.body), all[at + 1..], "{workflow} after {place:?}");
            let header = format!("Last-Event-ID: {id}\r\n");
            let rest = ask(&served, &path, None, &header, &after(request.clone(), None)).await;
            assert_eq!(events(&rest.body), all[at + 1..], "{workflow} after {id}");
        }
    }
}

#[tokio::test]
async fn branches_speak_side_by_side_each_in_a_message_of_its_own() {
    let served = open_to_everyone().await;
    let told = talk(&served, "branches", &says("t", "r", "x")).await;
    let page = page(&told);
    let names: Vec<&Value> =
        told.iter().filter(|event| event["type"] == "TEXT_MESSAGE_START").map(|event| &event["name"]).collect();
    assert!(names.contains(&&json!("left")) && names.contains(&&json!("right")), "{names:?}");
    let texts = page.texts();
    assert!(texts.contains(&"left: x") && texts.contains(&"right: x"), "{texts:?}");
    let steps: Vec<&str> = told
        .iter()
        .filter(|event| event["type"] == "STEP_STARTED")
        .filter_map(|event| event["stepName"].as_str())
        .collect();
    assert_eq!(steps[0], "both");
    assert_eq!(steps[1..].iter().collect::<BTreeSet<_>>(), BTreeSet::from([&"left", &"right"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_at_whatever_moment_has_in_the_end_what_everybody_has() {
    let served = open_to_everyone().await;
    let request = says("thread", "run", "40");
    let path = "/workflows/ticking-talk/agui";
    let coming = (0..24).map(|_| ask(&served, path, None, "", &request));
    // The first begins the run, and so may another: whoever is second attaches.
    let answers = futures::future::join_all(coming).await;
    let run = served.get("/workflows/ticking-talk/runs?session_id=thread", "").await.json();
    assert_eq!(run.as_array().map(Vec::len), Some(1), "one run");
    let pages: Vec<Page> = answers.iter().map(|answer| page_of("40", &events(&answer.body))).collect();
    let late = page_of("40", &events(&ask(&served, path, None, "", &request).await.body));
    assert_eq!(late.texts(), [(0..40).map(|n| format!("{n} ")).collect::<String>()]);
    for page in pages {
        assert_eq!((page.messages, page.end), (late.messages.clone(), late.end.clone()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_opened_in_the_middle_begins_with_all_that_was_said() {
    let served = open_to_everyone().await;
    let request = says("t", "r", "7");
    let (path, body) = ("/workflows/held-talk/agui", request.to_string());
    let post = Ask { method: "POST", path, content_type: "application/json", body: &body, ..Ask::default() };
    let mut first = served.send(post).await;
    let of_first = begun(&mut first).await;
    served.until_length(&RunId::parse("r").expect("an id"), 3).await;
    // In the middle of a message, in a step.
    let mut second = served.send(post).await;
    let of_second = begun(&mut second).await;
    // Another with no more than the thread.
    let nothing = json!({ "threadId": "t", "runId": "other", "messages": [] }).to_string();
    let mut third = served.send(Ask { body: &nothing, ..post }).await;
    let of_third = begun(&mut third).await;
    served.release();
    let whole = ended(first, of_first).await;
    let second = ended(second, of_second).await;
    let third = ended(third, of_third).await;
    assert_eq!(kinds(&second)[..2], ["RUN_STARTED", "MESSAGES_SNAPSHOT"]);
    assert!(kinds(&second)[2..4].contains(&"STEP_STARTED"), "{second:?}");
    let [whole, second, third] = [whole, second, third].map(|told| page_of("7", &told));
    assert_eq!(whole.texts(), ["7 and out"]);
    assert_eq!(second.messages, whole.messages);
    // Who had nothing is told what the user had said.
    assert_eq!(third.messages[0], json!({ "id": "r:input", "role": "user", "content": "7" }));
    assert_eq!(third.messages[1..], whole.messages[1..]);
}

#[tokio::test]
async fn a_thread_is_told_with_what_was_said_in_it_before() {
    let served = open_to_everyone().await;
    for (run, text) in [("r1", "one"), ("r2", "two")] {
        talk(&served, "echo", &says("t", run, text)).await;
    }
    let told = talk(&served, "echo", &json!({ "threadId": "t", "runId": "r2", "messages": [] })).await;
    let mut page = Page::default();
    page.hear_all(&told).expect("accepted");
    let said: Vec<_> =
        page.messages.iter().map(|message| (message["role"].clone(), message["content"].clone())).collect();
    let [user, assistant] = [json!("user"), json!("assistant")];
    assert_eq!(
        said,
        [
            (user.clone(), json!("one")),
            (assistant.clone(), json!("ONE")),
            (user, json!("two")),
            (assistant, json!("TWO"))
        ]
    );
}

#[tokio::test]
async fn a_run_id_is_one_run_for_one_message() {
    let served = open_to_everyone().await;
    let first = talk(&served, "echo", &says("t", "r", "hello")).await;
    let again = talk(&served, "echo", &says("t", "r", "hello")).await;
    assert_eq!(page_of("hello", &again).messages, page_of("hello", &first).messages);
    let refused = async |body: Value| ask(&served, "/workflows/echo/agui", None, "", &body).await;
    for body in [says("t", "r", "something else"), says("other", "r", "hello")] {
        let answer = refused(body).await;
        assert_eq!((answer.status, code(&answer).as_str()), (409, "run_exists"), "{answer:?}");
    }
    let runs = served.engine.runs(outlive_core::port::RunFilter { limit: 10, ..Default::default() }).await;
    assert_eq!(runs.expect("readable").runs.len(), 1);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_its_name_and_leaves_nothing() {
    let served = open_to_everyone().await;
    let user = says("t", "r", "hello");
    let assistant = json!([{ "id": "a", "role": "assistant", "content": "x" }]);
    let tool = json!([{ "id": "a", "role": "tool", "toolCallId": "c", "content": "x" }]);
    for (body, status, named) in [
        (json!({ "runId": "r", "messages": [] }), 422, "threadId"),
        (and(user.clone(), json!({ "threadId": "a b" })), 422, "threadId"),
        (and(user.clone(), json!({ "runId": "../x" })), 422, "runId"),
        (and(user.clone(), json!({ "messages": assistant })), 422, "messages"),
        (and(user.clone(), json!({ "messages": tool })), 404, "call c"),
        (and(user.clone(), json!({ "messages": [] })), 404, "no run"),
        (and(user.clone(), json!({ "state": 3 })), 422, "state"),
        (
            and(user.clone(), json!({ "tools": [{ "name": "paint", "description": "", "parameters": {} }] })),
            422,
            "paint",
        ),
        (and(user.clone(), json!({ "forwardedProps": { "user_id": 3 } })), 422, "user_id"),
        (after(user.clone(), Some((-2, 0))), 422, "agnoBackground"),
        (and(user.clone(), json!({ "resume": "x" })), 422, "resume"),
    ] {
        let answer = ask(&served, "/workflows/echo/agui", None, "", &body).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.body.contains(named), "{body}: {answer:?}");
    }
    let bad_id = ask(&served, "/workflows/echo/agui", None, "Last-Event-ID: x\r\n", &user).await;
    assert_eq!(bad_id.status, 422, "{bad_id:?}");
    for path in ["/workflows/none/agui", "/agents/echo/agui", "/agui"] {
        assert_eq!(ask(&served, path, None, "", &user).await.status, 404, "{path}");
    }
    assert_eq!(ask(&served, "/workflows/echo/agui", None, "", &json!([])).await.status, 422);
    let runs = served.engine.runs(outlive_core::port::RunFilter { limit: 10, ..Default::default() }).await;
    assert_eq!(runs.expect("readable").runs.len(), 0, "what was refused made no run");
    for path in ["/status", "/workflows/echo/status", "/agents/helper/status"] {
        let status = served.get(path, "").await;
        assert_eq!((status.status, status.json()), (200, json!({ "status": "available" })));
    }
    assert_eq!(served.get("/agents/echo/status", "").await.status, 404);
}

#[tokio::test]
async fn who_comes_back_for_a_run_that_is_not_there_is_told_in_the_stream() {
    let served = open_to_everyone().await;
    let request = after(says("t", "gone", "hello"), Some((3, 1)));
    let answer = ask(&served, "/workflows/echo/agui", None, "", &request).await;
    assert_eq!(refusal(&answer), (200, "not_found".to_owned()));
    assert_eq!(place(&events(&answer.body)[0]), (4, 0), "behind what the client has");
    let runs = served.engine.runs(outlive_core::port::RunFilter { limit: 10, ..Default::default() }).await;
    assert_eq!(runs.expect("readable").runs.len(), 0, "and no run begins");
}

#[tokio::test]
async fn a_place_that_the_run_has_not_come_to_is_refused_and_whoever_has_it_all_is_told_no_more() {
    let served = open_to_everyone().await;
    let path = "/workflows/held/agui";
    let request = says("t", "r", "1");
    let body = request.to_string();
    let post = Ask { method: "POST", path, content_type: "application/json", body: &body, ..Ask::default() };
    let mut stream = served.send(post).await;
    begun(&mut stream).await;
    let run_id = RunId::parse("r").expect("an id");
    served.until_length(&run_id, 3).await;
    let ahead = [(99, 0), (i64::MAX, u64::MAX)];
    // While it executes, and once it is over.
    for is_over in [false, true] {
        if is_over {
            served.release();
            served.end_of(&run_id).await;
        }
        for place in ahead {
            let answer = ask(&served, path, None, "", &after(request.clone(), Some(place))).await;
            assert_eq!(refusal(&answer), (200, "unknown_place".to_owned()), "{place:?}");
        }
        let answer = ask(&served, path, None, "Last-Event-ID: 990000\r\n", &request).await;
        assert_eq!(refusal(&answer), (200, "unknown_place".to_owned()));
    }
    let whole = events(&ask(&served, path, None, "", &after(request.clone(), Some((-1, 0)))).await.body);
    let (index, part) = place(whole.last().expect("an end"));
    for part in [part, part + 1, u64::MAX] {
        let answer = ask(&served, path, None, "", &after(request.clone(), Some((index, part)))).await;
        assert_eq!((answer.status, events(&answer.body)), (200, Vec::new()), "its stream ends at once");
    }
    // A wrong place answers no question.
    let asked = talk(&served, "asks", &says("q", "q1", "hi")).await;
    let interrupt = &page(&asked).interrupts[0];
    let answer = resume("q", "q2", interrupt, json!({ "colour": "red" }));
    let wrong = ask(&served, "/workflows/asks/agui", None, "", &after(answer.clone(), Some((99, 0)))).await;
    assert_eq!(refusal(&wrong), (200, "unknown_place".to_owned()));
    let open = served.get("/api/questions", "").await.json();
    assert_eq!(open["questions"].as_array().map(Vec::len), Some(1), "{open}");
    assert_eq!(page(&talk(&served, "asks", &answer).await).end.as_deref(), Some("success"));
}

#[tokio::test]
async fn a_failure_and_a_cancel_end_a_run_as_the_client_knows_ends() {
    let served = open_to_everyone().await;
    let told = talk(&served, "fails", &says("t", "r", "hello")).await;
    let page_of = page(&told);
    assert_eq!(page_of.end.as_deref(), Some("error"));
    assert!(
        told.last().is_some_and(|end| end["message"].as_str().is_some_and(|why| why.contains("it broke"))),
        "{told:?}"
    );
    for (run, version, end) in [("c1", None, "error"), ("c2", Some("1.0"), "cancelled")] {
        let request = and(says(run, run, "1"), json!({ "protocolVersion": version }));
        let body = request.to_string();
        let path = "/workflows/held/agui";
        let post = Ask { method: "POST", path, content_type: "application/json", body: &body, ..Ask::default() };
        let mut stream = served.send(post).await;
        let bytes = begun(&mut stream).await;
        served.until_length(&RunId::parse(run).expect("an id"), 3).await;
        let cancelled = served.post(&format!("/workflows/held/runs/{run}/cancel"), "", "").await;
        assert_eq!(cancelled.status, 200);
        let told = ended(stream, bytes).await;
        assert_eq!(page(&told).end.as_deref(), Some(end), "{told:?}");
        assert_eq!(told[0].get("protocolVersion"), version.map(|_| json!("1.0")).as_ref());
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_nothing_from_the_run() {
    let served = open_to_everyone().await;
    let body = says("t", "r", "2").to_string();
    let path = "/workflows/held/agui";
    let post = Ask { method: "POST", path, content_type: "application/json", body: &body, ..Ask::default() };
    let mut stream = served.send(post).await;
    begun(&mut stream).await;
    let run_id = RunId::parse("r").expect("an id");
    served.until_length(&run_id, 3).await;
    drop(stream);
    served.release();
    assert_eq!(served.end_of(&run_id).await.status, RunStatus::Completed);
    let told = talk(&served, "held", &says("t", "r", "2")).await;
    assert_eq!(page(&told).texts(), ["released"]);
}

// Interrupts.

fn resume(thread: &str, run: &str, interrupt: &Value, payload: Value) -> Value {
    json!({
        "threadId": thread,
        "runId": run,
        "messages": [],
        "resume": [{ "interruptId": interrupt["id"], "status": "resolved", "payload": payload }],
    })
}

#[tokio::test]
async fn a_question_interrupts_and_its_answer_goes_on_in_another_run_of_the_client() {
    let served = open_to_everyone().await;
    let asked = talk(&served, "asks", &after(says("t", "r1", "hi"), None)).await;
    let told = page(&asked);
    assert_eq!((told.end.as_deref(), told.interrupts.len()), (Some("interrupt"), 1));
    let interrupt = &told.interrupts[0];
    assert_eq!((&interrupt["reason"], &interrupt["message"]), (&json!("input_required"), &json!("Which colour?")));
    assert_eq!(interrupt["responseSchema"]["required"], json!(["colour"]));
    // It is the question that everybody else sees.
    let open = served.get("/api/questions", "").await.json();
    assert_eq!(open["questions"][0]["question_id"], interrupt["id"]);

    let path = "/workflows/asks/agui";
    let say = async |body: Value| ask(&served, path, None, "", &body).await;
    let pending = say(says("t", "r2", "something new")).await;
    assert_eq!((pending.status, code(&pending).as_str()), (409, "interrupts_pending"), "{pending:?}");
    assert!(pending.body.contains(interrupt["id"].as_str().expect("an id")), "{pending:?}");
    for (body, code) in [
        (resume("t", "r2", interrupt, json!({ "colour": 3 })), "invalid_answer"),
        (resume("t", "r2", interrupt, json!("red")), "invalid_answer"),
        (resume("other", "r2", interrupt, json!({ "colour": "red" })), "not_found"),
        (resume("t", "r2", &json!({ "id": "nobodys" }), json!({})), "not_found"),
    ] {
        assert_eq!(refusal(&say(body.clone()).await), (200, code.to_owned()), "{body}");
    }

    let answer = after(resume("t", "r2", interrupt, json!({ "colour": "red" })), None);
    let rest = say(answer.clone()).await;
    let second = events(&rest.body);
    assert_eq!(second[0]["runId"], "r2");
    let mut whole = told.clone();
    whole.hear_all(&second).expect("accepted");
    assert_eq!(whole.end.as_deref(), Some("success"));
    assert_eq!(whole.texts(), ["hi {\"user_input\":{\"colour\":\"red\"}}"]);
    // The same again is the same run, from any place on.
    assert_eq!(events(&say(answer.clone()).await.body), second);
    for (at, event) in second.iter().enumerate() {
        let rest = say(after(answer.clone(), Some(place(event)))).await;
        assert_eq!(events(&rest.body), second[at + 1..], "after {:?}", place(event));
    }
    // Another answer comes too late.
    let late = say(resume("t", "r3", interrupt, json!({ "colour": "blue" }))).await;
    assert_eq!(refusal(&late), (200, "already_answered".to_owned()));
    // The run as a whole: both of its parts, one after the other.
    let first_place = place(&asked[0]);
    let all = events(&say(after(says("t", "r1", "hi"), Some(first_place))).await.body);
    assert_eq!(all[..asked.len() - 1], asked[1..]);
    let places: Vec<_> = all[asked.len() - 1..].iter().map(place).collect();
    assert_eq!(places, second.iter().map(place).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_a_step_had_begun_goes_on_after_the_answer() {
    let served = open_to_everyone().await;
    let asked = talk(&served, "asks-inside", &says("t", "r1", "hi")).await;
    let mut told = page(&asked);
    assert_eq!(told.end.as_deref(), Some("interrupt"), "{asked:?}");
    assert_eq!(kinds(&asked)[1], "STEP_STARTED");
    let steps = |told: &[Value]| {
        let steps = told.iter().filter(|event| event["type"].as_str().is_some_and(|kind| kind.starts_with("STEP_")));
        steps.map(|event| format!("{} {}", event["type"], event["stepName"]).replace('"', "")).collect::<Vec<_>>()
    };
    let answer = resume("t", "r2", &told.interrupts[0], json!({ "approved": true }));
    let second = talk(&served, "asks-inside", &answer).await;
    told.hear_all(&second).expect("accepted");
    assert_eq!(
        steps(&second),
        ["STEP_STARTED outer", "STEP_STARTED guarded", "STEP_FINISHED guarded", "STEP_FINISHED outer"]
    );
    assert_eq!(steps(&asked), ["STEP_STARTED outer", "STEP_FINISHED outer"]);
}

#[tokio::test]
async fn all_that_is_open_is_answered_at_once_or_nothing_is() {
    let served = open_to_everyone().await;
    let asked = talk(&served, "asks-twice", &says("t", "r1", "hi")).await;
    let mut told = page(&asked);
    assert_eq!(told.interrupts.len(), 2, "{asked:?}");
    let entry = |interrupt: &Value| json!({ "interruptId": interrupt["id"], "status": "resolved", "payload": true });
    let both: Vec<Value> = told.interrupts.iter().map(entry).collect();
    let body = |entries: &[Value]| json!({ "threadId": "t", "runId": "r2", "messages": [], "resume": entries });
    let partial = ask(&served, "/workflows/asks-twice/agui", None, "", &body(&both[..1])).await;
    assert_eq!(refusal(&partial), (200, "unresolved_interrupts".to_owned()));
    assert_eq!(served.get("/api/questions", "").await.json()["questions"].as_array().map(Vec::len), Some(2));
    let second = talk(&served, "asks-twice", &body(&both)).await;
    told.hear_all(&second).expect("accepted");
    assert_eq!(told.end.as_deref(), Some("success"));
    // Given up: a no, which ends this run.
    let asked = talk(&served, "asks-twice", &says("t2", "r3", "hi")).await;
    let given_up: Vec<Value> = page(&asked)
        .interrupts
        .iter()
        .map(|interrupt| json!({ "interruptId": interrupt["id"], "status": "cancelled" }))
        .collect();
    let body = json!({ "threadId": "t2", "runId": "r4", "messages": [], "resume": given_up });
    let end = talk(&served, "asks-twice", &body).await;
    assert!(matches!(page(&end).end.as_deref(), Some("success" | "error")), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_answers_at_the_same_time_one_counts_and_both_clients_hear_the_rest() {
    let served = open_to_everyone().await;
    let told = page(&talk(&served, "asks", &says("t", "r1", "hi")).await);
    let answer = resume("t", "r2", &told.interrupts[0], json!({ "colour": "red" }));
    let twice = (0..8).map(|_| talk(&served, "asks", &answer));
    let heard = futures::future::join_all(twice).await;
    for told in &heard {
        assert_eq!(told, &heard[0]);
        assert_eq!(page(told).end.as_deref(), Some("success"));
    }
}

// Who may.

#[tokio::test]
async fn a_thread_and_its_runs_are_there_for_their_user_alone() {
    let served = Served::start().await;
    let (ada, bob) = (served.user("ada").await, served.user("bob").await);
    let path = "/workflows/asks/agui";
    let say = async |token: &str, body: Value| ask(&served, path, Some(token), "", &body).await;
    let asked = say(&ada, says("t", "r", "hi")).await;
    let interrupt = page(&events(&asked.body)).interrupts[0].clone();
    // As if there were none.
    assert_eq!(say(&bob, json!({ "threadId": "t", "runId": "r", "messages": [] })).await.status, 404);
    assert_eq!(refusal(&say(&bob, after(says("t", "r", "hi"), Some((0, 0)))).await), (200, "not_found".to_owned()));
    let answer = say(&bob, resume("t", "r2", &interrupt, json!({ "colour": "red" }))).await;
    assert_eq!(refusal(&answer), (200, "not_found".to_owned()));
    let taken = say(&bob, says("t", "r", "hi")).await;
    assert!(taken.status >= 400, "{taken:?}");
    let other = and(says("t3", "r3", "hi"), json!({ "forwardedProps": { "user_id": "ada" } }));
    assert_eq!(say(&bob, other).await.status, 200, "it is bob's, whatever it says");
    assert_eq!(served.get("/workflows/asks/runs/r3", &ada).await.status, 404);
    let own = say(&ada, resume("t", "r2", &interrupt, json!({ "colour": "red" }))).await;
    assert_eq!(page(&events(&own.body)).end.as_deref(), Some("success"));
    // Without a credential, or the scope.
    assert_eq!(ask(&served, path, None, "", &says("t", "r", "hi")).await.status, 401);
    let reader = served.key(Some("ada"), Scopes::parse(["workflows:read"])).await.0;
    assert_eq!(say(&reader, says("t", "r9", "hi")).await.status, 403);
}

#[tokio::test]
async fn whoever_submitted_a_run_does_not_answer_it_here_either_under_four_eyes() {
    let served = Served::start().await;
    let ada = served.user("ada").await;
    let path = "/workflows/guarded/agui";
    let asked = ask(&served, path, Some(&ada), "", &says("t", "r", "hi")).await;
    let interrupt = page(&events(&asked.body)).interrupts[0].clone();
    let own = ask(&served, path, Some(&ada), "", &resume("t", "r2", &interrupt, json!(true))).await;
    assert_eq!(refusal(&own), (200, "four_eyes".to_owned()));
}
