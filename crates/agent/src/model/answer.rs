//! What every answer must satisfy before anything is done with it, whichever model gave it.
//!
//! It must never know a wire format. Invariant: a call is never made with arguments that the model did not write.

use outlive_core::{FinishReason, ModelResponse, ToolSpec};
use serde_json::Value;

/// Refuses an answer with a call whose arguments were lost: they are empty, although the tool has parameters that the
/// model must fill. In a cut answer the last call is left to the agent, which tells the model about it. For a tool
/// without parameters, empty text means no arguments.
///
/// An answer that says it ended to call tools, without any call, has lost its calls; where no tools were offered, it has
/// just ended.
///
/// # Errors
/// What is wrong with the answer, in words; asking again may help.
pub(crate) fn check(answer: &mut ModelResponse, tools: &[ToolSpec]) -> Result<(), String> {
    if answer.finish_reason == FinishReason::ToolCalls && answer.tool_calls.is_empty() {
        if !tools.is_empty() {
            return Err("an answer that ended to call tools, without a tool call".to_owned());
        }
        answer.finish_reason = FinishReason::Stop;
    }
    let is_cut = answer.finish_reason.is_cut();
    let last = answer.tool_calls.len().wrapping_sub(1);
    for (place, call) in answer.tool_calls.iter_mut().enumerate() {
        let function = &mut call.function;
        if function.name.trim().is_empty() {
            return Err("a tool call without a name".to_owned());
        }
        let is_blank = matches!(function.arguments.trim(), "" | "null");
        let Some(tool) = tools.iter().find(|tool| tool.name == function.name).filter(|_| is_blank) else { continue };
        if is_cut && place == last {
            function.arguments.clear();
        } else if takes_parameters(&tool.parameters) {
            return Err(format!("a call of the tool {} without its arguments", tool.name));
        } else {
            function.arguments = "{}".to_owned();
        }
    }
    Ok(())
}

/// Whether a schema requires anything at all.
fn takes_parameters(schema: &Value) -> bool {
    let has_some = |name: &str| match schema.get(name) {
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(Value::Array(parts)) => !parts.is_empty(),
        Some(Value::String(_)) => true,
        _ => false,
    };
    ["properties", "required", "patternProperties", "additionalProperties", "$ref", "anyOf", "oneOf", "allOf"]
        .into_iter()
        .any(has_some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::ToolCall;
    use serde_json::json;

    fn checked(name: &str, arguments: &str, reason: FinishReason) -> Result<String, String> {
        let tool =
            |name: &str, parameters: Value| ToolSpec { name: name.to_owned(), description: String::new(), parameters };
        let tools = [
            tool("buy", json!({"type": "object", "properties": {"num": {"type": "integer", "default": 10}}})),
            tool("now", json!({"type": "object", "properties": {}})),
        ];
        let mut answer =
            ModelResponse { finish_reason: reason, ..ModelResponse::calls(vec![ToolCall::new("1", name, arguments)]) };
        check(&mut answer, &tools).map(|()| answer.tool_calls[0].function.arguments.clone())
    }

    #[test]
    fn arguments_that_were_lost_are_not_made_up() {
        for lost in ["", " \n", "null"] {
            assert!(checked("buy", lost, FinishReason::ToolCalls).is_err(), "{lost:?}");
            assert_eq!(checked("buy", lost, FinishReason::Length), Ok(String::new()), "the agent refuses it");
            assert_eq!(checked("now", lost, FinishReason::Stop), Ok("{}".to_owned()));
        }
        assert_eq!(checked("buy", "{}", FinishReason::ToolCalls), Ok("{}".to_owned()));
        assert_eq!(checked("sell", "", FinishReason::ToolCalls), Ok(String::new()), "there is no such tool to call");
        assert!(checked(" ", "{}", FinishReason::ToolCalls).is_err());
    }

    #[test]
    fn calls_that_were_lost_are_missed() {
        let mut answer =
            ModelResponse { finish_reason: FinishReason::ToolCalls, ..ModelResponse::text("Let me buy that for you.") };
        let tool = ToolSpec { name: "buy".to_owned(), description: String::new(), parameters: json!({}) };
        assert!(check(&mut answer, &[tool]).is_err_and(|problem| problem.contains("without a tool call")));
        assert_eq!(check(&mut answer, &[]), Ok(()));
        assert_eq!(answer.finish_reason, FinishReason::Stop, "there was nothing it could have called");
    }
}
