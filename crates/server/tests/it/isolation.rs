//! One user and another user's things: to whoever is not their owner they do not exist, on any route, on any socket.
//!
//! The matrix is made from the table of routes, so a new route with an id is in it, or fails it by being unknown to it.

use crate::served::{Answer, Ask, Heard, Served, in_time, whole_scope};
use outlive_core::port::ItemFilter;
use outlive_core::{RunId, RunStatus};
use outlive_server::auth::{Needs, Rule, Verb};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use tokio::io::AsyncReadExt;

/// What a user has: in each kind one run that is over, and one workflow run that is not.
struct Things {
    key: String,
    /// That of the workflow `echo`.
    session: String,
    /// Of `workflows`, `agents`, `teams`, and the unfinished one.
    runs: Vec<Thing>,
}

/// A run with a webhook, made under an idempotency key, in a session of its component.
struct Thing {
    plural: &'static str,
    id: &'static str,
    run: String,
    session: String,
}

impl Thing {
    fn run_id(&self) -> RunId {
        RunId::parse(&self.run).expect("an id")
    }
}

/// Under which every user's things were made.
const KEY: &str = "Idempotency-Key: everybodys\r\n";

const NOBODY_RUN: &str = "00000000-0000-4000-8000-000000000000";
const NOBODY_SESSION: &str = "session-of-nobody";

async fn things(served: &Served, user: &str) -> Things {
    let key = served.user(user).await;
    let mut runs = Vec::new();
    for (plural, id, message) in [
        ("workflows", "echo", "mine"),
        ("agents", "helper", "mine"),
        ("teams", "crew", "mine"),
        ("workflows", "held", "3"),
    ] {
        // A session belongs to one component.
        let session = if id == "echo" { format!("session-of-{user}") } else { format!("session-of-{user}-{id}") };
        let webhook = format!("webhook_url=https://receiver.example/mine&webhook_events=all&session_id={session}");
        let body = format!("message={message}&stream=false&background=true&{webhook}");
        let path = format!("/{plural}/{id}/runs");
        let ask = Ask { method: "POST", path: &path, token: Some(&key), headers: KEY, body: &body, ..Ask::default() };
        let answer = served.ask(ask).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let thing = Thing { plural, id, run: answer.text("run_id"), session };
        if id == "held" {
            served.until_length(&thing.run_id(), 5).await;
        } else {
            served.end_of(&thing.run_id()).await;
        }
        runs.push(thing);
    }
    Things { key, session: format!("session-of-{user}"), runs }
}

/// Everything a user's things look like to the user.
async fn picture(served: &Served, things: &Things) -> Vec<(String, u16, Value)> {
    let mut paths = Vec::new();
    for Thing { plural, id, run, session } in &things.runs {
        paths.extend([
            format!("/sessions/{session}"),
            format!("/sessions/{session}/runs"),
            format!("/sessions/{session}/run-previews"),
            format!("/{plural}/{id}/runs?session_id={session}"),
            format!("/{plural}/{id}/runs/{run}"),
        ]);
    }
    let mut picture = Vec::new();
    for path in paths {
        let answer = served.get(&path, &things.key).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        picture.push((path, answer.status, answer.json()));
    }
    for run_id in things.runs.iter().map(Thing::run_id) {
        let events = served.engine.events(&run_id, None).stored().await.expect("readable");
        picture.push((run_id.to_string(), 0, json!(events)));
    }
    let mut list = served.get("/sessions?limit=100", &things.key).await.json();
    list["meta"]["search_time_ms"] = Value::Null;
    picture.push(("list".to_owned(), 0, list));
    picture
}

