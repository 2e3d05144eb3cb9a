//! Both endpoints against a server that speaks their format.

use crate::conversation::{AnyModel, bad, good, message, price_tool, question, streamed, text, tool_result, turn};
use futures::StreamExt;
use outlive_agent::model::{IntoModel, Model, OpenAIChat, OpenAIResponses, parse};
use outlive_agent::outbound::Outbound;
use outlive_agent::testing::{OpenAiServer, PlannedAnswer};
use outlive_core::{FailureKind, FinishReason, Media, ModelDelta, OutputSchema, Role};
use serde_json::json;
use std::time::Duration;

fn both(server: &OpenAiServer) -> [AnyModel; 2] {
    [
        Box::new(OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("sk-test-key")),
        Box::new(OpenAIChat::new("gpt-5.2").base_url(server.url()).api_key("sk-test-key")),
    ]
}

#[tokio::test]
async fn a_question_gets_the_same_answer_whole_and_streamed() {
    let server = OpenAiServer::start().await;
    for model in both(&server) {
        let whole = good(model.respond(question("What is new?")).await);
        let (deltas, streamed) = good(streamed(&*model, question("What is new?")).await);
        assert_eq!(whole.content, streamed.content);
        assert!(matches!(deltas[0], ModelDelta::Begun(_)), "{deltas:?}");
        assert_eq!(deltas.len(), 1 + 6);
        assert_eq!(Some(text(&deltas)), streamed.content);
        assert_eq!(whole.finish_reason, FinishReason::Stop);
        assert!(whole.usage.input_tokens > 0 && whole.usage.output_tokens > 0);
        assert_eq!(streamed.usage.total_tokens, streamed.usage.input_tokens + streamed.usage.output_tokens);
        assert!(whole.duration.is_some() && whole.time_to_first_token.is_none());
        assert!(streamed.time_to_first_token <= streamed.duration);
    }
    assert!(server.log().iter().all(|exchange| exchange.has_key && exchange.status == Some(200)));
}

#[tokio::test]
async fn the_whole_history_is_sent_and_nothing_is_left_at_the_provider() {
    let server = OpenAiServer::start().await;
    let mut called = Vec::new();
    for model in both(&server) {
        let mut request = question("Price?");
        request.tools = vec![price_tool()];
        let answer = good(model.respond(request.clone()).await);
        assert_eq!(answer.finish_reason, FinishReason::ToolCalls);
        let call = &answer.tool_calls[0];
        called.push(call.call_id.clone().unwrap_or_else(|| call.id.clone()));
        std::sync::Arc::make_mut(&mut request.messages).push(turn(&answer));
        std::sync::Arc::make_mut(&mut request.messages).push(tool_result(&answer.tool_calls[0].id, "42"));
        let answer = good(model.respond(request).await);
        assert!(answer.content.expect("a text").contains("1 tool results"));
    }
    let sent = |index: usize| server.log()[index].request.clone();
    assert_eq!(
        sent(1)["input"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Price?"},
            {"type": "function_call", "call_id": called[0], "name": "price", "arguments": "{\"symbol\":\"AI\"}"},
            {"type": "function_call_output", "call_id": called[0], "output": "42"},
        ])
    );
    assert!(sent(1).get("previous_response_id").is_none());
    assert_eq!(sent(1)["store"], json!(false));
    assert_eq!(sent(1)["tools"][0]["name"], json!("price"));
    assert_eq!(
        sent(3)["messages"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Price?"},
            {"role": "assistant", "content": null, "tool_calls": [{
                "id": called[1], "type": "function",
                "function": {"name": "price", "arguments": "{\"symbol\":\"AI\"}"},
            }]},
            {"role": "tool", "tool_call_id": called[1], "content": "42"},
        ])
    );
    assert_eq!(sent(3)["tools"][0]["function"]["name"], json!("price"));
}

