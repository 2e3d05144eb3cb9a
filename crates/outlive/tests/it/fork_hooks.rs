//! Forks of guarded agents on a real SQLite file: what an edit puts in the place of what hooks had looked at, they look
//! at too.

use crate::sweep::FileStage;
use outlive::agent::tool::Tool;
use outlive::core::port::Db;
use outlive::core::{ModelRequest, Role};
use outlive::engine::Fork;
use outlive::engine::testing::{Moment, Stage, TroubledDb, broken_invariants, read_log};
use outlive::prelude::*;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What hooks must keep from models and from the outside.
const MAIL: &str = "ada@example.org";
/// What they put in its place.
const MASKED: &str = "***************";

/// What models were asked, and how often the hooks that are not guardrails were.
#[derive(Clone, Default)]
struct Desk {
    requests: Arc<Mutex<Vec<String>>>,
    before: Arc<AtomicUsize>,
    after: Arc<AtomicUsize>,
}

impl Desk {
    fn asked(&self) -> String {
        std::mem::take(&mut *self.requests.lock().unwrap()).join("\n")
    }

    fn hooks(&self) -> (usize, usize) {
        (self.before.swap(0, Ordering::Relaxed), self.after.swap(0, Ordering::Relaxed))
    }

    /// Uses its tool or its member once, and then says what it was asked and what it was told.
    fn model(&self) -> ScriptedModel {
        let requests = self.requests.clone();
        ScriptedModel::from_fn("scripted", move |request: &ModelRequest| {
            requests.lock().unwrap().push(serde_json::to_string(&request.messages).unwrap());
            let told = request.messages.iter().rfind(|message| message.role == Role::Tool);
            let has = |name: &str| request.tools.iter().any(|tool| tool.name == name);
            let call = |name: &str, arguments: Value| {
                Ok(ModelResponse::calls(vec![ToolCall::new("call-1", name, arguments.to_string())]))
            };
            match told {
                None if has("look") => call("look", json!({ "topic": "bees" })),
                None if has("delegate_task_to_member") => {
                    call("delegate_task_to_member", json!({ "member_id": "clerk", "task": "look" }))
                }
                _ => {
                    let asked = request.messages.iter().find(|message| message.role == Role::User).unwrap();
                    let said = [Some(asked), told].into_iter().flatten().filter_map(|message| message.content.clone());
                    Ok(ModelResponse::text(said.collect::<Vec<_>>().join("; ")))
                }
            }
        })
    }

    /// Lets everything pass but what is forbidden.
    fn hook(&self, name: &str, asked: &Arc<AtomicUsize>) -> Hook {
        let asked = asked.clone();
        Hook::new(name, move |content: Value, _: HookContext| {
            asked.fetch_add(1, Ordering::Relaxed);
            let is_forbidden = content.to_string().contains("forbidden");
            async move { if is_forbidden { Err(CheckError::new("not that")) } else { Ok(()) } }
        })
    }

    fn hooks_before(&self) -> [Hook; 2] {
        [PiiGuardrail::new().mask_pii(true).into(), self.hook("before", &self.before)]
    }

    fn hooks_after(&self) -> [Hook; 2] {
        [PiiGuardrail::new().mask_pii(true).into(), self.hook("after", &self.after)]
    }

    fn clerk(&self) -> Agent {
        let look = Tool::new("look", "Looks into a topic", |look: Look, _: ToolContext| async move {
            Ok::<_, Failure>(format!("all about {}", look.topic))
        });
        Agent::new("Clerk").model(self.model()).tool(look)
    }

    /// An agent with hooks before and after it, and a step that repeats what it was given.
    fn agent(&self) -> Arc<outlive::core::Definition> {
        let clerk = self.clerk().pre_hooks(self.hooks_before()).post_hooks(self.hooks_after());
        Self::definition("Clerk", Step::new("Answer").agent(clerk))
    }

    /// A team with hooks of its own, and a member with hooks of its own.
    fn team(&self) -> Arc<outlive::core::Definition> {
        let clerk = self.clerk().pre_hooks(self.hooks_before()).post_hooks(self.hooks_after());
        let team = Team::new("Office").model(self.model()).member(clerk);
        let team = team.pre_hooks(self.hooks_before()).post_hooks(self.hooks_after());
        Self::definition("Office", Step::new("Answer").team(team))
    }

