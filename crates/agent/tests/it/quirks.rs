//! Servers that speak almost like OpenAI. Every stream here is byte for byte what such a server sends.

use crate::conversation::{bad, good, question, streamed, text};
use futures::StreamExt;
use outlive_agent::model::{Model, ModelEvent, OpenAIChat, OpenAIResponses};
use outlive_agent::testing::{OpenAiServer, PlannedAnswer};
use outlive_core::{FailureKind, FinishReason, ModelDelta, ModelResponse};
use serde_json::{Value, json};

async fn responses(body: &str) -> (String, ModelResponse) {
    let server = OpenAiServer::start().await;
    server.answer_next(PlannedAnswer::events(body));
    let model = OpenAIResponses::new("local").base_url(server.url()).api_key("");
    let (deltas, answer) = good(streamed(&model, question("hi")).await);
    (text(&deltas), answer)
}

async fn chat(body: &str) -> (String, ModelResponse) {
    let server = OpenAiServer::start().await;
    server.answer_next(PlannedAnswer::events(body));
    let model = OpenAIChat::new("local").base_url(server.url()).api_key("");
    let (deltas, answer) = good(streamed(&model, question("hi")).await);
    (text(&deltas), answer)
}

#[tokio::test]
async fn events_without_numbers_and_indices_are_enough() {
    let (text, answer) = responses(
        r#"event: response.created
data: {"type":"response.created","response":{"id":"resp_a","object":"response","status":"in_progress"}}

event: response.output_item.added
data: {"type":"response.output_item.added","item":{"content":[],"id":"msg_a","role":"assistant","status":"in_progress","type":"message"}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","item_id":"msg_a","delta":"Good"}

event: response.output_text.delta
data: {"type":"response.output_text.delta","item_id":"msg_a","delta":" day"}

event: response.completed
data: {"type":"response.completed","response":{"id":"resp_a","status":"completed","output":[{"type":"message","id":"msg_a","content":[{"type":"output_text","text":"Good day"}],"role":"assistant"}],"usage":{"input_tokens":3,"output_tokens":2,"total_tokens":5,"input_tokens_details":{"cached_tokens":1}}}}

"#,
    )
    .await;
    assert_eq!((text.as_str(), answer.content.as_deref()), ("Good day", Some("Good day")));
    assert_eq!((answer.usage.total_tokens, answer.usage.cache_read_tokens, answer.usage.reasoning_tokens), (5, 1, 0));
}

#[tokio::test]
async fn a_call_whose_arguments_are_only_streamed_is_whole() {
    let (_, answer) = responses(
        r#"data: {"type":"response.output_item.added","item":{"id":"fc_a","arguments":"","call_id":"call_a","name":"price","type":"function_call"}}

data: {"type":"response.function_call_arguments.delta","delta":"{\"symbol\":","item_id":"fc_a"}

data: {"type":"response.output_item.added","item":{"id":"fc_b","arguments":"","call_id":"call_b","name":"time","type":"function_call"}}

data: {"type":"response.function_call_arguments.delta","delta":"{}","item_id":"fc_b"}

data: {"type":"response.function_call_arguments.delta","delta":"\"A\"}","item_id":"fc_a"}

data: {"type":"response.completed","response":{"id":"resp_a","status":"completed","output":[]}}

"#,
    )
    .await;
    let calls: Vec<_> =
        answer.tool_calls.iter().map(|call| (call.id.as_str(), call.function.arguments.as_str())).collect();
    assert_eq!(calls, [("fc_a", r#"{"symbol":"A"}"#), ("fc_b", "{}")]);
    assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
}

#[tokio::test]
async fn text_that_is_only_streamed_is_whole() {
    let (_, answer) = responses(
        r#"data: {"type":"response.output_text.delta","delta":"Hi"}

data: {"type":"response.output_text.delta","delta":" there"}

data: {"type":"response.completed","response":{"id":"resp_a"}}

"#,
    )
    .await;
    assert_eq!(answer.content.as_deref(), Some("Hi there"));
}

#[tokio::test]
async fn nulls_comments_and_carriage_returns_are_harmless() {
    let (text, answer) = chat(concat!(
        ": keep-alive\r\n\r\n",
        "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null,\"tool_calls\":null}}],\"id\":\"c1\",\"system_fingerprint\":\"b0\",\"usage\":null}\r\n\r\n",
        "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"W\u{f6}rld\"}}],\"id\":\"c1\"}\r\n\r\n",
        "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{}}],\"id\":\"c1\"}\r\n\r\n",
        "data: {\"choices\":[],\"id\":\"c1\",\"usage\":{\"completion_tokens\":2,\"prompt_tokens\":3,\"total_tokens\":5},\"timings\":{\"cache_n\":1}}\r\n\r\n",
        "data: [DONE]\r\n\r\n",
    ))
    .await;
    assert_eq!((text.as_str(), answer.content.as_deref()), ("W\u{f6}rld", Some("W\u{f6}rld")));
    assert_eq!(answer.model_provider_data, Some(json!({"id": "c1", "system_fingerprint": "b0"})));
    assert_eq!(answer.usage.total_tokens, 5);
}

#[tokio::test]
async fn a_chat_stream_may_end_without_its_sentinel() {
    let (_, answer) =
        chat("data: {\"choices\":[{\"finish_reason\":\"length\",\"delta\":{\"content\":\"Hm\"}}]}\n\n").await;
    assert_eq!(answer.finish_reason, FinishReason::Length);
    let (_, answer) = chat("data: {\"choices\":[{\"delta\":{\"content\":\"Hm\"}}]}\n\ndata: [DONE]\n\n").await;
    assert_eq!(answer.finish_reason, FinishReason::Stop);
}

#[tokio::test]
async fn calls_in_pieces_are_put_together_by_index_or_by_id() {
    let (_, answer) = chat(
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"a","arguments":"{"}}]}}]}

