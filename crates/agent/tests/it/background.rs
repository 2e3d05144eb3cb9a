//! Answers that go on at OpenAI while nobody listens: taken up instead of asked for again, and ended when they are for
//! nobody.

use crate::conversation::{bad, good, question, streamed, text};
use futures::StreamExt;
use outlive_agent::Agent;
use outlive_agent::model::{Model, ModelEvent, OpenAIResponses};
use outlive_agent::testing::{Exchange, OpenAiServer, PlannedAnswer};
use outlive_core::{EventKind, FailureKind, ModelDelta, Retry};
use serde_json::{Value, json};
use std::time::Duration;

fn background(server: &OpenAiServer) -> OpenAIResponses {
    OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("key").background()
}

/// Answers that were asked for, and paid for.
fn asked(server: &OpenAiServer) -> usize {
    server.log().iter().filter(|exchange| exchange.path == "/v1/responses").count()
}

fn paths(server: &OpenAiServer) -> Vec<String> {
    let path = |exchange: Exchange| {
        let path = exchange.path.trim_start_matches("/v1/responses").to_owned();
        let id = path.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default().to_owned();
        if id.is_empty() { path } else { path.replace(&id, "ID") }
    };
    server.log().into_iter().map(path).collect()
}

async fn begun(model: &OpenAIResponses, words: &str) -> Value {
    let mut events = model.stream(question(words));
    match events.next().await {
        Some(Ok(ModelEvent::Delta(ModelDelta::Begun(ids)))) => ids,
        other => panic!("an answer begins with its id: {other:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_asked_for_in_the_background_and_is_the_same() {
    let server = OpenAiServer::start().await;
    let plain = OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("key");
    let expected = good(plain.respond(question("hi")).await);
    let model = background(&server);
    assert!(model.is_resumable() && !plain.is_resumable());
    let whole = good(model.respond(question("hi")).await);
    let (deltas, streamed) = good(streamed(&model, question("hi")).await);
    assert_eq!((whole.content, streamed.content), (expected.content.clone(), expected.content.clone()));
    assert_eq!((Some(text(&deltas)), streamed.usage.input_tokens > 0), (expected.content, true));
    for exchange in &server.log()[1..] {
        let sent = |name: &str| exchange.request[name].clone();
        assert_eq!([sent("background"), sent("store"), sent("stream")], [json!(true), json!(true), json!(true)]);
    }
}

#[tokio::test]
async fn an_answer_is_taken_up_as_a_stream_or_whole_and_one_that_is_gone_says_so() {
    let server = OpenAiServer::start().await;
    let model = background(&server);
    let slow = "CHUNKS=20 CHUNKDELAY=0.01";
    let expected = good(model.respond(question(slow)).await).content;
    server.reset();
    let ids = begun(&model, slow).await;
    let (mut deltas, mut whole) = (Vec::new(), None);
    let mut events = model.resume(question(slow), ids.clone());
    while let Some(event) = events.next().await {
        match good(event) {
            ModelEvent::Delta(delta) => deltas.push(delta),
            ModelEvent::Done(answer) => whole = Some(*answer),
        }
    }
    assert_eq!((Some(text(&deltas)), whole.and_then(|answer| answer.content)), (expected.clone(), expected.clone()));
    assert_eq!(paths(&server), ["", "/ID", "/ID?stream=true&starting_after=0"]);
    // It has ended meanwhile.
    let again = model.resume(question(slow), ids.clone()).collect::<Vec<_>>().await;
    let Some(Ok(ModelEvent::Done(answer))) = again.into_iter().next_back() else { panic!("it is whole") };
    assert_eq!(answer.content, expected);
    assert_eq!((paths(&server).len(), asked(&server)), (4, 1));
    // Cancelled, or forgotten.
    let lost = begun(&model, "CHUNKDELAY=9").await;
    model.abandon(lost.clone()).await;
    assert!(server.is_cancelled(lost["response_id"].as_str().expect("an id")));
    server.forget_answers();
    for ids in [lost, ids, json!({"response_id": "resp_0"}), json!({})] {
        let mut events = model.resume(question(slow), ids);
        assert_eq!(bad(events.next().await.expect("an event")).kind, FailureKind::BadRequest);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_costs_nothing() {
    let server = OpenAiServer::start().await;
    for words in ["CUT=1", "CUT=7 CHUNKDELAY=0.01", "CUT=9 CHUNKDELAY=0.01"] {
        for is_streamed in [true, false] {
            server.reset();
            let mut told = Vec::new();
            let agent = Agent::new("A").model(background(&server)).stream(is_streamed);
            let agent = agent.retry(Retry::times(2).backoff(Duration::from_millis(1)));
            let run = agent.run_with(words, |event| told.push(event.kind)).await;
            let run = run.unwrap_or_else(|failure| panic!("{words}: {failure:?}"));
            assert!(run.content.is_some_and(|text| text.as_str().is_some_and(|text| text.starts_with("Answer"))));
            assert_eq!(asked(&server), 1, "{words}: {:?}", paths(&server));
            let begun = told.iter().filter(|event| match event {
                EventKind::CustomEvent { fields } => fields["name"] == "ModelResponseBegun",
                _ => false,
            });
            assert_eq!(begun.count(), 1);
            let pieces = told.iter().any(|event| matches!(event, EventKind::RunContent(_)));
            assert_eq!(pieces, is_streamed, "{words}");
        }
    }
}

#[tokio::test]
async fn a_provider_in_trouble_is_asked_after_its_answer_again_and_a_lost_answer_is_asked_for_anew() {
    let server = OpenAiServer::start().await;
    let agent = Agent::new("A").model(background(&server)).rate_limit_budget(Duration::ZERO);
    let agent = agent.retry(Retry::times(3).backoff(Duration::from_millis(1)));
    // The first look is refused twice.
    let run = agent.run_with("CUT=3 CHUNKDELAY=0.02", |event| {
        if let EventKind::CustomEvent { fields } = &event.kind
            && fields["name"] == "ModelResponseBegun"
        {
            server.fail_next(503, &[], 2);
        }
    });
    good(run.await);
    assert_eq!(asked(&server), 1, "{:?}", paths(&server));
    // The answer is forgotten, or ended without a result, before anyone looks.
    for status in [None, Some("failed"), Some("cancelled")] {
        server.reset();
        let mut is_first = true;
        let run = agent.run_with("CUT=3 CHUNKDELAY=0.02", |event| {
            if let EventKind::CustomEvent { fields } = &event.kind
                && fields["name"] == "ModelResponseBegun"
                && std::mem::take(&mut is_first)
            {
                match status {
                    None => server.forget_answers(),
                    Some(status) => server.answer_next(PlannedAnswer::json(200, &json!({"id": "r", "status": status}))),
                }
            }
        });
        good(run.await);
        assert_eq!(asked(&server), 2, "{status:?}: {:?}", paths(&server));
    }
}

#[tokio::test]
async fn whoever_stops_waiting_ends_the_answer() {
    let server = OpenAiServer::start().await;
    let agent = Agent::new("A").model(background(&server));
    let begun = tokio::sync::Notify::new();
    let run = agent.run_with("CHUNKDELAY=30", |event| {
        if matches!(event.kind, EventKind::CustomEvent { .. }) {
            begun.notify_one();
        }
    });
    tokio::select! {
        _ = run => panic!("it takes too long"),
        () = begun.notified() => {}
    }
    server.wait_until(|log| log.iter().any(|exchange| exchange.path.ends_with("/cancel"))).await;
    assert_eq!(asked(&server), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_ended_when_the_run_gives_up() {
    let server = OpenAiServer::start().await;
    let model = background(&server).timeout(Duration::from_millis(150));
    let agent = Agent::new("A").model(model).retry(Retry::times(1).backoff(Duration::from_millis(1)));
    let failure = bad(agent.run("CHUNKDELAY=30").await);
    assert_eq!(failure.kind, FailureKind::Timeout);
    let cancels = server.log().iter().filter(|exchange| exchange.path.ends_with("/cancel")).count();
    assert_eq!((asked(&server), cancels), (1, 1), "{:?}", paths(&server));
}
