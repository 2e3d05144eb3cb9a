//! Starting, reading, cancelling and repeating one run.

use super::stage::{Stage, serving_one};
use axum::http::StatusCode;
use outlive_core::{Definition, Failure, ForEach, OnError, RunId, Step, StepInput, Steps};
use serde_json::{Value, json};
use std::sync::Arc;

#[tokio::test]
async fn a_run_is_started_and_read() {
    let stage = Stage::new().await;
    let body = json!({ "workflow_id": "echo", "input": "hello", "run_id": "chosen:1", "session_id": "s-1" });
    let answer = stage.ada.post("/api/runs", body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    assert_eq!(answer.json(), json!({ "run_id": "chosen:1", "session_id": "s-1", "status": "PENDING" }));
    assert_eq!(answer.header("location"), Some("/api/runs/chosen:1"));
    assert_eq!(answer.header("idempotent-replay"), None);
    stage.ended("chosen:1").await;
    let run = stage.ada.get_json("/api/runs/chosen:1").await;
    for (key, expected) in [
        ("run_id", json!("chosen:1")),
        ("workflow_id", json!("echo")),
        ("workflow_name", json!("Echo")),
        ("session_id", json!("s-1")),
        ("user_id", json!("ada")),
        ("status", json!("COMPLETED")),
        ("input", json!("hello")),
        ("error", Value::Null),
        ("attempt", json!(1)),
    ] {
        assert_eq!(run[key], expected, "{key}: {run}");
    }
    let events = stage.ada.get_json("/api/runs/chosen:1/events").await;
    assert_eq!(run["seq"].as_u64().map(|seq| seq + 1), events["total"].as_u64());
    let steps = run["steps"].as_array().expect("steps");
    let seen: Vec<_> =
        steps.iter().map(|step| (&step["name"], &step["index"], &step["status"], &step["has_output"])).collect();
    assert_eq!(json!(seen), json!([["first", 0, "completed", true], ["second", 1, "completed", true]]),);
    assert!(steps.iter().all(|step| step.get("content").is_none() && step["executor_type"] == "function"), "{run}");
    assert_eq!(stage.ada.get_json("/api/runs/chosen:1?steps=true").await, run);
    let mut rest = run;
    rest.as_object_mut().expect("an object").remove("steps");
    assert_eq!(stage.ada.get_json("/api/runs/chosen:1?steps=false").await, rest);
    let refused = stage.ada.get("/api/runs/chosen:1?steps=none").await;
    assert_eq!(refused.status, 422);
}

#[tokio::test]
async fn a_failed_run_says_why_and_which_step() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("broken", "x").await;
    stage.ended(&run_id).await;
    let run = stage.ada.get_json(&format!("/api/runs/{run_id}")).await;
    assert_eq!((&run["status"], &run["steps"][0]["status"]), (&json!("ERROR"), &json!("error")), "{run}");
    assert!(run["error"].as_str().is_some_and(|error| error.contains("no such city")), "{run}");
    let list = stage.ada.get_json("/api/runs?preview=true").await;
    let preview = list["runs"][0]["error_preview"].as_str().expect("a preview");
    assert!(preview.contains("no such city") && !preview.contains("second line"), "{preview}");
    assert_eq!(list["runs"][0]["input_preview"], "x");
}

