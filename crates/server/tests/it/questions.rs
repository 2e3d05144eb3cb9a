//! Questions to people over HTTP and on sockets: listed, answered, continued as Agno's clients do.

use crate::served::{Answer, Ask, Served, Setup, in_time};
use outlive_core::testing::Dice;
use outlive_core::{self as core, RunId, RunStatus};
use outlive_engine::Error;
use outlive_server::auth::Scopes;
use outlive_server::auth::scope::ALL_QUESTIONS;
use serde_json::{Value, json};
use std::sync::Arc;

async fn open_to_everyone() -> Served {
    Served::with(Setup { with_keys: false, ..Setup::default() }).await
}

/// A run of a workflow that pauses, as Agno's clients get it.
async fn paused(served: &Served, workflow: &str) -> Value {
    let answer = served.post(&format!("/workflows/{workflow}/runs"), "", "message=hi&stream=false").await;
    let run = answer.json();
    assert_eq!((answer.status, &run["status"]), (200, &json!("PAUSED")), "{run}");
    run
}

async fn say(served: &Served, id: &str, body: Value) -> (u16, Value) {
    let path = format!("/api/questions/{id}/answer");
    let body = body.to_string();
    let ask = Ask { method: "POST", path: &path, content_type: "application/json", body: &body, ..Ask::default() };
    let answer = served.ask(ask).await;
    (answer.status, answer.json())
}

fn form(requirements: &Value) -> String {
    sent("step_requirements", requirements, false)
}

fn sent(field: &str, requirements: &Value, stream: bool) -> String {
    let text: String = requirements.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("stream={stream}&{field}={text}")
}

#[tokio::test]
async fn a_question_is_listed_shown_answered_and_kept() {
    let served = open_to_everyone().await;
    let run = paused(&served, "asks").await;
    let run_id = run["run_id"].as_str().expect("an id");
    let open = served.get(&format!("/api/questions?run_id={run_id}"), "").await.json();
    let question = &open["questions"][0];
    assert_eq!(
        json!([question["kind"], question["state"], question["message"], question["step_name"], question["answers"]]),
        json!(["user_input", "open", "Which colour?", "ask", ["input", "reject"]])
    );
    assert_eq!(question["schema"]["required"], json!(["colour"]));
    let id = question["question_id"].as_str().expect("an id");
    let waiting = served.get(&format!("/api/runs/{run_id}"), "").await.json();
    assert_eq!(waiting["waiting"]["remedy"], json!({ "do": "answer", "question_id": id }));
    assert_eq!(waiting["steps"][0]["status"], "waiting");
    for (body, status, problem) in [
        (json!({ "do": "approve" }), 400, "answer with one of input, reject, not approve"),
        (json!({ "do": "input", "values": { "colour": 3 } }), 400, "Field 'colour' expected str, got int"),
        (json!({ "do": "input" }), 422, "input needs it"),
        (json!({ "do": "input", "values": {}, "feedback": "x" }), 422, "does not go with input"),
        (json!({ "do": "dance" }), 422, "Input should be one of approve, reject"),
        (json!({}), 422, "Input should be one of approve, reject"),
    ] {
        let (answered, told) = say(&served, id, body.clone()).await;
        assert_eq!(answered, status, "{body}: {told}");
        assert!(told.to_string().contains(problem), "{body}: {told}");
    }
    let (status, answered) = say(&served, id, json!({ "do": "input", "values": { "colour": "red" } })).await;
    assert_eq!((status, &answered["state"]), (200, &json!("answered")), "{answered}");
    let (status, told) = say(&served, id, json!({ "do": "reject" })).await;
    assert_eq!(status, 409);
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("was answered before: input")), "{told}");
    let done = served.get(&format!("/workflows/asks/runs/{run_id}?wait=19s"), "").await.json();
    assert_eq!(
        (&done["status"], &done["content"]),
        (&json!("COMPLETED"), &json!("hi {\"user_input\":{\"colour\":\"red\"}}"))
    );
    let kept = served.get(&format!("/api/questions/{id}"), "").await.json();
    assert_eq!(kept["answer"], json!({ "do": "input", "values": { "colour": "red" } }));
    assert!(served.get("/api/questions", "").await.json()["questions"].as_array().expect("a list").is_empty());
    assert_eq!(served.get("/api/questions/nobodys", "").await.status, 404);
}

