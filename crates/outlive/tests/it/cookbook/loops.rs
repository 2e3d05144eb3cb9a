//! `03_loop_execution`: Loops.

use super::{Ask, Kitchen, Recipe, function, walked};
use outlive::WorkflowBuilder;
use outlive::prelude::*;

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "loop_basic",
        build: loop_basic,
        asks: &[Ask {
            run: |workflow| workflow.run("What is new in machine learning, in short"),
            told: "Research Loop[Research HackerNews:agent Research Web:agent | Research HackerNews:agent \
                   Research Web:agent] Create Content:agent",
            check: |ran| {
                // Each iteration begins with what the Loop was given.
                let begun: Vec<_> = [0, 4].map(|first| ran.asked[first]["input"].to_string()).into();
                assert_eq!(begun[0], begun[1]);
                assert_eq!(ran.step("Research Loop").steps.len(), 4);
                assert_eq!(ran.run.text(), "content");
            },
        }],
    },
    Recipe {
        name: "loop_iterative_accumulation",
        build: loop_iterative_accumulation,
        asks: &[
            Ask {
                run: |workflow| workflow.run("35"),
                told: "Initial Value Increment Loop[Increment Step | Increment Step]",
                check: |ran| assert_eq!(ran.run.text(), "55"),
            },
            Ask {
                run: |workflow| workflow.run("-1000"),
                told: "Initial Value Increment Loop[Increment Step | Increment Step | Increment Step | \
                       Increment Step]",
                check: |ran| assert_eq!(ran.run.text(), "-960"),
            },
        ],
    },
    Recipe {
        name: "loop_with_parallel",
        build: loop_with_parallel,
        asks: &[Ask {
            run: |workflow| workflow.run("What is new in machine learning, in short"),
            told: "Research Loop[Parallel Research{Research HackerNews:agent Research Web:agent Trend Analysis:agent} \
                   Sentiment Analysis:agent | Parallel Research{Research HackerNews:agent Research Web:agent \
                   Trend Analysis:agent} Sentiment Analysis:agent] Create Content:agent",
            check: |ran| {
                assert_eq!(ran.step("Parallel Research").inside().count(), 3);
                assert_eq!(ran.run.text(), "content");
            },
        }],
    },
];

fn researcher(kitchen: &Kitchen) -> Agent {
    let agent = kitchen.agent("Research Agent", "Research it thoroughly.").role("Research specialist").markdown(true);
    agent.tools([kitchen.search("stories"), kitchen.search("web")])
}

fn loop_basic(kitchen: &Kitchen) -> WorkflowBuilder {
    let agent = researcher(kitchen);
    let research = Loop::new("Research Loop")
        .step(Step::new("Research HackerNews").description("What is discussed").agent(agent.clone()))
        .step(Step::new("Research Web").agent(agent))
        .until(|question| question.iteration == 2 && question.outputs.iter().any(|output| output.text().len() > 100))
        .max_iterations(3);
    Workflow::builder("Research and Content Workflow").step(research).step(kitchen.says("Create Content", "content"))
}

fn loop_iterative_accumulation(_: &Kitchen) -> WorkflowBuilder {
    let number = |text: &str| text.parse::<i64>().unwrap_or_default();
    let increment = Loop::new("Increment Loop")
        .step(function("Increment Step", move |input| (number(&input.text()) + 10).to_string()))
        .until(move |question| number(&question.last_text()) >= 50)
        .max_iterations(4)
        .forward_iteration_output(true);
    Workflow::builder("Iterative Accumulation").step(function("Initial Value", StepInput::input_text)).step(increment)
}

fn loop_with_parallel(kitchen: &Kitchen) -> WorkflowBuilder {
    let agent = researcher(kitchen);
    let research = Parallel::new("Parallel Research")
        .step(Step::new("Research HackerNews").agent(agent.clone()))
        .step(Step::new("Research Web").agent(agent))
        .step(kitchen.says("Trend Analysis", "up"));
    let repeated = Loop::new("Research Loop")
        .step(research)
        .step(kitchen.says("Sentiment Analysis", "good"))
        .until(|question| {
            let found = question.outputs.iter().map(|output| output.text().len()).sum::<usize>();
            question.iteration == 2 && found > 300
        })
        .max_iterations(3);
    Workflow::builder("Advanced Research").step(repeated).step(kitchen.says("Create Content", "content"))
}

walked!(RECIPES);
