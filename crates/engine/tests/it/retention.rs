//! What is kept, and what is deleted: by limits, by whoever asks, whatever dies and whatever clocks do.

use crate::stage::{Calls, append, input, slow, workflow};
use outlive_core::port::{Access, Clock, DELETED_RUNS_MAX, Db, Order, RetentionStore, RunFilter, RunStore};
use outlive_core::{
    Answer, Definition, Failure, HumanReview, Retention, RunId, RunStatus, SessionId, Step, StepInput, StepOutput,
    Timestamp,
};
use outlive_db::{InMemoryDb, Operation};
use outlive_engine::testing::{SimulatedClock, TroubledDb, poll_and_drop};
use outlive_engine::{BatchCounts, BatchHandle, CreateBatch, Engine, Error, Options, Prune, PruneReport, Submit};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A clock that somebody sets.
#[derive(Clone)]
struct SetClock(SimulatedClock, Arc<AtomicI64>);

impl SetClock {
    fn start() -> Self {
        Self(SimulatedClock::start(), Arc::default())
    }

    fn set_by(&self, by: Duration, sign: i64) {
        self.1.fetch_add(by.as_micros() as i64 * sign, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.now().as_micros() + self.1.load(Ordering::Relaxed))
    }
}

fn keeping(retention: Retention) -> Options {
    Options { retention, ..Options::default() }
}

async fn start_on(db: impl Db, definition: &Arc<Definition>, clock: &SetClock, options: Options) -> Engine {
    let builder = Engine::builder(Arc::new(db)).options(options).clock(Arc::new(clock.clone()));
    builder.workflow(definition.clone()).start().await.unwrap()
}

/// Runs that have ended, each in a session of its own.
async fn complete(engine: &Engine, definition: &Definition, count: usize) -> Vec<RunId> {
    let mut ids = Vec::new();
    for number in 0..count {
        let run = engine.submit(&definition.id, input(&format!("input {number}"))).await.unwrap();
        run.wait().await.unwrap();
        ids.push(run.run_id().clone());
    }
    ids
}

async fn left(db: &InMemoryDb) -> Vec<RunId> {
    let filter = RunFilter { order: Order::OldestFirst, limit: 1_000, ..RunFilter::default() };
    let page = db.runs(Access::All, filter).await.unwrap();
    page.runs.into_iter().map(|run| run.info.run_id).collect()
}

