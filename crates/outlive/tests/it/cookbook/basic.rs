//! `01_basic_workflows`: steps in sequence, functions, and workflows that are one function.

use super::{Ask, Kitchen, Ran, Recipe, function, mentions, walked};
use outlive::prelude::*;
use outlive::{Media, RunOutput, WorkflowBuilder};
use serde_json::json;
use std::sync::Arc;

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "01_sequence_of_steps/sequence_of_steps",
        build: content_creation,
        asks: &[Ask {
            run: |workflow| workflow.run("AI trends in 2024"),
            told: "Research Step:team Content Planning Step:agent",
            check: |ran| {
                assert_eq!(ran.run.step_executor_runs[0].member_responses.len(), 2);
                assert_eq!(ran.run.text(), "plan");
            },
        }],
    },
    // Functions before a team and an agent that are steps as they are. Agno's program has four ways to write the same
    // functions, `async` and generators among them: one is enough here.
    Recipe {
        name: "01_sequence_of_steps/sequence_of_steps, sequence_with_functions",
        build: blog_post,
        asks: &[Ask {
            run: |workflow| workflow.run("AI trends in 2024"),
            told: "prepare_web_search Research Team:team prepare_writer Writer Agent:agent",
            check: |ran| {
                let found = ran.said("Research Team");
                assert!(ran.said("prepare_writer").contains(&found), "{found}");
                let written = ran.asked.last().unwrap().to_string();
                assert!(written.contains("<topic>AI trends in 2024</topic>"), "{written}");
                assert_eq!(ran.run.text(), "post");
            },
        }],
    },
    Recipe {
        name: "01_sequence_of_steps/workflow_using_steps",
        build: |kitchen| {
            let researcher = kitchen.agent("Research Agent", "Find the facts.").tool(kitchen.search("web"));
            let article = Steps::new("article_creation")
                .description("From research to the final edit")
                .step(Step::new("research").description("Gather information").agent(researcher))
                .step(kitchen.says("writing", "article"))
                .step(kitchen.says("editing", "edited"));
            Workflow::builder("Article Creation Workflow").step(article)
        },
        asks: &[Ask {
            run: |workflow| workflow.run("What wind power is good for"),
            told: "article_creation(research:agent writing:agent editing:agent)",
            check: |ran| assert_eq!(ran.run.text(), "edited"),
        }],
    },
    Recipe {
        name: "01_sequence_of_steps/workflow_using_steps_nested",
        build: nested_steps,
        asks: &[
            Ask {
                run: |workflow| workflow.run("What is new in software"),
                told: "ArticleCreation(InitialResearch:agent \
                       TechResearchCondition?if(SpecializedResearch{TechResearch:agent NewsResearch:agent} \
                       ContentPreparation:agent) Writing:agent Editing:agent)",
                check: |ran| {
                    let prepared = ran.asked.iter().find(|asked| asked.to_string().contains("REPLY=prepared")).unwrap();
                    assert!(prepared.to_string().contains("=== NewsResearch ==="), "{prepared}");
                    assert_eq!(ran.run.text(), "edited");
                },
            },
            Ask {
                run: |workflow| workflow.run("Roses"),
                told: "ArticleCreation(InitialResearch:agent TechResearchCondition?none Writing:agent Editing:agent)",
                check: |ran| assert_eq!(ran.run.text(), "edited"),
            },
        ],
    },
    Recipe {
        name: "01_sequence_of_steps/workflow_with_file_input",
        build: |kitchen| {
            Workflow::builder("Read and Summarize")
                .step(kitchen.says("Read Step", "curries"))
                .step(kitchen.says("Summarize Step", "hot"))
        },
        asks: &[Ask {
            run: |workflow| {
                let file = Media { url: Some("https://example.com/recipes.pdf".into()), ..Media::default() };
                workflow.run("Summarize the file").files([file])
            },
            told: "Read Step:agent Summarize Step:agent",
            // The run's files reach the model in every step.
            check: |ran| {
                assert_eq!(ran.asked.len(), 2);
                for asked in &ran.asked {
                    assert!(asked.to_string().contains("https://example.com/recipes.pdf"), "{asked}");
                }
                assert_eq!(ran.run.text(), "hot");
            },
        }],
    },
    Recipe {
        name: "01_sequence_of_steps/workflow_with_session_metrics",
        build: content_creation,
        asks: &[
            Ask {
                run: |workflow| workflow.run("AI trends in 2024"),
                told: "Research Step:team Content Planning Step:agent",
                check: |ran| assert_eq!(ran.tokens, used(ran)),
            },
            Ask {
                run: |workflow| workflow.run("AI trends in 2024"),
                told: "Research Step:team Content Planning Step:agent",
                // Those of the session are those of both runs.
                check: |ran| assert_eq!(ran.tokens, 2 * used(ran)),
            },
        ],
    },
    Recipe {
        name: "02_step_with_function/step_with_function",
        build: |kitchen| planned_by_function(kitchen, |input, plan| format!("# {}\n{plan}", input.input_text())),
        asks: &[Ask {
            run: |workflow| workflow.run("AI trends in 2024"),
            told: "Research Step:team Content Planning Step",
            check: |ran| {
                assert_eq!(ran.run.text(), "# AI trends in 2024\nplan");
                assert!(ran.asked.last().unwrap().to_string().contains(&ran.said("Research Step")));
            },
        }],
    },
    Recipe {
        name: "02_step_with_function/step_with_additional_data",
        build: |kitchen| {
            planned_by_function(kitchen, |input, plan| {
                let data = input.additional_data.clone().unwrap_or_default();
                let said = |key: &str, otherwise: &str| data[key].as_str().unwrap_or(otherwise).to_owned();
                let priority = said("priority", "normal").to_uppercase();
                format!("{plan} for {}, {priority}", said("client_type", "anybody"))
            })
        },
        asks: &[
            Ask {
                run: |workflow| {
                    let data = json!({ "user_email": "ada@example.com", "priority": "high", "client_type": "banks" });
                    workflow.run("AI trends in 2024").additional_data(data)
                },
                told: "Research Step:team Content Planning Step",
                check: |ran| assert_eq!(ran.run.text(), "plan for banks, HIGH"),
            },
            Ask {
                run: |workflow| workflow.run("AI trends in 2024"),
                told: "Research Step:team Content Planning Step",
                check: |ran| assert_eq!(ran.run.text(), "plan for anybody, NORMAL"),
            },
        ],
    },
    Recipe {
        name: "02_step_with_function/step_with_class",
        build: |kitchen| {
            let planner =
                Arc::new(Planner { agent: kitchen.aside().agent("Content Planner", "REPLY=plan"), limit: 20 });
            let step = Step::function("Content Planning Step", move |context, input| {
                let planner = planner.clone();
                async move { planner.plan(&context, &input).await }
            });
            Workflow::builder("Content Creation Workflow").step(research(kitchen)).step(step)
        },
        asks: &[Ask {
            run: |workflow| workflow.run("AI trends in 2024"),
            told: "Research Step:team Content Planning Step",
            check: |ran| assert_eq!(ran.run.text(), "plan in 20 bytes"),
        }],
    },
    Recipe {
        name: "03_function_workflows/function_workflow",
        build: |kitchen| {
            let kitchen = kitchen.aside();
            let (team, planner) = (research_team(&kitchen), planner(&kitchen));
            Workflow::builder("Content Creation Workflow").function(move |context: StepContext, input| {
                let (team, planner) = (team.clone(), planner.clone());
                async move {
                    let input: Arc<StepInput> = input;
                    let found: RunOutput = context.once("research", || team.run(input.input_text())).await?;
                    let prompt = format!("Plan this: {}", found.content.unwrap_or_default());
                    let plan: RunOutput = context.once("plan", || planner.run(prompt)).await?;
                    Ok::<_, Failure>(plan.content.unwrap_or_default())
                }
            })
        },
        asks: &[Ask {
            run: |workflow| workflow.run("AI trends in 2024"),
            told: "Content Creation Workflow",
            check: |ran| {
                assert_eq!(ran.run.text(), "plan");
                assert!(ran.asked.last().unwrap().to_string().contains("Plan this: \\\"Answer "));
            },
        }],
    },
];

