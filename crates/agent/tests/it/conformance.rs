//! What every model behind HTTP does, whatever it speaks: one suite, against a server that speaks its wire format.

use crate::conversation::{AnyModel, bad, good, message, price_tool, question, streamed, text, tool_result, turn};
use futures::StreamExt;
use outlive_agent::model::{Claude, Gemini, Model, ModelEvent, OpenAIChat, OpenAIResponses};
use outlive_agent::testing::{OpenAiServer, PlannedAnswer};
use outlive_core::{FailureKind, FinishReason, Media, ModelDelta, ModelRequest, OutputSchema, Role, ToolSpec};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const KEY: &str = "test-key-7f3a";

/// Every provider: a model of each, at this server.
fn every(server: &OpenAiServer) -> Vec<AnyModel> {
    let (url, root) = (server.url(), server.root_url());
    let mut all: Vec<AnyModel> = vec![
        Box::new(OpenAIResponses::new("gpt-5.2").base_url(&url).api_key(KEY)),
        Box::new(OpenAIChat::new("gpt-5.2").base_url(&url).api_key(KEY)),
        Box::new(Claude::new("claude-opus-5-5").base_url(&root).api_key(KEY)),
        Box::new(Claude::new("claude-3-haiku-20240307").base_url(&url).api_key(KEY)),
        Box::new(Gemini::new("gemini-3-pro-preview").base_url(&root).api_key(KEY)),
        Box::new(Gemini::new("gemini-2.5-flash").base_url(&root).api_key(KEY)),
        Box::new(OpenAIChat::azure("deployment").base_url(&root).api_key(KEY)),
        Box::new(OpenAIChat::azure("deployment").base_url(format!("{root}?api-version=2024-10-21")).api_key(KEY)),
    ];
    let chat = [
        OpenAIChat::ollama("qwen3"),
        OpenAIChat::vllm("qwen3"),
        OpenAIChat::llama_cpp("qwen3"),
        OpenAIChat::open_router("anthropic/claude-opus-5-5"),
        OpenAIChat::groq("openai/gpt-oss-120b"),
        OpenAIChat::deepseek("deepseek-chat"),
        OpenAIChat::mistral("mistral-large-latest"),
        OpenAIChat::xai("grok-4"),
    ];
    all.extend(chat.map(|model| Box::new(model.base_url(&url).api_key(KEY)) as AnyModel));
    all
}

fn shown(model: &AnyModel) -> String {
    format!("{} {}", model.endpoint(), model.info().model)
}

fn buy_tool(name: &str) -> ToolSpec {
    let parameters = json!({
        "type": "object", "properties": {"num": {"type": "integer"}}, "required": ["num"],
    });
    ToolSpec { name: name.to_owned(), description: "Trades shares.".to_owned(), parameters }
}

fn say(request: &mut ModelRequest, more: impl IntoIterator<Item = outlive_core::Message>) {
    Arc::make_mut(&mut request.messages).extend(more);
}

#[tokio::test]
async fn a_question_gets_the_same_answer_whole_and_streamed_and_is_counted() {
    let server = OpenAiServer::start().await;
    for model in every(&server) {
        server.reset();
        let whole = good(model.respond(question("What is new?")).await);
        let (deltas, streamed) = good(streamed(&*model, question("What is new?")).await);
        let shown = shown(&model);
        assert!(matches!(deltas[0], ModelDelta::Begun(_)), "{shown}: {deltas:?}");
        assert_eq!(deltas.len(), 1 + 6, "{shown}");
        assert_eq!(
            (whole.content.clone(), Some(text(&deltas))),
            (streamed.content.clone(), streamed.content),
            "{shown}"
        );
        for answer in [&whole.usage, &streamed.usage] {
            assert!(answer.input_tokens > 0 && answer.output_tokens > 0, "{shown}: {answer:?}");
            assert_eq!(answer.total_tokens, answer.input_tokens + answer.output_tokens, "{shown}: {answer:?}");
        }
        assert_eq!((whole.finish_reason, whole.tool_calls.len()), (FinishReason::Stop, 0), "{shown}");
        assert!(whole.duration.is_some() && whole.time_to_first_token.is_none(), "{shown}");
        assert!(streamed.time_to_first_token <= streamed.duration, "{shown}");
        for exchange in server.log() {
            let named = ["authorization", "x-api-key", "x-goog-api-key", "api-key"];
            let keys = named.iter().filter_map(|name| exchange.headers.get(*name));
            assert_eq!(keys.map(|key| key.trim_start_matches("Bearer ")).collect::<Vec<_>>(), [KEY], "{shown}");
            assert!(!exchange.path.contains(KEY), "{shown}: a key is no part of an address");
        }
    }
}

