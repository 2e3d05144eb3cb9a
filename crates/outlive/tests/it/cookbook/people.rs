//! `08_human_in_the_loop`, where steps and containers ask: conditions, confirmations, decision trees, failures, loops,
//! reviews of outputs, routers, groups, time limits and input. What agents and teams ask is in [`executors`](super::executors).

use super::talk::{Talk, no, retry, silence, skip, talked_through, yes};
use super::{function, mentions};
use outlive::WorkflowBuilder;
use outlive::core::FieldType;
use outlive::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

/// Long enough to be seen open, short enough to wait for.
const SOON: Duration = Duration::from_millis(300);

const TALKS: &[Talk] = &[
    Talk {
        name: "condition/01_condition_user_decision, yes",
        build: |_| analysis(OnReject::Else),
        input: "The third quarter",
        turns: &[("confirmation Depth", yes)],
        status: RunStatus::Completed,
        told: "Collect() Depth? | Depth> Depth[Detailed()] Report() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "report of: details of The third quarter, collected"),
    },
    Talk {
        name: "condition/01_condition_user_decision, the other branch",
        build: |_| analysis(OnReject::Else),
        input: "The third quarter",
        turns: &[("confirmation Depth", no)],
        status: RunStatus::Completed,
        told: "Collect() Depth? | Depth[Summary()] Report() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "report of: a summary of The third quarter, collected"),
    },
    Talk {
        name: "condition/01_condition_user_decision, neither",
        build: |_| analysis(OnReject::Skip),
        input: "The third quarter",
        turns: &[("confirmation Depth", no)],
        status: RunStatus::Completed,
        told: "Collect() Depth? | Report() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "report of: The third quarter, collected"),
    },
    Talk {
        name: "condition/01_condition_user_decision, no analysis at all",
        build: |_| analysis(OnReject::Cancel),
        input: "The third quarter",
        turns: &[("confirmation Depth", no)],
        status: RunStatus::Cancelled,
        told: "Collect() Depth? | CANCELLED COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "Workflow cancelled: Condition 'Depth' was rejected"),
    },
    Talk {
        name: "condition/02_condition_on_error, tried again",
        build: |_| careful_condition(),
        input: "urgent",
        turns: &[("error Enrich", retry)],
        status: RunStatus::Completed,
        told: "Enrich[Look up(Look up! Enrich! | Enrich> Enrich[Look up()] Save() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "saved: urgent, enriched"),
    },
    Talk {
        name: "condition/02_condition_on_error, left out",
        build: |_| careful_condition(),
        input: "urgent",
        turns: &[("error Enrich", skip)],
        status: RunStatus::Completed,
        told: "Enrich[Look up(Look up! Enrich! | Save() COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "saved: urgent");
            assert_eq!(ran.step("Enrich").error.as_deref(), Some("step \"Look up\": the service is down"));
        },
    },
    Talk {
        name: "confirmation/01_basic_step_confirmation, yes",
        build: |_| confirmed(OnReject::Cancel),
        input: "orders",
        turns: &[("confirmation Process Data", yes)],
        status: RunStatus::Completed,
        told: "Fetch Data() Process Data? | Process Data> Process Data() Save Results() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "saved: processed: fetched: orders"),
    },
    Talk {
        name: "confirmation/01_basic_step_confirmation, no",
        build: |_| confirmed(OnReject::Cancel),
        input: "orders",
        turns: &[("confirmation Process Data", no)],
        status: RunStatus::Cancelled,
        told: "Fetch Data() Process Data? | CANCELLED COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "Workflow cancelled: Step 'Process Data' was rejected");
            assert_eq!(ran.run.step_results.len(), 1, "what was done stays");
        },
    },
    Talk {
        name: "confirmation/02_custom_function_step_confirmation",
        build: |_| confirmed(OnReject::Skip),
        input: "orders",
        turns: &[("confirmation Process Data", no)],
        status: RunStatus::Completed,
        told: "Fetch Data() Process Data? | Save Results() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "saved: fetched: orders"),
    },
    Talk {
        name: "confirmation/03_step_confirmation_streaming",
        build: |kitchen| {
            let research = kitchen.says("Research", "facts");
            let write = kitchen.says("Write", "article").human_review(HumanReview::confirmation("Write about it?"));
            Workflow::builder("Streamed Confirmation").step(research).step(write)
        },
        input: "Roses",
        turns: &[("confirmation Write", yes)],
        status: RunStatus::Completed,
        told: "Research() Write? | Write> Write() COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "article");
            assert_eq!(ran.asked.len(), 2);
            assert!(ran.asked[1].to_string().contains("facts"), "it works on what was found before");
        },
    },
    Talk {
        name: "confirmation/04_async_step_confirmation",
        build: |_| {
            let send = Step::function("Send", |context: StepContext, input| async move {
                let key = context.call_key("send");
                context.once("send", || async move { Ok(format!("sent under {} signs", key.len())) }).await?;
                Ok::<_, Failure>(format!("sent: {}", input.text()))
            });
            let review = HumanReview::confirmation("Send it to 1,200 people?").on_reject(OnReject::Cancel);
            Workflow::builder("Mailing").step(function("Draft", |input| input.text())).step(send.human_review(review))
        },
        input: "Sale!",
        turns: &[("confirmation Send", yes)],
        status: RunStatus::Completed,
        told: "Draft() Send? | Send> Send() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "sent: Sale!"),
    },
    Talk {
        name: "confirmation/04_step_continued_event",
        build: |_| {
            let step = |name: &str| function(name, |input| format!("{}.", input.text()));
            let asks = |name: &str| step(name).human_review(HumanReview::confirmation(format!("{name}?")));
            Workflow::builder("Three Gates").step(asks("First")).step(asks("Second")).step(asks("Third"))
        },
        input: "go",
        turns: &[("confirmation First", yes), ("confirmation Second", no), ("confirmation Third", yes)],
        status: RunStatus::Completed,
        told: "First? | First> First() Second? | Third? | Third> Third() COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "go..");
            let told = ran.events.iter().filter(|event| event.name() == "StepContinued").count();
            assert_eq!(told, 2, "a step that was refused does not go on");
        },
    },
    Talk {
        name: "decision_tree/01_decision_tree, a small claim",
        build: |_| claims(),
        input: "a broken window",
        turns: &[("route_selection Triage", || Answer::choose(["Small Claim"]))],
        status: RunStatus::Completed,
        told: "Register() Triage? | Triage[Small Claim[Pay at once()]] Close() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "closed: paid: a broken window"),
    },
    Talk {
        name: "decision_tree/01_decision_tree, a large one",
        build: |_| claims(),
        input: "a burnt house",
        turns: &[
            ("route_selection Triage", || Answer::choose(["Large Claim"])),
            ("confirmation Inspect?", yes),
            ("confirmation Pay", no),
        ],
        status: RunStatus::Completed,
        told: "Register() Triage? | Triage[Large Claim[Inspect?? | Inspect?> Inspect?[Inspect()] Pay? |]] Close() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "closed: inspected: a burnt house"),
    },
    Talk {
        name: "decision_tree/02_multi_component_decision_tree",
        build: |_| {
            let step = |name: &str| {
                function(name, {
                    let name = name.to_owned();
                    move |input| format!("{} > {name}", input.text())
                })
            };
            let gather = Steps::new("Gather").step(step("Web")).step(step("Library"));
            let polish = Loop::new("Polish")
                .step(step("Edit"))
                .max_iterations(3)
                .human_review(HumanReview::iterations("Is it polished?").on_reject(OnReject::Retry));
            let publish = Condition::new("Public")
                .step(step("Website"))
                .otherwise(step("Intranet"))
                .human_review(HumanReview::confirmation("Publish to everyone?").on_reject(OnReject::Else));
            let format = Router::new("Format").choice(polish).choice(step("Short Note"));
            Workflow::builder("Publishing")
                .step(gather)
                .step(format.human_review(HumanReview::selection("Which format?")))
                .step(publish)
        },
        input: "bees",
        turns: &[
            ("route_selection Format", || Answer::choose(["Polish"])),
            ("iteration_review Polish", || Answer::reject("shorter")),
            ("iteration_review Polish", yes),
            ("confirmation Public", no),
        ],
        status: RunStatus::Completed,
        told: "Gather[Web() Library()] Format? | Format[Polish[#1 Edit() Polish?? | Polish> #2 Edit() Polish?? |] \
               Public? | Public[Intranet()] COMPLETED",
        check: |ran| {
            assert!(ran.run.text().ends_with("> Edit > Intranet"), "{}", ran.run.text());
            assert_eq!(ran.step("Polish").steps.len(), 2);
        },
    },
    Talk {
        name: "error/01_error_retry_skip, tried again twice",
        build: |_| flaky(2),
        input: "orders",
        turns: &[("error Fetch", retry), ("error Fetch", retry)],
        status: RunStatus::Completed,
        told: "Fetch(Fetch! | Fetch> Fetch! | Fetch>) Process() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "processed: fetched at 3"),
    },
    Talk {
        name: "error/01_error_retry_skip, left out",
        build: |_| flaky(9),
        input: "orders",
        turns: &[("error Fetch", retry), ("error Fetch", skip)],
        status: RunStatus::Completed,
        told: "Fetch(Fetch! | Fetch> Fetch! | Process() COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "processed: orders");
            assert!(!ran.step("Fetch").success);
        },
    },
    Talk {
        name: "error/02_error_retry_skip_streaming, given up",
        build: |_| flaky(9),
        input: "orders",
        turns: &[("error Fetch", no)],
        status: RunStatus::Error,
        told: "Fetch(Fetch! | Fetch! ERROR",
        check: |ran| assert_eq!(ran.run.text(), "step \"Fetch\": no connection at 1"),
    },
    Talk {
        name: "loop/01_loop_confirmation, yes",
        build: |_| repeated(HumanReview::confirmation("Refine it?")),
        input: "draft",
        turns: &[("confirmation Refine", yes)],
        status: RunStatus::Completed,
        told: "Prepare() Refine? | Refine> Refine[#1 Improve() #2 Improve()] Finish() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "draft++, done"),
    },
    Talk {
        name: "loop/02_loop_confirmation_streaming, no",
        build: |_| repeated(HumanReview::confirmation("Refine it?")),
        input: "draft",
        turns: &[("confirmation Refine", no)],
        status: RunStatus::Completed,
        told: "Prepare() Refine? | Finish() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "draft, done"),
    },
    Talk {
        name: "loop/03_loop_iteration_review, once more",
        build: |_| repeated(HumanReview::iterations("Is it good?").on_reject(OnReject::Retry)),
        input: "draft",
        turns: &[("iteration_review Refine", no)],
        status: RunStatus::Completed,
        told: "Prepare() Refine[#1 Improve() Refine?? | Refine> #2 Improve()] Finish() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "draft++, done"),
    },
    Talk {
        name: "loop/03_loop_iteration_review, good at once",
        build: |_| repeated(HumanReview::iterations("Is it good?").on_reject(OnReject::Retry)),
        input: "draft",
        turns: &[("iteration_review Refine", yes)],
        status: RunStatus::Completed,
        told: "Prepare() Refine[#1 Improve() Refine?? | Finish() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "draft+, done"),
    },
    Talk {
        name: "output_review/01_basic_output_review, good",
        build: |_| reviewed(OnReject::Cancel),
        input: "bees",
        turns: &[("output_review Write", yes)],
        status: RunStatus::Completed,
        told: "Write() Write?? | Publish() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "published: bees, attempt 1"),
    },
    Talk {
        name: "output_review/01_basic_output_review, bad",
        build: |_| reviewed(OnReject::Cancel),
        input: "bees",
        turns: &[("output_review Write", no)],
        status: RunStatus::Cancelled,
        told: "Write() Write?? | CANCELLED COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "Workflow cancelled: Step 'Write' was rejected"),
    },
    Talk {
        name: "output_review/02_output_review_with_retry",
        build: |_| reviewed(OnReject::Retry),
        input: "bees",
        turns: &[("output_review Write", || Answer::reject("name a flower")), ("output_review Write", yes)],
        status: RunStatus::Completed,
        told: "Write() Write?? | Write>) Write?? | Publish() COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "published: bees, attempt 2: name a flower (before: bees, attempt 1)");
        },
    },
    Talk {
        name: "output_review/03_edit_output",
        build: |_| reviewed(OnReject::Cancel),
        input: "bees",
        turns: &[("output_review Write", || Answer::Edit { output: json!("wasps") })],
        status: RunStatus::Completed,
        told: "Write() Write?? | Publish() COMPLETED",
        check: |ran| assert_eq!((ran.run.text().as_str(), ran.said("Write").as_str()), ("published: wasps", "wasps")),
    },
    Talk {
        name: "output_review/04_conditional_output_review, long",
        build: |_| long_is_reviewed(),
        input: "a very long story about bees",
        turns: &[("output_review Look at it", || Answer::Edit { output: json!("a story") })],
        status: RunStatus::Completed,
        told: "Write() Long?[Look at it() Look at it?? |] Publish() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "published: a story"),
    },
    Talk {
        name: "output_review/04_conditional_output_review, short",
        build: |_| long_is_reviewed(),
        input: "bees",
        turns: &[],
        status: RunStatus::Completed,
        told: "Write() Long?[] Publish() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "published: bees"),
    },
    Talk {
        name: "output_review/05_full_review_cycle",
        build: |kitchen| {
            let draft = Step::new("Draft").agent(kitchen.agent("Writer", "Write it."));
            let review = HumanReview::output("Is it good?").on_reject(OnReject::Retry).max_retries(3);
            let publish = function("Publish", |input| format!("published: {}", input.text()));
            let publish = publish.human_review(HumanReview::confirmation("Publish it?").on_reject(OnReject::Cancel));
            Workflow::builder("Review Cycle").step(draft.human_review(review)).step(publish)
        },
        input: "REPLY=first",
        turns: &[
            ("output_review Draft", || Answer::reject("again")),
            ("output_review Draft", || Answer::Edit { output: json!("third") }),
            ("confirmation Publish", yes),
        ],
        status: RunStatus::Completed,
        told: "Draft() Draft?? | Draft>) Draft?? | Publish? | Publish> Publish() COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "published: third");
            assert_eq!(ran.asked.len(), 2, "it was written twice");
            let told = ran.asked[1].to_string();
            assert!(told.contains("Your previous output:\\nfirst\\n\\nFeedback of the reviewer:\\nagain"), "{told}");
        },
    },
    Talk {
        name: "router/01_router_user_selection",
        build: |_| routed(HumanReview::selection("Which way?")),
        input: "data",
        turns: &[("route_selection Analysis", || Answer::choose(["Deep"]))],
        status: RunStatus::Completed,
        told: "Load() Analysis? | Analysis[Deep()] Report() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "report: data, deep"),
    },
    Talk {
        name: "router/01_router_user_selection, none",
        build: |_| routed(HumanReview::selection("Which way?").on_reject(OnReject::Skip)),
        input: "data",
        turns: &[("route_selection Analysis", no)],
        status: RunStatus::Completed,
        told: "Load() Analysis? | Report() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "report: data"),
    },
    Talk {
        name: "router/02_router_multi_selection",
        build: |_| routed(HumanReview::selection("Which ways?").several()),
        input: "data",
        turns: &[("route_selection Analysis", || Answer::choose(["Custom", "Quick"]))],
        status: RunStatus::Completed,
        told: "Load() Analysis? | Analysis[Custom() Quick()] Report() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "report: data, custom, quick"),
    },
    Talk {
        name: "router/03_router_nested_choices",
        build: |_| {
            let group = |name: &str, steps: [&str; 2]| {
                steps.into_iter().fold(Steps::new(name), |group, step| group.step(adds(step)))
            };
            let inner = Router::new("Kind").choice(adds("text")).choice(adds("table"));
            let report = Steps::new("Report")
                .step(inner.human_review(HumanReview::selection("Which kind?")))
                .step(adds("checked"));
            let router = Router::new("What").choice(group("Clean", ["trimmed", "sorted"])).choice(report);
            Workflow::builder("Nested Choices").step(router.human_review(HumanReview::selection("What?").several()))
        },
        input: "data",
        turns: &[
            ("route_selection What", || Answer::choose(["Clean", "Report"])),
            ("route_selection Kind", || Answer::choose(["table"])),
        ],
        status: RunStatus::Completed,
        told: "What? | What[Clean[trimmed() sorted()] Report[Kind? | Kind[table()] checked()]] COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "data, trimmed, sorted, table, checked"),
    },
    Talk {
        name: "router/04_router_confirmation",
        build: |_| {
            let review = HumanReview::confirmation("Route it?").on_reject(OnReject::Skip);
            let router = Router::new("Route").select(|question| match mentions(&question.text(), &["urgent"]) {
                true => "fast",
                false => "slow",
            });
            let router = router.choice(adds("fast")).choice(adds("slow")).human_review(review);
            Workflow::builder("Confirmed Route").step(router).step(adds("done"))
        },
        input: "urgent",
        turns: &[("confirmation Route", yes)],
        status: RunStatus::Completed,
        told: "Route? | Route> Route[fast()] done() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "urgent, fast, done"),
    },
    Talk {
        name: "router/07_router_output_review",
        build: |_| {
            let judged =
                |name: &str| adds(name).human_review(HumanReview::output("Is it good?").on_reject(OnReject::Retry));
            let router = Router::new("Route").select(|_| "deep").choice(judged("deep")).choice(judged("quick"));
            Workflow::builder("Judged Route").step(router).step(adds("done"))
        },
        input: "data",
        turns: &[("output_review deep", no), ("output_review deep", yes)],
        status: RunStatus::Completed,
        told: "Route[deep() deep?? | deep>) deep?? |] done() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "data, deep, done"),
    },
    Talk {
        name: "steps/01_steps_pipeline_confirmation, yes",
        build: |_| pipeline(),
        input: "data",
        turns: &[("confirmation Advanced", yes)],
        status: RunStatus::Completed,
        told: "loaded() Advanced? | Advanced> Advanced[checked() scored()] saved() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "data, loaded, checked, scored, saved"),
    },
    Talk {
        name: "steps/01_steps_pipeline_confirmation, no",
        build: |_| pipeline(),
        input: "data",
        turns: &[("confirmation Advanced", no)],
        status: RunStatus::Completed,
        told: "loaded() Advanced? | saved() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "data, loaded, saved"),
    },
    Talk {
        name: "timeout/01_hitl_timeout, cancelled",
        build: |_| timed(OnTimeout::Cancel),
        input: "data",
        turns: &[("confirmation risky", silence)],
        status: RunStatus::Cancelled,
        told: "risky? | CANCELLED COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "Workflow cancelled: Step 'risky' was not answered in time"),
    },
    Talk {
        name: "timeout/02_confirmation_timeout, left out",
        build: |_| timed(OnTimeout::Skip),
        input: "data",
        turns: &[("confirmation risky", silence)],
        status: RunStatus::Completed,
        told: "risky? | done() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "data, done"),
    },
    Talk {
        name: "timeout/02_confirmation_timeout, as if somebody had said yes",
        build: |_| timed(OnTimeout::Approve),
        input: "data",
        turns: &[("confirmation risky", silence)],
        status: RunStatus::Completed,
        told: "risky? | risky> risky() done() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "data, risky, done"),
    },
    Talk {
        name: "user_input/01_basic_user_input",
        build: |_| filled_in(),
        input: "the sales",
        turns: &[("user_input Analyse", || {
            Answer::input([("threshold", json!(0.5)), ("mode", json!("fast")), ("limit", json!(10))])
        })],
        status: RunStatus::Completed,
        told: "Load() Analyse? | Analyse> Analyse() COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), r#"the sales, loaded: {"limit":10,"mode":"fast","threshold":0.5}"#);
        },
    },
    Talk {
        name: "user_input/02_step_user_input",
        build: |_| filled_in(),
        input: "the sales",
        turns: &[("user_input Analyse", || Answer::input([("threshold", json!(1)), ("mode", json!("exact"))]))],
        status: RunStatus::Completed,
        told: "Load() Analyse? | Analyse> Analyse() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), r#"the sales, loaded: {"mode":"exact","threshold":1}"#),
    },
    Talk {
        name: "user_input/03_step_user_input_streaming, in the middle of a function",
        build: |_| {
            let order = Step::blocking("Order", |context, input| {
                let fields = [UserInputField::new("size").of(FieldType::Int), UserInputField::new("colour").optional()];
                match context.block_on(context.ask("details", HumanReview::user_input("Which one?", fields)))? {
                    Answer::Input { values } => Ok(format!("{}: {}", input.text(), Value::Object(values))),
                    _ => Err(Failure::fatal("nobody said which")),
                }
            });
            Workflow::builder("Order").step(order).step(adds("packed"))
        },
        input: "a shirt",
        turns: &[("user_input Order", || Answer::input([("size", json!(38))]))],
        status: RunStatus::Completed,
        told: "Order(Order? | Order>) packed() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), r#"a shirt: {"size":38}, packed"#),
    },
];

