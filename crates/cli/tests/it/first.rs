//! The first minutes: what somebody meets who has just got the program and types what it says.

use crate::fixture::{Done, Place};
#[cfg(unix)]
use crate::running::Running;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

#[test]
fn what_the_demonstration_left_is_found_by_every_verb_in_its_folder() {
    let place = Place::new();
    let demo = place.run(&["demo", "--json"]).exits(0).json();
    assert!(!place.path(".outlive").exists());
    let list = place.run(&["ls", "--json"]).exits(0).json();
    assert_eq!(list["runs"][0]["id"], demo["id"]);
    place.run(&["show", "@last"]).exits(0);
    place.run(&["output", "@last"]).exits(0);
    let shown = place.run(&["config", "show", "--json", "--origin"]).exits(0).json();
    assert_eq!(shown["db"]["value"], "demo.db");
    assert_eq!(shown["db"]["origin"], "found here; .outlive/data.db does not exist");

    // What somebody chose, and a database of one's own, come first.
    let mut chosen = place.command(&["ls"]);
    chosen.env("OUTLIVE_DB", "other.db");
    let missing = Done::of(chosen).exits(3).stderr;
    assert!(missing.contains("no database at other.db"), "{missing}");
    place.run(&["demo", "--db", ".outlive/data.db"]).exits(0);
    let own = place.run(&["ls", "--json"]).exits(0).json();
    assert_ne!(own["runs"][0]["id"], demo["id"]);
    // Then the demonstration says where to look.
    let again = place.run(&["demo"]).exits(0).stdout;
    assert!(again.contains("outlive events @last --db demo.db"), "{again}");
}

/// What is left in `said` behind `mark`, to the end of the line.
#[cfg(unix)]
fn hint<'a>(said: &'a str, mark: &str) -> &'a str {
    said.lines().find_map(|line| Some(line.split_once(mark)?.1)).unwrap_or_else(|| panic!("no {mark:?} in {said}"))
}

#[cfg(unix)]
#[test]
fn a_printed_hint_is_a_command_that_works_as_it_stands() {
    for is_installed in [true, false] {
        let place = Place::new();
        let type_in = |line: &str| Done::of(place.shell(line, is_installed));
        let run = |arguments: &[&str]| {
            let mut command = place.command(&[arguments, &["--db", "my runs.db"]].concat());
            command.env("PATH", place.search_path(is_installed));
            Done::of(command)
        };
        let missing = run(&["ls"]).exits(3).stderr;
        let make = hint(&missing, "make one: ");
        assert_eq!(make == "outlive demo --db 'my runs.db'", is_installed, "{make}");
        type_in(make).exits(0);
        let accepted = run(&["run", "-d", "content-creation-demo", "AI"]).exits(0);
        let found = run(&["demo", "--resume"]).exits(0);
        assert!(found.stdout.contains("Found 1 unfinished run"), "{}", found.stdout);
        let watched = type_in(hint(&accepted.stderr, "Follow it with: ")).exits(0);
        assert!(watched.stdout.contains("Completed"), "{}", watched.stdout);
        let keys = run(&["keys", "ls"]).exits(0).stderr;
        assert!(type_in(hint(&keys, "make one with: ")).exits(0).stdout.starts_with("olv_"));
        let none = run(&["demo", "--resume"]).exits(3).stderr;
        let killed = type_in(hint(&none, "make something with: "));
        assert!(matches!(killed.code, None | Some(137)), "{}", killed.stderr);
        type_in(hint(&killed.stdout, "Go on with: ")).exits(0);
    }
}

/// Starts the command, reads its first lines and goes away. Its exit code, and what it said on standard error.
fn read_three_lines(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        lines.next().unwrap().unwrap();
    }
    drop(lines);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[test]