#[tokio::test(start_paused = true)]
async fn without_limits_the_store_is_asked_nothing_and_everything_stays() {
    let db = InMemoryDb::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let noted = asked.clone();
    db.faults(Arc::new(move |operation| {
        let is_about_it = matches!(
            operation,
            Operation::RunSizes
                | Operation::DeleteRuns
                | Operation::DeleteIdleSessions
                | Operation::TakeTurn
                | Operation::UsedBytes
        );
        noted.fetch_add(usize::from(is_about_it), Ordering::Relaxed);
        None
    }));
    let definition = workflow([append("a", &Calls::default())]);
    let engine = start_on(db.clone(), &definition, &SetClock::start(), Options::default()).await;
    complete(&engine, &definition, 3).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!((left(&db).await.len(), asked.load(Ordering::Relaxed)), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_when_it_ended_long_enough_ago() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let options = keeping(Retention::new().max_age(30 * MINUTE));
    let engine = start_on(db.clone(), &definition, &SetClock::start(), options).await;
    let early = complete(&engine, &definition, 2).await;
    tokio::time::sleep(10 * MINUTE).await;
    let late = complete(&engine, &definition, 2).await;
    tokio::time::sleep(18 * MINUTE).await;
    assert_eq!(left(&db).await.len(), 4);
    tokio::time::sleep(5 * MINUTE).await;
    assert_eq!(left(&db).await, late);
    let stats = engine.reader().stats();
    assert_eq!(stats.runs_pruned, 2);
    assert!(stats.bytes_pruned > 0);
    let pruned = db.pruned().await.unwrap();
    assert_eq!((pruned.len(), pruned[0].runs, &*pruned[0].scope), (1, 2, ""));
    assert!(matches!(engine.attach(early[0].clone()).wait().await, Err(Error::RunNotFound(_))));
    // Sessions are kept unless it is said otherwise.
    assert_eq!(engine.reader().sessions(Default::default()).await.unwrap().total, 4);
}

#[tokio::test(start_paused = true)]
async fn of_the_runs_that_have_ended_the_last_accepted_stay() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let options = keeping(Retention::new().max_runs(5));
    let engine = start_on(db.clone(), &definition, &SetClock::start(), options).await;
    let runs = complete(&engine, &definition, 12).await;
    assert_eq!(left(&db).await.len(), 12, "whoever waits for one can read it");
    tokio::time::sleep(3 * MINUTE).await;
    assert_eq!(left(&db).await, runs[7..]);
    let more = complete(&engine, &definition, 300).await;
    tokio::time::sleep(3 * MINUTE).await;
    assert_eq!(left(&db).await, more[295..]);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_too_large_the_first_accepted_go() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let engine = start_on(db.clone(), &definition, &SetClock::start(), Options::default()).await;
    let runs = complete(&engine, &definition, 20).await;
    let used = db.used_bytes().await.unwrap();
    engine.shutdown().await.unwrap();
    let options = keeping(Retention::new().max_bytes(used / 2));
    let engine = start_on(db.clone(), &definition, &SetClock::start(), options).await;
    tokio::time::sleep(3 * MINUTE).await;
    let left = left(&db).await;
    assert!((9..=10).contains(&left.len()), "{}", left.len());
    assert_eq!(left, runs[20 - left.len()..]);
    assert!(db.used_bytes().await.unwrap() <= used / 2);
    drop(engine);
}

#[tokio::test(start_paused = true)]
async fn a_workflow_has_limits_of_its_own_and_those_of_the_store_hold_as_well() {
    let db = InMemoryDb::new();
    let named = |name: &str, retention: Retention| {
        let builder = Definition::builder(name).step(append("a", &Calls::default())).retention(retention);
        Arc::new(builder.build().unwrap())
    };
    let short = named("Short", Retention::new().max_age(10 * MINUTE).max_runs(3));
    let long = named("Long", Retention::new().max_age(90 * MINUTE));
    let plain = named("Plain", Retention::new());
    assert_eq!(short.hash, named("Short", Retention::new()).hash, "runs are not pinned to it");
    let clock = SetClock::start();
    let engine = start_on(db.clone(), &short, &clock, keeping(Retention::new().max_age(30 * MINUTE))).await;
    engine.register(long.clone());
    engine.register(plain.clone());
    for definition in [&short, &long, &plain] {
        complete(&engine, definition, 5).await;
    }
    let count = async |definition: &Definition| {
        let filter = RunFilter { workflow_id: Some(definition.id.clone()), ..RunFilter::default() };
        db.runs(Access::All, filter).await.unwrap().runs.len()
    };
    tokio::time::sleep(5 * MINUTE).await;
    assert_eq!((count(&short).await, count(&long).await, count(&plain).await), (3, 5, 5));
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!((count(&short).await, count(&long).await, count(&plain).await), (0, 5, 5));
    // Where nobody has its definition, the store's limits hold.
    engine.shutdown().await.unwrap();
    tokio::time::sleep(5 * MINUTE).await;
    let engine = start_on(db.clone(), &short, &clock, keeping(Retention::new().max_age(30 * MINUTE))).await;
    tokio::time::sleep(5 * MINUTE).await;
    assert_eq!((count(&long).await, count(&plain).await), (5, 5));
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!((count(&long).await, count(&plain).await), (0, 0));
    drop(engine);
}

