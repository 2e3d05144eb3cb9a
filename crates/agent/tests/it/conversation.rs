//! Conversations and answers for the tests of the models.

use futures::StreamExt;
use outlive_agent::model::{Model, ModelEvent};
use outlive_core::{Failure, Message, ModelDelta, ModelRequest, ModelResponse, Role, ToolSpec};
use serde_json::json;
use std::fmt::Debug;

/// What makes both endpoints one kind of thing to a test.
pub(crate) type AnyModel = Box<dyn Model>;

pub(crate) fn message(role: Role, text: &str) -> Message {
    Message::new(role, text, "message".into(), 0)
}

/// Instructions and a question.
pub(crate) fn question(text: &str) -> ModelRequest {
    let messages = vec![message(Role::System, "Be brief."), message(Role::User, text)];
    ModelRequest { messages: messages.into(), ..ModelRequest::default() }
}

pub(crate) fn price_tool() -> ToolSpec {
    ToolSpec {
        name: "price".to_owned(),
        description: "The price of a stock.".to_owned(),
        parameters: json!({
            "type": "object", "properties": {"symbol": {"type": "string"}}, "required": ["symbol"],
            "additionalProperties": false,
        }),
    }
}

/// The turn that an answer becomes.
pub(crate) fn turn(answer: &ModelResponse) -> Message {
    let mut turn = message(Role::Assistant, "");
    turn.content = answer.content.clone();
    turn.tool_calls = answer.tool_calls.clone();
    turn.provider_data = answer.provider_data.clone();
    turn
}

pub(crate) fn tool_result(id: &str, text: &str) -> Message {
    let mut result = message(Role::Tool, text);
    result.tool_call_id = Some(id.to_owned());
    result
}

/// The pieces of a streamed answer and the whole.
pub(crate) async fn streamed(
    model: &dyn Model,
    request: ModelRequest,
) -> Result<(Vec<ModelDelta>, ModelResponse), Failure> {
    let mut events = model.stream(request);
    let (mut deltas, mut whole) = (Vec::new(), None);
    while let Some(event) = events.next().await {
        assert!(whole.is_none(), "nothing comes after the whole answer");
        match event? {
            ModelEvent::Delta(delta) => deltas.push(delta),
            ModelEvent::Done(answer) => whole = Some(*answer),
        }
    }
    Ok((deltas, whole.expect("a stream without error ends with the whole answer")))
}

/// All text of the deltas.
pub(crate) fn text(deltas: &[ModelDelta]) -> String {
    let texts = deltas.iter().map(|delta| match delta {
        ModelDelta::Content(text) => text.as_str(),
        ModelDelta::Reasoning(_) | ModelDelta::Begun(_) => "",
    });
    texts.collect()
}

/// The value of something that must succeed.
pub(crate) fn good<T: Debug>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("expected an answer: {failure:?}"))
}

/// The failure of something that must fail.
pub(crate) fn bad<T: Debug>(result: Result<T, Failure>) -> Failure {
    match result {
        Ok(value) => panic!("expected a failure: {value:?}"),
        Err(failure) => failure,
    }
}
