//! `outlive workflow diff`: what it says of a run is what then happens to it.

use crate::fixture::{Done, Place};
use outlive::prelude::*;
use outlive::{Options, RunStatus};
use serde_json::{Value, json};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

/// A workflow of these steps, in `runs.db`; the step `Wait` never ends.
fn workflow(place: &Place, steps: &[&str]) -> Workflow {
    let step = |name: &&str| {
        let waits = *name == "Wait";
        Step::function(name, move |_, input: Arc<StepInput>| async move {
            if waits {
                std::future::pending::<()>().await;
            }
            Ok::<_, Failure>(input.text())
        })
    };
    let options = Options { shutdown_grace: Duration::ZERO, ..Options::default() };
    let builder = Workflow::builder("Tea House").db(SqliteDb::new(place.path("runs.db"))).options(options);
    builder.steps(steps.iter().map(step)).build().unwrap()
}

/// A run that stands in its second step, held by nobody, and one that has not begun.
fn stage() -> Place {
    let place = Place::new();
    block_on(async {
        let workflow = workflow(&place, &["Plan", "Wait"]);
        let run = workflow.run("tea").run_id("run-1").session_id("s").background().await.unwrap();
        workflow.run("tea").run_id("run-2").session_id("s").background().await.unwrap();
        let mut events = run.events(None);
        let mut begun = 0;
        while begun < 2 {
            begun += usize::from(events.next().await.unwrap().unwrap().name() == "StepStarted");
        }
        workflow.shutdown().await.unwrap();
    });
    place
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn told(place: &Place, steps: &[&str], more: &[&str]) -> Done {
    let json = workflow(place, steps).to_json().to_string();
    std::fs::write(place.path("new.json"), json).unwrap();
    place.on_runs(&[&["workflow", "diff", "new.json"], more].concat())
}

#[test]
fn what_is_told_of_a_run_is_what_then_happens_to_it() {
    for (steps, path) in [
        (&["Plan", "Brew", "Serve"][..], Some("steps[1]: was a function step \"Wait\", is a function step \"Brew\"")),
        (&["Think", "Plan", "Wait"], Some("steps[0]: was a function step \"Plan\", is a function step \"Think\"")),
        (&["Plan"], Some("steps[1]: was a function step \"Wait\", is nothing")),
        (&["Plan", "Wait", "Serve"], None),
    ] {
        let place = stage();
        let code = if path.is_some() { 5 } else { 0 };
        let done = told(&place, steps, &[]).exits(code);
        match path {
            Some(path) => {
                assert!(done.stdout.contains(&format!("pauses: definition changed: {path}")), "{}", done.stdout);
                assert!(done.stdout.contains("run-1") && !done.stdout.contains("run-2"), "{}", done.stdout);
                assert!(done.stdout.ends_with("1 of 2 unfinished runs of tea-house can go on\n"), "{}", done.stdout);
            }
            None => assert_eq!(done.stdout, "2 of 2 unfinished runs of tea-house can go on\n"),
        }
        let document = told(&place, steps, &["--json"]).exits(code).json();
        assert_eq!((&document["workflow_id"], &document["ok"]), (&json!("tea-house"), &json!(path.is_none())));
        let outlook = if path.is_some() { "pauses" } else { "goes_on" };
        let expected = [(json!("run-1"), json!(outlook)), (json!("run-2"), json!("goes_on"))];
        let runs: Vec<_> = document["runs"].as_array().unwrap().iter().collect();
        let shown: Vec<_> = runs.iter().map(|run| (run["run_id"].clone(), run["outlook"].clone())).collect();
        assert_eq!(shown, expected);

        block_on(async {
            let after = workflow(&place, steps);
            let run = after.attach("run-1").await.unwrap();
            if path.is_some() {
                assert_eq!(run.wait().await.unwrap().status, RunStatus::Paused);
            } else {
                let mut events = run.events(None);
                while events.next().await.unwrap().unwrap().name() != "CustomEvent" {}
            }
            after.shutdown().await.unwrap();
        });
        if let Some(path) = path {
            let shown = place.on_runs(&["show", "run-1"]).exits(0).stdout;
            assert!(shown.contains(path), "{shown}");
            let reason: &Value = &runs[0]["reason"];
            assert!(shown.contains(reason.as_str().unwrap()), "{shown}");
            // It waits for a person. An answer alone does not help; the definition it began with does.
            let again = told(&place, steps, &["--json"]).exits(5).json();
            assert_eq!((&again["runs"][0]["outlook"], &again["runs"][0]["reason"]), (&json!("pauses"), reason));
            let again = told(&place, steps, &[]).exits(5).stdout;
            assert!(again.contains("waits for a person, then pauses: definition changed: "), "{again}");
            let mended = told(&place, &["Plan", "Wait"], &[]).exits(0).stdout;
            assert!(mended.contains("waits for a person, then goes on"), "{mended}");
            assert!(mended.ends_with("2 of 2 unfinished runs of tea-house can go on\n"), "{mended}");
        }
    }
}

#[test]
fn a_definition_comes_from_a_file_or_from_standard_input() {
    let place = stage();
    let json = workflow(&place, &["Plan", "Wait"]).to_json().to_string();
    let mut command = place.command(&["--db", "runs.db", "workflow", "diff", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), json.as_bytes()).unwrap();
    let done = Done::from(child.wait_with_output().unwrap()).exits(0);
    assert_eq!(done.stdout, "2 of 2 unfinished runs of tea-house can go on\n");

    let diff = |file: &str, text: &str| {
        std::fs::write(place.path(file), text).unwrap();
        place.on_runs(&["workflow", "diff", file, "--json"])
    };
    let other = json!({ "name": "Other", "steps": [{ "name": "a", "executor_ref": "a" }] }).to_string();
    let document = diff("other.json", &other).exits(0).json();
    assert_eq!((&document["workflow_id"], &document["runs"]), (&json!("other"), &json!([])));
    for (text, hint) in [
        ("tea", "it is not JSON"),
        (r#"{"name": "A", "steps": [{"name": "b"}], "colour": 1}"#, "steps[0]: it must have one of agent_id"),
        (r#"{"name": "A", "steps": [{"name": "b"}], "colour": 1}"#, "colour: nothing has this key here"),
    ] {
        let error = diff("bad.json", text).exits(2).error();
        assert_eq!(error["code"], "invalid_definition");
        assert!(error["hint"].as_str().unwrap().contains(hint), "{error}");
    }
    assert_eq!(
        place.on_runs(&["workflow", "diff", "gone.json", "--json"]).exits(3).error()["code"],
        "input_unreadable"
    );
    let nowhere = place.run(&["workflow", "diff", "bad.json", "--db", "gone.db", "--json"]);
    assert_eq!(nowhere.code, Some(2), "the definition is read first: {}", nowhere.stderr);
    place.run(&["workflow", "diff", "other.json", "--db", "gone.db"]).exits(3);
    let served = place.run(&["workflow", "diff", "other.json", "--server", "http://127.0.0.1:9"]).exits(2);
    assert!(served.stderr.contains("outlive workflow works only on this machine"), "{}", served.stderr);
}
