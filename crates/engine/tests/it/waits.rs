//! Why a run is not over yet, as any process can tell it from the store.

use crate::stage::{Calls, append, engine, engine_with, input, slow, workflow};
use outlive_core::port::{Access, CancelIntent, Clock, RunStore, SessionPolicy, StepContext};
use outlive_core::{
    Definition, Failure, FailureKind, HumanReview, Parallel, Remedy, Retry, RunId, RunStatus, Step, StepInput,
    Timestamp, Waiting, WaitsFor,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::SimulatedClock;
use outlive_engine::waits::Look;
use outlive_engine::{Engine, Options, Submit};
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// What a process says that has the store and nothing else.
async fn look_at(db: &InMemoryDb, access: Access, run_id: &RunId, now: Timestamp) -> Option<Waiting> {
    let db = db.another_process();
    let run = db.run(Access::All, run_id.clone()).await.unwrap().unwrap();
    let look = Look::new(&db, access, now, &Options::default()).await.unwrap();
    let listed = look.over(std::slice::from_ref(&run)).await.unwrap().remove(0);
    let waiting = look.at(&run).await.unwrap();
    // A list says the same, but for what a process is at.
    let is_held = run.worker.is_some();
    let facts = |told: &Option<Waiting>| {
        told.as_ref().map(|told| (Some(told.waits_for).filter(|_| !is_held), told.is_interrupted, told.is_answered))
    };
    assert_eq!(facts(&listed), facts(&waiting), "{listed:?} {waiting:?}");
    waiting
}

async fn why(db: &InMemoryDb, run_id: &RunId, now: Timestamp) -> Waiting {
    look_at(db, Access::All, run_id, now).await.expect("the run is not over")
}

fn now() -> Timestamp {
    SimulatedClock::start().now()
}

fn in_session(text: &str, session_id: &str) -> Submit {
    Submit { session_id: Some(session_id.to_owned()), ..input(text) }
}

/// Lets everything that can happen now happen.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn named(name: &str) -> Arc<Definition> {
    Arc::new(Definition::builder(name).step(append("a", &Calls::default())).build().unwrap())
}

async fn accepting(db: &InMemoryDb, definition: &Arc<Definition>) -> Engine {
    engine_with(db, definition, Options { execute: false, ..Options::default() }).await
}

#[tokio::test(start_paused = true)]
async fn a_run_that_executes_waits_for_its_step_and_is_interrupted_once_its_process_is_gone() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    settle().await;
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.on.as_deref(), told.is_interrupted), (WaitsFor::Step, Some("a"), false));
    // Nobody is there to declare the worker dead; that its lease is over is enough.
    engine.kill();
    let told = why(&db, run.run_id(), now() + HOUR).await;
    assert_eq!((told.waits_for, told.is_interrupted), (WaitsFor::Worker, true));
    assert_eq!((told.on.as_deref(), told.remedy), (Some("example"), Some(Remedy::StartWorker)));
    assert!(told.reason.contains("its process ended before the run did"), "{}", told.reason);
    db.crash(&engine.worker());
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.is_interrupted), (WaitsFor::Worker, true));
    assert!(told.hint.unwrap().contains("start a program that has the workflow example"));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_a_shutdown_gave_back_is_interrupted() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let engine = engine_with(&db, &definition, Options { shutdown_grace: Duration::ZERO, ..Options::default() }).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    settle().await;
    engine.shutdown().await.unwrap();
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.is_interrupted), (WaitsFor::Worker, true));
    assert!(told.reason.starts_with("no process executes it: its last one gave it back"), "{}", told.reason);
}

