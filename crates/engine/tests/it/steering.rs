//! Runs of one session that meet: what later ones see of earlier ones, one that interrupts, and one that is taken in by
//! the run that it steers. Whoever comes first, nothing that was said is lost or heard twice.

use crate::stage::{FileStage, MemoryStage, engine, engine_with, input, slow};
use outlive_core::port::{
    Access, BoxFuture, Executed, Executor, ExecutorInfo, Listener, Recall, RunStore, SessionPolicy, SessionStore,
    StepContext,
};
use outlive_core::testing::Dice;
use outlive_core::{
    Condition, ContentDelta, Definition, DefinitionId, Entry, EventKind, ExecutorKind, Failure, FailureKind, ForEach,
    Function, HistoryRun, Key, Loop, Origin, Parallel, Record, Router, RunId, RunStatus, SessionId, Step, StepInput,
    StepOutput, Steps, VerdictInput, WorkflowRunOutput,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{Stage, broken_invariants, poll_and_drop, read_log};
use outlive_engine::{Engine, Error, Options, RunHandle, Submit};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(3_600);

/// Works in turns as an agent does: each is recorded, and what was said meanwhile is heard before it. Gives back
/// everything it heard.
struct Talker {
    turns: u32,
    takes: Duration,
}

impl Talker {
    fn step(name: &str, turns: u32, takes: Duration) -> Step {
        Step::new(name).agent(Self { turns, takes })
    }

    async fn talk(&self, context: &StepContext) -> Result<Vec<Value>, Failure> {
        let halted = |_| Failure::new(FailureKind::Cancelled, "the run is stopping here");
        let base = context.step.key.speaker("agent");
        let origin = Origin { agent_id: DefinitionId::parse("talker").ok(), ..context.origin() };
        let mut heard = Vec::new();
        for turn in 0..self.turns {
            let key = base.turn(turn);
            let recall = context.effects.recall(&key);
            let steered = key.word("steered");
            let before = context.effects.recall(&steered);
            if let Recall::Done(recorded) = &before {
                heard.extend(serde_json::from_str::<Vec<Value>>(recorded.get()).unwrap());
            }
            if let Recall::Done(_) = recall {
                continue;
            }
            if let Recall::Nothing = recall {
                if turn > 0 && matches!(before, Recall::Nothing) {
                    let listener = Listener { id: "talker", leads: true, origin: &origin };
                    let said = context.effects.take_in(&listener, &steered);
                    heard.extend(said.iter().map(|message| serde_json::to_value(message).unwrap()));
                }
                let intent = Record::Intent { key: key.clone(), name: None };
                context.effects.tell(EventKind::StepStarted, &origin, Some(intent));
            }
            context.effects.durable().await.map_err(halted)?;
            let piece = ContentDelta { content: Some(format!("{turn} ")), ..ContentDelta::default() };
            context.effects.stream(EventKind::RunContent(piece), &origin);
            sleep(self.takes).await;
            let record = Record::Result { key, value: Arc::from(to_raw_value(&turn).unwrap()), sleeps: false };
            context.effects.tell(EventKind::StepStarted, &origin, Some(record));
        }
        Ok(heard)
    }
}

impl Executor for Talker {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Agent, name: Arc::from("Talker"), id: DefinitionId::parse("talker").ok() }
    }

    fn execute<'a>(&'a self, context: StepContext, _: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async move {
            let heard = self.talk(&context).await?;
            let words: Vec<_> = heard.iter().map(|message| message["content"].as_str().unwrap().to_owned()).collect();
            let known = context.state.get("heard").and_then(|known| known.as_u64()).unwrap_or_default();
            context.state.set("heard", known + words.len() as u64);
            Ok(StepOutput::new(words.join(" ")).into())
        })
    }
}

fn build(steps: impl IntoIterator<Item = Step>) -> Arc<Definition> {
    let builder = steps.into_iter().fold(Definition::builder("Talk"), |builder, step| builder.step(step));
    Arc::new(builder.build().unwrap())
}

