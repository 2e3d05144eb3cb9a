//! `outlive demo`, from its first line to its last.

use crate::fixture::Place;

#[test]
fn the_demonstration_runs_without_a_key_and_says_what_it_is() {
    let place = Place::new();
    let done = place.run(&["demo"]).exits(0);
    let said = &done.stdout;
    assert!(said.contains("scripted replies, not an AI"), "{said}");
    assert!(said.contains("✓ Research Step") && said.contains("2 members · 4 tool calls"), "{said}");
    assert!(said.contains("✓ Content Planning Step") && said.contains("Week 4"), "{said}");
    assert!(said.contains("\nCompleted in "), "{said}");
    assert!(done.stderr.contains("Using in-process engine, demo.db"), "{}", done.stderr);
    assert!(!said.lines().any(|line| line.ends_with(' ')), "no line ends in white space:\n{said}");

    // Another demonstration on the same database adds a run.
    let second = place.run(&["demo", "--json"]).exits(0).json();
    assert_eq!((&second["status"], &second["is_ai"]), (&"completed".into(), &false.into()));
    let list = place.run(&["ls", "--db", "demo.db", "--json"]).exits(0).json();
    assert_eq!(list["runs"].as_array().map(Vec::len), Some(2));
    assert_eq!(list["runs"][0]["id"], second["id"]);
}

#[test]
fn polling_asks_until_the_run_is_over() {
    let place = Place::new();
    let said = place.run(&["demo", "--poll", "500ms"]).exits(0).stdout;
    assert!(said.contains("Poll #2 (every 0.5 s): running"), "{said}");
    assert!(said.contains(": completed\n\nCompleted in "), "{said}");
}

#[test]
fn quiet_leaves_only_how_it_ended_and_a_time_limit_leaves_the_run_to_be_resumed() {
    let place = Place::new();
    let done = place.run(&["demo", "--timeout", "400ms"]).exits(13);
    assert!(done.stderr.contains("outlive demo --resume"), "{}", done.stderr);
    let resumed = place.run(&["demo", "--resume", "--quiet"]).exits(0);
    let lines: Vec<_> = resumed.stdout.trim().lines().collect();
    assert!(
        matches!(lines[..], [first, second] if first.starts_with("Completed in ") && second.starts_with("Model calls")),
        "{lines:?}"
    );
    assert_eq!(resumed.stderr, "");
}
