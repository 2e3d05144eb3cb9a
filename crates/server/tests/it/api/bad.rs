//! Bad inputs and repetitions, named after their rows in the list.

use super::stage::Stage;
use futures::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[tokio::test]
async fn bad_a22_limits_and_times_out_of_range_are_refused() {
    let stage = Stage::idle().await;
    for query in [
        "limit=-1",
        "limit=0",
        "limit=1001",
        "limit=1000000000",
        "limit=;drop",
        "limit=",
        "status=;drop",
        "status=RUNNING,no",
        "created_from=yesterday",
        "created_to=",
        "preview=maybe",
        "cursor=;drop",
        "cursor=-1",
        "workflow_id=",
        "session_id=%20",
    ] {
        let answer = stage.ada.get(&format!("/api/runs?{query}")).await;
        assert_eq!(answer.problem(), (422, "invalid_request".to_owned()), "{query}");
        let detail = &answer.json()["detail"][0];
        let field = query.split('=').next().expect("a name");
        assert_eq!(detail["loc"], json!(["query", field]), "{query}");
        assert!(detail["msg"].is_string() && !detail["msg"].to_string().contains("drop"), "{detail}");
    }
    let said = stage.ada.get("/api/runs?limit=1001").await.json();
    assert_eq!(said["detail"][0]["msg"], "Input should be a whole number from 1 to 1000");
}

