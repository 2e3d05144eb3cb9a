//! Forks of a run of agents on a real SQLite file: what was recorded is not called again, wherever the run is cut and
//! whatever happens to the fork.

use crate::sweep::{self, FileStage};
use outlive::agent::tool::Tool;
use outlive::core::fork::CallKind;
use outlive::core::log::{Entry, Part, Record};
use outlive::core::port::{Access, Db};
use outlive::core::{FailureKind, ModelRequest, Role};
use outlive::engine::testing::{Moment, Stage, TroubledDb, broken_invariants, poll_and_drop, read_log};
use outlive::engine::{Fork, Options, Submit};
use outlive::prelude::*;
use outlive::{RunId, RunOutput};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What left the processes, and how the model behaves.
#[derive(Clone, Default)]
struct World {
    calls: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
}

impl World {
    fn count(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Looks ten times before it answers, as the conversation alone says.
    fn model(&self) -> ScriptedModel {
        let world = self.clone();
        ScriptedModel::from_fn("scripted", move |request: &ModelRequest| {
            world.calls.fetch_add(1, Ordering::Relaxed);
            let results = request.messages.iter().filter(|message| message.role == Role::Tool).count();
            if results == 5 && world.is_down.load(Ordering::Relaxed) {
                return Err(Failure::new(FailureKind::Auth, "the key is not valid"));
            }
            if results < 9 && request.tools.iter().any(|tool| tool.name == "look") {
                let arguments = json!({ "topic": results.to_string() }).to_string();
                return Ok(ModelResponse::calls(vec![ToolCall::new(format!("call-{results}"), "look", arguments)]));
            }
            let mut said = request.messages.iter().filter_map(|message| message.content.as_deref());
            Ok(ModelResponse::text(said.next_back().unwrap_or_default().to_owned()))
        })
        .chunks(2)
    }

    /// Two agents, each of which calls a model ten times and a tool nine times, and two functions: 40 calls.
    fn definition(&self) -> Arc<outlive::core::Definition> {
        let counted = self.calls.clone();
        let look = Tool::new("look", "Looks into a topic", move |look: Look, context: ToolContext| {
            counted.fetch_add(1, Ordering::Relaxed);
            context.session_state.set("looked", look.topic.clone());
            async move { Ok::<_, Failure>(format!("all about {}", look.topic)) }
        });
        let agent = |name: &str| Agent::new(name).model(self.model()).tool(look.clone().effect(ToolEffect::Once));
        let step = |name: &str| {
            let counted = self.calls.clone();
            Step::function(name, move |_, input: Arc<StepInput>| {
                counted.fetch_add(1, Ordering::Relaxed);
                async move { Ok::<_, Failure>(format!("{}.", input.text())) }
            })
        };
        let builder =
            Workflow::builder("Forty").step(step("Ask")).step(Step::new("Research").agent(agent("Researcher")));
        builder.step(step("Check")).step(Step::new("Write").agent(agent("Writer"))).definition().unwrap()
    }

    async fn start(&self, db: Arc<dyn Db>) -> Engine {
        let options = Options { scan_period: Duration::from_millis(50), ..Options::default() };
        Engine::builder(db).options(options).workflow(self.definition()).start().await.unwrap()
    }
}

#[derive(schemars::JsonSchema, serde::Deserialize)]
struct Look {
    topic: String,
}

async fn submitted(engine: &Engine) -> RunHandle {
    let submit = Submit { input: Some(json!("bees")), ..Submit::default() };
    engine.submit(&"forty".parse().unwrap(), submit).await.unwrap()
}

/// The fork is sound, and nothing in it names the other run but the entry that is there to.
async fn is_sound(db: &dyn Db, parent: &RunId, fork: &RunHandle) -> Vec<Entry> {
    let log = read_log(db, fork.run_id()).await;
    assert_eq!(broken_invariants(&log, &fork.get().await.unwrap().unwrap()), Vec::<String>::new());
    for entry in &log {
        let text = serde_json::to_string(entry).unwrap();
        assert_eq!(text.contains(parent.as_str()), text.contains("RunForked"), "{text}");
    }
    // What begins as one agent's run ends as the same.
    let ids = |name: &str| -> Vec<RunId> {
        let named = log.iter().filter(|entry| entry.event.name() == name);
        let mut ids: Vec<_> = named.filter_map(|entry| entry.event.origin.run_id.clone()).collect();
        // Branches end in another order.
        ids.sort();
        ids
    };
    assert_eq!(ids("RunStarted"), ids("RunCompleted"));
    log
}

#[tokio::test]
async fn a_fork_at_every_entry_of_a_run_of_40_calls_makes_the_calls_after_it() {
    forked_at_every_entry("bees").await;
}

#[tokio::test]
async fn a_fork_at_every_entry_of_a_run_of_40_calls_with_another_input_makes_the_calls_after_it() {
    forked_at_every_entry("wasps").await;
}

/// Each fork works on this input, as far as what was recorded does not speak of the other.
async fn forked_at_every_entry(input: &str) {
    let (world, stage) = (World::default(), FileStage::new());
    let engine = world.start(stage.open()).await;
    let run = submitted(&engine).await;
    let whole = run.wait().await.unwrap();
    assert_eq!((whole.status, world.count()), (RunStatus::Completed, 40));
    let db = engine.db().clone();
    let log = read_log(&*db, run.run_id()).await;
    let mut least = 40;
    for at in 0..log.len() as u64 {
        let (before, mut request) = (world.count(), run.fork(at));
        if input != "bees" {
            request = request.input(input);
        }
        let preview = request.preview().await.unwrap();
        assert_eq!(preview.kept.len() + preview.again.len(), 40, "at {at}");
        let once = preview.again.iter().filter(|call| call.kind == CallKind::Tool).count();
        assert_eq!(preview.once().count(), once, "at {at}");
        let fork = request.background().await.unwrap();
        let output = fork.wait().await.unwrap();
        assert_eq!((output.status, output.text()), (RunStatus::Completed, whole.text()), "at {at}");
        assert_eq!(output.input, Some(json!(input)), "at {at}");
        let asked = output.step_results[0].text();
        assert!(asked == format!("{input}.") || asked == "bees.", "at {at}: {asked}");
        assert_eq!(asked == "bees.", input == "bees" || preview.again.len() < 40, "at {at}");
        assert_eq!(world.count() - before, preview.again.len(), "at {at} of {}", log.len());
        assert!(preview.again.len() <= least, "at {at}");
        least = preview.again.len();
        is_sound(&*db, run.run_id(), &fork).await;
        let (one, other) = (output.step_executor_runs, &whole.step_executor_runs);
        let said = |runs: &[Arc<RunOutput>]| -> Vec<_> {
            runs.iter().map(|run| (run.messages.len(), run.tools.len())).collect()
        };
        assert_eq!(said(&one), said(other), "at {at}");
    }
    assert_eq!(least, 0);
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_tools_and_a_models_edited_answers_are_what_the_agent_goes_on_with() {
    let (world, stage) = (World::default(), FileStage::new());
    let engine = world.start(stage.open()).await;
    let run = submitted(&engine).await;
    run.wait().await.unwrap();
    let before = world.count();
    let tool = run.fork("3/agent/t8/0").output("nothing to see").background().await.unwrap();
    assert_eq!(tool.wait().await.unwrap().text(), "nothing to see");
    assert_eq!(world.count() - before, 1, "one more request");
    let log = is_sound(&**engine.db(), run.run_id(), &tool).await;
    let told = log.iter().rfind(|entry| entry.event.name() == "ToolCallCompleted").unwrap();
    assert!(serde_json::to_string(told).unwrap().contains("nothing to see"));
    let before = world.count();
    let model = run.fork("3/agent/t4").output("enough").background().await.unwrap();
    let output = model.wait().await.unwrap();
    assert_eq!((output.text(), world.count() - before), ("enough".to_owned(), 0));
    let log = is_sound(&**engine.db(), run.run_id(), &model).await;
    let last = log.iter().rfind(|entry| entry.event.name() == "ModelRequestStarted").unwrap().event.event_index;
    let pieces = log.iter().filter(|entry| entry.event.name() == "RunContent" && entry.event.event_index > last);
    assert_eq!(pieces.count(), 0, "what was streamed of the other answer is not kept");
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_retry_goes_on_with_the_request_that_failed() {
    let (world, stage) = (World::default(), FileStage::new());
    let engine = world.start(stage.open()).await;
    world.is_down.store(true, Ordering::Relaxed);
    let run = submitted(&engine).await;
    let failed = run.wait().await.unwrap();
    assert_eq!(failed.status, RunStatus::Error, "{}", failed.text());
    engine.shutdown().await.unwrap();
    world.is_down.store(false, Ordering::Relaxed);
    let engine = world.start(stage.open()).await;
    let run = engine.attach(run.run_id().clone());
    let (before, preview) = (world.count(), run.retry().preview().await.unwrap());
    assert_eq!(preview.again.len(), 1, "{preview:?}");
    assert_eq!(preview.again[0].key.as_str(), "1/agent/t5");
    let again = run.retry().background().await.unwrap();
    assert_eq!(again.wait().await.unwrap().status, RunStatus::Completed);
    assert_eq!(before + 29, world.count(), "11 calls are kept: 1, 5 of the model and 5 of the tool");
    is_sound(&**engine.db(), run.run_id(), &again).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_fork_of_agents_survives_a_crash_at_each_of_its_entries_and_callers_that_go_away() {
    let (world, stage) = (World::default(), FileStage::new());
    let engine = world.start(stage.open()).await;
    let run = submitted(&engine).await;
    let (whole, run_id) = (run.wait().await.unwrap(), run.run_id().clone());
    let log = read_log(&**engine.db(), &run_id).await;
    // In the middle of the second agent's work, with five calls to go.
    let place = "3/agent/t7";
    let (before, at) = (world.count(), run.fork(place).preview().await.unwrap().forked_from.at);
    assert!(at > log.len() as u64 / 2, "{at}");
    let fork = run.fork(place).background().await.unwrap();
    assert_eq!(fork.wait().await.unwrap().text(), whole.text());
    let needed = world.count() - before;
    assert_eq!(needed, 5);
    let end = read_log(&**engine.db(), fork.run_id()).await.len() as u64;
    engine.shutdown().await.unwrap();
    drop((engine, run, fork));
    let moment = |index: u64| if index.is_multiple_of(2) { Moment::Before } else { Moment::After };
    for (index, moment) in (at + 1..end).map(|index| (index, moment(index))) {
        let id = format!("fork-{index}-{moment:?}");
        let place_of = || Fork { run_id: Some(id.clone()), ..Fork::at(place) };
        let before = world.count();
        let db = TroubledDb::crashing(stage.open(), index, moment);
        let engine = world.start(db.clone()).await;
        let fork = engine.fork(&run_id, place_of()).await.unwrap();
        let crashed = tokio::select! {
            () = db.crashed() => true,
            _ = fork.wait() => false,
        };
        engine.kill();
        drop((fork, engine, db));
        tokio::task::yield_now().await;
        let engine = world.start(stage.open()).await;
        let fork = engine.attach(id.parse().unwrap());
        let mut output = fork.wait().await.unwrap();
        // A tool that must run once, and was in flight: somebody says what came of it.
        let is_asked = output.status == RunStatus::Paused;
        if is_asked {
            fork.questions().await.unwrap()[0].result("all about 8").await.unwrap();
            output = fork.wait().await.unwrap();
        }
        assert_eq!(output.status, RunStatus::Completed, "{moment:?} {index}");
        let made = world.count() - before;
        let least = needed - usize::from(is_asked);
        assert!((least..=needed + usize::from(crashed)).contains(&made), "{moment:?} {index}: {made} calls");
        is_sound(&**engine.db(), &run_id, &fork).await;
        engine.shutdown().await.unwrap();
    }
    let engine = world.start(TroubledDb::yielding(stage.open())).await;
    for polls in 0..25 {
        let id = format!("left-{polls}");
        let asked = Fork { run_id: Some(id.clone()), ..Fork::at("Write") };
        let left = poll_and_drop(engine.fork(&run_id, asked), polls).await;
        let is_there = || async { engine.db().run(Access::All, id.parse().unwrap()).await.unwrap().is_some() };
        assert!(left.is_none() || is_there().await, "after {polls} polls");
        if polls > 0 {
            let fork = engine.attach(id.parse().unwrap());
            while !is_there().await {
                tokio::task::yield_now().await;
            }
            assert_eq!(fork.wait().await.unwrap().text(), whole.text());
        }
    }
    engine.shutdown().await.unwrap();
}

/// Forks a run of this workflow at every entry, and with what each call gave back said once more.
async fn forked_everywhere(build: impl Fn(&ScriptedModel, &Arc<AtomicUsize>) -> Workflow, are_all_counted: bool) {
    let model = ScriptedModel::from_fn("scripted", |request| Ok(sweep::script(request))).chunks(3);
    let made = Arc::new(AtomicUsize::new(0));
    let stage = FileStage::new();
    let definition = build(&model, &made).definition().clone();
    let engine = Engine::builder(stage.open()).workflow(definition.clone()).start().await.unwrap();
    let submit = Submit { input: Some(json!("a topic")), ..Submit::default() };
    let run = engine.submit(&definition.id, submit).await.unwrap();
    let whole = run.wait().await.unwrap();
    assert_eq!(whole.status, RunStatus::Completed, "{}", whole.text());
    let (db, calls) = (engine.db().clone(), || model.calls() + made.load(Ordering::Relaxed));
    let log = read_log(&*db, run.run_id()).await;
    let name = &definition.name;
    for at in 0..log.len() as u64 {
        let (before, request) = (calls(), run.fork(at));
        let preview = request.preview().await.unwrap();
        let fork = request.background().await.unwrap();
        let output = fork.wait().await.unwrap();
        assert_eq!((output.status, output.text()), (whole.status, whole.text()), "{name} at {at}");
        let done = calls() - before;
        assert!(done <= preview.again.len(), "{name} at {at}: {done} calls, {preview:?}");
        assert!(!are_all_counted || done == preview.again.len(), "{name} at {at}: {done} calls, {preview:?}");
        is_sound(&*db, run.run_id(), &fork).await;
    }
    let mut edits = 0;
    for (index, entry) in (0..).zip(&log) {
        let said = match &entry.record {
            Some(Record::Result { key, value, .. }) if matches!(key.parts().last(), Some(Part::Call(_))) => {
                let value: serde_json::Value = serde_json::from_str(value.get()).unwrap();
                value["content"].clone()
            }
            Some(Record::Result { key, value, .. }) if key.is_named() => serde_json::from_str(value.get()).unwrap(),
            _ => continue,
        };
        let place = format!("{name}, {:?} is {said} again", entry.record);
        let fork = run.fork(index).output(said).background().await.unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(fork.wait().await.unwrap().text(), whole.text(), "{place}");
        is_sound(&*db, run.run_id(), &fork).await;
        edits += 1;
    }
    assert!(edits > 0, "{name}");
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_team_is_forked_at_every_entry() {
    forked_everywhere(sweep::workflow, true).await;
}

#[tokio::test]
async fn agents_in_branches_are_forked_at_every_entry() {
    forked_everywhere(sweep::branches, true).await;
}

#[tokio::test]
async fn functions_with_recorded_calls_are_forked_at_every_entry() {
    forked_everywhere(sweep::functions, false).await;
}
