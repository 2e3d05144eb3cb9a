//! The verbs against a server: the same as on the database at hand, to the letter.

use crate::fixture::{Done, Place};
use crate::running::{KEY, Running};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// The verb, asking this server.
fn there(place: &Place, server: &Running, arguments: &[&str]) -> Command {
    let mut command = place.command(arguments);
    command.env("OUTLIVE_SERVER", server.url());
    command
}

/// A place with runs, and a server on them that executes nothing.
fn served_runs() -> (Place, Running) {
    let place = Place::with_runs();
    let server = Running::serve(&place, &["--no-execute", "--db", "runs.db"]);
    (place, server)
}

#[test]
fn every_verb_that_reads_says_the_same_here_and_there() {
    let (place, server) = served_runs();
    let mut count = 0;
    for line in [
        "ls",
        "ls -n 2",
        "ls status:error,cancelled",
        "ls session:till-1 user:ada since:1d",
        "ls workflow:coffee-shop -n 3",
        "ls workflow:tea-shop",
        "show order-1",
        "show order-2",
        "show order-3",
        "show order-4",
        "show @last",
        "show @last-failed",
        "show order-9",
        "show ord",
        "show order",
        "show @first",
        "events order-1",
        "events order-2 --after 1",
        "events order-3 -f",
        "events order-1 -f --after 2",
        "events order-4 -f --timeout 100ms",
        "events order-4",
        "output order-1",
        "output order-2",
        "output order-3",
        "output order-4",
        "watch order-1",
        "watch order-1 -q",
        "watch order-2",
        "watch order-3",
        "watch --timeout 100ms",
        "cancel order-1",
        "cancel order-4 order-9",
        "rerun order-1 -d",
        "retry order-2 -d",
        "fork order-1 0 -d",
    ] {
        for extra in [&["--time-format", "utc"][..], &["--json"]] {
            let arguments: Vec<&str> = line.split(' ').chain(extra.iter().copied()).collect();
            let here = place.on_runs(&arguments);
            let there = Done::of(there(&place, &server, &arguments));
            assert_eq!(there.code, here.code, "{line} {extra:?}: {} {}", there.stderr, here.stderr);
            assert_eq!(there.stdout, here.stdout, "{line} {extra:?}");
            let is_silent = extra == ["--json"] || line.ends_with("-q");
            let choice = format!("Using server {}\n", server.url());
            assert_eq!(there.stderr.starts_with(&choice), !is_silent, "{line} {extra:?}: {}", there.stderr);
            count += usize::from(!here.stdout.is_empty());
        }
    }
    assert!(count > 40, "only {count} of them said anything");
    server.stop().exits(0);
}

#[test]
fn a_cancel_is_the_same_here_and_there() {
    let shown = |mut command: Command| {
        command.args(["cancel", "order-4", "--reason", "closing time"]);
        Done::of(command).exits(0).stdout
    };
    let reason = |place: &Place| {
        let shown = place.on_runs(&["show", "order-4", "--json"]).exits(0).json();
        (
            shown["status"].clone(),
            shown["cancel_reason"].clone(),
            shown["cancel_requested"].clone(),
            shown["events"].clone(),
        )
    };
    let here = Place::with_runs();
    let said = shown(here.command(&["--db", "runs.db"]));
    let (place, server) = served_runs();
    assert_eq!(shown(there(&place, &server, &[])), said);
    assert_eq!(reason(&place), reason(&here));
    let again = Done::of(there(&place, &server, &["cancel", "order-4", "--json"])).exits(5).error();
    assert_eq!(again["code"], "run_over");
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let (place, server) = served_runs();
    std::fs::write(place.path("outlive.toml"), "server = \"http://127.0.0.1:9\"\n").unwrap();
    let asked = |arguments: &[&str], variable: &str| {
        let mut command = place.command(&[&["show", "order-1"], arguments].concat());
        command.env("OUTLIVE_SERVER", variable);
        Done::of(command)
    };
    let nobody = asked(&[], "").exits(6);
    assert!(
        nobody.stderr.contains("http://127.0.0.1:9") && nobody.stderr.contains("outlive serve"),
        "{}",
        nobody.stderr
    );
    assert_eq!(asked(&["--json"], "").exits(6).error()["code"], "server_unreachable");
    asked(&[], server.url()).exits(0);
    asked(&["--server", server.url()], "http://127.0.0.1:9").exits(0);
    let here = asked(&["--db", "runs.db"], "http://127.0.0.1:9").exits(0);
    assert!(!here.stderr.contains("server"), "{}", here.stderr);
    asked(&["--db", "runs.db", "--server", server.url()], "").exits(2);
    let settings = asked(&["--db", "runs.db"], server.url());
    settings.exits(0);
    let shown = place.run(&["config", "show", "--json", "--origin", "--server", "http://a"]).exits(0).json();
    assert_eq!((&shown["server"]["value"], &shown["server"]["origin"]), (&"http://a".into(), &"--server".into()));
}

