//! Callers that go away at any await: what was accepted ends all the same, nothing stays held, no session and no key leads
//! nowhere.

use crate::stage::input;
use futures::future::BoxFuture;
use outlive_core::port::{
    Access, AuditFilter, BatchFilter, BudgetFilter, BudgetRaise, Db, HookEvents, HookMove, HookState, ItemFilter,
    NewHook, NewSession, QuestionFilter, RunFilter, RunStore, ScheduleFilter, SessionFilter, SessionKind, SessionPatch,
    StepContext,
};
use outlive_core::{
    Answer, Condition, Definition, Failure, HumanReview, Loop, Parallel, RunId, RunStatus, SessionId, Step, StepInput,
    Timestamp,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{SimulatedClock, TroubledDb, broken_invariants, poll_and_drop, read_log};
use outlive_engine::{
    BatchHandle, Bulk, BulkVerb, CreateBatch, CreateSchedule, Engine, Fork, OpenQuestion, Options, Prune, RunHandle,
    ScheduleHandle, ScheduleSpec, Submit,
};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Something a caller may ask of an engine and leave before it has the answer.
type Call = fn(Engine, Arc<Definition>) -> BoxFuture<'static, ()>;

/// Each with how many runs there is room for: one executes and another waits, unless there is more.
const CALLS: &[(&str, usize, Call)] = &[
    ("submit", 3, |engine, definition| Box::pin(async move { drop(engine.submit(&definition.id, asked()).await) })),
    ("wait", 3, |engine, definition| {
        Box::pin(async move {
            if let Ok(run) = engine.submit(&definition.id, asked()).await {
                drop(run.wait().await);
            }
        })
    }),
    ("events", 3, |engine, definition| {
        Box::pin(async move {
            let Ok(run) = engine.submit(&definition.id, asked()).await else { return };
            let mut events = run.events(None);
            while let Ok(Some(_)) = events.next().await {}
        })
    }),
    ("cancel", 1, |engine, _| Box::pin(async move { drop(engine.cancel(&executing(), "left").await) })),
    ("cancel what waits", 1, |engine, _| Box::pin(async move { drop(engine.cancel(&waiting(), "left").await) })),
    ("delete a session", 1, |engine, _| {
        Box::pin(async move { drop(engine.delete_sessions(vec![session("executing")], true).await) })
    }),
    ("create a session", 1, |engine, _| Box::pin(async move { drop(engine.create_session(new_session()).await) })),
    ("change a session", 1, |engine, _| {
        Box::pin(async move { drop(engine.update_session(&session("executing"), SessionPatch::default()).await) })
    }),
    ("read", 1, |engine, _| {
        Box::pin(async move {
            drop(engine.get_run(&executing()).await);
            drop(engine.standing(&executing()).await);
            drop(engine.runs(RunFilter::default()).await);
            drop(engine.stored_events(&executing(), 0, 10).await);
            drop(engine.workers().await);
        })
    }),
];

fn executing() -> RunId {
    RunId::parse("executing").unwrap()
}

fn waiting() -> RunId {
    RunId::parse("waiting").unwrap()
}

fn session(id: &str) -> SessionId {
    SessionId::parse(id).unwrap()
}

fn new_session() -> NewSession {
    NewSession {
        session_id: session("made"),
        kind: SessionKind::Workflow,
        name: None,
        user_id: None,
        workflow_id: None,
        state: Map::new(),
        metadata: Map::new(),
        at: Timestamp::default(),
    }
}

/// What the caller submits, always under the same key, in the same session.
fn asked() -> Submit {
    Submit { session_id: Some("asked".to_owned()), idempotency_key: Some("asked".to_owned()), ..input("asked") }
}

fn named(id: &str, session: &str) -> Submit {
    Submit { run_id: Some(id.to_owned()), session_id: Some(session.to_owned()), ..input("hi") }
}

fn definition() -> Arc<Definition> {
    let step = |name| {
        Step::function(name, |_, input: Arc<StepInput>| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<_, Failure>(input.text())
        })
    };
    let holds = Condition::new("holds").when(|_| true).step(step("c"));
    let again = Loop::new("again").step(step("d")).max_iterations(2).until(|_| true);
    let calls = Step::function("e", |context: StepContext, input: Arc<StepInput>| async move {
        let text: String = context.once("call", || async { Ok(input.text()) }).await?;
        context.sleep("rest", Duration::from_millis(100)).await?;
        Ok::<_, Failure>(text)
    });
    let parallel = Parallel::new("parallel").step(step("b")).step(holds).step(again).step(calls);
    Arc::new(Definition::builder("Example").step(step("a")).step(parallel).build().unwrap())
}

