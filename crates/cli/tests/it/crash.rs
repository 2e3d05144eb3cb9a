//! A real SIGKILL in the middle of a model call, and what the next process makes of it.

use crate::fixture::{Done, Place};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

#[test]
fn a_killed_run_is_taken_up_and_only_the_call_in_flight_is_repeated() {
    let place = Place::new();
    let killed = place.command(&["demo", "--crash"]).output().unwrap();
    assert_eq!(killed.status.signal(), Some(9), "{killed:?}");
    let said = String::from_utf8(killed.stdout).unwrap();
    assert!(said.contains("✓ Research Step") && !said.contains("✓ Content Planning Step"), "{said}");
    assert!(said.contains("Go on with: outlive demo --resume"), "{said}");
    let left = place.run(&["show", "@last", "--db", "demo.db", "--json"]).exits(0).json();
    assert_eq!(left["status"], "interrupted");
    assert_eq!((&left["waiting"]["for"], &left["waiting"]["remedy"]["do"]), (&"worker".into(), &"start_worker".into()));
    assert_eq!(left["steps"][0]["status"], "completed");
    assert_eq!(left["steps"][1]["status"], "running");

    let resumed = place.run(&["demo", "--resume"]).exits(0).stdout;
    assert!(resumed.contains("Found 1 unfinished run: "), "{resumed}");
    assert!(resumed.contains("↷ Research Step") && resumed.contains("kept from before, not run again"), "{resumed}");
    assert!(resumed.contains("✓ Content Planning Step"), "{resumed}");
    assert!(resumed.contains("\nCompleted in "), "{resumed}");
    assert!(resumed.contains("Model calls before the crash: 7, repeated: 1 (the one in flight)"), "{resumed}");

    // What came out is what would have come out.
    let result = |id: &str| place.run(&["output", id, "--db", "demo.db"]).exits(0).stdout;
    let crashed = result("@last");
    place.run(&["demo"]).exits(0);
    assert_eq!(crashed, result("@last"));
}

#[test]
fn ctrl_c_stops_and_says_how_to_go_on() {
    let place = Place::new();
    let mut command = place.command(&["demo"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("● Research Step") {
        line.clear();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the demonstration ended before its first step");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let done = Done::from(child.wait_with_output().unwrap()).exits(130);
    assert!(done.stderr.contains("Stopped; continue with: outlive demo --resume"), "{}", done.stderr);
    let resumed = place.run(&["demo", "--resume"]).exits(0);
    assert!(resumed.stdout.contains("Completed in "), "{}", resumed.stdout);
}