#[tokio::test]
async fn tool_calls_arrive_alike_whole_and_streamed() {
    let server = OpenAiServer::start().await;
    let [responses, chat] = both(&server);
    let mut request = question(r#"TOOL=price:{"symbol": "ACME"}"#);
    request.tools = vec![price_tool()];
    for (model, id, call_id) in [(responses, "fc_", Some("call_")), (chat, "call_", None)] {
        let whole = good(model.respond(request.clone()).await);
        let (deltas, streamed) = good(streamed(&*model, request.clone()).await);
        assert!(matches!(deltas.as_slice(), [ModelDelta::Begun(_)]), "{deltas:?}");
        for answer in [whole, streamed] {
            let [call] = answer.tool_calls.as_slice() else { panic!("one call: {answer:?}") };
            assert!(call.id.starts_with(id), "{}", call.id);
            assert_eq!(call.call_id.as_deref().map(|id| &id[..5]), call_id);
            assert_eq!((call.function.name.as_str(), call.kind.as_str()), ("price", "function"));
            assert_eq!(call.function.arguments, r#"{"symbol":"ACME"}"#);
            assert_eq!(answer.content, None);
        }
    }
}

#[tokio::test]
async fn a_conversation_may_move_from_one_endpoint_to_the_other() {
    let server = OpenAiServer::start().await;
    let [responses, chat] = both(&server);
    let mut request = question("Price?");
    request.tools = vec![price_tool()];
    let answer = good(responses.respond(request.clone()).await);
    let call = answer.tool_calls[0].clone();
    std::sync::Arc::make_mut(&mut request.messages).extend([turn(&answer), tool_result(&call.id, "42")]);
    good(chat.respond(request).await);
    let messages = server.log()[1].request["messages"].clone();
    assert_eq!(messages[2]["tool_calls"][0]["id"], json!(call.call_id));
    assert_eq!(messages[3]["tool_call_id"], json!(call.call_id));
}

#[tokio::test]
async fn calls_that_no_server_would_take_back_are_mended_in_the_history() {
    let server = OpenAiServer::start().await;
    for model in both(&server) {
        let mut request = question("Go on");
        let mut broken = turn(&good(model.respond(question("TOOL=no")).await));
        broken.tool_calls = vec![outlive_core::ToolCall::new("call_1", "functions.price now", "{\"symbol\": ")];
        std::sync::Arc::make_mut(&mut request.messages)
            .extend([broken, tool_result("call_1", "the arguments do not fit")]);
        good(model.respond(request).await);
    }
    let log = server.log();
    assert_eq!(log[1].request["input"][3]["name"], json!("functions_price_now"));
    assert_eq!(log[1].request["input"][3]["arguments"], json!("{}"));
    assert_eq!(log[3].request["messages"][2]["tool_calls"][0]["function"]["arguments"], json!("{}"));
}

#[tokio::test]
async fn images_and_files_are_shown_by_address_or_by_value() {
    let server = OpenAiServer::start().await;
    let mut request = question("What is this?");
    let user = &mut std::sync::Arc::make_mut(&mut request.messages)[1];
    user.images = vec![
        Media { url: Some("https://example.com/a.png".to_owned()), ..Media::default() },
        Media { content: Some("QUJD".to_owned()), mime_type: Some("image/jpeg".to_owned()), ..Media::default() },
    ];
    let pdf = Some("application/pdf".to_owned());
    user.files = vec![Media {
        content: Some("QUJD".to_owned()),
        mime_type: pdf,
        filename: Some("report.pdf".to_owned()),
        ..Media::default()
    }];
    for model in both(&server) {
        good(model.respond(request.clone()).await);
    }
    assert_eq!(
        server.log()[0].request["input"][1]["content"],
        json!([
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
            {"type": "input_image", "image_url": "data:image/jpeg;base64,QUJD", "detail": "auto"},
            {"type": "input_file", "filename": "report.pdf", "file_data": "data:application/pdf;base64,QUJD"},
        ])
    );
    assert_eq!(
        server.log()[1].request["messages"][1]["content"],
        json!([
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "auto"}},
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QUJD", "detail": "auto"}},
            {"type": "file", "file": {"filename": "report.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
        ])
    );
}

#[tokio::test]
async fn a_provider_is_not_asked_to_fetch_what_is_not_public() {
    let server = OpenAiServer::start().await;
    let asked_about = |address: &str, as_file: bool| {
        let mut request = question("What is this?");
        let media = vec![Media { url: Some(address.to_owned()), ..Media::default() }];
        let user = &mut std::sync::Arc::make_mut(&mut request.messages)[1];
        if as_file {
            user.files = media
        } else {
            user.images = media
        }
        request
    };
    for address in ["http://169.254.169.254/a?token=secret", "https://[::1]/a", "file:///etc/passwd", "a.png"] {
        for (model, as_file) in both(&server).iter().zip([false, true]) {
            let failure = bad(model.respond(asked_about(address, as_file)).await);
            assert_eq!(failure.kind, FailureKind::BadRequest, "{failure:?}");
            assert!(failure.message.starts_with("an image or a file cannot be sent"), "{failure:?}");
            assert!(!failure.message.contains("secret"), "{failure:?}");
        }
    }
    assert!(server.log().is_empty());
    let opened = Outbound::default().allow("127.0.0.1:9100").expect("a host with a port");
    let model = OpenAIChat::new("gpt-5.2").base_url(server.url()).api_key("sk-test-key").outbound(opened);
    for address in ["http://127.0.0.1:9100/a.png", "data:image/png;base64,QUJD", "https://example.com/a.png"] {
        good(model.respond(asked_about(address, false)).await);
    }
}

#[tokio::test]
async fn a_schema_shapes_the_answer_and_is_strict_only_where_it_can_be() {
    let server = OpenAiServer::start().await;
    let closed = json!({
        "type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"],
        "additionalProperties": false,
    });
    let open = json!({"type": "object", "properties": {"title": {"type": "string"}}});
    for (schema, strict) in [(closed, true), (open, false)] {
        server.reset();
        let mut request = question("A title");
        request.output_schema = Some(OutputSchema { name: "Title".to_owned(), schema: schema.clone() });
        for model in both(&server) {
            let answer = good(model.respond(request.clone()).await);
            let answer: serde_json::Value = serde_json::from_str(&answer.content.expect("a text")).expect("JSON");
            assert!(answer.is_object());
        }
        let log = server.log();
        let format = json!({"type": "json_schema", "name": "Title", "schema": schema, "strict": strict});
        assert_eq!(log[0].request["text"], json!({"format": format}));
        let format =
            json!({"type": "json_schema", "json_schema": {"name": "Title", "schema": schema, "strict": strict}});
        assert_eq!(log[1].request["response_format"], format);
    }
}

#[tokio::test]
async fn settings_reach_the_wire_under_each_endpoints_names() {
    let server = OpenAiServer::start().await;
    let responses = OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("");
    let responses = responses.temperature(0.5).max_output_tokens(99).reasoning_effort("low").parameter("seed", 7);
    good(responses.respond(question("hi")).await);
    let chat =
        OpenAIChat::new("other").base_url(server.url()).api_key("").max_output_tokens(99).reasoning_effort("low");
    good(chat.top_p(0.5).parallel_tool_calls(false).system_role().respond(question("hi")).await);
    let log = server.log();
    let first = &log[0].request;
    assert_eq!((&first["temperature"], &first["max_output_tokens"]), (&json!(0.5), &json!(99)));
    assert_eq!((&first["reasoning"], &first["seed"]), (&json!({"effort": "low"}), &json!(7)));
    assert_eq!(first["include"], json!(["reasoning.encrypted_content"]));
    let second = &log[1].request;
    assert_eq!((&second["max_completion_tokens"], &second["reasoning_effort"]), (&json!(99), &json!("low")));
    assert_eq!((&second["top_p"], &second["parallel_tool_calls"]), (&json!(0.5), &json!(false)));
    assert_eq!(second["messages"][0]["role"], json!("system"));
    assert!(log.iter().all(|exchange| !exchange.has_key), "an empty key is not sent");
}

#[tokio::test]
async fn other_models_are_not_asked_for_encrypted_reasoning() {
    let server = OpenAiServer::start().await;
    good(OpenAIResponses::new("qwen3").base_url(server.url()).api_key("").respond(question("hi")).await);
    let request = server.log()[0].request.clone();
    assert_eq!((request.get("include"), request.get("store")), (None, None));
}

#[tokio::test]
async fn reasoning_items_are_sent_back_as_they_came_but_only_to_their_model() {
    let server = OpenAiServer::start().await;
    let output = json!([
        {"id": "rs_1", "type": "reasoning", "encrypted_content": "opaque", "status": null,
         "summary": [{"type": "summary_text", "text": "I thought."}]},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Hello", "annotations": []}]},
    ]);
    let usage = json!({
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 17,
    });
    let body = json!({"id": "resp_1", "status": "completed", "output": output, "usage": usage});
    server.answer_next(PlannedAnswer::json(200, &body));
    let model = OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("");
    let answer = good(model.respond(question("hi")).await);
    assert_eq!(answer.reasoning_content.as_deref(), Some("I thought."));
    assert_eq!((answer.usage.cache_read_tokens, answer.usage.reasoning_tokens), (4, 5));
    assert_eq!(answer.model_provider_data, Some(json!({"response_id": "resp_1"})));

    let mut request = question("hi");
    std::sync::Arc::make_mut(&mut request.messages).extend([turn(&answer), message(Role::User, "and?")]);
    good(model.respond(request.clone()).await);
    let other = OpenAIResponses::new("gpt-6").base_url(server.url()).api_key("");
    good(other.respond(request).await);
    let log = server.log();
    let mut sent_back = output.clone();
    sent_back[0].as_object_mut().expect("an object").remove("status");
    assert_eq!(log[1].request["input"][2], sent_back[0]);
    assert_eq!(log[1].request["input"][3], sent_back[1]);
    assert_eq!(log[2].request["input"][2], json!({"type": "message", "role": "assistant", "content": "Hello"}));
}

#[tokio::test]
async fn every_count_of_what_an_answer_used_is_read_on_both_endpoints() {
    let server = OpenAiServer::start().await;
    let [responses, chat] = both(&server);
    let inputs = json!({"cached_tokens": 4, "cache_write_tokens": 2, "audio_tokens": 3});
    let outputs = json!({"reasoning_tokens": 5, "audio_tokens": 1});
    let output = json!([{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]);
    server.answer_next(PlannedAnswer::json(
        200,
        &json!({"id": "resp_1", "status": "completed", "output": output, "usage": {
            "input_tokens": 10, "output_tokens": 7, "total_tokens": 17,
            "input_tokens_details": inputs, "output_tokens_details": outputs,
        }}),
    ));
    let one = good(responses.respond(question("hi")).await).usage;
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"});
    server.answer_next(PlannedAnswer::json(
        200,
        &json!({"id": "chatcmpl-1", "choices": [choice], "usage": {
            "prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17,
            "prompt_tokens_details": inputs, "completion_tokens_details": outputs,
        }}),
    ));
    assert_eq!(good(chat.respond(question("hi")).await).usage, one);
    let mut twice = one;
    twice += one;
    for (usage, times) in [(one, 1), (twice, 2)] {
        let expected = json!({
            "input_tokens": 10 * times, "output_tokens": 7 * times, "total_tokens": 17 * times,
            "reasoning_tokens": 5 * times, "cache_read_tokens": 4 * times, "cache_write_tokens": 2 * times,
            "audio_input_tokens": 3 * times, "audio_output_tokens": times, "audio_total_tokens": 4 * times,
        });
        assert_eq!(serde_json::to_value(usage).unwrap(), expected);
    }
}

#[tokio::test]
async fn an_answer_that_ran_into_its_limit_says_so() {
    let server = OpenAiServer::start().await;
    let [responses, chat] = both(&server);
    let message = json!({"type": "message", "content": [{"type": "output_text", "text": "Once upon"}]});
    let body = json!({
        "id": "resp_1", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [message],
    });
    server.answer_next(PlannedAnswer::json(200, &body));
    let answer = good(responses.respond(question("hi")).await);
    assert_eq!((answer.finish_reason, answer.content.as_deref()), (FinishReason::Length, Some("Once upon")));

    let event = json!({"type": "response.incomplete", "response": body});
    server.answer_next(PlannedAnswer::events(format!("event: response.incomplete\ndata: {event}\n\n")));
    let (_, answer) = good(streamed(&*responses, question("hi")).await);
    assert_eq!(answer.finish_reason, FinishReason::Length);

    for (reason, expected) in [("length", FinishReason::Length), ("content_filter", FinishReason::ContentFilter)] {
        let choice = json!({"message": {"content": "Once upon"}, "finish_reason": reason});
        server.answer_next(PlannedAnswer::json(200, &json!({"id": "c", "choices": [choice]})));
        assert_eq!(good(chat.respond(question("hi")).await).finish_reason, expected);
    }
}

#[tokio::test]
async fn dropping_an_answer_drops_its_request_at_once() {
    let server = OpenAiServer::start().await;
    for model in both(&server) {
        for streamed in [false, true] {
            server.reset();
            let slow = question("DELAY=30");
            if streamed {
                let mut events = model.stream(slow);
                let waiting = events.next();
                tokio::select! {
                    _ = waiting => panic!("no answer comes"),
                    () = server.wait_until(|log| log.len() == 1) => {}
                }
            } else {
                tokio::select! {
                    _ = model.respond(slow) => panic!("no answer comes"),
                    () = server.wait_until(|log| log.len() == 1) => {}
                }
            }
            let gone = server.wait_until(|log| log[0].client_gone);
            tokio::time::timeout(Duration::from_secs(1), gone).await.expect("the server sees the client go");
        }
    }
}

#[tokio::test]
async fn dropping_a_stream_half_way_drops_its_request_at_once() {
    let server = OpenAiServer::start().await;
    for model in both(&server) {
        server.reset();
        let mut events = model.stream(question("CHUNKS=40 CHUNKDELAY=0.1"));
        assert!(events.next().await.is_some_and(|event| event.is_ok()));
        drop(events);
        let gone = server.wait_until(|log| log[0].client_gone);
        tokio::time::timeout(Duration::from_secs(1), gone).await.expect("the server sees the client go");
    }
}

#[tokio::test]
async fn a_key_appears_in_no_debug_text_and_no_failure() {
    let server = OpenAiServer::start().await;
    let key = "sk-very-secret-12345";
    let model = OpenAIChat::new("gpt-5.2").base_url(server.url()).api_key(key);
    assert!(!format!("{model:?}").contains("secret"));
    let error =
        json!({"error": {"message": format!("Incorrect API key provided: {key} and Bearer {key}"), "code": null}});
    server.answer_next(PlannedAnswer::json(401, &error));
    let failure = bad(model.respond(question("hi")).await);
    assert_eq!(failure.kind, FailureKind::Auth);
    assert!(
        failure.message.contains("Incorrect API key") && !failure.message.contains("secret"),
        "{}",
        failure.message
    );
    let with_query = OpenAIChat::new("x").base_url("http://user:pass@127.0.0.1:1/v1?token=secret").api_key(key);
    let failure = bad(with_query.respond(question("hi")).await);
    assert!(!failure.message.contains("secret") && !failure.message.contains("pass"), "{}", failure.message);
}

#[tokio::test]
async fn a_base_address_keeps_its_query_and_needs_no_slash() {
    let server = OpenAiServer::start().await;
    for base in [format!("{}/", server.url()), format!("{}?api-version=1", server.url())] {
        good(OpenAIResponses::new("x").base_url(base).api_key("").respond(question("hi")).await);
    }
    assert!(server.log().iter().all(|exchange| exchange.path == "/v1/responses"));
}

#[test]
fn problems_name_what_is_missing() {
    // The variables of this process cannot be taken away safely, so a child of it looks.
    let child = std::process::Command::new(std::env::current_exe().expect("the test's own program"))
        .args(["--exact", "openai::without_a_key", "--ignored"])
        .env_clear()
        .output()
        .expect("the test's own program runs");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
    assert_eq!(OpenAIResponses::new("x").api_key("").problems(), Vec::<String>::new());
    assert_eq!(OpenAIResponses::new("x").api_key("").base_url("ftp://host").problems().len(), 1);
    assert_eq!(OpenAIResponses::new("x").api_key("a\nb").problems().len(), 1);
    assert_eq!(OpenAIResponses::new(" ").api_key("").problems().len(), 1);
}

#[tokio::test]
#[ignore = "run by problems_name_what_is_missing with a clean environment"]
async fn without_a_key() {
    let problem = "model openai:gpt-5.2 needs OPENAI_API_KEY, which is not set";
    let model = OpenAIResponses::new("gpt-5.2").base_url("http://127.0.0.1:1/v1");
    assert_eq!(model.problems(), [problem]);
    let failure = bad(model.respond(question("hi")).await);
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Auth, problem));
    assert!(OpenAIChat::ollama("qwen3").problems().is_empty());
    for (name, problem) in [
        ("anthropic:claude-opus-5-5", "needs ANTHROPIC_API_KEY, which is not set"),
        ("google:gemini-3-pro", "needs GEMINI_API_KEY or GOOGLE_API_KEY, none of which is set"),
        ("groq:x", "needs GROQ_API_KEY, which is not set"),
        ("deepseek:x", "needs DEEPSEEK_API_KEY, which is not set"),
        ("mistral:x", "needs MISTRAL_API_KEY, which is not set"),
        ("xai:x", "needs XAI_API_KEY, which is not set"),
        ("openrouter:x", "needs OPENROUTER_API_KEY, which is not set"),
    ] {
        let model = parse(name).expect("a model");
        assert_eq!(model.problems(), [format!("model {name} {problem}")]);
        let failure = bad(model.respond(question("hi")).await);
        assert_eq!((failure.kind, failure.message), (FailureKind::Auth, format!("model {name} {problem}")));
    }
    for name in ["ollama:qwen3", "vllm:qwen3", "llama-cpp:qwen3"] {
        assert!(parse(name).expect("a model").problems().is_empty(), "{name}");
    }
    let problems = parse("azure:x").expect("a model").problems();
    assert_eq!(
        problems,
        [
            "model azure:x needs AZURE_OPENAI_API_KEY, which is not set",
            "model azure:x needs AZURE_OPENAI_ENDPOINT, its address, which is not set",
        ]
    );
}