async fn start(db: &InMemoryDb, definition: &Arc<Definition>, options: Options) -> Engine {
    let db = TroubledDb::yielding(Arc::new(db.clone()));
    let builder = Engine::builder(db).workflow(definition.clone()).options(options);
    builder.clock(Arc::new(SimulatedClock::start())).start().await.unwrap()
}

/// With room for one run, the first executes and the second waits for it in the store.
async fn stage(db: &InMemoryDb, definition: &Arc<Definition>, runs_max: usize) -> Engine {
    let engine = start(db, definition, Options { runs_max, ..Options::default() }).await;
    engine.submit(&definition.id, named("executing", "executing")).await.unwrap();
    engine.submit(&definition.id, named("waiting", "waiting")).await.unwrap();
    engine
}

/// Everything accepted ends, soon, and nothing is held afterwards.
async fn settles(db: &InMemoryDb, engine: &Engine, definition: &Arc<Definition>, place: &str) {
    let again = engine.submit(&definition.id, asked()).await.unwrap();
    let begun = Instant::now();
    for run in engine.runs(RunFilter::default()).await.unwrap().runs {
        let run_id = run.info.run_id;
        let ended = tokio::time::timeout(60 * SECOND, engine.attach(run_id.clone()).wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{place}: {run_id} does not end")).unwrap();
        let log = read_log(db, &run_id).await;
        assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new(), "{place}");
    }
    assert!(begun.elapsed() < 4 * SECOND, "{place}: somebody had to look for a run: {:?}", begun.elapsed());
    assert_eq!(again.wait().await.unwrap().status, RunStatus::Completed, "{place}: the key");
    let next = engine.submit(&definition.id, named("next", "asked")).await.unwrap();
    assert_eq!(next.wait().await.unwrap().status, RunStatus::Completed, "{place}: the session");
    let held: u64 = engine.workers().await.unwrap().iter().map(|worker| worker.runs).sum();
    assert_eq!(held, 0, "{place}: a lease is stuck");
    engine.shutdown().await.unwrap();
    assert_eq!(db.workers(Some(Access::All)).await.unwrap(), [], "{place}: a worker is left");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_may_go_away_at_any_await() {
    for (name, runs_max, call) in CALLS {
        for times in 0.. {
            let (db, definition) = (InMemoryDb::new(), definition());
            let engine = stage(&db, &definition, *runs_max).await;
            let finished = poll_and_drop(call(engine.clone(), definition.clone()), times).await;
            settles(&db, &engine, &definition, &format!("{name}, dropped after {times} polls")).await;
            if finished.is_some() || times == 60 {
                assert!(times > 1, "{name} waits for nothing");
                break;
            }
        }
    }
}

/// What callers change: a run that asks, one that has ended and tells a webhook, a batch of two with one item that failed, and
/// a schedule that is not due for long.
#[derive(Clone)]
struct Made {
    engine: Engine,
    definition: Arc<Definition>,
    question: OpenQuestion,
    ended: RunHandle,
    batch: BatchHandle,
    schedule: ScheduleHandle,
}

/// A change, dropped and then made once more: how many runs it has made then, where that is certain.
type Change = (&'static str, Option<usize>, fn(Made) -> BoxFuture<'static, ()>);

const CHANGES: &[Change] = &[
    ("answer", Some(0), |made| {
        Box::pin(async move {
            let answers = [(made.question.id().clone(), Answer::Approve)];
            drop(made.engine.answer(answers, Some(Arc::from("ada"))).await);
        })
    }),
    ("approve", Some(0), |made| Box::pin(async move { drop(made.question.approve().await) })),
    ("reject", Some(0), |made| Box::pin(async move { drop(made.question.reject("no").await) })),
    ("answers of other kinds", Some(0), |made| {
        Box::pin(async move {
            drop(made.question.input([("size", Value::from(3))]).await);
            drop(made.question.edit("new").await);
            drop(made.question.choose(["a"]).await);
            drop(made.question.retry().await);
            drop(made.question.skip().await);
            drop(made.question.result("known").await);
        })
    }),
    ("cancel what asks", Some(0), |made| {
        Box::pin(async move { drop(made.engine.cancel(&made.question.run_id, "left").await) })
    }),
    ("bulk cancel", Some(0), |made| Box::pin(async move { drop(made.engine.bulk(&all_of(BulkVerb::Cancel)).await) })),
    ("bulk rerun", Some(1), |made| Box::pin(async move { drop(made.engine.bulk(&all_of(BulkVerb::Rerun)).await) })),
    ("bulk retry", Some(1), |made| Box::pin(async move { drop(made.engine.bulk(&all_of(BulkVerb::Retry)).await) })),
    ("bulk one", Some(1), |made| {
        Box::pin(async move {
            let Ok(Some(run)) = made.engine.record(made.ended.run_id()).await else { return };
            made.engine.bulk_one(&all_of(BulkVerb::Rerun), run).await;
        })
    }),
    ("retry failed items", Some(1), |made| Box::pin(async move { drop(made.batch.retry_failed().await) })),
    ("retry items", Some(1), |made| {
        Box::pin(async move {
            let failed = ItemFilter { statuses: vec![RunStatus::Error], ..ItemFilter::default() };
            drop(made.batch.retry_items(failed).await);
        })
    }),
    ("cancel a batch", Some(0), |made| Box::pin(async move { drop(made.batch.cancel("left").await) })),
    ("create a batch", Some(2), |made| {
        Box::pin(async move { drop(batch(&made.engine, &made.definition, "more").await) })
    }),
    ("rerun", None, |made| Box::pin(async move { drop(made.ended.rerun().await) })),
    ("fork", Some(1), |made| {
        Box::pin(async move {
            let fork = Fork { idempotency_key: Some("key".to_owned()), ..Fork::at("a") };
            drop(made.engine.fork(made.ended.run_id(), fork).await);
        })
    }),
    ("fork a handle's run", Some(1), |made| {
        Box::pin(async move { drop(made.ended.fork("a").idempotency_key("key").background().await) })
    }),
    ("create a schedule", Some(0), |made| {
        Box::pin(async move { drop(yearly(&made.engine, &made.definition, "other").await) })
    }),
    ("pause a schedule", Some(0), |made| Box::pin(async move { drop(made.schedule.pause().await) })),
    ("resume a schedule", Some(0), |made| Box::pin(async move { drop(made.schedule.resume().await) })),
    ("trigger a schedule", None, |made| Box::pin(async move { drop(made.schedule.trigger().await) })),
    ("delete a schedule", Some(0), |made| Box::pin(async move { drop(made.schedule.delete().await) })),
    ("rewind a webhook", Some(0), |made| {
        Box::pin(async move { drop(made.engine.rewind_hook(made.ended.run_id(), 0).await) })
    }),
    ("send a webhook", Some(0), |made| {
        Box::pin(async move {
            drop(made.engine.due_hooks(10).await);
            let Ok(Some(hook)) = made.engine.claim_hook(made.ended.run_id(), SECOND).await else { return };
            let step = HookMove {
                run_id: hook.run_id,
                epoch: hook.epoch,
                next_index: hook.next_index + 1,
                failing: None,
                state: HookState::Done,
                not_before: None,
                delivery: None,
            };
            drop(made.engine.move_hook(step).await);
        })
    }),
    ("raise a budget", Some(0), |made| {
        Box::pin(async move {
            let raise = BudgetRaise { id: Arc::from("none"), amount: 1, seen: None };
            drop(made.engine.raise_budget(raise).await);
        })
    }),
    ("prune", None, |made| {
        Box::pin(async move {
            let filter = RunFilter { session_id: Some(session("ended")), ..RunFilter::default() };
            drop(made.engine.prune(Prune { filter, ..Prune::default() }).await);
        })
    }),
    ("delete a run", None, |made| Box::pin(async move { drop(made.engine.delete_run(made.ended.run_id()).await) })),
    ("record", Some(0), |made| Box::pin(async move { drop(made.engine.append_audit(Vec::new()).await) })),
    ("read", Some(0), |made| {
        Box::pin(async move {
            let Made { engine, question, ended, batch, schedule, .. } = made;
            let reader = engine.reader();
            let Ok(Some(run)) = engine.record(ended.run_id()).await else { return };
            drop(engine.output(&run).await);
            drop(ended.get().await);
            drop(engine.waiting(&run).await);
            drop(engine.waitings(std::slice::from_ref(&run)).await);
            drop(ended.events(None).stored().await);
            drop(ended.retry().preview().await);
            drop(engine.preview_fork(ended.run_id(), &Fork::at("a")).await);
            drop(engine.hook(ended.run_id()).await);
            drop(engine.questions(QuestionFilter::default()).await);
            drop(engine.question(question.id()).await);
            drop(engine.questions_of(&question.run_id).await);
            drop(reader.stored_entries(ended.run_id(), 0, 10).await);
            drop(reader.asked_by(&question.run_id).await);
            drop(reader.open_before(&question.run_id, 9).await);
            drop(engine.session(&session("ended")).await);
            drop(engine.sessions(SessionFilter::default()).await);
            drop(engine.budgets(BudgetFilter::default()).await);
            drop(engine.budget("none").await);
            drop(engine.audit(AuditFilter::default()).await);
            drop(engine.bulk_matches(&all_of(BulkVerb::Cancel)).await);
            drop(reader.preview_prune(Prune::default()).await);
            drop(reader.batches(BatchFilter::default()).await);
            drop(reader.batch(&batch.id).await);
            drop(reader.batch_items(&batch.id, ItemFilter::default()).await);
            drop(reader.batch_result(0, run).await);
            drop(reader.wait_batch(&batch.id).await);
            drop(batch.items(ItemFilter::default()).await);
            drop(batch.progress().await);
            drop(engine.schedules(ScheduleFilter::default()).await);
            drop(engine.schedule("yearly").await);
            drop(engine.schedule_ticks(&schedule.id, None, 10).await);
            drop(schedule.ticks(10).await);
        })
    }),
];

/// Of the runs there are at first: cancels the one that asks, or makes one of the one that failed.
fn all_of(verb: BulkVerb) -> Bulk {
    let statuses = if verb == BulkVerb::Cancel { Vec::new() } else { vec![RunStatus::Error] };
    let filter = RunFilter { statuses, ..RunFilter::default() };
    Bulk { filter, idempotency_key: Some("key".to_owned()), ..Bulk::new(verb) }
}

/// A step that asks, or fails until it is told not to.
fn moody(is_cured: &Arc<AtomicBool>) -> Arc<Definition> {
    let is_cured = is_cured.clone();
    let step = Step::function("a", move |context: StepContext, input: Arc<StepInput>| {
        let is_cured = is_cured.clone();
        async move {
            match input.text().as_str() {
                "ask" => drop(context.ask("really", HumanReview::confirmation("Really?")).await?),
                "fail" if !is_cured.load(Ordering::Relaxed) => return Err(Failure::fatal("not today")),
                _ => {}
            }
            Ok(input.text())
        }
    });
    Arc::new(Definition::builder("Moody").step(step).build().unwrap())
}

async fn batch(engine: &Engine, definition: &Definition, id: &str) -> Result<BatchHandle, outlive_engine::Error> {
    let create = CreateBatch { batch_id: Some(id.to_owned()), ..CreateBatch::default() };
    let batch = engine.create_batch(&definition.id, create).await?;
    batch.add(0, vec![Value::from("fail"), Value::from("hi")]).await?;
    batch.complete(2).await?;
    Ok(batch)
}

async fn yearly(engine: &Engine, definition: &Definition, name: &str) -> Result<ScheduleHandle, outlive_engine::Error> {
    let create = CreateSchedule::new(ScheduleSpec { input: Some(Value::from("hi")), ..ScheduleSpec::new("@yearly") });
    engine.create_schedule(&definition.id, CreateSchedule { name: Some(name.to_owned()), ..create }).await
}

async fn made(db: &InMemoryDb) -> Made {
    let is_cured = Arc::new(AtomicBool::new(false));
    let definition = moody(&is_cured);
    let engine = start(db, &definition, Options::default()).await;
    let hook = Some(NewHook { url: Arc::from("https://receiver.example/"), events: HookEvents::All });
    let ended = engine.submit(&definition.id, Submit { hook, ..named("ended", "ended") }).await.unwrap();
    ended.wait().await.unwrap();
    let batch = batch(&engine, &definition, "batch").await.unwrap();
    assert_eq!(batch.wait().await.unwrap().counts.failed, 1);
    is_cured.store(true, Ordering::Relaxed);
    let asks = engine.submit(&definition.id, input("ask")).await.unwrap();
    assert_eq!(asks.wait().await.unwrap().status, RunStatus::Paused);
    let question = asks.questions().await.unwrap().remove(0);
    let schedule = yearly(&engine, &definition, "yearly").await.unwrap();
    Made { engine, definition, question, ended, batch, schedule }
}

#[tokio::test(start_paused = true)]
async fn whoever_changes_something_may_go_away_at_any_await() {
    for (name, makes, change) in CHANGES {
        for times in 0.. {
            let db = InMemoryDb::new();
            let made = made(&db).await;
            let before = db.runs(Access::All, RunFilter::default()).await.unwrap().runs.len();
            let finished = poll_and_drop(change(made.clone()), times).await;
            let place = format!("{name}, dropped after {times} polls");
            let again = tokio::time::timeout(60 * SECOND, change(made.clone())).await;
            again.unwrap_or_else(|_| panic!("{place}: it cannot be done again"));
            for question in made.engine.questions(QuestionFilter::default()).await.unwrap().questions {
                let answers = [(question.id().clone(), Answer::Approve)];
                // One whose run was cancelled a moment ago needs none.
                drop(made.engine.answer(answers, None).await);
            }
            let runs = db.runs(Access::All, RunFilter::default()).await.unwrap().runs;
            for run in &runs {
                let run = made.engine.attach(run.info.run_id.clone());
                let ended = tokio::time::timeout(60 * SECOND, run.wait()).await;
                let ended = ended.unwrap_or_else(|_| panic!("{place}: {} does not end", run.run_id())).unwrap();
                assert!(ended.status.is_terminal(), "{place}: {} is {}", run.run_id(), ended.status);
                let log = read_log(&db, run.run_id()).await;
                assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new(), "{place}");
            }
            if let Some(makes) = makes {
                assert_eq!(runs.len() - before, *makes, "{place}");
            }
            assert!(made.batch.wait().await.unwrap().is_at_rest(), "{place}");
            let held: u64 = made.engine.workers().await.unwrap().iter().map(|worker| worker.runs).sum();
            assert_eq!(held, 0, "{place}: a lease is stuck");
            made.engine.shutdown().await.unwrap();
            assert_eq!(db.workers(Some(Access::All)).await.unwrap(), [], "{place}: a worker is left");
            // What only reads has many awaits, and each is like the others.
            if finished.is_some() || times == 40 {
                assert!(times > 1, "{name} waits for nothing");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_an_engine_may_go_away_at_any_await() {
    for times in 1..12 {
        let (db, definition) = (InMemoryDb::new(), definition());
        let engine = stage(&db, &definition, 1).await;
        poll_and_drop(engine.shutdown(), times).await;
        let place = format!("shutdown, dropped after {times} polls");
        tokio::time::timeout(10 * SECOND, engine.shutdown()).await.expect("it stops").unwrap();
        assert_eq!(db.workers(Some(Access::All)).await.unwrap(), [], "{place}: a worker is left");
        let heir = start(&db, &definition, Options::default()).await;
        settles(&db, &heir, &definition, &place).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_whose_start_was_dropped_holds_nothing() {
    for times in 0.. {
        let (db, definition) = (InMemoryDb::new(), definition());
        let engine = poll_and_drop(start(&db, &definition, Options::default()), times).await;
        let place = format!("start, dropped after {times} polls");
        let is_started = engine.is_some();
        let engine = match engine {
            Some(engine) => engine,
            None => start(&db, &definition, Options::default()).await,
        };
        let run = engine.submit(&definition.id, asked()).await.unwrap();
        assert_eq!(run.wait().await.unwrap().status, RunStatus::Completed, "{place}");
        engine.shutdown().await.unwrap();
        assert_eq!(db.workers(Some(Access::All)).await.unwrap(), [], "{place}: a worker is left");
        if is_started {
            assert!(times > 2, "it waits for nothing");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_whose_future_is_dropped_misses_no_event() {
    let (db, definition) = (InMemoryDb::new(), definition());
    let engine = start(&db, &definition, Options::default()).await;
    let run = engine.submit(&definition.id, asked()).await.unwrap();
    let mut events = run.events(None);
    let (mut seen, mut times) = (Vec::new(), 0);
    // Sooner or later each await of each read is where the reader goes away.
    loop {
        times = times % 9 + 1;
        match poll_and_drop(events.next(), times).await {
            Some(event) => match event.unwrap() {
                Some(event) => seen.push(event.event_index.unwrap()),
                None => break,
            },
            None => tokio::time::sleep(Duration::from_millis(7)).await,
        }
    }
    let log = read_log(&db, run.run_id()).await;
    assert_eq!(seen, (0..log.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_may_go_and_what_executes_goes_on() {
    let (db, definition) = (InMemoryDb::new(), definition());
    let engine = start(&db, &definition, Options::default()).await;
    let run_id = engine.submit(&definition.id, asked()).await.unwrap().run_id().clone();
    drop(engine);
    tokio::time::sleep(SECOND).await;
    let run = db.run(Access::All, run_id).await.unwrap().unwrap();
    assert_eq!(run.status, RunStatus::Completed);
    assert_eq!(db.workers(Some(Access::All)).await.unwrap(), [], "it gave everything back");
    assert_eq!(db.location(), "memory");
}

#[test]
fn a_runtime_that_ends_takes_its_engine_with_it_and_the_next_goes_on() {
    let (db, definition) = (InMemoryDb::new(), definition());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (engine, run_id) = first.block_on(async {
        let engine = Engine::builder(Arc::new(db.clone())).workflow(definition.clone()).start().await.unwrap();
        let run_id = engine.submit(&definition.id, asked()).await.unwrap().run_id().clone();
        (engine, run_id)
    });
    drop(first);
    runtime().block_on(async {
        let refused = engine.submit(&definition.id, input("late")).await.unwrap_err();
        assert!(refused.to_string().contains("runtime"), "{refused}");
        engine.shutdown().await.unwrap();
        let heir = Engine::builder(Arc::new(db.clone())).workflow(definition.clone()).start().await.unwrap();
        assert_eq!(heir.attach(run_id).wait().await.unwrap().status, RunStatus::Completed);
    });
}
