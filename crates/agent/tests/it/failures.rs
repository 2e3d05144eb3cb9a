//! Every way in which a model call fails, told apart.

use crate::conversation::{AnyModel, bad, question, streamed};
use outlive_agent::model::{OpenAIChat, OpenAIResponses};
use outlive_agent::testing::{OpenAiServer, PlannedAnswer};
use outlive_core::{Failure, FailureKind};
use serde_json::{Value, json};
use std::time::Duration;

fn both(server: &OpenAiServer) -> [AnyModel; 2] {
    [
        Box::new(OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("")),
        Box::new(OpenAIChat::new("gpt-5.2").base_url(server.url()).api_key("")),
    ]
}

/// The failures of both endpoints, whole and streamed, when the server answers like this.
async fn all_ways(answer: PlannedAnswer) -> Vec<Failure> {
    let server = OpenAiServer::start().await;
    let mut failures = Vec::new();
    for model in both(&server) {
        server.answer_next(answer.clone());
        failures.push(bad(model.respond(question("hi")).await));
        server.answer_next(answer.clone());
        failures.push(bad(streamed(&*model, question("hi")).await));
    }
    failures
}

async fn kind_of(status: u16, body: Value) -> FailureKind {
    let failures = all_ways(PlannedAnswer::json(status, &body)).await;
    assert!(failures.iter().all(|failure| failure.kind == failures[0].kind), "{failures:?}");
    assert!(failures.iter().all(|failure| failure.message.contains(&format!("answered {status}"))), "{failures:?}");
    failures[0].kind
}

fn error(code: Value, message: &str) -> Value {
    json!({"error": {"message": message, "type": "some_error", "code": code}})
}

#[tokio::test]
async fn statuses_are_told_apart() {
    let expected = [
        (400, FailureKind::BadRequest),
        (401, FailureKind::Auth),
        (403, FailureKind::Auth),
        (404, FailureKind::BadRequest),
        (408, FailureKind::Timeout),
        (409, FailureKind::Unavailable),
        (413, FailureKind::BadRequest),
        (422, FailureKind::BadRequest),
        (425, FailureKind::Unavailable),
        (429, FailureKind::RateLimit),
        (500, FailureKind::Unavailable),
        (503, FailureKind::Unavailable),
        (529, FailureKind::Unavailable),
    ];
    for (status, kind) in expected {
        assert_eq!(kind_of(status, error(Value::Null, "no")).await, kind, "{status}");
    }
}

#[tokio::test]
async fn an_error_that_names_itself_is_believed_before_its_status() {
    assert_eq!(kind_of(429, error(json!("insufficient_quota"), "pay first")).await, FailureKind::Quota);
    assert_eq!(kind_of(400, error(json!("context_length_exceeded"), "long")).await, FailureKind::ContextLength);
    let llama = json!({"error": {
        "code": 400, "type": "exceed_context_size_error", "n_ctx": 4096,
        "message": "request (27031 tokens) exceeds the available context size (4096 tokens), try increasing it",
    }});
    assert_eq!(kind_of(400, llama).await, FailureKind::ContextLength);
    let vllm = error(json!(400), "This model's maximum context length is 4096 tokens.");
    assert_eq!(kind_of(400, vllm).await, FailureKind::ContextLength);
    assert_eq!(kind_of(401, error(json!(401), "Invalid API Key")).await, FailureKind::Auth);
    assert_eq!(kind_of(400, json!({"detail": "model not found"})).await, FailureKind::BadRequest);
    assert_eq!(kind_of(500, json!({"error": "out of memory"})).await, FailureKind::Unavailable);
}

#[tokio::test]
async fn quota_is_not_retryable_and_a_rate_limit_is() {
    let quota =
        all_ways(PlannedAnswer::json(429, &error(json!("insufficient_quota"), "pay")).header("retry-after", "1")).await;
    assert!(quota.iter().all(|failure| !failure.retryable && failure.retry_after_ms.is_none()), "{quota:?}");
    let limit = all_ways(PlannedAnswer::json(429, &error(Value::Null, "slow down")).header("retry-after", "2")).await;
    assert!(limit.iter().all(|failure| failure.retryable && failure.retry_after_ms == Some(2000)), "{limit:?}");
}