pub(super) fn content_creation(kitchen: &Kitchen) -> WorkflowBuilder {
    Workflow::builder("Content Creation Workflow")
        .description("Posts, from research to plan")
        .step(research(kitchen))
        .step(Step::new("Content Planning Step").agent(planner(kitchen)))
}

fn research(kitchen: &Kitchen) -> Step {
    Step::new("Research Step").team(research_team(kitchen))
}

fn research_team(kitchen: &Kitchen) -> Team {
    let agent = |name, role: &str, tool| kitchen.agent(name, "Be brief.").role(role).tool(kitchen.search(tool));
    let hackernews = agent("Hackernews Agent", "Finds what Hacker News says", "stories");
    kitchen.team("Research Team", [hackernews, agent("Web Agent", "Searches the web", "web")], "Research the topic")
}

fn planner(kitchen: &Kitchen) -> Agent {
    kitchen.agent("Content Planner", "Plan four weeks, three posts each. REPLY=plan")
}

fn blog_post(kitchen: &Kitchen) -> WorkflowBuilder {
    let topic = |input: &StepInput| format!("<topic>{}</topic>", input.input_text());
    Workflow::builder("Blog Post Workflow")
        .step(function("prepare_web_search", move |input| format!("Search for ten articles about {}", topic(input))))
        .step(research_team(kitchen))
        .step(function("prepare_writer", move |input| {
            format!("A post about {}\n<research>{}</research>", topic(input), input.text())
        }))
        .step(kitchen.agent("Writer Agent", "Write the post. REPLY=post"))
}

