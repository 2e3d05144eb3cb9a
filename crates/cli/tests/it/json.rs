//! What programs read: one document, or one object a line; statuses in lower case; RFC 3339 in UTC.

use crate::fixture::Place;
use serde_json::Value;

fn is_rfc3339_utc(value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    text.len() == "2023-11-14T22:13:20.123Z".len() && text.ends_with('Z') && text.as_bytes()[10] == b'T'
}

#[test]
fn a_list_is_an_object_with_its_runs_newest_first() {
    let list = Place::with_runs().on_runs(&["ls", "--json"]).exits(0).json();
    let runs = list["runs"].as_array().unwrap();
    let ids: Vec<_> = runs.iter().map(|run| run["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["order-4", "order-3", "order-2", "order-1"]);
    let statuses: Vec<_> = runs.iter().map(|run| run["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["pending", "cancelled", "error", "completed"]);
    assert!(is_rfc3339_utc(&runs[0]["created_at"]), "{}", runs[0]);
    assert_eq!(list["more"], false);
}

#[test]
fn filters_narrow_the_list_and_a_limit_says_that_there_is_more() {
    let place = Place::with_runs();
    let ids = |filters: &[&str]| {
        let list = place.on_runs(&[&["ls", "--json"], filters].concat()).exits(0).json();
        let ids: Vec<_> = list["runs"].as_array().unwrap().iter().map(|run| run["id"].clone()).collect();
        (Value::from(ids), list["more"] == true)
    };
    assert_eq!(ids(&["status:error,cancelled"]), (serde_json::json!(["order-3", "order-2"]), false));
    assert_eq!(ids(&["session:till-1", "status:completed"]), (serde_json::json!(["order-1"]), false));
    assert_eq!(ids(&["user:ada"]), (serde_json::json!(["order-1"]), false));
    assert!(ids(&["workflow:Coffee Shop", "since:1d", "-n", "3"]).1);
    assert_eq!(ids(&["workflow:tea-shop"]), (serde_json::json!([]), false));
    assert_eq!(ids(&["since:0s"]), (serde_json::json!([]), false));
}

#[test]
fn a_run_is_shown_with_its_steps_and_its_result() {
    let place = Place::with_runs();
    let run = place.on_runs(&["show", "order-1", "--json"]).exits(0).json();
    assert_eq!(run["status"], "completed");
    assert_eq!(run["input"], "order-1 please");
    assert_eq!(run["content"], "# Done\n\n**order-1 please**");
    assert_eq!(run["steps"][0]["name"], "Brew");
    assert_eq!(run["steps"][0]["status"], "completed");
    assert!(run["duration_ms"].is_u64(), "{run}");
    let failed = place.on_runs(&["show", "order-2", "--json"]).exits(0).json();
    assert_eq!(failed["steps"][0]["status"], "error");
    assert!(failed["error"].as_str().unwrap().contains("is on fire"), "{failed}");
}

#[test]
fn events_are_one_object_a_line_numbered_without_a_gap() {
    let place = Place::with_runs();
    let read = |arguments: &[&str]| {
        let done = place.on_runs(&[&["events", "order-1", "--json"], arguments].concat()).exits(0);
        done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let events = read(&[]);
    let indexes: Vec<_> = events.iter().map(|event| event["event_index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (0..events.len() as u64).collect::<Vec<_>>());
    assert_eq!(events[0]["event"], "WorkflowStarted");
    assert_eq!(events[events.len() - 1]["event"], "WorkflowCompleted");
    assert!(is_rfc3339_utc(&events[0]["created_at"]), "{}", events[0]);
    assert_eq!(read(&["--after", "0"])[..], events[1..]);
    // Following a run that is over is reading it.
    assert_eq!(read(&["-f"]), events);
}

#[test]
fn a_result_and_a_cancel_are_one_document_each() {
    let place = Place::with_runs();
    let result = place.on_runs(&["output", "order-1", "--json"]).exits(0).json();
    assert_eq!((&result["id"], &result["status"]), (&"order-1".into(), &"completed".into()));
    assert_eq!(place.on_runs(&["output", "order-2", "--json"]).exits(10).json()["status"], "error");
    let cancelled = place.on_runs(&["cancel", "order-4", "--json"]).exits(0).json();
    assert_eq!(cancelled["runs"][0]["status"], "cancelled");
}