/// A step that adds its name to what it is given.
fn adds(name: &str) -> Step {
    let added = name.to_owned();
    function(name, move |input| format!("{}, {added}", input.text()))
}

fn analysis(on_reject: OnReject) -> WorkflowBuilder {
    let review = HumanReview::confirmation("Analyse it in detail?").on_reject(on_reject);
    let depth = Condition::new("Depth")
        .step(function("Detailed", |input| format!("details of {}", input.text())))
        .otherwise(function("Summary", |input| format!("a summary of {}", input.text())))
        .human_review(review);
    Workflow::builder("Analysis")
        .step(function("Collect", |input| format!("{}, collected", input.text())))
        .step(depth)
        .step(function("Report", |input| format!("report of: {}", input.text())))
}

/// A Condition whose step fails at first: a person says what follows for all of it.
fn careful_condition() -> WorkflowBuilder {
    let look_up = Step::function("Look up", |context: StepContext, input| async move {
        // Its container's second attempt finds the service up again.
        match context.step.key.as_str().contains('~') {
            true => Ok(format!("{}, enriched", input.text())),
            false => Err(Failure::fatal("the service is down")),
        }
    });
    let enrich = Condition::new("Enrich")
        .when(|question| mentions(&question.input_text(), &["urgent"]))
        .step(look_up)
        .on_error(OnError::Pause);
    Workflow::builder("Careful Condition")
        .step(enrich)
        .step(function("Save", |input| format!("saved: {}", input.text())))
}

