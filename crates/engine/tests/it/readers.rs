//! Reading without an engine: a process that only looks.

use crate::stage::{Calls, append, engine, engine_with, input, slow, workflow};
use outlive_core::port::RunFilter;
use outlive_core::{RunStatus, WaitsFor};
use outlive_db::InMemoryDb;
use outlive_engine::{Error, Options, Reader, Submit};
use std::sync::Arc;
use std::time::Duration;

fn reader(db: &InMemoryDb) -> Reader {
    Reader::over(Arc::new(db.clone()), Options::default())
}

#[tokio::test(start_paused = true)]
async fn a_reader_follows_a_run_to_its_end_and_is_no_worker() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("wait", Duration::from_secs(60)), append("a", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let reader = reader(&db);
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let mut events = reader.events(run.run_id(), None);
    let mut followed = Vec::new();
    let (ended, ()) = tokio::join!(reader.wait(run.run_id()), async {
        while let Some(event) = events.next().await.unwrap() {
            followed.push(event);
        }
    });
    let ended = ended.unwrap();
    assert_eq!((ended.status, ended.text()), (RunStatus::Completed, "hi a".to_owned()));
    assert_eq!(followed, reader.stored_events(run.run_id(), 0, usize::MAX).await.unwrap());
    assert_eq!(followed.last().map(|event| event.name()), Some("WorkflowCompleted"));
    assert_eq!(reader.workers().await.unwrap().len(), 1, "the engine is the only worker");
}

#[tokio::test(start_paused = true)]
async fn a_reader_says_what_the_engine_says() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let of = |user: &str| Submit { user_id: Some(user.to_owned()), ..input("hi") };
    let run = engine.submit(&definition.id, of("ada")).await.unwrap();
    run.wait().await.unwrap();
    let (run_id, filter) = (run.run_id(), RunFilter { limit: 10, ..RunFilter::default() });
    for reader in [reader(&db), engine.reader().clone(), reader(&db).for_user("ada")] {
        assert_eq!(reader.get_run(run_id).await.unwrap(), engine.get_run(run_id).await.unwrap());
        assert_eq!(reader.standing(run_id).await.unwrap(), engine.standing(run_id).await.unwrap());
        let listed = reader.runs(filter.clone()).await.unwrap().runs;
        assert_eq!(listed.iter().map(|run| &run.info.run_id).collect::<Vec<_>>(), [run_id]);
    }
    let bobs = reader(&db).for_user("bob");
    assert_eq!(bobs.get_run(run_id).await.unwrap(), None);
    assert!(bobs.runs(filter).await.unwrap().runs.is_empty());
    assert!(matches!(bobs.wait(run_id).await, Err(Error::RunNotFound(missing)) if missing == *run_id));
    assert!(bobs.stored_events(run_id, 0, 1).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reader_tells_why_a_run_waits_that_nobody_executes() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let options = Options { execute: false, ..Options::default() };
    let accepting = engine_with(&db, &definition, options).await;
    let run = accepting.submit(&definition.id, input("hi")).await.unwrap();
    let reader = reader(&db);
    let stored = reader.record(run.run_id()).await.unwrap().unwrap();
    let waiting = reader.waiting(&stored).await.unwrap().unwrap();
    assert_eq!(waiting.waits_for, WaitsFor::Worker);
    assert_eq!(reader.waitings(&[stored]).await.unwrap(), [Some(waiting)]);
}
