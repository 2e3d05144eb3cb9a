//! Runs that end by themselves: submitted, polled, followed.

use crate::stage::{Calls, append, engine, engine_with, input, slow, workflow};
use outlive_core::port::{Access, CancelIntent, LogStore, RunStore, SessionPolicy, SessionStore, StepContext};
use outlive_core::{
    Attachments, Definition, EventKind, Failure, FailureKind, OnError, Retry, RunId, RunStatus, SessionId, Step,
    StepInput, Timestamp,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{broken_invariants, read_log, row_equals_fold};
use outlive_engine::{Error, Options, Reader, Submit};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_run_is_found_by_its_id_from_the_moment_of_the_answer_to_its_end() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default()), append("b", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let found = run.get().await.unwrap().unwrap();
    assert!(matches!(found.status, RunStatus::Pending | RunStatus::Running));
    let ended = run.wait().await.unwrap();
    assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Completed, "hi a b"));
    let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    let log = read_log(&db, run.run_id()).await;
    assert!(row_equals_fold(&db, &stored, &definition, &log).await);
    assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_run_is_nothing_and_an_unknown_workflow_an_error() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let nobody = RunId::parse("nobody").unwrap();
    assert!(engine.get_run(&nobody).await.unwrap().is_none());
    assert!(matches!(engine.attach(nobody.clone()).wait().await, Err(Error::RunNotFound(_))));
    assert!(matches!(engine.events(&nobody, None).next().await, Err(Error::RunNotFound(_))));
    assert!(matches!(engine.cancel(&nobody, "why not").await, Err(Error::RunNotFound(_))));
    let other = outlive_core::DefinitionId::parse("other").unwrap();
    assert!(matches!(engine.submit(&other, input("hi")).await, Err(Error::UnknownWorkflow(_))));
}

