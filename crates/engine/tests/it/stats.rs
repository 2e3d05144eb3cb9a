//! What an engine counts, by what moves it.

use crate::stage::{engine, engine_with, input, slow, workflow};
use outlive_core::log::{Key, Record};
use outlive_core::port::StepContext;
use outlive_core::{
    EventKind, Failure, FailureKind, ModelInfo, ModelRequestDone, Origin, RunStatus, Step, StepInput, Usage,
};
use outlive_db::InMemoryDb;
use outlive_engine::{Engine, Options};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const USAGE: Usage = Usage {
    input_tokens: 100,
    output_tokens: 30,
    total_tokens: 130,
    reasoning_tokens: 20,
    cache_read_tokens: 40,
    cache_write_tokens: 5,
    audio_input_tokens: 0,
    audio_output_tokens: 0,
    audio_total_tokens: 0,
};

/// What an agent says around a model call that takes this long, with one further attempt. `step` makes its key.
async fn ask(context: &StepContext, turn: u32, takes: Duration) {
    let key = Key::parse(format!("0/agent/t{turn}"));
    let tell = |kind, record| context.effects.tell(kind, &Origin::default(), record);
    let info = ModelInfo { model: "m".to_owned(), model_provider: "p".to_owned() };
    tell(EventKind::ModelRequestStarted(info.clone()), Some(Record::Intent { key: key.clone(), name: None }));
    let _ = context.effects.durable().await;
    let retrying = json!({ "name": "ModelRequestRetrying" }).as_object().cloned().unwrap_or_default();
    tell(EventKind::CustomEvent { fields: retrying }, None);
    tokio::time::sleep(takes).await;
    let value = Arc::from(serde_json::value::to_raw_value(&json!("answer")).unwrap());
    let done = ModelRequestDone::new(&info, USAGE, None);
    tell(EventKind::ModelRequestCompleted(done), Some(Record::Result { key, value, sleeps: false }));
}

fn asking(turns: u32, takes: Duration) -> Step {
    Step::function("ask", move |context: StepContext, _: Arc<StepInput>| async move {
        for turn in 0..turns {
            ask(&context, turn, takes).await;
        }
        Ok::<_, Failure>("asked")
    })
}

#[tokio::test(start_paused = true)]
async fn model_calls_and_tokens_are_counted_when_they_are_in_the_log() {
    let definition = workflow([asking(2, Duration::from_secs(3))]);
    let engine = engine(&InMemoryDb::new(), &definition).await;
    engine.submit(&definition.id, input("x")).await.unwrap().wait().await.unwrap();
    let stats = engine.stats();
    assert_eq!((stats.model_calls, stats.model_retries, stats.model_aborted), (2, 2, 0));
    assert_eq!((stats.models.count(), stats.models.sum), (2, Duration::from_secs(6)));
    let mut usage = USAGE;
    usage += USAGE;
    assert_eq!(stats.usage, usage);
}

#[tokio::test(start_paused = true)]
async fn a_model_call_that_is_left_is_counted_as_aborted_and_has_no_duration() {
    let definition = workflow([asking(1, Duration::from_secs(3600))]);
    let engine = engine(&InMemoryDb::new(), &definition).await;
    let run = engine.submit(&definition.id, input("x")).await.unwrap();
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("it goes on").name() != "ModelRequestStarted" {}
    engine.cancel(run.run_id(), "enough").await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Cancelled);
    while engine.stats().runs_executing > 0 {
        tokio::task::yield_now().await;
    }
    let stats = engine.stats();
    assert_eq!((stats.model_calls, stats.model_aborted, stats.models.count()), (1, 1, 0));
    assert_eq!(stats.usage, Usage::default());
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_outcome_nobody_knows_is_counted() {
    let step = Step::function("pay", |_, _: Arc<StepInput>| async {
        Err::<String, _>(Failure::new(FailureKind::OutcomeUnknown, "it may have been paid"))
    });
    let definition = workflow([step]);
    let engine = engine(&InMemoryDb::new(), &definition).await;
    let run = engine.submit(&definition.id, input("x")).await.unwrap();
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("it pauses").name() != "WorkflowPaused" {}
    assert_eq!(engine.stats().outcomes_unknown, 1);
}

#[tokio::test(start_paused = true)]
async fn what_another_worker_left_is_counted_where_it_goes_on() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", Duration::from_secs(60))]);
    let first = engine(&db, &definition).await;
    let run_id = first.submit(&definition.id, input("x")).await.unwrap().run_id().clone();
    let mut events = first.events(&run_id, None);
    while events.next().await.unwrap().expect("it goes on").name() != "StepStarted" {}
    assert_eq!(first.stats().recoveries.count(), 0);
    first.kill();
    db.crash(&first.worker());
    let second: Engine = engine(&db, &definition).await;
    second.attach(run_id).wait().await.unwrap();
    assert_eq!((second.stats().recoveries.count(), second.stats().runs_claimed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_for_a_commit_tells_how_long_it_took_to_reach_it() {
    let definition = workflow([slow("a", Duration::from_secs(1)), slow("b", Duration::from_secs(1))]);
    let engine = engine(&InMemoryDb::new(), &definition).await;
    let run = engine.submit(&definition.id, input("x")).await.unwrap();
    let mut events = run.events(None);
    while events.next().await.unwrap().is_some() {}
    let live = engine.stats().event_lags.count();
    assert!(live > 0, "what was waited for is counted");
    // Whoever reads what is there already waits for nothing.
    let mut events = run.events(None);
    while events.next().await.unwrap().is_some() {}
    assert_eq!(engine.stats().event_lags.count(), live);
}

#[tokio::test(start_paused = true)]
async fn the_engines_own_timers_tell_how_late_they_were() {
    let options = Options { heartbeat_period: Duration::from_millis(100), ..Options::default() };
    let engine = engine_with(&InMemoryDb::new(), &workflow([asking(0, Duration::ZERO)]), options).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lateness = engine.stats().lateness;
    assert!(lateness.count() >= 9 && lateness.sum < Duration::from_millis(100), "{lateness:?}");
}
