//! `outlive batch`, and what is done to all that match, on a file and on a server: the same to the letter.

use crate::fixture::Place;
use crate::running::Running;
use serde_json::{Value, json};

const START: [&str; 3] = ["batch", "content-creation-demo", "topics.txt"];

fn written(place: &Place, name: &str, text: &str) {
    std::fs::write(place.path(name), text).unwrap();
}

#[test]
fn a_batch_is_the_same_here_and_there() {
    let place = Place::new();
    written(&place, "topics.txt", "bees\nwasps\nhornets\n");
    let here = |arguments: &[&str]| place.on_runs(arguments);
    let started = here(&[&START[..], &["--id", "b1", "-d", "--concurrency", "2"]].concat()).exits(0);
    assert_eq!(started.stdout.trim(), "b1");
    let server = Running::serve(&place, &["--no-execute", "--db", "runs.db"]);
    let there = |arguments: &[&str]| place.run(&[&["--server", server.url()], arguments].concat());
    let both = |arguments: &[&str]| {
        let (here, there) = (here(arguments), there(arguments));
        assert_eq!((there.code, &there.stdout), (here.code, &here.stdout), "{arguments:?}: {}", there.stderr);
        here
    };
    // The same again is the one that is there, and gets nothing twice.
    let again = both(&[&START[..], &["--id", "b1", "-d", "--concurrency", "2", "--json"]].concat()).exits(0).json();
    assert_eq!(
        json!([again["id"], again["status"], again["items"], again["accepted"], again["counts"]["queued"]]),
        json!(["b1", "running", 3, 3, 3])
    );
    for refused in [
        both(&[&START[..], &["--id", "b1", "-d", "--concurrency", "3"]].concat()),
        both(&["batch", "content-creation-demo", "missing.txt", "-d"]),
        both(&["batch", "show", "nothing"]),
    ] {
        assert!(matches!(refused.code, Some(2 | 3 | 5)), "{refused:?}");
    }
    both(&["batch", "ls", "--time-format", "utc"]).exits(0);
    both(&["batch", "ls", "--workflow", "tea-shop", "--json"]).exits(0);
    let shown = both(&["batch", "show", "b1"]).exits(0).stdout;
    assert!(shown.contains("3 queued"), "{shown}");
    let late = both(&["batch", "wait", "@last", "--timeout", "50ms", "--json"]).exits(13).json();
    assert_eq!(late["counts"]["queued"], 3);
    let listed = both(&["ls", "batch:b1", "--json"]).exits(0).json();
    assert_eq!(listed["runs"].as_array().unwrap().len(), 3);
    // Cancelled there, tried again here.
    let cancelled = there(&["batch", "cancel", "b1", "--json"]).exits(0).json();
    assert!(cancelled["cancelled_at"].is_string(), "{cancelled}");
    let over = both(&["batch", "wait", "b1", "--json"]).exits(11).json();
    assert_eq!(json!([over["status"], over["counts"]["cancelled"]]), json!(["cancelled", 3]));
    let results = both(&["batch", "results", "b1"]).exits(0).stdout;
    let lines: Vec<Value> = results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        json!(lines.iter().map(|line| &line["status"]).collect::<Vec<_>>()),
        json!(["cancelled", "cancelled", "cancelled"])
    );
    assert!(both(&["batch", "retry", "b1", "-d", "--json"]).exits(0).json()["runs"].as_array().unwrap().is_empty());
    // There is nothing to wait for.
    assert_eq!(both(&["batch", "retry", "b1", "--json"]).exits(11).json()["counts"]["cancelled"], 3);
    let tried = here(&["batch", "retry", "b1", "--cancelled", "-d"]).exits(0).stdout;
    let items = both(&["batch", "results", "b1"]).exits(0).stdout;
    let runs: Vec<Value> =
        items.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["run"].clone()).collect();
    assert_eq!(json!(tried.lines().collect::<Vec<_>>()), json!(runs));
    // One by one: a page in each request, on either side.
    let mut runs: Vec<&str> = runs.iter().map(|run| run.as_str().unwrap()).collect();
    runs.sort_unstable();
    let seen = both(&["cancel", "--where", "batch:b1", "--dry-run", "--json"]).exits(0).json();
    let mut of: Vec<&str> = seen["runs"].as_array().unwrap().iter().map(|run| run["of"].as_str().unwrap()).collect();
    of.sort_unstable();
    assert_eq!(of, runs);
    there(&["cancel", "--where", "batch:b1", "status:pending"]).exits(0);
    assert_eq!(both(&["batch", "show", "b1", "--json"]).exits(0).json()["counts"]["cancelled"], 3);
    // Whoever stays is told how far it has come, as by the batch itself.
    let late = there(&["batch", "retry", "b1", "--cancelled", "--timeout", "50ms", "--json"]).exits(13);
    assert_eq!(late.json()["counts"]["queued"], 3);
    assert!(late.stderr.is_empty(), "{}", late.stderr);
    there(&["cancel", "--where", "batch:b1", "status:pending"]).exits(0);
    let audit = here(&["audit", "--kind", "batch_change", "--json"]).exits(0).stdout;
    assert!(audit.contains("\"cancelled\"") && audit.contains("\"created\""), "{audit}");
    server.stop().exits(0);
}