/// An answer without the id that was asked for, and without what is new in every answer.
fn plain(answer: &Answer, ids: [&str; 2]) -> (u16, String, BTreeSet<String>) {
    let [run, session] = ids;
    let request_id = answer.head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id");
    let body = answer.body.replace(run, "RUN").replace(session, "SESSION").replace(request_id, "REQUEST");
    let headers = answer.head.lines().filter(|line| !line.starts_with("x-request-id") && !line.starts_with("date"));
    let headers = headers.map(|line| line.replace(run, "RUN").replace(session, "SESSION"));
    // The length is that of the body with its ids.
    (answer.status, body, headers.filter(|line| !line.starts_with("content-length")).collect())
}

/// The requests of a rule that carry ids: path, content type, body, each with `{run_id}` and `{session_id}`.
fn requests(rule: &Rule) -> Vec<(String, &'static str, &'static str)> {
    const FORM: &str = "application/x-www-form-urlencoded";
    const JSON: &str = "application/json";
    let known = [
        "workflow_id",
        "agent_id",
        "team_id",
        "run_id",
        "session_id",
        "step_id",
        "question_id",
        "schedule_id",
        "batch_id",
        "response_id",
        "model_id",
    ];
    for parameter in rule.parameters() {
        assert!(known.contains(&parameter), "{} has a parameter that this test must learn: {parameter}", rule.path);
    }
    // A response has the id of its run.
    let with_run = rule.path.replace("{response_id}", "resp_{run_id}");
    let path = with_run.as_str();
    let has_id =
        ["{run_id}", "{session_id}", "{question_id}", "{schedule_id}", "{batch_id}"].iter().any(|id| path.contains(id));
    let mut requests = match (rule.method, path) {
        (Verb::Message(_), _) => Vec::new(),
        (Verb::Get, _) if has_id => {
            let mut paths = vec![(path.to_owned(), FORM, "")];
            if path.contains("{run_id}") && !path.contains("{session_id}") {
                paths.push((format!("{path}?session_id={{session_id}}"), FORM, ""));
                paths.push((format!("{path}?wait=1ms"), FORM, ""));
            }
            if path.ends_with("{batch_id}/items") {
                paths.push((format!("{path}?content=true"), FORM, ""));
            }
            if path == "/v1/responses/resp_{run_id}" {
                paths.push((format!("{path}?stream=true"), FORM, ""));
                paths.push((format!("{path}?stream=true&starting_after=1"), FORM, ""));
            }
            paths
        }
        (Verb::Get, "/workflows/{workflow_id}/runs" | "/agents/{agent_id}/runs" | "/teams/{team_id}/runs") => {
            vec![(format!("{path}?session_id={{session_id}}"), FORM, "")]
        }
        (Verb::Get, "/api/questions") => vec![(format!("{path}?all=true&run_id={{run_id}}"), FORM, "")],
        (Verb::Post, "/api/runs/cancel" | "/api/runs/rerun" | "/api/runs/retry") => vec![
            (path.to_owned(), JSON, r#"{"filter":{"q":"{run_id}"}}"#),
            (path.to_owned(), JSON, r#"{"filter":{"session_id":"{session_id}"},"dry_run":true}"#),
            (path.to_owned(), JSON, r#"{"filter":{"batch_id":"{batch_id}"}}"#),
        ],
        (Verb::Post, "/api/batches/{batch_id}/items") => vec![
            (path.to_owned(), JSON, r#"{"from":0,"inputs":["mine"],"complete":true}"#),
            (path.to_owned(), JSON, r#"{"from":1,"inputs":["stolen"]}"#),
        ],
        (Verb::Get, "/api/runs") => vec![
            (format!("{path}?batch_id={{batch_id}}"), FORM, ""),
            (format!("{path}?session_id={{session_id}}"), FORM, ""),
            (format!("{path}?q={{run_id}}&preview=true"), FORM, ""),
        ],
        (Verb::Post, _) if ["/cancel", "/rerun", "/retry", "/retry/preview"].iter().any(|end| path.ends_with(end)) => {
            vec![(path.to_owned(), FORM, "")]
        }
        (Verb::Post, _) if path.ends_with("/pause") || path.ends_with("/trigger") => vec![(path.to_owned(), FORM, "")],
        (Verb::Post, "/api/schedules/{schedule_id}/resume") => vec![(path.to_owned(), FORM, "")],
        (Verb::Post, "/v1/responses") => vec![
            (path.to_owned(), JSON, r#"{"model":"echo","input":"x","previous_response_id":"resp_{run_id}"}"#),
            (
                path.to_owned(),
                JSON,
                r#"{"model":"held","input":"x","previous_response_id":"resp_{run_id}","stream":true}"#,
            ),
        ],
        (Verb::Post, "/api/prune") => vec![(path.to_owned(), JSON, r#"{"session_id":"{session_id}"}"#)],
        (Verb::Post, _) if path.contains("/fork") => vec![(path.to_owned(), JSON, r#"{"at":0}"#)],
        (Verb::Post, _) if path.ends_with("/answer") => vec![(path.to_owned(), JSON, r#"{"do":"retry"}"#)],
        (Verb::Post, _) if path.ends_with("/continue") => vec![(path.to_owned(), FORM, "stream=false")],
        (Verb::Post, _) if path.ends_with("/redeliver") => vec![(format!("{path}?from=0"), FORM, "")],
        (Verb::Post, _) if path.ends_with("/resume") => {
            vec![(path.to_owned(), FORM, ""), (path.to_owned(), FORM, "last_event_index=1&session_id={session_id}")]
        }
        (Verb::Post, _) if path.ends_with("/agui") => vec![
            (path.to_owned(), JSON, r#"{"threadId":"{session_id}","runId":"{run_id}","messages":[]}"#),
            (path.to_owned(), JSON, r#"{"threadId":"{session_id}","runId":"other","messages":[]}"#),
            (
                path.to_owned(),
                JSON,
                r#"{"threadId":"{session_id}","runId":"{run_id}","forwardedProps":{"agnoBackground":{"lastEventIndex":1}}}"#,
            ),
        ],
        (Verb::Post, _) if path.ends_with("/rename") => {
            vec![(path.to_owned(), JSON, r#"{"session_name":"stolen"}"#)]
        }
        (Verb::Patch, "/sessions/{session_id}") => {
            vec![(
                path.to_owned(),
                JSON,
                r#"{"session_name":"stolen","session_state":{"stolen":1},"metadata":{"x":1}}"#,
            )]
        }
        (Verb::Delete, "/sessions") => vec![
            (path.to_owned(), JSON, r#"{"session_ids":["{session_id}"]}"#),
            (format!("{path}?force=true"), JSON, r#"{"session_ids":["{session_id}"]}"#),
        ],
        (Verb::Delete, _) if has_id => vec![(path.to_owned(), FORM, ""), (format!("{path}?force=true"), FORM, "")],
        _ => {
            assert!(!has_id, "{} {path} has an id and no request in this test", rule.method.as_str());
            Vec::new()
        }
    };
    // A run in a session that is the caller's own.
    if path.contains("{run_id}") && path.contains("{session_id}") {
        requests.push((path.replace("{session_id}", "session-of-bob"), FORM, ""));
    }
    requests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_b07_to_another_user_every_thing_is_as_unknown_as_one_that_never_was() {
    let served = Served::start().await;
    let alice = things(&served, "alice").await;
    let bob = things(&served, "bob").await;
    let body = "message=mine&stream=false&session_id=session-of-alice-doubts";
    let ask = Ask { method: "POST", path: "/workflows/doubts/runs", token: Some(&alice.key), body, ..Ask::default() };
    assert_eq!(served.ask(ask).await.json()["status"], "PAUSED");
    let open = served.get("/api/questions", &alice.key).await.json();
    let question = open["questions"][0]["question_id"].as_str().expect("it asks").to_owned();
    let body = r#"{"workflow_id":"echo","cron":"@yearly","name":"hers","input":"mine"}"#;
    let ask = Ask {
        method: "POST",
        path: "/api/schedules",
        token: Some(&alice.key),
        content_type: "application/json",
        body,
        ..Ask::default()
    };
    let schedule = served.ask(ask).await.json();
    let schedule_id = schedule["schedule_id"].as_str().expect("it is created").to_owned();
    let body = r#"{"inputs":["mine"],"complete":false}"#;
    let ask = Ask { path: "/api/workflows/echo/batches", body, ..ask };
    let batch_id = served.ask(ask).await.json()["batch_id"].as_str().expect("it is created").to_owned();
    let items = served.engine.reader().batch_items(&batch_id, ItemFilter::default()).await.expect("readable").items;
    served.end_of(&items[0].1.info.run_id).await;
    let batch = served.get(&format!("/api/batches/{batch_id}"), &alice.key).await.json();
    let before = picture(&served, &alice).await;
    let (mut steps, mut tags) = (HashMap::new(), Vec::new());
    for Thing { run, .. } in &alice.runs {
        let detail = served.get(&format!("/api/runs/{run}"), &alice.key).await.json();
        let step = detail["steps"][0]["step_id"].as_str().expect("a step").to_owned();
        for path in [format!("/api/runs/{run}/output"), format!("/api/runs/{run}/steps/{step}/output")] {
            let answer = served.get(&path, &alice.key).await;
            tags.extend(answer.head.lines().find_map(|line| line.strip_prefix("etag: ")).map(str::to_owned));
        }
        steps.insert(run.clone(), step);
    }
    assert!(tags.len() > alice.runs.len(), "outputs have tags: {tags:?}");
    // What a client brings along of what it has seen: alice's own.
    let brought = [
        String::new(),
        "Last-Event-ID: 1\r\n".to_owned(),
        format!("If-None-Match: {}\r\n", tags.join(", ")),
        "If-None-Match: *\r\nRange: bytes=0-0\r\n".to_owned(),
        KEY.to_owned(),
    ];
    let mut asked = 0;
    let rules: Vec<Rule> = served.rules.iter().copied().collect();
    for rule in &rules {
        for (path, content_type, body) in requests(rule) {
            for Thing { plural, id, run, session } in &alice.runs {
                let about_kind =
                    ["workflows", "agents", "teams"].iter().any(|kind| path.starts_with(&format!("/{kind}/")));
                if about_kind && !path.starts_with(&format!("/{plural}/")) {
                    continue;
                }
                let of_component = ["{workflow_id}", "{agent_id}", "{team_id}"]
                    .iter()
                    .fold(path.clone(), |path, name| path.replace(name, id));
                let of_component = of_component.replace("{step_id}", &steps[run]);
                let method = rule.method.as_str();
                for headers in &brought {
                    let mut answers = Vec::new();
                    for [run, session] in [[run.as_str(), session], [NOBODY_RUN, NOBODY_SESSION]] {
                        let question = if run == NOBODY_RUN { NOBODY_RUN } else { &question };
                        let schedule = if run == NOBODY_RUN { NOBODY_RUN } else { &schedule_id };
                        let batch = if run == NOBODY_RUN { NOBODY_RUN } else { &batch_id };
                        let fill = |text: &str| {
                            let text = text.replace("{batch_id}", batch);
                            let text = text.replace("{run_id}", run).replace("{session_id}", session);
                            text.replace("{question_id}", question).replace("{schedule_id}", schedule)
                        };
                        let (path, body) = (fill(&of_component), fill(body));
                        let ask =
                            Ask { method, path: &path, token: Some(&bob.key), content_type, body: &body, headers };
                        answers.push(plain(&served.ask(ask).await, [run, session]));
                        asked += 1;
                    }
                    assert_eq!(answers[0], answers[1], "{method} {path} {headers}, asked for alice's and for nobody's");
                    let shows_nothing = !answers[0].1.contains("mine") && !answers[0].1.contains("MINE");
                    assert!(shows_nothing, "{method} {path} {headers}: {:?}", answers[0]);
                }
            }
        }
    }
    assert!(asked > 800, "only {asked} requests: the matrix is not made from the routes any more");
    assert_eq!(picture(&served, &alice).await, before, "nothing of alice's has changed");
    assert_eq!(served.get("/api/questions", &alice.key).await.json(), open);
    assert_eq!(served.get(&format!("/api/schedules/{schedule_id}"), &alice.key).await.json(), schedule);
    assert_eq!(served.get(&format!("/api/batches/{batch_id}"), &alice.key).await.json(), batch);
    let run = alice.runs[3].run_id();
    assert_eq!(served.engine.get_run(&run).await.expect("readable").expect("there").status, RunStatus::Running);
    served.release();
    assert_eq!(served.end_of(&run).await.status, RunStatus::Completed, "nobody cancelled it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_b07_a_list_shows_a_user_their_own_things_whatever_it_is_asked_for() {
    let served = Served::start().await;
    let alice = things(&served, "alice").await;
    let bob = things(&served, "bob").await;
    for query in ["", "user_id=alice", "component_id=echo", "session_name=session-of-alice", "type=agent", "type=team"]
    {
        let answer = served.get(&format!("/sessions?limit=100&{query}"), &bob.key).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.body.contains(&alice.session) && !answer.body.contains("alice"), "{query}: {}", answer.body);
    }
    let own = served.get("/sessions?limit=100", &bob.key).await;
    assert!(own.body.contains("session-of-bob"), "{own:?}");
    let total = |answer: &Answer| answer.json()["meta"]["total_count"].clone();
    assert_eq!(total(&own), total(&served.get("/sessions?limit=100", &alice.key).await), "both have as many");
    assert_eq!(total(&served.get("/sessions?limit=100&user_id=alice", &bob.key).await), json!(0));
    // Without a user of its own a key sees everybody's, if its scopes say so.
    let all = served.key(None, served.scopes_but(None)).await.0;
    let both = served.get("/sessions?limit=100", &all).await.body;
    assert!(both.contains("session-of-bob") && both.contains("session-of-alice"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_b07_on_a_socket_another_users_run_is_as_unknown_as_one_that_never_was() {
    let served = Served::start().await;
    let alice = things(&served, "alice").await;
    let bob = served.user("bob").await;
    let before = picture(&served, &alice).await;
    let mut socket = served.socket_of(&bob).await;
    let actions = messages(&served);
    assert!(actions.len() >= 5, "{actions:?}");
    for action in actions {
        let frame = |run: &str| match action {
            "ping" | "start-workflow" => None,
            "reconnect" => Some(json!({ "action": action, "run_id": run, "last_event_index": 0 })),
            "cancel-workflow" => Some(json!({ "action": action, "run_id": run })),
            "continue-workflow" => Some(json!({ "action": action, "run_id": run, "step_requirements": [] })),
            other => panic!("this test must learn the action {other}"),
        };
        for Thing { run, .. } in &alice.runs {
            let mut answers = Vec::new();
            for run in [run.as_str(), NOBODY_RUN] {
                let Some(frame) = frame(run) else { continue };
                socket.say(frame).await;
                answers.push(socket.event().await.to_string().replace(run, "RUN"));
            }
            let Some(first) = answers.first() else { continue };
            assert_eq!(*first, answers[1], "{action}");
            assert!(first.contains("not found"), "{action}: {first}");
        }
    }
    assert_eq!(picture(&served, &alice).await, before, "nothing of alice's has changed");
    // Nothing about the run came later either: the next thing heard is the answer to a ping.
    served.release();
    served.end_of(&alice.runs[3].run_id()).await;
    socket.say(json!({ "action": "ping" })).await;
    assert_eq!(socket.event().await["event"], "pong");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_b08_nobody_runs_in_anothers_session_or_in_anothers_name() {
    let served = Served::start().await;
    let alice = served.user("alice").await;
    let bob = things(&served, "bob").await;
    let before = picture(&served, &bob).await;
    for mode in ["stream=false", "stream=true", "stream=false&background=true", "stream=true&background=true"] {
        let form = format!("message=intruder&session_id={}&user_id=bob&{mode}", bob.session);
        let answer = served.post("/workflows/echo/runs", &alice, &form).await;
        assert_eq!(answer.status, 404, "{mode}: {answer:?}");
        assert!(!answer.body.contains("bob\""), "{answer:?}");
    }
    // Nor in that of the same agent or team, whose history its next run would be told.
    for Thing { plural, id, session, .. } in &bob.runs {
        for session in [session, &bob.session] {
            let form = format!("message=intruder&session_id={session}&stream=false");
            let answer = served.post(&format!("/{plural}/{id}/runs"), &alice, &form).await;
            assert_eq!(answer.status, 404, "{plural} {session}: {answer:?}");
        }
    }
    let mut socket = served.socket_of(&alice).await;
    let start = json!({
        "action": "start-workflow", "workflow_id": "echo", "message": "intruder", "session_id": bob.session, "user_id": "bob",
    });
    socket.say(start).await;
    assert_eq!(socket.event().await["event"], "error");
    // A session cannot be made over another's either.
    let body =
        json!({ "session_id": bob.session, "workflow_id": "echo", "session_state": { "stolen": 1 } }).to_string();
    let ask = Ask {
        method: "POST",
        path: "/sessions",
        token: Some(&alice),
        content_type: "application/json",
        body: &body,
        headers: "",
    };
    let answer = served.ask(ask).await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert!(!answer.body.contains("mine"), "{answer:?}");
    assert_eq!(picture(&served, &bob).await, before, "nothing of bob's has changed");
    // What says that a request is a repeated one says so for one user only.
    let headers = "Idempotency-Key: same\r\n";
    for path in ["/workflows/echo/runs", "/agents/helper/runs", "/teams/crew/runs"] {
        let ask_keyed = |token| {
            let body = "message=hello&stream=false&background=true";
            served.ask(Ask { method: "POST", path, token: Some(token), headers, body, ..Ask::default() })
        };
        let (of_bob, of_alice) = (ask_keyed(bob.key.as_str()).await, ask_keyed(alice.as_str()).await);
        assert_eq!((of_bob.status, of_alice.status), (202, 202));
        assert_ne!(of_bob.text("run_id"), of_alice.text("run_id"), "{path}");
        assert!(!of_alice.head.contains("idempotent-replay"), "{of_alice:?}");
    }
    let keyed =
        json!({ "action": "start-workflow", "workflow_id": "echo", "message": "hello", "idempotency_key": "same" });
    let of_bob = ask_on_socket(&served, &bob.key, &keyed).await;
    let of_alice = ask_on_socket(&served, &alice, &keyed).await;
    assert_ne!(of_bob, of_alice);
    // A run cannot be put in another's place, nor into another's session, by the other way in.
    for body in [
        json!({ "workflow_id": "echo", "input": "intruder", "run_id": bob.runs[0].run }),
        json!({ "workflow_id": "echo", "input": "intruder", "session_id": bob.session, "user_id": "bob" }),
    ] {
        let body = body.to_string();
        let answer = served.ask(Ask { path: "/api/runs", body: &body, ..ask }).await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(!answer.body.contains("mine") && !answer.body.contains("COMPLETED"), "{answer:?}");
    }
    let own = bob.runs[0].run_id();
    assert_eq!(served.engine.get_run(&own).await.expect("readable").expect("there").user_id.as_deref(), Some("bob"));
    // Who is named in the form does not matter: the credential decides.
    let answer = served.post("/workflows/echo/runs", &alice, "message=hello&user_id=bob&stream=false").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let session = answer.text("session_id");
    let path = format!("/sessions/{session}");
    assert_eq!(served.get(&path, &alice).await.json()["user_id"], "alice");
    assert_eq!(served.get(&path, &bob.key).await.status, 404);
    let body = r#"{"session_id":"made-by-alice","user_id":"bob"}"#;
    let answer = served.ask(Ask { body, ..ask }).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(served.get("/sessions/made-by-alice", &bob.key).await.status, 404);
    assert_eq!(served.get("/sessions/made-by-alice", &alice).await.json()["user_id"], "alice");
}

/// The id of the run that a frame starts.
async fn ask_on_socket(served: &Served, key: &str, frame: &Value) -> String {
    let mut socket = served.socket_of(key).await;
    socket.say(frame.clone()).await;
    socket.until("WorkflowStarted").await["run_id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_b07_a_cursor_of_anothers_list_is_a_place_in_ones_own() {
    let served = Served::start().await;
    let alice = things(&served, "alice").await;
    let bob = things(&served, "bob").await;
    for query in ["limit=1", "limit=2&order=oldest", "limit=1&preview=true"] {
        let page = served.get(&format!("/api/runs?{query}"), &alice.key).await.json();
        let cursor = page["next_cursor"].as_str().expect("alice has more");
        let order = if query.contains("oldest") { "order=oldest" } else { "order=newest" };
        let answer = served.get(&format!("/api/runs?{order}&limit=100&cursor={cursor}"), &bob.key).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        for run in answer.json()["runs"].as_array().expect("a list") {
            let run_id = run["run_id"].as_str().expect("an id");
            assert!(bob.runs.iter().any(|own| own.run == run_id), "{query}: {run}");
        }
        assert!(!answer.body.contains("alice"), "{answer:?}");
    }
    served.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_changed_runs_tells_a_user_of_their_own_runs_only() {
    let served = Served::start().await;
    let (alice, bob) = (served.user("alice").await, served.user("bob").await);
    let mut stream = served.send(Ask { path: "/api/stream", token: Some(&bob), ..Ask::default() }).await;
    let mut heard = String::new();
    read_until(&mut stream, &mut heard, "event: ready").await;
    let form = "message=hello&stream=false&background=true";
    let of_alice = served.post("/workflows/echo/runs", &alice, form).await.text("run_id");
    served.end_of(&RunId::parse(&of_alice).expect("an id")).await;
    let of_bob = served.post("/workflows/echo/runs", &bob, form).await.text("run_id");
    read_until(&mut stream, &mut heard, "COMPLETED").await;
    assert!(heard.contains(&of_bob) && !heard.contains(&of_alice), "{heard}");
}

async fn read_until(stream: &mut tokio::net::TcpStream, heard: &mut String, text: &str) {
    let mut bytes = [0; 4096];
    while !heard.contains(text) {
        let count = in_time(stream.read(&mut bytes)).await.expect("open");
        assert!(count > 0, "it ended before {text}: {heard}");
        heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

/// A request that reaches the rule's check of scopes.
fn path_of(rule: &Rule) -> String {
    let ids = [
        ("{step_id}", "step"),
        ("{workflow_id}", "echo"),
        ("{agent_id}", "helper"),
        ("{team_id}", "crew"),
        ("{run_id}", NOBODY_RUN),
        ("{response_id}", "resp_nobodys"),
        ("{model_id}", "echo"),
    ];
    ids.iter().fold(rule.path.replace("{session_id}", NOBODY_SESSION), |path, (name, id)| path.replace(name, id))
}

#[tokio::test]
async fn the_scopes_that_are_known_are_those_that_routes_ask_for() {
    let served = Served::start().await;
    let mut asked: BTreeSet<_> = served.rules.iter().filter_map(|rule| whole_scope(rule.needs)).collect();
    let resources: Vec<_> = asked.iter().filter_map(|scope| scope.split(':').next()).collect();
    let wider: Vec<_> = resources.into_iter().filter_map(outlive_server::auth::scope::for_all_users).collect();
    asked.extend(wider.into_iter().map(str::to_owned));
    let known: BTreeSet<_> = outlive_server::auth::scope::known().filter(|scope| scope != "agent_os:admin").collect();
    assert_eq!(asked, known);
    for rule in served.rules.iter() {
        let Needs::Scope(scope) = rule.needs else { continue };
        let of_one = scope.replacen(":{", ":", 1).replacen("}:", ":", 1).replacen("::", ":any:", 1);
        assert!(outlive_server::auth::scope::is_known(&of_one), "{scope}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_b09_every_route_and_action_refuses_a_caller_without_its_scope() {
    let served = Served::start().await;
    let mut refused = 0;
    for rule in served.rules.iter() {
        let Some(scope) = whole_scope(rule.needs) else { continue };
        // Everything but this scope is not enough, and neither is this scope for another id.
        let resource = scope.split(':').next().expect("a resource");
        let action = scope.rsplit(':').next().expect("an action");
        let elsewhere = outlive_server::auth::Scopes::parse([format!("{resource}:nobody:{action}").as_str()]);
        let without = served.key(Some("alice"), served.scopes_but(Some(&scope))).await.0;
        let elsewhere = served.key(Some("alice"), elsewhere).await.0;
        let is_for_any_id = matches!(rule.needs, Needs::Scope(needs) if needs.contains(":{}:"));
        let keys = if is_for_any_id { vec![without] } else { vec![without, elsewhere] };
        for key in keys {
            if let Verb::Message(action) = rule.method {
                let mut socket = served.socket_of(&key).await;
                socket.say(json!({ "action": action, "workflow_id": "echo", "run_id": NOBODY_RUN })).await;
                let event = socket.event().await;
                assert_eq!(event["event"], "error", "{action}");
                assert!(event["error"].as_str().is_some_and(|error| error.contains(&scope)), "{action}: {event}");
            } else {
                let path = path_of(rule);
                let method = rule.method.as_str();
                let answer = served.ask(Ask { method, path: &path, token: Some(&key), ..Ask::default() }).await;
                assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
                assert!(answer.body.contains(&scope), "{answer:?}");
            }
            refused += 1;
        }
    }
    assert!(refused > 40, "only {refused} refusals");
}

#[tokio::test]
async fn bad_b10_every_route_asks_for_a_credential_but_those_that_are_listed_here() {
    let served = Served::start().await;
    let mut open = Vec::new();
    for rule in served.rules.iter() {
        match rule.method {
            Verb::Message(action) => assert!(rule.needs != Needs::Open, "{action} is open"),
            method => {
                let path = path_of(rule);
                let answer = served.ask(Ask { method: method.as_str(), path: &path, ..Ask::default() }).await;
                if rule.needs == Needs::Open {
                    open.push(rule.path);
                } else {
                    assert_eq!(answer.status, 401, "{} {path}: {answer:?}", method.as_str());
                }
            }
        }
    }
    open.sort_unstable();
    assert_eq!(open, ["/", "/health", "/info", "/ready", "/workflows/ws"]);
    // Without a credential a socket hears nothing of any run.
    let mut socket = served.socket().await;
    assert_eq!(socket.event().await["requires_auth"], true);
    let messages = messages(&served);
    for action in messages {
        socket.say(json!({ "action": action, "workflow_id": "echo", "run_id": NOBODY_RUN })).await;
        match in_time(socket.next()).await {
            Heard::Event(event) => assert_eq!(event["event"], "auth_required", "{action}"),
            Heard::Closed(frame) => panic!("{frame:?}"),
        }
    }
}

/// What a client may say on a socket.
fn messages(served: &Served) -> Vec<&'static str> {
    let message = |verb| if let Verb::Message(action) = verb { Some(action) } else { None };
    served.rules.iter().filter_map(|rule| message(rule.method)).collect()
}