#[tokio::test]
async fn a_wait_in_milliseconds_goes_before_one_in_seconds() {
    let answer = PlannedAnswer::json(503, &json!({})).header("retry-after", "9").header("retry-after-ms", "1500");
    assert!(all_ways(answer).await.iter().all(|failure| failure.retry_after_ms == Some(1500)));
}

#[tokio::test]
async fn a_wait_until_a_date_in_the_past_is_none() {
    let answer = PlannedAnswer::json(429, &json!({})).header("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT");
    assert!(all_ways(answer).await.iter().all(|failure| failure.retry_after_ms == Some(0)));
}

#[tokio::test]
async fn an_error_page_and_a_long_message_stay_short() {
    let page = PlannedAnswer {
        body: b"<html><body>502 Bad Gateway</body></html>".to_vec(),
        ..PlannedAnswer::json(502, &json!({}))
    };
    for failure in all_ways(page).await {
        assert!(failure.message.ends_with("answered 502"), "{}", failure.message);
    }
    for failure in all_ways(PlannedAnswer::json(400, &error(Value::Null, &"very ".repeat(500)))).await {
        assert!(failure.message.chars().count() < 350, "{}", failure.message);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_truncated() {
    let server = OpenAiServer::start().await;
    for model in both(&server) {
        let whole = bad(model.respond(question("CUT=1")).await);
        let streamed = bad(streamed(&*model, question("CUT=1 CHUNKS=9")).await);
        assert_eq!(
            (whole.kind, streamed.kind),
            (FailureKind::Truncated, FailureKind::Truncated),
            "{whole:?} {streamed:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_ends_politely_but_too_early_is_truncated() {
    let server = OpenAiServer::start().await;
    let [responses, chat] = both(&server);
    let event = json!({"type": "response.output_text.delta", "delta": "Hel"});
    server.answer_next(PlannedAnswer::events(format!("data: {event}\n\n")));
    assert_eq!(bad(streamed(&*responses, question("hi")).await).kind, FailureKind::Truncated);
    server.answer_next(PlannedAnswer::events("data: [DONE]\n\n"));
    assert_eq!(bad(streamed(&*responses, question("hi")).await).kind, FailureKind::Truncated);
    let chunk = json!({"choices": [{"delta": {"content": "Hel"}, "finish_reason": null}]});
    server.answer_next(PlannedAnswer::events(format!("data: {chunk}\n\n")));
    assert_eq!(bad(streamed(&*chat, question("hi")).await).kind, FailureKind::Truncated);
    server.answer_next(PlannedAnswer::events(""));
    assert_eq!(bad(streamed(&*chat, question("hi")).await).kind, FailureKind::Truncated);
}

#[tokio::test]
async fn what_is_no_answer_is_a_bad_response() {
    let server = OpenAiServer::start().await;
    for model in both(&server) {
        assert_eq!(bad(model.respond(question("GARBAGE=1")).await).kind, FailureKind::BadResponse);
        assert_eq!(bad(streamed(&*model, question("GARBAGE=1")).await).kind, FailureKind::BadResponse);
        server.answer_next(PlannedAnswer::json(200, &json!({"hello": "world"})));
        assert_eq!(bad(model.respond(question("hi")).await).kind, FailureKind::BadResponse);
    }
}

#[tokio::test]
async fn an_error_event_goes_by_its_code() {
    let server = OpenAiServer::start().await;
    let [responses, chat] = both(&server);
    for model in [&responses, &chat] {
        let failure = bad(streamed(&**model, question("STREAMERR=1")).await);
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert!(failure.message.contains("scripted stream failure"), "{}", failure.message);
    }
    let failed = json!({"type": "response.failed", "response": {
        "id": "resp_1", "status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow down"},
    }});
    let events = [
        (&responses, failed.to_string(), FailureKind::RateLimit),
        (
            &responses,
            json!({"type": "error", "code": "context_length_exceeded"}).to_string(),
            FailureKind::ContextLength,
        ),
        (&responses, json!({"type": "error", "error": {"code": "insufficient_quota"}}).to_string(), FailureKind::Quota),
        (&chat, json!({"error": {"code": 400, "message": "no"}}).to_string(), FailureKind::BadRequest),
        (&chat, json!({"error": {"code": 503, "message": "busy"}}).to_string(), FailureKind::Unavailable),
    ];
    for (model, event, kind) in events {
        server.answer_next(PlannedAnswer::events(format!("data: {event}\n\n")));
        assert_eq!(bad(streamed(&**model, question("hi")).await).kind, kind, "{event}");
    }
    server.answer_next(PlannedAnswer::events("event: error\ndata: {\"code\": 500, \"message\": \"no slot\"}\n\n"));
    assert_eq!(bad(streamed(&*chat, question("hi")).await).kind, FailureKind::Unavailable);
    let body =
        json!({"id": "r", "status": "failed", "error": {"code": "server_error", "message": "oops"}, "output": []});
    server.answer_next(PlannedAnswer::json(200, &body));
    assert_eq!(bad(responses.respond(question("hi")).await).kind, FailureKind::Unavailable);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let url = OpenAiServer::start().await.url();
    let model = OpenAIResponses::new("x").base_url(&url).api_key("");
    let failure = bad(streamed(&model, question("hi")).await);
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.contains("cannot be reached") && failure.retryable, "{}", failure.message);
}

#[tokio::test]
async fn silence_and_slowness_time_out() {
    let server = OpenAiServer::start().await;
    let short = Duration::from_millis(100);
    let limited = |whole: Duration, idle: Duration| -> [AnyModel; 2] {
        let responses = OpenAIResponses::new("x").base_url(server.url()).api_key("");
        let chat = OpenAIChat::new("x").base_url(server.url()).api_key("");
        [Box::new(responses.timeout(whole).idle_timeout(idle)), Box::new(chat.timeout(whole).idle_timeout(idle))]
    };
    let long = Duration::from_secs(60);
    for model in limited(short, long) {
        assert_eq!(bad(model.respond(question("DELAY=30")).await).kind, FailureKind::Timeout);
        let failure = bad(streamed(&*model, question("CHUNKDELAY=30")).await);
        assert_eq!(failure.kind, FailureKind::Timeout);
        assert!(failure.message.contains("has sent nothing of its answer for 100ms"), "{}", failure.message);
    }
    for model in limited(long, short) {
        let failure = bad(streamed(&*model, question("CHUNKDELAY=30")).await);
        assert_eq!(failure.kind, FailureKind::Timeout);
        assert!(failure.message.contains("has been silent for 100ms"), "{}", failure.message);
    }
}

#[tokio::test]
async fn planned_failures_pass_and_the_next_call_succeeds() {
    let server = OpenAiServer::start().await;
    for model in both(&server) {
        server.fail_next(503, &[("retry-after", "1")], 1);
        assert_eq!(bad(model.respond(question("hi")).await).retry_after_ms, Some(1000));
        assert!(model.respond(question("hi")).await.is_ok());
        let flaky = "ERRORN=500:2:".to_owned() + &model.endpoint().replace(' ', "-");
        for _ in 0..2 {
            assert_eq!(bad(model.respond(question(&flaky)).await).kind, FailureKind::Unavailable);
        }
        assert!(model.respond(question(&flaky)).await.is_ok());
    }
}

#[tokio::test]
async fn a_redirect_that_would_change_the_request_is_named_and_not_followed() {
    let (server, elsewhere) = (OpenAiServer::start().await, OpenAiServer::start().await);
    let away = format!("{}/responses?token=hidden", elsewhere.url());
    for model in both(&server) {
        for (status, location) in
            [(301, "/v1/responses"), (302, "/login?next=hidden"), (303, "/x"), (307, &*away), (308, &*away)]
        {
            server.reset();
            server.answer_next(PlannedAnswer::json(status, &json!({})).header("location", location));
            let failure = bad(streamed(&*model, question("hi")).await);
            assert_eq!((failure.kind, failure.retryable), (FailureKind::BadRequest, false), "{failure:?}");
            let from = server.url();
            let named = failure.message.contains(&format!("answered {status}, a redirect to http://"));
            assert!(named && failure.message.contains(&from) && !failure.message.contains("hidden"), "{failure:?}");
            assert_eq!(server.log().len(), 1, "nothing else is asked");
        }
        // A redirect at the same place that keeps the request is no harm.
        let path = server.log()[0].path.clone();
        server.answer_next(PlannedAnswer::json(308, &json!({})).header("location", &path));
        assert!(streamed(&*model, question("hi")).await.is_ok());
    }
    assert!(elsewhere.log().is_empty(), "the conversation went nowhere else");
}

#[tokio::test]
async fn the_words_of_an_error_are_heard_in_every_shape() {
    for (body, words) in [
        (
            json!([{"error": {"code": 400, "message": "API key not valid", "status": "INVALID_ARGUMENT"}}]),
            "API key not valid",
        ),
        (json!({"error": "model not found"}), "model not found"),
        (
            json!({"detail": [{"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}]}),
            "Field required (at body.messages)",
        ),
        (json!({"message": "Unknown parameter"}), "Unknown parameter"),
        (json!({"errors": [{"message": "one"}, "two"]}), "one; two"),
        (json!({"unheard": "of"}), "{\"unheard\":\"of\"}"),
    ] {
        for failure in all_ways(PlannedAnswer::json(400, &body)).await {
            assert!(failure.message.ends_with(&format!("answered 400: {words}")), "{}", failure.message);
        }
    }
    // Of one that has no end, the beginning.
    for failure in all_ways(PlannedAnswer::json(400, &json!({"error": "too long ".repeat(20_000)}))).await {
        assert!(
            failure.message.contains("answered 400: ") && failure.message.contains("too long"),
            "{}",
            failure.message
        );
    }
    let google = json!([{"error": {"message": "slow down", "details": [{"retryDelay": "7s"}]}}]);
    for failure in all_ways(PlannedAnswer::json(429, &google)).await {
        assert_eq!((failure.kind, failure.retry_after_ms), (FailureKind::RateLimit, Some(7000)), "{failure:?}");
    }
    // A wait in the headers goes before one in the body.
    for failure in all_ways(PlannedAnswer::json(429, &google).header("retry-after", "2")).await {
        assert_eq!(failure.retry_after_ms, Some(2000));
    }
}

#[tokio::test]
async fn an_error_in_a_good_answer_is_a_failure_with_its_words() {
    for (body, kind, words) in [
        (
            json!({"object": "error", "message": "CUDA out of memory", "code": 500}),
            FailureKind::Unavailable,
            "CUDA out of memory",
        ),
        (json!({"error": {"message": "slow down", "code": 429}}), FailureKind::RateLimit, "slow down"),
        (json!([{"error": {"message": "bad", "code": 400}}]), FailureKind::BadRequest, "bad"),
        (json!({"detail": "worker died"}), FailureKind::Unavailable, "worker died"),
        (
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
            FailureKind::Unavailable,
            "Overloaded",
        ),
    ] {
        let as_event = PlannedAnswer::events(format!("data: {body}\n\ndata: [DONE]\n\n"));
        for answer in [PlannedAnswer::json(200, &body), as_event] {
            for failure in all_ways(answer).await {
                assert_eq!(failure.kind, kind, "{failure:?}");
                assert!(failure.message.ends_with(&format!("ended its answer with an error: {words}")), "{failure:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_instead_of_an_answer_is_named_with_where_it_came_from() {
    let server = OpenAiServer::start().await;
    for model in both(&server) {
        for content_type in ["text/html", "application/json", "text/event-stream"] {
            let page = PlannedAnswer {
                status: 200,
                headers: vec![("content-type".to_owned(), content_type.to_owned())],
                body: b"\n<!doctype html><html><head><title>Sign in</title></head></html>".to_vec(),
                cut: false,
            };
            for streaming in [false, true] {
                server.answer_next(page.clone());
                let failure = match streaming {
                    true => bad(streamed(&*model, question("hi")).await),
                    false => bad(model.respond(question("hi")).await),
                };
                assert_eq!((failure.kind, failure.retryable), (FailureKind::BadResponse, false), "{failure:?}");
                assert!(failure.message.contains(&server.url()) && failure.message.ends_with("Sign in"), "{failure:?}");
            }
        }
    }
}