fn confirmed(on_reject: OnReject) -> WorkflowBuilder {
    let review = HumanReview::confirmation("About to process sensitive data. Go on?").on_reject(on_reject);
    Workflow::builder("Confirmed Processing")
        .step(function("Fetch Data", |input| format!("fetched: {}", input.text())))
        .step(function("Process Data", |input| format!("processed: {}", input.text())).human_review(review))
        .step(function("Save Results", |input| format!("saved: {}", input.text())))
}

fn claims() -> WorkflowBuilder {
    let inspect = Condition::new("Inspect?")
        .step(function("Inspect", |input| format!("inspected: {}", input.text())))
        .human_review(HumanReview::confirmation("Have it inspected?"));
    let pay = function("Pay", |input| format!("paid: {}", input.text()));
    let large = Steps::new("Large Claim").step(inspect).step(pay.human_review(HumanReview::confirmation("Pay?")));
    let at_once = function("Pay at once", |input| format!("paid: {}", input.text()));
    let triage = Router::new("Triage").choice(Steps::new("Small Claim").step(at_once)).choice(large);
    Workflow::builder("Claims")
        .step(function("Register", |input| input.text()))
        .step(triage.human_review(HumanReview::selection("What is it?")))
        .step(function("Close", |input| format!("closed: {}", input.text())))
}

