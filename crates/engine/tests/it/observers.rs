//! An observer hears what the log holds: all of it, in its order, after it is on disk, and without secrets.

use crate::stage::{Calls, MemoryStage, append, input, workflow};
use outlive_core::port::{BoxFuture, Db, Observer, Witness};
use outlive_core::{Definition, Entry, Failure, RunInfo, Secret, Step, StepInput};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{Moment, SimulatedClock, Stage, TroubledDb, read_log};
use outlive_engine::{Engine, EngineBuilder, Options};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was heard, in order.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Begun,
    Replayed(Vec<Entry>),
    Committed(Vec<Entry>),
    Gone,
    Flushed,
}

#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Heard>>>);

impl Notes {
    fn note(&self, heard: Heard) {
        self.0.lock().unwrap().push(heard);
    }

    fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Notes {
    fn witness(&self, _run: &Arc<RunInfo>) -> Option<Box<dyn Witness>> {
        self.note(Heard::Begun);
        Some(Box::new(Ear(self.clone())))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.note(Heard::Flushed) })
    }
}

struct Ear(Notes);

impl Witness for Ear {
    fn replayed(&mut self, entries: &[Entry]) {
        self.0.note(Heard::Replayed(entries.to_vec()));
    }

    fn committed(&mut self, entries: &[Entry]) {
        self.0.note(Heard::Committed(entries.to_vec()));
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.note(Heard::Gone);
    }
}

fn builder(db: Arc<dyn Db>, definition: &Arc<Definition>, notes: &Notes) -> EngineBuilder {
    let options = Options { scan_period: Duration::from_millis(50), ..Options::default() };
    let builder = Engine::builder(db).workflow(definition.clone()).options(options);
    builder.clock(Arc::new(SimulatedClock::start())).observer(Arc::new(notes.clone()))
}

fn entries(heard: &[Heard]) -> Vec<Entry> {
    let entries = |heard: &Heard| match heard {
        Heard::Replayed(entries) | Heard::Committed(entries) => entries.clone(),
        Heard::Begun | Heard::Gone | Heard::Flushed => Vec::new(),
    };
    heard.iter().flat_map(entries).collect()
}

/// Entries as they are on disk, so that what only a reader fills in does not count.
fn written(entries: &[Entry]) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    entries.iter_mut().for_each(|entry| entry.event.event_index = None);
    entries
}

#[tokio::test(start_paused = true)]
async fn every_entry_is_told_once_and_in_order() {
    let (db, notes) = (InMemoryDb::new(), Notes::default());
    let definition = workflow([append("a", &Calls::default()), append("b", &Calls::default())]);
    let engine = builder(Arc::new(db.clone()), &definition, &notes).start().await.unwrap();
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    run.wait().await.unwrap();
    engine.shutdown().await.unwrap();
    let heard = notes.take();
    assert_eq!((&heard[0], &heard[heard.len() - 2..]), (&Heard::Begun, &[Heard::Gone, Heard::Flushed][..]));
    assert_eq!(written(&entries(&heard)), written(&read_log(&db, run.run_id()).await));
    assert!(entries(&heard).iter().all(|entry| entry.at.is_some()), "each says when to the microsecond");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_that_is_not_on_disk_and_the_next_process_is_told_all_of_it() {
    let definition = workflow([append("a", &Calls::default()), append("b", &Calls::default())]);
    for index in 1..8 {
        let (db, first, second) = (InMemoryDb::new(), Notes::default(), Notes::default());
        let stage = MemoryStage(db.clone());
        let crashing = TroubledDb::crashing(stage.open(), index, Moment::Before);
        let engine = builder(crashing.clone(), &definition, &first).start().await.unwrap();
        let run = engine.submit(&definition.id, input("hi")).await.unwrap();
        crashing.crashed().await;
        let worker = engine.worker();
        engine.kill();
        let before = read_log(&db, run.run_id()).await;
        assert_eq!(written(&entries(&first.take())), written(&before), "crash before entry {index}");
        stage.crashed(&worker);

        let engine = builder(stage.open(), &definition, &second).start().await.unwrap();
        let run = engine.attach(run.run_id().clone());
        run.wait().await.unwrap();
        engine.shutdown().await.unwrap();
        let heard = second.take();
        assert_eq!(written(&entries(&heard)), written(&read_log(&db, run.run_id()).await));
        let replayed: Vec<_> = heard.iter().filter(|heard| matches!(heard, Heard::Replayed(_))).cloned().collect();
        assert_eq!(written(&entries(&replayed)), written(&before), "crash before entry {index}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_told_to_nobody() {
    const SECRET: &str = "planted-canary-0123456789";
    let (db, notes) = (InMemoryDb::new(), Notes::default());
    let blab = Step::function("blab", |_, _: Arc<StepInput>| async { Ok::<_, Failure>(format!("it is {SECRET}")) });
    let definition = workflow([blab]);
    let options = Options { secrets: vec![Secret::from(SECRET)], ..Options::default() };
    let engine = builder(Arc::new(db.clone()), &definition, &notes).options(options).start().await.unwrap();
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    run.wait().await.unwrap();
    engine.shutdown().await.unwrap();
    let told = written(&entries(&notes.take()));
    assert_eq!(told, written(&read_log(&db, run.run_id()).await));
    let told = format!("{told:?}");
    assert!(told.contains("[redacted]") && !told.contains("canary"));
}