#[tokio::test]
async fn a_run_is_continued_with_its_requirements_answered() {
    let served = open_to_everyone().await;
    let run = paused(&served, "asks").await;
    let path = format!("/workflows/asks/runs/{}/continue", run["run_id"].as_str().expect("an id"));
    let requirement = |change: Value| {
        let mut requirements = run["step_requirements"].clone();
        let fields = requirements[0].as_object_mut().expect("an object");
        fields.extend(change.as_object().cloned().unwrap_or_default());
        form(&requirements)
    };
    let unresolved = "Cannot continue run - unresolved step requirements: ['ask']";
    let wrong = "Invalid structure or content for step_requirements: Invalid user_input for step 'ask': \
        User input validation failed:\n  - Required field 'colour' is missing or empty";
    for (body, status, detail) in [
        ("stream=false&step_requirements=nonsense".to_owned(), 400, "Invalid JSON in step_requirements field"),
        (
            "stream=false&step_requirements=[{}]".to_owned(),
            400,
            "Invalid structure or content for step_requirements: 'step_id'",
        ),
        ("stream=false&step_requirements=".to_owned(), 400, unresolved),
        (requirement(json!({})), 400, unresolved),
        (requirement(json!({ "user_input": { "size": 3 } })), 400, wrong),
        (
            format!("{}&background=true", requirement(json!({ "user_input": { "colour": "red" } }))),
            409,
            "background=true",
        ),
    ] {
        let answer = served.post(&path, "", &body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.json()["detail"].as_str().is_some_and(|told| told.starts_with(detail)), "{answer:?}");
    }
    // Everything in it but the answer may come back changed.
    let answer = requirement(json!({ "user_input": { "colour": "red" }, "on_reject": "cancel", "step_input": null }));
    let done = served.post(&path, "", &answer).await;
    assert_eq!((done.status, &done.json()["status"]), (200, &json!("COMPLETED")), "{done:?}");
    assert_eq!(done.json()["step_requirements"][0]["user_input"], json!({ "colour": "red" }));
    let again = served.post(&path, "", &answer).await;
    assert_eq!((again.status, &again.json()["detail"]), (409, &json!("run is already completed")));
}

#[tokio::test]
async fn a_continued_run_is_followed_from_its_pause_also_on_a_socket() {
    let served = open_to_everyone().await;
    let run = paused(&served, "asks").await;
    let mut requirements = run["step_requirements"].clone();
    requirements[0]["user_input"] = json!({ "colour": "red" });
    let path = format!("/workflows/asks/runs/{}/continue", run["run_id"].as_str().expect("an id"));
    let body = form(&requirements).replace("stream=false", "stream=true");
    let events = served.post(&path, "", &body).await.body;
    let names: Vec<&str> = events.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| *name != "CustomEvent").collect();
    assert_eq!(names, ["StepContinued", "StepStarted", "StepOutput", "StepCompleted", "WorkflowCompleted"]);
    assert!(!events.contains("event_index"), "{events}");

    let run = paused(&served, "asks").await;
    let mut requirements = run["step_requirements"].clone();
    requirements[0]["user_input"] = json!({ "colour": "blue" });
    let mut socket = served.socket().await;
    assert_eq!(socket.event().await["event"], "connected");
    let frame = json!({
        "action": "continue-workflow", "workflow_id": "asks", "run_id": run["run_id"], "step_requirements": requirements,
    });
    socket.say(frame).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "WorkflowCompleted") {
        let event = socket.event().await;
        assert!(event["event_index"].as_u64() > Some(1), "{event}");
        seen.push(event["event"].as_str().expect("a name").to_owned());
    }
    assert!(seen.contains(&"StepContinued".to_owned()) && !seen.contains(&"StepPaused".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn whoever_submitted_a_run_does_not_answer_it_under_four_eyes() {
    let served = Served::start().await;
    let ada = served.user("ada").await;
    let admin = |user: &'static str| served.key(Some(user), Scopes::parse(["agent_os:admin"]));
    let (boss, own) = (admin("bob").await.0, admin("ada").await.0);
    let answer = served.post("/workflows/guarded/runs", &ada, "message=hi&stream=false").await;
    let run = answer.json();
    assert_eq!(run["status"], "PAUSED", "{run}");
    let run_id = run["run_id"].as_str().expect("an id");
    let open = served.get(&format!("/api/questions?run_id={run_id}"), &ada).await.json();
    let id = open["questions"][0]["question_id"].as_str().expect("an id").to_owned();
    let path = format!("/api/questions/{id}/answer");
    let say = async |token: &str| {
        let ask = Ask {
            method: "POST",
            path: &path,
            token: Some(token),
            content_type: "application/json",
            body: r#"{"do":"approve"}"#,
            ..Ask::default()
        };
        served.ask(ask).await
    };
    // Neither as a user nor as an admin, nor the way Agno's clients do.
    for token in [&ada, &own] {
        let refused = say(token).await;
        assert_eq!(refused.status, 403, "{refused:?}");
        let told = refused.json();
        assert_eq!(told["error_code"], "four_eyes", "{told}");
        assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("somebody else must answer")), "{told}");
    }
    let mut requirements = run["step_requirements"].clone();
    requirements[0]["confirmed"] = json!(true);
    let continued =
        served.post(&format!("/workflows/guarded/runs/{run_id}/continue"), &ada, &form(&requirements)).await;
    assert_eq!(continued.status, 403, "{continued:?}");
    let said = say(&boss).await;
    assert_eq!((said.status, &said.json()["answered_by"]), (200, &json!("bob")), "{said:?}");
    let done = served.get(&format!("/workflows/guarded/runs/{run_id}?wait=19s"), &ada).await.json();
    assert_eq!(done["status"], "COMPLETED", "{done}");
}

