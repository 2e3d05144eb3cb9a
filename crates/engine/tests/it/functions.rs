//! Functions on threads of their own, text that functions say, errors of every kind, and media from step to step.

use crate::stage::{Calls, append, engine, engine_with, input, slow, swept, workflow};
use outlive_core::port::{Access, BoxFuture, Executed, Executor, ExecutorInfo, LogStore, RunStore, StepContext};
use outlive_core::{
    Attachments, Blocking, Condition, Definition, EventKind, Failure, ForEach, Loop, Media, OnError, Parallel, Retry,
    Router, RunEvent, RunStatus, Secret, Step, StepInput, StepOutput, Steps, WorkflowRunOutput,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{broken_invariants, read_log};
use outlive_engine::{Engine, Options, RunHandle, Submit};
use serde_json::{Map, json};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const HOUR: Duration = Duration::from_secs(3600);

/// A blocking step that says when it was begun, and goes on when it is told to.
struct Gate {
    begun: UnboundedReceiver<u32>,
    go: Sender<()>,
    ended: UnboundedReceiver<()>,
}

impl Gate {
    fn step(name: &'static str) -> (Self, Step) {
        let (begins, begun) = unbounded_channel();
        let (go, goes) = channel();
        let (ends, ended) = unbounded_channel();
        let goes = Arc::new(Mutex::new(goes));
        let step =
            Step::blocking(name, move |context: StepContext, input| gated(&context, &input, &begins, &goes, &ends));
        (Self { begun, go, ended }, step)
    }
}

fn gated(
    context: &StepContext,
    input: &StepInput,
    begins: &UnboundedSender<u32>,
    goes: &Mutex<Receiver<()>>,
    ends: &UnboundedSender<()>,
) -> Result<String, Failure> {
    let says_when_it_ends = Ends(ends.clone());
    context.progress("waiting", None);
    begins.send(context.step.attempt)?;
    goes.lock().unwrap().recv()?;
    context.progress("going on", None);
    context.say("said ");
    context.state.set("gate", "passed");
    drop(says_when_it_ends);
    Ok(format!("{} passed", input.text()))
}

struct Ends(UnboundedSender<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

async fn run_of(definition: &Arc<Definition>, text: &str) -> (WorkflowRunOutput, Vec<RunEvent>) {
    let db = InMemoryDb::new();
    let engine = engine(&db, definition).await;
    let run = engine.submit(&definition.id, input(text)).await.unwrap();
    let ended = run.wait().await.unwrap();
    let log = read_log(&db, run.run_id()).await;
    assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
    (ended, log.into_iter().map(|entry| entry.event).collect())
}

async fn begin(engine: &Engine, definition: &Arc<Definition>) -> RunHandle {
    engine.submit(&definition.id, input("hi")).await.unwrap()
}

/// The pieces of text in a log, with the names of the steps that said them.
fn pieces(events: &[RunEvent]) -> Vec<(String, String)> {
    let piece = |event: &RunEvent| match &event.kind {
        EventKind::RunContent(delta) => {
            Some((event.origin.step_name.as_deref()?.to_owned(), delta.content.clone().unwrap_or_default()))
        }
        _ => None,
    };
    events.iter().filter_map(piece).collect()
}

#[tokio::test]
async fn a_blocking_function_sees_and_does_what_any_other_does() {
    let count = Step::blocking("Count", |context, input| {
        let (text, number) = (input.text(), input.input_text().parse::<u32>()?);
        let mut fields = Map::new();
        fields.insert("note".to_owned(), json!("counted"));
        context.event(fields);
        context.progress("half way", Some(json!({ "done": 1 })));
        context.state.set("number", number);
        let earlier = input.output("a").map(StepOutput::text).unwrap_or_default();
        Ok(format!("{text} ({earlier}) {}", context.state.get("number").unwrap()))
    });
    let definition = workflow([append("a", &Calls::default()), count]);
    let (ended, events) = run_of(&definition, "7").await;
    assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Completed, "7 a (7 a) 7"));
    let names: Vec<_> = events.iter().map(RunEvent::name).collect();
    assert_eq!(
        names[4..],
        ["StepStarted", "CustomEvent", "StepProgress", "StepOutput", "StepCompleted", "WorkflowCompleted"]
    );
    let (ended, _) = run_of(&definition, "seven").await;
    assert_eq!(ended.status, RunStatus::Error);
    assert_eq!(ended.text(), "step \"Count\": invalid digit found in string");
}