#[test]
fn models_are_named_by_strings() {
    let endpoint = |name: &str| parse(name).map(|model| format!("{} {}", model.endpoint(), model.info().model));
    assert_eq!(endpoint("openai:gpt-5.2"), Ok("OpenAI Responses gpt-5.2".to_owned()));
    assert_eq!(endpoint("openai-chat:gpt-5.2"), Ok("OpenAI Chat gpt-5.2".to_owned()));
    assert_eq!(endpoint("ollama:qwen3:8b"), Ok("Ollama Chat qwen3:8b".to_owned()));
    assert_eq!(endpoint("anthropic:claude-opus-5-5"), Ok("Anthropic Messages claude-opus-5-5".to_owned()));
    assert_eq!(endpoint("gemini:gemini-3-pro"), Ok("Google Gemini gemini-3-pro".to_owned()));
    assert_eq!(
        endpoint("openrouter:openai/gpt-oss-120b:free"),
        Ok("OpenRouter Chat openai/gpt-oss-120b:free".to_owned())
    );
    for name in ["house", "openai:", "house:x"] {
        let problem = endpoint(name).expect_err("no such model");
        assert!(problem.contains("write PROVIDER:ID, for example openai:gpt-5.2"), "{problem}");
    }
}

#[test]
fn whatever_is_a_model_becomes_one() {
    let shared = "openai:a".into_model().expect("a model");
    assert_eq!(shared.clone().into_model().expect("a model").info(), shared.info());
    assert_eq!(String::from("openai:a").into_model().expect("a model").info(), shared.info());
    assert_eq!(OpenAIResponses::new("a").into_model().expect("a model").info(), shared.info());
}

