//! Forks: what is kept is not done again, what is changed reaches what comes after, and a fork is a run like any other.

use crate::stage::{Calls, MemoryStage, append, engine, engine_with, input, workflow};
use outlive_core::fork::{CallKind, ForkedFrom};
use outlive_core::log::Entry;
use outlive_core::port::{Access, Clock, Db, RunStore, SessionPolicy, SessionStore, StepContext};
use outlive_core::{
    Answer, Definition, EventKind, Failure, ForEach, HumanReview, Loop, OnError, Parallel, Retry, RunId, RunStatus,
    Step, StepInput, StepOutput, Steps, WorkflowRunOutput,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{
    Moment, SimulatedClock, Stage, TroubledDb, broken_invariants, normal, poll_and_drop, read_log, row_equals_fold,
};
use outlive_engine::{Engine, Error, Fork, Options, RunHandle, Submit};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(1_800);

async fn ended(run: &RunHandle) -> WorkflowRunOutput {
    timeout(LONG, run.wait()).await.expect("it rests").unwrap()
}

async fn submitted(engine: &Engine, definition: &Definition) -> RunHandle {
    engine.submit(&definition.id, input("hi")).await.unwrap()
}

/// The fork's log is sound, its row is its fold, and nothing in it names the run it was made from but the entry that is
/// there to.
async fn is_sound(db: &dyn Db, definition: &Definition, parent: &RunId, fork: &RunHandle) -> Vec<Entry> {
    let stored = db.run(Access::All, fork.run_id().clone()).await.unwrap().unwrap();
    let log = read_log(db, fork.run_id()).await;
    assert_eq!(broken_invariants(&log, &fork.get().await.unwrap().unwrap()), Vec::<String>::new());
    assert!(row_equals_fold(db, &stored, definition, &log).await, "the row is not the fold");
    for entry in &log {
        let text = serde_json::to_string(entry).unwrap();
        let is_mark = text.contains("RunForked");
        assert!(is_mark || !text.contains(parent.as_str()), "{text}");
    }
    log
}

/// A run's output without what differs between a run and its fork, which does the same.
fn plain(output: &WorkflowRunOutput) -> Value {
    let mut value = normal(output);
    without_ids(&mut value);
    value
}

fn without_ids(value: &mut Value) {
    const IDS: [&str; 8] =
        ["run_id", "session_id", "step_id", "step_run_id", "parent_run_id", "workflow_step_id", "id", "metrics"];
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !IDS.contains(&name.as_str()));
            fields.values_mut().for_each(without_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(without_ids),
        Value::String(text) if text.starts_with("Run ") => text.clear(),
        _ => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_could_be_two_is_refused_and_both_ways_to_write_it_are_told() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("1", &calls), append("b", &calls), append("2", &calls)]);
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    ended(&run).await;
    let again = async |place: &str| {
        let preview = run.fork(place).preview().await;
        preview.map(|preview| preview.again.len()).map_err(|error| error.to_string())
    };
    let refused = again("1").await.unwrap_err();
    assert!(refused.contains(r#"write "key:1" or "step:1""#), "{refused}");
    let edited = run.fork("1").output("x").preview().await.unwrap_err().to_string();
    assert_eq!(edited, refused);
    assert_eq!((again("key:1").await, again("step:1").await), (Ok(2), Ok(3)));
    assert_eq!((again("2").await, again("b").await, again("step:b").await), (Ok(1), Ok(2), Ok(2)));
    assert!(again("step:c").await.unwrap_err().contains("nothing called \"step:c\" has begun"));
}

#[tokio::test(start_paused = true)]
async fn a_fork_at_every_entry_makes_the_calls_after_it_and_comes_to_the_same_end() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls), append("b", &calls), append("c", &calls)]);
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    let whole = ended(&run).await;
    let log = read_log(&db, run.run_id()).await;
    let mut again = Vec::new();
    for at in 0..log.len() as u64 {
        let before = calls.count();
        let request = run.fork(at);
        let preview = request.preview().await.unwrap();
        assert_eq!(calls.count(), before, "a preview executes nothing");
        let fork = request.background().await.unwrap();
        let output = ended(&fork).await;
        assert_eq!(calls.count() - before, preview.again.len(), "at {at}");
        assert_eq!(preview.kept.len() + preview.again.len(), 3, "at {at}");
        assert_eq!(plain(&output), plain(&whole), "at {at}");
        let forked = is_sound(&db, &definition, run.run_id(), &fork).await;
        let cut = usize::try_from(preview.forked_from.at).unwrap();
        assert!(cut.abs_diff(usize::try_from(at).unwrap()) <= 1);
        for (old, new) in log[..cut].iter().zip(&forked) {
            assert_eq!((old.event.name(), old.at), (new.event.name(), new.at), "at {at}");
        }
        let stored = db.run(Access::All, fork.run_id().clone()).await.unwrap().unwrap();
        assert_eq!(stored.forked_from().unwrap(), Some(preview.forked_from.clone()), "at {at}");
        again.push(preview.again.len());
    }
    assert_eq!(again.iter().max(), Some(&3));
    assert_eq!(again.last(), Some(&0), "the last entry but one has everything");
    assert!(again.is_sorted_by(|one, other| one >= other), "{again:?}");
    let past = run.fork(log.len() as u64).preview().await.unwrap_err().to_string();
    assert!(past.contains("at entries 0 to 10"), "{past}");
    // A fork of a fork.
    let fork = run.fork("b").background().await.unwrap();
    ended(&fork).await;
    let before = calls.count();
    let second = fork.fork("c").background().await.unwrap();
    assert_eq!(plain(&ended(&second).await), plain(&whole));
    assert_eq!(calls.count() - before, 1);
    is_sound(&db, &definition, fork.run_id(), &second).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_edited_reaches_what_comes_after() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let named = Step::function("named", |context: StepContext, input: Arc<StepInput>| async move {
        let looked: String = context.once("look", || async { Ok("seen".to_owned()) }).await?;
        Ok::<_, Failure>(format!("{} {looked}", input.text()))
    });
    let asks = append("c", &calls)
        .human_review(HumanReview::user_input("Which?", [outlive_core::UserInputField::new("colour")]));
    let tells = Step::function("d", |_, input: Arc<StepInput>| async move {
        Ok::<_, Failure>(format!("{} of {}", input.text(), input.input_text()))
    });
    let definition = workflow([append("a", &calls), named, asks, tells]);
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    assert_eq!(ended(&run).await.status, RunStatus::Paused);
    // A paused run is forked as it stands, and its fork asks by itself.
    let waits = run.fork(read_log(&db, run.run_id()).await.len() as u64).background().await.unwrap();
    assert_eq!(ended(&waits).await.status, RunStatus::Paused);
    let open = waits.questions().await.unwrap();
    assert_eq!(open.len(), 1);
    open[0].input([("colour", json!("blue"))]).await.unwrap();
    assert_eq!(ended(&waits).await.text(), "hi a seen c of hi");
    is_sound(&db, &definition, run.run_id(), &waits).await;

    let question = run.questions().await.unwrap().remove(0);
    let key = question.question.key.clone();
    question.by("ada").input([("colour", json!("red"))]).await.unwrap();
    ended(&run).await;
    let text = |fork: RunHandle| async move { ended(&fork).await.text() };
    let at_a = run.fork("a").output("other");
    assert_eq!(at_a.preview().await.unwrap().again.len(), 4, "three steps, and a named call");
    assert_eq!(text(at_a.background().await.unwrap()).await, "", "it asks again");
    let end = run.fork("c").output("fresh").background().await.unwrap();
    assert_eq!(text(end.clone()).await, "fresh of hi");
    is_sound(&db, &definition, run.run_id(), &end).await;
    let called = run.fork("1/k:look").output("found").background().await.unwrap();
    let open = async {
        ended(&called).await;
        called.questions().await.unwrap().remove(0)
    };
    open.await.input([("colour", json!("red"))]).await.unwrap();
    assert_eq!(text(called).await, "hi a found c of hi");
    let asked = run.fork("d").input("ho").background().await.unwrap();
    assert_eq!(text(asked).await, "hi a seen c of ho");

    // Another answer.
    let values = Answer::input([("colour", json!("green"))]);
    let answered = run.fork(&key).answer(values).by("bob").background().await.unwrap();
    assert_eq!(text(answered.clone()).await, "hi a seen c of hi");
    let log = is_sound(&db, &definition, run.run_id(), &answered).await;
    let told = serde_json::to_string(&log).unwrap();
    assert!(told.contains("green") && told.contains("bob") && !told.contains("\"red\""), "{told}");

    for (fork, problem) in [
        (run.fork("nowhere"), "nothing called \"nowhere\" has begun"),
        (run.fork("nowhere").output(1), "\"nowhere\" gave nothing back that could be edited"),
        (run.fork(0).output(1), "entry 0 gave nothing back"),
        (run.fork("a").answer(Answer::Approve), "no question was answered at \"a\""),
        (run.fork("c").answer(Answer::Retry), "cannot"),
        (run.retry(), "only one that ended ERROR or CANCELLED"),
    ] {
        let refused = fork.background().await.unwrap_err();
        assert!(
            refused.to_string().contains(problem) || matches!(refused, Error::InvalidAnswer { .. }),
            "{problem}: {refused}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_on_with_the_failed_call_or_executes_the_failed_step_anew() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let works = Arc::new(AtomicBool::new(false));
    let (does, counted) = (works.clone(), calls.clone());
    let fails = Step::function("fails", move |context: StepContext, input: Arc<StepInput>| {
        let (does, counted) = (does.clone(), counted.clone());
        async move {
            counted.note();
            let note = || async {
                counted.note();
                Ok("noted".to_owned())
            };
            let noted: String = context.once("note", note).await?;
            context.state.set("attempt", context.step.attempt);
            let call = || async {
                if does.load(Ordering::Relaxed) { Ok("done".to_owned()) } else { Err(Failure::function("no")) }
            };
            let done: String = context.once("call", call).await?;
            Ok::<_, Failure>(format!("{} {noted} {done}", input.text()))
        }
    });
    let does = works.clone();
    let plain_step = Step::function("plain", move |context: StepContext, input: Arc<StepInput>| {
        let does = does.clone();
        async move {
            match does.load(Ordering::Relaxed) && context.step.attempt == 1 {
                true => Ok(format!("{} plain", input.text())),
                false => Err(Failure::function(format!("attempt {}", context.step.attempt))),
            }
        }
    });
    let beside = Parallel::new("beside").step(append("b", &calls)).step(plain_step.retry(Retry::times(2)));
    let builder = Definition::builder("Example").step(append("a", &calls)).step(fails.retry(Retry::times(1)));
    let definition = Arc::new(builder.step(beside).build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    assert_eq!(ended(&run).await.status, RunStatus::Error);
    for (fork, meant) in [
        (run.fork("fials"), "nothing called \"fials\" has begun; did you mean \"fails\"?: name a step"),
        (run.fork("1/k:ntoe"), "did you mean \"1/k:note\"?"),
        (run.fork("fials").output(1), "could be edited; did you mean \"fails\"?"),
        (run.fork("fails").output(1), "could be edited: name a step"),
        (run.fork("fials").answer(Answer::Approve), "at \"fials\"; did you mean \"fails\"?"),
    ] {
        let refused = fork.background().await.unwrap_err().to_string();
        assert!(refused.contains(meant), "{refused}");
    }
    let before = calls.count();
    // In the call it was making: what it noted is kept, and so is what came before.
    works.store(true, Ordering::Relaxed);
    let preview = run.retry().preview().await.unwrap();
    let keys: Vec<_> = preview.again.iter().map(|call| (call.key.as_str(), call.kind, call.is_once)).collect();
    assert_eq!(keys, [("1", CallKind::Function, false), ("1/k:call", CallKind::Named, true)]);
    assert_eq!(preview.once().count(), 1);
    let again = run.retry().background().await.unwrap();
    assert_eq!(ended(&again).await.text(), "hi a noted done plain");
    assert_eq!(calls.count() - before, 2, "the function and what had not been reached");
    is_sound(&db, &definition, run.run_id(), &again).await;
    let stored = |id: RunId| {
        let db = db.clone();
        async move { db.run(Access::All, id).await.unwrap().unwrap() }
    };
    let (one, other) = (stored(run.run_id().clone()).await, stored(again.run_id().clone()).await);
    assert_eq!(one.info.session_id, other.info.session_id, "in the same session");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_by_itself_is_executed_from_its_beginning_and_its_siblings_are_not() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let works = Arc::new(AtomicBool::new(false));
    let does = works.clone();
    let fails = Step::function("fails", move |context: StepContext, input: Arc<StepInput>| {
        let does = does.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match does.load(Ordering::Relaxed) {
                true => Ok(format!("{} at {}", input.text(), context.step.attempt)),
                false => Err(Failure::function("not yet")),
            }
        }
    });
    let beside = Parallel::new("beside").step(append("b", &calls)).step(fails.retry(Retry::times(2)));
    let builder = Definition::builder("Example").step(append("a", &calls)).step(beside);
    let definition = Arc::new(builder.step(append("c", &calls)).build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    assert_eq!(ended(&run).await.status, RunStatus::Error);
    assert_eq!(calls.count(), 2);
    // It fails again, and is tried again.
    let second = run.retry().background().await.unwrap();
    assert_eq!(ended(&second).await.status, RunStatus::Error);
    is_sound(&db, &definition, run.run_id(), &second).await;
    works.store(true, Ordering::Relaxed);
    let third = second.retry().background().await.unwrap();
    assert_eq!(ended(&third).await.text(), "hi a at 1 c", "with all its attempts");
    assert_eq!(calls.count(), 3, "only what had not been done");
    is_sound(&db, &definition, second.run_id(), &third).await;
    // A cancelled run goes on where it was.
    let run = submitted(&engine, &definition).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    engine.cancel(run.run_id(), "enough").await.unwrap();
    assert_eq!(ended(&run).await.status, RunStatus::Cancelled);
    let before = calls.count();
    let again = run.retry().background().await.unwrap();
    assert_eq!(ended(&again).await.text(), "hi a at 1 c");
    assert_eq!(calls.count() - before, 1);
    is_sound(&db, &definition, run.run_id(), &again).await;
}

#[tokio::test(start_paused = true)]
async fn a_no_that_ended_a_run_is_asked_again() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let review = HumanReview::confirmation("Really?").on_reject(outlive_core::OnReject::Cancel);
    let definition = workflow([append("a", &calls), append("b", &calls).human_review(review)]);
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    ended(&run).await;
    run.questions().await.unwrap()[0].reject("no").await.unwrap();
    assert_eq!(ended(&run).await.status, RunStatus::Cancelled);
    let again = run.retry().background().await.unwrap();
    assert_eq!(ended(&again).await.status, RunStatus::Paused);
    again.questions().await.unwrap()[0].approve().await.unwrap();
    assert_eq!(ended(&again).await.text(), "hi a b");
    assert_eq!(calls.count(), 2);
    is_sound(&db, &definition, run.run_id(), &again).await;
}

#[tokio::test(start_paused = true)]
async fn a_fork_begins_with_the_session_as_it_was_there() {
    let db = InMemoryDb::new();
    let sets = |name: &'static str, value: u32| {
        Step::function(name, move |context: StepContext, input: Arc<StepInput>| async move {
            let seen = context.state.all();
            context.state.set("last", value);
            context.state.set(name, value);
            Ok::<_, Failure>(StepOutput::new(format!("{} {}", input.text(), Value::Object(seen))))
        })
    };
    let definition = workflow([sets("a", 1), sets("b", 2)]);
    let engine = engine(&db, &definition).await;
    let submit = |state: &str| Submit {
        session_id: Some("one".to_owned()),
        session_state: serde_json::from_str(state).unwrap(),
        ..input("hi")
    };
    let first = engine.submit(&definition.id, submit(r#"{"kept": true}"#)).await.unwrap();
    ended(&first).await;
    let second = engine.submit(&definition.id, submit(r#"{"own": 1}"#)).await.unwrap();
    ended(&second).await;
    let state = |run: RunHandle| {
        let db = db.clone();
        async move {
            ended(&run).await;
            let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
            let session = db.session(Access::All, stored.info.session_id).await.unwrap().unwrap();
            (session.session_id.to_string(), Value::Object(session.state))
        }
    };
    let whole = json!({ "kept": true, "own": 1, "a": 1, "b": 2, "last": 2 });
    assert_eq!(state(second.clone()).await, ("one".to_owned(), whole.clone()));
    let fork = second.fork("b").background().await.unwrap();
    let (session, ends) = state(fork.clone()).await;
    assert_ne!(session, "one", "it has a session of its own");
    assert_eq!(ends, whole);
    let seen = ended(&fork).await.text();
    assert!(seen.ends_with(r#" {"a":1,"b":2,"kept":true,"last":1,"own":1}"#), "as at that entry: {seen}");
    let anew = second.fork("a").background().await.unwrap();
    let seen = ended(&anew).await.text();
    assert!(seen.contains(r#"{"a":1,"b":2,"kept":true,"last":2,"own":1}"#), "as the run before left it: {seen}");
    // The first one began with nothing of this, and its own state is not laid over it a second time.
    let fresh = first.fork(1).session_id("another").background().await.unwrap();
    let (session, _) = state(fresh).await;
    assert_eq!(session, "another");
}

#[tokio::test(start_paused = true)]
async fn a_run_in_flight_is_forked_where_it_is_and_goes_on_undisturbed() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let counted = calls.clone();
    let slow = Step::function("slow", move |_, input: Arc<StepInput>| {
        counted.note();
        async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok::<_, Failure>(format!("{} slow", input.text()))
        }
    });
    let definition = workflow([append("a", &calls), slow, append("b", &calls)]);
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let at = read_log(&db, run.run_id()).await.len() as u64;
    let fork = run.fork(at).background().await.unwrap();
    assert_eq!(ended(&fork).await.text(), "hi a slow b");
    assert_eq!(ended(&run).await.text(), "hi a slow b");
    assert_eq!(calls.count(), 5, "the step in flight and what follows, twice");
    is_sound(&db, &definition, run.run_id(), &fork).await;
}

#[tokio::test(start_paused = true)]
async fn time_limits_begin_anew() {
    let db = InMemoryDb::new();
    let does = Arc::new(AtomicBool::new(false));
    let works = does.clone();
    let slow = Step::function("slow", move |_, input: Arc<StepInput>| {
        let works = works.clone();
        async move {
            let takes = if works.load(Ordering::Relaxed) { 5 } else { 500 };
            tokio::time::sleep(Duration::from_secs(takes)).await;
            Ok::<_, Failure>(input.text())
        }
    });
    let inside = Loop::new("loop").step(slow).max_iterations(1).timeout(Duration::from_secs(10));
    let builder = Definition::builder("Example").step(inside).timeout(Duration::from_secs(60));
    let definition = Arc::new(builder.build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    let failed = ended(&run).await;
    assert_eq!(failed.status, RunStatus::Error, "{failed:?}");
    tokio::time::sleep(LONG).await;
    does.store(true, Ordering::Relaxed);
    let again = run.retry().background().await.unwrap();
    assert_eq!(ended(&again).await.text(), "hi");
    is_sound(&db, &definition, run.run_id(), &again).await;
}

#[tokio::test(start_paused = true)]
async fn a_fork_is_made_with_the_newest_definition_if_what_is_kept_fits() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let old = workflow([append("a", &calls), append("b", &calls), append("c", &calls)]);
    let engine = engine(&db, &old).await;
    let run = submitted(&engine, &old).await;
    ended(&run).await;
    let new = workflow([append("a", &calls), append("x", &calls), append("c", &calls)]);
    engine.register(new.clone());
    let fork = run.fork("b").background().await.unwrap();
    assert_eq!(ended(&fork).await.text(), "hi a x c");
    is_sound(&db, &new, run.run_id(), &fork).await;
    for refused in [run.fork("c").preview().await.err(), run.fork("c").background().await.err()] {
        let refused = refused.unwrap();
        assert!(matches!(refused, Error::DefinitionChanged(_)), "{refused:?}");
        assert!(refused.to_string().contains("\"b\""), "{refused}");
    }
    let rerun = run.rerun().await.unwrap();
    assert_eq!(ended(&rerun).await.text(), "hi a x c");
    let stored = db.run(Access::All, rerun.run_id().clone()).await.unwrap().unwrap();
    assert_eq!(stored.rerun_of().unwrap().as_ref(), Some(run.run_id()));
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_others_cannot_be_forked_and_a_key_is_good_for_one_fork() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = workflow([append("a", &calls), append("b", &calls)]);
    let engine = engine(&db, &definition).await;
    let ada = engine.for_user("ada");
    let run = ada.submit(&definition.id, input("hi")).await.unwrap();
    ended(&run).await;
    let bob = engine.for_user("bob");
    let foreign = bob.fork(run.run_id(), Fork::at("b")).await.unwrap_err();
    let missing = bob.fork(&"nobodys".parse().unwrap(), Fork::at("b")).await.unwrap_err();
    assert!(matches!(foreign, Error::RunNotFound(_)) && matches!(missing, Error::RunNotFound(_)));
    let keyed = |at: &str| Fork { idempotency_key: Some("k".to_owned()), ..Fork::at(at) };
    let one = ada.fork(run.run_id(), keyed("b")).await.unwrap();
    let again = ada.fork(run.run_id(), keyed("b")).await.unwrap();
    assert_eq!((one.run_id(), again.is_repeated()), (again.run_id(), true));
    assert!(matches!(ada.fork(run.run_id(), keyed("a")).await.unwrap_err(), Error::Conflict(_)));
    ended(&one).await;
    // Without its original, a fork is whole.
    let session = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().info.session_id;
    ada.delete_sessions(vec![session], false).await.unwrap();
    let log = is_sound(&db, &definition, run.run_id(), &one).await;
    assert!(log.iter().any(|entry| matches!(&entry.event.kind, EventKind::CustomEvent { fields }
        if fields.get("forked_from") == Some(&json!(ForkedFrom { run_id: run.run_id().clone(), at: 4 })))));
}

/// A fork of a run of three steps, in one process after another.
fn three(calls: &Calls) -> Arc<Definition> {
    workflow([append("a", calls), append("b", calls), append("c", calls)])
}

async fn start(db: Arc<dyn Db>, definition: &Arc<Definition>, clock: &Arc<dyn Clock>) -> Engine {
    let options = Options { scan_period: Duration::from_millis(50), ..Options::default() };
    Engine::builder(db).options(options).clock(clock.clone()).workflow(definition.clone()).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_fork_survives_a_crash_at_each_of_its_entries() {
    let calls = Calls::default();
    let definition = three(&calls);
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
    for (index, moment) in (6..14).flat_map(|index| [(index, Moment::Before), (index, Moment::After)]) {
        let stage = MemoryStage(InMemoryDb::new());
        let engine = start(stage.open(), &definition, &clock).await;
        let run = submitted(&engine, &definition).await;
        let (whole, run_id) = (ended(&run).await, run.run_id().clone());
        engine.shutdown().await.unwrap();
        let before = calls.count();
        let db = TroubledDb::crashing(stage.open(), index, moment);
        let engine = start(db.clone(), &definition, &clock).await;
        let asked = || Fork { run_id: Some("forked".to_owned()), ..Fork::at("b") };
        let fork = engine.fork(&run_id, asked()).await.unwrap();
        let crashed = tokio::select! {
            () = db.crashed() => true,
            _ = fork.wait() => false,
        };
        let worker = engine.worker();
        engine.kill();
        drop((fork, engine, db));
        tokio::task::yield_now().await;
        stage.crashed(&worker);
        let engine = start(stage.open(), &definition, &clock).await;
        let fork = engine.attach("forked".parse().unwrap());
        let output = ended(&fork).await;
        assert_eq!(plain(&output), plain(&whole), "{moment:?} {index}");
        let made = calls.count() - before;
        assert!((2..=2 + usize::from(crashed)).contains(&made), "{moment:?} {index}: {made} calls");
        is_sound(&*stage.open(), &definition, &run_id, &fork).await;
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_a_whole_fork_or_none() {
    let calls = Calls::default();
    let definition = three(&calls);
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
    let mut made = Vec::new();
    for polls in 0..40 {
        let db = InMemoryDb::new();
        let engine = start(TroubledDb::yielding(Arc::new(db.clone())), &definition, &clock).await;
        let run = submitted(&engine, &definition).await;
        let whole = ended(&run).await;
        let asked = Fork { run_id: Some("forked".to_owned()), ..Fork::at("b") };
        let left = poll_and_drop(engine.fork(run.run_id(), asked), polls).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let fork = engine.attach("forked".parse().unwrap());
        let is_there = fork.get().await.unwrap().is_some();
        assert!(left.is_none() || is_there, "after {polls} polls");
        if is_there {
            assert_eq!(plain(&ended(&fork).await), plain(&whole), "after {polls} polls");
            is_sound(&db, &definition, run.run_id(), &fork).await;
        }
        made.push(is_there);
        engine.shutdown().await.unwrap();
    }
    assert!(!made[0] && *made.last().unwrap(), "{made:?}");
}

#[tokio::test(start_paused = true)]
async fn another_process_executes_a_fork_that_this_one_only_accepts() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = three(&calls);
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
    let executes = start(Arc::new(db.another_process()), &definition, &clock).await;
    let idle = engine_with(&db, &definition, Options { execute: false, ..Options::default() }).await;
    let run = submitted(&executes, &definition).await;
    let whole = ended(&run).await;
    let before = calls.count();
    let fork = idle.fork(run.run_id(), Fork::at("c")).await.unwrap();
    assert_eq!(plain(&ended(&fork).await), plain(&whole));
    assert_eq!(calls.count() - before, 1);
    is_sound(&db, &definition, run.run_id(), &fork).await;
}

#[tokio::test(start_paused = true)]
async fn a_preview_refuses_what_a_fork_would() {
    let (db, calls) = (InMemoryDb::new(), Calls::default());
    let definition = three(&calls);
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    ended(&run).await;
    let long = "x".repeat(2 << 20);
    let deep = || (0..600).fold(Value::Null, |inner, _| json!([inner]));
    for (fork, problem) in [
        (run.fork("b").input(long.as_str()), "the input has 2097154 bytes"),
        (run.fork("b").input(deep()), "the input:"),
        (run.fork("b").output(long.as_str()), "the output has 2097154 bytes"),
        (run.fork("b").output(deep()), "the output:"),
        (run.fork(u64::MAX), "0 to 10"),
        (run.fork(long.as_str()), "…"),
        (run.fork(long.as_str()).output(1), "…"),
    ] {
        let previewed = fork.preview().await.unwrap_err().to_string();
        assert!(previewed.contains(problem) && previewed.len() < 500, "{problem}: {previewed}");
        assert_eq!(fork.background().await.unwrap_err().to_string(), previewed);
    }
    assert_eq!(calls.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_tried_again_is_no_message_and_stops_nobody() {
    for policy in [SessionPolicy::Steer, SessionPolicy::Interrupt] {
        let (db, calls) = (InMemoryDb::new(), Calls::default());
        let fails = Arc::new(AtomicBool::new(true));
        let (failing, counts) = (fails.clone(), calls.clone());
        let work = Step::function("work", move |_, input: Arc<StepInput>| {
            let (failing, counts) = (failing.clone(), counts.clone());
            async move {
                counts.note();
                tokio::time::sleep(Duration::from_secs(60)).await;
                let text = input.input_text().to_string();
                match failing.load(Ordering::SeqCst) && text == "first" {
                    true => Err(Failure::new(outlive_core::FailureKind::Function, "not now")),
                    false => Ok(text),
                }
            }
        });
        let definition = workflow([append("before", &Calls::default()), work]);
        let engine = engine(&db, &definition).await;
        let in_session =
            |text: &str, policy| Submit { session_id: Some("s".to_owned()), policy: Some(policy), ..input(text) };
        let run = engine.submit(&definition.id, in_session("first", policy)).await.unwrap();
        assert_eq!(ended(&run).await.status, RunStatus::Error);
        fails.store(false, Ordering::SeqCst);
        let busy = engine.submit(&definition.id, in_session("busy", SessionPolicy::Queue)).await.unwrap();
        let again = run.retry().background().await.unwrap();
        assert!(again.run_id() != busy.run_id() && again.steering_run_id().is_none(), "{policy:?}");
        assert_eq!(ended(&again).await.text(), "first", "{policy:?}");
        assert_eq!(ended(&busy).await.text(), "busy", "{policy:?}");
        assert_eq!(calls.count(), 3, "{policy:?}");
        is_sound(&db, &definition, run.run_id(), &again).await;
    }
}

/// A step that fails for these inputs until the world is well, and then says what it was given.
fn fragile(name: &'static str, bad: &'static [&'static str], is_well: &Arc<AtomicBool>, calls: &Calls) -> Step {
    let (is_well, calls) = (is_well.clone(), calls.clone());
    let step = Step::function(name, move |context: StepContext, input: Arc<StepInput>| {
        let (is_well, calls) = (is_well.clone(), calls.clone());
        async move {
            calls.note();
            let text = input.text();
            if bad.contains(&text.as_str()) && !is_well.load(Ordering::Relaxed) {
                return Err(Failure::function("not now"));
            }
            context.say(format!("{text} "));
            context.state.set(text.as_str(), context.step.attempt);
            Ok(format!("{text}!"))
        }
    });
    step.retry(Retry::times(1)).on_error(OnError::Skip)
}

#[tokio::test(start_paused = true)]
async fn a_run_that_completed_with_skipped_failures_is_tried_again_for_what_failed_alone() {
    let (db, items, after) = (InMemoryDb::new(), Calls::default(), Calls::default());
    let is_well = Arc::new(AtomicBool::new(false));
    let deep = ForEach::new("deep").items(|_| ["x", "y"]).step(fragile("leaf", &["y"], &is_well, &items));
    let each = ForEach::new("each")
        .items(|_| ["a", "b", "c", "d", "e"])
        .step(fragile("item", &["b", "d"], &is_well, &items))
        .concurrency(2);
    let both = Parallel::new("both").step(Steps::new("inner").step(deep)).step(append("beside", &after));
    let builder = Definition::builder("Example").step(each).step(both).step(append("last", &after));
    let definition = Arc::new(builder.build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    let first = ended(&run).await;
    assert_eq!((first.status, items.count(), after.count()), (RunStatus::Completed, 5 + 2 + 2 + 1, 2));
    let texts = |output: &WorkflowRunOutput| {
        output.step_results[0].steps.iter().map(|item| (item.text(), item.success)).collect::<Vec<_>>()
    };
    assert_eq!(texts(&first).iter().filter(|(_, success)| !success).count(), 2);

    // What the ForEach could not do is done, and then everything after it.
    let again = run.retry().background().await.unwrap();
    let second = ended(&again).await;
    assert_eq!((second.status, items.count() - 10, after.count() - 2), (RunStatus::Completed, 4 + 2 + 1, 2));
    is_sound(&db, &definition, run.run_id(), &again).await;

    is_well.store(true, Ordering::Relaxed);
    let before = (items.count(), after.count());
    let third = run.retry().background().await.unwrap();
    let well = ended(&third).await;
    let expected: Vec<_> = ["a!", "b!", "c!", "d!", "e!"].iter().map(|text| ((*text).to_owned(), true)).collect();
    assert_eq!(texts(&well), expected);
    assert_eq!((items.count() - before.0, after.count() - before.1), (2 + 2, 2), "two items, and the Parallel");
    is_sound(&db, &definition, run.run_id(), &third).await;
    let preview = run.retry().preview().await.unwrap();
    let kept: Vec<_> = preview.kept.iter().map(|call| call.key.to_string()).collect();
    assert_eq!(kept, ["0/e0", "0/e2", "0/e4"]);

    // Once nothing has failed, there is nothing to try again.
    let refused = third.retry().background().await.unwrap_err().to_string();
    assert!(refused.contains("or in which a failure was skipped"), "{refused}");

    // Of branches around others, the outermost is executed from its beginning.
    is_well.store(false, Ordering::Relaxed);
    let deep = ForEach::new("deep").items(|_| ["x", "y"]).step(fragile("leaf", &["y"], &is_well, &items));
    let both = Parallel::new("both").step(Steps::new("inner").step(deep)).step(append("beside", &after));
    let last = fragile("last", &[], &is_well, &items);
    let definition = Arc::new(Definition::builder("Other").step(both).step(last).build().unwrap());
    let engine = crate::stage::engine(&db, &definition).await;
    let run = submitted(&engine, &definition).await;
    ended(&run).await;
    let before = (items.count(), after.count());
    is_well.store(true, Ordering::Relaxed);
    assert_eq!(ended(&run.retry().background().await.unwrap()).await.status, RunStatus::Completed);
    assert_eq!((items.count() - before.0, after.count() - before.1), (2 + 1, 0), "what stood beside it is kept");
}
