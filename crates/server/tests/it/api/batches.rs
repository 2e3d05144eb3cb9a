//! Many runs at once: batches, and what is done to all that match.

use super::stage::{Client, Stage};
use axum::http::StatusCode;
use serde_json::{Value, json};

async fn create(client: &Client, workflow: &str, body: Value) -> Value {
    let answer = client.post(&format!("/api/workflows/{workflow}/batches"), body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn a_batch_is_created_followed_and_read() {
    let stage = Stage::new().await;
    let body = json!({ "inputs": ["bees", "wasps"], "batch_id": "b1", "concurrency": 1, "priority": 2 });
    let answer = stage.ada.post("/api/workflows/echo/batches", body.clone()).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::ACCEPTED, Some("/api/batches/b1")));
    let batch = answer.json();
    let said = ["batch_id", "workflow_id", "user_id", "items", "accepted", "concurrency", "priority", "cancelled_at"];
    assert_eq!(
        json!(said.map(|field| batch[field].clone())),
        json!(["b1", "echo", "ada", 2, 2, 1, 2, null]),
        "{batch}"
    );
    let over = stage.ada.get_json("/api/batches/b1?wait=10s").await;
    assert_eq!((&over["status"], &over["counts"]["completed"]), (&json!("completed"), &json!(2)), "{over}");
    let items = stage.ada.get_json("/api/batches/b1/items?content=true").await;
    let told: Vec<_> = items["items"].as_array().expect("items").iter().map(|item| &item["index"]).collect();
    assert_eq!(json!(told), json!([0, 1]));
    assert!(items["items"][1]["content"].as_str().is_some_and(|text| text.contains("wasps")), "{items}");
    let one = stage.ada.get_json("/api/batches/b1/items?limit=1").await;
    assert_eq!((&one["items"][0]["index"], &one["next_cursor"]), (&json!(0), &json!("1")));
    assert!(one["items"][0].get("content").is_none());
    let rest = stage.ada.get_json("/api/batches/b1/items?limit=1&cursor=1&status=COMPLETED").await;
    assert_eq!((&rest["items"][0]["index"], &rest["next_cursor"]), (&json!(1), &Value::Null));
    let results = stage.ada.get("/api/batches/b1/results").await;
    assert_eq!(results.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> =
        results.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(json!(lines), items["items"]);
    // The runs are runs like any others.
    let runs = stage.ada.get_json("/api/runs?batch_id=b1&order=oldest").await;
    assert_eq!(runs["runs"].as_array().expect("runs").len(), 2);
    assert_eq!(runs["runs"][0]["run_id"], items["items"][0]["run_id"]);
    // The same again is the one that is there.
    assert_eq!(create(&stage.ada, "echo", body).await["accepted"], 2);
    let list = stage.ada.get_json("/api/batches?workflow_id=echo").await;
    assert_eq!((&list["batches"][0], &list["next_cursor"]), (&over, &Value::Null));
    for (client, count) in [(&stage.bob, 0), (&stage.admin, 1)] {
        let list = client.get_json("/api/batches").await;
        assert_eq!(list["batches"].as_array().expect("batches").len(), count);
    }
}

#[tokio::test]
async fn a_batch_takes_its_inputs_with_as_many_requests_as_they_need() {
    let stage = Stage::new().await;
    let batch = create(&stage.ada, "echo", json!({ "inputs": ["0", "1"], "complete": false })).await;
    assert_eq!((&batch["status"], &batch["items"]), (&json!("accepting"), &Value::Null));
    let path = format!("/api/batches/{}", batch["batch_id"].as_str().expect("an id"));
    let add = async |body: Value| stage.ada.post(&format!("{path}/items"), body).await;
    // One that was lost on the way, the same again, and the last.
    assert_eq!(
        add(json!({ "from": 4, "inputs": ["4"], "complete": true })).await.problem(),
        (409, "conflict".to_owned())
    );
    assert_eq!(add(json!({ "from": 1, "inputs": ["1", "2", "3"] })).await.json()["accepted"], 5);
    let other = add(json!({ "from": 2, "inputs": ["another"] })).await;
    assert_eq!(other.problem(), (409, "conflict".to_owned()));
    assert!(other.text().contains("Item 2: ") && other.text().contains("another input"), "{}", other.text());
    let last = add(json!({ "from": 5, "complete": true })).await.json();
    assert_eq!((&last["items"], &last["accepted"]), (&json!(5), &json!(5)));
    let late = add(json!({ "from": 5, "inputs": ["5"] })).await;
    assert!(late.text().contains("complete"), "{}", late.text());
    assert_eq!(stage.ada.get_json(&format!("{path}?wait=10s")).await["counts"]["completed"], 5);
}

#[tokio::test]
async fn what_cannot_be_a_batch_is_refused_before_anything_is_stored() {
    let stage = Stage::new().await;
    let many: Vec<u32> = (0..1001).collect();
    for (body, status, part) in [
        (json!({ "inputs": many }), 422, "at most 1000"),
        (json!({ "inputs": "bees" }), 422, "inputs"),
        (json!({ "inputs": [], "concurrency": 0 }), 422, "concurrency"),
        (json!({ "inputs": [], "concurrency": -1 }), 422, "concurrency"),
        (json!({ "inputs": [], "concurrency_key": "" }), 422, "concurrency key"),
        (json!({ "inputs": [], "batch_id": "not an id" }), 422, "batch_id"),
        (json!({ "inputs": ["x", "y".repeat(1 << 20)] }), 413, "Item 1: "),
        (json!({ "input": [] }), 422, "input"),
    ] {
        let refused = stage.ada.post("/api/workflows/echo/batches", body.clone()).await;
        let (code, _) = refused.problem();
        assert!(code == status && refused.text().contains(part), "{body:.80}: {code} {}", refused.text());
    }
    assert_eq!(stage.ada.post("/api/workflows/nothing/batches", json!({ "inputs": [] })).await.status, 404);
    assert_eq!(stage.ada.get_json("/api/batches").await["batches"], json!([]));
    assert_eq!(stage.ada.get_json("/api/runs").await["runs"], json!([]));
    let body = json!({ "inputs": [], "batch_id": "b1", "complete": false, "user_id": "bob" });
    assert_eq!(create(&stage.ada, "echo", body).await["user_id"], "ada", "her credential takes precedence");
    let taken = stage.ada.post("/api/workflows/gate/batches", json!({ "inputs": [], "batch_id": "b1" })).await;
    assert_eq!(taken.problem(), (409, "conflict".to_owned()));
    let taken = stage.bob.post("/api/workflows/echo/batches", json!({ "inputs": [], "batch_id": "b1" })).await;
    assert_eq!(taken.problem(), (409, "conflict".to_owned()));
    for path in
        ["/api/batches?limit=0", "/api/batches?cursor=x", "/api/batches/b1/items?status=no", "/api/batches/b1?wait=x"]
    {
        assert_eq!(stage.ada.get(path).await.problem().0, 422, "{path}");
    }
    for path in ["/api/batches/no", "/api/batches/no/items", "/api/batches/no/results"] {
        assert_eq!(stage.ada.get(path).await.problem().0, 404, "{path}");
    }
}

#[tokio::test]
async fn the_failed_items_are_tried_again_and_what_is_left_is_cancelled() {
    let stage = Stage::new().await;
    let batch = create(&stage.ada, "broken", json!({ "inputs": ["a", "b", "c"], "batch_id": "b1" })).await;
    assert_eq!(batch["items"], 3);
    let over = stage.ada.get_json("/api/batches/b1?wait=10s").await;
    assert_eq!((&over["status"], &over["counts"]["failed"]), (&json!("failed"), &json!(3)));
    let some = stage.ada.post("/api/batches/b1/retry", json!({ "limit": 2 })).await.json();
    let outcomes = |page: &Value| -> Vec<String> {
        let runs = page["runs"].as_array().expect("runs").iter();
        runs.map(|run| run["outcome"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!((outcomes(&some), &some["next_cursor"]), (vec!["started".to_owned(); 2], &json!("2")), "{some}");
    let rest = stage.ada.post("/api/batches/b1/retry", json!({ "cursor": "2" })).await.json();
    assert_eq!((outcomes(&rest), &rest["next_cursor"]), (vec!["started".to_owned()], &Value::Null));
    let new: Vec<&Value> =
        [&some["runs"][0], &some["runs"][1], &rest["runs"][0]].map(|run| &run["new_run_id"]).to_vec();
    stage.ada.get_json("/api/batches/b1?wait=10s").await;
    let items = stage.ada.get_json("/api/batches/b1/items").await;
    let runs: Vec<&Value> = items["items"].as_array().expect("items").iter().map(|item| &item["run_id"]).collect();
    assert_eq!(runs, new, "in their places");
    // Of a run that has given up its place nothing more is started in the batch's name.
    let old = some["runs"][0]["run_id"].as_str().expect("an id");
    let refused = stage.ada.send("POST", &format!("/api/runs/{old}/retry"), &[], None).await;
    assert_eq!(refused.problem().0, 409);
    // Cancelled: those that wait at the gate, and those that wait for a place.
    create(&stage.ada, "gate", json!({ "inputs": ["a", "b", "c", "d"], "batch_id": "b2", "concurrency": 2 })).await;
    assert_eq!(stage.bob.post("/api/batches/b2/cancel", json!({})).await.problem().0, 404);
    let cancelled = stage.ada.post("/api/batches/b2/cancel", json!({ "reason": "enough" })).await;
    assert_eq!(cancelled.status, StatusCode::OK, "{}", cancelled.text());
    let over = stage.ada.get_json("/api/batches/b2?wait=10s").await;
    assert_eq!((&over["status"], &over["counts"]["cancelled"]), (&json!("cancelled"), &json!(4)), "{over}");
    let told = stage.admin.get_json("/api/audit?kind=batch_change").await;
    let told: Vec<_> = told["records"].as_array().expect("records").iter().map(|line| &line["outcome"]).collect();
    assert_eq!(json!(told), json!(["cancelled", "created", "created"]));
}

#[tokio::test]
async fn all_runs_that_match_are_cancelled_or_started_again_a_page_at_a_time() {
    let stage = Stage::new().await;
    for number in 0..5 {
        stage.ada.start("gate", &number.to_string()).await;
    }
    let bobs = stage.bob.start("gate", "his").await;
    let walk = async |client: &Client, verb: &str, mut body: Value| {
        let mut lines = Vec::new();
        loop {
            let answer = client.post(&format!("/api/runs/{verb}"), body.clone()).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            let page = answer.json();
            lines.extend(page["runs"].as_array().expect("runs").iter().cloned());
            body["cursor"] = page["next_cursor"].clone();
            if body["cursor"].is_null() {
                return lines;
            }
        }
    };
    let all = |verb: &'static str, outcome: &'static str| {
        move |lines: &[Value]| lines.iter().all(|line| line["outcome"] == outcome) || panic!("{verb}: {lines:?}")
    };
    let filter = json!({ "filter": { "status": ["PENDING", "RUNNING"], "workflow_id": "gate" }, "limit": 2 });
    let mut look = filter.clone();
    look["dry_run"] = json!(true);
    let seen = walk(&stage.ada, "cancel", look).await;
    assert!(seen.len() == 5 && all("look", "matches")(&seen));
    let asked = walk(&stage.ada, "cancel", filter).await;
    assert!(asked.len() == 5 && all("cancel", "requested")(&asked));
    for line in &asked {
        stage.ended(line["run_id"].as_str().expect("an id")).await;
    }
    let run = stage.admin.get_json(&format!("/api/runs/{bobs}")).await;
    assert_ne!(run["status"], "CANCELLED", "another user's is not among them");
    let tried = walk(&stage.ada, "retry", json!({ "filter": { "status": ["CANCELLED"] }, "limit": 2 })).await;
    assert!(tried.len() == 5 && all("retry", "started")(&tried));
    let again = walk(&stage.ada, "retry", json!({ "filter": { "status": ["CANCELLED"] } })).await;
    assert!(again.len() == 5 && all("again", "repeated")(&again));
    let rerun = json!({ "filter": { "status": ["CANCELLED"], "q": tried[0]["run_id"] } });
    let key = [("idempotency-key", "k")];
    let first = stage.ada.send("POST", "/api/runs/rerun", &key, Some(rerun.clone())).await.json();
    let twice = stage.ada.send("POST", "/api/runs/rerun", &key, Some(rerun)).await.json();
    assert_eq!((&first["runs"][0]["outcome"], &twice["runs"][0]["outcome"]), (&json!("started"), &json!("repeated")));
    assert_eq!(first["runs"][0]["new_run_id"], twice["runs"][0]["new_run_id"]);
    let told = stage.admin.get_json("/api/audit?kind=run_cancel").await;
    assert_eq!(told["records"].as_array().expect("records").len(), 5);
    for (body, part) in [
        (json!({}), "filter"),
        (json!({ "filter": { "status": ["NO"] } }), "status"),
        (json!({ "filter": { "state": "PENDING" } }), "state"),
        (json!({ "filter": { "user_id": 3 } }), "user_id"),
        (json!({ "filter": { "created_from": "yesterday" } }), "created_from"),
        (json!({ "filter": { "session_id": "not an id" } }), "session_id"),
        (json!({ "filter": {}, "limit": 0 }), "limit"),
        (json!({ "filter": {}, "limit": 1001 }), "limit"),
        (json!({ "filter": {}, "cursor": "x" }), "cursor"),
        (json!({ "filter": {}, "reason": "" }), "reason"),
    ] {
        let refused = stage.ada.post("/api/runs/cancel", body.clone()).await;
        assert!(refused.problem().0 == 422 && refused.text().contains(part), "{body}: {}", refused.text());
    }
    let others = stage.ada.post("/api/runs/cancel", json!({ "filter": { "user_id": "bob" } })).await;
    assert_eq!(others.problem().0, 403);
    assert_ne!(stage.admin.get_json(&format!("/api/runs/{bobs}")).await["status"], "CANCELLED");
}

#[tokio::test]
async fn a_batch_is_deleted_with_its_runs_and_says_which_are_gone() {
    let stage = Stage::new().await;
    let body = json!({ "inputs": ["bees", "wasps", "hornets"], "batch_id": "b1" });
    create(&stage.ada, "echo", body).await;
    stage.ada.get_json("/api/batches/b1?wait=10s").await;
    let items = stage.ada.get_json("/api/batches/b1/items").await;
    let run = |index: usize| items["items"][index]["run_id"].as_str().expect("an id").to_owned();
    // A run says whose item it is.
    let one = stage.ada.get_json(&format!("/api/runs/{}", run(1))).await;
    assert_eq!((&one["batch_id"], &one["batch_item"]), (&json!("b1"), &json!(1)));
    let list = stage.ada.get_json("/api/runs?batch_id=b1&order=oldest").await;
    assert_eq!(list["runs"][0]["batch_id"], "b1");
    let prune = async |client: &Client, body: Value| client.post("/api/prune", body).await.json();
    // It takes a scope; and a filter that is left out would be other runs.
    assert_eq!(stage.ada.post("/api/prune", json!({ "batch_id": "b1" })).await.status, StatusCode::FORBIDDEN);
    assert_eq!(prune(&stage.admin, json!({ "batch_id": "b2" })).await["runs"], 0);
    let preview = prune(&stage.admin, json!({ "batch_id": "b1", "q": run(1), "dry_run": true })).await;
    assert_eq!(preview["runs"], 1, "{preview}");
    assert_eq!(prune(&stage.admin, json!({ "batch_id": "b1", "q": run(1) })).await["runs"], 1);
    let batch = stage.ada.get_json("/api/batches/b1?wait=10s").await;
    assert_eq!(
        json!([batch["status"], batch["items"], batch["accepted"], batch["counts"]["deleted"]]),
        json!(["completed", 3, 2, 1])
    );
    let results = stage.ada.get("/api/batches/b1/results").await;
    let lines: Vec<Value> =
        results.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(json!(lines.iter().map(|line| &line["index"]).collect::<Vec<_>>()), json!([0, 1, 2]));
    assert_eq!(json!([lines[1]["run_id"], lines[1]["status"], lines[1]["content"]]), json!([null, null, null]));
    assert!(lines[1]["error"].as_str().is_some_and(|error| error.contains("deleted")), "{lines:?}");
    let again = json!({ "from": 0, "inputs": ["bees", "wasps", "hornets"] });
    let again = stage.ada.post("/api/batches/b1/items", again).await;
    assert_eq!(again.problem(), (409, "conflict".to_owned()));
    assert!(again.text().contains("Item 1: ") && again.text().contains("deleted"), "{}", again.text());
    assert_eq!(prune(&stage.admin, json!({ "batch_id": "b1" })).await["runs"], 2);
    assert_eq!(stage.ada.get("/api/batches/b1").await.status, StatusCode::NOT_FOUND);
    // One without runs goes by its id, too.
    create(&stage.ada, "echo", json!({ "batch_id": "b1" })).await;
    let done = prune(&stage.admin, json!({ "batch_id": "b1" })).await;
    assert_eq!((&done["runs"], &done["batches"]), (&json!(0), &json!(1)));
    assert_eq!(stage.ada.get("/api/batches/b1").await.status, StatusCode::NOT_FOUND);
}
