//! `06_advanced_concepts/history`: what later runs of a session see of earlier ones.

use super::{Ask, Kitchen, Ran, Recipe, mentions, walked};
use outlive::WorkflowBuilder;
use outlive::prelude::*;

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "continuous_execution",
        build: continuous_execution,
        asks: &[
            Ask {
                run: |workflow| workflow.run("What is a fraction?"),
                told: "AI Tutoring:agent",
                check: |ran| assert_eq!(question(ran, 0), "What is a fraction?"),
            },
            Ask {
                run: |workflow| workflow.run("And how do I add two?"),
                told: "AI Tutoring:agent",
                check: |ran| {
                    let expected = "<workflow_history_context>\n[Workflow Run-1]\nUser input: What is a fraction?\n\
                         Workflow output: explained\n\n</workflow_history_context>\n\nAnd how do I add two?";
                    assert_eq!(question(ran, 0), expected);
                    // What was put in front of it is not what was asked.
                    let asked = ran.run.step_executor_runs[0].input.clone().unwrap();
                    assert_eq!(asked.input_content, "And how do I add two?");
                },
            },
        ],
    },
    Recipe {
        name: "history_in_function",
        build: history_in_function,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Gardens"),
                told: "Content Strategy Analysis Content Creation:agent",
                check: |ran| assert_eq!(ran.said("Content Strategy Analysis"), "Write about Gardens; it is new"),
            },
            Ask {
                run: |workflow| workflow.run("Roses"),
                told: "Content Strategy Analysis Content Creation:agent",
                check: |ran| assert_eq!(ran.said("Content Strategy Analysis"), "Write about Roses; it is new"),
            },
            Ask {
                run: |workflow| workflow.run("Gardens"),
                told: "Content Strategy Analysis Content Creation:agent",
                check: |ran| {
                    let said = "Write about Gardens; 1 of 2 earlier texts was about it: written";
                    assert_eq!(ran.said("Content Strategy Analysis"), said);
                    assert_eq!(question(ran, 0), said, "only the function is shown the history");
                },
            },
        ],
    },
    Recipe {
        name: "intent_routing_with_history",
        build: intent_routing_with_history,
        asks: &[
            Ask {
                run: |workflow| workflow.run("My app crashes with an error"),
                told: "Customer Service Router>(Technical Support:agent)",
                check: |ran| assert_eq!(ran.run.text(), "restart"),
            },
            Ask {
                run: |workflow| workflow.run("And I have a question about my invoice"),
                told: "Customer Service Router>(Billing Support:agent)",
                check: |ran| {
                    // Whoever takes over knows what was said to others.
                    assert!(
                        question(ran, 0).contains("User input: My app crashes with an error\nWorkflow output: restart")
                    );
                    assert!(question(ran, 0).ends_with("\n\nAnd I have a question about my invoice"));
                },
            },
        ],
    },
    Recipe {
        name: "step_history",
        build: step_history,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Tea"),
                told: "Research Phase:agent Content Creation:agent Review:agent",
                check: |ran| assert_eq!(ran.run.text(), "reviewed"),
            },
            Ask {
                run: |workflow| workflow.run("Coffee"),
                told: "Research Phase:agent Content Creation:agent Review:agent",
                check: |_| {},
            },
            Ask {
                run: |workflow| workflow.run("Milk"),
                told: "Research Phase:agent Content Creation:agent Review:agent",
                check: |ran| {
                    assert_eq!(question(ran, 0), "Milk");
                    let shown = question(ran, 1);
                    assert!(shown.contains("[Workflow Run-2]\nUser input: Coffee\n"), "{shown}");
                    assert!(!shown.contains("[Workflow Run-3]"), "{shown}");
                    let last = question(ran, 2);
                    assert!(last.contains("[Workflow Run-1]\nUser input: Coffee\n") && !last.contains("Tea"), "{last}");
                },
            },
        ],
    },
];

/// What the model was asked in this call.
fn question(ran: &Ran, call: usize) -> String {
    let messages = ran.asked[call]["input"].as_array().unwrap();
    messages.last().unwrap()["content"].as_str().unwrap().to_owned()
}

fn continuous_execution(kitchen: &Kitchen) -> WorkflowBuilder {
    let tutor = kitchen.agent("AI Tutor", "Teach, and build on what you have taught. REPLY=explained");
    Workflow::builder("Simple AI Tutor").step(Step::new("AI Tutoring").agent(tutor)).add_workflow_history_to_steps(true)
}

fn history_in_function(kitchen: &Kitchen) -> WorkflowBuilder {
    let analyse = Step::function("Content Strategy Analysis", |_, input| async move {
        let topic = input.text();
        let history = input.workflow_history();
        let same: Vec<_> = history.iter().filter(|run| run.input_text() == topic).collect();
        let known = match same.as_slice() {
            [] => "it is new".to_owned(),
            [first, ..] => format!("{} of {} earlier texts was about it: {}", same.len(), history.len(), first.text()),
        };
        Ok::<_, Failure>(format!("Write about {topic}; {known}"))
    });
    let writer = kitchen.agent("Content Creator", "Write. REPLY=written");
    Workflow::builder("Intelligent Content Strategy")
        .step(analyse.add_workflow_history(true).num_history_runs(5))
        .step(Step::new("Content Creation").agent(writer))
}

fn intent_routing_with_history(kitchen: &Kitchen) -> WorkflowBuilder {
    let route = Router::new("Customer Service Router").select(|question| {
        if mentions(&question.input_text(), &["crash", "error"]) { "Technical Support" } else { "Billing Support" }
    });
    Workflow::builder("Smart Customer Service")
        .step(
            route.choice(kitchen.says("Technical Support", "restart")).choice(kitchen.says("Billing Support", "paid")),
        )
        .add_workflow_history_to_steps(true)
}

fn step_history(kitchen: &Kitchen) -> WorkflowBuilder {
    let research = kitchen.says("Research Phase", "found");
    let write = kitchen.says("Content Creation", "written").add_workflow_history(true);
    let review = kitchen.says("Review", "reviewed").add_workflow_history(true).num_history_runs(1);
    Workflow::builder("Content Creation Workflow").step(research).step(write).step(review)
}

walked!(RECIPES);
