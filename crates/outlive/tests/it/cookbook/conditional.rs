//! `02_conditional_execution`: Conditions.

use super::{Ask, Kitchen, Recipe, mentions, walked};
use outlive::WorkflowBuilder;
use outlive::prelude::*;

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "condition_basic",
        build: condition_basic,
        asks: &[Ask {
            run: |workflow| workflow.run("What is new in quantum computing"),
            told: "research:agent summarize:agent fact_check_condition?if(fact_check:agent) write_article:agent",
            check: |ran| {
                assert_eq!(ran.run.text(), "article");
                // What the Condition's last step gave back is what is written about.
                let article = ran.asked.last().unwrap().to_string();
                assert!(article.contains("checked") && !article.contains("percent"), "{article}");
            },
        }],
    },
    Recipe {
        name: "condition_basic, nothing to check",
        build: condition_basic_unchecked,
        asks: &[Ask {
            run: |workflow| workflow.run("What is new in quantum computing"),
            told: "research:agent summarize:agent fact_check_condition?none write_article:agent",
            check: |ran| {
                assert_eq!(ran.run.text(), "article");
                // Unlike Agno's, the sentence that nothing was done is nobody's input.
                assert!(ran.asked.last().unwrap().to_string().contains("opinions"));
                assert_eq!(
                    ran.said("fact_check_condition"),
                    "Condition fact_check_condition not met - skipped 1 steps"
                );
            },
        }],
    },
    Recipe {
        name: "condition_with_else",
        build: condition_with_else,
        asks: &[
            Ask {
                run: |workflow| workflow.run("It crashes with a timeout after the update"),
                told: "TechnicalTriage?if(Diagnose:agent Engineer:agent) FollowUp:agent",
                check: |ran| assert!(ran.asked[2].to_string().contains("restart")),
            },
            Ask {
                run: |workflow| workflow.run("How do I change my address"),
                told: "TechnicalTriage?else(GeneralSupport:agent) FollowUp:agent",
                check: |ran| assert!(ran.asked[1].to_string().contains("form")),
            },
        ],
    },
    Recipe {
        name: "condition_with_list",
        build: condition_with_list,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Comprehensive analysis of what AI startups do"),
                told: "ConditionalResearch{HackerNewsCondition?if(ResearchHackerNews:agent) \
                       ComprehensiveResearchCondition?if(DeepExaAnalysis:agent TrendAnalysis:agent \
                       FactVerification:agent)} WriteContent:agent",
                check: |ran| {
                    // An agent is given what each branch gave back.
                    let written = ran.asked.last().unwrap()["input"][1]["content"].as_str().unwrap();
                    assert!(written.starts_with("=== HackerNewsCondition ===\nAnswer "), "{written}");
                    assert!(written.ends_with("=== ComprehensiveResearchCondition ===\nverified"), "{written}");
                    assert_eq!(ran.run.text(), "content");
                },
            },
            Ask {
                run: |workflow| workflow.run("Comprehensive study of roses"),
                told: "ConditionalResearch{HackerNewsCondition?none \
                       ComprehensiveResearchCondition?if(DeepExaAnalysis:agent TrendAnalysis:agent \
                       FactVerification:agent)} WriteContent:agent",
                check: |ran| {
                    let written = &ran.asked.last().unwrap()["input"][1]["content"];
                    assert_eq!(written, "=== ComprehensiveResearchCondition ===\nverified");
                },
            },
        ],
    },
    Recipe {
        name: "condition_with_parallel",
        build: condition_with_parallel,
        asks: &[Ask {
            run: |workflow| workflow.run("News about machine learning"),
            told: "ConditionalResearch{HackerNewsCondition?if(ResearchHackerNews:agent) \
                   WebSearchCondition?if(ResearchWeb:agent) ExaSearchCondition?none} PrepareInput:agent \
                   WriteContent:agent",
            check: |ran| assert_eq!(ran.run.text(), "content"),
        }],
    },
];

fn condition_basic(kitchen: &Kitchen) -> WorkflowBuilder {
    fact_checked(kitchen, "40-percent")
}

fn condition_basic_unchecked(kitchen: &Kitchen) -> WorkflowBuilder {
    fact_checked(kitchen, "opinions")
}

fn fact_checked(kitchen: &Kitchen, summary: &str) -> WorkflowBuilder {
    let researcher = kitchen.agent("Researcher", "Research the topic.").tool(kitchen.search("web"));
    let checker = kitchen.agent("Fact Checker", "Check the facts. REPLY=checked").tool(kitchen.search("web"));
    let gate = Condition::new("fact_check_condition")
        .description("Whether there is anything to check")
        .when(|question| mentions(&question.text(), &["study", "percent", "million", "according to"]))
        .step(Step::new("fact_check").description("Verify it").agent(checker));
    Workflow::builder("Basic Linear Workflow")
        .step(Step::new("research").description("Research the topic").agent(researcher))
        .step(kitchen.says("summarize", summary))
        .step(gate)
        .step(kitchen.says("write_article", "article"))
}

fn condition_with_else(kitchen: &Kitchen) -> WorkflowBuilder {
    let triage = Condition::new("TechnicalTriage")
        .when(|question| mentions(&question.input_text(), &["error", "crash", "timeout", "broken"]))
        .step(kitchen.says("Diagnose", "memory"))
        .step(kitchen.says("Engineer", "restart"))
        .otherwise(kitchen.says("GeneralSupport", "form"));
    Workflow::builder("Customer Support").step(triage).step(kitchen.says("FollowUp", "bye"))
}

fn is_about(name: &str, words: &'static [&'static str]) -> Condition {
    Condition::new(name).when(move |question| mentions(&question.input_text(), words))
}

fn hackernews(kitchen: &Kitchen) -> Step {
    let agent = kitchen.agent("Hacker News Researcher", "Research the news.").tool(kitchen.search("stories"));
    Step::new("ResearchHackerNews").agent(agent)
}

fn condition_with_list(kitchen: &Kitchen) -> WorkflowBuilder {
    let comprehensive = is_about("ComprehensiveResearchCondition", &["comprehensive", "thorough", "full report"])
        .step(kitchen.says("DeepExaAnalysis", "deep"))
        .step(kitchen.says("TrendAnalysis", "up"))
        .step(kitchen.says("FactVerification", "verified"));
    let research = Parallel::new("ConditionalResearch")
        .description("What is worth asking, at the same time")
        .step(is_about("HackerNewsCondition", &["ai ", "software", "startup"]).step(hackernews(kitchen)))
        .step(comprehensive);
    Workflow::builder("Conditional Workflow").step(research).step(kitchen.says("WriteContent", "content"))
}

fn condition_with_parallel(kitchen: &Kitchen) -> WorkflowBuilder {
    let research = Parallel::new("ConditionalResearch")
        .step(is_about("HackerNewsCondition", &["machine learning", "software"]).step(hackernews(kitchen)))
        .step(is_about("WebSearchCondition", &["news", "facts"]).step(kitchen.says("ResearchWeb", "pages")))
        .step(is_about("ExaSearchCondition", &["academic", "deep"]).step(kitchen.says("ResearchExa", "papers")));
    Workflow::builder("Conditional Workflow")
        .step(research)
        .step(kitchen.says("PrepareInput", "prepared"))
        .step(kitchen.says("WriteContent", "content"))
}

walked!(RECIPES);