#[test]
fn verbs_of_this_machine_refuse_a_server_and_ignore_the_setting() {
    let place = Place::new();
    for verb in [&["demo"][..], &["serve"], &["worker"], &["keys", "ls"]] {
        let done = place.run(&[verb, &["--server", "http://127.0.0.1:9"]].concat()).exits(2);
        assert!(done.stderr.contains("works only on this machine"), "{}", done.stderr);
    }
    let mut command = place.command(&["keys", "ls"]);
    command.env("OUTLIVE_SERVER", "http://127.0.0.1:9");
    assert_ne!(Done::of(command).code, Some(6));
}

#[test]
fn an_address_that_is_none_or_holds_a_credential_is_refused_and_not_shown() {
    let place = Place::new();
    for address in ["here", "ftp://a", "http://ada:hunter2@127.0.0.1:9", "http://127.0.0.1:9/?token=hunter2"] {
        let done = place.run(&["ls", "--server", address]).exits(7);
        assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
    }
    for address in ["http://ada:hunter2@127.0.0.1:9", "http://127.0.0.1:9/?token=hunter2"] {
        let done = place.run(&["config", "show", "--server", address]).exits(7);
        assert!(done.stderr.contains("OUTLIVE_TOKEN") && !done.stderr.contains("hunter2"), "{}", done.stderr);
    }
}

#[test]
fn four_the_token_opens_the_server_and_is_never_shown() {
    let place = Place::with_runs();
    let mut command = place.command(&["serve", "--addr", "127.0.0.1:0", "--no-execute", "--db", "runs.db"]);
    command.env("OS_SECURITY_KEY", KEY);
    let server = Running::start(&mut command);
    let ask = |arguments: &[&str], token: &str| {
        let mut command = there(&place, &server, arguments);
        command.env("OUTLIVE_TOKEN", token).env("OUTLIVE_LOG", "trace");
        let done = Done::of(command);
        assert!(token.is_empty() || !format!("{}{}", done.stdout, done.stderr).contains(token), "{}", done.stderr);
        done
    };
    ask(&["show", "order-1"], KEY).exits(0);
    ask(&["watch", "order-1"], KEY).exits(0);
    ask(&["doctor"], KEY).exits(0);
    for token in ["", "wrong-token-nobody-may-see"] {
        for verb in [&["ls"][..], &["show", "order-1"], &["watch"], &["cancel", "order-4"], &["run", "x"], &["doctor"]]
        {
            let done = ask(verb, token).exits(4);
            let said = format!("{}{}", done.stdout, done.stderr);
            assert!(said.contains("OUTLIVE_TOKEN"), "{said}");
        }
    }
    let mut command = there(&place, &server, &["ls", "--json"]);
    let error = Done::of({
        command.env("OUTLIVE_TOKEN", "wrong");
        command
    });
    assert_eq!(error.exits(4).error()["retryable"], false);
    let mut command = place.command(&["doctor"]);
    command.env("OUTLIVE_TOKEN", KEY);
    let done = Done::of(command).exits(0);
    assert!(!done.stdout.contains("OUTLIVE_TOKEN is not a setting"), "{}", done.stdout);
}