#[tokio::test]
async fn an_output_is_read_in_three_formats_whole_or_in_part() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("echo", "hello").await;
    stage.ended(&run_id).await;
    let run = stage.ada.get_json(&format!("/api/runs/{run_id}")).await;
    let step_id = run["steps"][0]["step_id"].as_str().expect("an id");
    let path = format!("/api/runs/{run_id}/steps/{step_id}/output");
    let whole = stage.ada.get(&path).await;
    assert_eq!(
        (whole.json()["content"].clone(), whole.header("content-type")),
        (json!("hello first"), Some("application/json"))
    );
    let text = format!("{path}?format=text");
    let as_text = stage.ada.get(&text).await;
    assert_eq!(as_text.text(), "hello first");
    assert_eq!(as_text.header("content-disposition"), Some("attachment; filename=\"output.txt\""));
    assert_eq!(as_text.header("x-content-type-options"), Some("nosniff"));
    let markdown = stage.ada.get(&format!("{path}?format=md")).await;
    assert_eq!(
        (markdown.text(), markdown.header("content-type")),
        ("hello first", Some("text/markdown; charset=utf-8"))
    );
    let etag = as_text.header("etag").expect("a tag").to_owned();
    assert!(etag.starts_with('"') && Some(etag.as_str()) != whole.header("etag"), "{etag}");
    for known in [etag.clone(), format!("\"other\", {etag}"), "*".to_owned()] {
        let unchanged = stage.ada.send("GET", &text, &[("if-none-match", &known)], None).await;
        assert_eq!(
            (unchanged.status.as_u16(), unchanged.text(), unchanged.header("etag")),
            (304, "", Some(etag.as_str()))
        );
    }
    let changed = stage.ada.send("GET", &text, &[("if-none-match", "\"other\"")], None).await;
    assert_eq!(changed.text(), "hello first");
    let part = stage.ada.send("GET", &text, &[("range", "bytes=6-10")], None).await;
    assert_eq!(
        (part.status.as_u16(), part.text(), part.header("content-range")),
        (206, "first", Some("bytes 6-10/11"))
    );
    let of_other = stage.ada.send("GET", &text, &[("range", "bytes=6-10"), ("if-range", "\"other\"")], None).await;
    assert_eq!((of_other.status.as_u16(), of_other.text()), (200, "hello first"));
    let beyond = stage.ada.send("GET", &text, &[("range", "bytes=11-")], None).await;
    assert_eq!(beyond.problem(), (416, "range_not_satisfiable".to_owned()));
    assert_eq!(beyond.header("content-range"), Some("bytes */11"));
    assert_eq!(stage.ada.get(&format!("{path}?format=pdf")).await.problem().0, 422);
    let unknown = stage.ada.get(&format!("/api/runs/{run_id}/steps/nothing/output")).await;
    assert_eq!(unknown.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a_runs_output_is_read_at_once_or_when_it_is_over() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("gate", "x").await;
    stage.begun(&run_id).await;
    let path = format!("/api/runs/{run_id}/output");
    let early = stage.ada.get_json(&path).await;
    assert_eq!((&early["status"], early.get("content")), (&json!("RUNNING"), None), "{early}");
    assert_eq!(stage.ada.get_json(&format!("{path}?wait=1ms")).await["status"], "RUNNING");
    let waiting = format!("{path}?wait=60s");
    let (over, ()) = tokio::join!(stage.ada.get(&waiting), async { stage.gate.add_permits(1) });
    let seen = over.json();
    assert_eq!(
        (&seen["status"], &seen["content"], &seen["run_id"]),
        (&json!("COMPLETED"), &json!("x"), &json!(run_id))
    );
    let tag = over.header("etag").expect("a tag");
    assert_eq!(stage.ada.send("GET", &path, &[("if-none-match", tag)], None).await.status, StatusCode::NOT_MODIFIED);
    assert_eq!(stage.ada.get(&format!("{path}?wait=soon")).await.problem().0, 422);
    assert_eq!(stage.bob.get(&path).await.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a_cancel_may_say_why() {
    let stage = Stage::idle().await;
    let run_id = stage.ada.start("echo", "x").await;
    let path = format!("/api/runs/{run_id}/cancel");
    for reason in [json!(""), json!("x".repeat(1001)), json!(7)] {
        assert_eq!(stage.ada.post(&path, json!({ "reason": reason })).await.problem().0, 422);
    }
    assert_eq!(stage.ada.post(&path, json!({ "reason": "closing time" })).await.status, StatusCode::OK);
    stage.ended(&run_id).await;
    let events = stage.ada.get_json(&format!("/api/runs/{run_id}/events?kind=WorkflowCancelled")).await;
    assert_eq!(events["events"][0]["reason"], "closing time", "{events}");
}

#[tokio::test]
async fn an_output_is_there_while_the_run_goes_on_and_not_before_the_step_has_ended() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("gate", "x").await;
    stage.begun(&run_id).await;
    let run = stage.ada.get_json(&format!("/api/runs/{run_id}")).await;
    let step = &run["steps"][0];
    assert_eq!(
        (&step["status"], &step["has_output"], &run["status"]),
        (&json!("running"), &json!(false), &json!("RUNNING"))
    );
    let path = format!("/api/runs/{run_id}/steps/{}/output", step["step_id"].as_str().expect("an id"));
    assert_eq!(stage.ada.get(&path).await.problem(), (404, "output_missing".to_owned()));
    stage.gate.add_permits(1);
    stage.ended(&run_id).await;
    assert_eq!(stage.ada.get_json(&path).await["content"], "x");
}

#[tokio::test]
async fn a_log_is_paged_in_both_directions() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("echo", "hello").await;
    stage.ended(&run_id).await;
    let path = format!("/api/runs/{run_id}/events");
    let all = stage.ada.get_json(&path).await;
    let total = all["total"].as_u64().expect("a number");
    let index = |page: &Value| -> Vec<u64> {
        let events = page["events"].as_array().expect("events").iter();
        events.map(|event| event["event_index"].as_u64().expect("an index")).collect()
    };
    assert_eq!(index(&all), (0..total).collect::<Vec<_>>());
    assert_eq!((&all["next_after"], &all["previous_before"]), (&Value::Null, &Value::Null));

    let (mut forwards, mut after) = (Vec::new(), String::new());
    loop {
        let page = stage.ada.get_json(&format!("{path}?limit=2{after}")).await;
        assert_eq!(page["total"], total);
        forwards.extend(index(&page));
        let Some(next) = page["next_after"].as_u64() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(forwards, (0..total).collect::<Vec<_>>());

    let (mut backwards, mut before) = (Vec::new(), total);
    loop {
        let page = stage.ada.get_json(&format!("{path}?limit=2&before={before}")).await;
        backwards.splice(0..0, index(&page));
        let Some(previous) = page["previous_before"].as_u64() else { break };
        before = previous;
    }
    assert_eq!(backwards, (0..total).collect::<Vec<_>>());

    let steps = stage.ada.get_json(&format!("{path}?kind=StepStarted,StepCompleted&limit=3")).await;
    let names: Vec<_> =
        steps["events"].as_array().expect("events").iter().map(|event| event["event"].clone()).collect();
    assert_eq!(json!(names), json!(["StepStarted", "StepCompleted", "StepStarted"]));
    let last = stage.ada.get_json(&format!("{path}?kind=StepStarted&limit=1&before={total}")).await;
    assert_eq!(
        (last["events"][0]["step_name"].clone(), last["events"].as_array().map(Vec::len)),
        (json!("second"), Some(1))
    );
}

#[tokio::test]
async fn a_run_is_repeated_with_the_same_input_in_the_same_session() {
    let stage = Stage::new().await;
    let body = json!({ "workflow_id": "echo", "input": "hello", "session_id": "s-1", "additional_data": { "a": 1 } });
    let first = stage.ada.post("/api/runs", body).await.json()["run_id"].as_str().expect("an id").to_owned();
    stage.ended(&first).await;
    let path = format!("/api/runs/{first}/rerun");
    let key = [("idempotency-key", "again-1")];
    let again = stage.ada.send("POST", &path, &key, None).await;
    assert_eq!(again.status, StatusCode::ACCEPTED, "{}", again.text());
    let body = again.json();
    assert_eq!((&body["rerun_of"], &body["session_id"]), (&json!(first), &json!("s-1")));
    let second = body["run_id"].as_str().expect("an id");
    assert_ne!(second, first);
    stage.ended(second).await;
    let run = stage.ada.get_json(&format!("/api/runs/{second}")).await;
    assert_eq!((&run["input"], &run["user_id"], &run["status"]), (&json!("hello"), &json!("ada"), &json!("COMPLETED")));
    let stored = stage.engine.record(&second.parse().expect("an id")).await.expect("the store works").expect("a run");
    assert_eq!(stored.request_options().expect("readable").attachments.additional_data, Some(json!({ "a": 1 })));
    assert_eq!(run["rerun_of"], json!(first));
    let listed = stage.ada.get_json("/api/runs?session_id=s-1").await;
    assert_eq!((&listed["runs"][0]["rerun_of"], &listed["runs"][1]["rerun_of"]), (&json!(first), &json!(null)));
    let repeated = stage.ada.send("POST", &path, &key, None).await;
    assert_eq!((repeated.status, &repeated.json()["run_id"]), (StatusCode::OK, &json!(second)));
}

#[tokio::test]
async fn a_run_is_forked_and_what_that_does_again_is_said_before() {
    let stage = Stage::new().await;
    let first = stage.ada.start("echo", "hello").await;
    stage.ended(&first).await;
    let path = |verb: &str| format!("/api/runs/{first}/{verb}");
    let fork = json!({ "at": "second", "input": "ho" });
    let preview = stage.ada.post(&path("fork/preview"), fork.clone()).await.json();
    assert_eq!(preview["forked_from"]["run_id"], json!(first), "{preview}");
    assert_eq!((&preview["kept_calls"], preview["again"].as_array().map(Vec::len)), (&json!(1), Some(1)), "{preview}");
    let again = &preview["again"][0];
    let told = (&again["key"], &again["kind"], &again["name"], &again["is_once"]);
    assert_eq!(told, (&json!("1"), &json!("function"), &json!("second"), &json!(false)));
    let key = [("idempotency-key", "fork-1")];
    let forked = stage.ada.send("POST", &path("fork"), &key, Some(fork.clone())).await;
    assert_eq!(forked.status, StatusCode::ACCEPTED, "{}", forked.text());
    let body = forked.json();
    assert_eq!(body["forked_from"], preview["forked_from"]);
    let second = body["run_id"].as_str().expect("an id").to_owned();
    stage.ended(&second).await;
    let run = stage.ada.get_json(&format!("/api/runs/{second}")).await;
    assert_eq!((&run["input"], &run["user_id"], &run["status"]), (&json!("ho"), &json!("ada"), &json!("COMPLETED")));
    assert_eq!(run["forked_from"], preview["forked_from"]);
    let repeated = stage.ada.send("POST", &path("fork"), &key, Some(fork)).await;
    assert_eq!((repeated.status, &repeated.json()["run_id"]), (StatusCode::OK, &json!(second)));
    // What cannot be done is said: a session belongs to one workflow.
    let other = json!({ "workflow_id": "broken", "session_id": "other" });
    assert_eq!(stage.ada.post("/api/runs", other).await.status, StatusCode::ACCEPTED);
    for (verb, body, status, code) in [
        ("fork", json!({ "at": "nowhere" }), 409, "cannot_fork"),
        ("fork", json!({ "at": 999 }), 409, "cannot_fork"),
        ("fork/preview", json!({ "at": 0, "output": "x" }), 409, "cannot_fork"),
        ("fork", json!({ "at": "second", "output": 1, "answer": { "do": "approve" } }), 422, "invalid_request"),
        ("fork", json!({}), 422, "invalid_request"),
        ("fork", json!({ "at": -1 }), 422, "invalid_request"),
        ("fork", json!({ "at": 1, "run_id": "a b" }), 422, "invalid_id"),
        ("fork", json!({ "at": 1, "session_id": "other" }), 404, "not_found"),
        ("fork/preview", json!({ "at": 1, "session_id": "other" }), 404, "not_found"),
        ("retry", json!({}), 409, "cannot_fork"),
        ("retry/preview", json!({}), 409, "cannot_fork"),
    ] {
        assert_eq!(
            stage.ada.post(&path(verb), body.clone()).await.problem(),
            (status, code.to_owned()),
            "{verb} {body}"
        );
    }
    assert_eq!(stage.bob.post(&path("fork"), json!({ "at": 0 })).await.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a_failed_run_is_tried_again_and_a_run_begins_later() {
    let stage = Stage::new().await;
    let first = stage.ada.start("broken", "x").await;
    stage.ended(&first).await;
    let preview = stage.ada.post(&format!("/api/runs/{first}/retry/preview"), json!({})).await.json();
    assert_eq!(preview["again"].as_array().map(Vec::len), Some(1), "{preview}");
    let again = stage.ada.send("POST", &format!("/api/runs/{first}/retry"), &[], None).await;
    assert_eq!(again.status, StatusCode::ACCEPTED, "{}", again.text());
    let second = again.json()["run_id"].as_str().expect("an id").to_owned();
    stage.ended(&second).await;
    let runs = [first, second].map(|id| format!("/api/runs/{id}"));
    let (one, other) = (stage.ada.get_json(&runs[0]).await, stage.ada.get_json(&runs[1]).await);
    assert_eq!((&other["status"], &other["session_id"]), (&json!("ERROR"), &one["session_id"]));
    let later = json!({ "workflow_id": "echo", "start_at": "2099-01-01T00:00:00Z", "priority": -3 });
    let later = stage.ada.post("/api/runs", later).await.json()["run_id"].as_str().expect("an id").to_owned();
    let run = stage.ada.get_json(&format!("/api/runs/{later}")).await;
    assert_eq!((&run["status"], &run["priority"]), (&json!("PENDING"), &json!(-3)));
    let told = (&run["waiting"]["for"], &run["waiting"]["until"]);
    assert_eq!(told.0, &json!("time"), "{run}");
    assert!(told.1.as_str().is_some_and(|until| until.starts_with("2099-01-01T00:00:00")), "{run}");
    for (field, value) in [
        ("start_at", json!("tomorrow")),
        ("start_at", json!("253402300800")),
        ("priority", json!(1000)),
        ("concurrency_key", json!("")),
    ] {
        let mut body = json!({ "workflow_id": "echo" });
        body[field] = value;
        assert_eq!(stage.ada.post("/api/runs", body).await.status, 422, "{field}");
    }
}

#[tokio::test]
async fn workers_are_listed_with_what_they_hold() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("gate", "x").await;
    stage.begun(&run_id).await;
    for (client, runs) in [(&stage.admin, 1), (&stage.ada, 1), (&stage.bob, 0)] {
        let workers = client.get_json("/api/workers").await;
        assert_eq!(workers["workers"].as_array().map(Vec::len), Some(1), "{workers}");
        assert_eq!(workers["workers"][0]["runs"], runs, "{workers}");
        assert!(workers["workers"][0]["good_until"].as_str().is_some_and(|text| text.ends_with('Z')), "{workers}");
    }
    let run = stage.ada.get_json(&format!("/api/runs/{run_id}")).await;
    assert_eq!(run["worker_id"], stage.ada.get_json("/api/workers").await["workers"][0]["worker_id"]);
    stage.gate.add_permits(1);
}

#[tokio::test]
async fn an_unfinished_run_says_what_it_waits_for() {
    let stage = Stage::new().await;
    let start = async |session_id: &str| {
        let body = json!({ "workflow_id": "gate", "input": "x", "session_id": session_id });
        stage.ada.post("/api/runs", body).await.json()["run_id"].as_str().expect("a run id").to_owned()
    };
    let (first, second) = (start("s").await, start("s").await);
    stage.begun(&first).await;
    let detail = stage.ada.get_json(&format!("/api/runs/{first}")).await;
    assert_eq!(
        detail["waiting"],
        json!({
            "for": "step",
            "on": "wait",
            "is_interrupted": false,
            "is_answered": false,
            "until": null,
            "reason": "step \"wait\" executes",
            "remedy": null,
            "hint": null,
        })
    );
    let behind = stage.ada.get_json(&format!("/api/runs/{second}")).await;
    let told = (&behind["status"], &behind["waiting"]["for"], &behind["waiting"]["on"]);
    assert_eq!(told, (&json!("PENDING"), &json!("session"), &json!(first)));
    let list = stage.ada.get_json("/api/runs?preview=true").await;
    assert_eq!(list["runs"][0]["waiting"], behind["waiting"]);
    stage.gate.add_permits(2);
    stage.ended(&second).await;
    let list = stage.ada.get_json("/api/runs").await;
    assert!(list["runs"].as_array().expect("runs").iter().all(|run| run["waiting"].is_null()), "{list}");
}

#[tokio::test]
async fn a_run_whose_process_is_gone_keeps_its_status_and_the_truth_stands_beside_it() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("gate", "x").await;
    stage.begun(&run_id).await;
    let other = stage.reader().await;
    stage.engine.kill();
    stage.db.crash(&stage.engine.worker());
    for path in [format!("/api/runs/{run_id}"), "/api/runs".to_owned()] {
        let answer = other.get_json(&path).await;
        let run = answer.get("runs").map_or(&answer, |runs| &runs[0]);
        assert_eq!((&run["status"], &run["waiting"]["is_interrupted"]), (&json!("RUNNING"), &json!(true)), "{run}");
        let told = (&run["waiting"]["for"], &run["waiting"]["on"], &run["waiting"]["remedy"]);
        assert_eq!(told, (&json!("worker"), &json!("gate"), &json!({ "do": "start_worker" })));
    }
    let workers = other.get_json("/api/workers").await;
    assert_eq!(workers["workers"][0]["workflows"], Value::Null, "a reader executes nothing: {workers}");
}

#[tokio::test]
async fn a_run_is_sent_to_the_one_that_executes_or_takes_its_place() {
    let stage = Stage::new().await;
    let ask =
        |policy: &str| json!({ "workflow_id": "gate", "input": "x", "session_id": "s", "session_policy": policy });
    let first = stage.ada.post("/api/runs", ask("steer")).await.json();
    assert_eq!(first.get("steering_run_id"), None, "nobody was there to hear it");
    let run_id = first["run_id"].as_str().expect("an id").to_owned();
    stage.begun(&run_id).await;
    let mut named = ask("steer");
    named["steer_to"] = json!("somebody");
    let answer = stage.ada.post("/api/runs", named).await;
    let steered = answer.json();
    assert_eq!((answer.status, &steered["run_id"]), (StatusCode::ACCEPTED, &first["run_id"]), "{steered}");
    assert_eq!(steered["status"], "RUNNING");
    let waits = steered["steering_run_id"].as_str().expect("an id").to_owned();
    assert_eq!(stage.ada.get_json(&format!("/api/runs/{waits}")).await["status"], "PENDING");
    let answer = stage.ada.post("/api/runs", ask("reject")).await;
    assert_eq!(answer.problem(), (409, "session_busy".to_owned()));
    let refused = stage.ada.post("/api/runs", ask("push")).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text().contains("'queue', 'reject', 'parallel', 'interrupt', 'steer'"), "{}", refused.text());

    let last = stage.ada.post("/api/runs", ask("interrupt")).await.json();
    let last = last["run_id"].as_str().expect("an id");
    stage.gate.add_permits(2);
    for (id, status) in [(&*run_id, "CANCELLED"), (&*waits, "CANCELLED"), (last, "COMPLETED")] {
        stage.ended(id).await;
        assert_eq!(stage.ada.get_json(&format!("/api/runs/{id}")).await["status"], status, "{id}");
    }
}