data: {"choices":[{"delta":{"tool_calls":[{"index":1,"id":"y","type":"function","function":{"name":"b","arguments":""}}]}}]}

data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}},{"index":1,"function":{"arguments":"{}"}}]}}]}

data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"z","function":{"name":"c","arguments":"{}"}}]},"finish_reason":"stop"}]}

data: [DONE]

"#,
    )
    .await;
    let calls: Vec<_> =
        answer.tool_calls.iter().map(|call| [&call.id, &call.function.name, &call.function.arguments]).collect();
    assert_eq!(calls, [["x", "a", "{}"], ["y", "b", "{}"], ["z", "c", "{}"]]);
    assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
}

#[tokio::test]
async fn calls_without_ids_get_ids_that_differ() {
    let (_, answer) = chat(
        r#"data: {"id":"c","choices":[{"delta":{"tool_calls":[{"function":{"name":"a","arguments":{"x":1}}},{"function":{"name":"b","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}

data: [DONE]

"#,
    )
    .await;
    let calls: Vec<_> = answer.tool_calls.iter().map(|call| [&call.id, &call.function.arguments]).collect();
    assert_eq!(calls, [["call_c_0", r#"{"x":1}"#], ["call_c_1", "{}"]]);
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_heard_all_the_same() {
    let server = OpenAiServer::start().await;
    let model = OpenAIChat::new("local").base_url(server.url()).api_key("");
    let body = json!({"id": "c", "choices": [{"message": {"content": "All at once"}, "finish_reason": "stop"}]});
    server.answer_next(PlannedAnswer::json(200, &body));
    let (deltas, answer) = good(streamed(&model, question("hi")).await);
    assert_eq!((text(&deltas), answer.content), ("All at once".to_owned(), Some("All at once".to_owned())));
    let error = json!({"error": {"code": 503, "message": "loading the model"}});
    server.answer_next(PlannedAnswer::json(200, &error));
    assert_eq!(bad(streamed(&model, question("hi")).await).kind, FailureKind::Unavailable);
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_last_word_loses_nothing() {
    let server = OpenAiServer::start().await;
    let body = "data: {\"choices\":[{\"finish_reason\":\"stop\",\"delta\":{\"content\":\"Bye\"}}]}\n\n";
    server.answer_next(PlannedAnswer::events(body).cut());
    let model = OpenAIChat::new("local").base_url(server.url()).api_key("");
    let (_, answer) = good(streamed(&model, question("hi")).await);
    assert_eq!(answer.content.as_deref(), Some("Bye"));
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    let server = OpenAiServer::start().await;
    let output = json!([{"type": "message", "content": [{"type": "refusal", "refusal": "I would rather not."}]}]);
    server.answer_next(PlannedAnswer::json(200, &json!({"id": "r", "status": "completed", "output": output})));
    let model = OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("");
    assert_eq!(good(model.respond(question("hi")).await).content.as_deref(), Some("I would rather not."));
}

#[tokio::test]
async fn what_was_told_before_a_failure_is_passed_on_first() {
    let server = OpenAiServer::start().await;
    let chat = OpenAIChat::new("local").base_url(server.url()).api_key("");
    let responses = OpenAIResponses::new("local").base_url(server.url()).api_key("");
    let piece = json!({"choices": [{"delta": {"content": "Half an ans"}}]});
    let delta = json!({"type": "response.output_text.delta", "delta": "Half an ans"});
    let models: [(Box<dyn Model>, _); 2] = [(Box::new(chat), piece), (Box::new(responses), delta)];
    for (model, piece) in models {
        server.answer_next(PlannedAnswer::events(format!("data: {piece}\n\ndata: {{\"error\":\"no\"}}\n\n")));
        let mut events = model.stream(question("hi"));
        let first = events.next().await.expect("an event").unwrap_or_else(|failure| panic!("{failure:?}"));
        assert_eq!(first, ModelEvent::Delta(ModelDelta::Content("Half an ans".to_owned())));
        assert!(events.next().await.expect("an event").is_err());
    }
}

#[tokio::test]
async fn a_stream_that_was_not_asked_for_is_heard_all_the_same() {
    let server = OpenAiServer::start().await;
    let chat = OpenAIChat::new("local").base_url(server.url()).api_key("");
    let responses = OpenAIResponses::new("local").base_url(server.url()).api_key("");
    let piece = json!({"choices": [{"delta": {"content": "Hello"}, "finish_reason": "stop"}]});
    let event = json!({"type": "response.completed", "response": {"id": "r", "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]},
    ]}});
    let models: [(Box<dyn Model>, _); 2] = [(Box::new(chat), piece), (Box::new(responses), event)];
    for (model, event) in models {
        // The type says JSON, as some proxies do.
        let mut answer = PlannedAnswer::events(format!("data: {event}\n\ndata: [DONE]\n\n"));
        answer.headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        server.answer_next(answer);
        assert_eq!(good(model.respond(question("hi")).await).content.as_deref(), Some("Hello"));
    }
}

#[tokio::test]
async fn whole_answers_have_the_same_quirks() {
    let server = OpenAiServer::start().await;
    let model = OpenAIChat::new("local").base_url(server.url()).api_key("");
    let whole = async |choice: serde_json::Value| {
        let mut body = b"\xef\xbb\xbf".to_vec();
        body.extend(json!({"id": "c", "choices": [choice]}).to_string().into_bytes());
        server.answer_next(PlannedAnswer { body, ..PlannedAnswer::json(200, &json!({})) });
        model.respond(question("hi")).await
    };
    let parts = json!(["Hel", {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "lo"}]);
    let answer = good(whole(json!({"message": {"content": parts}, "finish_reason": "stop"})).await);
    assert_eq!((answer.content.as_deref(), answer.reasoning_content.as_deref()), (Some("Hello"), Some("hm")));
    let tagged = json!({"message": {"content": "<think>hm</think>{\"a\":1}"}, "finish_reason": "stop"});
    let answer = good(whole(tagged).await);
    assert_eq!((answer.content.as_deref(), answer.reasoning_content.as_deref()), (Some("{\"a\":1}"), Some("hm")));
    let failure = bad(whole(
        json!({"message": {"content": "Hel"}, "finish_reason": "error", "native_finish_reason": "network_error"}),
    )
    .await);
    assert!(failure.message.contains("network_error") && failure.retryable, "{failure:?}");
    let failure = bad(whole(json!({"message": {"content": "Hel"}, "finish_reason": "banana"})).await);
    assert_eq!(failure.kind, FailureKind::Truncated);
    let calls = json!([
        {"id": "a", "type": "function", "function": {"name": "buy", "arguments": "{}"}},
        {"id": "a", "type": "function", "function": {"name": "buy", "arguments": "{}"}},
    ]);
    let answer = good(whole(json!({"message": {"content": null, "tool_calls": calls}, "finish_reason": "stop"})).await);
    assert_eq!((answer.tool_calls.len(), answer.finish_reason), (1, FinishReason::ToolCalls));
}

#[tokio::test]
async fn calls_are_attributed_by_the_last_event_of_the_responses_endpoint_where_the_others_cannot() {
    let call = |id: &str, name: &str, arguments: &str| json!({"type": "function_call", "id": id, "call_id": id, "name": name, "arguments": arguments});
    let events = |output: serde_json::Value| {
        let added = |name: &str| json!({"type": "response.output_item.added", "item": {"type": "function_call", "id": null, "name": name}});
        let delta =
            |text: &str| json!({"type": "response.function_call_arguments.delta", "item_id": null, "delta": text});
        let done = json!({"type": "response.function_call_arguments.done", "item_id": null, "arguments": "{\"n\":2}"});
        let other = json!({"type": "response.function_call_arguments.done", "item_id": null, "arguments": "{\"n\":1}"});
        let last = json!({"type": "response.completed", "response": {"id": "r", "output": output}});
        [added("a"), added("b"), delta("{\"n\":1}"), done, other, last]
            .map(|event| format!("data: {event}\n\n"))
            .concat()
    };
    let full = json!([call("1", "a", "{\"n\":1}"), call("2", "b", "{\"n\":2}")]);
    let (_, answer) = responses(&events(full)).await;
    let calls: Vec<_> = answer.tool_calls.iter().map(|call| &*call.function.arguments).collect();
    assert_eq!(calls, ["{\"n\":1}", "{\"n\":2}"]);
    let server = OpenAiServer::start().await;
    server.answer_next(PlannedAnswer::events(events(json!([call("1", "a", ""), call("2", "b", "")]))));
    let model = OpenAIResponses::new("local").base_url(server.url()).api_key("");
    let failure = bad(streamed(&model, question("hi")).await);
    assert!(failure.kind == FailureKind::BadResponse && failure.message.contains("malformed"), "{failure:?}");
}

#[tokio::test]
async fn absurd_counts_of_tokens_do_not_overflow() {
    let usage = json!({"prompt_tokens": u64::MAX, "completion_tokens": u64::MAX, "total_tokens": -1});
    let event = json!({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": usage});
    let (_, answer) = chat(&format!("data: {event}\n\n")).await;
    assert!(answer.usage.total_tokens >= answer.usage.input_tokens);
}

/// A stream of Chat Completions.
fn events(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

#[tokio::test]
async fn of_several_choices_one_is_the_answer() {
    let choice = |index: u64, text: &str, reason: Option<&str>| json!({"index": index, "delta": {"content": text}, "finish_reason": reason});
    let chunk = |choices: &[Value]| json!({"id": "c", "choices": choices});
    let first = [
        chunk(&[choice(0, "Hello ", None)]),
        chunk(&[choice(1, "Good ", None)]),
        chunk(&[choice(1, "bye", Some("length"))]),
    ];
    let rest = [chunk(&[choice(1, "!", None), choice(0, "there", Some("stop"))])];
    let (told, answer) = chat(&events(&[&first[..], &rest].concat())).await;
    assert_eq!((told.as_str(), answer.content.as_deref()), ("Hello there", Some("Hello there")));
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    // The end of another choice is not the end of the answer.
    let server = OpenAiServer::start().await;
    server.answer_next(PlannedAnswer::events(events(&first)));
    let model = OpenAIChat::new("local").base_url(server.url()).api_key("");
    assert_eq!(bad(streamed(&model, question("hi")).await).kind, FailureKind::Truncated);
    let message =
        |index: u64, text: &str| json!({"index": index, "message": {"content": text}, "finish_reason": "stop"});
    server.answer_next(PlannedAnswer::json(
        200,
        &json!({"choices": [message(1, "Good bye"), message(0, "Hello there")]}),
    ));
    assert_eq!(good(model.respond(question("hi")).await).content.as_deref(), Some("Hello there"));
}

#[tokio::test]
async fn calls_in_other_places_are_calls() {
    let chunk = |delta: Value, reason: Option<&str>| json!({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
    let old = |fields: Value| chunk(json!({ "function_call": fields }), None);
    let whole = json!({"index": 0, "id": "a", "function": {"name": "buy", "arguments": "{\"num\":1}"}});
    let streams = [
        vec![
            chunk(json!({"content": "I will buy."}), None),
            old(json!({"name": "buy", "arguments": ""})),
            old(json!({"arguments": "{\"num\":"})),
            old(json!({"arguments": "1}"})),
            chunk(json!({}), Some("function_call")),
        ],
        // A server that writes both means one call.
        vec![
            chunk(json!({"tool_calls": [whole], "function_call": {"name": "buy", "arguments": "{\"num\":1}"}}), None),
            old(json!({"name": "buy", "arguments": "{\"num\":1}"})),
            chunk(json!({}), Some("tool_calls")),
        ],
        vec![chunk(json!({ "tool_calls": whole }), Some("stop"))],
        vec![chunk(json!({"tool_calls": [{"id": "a", "name": "buy", "arguments": {"num": 1}}]}), Some("stop"))],
    ];
    for stream in streams {
        let (_, answer) = chat(&events(&stream)).await;
        let calls: Vec<_> = answer.tool_calls.iter().map(|call| &call.function).collect();
        assert_eq!(calls.len(), 1, "{stream:?}");
        assert_eq!((calls[0].name.as_str(), calls[0].arguments.as_str()), ("buy", "{\"num\":1}"), "{stream:?}");
        assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
    }
    let server = OpenAiServer::start().await;
    let custom = json!({"index": 0, "id": "a", "type": "custom", "custom": {"name": "buy", "input": "1"}});
    server.answer_next(PlannedAnswer::events(events(&[chunk(json!({ "tool_calls": [custom] }), Some("stop"))])));
    let model = OpenAIChat::new("local").base_url(server.url()).api_key("");
    let failure = bad(streamed(&model, question("hi")).await);
    assert!(failure.message.contains("a tool call of the kind \"custom\""), "{failure:?}");
}

#[tokio::test]
async fn what_had_ended_and_is_left_out_of_the_last_event_is_kept() {
    let call = |id: &str, name: &str, num: u32| json!({"type": "function_call", "id": id, "call_id": format!("call_{id}"), "name": name, "arguments": json!({ "num": num }).to_string()});
    let said =
        |id: &str, text: &str| json!({"type": "message", "id": id, "content": [{"type": "output_text", "text": text}]});
    let done =
        |index: u64, item: &Value| json!({"type": "response.output_item.done", "output_index": index, "item": item});
    let last = |output: &[&Value]| json!({"type": "response.completed", "response": {"id": "r", "status": "completed", "output": output}});
    let (buy, sell) = (call("a", "buy", 1), call("b", "sell", 2));
    let names =
        |answer: &ModelResponse| answer.tool_calls.iter().map(|call| call.function.name.clone()).collect::<Vec<_>>();
    let (_, answer) = responses(&events(&[done(0, &buy), done(1, &sell), last(&[&buy])])).await;
    assert_eq!(names(&answer), ["buy", "sell"]);
    // By another name it is the same call.
    let again = call("z", "buy", 1);
    let (_, answer) = responses(&events(&[done(0, &buy), done(1, &again), last(&[&buy])])).await;
    assert_eq!(names(&answer), ["buy"]);
    let (hello, there) = (said("a", "Hello "), said("b", "there"));
    let (told, answer) = responses(&events(&[done(0, &hello), done(1, &there), last(&[&hello])])).await;
    assert_eq!((told.as_str(), answer.content.as_deref()), ("Hello there", Some("Hello there")));
    let (_, answer) = responses(&events(&[done(0, &hello), done(1, &there), last(&[&said("c", "Hello there")])])).await;
    assert_eq!(answer.content.as_deref(), Some("Hello there"));
}
