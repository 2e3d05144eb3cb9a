//! Schedules: each due time is taken once, over all processes of a store, whatever dies and whatever clocks do.

use crate::stage::{Calls, append, engine_with, input, slow, workflow};
use outlive_core::port::{Access, Clock, DbErrorKind, RunFilter, RunStore, ScheduleFilter, StoredTick, TickOutcome};
use outlive_core::{Definition, Failure, HumanReview, InputSchema, RunStatus, Step, StepInput, Timestamp};
use outlive_db::{Fault, InMemoryDb, Operation};
use outlive_engine::testing::{SimulatedClock, TroubledDb, poll_and_drop};
use outlive_engine::{CatchUp, CreateSchedule, Engine, Error, Options, Overlap, ScheduleHandle, ScheduleSpec, Submit};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A clock that somebody sets.
#[derive(Clone)]
struct SetClock(SimulatedClock, Arc<AtomicI64>);

impl SetClock {
    fn start() -> Self {
        Self(SimulatedClock::start(), Arc::default())
    }

    fn set_by(&self, seconds: i64) {
        self.1.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.now().as_micros() + self.1.load(Ordering::Relaxed))
    }
}

fn options() -> Options {
    Options { scan_period: Duration::from_millis(200), ..Options::default() }
}

async fn start(db: impl outlive_core::port::Db, definition: &Arc<Definition>, clock: &SetClock) -> Engine {
    let builder = Engine::builder(Arc::new(db)).options(options()).clock(Arc::new(clock.clone()));
    builder.workflow(definition.clone()).start().await.unwrap()
}

fn spec(cron: &str) -> ScheduleSpec {
    ScheduleSpec { input: Some(Value::from("tick")), overlap: Overlap::Allow, ..ScheduleSpec::new(cron) }
}

async fn create(engine: &Engine, definition: &Definition, spec: ScheduleSpec) -> ScheduleHandle {
    engine.create_schedule(&definition.id, CreateSchedule::new(spec)).await.unwrap()
}

/// The last times of a schedule that were taken, oldest first: what clocks showed, and what came of it.
async fn ticks(engine: &Engine, id: &str) -> Vec<(String, TickOutcome)> {
    let ticks = engine.schedule_ticks(id, None, 1_000).await.unwrap();
    ticks.iter().rev().map(|tick| (tick.due_at.to_rfc3339()[11..19].to_owned(), tick.outcome)).collect()
}

async fn all_runs(db: &InMemoryDb) -> Vec<outlive_core::port::Run> {
    let mut filter = RunFilter { limit: 1_000, order: outlive_core::port::Order::OldestFirst, ..RunFilter::default() };
    let mut runs = Vec::new();
    loop {
        let page = db.runs(Access::All, filter.clone()).await.unwrap();
        runs.extend(page.runs);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return runs,
        }
    }
}

/// The seconds in which runs were accepted, each once.
fn seconds(runs: &[outlive_core::port::Run]) -> BTreeSet<i64> {
    let seconds: Vec<i64> = runs.iter().map(|run| run.created_at.as_seconds()).collect();
    let once: BTreeSet<i64> = seconds.iter().copied().collect();
    assert_eq!(once.len(), seconds.len(), "a time was taken twice: {seconds:?}");
    once
}