fn a_reader_that_goes_away_stops_no_run_that_this_process_executes() {
    let place = Place::new();
    let commands =
        [&["demo"][..], &["run", "content-creation-demo", "AI"], &["run", "content-creation-demo", "AI", "--json"]];
    for (count, arguments) in (1..).zip(commands) {
        let (code, said) = read_three_lines(place.command(&[arguments, &["--db", "runs.db"]].concat()));
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        let list = place.run(&["ls", "status:completed", "--json", "--db", "runs.db"]).exits(0).json();
        assert_eq!(list["runs"].as_array().map(Vec::len), Some(count), "{arguments:?}");
    }
}

#[test]
fn scopes_are_listed_and_what_is_none_is_refused_with_what_was_probably_meant() {
    let place = Place::new();
    let help = place.run(&["keys", "mint", "--help"]).exits(0).stdout;
    for scope in ["runs:read", "runs:write", "workflows:run", "sessions:delete", "metrics:read", "agent_os:admin"] {
        assert!(help.contains(scope), "{scope}: {help}");
    }
    for (scope, said) in [
        ("banana:peel", "outlive keys mint --help"),
        ("workflow:run", "did you mean workflows:run?"),
        ("runs:run-1:read", "did you mean runs:read?"),
        ("runs:read,banana:peel", "banana:peel"),
    ] {
        let refused = place.run(&["keys", "mint", "--scope", scope]).exits(2).stderr;
        assert!(refused.contains(said), "{scope}: {refused}");
    }
    assert!(!place.path(".outlive").exists(), "nothing is made for a key that is refused");
    let key = place.run(&["keys", "mint", "--scope", "runs:read,runs:write", "--scope", "workflows:x:run", "--json"]);
    assert_eq!(key.exits(0).json()["scopes"], serde_json::json!(["runs:read", "runs:write", "workflows:x:run"]));
}

#[test]
fn keys_and_audit_of_another_machine_are_not_looked_for_here() {
    let place = Place::new();
    for arguments in [&["keys", "mint", "--scope", "runs:read"][..], &["keys", "ls"], &["audit"]] {
        let mut command = place.command(arguments);
        command.env("OUTLIVE_SERVER", "http://127.0.0.1:9");
        let refused = Done::of(command).exits(2).stderr;
        assert!(refused.contains("$OUTLIVE_SERVER") && refused.contains("--db"), "{arguments:?}: {refused}");
    }
    assert!(!place.path(".outlive").exists());
    let mut named = place.command(&["keys", "mint", "--scope", "runs:read", "--db", "its.db"]);
    named.env("OUTLIVE_SERVER", "http://127.0.0.1:9");
    assert!(Done::of(named).exits(0).stderr.contains("Making the database its.db"));
}

#[cfg(unix)]
#[test]
fn a_key_with_the_scopes_of_runs_is_enough_for_every_verb_about_runs() {
    let place = Place::new();
    let key = place
        .run(&["keys", "mint", "--scope", "runs:read,runs:write,workflows:run", "--db", "runs.db", "-q"])
        .exits(0)
        .stdout;
    let narrow = place.run(&["keys", "mint", "--scope", "workflows:read", "--db", "runs.db", "-q"]).exits(0).stdout;
    let server = Running::serve(&place, &["--db", "runs.db"]);
    let ask = |arguments: &[&str], key: &str| {
        let mut command = place.command(arguments);
        command.env("OUTLIVE_SERVER", server.url()).env("OUTLIVE_TOKEN", key.trim());
        Done::of(command)
    };
    ask(&["run", "content-creation-demo", "AI"], &key).exits(0);
    for arguments in [&["ls"][..], &["show", "@last"], &["watch"], &["events", "@last"], &["output", "@last"]] {
        ask(arguments, &key).exits(0);
    }
    ask(&["rerun", "@last", "-d"], &key).exits(0);
    let refused = ask(&["run", "content-creation-demo", "AI"], &narrow).exits(4).stderr;
    assert!(
        refused.contains("runs:write") && refused.contains("--scope runs:read,runs:write,workflows:run"),
        "{refused}"
    );
    server.stop().exits(0);
}
