//! Streams: a run's log, and which runs change.

use super::stage::{Sent, Stage};
use outlive_core::Timestamp;
use outlive_db::Operation;
use outlive_server::auth::key::KeyStore;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn indexes(events: &[Sent]) -> Vec<Option<u64>> {
    events.iter().map(|event| event.id).collect()
}

#[tokio::test]
async fn a_log_is_streamed_to_its_end_and_from_any_event() {
    let stage = Stage::new().await;
    let run_id = stage.ada.start("gate", "x").await;
    stage.begun(&run_id).await;
    let path = format!("/api/runs/{run_id}/stream");
    let mut live = stage.ada.follow(&path, &[]).await;
    let first = live.next().await.expect("an event");
    assert_eq!((first.name.as_str(), first.id, &first.data["event_index"]), ("WorkflowStarted", Some(0), &json!(0)));
    stage.gate.add_permits(1);
    let rest = live.rest().await;
    let total = 1 + rest.len() as u64;
    assert_eq!(rest.last().map(|event| event.name.as_str()), Some("WorkflowCompleted"));
    assert_eq!(indexes(&rest), (1..total).map(Some).collect::<Vec<_>>());
    let after = stage.ada.follow(&format!("{path}?after=1"), &[]).await.rest().await;
    assert_eq!(after, rest[1..]);
    // A browser that comes back asks with its old query and says in the header how far it got.
    let back = stage.ada.follow(&format!("{path}?after=0"), &[("last-event-id", "2")]).await.rest().await;
    assert_eq!(back, rest[2..]);
    let beyond = stage.ada.follow(&format!("{path}?after={}", total + 5), &[]).await.rest().await;
    assert_eq!(beyond, []);
    let snapshot = stage.ada.get_json(&format!("/api/runs/{run_id}")).await;
    let seq = snapshot["seq"].as_u64().expect("a number");
    assert_eq!(stage.ada.follow(&format!("{path}?after={seq}"), &[]).await.rest().await, []);
}

#[tokio::test]
async fn changed_runs_are_told_to_those_who_may_see_them() {
    let stage = Stage::new().await;
    let (mut of_ada, mut of_bob) =
        (stage.ada.follow("/api/stream", &[]).await, stage.bob.follow("/api/stream", &[]).await);
    for events in [&mut of_ada, &mut of_bob] {
        assert_eq!(events.next().await.map(|event| event.name), Some("ready".to_owned()));
    }
    let adas = stage.ada.start("gate", "x").await;
    stage.begun(&adas).await;
    let told = of_ada.next().await.expect("news");
    assert_eq!((told.name.as_str(), &told.data["run_id"]), ("run", &json!(adas)));
    assert!(told.data["status"].is_string() && told.data.as_object().map(serde_json::Map::len) == Some(3), "{told:?}");
    stage.gate.add_permits(1);
    stage.ended(&adas).await;
    let mut told = told;
    while told.data["status"] != "COMPLETED" {
        told = of_ada.next().await.expect("news");
        assert_eq!(told.data["run_id"], json!(adas));
    }
    let run = stage.ada.get_json(&format!("/api/runs/{adas}")).await;
    assert_eq!(told.data["seq"], run["seq"]);
    // Bob's first news is of a run of his own, though Ada's changed before.
    let bobs = stage.bob.start("echo", "x").await;
    assert_eq!(of_bob.next().await.map(|event| event.data["run_id"].clone()), Some(json!(bobs)));
}

#[tokio::test]
async fn runs_of_another_process_are_told_too() {
    let stage = Stage::new().await;
    let mut events = stage.admin.follow("/api/stream?topics=runs,workers", &[]).await;
    assert_eq!(events.next().await.map(|event| event.name), Some("ready".to_owned()));
    let other = outlive_engine::Engine::builder(Arc::new(stage.db.another_process()));
    let step = outlive_core::Step::function("first", |_, _| async { Ok::<_, outlive_core::Failure>("done") });
    let definition = outlive_core::Definition::builder("Elsewhere").step(step).build().expect("a definition");
    let other = other.workflow(Arc::new(definition)).start().await.expect("an engine");
    let workflow_id = "elsewhere".parse().expect("an id");
    let submitted = other.submit(&workflow_id, outlive_engine::Submit::default());
    let run_id = submitted.await.expect("a run").run_id().to_string();
    let (mut has_ended, mut workers) = (false, None);
    while !has_ended || workers.is_none() {
        let told = events.next().await.expect("news");
        match told.name.as_str() {
            "run" => {
                assert_eq!(told.data["run_id"], json!(run_id));
                has_ended |= told.data["status"] == "COMPLETED";
            }
            "workers" => workers = told.data["count"].as_u64(),
            other => panic!("unexpected {other}"),
        }
    }
    assert_eq!(workers, Some(2));
}

#[tokio::test]
async fn a_stream_of_the_lists_ends_with_the_engine() {
    let stage = Stage::new().await;
    let mut events = stage.ada.follow("/api/stream", &[]).await;
    assert_eq!(events.next().await.map(|event| event.name), Some("ready".to_owned()));
    stage.engine.shutdown().await.expect("the store works");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn followers_share_one_look_at_the_store() {
    let stage = Stage::new().await;
    let lists = Arc::new(AtomicUsize::new(0));
    let counter = lists.clone();
    stage.db.faults(Arc::new(move |operation| {
        counter.fetch_add(usize::from(operation == Operation::Runs), Ordering::Relaxed);
        None
    }));
    let mut followers = Vec::new();
    for _ in 0..20 {
        let mut events = stage.ada.follow("/api/stream", &[]).await;
        assert_eq!(events.next().await.map(|event| event.name), Some("ready".to_owned()));
        followers.push(events);
    }
    assert_eq!(lists.load(Ordering::Relaxed), 2, "the unfinished runs and the newest, once");
    let run_id = stage.ada.start("echo", "x").await;
    for events in &mut followers {
        assert_eq!(events.next().await.map(|event| event.data["run_id"].clone()), Some(json!(run_id)));
    }
    // When all have gone the task goes, and whoever comes next begins anew.
    drop(followers);
    let mut events = stage.ada.follow("/api/stream", &[]).await;
    assert_eq!(events.next().await.map(|event| event.name), Some("ready".to_owned()));
    assert_eq!(lists.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn bad_b11_streams_end_when_the_key_is_revoked() {
    let stage = Stage::rechecking(Duration::from_millis(20)).await;
    let run_id = stage.ada.start("gate", "x").await;
    stage.begun(&run_id).await;
    let open = [
        stage.ada.follow("/api/stream", &[]).await,
        stage.ada.follow(&format!("/api/runs/{run_id}/stream"), &[]).await,
    ];
    for record in stage.keys.list().await.expect("keys") {
        stage.keys.revoke(&record.id, Timestamp::from_micros(1)).await.expect("a key");
    }
    for events in open {
        let last = events.rest().await.pop().expect("an event");
        assert_eq!(last.name, "auth_expired");
    }
    assert_eq!(stage.ada.get("/api/runs").await.problem().0, 401);
    stage.gate.add_permits(1);
}
