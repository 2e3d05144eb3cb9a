//! The shapes others read: equal, key for key, to what Agno writes. The golden files hold recorded shapes with made-up
//! values.

use outlive_core::{RunEvent, RunStatus, WorkflowRunOutput};
use serde_json::Value;

/// Reads `text` as a `T`, writes it again, and demands the same JSON.
fn assert_round_trip<T: serde::Serialize + serde::de::DeserializeOwned>(text: &str) -> T {
    let recorded: Value = serde_json::from_str(text).unwrap();
    let read: T = serde_json::from_str(text).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    assert_eq!(diff("", &recorded, &written), Vec::<String>::new());
    read
}

/// Every place where two values differ.
fn diff(path: &str, recorded: &Value, written: &Value) -> Vec<String> {
    match (recorded, written) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            let at = |key: &String| format!("{path}.{key}");
            keys.into_iter()
                .flat_map(|key| match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => diff(&at(key), a, b),
                    (Some(_), None) => vec![format!("{} is lost", at(key))],
                    (None, _) => vec![format!("{} is new", at(key))],
                })
                .collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().flat_map(|(i, (a, b))| diff(&format!("{path}[{i}]"), a, b)).collect()
        }
        (a, b) if a == b => Vec::new(),
        (a, b) => vec![format!("{path}: {a} became {b}")],
    }
}

#[test]
fn a_completed_run_has_agnos_shape() {
    let run: WorkflowRunOutput = assert_round_trip(include_str!("../golden/workflow_run_completed.json"));
    assert_eq!(run.status, RunStatus::Completed);
    assert_eq!(run.step_results.len(), 2);
    assert_eq!(run.step_executor_runs[0].member_responses.len(), 2);
}

#[test]
fn a_running_run_has_agnos_shape() {
    let run: WorkflowRunOutput = assert_round_trip(include_str!("../golden/workflow_run_running.json"));
    assert!(!run.has_completed());
}

#[test]
fn a_cancelled_run_has_agnos_shape_and_is_over() {
    let run: WorkflowRunOutput = assert_round_trip(include_str!("../golden/workflow_run_cancelled.json"));
    assert!(run.has_completed());
}

#[test]
fn keys_of_a_run_are_written_in_agnos_order() {
    let recorded = include_str!("../golden/workflow_run_completed.json");
    let run: WorkflowRunOutput = serde_json::from_str(recorded).unwrap();
    let written = serde_json::to_string(&run).unwrap();
    let place = |key: &str| written.find(&format!("\"{key}\":")).unwrap();
    let order = ["input", "content", "workflow_id", "run_id", "status", "metadata", "step_results"];
    assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])), "{written}");
}

#[test]
fn every_event_has_agnos_shape() {
    let mut names = std::collections::BTreeSet::new();
    for line in include_str!("../golden/events.jsonl").lines() {
        let event: RunEvent = assert_round_trip(line);
        names.insert(event.name());
    }
    assert!(names.len() >= 29, "{names:?}");
}

#[test]
fn only_the_end_of_the_outermost_workflow_is_terminal() {
    let lines = include_str!("../golden/events.jsonl").lines();
    for event in lines.map(|line| serde_json::from_str::<RunEvent>(line).unwrap()) {
        let ends = matches!(event.name(), "WorkflowCompleted" | "WorkflowError");
        assert_eq!(event.is_terminal(), ends && event.origin.nested_depth == 0, "{event:?}");
    }
}