#[test]
fn a_batch_that_is_tried_again_is_executed_here_and_followed() {
    let place = Place::new();
    written(&place, "topics.txt", "bees\nwasps\n");
    place.on_runs(&[&START[..], &["--id", "b1", "-d"]].concat()).exits(0);
    place.on_runs(&["batch", "cancel", "b1"]).exits(0);
    let done = place.on_runs(&["batch", "retry", "b1", "--cancelled"]);
    assert!(done.stderr.contains("2 of batch b1 tried again"), "{}", done.stderr);
    assert!(done.stdout.starts_with("b1\n") && done.stdout.contains("2 completed"), "{}", done.stdout);
}

#[test]
fn a_batch_is_executed_here_and_its_results_are_in_order() {
    let place = Place::new();
    written(&place, "topics.jsonl", "\"bees\"\n\"wasps\"\n");
    let done = place.on_runs(&["batch", "content-creation-demo", "topics.jsonl", "-c", "2", "--json"]).exits(0).json();
    assert_eq!(json!([done["status"], done["items"], done["counts"]["completed"]]), json!(["completed", 2, 2]));
    let results = place.on_runs(&["batch", "results", "@last"]).exits(0).stdout;
    let lines: Vec<Value> = results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json!(lines.iter().map(|line| &line["index"]).collect::<Vec<_>>()), json!([0, 1]));
    assert!(
        lines.iter().all(|line| line["content"].as_str().is_some_and(|text| text.contains("Content plan"))),
        "{results}"
    );
}