#[tokio::test]
async fn blocking_functions_execute_side_by_side_and_what_they_tell_is_durable_meanwhile() {
    let barrier = Arc::new(Barrier::new(2));
    let meets = |name| {
        let barrier = barrier.clone();
        Step::blocking(name, move |_, _| {
            barrier.wait();
            Ok(name)
        })
    };
    let parallel = Parallel::new("par").step(meets("one")).step(meets("two"));
    let definition = Arc::new(Definition::builder("Example").step(parallel).build().unwrap());
    assert_eq!(run_of(&definition, "hi").await.0.status, RunStatus::Completed);

    let (gate, step) = Gate::step("gate");
    let (db, definition) = (InMemoryDb::new(), workflow([step]));
    let engine = engine(&db, &definition).await;
    let run = begin(&engine, &definition).await;
    let mut events = run.events(None);
    while events.next().await.unwrap().expect("it waits").name() != "StepProgress" {}
    // Only now may the function go on.
    gate.go.send(()).unwrap();
    assert_eq!(run.wait().await.unwrap().text(), "hi passed");
}

#[tokio::test]
async fn a_cancel_does_not_wait_for_the_thread_and_hears_no_more_of_it() {
    let (mut gate, step) = Gate::step("gate");
    let (db, definition) = (InMemoryDb::new(), workflow([step]));
    let engine = engine(&db, &definition).await;
    let run = begin(&engine, &definition).await;
    gate.begun.recv().await.unwrap();
    engine.cancel(run.run_id(), "enough").await.unwrap();
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Cancelled);
    let before = read_log(&db, run.run_id()).await;
    gate.go.send(()).unwrap();
    gate.ended.recv().await.unwrap();
    let next = begin(&engine, &definition).await;
    gate.begun.recv().await.unwrap();
    gate.go.send(()).unwrap();
    assert_eq!(next.wait().await.unwrap().status, RunStatus::Completed);
    assert_eq!(read_log(&db, run.run_id()).await, before);
    let session_id = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().info.session_id;
    assert_eq!(engine.session(&session_id).await.unwrap().unwrap().state, Map::new());
}

#[tokio::test]
async fn what_an_attempt_says_after_its_time_is_thrown_away() {
    let (mut gate, step) = Gate::step("gate");
    let step = step.timeout(Duration::from_millis(50)).retry(Retry::times(1).backoff(Duration::from_millis(1)));
    let after = Step::function("after", |_, input| async move { Ok::<_, Failure>(input.text()) });
    let (db, definition) = (InMemoryDb::new(), workflow([step.on_error(OnError::Skip), after]));
    let engine = engine(&db, &definition).await;
    let run = begin(&engine, &definition).await;
    assert_eq!((gate.begun.recv().await, gate.begun.recv().await), (Some(1), Some(2)));
    let ended = run.wait().await.unwrap();
    let error = ended.step_results[0].error.as_deref().unwrap_or_default();
    assert_eq!((ended.status, error), (RunStatus::Completed, "step \"gate\" took longer than its limit of 50 ms"));
    let before = read_log(&db, run.run_id()).await;
    for _ in 0..2 {
        gate.go.send(()).unwrap();
        gate.ended.recv().await.unwrap();
    }
    assert_eq!(read_log(&db, run.run_id()).await, before);
}