#[tokio::test]
async fn a_step_that_nobody_answered_for_in_time_is_shown_as_skipped_and_why() {
    let served = open_to_everyone().await;
    let run = served.post("/workflows/late/runs", "", "message=hi&stream=false&background=true").await.json();
    let run_id = run["run_id"].as_str().expect("an id");
    let mut events =
        served.engine.attach(outlive_core::RunId::parse(run_id).expect("an id")).events(None).through_pauses();
    while crate::served::in_time(events.next()).await.expect("readable").is_some() {}
    let shown = served.get(&format!("/api/runs/{run_id}"), "").await.json();
    let step = &shown["steps"][0];
    assert_eq!(
        (&shown["status"], &step["status"], &step["error"]),
        (&json!("COMPLETED"), &json!("skipped"), &json!("nobody answered in time")),
        "{shown}"
    );
    assert!(step["ended_at"].is_string(), "{step}");
}

#[tokio::test]
async fn questions_are_found_by_how_their_ids_begin() {
    let served = open_to_everyone().await;
    paused(&served, "asks").await;
    let all = served.get("/api/questions", "").await.json();
    let id = all["questions"][0]["question_id"].as_str().expect("an id");
    let found = async |prefix: &str| {
        let list = served.get(&format!("/api/questions?q={prefix}"), "").await.json();
        list["questions"].as_array().expect("a list").len()
    };
    assert_eq!((found(&id[..8]).await, found(id).await, found("nobodys").await, found("").await), (1, 1, 0, 1));
    let refused = served.get("/api/questions?cursor=nobodys", "").await;
    assert_eq!((refused.status, refused.json()["detail"][0]["loc"][1].clone()), (422, json!("cursor")), "{refused:?}");
}

/// Says something to a question, as the holder of this key.
async fn say_as(served: &Served, token: &str, id: &str, body: &str) -> Answer {
    let path = format!("/api/questions/{id}/answer");
    let content_type = "application/json";
    served.ask(Ask { method: "POST", path: &path, token: Some(token), content_type, body, ..Ask::default() }).await
}

/// A run of ada's that asks for another person's yes: what her client has of it, its id, and its question's.
async fn guarded(served: &Served, ada: &str) -> (Value, String, String) {
    let run = served.post("/workflows/guarded/runs", ada, "message=hi&stream=false").await.json();
    assert_eq!(run["status"], "PAUSED", "{run}");
    let run_id = run["run_id"].as_str().expect("an id").to_owned();
    let open = served.get(&format!("/api/questions?run_id={run_id}"), ada).await.json();
    let id = open["questions"][0]["question_id"].as_str().expect("an id").to_owned();
    let mut requirements = run["step_requirements"].clone();
    requirements[0]["confirmed"] = json!(true);
    (requirements, run_id, id)
}

