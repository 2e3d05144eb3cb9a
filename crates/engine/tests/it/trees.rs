//! Random trees under trouble: whatever happens to the processes that execute a run, it comes to the end it would have
//! come to undisturbed. A failure prints its seed.

use crate::stage::{Calls, FileStage, MemoryStage, append, engine, input, slow};
use futures::StreamExt;
use outlive_core::log::{Entry, Record};
use outlive_core::machine::WorkflowMachine;
use outlive_core::port::{
    Access, BoxFuture, Clock, Db, Executed, Executor, ExecutorInfo, RunStore, StepContext, merge,
};
use outlive_core::testing::{Dice, Forest, play, reply};
use outlive_core::{
    Answer, Block, Condition, ContentDelta, Definition, EventKind, ExecutorKind, Failure, ForEach, Key, Loop,
    ModelInfo, Node, OnError, Origin, Parallel, Retry, Router, RunId, RunStatus, Step, StepInput, StepOutput, StepType,
    Steps, WorkerId, WorkflowRunOutput, content_text,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{
    Moment, SimulatedClock, Stage, TroubledDb, broken_invariants, in_flight, normal, read_log, row_equals_fold,
};
use outlive_engine::{Engine, Error, Fork, OpenQuestion, Options, RunHandle, Submit, SystemClock};
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

/// Longer than any of these runs takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is done to the run's processes when its log has come to an entry.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Crash(Moment),
    Drain,
    /// Another process beside the one that executes, which then crashes.
    Heir,
    Cancel,
}

/// When people answer.
#[derive(Clone, Copy, Debug)]
enum People {
    /// Once nothing else of the run executes.
    AtRest,
    /// As soon as they are asked, whatever else executes.
    AtOnce,
}

/// A random tree, and what its processes do.
struct Tree<'a> {
    seed: u64,
    clock: &'a Arc<dyn Clock>,
    /// What one of a step's up to eight units of time is.
    unit: Duration,
    calls: Calls,
    asks: Calls,
    /// While there is trouble.
    people: People,
    /// Answers to what the run had not paused for.
    early: Calls,
    /// A step that always fails.
    broken: Arc<Mutex<Option<String>>>,
}

impl<'a> Tree<'a> {
    fn new(seed: u64, clock: &'a Arc<dyn Clock>, unit: Duration) -> Self {
        // Every other one of those that ask at all.
        let people = if seed % 10 == 2 { People::AtOnce } else { People::AtRest };
        let [calls, asks, early] = [(); 3].map(|()| Calls::default());
        Self { seed, clock, unit, calls, asks, people, early, broken: Arc::default() }
    }

    fn definition(&self) -> Arc<Definition> {
        let (calls, asks, broken, unit) = (self.calls.clone(), self.asks.clone(), self.broken.clone(), self.unit);
        // Few are as deep as they may be: those are large.
        let depth = [1, 2, 3, 2, 2, 3, 2, 4][usize::try_from(self.seed % 8).unwrap()];
        let forest = Forest::new(self.seed, move |name| played(name, &calls, &broken, unit)).backoff(10 * unit);
        let forest = forest.on_ask(Arc::new(move |_| asks.note()));
        // One in seven is led by an agent.
        let grown = if self.seed % 7 == 3 { forest.grow_led(depth, Leader) } else { forest.grow(depth) };
        Arc::new(grown.unwrap())
    }

    async fn start(&self, db: Arc<dyn Db>) -> Engine {
        let options = Options { claims_max: 100, scan_period: Duration::from_millis(20), ..Options::default() };
        let builder = Engine::builder(db).options(options).clock(self.clock.clone()).workflow(self.definition());
        builder.start().await.unwrap()
    }
}

/// An agent that has the steps executed on what it was asked.
struct Leader;

impl Executor for Leader {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Agent, name: Arc::from("Leader"), id: Some("leader".parse().unwrap()) }
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async move {
            let call = context.step.key.speaker("agent").turn(0).call(0);
            let content = context.effects.run_steps(&call, json!(format!("{}, please", input.text()))).await?;
            Ok(StepOutput::new(format!("it is {}", content_text(content.as_ref()))).into())
        })
    }
}

/// A step that plays, and takes its time.
fn played(name: &str, calls: &Calls, broken: &Arc<Mutex<Option<String>>>, unit: Duration) -> Step {
    let (calls, broken, name) = (calls.clone(), broken.clone(), name.to_owned());
    let units = name.bytes().fold(0u32, |sum, byte| sum * 7 + u32::from(byte)) % 8;
    Step::function(name.clone(), move |context, input: Arc<StepInput>| {
        calls.note();
        let (name, is_broken) = (name.clone(), broken.lock().unwrap().as_ref() == Some(&name));
        async move {
            tokio::time::sleep(unit * units).await;
            if is_broken {
                return Err(Failure::function("it is broken"));
            }
            let (result, state) = play(&input, &name, context.step.attempt, &context.state.all());
            for (key, value) in state.iter().flat_map(|state| state.as_object().unwrap()) {
                context.state.set(key, value.clone());
            }
            result
        }
    })
}

