//! A crash after each entry of the examples' logs, on real SQLite files.

use outlive::agent::tool::Tool;
use outlive::core::port::Db;
use outlive::core::{ModelRequest, ModelResponse, Role, ToolCall, WorkerId};
use outlive::engine::testing::{Stage, Subject, crash_after_each_entry};
use outlive::engine::{Submit, SystemClock};
use outlive::prelude::*;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file that one process after another opens.
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

fn asked(input: &str) -> Submit {
    Submit { input: Some(input.into()), ..Submit::default() }
}

#[derive(schemars::JsonSchema, serde::Deserialize)]
struct Look {
    topic: String,
}

/// Decides from the conversation alone, as a real model would: delegate to both, look once, then answer.
pub(crate) fn script(request: &ModelRequest) -> ModelResponse {
    let has_tool = |name: &str| request.tools.iter().any(|tool| tool.name == name);
    let results = request.messages.iter().filter(|message| message.role == Role::Tool).count();
    let delegate = |member: &str| {
        let arguments = json!({ "member_id": member, "task": format!("look into {member}") }).to_string();
        ToolCall::new(format!("call-{member}"), "delegate_task_to_member", arguments)
    };
    match results {
        0 if has_tool("delegate_task_to_member") => ModelResponse::calls(vec![delegate("left"), delegate("right")]),
        0 if has_tool("look") => {
            let call =
                |n: u32| ToolCall::new(format!("call-{n}"), "look", json!({ "topic": n.to_string() }).to_string());
            ModelResponse::calls(vec![call(1), call(2)])
        }
        _ => {
            let said = request.messages.iter().filter_map(|message| message.content.as_deref());
            ModelResponse::text(format!("I have read {} letters", said.map(str::len).sum::<usize>()))
        }
    }
}

pub(crate) fn workflow(model: &ScriptedModel, tool_calls: &Arc<AtomicUsize>) -> Workflow {
    let counted = tool_calls.clone();
    let look = Tool::new("look", "Looks into a topic", move |look: Look, _context| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Failure>(format!("all about {}", look.topic)) }
    });
    let member = |name: &str| Agent::new(name).model(model.clone()).tool(look.clone());
    let team = Team::new("Team").members([member("Left"), member("Right")]);
    let writer = Agent::new("Writer").model(model.clone());
    Workflow::builder("Sweep")
        .db(InMemoryDb::new())
        .step(Step::new("Research").team(team))
        .step(Step::new("Write").agent(writer))
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_team_and_an_agent_survive_a_crash_at_every_entry() {
    let model = ScriptedModel::from_fn("scripted", |request| Ok(script(request))).chunks(3);
    let tool_calls = Arc::new(AtomicUsize::new(0));
    let build = || workflow(&model, &tool_calls).definition().clone();
    let calls = || model.calls() + tool_calls.load(Ordering::Relaxed);
    let subject = Subject { build: &build, request: asked("a topic"), clock: Arc::new(SystemClock), calls: &calls };
    let sweep = crash_after_each_entry(FileStage::new, subject).await;
    assert!(sweep.entries > 40, "{sweep:?}");
    assert_eq!(sweep.crashes as u64, sweep.entries * 2);
    assert!(sweep.repeated_calls > 0, "some calls were in flight: {sweep:?}");
}

/// Two agents at once, one of them in a Loop, then one more.
pub(crate) fn branches(model: &ScriptedModel, tool_calls: &Arc<AtomicUsize>) -> Workflow {
    let counted = tool_calls.clone();
    let look = Tool::new("look", "Looks into a topic", move |look: Look, _context| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Failure>(format!("all about {}", look.topic)) }
    });
    let agent = |name: &str| Step::new(name).agent(Agent::new(name).model(model.clone()));
    let looks = Step::new("Looks").agent(Agent::new("Looks").model(model.clone()).tool(look));
    let again =
        Loop::new("Again").step(agent("Again and again")).max_iterations(2).until(|question| question.iteration == 2);
    Workflow::builder("Branches")
        .db(InMemoryDb::new())
        .step(Parallel::new("Research").step(looks).step(again))
        .step(agent("Write"))
        .build()
        .unwrap()
}

#[tokio::test]
async fn agents_in_branches_survive_a_crash_at_every_entry() {
    let model = ScriptedModel::from_fn("scripted", |request| Ok(script(request)));
    let tool_calls = Arc::new(AtomicUsize::new(0));
    let build = || branches(&model, &tool_calls).definition().clone();
    let calls = || model.calls() + tool_calls.load(Ordering::Relaxed);
    let subject = Subject { build: &build, request: asked("a topic"), clock: Arc::new(SystemClock), calls: &calls };
    let sweep = crash_after_each_entry(FileStage::new, subject).await;
    assert!(sweep.entries > 40, "{sweep:?}");
    assert!(sweep.repeated_calls > 0, "some calls were in flight: {sweep:?}");
}

/// A function with recorded calls and a sleep, one on a thread of its own, and an agent that is told what they put into
/// the session's state.
pub(crate) fn functions(model: &ScriptedModel, calls: &Arc<AtomicUsize>) -> Workflow {
    let (counted, threaded) = (calls.clone(), calls.clone());
    let order = Step::function("Order", move |context: StepContext, input| {
        let counted = counted.clone();
        async move {
            let charge = || async {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok("receipt".to_owned())
            };
            let receipt: String = context.once("charge", charge).await?;
            context.say("charged ");
            context.sleep("cooling off", std::time::Duration::from_millis(5)).await?;
            context.state.set("receipt", receipt);
            context.say(input.text());
            Ok::<_, Failure>(())
        }
    });
    let pack = Step::blocking("Pack", move |context, input| {
        threaded.fetch_add(1, Ordering::Relaxed);
        context.progress("packing", None);
        context.state.set("receipt", "packed");
        Ok(format!("{}, packed", input.text()))
    });
    let tells = Agent::new("Tells").model(model.clone()).instructions("It is {receipt}.");
    Workflow::builder("Functions")
        .db(InMemoryDb::new())
        .step(order)
        .step(Step::new("Tell").agent(tells.clone()))
        .step(pack)
        .step(Step::new("Tell again").agent(tells))
        .build()
        .unwrap()
}

#[tokio::test]
async fn functions_and_what_agents_are_told_of_their_state_survive_a_crash_at_every_entry() {
    let model = ScriptedModel::from_fn("scripted", |request| {
        let said = request.messages.iter().filter_map(|message| message.content.as_deref());
        Ok(ModelResponse::text(said.collect::<Vec<_>>().join(" / ")))
    });
    let made = Arc::new(AtomicUsize::new(0));
    let build = || functions(&model, &made).definition().clone();
    let calls = || model.calls() + made.load(Ordering::Relaxed);
    let subject = Subject { build: &build, request: asked("a hat"), clock: Arc::new(SystemClock), calls: &calls };
    let sweep = crash_after_each_entry(FileStage::new, subject).await;
    assert!(sweep.entries > 25, "{sweep:?}");
    assert!(sweep.repeated_calls > 0, "some calls were in flight: {sweep:?}");
    let workflow = functions(&model, &made);
    let ended = workflow.run("a hat").await.unwrap();
    let told = "It is packed. / It is receipt. / charged a hat, packed";
    assert_eq!(ended.text(), told);
}
