//! OpenAI's endpoints, and a provider's own row, against a model server of the caller's, named by `OUTLIVE_LIVE_BASE_URL` and `OUTLIVE_LIVE_MODEL`.
//! Asserts protocol and state, never wording.

use crate::conversation::{AnyModel, bad, good, price_tool, question, streamed, text, tool_result, turn};
use outlive_agent::model::{OpenAIChat, OpenAIResponses};
use outlive_core::{FailureKind, FinishReason, OutputSchema};
use serde_json::{Value, json};

fn all(tokens_max: u64) -> [AnyModel; 3] {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (url, id) = (variable("OUTLIVE_LIVE_BASE_URL"), variable("OUTLIVE_LIVE_MODEL"));
    [
        Box::new(OpenAIResponses::new(&id).base_url(&url).temperature(0.0).max_output_tokens(tokens_max)),
        Box::new(OpenAIChat::new(&id).base_url(&url).temperature(0.0).max_output_tokens(tokens_max)),
        Box::new(OpenAIChat::llama_cpp(&id).base_url(&url).temperature(0.0).max_output_tokens(tokens_max)),
    ]
}

#[tokio::test]
#[ignore = "asks a real model: set OUTLIVE_LIVE_BASE_URL and OUTLIVE_LIVE_MODEL"]
async fn a_real_model_answers_whole_and_streamed() {
    for model in all(24) {
        let whole = good(model.respond(question("Say hello in one short sentence.")).await);
        assert!(whole.content.is_some_and(|text| !text.trim().is_empty()));
        assert!(whole.usage.input_tokens > 0 && whole.usage.output_tokens > 0);
        let (deltas, answer) = good(streamed(&*model, question("Say hello in one short sentence.")).await);
        assert!(deltas.len() > 1);
        assert_eq!(Some(text(&deltas)), answer.content);
        assert!(answer.usage.total_tokens > 0 && answer.model_provider_data.is_some());
    }
}

#[tokio::test]
#[ignore = "asks a real model: set OUTLIVE_LIVE_BASE_URL and OUTLIVE_LIVE_MODEL"]
async fn a_real_model_stops_at_its_limit() {
    let [_, chat, _] = all(4);
    let (_, answer) = good(streamed(&*chat, question("Tell me a long story.")).await);
    assert_eq!(answer.finish_reason, FinishReason::Length);
}

#[tokio::test]
#[ignore = "asks a real model: set OUTLIVE_LIVE_BASE_URL and OUTLIVE_LIVE_MODEL"]
async fn a_real_model_takes_tools_and_their_results() {
    for model in all(60) {
        let mut request = question("What is the price of ACME?");
        request.tools = vec![price_tool()];
        let (_, mut answer) = good(streamed(&*model, request.clone()).await);
        if answer.tool_calls.is_empty() {
            // Small models rarely call a tool; the turn is taken as read.
            answer.tool_calls = vec![outlive_core::ToolCall::new("call_1", "price", r#"{"symbol":"ACME"}"#)];
        }
        std::sync::Arc::make_mut(&mut request.messages).push(turn(&answer));
        for call in &answer.tool_calls {
            std::sync::Arc::make_mut(&mut request.messages).push(tool_result(&call.id, "12.50"));
        }
        good(model.respond(request).await);
    }
}

#[tokio::test]
#[ignore = "asks a real model: set OUTLIVE_LIVE_BASE_URL and OUTLIVE_LIVE_MODEL"]
async fn a_real_model_keeps_to_a_schema() {
    let [_, chat, _] = all(80);
    let mut request = question("Name a city and its population.");
    let schema = json!({
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer"}},
        "required": ["city", "population"], "additionalProperties": false,
    });
    request.output_schema = Some(OutputSchema { name: "City".to_owned(), schema });
    let answer = good(chat.respond(request).await);
    let answer: Value = serde_json::from_str(&answer.content.expect("a text")).expect("JSON");
    assert!(answer["city"].is_string() && answer["population"].is_number());
}

#[tokio::test]
#[ignore = "asks a real model: set OUTLIVE_LIVE_BASE_URL and OUTLIVE_LIVE_MODEL"]
async fn a_real_context_has_an_end() {
    for model in all(8) {
        let long = question(&"many words ".repeat(40_000));
        assert_eq!(bad(model.respond(long.clone()).await).kind, FailureKind::ContextLength);
        assert_eq!(bad(streamed(&*model, long).await).kind, FailureKind::ContextLength);
    }
}