#[tokio::test]
async fn a_panic_is_the_steps_failure_and_a_full_house_holds_up_nobody_else() {
    let (mut gate, step) = Gate::step("gate");
    let panics = Step::blocking("panics", |_, _| -> Result<String, Failure> { panic!("deliberate") });
    let (db, slow) = (InMemoryDb::new(), workflow([step]));
    let quick = Arc::new(Definition::builder("Quick").step(append("a", &Calls::default())).build().unwrap());
    let bad = Arc::new(Definition::builder("Bad").step(panics).build().unwrap());
    let options = Options { blocking_max: 1, ..Options::default() };
    let builder = Engine::builder(Arc::new(db.clone())).options(options);
    let engine = builder.workflow(slow.clone()).workflow(quick.clone()).workflow(bad.clone()).start().await.unwrap();
    let ended = begin(&engine, &bad).await.wait().await.unwrap();
    assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Error, "step \"panics\" panicked: deliberate"));

    let first = begin(&engine, &slow).await;
    gate.begun.recv().await.unwrap();
    let (second, third) = (begin(&engine, &slow).await, begin(&engine, &slow).await);
    assert_eq!(begin(&engine, &quick).await.wait().await.unwrap().text(), "hi a");
    engine.cancel(third.run_id(), "enough").await.unwrap();
    assert_eq!(third.wait().await.unwrap().status, RunStatus::Cancelled);
    assert!(gate.begun.try_recv().is_err(), "there is one thread");
    for run in [first, second] {
        gate.go.send(()).unwrap();
        assert_eq!(run.wait().await.unwrap().text(), "hi passed");
    }
    assert_eq!(gate.begun.recv().await, Some(1));
    assert!(gate.begun.try_recv().is_err(), "the cancelled one was never begun");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_those_without_a_thread_and_a_lost_run_goes_on_elsewhere() {
    let (mut gate, step) = Gate::step("gate");
    let (db, definition) = (InMemoryDb::new(), workflow([step]));
    let options = Options { blocking_max: 1, scan_period: Duration::from_millis(20), ..Options::default() };
    let first = engine_with(&db, &definition, options.clone()).await;
    let held = begin(&first, &definition).await;
    gate.begun.recv().await.unwrap();
    let waits = begin(&first, &definition).await;
    let second = engine_with(&db, &definition, options).await;
    // Nothing is left of the first process but its busy thread.
    first.kill();
    db.crash(&first.worker());
    gate.begun.recv().await.unwrap();
    gate.go.send(()).unwrap();
    gate.ended.recv().await.unwrap();
    gate.go.send(()).unwrap();
    gate.begun.recv().await.unwrap();
    gate.go.send(()).unwrap();
    for run in [&held, &waits] {
        let ended = second.attach(run.run_id().clone()).wait().await.unwrap();
        let log = read_log(&db, run.run_id()).await;
        assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
        assert_eq!(log.iter().filter(|entry| entry.event.name() == "StepOutput").count(), 1);
    }

    let busy = begin(&second, &definition).await;
    gate.begun.recv().await.unwrap();
    let waits = begin(&second, &definition).await;
    while second.stats().runs_executing < 2 {
        tokio::task::yield_now().await;
    }
    let stopping = tokio::spawn({
        let second = second.clone();
        async move { second.shutdown().await }
    });
    loop {
        let run = db.run(Access::All, waits.run_id().clone()).await.unwrap().unwrap();
        if run.worker.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    gate.go.send(()).unwrap();
    stopping.await.unwrap().unwrap();
    let log = read_log(&db, busy.run_id()).await;
    assert!(log.iter().any(|entry| entry.event.name() == "StepOutput"), "what had its thread could end");
}

#[tokio::test]
async fn calls_are_recorded_from_a_thread_and_from_a_task_of_the_functions_own() {
    let call = |context: StepContext| async move {
        let said: String = context.once("call", || async { Ok("made".to_owned()) }).await?;
        context.sleep("short", Duration::from_millis(1)).await?;
        Ok::<_, Failure>(said)
    };
    let thread = Step::blocking("thread", move |context, _| Handle::current().block_on(call(context)));
    let task = Step::function("task", move |context, _| async move { tokio::spawn(call(context)).await? });
    let definition = workflow([thread, task]);
    let (ended, events) = run_of(&definition, "hi").await;
    assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Completed, "made"));
    let told = events.iter().filter(|event| event.name() == "CustomEvent");
    assert_eq!(told.count(), 6, "an intent, a result and a sleep each");
}

