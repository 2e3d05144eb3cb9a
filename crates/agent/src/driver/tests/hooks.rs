//! What hooks do to a run: asked once, recorded, and what they refuse shown nowhere.

use super::*;
use crate::{CheckError, CheckTrigger, Hook, HookContext, Passed, PiiGuardrail, PromptInjectionGuardrail};

/// Puts a mark behind what it is given, and counts how often it is asked.
fn marking(name: &str, mark: &'static str, asked: &Arc<AtomicUsize>) -> Hook {
    let asked = asked.clone();
    Hook::new(name, move |content: Value, _: HookContext| {
        asked.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, Failure>(format!("{}{mark}", content.as_str().unwrap())) }
    })
}

fn refusing(message: &'static str) -> Hook {
    Hook::new("strict", move |_: Value, _: HookContext| async move { Err::<(), _>(CheckError::new(message)) })
}

fn saying(answer: &str) -> (Agent, ScriptedModel) {
    let model = ScriptedModel::replies([text(answer)]);
    (Agent::new("Guarded").model(model.clone()), model)
}

/// Everything a log and its run show, as text; records of model calls, which nothing shows, left out.
fn shown(log: &Log) -> String {
    let mut shown = String::new();
    for entry in log.entries() {
        shown.push_str(&serde_json::to_string(&entry.event).unwrap());
        if let Some(record @ Record::Run { .. }) = &entry.record {
            shown.push_str(&serde_json::to_string(record).unwrap());
        }
    }
    shown
}

#[tokio::test]
async fn hooks_see_what_goes_in_and_what_comes_out_in_their_order_and_change_both() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (agent, _) = saying("well");
    let agent = agent
        .pre_hook(marking("one", "!", &asked))
        .pre_hooks([marking("two", "?", &asked), marking("three", ".", &asked)])
        .post_hook(marking("four", " said", &asked));
    let log = Arc::new(Log::default());
    let output = run(&agent, &log).await;
    assert_eq!(output.content, Some("well said".into()));
    assert_eq!(output.input.unwrap().input_content, "AI trends!?.");
    let messages: Vec<_> = output.messages.iter().map(|message| message.content.as_deref().unwrap()).collect();
    assert_eq!(messages, ["AI trends!?.", "well said"]);
    assert_eq!(
        log.names(),
        [
            "PreHookStarted",
            "PreHookCompleted",
            "PreHookStarted",
            "PreHookCompleted",
            "PreHookStarted",
            "PreHookCompleted",
            "RunStarted",
            "ModelRequestStarted",
            "ModelRequestCompleted",
            "PostHookStarted",
            "PostHookCompleted",
            "RunContentCompleted",
            "RunCompleted",
        ]
    );
    assert_eq!(log.streamed(), "well said", "shown once, as the hook has left it");
    let hooks = log.entries().into_iter().filter_map(|entry| match entry.event.kind {
        EventKind::PreHookCompleted(hook) => {
            Some((hook.pre_hook_name, hook.run_input.map_or(Value::Null, |input| input.input_content)))
        }
        EventKind::PostHookCompleted(hook) => Some((hook.post_hook_name, Value::Null)),
        _ => None,
    });
    let hooks: Vec<_> = hooks.collect();
    let expected = [("one", ""), ("two", ""), ("three", "AI trends!?."), ("four", "")];
    let hooks: Vec<_> = hooks.iter().map(|(name, input)| (&**name, input.as_str().unwrap_or_default())).collect();
    assert_eq!(hooks, expected, "events show what all hooks before the run let pass");
}

