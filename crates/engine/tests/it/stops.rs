//! Runs that are stopped: cancelled, drained, crashed, taken over, poisoned.

use crate::stage::{Calls, append, engine, engine_with, input, slow, workflow};
use outlive_core::port::{Access, CancelIntent, DbErrorKind, Health, Room, RunStore, StepContext};
use outlive_core::{Failure, RunStatus, Step, StepInput, Timestamp};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{broken_invariants, read_log};
use outlive_engine::{Error, Options, RunHandle};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

/// Waits until the run has said `name`.
async fn said(run: &RunHandle, name: &str) {
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("the run goes on").name() != name {}
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_ends_within_a_second_and_drops_what_was_in_flight() {
    struct Dropped(Arc<Notify>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let db = InMemoryDb::new();
    let (dropped, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (guard, tells) = (dropped.clone(), begun.clone());
    let step = Step::function("a", move |_, _: Arc<StepInput>| {
        let guard = Dropped(guard.clone());
        tells.notify_one();
        async move {
            tokio::time::sleep(HOUR).await;
            drop(guard);
            Ok::<_, Failure>("too late")
        }
    });
    let definition = workflow([step, append("b", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    begun.notified().await;
    let start = Instant::now();
    assert_eq!(run.cancel("enough").await.unwrap(), None);
    let ended = run.wait().await.unwrap();
    dropped.notified().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(ended.status, RunStatus::Cancelled);
    assert!(ended.has_completed());
    let log = read_log(&db, run.run_id()).await;
    assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
    assert_eq!(run.cancel("again").await.unwrap(), Some(RunStatus::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_in_another_process_reaches_the_one_that_executes_at_once() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let executes = engine(&db, &definition).await;
    let asks = engine_with(&db.another_process(), &definition, Options { execute: false, ..Options::default() }).await;
    // It has been idle for a while when the run comes.
    tokio::time::sleep(Duration::from_secs(61)).await;
    let run = executes.submit(&definition.id, input("hi")).await.unwrap();
    said(&run, "StepStarted").await;
    let start = Instant::now();
    asks.cancel(run.run_id(), "enough").await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Cancelled);
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_run_nobody_has_started_can_be_cancelled() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let engine = engine_with(&db, &definition, Options { runs_max: 1, ..Options::default() }).await;
    let first = engine.submit(&definition.id, input("hi")).await.unwrap();
    let second = engine.submit(&definition.id, input("hi")).await.unwrap();
    second.cancel("never mind").await.unwrap();
    let ended = second.wait().await.unwrap();
    assert_eq!(ended.cancellation_stage.as_deref(), Some("PENDING"));
    assert_eq!(first.get().await.unwrap().unwrap().status, RunStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_cancel_survives_a_crash() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let first = engine(&db, &definition).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    said(&run, "StepStarted").await;
    let intent = CancelIntent { at: Timestamp::default(), reason: Arc::from("enough") };
    db.request_cancel(Access::All, run.run_id().clone(), intent).await.unwrap();
    first.kill();
    db.crash(&first.worker());
    let second = engine(&db, &definition).await;
    assert_eq!(second.attach(run.run_id().clone()).wait().await.unwrap().status, RunStatus::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_cancel_that_is_durable_wins_over_an_end_that_is_not() {
    let db = InMemoryDb::new();
    let other = db.another_process();
    let step = Step::function("a", move |context: StepContext, _: Arc<StepInput>| {
        let other = other.clone();
        async move {
            let intent = CancelIntent { at: Timestamp::default(), reason: Arc::from("at the last moment") };
            other.request_cancel(Access::All, context.run.run_id.clone(), intent).await.unwrap();
            Ok::<_, Failure>("done")
        }
    });
    let definition = workflow([step]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let ended = run.wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Cancelled);
    let log = read_log(&db, run.run_id()).await;
    assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_calls_in_flight_end_and_gives_the_lease_back_at_once() {
    let db = InMemoryDb::new();
    let (calls, begun) = (Calls::default(), Arc::new(Notify::new()));
    let tells = begun.clone();
    let slow = Step::function("a", move |_, input: Arc<StepInput>| {
        tells.notify_one();
        async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok::<_, Failure>(input.text())
        }
    });
    let definition = workflow([slow, append("b", &calls)]);
    let first = engine(&db, &definition).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    begun.notified().await;
    first.shutdown().await.unwrap();
    assert_eq!(calls.count(), 0, "nothing new starts");
    let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert_eq!((stored.status, stored.worker.clone(), stored.claims), (RunStatus::Running, None, 0));
    let names: Vec<_> = read_log(&db, run.run_id()).await.iter().map(|e| e.event.name()).collect();
    assert!(names.contains(&"StepCompleted"), "the step that was in flight is recorded: {names:?}");
    assert!(matches!(first.submit(&definition.id, input("hi")).await, Err(Error::Stopped(_))));
    let start = Instant::now();
    let second = engine(&db, &definition).await;
    let ended = second.attach(run.run_id().clone()).wait().await.unwrap();
    assert_eq!((ended.text().as_str(), calls.count()), ("hi b", 1));
    assert!(start.elapsed() < Duration::from_secs(1), "nobody waits for a lease to end");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_ever() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    said(&run, "StepStarted").await;
    let start = Instant::now();
    engine.shutdown().await.unwrap();
    assert!(start.elapsed() <= Duration::from_secs(31), "{:?}", start.elapsed());
    assert!(db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().worker.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stalls_past_its_lease_writes_nothing_and_another_finishes_the_run() {
    let db = InMemoryDb::new();
    let gate = Arc::new(Notify::new());
    let wait = gate.clone();
    let step = Step::function("a", move |_, _: Arc<StepInput>| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            Ok::<_, Failure>("the zombie's result")
        }
    });
    let definition = workflow([step]);
    let zombie = engine(&db, &definition).await;
    let run = zombie.submit(&definition.id, input("hi")).await.unwrap();
    said(&run, "StepStarted").await;
    db.crash(&zombie.worker()); // its lease has ended, but it lives
    let quick = workflow([Step::function("a", |_, _: Arc<StepInput>| async { Ok::<_, Failure>("the heir's result") })]);
    let heir = engine(&db, &quick).await;
    let ended = heir.attach(run.run_id().clone()).wait().await.unwrap();
    gate.notify_one();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(ended.text(), "the heir's result");
    let log = read_log(&db, run.run_id()).await;
    assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
    assert_eq!(heir.get_run(run.run_id()).await.unwrap().unwrap(), ended);
    // The zombie starts anew under another name, and is of use again.
    let again = zombie.submit(&definition.id, input("hi")).await.unwrap();
    gate.notify_one();
    assert_eq!(again.wait().await.unwrap().status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_crashes_its_workers_is_given_up_and_its_neighbours_are_not() {
    let db = InMemoryDb::new();
    let step = Step::function("a", |_, input: Arc<StepInput>| async move {
        if input.text() == "good" {
            return Ok::<_, Failure>("fine");
        }
        std::future::pending().await
    });
    let definition = workflow([step, slow("b", HOUR)]);
    let mut poison = None;
    let mut good = Vec::new();
    let mut claims = Vec::new();
    for _ in 0..5 {
        let engine = engine(&db, &definition).await;
        let bad = match &poison {
            None => engine.submit(&definition.id, input("bad")).await.unwrap(),
            Some(id) => engine.attach(Clone::clone(id)),
        };
        poison = Some(bad.run_id().clone());
        good.push(engine.submit(&definition.id, input("good")).await.unwrap());
        // Crash as soon as the bad run executes here, or is given up.
        let stored = loop {
            let stored = db.run(Access::All, bad.run_id().clone()).await.unwrap().unwrap();
            if stored.worker.as_ref() == Some(&engine.worker()) || stored.status.is_terminal() {
                break stored;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        claims.push(stored.claims);
        if stored.status.is_terminal() {
            assert_eq!((engine.stats().runs_poisoned, engine.stats().runs_failed), (1, 1));
            break;
        }
        said(good.last().unwrap(), "StepCompleted").await;
        engine.kill();
        db.crash(&engine.worker());
    }
    let stored = db.run(Access::All, poison.unwrap()).await.unwrap().unwrap();
    assert_eq!(stored.status, RunStatus::Error, "{claims:?}");
    assert!(stored.output.unwrap().contains("poisoned: 3 workers were lost"));
    for run in good {
        assert_eq!(db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().status, RunStatus::Running);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_nearly_full_takes_no_run_and_finishes_those_it_took() {
    let db = InMemoryDb::new();
    let with = |free_bytes, total_bytes| Health { room: Some(Room { free_bytes, total_bytes }), ..Health::default() };
    const MIB: u64 = 1 << 20;
    const SECOND: Duration = Duration::from_secs(1);
    let definition = workflow([slow("a", HOUR)]);
    let engine = engine(&db, &definition).await;
    let accepted = engine.submit(&definition.id, input("x")).await.unwrap();
    for (free, total) in [(511 * MIB, 20_000 * MIB), (49 * MIB, 1000 * MIB)] {
        db.set_health(with(free, total));
        tokio::time::sleep(SECOND).await;
        let refused = engine.submit(&definition.id, input("y")).await.unwrap_err();
        assert!(matches!(refused, Error::DiskLow { free_bytes, .. } if free_bytes == free), "{refused}");
        assert!(matches!(engine.ready(), Err(Error::DiskLow { .. })));
    }
    assert_eq!(accepted.wait().await.unwrap().status, RunStatus::Completed);
    for (free, total) in [(512 * MIB, 20_000 * MIB), (50 * MIB, 1000 * MIB)] {
        db.set_health(with(free, total));
        tokio::time::sleep(SECOND).await;
        engine.ready().unwrap();
        engine.submit(&definition.id, input("z")).await.unwrap();
        // It looks at most once a second.
        db.set_health(with(0, total));
        engine.ready().unwrap();
    }
    assert_eq!(engine.stats().runs_accepted, 3, "what was refused made no run");
}

#[tokio::test(start_paused = true)]
async fn a_storage_error_stalls_a_run_until_it_goes_away() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default()), append("b", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let times = std::sync::atomic::AtomicU32::new(0);
    db.faults(Arc::new(move |operation| {
        let is_commit = matches!(operation, outlive_db::Operation::Commit);
        (is_commit && times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1)
            .then_some(outlive_db::Fault::Refuse(DbErrorKind::Storage))
    }));
    assert_eq!(run.wait().await.unwrap().text(), "hi a b");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stalls_runs_and_fails_none() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default()), append("b", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let run = {
        let times = std::sync::atomic::AtomicU32::new(0);
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        db.faults(Arc::new(move |operation| {
            let is_commit = matches!(operation, outlive_db::Operation::Commit);
            (is_commit && times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 6)
                .then_some(outlive_db::Fault::Refuse(DbErrorKind::Full))
        }));
        run
    };
    assert_eq!(run.wait().await.unwrap().text(), "hi a b");
}

#[tokio::test(start_paused = true)]
async fn after_a_write_of_unknown_outcome_nothing_is_acknowledged_any_more() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default()), slow("b", HOUR)]);
    let first = engine(&db, &definition).await;
    db.faults(Arc::new(|operation| {
        matches!(operation, outlive_db::Operation::Commit).then_some(outlive_db::Fault::LoseReply)
    }));
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    assert!(matches!(run.wait().await, Err(Error::Stopped(_))));
    assert!(first.failure().is_some());
    assert!(matches!(first.submit(&definition.id, input("hi")).await, Err(Error::Stopped(_))));
}