#[tokio::test(start_paused = true)]
async fn every_subscriber_sees_the_same_events_whenever_and_wherever_it_begins() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", Duration::from_secs(1)), slow("b", Duration::from_secs(1))]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let follow = |after: Option<u64>| {
        let mut events = run.events(after);
        async move {
            let mut seen = Vec::new();
            while let Some(event) = events.next().await.unwrap() {
                seen.push(serde_json::to_string(&event).unwrap());
            }
            seen
        }
    };
    let (live, from_two) = tokio::join!(follow(None), follow(Some(1)));
    let later = follow(None).await;
    assert_eq!(live.len(), 8);
    assert_eq!(live, later);
    assert_eq!(live[2..], from_two);
    assert!(follow(Some(7)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_visible_that_is_not_stored() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default()), slow("b", Duration::from_secs(1))]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let mut events = run.events(None);
    while let Some(event) = events.next().await.unwrap() {
        let pages = db.read(Access::All, run.run_id().clone(), event.event_index.unwrap(), 1).await.unwrap();
        assert!(!pages.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_key_gives_the_same_run_and_another_request_under_it_is_refused() {
    let db = InMemoryDb::new();
    let calls = Calls::default();
    let definition = workflow([append("a", &calls)]);
    let engine = engine(&db, &definition).await;
    let ask = |text: &str| Submit { idempotency_key: Some("k".to_owned()), ..input(text) };
    let first = engine.submit(&definition.id, ask("hi")).await.unwrap();
    first.wait().await.unwrap();
    let second = engine.submit(&definition.id, ask("hi")).await.unwrap();
    assert_eq!(first.run_id(), second.run_id());
    assert!(matches!(engine.submit(&definition.id, ask("other")).await, Err(Error::Conflict(_))));
    let state = json!({ "mood": "good" }).as_object().cloned();
    let other_state = Submit { session_state: state, ..ask("hi") };
    assert!(matches!(engine.submit(&definition.id, other_state).await, Err(Error::Conflict(_))));
    assert_eq!(calls.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn input_beyond_the_limit_is_refused_before_a_run_exists() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let engine = engine_with(&db, &definition, Options { input_bytes_max: 10, ..Options::default() }).await;
    let refused = engine.submit(&definition.id, input("much too long")).await;
    assert!(matches!(refused, Err(Error::InputTooLong { bytes: 15, limit: 10 })));
    assert!(db.runs(Access::All, Default::default()).await.unwrap().runs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn text_with_a_nul_and_ids_without_an_address_are_refused_before_a_run_exists() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let state = || json!({ "mood": ["a\0b"] }).as_object().cloned();
    for given in [
        input("a\0b"),
        Submit { input: Some(json!({ "a": [{ "b\0": 1 }] })), ..Submit::default() },
        Submit { session_state: state(), ..input("hi") },
    ] {
        let error = engine.submit(&definition.id, given).await.err().unwrap();
        assert!(error.to_string().contains("has a NUL character (U+0000)"), "{error}");
    }
    for id in ["..", "a/b", "retry"] {
        let refused = engine.submit(&definition.id, Submit { run_id: Some(id.to_owned()), ..input("hi") }).await;
        assert!(matches!(refused, Err(Error::InvalidId(_))), "{id}");
    }
    let refused = engine.submit(&definition.id, Submit { session_id: Some(".".to_owned()), ..input("hi") }).await;
    assert!(matches!(refused, Err(Error::InvalidId(_))));
    assert!(db.runs(Access::All, Default::default()).await.unwrap().runs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn runs_of_one_session_execute_in_the_order_in_which_they_were_accepted() {
    let db = InMemoryDb::new();
    let count = Step::function("count", |context, _: Arc<StepInput>| async move {
        let seen = context.state.get("count").and_then(|n| n.as_u64()).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(200)).await;
        context.state.set("count", seen + 1);
        Ok::<_, Failure>(json!(seen + 1))
    });
    let definition = workflow([count]);
    let engine = engine(&db, &definition).await;
    let ask = || Submit { session_id: Some("s".to_owned()), ..input("hi") };
    let mut runs = Vec::new();
    for _ in 0..5 {
        runs.push(engine.submit(&definition.id, ask()).await.unwrap());
    }
    for (n, run) in (1..).zip(runs) {
        assert_eq!(run.wait().await.unwrap().content, Some(json!(n)));
    }
    let session = db.session(Access::All, SessionId::parse("s").unwrap()).await.unwrap().unwrap();
    assert_eq!((session.state["count"].as_u64(), session.version), (Some(5), 5));
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_refuses_or_runs_in_parallel_when_asked_to() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", Duration::from_secs(9))]);
    let engine = engine(&db, &definition).await;
    let ask = |policy| Submit { session_id: Some("s".to_owned()), policy: Some(policy), ..input("hi") };
    let start = Instant::now();
    let first = engine.submit(&definition.id, ask(SessionPolicy::Queue)).await.unwrap();
    let refused = engine.submit(&definition.id, ask(SessionPolicy::Reject)).await;
    assert!(matches!(refused, Err(Error::SessionBusy(_))), "{refused:?}");
    let beside = engine.submit(&definition.id, ask(SessionPolicy::Parallel)).await.unwrap();
    beside.wait().await.unwrap();
    first.wait().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_workflow_says_what_a_busy_session_does_with_runs_that_say_nothing() {
    let db = InMemoryDb::new();
    let with = |policy| {
        let builder = Definition::builder("Slow").step(slow("a", Duration::from_secs(9)));
        Arc::new(builder.session_policy(policy).steer_to("desk").build().unwrap())
    };
    let definition = with(SessionPolicy::Reject);
    let engine = engine(&db, &definition).await;
    let options = async |id: &RunId| db.run(Access::All, id.clone()).await.unwrap().unwrap().request_options().unwrap();
    let ask = |policy| Submit { session_id: Some("s".to_owned()), policy, ..input("hi") };
    let first = engine.submit(&definition.id, ask(None)).await.unwrap();
    let refused = engine.submit(&definition.id, ask(None)).await;
    assert!(matches!(refused, Err(Error::SessionBusy(_))), "{refused:?}");
    let beside = engine.submit(&definition.id, ask(Some(SessionPolicy::Parallel))).await.unwrap();
    assert_eq!(options(beside.run_id()).await.policy, SessionPolicy::Parallel, "a request may say otherwise");

    // A run is accepted with what its workflow says then, and keeps that.
    let changed = with(SessionPolicy::Interrupt);
    assert_eq!(changed.hash, definition.hash, "runs are not pinned to it");
    engine.register(changed);
    let second = engine.submit(&definition.id, ask(None)).await.unwrap();
    assert_eq!(first.wait().await.unwrap().status, RunStatus::Cancelled);
    assert_eq!(second.wait().await.unwrap().status, RunStatus::Completed);
    assert_eq!(options(first.run_id()).await.policy, SessionPolicy::Reject);
    assert_eq!(options(second.run_id()).await.policy, SessionPolicy::Interrupt);
    engine.register(with(SessionPolicy::Steer));
    let message = engine.submit(&definition.id, ask(None)).await.unwrap();
    assert_eq!(options(message.run_id()).await.steer_to.as_deref(), Some("desk"));

    // In a session of its own there is nothing to say, and nothing is kept of it.
    let alone = engine.submit(&definition.id, input("hi")).await.unwrap();
    assert!(db.run(Access::All, alone.run_id().clone()).await.unwrap().unwrap().options.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_started_again_keeps_what_it_was_asked_and_names_the_first() {
    let db = InMemoryDb::new();
    let definition = workflow([append("a", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let attachments = Attachments { additional_data: Some(json!({ "a": 1 })), ..Attachments::default() };
    let stored = async |id: &RunId| db.run(Access::All, id.clone()).await.unwrap().unwrap();
    let asked = Submit {
        session_id: Some("s".to_owned()),
        policy: Some(SessionPolicy::Parallel),
        attachments: attachments.clone(),
        idempotency_key: Some("k".to_owned()),
        ..input("hi")
    };
    let first = engine.submit(&definition.id, asked.clone()).await.unwrap();
    let run = stored(first.run_id()).await;
    assert_eq!((run.rerun_of().unwrap(), run.request_options().unwrap().attachments), (None, attachments.clone()));

    let again = Submit::again(&run).unwrap();
    assert_eq!(
        (again.policy, &again.attachments, &again.input),
        (Some(SessionPolicy::Parallel), &attachments, &Some(json!("hi")))
    );
    let key = Some("again".to_owned());
    let second = engine.submit(&definition.id, Submit { idempotency_key: key.clone(), ..again.clone() }).await.unwrap();
    assert_eq!(stored(second.run_id()).await.rerun_of().unwrap().as_ref(), Some(first.run_id()));
    // The same again is that run; the same without its origin is another request.
    let third = engine.submit(&definition.id, Submit { idempotency_key: key.clone(), ..again.clone() }).await.unwrap();
    assert_eq!((third.run_id(), third.is_repeated()), (second.run_id(), true));
    let other = Submit { idempotency_key: key, rerun_of: None, ..again };
    assert!(matches!(engine.submit(&definition.id, other).await, Err(Error::Conflict(_))));

    // What was stored before runs told of whom they repeat is read like what has no such thing to tell.
    let old = outlive_core::port::Run { options: Some(Arc::from(r#"{"additional_data":{"a":1}}"#)), ..run };
    assert_eq!((old.rerun_of().unwrap(), old.request_options().unwrap().policy), (None, SessionPolicy::Queue));
}

#[tokio::test(start_paused = true)]
async fn a_step_is_tried_again_after_its_back_off_and_a_long_one_holds_no_memory() {
    let db = InMemoryDb::new();
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    let flaky = Step::function("flaky", move |_, _: Arc<StepInput>| {
        let attempt = counted.fetch_add(1, Ordering::Relaxed) + 1;
        async move { if attempt < 3 { Err(Failure::function("not yet")) } else { Ok("there") } }
    });
    let retry = Retry::times(5).backoff(Duration::from_secs(60));
    let definition = workflow([flaky.retry(retry)]);
    let engine = engine(&db, &definition).await;
    let start = Instant::now();
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let mut events = run.events(None);
    while events.next().await.unwrap().is_some_and(|event| event.name() != "CustomEvent") {}
    // The back-off is longer than `park_after`: nobody holds the run, only the store knows it.
    let parked = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert!(parked.worker.is_none() && parked.due_at.is_some());
    let ended = run.wait().await.unwrap();
    assert_eq!((ended.status, attempts.load(Ordering::Relaxed)), (RunStatus::Completed, 3));
    assert!(start.elapsed() >= Duration::from_secs(30 + 60), "{:?}", start.elapsed());
    assert!(start.elapsed() <= Duration::from_secs(60 + 120 + 5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_users_function_fails_its_run_and_no_other() {
    let db = InMemoryDb::new();
    let bad = Step::function("bad", |_, input: Arc<StepInput>| async move {
        assert!(input.text() != "bad", "this input is cursed");
        Ok::<_, Failure>("fine")
    });
    let definition = workflow([bad]);
    let engine = engine(&db, &definition).await;
    let bad = engine.submit(&definition.id, input("bad")).await.unwrap();
    let good = engine.submit(&definition.id, input("good")).await.unwrap();
    let ended = bad.wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Error);
    assert!(ended.text().contains("this input is cursed"), "{}", ended.text());
    assert_eq!(good.wait().await.unwrap().status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_step_and_a_run_that_take_too_long_fail() {
    let db = InMemoryDb::new();
    let hour = Duration::from_secs(3600);
    let by_step = workflow([slow("a", hour).timeout(Duration::from_secs(2))]);
    let engine = engine(&db, &by_step).await;
    let ended = engine.submit(&by_step.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Error);
    assert!(ended.text().contains("limit of 2000 ms"), "{}", ended.text());

    let builder = outlive_core::Definition::builder("By run").timeout(Duration::from_secs(3));
    let by_run = Arc::new(builder.step(slow("a", hour)).build().unwrap());
    engine.register(by_run.clone());
    let start = Instant::now();
    let ended = engine.submit(&by_run.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Error);
    assert!(ended.text().contains("limit of 3000 ms"), "{}", ended.text());
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn a_skipped_failure_is_told_and_the_run_completes() {
    let db = InMemoryDb::new();
    let fails = Step::function("fails", |_, _: Arc<StepInput>| async { Err::<String, _>(Failure::fatal("no power")) });
    let definition = workflow([fails.on_error(OnError::Skip), append("b", &Calls::default())]);
    let engine = engine(&db, &definition).await;
    let ended = engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Completed);
    assert_eq!(ended.step_results[0].error.as_deref(), Some("no power"));
}

#[tokio::test(start_paused = true)]
async fn more_runs_than_there_is_room_for_wait_in_the_store() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", Duration::from_secs(1))]);
    let engine = engine_with(&db, &definition, Options { runs_max: 2, ..Options::default() }).await;
    let mut runs = Vec::new();
    let start = Instant::now();
    for _ in 0..6 {
        runs.push(engine.submit(&definition.id, input("hi")).await.unwrap());
    }
    for run in runs {
        assert_eq!(run.wait().await.unwrap().status, RunStatus::Completed);
    }
    assert!(start.elapsed() >= Duration::from_secs(3));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn bad_c13_a_full_queue_refuses_and_takes_runs_again_once_some_have_begun() {
    let db = InMemoryDb::new();
    let definition = workflow([slow("a", Duration::from_secs(1))]);
    let options = Options { runs_max: 1, queued_max: 2, ..Options::default() };
    let engine = engine_with(&db, &definition, options.clone()).await;
    let ask = || engine.submit(&definition.id, input("hi"));
    let mut accepted = Vec::new();
    for _ in 0..3 {
        accepted.push(ask().await.expect("one executes and two wait"));
    }
    for _ in 0..10 {
        assert!(matches!(ask().await, Err(Error::QueueFull { limit: 2 })));
    }
    // Another process that only accepts looks at the same queue.
    let other = Options { execute: false, ..options };
    let other = engine_with(&db, &definition, other).await;
    let mut refused = 0;
    for _ in 0..10 {
        refused += usize::from(other.submit(&definition.id, input("hi")).await.is_err());
    }
    assert_eq!(refused, 8, "it found out when it had accepted two itself");
    for run in accepted {
        assert_eq!(run.wait().await.unwrap().status, RunStatus::Completed, "what was accepted is executed");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(ask().await.expect("there is room again").wait().await.unwrap().status, RunStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_definition_changed_is_paused_and_says_where() {
    let db = InMemoryDb::new();
    let old = workflow([append("a", &Calls::default()), slow("b", Duration::from_secs(3600))]);
    let first = engine(&db, &old).await;
    let run = first.submit(&old.id, input("hi")).await.unwrap();
    let mut events = run.events(Some(3));
    assert_eq!(events.next().await.unwrap().unwrap().name(), "StepStarted");
    db.crash(&first.worker());
    first.kill();
    let new = workflow([append("a", &Calls::default()), append("c", &Calls::default())]);
    let second = engine(&db, &new).await;
    let mut events = second.events(run.run_id(), Some(4));
    let told = events.next().await.unwrap().unwrap();
    let EventKind::CustomEvent { fields } = &told.kind else { panic!("{told:?}") };
    assert_eq!(fields["name"], "DefinitionChanged");
    let paused = events.next().await.unwrap().unwrap();
    let EventKind::WorkflowPaused { step_requirements: Some(why), .. } = paused.kind else { panic!("{paused:?}") };
    let expected = "definition changed: steps[1]: was a function step \"b\", is a function step \"c\" (entry 4)";
    assert_eq!(why[0]["reason"], expected);
    let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert_eq!(stored.status, RunStatus::Paused);
    assert!(stored.worker.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_its_kind_in_the_log() {
    let db = InMemoryDb::new();
    let fails = Step::function("fails", |_, _: Arc<StepInput>| async {
        Err::<String, _>(Failure::new(FailureKind::Auth, "the key was refused"))
    });
    let definition = workflow([fails]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    run.wait().await.unwrap();
    let last = read_log(&db, run.run_id()).await.pop().unwrap();
    let EventKind::WorkflowError { error_type, .. } = last.event.kind else { panic!("{last:?}") };
    assert_eq!(error_type.as_deref(), Some("model_authentication_error"));
}

#[tokio::test]
async fn many_readers_of_one_run_see_the_same_events_each_from_where_it_begins() {
    let db = InMemoryDb::new();
    let step = Step::function("tell", |context: StepContext, _: Arc<StepInput>| async move {
        for n in 0..1000 {
            context.progress(n.to_string(), None);
            if n % 7 == 0 {
                context.effects.durable().await.map_err(|_| Failure::new(FailureKind::Cancelled, "halted"))?;
                tokio::task::yield_now().await;
            }
        }
        Ok::<_, Failure>("told")
    });
    let definition = workflow([step]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let readers = (0..40u64).map(|reader| {
        let mut events = run.events((reader % 4 > 0).then_some(reader * 25));
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(event) = events.next().await.unwrap() {
                seen.push(serde_json::to_string(&event).unwrap());
            }
            (reader, seen)
        })
    });
    let readers: Vec<_> = readers.collect();
    run.wait().await.unwrap();
    let all: Vec<_> =
        read_log(&db, run.run_id()).await.iter().map(|e| serde_json::to_string(&e.event).unwrap()).collect();
    for reader in readers {
        let (reader, seen) = reader.await.unwrap();
        let from = if reader % 4 > 0 { usize::try_from(reader * 25 + 1).unwrap() } else { 0 };
        assert_eq!(seen, all[from..], "reader {reader}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_known_secret_reaches_neither_log_nor_output_nor_session() {
    const CANARY: &str = "canary-5f2e9c1d7a";
    let db = InMemoryDb::new();
    let step = Step::function("leak", |context: StepContext, _: Arc<StepInput>| async move {
        context.progress(format!("using {CANARY}"), Some(json!({ "authorization": CANARY })));
        context.state.set("note", format!("kept {CANARY}"));
        Ok::<_, Failure>(format!("the key is {CANARY}"))
    });
    let definition = workflow([step]);
    let options = Options { secrets: vec![CANARY.into()], ..Options::default() };
    let engine = engine_with(&db, &definition, options).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let ended = run.wait().await.unwrap();
    assert_eq!(ended.text(), "the key is [redacted]");
    let log = serde_json::to_string(&read_log(&db, run.run_id()).await).unwrap();
    let session = db.session(Access::All, ended.session_id.clone()).await.unwrap().unwrap();
    for text in [log, serde_json::to_string(&ended).unwrap(), serde_json::to_string(&session.state).unwrap()] {
        assert!(!text.contains(CANARY) && text.contains("[redacted]"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_run_that_is_paused_comes_back_at_once_and_may_go_on() {
    let db = InMemoryDb::new();
    let doubts = Step::function("doubts", |_, _: Arc<StepInput>| async {
        Err::<String, _>(Failure::new(FailureKind::OutcomeUnknown, "it may have been paid"))
    });
    let definition = workflow([slow("a", Duration::from_secs(3)), doubts]);
    let engine = engine(&db, &definition).await;
    let begun = Instant::now();
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let (mut ending, mut lasting) = (run.events(None), run.events(None).through_pauses());
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Paused);
    let mut seen = Vec::new();
    while let Some(event) = ending.next().await.unwrap() {
        seen.push(event.name().to_owned());
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "nobody looked by himself: {:?}", begun.elapsed());
    assert_eq!(seen.last().map(String::as_str), Some("WorkflowPaused"));
    assert!(ending.next().await.unwrap().is_none(), "it may be asked again");
    for name in &seen {
        assert_eq!(lasting.next().await.unwrap().unwrap().name(), name);
    }
    assert!(engine.standing(run.run_id()).await.unwrap().unwrap().is_at_rest);

    let next = tokio::spawn(async move { lasting.next().await.unwrap().unwrap().name().to_owned() });
    tokio::task::yield_now().await;
    assert!(!next.is_finished(), "it waits through the pause");
    run.cancel("enough").await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Cancelled);
    next.await.unwrap();
    assert!(ending.next().await.unwrap().is_some(), "what came after the pause is there for the other, too");
}

#[tokio::test(start_paused = true)]
async fn a_paused_run_whose_cancellation_was_accepted_is_not_at_rest_before_it_is_cancelled() {
    let db = InMemoryDb::new();
    let doubts = Step::function("doubts", |_, _: Arc<StepInput>| async {
        Err::<String, _>(Failure::new(FailureKind::OutcomeUnknown, "it may have been paid"))
    });
    let definition = workflow([doubts]);
    let first = engine(&db, &definition).await;
    let run_id = first.submit(&definition.id, input("hi")).await.unwrap().run_id().clone();
    assert_eq!(first.attach(run_id.clone()).wait().await.unwrap().status, RunStatus::Paused);
    first.shutdown().await.unwrap();
    let intent = CancelIntent { at: Timestamp::from_seconds(1_800_000_000), reason: "enough".into() };
    db.request_cancel(Access::All, run_id.clone(), intent).await.unwrap();

    let reader = Reader::over(Arc::new(db.clone()), Options::default());
    assert!(!reader.standing(&run_id).await.unwrap().unwrap().is_at_rest);
    let waited = tokio::time::timeout(Duration::from_secs(60), reader.wait(&run_id)).await;
    assert!(waited.is_err(), "nobody is there to cancel it: {waited:?}");
    let second = engine(&db, &definition).await;
    assert_eq!(reader.wait(&run_id).await.unwrap().status, RunStatus::Cancelled);
    second.shutdown().await.unwrap();
}