#[tokio::test]
async fn a_reasoning_models_thoughts_are_streamed_apart() {
    let server = OpenAiServer::start().await;
    let [_, chat] = both(&server);
    let chunk = |delta: serde_json::Value| format!("data: {}\n\n", json!({"choices": [{"delta": delta}]}));
    let body =
        [chunk(json!({"reasoning_content": "Hm. "})), chunk(json!({"content": "Yes."})), "data: [DONE]\n\n".to_owned()];
    server.answer_next(PlannedAnswer::events(body.concat()));
    let (deltas, answer) = good(streamed(&*chat, question("hi")).await);
    assert_eq!(deltas, [ModelDelta::Reasoning("Hm. ".to_owned()), ModelDelta::Content("Yes.".to_owned())]);
    assert_eq!(answer.reasoning_content.as_deref(), Some("Hm. "));
    assert_eq!(answer.content.as_deref(), Some("Yes."));
}

#[tokio::test]
async fn a_key_may_have_a_header_of_its_own_and_headers_are_kept_secret() {
    let server = OpenAiServer::start().await;
    let base = format!("{}?api-version=2025-04-01", server.url());
    let chat = OpenAIChat::new("x").base_url(&base).api_key("azure-key-123").api_key_header("api-key");
    let chat = chat.header("x-team", "first").header("X-Team", "blue-team-token");
    let responses = OpenAIResponses::new("x").base_url(&base).api_key("azure-key-123").api_key_header("api-key");
    let responses = responses.header("x-team", "blue-team-token");
    let models: [AnyModel; 2] = [Box::new(chat), Box::new(responses)];
    for model in models {
        good(model.respond(question("hi")).await);
        let secrets: Vec<_> = model.secrets().iter().map(|secret| secret.expose().to_owned()).collect();
        assert_eq!(secrets, ["azure-key-123", "blue-team-token"]);
        let error = json!({"error": {"message": "no access with azure-key-123 for blue-team-token", "code": 403}});
        server.answer_next(PlannedAnswer::json(403, &error));
        let failure = bad(model.respond(question("hi")).await);
        assert!(failure.message.ends_with("no access with [redacted] for [redacted]"), "{}", failure.message);
    }
    for exchange in server.log() {
        assert!(!exchange.has_key, "there is no Authorization");
        assert_eq!(exchange.headers.get("api-key").map(String::as_str), Some("azure-key-123"));
        assert_eq!(exchange.headers.get("x-team").map(String::as_str), Some("blue-team-token"));
    }
    let unusable = OpenAIChat::new("x").api_key("").header("x team", "value").header("x-other", "a\nsecret-b");
    let problems = unusable.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("\"x team\"") && !problems.concat().contains("secret-b"), "{problems:?}");
}