#[tokio::test]
async fn whoever_answers_for_all_users_reaches_their_questions_with_one_scope() {
    let served = Served::start().await;
    let (ada, cara) = (served.user("ada").await, served.user("cara").await);
    let bob = served.key(Some("bob"), Scopes::parse([ALL_QUESTIONS])).await.0;
    let (requirements, run_id, id) = guarded(&served, &ada).await;
    let list = async |token: &str| served.get("/api/questions", token).await.json()["questions"].clone();
    let yes = r#"{"do":"approve"}"#;
    // Every other scope does not do.
    assert_eq!(list(&cara).await, json!([]));
    assert_eq!(served.get(&format!("/api/questions/{id}"), &cara).await.status, 404);
    assert_eq!(say_as(&served, &cara, &id, yes).await.status, 404);
    let path = format!("/workflows/guarded/runs/{run_id}/continue");
    let unknown = served.post("/workflows/guarded/runs/nobodys/continue", &cara, &form(&requirements)).await;
    let refused = served.post(&path, &cara, &form(&requirements)).await;
    assert_eq!((refused.status, refused.body), (404, unknown.body));
    // And this one does nothing else.
    let listed = list(&bob).await;
    assert_eq!((&listed[0]["question_id"], &listed[0]["user_id"]), (&json!(id), &json!("ada")), "{listed}");
    let shown = served.get(&format!("/api/questions/{id}"), &bob).await;
    assert_eq!((shown.status, &shown.json()["message"]), (200, &json!("Really?")));
    for path in [format!("/api/runs/{run_id}"), "/api/runs".to_owned(), "/sessions".to_owned()] {
        assert_eq!(served.get(&path, &bob).await.status, 403, "{path}");
    }
    for path in [path, format!("/api/runs/{run_id}/cancel"), format!("/workflows/guarded/runs/{run_id}/cancel")] {
        assert_eq!(served.post(&path, &bob, &form(&requirements)).await.status, 403, "{path}");
    }
    let said = say_as(&served, &bob, &id, yes).await;
    assert_eq!((said.status, &said.json()["answered_by"]), (200, &json!("bob")), "{said:?}");
    let end = served.end_of(&RunId::parse(&run_id).expect("an id")).await;
    assert_eq!(end.status, RunStatus::Completed, "{end:?}");
}

