//! `04_parallel_execution`: Parallels.

use super::{Ask, Kitchen, Recipe, mentions, walked};
use outlive::WorkflowBuilder;
use outlive::prelude::*;

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "parallel_basic",
        build: parallel_basic,
        asks: &[Ask {
            run: |workflow| workflow.run("Write about what is new"),
            told: "Research Phase{Research HackerNews:agent Research Web:agent} Write Article:agent \
                   Review Article:agent",
            check: |ran| {
                let inside: Vec<_> = ran.step("Research Phase").inside().map(|(name, _)| name).collect();
                let branches = ["Research HackerNews", "Research Web"];
                assert_eq!(inside, branches);
                let [hackernews, web] = branches.map(|name| ran.said(name));
                let written = &ran.asked[4]["input"][1]["content"];
                let both = format!("=== Research HackerNews ===\n{hackernews}\n\n=== Research Web ===\n{web}");
                assert_eq!(*written, both);
                assert_eq!(ran.run.text(), "reviewed");
            },
        }],
    },
    Recipe {
        name: "parallel_with_condition",
        build: parallel_with_condition,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Latest news about machine learning"),
                told: "ResearchCondition?if(ComprehensiveResearch{ResearchHackerNews:agent ResearchWeb:agent} \
                       ResearchExa:agent) TechResearchCondition?if(TechAnalysis:agent) PrepareInput:agent \
                       WriteContent:agent",
                check: |ran| assert_eq!(ran.run.text(), "content"),
            },
            Ask {
                run: |workflow| workflow.run("Latest news about roses"),
                told: "ResearchCondition?if(ComprehensiveResearch{ResearchHackerNews:agent ResearchWeb:agent} \
                       ResearchExa:agent) TechResearchCondition?none PrepareInput:agent WriteContent:agent",
                // What was found before a Condition that does not hold is there after it.
                check: |ran| assert!(ran.asked[ran.asked.len() - 2].to_string().contains("papers")),
            },
        ],
    },
];

fn parallel_basic(kitchen: &Kitchen) -> WorkflowBuilder {
    let tools = [kitchen.search("stories"), kitchen.search("web")];
    let researcher = kitchen.agent("Researcher", "Research it.").tools(tools);
    let research = Parallel::new("Research Phase")
        .step(Step::new("Research HackerNews").agent(researcher.clone()))
        .step(Step::new("Research Web").agent(researcher));
    Workflow::builder("Content Creation Pipeline")
        .step(research)
        .step(kitchen.says("Write Article", "written"))
        .step(kitchen.says("Review Article", "reviewed"))
}

fn parallel_with_condition(kitchen: &Kitchen) -> WorkflowBuilder {
    let is_about = |name: &str, words: &'static [&'static str]| {
        Condition::new(name).when(move |question| mentions(&question.input_text(), words))
    };
    let hackernews = kitchen.agent("Hacker News Researcher", "Research the news.").tool(kitchen.search("stories"));
    let both = Parallel::new("ComprehensiveResearch")
        .step(Step::new("ResearchHackerNews").agent(hackernews))
        .step(kitchen.says("ResearchWeb", "pages"));
    let research = is_about("ResearchCondition", &["news", "research", "facts"]).step(both);
    let tech = is_about("TechResearchCondition", &["machine learning", "software"]);
    Workflow::builder("Conditional Research Workflow")
        .step(research.step(kitchen.says("ResearchExa", "papers")))
        .step(tech.step(kitchen.says("TechAnalysis", "gradients")))
        .step(kitchen.says("PrepareInput", "prepared"))
        .step(kitchen.says("WriteContent", "content"))
}

walked!(RECIPES);