/// A step that asks.
fn asks() -> Step {
    append("ask", &Calls::default()).human_review(HumanReview::confirmation("Go on?"))
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_answered_is_not_interrupted_until_a_process_has_taken_it_up() {
    let db = InMemoryDb::new();
    let definition = workflow([asks(), slow("b", HOUR)]);
    let first = engine(&db, &definition).await;
    let run = first.submit(&definition.id, in_session("hi", "s")).await.unwrap();
    let behind = first.submit(&definition.id, in_session("hi", "s")).await.unwrap();
    run.wait().await.unwrap();
    first.shutdown().await.unwrap();
    let accepting = accepting(&db, &definition).await;
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.is_answered, told.is_interrupted), (WaitsFor::Person, false, false));
    accepting.attach(run.run_id().clone()).questions().await.unwrap()[0].approve().await.unwrap();
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.is_answered, told.is_interrupted), (WaitsFor::Worker, true, false));
    assert_eq!(told.reason, "what it asked is answered, and no process executes runs of this database");
    let told = why(&db, behind.run_id(), now()).await;
    assert!(told.reason.contains("that one is answered: what it asked is answered"), "{}", told.reason);
    let second = engine(&db, &definition).await;
    settle().await;
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.is_answered, told.is_interrupted), (WaitsFor::Step, false, false));
    second.kill();
    db.crash(&second.worker());
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.is_answered, told.is_interrupted), (WaitsFor::Worker, false, true));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_given_back_while_a_branch_executed_is_interrupted_whatever_was_answered() {
    let db = InMemoryDb::new();
    let parallel = Parallel::new("both").step(asks()).step(slow("b", HOUR));
    let definition = Arc::new(Definition::builder("Example").step(parallel).build().unwrap());
    let engine = engine_with(&db, &definition, Options { shutdown_grace: Duration::ZERO, ..Options::default() }).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    settle().await;
    engine.shutdown().await.unwrap();
    let accepting = accepting(&db, &definition).await;
    accepting.attach(run.run_id().clone()).questions().await.unwrap()[0].approve().await.unwrap();
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.is_answered, told.is_interrupted), (WaitsFor::Worker, false, true));
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_for_a_process_that_has_its_workflow_and_others_do_not_count() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let accepting = accepting(&db, &definition).await;
    let run = accepting.submit(&definition.id, input("hi")).await.unwrap();
    settle().await;
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.on.as_deref(), told.is_interrupted), (WaitsFor::Worker, Some("example"), false));
    assert_eq!(told.reason, "no process executes runs of this database");
    let other = engine(&db, &named("Other")).await;
    settle().await;
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!(told.reason, "the one process that executes runs does not have the workflow example");
    let right = engine(&db, &definition).await;
    right.attach(run.run_id().clone()).wait().await.unwrap();
    assert_eq!(look_at(&db, Access::All, run.run_id(), now()).await, None);
    other.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_for_room_where_a_process_has_its_workflow_and_no_place() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let engine = engine_with(&db, &definition, Options { runs_max: 1, ..Options::default() }).await;
    engine.submit(&definition.id, input("hi")).await.unwrap();
    let second = engine.submit(&definition.id, input("hi")).await.unwrap();
    settle().await;
    let told = why(&db, second.run_id(), now()).await;
    assert_eq!((told.waits_for, told.remedy, told.is_interrupted), (WaitsFor::Room, None, false));
}

#[tokio::test(start_paused = true)]
async fn a_run_says_which_run_of_its_session_it_is_behind_and_why_that_one_is_not_over() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let engine = engine(&db, &definition).await;
    let first = engine.submit(&definition.id, in_session("hi", "s")).await.unwrap();
    let second = engine.submit(&definition.id, in_session("hi", "s")).await.unwrap();
    let beside = Submit { policy: Some(SessionPolicy::Parallel), ..in_session("hi", "s") };
    let beside = engine.submit(&definition.id, beside).await.unwrap();
    settle().await;
    let told = why(&db, second.run_id(), now()).await;
    assert_eq!((told.waits_for, told.on.as_deref()), (WaitsFor::Session, Some(first.run_id().as_str())));
    assert!(told.reason.contains("that one is running: a process is at step 1/1 a"), "{}", told.reason);
    assert_eq!(told.remedy, None);
    assert_eq!(why(&db, beside.run_id(), now()).await.waits_for, WaitsFor::Step);
    // With the process, what can be done changes.
    db.crash(&engine.worker());
    engine.kill();
    let told = why(&db, second.run_id(), now()).await;
    assert!(told.reason.contains("that one is interrupted: "), "{}", told.reason);
    assert_eq!((told.waits_for, told.remedy), (WaitsFor::Session, Some(Remedy::StartWorker)));
}