async fn submit(engine: &Engine) -> RunHandle {
    let request = Submit {
        input: Some(json!("hi")),
        run_id: Some("tree".to_owned()),
        session_id: Some("tree".to_owned()),
        idempotency_key: Some("tree".to_owned()),
        ..Submit::default()
    };
    engine.submit(&"random".parse().unwrap(), request).await.unwrap()
}

/// Waits until the log has come to this entry, or the run to its end; meanwhile, people answer.
async fn reaches(run: &RunHandle, index: u64, people: People) {
    let mut events = run.events(None).through_pauses();
    let come = async {
        while let Some(event) = timeout(PATIENCE, events.next()).await.expect("it goes on").unwrap() {
            if event.event_index >= Some(index) {
                return;
            }
        }
    };
    tokio::select! {
        () = come => {}
        _ = answered(run, people) => {}
    }
}

/// Answers whatever the run asks, until it has ended or asks nothing.
async fn answered(run: &RunHandle, people: People) -> Result<WorkflowRunOutput, Error> {
    if let People::AtOnce = people {
        let mut events = run.events(None).through_pauses();
        while let Some(event) = events.next().await? {
            if event.name().ends_with("Paused") || event.name() == "StepOutputReview" {
                answer(run.questions().await?).await?;
            }
        }
    }
    loop {
        let output = run.wait().await?;
        let open = run.questions().await?;
        if output.status != RunStatus::Paused || open.is_empty() {
            let stored = run.get().await?.expect("it is not deleted");
            assert_eq!(output, stored, "who waits here is told what the store says");
            return Ok(output);
        }
        answer(open).await?;
    }
}