    fn definition(name: &str, step: Step) -> Arc<outlive::core::Definition> {
        let repeat = Step::function("Repeat", |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) });
        Workflow::builder(name).step(step).step(repeat).definition().unwrap()
    }
}

#[derive(schemars::JsonSchema, serde::Deserialize)]
struct Look {
    topic: String,
}

async fn start(db: Arc<dyn Db>, definition: &Arc<outlive::core::Definition>) -> Engine {
    Engine::builder(db).workflow(definition.clone()).start().await.unwrap()
}

/// A run that completed, with everything counted for it forgotten.
async fn completed(desk: &Desk, engine: &Engine, definition: &outlive::core::Definition) -> RunHandle {
    let submit = outlive::engine::Submit { input: Some(json!("Who?")), ..Default::default() };
    let run = engine.submit(&definition.id, submit).await.unwrap();
    let output = run.wait().await.unwrap();
    assert_eq!(output.status, RunStatus::Completed, "{}", output.text());
    desk.asked();
    desk.hooks();
    run
}

/// How a fork ends, which nothing in its log contradicts.
async fn ended(engine: &Engine, request: outlive::engine::ForkRequest) -> (WorkflowRunOutput, String) {
    let fork = request.background().await.unwrap();
    let output = fork.wait().await.unwrap();
    let log = read_log(&**engine.db(), fork.run_id()).await;
    assert_eq!(broken_invariants(&log, &fork.get().await.unwrap().unwrap()), Vec::<String>::new());
    let told = log.iter().map(|entry| serde_json::to_string(&entry.event).unwrap()).collect::<Vec<_>>().join("\n");
    (output, told)
}

