//! The workflows of the `agno_app` example that ask people, under Agno's names.

use super::Kitchen;
use super::talk::{Talk, no, retry, skip, talked_through, yes};
use crate::agno_workflows::workflows::{Models, asking_people};
use outlive::WorkflowBuilder;
use outlive::prelude::*;
use serde_json::json;
use std::cell::RefCell;

const TALKS: &[Talk] = &[
    Talk {
        name: "hitl-confirm, streamed",
        build: |kitchen| of(kitchen, "Hitl Confirm"),
        input: "go",
        turns: &[("confirmation guarded", yes)],
        status: RunStatus::Completed,
        told: "before() guarded? | guarded> guarded() after() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "plain:go"),
    },
    Talk {
        name: "hitl-confirm, left out, streamed",
        build: |kitchen| of(kitchen, "Hitl Confirm"),
        input: "go",
        turns: &[("confirmation guarded", no)],
        status: RunStatus::Completed,
        told: "before() guarded? | after() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "plain:go"),
    },
    Talk {
        name: "hitl-confirm-cancel",
        build: |kitchen| of(kitchen, "Hitl Confirm Cancel"),
        input: "go",
        turns: &[("confirmation guarded", no)],
        status: RunStatus::Cancelled,
        told: "guarded? | CANCELLED COMPLETED",
        check: |ran| {
            assert_eq!(ran.run.text(), "Workflow cancelled: Step 'guarded' was rejected");
            assert_eq!(ran.run.cancellation_stage.as_deref(), Some("PAUSED"));
        },
    },
    Talk {
        name: "hitl-input, streamed",
        build: |kitchen| of(kitchen, "Hitl Input"),
        input: "go",
        turns: &[("user_input ask", || Answer::input([("colour", json!("red")), ("size", json!(3))]))],
        status: RunStatus::Completed,
        told: "ask? | ask> ask() after() COMPLETED",
        check: |ran| assert!(ran.said("ask").contains("red"), "{}", ran.said("ask")),
    },
    Talk {
        name: "hitl-review, streamed",
        build: |kitchen| of(kitchen, "Hitl Review"),
        input: "go",
        turns: &[("output_review draft", no), ("output_review draft", yes)],
        status: RunStatus::Completed,
        told: "draft() draft?? | draft>) draft?? | after() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "GO!"),
    },
    Talk {
        name: "hitl-router, streamed",
        build: |kitchen| of(kitchen, "Hitl Router"),
        input: "go",
        turns: &[("route_selection pick", || Answer::choose(["route b"]))],
        status: RunStatus::Completed,
        told: "pick? | pick[route b()] after() COMPLETED",
        check: |ran| assert_eq!((ran.said("route b"), ran.run.text()), ("go!".to_owned(), "plain:go".to_owned())),
    },
    Talk {
        name: "hitl-error, tried again, streamed",
        build: |kitchen| of(kitchen, "Hitl Error"),
        input: "go",
        turns: &[("error flaky", retry), ("error flaky", retry)],
        status: RunStatus::Completed,
        told: "flaky(flaky! | flaky> flaky! | flaky>) after() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "ok after 3!"),
    },
    Talk {
        name: "hitl-error, left out",
        build: |kitchen| of(kitchen, "Hitl Error"),
        input: "go",
        turns: &[("error flaky", skip)],
        status: RunStatus::Completed,
        told: "flaky(flaky! | after() COMPLETED",
        check: |ran| assert_eq!(ran.run.text(), "go!"),
    },
    Talk {
        name: "hitl-condition, streamed",
        build: |kitchen| of(kitchen, "Hitl Condition"),
        input: "go",
        turns: &[("confirmation cond", yes)],
        status: RunStatus::Completed,
        told: "cond? | cond> cond[c1()] COMPLETED",
        check: |ran| assert_eq!(ran.said("c1"), "GO"),
    },
    Talk {
        name: "hitl-condition, the other way",
        build: |kitchen| of(kitchen, "Hitl Condition"),
        input: "go",
        turns: &[("confirmation cond", no)],
        status: RunStatus::Completed,
        told: "cond? | cond[e1()] COMPLETED",
        check: |ran| assert_eq!(ran.said("e1"), "plain:go"),
    },
    Talk {
        name: "hitl-loop, streamed",
        build: |kitchen| of(kitchen, "Hitl Loop"),
        input: "go",
        turns: &[("iteration_review loop", yes)],
        status: RunStatus::Completed,
        told: "loop[#1 l1() loop?? | COMPLETED",
        check: |ran| assert_eq!(ran.said("l1"), "GO"),
    },
    Talk {
        name: "hitl-loop-retry, streamed",
        build: |kitchen| of(kitchen, "Hitl Loop Retry"),
        input: "go",
        turns: &[("iteration_review loop", no), ("iteration_review loop", yes)],
        status: RunStatus::Completed,
        told: "loop[#1 l1() loop?? | loop> #2 l1() loop?? | COMPLETED",
        check: |ran| assert_eq!(ran.said("l1"), "GO"),
    },
    Talk {
        name: "hitl-tool, streamed",
        build: |kitchen| of(kitchen, "Hitl Tool"),
        input: "TOOL=delete_file:{\"path\":\"/x\"} REPLY=done",
        turns: &[("tool_confirmation delete_file", yes)],
        status: RunStatus::Completed,
        told: "tool step(Careful Agent W? tool step:? | tool step:> Careful Agent W>) after() COMPLETED",
        check: |ran| {
            let tool = &ran.run.step_executor_runs[0].tools[0];
            assert_eq!((tool.result.as_deref(), tool.confirmed), (Some("deleted /x"), Some(true)));
        },
    },
];

/// The workflow of this name.
fn of(kitchen: &Kitchen, name: &str) -> WorkflowBuilder {
    let models = Models { responses: kitchen.responses.clone(), chat: kitchen.responses.clone() };
    let names = RefCell::new(Vec::new());
    let all = asking_people(&models, |name| {
        names.borrow_mut().push(name.to_owned());
        Workflow::builder(name)
    });
    let workflow = names.borrow().iter().zip(all).find_map(|(known, workflow)| (known == name).then_some(workflow));
    workflow.unwrap_or_else(|| panic!("no workflow {name:?}"))
}

talked_through!(TALKS);
