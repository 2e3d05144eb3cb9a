//! Runs that have ended are deleted over HTTP, as the caller may, and that is noted.

use crate::served::{Answer, Ask, Served, Setup, in_time};
use outlive_core::port::{AuditFilter, AuditKind, RunFilter};
use outlive_server::auth::Scopes;
use serde_json::{Value, json};

async fn prune(served: &Served, token: Option<&str>, body: Value) -> Answer {
    let body = body.to_string();
    let ask = Ask {
        method: "POST",
        path: "/api/prune",
        token,
        content_type: "application/json",
        body: &body,
        ..Ask::default()
    };
    served.ask(ask).await
}

/// Runs that have ended.
async fn complete(served: &Served, count: usize) {
    for number in 0..count {
        let run_id = served.submit("echo", &format!("{number}")).await;
        served.end_of(&run_id).await;
    }
}

async fn left(served: &Served) -> usize {
    let filter = RunFilter { limit: 1_000, ..RunFilter::default() };
    served.engine.reader().runs(filter).await.expect("a list").runs.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_previewed_deleted_and_that_is_noted() {
    let served = Served::with(Setup { with_keys: false, ..Setup::default() }).await;
    complete(&served, 6).await;
    let held = served.submit("held", "1").await;
    let preview = prune(&served, None, json!({ "max_runs": 2, "dry_run": true })).await;
    let told = preview.json();
    assert_eq!(preview.status, 200, "{told}");
    assert_eq!((&told["runs"], &told["dry_run"], &told["next_cursor"]), (&json!(4), &json!(true), &Value::Null));
    assert!(told["bytes"].as_u64().expect("a number") > 100);
    assert_eq!(left(&served).await, 7);
    let done = prune(&served, None, json!({ "max_runs": 2 })).await.json();
    assert_eq!((&done["runs"], &done["bytes"], &done["in_use"]), (&json!(4), &told["bytes"], &json!(0)));
    assert_eq!(left(&served).await, 3);
    assert_eq!((served.number("outlive_runs_pruned_total").await, left(&served).await), (4.0, 3));
    // Nothing that has not ended, whatever is asked.
    let all = prune(&served, None, json!({ "max_age_seconds": 0, "workflow_id": "held" })).await.json();
    assert_eq!(all["runs"], 0);
    served.release();
    served.end_of(&held).await;
    let gone = prune(&served, None, json!({ "workflow_id": "held" })).await.json();
    assert_eq!(gone["runs"], 1);
    assert_eq!(served.get(&format!("/api/runs/{held}"), "").await.status, 404);
    let stream = served.get(&format!("/api/runs/{held}/stream"), "").await;
    assert_eq!(stream.status, 404, "{stream:?}");
    let records = in_time(async {
        loop {
            let filter = AuditFilter { kind: Some(AuditKind::RunPrune), ..AuditFilter::default() };
            let records = served.engine.audit(filter).await.expect("readable").records;
            if records.len() == 2 {
                break records;
            }
            tokio::task::yield_now().await;
        }
    });
    let records = records.await;
    let said: Vec<_> = records.iter().rev().map(|record| record.target.as_deref().unwrap_or_default()).collect();
    assert!(said[0].starts_with("4 runs, ") && said[1].starts_with("1 runs, "), "{said:?}");
    assert_eq!(&*records[0].action, "POST /api/prune");
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_a_remedy() {
    let served = Served::with(Setup { with_keys: false, ..Setup::default() }).await;
    complete(&served, 2).await;
    for (body, words) in [
        (json!({}), "say which, or what to keep"),
        (json!({ "dry_run": true }), "say which, or what to keep"),
        (json!({ "status": ["RUNNING"] }), "cancel the others first"),
        (json!({ "status": ["DONE"] }), "COMPLETED, CANCELLED or ERROR"),
        (json!({ "max_runs": -1 }), "max_runs"),
        (json!({ "max_bytes": 1, "workflow_id": "echo" }), "leave the filter out"),
        (json!({ "max_age": "30d" }), "max_age"),
        (json!({ "max_runs": 0, "cursor": "x" }), "did not come from a report"),
        (json!({ "max_runs": 0, "created_from": "yesterday" }), "created_from"),
        (json!({ "workflow_id": "a b" }), "workflow_id"),
    ] {
        let answer = prune(&served, None, body.clone()).await;
        assert_eq!(answer.status, 422, "{body}: {answer:?}");
        assert!(answer.body.contains(words), "{body}: {}", answer.body);
    }
    assert_eq!(left(&served).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_takes_its_own_scope_and_is_about_ones_own_runs() {
    let served = Served::start().await;
    let ada = served.user("ada").await;
    let form = "message=mine&stream=false";
    assert_eq!(served.post("/workflows/echo/runs", &ada, form).await.status, 200);
    let writes = served.key(Some("ada"), Scopes::parse(["runs:read", "runs:write"])).await.0;
    assert_eq!(prune(&served, Some(&writes), json!({ "max_runs": 0 })).await.status, 403);
    assert_eq!(prune(&served, None, json!({ "max_runs": 0 })).await.status, 401);
    let bob = served.key(Some("bob"), Scopes::parse(["runs:delete"])).await.0;
    for body in [json!({ "max_runs": 0 }), json!({ "user_id": "ada" })] {
        let answer = prune(&served, Some(&bob), body).await;
        assert_eq!((answer.status, answer.json()["runs"].clone()), (200, json!(0)));
    }
    let size = prune(&served, Some(&bob), json!({ "max_bytes": 0 })).await;
    assert!(size.status == 422 && size.body.contains("all users' runs"), "{size:?}");
    assert_eq!(left(&served).await, 1);
    let own = served.key(Some("ada"), Scopes::parse(["runs:delete"])).await.0;
    assert_eq!(prune(&served, Some(&own), json!({ "max_runs": 0 })).await.json()["runs"], 1);
    assert_eq!(left(&served).await, 0);
}
