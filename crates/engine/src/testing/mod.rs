//! What tests of workflows need: a store with trouble, the sweep that crashes at every entry, callers that go away, and
//! the invariants every log must keep.
//!
//! A sweep runs a workflow once, then once for each entry of its log with a crash right after that entry became durable,
//! and once more right before, each time finishing in a fresh engine. It compares outputs and counts calls.

use crate::engine::Engine;
use crate::error::Error;
use crate::handle::RunHandle;
use crate::options::Options;
use crate::submit::Submit;
use outlive_core::log::{Entry, Key, Record};
use outlive_core::machine::WorkflowMachine;
use outlive_core::port::{Access, Clock, Db, LogReader, Run, run_output};
use outlive_core::{
    Answer, Attachments, Definition, EventKind, Question, RunId, RunStatus, Timestamp, WorkerId, WorkflowRunOutput,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

mod db;

pub use db::{Moment, TroubledDb};

/// The wall clock of simulated time: moves with the runtime's timer, which a test pauses.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedClock(Instant);

impl SimulatedClock {
    /// A clock that shows 2026-11-23 now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_795_404_467_000_000) + self.0.elapsed()
    }
}

/// Where one process after another opens the same store.
pub trait Stage: Send + Sync {
    /// Opens the store, as a new process would.
    fn open(&self) -> Arc<dyn Db>;

    /// The process with this worker is gone.
    fn crashed(&self, worker: &WorkerId);
}

/// Polls a future this many times, each time after everyone else had a turn, then drops it: its output if it had one by
/// then.
pub async fn poll_and_drop<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..times {
        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// A workflow under test: built anew for every process, and how many calls left those processes so far.
pub struct Subject<'a> {
    /// Builds the definition, as each process does.
    pub build: &'a (dyn Fn() -> Arc<Definition> + Sync),
    /// What is asked, by each process again. Its ids, session and key are the sweep's own.
    pub request: Submit,
    /// The wall clock of every process.
    pub clock: Arc<dyn Clock>,
    /// Calls that have left any process: functions entered, models asked, tools called.
    pub calls: &'a (dyn Fn() -> usize + Sync),
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Entries of the undisturbed run's log.
    pub entries: u64,
    /// Crashes survived.
    pub crashes: u32,
    /// Calls made again because they were in flight at a crash.
    pub repeated_calls: usize,
}

/// Crashes a workflow once after and once before each entry of its log.
///
/// # Panics
/// As [`crash_at_entries`].
pub async fn crash_after_each_entry<S: Stage>(stage: impl Fn() -> S, subject: Subject<'_>) -> Sweep {
    let both = |index| [(index, Moment::After), (index, Moment::Before)];
    crash_at_entries(stage, subject, |entries| (0..entries).flat_map(both).collect()).await
}

/// Crashes a workflow once at each of the `places` that are chosen, given how many entries its undisturbed log has.
///
/// # Panics
/// When an output differs from the undisturbed run's, a recorded call was made again, more calls were repeated than were
/// in flight, or the log breaks an invariant.
pub async fn crash_at_entries<S: Stage>(
    stage: impl Fn() -> S,
    subject: Subject<'_>,
    places: impl FnOnce(u64) -> Vec<(u64, Moment)>,
) -> Sweep {
    let undisturbed = {
        let stage = stage();
        let before = (subject.calls)();
        let engine = start(stage.open(), &subject).await;
        let output = finish(&engine, &subject).await;
        let log = read_log(&**engine.db(), &output.run_id).await;
        engine.shutdown().await.expect("the store works");
        (normal(&output), log.len() as u64, (subject.calls)() - before)
    };
    let (expected, entries, calls) = undisturbed;
    let mut sweep = Sweep { entries, ..Sweep::default() };
    for (index, moment) in places(entries) {
        let stage = stage();
        let before = (subject.calls)();
        let in_flight = crash(&stage, &subject, index, moment).await;
        let engine = start(stage.open(), &subject).await;
        let output = finish(&engine, &subject).await;
        let place = format!("crash {moment:?} entry {index} of {entries}");
        assert_eq!(normal(&output), expected, "{place}: the output changed");
        let log = read_log(&**engine.db(), &output.run_id).await;
        assert_eq!(broken_invariants(&log, &output), Vec::<String>::new(), "{place}");
        let made = (subject.calls)() - before;
        assert!(made >= calls, "{place}: {made} calls made, {calls} are needed");
        assert!(made <= calls + in_flight, "{place}: {made} calls made, {calls} needed, {in_flight} in flight");
        sweep.crashes += 1;
        sweep.repeated_calls += made - calls;
        engine.shutdown().await.expect("the store works");
    }
    sweep
}

