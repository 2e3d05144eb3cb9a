//! What a run of agents is at, down to the call in flight, and what is told of a call whose outcome nobody knows.

use outlive::core::port::{Access, Db, RunStore};
use outlive::core::{FailureKind, ModelResponse, Remedy, Secret, ToolCall, ToolEffect, Waiting, WaitsFor};
use outlive::prelude::*;
use outlive::{Options, RunId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const CARD: &str = "planted-card-4929-1111";

#[derive(Deserialize, JsonSchema)]
struct Purchase {
    /// The card to charge.
    #[expect(dead_code, reason = "only its place in the arguments matters")]
    card: String,
}

fn workflow(db: &InMemoryDb, model: ScriptedModel) -> Workflow {
    let buy = |_: Purchase, _: ToolContext| async move {
        tokio::time::sleep(HOUR).await;
        Ok::<_, Failure>(Value::Null)
    };
    let tool = Tool::new("buy", "Buys.", buy).effect(ToolEffect::Once);
    let agent = Agent::new("Clerk").model(model).tools(vec![tool]).stream(true);
    let options = Options { secrets: vec![Secret::new(CARD)], ..Options::default() };
    let builder = Workflow::builder("Shop").shared_db(Arc::new(db.clone()) as Arc<dyn Db>).options(options);
    builder.step(Step::new("Serve").agent(agent)).build().unwrap()
}

async fn waiting(workflow: &Workflow, db: &InMemoryDb, run_id: &RunId) -> Waiting {
    let run = db.run(Access::All, run_id.clone()).await.unwrap().unwrap();
    workflow.engine().await.unwrap().waiting(&run).await.unwrap().expect("the run is not over")
}

/// Lets everything that can happen within this time happen.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_says_which_model_it_waits_for_before_and_while_that_answers() {
    let db = InMemoryDb::new();
    let answer = ModelResponse::text("word ".repeat(2_000));
    let model = ScriptedModel::from_fn("oracle-1", move |_| Ok(answer.clone()));
    let workflow = workflow(&db, model.delay(HOUR).chunks(2_000).chunk_delay(Duration::from_secs(1)));
    let run = workflow.run("hi").background().await.unwrap();
    pass(Duration::from_secs(1)).await;
    let told = waiting(&workflow, &db, run.run_id()).await;
    assert_eq!((told.waits_for, told.on.as_deref()), (WaitsFor::Model, Some("oracle-1")));
    assert_eq!(told.reason, "Clerk waits for the model oracle-1");
    // By then its request stands far before what is read of the log.
    pass(HOUR + Duration::from_secs(1_000)).await;
    let told = waiting(&workflow, &db, run.run_id()).await;
    assert_eq!((told.waits_for, told.on), (WaitsFor::Model, None));
    assert_eq!(told.reason, "the model of Clerk is answering");
}

#[tokio::test(start_paused = true)]
async fn a_tool_of_unknown_outcome_is_named_with_its_arguments_as_they_are_stored() {
    let db = InMemoryDb::new();
    let call = ToolCall::new("c1", "buy", json!({ "card": CARD, "num": 2 }).to_string());
    let model = || ScriptedModel::replies([ModelResponse::calls(vec![call.clone()])]);
    let first = workflow(&db, model());
    let run_id = first.run("hi").background().await.unwrap().run_id().clone();
    pass(Duration::from_secs(1)).await;
    let told = waiting(&first, &db, &run_id).await;
    assert_eq!((told.waits_for, told.on.as_deref()), (WaitsFor::Tool, Some("buy")));
    let engine = first.engine().await.unwrap();
    engine.kill();
    db.crash(&engine.worker());
    let second = workflow(&db, model());
    second.attach(&run_id).await.unwrap();
    pass(Duration::from_secs(1)).await;
    let told = waiting(&second, &db, &run_id).await;
    assert_eq!((told.waits_for, told.on.as_deref()), (WaitsFor::Person, Some("buy")));
    assert!(told.reason.contains("the tool buy ran with {") && told.reason.contains("\"num\":2"), "{}", told.reason);
    assert!(!told.reason.contains(CARD), "{}", told.reason);
    let asked = second.engine().await.unwrap().questions_of(&run_id).await.unwrap();
    assert_eq!(told.remedy, Some(Remedy::Answer { question_id: asked[0].question.id.clone() }));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_made_again_much_later_says_when_and_why() {
    let db = InMemoryDb::new();
    let refused = Failure::new(FailureKind::Unavailable, "answered 503: come back later").retry_after(HOUR);
    let model = ScriptedModel::from_fn("oracle-1", move |_| Err(refused.clone()));
    let workflow = workflow(&db, model);
    let run = workflow.run("hi").background().await.unwrap();
    pass(Duration::from_secs(2)).await;
    let told = waiting(&workflow, &db, run.run_id()).await;
    assert_eq!(told.waits_for, WaitsFor::Time);
    assert!(told.reason.starts_with("Clerk asks the model again after a failure: "), "{}", told.reason);
    assert!(told.reason.contains("answered 503: come back later"), "{}", told.reason);
    assert!(told.until.is_some());
}
