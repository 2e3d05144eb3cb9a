//! Two engines on one handle of one store in one process: what is done through one reaches the other at once.

use crate::stage::{Calls, append, input, slow, workflow};
use outlive_core::port::Db;
use outlive_core::{Definition, RunStatus};
use outlive_db::InMemoryDb;
use outlive_engine::testing::SimulatedClock;
use outlive_engine::{Change, Engine, Error, Options, RunHandle, Submit};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);
/// Sooner than anyone looks by himself.
const AT_ONCE: Duration = Duration::from_millis(100);

/// An engine that looks for nothing by itself.
async fn twin(db: &Arc<dyn Db>, definition: Option<&Arc<Definition>>, execute: bool) -> Engine {
    let options = Options { execute, scan_period: HOUR, ..Options::default() };
    let builder = Engine::builder(db.clone()).options(options).clock(Arc::new(SimulatedClock::start()));
    let builder = definition.into_iter().cloned().fold(builder, |builder, definition| builder.workflow(definition));
    builder.start().await.unwrap()
}

async fn twins(definition: &Arc<Definition>) -> (Engine, Engine) {
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let one = twin(&db, Some(definition), true).await;
    (one, twin(&db, Some(definition), false).await)
}

async fn said(run: &RunHandle, name: &str) {
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("the run goes on").name() != name {}
}

#[tokio::test(start_paused = true)]
async fn a_cancel() {
    let definition = workflow([slow("a", HOUR)]);
    let (one, other) = twins(&definition).await;
    let run = one.submit(&definition.id, input("hi")).await.unwrap();
    said(&run, "StepStarted").await;
    let begun = Instant::now();
    other.cancel(run.run_id(), "enough").await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Cancelled);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_submit_an_event_and_an_end() {
    let definition = workflow([append("a", &Calls::default()), slow("b", Duration::from_secs(7))]);
    let (_one, other) = twins(&definition).await;
    let begun = Instant::now();
    let mut changes = other.changes();
    let run = other.submit(&definition.id, input("hi")).await.unwrap();
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("it goes on").name() != "StepCompleted" {}
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(changes.next().await, Some(Change::Run(run.run_id().clone())));
    assert_eq!(run.wait().await.unwrap().text(), "hi a");
    while events.next().await.unwrap().is_some() {}
    assert!(begun.elapsed() < Duration::from_secs(7) + AT_ONCE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_place_in_line() {
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let (first, second) = (workflow([slow("a", Duration::from_secs(5))]), {
        let builder = Definition::builder("Second").step(append("b", &Calls::default()));
        Arc::new(builder.build().unwrap())
    });
    let (one, other) = (twin(&db, Some(&first), true).await, twin(&db, Some(&second), true).await);
    let in_line = || Submit { session_id: Some("s".to_owned()), ..input("hi") };
    let begun = Instant::now();
    one.submit(&first.id, in_line()).await.unwrap();
    let behind = other.submit(&second.id, in_line()).await.unwrap();
    assert_eq!(behind.wait().await.unwrap().text(), "hi b");
    assert!(begun.elapsed() < Duration::from_secs(5) + AT_ONCE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_and_a_shutdown() {
    let definition = workflow([slow("a", HOUR)]);
    let db: Arc<dyn Db> = Arc::new(InMemoryDb::new());
    let (one, other) = (twin(&db, Some(&definition), true).await, twin(&db, Some(&definition), true).await);
    let submit = Submit { session_id: Some("s".to_owned()), ..input("hi") };
    let run = one.submit(&definition.id, submit).await.unwrap();
    said(&run, "StepStarted").await;
    let begun = Instant::now();
    let session_id = outlive_core::SessionId::parse("s").unwrap();
    assert_eq!(other.delete_sessions(vec![session_id], true).await.unwrap(), 1);
    assert!(matches!(run.wait().await, Err(Error::RunNotFound(_))));
    while one.stats().runs_executing > 0 {
        tokio::task::yield_now().await;
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());

    let kept = one.submit(&definition.id, input("hi")).await.unwrap();
    said(&kept, "StepStarted").await;
    let begun = Instant::now();
    let stopping = tokio::spawn(async move { one.shutdown().await });
    while other.stats().runs_executing == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stopping.await.unwrap().unwrap();
    let grace = Options::default().shutdown_grace;
    assert!(begun.elapsed() < grace + AT_ONCE, "taken over as soon as it was dropped: {:?}", begun.elapsed());
}