#[tokio::test]
async fn whoever_continues_a_run_of_another_user_is_shown_nothing_of_it() {
    let served = Served::start().await;
    let ada = served.user("ada").await;
    let others = served.scopes_but(None);
    let eve = served.key(Some("eve"), Scopes::parse(others.iter().chain([ALL_QUESTIONS]))).await.0;
    let (requirements, run_id, id) = guarded(&served, &ada).await;
    let session = served.get(&format!("/api/runs/{run_id}"), &ada).await.text("session_id");
    for path in [
        format!("/api/runs/{run_id}"),
        format!("/api/runs/{run_id}/output"),
        format!("/api/runs/{run_id}/events"),
        format!("/api/runs/{run_id}/stream"),
        format!("/workflows/guarded/runs/{run_id}"),
        format!("/sessions/{session}"),
        format!("/v1/responses/resp_{run_id}"),
    ] {
        assert_eq!(served.get(&path, &eve).await.status, 404, "{path}");
    }
    let runs = served.get("/api/runs", &eve).await.json();
    assert_eq!(runs["runs"], json!([]), "{runs}");
    for verb in ["cancel", "rerun", "retry"] {
        assert_eq!(served.post(&format!("/api/runs/{run_id}/{verb}"), &eve, "").await.status, 404, "{verb}");
    }
    served.post(&format!("/workflows/guarded/runs/{run_id}/cancel"), &eve, "").await;
    let followed = served.post(&format!("/workflows/guarded/runs/{run_id}/resume"), &eve, "").await;
    assert!(followed.body.contains("not found in buffer or database"), "{followed:?}");
    assert_eq!(served.get(&format!("/api/questions/{id}"), &ada).await.text("state"), "open", "nothing has happened");

    // Whether a stream is asked for or not.
    let path = format!("/workflows/guarded/runs/{run_id}/continue");
    let body = form(&requirements).replace("stream=false", "stream=true");
    let told = served.post(&path, &eve, &body).await;
    let nothing_more = json!({ "run_id": run_id, "session_id": session, "status": "RUNNING" });
    assert_eq!((told.status, told.json()), (202, nothing_more));
    let end = served.end_of(&RunId::parse(&run_id).expect("an id")).await;
    assert_eq!(end.status, RunStatus::Completed, "{end:?}");
    assert_eq!(served.get(&format!("/api/questions/{id}"), &ada).await.text("answered_by"), "eve");
    // It asks nothing more, so it is not there any more.
    let again = served.post(&path, &eve, &body).await;
    let unknown = served.post("/workflows/guarded/runs/nobodys/continue", &eve, &body).await;
    assert_eq!((again.status, again.body), (404, unknown.body));

    let (requirements, run_id, id) = guarded(&served, &ada).await;
    let mut socket = served.socket_of(&eve).await;
    let ask = |action: &str| json!({ "action": action, "run_id": run_id, "step_requirements": requirements });
    for action in ["reconnect", "cancel-workflow"] {
        socket.say(ask(action)).await;
        assert!(socket.event().await["error"].as_str().is_some_and(|error| error.contains("not found")), "{action}");
    }
    socket.say(ask("continue-workflow")).await;
    let told = socket.event().await;
    assert_eq!((&told["event"], &told["run_id"]), (&json!("queued"), &json!(run_id)), "{told}");
    served.end_of(&RunId::parse(&run_id).expect("an id")).await;
    assert_eq!(served.get(&format!("/api/questions/{id}"), &ada).await.text("answered_by"), "eve");
    socket.say(ask("continue-workflow")).await;
    assert_eq!(socket.event().await["error"], json!(format!("Run {run_id} not found")), "and no event of it before");
}

#[tokio::test]
async fn an_answer_that_somebody_else_was_faster_than_is_not_dropped_without_a_word() {
    let served = open_to_everyone().await;
    let run = paused(&served, "asks-twice").await;
    let run_id = run["run_id"].as_str().expect("an id");
    let path = format!("/workflows/asks-twice/runs/{run_id}/continue");
    let open = served.get(&format!("/api/questions?run_id={run_id}"), "").await.json();
    let says = |answers: [bool; 2]| {
        let mut requirements = run["step_requirements"].clone();
        answers.iter().enumerate().for_each(|(at, answer)| requirements[at]["confirmed"] = json!(answer));
        form(&requirements)
    };
    let first = open["questions"][0]["question_id"].as_str().expect("an id");
    say(&served, first, json!({ "do": "approve" })).await;
    served.end_of(&RunId::parse(run_id).expect("an id")).await;
    let now = served.get(&format!("/api/runs/{run_id}"), "").await.json();
    assert_eq!(now["status"], "PAUSED", "{now}");
    // Its client has not heard of that yet.
    let refused = served.post(&path, "", &says([false, true])).await;
    let detail = refused.text("detail");
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(detail.starts_with(&format!("question {first} was answered before: approve")), "{detail}");
    let open = served.get(&format!("/api/questions?run_id={run_id}"), "").await.json();
    assert_eq!(open["questions"].as_array().expect("a list").len(), 1, "nothing happened");
    // What was answered the same is no reason to refuse.
    let done = served.post(&path, "", &says([true, false])).await;
    assert_eq!((done.status, &done.json()["status"]), (200, &json!("COMPLETED")), "{done:?}");
}