#[test]
fn what_cannot_be_read_is_named_by_its_line_and_the_rest_goes_on() {
    let place = Place::new();
    written(&place, "topics.jsonl", "\"bees\"\n{\"topic\": }\n");
    let refused =
        place.on_runs(&["batch", "content-creation-demo", "topics.jsonl", "-d", "--id", "b1", "--json"]).exits(2);
    let error = refused.error();
    assert!(error["message"].as_str().unwrap().starts_with("topics.jsonl line 2: "), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--id b1"), "{error}");
    written(&place, "topics.jsonl", "\"bees\"\n\"wasps\"\n");
    place.on_runs(&["batch", "content-creation-demo", "topics.jsonl", "-d", "--id", "b1"]).exits(0);
    place.on_runs(&["batch"]).exits(2);
    place.on_runs(&["batch", "content-creation-demo"]).exits(2);
    place.on_runs(&["batch", "tea-shop", "topics.jsonl"]).exits(3);
}

#[test]
fn a_batch_is_deleted_the_same_here_and_there() {
    let place = Place::new();
    written(&place, "topics.txt", "bees\nwasps\nhornets\n");
    let here = |arguments: &[&str]| place.on_runs(arguments);
    here(&[&START[..], &["--id", "b1", "-d"]].concat()).exits(0);
    here(&["batch", "cancel", "b1"]).exits(0);
    here(&[&START[..], &["--id", "b2", "-d"]].concat()).exits(0);
    let server = Running::serve(&place, &["--no-execute", "--db", "runs.db"]);
    let there = |arguments: &[&str]| place.run(&[&["--server", server.url()], arguments].concat());
    let both = |arguments: &[&str]| {
        let (here, there) = (here(arguments), there(arguments));
        assert_eq!((there.code, &there.stdout), (here.code, &here.stdout), "{arguments:?}: {}", there.stderr);
        here
    };
    let items = both(&["batch", "results", "b1"]).exits(0).stdout;
    let lines: Vec<Value> = items.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let run = lines[1]["run"].as_str().unwrap();
    let shown = both(&["show", run, "--json"]).exits(0).json();
    assert_eq!((&shown["batch_id"], &shown["batch_item"]), (&json!("b1"), &json!(1)));
    let shown = here(&["show", run]).exits(0).stdout;
    assert!(shown.contains("b1, item 1"), "{shown}");
    // What is asked for is what goes, on either side: no filter is lost on the way.
    for (arguments, runs) in [
        (&["prune", "--where", "batch:b1", "--dry-run", "--json"][..], 3),
        (&["prune", "--older-than", "0s", "--where", "batch:none", "--dry-run", "--json"], 0),
        (&["prune", "--keep", "1", "--where", "batch:b1", "--dry-run", "--json"], 2),
        // Its runs have not ended.
        (&["prune", "--where", "batch:b2", "--dry-run", "--json"], 0),
    ] {
        assert_eq!(both(arguments).exits(0).json()["runs"], runs, "{arguments:?}");
    }
    there(&["prune", "--keep", "1", "--where", "batch:b1", "--yes"]).exits(0);
    let left = both(&["batch", "show", "b1", "--json"]).exits(0).json();
    assert_eq!(json!([left["accepted"], left["counts"]["deleted"]]), json!([1, 2]));
    assert!(both(&["batch", "show", "b1"]).exits(0).stdout.contains("2 deleted"));
    let items = both(&["batch", "results", "b1"]).exits(0).stdout;
    let lines: Vec<Value> = items.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let runs: Vec<bool> = lines.iter().map(|line| line["run"].is_string()).collect();
    assert_eq!((runs.len(), runs.iter().filter(|is_there| **is_there).count()), (3, 1), "{items}");
    here(&["prune", "--where", "batch:b1", "--yes"]).exits(0);
    both(&["batch", "show", "b1"]).exits(3);
    both(&["batch", "show", "b2"]).exits(0);
    server.stop().exits(0);
}

#[test]
fn a_batch_of_a_files_workflow_needs_no_other_process() {
    let place = Place::new();
    let text = "version: 1\nmodel: demo\nstore: sqlite:runs.db\nagents: { a: {} }\nworkflows: { talk: { steps: [{ step: A, agent: a }] } }\n";
    written(&place, "talk.yaml", text);
    written(&place, "topics.txt", "bees\nwasps\n");
    let done =
        place.run(&["batch", "talk", "topics.txt", "--file", "talk.yaml", "--id", "b1", "--json"]).exits(0).json();
    assert_eq!(json!([done["status"], done["counts"]["completed"]]), json!(["completed", 2]));
    let results = place.on_runs(&["batch", "results", "b1"]).exits(0).stdout;
    assert!(results.contains("bees") && results.contains("wasps"), "{results}");
    place.run(&["batch", "retry", "b1", "--file", "talk.yaml"]).exits(0);
    let unknown = place.run(&["batch", "tolk", "topics.txt", "--file", "talk.yaml", "-d"]);
    assert!(unknown.code != Some(0) && unknown.stderr.contains("tolk"), "{unknown:?}");
}
