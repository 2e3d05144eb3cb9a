//! Batches: each input becomes one run whatever goes wrong, and what is done to many is done to each once.

use crate::stage::{Calls, append, engine, engine_with, input, slow, workflow};
use outlive_core::port::{Access, BatchFilter, Db, DbErrorKind, ItemFilter, Order, RunFilter};
use outlive_core::{Definition, Failure, HumanReview, InputSchema, RunStatus, Step, StepInput, StepOutput};
use outlive_db::{Fault, InMemoryDb, Operation, SqliteDb};
use outlive_engine::testing::{TroubledDb, poll_and_drop};
use outlive_engine::{
    BatchCounts, BatchHandle, BatchSpec, Bulk, BulkOutcome, BulkVerb, CreateBatch, Engine, Error, Options,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn inputs(count: usize) -> Vec<Value> {
    (0..count).map(|number| Value::from(format!("item {number}"))).collect()
}

fn named(id: &str) -> CreateBatch {
    CreateBatch { batch_id: Some(id.to_owned()), ..CreateBatch::default() }
}

async fn batch(engine: &Engine, definition: &Definition, create: CreateBatch, count: usize) -> BatchHandle {
    let batch = engine.create_batch(&definition.id, create).await.unwrap();
    assert_eq!(batch.add(0, inputs(count)).await.unwrap(), count as u64);
    batch.complete(count as u64).await.unwrap();
    batch
}

/// What each item came to, in order.
async fn results(batch: &BatchHandle) -> Vec<String> {
    let (mut results, mut texts) = (batch.results(), Vec::new());
    while let Some(result) = results.next().await.unwrap() {
        assert_eq!(result.index, texts.len() as u64);
        texts.push(result.output.unwrap().text());
    }
    texts
}

/// Asks until the store neither refuses nor loses the reply.
async fn insist<T>(ask: impl AsyncFn() -> Result<T, Error>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(matches!(&error, Error::Db(_) | Error::Item { .. }), "{error}"),
        }
    }
}

/// Waits for every run there is.
async fn all_end(engine: &Engine, db: &dyn Db) {
    for run in all_runs(db).await {
        engine.attach(run.info.run_id).wait().await.unwrap();
    }
}

