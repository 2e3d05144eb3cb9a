//! What the tests share: definitions, engines and a store that outlives them.

use outlive_core::port::{Db, NewRun, NewStart, Run, SessionKind, SessionPolicy};
use outlive_core::{Definition, Failure, RunId, RunInfo, SessionId, Step, StepInput, StepOutput, WorkerId};
use outlive_db::{InMemoryDb, SqliteDb};
use outlive_engine::testing::{SimulatedClock, Stage, Subject, Sweep, crash_after_each_entry};
use outlive_engine::{Engine, Options, Submit};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Counts calls that leave the process.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<AtomicUsize>);

impl Calls {
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Crashes a run of this at every entry, in memory; these are the calls that it makes.
pub(crate) async fn swept(calls: &Calls, build: impl Fn() -> Arc<Definition> + Sync) -> Sweep {
    let clock = Arc::new(SimulatedClock::start());
    let subject = Subject { build: &build, request: input("hi"), clock, calls: &|| calls.count() };
    crash_after_each_entry(|| MemoryStage(InMemoryDb::new()), subject).await
}

/// A step that appends its name to what it is given.
pub(crate) fn append(name: &'static str, calls: &Calls) -> Step {
    let calls = calls.clone();
    Step::function(name, move |_, input: Arc<StepInput>| {
        calls.note();
        async move { Ok::<_, Failure>(StepOutput::new(format!("{} {name}", input.text()))) }
    })
}

/// A step that takes this long.
pub(crate) fn slow(name: &'static str, takes: Duration) -> Step {
    Step::function(name, move |_, input: Arc<StepInput>| async move {
        tokio::time::sleep(takes).await;
        Ok::<_, Failure>(StepOutput::new(input.text()))
    })
}

pub(crate) fn workflow(steps: impl IntoIterator<Item = Step>) -> Arc<Definition> {
    let builder = steps.into_iter().fold(Definition::builder("Example"), |builder, step| builder.step(step));
    Arc::new(builder.build().unwrap())
}

pub(crate) async fn engine(db: &InMemoryDb, definition: &Arc<Definition>) -> Engine {
    engine_with(db, definition, Options::default()).await
}

pub(crate) async fn engine_with(db: &InMemoryDb, definition: &Arc<Definition>, options: Options) -> Engine {
    let builder = Engine::builder(Arc::new(db.clone())).workflow(definition.clone()).options(options);
    builder.clock(Arc::new(SimulatedClock::start())).start().await.unwrap()
}

/// A run like one that is stored, under another id and in a session of its own.
pub(crate) fn new_run(id: &str, like: &Run) -> NewRun {
    let info =
        RunInfo { run_id: RunId::parse(id).unwrap(), session_id: SessionId::parse(id).unwrap(), ..like.info.clone() };
    NewRun {
        info,
        input: like.input.clone(),
        options: None,
        definition: like.definition.clone(),
        structure: None,
        idempotency_key: None,
        fingerprint: Arc::from(id),
        policy: SessionPolicy::Queue,
        session_state: None,
        session_kind: SessionKind::Workflow,
        hook: None,
        start: NewStart::default(),
        at: like.created_at,
    }
}

pub(crate) fn input(text: &str) -> Submit {
    Submit { input: Some(Value::from(text)), ..Submit::default() }
}

/// An in-memory store as the stage of one process after another.
pub(crate) struct MemoryStage(pub(crate) InMemoryDb);

impl Stage for MemoryStage {
    fn open(&self) -> Arc<dyn Db> {
        Arc::new(self.0.clone())
    }

    fn crashed(&self, worker: &WorkerId) {
        self.0.crash(worker);
    }
}

/// A file as the stage of one process after another.
pub(crate) struct FileStage(tempfile::TempDir);

impl FileStage {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Stage for FileStage {
    fn open(&self) -> Arc<dyn Db> {
        Arc::new(SqliteDb::new(self.0.path().join("workflow.db")))
    }

    fn crashed(&self, _worker: &WorkerId) {
        // Its lock on the file is gone with its handle: that is how the next process knows.
    }
}