#[tokio::test]
async fn an_answer_to_what_was_asked_before_is_none_to_what_is_asked_now() {
    let served = open_to_everyone().await;
    let run = paused(&served, "redraft").await;
    let run_id = run["run_id"].as_str().expect("an id");
    let path = format!("/workflows/redraft/runs/{run_id}/continue");
    let open = async || served.get(&format!("/api/questions?run_id={run_id}"), "").await.json()["questions"].clone();
    let approved = |run: &Value| {
        let mut requirements = run["step_requirements"].clone();
        let last = requirements.as_array_mut().and_then(|all| all.last_mut()).expect("a requirement");
        last["confirmed"] = json!(true);
        form(&requirements)
    };
    let first = open().await[0]["question_id"].as_str().expect("an id").to_owned();
    say(&served, &first, json!({ "do": "reject", "feedback": "too long" })).await;
    served.end_of(&RunId::parse(run_id).expect("an id")).await;
    let second = open().await[0]["question_id"].clone();
    assert_ne!(second, json!(first));
    // Whoever liked the first draft has not seen the second.
    let refused = served.post(&path, "", &approved(&run)).await;
    assert_eq!(
        (refused.status, refused.text("detail")),
        (400, "Cannot continue run - unresolved step requirements: ['redraft']".to_owned())
    );
    assert_eq!(open().await[0]["question_id"], second);
    let now = served.get(&format!("/workflows/redraft/runs/{run_id}"), "").await.json();
    let done = served.post(&path, "", &approved(&now)).await;
    assert_eq!((done.status, &done.json()["status"]), (200, &json!("COMPLETED")), "{done:?}");
}

#[tokio::test]
async fn a_yes_to_one_iteration_is_none_to_the_next() {
    let served = open_to_everyone().await;
    let run = paused(&served, "again").await;
    let path = format!("/workflows/again/runs/{}/continue", run["run_id"].as_str().expect("an id"));
    let yes = |run: &Value| {
        let mut last = run["step_requirements"].as_array().and_then(|all| all.last()).expect("a requirement").clone();
        last["confirmed"] = json!(true);
        form(&json!([last]))
    };
    let first = yes(&run);
    let next = served.post(&path, "", &first).await.json();
    assert_eq!(next["status"], "PAUSED", "{next}");
    // It comes once more, from somebody who has not seen what the first came to.
    let stale = served.post(&path, "", &first).await;
    assert_eq!(
        (stale.status, stale.text("detail")),
        (400, "Cannot continue run - unresolved step requirements: ['each']".to_owned())
    );
    let done = served.post(&path, "", &yes(&next)).await.json();
    assert_eq!(done["status"], "COMPLETED", "{done}");
}

/// The requirement with this message: they are in the order of their keys.
fn asked_as<'a>(run: &'a Value, message: &str) -> &'a Value {
    let all = run["requirements"].as_array().expect("a list");
    all.iter().find(|asked| asked["tool_execution"]["tool_args"]["message"] == message).expect("it was asked")
}

#[tokio::test]
async fn an_agent_that_asks_in_the_middle_of_its_work_says_so_and_is_continued() {
    let served = open_to_everyone().await;
    let names = |events: &str| -> Vec<String> {
        let names = events.lines().filter_map(|line| line.strip_prefix("event: "));
        names.filter(|name| *name != "CustomEvent").map(str::to_owned).collect()
    };
    let last = |events: &str| -> Value {
        let last = events.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().expect("an event");
        serde_json::from_str(last).expect("JSON")
    };
    for stream_events in [true, false] {
        let form = format!("message=hi&stream=true&stream_events={stream_events}");
        let begun = served.post("/agents/asker/runs", "", &form).await;
        assert_eq!(names(&begun.body), ["RunPaused"], "{begun:?}");
        let paused = last(&begun.body);
        let requirement = &paused["requirements"][0];
        assert_eq!(
            (&paused["content"], &paused["agent_id"], &requirement["tool_execution"]["tool_args"]),
            (&json!("Sure?"), &json!("asker"), &json!({ "message": "Sure?" }))
        );
        assert_eq!(requirement["tool_execution"]["requires_confirmation"], true);
        let run_id = paused["run_id"].as_str().expect("an id");
        let shown = served.get(&format!("/agents/asker/runs/{run_id}"), "").await.json();
        assert_eq!(
            (&shown["status"], &shown["requirements"][0]["id"]),
            (&json!("PAUSED"), &requirement["id"]),
            "{shown}"
        );
        let path = format!("/agents/asker/runs/{run_id}/continue");
        assert_eq!(served.post(&path, "", "stream=false&tools=[]").await.status, 400);

        // As Agno's clients do: the call with its answer.
        let mut call = requirement["tool_execution"].clone();
        call["confirmed"] = json!(true);
        let on = served.post(&path, "", &sent("tools", &json!([call]), stream_events)).await;
        let now = match stream_events {
            true => {
                assert_eq!(names(&on.body), ["RunContinued", "RunPaused"], "{on:?}");
                last(&on.body)
            }
            false => on.json(),
        };
        // The first is settled; in the run it stays, with its answer.
        let mut asked = asked_as(&now, "Which colour?").clone();
        assert_eq!(asked["tool_execution"]["user_input_schema"][0]["name"], "colour", "{now}");
        asked["tool_execution"]["user_input_schema"][0]["value"] = json!("red");
        let done = served.post(&path, "", &sent("requirements", &json!([asked]), false)).await.json();
        assert_eq!((&done["status"], &done["content"]), (&json!("COMPLETED"), &json!("it is red")), "{done}");
        let of = |message| &asked_as(&done, message)["tool_execution"];
        let answers = (&of("Sure?")["confirmed"], &of("Which colour?")["answered"]);
        assert_eq!(answers, (&json!(true), &json!(true)), "{done}");
    }
    let begun = served.post("/agents/asker/runs", "", "message=hi&stream=false").await.json();
    let mut asked = begun["requirements"][0].clone();
    asked["confirmation"] = json!(false);
    let path = format!("/agents/asker/runs/{}/continue", begun["run_id"].as_str().expect("an id"));
    let done = served.post(&path, "", &sent("requirements", &json!([asked]), false)).await.json();
    assert_eq!(done["content"], "then not", "{done}");
}

