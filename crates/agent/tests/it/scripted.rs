//! The scripted model.

use crate::conversation::{bad, good, message, question, streamed, text, turn};
use outlive_agent::model::{Model, ScriptedModel};
use outlive_core::{Failure, FailureKind, ModelResponse, Role, ToolCall};
use std::time::Duration;

fn replies() -> ScriptedModel {
    let call = ToolCall::new("call_1", "price", "{}");
    ScriptedModel::replies([ModelResponse::calls(vec![call]), ModelResponse::text("It is 42.")])
}

#[tokio::test]
async fn the_answer_follows_from_the_request_and_not_from_the_count_of_calls() {
    let model = replies();
    let first = good(model.respond(question("hi")).await);
    assert_eq!(good(model.respond(question("hi")).await), first);
    let mut request = question("hi");
    std::sync::Arc::make_mut(&mut request.messages).push(turn(&first));
    assert_eq!(good(model.clone().respond(request.clone()).await).content.as_deref(), Some("It is 42."));
    std::sync::Arc::make_mut(&mut request.messages).push(message(Role::Assistant, "It is 42."));
    assert_eq!(bad(model.respond(request).await).kind, FailureKind::BadRequest);
    assert_eq!(model.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_text_is_streamed_in_pieces_with_waits_between() {
    let model = ScriptedModel::new([ModelResponse::text("grüß dich")]).chunks(3);
    let model = model.delay(Duration::from_secs(5)).chunk_delay(Duration::from_secs(1));
    let started = tokio::time::Instant::now();
    let (deltas, answer) = good(streamed(&model, question("hi")).await);
    assert_eq!(started.elapsed(), Duration::from_secs(8));
    assert_eq!((deltas.len(), text(&deltas)), (3, "grüß dich".to_owned()));
    assert_eq!(answer.content.as_deref(), Some("grüß dich"));
}

#[tokio::test]
async fn a_function_may_decide_or_fail() {
    let model = ScriptedModel::from_fn("parrot", |request| match &request.messages[1].content {
        Some(text) if text == "fail" => Err(Failure::new(FailureKind::RateLimit, "slow down")),
        text => Ok(ModelResponse::text(text.clone().unwrap_or_default())),
    });
    assert_eq!(good(model.respond(question("hello")).await).content.as_deref(), Some("hello"));
    assert_eq!(bad(streamed(&model, question("fail")).await).kind, FailureKind::RateLimit);
    assert_eq!((model.info().model.as_str(), model.info().model_provider.as_str()), ("parrot", "Scripted"));
}
