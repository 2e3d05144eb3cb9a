//! Leases: kept while an engine drains and while user code starves it, lost only to whoever saw no beat for a whole lease.

use crate::stage::{Calls, append, engine, engine_with, input, slow, workflow};
use outlive_core::port::{Access, BoxFuture, Claim, DbErrorKind, Observer, RunStore, Witness};
use outlive_core::{Definition, Entry, Failure, RunId, RunInfo, RunStatus, Step, StepInput, WorkerId};
use outlive_db::{Fault, InMemoryDb, Operation, SqliteDb};
use outlive_engine::testing::{SimulatedClock, TroubledDb};
use outlive_engine::{Engine, Options, RunHandle, Submit};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// A step that takes this long and counts how often it was begun.
fn counted(name: &'static str, takes: Duration, calls: &Calls) -> Step {
    let calls = calls.clone();
    Step::function(name, move |_, input: Arc<StepInput>| {
        calls.note();
        async move {
            tokio::time::sleep(takes).await;
            Ok::<_, Failure>(input.text())
        }
    })
}

async fn said(run: &RunHandle, name: &str) {
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("the run goes on").name() != name {}
}

/// Two processes; the first is told to stop while a call of `takes` is in flight. How often the call was made, and how long
/// after the shutdown began the run had ended.
async fn handed_over(takes: Duration) -> (usize, Duration) {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([counted("a", takes, &calls), append("b", &Calls::default())]);
    let first = engine(&db, &definition).await;
    let second = engine(&db.another_process(), &definition).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    said(&run, "StepStarted").await;
    tokio::time::sleep(2 * SECOND).await;
    let begun = Instant::now();
    let elsewhere = second.attach(run.run_id().clone());
    let (stopped, ended) = tokio::join!(first.shutdown(), elsewhere.wait());
    stopped.unwrap();
    assert_eq!(ended.unwrap().text(), "hi b");
    (calls.count(), begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_within_the_grace_is_made_once_however_long_the_lease() {
    let (calls, took) = handed_over(22 * SECOND).await;
    assert_eq!(calls, 1);
    assert!(took < 22 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_longer_one_is_repeated_once_as_soon_as_the_grace_ends() {
    let (calls, took) = handed_over(40 * SECOND).await;
    assert_eq!(calls, 2);
    assert!(took < (25 + 40 + 2) * SECOND, "nobody waits for a lease: {took:?}");
}

/// Panics once in the task that drives the run, where no user code runs.
struct Bomb(AtomicBool);

impl Observer for Bomb {
    fn witness(&self, _: &Arc<RunInfo>) -> Option<Box<dyn Witness>> {
        let is_first = !self.0.swap(true, Ordering::Relaxed);
        is_first.then(|| Box::new(Fuse) as Box<dyn Witness>)
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

struct Fuse;

impl Witness for Fuse {
    fn replayed(&mut self, _: &[Entry]) {}

    fn committed(&mut self, _: &[Entry]) {
        panic!("a deliberate panic of a driver");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_driver_panicked_is_driven_on() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls), append("b", &calls)]);
    let builder = Engine::builder(Arc::new(db.clone())).workflow(definition.clone());
    let clock = Arc::new(SimulatedClock::start());
    let engine = builder.clock(clock).observer(Arc::new(Bomb(AtomicBool::new(false)))).start().await.unwrap();
    let begun = Instant::now();
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let ended = tokio::time::timeout(60 * SECOND, run.wait()).await.expect("it is driven").unwrap();
    assert_eq!(ended.text(), "hi a b");
    assert!(begun.elapsed() <= 6 * SECOND, "at the next heartbeat: {:?}", begun.elapsed());
    let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert_eq!(stored.epoch, 2, "its first driver could write nothing any more");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_held_and_that_nobody_drives_is_driven() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    run.wait().await.unwrap();
    // Accepted with this engine's lease, and then lost sight of.
    let record = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    let stray = crate::stage::new_run("stray", &record);
    db.create_run(Access::All, stray, Some(engine.worker())).await.unwrap();
    let stray = engine.attach(outlive_core::RunId::parse("stray").unwrap());
    let ended = tokio::time::timeout(60 * SECOND, stray.wait()).await.expect("it is driven").unwrap();
    assert_eq!((ended.status, calls.count()), (RunStatus::Completed, 2));
}

/// Another engine's cancels make this one compare what it holds with what it executes as often as they come.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_accepted_and_about_to_start_is_left_to_whoever_starts_it() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([slow("a", 3600 * SECOND)]);
    let quick = Arc::new(Definition::builder("Quick").step(append("b", &calls)).build().unwrap());
    let builder = Engine::builder(TroubledDb::yielding(Arc::new(db.clone()))).workflow(definition.clone());
    let builder = builder.workflow(quick.clone()).clock(Arc::new(SimulatedClock::start()));
    let engine = builder.start().await.unwrap();
    let twin = engine_with(&db, &definition, Options { execute: false, ..Options::default() }).await;
    let mut unwanted = Vec::new();
    for _ in 0..4 {
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        said(&run, "StepStarted").await;
        unwanted.push(run);
    }

    let chosen = RunId::parse("chosen").unwrap();
    let submit = Submit { run_id: Some(chosen.to_string()), ..input("hi") };
    let mut submitting = pin!(engine.submit(&quick.id, submit));
    let stored = async || db.run(Access::All, chosen.clone()).await.unwrap();
    while stored().await.is_none() {
        assert!(poll_fn(|cx| Poll::Ready(submitting.as_mut().poll(cx).is_pending())).await, "it waits at the store");
        tokio::task::yield_now().await;
    }
    for run in unwanted {
        twin.cancel(run.run_id(), "enough").await.unwrap();
        assert_eq!(run.wait().await.unwrap().status, RunStatus::Cancelled);
    }
    assert_eq!(stored().await.unwrap().epoch, 1, "it was taken for one that nobody drives");
    let run = submitting.await.unwrap();
    assert_eq!((run.wait().await.unwrap().text(), calls.count()), ("hi b".to_owned(), 1));
    assert_eq!(stored().await.unwrap().epoch, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_intent_took_longer_to_store_than_the_lease_lasts_waits_for_the_lease() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    // The first intent is stored with the run.
    let definition = workflow([slow("before", SECOND), append("a", &calls)]);
    let engine = engine(&db, &definition).await;
    let begun = Instant::now();
    db.faults(Arc::new(move |operation| {
        let is_busy = match operation {
            Operation::Commit => begun.elapsed() < 20 * SECOND,
            Operation::Heartbeat => begun.elapsed() < 40 * SECOND,
            _ => false,
        };
        is_busy.then_some(Fault::Refuse(DbErrorKind::Busy))
    }));
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    said(&run, "StepCompleted").await;
    assert!(begun.elapsed() > 15 * SECOND, "the lease ran out before the intent was stored: {:?}", begun.elapsed());
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(calls.count(), 0, "somebody else may execute it");
    assert_eq!(run.wait().await.unwrap().text(), "hi a");
    assert!(begun.elapsed() >= 40 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(calls.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_was_declared_dead_can_be_used_again_at_once() {
    let (db, definition) = (InMemoryDb::new(), workflow([append("a", &Calls::default())]));
    let options = Options { heartbeat_period: SECOND, ..Options::default() };
    let engine = engine_with(&db, &definition, options).await;
    let before = engine.worker();
    db.crash(&before);
    while engine.worker() == before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Completed);
}

/// What a second process sees while the first one's only thread is blocked by a tool.
async fn look_on(db: &SqliteDb, victim: &WorkerId, definition: &Arc<Definition>) {
    let watcher = WorkerId::parse("watcher").unwrap();
    let (period, now) = (Duration::from_millis(300), || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        outlive_core::Timestamp::from_micros(since.as_micros() as i64)
    });
    let beat = async || {
        let workers = db.workers(Some(Access::All)).await.unwrap();
        workers.iter().find(|worker| worker.worker == *victim).map(|worker| worker.good_until)
    };
    // Much longer than a lease, by the watcher's clock.
    for _ in 0..12 {
        let before = beat().await.expect("it lives");
        while beat().await == Some(before) {
            tokio::task::yield_now().await;
        }
        db.skip(period / 3).await;
        db.heartbeat(watcher.clone(), now(), period).await.unwrap();
        let claim = Claim {
            worker: watcher.clone(),
            workflows: Arc::from([definition.id.clone()]),
            limit: 10,
            suspect_claims: 3,
            suspects: true,
            at: now(),
        };
        assert_eq!(db.claim(claim).await.unwrap().runs.len(), 0, "its run was taken while it lives");
    }
}

/// Real time: the heart beats on a thread of its own.
#[test]
fn a_tool_that_blocks_the_only_thread_costs_no_lease() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let calls = Calls::default();
    let counted = calls.clone();
    let blocking = Step::function("block", move |_, _: Arc<StepInput>| {
        counted.note();
        gate.lock().unwrap().recv().ok();
        async { Ok::<_, Failure>("unblocked") }
    });
    let definition = workflow([blocking]);
    let options = Options {
        lease_period: Duration::from_millis(300),
        heartbeat_period: Duration::from_millis(20),
        ..Options::default()
    };
    let (starved, run) = {
        let (definition, path) = (definition.clone(), path.clone());
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let builder = Engine::builder(Arc::new(SqliteDb::new(path))).workflow(definition.clone());
                let engine = builder.options(options).start().await.unwrap();
                let run = engine.submit(&definition.id, input("hi")).await.unwrap();
                tell.send((engine.worker(), run.run_id().clone())).unwrap();
                let ended = run.wait().await.unwrap();
                engine.shutdown().await.unwrap();
                ended
            })
        });
        let (worker, run_id) = told.recv().unwrap();
        (thread, (worker, run_id))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let other = SqliteDb::new(&path);
    runtime.block_on(look_on(&other, &run.0, &definition));
    release.send(()).unwrap();
    let ended = starved.join().unwrap();
    assert_eq!((ended.text().as_str(), calls.count()), ("unblocked", 1));
    let stored = runtime.block_on(other.run(Access::All, run.1)).unwrap().unwrap();
    assert_eq!(stored.epoch, 1);
}

/// How long a shutdown goes on when the store is busy for `busy`, and whether it gave the leases back.
async fn retired_after(busy: Duration) -> (Duration, bool) {
    let (db, definition) = (InMemoryDb::new(), workflow([append("a", &Calls::default())]));
    let begun = Instant::now();
    db.faults(Arc::new(move |operation| {
        let refuses = operation == Operation::Retire && begun.elapsed() < busy;
        refuses.then_some(Fault::Refuse(DbErrorKind::Busy))
    }));
    let stopped = engine(&db, &definition).await.shutdown().await;
    (begun.elapsed(), stopped.is_ok())
}

#[tokio::test(start_paused = true)]
async fn leases_are_given_back_to_a_busy_store_as_long_as_the_grace_lasts_and_no_longer() {
    let (took, gave_back) = retired_after(20 * SECOND).await;
    assert!(gave_back && took < 21 * SECOND, "{took:?}");
    let (took, gave_back) = retired_after(Duration::MAX).await;
    assert!(!gave_back && took < 31 * SECOND, "{took:?}");
}

/// A claim that was on its way when the engine gave everything back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_engine_that_gives_everything_back_begins_nothing_more() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([counted("a", Duration::from_millis(50), &calls)]);
    let accepts = engine_with(&db, &definition, Options { execute: false, ..Options::default() }).await;
    let run = accepts.submit(&definition.id, input("hi")).await.unwrap();

    let (retires, retiring) = mpsc::channel();
    let (commits, committing) = mpsc::channel();
    let (retiring, committing) = (Mutex::new(Some(retiring)), Mutex::new(Some(committing)));
    let (store, run_id) = (db.clone(), run.run_id().clone());
    let process = db.another_process();
    process.faults(Arc::new(move |operation| {
        match operation {
            Operation::Claim => {
                let first = retiring.lock().unwrap().take();
                first.into_iter().for_each(|retiring| retiring.recv().unwrap());
            }
            Operation::Commit => commits.send(()).unwrap_or_default(),
            Operation::Retire => {
                retires.send(()).unwrap_or_default();
                let first = committing.lock().unwrap().take();
                first.into_iter().for_each(|committing| committing.recv().unwrap());
                // The heart's own runtime must not be used for this.
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                        runtime.block_on(async {
                            loop {
                                let run = store.run(Access::All, run_id.clone()).await.unwrap().unwrap();
                                if run.worker.is_none() || run.next_index > 0 {
                                    return;
                                }
                                tokio::task::yield_now().await;
                            }
                        });
                    });
                });
            }
            _ => {}
        }
        None
    }));
    let leaves = Engine::builder(Arc::new(process)).workflow(definition.clone()).start().await.unwrap();
    drop(leaves);
    let executes = Engine::builder(Arc::new(db.another_process())).workflow(definition).start().await.unwrap();
    assert_eq!(executes.attach(run.run_id().clone()).wait().await.unwrap().status, RunStatus::Completed);
    assert_eq!(calls.count(), 1);
}