async fn answer(open: Vec<OpenQuestion>) -> Result<(), Error> {
    for question in open {
        let given = reply(&question.question);
        // Another process that dies may have been told already.
        match question.answer(given).await {
            Ok(()) | Err(Error::AlreadyAnswered(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How a run ended.
#[derive(Clone)]
struct End {
    output: WorkflowRunOutput,
    log: Vec<Entry>,
    session: Map<String, Value>,
}

impl End {
    async fn of(engine: &Engine, people: People, place: &str) -> Self {
        let run = submit(engine).await;
        let db = engine.db();
        let output = timeout(PATIENCE, answered(&run, people)).await;
        let output = output.unwrap_or_else(|_| panic!("{place}: it does not end")).unwrap();
        let log = read_log(&**db, run.run_id()).await;
        let session = db.session(Access::All, "tree".parse().unwrap()).await.unwrap().unwrap().state;
        Self { output, log, session }
    }

    fn has(&self, event: &str) -> bool {
        self.log.iter().any(|entry| entry.event.name() == event)
    }

    /// Where a branch fails for good, those that have not ended are dropped: what they had done by then is a race.
    fn is_a_race(&self) -> bool {
        let ends_early = self.has("StepError") || self.output.status == RunStatus::Cancelled;
        ends_early && self.has("ParallelExecutionStarted")
    }

    /// What must not depend on anything that happens to processes.
    fn lasting(&self) -> Value {
        let mut output = self.output.clone();
        output.step_executor_runs.sort_by(|one, other| one.run_id.cmp(&other.run_id));
        // Which of several answers came first decides where it paused last, if at all.
        (output.paused_step_index, output.paused_step_name, output.pause_kind) = (None, None, None);
        output.cancellation_stage = None;
        json!({ "output": normal(&output), "session": self.session })
    }

    /// Answers to what the run had not paused for.
    fn early_answers(&self) -> usize {
        let (mut asked, mut early) = (Vec::new(), 0);
        for entry in &self.log {
            if entry.event.name() == "WorkflowPaused" {
                asked.clear();
            }
            match &entry.record {
                Some(Record::Waiting { questions, .. }) => asked.extend(questions.iter().map(|asked| &asked.key)),
                Some(Record::Answered { key, .. }) => early += usize::from(asked.contains(&key)),
                _ => {}
            }
        }
        early
    }

    /// Verdicts recorded after this process took the run.
    fn verdicts_by(&self, worker: &WorkerId, definition: &Definition) -> usize {
        // People are no code.
        let asks = |key: &Key| Node::find(&definition.nodes, key).is_some_and(|node| node.review().is_some());
        let claimed = |entry: &Entry| matches!(&entry.record, Some(Record::Claimed { worker: by, .. }) if by == worker);
        let first = self.log.iter().position(claimed).unwrap_or(self.log.len());
        let is_verdict = |entry: &&Entry| match (&entry.record, &entry.event.kind) {
            (Some(Record::Begin { key, kind, verdict, .. }), _) => {
                *kind != StepType::Loop && verdict.is_some() && !asks(key)
            }
            // Nobody is asked about a Loop that a step has stopped.
            (Some(Record::Iteration { .. }), EventKind::LoopIterationCompleted { iteration_results, .. }) => {
                !iteration_results.iter().any(|output| output.stop)
            }
            _ => false,
        };
        self.log[first..].iter().filter(is_verdict).count()
    }

    /// What holds however the run ended.
    async fn is_sound(&self, engine: &Engine, definition: &Definition, place: &str) {
        assert_eq!(broken_invariants(&self.log, &self.output), Vec::<String>::new(), "{place}");
        let run = engine.db().run(Access::All, RunId::parse("tree").unwrap()).await.unwrap().unwrap();
        assert!(row_equals_fold(&**engine.db(), &run, definition, &self.log).await, "{place}: the row is not the fold");
        let info = Arc::new(run.info.clone());
        let nodes = Some(definition.nodes.clone());
        let machine = WorkflowMachine::new(info, nodes, run.read_input().unwrap(), Default::default(), run.created_at);
        let mut machine = machine.with_leader(definition.leader.clone());
        let mut session = Map::new();
        for entry in &self.log {
            merge(&mut session, &machine.apply(entry).unwrap().session);
        }
        assert_eq!(session, self.session, "{place}: the session is not the fold");
        if self.output.status == RunStatus::Completed && !self.is_a_race() {
            assert_eq!(in_flight(&self.log), 0, "{place}: something that began has not ended");
        }
    }
}

/// One history of one tree on one store, beside the undisturbed one.
async fn compare(tree: &Tree<'_>, calm: impl Stage, stage: impl Stage) -> RunStatus {
    let (seed, definition) = (tree.seed, tree.definition());
    let engine = tree.start(calm.open()).await;
    let whole = End::of(&engine, People::AtRest, &format!("seed {seed}")).await;
    whole.is_sound(&engine, &definition, &format!("seed {seed}")).await;
    engine.shutdown().await.unwrap();
    let needed = tree.calls.count();

    let mut dice = Dice(seed);
    let (mut from, mut troubles, mut repeatable) = (0, Vec::new(), 0);
    for _ in 0..=dice.below(2) {
        let trouble = match dice.below(8) {
            0 => Trouble::Cancel,
            1 | 2 => Trouble::Drain,
            3 => Trouble::Heir,
            4 => Trouble::Crash(Moment::Before),
            _ => Trouble::Crash(Moment::After),
        };
        from += dice.below(whole.log.len() as u64 - from);
        troubles.push((trouble, from));
        repeatable += strike(tree, &stage, trouble, from).await;
    }
    let place = format!("seed {seed}, {troubles:?} of {} entries", whole.log.len());
    let engine = tree.start(stage.open()).await;
    let (asked, begun) = (tree.asks.count(), engine.worker());
    let end = End::of(&engine, tree.people, &place).await;
    (0..end.early_answers()).for_each(|_| tree.early.note());
    end.is_sound(&engine, &definition, &place).await;
    engine.shutdown().await.unwrap();
    let is_cancelled = troubles.iter().any(|(trouble, _)| matches!(trouble, Trouble::Cancel));
    if (end.output.status == RunStatus::Cancelled && is_cancelled) || whole.is_a_race() {
        return end.output.status;
    }
    assert_eq!(end.lasting(), whole.lasting(), "{place}");
    let made = tree.calls.count() - needed;
    assert!(made >= needed, "{place}: {made} calls made, {needed} are needed");
    assert!(made <= needed + repeatable, "{place}: {made} calls made, {needed} needed, {repeatable} were in flight");
    if is_claimed_by(&end.log, &begun) {
        let asked = tree.asks.count() - asked;
        assert_eq!(
            asked,
            end.verdicts_by(&begun, &definition),
            "{place}: a verdict that was recorded was asked for again"
        );
    }
    end.output.status
}

fn is_claimed_by(log: &[Entry], by: &WorkerId) -> bool {
    log.iter().any(|entry| matches!(&entry.record, Some(Record::Claimed { worker, .. }) if worker == by))
}

/// Executes the run until its log comes to an entry, and then makes trouble. Returns how many calls may be made again.
async fn strike(tree: &Tree<'_>, stage: &impl Stage, trouble: Trouble, index: u64) -> usize {
    let db = stage.open();
    if let Trouble::Crash(moment) = trouble {
        let crashing = TroubledDb::crashing(db.clone(), index, moment);
        let engine = tree.start(crashing.clone()).await;
        let run = submit(&engine).await;
        tokio::select! {
            () = crashing.crashed() => {}
            _ = answered(&run, tree.people) => {}
        }
        return gone(stage, engine, run, &*db).await;
    }
    let engine = tree.start(db.clone()).await;
    let run = submit(&engine).await;
    match trouble {
        Trouble::Crash(_) => {}
        Trouble::Drain => reaches(&run, index, tree.people).await,
        Trouble::Cancel => {
            reaches(&run, index, tree.people).await;
            engine.cancel(run.run_id(), "enough").await.unwrap();
        }
        Trouble::Heir => {
            let heir = tree.start(stage.open()).await;
            reaches(&run, index, tree.people).await;
            let repeatable = gone(stage, engine, run, &*db).await;
            let run = submit(&heir).await;
            reaches(&run, index + 3, tree.people).await;
            heir.shutdown().await.unwrap();
            return repeatable;
        }
    }
    engine.shutdown().await.unwrap();
    0
}

/// A process dies. Returns how many calls were in flight.
async fn gone(stage: &impl Stage, engine: Engine, run: RunHandle, db: &dyn Db) -> usize {
    let worker = engine.worker();
    engine.kill();
    let in_flight = in_flight(&read_log(db, run.run_id()).await);
    drop((run, engine));
    // Aborted tasks release the store when the runtime next gets to them.
    tokio::task::yield_now().await;
    stage.crashed(&worker);
    in_flight
}

fn tries(seeds: Range<u64>) {
    let all = seeds.end - seeds.start;
    let (mut completed, mut early) = (0, 0);
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        completed += runtime.block_on(async {
            let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
            let tree = Tree::new(seed, &clock, Duration::from_millis(20));
            let status = compare(&tree, MemoryStage(InMemoryDb::new()), MemoryStage(InMemoryDb::new())).await;
            early += tree.early.count();
            u64::from(status == RunStatus::Completed)
        });
    }
    assert!(completed > all / 2, "{completed}");
    assert!(early > 20, "{early} answers beside steps that executed");
}

#[test]
fn a_random_tree_under_trouble_comes_to_the_same_end() {
    tries(0..1_000);
}

#[test]
fn another_random_tree_under_trouble_comes_to_the_same_end() {
    tries(1_000..2_000);
}

/// An output without what differs between a run and a fork that did the same.
fn alike(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| name != "id" && !name.ends_with("_id"));
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            Value::String(text) if text.starts_with("Run ") => text.clear(),
            _ => {}
        }
    }
    strip(&mut value);
    // They were in the order of their ids, or in which they were asked.
    for list in ["/output/step_executor_runs", "/output/step_requirements"] {
        let list = value.pointer_mut(list).and_then(Value::as_array_mut);
        list.into_iter().for_each(|list| list.sort_by_key(Value::to_string));
    }
    value
}

/// Forks a run of a random tree at random entries; the fork's process may die.
async fn forked(tree: &Tree<'_>) {
    let (seed, definition, stage) = (tree.seed, tree.definition(), MemoryStage(InMemoryDb::new()));
    let engine = tree.start(stage.open()).await;
    let whole = End::of(&engine, People::AtRest, &format!("seed {seed}")).await;
    engine.shutdown().await.unwrap();
    let needed = tree.calls.count();
    let mut dice = Dice(seed);
    for _ in 0..2 {
        let at = dice.below(whole.log.len() as u64);
        let crashes = dice.below(2) == 0;
        let index = at + 2 + dice.below(8);
        let place = format!("seed {seed}, forked at {at} of {}, crash {crashes} at {index}", whole.log.len());
        let id = format!("fork-{at}-{index}");
        let before = tree.calls.count();
        let (db, mut in_flight) = (stage.open(), 0);
        let crashing = TroubledDb::crashing(db.clone(), if crashes { index } else { u64::MAX }, Moment::After);
        let engine = tree.start(crashing.clone()).await;
        let asked = Fork { run_id: Some(id.clone()), ..Fork::at(at) };
        let fork =
            engine.fork(&"tree".parse().unwrap(), asked).await.unwrap_or_else(|error| panic!("{place}: {error}"));
        let ended = timeout(PATIENCE, async {
            tokio::select! {
                () = crashing.crashed() => None,
                output = answered(&fork, People::AtRest) => Some(output.unwrap()),
            }
        });
        let ended = ended.await.unwrap_or_else(|_| panic!("{place}: it does not end"));
        let output = match ended {
            Some(output) => {
                engine.shutdown().await.unwrap();
                output
            }
            None => {
                in_flight = gone(&stage, engine, fork, &*db).await;
                let engine = tree.start(stage.open()).await;
                let output = timeout(PATIENCE, answered(&engine.attach(id.parse().unwrap()), People::AtRest)).await;
                let output = output.unwrap_or_else(|_| panic!("{place}: it does not end after a crash")).unwrap();
                engine.shutdown().await.unwrap();
                output
            }
        };
        is_same(&*db, (id.parse().unwrap(), output), &definition, Some(&whole), &place).await;
        let made = tree.calls.count() - before;
        // What was answered first decides what is still done where one answer ends the run.
        assert!(
            whole.is_a_race() || made <= needed + in_flight,
            "{place}: {made} calls made, {needed} needed by all of it"
        );
    }
}

/// A fork of a run that is called "tree", in another session or in its own, is sound and came to this end.
async fn is_same(
    db: &dyn Db,
    fork: (RunId, WorkflowRunOutput),
    definition: &Definition,
    whole: Option<&End>,
    place: &str,
) {
    let (run_id, output) = fork;
    let log = read_log(db, &run_id).await;
    let run = db.run(Access::All, run_id).await.unwrap().unwrap();
    let session = db.session(Access::All, run.info.session_id.clone()).await.unwrap().unwrap().state;
    let end = End { output, log, session };
    assert_eq!(broken_invariants(&end.log, &end.output), Vec::<String>::new(), "{place}");
    assert!(row_equals_fold(db, &run, definition, &end.log).await, "{place}: the row is not the fold");
    let has_own_session = run.info.session_id.as_str() != "tree";
    let text = serde_json::to_string(&end.log).unwrap();
    if has_own_session {
        let named = usize::from(text.contains("RunForked"));
        assert_eq!(text.matches("\"tree\"").count(), named, "{place}: it names the run");
    }
    if let Some(whole) = whole.filter(|whole| !whole.is_a_race()) {
        let [mut end, mut whole] = [end, whole.clone()].map(|end| alike(end.lasting()));
        // Branches count on what they have seen of each other.
        for end in [&mut end, &mut whole] {
            end["session"].as_object_mut().unwrap().remove("count");
        }
        assert_eq!(difference(&end, &whole, String::new()), None, "{place}");
    }
}

/// Where two values differ first.
fn difference(one: &Value, other: &Value, path: String) -> Option<String> {
    let (names, len): (Vec<String>, _) = match (one, other) {
        (Value::Object(fields), Value::Object(others)) => (fields.keys().chain(others.keys()).cloned().collect(), 0),
        (Value::Array(items), Value::Array(others)) => (Vec::new(), items.len().max(others.len())),
        _ => return (one != other).then(|| format!("{path}: {one} is not {other}")),
    };
    let names = names.into_iter().chain((0..len).map(|index| index.to_string()));
    let at = |value: &Value, name: &str| value.pointer(&format!("/{name}")).cloned().unwrap_or(json!("missing"));
    names.into_iter().find_map(|name| difference(&at(one, &name), &at(other, &name), format!("{path}/{name}")))
}

/// Forks a run of a random tree with what a step gave back or what was answered, said once more: nothing is changed.
async fn edited(tree: &Tree<'_>) {
    let (seed, definition, stage) = (tree.seed, tree.definition(), MemoryStage(InMemoryDb::new()));
    let engine = tree.start(stage.open()).await;
    let whole = End::of(&engine, People::AtRest, &format!("seed {seed}")).await;
    let run = engine.attach("tree".parse().unwrap());
    let mut dice = Dice(seed);
    let start = dice.below(whole.log.len() as u64);
    let indexes = (0..whole.log.len() as u64).map(|index| (index + start) % whole.log.len() as u64);
    let edits = indexes.filter_map(|index| match &whole.log[usize::try_from(index).unwrap()].record {
        Some(Record::Step { output, .. }) if output.step_type == StepType::Step && output.success => {
            Some(run.fork(index).output(output.content.clone()?))
        }
        Some(Record::Answered { answered, .. }) => Some(run.fork(index).answer(answered.answer.clone())),
        _ => None,
    });
    for (number, request) in edits.take(3).enumerate() {
        let place = format!("seed {seed}, edit {number} from {start}: {}", whole.log.len());
        let fork = request.background().await.unwrap_or_else(|error| panic!("{place}: {error}"));
        let output = timeout(PATIENCE, answered(&fork, People::AtRest)).await;
        let output = output.unwrap_or_else(|_| panic!("{place}: it does not end")).unwrap();
        is_same(&**engine.db(), (fork.run_id().clone(), output), &definition, Some(&whole), &place).await;
    }
    engine.shutdown().await.unwrap();
}

/// Tries a run of a random tree again in which one step always fails, or which was cancelled, once it would not. Returns
/// whether there was anything to try again.
async fn tried_again(tree: &Tree<'_>) -> bool {
    let (seed, definition, stage) = (tree.seed, tree.definition(), MemoryStage(InMemoryDb::new()));
    let calm = MemoryStage(InMemoryDb::new());
    let engine = tree.start(calm.open()).await;
    let whole = End::of(&engine, People::AtRest, &format!("seed {seed}")).await;
    engine.shutdown().await.unwrap();
    if whole.output.status != RunStatus::Completed {
        return false;
    }
    let mut dice = Dice(seed);
    let names = whole.log.iter().filter_map(|entry| match &entry.record {
        Some(Record::Step { output, .. }) if output.step_type == StepType::Step => output.step_name.clone(),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    let engine = tree.start(stage.open()).await;
    let run = submit(&engine).await;
    let cancels = names.is_empty() || dice.below(3) == 0;
    let what = if cancels {
        let at = dice.below(whole.log.len() as u64);
        reaches(&run, at, People::AtRest).await;
        engine.cancel(run.run_id(), "enough").await.unwrap();
        format!("cancelled at {at}")
    } else {
        let name = names[usize::try_from(dice.below(names.len() as u64)).unwrap()].to_string();
        *tree.broken.lock().unwrap() = Some(name.clone());
        format!("{name:?} fails")
    };
    let place = format!("seed {seed}, {what}");
    let output = timeout(PATIENCE, answered(&run, People::AtRest)).await;
    let output = output.unwrap_or_else(|_| panic!("{place}: it does not end")).unwrap();
    *tree.broken.lock().unwrap() = None;
    let is_over = !matches!(output.status, RunStatus::Error | RunStatus::Cancelled);
    if !is_over {
        let again = run.retry().background().await.unwrap_or_else(|error| panic!("{place}: {error}"));
        let output = timeout(PATIENCE, answered(&again, People::AtRest)).await;
        let output = output.unwrap_or_else(|_| panic!("{place}: it does not end when tried again")).unwrap();
        // In a later attempt at a container, its steps are other ones, and people say other things; what somebody has
        // left out stays so.
        let is_step = |key: &Key| match Node::find(&definition.nodes, key) {
            Some(Node::Step(step)) => step.executor_type == ExecutorKind::Function,
            _ => false,
        };
        let log = read_log(&**engine.db(), run.run_id()).await;
        let mut records = log.iter().filter_map(|entry| entry.record.as_ref());
        let is_another = records.any(|record| match record {
            Record::Retry { key, .. } => !is_step(key),
            Record::Answered { answered, .. } => matches!(answered.answer, Answer::Skip | Answer::Retry),
            _ => false,
        });
        let expected = Some(&whole).filter(|_| !is_another);
        is_same(&**engine.db(), (again.run_id().clone(), output), &definition, expected, &place).await;
    }
    engine.shutdown().await.unwrap();
    !is_over
}

/// Does this with each of these trees.
fn each<T>(seeds: Range<u64>, does: impl AsyncFn(&Tree<'_>) -> T) -> Vec<T> {
    let one = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::start());
            does(&Tree::new(seed, &clock, Duration::from_millis(20))).await
        })
    };
    seeds.map(one).collect()
}