#[test]
fn a_workflow_cannot_limit_what_belongs_to_the_store() {
    let builder = || Definition::builder("Flow").step(append("a", &Calls::default()));
    for retention in [Retention::new().max_bytes(1), Retention::new().sessions_max_age(DAY)] {
        let problem = builder().retention(retention).build().unwrap_err().to_string();
        assert!(problem.contains("set them in the engine's options"), "{problem}");
    }
    builder().retention(Retention::new().max_age(DAY).max_runs(0)).build().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_has_not_ended_stays_and_so_does_what_its_session_was_before() {
    let db = InMemoryDb::new();
    let review = HumanReview::confirmation("Go on?");
    let named = |name: &str, step: Step| Arc::new(Definition::builder(name).step(step).build().unwrap());
    let asking = named("Asking", append("a", &Calls::default()).human_review(review));
    let waiting = named("Waiting", slow("wait", 10 * HOUR));
    let quick = named("Quick", append("a", &Calls::default()));
    let options = keeping(Retention::new().max_age(MINUTE).max_runs(0).max_bytes(0));
    let engine = start_on(db.clone(), &asking, &SetClock::start(), options).await;
    engine.register(waiting.clone());
    engine.register(quick.clone());
    let submit = async |definition: &Definition, session: &str| {
        let submit = Submit { session_id: Some(session.to_owned()), ..input("hi") };
        engine.submit(&definition.id, submit).await.unwrap().run_id().clone()
    };
    let before = submit(&quick, "line").await;
    engine.attach(before.clone()).wait().await.unwrap();
    let paused = submit(&asking, "paused").await;
    engine.attach(paused.clone()).wait().await.unwrap();
    let running = submit(&waiting, "line").await;
    let queued = submit(&quick, "line").await;
    let later = Submit { delay: Some(10 * HOUR), ..input("later") };
    let later = engine.submit(&quick.id, later).await.unwrap().run_id().clone();
    let gone = submit(&quick, "other").await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(left(&db).await, [before, paused.clone(), running, queued, later]);
    assert!(engine.get_run(&gone).await.unwrap().is_none());

    // A person who answers late finds everything there.
    let question = engine.reader().questions(Default::default()).await.unwrap().questions.remove(0);
    engine.answer([(question.id().clone(), Answer::Approve)], None).await.unwrap();
    assert_eq!(engine.attach(paused).wait().await.unwrap().status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn sessions_go_only_when_it_is_said_and_when_they_are_old_and_empty() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let retention = Retention::new().max_runs(1).sessions_max_age(30 * MINUTE);
    let engine = start_on(db.clone(), &definition, &SetClock::start(), keeping(retention)).await;
    complete(&engine, &definition, 5).await;
    let sessions = async || engine.reader().sessions(Default::default()).await.unwrap().total;
    tokio::time::sleep(20 * MINUTE).await;
    assert_eq!((left(&db).await.len(), sessions().await), (1, 5));
    tokio::time::sleep(15 * MINUTE).await;
    assert_eq!((left(&db).await.len(), sessions().await), (1, 1));
    assert_eq!(engine.reader().stats().sessions_pruned, 4);
}

#[tokio::test(start_paused = true)]
async fn one_of_many_processes_works_and_another_goes_on_when_it_dies() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let clock = SetClock::start();
    let options = || keeping(Retention::new().max_runs(0));
    let filling = start_on(db.clone(), &definition, &clock, Options::default()).await;
    complete(&filling, &definition, 700).await;
    filling.shutdown().await.unwrap();
    tokio::time::sleep(2 * MINUTE).await;

    let processes: Vec<_> = (0..3).map(|_| db.another_process()).collect();
    let workers: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut engines = Vec::new();
    for (number, process) in processes.iter().enumerate() {
        let workers = workers.clone();
        process.faults(Arc::new(move |operation| {
            if operation == Operation::DeleteRuns {
                workers.lock().unwrap().push(number);
            }
            None
        }));
        engines.push(start_on(process.clone(), &definition, &clock, options()).await);
    }
    while left(&db).await.len() > 400 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let first = workers.lock().unwrap()[0];
    assert!(workers.lock().unwrap().iter().all(|number| *number == first), "{workers:?}");
    let dead = engines.remove(first);
    dead.kill();
    db.crash(&dead.worker());
    tokio::time::sleep(5 * MINUTE).await;
    assert!(left(&db).await.is_empty());
    assert!(workers.lock().unwrap().iter().any(|number| *number != first));
    let pruned: u64 = db.pruned().await.unwrap().iter().map(|one| one.runs).sum();
    assert_eq!(pruned, 700, "each once");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_anywhere_leaves_the_rest_to_the_next() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let clock = SetClock::start();
    let filling = start_on(db.clone(), &definition, &clock, Options::default()).await;
    let runs = complete(&filling, &definition, 300).await;
    filling.shutdown().await.unwrap();
    tokio::time::sleep(2 * MINUTE).await;
    for polls in 0..40 {
        let yielding = TroubledDb::yielding(Arc::new(db.clone()));
        let options = keeping(Retention::new().max_runs(200 - polls as u64));
        let builder = Engine::builder(yielding).options(options).clock(Arc::new(clock.clone()));
        let engine = builder.workflow(definition.clone()).start().await.unwrap();
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        engine.kill();
        db.crash(&engine.worker());
        drop(engine);
        tokio::time::sleep(MINUTE).await;
    }
    let options = keeping(Retention::new().max_runs(100));
    let last = start_on(db.clone(), &definition, &clock, options).await;
    tokio::time::sleep(3 * MINUTE).await;
    assert_eq!(left(&db).await, runs[200..]);
    drop(last);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_forward_deletes_nothing_for_an_hour_and_one_set_back_nothing_at_all() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let clock = SetClock::start();
    let options = keeping(Retention::new().max_age(30 * DAY).sessions_max_age(30 * DAY));
    let engine = start_on(db.clone(), &definition, &clock, options).await;
    let runs = complete(&engine, &definition, 3).await;
    tokio::time::sleep(5 * MINUTE).await;
    clock.set_by(365 * DAY, 1);
    tokio::time::sleep(50 * MINUTE).await;
    assert_eq!(left(&db).await, runs, "it was noticed");
    clock.set_by(365 * DAY, -1);
    tokio::time::sleep(2 * HOUR).await;
    assert_eq!(left(&db).await, runs, "it was set right");
    clock.set_by(365 * DAY, -1);
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(left(&db).await, runs);
    // Nobody has set it back: it is right.
    clock.set_by(365 * DAY + 40 * DAY, 1);
    tokio::time::sleep(50 * MINUTE).await;
    assert_eq!(left(&db).await, runs);
    tokio::time::sleep(15 * MINUTE).await;
    assert!(left(&db).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_follower_of_a_run_that_is_deleted_is_told() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default()), append("b", &Calls::default())]);
    let engine = start_on(db.clone(), &definition, &SetClock::start(), Options::default()).await;
    let run = complete(&engine, &definition, 1).await.remove(0);
    let mut follower = engine.reader().events(&run, None);
    let prune = Prune { retention: Retention::new().max_runs(0), ..Prune::default() };
    assert_eq!(engine.prune(prune).await.unwrap().runs, 1);
    assert!(matches!(follower.next().await, Err(Error::RunNotFound(id)) if id == run));
    assert!(matches!(engine.reader().wait(&run).await, Err(Error::RunNotFound(_))));
    assert!(matches!(engine.cancel(&run, "late").await, Err(Error::RunNotFound(_))));

    // The same request again is a new run.
    let keyed = || Submit { idempotency_key: Some("once".to_owned()), ..input("hi") };
    let first = engine.submit(&definition.id, keyed()).await.unwrap();
    first.wait().await.unwrap();
    assert_eq!(engine.submit(&definition.id, keyed()).await.unwrap().run_id(), first.run_id());
    let prune = Prune { retention: Retention::new().max_runs(0), ..Prune::default() };
    engine.prune(prune).await.unwrap();
    assert_ne!(engine.submit(&definition.id, keyed()).await.unwrap().run_id(), first.run_id());
}

