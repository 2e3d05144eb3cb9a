//! Teams in every mode and answers with a shape, as steps: what the cookbook's programs leave to Agno's other pages.

use super::{Ask, Kitchen, Recipe, walked};
use outlive::prelude::*;
use outlive::{RunRequest, WorkflowBuilder};
use serde_json::json;

/// One step, a team of Ada and Grace in this mode; what its leader does stands in its instructions.
fn led(kitchen: &Kitchen, mode: TeamMode, instructions: &str) -> WorkflowBuilder {
    let members = ["Ada", "Grace"].map(|name| kitchen.agent(name, &format!("REPLY={name}'s")));
    let team = kitchen.team("Team", members, instructions).mode(mode);
    Workflow::builder("Led").step(Step::new("Work").team(team))
}

fn asked(workflow: &Workflow) -> RunRequest {
    workflow.run("Dig a hole")
}

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "a team that coordinates",
        build: |kitchen| {
            let instructions = r#"REPLY=joined TOOL=delegate_task_to_member:{"member_id":"ada","task":"dig"}
                ALSO=delegate_task_to_member:{"member_id":"grace","task":"sow"}"#;
            led(kitchen, TeamMode::Coordinate, instructions)
        },
        asks: &[Ask {
            run: asked,
            told: "Work:team",
            check: |ran| assert_eq!((ran.run.text(), ran.asked.len()), ("joined".to_owned(), 4)),
        }],
    },
    Recipe {
        name: "a team that routes",
        build: |kitchen| {
            let instructions = r#"REPLY=unused TOOL=delegate_task_to_member:{"member_id":"grace","task":"dig"}"#;
            led(kitchen, TeamMode::Route, instructions)
        },
        asks: &[Ask {
            run: asked,
            told: "Work:team",
            check: |ran| assert_eq!((ran.run.text(), ran.asked.len()), ("Grace's".to_owned(), 2)),
        }],
    },
    Recipe {
        name: "a team that broadcasts",
        build: |kitchen| {
            let instructions = r#"REPLY=joined TOOL=delegate_task_to_members:{"task":"dig"}"#;
            led(kitchen, TeamMode::Broadcast, instructions)
        },
        asks: &[Ask {
            run: asked,
            told: "Work:team",
            check: |ran| {
                assert_eq!((ran.run.text(), ran.asked.len()), ("joined".to_owned(), 4));
                let members = &ran.run.step_executor_runs[0].member_responses;
                let said: Vec<_> = members.iter().map(|member| member.content.as_ref().unwrap()).collect();
                assert_eq!(said, ["Ada's", "Grace's"]);
            },
        }],
    },
    Recipe {
        name: "a team with tasks",
        build: |kitchen| {
            let instructions = r#"REPLY=joined TOOL=create_task:{"title":"dig","description":"deep"}
                ALSO=execute_task:{"task_id":1,"member_id":"ada"}"#;
            led(kitchen, TeamMode::Tasks, instructions)
        },
        asks: &[Ask {
            run: asked,
            told: "Work:team",
            check: |ran| assert_eq!((ran.run.text(), ran.asked.len()), ("joined".to_owned(), 3)),
        }],
    },
    Recipe {
        name: "an answer that is asked for again",
        build: |kitchen| {
            let schema = json!({
                "type": "object",
                "properties": { "weeks": { "type": "integer", "minimum": 1 } },
                "required": ["weeks"],
            });
            let planner = kitchen.agent("Planner", "Plan it.").output_schema_json("Plan", schema);
            Workflow::builder("Planned").step(Step::new("Plan").agent(planner))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("Plan it. REPLY=gladly"),
            told: "Plan:agent",
            check: |ran| {
                assert!(ran.run.content.as_ref().unwrap()["weeks"].as_u64().is_some_and(|weeks| weeks > 0));
                assert_eq!(ran.asked.len(), 2);
                assert!(ran.asked[1].to_string().contains("it is not JSON"));
            },
        }],
    },
];

walked!(RECIPES);
