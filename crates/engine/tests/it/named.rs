//! What functions record under names of their own: calls that are made once, and sleeps.

use crate::stage::{Calls, append, engine, input, slow, workflow};
use futures::future::{Either, join, select};
use outlive_core::port::{Access, Clock, RunStore, StepContext};
use outlive_core::{
    Answer, Definition, Entry, Failure, HumanReview, OnError, Parallel, Record, Retry, RunStatus, Step, StepInput,
    Steps, Timestamp,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{SimulatedClock, TroubledDb, broken_invariants, poll_and_drop, read_log};
use outlive_engine::{Engine, Options, RunHandle};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// Charges once, sleeps, and ships.
fn order(began: &Calls, charged: &Calls, sleeps: Duration) -> Step {
    let (began, charged) = (began.clone(), charged.clone());
    Step::function("order", move |context: StepContext, _| {
        let (began, charged) = (began.clone(), charged.clone());
        async move {
            began.note();
            let charge = || async {
                charged.note();
                tokio::task::yield_now().await;
                Ok(format!("receipt {}", charged.count()))
            };
            let receipt: String = context.once("charge", charge).await?;
            context.sleep("cooling off", sleeps).await?;
            Ok::<_, Failure>(format!("shipped with {receipt}"))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_long_sleep_holds_no_memory_and_what_was_recorded_before_it_is_not_repeated() {
    let (db, began, charged) = (InMemoryDb::new(), Calls::default(), Calls::default());
    let definition = workflow([order(&began, &charged, HOUR)]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("it sleeps").kind.name() != "CustomEvent" {}
    loop {
        let parked = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
        if parked.worker.is_none() && parked.due_at.is_some() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let parked = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    let why = engine.waiting(&parked).await.unwrap().expect("it waits");
    assert_eq!(why.reason, "step \"order\" sleeps (cooling off)");
    assert!(why.until.is_some());
    let ended = run.wait().await.unwrap();
    assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Completed, "shipped with receipt 1"));
    assert_eq!((began.count(), charged.count()), (2, 1), "from its top again, the call once");
    let log = read_log(&db, run.run_id()).await;
    let keys: Vec<_> = log.iter().filter_map(|entry| Some(entry.record.as_ref()?.key()?.to_string())).collect();
    assert_eq!(keys, ["0", "0/k:charge", "0/k:charge", "0/k:cooling off", "0"]);
}

#[tokio::test(start_paused = true)]
async fn a_function_sleeps_in_place_while_a_sibling_is_executing_and_a_short_sleep_always_does() {
    let (db, began, charged) = (InMemoryDb::new(), Calls::default(), Calls::default());
    let parallel = Parallel::new("par").step(order(&began, &charged, 2 * HOUR)).step(slow("slow", HOUR));
    let definition = Arc::new(Definition::builder("Example").step(parallel).build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(HOUR / 2).await;
    assert!(db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().worker.is_some());
    tokio::time::sleep(HOUR).await;
    let alone = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert!(alone.worker.is_none() && alone.due_at.is_some(), "its sibling has ended");
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Completed);
    assert_eq!(charged.count(), 1);

    let (began, charged) = (Calls::default(), Calls::default());
    let definition = workflow([order(&began, &charged, Duration::from_secs(2))]);
    let engine = crate::stage::engine(&InMemoryDb::new(), &definition).await;
    engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!((began.count(), charged.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_at_a_crash_is_made_again_under_its_key_and_one_that_ended_is_not() {
    let (db, made) = (InMemoryDb::new(), Arc::new(AtomicU32::new(0)));
    let counted = made.clone();
    let step = Step::function("step", move |context: StepContext, _| {
        let counted = counted.clone();
        async move {
            let first: u32 =
                context.once("first", || async { Ok(counted.fetch_add(1, Ordering::Relaxed) + 1) }).await?;
            let key = context.call_key("second");
            let second: String = context
                .once("second", || async {
                    if counted.fetch_add(1, Ordering::Relaxed) == 1 {
                        std::future::pending::<()>().await;
                    }
                    Ok(key.clone())
                })
                .await?;
            Ok::<_, Failure>(format!("{first} {second}"))
        }
    });
    let definition = workflow([step]);
    let first = engine(&db, &definition).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    while made.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    db.crash(&first.worker());
    drop(first);
    let second = engine(&db, &definition).await;
    let ended = second.attach(run.run_id().clone()).wait().await.unwrap();
    assert_eq!(ended.text(), format!("1 {}/0/k:second", run.run_id()));
    assert_eq!(made.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn another_attempt_at_the_step_keeps_its_calls_and_one_at_its_container_does_not() {
    let (db, charged, attempts) = (InMemoryDb::new(), Calls::default(), Arc::new(AtomicU32::new(0)));
    let (noted, counted) = (charged.clone(), attempts.clone());
    let step = Step::function("step", move |context: StepContext, _| {
        let (noted, counted) = (noted.clone(), counted.clone());
        async move {
            let charge = || async {
                noted.note();
                Ok(())
            };
            context.once("charge", charge).await?;
            if counted.fetch_add(1, Ordering::Relaxed) < 3 { Err(Failure::function("not yet")) } else { Ok("done") }
        }
    });
    let retry = || Retry::times(1).backoff(Duration::from_secs(60));
    let group = Steps::new("group").step(step.retry(retry())).retry(retry()).on_error(OnError::Fail);
    let definition = Arc::new(Definition::builder("Example").step(group).build().unwrap());
    let engine = engine(&db, &definition).await;
    let ended = engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!((ended.status, attempts.load(Ordering::Relaxed)), (RunStatus::Completed, 4), "{}", ended.text());
    assert_eq!(charged.count(), 2, "once for each attempt at the group");
}

#[tokio::test(start_paused = true)]
async fn a_name_is_used_once_and_what_was_recorded_under_it_has_one_type() {
    let twice = Step::function("twice", |context: StepContext, _| async move {
        context.once("call", || async { Ok(1) }).await?;
        context.sleep("call", HOUR).await?;
        Ok::<_, Failure>(())
    });
    let definition = workflow([twice]);
    let engine = engine(&InMemoryDb::new(), &definition).await;
    let ended = engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Error);
    assert!(ended.text().contains("the name \"call\" is used twice in one function"), "{}", ended.text());

    let attempts = Arc::new(AtomicU32::new(0));
    let changes = Step::function("changes", move |context: StepContext, _| {
        let attempts = attempts.clone();
        async move {
            if attempts.fetch_add(1, Ordering::Relaxed) == 0 {
                context.once("call", || async { Ok("text".to_owned()) }).await?;
                return Err(Failure::function("again"));
            }
            let number: u32 = context.once("call", || async { Ok(7) }).await?;
            Ok::<_, Failure>(number.to_string())
        }
    });
    let definition = workflow([changes.retry(Retry::times(1))]);
    let engine = crate::stage::engine(&InMemoryDb::new(), &definition).await;
    let ended = engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert!(ended.text().contains("what was recorded under \"call\" is of another type"), "{}", ended.text());
}

/// One process after another on the same store, with the same clock.
async fn heir(db: &InMemoryDb, definition: &Arc<Definition>, clock: SimulatedClock) -> Engine {
    let options = Options { scan_period: Duration::from_millis(500), ..Options::default() };
    let db = TroubledDb::yielding(Arc::new(db.clone()));
    let builder = Engine::builder(db).workflow(definition.clone()).options(options);
    builder.clock(Arc::new(clock)).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_process_may_go_at_any_await_of_a_function_that_calls_and_sleeps() {
    let mut at_most = 0;
    for times in 0.. {
        let (db, began, charged) = (InMemoryDb::new(), Calls::default(), Calls::default());
        let definition =
            workflow([order(&began, &charged, Duration::from_secs(6)), append("after", &Calls::default())]);
        let clock = SimulatedClock::start();
        let first = heir(&db, &definition, clock).await;
        let run_id = first.submit(&definition.id, input("hi")).await.unwrap().run_id().clone();
        poll_and_drop(std::future::pending::<()>(), times).await;
        let is_asleep = db.run(Access::All, run_id.clone()).await.unwrap().unwrap().worker.is_none();
        first.kill();
        db.crash(&first.worker());
        let second = heir(&db, &definition, clock).await;
        let ended = second.attach(run_id.clone()).wait().await.unwrap();
        let place = format!("the process went after {times} polls");
        assert_eq!(ended.status, RunStatus::Completed, "{place}: {}", ended.text());
        // What was recorded is what the end says, whatever was done in vain.
        let log = read_log(&db, &run_id).await;
        assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new(), "{place}");
        let made = charged.count();
        assert!((1..=2).contains(&made), "{place}: charged {made} times");
        assert_eq!(ended.text(), format!("shipped with receipt {made} after"), "{place}");
        at_most = at_most.max(made);
        if is_asleep {
            break;
        }
        assert!(times < 60, "it does not come to its sleep");
    }
    assert_eq!(at_most, 2, "somewhere the call was in flight");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_lost_the_run_records_nothing_of_its_call() {
    let (db, made, released) = (InMemoryDb::new(), Calls::default(), Arc::new(Notify::new()));
    let (counted, release) = (made.clone(), released.clone());
    let step = Step::function("step", move |context: StepContext, _| {
        let (counted, release) = (counted.clone(), release.clone());
        async move {
            let call = || async {
                counted.note();
                let number = counted.count();
                if number == 1 {
                    release.notified().await;
                }
                Ok(number)
            };
            let number: usize = context.once("call", call).await?;
            context.sleep("rest", MINUTE).await?;
            Ok::<_, Failure>(number.to_string())
        }
    });
    let (definition, clock) = (workflow([step]), SimulatedClock::start());
    let first = heir(&db, &definition, clock).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    while made.count() == 0 {
        tokio::task::yield_now().await;
    }
    // It lives on, and does not know that another has taken its run over.
    db.crash(&first.worker());
    let second = heir(&db, &definition, clock).await;
    while made.count() == 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    released.notify_one();
    let ended = second.attach(run.run_id().clone()).wait().await.unwrap();
    assert_eq!((ended.text().as_str(), made.count()), ("2", 2), "the first engine's answer came too late");
    let log = read_log(&db, run.run_id()).await;
    let key_of = |entry: &Entry| entry.record.as_ref().and_then(|record| record.key()).cloned();
    let named = log.iter().filter_map(key_of).filter(|key| key.is_named());
    assert_eq!(named.count(), 3, "an intent, a result, a sleep");
}

#[tokio::test(start_paused = true)]
async fn a_call_beside_a_sleep_is_given_its_time_and_the_earliest_of_several_sleeps_counts() {
    let (made, entered) = (Calls::default(), Calls::default());
    let (counted, noted) = (made.clone(), entered.clone());
    let step = Step::function("step", move |context: StepContext, _| {
        let (counted, noted) = (counted.clone(), noted.clone());
        async move {
            noted.note();
            // A call that may take an hour at most, and takes a minute.
            let call = context.once("call", || async {
                counted.note();
                tokio::time::sleep(MINUTE).await;
                Ok("answer".to_owned())
            });
            let answer = match select(pin!(call), pin!(context.sleep("limit", HOUR))).await {
                Either::Left((answer, _)) => answer?,
                Either::Right((slept, _)) => slept.map(|()| "too late".to_owned())?,
            };
            // Nobody waits for the limit any more.
            tokio::time::sleep(Duration::from_secs(20)).await;
            select(pin!(context.sleep("long", 5 * HOUR)), pin!(context.sleep("short", HOUR))).await;
            Ok::<_, Failure>(answer)
        }
    });
    let (db, definition) = (InMemoryDb::new(), workflow([step]));
    let options = Options { scan_period: HOUR, ..Options::default() };
    let builder = Engine::builder(Arc::new(db.clone())).workflow(definition.clone()).options(options);
    let engine = builder.clock(Arc::new(SimulatedClock::start())).start().await.unwrap();
    let begun = tokio::time::Instant::now();
    let ended = engine.submit(&definition.id, input("hi")).await.unwrap().wait().await.unwrap();
    assert_eq!((ended.text().as_str(), made.count(), entered.count()), ("answer", 1, 2));
    let took = begun.elapsed();
    assert!(took > HOUR && took < 2 * HOUR, "until the shorter sleep was over: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_function_that_makes_something_of_being_stopped_is_executed_again_all_the_same() {
    let (db, entered) = (InMemoryDb::new(), Calls::default());
    let noted = entered.clone();
    let step = Step::function("step", move |context: StepContext, _| {
        let noted = noted.clone();
        async move {
            noted.note();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let answer = context.once("call", || async { Ok("answer".to_owned()) }).await;
            Ok::<_, Failure>(answer.unwrap_or_else(|_| "it did not work".to_owned()))
        }
    });
    let (definition, clock) = (workflow([step]), SimulatedClock::start());
    let first = heir(&db, &definition, clock).await;
    let run_id = first.submit(&definition.id, input("hi")).await.unwrap().run_id().clone();
    while entered.count() == 0 {
        tokio::task::yield_now().await;
    }
    first.shutdown().await.unwrap();
    let second = heir(&db, &definition, clock).await;
    let ended = second.attach(run_id).wait().await.unwrap();
    assert_eq!((ended.text().as_str(), entered.count()), ("answer", 2));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_a_sleep_in_place_and_one_that_is_parked() {
    for (sleeps, is_parked) in [(Duration::from_secs(3), false), (MINUTE, true)] {
        let (db, clock) = (InMemoryDb::new(), SimulatedClock::start());
        let definition = workflow([order(&Calls::default(), &Calls::default(), sleeps)]);
        let engine = heir(&db, &definition, clock).await;
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
        assert_eq!(stored.worker.is_none(), is_parked);
        engine.cancel(run.run_id(), "enough").await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(run.wait().await.unwrap().status, RunStatus::Cancelled);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

/// Asks, waits no longer than this for the answer, and has more to do then.
fn asks_until(limit: Duration) -> Step {
    Step::function("asks", move |context: StepContext, _| async move {
        let asked = context.ask("go", HumanReview::confirmation("Go?"));
        let outcome = match select(pin!(asked), pin!(context.sleep("limit", limit))).await {
            Either::Left((answer, _)) => format!("{:?}", answer?),
            Either::Right((slept, _)) => slept.map(|()| "nobody answered".to_owned())?,
        };
        tokio::time::sleep(Duration::from_secs(20)).await;
        Ok::<_, Failure>(outcome)
    })
}

/// The id of the only question that is open, as soon as there is one.
async fn question(run: &RunHandle) -> Arc<str> {
    loop {
        if let [open] = &run.questions().await.unwrap()[..] {
            return open.id().clone();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// When the step of this name ended.
fn ended_at(log: &[Entry], name: &str) -> Timestamp {
    let is_end = |entry: &&Entry| match &entry.record {
        Some(Record::Step { output, .. }) => output.step_name.as_deref() == Some(name),
        _ => false,
    };
    log.iter().find(is_end).expect("it has ended").time()
}

#[tokio::test(start_paused = true)]
async fn of_a_question_and_a_sleep_in_one_function_the_first_to_end_counts() {
    for limit in [MINUTE, Duration::from_secs(4)] {
        for (has_sibling, is_answered) in [(false, false), (false, true), (true, false), (true, true)] {
            for is_killed in [false, true] {
                let place = format!("{limit:?}, sibling {has_sibling}, answered {is_answered}, killed {is_killed}");
                let (db, clock) = (InMemoryDb::new(), SimulatedClock::start());
                let parallel = Parallel::new("par").step(asks_until(limit));
                let parallel = if has_sibling { parallel.step(slow("work", 3 * MINUTE)) } else { parallel };
                let definition = Arc::new(Definition::builder("Example").step(parallel).build().unwrap());
                let mut engine = heir(&db, &definition, clock).await;
                let begun = clock.now();
                let run_id = engine.submit(&definition.id, input("hi")).await.unwrap().run_id().clone();
                let id = question(&engine.attach(run_id.clone())).await;
                tokio::time::sleep(Duration::from_secs(2)).await;
                let stored = db.run(Access::All, run_id.clone()).await.unwrap().unwrap();
                assert_eq!(stored.status, RunStatus::Running, "{place}: it goes on by itself");
                let leaves = limit == MINUTE && !has_sibling;
                assert_eq!((stored.worker.is_none(), stored.due_at.is_some()), (leaves, leaves), "{place}");
                if is_killed {
                    engine.kill();
                    db.crash(&engine.worker());
                    engine = heir(&db, &definition, clock).await;
                }
                if is_answered {
                    engine.answer([(id, Answer::Approve)], None).await.unwrap();
                }
                let run = engine.attach(run_id);
                let ended = tokio::time::timeout(HOUR, run.wait()).await.expect("it ends").unwrap();
                assert_eq!(ended.status, RunStatus::Completed, "{place}: {}", ended.text());
                let log = read_log(&db, run.run_id()).await;
                assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new(), "{place}");
                let asked = |entry: &&Entry| matches!(entry.record, Some(Record::Waiting { .. }));
                assert_eq!(log.iter().filter(asked).count(), 1, "{place}: it is asked once");
                let expected = if is_answered { "Approve" } else { "nobody answered" };
                assert_eq!(ended.step_results[0].steps[0].text(), expected, "{place}");
                let took = ended_at(&log, "asks").since(begun);
                let least = if is_answered { Duration::ZERO } else { limit };
                // A process that takes over may have to wait until the lease of the one before is over.
                assert!(took >= least && took < least + MINUTE, "{place}: after {took:?}");
                assert!(run.questions().await.unwrap().is_empty(), "{place}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_asks_pauses_once_its_function_does_nothing_else() {
    let (db, made) = (InMemoryDb::new(), Calls::default());
    let counted = made.clone();
    let either = Step::function("either", move |context: StepContext, _| {
        let counted = counted.clone();
        async move {
            let call = context.once("call", || async {
                counted.note();
                tokio::time::sleep(MINUTE).await;
                Ok("called".to_owned())
            });
            match select(pin!(context.ask("stop", HumanReview::confirmation("Stop?"))), pin!(call)).await {
                Either::Left((answer, _)) => answer.map(|answer| format!("{answer:?}")),
                Either::Right((called, _)) => called,
            }
        }
    });
    let both = Step::function("both", |context: StepContext, input: Arc<StepInput>| async move {
        let asked = context.ask("go", HumanReview::confirmation("Go?"));
        let (answer, slept) = join(asked, context.sleep("least", HOUR)).await;
        slept?;
        Ok::<_, Failure>(format!("{} {:?}", input.text(), answer?))
    });
    let (definition, clock) = (workflow([either, both]), SimulatedClock::start());
    let engine = heir(&db, &definition, clock).await;
    let begun = clock.now();
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let paused = tokio::time::timeout(10 * HOUR, run.wait()).await.expect("it rests").unwrap();
    assert_eq!((paused.status, made.count()), (RunStatus::Paused, 1));
    let waited = clock.now().since(begun);
    assert!(waited > HOUR && waited < HOUR + 2 * MINUTE, "it had something to wait for until then: {waited:?}");
    let id = question(&run).await;
    engine.answer([(id, Answer::Approve)], None).await.unwrap();
    let ended = tokio::time::timeout(HOUR, run.wait()).await.expect("it ends").unwrap();
    assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Completed, "called Approve"));
}

#[tokio::test(start_paused = true)]
async fn a_function_that_has_given_up_a_question_goes_on_with_the_answer_to_another() {
    for is_killed in [false, true] {
        let (db, clock) = (InMemoryDb::new(), SimulatedClock::start());
        let step = Step::function("step", |context: StepContext, _| async move {
            let first = context.ask("first", HumanReview::confirmation("Do you know?"));
            if let Either::Left((answer, _)) = select(pin!(first), pin!(context.sleep("limit", HOUR))).await {
                return Ok(format!("first: {:?}", answer?));
            }
            let second = context.ask("second", HumanReview::confirmation("Do you, then?")).await?;
            Ok::<_, Failure>(format!("second: {second:?}"))
        });
        let definition = workflow([step]);
        let mut engine = heir(&db, &definition, clock).await;
        let run_id = engine.submit(&definition.id, input("hi")).await.unwrap().run_id().clone();
        let paused = engine.attach(run_id.clone()).wait().await.unwrap();
        assert_eq!(paused.status, RunStatus::Paused, "{}", paused.text());
        let open = engine.attach(run_id.clone()).questions().await.unwrap();
        assert_eq!(open.len(), 2);
        if is_killed {
            engine.kill();
            db.crash(&engine.worker());
            engine = heir(&db, &definition, clock).await;
        }
        let second = open.iter().find(|open| open.question.message.as_deref() == Some("Do you, then?")).unwrap();
        engine.answer([(second.id().clone(), Answer::Approve)], None).await.unwrap();
        let run = engine.attach(run_id);
        let ended = tokio::time::timeout(HOUR, run.wait()).await.expect("it ends").unwrap();
        assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Completed, "second: Approve"));
        assert!(run.questions().await.unwrap().is_empty(), "nobody needs to answer the first any more");
    }
}