/// Its first step fails so often.
fn flaky(times: u32) -> WorkflowBuilder {
    let fetch = Step::function("Fetch", move |context: StepContext, _| async move {
        match context.step.attempt {
            attempt if attempt <= times => Err(Failure::function(format!("no connection at {attempt}"))),
            attempt => Ok(format!("fetched at {attempt}")),
        }
    });
    Workflow::builder("Flaky")
        .step(fetch.on_error(OnError::Pause))
        .step(function("Process", |input| format!("processed: {}", input.text())))
}

fn repeated(review: HumanReview) -> WorkflowBuilder {
    let refine = Loop::new("Refine")
        .step(function("Improve", |input| format!("{}+", input.text())))
        .max_iterations(2)
        .forward_iteration_output(true)
        .human_review(review);
    Workflow::builder("Refinement")
        .step(function("Prepare", |input| input.text()))
        .step(refine)
        .step(function("Finish", |input| format!("{}, done", input.text())))
}

/// A step that writes again with what was said about the last time.
fn reviewed(on_reject: OnReject) -> WorkflowBuilder {
    let write = Step::function("Write", |context: StepContext, input| async move {
        let text = format!("{}, attempt {}", input.input_text(), context.step.attempt);
        Ok::<_, Failure>(match &input.additional_data {
            Some(said) => {
                let said = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
                format!("{text}: {} (before: {})", said("rejection_feedback"), said("previous_output"))
            }
            None => text,
        })
    });
    Workflow::builder("Reviewed Text")
        .step(write.human_review(HumanReview::output("Is it good?").on_reject(on_reject)))
        .step(function("Publish", |input| format!("published: {}", input.text())))
}