/// All reports of one request together.
async fn prune_all(engine: &Engine, prune: Prune) -> PruneReport {
    let (mut sum, mut after) = (PruneReport::default(), None);
    loop {
        let report = engine.prune(Prune { after, ..prune.clone() }).await.unwrap();
        sum.runs += report.runs;
        sum.bytes += report.bytes;
        sum.in_use += report.in_use;
        sum.batches += report.batches;
        if report.next.is_none() {
            return sum;
        }
        after = report.next;
    }
}

#[tokio::test(start_paused = true)]
async fn a_preview_says_what_would_be_deleted_and_deletes_nothing() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let clock = SetClock::start();
    let engine = start_on(db.clone(), &definition, &clock, Options::default()).await;
    complete(&engine, &definition, 300).await;
    tokio::time::sleep(10 * MINUTE).await;
    let session = SessionId::parse("mine").unwrap();
    for _ in 0..20 {
        let submit = Submit { session_id: Some("mine".to_owned()), ..input("hi") };
        engine.submit(&definition.id, submit).await.unwrap().wait().await.unwrap();
    }
    let used = db.used_bytes().await.unwrap();
    let of_session = || RunFilter { session_id: Some(session.clone()), ..RunFilter::default() };
    let failed = || RunFilter { statuses: vec![RunStatus::Error], ..RunFilter::default() };
    let cases = [
        (Retention::new().max_age(5 * MINUTE), RunFilter::default(), 300),
        (Retention::new().max_runs(50), RunFilter::default(), 270),
        (Retention::new().max_runs(10), of_session(), 10),
        (Retention::new().max_age(5 * MINUTE).max_runs(15), of_session(), 5),
        (Retention::new(), of_session(), 20),
        (Retention::new(), failed(), 0),
        (Retention::new().max_bytes(used * 3 / 4), RunFilter::default(), 80),
        (Retention::new().max_runs(0), RunFilter::default(), 320),
    ];
    for (retention, filter, expected) in cases {
        let prune = Prune { retention, filter, is_preview: true, after: None };
        let preview = prune_all(&engine, prune.clone()).await;
        assert_eq!(left(&db).await.len(), 320);
        assert!(
            preview.runs.abs_diff(expected) <= u64::from(retention.max_bytes.is_some()) * 5,
            "{prune:?}: {preview:?}"
        );
    }
    // What was said is what happens.
    let prune = Prune { retention: Retention::new().max_runs(10), filter: of_session(), ..Prune::default() };
    assert_eq!(prune_all(&engine, prune.clone()).await.runs, 10);
    assert_eq!(prune_all(&engine, prune).await.runs, 0);
    let prune = Prune { retention: Retention::new().max_age(5 * MINUTE), ..Prune::default() };
    assert_eq!(prune_all(&engine, prune).await.runs, 300);
    assert_eq!(left(&db).await.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_says_which_runs() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let engine = start_on(db.clone(), &definition, &SetClock::start(), Options::default()).await;
    complete(&engine, &definition, 2).await;
    let of_status = |status| RunFilter { statuses: vec![status], ..RunFilter::default() };
    let of_time = || RunFilter { created_from: Some(Timestamp::from_micros(1)), ..RunFilter::default() };
    let new = Retention::new;
    for (retention, filter, words) in [
        (new(), RunFilter::default(), "every run that has ended"),
        (new(), of_status(RunStatus::Paused), "cancel the others first"),
        (new().sessions_max_age(DAY), RunFilter::default(), "sessions are not deleted with runs"),
        (new().max_bytes(1), of_status(RunStatus::Error), "leave the filter out"),
        (new().max_runs(10_000), of_time(), "as far as 10000"),
    ] {
        let error = engine.prune(Prune { retention, filter, ..Prune::default() }).await.unwrap_err();
        assert!(matches!(&error, Error::CannotPrune(problem) if problem.contains(words)), "{error}");
    }
    let prune = Prune { retention: new().max_runs(0), ..Prune::default() };
    for after in ["x", "1:2", "9999999999999999999999:0:0"] {
        let prune = Prune { after: Some(after.to_owned()), ..prune.clone() };
        assert!(matches!(engine.prune(prune).await, Err(Error::CannotPrune(_))), "{after}");
    }
    let ada = engine.for_user("ada");
    assert_eq!(ada.prune(prune.clone()).await.unwrap().runs, 0, "nobody else's");
    let prune_bytes = Prune { retention: new().max_bytes(0), ..Prune::default() };
    assert!(matches!(ada.prune(prune_bytes).await, Err(Error::CannotPrune(_))));
    assert_eq!(left(&db).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_and_goes_away_has_asked() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let clock = SetClock::start();
    let yielding = TroubledDb::yielding(Arc::new(db.clone()));
    let builder = Engine::builder(yielding).clock(Arc::new(clock.clone()));
    let engine = builder.workflow(definition.clone()).start().await.unwrap();
    for polls in 1..12 {
        complete(&engine, &definition, DELETED_RUNS_MAX + 3).await;
        let prune = Prune { retention: Retention::new().max_runs(0), ..Prune::default() };
        poll_and_drop(engine.prune(prune), polls).await;
        tokio::time::sleep(SECOND).await;
        assert!(left(&db).await.is_empty(), "{polls}");
    }
}

/// However many runs there are, a look at those that are kept reads a page, and each deletion is as small.
#[tokio::test(start_paused = true)]
async fn work_is_bounded_by_counts() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let clock = SetClock::start();
    let filling = start_on(db.clone(), &definition, &clock, Options::default()).await;
    complete(&filling, &definition, 2_000).await;
    filling.shutdown().await.unwrap();
    tokio::time::sleep(2 * MINUTE).await;
    let process = db.another_process();
    let calls: Arc<Mutex<Vec<Operation>>> = Arc::default();
    let noted = calls.clone();
    process.faults(Arc::new(move |operation| {
        noted.lock().unwrap().push(operation);
        None
    }));
    let count = |operation: Operation| calls.lock().unwrap().iter().filter(|one| **one == operation).count();
    let old = keeping(Retention::new().max_age(HOUR));
    let engine = start_on(process.clone(), &definition, &clock, old).await;
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!((count(Operation::Runs), count(Operation::RunSizes)), (1, 0), "one page, and none is old");
    engine.shutdown().await.unwrap();

    calls.lock().unwrap().clear();
    let engine = start_on(process, &definition, &clock, keeping(Retention::new().max_runs(1_000))).await;
    let mut before = left(&db).await.len();
    while before > 1_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = left(&db).await.len();
        assert!(before - now <= DELETED_RUNS_MAX, "{} at once", before - now);
        before = now;
    }
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(left(&db).await.len(), 1_000);
    let pages = 1_000_usize.div_ceil(256);
    assert!(count(Operation::Runs) <= pages + 1, "{} pages", count(Operation::Runs));
    assert!(count(Operation::DeleteRuns) <= 2 * pages + 2, "{} deletions", count(Operation::DeleteRuns));
    drop(engine);
}