fn nested_steps(kitchen: &Kitchen) -> WorkflowBuilder {
    let agent = |name: &str, tool| kitchen.agent(name, "Find what is there.").tool(kitchen.search(tool));
    let specialized = Parallel::new("SpecializedResearch")
        .step(Step::new("TechResearch").agent(agent("Tech Research Agent", "stories")))
        .step(Step::new("NewsResearch").agent(agent("News Research Agent", "news")));
    let tech = Condition::new("TechResearchCondition")
        .when(|question| mentions(&question.input_text(), &["software", "programming", "startup"]))
        .step(specialized)
        .step(kitchen.says("ContentPreparation", "prepared"));
    let article = Steps::new("ArticleCreation")
        .step(Step::new("InitialResearch").agent(agent("Research Agent", "web")))
        .step(tech)
        .step(kitchen.says("Writing", "article"))
        .step(kitchen.says("Editing", "edited"));
    Workflow::builder("Enhanced Article Creation Workflow").step(article)
}

/// The tokens of a run.
fn used(ran: &Ran) -> u64 {
    let steps = ran.run.step_results.iter().filter_map(|step| step.metrics.as_ref());
    steps.map(|metrics| metrics.usage.total_tokens).sum()
}

/// A team, then a function that asks an agent and makes something of its answer. The agent's run is one call, recorded
/// under a name: a crash repeats at most that.
fn planned_by_function(kitchen: &Kitchen, enhance: fn(&StepInput, &str) -> String) -> WorkflowBuilder {
    let planner = planner(&kitchen.aside());
    let step = Step::function("Content Planning Step", move |context: StepContext, input| {
        let planner = planner.clone();
        async move {
            let input: Arc<StepInput> = input;
            let prompt = format!("Plan {} from this research: {}", input.input_text(), input.text());
            let plan: RunOutput = context.once("plan", || planner.run(prompt)).await?;
            let plan = StepOutput::from(plan.content.unwrap_or_default()).text();
            Ok::<_, Failure>(enhance(&input, &plan))
        }
    });
    Workflow::builder("Content Creation Workflow").step(research(kitchen)).step(step)
}

/// What Agno's program has as a class.
struct Planner {
    agent: Agent,
    limit: usize,
}

impl Planner {
    async fn plan(&self, context: &StepContext, input: &StepInput) -> Result<String, Failure> {
        let mut research = input.text();
        research.truncate(self.limit);
        let plan: RunOutput = context.once("plan", || self.agent.run(research.as_str())).await?;
        let plan = StepOutput::from(plan.content.unwrap_or_default()).text();
        Ok(format!("{plan} in {} bytes", research.len()))
    }
}

/// What a function asks an agent is not asked again when the function is executed again.
#[tokio::test]
async fn a_function_asks_an_agent_in_one_call_that_is_recorded() {
    let kitchen = Kitchen::new().await;
    let agent = planner(&kitchen);
    let step = Step::function("Plan", move |context: StepContext, input| {
        let agent = agent.clone();
        async move {
            let input: Arc<StepInput> = input;
            let plan: RunOutput = context.once("plan", || agent.run(input.input_text())).await?;
            match context.step.attempt {
                1 => Err(Failure::function("not yet")),
                _ => Ok(plan.content.unwrap_or_default()),
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(folder.path().join("cookbook.db"));
    let workflow = Workflow::builder("Planned").db(db).step(step.retry(Retry::times(1))).build().unwrap();
    let mut events = workflow.run("AI trends in 2024").stream().await.unwrap();
    let mut names = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        names.push(event.name());
    }
    assert_eq!(names.last(), Some(&"WorkflowCompleted"));
    assert!(!names.iter().any(|name| name.starts_with("Run") || name.starts_with("Model")), "{names:?}");
    assert_eq!(kitchen.models.log().len(), 1, "it was asked once, in two attempts");
    workflow.shutdown().await.unwrap();
}

walked!(RECIPES);
