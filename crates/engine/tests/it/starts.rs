//! When runs begin: later, before others, and not more than so many at once, over all processes of a store.

use crate::stage::{Calls, append, engine_with, input, workflow};
use outlive_core::port::{Access, Clock, RunStore, StepContext};
use outlive_core::{
    Definition, Failure, HumanReview, Parallel, RunStatus, Step, StepInput, Timestamp, Waiting, WaitsFor,
    WorkflowRunOutput,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{SimulatedClock, poll_and_drop};
use outlive_engine::{Engine, Error, Options, RunHandle, Submit};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

const HOUR: Duration = Duration::from_secs(3_600);

async fn ended(run: &RunHandle) -> WorkflowRunOutput {
    timeout(10 * HOUR, run.wait()).await.expect("it rests").unwrap()
}

async fn start(db: InMemoryDb, definition: &Arc<Definition>, clock: &Arc<dyn Clock>, runs_max: usize) -> Engine {
    let options = Options { runs_max, scan_period: Duration::from_millis(200), ..Options::default() };
    let builder = Engine::builder(Arc::new(db)).options(options).clock(clock.clone());
    builder.workflow(definition.clone()).start().await.unwrap()
}

async fn why(engine: &Engine, run: &RunHandle) -> Option<Waiting> {
    let stored = engine.record(run.run_id()).await.unwrap().unwrap();
    engine.waiting(&stored).await.unwrap()
}

/// Counts how many execute at once, and remembers the most, and in which order they began.
#[derive(Clone, Default)]
struct Floor {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    order: Arc<Mutex<Vec<String>>>,
}

struct Leaves(Arc<AtomicUsize>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Floor {
    fn enter(&self, name: String) -> Leaves {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.order.lock().unwrap().push(name);
        Leaves(self.now.clone())
    }

    fn step(&self, takes: Duration) -> Step {
        let floor = self.clone();
        Step::function("works", move |_: StepContext, input: Arc<StepInput>| {
            let floor = floor.clone();
            async move {
                let _inside = floor.enter(input.text());
                tokio::time::sleep(takes).await;
                Ok::<_, Failure>(input.text())
            }
        })
    }

    fn order(&self) -> Vec<String> {
        self.order.lock().unwrap().clone()
    }
}

fn limited(step: Step, most: u32) -> Arc<Definition> {
    Arc::new(Definition::builder("Example").step(step).concurrency(most).build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_run_that_begins_later_is_accepted_at_once_and_executed_when_it_is_due_whatever_happens_meanwhile() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
    let engine = start(db.clone(), &definition, &clock, 10).await;
    let delayed = || Submit { delay: Some(HOUR), idempotency_key: Some("k".to_owned()), ..input("hi") };
    // A caller that goes away has it accepted once, or not at all.
    for polls in 0..6 {
        poll_and_drop(engine.submit(&definition.id, delayed()), polls).await;
    }
    let run = engine.submit(&definition.id, delayed()).await.unwrap();
    let told = why(&engine, &run).await.unwrap();
    let due_at = clock.now() + HOUR;
    assert_eq!((told.waits_for, told.until, told.is_interrupted), (WaitsFor::Time, Some(due_at), false));
    assert!(told.reason.contains("is to begin at"), "{}", told.reason);
    let other = Submit { start_at: Some(due_at), ..input("ho") };
    let cancelled = engine.submit(&definition.id, other).await.unwrap();
    engine.cancel(cancelled.run_id(), "no more").await.unwrap();
    assert_eq!(ended(&cancelled).await.status, RunStatus::Cancelled);
    // Its process dies, and another is there in time.
    tokio::time::sleep(HOUR / 2).await;
    engine.kill();
    db.crash(&engine.worker());
    let heir = start(db.clone(), &definition, &clock, 10).await;
    tokio::time::sleep(HOUR / 2 - Duration::from_secs(1)).await;
    let run = heir.attach(run.run_id().clone());
    assert_eq!((run.get().await.unwrap().unwrap().status, calls.count()), (RunStatus::Pending, 0));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((ended(&run).await.text().as_str(), calls.count()), ("hi a", 1));
    // One whose time has passed begins at once.
    let past = Submit { start_at: Some(run.get().await.unwrap().map(|_| clock.now()).unwrap()), ..input("now") };
    assert_eq!(ended(&heir.submit(&definition.id, past).await.unwrap()).await.text(), "now a");
    let differs = Submit { delay: Some(2 * HOUR), ..delayed() };
    assert!(matches!(heir.submit(&definition.id, differs).await.unwrap_err(), Error::Conflict(_)));
}

#[tokio::test(start_paused = true)]
async fn more_important_runs_begin_first_and_a_repetition_is_as_important() {
    let (db, floor) = (InMemoryDb::new(), Floor::default());
    let definition = workflow([floor.step(Duration::from_secs(1))]);
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
    let engine = start(db.clone(), &definition, &clock, 1).await;
    let submit = |text: &str, priority: i8| Submit { priority, ..input(text) };
    let mut runs = Vec::new();
    for (text, priority) in [("first", 0), ("low", -5), ("usual", 0), ("high", 7), ("usual too", 0), ("high too", 7)] {
        runs.push(engine.submit(&definition.id, submit(text, priority)).await.unwrap());
    }
    for run in &runs {
        ended(run).await;
    }
    assert_eq!(floor.order(), ["first", "high", "high too", "usual", "usual too", "low"]);
    let again = runs[3].rerun().await.unwrap();
    let stored = db.run(Access::All, again.run_id().clone()).await.unwrap().unwrap();
    assert_eq!(stored.priority, 7);
    ended(&again).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_limit_execute_at_once_over_two_processes_one_of_which_dies() {
    let (db, floor) = (InMemoryDb::new(), Floor::default());
    let definition = limited(floor.step(Duration::from_secs(10)), 3);
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
    let one = start(db.clone(), &definition, &clock, 10).await;
    let other = start(db.another_process(), &definition, &clock, 10).await;
    let mut runs = Vec::new();
    for number in 0..20 {
        let engine = if number % 2 == 0 { &one } else { &other };
        let submit = engine.submit(&definition.id, input(&format!("{number:02}")));
        // Callers may leave: what was accepted is executed.
        match number % 5 {
            0 => drop(poll_and_drop(submit, 50).await),
            _ => runs.push(submit.await.unwrap().run_id().clone()),
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(floor.now.load(Ordering::SeqCst), 3);
    let told = why(&other, &other.attach(runs[8].clone())).await.unwrap();
    assert_eq!((told.waits_for, told.on.as_deref()), (WaitsFor::Limit, None));
    assert!(told.reason.contains("3 runs of its workflow execute"), "{}", told.reason);
    tokio::time::sleep(Duration::from_secs(14)).await;
    one.kill();
    db.crash(&one.worker());
    for run_id in &runs {
        assert_eq!(ended(&other.attach(run_id.clone())).await.status, RunStatus::Completed);
    }
    assert_eq!(floor.most.load(Ordering::SeqCst), 3);
    let order = floor.order();
    let mut begun = order.clone();
    begun.dedup();
    assert!(order[..3].is_sorted() && order.len() >= 20, "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_places_and_a_paused_run_gives_its_own_up() {
    let (db, floor) = (InMemoryDb::new(), Floor::default());
    let asks = floor.step(Duration::from_secs(5)).human_review(HumanReview::confirmation("Begin?"));
    let definition = limited(asks, 1);
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
    let engine = start(db.clone(), &definition, &clock, 10).await;
    let submit = |text: &str, key: &str| Submit { concurrency_key: Some(key.to_owned()), ..input(text) };
    let mut runs = Vec::new();
    for (text, key) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        runs.push(engine.submit(&definition.id, submit(text, key)).await.unwrap());
    }
    // All three ask, one after the other under each key: who waits for a person has no place.
    for run in &runs {
        assert_eq!(ended(run).await.status, RunStatus::Paused);
    }
    for run in &runs {
        run.questions().await.unwrap()[0].approve().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(floor.now.load(Ordering::SeqCst), 2, "one of each key");
    let waits: Vec<_> = [why(&engine, &runs[0]).await, why(&engine, &runs[1]).await]
        .into_iter()
        .flatten()
        .filter(|told| told.waits_for == WaitsFor::Limit)
        .collect();
    assert_eq!(waits.len(), 1);
    assert_eq!(waits[0].on.as_deref(), Some("a"));
    assert!(waits[0].reason.contains("one executes at a time"), "{}", waits[0].reason);
    for run in &runs {
        assert_eq!(ended(run).await.status, RunStatus::Completed);
    }
    assert_eq!(floor.most.load(Ordering::SeqCst), 2);
    // A fork is limited as the run it was made from.
    let fork = runs[0].fork("works").background().await.unwrap();
    assert_eq!(ended(&fork).await.status, RunStatus::Paused);
    let stored = db.run(Access::All, fork.run_id().clone()).await.unwrap().unwrap();
    assert_eq!(stored.limit.unwrap().key_of(&definition.id).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_gone_from_the_definition_holds_nobody_for_ever() {
    let (db, floor) = (InMemoryDb::new(), Floor::default());
    let inside = Parallel::new("beside").step(floor.step(Duration::from_secs(5)));
    let build = |builder: outlive_core::DefinitionBuilder| Arc::new(builder.build().unwrap());
    let strict = build(Definition::builder("Example").step(inside).concurrency(1));
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
    let idle = engine_with(&db, &strict, Options { execute: false, ..Options::default() }).await;
    let mut runs = Vec::new();
    for text in ["one", "two", "three"] {
        runs.push(idle.submit(&strict.id, input(text)).await.unwrap().run_id().clone());
    }
    let loose = build(Definition::builder("Example").step(Parallel::new("beside").step(floor.step(HOUR / 60))));
    let engine = start(db.clone(), &loose, &clock, 10).await;
    for run_id in runs {
        assert_eq!(ended(&engine.attach(run_id)).await.status, RunStatus::Completed);
    }
    assert_eq!(floor.most.load(Ordering::SeqCst), 1, "each has the limit that it was accepted with");
    assert!(Definition::builder("None").step(floor.step(HOUR)).concurrency(0).build().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_time_that_has_passed_is_now_and_what_is_no_time_or_key_is_refused() {
    let (db, floor) = (InMemoryDb::new(), Floor::default());
    let definition = limited(floor.step(Duration::from_secs(1)), 2);
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
    let engine = start(db.clone(), &definition, &clock, 1).await;
    let mut runs = Vec::new();
    // With no room for the second and the third, they are claimed later all the same.
    for start_at in [clock.now(), Timestamp::from_micros(-5), Timestamp::from_seconds(1)] {
        let submit = Submit { start_at: Some(start_at), ..input("past") };
        runs.push(engine.submit(&definition.id, submit).await.unwrap());
    }
    for run in &runs {
        assert_eq!(ended(run).await.status, RunStatus::Completed);
    }
    let last = Submit { start_at: Some(Timestamp::from_seconds(253_402_207_200)), ..input("far") };
    let far = engine.submit(&definition.id, last).await.unwrap();
    assert!(why(&engine, &far).await.unwrap().reason.contains("9999-12-30T22:00:00Z"));
    let key = |key: String| Submit { concurrency_key: Some(key), ..input("x") };
    for (submit, problem) in [
        (Submit { delay: Some(Duration::MAX), ..input("x") }, "until 9999-12-30T22:00:00Z"),
        (Submit { start_at: Some(Timestamp::from_micros(i64::MAX)), ..input("x") }, "until 9999-12-30T22:00:00Z"),
        (key(String::new()), "1 to 255 bytes"),
        (key("k".repeat(256)), "this one has 256"),
        (key("a\nb".to_owned()), "no control characters"),
    ] {
        let refused = engine.submit(&definition.id, submit).await.unwrap_err();
        assert!(matches!(&refused, Error::CannotBegin(said) if said.contains(problem)), "{refused}");
    }
    let odd = engine.submit(&definition.id, key("é/ \"k\"".repeat(20))).await.unwrap();
    assert_eq!(ended(&odd).await.status, RunStatus::Completed);
}
