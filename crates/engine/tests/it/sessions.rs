//! Sessions and standings through an engine, and its end as others see it.

use crate::stage::{Calls, append, engine, input, slow, workflow};
use outlive_core::port::{Access, LogStore, RunStore, SessionKind, SessionStore};
use outlive_core::{Definition, Failure, Record, RunStatus, SessionId, Step, StepInput};
use outlive_db::{Fault, InMemoryDb, Operation};
use outlive_engine::testing::read_log;
use outlive_engine::{Error, RunHandle, Submit};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

fn in_session(session_id: &str) -> Submit {
    Submit { session_id: Some(session_id.to_owned()), session_kind: SessionKind::Agent, ..input("hi") }
}

fn session_id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

/// Waits until the run has said `name`.
async fn said(run: &RunHandle, name: &str) {
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("the run goes on").name() != name {}
}

/// Says when the work inside a step is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test(start_paused = true)]
async fn a_standing_tells_where_a_run_is() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default()), slow("b", HOUR)]);
    let engine = engine(&db, &definition).await;
    let submit = Submit { user_id: Some("ada".to_owned()), ..in_session("s") };
    let run = engine.submit(&definition.id, submit).await.unwrap();
    said(&run, "StepCompleted").await;
    let standing = engine.standing(run.run_id()).await.unwrap().unwrap();
    assert_eq!((standing.status, standing.attempt), (RunStatus::Running, 1));
    assert_eq!((standing.user_id.as_deref(), standing.session_id), (Some("ada"), session_id("s")));
    assert_eq!((standing.workflow_id, standing.worker), (definition.id.clone(), Some(engine.worker())));
    assert!(standing.next_index > 2 && standing.progress.is_some());
    assert!(standing.updated_at >= standing.created_at);
    assert_eq!(engine.session(&session_id("s")).await.unwrap().unwrap().kind, SessionKind::Agent);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_an_unfinished_run_is_kept_until_the_run_has_ended() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, in_session("s")).await.unwrap();
    let deleted = engine.delete_sessions(vec![session_id("s")], false).await;
    assert!(matches!(deleted, Err(Error::SessionBusy(_))), "{deleted:?}");
    run.cancel("enough").await.unwrap();
    run.wait().await.unwrap();
    assert_eq!(engine.delete_sessions(vec![session_id("s")], false).await.unwrap(), 1);
    assert!(matches!(run.wait().await, Err(Error::RunNotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn a_handle_says_how_its_run_ended_without_asking_the_store_until_runs_are_deleted() {
    for deleter in ["its engine", "another engine", "another process"] {
        let db = InMemoryDb::new();
        let definition = workflow([append("a", &Calls::default())]);
        let (first, twin) = (engine(&db, &definition).await, engine(&db, &definition).await);
        let run = first.submit(&definition.id, in_session("s")).await.unwrap();
        said(&run, "WorkflowCompleted").await;
        let stored = run.get().await.unwrap().unwrap();

        let reads = Arc::new(AtomicU32::new(0));
        let counted = reads.clone();
        db.faults(Arc::new(move |operation| {
            counted.fetch_add(u32::from(operation == Operation::Run), Ordering::Relaxed);
            None
        }));
        assert_eq!(run.wait().await.unwrap(), stored);
        assert_eq!(reads.load(Ordering::Relaxed), 0, "{deleter}");

        let ids = vec![session_id("s")];
        let deleted = match deleter {
            "its engine" => first.delete_sessions(ids, false).await.unwrap(),
            "another engine" => twin.delete_sessions(ids, false).await.unwrap(),
            _ => db.another_process().delete_sessions(Access::All, ids, false).await.unwrap(),
        };
        assert_eq!(deleted, 1);
        assert!(matches!(run.wait().await, Err(Error::RunNotFound(_))), "{deleter}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_forced_deletion_drops_what_the_session_was_doing_here() {
    let db = InMemoryDb::new();
    let dropped = Arc::new(Notify::new());
    let guard = dropped.clone();
    let step = Step::function("a", move |_, _: Arc<StepInput>| {
        let guard = Dropped(guard.clone());
        async move {
            tokio::time::sleep(HOUR).await;
            drop(guard);
            Ok::<_, Failure>("too late")
        }
    });
    let definition = workflow([step]);
    let engine = engine(&db, &definition).await;
    let run = engine.for_user("ada").submit(&definition.id, in_session("s")).await.unwrap();
    let kept = engine.submit(&definition.id, in_session("t")).await.unwrap();
    said(&run, "StepStarted").await;
    // Who may not delete it cannot stop it by naming it either.
    assert_eq!(engine.for_user("bob").delete_sessions(vec![session_id("s")], true).await.unwrap(), 0);
    assert!(engine.standing(run.run_id()).await.unwrap().is_some());

    let begun = Instant::now();
    assert_eq!(engine.delete_sessions(vec![session_id("s")], true).await.unwrap(), 1);
    dropped.notified().await;
    assert!(matches!(run.wait().await, Err(Error::RunNotFound(_))));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(engine.standing(kept.run_id()).await.unwrap().unwrap().status, RunStatus::Running);
    assert!(engine.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_session_deleted_by_another_process_is_not_written_again() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", Duration::from_secs(5)), append("b", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, in_session("s")).await.unwrap();
    said(&run, "StepStarted").await;
    let other = db.another_process();
    assert_eq!(other.delete_sessions(Access::All, vec![session_id("s")], true).await.unwrap(), 1);
    assert!(matches!(run.wait().await, Err(Error::RunNotFound(_))));
    tokio::time::sleep(HOUR).await;
    assert!(db.run(Access::All, run.run_id().clone()).await.unwrap().is_none());
    assert!(db.read(Access::All, run.run_id().clone(), 0, 1000).await.unwrap().is_empty());
    assert!(db.session(Access::All, session_id("s")).await.unwrap().is_none());
    // The engine is well and takes other work.
    let next = engine.submit(&definition.id, in_session("s")).await.unwrap();
    assert_eq!(next.wait().await.unwrap().status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn whoever_follows_an_engine_hears_of_its_end() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let first = engine(&db, &definition).await;
    let stopped = first.stopped();
    let ahead = tokio::time::timeout(HOUR, first.for_user("ada").stopped()).await;
    assert!(ahead.is_err(), "it has not stopped");
    first.shutdown().await.unwrap();
    stopped.await;
    first.stopped().await;

    let second = engine(&db, &definition).await;
    let stopped = second.stopped();
    drop(second);
    stopped.await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_ends_the_engine_for_its_followers() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    db.faults(Arc::new(|operation| matches!(operation, Operation::Commit).then_some(Fault::LoseReply)));
    engine.submit(&definition.id, input("hi")).await.unwrap();
    engine.stopped().await;
    assert!(engine.failure().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_runs_own_state_is_laid_over_its_sessions_once_when_it_begins() {
    let db = InMemoryDb::new();
    let set = Step::function("set", |context, _| async move {
        let seen = context.state.all();
        context.state.set("topic", "changed");
        context.state.set("seen", Value::Object(seen));
        Ok::<_, Failure>(())
    });
    let definition = workflow([set, slow("wait", HOUR)]);
    let first = engine(&db, &definition).await;
    let submit = |state: Value| Submit { session_state: state.as_object().cloned(), ..in_session("s") };
    let state = async || db.session(Access::All, session_id("s")).await.unwrap().unwrap().state;
    let run = first.submit(&definition.id, submit(json!({ "topic": "a", "kept": 1, "gone": 2 }))).await.unwrap();
    run.wait().await.unwrap();
    assert_eq!(state().await["kept"], 1);

    let run = first.submit(&definition.id, submit(json!({ "topic": "b", "gone": null }))).await.unwrap();
    said(&run, "StepCompleted").await;
    // Another engine takes the run over: what it brought is not laid over the session again.
    first.shutdown().await.unwrap();
    let second = engine(&db, &definition).await;
    second.attach(run.run_id().clone()).wait().await.unwrap();
    let now = state().await;
    assert_eq!((&now["topic"], &now["kept"], now.get("gone")), (&json!("changed"), &json!(1), None));
    assert_eq!((&now["seen"]["topic"], &now["seen"]["seen"]["topic"]), (&json!("b"), &json!("a")));

    let again = Submit::again(&db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap()).unwrap();
    assert_eq!(again.session_state.unwrap()["topic"], "b");
}

#[tokio::test(start_paused = true)]
async fn a_runs_own_state_is_merged_with_its_sessions_at_every_depth() {
    let db = InMemoryDb::new();
    let see = Step::function("see", |context, _| async move { Ok::<_, Failure>(Value::Object(context.state.all())) });
    let begins = json!({ "user": { "name": "Ada", "likes": { "tea": 1, "rain": 2 } }, "list": [1, 2], "gone": 1 });
    let builder = Definition::builder("Example").session_state(begins.as_object().unwrap().clone());
    let definition = Arc::new(builder.step(see).step(slow("wait", HOUR)).build().unwrap());
    let first = engine(&db, &definition).await;
    let submit = |state: Value| Submit { session_state: state.as_object().cloned(), ..in_session("s") };
    let state = async || Value::Object(db.session(Access::All, session_id("s")).await.unwrap().unwrap().state);

    // Over what new sessions begin with, and over what is there.
    let own = json!({ "user": { "likes": { "tea": 3 } }, "gone": null });
    let run = first.submit(&definition.id, submit(own)).await.unwrap();
    run.wait().await.unwrap();
    let now = json!({ "user": { "name": "Ada", "likes": { "tea": 3, "rain": 2 } }, "list": [1, 2] });
    assert_eq!(state().await, now);
    let own = json!({ "user": { "likes": { "rain": null }, "city": { "at": "Rome" } }, "list": [3], "none": null });
    let run = first.submit(&definition.id, submit(own)).await.unwrap();
    said(&run, "StepCompleted").await;
    let now = json!({
        "user": { "name": "Ada", "likes": { "tea": 3, "rain": null }, "city": { "at": "Rome" } }, "list": [3]
    });
    assert_eq!(state().await, now);
    // Another engine that takes the run over finds it, and the log says what was changed.
    first.shutdown().await.unwrap();
    let second = engine(&db, &definition).await;
    let ended = second.attach(run.run_id().clone()).wait().await.unwrap();
    assert_eq!(ended.step_results[0].content, Some(now.clone()));
    assert_eq!(state().await, now);
    let log = read_log(&db, run.run_id()).await;
    let Some(Record::Claimed { state: Some(laid), .. }) = &log[0].record else { panic!("{:?}", log[0]) };
    assert_eq!(laid["user"], now["user"]);
    // A fork from before its first step begins with the same, whatever the session has become since.
    let other = json!({ "user": "nobody" });
    second.submit(&definition.id, submit(other)).await.unwrap().wait().await.unwrap();
    let fork = second.attach(run.run_id().clone()).fork("see").background().await.unwrap();
    assert_eq!(fork.wait().await.unwrap().step_results[0].content, Some(now));
}
