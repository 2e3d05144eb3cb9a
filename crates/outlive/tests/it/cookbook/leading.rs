//! `06_advanced_concepts/workflow_agent` and `tools`: workflows that an agent leads, which answers from what came before or
//! has the steps executed, and workflows that an agent has as tools.

use super::{Ask, Kitchen, PATIENCE, Ran, Recipe, function, mentions, walked};
use outlive::prelude::*;
use outlive::{QuestionKind, WorkflowBuilder};
use tokio::time::timeout;

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "workflow_agent/basic_workflow_agent",
        build: |kitchen| {
            let references =
                function("Add References", |input| format!("{}\n\nReferences: https://www.agno.com", input.text()));
            led(kitchen, "Story Generation")
                .step(kitchen.says("Generate Story", "story"))
                .step(kitchen.says("Format Story", "formatted"))
                .step(references)
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("Tell me a story about a dog named Rocky"),
                told: "leader(Generate Story:agent Format Story:agent Add References)",
                check: |ran| {
                    assert_eq!(ran.run.text(), "formatted\n\nReferences: https://www.agno.com");
                    assert_eq!(ran.run.step_results.len(), 3);
                    assert!(leads(ran).contains("from 1 tool results"), "{}", leads(ran));
                    assert!(!ran.asked[0].to_string().contains("workflow_history_context"), "nothing came before");
                    // The leader, two steps, and the leader again.
                    assert_eq!((ran.asked.len(), ran.run.step_executor_runs.len()), (4, 2));
                    assert!(ran.asked[1].to_string().contains("\"AI\""), "the steps work on its query");
                },
            },
            Ask {
                run: |workflow| workflow.run("What was Rocky's personality? NOTOOL=1"),
                told: "leader",
                check: |ran| {
                    assert_eq!(ran.run.text(), leads(ran));
                    assert_eq!((ran.run.step_results.len(), ran.asked.len()), (0, 1));
                    let asked = ran.asked[0].to_string();
                    assert!(asked.contains("a dog named Rocky") && asked.contains("formatted"), "{asked}");
                },
            },
            Ask {
                run: |workflow| {
                    // What came before says that no tool is to be called.
                    workflow.run(r#"Now one about a cat TOOL=run_workflow:{"query": "a cat named Luna"}"#)
                },
                told: "leader(Generate Story:agent Format Story:agent Add References)",
                check: |ran| {
                    let asked = ran.asked[0].to_string();
                    assert!(asked.contains("a dog named Rocky") && asked.contains("personality"), "{asked}");
                    assert!(ran.asked[1].to_string().contains("a cat named Luna"), "the steps work on its query");
                },
            },
        ],
    },
    Recipe {
        name: "workflow_agent/workflow_agent_with_condition",
        build: |kitchen| {
            let edits = Condition::new("Editing Condition")
                .when(|question| mentions(&question.text(), &["ai"]))
                .step(kitchen.says("Edit Story", "edited"));
            led(kitchen, "Story Generation with Conditional Editing")
                .step(kitchen.says("Generate Story", "AI"))
                .step(edits)
                .step(kitchen.says("Format Story", "formatted"))
                .step(function("Add References", |input| format!("{}, with references", input.text())))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("Tell me a story about a brave knight"),
            told: "leader(Generate Story:agent Editing Condition?if(Edit Story:agent) Format Story:agent Add References)",
            check: |ran| assert_eq!(ran.run.text(), "formatted, with references"),
        }],
    },
    Recipe {
        name: "tools/workflow_tools",
        build: |kitchen| {
            let tools = WorkflowTools::new(blog(kitchen)).enable_think(false).enable_analyze(false);
            let agent = kitchen.agent("Workflow Agent", "Write what is asked for.").tools(tools);
            Workflow::builder("Blogging").step(Step::new("Write").agent(agent))
        },
        asks: &[Ask {
            run: |workflow| {
                let call = r#"{"input_data": "quantum computing", "additional_data": {"editor": "ada"}}"#;
                workflow.run(format!("Write a post TOOL=run_workflow:{call}"))
            },
            told: "Write:agent(Prepare input for search Research:agent Publish)",
            check: |ran| {
                let inside = ran.step("Write").steps.first().expect("the workflow that its tool stands for");
                assert_eq!((inside.text().as_str(), inside.steps.len()), ("sources for ada", 3));
                assert_eq!(ran.said("Prepare input for search"), "Search for quantum computing");
                let told = ran.asked.last().unwrap().to_string();
                assert!(told.contains("sources for ada"), "the model is told the result: {told}");
                // The agent, the step inside, and the agent again.
                assert_eq!((ran.asked.len(), ran.state["last_editor"].as_str()), (3, Some("ada")));
                let kinds: Vec<_> = ran.run.step_executor_runs.iter().map(|run| run.workflow.is_some()).collect();
                assert_eq!(kinds, [false, true, false], "agent, workflow, agent");
            },
        }],
    },
    Recipe {
        name: "tools/workflow_tools, in a team",
        build: |kitchen| {
            let tools = WorkflowTools::new(blog(kitchen)).few_shot_examples("For a post about roses: run_workflow.");
            let writer = kitchen.agent("Writer", "Write what is asked for.").tools(tools);
            Workflow::builder("Publishing").step(Step::new("Publish").team(kitchen.team(
                "Press",
                [writer],
                "Delegate.",
            )))
        },
        asks: &[Ask {
            run: |workflow| workflow.run(r#"Write a post TOOL=run_workflow:{"input_data": "roses"}"#),
            told: "Publish:team(Prepare input for search Research:agent Publish)",
            check: |ran| {
                let inside = ran.step("Publish").steps.first().expect("the workflow that a member's tool stands for");
                assert_eq!((inside.text().as_str(), inside.steps.len()), ("sources for nobody", 3));
                let member = ran.asked[1].to_string();
                assert!(member.contains("For a post about roses") && member.contains("analyze"), "{member}");
                // Leader, member, the step inside, member, leader.
                assert_eq!(ran.asked.len(), 5);
            },
        }],
    },
];

