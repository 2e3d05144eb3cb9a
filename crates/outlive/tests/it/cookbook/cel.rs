//! `07_cel_expressions`: Conditions, Loops and Routers that an expression decides for.

use super::{Ask, Kitchen, Recipe, map, mentions, walked};
use outlive::WorkflowBuilder;
use outlive::prelude::*;
use serde_json::json;

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "condition/cel_additional_data",
        build: |kitchen| {
            Workflow::builder("CEL Priority Routing").step(
                Condition::new("Priority Gate")
                    .when_cel("additional_data.priority > 5")
                    .step(kitchen.says("High Priority", "now"))
                    .otherwise(kitchen.says("Low Priority", "later")),
            )
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("A security report").additional_data(json!({ "priority": 8 })),
                told: "Priority Gate?if(High Priority:agent)",
                check: |ran| assert_eq!(ran.run.text(), "now"),
            },
            Ask {
                run: |workflow| workflow.run("A typo").additional_data(json!({ "priority": 2 })),
                told: "Priority Gate?else(Low Priority:agent)",
                check: |ran| assert_eq!(ran.run.text(), "later"),
            },
        ],
    },
    Recipe {
        name: "condition/cel_basic",
        build: |kitchen| {
            Workflow::builder("CEL Input Routing").step(
                Condition::new("Urgent Check")
                    .when_cel(r#"input.contains("urgent")"#)
                    .step(kitchen.says("Handle Urgent", "now"))
                    .otherwise(kitchen.says("Handle Normal", "later")),
            )
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("It is urgent, please"),
                told: "Urgent Check?if(Handle Urgent:agent)",
                check: |ran| assert_eq!(ran.run.text(), "now"),
            },
            Ask {
                run: |workflow| workflow.run("One question"),
                told: "Urgent Check?else(Handle Normal:agent)",
                check: |ran| assert_eq!(ran.run.text(), "later"),
            },
        ],
    },
    Recipe {
        name: "condition/cel_previous_step",
        build: |kitchen| {
            Workflow::builder("CEL Classify and Route").step(classify(kitchen)).step(
                Condition::new("Route by Classification")
                    .when_cel(r#"previous_step_content.contains("TECHNICAL")"#)
                    .step(kitchen.says("Technical Help", "reboot"))
                    .otherwise(kitchen.says("General Help", "nine-to-five")),
            )
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("My API answers 503"),
                told: "Classify Route by Classification?if(Technical Help:agent)",
                check: |ran| assert_eq!(ran.run.text(), "reboot"),
            },
            Ask {
                run: |workflow| workflow.run("When are you open?"),
                told: "Classify Route by Classification?else(General Help:agent)",
                check: |ran| assert_eq!(ran.run.text(), "nine-to-five"),
            },
        ],
    },
    Recipe {
        name: "condition/cel_previous_step_outputs, a risk",
        build: |kitchen| safety_checked(kitchen, "SAFETY_REVIEW_NEEDED"),
        asks: &[Ask {
            run: |workflow| workflow.run("Acids at home"),
            told: "Research:agent Safety Check?if(Safety Review:agent) Publish:agent",
            check: |ran| assert_eq!(ran.run.text(), "published"),
        }],
    },
    Recipe {
        name: "condition/cel_previous_step_outputs, none",
        build: |kitchen| safety_checked(kitchen, "roses"),
        asks: &[Ask {
            run: |workflow| workflow.run("Gardening"),
            told: "Research:agent Safety Check?none Publish:agent",
            check: |ran| assert!(ran.asked[1].to_string().contains("roses")),
        }],
    },
    Recipe {
        name: "condition/cel_session_state",
        build: retry_logic,
        asks: &[
            Ask {
                run: |workflow| workflow.run("once"),
                told: TRIES,
                check: |ran| assert_eq!(ran.state["retry_count"], 1),
            },
            Ask {
                run: |workflow| workflow.run("twice"),
                told: TRIES,
                check: |ran| assert_eq!(ran.state["retry_count"], 2),
            },
            Ask {
                run: |workflow| workflow.run("a third time"),
                told: "Increment Retry Retry Check?else(Max Retries Reached:agent Reset Counter)",
                check: |ran| assert_eq!(ran.state["retry_count"], 0),
            },
            Ask {
                run: |workflow| workflow.run("anew"),
                told: TRIES,
                check: |ran| assert_eq!(ran.state["retry_count"], 1),
            },
        ],
    },
    Recipe {
        name: "loop/cel_compound_exit",
        build: |kitchen| reviewed(kitchen, "all_success && current_iteration >= 2", "fine"),
        asks: &[Ask {
            run: |workflow| workflow.run("AI in hospitals"),
            told: "Research Loop[Research:agent Review:agent | Research:agent Review:agent]",
            check: |ran| assert_eq!(ran.step("Research Loop").steps.len(), 4),
        }],
    },
    Recipe {
        name: "loop/cel_content_keyword",
        build: |kitchen| {
            let editing =
                Loop::new("Editing Loop").until_cel(r#"last_step_content.contains("DONE")"#).max_iterations(5);
            Workflow::builder("CEL Content Keyword Loop").step(editing.step(kitchen.says("Edit", "better-DONE")))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("A draft"),
            told: "Editing Loop[Edit:agent]",
            check: |ran| assert_eq!(ran.run.text(), "better-DONE"),
        }],
    },
    Recipe {
        name: "loop/cel_iteration_limit",
        build: |kitchen| {
            let writing = Loop::new("Writing Loop").until_cel("current_iteration >= 2").max_iterations(10);
            Workflow::builder("CEL Iteration Limit Loop").step(writing.step(kitchen.says("Write", "more")))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("The history of the internet"),
            told: "Writing Loop[Write:agent | Write:agent]",
            check: |ran| assert_eq!(ran.run.text(), "more"),
        }],
    },
    Recipe {
        name: "loop/cel_step_outputs_check",
        build: |kitchen| reviewed(kitchen, r#"step_outputs.Review.contains("APPROVED")"#, "APPROVED"),
        asks: &[Ask {
            run: |workflow| workflow.run("Wind and sun"),
            told: "Research Loop[Research:agent Review:agent]",
            check: |ran| assert_eq!(ran.run.text(), "APPROVED"),
        }],
    },
    Recipe {
        name: "loop/cel_step_outputs_check, never",
        build: |kitchen| reviewed(kitchen, r#"step_outputs.Review.contains("APPROVED")"#, "no"),
        asks: &[Ask {
            run: |workflow| workflow.run("Wind and sun"),
            told: "Research Loop[Research:agent Review:agent | Research:agent Review:agent | Research:agent Review:agent]",
            check: |ran| assert_eq!(ran.run.text(), "no"),
        }],
    },
    Recipe {
        name: "router/cel_additional_data_route",
        build: |kitchen| {
            Workflow::builder("CEL Additional Data Router").step(
                Router::new("Content Format Router")
                    .select_cel("additional_data.route")
                    .choice(kitchen.says("Email Writer", "Dear"))
                    .choice(kitchen.says("Blog Writer", "Once"))
                    .choice(kitchen.says("Tweet Writer", "So")),
            )
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("We have launched").additional_data(json!({ "route": "Email Writer" })),
                told: "Content Format Router>(Email Writer:agent)",
                check: |ran| assert_eq!(ran.run.text(), "Dear"),
            },
            Ask {
                run: |workflow| workflow.run("We have launched").additional_data(json!({ "route": "Tweet Writer" })),
                told: "Content Format Router>(Tweet Writer:agent)",
                check: |ran| assert_eq!(ran.run.text(), "So"),
            },
        ],
    },
    Recipe {
        name: "router/cel_previous_step_route",
        build: |kitchen| {
            let select = r#"previous_step_outputs.Classify.contains("BILLING") ? "Billing Support"
                : previous_step_outputs.Classify.contains("TECHNICAL") ? "Technical Support" : "General Support""#;
            Workflow::builder("CEL Previous Step Outputs Router").step(classify(kitchen)).step(
                Router::new("Support Router")
                    .select_cel(select)
                    .choice(kitchen.says("Billing Support", "refund"))
                    .choice(kitchen.says("Technical Support", "reboot"))
                    .choice(kitchen.says("General Support", "nine-to-five")),
            )
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("I was charged twice on an invoice"),
                told: "Classify Support Router>(Billing Support:agent)",
                check: |ran| assert_eq!(ran.run.text(), "refund"),
            },
            Ask {
                run: |workflow| workflow.run("My API answers 503"),
                told: "Classify Support Router>(Technical Support:agent)",
                check: |ran| assert_eq!(ran.run.text(), "reboot"),
            },
        ],
    },
    Recipe {
        name: "router/cel_session_state_route",
        build: |kitchen| {
            Workflow::builder("CEL Session State Router")
                .session_state(map([("preferred_handler", json!("Brief Analyst"))]))
                .step(
                    Router::new("Analysis Style Router")
                        .select_cel("session_state.preferred_handler")
                        .choice(kitchen.says("Detailed Analyst", "much"))
                        .choice(kitchen.says("Brief Analyst", "little")),
                )
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("Cloud computing"),
                told: "Analysis Style Router>(Brief Analyst:agent)",
                check: |ran| assert_eq!(ran.run.text(), "little"),
            },
            // A preference is changed with a run, and stays.
            Ask {
                run: |workflow| {
                    let prefer = map([("preferred_handler", json!("Detailed Analyst"))]);
                    workflow.run("Cloud computing").session_state(prefer)
                },
                told: "Analysis Style Router>(Detailed Analyst:agent)",
                check: |ran| assert_eq!(ran.state["preferred_handler"], "Detailed Analyst"),
            },
            Ask {
                run: |workflow| workflow.run("Cloud computing"),
                told: "Analysis Style Router>(Detailed Analyst:agent)",
                check: |ran| assert_eq!(ran.run.text(), "much"),
            },
        ],
    },
    Recipe {
        name: "router/cel_ternary",
        build: |kitchen| {
            Workflow::builder("CEL Ternary Router").step(
                Router::new("Media Router")
                    .select_cel(r#"input.contains("video") ? "Video Handler" : "Image Handler""#)
                    .choice(kitchen.says("Video Handler", "cut"))
                    .choice(kitchen.says("Image Handler", "crop")),
            )
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("How do I edit a video?"),
                told: "Media Router>(Video Handler:agent)",
                check: |ran| assert_eq!(ran.run.text(), "cut"),
            },
            Ask {
                run: |workflow| workflow.run("I need a logo"),
                told: "Media Router>(Image Handler:agent)",
                check: |ran| assert_eq!(ran.run.text(), "crop"),
            },
        ],
    },
    Recipe {
        name: "router/cel_using_step_choices",
        build: |kitchen| {
            let select = r#"input.contains("quick") || input.contains("brief") ? step_choices[0] : step_choices[1]"#;
            Workflow::builder("CEL Step Choices Router").step(
                Router::new("Analysis Router")
                    .select_cel(select)
                    .choice(kitchen.says("Quick Analysis", "little"))
                    .choice(kitchen.says("Detailed Analysis", "much")),
            )
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("A quick look at qubits"),
                told: "Analysis Router>(Quick Analysis:agent)",
                check: |ran| assert_eq!(ran.run.text(), "little"),
            },
            Ask {
                run: |workflow| workflow.run("Qubits, in depth"),
                told: "Analysis Router>(Detailed Analysis:agent)",
                check: |ran| assert_eq!(ran.run.text(), "much"),
            },
        ],
    },
];