/// Runs the subject until it crashes; returns how many calls were in flight.
async fn crash(stage: &impl Stage, subject: &Subject<'_>, index: u64, moment: Moment) -> usize {
    let db = stage.open();
    let crashing = TroubledDb::crashing(db.clone(), index, moment);
    let engine = start(crashing.clone(), subject).await;
    let handle = submit(&engine, subject).await;
    tokio::select! {
        () = crashing.crashed() => {}
        Ok(_) = ended(&engine, &handle) => panic!("the run ended before entry {index}: its log must not depend on chance"),
    }
    let worker = engine.worker();
    engine.kill();
    let in_flight = in_flight(&read_log(&*db, handle.run_id()).await);
    drop((handle, engine, crashing, db));
    // Aborted tasks release the store when the runtime next gets to them.
    tokio::task::yield_now().await;
    stage.crashed(&worker);
    in_flight
}

async fn start(db: Arc<dyn Db>, subject: &Subject<'_>) -> Engine {
    let options = Options { scan_period: Duration::from_millis(50), ..Options::default() };
    let builder = Engine::builder(db).options(options).clock(subject.clock.clone()).workflow((subject.build)());
    builder.start().await.expect("the store opens")
}

async fn submit(engine: &Engine, subject: &Subject<'_>) -> RunHandle {
    let definition = (subject.build)();
    let request = Submit {
        run_id: Some("0193e4a2-0000-7000-8000-000000000001".to_owned()),
        session_id: Some("sweep".to_owned()),
        idempotency_key: Some("sweep".to_owned()),
        ..subject.request.clone()
    };
    engine.submit(&definition.id, request).await.expect("the run is accepted, or known")
}

/// Submits (or finds, by its key) the run and waits for its end.
async fn finish(engine: &Engine, subject: &Subject<'_>) -> WorkflowRunOutput {
    let handle = submit(engine, subject).await;
    let ended = tokio::time::timeout(Duration::from_secs(600), ended(engine, &handle)).await;
    ended.expect("the run ends").expect("the store works")
}

/// How a run ends. Whenever it pauses because of questions that can be answered with a yes, all of them are.
async fn ended(engine: &Engine, handle: &RunHandle) -> Result<WorkflowRunOutput, Error> {
    loop {
        let output = handle.wait().await?;
        let open = if output.status == RunStatus::Paused { handle.questions().await? } else { Vec::new() };
        if open.is_empty() || open.iter().any(|open| open.question.check(&Answer::Approve).is_err()) {
            return Ok(output);
        }
        engine.answer(open.iter().map(|open| (open.id().clone(), Answer::Approve)), None).await?;
    }
}

/// The whole log of a run.
///
/// # Panics
/// When it cannot be read.
pub async fn read_log(db: &dyn Db, run_id: &RunId) -> Vec<Entry> {
    let mut log: Vec<Entry> = Vec::new();
    let Some(run) = db.run(Access::All, run_id.clone()).await.expect("the run can be read") else { return log };
    let mut reader = LogReader::new(&run.info, Access::All);
    loop {
        let pages = db.read(Access::All, run_id.clone(), log.len() as u64, 1 << 20).await.expect("the log can be read");
        if pages.is_empty() {
            return log;
        }
        for page in pages {
            log.extend(reader.entries(db, &page).await.expect("the log is sound"));
        }
    }
}

/// Calls with an intent in the log but no end: at most these are repeated after a crash.
pub fn in_flight(log: &[Entry]) -> usize {
    let mut open: BTreeSet<Key> = BTreeSet::new();
    let mut asked: BTreeMap<Key, (Key, Arc<Question>)> = BTreeMap::new();
    for record in log.iter().filter_map(|entry| entry.record.as_ref()) {
        match record {
            Record::Intent { key, .. } | Record::Reserved { key, .. } => drop(open.insert(key.clone())),
            Record::Result { key, .. } => drop(open.remove(key)),
            // What was still open inside was dropped with it.
            Record::Step { key, .. } | Record::Failed { key, .. } => {
                open.retain(|known| known != key && !known.is_inside(key));
            }
            Record::Waiting { key, questions, .. } => {
                open.retain(|known| known != key && !known.is_inside(key));
                let of_key = |question: &Arc<Question>| (question.key.clone(), (key.clone(), question.clone()));
                asked.extend(questions.iter().map(of_key));
            }
            Record::Answered { key, answered } => {
                let Some((step, question)) = asked.remove(key) else { continue };
                match question.executes_again(&answered.answer) {
                    Some(true) => drop(open.insert(step.attempt(step.attempt_number() + 1))),
                    Some(false) => drop(open.insert(step)),
                    None => {}
                }
            }
            Record::Retry { key, attempt, .. } => {
                open.retain(|known| known != key && !known.is_inside(key));
                open.insert(key.attempt(attempt + 1));
            }
            Record::Claimed { .. }
            | Record::Begin { .. }
            | Record::Iteration { .. }
            | Record::Said { .. }
            | Record::Run { .. }
            | Record::Rest(_) => {}
        }
    }
    // A step's own intent covers what runs inside it.
    let is_container = |key: &Key| open.iter().any(|other| other.is_inside(key));
    open.iter().filter(|key| !is_container(key)).count()
}