fn long_is_reviewed() -> WorkflowBuilder {
    let look = function("Look at it", StepInput::text).human_review(HumanReview::output("It is long. Is it good?"));
    Workflow::builder("Long Is Reviewed")
        .step(function("Write", |input| input.text()))
        .step(Condition::new("Long?").when(|question| question.text().len() > 20).step(look))
        .step(function("Publish", |input| format!("published: {}", input.text())))
}

fn routed(review: HumanReview) -> WorkflowBuilder {
    let choice = |name: &str, word: &'static str| function(name, move |input| format!("{}, {word}", input.text()));
    let router = Router::new("Analysis")
        .choice(choice("Quick", "quick"))
        .choice(choice("Deep", "deep"))
        .choice(choice("Custom", "custom"));
    Workflow::builder("Chosen Analysis")
        .step(function("Load", |input| input.text()))
        .step(router.human_review(review))
        .step(function("Report", |input| format!("report: {}", input.text())))
}

fn pipeline() -> WorkflowBuilder {
    let advanced = Steps::new("Advanced").step(adds("checked")).step(adds("scored"));
    Workflow::builder("Pipeline")
        .step(adds("loaded"))
        .step(advanced.human_review(HumanReview::confirmation("Run the advanced part?")))
        .step(adds("saved"))
}

fn timed(on_timeout: OnTimeout) -> WorkflowBuilder {
    let review = HumanReview::confirmation("Go on?").timeout(SOON).on_timeout(on_timeout);
    Workflow::builder("Timed").step(adds("risky").human_review(review)).step(adds("done"))
}

fn filled_in() -> WorkflowBuilder {
    let fields = [
        UserInputField::new("threshold").of(FieldType::Float).description("from 0 to 1"),
        UserInputField::new("mode").allowed(["fast".into(), "exact".into()]),
        UserInputField::new("limit").of(FieldType::Int).optional(),
    ];
    let analyse = function("Analyse", |input| {
        let said = input.additional_data.as_ref().map(|data| data["user_input"].to_string());
        format!("{}: {}", input.text(), said.unwrap_or_default())
    });
    Workflow::builder("Filled In")
        .step(function("Load", |input| format!("{}, loaded", input.text())))
        .step(analyse.human_review(HumanReview::user_input("With which settings?", fields)))
}

talked_through!(TALKS);
