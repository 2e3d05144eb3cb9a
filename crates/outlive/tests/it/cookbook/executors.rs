//! `08_human_in_the_loop`, where agents and teams in steps ask about their tools, and where both levels ask: the step, then
//! the tool.

use super::talk::{Talk, no, talked_through, yes};
use super::{Kitchen, Query, function};
use outlive::WorkflowBuilder;
use outlive::prelude::*;
use serde_json::json;
use std::convert::Infallible;
use std::sync::atomic::Ordering;

const TALKS: &[Talk] = &[
    Talk {
        name: "dual_level_hitl/01_step_confirmation_and_tool_confirmation",
        build: |kitchen| one_step(kitchen, |step| step.human_review(HumanReview::confirmation("Deploy?"))),
        input: "version 2",
        turns: &[("confirmation Deploy", yes), ("tool_confirmation deploy", yes)],
        status: RunStatus::Completed,
        told: "Build() Deploy? | Deploy> Deploy(Deployer? Deploy:? | Deploy:> Deployer>) COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "deployed");
            let result = ran.run.step_executor_runs[0].tools[0].result.clone();
            assert!(result.is_some_and(|result| result.starts_with("deploy is done")), "the tool was called");
        },
    },
    Talk {
        name: "dual_level_hitl/01_step_confirmation_and_tool_confirmation, not the tool",
        build: |kitchen| one_step(kitchen, |step| step.human_review(HumanReview::confirmation("Deploy?"))),
        input: "version 2",
        turns: &[("confirmation Deploy", yes), ("tool_confirmation deploy", || Answer::reject("not on a Friday"))],
        status: RunStatus::Completed,
        told: "Build() Deploy? | Deploy> Deploy(Deployer? Deploy:? | Deploy:> Deployer>) COMPLETED",
        check: |ran| {
            assert!(ran.asked.last().unwrap().to_string().contains("not on a Friday"), "the model hears of it");
            assert_eq!(ran.run.step_executor_runs[0].tools[0].confirmed, Some(false));
        },
    },
    Talk {
        name: "dual_level_hitl/02_step_user_input_and_tool_confirmation",
        build: |kitchen| {
            let fields = [UserInputField::new("environment")];
            one_step(kitchen, |step| step.human_review(HumanReview::user_input("Where to?", fields)))
        },
        input: "version 2",
        turns: &[
            ("user_input Deploy", || Answer::input([("environment", json!("staging"))])),
            ("tool_confirmation deploy", yes),
        ],
        status: RunStatus::Completed,
        told: "Build() Deploy? | Deploy> Deploy(Deployer? Deploy:? | Deploy:> Deployer>) COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "deployed");
            assert!(ran.asked[0].to_string().contains("User input:\\n- environment: staging"), "{:?}", ran.asked[0]);
        },
    },
    Talk {
        name: "dual_level_hitl/03_condition_and_tool_confirmation",
        build: |kitchen| {
            let condition = Condition::new("Live?").step(deploys(kitchen)).otherwise(function("Keep", |_| "kept"));
            let review = HumanReview::confirmation("Go live?").on_reject(OnReject::Else);
            Workflow::builder("Condition and Tool").step(condition.human_review(review))
        },
        input: "version 2",
        turns: &[("confirmation Live?", yes), ("tool_confirmation deploy", yes)],
        status: RunStatus::Completed,
        told: "Live?? | Live?> Live?[Deploy(Deployer? Deploy:? | Deploy:> Deployer>)] COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "deployed"),
    },
    Talk {
        name: "dual_level_hitl/04_router_selection_and_tool_confirmation",
        build: |kitchen| {
            let router = Router::new("What").choice(deploys(kitchen)).choice(function("Wait", |_| "waited"));
            Workflow::builder("Router and Tool").step(router.human_review(HumanReview::selection("What now?")))
        },
        input: "version 2",
        turns: &[("route_selection What", || Answer::choose(["Deploy"])), ("tool_confirmation deploy", no)],
        status: RunStatus::Completed,
        told: "What? | What[Deploy(Deployer? Deploy:? | Deploy:> Deployer>)] COMPLETED",
        check: |ran| {
            let told = ran.run.step_executor_runs[0].tools[0].result.clone();
            assert_eq!(told.as_deref(), Some("Function call was rejected by the user"));
        },
    },
    Talk {
        name: "dual_level_hitl/05_output_review_and_tool_confirmation",
        build: |kitchen| one_step(kitchen, |step| step.human_review(HumanReview::output("Is it well deployed?"))),
        input: "version 2",
        turns: &[("tool_confirmation deploy", yes), ("output_review Deploy", yes)],
        status: RunStatus::Completed,
        told: "Build() Deploy(Deployer? Deploy:? | Deploy:> Deployer>) Deploy?? | COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "deployed"),
    },
    Talk {
        name: "dual_level_hitl/06_loop_confirmation_and_tool_confirmation",
        build: |kitchen| {
            let repeated = Loop::new("Rounds").step(deploys(kitchen)).max_iterations(2);
            let review = HumanReview::confirmation("Begin the rounds?").on_reject(OnReject::Cancel);
            Workflow::builder("Loop and Tool").step(repeated.human_review(review))
        },
        input: "version 2",
        turns: &[("confirmation Rounds", yes), ("tool_confirmation deploy", yes), ("tool_confirmation deploy", no)],
        status: RunStatus::Completed,
        told: "Rounds? | Rounds> Rounds[#1 Deploy(Deployer? Deploy:? | Deploy:> Deployer>) \
               #2 Deploy(Deployer? Deploy:? | Deploy:> Deployer>)] COMPLETED",
        check: |ran| {
            let confirmed: Vec<_> = ran.run.step_executor_runs.iter().map(|run| run.tools[0].confirmed).collect();
            assert_eq!(confirmed, [Some(true), Some(false)], "each round is another question");
        },
    },
    Talk {
        name: "dual_level_hitl/07_router_confirmation_and_tool_confirmation",
        build: |kitchen| {
            let router =
                Router::new("Route").select(|_| "Deploy").choice(deploys(kitchen)).choice(function("Wait", |_| ""));
            Workflow::builder("Confirmed Router and Tool")
                .step(router.human_review(HumanReview::confirmation("Route it?")))
        },
        input: "version 2",
        turns: &[("confirmation Route", yes), ("tool_confirmation deploy", yes)],
        status: RunStatus::Completed,
        told: "Route? | Route> Route[Deploy(Deployer? Deploy:? | Deploy:> Deployer>)] COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "deployed"),
    },
    Talk {
        name: "dual_level_hitl/09_multi_step_mixed_hitl",
        build: |kitchen| {
            let plan = kitchen
                .says("Plan", "plan")
                .human_review(HumanReview::output("A good plan?").on_reject(OnReject::Retry));
            let fields = [UserInputField::new("budget")];
            let order = function("Order", |input| input.text());
            let order = order.human_review(HumanReview::user_input("How much?", fields));
            let report = function("Report", |input| format!("reported: {}", input.text()));
            Workflow::builder("Mixed")
                .step(plan)
                .step(order)
                .step(deploys(kitchen))
                .step(report.human_review(HumanReview::confirmation("Report it?").on_reject(OnReject::Skip)))
        },
        input: "version 2",
        turns: &[
            ("output_review Plan", no),
            ("output_review Plan", yes),
            ("user_input Order", || Answer::input([("budget", json!("9,000"))])),
            ("tool_confirmation deploy", yes),
            ("confirmation Report", no),
        ],
        status: RunStatus::Completed,
        told: "Plan() Plan?? | Plan>) Plan?? | Order? | Order> Order() Deploy(Deployer? Deploy:? | Deploy:> Deployer>) \
               Report? | COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "deployed"),
    },
    Talk {
        name: "executor_hitl/01_agent_confirmation",
        build: |kitchen| one_step(kitchen, |step| step),
        input: "version 2",
        turns: &[("tool_confirmation deploy", yes)],
        status: RunStatus::Completed,
        told: "Build() Deploy(Deployer? Deploy:? | Deploy:> Deployer>) COMPLETED",
        check: |ran| {
            let tool = &ran.run.step_executor_runs[0].tools[0];
            assert_eq!((tool.confirmed, tool.requires_confirmation), (Some(true), Some(false)));
            assert_eq!(ran.asked.len(), 2, "the answer that asked for the call is not asked for again");
        },
    },
    Talk {
        name: "executor_hitl/02_agent_confirmation_stream",
        build: |kitchen| {
            let agent = kitchen
                .agent("Deployer", "REPLY=deployed ALSO=verify:{\"query\":\"it\"} TOOL=deploy:{\"query\":\"it\"}");
            let tools = [guarded(kitchen, "deploy"), guarded(kitchen, "verify")];
            Workflow::builder("Two Calls").step(Step::new("Deploy").agent(agent.tools(tools)))
        },
        input: "version 2",
        turns: &[("tool_confirmation deploy", yes), ("tool_confirmation verify", no)],
        status: RunStatus::Completed,
        told: "Deploy(Deployer? Deploy:? | | Deploy:> Deployer>) COMPLETED",
        check: |ran| {
            let tools = &ran.run.step_executor_runs[0].tools;
            assert_eq!([tools[0].confirmed, tools[1].confirmed], [Some(true), Some(false)]);
        },
    },
    Talk {
        name: "executor_hitl/03_team_in_step",
        build: |kitchen| {
            let member = kitchen.agent("Deployer", "REPLY=deployed").tools([guarded(kitchen, "deploy")]);
            let quick = kitchen.agent("Watcher", "REPLY=watched");
            let team = kitchen.team("Operations", [member, quick], "REPLY=reported");
            Workflow::builder("A Team Asks")
                .step(Step::new("Operate").team(team))
                .step(function("Close", |input| input.text()))
        },
        input: "version 2",
        turns: &[("tool_confirmation deploy", yes)],
        status: RunStatus::Completed,
        told: "Operate(Deployer? Operate:? | Operate:> Deployer>) Close() COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "reported");
            let paused = ran.events.iter().find(|event| event.name() == "StepExecutorPaused").unwrap();
            let paused = serde_json::to_value(paused).unwrap();
            assert_eq!(
                json!([paused["executor_name"], paused["executor_id"], paused["executor_type"]]),
                json!(["Operations", "operations", "team"])
            );
            let required = &ran.run.step_requirements.as_ref().unwrap()[0];
            assert_eq!(required["executor_name"], "Operations");
            assert_eq!(required["executor_run_id"], json!(ran.run.step_executor_runs[0].run_id));
            let tool = &required["executor_requirements"][0];
            assert_eq!(
                (&tool["member_agent_name"], &tool["member_agent_id"]),
                (&json!("Deployer"), &json!("deployer"))
            );
            assert_eq!(paused["executor_run_id"], required["executor_run_id"]);
        },
    },
    Talk {
        name: "executor_hitl/04_agent_confirmation_in_condition_step",
        build: |kitchen| {
            let condition = Condition::new("Large?").when(|question| question.text().len() > 3).step(deploys(kitchen));
            Workflow::builder("Agent in a Condition").step(condition).step(function("Close", |input| input.text()))
        },
        input: "version 2",
        turns: &[("tool_confirmation deploy", yes)],
        status: RunStatus::Completed,
        told: "Large?[Deploy(Deployer? Deploy:? | Deploy:> Deployer>)] Close() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "deployed"),
    },
    Talk {
        name: "executor_hitl/05_agent_confirmation_in_loop_step",
        build: |kitchen| {
            let repeated = Loop::new("Rounds").step(deploys(kitchen)).max_iterations(2);
            Workflow::builder("Agent in a Loop").step(repeated).step(function("Close", |input| input.text()))
        },
        input: "version 2",
        turns: &[("tool_confirmation deploy", yes), ("tool_confirmation deploy", yes)],
        status: RunStatus::Completed,
        told: "Rounds[#1 Deploy(Deployer? Deploy:? | Deploy:> Deployer>) \
               #2 Deploy(Deployer? Deploy:? | Deploy:> Deployer>)] Close() COMPLETED",
        check: |ran| assert_eq!(ran.step("Rounds").steps.len(), 2),
    },
    Talk {
        name: "executor_hitl/06_agent_confirmation_in_steps_container",
        build: |kitchen| {
            let group = Steps::new("Release").step(function("Tag", |input| input.text())).step(deploys(kitchen));
            Workflow::builder("Agent in Steps").step(group)
        },
        input: "version 2",
        turns: &[("tool_confirmation deploy", no)],
        status: RunStatus::Completed,
        told: "Release[Tag() Deploy(Deployer? Deploy:? | Deploy:> Deployer>)] COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "deployed"),
    },
    Talk {
        name: "executor_hitl/07_agent_confirmation_in_router_step",
        build: |kitchen| {
            let router =
                Router::new("Route").select(|_| "Deploy").choice(deploys(kitchen)).choice(function("Wait", |_| ""));
            Workflow::builder("Agent in a Router").step(router)
        },
        input: "version 2",
        turns: &[("tool_confirmation deploy", yes)],
        status: RunStatus::Completed,
        told: "Route[Deploy(Deployer? Deploy:? | Deploy:> Deployer>)] COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "deployed"),
    },
    Talk {
        name: "executor_hitl/08_agent_user_input_step",
        build: |kitchen| {
            let deploy = tool(kitchen, "deploy").user_input_fields(["query"]);
            let agent = kitchen.agent("Deployer", "REPLY=deployed").tools([deploy]);
            Workflow::builder("A Person Fills In").step(Step::new("Deploy").agent(agent))
        },
        input: "version 2",
        turns: &[("tool_input deploy", || Answer::input([("query", json!("the website"))]))],
        status: RunStatus::Completed,
        told: "Deploy(Deployer? Deploy:? | Deploy:> Deployer>) COMPLETED",
        check: |ran| {
            let result = ran.run.step_executor_runs[0].tools[0].result.clone();
            assert_eq!(result.as_deref(), Some("deploy is done with the website"));
        },
    },
    Talk {
        name: "executor_hitl/09_executor_continued_event",
        build: |kitchen| {
            let print = Tool::external::<Query>("print", "Prints at the desk.");
            let agent = kitchen.agent("Printer", "REPLY=printed").tools([print]);
            Workflow::builder("Runs Elsewhere").step(Step::new("Print").agent(agent))
        },
        input: "version 2",
        turns: &[("tool_result print", || Answer::Result { result: json!("three pages") })],
        status: RunStatus::Completed,
        told: "Print(Printer? Print:? | Print:> Printer>) COMPLETED",
        check: |ran| {
            let result = ran.run.step_executor_runs[0].tools[0].result.clone();
            assert_eq!(result.as_deref(), Some("three pages"));
            let told = ran.events.iter().filter(|event| event.name() == "StepExecutorContinued").count();
            assert_eq!(told, 1);
        },
    },
];

/// A tool that may be called again.
fn tool(kitchen: &Kitchen, name: &'static str) -> Tool {
    let calls = kitchen.tool_calls.clone();
    Tool::new(name, "Does it.", move |query: Query, _: ToolContext| {
        calls.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(format!("{name} is done with {}", query.query)) }
    })
    .effect(ToolEffect::Idempotent)
}

/// The same, and people must agree.
fn guarded(kitchen: &Kitchen, name: &'static str) -> Tool {
    tool(kitchen, name).requires_confirmation()
}

/// A step whose agent may not deploy by itself.
fn deploys(kitchen: &Kitchen) -> Step {
    let agent = kitchen.agent("Deployer", "REPLY=deployed").tools([guarded(kitchen, "deploy")]);
    Step::new("Deploy").agent(agent)
}

fn one_step(kitchen: &Kitchen, change: impl FnOnce(Step) -> Step) -> WorkflowBuilder {
    let build = function("Build", |input| format!("built: {}", input.text()));
    Workflow::builder("Deployment").step(build).step(change(deploys(kitchen)))
}

talked_through!(TALKS);