/// Every invariant that a finished run's log breaks; none when all is well.
pub fn broken_invariants(log: &[Entry], output: &WorkflowRunOutput) -> Vec<String> {
    let mut broken = Vec::new();
    let dense = log.iter().zip(0..).all(|(entry, index)| entry.event.event_index == Some(index));
    if !dense {
        broken.push("indexes are not dense".to_owned());
    }
    let is_paused = output.status == RunStatus::Paused;
    let terminal = log.iter().filter(|entry| entry.event.is_terminal()).count();
    let is_end = |last: &Entry| match is_paused {
        true => matches!(last.event.kind, EventKind::WorkflowPaused { .. }),
        false => last.event.is_terminal(),
    };
    if terminal != usize::from(!is_paused) || !log.last().is_some_and(is_end) {
        broken.push(format!("{terminal} terminal events, and the last entry must be the only one"));
    }
    broken.extend(broken_keys(log));
    let mut epochs = log.iter().filter_map(|entry| match &entry.record {
        // What a fork begins with was written under no lease of its own.
        Some(Record::Claimed { epoch, .. }) => Some(*epoch).filter(|epoch| *epoch > 0),
        _ => None,
    });
    let mut last = 0;
    if !epochs.all(|epoch| std::mem::replace(&mut last, epoch) < epoch) {
        broken.push("epochs do not rise".to_owned());
    }
    if !output.status.is_terminal() && !is_paused {
        broken.push(format!("the run is {}", output.status));
    }
    broken
}

fn broken_keys(log: &[Entry]) -> Vec<String> {
    let mut broken = Vec::new();
    let (mut intents, mut results) = (BTreeMap::new(), BTreeMap::new());
    for record in log.iter().filter_map(|entry| entry.record.as_ref()) {
        match record {
            Record::Intent { key, .. } => {
                *intents.entry(key.clone()).or_insert(0) += 1;
                if results.contains_key(key) {
                    broken.push(format!("an intent for {key}, which has a result"));
                }
            }
            Record::Result { key, .. } | Record::Step { key, .. } => *results.entry(key.clone()).or_insert(0) += 1,
            // A call that is made again reserves again.
            Record::Reserved { key, .. } => {
                if results.contains_key(key) {
                    broken.push(format!("a reservation for {key}, which has a result"));
                }
            }
            Record::Claimed { .. }
            | Record::Begin { .. }
            | Record::Iteration { .. }
            | Record::Said { .. }
            | Record::Run { .. }
            | Record::Failed { .. }
            | Record::Retry { .. }
            | Record::Waiting { .. }
            | Record::Answered { .. }
            | Record::Rest(_) => {}
        }
    }
    broken.extend(intents.iter().filter(|(_, n)| **n > 1).map(|(key, n)| format!("{n} intents for {key}")));
    broken.extend(results.iter().filter(|(_, n)| **n > 1).map(|(key, n)| format!("{n} results for {key}")));
    broken
}

/// The run row must equal the fold of its log.
pub fn fold(run: &Run, definition: &Definition, log: &[Entry]) -> WorkflowRunOutput {
    let input = run.read_input().expect("the input can be read");
    let nodes = Some(definition.nodes.clone());
    let machine =
        WorkflowMachine::new(Arc::new(run.info.clone()), nodes, input, Attachments::default(), run.created_at);
    let mut machine = machine.with_leader(definition.leader.clone());
    for entry in log {
        machine.apply(entry).expect("the log is of this definition");
    }
    machine.output()
}

/// Whether a run's row equals the fold of its log.
pub async fn row_equals_fold(db: &dyn Db, run: &Run, definition: &Definition, log: &[Entry]) -> bool {
    run_output(db, &Access::All, run).await.expect("the row can be read") == fold(run, definition, log)
}

/// An output without what may differ between two identical executions: times and durations, and which of several
/// branches' agents was done first.
pub fn normal(output: &WorkflowRunOutput) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for key in ["created_at", "duration", "time_to_first_token", "start_time", "end_time"] {
                    map.remove(key);
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut output = output.clone();
    // They tell of crashes too.
    output.events.clear();
    output.step_executor_runs.sort_by(|one, other| one.run_id.cmp(&other.run_id));
    let mut value = serde_json::to_value(output).expect("outputs have string keys only");
    strip(&mut value);
    value
}