#[test]
fn a_fork_of_a_random_tree_comes_to_the_same_end() {
    each(0..80, forked);
}

#[test]
fn a_fork_of_a_random_tree_in_which_the_same_is_said_again_comes_to_the_same_end() {
    each(0..100, edited);
}

#[test]
fn a_random_tree_that_is_tried_again_comes_to_the_end_it_would_have_come_to() {
    let tried = each(0..200, tried_again).into_iter().filter(|tried| *tried).count();
    assert!(tried > 50, "{tried}");
}

/// The same in SQLite files, in real time.
async fn tries_in_files(seeds: Range<u64>) {
    let all = seeds.end - seeds.start;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let tries = seeds.map(|seed| {
        let clock = clock.clone();
        async move {
            let tree = Tree::new(seed, &clock, Duration::from_micros(100));
            compare(&tree, MemoryStage(InMemoryDb::new()), FileStage::new()).await
        }
    });
    let ends: Vec<_> = futures::stream::iter(tries).buffer_unordered(8).collect().await;
    let completed = ends.iter().filter(|status| **status == RunStatus::Completed).count() as u64;
    assert!(completed > all / 2, "{completed}");
}

#[tokio::test]
async fn a_random_tree_under_trouble_in_a_file_comes_to_the_same_end() {
    tries_in_files(10_000..11_000).await;
}