#[tokio::test(start_paused = true)]
async fn two_processes_take_each_of_thousands_of_times_once() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let clock = SetClock::start();
    let one = start(db.clone(), &definition, &clock).await;
    let other = start(db.another_process(), &definition, &clock).await;
    let every_second = create(&one, &definition, spec("* * * * * *")).await;
    let began = clock.now().as_seconds();
    tokio::time::sleep(2_000 * SECOND + SECOND / 2).await;
    assert!(every_second.pause().await.unwrap().is_paused());
    tokio::time::sleep(10 * SECOND).await;
    let runs = all_runs(&db).await;
    let expected: BTreeSet<i64> = (1..=2_000).map(|second| began + second).collect();
    assert_eq!(seconds(&runs), expected);
    assert_eq!(calls.count(), 2_000);
    let kept = other.schedule_ticks(&every_second.id, None, 1_000).await.unwrap();
    let run_ids: BTreeSet<_> = kept.iter().filter_map(|tick| tick.run_id.clone()).collect();
    assert_eq!((kept.len(), run_ids.len()), (1_000, 1_000), "as many are kept");
    let known: BTreeSet<_> = runs.iter().map(|run| run.info.run_id.clone()).collect();
    assert!(run_ids.is_subset(&known));
    let shown = other.reader().schedule(&every_second.name).await.unwrap();
    assert_eq!((shown.runs, shown.last_due), (2_000, Some(Timestamp::from_seconds(began + 2_000))));
    assert_eq!(shown.last_run, runs.last().map(|run| run.info.run_id.clone()));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_and_loses_replies_loses_no_time_and_doubles_none() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let clock = SetClock::start();
    let one = start(db.clone(), &definition, &clock).await;
    let beside = db.another_process();
    let other = start(beside.clone(), &definition, &clock).await;
    for (db, every) in [(&db, 3), (&beside, 5)] {
        let count = Arc::new(AtomicUsize::new(0));
        db.faults(Arc::new(move |operation| {
            let is_meant = matches!(operation, Operation::CreateRun | Operation::Tick);
            let count = if is_meant { count.fetch_add(1, Ordering::Relaxed) } else { 1 };
            match (count % every, count % 2) {
                (0, 0) => Some(Fault::Refuse(DbErrorKind::Busy)),
                (0, _) => Some(Fault::LoseReply),
                _ => None,
            }
        }));
    }
    let schedule = create(&one, &definition, spec("*/2 * * * * *")).await;
    let began = clock.now().as_seconds();
    tokio::time::sleep(400 * SECOND).await;
    schedule.pause().await.unwrap();
    // What was accepted without its worker's knowledge is found at the heartbeat.
    tokio::time::sleep(MINUTE).await;
    let expected: BTreeSet<i64> = (1..=400).map(|second| began + second).filter(|second| second % 2 == 0).collect();
    let taken = ticks(&other, &schedule.id).await;
    assert!(taken.iter().all(|(_, outcome)| *outcome == TickOutcome::Ran));
    assert_eq!((taken.len(), calls.count()), (expected.len(), expected.len()));
    let runs = all_runs(&db).await;
    assert_eq!(runs.len(), expected.len());
    assert!(runs.iter().all(|run| run.status == RunStatus::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_at_any_point_of_a_tick_loses_no_time_and_doubles_none() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let clock = SetClock::start();
    let first = start(db.clone(), &definition, &clock).await;
    let schedule = create(&first, &definition, spec("*/10 * * * * *")).await;
    let began = clock.now().as_seconds();
    first.kill();
    db.crash(&first.worker());
    for polls in 0..60 {
        let yielding = TroubledDb::yielding(Arc::new(db.clone()));
        let builder = Engine::builder(yielding).options(options()).clock(Arc::new(clock.clone()));
        let engine = builder.workflow(definition.clone()).start().await.unwrap();
        let due = engine.reader().schedule(&schedule.id).await.unwrap().next_due.unwrap();
        tokio::time::sleep(due.since(clock.now())).await;
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        engine.kill();
        db.crash(&engine.worker());
        drop(engine);
        tokio::task::yield_now().await;
    }
    let last = start(db.clone(), &definition, &clock).await;
    tokio::time::sleep(25 * SECOND).await;
    let last_due = last.reader().schedule(&schedule.id).await.unwrap().last_due.unwrap().as_seconds();
    let expected = (began + 1..=last_due).filter(|second| second % 10 == 0).count();
    let taken = last.schedule_ticks(&schedule.id, None, 1_000).await.unwrap();
    assert!(taken.iter().all(|tick: &StoredTick| tick.outcome == TickOutcome::Ran), "{taken:#?}");
    let runs = all_runs(&db).await;
    assert_eq!((taken.len(), runs.len()), (expected, expected));
    assert!(expected >= 20);
    assert!(runs.iter().all(|run| run.status == RunStatus::Completed));
}

#[tokio::test(start_paused = true)]
async fn whoever_creates_a_schedule_and_goes_away_has_created_it_once_or_not_at_all() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let builder = Engine::builder(TroubledDb::yielding(Arc::new(db.clone()))).options(options());
    let engine = builder.workflow(definition.clone()).start().await.unwrap();
    for polls in 0..8 {
        let create = CreateSchedule::new(spec("@daily"));
        poll_and_drop(engine.create_schedule(&definition.id, create), polls).await;
    }
    let schedule = create(&engine, &definition, spec("@daily")).await;
    let listed = engine.schedules(ScheduleFilter::default()).await.unwrap().schedules;
    assert_eq!(listed, [(*schedule).clone()]);
    for polls in 0..12 {
        poll_and_drop(schedule.trigger(), polls).await;
    }
    tokio::time::sleep(SECOND).await;
    let runs = all_runs(&db).await;
    assert!(runs.iter().all(|run| run.status == RunStatus::Completed) && !runs.is_empty());
}

