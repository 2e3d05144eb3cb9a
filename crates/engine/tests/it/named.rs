//! What functions record under names of their own: calls that are made once, and sleeps.

use crate::stage::{Calls, engine, input, slow, workflow};
use outlive_core::port::{Access, RunStore, StepContext};
use outlive_core::{Definition, Failure, OnError, Parallel, Retry, RunStatus, Step, Steps};
use outlive_db::InMemoryDb;
use outlive_engine::testing::read_log;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// Charges once, sleeps, and ships.
fn order(began: &Calls, charged: &Calls, sleeps: Duration) -> Step {
    let (began, charged) = (began.clone(), charged.clone());
    Step::function("order", move |context: StepContext, _| {
        let (began, charged) = (began.clone(), charged.clone());
        async move {
            began.note();
            let charge = || async {
                charged.note();
                Ok(format!("receipt {}", charged.count()))
            };
            let receipt: String = context.once("charge", charge).await?;
            context.sleep("cooling off", sleeps).await?;
            Ok::<_, Failure>(format!("shipped with {receipt}"))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_long_sleep_holds_no_memory_and_what_was_recorded_before_it_is_not_repeated() {
    let (db, began, charged) = (InMemoryDb::new(), Calls::default(), Calls::default());
    let definition = workflow([order(&began, &charged, HOUR)]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("it sleeps").kind.name() != "CustomEvent" {}
    loop {
        let parked = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
        if parked.worker.is_none() && parked.due_at.is_some() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let parked = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    let why = engine.waiting(&parked).await.unwrap().expect("it waits");
    assert_eq!(why.reason, "step \"order\" sleeps (cooling off)");
    assert!(why.until.is_some());
    let ended = run.wait().await.unwrap();
    assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Completed, "shipped with receipt 1"));
    assert_eq!((began.count(), charged.count()), (2, 1), "from its top again, the call once");
    let log = read_log(&db, run.run_id()).await;
    let keys: Vec<_> = log.iter().filter_map(|entry| Some(entry.record.as_ref()?.key()?.to_string())).collect();
    assert_eq!(keys, ["0", "0/k:charge", "0/k:charge", "0/k:cooling off", "0"]);
}

#[tokio::test(start_paused = true)]
async fn a_function_sleeps_in_place_while_a_sibling_is_executing_and_a_short_sleep_always_does() {
    let (db, began, charged) = (InMemoryDb::new(), Calls::default(), Calls::default());
    let parallel = Parallel::new("par").step(order(&began, &charged, 2 * HOUR)).step(slow("slow", HOUR));
    let definition = Arc::new(Definition::builder("Example").step(parallel).build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(HOUR / 2).await;
    assert!(db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().worker.is_some());
    tokio::time::sleep(HOUR).await;
    let alone = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert!(alone.worker.is_none() && alone.due_at.is_some(), "its sibling has ended");
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Completed);
    assert_eq!(charged.count(), 1);

    let (began, charged) = (Calls::default(), Calls::default());
    let definition = workflow([order(&began, &charged, Duration::from_secs(2))]);
    let engine = crate::stage::engine(&InMemoryDb::new(), &definition).await;
    engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!((began.count(), charged.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_at_a_crash_is_made_again_under_its_key_and_one_that_ended_is_not() {
    let (db, made) = (InMemoryDb::new(), Arc::new(AtomicU32::new(0)));
    let counted = made.clone();
    let step = Step::function("step", move |context: StepContext, _| {
        let counted = counted.clone();
        async move {
            let first: u32 =
                context.once("first", || async { Ok(counted.fetch_add(1, Ordering::Relaxed) + 1) }).await?;
            let key = context.call_key("second");
            let second: String = context
                .once("second", || async {
                    if counted.fetch_add(1, Ordering::Relaxed) == 1 {
                        std::future::pending::<()>().await;
                    }
                    Ok(key.clone())
                })
                .await?;
            Ok::<_, Failure>(format!("{first} {second}"))
        }
    });
    let definition = workflow([step]);
    let first = engine(&db, &definition).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    while made.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    db.crash(&first.worker());
    drop(first);
    let second = engine(&db, &definition).await;
    let ended = second.attach(run.run_id().clone()).wait().await.unwrap();
    assert_eq!(ended.text(), format!("1 {}/0/k:second", run.run_id()));
    assert_eq!(made.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn another_attempt_at_the_step_keeps_its_calls_and_one_at_its_container_does_not() {
    let (db, charged, attempts) = (InMemoryDb::new(), Calls::default(), Arc::new(AtomicU32::new(0)));
    let (noted, counted) = (charged.clone(), attempts.clone());
    let step = Step::function("step", move |context: StepContext, _| {
        let (noted, counted) = (noted.clone(), counted.clone());
        async move {
            let charge = || async {
                noted.note();
                Ok(())
            };
            context.once("charge", charge).await?;
            if counted.fetch_add(1, Ordering::Relaxed) < 3 { Err(Failure::function("not yet")) } else { Ok("done") }
        }
    });
    let retry = || Retry::times(1).backoff(Duration::from_secs(60));
    let group = Steps::new("group").step(step.retry(retry())).retry(retry()).on_error(OnError::Fail);
    let definition = Arc::new(Definition::builder("Example").step(group).build().unwrap());
    let engine = engine(&db, &definition).await;
    let ended = engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!((ended.status, attempts.load(Ordering::Relaxed)), (RunStatus::Completed, 4), "{}", ended.text());
    assert_eq!(charged.count(), 2, "once for each attempt at the group");
}

#[tokio::test(start_paused = true)]
async fn a_name_is_used_once_and_what_was_recorded_under_it_has_one_type() {
    let twice = Step::function("twice", |context: StepContext, _| async move {
        context.once("call", || async { Ok(1) }).await?;
        context.sleep("call", HOUR).await?;
        Ok::<_, Failure>(())
    });
    let definition = workflow([twice]);
    let engine = engine(&InMemoryDb::new(), &definition).await;
    let ended = engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Error);
    assert!(ended.text().contains("the name \"call\" is used twice in one function"), "{}", ended.text());

    let attempts = Arc::new(AtomicU32::new(0));
    let changes = Step::function("changes", move |context: StepContext, _| {
        let attempts = attempts.clone();
        async move {
            if attempts.fetch_add(1, Ordering::Relaxed) == 0 {
                context.once("call", || async { Ok("text".to_owned()) }).await?;
                return Err(Failure::function("again"));
            }
            let number: u32 = context.once("call", || async { Ok(7) }).await?;
            Ok::<_, Failure>(number.to_string())
        }
    });
    let definition = workflow([changes.retry(Retry::times(1))]);
    let engine = crate::stage::engine(&InMemoryDb::new(), &definition).await;
    let ended = engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert!(ended.text().contains("what was recorded under \"call\" is of another type"), "{}", ended.text());
}