const TRIES: &str = "Increment Retry Retry Check?if(Attempt Retry:agent)";

/// Stands for a model that answers with one of three words.
fn classify(_: &Kitchen) -> Step {
    super::function("Classify", |input| match input.input_text() {
        text if mentions(&text, &["invoice", "charged"]) => "BILLING",
        text if mentions(&text, &["api", "error"]) => "TECHNICAL",
        _ => "GENERAL",
    })
}

fn safety_checked(kitchen: &Kitchen, found: &str) -> WorkflowBuilder {
    let check = Condition::new("Safety Check")
        .when_cel(r#"previous_step_outputs.Research.contains("SAFETY_REVIEW_NEEDED")"#)
        .step(kitchen.says("Safety Review", "gloves"));
    Workflow::builder("CEL Previous Step Outputs")
        .step(kitchen.says("Research", found))
        .step(check)
        .step(kitchen.says("Publish", "published"))
}

fn retry_logic(kitchen: &Kitchen) -> WorkflowBuilder {
    let increment = Step::function("Increment Retry", async |context: StepContext, _| {
        let count = context.state.get("retry_count").and_then(|count| count.as_i64()).unwrap_or(0) + 1;
        context.state.set("retry_count", count);
        Ok::<_, Failure>(format!("This is attempt {count}"))
    });
    let reset = Step::function("Reset Counter", async |context: StepContext, _| {
        context.state.set("retry_count", 0);
        Ok::<_, Failure>("The next is the first again")
    });
    let check = Condition::new("Retry Check")
        .when_cel("session_state.retry_count <= 2")
        .step(kitchen.says("Attempt Retry", "tried"))
        .otherwise(kitchen.says("Max Retries Reached", "sorry"))
        .otherwise(reset);
    let state = map([("retry_count", json!(0))]);
    Workflow::builder("CEL Retry Logic").session_state(state).step(increment).step(check)
}

fn reviewed(kitchen: &Kitchen, until: &str, verdict: &str) -> WorkflowBuilder {
    let research = Loop::new("Research Loop")
        .until_cel(until)
        .max_iterations(3)
        .step(kitchen.says("Research", "findings"))
        .step(kitchen.says("Review", verdict));
    Workflow::builder("CEL Reviewed Research").step(research)
}

walked!(RECIPES);