#[tokio::test(start_paused = true)]
async fn a_paused_run_says_what_a_person_must_decide_and_so_does_the_one_behind_it() {
    let db = InMemoryDb::new();
    let before = workflow([append("a", &Calls::default()), slow("b", HOUR)]);
    let first = engine(&db, &before).await;
    let run = first.submit(&before.id, in_session("hi", "s")).await.unwrap();
    let next = first.submit(&before.id, in_session("hi", "s")).await.unwrap();
    settle().await;
    first.kill();
    db.crash(&first.worker());
    let after = workflow([append("renamed", &Calls::default()), slow("b", HOUR)]);
    let second = engine(&db, &after).await;
    settle().await;
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.is_interrupted), (WaitsFor::Person, false));
    assert!(told.reason.contains("definition changed") && told.reason.contains("\"a\""), "{}", told.reason);
    let open = second.questions_of(run.run_id()).await.unwrap();
    let answer = Some(Remedy::Answer { question_id: open[0].question.id.clone() });
    assert_eq!((&told.remedy, told.on.as_deref()), (&answer, Some("renamed")));
    assert!(told.hint.as_ref().unwrap().contains("the definition it began with"));
    let behind = why(&db, next.run_id(), now()).await;
    assert_eq!((behind.waits_for, &behind.remedy), (WaitsFor::Session, &answer));
    assert_eq!(behind.on.as_deref(), Some(run.run_id().as_str()));
    assert!(behind.reason.contains("that one is paused: definition changed"), "{}", behind.reason);
    assert_eq!(behind.hint, told.hint);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_backs_off_says_until_when_and_after_which_failure() {
    for (wait, is_parked) in [(Duration::from_secs(60), true), (Duration::from_secs(2), false)] {
        let db = InMemoryDb::new();
        let step = Step::function("a", |_: StepContext, _: Arc<StepInput>| async {
            Err::<&str, _>(Failure::function("the kitchen is on fire"))
        });
        let definition = workflow([step.retry(Retry::times(9).backoff(wait))]);
        let engine = engine(&db, &definition).await;
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        settle().await;
        let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
        assert_eq!(stored.worker.is_none(), is_parked);
        let told = why(&db, run.run_id(), now()).await;
        assert_eq!((told.waits_for, told.on.as_deref(), told.is_interrupted), (WaitsFor::Time, Some("a"), false));
        assert!(told.until.is_some_and(|until| until > now()), "{told:?}");
        assert!(told.reason.contains("attempt 1 at step \"a\" failed (the kitchen is on fire)"), "{}", told.reason);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_crashed_its_workers_waits_for_its_turn_among_its_like() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let mut run_id = None;
    for _ in 0..2 {
        let engine = engine(&db, &definition).await;
        if run_id.is_none() {
            run_id = Some(engine.submit(&definition.id, input("hi")).await.unwrap().run_id().clone());
        }
        settle().await;
        engine.kill();
        db.crash(&engine.worker());
    }
    let run_id = run_id.unwrap();
    assert_eq!(why(&db, &run_id, now()).await.waits_for, WaitsFor::Worker);
    // Full, so that it is not tried at once.
    let options = Options { runs_max: 0, ..Options::default() };
    let _engine = engine_with(&db, &definition, options).await;
    db.heartbeat(worker_id(), now(), HOUR).await.unwrap();
    let claim = outlive_core::port::Claim {
        worker: worker_id(),
        workflows: Arc::from([definition.id.clone()]),
        limit: 0,
        suspect_claims: 2,
        suspects: false,
        at: now(),
    };
    db.claim(claim).await.unwrap();
    let told = why(&db, &run_id, now()).await;
    assert_eq!((told.waits_for, told.is_interrupted), (WaitsFor::Suspects, true));
    assert!(told.reason.starts_with("2 workers were lost"), "{}", told.reason);
}

fn worker_id() -> outlive_core::WorkerId {
    outlive_core::WorkerId::parse("full").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_end_was_asked_for_says_so_and_who_can_write_it_down() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let accepting = accepting(&db, &definition).await;
    let run = accepting.submit(&definition.id, input("hi")).await.unwrap();
    let intent = CancelIntent { at: now(), reason: Arc::from("closing time") };
    db.request_cancel(Access::All, run.run_id().clone(), intent).await.unwrap();
    let told = why(&db, run.run_id(), now()).await;
    assert_eq!((told.waits_for, told.is_interrupted), (WaitsFor::Cancel, false));
    assert!(told.reason.contains("closing time"), "{}", told.reason);
    assert_eq!(told.remedy, Some(Remedy::Cancel { run_id: run.run_id().clone() }));
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_see_the_run_in_front_learns_only_that_there_is_one() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", HOUR)]);
    let engine = engine(&db, &definition).await;
    let of = |user: &str| Submit { user_id: Some(user.to_owned()), ..in_session("hi", "s") };
    let adas = engine.submit(&definition.id, of("ada")).await.unwrap();
    let bobs = engine.submit(&definition.id, of("bob")).await.unwrap();
    settle().await;
    let bob = Access::User(Arc::from("bob"));
    let told = look_at(&db, bob, bobs.run_id(), now()).await.unwrap();
    assert_eq!((told.waits_for, told.on, told.remedy, told.hint), (WaitsFor::Session, None, None, None));
    assert!(!told.reason.contains(adas.run_id().as_str()), "{}", told.reason);
    assert_eq!(engine.get_run(adas.run_id()).await.unwrap().unwrap().status, RunStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_answer_is_not_what_a_run_at_work_is_doing() {
    let doubts = |name: &'static str| {
        Step::function(name, move |_, _| async move {
            Err::<String, _>(Failure::new(FailureKind::OutcomeUnknown, format!("nobody knows whether {name} ran")))
        })
    };
    let (db, clock) = (InMemoryDb::new(), now());
    let parallel = Parallel::new("par").step(slow("works", HOUR)).step(doubts("first")).step(doubts("second"));
    let definition = Arc::new(Definition::builder("Example").step(parallel).build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    settle().await;
    let told = why(&db, run.run_id(), clock).await;
    assert_eq!((told.waits_for, told.on.as_deref()), (WaitsFor::Step, Some("works")), "{}", told.reason);
    run.wait().await.unwrap();
    let told = why(&db, run.run_id(), clock).await;
    assert_eq!((told.waits_for, told.on.as_deref()), (WaitsFor::Person, Some("first")));
    assert_eq!(told.reason, "nobody knows whether first ran; 1 more question is open");
}

#[tokio::test(start_paused = true)]
async fn progress_names_what_is_at_work_at_any_attempt_and_not_what_waits() {
    let works = Step::function("works", |context: StepContext, input: Arc<StepInput>| async move {
        if context.step.attempt == 1 {
            return Err(Failure::function("not yet"));
        }
        tokio::time::sleep(HOUR).await;
        Ok(input.text())
    });
    let doubts = Step::function("doubts", |_, _| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Err::<String, _>(Failure::new(FailureKind::OutcomeUnknown, "nobody knows"))
    });
    let db = InMemoryDb::new();
    let works = works.retry(Retry::times(1).backoff(Duration::from_millis(1)));
    let parallel = Parallel::new("par").step(works).step(doubts);
    let definition = Arc::new(Definition::builder("Example").step(parallel).build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let progress = async || db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().progress;
    tokio::time::sleep(Duration::from_millis(3)).await;
    assert_eq!(progress().await.as_deref(), Some("1/1 par: works, doubts"));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(progress().await.as_deref(), Some("1/1 par: works"));
}