#[tokio::test]
async fn hooks_before_a_run_look_at_another_input_of_the_agent_that_goes_on_with_it() {
    let (desk, stage) = (Desk::default(), FileStage::new());
    let definition = desk.agent();
    let engine = start(stage.open(), &definition).await;
    let run = completed(&desk, &engine, &definition).await;
    // Wherever the agent is: before its tool, in the middle of it, before its answer was looked at, while it was.
    for place in ["0/agent/t0", "0/agent/t0/0", "0/agent/t1", "0/agent/post0", "0/agent/post1"] {
        let (output, told) = ended(&engine, run.fork(place).input(format!("Who is {MAIL}?"))).await;
        assert_eq!(output.status, RunStatus::Completed, "{place}: {}", output.text());
        assert_eq!(desk.hooks(), (1, 1), "{place}: each is asked once more");
        let asked = desk.asked();
        assert!(!asked.contains(MAIL) && !told.contains("example.org"), "{place}: {asked}\n{told}");
        assert_eq!(asked.is_empty(), place.contains("post"), "{place}");
        assert!(asked.is_empty() || asked.contains(MASKED), "{place}: {asked}");
        let input = &output.step_executor_runs[0].input.as_ref().unwrap().input_content;
        assert_eq!(*input, json!(format!("Who is {MASKED}?")), "{place}");

        let (output, _) = ended(&engine, run.fork(place).input("Something forbidden")).await;
        assert_eq!((output.status, output.text().as_str()), (RunStatus::Error, "step \"Answer\": not that"), "{place}");
        assert_eq!((desk.asked(), desk.hooks()), (String::new(), (1, 0)), "{place}");
    }
    // Nobody looks again at what is as it was, and at what an agent has made of it that ended.
    for (place, is_other) in [("0/agent/t1", false), ("Repeat", false), ("Repeat", true)] {
        let fork = run.fork(place);
        let fork = if is_other { fork.input("Something forbidden") } else { fork };
        let (output, _) = ended(&engine, fork).await;
        assert_eq!(output.status, RunStatus::Completed, "{place}");
        assert_eq!(desk.hooks(), (0, usize::from(place != "Repeat")), "{place}");
        desk.asked();
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_leaders_hooks_look_at_another_input_and_its_members_at_what_the_leader_had_said() {
    let (desk, stage) = (Desk::default(), FileStage::new());
    let definition = desk.team();
    let engine = start(stage.open(), &definition).await;
    let run = completed(&desk, &engine, &definition).await;
    // In the middle of the member's work: its task is as it was, and its answer is still to be looked at.
    let (output, told) = ended(&engine, run.fork("0/team/t0/0/m/t1").input(format!("Who is {MAIL}?"))).await;
    assert_eq!(output.status, RunStatus::Completed, "{}", output.text());
    assert_eq!(desk.hooks(), (1, 2));
    let asked = desk.asked();
    assert!(asked.contains(MASKED) && !asked.contains(MAIL) && !told.contains("example.org"), "{asked}\n{told}");
    let (output, _) = ended(&engine, run.fork("0/team/t1").input("Something forbidden")).await;
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Error, "step \"Answer\": not that"));
    assert_eq!((desk.asked(), desk.hooks()), (String::new(), (1, 0)));
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn hooks_after_a_run_look_at_what_takes_the_place_of_its_answer() {
    let (desk, stage) = (Desk::default(), FileStage::new());
    let definition = desk.agent();
    let engine = start(stage.open(), &definition).await;
    let run = completed(&desk, &engine, &definition).await;
    for place in ["Answer", "0", "0/agent/t1"] {
        let request = run.fork(place).output(format!("Ask {MAIL}"));
        assert_eq!(request.preview().await.unwrap().again.len(), 1, "the function is called again, no model");
        let (output, told) = ended(&engine, request).await;
        assert_eq!((output.status, output.text()), (RunStatus::Completed, format!("Ask {MASKED}")), "{place}");
        assert!(!told.contains("example.org"), "{place}: {told}");
        assert_eq!((desk.asked(), desk.hooks()), (String::new(), (0, 1)), "{place}");
        let (output, _) = ended(&engine, run.fork(place).output("Something forbidden")).await;
        assert_eq!((output.status, output.text().as_str()), (RunStatus::Error, "step \"Answer\": not that"), "{place}");
        assert_eq!((desk.asked(), desk.hooks()), (String::new(), (0, 1)), "{place}");
    }
    engine.shutdown().await.unwrap();
    // A member's answer is what the call gave back.
    let definition = desk.team();
    let engine = start(stage.open(), &definition).await;
    let run = completed(&desk, &engine, &definition).await;
    let (output, told) = ended(&engine, run.fork("0/team/t0/0").output(format!("Ask {MAIL}"))).await;
    assert_eq!(output.text(), format!("Who?; Ask {MASKED}"));
    let asked = desk.asked();
    assert!(!asked.contains(MAIL) && !told.contains("example.org"), "{asked}\n{told}");
    assert_eq!(desk.hooks(), (0, 2), "the member's and the team's");
    engine.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_fork_whose_hooks_look_again_survives_a_crash_at_each_of_its_entries() {
    let (desk, stage) = (Desk::default(), FileStage::new());
    let definition = desk.agent();
    let engine = start(stage.open(), &definition).await;
    let run_id = completed(&desk, &engine, &definition).await.run_id().clone();
    let place = || Fork { input: Some(json!(format!("Who is {MAIL}?"))), ..Fork::at("0/agent/t1") };
    let fork = engine.fork(&run_id, place()).await.unwrap();
    let (whole, at) =
        (fork.wait().await.unwrap(), engine.preview_fork(&run_id, &place()).await.unwrap().forked_from.at);
    let end = read_log(&**engine.db(), fork.run_id()).await.len() as u64;
    engine.shutdown().await.unwrap();
    drop((engine, fork));
    desk.asked();
    // What is kept is shorter than what stood before: the hooks' entries are missing.
    for index in at - 3..end {
        let moment = if index.is_multiple_of(2) { Moment::Before } else { Moment::After };
        let id = format!("fork-{index}");
        let db = TroubledDb::crashing(stage.open(), index, moment);
        let engine = start(db.clone(), &definition).await;
        let fork = engine.fork(&run_id, Fork { run_id: Some(id.clone()), ..place() }).await.unwrap();
        tokio::select! {
            () = db.crashed() => {}
            _ = fork.wait() => {}
        }
        engine.kill();
        drop((fork, engine, db));
        tokio::task::yield_now().await;
        let engine = start(stage.open(), &definition).await;
        let output = engine.attach(id.parse().unwrap()).wait().await.unwrap();
        assert_eq!((output.status, output.text()), (RunStatus::Completed, whole.text()), "{moment:?} {index}");
        let asked = desk.asked();
        assert!(!asked.contains(MAIL), "{moment:?} {index}: {asked}");
        engine.shutdown().await.unwrap();
    }
}