#[tokio::test(start_paused = true)]
async fn what_a_function_says_is_told_as_it_comes_and_is_its_content() {
    let says = |name: &'static str, takes: u64| {
        Step::function(name, move |context: StepContext, _| async move {
            for piece in 0..3 {
                context.say(format!("{name}{piece} "));
                tokio::time::sleep(Duration::from_millis(takes)).await;
            }
            Ok::<_, Failure>(())
        })
    };
    let final_word = Step::function("own", |context: StepContext, _| async move {
        context.say("thinking aloud");
        Ok::<_, Failure>("the answer")
    });
    let both = Parallel::new("both").step(says("x", 100)).step(says("y", 70));
    let builder = Definition::builder("Example").step(says("a", 100)).step(both).step(final_word);
    let definition = Arc::new(builder.build().unwrap());
    let (ended, events) = run_of(&definition, "hi").await;
    assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Completed, "the answer"));
    let content: Vec<_> = ended.step_results.iter().map(|output| output.text()).collect();
    assert_eq!(content[0], "a0 a1 a2 ");
    let inside: Vec<_> = ended.step_results[1].inside().map(|(_, output)| output.text()).collect();
    assert_eq!(inside, ["x0 x1 x2 ", "y0 y1 y2 "]);
    let told = pieces(&events);
    let of = |name: &str| told.iter().filter(|(step, _)| step == name).map(|(_, text)| &**text).collect::<Vec<_>>();
    assert_eq!(of("a"), ["a0 ", "a1 ", "a2 "]);
    assert_eq!((of("x"), of("y")), (vec!["x0 ", "x1 ", "x2 "], vec!["y0 ", "y1 ", "y2 "]));
    assert_eq!(of("own"), ["thinking aloud"]);
    let at = |name: &str| events.iter().position(|event| event.name() == name).unwrap();
    assert!(at("RunContent") < at("StepOutput"));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pieces_is_a_few_entries_and_a_secret_in_pieces_is_never_told() {
    let (flood, keeps) = (10_000, "correct-horse-battery");
    let many = Step::function("many", move |context: StepContext, _| async move {
        (0..flood).for_each(|n| context.say(format!("{n},")));
        Ok::<_, Failure>(())
    });
    let leaks = Step::blocking("leaks", move |context, _| {
        "the key is correct-horse-battery! And corr".chars().for_each(|letter| context.say(letter));
        Ok(())
    });
    let (db, definition) = (InMemoryDb::new(), workflow([many, leaks]));
    let options = Options { secrets: vec![Secret::from(keeps)], ..Options::default() };
    let engine = engine_with(&db, &definition, options).await;
    let run = begin(&engine, &definition).await;
    let ended = run.wait().await.unwrap();
    let events: Vec<_> = read_log(&db, run.run_id()).await.into_iter().map(|entry| entry.event).collect();
    let whole: String = (0..flood).map(|n| format!("{n},")).collect();
    let told = pieces(&events);
    let of = |name: &str| told.iter().filter(|(step, _)| step == name).map(|(_, text)| &**text).collect::<Vec<_>>();
    assert_eq!((ended.step_results[0].text(), of("many").concat()), (whole.clone(), whole));
    assert!(of("many").len() <= 64, "{}", of("many").len());
    assert_eq!(of("leaks").concat(), "the key is [redacted]! And corr");
    assert_eq!(ended.text(), "the key is [redacted]! And corr");
    assert!(!serde_json::to_string(&events).unwrap().contains(keeps));
}