#[tokio::test]
async fn a_fork_with_another_answer_takes_the_scope_of_answering() {
    let served = Served::start().await;
    let ada = served.user("ada").await;
    let mute = served.key(Some("ada"), served.scopes_but(Some("questions:answer"))).await.0;
    let run = served.post("/workflows/asks/runs", &ada, "message=hi&stream=false").await.json();
    let run_id = run["run_id"].as_str().expect("an id");
    let open = served.get(&format!("/api/questions?run_id={run_id}"), &ada).await.json();
    let id = open["questions"][0]["question_id"].as_str().expect("an id");
    assert_eq!(say_as(&served, &ada, id, r#"{"do":"reject"}"#).await.status, 200);
    served.end_of(&RunId::parse(run_id).expect("an id")).await;
    let path = format!("/api/runs/{run_id}/fork");
    let fork = async |token: &str, body: Value| {
        let (body, content_type) = (body.to_string(), "application/json");
        served
            .ask(Ask { method: "POST", path: &path, token: Some(token), content_type, body: &body, ..Ask::default() })
            .await
    };
    let other = json!({ "at": "ask", "answer": { "do": "input", "values": { "colour": "red" } } });
    let refused = fork(&mute, other.clone()).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.text("detail").ends_with("questions:answer"), "{refused:?}");
    assert_eq!(fork(&mute, json!({ "at": "ask" })).await.status, 202, "nothing is answered");
    assert_eq!(fork(&ada, other).await.status, 202);
}

/// What one of many tried at once, and what was said to it.
struct Tried {
    by: String,
    what: u64,
    answer: Answer,
}

/// One trial of everything at once on a run that asks twice: clients that continue it with all answers, people who give
/// one, a cancel, a deletion, and some who only look on. Whoever is told that it is done has done it, and nobody else has.
async fn trial(served: Arc<Served>, keys: Arc<[String]>, seed: u64) {
    let mut dice = Dice(seed);
    let run_id = served.submit("asks-twice", "hi").await;
    let run = served.engine.attach(run_id.clone());
    let output = in_time(run.wait()).await.expect("it pauses");
    let requirements = json!(output.step_requirements);
    let session_id = output.session_id.to_string();
    let ids: Vec<Arc<str>> =
        run.questions().await.expect("readable").iter().map(|question| question.id().clone()).collect();
    // What each says to the two questions.
    let says = |what: u64| match what {
        0..=3 => [Some(true), Some(true)],
        4 => [Some(true), Some(false)],
        5 => [Some(false), Some(true)],
        6 => [Some(true), None],
        7 => [None, Some(false)],
        _ => [None, None],
    };
    let mut tasks = tokio::task::JoinSet::new();
    let (mut cancels, mut deletes) = (false, false);
    for (number, key) in keys.iter().enumerate() {
        let (pauses, what) = (dice.below(200), dice.below(11));
        // A deletion leaves little to look at.
        if what == 9 && dice.below(4) > 0 {
            continue;
        }
        cancels |= what == 8;
        deletes |= what == 9;
        let (served, key, by, ids) = (served.clone(), key.clone(), format!("p{number}"), ids.clone());
        let (run_id, session_id, mut requirements) = (run_id.clone(), session_id.clone(), requirements.clone());
        for (at, yes) in says(what).into_iter().enumerate() {
            requirements[at]["confirmed"] = json!(yes);
        }
        tasks.spawn(async move {
            for _ in 0..pauses {
                tokio::task::yield_now().await;
            }
            let answer = match what {
                6 => say_as(&served, &key, &ids[0], r#"{"do":"approve"}"#).await,
                7 => say_as(&served, &key, &ids[1], r#"{"do":"reject"}"#).await,
                8 => served.post(&format!("/api/runs/{run_id}/cancel"), &key, "").await,
                9 => {
                    let path = format!("/sessions/{session_id}");
                    served.ask(Ask { method: "DELETE", path: &path, token: Some(&key), ..Ask::default() }).await
                }
                10 => served.post(&format!("/workflows/asks-twice/runs/{run_id}/resume"), &key, "").await,
                _ => {
                    let path = format!("/workflows/asks-twice/runs/{run_id}/continue");
                    served.post(&path, &key, &form(&requirements)).await
                }
            };
            Tried { by, what, answer }
        });
    }
    let mut all = Vec::new();
    while let Some(tried) = tasks.join_next().await {
        all.push(tried.expect("no panic"));
    }
    // Whatever nobody has answered is answered now.
    let end = loop {
        match in_time(run.wait()).await {
            Ok(output) if output.status == RunStatus::Paused => {
                for question in run.questions().await.expect("readable") {
                    question.by("late").approve().await.expect("it is open");
                }
            }
            Ok(output) => break output,
            Err(Error::RunNotFound(_)) if deletes => return,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    };
    assert!(end.status == RunStatus::Completed || cancels, "seed {seed}: {end:?}");
    let mut given = Vec::new();
    for id in &ids {
        match served.engine.question(id).await.expect("readable") {
            Some(asked) => given.push(asked.answered),
            None if deletes => return,
            None => panic!("seed {seed}: {id} is gone"),
        }
    }
    for Tried { by, what, answer } in all {
        let is_done = match answer.status {
            // Agno shows a cancelled run as it is, whatever was asked of it.
            200 if what < 6 => answer.json()["status"] != "CANCELLED",
            200 | 204 => true,
            404 if deletes => false,
            409 => false,
            _ => panic!("seed {seed}: {by} {what} {answer:?}"),
        };
        let pairs = || given.iter().zip(says(what));
        let is_by = |answered: &core::Answered| answered.by.as_deref() == Some(&*by);
        let is_in = pairs().filter(|(given, _)| given.as_ref().is_some_and(is_by)).count();
        let stands = pairs().all(|(given, said)| {
            let is_yes = given.as_ref().map(|given| given.answer == core::Answer::Approve);
            said.is_none() || is_yes == said
        });
        let asked = says(what).iter().flatten().count();
        match is_done {
            true => assert!(asked == 0 || (stands && is_in > 0), "seed {seed}: {by} {what} {answer:?} {given:?}"),
            false if answer.status == 200 => {}
            false => assert_eq!(is_in, 0, "seed {seed}: {by} {what} {answer:?} {given:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_all_who_continue_answer_cancel_and_delete_at_once_each_is_told_the_truth() {
    // Another range of seeds: CONTINUE_SEED=1000 cargo test -p outlive-server continue
    let first = std::env::var("CONTINUE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0u64);
    let served = Arc::new(Served::start().await);
    let mut keys = Vec::new();
    for number in 0..5 {
        let user: Arc<str> = format!("p{number}").into();
        keys.push(served.key(Some(&user), Scopes::admin()).await.0);
    }
    let keys: Arc<[String]> = keys.into();
    let mut trials = tokio::task::JoinSet::new();
    for seed in first..first + 1_000 {
        if trials.len() == 4 {
            trials.join_next().await.expect("one of them").expect("no panic");
        }
        trials.spawn(trial(served.clone(), keys.clone(), seed));
    }
    while let Some(trial) = trials.join_next().await {
        trial.expect("no panic");
    }
}
