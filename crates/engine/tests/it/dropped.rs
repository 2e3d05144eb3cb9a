//! Callers that go away at any await: what was accepted ends all the same, nothing stays held, no session and no key leads
//! nowhere.

use crate::stage::input;
use futures::future::BoxFuture;
use outlive_core::port::{Access, Db, NewSession, RunFilter, RunStore, SessionKind, SessionPatch, StepContext};
use outlive_core::{
    Condition, Definition, Failure, Loop, Parallel, RunId, RunStatus, SessionId, Step, StepInput, Timestamp,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{SimulatedClock, TroubledDb, broken_invariants, poll_and_drop, read_log};
use outlive_engine::{Engine, Options, Submit};
use serde_json::Map;
use std::sync::Arc;
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