#[tokio::test]
async fn hooks_and_a_team_cut_after_any_entry_end_the_same_and_no_hook_answers_twice() {
    let make = || {
        let (team, models, count) = pair();
        let asked = Arc::new(AtomicUsize::new(0));
        let pure = |hook: PiiGuardrail| Hook::from(hook.mask_pii(true));
        let team = team
            .pre_hooks([marking("before", " of ada@example.org", &asked), pure(PiiGuardrail::new())])
            .post_hooks([marking("after", "; ask 555-123-4567", &asked), pure(PiiGuardrail::new())]);
        (team, models, count, asked)
    };
    let (team, _, _, asked) = make();
    let whole = Arc::new(Log::default());
    let expected = run(&team, &whole).await;
    assert_eq!(expected.content, Some("all together; ask ************".into()));
    assert!(!shown(&whole).contains("example.org") && !shown(&whole).contains("555-123"), "{}", shown(&whole));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let entries = whole.entries();
    for end in 0..=entries.len() {
        let (team, models, _, asked) = make();
        let log = Arc::new(Log::after(&entries[..end]));
        assert_eq!(run(&team, &log).await, expected, "after {end} entries");
        assert_told_once(&log.entries(), &entries);
        let ended = |name: &str| entries[..end].iter().filter(|entry| entry.event.name().ends_with(name)).count();
        let first = |name: &str| ended(name).min(1);
        let made = asked.load(Ordering::SeqCst);
        let over = ended("TeamRunCompleted");
        assert_eq!(made, 2 - first("PreHookCompleted") - first("PostHookCompleted"), "after {end} entries, {over}");
        let made: usize = models.iter().map(ScriptedModel::calls).sum();
        assert_eq!(made, 5 - ended("ModelRequestCompleted"), "after {end} entries");
    }
}

