//! The model server decides by what it reads, and always the same.

use crate::conversation::{good, price_tool, question, tool_result, turn};
use outlive_agent::model::{Model, OpenAIChat, OpenAIResponses};
use outlive_agent::testing::OpenAiServer;
use outlive_core::{FinishReason, ModelRequest, ToolSpec};
use serde_json::{Value, json};
use std::time::Duration;

fn model(server: &OpenAiServer) -> OpenAIResponses {
    OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("")
}

fn delegate_tool(members: Value) -> ToolSpec {
    ToolSpec {
        name: "delegate_task_to_member".to_owned(),
        description: "Delegates.".to_owned(),
        parameters: json!({
            "type": "object", "required": ["member_id", "task"],
            "properties": {"member_id": members, "task": {"type": "string"}},
        }),
    }
}

fn asked(request: &ModelRequest, answer: &outlive_core::ModelResponse) -> Vec<String> {
    let calls = answer.tool_calls.iter().map(|call| {
        assert!(request.tools.iter().any(|tool| tool.name == call.function.name));
        let arguments: Value = serde_json::from_str(&call.function.arguments).expect("JSON");
        assert!(arguments["task"].as_str().is_some_and(|task| task.contains("AI trends")));
        arguments["member_id"].as_str().unwrap_or_default().to_owned()
    });
    calls.collect()
}

#[tokio::test]
async fn a_leader_delegates_to_every_member_in_one_turn() {
    let server = OpenAiServer::start().await;
    let mut request = question("AI trends");
    request.tools = vec![delegate_tool(json!({"type": "string", "enum": ["news", "finance"]}))];
    let answer = good(model(&server).respond(request.clone()).await);
    assert_eq!(asked(&request, &answer), ["news", "finance"]);
    std::sync::Arc::make_mut(&mut request.messages).push(turn(&answer));
    std::sync::Arc::make_mut(&mut request.messages)
        .extend(answer.tool_calls.iter().map(|call| tool_result(&call.id, "found")));
    let answer = good(model(&server).respond(request.clone()).await);
    assert_eq!(answer.finish_reason, FinishReason::Stop);

    request = question("AI trends");
    std::sync::Arc::make_mut(&mut request.messages)[0].content =
        Some("<member id=\"a\" name=\"A\"> <member id=\"b\">".to_owned());
    request.tools = vec![delegate_tool(json!({"type": "string"}))];
    let answer = good(model(&server).respond(request.clone()).await);
    assert_eq!(asked(&request, &answer), ["a", "b"]);
}

#[tokio::test]
async fn the_same_question_gets_the_same_answer_from_another_server_and_endpoint() {
    let (one, other) = (OpenAiServer::start().await, OpenAiServer::start().await);
    let first = good(model(&one).respond(question("AI trends")).await);
    let chat = OpenAIChat::new("gpt-5.2").base_url(other.url()).api_key("");
    let mut reworded = question("AI trends");
    std::sync::Arc::make_mut(&mut reworded.messages)[0].content = Some("Other instructions.".to_owned());
    assert_eq!(good(chat.respond(reworded).await).content, first.content);
    assert_ne!(good(chat.respond(question("AI fashions")).await).content, first.content);
}

#[tokio::test]
async fn tools_are_called_once_never_or_for_ever() {
    let server = OpenAiServer::start().await;
    for (words, reasons) in [
        ("hi", [FinishReason::ToolCalls, FinishReason::Stop]),
        ("NOTOOL=1", [FinishReason::Stop, FinishReason::Stop]),
        ("TOOLFOREVER=1", [FinishReason::ToolCalls, FinishReason::ToolCalls]),
    ] {
        let mut request = question(words);
        request.tools = vec![price_tool()];
        for reason in reasons {
            let answer = good(model(&server).respond(request.clone()).await);
            assert_eq!(answer.finish_reason, reason, "{words}");
            std::sync::Arc::make_mut(&mut request.messages).push(turn(&answer));
            std::sync::Arc::make_mut(&mut request.messages)
                .extend(answer.tool_calls.iter().map(|call| tool_result(&call.id, "42")));
        }
    }
}

#[tokio::test]
async fn requests_at_the_same_time_are_counted() {
    let server = OpenAiServer::start().await;
    let model = model(&server);
    let slow = || model.respond(question("DELAY=0.3"));
    let (a, b, c) = tokio::join!(slow(), slow(), slow());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(server.in_flight_max(), 3);
    assert!(server.log().iter().all(|exchange| exchange.ended.is_some_and(|end| end >= exchange.started)));
}

#[tokio::test]
async fn a_dropped_server_breaks_what_it_still_serves() {
    let server = OpenAiServer::start().await;
    let model = model(&server);
    let answer = model.respond(question("DELAY=30"));
    let stop = async {
        server.wait_until(|log| log.len() == 1).await;
        drop(server);
    };
    let both = async { tokio::join!(answer, stop).0 };
    let answer = tokio::time::timeout(Duration::from_secs(5), both).await.expect("the connection is closed");
    assert!(answer.is_err_and(|failure| failure.retryable));
}