/// A batch of these inputs, all of them accepted.
async fn batch_of(engine: &Engine, definition: &Definition, id: &str, inputs: &[&str]) -> BatchHandle {
    let create = CreateBatch { batch_id: Some(id.to_owned()), ..CreateBatch::default() };
    let batch = engine.create_batch(&definition.id, create).await.unwrap();
    let inputs: Vec<_> = inputs.iter().map(|input| serde_json::Value::from(*input)).collect();
    batch.add(0, inputs.clone()).await.unwrap();
    batch.complete(inputs.len() as u64).await.unwrap();
    batch
}

/// What is told of each item: its index, and its text or why there is none.
async fn told(batch: &BatchHandle) -> Vec<(u64, String)> {
    let (mut results, mut told) = (batch.results(), Vec::new());
    while let Some(result) = results.next().await.unwrap() {
        let text = result.output.map_or_else(|error| error.to_string(), |output| output.text());
        assert_eq!(result.run.is_none(), text.contains("deleted"), "{text}");
        told.push((result.index, text));
    }
    told
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_once_all_of_it_is_old() {
    let db = InMemoryDb::new();
    let quick = workflow([append("a", &Calls::default())]);
    let waiting = Arc::new(Definition::builder("Waiting").step(slow("wait", 10 * HOUR)).build().unwrap());
    let engine = start_on(db.clone(), &quick, &SetClock::start(), keeping(Retention::new().max_age(HOUR))).await;
    engine.register(waiting.clone());
    let over = batch_of(&engine, &quick, "over", &["0", "1", "2"]).await;
    assert_eq!(over.wait().await.unwrap().status(), "completed");
    batch_of(&engine, &quick, "empty", &[]).await;
    // Half of it has ended: more may come.
    let named = |id: &str| CreateBatch { batch_id: Some(id.to_owned()), ..CreateBatch::default() };
    let open = engine.create_batch(&quick.id, named("open")).await.unwrap();
    open.add(0, vec!["0".into()]).await.unwrap();
    engine.create_batch(&quick.id, named("forgotten")).await.unwrap();
    let long = batch_of(&engine, &waiting, "long", &["0"]).await;
    let ids = async || {
        let page = engine.reader().batches(Default::default()).await.unwrap();
        page.batches.iter().map(|batch| batch.id.to_string()).collect::<Vec<_>>().join(" ")
    };
    tokio::time::sleep(HOUR / 2).await;
    assert_eq!(ids().await, "long forgotten open empty over");
    tokio::time::sleep(HOUR).await;
    assert_eq!(ids().await, "long open", "what has ended, what is empty, and what nobody has given anything");
    assert!(matches!(over.progress().await.unwrap_err(), Error::BatchNotFound(_)));
    assert!(matches!(over.wait().await.unwrap_err(), Error::BatchNotFound(_)), "nobody waits for ever");
    assert!(matches!(over.results().next().await.unwrap_err(), Error::BatchNotFound(_)));
    assert_eq!(left(&db).await.len(), 2);
    // What keeps a batch that will never be complete is that nobody has said so.
    open.cancel("it is not needed").await.unwrap();
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(ids().await, "long");
    // The id is free.
    let anew = batch_of(&engine, &quick, "over", &["other"]).await;
    assert_eq!(anew.wait().await.unwrap().counts.completed, 1);
    long.cancel("enough").await.unwrap();
    assert_eq!(long.wait().await.unwrap().status(), "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_batch_says_which_of_its_items_were_deleted() {
    let db = InMemoryDb::new();
    let moody = Step::function("moody", |_, input: Arc<StepInput>| async move {
        if input.text().starts_with("bad") {
            Err(Failure::fatal("not today"))
        } else {
            Ok(StepOutput::new(input.text()))
        }
    });
    let definition = workflow([moody]);
    let engine = start_on(db.clone(), &definition, &SetClock::start(), Options::default()).await;
    let inputs = ["bad 0", "good 1", "good 2", "bad 3"];
    let batch = batch_of(&engine, &definition, "b1", &inputs).await;
    assert_eq!(batch.wait().await.unwrap().status(), "failed");
    let of_batch = |statuses| RunFilter { batch_id: Some(Arc::from("b1")), statuses, ..RunFilter::default() };
    let prune = |filter, is_preview| Prune { filter, is_preview, ..Prune::default() };
    let failed = || of_batch(vec![RunStatus::Error]);
    assert_eq!(prune_all(&engine, prune(failed(), true)).await.runs, 2);
    assert_eq!(prune_all(&engine, prune(failed(), false)).await.runs, 2);
    let standing = batch.wait().await.unwrap();
    assert_eq!((standing.items, standing.accepted), (Some(4), 2));
    assert_eq!(standing.counts, BatchCounts { completed: 2, deleted: 2, ..BatchCounts::default() });
    let gone = |index| (index, format!("the run of item {index} of batch b1 was deleted"));
    let expected = [gone(0), (1, "good 1".to_owned()), (2, "good 2".to_owned()), gone(3)];
    assert_eq!(told(&batch).await, expected);
    assert!(batch.retry_failed().await.unwrap().is_empty());
    // What was deleted is not executed again because somebody repeats what he gave.
    let inputs: Vec<_> = inputs.iter().map(|input| serde_json::Value::from(*input)).collect();
    let error = batch.add(0, inputs).await.unwrap_err();
    assert!(matches!(&error, Error::Item { index: 0, .. }) && error.to_string().contains("deleted"), "{error}");
    assert_eq!(batch.complete(4).await.unwrap().accepted, 2);
    // With a number to keep.
    let keep_one = Prune { retention: Retention::new().max_runs(1), filter: of_batch(vec![]), ..Prune::default() };
    assert_eq!(prune_all(&engine, keep_one).await.runs, 1);
    assert_eq!(told(&batch).await[1..3], [gone(1), (2, "good 2".to_owned())]);
    // An item that is tried again keeps the others; one of which nothing is left goes.
    assert_eq!(prune_all(&engine, prune(of_batch(vec![]), false)).await.runs, 1);
    assert!(matches!(batch.progress().await.unwrap_err(), Error::BatchNotFound(_)));
    batch_of(&engine, &definition, "b1", &[]).await;
    let preview = prune_all(&engine, prune(of_batch(vec![]), true)).await;
    assert_eq!((preview.runs, preview.batches), (0, 1));
    let done = prune_all(&engine, prune(of_batch(vec![]), false)).await;
    assert_eq!((done.runs, done.batches), (0, 1));
    assert!(matches!(batch.progress().await.unwrap_err(), Error::BatchNotFound(_)));
    let stats = engine.reader().stats();
    assert_eq!((stats.runs_pruned, stats.batches_pruned), (4, 2), "one went with its last run, one had none");
}

#[tokio::test(start_paused = true)]
async fn whoever_retries_while_a_batch_is_deleted_loses_nothing() {
    for polls in 0..40 {
        let db = InMemoryDb::new();
        let fails = Arc::new(AtomicUsize::new(0));
        let counted = fails.clone();
        let step = Step::function("once", move |_, _| {
            let is_first = counted.fetch_add(1, Ordering::Relaxed) == 0;
            async move { if is_first { Err(Failure::fatal("not today")) } else { Ok(StepOutput::new("done")) } }
        });
        let definition = workflow([step]);
        let builder = Engine::builder(TroubledDb::yielding(Arc::new(db.clone())));
        let engine = builder.workflow(definition.clone()).start().await.unwrap();
        let batch = batch_of(&engine, &definition, "b1", &["0"]).await;
        assert_eq!(batch.wait().await.unwrap().status(), "failed");
        let filter = RunFilter { batch_id: Some(Arc::from("b1")), ..RunFilter::default() };
        let prune = engine.prune(Prune { filter, ..Prune::default() });
        poll_and_drop(prune, polls).await;
        let retried = batch.retry_failed().await.unwrap();
        let is_tried = retried.iter().any(|run| run.outcome.is_ok());
        match engine.reader().wait_batch("b1").await {
            Ok(over) => assert_eq!((over.counts.completed, is_tried), (1, true), "{over:?}"),
            Err(error) => assert!(matches!(error, Error::BatchNotFound(_)), "{error}"),
        }
    }
}