#[tokio::test]
async fn tools_are_called_side_by_side_and_their_results_and_errors_go_back() {
    let server = OpenAiServer::start().await;
    for model in every(&server) {
        let shown = shown(&model);
        for is_streamed in [false, true] {
            server.reset();
            let mut request = question(r#"TOOL=buy:{"num":1} ALSO=sell:{"num":2} REPLY=traded"#);
            request.tools = vec![buy_tool("buy"), buy_tool("sell")];
            let answer = match is_streamed {
                true => good(streamed(&*model, request.clone()).await).1,
                false => good(model.respond(request.clone()).await),
            };
            let calls: Vec<_> =
                answer.tool_calls.iter().map(|call| (&*call.function.name, &*call.function.arguments)).collect();
            assert_eq!(calls, [("buy", r#"{"num":1}"#), ("sell", r#"{"num":2}"#)], "{shown}");
            assert_eq!((answer.finish_reason, answer.content.clone()), (FinishReason::ToolCalls, None), "{shown}");
            assert_ne!(answer.tool_calls[0].id, answer.tool_calls[1].id, "{shown}");
            let mut failed = tool_result(&answer.tool_calls[1].id, "the market is closed");
            failed.tool_call_error = Some(true);
            say(&mut request, [turn(&answer), tool_result(&answer.tool_calls[0].id, "bought"), failed]);
            let last = good(model.respond(request).await);
            assert_eq!(last.content.as_deref(), Some("traded"), "{shown}");
            let sent = server.log()[1].request.to_string();
            assert!(sent.contains("bought") && sent.contains("the market is closed"), "{shown}: {sent}");
            // OpenAI's formats have no mark for an error.
            let is_marked = match &*model.endpoint() {
                endpoint if endpoint.starts_with("Anthropic") => sent.contains(r#""is_error":true"#),
                endpoint if endpoint.starts_with("Google") => sent.contains(r#""error":"the market is closed""#),
                _ => true,
            };
            assert!(is_marked, "{shown}: {sent}");
        }
    }
}

#[tokio::test]
async fn a_tool_without_parameters_is_called_without_arguments() {
    let server = OpenAiServer::start().await;
    for model in every(&server) {
        let mut request = question("TOOL=now:{}");
        let parameters = json!({"type": "object", "properties": {}});
        request.tools = vec![ToolSpec { name: "now".to_owned(), description: "The time.".to_owned(), parameters }];
        for answer in [good(model.respond(request.clone()).await), good(streamed(&*model, request.clone()).await).1] {
            let calls: Vec<_> = answer.tool_calls.iter().map(|call| &*call.function.arguments).collect();
            assert_eq!(calls, ["{}"], "{}", shown(&model));
        }
    }
}

#[tokio::test]
async fn an_answer_has_the_schema_that_was_asked_for_with_tools_and_without() {
    let server = OpenAiServer::start().await;
    let closed = json!({
        "type": "object", "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 7}},
        "required": ["city", "people"], "additionalProperties": false,
    });
    let open = json!({"type": "object", "properties": {"by_name": {"type": "object"}}, "required": ["by_name"]});
    for model in every(&server) {
        for schema in [&closed, &open] {
            for has_tools in [false, true] {
                let mut request = question("Where is it?");
                request.output_schema = Some(OutputSchema { name: "City".to_owned(), schema: schema.clone() });
                if has_tools {
                    request.tools = vec![price_tool()];
                    let answer = good(model.respond(request.clone()).await);
                    assert_eq!(answer.tool_calls[0].function.name, "price", "{}", shown(&model));
                    say(&mut request, [turn(&answer), tool_result(&answer.tool_calls[0].id, "42")]);
                }
                server.reset();
                let whole = good(model.respond(request.clone()).await);
                let (_, streamed) = good(streamed(&*model, request).await);
                let sent = server.log()[0].request.to_string();
                let names: Vec<_> = schema["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                let is_sent = names.iter().all(|name| sent.contains(name));
                assert!(is_sent, "{}: the schema is sent: {sent}", shown(&model));
                for answer in [whole, streamed] {
                    assert_eq!((answer.finish_reason, answer.tool_calls.len()), (FinishReason::Stop, 0));
                    let said = answer.content.unwrap_or_default();
                    let read = serde_json::from_str::<Value>(&said).unwrap_or_default();
                    let has_all = names.iter().all(|name| read.get(*name).is_some());
                    assert!(has_all, "{}: {said}", shown(&model));
                }
            }
        }
    }
}

#[tokio::test]
async fn images_and_files_are_shown() {
    let server = OpenAiServer::start().await;
    let held = |content: &str, mime_type: &str, name: &str| Media {
        content: Some(content.to_owned()),
        mime_type: Some(mime_type.to_owned()),
        filename: Some(name.to_owned()),
        ..Media::default()
    };
    let mut request = question("What is this?");
    let user = &mut Arc::make_mut(&mut request.messages)[1];
    let at = |url: &str| Media { url: Some(url.to_owned()), ..Media::default() };
    user.images = vec![held("SU1BR0U=", "image/jpeg", "a.jpg"), at("https://example.com/b.png")];
    user.files =
        vec![held("UERG", "application/pdf", "report.pdf"), held("cGxhaW4gd29yZHM=", "text/plain", "notes.txt")];
    for model in every(&server) {
        server.reset();
        good(model.respond(request.clone()).await);
        let sent = server.log()[0].request.to_string();
        for part in ["SU1BR0U=", "https://example.com/b.png", "UERG", "report.pdf"] {
            let has_name = !model.endpoint().starts_with("Google") || part != "report.pdf";
            assert!(sent.contains(part) || !has_name, "{}: {part} in {sent}", shown(&model));
        }
        assert!(sent.contains("cGxhaW4gd29yZHM=") || sent.contains("plain words"), "{}: {sent}", shown(&model));
    }
    for (model, as_file) in every(&server).iter().flat_map(|model| [(model, false), (model, true)]) {
        server.reset();
        let mut request = question("What is this?");
        let user = &mut Arc::make_mut(&mut request.messages)[1];
        let private = vec![at("http://169.254.169.254/a?token=secret")];
        if as_file {
            user.files = private
        } else {
            user.images = private
        }
        let failure = bad(model.respond(request).await);
        assert!(failure.message.starts_with("an image or a file cannot be sent"), "{failure:?}");
        assert!(!failure.message.contains("secret") && server.log().is_empty(), "{failure:?}");
    }
}

#[tokio::test]
async fn what_a_model_thought_is_shown_and_goes_back_beside_its_calls() {
    let server = OpenAiServer::start().await;
    for model in every(&server) {
        let shown = shown(&model);
        for is_streamed in [false, true] {
            server.reset();
            let mut request = question(r#"THINK=hmmm TOOL=buy:{"num":1}"#);
            request.tools = vec![buy_tool("buy")];
            let answer = match is_streamed {
                true => {
                    let (deltas, answer) = good(streamed(&*model, request.clone()).await);
                    assert!(deltas.contains(&ModelDelta::Reasoning("hmmm".to_owned())), "{shown}: {deltas:?}");
                    answer
                }
                false => good(model.respond(request.clone()).await),
            };
            assert_eq!(answer.reasoning_content.as_deref(), Some("hmmm"), "{shown}");
            let mut thoughtful = turn(&answer);
            thoughtful.reasoning_content = answer.reasoning_content.clone();
            say(&mut request, [thoughtful, tool_result(&answer.tool_calls[0].id, "bought")]);
            good(model.respond(request).await);
            let sent = server.log()[1].request.to_string();
            let wanted = if model.endpoint().ends_with("Chat") { "reasoning_content" } else { "signed-thought" };
            assert!(sent.contains(wanted), "{shown}: {sent}");
        }
    }
}

#[tokio::test]
async fn a_conversation_may_move_from_any_provider_to_any_other() {
    let server = OpenAiServer::start().await;
    let models = every(&server);
    for first in &models {
        let mut request = question(r#"THINK=hmmm TOOL=buy:{"num":1} ALSO=sell:{"num":2} REPLY=traded"#);
        request.tools = vec![buy_tool("buy"), buy_tool("sell")];
        let answer = good(streamed(&**first, request.clone()).await).1;
        let results = answer.tool_calls.iter().map(|call| tool_result(&call.id, "done")).collect::<Vec<_>>();
        say(&mut request, std::iter::once(turn(&answer)).chain(results));
        for second in &models {
            let what = format!("{} then {}", shown(first), shown(second));
            let mut request = request.clone();
            let answer = second.respond(request.clone()).await.unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
            assert_eq!(answer.content.as_deref(), Some("traded"), "{what}");
            say(&mut request, [turn(&answer), message(Role::User, "NOTOOL=1 REPLY=bye")]);
            let last = second.respond(request).await.unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
            assert_eq!(last.content.as_deref(), Some("bye"), "{what}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_the_models_words_or_a_cut_answer() {
    let server = OpenAiServer::start().await;
    for model in every(&server) {
        for answer in [
            good(model.respond(question("REFUSE=never")).await),
            good(streamed(&*model, question("REFUSE=never")).await).1,
        ] {
            let is_openai = ["Responses", "Chat"].iter().any(|name| model.endpoint().ends_with(name));
            let reason = if is_openai { FinishReason::Stop } else { FinishReason::ContentFilter };
            assert_eq!((answer.finish_reason, answer.content.as_deref()), (reason, Some("never")), "{}", shown(&model));
        }
    }
    let gemini = Gemini::new("gemini-3-pro-preview").base_url(server.root_url()).api_key(KEY);
    let blocked =
        json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}});
    server.answer_next(PlannedAnswer::json(200, &blocked));
    let answer = good(gemini.respond(question("hi")).await);
    assert_eq!((answer.finish_reason, answer.usage.input_tokens), (FinishReason::ContentFilter, 3));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_truncated_and_one_that_fails_says_so() {
    let server = OpenAiServer::start().await;
    for model in every(&server) {
        let shown = shown(&model);
        for failure in
            [bad(model.respond(question("CUT=1")).await), bad(streamed(&*model, question("CUT=1 CHUNKS=9")).await)]
        {
            assert_eq!((failure.kind, failure.retryable), (FailureKind::Truncated, true), "{shown}: {failure:?}");
        }
        let failure = bad(streamed(&*model, question("STREAMERR=1")).await);
        assert_eq!(failure.kind, FailureKind::Unavailable, "{shown}: {failure:?}");
        assert!(failure.message.contains("scripted stream failure"), "{shown}: {failure:?}");
        for failure in
            [bad(model.respond(question("GARBAGE=1")).await), bad(streamed(&*model, question("GARBAGE=1")).await)]
        {
            assert_eq!(failure.kind, FailureKind::BadResponse, "{shown}: {failure:?}");
        }
        server.answer_next(PlannedAnswer::json(200, &json!({"hello": "world"})));
        assert_eq!(bad(model.respond(question("hi")).await).kind, FailureKind::BadResponse, "{shown}");
        server.answer_next(PlannedAnswer::events(""));
        assert_eq!(bad(streamed(&*model, question("hi")).await).kind, FailureKind::Truncated, "{shown}");
    }
}

#[tokio::test]
async fn every_way_to_be_refused_is_told_apart() {
    let server = OpenAiServer::start().await;
    for model in every(&server) {
        let shown = shown(&model);
        for (words, kind, retryable) in [
            ("ERROR=400", FailureKind::BadRequest, false),
            ("ERROR=401", FailureKind::Auth, false),
            ("ERROR=403", FailureKind::Auth, false),
            ("ERROR=404", FailureKind::BadRequest, false),
            ("ERROR=400:context_length_exceeded", FailureKind::ContextLength, false),
            ("ERROR=429", FailureKind::RateLimit, true),
            ("ERROR=500", FailureKind::Unavailable, true),
            ("ERROR=529", FailureKind::Unavailable, true),
        ] {
            for failure in [bad(model.respond(question(words)).await), bad(streamed(&*model, question(words)).await)] {
                assert_eq!((failure.kind, failure.retryable), (kind, retryable), "{shown} {words}: {failure:?}");
                assert!(!failure.message.contains(KEY), "{shown}: {failure:?}");
            }
        }
        server.fail_next(429, &[("retry-after", "2")], 2);
        for failure in [bad(model.respond(question("hi")).await), bad(streamed(&*model, question("hi")).await)] {
            let told = (failure.kind, failure.retry_after_ms);
            assert_eq!(told, (FailureKind::RateLimit, Some(2000)), "{shown}: {failure:?}");
        }
        let told = json!({"error": {"message": format!("no access with {KEY}"), "type": "permission_error"}});
        server.answer_next(PlannedAnswer::json(403, &told));
        let failure = bad(model.respond(question("hi")).await);
        assert!(failure.message.ends_with("no access with [redacted]"), "{shown}: {failure:?}");
    }
}

#[tokio::test]
async fn words_of_one_provider_alone_are_understood() {
    let server = OpenAiServer::start().await;
    let claude = Claude::new("claude-opus-5-5").base_url(server.root_url()).api_key(KEY);
    let gemini = Gemini::new("gemini-3-pro-preview").base_url(server.root_url()).api_key(KEY);
    let anthropic = |kind: &str, words: &str| json!({"type": "error", "error": {"type": kind, "message": words}});
    let google =
        |code: u16, status: &str, words: &str| json!({"error": {"code": code, "message": words, "status": status}});
    let models: [(&dyn Model, u16, Value, FailureKind); 5] = [
        (
            &claude,
            400,
            anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
            FailureKind::Quota,
        ),
        (
            &claude,
            400,
            anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 1 + 2 > 3"),
            FailureKind::ContextLength,
        ),
        (&claude, 402, anthropic("billing_error", "pay first"), FailureKind::Quota),
        (
            &gemini,
            400,
            google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
            FailureKind::Auth,
        ),
        (&gemini, 503, google(503, "UNAVAILABLE", "The model is overloaded."), FailureKind::Unavailable),
    ];
    for (model, status, body, kind) in models {
        server.answer_next(PlannedAnswer::json(status, &body));
        assert_eq!(bad(model.respond(question("hi")).await).kind, kind, "{body}");
    }
    // Limits of a minute, counted in headers alone.
    let reset = "2999-01-01T00:00:00Z";
    let limited = PlannedAnswer::json(429, &anthropic("rate_limit_error", "slow down"))
        .header("anthropic-ratelimit-requests-remaining", "0")
        .header("anthropic-ratelimit-requests-reset", reset);
    server.answer_next(limited);
    let failure = bad(claude.respond(question("hi")).await);
    assert_eq!((failure.kind, failure.retry_after_ms), (FailureKind::RateLimit, Some(24 * 3600 * 1000)));
    let event = anthropic("overloaded_error", "Overloaded");
    server.answer_next(PlannedAnswer::events(format!("event: error\ndata: {event}\n\n")));
    let failure = bad(streamed(&claude, question("hi")).await);
    assert_eq!((failure.kind, failure.retryable), (FailureKind::Unavailable, true), "{failure:?}");
}

#[tokio::test]
async fn a_caller_that_goes_away_closes_the_connection() {
    let server = OpenAiServer::start().await;
    for model in every(&server) {
        server.reset();
        let mut events = model.stream(question("CHUNKDELAY=0.2 CHUNKS=50"));
        loop {
            let event = events.next().await.expect("an event").unwrap_or_else(|failure| panic!("{failure:?}"));
            if matches!(event, ModelEvent::Delta(ModelDelta::Content(_))) {
                break;
            }
        }
        drop(events);
        server.wait_until(|log| log[0].client_gone).await;
        let asked = model.respond(question("DELAY=30"));
        let seen = server.wait_until(|log| log.len() == 2);
        tokio::select! {
            _ = asked => panic!("it answers late"),
            () = seen => {}
        }
        server.wait_until(|log| log[1].client_gone).await;
    }
}

#[tokio::test]
async fn silence_has_an_end() {
    let server = OpenAiServer::start().await;
    let short = Duration::from_millis(100);
    let root = server.root_url();
    let models: [AnyModel; 2] = [
        Box::new(Claude::new("claude-opus-5-5").base_url(&root).api_key(KEY).timeout(short)),
        Box::new(Gemini::new("gemini-3-pro-preview").base_url(&root).api_key(KEY).timeout(short)),
    ];
    for model in models {
        assert_eq!(bad(model.respond(question("DELAY=30")).await).kind, FailureKind::Timeout);
        assert_eq!(bad(streamed(&*model, question("CHUNKDELAY=30")).await).kind, FailureKind::Timeout);
    }
}

#[tokio::test]
async fn settings_reach_the_wire_under_each_providers_names() {
    let server = OpenAiServer::start().await;
    let claude = Claude::new("claude-opus-5-5").base_url(server.root_url()).api_key("").temperature(0.5).top_p(0.9);
    let claude = claude.max_output_tokens(99).reasoning_effort("low").parallel_tool_calls(false).parameter("top_k", 7);
    let mut request = question("hi NOTOOL=1");
    request.tools = vec![buy_tool("buy")];
    good(claude.respond(request).await);
    good(
        Claude::new("claude-opus-5-5")
            .base_url(server.root_url())
            .api_key("")
            .thinking_budget(2048)
            .respond(question("hi"))
            .await,
    );
    let gemini =
        Gemini::new("gemini-3-pro-preview").base_url(server.root_url()).api_key("").temperature(0.5).top_p(0.9);
    let gemini = gemini.max_output_tokens(99).reasoning_effort("low").parameter("generationConfig", json!({"topK": 7}));
    good(gemini.respond(question("hi")).await);
    good(
        OpenAIChat::open_router("x")
            .base_url(server.url())
            .api_key("")
            .reasoning_effort("low")
            .max_output_tokens(9)
            .respond(question("hi"))
            .await,
    );
    good(streamed(&OpenAIChat::mistral("x").base_url(server.url()).api_key(""), question("hi")).await);
    let log = server.log();
    let body = |at: usize, name: &str| log[at].request.pointer(name).cloned().unwrap_or_default();
    assert_eq!(
        [body(0, "/temperature"), body(0, "/top_p"), body(0, "/max_tokens"), body(0, "/top_k")],
        [json!(0.5), json!(0.9), json!(99), json!(7)]
    );
    assert_eq!(body(0, "/output_config"), json!({"effort": "low"}));
    assert_eq!(body(0, "/tool_choice"), json!({"type": "auto", "disable_parallel_tool_use": true}));
    let cached = json!({"type": "ephemeral"});
    assert_eq!(
        [body(0, "/system/0/cache_control"), body(0, "/messages/0/content/0/cache_control")],
        [cached.clone(), cached]
    );
    assert_eq!(
        [body(1, "/max_tokens"), body(1, "/thinking")],
        [json!(8192 + 2048), json!({"type": "enabled", "budget_tokens": 2048})]
    );
    assert_eq!(
        body(2, "/generationConfig"),
        json!({
            "temperature": 0.5, "topP": 0.9, "maxOutputTokens": 99, "topK": 7,
            "thinkingConfig": {"thinkingLevel": "low", "includeThoughts": true},
        })
    );
    assert_eq!([body(3, "/reasoning"), body(3, "/max_tokens")], [json!({"effort": "low"}), json!(9)]);
    assert_eq!([body(4, "/stream"), body(4, "/stream_options")], [json!(true), Value::Null]);
    assert!(
        log.iter().all(|exchange| !exchange.has_key && !exchange.headers.contains_key("x-api-key")),
        "an empty key is not sent"
    );
}

#[tokio::test]
async fn an_answer_that_anthropic_pauses_is_asked_to_go_on() {
    let server = OpenAiServer::start().await;
    let claude = Claude::new("claude-opus-5-5").base_url(server.root_url()).api_key("");
    let searching =
        json!({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "AI"}});
    let text = |text: &str| json!({"type": "text", "text": text});
    let part = |content: Value, reason: &str| {
        let usage = json!({"input_tokens": 10, "output_tokens": 7});
        PlannedAnswer::json(200, &json!({"id": "msg_1", "content": content, "stop_reason": reason, "usage": usage}))
    };
    let call = json!({"type": "tool_use", "id": "toolu_1", "name": "price", "input": {"symbol": "AI"}});
    for is_streamed in [false, true] {
        server.reset();
        server.answer_next(part(json!([text("First. "), searching]), "pause_turn"));
        server.answer_next(part(json!([searching]), "pause_turn"));
        server.answer_next(part(json!([text("Then."), call]), "tool_use"));
        let mut request = question("hi");
        request.tools = vec![price_tool()];
        let answer = match is_streamed {
            true => good(streamed(&claude, request.clone()).await).1,
            false => good(claude.respond(request.clone()).await),
        };
        assert_eq!((answer.content.as_deref(), answer.finish_reason), (Some("First. Then."), FinishReason::ToolCalls));
        assert_eq!((answer.usage.input_tokens, answer.usage.output_tokens), (30, 21));
        let sent = |number: usize| server.log()[number].request["messages"].clone();
        assert_eq!(sent(1)[1], json!({"role": "assistant", "content": [text("First. "), searching]}));
        assert_eq!(sent(2)[1]["content"], json!([text("First. "), searching, searching]));
        // The whole turn goes back with the result of its call.
        say(&mut request, [turn(&answer), tool_result("toolu_1", "42")]);
        server.answer_next(part(json!([text("Done.")]), "end_turn"));
        good(claude.respond(request).await);
        assert_eq!(sent(3)[1]["content"], json!([text("First. "), searching, searching, text("Then."), call]));
        (0..11).for_each(|_| server.answer_next(part(json!([searching]), "pause_turn")));
        let failure = bad(claude.respond(question("hi")).await);
        assert!(failure.message.contains("paused 10 times"), "{failure:?}");
        // It may be paused between two sentences.
        server.reset();
        server.answer_next(part(json!([text("First. ")]), "pause_turn"));
        server.answer_next(part(json!([text("Then.")]), "end_turn"));
        let answer = match is_streamed {
            true => good(streamed(&claude, question("hi")).await).1,
            false => good(claude.respond(question("hi")).await),
        };
        assert_eq!((answer.content.as_deref(), answer.finish_reason), (Some("First. Then."), FinishReason::Stop));
        assert_eq!(sent(1)[1], json!({"role": "assistant", "content": [text("First. ")]}));
        // A call that stands beside is answered first.
        server.answer_next(part(json!([searching, call]), "pause_turn"));
        let answer = good(claude.respond(question("hi")).await);
        assert_eq!((answer.tool_calls.len(), server.log().len()), (1, 3));
    }
}

#[tokio::test]
async fn counts_of_caches_and_thinking_are_read() {
    let server = OpenAiServer::start().await;
    let claude = Claude::new("claude-opus-5-5").base_url(server.root_url()).api_key("");
    let gemini = Gemini::new("gemini-3-pro-preview").base_url(server.root_url()).api_key("");
    let deepseek = OpenAIChat::deepseek("deepseek-chat").base_url(server.url()).api_key("");
    let xai = OpenAIChat::xai("grok-4").base_url(server.url()).api_key("");
    let of = |answer: outlive_core::ModelResponse| {
        let usage = answer.usage;
        [
            usage.input_tokens,
            usage.output_tokens,
            usage.total_tokens,
            usage.reasoning_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
        ]
    };
    let content = json!([{"type": "text", "text": "Hello"}]);
    let usage = json!({"input_tokens": 10, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 1000, "output_tokens": 7});
    server.answer_next(PlannedAnswer::json(
        200,
        &json!({"id": "m", "content": content, "stop_reason": "end_turn", "usage": usage}),
    ));
    assert_eq!(of(good(claude.respond(question("hi")).await)), [1110, 7, 1117, 0, 1000, 100]);
    let candidate = json!({"content": {"role": "model", "parts": [{"text": "Hello"}]}, "finishReason": "STOP"});
    let usage = json!({"promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 7, "thoughtsTokenCount": 5, "totalTokenCount": 22});
    server.answer_next(PlannedAnswer::json(200, &json!({"candidates": [candidate], "usageMetadata": usage})));
    assert_eq!(of(good(gemini.respond(question("hi")).await)), [10, 12, 22, 5, 4, 0]);
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"});
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6});
    server.answer_next(PlannedAnswer::json(200, &json!({"choices": [choice], "usage": usage})));
    assert_eq!(of(good(deepseek.respond(question("hi")).await)), [10, 7, 17, 0, 4, 0]);
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 22, "completion_tokens_details": {"reasoning_tokens": 5}});
    server.answer_next(PlannedAnswer::json(200, &json!({"choices": [choice], "usage": usage})));
    assert_eq!(of(good(xai.respond(question("hi")).await)), [10, 12, 22, 5, 0, 0]);
}

#[tokio::test]
async fn a_file_that_a_provider_cannot_take_is_refused_before_it_is_asked() {
    let server = OpenAiServer::start().await;
    let claude = Claude::new("claude-opus-5-5").base_url(server.root_url()).api_key("");
    let mut request = question("What is this?");
    let content = Some("//79".to_owned());
    let mime_type = Some("application/zip".to_owned());
    Arc::make_mut(&mut request.messages)[1].files = vec![Media { content, mime_type, ..Media::default() }];
    let failure = bad(claude.respond(request).await);
    assert_eq!((failure.kind, failure.retryable), (FailureKind::BadRequest, false));
    assert!(failure.message.contains("PDF or text") && failure.message.contains("application/zip"), "{failure:?}");
    assert!(server.log().is_empty());
}
