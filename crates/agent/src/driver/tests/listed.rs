//! Tools that are listed when an agent begins: recorded once, and offered the same by whoever continues.

use super::*;
use crate::tool::{ListedTool, Listing, ToolError, ToolFunction, ToolSource};
use outlive_core::ToolSpec;

/// A source that may change its mind.
struct Shop {
    name: &'static str,
    spec: ToolSpec,
    /// What it has now.
    has: Arc<Mutex<Vec<&'static str>>>,
    asked: Arc<AtomicUsize>,
    count: Arc<AtomicUsize>,
    /// So often it cannot be asked.
    fails: Arc<AtomicUsize>,
}

impl ToolFunction for Shop {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, _: Value, _: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        panic!("nobody calls a source")
    }
}

impl ToolSource for Shop {
    fn name(&self) -> &str {
        self.name
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, Failure>> {
        Box::pin(async move {
            // As a server does, it takes its time.
            tokio::task::yield_now().await;
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err(Failure::new(FailureKind::Unavailable, "the shop is closed"));
            }
            let has = self.has.lock().unwrap();
            let parameters = json!({ "type": "object", "properties": { "of": { "type": "string" } } });
            let listed = |name: &&'static str| ListedTool {
                name: (*name).to_owned(),
                offered_as: None,
                description: format!("{name} of something"),
                parameters: parameters.clone(),
                effect: if *name == "buy" { ToolEffect::Once } else { ToolEffect::Read },
            };
            let tools: Vec<_> = has.iter().map(listed).collect();
            Ok(Listing { source: self.name.to_owned(), hash: has.join("+"), tools })
        })
    }

    fn tool(&self, listed: &ListedTool) -> Tool {
        let (name, has, count) = (listed.name.clone(), self.has.clone(), self.count.clone());
        let spec = listed.spec();
        let tool = Tool::new(spec.name, spec.description, move |of: Of, _: ToolContext| {
            count.fetch_add(1, Ordering::SeqCst);
            let is_there = has.lock().unwrap().contains(&&*name);
            let said = format!("{name} of {}", of.of);
            async move { if is_there { Ok(said) } else { Err(Failure::fatal("unknown tool")) } }
        });
        tool.effect(listed.effect)
    }

    fn effect(&self, _: &str) -> Option<ToolEffect> {
        None
    }
}

/// What a test holds of a shop.
#[derive(Clone, Default)]
struct Held {
    has: Arc<Mutex<Vec<&'static str>>>,
    asked: Arc<AtomicUsize>,
    count: Arc<AtomicUsize>,
    fails: Arc<AtomicUsize>,
}

