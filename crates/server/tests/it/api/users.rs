//! Two users: what is one's is to the other not there, on every route of `/api`.

use super::stage::Stage;
use serde_json::{Value, json};

/// The routes of `/api`, from the server's own description.
async fn routes(stage: &Stage) -> Vec<(String, String)> {
    let document = stage.admin.get_json("/openapi.json").await;
    let paths = document["paths"].as_object().expect("paths").iter();
    let api = paths.filter(|(path, _)| path.starts_with("/api/"));
    let calls = api.flat_map(|(path, item)| {
        let verbs = item.as_object().expect("an item").keys().filter(|key| !key.starts_with("x-"));
        verbs.map(|verb| (verb.to_uppercase(), path.clone())).collect::<Vec<_>>()
    });
    calls.collect()
}

#[tokio::test]
async fn bad_b07_every_route_hides_another_users_run() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("gate", "secret of ada").await;
    stage.begun(&run_id).await;
    let run = stage.ada.get_json(&format!("/api/runs/{run_id}")).await;
    let step_id = run["steps"][0]["step_id"].as_str().expect("an id");
    let mut tried = 0;
    for (verb, path) in routes(&stage).await.into_iter().filter(|(_, path)| path.contains("{run_id}")) {
        let fill = |run_id: &str| path.replace("{run_id}", run_id).replace("{step_id}", step_id);
        let (foreign, unknown) = (
            stage.bob.send(&verb, &fill(&run_id), &[], None).await,
            stage.bob.send(&verb, &fill("nothing"), &[], None).await,
        );
        assert_eq!(foreign.problem(), (404, "not_found".to_owned()), "{verb} {path}");
        assert_eq!(foreign.json()["detail"], unknown.json()["detail"], "{verb} {path}");
        tried += 1;
    }
    assert!(tried >= 6, "only {tried} routes were tried");
    let after = stage.ada.get_json(&format!("/api/runs/{run_id}")).await;
    assert_eq!((&after["status"], &after["cancel_requested_at"]), (&json!("RUNNING"), &Value::Null));
    stage.gate.add_permits(1);
}

#[tokio::test]
async fn bad_b07_lists_and_counts_hold_ones_own_only() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("echo", "x").await;
    stage.ended(&run_id).await;
    let list = stage.bob.get_json(&format!("/api/runs?q={run_id}")).await;
    assert_eq!((&list["runs"], &list["counts"]), (&json!([]), &json!({})));
    assert_eq!(stage.bob.get("/api/runs?user_id=ada").await.problem(), (403, "insufficient_scope".to_owned()));
    assert_eq!(stage.admin.get_json("/api/runs").await["counts"], json!({ "COMPLETED": 1 }));
}

#[tokio::test]
async fn bad_b08_a_named_user_or_session_of_another_gives_nothing() {
    let stage = Stage::new().await;
    let body = json!({ "workflow_id": "echo", "session_id": "adas", "input": "x" });
    assert_eq!(stage.ada.post("/api/runs", body.clone()).await.status.as_u16(), 202);
    assert_eq!(stage.bob.post("/api/runs", body).await.problem(), (404, "not_found".to_owned()));
    let spoofed = stage.bob.post("/api/runs", json!({ "workflow_id": "echo", "user_id": "ada" })).await;
    let run_id = spoofed.json()["run_id"].as_str().expect("an id").to_owned();
    assert_eq!(stage.bob.get_json(&format!("/api/runs/{run_id}")).await["user_id"], "bob");
    let of_admin = stage.admin.post("/api/runs", json!({ "workflow_id": "echo", "user_id": "ada" })).await;
    let run_id = of_admin.json()["run_id"].as_str().expect("an id").to_owned();
    assert_eq!(stage.ada.get_json(&format!("/api/runs/{run_id}")).await["user_id"], "ada");
}

#[tokio::test]
async fn an_idempotency_key_is_ones_own() {
    let stage = Stage::new().await;
    let body = || Some(json!({ "workflow_id": "echo", "input": "x" }));
    let key = [("idempotency-key", "k")];
    let adas = stage.ada.send("POST", "/api/runs", &key, body()).await.json();
    let bobs = stage.bob.send("POST", "/api/runs", &key, body()).await;
    assert_eq!(bobs.status.as_u16(), 202);
    assert_ne!(adas["run_id"], bobs.json()["run_id"]);
}