#[tokio::test]
async fn what_a_hook_refuses_ends_the_run_in_its_words_and_nothing_of_it_is_shown() {
    // Before: the model is not asked.
    let (agent, model) = saying("well");
    let agent = agent.pre_hook(PromptInjectionGuardrail::new().injection_pattern("ai trends"));
    let log = Arc::new(Log::default());
    let failure = failed(&agent, &log).await;
    assert_eq!((failure.kind, failure.retryable, model.calls()), (FailureKind::InputCheck, false, 0));
    assert_eq!(log.names(), ["PreHookStarted", "RunError"]);
    let error = serde_json::to_value(&log.entries()[1].event).unwrap();
    assert_eq!((&error["error_type"], &error["error_id"]), (&json!("input_check_error"), &json!("prompt_injection")));
    assert_eq!(error["content"], failure.message);
    assert!(!shown(&log).contains("AI trends"), "{}", shown(&log));
    let again: RunEvent = serde_json::from_value(error).unwrap();
    assert_eq!(again.kind, log.entries()[1].event.kind);
    // What was refused is recorded: nobody is asked again.
    let after = Arc::new(Log::after(&log.entries()));
    assert_eq!(failed(&agent, &after).await, failure);
    assert_eq!(after.names(), log.names());

    // After: its text is nowhere.
    let (agent, _) = saying("call 555-123-4567");
    let log = Arc::new(Log::default());
    let failure = failed(&agent.post_hook(PiiGuardrail::new()), &log).await;
    assert_eq!(failure.kind, FailureKind::OutputCheck);
    assert_eq!(failure.message, "the answer has personal data in it (Phone)");
    assert_eq!(failure.refusal.unwrap().additional_data, Some(json!({ "detected_pii": ["Phone"] })));
    assert!(!shown(&log).contains("555") && log.streamed().is_empty(), "{}", shown(&log));

    // Nor is what was written on the way to an answer that passes; everything else is.
    let thinking =
        |thought: &str, turn: ModelResponse| ModelResponse { reasoning_content: Some(thought.to_owned()), ..turn };
    let looking =
        ModelResponse { content: Some("I dial 555-123-4567.".to_owned()), ..calls([("look", r#"{"of":"Ada"}"#)]) };
    let looks = ModelResponse { content: Some("I look again.".to_owned()), ..calls([("look", r#"{"of":"Ada"}"#)]) };
    let replies = [
        thinking("Let me see.", looking),
        thinking("Once more.", looks),
        thinking("She is at ada@example.org.", text("She is well.")),
    ];
    let tool = counting("look", &Arc::default());
    let agent = Agent::new("Guarded").model(ScriptedModel::replies(replies)).tool(tool);
    let log = Arc::new(Log::default());
    let output = run(&agent.post_hook(PiiGuardrail::new()), &log).await;
    assert!(!["555", "ada@"].iter().any(|data| shown(&log).contains(data)), "{}", shown(&log));
    let own = output.messages.iter().filter(|message| message.role == Role::Assistant);
    let own: Vec<_> = own.map(|one| (one.content.as_deref(), one.reasoning_content.as_deref())).collect();
    assert_eq!(
        own,
        [(None, Some("Let me see.")), (Some("I look again."), Some("Once more.")), (Some("She is well."), None)]
    );
    assert_eq!((output.content, output.reasoning_content), (Some("She is well.".into()), None));

    // What cannot be kept beside the words does not keep the words from being said.
    let deep = Hook::new("deep", |_: Value, _: HookContext| {
        let data = (0..1_000).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        async { Err::<(), _>(CheckError::new("no").additional_data(data)) }
    });
    let failure = failed(&saying("x").0.pre_hook(deep), &Arc::default()).await;
    assert_eq!((failure.message.as_str(), failure.refusal.unwrap().additional_data), ("no", None));

    // The trigger is the hook's own, or says on which side it stands.
    for (hook, before, after) in [
        (refusing("no"), "input_not_allowed", "output_not_allowed"),
        (
            Hook::new("h", |_: Value, _: HookContext| async {
                Err::<(), _>(CheckError::new("no").trigger(CheckTrigger::Other("rude".into())).additional_data(7))
            }),
            "rude",
            "rude",
        ),
    ] {
        let failure = failed(&saying("x").0.pre_hook(hook.clone()), &Arc::new(Log::default())).await;
        assert_eq!(failure.refusal.unwrap().error_id, before);
        let failure = failed(&saying("x").0.post_hook(hook), &Arc::new(Log::default())).await;
        assert_eq!(failure.refusal.unwrap().error_id, after);
    }
}

#[tokio::test]
async fn a_hook_that_fails_or_panics_lets_nothing_pass_and_is_named() {
    let failing = Hook::new("moderation", |_: Value, _: HookContext| async { Err::<(), _>("the service is down") });
    let panicking = Hook::new("moderation", |_: Value, _: HookContext| async {
        if true {
            panic!("oh no");
        }
        Ok::<(), Failure>(())
    });
    let early = Hook::new("moderation", |content: Value, _: HookContext| {
        assert!(content.is_null(), "oh no");
        async { Ok::<(), Failure>(()) }
    });
    for (hook, kind, words) in [
        (failing, FailureKind::Function, "agent \"Guarded\": the hook moderation: the service is down"),
        (panicking, FailureKind::Panic, "agent \"Guarded\": the hook moderation panicked: oh no"),
        (early, FailureKind::Panic, "agent \"Guarded\": the hook moderation panicked: oh no"),
    ] {
        for is_output in [false, true] {
            let (agent, model) = saying("well");
            let agent = if is_output { agent.post_hook(hook.clone()) } else { agent.pre_hook(hook.clone()) };
            let failure = failed(&agent, &Arc::new(Log::default())).await;
            assert_eq!((failure.kind, failure.message.as_str()), (kind, words));
            assert_eq!(model.calls(), usize::from(is_output));
        }
    }
    let nameless =
        Agent::new("A").model(saying("x").1).post_hook(refusing("x")).pre_hook(marking(" ", "", &Arc::default()));
    assert!(nameless.problems().join("").contains("needs a name"));
    let bad = Agent::new("A").model(saying("x").1).pre_hook(PiiGuardrail::new().pii_pattern("P", "["));
    assert!(bad.problems().join("").contains("pattern \"P\""));
}

#[tokio::test]
async fn text_is_streamed_past_hooks_that_allow_it_and_structured_answers_stay_what_they_are() {
    let (agent, _) = saying("well");
    let log = Arc::new(Log::default());
    run(&agent.post_hook(marking("late", " said", &Arc::default()).stream(true)), &log).await;
    assert_eq!(log.streamed(), "well");
    let names = log.names();
    let content = names.iter().position(|name| *name == "RunContentCompleted");
    assert!(content < names.iter().position(|name| *name == "PostHookStarted"), "{names:?}");

    let (agent, _) = saying(r#"{"of":"ada@example.org"}"#);
    let output = run(&agent.output_schema::<Of>().post_hook(PiiGuardrail::new().mask_pii(true)), &Arc::default()).await;
    assert_eq!((output.content, output.content_type.as_str()), (Some(json!({ "of": "***************" })), "Of"));
    assert_eq!(output.messages.last().unwrap().content.as_deref(), Some(r#"{"of":"***************"}"#));

    let (agent, _) = saying(r#"{"of":"it"}"#);
    let breaking = Hook::new("breaking", |_: Value, _: HookContext| async { Ok::<_, Failure>(json!({ "of": 7 })) });
    let failure = failed(&agent.output_schema::<Of>().post_hook(breaking), &Arc::default()).await;
    assert!(failure.message.contains("the hook breaking") && failure.message.contains("at of: it must be text"));
}

#[tokio::test]
async fn a_hook_is_told_whose_run_it_is_and_has_the_same_key_again() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let make = || {
        let seen = seen.clone();
        let looking = Hook::new("looking", move |_: Value, context: HookContext| {
            seen.lock().unwrap().push(context);
            async { Ok::<_, Failure>(Passed::Unchanged) }
        });
        saying("well").0.pre_hook(looking.clone()).post_hook(looking)
    };
    let log = Arc::new(Log::default());
    run(&make(), &log).await;
    let contexts = std::mem::take(&mut *seen.lock().unwrap());
    let keys: Vec<_> = contexts.iter().map(|context| (context.is_output, &*context.idempotency_key)).collect();
    assert_eq!(keys, [(false, "run-1/0/agent/pre0"), (true, "run-1/0/agent/post0")]);
    assert_eq!((contexts[1].user_id.as_deref(), contexts[1].input.as_str()), (Some("ada"), Some("AI trends")));
    // In flight at a crash: asked again under its key, as a call is.
    run(&make(), &Arc::new(Log::after(&log.entries()[..1]))).await;
    assert_eq!(*seen.lock().unwrap()[0].idempotency_key, *"run-1/0/agent/pre0");
    // And nothing is asked before the log says so on disk.
    let halted = Arc::new(Log { halt_at: Some(1), ..Log::default() });
    seen.lock().unwrap().clear();
    assert_eq!(failed(&make(), &halted).await.kind, FailureKind::Cancelled);
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_members_refusal_is_told_to_its_leader() {
    let (guarded, _) = saying("never");
    let leader = ScriptedModel::replies([
        calls([("delegate_task_to_member", r#"{"member_id":"guarded","task":"x"}"#)]),
        text("without it then"),
    ]);
    let team = Team::new("T").model(leader).member(guarded.pre_hook(refusing("not that")));
    let output = run(&team, &Arc::default()).await;
    assert_eq!(output.messages[3].content.as_deref(), Some("not that"));
    assert_eq!(output.content, Some("without it then".into()));
}

#[tokio::test]
async fn an_input_that_does_not_fit_its_schema_reaches_no_model() {
    #[derive(Deserialize, JsonSchema)]
    struct Topic {
        #[expect(dead_code, reason = "read by its schema")]
        topic: String,
        #[expect(dead_code, reason = "read by its schema")]
        #[schemars(range(min = 1))]
        depth: u32,
    }
    for (input, said) in [
        ("AI", "the input does not fit Topic: it is not JSON: "),
        (r#"{"topic":"AI"}"#, "the input does not fit Topic: it lacks depth"),
        (r#"{"topic":"AI","depth":"0"}"#, "the input does not fit Topic: at depth: it must be at least 1"),
    ] {
        let (agent, model) = saying("well");
        let team = Team::new("T").model(model.clone()).member(saying("x").0).input_schema::<Topic>();
        for executor in [&agent.input_schema::<Topic>() as &dyn Executor, &team] {
            let Err(failure) = execute(executor, &Arc::default(), input).await else { panic!("{input}") };
            assert!(failure.message.starts_with(said), "{}", failure.message);
            assert_eq!(failure.refusal.unwrap().error_id, "validation_failed");
            assert_eq!(model.calls(), 0);
        }
    }
    let (agent, _) = saying("well");
    let Ok(done) = execute(&agent.input_schema::<Topic>(), &Arc::default(), r#"{"topic":"AI","depth":"3"}"#).await
    else {
        panic!("it fits")
    };
    assert_eq!(done.run.unwrap().input.as_ref().unwrap().input_content, json!({ "topic": "AI", "depth": 3 }));
}