#[tokio::test(start_paused = true)]
async fn what_a_function_reports_between_two_pieces_parts_neither_its_text_nor_a_secret_in_it() {
    let speaks = |context: StepContext, _| async move {
        context.say("the word is correct-");
        context.progress("half way", None);
        context.say("horse");
        context.event(Map::from_iter([("note".to_owned(), json!("nearly"))]));
        context.once("call", || async { Ok(()) }).await?;
        context.say("-battery, and nothing else");
        context.progress("waiting", None);
        tokio::time::sleep(HOUR).await;
        Ok::<_, Failure>(())
    };
    for is_cancelled in [false, true] {
        let (db, definition) = (InMemoryDb::new(), workflow([Step::function("step", speaks)]));
        let options = Options { secrets: vec![Secret::from("correct-horse-battery")], ..Options::default() };
        let engine = engine_with(&db, &definition, options).await;
        let run = begin(&engine, &definition).await;
        tokio::time::sleep(HOUR / 2).await;
        if is_cancelled {
            engine.cancel(run.run_id(), "enough").await.unwrap();
        }
        let ended = run.wait().await.unwrap();
        let events: Vec<_> = read_log(&db, run.run_id()).await.into_iter().map(|entry| entry.event).collect();
        let told: String = pieces(&events).into_iter().map(|(_, text)| text).collect();
        assert_eq!(told, "the word is [redacted], and nothing else");
        assert_eq!(ended.step_results[0].text(), told, "cancelled: {is_cancelled}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_text_is_kept_and_a_failed_attempts_text_is_not() {
    let waits = Step::function("waits", |context: StepContext, _| async move {
        context.say("so far ");
        context.say("so good");
        tokio::time::sleep(HOUR).await;
        Ok::<_, Failure>(())
    });
    let (db, definition) = (InMemoryDb::new(), workflow([waits]));
    let engine = engine(&db, &definition).await;
    let run = begin(&engine, &definition).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    engine.cancel(run.run_id(), "enough").await.unwrap();
    let ended = run.wait().await.unwrap();
    assert_eq!((ended.status, ended.step_results[0].text().as_str()), (RunStatus::Cancelled, "so far so good"));

    let again = Step::function("again", |context: StepContext, _| async move {
        context.say(format!("attempt {}", context.step.attempt));
        if context.step.attempt == 1 { Err(Failure::function("not yet")) } else { Ok(()) }
    });
    let (ended, events) = run_of(&workflow([again.retry(Retry::times(1))]), "hi").await;
    assert_eq!(ended.text(), "attempt 2");
    assert_eq!(pieces(&events).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_function_that_was_dropped_while_it_slept_says_its_text_again_and_that_is_told() {
    let sleeps = Step::function("sleeps", |context: StepContext, _| async move {
        context.say("before ");
        context.sleep("long", Duration::from_secs(60)).await?;
        context.say("after");
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok::<_, Failure>(())
    });
    let beside = Parallel::new("beside").step(sleeps).step(slow("slow", HOUR));
    let definition = Arc::new(Definition::builder("Example").step(beside).build().unwrap());
    let db = InMemoryDb::new();
    let engine = engine(&db, &definition).await;
    let run = begin(&engine, &definition).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    engine.cancel(run.run_id(), "enough").await.unwrap();
    let ended = run.wait().await.unwrap();
    let inside: Vec<_> = ended.step_results[0].inside().map(|(_, output)| output.text()).collect();
    assert_eq!(inside, ["before after", ""]);
    let told = read_log(&db, run.run_id()).await.into_iter().filter_map(|entry| match entry.event.kind {
        EventKind::RunContent(delta) => delta.content,
        EventKind::CustomEvent { fields } => fields["name"].as_str().map(str::to_owned),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), ["before ", "StepSleeping", "StepResumed", "before ", "after"]);
}

#[tokio::test]
async fn any_error_ends_a_function_and_what_failed_is_named() {
    let step = |name| Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) });
    let failing = |block: outlive_core::Block| Arc::new(Definition::builder("Example").step(block).build().unwrap());
    let parses = Step::function("Parse", |_, input: Arc<StepInput>| async move {
        let number: u64 = input.text().parse()?;
        Ok::<_, Failure>(number.to_string())
    });
    let fatal = Step::blocking("Fatal", |_, _| -> Result<String, Failure> { Err(Failure::fatal("never")) });
    let no_file = Step::blocking("Read", |_, _| Ok(std::fs::read_to_string("/nowhere/at/all")?));
    let holds = Condition::new("Big?").when(|question| Ok(question.text().parse::<u32>()? > 9)).step(step("a"));
    let until = Loop::new("Until").step(step("b")).until(|question| Ok(question.last_text().parse::<u32>()? > 9));
    let select = Router::new("Select").choice(step("c")).select(|question| {
        let number: u32 = question.text().parse()?;
        Ok(if number > 9 { "c" } else { "d" })
    });
    let items = ForEach::new("Items").step(step("d")).items(|question| Ok(vec![question.text().parse::<u32>()?]));
    for (block, named) in [
        (parses.into(), "step \"Parse\": invalid digit"),
        (fatal.into(), "step \"Fatal\": never"),
        (no_file.into(), "step \"Read\": No such file"),
        (holds.into(), "Condition \"Big?\" could not decide: invalid digit"),
        (until.into(), "Loop \"Until\" could not decide: invalid digit"),
        (select.into(), "Router \"Select\" could not decide: invalid digit"),
        (items.into(), "ForEach \"Items\" could not decide: invalid digit"),
    ] {
        let (ended, events) = run_of(&failing(block), "many").await;
        assert_eq!(ended.status, RunStatus::Error, "{named}");
        assert!(ended.text().starts_with(named), "{}", ended.text());
        let last = events.last().unwrap();
        let EventKind::WorkflowError { error, .. } = &last.kind else { panic!("{last:?}") };
        assert_eq!(*error, ended.text());
    }
}

fn media(id: &str) -> Media {
    Media { id: Some(id.to_owned()), content: Some(id.repeat(5_000)), ..Media::default() }
}

/// What a step was given, by id.
fn seen(input: &StepInput) -> String {
    let ids = |kind: &str, media: &Option<Vec<Media>>| {
        let ids = media.iter().flatten().map(|media| media.id.clone().unwrap_or_default());
        format!("{kind}: {}", ids.collect::<Vec<_>>().join(" "))
    };
    let all = [("images", &input.images), ("videos", &input.videos), ("audio", &input.audio), ("files", &input.files)];
    all.map(|(kind, media)| ids(kind, media)).join("; ")
}

/// Every way for media to come from one step to another.
fn draws() -> Arc<Definition> {
    let makes = |name: &'static str, make: fn(&str) -> StepOutput| {
        Step::function(name, move |_, _| async move { Ok::<_, Failure>(make(name)) })
    };
    let image = |name: &str| StepOutput::new(name).images([media(name)]);
    let looks = |name| Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(seen(&input)) });
    let fails = Step::function("fails", |_, _| async move { Err::<StepOutput, _>(Failure::fatal("no paint")) });
    let inner = Definition::builder("Inner").step(makes("n", image)).step(looks("inside")).build().unwrap();
    let parallel = Parallel::new("par")
        .step(makes("b", |name| StepOutput::new(name).videos([media(name)]).images([media("b2")])))
        .step(Steps::new("group").step(makes("c", |name| StepOutput::new(name).audio([media(name)]))))
        .step(fails.on_error(OnError::Skip));
    let again = Loop::new("loop").step(makes("l", |name| StepOutput::new(name).files([media(name)]))).max_iterations(2);
    let builder = Definition::builder("Example").step(makes("a", image)).step(parallel).step(looks("between"));
    let builder = builder.step(again).step(Step::new("nested").workflow(Arc::new(inner))).step(looks("last"));
    Arc::new(builder.build().unwrap())
}