fn asks(text: &str, policy: SessionPolicy) -> Submit {
    Submit { session_id: Some("s".to_owned()), policy: Some(policy), ..input(text) }
}

async fn ended(run: &RunHandle) -> WorkflowRunOutput {
    timeout(LONG, run.wait()).await.expect("it ends").unwrap()
}

/// Every run of the session with its log, in the order in which they were accepted.
async fn all(engine: &Engine) -> Vec<(WorkflowRunOutput, Vec<Entry>)> {
    let filter = outlive_core::port::RunFilter {
        session_id: SessionId::parse("s").ok(),
        order: outlive_core::port::Order::OldestFirst,
        limit: 1_000,
        ..Default::default()
    };
    let mut outputs = Vec::new();
    for run in engine.runs(filter).await.unwrap().runs {
        let handle = engine.attach(run.info.run_id.clone());
        let output = ended(&handle).await;
        let log = read_log(&**engine.db(), &run.info.run_id).await;
        assert_eq!(broken_invariants(&log, &output), Vec::<String>::new(), "{:?}", run.info.run_id);
        outputs.push((output, log));
    }
    outputs
}

async fn is_executing(run: &RunHandle, turn: u32) {
    let mut events = run.events(None);
    loop {
        let event = timeout(LONG, events.next()).await.expect("it goes on").unwrap().expect("it has not ended");
        if matches!(&event.kind, EventKind::RunContent(piece) if piece.content == Some(format!("{turn} "))) {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_to_a_run_is_heard_before_its_next_turn() {
    let db = InMemoryDb::new();
    let definition = build([Talker::step("a", 3, Duration::from_secs(10))]);
    let engine = engine(&db, &definition).await;
    let first = engine.submit(&definition.id, asks("go", SessionPolicy::Steer)).await.unwrap();
    assert_eq!(first.steering_run_id(), None, "there was nobody to hear it");
    is_executing(&first, 0).await;
    let said = engine.submit(&definition.id, asks("faster", SessionPolicy::Steer)).await.unwrap();
    assert_eq!(said.run_id(), first.run_id(), "the submitter learns who took it");
    let waits = said.steering_run_id().expect("it waits under an id").clone();
    let named = Submit { steer_to: Some("talker".to_owned()), ..asks("and better", SessionPolicy::Steer) };
    engine.submit(&definition.id, named).await.unwrap();
    let other = Submit { steer_to: Some("nobody".to_owned()), ..asks("later", SessionPolicy::Steer) };
    let unheard = engine.submit(&definition.id, other).await.unwrap().steering_run_id().unwrap().clone();
    assert_eq!(ended(&first).await.text(), "faster and better");

    let taken = ended(&engine.attach(waits.clone())).await;
    assert_eq!((taken.status, taken.cancellation_stage.as_deref()), (RunStatus::Cancelled, Some("PENDING")));
    let reason = format!("taken in by run {}", first.run_id());
    let log = read_log(&db, &waits).await;
    assert!(matches!(&log[0].event.kind, EventKind::WorkflowCancelled { reason: told, .. } if *told == reason));
    let next = ended(&engine.attach(unheard)).await;
    assert_eq!((next.status, next.input), (RunStatus::Completed, Some(json!("later"))), "it is the session's next run");
    // It is in the log, once, where it was heard.
    let log = read_log(&db, first.run_id()).await;
    let keys = log.iter().filter_map(|entry| entry.record.as_ref()?.key());
    assert_eq!(
        keys.filter(|key| key.as_str().ends_with("/steered")).collect::<Vec<_>>(),
        [&Key::parse("0/agent/t1/steered")]
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_paused_or_parked_run_is_told_waits_until_it_goes_on() {
    let db = InMemoryDb::new();
    let waits = Step::function("wait", |context, _| async move {
        context.sleep("long", LONG / 2).await?;
        Ok::<_, Failure>(())
    });
    let definition = build([waits, Talker::step("a", 2, Duration::from_secs(1))]);
    let engine = engine(&db, &definition).await;
    let first = engine.submit(&definition.id, asks("go", SessionPolicy::Queue)).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    let parked = db.run(Access::All, first.run_id().clone()).await.unwrap().unwrap();
    assert!(parked.worker.is_none() && parked.due_at.is_some());
    engine.submit(&definition.id, asks("hello", SessionPolicy::Steer)).await.unwrap();
    let still = db.run(Access::All, first.run_id().clone()).await.unwrap().unwrap();
    assert_eq!(still.due_at, parked.due_at, "what is said wakes nobody");
    assert_eq!(ended(&first).await.text(), "hello");
}

/// What an entry says was heard.
fn heard_in(entry: &Entry) -> Option<Vec<Value>> {
    match &entry.record {
        Some(Record::Result { key, value, .. }) if key.as_str().ends_with("/steered") => {
            serde_json::from_str(value.get()).ok()
        }
        _ => None,
    }
}

/// Messages and a crash at any time: each is heard exactly once, or is exactly one run.
async fn trial(seed: u64) {
    let mut dice = Dice(seed);
    let db = InMemoryDb::new();
    let definition =
        build([Talker::step("a", 3, Duration::from_millis(10)), Talker::step("b", 2, Duration::from_millis(10))]);
    let options = Options { scan_period: Duration::from_millis(5), ..Options::default() };
    let mut engines = vec![
        engine_with(&db, &definition, options.clone()).await,
        engine_with(&db.another_process(), &definition, options.clone()).await,
    ];
    let submit = async |engine: &Engine, text: String, policy| {
        engine.submit(&definition.id, asks(&text, policy)).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"))
    };
    submit(&engines[0], "m0".to_owned(), SessionPolicy::Queue).await;
    let interrupts = dice.below(4) == 0;
    // A third one in a row would make the run a suspect.
    let mut crashes = 2;
    for number in 1..=dice.below(4) + 1 {
        sleep(Duration::from_millis(dice.below(20))).await;
        let place = dice.below(2) as usize;
        let policy = match dice.below(6) {
            0 if interrupts => SessionPolicy::Interrupt,
            1 => SessionPolicy::Queue,
            _ => SessionPolicy::Steer,
        };
        submit(&engines[place], format!("m{number}"), policy).await;
        if dice.below(3) == 0 && crashes > 0 {
            crashes -= 1;
            let crashed = engines.remove(place);
            sleep(Duration::from_micros(dice.below(3_000))).await;
            let worker = crashed.worker();
            crashed.kill();
            drop(crashed);
            tokio::task::yield_now().await;
            db.crash(&worker);
            engines.insert(place, engine_with(&db.another_process(), &definition, options.clone()).await);
        }
    }
    let runs = all(&engines[0]).await;
    let heard: Vec<Value> = runs.iter().flat_map(|(_, log)| log.iter().filter_map(heard_in)).flatten().collect();
    for (run, log) in &runs {
        let text = run.input.as_ref().unwrap();
        let times = heard.iter().filter(|message| message["content"] == *text).count();
        let was_taken = log.iter().any(|entry| {
            matches!(&entry.event.kind, EventKind::WorkflowCancelled { reason, .. } if reason.starts_with("taken in"))
        });
        assert_eq!(times, usize::from(was_taken), "seed {seed}: {text}");
        match run.status {
            RunStatus::Completed => {}
            RunStatus::Cancelled => assert!(was_taken || interrupts, "seed {seed}: {text}"),
            status => panic!("seed {seed}: {text} is {status}"),
        }
    }
    let said = runs.iter().flat_map(|(run, _)| run.step_results.iter().filter(|step| step.success));
    let heard = said.map(|step| step.text().split_whitespace().count()).sum::<usize>();
    let session = db.session(Access::All, SessionId::parse("s").unwrap()).await.unwrap().unwrap();
    let counted = session.state.get("heard").and_then(Value::as_u64).unwrap_or_default();
    assert_eq!(counted, heard as u64, "seed {seed}: the state is what the steps made of it, in order");
    for engine in engines {
        engine.shutdown().await.unwrap();
    }
}

#[test]
fn whatever_happens_each_message_is_heard_once_or_is_one_run() {
    for seed in 0..1_000 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(trial(seed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_a_message_was_heard_neither_loses_nor_repeats_it() {
    async fn on(stage: &dyn Stage, kills_at: u32) {
        let definition = build([Talker::step("a", 4, Duration::from_secs(1))]);
        let start = async || {
            let options = Options { scan_period: Duration::from_millis(50), ..Options::default() };
            Engine::builder(stage.open()).options(options).workflow(definition.clone()).start().await.unwrap()
        };
        let first = start().await;
        let run = first.submit(&definition.id, asks("go", SessionPolicy::Queue)).await.unwrap();
        is_executing(&run, 0).await;
        let said = first.submit(&definition.id, asks("word", SessionPolicy::Steer)).await.unwrap();
        is_executing(&run, kills_at).await;
        let (worker, run_id, message) = (first.worker(), run.run_id().clone(), said.steering_run_id().unwrap().clone());
        first.kill();
        drop((run, said, first));
        tokio::task::yield_now().await;
        stage.crashed(&worker);
        let second = start().await;
        assert_eq!(ended(&second.attach(run_id)).await.text(), "word", "killed at {kills_at}");
        assert_eq!(ended(&second.attach(message)).await.status, RunStatus::Cancelled);
        assert_eq!(all(&second).await.len(), 2);
        second.shutdown().await.unwrap();
    }
    for kills_at in 0..4 {
        on(&MemoryStage(InMemoryDb::new()), kills_at).await;
    }
    tokio::time::resume();
    on(&FileStage::new(), 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_sent_again_gives_the_same_run_before_and_after_it_was_heard() {
    let db = InMemoryDb::new();
    let definition = build([Talker::step("a", 3, Duration::from_secs(10))]);
    let engine = engine(&db, &definition).await;
    let first = engine.submit(&definition.id, asks("go", SessionPolicy::Queue)).await.unwrap();
    is_executing(&first, 0).await;
    let message = Submit { idempotency_key: Some("k".to_owned()), ..asks("faster", SessionPolicy::Steer) };
    let said = engine.submit(&definition.id, message.clone()).await.unwrap();
    let again = async || {
        let again = engine.submit(&definition.id, message.clone()).await.unwrap();
        assert!(again.is_repeated());
        (again.run_id().clone(), again.steering_run_id().cloned())
    };
    let expected = (first.run_id().clone(), said.steering_run_id().cloned());
    assert_eq!(again().await, expected);
    assert_eq!(ended(&first).await.text(), "faster");
    assert_eq!(again().await, expected);
    let elsewhere = Submit { steer_to: Some("other".to_owned()), ..message.clone() };
    assert!(matches!(engine.submit(&definition.id, elsewhere).await, Err(Error::Conflict(_))));
    // What nobody heard is a run of its own.
    let unheard = Submit { steer_to: Some("nobody".to_owned()), idempotency_key: Some("n".to_owned()), ..message };
    let second = engine.submit(&definition.id, asks("go", SessionPolicy::Queue)).await.unwrap();
    is_executing(&second, 0).await;
    let waits = engine.submit(&definition.id, unheard.clone()).await.unwrap().steering_run_id().unwrap().clone();
    ended(&engine.attach(waits.clone())).await;
    let again = engine.submit(&definition.id, unheard).await.unwrap();
    assert_eq!((again.run_id(), again.steering_run_id()), (&waits, None));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_has_sent_its_message_or_has_not() {
    for policy in [SessionPolicy::Steer, SessionPolicy::Interrupt] {
        for polls in 0..30 {
            let db = InMemoryDb::new();
            let definition = build([Talker::step("a", 3, Duration::from_secs(1))]);
            let engine = engine(&db, &definition).await;
            let first = engine.submit(&definition.id, asks("go", SessionPolicy::Queue)).await.unwrap();
            is_executing(&first, 0).await;
            poll_and_drop(engine.submit(&definition.id, asks("word", policy)), polls).await;
            sleep(LONG).await;
            let runs: Vec<_> = all(&engine).await.into_iter().map(|(run, _)| run).collect();
            let expected = match (policy, runs.len()) {
                (_, 1) => (RunStatus::Completed, ""),
                (SessionPolicy::Steer, _) => (RunStatus::Completed, "word"),
                _ => (RunStatus::Cancelled, ""),
            };
            let said = if runs[0].status == RunStatus::Completed { runs[0].text() } else { String::new() };
            assert_eq!((runs[0].status, said.as_str()), expected, "{policy:?} {polls}");
            assert!(polls < 20 || runs.len() == 2, "{policy:?} {polls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_interrupts_ends_the_others_and_finds_what_they_had_said() {
    let db = InMemoryDb::new();
    let definition = {
        let tells = Step::function("tell", |context, _| async move {
            let said = |run: &HistoryRun| {
                format!("{}={}{}", run.input_text(), run.text(), if run.is_interrupted { "!" } else { "" })
            };
            Ok::<_, Failure>(context.history(None).await?.iter().map(said).collect::<Vec<_>>().join(", "))
        });
        build([tells, Talker::step("a", 3, Duration::from_secs(10)), slow("b", Duration::from_secs(1))])
    };
    let engine = engine(&db, &definition).await;
    let first = engine.submit(&definition.id, asks("one", SessionPolicy::Queue)).await.unwrap();
    let queued = engine.submit(&definition.id, asks("two", SessionPolicy::Queue)).await.unwrap();
    is_executing(&first, 1).await;
    let second = engine.submit(&definition.id, asks("three", SessionPolicy::Interrupt)).await.unwrap();
    let cut = ended(&first).await;
    assert_eq!((cut.status, cut.step_results[1].content.as_ref()), (RunStatus::Cancelled, Some(&json!("1 "))));
    let never = ended(&queued).await;
    assert_eq!((never.status, never.cancellation_stage.as_deref()), (RunStatus::Cancelled, Some("PENDING")));
    let last = ended(&second).await;
    assert_eq!((last.status, last.step_results[0].text().as_str()), (RunStatus::Completed, "one=1 !"));
    let reason = format!("interrupted by run {}", second.run_id());
    for run in [&first, &queued] {
        let log = read_log(&db, run.run_id()).await;
        let told =
            |kind: &EventKind| matches!(kind, EventKind::WorkflowCancelled { reason: told, .. } if *told == reason);
        assert!(log.iter().any(|entry| told(&entry.event.kind)));
    }
    // Nothing is there to interrupt.
    let third = engine.submit(&definition.id, asks("four", SessionPolicy::Interrupt)).await.unwrap();
    assert_eq!(ended(&third).await.step_results[0].text(), "one=1 !, three=");
}

/// A step that says what it sees of earlier runs.
fn sees(name: &str) -> Step {
    Step::function(name, |_, input: Arc<StepInput>| async move {
        let runs: Vec<_> =
            input.workflow_history().iter().map(|run| format!("{}>{}", run.input_text(), run.text())).collect();
        Ok::<_, Failure>(format!("{} [{}]", input.text(), runs.join("; ")))
    })
}

#[tokio::test(start_paused = true)]
async fn steps_see_earlier_runs_where_they_are_asked_to_in_containers_and_nested_workflows_too() {
    let db = InMemoryDb::new();
    let inner = Definition::builder("Inner").step(sees("inner")).step(sees("blind").add_workflow_history(false));
    let inner = Arc::new(inner.build().unwrap());
    let definition = Definition::builder("Outer")
        .add_workflow_history_to_steps(true)
        .num_history_runs(2)
        .step(Parallel::new("par").step(sees("a")).step(sees("b").num_history_runs(1)))
        .step(Loop::new("loop").max_iterations(1).step(sees("c").add_workflow_history(false)))
        .step(ForEach::new("each").items(|_| ["x"]).step(sees("d")))
        .step(Condition::new("if").when(|given| given.state.get("nothing").is_none()).step(sees("e")))
        .step(Router::new("route").select(|_| "f").choice(sees("f")))
        .step(Step::new("nested").workflow(inner))
        .step(Step::function("last", |_, _| async { Ok::<_, Failure>("out") }));
    let definition = Arc::new(definition.build().unwrap());
    let engine = engine(&db, &definition).await;
    let mut last = None;
    for text in ["one", "two", "three"] {
        let run = engine.submit(&definition.id, asks(text, SessionPolicy::Queue)).await.unwrap();
        last = Some(ended(&run).await);
    }
    let last = serde_json::to_value(last.unwrap().step_results).unwrap();
    let seen = |path: &str| {
        let text = last.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {last:#}"));
        text.rsplit_once(" [").unwrap().1.trim_end_matches(']').to_owned()
    };
    let both = "one>out; two>out";
    assert_eq!(seen("/0/steps/0/content"), both);
    assert_eq!(seen("/0/steps/1/content"), "two>out");
    assert_eq!(seen("/1/steps/0/content"), "");
    assert_eq!(seen("/2/steps/0/content"), both);
    assert_eq!(seen("/3/steps/0/content"), both);
    assert_eq!(seen("/4/steps/0/content"), both);
    assert_eq!(seen("/5/steps/0/content"), both);
    assert_eq!(seen("/5/steps/1/content"), "");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_summed_up_once_and_then_only_what_is_new() {
    let db = InMemoryDb::new();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let summarizer = {
        let asked = asked.clone();
        Function::new("sum", move |context: StepContext, input: Arc<StepInput>| {
            asked.lock().unwrap().push(format!("{}: {}", context.step.key, input.text()));
            let number = asked.lock().unwrap().len();
            async move { Ok::<_, Failure>(format!("summary {number}")) }
        })
    };
    let shows = Step::function("show", |_, input: Arc<StepInput>| async move {
        Ok::<_, Failure>(input.workflow_history_context().unwrap_or_default())
    });
    let says = Step::function("say", |_, input: Arc<StepInput>| async move {
        Ok::<_, Failure>(format!("answer to {}", input.input_text()))
    });
    let definition = Definition::builder("Sums")
        .add_workflow_history_to_steps(true)
        .num_history_runs(2)
        .summarize_history(summarizer)
        .step(shows)
        .step(says.add_workflow_history(false));
    let definition = Arc::new(definition.build().unwrap());
    let engine = engine(&db, &definition).await;
    let mut shown = Vec::new();
    for number in 1..=5 {
        let run = engine.submit(&definition.id, asks(&format!("q{number}"), SessionPolicy::Queue)).await.unwrap();
        let text = ended(&run).await.step_results[0].text();
        shown
            .push(text.lines().filter(|line| !line.is_empty() && !line.starts_with('<')).collect::<Vec<_>>().join("|"));
    }
    let run = |number: u32, place: u32| {
        format!("[Workflow Run-{place}]|User input: q{number}|Workflow output: answer to q{number}")
    };
    let summary = |number: u32| format!("[Summary of earlier runs]|summary {number}");
    let expected = [
        String::new(),
        run(1, 1),
        format!("{}|{}", run(1, 1), run(2, 2)),
        format!("{}|{}|{}", summary(1), run(2, 1), run(3, 2)),
        format!("{}|{}|{}", summary(2), run(3, 1), run(4, 2)),
    ];
    assert_eq!(shown, expected);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(
        asked[0].starts_with("0/summary: <workflow_history_context>\n[Workflow Run-1]\nUser input: q1\n"),
        "{asked:?}"
    );
    assert!(
        asked[1].contains("[Summary of earlier runs]\nsummary 1\n\n[Workflow Run-1]\nUser input: q2\n"),
        "{asked:?}"
    );
    assert!(!asked[1].contains("q1") && !asked[1].contains("q3"), "{asked:?}");
    let session = db.session(Access::All, SessionId::parse("s").unwrap()).await.unwrap().unwrap();
    assert_eq!(session.state["session_summary"]["summary"], "summary 2");
}

#[tokio::test(start_paused = true)]
async fn what_a_run_has_seen_of_its_session_it_sees_again_although_others_have_ended_meanwhile() {
    let db = InMemoryDb::new();
    let tells = |name: &'static str| {
        Step::function(name, move |context, _| async move {
            let seen = context.history(10).await?;
            Ok::<_, Failure>(seen.iter().map(HistoryRun::input_text).collect::<Vec<_>>().join(" "))
        })
    };
    let wait = Step::function("wait", |_, input: Arc<StepInput>| async move {
        let takes = match input.input_text().as_str() {
            "slow" => 100,
            "watcher" => 1_000,
            _ => 0,
        };
        sleep(Duration::from_secs(takes)).await;
        Ok::<_, Failure>(())
    });
    let definition = build([tells("before"), wait, tells("after")]);
    let first = engine(&db, &definition).await;
    let ask = |text| asks(text, SessionPolicy::Parallel);
    ended(&first.submit(&definition.id, ask("done")).await.unwrap()).await;
    let slow = first.submit(&definition.id, ask("slow")).await.unwrap();
    let watcher = first.submit(&definition.id, ask("watcher")).await.unwrap();
    ended(&first.submit(&definition.id, ask("later")).await.unwrap()).await;
    ended(&slow).await;
    let (worker, run_id) = (first.worker(), watcher.run_id().clone());
    first.kill();
    drop((first, slow, watcher));
    tokio::task::yield_now().await;
    db.crash(&worker);
    let second = engine(&db, &definition).await;
    let output = ended(&second.attach(run_id.clone())).await;
    let seen: Vec<_> = output.step_results.iter().map(|output| output.text()).collect();
    assert_eq!((&*seen[0], &*seen[2]), ("done", "done"), "neither what ended since nor what came later is history");
    let recorded = |log: &[Entry]| {
        log.iter().filter(|entry| entry.record.as_ref().and_then(Record::key) == Some(&Key::parse("history"))).count()
    };
    assert_eq!(recorded(&read_log(&db, &run_id).await), 1);
    // Where nothing goes on beside it, nothing is recorded.
    let run = second.submit(&definition.id, ask("last")).await.unwrap();
    assert_eq!(ended(&run).await.step_results[0].text(), "done slow watcher later");
    assert_eq!(recorded(&read_log(&db, run.run_id()).await), 0);
    // A run that was deleted is missing; one that failed never was there.
    let _: RunId = run_id;
}

#[tokio::test(start_paused = true)]
async fn whatever_decides_sees_what_steps_have_made_of_the_sessions_state() {
    let db = InMemoryDb::new();
    let counts = |name: &'static str| {
        Step::function(name, |context: StepContext, _: Arc<StepInput>| async move {
            let count = context.state.get("count").and_then(|count| count.as_u64()).unwrap_or_default() + 1;
            context.state.set("count", count);
            Ok::<_, Failure>(count.to_string())
        })
    };
    let tells = |name: &'static str| {
        Step::function(
            name,
            |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(format!("told {}", input.text())) },
        )
    };
    let count = |given: &VerdictInput| given.state.get("count").and_then(|count| count.as_u64()).unwrap_or_default();
    let in_branch = Steps::new("branch")
        .step(counts("inside"))
        .step(Condition::new("sees its branch").when(move |given| count(given) == 2).step(tells("yes")));
    let beside = Condition::new("sees no other").when(move |given| count(given) == 1).step(tells("beside"));
    let list = |given: VerdictInput| async move {
        let count = given.state.get("count").and_then(|count| count.as_u64()).unwrap_or_default();
        Ok::<_, Failure>((0..count).collect::<Vec<_>>())
    };
    let routes = |given: VerdictInput| async move {
        Ok::<_, Failure>(if given.state.get("count") == Some(json!(2)) { "two" } else { "other" })
    };
    let definition = Definition::builder("Decides")
        .step(counts("first"))
        .step(Parallel::new("par").step(in_branch).step(beside))
        .step(Router::new("route").select_async(routes).choice(tells("two")).choice(tells("other")))
        .step(ForEach::new("each").items_async(list).step(tells("item")))
        .step(Loop::new("loop").step(counts("again")).until(move |given| count(given) >= 4).max_iterations(9))
        .step(
            Condition::new("last")
                .when_async(|given| async move {
                    Ok::<_, Failure>(given.state.get("count") == Some(json!(4)) && given.state.get("none").is_none())
                })
                .step(tells("four")),
        );
    let definition = Arc::new(definition.build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, asks("go", SessionPolicy::Queue)).await.unwrap();
    let output = ended(&run).await;
    assert_eq!(output.status, RunStatus::Completed, "{}", output.text());
    fn leaves(steps: &[Arc<StepOutput>], names: &mut Vec<String>) {
        for step in steps {
            match step.steps.is_empty() {
                true => names.push(step.step_name.as_deref().unwrap_or_default().to_owned()),
                false => leaves(&step.steps, names),
            }
        }
    }
    let mut names = Vec::new();
    leaves(&output.step_results, &mut names);
    assert_eq!(names, ["first", "inside", "yes", "beside", "two", "item", "item", "again", "again", "four"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_heard_in_an_attempt_that_failed_is_heard_in_the_next() {
    /// Talks, and fails the first time.
    struct Flaky(Talker);

    impl Executor for Flaky {
        fn info(&self) -> ExecutorInfo {
            self.0.info()
        }

        fn execute<'a>(
            &'a self,
            context: StepContext,
            input: Arc<StepInput>,
        ) -> BoxFuture<'a, Result<Executed, Failure>> {
            Box::pin(async move {
                let attempt = context.step.attempt;
                let executed = self.0.execute(context, input).await?;
                if attempt == 1 { Err(Failure::function("not yet")) } else { Ok(executed) }
            })
        }
    }

    let retry = outlive_core::Retry::times(1).backoff(Duration::from_secs(1));
    for is_killed in [false, true] {
        let db = InMemoryDb::new();
        let talker = Talker { turns: 2, takes: Duration::from_secs(10) };
        let definition =
            build([Step::new("a").agent(Flaky(talker)).retry(retry), Talker::step("b", 2, Duration::ZERO)]);
        let first = engine(&db, &definition).await;
        let run = first.submit(&definition.id, asks("go", SessionPolicy::Queue)).await.unwrap();
        is_executing(&run, 0).await;
        first.submit(&definition.id, asks("word", SessionPolicy::Steer)).await.unwrap();
        let mut events = run.events(None);
        let is_retry =
            |kind: &EventKind| matches!(kind, EventKind::CustomEvent { fields } if fields["name"] == "StepRetrying");
        while !is_retry(&events.next().await.unwrap().expect("it goes on").kind) {}
        let mut current = first;
        let run_id = run.run_id().clone();
        if is_killed {
            let worker = current.worker();
            current.kill();
            drop((events, run));
            tokio::task::yield_now().await;
            db.crash(&worker);
            current = engine(&db, &definition).await;
        }
        let output = ended(&current.attach(run_id)).await;
        let texts: Vec<_> = output.step_results.iter().map(|step| step.text()).collect();
        assert_eq!(texts, ["word", ""], "killed: {is_killed}");
    }
}