/// Nobody is there for a while; then somebody is. What came of the times, and how many runs there are.
async fn after_a_break(policy: CatchUp, length: Duration) -> (Vec<(String, TickOutcome)>, Vec<String>, usize) {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    // At 03:27:47.
    let clock = SetClock::start();
    let engine = start(db.clone(), &definition, &clock).await;
    let schedule = create(&engine, &definition, ScheduleSpec { catch_up: policy, ..spec("* * * * *") }).await;
    engine.kill();
    db.crash(&engine.worker());
    tokio::time::sleep(length).await;
    let heir = start(db.clone(), &definition, &clock).await;
    tokio::time::sleep(SECOND).await;
    let taken = ticks(&heir, &schedule.id).await;
    let notes = heir.schedule_ticks(&schedule.id, None, 1_000).await.unwrap();
    let notes = notes.iter().filter_map(|tick| tick.note.as_deref().map(str::to_owned)).collect();
    // From then on, all is as ever.
    let before = calls.count();
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(calls.count(), before + 2);
    (taken, notes, before)
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_left_out_made_up_for_once_or_one_by_one() {
    use TickOutcome::{Missed, Ran};
    let at = |text: &str, outcome| (text.to_owned(), outcome);
    // Until 03:37:57: the time before is not yet missed.
    let length = 10 * MINUTE + 10 * SECOND;
    let (taken, notes, runs) = after_a_break(CatchUp::Skip, length).await;
    assert_eq!((taken, runs), (vec![at("03:36:00", Missed), at("03:37:00", Ran)], 1));
    assert_eq!(notes, ["nobody was there to take it and 8 before, since 2026-11-23T03:28:00Z"]);
    let (taken, _, runs) = after_a_break(CatchUp::One, length).await;
    assert_eq!((taken, runs), (vec![at("03:36:00", Missed), at("03:37:00", Ran)], 1));
    let (taken, notes, runs) = after_a_break(CatchUp::All, length).await;
    let expected: Vec<_> = (28..=37).map(|minute| at(&format!("03:{minute}:00"), Ran)).collect();
    assert_eq!((taken, runs), (expected, 10));
    assert_eq!(notes, Vec::<String>::new());
    // Bounded, and the rest is counted.
    let (taken, notes, runs) = after_a_break(CatchUp::All, 3 * HOUR).await;
    assert_eq!((taken.len(), runs, taken[0].clone()), (101, 100, at("04:47:00", Missed)));
    assert_eq!(notes, ["nobody was there to take it and 79 before, since 2026-11-23T03:28:00Z"]);
    let (_, notes, runs) = after_a_break(CatchUp::All, 400 * HOUR).await;
    assert_eq!(runs, 100);
    assert!(notes[0].contains("1000 or more before"), "{notes:?}");
    // A time of long ago, alone.
    let usual = ScheduleSpec::new("@daily").catch_up;
    for (policy, expected) in [(CatchUp::Skip, 0), (CatchUp::One, 1), (CatchUp::All, 1), (usual, 1)] {
        let (db, calls) = (InMemoryDb::new(), Calls::default());
        let definition = workflow([append("a", &calls)]);
        let clock = SetClock::start();
        let engine = start(db.clone(), &definition, &clock).await;
        create(&engine, &definition, ScheduleSpec { catch_up: policy, ..spec("0 4 * * *") }).await;
        engine.kill();
        db.crash(&engine.worker());
        tokio::time::sleep(5 * HOUR).await;
        let _heir = start(db.clone(), &definition, &clock).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(calls.count(), expected, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_long_is_in_the_way_of_the_next_holds_it_up_or_is_not() {
    use TickOutcome::{Ran, Skipped};
    for (overlap, expected) in [
        (Overlap::Skip, [Ran, Skipped, Skipped, Ran, Skipped, Skipped]),
        (Overlap::Queue, [Ran; 6]),
        (Overlap::Allow, [Ran; 6]),
    ] {
        let db = InMemoryDb::new();
        let definition = workflow([slow("a", 150 * SECOND)]);
        let clock = SetClock::start();
        let engine = start(db.clone(), &definition, &clock).await;
        let schedule = create(&engine, &definition, ScheduleSpec { overlap, ..spec("* * * * *") }).await;
        tokio::time::sleep(6 * MINUTE).await;
        schedule.pause().await.unwrap();
        let taken = ticks(&engine, &schedule.id).await;
        assert_eq!(taken.iter().map(|(_, outcome)| *outcome).collect::<Vec<_>>(), expected, "{overlap:?}");
        tokio::time::sleep(HOUR).await;
        let runs = all_runs(&db).await;
        assert!(runs.iter().all(|run| run.status == RunStatus::Completed));
        let mut lengths = Vec::new();
        for run in &runs {
            lengths.push(run.updated_at.since(run.created_at).as_secs());
        }
        let sessions: BTreeSet<_> = runs.iter().map(|run| run.info.session_id.clone()).collect();
        match overlap {
            Overlap::Queue => assert_eq!((lengths, sessions.len()), (vec![150, 240, 330, 420, 510, 600], 1)),
            Overlap::Skip => assert_eq!((lengths, sessions.len()), (vec![150, 150], 2)),
            Overlap::Allow => assert_eq!((lengths, sessions.len()), (vec![150; 6], 6)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_a_person_is_in_nobodys_way_but_that_of_its_session() {
    for (overlap, paused, pending) in [(Overlap::Skip, 5, 0), (Overlap::Queue, 1, 4)] {
        let db = InMemoryDb::new();
        let definition = workflow([append("a", &Calls::default()).human_review(HumanReview::confirmation("Go on?"))]);
        let clock = SetClock::start();
        let engine = start(db.clone(), &definition, &clock).await;
        create(&engine, &definition, ScheduleSpec { overlap, ..spec("* * * * *") }).await;
        tokio::time::sleep(5 * MINUTE).await;
        let counted = db.unfinished(100).await.unwrap();
        assert_eq!((counted.paused, counted.queued), (paused, pending), "{overlap:?}");
    }
    // Not for ever.
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default()).human_review(HumanReview::confirmation("Go on?"))]);
    let clock = SetClock::start();
    let engine = start(db.clone(), &definition, &clock).await;
    let queue = ScheduleSpec { overlap: Overlap::Queue, ..spec("*/10 * * * * *") };
    let schedule = create(&engine, &definition, queue).await;
    tokio::time::sleep(30 * MINUTE).await;
    let counted = db.unfinished(1_000).await.unwrap();
    assert_eq!((counted.paused, counted.queued), (1, 99));
    assert_eq!(ticks(&engine, &schedule.id).await.last().unwrap().1, TickOutcome::Skipped);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_doubles_no_time() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let clock = SetClock::start();
    let engine = start(db.clone(), &definition, &clock).await;
    let schedule = create(&engine, &definition, ScheduleSpec { catch_up: CatchUp::All, ..spec("*/5 * * * *") }).await;
    tokio::time::sleep(30 * MINUTE).await;
    assert_eq!(calls.count(), 6);
    // Back: what it shows again has been taken.
    clock.set_by(-1_200);
    tokio::time::sleep(19 * MINUTE).await;
    assert_eq!(calls.count(), 6);
    tokio::time::sleep(11 * MINUTE).await;
    assert_eq!(calls.count(), 8);
    // Also when it is found anew.
    clock.set_by(-1_200);
    schedule.pause().await.unwrap();
    schedule.resume().await.unwrap();
    tokio::time::sleep(30 * MINUTE).await;
    assert_eq!(calls.count(), 10);
    // On: what it skips is caught up with.
    clock.set_by(3_600);
    tokio::time::sleep(SECOND).await;
    assert_eq!(calls.count(), 22);
    let taken = ticks(&engine, &schedule.id).await;
    let times: BTreeSet<&String> = taken.iter().map(|(time, _)| time).collect();
    assert_eq!(times.len(), taken.len());
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_paused_resumed_triggered_replaced_and_deleted() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let clock = SetClock::start();
    let engine = start(db.clone(), &definition, &clock).await;
    let named = |spec: ScheduleSpec, replaces: bool| CreateSchedule {
        name: Some("hourly".to_owned()),
        replaces,
        ..CreateSchedule::new(spec)
    };
    let schedule = engine.create_schedule(&definition.id, named(spec("@hourly"), false)).await.unwrap();
    assert_eq!(schedule.next_due.map(Timestamp::to_rfc3339).as_deref(), Some("2026-11-23T04:00:00Z"));
    tokio::time::sleep(HOUR).await;
    assert_eq!(calls.count(), 1);
    // A pause that lasts over a time makes it none that was missed.
    assert!(schedule.pause().await.unwrap().is_paused());
    tokio::time::sleep(HOUR).await;
    let run = schedule.trigger().await.unwrap();
    assert_eq!(run.await.unwrap().text(), "tick a");
    let resumed = schedule.resume().await.unwrap();
    assert_eq!(resumed.next_due.map(Timestamp::to_rfc3339).as_deref(), Some("2026-11-23T06:00:00Z"));
    assert_eq!(schedule.resume().await.unwrap().next_due, resumed.next_due);
    tokio::time::sleep(HOUR).await;
    assert_eq!(calls.count(), 3);
    let outcomes: Vec<_> = schedule.ticks(10).await.unwrap().iter().map(|tick| tick.outcome).collect();
    assert_eq!(outcomes, [TickOutcome::Ran, TickOutcome::Triggered, TickOutcome::Ran]);
    // The same again is the one that is there; another needs to be meant.
    let same = engine.create_schedule(&definition.id, named(spec("@hourly"), false)).await.unwrap();
    assert_eq!((&same.id, same.runs), (&schedule.id, 3));
    let other = engine.create_schedule(&definition.id, named(spec("*/2 * * * *"), false)).await.unwrap_err();
    assert!(matches!(&other, Error::Conflict(_)) && other.to_string().contains("replace it"), "{other}");
    let replaced = engine.create_schedule(&definition.id, named(spec("*/2 * * * *"), true)).await.unwrap();
    assert_eq!((&replaced.id, replaced.spec.cron.as_str()), (&schedule.id, "*/2 * * * *"));
    tokio::time::sleep(4 * MINUTE).await;
    assert_eq!(calls.count(), 5);
    replaced.delete().await.unwrap();
    assert!(matches!(replaced.delete().await.unwrap_err(), Error::ScheduleNotFound(_)));
    assert!(matches!(replaced.trigger().await.unwrap_err(), Error::ScheduleNotFound(_)));
    assert!(matches!(engine.schedule("hourly").await.unwrap_err(), Error::ScheduleNotFound(_)));
    tokio::time::sleep(HOUR).await;
    assert_eq!((calls.count(), all_runs(&db).await.len()), (5, 5), "the runs stay");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_cannot_be_is_refused_with_its_reason() {
    let db = InMemoryDb::new();
    let schema = InputSchema::new(serde_json::json!({"type": "integer"}), |input| match input {
        Value::Number(number) => Ok(Value::Number(number)),
        _ => Err("it is no number".to_owned()),
    });
    let step = append("a", &Calls::default());
    let definition = Arc::new(Definition::builder("Example").step(step).input_schema(schema).build().unwrap());
    let engine = engine_with(&db, &definition, options()).await;
    let good = ScheduleSpec { input: Some(Value::from(7)), ..ScheduleSpec::new("@daily") };
    let try_with = async |spec: ScheduleSpec, name: Option<&str>| {
        let create = CreateSchedule { name: name.map(str::to_owned), ..CreateSchedule::new(spec) };
        engine.create_schedule(&definition.id, create).await
    };
    let zone = ScheduleSpec { time_zone: "Mars/Olympus".to_owned(), ..good.clone() };
    let never = ScheduleSpec { cron: "0 0 30 2 *".to_owned(), ..good.clone() };
    let bad = ScheduleSpec { cron: "0 25 * * *".to_owned(), ..good.clone() };
    let long = "n".repeat(201);
    for (spec, name, field, part) in [
        (zone, None, "time_zone", "is not a time zone"),
        (never, None, "cron", "never comes"),
        (bad, None, "cron", "at character 3"),
        (good.clone(), Some(" "), "name", "empty"),
        (good.clone(), Some("a\nb"), "name", "control characters"),
        (good.clone(), Some(long.as_str()), "name", "201 characters"),
    ] {
        let Err(Error::InvalidSchedule { field: named, problem }) = try_with(spec, name).await else {
            panic!("{part} is accepted");
        };
        assert_eq!(named, field);
        assert!(problem.contains(part), "{problem}");
    }
    let input = ScheduleSpec { input: Some(Value::from("seven")), ..good.clone() };
    assert!(matches!(try_with(input, None).await.unwrap_err(), Error::Input(_)));
    let session = ScheduleSpec { session_id: Some("a b".to_owned()), ..good.clone() };
    assert!(matches!(try_with(session, None).await.unwrap_err(), Error::InvalidId(_)));
    let unknown = outlive_core::DefinitionId::parse("nothing").unwrap();
    let refused = engine.create_schedule(&unknown, CreateSchedule::new(good.clone())).await.unwrap_err();
    assert!(matches!(refused, Error::UnknownWorkflow(_)));
    assert_eq!(&*try_with(good, None).await.unwrap().name, "example @daily");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_refused_for_good_is_recorded_and_the_schedule_goes_on() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let clock = SetClock::start();
    let engine = start(db.clone(), &definition, &clock).await;
    // The session will be somebody else's.
    let ada = engine.for_user("ada");
    let in_session = ScheduleSpec { session_id: Some("s".to_owned()), ..spec("* * * * *") };
    let schedule = create(&ada, &definition, in_session).await;
    let bob = Submit { session_id: Some("s".to_owned()), user_id: Some("bob".to_owned()), ..input("hi") };
    engine.submit(&definition.id, bob).await.unwrap();
    tokio::time::sleep(2 * MINUTE).await;
    let ticks = schedule.ticks(10).await.unwrap();
    assert_eq!(ticks.iter().map(|tick| tick.outcome).collect::<Vec<_>>(), [TickOutcome::Failed; 2]);
    assert_eq!(ticks[0].note.as_deref(), Some("there is no session s"));
    assert_eq!(calls.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_its_users_and_so_are_its_runs() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let clock = SetClock::start();
    let engine = start(db.clone(), &definition, &clock).await;
    let (ada, bob) = (engine.for_user("ada"), engine.for_user("bob"));
    let named = || CreateSchedule { name: Some("mine".to_owned()), ..CreateSchedule::new(spec("@hourly")) };
    let adas = ada.create_schedule(&definition.id, named()).await.unwrap();
    let bobs = bob.create_schedule(&definition.id, named()).await.unwrap();
    let nobodys = engine.create_schedule(&definition.id, named()).await.unwrap();
    assert!(adas.id != bobs.id && nobodys.id != adas.id);
    let foreign = CreateSchedule { user_id: Some("ada".to_owned()), ..named() };
    assert!(matches!(bob.create_schedule(&definition.id, foreign).await.unwrap_err(), Error::ScheduleNotFound(_)));
    assert!(matches!(bob.schedule(&adas.id).await.unwrap_err(), Error::ScheduleNotFound(_)));
    assert_eq!(bob.schedule("mine").await.unwrap().id, bobs.id);
    assert!(matches!(engine.schedule("mine").await.unwrap_err(), Error::InvalidSchedule { field: "name", .. }));
    assert_eq!(ada.schedules(ScheduleFilter::default()).await.unwrap().schedules.len(), 1);
    assert_eq!(engine.schedules(ScheduleFilter::default()).await.unwrap().schedules.len(), 3);
    assert!(bob.schedule_ticks(&adas.id, None, 10).await.unwrap().is_empty());
    tokio::time::sleep(HOUR).await;
    assert_eq!(ada.runs(RunFilter::default()).await.unwrap().runs.len(), 1);
    let owners: Vec<_> = all_runs(&db).await.iter().map(|run| run.info.user_id.as_deref().map(str::to_owned)).collect();
    assert_eq!(owners.len(), 3);
    assert!(owners.contains(&Some("ada".to_owned())) && owners.contains(&None));
}

#[tokio::test(start_paused = true)]
async fn nobody_takes_the_times_of_a_workflow_it_does_not_execute() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let other = Arc::new(Definition::builder("Other").step(append("b", &calls)).build().unwrap());
    let clock = SetClock::start();
    let idle = engine_with(&db, &definition, Options { execute: false, ..options() }).await;
    let schedule = create(&idle, &definition, ScheduleSpec { catch_up: CatchUp::All, ..spec("* * * * *") }).await;
    let stranger = start(db.another_process(), &other, &clock).await;
    tokio::time::sleep(5 * MINUTE).await;
    assert!(ticks(&stranger, &schedule.id).await.is_empty());
    // It learns of the workflow.
    stranger.register(definition.clone());
    tokio::time::sleep(SECOND).await;
    assert_eq!(calls.count(), 5);
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_schedules_due_at_once_make_one_run_each() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let count = calls.clone();
    let step = Step::function("count", move |_, input: Arc<StepInput>| {
        count.note();
        async move { Ok::<_, Failure>(input.text()) }
    });
    let definition = workflow([step]);
    let clock = SetClock::start();
    let one = start(db.clone(), &definition, &clock).await;
    let _other = start(db.another_process(), &definition, &clock).await;
    const MANY: usize = 600;
    for number in 0..MANY {
        let create = CreateSchedule { name: Some(format!("s{number}")), ..CreateSchedule::new(spec("28 3 * * *")) };
        one.create_schedule(&definition.id, create).await.unwrap();
    }
    tokio::time::sleep(MINUTE).await;
    assert_eq!((calls.count(), all_runs(&db).await.len()), (MANY, MANY));
    let shown = one.reader().schedule("s599").await.unwrap();
    assert_eq!((shown.runs, shown.next_due.map(Timestamp::to_rfc3339).as_deref()), (1, Some("2026-11-24T03:28:00Z")));
}
