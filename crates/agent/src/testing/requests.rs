//! Requests of other formats as [`super::decide`] reads them: as Chat Completions writes them. What a real server would
//! refuse is refused here too, in words.

use serde_json::{Value, json};
use std::collections::HashSet;

/// A request of the Messages endpoint.
///
/// # Errors
/// What is wrong with it.
pub(super) fn of_anthropic(body: &Value) -> Result<Value, String> {
    if !body["max_tokens"].is_u64() {
        return Err("max_tokens: Field required".to_owned());
    }
    let mut messages = vec![json!({"role": "system", "content": joined(&body["system"])})];
    let mut asked: HashSet<String> = HashSet::new();
    let mut last = "assistant";
    for message in body["messages"].as_array().ok_or("messages: Field required")? {
        let role = message["role"].as_str().unwrap_or_default();
        if !["user", "assistant"].contains(&role) || role == last {
            return Err(format!("messages: roles must alternate between \"user\" and \"assistant\", found {role:?}"));
        }
        last = if role == "user" { "user" } else { "assistant" };
        let blocks = message["content"]
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![json!({"type": "text", "text": message["content"]})]);
        if blocks.is_empty()
            || blocks.iter().any(|block| {
                block["type"] == "text" && block["text"].as_str().is_none_or(|text| text.trim().is_empty())
            })
        {
            return Err("messages: text content blocks must be non-empty".to_owned());
        }
        let of = |kind: &str| blocks.iter().filter(|block| block["type"] == *kind).collect::<Vec<_>>();
        let ids = |kind: &str, name: &str| -> HashSet<String> {
            of(kind).iter().map(|block| block[name].as_str().unwrap_or_default().to_owned()).collect()
        };
        let answered = ids("tool_result", "tool_use_id");
        if answered != std::mem::take(&mut asked) {
            return Err("messages: `tool_use` ids must have `tool_result` blocks immediately after".to_owned());
        }
        asked = ids("tool_use", "id");
        if asked.iter().any(|id| id.is_empty() || !id.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c)))
        {
            return Err("messages: tool_use.id: String should match pattern".to_owned());
        }
        if of("thinking").iter().any(|block| block["signature"].as_str().is_none_or(str::is_empty)) {
            return Err("messages: thinking.signature: Field required".to_owned());
        }
        messages.extend(of("tool_result").iter().map(|block| json!({"role": "tool", "content": block["content"]})));
        let text = joined(&Value::Array(of("text").into_iter().cloned().collect()));
        if !text.is_empty() || answered.is_empty() {
            messages.push(json!({"role": role, "content": text}));
        }
    }
    let tools = body["tools"].as_array().into_iter().flatten();
    let tools: Vec<_> = tools.map(|tool| declared(&tool["name"], &tool["input_schema"])).collect();
    let choice = match body["tool_choice"]["type"].as_str() {
        Some("tool") => json!({"function": {"name": body["tool_choice"]["name"]}}),
        Some("any") => json!("required"),
        _ => Value::Null,
    };
    let schema = &body["output_config"]["format"]["schema"];
    Ok(json!({
        "model": body["model"], "messages": messages, "tools": tools, "tool_choice": choice,
        "stream": body["stream"], "response_format": {"json_schema": {"schema": schema}},
    }))
}

/// A request of `generateContent`, for this model.
///
/// # Errors
/// What is wrong with it.
pub(super) fn of_gemini(body: &Value, model: &str, is_streamed: bool) -> Result<Value, String> {
    let mut messages = vec![json!({"role": "system", "content": joined(&body["systemInstruction"]["parts"])})];
    let contents = body["contents"].as_array().ok_or("contents is not specified")?;
    let mut asked = 0;
    for content in contents {
        let parts =
            content["parts"].as_array().filter(|parts| !parts.is_empty()).ok_or("contents.parts must not be empty")?;
        let calls: Vec<_> = parts.iter().filter(|part| part["functionCall"].is_object()).collect();
        let results = parts.iter().filter(|part| part["functionResponse"].is_object()).count();
        if results != asked {
            return Err("Please ensure that the number of function response parts is equal to the number of function call parts".to_owned());
        }
        asked = calls.len();
        if model.starts_with("gemini-3") && calls.first().is_some_and(|call| !call["thoughtSignature"].is_string()) {
            return Err("Function call is missing a thought_signature in functionCall parts".to_owned());
        }
        messages.extend((0..results).map(|_| json!({"role": "tool", "content": "a result"})));
        let role = match content["role"].as_str() {
            Some("user") => "user",
            Some("model") => "assistant",
            other => return Err(format!("Please use a valid role: user, model; found {other:?}")),
        };
        if results == 0 {
            messages.push(json!({"role": role, "content": joined(&content["parts"])}));
        }
    }
    let tools = body["tools"].as_array().into_iter().flatten();
    let tools = tools.flat_map(|tool| tool["functionDeclarations"].as_array().into_iter().flatten());
    let tools: Vec<_> = tools.map(|tool| declared(&tool["name"], &tool["parametersJsonSchema"])).collect();
    let config = &body["generationConfig"];
    if !tools.is_empty() && config["responseJsonSchema"].is_object() && !model.starts_with("gemini-3") {
        return Err("Function calling with a response mime type: 'application/json' is unsupported".to_owned());
    }
    Ok(json!({
        "model": model, "messages": messages, "tools": tools, "stream": is_streamed,
        "response_format": {"json_schema": {"schema": config["responseJsonSchema"]}},
    }))
}

fn declared(name: &Value, parameters: &Value) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": parameters}})
}

/// The text of all parts, or of a text.
fn joined(parts: &Value) -> String {
    match parts {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}