/// The runs of a store, oldest first.
async fn all_runs(db: &dyn Db) -> Vec<outlive_core::port::Run> {
    let mut filter = RunFilter { limit: 1_000, order: Order::OldestFirst, ..RunFilter::default() };
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

/// A step that fails for what ends with an odd number, until it is told not to.
fn moody(calls: &Calls, is_cured: &Arc<AtomicBool>) -> Step {
    let (calls, is_cured) = (calls.clone(), is_cured.clone());
    Step::function("moody", move |_, input: Arc<StepInput>| {
        calls.note();
        let is_odd = input.text().ends_with(['1', '3', '5', '7', '9']);
        let fails = is_odd && !is_cured.load(Ordering::Relaxed);
        async move { if fails { Err(Failure::fatal("not today")) } else { Ok(StepOutput::new(input.text())) } }
    })
}

#[tokio::test(start_paused = true)]
async fn each_input_is_a_run_and_a_bounded_number_executes_at_once() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, peak) = (now.clone(), most.clone());
    let step = Step::function("count", move |_, input: Arc<StepInput>| {
        let (inside, peak) = (inside.clone(), peak.clone());
        async move {
            peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(SECOND).await;
            inside.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Failure>(StepOutput::new(input.text().to_uppercase()))
        }
    });
    let (db, definition) = (InMemoryDb::new(), workflow([step]));
    let engine = engine(&db, &definition).await;
    let create = CreateBatch { spec: BatchSpec { concurrency: Some(3), ..BatchSpec::default() }, ..named("b1") };
    let batch = batch(&engine, &definition, create, 20).await;
    let standing = batch.progress().await.unwrap();
    assert_eq!((standing.status(), standing.items, standing.accepted), ("running", Some(20), 20));
    let over = batch.wait().await.unwrap();
    assert_eq!((over.status(), over.counts.completed), ("completed", 20));
    assert_eq!(most.load(Ordering::SeqCst), 3);
    let expected: Vec<String> = (0..20).map(|number| format!("ITEM {number}")).collect();
    assert_eq!(results(&batch).await, expected);
    // Runs of their own, each in a session of its own, which say whose items they are.
    let runs = all_runs(&db).await;
    let sessions: BTreeSet<_> = runs.iter().map(|run| run.info.session_id.clone()).collect();
    assert_eq!(sessions.len(), 20);
    for run in runs {
        let item = run.request_options().unwrap().batch.unwrap();
        assert_eq!(&*item.batch_id, "b1");
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_the_workflow_holds_for_its_batches() {
    let db = InMemoryDb::new();
    let step = slow("a", SECOND);
    let definition = Arc::new(Definition::builder("Example").step(step).concurrency(2).build().unwrap());
    let engine = engine(&db, &definition).await;
    let create = |spec| CreateBatch { spec, ..CreateBatch::default() };
    let fewer = BatchSpec { concurrency: Some(1), ..BatchSpec::default() };
    let refused = engine.create_batch(&definition.id, create(fewer.clone())).await.unwrap_err();
    assert!(matches!(refused, Error::InvalidBatch { field: "concurrency", .. }), "{refused}");
    let zero = engine.create_batch(&definition.id, create(BatchSpec { concurrency: Some(0), ..fewer.clone() })).await;
    assert!(matches!(zero.unwrap_err(), Error::InvalidBatch { field: "concurrency", .. }));
    let keyed = BatchSpec { concurrency_key: Some("k".to_owned()), ..fewer };
    let one = batch(&engine, &definition, create(BatchSpec::default()), 6).await;
    let other = batch(&engine, &definition, create(keyed), 6).await;
    for _ in 0..20 {
        tokio::time::sleep(SECOND / 2).await;
        assert!(one.progress().await.unwrap().counts.running <= 2);
        assert!(other.progress().await.unwrap().counts.running <= 1);
    }
    assert_eq!((one.wait().await.unwrap().status(), other.wait().await.unwrap().status()), ("completed", "completed"));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_interrupted_adds_the_items_again() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let builder = Engine::builder(TroubledDb::yielding(Arc::new(db.clone())));
    let engine = builder.workflow(definition.clone()).start().await.unwrap();
    for polls in 0..30 {
        poll_and_drop(engine.create_batch(&definition.id, named("b1")), polls).await;
    }
    let batch = engine.create_batch(&definition.id, named("b1")).await.unwrap();
    for polls in 0..60 {
        poll_and_drop(batch.add(0, inputs(100)), polls).await;
    }
    assert!(batch.complete(101).await.is_err(), "as many were never given");
    assert_eq!(batch.add(0, inputs(100)).await.unwrap(), 100);
    for polls in 0..6 {
        poll_and_drop(batch.complete(100), polls).await;
    }
    assert_eq!(batch.complete(100).await.unwrap().items, Some(100));
    assert_eq!(batch.wait().await.unwrap().counts, BatchCounts { completed: 100, ..BatchCounts::default() });
    assert_eq!(all_runs(&db).await.len(), 100);
    assert_eq!(results(&batch).await[42], "item 42 a");
}

#[tokio::test(start_paused = true)]
async fn two_processes_add_the_same_items_to_a_store_that_refuses_and_loses_replies() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls)]);
    let beside = db.another_process();
    let (one, other) = (engine(&db, &definition).await, engine(&beside, &definition).await);
    for (db, every) in [(&db, 7), (&beside, 11)] {
        let count = Arc::new(AtomicUsize::new(0));
        db.faults(Arc::new(move |operation| {
            let is_meant = matches!(operation, Operation::CreateRun | Operation::ChangeBatch | Operation::CreateBatch);
            let count = if is_meant { count.fetch_add(1, Ordering::Relaxed) } else { 1 };
            match (count % every, count % 2) {
                (0, 0) => Some(Fault::Refuse(DbErrorKind::Busy)),
                (0, _) => Some(Fault::LoseReply),
                _ => None,
            }
        }));
    }
    let adding = [one, other].map(|engine| {
        let definition = definition.clone();
        async move {
            let batch = insist(async || engine.create_batch(&definition.id, named("b1")).await).await;
            for from in (0..60).step_by(3) {
                let some = &inputs(60)[from as usize..][..3];
                insist(async || batch.add(from, some.to_vec()).await).await;
            }
            insist(async || batch.complete(60).await).await;
            batch
        }
    });
    let [one, other] = adding;
    let (one, _other) = tokio::join!(one, other);
    // What was accepted without its worker's knowledge is found at the heartbeat.
    let over = one.wait().await.unwrap();
    assert_eq!((over.items, over.counts.completed), (Some(60), 60));
    assert_eq!((all_runs(&db).await.len(), calls.count()), (60, 60));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_in_the_middle_leaves_a_batch_that_goes_on() {
    for db_of in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        let memory = InMemoryDb::new();
        let open = || -> Arc<dyn Db> {
            match db_of {
                0 => Arc::new(memory.clone()),
                _ => Arc::new(SqliteDb::new(folder.path().join("runs.db"))),
            }
        };
        if db_of == 1 {
            tokio::time::resume();
        }
        let calls = Calls::default();
        let definition = workflow([append("a", &calls)]);
        let start = async || Engine::builder(open()).workflow(definition.clone()).start().await.unwrap();
        let first = start().await;
        let batch = first.create_batch(&definition.id, named("b1")).await.unwrap();
        batch.add(0, inputs(7)).await.unwrap();
        first.kill();
        if db_of == 0 {
            memory.crash(&first.worker());
        }
        drop((batch, first));
        let second = start().await;
        let batch = second.batch("b1").await.unwrap();
        assert_eq!((batch.status(), batch.accepted), ("accepting", 7));
        batch.add(0, inputs(12)).await.unwrap();
        batch.complete(12).await.unwrap();
        assert_eq!(batch.wait().await.unwrap().counts.completed, 12);
        assert_eq!(all_runs(&*open()).await.len(), 12);
        second.shutdown().await.unwrap();
        if db_of == 1 {
            tokio::time::pause();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_failed_ones_are_tried_again_once_in_their_places() {
    let (db, calls, is_cured) = (InMemoryDb::new(), Calls::default(), Arc::<AtomicBool>::default());
    let definition = workflow([moody(&calls, &is_cured)]);
    let engine = engine(&db, &definition).await;
    let batch = self::batch(&engine, &definition, named("b2"), 10).await;
    let over = batch.wait().await.unwrap();
    assert_eq!((over.status(), over.counts.completed, over.counts.failed), ("failed", 5, 5));
    is_cured.store(true, Ordering::Relaxed);
    // Whoever asks twice, or beside somebody else, has each tried again once.
    let other = engine.batch("b2").await.unwrap();
    let (one, twice) = tokio::join!(batch.retry_failed(), other.retry_failed());
    let started = |runs: Vec<outlive_engine::BulkRun>| -> BTreeSet<String> {
        let id = |run: outlive_engine::BulkRun| match run.outcome {
            Ok(BulkOutcome::Started { run_id, .. }) => Some(run_id.to_string()),
            Ok(_) | Err(_) => None,
        };
        runs.into_iter().filter_map(id).collect()
    };
    let all: BTreeSet<String> = started(one.unwrap()).union(&started(twice.unwrap())).cloned().collect();
    assert_eq!(all.len(), 5);
    let over = batch.wait().await.unwrap();
    assert_eq!(over.counts, BatchCounts { completed: 10, ..BatchCounts::default() });
    assert_eq!((over.status(), calls.count()), ("completed", 15));
    let expected: Vec<String> = (0..10).map(|number| format!("item {number}")).collect();
    assert_eq!(results(&batch).await, expected);
    assert!(batch.retry_failed().await.unwrap().is_empty());
    // The runs before are there, and have given up their places.
    let failed = RunFilter { statuses: vec![RunStatus::Error], ..RunFilter::default() };
    let old = engine.runs(failed).await.unwrap().runs;
    assert_eq!(old.len(), 5);
    let again = outlive_engine::Fork { idempotency_key: None, ..outlive_engine::Fork::retry() };
    let refused = engine.fork(&old[0].info.run_id, again).await.unwrap_err();
    assert!(refused.to_string().contains("has taken the place"), "{refused}");
    // A rerun is a run like any other.
    let rerun = engine.bulk_one(&Bulk::new(BulkVerb::Rerun), old[0].clone()).await;
    assert!(matches!(rerun.outcome, Ok(BulkOutcome::Started { .. })));
    assert_eq!(batch.progress().await.unwrap().accepted, 10);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_cancelled_with_all_that_is_left_of_it() {
    for executes in [true, false] {
        let db = InMemoryDb::new();
        let definition = workflow([slow("a", SECOND * 60)]);
        let worker = engine_with(&db, &definition, Options { execute: executes, ..Options::default() }).await;
        let create = CreateBatch { spec: BatchSpec { concurrency: Some(4), ..BatchSpec::default() }, ..named("b1") };
        let batch = batch(&worker, &definition, create, 40).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(batch.progress().await.unwrap().counts.running, if executes { 4 } else { 0 });
        let mut is_done = false;
        for polls in 0..3 {
            is_done |= poll_and_drop(batch.cancel("enough"), polls).await.is_some();
        }
        assert!(batch.cancel("enough").await.unwrap().cancelled_at.is_some() || is_done);
        let over = batch.wait().await.unwrap();
        assert_eq!((over.status(), over.counts.cancelled), ("cancelled", 40));
        let refused = batch.add(40, inputs(1)).await.unwrap_err();
        assert!(refused.to_string().contains("was cancelled"), "{refused}");
        // What was cancelled may be tried again.
        let filter = ItemFilter { statuses: vec![RunStatus::Cancelled], limit: 2, ..ItemFilter::default() };
        let page = batch.retry_items(filter).await.unwrap();
        assert_eq!((page.runs.len(), page.next.as_deref()), (2, Some("2")));
        assert!(page.runs.iter().all(|run| run.outcome.is_ok()), "{page:?}");
        assert_eq!(batch.progress().await.unwrap().counts.cancelled, 38);
    }
}

#[tokio::test(start_paused = true)]
async fn items_that_wait_for_people_leave_the_batch_at_rest() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let step = append("a", &calls).human_review(HumanReview::confirmation("May it?"));
    let definition = workflow([step]);
    let engine = engine(&db, &definition).await;
    let create = CreateBatch { spec: BatchSpec { concurrency: Some(1), ..BatchSpec::default() }, ..named("b1") };
    let batch = batch(&engine, &definition, create, 3).await;
    let waits = batch.wait().await.unwrap();
    assert_eq!((waits.status(), waits.counts.paused), ("paused", 3), "whoever waits for people leaves its place");
    let asked = engine.questions(outlive_core::port::QuestionFilter::default()).await.unwrap().questions;
    let answers = asked.iter().map(|asked| (asked.id().clone(), outlive_core::Answer::Approve));
    engine.answer(answers, None).await.unwrap();
    assert_eq!(batch.wait().await.unwrap().counts.completed, 3);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_an_item_is_refused_by_its_index_before_any_is_accepted() {
    let db = InMemoryDb::new();
    let schema = InputSchema::new(json!({ "type": "object", "required": ["n"] }), |value| {
        if value.get("n").is_some() { Ok(value) } else { Err("n is missing".to_owned()) }
    });
    let step = append("a", &Calls::default());
    let definition = Arc::new(Definition::builder("Example").step(step).input_schema(schema).build().unwrap());
    let engine = engine(&db, &definition).await;
    let batch = engine.create_batch(&definition.id, named("b1")).await.unwrap();
    let bad = vec![json!({ "n": 1 }), json!({ "m": 1 })];
    let refused = batch.add(5, bad).await.unwrap_err();
    assert!(matches!(&refused, Error::Item { index: 6, problem } if matches!(**problem, Error::Input(_))), "{refused}");
    assert_eq!(batch.progress().await.unwrap().accepted, 0);
    batch.add(0, vec![json!({ "n": 1 })]).await.unwrap();
    let other = batch.add(0, vec![json!({ "n": 2 })]).await.unwrap_err();
    assert!(other.to_string().contains("another input"), "{other}");
    let late = batch.add(u64::MAX - 1, vec![json!({ "n": 2 })]).await.unwrap_err();
    assert!(matches!(late, Error::InvalidBatch { field: "items", .. }), "{late}");
    for (create, expected) in [
        (named("b1"), true),
        (CreateBatch { spec: BatchSpec { priority: 3, ..BatchSpec::default() }, ..named("b1") }, false),
        (named("not an id"), false),
        (
            CreateBatch {
                spec: BatchSpec { concurrency_key: Some(String::new()), ..BatchSpec::default() },
                ..named("b9")
            },
            false,
        ),
    ] {
        assert_eq!(engine.create_batch(&definition.id, create.clone()).await.is_ok(), expected, "{create:?}");
    }
    let unknown = outlive_core::DefinitionId::parse("other").unwrap();
    assert!(matches!(engine.create_batch(&unknown, named("b2")).await.unwrap_err(), Error::UnknownWorkflow(_)));
    assert!(matches!(engine.batch("b2").await.unwrap_err(), Error::BatchNotFound(_)));
    // One without items has completed.
    let empty = engine.create_batch(&definition.id, named("b3")).await.unwrap();
    assert_eq!(empty.complete(0).await.unwrap().status(), "completed");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_its_users_and_so_are_its_runs() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let (ada, bob) = (engine.for_user("ada"), engine.for_user("bob"));
    let batch = batch(&ada, &definition, named("b1"), 3).await;
    assert_eq!(batch.user_id.as_deref(), Some("ada"));
    batch.wait().await.unwrap();
    assert!(all_runs(&db).await.iter().all(|run| run.info.user_id.as_deref() == Some("ada")));
    assert!(matches!(bob.batch("b1").await.unwrap_err(), Error::BatchNotFound(_)));
    assert!(bob.reader().batches(BatchFilter::default()).await.unwrap().batches.is_empty());
    assert!(bob.reader().batch_items("b1", ItemFilter::default()).await.unwrap().items.is_empty());
    // A handle that somebody else has kept gives no rights.
    let stolen = bob.attach_batch((*batch).clone());
    assert!(stolen.cancel("no").await.is_err() && stolen.add(3, inputs(1)).await.is_err());
    assert!(stolen.retry_failed().await.unwrap().is_empty());
    let foreign = CreateBatch { user_id: Some("ada".to_owned()), ..named("b2") };
    assert!(matches!(bob.create_batch(&definition.id, foreign).await.unwrap_err(), Error::BatchNotFound(_)));
    assert_eq!(ada.reader().batches(BatchFilter::default()).await.unwrap().batches.len(), 1);
    assert!(batch.progress().await.unwrap().cancelled_at.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_done_to_all_that_match_is_done_to_each_once() {
    let (db, calls, is_cured) = (InMemoryDb::new(), Calls::default(), Arc::<AtomicBool>::default());
    let definition = workflow([moody(&calls, &is_cured)]);
    let engine = engine(&db, &definition).await;
    for number in 0..30 {
        engine.submit(&definition.id, input(&number.to_string())).await.unwrap().wait().await.unwrap();
    }
    let failed = all_runs(&db).await.iter().filter(|run| run.status == RunStatus::Error).count();
    assert_eq!(failed, 15);
    let walk = async |bulk: &Bulk| {
        let (mut bulk, mut runs) = (bulk.clone(), Vec::new());
        bulk.filter.limit = 4;
        loop {
            let page = engine.bulk(&bulk).await.unwrap();
            runs.extend(page.runs);
            match page.next {
                Some(next) => bulk.filter.after = Some(next),
                None => return runs,
            }
        }
    };
    // A look does nothing.
    let retry = Bulk::new(BulkVerb::Retry);
    let many = Bulk { filter: RunFilter { limit: 100, ..RunFilter::default() }, ..retry.clone() };
    assert_eq!(engine.bulk_matches(&many).await.unwrap().runs.len(), 15);
    assert_eq!(all_runs(&db).await.len(), 30);
    // Those that fail again are not come across on the same way.
    assert_eq!(walk(&retry).await.len(), 15);
    all_end(&engine, &db).await;
    assert_eq!(all_runs(&db).await.len(), 45);
    let again = walk(&retry).await;
    let repeated =
        |run: &outlive_engine::BulkRun| matches!(run.outcome, Ok(BulkOutcome::Started { is_repeated: true, .. }));
    assert_eq!((again.len(), again.iter().filter(|run| repeated(run)).count()), (30, 15));
    all_end(&engine, &db).await;
    // With a key, whoever lost the answer starts nothing twice.
    is_cured.store(true, Ordering::Relaxed);
    let before = all_runs(&db).await.len();
    let session = all_runs(&db).await[0].info.session_id.clone();
    let filter = RunFilter { session_id: Some(session), ..RunFilter::default() };
    let rerun = Bulk { filter, idempotency_key: Some("k".to_owned()), ..Bulk::new(BulkVerb::Rerun) };
    assert!(walk(&rerun).await.iter().all(|run| run.outcome.is_ok()));
    assert!(walk(&rerun).await.iter().any(repeated));
    all_end(&engine, &db).await;
    assert_eq!(all_runs(&db).await.len(), before + 2, "the run, and the second time the one that it made");
    // What has ended is not to be cancelled.
    assert!(walk(&Bulk::new(BulkVerb::Cancel)).await.is_empty());
    let completed = RunFilter { statuses: vec![RunStatus::Completed], ..RunFilter::default() };
    assert!(walk(&Bulk { filter: completed, ..retry }).await.is_empty(), "nor what has completed to be tried again");
}