#[test]
fn a_key_is_looked_for_where_the_caller_says() {
    let model = OpenAIChat::new("x").api_key_variable("OUTLIVE_TEST_NO_SUCH_KEY");
    assert_eq!(model.problems(), ["model openai-chat:x needs OUTLIVE_TEST_NO_SUCH_KEY, which is not set"]);
}

#[tokio::test]
async fn instructions_have_the_role_developer_only_where_it_is_asked_for() {
    let server = OpenAiServer::start().await;
    let chat = OpenAIChat::new("x").base_url(server.url()).api_key("");
    let responses = OpenAIResponses::new("x").base_url(server.url()).api_key("");
    let models: [AnyModel; 4] = [
        Box::new(chat.clone()),
        Box::new(responses.clone()),
        Box::new(chat.developer_role()),
        Box::new(responses.developer_role()),
    ];
    for model in models {
        good(model.respond(question("hi")).await);
    }
    let roles: Vec<_> = server
        .log()
        .iter()
        .map(|exchange| {
            let first = exchange.request.get("messages").or_else(|| exchange.request.get("input")).map(|list| &list[0]);
            first.map(|message| message["role"].clone())
        })
        .collect();
    assert_eq!(roles, ["system", "system", "developer", "developer"].map(|role| Some(json!(role))));
}

#[tokio::test]
async fn an_answer_that_only_the_last_event_tells_is_passed_on_before_its_end() {
    let server = OpenAiServer::start().await;
    let model = OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("");
    let said = json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]});
    let whole = json!({"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [said]}});
    server.answer_next(PlannedAnswer::events(format!("data: {whole}\n\n")));
    let (deltas, answer) = good(streamed(&model, question("hi")).await);
    assert_eq!(answer.content.as_deref(), Some("hello"));
    assert_eq!(deltas, [ModelDelta::Content("hello".to_owned())]);
}
