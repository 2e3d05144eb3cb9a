//! Models that stand in for one that failed: which failures they stand in for, and that a resumed run asks the same.

use super::*;

/// Fails so many times for each question it is asked, then answers.
fn failing(id: &str, kind: FailureKind, times: usize) -> ScriptedModel {
    let left = AtomicUsize::new(times);
    ScriptedModel::from_fn(id, move |_| {
        match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            Ok(_) => Err(Failure::new(kind, "the server has trouble")),
            Err(_) => Ok(text("from it")),
        }
    })
}

fn with_fallback(kind: FailureKind) -> (Agent, ScriptedModel, ScriptedModel) {
    let broken = failing("broken", kind, usize::MAX);
    let spare = ScriptedModel::from_fn("spare", |_| Ok(text("from the spare")));
    let agent = Agent::new("Patient").model(broken.clone()).fallback(spare.clone()).retry(Retry::times(1));
    (agent, broken, spare)
}

#[tokio::test(start_paused = true)]
async fn a_server_in_trouble_is_stood_in_for_and_a_bad_request_is_not() {
    use FailureKind::*;
    for (kind, asked, is_answered) in [
        (Unavailable, 2, true),
        (Timeout, 2, true),
        (Truncated, 2, true),
        (Quota, 1, true),
        (BadRequest, 1, false),
        (Auth, 1, false),
        (ContextLength, 1, false),
        (BadResponse, 2, false),
    ] {
        let (agent, broken, spare) = with_fallback(kind);
        let ended = agent.run("hi").await;
        assert_eq!((broken.calls(), spare.calls()), (asked, usize::from(is_answered)), "{kind:?}");
        match ended {
            Ok(output) => {
                assert!(is_answered, "{kind:?}");
                assert_eq!(output.content, Some(json!("from the spare")));
                let models = &output.metrics.unwrap().details["model"];
                assert_eq!(models.iter().map(|model| &*model.id).collect::<Vec<_>>(), ["spare"]);
            }
            Err(failure) => assert!(!is_answered && failure.kind == kind, "{kind:?}: {failure:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn models_are_asked_in_order_and_the_last_failure_is_the_runs() {
    let (first, second) = (failing("first", FailureKind::Unavailable, 9), failing("second", FailureKind::Timeout, 9));
    let third = failing("third", FailureKind::Quota, 9);
    let agent = Agent::new("Patient").model(first.clone()).fallback(second.clone()).fallback(third.clone());
    let mut told = Vec::new();
    let failure = agent
        .retry(Retry::times(0))
        .run_with("hi", |event| {
            if let EventKind::CustomEvent { fields } = &event.kind {
                told.push(format!("{} → {}: {}", fields["model"], fields["fallback"], fields["error_type"]));
            }
        })
        .await
        .expect_err("all have failed");
    assert!(failure.message.contains("model third"), "{failure:?}");
    assert_eq!((first.calls(), second.calls(), third.calls()), (1, 1, 1));
    let expected =
        ["\"first\" → \"second\": \"provider_unavailable_error\"", "\"second\" → \"third\": \"timeout_error\""];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn each_turn_begins_with_its_own_model() {
    let own = failing("own", FailureKind::Unavailable, 1);
    let spare = ScriptedModel::from_fn("spare", |_| Ok(calls([("price", r#"{"of":"ACME"}"#)])));
    let count = Arc::new(AtomicUsize::new(0));
    let agent = Agent::new("Patient").model(own.clone()).fallback(spare.clone()).retry(Retry::times(0));
    let output = agent.tool(counting("price", &count)).run("hi").await.expect("both turns are answered");
    assert_eq!((own.calls(), spare.calls(), count.load(Ordering::SeqCst)), (2, 1, 1));
    assert_eq!(output.content, Some(json!("from it")));
    let models = output.metrics.unwrap().details["model"].iter().map(|model| model.id.clone()).collect::<Vec<_>>();
    assert_eq!(models, ["spare", "own"]);
}

/// Whoever resumes the run asks the model that was asked, even where the other would answer by now.
#[tokio::test(start_paused = true)]
async fn a_resumed_run_goes_on_with_the_model_that_stood_in() {
    let (agent, broken, spare) = with_fallback(FailureKind::Unavailable);
    let whole = Arc::new(Log::default());
    let expected = run(&agent, &whole).await;
    assert_eq!((broken.calls(), spare.calls()), (2, 1));
    let entries = whole.entries();
    let fell = entries.iter().position(
        |entry| matches!(&entry.event.kind, EventKind::CustomEvent { fields } if fields["name"] == "ModelFallback"),
    );
    let fell = fell.expect("it is told");
    for end in 0..=entries.len() {
        let (healthy, spare) =
            (failing("broken", FailureKind::Unavailable, 0), failing("spare", FailureKind::Timeout, 0));
        let agent = Agent::new("Patient").model(healthy.clone()).fallback(spare.clone()).retry(Retry::times(1));
        let log = Arc::new(Log::after(&entries[..end]));
        let again = run(&agent, &log).await;
        let is_answered = entries[..end].iter().any(|entry| entry.event.name() == "ModelRequestCompleted");
        let asked = (healthy.calls(), spare.calls());
        match (end > fell, is_answered) {
            (false, _) => assert_eq!(asked, (1, 0), "after {end} entries"),
            (true, false) => assert_eq!(asked, (0, 1), "after {end} entries"),
            (true, true) => {
                assert_eq!(asked, (0, 0), "after {end} entries");
                assert_eq!(again, expected, "after {end} entries");
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_fallback_is_told_when_the_agent_is_built() {
    let agent = Agent::new("Patient").model(ScriptedModel::replies([])).fallback("gpt-5.2");
    let problems = Executor::problems(&agent);
    assert!(problems.iter().any(|problem| problem.contains("names no provider")), "{problems:?}");
    let good = Agent::new("Patient").model(ScriptedModel::replies([])).fallback(failing("spare", FailureKind::Auth, 0));
    assert_eq!(Executor::models(&good), ["scripted", "spare"]);
}