/// What is printed, without how long it took.
fn timeless(text: &str) -> String {
    let is_time = |word: &&str| word.parse::<f64>().is_err();
    let line = |line: &str| line.split_whitespace().filter(is_time).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_run_is_started_watched_and_repeated_the_same_way_here_and_there() {
    let place = Place::new();
    let here = place.run(&["run", "Content Creation Demo", "AI trends"]).exits(0);
    assert!(here.stdout.contains("✓ Research Step") && here.stdout.contains("\nCompleted in "), "{}", here.stdout);

    let elsewhere = Place::new();
    let server = Running::serve(&elsewhere, &[]);
    let ask = |arguments: &[&str]| Done::of(there(&place, &server, arguments));
    let run = ask(&["run", "content-creation-demo", "AI trends"]).exits(0);
    assert_eq!(timeless(&run.stdout), timeless(&here.stdout));

    std::fs::write(place.path("topic.txt"), "AI trends").unwrap();
    let started =
        ask(&["run", "-d", "content-creation-demo", "@topic.txt", "--session", "s-1", "--idempotency-key", "k"]);
    let id = started.exits(0).stdout.trim().to_owned();
    let repeated = ["run", "-d", "content-creation-demo", "AI trends", "--session", "s-1", "--idempotency-key", "k"];
    let repeated = ask(&[&repeated[..], &["--json"]].concat()).exits(0).json();
    assert_eq!((&repeated["id"], &repeated["repeated"]), (&Value::from(id.clone()), &true.into()));
    assert_eq!(timeless(&ask(&["watch", &id]).exits(0).stdout), timeless(&here.stdout));
    let again = ask(&["rerun", &id]).exits(0);
    assert_eq!(timeless(&again.stdout), timeless(&here.stdout));
    let last = ask(&["show", "@last", "--json"]).exits(0).json();
    assert_eq!((&last["input"], &last["session_id"]), (&"AI trends".into(), &"s-1".into()));
    assert_eq!(last["rerun_of"], id);
    assert!(ask(&["show", "@last"]).exits(0).stdout.contains(&format!("of {id}")), "the earlier run is named");
    let place_of = ["fork", &id, "Content Planning Step"];
    let preview = ask(&[&place_of[..], &["--preview", "--json"]].concat()).exits(0).json();
    let kinds: Vec<_> = preview["again"].as_array().unwrap().iter().map(|call| call["kind"].clone()).collect();
    assert_eq!((kinds, preview["kept_calls"].as_u64() > Some(3)), (vec!["model".into()], true), "{preview}");
    let said = ask(&[&place_of[..], &["--dry-run"]].concat()).exits(0).stdout;
    assert!(said.contains("Makes again, as far as it comes to them: 1 call"), "{said}");
    let forked = ask(&place_of).exits(0).stdout;
    assert!(forked.contains("\nCompleted in "), "{forked}");
    let fork = ask(&["show", "@last", "--json"]).exits(0).json();
    assert_eq!(
        (&fork["forked_from"]["run_id"], fork["resumes"].as_u64()),
        (&Value::from(id.clone()), Some(0)),
        "{fork}"
    );
    assert_ne!(fork["session_id"], "s-1", "it has a session of its own");
    assert!(ask(&["show", "@last"]).exits(0).stdout.contains(&format!("of {id} at event ")));
    assert_eq!(ask(&["retry", &id, "--json"]).exits(5).error()["code"], "cannot_fork");
    assert_eq!(ask(&["fork", &id, "Nothing", "--json"]).exits(5).error()["code"], "cannot_fork");
    let unasked = ["fork", &id, "Content Planning Step", "--answer", r#"{"do": "edit", "output": "x"}"#, "--json"];
    let unasked = ask(&unasked).exits(5).error();
    assert!(unasked["message"].as_str().unwrap().contains("no question was answered at"), "{unasked}");
    for wrong in ["perhaps", "{", r#"{"do": "edit"}"#] {
        let refused = ask(&["fork", &id, "0", "--answer", wrong, "--json"]).exits(2).error();
        assert_eq!(refused["code"], "invalid_answer", "{refused}");
    }
    let outputs: Vec<String> =
        [place.run(&["output", "@last"]), ask(&["output", "@last"])].map(|done| done.exits(0).stdout).into();
    assert_eq!(outputs[0], outputs[1]);
    ask(&["run", "nothing", "x"]).exits(3);
    server.stop().exits(0);
}

#[test]
fn all_that_match_are_cancelled_or_started_again() {
    let place = Place::new();
    let start = |input: &str| {
        let done = place.run(&["run", "-d", "content-creation-demo", input, "--delay", "7d"]).exits(0);
        done.stdout.trim().to_owned()
    };
    let ids = [start("one"), start("two"), start("three")];
    let list = |what: &[&str]| -> Vec<String> {
        let done = place.run(&[&["ls", "--json"], what].concat()).exits(0).json();
        done["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
    };
    place.run(&["cancel", "--where", "status:nonsense"]).exits(2);
    place.run(&["cancel", "@last", "--where", "status:pending"]).exits(2);
    place.run(&["cancel"]).exits(2);
    let none = place.run(&["cancel", "--where", "workflow:other", "--json"]).exits(0).json();
    assert_eq!(none["runs"], Value::Array(Vec::new()));
    let done = place.run(&["cancel", "--where", "status:pending", "since:1h", "--json"]).exits(0).json();
    let told: Vec<_> = done["runs"].as_array().unwrap().iter().map(|run| (&run["id"], &run["status"])).collect();
    let expected: Vec<_> = ids.iter().map(|id| Value::from(id.as_str())).collect();
    let cancelled = Value::from("cancelled");
    assert_eq!(told, expected.iter().map(|id| (id, &cancelled)).collect::<Vec<_>>(), "oldest first");
    let again = place.run(&["rerun", "--where", "status:cancelled", "--json"]).exits(0).json();
    let of = |done: &Value| done["runs"].as_array().unwrap().iter().map(|run| run["of"].clone()).collect::<Vec<_>>();
    assert_eq!(of(&again), expected);
    assert_eq!(list(&["status:pending"]).len(), 3);
    // A look starts nothing.
    for verb in ["retry", "rerun"] {
        let seen = place.run(&[verb, "--where", "status:cancelled", "--dry-run", "--json"]).exits(0).json();
        assert_eq!(of(&seen), expected, "{verb}");
    }
    let pending = place.run(&["cancel", "--where", "workflow:content-creation-demo", "--dry-run"]).exits(0).stdout;
    assert_eq!(pending.lines().filter(|line| line.ends_with("  pending")).count(), 3, "{pending}");
    assert_eq!(list(&["status:pending"]).len(), 3);
    assert!(place.run(&["cancel", "@last", "--dry-run"]).exits(0).stdout.ends_with("  pending\n"));
    assert_eq!(list(&["status:pending"]).len(), 3);
    let tried = place.run(&["retry", "--where", "status:cancelled", "--json"]).exits(0).json();
    assert_eq!(of(&tried), expected);
    let repeated = place.run(&["retry", "--where", "status:cancelled", "--json"]).exits(0).json();
    let ids_of =
        |done: &Value| done["runs"].as_array().unwrap().iter().map(|run| run["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids_of(&tried), ids_of(&repeated), "each is tried again once");
    assert_eq!(list(&["status:pending"]).len(), 6);
    // One that is refused stops no other: nothing of this workflow can be started here.
    let runs = Place::with_runs();
    let refused = runs.on_runs(&["rerun", "--where", "status:error,completed", "--json"]);
    assert_eq!(refused.json()["runs"], Value::Array(Vec::new()));
    refused.exits(3);
}

#[test]
fn without_a_server_only_the_demonstrations_workflow_is_known() {
    let place = Place::new();
    let done = place.run(&["run", "nothing", "x"]).exits(3);
    assert!(done.stderr.contains("--server"), "{}", done.stderr);
    assert!(!place.path(".outlive").exists(), "a run that is refused makes no database");
    place.run(&["run", "content-creation-demo", "@nothing.txt"]).exits(3);
    place.run(&["run", "content-creation-demo", "--json-input", "{"]).exits(2);
    place.run(&["run", "content-creation-demo", "x", "--json-input", "1"]).exits(2);
    let done = place.run(&["run", "-d", "content-creation-demo", "x"]).exits(0);
    assert!(done.stderr.contains("outlive worker"), "{}", done.stderr);
    let id = done.stdout.trim();
    assert_eq!(place.run(&["show", id, "--json"]).exits(0).json()["status"], "pending");
    let runs = Place::with_runs();
    runs.on_runs(&["rerun", "order-1"]).exits(3);
}

#[test]
fn input_comes_from_standard_input_too() {
    let place = Place::new();
    let mut command = place.command(&["run", "-d", "content-creation-demo", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    let id = Done::from(child.wait_with_output().unwrap()).exits(0).stdout;
    assert_eq!(place.run(&["show", id.trim(), "--json"]).exits(0).json()["input"], "from a pipe");
}

#[test]
fn ctrl_c_leaves_the_servers_run_alone() {
    let place = Place::new();
    let server = Running::serve(&place, &[]);
    let mut command = there(&place, &server, &["run", "content-creation-demo", "AI"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("● Research Step"), "{line}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let done = Done::from(child.wait_with_output().unwrap()).exits(130);
    assert!(done.stderr.contains("Detached; the run goes on: outlive watch "), "{}", done.stderr);
    Done::of(there(&place, &server, &["watch"])).exits(0);
    server.stop().exits(0);
}

#[test]
fn who_follows_through_a_kill_of_the_server_misses_nothing() {
    let place = Place::new();
    let mut server = Running::serve(&place, &[]);
    let address = server.url().trim_start_matches("http://").to_owned();
    let id = Done::of(there(&place, &server, &["run", "-d", "content-creation-demo", "AI"])).exits(0).stdout;
    let mut command = there(&place, &server, &["events", id.trim(), "-f", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = vec![lines.next().unwrap().unwrap()];
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let again = Running::start(&mut place.command(&["serve", "--addr", &address]));
    seen.extend(lines.map(Result::unwrap));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let stored = place.run(&["events", id.trim(), "--json"]).exits(0).stdout;
    assert_eq!(seen, stored.lines().collect::<Vec<_>>());
    assert!(seen.last().unwrap().contains("WorkflowCompleted"));
    again.stop().exits(0);
}
