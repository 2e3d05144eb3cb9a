//! Several processes on one file: any of them submits, polls and follows; leases decide who executes.

use crate::example::{Example, event_lines};
use crate::world::World;
use outlive::engine::testing::{broken_invariants, read_log};
use outlive::prelude::*;
use outlive::{Engine, Options};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An engine that only reads and asks, as a second process does.
async fn observer(world: &World) -> Engine {
    let options = Options { execute: false, ..Options::default() };
    Engine::builder(Arc::new(world.db())).options(options).start().await.unwrap()
}

#[tokio::test]
async fn a_second_process_finds_a_run_by_its_id_while_it_executes_and_afterwards() {
    let world = World::new().await;
    let mut example = Example::start(&world, &["AI trends DELAY=0.3", "--poll", "0.1"]);
    let run_id = example.run_id();
    let observer = observer(&world).await;
    let found = observer.get_run(&run_id).await.unwrap().unwrap();
    assert!(matches!(found.status, RunStatus::Pending | RunStatus::Running), "{}", found.status);
    let mut events = observer.events(&run_id, None);
    let mut seen = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        seen.push(serde_json::to_string(&event).unwrap());
    }
    let (code, output) = example.finish();
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("Final Result:"), "{output}");
    let ended = observer.get_run(&run_id).await.unwrap().unwrap();
    assert_eq!(ended.status, RunStatus::Completed);
    let log = read_log(&**observer.db(), &run_id).await;
    assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
    assert_eq!(seen, event_lines(&log), "every reader sees the same bytes");
}

#[tokio::test]
async fn another_process_is_told_of_each_event_while_the_step_goes_on() {
    let world = World::new().await;
    let (seen, wait_for) = tokio::sync::mpsc::unbounded_channel();
    let wait_for = Arc::new(tokio::sync::Mutex::new(wait_for));
    let step = Step::function("tick", move |context, _: Arc<StepInput>| {
        let wait_for = wait_for.clone();
        async move {
            for n in 0..20 {
                context.progress(n.to_string(), Some(serde_json::json!(n)));
                assert_eq!(wait_for.lock().await.recv().await, Some(n), "the other process has read it");
            }
            Ok::<_, Failure>("done")
        }
    });
    let workflow = Workflow::builder("Ticks").db(world.db()).step(step).build().unwrap();
    let run = workflow.run("go").background().await.unwrap();
    let observer = observer(&world).await;
    let mut events = observer.events(run.run_id(), None);
    while let Some(event) = events.next().await.unwrap() {
        if let outlive::core::EventKind::StepProgress { data: Some(told), .. } = event.kind {
            seen.send(told.as_i64().unwrap()).unwrap();
        }
    }
    assert_eq!(run.wait().await.unwrap().text(), "done");
}

#[tokio::test]
async fn another_process_can_cancel_a_run() {
    let world = World::new().await;
    let mut example = Example::start(&world, &["AI trends DELAY=30", "--poll", "0.1"]);
    let run_id = example.run_id();
    let observer = observer(&world).await;
    let start = Instant::now();
    observer.cancel(&run_id, "from outside").await.unwrap();
    let ended = observer.attach(run_id).wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Cancelled);
    assert!(start.elapsed() < Duration::from_secs(10), "the step takes thirty: {:?}", start.elapsed());
    assert_eq!(example.finish().0, Some(11));
}