#[tokio::test]
async fn the_steps_of_a_run_are_read_a_page_at_a_time_and_items_say_which_they_are() {
    const COUNT: usize = 1_050;
    let item = Step::function("item", |_, input: Arc<StepInput>| async move {
        let text = input.text();
        if text.ends_with("50") { Err(Failure::fatal("no power")) } else { Ok(text) }
    });
    let each = ForEach::new("each").items(|_| (0..COUNT).map(|item| item.to_string()).collect::<Vec<_>>());
    let each = each.step(item.on_error(OnError::Skip)).concurrency(64);
    let last = Step::function("last", |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) });
    let group = Steps::new("group").step(each);
    let definition = Definition::builder("List").step(group).step(last).build().expect("a definition");
    let (engine, client) = serving_one(Arc::new(definition)).await;
    let run_id = client.start("list", "x").await;
    engine.attach(RunId::parse(&run_id).expect("an id")).wait().await.expect("it ends");

    let run = client.get_json(&format!("/api/runs/{run_id}")).await;
    assert_eq!(run["steps"].as_array().expect("steps").len(), 1_000);
    let path = format!("/api/runs/{run_id}/steps");
    let rest = client.get_json(&format!("{path}?cursor={}", run["next_steps"].as_str().expect("there are more"))).await;
    let names = |page: &Value| {
        let steps = page["steps"].as_array().expect("steps").iter();
        steps.map(|step| step["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((names(&rest).len(), names(&rest).pop(), &rest["next_cursor"]), (53, Some("last".into()), &Value::Null));

    let outer = client.get_json(&format!("{path}?parent=")).await;
    assert_eq!((names(&outer), &outer["counts"]), (vec!["group".into(), "last".into()], &json!({ "completed": 2 })));
    let inside = |step_id: &Value| format!("{path}?parent={}", step_id.as_str().expect("an id"));
    let group = client.get_json(&inside(&outer["steps"][0]["step_id"])).await;
    assert_eq!(names(&group), ["each"]);
    assert_eq!(group["steps"][0]["item"], Value::Null);
    let items = inside(&group["steps"][0]["step_id"]);

    // All items, in pages.
    let (mut cursor, mut seen) = (Some(String::new()), Vec::new());
    while let Some(from) = cursor {
        let more = if from.is_empty() { String::new() } else { format!("&cursor={from}") };
        let page = client.get_json(&format!("{items}&limit=400{more}")).await;
        assert_eq!(page["counts"], json!({ "completed": 1_040, "error": 10 }));
        seen.extend(
            page["steps"].as_array().expect("steps").iter().map(|step| step["item"].as_u64().expect("a place")),
        );
        cursor = page["next_cursor"].as_str().map(str::to_owned);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..COUNT as u64).collect::<Vec<_>>());

    // Those that failed.
    let failed = client.get_json(&format!("{items}&status=error,cancelled&limit=3")).await;
    let places: Vec<_> = failed["steps"].as_array().expect("steps").iter().map(|step| step["item"].clone()).collect();
    assert_eq!(places, [json!(50), json!(150), json!(250)]);
    let cursor = failed["next_cursor"].as_str().expect("there are more");
    let failed = client.get_json(&format!("{items}&status=error&limit=100&cursor={cursor}")).await;
    assert_eq!((failed["steps"].as_array().expect("steps").len(), &failed["next_cursor"]), (7, &Value::Null));

    for (query, status) in [("?parent=nothing", 404), ("?status=good", 422), ("?limit=0", 422), ("?cursor=-1", 422)] {
        assert_eq!(client.get(&format!("{path}{query}")).await.problem().0, status, "{query}");
    }
}