#[tokio::test]
async fn media_of_the_run_and_of_each_step_reach_what_follows_and_the_result_has_what_was_made() {
    let (db, definition) = (InMemoryDb::new(), draws());
    let engine = engine(&db, &definition).await;
    let attachments = Attachments { images: Some(vec![media("given")]), ..Attachments::default() };
    let submit = Submit { attachments, ..input("hi") };
    let run = engine.submit(&definition.id, submit).await.unwrap();
    let ended = run.wait().await.unwrap();
    let text = |place: usize| ended.step_results[place].text();
    assert_eq!(text(2), "images: given a b2; videos: b; audio: c; files: ");
    assert_eq!(text(4), "images: given a b2 n; videos: b; audio: c; files: l l", "the nested workflow's last step");
    assert_eq!(ended.text(), text(4));
    let ids =
        |media: &Option<Vec<Media>>| media.iter().flatten().filter_map(|media| media.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&ended.images), ["a", "b2", "n"]);
    assert_eq!(
        (ids(&ended.videos), ids(&ended.audio), ids(&ended.files)),
        (vec!["b".to_owned()], vec!["c".to_owned()], vec!["l".to_owned(), "l".to_owned()])
    );
    let made: usize = ["a", "b", "b2", "c", "l", "l", "n"].map(|id| id.len() * 5_000).iter().sum();
    let pages = db.read(Access::All, run.run_id().clone(), 0, usize::MAX).await.unwrap();
    let stored: usize = pages.iter().map(|page| page.body.len()).sum();
    assert!(stored < made + 12_000, "{stored} bytes for {made} of media: they stand once");
    let stored = engine.get_run(run.run_id()).await.unwrap().unwrap();
    assert_eq!(stored, ended);
}

#[tokio::test(start_paused = true)]
async fn media_survive_a_crash_at_every_entry() {
    let sweep = swept(&Calls::default(), draws).await;
    assert!(sweep.entries > 30, "{sweep:?}");
}

type Function = fn(StepContext, Arc<StepInput>) -> Result<String, Failure>;

/// Executes a blocking function, lets go of it, and fails once its thread has noticed.
struct LetsGo(Blocking<Function>);

impl Executor for LetsGo {
    fn info(&self) -> ExecutorInfo {
        self.0.info()
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async move {
            let execution = context.execution.clone();
            let begun = tokio::time::timeout(Duration::from_millis(20), self.0.execute(context, input)).await;
            assert!(begun.is_err(), "it sleeps");
            while !execution.is_halted() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(Failure::function("it took too long"))
        })
    }
}

#[tokio::test]
async fn a_thread_that_nobody_waits_for_does_not_hold_up_the_end_of_its_step() {
    fn sleeps(context: StepContext, _: Arc<StepInput>) -> Result<String, Failure> {
        Handle::current().block_on(context.sleep("night", Duration::from_secs(1)))?;
        Ok(String::new())
    }
    let step = Step::new("sleeps").executor(LetsGo(Blocking::new("sleeps", sleeps)));
    let (ended, _) = run_of(&workflow([step]), "hi").await;
    assert_eq!((ended.status, ended.text().as_str()), (RunStatus::Error, "step \"sleeps\": it took too long"));
}