#[tokio::test]
async fn bad_c01_unknown_and_odd_ids_are_not_found_or_refused() {
    let stage = Stage::idle().await;
    for id in ["nothing", &"x".repeat(7 << 10), "%22", "%F0%9F%98%80", "a%20b"] {
        for path in [format!("/api/runs/{id}"), format!("/api/runs/{id}/events"), format!("/api/runs/{id}/stream")] {
            assert_eq!(stage.ada.get(&path).await.problem(), (404, "not_found".to_owned()), "{path:.40}");
        }
        for path in [format!("/api/runs/{id}/cancel"), format!("/api/runs/{id}/rerun")] {
            let answer = stage.ada.send("POST", &path, &[], None).await;
            assert_eq!(answer.problem(), (404, "not_found".to_owned()), "{path:.40}");
        }
    }
    let unknown = stage.ada.post("/api/runs", json!({ "workflow_id": "nothing" })).await;
    assert_eq!(unknown.problem(), (404, "unknown_component".to_owned()));
    for id in ["", "a b", "a/b", ".", "..", "...", "\"", "😀", "a\n", &"x".repeat(129), &"x".repeat(10 << 10)] {
        for field in ["run_id", "session_id"] {
            let mut body = json!({ "workflow_id": "echo" });
            body[field] = json!(id);
            let answer = stage.ada.post("/api/runs", body).await;
            assert_eq!(answer.problem(), (422, "invalid_id".to_owned()), "{field} {id:.20}");
            assert_eq!(answer.json()["detail"][0]["loc"], json!(["body", field]));
        }
    }
    for word in outlive_core::RunId::WORDS {
        let answer = stage.ada.post("/api/runs", json!({ "workflow_id": "echo", "run_id": word })).await;
        assert_eq!(answer.problem(), (422, "invalid_id".to_owned()), "{word}");
    }
    assert_eq!(stage.admin.get_json("/api/runs").await["counts"], json!({}), "no run was half made");
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_refused_by_the_name_of_the_field() {
    let stage = Stage::idle().await;
    for (body, kind, field) in [
        (json!({ "input": "x" }), "missing", "workflow_id"),
        (json!({ "workflow_id": 7 }), "value_error", "workflow_id"),
        (json!({ "workflow_id": "echo", "inputs": 1 }), "extra_forbidden", "inputs"),
        (json!({ "workflow_id": "echo", "session_state": [] }), "value_error", "session_state"),
    ] {
        let answer = stage.ada.post("/api/runs", body).await;
        let detail = answer.json()["detail"][0].clone();
        assert_eq!((answer.problem().0, &detail["type"]), (422, &json!(kind)), "{detail}");
        assert_eq!(detail["loc"][1], field, "{detail}");
    }
}

#[tokio::test]
async fn bad_c02_fifty_equal_requests_at_once_are_one_run() {
    let stage = Stage::new().await;
    let headers = [("idempotency-key", "k-1")];
    let send = || stage.ada.send("POST", "/api/runs", &headers, Some(json!({ "workflow_id": "echo", "input": "x" })));
    let answers = join_all((0..50).map(|_| send())).await;
    let ids: BTreeSet<String> = answers.iter().map(|answer| answer.json()["run_id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    let accepted = answers.iter().filter(|answer| answer.status.as_u16() == 202).count();
    let replayed =
        answers.iter().filter(|a| a.status.as_u16() == 200 && a.header("idempotent-replay") == Some("true")).count();
    assert_eq!((accepted, replayed), (1, 49));
    let counts = stage.ada.get_json("/api/runs").await["counts"].clone();
    assert_eq!(counts.as_object().map(|counts| counts.values().filter_map(Value::as_u64).sum::<u64>()), Some(1));
}

#[tokio::test]
async fn bad_c03_the_same_key_with_another_body_is_a_conflict() {
    let stage = Stage::idle().await;
    let headers = [("idempotency-key", "k-1")];
    let send = async |input: &str| {
        stage.ada.send("POST", "/api/runs", &headers, Some(json!({ "workflow_id": "echo", "input": input }))).await
    };
    assert_eq!(send("x").await.status.as_u16(), 202);
    assert_eq!(send("y").await.problem(), (409, "idempotency_mismatch".to_owned()));
    assert_eq!(send("x").await.status.as_u16(), 200);
    for key in ["", &"k".repeat(256)] {
        let body = Some(json!({ "workflow_id": "echo" }));
        let answer = stage.ada.send("POST", "/api/runs", &[("idempotency-key", key)], body).await;
        assert_eq!(answer.problem().0, 422);
    }
    assert_eq!(stage.ada.get_json("/api/runs").await["counts"], json!({ "PENDING": 1 }));
}

#[tokio::test]
async fn bad_c04_a_run_id_that_exists_is_a_conflict() {
    let stage = Stage::idle().await;
    let body = |input: &str| json!({ "workflow_id": "echo", "run_id": "r-1", "input": input });
    assert_eq!(stage.ada.post("/api/runs", body("x")).await.status.as_u16(), 202);
    for (client, input) in [(&stage.ada, "y"), (&stage.bob, "x")] {
        assert_eq!(client.post("/api/runs", body(input)).await.problem().0, 409, "{input}");
    }
    assert_eq!(stage.admin.get_json("/api/runs").await["counts"], json!({ "PENDING": 1 }));
}

#[tokio::test]
async fn bad_c06_a_cancel_says_what_becomes_of_it() {
    let stage = Stage::new().await;
    let cancel = async |run_id: &str| stage.ada.send("POST", &format!("/api/runs/{run_id}/cancel"), &[], None).await;
    assert_eq!(cancel("nothing").await.problem(), (404, "not_found".to_owned()));
    let finished = stage.ada.start("echo", "x").await;
    stage.ended(&finished).await;
    let over = cancel(&finished).await;
    assert_eq!(over.problem(), (409, "already_over".to_owned()));
    assert_eq!(over.json()["status"], "COMPLETED");
    let running = stage.ada.start("gate", "x").await;
    stage.begun(&running).await;
    let requested = cancel(&running).await;
    assert_eq!((requested.status.as_u16(), &requested.json()["outcome"]), (200, &json!("requested")));
    stage.ended(&running).await;
    let twice = cancel(&running).await;
    assert_eq!(twice.status.as_u16(), 200);
    assert_eq!(twice.json(), json!({ "run_id": running, "outcome": "cancelled", "status": "CANCELLED" }));
    let run = stage.ada.get_json(&format!("/api/runs/{running}")).await;
    assert_eq!((&run["status"], &run["steps"][0]["status"]), (&json!("CANCELLED"), &json!("cancelled")), "{run}");
}

#[tokio::test]
async fn bad_c06_a_queued_run_is_cancelled_and_never_starts() {
    let stage = Stage::idle().await;
    let run_id = stage.ada.start("echo", "x").await;
    let answer = stage.ada.send("POST", &format!("/api/runs/{run_id}/cancel"), &[], None).await;
    assert_eq!(answer.status.as_u16(), 200);
    stage.ended(&run_id).await;
    let run = stage.ada.get_json(&format!("/api/runs/{run_id}")).await;
    assert_eq!((&run["status"], &run["steps"]), (&json!("CANCELLED"), &json!([])), "{run}");
}

#[tokio::test]
async fn bad_c11_places_that_are_none_are_refused_and_the_future_is_empty() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("echo", "x").await;
    stage.ended(&run_id).await;
    let path = format!("/api/runs/{run_id}");
    for bad in ["-5", "text", "", "1.5", "18446744073709551616", "18446744073709551615"] {
        for call in ["events?after", "events?before", "stream?after"] {
            let answer = stage.ada.get(&format!("{path}/{call}={bad}")).await;
            assert_eq!(answer.problem(), (422, "invalid_request".to_owned()), "{call}={bad}");
        }
    }
    for bad in ["abc", "-1", &"9".repeat(10 << 10)] {
        let answer = stage.ada.send("GET", &format!("{path}/stream"), &[("last-event-id", bad)], None).await;
        assert_eq!(answer.problem().0, 422, "{bad:.10}");
    }
    let beyond = stage.ada.get_json(&format!("{path}/events?after=1000000000000000000")).await;
    assert_eq!((&beyond["events"], &beyond["next_after"]), (&json!([]), &Value::Null));
    assert_eq!(stage.ada.get(&format!("{path}/events?after=0&before=9")).await.problem().0, 422);
    let all = stage.ada.get_json(&format!("{path}/events?before=1000000000000000000")).await;
    assert_eq!(all["events"].as_array().map(Vec::len).map(|len| len as u64), all["total"].as_u64());
    assert_eq!(stage.ada.get("/api/stream?topics=secrets").await.problem().0, 422);
}

#[tokio::test]
async fn bad_b09_a_scope_is_needed_for_each_call() {
    let stage = Stage::idle().await;
    // The users of this stage may not read the documentation.
    for path in ["/openapi.json", "/docs", "/docs/docs.js", "/docs/docs.css"] {
        assert_eq!(stage.ada.get(path).await.status.as_u16(), 403, "{path}");
    }
}