impl Held {
    fn with(has: &[&'static str]) -> Self {
        Self { has: Arc::new(Mutex::new(has.to_vec())), ..Self::default() }
    }

    fn named(&self, name: &'static str) -> Tool {
        let Self { has, asked, count, fails } = self.clone();
        let spec = ToolSpec {
            name: name.to_owned(),
            description: "a shop".to_owned(),
            parameters: json!({ "type": "object" }),
        };
        Tool::of_source(Arc::new(Shop { name, spec, has, asked, count, fails }))
    }
}

fn customer(held: &Held) -> (Agent, ScriptedModel) {
    let model = ScriptedModel::replies([
        calls([("price", r#"{"of":"ACME"}"#), ("weather", r#"{"of":"Delft"}"#)]),
        text("12 and sunny"),
    ]);
    (Agent::new("Customer").model(model.clone()).tool(held.named("shop")), model)
}

#[tokio::test]
async fn a_run_with_listed_tools_cut_after_any_entry_ends_the_same() {
    let places = cut_everywhere(|| {
        let held = Held::with(&["price", "weather"]);
        let (agent, model) = customer(&held);
        (agent, vec![model], held.count)
    });
    assert_eq!(places.await, 16, "twelve events and four pieces of text");
}

#[tokio::test]
async fn the_listing_is_recorded_before_the_first_turn_and_never_asked_for_again() {
    let held = Held::with(&["price", "weather"]);
    let whole = Arc::new(Log::default());
    let expected = run(&customer(&held).0, &whole).await;
    let entries = whole.entries();
    assert_eq!(whole.names()[..3], ["RunStarted", "CustomEvent", "ModelRequestStarted"]);
    let EventKind::CustomEvent { fields } = &entries[1].event.kind else { panic!("{:?}", entries[1]) };
    let servers = json!([{ "server": "shop", "hash": "price+weather", "tools": ["price", "weather"] }]);
    assert_eq!(json!(fields), json!({ "name": "ToolsListed", "servers": servers }));

    // The shop has others by then, and may be closed.
    for end in 2..entries.len() {
        let changed = Held::with(&["weather", "chat", "price"]);
        changed.fails.store(9, Ordering::SeqCst);
        let log = Arc::new(Log::after(&entries[..end]));
        assert_eq!(run(&customer(&changed).0, &log).await, expected, "after {end} entries");
        assert_eq!(changed.asked.load(Ordering::SeqCst), 0, "after {end} entries");
    }
}

#[tokio::test]
async fn a_tool_that_has_vanished_is_an_error_that_the_model_sees() {
    let held = Held::with(&["price", "weather"]);
    let whole = Arc::new(Log::default());
    run(&customer(&held).0, &whole).await;
    let entries = whole.entries();
    let until_asked = entries.iter().position(|entry| entry.event.name() == "ToolCallStarted").unwrap();
    for gone in [Held::with(&["weather"]).named("shop"), Held::with(&["price"]).named("another")] {
        let (_, model) = customer(&held);
        let agent = Agent::new("Customer").model(model).tool(gone);
        let log = Arc::new(Log::after(&entries[..until_asked]));
        let output = run(&agent, &log).await;
        assert_eq!(output.tools[0].tool_call_error, Some(true));
        let told = output.tools[0].result.clone().unwrap();
        assert!(
            told == "unknown tool" || told.contains("\"shop\", which had it, is not among the agent's tools any more"),
            "{told}"
        );
        assert_eq!(output.content, Some("12 and sunny".into()), "the run goes on");
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_asked_fails_the_step_and_the_next_attempt_asks_again() {
    let held = Held::with(&["price", "weather"]);
    held.fails.store(1, Ordering::SeqCst);
    let failure = failed(&customer(&held).0, &Arc::new(Log::default())).await;
    assert_eq!((failure.kind, failure.retryable), (FailureKind::Unavailable, true));
    assert_eq!(failure.message, "agent \"Customer\": the shop is closed");
    run(&customer(&held).0, &Arc::new(Log::default())).await;
    assert_eq!(held.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn listed_tools_give_way_to_names_that_are_taken() {
    let (one, other) = (Held::with(&["price", "delegate_task_to_member"]), Held::with(&["price"]));
    let own = Arc::new(AtomicUsize::new(0));
    let model = ScriptedModel::replies([
        calls([("price", r#"{"of":"a"}"#), ("price_2", r#"{"of":"b"}"#), ("price_3", r#"{"of":"c"}"#)]),
        text("done"),
    ]);
    let agent =
        Agent::new("A").model(model).tool(one.named("one")).tool(counting("price", &own)).tool(other.named("other"));
    let output = run(&agent, &Arc::new(Log::default())).await;
    let told: Vec<_> = output.tools.iter().map(|tool| tool.result.clone().unwrap()).collect();
    assert_eq!(told, ["price of a", "price of b", "price of c"]);
    let counts = [&own, &one.count, &other.count].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(counts, [1, 1, 1]);
}

#[tokio::test]
async fn a_listed_call_that_must_not_run_twice_is_not_repeated_after_a_crash() {
    let buyer = |held: &Held| {
        let model = ScriptedModel::replies([calls([("buy", r#"{"of":"ACME"}"#)]), text("bought")]);
        Agent::new("Buyer").model(model).tool(held.named("shop"))
    };
    let held = Held::with(&["buy"]);
    let whole = Arc::new(Log::default());
    run(&buyer(&held), &whole).await;
    let entries = whole.entries();
    let started = entries.iter().position(|entry| entry.event.name() == "ToolCallStarted").unwrap();
    let again = Held::with(&["buy"]);
    let log = Arc::new(Log::after(&entries[..=started]));
    let failure = failed(&buyer(&again), &log).await;
    assert_eq!((failure.kind, again.count.load(Ordering::SeqCst)), (FailureKind::Cancelled, 0), "it waits for people");
    assert_eq!(questions(&log.entries())[0].kind, QuestionKind::Outcome);
}

#[tokio::test]
async fn a_halt_ends_a_listing_that_takes_long() {
    /// It never answers.
    struct Mute(ToolSpec);
    impl ToolFunction for Mute {
        fn spec(&self) -> &ToolSpec {
            &self.0
        }
        fn call(&self, _: Value, _: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
            panic!("nobody calls a source")
        }
    }
    impl ToolSource for Mute {
        fn name(&self) -> &str {
            "mute"
        }
        fn list(&self) -> BoxFuture<'_, Result<Listing, Failure>> {
            Box::pin(std::future::pending())
        }
        fn tool(&self, _: &ListedTool) -> Tool {
            panic!("it lists none")
        }
        fn effect(&self, _: &str) -> Option<ToolEffect> {
            None
        }
    }
    let spec =
        ToolSpec { name: "mute".to_owned(), description: String::new(), parameters: json!({ "type": "object" }) };
    let agent = Agent::new("A").model(ScriptedModel::replies([])).tool(Tool::of_source(Arc::new(Mute(spec))));
    let log = Arc::new(Log::default());
    let running = execute(&agent, &log, "go");
    let halting = async {
        tokio::task::yield_now().await;
        log.halted.notify_one();
    };
    let (ended, ()) = tokio::join!(running, halting);
    assert_eq!(ended.unwrap_err().kind, FailureKind::Cancelled);
    assert_eq!(log.names(), ["RunStarted"], "without a word");
}

#[tokio::test]
async fn a_tool_may_say_that_its_outcome_is_unknown() {
    let lost = |effect: ToolEffect| {
        let model = ScriptedModel::replies([calls([("wire", r#"{"of":"1"}"#)]), text("done")]);
        /// It loses its connection, once.
        struct Wire(ToolSpec, AtomicUsize);
        impl ToolFunction for Wire {
            fn spec(&self) -> &ToolSpec {
                &self.0
            }
            fn call(&self, _: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
                context.report_progress(1.0, None, Some("wiring"));
                let is_first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
                Box::pin(async move {
                    if is_first {
                        Err(ToolError::OutcomeUnknown("lost its connection".to_owned()))
                    } else {
                        Ok("wired".to_owned())
                    }
                })
            }
        }
        let spec =
            ToolSpec { name: "wire".to_owned(), description: String::new(), parameters: json!({ "type": "object" }) };
        Agent::new("A").model(model).tool(Tool::from_function(Wire(spec, AtomicUsize::new(0))).effect(effect))
    };
    for effect in [ToolEffect::Read, ToolEffect::Idempotent] {
        let output = run(&lost(effect), &Arc::new(Log::default())).await;
        assert_eq!(output.tools[0].result.as_deref(), Some("wired"));
    }
    let log = Arc::new(Log::default());
    assert_eq!(failed(&lost(ToolEffect::Once), &log).await.kind, FailureKind::Cancelled, "it waits for people");
    let asked = questions(&log.entries());
    let message = asked[0].message.as_deref().unwrap();
    assert!(message.ends_with("it lost its connection, and it must not run twice"), "{message}");
    let asked = Log { person: Some(Arc::new(|_: &Question| Some(Answer::Retry))), ..Log::default() };
    let output = run(&lost(ToolEffect::Once), &Arc::new(asked)).await;
    assert_eq!(output.tools[0].result.as_deref(), Some("wired"), "a person said so");
}
