//! A model server that is down, refuses, limits, breaks, babbles or hangs up: the run recovers as specified or ends ERROR
//! with a message that says what happened. It never completes with an error as its content.

use crate::world::{KEY, World};
use outlive::agent::testing::PlannedAnswer;
use outlive::core::{EventKind, RunEvent};
use outlive::prelude::*;
use std::time::{Duration, Instant};

/// Runs one agent against whatever the server was told to do.
async fn ask(world: &World, input: &str, retry: Retry) -> WorkflowRunOutput {
    let agent = Agent::new("Solo").model(world.responses()).retry(retry);
    let workflow = world.one_agent(agent);
    let ended = ended(&workflow, input).await;
    workflow.shutdown().await.unwrap();
    assert!(!ended.text().contains(KEY));
    ended
}

/// The run however it ended.
async fn ended(workflow: &Workflow, input: &str) -> WorkflowRunOutput {
    workflow.run(input).background().await.unwrap().wait().await.unwrap()
}

fn patient() -> Retry {
    Retry::times(3).backoff(Duration::from_millis(10))
}

#[tokio::test]
async fn a_server_that_is_down_ends_the_run_with_a_message_that_names_it() {
    let world = World::new().await;
    let agent = Agent::new("Solo").model(world.responses().base_url("http://127.0.0.1:1/v1")).retry(patient());
    let ended = ended(&world.one_agent(agent), "hi").await;
    assert_eq!(ended.status, RunStatus::Error);
    assert!(ended.text().contains("Solo") && ended.text().contains("127.0.0.1:1"), "{}", ended.text());
}

#[tokio::test]
async fn a_refused_key_ends_the_run_at_once() {
    let world = World::new().await;
    let ended = ask(&world, "hi ERROR=401", patient()).await;
    assert_eq!(ended.status, RunStatus::Error);
    assert!(ended.text().contains("401"), "{}", ended.text());
    assert_eq!(world.models.log().len(), 1, "it is not repeated");
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_as_long_as_the_server_asks() {
    let world = World::new().await;
    world.models.fail_next(429, &[("retry-after", "1")], 1);
    let start = Instant::now();
    let ended = ask(&world, "hi", patient()).await;
    assert_eq!(ended.status, RunStatus::Completed, "{}", ended.text());
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(world.models.log().len(), 2);
}

#[tokio::test]
async fn a_broken_server_is_asked_again_and_then_the_run_ends() {
    let world = World::new().await;
    let recovered = ask(&world, "hi ERRORN=500:2:recovers", patient()).await;
    assert_eq!(recovered.status, RunStatus::Completed, "{}", recovered.text());
    assert_eq!(world.models.log().len(), 3);
    world.models.reset();
    let ended = ask(&world, "hi ERROR=500", patient()).await;
    assert_eq!(ended.status, RunStatus::Error);
    assert!(ended.text().contains("500"), "{}", ended.text());
    assert_eq!(world.models.log().len(), 4);
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let world = World::new().await;
    let ended = ask(&world, "hi GARBAGE=1", Retry::times(0)).await;
    assert_eq!(ended.status, RunStatus::Error, "{}", ended.text());
    assert!(ended.step_results.iter().all(|step| !step.success));
}

#[tokio::test]
async fn a_stream_that_is_cut_is_repeated_and_its_partial_text_is_no_answer() {
    let world = World::new().await;
    let ended = ask(&world, "hi CUT=1", Retry::times(1).backoff(Duration::from_millis(10))).await;
    assert_eq!(ended.status, RunStatus::Error, "{}", ended.text());
    assert_eq!(world.models.log().len(), 2);
    world.models.reset();
    let half =
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"half\"}\n\n";
    world.models.answer_next(PlannedAnswer::events(half).cut());
    let ended = ask(&world, "hi", patient()).await;
    assert_eq!(ended.status, RunStatus::Completed, "{}", ended.text());
    assert!(!ended.text().contains("half"));
}

#[tokio::test]
async fn a_model_that_repeats_one_tool_call_for_ever_is_stopped() {
    let world = World::new().await;
    let agent = Agent::new("Solo")
        .model(world.responses())
        .tools(HackerNewsTools::default().base_url(&world.sites.url()))
        .turns_max(5);
    let ended = ended(&world.one_agent(agent), "hi TOOLFOREVER=1").await;
    assert_eq!(ended.status, RunStatus::Error, "{}", ended.text());
    assert!(ended.text().contains("5 turns"), "{}", ended.text());
    assert_eq!(world.models.log().len(), 5);
}

#[tokio::test]
async fn a_tool_that_fails_is_told_to_the_model_and_the_run_goes_on() {
    let world = World::new().await;
    world.sites.fail_next("/v0", 503, 20);
    let agent =
        Agent::new("Solo").model(world.responses()).tools(HackerNewsTools::default().base_url(&world.sites.url()));
    let ended = ended(&world.one_agent(agent), "hi").await;
    assert_eq!(ended.status, RunStatus::Completed, "{}", ended.text());
    assert_eq!(ended.step_executor_runs[0].tools[0].tool_call_error, Some(true));
}

#[tokio::test]
async fn a_cancelled_run_drops_the_models_request_and_keeps_the_partial_text() {
    let world = World::new().await;
    let workflow = world.one_agent(Agent::new("Solo").model(world.responses()));
    let run = workflow.run("hi CHUNKS=400 CHUNKDELAY=0.05").background().await.unwrap();
    let mut events = run.events(None);
    let is_text = |event: &RunEvent| matches!(&event.kind, EventKind::RunContent(delta) if delta.content.is_some());
    while !is_text(&events.next().await.unwrap().expect("the run goes on")) {}
    let start = Instant::now();
    run.cancel("enough").await.unwrap();
    world.models.wait_until(|log| log.iter().any(|exchange| exchange.client_gone)).await;
    assert!(start.elapsed() < Duration::from_secs(10), "its answer takes twenty: {:?}", start.elapsed());
    let ended = run.wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Cancelled);
    assert!(!ended.step_results[0].text().is_empty(), "the partial text is kept");
    let mut names = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        names.push(event.name());
    }
    assert_eq!(names[names.len() - 2..], ["WorkflowCancelled", "WorkflowCompleted"]);
}