#[tokio::test]
async fn another_random_tree_under_trouble_in_a_file_comes_to_the_same_end() {
    tries_in_files(11_000..12_000).await;
}

/// Code that decides never, at first; then at once.
fn undecided<T>(
    first: u32,
    then: T,
) -> impl Fn(outlive_core::VerdictInput) -> futures::future::BoxFuture<'static, Result<T, Failure>> + Send + Sync + 'static
where
    T: Clone + Send + Sync + 'static,
{
    let asked = Arc::new(AtomicU32::new(0));
    move |_| {
        let (number, then) = (asked.fetch_add(1, Ordering::Relaxed), then.clone());
        Box::pin(async move {
            if number < first {
                std::future::pending::<()>().await;
            }
            Ok(then)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_hangs_or_panics_ends_with_its_containers_time() {
    let calls = Calls::default();
    let limit = Duration::from_secs(2);
    let a = || append("a", &calls);
    let condition = |first| Condition::new("c").when_async(undecided(first, true)).step(a()).timeout(limit);
    let repeated = |first| Loop::new("l").until_async(undecided(first, true)).step(a()).timeout(limit);
    let panics = Condition::new("p").when(|_| -> bool { panic!("no idea") }).step(a()).on_error(OnError::Skip);
    for (block, text, made) in [
        (Block::from(condition(1).retry(Retry::times(1))), "hi a b", 2),
        (condition(9).on_error(OnError::Skip).into(), "hi b", 1),
        (repeated(1).retry(Retry::times(1)).into(), "hi a b", 3),
        (repeated(9).on_error(OnError::Skip).into(), "hi b", 2),
        (panics.into(), "hi b", 1),
    ] {
        let before = calls.count();
        let definition =
            Arc::new(Definition::builder("Example").step(block).step(append("b", &calls)).build().unwrap());
        let engine = engine(&InMemoryDb::new(), &definition).await;
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        let output = timeout(PATIENCE, run.wait()).await.expect("it ends").unwrap();
        assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, text), "{output:?}");
        assert_eq!(calls.count() - before, made);
        timeout(Duration::from_secs(5), engine.shutdown()).await.expect("nothing is in progress").unwrap();
    }
}

/// A step that says its name in pieces, as a model's answer that streams, and then never ends. Every attempt is another
/// speaker.
fn speaks(name: &'static str, pieces: usize) -> Step {
    Step::function(name, move |context, _: Arc<StepInput>| async move {
        let speaker = context.run.run_id.derive_run(context.step.key.as_str());
        let origin = Origin { run_id: Some(speaker), ..context.origin() };
        let asked = Record::Intent { key: context.step.key.speaker("agent").turn(0), name: None };
        context.effects.tell(EventKind::ModelRequestStarted(ModelInfo::default()), &origin, Some(asked));
        for piece in 0..pieces {
            let text = format!("{name}{piece} {} ", context.step.key);
            let delta = ContentDelta { content: Some(text), content_type: "str".to_owned(), ..ContentDelta::default() };
            context.effects.stream(EventKind::RunContent(delta), &origin);
            tokio::task::yield_now().await;
        }
        std::future::pending::<Result<String, Failure>>().await
    })
}

fn build(blocks: impl IntoIterator<Item = Block>) -> Arc<Definition> {
    let builder = blocks.into_iter().fold(Definition::builder("Example"), |builder, block| builder.step(block));
    Arc::new(builder.build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_branches_were_saying_when_the_run_was_cancelled_is_theirs_and_of_their_last_attempt() {
    let group = Steps::new("right").step(speaks("r", 1));
    let parallel = Parallel::new("par").step(speaks("left", 2)).step(group).timeout(Duration::from_secs(5));
    let definition = build([parallel.retry(Retry::times(1)).into()]);
    let engine = engine(&InMemoryDb::new(), &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(engine.stats().model_aborted, 2, "the first attempt's calls were given up");
    engine.cancel(run.run_id(), "enough").await.unwrap();
    let output = run.wait().await.unwrap();
    let branches = &output.step_results[0].steps;
    assert_eq!(branches.len(), 2, "{branches:?}");
    assert_eq!(branches[0].text(), "left0 0~2/b0 left1 0~2/b0 ");
    assert_eq!(branches[1].steps[0].text(), "r0 0~2/b1/0 ");
    assert_eq!(engine.stats().model_aborted, 4);
}

#[tokio::test(start_paused = true)]
async fn floods_of_pieces_from_several_branches_do_not_become_floods_of_entries() {
    let definition = build([Parallel::new("par").step(speaks("a", 500)).step(speaks("b", 500)).into()]);
    let db = InMemoryDb::new();
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    engine.cancel(run.run_id(), "enough").await.unwrap();
    let output = run.wait().await.unwrap();
    let log = read_log(&db, run.run_id()).await;
    assert!(log.len() < 100, "{}", log.len());
    for (step, name) in output.step_results[0].steps.iter().zip(["a", "b"]) {
        let said = log.iter().filter_map(|entry| match &entry.event.kind {
            EventKind::RunContent(delta) if entry.event.origin.step_name.as_deref() == Some(name) => {
                delta.content.as_deref()
            }
            _ => None,
        });
        assert_eq!(said.collect::<String>(), step.text(), "no piece is lost, and all are in order");
        assert!(step.text().contains(&format!("{name}499 ")), "{}", step.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_every_step_in_progress_and_drops_what_a_failure_makes_useless() {
    let slow = |name, takes| slow(name, Duration::from_secs(takes));
    let fails = Step::function("fails", |_, _: Arc<StepInput>| async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        Err::<String, _>(Failure::fatal("no"))
    });
    let doomed = Parallel::new("doomed").step(fails).step(slow("useless", 3_600)).on_error(OnError::Skip);
    let parallel = Parallel::new("par").step(slow("one", 2)).step(slow("two", 4)).step(doomed);
    let definition = build([parallel.into(), slow("later", 1).into()]);
    let db = InMemoryDb::new();
    let first = engine(&db, &definition).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = tokio::time::Instant::now();
    first.shutdown().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let ended = |log: &[Entry]| log.iter().filter(|entry| matches!(entry.record, Some(Record::Step { .. }))).count();
    assert_eq!(ended(&read_log(&db, run.run_id()).await), 3, "both steps, and the container that failed");
    let heir = engine(&db, &definition).await;
    let output = heir.attach(run.run_id().clone()).wait().await.unwrap();
    assert_eq!(output.status, RunStatus::Completed);
    let started = read_log(&db, run.run_id()).await.iter().filter(|entry| entry.event.name() == "StepStarted").count();
    assert_eq!(started, 5, "nothing was begun twice");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_during_a_drain_says_nothing_after_its_end() {
    let fails = Step::function("fails", |_, _: Arc<StepInput>| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Err::<String, _>(Failure::fatal("no"))
    });
    let definition = build([Parallel::new("par").step(fails).step(slow("slow", Duration::from_secs(2))).into()]);
    let db = InMemoryDb::new();
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    engine.shutdown().await.unwrap();
    let log = read_log(&db, run.run_id()).await;
    assert_eq!(log.last().unwrap().event.name(), "WorkflowError", "{:?}", log.last());
    let stored = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert_eq!((stored.status, stored.worker), (RunStatus::Error, None));
}

#[tokio::test(start_paused = true)]
async fn a_run_leaves_memory_when_a_branch_backs_off_and_no_sibling_executes() {
    const MINUTE: Duration = Duration::from_secs(60);
    let flaky = Step::function("flaky", |context, _: Arc<StepInput>| async move {
        if context.step.attempt == 1 { Err(Failure::function("not yet")) } else { Ok("there") }
    });
    let flaky = flaky.retry(Retry::times(1).backoff(120 * MINUTE).backoff_max(120 * MINUTE));
    let parallel = Parallel::new("par").step(flaky).step(slow("slow", 10 * MINUTE)).timeout(600 * MINUTE);
    let definition = build([parallel.into()]);
    let db = InMemoryDb::new();
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let row = || async { db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap() };
    tokio::time::sleep(5 * MINUTE).await;
    assert_eq!((engine.stats().runs_executing, row().await.due_at), (1, None), "a sibling executes");
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(engine.stats().runs_executing, 0);
    assert!(row().await.due_at.is_some() && row().await.worker.is_none());
    let output = run.wait().await.unwrap();
    let branches: Vec<_> = output.step_results[0].steps.iter().map(|step| step.text()).collect();
    assert_eq!((output.status, branches), (RunStatus::Completed, vec!["there".to_owned(), "hi".to_owned()]));
    let log = read_log(&db, run.run_id()).await;
    assert_eq!(log.iter().filter(|entry| entry.event.name() == "StepStarted").count(), 2, "nothing was begun twice");
}

#[tokio::test]
async fn a_run_that_executes_nothing_completes() {
    let work = || speaks("work", 1);
    let condition = || Condition::new("no").when_cel("false").step(work());
    let nothing: Vec<Block> = vec![
        condition().into(),
        Condition::new("never").when_always(false).step(work()).into(),
        ForEach::new("none").items_cel("[]").step(work()).into(),
        Router::new("nowhere").select_cel("[]").choice(work()).into(),
        Steps::new("all").step(condition()).into(),
        Parallel::new("both").step(condition()).step(Condition::new("neither").when_cel("false").step(work())).into(),
        Loop::new("again").max_iterations(2).step(condition()).into(),
    ];
    for block in nothing {
        let definition = build([block]);
        let (memory, file) = (MemoryStage(InMemoryDb::new()), FileStage::new());
        for db in [memory.open(), file.open()] {
            let engine = Engine::builder(db.clone()).workflow(definition.clone()).start().await.unwrap();
            let run = engine.submit(&definition.id, input("hi")).await.unwrap();
            let ended = timeout(PATIENCE, run.wait()).await.expect("it ends").unwrap();
            assert_eq!(ended.status, RunStatus::Completed, "{ended:?}");
            let log = read_log(&*db, run.run_id()).await;
            assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
            let again = run.fork(log.len() as u64 - 1).background().await.unwrap();
            assert_eq!(again.wait().await.unwrap().status, RunStatus::Completed);
        }
    }
}