walked!(RECIPES);

/// People are asked in the order in which nobody waits for what is at work: inside the workflow, then about the call.
#[tokio::test]
async fn a_workflow_in_a_call_and_the_call_beside_it_ask_people_one_after_the_other() {
    let kitchen = Kitchen::without_streams().await;
    let folder = tempfile::tempdir().unwrap();
    let build = || {
        let guarded = function("Research", |input| format!("found {}", input.text()));
        let inner = Workflow::builder("Inner").step(guarded.human_review(HumanReview::confirmation("May it?")));
        let tools = WorkflowTools::new(inner.definition().unwrap()).enable_think(false).enable_analyze(false);
        let agent =
            kitchen.agent("Careful", "Be careful.").tools(tools).tool(kitchen.search("look").requires_confirmation());
        let db = SqliteDb::new(folder.path().join("asks.db"));
        Workflow::builder("Asking").db(db).step(Step::new("Ask").agent(agent)).build().unwrap()
    };
    let workflow = build();
    let asked = r#"TOOL=run_workflow:{"input_data": "roses"} ALSO=look:{"query": "tulips"}"#;
    let run = workflow.run(asked).background().await.unwrap();
    let id = run.run_id().to_string();
    assert_eq!(timeout(PATIENCE, run.wait()).await.unwrap().unwrap().status, RunStatus::Paused);
    workflow.shutdown().await.unwrap();
    for (turn, kind) in [(1, QuestionKind::Confirmation), (2, QuestionKind::ToolConfirmation)] {
        let workflow = build();
        let run = workflow.attach(&id).await.unwrap();
        let open = run.questions().await.unwrap();
        assert_eq!(open.iter().map(|open| open.question.kind).collect::<Vec<_>>(), [kind], "question {turn}");
        open[0].answer(Answer::Approve).await.unwrap();
        let output = timeout(PATIENCE, run.wait()).await.unwrap().unwrap();
        let expected = if turn == 1 { RunStatus::Paused } else { RunStatus::Completed };
        assert_eq!(output.status, expected, "{}", output.text());
        workflow.shutdown().await.unwrap();
    }
    // The agent, twice; each tool once.
    assert_eq!(kitchen.calls(), 3);
}

#[tokio::test]
async fn an_agent_that_runs_alone_starts_a_run_of_the_workflows_own() {
    let kitchen = Kitchen::new().await;
    let shout = function("Shout", |input| input.text().to_uppercase());
    let workflow = Workflow::builder("Shouting").db(InMemoryDb::new()).step(shout).build().unwrap();
    let agent = |tools: WorkflowTools| kitchen.agent("Alone", "Shout.").tools(tools);
    let ask = r#"TOOL=run_workflow:{"input_data": "hello", "additional_data": {"a": 1}}"#;
    let run = agent(WorkflowTools::new(&workflow)).run(ask).await.unwrap();
    assert_eq!(run.tools[0].result.as_deref(), Some("HELLO"));
    let stored = workflow.engine().await.unwrap().reader().runs(Default::default()).await.unwrap();
    assert_eq!(stored.runs.len(), 1);
    // Without a database there is nowhere to run it, and the model is told.
    let run = agent(WorkflowTools::new(workflow.definition().clone())).run(ask).await.unwrap();
    assert!(run.tools[0].result.as_ref().unwrap().contains("no database"), "{:?}", run.tools[0].result);
    workflow.shutdown().await.unwrap();
}

/// A workflow for an agent to use.
fn blog(kitchen: &Kitchen) -> std::sync::Arc<outlive::core::Definition> {
    let prepare = function("Prepare input for search", |input| format!("Search for {}", input.input_text()));
    let publish = Step::function("Publish", |context: StepContext, input: std::sync::Arc<StepInput>| async move {
        let editor = input.additional_data.as_ref().and_then(|data| data["editor"].as_str()).unwrap_or("nobody");
        context.state.set("last_editor", editor);
        Ok::<_, Failure>(format!("{} for {editor}", input.text()))
    });
    let workflow = Workflow::builder("Blog Post Workflow").description("Writes a post about a topic.");
    workflow.step(prepare).step(kitchen.says("Research", "sources")).step(publish).definition().unwrap()
}

fn led(kitchen: &Kitchen, name: &str) -> WorkflowBuilder {
    let leader = WorkflowAgent::new(kitchen.responses.clone()).num_history_runs(4).stream(kitchen.streams);
    Workflow::builder(name).agent(leader)
}

/// What the leader said.
fn leads(ran: &Ran) -> String {
    ran.run
        .workflow_agent_run
        .as_ref()
        .and_then(|run| run.content.as_ref())
        .and_then(|said| said.as_str())
        .unwrap()
        .to_owned()
}
