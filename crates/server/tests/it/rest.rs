//! A run that is paused: whoever waits or follows comes back and is told that it stands still, not that it has ended.

use crate::served::{Ask, Served, Setup, in_time};
use outlive_core::RunStatus;
use serde_json::{Value, json};

async fn open_to_everyone() -> Served {
    Served::with(Setup { with_keys: false, ..Setup::default() }).await
}

fn names(body: &str) -> Vec<&str> {
    body.lines().filter_map(|line| line.strip_prefix("event: ")).collect()
}

#[tokio::test]
async fn whoever_waits_over_http_is_told_that_it_is_paused() {
    let served = open_to_everyone().await;
    let run_id = served.submit("doubts", "x").await;
    for path in [format!("/workflows/doubts/runs/{run_id}?wait=19s"), format!("/api/runs/{run_id}/output?wait=19s")] {
        let answer = served.get(&path, "").await;
        let run: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!((answer.status, &run["status"]), (200, &json!("PAUSED")), "{path}");
    }
    assert_eq!(served.end_of(&run_id).await.status, RunStatus::Paused);
}

#[tokio::test]
async fn streams_end_where_the_run_stands_still_also_for_whoever_comes_back() {
    let served = open_to_everyone().await;
    let form = "message=x&stream=true&background=true";
    let answer = served.post("/workflows/doubts/runs", "", form).await;
    assert_eq!(names(&answer.body).last(), Some(&"WorkflowPaused"), "{}", answer.body);
    let run_id = served.submit("doubts", "x").await;
    for path in [format!("/api/runs/{run_id}/stream"), format!("/workflows/doubts/runs/{run_id}/resume")] {
        let method = if path.starts_with("/api") { "GET" } else { "POST" };
        let answer = served.ask(Ask { method, path: &path, ..Ask::default() }).await;
        assert_eq!(names(&answer.body).last(), Some(&"WorkflowPaused"), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_socket_stays_subscribed_through_the_pause() {
    let served = open_to_everyone().await;
    let mut socket = served.socket().await;
    socket.say(json!({ "action": "start-workflow", "workflow_id": "doubts", "message": "x" })).await;
    let run_id = loop {
        let event = socket.event().await;
        if event["event"] == "WorkflowPaused" {
            break event["run_id"].as_str().expect("an id").to_owned();
        }
    };
    let run_id = outlive_core::RunId::parse(&run_id).expect("an id");
    in_time(served.engine.attach(run_id.clone()).wait()).await.expect("it is at rest");
    socket.say(json!({ "action": "continue-workflow", "run_id": run_id })).await;
    let refused = socket.event().await;
    assert!(
        refused["error"].as_str().is_some_and(|error| error.contains("unresolved step requirements: ['doubts']")),
        "{refused}"
    );
    served.engine.cancel(&run_id, "enough").await.expect("it is cancelled");
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "WorkflowCompleted") {
        seen.push(socket.event().await["event"].as_str().expect("a name").to_owned());
    }
    assert!(seen.contains(&"WorkflowCancelled".to_owned()), "{seen:?}");
}
